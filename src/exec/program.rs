//! Compiling a graph for one set of input shapes, and running it.

mod compile;

use std::collections::BTreeMap;

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchDevice};

use super::Device;
use super::ops::elementwise::{Binary, Unary, power, prelu};
use super::ops::linear::{Gemm, matmul};
use super::ops::normalization::{batch_norm, batch_norm_train, dropout, softmax};
use super::ops::reduce::Reduce;
use super::ops::resize::Resize;
use super::ops::shape::{Fill, SpaceDepth, pad, select, slice, split};
use super::ops::window::{Conv, ConvTranspose, Pool, global_pool};
use super::value::{self, Value};
use crate::graph::{Graph, InferError, Slicing};

/// Why a graph can't run with these input shapes.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error(transparent)]
    Infer(#[from] InferError),
    #[error("node `{node}` ({operator}) {reason}")]
    Node {
        node: String,
        operator: String,
        reason: String,
    },
    #[error("nothing makes the value `{0}`")]
    Missing(String),
}

/// Float initializers on a device, by name.
pub type Parameters = BTreeMap<String, Value>;

/// Uploads every float initializer that a program may read.
pub fn upload(graph: &Graph, device: &DispatchDevice) -> Parameters {
    graph
        .initializers
        .iter()
        .filter_map(|(name, tensor)| {
            let elements = tensor.floats()?.to_vec();
            Some((
                name.clone(),
                value::from_host(&tensor.dims, elements, device),
            ))
        })
        .collect()
}

/// Whether normalisation and dropout behave as in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Evaluate,
    /// Batch statistics instead of running ones; dropout drops by `seed`.
    Train {
        seed: u64,
    },
    /// Batch statistics instead of running ones, no dropout.
    Recalibrate,
}

/// The statistics that one batch had in one batch normalisation.
pub struct Statistics {
    /// Names of the running mean and variance in the graph.
    pub running_mean: String,
    pub running_variance: String,
    /// ONNX `momentum`: the share that the running value keeps.
    pub momentum: f32,
    pub mean: Value,
    pub variance: Value,
}

/// What a run gives.
pub struct Outcome {
    /// The wanted values, in the order in which they were asked for.
    pub outputs: Vec<Value>,
    /// Empty when evaluating.
    pub statistics: Vec<Statistics>,
}

/// One step's work, with everything that attributes and shapes say settled.
#[derive(Debug, Clone, PartialEq)]
enum Op {
    Conv(Conv),
    ConvTranspose(ConvTranspose),
    Gemm(Gemm),
    MatMul {
        output: Vec<usize>,
    },
    BatchNorm {
        epsilon: f32,
        momentum: f32,
        running_mean: String,
        running_variance: String,
    },
    Pool(Pool),
    GlobalPool {
        average: bool,
    },
    Unary(Unary),
    Binary(Binary),
    Power(f32),
    /// Any number of operands, folded; the result is divided where it is a mean.
    Variadic {
        operation: Binary,
        mean: bool,
    },
    PRelu,
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
    Gather {
        axis: usize,
        indices: Vec<usize>,
        output: Vec<usize>,
    },
    SpaceDepth {
        operation: SpaceDepth,
        output: Vec<usize>,
    },
    Dropout {
        ratio: f32,
    },
}

#[derive(Debug, Clone)]
struct Step {
    op: Op,
    /// Slots; `None` for an input that is left out.
    inputs: Vec<Option<usize>>,
    outputs: Vec<usize>,
    /// For each input, whether this step is the last to read it.
    last_use: Vec<bool>,
    /// Tells the random numbers of this node from those of the others.
    node: usize,
}

/// Where a slot's value comes from before the first step.
#[derive(Debug, Clone, PartialEq)]
enum Source {
    /// Index into the feeds.
    Input(usize),
    /// Name among the parameters.
    Parameter(String),
    /// Computed on the host while compiling.
    Constant {
        dims: Vec<usize>,
        elements: Vec<f32>,
    },
}

/// A graph for one set of input shapes.
#[derive(Debug, Clone)]
pub struct Program {
    steps: Vec<Step>,
    sources: Vec<(usize, Source)>,
    outputs: Vec<usize>,
    slots: usize,
}

impl Program {
    /// Compiles the part of `graph` that the values `wanted` need, for the input shapes `feeds`.
    pub fn compile(
        graph: &Graph,
        feeds: &std::collections::HashMap<String, Vec<usize>>,
        wanted: &[&str],
    ) -> Result<Self, CompileError> {
        compile::compile(graph, feeds, wanted)
    }

