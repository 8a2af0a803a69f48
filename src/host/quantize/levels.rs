//! Quantized tensors as the integers that products and convolutions add up, and back.

use crate::graph::params::{RuleError, broadcast};
use crate::host::array::{Array, Data};
use crate::host::call::Call;
use crate::host::elementwise::each_row;
use crate::host::number::int_range;
use crate::onnx::dtype_name;
use crate::onnx::proto::data_type::{INT8, UINT8};

/// The numbers of an 8-bit tensor with its zero point taken off, which fit 9 bits and a sign.
pub(super) struct Levels {
    pub dims: Vec<usize>,
    pub values: Vec<i16>,
}

impl Levels {
    /// The levels of `x`; the zero point has the shape `zero_dims`, which broadcasts to that of `x`.
    pub fn new(x: &Array, zero: Option<&Array>, zero_dims: &[usize]) -> Result<Self, RuleError> {
        if !matches!(x.data_type, INT8 | UINT8) {
            return Err(RuleError::new(format!(
                "needs 8-bit integers, not elements of type {}",
                dtype_name(x.data_type)
            )));
        }
        let values = x.ints()?;
        let Some(zero) = zero else {
            let values = values.iter().map(|&v| v as i16).collect();
            let dims = x.dims.clone();
            return Ok(Self { dims, values });
        };
        let given = zero_dims.iter().product::<usize>() == zero.len();
        if zero.data_type != x.data_type || !given || !fits(zero_dims, &x.dims) {
            return Err(RuleError::new(format!(
                "has a zero point of type {} and shape {:?} for elements of type {} and shape {:?}",
                dtype_name(zero.data_type),
                zero.dims,
                dtype_name(x.data_type),
                x.dims
            )));
        }
        let zeros = zero.ints()?;
        let mut out = Vec::with_capacity(values.len());
        each_row(
            &x.dims,
            [&x.dims, zero_dims],
            |[i, z], [_, step], length| {
                let row = values.iter().skip(i).take(length).enumerate();
                out.extend(row.map(|(offset, &v)| (v - zeros[z + offset * step]) as i16));
            },
        );
        Ok(Self {
            dims: x.dims.clone(),
            values: out,
        })
    }
}

/// Whether a tensor of shape `small` repeats to one of shape `dims`.
pub(super) fn fits(small: &[usize], dims: &[usize]) -> bool {
    broadcast(small, dims).is_ok_and(|out| out == dims)
}

/// The products of each row of `a` with each row of `b`, all rows of length `depth`, given to
/// `put(row of a, row of b, product)`. Sums wrap as 32-bit integers do.
pub(super) fn row_products(
    a: &[i16],
    b: &[i16],
    depth: usize,
    mut put: impl FnMut(usize, usize, i32),
) {
    /// Rows of `b` that stay in the cache while those of `a` pass by.
    const TILE: usize = 64;
    if depth == 0 {
        return;
    }
    for (tile, rows) in b.chunks(TILE * depth).enumerate() {
        for (i, left) in a.chunks_exact(depth).enumerate() {
            for (j, right) in rows.chunks_exact(depth).enumerate() {
                put(i, tile * TILE + j, dot(left, right));
            }
        }
    }
}

fn dot(a: &[i16], b: &[i16]) -> i32 {
    a.iter().zip(b).fold(0i32, |sum, (&a, &b)| {
        sum.wrapping_add(i32::from(a) * i32::from(b))
    })
}

/// One scale and zero point for a whole 8-bit tensor: number = (level - zero) * scale.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code {
    /// The type of the levels.
    pub kind: i32,
    pub scale: f32,
    pub zero: i64,
}

