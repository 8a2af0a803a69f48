//! Batch normalisation with the statistics of the batch, and its gradient, in few passes over
//! `[batch, channels, …]` without turning the axes (Ioffe and Szegedy, 2015, algorithm 1 and the
//! derivatives of section 3).

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{
    AutodiffBackend, BackendTensor, Dispatch, DispatchTensor, DispatchTensorKind, Flex,
};
use pulp::Arch;
use rayon::prelude::*;

use super::depthwise::dot;
use super::{elements, lifted, tensor};
use crate::exec::value::{Value, dims};

/// What was computed on the way and is needed again.
#[derive(Debug, Clone)]
struct Statistics {
    /// `[batch, channels, elements of a plane]`.
    sizes: [usize; 3],
    mean: Vec<f32>,
    variance: Vec<f32>,
    /// `1 ÷ √(variance + ε)`.
    inverse: Vec<f32>,
}

impl Statistics {
    fn of(x: &[f32], sizes: [usize; 3], epsilon: f32) -> Self {
        let [batch, channels, plane] = sizes;
        let count = (batch * plane) as f64;
        let arch = Arch::new();
        let both: Vec<(f32, f32)> = (0..channels)
            .into_par_iter()
            .map(|channel| {
                arch.dispatch(|| {
                    let planes =
                        || (0..batch).map(|n| &x[(n * channels + channel) * plane..][..plane]);
                    let sum: f64 = planes().map(|values| f64::from(sum(values))).sum();
                    let mean = (sum / count) as f32;
                    let squares: f64 = planes().map(|v| f64::from(squares(v, mean))).sum();
                    (mean, (squares / count) as f32)
                })
            })
            .collect();
        Self {
            sizes,
            mean: both.iter().map(|both| both.0).collect(),
            variance: both.iter().map(|both| both.1).collect(),
            inverse: both
                .iter()
                .map(|both| 1.0 / (both.1 + epsilon).sqrt())
                .collect(),
        }
    }

    fn normalized(&self, x: &[f32], scale: &[f32], shift: &[f32], dims: &[usize]) -> FlexTensor {
        let [_, channels, plane] = self.sizes;
        let mut out = vec![0f32; x.len()];
        let arch = Arch::new();
        out.par_chunks_mut(plane)
            .zip(x.par_chunks(plane))
            .enumerate()
            .for_each(|(index, (out, x))| {
                let channel = index % channels;
                let factor = self.inverse[channel] * scale[channel];
                let offset = shift[channel] - self.mean[channel] * factor;
                arch.dispatch(|| {
                    out.iter_mut()
                        .zip(x)
                        .for_each(|(o, x)| *o = *x * factor + offset);
                });
            });
        tensor(out, dims)
    }

    /// Gradients by the input, the scale and the shift.
    fn gradients(&self, x: &[f32], scale: &[f32], gradient: &[f32]) -> [Vec<f32>; 3] {
        let [batch, channels, plane] = self.sizes;
        let count = (batch * plane) as f32;
        let arch = Arch::new();
        let sums: Vec<(f32, f32)> = (0..channels)
            .into_par_iter()
            .map(|channel| {
                arch.dispatch(|| {
                    let (mut shift, mut product) = (0f64, 0f64);
                    for image in 0..batch {
                        let start = (image * channels + channel) * plane;
                        let gradient = &gradient[start..][..plane];
                        shift += f64::from(sum(gradient));
                        product += f64::from(dot(gradient, &x[start..][..plane]));
                    }
                    let mean = f64::from(self.mean[channel]);
                    let by_scale = (product - mean * shift) * f64::from(self.inverse[channel]);
                    (by_scale as f32, shift as f32)
                })
            })
            .collect();
        let mut by_input = vec![0f32; x.len()];
        by_input
            .par_chunks_mut(plane)
            .zip(x.par_chunks(plane).zip(gradient.par_chunks(plane)))
            .enumerate()
            .for_each(|(index, (out, (x, gradient)))| {
                let channel = index % channels;
                let (by_scale, by_shift) = sums[channel];
                let (mean, inverse) = (self.mean[channel], self.inverse[channel]);
                // γ σ⁻¹ (g − Σg ÷ m − x̂ Σ(g x̂) ÷ m), as one line in g and x.
                let factor = scale[channel] * inverse;
                let slope = factor * inverse * by_scale / count;
                let offset = slope * mean - factor * by_shift / count;
                arch.dispatch(|| {
                    let both = x.iter().zip(gradient);
                    out.iter_mut()
                        .zip(both)
                        .for_each(|(o, (x, g))| *o = *g * factor - *x * slope + offset);
                });
            });
        [
            by_input,
            sums.iter().map(|sums| sums.0).collect(),
            sums.iter().map(|sums| sums.1).collect(),
        ]
    }
}

const LANES: usize = 16;