    /// Runs the program. `inputs` stand in the order of the graph's inputs; `parameters` come
    /// from [`upload`], those whose gradients are wanted tracked.
    pub fn run(
        &self,
        device: &Device,
        parameters: &Parameters,
        inputs: &[Value],
        mode: Mode,
    ) -> Outcome {
        let device = device.plain();
        let mut slots: Vec<Option<Value>> = vec![None; self.slots];
        for (slot, source) in &self.sources {
            slots[*slot] = Some(match source {
                Source::Input(index) => inputs[*index].clone(),
                Source::Parameter(name) => parameters[name].clone(),
                Source::Constant { dims, elements } => {
                    value::from_host(dims, elements.clone(), device)
                }
            });
        }
        let mut statistics = Vec::new();
        for step in &self.steps {
            let mut operands: Vec<Option<Value>> = step
                .inputs
                .iter()
                .zip(&step.last_use)
                .map(|(slot, last)| match (slot, last) {
                    (None, _) => None,
                    // The last reader owns the value and may work in place.
                    (Some(slot), true) => slots[*slot].take(),
                    (Some(slot), false) => slots[*slot].clone(),
                })
                .collect();
            let results = step.run(&mut operands, device, mode, &mut statistics);
            for (slot, result) in step.outputs.iter().zip(results) {
                slots[*slot] = Some(result);
            }
        }
        Outcome {
            outputs: self
                .outputs
                .iter()
                .map(|&slot| {
                    slots[slot]
                        .clone()
                        .expect("compiling keeps wanted values to the end")
                })
                .collect(),
            statistics,
        }
    }
}

impl Step {
    fn run(
        &self,
        operands: &mut [Option<Value>],
        device: &DispatchDevice,
        mode: Mode,
        statistics: &mut Vec<Statistics>,
    ) -> Vec<Value> {
        let mut take = |index: usize| {
            operands[index]
                .take()
                .expect("compiling checks that every operand is there")
        };
        let result = match &self.op {
            Op::Conv(conv) => {
                let (x, w) = (take(0), take(1));
                conv.run(x, w, operands.get_mut(2).and_then(Option::take))
            }
            Op::ConvTranspose(conv) => {
                let (x, w) = (take(0), take(1));
                conv.run(x, w, operands.get_mut(2).and_then(Option::take))
            }
            Op::Gemm(gemm) => {
                let (a, b) = (take(0), take(1));
                gemm.run(a, b, operands.get_mut(2).and_then(Option::take))
            }
            Op::MatMul { output } => matmul(take(0), take(1), output),
            Op::BatchNorm {
                epsilon,
                momentum,
                running_mean,
                running_variance,
            } => {
                let (x, scale, shift) = (take(0), take(1), take(2));
                if mode == Mode::Evaluate {
                    batch_norm(x, scale, shift, take(3), take(4), *epsilon)
                } else {
                    let batch = batch_norm_train(x, scale, shift, *epsilon);
                    statistics.push(Statistics {
                        running_mean: running_mean.clone(),
                        running_variance: running_variance.clone(),
                        momentum: *momentum,
                        mean: batch.mean,
                        variance: batch.variance,
                    });
                    batch.output
                }
            }
            Op::Pool(pool) => pool.run(take(0), device),
            Op::GlobalPool { average } => global_pool(take(0), *average),
            Op::Unary(unary) => unary.run(take(0)),
            Op::Binary(binary) => {
                let (a, b) = (take(0), take(1));
                binary.run(a, b)
            }
            Op::Power(exponent) => power(take(0), *exponent),
            Op::Variadic { operation, mean } => {
                let count = operands.len();
                let mut all = operands.iter_mut().filter_map(Option::take);
                let first = all.next().expect("a variadic operator has an operand");
                let folded = all.fold(first, |sum, next| operation.run(sum, next));
                match mean {
                    true => scaled(folded, 1.0 / count as f32),
                    false => folded,
                }
            }
            Op::PRelu => prelu(take(0), take(1)),
            Op::Softmax {
                first,
                last,
                logarithm,
            } => softmax(take(0), *first, *last, *logarithm),
            Op::Reduce {
                reduce,
                axes,
                output,
            } => reduce.run(take(0), axes, output),
            Op::Concat { axis } => {
                let all = operands.iter_mut().filter_map(Option::take).collect();
                concat(all, *axis)
            }
            Op::Split { axis, sizes } => return split(take(0), *axis, sizes),
            Op::Slice(slicing) => slice(take(0), slicing, device),
            Op::Reshape(shape) => value::reshape(take(0), shape),
            Op::Transpose(order) => permute(take(0), order),
            Op::Expand(shape) => value::expand(take(0), shape),
            Op::Pad { pads, fill } => pad(take(0), pads, *fill),
            Op::Resize(resize) => resize.run(take(0), device),
            Op::Gather {
                axis,
                indices,
                output,
            } => value::reshape(select(take(0), *axis, indices, device), output),
            Op::SpaceDepth { operation, output } => operation.run(take(0), output),
            Op::Dropout { ratio } => match mode {
                Mode::Train { seed } if *ratio > 0.0 => {
                    let own = seed ^ (self.node as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    dropout(take(0), *ratio, own, device)
                }
                _ => take(0),
            },
        };
        vec![result]
    }
}

fn scaled(value: Value, by: f32) -> Value {
    Dispatch::float_mul_scalar(value, by.into())
}

fn concat(values: Vec<Value>, axis: usize) -> Value {
    Dispatch::float_cat(values, axis)
}

fn permute(value: Value, order: &[usize]) -> Value {
    Dispatch::float_permute(value, order)
}
