//! Which channels go so that a target is met.

use std::collections::{BTreeMap, BTreeSet};

use super::PruneError;
use crate::graph::coupling::{Couplings, Group};
use crate::graph::{Cost, Cut, Family, Graph, cost_of_one, family};
use crate::spec::prune::{Criterion, PruneParams, Scope, Target, word};

/// Multiples that are tried for kept channel counts when the request names none. ONNX Runtime
/// blocks the channels of a convolution by 16 with AVX-512 and by 8 with AVX2 and NEON.
const MULTIPLES: [usize; 5] = [16, 8, 4, 2, 1];

/// How far past the target a multiple may land, as a share of the way to the target.
const OVERSHOOT: f64 = 0.15;

/// A choice of channels, with the graph that it leaves.
pub struct Chosen {
    pub graph: Graph,
    pub cut: Cut,
    /// `(group, unit)` of all that went.
    pub units: BTreeSet<(usize, usize)>,
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

/// Chooses the channels of `graph` with the least `scores`, by group and unit, whose removal meets every
/// target. Units whose score is infinite stay.
///
/// The choice is searched over the real cost of the graph without the channels, not estimated: the
/// share of the channels that go, the same of every set of groups that are ranked together, is halved
/// in on, and then (not with scope `layer`) every group gets back what the targets do not need, the
/// most important group first.
pub fn choose(
    graph: &Graph,
    couplings: &Couplings,
    scores: &[Vec<f64>],
    params: &PruneParams,
    target: &Target,
    original: &Original,
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
    if !scores.iter().flatten().any(|score| score.is_finite()) {
        let criterion = word(&params.criterion);
        let reason = format!(
            "the criterion `{criterion}` finds nothing to tell channels by{}",
            match params.criterion {
                Criterion::BnScale => ": no batch normalisation has a scale for them",
                _ => "",
            }
        );
        return Err(PruneError::NothingPrunable(reason));
    }
    let search = |round_to: usize| Search {
        graph,
        couplings,
        target,
        original,
        ranking: Ranking::new(graph, couplings, scores, params, original, round_to),
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
        if self.params.scope != Scope::Layer {
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
        let cut = Cut::new(self.couplings, &units);
        let graph = cut.apply(self.graph)?;
        let cost = cost_of_one(&graph);
        let all = self.original.units.max(1);
        let gone_before = all.saturating_sub(self.couplings.unit_count());
        Ok(Chosen {
            graph,
            cut,
            cost,
            channel_sparsity: (gone_before + units.len()) as f64 / all as f64,
            round_to: self.ranking.round_to,
            units,
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
    /// By set of groups that are ranked together: `(group, unit)`, the least important first.
    orders: Vec<Vec<(usize, usize)>>,
    /// By group: units that may go.
    limits: Vec<usize>,
    /// By group: all units, the frozen ones included.
    totals: Vec<usize>,
    /// By group: units from the least important on, with their importance.
    by_group: Vec<Vec<(usize, f64)>>,
    /// For each axis of a weight that units alone make up: its units, the most important first.
    by_axis: Vec<Vec<(usize, usize)>>,
    round_to: usize,
}

/// For each group, the number of the set that it is ranked in.
fn ranked_together(graph: &Graph, couplings: &Couplings, scope: Scope) -> Vec<usize> {
    let groups = &couplings.groups;
    match scope {
        Scope::Global => vec![0; groups.len()],
        Scope::Layer => (0..groups.len()).collect(),
        Scope::Isomorphic => {
            let mut found: Vec<BTreeMap<(String, usize, usize), usize>> = Vec::new();
            let place_of = |group: &Group| {
                let own = structure(graph, group);
                found
                    .iter()
                    .position(|other| *other == own)
                    .unwrap_or_else(|| {
                        found.push(own);
                        found.len() - 1
                    })
            };
            groups.iter().map(place_of).collect()
        }
    }
}

/// What a group is made of: how many tensors it has at each input of each operator, by axis. Groups of
/// the same structure are alike enough to be compared (Fang et al., "Isomorphic Pruning for Vision
/// Models", ECCV 2024, section 3.2).
fn structure(graph: &Graph, group: &Group) -> BTreeMap<(String, usize, usize), usize> {
    let slices = group.units.iter().flat_map(|unit| &unit.slices);
    let tensors: BTreeSet<(&str, usize)> = slices
        .map(|slice| (slice.tensor.as_str(), slice.axis))
        .collect();
    let mut found = BTreeMap::new();
    for node in &graph.nodes {
        for (place, input) in node.input.iter().enumerate() {
            for &(_, axis) in tensors.iter().filter(|(tensor, _)| tensor == input) {
                let depthwise = node.int("group").unwrap_or(1) > 1;
                let operator = format!("{}{}", node.operator(), if depthwise { "*" } else { "" });
                *found.entry((operator, place, axis)).or_insert(0) += 1;
            }
        }
    }
    found
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

/// Steps of the share that is removed of several sets.
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
        let together = ranked_together(graph, couplings, params.scope);
        let sets = together.iter().max().map_or(0, |last| last + 1);
        let mut orders = vec![Vec::new(); sets];
        let mut by_group = Vec::new();
        let (mut limits, mut totals) = (Vec::new(), Vec::new());
        for (group, own) in scores.iter().enumerate() {
            let mut units: Vec<(usize, f64)> = own.iter().copied().enumerate().collect();
            units.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
            let able = units.iter().filter(|(_, score)| score.is_finite()).count();
            orders[together[group]].extend(units[..able].iter().map(|&(unit, _)| (group, unit)));
            let total = own.len() + couplings.groups[group].frozen;
            // Of what the group had before the first cut, not before this one.
            let before = before_all_cuts(graph, &couplings.groups[group], original, total);
            let most = (before as f64 * params.max_layer_sparsity).floor() as usize;
            let most = most.saturating_sub(before - total);
            limits.push(most.min(able).min(total - 1));
            totals.push(total);
            by_group.push(units);
        }
        for order in &mut orders {
            order.sort_by(|&(group_a, unit_a), &(group_b, unit_b)| {
                scores[group_a][unit_a]
                    .total_cmp(&scores[group_b][unit_b])
                    .then((group_a, unit_a).cmp(&(group_b, unit_b)))
            });
        }
        Self {
            by_axis: units_by_axis(graph, couplings, scores),
            orders,
            limits,
            totals,
            by_group,
            round_to,
        }
    }

    fn most(&self) -> usize {
        match self.orders.as_slice() {
            [all] => all.len(),
            _ => SHARES,
        }
    }

    /// How many units of each group go for an amount from 0 to [`Ranking::most`].
    fn counts(&self, amount: usize) -> Vec<usize> {
        let mut counts = vec![0; self.by_group.len()];
        let share = amount as f64 / self.most().max(1) as f64;
        for order in &self.orders {
            let going = (order.len() as f64 * share).round() as usize;
            for &(group, _) in &order[..going] {
                counts[group] += 1;
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
