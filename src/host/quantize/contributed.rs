//! Operators of the domain com.microsoft that read and write 8-bit levels; in between they compute with
//! the numbers that the levels stand for.

use super::levels::Code;
use crate::graph::params::{RuleError, Window, normalize_axis, window};
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome, around};
use crate::host::elementwise::{sigmoid, zip};

/// The codes of a unary operator: of its input, and of its output.
fn codes(call: &Call) -> Result<(Code, Code), RuleError> {
    let kind = call.input(0)?.data_type;
    Ok((Code::read(call, 1, 2, kind)?, Code::read(call, 3, 4, kind)?))
}

/// QLinearAdd and QLinearMul.
pub(super) fn binary(call: &Call, f: impl Fn(f64, f64) -> f64) -> Outcome {
    let (a, b) = (call.input(0)?, call.input(3)?);
    let dims = call.broadcast(&[&a.dims, &b.dims])?;
    let from_a = Code::read(call, 1, 2, a.data_type)?.numbers(a)?;
    let from_b = Code::read(call, 4, 5, b.data_type)?.numbers(b)?;
    let to = Code::read(call, 6, 7, a.data_type)?;
    let values = zip(&dims, (&from_a, &a.dims), (&from_b, &b.dims), f);
    Ok(vec![to.quantize(dims, values)])
}

/// QLinearSigmoid.
pub(super) fn logistic(call: &Call) -> Outcome {
    let (from, to) = codes(call)?;
    Ok(vec![from.map(call.input(0)?, &to, sigmoid)?])
}

/// QLinearLeakyRelu.
pub(super) fn leaky_relu(call: &Call) -> Outcome {
    let (from, to) = codes(call)?;
    let alpha = f64::from(call.node.float("alpha").unwrap_or(0.01));
    let leaky = |x: f64| if x < 0.0 { alpha * x } else { x };
    Ok(vec![from.map(call.input(0)?, &to, leaky)?])
}

/// QLinearConcat: triples of levels, scale and zero point, after those of the result.
pub(super) fn concat(call: &Call) -> Outcome {
    let to = Code::read(call, 0, 1, call.input(1)?.data_type)?;
    let parts: Vec<Array> = (2..call.inputs.len())
        .step_by(3)
        .map(|index| {
            let x = call.input(index)?;
            Code::read(call, index + 1, index + 2, x.data_type)?.map(x, &to, |v| v)
        })
        .collect::<Result<_, _>>()?;
    let first = parts
        .first()
        .ok_or_else(|| RuleError::new("concatenates nothing"))?;
    let axis = normalize_axis(call.node.int("axis").unwrap_or(0), first.dims.len())?;
    let mut dims = first.dims.clone();
    dims[axis] = 0;
    for part in &parts {
        let mut rest = part.dims.clone();
        let size = rest.get_mut(axis).map_or(0, std::mem::take);
        dims[axis] += size;
        let mut open = dims.clone();
        open[axis] = 0;
        if rest != open {
            return Err(RuleError::new(format!(
                "concatenates shapes {:?} and {:?} along axis {axis}",
                first.dims, part.dims
            )));
        }
    }
    let count = call.count(&dims)?;
    let mut levels = Vec::with_capacity(count);
    for block in 0..dims[..axis].iter().product() {
        for part in &parts {
            let [_, size, after] = around(&part.dims, axis);
            levels.extend_from_slice(&part.ints()?[block * size * after..][..size * after]);
        }
    }
    Ok(vec![Array::int(to.kind, dims, levels)])
}

/// Where the channels and the places of an image stand.
struct Layout {
    batch: usize,
    channels: usize,
    spatial: Vec<usize>,
    last: bool,
}

impl Layout {
    /// The layout of the input, by the attribute `channels_last`.
    fn of(call: &Call) -> Result<Self, RuleError> {
        let dims = &call.input(0)?.dims;
        let last = call.node.int("channels_last").unwrap_or(0) != 0;
        match dims[..] {
            [batch, ref spatial @ .., channels] if last => Some((batch, channels, spatial)),
            [batch, channels, ref spatial @ ..] if !last => Some((batch, channels, spatial)),
            _ => None,
        }
        .map(|(batch, channels, spatial)| Self {
            batch,
            channels,
            spatial: spatial.to_vec(),
            last,
        })
        .ok_or_else(|| RuleError::new(format!("pools a value of shape {dims:?}")))
    }

    fn dims(&self) -> Vec<usize> {
        let mut dims = vec![self.batch];
        if self.last {
            dims.extend(&self.spatial);
            dims.push(self.channels);
        } else {
            dims.push(self.channels);
            dims.extend(&self.spatial);
        }
        dims
    }

    /// The same with other spatial sizes.
    fn with(&self, spatial: &[usize]) -> Self {
        Self {
            spatial: spatial.to_vec(),
            ..*self
        }
    }

    fn area(&self) -> usize {
        self.spatial.iter().product()
    }

