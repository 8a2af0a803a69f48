//! Elements in another order, repeated, cut out or joined.

use super::pick::{fits, one_int, permuted, product, room, sizes, steps, take, walk};
use crate::graph::params::{self, RuleError, broadcast, normalize_axis};
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome, around, broadcast_strides, strides};
use crate::onnx::dtype_name;

/// Transpose.
pub(super) fn transpose(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let order = params::permutation(call.node, input.dims.len())?;
    let dims = order.iter().map(|&axis| input.dims[axis]).collect();
    Ok(vec![permuted(call, input, &input.dims, &order, dims)?])
}

/// Expand.
pub(super) fn expand(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let dims = broadcast(&input.dims, &sizes(call.input(1)?)?)?;
    room(call, &dims)?;
    let offsets: Vec<_> = broadcast_strides(&input.dims, &dims)
        .into_iter()
        .zip(&dims)
        .map(|(stride, &size)| steps(size, stride))
        .collect();
    Ok(vec![take(call, input, dims, &walk(&offsets))?])
}

/// Tile.
pub(super) fn tile(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let repeats = sizes(call.input(1)?)?;
    if repeats.len() != input.dims.len() {
        return Err(RuleError::new(format!(
            "has {} repeats for {} axes",
            repeats.len(),
            input.dims.len()
        )));
    }
    let dims = input
        .dims
        .iter()
        .zip(&repeats)
        .map(|(&size, &repeat)| product(&[size, repeat]))
        .collect::<Result<Vec<_>, _>>()?;
    room(call, &dims)?;
    let offsets: Vec<_> = strides(&input.dims)
        .into_iter()
        .zip(input.dims.iter().zip(&dims))
        .map(|(stride, (&size, &count))| (0..count).map(|i| i % size * stride).collect())
        .collect();
    Ok(vec![take(call, input, dims, &walk(&offsets))?])
}

/// Slice.
pub(super) fn slice(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let ranges = call
        .params(|inputs| params::slicing(call.node, call.opset, inputs))?
        .ranges;
    let dims: Vec<_> = ranges.iter().map(|&(_, _, count)| count).collect();
    room(call, &dims)?;
    let offsets: Vec<_> = ranges
        .into_iter()
        .zip(strides(&input.dims))
        .map(|((start, step, count), stride)| {
            (0..count as i64)
                .map(|index| (start as i64 + index * step) as usize * stride)
                .collect()
        })
        .collect();
    Ok(vec![take(call, input, dims, &walk(&offsets))?])
}

/// Split.
pub(super) fn split(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let outputs = call.outputs() as i64;
    if let Some(count) = call.node.int("num_outputs").filter(|&c| c != outputs) {
        return Err(RuleError::new(format!(
            "has {outputs} outputs and a `num_outputs` of {count}"
        )));
    }
    let given = match call.node.ints("split") {
        Some(parts) => parts,
        None => call.optional(1).map_or(Ok(&[][..]), Array::ints)?,
    };
    // Larger parts fit no tensor that fits a machine, and their sum might overflow.
    if let Some(wrong) = given
        .iter()
        .find(|&&part| !(0..=input.len().max(1 << 32) as i64).contains(&part))
    {
        return Err(RuleError::new(format!("has a part of size {wrong}")));
    }
    let (axis, parts) = call.params(|inputs| params::splits(call.node, inputs))?;
    let [before, size, after] = around(&input.dims, axis);
    let mut start = 0;
    let mut results = Vec::with_capacity(parts.len());
    for part in parts {
        let mut dims = input.dims.clone();
        dims[axis] = part;
        room(call, &dims)?;
        let indices = walk(&[
            steps(before, size * after),
            (start * after..(start + part) * after).collect(),
        ]);
        results.push(take(call, input, dims, &indices)?);
        start += part;
    }
    Ok(results)
}

/// Concat.
pub(super) fn concat(call: &Call) -> Outcome {
    let first = call.input(0)?;
    let axis = call
        .node
        .int("axis")
        .ok_or_else(|| RuleError::new("has no `axis`"))?;
    let axis = normalize_axis(axis, first.dims.len())?;
    let mut parts = Vec::with_capacity(call.inputs.len());
    let mut dims = first.dims.clone();
    dims[axis] = 0;
    for index in 0..call.inputs.len() {
        let part = call.input(index)?;
        if part.data_type != first.data_type {
            return Err(RuleError::new(format!(
                "joins elements of type {} with {}",
                dtype_name(first.data_type),
                dtype_name(part.data_type)
            )));
        }
        let fits = part.dims.len() == dims.len()
            && (0..dims.len()).all(|k| k == axis || part.dims[k] == dims[k]);
        if !fits {
            return Err(RuleError::new(format!(
                "can't join {:?} with {:?} along axis {axis}",
                first.dims, part.dims
            )));
        }
        dims[axis] = dims[axis].saturating_add(part.dims[axis]);
        if !part.is_empty() {
            parts.push(part);
        }
    }
    room(call, &dims)?;
    let blocks = dims[..axis].iter().product();
    let data = match &first.data {
        Data::Float(_) => Data::Float(join(&all(&parts, Array::floats)?, blocks)),
        Data::Int(_) => Data::Int(join(&all(&parts, Array::ints)?, blocks)),
        Data::Text(_) => {
            let texts = all(&parts, Array::texts)?;
            fits(call, texts.iter().copied().flatten().map(Vec::len))?;
            Data::Text(join(&texts, blocks))
        }
    };
    Ok(vec![Array {
        data_type: first.data_type,
        dims,
        data,
    }])
}

