//! From a node and what is known of its inputs to a step's work.

use std::collections::HashMap;
use std::sync::Arc;

use super::op::{HostCall, Op};
use super::{Context, ExecError};
use crate::exec::definition::{Definition, define};
use crate::exec::operand::Operand;
use crate::exec::ops::attention::{Attention, Rotary};
use crate::exec::ops::chain::{Chain, Function};
use crate::exec::ops::einsum::Einsum;
use crate::exec::ops::elementwise::{Binary, Unary};
use crate::exec::ops::linear::Gemm;
use crate::exec::ops::normalization::{BatchNorm, Standardize};
use crate::exec::ops::pick::{Scatter, TopK, index_map};
use crate::exec::ops::recurrent::Recurrent;
use crate::exec::ops::reduce::Reduce;
use crate::exec::ops::resize::Resize;
use crate::exec::ops::shape::{Fill, SpaceDepth};
use crate::exec::ops::window::{Conv, ConvTranspose, Counted, LpPool, Pool};
use crate::graph::params::{self, RuleError, check_broadcasts, check_shape};
use crate::graph::{Equation, Family, Known, Told, family, normalize_axis, softmax_axis, tell};
use crate::host::{self, Array, is_float};
use crate::onnx::proto::{NodeProto, data_type};

/// A node ready to run.
pub(super) enum Planned {
    Step {
        op: Box<Op>,
        /// Which of the node's inputs the work takes, in its order; `None` for one left out.
        reads: Vec<Option<usize>>,
        /// What is known of the results; empty where only the results tell.
        outputs: Vec<Known>,
    },
    /// Other nodes that do the work.
    Parts(Definition),
}

/// The work of `node`; the error tells whether the elements of inputs are all that is missing.
pub(super) fn plan(
    node: &NodeProto,
    opset: i64,
    inputs: &[Option<&Known>],
) -> Result<Result<Planned, RuleError>, ExecError> {
    let wrong = |error: RuleError| ExecError::of(node, error);
    let outputs = match tell(node, opset, inputs)? {
        Told::Outputs(outputs) => outputs,
        Told::Open(error) => {
            if family(node) == Some(Family::Pick)
                && let Some((indices, output)) = index_map(node, opset, inputs).map_err(wrong)?
            {
                let kind = inputs[0].map_or(data_type::FLOAT, |known| known.data_type);
                if is_float(kind) {
                    let op = Op::Pick {
                        indices: Arc::new(indices),
                        output: output.clone(),
                    };
                    return Ok(Ok(Planned::Step {
                        op: Box::new(op),
                        reads: vec![Some(0)],
                        outputs: vec![Known::shaped(kind, output)],
                    }));
                }
            }
            // A definition may tell the shapes as it goes.
            return Ok(match define(node, opset, inputs, &[]) {
                Some(Ok(definition)) => Ok(Planned::Parts(definition)),
                _ => Err(error),
            });
        }
    };
    let on_device = build(node, opset, inputs, &outputs);
    let reason = match on_device {
        Ok((op, reads)) => {
            return Ok(Ok(Planned::Step {
                op: Box::new(op),
                reads,
                outputs,
            }));
        }
        Err(error) => error,
    };
    // What only misses elements keeps its gradient when they are there.
    if reason.open {
        return Ok(Err(reason));
    }
    match define(node, opset, inputs, &outputs) {
        Some(Ok(definition)) => return Ok(Ok(Planned::Parts(definition))),
        Some(Err(error)) if error.open => return Ok(Err(error)),
        _ => {}
    }
    match on_host(node, opset, inputs) {
        Some((op, reads)) => Ok(Ok(Planned::Step {
            op: Box::new(op),
            reads,
            outputs,
        })),
        None => Err(wrong(reason)),
    }
}

/// The work on the host; `None` for an operator that it does not hold.
pub(super) fn on_host(node: &NodeProto, opset: i64, inputs: &[Option<&Known>]) -> Option<Built> {
    host::holds(node).then(|| {
        let call = HostCall {
            node: Arc::new(node.clone()),
            opset,
            inputs: inputs.iter().map(|known| known.cloned()).collect(),
        };
        let reads = inputs
            .iter()
            .enumerate()
            .map(|(index, known)| known.map(|_| index))
            .collect();
        (Op::Host(call), reads)
    })
}

