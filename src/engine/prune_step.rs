//! Pruning as stages of a job: cut, recalibrate, fine-tune, as often as the schedule says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::child::Ended;
use super::job::Job;
use crate::graph::coupling::Couplings;
use crate::graph::{Graph, cost_of_one, feeds_for_batch, infer, layers};
use crate::prune::channel::{Original, choose, reached};
use crate::prune::schedule::{share, target_at};
use crate::prune::{Exclusion, PruneError, asked, blocked, weight};
use crate::spec::child::Level;
use crate::spec::model::LayerInfo;
use crate::spec::prune::{Granularity, PruneParams, Target};
use crate::spec::result::{Blocked, LayerChange, PlanCost, PruneOutcome, PrunePlan};
use crate::train::recalibrate;

/// What the graph was when the pruning began.
#[derive(Serialize, Deserialize)]
struct Start {
    parameters: u64,
    macs: Option<u64>,
    units: usize,
    /// Shapes of the weights, which max_layer_sparsity refers to.
    weights: BTreeMap<String, Vec<usize>>,
    layers: Vec<LayerInfo>,
    blocked: Vec<Blocked>,
}

impl Start {
    fn of(graph: &Graph, params: &PruneParams, exclusion: &Exclusion) -> Result<Self, PruneError> {
        if let Some(pattern) = Exclusion::unmatched(&params.exclude, graph) {
            return Err(PruneError::UnmatchedExclusion(pattern.to_owned()));
        }
        let couplings = find(graph, exclusion)?;
        let cost = cost_of_one(graph);
        Ok(Self {
            parameters: cost.parameters,
            macs: cost.macs,
            units: couplings.unit_count(),
            weights: graph
                .initializers
                .iter()
                .filter(|(_, tensor)| tensor.floats().is_some())
                .map(|(name, tensor)| (name.clone(), tensor.dims.clone()))
                .collect(),
            layers: layers(graph),
            blocked: blocked(graph, &couplings),
        })
    }

    fn original(&self) -> Original {
        Original {
            cost: crate::graph::Cost {
                parameters: self.parameters,
                macs: self.macs,
                ..crate::graph::Cost::default()
            },
            units: self.units,
            weights: self.weights.clone(),
        }
    }
}

fn find(graph: &Graph, exclusion: &Exclusion) -> Result<Couplings, PruneError> {
    let shapes = infer(graph, &feeds_for_batch(graph, 2)?)?;
    Ok(Couplings::find(graph, &shapes, &|name| {
        exclusion.covers(name)
    }))
}

/// What one cut has reached.
#[derive(Default, Serialize, Deserialize)]
struct Found {
    /// By target name.
    reached: BTreeMap<String, f64>,
    round_to: Option<u32>,
}

/// One cut: the new graph and what it has reached.
fn cut(
    graph: &Graph,
    params: &PruneParams,
    target: &Target,
    exclusion: &Exclusion,
    original: &Original,
    seed: u64,
) -> Result<(Graph, Found), PruneError> {
    if params.granularity == Granularity::Weight {
        let mut pruned = graph.clone();
        let sparsity = target.sparsity.unwrap_or_default();
        let reached = weight::sparsify(&mut pruned, exclusion, params, sparsity, seed)?;
        let found = Found {
            reached: BTreeMap::from([("sparsity".to_owned(), reached)]),
            round_to: None,
        };
        return Ok((pruned, found));
    }
    let couplings = find(graph, exclusion)?;
    let chosen = choose(graph, &couplings, params, target, original, seed)?;
    let found = Found {
        reached: target
            .given()
            .into_iter()
            .map(|(name, _)| (name.to_owned(), reached(name, &chosen, original)))
            .collect(),
        round_to: Some(chosen.round_to as u32),
    };
    Ok((chosen.graph, found))
}

