//! The training loop.
//!
//! Everything random follows from the seed and the place in the training, so a training that
//! stops and goes on later ends with the same weights as one that did not stop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use burn::backend::ops::FloatTensorOps;
use burn::backend::{AutodiffBackend, Dispatch};
use serde::{Deserialize, Serialize};

use super::ahead::ahead;
use super::evaluate::{Programs, feed};
use super::optimizer::OptimizerState;
use super::schedule;
use super::{Evaluator, Loss, Objective, Observer, Seen, Subnetworks};
use crate::data::{Prepared, Role, View};
use crate::exec::operand::plain;
use crate::exec::value::{self, dims, from_host, scalar_to_host, to_host, track};
use crate::exec::{
    Device, ExecError, Mode, Operand, Outcome, Parameters, Program, Statistics, Value, upload,
};
use crate::graph::Graph;
use crate::prune::rigl;
use crate::spec::augment::Augment;
use crate::spec::evaluate::MetricName;
use crate::spec::prune::Rigl;
use crate::spec::train::TrainParams;

/// Why a training ends without a result.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Compile(#[from] ExecError),
    #[error(
        "the loss became {loss} at step {step}; train with a lower learning rate, or check the \
         scale of the inputs"
    )]
    Diverged { step: u64, loss: f32 },
    #[error("stopped on request")]
    Drained(Box<TrainState>),
}

/// A tensor as it is kept in a checkpoint.
pub type Kept = (Vec<usize>, Vec<f32>);

/// Everything that a training needs to go on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainState {
    /// Epoch that is under way, from 0.
    pub epoch: u32,
    /// Next batch in it.
    pub batch: usize,
    /// Steps made in all.
    pub step: u64,
    /// Sum of the losses since the last point of the curve, and how many they are.
    pub loss: (f64, u64),
    pub updates: u64,
    /// Lowest validation loss so far, and epochs since.
    pub best: Option<f64>,
    pub epochs_since_best: u32,
    pub examples: u64,
    /// Of the steps.
    pub seconds: f64,
    /// Of the validations between them.
    #[serde(default)]
    pub validation_seconds: f64,
    /// `parameter/…`, `slot0/…`, `slot1/…`, `best/…`, `mask/…`.
    #[serde(skip)]
    pub tensors: BTreeMap<String, Kept>,
}

/// One training of one graph.
pub struct Trainer<'a> {
    pub graph: &'a Graph,
    pub device: &'a Device,
    pub data: &'a Prepared,
    pub params: &'a TrainParams,
    pub objective: &'a dyn Objective,
    pub seed: u64,
    /// Steps that earlier trainings of the job made; the curves go on behind them.
    pub steps_before: u64,
    /// By weight: 1 where it may change, 0 where it stays zero.
    pub masks: &'a BTreeMap<String, Vec<f32>>,
    /// How the zeros of the masks move.
    pub rigl: Option<Rigl>,
    /// Networks that learn in each step beside the graph itself, all with the same share in the loss.
    pub beside: Option<&'a dyn Subnetworks>,
}

/// What a training gives.
pub struct Trained {
    pub graph: Graph,
    pub examples: u64,
    /// Of the steps.
    pub seconds: f64,
    /// Of the validations between them.
    pub validation_seconds: f64,
    pub steps: u64,
}

/// The live side of [`TrainState`].
struct Live {
    parameters: Parameters,
    optimizer: OptimizerState,
    best: Option<Parameters>,
    masks: BTreeMap<String, Value>,
}

