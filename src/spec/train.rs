//! Parameters of `train`, which other kinds take under the name `finetune`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::augment::Augment;
use super::job::Task;
use super::problem::Faults;

/// How the weights are updated from their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerName {
    Sgd,
    Adam,
    Adamw,
    Rmsprop,
}

/// An optimizer and its constants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    #[serde(default = "default_optimizer")]
    pub name: OptimizerName,
    /// At its highest; 0.001 when left out.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f64,
    /// Decoupled for `adamw`, added to the gradient for the others.
    #[serde(default)]
    pub weight_decay: f64,
    /// `sgd` and `rmsprop` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// `sgd` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nesterov: Option<bool>,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            name: default_optimizer(),
            learning_rate: default_learning_rate(),
            weight_decay: 0.01,
            momentum: None,
            nesterov: None,
        }
    }
}

fn default_optimizer() -> OptimizerName {
    OptimizerName::Adamw
}

fn default_learning_rate() -> f64 {
    0.001
}

/// How the learning rate changes over the whole training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleName {
    Constant,
    /// Half a cosine from the full rate to zero (Loshchilov and Hutter, SGDR, 2017, eq. 5).
    Cosine,
    /// A straight line from the full rate to zero.
    Linear,
    /// Divided by ten after one half and after three quarters of the steps.
    Step,
}

/// A learning-rate schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LearningRateSchedule {
    #[serde(default = "default_schedule")]
    pub name: ScheduleName,
    /// Share of the steps over which the rate rises from zero, 0 to 1.
    #[serde(default)]
    pub warmup_fraction: f64,
}

impl Default for LearningRateSchedule {
    fn default() -> Self {
        Self {
            name: default_schedule(),
            warmup_fraction: 0.05,
        }
    }
}

fn default_schedule() -> ScheduleName {
    ScheduleName::Cosine
}

/// What the training makes small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossName {
    /// Softmax cross-entropy against integer labels: classification.
    CrossEntropy,
    /// Sigmoid cross-entropy against 0/1 targets: multilabel.
    BinaryCrossEntropy,
    /// Mean squared error: regression.
    MeanSquaredError,
}

impl LossName {
    /// Whether the loss can be computed from what the task's data has.
    pub fn fits(self, task: Task) -> bool {
        matches!(
            (self, task),
            (
                Self::CrossEntropy,
                Task::Classification | Task::TokenClassification | Task::LanguageModeling
            ) | (Self::BinaryCrossEntropy, Task::Multilabel)
                | (Self::MeanSquaredError, Task::Regression | Task::Multilabel)
        )
    }
}

/// Where training starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartWeights {
    #[default]
    Keep,
    /// He initialisation for weights, zero for biases, fresh normalisation statistics.
    Reinitialize,
}

/// Ends training when the validation loss stops falling, and keeps the best epoch's weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlyStopping {
    /// Epochs without improvement that are borne.
    pub patience: u32,
}

/// Weights that make all labels count the same, however many examples they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balanced {
    Balanced,
}

/// What examples of each label count in the cross-entropy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "must be \"balanced\" or a list of a number for each label"
)]
pub enum ClassWeights {
    Named(Balanced),
    /// By label, above 0.
    Each(Vec<f64>),
}

/// Parameters of a `train` job, and of `finetune` in other kinds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainParams {
    /// How often each example is seen.
    pub epochs: u32,
    pub optimizer: Optimizer,
    pub schedule: LearningRateSchedule,
    /// Follows from the task when `null`.
    pub loss: Option<LossName>,
    /// Share of each label spread over all classes, 0 to below 1.
    pub label_smoothing: f64,
    /// What examples of each label count; all the same when `null`. Classification by cross-entropy only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,
    pub weights: StartWeights,
    pub early_stopping: Option<EarlyStopping>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augment>,
}

impl Default for TrainParams {
    fn default() -> Self {
        Self {
            epochs: 10,
            optimizer: Optimizer::default(),
            schedule: LearningRateSchedule::default(),
            loss: None,
            label_smoothing: 0.0,
            class_weights: None,
            weights: StartWeights::Keep,
            early_stopping: None,
            augment: None,
        }
    }
}

impl TrainParams {
    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        faults.require_value(
            (1..=10_000).contains(&self.epochs),
            "/epochs",
            "must be from 1 to 10000",
        );
        let optimizer = &self.optimizer;
        faults.require_value(
            optimizer.learning_rate > 0.0 && optimizer.learning_rate <= 100.0,
            "/optimizer/learning_rate",
            "must be above 0 and at most 100",
        );
        faults.require_value(
            (0.0..=10.0).contains(&optimizer.weight_decay),
            "/optimizer/weight_decay",
            "must be from 0 to 10",
        );
        if let Some(momentum) = optimizer.momentum {
            faults.require(
                matches!(optimizer.name, OptimizerName::Sgd | OptimizerName::Rmsprop),
                "/optimizer/momentum",
                "applies to sgd and rmsprop only; remove it",
            );
            faults.require_value(
                (0.0..1.0).contains(&momentum),
                "/optimizer/momentum",
                "must be from 0 to below 1",
            );
        }
        if let Some(nesterov) = optimizer.nesterov {
            faults.require(
                optimizer.name == OptimizerName::Sgd,
                "/optimizer/nesterov",
                "applies to sgd only; remove it",
            );
            faults.require(
                !nesterov || optimizer.momentum.is_some_and(|momentum| momentum > 0.0),
                "/optimizer/nesterov",
                "needs a momentum above 0",
            );
        }
        if let Some(ClassWeights::Each(weights)) = &self.class_weights {
            faults.require_value(
                weights.iter().all(|weight| *weight > 0.0 && *weight <= 1e6),
                "/class_weights",
                "must be above 0 and at most 1000000",
            );
        }
        faults.require_value(
            (0.0..=1.0).contains(&self.schedule.warmup_fraction),
            "/schedule/warmup_fraction",
            "must be from 0 to 1",
        );
        faults.require_value(
            (0.0..1.0).contains(&self.label_smoothing),
            "/label_smoothing",
            "must be from 0 to below 1",
        );
        faults.require(
            self.label_smoothing == 0.0 || matches!(self.loss, None | Some(LossName::CrossEntropy)),
            "/label_smoothing",
            "applies to cross_entropy only",
        );
        if let Some(early_stopping) = &self.early_stopping {
            faults.require_value(
                early_stopping.patience >= 1,
                "/early_stopping/patience",
                "must be at least 1",
            );
        }
        if let Some(augment) = &self.augment {
            faults.extend_under("/augment", augment.faults());
        }
        faults
    }
}
