//! Elements at given indices, and where such indices point.

use crate::graph::params::{RuleError, normalize_axis};
use crate::host::array::Array;
use crate::host::call::{Call, Outcome, strides};
use crate::host::movement::{along, position, room, steps, take, walk};

/// Gather.
pub(super) fn gather(call: &Call) -> Outcome {
    let (data, indices) = (call.input(0)?, call.input(1)?);
    let axis = normalize_axis(call.node.int("axis").unwrap_or(0), data.dims.len())?;
    let places = indices
        .ints()?
        .iter()
        .map(|&index| position(index, data.dims[axis]))
        .collect::<Result<Vec<_>, _>>()?;
    let dims = [&data.dims[..axis], &indices.dims, &data.dims[axis + 1..]].concat();
    Ok(vec![along(call, data, axis, &places, dims)?])
}

/// GatherElements.
pub(super) fn gather_elements(call: &Call) -> Outcome {
    let (data, indices) = (call.input(0)?, call.input(1)?);
    let places = element_places(call, &data.dims, indices)?;
    Ok(vec![take(call, data, indices.dims.clone(), &places)?])
}

/// The flat index in a tensor of shape `dims` to which each of the `indices` of GatherElements or
/// ScatterElements points: along the attribute `axis` to itself, along the others to its own place.
pub(super) fn element_places(
    call: &Call,
    dims: &[usize],
    indices: &Array,
) -> Result<Vec<usize>, RuleError> {
    let axis = normalize_axis(call.node.int("axis").unwrap_or(0), dims.len())?;
    let inside = indices.dims.len() == dims.len()
        && (0..dims.len()).all(|k| k == axis || indices.dims[k] <= dims[k]);
    if !inside {
        return Err(RuleError::new(format!(
            "has indices of shape {:?} into {dims:?} along axis {axis}",
            indices.dims
        )));
    }
    room(call, &indices.dims)?;
    let strides = strides(dims);
    let offsets: Vec<_> = (0..dims.len())
        .map(|k| steps(indices.dims[k], if k == axis { 0 } else { strides[k] }))
        .collect();
    walk(&offsets)
        .into_iter()
        .zip(indices.ints()?)
        .map(|(start, &index)| Ok(start + position(index, dims[axis])? * strides[axis]))
        .collect()
}

/// GatherND.
pub(super) fn gather_nd(call: &Call) -> Outcome {
    let (data, indices) = (call.input(0)?, call.input(1)?);
    let batch = call.node.int("batch_dims").unwrap_or(0);
    let batch = usize::try_from(batch)
        .map_err(|_| RuleError::new(format!("has a `batch_dims` of {batch}")))?;
    let slices = Slices::of(call, &data.dims, indices, batch)?;
    let places = slices.places();
    Ok(vec![take(call, data, slices.dims, &places)?])
}

/// The slices to which the indices of GatherND or ScatterND point.
pub(super) struct Slices {
    /// Flat index of the first element of each.
    starts: Vec<usize>,
    /// Number of elements of each.
    width: usize,
    /// Shape of all of them together.
    pub dims: Vec<usize>,
}

impl Slices {
    /// Slices of a tensor of shape `dims`; the first `batch` axes of both are the same.
    pub fn of(
        call: &Call,
        dims: &[usize],
        indices: &Array,
        batch: usize,
    ) -> Result<Self, RuleError> {
        let wrong = || {
            RuleError::new(format!(
                "has indices of shape {:?} into {dims:?} with {batch} axes in common",
                indices.dims
            ))
        };
        let (&depth, tuple_dims) = indices.dims.split_last().ok_or_else(wrong)?;
        let (shared, rest) = dims.split_at_checked(batch).ok_or_else(wrong)?;
        let (indexed, slice_dims) = rest.split_at_checked(depth).ok_or_else(wrong)?;
        if tuple_dims.get(..batch) != Some(shared) {
            return Err(wrong());
        }
        let out = [tuple_dims, slice_dims].concat();
        room(call, &out)?;
        let strides = strides(dims);
        let batch_width = rest.iter().product::<usize>();
        let tuples_per_batch: usize = tuple_dims[batch..].iter().product();
        let values = indices.ints()?;
        let mut starts = Vec::with_capacity(tuple_dims.iter().product());
        for tuple in 0..tuple_dims.iter().product::<usize>() {
            let mut start = tuple / tuples_per_batch * batch_width;
            let tuple = values[tuple * depth..(tuple + 1) * depth].iter();
            for ((&index, &size), &stride) in tuple.zip(indexed).zip(&strides[batch..]) {
                start += position(index, size)? * stride;
            }
            starts.push(start);
        }
        Ok(Self {
            starts,
            width: slice_dims.iter().product(),
            dims: out,
        })
    }

    /// The flat indices of all their elements.
    pub fn places(&self) -> Vec<usize> {
        walk(&[self.starts.clone(), steps(self.width, 1)])
    }
}

/// ArrayFeatureExtractor (`ai.onnx.ml`): the elements at `indices` along the last axis.
pub(super) fn array_feature_extractor(call: &Call) -> Outcome {
    let (x, indices) = (call.input(0)?, call.input(1)?.ints()?);
    let Some((&width, rest)) = x.dims.split_last() else {
        return Err(RuleError::new("needs an input with an axis"));
    };
    let rows: usize = rest.iter().product();
    let mut dims = if rest.is_empty() {
        vec![1]
    } else {
        rest.to_vec()
    };
    dims.push(indices.len());
    call.count(&dims)?;
    let mut sources = Vec::with_capacity(rows * indices.len());
    for row in 0..rows {
        for &index in indices {
            let place = usize::try_from(index).ok().filter(|&place| place < width);
            let place =
                place.ok_or_else(|| RuleError::new(format!("takes element {index} of {width}")))?;
            sources.push(row * width + place);
        }
    }
    Ok(vec![take(call, x, dims, &sources)?])
}
