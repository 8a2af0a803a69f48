//! Search as stages of a job: candidates that are chosen, judged by examples that none was trained on, and the
//! winner trained in full.

mod candidates;
mod judge;
mod record;

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use rand::SeedableRng;
use uuid::Uuid;

use super::child::Ended;
use super::data_fit::pin;
use super::distill_step::{control_model, is_own_step};
use super::job::Job;
use super::problem;
use super::train_step::{CONTROL, Purpose};
use super::verdict::{Tested, compare};
use crate::data::{Prepared, Role};
use crate::graph::Graph;
use crate::prune::{Change, Exclusion, PruneError, reconstruct};
use crate::search::shared::SharedWeights;
use crate::search::space::Point;
use crate::search::strategy::{Judged, Screen, Search, Strategy};
use crate::search::{importance, proxy};
use crate::spec::Problem;
use crate::spec::child::Message;
use crate::spec::evaluate::MetricName;
use crate::spec::job::Params;
use crate::spec::prune::CalibrationOptions;
use crate::spec::result::Comparison;
use crate::spec::search::{Evaluation, Objective, Recipe, SearchParams};
use crate::spec::strategy::StrategyParams;
use crate::spec::train::StartWeights;
use crate::spec::trial::{FrontEntry, SearchControl, SearchOutcome, SearchPlan, Trial, Trials};
use crate::train::{Calibrator, Evaluator, Loss, reinitialize};
use candidates::{Candidates, cost_of, judged};
use judge::excess;
use record::{Record, best_first, foretold, front_of, leader, trained, volume};

/// Winners that the outcome names.
const BEST: usize = 10;

/// What makes the control's draws others than the search's.
const CONTROL_SEED: u64 = 0xc0a7_2017;

/// Examples that scores without training look at.
const SCREENED: usize = 64;

/// Candidates that a plan looks at where it looks at all, and where it draws.
const MOST_COUNTED: f64 = 512.0;
const DRAWN: usize = 100;

/// Candidates among which one must be feasible before weights are trained for all.
const DRAWS: usize = 1000;

/// What a search leaves behind, beside its winner.
pub(super) struct Searched {
    pub outcome: SearchOutcome,
    pub trials: Trials,
    /// Models of the front, by the name of their artifact.
    pub front: Vec<(Uuid, String, Graph)>,
}

/// What all trials of a search share.
struct Setup<'a> {
    params: &'a SearchParams,
    candidates: Candidates<'a>,
    objectives: Vec<Objective>,
    folds: Vec<Prepared>,
    /// Of the training whose weights candidates share.
    shared_epochs: Option<u64>,
    /// By model.
    scores: RefCell<HashMap<Vec<u64>, Option<f64>>>,
}

impl Setup<'_> {
    /// The metric that says whether the search was worth it: its first objective, where that is one.
    fn deciding(&self) -> Option<MetricName> {
        self.objectives.first()?.metric.metric()
    }

    /// What the proxy says of a point's model as it is before it is corrected and trained.
    fn score(&self, point: &Point, calibrator: &Calibrator, seed: u64) -> Option<f64> {
        let proxy = self.params.screening?.proxy;
        let model = self.candidates.model_key(point);
        if let Some(&known) = self.scores.borrow().get(&model) {
            return known;
        }
        let found = self.candidates.graph(point).ok().and_then(|mut graph| {
            pin(&mut graph, &calibrator.data.about);
            let fresh = self.params.trial.weights == StartWeights::Reinitialize;
            if fresh && self.shared_epochs.is_none() {
                reinitialize(&mut graph, seed);
            }
            proxy::score(proxy, &graph, calibrator).ok()
        });
        self.scores.borrow_mut().insert(model, found);
        found
    }
}

