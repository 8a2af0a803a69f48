//! What a node's attributes and constant inputs say, normalised over operator-set versions, so
//! that shape rules, costs, channels and execution all read the same answer.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::known::Known;
use crate::onnx::proto::NodeProto;

/// Why a node's rule can't be applied; the node is named by the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct RuleError {
    text: String,
    /// Whether the result would only be too large.
    pub(crate) too_large: bool,
    /// Whether the elements of an input are all that is missing.
    pub(crate) open: bool,
}

impl RuleError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            too_large: false,
            open: false,
        }
    }

    /// `what` depends on elements of an input that are not known yet.
    pub(crate) fn open(what: &str) -> Self {
        Self {
            text: format!("{what} that depends on the data"),
            too_large: false,
            open: true,
        }
    }

    pub(crate) fn too_large(dims: &[usize]) -> Self {
        Self {
            text: format!("makes a value of shape {dims:?}, too large"),
            too_large: true,
            open: false,
        }
    }
}

/// Most elements that a single value may have; 2^31 (8 GiB as float32) unless the process says less.
static MOST_ELEMENTS: AtomicUsize = AtomicUsize::new(1 << 31);

/// Most elements that a single value may have.
pub(crate) fn most_elements() -> usize {
    MOST_ELEMENTS.load(Ordering::Relaxed)
}

/// Refuses values of more than `elements` elements from now on, in the whole process.
pub fn limit_elements(elements: usize) {
    MOST_ELEMENTS.store(elements, Ordering::Relaxed);
}

/// Number of elements, refused when no machine could hold them.
pub(crate) fn checked_elements(dims: &[usize]) -> Result<usize, RuleError> {
    dims.iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size))
        .filter(|&count| count <= most_elements())
        .ok_or_else(|| RuleError::too_large(dims))
}

/// The axis counted from the front.
pub(crate) fn normalize_axis(axis: i64, rank: usize) -> Result<usize, RuleError> {
    let from_front = if axis < 0 { axis + rank as i64 } else { axis };
    usize::try_from(from_front)
        .ok()
        .filter(|&axis| axis < rank)
        .ok_or_else(|| RuleError::new(format!("has axis {axis}, out of range for rank {rank}")))
}

/// Shape of an elementwise result (ONNX multidirectional broadcasting).
pub(crate) fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, RuleError> {
    let rank = a.len().max(b.len());
    (0..rank)
        .map(|axis| {
            let size = |dims: &[usize]| match (axis + dims.len()).checked_sub(rank) {
                Some(own) => dims[own],
                None => 1,
            };
            match (size(a), size(b)) {
                (x, y) if x == y => Ok(x),
                (1, y) => Ok(y),
                (x, 1) => Ok(x),
                _ => Err(RuleError::new(format!("can't broadcast {a:?} with {b:?}"))),
            }
        })
        .collect()
}

/// Refuses `dims` that do not broadcast to `to` as it is.
pub(crate) fn check_broadcasts(what: &str, dims: &[usize], to: &[usize]) -> Result<(), RuleError> {
    match broadcast(dims, to) {
        Ok(out) if out == to => Ok(()),
        _ => Err(RuleError::new(format!(
            "has a {what} of shape {dims:?}, which doesn't fit {to:?}"
        ))),
    }
}

/// Refuses `dims` that are not `wanted`.
pub(crate) fn check_shape(what: &str, dims: &[usize], wanted: &[usize]) -> Result<(), RuleError> {
    if dims == wanted {
        return Ok(());
    }
    Err(RuleError::new(format!(
        "has {what} of shape {dims:?}, needs {wanted:?}"
    )))
}

/// The moving window of a convolution or pooling, one entry a spatial axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Window {
    pub kernel: Vec<usize>,
    pub stride: Vec<usize>,
    pub dilation: Vec<usize>,
    pub pad_begin: Vec<usize>,
    pub pad_end: Vec<usize>,
    pub output: Vec<usize>,
}

impl Window {
    fn spread(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilation[axis] + 1
    }

