//! Which channels go so that a target is met.

use std::collections::{BTreeMap, BTreeSet};

use super::{PruneError, importance};
use crate::graph::coupling::{Couplings, Group};
use crate::graph::{Cost, Cut, Family, Graph, cost_of_one, family};
use crate::spec::prune::{PruneParams, Scope, Target};

/// Multiples that are tried for kept channel counts when the request names none. ONNX Runtime
/// blocks the channels of a convolution by 16 with AVX-512 and by 8 with AVX2 and NEON.
const MULTIPLES: [usize; 5] = [16, 8, 4, 2, 1];

/// How far past the target a multiple may land, as a share of the way to the target.
const OVERSHOOT: f64 = 0.15;

/// A choice of channels, with the graph that it leaves.
pub struct Chosen {
    pub graph: Graph,
    pub cost: Cost,
    /// Share of all removable channels of the original graph that are gone.
    pub channel_sparsity: f64,
    /// The multiple that kept channel counts were rounded to.
    pub round_to: usize,
}

/// The state of a pruning before its first cut, which targets are relative to.
pub struct Original {
    pub cost: Cost,
    pub units: usize,
    /// Shapes of the weights by name.
    pub weights: BTreeMap<String, Vec<usize>>,
}

/// Chooses the least important channels of `graph` whose removal meets every target.
///
/// The choice is searched over the real cost of the graph without the channels, not estimated: the
/// number of channels (scope `global`) or the share of each group (scope `layer`) is halved in on,
/// and then every group gets back what the targets do not need, the most important group first.
pub fn choose(
    graph: &Graph,
    couplings: &Couplings,
    params: &PruneParams,
    target: &Target,
    original: &Original,
    seed: u64,
) -> Result<Chosen, PruneError> {
    if couplings.groups.is_empty() {
        let mut reasons: BTreeSet<String> = couplings.blocked.values().cloned().collect();
        for node in &graph.nodes {
            if family(node) == Some(Family::Recurrent) {
                let (label, operator) = (node.label(), node.operator());
                reasons.insert(format!(
                    "the hidden units of `{label}` ({operator}) stay together"
                ));
            }
        }
        if reasons.is_empty() {
            reasons.insert("no kernel of a convolution or matrix product is a weight".to_owned());
        }
        let reasons: Vec<String> = reasons.into_iter().take(5).collect();
        return Err(PruneError::NothingPrunable(reasons.join("; ")));
    }
    let scores = importance::of_units(
        graph,
        couplings,
        params.criterion,
        params.norm.unwrap_or(2),
        seed,
    );
    let search = |round_to: usize| Search {
        graph,
        couplings,
        target,
        original,
        ranking: Ranking::new(graph, couplings, &scores, params, original, round_to),
        params,
    };
    if let Some(round_to) = params.round_to {
        return search(round_to as usize).run();
    }
    let mut last = None;
    for round_to in MULTIPLES {
        match search(round_to).run() {
            Ok(chosen) if round_to == 1 || lands_near(target, &chosen, original) => {
                return Ok(chosen);
            }
            outcome => last = Some(outcome),
        }
    }
    last.expect("the list of multiples is not empty")
}

fn lands_near(target: &Target, chosen: &Chosen, original: &Original) -> bool {
    // The target that binds is the one that is met most closely.
    target.given().into_iter().any(|(name, asked)| {
        let found = reached(name, chosen, original);
        match name {
            "channel_sparsity" => found - asked <= OVERSHOOT * asked,
            _ => asked - found <= OVERSHOOT * (1.0 - asked),
        }
    })
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

/// One search with one multiple.
struct Search<'a> {
    graph: &'a Graph,
    couplings: &'a Couplings,
    params: &'a PruneParams,
    target: &'a Target,
    original: &'a Original,
    ranking: Ranking,
}

