//! Windows that move over an image of any number of spatial axes: convolutions and pools.

mod convolution;
mod deform;
mod pool;
mod transposed;

use std::ops::Range;

pub(crate) use pool::RoiMaxima;

use super::array::Array;
use super::call::{Call, Outcome};
use super::matrix::{Number, bounded};
use crate::graph::params::{RuleError, Window};

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    let operator: fn(&Call) -> Outcome = match call.operator() {
        "Conv" => |call| one(convolution::conv(call)),
        "CausalConvWithState" => convolution::causal,
        "DeformConv" => |call| one(deform::deform(call)),
        "ConvTranspose" => |call| one(transposed::conv_transpose(call)),
        "Col2Im" => |call| one(transposed::col2im(call)),
        "MaxPool" => pool::max_pool,
        "AveragePool" => |call| one(pool::average_pool(call)),
        "LpPool" => |call| one(pool::lp_pool(call)),
        "GlobalMaxPool" => pool::global_max_pool,
        "GlobalAveragePool" => |call| one(pool::global_average_pool(call)),
        "GlobalLpPool" => |call| one(pool::global_lp_pool(call)),
        "MaxUnpool" => |call| one(pool::max_unpool(call)),
        "MaxRoiPool" => |call| one(pool::max_roi_pool(call)),
        _ => return None,
    };
    Some(bounded(call).and_then(|()| operator(call)))
}

fn one(result: Result<Array, RuleError>) -> Outcome {
    result.map(|array| vec![array])
}

/// The place of a tap that falls into the padding; no image is that large.
const OUTSIDE: usize = usize::MAX;

/// The most elements of a block of columns, apart from a single position's.
const BLOCK: usize = 1 << 18;

/// A window's taps over an image: which element each tap meets at each position.
struct Lattice {
    image: Vec<usize>,
    positions: Vec<usize>,
    window: Window,
}

impl Lattice {
    /// Refuses an image or positions that are too many, whatever the batch.
    fn new(
        call: &Call,
        image: &[usize],
        positions: &[usize],
        window: Window,
    ) -> Result<Self, RuleError> {
        call.count(image)?;
        call.count(positions)?;
        Ok(Self {
            image: image.to_vec(),
            positions: positions.to_vec(),
            window,
        })
    }

    /// Number of taps.
    fn taps(&self) -> usize {
        self.window.kernel.iter().product()
    }

    /// Number of positions.
    fn count(&self) -> usize {
        self.positions.iter().product()
    }

    /// Number of elements of one channel of the image.
    fn area(&self) -> usize {
        self.image.iter().product()
    }

    /// The positions in blocks so small that `rows` values for each of them stay in the cache.
    fn blocks(&self, rows: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let count = self.count();
        let width = (BLOCK / rows.max(1)).clamp(1, 1024);
        (0..count)
            .step_by(width)
            .map(move |start| start..count.min(start + width))
    }

    /// Where the window's corner lies at each of these positions, axis by axis.
    fn corners(&self, range: Range<usize>) -> Vec<i64> {
        let mut place = unravel(range.start, &self.positions);
        let mut out = Vec::with_capacity(range.len() * place.len());
        for _ in range {
            out.extend(place.iter().enumerate().map(|(axis, &at)| {
                (at * self.window.stride[axis]) as i64 - self.window.pad_begin[axis] as i64
            }));
            advance(&mut place, &self.positions);
        }
        out
    }

    /// The flat place in a channel that each tap (row) meets at each of these positions (column).
    fn places(&self, range: Range<usize>) -> Vec<usize> {
        let rank = self.image.len();
        let corners = self.corners(range.clone());
        let mut tap = vec![0; rank];
        let mut out = Vec::with_capacity(self.taps() * range.len());
        for _ in 0..self.taps() {
            let row = corners.chunks_exact(rank.max(1));
            out.extend(row.map(|corner| self.place(corner, &tap)));
            advance(&mut tap, &self.window.kernel);
        }
        out
    }

