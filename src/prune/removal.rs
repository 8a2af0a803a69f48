//! What can leave a graph, and the graph without it.

use std::collections::{BTreeMap, BTreeSet};

use super::calibration::Calibration;
use super::importance;
use super::{Exclusion, PruneError, blocked};
use crate::graph::blocks::Blocks;
use crate::graph::coupling::{Couplings, Group, NO_HEADS, Unit, gates, output_axis};
use crate::graph::{Cut, Family, Graph, family, feeds_for_batch, infer};
use crate::spec::prune::{Granularity, PruneParams, Scope};
use crate::spec::result::Blocked;

/// Units that can leave a graph, in groups.
pub struct Removal {
    /// Of blocks there is one group, whose units have no slices.
    pub groups: Vec<Group>,
    kind: Kind,
}

enum Kind {
    Channels(Couplings),
    Blocks(Blocks),
}

impl Removal {
    /// What the granularity `channel`, `head` or `block` can remove in a scope; nothing for others.
    pub fn find(
        graph: &Graph,
        granularity: Granularity,
        scope: Scope,
        exclusion: &Exclusion,
    ) -> Result<Self, PruneError> {
        let shapes = infer(graph, &feeds_for_batch(graph, 2)?)?;
        let excluded = |name: &str| exclusion.covers(name);
        if granularity == Granularity::Block {
            let found = Blocks::find(graph, &shapes, &excluded);
            let unit = Unit { slices: Vec::new() };
            let all = Group {
                name: "blocks".to_owned(),
                units: vec![unit; found.blocks.len()],
                frozen: 0,
                heads: false,
                inside: false,
            };
            return Ok(Self {
                groups: Vec::from_iter((!found.blocks.is_empty()).then_some(all)),
                kind: Kind::Blocks(found),
            });
        }
        let couplings = Couplings::find(graph, &shapes, &excluded);
        let couplings = match (granularity, scope) {
            (Granularity::Head, _) => couplings.heads_alone(),
            // The same share of every layer: of its heads, and not of what is left of them once more.
            (_, Scope::Layer) => couplings.whole_heads(),
            _ => couplings,
        };
        Ok(Self {
            groups: couplings.groups.clone(),
            kind: Kind::Channels(couplings),
        })
    }

    /// All units of all groups.
    pub fn unit_count(&self) -> usize {
        self.groups.iter().map(|group| group.units.len()).sum()
    }

    /// The graph without these `(group, unit)` pairs, and the cut where they are channels.
    pub fn without(
        &self,
        graph: &Graph,
        units: &BTreeSet<(usize, usize)>,
    ) -> Result<(Graph, Option<Cut>), PruneError> {
        Ok(match &self.kind {
            Kind::Channels(couplings) => {
                let cut = Cut::new(couplings, units);
                (cut.apply(graph)?, Some(cut))
            }
            Kind::Blocks(blocks) => {
                let gone = units.iter().map(|&(_, block)| block).collect();
                (blocks.without(graph, &gone)?, None)
            }
        })
    }

    /// Importance of every unit, by group; infinite for one that stays, because the criterion can't tell
    /// or the request keeps it.
    pub fn scores(
        &self,
        graph: &Graph,
        params: &PruneParams,
        calibration: Option<&dyn Calibration>,
        seed: u64,
    ) -> Result<Vec<Vec<f64>>, PruneError> {
        if self.groups.is_empty() {
            return Ok(Vec::new());
        }
        if let Kind::Blocks(blocks) = &self.kind {
            let scores = importance::of_blocks(graph, blocks, params, calibration, seed)?;
            return Ok(vec![scores]);
        }
        let mut scores = importance::of_units(graph, &self.groups, params, calibration, seed)?;
        for (group, unit) in self.kept(graph, &params.keep)? {
            scores[group][unit] = f64::INFINITY;
        }
        Ok(scores)
    }

