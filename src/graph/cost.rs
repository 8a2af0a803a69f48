//! What a graph costs: parameters and multiply-accumulates.

use std::collections::BTreeSet;

use super::{Family, Graph, Shapes, family};

/// Cost of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeCost {
    pub node: usize,
    /// Shape of the first output; empty when unknown.
    pub output: Vec<usize>,
    /// Elements of the weights that this node is the first to use.
    pub parameters: u64,
    pub nonzero_parameters: u64,
    /// For one example.
    pub macs: u64,
}

/// Cost of a graph.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cost {
    pub parameters: u64,
    pub nonzero_parameters: u64,
    /// For one example; `None` without shapes.
    pub macs: Option<u64>,
    /// Nodes with parameters or MACs, in order.
    pub nodes: Vec<NodeCost>,
}

/// Counts parameters and, where `shapes` (for a batch of `batch`) are known, MACs.
///
/// Parameters are what training changes; running statistics of batch normalisation and scalar
/// constants are none. MACs are those of convolutions, matrix products and recurrent layers: for each
/// output element (each gate at each step) the length of the sum behind it; a zero weight counts like any
/// other.
pub fn cost(graph: &Graph, shapes: Option<(&Shapes, usize)>) -> Cost {
    let trainable = graph.trainable();
    let mut seen = BTreeSet::new();
    let mut total = Cost {
        macs: shapes.map(|_| 0),
        ..Cost::default()
    };
    for (index, node) in graph.nodes.iter().enumerate() {
        let mut entry = NodeCost {
            node: index,
            output: Vec::new(),
            parameters: 0,
            nonzero_parameters: 0,
            macs: 0,
        };
        for name in &node.input {
            if let Some(&name) = trainable.get(name.as_str())
                && seen.insert(name)
            {
                let values = graph.initializers[name].floats().unwrap_or_default();
                entry.parameters += values.len() as u64;
                entry.nonzero_parameters += values.iter().filter(|&&v| v != 0.0).count() as u64;
            }
        }
        if let Some((shapes, batch)) = shapes {
            entry.macs = node_macs(graph, index, shapes) / batch.max(1) as u64;
            if let Some(known) = node.output.first().and_then(|name| shapes.get(name)) {
                entry.output = known.dims.clone();
            }
        }
        total.parameters += entry.parameters;
        total.nonzero_parameters += entry.nonzero_parameters;
        if let Some(macs) = &mut total.macs {
            *macs += entry.macs;
        }
        if entry.parameters > 0 || entry.macs > 0 {
            total.nodes.push(entry);
        }
    }
    total
}

fn node_macs(graph: &Graph, index: usize, shapes: &Shapes) -> u64 {
    let node = &graph.nodes[index];
    let elements = |name: Option<&str>| {
        name.and_then(|name| shapes.get(name))
            .map_or(0, |known| known.dims.iter().product::<usize>() as u64)
    };
    let weight = || {
        node.input_at(1)
            .and_then(|name| shapes.get(name))
            .map(|known| &known.dims)
    };
    let output = elements(node.output.first().map(String::as_str));
    match family(node) {
        Some(Family::Conv) => {
            let per_output = weight().map_or(0, |w| w[1..].iter().product::<usize>());
            output * per_output as u64
        }
        Some(Family::ConvTranspose) => {
            let per_input = weight().map_or(0, |w| w[1..].iter().product::<usize>());
            elements(node.input_at(0)) * per_input as u64
        }
        Some(Family::Gemm) => {
            let transposed = node.int("transA").unwrap_or(0) == 1;
            let sum = node
                .input_at(0)
                .and_then(|name| shapes.get(name))
                .map_or(0, |a| a.dims[usize::from(!transposed)]);
            output * sum as u64
        }
        Some(Family::MatMul) => {
            let sum = node
                .input_at(0)
                .and_then(|name| shapes.get(name))
                .and_then(|a| a.dims.last().copied())
                .unwrap_or(0);
            output * sum as u64
        }
        Some(Family::Recurrent) => {
            let dims = |index: usize| {
                let known = shapes.get(node.input_at(index)?)?;
                Some(known.dims.as_slice())
            };
            let Some([first, second, _]) = dims(0) else {
                return 0;
            };
            let weights = elements(node.input_at(1)) + elements(node.input_at(2));
            (first * second) as u64 * weights
        }
        _ => 0,
    }
}