    /// Elements past the declared end padding that the last window reaches (ceil mode).
    pub fn overhang(&self, axis: usize, input: usize) -> usize {
        let reach = (self.output[axis] - 1) * self.stride[axis] + self.spread(axis);
        reach.saturating_sub(input + self.pad_begin[axis] + self.pad_end[axis])
    }
}

fn sizes(
    node: &NodeProto,
    name: &str,
    axes: usize,
    default: usize,
) -> Result<Vec<usize>, RuleError> {
    let Some(given) = node.ints(name).filter(|given| !given.is_empty()) else {
        return Ok(vec![default; axes]);
    };
    if given.len() != axes {
        return Err(RuleError::new(format!(
            "has {} values in `{name}`, needs {axes}",
            given.len()
        )));
    }
    given
        .iter()
        .map(|&value| {
            usize::try_from(value)
                .ok()
                .filter(|&value| value < 1 << 20)
                .ok_or_else(|| RuleError::new(format!("has {value} in `{name}`")))
        })
        .collect()
}

/// The kernel's own sizes, which the attribute may repeat but not contradict.
fn agreed_kernel(node: &NodeProto, kernel: &[usize]) -> Result<Vec<usize>, RuleError> {
    match node.ints("kernel_shape").filter(|given| !given.is_empty()) {
        Some(given)
            if given
                .iter()
                .copied()
                .ne(kernel.iter().map(|&size| size as i64)) =>
        {
            Err(RuleError::new(format!(
                "has a `kernel_shape` of {given:?} and a kernel of {kernel:?}"
            )))
        }
        _ => Ok(kernel.to_vec()),
    }
}

/// The window of Conv, MaxPool or AveragePool over spatial sizes `input`.
pub(crate) fn window(
    node: &NodeProto,
    input: &[usize],
    kernel: Option<&[usize]>,
) -> Result<Window, RuleError> {
    let axes = input.len();
    let kernel = match kernel {
        Some(kernel) => agreed_kernel(node, kernel)?,
        None => sizes(node, "kernel_shape", axes, 0)?,
    };
    let stride = sizes(node, "strides", axes, 1)?;
    let dilation = sizes(node, "dilations", axes, 1)?;
    let pads = sizes(node, "pads", 2 * axes, 0)?;
    if kernel.len() != axes || [&kernel, &stride, &dilation].iter().any(|v| v.contains(&0)) {
        return Err(RuleError::new("has a kernel, stride or dilation of zero"));
    }
    let mut window = Window {
        kernel,
        stride,
        dilation,
        pad_begin: pads[..axes].to_vec(),
        pad_end: pads[axes..].to_vec(),
        output: vec![0; axes],
    };
    let auto = node.text("auto_pad").unwrap_or("NOTSET").to_owned();
    let ceil = node.int("ceil_mode").unwrap_or(0) == 1;
    for (axis, &size) in input.iter().enumerate() {
        let spread = window.spread(axis);
        let stride = window.stride[axis];
        if let "SAME_UPPER" | "SAME_LOWER" = auto.as_str() {
            let output = size.div_ceil(stride);
            let total = ((output.max(1) - 1) * stride + spread).saturating_sub(size);
            let (small, large) = (total / 2, total - total / 2);
            let upper = auto == "SAME_UPPER";
            window.pad_begin[axis] = if upper { small } else { large };
            window.pad_end[axis] = if upper { large } else { small };
        } else if auto == "VALID" {
            window.pad_begin[axis] = 0;
            window.pad_end[axis] = 0;
        }
        let padded = size + window.pad_begin[axis] + window.pad_end[axis];
        let Some(room) = padded.checked_sub(spread) else {
            return Err(RuleError::new(format!(
                "has a window of {spread} over an axis of {padded}, padding included"
            )));
        };
        let mut output = room / stride + 1;
        if ceil && !room.is_multiple_of(stride) {
            // A window that would start in the end padding is left out.
            let next = output * stride;
            output += usize::from(next < size + window.pad_begin[axis]);
        }
        window.output[axis] = output;
    }
    Ok(window)
}

