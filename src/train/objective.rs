//! What a training makes small, as the loop sees it.

use std::collections::BTreeMap;

use super::Loss;
use super::trainer::Kept;
use crate::data::Batch;
use crate::exec::value::Value;
use crate::exec::{Device, ExecError, Parameters};

/// What one run of the graph gave.
pub struct Seen<'a> {
    /// The main output before the closing operators, of shape `[batch, …]`.
    pub output: Value,
    /// In the order of [`Objective::tensors`].
    pub tensors: Vec<Value>,
    pub batch: &'a Batch,
    /// The objective's own weights are among them.
    pub parameters: &'a Parameters,
    /// Share of the training that is over, 0 to 1.
    pub progress: f64,
    pub device: &'a Device,
}

/// A function of what a graph gives for a batch, and of weights of its own.
pub trait Objective {
    /// Operators at the end of the graph that it applies itself.
    fn closing_operators(&self) -> &'static [&'static str];

    /// Values inside the graph that it looks at beside the output.
    fn tensors(&self) -> &[String] {
        &[]
    }

    /// Weights of its own by name, with what they start from; trained beside the graph's and let go
    /// of afterwards. No initializer may have such a name.
    fn weights(&self) -> BTreeMap<String, Kept> {
        BTreeMap::new()
    }

    /// What the gradient of one of its own weights is multiplied by; below 0 for one that makes the
    /// value large.
    fn gradient_factor(&self, _weight: &str, _progress: f64) -> f64 {
        1.0
    }

    /// The mean over a batch, a value of one element.
    fn value(&self, seen: &Seen) -> Result<Value, ExecError>;
}

impl Objective for Loss {
    fn closing_operators(&self) -> &'static [&'static str] {
        Loss::closing_operators(*self)
    }

    fn value(&self, seen: &Seen) -> Result<Value, ExecError> {
        Ok(self.of_output(seen.output.clone(), seen.batch, seen.device.plain()))
    }
}
