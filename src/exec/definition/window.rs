//! Pools and convolutions.

use super::sketch::Sketch;
use crate::graph::params::{self, RuleError, Window, check_shape, checked_elements};

/// What MaxPool, AveragePool and LpPool can't do in one step: places beside the largest elements,
/// more than two axes, averages of elements that lie apart.
pub(super) fn pool(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0])?;
    let x = s.x()?;
    if x.len() < 3 || x.contains(&0) || s.output(0)?.contains(&0) {
        return Err(RuleError::new("pools nothing"));
    }
    if s.node.operator() == "MaxPool" && s.wants(1) {
        return with_places(s);
    }
    let window = params::window(s.node, &x[2..], None)?;
    match x.len() {
        5.. => axis_by_axis(s, &window),
        _ if s.node.operator() != "MaxPool" => apart(s, &window),
        _ => Err(RuleError::new("is not supported on devices")),
    }
}

/// MaxPool with `Indices`: the elements at the places that the host finds.
fn with_places(s: &Sketch) -> Result<(), RuleError> {
    if !s.wants(0) {
        return Err(RuleError::new("gives places only"));
    }
    let window = params::window(s.node, &s.x()?[2..], None)?;
    let shares = shares(&window, &s.x()?[2..], false);
    if shares.iter().any(|share| share.is_infinite()) {
        return Err(RuleError::new("has windows without elements"));
    }
    let mut by_row = s.node.clone();
    by_row.set_int("storage_order", 0);
    let places = s.itself(by_row, 1);
    match s.node.int("storage_order") {
        Some(1) => s.hand(1, &s.itself(s.node.clone(), 1)),
        _ => s.hand(1, &places),
    }
    let flat = s.reshape(&s.input(0), &[s.x()?.iter().product()]);
    s.give(0, &s.gather(&flat, &places, 0));
    Ok(())
}

/// A pool over a box is one over its last two axes, and then along each axis before them.
fn axis_by_axis(s: &Sketch, window: &Window) -> Result<(), RuleError> {
    let mut dims = s.x()?.to_vec();
    let mut value = s.input(0);
    let axes = window.kernel.len();
    let stages =
        std::iter::once(axes - 2..axes).chain((0..axes - 2).rev().map(|axis| axis..axis + 1));
    for stage in stages {
        let before: usize = dims[1..stage.start + 2].iter().product();
        let after: usize = dims[stage.end + 2..].iter().product();
        let mut shape = vec![dims[0], before];
        shape.extend(&dims[stage.start + 2..stage.end + 2]);
        // One axis is the first of two, over the second of which nothing is pooled.
        let along = |values: &[usize], rest: usize| {
            let mut along = values[stage.clone()].to_vec();
            along.resize(2, rest);
            along
        };
        shape.resize(4, after);
        let pads = [along(&window.pad_begin, 0), along(&window.pad_end, 0)].concat();
        let mut attributes = vec![
            ("kernel_shape", along(&window.kernel, 1).as_slice().into()),
            ("strides", along(&window.stride, 1).as_slice().into()),
            ("dilations", along(&window.dilation, 1).as_slice().into()),
            ("pads", pads.as_slice().into()),
        ];
        for name in ["ceil_mode", "count_include_pad", "p"] {
            if let Some(value) = s.node.int(name) {
                attributes.push((name, value.into()));
            }
        }
        value = s.with(s.node.operator(), &[&s.reshape(&value, &shape)], attributes);
        for axis in stage {
            dims[axis + 2] = window.output[axis];
        }
        value = s.reshape(&value, &dims);
    }
    s.give(0, &value);
    Ok(())
}

/// AveragePool and LpPool with dilation: a convolution with ones, whose sums are divided by how many
/// elements each window meets, or of which the root is taken.
fn apart(s: &Sketch, window: &Window) -> Result<(), RuleError> {
    let (x, output) = (s.x()?, s.output(0)?);
    let sizes = &x[2..];
    let ends: Vec<usize> = sizes
        .iter()
        .enumerate()
        .map(|(axis, &size)| window.pad_end[axis] + window.overhang(axis, size))
        .collect();
    let attributes = vec![
        ("strides", window.stride.as_slice().into()),
        ("dilations", window.dilation.as_slice().into()),
        (
            "pads",
            [&*window.pad_begin, &ends].concat().as_slice().into(),
        ),
    ];
    let order = (s.node.operator() == "LpPool").then(|| s.node.int("p").unwrap_or(2).max(1) as f64);
    let mut planes = s.reshape(&s.input(0), &[&[x[0] * x[1], 1], sizes].concat());
    if let Some(order) = order {
        planes = s.op("Pow", &[&s.op("Abs", &[&planes]), &s.number(order)]);
    }
    let ones = vec![1.0; window.kernel.iter().product()];
    let ones = s.numbers(&[&[1, 1], &*window.kernel].concat(), ones);
    let sums = s.reshape(&s.with("Conv", &[&planes, &ones], attributes), output);
    let result = match order {
        Some(order) => s.op("Pow", &[&sums, &s.number(1.0 / order)]),
        None => {
            let shares = shares(window, sizes, s.flag("count_include_pad"));
            s.times(
                &sums,
                &s.numbers(&[&[1, 1], &*window.output].concat(), shares),
            )
        }
    };
    s.give(0, &result);
    Ok(())
}

