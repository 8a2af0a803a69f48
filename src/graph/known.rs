//! What is known about a value before the graph runs.

use std::sync::Arc;

use crate::host::{Array, Data};

/// What is known about a value before the graph runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// `TensorProto.DataType`.
    pub data_type: i32,
    pub dims: Vec<usize>,
    /// The elements, where they follow from shapes and constants alone.
    pub value: Option<Arc<Array>>,
}

impl Known {
    /// A value of which everything is known.
    pub fn of(value: Arc<Array>) -> Self {
        Self {
            data_type: value.data_type,
            dims: value.dims.clone(),
            value: Some(value),
        }
    }

    /// A value of which type and shape are known.
    pub fn shaped(data_type: i32, dims: Vec<usize>) -> Self {
        Self {
            data_type,
            dims,
            value: None,
        }
    }

    /// The elements as integers, where they are known; fractions are cut off.
    pub fn ints(&self) -> Option<Vec<i64>> {
        match &self.value.as_ref()?.data {
            Data::Int(values) => Some(values.clone()),
            Data::Float(values) => Some(values.iter().map(|&v| v as i64).collect()),
            Data::Text(_) => None,
        }
    }

    /// The elements as numbers, where they are known.
    pub fn numbers(&self) -> Option<Vec<f64>> {
        self.value.as_ref()?.numbers().ok()
    }
}
