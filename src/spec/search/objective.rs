//! What trials are judged by.

use serde::de::value::StrDeserializer;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::spec::evaluate::MetricName;
use crate::spec::job::Task;

/// What a candidate costs.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Cost {
    /// Multiply-accumulate operations for one example.
    Macs,
    Parameters,
    NonzeroParameters,
    /// Of the ONNX file.
    SizeBytes,
    /// Median time of a run, measured on the job's device.
    LatencyMs,
}

impl Cost {
    /// The word that JSON has.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Macs => "macs",
            Self::Parameters => "parameters",
            Self::NonzeroParameters => "nonzero_parameters",
            Self::SizeBytes => "size_bytes",
            Self::LatencyMs => "latency_ms",
        }
    }
}

/// The most that a candidate may have of each cost, in its own unit: counts for one example, bytes, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Constraints {
    /// Multiply-accumulate operations for one example.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub macs: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonzero_parameters: Option<f64>,
    /// Of the ONNX file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<f64>,
    /// Median time of a run, measured on the job's device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

impl Constraints {
    /// Those that there are.
    pub fn iter(&self) -> impl Iterator<Item = (Cost, f64)> + use<> {
        let all = [
            (Cost::Macs, self.macs),
            (Cost::Parameters, self.parameters),
            (Cost::NonzeroParameters, self.nonzero_parameters),
            (Cost::SizeBytes, self.size_bytes),
            (Cost::LatencyMs, self.latency_ms),
        ];
        all.into_iter()
            .filter_map(|(cost, most)| Some((cost, most?)))
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The loss of classification, under its own name.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ObjectiveLoss {
    CrossEntropy,
}

/// What a trial can be judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ObjectiveName {
    Metric(MetricName),
    Loss(ObjectiveLoss),
    Cost(Cost),
}

impl<'de> Deserialize<'de> for ObjectiveName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        let of = StrDeserializer::<serde::de::value::Error>::new;
        let metric = MetricName::deserialize(of(&word)).map(Self::Metric);
        let loss = || ObjectiveLoss::deserialize(of(&word)).map(Self::Loss);
        let cost = || Cost::deserialize(of(&word)).map(Self::Cost);
        metric.or_else(|unknown| {
            loss().or_else(|_| cost()).map_err(|error| {
                serde::de::Error::custom(format!("{unknown}; or, as a cost: {error}"))
            })
        })
    }
}

impl ObjectiveName {
    /// The word that JSON has.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Metric(metric) => metric.as_str(),
            Self::Loss(ObjectiveLoss::CrossEntropy) => "cross_entropy",
            Self::Cost(cost) => cost.as_str(),
        }
    }

    /// The metric that it is; `None` for costs.
    pub fn metric(self) -> Option<MetricName> {
        match self {
            Self::Metric(metric) => Some(metric),
            Self::Loss(ObjectiveLoss::CrossEntropy) => Some(MetricName::Loss),
            Self::Cost(_) => None,
        }
    }

    pub(super) fn applies_to(self, task: Task) -> bool {
        match self {
            Self::Metric(metric) => metric.applies_to(task),
            Self::Loss(ObjectiveLoss::CrossEntropy) => task.has_labels(),
            Self::Cost(_) => true,
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
        let rises = self.metric.metric().is_some_and(MetricName::rises);
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
