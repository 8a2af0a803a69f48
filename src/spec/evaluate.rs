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
    /// Share of examples, or of tokens, whose largest output is the label's; for multilabel, share of labels
    /// on the right side of 0.5.
    Accuracy,
    #[serde(rename = "top_2_accuracy")]
    Top2Accuracy,
    #[serde(rename = "top_3_accuracy")]
    Top3Accuracy,
    #[serde(rename = "top_5_accuracy")]
    Top5Accuracy,
    #[serde(rename = "top_10_accuracy")]
    Top10Accuracy,
    /// Recall averaged over the classes that have examples.
    BalancedAccuracy,
    /// F1 averaged over the classes that occur, each with the same weight (macro).
    F1,
    /// F1 averaged over the classes, each with the weight of its examples.
    WeightedF1,
    /// Averaged over the classes that occur.
    Precision,
    /// Averaged over the classes that occur.
    Recall,
    /// Area under the receiver operating characteristic; of more than two classes that of each against all
    /// others, averaged.
    RocAuc,
    /// Area under the curve of precision over recall, averaged likewise.
    AveragePrecision,
    /// How far confidence is from accuracy, over 15 bins of confidence (Guo et al., 2017, equation 3).
    ExpectedCalibrationError,
    /// e to the mean cross-entropy.
    Perplexity,
    MeanSquaredError,
    RootMeanSquaredError,
    MeanAbsoluteError,
    /// Share of the targets' variance that is met, averaged over the outputs.
    R2,
    /// Rank correlation of outputs and targets, averaged over the outputs.
    Spearman,
}

impl MetricName {
    pub const ALL: [Self; 20] = [
        Self::Loss,
        Self::Accuracy,
        Self::Top2Accuracy,
        Self::Top3Accuracy,
        Self::Top5Accuracy,
        Self::Top10Accuracy,
        Self::BalancedAccuracy,
        Self::F1,
        Self::WeightedF1,
        Self::Precision,
        Self::Recall,
        Self::RocAuc,
        Self::AveragePrecision,
        Self::ExpectedCalibrationError,
        Self::Perplexity,
        Self::MeanSquaredError,
        Self::RootMeanSquaredError,
        Self::MeanAbsoluteError,
        Self::R2,
        Self::Spearman,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Accuracy => "accuracy",
            Self::Top5Accuracy => "top_5_accuracy",
            Self::Top2Accuracy => "top_2_accuracy",
            Self::Top3Accuracy => "top_3_accuracy",
            Self::Top10Accuracy => "top_10_accuracy",
            Self::BalancedAccuracy => "balanced_accuracy",
            Self::F1 => "f1",
            Self::WeightedF1 => "weighted_f1",
            Self::Precision => "precision",
            Self::Recall => "recall",
            Self::RocAuc => "roc_auc",
            Self::AveragePrecision => "average_precision",
            Self::ExpectedCalibrationError => "expected_calibration_error",
            Self::Perplexity => "perplexity",
            Self::MeanSquaredError => "mean_squared_error",
            Self::RootMeanSquaredError => "root_mean_squared_error",
            Self::MeanAbsoluteError => "mean_absolute_error",
            Self::R2 => "r2",
            Self::Spearman => "spearman",
        }
    }

    /// Whether more is better.
    pub fn rises(self) -> bool {
        !matches!(
            self,
            Self::Loss
                | Self::Perplexity
                | Self::ExpectedCalibrationError
                | Self::MeanSquaredError
                | Self::RootMeanSquaredError
                | Self::MeanAbsoluteError
        )
    }

    /// Whether it follows from the order of all examples' outputs, which must be kept for it.
    pub fn needs_scores(self) -> bool {
        matches!(self, Self::RocAuc | Self::AveragePrecision | Self::Spearman)
    }

    /// Whether the metric has a meaning for the task.
    pub fn applies_to(self, task: Task) -> bool {
        match self {
            Self::Loss => true,
            Self::Accuracy
            | Self::F1
            | Self::WeightedF1
            | Self::Precision
            | Self::Recall
            | Self::RocAuc
            | Self::AveragePrecision => {
                matches!(
                    task,
                    Task::Classification | Task::TokenClassification | Task::Multilabel
                ) || (self == Self::Accuracy && task == Task::LanguageModeling)
            }
            Self::Top2Accuracy
            | Self::Top3Accuracy
            | Self::Top5Accuracy
            | Self::Top10Accuracy
            | Self::ExpectedCalibrationError
            | Self::Perplexity => task.has_labels(),
            Self::BalancedAccuracy => {
                matches!(task, Task::Classification | Task::TokenClassification)
            }
            Self::MeanSquaredError
            | Self::RootMeanSquaredError
            | Self::MeanAbsoluteError
            | Self::R2
            | Self::Spearman => task == Task::Regression,
        }
    }

    /// What is measured when the request names nothing.
    pub fn defaults(task: Task) -> Vec<Self> {
        match task {
            Task::Regression => vec![Self::Loss, Self::MeanAbsoluteError, Self::R2],
            Task::LanguageModeling => vec![Self::Loss, Self::Perplexity, Self::Accuracy],
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
            faults.require_value(
                !self.metrics[..index].contains(metric),
                &format!("/metrics/{index}"),
                "is named twice",
            );
        }
        faults
    }
}
