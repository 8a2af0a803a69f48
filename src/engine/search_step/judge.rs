//! One candidate: trained, measured on examples that it did not see, and priced.

use std::collections::BTreeMap;

use super::candidates::cost_of;
use super::{Setup, no_data};
use crate::data::Role;
use crate::engine::child::Ended;
use crate::engine::job::Job;
use crate::engine::train_step::TRIAL_LOSS;
use crate::engine::verdict::Tested;
use crate::graph::Graph;
use crate::search::strategy::Ask;
use crate::spec::Problem;
use crate::spec::child::Level;
use crate::spec::job::Params;
use crate::spec::result::grouped;
use crate::spec::search::{Cost, Evaluation, ObjectiveName, Recipe};
use crate::spec::trial::{Fold, Trial, TrialCost, TrialStatus};
use crate::train::{measure_latencies, recalibrate};

/// Folds after which a trial can be ended.
const ENOUGH_FOLDS: usize = 2;

impl Job<'_> {
    /// Judges what was asked for, as the stage `stage`, or recalls what was found; `leader` is the best so
    /// far. The model of its first fold is kept in the journal as `keeps`. A candidate that can't be trained is a failed trial and not the end of the search.
    pub(super) fn judged_trial<'r>(
        &mut self,
        (stage, number): (&str, u32),
        keeps: Option<String>,
        setup: &Setup,
        ask: &Ask,
        leader: &dyn Fn() -> Option<&'r Trial>,
        proxy: &dyn Fn() -> Option<f64>,
    ) -> Result<Trial, Ended> {
        let config = setup.candidates.config(&ask.point);
        if let Some((_, trial)) = self.journal.recall::<Trial>(stage) {
            if trial.config == config {
                return Ok(trial);
            }
            let detail = "the search can't be taken up: it would now choose other candidates than it did \
                          before; post it anew";
            return Err(Ended::Failed(Problem::new(500, "search_differs", detail)));
        }
        let mut trial = Trial {
            trial: number,
            status: TrialStatus::Judged,
            config,
            share: ask.share,
            values: BTreeMap::new(),
            metrics: BTreeMap::new(),
            standard_errors: BTreeMap::new(),
            cost: None,
            proxy: proxy(),
            folds: Vec::new(),
            error: None,
        };
        let chosen = setup.candidates.chosen(&ask.point);
        match setup.params.recipe(&chosen) {
            Err(error) => fail(&mut trial, error.detail),
            Ok(recipe) => {
                let recipe = match setup.params.shares_weights() {
                    true => Recipe::default(),
                    false => shortened(recipe, ask.share),
                };
                for fold in 0..setup.folds.len() {
                    let place = format!("{stage}/fold{fold}");
                    let keeps = keeps.as_deref().filter(|_| fold == 0);
                    match self.judged_fold(&place, keeps, setup, ask, &recipe, fold) {
                        Ok(found) => trial.folds.push(found),
                        Err(Ended::Failed(problem)) if problem.status == 422 => {
                            fail(&mut trial, problem.detail);
                            break;
                        }
                        Err(other) => return Err(other),
                    }
                    if let Some(excess) = trial
                        .folds
                        .last()
                        .and_then(|fold| excess(setup, &fold.cost))
                    {
                        trial.status = TrialStatus::Infeasible;
                        trial.error = Some(excess);
                        break;
                    }
                    if fold + 1 < setup.folds.len() && is_hopeless(setup, &trial, leader) {
                        trial.status = TrialStatus::Stopped;
                        break;
                    }
                }
            }
        }
        sum_up(&mut trial, setup);
        if trial.status == TrialStatus::Failed {
            // What its steps had put aside.
            self.journal.forget(&format!("{stage}/"));
        }
        self.journal.note(stage, &trial)?;
        self.say_done(&trial, stage);
        self.check_drain()?;
        Ok(trial)
    }

    fn say_done(&self, trial: &Trial, stage: &str) {
        let figures = trial.values.iter();
        let figures = figures.map(|(name, value)| match value.fract() == 0.0 && *value > 1.0 {
            // Costs are whole.
            true => format!("{name} {}", grouped(*value as u64)),
            false => format!("{name} {value:.4}"),
        });
        let text = match trial.status {
            TrialStatus::Judged => figures.collect::<Vec<_>>().join(", "),
            TrialStatus::Stopped => "ended early: worse than the best in every fold".to_owned(),
            TrialStatus::Infeasible | TrialStatus::Failed => {
                trial.error.clone().unwrap_or_default()
            }
        };
        let level = match trial.status {
            TrialStatus::Failed => Level::Warning,
            _ => Level::Info,
        };
        let data = serde_json::json!({
            "trial": trial.trial, "status": trial.status, "config": trial.config, "share": trial.share,
            "values": trial.values, "metrics": trial.metrics, "cost": trial.cost,
            "control": stage.contains("/candidate-control"),
        });
        let text = format!("trial {}: {text}", trial.trial);
        self.voice.event(level, "trial_done", text, data);
    }

    /// Trains on the train split of a fold and measures its validation split.
    fn judged_fold(
        &mut self,
        place: &str,
        keeps: Option<&str>,
        setup: &Setup,
        ask: &Ask,
        recipe: &Recipe,
        index: usize,
    ) -> Result<Fold, Ended> {
        if let Some((_, fold)) = self.journal.recall(place) {
            return Ok(fold);
        }
        // An attempt that goes on after the training must tell its part of the curves.
        let before = self.journal.trained_before(place)?;
        let data = setup.folds[index].clone();
        let mut graph = self.done_to(place, "trial", setup, &ask.point, recipe, data)?;
        let data = self.data.clone().ok_or_else(no_data)?;
        if setup.params.shares_weights() {
            recalibrate(&mut graph, &self.device, &data).map_err(Problem::from)?;
        }
        let metrics = self.metrics_on(&graph, Role::Validation, setup)?.metrics;
        let mut cost = cost_of(&graph);
        let latency = ObjectiveName::Cost(Cost::LatencyMs);
        let wanted = setup.params.constraints.latency_ms.is_some()
            || setup
                .objectives
                .iter()
                .any(|objective| objective.metric == latency);
        if wanted && index == 0 {
            let found = measure_latencies(&[(&graph, Some(&data))], &self.device);
            cost.latency_ms = found.map_err(Problem::from)?.first().map(|found| found.p50);
        }
        let curve = self.journal.curves().get(TRIAL_LOSS);
        let own = curve
            .into_iter()
            .flatten()
            .filter(|(step, _)| *step > before.steps);
        let after = self.journal.trained();
        let fold = Fold {
            metrics,
            cost,
            validation_loss: own.map(|(_, value)| *value).collect(),
            seconds: after.seconds - before.seconds,
            validation_seconds: after.validation_seconds - before.validation_seconds,
            epochs: (after.steps - before.steps).div_ceil(data.train_batches() as u64) as u32,
        };
        if let Some(name) = keeps {
            self.journal.keep(name, &graph);
        }
        self.journal.note(place, &fold)?;
        self.check_drain()?;
        Ok(fold)
    }

    /// The task's usual metrics and those among the objectives, on a split.
    pub(super) fn metrics_on(
        &self,
        graph: &Graph,
        role: Role,
        setup: &Setup,
    ) -> Result<Tested, Ended> {
        let data = self.data.as_ref().ok_or_else(no_data)?;
        let names = setup.params.metrics(data.about.task);
        let deciding = setup.deciding().filter(|_| role == Role::Test);
        let tested = self.tested(graph, role, &names, deciding)?;
        match tested.metrics.iter().find(|(_, value)| !value.is_finite()) {
            None => Ok(tested),
            Some((name, value)) => {
                let detail = format!("{name} is {value} after the training");
                Err(Ended::Failed(Problem::new(422, "not_finite", detail)))
            }
        }
    }
}

