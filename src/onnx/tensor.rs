//! Tensors on the host, decoded from `TensorProto` and encoded back.

use super::proto::{DATA_LOCATION_EXTERNAL, TensorProto, data_type};

/// Why a stored tensor can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TensorError {
    #[error("tensor `{name}` has a negative dimension {dimension}")]
    NegativeDimension { name: String, dimension: i64 },
    #[error("tensor `{name}` claims {dims:?} elements, more than its data can hold")]
    TooManyElements { name: String, dims: Vec<i64> },
    #[error("tensor `{name}` of shape {dims:?} needs {needed} bytes of data, the file has {found}")]
    WrongLength {
        name: String,
        dims: Vec<i64>,
        needed: usize,
        found: usize,
    },
    #[error("sparse tensor `{name}` {why}")]
    Sparse { name: String, why: String },
}

/// The elements of a tensor, in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Every floating-point type, as float32.
    Float(Vec<f32>),
    /// Every integer type and bool, as int64.
    Int(Vec<i64>),
    /// A type that is carried along but not computed with.
    Opaque,
}

/// A tensor on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// `TensorProto.DataType`, as it is stored and will be written.
    pub data_type: i32,
    pub dims: Vec<usize>,
    pub values: Values,
    /// The stored form, kept where decoding loses something (float64, strings).
    original: Option<Box<TensorProto>>,
}

