//! Shapes of every value in a graph for given input shapes, without running it.

use std::collections::HashMap;

use super::host;
use super::params::{self, RuleError, broadcast, checked_elements, normalize_axis};
use super::{Family, Graph, family};
use crate::onnx::proto::{NodeProto, data_type};

/// What is known about a value before the graph runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// `TensorProto.DataType`.
    pub data_type: i32,
    pub dims: Vec<usize>,
    /// The elements, where they follow from shapes and constants alone.
    pub value: Option<Vec<f64>>,
}

impl Known {
    /// The elements as integers, where they are known.
    pub fn ints(&self) -> Option<Vec<i64>> {
        Some(self.value.as_ref()?.iter().map(|&v| v as i64).collect())
    }
}

/// By value name.
pub type Shapes = HashMap<String, Known>;

/// Why shapes can't be told.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    #[error("node `{node}` ({operator}) {source}")]
    Rule {
        node: String,
        operator: String,
        source: RuleError,
    },
    #[error("node `{node}` uses `{operator}`, which is not supported yet")]
    Unsupported { node: String, operator: String },
    #[error("the size of axis {axis} of the input `{input}` is not known")]
    OpenAxis { input: String, axis: usize },
    #[error("the input `{0}` is no tensor with a known rank")]
    InputType(String),
    #[error("the input `{input}` takes shape {declared:?}, not {fed:?}")]
    Fed {
        input: String,
        declared: Vec<i64>,
        fed: Vec<usize>,
    },
}

/// Input shapes for a batch of `batch`: the first axis is the batch where the file leaves it
/// open, a size that the file fixes stays, and other open sizes are those of the data's examples.
pub fn feeds_for_batch(
    graph: &Graph,
    batch: usize,
) -> Result<HashMap<String, Vec<usize>>, InferError> {
    let mut feeds = HashMap::new();
    for input in &graph.inputs {
        let name = input.label().to_owned();
        let Some((_, Some(dims))) = input.tensor() else {
            return Err(InferError::InputType(name));
        };
        let mut shape = Vec::with_capacity(dims.len());
        let example = graph.example_shapes.get(&name);
        for (axis, dim) in dims.iter().enumerate() {
            shape.push(match dim.dim_value.and_then(|v| usize::try_from(v).ok()) {
                Some(size) if size > 0 => size,
                _ if axis == 0 => batch,
                _ => match example.and_then(|example| example.get(axis - 1)) {
                    Some(&size) => size,
                    None => return Err(InferError::OpenAxis { input: name, axis }),
                },
            });
        }
        feeds.insert(name, shape);
    }
    Ok(feeds)
}

/// Shapes of all values when the inputs have the shapes `feeds`.
pub fn infer(graph: &Graph, feeds: &HashMap<String, Vec<usize>>) -> Result<Shapes, InferError> {
    let mut shapes = Shapes::new();
    let (trained, running) = (graph.trainable(), graph.running_statistics());
    for (name, tensor) in &graph.initializers {
        // What training changes must not be folded into what is known beforehand.
        let changes = trained.contains(name.as_str()) || running.contains(name.as_str());
        let small = tensor.elements() <= 8 && tensor.dims.len() <= 1 && !changes;
        let value = match (tensor.ints(), tensor.floats()) {
            (Some(ints), _) if ints.len() <= host::LONGEST => {
                Some(ints.iter().map(|&v| v as f64).collect())
            }
            (_, Some(floats)) if small => Some(floats.iter().map(|&v| f64::from(v)).collect()),
            _ => None,
        };
        shapes.insert(
            name.clone(),
            Known {
                data_type: tensor.data_type,
                dims: tensor.dims.clone(),
                value,
            },
        );
    }
    for input in &graph.inputs {
        let name = input.label();
        let (kind, declared) = input
            .tensor()
            .ok_or_else(|| InferError::InputType(name.to_owned()))?;
        let fed = feeds
            .get(name)
            .ok_or_else(|| InferError::InputType(name.to_owned()))?;
        if let Some(declared) = declared {
            let sizes: Vec<i64> = declared.iter().map(|d| d.dim_value.unwrap_or(-1)).collect();
            let fits = sizes.len() == fed.len()
                && sizes
                    .iter()
                    .zip(fed)
                    .all(|(&d, &f)| d <= 0 || d == f as i64);
            if !fits {
                return Err(InferError::Fed {
                    input: name.to_owned(),
                    declared: sizes,
                    fed: fed.clone(),
                });
            }
        }
        shapes.insert(
            name.to_owned(),
            Known {
                data_type: kind,
                dims: fed.clone(),
                value: None,
            },
        );
    }
    for node in &graph.nodes {
        let outputs = infer_node(node, graph.opset, &shapes)?;
        for (name, known) in node.output.iter().zip(outputs) {
            shapes.insert(name.clone(), known);
        }
    }
    Ok(shapes)
}

