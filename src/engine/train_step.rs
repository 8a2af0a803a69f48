//! Training as a stage of a job.

use std::collections::BTreeMap;
use std::time::Instant;

use super::child::Ended;
use super::job::{Job, warn};
use super::journal::Journal;
use super::problem::{no_data, of_training};
use super::voice::Voice;
use crate::data::{Prepared, Role};
use crate::graph::Graph;
use crate::prune::weight;
use crate::spec::child::{Level, Message, Progress};
use crate::spec::prune::Rigl;
use crate::spec::train::{StartWeights, TrainParams};
use crate::train::{
    Loss, Objective, Observer, Subnetworks, TrainError, TrainState, Trainer, reinitialize,
};

/// What a training is asked for beside its parameters.
#[derive(Default)]
pub(super) struct Purpose<'a> {
    /// The epoch after which the graph is kept in the journal, and the name there.
    pub point: Option<(u32, String)>,
    /// The loss of the parameters or the task where `None`.
    pub objective: Option<&'a dyn Objective>,
    /// How the zeros of a pruning move.
    pub rigl: Option<Rigl>,
    /// Networks that learn along.
    pub beside: Option<&'a dyn Subnetworks>,
}

impl Job<'_> {
    /// Trains `graph` as the stage `key`, or goes on with it, or recalls its end.
    pub(super) fn train(
        &mut self,
        key: &str,
        phase: &str,
        graph: Graph,
        params: &TrainParams,
    ) -> Result<Graph, Ended> {
        self.train_past(key, phase, graph, params, Purpose::default())
    }

    /// Trains like [`Job::train`], with what `purpose` adds.
    pub(super) fn train_past(
        &mut self,
        key: &str,
        phase: &str,
        mut graph: Graph,
        params: &TrainParams,
        purpose: Purpose,
    ) -> Result<Graph, Ended> {
        let Purpose {
            point,
            objective,
            rigl,
            beside,
        } = purpose;
        if let Some((kept, ())) = self.journal.recall(key) {
            return Ok(self.pinned(kept, graph));
        }
        let data = self.data.as_ref().ok_or_else(|| no_data("training"))?;
        let mut masks = BTreeMap::new();
        for exclusion in &self.sparse {
            masks.extend(weight::masks(&graph, exclusion));
        }
        if params.weights == StartWeights::Reinitialize {
            reinitialize(&mut graph, self.seed);
        }
        let resume = self.journal.take_training(key);
        let steps_before = self.journal.trained().steps;
        let loss = Loss::of_training(params, data.about.task, params.label_smoothing);
        let objective = objective.unwrap_or(&loss);
        let fitted = self.first_data.as_ref().unwrap_or(data).about.batch_size;
        let asked = self.inputs.request.data.batch_size;
        if fitted < asked && resume.is_none() && phase != "trial" {
            warn(
                self.voice,
                &mut self.journal,
                "batch_size_fixed",
                format!(
                    "the model's file fixes its batch size, so that it trains in batches of {fitted} instead of {asked}; \
                     export it with an open one"
                ),
                serde_json::json!({"batch_size": fitted, "asked": asked}),
            );
        }
        match &resume {
            // A search says of each trial how it ended.
            None if phase == "trial" => {}
            None => self.voice.info(
                "training_started",
                format!(
                    "{}, epochs: {}, batches of each: {}{}",
                    in_words(phase),
                    params.epochs,
                    data.train_batches(),
                    sitting_out(data)
                ),
            ),
            Some(state) => self.voice.info(
                "training_resumed",
                format!("going on at step {} of the training", state.step),
            ),
        }
        let trainer = Trainer {
            graph: &graph,
            device: &self.device,
            data,
            params,
            objective,
            seed: self.seed,
            steps_before,
            masks: &masks,
            rigl,
            beside,
        };
        let mut watch = Watch {
            point,
            voice: self.voice,
            curves_from: self.journal.trained().shown(phase == CONTROL),
            journal: &mut self.journal,
            key,
            phase,
            steps_before,
            planned: self.planned_steps,
            begun: Instant::now(),
            first_step: resume.as_ref().map_or(0, |state| state.step),
        };
        match trainer.run(resume, &mut watch) {
            Ok(trained) => {
                self.journal.add_training(&trained, phase == CONTROL);
                self.journal.record(key, &(), &trained.graph)?;
                self.check_drain()?;
                Ok(trained.graph)
            }
            Err(TrainError::Drained(state)) => {
                self.journal.save_training(key, *state)?;
                Err(Ended::Drained)
            }
            Err(error) => Err(Ended::Failed(of_training(error))),
        }
    }
}

