//! Residual blocks: what a graph can leave out whole.
//!
//! A block is what lies between a value and an Add that adds it to what was computed of it,
//! `y = x + f(x)`. Without the block, y is x (He et al., "Deep Residual Learning", CVPR 2016, section 3.1;
//! Veit et al., "Residual Networks Behave Like Ensembles of Relatively Shallow Networks", NeurIPS 2016,
//! section 4.1).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::infer::InferError;
use super::{Family, Graph, Shapes, family, feeds_for_batch, infer};
use crate::onnx::proto::NodeProto;

/// One residual block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Index of the Add that ends it.
    pub add: usize,
    /// The value that takes the place of the Add's result.
    pub trunk: String,
    /// Nodes that nothing needs without it, the Add among them.
    pub nodes: Vec<usize>,
}

/// The residual blocks of a graph, in order.
#[derive(Debug, Clone, Default)]
pub struct Blocks {
    pub blocks: Vec<Block>,
    /// By the index of an Add: why what ends there can't be left out.
    pub blocked: BTreeMap<usize, String>,
}

impl Blocks {
    /// Finds the blocks that hold weights. One with a node whose name `excluded` accepts stays.
    pub fn find(graph: &Graph, shapes: &Shapes, excluded: &dyn Fn(&str) -> bool) -> Self {
        let producers: HashMap<&str, usize> = graph.producers().into_iter().collect();
        let needed = live(graph, &BTreeMap::new());
        let captured: BTreeSet<String> = graph
            .nodes
            .iter()
            .flat_map(|node| node.captured().unwrap_or_default())
            .collect();
        let mut found = Self::default();
        for (add, node) in graph.nodes.iter().enumerate() {
            let sums = matches!(node.operator(), "Add" | "Sum") && node.input.len() == 2;
            if !sums || !needed[add] || family(node).is_none() {
                continue;
            }
            let made = |name: &String| producers.contains_key(name.as_str());
            let (a, b) = (&node.input[0], &node.input[1]);
            let trunk = if made(b) && descends(graph, &producers, b, a) {
                a
            } else if made(a) && descends(graph, &producers, a, b) {
                b
            } else {
                if [a, b]
                    .into_iter()
                    .all(|way| holds_weights_alone(graph, &producers, add, way))
                {
                    let reason =
                        "has weights on both of its ways, so that none could stand for the sum";
                    found.blocked.insert(add, reason.to_owned());
                }
                continue;
            };
            let without = BTreeMap::from([(node.output[0].as_str(), trunk.as_str())]);
            let left = live(graph, &without);
            let nodes: Vec<usize> = (0..graph.nodes.len())
                .filter(|&index| needed[index] && !left[index])
                .collect();
            if !nodes
                .iter()
                .any(|&index| has_weights(graph, &graph.nodes[index]))
            {
                continue;
            }
            let dims = |name: &str| shapes.get(name).map(|known| &known.dims);
            let reason = if dims(trunk).is_none() || dims(trunk) != dims(&node.output[0]) {
                "changes the shape of what it adds to"
            } else if nodes
                .iter()
                .flat_map(|&index| &graph.nodes[index].output)
                .any(|name| captured.contains(name))
            {
                "is read inside of a subgraph"
            } else if nodes
                .iter()
                .any(|&index| excluded(graph.nodes[index].label()))
            {
                "is excluded by the request"
            } else {
                found.blocks.push(Block {
                    add,
                    trunk: trunk.clone(),
                    nodes,
                });
                continue;
            };
            found.blocked.insert(add, reason.to_owned());
        }
        found
    }

