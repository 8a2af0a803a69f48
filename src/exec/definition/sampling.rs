//! Values between the elements of images, at points that may have a gradient themselves.

use super::sketch::Sketch;
use crate::graph::params::{self, RuleError, check_shape, checked_elements};
use crate::host::{self, Array};
use crate::onnx::proto::data_type;

/// Whole numbers up to this are exact in float32.
const EXACT: usize = 1 << 24;

/// More axes than anything is sampled over; the taps double with each.
const MOST_AXES: usize = 3;

/// What makes each of the values along one axis of an image: `[images, points, count]` places, whole
/// numbers within the axis, and their weights.
struct Taps {
    size: usize,
    count: usize,
    places: String,
    weights: String,
}

/// Values `[images, channels, points]` of images `[images, channels, area]`, the taps of all axes
/// multiplied.
fn interpolate(
    s: &Sketch,
    image: &str,
    [images, channels, area]: [usize; 3],
    points: usize,
    taps: &[Taps],
) -> Result<String, RuleError> {
    if area >= EXACT || images * channels * area * points == 0 {
        return Err(RuleError::new(
            "samples an image that is empty or too large",
        ));
    }
    let total = images * points;
    let mut all: Option<(usize, String, String)> = None;
    for own in taps {
        let inner = |value: &str| s.reshape(value, &[total, 1, own.count]);
        all = Some(match all {
            None => (own.count, own.places.clone(), own.weights.clone()),
            Some((count, places, weights)) => {
                let outer = |value: &str| s.reshape(value, &[total, count, 1]);
                let rows = s.times(&outer(&places), &s.number(own.size as f64));
                let places = s.plus(&rows, &inner(&own.places));
                let weights = s.times(&outer(&weights), &inner(&own.weights));
                (count * own.count, places, weights)
            }
        });
    }
    let (count, places, weights) = all.ok_or_else(|| RuleError::new("samples over no axis"))?;
    let starts = (0..images).map(|image| (image * area) as i64).collect();
    let places = s.reshape(&places, &[images, points, count]);
    let places = s.plus(&s.whole(&places), &s.ints(&[images, 1, 1], starts));
    let elements = s.transpose(image, &[0, 2, 1]);
    let elements = s.reshape(&elements, &[images * area, channels]);
    let found = s.gather(&elements, &s.reshape(&places, &[total, count]), 0);
    let weighted = s.times(&found, &s.reshape(&weights, &[total, count, 1]));
    let values = s.reshape(&s.sum(&weighted, &[1], false), &[images, points, channels]);
    Ok(s.transpose(&values, &[0, 2, 1]))
}

/// 1 where a whole number lies in an axis, else 0, and the number moved into the axis.
fn within(s: &Sketch, place: &str, size: usize) -> (String, String) {
    let clip = |value: &str, most: f64| s.op("Clip", &[value, &s.number(0.0), &s.number(most)]);
    let moved = clip(place, size as f64 - 1.0);
    let away = clip(&s.op("Abs", &[&s.minus(place, &moved)]), 1.0);
    (s.minus(&s.number(1.0), &away), moved)
}

/// The two elements around each coordinate `[images, points]`, zeros outside of the axis.
fn linear(s: &Sketch, at: &str, size: usize, images: usize, points: usize) -> Taps {
    // What lies farther away is zero, however far.
    let at = s.op("Clip", &[at, &s.number(-1.0), &s.number(size as f64)]);
    let low = s.op("Floor", &[&at]);
    let share = s.minus(&at, &low);
    let weights = [s.minus(&s.number(1.0), &share), share];
    let places = [low.clone(), s.linear(&low, 1.0, 1.0)];
    let inside = |place: &String| within(s, place, size);
    gathered(s, places.iter().zip(&weights), inside, size, images, points)
}

/// Taps of places and weights `[images, points]`; `inside` gives the factor of a place's weight, where
/// there is one, and the place moved into the axis.
fn gathered<'t>(
    s: &Sketch,
    taps: impl Iterator<Item = (&'t String, &'t String)>,
    inside: impl Fn(&String) -> (String, String),
    size: usize,
    images: usize,
    points: usize,
) -> Taps {
    let (mut places, mut weights) = (Vec::new(), Vec::new());
    let line = |value: &str| s.reshape(value, &[images, points, 1]);
    for (place, weight) in taps {
        let (factor, place) = inside(place);
        let weight = match factor.as_str() {
            "" => weight.clone(),
            factor => s.times(weight, factor),
        };
        places.push(line(&place));
        weights.push(line(&weight));
    }
    let join = |values: &[String]| {
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        s.concat(&values, 2)
    };
    Taps {
        size,
        count: places.len(),
        places: join(&places),
        weights: join(&weights),
    }
}

