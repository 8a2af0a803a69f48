//! Normalisations: by statistics of the input itself, or by those that a model brings along.
//!
//! Sources: batch (Ioffe and Szegedy 2015), layer (Ba et al. 2016), root mean square (Zhang and
//! Sennrich 2019), group (Wu and He 2018) and instance normalisation (Ulyanov et al. 2016), local
//! response normalisation (Krizhevsky et al. 2012).

mod batch;
mod layer;
mod softmax;

pub(super) use layer::{Norm, affine, group_norm, standardize};
pub(super) use softmax::{softmax, softmax_rows};

use super::array::{Array, Data};
use super::call::{Call, Outcome, around, broadcast_indices};
use crate::graph::params::{RuleError, normalize_axis};

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    Some(match call.operator() {
        "BatchNormalization" => batch::batch_normalization(call),
        "LayerNormalization" => layer::layer_normalization(call),
        "RMSNormalization" => layer::rms_normalization(call),
        "SimplifiedLayerNormalization" => layer::simplified_layer_normalization(call),
        "GroupNormalization" => layer::group_normalization(call),
        "InstanceNormalization" => layer::instance_normalization(call),
        "MeanVarianceNormalization" => mean_variance(call),
        "LpNormalization" => lp_normalization(call),
        "LRN" => local_response(call),
        "Softmax" | "LogSoftmax" => softmax_operator(call),
        _ => return None,
    })
}

/// `epsilon`, 1e-5 where the node has none.
pub(super) fn epsilon(call: &Call) -> f64 {
    f64::from(call.node.float("epsilon").unwrap_or(1e-5))
}

/// A float input of exactly one axis of `size` elements.
pub(super) fn vector<'a>(
    call: &Call<'a>,
    index: usize,
    size: usize,
) -> Result<&'a [f64], RuleError> {
    let array = call.input(index)?;
    if array.dims != [size] {
        return Err(RuleError::new(format!(
            "has a value of shape {:?} as input {index}, needs [{size}]",
            array.dims
        )));
    }
    array.floats()
}

/// Softmax and LogSoftmax: over one axis since opset 13, before that over all axes from `axis` on.
fn softmax_operator(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let values = x.floats()?;
    if values.is_empty() {
        return Ok(vec![x.clone()]);
    }
    let log = call.operator() == "LogSoftmax";
    let shape = if call.opset < 13 {
        flattened(call, x)?
    } else if x.dims.is_empty() {
        [1, 1, 1]
    } else {
        let axis = normalize_axis(call.node.int("axis").unwrap_or(-1), x.dims.len())?;
        around(&x.dims, axis)
    };
    let result = softmax(values, shape, log);
    Ok(vec![x.with(x.dims.clone(), Data::Float(result))])
}

/// `[before, from axis on, 1]`, as operators of old opsets coerced their input to a matrix.
fn flattened(call: &Call, x: &Array) -> Result<[usize; 3], RuleError> {
    let given = call.node.int("axis").unwrap_or(1);
    let rank = x.dims.len();
    let axis = if given == rank as i64 {
        rank
    } else {
        normalize_axis(given, rank)?
    };
    let before = x.dims[..axis].iter().product();
    Ok([before, x.dims[axis..].iter().product(), 1])
}

/// LpNormalization: `x / ‖x‖_p` along an axis, 0 where the norm is 0.
fn lp_normalization(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let values = x.floats()?;
    if values.is_empty() {
        return Ok(vec![x.clone()]);
    }
    let axis = normalize_axis(call.node.int("axis").unwrap_or(-1), x.dims.len())?;
    let p = call.node.int("p").unwrap_or(2);
    if p != 1 && p != 2 {
        return Err(call.unsupported(format_args!("has p = {p}")));
    }
    let [before, size, after] = around(&x.dims, axis);
    let mut result = values.to_vec();
    for outer in 0..before {
        for inner in 0..after {
            let start = outer * size * after + inner;
            let line = || (start..start + size * after).step_by(after);
            let norm = match p {
                1 => line().map(|i| values[i].abs()).sum::<f64>(),
                _ => line().map(|i| values[i] * values[i]).sum::<f64>().sqrt(),
            };
            for i in line() {
                result[i] = if norm == 0.0 { 0.0 } else { values[i] / norm };
            }
        }
    }
    Ok(vec![x.with(x.dims.clone(), Data::Float(result))])
}

/// LRN: `x / (bias + alpha / size · Σ x²) ^ beta`, the sum over `size` neighbouring channels.
fn local_response(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let values = x.floats()?;
    if values.is_empty() {
        return Ok(vec![x.clone()]);
    }
    if x.dims.len() < 2 {
        return Err(RuleError::new("needs a channel axis"));
    }
    let size = usize::try_from(call.node.int("size").unwrap_or(0))
        .ok()
        .filter(|&size| size > 0)
        .ok_or_else(|| RuleError::new("has no positive `size`"))?;
    let attribute = |name: &str, default: f32| f64::from(call.node.float(name).unwrap_or(default));
    let factor = attribute("alpha", 1e-4) / size as f64;
    let (beta, bias) = (attribute("beta", 0.75), attribute("bias", 1.0));
    let (below, above) = ((size - 1) / 2, size / 2);
    let [batch, channels, spatial] = around(&x.dims, 1);
    let mut result = Vec::with_capacity(values.len());
    let mut sums = vec![0.0; spatial];
    for example in 0..batch {
        let first = example * channels * spatial;
        for channel in 0..channels {
            let last = channel.saturating_add(above).min(channels - 1);
            sums.fill(0.0);
            for near in channel.saturating_sub(below)..=last {
                let row = &values[first + near * spatial..][..spatial];
                sums.iter_mut().zip(row).for_each(|(sum, v)| *sum += v * v);
            }
            let row = &values[first + channel * spatial..][..spatial];
            result.extend(
                row.iter()
                    .zip(&sums)
                    .map(|(v, sum)| v / (bias + factor * sum).powf(beta)),
            );
        }
    }
    Ok(vec![x.with(x.dims.clone(), Data::Float(result))])
}

/// MeanVarianceNormalization: `(x - mean) / (standard deviation + 1e-9)` over `axes`, as the
/// function body of the operator has it.
fn mean_variance(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let values = x.floats()?;
    if values.is_empty() {
        return Ok(vec![x.clone()]);
    }
    let rank = x.dims.len();
    let mut kept = x.dims.clone();
    for &axis in call.node.ints("axes").unwrap_or(&[0, 2, 3]) {
        kept[normalize_axis(axis, rank)?] = 1;
    }
    let place = broadcast_indices(&kept, &x.dims);
    let groups: usize = kept.iter().product();
    let share = groups as f64 / values.len() as f64;
    let mut mean = vec![0.0; groups];
    for (v, &group) in values.iter().zip(&place) {
        mean[group] += v * share;
    }
    let mut variance = vec![0.0; groups];
    for (v, &group) in values.iter().zip(&place) {
        variance[group] += (v - mean[group]).powi(2) * share;
    }
    let result = values
        .iter()
        .zip(&place)
        .map(|(v, &group)| (v - mean[group]) / (variance[group].sqrt() + 1e-9))
        .collect();
    Ok(vec![x.with(x.dims.clone(), Data::Float(result))])
}