/// The window of ConvTranspose; also the extra output rows at the end of each axis.
pub(crate) fn transposed_window(
    node: &NodeProto,
    input: &[usize],
    kernel: &[usize],
) -> Result<(Window, Vec<usize>), RuleError> {
    let axes = input.len();
    let pads = sizes(node, "pads", 2 * axes, 0)?;
    let mut extra = sizes(node, "output_padding", axes, 0)?;
    let mut window = Window {
        kernel: agreed_kernel(node, kernel)?,
        stride: sizes(node, "strides", axes, 1)?,
        dilation: sizes(node, "dilations", axes, 1)?,
        pad_begin: pads[..axes].to_vec(),
        pad_end: pads[axes..].to_vec(),
        output: vec![0; axes],
    };
    if [&window.kernel, &window.stride, &window.dilation]
        .iter()
        .any(|v| v.contains(&0))
    {
        return Err(RuleError::new("has a kernel, stride or dilation of zero"));
    }
    let auto = node.text("auto_pad").unwrap_or("NOTSET").to_owned();
    let asked = node.ints("output_shape").map(<[i64]>::to_vec);
    for axis in 0..axes {
        let full =
            window.stride[axis] * (input[axis].max(1) - 1) + extra[axis] + window.spread(axis);
        let same = auto.starts_with("SAME");
        let wanted = match &asked {
            Some(shape) if shape.len() == axes && shape[axis] > 0 => Some(shape[axis] as usize),
            Some(shape) => {
                return Err(RuleError::new(format!(
                    "has an `output_shape` of {shape:?}"
                )));
            }
            None if same => Some(input[axis] * window.stride[axis]),
            None => None,
        };
        let mut full = full;
        if let Some(wanted) = wanted {
            // What is wanted beyond all windows is added at the end.
            extra[axis] += wanted.saturating_sub(full);
            full = full.max(wanted);
            let total = full - wanted;
            let (small, large) = (total / 2, total - total / 2);
            let upper = auto != "SAME_UPPER";
            window.pad_begin[axis] = if upper { large } else { small };
            window.pad_end[axis] = total - window.pad_begin[axis];
        }
        window.output[axis] = full
            .checked_sub(window.pad_begin[axis] + window.pad_end[axis])
            .filter(|&size| size > 0)
            .ok_or_else(|| RuleError::new("pads away its whole output"))?;
    }
    Ok((window, extra))
}

/// What a Slice takes of each axis: `(start, step, count)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slicing {
    pub ranges: Vec<(usize, i64, usize)>,
}

pub(crate) fn slicing(
    node: &NodeProto,
    opset: i64,
    inputs: &[Option<&Known>],
) -> Result<Slicing, RuleError> {
    let dims = &known(inputs, 0)?.dims;
    let list = |index: usize, name: &str| -> Result<Option<Vec<i64>>, RuleError> {
        if opset < 10 {
            return Ok(node.ints(name).map(<[i64]>::to_vec));
        }
        match inputs.get(index).copied().flatten() {
            None => Ok(None),
            Some(known) => known
                .ints()
                .map(Some)
                .ok_or_else(|| RuleError::open("slices by a bound")),
        }
    };
    let starts = list(1, "starts")?.ok_or_else(|| RuleError::new("has no starts"))?;
    let ends = list(2, "ends")?.ok_or_else(|| RuleError::new("has no ends"))?;
    let axes = list(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = list(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return Err(RuleError::new(
            "has starts, ends, axes and steps of unequal length",
        ));
    }
    let mut ranges: Vec<_> = dims.iter().map(|&size| (0usize, 1i64, size)).collect();
    for index in 0..starts.len() {
        let axis = normalize_axis(axes[index], dims.len())?;
        let size = dims[axis] as i64;
        let step = steps[index];
        if step == 0 {
            return Err(RuleError::new("has a step of zero"));
        }
        let wrap = |bound: i64| {
            if bound < 0 {
                bound.saturating_add(size)
            } else {
                bound
            }
        };
        let (start, end) = if step > 0 {
            (
                wrap(starts[index]).clamp(0, size),
                wrap(ends[index]).clamp(0, size),
            )
        } else {
            (
                wrap(starts[index]).clamp(0, (size - 1).max(0)),
                wrap(ends[index]).clamp(-1, size - 1),
            )
        };
        let span = if step > 0 { end - start } else { start - end };
        let count = if size == 0 { 0 } else { span.max(0) as u64 };
        let count = count.div_ceil(step.unsigned_abs()) as usize;
        ranges[axis] = (start.max(0) as usize, step, count);
    }
    Ok(Slicing { ranges })
}

fn known<'a>(inputs: &[Option<&'a Known>], index: usize) -> Result<&'a Known, RuleError> {
    inputs
        .get(index)
        .copied()
        .flatten()
        .ok_or_else(|| RuleError::new(format!("has no input {index}")))
}

