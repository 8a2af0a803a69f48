//! Parameters of `search`: what may change, how candidates are chosen and how they are judged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::evaluate::MetricName;
use super::hyperparameters::{Hyperparameters, Range, escaped};
use super::job::{JobKind, Params, Task};
use super::pipeline::{PipelineParams, StepRequest};
use super::problem::{Faults, FieldError, Problem, parse};
use super::strategy::StrategyParams;
use super::train::TrainParams;
use crate::search::architecture::activations;
use crate::search::strategy::Strategy;

/// What an edge of a cell does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum CellOperation {
    /// Nothing comes through.
    #[serde(rename = "none")]
    None,
    #[serde(rename = "skip_connect")]
    SkipConnect,
    /// ReLU, convolution, batch normalisation.
    #[serde(rename = "conv_1x1")]
    Conv1x1,
    #[serde(rename = "conv_3x3")]
    Conv3x3,
    #[serde(rename = "avg_pool_3x3")]
    AvgPool3x3,
}

impl CellOperation {
    /// Those of NAS-Bench-201.
    const ALL: [Self; 5] = [
        Self::None,
        Self::SkipConnect,
        Self::Conv1x1,
        Self::Conv3x3,
        Self::AvgPool3x3,
    ];

    /// The word that JSON has.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SkipConnect => "skip_connect",
            Self::Conv1x1 => "conv_1x1",
            Self::Conv3x3 => "conv_3x3",
            Self::AvgPool3x3 => "avg_pool_3x3",
        }
    }
}

/// What stands around the cells, and which edges they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub enum CellTemplate {
    /// Four values, six edges between them; stages of equal cells with residual blocks between.
    #[default]
    #[serde(rename = "nas_bench_201")]
    NasBench201,
}

/// Networks of one repeated cell, with fresh weights, in the place of all that the model computes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CellSpace {
    pub template: CellTemplate,
    /// What an edge can do.
    pub operations: Vec<CellOperation>,
    /// Of the first stage; each later one has twice as many.
    pub channels: u32,
    /// In each stage.
    pub cells: u32,
    pub stages: u32,
}

impl Default for CellSpace {
    fn default() -> Self {
        Self {
            template: CellTemplate::default(),
            operations: CellOperation::ALL.to_vec(),
            channels: 16,
            cells: 5,
            stages: 3,
        }
    }
}

impl CellSpace {
    /// Every fault, with pointers relative to this object.
    fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        for (name, value, most) in [
            ("/channels", self.channels, 1024),
            ("/cells", self.cells, 64),
            ("/stages", self.stages, 6),
        ] {
            let detail = format!("must be from 1 to {most}");
            faults.require((1..=most).contains(&value), name, detail);
        }
        for (index, operation) in self.operations.iter().enumerate() {
            let twice = self.operations[..index].contains(operation);
            faults.require(!twice, &format!("/operations/{index}"), "is there twice");
        }
        faults.require(
            self.operations
                .iter()
                .any(|operation| *operation != CellOperation::None),
            "/operations",
            "needs one that lets something through",
        );
        faults
    }
}

/// What can change. Architectures are made of the job's model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSpace {
    /// Shares of the channels (neurons, heads) of each group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub width: Vec<f64>,
    /// Whether residual blocks may go.
    pub depth: bool,
    /// In inverted bottlenecks (a depthwise convolution between two of single points): channels inside by channels
    /// that come in, in place of `width`; the model's own and less.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expand: Vec<f64>,
    /// Numbers of groups of convolutions that have none; kernels between groups go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<u32>,
    /// Shares of the height and width of images that the model looks at; a Resize at its beginning sees to it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resolution: Vec<f64>,
    /// Sizes of square kernels of convolutions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernel: Vec<u32>,
    /// Operators that take the place of an activation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub activation: Vec<String>,
    /// Networks of cells that take what the model takes and give what it gives, for those who start from nothing;
    /// stands alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cell: Option<CellSpace>,
    /// Node names to leave alone, with `*` and `?`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    pub hyperparameters: Hyperparameters,
}

impl SearchSpace {
    /// Whether models can differ in it.
    fn opens_models(&self) -> bool {
        self.cell.is_some() || self.changes_the_model()
    }