impl Job<'_> {
    /// Searches among what can be made of `graph`; gives the winner, trained in full.
    pub(super) fn search(
        &mut self,
        key: &str,
        graph: &Graph,
        params: &SearchParams,
    ) -> Result<(Graph, Searched), Ended> {
        let data = self.data.clone().ok_or_else(no_data)?;
        let task = data.about.task;
        let folds = match params.evaluation {
            Evaluation::CrossValidation { folds, .. } => data
                .folds(folds as usize)
                .map_err(|error| Problem::new(422, "rare_label", error.to_string()))?,
            _ => vec![data.clone()],
        };
        let mut candidates = candidates_of(graph, params, self.seed)?;
        let not_applicable = candidates.not_applicable(params);
        if !not_applicable.is_empty() {
            self.warn(
                "space_not_applicable",
                format!(
                    "these of the space leave no choice in this model: {}",
                    not_applicable.join(", ")
                ),
                serde_json::json!({"not_applicable": not_applicable}),
            );
        }
        let mut shared_epochs = None;
        if let Evaluation::SharedWeights { random } = params.evaluation {
            let (shared, epochs) =
                self.shared_weights(key, &candidates, params, random as usize)?;
            candidates.inherit(shared);
            shared_epochs = Some(epochs);
        }
        let setup = Setup {
            params,
            candidates,
            shared_epochs,
            objectives: params.objectives(task),
            folds,
            scores: RefCell::default(),
        };
        if let Some(text) = self.seen_before(graph, &setup) {
            self.warn("trials_on_seen_examples", text, serde_json::Value::Null);
        }
        let warm = match &self.inputs.trials {
            None => Vec::new(),
            Some(path) => setup.candidates.warm(&earlier(path)?, &setup.objectives),
        };
        if let Some(warning) = never_chooses(params, warm.len()) {
            self.warn("search_is_random", warning, serde_json::Value::Null);
        }
        let limits = (params.trials as usize, u64::MAX);
        let strategy = params.build_strategy();
        let record = self.run_trials(key, &setup, "trial", strategy, &warm, limits)?;
        if record.len() < params.trials as usize && !setup.candidates.bounds_met_by_all() {
            self.voice.info(
                "candidates_used_up",
                format!(
                    "{} of the {} trials were judged: the strategy found no more candidates within the constraints",
                    record.len(),
                    params.trials
                ),
            );
        }
        let done = self.done(&setup, &record, &warm)?;
        let control = match params.control {
            false => None,
            true => Some(self.search_control(key, &setup, &record)?),
        };
        let winner = done[0];
        let (point, trial) = &record[winner];
        let known = warm
            .iter()
            .filter_map(|judged| judged.values.as_ref()?.first());
        let known = known.copied().fold(f64::INFINITY, f64::min);
        let objective = setup.objectives[0];
        if trial
            .values
            .get(objective.metric.as_str())
            .is_some_and(|own| objective.minimized(*own) > known)
        {
            self.voice.info(
                "nothing_better",
                "the earlier search had found a better candidate than all of these".to_owned(),
            );
        }
        self.voice.info(
            "search_won",
            format!("trial {} won and is trained in full", trial.trial),
        );
        let graph = self.finished(&format!("{key}/final"), "final", &setup, point)?;
        let exceeds = excess(&setup, &cost_of(&graph));
        if let Some(exceeds) = &exceeds {
            self.warn(
                "constraint_not_met",
                format!("trained in full, the winner does not meet a constraint: {exceeds}"),
                serde_json::Value::Null,
            );
        }
        // The winner may be a student that takes its data in another way.
        let own = self.data.as_ref().map(|own| own.about.clone());
        self.data = own.map(|own| data.for_model(own, Vec::new()));
        let mut searched =
            self.summed_up(key, &setup, &record, &done, warm.len(), control, &graph)?;
        searched.outcome.exceeds = exceeds;
        Ok((graph, searched))
    }

    /// That the model as it came is much better on the examples that judge trials than on the test split, where candidates begin
    /// with its weights: these have seen those.
    fn seen_before(&self, graph: &Graph, setup: &Setup) -> Option<String> {
        /// Of accuracy and of R2.
        const MOST: [(MetricName, f64); 2] = [(MetricName::Accuracy, 0.05), (MetricName::R2, 0.1)];
        let metric = setup.deciding()?;
        let (_, most) = MOST.into_iter().find(|(name, _)| *name == metric)?;
        let keeps =
            setup.params.trial.weights == StartWeights::Keep && setup.params.steps.is_empty();
        let (data, judging) = (self.data.as_ref()?, setup.folds.first().filter(|_| keeps)?);
        let task = data.about.task;
        let evaluator = Evaluator::new(graph, &self.device, Loss::of_task(task));
        let of = |data: &Prepared, role| {
            let measured = evaluator.measure_graph(data, role).ok()?;
            Some(measured.metric(metric, task)).filter(|value| value.is_finite())
        };
        let (judged, tested) = (of(judging, Role::Validation)?, of(data, Role::Test)?);
        let name = metric.as_str();
        (judged - tested > most).then(|| format!(
            "the {name} of the model as it came is {judged:.4} on the examples that judge trials and {tested:.4} on the test split: its weights were \
             trained on them, and those of candidates begin with these, so that figures of trials flatter. `trial.weights` `reinitialize`, or a \
             data set with a validation split that the model has not seen, would not do that"
        ))
    }

    /// The model itself after a training in which candidates learned with it, and its epochs.
    fn shared_weights(
        &mut self,
        key: &str,
        candidates: &Candidates,
        params: &SearchParams,
        random: usize,
    ) -> Result<(Graph, u64), Ended> {
        let data = self.data.clone().ok_or_else(no_data)?;
        let (stage, kept) = (format!("{key}/shared"), format!("{key}/shared/"));
        let known = self.journal.recall(&format!("{stage}/kept"));
        if let (Some(mut graph), Some((_, epochs))) = (self.journal.kept(&kept), known) {
            pin(&mut graph, &data.about);
            return Ok((graph, epochs));
        }
        let feasible = |point: &Point| candidates.meets_bounds(point);
        let mut draws = rand_chacha::ChaCha8Rng::seed_from_u64(self.seed);
        let mut points = (0..DRAWS).map(|_| candidates.space.sample(&mut draws));
        if !points.any(|point| feasible(&point)) {
            return Err(none_feasible(candidates));
        }
        let architecture = candidates.architecture();
        let shared = SharedWeights::new(architecture, &feasible, random, self.seed);
        let shared = shared.map_err(of_space)?;
        let purpose = Purpose {
            beside: Some(&shared),
            ..Purpose::default()
        };
        let graph = architecture.graph().clone();
        let before = self.journal.trained_before(&stage)?;
        let trained = self.train_past(&stage, "shared", graph, &params.trial, purpose)?;
        let steps = self.journal.trained().steps - before.steps;
        let epochs = steps.div_ceil(data.train_batches() as u64);
        self.journal.keep(&kept, &trained);
        self.journal.note(&format!("{stage}/kept"), &epochs)?;
        Ok((trained, epochs))
    }

    /// Lets a strategy choose and judges what it chooses, until so many candidates are judged or so many epochs
    /// trained. Kinds of trials (`trial`, `control`) are stages of their own.
    fn run_trials(
        &mut self,
        key: &str,
        setup: &Setup,
        kind: &str,
        strategy: Box<dyn Strategy>,
        warm: &[Judged],
        (count, epochs): (usize, u64),
    ) -> Result<Record, Ended> {
        let feasible = |point: &Point| setup.candidates.is_feasible(point);
        let calibrator = Calibrator {
            device: &self.device.clone(),
            data: &setup.folds[0],
            loss: Loss::of_task(setup.folds[0].about.task),
            examples: SCREENED,
        };
        let is_search = kind == "trial";
        let (seed, screening) = (self.seed, setup.params.screening.filter(|_| is_search));
        let score = |point: &Point| setup.score(point, &calibrator, seed);
        let screen = screening.map(|screening| Screen {
            candidates: screening.candidates as usize,
            score: &score,
        });
        // With the same seed the control would begin with the same candidates.
        let seed = match is_search {
            true => self.seed,
            false => self.seed ^ CONTROL_SEED,
        };
        let first = match is_search && setup.params.strategy.begins_with_the_model() {
            true => setup.candidates.beginnings(seed),
            false => Vec::new(),
        };
        let mut search = Search::new(&setup.candidates.space, strategy, &feasible, seed)
            .screened(screen)
            .beginning_with(first);
        warm.iter().for_each(|judged| search.tell(judged.clone()));
        let mut record: Record = Vec::new();
        let mut best: Option<f64> = None;
        let mut fresh = 0;
        // Numbers of the trials whose models are kept, since no other one beats them.
        let mut front: Vec<usize> = Vec::new();
        while let Some(ask) = search.ask() {
            let is_new = !search.knows(&ask.point);
            if (is_new && fresh >= count) || trained(&record) >= epochs {
                break;
            }
            fresh += usize::from(is_new);
            let number = record.len();
            // Prunings call their own stages trials.
            let stage = format!("{key}/candidate-{kind}{number}");
            let keeps = is_search.then(|| kept(key, number));
            let leader = || leader(setup, &record, ask.share);
            let proxy = || screening.and_then(|_| score(&ask.point));
            let place = (stage.as_str(), number as u32);
            let trial = self.judged_trial(place, keeps, setup, &ask, &leader, &proxy)?;
            let told = judged(ask.point.clone(), &trial, &setup.objectives);
            if let Some(values) = &told.values {
                let first = values[0];
                best = Some(best.map_or(first, |best| best.min(first)));
            }
            if let (Some(best), Some(first)) = (best, setup.objectives.first()) {
                // Back to the figure as it is read.
                self.trial_point(&format!("{kind}/best"), number, first.minimized(best));
                if let Some(values) = &told.values {
                    self.trial_point(&format!("{kind}/value"), number, first.minimized(values[0]));
                }
            }
            search.tell(told);
            record.push((ask.point, trial));
            if is_search {
                let held = front.iter().copied().chain([number]);
                let free = front_of(setup, &record, held.clone());
                for gone in held.filter(|number| !free.contains(number)) {
                    self.journal.forget(&kept(key, gone));
                }
                front = free;
            }
        }
        if record.is_empty() && !warm.is_empty() {
            let detail = "the earlier search has judged every candidate of this space: widen the space, or \
                          leave out warm_start";
            return Err(Ended::Failed(Problem::new(422, "nothing_new", detail)));
        }
        if record.is_empty() {
            return Err(none_feasible(&setup.candidates));
        }
        Ok(record)
    }

    /// A point of a curve over trials.
    fn trial_point(&mut self, name: &str, number: usize, value: f64) {
        self.journal.add_point(name, number as u64, value);
        self.voice.say(&Message::Metric {
            name: name.to_owned(),
            step: number as u64,
            value,
        });
    }

    /// Indices of the trials to choose from, the winner first.
    fn done(&self, setup: &Setup, record: &Record, warm: &[Judged]) -> Result<Vec<usize>, Ended> {
        let order = best_first(setup, record);
        if !order.is_empty() {
            return Ok(order);
        }
        let first = record.iter().find_map(|(_, trial)| trial.error.clone());
        let first = first.unwrap_or_default();
        let beside = match warm.len() {
            0 => String::new(),
            count => format!(" ({count} of the earlier search apart)"),
        };
        Err(Ended::Failed(Problem::new(
            422,
            "every_trial_failed",
            format!(
                "none of {} trials{beside} can be chosen; the first: {first}",
                record.len()
            ),
        )))
    }

    /// Trains a point as the winner is.
    fn finished(
        &mut self,
        key: &str,
        phase: &str,
        setup: &Setup,
        point: &Point,
    ) -> Result<Graph, Ended> {
        let chosen = setup.candidates.chosen(point);
        let recipe = setup.params.finish(&chosen).map_err(of_recipe)?;
        let data = self.first_data.clone().ok_or_else(no_data)?;
        let selects = recipe.steps.iter().any(Params::selects);
        let data = match selects {
            true => data,
            false => data.joined(),
        };
        self.done_to(key, phase, setup, point, &recipe, data)
    }

    /// Does what a recipe says to the model of a point.
    fn done_to(
        &mut self,
        key: &str,
        phase: &str,
        setup: &Setup,
        point: &Point,
        recipe: &Recipe,
        data: Prepared,
    ) -> Result<Graph, Ended> {
        let fresh = matches!(recipe.steps.first(), Some(Params::Train(train)) if train.weights == StartWeights::Reinitialize);
        let whole = setup.candidates.architecture().graph();
        let normalised = !whole.scales().is_empty();
        let mut graph = match setup.params.reconstructs(normalised) && !fresh {
            true => self.reconstructed(setup, point, &data),
            false => setup.candidates.graph(point),
        }
        .map_err(of_space)?;
        pin(&mut graph, &data.about);
        self.data = Some(match recipe.batch_size {
            Some(size) => data.with_batch_size(size),
            None => data,
        });
        self.sparse.clear();
        for (index, step) in recipe.steps.iter().enumerate() {
            let key = format!("{key}/step{index}");
            graph = match step {
                Params::Train(train) => self.train(&format!("{key}/train"), phase, graph, train)?,
                other => self.step(&key, graph, other)?.0,
            };
        }
        Ok(graph)
    }

    /// The model of a point, whose layers behind missing channels fit what the model's own give (least squares), as after
    /// a cut of a pruning.
    fn reconstructed(
        &self,
        setup: &Setup,
        point: &Point,
        data: &Prepared,
    ) -> Result<Graph, PruneError> {
        let calibrator = Calibrator {
            device: &self.device,
            data,
            loss: Loss::of_task(data.about.task),
            examples: CalibrationOptions::default().examples as usize,
        };
        let exclusion = Exclusion::new(&setup.params.space.exclude);
        setup.candidates.recovered(point, &|whole, narrowed, cut| {
            let mut whole = whole.clone();
            pin(&mut whole, &data.about);
            pin(narrowed, &data.about);
            reconstruct(
                &whole,
                narrowed,
                cut,
                &exclusion,
                Change::Kernels,
                &calibrator,
            )
            .map(|_| ())
        })
    }

    /// Random search with as much training, and its winner on the test split.
    fn search_control(
        &mut self,
        key: &str,
        setup: &Setup,
        record: &Record,
    ) -> Result<(Record, SearchControl, Tested), Ended> {
        let params = setup.params;
        let strategy = StrategyParams::Random {}.build(params.trials as usize, params.trial.epochs);
        // Candidates that fail train nothing, nor do some steps.
        let limits = match trained(record) {
            0 => (params.trials as usize, u64::MAX),
            budget => (params.trials as usize * 10, budget),
        };
        let control = self.run_trials(key, setup, CONTROL, strategy, &[], limits)?;
        let order = best_first(setup, &control);
        let best = order.first().and_then(|&first| {
            let values = control[first].1.objectives(&setup.objectives)?;
            values.first().copied()
        });
        let stage = format!("{key}/control/tested");
        let tested: Tested = match (self.journal.recall(&stage), order.first()) {
            (Some((_, tested)), _) => tested,
            (None, None) => Tested::default(),
            (None, Some(&first)) => {
                let point = &control[first].0;
                let stage_of_winner = format!("{key}/control/winner");
                let graph = self.finished(&stage_of_winner, CONTROL, setup, point)?;
                if is_own_step(key) {
                    let mut model = graph.clone();
                    self.hand_out(&mut model, self.data.as_ref().ok_or_else(no_data)?)?;
                    self.journal.keep(&control_model(key), &model);
                }
                let tested = self.metrics_on(&graph, Role::Test, setup)?;
                self.journal.record(&stage, &tested, &graph)?;
                self.check_drain()?;
                tested
            }
        };
        let found = SearchControl {
            trials: control.len() as u32,
            epochs: setup.shared_epochs.unwrap_or_else(|| trained(&control)),
            best,
            metrics: tested.metrics.clone(),
        };
        Ok((control, found, tested))
    }

    #[expect(clippy::too_many_arguments, reason = "all that a search has found")]
    fn summed_up(
        &self,
        key: &str,
        setup: &Setup,
        record: &Record,
        done: &[usize],
        warm: usize,
        control: Option<(Record, SearchControl, Tested)>,
        graph: &Graph,
    ) -> Result<Searched, Ended> {
        let objectives = &setup.objectives;
        let whole = record[done[0]].1.share;
        let first: Vec<(&Point, f64)> = record
            .iter()
            .filter(|(_, trial)| trial.counts() && trial.share == whole)
            .filter_map(|(point, trial)| Some((point, *trial.objectives(objectives)?.first()?)))
            .collect();
        let space = &setup.candidates.space;
        let importance = importance::of_dimensions(space, &first, self.seed);
        let mut entries = Vec::new();
        let mut models = Vec::new();
        for number in front_of(setup, record, 0..record.len()) {
            let trial = &record[number].1;
            let Some(kept) = self.journal.kept(&kept(key, number)) else {
                continue;
            };
            let (model, artifact) = (Uuid::now_v7(), format!("trial-{number}.onnx"));
            entries.push(FrontEntry {
                trial: trial.trial,
                config: trial.config.clone(),
                values: trial.values.clone(),
                model,
                artifact: artifact.clone(),
            });
            models.push((model, artifact, kept));
        }
        let (mut comparison, mut helped) = (None, None);
        if let (Some((_, _, control)), Some(deciding)) = (&control, setup.deciding()) {
            let own = self.metrics_on(graph, Role::Test, setup)?;
            comparison = compare(&own, control, deciding);
            helped = comparison.map(|both| {
                objectives[0].minimized(both.value) < objectives[0].minimized(both.control)
            });
        }
        let (control_record, control) = match control {
            None => (Vec::new(), None),
            Some((record, control, _)) => (record, Some(control)),
        };
        if helped == Some(false) {
            self.voice.info(
                "search_did_not_help",
                "random search with as much training found a model as good or better".to_owned(),
            );
        }
        let different = record.iter().map(|(point, _)| point.key());
        let trials = different.collect::<std::collections::BTreeSet<_>>().len();
        let failed = record.iter().filter(|(_, trial)| !trial.counts()).count();
        let name = serde_json::to_value(&setup.params.strategy).unwrap_or_default();
        let outcome = SearchOutcome {
            strategy: name["name"].as_str().unwrap_or_default().to_owned(),
            space: setup.candidates.dimensions(&importance),
            space_size: space.size(),
            trials: trials as u32,
            failed: failed as u32,
            warm: warm as u32,
            epochs: setup.shared_epochs.unwrap_or_else(|| trained(record)),
            objectives: objectives.clone(),
            best: done
                .iter()
                .take(BEST)
                .map(|&index| record[index].1.clone())
                .collect(),
            front: entries,
            hypervolume: volume(setup, record),
            screening: foretold(setup, record),
            control,
            helped,
            significant: comparison.as_ref().and_then(Comparison::significant),
            comparison,
            not_applicable: setup.candidates.not_applicable(setup.params),
            exceeds: None,
        };
        let trials = |record: Record| record.into_iter().map(|(_, trial)| trial).collect();
        let judged_on = setup.folds.iter();
        Ok(Searched {
            outcome,
            trials: Trials {
                objectives: objectives.clone(),
                judged_on: judged_on
                    .map(|fold| fold.validation_examples().to_vec())
                    .collect(),
                trials: trials(record.clone()),
                control: trials(control_record),
            },
            front: models,
        })
    }
}

