//! Parameters of `search`: what may change, how candidates are chosen and how they are judged.

mod objective;
mod recipe;
mod space;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::evaluate::MetricName;
use super::hyperparameters::Range;
use super::job::{Params, Task};
use super::pipeline::StepRequest;
use super::problem::{Faults, FieldError, escape};
use super::strategy::StrategyParams;
use super::train::TrainParams;
use crate::search::strategy::Strategy;
pub use objective::{Constraints, Cost, Goal, Objective, ObjectiveName};
pub use recipe::Recipe;
pub use space::{CellOperation, CellSpace, SearchSpace};
/// How a trial is judged. No example of the test split has a part in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum Evaluation {
    /// Trained on the train split, judged on the validation split.
    Holdout {},
    /// Both splits together in so many parts, stratified by label; each judges once what the others train.
    CrossValidation {
        /// 2 to 100, and no more than the rarest label has examples.
        #[serde(default = "default_folds")]
        folds: u32,
        /// Ends a trial when each of at least two folds is worse than the worst of the best trial's; with
        /// a single objective that is a metric.
        #[serde(default = "default_stop")]
        stop_hopeless: bool,
    },
    /// All candidates share the model's weights, which are trained once, as `trial` says: in every step the model
    /// itself, the smallest candidate and some at random learn (the sandwich rule). Candidates are then judged on
    /// the validation split as they are, their running statistics taken anew.
    SharedWeights {
        /// Candidates at random in each step, 1 to 16.
        #[serde(default = "default_random")]
        random: u32,
    },
}

fn default_random() -> u32 {
    2
}

fn default_folds() -> u32 {
    5
}

fn default_stop() -> bool {
    true
}

/// A score of a candidate that was not trained; more is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProxyName {
    Synflow,
    GradNorm,
    Naswot,
    Zico,
    /// How many there are: the control of the others.
    Parameters,
}

impl ProxyName {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Synflow => "synflow",
            Self::GradNorm => "grad_norm",
            Self::Naswot => "naswot",
            Self::Zico => "zico",
            Self::Parameters => "parameters",
        }
    }
}

/// Candidates are looked at before one of them is trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Screening {
    pub proxy: ProxyName,
    /// Wherever a strategy takes one at random, it takes the best of so many by the proxy; 1 only notes it.
    #[serde(default = "default_candidates")]
    pub candidates: u32,
}

fn default_candidates() -> u32 {
    16
}

/// Parameters of a `search` job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SearchParams {
    pub space: SearchSpace,
    pub strategy: StrategyParams,
    /// Different candidates that are judged, at most.
    pub trials: u32,
    pub evaluation: Evaluation,
    /// The accuracy, or the loss of tasks without one, when empty. The first one chooses the winner.
    pub objectives: Vec<Objective>,
    /// The most that a candidate may have of each cost.
    #[serde(skip_serializing_if = "Constraints::is_empty")]
    pub constraints: Constraints,
    /// Scores that need no training choose among candidates at random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub screening: Option<Screening>,
    /// How each candidate is trained, with the hyperparameters put in their places; for 3 epochs when left out.
    pub trial: TrainParams,
    /// What is done to each candidate instead of `trial`, as a `pipeline` has it; hyperparameters are then
    /// named by their places, such as `steps.0.params.finetune.epochs`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepRequest>,
    /// What is different from `trial` when the winner is trained, on the train and the validation split
    /// together (with `early_stopping` on the train split).
    #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub last: Option<serde_json::Map<String, Value>>,
    /// Whether random search with as much training is done beside.
    pub control: bool,
    /// Whether what is behind the channels that a candidate lacks is fitted to the model's own results before the training, as
    /// after a cut of a pruning (least squares on unlabelled examples). When `null`, where the model has no batch
    /// normalisation: with it a training mends a bare cut as well or better. Nothing is with `shared_weights`, cells or fresh
    /// weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconstruct: Option<bool>,
    /// A search that has ended, whose trials count as seen where the space has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warm_start: Option<Uuid>,
}

impl Default for SearchParams {
    fn default() -> Self {
        Self {
            space: SearchSpace::default(),
            strategy: StrategyParams::default(),
            trials: 32,
            evaluation: Evaluation::Holdout {},
            objectives: Vec::new(),
            constraints: Constraints::default(),
            screening: None,
            trial: TrainParams {
                epochs: 3,
                ..TrainParams::default()
            },
            steps: Vec::new(),
            last: None,
            control: false,
            reconstruct: None,
            warm_start: None,
        }
    }
}