    fn changes_the_model(&self) -> bool {
        self.depth
            || [&self.width, &self.expand, &self.resolution]
                .iter()
                .any(|all| !all.is_empty())
            || [&self.groups, &self.kernel]
                .iter()
                .any(|all| !all.is_empty())
            || !self.activation.is_empty()
    }

    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        for (name, values, most) in [
            ("width", &self.width, 1),
            ("expand", &self.expand, 64),
            ("resolution", &self.resolution, 1),
        ] {
            for (index, value) in values.iter().enumerate() {
                faults.require(
                    *value > 0.0 && *value <= f64::from(most),
                    &format!("/{name}/{index}"),
                    format!("must be above 0 and at most {most}"),
                );
            }
        }
        for (name, values, most) in [
            ("groups", &self.groups, 65_536),
            ("kernel", &self.kernel, 31),
        ] {
            for (index, value) in values.iter().enumerate() {
                faults.require(
                    (1..=most).contains(value),
                    &format!("/{name}/{index}"),
                    format!("must be from 1 to {most}"),
                );
            }
        }
        let known: Vec<&str> = activations().collect();
        for (index, operator) in self.activation.iter().enumerate() {
            faults.require(
                known.contains(&operator.as_str()),
                &format!("/activation/{index}"),
                format!("must be one of {}", known.join(", ")),
            );
        }
        for (name, count) in [
            ("/width", self.width.len()),
            ("/expand", self.expand.len()),
            ("/groups", self.groups.len()),
            ("/resolution", self.resolution.len()),
            ("/kernel", self.kernel.len()),
            ("/activation", self.activation.len()),
        ] {
            faults.require(count <= 32, name, "must have at most 32 values");
        }
        if !faults.found.is_empty() {
            return faults;
        }
        let twice = |values: &[String], at: usize| values[..at].contains(&values[at]);
        for at in (0..self.activation.len()).filter(|&at| twice(&self.activation, at)) {
            faults.require(false, &format!("/activation/{at}"), "is there twice");
        }
        for (index, pattern) in self.exclude.iter().enumerate() {
            if let Err(error) = globset::Glob::new(pattern) {
                faults.require(false, &format!("/exclude/{index}"), error.to_string());
            }
        }
        if let Some(cell) = &self.cell {
            faults.extend_under("/cell", cell.faults());
            faults.require(
                !self.changes_the_model() && self.exclude.is_empty(),
                "/cell",
                "takes the place of the model, of which nothing is left to change: leave out the cell, or width, depth, \
                 expand, groups, resolution, kernel, activation and exclude",
            );
        }
        faults.extend_under("/hyperparameters", self.hyperparameters.faults());
        faults
    }
}

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

/// What a trial can be judged by.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveName {
    Loss,
    /// The loss of classification.
    CrossEntropy,
    Accuracy,
    #[serde(rename = "top_5_accuracy")]
    Top5Accuracy,
    F1,
    MeanSquaredError,
    MeanAbsoluteError,
    Macs,
    Parameters,
    NonzeroParameters,
    /// Of the ONNX file.
    SizeBytes,
    /// Median time of a run, measured on the job's device.
    LatencyMs,
}

impl ObjectiveName {
    /// The word that JSON has.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross_entropy",
            Self::Macs => "macs",
            Self::Parameters => "parameters",
            Self::NonzeroParameters => "nonzero_parameters",
            Self::SizeBytes => "size_bytes",
            Self::LatencyMs => "latency_ms",
            other => other.metric().map_or("", MetricName::as_str),
        }
    }

    /// The metric that it is; `None` for costs.
    pub fn metric(self) -> Option<MetricName> {
        Some(match self {
            Self::Loss | Self::CrossEntropy => MetricName::Loss,
            Self::Accuracy => MetricName::Accuracy,
            Self::Top5Accuracy => MetricName::Top5Accuracy,
            Self::F1 => MetricName::F1,
            Self::MeanSquaredError => MetricName::MeanSquaredError,
            Self::MeanAbsoluteError => MetricName::MeanAbsoluteError,
            _ => return None,
        })
    }

    fn applies_to(self, task: Task) -> bool {
        match self.metric() {
            None => true,
            Some(metric) => {
                metric.applies_to(task)
                    && (self != Self::CrossEntropy || task == Task::Classification)
            }
        }
    }
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    Maximize,
    Minimize,
}