fn all<'a, T>(
    parts: &[&'a Array],
    elements: fn(&'a Array) -> Result<&'a [T], RuleError>,
) -> Result<Vec<&'a [T]>, RuleError> {
    parts.iter().map(|part| elements(part)).collect()
}

/// The parts, each cut into as many `blocks`, block by block.
fn join<T: Clone>(parts: &[&[T]], blocks: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    for block in 0..blocks {
        for part in parts {
            let width = part.len() / blocks;
            out.extend_from_slice(&part[block * width..(block + 1) * width]);
        }
    }
    out
}

/// The batch, channels, height and width that DepthToSpace and SpaceToDepth work on, the size of
/// their blocks, and whether the channels stand before the places in a block (CRD) or after (DCR).
fn blocks(call: &Call) -> Result<([usize; 4], usize, bool), RuleError> {
    let dims = <[usize; 4]>::try_from(call.input(0)?.dims.as_slice())
        .map_err(|_| RuleError::new("needs an input of rank 4"))?;
    let block = call.node.int("blocksize").unwrap_or_default();
    let block = usize::try_from(block)
        .ok()
        .filter(|&block| block > 0)
        .ok_or_else(|| RuleError::new(format!("has a `blocksize` of {block}")))?;
    match call.node.text("mode") {
        None | Some("DCR") => Ok((dims, block, false)),
        Some("CRD") => Ok((dims, block, true)),
        Some(mode) => Err(call.unsupported(format!("has the mode {mode}"))),
    }
}

fn divided(size: usize, by: usize) -> Result<usize, RuleError> {
    if size.is_multiple_of(by) {
        return Ok(size / by);
    }
    Err(RuleError::new(format!(
        "has an axis of size {size}, no multiple of {by}"
    )))
}

/// DepthToSpace.
pub(super) fn depth_to_space(call: &Call) -> Outcome {
    let ([batch, channels, height, width], block, channels_first) = blocks(call)?;
    let depth = divided(channels, product(&[block, block])?)?;
    let out = vec![
        batch,
        depth,
        product(&[height, block])?,
        product(&[width, block])?,
    ];
    let (dims, order) = if channels_first {
        (
            [batch, depth, block, block, height, width],
            [0, 1, 4, 2, 5, 3],
        )
    } else {
        (
            [batch, block, block, depth, height, width],
            [0, 3, 4, 1, 5, 2],
        )
    };
    Ok(vec![permuted(call, call.input(0)?, &dims, &order, out)?])
}

/// SpaceToDepth.
pub(super) fn space_to_depth(call: &Call) -> Outcome {
    let ([batch, channels, height, width], block, channels_first) = blocks(call)?;
    let (rows, columns) = (divided(height, block)?, divided(width, block)?);
    let out = vec![batch, product(&[channels, block, block])?, rows, columns];
    room(call, &out)?;
    let dims = [batch, channels, rows, block, columns, block];
    let order = if channels_first {
        [0, 1, 3, 5, 2, 4]
    } else {
        [0, 3, 5, 1, 2, 4]
    };
    Ok(vec![permuted(call, call.input(0)?, &dims, &order, out)?])
}

/// ReverseSequence.
pub(super) fn reverse_sequence(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let &[outer, inner, ..] = input.dims.as_slice() else {
        return Err(RuleError::new("needs an input of rank 2 or more"));
    };
    let axis = |name: &str, default: i64| call.node.int(name).unwrap_or(default);
    let time_first = match (axis("time_axis", 0), axis("batch_axis", 1)) {
        (0, 1) => true,
        (1, 0) => false,
        (time, batch) => {
            return Err(RuleError::new(format!(
                "has time axis {time} and batch axis {batch}"
            )));
        }
    };
    let (times, batches) = if time_first {
        (outer, inner)
    } else {
        (inner, outer)
    };
    let lengths = sizes(call.input(1)?)?;
    if lengths.len() != batches || lengths.iter().any(|&length| length > times) {
        return Err(RuleError::new(format!(
            "has {} sequence lengths up to {} for {batches} sequences of {times}",
            lengths.len(),
            lengths.iter().max().unwrap_or(&0)
        )));
    }
    room(call, &input.dims)?;
    let width: usize = input.dims[2..].iter().product();
    let reversed = |time: usize, length: usize| {
        if time < length {
            length - 1 - time
        } else {
            time
        }
    };
    let mut indices = Vec::with_capacity(input.len());
    for i in 0..outer {
        for j in 0..inner {
            let row = if time_first {
                reversed(i, lengths[j]) * inner + j
            } else {
                i * inner + reversed(j, lengths[i])
            };
            indices.extend(row * width..(row + 1) * width);
        }
    }
    Ok(vec![take(call, input, input.dims.clone(), &indices)?])
}

/// The only element of the optional input `index`, an integer.
pub(super) fn optional_int(call: &Call, index: usize, name: &str) -> Result<i64, RuleError> {
    call.optional(index).map_or(Ok(0), |k| one_int(k, name))
}
