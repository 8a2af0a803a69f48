//! Pruning as stages of a job: cut, recover, fine-tune, as often as the schedule says.

mod cutting;
mod rewind;
mod sensitivity;
mod within;

use std::collections::BTreeMap;

use super::child::Ended;
use super::distill_step::{Lesson, settle};
use super::job::Job;
use super::plan::price;
use super::problem::no_data;
use super::train_step::Purpose;
use crate::data::{Prepared, Role};
use crate::distill::Teacher;
use crate::exec::Device;
use crate::graph::{Cut, Graph, layers};
use crate::prune::calibration::Calibration;
use crate::prune::schedule::{share, target_at};
use crate::prune::{Change, Exclusion, PruneError, asked, reconstruct, slimming};
use crate::spec::child::Level;
use crate::spec::distill::Average;
use crate::spec::evaluate::MetricName;
use crate::spec::job::Task;
use crate::spec::model::LayerInfo;
use crate::spec::prune::{PruneParams, Slimming, Storage};
use crate::spec::result::{
    LayerChange, PruneOutcome, PrunePlan, PruneStage, Sensitivity, StageName,
};
use crate::spec::train::TrainParams;
use crate::train::{Calibrator, Evaluator, Loss, measure_latencies, recalibrate};
use cutting::{Cutting, Found, Made, Start};

/// The examples that a pruning looks at.
fn calibrator<'a>(device: &'a Device, data: &'a Prepared, params: &PruneParams) -> Calibrator<'a> {
    Calibrator {
        device,
        data,
        loss: Loss::of_task(data.about.task),
        examples: params.calibration.examples as usize,
    }
}

/// Measures latencies beside that of `original`, after ÷ before.
fn latency_beside<'a>(
    original: &'a Graph,
    device: &'a Device,
    data: Option<&'a Prepared>,
) -> impl Fn(&Graph) -> Result<f64, PruneError> + 'a {
    move |graph| {
        let found = measure_latencies(&[(original, data), (graph, data)], device)?;
        Ok(found[1].p50 / found[0].p50.max(f64::MIN_POSITIVE))
    }
}

