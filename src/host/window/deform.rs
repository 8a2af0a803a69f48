//! DeformConv: a convolution whose taps are moved by offsets that depend on the data.

use super::super::array::{Array, Data};
use super::super::call::Call;
use super::super::matrix::multiply;
use super::super::vision::between;
use super::convolution::add;
use super::{Groups, Lattice, advance, bias_of, filled, forward_groups, group_attribute, image_of};
use crate::graph::params::{self, RuleError};

/// More axes than anything is deformed over; the elements around a tap double with each.
const MOST_AXES: usize = 6;

/// The offsets and factors of the taps, `[batch, groups × taps (× axes), positions]`.
struct Moves<'a> {
    groups: usize,
    offsets: &'a [f64],
    factors: Option<&'a [f64]>,
}

/// Elements of a channel with their weights, those of one tap at one position after the other's.
#[derive(Default)]
struct Samples {
    ends: Vec<usize>,
    elements: Vec<(usize, f64)>,
}

/// ONNX DeformConv (Dai et al. 2017; with a mask, Zhu et al. 2019): linear interpolation between the
/// elements around each moved tap, zero outside.
pub(super) fn deform(call: &Call) -> Result<Array, RuleError> {
    let (x, kernel, offset) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let (batch, channels, image) = image_of(x)?;
    let axes = image.len();
    if axes > MOST_AXES {
        return Err(call.unsupported(format!("moves taps over {axes} axes")));
    }
    let (groups, sizes) = forward_groups(call, channels, axes, kernel)?;
    let window = params::window(call.node, image, Some(sizes))?;
    let outputs = groups.count * groups.outputs;
    let bias = bias_of(call, 3, outputs)?;
    let dims = [&[batch, outputs], &*window.output].concat();
    let count = call.count(&dims)?;
    let lattice = Lattice::new(call, image, &window.output.clone(), window)?;
    let moved = group_attribute(call, "offset_group", channels)?;
    let rows = call.count(&[moved, lattice.taps()])?;
    let fits = |array: &Array, rows: usize| {
        let wanted = [&[batch, rows], &*lattice.positions].concat();
        if array.dims == wanted {
            return Ok(());
        }
        Err(RuleError::new(format!(
            "has offsets or a mask of shape {:?}, needs {wanted:?}",
            array.dims
        )))
    };
    fits(offset, rows.saturating_mul(axes))?;
    let mask = call.optional(4);
    mask.map_or(Ok(()), |mask| fits(mask, rows))?;
    let moves = Moves {
        groups: moved,
        offsets: offset.floats()?,
        factors: mask.map(Array::floats).transpose()?,
    };
    let bias = bias.map(Array::floats).transpose()?;
    let mut out = filled(count, lattice.count(), bias);
    let (values, kernel) = (x.floats()?, kernel.floats()?);
    if !(values.is_empty() || kernel.is_empty() || out.is_empty()) {
        convolve(values, kernel, &lattice, &groups, &moves, &mut out);
    }
    Ok(x.with(dims, Data::Float(out)))
}

fn convolve(
    x: &[f64],
    kernel: &[f64],
    lattice: &Lattice,
    groups: &Groups,
    moves: &Moves,
    out: &mut [f64],
) {
    let (taps, area, count) = (lattice.taps(), lattice.area(), lattice.count());
    let channels = groups.count * groups.inputs;
    let rows = groups.inputs * taps;
    let mut samples = Samples::default();
    for range in lattice.blocks(channels * taps) {
        let width = range.len();
        let corners = lattice.corners(range.clone());
        let images = x.chunks_exact(channels * area);
        let results = out.chunks_exact_mut(groups.count * groups.outputs * count);
        for (item, (image, result)) in images.zip(results).enumerate() {
            let mut columns = Vec::with_capacity(channels * taps * width);
            for (group, image) in image
                .chunks_exact(channels / moves.groups * area)
                .enumerate()
            {
                let group = item * moves.groups + group;
                samples.fill(lattice, moves, group, range.start, &corners);
                for channel in image.chunks_exact(area) {
                    samples.read(channel, &mut columns);
                }
            }
            let mut sums = vec![0.0; groups.count * groups.outputs * width];
            let parts = kernel
                .chunks_exact(groups.outputs * rows)
                .zip(columns.chunks_exact(rows * width))
                .zip(sums.chunks_exact_mut(groups.outputs * width));
            for ((kernel, columns), sums) in parts {
                multiply(kernel, columns, sums, rows, width);
            }
            for (plane, sums) in result.chunks_exact_mut(count).zip(sums.chunks_exact(width)) {
                add(&mut plane[range.clone()], sums);
            }
        }
    }
}

impl Samples {
    /// The elements around each tap (row) at each position (column) of a block, for the channels
    /// whose offsets are the `group`-th of all.
    fn fill(
        &mut self,
        lattice: &Lattice,
        moves: &Moves,
        group: usize,
        first: usize,
        corners: &[i64],
    ) {
        let (axes, count, taps) = (lattice.image.len(), lattice.count(), lattice.taps());
        let mut tap = vec![0; axes];
        let mut point = vec![0.0; axes];
        self.ends.clear();
        self.elements.clear();
        for index in 0..taps {
            let row = group * taps + index;
            for (position, corner) in (first..).zip(corners.chunks_exact(axes)) {
                for (axis, at) in point.iter_mut().enumerate() {
                    let offset = moves.offsets[(row * axes + axis) * count + position];
                    let step = (tap[axis] * lattice.window.dilation[axis]) as i64;
                    *at = (corner[axis] + step) as f64 + offset;
                }
                let factor = moves.factors.map_or(1.0, |f| f[row * count + position]);
                between(&point, &lattice.image, 0, factor, &mut self.elements);
                self.ends.push(self.elements.len());
            }
            advance(&mut tap, &lattice.window.kernel);
        }
    }

    /// What the taps read in one channel.
    fn read(&self, channel: &[f64], columns: &mut Vec<f64>) {
        let mut start = 0;
        columns.extend(self.ends.iter().map(|&end| {
            let elements = &self.elements[start..end];
            start = end;
            let terms = elements.iter().map(|&(at, weight)| weight * channel[at]);
            terms.sum::<f64>()
        }));
    }
}
