//! QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear.

use std::ops::Range;

use super::levels::Code;
use crate::graph::params::{RuleError, normalize_axis};
use crate::host::array::{Array, Data, is_float, is_int};
use crate::host::call::{Call, Outcome, around};
use crate::host::elementwise::to_float;
use crate::host::number::{int_bits, int_range, round_float};
use crate::onnx::dtype_name;
use crate::onnx::proto::data_type::{self, FLOAT, UINT8};

/// How the scales are shared out over the elements of a tensor.
enum Sharing {
    /// One scale for all of so many elements.
    Tensor(usize),
    /// One scale for each place along an axis: `[before, axis, after]`.
    Axis([usize; 3]),
    /// One scale for each `block` places along an axis: `[before, axis, after]`.
    Blocks([usize; 3], usize),
}

impl Sharing {
    fn of(call: &Call, x: &Array, scale: &Array) -> Result<Self, RuleError> {
        let block = call.node.int("block_size").unwrap_or(0);
        if scale.len() == 1 && (block == 0 || scale.dims.len() <= 1) {
            return Ok(Self::Tensor(x.len()));
        }
        let axis = normalize_axis(call.node.int("axis").unwrap_or(1), x.dims.len())?;
        let sizes = around(&x.dims, axis);
        let wrong = || {
            RuleError::new(format!(
                "has a scale of shape {:?} for an input of shape {:?}, axis {axis} and blocks of {block}",
                scale.dims, x.dims
            ))
        };
        let block = usize::try_from(block).map_err(|_| wrong())?;
        if block == 0 {
            return match scale.dims[..] {
                [count] if count == x.dims[axis] => Ok(Self::Axis(sizes)),
                _ => Err(wrong()),
            };
        }
        let mut blocks = x.dims.clone();
        blocks[axis] = blocks[axis].div_ceil(block);
        if scale.dims != blocks {
            return Err(wrong());
        }
        Ok(Self::Blocks(sizes, block))
    }

    /// Calls `run(elements, scale, step)` for runs of elements in order; the first element of a run
    /// has the scale of that index, the following ones those `step` further on.
    fn each_run(&self, mut run: impl FnMut(Range<usize>, usize, usize)) {
        match *self {
            Self::Tensor(count) => run(0..count, 0, 0),
            Self::Axis([before, size, 1]) => {
                (0..before).for_each(|b| run(b * size..(b + 1) * size, 0, 1));
            }
            Self::Axis([before, size, after]) => (0..before * size)
                .for_each(|row| run(row * after..(row + 1) * after, row % size, 0)),
            Self::Blocks([before, size, after], block) => {
                let blocks = size.div_ceil(block);
                for row in 0..before * size {
                    let first = (row / size * blocks + row % size / block) * after;
                    run(row * after..(row + 1) * after, first, 1);
                }
            }
        }
    }

    /// `f(element, scale index)` for every element.
    fn map<R>(&self, count: usize, mut f: impl FnMut(usize, usize) -> R) -> Vec<R> {
        let mut out = Vec::with_capacity(count);
        self.each_run(|elements, scale, step| {
            let elements = elements.enumerate();
            out.extend(elements.map(|(offset, element)| f(element, scale + offset * step)));
        });
        out
    }
}

/// A type that an attribute names; `None` where it is absent or 0.
fn named_type(call: &Call, name: &str) -> Result<Option<i32>, RuleError> {
    match call.node.int(name) {
        None | Some(0) => Ok(None),
        Some(kind) => i32::try_from(kind)
            .ok()
            .filter(|&kind| is_float(kind) || is_int(kind))
            .map(Some)
            .ok_or_else(|| call.unsupported(format!("has the `{name}` {kind}"))),
    }
}

fn checked_zero<'a>(
    call: &Call<'a>,
    scale: &Array,
    kind: Option<i32>,
) -> Result<Option<&'a Array>, RuleError> {
    let zero = call.optional(2);
    if let Some(zero) = zero
        && (zero.len() != scale.len() || kind.is_some_and(|kind| kind != zero.data_type))
    {
        return Err(RuleError::new(format!(
            "has a zero point of type {} and shape {:?}, which fits neither scale nor levels",
            dtype_name(zero.data_type),
            zero.dims
        )));
    }
    Ok(zero)
}

