//! What the service tells about a model.

use std::collections::BTreeMap;

use super::coupling::Couplings;
use super::{Cost, Graph, Shapes, cost, feeds_for_batch, infer};
use crate::onnx::dtype_name;
use crate::onnx::proto::ValueInfoProto;
use crate::spec::model::{Dimension, LayerInfo, ModelSummary, TensorInfo};

/// Shapes for the smallest batch, where they can be known.
fn shapes_of_one(graph: &Graph) -> Option<(Shapes, usize)> {
    let feeds = feeds_for_batch(graph, 1).ok()?;
    let batch = graph
        .inputs
        .first()
        .and_then(|input| feeds.get(input.label()))
        .and_then(|dims| dims.first())
        .copied()
        .unwrap_or(1);
    Some((infer(graph, &feeds).ok()?, batch))
}

/// Cost with MACs where the shapes can be known from the file alone.
pub(crate) fn cost_of_one(graph: &Graph) -> Cost {
    match shapes_of_one(graph) {
        Some((shapes, batch)) => cost(graph, Some((&shapes, batch))),
        None => cost(graph, None),
    }
}

/// What the graph holds and costs.
pub fn summarize(graph: &Graph) -> ModelSummary {
    let total = cost_of_one(graph);
    let mut operators = BTreeMap::new();
    for node in &graph.nodes {
        *operators.entry(node.operator().to_owned()).or_insert(0) += 1;
    }
    let prepared = |value: &ValueInfoProto| TensorInfo {
        prepared: graph.is_prepared(value.label()),
        ..tensor_info(value)
    };
    ModelSummary {
        opset: Some(graph.opset),
        producer: graph.producer(),
        parameters: total.parameters,
        nonzero_parameters: total.nonzero_parameters,
        macs: total.macs,
        inputs: graph.inputs.iter().map(prepared).collect(),
        outputs: graph.outputs.iter().map(tensor_info).collect(),
        operators,
        trainable: graph.unsupported.is_empty() && !graph.trainable().is_empty(),
        not_trainable_because: None,
        unsupported_operators: graph.unsupported.iter().cloned().collect(),
        tokenizer: None,
    }
}

fn tensor_info(value: &ValueInfoProto) -> TensorInfo {
    let (kind, dims) = value.tensor().unwrap_or_default();
    let shape = dims
        .unwrap_or_default()
        .iter()
        .map(|dim| match (dim.dim_value, &dim.dim_param) {
            (Some(size), _) if size > 0 => Dimension::Fixed(size),
            (_, Some(name)) => Dimension::Dynamic(name.clone()),
            _ => Dimension::Dynamic(String::new()),
        })
        .collect();
    TensorInfo {
        name: value.label().to_owned(),
        dtype: dtype_name(kind),
        shape,
        prepared: false,
    }
}

/// The layers of a graph: every node with parameters or MACs, its cost and its group.
pub fn layers(graph: &Graph) -> Vec<LayerInfo> {
    let total = cost_of_one(graph);
    let couplings = feeds_for_batch(graph, 2)
        .and_then(|feeds| infer(graph, &feeds))
        .ok()
        .map(|shapes| Couplings::find(graph, &shapes, &|_| false));
    total
        .nodes
        .iter()
        .map(|entry| {
            let node = &graph.nodes[entry.node];
            let group = couplings
                .as_ref()
                .and_then(|c| c.groups_of_node.get(&entry.node).map(|g| &c.groups[g[0]]));
            let blocked_by = match &couplings {
                Some(couplings) => couplings.blocked.get(&entry.node).cloned(),
                None => Some("the shapes of the graph can't be inferred".to_owned()),
            };
            LayerInfo {
                name: node.label().to_owned(),
                operator: node.operator().to_owned(),
                output: node.output.first().cloned().unwrap_or_default(),
                output_shape: entry.output.iter().map(|&size| size as i64).collect(),
                parameters: entry.parameters,
                nonzero_parameters: entry.nonzero_parameters,
                macs: entry.macs,
                prunable: group.is_some(),
                group: group.map(|group| group.name.clone()),
                blocked_by,
            }
        })
        .collect()
}
