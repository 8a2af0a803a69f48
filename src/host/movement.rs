//! Operators that only move elements or describe a tensor's shape: reshaping, transposing, slicing,
//! joining, padding. Elements of every type go through one function, [`take`].

mod arrange;
mod border;
mod pick;

use super::Array;
use super::call::{Call, Outcome};
use crate::graph::params;

pub(crate) use pick::OUT_OF_RANGE;
pub(super) use pick::{along, of_kind, one_int, position, room, ruled, sizes, steps, take, walk};

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    let rule: fn(&Call) -> Outcome = match call.operator() {
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => reshape,
        "Shape" => shape,
        "Size" => size,
        "Transpose" => arrange::transpose,
        "Expand" => arrange::expand,
        "Tile" => arrange::tile,
        "Concat" => arrange::concat,
        "Split" => arrange::split,
        "Slice" => arrange::slice,
        "DepthToSpace" => arrange::depth_to_space,
        "SpaceToDepth" => arrange::space_to_depth,
        "ReverseSequence" => arrange::reverse_sequence,
        "Pad" => border::pad,
        "CenterCropPad" => border::center_crop_pad,
        "Trilu" => border::trilu,
        _ => return None,
    };
    Some(ruled(call, rule))
}

/// Reshape, Flatten, Squeeze and Unsqueeze.
fn reshape(call: &Call) -> Outcome {
    let listed = call.node.ints("axes").map_or(0, <[i64]>::len);
    pick::few_axes(listed.max(call.optional(1).map_or(0, Array::len)))?;
    let dims = call.params(|inputs| params::reshaped(call.node, call.opset, inputs))?;
    room(call, &dims)?;
    Ok(vec![call.input(0)?.reshaped(dims)])
}

/// Shape; from operator set 15 on, only of the axes from `start` to `end`.
fn shape(call: &Call) -> Outcome {
    let dims = &call.input(0)?.dims;
    let rank = dims.len() as i64;
    let bound = |name: &str, default: i64| {
        let axis = call.node.int(name).unwrap_or(default);
        let axis = if axis < 0 { axis + rank } else { axis };
        axis.clamp(0, rank) as usize
    };
    let (start, end) = (bound("start", 0), bound("end", rank));
    let sizes: Vec<i64> = dims
        .get(start..end)
        .unwrap_or_default()
        .iter()
        .map(|&size| size as i64)
        .collect();
    Ok(vec![Array::int64(vec![sizes.len()], sizes)])
}

/// Size.
fn size(call: &Call) -> Outcome {
    Ok(vec![Array::int64(
        vec![],
        vec![call.input(0)?.len() as i64],
    )])
}