#[inline(always)]
fn sum(values: &[f32]) -> f32 {
    let (lanes, rest) = values.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for chunk in lanes {
        for lane in 0..LANES {
            sums[lane] += chunk[lane];
        }
    }
    sums.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

#[inline(always)]
fn squares(values: &[f32], mean: f32) -> f32 {
    let (lanes, rest) = values.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for chunk in lanes {
        for lane in 0..LANES {
            let difference = chunk[lane] - mean;
            sums[lane] += difference * difference;
        }
    }
    let rest: f32 = rest
        .iter()
        .map(|value| (value - mean) * (value - mean))
        .sum();
    sums.iter().sum::<f32>() + rest
}

/// The normalised values, and mean and biased variance of the batch, `[channels]`. `None` on
/// devices that keep Burn's own.
pub(in crate::exec) fn batch_norm_train(
    x: &Value,
    scale: &Value,
    shift: &Value,
    epsilon: f32,
) -> Option<[Value; 3]> {
    let shape = dims(x);
    let plane = shape[2..].iter().product();
    let sizes = [shape[0], shape[1], plane];
    if let (
        DispatchTensorKind::Flex(x),
        DispatchTensorKind::Flex(scale),
        DispatchTensorKind::Flex(shift),
    ) = (&x.kind, &scale.kind, &shift.kind)
    {
        let plain = |tensor: &BackendTensor<Flex>| tensor.as_float().to_contiguous();
        let (x, scale, shift) = (plain(x), plain(scale), plain(shift));
        let statistics = Statistics::of(elements(&x), sizes, epsilon);
        let out = statistics.normalized(elements(&x), elements(&scale), elements(&shift), &shape);
        return Some([value(out), mean_of(&statistics), variance_of(&statistics)]);
    }
    let (x, scale, shift) = (lifted(x), lifted(scale), lifted(shift));
    let autodiff = x.autodiff.merge(scale.autodiff).merge(shift.autodiff);
    let recorded = |value: Value| match value.kind {
        DispatchTensorKind::Autodiff(inner) => match *inner {
            DispatchTensorKind::Flex(tensor) => Some(tensor.autodiff()),
            _ => None,
        },
        _ => None,
    };
    let (x, scale, shift) = (recorded(x)?, recorded(scale)?, recorded(shift)?);
    let inputs = [&x, &scale, &shift].map(|tensor| tensor.primitive().to_contiguous());
    let [x_in, scale_in, shift_in] = &inputs;
    let statistics = Statistics::of(elements(x_in), sizes, epsilon);
    let out = statistics.normalized(
        elements(x_in),
        elements(scale_in),
        elements(shift_in),
        &shape,
    );
    let (mean, variance) = (mean_of(&statistics), variance_of(&statistics));
    let out = match BatchNormGradient
        .prepare::<NoCheckpointing>([x.node(), scale.node(), shift.node()])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(mut preparation) => {
            let kept = (preparation.checkpoint(&x), preparation.checkpoint(&scale));
            preparation.finish((kept.0, kept.1, statistics), out)
        }
        OpsKind::UnTracked(preparation) => preparation.finish(out),
    };
    let kind = DispatchTensorKind::Flex(BackendTensor::Autodiff(out));
    let out = DispatchTensor {
        kind: DispatchTensorKind::Autodiff(Box::new(kind)),
        autodiff,
    };
    Some([
        out,
        Dispatch::from_inner(mean),
        Dispatch::from_inner(variance),
    ])
}

fn value(tensor: FlexTensor) -> Value {
    DispatchTensor {
        kind: DispatchTensorKind::Flex(BackendTensor::Float(tensor)),
        autodiff: Default::default(),
    }
}

fn mean_of(statistics: &Statistics) -> Value {
    value(tensor(statistics.mean.clone(), &[statistics.mean.len()]))
}

fn variance_of(statistics: &Statistics) -> Value {
    value(tensor(
        statistics.variance.clone(),
        &[statistics.variance.len()],
    ))
}

/// The backward step of [`batch_norm_train`].
#[derive(Debug)]
struct BatchNormGradient;

impl Backward<Flex, 3> for BatchNormGradient {
    type State = (NodeId, NodeId, Statistics);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        gradients: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let nodes = ops.parents;
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let (x, scale, statistics) = ops.state;
        let x = checkpointer
            .retrieve_node_output::<FlexTensor>(x)
            .to_contiguous();
        let scale = checkpointer
            .retrieve_node_output::<FlexTensor>(scale)
            .to_contiguous();
        let found = statistics.gradients(elements(&x), elements(&scale), elements(&gradient));
        let shapes = [
            x.layout().shape().to_vec(),
            scale.layout().shape().to_vec(),
            scale.layout().shape().to_vec(),
        ];
        for ((node, found), shape) in nodes.into_iter().zip(found).zip(shapes) {
            if let Some(node) = node {
                gradients.register::<Flex>(node.id, tensor(found, &shape));
            }
        }
    }
}
