//! Fresh running statistics for batch normalisation after a cut.

use std::collections::BTreeMap;

use super::evaluate::{Programs, feed};
use crate::data::{Prepared, Role};
use crate::exec::value::to_host;
use crate::exec::{Device, ExecError, Mode, upload};
use crate::graph::Graph;

/// Examples whose statistics are averaged.
const EXAMPLES: usize = 4096;

/// Replaces the running mean and variance of every batch normalisation by the average over
/// batches of the train split; no weight changes. Pruned channels shift the statistics of what
/// follows, and stale ones cost most of the accuracy lost right after a cut (Li et al., EagleEye,
/// ECCV 2020).
pub fn recalibrate(graph: &mut Graph, device: &Device, data: &Prepared) -> Result<(), ExecError> {
    if graph.running_statistics().is_empty() || data.count(Role::Train) == 0 {
        return Ok(());
    }
    let parameters = upload(graph, device.plain());
    let size = data.about.batch_size as usize;
    let batches = data.train_batches().min(EXAMPLES.div_ceil(size));
    let order = data.train_order(0, 0);
    let mut programs = Programs::new(graph, &[]);
    // Two normalisations may share their statistics, so each name counts for itself.
    let mut sums: BTreeMap<String, (Vec<f64>, u64)> = BTreeMap::new();
    for index in 0..batches {
        let batch = data.train_batch(&order, index, None);
        let (inputs, size) = feed(graph, device, &batch)?;
        let outcome = programs
            .of(size)?
            .run(device, &parameters, &inputs, Mode::Recalibrate)?;
        for statistics in outcome.statistics {
            for (name, value) in [
                (statistics.running_mean, statistics.mean),
                (statistics.running_variance, statistics.variance),
            ] {
                let values = to_host(value);
                let (sum, count) = sums
                    .entry(name)
                    .or_insert_with(|| (vec![0.0; values.len()], 0));
                *count += 1;
                for (total, value) in sum.iter_mut().zip(values) {
                    *total += f64::from(value);
                }
            }
        }
    }
    for (name, (sum, count)) in sums {
        let mean = sum.iter().map(|total| (total / count as f64) as f32);
        if let Some(tensor) = graph.initializers.get_mut(&name) {
            tensor.set_floats(mean.collect());
        }
    }
    Ok(())
}
