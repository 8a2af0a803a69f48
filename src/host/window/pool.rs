//! Pools. A pool over a box is a pool along one axis after the other, so that each costs its window's
//! length along that axis only.

use std::ops::Range;

use super::super::array::{Array, Data};
use super::super::call::{Call, Outcome, around, strides};
use super::{image_of, unravel};
use crate::graph::params::{self, RuleError, Window};
use crate::onnx::proto::NodeProto;
use crate::onnx::proto::data_type::*;

/// The elements of an axis that one window meets: `first`, `first + step`, …
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    step: usize,
    count: usize,
    /// As many elements with those of the declared padding.
    padded: usize,
}

/// The spans of all windows along one axis.
fn spans(window: &Window, axis: usize, size: usize) -> Vec<Span> {
    let (step, taps) = (window.dilation[axis] as i64, window.kernel[axis] as i64);
    let (before, after) = (
        window.pad_begin[axis] as i64,
        window.pad_end[axis] as i64 + size as i64,
    );
    // Number of taps from `corner` on that lie before `end`.
    let until = |corner: i64, end: i64| {
        let room = (end - corner).max(0);
        ((room + step - 1) / step).min(taps)
    };
    (0..window.output[axis])
        .map(|position| {
            let corner = (position * window.stride[axis]) as i64 - before;
            let skipped = until(corner, 0);
            let count = (until(corner, size as i64) - skipped).max(0);
            Span {
                first: (corner + skipped * step).max(0) as usize,
                step: step as usize,
                count: count as usize,
                padded: until(corner, after) as usize,
            }
        })
        .collect()
}

/// A pool's windows along each axis of the image.
struct Pool<'a> {
    call: &'a Call<'a>,
    x: &'a Array,
    spans: Vec<Vec<Span>>,
}

impl<'a> Pool<'a> {
    /// The windows that the attributes say.
    fn windows(call: &'a Call<'a>) -> Result<Self, RuleError> {
        let x = call.input(0)?;
        let (_, _, image) = image_of(x)?;
        let window = params::window(call.node, image, None)?;
        call.count(&window.output)?;
        let spans = image
            .iter()
            .enumerate()
            .map(|(axis, &size)| spans(&window, axis, size))
            .collect();
        Self::checked(call, x, spans)
    }

    /// One window over everything.
    fn global(call: &'a Call<'a>) -> Result<Self, RuleError> {
        let x = call.input(0)?;
        let Some(image) = x.dims.get(2..) else {
            return Err(RuleError::new(format!(
                "pools a value of shape {:?}, needs [batch, channels, …]",
                x.dims
            )));
        };
        let all = |&size: &usize| {
            vec![Span {
                first: 0,
                step: 1,
                count: size,
                padded: size,
            }]
        };
        Self::checked(call, x, image.iter().map(all).collect())
    }

    /// Every stage on the way to the result has to be small enough.
    fn checked(call: &'a Call<'a>, x: &'a Array, spans: Vec<Vec<Span>>) -> Result<Self, RuleError> {
        let mut dims = x.dims.clone();
        for (axis, spans) in spans.iter().enumerate().rev() {
            dims[axis + 2] = spans.len();
            call.count(&dims)?;
        }
        Ok(Self { call, x, spans })
    }

    fn output(&self) -> Vec<usize> {
        let sizes = self.spans.iter().map(Vec::len);
        self.x.dims[..2].iter().copied().chain(sizes).collect()
    }

    /// Takes `values`, of the input's shape, through `along` axis by axis, from the last to the first.
    fn stages<T>(
        &self,
        mut values: Vec<T>,
        along: impl Fn(&[T], [usize; 3], &[Span]) -> Vec<T>,
    ) -> Vec<T> {
        let mut dims = self.x.dims.clone();
        for (axis, spans) in self.spans.iter().enumerate().rev() {
            let sizes = around(&dims, axis + 2);
            values = along(&values, sizes, spans);
            dims[axis + 2] = spans.len();
        }
        values
    }

    /// The sums of the windows, whose padding counts as zero.
    fn sums(&self, values: Vec<f64>) -> Vec<f64> {
        self.stages(values, |values, [before, size, after], spans| {
            let mut out = vec![0.0; before * spans.len() * after];
            lines(before, size, after, spans, |place, from| {
                let to = &mut out[place..place + after];
                for (sum, value) in to.iter_mut().zip(&values[from..from + after]) {
                    *sum += value;
                }
            });
            out
        })
    }