impl Job<'_> {
    /// Prunes `graph` in the stages `key/…`.
    pub(super) fn prune(
        &mut self,
        key: &str,
        mut graph: Graph,
        params: &PruneParams,
    ) -> Result<(Graph, PruneOutcome), Ended> {
        graph.settle_weights();
        graph.sparse_storage |= params.storage == Storage::Sparse;
        if params.schedule.rewind.is_some() {
            graph = self.train_dense(key, graph, params)?;
        }
        if let (Some(slimming), Some(finetune)) = (params.slimming, &params.finetune) {
            graph = self.slimmed(key, graph, slimming, finetune)?;
        }
        if params.granularity.has_zeros() {
            self.sparse.push(Exclusion::new(&params.exclude));
        }
        let pruned = match params.target.allowed() {
            Some(allowed) => self.prune_within(key, graph, params, allowed),
            None => self.prune_to(key, graph, params, None),
        }?;
        self.journal.forget(&rewind::point(key));
        Ok(pruned)
    }

    /// Trains the model that is to be pruned so that scales of batch normalisation become small.
    fn slimmed(
        &mut self,
        key: &str,
        graph: Graph,
        slimming: Slimming,
        finetune: &TrainParams,
    ) -> Result<Graph, Ended> {
        let finetune = TrainParams {
            epochs: slimming.epochs,
            ..finetune.clone()
        };
        let task = self.data.as_ref().map(|data| data.about.task);
        let task = task.unwrap_or(Task::Classification);
        let objective = slimming::Slimming {
            loss: Loss::of_training(&finetune, task, finetune.label_smoothing),
            strength: slimming.strength as f32,
            scales: graph.scales().into_iter().map(str::to_owned).collect(),
        };
        let purpose = Purpose {
            objective: Some(&objective),
            ..Purpose::default()
        };
        self.train_past(
            &format!("{key}/slimming"),
            "slimming",
            graph,
            &finetune,
            purpose,
        )
    }

    /// Prunes `graph` to the targets that are met by the graph itself. Under the name `recovered` the journal keeps what the
    /// last fine-tuning begins with.
    fn prune_to(
        &mut self,
        key: &str,
        graph: Graph,
        params: &PruneParams,
        recovered: Option<&str>,
    ) -> Result<(Graph, PruneOutcome), Ended> {
        let exclusion = Exclusion::new(&params.exclude);
        let key_of = |what: &str| format!("{key}/{what}");
        let (unpruned, rewound) = (key_of("unpruned"), key_of("rewound"));
        let timed = params.target.latency_ratio.is_some();
        let (mut graph, start) = match self.journal.recall::<Start>(&key_of("start")) {
            Some((kept, start)) => (self.pinned(kept, graph), start),
            None => {
                let start = Start::of(&graph, params, &exclusion, self.file_bytes)?;
                if timed || !params.distill.is_empty() {
                    self.journal.keep(&unpruned, &graph);
                }
                self.journal.record(&key_of("start"), &start, &graph)?;
                (graph, start)
            }
        };
        let steps = params.schedule.steps;
        let mut found = Found::default();
        let mut stages: Vec<PruneStage> = Vec::new();
        let mut sensitivity = Vec::new();
        for step in 1..=steps {
            let stage = key_of(&format!("{step}/cut"));
            match self.journal.recall(&stage) {
                Some((kept, value)) => {
                    graph = self.pinned(kept, graph);
                    (found, stages, sensitivity) = value;
                }
                None => {
                    self.phase("prune");
                    let reference = self.journal.kept(&unpruned).filter(|_| timed);
                    let reference = reference.map(|kept| self.pinned(Some(kept), graph.clone()));
                    let reference = reference.as_ref().unwrap_or(&graph);
                    let (made, borne) =
                        self.cut(step, &graph, reference, &start, params, &exclusion)?;
                    sensitivity.extend(borne);
                    let before = std::mem::replace(&mut graph, made.graph);
                    let first = std::mem::take(&mut found.scores);
                    found = made.found;
                    if step > 1 {
                        found.scores = first;
                    }
                    self.voice.event(
                        Level::Info,
                        "pruned",
                        format!("cut {step} of {steps}: {}", in_words(&found.reached)),
                        serde_json::json!({"reached": found.reached, "round_to": found.round_to}),
                    );
                    stages.extend(self.stage(step, StageName::Cut, &graph)?);
                    if params.schedule.rewind.is_some() {
                        let name = match step {
                            1 => rewind::point(key),
                            _ => rewound.clone(),
                        };
                        let earlier = self.journal.kept(&name).unwrap_or_else(|| before.clone());
                        graph = rewind::rewound(&graph, &earlier, made.cut.as_ref());
                        self.journal.keep(&rewound, &graph);
                    } else {
                        self.recover(&before, &mut graph, made.cut.as_ref(), &exclusion, params)?;
                        stages.extend(self.stage(step, StageName::Recovered, &graph)?);
                    }
                    let value = (&found, &stages, &sensitivity);
                    self.journal.record(&stage, &value, &graph)?;
                    self.check_drain()?;
                }
            }
            if let Some(finetune) = &params.finetune {
                let mut part = finetune.clone();
                if params.schedule.rewind.is_none() {
                    part.epochs = finetune.epochs / steps;
                    // What does not divide evenly goes to the end, where most is to be repaired.
                    if step == steps {
                        part.epochs += finetune.epochs % steps;
                    }
                }
                let stage = key_of(&format!("{step}/finetune"));
                if let (Some(name), true, false) =
                    (recovered, step == steps, self.journal.has(&stage))
                {
                    self.journal.keep(name, &graph);
                }
                graph = if params.distill.is_empty() {
                    let purpose = Purpose {
                        rigl: params.schedule.rigl,
                        ..Purpose::default()
                    };
                    self.train_past(&stage, "finetune", graph, &part, purpose)?
                } else {
                    self.retaught(key, &stage, &unpruned, graph, &part, params)?
                };
                stages.extend(self.stage(step, StageName::Finetuned, &graph)?);
            }
        }
        let stage = key_of("outcome");
        let (graph, outcome) = match self.journal.recall(&stage) {
            Some((kept, outcome)) => (self.pinned(kept, graph), outcome),
            None => {
                let outcome = PruneOutcome {
                    stages,
                    sensitivity,
                    ..outcome(&start, &graph, params, found)
                };
                self.journal.forget(&unpruned);
                self.journal.forget(&rewound);
                self.journal.record(&stage, &outcome, &graph)?;
                (graph, outcome)
            }
        };
        Ok((graph, outcome))
    }

    /// Trains what is left by what the model was before the first cut, which the journal keeps under
    /// the name `unpruned`.
    fn retaught(
        &mut self,
        key: &str,
        stage: &str,
        unpruned: &str,
        graph: Graph,
        finetune: &TrainParams,
        params: &PruneParams,
    ) -> Result<Graph, Ended> {
        if let Some((kept, ())) = self.journal.recall(stage) {
            return Ok(self.pinned(kept, graph));
        }
        let losses = &params.distill;
        let data = self.data.clone().ok_or_else(|| no_data("distillation"))?;
        let teacher = self.pinned(self.journal.kept(unpruned), graph.clone());
        let pointer = format!(
            "{}/distill",
            self.pointer(key.split('/').next().unwrap_or(key))
        );
        let tuition = settle(losses, &teacher, &graph, &pointer)?;
        let lesson = Lesson {
            stage,
            phase: "finetune",
            finetune,
            tuition: &tuition,
            average: Average::Logits,
            views: None,
            class_map: None,
            rigl: params.schedule.rigl,
        };
        let teachers = vec![Teacher {
            graph: teacher,
            data,
        }];
        let (graph, ..) = self.taught(&lesson, graph, teachers, |_, _, _| Ok(()))?;
        Ok(graph)
    }

    /// Makes the cut of `step`, as `start` and `reference` say of the graph before the first. With the first
    /// comes how the groups bear a loss, if that is wanted.
    fn cut(
        &self,
        step: u32,
        graph: &Graph,
        reference: &Graph,
        start: &Start,
        params: &PruneParams,
        exclusion: &Exclusion,
    ) -> Result<(Made, Vec<Sensitivity>), Ended> {
        let data = self.data.as_ref();
        let calibrator = data.map(|data| calibrator(&self.device, data, params));
        let latency = latency_beside(reference, &self.device, data);
        let cutting = Cutting {
            params,
            exclusion,
            original: &start.original(&latency),
            calibration: calibrator.as_ref().map(|c| c as &dyn Calibration),
            seed: self.seed.wrapping_add(u64::from(step)),
        };
        let target = target_at(&params.target, share(&params.schedule, step));
        let made = cutting.cut(graph, &target)?;
        let sensitivity = match params.sensitivity && step == 1 {
            true => self.sensitivity(graph, &cutting)?,
            false => Vec::new(),
        };
        Ok((made, sensitivity))
    }

    /// Corrects what stays after a cut, without training.
    fn recover(
        &self,
        before: &Graph,
        graph: &mut Graph,
        cut: Option<&Cut>,
        exclusion: &Exclusion,
        params: &PruneParams,
    ) -> Result<(), Ended> {
        let Some(data) = &self.data else {
            return Ok(());
        };
        let recovery = &params.recovery;
        let change = match (recovery.reconstruct, recovery.correct_bias) {
            (true, _) => Some(Change::Kernels),
            (false, true) => Some(Change::Offsets),
            (false, false) => None,
        };
        let change = change.zip(cut);
        if let Some((change, cut)) = change {
            self.phase("reconstruct");
            let calibrator = calibrator(&self.device, data, params);
            let skipped = reconstruct(before, graph, cut, exclusion, change, &calibrator)?;
            if !skipped.is_empty() {
                self.voice.info(
                    "not_reconstructed",
                    format!("too large for least squares: {}", skipped.join(", ")),
                );
            }
        }
        let reconstructed = change.is_some_and(|(change, _)| change == Change::Kernels);
        if recovery.recalibrate && !reconstructed {
            self.phase("recalibrate");
            recalibrate(graph, &self.device, data)?;
        }
        Ok(())
    }

    /// The default metrics of the validation split and a `further` one; none without one.
    fn validated(
        &self,
        graph: &Graph,
        further: Option<MetricName>,
    ) -> Result<Option<BTreeMap<String, f64>>, Ended> {
        let Some(data) = &self.data else {
            return Ok(None);
        };
        if data.count(Role::Validation) == 0 || !data.has_targets() {
            return Ok(None);
        }
        let task = data.about.task;
        let mut names = MetricName::defaults(task);
        names.extend(further.filter(|further| !names.contains(further)));
        let evaluator = Evaluator::new(graph, &self.device, Loss::of_task(task));
        let measured = evaluator
            .wanting(&names)
            .measure_graph(data, Role::Validation)?;
        Ok(Some(measured.finite(&names, task)))
    }

    /// The metrics at a stage of a pruning.
    fn stage(
        &self,
        step: u32,
        stage: StageName,
        graph: &Graph,
    ) -> Result<Option<PruneStage>, Ended> {
        let metrics = self.validated(graph, None)?;
        Ok(metrics.map(|metrics| PruneStage {
            step,
            stage,
            metrics,
        }))
    }
}