impl Tensor {
    /// A float32 tensor; `values` has the product of `dims` elements.
    pub fn float(dims: Vec<usize>, values: Vec<f32>) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), values.len());
        Self {
            data_type: data_type::FLOAT,
            dims,
            values: Values::Float(values),
            original: None,
        }
    }

    /// An int64 tensor; `values` has the product of `dims` elements.
    pub fn int(dims: Vec<usize>, values: Vec<i64>) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), values.len());
        Self {
            data_type: data_type::INT64,
            dims,
            values: Values::Int(values),
            original: None,
        }
    }

    pub fn elements(&self) -> usize {
        self.dims.iter().product()
    }

    pub fn floats(&self) -> Option<&[f32]> {
        match &self.values {
            Values::Float(values) => Some(values),
            _ => None,
        }
    }

    pub fn ints(&self) -> Option<&[i64]> {
        match &self.values {
            Values::Int(values) => Some(values),
            _ => None,
        }
    }

    /// New floats of the same shape and stored type, rounded to what that type holds, so that
    /// writing and reading the tensor changes nothing.
    pub fn set_floats(&mut self, mut values: Vec<f32>) {
        debug_assert_eq!(self.elements(), values.len());
        match self.data_type {
            data_type::FLOAT16 => values
                .iter_mut()
                .for_each(|value| *value = half_to_f32(f32_to_half(*value))),
            data_type::BFLOAT16 => values
                .iter_mut()
                .for_each(|value| *value = f32::from_bits(u32::from(f32_to_bfloat(*value)) << 16)),
            _ => {}
        }
        self.values = Values::Float(values);
        self.original = None;
    }

    /// Other floats of the same stored type.
    pub fn like(&self, dims: Vec<usize>, values: Vec<f32>) -> Self {
        let mut tensor = Self {
            data_type: self.data_type,
            dims,
            values: Values::Opaque,
            original: None,
        };
        tensor.set_floats(values);
        tensor
    }

    /// The tensor with only the `kept` indices of `axis`, in their order.
    pub fn select(&self, axis: usize, kept: &[usize]) -> Self {
        let outer: usize = self.dims[..axis].iter().product();
        let inner: usize = self.dims[axis + 1..].iter().product();
        let size = self.dims[axis];
        fn pick<T: Copy>(v: &[T], o: usize, size: usize, inner: usize, kept: &[usize]) -> Vec<T> {
            let mut out = Vec::with_capacity(o * kept.len() * inner);
            for block in 0..o {
                for &index in kept {
                    let start = (block * size + index) * inner;
                    out.extend_from_slice(&v[start..start + inner]);
                }
            }
            out
        }
        let mut dims = self.dims.clone();
        dims[axis] = kept.len();
        let values = match &self.values {
            Values::Float(v) => Values::Float(pick(v, outer, size, inner, kept)),
            Values::Int(v) => Values::Int(pick(v, outer, size, inner, kept)),
            Values::Opaque => Values::Opaque,
        };
        Self {
            data_type: self.data_type,
            dims,
            values,
            original: None,
        }
    }

    /// Decodes `proto`. Nothing is allocated for elements that the message does not hold.
    pub fn decode(proto: TensorProto) -> Result<Self, TensorError> {
        let name = proto.name.clone().unwrap_or_default();
        let mut dims = Vec::with_capacity(proto.dims.len());
        for &dimension in &proto.dims {
            dims.push(
                usize::try_from(dimension).map_err(|_| TensorError::NegativeDimension {
                    name: name.clone(),
                    dimension,
                })?,
            );
        }
        let count = dims
            .iter()
            .try_fold(1usize, |product, &size| product.checked_mul(size))
            .filter(|count| count.checked_mul(8).is_some())
            .ok_or_else(|| TensorError::TooManyElements {
                name: name.clone(),
                dims: proto.dims.clone(),
            })?;
        let kind = proto.data_type.unwrap_or_default();
        debug_assert_ne!(proto.data_location, Some(DATA_LOCATION_EXTERNAL));
        let wrong = |needed: usize, found: usize| TensorError::WrongLength {
            name: name.clone(),
            dims: proto.dims.clone(),
            needed,
            found,
        };
        let raw = proto.raw_data.as_deref();
        let width = element_bytes(kind);
        if let (Some(bytes), Some(width)) = (raw, width)
            && bytes.len() != count * width
        {
            return Err(wrong(count * width, bytes.len()));
        }
        let check = |found: usize| {
            if found == count {
                Ok(())
            } else {
                Err(wrong(
                    count * width.unwrap_or(1),
                    found * width.unwrap_or(1),
                ))
            }
        };
        use data_type::*;
        let values = match (kind, raw) {
            (FLOAT, Some(bytes)) => Values::Float(each(bytes, f32::from_le_bytes)),
            (FLOAT, None) => {
                check(proto.float_data.len())?;
                Values::Float(proto.float_data.clone())
            }
            (DOUBLE, Some(bytes)) => Values::Float(each(bytes, |b| f64::from_le_bytes(b) as f32)),
            (DOUBLE, None) => {
                check(proto.double_data.len())?;
                Values::Float(proto.double_data.iter().map(|&v| v as f32).collect())
            }
            (FLOAT16, Some(bytes)) => {
                Values::Float(each(bytes, |b| half_to_f32(u16::from_le_bytes(b))))
            }
            (BFLOAT16, Some(bytes)) => Values::Float(each(bytes, |b| {
                f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
            })),
            (FLOAT16 | BFLOAT16, None) => {
                check(proto.int32_data.len())?;
                let decode = |&bits: &i32| match kind {
                    FLOAT16 => half_to_f32(bits as u16),
                    _ => f32::from_bits((bits as u32) << 16),
                };
                Values::Float(proto.int32_data.iter().map(decode).collect())
            }
            (INT64, Some(bytes)) => Values::Int(each(bytes, i64::from_le_bytes)),
            (INT64, None) => {
                check(proto.int64_data.len())?;
                Values::Int(proto.int64_data.clone())
            }
            (INT32, Some(bytes)) => Values::Int(each(bytes, |b| i32::from_le_bytes(b).into())),
            (INT16, Some(bytes)) => Values::Int(each(bytes, |b| i16::from_le_bytes(b).into())),
            (UINT16, Some(bytes)) => Values::Int(each(bytes, |b| u16::from_le_bytes(b).into())),
            (INT8, Some(bytes)) => Values::Int(each(bytes, |b| i8::from_le_bytes(b).into())),
            (UINT8 | BOOL, Some(bytes)) => Values::Int(bytes.iter().map(|&v| v.into()).collect()),
            (UINT32, Some(bytes)) => Values::Int(each(bytes, |b| u32::from_le_bytes(b).into())),
            (INT32 | INT16 | INT8 | UINT16 | UINT8 | BOOL, None) => {
                check(proto.int32_data.len())?;
                Values::Int(proto.int32_data.iter().map(|&v| v.into()).collect())
            }
            (UINT32, None) => {
                check(proto.uint64_data.len())?;
                Values::Int(proto.uint64_data.iter().map(|&v| v as i64).collect())
            }
            _ => Values::Opaque,
        };
        let lossless = matches!(
            kind,
            FLOAT | INT64 | INT32 | INT16 | INT8 | UINT16 | UINT8 | UINT32 | BOOL
        );
        Ok(Self {
            data_type: kind,
            dims,
            values,
            original: (!lossless).then(|| Box::new(proto)),
        })
    }

    /// Encodes as `TensorProto` with raw data, in the stored type.
    pub fn encode(&self, name: &str) -> TensorProto {
        if let Some(original) = &self.original {
            return TensorProto {
                name: Some(name.to_owned()),
                ..(**original).clone()
            };
        }
        use data_type::*;
        let raw: Vec<u8> = match &self.values {
            Values::Float(values) => match self.data_type {
                DOUBLE => bytes(values, |v| f64::from(v).to_le_bytes()),
                FLOAT16 => bytes(values, |v| f32_to_half(v).to_le_bytes()),
                BFLOAT16 => bytes(values, |v| f32_to_bfloat(v).to_le_bytes()),
                _ => bytes(values, f32::to_le_bytes),
            },
            Values::Int(values) => match self.data_type {
                INT32 => bytes(values, |v| (v as i32).to_le_bytes()),
                UINT32 => bytes(values, |v| (v as u32).to_le_bytes()),
                INT16 | UINT16 => bytes(values, |v| (v as u16).to_le_bytes()),
                INT8 | UINT8 | BOOL => bytes(values, |v| [v as u8]),
                _ => bytes(values, i64::to_le_bytes),
            },
            Values::Opaque => Vec::new(),
        };
        TensorProto {
            dims: self.dims.iter().map(|&size| size as i64).collect(),
            data_type: Some(self.data_type),
            name: Some(name.to_owned()),
            raw_data: Some(raw),
            ..TensorProto::default()
        }
    }
}

