//! The largest, smallest or unique elements, and where they are.

use super::keys::{keys, number_keys};
use crate::graph::params::{RuleError, normalize_axis};
use crate::host::array::Array;
use crate::host::call::{Call, Outcome, around};
use crate::host::movement::{along, of_kind, one_int, room, take};

/// TopK. Where `sorted` is 0 the order is free; it is sorted all the same.
pub(super) fn top_k(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let axis = normalize_axis(call.node.int("axis").unwrap_or(-1), input.dims.len())?;
    let count = if call.opset < 10 {
        call.node
            .int("k")
            .ok_or_else(|| RuleError::new("has no `k`"))?
    } else {
        one_int(call.input(1)?, "K")?
    };
    let [before, size, after] = around(&input.dims, axis);
    let count = usize::try_from(count)
        .ok()
        .filter(|&count| count <= size)
        .ok_or_else(|| RuleError::new(format!("takes {count} of {size} elements")))?;
    let mut dims = input.dims.clone();
    dims[axis] = count;
    let total = room(call, &dims)?;
    let mut keys = number_keys(input)?;
    if call.node.int("largest").unwrap_or(1) != 0 {
        keys.iter_mut().for_each(|key| *key = !*key);
    }
    let mut places = vec![0; total];
    let mut indices = vec![0; total];
    let mut line = Vec::new();
    for outer in 0..before {
        for inner in 0..after {
            let place = |index: usize| (outer * size + index) * after + inner;
            line.clear();
            line.extend((0..size).map(|index| (keys[place(index)], index)));
            if 0 < count && count < size {
                line.select_nth_unstable(count - 1);
            }
            line.truncate(count);
            line.sort_unstable();
            for (rank, &(_, index)) in line.iter().enumerate() {
                let out = (outer * count + rank) * after + inner;
                places[out] = place(index);
                indices[out] = index as i64;
            }
        }
    }
    Ok(vec![
        take(call, input, dims.clone(), &places)?,
        Array::int64(dims, indices),
    ])
}

/// The index of the greatest of the keys along the middle of the axes `[before, size, after]`: the
/// first one, or the `last`.
fn greatest(
    keys: &[u64],
    [before, size, after]: [usize; 3],
    last: bool,
) -> Result<Vec<usize>, RuleError> {
    if size == 0 && before * after > 0 {
        return Err(RuleError::new("looks for the extreme of an empty axis"));
    }
    let mut out = Vec::with_capacity(before * after);
    for outer in 0..before {
        for inner in 0..after {
            let key = |index: usize| keys[(outer * size + index) * after + inner];
            let mut best = 0;
            for index in 1..size {
                let (old, new) = (key(best), key(index));
                if new > old || (last && new == old) {
                    best = index;
                }
            }
            out.push(best);
        }
    }
    Ok(out)
}

/// ArgMax and ArgMin.
pub(super) fn arg_extreme(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let axis = normalize_axis(call.node.int("axis").unwrap_or(0), input.dims.len())?;
    let mut dims = input.dims.clone();
    dims[axis] = 1;
    room(call, &dims)?;
    if call.node.int("keepdims").unwrap_or(1) == 0 {
        dims.remove(axis);
    }
    let mut keys = number_keys(input)?;
    if call.operator() == "ArgMin" {
        keys.iter_mut().for_each(|key| *key = !*key);
    }
    let last = call.node.int("select_last_index").unwrap_or(0) != 0;
    let found = greatest(&keys, around(&input.dims, axis), last)?;
    let found = found.into_iter().map(|index| index as i64).collect();
    Ok(vec![Array::int64(dims, found)])
}

/// Hardmax. Before operator set 13, all axes from `axis` on are taken as one.
pub(super) fn hardmax(call: &Call) -> Outcome {
    let input = call.input(0)?;
    room(call, &input.dims)?;
    input.floats()?;
    let default = if call.opset < 13 { 1 } else { -1 };
    let axis = call.node.int("axis").unwrap_or(default);
    let axis = normalize_axis(axis, input.dims.len())?;
    let [before, mut size, mut after] = around(&input.dims, axis);
    if call.opset < 13 {
        (size, after) = (size * after, 1);
    }
    let mut out = vec![0; input.len()];
    if !input.is_empty() {
        let found = greatest(&number_keys(input)?, [before, size, after], false)?;
        for (line, index) in found.into_iter().enumerate() {
            out[(line / after * size + index) * after + line % after] = 1;
        }
    }
    let dims = input.dims.clone();
    Ok(vec![of_kind(input.data_type, dims, out)?])
}

/// Unique, over elements or over the slices along an `axis`.
pub(super) fn unique(call: &Call) -> Outcome {
    let given = call.input(0)?;
    room(call, &given.dims)?;
    let flat = given.reshaped(vec![given.len()]);
    let (input, axis) = match call.node.int("axis") {
        Some(axis) => (given, normalize_axis(axis, given.dims.len())?),
        None => (&flat, 0),
    };
    let [before, size, after] = around(&input.dims, axis);
    let width = before * after;
    if width == 0 && size > 0 {
        return Err(call.unsupported("compares slices without elements"));
    }
    let elements = keys(input)?;
    let mut slices = Vec::with_capacity(elements.len());
    for index in 0..size {
        for outer in 0..before {
            let start = (outer * size + index) * after;
            slices.extend_from_slice(&elements[start..start + after]);
        }
    }
    let slice = |index: usize| &slices[index * width..(index + 1) * width];
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(|&a, &b| slice(a).cmp(slice(b)));
    let mut groups: Vec<&[usize]> = order.chunk_by(|&a, &b| slice(a) == slice(b)).collect();
    if call.node.int("sorted").unwrap_or(1) == 0 {
        groups.sort_unstable_by_key(|group| group[0]);
    }
    let firsts: Vec<usize> = groups.iter().map(|group| group[0]).collect();
    let mut inverse = vec![0; size];
    for (group, members) in groups.iter().enumerate() {
        for &member in *members {
            inverse[member] = group as i64;
        }
    }
    let counts = groups.iter().map(|group| group.len() as i64).collect();
    let mut dims = input.dims.clone();
    dims[axis] = firsts.len();
    let list = |values: Vec<i64>| Array::int64(vec![values.len()], values);
    Ok(vec![
        along(call, input, axis, &firsts, dims)?,
        list(firsts.iter().map(|&index| index as i64).collect()),
        list(inverse),
        list(counts),
    ])
}
