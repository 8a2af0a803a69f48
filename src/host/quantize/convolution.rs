//! Convolutions of 8-bit integers: ConvInteger and QLinearConv.

use super::levels::{Code, Levels, row_products};
use crate::graph::params::{RuleError, Window, window};
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome};
use crate::onnx::proto::data_type::INT32;

/// Elements that are gathered at once, where one patch alone is not more.
const MOST_GATHERED: usize = 1 << 20;

/// Stands for a place in the padding.
const OUTSIDE: usize = usize::MAX;

/// The sums of a convolution: `[batch, channels, spatial…]`.
struct Sums {
    dims: Vec<usize>,
    values: Vec<i32>,
}

impl Sums {
    /// Elements of one channel of one example.
    fn area(&self) -> usize {
        self.dims.iter().skip(2).product()
    }

    /// `f(sum, channel)` for every sum.
    fn map<R>(&self, f: impl Fn(i32, usize) -> R) -> Vec<R> {
        let (area, channels) = (self.area().max(1), self.dims[1].max(1));
        let planes = self.values.chunks(area).enumerate();
        planes
            .flat_map(|(plane, sums)| sums.iter().map(move |&sum| (sum, plane % channels)))
            .map(|(sum, channel)| f(sum, channel))
            .collect()
    }
}

/// The zero point of a kernel as it repeats over it: one for all, or one for each output channel.
fn kernel_levels(kernel: &Array, zero: Option<&Array>) -> Result<Levels, RuleError> {
    let dims = match zero {
        Some(zero) if zero.len() != 1 => {
            let mut dims = vec![1; kernel.dims.len()];
            if let Some(first) = dims.first_mut() {
                *first = zero.len();
            }
            dims
        }
        _ => vec![],
    };
    Levels::new(kernel, zero, &dims)
}

/// The convolution of `x` `[batch, channels, spatial…]` with a kernel
/// `[output channels, channels / group, spatial…]`.
fn convolve(call: &Call, x: &Levels, kernel: &Levels) -> Result<Sums, RuleError> {
    let wrong = |what: &str| {
        Err(RuleError::new(format!(
            "convolves {:?} with a kernel of shape {:?}, {what}",
            x.dims, kernel.dims
        )))
    };
    let ([batch, channels, input @ ..], [outputs, depth, size @ ..]) =
        (&x.dims[..], &kernel.dims[..])
    else {
        return wrong("which have no channels");
    };
    if input.len() != size.len() {
        return wrong("which have different ranks");
    }
    let groups = usize::try_from(call.node.int("group").unwrap_or(1)).unwrap_or(0);
    if groups == 0 || depth.checked_mul(groups) != Some(*channels) || outputs % groups != 0 {
        return wrong(&format!("which don't go into {groups} groups"));
    }
    if kernel.values.is_empty() {
        return wrong("which is empty");
    }
    let window = window(call.node, input, Some(size))?;
    let dims = [&[*batch, *outputs], &window.output[..]].concat();
    let mut sums = Sums {
        values: vec![0; call.count(&dims)?],
        dims,
    };
    if sums.values.is_empty() || x.values.is_empty() {
        return Ok(sums);
    }
    let (area, input_area) = (sums.area(), input.iter().product::<usize>());
    let taps: usize = size.iter().product();
    let patch = depth * taps;
    let (group_outputs, group_area) = (outputs / groups, depth * input_area);
    // Output places whose patches are gathered at once.
    let tile = (MOST_GATHERED / patch).clamp(1, 64);
    let (mut places, mut patches) = (Vec::new(), Vec::new());
    for first in (0..area).step_by(tile) {
        places.clear();
        let last = area.min(first + tile);
        (first..last).for_each(|place| window_places(&window, input, place, &mut places));
        for plane in 0..batch * groups {
            let input = &x.values[plane * group_area..][..group_area];
            gather(input, input_area, &places, taps, &mut patches);
            let group = plane % groups;
            let rows = &kernel.values[group * group_outputs * patch..][..group_outputs * patch];
            let out = &mut sums.values[plane * group_outputs * area..][..group_outputs * area];
            row_products(rows, &patches, patch, |channel, place, sum| {
                out[channel * area + first + place] = sum;
            });
        }
    }
    Ok(sums)
}

/// Adds to `places` the indices of the inputs under the window at output place `index`.
fn window_places(window: &Window, input: &[usize], index: usize, places: &mut Vec<usize>) {
    let start = places.len();
    places.push(0);
    let mut rest = index;
    let mut origin = vec![0; input.len()];
    for axis in (0..input.len()).rev() {
        origin[axis] = rest % window.output[axis] * window.stride[axis];
        rest /= window.output[axis];
    }
    for (axis, &size) in input.iter().enumerate() {
        let outer = places.split_off(start);
        for place in outer {
            places.extend((0..window.kernel[axis]).map(|step| {
                let position = origin[axis] + step * window.dilation[axis];
                match position.checked_sub(window.pad_begin[axis]) {
                    Some(position) if position < size && place != OUTSIDE => {
                        place * size + position
                    }
                    _ => OUTSIDE,
                }
            }));
        }
    }
}

/// The patches of the channels of `input` at `places`, one row a window; padding is zero.
fn gather(input: &[i16], area: usize, places: &[usize], taps: usize, patches: &mut Vec<i16>) {
    patches.clear();
    for window in places.chunks_exact(taps) {
        for channel in input.chunks_exact(area) {
            patches.extend(
                window
                    .iter()
                    .map(|&place| channel.get(place).copied().unwrap_or(0)),
            );
        }
    }
}

/// ConvInteger: the sums themselves.
pub(super) fn integer(call: &Call) -> Outcome {
    let x = Levels::new(call.input(0)?, call.optional(2), &[])?;
    let kernel = kernel_levels(call.input(1)?, call.optional(3))?;
    let sums = convolve(call, &x, &kernel)?;
    Ok(vec![Array {
        data_type: INT32,
        dims: sums.dims,
        data: Data::Int(sums.values.iter().map(|&v| v.into()).collect()),
    }])
}

/// QLinearConv: the sums plus a bias in their scale, times the scales of input and kernel over that
/// of the result, plus its zero point.
pub(super) fn quantized(call: &Call) -> Outcome {
    let (x, kernel) = (call.input(0)?, call.input(3)?);
    let from = Code::read(call, 1, 2, x.data_type)?;
    let to = Code::read(call, 6, 7, x.data_type)?;
    let x = Levels::new(x, call.optional(2), &[])?;
    let kernel = kernel_levels(kernel, call.optional(5))?;
    let sums = convolve(call, &x, &kernel)?;
    let channels = sums.dims[1];
    let bias = call.optional(8).map(Array::ints).transpose()?;
    let scales = call.input(4)?.floats()?;
    if bias.is_some_and(|bias| bias.len() != channels) || ![1, channels].contains(&scales.len()) {
        return Err(RuleError::new(format!(
            "has a bias or scales that are not one for each of {channels} output channels"
        )));
    }
    let factors: Vec<f32> = scales
        .iter()
        .map(|&scale| from.scale * scale as f32 / to.scale)
        .collect();
    let levels = sums.map(|sum, channel| {
        let bias = bias.map_or(0, |bias| bias[channel] as i32);
        let factor = factors[if factors.len() == 1 { 0 } else { channel }];
        to.requantize(sum.wrapping_add(bias), factor)
    });
    Ok(vec![Array::int(to.kind, sums.dims, levels)])
}
