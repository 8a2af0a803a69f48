//! What is known about an uploaded model.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::fit::InferredInput;
use super::job::Task;
use super::tokens::TokenizerInfo;

/// The file format of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelFormat {
    Onnx,
    Safetensors,
}

impl ModelFormat {
    /// The name as JSON and the database have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::Safetensors => "safetensors",
        }
    }
}

/// One dimension of a declared shape: a number, or the name of a dynamic axis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Dimension {
    Fixed(i64),
    /// A dynamic axis; `""` where the file gives it no name.
    Dynamic(String),
}

impl Dimension {
    pub fn fixed(&self) -> Option<i64> {
        match self {
            Self::Fixed(size) => Some(*size),
            Self::Dynamic(_) => None,
        }
    }
}

/// A named input or output of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TensorInfo {
    pub name: String,
    /// `float32`, `int64`, …, as NumPy names them.
    pub dtype: String,
    pub shape: Vec<Dimension>,
    /// Whether the model scales and normalises this input itself, since a job was asked to `embed_preprocessing`.
    /// Left out where it does not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prepared: bool,
}

/// What the graph of a model holds and costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelSummary {
    /// Version of the `ai.onnx` operator set; `null` for a file without a graph.
    pub opset: Option<i64>,
    /// Name and version of the program that wrote the file.
    pub producer: String,
    /// Elements of all weights that training changes, as PyTorch counts them: running statistics of
    /// batch normalisation and scalar constants are none.
    pub parameters: u64,
    pub nonzero_parameters: u64,
    /// Multiply-accumulates for one example; `null` where the shapes can't be known.
    pub macs: Option<u64>,
    pub inputs: Vec<TensorInfo>,
    pub outputs: Vec<TensorInfo>,
    /// How many nodes of each operator.
    pub operators: BTreeMap<String, u64>,
    /// Whether a `train` job can work on it.
    pub trainable: bool,
    /// Why not, where it can't: the node without a gradient for instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_trainable_because: Option<String>,
    /// Operators that this version can't run.
    pub unsupported_operators: Vec<String>,
    /// The tokenizer that the model was uploaded with, or that of the model it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<TokenizerInfo>,
    /// What the job that made the model did with its data. Left out of models that no job made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expects: Option<Expected>,
}

/// What a job did with its data, which a job on what it made does alike where its request says nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Expected {
    pub task: Task,
    /// How numbers, images, recordings and texts became the inputs.
    pub inputs: Vec<InferredInput>,
    /// Name of the output that was compared with the target.
    pub output: String,
    /// What the outputs are called, where the data set had words for its classes: others with these names are numbered alike.
    #[serde(default)]
    pub class_names: Option<Vec<String>>,
}

impl ModelSummary {
    /// How its inputs were prepared by the job that made it.
    pub fn expected_inputs(&self) -> &[InferredInput] {
        self.expects
            .as_ref()
            .map_or(&[], |expected| &expected.inputs)
    }
}

/// One node that holds parameters or costs MACs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LayerInfo {
    pub name: String,
    pub operator: String,
    /// The tensor that it makes: what `pairs` of a distillation name.
    #[serde(default)]
    pub output: String,
    /// Shape of the first output, for a batch of one; empty when unknown.
    pub output_shape: Vec<i64>,
    pub parameters: u64,
    pub nonzero_parameters: u64,
    pub macs: u64,
    /// Whether its weights make channels that can be removed.
    pub prunable: bool,
    /// The set of channels that its output is part of and that must leave together: layers with the same name are
    /// coupled. A normalisation is in the set of what it normalises.
    pub group: Option<String>,
    /// Sets of the channels that it takes in: its weights shrink with them, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub input_groups: Vec<String>,
    /// Why channels can't be removed, where they can't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_by: Option<String>,
}

/// One node of a model's graph.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeInfo {
    pub name: String,
    pub operator: String,
    /// Tensors that it reads, in order, without weights and other constants: inputs of the model, or `outputs` of nodes
    /// before it.
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    /// Shape of the first output, for a batch of one; empty when unknown.
    pub output_shape: Vec<i64>,
    pub parameters: u64,
    pub nonzero_parameters: u64,
    pub macs: u64,
    /// As of a layer.
    pub group: Option<String>,
    /// As of a layer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub input_groups: Vec<String>,
}
