//! Training that makes scales of batch normalisation small.

use burn::backend::Dispatch;
use burn::backend::ops::FloatTensorOps;

use crate::exec::ExecError;
use crate::exec::value::{Value, reshape};
use crate::train::{Loss, Objective, Seen};

/// `loss + strength · Σ|γ|` over all scales γ of batch normalisation (Liu et al., "Learning Efficient
/// Convolutional Networks through Network Slimming", ICCV 2017, eq. 1), whose gradient at 0 is 0.
pub struct Slimming {
    pub loss: Loss,
    pub strength: f32,
    /// Names of the scales.
    pub scales: Vec<String>,
}

impl Objective for Slimming {
    fn closing_operators(&self) -> &'static [&'static str] {
        self.loss.closing_operators()
    }

    fn value(&self, seen: &Seen) -> Result<Value, ExecError> {
        let mut value = Objective::value(&self.loss, seen)?;
        for scale in self
            .scales
            .iter()
            .filter_map(|name| seen.parameters.get(name))
        {
            let sum = Dispatch::float_sum(Dispatch::float_abs(scale.clone()));
            let penalty = Dispatch::float_mul_scalar(reshape(sum, &[1]), self.strength.into());
            value = Dispatch::float_add(value, penalty);
        }
        Ok(value)
    }
}
