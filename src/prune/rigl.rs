//! Zeros that move while what is left is trained.

use std::f64::consts::PI;

use crate::spec::prune::Rigl;

/// The share of the weights left that move in step `step` of a training of `steps`; 0 in most.
///
/// Evci et al., "Rigging the Lottery: Making All Tickets Winners" (ICML 2020), eq. 1: every `every` steps,
/// `fraction ÷ 2 · (1 + cos(π · step ÷ end))` until `end`, which is `until` of all steps.
pub fn share(rigl: &Rigl, step: u64, steps: u64) -> f64 {
    let end = rigl.until * steps as f64;
    let at = step as f64;
    match step > 0 && step.is_multiple_of(rigl.every.into()) && at < end {
        true => rigl.fraction / 2.0 * (1.0 + (PI * at / end).cos()),
        false => 0.0,
    }
}

/// The mask of a tensor after `share` of what it leaves was moved: the smallest weights go, and as many whose
/// gradients are largest come, of all that were gone or just went (algorithm 1 of the paper).
pub fn moved(weights: &[f32], gradients: &[f32], mask: &[f32], share: f64) -> Vec<f32> {
    let mut left: Vec<usize> = (0..mask.len()).filter(|&i| mask[i] != 0.0).collect();
    let count = (left.len() as f64 * share).floor() as usize;
    left.sort_by(|&a, &b| weights[a].abs().total_cmp(&weights[b].abs()));
    let mut moved = mask.to_vec();
    left[..count].iter().for_each(|&index| moved[index] = 0.0);
    let mut gone: Vec<usize> = (0..mask.len()).filter(|&i| moved[i] == 0.0).collect();
    gone.sort_by(|&a, &b| gradients[b].abs().total_cmp(&gradients[a].abs()));
    gone[..count].iter().for_each(|&index| moved[index] = 1.0);
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_go_and_those_of_the_largest_gradients_come() {
        let weights = [3.0, -1.0, 2.0, -4.0, 0.0, 0.0];
        let mask = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0];
        let moved = |gradients: [f32; 6], share| moved(&weights, &gradients, &mask, share);
        let gradients = [9.0, 0.1, 0.1, 0.1, -0.5, 0.4];
        assert_eq!(moved(gradients, 0.25), [1.0, 0.0, 1.0, 1.0, 1.0, 0.0]);
        assert_eq!(moved(gradients, 0.5), [1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        // What just went may come back.
        let gradients = [0.0, 7.0, 0.0, 0.0, 1.0, 2.0];
        assert_eq!(moved(gradients, 0.25), mask);
        assert_eq!(moved(gradients, 0.0), mask);
    }

    #[test]
    fn the_share_falls_with_a_cosine_and_ends() {
        let rigl = Rigl {
            fraction: 0.3,
            every: 10,
            until: 0.5,
        };
        let shares = [0, 5, 10, 50, 100].map(|at| share(&rigl, at, 200));
        assert_eq!(shares[0], 0.0);
        assert_eq!(shares[1], 0.0);
        assert!((shares[2] - 0.15 * (1.0 + (0.1 * PI).cos())).abs() < 1e-12);
        assert!((shares[3] - 0.15).abs() < 1e-12);
        assert_eq!(shares[4], 0.0);
    }
}
