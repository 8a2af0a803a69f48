//! Weights that go back to what they were early in a dense training.

use crate::engine::child::Ended;
use crate::engine::job::Job;
use crate::engine::train_step::Purpose;
use crate::graph::{Cut, Graph};
use crate::spec::prune::{PruneParams, Rewind};

/// The name under which the journal keeps the weights to go back to.
pub(super) fn point(key: &str) -> String {
    // The trials of one pruning share their dense training.
    let (whole, _) = key.split_once("/trial").unwrap_or((key, ""));
    format!("{whole}/rewind")
}

impl Job<'_> {
    /// Trains the model that is to be pruned, and keeps what it was at the point to go back to.
    pub(super) fn train_dense(
        &mut self,
        key: &str,
        graph: Graph,
        params: &PruneParams,
    ) -> Result<Graph, Ended> {
        let (Some(rewind), Some(finetune)) = (params.schedule.rewind, &params.finetune) else {
            return Ok(graph);
        };
        let epoch = match rewind {
            Rewind::Initial(_) => {
                if self.journal.kept(&point(key)).is_none() {
                    self.journal.keep(&point(key), &graph);
                }
                None
            }
            Rewind::Epoch(epoch) => Some((epoch, point(key))),
        };
        let purpose = Purpose {
            point: epoch,
            ..Purpose::default()
        };
        self.train_past(&format!("{key}/dense"), "train", graph, finetune, purpose)
    }
}

/// `pruned` with the weights of `earlier`, a graph that was like it before the `cut`; what is zero in
/// `pruned` stays so.
pub(super) fn rewound(pruned: &Graph, earlier: &Graph, cut: Option<&Cut>) -> Graph {
    let kernels = pruned.kernels();
    let mut result = pruned.clone();
    for (name, tensor) in &mut result.initializers {
        let (Some(now), Some(old)) = (tensor.floats(), earlier.initializers.get(name)) else {
            continue;
        };
        let mut old = old.clone();
        if let Some(cut) = cut {
            for ((_, axis), kept) in cut.kept.iter().filter(|((of, _), _)| of == name) {
                old = old.select(*axis, kept);
            }
        }
        let Some(values) = old.floats().filter(|_| old.dims == tensor.dims) else {
            continue;
        };
        let zeros_stay = kernels.contains_key(name.as_str());
        let values = values
            .iter()
            .zip(now)
            .map(|(&then, &now)| match now == 0.0 && zeros_stay {
                true => 0.0,
                false => then,
            });
        let values = values.collect();
        tensor.set_floats(values);
    }
    result
}
