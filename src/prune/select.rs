//! Which units go so that a target is met.

use std::collections::{BTreeMap, BTreeSet};

use super::PruneError;
use super::removal::Removal;
use crate::graph::coupling::Group;
use crate::graph::{Cost, Cut, Graph, cost_of_one};
use crate::spec::prune::{Criterion, Granularity, PruneParams, Scope, Target, word};
use crate::spec::tokens::TOKENIZER_PROPERTY;

/// Multiples that are tried for kept channel counts when the request names none. ONNX Runtime
/// blocks the channels of a convolution by 16 with AVX-512 and by 8 with AVX2 and NEON.
const MULTIPLES: [usize; 5] = [16, 8, 4, 2, 1];

/// How far past the target a multiple may land, as a share of the way to the target.
const OVERSHOOT: f64 = 0.15;

/// A choice of units, with the graph that it leaves.
pub struct Chosen {
    pub graph: Graph,
    /// Of channels.
    pub cut: Option<Cut>,
    /// `(group, unit)` of all that went.
    pub units: BTreeSet<(usize, usize)>,
    /// By target name: what the graph has of it.
    pub reached: BTreeMap<String, f64>,
    /// The multiple that kept counts were rounded to.
    pub round_to: usize,
}

/// The state of a pruning before its first cut, which targets are relative to.
pub struct Original<'a> {
    pub cost: Cost,
    pub units: usize,
    /// Of the file.
    pub bytes: usize,
    /// Shapes of the weights by name.
    pub weights: BTreeMap<String, Vec<usize>>,
    /// Measures the time of a run of a graph, after ÷ before.
    pub latency: &'a dyn Fn(&Graph) -> Result<f64, PruneError>,
}

impl Original<'_> {
    /// What `graph` has of a target, where `left` units are left and `gone` of them go.
    fn reached(
        &self,
        target: &str,
        graph: &Graph,
        (left, gone): (usize, usize),
    ) -> Result<f64, PruneError> {
        let ratio = |after: u64, before: u64| after as f64 / before.max(1) as f64;
        Ok(match target {
            "channel_sparsity" => {
                let gone_before = self.units.saturating_sub(left);
                (gone_before + gone) as f64 / self.units.max(1) as f64
            }
            "parameters_ratio" => ratio(cost_of_one(graph).parameters, self.cost.parameters),
            "size_ratio" => ratio(graph.to_bytes().len() as u64, self.bytes as u64),
            "latency_ratio" => (self.latency)(graph)?,
            _ => ratio(
                cost_of_one(graph).macs.unwrap_or(0),
                self.cost.macs.unwrap_or(0),
            ),
        })
    }
}

/// Chooses the units of `graph` with the least `scores`, by group and unit, whose removal meets every
/// target. Units whose score is infinite stay.
///
/// The choice is searched over the real cost of the graph without the units, not estimated: the
/// share of the units that go, the same of every set of groups that are ranked together, is halved
/// in on, and then every group gets back what the targets do not need, the most important group first
/// (not with scope `layer`, nor where each trial is a measurement of time).
pub fn choose(
    graph: &Graph,
    removal: &Removal,
    scores: &[Vec<f64>],
    params: &PruneParams,
    target: &Target,
    original: &Original,
) -> Result<Chosen, PruneError> {
    if removal.groups.is_empty() {
        return Err(removal.nothing(graph));
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
        removal,
        target,
        original,
        ranking: Ranking::new(graph, removal, scores, params, original, round_to),
        params,
    };
    match (params.round_to, params.granularity) {
        (Some(round_to), _) => return search(round_to as usize).run(),
        (None, Granularity::Channel) => {}
        // Multiples of heads or blocks mean nothing to a runtime.
        _ => return search(1).run(),
    }
    let mut last = None;
    for round_to in MULTIPLES {
        match search(round_to).run() {
            Ok(chosen) if round_to == 1 || lands_near(target, &chosen) => {
                return Ok(chosen);
            }
            outcome => last = Some(outcome),
        }
    }
    last.expect("the list of multiples is not empty")
}

fn lands_near(target: &Target, chosen: &Chosen) -> bool {
    // The target that binds is the one that is met most closely.
    target.given().into_iter().any(|(name, asked)| {
        let found = chosen.reached[name];
        match name {
            "channel_sparsity" => found - asked <= OVERSHOOT * asked,
            _ => asked - found <= OVERSHOOT * (1.0 - asked),
        }
    })
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
    removal: &'a Removal,
    params: &'a PruneParams,
    target: &'a Target,
    original: &'a Original<'a>,
    ranking: Ranking,
}

