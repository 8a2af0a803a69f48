//! Normalisations over consecutive elements: LayerNormalization, RMSNormalization,
//! GroupNormalization and InstanceNormalization.

use std::iter;

use super::{epsilon, vector};
use crate::graph::params::{RuleError, broadcast, normalize_axis};
use crate::host::array::{Array, Data, is_float};
use crate::host::call::{Call, Outcome, broadcast_indices};

/// What the elements are divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norm {
    /// Mean taken away, then divided by the standard deviation.
    Standard,
    /// Divided by the root of the mean square.
    RootMeanSquare,
}

/// Means and inverse deviations of the rows of a standardised tensor.
pub struct Statistics {
    pub mean: Vec<f64>,
    pub inverse: Vec<f64>,
}

/// Standardises every row of `size` elements in place.
pub fn standardize(values: &mut [f64], size: usize, epsilon: f64, norm: Norm) -> Statistics {
    let mut statistics = Statistics {
        mean: Vec::new(),
        inverse: Vec::new(),
    };
    let count = size as f64;
    for row in values.chunks_mut(size.max(1)) {
        let mean = match norm {
            Norm::Standard => row.iter().sum::<f64>() / count,
            Norm::RootMeanSquare => 0.0,
        };
        let square: f64 = row.iter().map(|v| (v - mean) * (v - mean)).sum();
        let inverse = 1.0 / (square / count + epsilon).sqrt();
        row.iter_mut().for_each(|v| *v = (*v - mean) * inverse);
        statistics.mean.push(mean);
        statistics.inverse.push(inverse);
    }
    statistics
}

/// `values · scale + bias`, both broadcast to `dims`, the shape of `values`.
pub fn affine(
    values: &mut [f64],
    dims: &[usize],
    scale: Option<&Array>,
    bias: Option<&Array>,
) -> Result<(), RuleError> {
    if let Some(scale) = scale {
        combine(values, dims, scale, |v, s| *v *= s)?;
    }
    if let Some(bias) = bias {
        combine(values, dims, bias, |v, b| *v += b)?;
    }
    Ok(())
}

/// Applies `change` to every value and the element of `other` that broadcasts to its place.
fn combine(
    values: &mut [f64],
    dims: &[usize],
    other: &Array,
    change: impl Fn(&mut f64, f64),
) -> Result<(), RuleError> {
    if broadcast(&other.dims, dims)? != dims {
        return Err(RuleError::new(format!(
            "can't broadcast {:?} to {dims:?}",
            other.dims
        )));
    }
    let given = other.floats()?;
    if values.is_empty() {
        return Ok(());
    }
    if dims.ends_with(&other.dims) {
        for row in values.chunks_mut(given.len().max(1)) {
            row.iter_mut().zip(given).for_each(|(v, g)| change(v, *g));
        }
        return Ok(());
    }
    let places = broadcast_indices(&other.dims, dims);
    for (v, place) in values.iter_mut().zip(places) {
        change(v, given[place]);
    }
    Ok(())
}

/// A tensor normalised over its axes from `axis` on, scaled and shifted.
struct Normalized {
    values: Vec<f64>,
    statistics: Statistics,
    /// The shape of the statistics: the axes from `axis` on have size 1.
    outer: Vec<usize>,
}

/// Normalises `x` over the axes from `axis` on.
fn layer_norm(
    call: &Call,
    x: &Array,
    norm: Norm,
    scale: Option<&Array>,
    bias: Option<&Array>,
) -> Result<Normalized, RuleError> {
    let mut values = x.floats()?.to_vec();
    let axis = normalize_axis(call.node.int("axis").unwrap_or(-1), x.dims.len())?;
    let rows = call.count(&x.dims[..axis])?;
    let size = call.count(&x.dims[axis..])?;
    let mut statistics = standardize(&mut values, size, epsilon(call), norm);
    if size == 0 {
        statistics.mean = vec![f64::NAN; rows];
        statistics.inverse = vec![f64::NAN; rows];
    }
    affine(&mut values, &x.dims, scale, bias)?;
    let mut outer = x.dims.clone();
    outer[axis..].fill(1);
    Ok(Normalized {
        values,
        statistics,
        outer,
    })
}

/// The type of the statistics, `stash_type`.
fn stash_type(call: &Call) -> Result<i32, RuleError> {
    let stash = call.node.int("stash_type").unwrap_or(1);
    i32::try_from(stash)
        .ok()
        .filter(|&kind| is_float(kind))
        .ok_or_else(|| RuleError::new(format!("has a `stash_type` of {stash}")))
}

