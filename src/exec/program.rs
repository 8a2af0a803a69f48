//! Compiling a graph for one set of input shapes, and running it.
//!
//! Whatever follows from the shapes is settled while compiling ([`compile`], [`plan`]). A node whose
//! shapes depend on the data, or that chooses what runs, stays as it is and is planned, by the same
//! function, each time when its inputs are there.

mod compile;
mod control;
mod gradient;
mod op;
mod plan;

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use burn::backend::DispatchDevice;

use self::control::Control;
pub use self::gradient::Reach;
use self::gradient::is_indifferent;
use self::op::Op;
use super::Device;
use super::operand::{self, Operand};
use super::ops::chain::Chain;
use super::parameters::Parameters;
use super::value::{self, Value};
use crate::graph::{Graph, InferError, Known};
use crate::host::{Array, is_float};
use crate::onnx::proto::NodeProto;

/// Why a graph can't run with these inputs.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
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
    #[error("a temporary file can't be used: {0}")]
    File(#[from] std::io::Error),
}

impl ExecError {
    fn of(node: &NodeProto, reason: impl std::fmt::Display) -> Self {
        Self::Node {
            node: node.label().to_owned(),
            operator: node.operator().to_owned(),
            reason: reason.to_string(),
        }
    }
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

/// One wanted value.
#[derive(Debug, Clone)]
pub struct Output {
    /// `TensorProto.DataType`.
    pub data_type: i32,
    pub dims: Vec<usize>,
    operand: Operand,
}

impl Output {
    /// As float32 on the device that the program ran on.
    pub fn on_device(self, device: &Device) -> Value {
        self.operand.on_device(device.plain())
    }

    /// On the host, in its own type.
    pub fn on_host(&self) -> Arc<Array> {
        let known = Known::shaped(self.data_type, self.dims.clone());
        self.operand.on_host(&known)
    }
}

/// What a run gives.
pub struct Outcome {
    /// The wanted values, in the order in which they were asked for.
    pub outputs: Vec<Output>,
    /// Empty when evaluating.
    pub statistics: Vec<Statistics>,
}

/// A step's work.
#[derive(Debug, Clone)]
enum Work {
    /// Settled by the shapes.
    Ready(Box<Op>),
    /// To be planned when its inputs are there.
    Late(Arc<Late>),
    /// A node with graphs of its own.
    Control(Rc<Control>),
}

/// A node whose results' shapes depend on the data.
#[derive(Debug)]
struct Late {
    node: NodeProto,
    opset: i64,
}

#[derive(Debug, Clone)]
struct Step {
    work: Work,
    /// Slots; `None` for an input that is left out.
    inputs: Vec<Option<usize>>,
    /// `None` for a result that nothing reads.
    outputs: Vec<Option<usize>>,
    /// For each input, whether this step is the last to read it.
    last_use: Vec<bool>,
    /// Tells the random numbers of this node from those of the others.
    node: usize,
    label: String,
    operator: String,
    /// Its results carry no gradient by their nature.
    detached: bool,
}

impl Step {
    /// The work of a step that is settled.
    fn ready(&self) -> Option<&Op> {
        match &self.work {
            Work::Ready(op) if !self.detached => Some(op),
            _ => None,
        }
    }

    /// The elementwise work of a step through which gradients go as through any other.
    fn chain(&self) -> Option<&Chain> {
        match self.ready()? {
            Op::Chain(chain) if !is_indifferent(&self.operator) => Some(chain),
            _ => None,
        }
    }
}

/// Where a slot's value comes from before the first step.
#[expect(
    clippy::large_enum_variant,
    reason = "there are as many as weights and inputs, a few hundred"
)]
#[derive(Debug, Clone)]
enum Source {
    /// Index into the feeds.
    Input(usize),
    /// Name among the parameters.
    Parameter(String),
    /// Known while compiling; what is read on the device is uploaded once.
    Constant {
        array: Arc<Array>,
        uploaded: OnceCell<Value>,
    },
}

/// Floats up to this number of elements stay on the host until they are read.
const SMALL: usize = 8;

impl Source {
    fn constant(array: Arc<Array>) -> Self {
        Self::Constant {
            array,
            uploaded: OnceCell::new(),
        }
    }
}

/// A graph for one set of input shapes.
#[derive(Debug, Clone)]
pub struct Program {
    steps: Vec<Step>,
    sources: Vec<(usize, Source)>,
    outputs: Vec<usize>,
    /// By slot: what is known beforehand.
    known: Vec<Option<Known>>,
}

/// What steps share while a program runs.
pub(super) struct Context<'a> {
    pub device: &'a DispatchDevice,
    pub mode: Mode,
    pub statistics: &'a mut Vec<Statistics>,
}