/// Plans a node whose inputs are all there, and runs it.
pub(super) fn run_late(
    node: &NodeProto,
    opset: i64,
    mut operands: Vec<Option<Operand>>,
    mut known: Vec<Option<Known>>,
    context: &mut Context,
    place: usize,
) -> Result<(Vec<Operand>, Vec<Known>), ExecError> {
    let wrong = |error: RuleError| ExecError::of(node, error);
    let hosted = |operand: &Option<Operand>| !matches!(operand, Some(Operand::Device(_)));
    if operands.iter().all(hosted) && host::holds(node) {
        let inputs: Vec<Option<Arc<Array>>> = operands
            .into_iter()
            .map(|operand| match operand {
                Some(Operand::Host(array)) => Some(array),
                _ => None,
            })
            .collect();
        let results = host::run(node, opset, &inputs).map_err(wrong)?;
        let told = results
            .iter()
            .map(|array| Known::shaped(array.data_type, array.dims.clone()))
            .collect();
        return Ok((results.into_iter().map(Operand::Host).collect(), told));
    }
    let mut attempt = {
        let inputs: Vec<Option<&Known>> = known.iter().map(Option::as_ref).collect();
        plan(node, opset, &inputs)?
    };
    // Elements that the device holds may be what is missing; what is fetched has no gradient, so no
    // more than that. The first operand is what others choose from.
    for index in (1..operands.len()).rev() {
        let (Err(_), Some(Operand::Device(_)), Some(about)) =
            (&attempt, &operands[index], &known[index])
        else {
            continue;
        };
        let fetched = operands[index].as_ref().map(|own| own.on_host(about));
        known[index] = fetched.clone().map(Known::of);
        operands[index] = fetched.map(Operand::Host);
        let inputs: Vec<Option<&Known>> = known.iter().map(Option::as_ref).collect();
        attempt = plan(node, opset, &inputs)?;
    }
    let (op, reads, mut outputs) = match attempt {
        Ok(Planned::Step { op, reads, outputs }) => (*op, reads, outputs),
        Ok(Planned::Parts(definition)) => {
            let kept = (operands.clone(), known.clone());
            let outcome = run_parts(node, &definition, operands, known, context, place);
            // What fails in parts may be possible as a whole.
            let (Err(_), true) = (&outcome, host::holds(node)) else {
                return outcome;
            };
            let arrays = kept.0.iter().zip(&kept.1);
            let arrays: Vec<_> = arrays
                .map(|(operand, known)| Some(operand.as_ref()?.on_host(known.as_ref()?)))
                .collect();
            let results = host::run(node, opset, &arrays).map_err(wrong)?;
            let told = results.iter().cloned().map(Known::of).collect();
            return Ok((results.into_iter().map(Operand::Host).collect(), told));
        }
        Err(reason) => {
            let inputs: Vec<Option<&Known>> = known.iter().map(Option::as_ref).collect();
            let Some((op, reads)) = on_host(node, opset, &inputs) else {
                return Err(wrong(reason));
            };
            (op, reads, Vec::new())
        }
    };
    let mut taken: Vec<Option<Operand>> = reads
        .iter()
        .map(|index| operands.get_mut((*index)?)?.take())
        .collect();
    let results = op.run(&mut taken, context, place).map_err(wrong)?;
    for (index, result) in results.iter().enumerate() {
        let Operand::Host(array) = result else {
            continue;
        };
        let known = Known::shaped(array.data_type, array.dims.clone());
        match outputs.get_mut(index) {
            Some(place) => *place = known,
            None => outputs.push(known),
        }
    }
    Ok((results, outputs))
}