/// One figure that the search makes large or small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    pub metric: ObjectiveName,
    /// Shares of right answers are made large, losses, errors and costs small when `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<Goal>,
}

impl Objective {
    pub fn goal(self) -> Goal {
        let rises = matches!(
            self.metric.metric(),
            Some(MetricName::Accuracy | MetricName::Top5Accuracy | MetricName::F1)
        );
        self.goal.unwrap_or(match rises {
            true => Goal::Maximize,
            false => Goal::Minimize,
        })
    }

    /// The figure as something to be made small.
    pub fn minimized(self, value: f64) -> f64 {
        match self.goal() {
            Goal::Minimize => value,
            Goal::Maximize => -value,
        }
    }
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
    /// By cost: the most that a candidate may have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub constraints: BTreeMap<ObjectiveName, f64>,
    /// Scores that need no training choose among candidates at random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub screening: Option<Screening>,
    /// How each candidate is trained, with the hyperparameters put in their places.
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
            constraints: BTreeMap::new(),
            screening: None,
            trial: TrainParams {
                epochs: 3,
                ..TrainParams::default()
            },
            steps: Vec::new(),
            last: None,
            control: false,
            warm_start: None,
        }
    }
}

/// What is done to a candidate.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recipe {
    /// The job's where `None`.
    pub batch_size: Option<u32>,
    pub steps: Vec<Params>,
}

/// Hyperparameters that have a short name for their place in `trial`.
const PLACES: [(&str, &str); 7] = [
    ("learning_rate", "optimizer.learning_rate"),
    ("weight_decay", "optimizer.weight_decay"),
    ("momentum", "optimizer.momentum"),
    ("nesterov", "optimizer.nesterov"),
    ("optimizer", "optimizer.name"),
    ("schedule", "schedule.name"),
    ("warmup_fraction", "schedule.warmup_fraction"),
];