    /// Flat places of the windows' largest elements, the first of equal ones; [`NOWHERE`] for a window
    /// without elements.
    fn largest(&self, larger: impl Fn(usize, usize) -> bool) -> Vec<usize> {
        let places = (0..self.x.len()).collect();
        self.stages(places, |places: &[usize], [before, size, after], spans| {
            let mut out = vec![NOWHERE; before * spans.len() * after];
            lines(before, size, after, spans, |place, from| {
                let to = &mut out[place..place + after];
                for (best, &next) in to.iter_mut().zip(&places[from..from + after]) {
                    if next != NOWHERE && (*best == NOWHERE || larger(next, *best)) {
                        *best = next;
                    }
                }
            });
            out
        })
    }

    /// One number for each window, the product over its axes.
    fn products(&self, number: impl Fn(&Span) -> usize) -> Vec<f64> {
        self.spans.iter().fold(vec![1.0], |outer, spans| {
            let inner: Vec<f64> = spans.iter().map(|span| number(span) as f64).collect();
            outer
                .iter()
                .flat_map(|a| inner.iter().map(move |b| a * b))
                .collect()
        })
    }

    fn floats(&self, values: Vec<f64>) -> Array {
        self.x.with(self.output(), Data::Float(values))
    }

    /// The results of MaxPool and GlobalMaxPool: the largest elements and, where asked for, their
    /// places.
    fn maxima(&self) -> Outcome {
        let places;
        let data = match &self.x.data {
            Data::Float(x) => {
                places = self.largest(|a, b| x[a] > x[b] || (x[a].is_nan() && !x[b].is_nan()));
                let value = |&at: &usize| x.get(at).copied().unwrap_or(f64::NEG_INFINITY);
                Data::Float(places.iter().map(value).collect())
            }
            Data::Int(x) if self.x.data_type == UINT64 => {
                places = self.largest(|a, b| x[a] as u64 > x[b] as u64);
                Data::Int(
                    places
                        .iter()
                        .map(|&at| x.get(at).copied().unwrap_or(0))
                        .collect(),
                )
            }
            Data::Int(x) => {
                places = self.largest(|a, b| x[a] > x[b]);
                let least = least(self.x.data_type);
                let value = |&at: &usize| x.get(at).copied().unwrap_or(least);
                Data::Int(places.iter().map(value).collect())
            }
            Data::Text(_) => return Err(RuleError::new("pools strings")),
        };
        let mut outputs = vec![self.x.with(self.output(), data)];
        if self.call.outputs() > 1 {
            let by_column = self.call.node.int("storage_order").unwrap_or(0) == 1;
            let indices = places.iter().map(|&place| self.index(place, by_column));
            outputs.push(Array::int64(self.output(), indices.collect()));
        }
        Ok(outputs)
    }

    /// A flat place as MaxPool's second output gives it.
    fn index(&self, place: usize, by_column: bool) -> i64 {
        if place == NOWHERE || !by_column {
            return i64::try_from(place).unwrap_or(-1);
        }
        let image = &self.x.dims[2..];
        let area: usize = image.iter().product();
        let within = unravel(place % area.max(1), image);
        let flat = within
            .iter()
            .zip(image)
            .rev()
            .fold(0, |flat, (&at, &size)| flat * size + at);
        (place - place % area.max(1) + flat) as i64
    }
}

/// The place of the largest of no elements.
const NOWHERE: usize = usize::MAX;

/// Calls `each` with the starts of the line of results and of the line of elements, `after` long both,
/// for every element of every span.
fn lines(
    before: usize,
    size: usize,
    after: usize,
    spans: &[Span],
    mut each: impl FnMut(usize, usize),
) {
    if size * after == 0 {
        return;
    }
    for block in 0..before {
        for (position, span) in spans.iter().enumerate() {
            let place = (block * spans.len() + position) * after;
            for tap in 0..span.count {
                let from = (block * size + span.first + tap * span.step) * after;
                each(place, from);
            }
        }
    }
}

/// The least number of a signed type; 0 for an unsigned one.
fn least(kind: i32) -> i64 {
    match kind {
        INT8 => i8::MIN.into(),
        INT16 => i16::MIN.into(),
        INT32 => i32::MIN.into(),
        INT64 => i64::MIN,
        INT4 => -8,
        INT2 => -2,
        _ => 0,
    }
}

/// ONNX MaxPool.
pub(super) fn max_pool(call: &Call) -> Outcome {
    Pool::windows(call)?.maxima()
}

/// ONNX GlobalMaxPool.
pub(super) fn global_max_pool(call: &Call) -> Outcome {
    Pool::global(call)?.maxima()
}

/// ONNX AveragePool; with `count_include_pad` the declared padding counts, what ceil_mode adds never.
pub(super) fn average_pool(call: &Call) -> Result<Array, RuleError> {
    let pool = Pool::windows(call)?;
    let padded = call.node.int("count_include_pad").unwrap_or(0) != 0;
    average(&pool, |span| if padded { span.padded } else { span.count })
}