impl Job<'_> {
    /// Prunes `graph` in the stages `key/…`.
    pub(super) fn prune(
        &mut self,
        key: &str,
        graph: Graph,
        params: &PruneParams,
    ) -> Result<(Graph, PruneOutcome), Ended> {
        let exclusion = Exclusion::new(&params.exclude);
        if params.granularity == Granularity::Weight {
            self.sparse.push(Exclusion::new(&params.exclude));
        }
        let key_of = |what: &str| format!("{key}/{what}");
        let (mut graph, start) = match self.journal.recall::<Start>(&key_of("start")) {
            Some((kept, start)) => (self.pinned(kept, graph), start),
            None => {
                let start = Start::of(&graph, params, &exclusion)?;
                self.journal.record(&key_of("start"), &start, &graph)?;
                (graph, start)
            }
        };
        let original = start.original();
        let steps = params.schedule.steps;
        let mut found = Found::default();
        for step in 1..=steps {
            let stage = key_of(&format!("{step}/cut"));
            match self.journal.recall(&stage) {
                Some((kept, value)) => {
                    graph = self.pinned(kept, graph);
                    found = value;
                }
                None => {
                    self.phase("prune");
                    let target = target_at(&params.target, share(&params.schedule, step));
                    let seed = self.seed.wrapping_add(u64::from(step));
                    let (pruned, value) =
                        cut(&graph, params, &target, &exclusion, &original, seed)?;
                    found = value;
                    graph = pruned;
                    if let Some(data) = &self.data {
                        self.phase("recalibrate");
                        recalibrate(&mut graph, &self.device, data)?;
                    }
                    self.voice.event(
                        Level::Info,
                        "pruned",
                        format!("cut {step} of {steps}: {}", in_words(&found.reached)),
                        serde_json::json!(found),
                    );
                    self.journal.record(&stage, &found, &graph)?;
                    self.check_drain()?;
                }
            }
            if let Some(finetune) = &params.finetune {
                let mut part = finetune.clone();
                part.epochs = finetune.epochs / steps;
                // What does not divide evenly goes to the end, where most is to be repaired.
                if step == steps {
                    part.epochs += finetune.epochs % steps;
                }
                let stage = key_of(&format!("{step}/finetune"));
                graph = self.train(&stage, "finetune", graph, &part)?;
            }
        }
        let stage = key_of("outcome");
        let (graph, outcome) = match self.journal.recall(&stage) {
            Some((kept, outcome)) => (self.pinned(kept, graph), outcome),
            None => {
                let outcome = outcome(&start, &graph, params, found);
                self.journal.record(&stage, &outcome, &graph)?;
                (graph, outcome)
            }
        };
        Ok((graph, outcome))
    }
}

/// What a pruning would do, without training.
pub(super) fn plan(graph: &Graph, params: &PruneParams, seed: u64) -> Result<PrunePlan, Ended> {
    let exclusion = Exclusion::new(&params.exclude);
    let start = Start::of(graph, params, &exclusion)?;
    let (pruned, found) = cut(
        graph,
        params,
        &params.target,
        &exclusion,
        &start.original(),
        seed.wrapping_add(1),
    )?;
    let price = |graph: &Graph| {
        let cost = cost_of_one(graph);
        PlanCost {
            parameters: cost.parameters,
            nonzero_parameters: cost.nonzero_parameters,
            macs: cost.macs,
        }
    };
    Ok(PrunePlan {
        before: price(graph),
        after: price(&pruned),
        outcome: outcome(&start, &pruned, params, found),
    })
}

fn outcome(start: &Start, graph: &Graph, params: &PruneParams, found: Found) -> PruneOutcome {
    let after: BTreeMap<String, LayerInfo> = layers(graph)
        .into_iter()
        .map(|layer| (layer.name.clone(), layer))
        .collect();
    let layers = start
        .layers
        .iter()
        .map(|before| {
            let now = after.get(&before.name);
            LayerChange {
                name: before.name.clone(),
                operator: before.operator.clone(),
                group: before.group.clone(),
                parameters_before: before.parameters,
                parameters_after: now.map_or(0, |layer| layer.parameters),
                nonzero_parameters_after: now.map_or(0, |layer| layer.nonzero_parameters),
                macs_before: before.macs,
                macs_after: now.map_or(0, |layer| layer.macs),
            }
        })
        .collect();
    PruneOutcome {
        asked: asked(&params.target),
        reached: found.reached,
        round_to: found.round_to,
        layers,
        blocked: match params.granularity {
            Granularity::Channel => start.blocked.clone(),
            _ => Vec::new(),
        },
    }
}

fn in_words(found: &BTreeMap<String, f64>) -> String {
    let words: Vec<String> = found
        .iter()
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    words.join(", ")
}