    fn place(&self, corner: &[i64], tap: &[usize]) -> usize {
        let mut flat = 0;
        for (axis, &size) in self.image.iter().enumerate() {
            let at = corner[axis] + (tap[axis] * self.window.dilation[axis]) as i64;
            match usize::try_from(at) {
                Ok(at) if at < size => flat = flat * size + at,
                _ => return OUTSIDE,
            }
        }
        flat
    }
}

/// The coordinates of the element at a flat place.
fn unravel(mut flat: usize, dims: &[usize]) -> Vec<usize> {
    let mut place = vec![0; dims.len()];
    for (at, &size) in place.iter_mut().zip(dims).rev() {
        *at = flat % size.max(1);
        flat /= size.max(1);
    }
    place
}

/// To the next coordinates in row-major order.
fn advance(place: &mut [usize], dims: &[usize]) {
    for (at, &size) in place.iter_mut().zip(dims).rev() {
        *at += 1;
        if *at < size {
            return;
        }
        *at = 0;
    }
}

/// The shape `[batch, channels, spatial…]`, with one spatial axis at least.
fn image_of(x: &Array) -> Result<(usize, usize, &[usize]), RuleError> {
    match &*x.dims {
        [batch, channels, image @ ..] if !image.is_empty() => Ok((*batch, *channels, image)),
        dims => Err(RuleError::new(format!(
            "takes a value of shape {dims:?}, needs [batch, channels, spatial axes]"
        ))),
    }
}

/// Groups of channels and the sizes within one of them.
struct Groups {
    count: usize,
    /// Channels that a group reads.
    inputs: usize,
    /// Channels that a group makes.
    outputs: usize,
}

fn group_attribute(call: &Call, name: &str, channels: usize) -> Result<usize, RuleError> {
    let given = call.node.int(name).unwrap_or(1);
    usize::try_from(given)
        .ok()
        .filter(|&count| count > 0 && channels.is_multiple_of(count))
        .ok_or_else(|| RuleError::new(format!("has a `{name}` of {given} for {channels} channels")))
}

/// A kernel's spatial sizes and the groups of a convolution whose kernel is
/// `[outputs, inputs / groups, spatial…]`.
fn forward_groups<'a>(
    call: &Call,
    channels: usize,
    axes: usize,
    kernel: &'a Array,
) -> Result<(Groups, &'a [usize]), RuleError> {
    let count = group_attribute(call, "group", channels)?;
    match &*kernel.dims {
        [outputs, inputs, sizes @ ..]
            if sizes.len() == axes
                && outputs.is_multiple_of(count)
                && *inputs == channels / count =>
        {
            let groups = Groups {
                count,
                inputs: *inputs,
                outputs: outputs / count,
            };
            Ok((groups, sizes))
        }
        dims => Err(RuleError::new(format!(
            "has a kernel of shape {dims:?} for {channels} channels in {count} groups"
        ))),
    }
}

/// The bias, one a channel, where there is one.
fn bias_of<'a>(
    call: &'a Call,
    index: usize,
    channels: usize,
) -> Result<Option<&'a Array>, RuleError> {
    match call.optional(index) {
        Some(bias) if bias.dims != [channels] => Err(RuleError::new(format!(
            "has a bias of shape {:?} for {channels} channels",
            bias.dims
        ))),
        bias => Ok(bias),
    }
}

/// A result of `[batch, channels, area]` elements that holds the bias only.
fn filled<T: Number>(count: usize, area: usize, bias: Option<&[T]>) -> Vec<T> {
    let mut out = vec![T::default(); count];
    if let Some(bias) = bias.filter(|bias| !bias.is_empty() && area > 0) {
        for (plane, &value) in out.chunks_exact_mut(area).zip(bias.iter().cycle()) {
            plane.fill(value);
        }
    }
    out
}