/// GridSample, modes linear and cubic by their weights, nearest by the host's places.
pub(super) fn grid_sample(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1])?;
    let mode = s.node.text("mode").unwrap_or("linear");
    let cubic = match mode {
        "nearest" => return s.moved(&[0]),
        "linear" | "bilinear" => false,
        "cubic" | "bicubic" => true,
        other => return Err(RuleError::new(format!("has the mode `{other}`"))),
    };
    let (x, output) = (s.x()?, s.output(0)?);
    let (&[images, channels], sizes) = x
        .split_first_chunk()
        .ok_or_else(|| RuleError::new("has no images"))?;
    let axes = sizes.len();
    if axes > MOST_AXES {
        return Err(RuleError::new(format!("samples over {axes} axes")));
    }
    let points: usize = output[2..].iter().product();
    let padding = s.node.text("padding_mode").unwrap_or("zeros");
    if !matches!(padding, "zeros" | "border" | "reflection") {
        return Err(RuleError::new(format!("has the padding_mode `{padding}`")));
    }
    let aligned = s.flag("align_corners");
    let grid = s.reshape(&s.input(1), &[images, points, axes]);
    let taps: Vec<Taps> = (0..axes)
        .map(|axis| {
            let size = sizes[axis];
            let last = size as f64 - 1.0;
            let (half, low, high) = match aligned {
                true => (last / 2.0, 0.0, last),
                false => (size as f64 / 2.0, -0.5, last + 0.5),
            };
            let reflect = |at: &str| reflected(s, at, low, high);
            let clip = |at: &str| s.op("Clip", &[at, &s.number(0.0), &s.number(last)]);
            // The points name the last axis first.
            let at = s.linear(&s.at(&grid, axes - 1 - axis, 2), half, last / 2.0);
            let at = match padding {
                "reflection" => reflect(&at),
                "border" if !cubic => clip(&at),
                // What lies farther away is zero, however far.
                "zeros" => {
                    let reach = if cubic { 2.0 } else { 1.0 };
                    s.op("Clip", &[&at, &s.number(-reach), &s.number(last + reach)])
                }
                _ => at,
            };
            let inside = |place: &String| match padding {
                "zeros" => within(s, place, size),
                "border" => (String::new(), clip(place)),
                _ => (String::new(), clip(&reflect(place))),
            };
            let low = s.op("Floor", &[&at]);
            let share = s.minus(&at, &low);
            let (steps, weights) = match cubic {
                true => (vec![-1.0, 0.0, 1.0, 2.0], cubic_weights(s, &share)),
                false => (
                    vec![0.0, 1.0],
                    vec![s.minus(&s.number(1.0), &share), share.clone()],
                ),
            };
            let places: Vec<String> = steps
                .into_iter()
                .map(|step| s.linear(&low, 1.0, step))
                .collect();
            gathered(s, places.iter().zip(&weights), inside, size, images, points)
        })
        .collect();
    let area: usize = sizes.iter().product();
    let image = s.reshape(&s.input(0), &[images, channels, area]);
    let values = interpolate(s, &image, [images, channels, area], points, &taps)?;
    s.give(0, &s.reshape(&values, output));
    Ok(())
}

/// `at` mirrored at both borders until it lies between them.
fn reflected(s: &Sketch, at: &str, low: f64, high: f64) -> String {
    let range = high - low;
    if range <= 0.0 {
        return s.linear(at, 0.0, low);
    }
    let from = s.linear(at, 1.0, -low);
    let rounds = s.op("Floor", &[&s.linear(&from, 0.5 / range, 0.0)]);
    let way = s.minus(&from, &s.linear(&rounds, 2.0 * range, 0.0));
    let back = s.linear(&way, -1.0, 2.0 * range);
    s.linear(&s.op("Min", &[&way, &back]), 1.0, low)
}

