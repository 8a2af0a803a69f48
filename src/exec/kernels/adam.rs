//! Adam's update of one parameter in one pass.

use burn::backend::{BackendTensor, DispatchTensorKind, Flex};
use rayon::prelude::*;

use super::arch::Arch;
use super::{dims, elements, plain, tensor, value, written};
use crate::exec::value::Value;

/// What an update depends on beside the gradient.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adam {
    pub rate: f32,
    pub beta_1: f32,
    pub beta_2: f32,
    pub epsilon: f32,
    /// `1 − β₁ᵗ` and `√(1 − β₂ᵗ)`.
    pub corrections: [f32; 2],
    /// Added to the gradient for each unit of the parameter.
    pub l2: f32,
    /// What remains of the parameter beforehand.
    pub kept: f32,
}

/// Elements that a thread takes at once.
const TASK: usize = 16384;

/// The parameter after one update (Kingma and Ba, 2015, algorithm 1); the averages are updated in
/// place. `None`, and nothing done, on devices that keep Burn's own.
pub(crate) fn adam(
    parameter: &Value,
    gradient: &Value,
    averages: &mut [Value],
    figures: Adam,
) -> Option<Value> {
    let [first, second] = averages else {
        return None;
    };
    let shape = dims(plain(parameter)?);
    let (parameter, gradient) = (
        plain(parameter)?.to_contiguous(),
        plain(gradient)?.to_contiguous(),
    );
    let (first, second) = (owned(first)?, owned(second)?);
    let arch = Arch::new();
    let Adam {
        rate,
        beta_1,
        beta_2,
        epsilon,
        corrections,
        l2,
        kept,
    } = figures;
    let (parameter, gradient) = (elements(&parameter), elements(&gradient));
    let step = rate / corrections[0];
    let scale = 1.0 / corrections[1];
    let out = written(parameter.len(), |out| {
        out.par_chunks_mut(TASK)
            .zip(parameter.par_chunks(TASK))
            .zip(gradient.par_chunks(TASK))
            .zip(first.par_chunks_mut(TASK))
            .zip(second.par_chunks_mut(TASK))
            .for_each(|((((out, p), g), first), second)| {
                arch.run(
                    #[inline(always)]
                    || {
                        let averages = first.iter_mut().zip(second.iter_mut());
                        for ((out, (p, g)), (first, second)) in
                            out.iter_mut().zip(p.iter().zip(g)).zip(averages)
                        {
                            let g = *g + l2 * *p;
                            *first = *first * beta_1 + g * (1.0 - beta_1);
                            *second = *second * beta_2 + g * g * (1.0 - beta_2);
                            *out = *p * kept - step * *first / (second.sqrt() * scale + epsilon);
                        }
                    },
                );
            });
    });
    Some(value(tensor(out, &shape)))
}

/// The elements of a value that nothing else holds; others are copied first.
fn owned(value: &mut Value) -> Option<&mut [f32]> {
    let DispatchTensorKind::Flex(BackendTensor::<Flex>::Float(tensor)) = &mut value.kind else {
        return None;
    };
    if !tensor.is_unique() || !tensor.is_contiguous() {
        *tensor = super::tensor(elements(&tensor.to_contiguous()).to_vec(), &dims(tensor));
    }
    Some(tensor.storage_mut::<f32>())
}
