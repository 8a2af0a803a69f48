//! From nodes to steps: every attribute, constant and shape is settled here.

use std::collections::{HashMap, HashSet};

use super::{CompileError, Op, Program, Source, Step};
use crate::exec::ops::elementwise::{Binary, Unary};
use crate::exec::ops::linear::Gemm;
use crate::exec::ops::reduce::Reduce;
use crate::exec::ops::resize::Resize;
use crate::exec::ops::shape::{Fill, SpaceDepth};
use crate::exec::ops::window::{Conv, ConvTranspose, Pool};
use crate::graph::params;
use crate::graph::{
    Family, Graph, Known, Shapes, family, infer, known_inputs, normalize_axis, softmax_axis,
};
use crate::onnx::proto::{NodeProto, data_type};

pub(super) fn compile(
    graph: &Graph,
    feeds: &HashMap<String, Vec<usize>>,
    wanted: &[&str],
) -> Result<Program, CompileError> {
    let shapes = infer(graph, feeds)?;
    let needed = needed_nodes(graph, &shapes, wanted);
    let mut compiler = Compiler {
        graph,
        shapes: &shapes,
        slots: HashMap::new(),
        sources: Vec::new(),
        count: 0,
    };
    let mut steps = Vec::new();
    for (index, node) in graph.nodes.iter().enumerate() {
        if !needed.contains(&index) {
            continue;
        }
        let (op, operands) =
            build(node, graph.opset, &shapes).map_err(|reason| CompileError::Node {
                node: node.label().to_owned(),
                operator: node.operator().to_owned(),
                reason,
            })?;
        let inputs = operands
            .iter()
            .map(|operand| operand.map(|name| compiler.slot(name)).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        let outputs = match &op {
            Op::Split { .. } => node.output.iter().map(String::as_str).collect(),
            _ => vec![node.output.first().map_or("", String::as_str)],
        };
        let outputs = outputs
            .into_iter()
            .map(|name| compiler.fresh(name))
            .collect();
        steps.push(Step {
            op,
            last_use: vec![false; inputs.len()],
            inputs,
            outputs,
            node: index,
        });
    }
    let outputs: Vec<usize> = wanted
        .iter()
        .map(|name| compiler.slot(name))
        .collect::<Result<_, _>>()?;
    let mut seen: HashSet<usize> = outputs.iter().copied().collect();
    for step in steps.iter_mut().rev() {
        for (slot, last) in step.inputs.iter().zip(&mut step.last_use).rev() {
            *last = slot.is_some_and(|slot| seen.insert(slot));
        }
    }
    Ok(Program {
        steps,
        sources: compiler.sources,
        outputs,
        slots: compiler.count,
    })
}

/// Nodes on the way to the wanted values, without those whose results are known already.
fn needed_nodes(graph: &Graph, shapes: &Shapes, wanted: &[&str]) -> HashSet<usize> {
    let producers = graph.producers();
    let mut needed = HashSet::new();
    let mut open: Vec<&str> = wanted.to_vec();
    while let Some(name) = open.pop() {
        let known = shapes.get(name).is_some_and(|known| known.value.is_some());
        if let (Some(&index), false) = (producers.get(name), known)
            && needed.insert(index)
        {
            open.extend(graph.nodes[index].input.iter().map(String::as_str));
        }
    }
    needed
}

struct Compiler<'a> {
    graph: &'a Graph,
    shapes: &'a Shapes,
    slots: HashMap<String, usize>,
    sources: Vec<(usize, Source)>,
    count: usize,
}

impl Compiler<'_> {
    fn fresh(&mut self, name: &str) -> usize {
        let slot = self.count;
        self.count += 1;
        self.slots.insert(name.to_owned(), slot);
        slot
    }

    fn slot(&mut self, name: &str) -> Result<usize, CompileError> {
        if let Some(&slot) = self.slots.get(name) {
            return Ok(slot);
        }
        let missing = || CompileError::Missing(name.to_owned());
        let float = self
            .graph
            .initializers
            .get(name)
            .is_some_and(|tensor| tensor.floats().is_some());
        let input = self.graph.inputs.iter().position(|i| i.label() == name);
        let source = match (float, input, self.shapes.get(name)) {
            (true, _, _) => Source::Parameter(name.to_owned()),
            (_, Some(index), _) => Source::Input(index),
            (_, _, Some(known)) => Source::Constant {
                dims: known.dims.clone(),
                elements: known
                    .value
                    .as_ref()
                    .ok_or_else(missing)?
                    .iter()
                    .map(|&element| element as f32)
                    .collect(),
            },
            _ => return Err(missing()),
        };
        let slot = self.fresh(name);
        self.sources.push((slot, source));
        Ok(slot)
    }
}