/// That an epoch leaves many examples out, where batches don't divide them.
fn sitting_out(data: &Prepared) -> String {
    let (examples, size) = (data.count(Role::Train), data.about.batch_size as usize);
    let left = examples - (data.train_batches() * size).min(examples);
    match left * 10 > examples {
        true => format!(
            " of {size}, so that {left} of {examples} examples sit out, others in each epoch; a smaller batch_size takes more of them"
        ),
        false => String::new(),
    }
}

/// What is trained in a phase.
fn in_words(phase: &str) -> &'static str {
    match phase {
        "distill" => "training the student by its teacher",
        CONTROL => "training the control, which has no teacher",
        "finetune" => "fine-tuning what is left",
        "slimming" => "training so that scales of batch normalisation become small",
        _ => "training",
    }
}

/// The phase of what is trained to compare with.
pub(super) const CONTROL: &str = "control";

/// The curve of the validation losses of all trials of a search, one after the other.
pub(super) const TRIAL_LOSS: &str = "trials/validation_loss";

/// Passes on what happens in a training.
struct Watch<'a> {
    /// The epoch after which the graph is kept, and the name.
    point: Option<(u32, String)>,
    voice: &'a Voice,
    journal: &'a mut Journal,
    key: &'a str,
    phase: &'a str,
    steps_before: u64,
    /// The step after which its curves begin.
    curves_from: u64,
    planned: u64,
    begun: Instant,
    /// Step at which this process took the training up.
    first_step: u64,
}

impl Observer for Watch<'_> {
    fn metric(&mut self, name: &str, step: u64, value: f64) {
        // JSON has no word for it, and a curve no place.
        if !value.is_finite() {
            return;
        }
        // A search has thousands of trainings, and tells of each trial how it ended.
        let name = match (self.phase, name) {
            ("trial", "validation/loss") => TRIAL_LOSS,
            ("trial", _) => return,
            _ => name,
        };
        // A control stands beside the other training, not before it.
        let name = match (self.phase, name.split_once('/')) {
            (CONTROL, Some(("train", curve))) => format!("control/{curve}"),
            (CONTROL, Some((split, curve))) => format!("control_{split}/{curve}"),
            _ => name.to_owned(),
        };
        let step = self.curves_from + (step - self.steps_before);
        self.journal.add_point(&name, step, value);
        self.voice.say(&Message::Metric { name, step, value });
    }

    fn trained(&mut self, step: u64, steps: u64, epoch: u32, epochs: u32) {
        let done = self.steps_before + step;
        let made_here = step.saturating_sub(self.first_step).max(1);
        let pace = self.begun.elapsed().as_secs_f64() / made_here as f64;
        let left = self.planned.saturating_sub(done);
        // The last twentieth is for measuring and the report.
        let fraction = 0.95 * done as f64 / self.planned.max(1) as f64;
        self.voice.progress(
            Progress {
                fraction: fraction.min(0.95),
                phase: self.phase.to_owned(),
                step: Some(step),
                steps: Some(steps),
                epoch: Some(epoch),
                epochs: Some(epochs),
                eta_seconds: Some((pace * left as f64 * 10.0).round() / 10.0),
            },
            step == 1 || step == steps,
        );
    }

    fn drain_requested(&self) -> bool {
        self.voice.drain_requested()
    }

    fn epoch_ended(&mut self, epoch: u32, weights: &dyn Fn() -> Graph) {
        if let Some((_, name)) = self.point.take_if(|(wanted, _)| *wanted == epoch) {
            self.journal.keep(&name, &weights());
        }
    }

    fn offer_checkpoint(&mut self, state: &dyn Fn() -> TrainState) {
        if !self.journal.is_due() {
            return;
        }
        match self.journal.save_training(self.key, state()) {
            Ok(()) => self.voice.info(
                "checkpoint_written",
                "the state of the training is kept".to_owned(),
            ),
            // The training is worth more than its checkpoint.
            Err(problem) => self.voice.event(
                Level::Warning,
                "checkpoint_failed",
                problem.detail,
                serde_json::Value::Null,
            ),
        }
    }
}