/// Where the journal has the model of a trial of the front.
fn kept(key: &str, trial: usize) -> String {
    format!("{key}/front/{trial}/")
}

/// The trials of an earlier search.
fn earlier(path: &Path) -> Result<Vec<Trial>, Problem> {
    let bytes = std::fs::read(path)?;
    let trials: Trials = serde_json::from_slice(&bytes).map_err(|error| {
        Problem::new(
            500,
            "storage_failed",
            format!("the trials of the earlier search can't be read: {error}"),
        )
    })?;
    Ok(trials.trials)
}

fn none_feasible(candidates: &Candidates) -> Ended {
    let seen = candidates.bounds_seen();
    let detail = format!(
        "of the candidates that were looked at none is within the constraints: {seen}; allow more, or let the space have smaller ones"
    );
    Ended::Failed(Problem::new(422, "no_feasible_candidate", detail))
}

fn empty_space(params: &SearchParams) -> Ended {
    let single = params.space.single_valued();
    let detail = match single.is_empty() {
        true => {
            "nothing in this model can change in the ways that the space names. `depth` needs residual blocks, which a shortcut \
             goes around; `width` layers whose channels can go; `kernel`, `groups` and `resolution` convolutions: name another \
             one of them. The model's layers (its page, or its `/layers` in the API) say what can be removed and what stands in \
             the way"
                .to_owned()
        }
        false => format!(
            "the space leaves no choice: {} has one value; give it others, such as 1 for the model as it is",
            single.join(", ")
        ),
    };
    Ended::Failed(Problem::new(422, "empty_space", detail))
}

