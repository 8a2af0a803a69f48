//! Resize and Upsample: every axis has a table of the elements and weights that make each of its new
//! elements, and the tables are applied axis by axis.

use super::super::array::Array;
use super::super::call::{Call, around, strides};
use super::{NOWHERE, cubic, interpolated, keys, rounded, taken};
use crate::graph::params::{RuleError, check_shape, normalize_axis};

/// What the attributes say, over all versions of both operators.
struct Settings<'a> {
    mode: &'a str,
    coordinates: &'a str,
    /// `nearest_mode`; `simple` where the operator has none: the next element on the way down, else
    /// the one before.
    nearest: &'a str,
    antialias: bool,
    exclude_outside: bool,
    cubic_a: f64,
    extrapolation: f64,
}

/// One axis on its way from `input` to `output` elements.
#[derive(Clone, Copy)]
struct Axis {
    input: usize,
    output: usize,
    scale: f64,
    /// Start and end of the region, in units of the axis.
    region: (f64, f64),
}

/// The elements that make one new element, with their weights; `None` outside of the region.
pub(crate) type Taps = Option<Vec<(usize, f64)>>;

/// ONNX Resize (operator sets 10 to 19) and Upsample (7 and 9).
pub(super) fn resize(call: &Call) -> Result<Array, RuleError> {
    let x = call.input(0)?;
    let settings = settings(call)?;
    let axes = axes(call, &x.dims, &settings)?;
    let dims: Vec<usize> = axes.iter().map(|axis| axis.output).collect();
    if call.count(&dims)? == 0 {
        return Ok(taken(x, dims, std::iter::empty(), 0.0));
    }
    if x.is_empty() {
        return Err(RuleError::new(format!(
            "resizes a value of shape {:?} to {dims:?}",
            x.dims
        )));
    }
    if settings.mode == "nearest" {
        return Ok(nearest(x, dims, &axes, &settings));
    }
    let mut order: Vec<usize> = (0..axes.len())
        .filter(|&axis| !axes[axis].same(&settings))
        .collect();
    let growth = |axis: &Axis| axis.output as f64 / axis.input.max(1) as f64;
    order.sort_by(|&a, &b| growth(&axes[a]).total_cmp(&growth(&axes[b])));
    let mut values = x.numbers()?;
    let mut shape = x.dims.clone();
    for axis in order {
        let sizes = around(&shape, axis);
        shape[axis] = dims[axis];
        let count = call.count(&shape)?;
        let taps = axes[axis].table(&settings);
        values = applied(&values, sizes, &taps, settings.extrapolation, count);
    }
    interpolated(x, dims, values, rounded)
}

/// How one axis of a Resize or Upsample is resampled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Resampling {
    Keep,
    /// For each new element the old one that it takes; `None` outside of the region.
    Nearest(Vec<Option<usize>>),
    /// For each new element old ones with their weights; `None` outside of the region.
    Weighted(Vec<Taps>),
}

/// How each axis of a value of shape `dims` is resampled to the shape `output`, and what stands outside of the region. Of the
/// call only the inputs after the first are read.
pub(crate) fn resampling(
    call: &Call,
    dims: &[usize],
    output: &[usize],
) -> Result<(Vec<Resampling>, f64), RuleError> {
    let settings = settings(call)?;
    let axes = axes(call, dims, &settings)?;
    let sizes: Vec<usize> = axes.iter().map(|axis| axis.output).collect();
    check_shape("a result", &sizes, output)?;
    let way = |axis: &Axis| match settings.mode {
        _ if axis.same(&settings) => Resampling::Keep,
        "nearest" => {
            let places = axis.nearest(&settings).into_iter();
            Resampling::Nearest(places.map(|at| (at != NOWHERE).then_some(at)).collect())
        }
        _ => Resampling::Weighted(axis.table(&settings)),
    };
    Ok((axes.iter().map(way).collect(), settings.extrapolation))
}

