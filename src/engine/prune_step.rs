//! Pruning as stages of a job: cut, recalibrate, fine-tune, as often as the schedule says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::child::Ended;
use super::job::Job;
use crate::data::{Prepared, Role};
use crate::exec::Device;
use crate::graph::coupling::Couplings;
use crate::graph::{Cut, Graph, cost_of_one, feeds_for_batch, infer, layers};
use crate::prune::calibration::Calibration;
use crate::prune::channel::{Original, choose, reached};
use crate::prune::importance::of_units;
use crate::prune::schedule::{share, target_at};
use crate::prune::{Exclusion, PruneError, asked, blocked, reconstruct, weight};
use crate::spec::child::Level;
use crate::spec::evaluate::MetricName;
use crate::spec::model::LayerInfo;
use crate::spec::prune::{Granularity, PruneParams, Target};
use crate::spec::result::{
    Blocked, LayerChange, PlanCost, PruneGroup, PruneOutcome, PrunePlan, PruneStage, StageName,
};
use crate::train::{Calibrator, Evaluator, Loss, recalibrate};

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

/// A cut that is made.
struct Made {
    graph: Graph,
    found: Found,
    /// Of channels.
    cut: Option<Cut>,
    groups: Vec<PruneGroup>,
}

/// What a cut looks at.
struct Cutting<'a> {
    params: &'a PruneParams,
    exclusion: &'a Exclusion,
    original: &'a Original,
    calibration: Option<&'a dyn Calibration>,
}

