//! Classification losses.

use super::sketch::Sketch;
use crate::graph::params::{RuleError, check_shape};

/// NegativeLogLikelihoodLoss of scores `[batch, classes, …]`.
pub(super) fn negative_log_likelihood(s: &Sketch) -> Result<(), RuleError> {
    loss(s, &s.input(0))
}

/// SoftmaxCrossEntropyLoss, with the output `log_prob`.
pub(super) fn softmax_cross_entropy(s: &Sketch) -> Result<(), RuleError> {
    let logarithms = s.with("LogSoftmax", &[&s.input(0)], vec![("axis", 1i64.into())]);
    s.give(1, &logarithms);
    loss(s, &logarithms)
}

/// `-weight[target] · logarithms[target]` for every place, reduced as the node asks for. The mean is
/// over the weights of the targets; an ignored target weighs nothing.
fn loss(s: &Sketch, logarithms: &str) -> Result<(), RuleError> {
    s.floats(&[0, 2])?;
    let (scores, targets) = (s.x()?, s.dims(1)?);
    let (&[batch, classes], rest) = scores
        .split_first_chunk()
        .ok_or_else(|| RuleError::new("has scores of less than two axes"))?;
    check_shape("targets", targets, &[&[batch], rest].concat())?;
    let places: usize = rest.iter().product();
    if batch * classes * places == 0 {
        return Err(RuleError::new("has no scores"));
    }
    let flat = |value: &str| s.reshape(value, &[batch, 1, places]);
    let integer = |value: i64| s.ints(&[], vec![value]);
    let mut target = s.whole(&s.input(1));
    let (mut kept, mut ignored_places) = (None, None);
    if let Some(ignored) = s.node.int("ignore_index") {
        let hit = s.op("Equal", &[&target, &integer(ignored)]);
        target = s.op("Where", &[&hit, &integer(0), &target]);
        kept = Some(s.float(&s.op("Not", &[&hit])));
        ignored_places = Some(hit);
    }
    // A negative class is none, not one counted from the end.
    let below = s.op("Less", &[&target, &integer(0)]);
    target = s.op("Where", &[&below, &integer(classes as i64), &target]);
    let weight = match (s.optional(2), kept) {
        (None, kept) => kept,
        (Some(_), None) => Some(s.gather(&s.input(2), &target, 0)),
        (Some(_), Some(kept)) => Some(s.times(&s.gather(&s.input(2), &target, 0), &kept)),
    };
    let elements = s.reshape(logarithms, &[batch, classes, places]);
    let attributes = vec![("axis", 1i64.into())];
    let found = s.with("GatherElements", &[&elements, &flat(&target)], attributes);
    let mut losses = s.op("Neg", &[&s.reshape(&found, targets)]);
    if let Some(weight) = &weight {
        losses = s.times(&losses, weight);
    }
    if let Some(places) = &ignored_places {
        losses = s.op("Where", &[places, &s.number(0.0), &losses]);
    }
    let all: Vec<usize> = (0..targets.len()).collect();
    let result = match s.node.text("reduction").unwrap_or("mean") {
        "none" => losses,
        "sum" => s.sum(&losses, &all, false),
        "mean" => {
            let sum = s.sum(&losses, &all, false);
            match &weight {
                Some(weight) => s.over(&sum, &s.sum(weight, &all, false)),
                None => s.linear(&sum, 1.0 / (batch * places) as f64, 0.0),
            }
        }
        other => return Err(RuleError::new(format!("has the reduction `{other}`"))),
    };
    s.give(0, &result);
    Ok(())
}