/// The weights of the four elements around a point that lies `share` behind the second (Keys, 1981,
/// eq. 15, with a = -0.75).
fn cubic_weights(s: &Sketch, share: &str) -> Vec<String> {
    let polynomial = |t: &str, factors: [f64; 4]| {
        let [cube, square, line, shift] = factors;
        let sum = s.linear(t, cube, square);
        let sum = s.linear(&s.times(&sum, t), 1.0, line);
        s.linear(&s.times(&sum, t), 1.0, shift)
    };
    let a = -0.75;
    let near = [a + 2.0, -(a + 3.0), 0.0, 1.0];
    let far = [a, -5.0 * a, 8.0 * a, -4.0 * a];
    let back = s.linear(share, -1.0, 1.0);
    vec![
        polynomial(&s.linear(share, 1.0, 1.0), far),
        polynomial(share, near),
        polynomial(&back, near),
        polynomial(&s.linear(&back, 1.0, 1.0), far),
    ]
}

/// AffineGrid: the points of the identity's grid, each times the matrix.
pub(super) fn affine_grid(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0])?;
    let [batch, axes @ (2 | 3), columns] = s.x()?[..] else {
        return Err(RuleError::new("has no matrices for two or three axes"));
    };
    if columns != axes + 1 {
        return Err(RuleError::new("has matrices of another width"));
    }
    let mut sizes = s.elements(1)?.ints()?.to_vec();
    if let Some(first) = sizes.first_mut() {
        *first = 1;
    }
    let identity =
        (0..axes * (axes + 1)).map(|at| f64::from(u8::from(at / (axes + 1) == at % (axes + 1))));
    let identity = Array::float(
        data_type::DOUBLE,
        vec![1, axes, axes + 1],
        identity.collect(),
    );
    let sizes = Array::int64(vec![sizes.len()], sizes);
    let plain = host::run(
        s.node,
        s.opset,
        &[Some(identity.into()), Some(sizes.into())],
    )?;
    let plain = plain
        .first()
        .ok_or_else(|| RuleError::new("gives nothing"))?;
    let points = plain.floats()?.chunks_exact(axes);
    let points: Vec<f64> = points
        .flat_map(|point| point.iter().copied().chain([1.0]))
        .collect();
    let count = points.len() / (axes + 1);
    let points = s.numbers(&[1, count, axes + 1], points);
    let moved = s.matmul(&points, &s.transpose(&s.input(0), &[0, 2, 1]));
    let output = s.output(0)?;
    if output[0] != batch {
        return Err(RuleError::new(format!(
            "has {batch} matrices for {} grids",
            output[0]
        )));
    }
    s.give(0, &s.reshape(&moved, output));
    Ok(())
}

/// RoiAlign: the weighted elements of each cell, added or compared; boxes have no gradient.
pub(super) fn roi_align(s: &Sketch) -> Result<(), RuleError> {
    let (x, boxes, items) = (s.x()?, s.elements(1)?, s.elements(2)?);
    let pooling = host::RoiPooling::of(s.node, s.opset, x, boxes, items)?;
    cells(s, &pooling.elements(), pooling.largest, s.output(0)?)
}

/// MaxRoiPool: the largest element of each cell; boxes have no gradient.
pub(super) fn max_roi_pool(s: &Sketch) -> Result<(), RuleError> {
    let maxima = host::RoiMaxima::of(s.node, s.x()?, s.elements(1)?)?;
    cells(s, &maxima.elements(), true, s.output(0)?)
}

