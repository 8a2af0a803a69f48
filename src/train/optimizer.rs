//! Optimizers, one parameter at a time, on the device.

use std::collections::BTreeMap;

use burn::backend::Dispatch;
use burn::backend::ops::FloatTensorOps;

use crate::exec::kernels::{Adam, adam};
use crate::exec::value::{Value, dims, full};
use crate::spec::train::{Optimizer, OptimizerName};

type B = Dispatch;

/// Constants that PyTorch's optimizers have by default.
const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-8;
const RMSPROP_DECAY: f32 = 0.99;

/// What an optimizer remembers.
#[derive(Debug, Clone, Default)]
pub(super) struct OptimizerState {
    /// Updates made so far.
    pub updates: u64,
    /// By parameter: running averages, at most two.
    pub slots: BTreeMap<String, Vec<Value>>,
}

fn scale(value: Value, by: f32) -> Value {
    B::float_mul_scalar(value, by.into())
}

/// `decay · average + (1 − decay) · new`.
fn blend(average: Value, new: Value, decay: f32) -> Value {
    B::float_add(scale(average, decay), scale(new, 1.0 - decay))
}

impl OptimizerState {
    /// How many averages an optimizer keeps for a parameter.
    fn slot_count(optimizer: &Optimizer) -> usize {
        let momentum = optimizer.momentum.is_some_and(|momentum| momentum > 0.0);
        match optimizer.name {
            OptimizerName::Sgd => usize::from(momentum),
            OptimizerName::Adam | OptimizerName::Adamw => 2,
            OptimizerName::Rmsprop => 1 + usize::from(momentum),
        }
    }

    /// Begins an update of all parameters.
    pub fn advance(&mut self) {
        self.updates += 1;
    }