/// Runs the nodes that stand for `node`, one after the other.
fn run_parts(
    node: &NodeProto,
    definition: &Definition,
    operands: Vec<Option<Operand>>,
    known: Vec<Option<Known>>,
    context: &mut Context,
    place: usize,
) -> Result<(Vec<Operand>, Vec<Known>), ExecError> {
    let mut values: HashMap<&str, (Operand, Known)> = HashMap::new();
    for ((name, operand), known) in node.input.iter().zip(operands).zip(known) {
        if let (Some(operand), Some(known)) = (operand, known) {
            values.insert(name, (operand, known));
        }
    }
    for (name, array) in &definition.constants {
        let known = Known::of(array.clone());
        values.insert(name, (Operand::Host(array.clone()), known));
    }
    for part in &definition.parts {
        let own = &part.node;
        let taken = own.input.iter().map(|name| values.get(name.as_str()));
        let (operands, known): (Vec<_>, Vec<_>) = taken.map(|value| value.cloned().unzip()).unzip();
        let (results, told) = if part.detached {
            let arrays = operands.iter().zip(&known);
            let arrays: Vec<_> = arrays
                .map(|(operand, known): (&Option<Operand>, &Option<Known>)| {
                    Some(operand.as_ref()?.on_host(known.as_ref()?))
                })
                .collect();
            let results =
                host::run(own, part.opset, &arrays).map_err(|e| ExecError::of(node, e))?;
            let told = results.iter().cloned().map(Known::of).collect();
            (results.into_iter().map(Operand::Host).collect(), told)
        } else {
            run_late(own, part.opset, operands, known, context, place)?
        };
        let told: Vec<Known> = told;
        for ((name, result), known) in own.output.iter().zip(results).zip(&told) {
            if name.is_empty() {
                continue;
            }
            let known = result.known(Some(known));
            values.insert(name, (result, known));
        }
    }
    // Nobody reads a result without a name.
    let nothing = || {
        let array = Arc::new(Array::int64(vec![0], Vec::new()));
        (Operand::Host(array.clone()), Known::of(array))
    };
    let made: Vec<(Operand, Known)> = node
        .output
        .iter()
        .map(|name| match values.remove(name.as_str()) {
            Some(value) => Ok(value),
            None if name.is_empty() => Ok(nothing()),
            None => Err(ExecError::of(node, "lacks a result in its definition")),
        })
        .collect::<Result<_, _>>()?;
    Ok(made.into_iter().unzip())
}

type Built = (Op, Vec<Option<usize>>);

/// The work on the device, with gradients; the error says why there is none.
fn build(
    node: &NodeProto,
    opset: i64,
    inputs: &[Option<&Known>],
    outputs: &[Known],
) -> Result<Built, RuleError> {
    let family = family(node).ok_or_else(|| RuleError::new("is not supported yet"))?;
    if matches!(family, Family::Host | Family::Control) {
        return Err(RuleError::new("is not supported on devices"));
    }
    let (op, reads) = work(node, family, opset, inputs, outputs)?;
    // Operands that must be numbers on the device; the others are read on the host.
    let hosted: &[usize] = match &op {
        Op::Gather { .. } | Op::Scatter(_) => &[1],
        Op::Where { .. } => &[0],
        Op::Attention(_) => &[3],
        Op::Recurrent(_) => &[4],
        _ => &[],
    };
    for index in reads.iter().flatten() {
        let known = inputs.get(*index).copied().flatten();
        if let Some(known) = known
            && !hosted.contains(index)
            && !is_float(known.data_type)
        {
            return Err(RuleError::new(format!(
                "takes {}, which runs on the host only",
                crate::onnx::dtype_name(known.data_type)
            )));
        }
    }
    let given = match &op {
        Op::Split { .. } => usize::MAX,
        Op::Recurrent(_) => 3,
        Op::TopK(_) => 2,
        // The statistics that training folds in stand for the other results.
        Op::BatchNorm { .. } => usize::MAX,
        _ => 1,
    };
    let numbers = if matches!(op, Op::TopK(_)) { 1 } else { given };
    if outputs
        .iter()
        .take(numbers)
        .any(|known| !is_float(known.data_type))
    {
        return Err(RuleError::new("gives a type that devices don't have"));
    }
    if node.output.iter().skip(given).any(|name| !name.is_empty()) {
        return Err(RuleError::new("has results that only the host gives"));
    }
    Ok((op, reads))
}

