//! Matrix products of 8-bit integers: MatMulInteger, QLinearMatMul, and QGemm, MatMulIntegerToFloat and
//! DynamicQuantizeMatMul of the domain com.microsoft.

use super::levels::{Code, Levels, fits, row_products};
use super::linear::dynamic_levels;
use crate::graph::params::{RuleError, broadcast};
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome, broadcast_indices};
use crate::host::elementwise::{each_row, zip};
use crate::host::number::round_float;
use crate::onnx::proto::data_type::{FLOAT, INT32, UINT8};

/// The sums of a product of matrices.
struct Sums {
    /// Batch, rows and columns.
    full: Vec<usize>,
    /// `full` without the axes that vectors do not have.
    dims: Vec<usize>,
    values: Vec<i32>,
}

/// The matrix product with the rules of NumPy's `matmul`.
fn multiply(call: &Call, a: &Levels, b: &Levels) -> Result<Sums, RuleError> {
    let wrong = || {
        RuleError::new(format!(
            "multiplies matrices of shapes {:?} and {:?}",
            a.dims, b.dims
        ))
    };
    let (a_batch, rows, depth) = match a.dims[..] {
        [] => return Err(wrong()),
        [depth] => (&[][..], 1, depth),
        [ref batch @ .., rows, depth] => (batch, rows, depth),
    };
    let (b_batch, b_depth, columns) = match b.dims[..] {
        [] => return Err(wrong()),
        [depth] => (&[][..], depth, 1),
        [ref batch @ .., depth, columns] => (batch, depth, columns),
    };
    if depth != b_depth {
        return Err(wrong());
    }
    let batch = broadcast(a_batch, b_batch)?;
    let full = [&batch[..], &[rows, columns]].concat();
    let mut dims = batch.clone();
    dims.extend((a.dims.len() > 1).then_some(rows));
    dims.extend((b.dims.len() > 1).then_some(columns));
    let mut values = vec![0; call.count(&full)?];
    if values.is_empty() {
        return Ok(Sums { full, dims, values });
    }
    let turned = turned(&b.values, depth, columns);
    let (a_size, b_size) = (rows * depth, depth * columns);
    let places = broadcast_indices(a_batch, &batch).into_iter();
    let places = places.zip(broadcast_indices(b_batch, &batch));
    for (index, (i, j)) in places.enumerate() {
        let out = &mut values[index * rows * columns..][..rows * columns];
        let left = &a.values[i * a_size..][..a_size];
        let right = &turned[j * b_size..][..b_size];
        row_products(left, right, depth, |row, column, sum| {
            out[row * columns + column] = sum;
        });
    }
    Ok(Sums { full, dims, values })
}

/// Matrices of `rows` by `columns`, each one transposed.
fn turned(values: &[i16], rows: usize, columns: usize) -> Vec<i16> {
    let mut out = Vec::with_capacity(values.len());
    if rows * columns != 0 {
        for matrix in values.chunks_exact(rows * columns) {
            for column in 0..columns {
                out.extend(matrix[column..].iter().step_by(columns));
            }
        }
    }
    out
}

/// The shape of a scale or zero point of a matrix, as it repeats over it: one number for all, or one
/// for each row.
fn by_row(parameter: &Array) -> Vec<usize> {
    match parameter.dims[..] {
        _ if parameter.len() == 1 => vec![],
        [rows] => vec![rows, 1],
        _ => parameter.dims.clone(),
    }
}

/// The same with one number for each column.
fn by_column(parameter: &Array) -> Vec<usize> {
    match parameter.len() {
        1 => vec![],
        _ => parameter.dims.clone(),
    }
}

fn left(x: &Array, zero: Option<&Array>) -> Result<Levels, RuleError> {
    Levels::new(x, zero, &zero.map_or(vec![], by_row))
}

fn right(x: &Array, zero: Option<&Array>) -> Result<Levels, RuleError> {
    Levels::new(x, zero, &zero.map_or(vec![], by_column))
}

/// A scale as float32 numbers and the shape in which it repeats over the sums.
struct Scales {
    dims: Vec<usize>,
    values: Vec<f32>,
}