/// What a pruning would do, without training, and the graph that it would leave. `file_bytes` is the size of the file that
/// the graph came in.
pub(super) fn plan(
    graph: &Graph,
    file_bytes: Option<usize>,
    params: &PruneParams,
    data: Option<&Prepared>,
    device: &Device,
    seed: u64,
) -> Result<(PrunePlan, Graph), Ended> {
    let exclusion = Exclusion::new(&params.exclude);
    let start = Start::of(graph, params, &exclusion, file_bytes)?;
    let calibrator = data.map(|data| calibrator(device, data, params));
    let latency = latency_beside(graph, device, data);
    let made = Cutting {
        params,
        exclusion: &exclusion,
        original: &start.original(&latency),
        calibration: calibrator.as_ref().map(|c| c as &dyn Calibration),
        seed: seed.wrapping_add(1),
    }
    .cut(graph, &params.target)?;
    let plan = PrunePlan {
        before: price(graph),
        after: price(&made.graph),
        outcome: outcome(&start, &made.graph, params, made.found),
        groups: made.groups,
    };
    Ok((plan, made.graph))
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
        blocked: start.blocked.clone(),
        stages: Vec::new(),
        scores: found.scores,
        sensitivity: Vec::new(),
        trials: Vec::new(),
        judged_by: None,
        limited_by: None,
    }
}

fn in_words(found: &BTreeMap<String, f64>) -> String {
    let words: Vec<String> = found
        .iter()
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    words.join(", ")
}
