//! If, Loop and Scan: nodes that run graphs of their own.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::backend::Dispatch;
use burn::backend::ops::FloatTensorOps;

use super::compile::compile_body;
use super::{Context, ExecError, Output, Parameters, Program};
use crate::exec::operand::Operand;
use crate::exec::ops::shape::slice;
use crate::exec::value;
use crate::graph::params::RuleError;
use crate::graph::{Known, Slicing, normalize_axis};
use crate::host::{Array, join, section};
use crate::onnx::proto::NodeProto;

/// Most turns of a loop.
const MOST_TURNS: i64 = 1 << 20;

/// An If, Loop or Scan with its bodies compiled.
#[derive(Debug)]
pub(super) struct Control {
    node: NodeProto,
    /// By attribute name.
    bodies: Vec<(String, Body)>,
    /// Values from around the node, which the bodies get behind their own inputs.
    captured: Vec<String>,
}

#[derive(Debug)]
struct Body {
    program: Program,
    inputs: usize,
    outputs: usize,
}

/// A value and what is known of it.
type Held = (Operand, Option<Known>);

impl Control {
    pub fn of(node: &NodeProto, opsets: &BTreeMap<String, i64>) -> Result<Self, ExecError> {
        let wrong = |error: RuleError| ExecError::of(node, error);
        let captured: Vec<String> = node.captured().map_err(wrong)?.into_iter().collect();
        let bodies = node
            .bodies()
            .map_err(wrong)?
            .into_iter()
            .map(|(name, body)| {
                let program = compile_body(&body, &captured, opsets)?;
                let body = Body {
                    program,
                    inputs: body.input.len(),
                    outputs: body.output.len(),
                };
                Ok((name.to_owned(), body))
            })
            .collect::<Result<_, ExecError>>()?;
        Ok(Self {
            node: node.clone(),
            bodies,
            captured,
        })
    }

    /// Names of all values that the node reads: its inputs, then what its bodies capture.
    pub fn reads(&self, node: &NodeProto) -> Vec<String> {
        node.input.iter().chain(&self.captured).cloned().collect()
    }

    fn body(&self, name: &str) -> Result<&Body, ExecError> {
        let found = self.bodies.iter().find(|(own, _)| own == name);
        found
            .map(|(_, body)| body)
            .ok_or_else(|| ExecError::of(&self.node, format!("has no graph `{name}`")))
    }

    pub fn run(
        &self,
        operands: Vec<Option<Operand>>,
        known: Vec<Option<Known>>,
        parameters: &Parameters,
        context: &mut Context,
    ) -> Result<Vec<Output>, ExecError> {
        let mut held: Vec<Option<Held>> = operands
            .into_iter()
            .zip(known)
            .map(|(operand, known)| operand.map(|operand| (operand, known)))
            .collect();
        let captured: Vec<Held> = held
            .split_off(self.node.input.len())
            .into_iter()
            .flatten()
            .collect();
        match self.node.operator() {
            "If" => {
                let condition = self
                    .flag(held.first())?
                    .ok_or_else(|| self.wrong("has no condition"))?;
                let branch = if condition {
                    "then_branch"
                } else {
                    "else_branch"
                };
                self.body(branch)?
                    .program
                    .run_with(parameters, &captured, context)
            }
            "Loop" => self.run_loop(held, &captured, parameters, context),
            _ => self.run_scan(held, &captured, parameters, context),
        }
    }

    fn wrong(&self, reason: &str) -> ExecError {
        ExecError::of(&self.node, reason)
    }

    fn flag(&self, held: Option<&Option<Held>>) -> Result<Option<bool>, ExecError> {
        match held {
            Some(Some((Operand::Host(array), _))) => {
                let value = array.scalar().map_err(|e| ExecError::of(&self.node, e))?;
                Ok(Some(value != 0.0))
            }
            Some(Some(_)) => Err(self.wrong("has a condition that is no bool")),
            _ => Ok(None),
        }
    }