impl Scales {
    fn new(array: &Array, dims: Vec<usize>) -> Result<Self, RuleError> {
        let values = array.floats()?.iter().map(|&v| v as f32).collect();
        Ok(Self { dims, values })
    }

    /// The combination of two scales.
    fn with(
        &self,
        other: &Self,
        call: &Call,
        f: impl Fn(f32, f32) -> f32,
    ) -> Result<Self, RuleError> {
        let dims = call.broadcast(&[&self.dims, &other.dims])?;
        let values = zip(
            &dims,
            (&self.values, &self.dims),
            (&other.values, &other.dims),
            f,
        );
        Ok(Self { dims, values })
    }
}

impl Sums {
    /// `f(sum, factor)` for every sum.
    fn scaled<R>(&self, scales: &Scales, f: impl Fn(i32, f32) -> R) -> Result<Vec<R>, RuleError> {
        if !fits(&scales.dims, &self.full) {
            return Err(RuleError::new(format!(
                "has scales of shape {:?} for a product of shape {:?}",
                scales.dims, self.full
            )));
        }
        let sums = (&*self.values, &*self.full);
        let scales = (&*scales.values, &*scales.dims);
        Ok(zip(&self.full, sums, scales, f))
    }

    /// The sums times their scales plus a bias for each column, of the floating-point type `kind`.
    fn floats(self, kind: i32, scales: &Scales, bias: Option<&Array>) -> Outcome {
        let mut values = self.scaled(scales, |sum, factor| f64::from(sum as f32 * factor))?;
        if let Some(bias) = bias {
            let columns = self.full.last().copied().unwrap_or_default();
            let bias_values = bias.floats()?;
            if bias_values.len() != columns {
                return Err(RuleError::new(format!(
                    "has a bias of shape {:?} for {columns} columns",
                    bias.dims
                )));
            }
            let repeated = bias_values.iter().cycle();
            values.iter_mut().zip(repeated).for_each(|(v, b)| *v += b);
        }
        Ok(vec![Array::float(kind, self.dims, values)])
    }
}

/// MatMulInteger: the sums themselves.
pub(super) fn integer(call: &Call) -> Outcome {
    let a = left(call.input(0)?, call.optional(2))?;
    let b = right(call.input(1)?, call.optional(3))?;
    let sums = multiply(call, &a, &b)?;
    Ok(vec![Array {
        data_type: INT32,
        dims: sums.dims,
        data: Data::Int(sums.values.iter().map(|&v| v.into()).collect()),
    }])
}

/// QLinearMatMul: the sums times the scales of both factors over that of the result, plus its zero
/// point.
pub(super) fn quantized(call: &Call) -> Outcome {
    let a = left(call.input(0)?, call.optional(2))?;
    let b = right(call.input(3)?, call.optional(5))?;
    let (a_scale, b_scale, y_scale) = (call.input(1)?, call.input(4)?, call.input(6)?);
    let y_zero = call.input(7)?;
    let sums = multiply(call, &a, &b)?;
    // A scale in half precision keeps the arithmetic on scales there.
    let kind = a_scale.data_type;
    let rounded = |value: f32| round_float(kind, f64::from(value)) as f32;
    let factors = Scales::new(a_scale, by_row(a_scale))?
        .with(&Scales::new(b_scale, by_column(b_scale))?, call, |a, b| {
            rounded(a * b)
        })?
        .with(&Scales::new(y_scale, by_row(y_scale))?, call, |ab, y| {
            rounded(ab / y)
        })?;
    let zeros_dims = by_row(y_zero);
    if !fits(&zeros_dims, &sums.full) || !fits(&factors.dims, &sums.full) {
        return Err(RuleError::new(format!(
            "has scales or zero points of shapes {:?} and {:?} for a product of shape {:?}",
            factors.dims, y_zero.dims, sums.full
        )));
    }
    let zeros = y_zero.ints()?;
    let code = Code::of_levels(y_zero.data_type)?;
    let mut levels = Vec::with_capacity(sums.values.len());
    each_row(
        &sums.full,
        [&sums.full, &factors.dims, &zeros_dims],
        |[sum, factor, zero], [_, factor_step, zero_step], length| {
            levels.extend((0..length).map(|offset| {
                let zero = zeros[zero + offset * zero_step];
                let factor = factors.values[factor + offset * factor_step];
                Code { zero, ..code }.requantize(sums.values[sum + offset], factor)
            }));
        },
    );
    Ok(vec![Array::int(y_zero.data_type, sums.dims, levels)])
}

