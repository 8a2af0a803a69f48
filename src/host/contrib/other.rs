//! Contributed operators of no family.

use super::standard::Standard;
use crate::graph::params::{RuleError, normalize_axis};
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome, broadcast_indices};

/// Operators that ONNX has taken up since as they were.
pub fn renamed(call: &Call) -> Outcome {
    let mut node = Standard::new(call.operator()).opset(17);
    for index in 0..call.inputs.len() {
        node = node.optional(call.optional(index).cloned());
    }
    let names = ["upper", "mode", "align_corners", "padding_mode"];
    node.like(call, &names).all(call)
}

fn one(call: &Call, index: usize) -> Result<Array, RuleError> {
    let array = call.input(index)?;
    if array.len() != 1 {
        return Err(RuleError::new(format!(
            "has a value of shape {:?} as input {index}, needs one element",
            array.dims
        )));
    }
    Ok(array.reshaped(vec![]))
}

/// Range, whose step is 1 where it is left out.
pub fn range(call: &Call) -> Outcome {
    let start = one(call, 0)?;
    let step = match call.optional(2) {
        Some(_) => one(call, 2)?,
        None => match start.data {
            Data::Float(_) => start.with(vec![], Data::Float(vec![1.0])),
            _ => start.with(vec![], Data::Int(vec![1])),
        },
    };
    Standard::new("Range")
        .input(start)
        .input(one(call, 1)?)
        .input(step)
        .all(call)
}

/// ExpandDims: an axis of size 1 at `axis`.
pub fn expand_dims(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let axis = one(call, 1)?.ints()?.first().copied().unwrap_or(0);
    let mut dims = x.dims.clone();
    dims.insert(normalize_axis(axis, dims.len() + 1)?, 1);
    Ok(vec![x.reshaped(dims)])
}

/// Unique in order of appearance: values, the index of each element's value, and counts.
pub fn unique(call: &Call) -> Outcome {
    let results = Standard::new("Unique")
        .input(call.input(0)?.clone())
        .int("sorted", 0)
        .outputs(4)
        .all(call)?;
    let mut results = results.into_iter();
    match (results.next(), results.nth(1), results.next()) {
        (Some(values), Some(inverse), Some(counts)) => Ok(vec![values, inverse, counts]),
        _ => Err(RuleError::new("has a part without a result")),
    }
}

/// Inverse of every matrix of a batch, by Gauss-Jordan elimination with partial pivoting; a
/// singular matrix gives no finite result.
pub fn inverse(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let size = match x.dims.as_slice() {
        [.., rows, columns] if rows == columns => *rows,
        dims => {
            return Err(RuleError::new(format!(
                "has a value of shape {dims:?}, needs square matrices"
            )));
        }
    };
    let mut result = Vec::with_capacity(x.len());
    if !x.is_empty() {
        for matrix in x.floats()?.chunks(size * size) {
            result.extend(inverted(matrix, size));
        }
    }
    Ok(vec![x.with(x.dims.clone(), Data::Float(result))])
}

fn inverted(matrix: &[f64], size: usize) -> Vec<f64> {
    let mut left = matrix.to_vec();
    let mut right = vec![0.0; size * size];
    for index in 0..size {
        right[index * size + index] = 1.0;
    }
    for column in 0..size {
        let height = |row: &usize| left[row * size + column].abs();
        let pivot = (column..size)
            .max_by(|a, b| height(a).total_cmp(&height(b)))
            .unwrap_or(column);
        for side in [&mut left, &mut right] {
            for k in 0..size {
                side.swap(pivot * size + k, column * size + k);
            }
        }
        let scale = 1.0 / left[column * size + column];
        for side in [&mut left, &mut right] {
            side[column * size..][..size]
                .iter_mut()
                .for_each(|v| *v *= scale);
        }
        for row in (0..size).filter(|&row| row != column) {
            let factor = left[row * size + column];
            for side in [&mut left, &mut right] {
                for k in 0..size {
                    side[row * size + k] -= factor * side[column * size + k];
                }
            }
        }
    }
    right
}

/// CDist: distances between all pairs of rows, `euclidean` or `sqeuclidean`.
pub fn distances(call: &Call) -> Outcome {
    let (a, b) = (call.input(0)?, call.input(1)?);
    let (&[rows, width], &[columns, other]) = (a.dims.as_slice(), b.dims.as_slice()) else {
        return Err(RuleError::new("needs two matrices"));
    };
    if width != other {
        return Err(RuleError::new(format!(
            "has rows of {width} and {other} elements"
        )));
    }
    let root = match call.node.text("metric").unwrap_or("sqeuclidean") {
        "euclidean" => true,
        "sqeuclidean" => false,
        metric => return Err(call.unsupported(format_args!("has the metric `{metric}`"))),
    };
    let dims = vec![rows, columns];
    let mut result = vec![0.0; call.count(&dims)?];
    if width > 0 && columns > 0 {
        let (a, b) = (a.floats()?, b.floats()?);
        for (row, out) in a.chunks(width).zip(result.chunks_mut(columns)) {
            for (other, distance) in b.chunks(width).zip(out) {
                let square: f64 = row.iter().zip(other).map(|(x, y)| (x - y) * (x - y)).sum();
                *distance = if root { square.sqrt() } else { square };
            }
        }
    }
    Ok(vec![a.with(dims, Data::Float(result))])
}

/// ComplexMul and, with a `sign` of -1, ComplexMulConj: products of complex numbers whose two parts
/// are the last axis; the second factor is conjugated.
pub fn complex_mul(call: &Call, sign: f64) -> Outcome {
    let (a, b) = (call.input(0)?, call.input(1)?);
    let lead = |array: &Array| match array.dims.as_slice() {
        [lead @ .., 2] => Ok(lead.to_vec()),
        dims => Err(RuleError::new(format!(
            "has a value of shape {dims:?}, needs a last axis of 2"
        ))),
    };
    let (lead_a, lead_b) = (lead(a)?, lead(b)?);
    let mut dims = call.broadcast(&[&lead_a, &lead_b])?;
    let places = broadcast_indices(&lead_a, &dims)
        .into_iter()
        .zip(broadcast_indices(&lead_b, &dims));
    let (x, y) = (a.floats()?, b.floats()?);
    let mut result = Vec::with_capacity(2 * places.len());
    for (i, j) in places {
        let (real, imaginary) = (x[2 * i], x[2 * i + 1]);
        let (other, turn) = (y[2 * j], sign * y[2 * j + 1]);
        result.push(real * other - imaginary * turn);
        result.push(real * turn + imaginary * other);
    }
    dims.push(2);
    Ok(vec![a.with(dims, Data::Float(result))])
}

/// IsAllFinite: whether no input has an infinity or NaN, or only one of the two kinds.
pub fn is_all_finite(call: &Call) -> Outcome {
    let set = |name: &str| call.node.int(name).unwrap_or(0) != 0;
    let (only_infinite, only_nan) = (set("isinf_only"), set("isnan_only"));
    let mut finite = true;
    for index in 0..call.inputs.len() {
        finite &= !call
            .input(index)?
            .floats()?
            .iter()
            .any(|v| (v.is_infinite() && !only_nan) || (v.is_nan() && !only_infinite));
    }
    Ok(vec![Array::bools(vec![], [finite])])
}
