//! What a search says of its candidates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::result::Comparison;
use super::search::{Cost, Objective, ObjectiveName, ProxyName};

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TrialStatus {
    Judged,
    /// Ended after some of its folds, all of which were worse than the best trial's worst.
    Stopped,
    /// More than a constraint allows.
    Infeasible,
    Failed,
}

/// The costs of one candidate, trained.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct TrialCost {
    /// For one example.
    pub macs: Option<u64>,
    pub parameters: u64,
    pub nonzero_parameters: u64,
    /// Of the ONNX file.
    pub size_bytes: u64,
    /// Where an objective or a constraint needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<f64>,
}

impl TrialCost {
    /// The cost of that name.
    pub fn of(&self, name: Cost) -> Option<f64> {
        match name {
            Cost::Macs => self.macs.map(|macs| macs as f64),
            Cost::Parameters => Some(self.parameters as f64),
            Cost::NonzeroParameters => Some(self.nonzero_parameters as f64),
            Cost::SizeBytes => Some(self.size_bytes as f64),
            Cost::LatencyMs => self.latency_ms,
        }
    }
}

/// One training of a candidate and what was measured on the examples that it did not see.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Fold {
    /// By metric name.
    pub metrics: BTreeMap<String, f64>,
    pub cost: TrialCost,
    /// After each epoch.
    pub validation_loss: Vec<f64>,
    /// Of the training's steps.
    pub seconds: f64,
    /// Of the validations after its epochs.
    #[serde(default)]
    pub validation_seconds: f64,
    pub epochs: u32,
}

/// One candidate, judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Trial {
    /// From 0 on, in the order of judging.
    pub trial: u32,
    pub status: TrialStatus,
    /// By name of dimension; those that do not count for this candidate are left out.
    #[schema(value_type = Object)]
    pub config: BTreeMap<String, Value>,
    /// Share of a whole training.
    pub share: f64,
    /// Of the objectives, by name; means over the folds.
    pub values: BTreeMap<String, f64>,
    /// By metric name, the mean over the folds.
    pub metrics: BTreeMap<String, f64>,
    /// By metric name, the standard deviation over the folds by the root of their number; of several folds.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub standard_errors: BTreeMap<String, f64>,
    /// Of the model of the first fold.
    pub cost: Option<TrialCost>,
    /// The score by which it was screened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<f64>,
    pub folds: Vec<Fold>,
    /// Why it failed, or which constraint it does not meet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Trial {
    /// The objectives' figures; `None` where one is missing.
    pub fn objectives(&self, wanted: &[Objective]) -> Option<Vec<f64>> {
        let of = |objective: &Objective| {
            let found = match objective.metric {
                ObjectiveName::Cost(name) => self.cost.as_ref()?.of(name),
                other => self.metrics.get(other.metric()?.as_str()).copied(),
            };
            found.filter(|value| value.is_finite())
        };
        wanted.iter().map(of).collect()
    }

    /// Whether it counts among those to choose from.
    pub fn counts(&self) -> bool {
        matches!(self.status, TrialStatus::Judged | TrialStatus::Stopped)
    }
}

/// The file `trials.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Trials {
    pub objectives: Vec<Objective>,
    /// For each fold the examples of the data set's train split that it is judged on.
    pub judged_on: Vec<Vec<u32>>,
    pub trials: Vec<Trial>,
    /// Those of the control.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub control: Vec<Trial>,
}

/// A trial that no other one beats in every objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FrontEntry {
    pub trial: u32,
    #[schema(value_type = Object)]
    pub config: BTreeMap<String, Value>,
    /// Of the objectives, by name.
    pub values: BTreeMap<String, f64>,
    /// The model as the trial (its first fold) trained it.
    pub model: Uuid,
    /// The same model among the job's artifacts.
    pub artifact: String,
}

/// One dimension of a space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DimensionInfo {
    pub name: String,
    /// What can be chosen; left out for numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Value>,
    /// The least and the largest number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
    /// The dimension that decides whether this one counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depends_on: Option<String>,
    /// Share of the variance of the first objective that it explains (functional ANOVA); after a search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub importance: Option<f64>,
}

/// How well scores without training foretold what training found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScreeningOutcome {
    pub proxy: ProxyName,
    pub candidates: u32,
    /// Spearman's rank correlation of the score with the first objective as it gets better, over the
    /// trials trained longest; `null` where nothing varies.
    pub correlation: Option<f64>,
    /// The same of the number of parameters.
    pub parameters_correlation: Option<f64>,
}

/// Random search with as much training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SearchControl {
    pub trials: u32,
    pub epochs: u64,
    /// The first objective of its best trial.
    pub best: Option<f64>,
    /// Of its winner, trained like the search's, on the test split.
    pub metrics: BTreeMap<String, f64>,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SearchOutcome {
    pub strategy: String,
    pub space: Vec<DimensionInfo>,
    /// Candidates in the space, infeasible ones too; `null` for infinitely many.
    pub space_size: Option<f64>,
    /// Different candidates that were judged.
    pub trials: u32,
    /// Those that failed or were infeasible.
    pub failed: u32,
    /// Trials that an earlier search had judged.
    #[serde(default)]
    pub warm: u32,
    /// Of all trainings of candidates.
    pub epochs: u64,
    pub objectives: Vec<Objective>,
    /// The winner and the next best, ten at most.
    pub best: Vec<Trial>,
    /// Trials that no other one beats in every objective.
    pub front: Vec<FrontEntry>,
    /// What the front dominates, up to the worst figures of all trials; several objectives only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervolume: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub screening: Option<ScreeningOutcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<SearchControl>,
    /// The winner beside the control's, by the first objective, where that is a metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// Whether the winner is better than the control's by that, be it by chance: see `significant`. Without a control `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helped: Option<bool>,
    /// Whether the p-value of the comparison is below 0.05: more may be chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub significant: Option<bool>,
    /// What the space names and what leaves no choice in this model, for instance `depth` without residual blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_applicable: Vec<String>,
    /// The constraint that the winner, trained in full, does not meet, though its trial did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exceeds: Option<String>,
}

/// What a search would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SearchPlan {
    /// What the job would warn of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    pub space: Vec<DimensionInfo>,
    /// What the space names and what leaves no choice in this model, for instance `depth` without residual blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_applicable: Vec<String>,
    /// Candidates in the space, infeasible ones too; `null` for infinitely many.
    pub space_size: Option<f64>,
    /// Share of the candidates that meet the constraints on MACs, parameters and size: of all where there are at most 512,
    /// else of a hundred at random.
    pub feasible_share: f64,
    /// Where none of the hundred does: the constraints, and the least that any candidate was seen to have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    /// Different candidates that will be judged, at most.
    pub trials: u32,
    /// Of all trainings of candidates, at most.
    pub epochs: u64,
    /// Of the model itself; its size is that of the file as it would be written again, which candidates are, too.
    pub cost: TrialCost,
}