impl Search<'_> {
    fn run(&self) -> Result<Chosen, PruneError> {
        let (mut low, mut high) = (0, self.ranking.most());
        let mut counts = self.ranking.counts(high);
        let mut best = self.evaluate(&counts)?;
        for (name, asked) in self.target.given() {
            let nearest = reached(name, &best, self.original);
            if !meets(name, nearest, asked) {
                return Err(PruneError::Unreachable {
                    target: name.to_owned(),
                    asked,
                    nearest,
                    hint: self.hint(),
                });
            }
        }
        while low < high {
            let middle = (low + high) / 2;
            let tried = self.ranking.counts(middle);
            let chosen = self.evaluate(&tried)?;
            if self.met(&chosen) {
                high = middle;
                (best, counts) = (chosen, tried);
            } else {
                low = middle + 1;
            }
        }
        if self.params.scope == Scope::Global {
            for group in self.ranking.most_important_first(&counts) {
                let mut tried = counts.clone();
                tried[group] = tried[group].saturating_sub(self.ranking.round_to);
                tried[group] = self.ranking.rounded(group, tried[group]);
                let chosen = self.evaluate(&tried)?;
                if tried != counts && self.met(&chosen) {
                    (best, counts) = (chosen, tried);
                }
            }
        }
        Ok(best)
    }

    /// The graph without the `counts[group]` least important units of each group.
    fn evaluate(&self, counts: &[usize]) -> Result<Chosen, PruneError> {
        let units = self.ranking.units(counts);
        let graph = Cut::new(self.couplings, &units).apply(self.graph)?;
        let cost = cost_of_one(&graph);
        let all = self.original.units.max(1);
        let gone_before = all.saturating_sub(self.couplings.unit_count());
        Ok(Chosen {
            graph,
            cost,
            channel_sparsity: (gone_before + units.len()) as f64 / all as f64,
            round_to: self.ranking.round_to,
        })
    }

    fn met(&self, chosen: &Chosen) -> bool {
        self.target
            .given()
            .iter()
            .all(|(name, asked)| meets(name, reached(name, chosen, self.original), *asked))
    }

    fn hint(&self) -> String {
        let mut hints = Vec::new();
        if self.params.max_layer_sparsity < 1.0 {
            hints.push(format!(
                "max_layer_sparsity keeps {:.0} % of every group",
                (1.0 - self.params.max_layer_sparsity) * 100.0
            ));
        }
        if self.ranking.round_to > 1 {
            hints.push(format!(
                "round_to keeps multiples of {}",
                self.ranking.round_to
            ));
        }
        if !self.couplings.blocked.is_empty() {
            let blocked = &self.couplings.blocked;
            let named: Vec<String> = blocked
                .iter()
                .take(3)
                .map(|(&node, why)| format!("`{}` {why}", self.graph.nodes[node].label()))
                .collect();
            let more = match blocked.len() {
                0..=3 => String::new(),
                all => format!(" and {} more", all - 3),
            };
            hints.push(format!("channels that stay: {}{more}", named.join(", ")));
        }
        match hints.is_empty() {
            true => String::new(),
            false => format!(" ({})", hints.join("; ")),
        }
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
    /// By group: units from the least important on, with their importance.
    by_group: Vec<Vec<(usize, f64)>>,
    /// For each axis of a weight that units alone make up: its units, the most important first.
    by_axis: Vec<Vec<(usize, usize)>>,
    scope: Scope,
    round_to: usize,
}

/// How many units a group of `total` had before the first cut.
fn before_all_cuts(graph: &Graph, group: &Group, original: &Original, total: usize) -> usize {
    let slice = group.units.first().and_then(|unit| unit.slices.first());
    slice
        .and_then(|slice| {
            let now = graph
                .initializers
                .get(&slice.tensor)?
                .dims
                .get(slice.axis)?;
            let then = original.weights.get(&slice.tensor)?.get(slice.axis)?;
            Some((total * then).div_ceil((*now).max(1)).max(total))
        })
        .unwrap_or(total)
}