fn settings<'a>(call: &'a Call) -> Result<Settings<'a>, RuleError> {
    let node = call.node;
    let old = call.operator() == "Upsample" || call.opset < 11;
    let text = |name: &str, default: &'static str| node.text(name).unwrap_or(default);
    let flag = |name: &str| node.int(name).unwrap_or(0) != 0;
    let number = |name: &str, default: f32| f64::from(node.float(name).unwrap_or(default));
    let mode = match text("mode", "nearest") {
        "bilinear" if old => "linear",
        mode @ ("nearest" | "linear") => mode,
        "cubic" if !old => "cubic",
        mode => return Err(RuleError::new(format!("has the mode `{mode}`"))),
    };
    let (coordinates, nearest) = if old {
        ("asymmetric", "simple")
    } else {
        (
            text("coordinate_transformation_mode", "half_pixel"),
            text("nearest_mode", "round_prefer_floor"),
        )
    };
    if !matches!(
        coordinates,
        "half_pixel"
            | "half_pixel_symmetric"
            | "pytorch_half_pixel"
            | "align_corners"
            | "asymmetric"
            | "tf_half_pixel_for_nn"
            | "tf_crop_and_resize"
    ) {
        return Err(RuleError::new(format!(
            "has the coordinate_transformation_mode `{coordinates}`"
        )));
    }
    if !matches!(
        nearest,
        "round_prefer_floor" | "round_prefer_ceil" | "floor" | "ceil"
    ) && !old
    {
        return Err(RuleError::new(format!("has the nearest_mode `{nearest}`")));
    }
    Ok(Settings {
        mode,
        coordinates,
        nearest,
        antialias: flag("antialias"),
        exclude_outside: flag("exclude_outside"),
        cubic_a: number("cubic_coeff_a", -0.75),
        extrapolation: number("extrapolation_value", 0.0),
    })
}

/// Sizes, scales and region of every axis.
fn axes(call: &Call, dims: &[usize], settings: &Settings) -> Result<Vec<Axis>, RuleError> {
    let old = call.operator() == "Upsample" || call.opset < 11;
    let mut axes: Vec<Axis> = dims
        .iter()
        .map(|&size| Axis {
            input: size,
            output: size,
            scale: 1.0,
            region: (0.0, 1.0),
        })
        .collect();
    let chosen: Vec<usize> = match call.node.ints("axes") {
        Some(given) if !old => given
            .iter()
            .map(|&axis| normalize_axis(axis, axes.len()))
            .collect::<Result<_, _>>()?,
        _ => (0..axes.len()).collect(),
    };
    let filled = |index: usize| call.optional(index).filter(|input| !input.is_empty());
    let fits = |count: usize, name: &str, wanted: usize| {
        if count == wanted {
            return Ok(());
        }
        Err(RuleError::new(format!(
            "has {count} {name}, needs {wanted}"
        )))
    };
    if settings.coordinates == "tf_crop_and_resize" {
        let region = filled(1)
            .ok_or_else(|| RuleError::new("crops without `roi`"))?
            .numbers()?;
        fits(region.len(), "numbers in `roi`", 2 * chosen.len())?;
        let (starts, ends) = region.split_at(chosen.len());
        for (&axis, region) in chosen.iter().zip(starts.iter().zip(ends)) {
            axes[axis].region = (*region.0, *region.1);
        }
    }
    let attribute = call.node.attribute("scales");
    let scales = match attribute.filter(|_| call.opset < 9) {
        Some(attribute) => Some(attribute.floats.iter().map(|&s| f64::from(s)).collect()),
        None => filled(if old { 1 } else { 2 })
            .map(Array::numbers)
            .transpose()?,
    };
    if let Some(scales) = scales {
        fits(scales.len(), "scales", chosen.len())?;
        for (&axis, &scale) in chosen.iter().zip(&scales) {
            axes[axis].scaled(scale)?;
        }
        return Ok(axes);
    }
    let sizes = filled(3).filter(|_| !old);
    let sizes = sizes
        .ok_or_else(|| RuleError::new("has neither scales nor sizes"))?
        .ints()?;
    fits(sizes.len(), "sizes", chosen.len())?;
    for (&axis, &size) in chosen.iter().zip(sizes) {
        axes[axis].sized(size)?;
    }
    keep_ratio(call, &chosen, &mut axes)?;
    Ok(axes)
}