/// com.microsoft MatMulIntegerToFloat.
pub(super) fn integer_to_float(call: &Call) -> Outcome {
    let a = left(call.input(0)?, call.optional(4))?;
    let b = right(call.input(1)?, call.optional(5))?;
    let (a_scale, b_scale) = (call.input(2)?, call.input(3)?);
    let scales = Scales::new(a_scale, by_row(a_scale))?.with(
        &Scales::new(b_scale, by_column(b_scale))?,
        call,
        |a, b| a * b,
    )?;
    multiply(call, &a, &b)?.floats(a_scale.data_type, &scales, call.optional(6))
}

/// com.microsoft DynamicQuantizeMatMul: the first factor is quantized over its own range.
pub(super) fn dynamic(call: &Call) -> Outcome {
    let (levels, code) = dynamic_levels(call.input(0)?)?;
    let zero = Array::int(UINT8, vec![], vec![code.zero]);
    let a = left(&levels, Some(&zero))?;
    let b = right(call.input(1)?, call.optional(3))?;
    let b_scale = call.input(2)?;
    let scales = Scales {
        dims: vec![],
        values: vec![code.scale],
    };
    let scales = scales.with(&Scales::new(b_scale, by_column(b_scale))?, call, |a, b| {
        a * b
    })?;
    multiply(call, &a, &b)?.floats(FLOAT, &scales, call.optional(4))
}

/// com.microsoft QGemm: alpha times the product of two matrices plus a bias in its scale; quantized
/// where an output scale is given.
pub(super) fn gemm(call: &Call) -> Outcome {
    let a = transposed(left(call.input(0)?, call.optional(2))?, call, "transA")?;
    let b = call.input(3)?;
    let b_turned = call.node.int("transB").unwrap_or(0) != 0;
    let zero = call.optional(5);
    let zero_dims = match zero {
        Some(zero) if b_turned => by_row(zero),
        Some(zero) => by_column(zero),
        None => vec![],
    };
    let b = transposed(Levels::new(b, zero, &zero_dims)?, call, "transB")?;
    let mut sums = multiply(call, &a, &b)?;
    if let Some(c) = call.optional(6) {
        if !fits(&c.dims, &sums.dims) {
            return Err(RuleError::new(format!(
                "adds a bias of shape {:?} to a product of shape {:?}",
                c.dims, sums.dims
            )));
        }
        let product = (&*sums.values, &*sums.dims);
        let add = |sum: i32, c: i64| sum.wrapping_add(c as i32);
        sums.values = zip(&sums.dims, product, (c.ints()?, &c.dims), add);
    }
    let alpha = call.node.float("alpha").unwrap_or(1.0);
    let (a_scale, b_scale) = (call.input(1)?, call.input(4)?);
    let scales = Scales::new(a_scale, by_row(a_scale))?.with(
        &Scales::new(b_scale, by_column(b_scale))?,
        call,
        |a, b| alpha * a * b,
    )?;
    if call.optional(7).is_none() {
        return sums.floats(FLOAT, &scales, None);
    }
    let code = Code::read(call, 7, 8, call.input(0)?.data_type)?;
    let levels = sums.scaled(&scales, |sum, factor| {
        code.requantize(sum, factor / code.scale)
    })?;
    Ok(vec![Array::int(code.kind, sums.dims, levels)])
}

/// A matrix, transposed where the attribute says so.
fn transposed(x: Levels, call: &Call, attribute: &str) -> Result<Levels, RuleError> {
    let [rows, columns] = x.dims[..] else {
        return Err(RuleError::new(format!(
            "multiplies a matrix of shape {:?}",
            x.dims
        )));
    };
    if call.node.int(attribute).unwrap_or(0) == 0 {
        return Ok(x);
    }
    Ok(Levels {
        dims: vec![columns, rows],
        values: turned(&x.values, rows, columns),
    })
}
