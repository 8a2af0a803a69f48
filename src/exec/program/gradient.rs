//! Whether gradients of a program's results reach the weights.

use std::collections::BTreeSet;

use super::op::Op;
use super::{Program, Source, Step, Work};
use crate::exec::definition::defines;
use crate::graph::{Family, family};
use crate::host::is_float;

/// Operators whose results say nothing that a weight could be blamed for: shapes, places, choices.
const INDIFFERENT: [&str; 26] = [
    "And",
    "ArgMax",
    "ArgMin",
    "Bernoulli",
    "Ceil",
    "ConstantOfShape",
    "Equal",
    "EyeLike",
    "Floor",
    "Greater",
    "GreaterOrEqual",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "NonMaxSuppression",
    "NonZero",
    "Not",
    "Or",
    "RandomNormalLike",
    "RandomUniformLike",
    "Round",
    "Shape",
    "Sign",
    "Size",
    "Xor",
];

/// Whether the results of an operator say nothing that a weight could be blamed for.
pub(super) fn is_indifferent(operator: &str) -> bool {
    INDIFFERENT.contains(&operator)
}

/// What stands between a program's results and the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Gradients reach at least one weight, and nothing on the way stops them.
    Whole,
    /// This node has no gradient, and a weight is behind it.
    Stopped { node: String, operator: String },
    /// No weight is on the way to the results.
    Nothing,
}

impl Program {
    /// Whether gradients reach the weights `trained` from the program's results.
    pub fn reach(&self, trained: &BTreeSet<&str>) -> Reach {
        // Values that weights have a part in, forwards; values that results depend on, backwards.
        let mut tracked = vec![false; self.known.len()];
        for (slot, source) in &self.sources {
            if let Source::Parameter(name) = source {
                tracked[*slot] = trained.contains(name.as_str());
            }
        }
        for step in &self.steps {
            let reads = |slot: &Option<usize>| slot.is_some_and(|slot| tracked[slot]);
            let behind = step.inputs.iter().any(reads);
            for slot in step.outputs.iter().flatten() {
                tracked[*slot] = behind && !self.indifferent(step, *slot);
            }
        }
        let mut wanted = vec![false; self.known.len()];
        for &slot in &self.outputs {
            wanted[slot] = true;
        }
        let mut reached = self
            .outputs
            .iter()
            .any(|&slot| tracked[slot] && self.sources.iter().any(|(source, _)| *source == slot));
        for step in self.steps.iter().rev() {
            let used =
                |slot: &Option<usize>| slot.is_some_and(|slot| wanted[slot] && tracked[slot]);
            if !step.outputs.iter().any(used) {
                continue;
            }
            if stops(step) {
                return Reach::Stopped {
                    node: step.label.clone(),
                    operator: step.operator.clone(),
                };
            }
            for slot in step.inputs.iter().flatten() {
                wanted[*slot] = true;
                let parameter = |(source, kind): &(usize, Source)| {
                    source == slot && matches!(kind, Source::Parameter(_))
                };
                reached |= tracked[*slot] && self.sources.iter().any(parameter);
            }
        }
        if reached {
            Reach::Whole
        } else {
            Reach::Nothing
        }
    }

    /// Whether a result carries no gradient by its nature.
    fn indifferent(&self, step: &Step, slot: usize) -> bool {
        (step.detached && !quantizes(step))
            || is_indifferent(&step.operator)
            || self.known[slot]
                .as_ref()
                .is_some_and(|known| !is_float(known.data_type) && !quantizes(step))
    }
}

/// Rounding weights or activations to integers is no choice but a loss of the gradient.
fn quantizes(step: &Step) -> bool {
    step.operator.contains("Quantize") || step.operator.starts_with("QLinear")
}

/// Whether the step makes numbers without a gradient.
fn stops(step: &Step) -> bool {
    match &step.work {
        Work::Ready(op) => matches!(**op, Op::Host(_)),
        Work::Late(late) => family(&late.node) == Some(Family::Host) && !defines(&late.node),
        Work::Control(_) => false,
    }
}
