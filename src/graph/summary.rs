//! What the service tells about a model.

use std::collections::BTreeMap;

use super::coupling::Couplings;
use super::{Cost, Graph, NodeCost, Shapes, cost, feeds_for_batch, infer};
use crate::onnx::dtype_name;
use crate::onnx::proto::{NodeProto, ValueInfoProto};
use crate::spec::model::{Dimension, LayerInfo, ModelSummary, NodeInfo, TensorInfo};

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

/// What can be cut, where the shapes can be inferred.
fn couplings(graph: &Graph) -> Option<Couplings> {
    let shapes = feeds_for_batch(graph, 2).and_then(|feeds| infer(graph, &feeds));
    Some(Couplings::find(graph, &shapes.ok()?, &|_| false))
}

/// The set of channels that a node's weights belong to first.
fn group_of(couplings: Option<&Couplings>, node: usize) -> Option<String> {
    let couplings = couplings?;
    let groups = couplings.groups_of_node.get(&node)?;
    Some(couplings.groups[groups[0]].name.clone())
}

/// The layers of a graph: every node with parameters or MACs, its cost and its group.
pub fn layers(graph: &Graph) -> Vec<LayerInfo> {
    let total = cost_of_one(graph);
    let couplings = couplings(graph);
    total
        .nodes
        .iter()
        .map(|entry| {
            let node = &graph.nodes[entry.node];
            let group = group_of(couplings.as_ref(), entry.node);
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
                group,
                blocked_by,
            }
        })
        .collect()
}

/// All nodes of a graph in the order in which they can be computed, and how they hang together.
pub fn nodes(graph: &Graph) -> Vec<NodeInfo> {
    let shapes = shapes_of_one(graph);
    let total = match &shapes {
        Some((shapes, batch)) => cost(graph, Some((shapes, *batch))),
        None => cost(graph, None),
    };
    let costs: BTreeMap<usize, &NodeCost> = total
        .nodes
        .iter()
        .map(|entry| (entry.node, entry))
        .collect();
    let couplings = couplings(graph);
    let named = |names: &[String], wanted: &dyn Fn(&str) -> bool| -> Vec<String> {
        let names = names.iter().filter(|name| !name.is_empty());
        names.filter(|name| wanted(name)).cloned().collect()
    };
    let dims = |name: &String| {
        let known = shapes
            .as_ref()
            .and_then(|(shapes, _)| shapes.get(name.as_str()));
        known.map_or_else(Vec::new, |known| {
            known.dims.iter().map(|&size| size as i64).collect()
        })
    };
    let describe = |(index, node): (usize, &NodeProto)| NodeInfo {
        name: node.label().to_owned(),
        operator: node.operator().to_owned(),
        inputs: named(&node.input, &|name| !graph.initializers.contains_key(name)),
        outputs: named(&node.output, &|_| true),
        output_shape: node.output.first().map_or_else(Vec::new, dims),
        parameters: costs.get(&index).map_or(0, |entry| entry.parameters),
        nonzero_parameters: costs
            .get(&index)
            .map_or(0, |entry| entry.nonzero_parameters),
        macs: costs.get(&index).map_or(0, |entry| entry.macs),
        group: group_of(couplings.as_ref(), index),
    };
    graph.nodes.iter().enumerate().map(describe).collect()
}
