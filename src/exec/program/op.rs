//! One step's work, with everything that attributes and shapes say settled.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::backend::ops::FloatTensorOps;

use super::{Context, Mode, Statistics};
use crate::exec::operand::Operand;
use crate::exec::ops::attention::{Attention, Rotary};
use crate::exec::ops::chain::Chain;
use crate::exec::ops::einsum::Einsum;
use crate::exec::ops::elementwise::{Binary, Unary, prelu};
use crate::exec::ops::linear::{Gemm, matmul};
use crate::exec::ops::normalization::{
    BatchNorm, Standardize, batch_norm, batch_norm_train, clipped, dropout, local_response,
    lp_normalize, softmax,
};
use crate::exec::ops::pick::{Scatter, TopK, pick};
use crate::exec::ops::recurrent::{Optional, Recurrent};
use crate::exec::ops::reduce::{Reduce, cumulate};
use crate::exec::ops::resize::Resize;
use crate::exec::ops::shape::{Fill, SpaceDepth, pad, select, slice, split};
use crate::exec::ops::window::{Conv, ConvTranspose, LpPool, Pool, global_lp_pool, global_pool};
use crate::exec::value::{self, Value};
use crate::graph::params::RuleError;
use crate::graph::{Known, Slicing};
use crate::host::{self, Array};
use crate::onnx::proto::NodeProto;

/// One step's work.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Conv(Conv),
    ConvTranspose(ConvTranspose),
    Gemm(Gemm),
    MatMul {
        output: Vec<usize>,
    },
    Einsum(Einsum),
    BatchNorm {
        norm: BatchNorm,
        /// What the result is brought into.
        clip: Option<[f32; 2]>,
    },
    Standardize(Standardize),
    LpNormalize {
        axis: usize,
        order: i64,
    },
    LocalResponse {
        size: usize,
        alpha: f32,
        beta: f32,
        bias: f32,
    },
    Pool(Pool),
    LpPool(LpPool),
    GlobalPool {
        average: bool,
    },
    GlobalLpPool {
        order: f32,
    },
    Chain(Chain),
    /// Any number of operands, folded; the result is divided where it is a mean.
    Variadic {
        operation: Binary,
        mean: bool,
    },
    PRelu,
    /// SwiGLU.
    Gated {
        alpha: f32,
    },
    Where {
        output: Vec<usize>,
    },
    Softmax {
        first: usize,
        last: usize,
        logarithm: bool,
    },
    Reduce {
        reduce: Reduce,
        axes: Vec<usize>,
        output: Vec<usize>,
    },
    Cumulate {
        axis: usize,
        exclusive: bool,
        reverse: bool,
    },
    Concat {
        axis: usize,
    },
    Split {
        axis: usize,
        sizes: Vec<usize>,
    },
    Slice(Slicing),
    Reshape(Vec<usize>),
    Transpose(Vec<usize>),
    Expand(Vec<usize>),
    Pad {
        pads: Vec<(i64, i64)>,
        fill: Fill,
    },
    Resize(Resize),
    /// Rows along an axis by indices that are known or fed.
    Gather {
        axis: usize,
        output: Vec<usize>,
    },
    /// Elements by flat index into the first input with a zero in front.
    Pick {
        indices: Arc<Vec<i64>>,
        output: Vec<usize>,
    },
    Scatter(Scatter),
    TopK(TopK),
    SpaceDepth {
        operation: SpaceDepth,
        output: Vec<usize>,
    },
    Dropout {
        ratio: f32,
    },
    Recurrent(Recurrent),
    Attention(Attention),
    Rotary(Rotary),
    Host(HostCall),
}

/// An operator of [`crate::host`].
#[derive(Debug, Clone)]
pub(super) struct HostCall {
    pub node: Arc<NodeProto>,
    pub opset: i64,
    /// What is known of each input, for those that are on the device.
    pub inputs: Vec<Option<Known>>,
}

