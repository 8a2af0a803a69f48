//! Operators that move elements and change none.

use burn::backend::Dispatch;
use burn::backend::DispatchDevice;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::ops::PadMode;

use crate::exec::kernels;
use crate::exec::value::{Value, dims, indices, reshape};
use crate::graph::Slicing;

type B = Dispatch;

pub(in crate::exec) fn slice(x: Value, slicing: &Slicing, device: &DispatchDevice) -> Value {
    let mut out = x;
    let straight: Vec<burn::tensor::Slice> = slicing
        .ranges
        .iter()
        .zip(dims(&out))
        .map(|(&(start, step, count), size)| match step {
            1 => (start..start + count).into(),
            _ => (0..size).into(),
        })
        .collect();
    let wanted: Vec<usize> = slicing.ranges.iter().map(|&(_, _, count)| count).collect();
    if wanted != dims(&out) || slicing.ranges.iter().any(|&(_, step, _)| step != 1) {
        out = B::float_slice(out, &straight);
    }
    for (axis, &(start, step, count)) in slicing.ranges.iter().enumerate() {
        if step != 1 {
            let picked: Vec<usize> = (0..count as i64)
                .map(|k| (start as i64 + k * step) as usize)
                .collect();
            out = select(out, axis, &picked, device);
        }
    }
    out
}

/// The elements at `picked` along `axis`.
pub(in crate::exec) fn select(
    x: Value,
    axis: usize,
    picked: &[usize],
    device: &DispatchDevice,
) -> Value {
    if axis == 0
        && let Some(rows) = kernels::gather(&x, picked)
    {
        return rows;
    }
    B::float_select(x, axis, indices(picked, device))
}

/// Parts of `sizes` along `axis`.
pub(in crate::exec) fn split(x: Value, axis: usize, sizes: &[usize]) -> Vec<Value> {
    let whole = dims(&x);
    let mut start = 0;
    sizes
        .iter()
        .map(|&size| {
            let mut slices: Vec<burn::tensor::Slice> =
                whole.iter().map(|&full| (0..full).into()).collect();
            slices[axis] = (start..start + size).into();
            start += size;
            B::float_slice(x.clone(), &slices)
        })
        .collect()
}

/// How a Pad fills.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::exec) enum Fill {
    Constant(f32),
    Reflect,
    Edge,
    Wrap,
}

pub(in crate::exec) fn pad(
    x: Value,
    pads: &[(i64, i64)],
    fill: Fill,
    device: &DispatchDevice,
) -> Value {
    let shape = dims(&x);
    let cut: Vec<burn::tensor::Slice> = shape
        .iter()
        .zip(pads)
        .map(|(&size, &(before, after))| {
            let start = before.min(0).unsigned_abs() as usize;
            (start..size - after.min(0).unsigned_abs() as usize).into()
        })
        .collect();
    let x = match pads.iter().any(|&(before, after)| before < 0 || after < 0) {
        true => B::float_slice(x, &cut),
        false => x,
    };
    let added: Vec<(usize, usize)> = pads
        .iter()
        .map(|&(before, after)| (before.max(0) as usize, after.max(0) as usize))
        .collect();
    let mode = match fill {
        Fill::Constant(value) => PadMode::Constant(value),
        Fill::Reflect => PadMode::Reflect,
        Fill::Edge => PadMode::Edge,
        Fill::Wrap => {
            let sizes = dims(&x);
            return added
                .iter()
                .enumerate()
                .fold(x, |x, (axis, &(before, after))| {
                    let size = sizes[axis] as i64;
                    let places = -(before as i64)..size + after as i64;
                    let wrapped: Vec<usize> = places
                        .map(|place| place.rem_euclid(size) as usize)
                        .collect();
                    match before + after {
                        0 => x,
                        _ => select(x, axis, &wrapped, device),
                    }
                });
        }
    };
    B::float_pad(x, &added, mode)
}

/// DepthToSpace (`DCR` and `CRD`) and SpaceToDepth over `[batch, channels, height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) enum SpaceDepth {
    DepthFirst(usize),
    ColumnFirst(usize),
    Gathered(usize),
    /// SpaceToDepth with `CRD` (opset 28).
    GatheredColumnFirst(usize),
}

impl SpaceDepth {
    pub fn run(self, x: Value, output: &[usize]) -> Value {
        let shape = dims(&x);
        let (n, c, h, w) = (shape[0], shape[1], shape[2], shape[3]);
        let (split, order): (Vec<usize>, [usize; 6]) = match self {
            Self::DepthFirst(b) => (vec![n, b, b, c / (b * b), h, w], [0, 3, 4, 1, 5, 2]),
            Self::ColumnFirst(b) => (vec![n, c / (b * b), b, b, h, w], [0, 1, 4, 2, 5, 3]),
            Self::Gathered(b) => (vec![n, c, h / b, b, w / b, b], [0, 3, 5, 1, 2, 4]),
            Self::GatheredColumnFirst(b) => (vec![n, c, h / b, b, w / b, b], [0, 1, 3, 5, 2, 4]),
        };
        reshape(B::float_permute(reshape(x, &split), &order), output)
    }
}
