//! One cut: what goes, and the graph without it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::graph::{Cost, Cut, Graph, cost_of_one, layers};
use crate::prune::calibration::Calibration;
use crate::prune::importance::Saliencies;
use crate::prune::removal::Removal;
use crate::prune::select::{Original, choose};
use crate::prune::{Exclusion, PruneError, weight};
use crate::spec::model::LayerInfo;
use crate::spec::prune::{Granularity, PruneParams, Target};
use crate::spec::result::{Blocked, PruneGroup, ScoreHistogram};

/// Bins of a histogram of scores.
const BINS: usize = 16;

/// What the graph was when the pruning began.
#[derive(Serialize, Deserialize)]
pub(super) struct Start {
    parameters: u64,
    macs: Option<u64>,
    units: usize,
    bytes: usize,
    /// Shapes of the weights, which max_layer_sparsity refers to.
    weights: BTreeMap<String, Vec<usize>>,
    pub layers: Vec<LayerInfo>,
    pub blocked: Vec<Blocked>,
}

impl Start {
    /// `file_bytes` is the size of the file that the graph came in, where there is one: what loading and settling left out
    /// counts.
    pub fn of(
        graph: &Graph,
        params: &PruneParams,
        exclusion: &Exclusion,
        file_bytes: Option<usize>,
    ) -> Result<Self, PruneError> {
        if let Some(pattern) = Exclusion::unmatched(&params.exclude, graph) {
            return Err(PruneError::UnmatchedExclusion(pattern.to_owned()));
        }
        let (units, blocked) = match params.granularity.has_zeros() {
            true => (0, tables(graph)),
            false => {
                let removal = Removal::find(graph, params.granularity, params.scope, exclusion)?;
                (removal.unit_count(), removal.blocked(graph))
            }
        };
        let cost = cost_of_one(graph);
        Ok(Self {
            parameters: cost.parameters,
            macs: cost.macs,
            units,
            bytes: file_bytes.unwrap_or_else(|| graph.to_bytes().len()),
            weights: graph
                .initializers
                .iter()
                .filter(|(_, tensor)| tensor.floats().is_some())
                .map(|(name, tensor)| (name.clone(), tensor.dims.clone()))
                .collect(),
            layers: layers(graph),
            blocked,
        })
    }

    pub fn original<'a>(
        &self,
        latency: &'a dyn Fn(&Graph) -> Result<f64, PruneError>,
    ) -> Original<'a> {
        Original {
            cost: Cost {
                parameters: self.parameters,
                macs: self.macs,
                ..Cost::default()
            },
            units: self.units,
            bytes: self.bytes,
            weights: self.weights.clone(),
            latency,
        }
    }
}

/// Tables of embeddings, whose weights no granularity sets to zero.
fn tables(graph: &Graph) -> Vec<Blocked> {
    let trained = graph.trainable();
    let gathers = graph
        .nodes
        .iter()
        .filter(|node| node.operator() == "Gather");
    let tables = gathers.filter_map(|node| {
        let name = node.input_at(0).filter(|name| trained.contains(name))?;
        let elements = graph.initializers.get(name)?.elements();
        Some(Blocked {
            layer: node.label().to_owned(),
            reason: format!("is a table of embeddings, all {elements} numbers of which stay"),
        })
    });
    tables.collect()
}

/// What one cut has reached.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Found {
    /// By target name.
    pub reached: BTreeMap<String, f64>,
    pub round_to: Option<u32>,
    pub scores: Vec<ScoreHistogram>,
}

/// A cut that is made.
pub(super) struct Made {
    pub graph: Graph,
    pub found: Found,
    /// Of channels.
    pub cut: Option<Cut>,
    pub groups: Vec<PruneGroup>,
}

/// What a cut looks at.
pub(super) struct Cutting<'a> {
    pub params: &'a PruneParams,
    pub exclusion: &'a Exclusion,
    pub original: &'a Original<'a>,
    pub calibration: Option<&'a dyn Calibration>,
    pub seed: u64,
}