/// Output shape of Reshape, Flatten, Squeeze and Unsqueeze.
pub(crate) fn reshaped(
    node: &NodeProto,
    _opset: i64,
    inputs: &[Option<&Known>],
) -> Result<Vec<usize>, RuleError> {
    let dims = &known(inputs, 0)?.dims;
    let rank = dims.len();
    match node.operator() {
        "Flatten" => {
            let axis = node.int("axis").unwrap_or(1);
            let axis = if axis < 0 { axis + rank as i64 } else { axis };
            let axis = usize::try_from(axis)
                .ok()
                .filter(|&axis| axis <= rank)
                .ok_or_else(|| RuleError::new(format!("has axis {axis} for rank {rank}")))?;
            Ok(vec![
                dims[..axis].iter().product(),
                dims[axis..].iter().product(),
            ])
        }
        "Squeeze" => {
            let axes = axes_of(node, inputs, 1, rank)?;
            let gone = |axis: usize| match &axes {
                Some(axes) => axes.contains(&axis),
                None => dims[axis] == 1,
            };
            if let Some(wrong) = (0..rank).find(|&axis| gone(axis) && dims[axis] != 1) {
                return Err(RuleError::new(format!(
                    "squeezes axis {wrong} of size {}",
                    dims[wrong]
                )));
            }
            Ok((0..rank)
                .filter(|&axis| !gone(axis))
                .map(|axis| dims[axis])
                .collect())
        }
        "Unsqueeze" => {
            let count = match node.ints("axes") {
                Some(axes) => axes.len(),
                None => known(inputs, 1)?.dims.iter().product(),
            };
            let axes = axes_of(node, inputs, 1, rank + count)?
                .ok_or_else(|| RuleError::new("has no axes"))?;
            let mut rest = dims.iter().copied();
            (0..rank + count)
                .map(|axis| {
                    if axes.contains(&axis) {
                        return Ok(1);
                    }
                    rest.next()
                        .ok_or_else(|| RuleError::new("names an axis twice"))
                })
                .collect()
        }
        _ => {
            let wanted = known(inputs, 1)?
                .ints()
                .ok_or_else(|| RuleError::open("reshapes to a shape"))?;
            let keep_zero = node.int("allowzero").unwrap_or(0) == 0;
            let total: usize = dims.iter().product();
            let mut out = Vec::with_capacity(wanted.len());
            let mut open = None;
            for (axis, &size) in wanted.iter().enumerate() {
                out.push(match size {
                    -1 if open.replace(axis).is_none() => 1,
                    0 if keep_zero => *dims.get(axis).ok_or_else(|| {
                        RuleError::new(format!("keeps axis {axis} of a value of rank {rank}"))
                    })?,
                    size => usize::try_from(size)
                        .map_err(|_| RuleError::new(format!("reshapes to {wanted:?}")))?,
                });
            }
            let rest = checked_elements(&out)?;
            if let Some(axis) = open {
                if rest == 0 || !total.is_multiple_of(rest) {
                    return Err(RuleError::new(format!(
                        "can't reshape {dims:?} to {wanted:?}"
                    )));
                }
                out[axis] = total / rest;
            } else if rest != total {
                return Err(RuleError::new(format!(
                    "can't reshape {dims:?} to {wanted:?}"
                )));
            }
            Ok(out)
        }
    }
}

