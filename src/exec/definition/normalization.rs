//! Normalisations with more results, or over other ranks, than a single step has.

use super::sketch::Sketch;
use crate::graph::normalize_axis;
use crate::graph::params::RuleError;

/// LayerNormalization with the outputs `Mean` and `InvStdDev`.
pub(super) fn with_statistics(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1, 2])?;
    s.known(1)?;
    let contributed = s.node.domain.as_deref() == Some("com.microsoft");
    if !contributed && !s.wants(1) && !s.wants(2) {
        return Err(RuleError::new("is not supported on devices"));
    }
    let rank = s.x()?.len();
    let axis = normalize_axis(s.node.int("axis").unwrap_or(-1), rank)?;
    let epsilon = s.node.float("epsilon").unwrap_or(1e-5);
    let axes = s.list(&(axis..rank).collect::<Vec<_>>());
    let x = s.input(0);
    let mean = s.op("ReduceMean", &[&x, &axes]);
    let centred = s.minus(&x, &mean);
    let variance = s.op("ReduceMean", &[&s.times(&centred, &centred), &axes]);
    let deviation = s.op("Sqrt", &[&s.linear(&variance, 1.0, epsilon.into())]);
    s.hand(1, &mean);
    s.hand(2, &s.op("Reciprocal", &[&deviation]));
    let inputs: Vec<String> = (0..3)
        .filter(|&index| s.optional(index).is_some())
        .map(|index| s.input(index))
        .collect();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    s.give(0, &s.like("LayerNormalization", &inputs, &[]));
    Ok(())
}

/// LRN over any number of spatial axes, which are taken together.
pub(super) fn local_response(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0])?;
    let x = s.x()?;
    let &[batch, channels, ..] = x else {
        return Err(RuleError::new("has no channels"));
    };
    if x.len() == 4 || x.contains(&0) {
        return Err(RuleError::new("normalises nothing"));
    }
    let plane = s.reshape(&s.input(0), &[batch, channels, x[2..].iter().product(), 1]);
    s.give(0, &s.reshape(&s.like("LRN", &[&plane], &[]), x));
    Ok(())
}

/// Dropout with its mask: where it made a zero of what was none.
pub(super) fn dropout(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0])?;
    if !s.wants(1) {
        return Err(RuleError::new("is not supported on devices"));
    }
    let inputs = s.all();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    let kept = s.like("Dropout", &inputs, &[]);
    let zero = s.number(0.0);
    let [made, was] = [kept.as_str(), inputs[0]].map(|value| s.op("Equal", &[value, &zero]));
    s.give(0, &kept);
    s.hand(1, &s.op("Or", &[&s.op("Not", &[&made]), &was]));
    Ok(())
}
