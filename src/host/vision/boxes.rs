//! Boxes: RoiAlign and NonMaxSuppression.

use super::super::array::{Array, Data};
use super::super::call::Call;
use crate::graph::params::{RuleError, checked_elements};
use crate::onnx::proto::NodeProto;

/// The most samples that `sampling_ratio` may ask for along a side of a cell.
const MOST_SAMPLES: i64 = 4096;

/// A box that reaches farther is taken to lie outside of the image.
const FARTHEST: f64 = (1u64 << 40) as f64;

/// One sample along an axis: the elements before and after it, with their weights.
type Sample = [(usize, f64); 2];

/// The samples of one cell along one axis.
struct Cell {
    samples: Vec<Sample>,
    /// Number of samples, with those outside of the image, which are zero.
    total: f64,
}

impl Cell {
    /// The elements with their weights in the sum of all samples, each named once.
    fn summed(&self) -> Vec<(usize, f64)> {
        let mut out: Vec<(usize, f64)> = Vec::new();
        let mut parts: Vec<_> = self.samples.iter().flatten().collect();
        parts.sort_by_key(|&&(at, _)| at);
        for &&(at, weight) in &parts {
            match out.last_mut() {
                Some(last) if last.0 == at => last.1 += weight,
                _ => out.push((at, weight)),
            }
        }
        out
    }

    fn leaves(&self) -> bool {
        self.total > self.samples.len() as f64
    }
}

/// How RoiAlign reads its images (He et al. 2017): by points in each cell of a box, between whose
/// elements it interpolates.
pub(crate) struct RoiPooling {
    /// Shape of the result: `[boxes, channels, rows, columns]`.
    dims: Vec<usize>,
    width: usize,
    area: usize,
    /// Takes the largest weighted element around any point, as ONNX's reference and its runtimes do,
    /// not the mean of the points.
    pub largest: bool,
    boxes: Vec<Cells>,
}

/// The cells of one box along both axes of its image.
struct Cells {
    image: usize,
    down: Vec<Cell>,
    across: Vec<Cell>,
}

impl RoiPooling {
    /// For images of shape `x`, `boxes` of shape `[number, 4]` and the image of each in `items`.
    pub(crate) fn of(
        node: &NodeProto,
        opset: i64,
        x: &[usize],
        boxes: &Array,
        items: &Array,
    ) -> Result<Self, RuleError> {
        let &[batch, channels, height, width] = x else {
            return Err(RuleError::new(format!(
                "pools a value of shape {x:?}, needs rank 4"
            )));
        };
        let number = items.len();
        if boxes.dims != [number, 4] {
            return Err(RuleError::new(format!(
                "has boxes of shape {:?} and {number} batch indices",
                boxes.dims
            )));
        }
        let size = |name: &str| {
            let given = node.int(name).unwrap_or(1);
            let size = usize::try_from(given).ok().filter(|&size| size > 0);
            size.ok_or_else(|| RuleError::new(format!("has {given} in `{name}`")))
        };
        let (rows, columns) = (size("output_height")?, size("output_width")?);
        let mut pooling = Self {
            dims: vec![number, channels, rows, columns],
            width,
            area: height * width,
            largest: match node.text("mode").unwrap_or("avg") {
                "avg" => false,
                "max" => true,
                mode => return Err(RuleError::new(format!("has the mode `{mode}`"))),
            },
            boxes: Vec::new(),
        };
        checked_elements(&pooling.dims)?;
        if pooling.dims.contains(&0) {
            return Ok(pooling);
        }
        if x.contains(&0) {
            return Err(RuleError::new("pools an empty image"));
        }
        let default = if opset < 16 {
            "output_half_pixel"
        } else {
            "half_pixel"
        };
        let shifted = match node
            .text("coordinate_transformation_mode")
            .unwrap_or(default)
        {
            "half_pixel" => true,
            "output_half_pixel" => false,
            mode => {
                return Err(RuleError::new(format!(
                    "has the coordinate_transformation_mode `{mode}`"
                )));
            }
        };
        let ratio = node.int("sampling_ratio").unwrap_or(0);
        if ratio > MOST_SAMPLES {
            return Err(RuleError::new(format!("has a `sampling_ratio` of {ratio}")));
        }
        let scale = f64::from(node.float("spatial_scale").unwrap_or(1.0));
        for (corners, &item) in boxes.floats()?.chunks_exact(4).zip(items.ints()?) {
            let image = usize::try_from(item).ok().filter(|&item| item < batch);
            let image = image
                .ok_or_else(|| RuleError::new(format!("has a box in image {item} of {batch}")))?;
            let side = |from: usize| {
                let offset = if shifted { 0.5 } else { 0.0 };
                let start = corners[from] * scale - offset;
                let length = corners[from + 2] * scale - offset - start;
                (start, if shifted { length } else { length.max(1.0) })
            };
            pooling.boxes.push(Cells {
                image,
                down: cells(side(1), rows, height, ratio),
                across: cells(side(0), columns, width, ratio),
            });
        }
        Ok(pooling)
    }