impl HostCall {
    fn run(&self, operands: &[Option<Operand>]) -> Result<Vec<Operand>, RuleError> {
        let inputs: Vec<_> = operands
            .iter()
            .zip(&self.inputs)
            .map(|(operand, known)| Some(operand.as_ref()?.on_host(known.as_ref()?)))
            .collect();
        let results = host::run(&self.node, self.opset, &inputs)?;
        Ok(results.into_iter().map(Operand::Host).collect())
    }
}

impl Op {
    /// The work of both where `next` alone reads the result of this, with the operands of this and
    /// behind them those of `next` but the first; `None` where there is no such work.
    pub fn joined(&self, next: &Self) -> Option<Self> {
        match (self, next) {
            (Self::Conv(conv), Self::BatchNorm { norm, clip })
                if conv.norm.is_none() && conv.clip.is_none() =>
            {
                Some(Self::Conv(Conv {
                    norm: Some(norm.clone()),
                    clip: *clip,
                    ..conv.clone()
                }))
            }
            (Self::Conv(conv), Self::Chain(chain)) if conv.clip.is_none() => {
                let clip = Some(chain.clip()?);
                Some(Self::Conv(Conv {
                    clip,
                    ..conv.clone()
                }))
            }
            (Self::Gemm(gemm), Self::Chain(chain)) if gemm.clip.is_none() => {
                let clip = Some(chain.clip()?);
                Some(Self::Gemm(Gemm { clip, ..*gemm }))
            }
            (Self::BatchNorm { norm, clip: None }, Self::Chain(chain)) => Some(Self::BatchNorm {
                norm: norm.clone(),
                clip: Some(chain.clip()?),
            }),
            _ => None,
        }
    }

    /// Results for these operands; `None` stands for one that is left out.
    pub fn run(
        &self,
        operands: &mut [Option<Operand>],
        context: &mut Context,
        node: usize,
    ) -> Result<Vec<Operand>, RuleError> {
        if let Self::Host(call) = self {
            return call.run(operands);
        }
        let device = context.device;
        let missing = || RuleError::new("misses an operand");
        // Operands whose elements the host looks at.
        let ints = |operand: Option<Operand>| match operand {
            Some(Operand::Host(array)) => array.ints().map(<[i64]>::to_vec),
            _ => Err(missing()),
        };
        if let Self::Gather { axis, output } = self {
            let (x, indices) = (operands[0].take().ok_or_else(missing)?, operands[1].take());
            let x = x.on_device(device);
            let size = value::dims(&x)[*axis];
            let indices = wrapped(&ints(indices)?, size)?;
            let rows = value::reshape(select(x, *axis, &indices, device), output);
            return Ok(vec![Operand::Device(rows)]);
        }
        if let Self::Where { output } = self {
            let condition = match operands[0].take() {
                Some(Operand::Host(array)) => marks(&array, output)?,
                _ => return Err(missing()),
            };
            let known = operands.iter_mut().skip(1).map(|operand| {
                let operand = operand.take().ok_or_else(missing)?;
                Ok(operand.on_device(device))
            });
            let [x, y]: [Value; 2] = known
                .collect::<Result<Vec<_>, RuleError>>()?
                .try_into()
                .map_err(|_| missing())?;
            let chosen = value::choose(&condition, x, y, output, device);
            return Ok(vec![Operand::Device(chosen)]);
        }
        if let Self::Scatter(scatter) = self {
            let indices = ints(operands[1].take())?;
            let (x, updates) = (operands[0].take(), operands[2].take());
            let x = x.ok_or_else(missing)?.on_device(device);
            let updates = updates.ok_or_else(missing)?.on_device(device);
            let result = scatter.run(x, &indices, updates, device)?;
            return Ok(vec![Operand::Device(result)]);
        }
        if let Self::Recurrent(recurrent) = self {
            let lengths = match operands[3].take() {
                Some(lengths) => Some(ints(Some(lengths))?),
                None => None,
            };
            let mut float = |index: usize| {
                let operand: Option<Operand> = operands.get_mut(index)?.take();
                operand.map(|operand| operand.on_device(device))
            };
            let mut needed = |index: usize| float(index).ok_or_else(missing);
            let (x, w, r) = (needed(0)?, needed(1)?, needed(2)?);
            let more = Optional {
                bias: float(4),
                first_h: float(5),
                first_c: float(6),
                peepholes: float(7),
                lengths,
            };
            let results = recurrent.run(x, w, r, more, device);
            return Ok(results.into_iter().map(Operand::Device).collect());
        }
        if let Self::TopK(top) = self {
            return top.run(operands[0].take().ok_or_else(missing)?, device);
        }
        let mut floats: Vec<Option<Value>> = operands
            .iter_mut()
            .map(|operand| Some(operand.take()?.on_device(device)))
            .collect();
        let results = self.run_floats(&mut floats, context, node)?;
        Ok(results.into_iter().map(Operand::Device).collect())
    }