/// QuantizeLinear: x / scale, rounded to nearest with ties to even, plus the zero point, saturated.
pub(super) fn quantize(call: &Call) -> Outcome {
    use data_type::*;
    let (x, scale) = (call.input(0)?, call.input(1)?);
    let named = named_type(call, "output_dtype")?;
    let zero = checked_zero(call, scale, named)?;
    let kind = named.or(zero.map(|z| z.data_type)).unwrap_or(UINT8);
    let precision = match named_type(call, "precision")? {
        Some(precision) => precision,
        None if matches!(scale.data_type, FLOAT16 | BFLOAT16 | DOUBLE) => scale.data_type,
        None => FLOAT,
    };
    let sharing = Sharing::of(call, x, scale)?;
    let (values, scales) = (x.numbers()?, scale.numbers()?);
    let quotient =
        |element: usize, scale: usize| round_float(precision, values[element] / scales[scale]);
    let dims = x.dims.clone();
    Ok(vec![match kind {
        _ if is_int(kind) && int_bits(kind).0 <= 16 => {
            let (low, high) = int_range(kind);
            let zeros = zero.map(Array::ints).transpose()?;
            let levels = sharing.map(values.len(), |element, scale| {
                (quotient(element, scale).round_ties_even() as i64)
                    .saturating_add(zeros.map_or(0, |zeros| zeros[scale]))
                    .clamp(low as i64, high as i64)
            });
            Array::int(kind, dims, levels)
        }
        FLOAT8E4M3FN | FLOAT8E4M3FNUZ | FLOAT8E5M2 | FLOAT8E5M2FNUZ | FLOAT4E2M1 => {
            let saturate = call.node.int("saturate").unwrap_or(1) != 0;
            let zeros = zero.map(Array::floats).transpose()?;
            let levels = sharing.map(values.len(), |element, scale| {
                let moved = quotient(element, scale) + zeros.map_or(0.0, |zeros| zeros[scale]);
                to_float(kind, moved, saturate)
            });
            Array::float(kind, dims, levels)
        }
        _ => return Err(call.unsupported(format!("quantizes to {}", dtype_name(kind)))),
    }])
}

/// DequantizeLinear: (x - zero point) * scale.
pub(super) fn dequantize(call: &Call) -> Outcome {
    let (x, scale) = (call.input(0)?, call.input(1)?);
    let zero = checked_zero(call, scale, Some(x.data_type))?;
    let kind = named_type(call, "output_dtype")?.unwrap_or(scale.data_type);
    if !is_float(kind) || kind == data_type::FLOAT8E8M0 {
        return Err(call.unsupported(format!("dequantizes to {}", dtype_name(kind))));
    }
    let sharing = Sharing::of(call, x, scale)?;
    let scales = scale.numbers()?;
    let zeros = match zero {
        Some(zero) => zero.numbers()?,
        None => vec![0.0; scales.len()],
    };
    let values = match &x.data {
        Data::Int(levels) => sharing.map(levels.len(), |element, scale| {
            (levels[element] as f64 - zeros[scale]) * scales[scale]
        }),
        _ => {
            let levels = x.floats()?;
            sharing.map(levels.len(), |element, scale| {
                (levels[element] - zeros[scale]) * scales[scale]
            })
        }
    };
    Ok(vec![Array::float(kind, x.dims.clone(), values)])
}

/// DynamicQuantizeLinear: levels of type uint8 over the range of the elements and zero.
pub(super) fn dynamic_quantize(call: &Call) -> Outcome {
    let x = call.input(0)?;
    if x.data_type != FLOAT {
        return Err(call.unsupported(format!("quantizes {}", dtype_name(x.data_type))));
    }
    let (levels, code) = dynamic_levels(x)?;
    let scale = Array::float(FLOAT, vec![], vec![f64::from(code.scale)]);
    let zero = Array::int(UINT8, vec![], vec![code.zero]);
    Ok(vec![levels, scale, zero])
}

/// The levels of float32 numbers over their own range, and the code of that range.
pub(super) fn dynamic_levels(x: &Array) -> Result<(Array, Code), RuleError> {
    let values = x.floats()?;
    let low = values.iter().copied().fold(0.0, f64::min) as f32;
    let high = values.iter().copied().fold(0.0, f64::max) as f32;
    let scale = match high - low {
        0.0 => 1.0,
        range => range / 255.0,
    };
    let zero = (-low / scale).clamp(0.0, 255.0).round_ties_even();
    let code = Code {
        kind: UINT8,
        scale,
        zero: zero as i64,
    };
    let levels = values
        .iter()
        .map(|&v| code.level(f64::from(v as f32 / scale)));
    Ok((Array::int(UINT8, x.dims.clone(), levels.collect()), code))
}
