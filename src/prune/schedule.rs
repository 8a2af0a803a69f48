//! How much of the way to the target each step goes.

use crate::spec::prune::{Curve, PruneSchedule, Target};

/// What the exponential curve would leave of the way at its end.
const LEFT: f64 = 0.01;

/// Share of the way from nothing removed (0) to the target (1) after `step` (from 1) of the
/// schedule. Cubic is `1 − (1 − t)³` (Zhu and Gupta, 2017, eq. 1); exponential goes in equal factors to
/// a hundredth of the way left.
pub fn share(schedule: &PruneSchedule, step: u32) -> f64 {
    let done = f64::from(step) / f64::from(schedule.steps.max(1));
    match schedule.curve {
        Curve::Linear => done,
        Curve::Cubic => 1.0 - (1.0 - done).powi(3),
        Curve::Exponential => (1.0 - LEFT.powf(done)) / (1.0 - LEFT),
    }
}

/// The target part of the way: shares grow from 0, ratios fall from 1.
pub fn target_at(target: &Target, share: f64) -> Target {
    if share >= 1.0 {
        return target.clone();
    }
    let grown = |value: Option<f64>| value.map(|value| value * share);
    let shrunk = |value: Option<f64>| value.map(|value| 1.0 - (1.0 - value) * share);
    Target {
        sparsity: grown(target.sparsity),
        channel_sparsity: grown(target.channel_sparsity),
        parameters_ratio: shrunk(target.parameters_ratio),
        macs_ratio: shrunk(target.macs_ratio),
        size_ratio: shrunk(target.size_ratio),
        latency_ratio: shrunk(target.latency_ratio),
        ..Target::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cubic_curve_removes_most_at_first_and_ends_at_the_target() {
        let schedule = PruneSchedule {
            steps: 2,
            curve: Curve::Cubic,
            rewind: None,
            rigl: None,
        };
        assert_eq!(share(&schedule, 1), 0.875);
        assert_eq!(share(&schedule, 2), 1.0);
        let target = Target {
            macs_ratio: Some(0.5),
            ..Target::default()
        };
        assert_eq!(target_at(&target, 0.875).macs_ratio, Some(0.5625));
    }
}