impl Code {
    /// The code in the inputs `scale` and `zero`; without a zero point, it is 0 and of type `kind`.
    pub fn read(call: &Call, scale: usize, zero: usize, kind: i32) -> Result<Self, RuleError> {
        let scale = call.input(scale)?;
        let zero = call.optional(zero);
        if scale.len() != 1 || zero.is_some_and(|zero| zero.len() != 1) {
            return Err(RuleError::new(format!(
                "has a scale of shape {:?}, where it needs one number",
                scale.dims
            )));
        }
        Ok(Self {
            scale: scale.scalar()? as f32,
            zero: match zero {
                Some(zero) => zero.ints()?.first().copied().unwrap_or_default(),
                None => 0,
            },
            ..Self::of_levels(zero.map_or(kind, |zero| zero.data_type))?
        })
    }

    /// The code in which the levels of type `kind` are the numbers.
    pub fn of_levels(kind: i32) -> Result<Self, RuleError> {
        if !matches!(kind, INT8 | UINT8) {
            return Err(RuleError::new(format!(
                "has levels of type {}, not 8-bit integers",
                dtype_name(kind)
            )));
        }
        Ok(Self {
            kind,
            scale: 1.0,
            zero: 0,
        })
    }

    /// The number that `level` stands for.
    pub fn number(&self, level: i64) -> f64 {
        (level - self.zero) as f64 * f64::from(self.scale)
    }

    /// The elements of `x`, refused where they are not of the type of the levels.
    pub fn levels<'a>(&self, x: &'a Array) -> Result<&'a [i64], RuleError> {
        if x.data_type != self.kind {
            return Err(RuleError::new(format!(
                "has elements of type {} and a zero point of type {}",
                dtype_name(x.data_type),
                dtype_name(self.kind)
            )));
        }
        x.ints()
    }

    /// The numbers that the levels of `x` stand for.
    pub fn numbers(&self, x: &Array) -> Result<Vec<f64>, RuleError> {
        let levels = self.levels(x)?.iter();
        Ok(levels.map(|&level| self.number(level)).collect())
    }

    /// The level of a number that was divided by the scale already: to nearest, ties to even, then
    /// moved by the zero point and bounded.
    pub fn level(&self, quotient: f64) -> i64 {
        let (low, high) = int_range(self.kind);
        (quotient.round_ties_even() as i64)
            .saturating_add(self.zero)
            .clamp(low as i64, high as i64)
    }

    /// The level of a number, which is divided as float32.
    pub fn level_of(&self, value: f64) -> i64 {
        self.level(f64::from(value as f32 / self.scale))
    }

    /// The tensor of the levels of `values`.
    pub fn quantize(&self, dims: Vec<usize>, values: impl IntoIterator<Item = f64>) -> Array {
        let levels = values.into_iter().map(|value| self.level_of(value));
        Array::int(self.kind, dims, levels.collect())
    }

    /// The level of a sum times `factor`, as float32.
    pub fn requantize(&self, sum: i32, factor: f32) -> i64 {
        self.level(f64::from(sum as f32 * factor))
    }

    /// `x` with each level replaced by that of `f` of the number that it stands for here, in `to`.
    pub fn map(&self, x: &Array, to: &Code, f: impl Fn(f64) -> f64) -> Result<Array, RuleError> {
        let levels = self.levels(x)?;
        let (low, high) = int_range(self.kind);
        let (low, high) = (low as i64, high as i64);
        let table: Vec<i64> = (low..=high)
            .map(|level| to.level_of(f(self.number(level))))
            .collect();
        let values = levels.iter().map(|&level| table[(level - low) as usize]);
        Ok(Array {
            data_type: to.kind,
            dims: x.dims.clone(),
            data: Data::Int(values.collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_products_are_those_of_every_pair_of_rows() {
        let a: Vec<i16> = (0..6).collect();
        let b: Vec<i16> = (0..3 * 70).map(|v| v % 7 - 3).collect();
        let mut seen = 0;
        row_products(&a, &b, 3, |i, j, product| {
            let expected: i32 = (0..3).map(|k| i32::from(a[3 * i + k] * b[3 * j + k])).sum();
            assert_eq!(product, expected);
            seen += 1;
        });
        assert_eq!(seen, 140);
    }
}
