//! Which channels go so that a target is met.

use std::collections::{BTreeMap, BTreeSet};

use super::{PruneError, importance};
use crate::graph::coupling::Couplings;
use crate::graph::{Cost, Cut, Graph, cost_of_one};
use crate::spec::prune::{PruneParams, Scope, Target};

/// A choice of channels, with the graph that it leaves.
pub struct Chosen {
    pub cut: Cut,
    pub graph: Graph,
    pub cost: Cost,
    /// Share of all removable channels of the original graph that are gone.
    pub channel_sparsity: f64,
}

/// The state of a pruning before its first cut, which targets are relative to.
pub struct Original {
    pub cost: Cost,
    pub units: usize,
}

/// Chooses the fewest, least important channels of `graph` whose removal meets every target.
///
/// The choice is searched over the real cost of the graph without the channels, not estimated:
/// the number of channels (scope `global`) or the share of each group (scope `layer`) is halved in
/// on until one channel fewer would miss a target.
pub fn choose(
    graph: &Graph,
    couplings: &Couplings,
    params: &PruneParams,
    target: &Target,
    original: &Original,
    seed: u64,
) -> Result<Chosen, PruneError> {
    if couplings.groups.is_empty() {
        let reasons: BTreeSet<&str> = couplings.blocked.values().map(String::as_str).collect();
        let reasons: Vec<&str> = reasons.into_iter().take(5).collect();
        return Err(PruneError::NothingPrunable(reasons.join("; ")));
    }
    let scores = importance::of_units(
        graph,
        couplings,
        params.criterion,
        params.norm.unwrap_or(2),
        seed,
    );
    let ranking = Ranking::new(couplings, &scores, params);
    let gone_before = original.units - couplings.unit_count().min(original.units);
    let evaluate = |amount: usize| -> Result<Chosen, PruneError> {
        let units = ranking.take(amount);
        let cut = Cut::new(couplings, &units);
        let graph = cut.apply(graph)?;
        let cost = cost_of_one(&graph);
        let channel_sparsity = (gone_before + units.len()) as f64 / original.units.max(1) as f64;
        Ok(Chosen {
            cut,
            graph,
            cost,
            channel_sparsity,
        })
    };
    let most = evaluate(ranking.most())?;
    for (name, asked) in target.given() {
        let nearest = reached(name, &most, original);
        if !meets(name, nearest, asked) {
            return Err(PruneError::Unreachable {
                target: name.to_owned(),
                asked,
                nearest,
                hint: hint(params, couplings),
            });
        }
    }
    let met = |chosen: &Chosen| {
        target
            .given()
            .iter()
            .all(|(name, asked)| meets(name, reached(name, chosen, original), *asked))
    };
    let (mut low, mut high) = (0, ranking.most());
    let mut best = most;
    while low < high {
        let middle = (low + high) / 2;
        let chosen = evaluate(middle)?;
        if met(&chosen) {
            high = middle;
            best = chosen;
        } else {
            low = middle + 1;
        }
    }
    Ok(best)
}

fn hint(params: &PruneParams, couplings: &Couplings) -> String {
    let mut hints = Vec::new();
    if params.max_layer_sparsity < 1.0 {
        hints.push(format!(
            "max_layer_sparsity keeps {:.0} % of every group",
            (1.0 - params.max_layer_sparsity) * 100.0
        ));
    }
    if params.round_to > 1 {
        hints.push(format!("round_to keeps multiples of {}", params.round_to));
    }
    if !couplings.blocked.is_empty() {
        hints.push(format!(
            "{} layers can't be followed or are excluded",
            couplings.blocked.len()
        ));
    }
    if hints.is_empty() {
        String::new()
    } else {
        format!(" ({})", hints.join("; "))
    }
}

/// What a choice has of a target.
pub fn reached(target: &str, chosen: &Chosen, original: &Original) -> f64 {
    match target {
        "channel_sparsity" => chosen.channel_sparsity,
        "parameters_ratio" => {
            chosen.cost.parameters as f64 / original.cost.parameters.max(1) as f64
        }
        _ => {
            let before = original.cost.macs.unwrap_or(0).max(1);
            chosen.cost.macs.unwrap_or(0) as f64 / before as f64
        }
    }
}

fn meets(target: &str, reached: f64, asked: f64) -> bool {
    match target {
        "channel_sparsity" => reached >= asked - 1e-9,
        _ => reached <= asked + 1e-9,
    }
}

/// In which order units go, and how many of each group may.
struct Ranking {
    /// `(group, unit)`, the least important first.
    order: Vec<(usize, usize)>,
    /// By group: units that may go.
    limits: Vec<usize>,
    /// By group: all units, the frozen ones included.
    totals: Vec<usize>,
    /// By group: units from the least important on.
    by_group: Vec<Vec<usize>>,
    scope: Scope,
    round_to: usize,
}

/// Steps of the share that scope `layer` removes.
const SHARES: usize = 4096;

impl Ranking {
    fn new(couplings: &Couplings, scores: &[Vec<f64>], params: &PruneParams) -> Self {
        let mut order = Vec::new();
        let mut by_group = Vec::new();
        let (mut limits, mut totals) = (Vec::new(), Vec::new());
        for (group, own) in scores.iter().enumerate() {
            let mut units: Vec<usize> = (0..own.len()).collect();
            units.sort_by(|&a, &b| own[a].total_cmp(&own[b]).then(a.cmp(&b)));
            order.extend(units.iter().map(|&unit| (group, unit)));
            let total = own.len() + couplings.groups[group].frozen;
            let most = (total as f64 * params.max_layer_sparsity).floor() as usize;
            limits.push(most.min(own.len()).min(total - 1));
            totals.push(total);
            by_group.push(units);
        }
        order.sort_by(|&(group_a, unit_a), &(group_b, unit_b)| {
            scores[group_a][unit_a]
                .total_cmp(&scores[group_b][unit_b])
                .then((group_a, unit_a).cmp(&(group_b, unit_b)))
        });
        Self {
            order,
            limits,
            totals,
            by_group,
            scope: params.scope,
            round_to: params.round_to as usize,
        }
    }

    fn most(&self) -> usize {
        match self.scope {
            Scope::Layer => SHARES,
            _ => self.order.len(),
        }
    }

    /// The units that go for an amount from 0 to [`Ranking::most`].
    fn take(&self, amount: usize) -> BTreeSet<(usize, usize)> {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        match self.scope {
            Scope::Layer => {
                for (group, units) in self.by_group.iter().enumerate() {
                    let share = amount as f64 / SHARES as f64;
                    counts.insert(group, (units.len() as f64 * share).round() as usize);
                }
            }
            _ => {
                for &(group, _) in &self.order[..amount] {
                    *counts.entry(group).or_default() += 1;
                }
            }
        }
        let mut taken = BTreeSet::new();
        for (group, count) in counts {
            let count = self.rounded(group, count.min(self.limits[group]));
            taken.extend(
                self.by_group[group][..count]
                    .iter()
                    .map(|&unit| (group, unit)),
            );
        }
        taken
    }

    /// Fewer, so that the kept count is a multiple of `round_to`.
    fn rounded(&self, group: usize, count: usize) -> usize {
        let total = self.totals[group];
        if self.round_to <= 1 || total < self.round_to {
            return count;
        }
        let kept = (total - count).next_multiple_of(self.round_to);
        total.saturating_sub(kept)
    }
}
