//! Shapes of every value in a graph for given input shapes, without running it.

use std::collections::HashMap;
use std::sync::Arc;

use super::known::Known;
use super::params::{RuleError, checked_elements};
use super::{Family, Graph, family, shape_rules};
use crate::host::{self, Array, Call};
use crate::onnx::proto::{NodeProto, data_type};

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
    #[error(
        "the size of axis {axis} of the input `{input}` is not known: the file leaves it open, and the data set of a job settles it"
    )]
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
/// open, and so is any that has the same name (a recurrent state may be `[layers, batch, units]`); a size that the file
/// fixes stays, and other open sizes are those of the data's examples.
pub fn feeds_for_batch(
    graph: &Graph,
    batch: usize,
) -> Result<HashMap<String, Vec<usize>>, InferError> {
    let mut feeds = HashMap::new();
    let first = graph
        .inputs
        .first()
        .and_then(|input| input.tensor()?.1?.first());
    let named = first.and_then(|dim| dim.dim_param.as_deref().filter(|name| !name.is_empty()));
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
                    None if named.is_some() && dim.dim_param.as_deref() == named => batch,
                    None => return Err(InferError::OpenAxis { input: name, axis }),
                },
            });
        }
        feeds.insert(name, shape);
    }
    Ok(feeds)
}

/// Longest value that is computed beforehand.
const LONGEST: usize = 4096;

/// What is known of every value when the inputs have the shapes `feeds`. Values whose shapes depend
/// on the data, and what follows from them, are left out.
pub fn infer(graph: &Graph, feeds: &HashMap<String, Vec<usize>>) -> Result<Shapes, InferError> {
    let mut shapes = Shapes::new();
    let (trained, running) = (graph.trainable(), graph.running_statistics());
    for (name, tensor) in &graph.initializers {
        // What training changes must not be folded into what is known beforehand.
        let changes = trained.contains(name.as_str()) || running.contains(name.as_str());
        let longest = match tensor.floats() {
            Some(_) if changes || tensor.dims.len() > 1 => 0,
            Some(_) => 8,
            None => LONGEST,
        };
        let value = (tensor.elements() <= longest)
            .then(|| Array::of_tensor(tensor).ok())
            .flatten();
        shapes.insert(
            name.clone(),
            Known {
                data_type: tensor.data_type,
                dims: tensor.dims.clone(),
                value: value.map(Arc::new),
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
        shapes.insert(name.to_owned(), Known::shaped(kind, fed.clone()));
    }
    for node in &graph.nodes {
        let open = |name: &String| !name.is_empty() && !shapes.contains_key(name);
        if node.input.iter().any(open) {
            continue;
        }
        let inputs = known_inputs(node, &shapes);
        if let Told::Outputs(outputs) = tell(node, graph.opset_of(node), &inputs)? {
            let named = node.output.iter().zip(outputs);
            for (name, known) in named.filter(|(name, _)| !name.is_empty()) {
                shapes.insert(name.clone(), known);
            }
        }
    }
    Ok(shapes)
}

/// The known inputs of a node, in order; `None` for one that is left out.
pub(crate) fn known_inputs<'a>(node: &NodeProto, shapes: &'a Shapes) -> Vec<Option<&'a Known>> {
    node.input.iter().map(|name| shapes.get(name)).collect()
}

/// What can be told of a node's results before it runs.
#[derive(Debug)]
pub(crate) enum Told {
    Outputs(Vec<Known>),
    /// The shapes depend on the elements of inputs, for the reason given.
    Open(RuleError),
}