/// The axes that a Reduce operator takes away, and whether they stay with size 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reduction {
    pub axes: Vec<usize>,
    pub keep_dims: bool,
}

pub(crate) fn reduction(
    node: &NodeProto,
    inputs: &[Option<&Known>],
) -> Result<Reduction, RuleError> {
    let rank = known(inputs, 0)?.dims.len();
    let axes = match axes_of(node, inputs, 1, rank)? {
        Some(axes) if !axes.is_empty() => axes,
        _ if node.int("noop_with_empty_axes") == Some(1) => vec![],
        _ => (0..rank).collect(),
    };
    if (1..axes.len()).any(|index| axes[..index].contains(&axes[index])) {
        return Err(RuleError::new("names an axis twice"));
    }
    Ok(Reduction {
        axes,
        keep_dims: node.int("keepdims").unwrap_or(1) == 1,
    })
}

/// Sizes of a Split's outputs, and its axis.
pub(crate) fn splits(
    node: &NodeProto,
    inputs: &[Option<&Known>],
) -> Result<(usize, Vec<usize>), RuleError> {
    let dims = &known(inputs, 0)?.dims;
    let axis = normalize_axis(node.int("axis").unwrap_or(0), dims.len())?;
    let given = match (node.ints("split"), inputs.get(1).copied().flatten()) {
        (Some(sizes), _) => Some(sizes.to_vec()),
        (None, Some(known)) => Some(
            known
                .ints()
                .ok_or_else(|| RuleError::open("splits by a size"))?,
        ),
        (None, None) => None,
    };
    let size = dims[axis];
    let parts = match given {
        Some(sizes) => sizes
            .iter()
            .map(|&part| usize::try_from(part))
            .collect::<Result<_, _>>()
            .map_err(|_| RuleError::new(format!("can't split {size} into {sizes:?}")))?,
        None => {
            let count = node.output.len();
            let chunk = size.div_ceil(count.max(1));
            (0..count)
                .map(|k| chunk.min(size.saturating_sub(k * chunk)))
                .collect::<Vec<_>>()
        }
    };
    let sum = parts
        .iter()
        .try_fold(0usize, |sum, &part| sum.checked_add(part));
    if sum != Some(size) || parts.len() != node.output.len() {
        return Err(RuleError::new(format!("can't split {size} into {parts:?}")));
    }
    Ok((axis, parts))
}

/// Order of axes of a Transpose.
pub(crate) fn permutation(node: &NodeProto, rank: usize) -> Result<Vec<usize>, RuleError> {
    let Some(order) = node.ints("perm") else {
        return Ok((0..rank).rev().collect());
    };
    let order: Vec<usize> = order
        .iter()
        .map(|&axis| normalize_axis(axis, rank))
        .collect::<Result<_, _>>()?;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    if sorted.iter().copied().ne(0..rank) {
        return Err(RuleError::new(format!(
            "has the permutation {order:?} of {rank} axes"
        )));
    }
    Ok(order)
}

/// Elements added before and after each axis by a Pad; negative ones are cut off.
pub(crate) fn pads(
    node: &NodeProto,
    inputs: &[Option<&Known>],
) -> Result<Vec<(i64, i64)>, RuleError> {
    let rank = known(inputs, 0)?.dims.len();
    let given = match (node.ints("pads"), inputs.get(1).copied().flatten()) {
        (Some(pads), _) => pads.to_vec(),
        (None, Some(known)) => known
            .ints()
            .ok_or_else(|| RuleError::open("pads by a size"))?,
        (None, None) => return Err(RuleError::new("has no pads")),
    };
    let axes = match inputs.get(3).copied().flatten() {
        None => (0..rank).collect(),
        Some(_) => axes_of(node, inputs, 3, rank)?.unwrap_or_default(),
    };
    if given.len() != 2 * axes.len() {
        return Err(RuleError::new(format!(
            "has {} pads for {} axes",
            given.len(),
            axes.len()
        )));
    }
    let mut pads = vec![(0, 0); rank];
    for (index, &axis) in axes.iter().enumerate() {
        pads[axis] = (given[index], given[axes.len() + index]);
    }
    Ok(pads)
}

