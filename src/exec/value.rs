//! Values of run-time rank on a device, and the few helpers that everything else is made of.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{
    AutodiffBackend, Dispatch, DispatchDevice, DispatchTensor, TensorMetadata, get_device_settings,
};
use burn::tensor::{BoolDType, FloatDType, IntDType, Shape, TensorData};

use super::kernels;

/// A float32 (or, for indices, integer) tensor on a device; its rank is known at run time only.
pub type Value = DispatchTensor;

/// The gradients of one backward pass.
pub type Gradients = <Dispatch as AutodiffBackend>::Gradients;

/// The sizes of a value's axes.
pub fn dims(value: &Value) -> Vec<usize> {
    value.shape().to_vec()
}

/// Burn has no values of rank 0; a scalar has one axis of size 1, which broadcasts alike.
fn on_device(dims: &[usize]) -> &[usize] {
    if dims.is_empty() { &[1] } else { dims }
}

/// A value of shape `dims` with these elements in row-major order.
pub fn from_host(dims: &[usize], elements: Vec<f32>, device: &DispatchDevice) -> Value {
    let data = TensorData::new(elements, on_device(dims).to_vec());
    Dispatch::float_from_data(data, device)
}

/// The type in which a device keeps the results of comparisons.
pub fn bool_type(value: &Value) -> BoolDType {
    get_device_settings::<Dispatch>(&value.device()).bool_dtype
}

/// Indices of shape `[indices.len()]`.
pub fn indices(indices: &[usize], device: &DispatchDevice) -> Value {
    let elements: Vec<i64> = indices.iter().map(|&index| index as i64).collect();
    let data = TensorData::new(elements, vec![indices.len()]);
    let dtype = IntDType::I32;
    Dispatch::int_from_data(data.convert_dtype(dtype.into()), device)
}

/// The elements in row-major order. Waits for the device.
pub fn to_host(value: Value) -> Vec<f32> {
    let count = dims(&value).iter().product();
    let flat = reshape(value, &[count]);
    burn::tensor::Tensor::<1>::from_dispatch(flat)
        .into_data()
        .convert::<f32>()
        .try_into_vec::<f32>()
        .expect("converted to f32 just before")
}

/// The single element of a value.
pub fn scalar_to_host(value: Value) -> f32 {
    to_host(value).first().copied().unwrap_or(f32::NAN)
}

pub fn reshape(value: Value, dims: &[usize]) -> Value {
    let dims = on_device(dims);
    if value.shape().as_slice() == dims {
        return value;
    }
    kernels::reshape(&value, dims)
        .unwrap_or_else(|| Dispatch::float_reshape(value, Shape::from(dims.to_vec())))
}

/// The value with axes of size 1 in front, up to `rank` axes.
pub fn with_rank(value: Value, rank: usize) -> Value {
    let own = dims(&value);
    if own.len() >= rank {
        return value;
    }
    let mut padded = vec![1; rank - own.len()];
    padded.extend(own);
    reshape(value, &padded)
}

pub fn expand(value: Value, to: &[usize]) -> Value {
    let to = on_device(to);
    let value = with_rank(value, to.len());
    if dims(&value) == to {
        return value;
    }
    Dispatch::float_expand(value, Shape::from(to.to_vec()))
}

pub fn full(dims: &[usize], fill: f32, device: &DispatchDevice) -> Value {
    Dispatch::float_full(
        Shape::from(on_device(dims).to_vec()),
        fill.into(),
        device,
        FloatDType::F32,
    )
}

/// Elements of `x` where `condition`, which has as many elements as `output`, holds, and of `y`
/// elsewhere; both are broadcast to `output`.
pub fn choose(
    condition: &[bool],
    x: Value,
    y: Value,
    output: &[usize],
    device: &DispatchDevice,
) -> Value {
    let marks = condition
        .iter()
        .map(|&mark| f32::from(u8::from(mark)))
        .collect();
    let marks = from_host(output, marks, device);
    let kind = bool_type(&marks);
    let mask = Dispatch::float_greater_elem(marks, 0.5f32.into(), kind);
    Dispatch::float_mask_where(expand(y, output), mask, expand(x, output))
}

/// Sum over the axes, which stay with size 1.
pub fn sum_keep(mut value: Value, axes: &[usize]) -> Value {
    for &axis in axes {
        value = Dispatch::float_sum_dim(value, axis);
    }
    value
}

/// Starts recording gradients for `value`, a leaf on a recording device.
pub fn track(value: Value) -> Value {
    Dispatch::float_set_require_grad(Dispatch::from_inner(value), true)
}