/// The known inputs of a node, in order.
pub(crate) fn known_inputs<'a>(node: &NodeProto, shapes: &'a Shapes) -> Vec<Option<&'a Known>> {
    node.input.iter().map(|name| shapes.get(name)).collect()
}

fn infer_node(node: &NodeProto, opset: i64, shapes: &Shapes) -> Result<Vec<Known>, InferError> {
    let unsupported = || InferError::Unsupported {
        node: node.label().to_owned(),
        operator: node.operator().to_owned(),
    };
    let family = family(node).ok_or_else(unsupported)?;
    let inputs = known_inputs(node, shapes);
    let least = least_inputs(node, family);
    let rule = |source: RuleError| InferError::Rule {
        node: node.label().to_owned(),
        operator: node.operator().to_owned(),
        source,
    };
    if (0..least).any(|index| inputs.get(index).copied().flatten().is_none()) {
        return Err(rule(RuleError::new(format!("needs {least} inputs"))));
    }
    if let Some(outputs) = host::evaluate(node, opset, &inputs).map_err(rule)? {
        return Ok(outputs);
    }
    if family == Family::Host {
        return Err(rule(RuleError::new(
            "works on values that depend on the data, which is not supported yet",
        )));
    }
    let outputs = output_shapes(node, family, opset, &inputs).map_err(rule)?;
    for dims in &outputs {
        checked_elements(dims).map_err(rule)?;
    }
    let kind = match family {
        Family::Cast => node.int("to").unwrap_or(1) as i32,
        _ => inputs
            .first()
            .copied()
            .flatten()
            .map_or(data_type::FLOAT, |known| known.data_type),
    };
    Ok(outputs
        .into_iter()
        .map(|dims| Known {
            data_type: kind,
            dims,
            value: None,
        })
        .collect())
}

/// How many inputs a node can't do without.
fn least_inputs(node: &NodeProto, family: Family) -> usize {
    match (family, node.operator()) {
        (Family::BatchNormalization, _) => 5,
        (Family::Host, "Where" | "Range") => 3,
        (Family::Host, "Shape" | "Size" | "ConstantOfShape" | "Not") => 1,
        (Family::Host, _) => 2,
        (
            Family::Conv
            | Family::ConvTranspose
            | Family::Gemm
            | Family::MatMul
            | Family::Binary
            | Family::PRelu
            | Family::Reshape
            | Family::Expand
            | Family::Gather,
            _,
        ) => 2,
        _ => 1,
    }
}