/// LayerNormalization, with the outputs Mean and InvStdDev. ONNX Runtime lets the scale have a
/// type of its own, which is the result's then.
pub fn layer_normalization(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let scale = call.input(1)?;
    let done = layer_norm(call, x, Norm::Standard, Some(scale), call.optional(2))?;
    let stash = stash_type(call)?;
    Ok(vec![
        scale.with(x.dims.clone(), Data::Float(done.values)),
        Array::float(stash, done.outer.clone(), done.statistics.mean),
        Array::float(stash, done.outer, done.statistics.inverse),
    ])
}

/// RMSNormalization: `x / √(mean(x²) + epsilon) · scale`, in the type of the scale.
pub fn rms_normalization(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let scale = call.input(1)?;
    stash_type(call)?;
    let done = layer_norm(call, x, Norm::RootMeanSquare, Some(scale), None)?;
    Ok(vec![scale.with(x.dims.clone(), Data::Float(done.values))])
}

/// SimplifiedLayerNormalization, ONNX Runtime's name for RMSNormalization in the default domain;
/// its second output is the inverse root of the mean square.
pub fn simplified_layer_normalization(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let scale = call.input(1)?;
    let done = layer_norm(call, x, Norm::RootMeanSquare, Some(scale), None)?;
    let stash = stash_type(call)?;
    Ok(vec![
        scale.with(x.dims.clone(), Data::Float(done.values)),
        Array::float(stash, done.outer, done.statistics.inverse),
    ])
}

/// GroupNormalization: scale and bias by group in opset 18, by channel since opset 21.
pub fn group_normalization(call: &Call) -> Outcome {
    let groups = call.node.int("num_groups").unwrap_or(0);
    by_channels(call, |_| usize::try_from(groups).unwrap_or(0))
}

/// InstanceNormalization: every channel is a group.
pub fn instance_normalization(call: &Call) -> Outcome {
    by_channels(call, |channels| channels)
}

fn by_channels(call: &Call, groups_of: impl Fn(usize) -> usize) -> Outcome {
    let x = call.input(0)?;
    let [batch, channels, spatial] = channel_shape(call, &x.dims)?;
    let groups = groups_of(channels);
    let share = group_size(channels, groups)?;
    let by_group = call.operator() == "GroupNormalization" && call.opset < 21;
    let factors = |index: usize| -> Result<Vec<f64>, RuleError> {
        if !by_group {
            return vector(call, index, channels).map(<[f64]>::to_vec);
        }
        let given = vector(call, index, groups)?;
        call.count(&[groups, share])?;
        Ok(given
            .iter()
            .flat_map(|v| iter::repeat_n(*v, share))
            .collect())
    };
    let mut values = x.floats()?.to_vec();
    let (scale, bias) = (factors(1)?, factors(2)?);
    let shape = [batch, channels, spatial];
    group_norm(&mut values, shape, groups, epsilon(call), &scale, &bias)?;
    Ok(vec![x.with(x.dims.clone(), Data::Float(values))])
}

/// Channels of a group.
fn group_size(channels: usize, groups: usize) -> Result<usize, RuleError> {
    match channels.checked_div(groups) {
        Some(size) if size * groups == channels => Ok(size),
        _ if channels == 0 => Ok(0),
        _ => Err(RuleError::new(format!(
            "has {channels} channels in {groups} groups"
        ))),
    }
}

/// `[batch, channels, spatial]`.
pub fn channel_shape(call: &Call, dims: &[usize]) -> Result<[usize; 3], RuleError> {
    match dims {
        [batch, channels, spatial @ ..] => Ok([*batch, *channels, call.count(spatial)?]),
        _ => Err(RuleError::new("needs a channel axis")),
    }
}

/// Normalises `[batch, channels, spatial]` by group of consecutive channels, then scales and
/// shifts by channel, in place.
pub fn group_norm(
    values: &mut [f64],
    [_, channels, spatial]: [usize; 3],
    groups: usize,
    epsilon: f64,
    scale: &[f64],
    bias: &[f64],
) -> Result<(), RuleError> {
    let share = group_size(channels, groups)?;
    if values.is_empty() {
        return Ok(());
    }
    standardize(values, share * spatial, epsilon, Norm::Standard);
    for (row, block) in values.chunks_mut(spatial).enumerate() {
        let (factor, shift) = (scale[row % channels], bias[row % channels]);
        block.iter_mut().for_each(|v| *v = *v * factor + shift);
    }
    Ok(())
}
