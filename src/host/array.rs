//! Tensors of every ONNX data type on the host, as the operators in this room compute with them.

use super::number::{round_float, wrap_int};
use crate::graph::params::RuleError;
use crate::onnx::proto::{TensorProto, data_type};
use crate::onnx::{Tensor, Values};

/// Elements in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Every floating-point type; each element is one that the tensor's type can hold.
    Float(Vec<f64>),
    /// Every integer type and bool (0 or 1). `uint64` is kept by its bits.
    Int(Vec<i64>),
    /// `string`, as the bytes of the file.
    Text(Vec<Vec<u8>>),
}

/// A tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    /// `TensorProto.DataType`.
    pub data_type: i32,
    /// Empty for a scalar.
    pub dims: Vec<usize>,
    /// As many elements as the product of `dims`.
    pub data: Data,
}

/// Whether `kind` is one of the floating-point types.
pub fn is_float(kind: i32) -> bool {
    use data_type::*;
    matches!(
        kind,
        FLOAT
            | DOUBLE
            | FLOAT16
            | BFLOAT16
            | FLOAT8E4M3FN
            | FLOAT8E4M3FNUZ
            | FLOAT8E5M2
            | FLOAT8E5M2FNUZ
            | FLOAT8E8M0
            | FLOAT4E2M1
    )
}

/// Whether `kind` is an integer type; bool is none.
pub fn is_int(kind: i32) -> bool {
    use data_type::*;
    matches!(
        kind,
        UINT8
            | INT8
            | UINT16
            | INT16
            | INT32
            | INT64
            | UINT32
            | UINT64
            | UINT4
            | INT4
            | UINT2
            | INT2
    )
}

impl Array {
    /// Elements of a floating-point type, rounded to what `kind` holds.
    pub fn float(kind: i32, dims: Vec<usize>, mut values: Vec<f64>) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), values.len());
        debug_assert!(is_float(kind), "{kind}");
        match kind {
            data_type::DOUBLE => {}
            data_type::FLOAT => values.iter_mut().for_each(|v| *v = f64::from(*v as f32)),
            _ => values.iter_mut().for_each(|v| *v = round_float(kind, *v)),
        }
        Self {
            data_type: kind,
            dims,
            data: Data::Float(values),
        }
    }

    /// Elements of an integer type or bool, wrapped to what `kind` holds.
    pub fn int(kind: i32, dims: Vec<usize>, mut values: Vec<i64>) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), values.len());
        debug_assert!(!is_float(kind), "{kind}");
        if kind != data_type::INT64 && kind != data_type::UINT64 {
            values.iter_mut().for_each(|v| *v = wrap_int(kind, *v));
        }
        Self {
            data_type: kind,
            dims,
            data: Data::Int(values),
        }
    }

    /// An int64 tensor.
    pub fn int64(dims: Vec<usize>, values: Vec<i64>) -> Self {
        Self::int(data_type::INT64, dims, values)
    }

    /// A tensor without elements, for its type.
    pub fn empty(kind: i32) -> Self {
        match is_float(kind) {
            true => Self::float(kind, vec![0], Vec::new()),
            false => Self::int(kind, vec![0], Vec::new()),
        }
    }

    /// A bool tensor.
    pub fn bools(dims: Vec<usize>, values: impl IntoIterator<Item = bool>) -> Self {
        let values = values.into_iter().map(i64::from).collect();
        Self::int(data_type::BOOL, dims, values)
    }

    /// Like `self` in type, with other dims and elements.
    pub fn with(&self, dims: Vec<usize>, data: Data) -> Self {
        match data {
            Data::Float(values) => Self::float(self.data_type, dims, values),
            Data::Int(values) => Self::int(self.data_type, dims, values),
            data => Self {
                data_type: self.data_type,
                dims,
                data,
            },
        }
    }

    /// The same elements in another shape.
    pub fn reshaped(&self, dims: Vec<usize>) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), self.len());
        Self {
            data_type: self.data_type,
            dims,
            data: self.data.clone(),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match &self.data {
            Data::Float(values) => values.len(),
            Data::Int(values) => values.len(),
            Data::Text(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements of a floating-point tensor.
    pub fn floats(&self) -> Result<&[f64], RuleError> {
        match &self.data {
            Data::Float(values) => Ok(values),
            _ => Err(self.unfit("floating-point numbers")),
        }
    }

    /// The elements of an integer or bool tensor.
    pub fn ints(&self) -> Result<&[i64], RuleError> {
        match &self.data {
            Data::Int(values) => Ok(values),
            _ => Err(self.unfit("integers")),
        }
    }

    /// The elements as numbers, integers converted.
    pub fn numbers(&self) -> Result<Vec<f64>, RuleError> {
        match &self.data {
            Data::Float(values) => Ok(values.clone()),
            Data::Int(values) if self.data_type == data_type::UINT64 => {
                Ok(values.iter().map(|&v| v as u64 as f64).collect())
            }
            Data::Int(values) => Ok(values.iter().map(|&v| v as f64).collect()),
            Data::Text(_) => Err(self.unfit("numbers")),
        }
    }

    /// The elements of a string tensor.
    pub fn texts(&self) -> Result<&[Vec<u8>], RuleError> {
        match &self.data {
            Data::Text(values) => Ok(values),
            _ => Err(self.unfit("strings")),
        }
    }

    /// The first element as a number.
    pub fn scalar(&self) -> Result<f64, RuleError> {
        let first = match &self.data {
            Data::Float(values) => values.first().copied(),
            Data::Int(values) => values.first().map(|&v| v as f64),
            Data::Text(_) => None,
        };
        first.ok_or_else(|| RuleError::new("needs a number where it has none"))
    }

    fn unfit(&self, wanted: &str) -> RuleError {
        RuleError::new(format!(
            "needs {wanted}, not elements of type {}",
            crate::onnx::dtype_name(self.data_type)
        ))
    }

    /// The elements of a weight or constant of a graph.
    pub fn of_tensor(tensor: &Tensor) -> Result<Self, RuleError> {
        match &tensor.values {
            Values::Float(values) if tensor.data_type != data_type::DOUBLE => Ok(Self::float(
                tensor.data_type,
                tensor.dims.clone(),
                values.iter().map(|&v| f64::from(v)).collect(),
            )),
            Values::Int(values) => Ok(Self::int(
                tensor.data_type,
                tensor.dims.clone(),
                values.clone(),
            )),
            _ => Self::decode(&tensor.encode("")),
        }
    }

    /// The tensor that `proto` holds, whatever its type and the way it is stored.
    pub fn decode(proto: &TensorProto) -> Result<Self, RuleError> {
        super::number::decode(proto)
    }

    /// `TensorProto` with raw data (strings apart).
    pub fn encode(&self, name: &str) -> TensorProto {
        super::number::encode(self, name)
    }
}