impl Trainer<'_> {
    /// Trains from the graph's weights, or goes on from `resume`.
    pub fn run(
        &self,
        resume: Option<TrainState>,
        observer: &mut dyn Observer,
    ) -> Result<Trained, TrainError> {
        let own = self.objective.weights();
        let trainable: BTreeSet<String> = self
            .graph
            .trainable()
            .into_iter()
            .map(str::to_owned)
            .chain(own.keys().cloned())
            .collect();
        let masks = self.masks.iter().map(|(name, mask)| {
            let shape = &self.graph.initializers[name].dims;
            let mask = from_host(shape, mask.clone(), self.device.plain());
            (name.clone(), mask)
        });
        let mut state = TrainState::default();
        let mut live = Live {
            parameters: upload(self.graph, self.device.plain()),
            optimizer: OptimizerState::default(),
            best: None,
            masks: masks.collect(),
        };
        for (name, (shape, elements)) in own {
            let value = from_host(&shape, elements, self.device.plain());
            live.parameters.insert(name, value);
        }
        for (name, mask) in &live.masks {
            if let Some(value) = live.parameters.get_mut(name) {
                *value = Dispatch::float_mul(value.clone(), mask.clone());
            }
        }
        if let Some(kept) = resume {
            self.restore(&kept, &mut live);
            state = kept;
            state.tensors.clear();
        }
        let batches = self.data.train_batches();
        let epochs = self.params.epochs;
        let steps = u64::from(epochs) * batches as u64;
        let interval = (steps / 200).max(1);
        let mut programs = self.programs();
        let mut validation = self.programs();
        let plain = Loss::of_training(self.params, self.data.about.task, 0.0);
        let evaluator = Evaluator::new(self.graph, self.device, plain);
        let class_weights = self.data.class_weights(self.params.class_weights.as_ref());
        while state.epoch < epochs {
            let order = self.data.train_order(self.seed, state.epoch);
            let first = (state.batch, state.step);
            let (data, augment, seed) = (self.data, self.params.augment.as_ref(), self.seed);
            let make = |index: usize| {
                let step = first.1 + (index - first.0) as u64;
                let mut batch = data.train_batch(&order, index, view(augment, seed, step));
                batch.class_weights.clone_from(&class_weights);
                batch
            };
            // With the waiting for a batch that is not ready.
            let mut since = Instant::now();
            ahead(first.0..batches, make, |batch| {
                let (inputs, size) = feed(self.graph, self.device, &batch)?;
                let program = programs.of(size)?;
                let rate = self.params.optimizer.learning_rate
                    * schedule::factor(&self.params.schedule, state.step, steps);
                let fed = (inputs.as_slice(), size);
                let loss = self.step(
                    program, &mut live, &trainable, fed, &batch, rate, &state, steps,
                )?;
                if !loss.is_finite() {
                    return Err(TrainError::Diverged {
                        step: state.step,
                        loss,
                    });
                }
                state.batch += 1;
                state.step += 1;
                state.updates = live.optimizer.updates;
                state.examples += batch.count as u64;
                state.seconds += since.elapsed().as_secs_f64();
                since = Instant::now();
                state.loss.0 += f64::from(loss);
                state.loss.1 += 1;
                let shown = self.steps_before + state.step;
                if state.step.is_multiple_of(interval) || state.step == steps {
                    observer.metric("train/loss", shown, state.loss.0 / state.loss.1 as f64);
                    observer.metric("train/learning_rate", shown, rate);
                    state.loss = (0.0, 0);
                }
                observer.trained(state.step, steps, state.epoch + 1, epochs);
                match observer.drain_requested() {
                    true => Err(TrainError::Drained(Box::new(self.keep(&state, &live)))),
                    false => Ok(()),
                }
            })?;
            state.epoch += 1;
            state.batch = 0;
            observer.epoch_ended(state.epoch, &|| self.written(&live.parameters, &trainable));
            let started = Instant::now();
            let progress = state.step as f64 / steps.max(1) as f64;
            let loss = match self.data.has_targets() {
                true => None,
                false => self.unlabelled(&mut validation, &live.parameters, progress)?,
            };
            let is_enough = self.validate(&evaluator, loss, &mut state, &mut live, observer)?;
            state.validation_seconds += started.elapsed().as_secs_f64();
            if is_enough {
                break;
            }
            observer.offer_checkpoint(&|| self.keep(&state, &live));
        }
        let finished = live.best.take().unwrap_or(live.parameters);
        Ok(Trained {
            graph: self.written(&finished, &trainable),
            examples: state.examples,
            seconds: state.seconds,
            validation_seconds: state.validation_seconds,
            steps: state.step,
        })
    }

    /// The graph with these weights.
    fn written(&self, parameters: &Parameters, trainable: &BTreeSet<String>) -> Graph {
        let mut graph = self.graph.clone();
        let changed = trainable
            .iter()
            .map(String::as_str)
            .chain(self.graph.running_statistics());
        for name in changed {
            if let (Some(value), Some(tensor)) =
                (parameters.get(name), graph.initializers.get_mut(name))
            {
                tensor.set_floats(to_host(value.clone()));
            }
        }
        graph
    }

    /// One update of all parameters; returns the batch's loss.
    #[expect(
        clippy::too_many_arguments,
        reason = "the loop's own state, split so that each part can be borrowed alone"
    )]
    fn step(
        &self,
        program: &Program,
        live: &mut Live,
        trainable: &BTreeSet<String>,
        fed: (&[Operand], usize),
        batch: &crate::data::Batch,
        rate: f64,
        state: &TrainState,
        steps: u64,
    ) -> Result<f32, ExecError> {
        let step = state.step;
        let progress = step as f64 / steps.max(1) as f64;
        let tracked = || {
            let mut leaves = live.parameters.clone();
            for name in trainable {
                if let Some(leaf) = leaves.get_mut(name) {
                    *leaf = track(leaf.clone());
                }
            }
            leaves
        };
        let mode = Mode::Train {
            seed: self.seed ^ (self.steps_before + step + 1).wrapping_mul(0xd6e8_feb8_6659_fd93),
        };
        let networks = self
            .beside
            .map_or_else(Vec::new, |beside| beside.of_step(step));
        let share = 1.0 / (1.0 + networks.len() as f32);
        let mut shown = 0.0;
        let mut gradients: BTreeMap<&String, Value> = BTreeMap::new();
        // One network after the other, so that what one of them keeps for its gradients is gone before the next.
        let mut learn = |leaves: Parameters, mut loss: Value| {
            if share < 1.0 {
                loss = Dispatch::float_mul_scalar(loss, share.into());
            }
            shown += scalar_to_host(Dispatch::inner(loss.clone()));
            let mut found = Dispatch::backward(loss);
            for name in trainable {
                let leaf = leaves.get(name);
                let gradient = leaf.and_then(|leaf| Dispatch::grad_remove(leaf, &mut found));
                let Some(mut gradient) = gradient else {
                    continue;
                };
                if let Some(before) = gradients.remove(name) {
                    gradient = Dispatch::float_add(before, gradient);
                }
                gradients.insert(name, gradient);
            }
        };
        let leaves = tracked();
        let outcome = program.run(self.device, &leaves, fed.0, mode)?;
        let (loss, statistics) = self.value(outcome, batch, &leaves, progress)?;
        learn(leaves, loss);
        for network in &networks {
            let leaves = tracked();
            let closing = self.objective.closing_operators();
            let outcome = network.run(self.device, &leaves, fed, closing, mode)?;
            let (loss, _) = self.value(outcome, batch, &leaves, progress)?;
            learn(leaves, loss);
        }
        live.optimizer.advance();
        let moving = self
            .rigl
            .map_or(0.0, |rigl| rigl::share(&rigl, step, steps));
        for (name, mut gradient) in gradients {
            let factor = self.objective.gradient_factor(name, progress);
            if factor != 1.0 {
                gradient = Dispatch::float_mul_scalar(gradient, factor.into());
            }
            let parameter = live.parameters.remove(name).expect("a leaf is a parameter");
            if let (true, Some(mask)) = (moving > 0.0, live.masks.get_mut(name)) {
                *mask = moved(&parameter, gradient, mask, moving, self.device);
                let left = Dispatch::float_mul(parameter, mask.clone());
                live.parameters.insert(name.clone(), left);
                continue;
            }
            let mut updated =
                live.optimizer
                    .update(&self.params.optimizer, name, parameter, gradient, rate);
            if let Some(mask) = live.masks.get(name) {
                updated = Dispatch::float_mul(updated, mask.clone());
            }
            live.parameters.insert(name.clone(), updated);
        }
        for batch in statistics {
            for (name, value) in [
                (batch.running_mean, batch.mean),
                (batch.running_variance, batch.variance),
            ] {
                let Some(running) = live.parameters.get_mut(&name) else {
                    continue;
                };
                let kept = Dispatch::float_mul_scalar(running.clone(), batch.momentum.into());
                let fresh = Dispatch::float_mul_scalar(plain(value), (1.0 - batch.momentum).into());
                *running = Dispatch::float_add(kept, fresh);
            }
        }
        Ok(shown)
    }

    fn programs(&self) -> Programs<'_> {
        Programs::with_tensors(
            self.graph,
            self.objective.closing_operators(),
            self.objective.tensors(),
        )
    }

    /// The objective's value of what a run gave.
    fn value(
        &self,
        outcome: Outcome,
        batch: &crate::data::Batch,
        parameters: &Parameters,
        progress: f64,
    ) -> Result<(Value, Vec<Statistics>), ExecError> {
        let mut outputs = outcome.outputs;
        let output = outputs
            .pop()
            .expect("a program gives what it was asked for")
            .on_device(self.device);
        let tensors = outputs.into_iter().map(|o| o.on_device(self.device));
        let loss = self.objective.value(&Seen {
            output,
            tensors: tensors.collect(),
            batch,
            parameters,
            progress,
            device: self.device,
        })?;
        Ok((loss, outcome.statistics))
    }

    /// The objective itself on the validation split, where there are no labels to measure by.
    fn unlabelled(
        &self,
        programs: &mut Programs,
        parameters: &Parameters,
        progress: f64,
    ) -> Result<Option<f64>, ExecError> {
        let size = self.data.about.batch_size as usize;
        let (mut sum, mut examples) = (0.0, 0usize);
        for batch in self.data.batches(Role::Validation, size) {
            // What a fixed batch size repeats would count twice.
            if examples > 0 && batch.count < size {
                break;
            }
            let (inputs, fed) = feed(self.graph, self.device, &batch)?;
            if fed != batch.count {
                break;
            }
            let program = programs.of(fed)?;
            let outcome = program.run(self.device, parameters, &inputs, Mode::Evaluate)?;
            let (loss, _) = self.value(outcome, &batch, parameters, progress)?;
            sum += f64::from(scalar_to_host(loss)) * batch.count as f64;
            examples += batch.count;
        }
        Ok((examples > 0).then(|| sum / examples as f64))
    }

    /// Measures the validation split after an epoch, unless its loss is given; whether to stop early.
    fn validate(
        &self,
        evaluator: &Evaluator,
        unlabelled: Option<f64>,
        state: &mut TrainState,
        live: &mut Live,
        observer: &mut dyn Observer,
    ) -> Result<bool, TrainError> {
        let measurable = unlabelled.is_some() || self.data.has_targets();
        if self.data.count(Role::Validation) == 0 || !measurable {
            return Ok(false);
        }
        let shown = self.steps_before + state.step;
        let loss = match unlabelled {
            Some(loss) => loss,
            None => {
                let measured = evaluator.measure(&live.parameters, self.data, Role::Validation)?;
                let task = self.data.about.task;
                if MetricName::Accuracy.applies_to(task) {
                    let accuracy = measured.metric(MetricName::Accuracy, task);
                    observer.metric("validation/accuracy", shown, accuracy);
                }
                measured.metric(MetricName::Loss, task)
            }
        };
        observer.metric("validation/loss", shown, loss);
        let Some(early_stopping) = &self.params.early_stopping else {
            return Ok(false);
        };
        // A loss that is no number is never the best.
        if loss.is_finite() && state.best.is_none_or(|best| loss < best) {
            state.best = Some(loss);
            state.epochs_since_best = 0;
            live.best = Some(live.parameters.clone());
            return Ok(false);
        }
        state.epochs_since_best += 1;
        Ok(state.epochs_since_best >= early_stopping.patience)
    }

    fn keep(&self, state: &TrainState, live: &Live) -> TrainState {
        let mut kept = state.clone();
        let mut put = |prefix: &str, name: &str, value: &Value| {
            kept.tensors.insert(
                format!("{prefix}/{name}"),
                (dims(value), to_host(value.clone())),
            );
        };
        for (name, value) in &live.parameters {
            put("parameter", name, value);
        }
        for (name, slots) in &live.optimizer.slots {
            for (index, slot) in slots.iter().enumerate() {
                put(&format!("slot{index}"), name, slot);
            }
        }
        for (name, value) in live.best.iter().flatten() {
            put("best", name, value);
        }
        if self.rigl.is_some() {
            for (name, value) in &live.masks {
                put("mask", name, value);
            }
        }
        kept
    }

    fn restore(&self, kept: &TrainState, live: &mut Live) {
        live.optimizer.updates = kept.updates;
        let mut best = Parameters::new();
        for (key, (shape, elements)) in &kept.tensors {
            let value = value::from_host(shape, elements.clone(), self.device.plain());
            match key.split_once('/') {
                Some(("parameter", name)) => {
                    live.parameters.insert(name.to_owned(), value);
                }
                Some(("best", name)) => {
                    best.insert(name.to_owned(), value);
                }
                Some(("mask", name)) => {
                    live.masks.insert(name.to_owned(), value);
                }
                // The keys are sorted, so slot 0 of a parameter comes before its slot 1.
                Some((_, name)) => live
                    .optimizer
                    .slots
                    .entry(name.to_owned())
                    .or_default()
                    .push(value),
                None => {}
            }
        }
        live.best = (!best.is_empty()).then_some(best);
    }
}

/// The mask of a weight after a share of its zeros moved.
fn moved(parameter: &Value, gradient: Value, mask: &Value, share: f64, device: &Device) -> Value {
    let weights = to_host(parameter.clone());
    let moved = rigl::moved(&weights, &to_host(gradient), &to_host(mask.clone()), share);
    from_host(&dims(mask), moved, device.plain())
}

/// How the examples of a step are seen.
fn view(augment: Option<&Augment>, seed: u64, step: u64) -> Option<View> {
    let seed = seed ^ (step + 1).wrapping_mul(0x9fb2_1c65_1e98_df25);
    augment.cloned().map(|augment| View { augment, seed })
}
