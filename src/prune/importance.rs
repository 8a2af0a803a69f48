//! Numbers that say what is missed least.
//!
//! A criterion gives every single weight a number ([`saliency`]), or every slice of a tensor that a unit
//! takes away ([`units`]), every unit by what it says about the data ([`entropy`]), or every block ([`blocks`]).

mod blocks;
mod entropy;
mod saliency;
mod units;

pub use blocks::of_blocks;
pub use saliency::{Saliencies, hessian_diagonal, of_weights};
pub use units::of_units;

use std::hash::{Hash, Hasher};

use super::PruneError;
use super::calibration::Calibration;
use crate::spec::prune::Criterion;

/// A uniform number from 0 to 1 that follows from `seed` and what it is for.
fn random_number(seed: u64, name: &str, index: usize) -> f64 {
    use rand::{RngExt, SeedableRng};
    let mut hasher = std::hash::DefaultHasher::new();
    (name, index).hash(&mut hasher);
    rand_chacha::ChaCha8Rng::seed_from_u64(seed ^ hasher.finish()).random::<f64>()
}

/// The calibration data that a criterion looks at.
fn needed(
    criterion: Criterion,
    calibration: Option<&dyn Calibration>,
) -> Result<&dyn Calibration, PruneError> {
    calibration.ok_or(PruneError::NeedsData(criterion))
}