    /// Where place 0 of a channel of an example stands.
    fn start(&self, example: usize, channel: usize) -> usize {
        let step = if self.last { 1 } else { self.area() };
        example * self.channels * self.area() + channel * step
    }

    /// How far the places of a channel are apart.
    fn step(&self) -> usize {
        if self.last { self.channels } else { 1 }
    }
}

/// QLinearGlobalAveragePool.
pub(super) fn global_average_pool(call: &Call) -> Outcome {
    let layout = Layout::of(call)?;
    average(call, &layout, &vec![1; layout.spatial.len()], |_, taken| {
        taken.push(0..layout.area());
        layout.area() as f64
    })
}

/// QLinearAveragePool.
pub(super) fn average_pool(call: &Call) -> Outcome {
    let layout = Layout::of(call)?;
    let window = window(call.node, &layout.spatial, None)?;
    let padded = call.node.int("count_include_pad").unwrap_or(0) != 0;
    let size: f64 = window.kernel.iter().map(|&size| size as f64).product();
    average(call, &layout, &window.output, |place, taken| {
        covered(&window, &layout.spatial, place, taken);
        let count: usize = taken.iter().map(ExactSizeIterator::len).sum();
        if padded { size } else { count as f64 }
    })
}

/// Adds the runs of input places under the window at output place `index`.
fn covered(
    window: &Window,
    input: &[usize],
    index: usize,
    taken: &mut Vec<std::ops::Range<usize>>,
) {
    let mut rest = index;
    let mut reach = vec![0..0; input.len()];
    for axis in (0..input.len()).rev() {
        let start = rest % window.output[axis] * window.stride[axis];
        rest /= window.output[axis];
        let end = (start + window.kernel[axis]).saturating_sub(window.pad_begin[axis]);
        let start = start.saturating_sub(window.pad_begin[axis]);
        reach[axis] = start..end.min(input[axis]);
    }
    taken.push(0..1);
    for (axis, &size) in input.iter().enumerate() {
        let last = axis + 1 == input.len();
        for outer in std::mem::take(taken) {
            let base = outer.start * size;
            if last {
                taken.push(base + reach[axis].start..base + reach[axis].end);
            } else {
                taken.extend(reach[axis].clone().map(|at| base + at..base + at + 1));
            }
        }
    }
}

/// The averages of a pooling: `window(place, taken)` names the runs of input places of an output place
/// and the number by which their sum is divided.
fn average(
    call: &Call,
    layout: &Layout,
    output: &[usize],
    mut window: impl FnMut(usize, &mut Vec<std::ops::Range<usize>>) -> f64,
) -> Outcome {
    if call.node.ints("dilations").is_some() {
        return Err(call.unsupported("has dilations"));
    }
    let (from, to) = codes(call)?;
    let x = call.input(0)?;
    let levels = from.levels(x)?;
    let result = layout.with(output);
    let dims = result.dims();
    let mut values = vec![0; call.count(&dims)?];
    let mut taken = Vec::new();
    let places = if values.is_empty() { 0 } else { result.area() };
    for place in 0..places {
        taken.clear();
        let count = window(place, &mut taken);
        let held: usize = taken.iter().map(ExactSizeIterator::len).sum();
        for example in 0..layout.batch {
            for channel in 0..layout.channels {
                let start = layout.start(example, channel);
                let at = |place: usize| levels[start + place * layout.step()];
                let sum: i64 = taken.iter().flat_map(Clone::clone).map(at).sum();
                let sum = sum - from.zero * held as i64;
                let place = result.start(example, channel) + place * result.step();
                values[place] = to.level_of(sum as f64 * f64::from(from.scale) / count);
            }
        }
    }
    Ok(vec![Array {
        data_type: to.kind,
        dims,
        data: Data::Int(values),
    }])
}

/// QLinearSoftmax, along one axis since operator set 13 of Softmax, over all axes from `axis` on before.
pub(super) fn softmax(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let (from, to) = codes(call)?;
    let one_axis = call.node.int("opset").unwrap_or(13) >= 13;
    let axis = call
        .node
        .int("axis")
        .unwrap_or(if one_axis { -1 } else { 1 });
    let axis = normalize_axis(axis, x.dims.len())?;
    let [before, size, after] = match around(&x.dims, axis) {
        sizes if one_axis => sizes,
        [before, size, after] => [before, size * after, 1],
    };
    let mut values = from.numbers(x)?;
    for row in 0..before * after {
        let start = row / after * size * after + row % after;
        let places = || (0..size).map(|place| start + place * after);
        let highest = places().map(|place| values[place]).fold(f64::MIN, f64::max);
        let mut sum = 0.0;
        for place in places() {
            values[place] = (values[place] - highest).exp();
            sum += values[place];
        }
        places().for_each(|place| values[place] /= sum);
    }
    Ok(vec![to.quantize(x.dims.clone(), values)])
}