impl SearchParams {
    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        faults.extend_under("/space", self.space.faults());
        faults.require(
            self.objectives.len() <= 8,
            "/objectives",
            "must be at most 8",
        );
        let objectives = self.objectives.len().max(1);
        faults.extend_under("/strategy", self.strategy.faults(objectives));
        faults.require(
            (1..=100_000).contains(&self.trials),
            "/trials",
            "must be from 1 to 100000",
        );
        if let Evaluation::CrossValidation { folds, .. } = self.evaluation {
            faults.require(
                (2..=100).contains(&folds),
                "/evaluation/folds",
                "must be from 2 to 100",
            );
        }
        if let Evaluation::SharedWeights { random } = self.evaluation {
            faults.require(
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
            faults.require(
                earlier.iter().all(|other| other.metric != objective.metric),
                &format!("/objectives/{index}"),
                "is there twice",
            );
        }
        for (name, most) in &self.constraints {
            let place = format!("/constraints/{}", name.as_str());
            faults.require(
                name.metric().is_none(),
                &place,
                "only costs can be bounded: macs, parameters, nonzero_parameters, size_bytes, latency_ms; \
                 make a metric an objective",
            );
            faults.require(*most > 0.0 && most.is_finite(), &place, "must be above 0");
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
            faults.require(
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
        faults
    }

    fn training_faults(&self, faults: &mut Faults) {
        faults.extend_under("/trial", self.trial.faults());
        if !self.steps.is_empty() {
            if let Err(problem) = self.pipeline(self.steps.clone()) {
                faults.found.extend(problem.errors);
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
        let of_place = |name: &str| format!("/space/hyperparameters/{}", escaped(name));
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
        if faults.found.is_empty()
            && let Err((name, error)) = self.tried()
        {
            match name {
                None => faults.found.push(error),
                Some((name, value)) => {
                    let detail = format!("with the value {value}: {}", error.detail);
                    faults.found.push(FieldError::new(of_place(name), detail));
                }
            }
        }
    }

    /// Hyperparameters with these values, the others with their first one, where they count.
    fn settled<'a>(&'a self, given: &[(&str, Value)]) -> Vec<(&'a str, Value)> {
        let mut chosen: Vec<(&str, Value)> = Vec::new();
        for name in self.space.hyperparameters.order() {
            let range = &self.space.hyperparameters.0[name];
            let value_of = |other: &str| chosen.iter().find(|(name, _)| *name == other);
            let counts = range.when.iter().all(|(other, values)| {
                value_of(other).is_some_and(|(_, value)| values.contains(value))
            });
            let own = given.iter().find(|(other, _)| *other == name);
            let own = own.map(|(_, value)| value.clone());
            let first = || range.examples().into_iter().next();
            if let Some(value) = own.or_else(first).filter(|_| counts) {
                chosen.push((name, value));
            }
        }
        chosen
    }

    /// Hyperparameters by which mistakes show: each with every value of a choice and both ends of numbers, and
    /// every value of the one that it waits for; the others with their first. With the one that varies.
    #[expect(
        clippy::type_complexity,
        reason = "what varies, and all that is chosen"
    )]
    fn examples(&self) -> Vec<((&str, Value), Vec<(&str, Value)>)> {
        let mut all = Vec::new();
        for (name, range) in &self.space.hyperparameters.0 {
            let waits = range.when.iter().next();
            let befores: Vec<Option<(&str, Value)>> = match waits {
                None => vec![None],
                Some((other, values)) => {
                    let of = |value: &Value| Some((other.as_str(), value.clone()));
                    values.iter().map(of).collect()
                }
            };
            for (at, value) in range.examples().into_iter().enumerate() {
                // One after the other, not each with each.
                let few = if at == 0 { befores.len() } else { 1 };
                for before in &befores[..few.min(befores.len())] {
                    let mut given = vec![(name.as_str(), value.clone())];
                    given.extend(before.clone());
                    all.push(((name.as_str(), value.clone()), self.settled(&given)));
                }
            }
        }
        all
    }

    /// Tries what hyperparameters can be in their places; an error with the one that it comes from.
    #[expect(clippy::type_complexity, reason = "an error and where it comes from")]
    fn tried(&self) -> Result<(), (Option<(&str, Value)>, FieldError)> {
        let both = |chosen: &[(&str, Value)]| {
            self.recipe(chosen)?;
            self.finish(chosen)
        };
        both(&[]).map_err(|error| (None, error))?;
        let first = both(&self.settled(&[]));
        for (varied, chosen) in self.examples() {
            let Err(error) = both(&chosen) else { continue };
            // Where they can't be together from the start, the one is told that can't be by itself.
            let alone = both(std::slice::from_ref(&varied));
            if first.is_ok() || alone.is_err() {
                return Err((Some(varied), alone.err().unwrap_or(error)));
            }
        }
        first.map(|_| ()).map_err(|error| (None, error))
    }

    /// What is done to candidates and to the winner, with hyperparameters of every kind; each with the place of
    /// the parameters in this object.
    pub fn recipes(&self) -> Result<Vec<(String, Recipe)>, FieldError> {
        let mut all = vec![
            ("/trial".to_owned(), self.recipe(&[])?),
            ("/final".to_owned(), self.finish(&[])?),
        ];
        for ((name, _), chosen) in self.examples() {
            let place = format!("/space/hyperparameters/{name}");
            all.push((place.clone(), self.recipe(&chosen)?));
            all.push((place, self.finish(&chosen)?));
        }
        Ok(all)
    }

    /// Where a hyperparameter is put.
    fn place_of<'a>(&self, name: &'a str) -> &'a str {
        let short = PLACES.iter().find(|(short, _)| *short == name);
        match (self.steps.is_empty(), short) {
            (true, Some((_, place))) => place,
            _ => name,
        }
    }

    fn pipeline(&self, steps: Vec<StepRequest>) -> Result<Vec<Params>, Problem> {
        let known = [JobKind::Train, JobKind::Prune, JobKind::Distill];
        let other = steps.iter().position(|step| !known.contains(&step.kind));
        if let Some(index) = other {
            let detail = "a trial can have steps of the kinds train, prune and distill";
            let error = FieldError::new(format!("/steps/{index}/kind"), detail);
            return Err(Problem::invalid(vec![error]));
        }
        PipelineParams { steps }.steps()
    }

    /// What is done to a candidate with these hyperparameters.
    pub fn recipe(&self, chosen: &[(&str, Value)]) -> Result<Recipe, FieldError> {
        let trial = serde_json::to_value(&self.trial).expect("parameters are plain data");
        self.with(trial, "/trial", chosen)
    }

    /// What is done to the winner, which has these hyperparameters.
    pub fn finish(&self, chosen: &[(&str, Value)]) -> Result<Recipe, FieldError> {
        let mut trial = serde_json::to_value(&self.trial).expect("parameters are plain data");
        for (name, value) in self.last.iter().flatten() {
            merge(&mut trial[name.as_str()], value);
        }
        self.with(trial, "/final", chosen)
    }

    fn with(
        &self,
        trial: Value,
        pointer: &str,
        chosen: &[(&str, Value)],
    ) -> Result<Recipe, FieldError> {
        let mut batch_size = None;
        let mut all = match self.steps.is_empty() {
            true => trial,
            false => serde_json::json!({ "steps": self.steps }),
        };
        for (name, value) in chosen {
            if *name == "batch_size" {
                let size = value.as_u64().filter(|size| (1..=65_536).contains(size));
                let refused = || FieldError::new("", "must be a whole number from 1 to 65536");
                batch_size = Some(size.ok_or_else(refused)? as u32);
                continue;
            }
            let place = self.place_of(name);
            let names_models = place.ends_with(".model") || place.contains(".teachers");
            if names_models || has_models(value) {
                let detail = "which models take part can't be searched; post a search for each";
                return Err(FieldError::new("", detail));
            }
            if !self.steps.is_empty() && !place.starts_with("steps.") {
                let detail =
                    "name the place beside `steps`, such as steps.0.params.finetune.epochs";
                return Err(FieldError::new("", detail));
            }
            put(&mut all, place, value)?;
        }
        if !self.steps.is_empty() {
            let read: PipelineParams = parse(all)?;
            let first = |problem: Problem| {
                let detail = problem.detail.clone();
                let error = problem.errors.into_iter().next();
                error.unwrap_or_else(|| FieldError::new("/steps", detail))
            };
            let steps = self.pipeline(read.steps).map_err(first)?;
            return Ok(Recipe { batch_size, steps });
        }
        let train: TrainParams = parse(all).map_err(|error| error.under(pointer))?;
        match train.faults().found.into_iter().next() {
            Some(error) => Err(error.under(pointer)),
            None => Ok(Recipe {
                batch_size,
                steps: vec![Params::Train(train)],
            }),
        }
    }

    /// The objectives, of the task where none are named.
    pub fn objectives(&self, task: Task) -> Vec<Objective> {
        if !self.objectives.is_empty() {
            return self.objectives.clone();
        }
        let metric = match MetricName::Accuracy.applies_to(task) {
            true => ObjectiveName::Accuracy,
            false => ObjectiveName::Loss,
        };
        vec![Objective { metric, goal: None }]
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

/// Whether a value names models.
fn has_models(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name == "model" || name == "teachers" || has_models(value)),
        Value::Array(items) => items.iter().any(has_models),
        _ => false,
    }
}

