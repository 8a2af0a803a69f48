//! ConvTranspose and Col2Im: windows whose taps write to the image.

use super::super::array::{Array, Data};
use super::super::call::Call;
use super::super::matrix::{Number, multiply, transposed};
use super::{Groups, Lattice, bias_of, filled, group_attribute, image_of};
use crate::graph::params::{self, RuleError};

/// ONNX ConvTranspose: each input element adds its multiple of the kernel to the output.
pub(super) fn conv_transpose(call: &Call) -> Result<Array, RuleError> {
    let (x, kernel) = (call.input(0)?, call.input(1)?);
    let (batch, channels, positions) = image_of(x)?;
    let count = group_attribute(call, "group", channels)?;
    let [inputs, per_group, sizes @ ..] = &*kernel.dims else {
        return Err(RuleError::new("has a kernel without channels"));
    };
    if *inputs != channels || sizes.len() != positions.len() {
        return Err(RuleError::new(format!(
            "has a kernel of shape {:?} for a value of shape {:?}",
            kernel.dims, x.dims
        )));
    }
    let (window, _) = params::transposed_window(call.node, positions, sizes)?;
    let groups = Groups {
        count,
        inputs: channels / count,
        outputs: *per_group,
    };
    let outputs = call.count(&[count, *per_group])?;
    let bias = bias_of(call, 2, outputs)?;
    let dims = [&[batch, outputs], &*window.output].concat();
    let total = call.count(&dims)?;
    let lattice = Lattice::new(call, &window.output.clone(), positions, window)?;
    let area = lattice.area();
    let data = match (&x.data, &kernel.data) {
        (Data::Float(x), Data::Float(kernel)) => {
            let bias = bias.map(Array::floats).transpose()?;
            let mut out = filled(total, area, bias);
            spread(x, kernel, &lattice, &groups, &mut out);
            Data::Float(out)
        }
        (Data::Int(x), Data::Int(kernel)) => {
            let bias = bias.map(Array::ints).transpose()?;
            let mut out = filled(total, area, bias);
            spread(x, kernel, &lattice, &groups, &mut out);
            Data::Int(out)
        }
        _ => return Err(RuleError::new("has a kernel of another type")),
    };
    Ok(x.with(dims, data))
}

/// Adds the transposed convolution of `x` to `out`.
fn spread<T: Number>(x: &[T], kernel: &[T], lattice: &Lattice, groups: &Groups, out: &mut [T]) {
    if x.is_empty() || kernel.is_empty() || out.is_empty() {
        return;
    }
    let (area, count) = (lattice.area(), lattice.count());
    let rows = groups.outputs * lattice.taps();
    let kernels: Vec<Vec<T>> = kernel
        .chunks_exact(groups.inputs * rows)
        .map(|kernel| transposed(kernel, groups.inputs, rows))
        .collect();
    let mut elements = Vec::new();
    let mut columns = Vec::new();
    for range in lattice.blocks(rows) {
        let width = range.len();
        let places = lattice.places(range.clone());
        let inputs = x.chunks_exact(groups.inputs * count);
        let images = out.chunks_exact_mut(groups.outputs * area);
        for ((input, image), kernel) in inputs.zip(images).zip(kernels.iter().cycle()) {
            elements.clear();
            for channel in input.chunks_exact(count) {
                elements.extend_from_slice(&channel[range.clone()]);
            }
            columns.clear();
            columns.resize(rows * width, T::default());
            multiply(kernel, &elements, &mut columns, groups.inputs, width);
            let columns = columns.chunks_exact(width);
            scatter(columns, &places, image, area);
        }
    }
}

/// Adds columns, one row a channel and tap, to the channels of an image.
fn scatter<'a, T: Number + 'a>(
    mut columns: impl Iterator<Item = &'a [T]>,
    places: &[usize],
    image: &mut [T],
    area: usize,
) {
    for channel in image.chunks_exact_mut(area) {
        let mut places = places;
        while let Some(row) = (!places.is_empty()).then(|| columns.next()).flatten() {
            let (now, rest) = places.split_at(row.len().min(places.len()));
            for (&place, &value) in now.iter().zip(row) {
                if let Some(element) = channel.get_mut(place) {
                    *element = element.plus(value);
                }
            }
            places = rest;
        }
    }
}

/// ONNX Col2Im: the sum of blocks that stand in columns, each at its place.
pub(super) fn col2im(call: &Call) -> Result<Array, RuleError> {
    let x = call.input(0)?;
    let (image, block) = (sizes(call, 1)?, sizes(call, 2)?);
    let &[batch, rows, length] = &*x.dims else {
        return Err(RuleError::new(format!(
            "takes columns of shape {:?}, needs rank 3",
            x.dims
        )));
    };
    if image.is_empty() || image.len() != block.len() {
        return Err(RuleError::new(format!(
            "has an image of {image:?} and blocks of {block:?}"
        )));
    }
    let taps = call.count(&block)?;
    let window = params::window(call.node, &image, Some(&block))?;
    let lattice = Lattice::new(call, &image, &window.output.clone(), window)?;
    if lattice.count() != length || !rows.is_multiple_of(taps) {
        return Err(RuleError::new(format!(
            "has columns of shape {:?} for blocks of {taps} elements at {:?} places",
            x.dims, lattice.positions
        )));
    }
    let dims = [&[batch, rows / taps], &*lattice.image].concat();
    let count = call.count(&dims)?;
    let data = match &x.data {
        Data::Float(x) => Data::Float(folded(x, rows, &lattice, count)),
        Data::Int(x) => Data::Int(folded(x, rows, &lattice, count)),
        Data::Text(_) => return Err(RuleError::new("adds strings")),
    };
    Ok(x.with(dims, data))
}

fn folded<T: Number>(x: &[T], rows: usize, lattice: &Lattice, count: usize) -> Vec<T> {
    let mut out = vec![T::default(); count];
    if x.is_empty() || out.is_empty() {
        return out;
    }
    let (taps, area, length) = (lattice.taps(), lattice.area(), lattice.count());
    for range in lattice.blocks(taps) {
        let places = lattice.places(range.clone());
        let images = out.chunks_exact_mut(rows / taps * area);
        for (columns, image) in x.chunks_exact(rows * length).zip(images) {
            let columns = columns.chunks_exact(length).map(|row| &row[range.clone()]);
            scatter(columns, &places, image, area);
        }
    }
    out
}

/// A list of sizes that is an input.
fn sizes(call: &Call, index: usize) -> Result<Vec<usize>, RuleError> {
    let values = call.input(index)?.ints()?;
    values
        .iter()
        .map(|&value| {
            usize::try_from(value)
                .ok()
                .filter(|&size| size > 0 && size < 1 << 40)
                .ok_or_else(|| RuleError::new(format!("has sizes of {values:?}")))
        })
        .collect()
}
