//! Scaling and normalisation as a part of the model.

use super::Graph;
use crate::onnx::Tensor;
use crate::onnx::proto::NodeProto;
use crate::spec::fit::{InferredData, InferredInput};
use crate::spec::model::Expected;

/// Names of the tensors that an input is prepared by begin so. They are no weights.
const PREFIX: &str = "sinter_preprocessing";

/// The property of a model's file that says how the job prepared examples that made it, and what its answers mean.
const EXPECTS: &str = "sinter.expects";

/// What is longer was written by nobody's job, and would fill the database.
const LONGEST: usize = 1 << 20;

/// Why an input's preparation can't become a part of the graph.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum EmbedError {
    #[error("the input `{0}` takes no floating-point numbers")]
    NotFloat(String),
    #[error(
        "the model is of operator set {0}, in which Mul and Add do not broadcast (7 and later do)"
    )]
    TooOld(i64),
    #[error("the node `{0}` has graphs of its own that read the input")]
    Nested(String),
}

/// Whether a tensor of this name prepares an input.
pub(super) fn prepares(name: &str) -> bool {
    name.starts_with(PREFIX)
}

impl Graph {
    /// What the job that made the model did with its data; nothing of other files.
    pub fn expected(&self) -> Option<Expected> {
        let told = self.property(EXPECTS)?;
        let told = Some(told).filter(|told| told.len() <= LONGEST)?;
        let mut expected: Expected = serde_json::from_str(told).ok()?;
        expected.inputs.retain(InferredInput::is_sound);
        Some(expected)
    }

    /// Writes into the file what was done with the data.
    pub fn set_expected(&mut self, about: &InferredData) {
        let expected = Expected {
            task: about.task,
            inputs: about.inputs.clone(),
            output: about.output.clone(),
            class_names: about.class_names.clone(),
        };
        let text = serde_json::to_string(&expected).expect("expectations are plain data");
        self.set_property(EXPECTS, text);
    }

    /// Whether an input is scaled or normalised before anything else reads it.
    pub fn is_prepared(&self, input: &str) -> bool {
        self.nodes
            .iter()
            .any(|node| node.input_at(0) == Some(input) && node.input_at(1).is_some_and(prepares))
    }

    /// Has everything that reads `input` read `input · factor + offset` instead: one number each, or as many as there
    /// are channels, of shape `dims` (without the batch).
    pub fn prepare_input(
        &mut self,
        input: &str,
        dims: &[usize],
        [factor, offset]: [Vec<f32>; 2],
    ) -> Result<(), EmbedError> {
        let declared = self
            .inputs
            .iter()
            .find(|declared| declared.label() == input);
        let kind = declared
            .and_then(|declared| declared.tensor())
            .map(|(kind, _)| kind);
        let Some(kind) = kind.filter(|&kind| crate::host::is_float(kind)) else {
            return Err(EmbedError::NotFloat(input.to_owned()));
        };
        if self.opset < 7 {
            return Err(EmbedError::TooOld(self.opset));
        }
        let reads_inside = |node: &&NodeProto| {
            let captured = node.captured();
            captured.map_or(true, |captured| captured.contains(input))
        };
        if let Some(node) = self.nodes.iter().find(reads_inside) {
            return Err(EmbedError::Nested(node.label().to_owned()));
        }
        let mut value = input.to_owned();
        let mut nodes = Vec::new();
        for (operator, word, values) in [("Mul", "factor", factor), ("Add", "offset", offset)] {
            let constant = self.unused_name(&format!("{PREFIX}_{word}_{input}"));
            let result = self.unused_name(&format!("{PREFIX}_{operator}_{input}"));
            let mut tensor = Tensor::float(Vec::new(), vec![0.0]);
            tensor.data_type = kind;
            let tensor = tensor.like(dims.to_vec(), values);
            self.initializers.insert(constant.clone(), tensor);
            nodes.push(NodeProto {
                name: Some(result.clone()),
                op_type: Some(operator.to_owned()),
                input: vec![value, constant],
                output: vec![result.clone()],
                ..NodeProto::default()
            });
            value = result;
        }
        let readers = self.nodes.iter_mut().flat_map(|node| &mut node.input);
        for name in readers.filter(|name| *name == input) {
            name.clone_from(&value);
        }
        // An output that was the input itself stays what it was.
        nodes.append(&mut self.nodes);
        self.nodes = nodes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::data_type;

    #[test]
    fn half_precision_is_a_float_and_an_integer_is_none() {
        assert!(crate::host::is_float(data_type::FLOAT16));
        assert!(!crate::host::is_float(data_type::INT64));
        assert!(prepares("sinter_preprocessing_factor_x") && !prepares("x"));
    }
}