/// Puts what is given into the places of objects, whole otherwise.
fn merge(into: &mut Value, given: &Value) {
    match (into, given) {
        (Value::Object(into), Value::Object(given)) => {
            for (name, value) in given {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, given) => *into = given.clone(),
    }
}

/// Puts a value into the place that is named from the outside in, with dots between.
fn put(json: &mut Value, place: &str, value: &Value) -> Result<(), FieldError> {
    let mut at = json;
    for part in place.split('.') {
        if at.is_null() {
            *at = Value::Object(serde_json::Map::new());
        }
        at = match at {
            Value::Object(fields) => fields.entry(part.to_owned()).or_insert(Value::Null),
            Value::Array(items) => {
                let count = items.len();
                // One place has one name.
                let index = part
                    .parse::<usize>()
                    .ok()
                    .filter(|at| at.to_string() == part);
                let item = index.and_then(|at| items.get_mut(at));
                item.ok_or_else(|| {
                    let detail = format!("`{part}` in `{place}` must be a number below {count}");
                    FieldError::new("", detail)
                })?
            }
            _ => {
                let detail =
                    format!("`{place}` names no place: there is nothing in it at `{part}`");
                return Err(FieldError::new("", detail));
            }
        };
    }
    *at = value.clone();
    Ok(())
}
