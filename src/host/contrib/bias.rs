//! Activations and other elementwise steps, with a bias fused in.

use super::standard::{Standard, narrow, wide};
use crate::graph::params::{RuleError, normalize_axis};
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome};
use crate::host::normalization::{affine, softmax_rows};

/// `x + other` in float64, `other` broadcast to `x`.
pub fn add(x: &Array, other: &Array) -> Result<Array, RuleError> {
    let mut values = x.floats()?.to_vec();
    affine(&mut values, &x.dims, None, Some(other))?;
    Ok(wide(x).with(x.dims.clone(), Data::Float(values)))
}

/// Input 0 plus input 1, where there is one, in float64.
fn biased(call: &Call) -> Result<Array, RuleError> {
    let x = call.input(0)?;
    match call.optional(1) {
        Some(bias) => add(x, bias),
        None => Ok(wide(x)),
    }
}

fn gelu_of(call: &Call, x: Array, approximate: &str) -> Result<Array, RuleError> {
    Standard::new("Gelu")
        .input(x)
        .text("approximate", approximate)
        .run(call)
}

/// Gelu, BiasGelu and, with the approximation `tanh`, FastGelu.
pub fn gelu(call: &Call, approximate: &str) -> Outcome {
    let result = gelu_of(call, biased(call)?, approximate)?;
    Ok(vec![narrow(result, call.input(0)?)])
}

/// QuickGelu: `x · sigmoid(alpha · x)`.
pub fn quick_gelu(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let alpha = f64::from(call.node.float("alpha").unwrap_or(1.702));
    let values = x.floats()?.iter().map(|v| v / (1.0 + (-alpha * v).exp()));
    Ok(vec![x.with(x.dims.clone(), Data::Float(values.collect()))])
}

/// BiasSplitGelu: with `x + bias` cut in two halves along the last axis, `left · gelu(right)`.
pub fn bias_split_gelu(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let sum = biased(call)?;
    let width = sum.dims.last().copied().unwrap_or(0);
    if !width.is_multiple_of(2) || width == 0 {
        return Err(RuleError::new(format!(
            "can't halve a last axis of {width} elements"
        )));
    }
    let half = width / 2;
    let side = |start: usize| -> Vec<f64> {
        let rows = sum.floats().unwrap_or_default().chunks(width);
        rows.flat_map(|row| &row[start..start + half])
            .copied()
            .collect()
    };
    let mut dims = sum.dims.clone();
    dims.truncate(dims.len() - 1);
    dims.push(half);
    let right = sum.with(dims.clone(), Data::Float(side(half)));
    let right = gelu_of(call, right, "none")?;
    let mut values = side(0);
    let factors = right.floats()?;
    values.iter_mut().zip(factors).for_each(|(l, r)| *l *= r);
    Ok(vec![x.with(dims, Data::Float(values))])
}

/// BiasSoftmax: softmax of `data + bias` over all axes from `axis` on.
pub fn bias_softmax(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let sum = add(x, call.input(1)?)?;
    let mut values = sum.floats()?.to_vec();
    if !values.is_empty() {
        let axis = normalize_axis(call.node.int("axis").unwrap_or(1), x.dims.len())?;
        softmax_rows(&mut values, x.dims[axis..].iter().product(), false);
    }
    Ok(vec![x.with(x.dims.clone(), Data::Float(values))])
}

/// BiasAdd: `x + bias + skip`.
pub fn bias_add(call: &Call) -> Outcome {
    let sum = add(&biased(call)?, call.input(2)?)?;
    Ok(vec![narrow(sum, call.input(0)?)])
}

/// BiasDropout when not training: `data + bias + residual`, and a mask that keeps everything.
pub fn bias_dropout(call: &Call) -> Outcome {
    let x = call.input(0)?;
    if let Some(training) = call.optional(4)
        && training.scalar()? != 0.0
    {
        return Err(call.unsupported("drops elements at random"));
    }
    let mut sum = biased(call)?;
    if let Some(residual) = call.optional(2) {
        sum = add(&sum, residual)?;
    }
    let mask = Array::bools(x.dims.clone(), (0..x.len()).map(|_| true));
    Ok(vec![narrow(sum, x), mask])
}