/// A result `[boxes, channels, rows, columns]`, each cell of which is the sum of weighted elements,
/// named by their places in `[batch, height, width]`, or the largest of them.
fn cells(
    s: &Sketch,
    cells: &[Vec<(usize, f64)>],
    largest: bool,
    output: &[usize],
) -> Result<(), RuleError> {
    s.floats(&[0])?;
    let &[batch, channels, height, width] = s.x()? else {
        return Err(RuleError::new("pools a value of another rank than 4"));
    };
    let most = cells.iter().map(Vec::len).max().unwrap_or(0).max(1);
    let room = 64 * (s.x()?.iter().product::<usize>() + output.iter().product::<usize>());
    if checked_elements(&[cells.len(), most, channels])? > room {
        return Err(RuleError::new("has boxes of too many elements"));
    }
    if output.contains(&0) {
        return Err(RuleError::new("pools nothing"));
    }
    // Cells of fewer elements repeat their last, in a sum with the weight 0.
    let (mut places, mut weights) = (Vec::new(), Vec::new());
    for cell in cells {
        let rest = match cell.last() {
            Some(&last) if largest => last,
            Some(&(place, _)) => (place, 0.0),
            None => (0, 0.0),
        };
        let filled = cell.iter().copied().chain(std::iter::repeat(rest));
        for (place, weight) in filled.take(most) {
            places.push(place as i64);
            weights.push(weight);
        }
    }
    let area = height * width;
    let elements = s.reshape(&s.input(0), &[batch, channels, area]);
    let elements = s.transpose(&elements, &[0, 2, 1]);
    let elements = s.reshape(&elements, &[batch * area, channels]);
    let found = s.gather(&elements, &s.ints(&[cells.len(), most], places), 0);
    let weighted = s.times(&found, &s.numbers(&[cells.len(), most, 1], weights));
    let operator = if largest { "ReduceMax" } else { "ReduceSum" };
    let attributes = vec![("keepdims", 0i64.into())];
    let values = s.with(operator, &[&weighted, &s.list(&[1])], attributes);
    let values = s.reshape(&values, &[output[0], output[2], output[3], channels]);
    s.give(0, &s.transpose(&values, &[0, 3, 1, 2]));
    Ok(())
}

/// DeformConv: what the moved taps find, times the kernel.
pub(super) fn deform_conv(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1, 2, 3, 4])?;
    let (x, kernel) = (s.x()?, s.dims(1)?);
    let (&[batch, channels], sizes) = x
        .split_first_chunk()
        .ok_or_else(|| RuleError::new("has no images"))?;
    let axes = sizes.len();
    if axes > MOST_AXES {
        return Err(RuleError::new(format!("moves taps over {axes} axes")));
    }
    let window = params::window(s.node, sizes, Some(&kernel[2..]))?;
    let count = |name: &str| s.node.int(name).unwrap_or(1).max(1) as usize;
    let (groups, moved) = (count("group"), count("offset_group"));
    let taps: usize = window.kernel.iter().product();
    let points: usize = window.output.iter().product();
    let wanted = [&[batch, moved.saturating_mul(taps * axes)], &*window.output].concat();
    check_shape("offsets", s.dims(2)?, &wanted)?;
    // Where the taps lie before they are moved: `[taps, axes, points]`.
    let steps = (host::strides(&window.kernel), host::strides(&window.output));
    let mut corners = Vec::with_capacity(taps * axes * points);
    for tap in 0..taps {
        for axis in 0..axes {
            let own = tap / steps.0[axis] % window.kernel[axis] * window.dilation[axis];
            for point in 0..points {
                let place = point / steps.1[axis] % window.output[axis] * window.stride[axis];
                corners.push((place + own) as f64 - window.pad_begin[axis] as f64);
            }
        }
    }
    let images = batch * moved;
    let offsets = s.reshape(&s.input(2), &[images, taps, axes, points]);
    let places = s.plus(&offsets, &s.numbers(&[1, taps, axes, points], corners));
    let along: Vec<Taps> = (0..axes)
        .map(|axis| {
            let at = s.reshape(&s.at(&places, axis, 2), &[images, taps * points]);
            linear(s, &at, sizes[axis], images, taps * points)
        })
        .collect();
    let area: usize = sizes.iter().product();
    let shape = [images, channels / moved, area];
    let image = s.reshape(&s.input(0), &shape);
    let mut found = interpolate(s, &image, shape, taps * points, &along)?;
    if s.optional(4).is_some() {
        let mask = s.reshape(&s.input(4), &[images, 1, taps * points]);
        found = s.times(&found, &mask);
    }
    let rows = channels / groups * taps;
    let columns = s.reshape(&found, &[batch, groups, rows, points]);
    let outputs = kernel[0];
    let kernels = s.reshape(&s.input(1), &[1, groups, outputs / groups, rows]);
    let product = s.matmul(&kernels, &columns);
    let mut result = s.reshape(&product, &[batch, outputs, points]);
    if s.optional(3).is_some() {
        result = s.plus(&result, &s.reshape(&s.input(3), &[1, outputs, 1]));
    }
    s.give(0, &s.reshape(&result, s.output(0)?));
    Ok(())
}
