//! Removing channels, as a value that can be looked at before it is applied.

use std::collections::{BTreeMap, BTreeSet};

use super::coupling::{Couplings, Element, Fix};
use super::infer::InferError;
use super::{Graph, feeds_for_batch, infer};
use crate::onnx::Tensor;

/// Why a cut can't be made.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    #[error("the graph without the channels makes no sense: {0}")]
    Shapes(#[from] InferError),
    #[error("the constant `{0}` that counts channels is used elsewhere in another way")]
    Constant(String),
}

/// Channels to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// By weight and axis, the indices that stay.
    pub kept: BTreeMap<(String, usize), Vec<usize>>,
    /// Attributes that count channels, by node.
    counts: BTreeMap<(usize, &'static str), i64>,
    /// Inputs of zeros that are left out, by node.
    zeros: Vec<(usize, usize)>,
    /// Elements of constants by node and input.
    constants: BTreeMap<(usize, usize), Vec<(usize, i64)>>,
    /// Single numbers by node and input.
    pieces: BTreeMap<(usize, usize), i64>,
    /// Targets of Reshapes by node.
    targets: BTreeMap<usize, Vec<i64>>,
    /// Sizes of a Split's parts by node.
    split_sizes: BTreeMap<usize, Vec<i64>>,
}

impl Cut {
    /// The cut that removes these `(group, unit)` pairs of `couplings`.
    pub fn new(couplings: &Couplings, units: &BTreeSet<(usize, usize)>) -> Self {
        let gone = couplings.removed_atoms(units);
        let stays = |atom: &u32| !gone[*atom as usize];
        let count = |axis: &[u32]| axis.iter().filter(|atom| stays(atom)).count() as i64;
        let size = |element: &Element| match element {
            Element::Copied => 0,
            Element::Inferred => -1,
            Element::Fixed(size) => *size,
            Element::Count(axis) => count(axis),
        };
        let mut cut = Self {
            kept: BTreeMap::new(),
            counts: BTreeMap::new(),
            zeros: Vec::new(),
            constants: BTreeMap::new(),
            pieces: BTreeMap::new(),
            targets: BTreeMap::new(),
            split_sizes: BTreeMap::new(),
        };
        for (key, atoms) in couplings.axes() {
            let kept: Vec<usize> = (0..atoms.len()).filter(|&i| stays(&atoms[i])).collect();
            if kept.len() < atoms.len() {
                cut.kept.insert(key.clone(), kept);
            }
        }
        for fix in couplings.fixes() {
            match fix {
                Fix::Count {
                    node,
                    attribute,
                    axis,
                } => {
                    cut.counts.insert((*node, attribute), count(axis));
                }
                Fix::Zeros { node, input, axis } => {
                    if !axis.iter().all(stays) {
                        cut.zeros.push((*node, *input));
                    }
                }
                Fix::Constant {
                    node,
                    input,
                    index,
                    axis,
                } => cut
                    .constants
                    .entry((*node, *input))
                    .or_default()
                    .push((*index, count(axis))),
                Fix::Piece {
                    node,
                    input,
                    element,
                    atoms,
                } => {
                    if !atoms.iter().all(stays) {
                        cut.pieces.insert((*node, *input), size(element));
                    }
                }
                Fix::Target {
                    node,
                    elements,
                    atoms,
                } => {
                    if !atoms.iter().all(stays) {
                        cut.targets
                            .insert(*node, elements.iter().map(size).collect());
                    }
                }
                Fix::SplitSizes { node, parts } => {
                    cut.split_sizes
                        .insert(*node, parts.iter().map(|part| count(part)).collect());
                }
            }
        }
        cut
    }

