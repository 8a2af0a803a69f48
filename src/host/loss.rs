//! Classification losses.

use super::array::{Array, Data};
use super::call::{Call, Outcome};
use super::normalization::{softmax, vector};
use crate::graph::params::RuleError;

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    Some(match call.operator() {
        "NegativeLogLikelihoodLoss" => negative_log_likelihood(call),
        "SoftmaxCrossEntropyLoss" => softmax_cross_entropy(call),
        _ => return None,
    })
}

/// `[batch, classes, places]` of scores `[batch, classes, …]`.
fn shape_of(call: &Call, scores: &Array) -> Result<[usize; 3], RuleError> {
    match scores.dims.as_slice() {
        [batch, classes, rest @ ..] => Ok([*batch, *classes, call.count(rest)?]),
        dims => Err(RuleError::new(format!(
            "has scores of shape {dims:?}, needs [batch, classes, …]"
        ))),
    }
}

/// NegativeLogLikelihoodLoss.
fn negative_log_likelihood(call: &Call) -> Outcome {
    let scores = call.input(0)?;
    let shape = shape_of(call, scores)?;
    Ok(vec![loss(call, scores, scores.floats()?, shape)?])
}

/// SoftmaxCrossEntropyLoss, with the output `log_prob`.
fn softmax_cross_entropy(call: &Call) -> Outcome {
    let scores = call.input(0)?;
    let shape = shape_of(call, scores)?;
    let mut logarithms = scores.floats()?.to_vec();
    if !logarithms.is_empty() {
        logarithms = softmax(&logarithms, shape, true);
    }
    let loss = loss(call, scores, &logarithms, shape)?;
    let logarithms = scores.with(scores.dims.clone(), Data::Float(logarithms));
    Ok(vec![loss, logarithms])
}

/// `-weight[target] · logarithms[target]` for every place, reduced as the node asks for. The mean
/// is over the weights of the targets; an ignored target weighs nothing.
fn loss(
    call: &Call,
    scores: &Array,
    logarithms: &[f64],
    [batch, classes, places]: [usize; 3],
) -> Result<Array, RuleError> {
    let targets = call.input(1)?;
    let mut dims = scores.dims.clone();
    dims.remove(1);
    if targets.dims != dims {
        return Err(RuleError::new(format!(
            "has targets of shape {:?} for scores of shape {:?}",
            targets.dims, scores.dims
        )));
    }
    let weights = match call.optional(2) {
        Some(_) => Some(vector(call, 2, classes)?),
        None => None,
    };
    let ignored = call.node.int("ignore_index");
    let mut losses = Vec::with_capacity(call.count(&[batch, places])?);
    let mut total = 0.0;
    for (index, &target) in targets.ints()?.iter().enumerate() {
        if Some(target) == ignored {
            losses.push(0.0);
            continue;
        }
        let class = usize::try_from(target)
            .ok()
            .filter(|&class| class < classes)
            .ok_or_else(|| RuleError::new(format!("has target {target} of {classes} classes")))?;
        let (example, place) = (index / places, index % places);
        let weight = weights.map_or(1.0, |weights| weights[class]);
        losses.push(-logarithms[(example * classes + class) * places + place] * weight);
        total += weight;
    }
    let sum = losses.iter().sum::<f64>();
    Ok(match call.node.text("reduction").unwrap_or("mean") {
        "none" => scores.with(dims, Data::Float(losses)),
        "sum" => scores.with(vec![], Data::Float(vec![sum])),
        "mean" => scores.with(vec![], Data::Float(vec![sum / total])),
        other => return Err(call.unsupported(format_args!("has the reduction `{other}`"))),
    })
}