fn no_data() -> Problem {
    problem::no_data("a search")
}

fn of_space(error: PruneError) -> Ended {
    Ended::Failed(error.into())
}

fn of_recipe(error: crate::spec::FieldError) -> Ended {
    Ended::Failed(Problem::invalid(vec![error]))
}

/// What `params` let be made of `graph`; refuses a space that leaves this model no choice.
fn candidates_of<'a>(
    graph: &Graph,
    params: &'a SearchParams,
    seed: u64,
) -> Result<Candidates<'a>, Ended> {
    let candidates = Candidates::new(graph, params, seed).map_err(of_space)?;
    match candidates.space.dimensions.is_empty() {
        true => Err(empty_space(params)),
        false => Ok(candidates),
    }
}

/// The same; refuses one with no choice within the constraints, too.
fn possible<'a>(
    graph: &Graph,
    params: &'a SearchParams,
    seed: u64,
) -> Result<Candidates<'a>, Ended> {
    let candidates = candidates_of(graph, params, seed)?;
    match candidates.may_fit() {
        true => Ok(candidates),
        false => Err(none_feasible(&candidates)),
    }
}

/// Refuses a space that leaves this model no choice, or none within the constraints.
pub(super) fn check(graph: &Graph, params: &SearchParams, seed: u64) -> Result<(), Ended> {
    possible(graph, params, seed).map(drop)
}

