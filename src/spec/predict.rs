//! A quick look at what a model answers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most examples of one request.
pub const MOST_EXAMPLES: usize = 1024;

/// What a model answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Prediction {
    /// Every output of the model.
    pub outputs: Vec<PredictedTensor>,
    /// For each example the likeliest classes of the main output, the likeliest first, at most five; none of an
    /// example with an output that is infinite or no number. Left out where that is not `[examples, classes]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top: Option<Vec<Vec<PredictedClass>>>,
    /// How the examples were prepared, an input each, for people.
    #[serde(default)]
    pub prepared: Vec<String>,
    /// The examples of a data set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<AskedExample>,
    /// For each of a data set's examples what the data set says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<ExampleTarget>>,
}

/// The target of an example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExampleTarget {
    /// A label; of an example with several values, or of tokens, a list, with `null` for tokens that have none.
    #[schema(value_type = Object)]
    pub value: serde_json::Value,
    /// The label's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
}

/// An example of a data set that was asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AskedExample {
    pub place: u64,
    /// The file's name, or the text itself; left out for numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

/// A named output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PredictedTensor {
    pub name: String,
    /// As NumPy names it.
    pub dtype: String,
    pub shape: Vec<u64>,
    /// Nested lists of that shape; `null` is not a number or infinite.
    #[schema(value_type = Object)]
    pub values: serde_json::Value,
}

/// A class and how likely it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PredictedClass {
    pub label: u64,
    /// Its name, where the data set that the model was made with has names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The softmax of the output, or the output where it is a distribution already.
    pub probability: f64,
}