impl Cutting<'_> {
    pub fn cut(&self, graph: &Graph, target: &Target) -> Result<Made, PruneError> {
        if self.params.granularity.has_zeros() {
            return self.zero(graph, target);
        }
        let Cutting {
            params, original, ..
        } = *self;
        let removal = Removal::find(graph, params.granularity, params.scope, self.exclusion)?;
        let scores = removal.scores(graph, params, self.calibration, self.seed)?;
        let chosen = choose(graph, &removal, &scores, params, target, original)?;
        let groups: Vec<PruneGroup> = removal
            .groups
            .iter()
            .zip(scores)
            .enumerate()
            .map(|(index, (group, scores))| PruneGroup {
                name: group.name.clone(),
                layers: removal.members(graph, index),
                units: group.units.len(),
                frozen: group.frozen,
                scores: scores
                    .into_iter()
                    .map(|score| score.is_finite().then_some(score))
                    .collect(),
                removed: chosen
                    .units
                    .range((index, 0)..(index + 1, 0))
                    .map(|&(_, unit)| unit)
                    .collect(),
            })
            .collect();
        let round_to = chosen.round_to as u32;
        Ok(Made {
            found: Found {
                reached: chosen.reached,
                round_to: (params.granularity == Granularity::Channel).then_some(round_to),
                scores: groups.iter().map(histogram_of_group).collect(),
            },
            graph: chosen.graph,
            cut: chosen.cut,
            groups,
        })
    }

    /// Sets weights to zero.
    fn zero(&self, graph: &Graph, target: &Target) -> Result<Made, PruneError> {
        let Cutting {
            params,
            calibration,
            ..
        } = *self;
        let saliencies = weight::saliencies(graph, self.exclusion, params, calibration, self.seed)?;
        let mut pruned = graph.clone();
        let mut reached = BTreeMap::new();
        let sparsity = match params.granularity {
            Granularity::NM => weight::keep_n_of_m(&mut pruned, &saliencies, params, calibration)?,
            _ => {
                let at = |sparsity: f64| -> Result<(Graph, f64), PruneError> {
                    let mut pruned = graph.clone();
                    let found =
                        weight::sparsify(&mut pruned, &saliencies, params, sparsity, calibration)?;
                    Ok((pruned, found))
                };
                let asked = target.sparsity.unwrap_or_default();
                let (found, sparsity) = match target.size_ratio {
                    None => at(asked)?,
                    Some(ratio) => {
                        self.to_size(asked, weight::most(&saliencies, params), ratio, at)?
                    }
                };
                pruned = found;
                sparsity
            }
        };
        if target.size_ratio.is_some() {
            reached.insert("size_ratio".to_owned(), self.size_ratio(&pruned));
        }
        if target.sparsity.is_some() || target.size_ratio.is_none() {
            reached.insert("sparsity".to_owned(), sparsity);
        }
        Ok(Made {
            found: Found {
                reached,
                round_to: None,
                scores: histograms_of_weights(&saliencies, &pruned),
            },
            graph: pruned,
            cut: None,
            groups: Vec::new(),
        })
    }

    fn size_ratio(&self, graph: &Graph) -> f64 {
        graph.to_bytes().len() as f64 / self.original.bytes.max(1) as f64
    }

    /// The least sparsity from `low` on whose file has the size.
    fn to_size(
        &self,
        low: f64,
        high: f64,
        ratio: f64,
        at: impl Fn(f64) -> Result<(Graph, f64), PruneError>,
    ) -> Result<(Graph, f64), PruneError> {
        let first = at(low)?;
        if self.size_ratio(&first.0) <= ratio {
            return Ok(first);
        }
        let (mut low, mut high) = (low, high.max(low));
        let mut best = at(high)?;
        let nearest = self.size_ratio(&best.0);
        if nearest > ratio {
            return Err(PruneError::Unreachable {
                target: "size_ratio".to_owned(),
                asked: ratio,
                nearest,
                hint: format!(
                    " (max_layer_sparsity keeps {:.0} % of every kernel)",
                    (1.0 - self.params.max_layer_sparsity) * 100.0
                ),
            });
        }
        while high - low > 1e-3 {
            let middle = (low + high) / 2.0;
            let tried = at(middle)?;
            if self.size_ratio(&tried.0) <= ratio {
                (high, best) = (middle, tried);
            } else {
                low = middle;
            }
        }
        Ok(best)
    }
}

fn histogram_of_group(group: &PruneGroup) -> ScoreHistogram {
    let numbers = group.scores.iter().enumerate().filter_map(|(unit, score)| {
        let removed = group.removed.binary_search(&unit).is_ok();
        Some(((*score)?, removed))
    });
    histogram(&group.name, numbers)
}

/// By kernel.
fn histograms_of_weights(saliencies: &Saliencies, pruned: &Graph) -> Vec<ScoreHistogram> {
    let of = |(name, own): (&String, &Vec<f64>)| {
        let weights = pruned.initializers[name].floats().unwrap_or_default();
        let gone = weights.iter().map(|&weight| weight == 0.0);
        histogram(name, own.iter().copied().zip(gone))
    };
    saliencies.iter().map(of).collect()
}

/// Of finite numbers, and whether each was removed.
fn histogram(name: &str, numbers: impl Iterator<Item = (f64, bool)> + Clone) -> ScoreHistogram {
    let numbers = numbers.filter(|(number, _)| number.is_finite());
    let (mut least, mut greatest) = (f64::INFINITY, f64::NEG_INFINITY);
    for (number, _) in numbers.clone() {
        (least, greatest) = (least.min(number), greatest.max(number));
    }
    if least > greatest {
        (least, greatest) = (0.0, 0.0);
    }
    let mut found = ScoreHistogram {
        name: name.to_owned(),
        least,
        greatest,
        counts: vec![0; BINS],
        removed: vec![0; BINS],
    };
    let width = (greatest - least).max(f64::MIN_POSITIVE);
    for (number, removed) in numbers {
        let bin = ((number - least) / width * BINS as f64) as usize;
        let bin = bin.min(BINS - 1);
        found.counts[bin] += 1;
        found.removed[bin] += u64::from(removed);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::histogram;

    #[test]
    fn every_number_is_in_a_bin_and_the_removed_ones_twice() {
        let numbers = [(0.0, true), (0.1, true), (1.0, false), (1.6, false)];
        let found = histogram("g0", numbers.into_iter());
        assert_eq!((found.least, found.greatest), (0.0, 1.6));
        let mut counts = vec![0; 16];
        (counts[0], counts[1], counts[10], counts[15]) = (1, 1, 1, 1);
        assert_eq!(found.counts, counts);
        assert_eq!(found.removed.iter().sum::<u64>(), 2);
        let same = histogram("g1", [(2.0, false); 3].into_iter());
        assert_eq!(same.counts[0], 3);
    }
}
