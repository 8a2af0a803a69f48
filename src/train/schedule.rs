//! Learning rates over the steps of a training.

use crate::spec::train::{LearningRateSchedule, ScheduleName};

/// The factor on the learning rate at `step` (from 0) of `steps`.
pub(super) fn factor(schedule: &LearningRateSchedule, step: u64, steps: u64) -> f64 {
    let warmup = (schedule.warmup_fraction * steps as f64).round();
    let step = step as f64;
    if step < warmup {
        return (step + 1.0) / warmup;
    }
    let left = (steps as f64 - warmup).max(1.0);
    let done = ((step - warmup) / left).clamp(0.0, 1.0);
    match schedule.name {
        ScheduleName::Constant => 1.0,
        ScheduleName::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
        ScheduleName::Linear => 1.0 - done,
        ScheduleName::Step if done < 0.5 => 1.0,
        ScheduleName::Step if done < 0.75 => 0.1,
        ScheduleName::Step => 0.01,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(name: ScheduleName, warmup_fraction: f64, step: u64) -> f64 {
        factor(
            &LearningRateSchedule {
                name,
                warmup_fraction,
            },
            step,
            100,
        )
    }

    #[test]
    fn the_rate_rises_then_falls_along_half_a_cosine() {
        assert_eq!(at(ScheduleName::Cosine, 0.1, 0), 0.1);
        assert_eq!(at(ScheduleName::Cosine, 0.1, 10), 1.0);
        assert!((at(ScheduleName::Cosine, 0.1, 55) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn steps_divide_by_ten_twice() {
        let rates = [0, 49, 50, 74, 75].map(|step| at(ScheduleName::Step, 0.0, step));
        assert_eq!(rates, [1.0, 1.0, 0.1, 0.1, 0.01]);
    }
}