/// ONNX GlobalAveragePool.
pub(super) fn global_average_pool(call: &Call) -> Result<Array, RuleError> {
    average(&Pool::global(call)?, |span| span.count)
}

fn average(pool: &Pool, number: impl Fn(&Span) -> usize) -> Result<Array, RuleError> {
    let mut sums = pool.sums(pool.x.floats()?.to_vec());
    let numbers = pool.products(number);
    for (sum, number) in sums.iter_mut().zip(numbers.iter().cycle()) {
        *sum /= number;
    }
    Ok(pool.floats(sums))
}

/// ONNX LpPool.
pub(super) fn lp_pool(call: &Call) -> Result<Array, RuleError> {
    norms(&Pool::windows(call)?)
}

/// ONNX GlobalLpPool.
pub(super) fn global_lp_pool(call: &Call) -> Result<Array, RuleError> {
    norms(&Pool::global(call)?)
}

/// `(Σ |x|^p)^(1/p)` of each window.
fn norms(pool: &Pool) -> Result<Array, RuleError> {
    let p = pool.call.node.int("p").unwrap_or(2);
    if p < 1 {
        return Err(RuleError::new(format!("has a `p` of {p}")));
    }
    let p = p as f64;
    let powers = pool.x.floats()?.iter().map(|x| x.abs().powf(p)).collect();
    let mut sums = pool.sums(powers);
    sums.iter_mut().for_each(|sum| *sum = sum.powf(p.recip()));
    Ok(pool.floats(sums))
}

/// ONNX MaxUnpool: each element at its index, which counts in the shape that the window gives; a larger
/// `output_shape` adds zeros after it.
pub(super) fn max_unpool(call: &Call) -> Result<Array, RuleError> {
    let (x, indices) = (call.input(0)?, call.input(1)?);
    let (batch, channels, image) = image_of(x)?;
    let places = indices.ints()?;
    if indices.dims != x.dims {
        return Err(RuleError::new(format!(
            "has indices of shape {:?} for a value of shape {:?}",
            indices.dims, x.dims
        )));
    }
    let kernel: Vec<usize> = call
        .node
        .ints("kernel_shape")
        .filter(|kernel| kernel.len() == image.len())
        .ok_or_else(|| RuleError::new("has no `kernel_shape` that fits"))?
        .iter()
        .map(|&size| usize::try_from(size).unwrap_or(0).min(1 << 20))
        .collect();
    let (window, _) = params::transposed_window(call.node, image, &kernel)?;
    call.count(&window.output)?;
    let inner = [&[batch, channels], &*window.output].concat();
    let dims = match call.optional(2) {
        Some(shape) => shape
            .ints()?
            .iter()
            .map(|&size| usize::try_from(size).ok())
            .collect::<Option<Vec<_>>>()
            .filter(|dims| {
                dims.len() == inner.len() && dims.iter().zip(&inner).all(|(a, b)| a >= b)
            })
            .ok_or_else(|| {
                RuleError::new(format!("unpools {inner:?} to a shape that is smaller"))
            })?,
        None => inner.clone(),
    };
    let (count, total) = (call.count(&inner)?, call.count(&dims)?);
    if total == 0 {
        return Ok(x.with(dims, x.data.clone()));
    }
    let steps = strides(&dims);
    let targets = places
        .iter()
        .map(|&place| {
            let place = usize::try_from(place)
                .ok()
                .filter(|&place| place < count)
                .ok_or_else(|| RuleError::new(format!("has index {place} of {count} elements")))?;
            let place = unravel(place, &inner);
            Ok(place.iter().zip(&steps).map(|(at, step)| at * step).sum())
        })
        .collect::<Result<Vec<usize>, RuleError>>()?;
    let data = match &x.data {
        Data::Float(x) => Data::Float(placed(x, &targets, total)),
        Data::Int(x) => Data::Int(placed(x, &targets, total)),
        Data::Text(_) => return Err(RuleError::new("unpools strings")),
    };
    Ok(x.with(dims, data))
}

fn placed<T: Copy + Default>(values: &[T], targets: &[usize], count: usize) -> Vec<T> {
    let mut out = vec![T::default(); count];
    for (&value, &target) in values.iter().zip(targets) {
        out[target] = value;
    }
    out
}

/// The elements that MaxRoiPool compares (Girshick 2015): those of each cell of a box whose corners are
/// rounded to elements.
pub(crate) struct RoiMaxima {
    /// Shape of the result: `[boxes, channels, rows, columns]`.
    dims: Vec<usize>,
    width: usize,
    area: usize,
    boxes: Vec<RoiCells>,
}