    /// The units that hold the named output channels of the nodes that a pattern matches.
    fn kept(
        &self,
        graph: &Graph,
        keep: &BTreeMap<String, Vec<usize>>,
    ) -> Result<Vec<(usize, usize)>, PruneError> {
        let mut kept = Vec::new();
        for (pattern, channels) in keep {
            let matcher = Exclusion::new(std::slice::from_ref(pattern));
            let mut matched = false;
            for (kernel, node) in graph.kernels() {
                if !matcher.covers(graph.nodes[node].label()) {
                    continue;
                }
                matched = true;
                let dims = &graph.initializers[kernel].dims;
                let axis = output_axis(&graph.nodes[node], kernel, dims.len());
                let all = dims[axis] / gates(&graph.nodes[node]);
                if let Some(&channel) = channels.iter().find(|&&channel| channel >= all) {
                    return Err(PruneError::KeptOutside {
                        node: graph.nodes[node].label().to_owned(),
                        channel,
                        channels: all,
                    });
                }
                for (group, own) in self.groups.iter().enumerate() {
                    for (unit, own) in own.units.iter().enumerate() {
                        let holds = own.slices.iter().any(|slice| {
                            slice.tensor == kernel
                                && slice.axis == axis
                                && slice.indices.iter().any(|index| channels.contains(index))
                        });
                        if holds {
                            kept.push((group, unit));
                        }
                    }
                }
            }
            if !matched {
                return Err(PruneError::UnmatchedKeep(pattern.clone()));
            }
        }
        Ok(kept)
    }

    /// What can't go, in words, in the order of the graph.
    pub fn blocked(&self, graph: &Graph) -> Vec<Blocked> {
        match &self.kind {
            Kind::Channels(couplings) => blocked(graph, &couplings.blocked),
            Kind::Blocks(blocks) => blocked(graph, &blocks.blocked),
        }
    }

    /// The nodes whose outputs the units of a group are; of blocks, the sum that ends each.
    pub fn nodes(&self, group: usize) -> Vec<usize> {
        match &self.kind {
            Kind::Channels(couplings) => {
                let own = couplings.groups_of_node.iter();
                own.filter(|(_, of)| of.contains(&group))
                    .map(|(&node, _)| node)
                    .collect()
            }
            Kind::Blocks(blocks) => blocks.blocks.iter().map(|block| block.add).collect(),
        }
    }

    /// Their names.
    pub fn members(&self, graph: &Graph, group: usize) -> Vec<String> {
        let label = |node: usize| graph.nodes[node].label().to_owned();
        self.nodes(group).into_iter().map(label).collect()
    }

    /// For each axis that units alone make up, the units that take each of its indices away.
    pub fn made_of_units(&self) -> Vec<Vec<Vec<(usize, usize)>>> {
        match &self.kind {
            Kind::Channels(couplings) => couplings.made_of_units(),
            Kind::Blocks(_) => Vec::new(),
        }
    }

    /// The error that there is nothing to remove, with the reasons.
    pub fn nothing(&self, graph: &Graph) -> PruneError {
        let blocked = match &self.kind {
            Kind::Channels(couplings) => &couplings.blocked,
            Kind::Blocks(blocks) => &blocks.blocked,
        };
        if blocked.values().any(|why| why == NO_HEADS) {
            let whole = graph
                .nodes
                .iter()
                .find(|node| family(node) == Some(Family::Attention));
            let detail = match whole {
                None => {
                    "the model has no attention heads; its channels go by the granularity `channel`"
                        .to_owned()
                }
                Some(node) => format!(
                    "the heads of `{}` ({}) can't be told apart, since the whole attention is one node; export it for operator set 20 or \
                     below, which writes it out",
                    node.label(),
                    node.operator()
                ),
            };
            return PruneError::NothingPrunable(detail);
        }
        let why =
            |(&node, why): (&usize, &String)| format!("`{}` {why}", graph.nodes[node].label());
        let mut reasons: BTreeSet<String> = blocked.iter().map(why).collect();
        if reasons.is_empty() {
            reasons.insert(
                match self.kind {
                    Kind::Channels(_) => "no kernel of a convolution or matrix product is a weight",
                    Kind::Blocks(_) => {
                        "no sum adds something that weights compute from a value to that value"
                    }
                }
                .to_owned(),
            );
        }
        let reasons: Vec<String> = reasons.into_iter().take(5).collect();
        PruneError::NothingPrunable(reasons.join("; "))
    }
}
