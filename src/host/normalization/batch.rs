//! BatchNormalization.

use super::epsilon;
use super::layer::channel_shape;
use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome};

/// BatchNormalization. It trains, by statistics of the batch, where `training_mode` says so and,
/// before opset 14, where the node asks for more than one output; the outputs `saved_mean` and
/// `saved_var` of those opsets are the mean and variance of the batch.
pub fn batch_normalization(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let values = x.floats()?;
    let shape = shape_of(call, x)?;
    let channels = shape[1];
    let channel_input = |index: usize| -> Result<&Array, RuleError> {
        let array = call.input(index)?;
        if array.len() != channels {
            return Err(RuleError::new(format!(
                "has a value of shape {:?} as input {index} for {channels} channels",
                array.dims
            )));
        }
        Ok(array)
    };
    let scale = channel_input(1)?.floats()?;
    let bias = channel_input(2)?.floats()?;
    let (mean, variance) = (channel_input(3)?, channel_input(4)?);
    let training = match call.opset {
        14.. => call.node.int("training_mode").unwrap_or(0) != 0,
        _ => (1..call.outputs()).any(|index| call.wants(index)),
    };
    let epsilon = epsilon(call);
    if !training {
        let result = normalize(
            values,
            shape,
            [scale, bias, mean.floats()?, variance.floats()?],
            epsilon,
        );
        return Ok(vec![x.with(x.dims.clone(), Data::Float(result))]);
    }
    let (batch_mean, batch_variance) = statistics(values, shape);
    let result = normalize(
        values,
        shape,
        [scale, bias, &batch_mean, &batch_variance],
        epsilon,
    );
    let momentum = f64::from(call.node.float("momentum").unwrap_or(0.9));
    let running = |old: &Array, new: &[f64]| -> Result<Array, RuleError> {
        let mixed = old
            .floats()?
            .iter()
            .zip(new)
            .map(|(old, new)| old * momentum + new * (1.0 - momentum))
            .collect();
        Ok(old.with(old.dims.clone(), Data::Float(mixed)))
    };
    let mut outputs = vec![
        x.with(x.dims.clone(), Data::Float(result)),
        running(mean, &batch_mean)?,
        running(variance, &batch_variance)?,
    ];
    if call.opset < 14 {
        outputs.push(mean.with(mean.dims.clone(), Data::Float(batch_mean)));
        outputs.push(variance.with(variance.dims.clone(), Data::Float(batch_variance)));
    }
    Ok(outputs)
}

/// `[batch, channels, the rest]`; a vector is one channel, and without `spatial` (opset 7) every
/// place of an example is a channel of its own.
fn shape_of(call: &Call, x: &Array) -> Result<[usize; 3], RuleError> {
    match x.dims.len() {
        0 => Err(RuleError::new("needs an input of rank 1 or more")),
        1 => Ok([x.dims[0], 1, 1]),
        _ if call.opset < 9 && call.node.int("spatial") == Some(0) => {
            Ok([x.dims[0], call.count(&x.dims[1..])?, 1])
        }
        _ => channel_shape(call, &x.dims),
    }
}

/// Mean and population variance of every channel.
fn statistics(values: &[f64], [batch, channels, after]: [usize; 3]) -> (Vec<f64>, Vec<f64>) {
    let count = (batch * after) as f64;
    let mut mean = vec![0.0; channels];
    let mut variance = vec![0.0; channels];
    if values.is_empty() {
        return (vec![f64::NAN; channels], vec![f64::NAN; channels]);
    }
    for (row, block) in values.chunks(after).enumerate() {
        mean[row % channels] += block.iter().sum::<f64>() / count;
    }
    for (row, block) in values.chunks(after).enumerate() {
        let centre = mean[row % channels];
        let spread: f64 = block.iter().map(|v| (v - centre) * (v - centre)).sum();
        variance[row % channels] += spread / count;
    }
    (mean, variance)
}

/// `scale · (x - mean) / √(variance + epsilon) + bias` by channel.
fn normalize(
    values: &[f64],
    [_, channels, after]: [usize; 3],
    [scale, bias, mean, variance]: [&[f64]; 4],
    epsilon: f64,
) -> Vec<f64> {
    let mut result = Vec::with_capacity(values.len());
    for (row, block) in values.chunks(after.max(1)).enumerate() {
        let channel = row % channels;
        let factor = scale[channel] / (variance[channel] + epsilon).sqrt();
        let (centre, shift) = (mean[channel], bias[channel]);
        result.extend(block.iter().map(|v| (v - centre) * factor + shift));
    }
    result
}