/// The image of one box, and the rows and columns of its cells.
struct RoiCells {
    image: usize,
    down: Vec<Range<usize>>,
    across: Vec<Range<usize>>,
}

impl RoiMaxima {
    /// For images of shape `x` and `boxes` `[number, 5]`, the image and then the corners of each.
    pub(crate) fn of(node: &NodeProto, x: &[usize], boxes: &Array) -> Result<Self, RuleError> {
        let &[batch, channels, height, width] = x else {
            return Err(RuleError::new(format!(
                "pools a value of shape {x:?}, needs rank 4"
            )));
        };
        let &[number, 5] = &*boxes.dims else {
            return Err(RuleError::new(format!(
                "has boxes of shape {:?}, needs [boxes, 5]",
                boxes.dims
            )));
        };
        let shape: Vec<usize> = node.ints("pooled_shape").map_or_else(Vec::new, |shape| {
            let sizes = shape.iter().map(|&size| usize::try_from(size).unwrap_or(0));
            sizes.collect()
        });
        let &[rows, columns] = &*shape else {
            return Err(RuleError::new("has no `pooled_shape` of two sizes"));
        };
        if rows == 0 || columns == 0 {
            return Err(RuleError::new(format!("has a `pooled_shape` of {shape:?}")));
        }
        let mut maxima = Self {
            dims: vec![number, channels, rows, columns],
            width,
            area: height * width,
            boxes: Vec::new(),
        };
        if params::checked_elements(&maxima.dims)? == 0 {
            return Ok(maxima);
        }
        let scale = f64::from(node.float("spatial_scale").unwrap_or(1.0));
        for item in boxes.floats()?.chunks_exact(5) {
            let image = item[0];
            if !(0.0..batch as f64).contains(&image) {
                return Err(RuleError::new(format!(
                    "has a box in image {image} of {batch}"
                )));
            }
            let corner = |at: usize| (item[at] * scale).round().clamp(-1e9, 1e9) as i64;
            let across = cells(corner(1), corner(3), columns, width);
            let down = cells(corner(2), corner(4), rows, height);
            maxima.boxes.push(RoiCells {
                image: image as usize,
                down,
                across,
            });
        }
        Ok(maxima)
    }

    /// For each cell, box by box: its elements by their places in `[batch, height, width]`, each with the
    /// weight 1; a cell without elements has one with the weight 0.
    pub(crate) fn elements(&self) -> Vec<Vec<(usize, f64)>> {
        let mut out = Vec::new();
        for own in &self.boxes {
            let first = own.image * self.area;
            for lines in &own.down {
                for part in &own.across {
                    let rows = lines.clone().map(|line| first + line * self.width);
                    let cell = rows.flat_map(|row| part.clone().map(move |at| (row + at, 1.0)));
                    let mut cell: Vec<(usize, f64)> = cell.collect();
                    if cell.is_empty() {
                        cell.push((first, 0.0));
                    }
                    out.push(cell);
                }
            }
        }
        out
    }
}

/// ONNX MaxRoiPool.
pub(super) fn max_roi_pool(call: &Call) -> Result<Array, RuleError> {
    let (x, boxes) = (call.input(0)?, call.input(1)?);
    let maxima = RoiMaxima::of(call.node, &x.dims, boxes)?;
    let count = call.count(&maxima.dims)?;
    let (channels, width, area) = (maxima.dims[1], maxima.width, maxima.area);
    let values = x.floats()?;
    let mut out = Vec::with_capacity(count);
    for own in &maxima.boxes {
        for channel in 0..channels {
            let plane = &values[(own.image * channels + channel) * area..][..area];
            for lines in &own.down {
                for part in &own.across {
                    let cell = lines
                        .clone()
                        .flat_map(|line| &plane[line * width..][part.clone()]);
                    let largest = cell.copied().reduce(f64::max);
                    out.push(largest.unwrap_or(0.0));
                }
            }
        }
    }
    Ok(x.with(maxima.dims, Data::Float(out)))
}

/// The elements of each of `count` cells between two corners, both of which belong to the box.
fn cells(start: i64, end: i64, count: usize, size: usize) -> Vec<Range<usize>> {
    let step = (end - start + 1).max(1) as f64 / count as f64;
    let bound = |edge: f64| (edge as i64 + start).clamp(0, size as i64) as usize;
    (0..count)
        .map(|cell| {
            let first = bound((cell as f64 * step).floor());
            first..bound(((cell + 1) as f64 * step).ceil()).max(first)
        })
        .collect()
}