    fn run_loop(
        &self,
        held: Vec<Option<Held>>,
        captured: &[Held],
        parameters: &Parameters,
        context: &mut Context,
    ) -> Result<Vec<Output>, ExecError> {
        let body = self.body("body")?;
        let turns = match held.first() {
            Some(Some((Operand::Host(array), _))) => {
                let turns = array.ints().map_err(|e| ExecError::of(&self.node, e))?;
                turns.first().copied().unwrap_or(0)
            }
            _ => i64::MAX,
        };
        let mut going = self.flag(held.get(1))?.unwrap_or(true);
        let mut carried: Vec<Held> = held.into_iter().skip(2).flatten().collect();
        let states = carried.len();
        if body.inputs != states + 2 || body.outputs < states + 1 {
            return Err(self.wrong("has a body whose inputs or outputs don't fit"));
        }
        let mut collected: Vec<Vec<Output>> = vec![Vec::new(); body.outputs - states - 1];
        let mut turn = 0;
        while going && turn < turns {
            if turn == MOST_TURNS {
                return Err(self.wrong("runs more turns than any model needs"));
            }
            let number = Array::int64(vec![], vec![turn]);
            let condition = Array::bools(vec![], [going]);
            let mut inputs: Vec<Held> = [number, condition]
                .into_iter()
                .map(|array| (Operand::Host(Arc::new(array)), None))
                .collect();
            inputs.append(&mut carried);
            inputs.extend_from_slice(captured);
            let mut outputs = body
                .program
                .run_with(parameters, &inputs, context)?
                .into_iter();
            let condition = outputs.next().map(Output::held);
            going = self.flag(Some(&condition))?.unwrap_or(false);
            carried = keep(outputs, states, &mut collected);
            turn += 1;
        }
        let mut results: Vec<Output> = carried.into_iter().map(Output::of).collect();
        for all in collected {
            results.push(self.stack(all, 0, false, context)?);
        }
        Ok(results)
    }

    fn run_scan(
        &self,
        held: Vec<Option<Held>>,
        captured: &[Held],
        parameters: &Parameters,
        context: &mut Context,
    ) -> Result<Vec<Output>, ExecError> {
        let body = self.body("body")?;
        let fed = self.node.int("num_scan_inputs").unwrap_or(1).max(0) as usize;
        let mut carried: Vec<Held> = held.into_iter().flatten().collect();
        let states = carried
            .len()
            .checked_sub(fed)
            .filter(|states| body.inputs == states + fed && body.outputs >= *states)
            .ok_or_else(|| self.wrong("has a body whose inputs or outputs don't fit"))?;
        let scanned = carried.split_off(states);
        let list = |name: &str, index: usize| {
            let given = self.node.ints(name).and_then(|given| given.get(index));
            given.copied().unwrap_or(0)
        };
        let mut axes = Vec::with_capacity(fed);
        let mut turns = None;
        for (index, (operand, known)) in scanned.iter().enumerate() {
            let dims = dims_of(operand, known.as_ref());
            let axis = normalize_axis(list("scan_input_axes", index), dims.len())
                .map_err(|e| ExecError::of(&self.node, e))?;
            if *turns.get_or_insert(dims[axis]) != dims[axis] {
                return Err(self.wrong("scans inputs of unequal length"));
            }
            axes.push(axis);
        }
        let turns = turns.unwrap_or(0);
        let mut collected: Vec<Vec<Output>> = vec![Vec::new(); body.outputs - states];
        for turn in 0..turns {
            let mut inputs = std::mem::take(&mut carried);
            for (index, (held, &axis)) in scanned.iter().zip(&axes).enumerate() {
                let backwards = list("scan_input_directions", index) == 1;
                let place = if backwards { turns - 1 - turn } else { turn };
                inputs.push(one_of(held, axis, place, context));
            }
            inputs.extend_from_slice(captured);
            let outputs = body
                .program
                .run_with(parameters, &inputs, context)?
                .into_iter();
            carried = keep(outputs, states, &mut collected);
        }
        let mut results: Vec<Output> = carried.into_iter().map(Output::of).collect();
        for (index, all) in collected.into_iter().enumerate() {
            let backwards = list("scan_output_directions", index) == 1;
            results.push(self.stack(all, list("scan_output_axes", index), backwards, context)?);
        }
        Ok(results)
    }

