//! Discrete Fourier transforms, as products with the matrix of the transform.

use super::sketch::Sketch;
use crate::graph::normalize_axis;
use crate::graph::params::{RuleError, checked_elements};
use crate::host::{self, Array};
use crate::onnx::proto::{NodeProto, data_type};

/// The longest transform that is a product; the host's own, without gradient, is faster beyond.
const LONGEST: usize = 4096;

/// The matrix `[length · parts, kept · parts of the result]` of an operator that is linear in signals
/// `[batch, length, parts]`: what it makes of each unit vector. With the last two sizes of the result.
fn matrix(
    node: &NodeProto,
    opset: i64,
    [length, parts]: [usize; 2],
    longest: usize,
    others: &[Option<Array>],
) -> Result<(usize, usize, Vec<f64>), RuleError> {
    if length > LONGEST || longest > LONGEST || !matches!(parts, 1 | 2) {
        return Err(RuleError::new(format!(
            "transforms more than {LONGEST} elements, or no numbers of one or two parts"
        )));
    }
    let rows = length * parts;
    let unit = (0..rows * rows).map(|at| f64::from(u8::from(at / rows == at % rows)));
    let unit = Array::float(data_type::DOUBLE, vec![rows, length, parts], unit.collect());
    let mut inputs = vec![Some(unit.into())];
    inputs.extend(others.iter().map(|other| other.clone().map(Into::into)));
    let results = host::run(node, opset, &inputs)?;
    let made = results
        .first()
        .ok_or_else(|| RuleError::new("gives nothing"))?;
    let &[.., kept, parts] = made.dims.as_slice() else {
        return Err(RuleError::new("gives nothing"));
    };
    if kept == 0 {
        return Err(RuleError::new("transforms nothing"));
    }
    Ok((kept, parts, made.floats()?.to_vec()))
}

/// DFT along one axis; the last axis holds one or two parts.
pub(super) fn dft(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0])?;
    let x = s.x()?;
    let axis = match s.opset {
        ..20 => s.node.int("axis").unwrap_or(1),
        _ if s.optional(2).is_some() => s.elements(2)?.scalar()? as i64,
        _ => -2,
    };
    let axis = normalize_axis(axis, x.len())?;
    let last = x.len() - 1;
    if axis == last || x.contains(&0) {
        return Err(RuleError::new("transforms nothing"));
    }
    let length = match s.optional(1) {
        Some(_) => Some((**s.elements(1)?).clone()),
        None => None,
    };
    let longest = match &length {
        Some(length) => length.scalar()?.max(0.0) as usize,
        None => x[axis],
    };
    // The unit vectors are transformed along their middle axis.
    let mut node = s.node.clone();
    node.set_int("axis", 1);
    let along = (s.opset >= 20).then(|| Array::int64(vec![], vec![1]));
    let others = [length, along];
    let others = if s.opset >= 20 {
        &others[..]
    } else {
        &others[..1]
    };
    let sizes = [x[axis], x[last]];
    let (kept, parts, made) = matrix(&node, s.opset, sizes, longest, others)?;
    let mut order: Vec<usize> = (0..last).filter(|&other| other != axis).collect();
    let mut moved: Vec<usize> = order.iter().map(|&axis| x[axis]).collect();
    moved.extend([kept, parts]);
    order.extend([axis, last]);
    let rows = sizes[0] * sizes[1];
    let count = x.iter().product::<usize>() / rows;
    let lines = s.reshape(&s.transpose(&s.input(0), &order), &[count, rows]);
    let product = s.matmul(&lines, &s.numbers(&[rows, kept * parts], made));
    let mut back = vec![0; order.len()];
    for (place, &axis) in order.iter().enumerate() {
        back[axis] = place;
    }
    s.give(0, &s.transpose(&s.reshape(&product, &moved), &back));
    Ok(())
}

/// STFT: frames of a signal `[batch, length, parts]`, times a window, each transformed.
pub(super) fn stft(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 2])?;
    let x = s.x()?;
    let &[batch, total, parts] = x else {
        return Err(RuleError::new("has a signal of another rank than 3"));
    };
    let step = s.elements(1)?.scalar()? as usize;
    let size = match (s.optional(3), s.optional(2)) {
        (Some(_), _) => s.elements(3)?.scalar()? as usize,
        (None, Some(window)) => window.dims.iter().product(),
        (None, None) => total,
    };
    if x.contains(&0) || step == 0 || size == 0 || size > total {
        return Err(RuleError::new("transforms nothing"));
    }
    let frames = (total - size) / step + 1;
    checked_elements(&[batch, frames, size, parts])?;
    let others = [
        Some(Array::int64(vec![], vec![1])),
        None,
        Some(Array::int64(vec![], vec![size as i64])),
    ];
    let (kept, two, made) = matrix(s.node, s.opset, [size, parts], size, &others)?;
    let places = (0..frames * size).map(|at| (at / size * step + at % size) as i64);
    let places = s.ints(&[frames, size], places.collect());
    let mut taken = s.gather(&s.input(0), &places, 1);
    if s.optional(2).is_some() {
        taken = s.times(&taken, &s.reshape(&s.input(2), &[size, 1]));
    }
    let rows = size * parts;
    let lines = s.reshape(&taken, &[batch * frames, rows]);
    let product = s.matmul(&lines, &s.numbers(&[rows, kept * two], made));
    s.give(0, &s.reshape(&product, &[batch, frames, kept, two]));
    Ok(())
}
