//! What trials are judged by.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spec::evaluate::MetricName;
use crate::spec::job::Task;

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

    pub(super) fn applies_to(self, task: Task) -> bool {
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