impl Search<'_> {
    fn run(&self) -> Result<Chosen, PruneError> {
        let (mut low, mut high) = (0, self.ranking.most());
        let mut counts = self.ranking.counts(high);
        let mut best = self.evaluate(&counts)?;
        for (name, asked) in self.target.given() {
            let nearest = best.reached[name];
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
        if self.params.scope != Scope::Layer && self.target.latency_ratio.is_none() {
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
        let (graph, cut) = self.removal.without(self.graph, &units)?;
        let mut reached = BTreeMap::new();
        for (name, _) in self.target.given() {
            let counts = (self.removal.unit_count(), units.len());
            let value = self.original.reached(name, &graph, counts)?;
            reached.insert(name.to_owned(), value);
        }
        Ok(Chosen {
            graph,
            cut,
            reached,
            round_to: self.ranking.round_to,
            units,
        })
    }

    fn met(&self, chosen: &Chosen) -> bool {
        self.target
            .given()
            .iter()
            .all(|(name, asked)| meets(name, chosen.reached[*name], *asked))
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
        let blocked = self.removal.blocked(self.graph);
        if !blocked.is_empty() {
            let named: Vec<String> = blocked
                .iter()
                .take(3)
                .map(|blocked| format!("`{}` {}", blocked.layer, blocked.reason))
                .collect();
            let more = match blocked.len() {
                0..=3 => String::new(),
                all => format!(" and {} more", all - 3),
            };
            hints.push(format!("what stays: {}{more}", named.join(", ")));
        }
        let tokenizer = self.graph.property(TOKENIZER_PROPERTY).map_or(0, str::len);
        if self.target.size_ratio.is_some() && tokenizer > 0 {
            hints.push(format!(
                "{tokenizer} bytes of the file are the tokenizer that it came with"
            ));
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
    /// Units that may not all go, since an axis of a weight is made up of them; the most important first.
    by_axis: Vec<Vec<(usize, usize)>>,
    round_to: usize,
}

/// For each group, the number of the set that it is ranked in.
fn ranked_together(graph: &Graph, groups: &[Group], scope: Scope) -> Vec<usize> {
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
    if group.inside {
        found.insert(("inside of heads".to_owned(), 0, 0), 1);
    }
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
    if slice.is_none() {
        return original.units;
    }
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

/// For each axis that units alone make up: units that may not all go, the most important first. An index that
/// several groups have (heads and their dimensions) goes with the unit of any of them, so there is a list for each
/// choice of groups that have all indices between them.
pub(crate) fn units_by_axis(removal: &Removal, scores: &[Vec<f64>]) -> Vec<Vec<(usize, usize)>> {
    /// Choices that are looked at, at most.
    const MOST: usize = 16;
    let mut lists = BTreeSet::new();
    for units in removal.made_of_units() {
        // The groups of each index, and every way to take one of each.
        let of = |units: &Vec<(usize, usize)>| units.iter().map(|(group, _)| *group).collect();
        let kinds: BTreeSet<BTreeSet<usize>> = units.iter().map(of).collect();
        let mut choices: BTreeSet<BTreeSet<usize>> = BTreeSet::from([BTreeSet::new()]);
        for kind in &kinds {
            let with = |chosen: &BTreeSet<usize>| {
                let chosen = chosen.clone();
                kind.iter().map(move |&group| {
                    let mut chosen = chosen.clone();
                    chosen.insert(group);
                    chosen
                })
            };
            choices = choices.iter().flat_map(with).take(MOST).collect();
        }
        for choice in choices {
            let own: BTreeSet<(usize, usize)> = units
                .iter()
                .flatten()
                .filter(|(group, _)| choice.contains(group))
                .copied()
                .collect();
            let mut own: Vec<(usize, usize)> = own.into_iter().collect();
            own.sort_by(|&(ga, ua), &(gb, ub)| {
                scores[gb][ub]
                    .total_cmp(&scores[ga][ua])
                    .then((ga, ua).cmp(&(gb, ub)))
            });
            if !own.is_empty() {
                lists.insert(own);
            }
        }
    }
    lists.into_iter().collect()
}

/// Takes the best unit of each axis that would lose all of its own out of those that go: a branch of a Concat keeps its best
/// channel even where the group could spare it.
pub(crate) fn spare(by_axis: &[Vec<(usize, usize)>], units: &mut BTreeSet<(usize, usize)>) {
    for axis in by_axis {
        if axis.iter().all(|unit| units.contains(unit)) {
            units.remove(&axis[0]);
        }
    }
}

/// Steps of the share that is removed of several sets.
const SHARES: usize = 4096;

impl Ranking {
    fn new(
        graph: &Graph,
        removal: &Removal,
        scores: &[Vec<f64>],
        params: &PruneParams,
        original: &Original,
        round_to: usize,
    ) -> Self {
        let groups = &removal.groups;
        let together = ranked_together(graph, groups, params.scope);
        let sets = together.iter().max().map_or(0, |last| last + 1);
        let mut orders = vec![Vec::new(); sets];
        let mut by_group = Vec::new();
        let (mut limits, mut totals) = (Vec::new(), Vec::new());
        for (group, own) in scores.iter().enumerate() {
            let mut units: Vec<(usize, f64)> = own.iter().copied().enumerate().collect();
            units.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
            let able = units.iter().filter(|(_, score)| score.is_finite()).count();
            orders[together[group]].extend(units[..able].iter().map(|&(unit, _)| (group, unit)));
            let total = own.len() + groups[group].frozen;
            // Of what the group had before the first cut, not before this one.
            let before = before_all_cuts(graph, &groups[group], original, total);
            let most = before as f64 * params.max_layer_sparsity;
            // A layer needs a channel; without all of its blocks a model still computes something.
            let (most, stays) = match params.granularity {
                Granularity::Block => ((most - 1e-9).ceil(), 0),
                _ => (most.floor(), 1),
            };
            let most = (most as usize).saturating_sub(before - total);
            limits.push(most.min(able).min(total - stays));
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
            by_axis: units_by_axis(removal, scores),
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
        spare(&self.by_axis, &mut units);
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