    /// Joins what the turns gave along a new axis.
    fn stack(
        &self,
        mut parts: Vec<Output>,
        axis: i64,
        backwards: bool,
        context: &Context,
    ) -> Result<Output, ExecError> {
        if backwards {
            parts.reverse();
        }
        let Some(first) = parts.first() else {
            return Err(self.wrong("makes no turn, so a result has no shape"));
        };
        let (data_type, own) = (first.data_type, first.dims.clone());
        if parts.iter().any(|part| part.dims != own) {
            return Err(self.wrong("gives results of unequal shapes, which can't be joined"));
        }
        let axis = normalize_axis(axis, own.len() + 1).map_err(|e| ExecError::of(&self.node, e))?;
        let mut dims = own;
        dims.insert(axis, 1);
        let operand = if parts
            .iter()
            .all(|part| matches!(part.operand, Operand::Host(_)))
        {
            let arrays: Vec<Array> = parts
                .iter()
                .map(|part| part.on_host().reshaped(dims.clone()))
                .collect();
            let joined = join(&arrays, axis).map_err(|e| ExecError::of(&self.node, e))?;
            Operand::Host(Arc::new(joined))
        } else {
            let values = parts
                .into_iter()
                .map(|part| value::reshape(part.operand.on_device(context.device), &dims))
                .collect::<Vec<_>>();
            dims[axis] = values.len();
            Operand::Device(Dispatch::float_cat(values, axis))
        };
        let dims = match &operand {
            Operand::Host(array) => array.dims.clone(),
            Operand::Device(_) => dims,
        };
        Ok(Output {
            data_type,
            dims,
            operand,
        })
    }
}

impl Output {
    fn held(self) -> Held {
        let known = Known::shaped(self.data_type, self.dims);
        (self.operand, Some(known))
    }

    fn of((operand, known): Held) -> Self {
        let dims = dims_of(&operand, known.as_ref());
        let data_type = match (&operand, &known) {
            (Operand::Host(array), _) => array.data_type,
            (_, Some(known)) => known.data_type,
            _ => crate::onnx::proto::data_type::FLOAT,
        };
        Self {
            data_type,
            dims,
            operand,
        }
    }
}

/// Sorts what a turn gave: the first `states` results are carried on, the others collected.
fn keep(
    mut outputs: impl Iterator<Item = Output>,
    states: usize,
    collected: &mut [Vec<Output>],
) -> Vec<Held> {
    let carried = outputs.by_ref().take(states).map(Output::held).collect();
    for (all, one) in collected.iter_mut().zip(outputs) {
        all.push(one);
    }
    carried
}

fn dims_of(operand: &Operand, known: Option<&Known>) -> Vec<usize> {
    match (operand, known) {
        (Operand::Host(array), _) => array.dims.clone(),
        (_, Some(known)) => known.dims.clone(),
        (Operand::Device(value), None) => value::dims(value),
    }
}

/// The slice at `place` of `axis`, without the axis.
fn one_of(held: &Held, axis: usize, place: usize, context: &Context) -> Held {
    let (operand, known) = held;
    let mut dims = dims_of(operand, known.as_ref());
    match operand {
        Operand::Host(array) => {
            let array = section(array, axis, place);
            (Operand::Host(Arc::new(array)), None)
        }
        Operand::Device(value) => {
            let ranges = dims
                .iter()
                .enumerate()
                .map(|(own, &size)| {
                    if own == axis {
                        (place, 1, 1)
                    } else {
                        (0, 1, size)
                    }
                })
                .collect();
            let part = slice(value.clone(), &Slicing { ranges }, context.device);
            dims.remove(axis);
            let known = known
                .as_ref()
                .map(|known| Known::shaped(known.data_type, dims.clone()));
            (Operand::Device(value::reshape(part, &dims)), known)
        }
    }
}
