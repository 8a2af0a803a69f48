//! Conv and CausalConvWithState.

use super::super::array::{Array, Data};
use super::super::call::{Call, Outcome};
use super::super::matrix::{Number, multiply};
use super::{Groups, Lattice, bias_of, filled, forward_groups, image_of};
use crate::graph::params::{self, RuleError};

/// ONNX Conv: the elements under the window as columns, multiplied by the kernel as a matrix, one
/// block of positions after the other.
pub(super) fn conv(call: &Call) -> Result<Array, RuleError> {
    let (x, kernel) = (call.input(0)?, call.input(1)?);
    let (batch, channels, image) = image_of(x)?;
    let (groups, sizes) = forward_groups(call, channels, image.len(), kernel)?;
    let window = params::window(call.node, image, Some(sizes))?;
    let outputs = groups.count * groups.outputs;
    let bias = bias_of(call, 2, outputs)?;
    let dims = [&[batch, outputs], &*window.output].concat();
    let count = call.count(&dims)?;
    let lattice = Lattice::new(call, image, &window.output.clone(), window)?;
    let area = lattice.count();
    let data = match (&x.data, &kernel.data) {
        (Data::Float(x), Data::Float(kernel)) => {
            let bias = bias.map(Array::floats).transpose()?;
            let mut out = filled(count, area, bias);
            convolve(x, kernel, &lattice, &groups, &mut out);
            Data::Float(out)
        }
        (Data::Int(x), Data::Int(kernel)) => {
            let bias = bias.map(Array::ints).transpose()?;
            let mut out = filled(count, area, bias);
            convolve(x, kernel, &lattice, &groups, &mut out);
            Data::Int(out)
        }
        _ => return Err(RuleError::new("has a kernel of another type")),
    };
    Ok(x.with(dims, data))
}

/// Adds the convolution of `x` to `out`.
fn convolve<T: Number>(x: &[T], kernel: &[T], lattice: &Lattice, groups: &Groups, out: &mut [T]) {
    if x.is_empty() || kernel.is_empty() || out.is_empty() {
        return;
    }
    let (taps, area, count) = (lattice.taps(), lattice.area(), lattice.count());
    let rows = groups.inputs * taps;
    let mut columns = Vec::new();
    let mut sums = Vec::new();
    for range in lattice.blocks(rows) {
        let width = range.len();
        let places = lattice.places(range.clone());
        let images = x.chunks_exact(groups.inputs * area);
        let results = out.chunks_exact_mut(groups.outputs * count);
        let kernels = kernel.chunks_exact(groups.outputs * rows).cycle();
        for ((image, result), kernel) in images.zip(results).zip(kernels) {
            columns.clear();
            for channel in image.chunks_exact(area) {
                let value = |&place: &usize| channel.get(place).copied().unwrap_or_default();
                columns.extend(places.iter().map(value));
            }
            sums.clear();
            sums.resize(groups.outputs * width, T::default());
            multiply(kernel, &columns, &mut sums, rows, width);
            for (plane, sums) in result.chunks_exact_mut(count).zip(sums.chunks_exact(width)) {
                add(&mut plane[range.clone()], sums);
            }
        }
    }
}

/// Adds a line of values to another.
pub(super) fn add<T: Number>(to: &mut [T], values: &[T]) {
    for (to, &value) in to.iter_mut().zip(values) {
        *to = to.plus(value);
    }
}

/// ONNX CausalConvWithState: a depthwise convolution over what came before, which is carried on as
/// the second output.
pub(super) fn causal(call: &Call) -> Outcome {
    let (x, kernel) = (call.input(0)?, call.input(1)?);
    let (&[batch, channels, length], &[filters, 1, taps]) = (&*x.dims, &*kernel.dims) else {
        return Err(RuleError::new(format!(
            "has an input of shape {:?} and a kernel of shape {:?}",
            x.dims, kernel.dims
        )));
    };
    if filters != channels || taps == 0 {
        return Err(RuleError::new(format!(
            "has {filters} kernels of {taps} taps for {channels} channels"
        )));
    }
    let silu = match call.node.text("activation").unwrap_or("none") {
        "none" => false,
        "silu" | "swish" => true,
        other => return Err(RuleError::new(format!("has the activation `{other}`"))),
    };
    let bias = bias_of(call, 2, channels)?.map(Array::floats).transpose()?;
    let kept = taps - 1;
    let state_dims = vec![batch, channels, kept];
    let past = match call.optional(3) {
        Some(past) if past.dims != state_dims => {
            return Err(RuleError::new(format!(
                "has a state of shape {:?}, needs {state_dims:?}",
                past.dims
            )));
        }
        Some(past) => past.floats()?.to_vec(),
        None => vec![0.0; call.count(&state_dims)?],
    };
    let (values, kernel) = (x.floats()?, kernel.floats()?);
    let mut out = Vec::with_capacity(values.len());
    let mut state = Vec::with_capacity(past.len());
    let mut line = Vec::new();
    let rows = if kept + length == 0 {
        0
    } else {
        batch * channels
    };
    for row in 0..rows {
        let channel = row % channels;
        line.clear();
        line.extend_from_slice(&past[row * kept..][..kept]);
        line.extend_from_slice(&values[row * length..][..length]);
        let kernel = &kernel[channel * taps..][..taps];
        let bias = bias.map_or(0.0, |bias| bias[channel]);
        out.extend(line.windows(taps).map(|window| {
            let products = window.iter().zip(kernel).map(|(x, w)| x * w);
            let sum = bias + products.sum::<f64>();
            if silu {
                sum / (1.0 + (-sum).exp())
            } else {
                sum
            }
        }));
        state.extend_from_slice(&line[length..]);
    }
    Ok(vec![
        x.with(x.dims.clone(), Data::Float(out)),
        x.with(state_dims, Data::Float(state)),
    ])
}