/// Output sizes of a Resize or Upsample, and the scale of each axis.
pub(crate) fn resized(
    node: &NodeProto,
    opset: i64,
    inputs: &[Option<&Known>],
) -> Result<(Vec<usize>, Vec<f64>), RuleError> {
    let dims = &known(inputs, 0)?.dims;
    let upsample = node.operator() == "Upsample" || opset < 11;
    let filled = |index: usize| {
        inputs
            .get(index)
            .copied()
            .flatten()
            .filter(|known| known.dims != [0])
    };
    let rank = dims.len();
    let axes: Vec<usize> = match node.ints("axes").filter(|axes| !axes.is_empty()) {
        None => (0..rank).collect(),
        Some(axes) => axes
            .iter()
            .map(|&axis| normalize_axis(axis, rank))
            .collect::<Result<_, _>>()?,
    };
    let dynamic = || RuleError::open("resizes to a size");
    let given = match node.attribute("scales").map(|attribute| &attribute.floats) {
        Some(scales) => Some(scales.iter().map(|&scale| f64::from(scale)).collect()),
        None => match filled(if upsample { 1 } else { 2 }) {
            Some(known) => Some(known.numbers().ok_or_else(dynamic)?),
            None => None,
        },
    };
    let fits = |count: usize| match count == axes.len() {
        true => Ok(()),
        false => Err(RuleError::new(format!(
            "has {count} scales or sizes for {} axes",
            axes.len()
        ))),
    };
    let mut scales = vec![1.0; rank];
    let mut out = dims.clone();
    if let Some(given) = given {
        let given: Vec<f64> = given;
        fits(given.len())?;
        for (&axis, scale) in axes.iter().zip(given) {
            scales[axis] = scale;
            out[axis] = (dims[axis] as f32 * scale as f32).floor() as usize;
        }
        return Ok((out, scales));
    }
    let sizes = filled(3).ok_or_else(|| RuleError::new("has neither scales nor sizes"))?;
    let sizes = sizes.ints().ok_or_else(dynamic)?;
    fits(sizes.len())?;
    for (&axis, &size) in axes.iter().zip(&sizes) {
        out[axis] = size.max(0) as usize;
        scales[axis] = out[axis] as f64 / dims[axis].max(1) as f64;
    }
    let chosen = axes.iter().map(|&axis| scales[axis]);
    let one = match node.text("keep_aspect_ratio_policy").unwrap_or("stretch") {
        "stretch" => return Ok((out, scales)),
        "not_larger" => chosen.fold(f64::INFINITY, f64::min),
        "not_smaller" => chosen.fold(0.0, f64::max),
        other => {
            return Err(RuleError::new(format!(
                "keeps the aspect ratio by `{other}`"
            )));
        }
    };
    for &axis in &axes {
        scales[axis] = one;
        out[axis] = (dims[axis] as f64 * one + 0.5).floor() as usize;
    }
    Ok((out, scales))
}

/// Axes given as an attribute or, in newer operator sets, as an input.
pub(crate) fn axes_of(
    node: &NodeProto,
    inputs: &[Option<&Known>],
    input_index: usize,
    rank: usize,
) -> Result<Option<Vec<usize>>, RuleError> {
    let given = match node.ints("axes") {
        Some(axes) => Some(axes.to_vec()),
        None => match inputs.get(input_index).copied().flatten() {
            Some(known) => Some(
                known
                    .ints()
                    .ok_or_else(|| RuleError::open("takes an axis"))?,
            ),
            None => None,
        },
    };
    given
        .map(|axes| {
            axes.into_iter()
                .map(|axis| normalize_axis(axis, rank))
                .collect()
        })
        .transpose()
}