fn output_shapes(
    node: &NodeProto,
    family: Family,
    opset: i64,
    inputs: &[Option<&Known>],
) -> Result<Vec<Vec<usize>>, RuleError> {
    let dims = |index: usize| -> Result<&Vec<usize>, RuleError> {
        inputs
            .get(index)
            .copied()
            .flatten()
            .map(|known| &known.dims)
            .ok_or_else(|| RuleError::new(format!("has no input {index}")))
    };
    let x = dims(0)?;
    let spatial = |least: usize| {
        x.get(2..)
            .filter(|spatial| spatial.len() >= least)
            .ok_or_else(|| RuleError::new(format!("has an input of rank {}", x.len())))
    };
    let out = match family {
        Family::Conv => {
            let (w, spatial) = (dims(1)?, spatial(1)?);
            let group = group(node)?;
            if w.len() != x.len() || x[1] != w[1] * group || w[0] % group != 0 {
                return Err(RuleError::new(format!(
                    "has a kernel {w:?} in {group} groups that doesn't fit its input {x:?}"
                )));
            }
            let window = params::window(node, spatial, Some(&w[2..]))?;
            [&[x[0], w[0]], &*window.output].concat()
        }
        Family::ConvTranspose => {
            let (w, spatial) = (dims(1)?, spatial(1)?);
            let group = group(node)?;
            if w.len() != x.len() || x[1] != w[0] || w[0] % group != 0 {
                return Err(RuleError::new(format!(
                    "has a kernel {w:?} in {group} groups that doesn't fit its input {x:?}"
                )));
            }
            let (window, _) = params::transposed_window(node, spatial, &w[2..])?;
            [&[x[0], w[1] * group], &*window.output].concat()
        }
        Family::Gemm => {
            let (a, b) = (x, dims(1)?);
            if a.len() != 2 || b.len() != 2 {
                return Err(RuleError::new("needs two matrices"));
            }
            let turn = |name: &str| node.int(name).unwrap_or(0) == 1;
            let (m, k) = if turn("transA") {
                (a[1], a[0])
            } else {
                (a[0], a[1])
            };
            let (l, n) = if turn("transB") {
                (b[1], b[0])
            } else {
                (b[0], b[1])
            };
            if k != l {
                return Err(RuleError::new(format!("can't multiply {a:?} with {b:?}")));
            }
            vec![m, n]
        }
        Family::MatMul => {
            let (a, b) = (x, dims(1)?);
            if a.is_empty() || b.is_empty() {
                return Err(RuleError::new("can't multiply scalars"));
            }
            let left = if a.len() == 1 {
                [&[1], &**a].concat()
            } else {
                a.clone()
            };
            let right = if b.len() == 1 {
                [&**b, &[1]].concat()
            } else {
                b.clone()
            };
            let (m, k) = (left[left.len() - 2], left[left.len() - 1]);
            let (l, n) = (right[right.len() - 2], right[right.len() - 1]);
            if k != l {
                return Err(RuleError::new(format!("can't multiply {a:?} with {b:?}")));
            }
            let mut out = broadcast(&left[..left.len() - 2], &right[..right.len() - 2])?;
            out.extend((a.len() > 1).then_some(m));
            out.extend((b.len() > 1).then_some(n));
            out
        }
        Family::BatchNormalization => {
            for index in 1..5 {
                if x.len() < 2 || dims(index)? != &[x[1]] {
                    return Err(RuleError::new(format!(
                        "has an input {index} that doesn't fit"
                    )));
                }
            }
            let mut outputs = vec![x.clone()];
            outputs.resize(node.output.len().max(1), vec![x[1]]);
            return Ok(outputs);
        }
        Family::Pool => {
            let window = params::window(node, spatial(1)?, None)?;
            if node.output.len() > 1 {
                return Err(RuleError::new(
                    "has an output of indices, which is not supported",
                ));
            }
            [&x[..2], &*window.output].concat()
        }
        Family::GlobalPool => {
            let ones = vec![1; spatial(1)?.len()];
            [&x[..2], &*ones].concat()
        }
        Family::Unary | Family::Clip | Family::Cast => x.clone(),
        Family::Softmax => {
            normalize_axis(softmax_axis(node, opset), x.len())?;
            x.clone()
        }
        Family::Dropout => return Ok(vec![x.clone(); node.output.len().max(1)]),
        Family::Binary | Family::PRelu => broadcast(x, dims(1)?)?,
        Family::Variadic => {
            let mut out = x.clone();
            for index in 1..inputs.len() {
                out = broadcast(&out, dims(index)?)?;
            }
            out
        }
        Family::Reduce => {
            let reduction = params::reduction(node, inputs)?;
            (0..x.len())
                .filter_map(|axis| match reduction.axes.contains(&axis) {
                    false => Some(x[axis]),
                    true if reduction.keep_dims => Some(1),
                    true => None,
                })
                .collect()
        }
        Family::Concat => {
            let axis = normalize_axis(node.int("axis").unwrap_or(1), x.len())?;
            let mut out = x.clone();
            for index in 1..inputs.len() {
                let other = dims(index)?;
                let fits = other.len() == out.len()
                    && (0..out.len()).all(|a| a == axis || other[a] == out[a]);
                if !fits {
                    return Err(RuleError::new(format!("can't join {out:?} and {other:?}")));
                }
                out[axis] += other[axis];
            }
            out
        }
        Family::Split => {
            let (axis, parts) = params::splits(node, inputs)?;
            return Ok(parts
                .into_iter()
                .map(|size| {
                    let mut part = x.clone();
                    part[axis] = size;
                    part
                })
                .collect());
        }
        Family::Slice => {
            let slicing = params::slicing(node, opset, inputs)?;
            slicing.ranges.iter().map(|&(_, _, count)| count).collect()
        }
        Family::Reshape | Family::Flatten | Family::Squeeze | Family::Unsqueeze => {
            params::reshaped(node, opset, inputs)?
        }
        Family::Transpose => {
            let order = params::permutation(node, x.len())?;
            order.iter().map(|&axis| x[axis]).collect()
        }
        Family::Expand => {
            let wanted = inputs
                .get(1)
                .copied()
                .flatten()
                .and_then(Known::ints)
                .ok_or_else(|| RuleError::new("expands to a shape that depends on the data"))?;
            let wanted: Vec<usize> = wanted.iter().map(|&size| size.max(0) as usize).collect();
            broadcast(x, &wanted)?
        }
        Family::Pad => {
            let pads = params::pads(node, inputs)?;
            x.iter()
                .zip(pads)
                .map(|(&size, (before, after))| {
                    (size as i64)
                        .checked_add(before)
                        .and_then(|size| size.checked_add(after))
                        .and_then(|size| usize::try_from(size).ok())
                        .ok_or_else(|| RuleError::new("pads an axis below zero"))
                })
                .collect::<Result<_, _>>()?
        }
        Family::Resize => {
            let (out, _) = params::resized(node, opset, inputs)?;
            if x.contains(&0) || out.contains(&0) {
                return Err(RuleError::new(format!("resizes {x:?} to {out:?}")));
            }
            out
        }
        Family::Gather => {
            let axis = normalize_axis(node.int("axis").unwrap_or(0), x.len())?;
            [&x[..axis], &**dims(1)?, &x[axis + 1..]].concat()
        }
        Family::SpaceDepth => {
            let block = usize::try_from(node.int("blocksize").unwrap_or(0))
                .ok()
                .filter(|&block| block < 1 << 20)
                .ok_or_else(|| RuleError::new("has a block size out of reason"))?;
            let [n, c, h, w] = x[..] else {
                return Err(RuleError::new("needs an input of rank 4"));
            };
            let square = block * block;
            if node.operator() == "DepthToSpace" {
                if square == 0 || c % square != 0 {
                    return Err(RuleError::new("has a block size that doesn't divide"));
                }
                vec![n, c / square, h * block, w * block]
            } else {
                if block == 0 || h % block != 0 || w % block != 0 {
                    return Err(RuleError::new("has a block size that doesn't divide"));
                }
                vec![n, c * square, h / block, w / block]
            }
        }
        Family::Host => return Err(RuleError::new("has no shape rule")),
    };
    Ok(vec![out])
}

fn group(node: &NodeProto) -> Result<usize, RuleError> {
    usize::try_from(node.int("group").unwrap_or(1))
        .ok()
        .filter(|&group| group > 0)
        .ok_or_else(|| RuleError::new("has no groups"))
}

/// Before opset 13 the default axis was 1.
pub(crate) fn softmax_axis(node: &NodeProto, opset: i64) -> i64 {
    node.int("axis").unwrap_or(if opset < 13 { 1 } else { -1 })
}