/// `keep_aspect_ratio_policy`: one scale for all chosen axes, from the sizes that were asked for.
fn keep_ratio(call: &Call, chosen: &[usize], axes: &mut [Axis]) -> Result<(), RuleError> {
    let pick = match call.node.text("keep_aspect_ratio_policy") {
        None | Some("stretch") => return Ok(()),
        Some("not_larger") => f64::min,
        Some("not_smaller") => f64::max,
        Some(policy) => {
            return Err(RuleError::new(format!(
                "has the keep_aspect_ratio_policy `{policy}`"
            )));
        }
    };
    let scales = chosen.iter().map(|&axis| axes[axis].scale);
    let Some(scale) = scales.reduce(pick) else {
        return Ok(());
    };
    for &axis in chosen {
        let axis = &mut axes[axis];
        axis.scale = scale;
        axis.output = (scale * axis.input as f64 + 0.5).floor() as usize;
    }
    Ok(())
}

impl Axis {
    /// The size that follows from a scale, in float32 like ONNX's shape inference.
    fn scaled(&mut self, scale: f64) -> Result<(), RuleError> {
        if !(scale.is_finite() && scale > 0.0) {
            return Err(RuleError::new(format!("has a scale of {scale}")));
        }
        self.scale = scale;
        self.output = (self.input as f32 * scale as f32).floor() as usize;
        Ok(())
    }

    fn sized(&mut self, size: i64) -> Result<(), RuleError> {
        self.output = usize::try_from(size)
            .map_err(|_| RuleError::new(format!("resizes an axis to {size}")))?;
        self.scale = self.output as f64 / self.input.max(1) as f64;
        Ok(())
    }

    /// Whether nothing changes along this axis.
    fn same(&self, settings: &Settings) -> bool {
        self.input == self.output
            && self.scale == 1.0
            && (settings.coordinates != "tf_crop_and_resize" || self.region == (0.0, 1.0))
    }

    /// Where the new element `index` stands between the old ones; `None` outside of them, where the
    /// mode extrapolates.
    fn origin(&self, index: usize, settings: &Settings) -> Option<f64> {
        let (x, scale) = (index as f64, self.scale);
        let (input, output) = (self.input as f64, self.output as f64);
        // The new size before its fraction was cut off.
        let wanted = scale * input;
        Some(match settings.coordinates {
            "align_corners" if self.output <= 1 => 0.0,
            // By whole sizes, as ONNX Runtime and PyTorch; the ONNX node tests take `wanted`.
            "align_corners" => x * (input - 1.0) / (output - 1.0),
            "asymmetric" => x / scale,
            "tf_half_pixel_for_nn" => (x + 0.5) / scale,
            "pytorch_half_pixel" if self.output <= 1 => 0.0,
            "half_pixel_symmetric" => {
                let offset = input / 2.0 * (1.0 - output / wanted);
                offset + (x + 0.5) / scale - 0.5
            }
            "tf_crop_and_resize" => {
                let (start, end) = self.region;
                let last = input - 1.0;
                let at = if self.output > 1 {
                    start * last + x * (end - start) * last / (output - 1.0)
                } else {
                    0.5 * (start + end) * last
                };
                return (0.0..=last).contains(&at).then_some(at);
            }
            _ => (x + 0.5) / scale - 0.5,
        })
    }

    /// The nearest old element of each new one.
    fn nearest(&self, settings: &Settings) -> Vec<usize> {
        let place = |index| {
            let Some(at) = self.origin(index, settings) else {
                return NOWHERE;
            };
            let at = single(at);
            let whole = match settings.nearest {
                "simple" if self.scale < 1.0 => at.ceil(),
                "floor" | "simple" => at.floor(),
                "ceil" => at.ceil(),
                "round_prefer_ceil" => (at + 0.5).floor(),
                _ => (at - 0.5).ceil(),
            };
            self.within(whole as i64)
        };
        (0..self.output).map(place).collect()
    }

