//! Batch normalisation, softmax and dropout.

use burn::backend::Dispatch;
use burn::backend::DispatchDevice;
use burn::backend::TensorMetadata;
use burn::backend::ops::{ActivationOps, FloatTensorOps, ModuleOps};
use rand::{RngExt, SeedableRng};

use super::chain::{Chain, Function};
use super::elementwise::{Binary, Unary, power};
use super::linear::multiplied;
use crate::exec::kernels;
use crate::exec::value::{Value, bool_type, dims, expand, from_host, reshape, sum_keep, with_rank};
use crate::graph::params::{RuleError, check_broadcasts, check_shape};
use crate::graph::{Known, normalize_axis};
use crate::onnx::proto::NodeProto;

type B = Dispatch;

/// The factor and the offset, `[channels]` each, that running statistics amount to.
pub(in crate::exec) fn line(
    scale: Value,
    shift: Value,
    mean: Value,
    variance: Value,
    epsilon: f32,
) -> (Value, Value) {
    let deviation = B::float_sqrt(B::float_add_scalar(variance, epsilon.into()));
    let factor = B::float_div(scale, deviation);
    let offset = B::float_sub(shift, B::float_mul(mean, factor.clone()));
    (factor, offset)
}

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
    let mut along = vec![1; x.shape().num_dims()];
    along[1] = dims(&scale)[0];
    let (factor, offset) = line(scale, shift, mean, variance, epsilon);
    let product = Chain::of(Function::Binary(Binary::Mul), dims(&x));
    let sum = Chain::of(Function::Binary(Binary::Add), dims(&x));
    let line = sum.after(&product, &[0]).expect("three inputs are few");
    line.run(vec![reshape(offset, &along), x, reshape(factor, &along)])
}

/// Brought between the ends of `clip`: Relu and Clip behind other work.
pub(in crate::exec) fn clipped(x: Value, clip: Option<[f32; 2]>) -> Value {
    match clip {
        None => x,
        Some([0.0, f32::INFINITY]) => Unary::Relu.run(x),
        Some([min, max]) => Unary::Clip { min, max }.run(x),
    }
}

/// What a batch's own statistics were, to be folded into the running ones.
pub(in crate::exec) struct BatchStatistics {
    pub output: Value,
    pub mean: Value,
    /// Unbiased, as PyTorch keeps it.
    pub variance: Value,
}

/// A batch normalisation of which the running statistics are weights of the graph.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::exec) struct BatchNorm {
    pub epsilon: f32,
    /// ONNX `momentum`: the share that the running value keeps.
    pub momentum: f32,
    pub running_mean: String,
    pub running_variance: String,
}

/// Batch normalisation with the statistics of the batch (Ioffe and Szegedy, 2015, algorithm 1).
pub(in crate::exec) fn batch_norm_train(
    x: Value,
    scale: Value,
    shift: Value,
    epsilon: f32,
    clip: Option<[f32; 2]>,
) -> BatchStatistics {
    let shape = dims(&x);
    let samples = shape.iter().product::<usize>() / shape[1];
    let own = kernels::batch_norm_train(&x, &scale, &shift, epsilon, clip);
    let [output, mean, variance] = own.unwrap_or_else(|| {
        let results = B::batch_norm_train(x, scale, shift, f64::from(epsilon));
        let output = clipped(results.output, clip);
        [output, results.mean, results.variance]
    });
    let unbiased = samples as f32 / (samples.max(2) - 1) as f32;
    BatchStatistics {
        output,
        mean,
        variance: B::float_mul_scalar(variance, unbiased.into()),
    }
}

/// LayerNormalization, RMSNormalization, GroupNormalization, InstanceNormalization and
/// MeanVarianceNormalization: each stretch of elements is brought to mean 0 (but for RMS) and
/// variance 1, then scaled and shifted.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::exec) struct Standardize {
    /// The shape in which the stretches are whole axes.
    shape: Vec<usize>,
    axes: Vec<usize>,
    centred: bool,
    epsilon: f32,
    /// The epsilon is added to the deviation (MeanVarianceNormalization), not to the variance.
    beside: bool,
    /// Shapes that scale and shift take before and after the result has its own shape back.
    before: Option<Vec<usize>>,
    after: Option<Vec<usize>>,
    output: Vec<usize>,
}