fn work(
    node: &NodeProto,
    family: Family,
    opset: i64,
    inputs: &[Option<&Known>],
    outputs: &[Known],
) -> Result<Built, RuleError> {
    let known = |index: usize| -> Result<&Known, RuleError> {
        inputs
            .get(index)
            .copied()
            .flatten()
            .ok_or_else(|| RuleError::new(format!("has no input {index}")))
    };
    let constant = |index: usize| -> Result<Option<f32>, RuleError> {
        match inputs.get(index).copied().flatten() {
            None => Ok(None),
            Some(known) => known
                .numbers()
                .and_then(|numbers| numbers.first().map(|&value| Some(value as f32)))
                .ok_or_else(|| RuleError::open("has a number")),
        }
    };
    let unsupported = || RuleError::new("is not supported on devices");
    let x = &known(0)?.dims;
    let output = outputs
        .first()
        .map(|known| known.dims.clone())
        .unwrap_or_default();
    let first = |count: usize| -> Vec<Option<usize>> {
        (0..count)
            .map(|index| inputs.get(index).copied().flatten().map(|_| index))
            .collect()
    };
    let all = || first(inputs.len());
    let spatial_limit = |most: usize| match x.len() {
        rank if rank >= 3 && rank <= most + 2 => Ok(()),
        rank => Err(RuleError::new(format!(
            "works on an input of rank {rank}, which is not supported on devices"
        ))),
    };
    // The bias of a convolution has a number for each channel of its result.
    let fitting_bias = |output: &[usize]| match inputs.get(2).copied().flatten() {
        Some(bias) => check_shape("a bias", &bias.dims, &output[1..2]),
        None => Ok(()),
    };
    let chain = |function: Function| Op::Chain(Chain::of(function, output.clone()));
    let groups = node.int("group").unwrap_or(1).max(1) as usize;
    let axis_of = |default: i64| normalize_axis(node.int("axis").unwrap_or(default), x.len());
    Ok(match family {
        Family::Conv => {
            spatial_limit(3)?;
            let window = params::window(node, &x[2..], Some(&known(1)?.dims[2..]))?;
            fitting_bias(&output)?;
            let conv = Conv {
                window,
                groups,
                norm: None,
                clip: None,
            };
            (Op::Conv(conv), first(3))
        }
        Family::ConvTranspose => {
            spatial_limit(3)?;
            let (window, extra) = params::transposed_window(node, &x[2..], &known(1)?.dims[2..])?;
            let conv = ConvTranspose {
                window,
                groups,
                extra,
            };
            fitting_bias(&output)?;
            (Op::ConvTranspose(conv), first(3))
        }
        Family::Gemm => {
            if let Some(bias) = inputs.get(2).copied().flatten() {
                check_broadcasts("bias", &bias.dims, &output)?;
            }
            let turned = |name: &str| node.int(name).unwrap_or(0) == 1;
            let gemm = Gemm {
                alpha: node.float("alpha").unwrap_or(1.0),
                beta: node.float("beta").unwrap_or(1.0),
                turn_a: turned("transA"),
                turn_b: turned("transB"),
                clip: None,
            };
            (Op::Gemm(gemm), first(3))
        }
        Family::MatMul => (Op::MatMul { output }, first(2)),
        Family::Einsum => {
            let shapes: Vec<&Vec<usize>> =
                inputs.iter().flatten().map(|known| &known.dims).collect();
            let equation = Equation::of(node, &shapes)?;
            (Op::Einsum(Einsum { equation }), all())
        }
        Family::BatchNormalization => {
            if node.int("training_mode") == Some(1) {
                return Err(RuleError::new("is exported in training mode"));
            }
            let name = |index: usize| node.input_at(index).unwrap_or_default().to_owned();
            let norm = BatchNorm {
                epsilon: node.float("epsilon").unwrap_or(1e-5),
                momentum: node.float("momentum").unwrap_or(0.9),
                running_mean: name(3),
                running_variance: name(4),
            };
            (Op::BatchNorm { norm, clip: None }, first(5))
        }
        Family::LayerNormalization | Family::GroupNormalization => {
            let (standardize, reads) = Standardize::of(node, opset, inputs)?;
            (Op::Standardize(standardize), first(reads))
        }
        Family::LpNormalization => {
            let op = Op::LpNormalize {
                axis: axis_of(-1)?,
                order: node.int("p").unwrap_or(2),
            };
            (op, first(1))
        }
        Family::Lrn => {
            spatial_limit(2)?;
            let op = Op::LocalResponse {
                size: node.int("size").unwrap_or(1).clamp(1, 1 << 20) as usize,
                alpha: node.float("alpha").unwrap_or(1e-4),
                beta: node.float("beta").unwrap_or(0.75),
                bias: node.float("bias").unwrap_or(1.0),
            };
            (op, first(1))
        }
        Family::Pool | Family::LpPool => {
            spatial_limit(2)?;
            let window = params::window(node, &x[2..], None)?;
            let average = node.operator() != "MaxPool";
            if average && window.dilation.iter().any(|&dilation| dilation != 1) {
                return Err(RuleError::new(
                    "averages with dilation, which devices don't",
                ));
            }
            let pool = Pool {
                window,
                average,
                counted: match node.int("count_include_pad") {
                    _ if family == Family::LpPool => Counted::All,
                    Some(1) => Counted::Padded,
                    _ => Counted::Elements,
                },
            };
            let op = match family {
                Family::LpPool => Op::LpPool(LpPool {
                    pool,
                    order: node.int("p").unwrap_or(2) as f32,
                }),
                _ => Op::Pool(pool),
            };
            (op, first(1))
        }
        Family::GlobalPool => {
            let average = node.operator() == "GlobalAveragePool";
            (Op::GlobalPool { average }, first(1))
        }
        Family::GlobalLpPool => {
            let order = node.int("p").unwrap_or(2) as f32;
            (Op::GlobalLpPool { order }, first(1))
        }
        Family::Gated => {
            let alpha = node.float("alpha").unwrap_or(1.0);
            (Op::Gated { alpha }, first(2))
        }
        Family::Unary => (
            chain(Function::Unary(Unary::of(node).ok_or_else(unsupported)?)),
            first(1),
        ),
        Family::Clip => {
            let bound = |name: &str, index: usize| match node.float(name) {
                Some(value) => Ok(Some(value)),
                None => constant(index),
            };
            let clip = Unary::Clip {
                min: bound("min", 1)?.unwrap_or(f32::MIN),
                max: bound("max", 2)?.unwrap_or(f32::MAX),
            };
            (chain(Function::Unary(clip)), first(1))
        }
        Family::Cast => match node.int("to").map(|to| to as i32) {
            Some(
                data_type::FLOAT | data_type::DOUBLE | data_type::FLOAT16 | data_type::BFLOAT16,
            ) => (chain(Function::Unary(Unary::Identity)), first(1)),
            _ => return Err(RuleError::new("casts to a type that devices don't have")),
        },
        Family::Binary => {
            let exponent = known(1)?
                .numbers()
                .filter(|numbers| node.operator() == "Pow" && numbers.len() == 1);
            match (exponent.as_deref(), Binary::of(node.operator())) {
                (Some([exponent]), _) => (chain(Function::Power(*exponent as f32)), first(1)),
                (_, Some(binary)) => (chain(Function::Binary(binary)), first(2)),
                _ => return Err(unsupported()),
            }
        }
        Family::Variadic => {
            let op = Op::Variadic {
                operation: Binary::of(node.operator()).ok_or_else(unsupported)?,
                mean: node.operator() == "Mean",
            };
            (op, all())
        }
        Family::PRelu => (Op::PRelu, first(2)),
        Family::Where => (Op::Where { output }, first(3)),
        Family::Softmax => {
            if x.contains(&0) {
                return Err(RuleError::new("normalises nothing, which devices don't"));
            }
            let axis = normalize_axis(softmax_axis(node, opset), x.len())?;
            let op = Op::Softmax {
                first: axis,
                // Before opset 13 all axes from the named one on are normalised together.
                last: if opset < 13 { x.len() } else { axis + 1 },
                logarithm: node.operator() == "LogSoftmax",
            };
            (op, first(1))
        }
        Family::Reduce => {
            let op = Op::Reduce {
                reduce: Reduce::of(node.operator()).ok_or_else(unsupported)?,
                axes: params::reduction(node, inputs)?.axes,
                output,
            };
            if x.contains(&0) {
                return Err(RuleError::new("reduces nothing, which devices don't"));
            }
            (op, first(1))
        }
        Family::Cumulative => {
            let axis = constant(1)?.ok_or_else(|| RuleError::new("has no axis"))?;
            let flag = |name: &str| node.int(name).unwrap_or(0) == 1;
            let op = Op::Cumulate {
                axis: normalize_axis(axis as i64, x.len())?,
                exclusive: flag("exclusive"),
                reverse: flag("reverse"),
            };
            (op, first(1))
        }
        Family::Concat => {
            let axis = axis_of(1)?;
            (Op::Concat { axis }, all())
        }
        Family::Split => {
            let (axis, sizes) = params::splits(node, inputs)?;
            (Op::Split { axis, sizes }, first(1))
        }
        Family::Slice => {
            let slicing = params::slicing(node, opset, inputs)?;
            (Op::Slice(slicing), first(1))
        }
        Family::Reshape | Family::Flatten | Family::Squeeze | Family::Unsqueeze => {
            (Op::Reshape(output), first(1))
        }
        Family::Transpose => {
            let order = params::permutation(node, x.len())?;
            match order.is_empty() {
                true => (chain(Function::Unary(Unary::Identity)), first(1)),
                false => (Op::Transpose(order), first(1)),
            }
        }
        Family::Expand => (Op::Expand(output), first(1)),
        Family::Pad => {
            let value = match node.float("value") {
                Some(value) => Some(value),
                None => constant(2)?,
            };
            let fill = match node.text("mode").unwrap_or("constant") {
                "constant" => Fill::Constant(value.unwrap_or(0.0)),
                "reflect" => Fill::Reflect,
                "edge" => Fill::Edge,
                "wrap" => Fill::Wrap,
                other => {
                    return Err(RuleError::new(format!(
                        "pads in mode `{other}`, which devices don't"
                    )));
                }
            };
            let pads = params::pads(node, inputs)?;
            for (&size, &(before, after)) in x.iter().zip(&pads) {
                let size = size as i64;
                let taken = -(before.min(0) + after.min(0));
                let farthest = before.max(after);
                let possible = match fill {
                    _ if before == 0 && after == 0 => true,
                    Fill::Constant(_) => taken <= size,
                    // Nothing repeats where nothing is; a mirror shows an axis once.
                    Fill::Reflect => taken == 0 && farthest < size,
                    Fill::Edge | Fill::Wrap => taken == 0 && size > 0,
                };
                if !possible {
                    return Err(RuleError::new("pads farther than devices do"));
                }
            }
            (Op::Pad { pads, fill }, first(1))
        }
        Family::Resize => (
            Op::Resize(Resize::of(node, opset, inputs, &output)?),
            first(1),
        ),
        Family::Gather => {
            let axis = axis_of(0)?;
            // Indices that are known are checked now.
            if let Some(indices) = known(1)?.ints() {
                let size = x[axis] as i64;
                if let Some(index) = indices.iter().find(|&&i| i < -size || i >= size) {
                    return Err(RuleError::new(format!(
                        "gathers index {index}, out of range for size {size}"
                    )));
                }
            }
            (Op::Gather { axis, output }, first(2))
        }
        Family::Pick => match index_map(node, opset, inputs)? {
            Some((indices, output)) => {
                let op = Op::Pick {
                    indices: Arc::new(indices),
                    output,
                };
                (op, first(1))
            }
            None => return Err(RuleError::open("picks elements by indices")),
        },
        Family::Scatter => {
            let scatter = Scatter::of(node, opset, x, &known(1)?.dims, &known(2)?.dims)?;
            (Op::Scatter(scatter), first(3))
        }
        Family::TopK => {
            let top = TopK::of(node, opset, known(0)?, &output)?;
            (Op::TopK(top), first(1))
        }
        Family::SpaceDepth => {
            let block = node.int("blocksize").unwrap_or(1).max(1) as usize;
            let operation = match (node.operator(), node.text("mode")) {
                ("SpaceToDepth", Some("CRD")) => SpaceDepth::GatheredColumnFirst(block),
                ("SpaceToDepth", _) => SpaceDepth::Gathered(block),
                (_, Some("CRD")) => SpaceDepth::ColumnFirst(block),
                _ => SpaceDepth::DepthFirst(block),
            };
            (Op::SpaceDepth { operation, output }, first(1))
        }
        Family::Dropout => {
            let ratio = match node.float("ratio") {
                Some(ratio) => ratio,
                None => constant(1)?.unwrap_or(0.5),
            };
            (Op::Dropout { ratio }, first(1))
        }
        Family::Recurrent => {
            let recurrent = Recurrent::of(node, inputs)?;
            let reads = [0, 1, 2, 4, 3, 5, 6, 7]
                .map(|index| inputs.get(index).copied().flatten().map(|_| index));
            (Op::Recurrent(recurrent), reads.to_vec())
        }
        Family::Attention => {
            let attention = Attention::of(node, inputs)?;
            (Op::Attention(attention), first(4))
        }
        Family::RotaryEmbedding => {
            let rotary = Rotary::of(node, inputs)?;
            (Op::Rotary(rotary), first(3))
        }
        Family::Host | Family::Control => return Err(unsupported()),
    })
}