/// One divided by the number of elements that each window meets, with its declared padding where that
/// counts.
fn shares(window: &Window, sizes: &[usize], padded: bool) -> Vec<f64> {
    let mut shares = vec![1.0];
    for (axis, &size) in sizes.iter().enumerate() {
        let (begin, end) = (window.pad_begin[axis], window.pad_end[axis]);
        let counted = match padded {
            true => 0..begin + size + end,
            false => begin..begin + size,
        };
        let met = |position: usize| {
            let first = position * window.stride[axis];
            let taps = (0..window.kernel[axis]).map(|tap| first + tap * window.dilation[axis]);
            taps.filter(|place| counted.contains(place)).count() as f64
        };
        let along: Vec<f64> = (0..window.output[axis]).map(met).collect();
        let outer = shares.into_iter();
        shares = outer
            .flat_map(|share: f64| along.iter().map(move |met| share / met))
            .collect();
    }
    shares
}

/// MaxUnpool: each element at its place, zeros elsewhere.
pub(super) fn max_unpool(s: &Sketch) -> Result<(), RuleError> {
    s.moved(&[0])
}

/// The largest block that Col2Im puts down by a product, whose work grows with its square.
const MOST_TAPS: usize = 256;

/// Col2Im: a transposed convolution whose kernel for each row of a column has a single one.
pub(super) fn col2im(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0])?;
    let sizes = |index: usize| -> Result<Vec<usize>, RuleError> {
        let given = s.elements(index)?.ints()?;
        Ok(given
            .iter()
            .map(|&size| size.clamp(0, 1 << 20) as usize)
            .collect())
    };
    let (image, block) = (sizes(1)?, sizes(2)?);
    let axes = image.len();
    let bounded = |&value: &i64| value.clamp(0, 1 << 20) as usize;
    let whole = |name: &str, count: usize, default: usize| match s.node.ints(name) {
        Some(given) => given.iter().map(bounded).collect(),
        None => vec![default; count],
    };
    let (strides, dilations) = (whole("strides", axes, 1), whole("dilations", axes, 1));
    let pads = whole("pads", 2 * axes, 0);
    if axes > 3
        || [&block, &strides, &dilations]
            .iter()
            .any(|own| own.len() != axes)
        || pads.len() != 2 * axes
    {
        return Err(RuleError::new(
            "has more than three axes, or sizes of other axes",
        ));
    }
    let (x, output) = (s.x()?, s.output(0)?);
    let taps = checked_elements(&block)?;
    if taps > MOST_TAPS {
        return Err(RuleError::new(format!(
            "has blocks of more than {MOST_TAPS} elements"
        )));
    }
    let (mut shape, mut before, mut after) =
        (vec![output[0] * output[1], taps], vec![0; 2], vec![0; 2]);
    for axis in 0..axes {
        let spread = (block[axis].max(1) - 1) * dilations[axis] + 1;
        let room = (image[axis] + pads[axis] + pads[axes + axis]).checked_sub(spread);
        let room = room.ok_or_else(|| RuleError::new("has blocks larger than its image"))?;
        let blocks = room / strides[axis].max(1) + 1;
        let covered = (blocks - 1) * strides[axis] + spread;
        shape.push(blocks);
        before.push(-(pads[axis] as i64));
        after.push((image[axis] + pads[axis]) as i64 - covered as i64);
    }
    if shape.contains(&0) || x.iter().product::<usize>() != shape.iter().product::<usize>() {
        return Err(RuleError::new("has columns that don't fit its image"));
    }
    let kernel = (0..taps * taps).map(|at| f64::from(u8::from(at / taps == at % taps)));
    let kernel = s.numbers(&[&[taps, 1], &*block].concat(), kernel.collect());
    let attributes = vec![
        ("strides", strides.as_slice().into()),
        ("dilations", dilations.as_slice().into()),
    ];
    let columns = s.reshape(&s.input(0), &shape);
    let covered = s.with("ConvTranspose", &[&columns, &kernel], attributes);
    let pads = [before, after].concat();
    let fitted = s.op("Pad", &[&covered, &s.ints(&[pads.len()], pads)]);
    s.give(0, &s.reshape(&fitted, output));
    Ok(())
}

/// CausalConvWithState: a depthwise convolution over what came before, which is carried on.
pub(super) fn causal(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1, 2, 3])?;
    let (&[batch, channels, length], &[_, _, taps]) = (s.x()?, s.dims(1)?) else {
        return Err(RuleError::new(
            "has an input or a kernel of another rank than 3",
        ));
    };
    check_shape("a kernel", s.dims(1)?, &[channels, 1, taps])?;
    if taps < 2 || s.x()?.contains(&0) {
        return Err(RuleError::new("carries nothing on"));
    }
    let kept = taps - 1;
    let past = match s.optional(3) {
        Some(_) => s.input(3),
        None => s.numbers(&[batch, channels, kept], vec![0.0; batch * channels * kept]),
    };
    let line = s.concat(&[&past, &s.input(0)], 2);
    let attributes = vec![("group", channels.into())];
    let mut result = match s.optional(2) {
        Some(_) => s.with("Conv", &[&line, &s.input(1), &s.input(2)], attributes),
        None => s.with("Conv", &[&line, &s.input(1)], attributes),
    };
    match s.node.text("activation").unwrap_or("none") {
        "none" => {}
        "silu" | "swish" => result = s.times(&result, &s.op("Sigmoid", &[&result])),
        other => return Err(RuleError::new(format!("has the activation `{other}`"))),
    }
    s.give(0, &result);
    s.give(1, &s.part(&line, 2, length, kept));
    Ok(())
}