fn each<const N: usize, T>(raw: &[u8], decode: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>().0.iter().map(|&c| decode(c)).collect()
}

fn bytes<const N: usize, T: Copy>(values: &[T], encode: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| encode(value)).collect()
}

/// Bytes of one element; `None` for strings and packed types.
pub(super) fn element_bytes(kind: i32) -> Option<usize> {
    use data_type::*;
    match kind {
        FLOAT | INT32 | UINT32 => Some(4),
        INT64 | DOUBLE | UINT64 => Some(8),
        FLOAT16 | BFLOAT16 | INT16 | UINT16 => Some(2),
        INT8 | UINT8 | BOOL => Some(1),
        _ => None,
    }
}

/// NumPy's name of a `TensorProto.DataType`.
pub fn dtype_name(kind: i32) -> String {
    use data_type::*;
    match kind {
        FLOAT => "float32",
        UINT8 => "uint8",
        INT8 => "int8",
        UINT16 => "uint16",
        INT16 => "int16",
        INT32 => "int32",
        INT64 => "int64",
        STRING => "string",
        BOOL => "bool",
        FLOAT16 => "float16",
        DOUBLE => "float64",
        UINT32 => "uint32",
        UINT64 => "uint64",
        BFLOAT16 => "bfloat16",
        other => return format!("onnx_type_{other}"),
    }
    .to_owned()
}

/// IEEE 754 binary16 to binary32; exact.
fn half_to_f32(half: u16) -> f32 {
    let sign = u32::from(half >> 15) << 31;
    let exponent = u32::from(half >> 10) & 0x1f;
    let fraction = u32::from(half) & 0x3ff;
    let magnitude = match exponent {
        0 => fraction as f32 * 2f32.powi(-24),
        31 => f32::from_bits(0x7f80_0000 | fraction << 13),
        _ => f32::from_bits((exponent + 112) << 23 | fraction << 13),
    };
    f32::from_bits(magnitude.to_bits() | sign)
}

/// binary32 to binary16, to nearest, ties to even.
fn f32_to_half(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let magnitude = f32::from_bits(bits & 0x7fff_ffff);
    if magnitude.is_nan() {
        return sign | 0x7e00;
    }
    if magnitude >= 65520.0 {
        return sign | 0x7c00;
    }
    if magnitude < 2f32.powi(-14) {
        return sign | (magnitude * 2f32.powi(24)).round_ties_even() as u16;
    }
    let rebiased = (bits & 0x7fff_ffff) - (112 << 23);
    let rounded = rebiased + 0x0fff + ((rebiased >> 13) & 1);
    sign | (rounded >> 13) as u16
}

/// binary32 to bfloat16, to nearest, ties to even.
fn f32_to_bfloat(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_survives_the_way_through_f32() {
        for half in 0..=u16::MAX {
            let value = half_to_f32(half);
            if value.is_nan() {
                assert!(half_to_f32(f32_to_half(value)).is_nan());
            } else {
                assert_eq!(f32_to_half(value), half, "{value}");
            }
        }
    }

    #[test]
    fn a_claim_of_two_to_the_sixty_elements_is_refused_without_allocating() {
        let proto = TensorProto {
            dims: vec![1 << 30, 1 << 30],
            data_type: Some(data_type::FLOAT),
            name: Some("bomb".to_owned()),
            raw_data: Some(vec![0; 4]),
            ..TensorProto::default()
        };
        let error = Tensor::decode(proto).unwrap_err();
        assert!(error.to_string().contains("bomb"), "{error}");
    }

    #[test]
    fn selecting_keeps_the_named_slices_of_an_axis() {
        let tensor = Tensor::float(vec![2, 3], vec![0., 1., 2., 3., 4., 5.]);
        let kept = tensor.select(1, &[0, 2]);
        assert_eq!(kept.dims, [2, 2]);
        assert_eq!(kept.floats().unwrap(), [0., 2., 3., 5.]);
    }
}