    /// The parameter after one update at the given learning rate. [`OptimizerState::advance`] has
    /// been called for this step.
    ///
    /// - `sgd`: `b ← μ b + g`, `w ← w − η b` (nesterov: `w ← w − η (g + μ b)`), PyTorch's form;
    /// - `adam` (Kingma and Ba, 2015, algorithm 1) with L2 decay in the gradient, `adamw`
    ///   (Loshchilov and Hutter, 2019, algorithm 2) with decay apart from it;
    /// - `rmsprop` (Hinton, 2012), ε added outside of the root.
    pub fn update(
        &mut self,
        optimizer: &Optimizer,
        name: &str,
        parameter: Value,
        gradient: Value,
        learning_rate: f64,
    ) -> Value {
        let rate = learning_rate as f32;
        let decay = optimizer.weight_decay as f32;
        let momentum = optimizer.momentum.unwrap_or(0.0) as f32;
        let slots = self.slots.entry(name.to_owned()).or_insert_with(|| {
            let device = burn::backend::TensorMetadata::device(&parameter);
            let zeros = || full(&dims(&parameter), 0.0, &device);
            (0..Self::slot_count(optimizer)).map(|_| zeros()).collect()
        });
        if matches!(optimizer.name, OptimizerName::Adam | OptimizerName::Adamw) {
            let apart = optimizer.name == OptimizerName::Adamw;
            let updates = self.updates as i32;
            let figures = Adam {
                rate,
                beta_1: BETA_1,
                beta_2: BETA_2,
                epsilon: EPSILON,
                corrections: [
                    1.0 - BETA_1.powi(updates),
                    (1.0 - BETA_2.powi(updates)).sqrt(),
                ],
                l2: if apart { 0.0 } else { decay },
                kept: if apart { 1.0 - rate * decay } else { 1.0 },
            };
            if let Some(updated) = adam(&parameter, &gradient, slots, figures) {
                return updated;
            }
        }
        let mut parameter = parameter;
        let mut gradient = gradient;
        if decay > 0.0 {
            match optimizer.name {
                OptimizerName::Adamw => parameter = scale(parameter, 1.0 - rate * decay),
                _ => gradient = B::float_add(gradient, scale(parameter.clone(), decay)),
            }
        }
        let direction = match optimizer.name {
            OptimizerName::Sgd => match slots.first_mut() {
                None => gradient,
                Some(buffer) => {
                    // PyTorch's first buffer is the gradient itself, which zero gives as well.
                    *buffer = B::float_add(scale(buffer.clone(), momentum), gradient.clone());
                    match optimizer.nesterov {
                        Some(true) => B::float_add(gradient, scale(buffer.clone(), momentum)),
                        _ => buffer.clone(),
                    }
                }
            },
            OptimizerName::Adam | OptimizerName::Adamw => {
                let square = B::float_mul(gradient.clone(), gradient.clone());
                slots[0] = blend(slots[0].clone(), gradient, BETA_1);
                slots[1] = blend(slots[1].clone(), square, BETA_2);
                let updates = self.updates as i32;
                let first = 1.0 - BETA_1.powi(updates);
                let second = (1.0 - BETA_2.powi(updates)).sqrt();
                let root = scale(B::float_sqrt(slots[1].clone()), 1.0 / second);
                let bottom = B::float_add_scalar(root, EPSILON.into());
                B::float_div(scale(slots[0].clone(), 1.0 / first), bottom)
            }
            OptimizerName::Rmsprop => {
                let square = B::float_mul(gradient.clone(), gradient.clone());
                slots[0] = blend(slots[0].clone(), square, RMSPROP_DECAY);
                let root = B::float_add_scalar(B::float_sqrt(slots[0].clone()), EPSILON.into());
                let step = B::float_div(gradient, root);
                match slots.get_mut(1) {
                    None => step,
                    Some(buffer) => {
                        *buffer = B::float_add(scale(buffer.clone(), momentum), step);
                        buffer.clone()
                    }
                }
            }
        };
        B::float_sub(parameter, scale(direction, rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::Device;
    use crate::exec::value::{from_host, to_host};

    /// Three updates of `[1, −2]` by the gradients `[0.5, −1]`, `[0.25, 2]`, `[−1, 0.5]`.
    fn three_updates(optimizer: Optimizer) -> Vec<f32> {
        let device = Device::cpu();
        let mut state = OptimizerState::default();
        let mut parameter = from_host(&[2], vec![1.0, -2.0], device.plain());
        for gradient in [[0.5, -1.0], [0.25, 2.0], [-1.0, 0.5]] {
            state.advance();
            let gradient = from_host(&[2], gradient.to_vec(), device.plain());
            parameter = state.update(&optimizer, "w", parameter, gradient, 0.1);
        }
        to_host(parameter)
    }

    fn optimizer(name: OptimizerName, momentum: Option<f64>, nesterov: Option<bool>) -> Optimizer {
        Optimizer {
            name,
            learning_rate: 0.1,
            weight_decay: 0.01,
            momentum,
            nesterov,
        }
    }

    fn assert_close(found: &[f32], expected: [f32; 2]) {
        for (a, b) in found.iter().zip(expected) {
            assert!((a - b).abs() < 2e-6, "{found:?} instead of {expected:?}");
        }
    }

    // The expected numbers are those of PyTorch 2.15's optimizers on the same data.

    #[test]
    fn sgd_with_nesterov_momentum_follows_pytorch() {
        assert_close(
            &three_updates(optimizer(OptimizerName::Sgd, Some(0.9), Some(true))),
            [0.942870, -2.277337],
        );
    }

    #[test]
    fn plain_sgd_follows_pytorch() {
        assert_close(
            &three_updates(optimizer(OptimizerName::Sgd, None, None)),
            [1.022128, -2.144006],
        );
    }

    #[test]
    fn adam_follows_pytorch() {
        assert_close(
            &three_updates(optimizer(OptimizerName::Adam, None, None)),
            [0.825848, -1.975_81],
        );
    }

    #[test]
    fn adamw_follows_pytorch() {
        assert_close(
            &three_updates(optimizer(OptimizerName::Adamw, None, None)),
            [0.824714, -1.972345],
        );
    }

    #[test]
    fn rmsprop_with_momentum_follows_pytorch() {
        assert_close(
            &three_updates(optimizer(OptimizerName::Rmsprop, Some(0.9), None)),
            [-1.675474, -1.197918],
        );
    }
}