impl Program {
    /// Compiles the part of `graph` that the values `wanted` need, for the input shapes `feeds`.
    pub fn compile(
        graph: &Graph,
        feeds: &std::collections::HashMap<String, Vec<usize>>,
        wanted: &[&str],
    ) -> Result<Self, ExecError> {
        compile::compile(graph, feeds, wanted)
    }

    /// Runs the program. `inputs` stand in the order of the graph's inputs (see
    /// [`super::operand::feed`]); `parameters` come from [`upload`], those whose gradients are wanted
    /// tracked.
    pub fn run(
        &self,
        device: &Device,
        parameters: &Parameters,
        inputs: &[Operand],
        mode: Mode,
    ) -> Result<Outcome, ExecError> {
        let mut statistics = Vec::new();
        let mut context = Context {
            device: device.plain(),
            mode,
            statistics: &mut statistics,
        };
        let fed: Vec<(Operand, Option<Known>)> =
            inputs.iter().map(|input| (input.clone(), None)).collect();
        let outputs = match mode {
            Mode::Evaluate => {
                parameters.unchanged(|| self.run_with(parameters, &fed, &mut context))?
            }
            _ => self.run_with(parameters, &fed, &mut context)?,
        };
        Ok(Outcome {
            outputs,
            statistics,
        })
    }

    /// Runs the program in the middle of another. Inputs come with what is known of them where the
    /// program itself does not know it.
    fn run_with(
        &self,
        parameters: &Parameters,
        inputs: &[(Operand, Option<Known>)],
        context: &mut Context,
    ) -> Result<Vec<Output>, ExecError> {
        let mut slots: Vec<Option<Operand>> = vec![None; self.known.len()];
        // What only the run tells.
        let mut found: Vec<Option<Known>> = vec![None; self.known.len()];
        for (slot, source) in &self.sources {
            slots[*slot] = Some(match source {
                Source::Input(index) => {
                    let (operand, known) = &inputs[*index];
                    found[*slot].clone_from(known);
                    operand.clone()
                }
                Source::Parameter(name) => Operand::Device(parameters[name].clone()),
                Source::Constant { array, uploaded } => {
                    if is_float(array.data_type) && array.len() > SMALL {
                        let upload = || operand::upload(array, context.device);
                        Operand::Device(uploaded.get_or_init(upload).clone())
                    } else {
                        Operand::Host(array.clone())
                    }
                }
            });
        }
        for step in &self.steps {
            let mut operands: Vec<Option<Operand>> = step
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
            let failed = |reason: crate::graph::params::RuleError| ExecError::Node {
                node: step.label.clone(),
                operator: step.operator.clone(),
                reason: reason.to_string(),
            };
            let knowledge = |operands: &[Option<Operand>]| -> Vec<Option<Known>> {
                operands
                    .iter()
                    .zip(&step.inputs)
                    .map(|(operand, slot)| {
                        let slot = (*slot)?;
                        let known = found[slot].as_ref().or(self.known[slot].as_ref());
                        Some(operand.as_ref()?.known(known))
                    })
                    .collect()
            };
            let (results, told) = match &step.work {
                Work::Ready(op) => {
                    let results = op.run(&mut operands, context, step.node).map_err(failed)?;
                    (results, None)
                }
                Work::Late(late) => {
                    let known = knowledge(&operands);
                    let (results, told) = plan::run_late(
                        &late.node, late.opset, operands, known, context, step.node,
                    )?;
                    (results, Some(told))
                }
                Work::Control(control) => {
                    let known = knowledge(&operands);
                    let outputs = control.run(operands, known, parameters, context)?;
                    let told = outputs
                        .iter()
                        .map(|output| Known::shaped(output.data_type, output.dims.clone()))
                        .collect();
                    let results = outputs.into_iter().map(|output| output.operand).collect();
                    (results, Some(told))
                }
            };
            for (index, (slot, result)) in step.outputs.iter().zip(results).enumerate() {
                if let Some(slot) = *slot {
                    if let Some(told) = &told {
                        found[slot] = told.get(index).cloned();
                    }
                    slots[slot] = Some(result);
                }
            }
        }
        self.outputs
            .iter()
            .map(|&slot| {
                let operand = slots[slot].clone().ok_or_else(|| {
                    ExecError::Missing("of an output that a node leaves out".to_owned())
                })?;
                let known = found[slot].as_ref().or(self.known[slot].as_ref());
                let (data_type, dims) = match (&operand, known) {
                    (Operand::Host(array), _) => (array.data_type, array.dims.clone()),
                    (_, Some(known)) => (known.data_type, known.dims.clone()),
                    (Operand::Device(value), None) => {
                        (crate::onnx::proto::data_type::FLOAT, value::dims(value))
                    }
                };
                Ok(Output {
                    data_type,
                    dims,
                    operand,
                })
            })
            .collect()
    }
}
