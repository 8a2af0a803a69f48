//! What the service tells about a model.

use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    cost_with(graph, shapes_of_one(graph).as_ref())
}

fn cost_with(graph: &Graph, shapes: Option<&(Shapes, usize)>) -> Cost {
    cost(graph, shapes.map(|(shapes, batch)| (shapes, *batch)))
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
        expects: graph.expected(),
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

/// The sets of channels of a graph that leave together, and which nodes have a part in them.
struct Memberships {
    /// What can be cut, where the shapes can be inferred.
    couplings: Option<Couplings>,
    /// By weight: the groups that lie along one of its axes.
    of_weight: HashMap<String, BTreeSet<usize>>,
    /// By weight that makes channels out of others: the first node that it does so in.
    kernels: HashMap<String, usize>,
}

impl Memberships {
    fn of(graph: &Graph) -> Self {
        let shapes = feeds_for_batch(graph, 2).and_then(|feeds| infer(graph, &feeds));
        let couplings = shapes
            .ok()
            .map(|shapes| Couplings::find(graph, &shapes, &|_| false));
        let mut of_weight: HashMap<String, BTreeSet<usize>> = HashMap::new();
        let groups = couplings.iter().flat_map(|all| &all.groups).enumerate();
        for (index, group) in groups {
            for slice in group.units.iter().flat_map(|unit| &unit.slices) {
                match of_weight.get_mut(&slice.tensor) {
                    Some(groups) => groups.insert(index),
                    None => of_weight
                        .insert(slice.tensor.clone(), BTreeSet::from([index]))
                        .is_none(),
                };
            }
        }
        Self {
            couplings,
            of_weight,
            kernels: graph
                .kernels()
                .into_iter()
                .map(|(name, node)| (name.to_owned(), node))
                .collect(),
        }
    }

    /// The groups of the channels that a node's own weights make; `None` if they make none of others.
    fn made_by(&self, node: &NodeProto) -> Option<&[usize]> {
        let mut weights = node.input.iter();
        let first = weights.find_map(|name| self.kernels.get(name))?;
        let own = self.couplings.as_ref()?.groups_of_node.get(first);
        Some(own.map_or(&[], Vec::as_slice))
    }

    fn name(&self, group: usize) -> Option<String> {
        Some(self.couplings.as_ref()?.groups.get(group)?.name.clone())
    }

    /// The group that the output of a node belongs to first, by the node's weights, and those of its input alone.
    fn names(&self, node: &NodeProto) -> (Option<String>, Vec<String>) {
        let weights = node.input.iter();
        let along: BTreeSet<usize> = weights
            .filter_map(|name| self.of_weight.get(name))
            .flatten()
            .copied()
            .collect();
        let Some(made) = self.made_by(node) else {
            // What has one number a channel has the same channels before and behind it.
            return (
                along.first().and_then(|&group| self.name(group)),
                Vec::new(),
            );
        };
        let taken = along.iter().filter(|group| !made.contains(group));
        (
            made.first().and_then(|&group| self.name(group)),
            taken.filter_map(|&group| self.name(group)).collect(),
        )
    }
}

/// The layers of a graph: every node with parameters or MACs, its cost and its group.
pub fn layers(graph: &Graph) -> Vec<LayerInfo> {
    let total = cost_of_one(graph);
    let groups = Memberships::of(graph);
    total
        .nodes
        .iter()
        .map(|entry| {
            let node = &graph.nodes[entry.node];
            let (group, input_groups) = groups.names(node);
            let blocked_by = match &groups.couplings {
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
                prunable: groups.made_by(node).is_some_and(|made| !made.is_empty()),
                group,
                input_groups,
                blocked_by,
            }
        })
        .collect()
}

/// All nodes of a graph in the order in which they can be computed, and how they hang together.
pub fn nodes(graph: &Graph) -> Vec<NodeInfo> {
    let shapes = shapes_of_one(graph);
    let total = cost_with(graph, shapes.as_ref());
    let costs: BTreeMap<usize, &NodeCost> = total
        .nodes
        .iter()
        .map(|entry| (entry.node, entry))
        .collect();
    let groups = Memberships::of(graph);
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
    let describe = |(index, node): (usize, &NodeProto)| {
        let cost = costs.get(&index);
        let (group, input_groups) = groups.names(node);
        NodeInfo {
            name: node.label().to_owned(),
            operator: node.operator().to_owned(),
            inputs: named(&node.input, &|name| !graph.initializers.contains_key(name)),
            outputs: named(&node.output, &|_| true),
            output_shape: node.output.first().map_or_else(Vec::new, dims),
            parameters: cost.map_or(0, |entry| entry.parameters),
            nonzero_parameters: cost.map_or(0, |entry| entry.nonzero_parameters),
            macs: cost.map_or(0, |entry| entry.macs),
            group,
            input_groups,
        }
    };
    graph.nodes.iter().enumerate().map(describe).collect()
}