fn fail(trial: &mut Trial, why: String) {
    trial.status = TrialStatus::Failed;
    trial.error = Some(why);
}

/// A recipe whose trainings take this share of their epochs, one at least.
fn shortened(mut recipe: Recipe, share: f64) -> Recipe {
    for step in &mut recipe.steps {
        if let Params::Train(train) = step {
            train.epochs = ((f64::from(train.epochs) * share).round() as u32).max(1);
        }
    }
    recipe
}

/// Which constraint a cost does not meet.
pub(super) fn excess(setup: &Setup, cost: &TrialCost) -> Option<String> {
    let bounds = setup.params.constraints.iter();
    let mut above = bounds.filter_map(|(name, most)| {
        let value = cost.of(name)?;
        (value > most).then(|| format!("{} is {value}, above {most}", name.as_str()))
    });
    above.next()
}

/// Whether every fold so far is worse than the worst of the best trial's.
fn is_hopeless<'r>(setup: &Setup, trial: &Trial, leader: &dyn Fn() -> Option<&'r Trial>) -> bool {
    let Evaluation::CrossValidation {
        stop_hopeless: true,
        ..
    } = setup.params.evaluation
    else {
        return false;
    };
    let [objective] = setup.objectives.as_slice() else {
        return false;
    };
    let Some(metric) = objective.metric.metric() else {
        return false;
    };
    let small = |fold: &Fold| {
        let value = fold.metrics.get(metric.as_str()).copied();
        objective.minimized(value.unwrap_or(f64::NAN))
    };
    if trial.folds.len() < ENOUGH_FOLDS {
        return false;
    }
    let Some(leader) = leader() else {
        return false;
    };
    let worst = leader
        .folds
        .iter()
        .map(small)
        .fold(f64::NEG_INFINITY, f64::max);
    trial.folds.iter().all(|fold| small(fold) > worst)
}

/// Means and standard errors over the folds.
fn sum_up(trial: &mut Trial, setup: &Setup) {
    trial.cost = trial.folds.first().map(|fold| fold.cost.clone());
    let count = trial.folds.len() as f64;
    let names: Vec<String> = match trial.folds.first() {
        Some(first) => first.metrics.keys().cloned().collect(),
        None => Vec::new(),
    };
    for name in names {
        let values = || trial.folds.iter().map(|fold| fold.metrics[&name]);
        let mean = values().sum::<f64>() / count;
        let squares: f64 = values().map(|value| (value - mean).powi(2)).sum();
        if count > 1.0 {
            let error = (squares / (count - 1.0) / count).sqrt();
            trial.standard_errors.insert(name.clone(), error);
        }
        trial.metrics.insert(name, mean);
    }
    if let Some(values) = trial.objectives(&setup.objectives) {
        let names = setup
            .objectives
            .iter()
            .map(|objective| objective.metric.as_str().to_owned());
        trial.values = names.zip(values).collect();
    }
}
