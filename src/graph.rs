//! A model as data: nodes, weights, shapes, cost, and edits that can be looked at before they
//! are applied.

pub mod blocks;
mod body;
mod cost;
pub mod coupling;
mod cut;
mod equation;
mod free_batch;
mod function;
mod infer;
mod known;
mod load;
mod operator;
pub(crate) mod params;
mod preprocessing;
pub(crate) mod reading;
mod settle;
mod shape_rules;
mod standard_operators;
mod summary;

use std::collections::{BTreeMap, BTreeSet};

pub use cost::{Cost, NodeCost, cost};
pub use cut::{Cut, CutError};
pub(crate) use equation::{Equation, Label};
pub use infer::{InferError, Shapes, feeds_for_batch, infer};
pub(crate) use infer::{Told, fold, known_inputs, softmax_axis, tell};
pub use known::Known;
pub use load::LoadError;
pub(crate) use operator::defined_weights;
pub use operator::{Family, family};
pub use params::limit_elements;
pub(crate) use params::{Slicing, Window, normalize_axis};
pub use preprocessing::EmbedError;
pub(crate) use summary::cost_of_one;
pub use summary::{layers, nodes, summarize};

use crate::onnx::Tensor;
use crate::onnx::proto::{ModelProto, NodeProto, StringStringEntry, ValueInfoProto};

/// Whether a node takes a mean from an input, or divides it by a deviation.
fn normalises(node: &NodeProto, as_they_come: &BTreeSet<&str>) -> bool {
    matches!(node.operator(), "Sub" | "Div")
        && node
            .input_at(0)
            .is_some_and(|from| as_they_come.contains(from))
}

/// Whether a node passes elements of its first input (of any, for Concat) on as they are.
fn moves(family: Option<Family>, node: &NodeProto) -> bool {
    match family {
        Some(
            Family::Transpose
            | Family::Reshape
            | Family::Flatten
            | Family::Squeeze
            | Family::Unsqueeze
            | Family::Expand
            | Family::Slice
            | Family::Split
            | Family::Concat,
        ) => true,
        Some(Family::Unary) => node.operator() == "Identity",
        Some(Family::Cast) => node
            .int("to")
            .is_some_and(|to| crate::host::is_float(to as i32)),
        _ => false,
    }
}

/// A model's graph.
///
/// Nodes stand in topological order, every value has one producer, and every `Constant` node has
/// become an initializer. What Sinter does not look at (metadata, doc strings, functions) stays in
/// `frame` and is written back.
#[derive(Debug, Clone)]
pub struct Graph {
    pub nodes: Vec<NodeProto>,
    pub initializers: BTreeMap<String, Tensor>,
    /// Inputs that a caller feeds; initializers are not among them.
    pub inputs: Vec<ValueInfoProto>,
    pub outputs: Vec<ValueInfoProto>,
    /// Version of the `ai.onnx` operator set.
    pub opset: i64,
    /// Versions of all operator sets, by domain.
    pub opsets: BTreeMap<String, i64>,
    /// Operators and features that Sinter can't run, sorted.
    pub unsupported: BTreeSet<String>,
    /// Whether tensors are written as `sparse_initializer`s where that is smaller, as in a file that had some.
    pub sparse_storage: bool,
    /// By input: the shape of one example, where data tells what the file leaves open.
    pub example_shapes: BTreeMap<String, Vec<usize>>,
    frame: ModelProto,
    /// Names of initializers that the file also lists as inputs, with their declaration.
    listed_initializers: Vec<ValueInfoProto>,
}

impl Graph {
    /// Checks a model and takes it apart.
    pub fn load(model: ModelProto) -> Result<Self, LoadError> {
        let mut graph = load::load(model)?;
        graph.free_batch();
        Ok(graph)
    }

    /// The model with the graph as it is now; names, metadata, operator sets, and the dynamic
    /// axes of inputs and outputs are those of the file that was loaded.
    pub fn to_model(&self) -> ModelProto {
        let mut model = self.frame.clone();
        // Initializers that are no inputs exist since IR version 4.
        model.ir_version = Some(model.ir_version.unwrap_or(4).max(4));
        let graph = model.graph.get_or_insert_default();
        graph.node = self.nodes.clone();
        let listed: BTreeSet<&str> = self.listed_initializers.iter().map(|l| l.label()).collect();
        for (name, tensor) in &self.initializers {
            // A default of an input is dense.
            let sparse = self.sparse_storage && !listed.contains(name.as_str());
            match sparse.then(|| tensor.encode_sparse(name)).flatten() {
                Some(sparse) => graph.sparse_initializer.push(sparse),
                None => graph.initializer.push(tensor.encode(name)),
            }
        }
        graph.input = self.inputs.clone();
        graph.input.extend(
            self.listed_initializers
                .iter()
                .cloned()
                .filter_map(|mut declared| {
                    let tensor = self.initializers.get(declared.label())?;
                    let shape = declared
                        .r#type
                        .as_mut()?
                        .tensor_type
                        .as_mut()?
                        .shape
                        .as_mut()?;
                    for (dim, &size) in shape.dim.iter_mut().zip(&tensor.dims) {
                        dim.dim_value = Some(size as i64);
                        dim.dim_param = None;
                    }
                    Some(declared)
                }),
        );
        graph.output = self.outputs.clone();
        model
    }

