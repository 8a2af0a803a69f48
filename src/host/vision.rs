//! Images: resizing, sampling at points, and boxes.

mod boxes;
mod resize;
mod sample;

use super::array::{Array, Data};
use super::call::{Call, Outcome};
use super::matrix::bounded;
use crate::graph::params::RuleError;
use crate::onnx::proto::data_type::*;

pub(crate) use boxes::RoiPooling;
pub(crate) use resize::{Resampling, resampling};
pub(super) use sample::between;

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    let operator = match call.operator() {
        "Resize" | "Upsample" => resize::resize,
        "GridSample" => sample::grid_sample,
        "AffineGrid" => sample::affine_grid,
        "RoiAlign" => boxes::roi_align,
        "NonMaxSuppression" => boxes::non_max_suppression,
        _ => return None,
    };
    let result = bounded(call).and_then(|()| operator(call));
    Some(result.map(|array| vec![array]))
}

/// A place that holds no element.
const NOWHERE: usize = usize::MAX;

/// The elements of `x` at `places`, of whatever type; `filler` (an empty string) at [`NOWHERE`].
fn taken(x: &Array, dims: Vec<usize>, places: impl Iterator<Item = usize>, filler: f64) -> Array {
    let data = match &x.data {
        Data::Float(values) => {
            let value = |at| values.get(at).copied().unwrap_or(filler);
            Data::Float(places.map(value).collect())
        }
        Data::Int(values) => {
            let filler = rounded(x.data_type, filler);
            let value = |at| values.get(at).copied().unwrap_or(filler);
            Data::Int(places.map(value).collect())
        }
        Data::Text(values) => {
            let value = |at| values.get(at).cloned().unwrap_or_default();
            Data::Text(places.map(value).collect())
        }
    };
    x.with(dims, data)
}

/// Results of an interpolation in the type of `x`; `to_int` says which integer a number becomes.
fn interpolated(
    x: &Array,
    dims: Vec<usize>,
    values: Vec<f64>,
    to_int: impl Fn(i32, f64) -> i64,
) -> Result<Array, RuleError> {
    let data = match &x.data {
        Data::Float(_) => Data::Float(values),
        Data::Int(_) => {
            let values = values.into_iter().map(|value| to_int(x.data_type, value));
            Data::Int(values.collect())
        }
        Data::Text(_) => return Err(RuleError::new("interpolates strings")),
    };
    Ok(x.with(dims, data))
}

/// The integer of a type that is nearest to `value`, the even one of two.
fn rounded(kind: i32, value: f64) -> i64 {
    let value = value.round_ties_even();
    let (low, high) = match kind {
        UINT64 => return value as u64 as i64,
        INT32 => (i32::MIN.into(), i32::MAX.into()),
        UINT32 => (0, u32::MAX.into()),
        INT16 => (i16::MIN.into(), i16::MAX.into()),
        UINT16 => (0, u16::MAX.into()),
        INT8 => (i8::MIN.into(), i8::MAX.into()),
        UINT8 => (0, u8::MAX.into()),
        INT4 => (-8, 7),
        UINT4 => (0, 15),
        INT2 => (-2, 1),
        UINT2 => (0, 3),
        BOOL => (0, 1),
        _ => (i64::MIN, i64::MAX),
    };
    (value as i64).clamp(low, high)
}

/// The integer part of `value`.
fn truncated(kind: i32, value: f64) -> i64 {
    match kind {
        UINT64 => value as u64 as i64,
        BOOL => i64::from(value != 0.0),
        _ => value as i64,
    }
}

/// The four weights of cubic convolution (Keys 1981) between the middle two of four elements, at the
/// fraction `at` of their distance.
fn cubic(at: f64, a: f64) -> [f64; 4] {
    [1.0 + at, at, 1.0 - at, 2.0 - at].map(|distance| keys(distance, a))
}

/// The kernel of cubic convolution, equation 4 of Keys (1981), with its parameter free.
fn keys(distance: f64, a: f64) -> f64 {
    let x = distance.abs();
    if x <= 1.0 {
        ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
    } else {
        0.0
    }
}
