//! Standard operators as parts of contributed ones.

use std::sync::Arc;

use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome};
use crate::onnx::proto::{AttributeProto, NodeProto, attribute_type, data_type};

/// The operator set by which parts are computed.
const OPSET: i64 = 20;

/// A standard operator over given tensors.
pub struct Standard {
    node: NodeProto,
    opset: i64,
    inputs: Vec<Option<Arc<Array>>>,
}

impl Standard {
    pub fn new(operator: &str) -> Self {
        Self {
            node: NodeProto {
                op_type: Some(operator.to_owned()),
                output: vec!["0".to_owned()],
                ..NodeProto::default()
            },
            opset: OPSET,
            inputs: Vec::new(),
        }
    }

    pub fn input(self, array: Array) -> Self {
        self.optional(Some(array))
    }

    pub fn optional(mut self, array: Option<Array>) -> Self {
        let name = array
            .as_ref()
            .map_or_else(String::new, |_| format!("input {}", self.inputs.len()));
        self.node.input.push(name);
        self.inputs.push(array.map(Arc::new));
        self
    }

    pub fn opset(mut self, opset: i64) -> Self {
        self.opset = opset;
        self
    }

    pub fn outputs(mut self, count: usize) -> Self {
        self.node.output = (0..count).map(|index| index.to_string()).collect();
        self
    }

    pub fn attribute(mut self, attribute: AttributeProto) -> Self {
        self.node.attribute.push(attribute);
        self
    }

    pub fn int(mut self, name: &str, value: i64) -> Self {
        self.node.set_int(name, value);
        self
    }

    pub fn ints(self, name: &str, values: Vec<i64>) -> Self {
        self.attribute(AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(attribute_type::INTS),
            ints: values,
            ..AttributeProto::default()
        })
    }

    pub fn float(self, name: &str, value: f32) -> Self {
        self.attribute(AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(attribute_type::FLOAT),
            f: Some(value),
            ..AttributeProto::default()
        })
    }

    pub fn text(self, name: &str, value: &str) -> Self {
        self.attribute(AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(attribute_type::STRING),
            s: Some(value.as_bytes().to_vec()),
            ..AttributeProto::default()
        })
    }

    /// Those attributes of the contributed node that are named `names`.
    pub fn like(self, call: &Call, names: &[&str]) -> Self {
        names
            .iter()
            .fold(self, |part, name| match call.node.attribute(name) {
                Some(attribute) => part.attribute(attribute.clone()),
                None => part,
            })
    }

    /// Every result.
    pub fn all(self, call: &Call) -> Outcome {
        let part = Call {
            node: &self.node,
            opset: self.opset,
            inputs: &self.inputs,
            most: call.most,
        };
        crate::host::evaluate(&part).unwrap_or_else(|| {
            Err(RuleError::new(format!(
                "needs the operator {}, which is not supported",
                part.operator()
            )))
        })
    }

    /// The first result.
    pub fn run(self, call: &Call) -> Result<Array, RuleError> {
        let results = self.all(call)?;
        results
            .into_iter()
            .next()
            .ok_or_else(|| RuleError::new("has a part without a result"))
    }
}

/// Floats as float64, so that parts round nothing; other types as they are.
pub fn wide(array: &Array) -> Array {
    match &array.data {
        Data::Float(values) => Array::float(data_type::DOUBLE, array.dims.clone(), values.clone()),
        _ => array.clone(),
    }
}

/// What came of [`wide`] tensors, in the type of `like`.
pub fn narrow(array: Array, like: &Array) -> Array {
    like.with(array.dims, array.data)
}

/// The axes of `array` in another order.
pub fn transposed(call: &Call, array: Array, order: &[usize]) -> Result<Array, RuleError> {
    if order.iter().copied().eq(0..order.len()) {
        return Ok(array);
    }
    let order = order.iter().map(|&axis| axis as i64).collect();
    Standard::new("Transpose")
        .input(array)
        .ints("perm", order)
        .run(call)
}