    fn within(&self, place: i64) -> usize {
        place.clamp(0, self.input.saturating_sub(1) as i64) as usize
    }

    /// The taps of every new element.
    fn table(&self, settings: &Settings) -> Vec<Taps> {
        (0..self.output)
            .map(|index| Some(self.taps(self.origin(index, settings)?, settings)))
            .collect()
    }

    /// The old elements around `at` with their weights; the first and the last stand for all beyond.
    fn taps(&self, at: f64, settings: &Settings) -> Vec<(usize, f64)> {
        let low = at.floor();
        let first = low as i64;
        let fraction = at - low;
        let shrinks = settings.antialias && self.scale < 1.0;
        let mut taps: Vec<(i64, f64)> = match settings.mode {
            _ if shrinks => self.smoothed(at, settings),
            "linear" => vec![(first, 1.0 - fraction), (first + 1, fraction)],
            _ => (first - 1..)
                .zip(cubic(fraction, settings.cubic_a))
                .collect(),
        };
        if settings.exclude_outside {
            taps.retain(|&(place, _)| (0..self.input as i64).contains(&place));
        }
        let total: f64 = taps.iter().map(|&(_, weight)| weight).sum();
        let total = match shrinks || settings.exclude_outside {
            true if total != 0.0 => total,
            _ => 1.0,
        };
        taps.iter()
            .map(|&(place, weight)| (self.within(place), weight / total))
            .collect()
    }

    /// The kernel stretched over as many old elements as one new element stands for.
    fn smoothed(&self, at: f64, settings: &Settings) -> Vec<(i64, f64)> {
        let linear = settings.mode == "linear";
        let reach = if linear { 1.0 } else { 2.0 } / self.scale;
        let weight = |place: i64| {
            let distance = (place as f64 - at) * self.scale;
            if linear {
                (1.0 - distance.abs()).max(0.0)
            } else {
                keys(distance, settings.cubic_a)
            }
        };
        ((at - reach).ceil() as i64..=(at + reach).floor() as i64)
            .map(|place| (place, weight(place)))
            .collect()
    }
}

/// A coordinate in float32, which a scale such as 0.6 in float32 brings back to where 0.6 itself would
/// have put it: on a whole element or half between two.
fn single(at: f64) -> f64 {
    if at.abs() < 1e6 {
        f64::from(at as f32)
    } else {
        at
    }
}

/// Mode nearest, which moves elements of every type.
fn nearest(x: &Array, dims: Vec<usize>, axes: &[Axis], settings: &Settings) -> Array {
    let mut places = vec![0];
    for (axis, step) in axes.iter().zip(strides(&x.dims)) {
        let table = axis.nearest(settings);
        places = places
            .iter()
            .flat_map(|&base: &usize| {
                table.iter().map(move |&at| match (base, at) {
                    (NOWHERE, _) | (_, NOWHERE) => NOWHERE,
                    (base, at) => base + at * step,
                })
            })
            .collect();
    }
    taken(x, dims, places.into_iter(), settings.extrapolation)
}

/// The weighted sums along one axis.
fn applied(
    values: &[f64],
    [_, size, after]: [usize; 3],
    table: &[Taps],
    extrapolation: f64,
    count: usize,
) -> Vec<f64> {
    let mut out = vec![0.0; count];
    let mut lines = out.chunks_exact_mut(after);
    for block in values.chunks_exact(size * after) {
        for (taps, line) in table.iter().zip(&mut lines) {
            let Some(taps) = taps else {
                line.fill(extrapolation);
                continue;
            };
            for &(place, weight) in taps {
                let from = &block[place * after..][..after];
                for (sum, value) in line.iter_mut().zip(from) {
                    *sum += weight * value;
                }
            }
        }
    }
    out
}