impl Cutting<'_> {
    fn cut(&self, graph: &Graph, target: &Target, seed: u64) -> Result<Made, PruneError> {
        let Cutting {
            params,
            exclusion,
            original,
            calibration,
        } = *self;
        if params.granularity != Granularity::Channel {
            let mut pruned = graph.clone();
            let reached = match params.granularity {
                Granularity::NM => {
                    weight::keep_n_of_m(&mut pruned, exclusion, params, calibration, seed)?
                }
                _ => {
                    let sparsity = target.sparsity.unwrap_or_default();
                    weight::sparsify(&mut pruned, exclusion, params, sparsity, calibration, seed)?
                }
            };
            return Ok(Made {
                graph: pruned,
                found: Found {
                    reached: BTreeMap::from([("sparsity".to_owned(), reached)]),
                    round_to: None,
                },
                cut: None,
                groups: Vec::new(),
            });
        }
        let couplings = find(graph, exclusion)?;
        let scores = of_units(graph, &couplings, params, calibration, seed)?;
        let chosen = choose(graph, &couplings, &scores, params, target, original)?;
        let found = Found {
            reached: target
                .given()
                .into_iter()
                .map(|(name, _)| (name.to_owned(), reached(name, &chosen, original)))
                .collect(),
            round_to: Some(chosen.round_to as u32),
        };
        let groups = couplings.groups.iter().zip(scores).enumerate();
        let groups = groups
            .map(|(index, (group, scores))| PruneGroup {
                name: group.name.clone(),
                layers: couplings
                    .group_of_node
                    .iter()
                    .filter(|(_, group)| **group == index)
                    .map(|(&node, _)| graph.nodes[node].label().to_owned())
                    .collect(),
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
        Ok(Made {
            graph: chosen.graph,
            found,
            cut: Some(chosen.cut),
            groups,
        })
    }
}

/// The examples that a pruning looks at.
fn calibrator<'a>(device: &'a Device, data: &'a Prepared, params: &PruneParams) -> Calibrator<'a> {
    Calibrator {
        device,
        data,
        loss: Loss::of_task(data.about.task),
        examples: params.calibration.examples as usize,
    }
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
        if params.granularity != Granularity::Channel {
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
        let mut stages: Vec<PruneStage> = Vec::new();
        for step in 1..=steps {
            let stage = key_of(&format!("{step}/cut"));
            match self.journal.recall(&stage) {
                Some((kept, (value, measured))) => {
                    graph = self.pinned(kept, graph);
                    found = value;
                    stages = measured;
                }
                None => {
                    self.phase("prune");
                    let target = target_at(&params.target, share(&params.schedule, step));
                    let seed = self.seed.wrapping_add(u64::from(step));
                    let data = self.data.as_ref();
                    let calibrator = data.map(|data| calibrator(&self.device, data, params));
                    let calibration = calibrator.as_ref().map(|c| c as &dyn Calibration);
                    let cutting = Cutting {
                        params,
                        exclusion: &exclusion,
                        original: &original,
                        calibration,
                    };
                    let made = cutting.cut(&graph, &target, seed)?;
                    let before = std::mem::replace(&mut graph, made.graph);
                    found = made.found;
                    self.voice.event(
                        Level::Info,
                        "pruned",
                        format!("cut {step} of {steps}: {}", in_words(&found.reached)),
                        serde_json::json!(found),
                    );
                    stages.extend(self.stage(step, StageName::Cut, &graph)?);
                    if let (Some(calibration), Some(cut), true) =
                        (calibration, &made.cut, params.recovery.reconstruct)
                    {
                        self.phase("reconstruct");
                        let skipped =
                            reconstruct(&before, &mut graph, cut, &exclusion, calibration)?;
                        if !skipped.is_empty() {
                            self.voice.info(
                                "not_reconstructed",
                                format!("too large for least squares: {}", skipped.join(", ")),
                            );
                        }
                    } else if let (Some(data), true) = (data, params.recovery.recalibrate) {
                        self.phase("recalibrate");
                        recalibrate(&mut graph, &self.device, data)?;
                    }
                    stages.extend(self.stage(step, StageName::Recovered, &graph)?);
                    self.journal.record(&stage, &(&found, &stages), &graph)?;
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
                stages.extend(self.stage(step, StageName::Finetuned, &graph)?);
            }
        }
        let stage = key_of("outcome");
        let (graph, outcome) = match self.journal.recall(&stage) {
            Some((kept, outcome)) => (self.pinned(kept, graph), outcome),
            None => {
                let outcome = PruneOutcome {
                    stages,
                    ..outcome(&start, &graph, params, found)
                };
                self.journal.record(&stage, &outcome, &graph)?;
                (graph, outcome)
            }
        };
        Ok((graph, outcome))
    }
}

impl Job<'_> {
    /// The metrics of the validation split at a stage of a pruning; none without one.
    fn stage(
        &self,
        step: u32,
        stage: StageName,
        graph: &Graph,
    ) -> Result<Option<PruneStage>, Ended> {
        let Some(data) = &self.data else {
            return Ok(None);
        };
        if data.count(Role::Validation) == 0 {
            return Ok(None);
        }
        let task = data.about.task;
        let evaluator = Evaluator::new(graph, &self.device, Loss::of_task(task));
        let measured = evaluator.measure_graph(data, Role::Validation)?;
        let metrics = MetricName::defaults(task)
            .into_iter()
            .map(|name| (name.as_str().to_owned(), measured.metric(name, task)))
            // JSON has no word for others.
            .filter(|(_, value)| value.is_finite())
            .collect();
        Ok(Some(PruneStage {
            step,
            stage,
            metrics,
        }))
    }
}

/// What a pruning would do, without training.
pub(super) fn plan(
    graph: &Graph,
    params: &PruneParams,
    data: Option<&Prepared>,
    device: &Device,
    seed: u64,
) -> Result<PrunePlan, Ended> {
    let exclusion = Exclusion::new(&params.exclude);
    let start = Start::of(graph, params, &exclusion)?;
    let calibrator = data.map(|data| calibrator(device, data, params));
    let made = Cutting {
        params,
        exclusion: &exclusion,
        original: &start.original(),
        calibration: calibrator.as_ref().map(|c| c as &dyn Calibration),
    }
    .cut(graph, &params.target, seed.wrapping_add(1))?;
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
        after: price(&made.graph),
        outcome: outcome(&start, &made.graph, params, made.found),
        groups: made.groups,
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
        stages: Vec::new(),
    }
}

fn in_words(found: &BTreeMap<String, f64>) -> String {
    let words: Vec<String> = found
        .iter()
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    words.join(", ")
}