impl SearchParams {
    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        faults.extend_under("/space", self.space.faults());
        faults.require_value(
            self.objectives.len() <= 8,
            "/objectives",
            "must be at most 8",
        );
        let objectives = self.objectives.len().max(1);
        faults.extend_under("/strategy", self.strategy.faults(objectives));
        faults.require_value(
            (1..=100_000).contains(&self.trials),
            "/trials",
            "must be from 1 to 100000",
        );
        if let Evaluation::CrossValidation { folds, .. } = self.evaluation {
            faults.require_value(
                (2..=100).contains(&folds),
                "/evaluation/folds",
                "must be from 2 to 100",
            );
        }
        if let Evaluation::SharedWeights { random } = self.evaluation {
            faults.require_value(
                (1..=16).contains(&random),
                "/evaluation/random",
                "must be from 1 to 16",
            );
            faults.require_support(
                self.space.hyperparameters.0.is_empty(),
                "/space/hyperparameters",
                "the choice of hyperparameters beside shared weights, which one training makes",
            );
            faults.require_support(
                self.warm_start.is_none(),
                "/warm_start",
                "a warm start beside shared weights, which another training made",
            );
            faults.require_support(
                self.space.cell.is_none(),
                "/space/cell",
                "shared weights for cells, whose networks are not cut from one model",
            );
            faults.require_support(
                self.steps.is_empty(),
                "/steps",
                "`steps` beside shared weights, which `trial` makes",
            );
            faults.require_support(
                !self.strategy.halves(),
                "/strategy/name",
                "a strategy of shorter trainings beside shared weights, which one training makes",
            );
        }
        for (index, objective) in self.objectives.iter().enumerate() {
            let earlier = &self.objectives[..index];
            faults.require_value(
                earlier.iter().all(|other| other.metric != objective.metric),
                &format!("/objectives/{index}"),
                "is there twice",
            );
        }
        for (name, most) in self.constraints.iter() {
            let place = format!("/constraints/{}", name.as_str());
            faults.require_value(most > 0.0 && most.is_finite(), &place, "must be above 0");
            // The least of a count or a size that anything has is 1.
            faults.require_value(
                most <= 0.0 || most >= 1.0 || name == Cost::LatencyMs,
                &place,
                "is the most that a candidate may have, as a number of its own unit, and no share of the model's: its summary, or \
                 the plan (dry_run), says how much the model has",
            );
        }
        let opens_models = self.space.opens_models();
        faults.require(
            opens_models || !self.space.hyperparameters.0.is_empty(),
            "/space",
            "is empty: name at least one of width, depth, expand, groups, resolution, kernel, activation, cell and \
             hyperparameters",
        );
        faults.require(
            !self.control || self.strategy != StrategyParams::Random {},
            "/control",
            "the control is random search, which this search is already",
        );
        if let Some(screening) = &self.screening {
            faults.require_value(
                (1..=10_000).contains(&screening.candidates),
                "/screening/candidates",
                "must be from 1 to 10000",
            );
            faults.require(
                opens_models,
                "/screening",
                "scores tell models apart, and this space has only hyperparameters: leave it out, or open \
                 width, depth, kernel, activation or cell",
            );
        }
        let costs = self
            .objectives
            .first()
            .is_some_and(|first| first.metric.metric().is_none());
        faults.require(
            !self.control || !costs,
            "/control",
            "the winners are compared by the first objective on the test split: let that be a metric",
        );
        let endless =
            |(name, range): (&String, &Range)| range.size().is_none().then(|| name.clone());
        let endless = self.space.hyperparameters.0.iter().find_map(endless);
        if let (StrategyParams::Exhaustive {}, Some(name)) = (&self.strategy, endless) {
            faults.require(
                false,
                "/strategy/name",
                format!("`exhaustive` has no end with `{name}`: give it a choice or whole numbers"),
            );
        }
        if let StrategyParams::SuccessiveHalving(halving) | StrategyParams::Hyperband(halving) =
            &self.strategy
        {
            let least =
                u64::from(halving.eta).checked_pow(halving.rounds.unwrap_or(1).saturating_sub(1));
            faults.require(
                least.is_some_and(|least| least <= u64::from(self.trial.epochs)),
                "/strategy/rounds",
                "the first round would train for less than an epoch: raise trial.epochs to eta to the power of \
                 one round less, or ask for fewer rounds",
            );
        }
        faults.require_support(
            !self.strategy.halves() || self.steps.is_empty(),
            "/strategy/name",
            "a strategy of shorter trainings beside `steps`",
        );
        self.training_faults(&mut faults);
        let mut ranges = self.space.hyperparameters.0.values();
        if faults.found.is_empty() && !opens_models {
            faults.require(
                !ranges.all(|range| range.size() == Some(1.0)),
                "/space/hyperparameters",
                "leave no choice: each has one value; give one of them another",
            );
        }
        faults
    }

    fn training_faults(&self, faults: &mut Faults) {
        faults.extend_under("/trial", self.trial.faults());
        if !self.steps.is_empty() {
            let (_, found) = self.pipeline(self.steps.clone());
            if !found.found.is_empty() {
                faults.extend_under("", found);
                return;
            }
            faults.require(
                self.trial == Self::default().trial,
                "/trial",
                "is not used beside `steps`; leave out one of the two",
            );
            faults.require(
                self.last.is_none(),
                "/final",
                "is not used beside `steps`, which are done to the winner as they are",
            );
        }
        if !faults.found.is_empty() {
            return;
        }
        let of_place = |name: &str| format!("/space/hyperparameters/{}", escape(name));
        let mut places: BTreeMap<&str, &str> = BTreeMap::new();
        for name in self.space.hyperparameters.0.keys() {
            let place = self.place_of(name);
            if let Some(other) = places.insert(place, name) {
                let detail = format!("is the same as `{other}`");
                faults.require(false, &of_place(name), detail);
            }
            let around = place.match_indices('.').map(|(end, _)| &place[..end]);
            let around = self
                .space
                .hyperparameters
                .0
                .keys()
                .find(|other| around.clone().any(|outer| outer == self.place_of(other)));
            if let Some(other) = around {
                let detail = format!("lies within `{other}`; choose the parts apart, or the whole");
                faults.require(false, &of_place(name), detail);
            }
            let mut given = self
                .last
                .as_ref()
                .and_then(|last| last.get(place.split('.').next()?));
            for part in place.split('.').skip(1) {
                given = given.and_then(|value| value.get(part));
            }
            let detail = "is chosen by the search, and `final` would have it otherwise; leave out one of the two";
            faults.require(given.is_none(), &of_place(name), detail);
        }
        if !faults.found.is_empty() {
            return;
        }
        for (varied, error) in self.tried() {
            match varied {
                None => faults.require(false, &error.pointer, error.detail),
                Some((name, value)) => {
                    // What is wrong with it may be elsewhere.
                    let own = name.replace('.', "/");
                    let detail = match error.pointer.ends_with(&own) {
                        true => format!("with the value {value}: {}", error.detail),
                        false => format!(
                            "with the value {value}: {}: {}",
                            error.pointer, error.detail
                        ),
                    };
                    faults.require(false, &of_place(name), detail);
                }
            }
        }
    }

    /// The objectives, of the task where none are named.
    pub fn objectives(&self, task: Task) -> Vec<Objective> {
        if !self.objectives.is_empty() {
            return self.objectives.clone();
        }
        let metric = match MetricName::Accuracy.applies_to(task) {
            true => ObjectiveName::Metric(MetricName::Accuracy),
            false => ObjectiveName::Metric(MetricName::Loss),
        };
        vec![Objective { metric, goal: None }]
    }

    /// Whether candidates of a model with batch normalisation (`normalised`) or without are corrected where channels have
    /// left.
    pub fn reconstructs(&self, normalised: bool) -> bool {
        let asked = self.reconstruct.unwrap_or(!normalised);
        asked && !self.shares_weights() && self.space.cell.is_none()
    }

    /// The task's usual metrics and those among the objectives.
    pub fn metrics(&self, task: Task) -> Vec<MetricName> {
        let mut all = MetricName::defaults(task);
        let objectives = self.objectives.iter();
        for metric in objectives.filter_map(|objective| objective.metric.metric()) {
            if !all.contains(&metric) {
                all.push(metric);
            }
        }
        all
    }

    /// Whether all objectives can be measured for a task.
    pub fn check_objectives(&self, task: Task) -> Result<(), FieldError> {
        let unsuited = self
            .objectives
            .iter()
            .position(|objective| !objective.metric.applies_to(task));
        match unsuited {
            None => Ok(()),
            Some(index) => {
                let name = self.objectives[index].metric.as_str();
                let task = serde_json::to_value(task).unwrap_or_default();
                Err(FieldError::new(
                    format!("/objectives/{index}/metric"),
                    format!("`{name}` does not suit the task {task}"),
                ))
            }
        }
    }

    /// The strategy, for so many epochs of a whole training.
    pub fn build_strategy(&self) -> Box<dyn Strategy> {
        self.strategy.build(self.trials as usize, self.trial.epochs)
    }

    /// The epochs of one training of a candidate, at most.
    pub fn most_epochs(&self) -> u64 {
        let recipes = self.examples().into_iter();
        let recipes = recipes.filter_map(|(_, chosen)| self.recipe(&chosen).ok());
        let all = recipes.chain(self.recipe(&[]).ok());
        let of = |recipe: Recipe| recipe.steps.iter().map(Params::epochs).sum();
        all.map(of).max().unwrap_or(0)
    }

    /// Times that one candidate is judged.
    pub fn folds(&self) -> u32 {
        match self.evaluation {
            Evaluation::CrossValidation { folds, .. } => folds,
            _ => 1,
        }
    }

    /// Whether candidates share their weights.
    pub fn shares_weights(&self) -> bool {
        matches!(self.evaluation, Evaluation::SharedWeights { .. })
    }

    /// Trainings that judge so many candidates.
    pub fn trainings(&self, trials: u32) -> u64 {
        match self.shares_weights() {
            true => 1,
            false => u64::from(trials) * u64::from(self.folds()),
        }
    }
}