    /// For each cell of the result, box by box: elements by their places in `[batch, height, width]`
    /// with the weights in its mean, or those of which it is the largest product.
    pub(crate) fn elements(&self) -> Vec<Vec<(usize, f64)>> {
        let mut out = Vec::new();
        for own in &self.boxes {
            let place =
                |row: usize, column: usize| own.image * self.area + row * self.width + column;
            for down in &own.down {
                for across in &own.across {
                    let mut elements = Vec::new();
                    if self.largest {
                        for &(row, vertical) in down.samples.iter().flatten() {
                            for &(column, horizontal) in across.samples.iter().flatten() {
                                elements.push((place(row, column), vertical * horizontal));
                            }
                        }
                        if elements.is_empty() || down.leaves() || across.leaves() {
                            elements.push((own.image * self.area, 0.0));
                        }
                    } else {
                        let total = (down.total * across.total).max(1.0);
                        let columns = across.summed();
                        for (row, vertical) in down.summed() {
                            for &(column, horizontal) in &columns {
                                elements.push((place(row, column), vertical * horizontal / total));
                            }
                        }
                    }
                    out.push(elements);
                }
            }
        }
        out
    }
}

/// ONNX RoiAlign.
pub(super) fn roi_align(call: &Call) -> Result<Array, RuleError> {
    let (x, boxes, items) = (call.input(0)?, call.input(1)?, call.input(2)?);
    let pooling = RoiPooling::of(call.node, call.opset, &x.dims, boxes, items)?;
    let count = call.count(&pooling.dims)?;
    let (channels, area) = (pooling.dims[1], pooling.area);
    let values = x.floats()?;
    let mut out = Vec::with_capacity(count);
    for own in &pooling.boxes {
        for channel in 0..channels {
            let plane = &values[(own.image * channels + channel) * area..][..area];
            if pooling.largest {
                maxima(plane, pooling.width, &own.down, &own.across, &mut out);
            } else {
                means(plane, pooling.width, &own.down, &own.across, &mut out);
            }
        }
    }
    Ok(x.with(pooling.dims, Data::Float(out)))
}

/// The samples of each of `count` cells along a side of a box, given by its start and length.
fn cells((start, length): (f64, f64), count: usize, size: usize, ratio: i64) -> Vec<Cell> {
    let step = length / count as f64;
    let total = if ratio > 0 { ratio as f64 } else { step.ceil() };
    let total = if total > 0.0 { total } else { 0.0 };
    if !(start.abs() < FARTHEST && length.abs() < FARTHEST) {
        let nothing = || Cell {
            samples: Vec::new(),
            total: total.min(FARTHEST),
        };
        return std::iter::repeat_with(nothing).take(count).collect();
    }
    let distance = step / total;
    (0..count)
        .map(|cell| {
            let first = start + cell as f64 * step;
            let at = |index: f64| first + (index + 0.5) * distance;
            // Those that may lie in the image, as far as the step tells.
            let (mut from, mut to) = (0.0, total);
            if distance > 0.0 {
                from = ((-1.0 - first) / distance - 1.5).floor().clamp(0.0, total);
                to = ((size as f64 - first) / distance + 1.5)
                    .ceil()
                    .clamp(0.0, total);
            }
            let samples = (from as u64..to as u64)
                .filter_map(|index| sample(at(index as f64), size))
                .collect();
            Cell { samples, total }
        })
        .collect()
}

fn sample(at: f64, size: usize) -> Option<Sample> {
    if !(-1.0..=size as f64).contains(&at) {
        return None;
    }
    let at = at.max(0.0);
    let low = at as usize;
    let last = size.saturating_sub(1);
    if low >= last {
        return Some([(last, 1.0), (last, 0.0)]);
    }
    let share = at - low as f64;
    Some([(low, 1.0 - share), (low + 1, share)])
}

/// The mean of the samples of each cell, whose sum is a product of one sum along each axis.
fn means(plane: &[f64], width: usize, down: &[Cell], across: &[Cell], out: &mut Vec<f64>) {
    let columns: Vec<_> = across.iter().map(Cell::summed).collect();
    for cell in down {
        let rows = cell.summed();
        for (column, beside) in columns.iter().zip(across) {
            let line = |row: usize| {
                let terms = column.iter().map(|&(at, w)| w * plane[row * width + at]);
                terms.sum::<f64>()
            };
            let sum: f64 = rows.iter().map(|&(row, weight)| weight * line(row)).sum();
            out.push(sum / (cell.total * beside.total).max(1.0));
        }
    }
}

