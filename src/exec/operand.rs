//! Values of a run: floats on the device, everything else on the host.

use std::sync::Arc;

use burn::backend::{AutodiffBackend, Dispatch, DispatchDevice, DispatchTensorKind};

use super::value::{self, Value};
use crate::graph::Known;
use crate::host::{Array, is_float};
use crate::onnx::proto::data_type;

/// A value while a program runs. Integers, booleans and strings are always on the host, and so are
/// floats that an operator on the host made.
#[expect(
    clippy::large_enum_variant,
    reason = "most values are on the device, and few live at once"
)]
#[derive(Debug, Clone)]
pub enum Operand {
    Device(Value),
    Host(Arc<Array>),
}

impl Operand {
    /// `array` where programs look for it: floats on the device, other types on the host.
    pub fn of(array: Array, device: &DispatchDevice) -> Self {
        match is_float(array.data_type) {
            true => Self::Device(upload(&array, device)),
            false => Self::Host(Arc::new(array)),
        }
    }

    /// The value on `device`, as float32.
    pub fn on_device(self, device: &DispatchDevice) -> Value {
        match self {
            Self::Device(value) => value,
            Self::Host(array) => upload(&array, device),
        }
    }

    /// The value on the host, of the type and shape that `known` tells. Waits for the device.
    pub fn on_host(&self, known: &Known) -> Arc<Array> {
        match self {
            Self::Host(array) => array.clone(),
            Self::Device(value) => {
                let elements = value::to_host(plain(value.clone()));
                // What a file declares wrongly is a float all the same where it is on the device.
                let kind = match is_float(known.data_type) {
                    true => known.data_type,
                    false => data_type::FLOAT,
                };
                Arc::new(Array::float(
                    kind,
                    known.dims.clone(),
                    elements.into_iter().map(f64::from).collect(),
                ))
            }
        }
    }

    /// What can be told of the value; `known` where it is on the device and no plain float32.
    pub fn known(&self, known: Option<&Known>) -> Known {
        match (self, known) {
            (Self::Host(array), _) => Known::of(array.clone()),
            (Self::Device(_), Some(known)) => Known::shaped(known.data_type, known.dims.clone()),
            (Self::Device(value), None) => Known::shaped(data_type::FLOAT, value::dims(value)),
        }
    }
}

/// The value without its recording.
pub fn plain(value: Value) -> Value {
    match value.kind {
        DispatchTensorKind::Autodiff(_) => Dispatch::inner(value),
        _ => value,
    }
}

/// A number tensor on `device`, as float32.
pub fn upload(array: &Array, device: &DispatchDevice) -> Value {
    let elements = array.numbers().unwrap_or_default();
    let elements = elements.into_iter().map(|element| element as f32).collect();
    value::from_host(&array.dims, elements, device)
}

/// Examples of one input as a program takes them.
pub fn feed(
    data_type: i32,
    dims: &[usize],
    elements: Vec<f32>,
    device: &DispatchDevice,
) -> Operand {
    if is_float(data_type) {
        return Operand::Device(value::from_host(dims, elements, device));
    }
    let elements = elements.into_iter().map(|element| element as i64).collect();
    Operand::Host(Arc::new(Array::int(data_type, dims.to_vec(), elements)))
}
