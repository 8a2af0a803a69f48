//! Values at points between the elements: GridSample, and AffineGrid that makes the points.

use super::super::array::{Array, Data};
use super::super::call::{Call, strides};
use super::{NOWHERE, cubic, interpolated, taken, truncated};
use crate::graph::params::RuleError;

/// Adds the elements around `point` with the weights of linear interpolation, times `weight`, to `out`;
/// there is none outside the image. `place` is where the image begins.
pub(in crate::host) fn between(
    point: &[f64],
    dims: &[usize],
    place: usize,
    weight: f64,
    out: &mut Vec<(usize, f64)>,
) {
    let (Some((&at, point)), Some((&size, dims))) = (point.split_first(), dims.split_first())
    else {
        out.push((place, weight));
        return;
    };
    let low = at.floor();
    for (corner, share) in [(low, 1.0 - (at - low)), (low + 1.0, at - low)] {
        if share != 0.0 && (0.0..size as f64).contains(&corner) {
            let place = place * size + corner as usize;
            between(point, dims, place, weight * share, out);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Padding {
    Zeros,
    Border,
    Reflection,
}

/// How GridSample reads an image.
struct Sampler<'a> {
    mode: Mode,
    padding: Padding,
    align_corners: bool,
    image: &'a [usize],
}

/// More axes than anything is sampled over.
const MOST_AXES: usize = 5;

/// ONNX GridSample, for any number of spatial axes; the points are given last axis first.
pub(super) fn grid_sample(call: &Call) -> Result<Array, RuleError> {
    let (x, grid) = (call.input(0)?, call.input(1)?);
    let mismatch = || {
        RuleError::new(format!(
            "samples a value of shape {:?} at points of shape {:?}",
            x.dims, grid.dims
        ))
    };
    let ([batch, channels, image @ ..], [sets, positions @ .., axes]) = (&*x.dims, &*grid.dims)
    else {
        return Err(mismatch());
    };
    if batch != sets || image.len() != *axes || positions.len() != *axes || *axes == 0 {
        return Err(mismatch());
    }
    if *axes > MOST_AXES {
        return Err(call.unsupported(format!("samples over {axes} axes")));
    }
    let sampler = Sampler {
        mode: match call.node.text("mode").unwrap_or("linear") {
            "nearest" => Mode::Nearest,
            "linear" | "bilinear" => Mode::Linear,
            "cubic" | "bicubic" => Mode::Cubic,
            mode => return Err(RuleError::new(format!("has the mode `{mode}`"))),
        },
        padding: match call.node.text("padding_mode").unwrap_or("zeros") {
            "zeros" => Padding::Zeros,
            "border" => Padding::Border,
            "reflection" => Padding::Reflection,
            mode => return Err(RuleError::new(format!("has the padding_mode `{mode}`"))),
        },
        align_corners: call.node.int("align_corners").unwrap_or(0) != 0,
        image,
    };
    let dims = [&[*batch, *channels], positions].concat();
    let count = call.count(&dims)?;
    let points = grid.floats()?;
    if count == 0 || x.is_empty() {
        return Ok(taken(x, dims, std::iter::repeat_n(NOWHERE, count), 0.0));
    }
    let total = points.len() / axes / batch;
    let sizes = [*channels, image.iter().product(), total];
    if sampler.mode == Mode::Nearest {
        let places = sampler.places(points, sizes, count);
        return Ok(taken(x, dims, places.into_iter(), 0.0));
    }
    let values = sampler.values(&x.numbers()?, points, sizes, count);
    interpolated(x, dims, values, truncated)
}

impl Sampler<'_> {
    /// The place of the element that each result takes.
    fn places(
        &self,
        points: &[f64],
        [channels, area, total]: [usize; 3],
        count: usize,
    ) -> Vec<usize> {
        let mut out = Vec::with_capacity(count);
        let axes = self.image.len();
        for (item, points) in points.chunks_exact(total * axes).enumerate() {
            let within: Vec<usize> = points
                .chunks_exact(axes)
                .map(|point| self.nearest(point))
                .collect();
            for channel in 0..channels {
                let base = (item * channels + channel) * area;
                let place = |&at: &usize| if at == NOWHERE { at } else { base + at };
                out.extend(within.iter().map(place));
            }
        }
        out
    }

    fn nearest(&self, point: &[f64]) -> usize {
        let coordinates = point.iter().rev().zip(self.image);
        let mut flat = 0;
        for (&at, &size) in coordinates {
            let at = self.bent(self.scaled(at, size).round_ties_even(), size);
            match self.element(at, size) {
                Some(place) => flat = flat * size + place,
                None => return NOWHERE,
            }
        }
        flat
    }

    /// The interpolated results.
    fn values(
        &self,
        x: &[f64],
        points: &[f64],
        [channels, area, total]: [usize; 3],
        count: usize,
    ) -> Vec<f64> {
        let axes = self.image.len();
        let mut out = vec![0.0; count];
        let mut taps = vec![Vec::new(); axes];
        let mut elements = Vec::new();
        let images = x.chunks_exact(channels * area);
        let results = out.chunks_exact_mut(channels * total);
        let sets = points.chunks_exact(total * axes);
        for ((image, result), points) in images.zip(results).zip(sets) {
            for (index, point) in points.chunks_exact(axes).enumerate() {
                for ((taps, &at), &size) in taps.iter_mut().zip(point.iter().rev()).zip(self.image)
                {
                    self.taps(at, size, taps);
                }
                elements.clear();
                combined(&taps, self.image, 0, 1.0, &mut elements);
                let planes = image.chunks_exact(area);
                for (plane, line) in planes.zip(result.chunks_exact_mut(total)) {
                    let terms = elements.iter().map(|&(at, weight)| weight * plane[at]);
                    line[index] = terms.sum();
                }
            }
        }
        out
    }

    /// The elements along one axis, with their weights, that make the value at the coordinate `at`.
    fn taps(&self, at: f64, size: usize, taps: &mut Vec<(usize, f64)>) {
        let at = self.scaled(at, size);
        // Cubic weights reach over the border, where each element is found by itself.
        let at = match (self.mode, self.padding) {
            (Mode::Cubic, Padding::Border) => at,
            _ => self.bent(at, size),
        };
        let low = at.floor();
        let fraction = at - low;
        taps.clear();
        let mut tap = |place: f64, weight: f64| {
            taps.extend(self.element(place, size).map(|place| (place, weight)));
        };
        if self.mode == Mode::Cubic {
            for (step, weight) in (-1..).zip(cubic(fraction, -0.75)) {
                tap(low + f64::from(step), weight);
            }
        } else {
            tap(low, 1.0 - fraction);
            tap(low + 1.0, fraction);
        }
    }

    /// From [-1, 1] to elements.
    fn scaled(&self, at: f64, size: usize) -> f64 {
        let size = size as f64;
        if self.align_corners {
            (at + 1.0) / 2.0 * (size - 1.0)
        } else {
            ((at + 1.0) * size - 1.0) / 2.0
        }
    }

    /// Where the image begins and ends.
    fn borders(&self, size: usize) -> (f64, f64) {
        let last = size as f64 - 1.0;
        if self.align_corners {
            (0.0, last)
        } else {
            (-0.5, last + 0.5)
        }
    }

    /// A coordinate moved into the image as the padding mode says.
    fn bent(&self, at: f64, size: usize) -> f64 {
        let (low, high) = self.borders(size);
        match self.padding {
            _ if (low..=high).contains(&at) => at,
            Padding::Zeros => at,
            Padding::Border => at.clamp(0.0, size as f64 - 1.0),
            Padding::Reflection => reflected(at, low, high),
        }
    }

    /// The element at a whole coordinate; `None` where zeros are.
    fn element(&self, at: f64, size: usize) -> Option<usize> {
        let last = size as f64 - 1.0;
        if (0.0..=last).contains(&at) {
            return Some(at as usize);
        }
        match self.padding {
            Padding::Zeros => None,
            Padding::Border => Some(at.clamp(0.0, last) as usize),
            Padding::Reflection => {
                let (low, high) = self.borders(size);
                Some(reflected(at, low, high).clamp(0.0, last) as usize)
            }
        }
    }
}

/// `at` mirrored at both borders until it lies between them.
fn reflected(at: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 {
        return low;
    }
    let way = (at - low).rem_euclid(2.0 * range);
    low + way.min(2.0 * range - way)
}

/// The products of one tap of each axis, with the flat places where they lie.
fn combined(
    taps: &[Vec<(usize, f64)>],
    dims: &[usize],
    place: usize,
    weight: f64,
    out: &mut Vec<(usize, f64)>,
) {
    let (Some((first, taps)), Some((&size, dims))) = (taps.split_first(), dims.split_first())
    else {
        out.push((place, weight));
        return;
    };
    for &(at, share) in first {
        combined(taps, dims, place * size + at, weight * share, out);
    }
}

/// ONNX AffineGrid: the points `[x, y(, z)]` of an image of a given size, moved by a matrix for each
/// item of the batch.
pub(super) fn affine_grid(call: &Call) -> Result<Array, RuleError> {
    let (theta, size) = (call.input(0)?, call.input(1)?);
    let size: Vec<usize> = size
        .ints()?
        .iter()
        .map(|&size| usize::try_from(size).unwrap_or(usize::MAX))
        .collect();
    let axes = size.len().saturating_sub(2);
    let (2 | 3, [batch, _, image @ ..]) = (axes, &*size) else {
        return Err(RuleError::new(format!("has a size of {size:?}")));
    };
    if theta.dims != [*batch, axes, axes + 1] {
        return Err(RuleError::new(format!(
            "has matrices of shape {:?} for a size of {size:?}",
            theta.dims
        )));
    }
    let dims = [&[*batch], image, &[axes]].concat();
    let count = call.count(&dims)?;
    let total = call.count(image)?;
    if count == 0 {
        return Ok(theta.with(dims, Data::Float(Vec::new())));
    }
    let aligned = call.node.int("align_corners").unwrap_or(0) != 0;
    let steps = strides(image);
    let coordinate = |axis: usize, flat: usize| {
        let size = image[axis] as f64;
        let at = (flat / steps[axis] % image[axis]) as f64;
        match (aligned, image[axis]) {
            (true, 1) => 0.0,
            (true, _) => 2.0 * at / (size - 1.0) - 1.0,
            (false, _) => (2.0 * at + 1.0) / size - 1.0,
        }
    };
    let mut out = Vec::with_capacity(count);
    let mut point = vec![1.0; axes + 1];
    for matrix in theta.floats()?.chunks_exact(axes * (axes + 1)) {
        for flat in 0..total {
            for axis in 0..axes {
                point[axes - 1 - axis] = coordinate(axis, flat);
            }
            out.extend(matrix.chunks_exact(axes + 1).map(|row| {
                let terms = row.iter().zip(&point).map(|(a, b)| a * b);
                terms.sum::<f64>()
            }));
        }
    }
    Ok(theta.with(dims, Data::Float(out)))
}
