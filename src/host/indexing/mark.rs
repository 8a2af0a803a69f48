//! Elements marked by a condition or by their place.

use crate::graph::params::{RuleError, normalize_axis};
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome, around, strides};
use crate::host::movement::{along, of_kind, room, take};
use crate::onnx::proto::data_type;

/// NonZero; of a scalar, no indices but as many columns as it has elements that are not zero.
pub(super) fn non_zero(call: &Call) -> Outcome {
    let input = call.input(0)?;
    fn places<T>(values: &[T], marked: impl Fn(&T) -> bool) -> Vec<usize> {
        (0..values.len()).filter(|&i| marked(&values[i])).collect()
    }
    let places = match &input.data {
        Data::Float(values) => places(values, |&value| value != 0.0),
        Data::Int(values) => places(values, |&value| value != 0),
        Data::Text(values) => places(values, |value| !value.is_empty()),
    };
    let dims = vec![input.dims.len(), places.len()];
    room(call, &dims)?;
    let mut out = Vec::with_capacity(dims[0] * dims[1]);
    for (&size, stride) in input.dims.iter().zip(strides(&input.dims)) {
        out.extend(places.iter().map(|place| (place / stride % size) as i64));
    }
    Ok(vec![Array::int64(dims, out)])
}

/// Compress.
pub(super) fn compress(call: &Call) -> Outcome {
    let given = call.input(0)?;
    let flat;
    let (input, axis) = match call.node.int("axis") {
        Some(axis) => (given, normalize_axis(axis, given.dims.len())?),
        None => {
            flat = given.reshaped(vec![given.len()]);
            (&flat, 0)
        }
    };
    let condition = call.input(1)?.ints()?.iter();
    let kept: Vec<usize> = (0..input.dims[axis])
        .zip(condition)
        .filter_map(|(index, &chosen)| (chosen != 0).then_some(index))
        .collect();
    let mut dims = input.dims.clone();
    dims[axis] = kept.len();
    Ok(vec![along(call, input, axis, &kept, dims)?])
}

/// The elements cut to whole numbers.
fn whole(array: &Array) -> Result<Vec<i64>, RuleError> {
    Ok(match &array.data {
        Data::Float(values) => values.iter().map(|&value| value as i64).collect(),
        _ if array.data_type == data_type::UINT64 => {
            let cut = |&value: &i64| i64::try_from(value as u64).unwrap_or(i64::MAX);
            array.ints()?.iter().map(cut).collect()
        }
        _ => array.ints()?.to_vec(),
    })
}

/// OneHot.
pub(super) fn one_hot(call: &Call) -> Outcome {
    let (indices, values) = (call.input(0)?, call.input(2)?);
    let depth = whole(call.input(1)?)?;
    let depth = match depth[..] {
        [depth] => usize::try_from(depth).map_err(|_| RuleError::new("has a negative depth"))?,
        _ => return Err(RuleError::new("needs one depth")),
    };
    if values.len() != 2 {
        return Err(RuleError::new(format!("has {} values", values.len())));
    }
    let axis = call.node.int("axis").unwrap_or(-1);
    let axis = normalize_axis(axis, indices.dims.len() + 1)?;
    let mut dims = indices.dims.clone();
    dims.insert(axis, depth);
    let mut chosen = vec![0; room(call, &dims)?];
    let after = around(&dims, axis)[2];
    for (place, index) in whole(indices)?.into_iter().enumerate() {
        let from_front = if index < 0 {
            index.saturating_add_unsigned(depth as u64)
        } else {
            index
        };
        if let Some(hot) = usize::try_from(from_front).ok().filter(|&hot| hot < depth) {
            chosen[(place / after * depth + hot) * after + place % after] = 1;
        }
    }
    Ok(vec![take(call, values, dims, &chosen)?])
}

/// EyeLike.
pub(super) fn eye_like(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let &[rows, columns] = input.dims.as_slice() else {
        return Err(RuleError::new("needs an input of rank 2"));
    };
    let kind = match call.node.int("dtype") {
        Some(kind) => kind as i32,
        None => input.data_type,
    };
    let diagonal = call.node.int("k").unwrap_or(0);
    let mut out = vec![0; room(call, &input.dims)?];
    for row in 0..rows {
        let column = (row as i64).saturating_add(diagonal);
        if let Some(column) = usize::try_from(column).ok().filter(|&c| c < columns) {
            out[row * columns + column] = 1;
        }
    }
    Ok(vec![of_kind(kind, input.dims.clone(), out)?])
}
