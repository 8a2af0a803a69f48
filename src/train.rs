//! Training and evaluation: the loop, losses, metrics, optimizers and their state.

mod ahead;
mod calibrator;
mod evaluate;
mod loss;
mod metrics;
mod objective;
mod optimizer;
mod recalibrate;
mod reinitialize;
mod schedule;
mod shared;
mod trainer;

pub use calibrator::Calibrator;
pub use evaluate::{Evaluator, measure_latencies};
pub(crate) use evaluate::{Programs, batch_of, evaluation_batch, feed};
pub use loss::Loss;
pub use metrics::Measured;
pub(crate) use metrics::spearman;
pub use objective::{Objective, Seen};
pub use recalibrate::recalibrate;
pub use reinitialize::reinitialize;
pub use shared::{Subnetwork, Subnetworks, Taken};
pub use trainer::{Kept, TrainError, TrainState, Trained, Trainer};

use crate::graph::Graph;

/// Who follows a training.
pub trait Observer {
    /// A point of a curve.
    fn metric(&mut self, name: &str, step: u64, value: f64);
    /// One training step is done; `epoch` counts from 1.
    fn trained(&mut self, step: u64, steps: u64, epoch: u32, epochs: u32);
    /// Whether to stop at the next chance and keep the state.
    fn drain_requested(&self) -> bool;
    /// An epoch, counted from 1, is over, and these are the weights.
    fn epoch_ended(&mut self, epoch: u32, weights: &dyn Fn() -> Graph);
    /// Keeps the state if it is time for that.
    fn offer_checkpoint(&mut self, state: &dyn Fn() -> TrainState);
}