fn units_by_axis(
    graph: &Graph,
    couplings: &Couplings,
    scores: &[Vec<f64>],
) -> Vec<Vec<(usize, usize)>> {
    #[derive(Default)]
    struct Covered {
        indices: usize,
        units: Vec<(usize, usize)>,
    }
    let mut axes: BTreeMap<(&str, usize), Covered> = BTreeMap::new();
    for (group, own) in couplings.groups.iter().enumerate() {
        for (unit, slices) in own.units.iter().enumerate() {
            for slice in &slices.slices {
                let covered = axes.entry((&slice.tensor, slice.axis)).or_default();
                covered.indices += slice.indices.len();
                covered.units.push((group, unit));
            }
        }
    }
    axes.into_iter()
        .filter(|((tensor, axis), covered)| {
            let tensor = graph.initializers.get(*tensor);
            tensor.is_some_and(|tensor| tensor.dims[*axis] == covered.indices)
        })
        .map(|(_, Covered { mut units, .. })| {
            units.sort_by(|&(ga, ua), &(gb, ub)| {
                scores[gb][ub]
                    .total_cmp(&scores[ga][ua])
                    .then((ga, ua).cmp(&(gb, ub)))
            });
            units
        })
        .collect()
}

/// Steps of the share that scope `layer` removes.
const SHARES: usize = 4096;

impl Ranking {
    fn new(
        graph: &Graph,
        couplings: &Couplings,
        scores: &[Vec<f64>],
        params: &PruneParams,
        original: &Original,
        round_to: usize,
    ) -> Self {
        let mut order = Vec::new();
        let mut by_group = Vec::new();
        let (mut limits, mut totals) = (Vec::new(), Vec::new());
        for (group, own) in scores.iter().enumerate() {
            let mut units: Vec<(usize, f64)> = own.iter().copied().enumerate().collect();
            units.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
            order.extend(units.iter().map(|&(unit, _)| (group, unit)));
            let total = own.len() + couplings.groups[group].frozen;
            // Of what the group had before the first cut, not before this one.
            let before = before_all_cuts(graph, &couplings.groups[group], original, total);
            let most = (before as f64 * params.max_layer_sparsity).floor() as usize;
            let most = most.saturating_sub(before - total);
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
            by_axis: units_by_axis(graph, couplings, scores),
            order,
            limits,
            totals,
            by_group,
            scope: params.scope,
            round_to,
        }
    }

    fn most(&self) -> usize {
        match self.scope {
            Scope::Layer => SHARES,
            _ => self.order.len(),
        }
    }

    /// How many units of each group go for an amount from 0 to [`Ranking::most`].
    fn counts(&self, amount: usize) -> Vec<usize> {
        let mut counts = vec![0; self.by_group.len()];
        match self.scope {
            Scope::Layer => {
                let share = amount as f64 / SHARES as f64;
                for (count, units) in counts.iter_mut().zip(&self.by_group) {
                    *count = (units.len() as f64 * share).round() as usize;
                }
            }
            _ => {
                for &(group, _) in &self.order[..amount] {
                    counts[group] += 1;
                }
            }
        }
        for (group, count) in counts.iter_mut().enumerate() {
            *count = self.rounded(group, (*count).min(self.limits[group]));
        }
        counts
    }

    fn units(&self, counts: &[usize]) -> BTreeSet<(usize, usize)> {
        let mut units = BTreeSet::new();
        for (group, &count) in counts.iter().enumerate() {
            let going = &self.by_group[group][..count];
            units.extend(going.iter().map(|&(unit, _)| (group, unit)));
        }
        // A branch of a Concat keeps its best channel even where the group could spare it.
        for axis in &self.by_axis {
            if axis.iter().all(|unit| units.contains(unit)) {
                units.remove(&axis[0]);
            }
        }
        units
    }

    /// Groups that lose something, those whose last lost unit matters most first.
    fn most_important_first(&self, counts: &[usize]) -> Vec<usize> {
        let mut groups: Vec<usize> = (0..counts.len()).filter(|&g| counts[g] > 0).collect();
        let last = |group: usize| self.by_group[group][counts[group] - 1].1;
        groups.sort_by(|&a, &b| last(b).total_cmp(&last(a)).then(a.cmp(&b)));
        groups
    }

    /// Fewer, so that the kept count is a multiple of `round_to`.
    fn rounded(&self, group: usize, count: usize) -> usize {
        let total = self.totals[group];
        if self.round_to <= 1 || count == 0 {
            return count;
        }
        let kept = (total - count).next_multiple_of(self.round_to);
        total.saturating_sub(kept)
    }
}