/// The largest weighted element around the samples of each cell.
fn maxima(plane: &[f64], width: usize, down: &[Cell], across: &[Cell], out: &mut Vec<f64>) {
    for cell in down {
        for beside in across {
            let zeros =
                (cell.total > 0.0 && beside.total > 0.0) && (cell.leaves() || beside.leaves());
            let mut best = zeros.then_some(0.0);
            for &(row, vertical) in cell.samples.iter().flatten() {
                for &(column, horizontal) in beside.samples.iter().flatten() {
                    let value = vertical * horizontal * plane[row * width + column];
                    best = Some(best.map_or(value, |best: f64| best.max(value)));
                }
            }
            out.push(best.unwrap_or(0.0));
        }
    }
}

/// A box by its edges, in float32 as its coordinates are: whether an overlap is equal to the threshold
/// hangs on it.
#[derive(Clone, Copy)]
struct Edges {
    low: [f32; 2],
    high: [f32; 2],
}

impl Edges {
    fn new(values: &[f64], centered: bool) -> Self {
        let value = |index: usize| values[index] as f32;
        let edges = |axis: usize| {
            let (first, second) = (value(axis), value(axis + 2));
            if centered {
                (first - second / 2.0, first + second / 2.0)
            } else if first >= second {
                (second, first)
            } else {
                (first, second)
            }
        };
        let ((a, b), (c, d)) = (edges(0), edges(1));
        Self {
            low: [a, c],
            high: [b, d],
        }
    }

    fn area(&self) -> f32 {
        (self.high[0] - self.low[0]) * (self.high[1] - self.low[1])
    }

    /// Area of the intersection over that of the union; 0 for boxes without area.
    fn overlap(&self, other: &Self) -> f32 {
        let side = |axis: usize| {
            self.high[axis].min(other.high[axis]) - self.low[axis].max(other.low[axis])
        };
        let (a, b) = (side(0), side(1));
        let (mine, theirs) = (self.area(), other.area());
        if !(a > 0.0 && b > 0.0 && mine > 0.0 && theirs > 0.0) {
            return 0.0;
        }
        let shared = a * b;
        let union = mine + theirs - shared;
        if shared > 0.0 && union > 0.0 {
            shared / union
        } else {
            0.0
        }
    }
}

/// ONNX NonMaxSuppression: of each class, boxes by falling score that overlap none taken before by more
/// than the threshold, as `[batch, class, box]`.
pub(super) fn non_max_suppression(call: &Call) -> Result<Array, RuleError> {
    let (boxes, scores) = (call.input(0)?, call.input(1)?);
    let (&[batch, number, 4], &[sets, classes, others]) = (&*boxes.dims, &*scores.dims) else {
        return Err(RuleError::new(format!(
            "has boxes of shape {:?} and scores of shape {:?}",
            boxes.dims, scores.dims
        )));
    };
    if batch != sets || number != others {
        return Err(RuleError::new(format!(
            "has boxes of shape {:?} and scores of shape {:?}",
            boxes.dims, scores.dims
        )));
    }
    let first = |index: usize| call.optional(index).filter(|input| !input.is_empty());
    let most = match first(2) {
        Some(most) => most.ints()?[0].max(0) as u64,
        None => 0,
    };
    let most = usize::try_from(most).unwrap_or(usize::MAX).min(number);
    let threshold = first(3).map_or(Ok(0.0), Array::scalar)? as f32;
    let least = first(4).map(Array::scalar).transpose()?;
    call.count(&[batch, classes, most, 3])?;
    let centered = call.node.int("center_point_box").unwrap_or(0) == 1;
    let mut out = Vec::new();
    if most > 0 {
        let items = boxes.floats()?.chunks_exact(number * 4);
        let scores = scores.floats()?;
        for (item, boxes) in items.enumerate() {
            let edges: Vec<Edges> = boxes
                .chunks_exact(4)
                .map(|values| Edges::new(values, centered))
                .collect();
            for class in 0..classes {
                let scores = &scores[(item * classes + class) * number..][..number];
                for index in selected(&edges, scores, most, threshold, least) {
                    out.extend([item, class, index].map(|value| value as i64));
                }
            }
        }
    }
    Ok(Array::int64(vec![out.len() / 3, 3], out))
}

/// The boxes of one class that stay, the best first.
fn selected(
    boxes: &[Edges],
    scores: &[f64],
    most: usize,
    threshold: f32,
    least: Option<f64>,
) -> Vec<usize> {
    let mut order: Vec<usize> = (0..boxes.len())
        .filter(|&index| least.is_none_or(|least| scores[index] > least))
        .collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut kept: Vec<usize> = Vec::new();
    for index in order {
        if kept.len() == most {
            break;
        }
        let mine = &boxes[index];
        if kept
            .iter()
            .all(|&other| mine.overlap(&boxes[other]) <= threshold)
        {
            kept.push(index);
        }
    }
    kept
}
