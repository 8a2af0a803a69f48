//! Parameters of `evaluate`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::job::Task;
use super::problem::Faults;

/// A figure measured on a split.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum MetricName {
    /// Mean loss of the task.
    Loss,
    /// Share of examples whose largest output is the label's; for multilabel, share of labels
    /// on the right side of 0.5.
    Accuracy,
    #[serde(rename = "top_5_accuracy")]
    Top5Accuracy,
    /// F1 averaged over the classes that occur, each with the same weight.
    F1,
    MeanSquaredError,
    MeanAbsoluteError,
}

impl MetricName {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Accuracy => "accuracy",
            Self::Top5Accuracy => "top_5_accuracy",
            Self::F1 => "f1",
            Self::MeanSquaredError => "mean_squared_error",
            Self::MeanAbsoluteError => "mean_absolute_error",
        }
    }

    /// Whether the metric has a meaning for the task.
    pub fn applies_to(self, task: Task) -> bool {
        match self {
            Self::Loss => true,
            Self::Accuracy | Self::F1 => {
                matches!(task, Task::Classification | Task::Multilabel)
            }
            Self::Top5Accuracy => task == Task::Classification,
            Self::MeanSquaredError | Self::MeanAbsoluteError => task == Task::Regression,
        }
    }

    /// What is measured when the request names nothing.
    pub fn defaults(task: Task) -> Vec<Self> {
        match task {
            Task::Regression => vec![Self::Loss, Self::MeanAbsoluteError],
            _ => vec![Self::Loss, Self::Accuracy],
        }
    }
}

/// Parameters of an `evaluate` job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateParams {
    /// The task's usual metrics when empty.
    pub metrics: Vec<MetricName>,
}

impl EvaluateParams {
    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        for (index, metric) in self.metrics.iter().enumerate() {
            faults.require(
                !self.metrics[..index].contains(metric),
                &format!("/metrics/{index}"),
                "is named twice",
            );
        }
        faults
    }
}