    /// The graph without the channels. Its shapes are inferred anew to prove that it fits
    /// together.
    pub fn apply(&self, graph: &Graph) -> Result<Graph, CutError> {
        let mut result = graph.clone();
        for ((name, axis), kept) in &self.kept {
            if let Some(tensor) = result.initializers.get_mut(name) {
                *tensor = tensor.select(*axis, kept);
            }
        }
        for (&(node, attribute), &count) in &self.counts {
            result.nodes[node].set_int(attribute, count);
        }
        for &(node, input) in &self.zeros {
            result.nodes[node].input[input].clear();
        }
        for (&(node, input), elements) in &self.constants {
            // A constant of its own, since another node may read the old numbers.
            let old = result.nodes[node].input[input].clone();
            let Some(mut values) = result
                .initializers
                .get(&old)
                .and_then(|tensor| tensor.ints().map(<[i64]>::to_vec))
            else {
                return Err(CutError::Constant(old));
            };
            for &(index, size) in elements {
                values[index] = size;
            }
            let name = result.unused_name(&format!("{old}_pruned"));
            let tensor = Tensor::int(vec![values.len()], values);
            result.initializers.insert(name.clone(), tensor);
            result.nodes[node].input[input] = name;
        }
        for (&(node, input), &size) in &self.pieces {
            let wanted = format!("{}_piece{input}", result.nodes[node].output[0]);
            let name = result.unused_name(&wanted);
            result
                .initializers
                .insert(name.clone(), Tensor::int(vec![1], vec![size]));
            result.nodes[node].input[input] = name;
        }
        for (&node, target) in &self.targets {
            let name = result.unused_name(&format!("{}_target", result.nodes[node].output[0]));
            let tensor = Tensor::int(vec![target.len()], target.clone());
            result.initializers.insert(name.clone(), tensor);
            result.nodes[node].input[1] = name;
            let attributes = &mut result.nodes[node].attribute;
            attributes.retain(|attribute| attribute.name.as_deref() != Some("allowzero"));
        }
        for (&node, sizes) in &self.split_sizes {
            result.set_split_sizes(node, sizes);
        }
        result.drop_unused_initializers();
        result.forget_recorded_shapes();
        infer(&result, &feeds_for_batch(&result, 2)?)?;
        Ok(result)
    }
}

impl Graph {
    fn set_split_sizes(&mut self, node: usize, sizes: &[i64]) {
        if self.opset < 13 {
            self.nodes[node].set_ints("split", sizes.to_vec());
            return;
        }
        let name = self.unused_name(&format!("{}_split", self.nodes[node].output[0]));
        self.initializers
            .insert(name.clone(), Tensor::int(vec![sizes.len()], sizes.to_vec()));
        let target = &mut self.nodes[node];
        target.input.truncate(1);
        target.input.push(name);
        target
            .attribute
            .retain(|attribute| attribute.name.as_deref() != Some("num_outputs"));
    }

    /// `wanted`, with a number behind it where the name is taken.
    pub(crate) fn unused_name(&self, wanted: &str) -> String {
        let taken = |name: &str| {
            self.initializers.contains_key(name)
                || self
                    .nodes
                    .iter()
                    .any(|n| n.output.iter().any(|o| o == name))
                || self.inputs.iter().any(|input| input.label() == name)
        };
        if !taken(wanted) {
            return wanted.to_owned();
        }
        (1..)
            .map(|number| format!("{wanted}_{number}"))
            .find(|name| !taken(name))
            .expect("there are more numbers than names")
    }

    pub(crate) fn drop_unused_initializers(&mut self) {
        let captured: Vec<BTreeSet<String>> = self
            .nodes
            .iter()
            .map(|node| node.captured().unwrap_or_default())
            .collect();
        let used: BTreeSet<&str> = self
            .nodes
            .iter()
            .flat_map(|node| node.input.iter().map(String::as_str))
            .chain(captured.iter().flatten().map(String::as_str))
            .chain(self.outputs.iter().map(|output| output.label()))
            .collect();
        let unused: Vec<String> = self
            .initializers
            .keys()
            .filter(|name| !used.contains(name.as_str()))
            .cloned()
            .collect();
        for name in unused {
            self.initializers.remove(&name);
        }
    }
}
