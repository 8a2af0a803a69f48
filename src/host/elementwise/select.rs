//! Operators that pass elements on, choose between them or bound them.

use super::rows::each_row;
use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome};
use crate::onnx::dtype_name;
use crate::onnx::proto::data_type::{BOOL, UINT64};

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    Some(match call.operator() {
        "Identity" => call.input(0).map(|x| vec![x.clone()]),
        "Where" => choose(call),
        "Clip" => clip(call),
        "Dropout" => dropout(call),
        _ => return None,
    })
}

/// Where: of each pair of elements, the one that the condition chooses.
fn choose(call: &Call) -> Outcome {
    let [condition, x, y] = [call.input(0)?, call.input(1)?, call.input(2)?];
    let dims = call.broadcast(&[&condition.dims, &x.dims, &y.dims])?;
    if condition.data_type != BOOL || x.data_type != y.data_type {
        return Err(RuleError::new(format!(
            "chooses by a condition of type {} between {} and {}",
            dtype_name(condition.data_type),
            dtype_name(x.data_type),
            dtype_name(y.data_type)
        )));
    }
    let data = match (&x.data, &y.data) {
        (Data::Float(a), Data::Float(b)) => Data::Float(chosen(&dims, condition, x, y, a, b)?),
        (Data::Int(a), Data::Int(b)) => Data::Int(chosen(&dims, condition, x, y, a, b)?),
        (Data::Text(a), Data::Text(b)) => Data::Text(chosen(&dims, condition, x, y, a, b)?),
        _ => return Err(RuleError::new("chooses between unlike elements")),
    };
    Ok(vec![x.with(dims, data)])
}

fn chosen<T: Clone>(
    dims: &[usize],
    condition: &Array,
    x: &Array,
    y: &Array,
    a: &[T],
    b: &[T],
) -> Result<Vec<T>, RuleError> {
    let holds = condition.ints()?;
    let mut out = Vec::with_capacity(dims.iter().product());
    each_row(
        dims,
        [&condition.dims, &x.dims, &y.dims],
        |starts, steps, length| {
            out.extend((0..length).map(|offset| {
                let [c, i, j] = std::array::from_fn(|k| starts[k] + offset * steps[k]);
                if holds[c] != 0 { &a[i] } else { &b[j] }.clone()
            }));
        },
    );
    Ok(out)
}

/// Clip: the bounds are attributes before operator set 11 and inputs since.
fn clip(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let bounds = [(1, "min"), (2, "max")].map(|(index, name)| bound(call, x, index, name));
    let [low, high] = bounds;
    let (low, high) = (low?, high?);
    let data = match &x.data {
        Data::Int(values) => {
            // By this bit, uint64 has the order of int64.
            let turn = if x.data_type == UINT64 { i64::MIN } else { 0 };
            let int = |bound: Option<Bound>, open| match bound {
                Some(Bound::Int(value)) => value ^ turn,
                _ => open,
            };
            let (low, high) = (int(low, i64::MIN), int(high, i64::MAX));
            let bounded = |&v: &i64| (v ^ turn).max(low).min(high) ^ turn;
            Data::Int(values.iter().map(bounded).collect())
        }
        _ => {
            let float = |bound: Option<Bound>, open| match bound {
                Some(Bound::Float(value)) => value,
                _ => open,
            };
            let low = float(low, f64::NEG_INFINITY);
            let high = float(high, f64::INFINITY);
            let bounded = |&v: &f64| match if v < low { low } else { v } {
                raised if raised > high => high,
                raised => raised,
            };
            Data::Float(x.floats()?.iter().map(bounded).collect())
        }
    };
    Ok(vec![x.with(x.dims.clone(), data)])
}

enum Bound {
    Float(f64),
    Int(i64),
}

fn bound(call: &Call, x: &Array, index: usize, name: &str) -> Result<Option<Bound>, RuleError> {
    if call.opset < 11 {
        let value = call.node.float(name);
        return Ok(value.map(|value| Bound::Float(f64::from(value))));
    }
    let Some(given) = call.optional(index) else {
        return Ok(None);
    };
    if given.data_type != x.data_type || given.len() != 1 {
        return Err(RuleError::new(format!(
            "has a `{name}` of type {} and shape {:?} for an input of type {}",
            dtype_name(given.data_type),
            given.dims,
            dtype_name(x.data_type)
        )));
    }
    Ok(match &given.data {
        Data::Float(values) => values.first().map(|&v| Bound::Float(v)),
        Data::Int(values) => values.first().map(|&v| Bound::Int(v)),
        Data::Text(_) => None,
    })
}

/// Dropout where nothing is dropped: at inference, or in training with a ratio of zero.
fn dropout(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let training = match call.optional(2) {
        Some(mode) if call.opset >= 12 => mode.scalar()? != 0.0,
        _ => false,
    };
    let ratio = match call.optional(1) {
        Some(ratio) => ratio.scalar()?,
        None => 0.5,
    };
    if training && ratio != 0.0 {
        return Err(call.unsupported(format!("drops a share of {ratio} at random")));
    }
    let mut outputs = vec![x.clone()];
    if call.outputs() > 1 {
        let ones = vec![true; x.len()];
        outputs.push(match call.opset {
            // The mask was of the type of the data at first.
            ..10 => x.with(x.dims.clone(), Data::Float(vec![1.0; x.floats()?.len()])),
            _ => Array::bools(x.dims.clone(), ones),
        });
    }
    Ok(outputs)
}