impl Standardize {
    /// With how many of the node's inputs are read.
    pub fn of(
        node: &NodeProto,
        opset: i64,
        inputs: &[Option<&Known>],
    ) -> Result<(Self, usize), RuleError> {
        let there = |index: usize| inputs.get(index).copied().flatten();
        let Some(x) = there(0).map(|known| known.dims.as_slice()) else {
            return Err(RuleError::new("has no input 0"));
        };
        // Scale and shift, as far as they are there.
        let affine = |check: &dyn Fn(&[usize]) -> Result<(), RuleError>| {
            (1..3)
                .filter_map(there)
                .try_for_each(|known| check(&known.dims))
        };
        let rank = x.len();
        let mut made = Self {
            shape: x.to_vec(),
            axes: Vec::new(),
            centred: true,
            epsilon: node.float("epsilon").unwrap_or(1e-5),
            beside: false,
            before: None,
            after: None,
            output: x.to_vec(),
        };
        let along_channels = || {
            let mut along = vec![1; rank];
            along[1] = x[1];
            along
        };
        let reads = match node.operator() {
            "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => {
                let axis = normalize_axis(node.int("axis").unwrap_or(-1), rank)?;
                made.axes = (axis..rank).collect();
                made.centred = node.operator() == "LayerNormalization";
                affine(&|dims| check_broadcasts("scale or shift", dims, x))?;
                3
            }
            "InstanceNormalization" => {
                made.axes = (2..rank).collect();
                made.after = Some(along_channels());
                affine(&|dims| check_shape("a scale or shift", dims, &x[1..2]))?;
                3
            }
            "GroupNormalization" => {
                let groups = node.int("num_groups").unwrap_or(0);
                let groups = usize::try_from(groups)
                    .ok()
                    .filter(|&groups| groups > 0 && x[1].is_multiple_of(groups))
                    .ok_or_else(|| {
                        RuleError::new(format!("has {groups} groups of {} channels", x[1]))
                    })?;
                let rest: usize = x[1..].iter().product::<usize>() / groups;
                made.shape = vec![x[0], groups, rest];
                made.axes = vec![2];
                // Before opset 21 there was a scale for each group.
                let scales = if opset < 21 { groups } else { x[1] };
                if opset < 21 {
                    made.before = Some(vec![1, groups, 1]);
                } else {
                    made.after = Some(along_channels());
                }
                affine(&|dims| check_shape("a scale or shift", dims, &[scales]))?;
                3
            }
            _ => {
                let axes = node.ints("axes").map_or(vec![0, 2, 3], <[i64]>::to_vec);
                made.axes = axes
                    .into_iter()
                    .map(|axis| normalize_axis(axis, rank))
                    .collect::<Result<_, _>>()?;
                made.epsilon = 1e-9;
                made.beside = true;
                1
            }
        };
        Ok((made, reads))
    }

    pub fn run(&self, x: Value, scale: Option<Value>, shift: Option<Value>) -> Value {
        let last = [self.shape.len() - 1];
        let plain = self.axes == last && self.before.is_none() && self.after.is_none();
        if let (true, false, Some(scale)) = (plain, self.beside, &scale)
            && let Some(out) =
                kernels::layer_norm(&x, scale, shift.as_ref(), self.epsilon, self.centred)
        {
            return out;
        }
        let x = reshape(x, &self.shape);
        let count: usize = self.axes.iter().map(|&axis| self.shape[axis]).product();
        let mean = |value: Value| {
            B::float_div_scalar(sum_keep(value, &self.axes), (count.max(1) as f32).into())
        };
        let x = match self.centred {
            true => B::float_sub(x.clone(), mean(x)),
            false => x,
        };
        let variance = mean(B::float_mul(x.clone(), x.clone()));
        let deviation = match self.beside {
            true => B::float_add_scalar(B::float_sqrt(variance), self.epsilon.into()),
            false => B::float_sqrt(B::float_add_scalar(variance, self.epsilon.into())),
        };
        let mut out = B::float_div(x, deviation);
        let affine = |out: Value, along: Option<&Vec<usize>>| {
            let rank = out.shape().num_dims();
            let place = |value: Value| match along {
                Some(along) => reshape(value, along),
                None => with_rank(value, rank),
            };
            let out = match scale.clone() {
                Some(scale) => B::float_mul(out, place(scale)),
                None => out,
            };
            match shift.clone() {
                Some(shift) => B::float_add(out, place(shift)),
                None => out,
            }
        };
        if let Some(along) = &self.before {
            out = affine(out, Some(along));
            return reshape(out, &self.output);
        }
        affine(reshape(out, &self.output), self.after.as_ref())
    }
}

/// LpNormalization: `x` divided by its `order`-norm along `axis`.
pub(in crate::exec) fn lp_normalize(x: Value, axis: usize, order: i64) -> Value {
    let norm = match order {
        1 => B::float_sum_dim(B::float_abs(x.clone()), axis),
        _ => B::float_sqrt(B::float_sum_dim(B::float_mul(x.clone(), x.clone()), axis)),
    };
    // Nothing is divided by zero: what has no length stays zero.
    let none = B::float_equal_elem(norm.clone(), 0f32.into(), bool_type(&norm));
    B::float_div(x, B::float_mask_fill(norm, none, 1f32.into()))
}

/// LRN over `[batch, channels, …]`: `x ÷ (bias + alpha ÷ size · Σ x²)^beta`, summed over the `size`
/// channels around each (Krizhevsky et al., 2012, section 3.3).
pub(in crate::exec) fn local_response(
    x: Value,
    size: usize,
    alpha: f32,
    beta: f32,
    bias: f32,
    device: &DispatchDevice,
) -> Value {
    let shape = dims(&x);
    let channels = shape[1];
    let area: usize = shape[2..].iter().product();
    let (before, after) = ((size - 1) / 2, size / 2);
    let mut near = vec![0f32; channels * channels];
    for row in 0..channels {
        let last = (row + after).min(channels.saturating_sub(1));
        for column in row.saturating_sub(before)..=last {
            near[row * channels + column] = alpha / size as f32;
        }
    }
    let near = from_host(&[1, channels, channels], near, device);
    let near = expand(near, &[shape[0], channels, channels]);
    let square = reshape(
        B::float_mul(x.clone(), x.clone()),
        &[shape[0], channels, area],
    );
    let sums = reshape(multiplied(near, square), &shape);
    let below = B::float_add_scalar(sums, bias.into());
    B::float_div(x, power(below, beta))
}

/// Softmax or its logarithm over all axes from `first` to `last`, taken together.
pub(in crate::exec) fn softmax(x: Value, first: usize, last: usize, logarithm: bool) -> Value {
    let shape = dims(&x);
    let flat = [
        shape[..first].iter().product(),
        shape[first..last].iter().product(),
        shape[last..].iter().product::<usize>(),
    ];
    if flat[2] == 1
        && let Some(out) = kernels::softmax(&reshape(x.clone(), &flat[..2]), logarithm)
    {
        return reshape(out, &shape);
    }
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
