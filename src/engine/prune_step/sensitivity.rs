//! How a model bears the loss of a part of each group alone.

use super::cutting::Cutting;
use crate::engine::child::Ended;
use crate::engine::job::Job;
use crate::graph::Graph;
use crate::prune::removal::Removal;
use crate::prune::weight;
use crate::spec::result::{Sensitivity, SensitivityPoint};

/// Shares of a group that go.
const SHARES: [f64; 4] = [0.25, 0.5, 0.75, 0.9];

impl Job<'_> {
    /// For each group (each kernel by its weights), the metrics with its least important units gone.
    pub(super) fn sensitivity(
        &self,
        graph: &Graph,
        cutting: &Cutting,
    ) -> Result<Vec<Sensitivity>, Ended> {
        let (params, calibration) = (cutting.params, cutting.calibration);
        let mut found = Vec::new();
        if params.granularity.has_zeros() {
            let exclusion = cutting.exclusion;
            let saliencies =
                weight::saliencies(graph, exclusion, params, calibration, cutting.seed)?;
            let kernels = graph.kernels();
            for (name, own) in &saliencies {
                let mut points = Vec::new();
                for share in SHARES {
                    let mut pruned = graph.clone();
                    weight::sparsify_one(&mut pruned, name, own, share);
                    points.extend(self.point(share, &pruned)?);
                }
                let node = kernels.get(name.as_str());
                found.push(Sensitivity {
                    name: name.clone(),
                    layers: node
                        .map(|&node| graph.nodes[node].label().to_owned())
                        .into_iter()
                        .collect(),
                    points,
                });
            }
            return Ok(found);
        }
        let removal = Removal::find(graph, params.granularity, params.scope, cutting.exclusion)?;
        let scores = removal.scores(graph, params, calibration, cutting.seed)?;
        for (index, (group, scores)) in removal.groups.iter().zip(&scores).enumerate() {
            let mut order: Vec<usize> = (0..scores.len()).collect();
            order.retain(|&unit| scores[unit].is_finite());
            order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
            // One unit stays, as in any cut.
            let most = order.len().min(group.units.len() + group.frozen - 1);
            let mut points: Vec<SensitivityPoint> = Vec::new();
            for share in SHARES {
                let gone = ((group.units.len() as f64 * share).round() as usize).min(most);
                let units = order[..gone].iter().map(|&unit| (index, unit)).collect();
                let share = gone as f64 / group.units.len().max(1) as f64;
                if gone == 0 || points.last().is_some_and(|point| point.sparsity == share) {
                    continue;
                }
                let (pruned, _) = removal.without(graph, &units)?;
                points.extend(self.point(share, &pruned)?);
            }
            found.push(Sensitivity {
                name: group.name.clone(),
                layers: removal.members(graph, index),
                points,
            });
        }
        Ok(found)
    }

    fn point(&self, sparsity: f64, graph: &Graph) -> Result<Option<SensitivityPoint>, Ended> {
        let metrics = self.validated(graph, None)?;
        Ok(metrics.map(|metrics| SensitivityPoint { sparsity, metrics }))
    }
}