    /// The graph without the blocks of these indices. Its shapes are inferred anew to prove that it
    /// fits together.
    pub fn without(&self, graph: &Graph, gone: &BTreeSet<usize>) -> Result<Graph, InferError> {
        let mut result = graph.clone();
        let trunks: BTreeMap<&str, &str> = gone
            .iter()
            .map(|&index| &self.blocks[index])
            .map(|block| {
                (
                    graph.nodes[block.add].output[0].as_str(),
                    block.trunk.as_str(),
                )
            })
            .collect();
        let left = live(graph, &trunks);
        for node in &mut result.nodes {
            for input in &mut node.input {
                *input = stand_in(&trunks, input).to_owned();
            }
        }
        let outputs: BTreeSet<&str> = graph.outputs.iter().map(|output| output.label()).collect();
        for &index in gone {
            let block = &self.blocks[index];
            let sum = graph.nodes[block.add].output[0].as_str();
            if outputs.contains(sum) {
                // The output keeps its name.
                let old = &graph.nodes[block.add];
                result.nodes[block.add] = NodeProto {
                    input: vec![stand_in(&trunks, &block.trunk).to_owned()],
                    output: vec![sum.to_owned()],
                    name: old.name.clone(),
                    op_type: Some("Identity".to_owned()),
                    ..NodeProto::default()
                };
            }
        }
        let mut index = 0;
        result.nodes.retain(|node| {
            index += 1;
            left[index - 1]
                || (node.operator() == "Identity" && outputs.contains(node.output[0].as_str()))
        });
        result.drop_unused_initializers();
        result.forget_recorded_shapes();
        infer(&result, &feeds_for_batch(&result, 2)?)?;
        Ok(result)
    }
}

/// What is read in the place of `name` where each key gives way to its value.
fn stand_in<'a>(instead: &BTreeMap<&'a str, &'a str>, mut name: &'a str) -> &'a str {
    while let Some(&other) = instead.get(name) {
        name = other;
    }
    name
}

/// Which nodes the outputs of a graph need, where each key of `instead` gives way to its value.
fn live(graph: &Graph, instead: &BTreeMap<&str, &str>) -> Vec<bool> {
    let mut wanted: BTreeSet<String> = graph
        .outputs
        .iter()
        .map(|output| stand_in(instead, output.label()).to_owned())
        .collect();
    let mut live = vec![false; graph.nodes.len()];
    // Topological order, so a reader comes after what it reads.
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        if !node.output.iter().any(|name| wanted.contains(name)) {
            continue;
        }
        live[index] = true;
        let captured = node.captured().unwrap_or_default();
        for name in node.input.iter().chain(&captured) {
            wanted.insert(stand_in(instead, name).to_owned());
        }
    }
    live
}

/// Whether `value` is computed from `from`.
fn descends(graph: &Graph, producers: &HashMap<&str, usize>, value: &str, from: &str) -> bool {
    let floor = producers.get(from).copied();
    let mut seen = BTreeSet::new();
    let mut open: Vec<usize> = producers.get(value).copied().into_iter().collect();
    while let Some(index) = open.pop() {
        let node = &graph.nodes[index];
        let captured = node.captured().unwrap_or_default();
        for name in node.input.iter().chain(&captured) {
            if name == from {
                return true;
            }
            // What was made before `from` can't have been made of it.
            if let Some(&maker) = producers.get(name.as_str())
                && floor.is_none_or(|floor| maker > floor)
                && seen.insert(maker)
            {
                open.push(maker);
            }
        }
    }
    false
}

/// Whether the nodes that only `way` into the node `add` needs hold weights.
fn holds_weights_alone(
    graph: &Graph,
    producers: &HashMap<&str, usize>,
    add: usize,
    way: &str,
) -> bool {
    let mut value = way;
    // Up the chain of single inputs: enough to tell a projection from a stem.
    while let Some(&maker) = producers.get(value) {
        let node = &graph.nodes[maker];
        if maker >= add {
            return false;
        }
        if has_weights(graph, node) {
            return true;
        }
        let mut data = node
            .input
            .iter()
            .filter(|name| producers.contains_key(name.as_str()));
        match (data.next(), data.next()) {
            (Some(one), None) => value = one,
            _ => return false,
        }
    }
    false
}

/// Whether a node multiplies with weights of its own.
fn has_weights(graph: &Graph, node: &NodeProto) -> bool {
    matches!(
        family(node),
        Some(
            Family::Conv
                | Family::ConvTranspose
                | Family::Gemm
                | Family::MatMul
                | Family::Recurrent
        )
    ) && node.input.iter().any(|name| {
        let tensor = graph.initializers.get(name);
        tensor.is_some_and(|tensor| tensor.floats().is_some() && tensor.dims.len() >= 2)
    })
}