type Built<'a> = (Op, Vec<Option<&'a str>>);

fn build<'a>(node: &'a NodeProto, opset: i64, shapes: &Shapes) -> Result<Built<'a>, String> {
    let family = family(node).ok_or("is not supported yet")?;
    let inputs = known_inputs(node, shapes);
    let text = |error: params::RuleError| error.to_string();
    let known = |index: usize| -> Result<&Known, String> {
        inputs
            .get(index)
            .copied()
            .flatten()
            .ok_or_else(|| format!("has no input {index}"))
    };
    let constant = |index: usize| -> Result<Option<f32>, String> {
        match node.input_at(index) {
            None => Ok(None),
            Some(name) => shapes
                .get(name)
                .and_then(|known| known.value.as_ref()?.first())
                .map(|&value| Some(value as f32))
                .ok_or_else(|| format!("has an input {index} that depends on the data")),
        }
    };
    let x = &known(0)?.dims;
    let output = node
        .output
        .first()
        .and_then(|name| shapes.get(name))
        .map(|known| known.dims.clone())
        .unwrap_or_default();
    let first = |count: usize| (0..count).map(|index| node.input_at(index)).collect();
    let all = || node.input.iter().map(|name| Some(name.as_str())).collect();
    let spatial_limit = |most: usize| match x.len() {
        rank if rank >= 3 && rank <= most + 2 => Ok(()),
        rank => Err(format!(
            "works on {} spatial axes, which is not supported",
            rank - 2
        )),
    };
    let groups = node.int("group").unwrap_or(1).max(1) as usize;
    Ok(match family {
        Family::Conv => {
            spatial_limit(3)?;
            let window = params::window(node, &x[2..], Some(&known(1)?.dims[2..])).map_err(text)?;
            (Op::Conv(Conv { window, groups }), first(3))
        }
        Family::ConvTranspose => {
            spatial_limit(3)?;
            let (window, extra) =
                params::transposed_window(node, &x[2..], &known(1)?.dims[2..]).map_err(text)?;
            let conv = ConvTranspose {
                window,
                groups,
                extra,
            };
            (Op::ConvTranspose(conv), first(3))
        }
        Family::Gemm => {
            let turned = |name: &str| node.int(name).unwrap_or(0) == 1;
            let gemm = Gemm {
                alpha: node.float("alpha").unwrap_or(1.0),
                beta: node.float("beta").unwrap_or(1.0),
                turn_a: turned("transA"),
                turn_b: turned("transB"),
            };
            (Op::Gemm(gemm), first(3))
        }
        Family::MatMul => (Op::MatMul { output }, first(2)),
        Family::BatchNormalization => {
            let name = |index: usize| node.input_at(index).unwrap_or_default().to_owned();
            let op = Op::BatchNorm {
                epsilon: node.float("epsilon").unwrap_or(1e-5),
                momentum: node.float("momentum").unwrap_or(0.9),
                running_mean: name(3),
                running_variance: name(4),
            };
            (op, first(5))
        }
        Family::Pool => {
            spatial_limit(2)?;
            let window = params::window(node, &x[2..], None).map_err(text)?;
            let average = node.operator() == "AveragePool";
            if average && window.dilation.iter().any(|&dilation| dilation != 1) {
                return Err("averages with dilation, which is not supported".to_owned());
            }
            let pool = Pool {
                window,
                average,
                count_include_pad: node.int("count_include_pad").unwrap_or(0) == 1,
            };
            (Op::Pool(pool), first(1))
        }
        Family::GlobalPool => {
            let average = node.operator() == "GlobalAveragePool";
            (Op::GlobalPool { average }, first(1))
        }
        Family::Unary => {
            let unary = Unary::of(node).ok_or("is not supported yet")?;
            (Op::Unary(unary), first(1))
        }
        Family::Clip => {
            let bound = |name: &str, index: usize| match node.float(name) {
                Some(value) => Ok(Some(value)),
                None => constant(index),
            };
            let clip = Unary::Clip {
                min: bound("min", 1)?.unwrap_or(f32::MIN),
                max: bound("max", 2)?.unwrap_or(f32::MAX),
            };
            (Op::Unary(clip), first(1))
        }
        Family::Cast => match node.int("to").map(|to| to as i32) {
            Some(
                data_type::FLOAT | data_type::DOUBLE | data_type::FLOAT16 | data_type::BFLOAT16,
            ) => (Op::Unary(Unary::Identity), first(1)),
            _ => return Err("casts data to integers, which is not supported".to_owned()),
        },
        Family::Binary => {
            let exponent = node
                .input_at(1)
                .filter(|_| node.operator() == "Pow")
                .and_then(|name| shapes.get(name))
                .and_then(|known| match known.value.as_deref() {
                    Some([exponent]) => Some(*exponent as f32),
                    _ => None,
                });
            match (exponent, Binary::of(node.operator())) {
                (Some(exponent), _) => (Op::Power(exponent), first(1)),
                (None, Some(binary)) => (Op::Binary(binary), first(2)),
                _ => return Err("is not supported yet".to_owned()),
            }
        }
        Family::Variadic => {
            let op = Op::Variadic {
                operation: Binary::of(node.operator()).ok_or("is not supported yet")?,
                mean: node.operator() == "Mean",
            };
            (op, all())
        }
        Family::PRelu => (Op::PRelu, first(2)),
        Family::Softmax => {
            let axis = normalize_axis(softmax_axis(node, opset), x.len()).map_err(text)?;
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
                reduce: Reduce::of(node.operator()).ok_or("is not supported yet")?,
                axes: params::reduction(node, &inputs).map_err(text)?.axes,
                output,
            };
            (op, first(1))
        }
        Family::Concat => {
            let axis = normalize_axis(node.int("axis").unwrap_or(1), x.len()).map_err(text)?;
            (Op::Concat { axis }, all())
        }
        Family::Split => {
            let (axis, sizes) = params::splits(node, &inputs).map_err(text)?;
            (Op::Split { axis, sizes }, first(1))
        }
        Family::Slice => {
            let slicing = params::slicing(node, opset, &inputs).map_err(text)?;
            (Op::Slice(slicing), first(1))
        }
        Family::Reshape | Family::Flatten | Family::Squeeze | Family::Unsqueeze => {
            (Op::Reshape(output), first(1))
        }
        Family::Transpose => {
            let order = params::permutation(node, x.len()).map_err(text)?;
            (Op::Transpose(order), first(1))
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
                other => return Err(format!("pads in mode `{other}`, which is not supported")),
            };
            let pads = params::pads(node, &inputs).map_err(text)?;
            (Op::Pad { pads, fill }, first(1))
        }
        Family::Resize => {
            let (to, scales) = params::resized(node, opset, &inputs).map_err(text)?;
            (
                Op::Resize(Resize::of(node, opset, x, &to, &scales)?),
                first(1),
            )
        }
        Family::Gather => {
            let axis = normalize_axis(node.int("axis").unwrap_or(0), x.len()).map_err(text)?;
            let size = x[axis] as i64;
            let indices = known(1)?
                .ints()
                .ok_or("gathers by indices that depend on the data, which is not supported")?
                .into_iter()
                .map(|index| if index < 0 { index + size } else { index })
                .map(|index| {
                    usize::try_from(index)
                        .ok()
                        .filter(|&index| index < x[axis])
                        .ok_or_else(|| format!("gathers index {index} of {size}"))
                })
                .collect::<Result<_, _>>()?;
            let op = Op::Gather {
                axis,
                indices,
                output,
            };
            (op, first(1))
        }
        Family::SpaceDepth => {
            let block = node.int("blocksize").unwrap_or(1).max(1) as usize;
            let operation = match (node.operator(), node.text("mode")) {
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
        Family::Host => return Err("depends on the data, which is not supported yet".to_owned()),
    })
}
