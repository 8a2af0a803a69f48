//! Batch normalisation, softmax and dropout.

use burn::backend::Dispatch;
use burn::backend::DispatchDevice;
use burn::backend::TensorMetadata;
use burn::backend::ops::{ActivationOps, FloatTensorOps, ModuleOps};
use rand::{RngExt, SeedableRng};

use crate::exec::kernels;
use crate::exec::value::{Value, dims, from_host, reshape};

type B = Dispatch;

/// Batch normalisation with the running statistics, as one scale and one shift a channel.
/// `x` is `[batch, channels, …]`, the others `[channels]`.
pub(in crate::exec) fn batch_norm(
    x: Value,
    scale: Value,
    shift: Value,
    mean: Value,
    variance: Value,
    epsilon: f32,
) -> Value {
    let channels = dims(&scale)[0];
    let mut along = vec![1; x.shape().num_dims()];
    along[1] = channels;
    let deviation = B::float_sqrt(B::float_add_scalar(variance, epsilon.into()));
    let factor = B::float_div(scale, deviation);
    let offset = B::float_sub(shift, B::float_mul(mean, factor.clone()));
    let scaled = B::float_mul(x, reshape(factor, &along));
    B::float_add(scaled, reshape(offset, &along))
}

/// What a batch's own statistics were, to be folded into the running ones.
pub(in crate::exec) struct BatchStatistics {
    pub output: Value,
    pub mean: Value,
    /// Unbiased, as PyTorch keeps it.
    pub variance: Value,
}

/// Batch normalisation with the statistics of the batch (Ioffe and Szegedy, 2015, algorithm 1).
pub(in crate::exec) fn batch_norm_train(
    x: Value,
    scale: Value,
    shift: Value,
    epsilon: f32,
) -> BatchStatistics {
    let shape = dims(&x);
    let samples = shape.iter().product::<usize>() / shape[1];
    let [output, mean, variance] = match kernels::batch_norm_train(&x, &scale, &shift, epsilon) {
        Some(results) => results,
        None => {
            let results = B::batch_norm_train(x, scale, shift, f64::from(epsilon));
            [results.output, results.mean, results.variance]
        }
    };
    let unbiased = samples as f32 / (samples.max(2) - 1) as f32;
    BatchStatistics {
        output,
        mean,
        variance: B::float_mul_scalar(variance, unbiased.into()),
    }
}

/// Softmax or its logarithm over all axes from `first` to `last`, taken together.
pub(in crate::exec) fn softmax(x: Value, first: usize, last: usize, logarithm: bool) -> Value {
    let shape = dims(&x);
    let flat = [
        shape[..first].iter().product(),
        shape[first..last].iter().product(),
        shape[last..].iter().product::<usize>(),
    ];
    let x = reshape(x, &flat);
    let out = match logarithm {
        true => B::log_softmax(x, 1),
        false => B::softmax(x, 1),
    };
    reshape(out, &shape)
}

/// Zeroes elements with probability `ratio` and scales the others up. The mask follows from
/// `seed` alone, so a resumed training drops the same elements.
pub(in crate::exec) fn dropout(x: Value, ratio: f32, seed: u64, device: &DispatchDevice) -> Value {
    let shape = dims(&x);
    let count = shape.iter().product();
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let keep = 1.0 / (1.0 - ratio);
    let mask = (0..count)
        .map(|_| {
            if random.random::<f32>() < ratio {
                0.0
            } else {
                keep
            }
        })
        .collect();
    B::float_mul(x, from_host(&shape, mask, device))
}