    /// The ONNX file of [`Graph::to_model`]; the same graph gives the same bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        prost::Message::encode_to_vec(&self.to_model())
    }

    /// A property of the model in its file.
    pub fn property(&self, key: &str) -> Option<&str> {
        let all = &self.frame.metadata_props;
        let found = all.iter().find(|entry| entry.key.as_deref() == Some(key));
        found?.value.as_deref()
    }

    /// Writes a property of the model into its file, in the place of an older one.
    pub fn set_property(&mut self, key: &str, value: String) {
        let all = &mut self.frame.metadata_props;
        all.retain(|entry| entry.key.as_deref() != Some(key));
        all.push(StringStringEntry {
            key: Some(key.to_owned()),
            value: Some(value),
        });
    }

    /// Forgets the recorded shapes of values inside the graph, which an edit has made wrong.
    pub(crate) fn forget_recorded_shapes(&mut self) {
        self.frame.graph.get_or_insert_default().value_info.clear();
    }

    /// Name and version of the program that wrote the file.
    fn producer(&self) -> String {
        let name = self.frame.producer_name.as_deref().unwrap_or_default();
        let version = self.frame.producer_version.as_deref().unwrap_or_default();
        format!("{name} {version}").trim().to_owned()
    }

    /// Version of the operator set that defines `node`.
    pub fn opset_of(&self, node: &NodeProto) -> i64 {
        match node.domain.as_deref() {
            None | Some("" | "ai.onnx") => self.opset,
            Some(domain) => self.opsets.get(domain).copied().unwrap_or(1),
        }
    }

    /// Index of the node that makes each value.
    pub fn producers(&self) -> BTreeMap<&str, usize> {
        let mut map = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            for output in node.output.iter().filter(|name| !name.is_empty()) {
                map.insert(output.as_str(), index);
            }
        }
        map
    }

    /// Names of the initializers that training changes: floats in a weight's place (operands of
    /// convolutions and matrix products, biases, normalisation scales, slopes, embeddings, and
    /// elementwise operands of more than one element), or on the way to one through nodes that only
    /// move elements. Running statistics and scalars are none, nor is what an input is normalised by: what is
    /// subtracted from an input, or divides it, before anything is learned about it.
    pub fn trainable(&self) -> BTreeSet<&str> {
        let as_they_come = self.inputs_as_they_come();
        let mut places: BTreeSet<&str> = BTreeSet::new();
        let mut weights = BTreeSet::new();
        for node in self.nodes.iter().rev() {
            let family = family(node);
            let goes_on = moves(family, node)
                && node
                    .output
                    .iter()
                    .any(|name| places.contains(name.as_str()));
            for (index, name) in node.input.iter().enumerate() {
                let moved = goes_on && (index == 0 || family == Some(Family::Concat));
                let place = match family {
                    Some(Family::Conv | Family::ConvTranspose | Family::Gemm | Family::MatMul) => {
                        true
                    }
                    Some(
                        Family::BatchNormalization
                        | Family::LayerNormalization
                        | Family::GroupNormalization,
                    ) => matches!(index, 1 | 2),
                    Some(Family::PRelu) => index == 1,
                    Some(Family::Recurrent) => matches!(index, 1..=3 | 7),
                    Some(Family::Gather) => index == 0,
                    Some(Family::Einsum | Family::Binary | Family::Variadic | Family::Concat) => {
                        true
                    }
                    Some(Family::Host) => defined_weights(node).contains(&index),
                    _ => false,
                };
                if !moved && !place {
                    continue;
                }
                let Some(tensor) = self.initializers.get(name) else {
                    places.insert(name);
                    continue;
                };
                // A table of one axis is a constant that is looked up, a single number a setting.
                let large = match family {
                    Some(Family::Gather) => tensor.dims.len() > 1,
                    Some(Family::Binary | Family::Variadic) => tensor.elements() > 1,
                    // A class token, but no list of sizes or scales.
                    Some(Family::Concat) if !moved => tensor.dims.len() > 1,
                    _ => true,
                };
                let normalises = || index == 1 && normalises(node, &as_they_come);
                if tensor.floats().is_some()
                    && large
                    && !preprocessing::prepares(name)
                    && !normalises()
                {
                    weights.insert(name.as_str());
                }
            }
        }
        weights
    }

    /// The inputs, and what casts, moves, single numbers and normalising make of them.
    fn inputs_as_they_come(&self) -> BTreeSet<&str> {
        let mut found: BTreeSet<&str> = self.inputs.iter().map(|input| input.label()).collect();
        for node in &self.nodes {
            let family = family(node);
            let comes = |name: &String| found.contains(name.as_str());
            let is_setting = |name: &String| {
                let tensor = self.initializers.get(name);
                tensor.is_some_and(|tensor| tensor.elements() == 1 || tensor.floats().is_none())
            };
            let mut given = node.input.iter().filter(|name| !name.is_empty());
            let passes =
                matches!(family, Some(Family::Binary | Family::Cast)) || moves(family, node);
            let is_normalised = normalises(node, &found)
                && node
                    .input_at(1)
                    .is_some_and(|by| self.initializers.contains_key(by));
            let goes_on = is_normalised
                || passes
                    && node.input.iter().any(comes)
                    && given.all(|name| comes(name) || is_setting(name));
            if goes_on {
                found.extend(node.output.iter().map(String::as_str));
            }
        }
        found
    }

    /// Names of running means and variances of batch normalisation.
    pub fn running_statistics(&self) -> BTreeSet<&str> {
        self.initializers_in(&|node, index, _| {
            family(node) == Some(Family::BatchNormalization) && matches!(index, 3 | 4)
        })
    }

    /// Names of the scales of batch normalisation.
    pub fn scales(&self) -> BTreeSet<&str> {
        self.initializers_in(&|node, index, _| {
            family(node) == Some(Family::BatchNormalization) && index == 1
        })
    }

    /// The weights of a node's second input: of a convolution its kernel.
    pub fn kernel_of(&self, node: &NodeProto) -> Option<&Tensor> {
        self.initializers.get(node.input_at(1)?)
    }

    /// Weights that pruning may set to zero one by one, or whose slices are channels: the kernels
    /// of convolutions, matrix products and recurrent layers, with the index of the node that uses them first.
    pub fn kernels(&self) -> BTreeMap<&str, usize> {
        let mut kernels = BTreeMap::new();
        for (node_index, node) in self.nodes.iter().enumerate() {
            for (index, name) in node.input.iter().enumerate() {
                let place = match family(node) {
                    Some(Family::Conv | Family::ConvTranspose) => index == 1,
                    Some(Family::Gemm | Family::MatMul) => index < 2,
                    Some(Family::Recurrent) => matches!(index, 1 | 2),
                    _ => false,
                };
                if place
                    && let Some(tensor) = self.initializers.get(name)
                    && tensor.floats().is_some()
                    && tensor.dims.len() >= 2
                {
                    kernels.entry(name.as_str()).or_insert(node_index);
                }
            }
        }
        kernels
    }

    fn initializers_in(
        &self,
        place: &dyn Fn(&NodeProto, usize, &Tensor) -> bool,
    ) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        for node in &self.nodes {
            for (index, name) in node.input.iter().enumerate() {
                if let Some(tensor) = self.initializers.get(name)
                    && tensor.floats().is_some()
                    && place(node, index, tensor)
                {
                    found.insert(name.as_str());
                }
            }
        }
        found
    }

    /// The output that training and metrics look at: the first of floating-point numbers.
    pub fn main_output(&self) -> Option<&ValueInfoProto> {
        let floats = |output: &&ValueInfoProto| {
            output
                .tensor()
                .is_some_and(|(kind, _)| crate::host::is_float(kind))
        };
        self.outputs.iter().find(floats).or(self.outputs.first())
    }

    /// The main output, or what goes into its closing `operators` (Softmax for instance), for
    /// losses that apply those themselves. An Identity behind them is stepped over.
    pub fn output_before(&self, operators: &[&str]) -> Option<&str> {
        let output = self.main_output()?.label();
        let made_by = |value: &str| {
            self.nodes
                .iter()
                .find(|node| node.output.first().map(String::as_str) == Some(value))
        };
        let mut value = output;
        while let Some(node) = made_by(value) {
            match node.operator() {
                "Identity" => value = node.input_at(0)?,
                operator if operators.contains(&operator) => return node.input_at(0),
                _ => break,
            }
        }
        Some(output)
    }
}