    fn run_floats(
        &self,
        operands: &mut [Option<Value>],
        context: &mut Context,
        node: usize,
    ) -> Result<Vec<Value>, RuleError> {
        let device = context.device;
        let count = operands.len();
        let (needed, optional) = operands.split_at_mut(self.needed().min(count));
        if needed.len() < self.needed() || needed.iter().any(Option::is_none) {
            return Err(RuleError::new("misses an operand"));
        }
        let mut take = |index: usize| {
            needed[index]
                .take()
                .expect("there, as was seen just before, and taken once")
        };
        let mut maybe = |index: usize| optional.get_mut(index).and_then(Option::take);
        let result = match self {
            Self::Conv(conv) => {
                let (x, w, bias) = (take(0), take(1), maybe(0));
                match &conv.norm {
                    None => conv.run(x, w, bias, conv.clip),
                    Some(norm) => {
                        let mut next = |index: usize| {
                            maybe(index).ok_or_else(|| RuleError::new("misses an operand"))
                        };
                        let figures = [next(1)?, next(2)?, next(3)?, next(4)?];
                        if context.mode == Mode::Evaluate {
                            conv.run_normalized(x, w, bias, figures, norm.epsilon)
                        } else {
                            let [scale, shift, ..] = figures;
                            let x = conv.run(x, w, bias, None);
                            normalized(norm, conv.clip, [x, scale, shift], context)
                        }
                    }
                }
            }
            Self::ConvTranspose(conv) => {
                let (x, w) = (take(0), take(1));
                conv.run(x, w, maybe(0))
            }
            Self::Gemm(gemm) => {
                let (a, b) = (take(0), take(1));
                gemm.run(a, b, maybe(0))
            }
            Self::MatMul { output } => matmul(take(0), take(1), output),
            Self::Einsum(einsum) => {
                let all = std::iter::once(take(0))
                    .chain((0..count - 1).filter_map(maybe))
                    .collect();
                einsum.run(all, device)
            }
            Self::BatchNorm { norm, clip } => {
                let (x, scale, shift) = (take(0), take(1), take(2));
                if context.mode == Mode::Evaluate {
                    let out = batch_norm(x, scale, shift, take(3), take(4), norm.epsilon);
                    clipped(out, *clip)
                } else {
                    normalized(norm, *clip, [x, scale, shift], context)
                }
            }
            Self::Standardize(standardize) => {
                let x = take(0);
                standardize.run(x, maybe(0), maybe(1))
            }
            Self::LpNormalize { axis, order } => lp_normalize(take(0), *axis, *order),
            Self::LocalResponse {
                size,
                alpha,
                beta,
                bias,
            } => local_response(take(0), *size, *alpha, *beta, *bias, device),
            Self::Pool(pool) => pool.run(take(0), device),
            Self::LpPool(pool) => pool.run(take(0), device),
            Self::GlobalPool { average } => global_pool(take(0), *average),
            Self::GlobalLpPool { order } => global_lp_pool(take(0), *order),
            Self::Chain(chain) => chain.run((0..chain.inputs).map(&mut take).collect()),
            Self::Variadic { operation, mean } => {
                let first = take(0);
                let folded = (0..count - 1)
                    .filter_map(maybe)
                    .fold(first, |sum, next| operation.run(sum, next));
                match mean {
                    true => Dispatch::float_mul_scalar(folded, (1.0 / count as f32).into()),
                    false => folded,
                }
            }
            Self::PRelu => prelu(take(0), take(1)),
            Self::Gated { alpha } => {
                let gate = Unary::Swish { alpha: *alpha }.run(take(0));
                Binary::Mul.run(gate, take(1))
            }
            Self::Softmax {
                first,
                last,
                logarithm,
            } => softmax(take(0), *first, *last, *logarithm),
            Self::Reduce {
                reduce,
                axes,
                output,
            } => reduce.run(take(0), axes, output),
            Self::Cumulate {
                axis,
                exclusive,
                reverse,
            } => cumulate(take(0), *axis, *exclusive, *reverse),
            Self::Concat { axis } => {
                let all = std::iter::once(take(0))
                    .chain((0..count - 1).filter_map(maybe))
                    .collect();
                Dispatch::float_cat(all, *axis)
            }
            Self::Split { axis, sizes } => return Ok(split(take(0), *axis, sizes)),
            Self::Slice(slicing) => slice(take(0), slicing, device),
            Self::Reshape(shape) => value::reshape(take(0), shape),
            Self::Transpose(order) => Dispatch::float_permute(take(0), order),
            Self::Expand(shape) => value::expand(take(0), shape),
            Self::Pad { pads, fill } => pad(take(0), pads, *fill, device),
            Self::Resize(resize) => resize.run(take(0), device),
            Self::Pick { indices, output } => pick(take(0), indices, output, device),
            Self::SpaceDepth { operation, output } => operation.run(take(0), output),
            Self::Dropout { ratio } => match context.mode {
                Mode::Train { seed } if *ratio > 0.0 => {
                    let own = seed ^ (node as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    dropout(take(0), *ratio, own, device)
                }
                _ => take(0),
            },
            Self::Attention(attention) => {
                let (q, k, v) = (take(0), take(1), take(2));
                attention.run(q, k, v, maybe(0), device)
            }
            Self::Rotary(rotary) => {
                let (x, cosines, sines) = (take(0), take(1), take(2));
                rotary.run(x, cosines, sines, device)
            }
            Self::Gather { .. }
            | Self::Where { .. }
            | Self::Scatter(_)
            | Self::Recurrent(_)
            | Self::TopK(_)
            | Self::Host(_) => return Err(RuleError::new("runs with operands on the host")),
        };
        Ok(vec![result])
    }

    /// How many operands the work can't do without.
    fn needed(&self) -> usize {
        match self {
            Self::BatchNorm { .. } => 5,
            Self::Chain(chain) => chain.inputs,
            Self::Attention(_) | Self::Rotary(_) => 3,
            Self::Conv(_)
            | Self::ConvTranspose(_)
            | Self::Gemm(_)
            | Self::MatMul { .. }
            | Self::Gated { .. }
            | Self::PRelu => 2,
            _ => 1,
        }
    }
}

/// A batch normalisation in training, which notes the statistics of the batch.
fn normalized(
    norm: &BatchNorm,
    clip: Option<[f32; 2]>,
    [x, scale, shift]: [Value; 3],
    context: &mut Context,
) -> Value {
    let batch = batch_norm_train(x, scale, shift, norm.epsilon, clip);
    context.statistics.push(Statistics {
        running_mean: norm.running_mean.clone(),
        running_variance: norm.running_variance.clone(),
        momentum: norm.momentum,
        mean: batch.mean,
        variance: batch.variance,
    });
    batch.output
}

/// A condition broadcast to `output`.
fn marks(condition: &Array, output: &[usize]) -> Result<Vec<bool>, RuleError> {
    let own = condition.ints()?;
    Ok(host::broadcast_indices(&condition.dims, output)
        .into_iter()
        .map(|index| own[index] != 0)
        .collect())
}

/// Indices counted from the front, refused where they are out of range.
fn wrapped(indices: &[i64], size: usize) -> Result<Vec<usize>, RuleError> {
    indices
        .iter()
        .map(|&index| {
            let from_front = if index < 0 {
                index + size as i64
            } else {
                index
            };
            usize::try_from(from_front)
                .ok()
                .filter(|&index| index < size)
                .ok_or_else(|| {
                    RuleError::new(format!(
                        "gathers index {index}, out of range for size {size}"
                    ))
                })
        })
        .collect()
}
