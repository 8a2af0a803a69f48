//! Elements written to given indices.

use super::gather::{Slices, element_places};
use crate::graph::params::{RuleError, normalize_axis};
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome, around};
use crate::host::movement::sizes;
use crate::host::reduction::Fold;
use crate::onnx::dtype_name;

/// ScatterElements, and Scatter, its first name.
pub(super) fn scatter_elements(call: &Call) -> Outcome {
    let (data, indices, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
    if updates.dims != indices.dims {
        return Err(RuleError::new(format!(
            "has updates of shape {:?} for indices of shape {:?}",
            updates.dims, indices.dims
        )));
    }
    let places = element_places(call, &data.dims, indices)?;
    Ok(vec![written(data, updates, &places, fold(call)?)?])
}

/// ScatterND.
pub(super) fn scatter_nd(call: &Call) -> Outcome {
    let (data, indices, updates) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let slices = Slices::of(call, &data.dims, indices, 0)?;
    if updates.dims != slices.dims {
        return Err(RuleError::new(format!(
            "has updates of shape {:?} for slices of shape {:?}",
            updates.dims, slices.dims
        )));
    }
    Ok(vec![written(data, updates, &slices.places(), fold(call)?)?])
}

/// How an update joins what it meets; `None` where it replaces it.
fn fold(call: &Call) -> Result<Option<Fold>, RuleError> {
    match call.node.text("reduction") {
        None | Some("none") => Ok(None),
        Some("add") => Ok(Some(Fold::Add)),
        Some("mul") => Ok(Some(Fold::Multiply)),
        Some("max") => Ok(Some(Fold::Max)),
        Some("min") => Ok(Some(Fold::Min)),
        Some(other) => Err(call.unsupported(format!("has the reduction {other}"))),
    }
}

/// `data` with the `updates` at `places`, one after the other.
fn written(
    data: &Array,
    updates: &Array,
    places: &[usize],
    fold: Option<Fold>,
) -> Result<Array, RuleError> {
    if updates.data_type != data.data_type {
        return Err(RuleError::new(format!(
            "writes elements of type {} among {}",
            dtype_name(updates.data_type),
            dtype_name(data.data_type)
        )));
    }
    let kind = data.data_type;
    let values = match &data.data {
        Data::Float(values) => Data::Float(write(values, updates.floats()?, places, |old, new| {
            fold.map_or(*new, |fold| fold.float(*old, *new))
        })),
        Data::Int(values) => Data::Int(write(values, updates.ints()?, places, |old, new| {
            fold.map_or(*new, |fold| fold.int(kind, *old, *new))
        })),
        Data::Text(values) => {
            // Adding strings joins them, as in onnxruntime.
            let joined = match fold {
                None => false,
                Some(Fold::Add) => true,
                Some(_) => {
                    return Err(RuleError::new("reduces strings by another way than adding"));
                }
            };
            Data::Text(write(values, updates.texts()?, places, |old, new| {
                if joined {
                    [old.as_slice(), new].concat()
                } else {
                    new.clone()
                }
            }))
        }
    };
    Ok(data.with(data.dims.clone(), values))
}

fn write<T: Clone>(
    values: &[T],
    updates: &[T],
    places: &[usize],
    join: impl Fn(&T, &T) -> T,
) -> Vec<T> {
    let mut out = values.to_vec();
    for (&place, new) in places.iter().zip(updates) {
        if let Some(old) = out.get_mut(place) {
            *old = join(old, new);
        }
    }
    out
}

/// TensorScatter: updates of a cache, from an index of their own for each sample of the batch on.
pub(super) fn tensor_scatter(call: &Call) -> Outcome {
    let (cache, updates) = (call.input(0)?, call.input(1)?);
    let axis = normalize_axis(call.node.int("axis").unwrap_or(-2), cache.dims.len())?;
    if axis == 0 {
        return Err(RuleError::new("has the batch as its `axis`"));
    }
    let fitting = updates.dims.len() == cache.dims.len()
        && (0..cache.dims.len()).all(|k| match k == axis {
            true => updates.dims[k] <= cache.dims[k],
            false => updates.dims[k] == cache.dims[k],
        });
    if !fitting {
        return Err(RuleError::new(format!(
            "has updates of shape {:?} for a cache of shape {:?}",
            updates.dims, cache.dims
        )));
    }
    if updates.is_empty() {
        return Ok(vec![cache.clone()]);
    }
    let batch = cache.dims[0];
    let starts = call.optional(2).map_or(Ok(vec![0; batch]), sizes)?;
    let [before, size, after] = around(&cache.dims, axis);
    let length = updates.dims[axis];
    let circular = match call.node.text("mode") {
        None | Some("linear") => false,
        Some("circular") => true,
        Some(mode) => return Err(call.unsupported(format!("has the mode {mode}"))),
    };
    let inside = |&start: &usize| circular || start <= size - length;
    if starts.len() != batch || !starts.iter().all(inside) {
        return Err(RuleError::new(format!(
            "has {} write indices for {batch} samples, or some past the end of the cache",
            starts.len()
        )));
    }
    let mut places = Vec::with_capacity(updates.len());
    for row in 0..before {
        let start = starts[row / (before / batch)] % size;
        for step in 0..length {
            let place = row * size + (start + step) % size;
            places.extend(place * after..(place + 1) * after);
        }
    }
    Ok(vec![written(cache, updates, &places, None)?])
}