/// What speaks against TPE where it would never come to choose.
fn never_chooses(params: &SearchParams, warm: usize) -> Option<String> {
    let StrategyParams::Tpe { first } = params.strategy else {
        return None;
    };
    (warm + params.trials as usize <= first as usize).then(|| {
        format!(
            "the first {first} trials of TPE are at random (`strategy.first`), and this search has no more than {}: it never \
             comes to choose",
            params.trials
        )
    })
}

/// What a search would do.
pub(super) fn plan(graph: &Graph, params: &SearchParams, seed: u64) -> Result<SearchPlan, Ended> {
    let candidates = possible(graph, params, seed)?;
    let mut settled = graph.clone();
    settled.settle_weights();
    let space = &candidates.space;
    // A small space is looked at whole.
    let whole = space.size().filter(|&size| size <= MOST_COUNTED);
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (looked_at, fits) = match whole {
        Some(size) => {
            let fitting = space.all().filter(|point| candidates.is_feasible(point));
            (size, fitting.count())
        }
        None => {
            let drawn = (0..DRAWN).map(|_| space.sample(&mut random));
            let fitting = drawn.filter(|point| candidates.is_feasible(point));
            (DRAWN as f64, fitting.count())
        }
    };
    if whole.is_some() && fits == 0 {
        return Err(none_feasible(&candidates));
    }
    let size = space.size().unwrap_or(f64::INFINITY);
    let most = whole.map_or(size, |_| fits as f64);
    let trials = u32::min(params.trials, most.min(1e9) as u32);
    Ok(SearchPlan {
        // An earlier search may bring further trials.
        warnings: match params.warm_start {
            None => never_chooses(params, 0).into_iter().collect(),
            Some(_) => Vec::new(),
        },
        space: candidates.dimensions(&[]),
        not_applicable: candidates.not_applicable(params),
        space_size: candidates.space.size(),
        feasible_share: fits as f64 / looked_at,
        nearest: (fits == 0).then(|| candidates.bounds_seen()),
        trials,
        epochs: params.trainings(trials) * params.most_epochs(),
        // As candidates are.
        cost: cost_of(&settled),
    })
}
