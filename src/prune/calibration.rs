//! What pruning asks of calibration data.

use std::collections::BTreeMap;

use crate::exec::ExecError;
use crate::graph::Graph;

/// By weight: the gradient of a loss by each element.
pub type Gradients = BTreeMap<String, Vec<f32>>;

/// A value that a graph computed for a batch.
#[derive(Debug, Clone)]
pub struct Values {
    pub dims: Vec<usize>,
    pub elements: Vec<f32>,
}

/// A few hundred examples, and a graph to run on them. Normalisation uses its running statistics.
pub trait Calibration {
    /// Gradients of the loss by all weights, example by example (batch by batch where the file fixes a
    /// batch size). Returns how often `each` was called.
    fn gradients(&self, graph: &Graph, each: &mut dyn FnMut(&Gradients)) -> Result<u64, ExecError>;

    /// Gradients of the mean loss of all examples.
    fn mean_gradients(&self, graph: &Graph) -> Result<Gradients, ExecError>;

    /// The values `names` batch by batch, the same batches each time.
    fn values(
        &self,
        graph: &Graph,
        names: &[&str],
        each: &mut dyn FnMut(&[Values]),
    ) -> Result<(), ExecError>;

    /// Number of examples.
    fn examples(&self) -> usize;
}
