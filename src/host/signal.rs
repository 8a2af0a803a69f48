//! Signals: Fourier transforms, the mel scale and window functions.

mod fourier;

use std::f64::consts::TAU;

use super::array::{Array, is_float, is_int};
use super::call::{Call, Outcome};
use super::matrix::bounded;
use crate::graph::params::RuleError;
use crate::onnx::proto::data_type::*;

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    let operator: fn(&Call) -> Result<Array, RuleError> = match call.operator() {
        "DFT" => fourier::dft,
        "STFT" => fourier::stft,
        "MelWeightMatrix" => mel_weight_matrix,
        "HannWindow" => |call| cosine_window(call, &[0.5, 0.5]),
        "HammingWindow" => |call| cosine_window(call, &[25.0 / 46.0, 21.0 / 46.0]),
        "BlackmanWindow" => |call| cosine_window(call, &[0.42, 0.5, 0.08]),
        _ => return None,
    };
    let result = bounded(call).and_then(|()| operator(call));
    Some(result.map(|array| vec![array]))
}

/// The integer that an input holds.
fn whole(call: &Call, index: usize) -> Result<i64, RuleError> {
    call.input(index)?
        .ints()?
        .first()
        .copied()
        .ok_or_else(|| RuleError::new(format!("has no number in its input {index}")))
}

/// The length that an input holds.
fn length(call: &Call, index: usize) -> Result<usize, RuleError> {
    let given = whole(call, index)?;
    let length =
        usize::try_from(given).map_err(|_| RuleError::new(format!("has a length of {given}")))?;
    call.count(&[length])
}

/// Numbers in the type of the attribute `output_datatype`; integers without their fractions.
fn typed(call: &Call, dims: Vec<usize>, values: Vec<f64>) -> Result<Array, RuleError> {
    let kind = call.node.int("output_datatype").unwrap_or(FLOAT.into());
    match i32::try_from(kind) {
        Ok(kind) if is_float(kind) => Ok(Array::float(kind, dims, values)),
        Ok(kind) if is_int(kind) => {
            let values = values.into_iter().map(|value| value as i64).collect();
            Ok(Array::int(kind, dims, values))
        }
        _ => Err(RuleError::new(format!("has an output_datatype of {kind}"))),
    }
}

/// ONNX HannWindow, HammingWindow and BlackmanWindow: a sum of cosines with alternating signs,
/// `Σ (-1)^k a_k cos(2π k n / N)`.
fn cosine_window(call: &Call, weights: &[f64]) -> Result<Array, RuleError> {
    let size = length(call, 0)?;
    let periodic = call.node.int("periodic").unwrap_or(1) != 0;
    let period = if periodic {
        size
    } else {
        size.saturating_sub(1)
    };
    let value = |index: usize| {
        if period == 0 {
            return 1.0;
        }
        let terms = weights.iter().enumerate().map(|(order, weight)| {
            let sign = if order % 2 == 0 { 1.0 } else { -1.0 };
            let angle = TAU * (order * index) as f64 / period as f64;
            sign * weight * angle.cos()
        });
        terms.sum::<f64>()
    };
    typed(call, vec![size], (0..size).map(value).collect())
}

/// ONNX MelWeightMatrix: triangles whose corners are equally far apart on the scale
/// `2595 log10(1 + f / 700)` and lie on whole bins of the spectrum.
fn mel_weight_matrix(call: &Call) -> Result<Array, RuleError> {
    let (bands, size, rate) = (length(call, 0)?, length(call, 1)?, whole(call, 2)?);
    let (low, high) = (call.input(3)?.scalar()?, call.input(4)?.scalar()?);
    if rate <= 0 || !(low >= 0.0 && high.is_finite()) || low > high {
        return Err(RuleError::new(format!(
            "has frequencies from {low} to {high} Hz at {rate} samples a second"
        )));
    }
    let bins = size / 2 + 1;
    let dims = vec![bins, bands];
    let mut out = vec![0.0; call.count(&dims)?];
    let mel = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let step = (mel(high) - mel(low)) / (bands + 2) as f64;
    let corner = |index: usize| {
        let hertz = 700.0 * (10f64.powf((mel(low) + index as f64 * step) / 2595.0) - 1.0);
        ((size + 1) as f64 * hertz / rate as f64).floor().max(0.0)
    };
    for band in 0..bands {
        let [left, peak, right] = [corner(band), corner(band + 1), corner(band + 2)];
        let last = right.max(peak + 1.0).min(bins as f64) as usize;
        for bin in left.min(bins as f64) as usize..last {
            let at = bin as f64;
            out[bin * bands + band] = if at == peak {
                1.0
            } else if at < peak {
                (at - left) / (peak - left)
            } else {
                (right - at) / (right - peak)
            };
        }
    }
    typed(call, dims, out)
}