/// What is known of the results of `node`, all inputs of which are known by type and shape at least.
pub(crate) fn tell(
    node: &NodeProto,
    opset: i64,
    inputs: &[Option<&Known>],
) -> Result<Told, InferError> {
    let rule = |source: RuleError| InferError::Rule {
        node: node.label().to_owned(),
        operator: node.operator().to_owned(),
        source,
    };
    let Some(family) = family(node) else {
        return Err(InferError::Unsupported {
            node: node.label().to_owned(),
            operator: node.operator().to_owned(),
        });
    };
    let least = least_inputs(node, family);
    if (0..least).any(|index| inputs.get(index).copied().flatten().is_none()) {
        return Err(rule(RuleError::new(format!("needs {least} inputs"))));
    }
    if let Some(outputs) = fold(node, opset, inputs, LONGEST).map_err(rule)? {
        return Ok(Told::Outputs(outputs.into_iter().map(Known::of).collect()));
    }
    let outputs = match shape_rules::output_shapes(node, family, opset, inputs) {
        Ok(outputs) => outputs,
        Err(error) if error.open => return Ok(Told::Open(error)),
        Err(error) => return Err(rule(error)),
    };
    for dims in &outputs {
        checked_elements(dims).map_err(rule)?;
    }
    let kinds = shape_rules::output_kinds(node, inputs);
    Ok(Told::Outputs(
        outputs
            .into_iter()
            .zip(kinds.iter().cycle())
            .map(|(dims, &kind)| Known::shaped(kind, dims))
            .collect(),
    ))
}

/// The results of a node whose inputs are all known by value, where they have at most `most`
/// elements; `None` where they have to wait for the run.
pub(crate) fn fold(
    node: &NodeProto,
    opset: i64,
    inputs: &[Option<&Known>],
    most: usize,
) -> Result<Option<Vec<Arc<Array>>>, RuleError> {
    if matches!(node.operator(), "Shape" | "Size") {
        return Ok(inputs
            .first()
            .copied()
            .flatten()
            .map(|input| vec![Arc::new(shape_of(node, input))]));
    }
    let random = node.operator().starts_with("Random")
        || matches!(node.operator(), "Bernoulli" | "Multinomial");
    // Of what a value is cast like the type alone counts.
    let is_like = |place: usize| node.operator() == "CastLike" && place == 1;
    let Some(inputs) = inputs
        .iter()
        .enumerate()
        .map(|(place, input)| match input {
            Some(known) if is_like(place) && known.data_type != data_type::STRING => {
                Some(Some(Arc::new(Array::empty(known.data_type))))
            }
            Some(known) => known.value.clone().map(Some),
            None => Some(None),
        })
        .collect::<Option<Vec<_>>>()
        .filter(|_| !random)
    else {
        return Ok(None);
    };
    let call = Call {
        node,
        opset,
        inputs: &inputs,
        most,
    };
    match host::evaluate(&call) {
        None => Ok(None),
        Some(Ok(outputs)) => Ok(Some(outputs.into_iter().map(Arc::new).collect())),
        Some(Err(error)) if error.too_large => Ok(None),
        Some(Err(error)) => Err(error),
    }
}

/// Shape (with `start` and `end` of opset 15) and Size.
fn shape_of(node: &NodeProto, input: &Known) -> Array {
    if node.operator() == "Size" {
        let count: usize = input.dims.iter().product();
        return Array::int64(vec![], vec![count as i64]);
    }
    let rank = input.dims.len() as i64;
    let clamp = |axis: i64| {
        let axis = if axis < 0 {
            axis.saturating_add(rank)
        } else {
            axis
        };
        axis.clamp(0, rank) as usize
    };
    let start = clamp(node.int("start").unwrap_or(0));
    let end = clamp(node.int("end").unwrap_or(rank)).max(start);
    let sizes: Vec<i64> = input.dims[start..end]
        .iter()
        .map(|&size| size as i64)
        .collect();
    Array::int64(vec![sizes.len()], sizes)
}

/// How many inputs a node can't do without.
fn least_inputs(node: &NodeProto, family: Family) -> usize {
    match family {
        Family::BatchNormalization => 5,
        Family::Recurrent | Family::Where | Family::Scatter | Family::Attention => 3,
        Family::Conv
        | Family::ConvTranspose
        | Family::Gemm
        | Family::MatMul
        | Family::Binary
        | Family::PRelu
        | Family::Gated
        | Family::Reshape
        | Family::Expand
        | Family::LayerNormalization
        | Family::Cumulative
        | Family::Gather => 2,
        Family::GroupNormalization if node.operator() != "MeanVarianceNormalization" => 3,
        Family::RotaryEmbedding => 3,
        Family::Host | Family::Control => 0,
        _ => 1,
    }
}

/// Before opset 13 the default axis was 1.
pub(crate) fn softmax_axis(node: &NodeProto, opset: i64) -> i64 {
    node.int("axis").unwrap_or(if opset < 13 { 1 } else { -1 })
}
