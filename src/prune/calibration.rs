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
    /// Gradients of the mean loss of batches of `size` examples (of as many as the file fixes), and how many
    /// each has. Returns how often `each` was called.
    fn batch_gradients(
        &self,
        graph: &Graph,
        size: usize,
        each: &mut dyn FnMut(&Gradients, usize),
    ) -> Result<u64, ExecError>;

    /// Gradients of the loss by all weights, example by example (batch by batch where the file fixes a
    /// batch size). Returns how often `each` was called.
    fn gradients(&self, graph: &Graph, each: &mut dyn FnMut(&Gradients)) -> Result<u64, ExecError> {
        self.batch_gradients(graph, 1, &mut |gradients, _| each(gradients))
    }

    /// Gradients of the sum of the main output for one example of ones.
    fn flow(&self, graph: &Graph) -> Result<Gradients, ExecError>;

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
