//! What a succeeded job says.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::distill::DistillLossName;
use super::evaluate::MetricName;
use super::fit::InferredData;
use super::job::JobKind;
use super::train::StartWeights;
use super::trial::{SearchOutcome, SearchPlan};

/// Time of one run of the model, in milliseconds, measured by Sinter's own engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    pub batch_size: u32,
    pub p50: f64,
    pub p90: f64,
}

/// The figures of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Measurement {
    pub parameters: u64,
    pub nonzero_parameters: u64,
    /// Multiply-accumulates for one example; zero weights are counted.
    pub macs: Option<u64>,
    /// Of the ONNX file.
    pub size_bytes: u64,
    /// Of the ONNX file after DEFLATE.
    pub compressed_bytes: u64,
    pub latency_ms: Option<Latency>,
    /// By metric name, on the test split.
    pub metrics: BTreeMap<String, f64>,
    /// Of a classification of at most 100 classes, on the test split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quality: Option<Quality>,
}

impl Measurement {
    /// The metric that people ask for first.
    pub fn leading_metric(&self) -> Option<(&str, f64)> {
        let first = [
            "accuracy",
            "f1",
            "mean_absolute_error",
            "mean_squared_error",
            "loss",
        ];
        let known = first
            .into_iter()
            .find_map(|name| Some((name, *self.metrics.get(name)?)));
        let any = || {
            let (name, value) = self.metrics.iter().next()?;
            Some((name.as_str(), *value))
        };
        known.or_else(any)
    }
}

/// What a classifier takes for what, and how sure it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Quality {
    /// Examples by label (rows) and by the class that the model says (columns).
    pub confusion: Vec<Vec<u64>>,
    /// 15 bins of confidence of the same width, from 0 to 1.
    pub calibration: Vec<CalibrationBin>,
    /// By label the class that the model says instead, where its answers fit the labels in another order of the classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Vec<u64>>,
}

impl Quality {
    /// The share of the examples of which the model is right in the other order of the classes, and that order.
    pub fn in_order(self) -> Option<(f64, Vec<u64>)> {
        let order = self.order?;
        let rows = self.confusion.iter().zip(&order);
        let right: u64 = rows.map(|(row, &class)| row[class as usize]).sum();
        let all: u64 = self.confusion.iter().flatten().sum();
        Some((right as f64 / all as f64, order))
    }
}

/// The order of the classes in which a model's answers fit most of the labels, if that is another one than that of the labels:
/// of each label most examples are taken for one class, which no other label has.
pub fn other_order(confusion: &[Vec<u64>]) -> Option<Vec<u64>> {
    /// Share of all examples that must fit.
    const MOST: f64 = 0.8;
    let mut order = vec![None; confusion.len()];
    let (mut fitting, mut examples) = (0, 0);
    for (label, row) in confusion.iter().enumerate() {
        let all: u64 = row.iter().sum();
        let likeliest = (0..row.len()).rev().max_by_key(|&class| row[class]);
        if let Some(class) = likeliest.filter(|_| all > 0) {
            order[label] = Some(class);
            fitting += row[class];
            examples += all;
        }
    }
    let taken: BTreeSet<usize> = order.iter().flatten().copied().collect();
    let labels = order.iter().flatten().count();
    let is_order = taken.len() == labels && fitting as f64 >= MOST * examples as f64;
    let differs =
        |(label, class): (usize, &Option<usize>)| class.is_some_and(|class| class != label);
    let is_other = order.iter().enumerate().any(differs);
    // Labels without examples get what is left.
    let mut left = (0..confusion.len()).filter(|class| !taken.contains(class));
    let whole = order.iter().map(|&class| class.or_else(|| left.next()));
    let whole: Vec<u64> = whole.flatten().map(|class| class as u64).collect();
    (is_order && is_other && labels > 1 && whole.len() == confusion.len()).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::other_order;

    #[test]
    fn another_order_of_the_classes_is_told_from_none_and_from_mistakes() {
        assert_eq!(other_order(&[vec![1, 9], vec![8, 2]]), Some(vec![1, 0]));
        let turned = [vec![0, 9, 1], vec![1, 0, 9], vec![9, 1, 0]];
        assert_eq!(other_order(&turned), Some(vec![1, 2, 0]));
        assert_eq!(other_order(&[vec![9, 1], vec![2, 8]]), None);
        // All are taken for one class, and answers that fit nothing.
        assert_eq!(other_order(&[vec![0, 10], vec![0, 10]]), None);
        assert_eq!(other_order(&[vec![4, 6], vec![6, 4]]), None);
        assert_eq!(other_order(&[vec![0, 0], vec![0, 0]]), None);
        assert_eq!(other_order(&[]), None);
        // Fewer classes than the model has.
        let few = [vec![0, 9, 0, 1], vec![9, 0, 1, 0], vec![0; 4], vec![0; 4]];
        assert_eq!(other_order(&few), Some(vec![1, 0, 2, 3]));
        assert_eq!(other_order(&[vec![0, 9], vec![0, 0]]), None);
    }
}

/// Examples of which the model is about equally sure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CalibrationBin {
    pub examples: u64,
    /// Mean probability of the class that the model says; 0 without examples.
    pub confidence: f64,
    /// Share of right ones; 0 without examples.
    pub accuracy: f64,
}

/// After beside before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// Nonzero parameters after ÷ before.
    pub nonzero_parameters_ratio: f64,
    pub parameters_ratio: f64,
    pub macs_ratio: Option<f64>,
    pub size_ratio: f64,
    /// Median latency before ÷ after.
    pub speedup: Option<f64>,
    /// After − before, by metric name.
    pub metrics: BTreeMap<String, f64>,
}

/// All training of the job together.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct Training {
    pub examples_per_second: f64,
    pub seconds: f64,
}

/// What a job would do, by its kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Plan {
    Prune(Box<PrunePlan>),
    Search(Box<SearchPlan>),
    Distill(DistillPlan),
    Pipeline(PipelinePlan),
    Evaluate(EvaluatePlan),
    Train(TrainPlan),
}

/// Where and how the figures came about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Environment {
    pub version: String,
    pub device: String,
    pub seed: u64,
    /// What was inferred about the data; `null` for a job without data.
    pub data: Option<InferredData>,
    /// What the job's process was kept from; `null` where the server has `sandbox` off.
    #[serde(default)]
    pub sandbox: Option<Sandbox>,
}

/// What a job's process was kept from; what is `false` the system could not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    /// The network and other programs (Linux, seccomp).
    pub network: bool,
    /// All files but its own (Linux, Landlock).
    pub files: bool,
}

/// One layer before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LayerChange {
    pub name: String,
    pub operator: String,
    pub group: Option<String>,
    pub parameters_before: u64,
    pub parameters_after: u64,
    pub nonzero_parameters_after: u64,
    pub macs_before: u64,
    pub macs_after: u64,
}

/// Channels that could not be removed, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Blocked {
    pub layer: String,
    pub reason: String,
}

/// What a pruning was asked for and what it reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PruneOutcome {
    /// By target name, as asked.
    pub asked: BTreeMap<String, f64>,
    /// By target name: what the final graph has.
    pub reached: BTreeMap<String, f64>,
    /// The multiple that kept channel counts were rounded to; `null` for single weights.
    #[serde(default)]
    pub round_to: Option<u32>,
    pub layers: Vec<LayerChange>,
    pub blocked: Vec<Blocked>,
    /// How good the model was on the way; empty without a validation split.
    #[serde(default)]
    pub stages: Vec<PruneStage>,
    /// Scores at the first cut, by group (by kernel for single weights).
    #[serde(default)]
    pub scores: Vec<ScoreHistogram>,
    /// Asked for by `sensitivity`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sensitivity: Vec<Sensitivity>,
    /// Of `max_accuracy_drop` and `max_worsening`, in the order in which they were made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trials: Vec<PruneTrial>,
    /// The metric that `max_accuracy_drop` or `max_worsening` was held against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judged_by: Option<MetricName>,
    /// Why no smaller model was tried, where the metric would have allowed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<String>,
}

/// How the scores of a group are distributed, in bins of equal width.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScoreHistogram {
    pub name: String,
    /// Where the first bin begins.
    pub least: f64,
    /// Where the last bin ends.
    pub greatest: f64,
    /// Units (weights) in each bin.
    pub counts: Vec<u64>,
    /// Those of them that were removed.
    pub removed: Vec<u64>,
}

/// How a model bears the loss of a part of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sensitivity {
    pub name: String,
    pub layers: Vec<String>,
    pub points: Vec<SensitivityPoint>,
}

/// The model with a part of one group gone, and nothing done about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SensitivityPoint {
    /// Share of the group's units (the kernel's weights) that are gone.
    pub sparsity: f64,
    /// By metric name, on the validation split.
    pub metrics: BTreeMap<String, f64>,
}

/// One model that was made to see whether it is good enough.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PruneTrial {
    /// By target name.
    pub asked: BTreeMap<String, f64>,
    /// By target name; empty where the target can't be reached.
    pub reached: BTreeMap<String, f64>,
    /// How much worse the metric on the validation split is than the original's; `null` where the target can't be reached.
    #[serde(alias = "accuracy_drop")]
    pub worsening: Option<f64>,
    /// Whether that is no more than what was allowed.
    pub within: bool,
}

/// What happened to the model before it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StageName {
    Cut,
    /// Reconstructed and recalibrated.
    Recovered,
    Finetuned,
}

/// How good a model was at one stage of its pruning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PruneStage {
    /// Of the schedule, from 1.
    pub step: u32,
    pub stage: StageName,
    /// By metric name, on the validation split.
    pub metrics: BTreeMap<String, f64>,
}

/// Channels that live on the same axes, and what is planned for them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PruneGroup {
    pub name: String,
    /// Nodes whose outputs these channels are.
    pub layers: Vec<String>,
    /// Smallest sets of channels that can go.
    pub units: usize,
    /// Units on the same axes that must stay.
    pub frozen: usize,
    /// Importance of each unit; `null` where the criterion can't tell, so that the unit stays.
    pub scores: Vec<Option<f64>>,
    /// Units that would go.
    pub removed: Vec<usize>,
}

/// Two tensors that a loss compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DistillPair {
    pub teacher: String,
    pub student: String,
    /// Of one example.
    pub teacher_shape: Vec<u64>,
    pub student_shape: Vec<u64>,
    /// Whether a projection was trained between the two, and let go of afterwards.
    pub projected: bool,
}

/// One loss of a distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DistillTerm {
    pub name: DistillLossName,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<DistillPair>,
}

/// Where a teacher's outputs came from while the student trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TeacherSource {
    /// It ran on every batch.
    Live,
    /// It ran once on every example, and its outputs were kept on disk.
    Cached,
}

/// A model beside that of its control on the test split, by the metric that decides whether the method helped.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    pub metric: MetricName,
    pub value: f64,
    pub control: f64,
    /// How often the same test examples would set the two as far apart, or further, if neither were better: the p-value of
    /// Fisher's paired randomisation test, by 9,999 draws. `null` where the metric is no mean over examples, as `f1`.
    pub p_value: Option<f64>,
}

/// What a method came to beside its control in words, behind "it" or the method's name: it helped, did not, or may have.
pub fn verdict_of(helped: bool, comparison: Option<&Comparison>) -> &'static str {
    match (comparison, helped) {
        (Some(both), _) => both.verdict(),
        (None, true) => "helped",
        (None, false) => "did not help",
    }
}

impl Comparison {
    /// From here on a difference may be chance.
    const CHANCE: f64 = 0.05;

    pub fn helped(&self) -> bool {
        match self.metric.rises() {
            true => self.value > self.control,
            false => self.value < self.control,
        }
    }

    pub fn significant(&self) -> Option<bool> {
        self.p_value.map(|p_value| p_value < Self::CHANCE)
    }

    /// Whether neither is better.
    pub fn is_even(&self) -> bool {
        self.value == self.control
    }

    fn verdict(&self) -> &'static str {
        match (self.is_even(), self.significant(), self.helped()) {
            (true, ..) => "made no difference",
            (false, Some(false), _) => "made no difference that can be told from chance",
            (false, _, true) => "helped",
            (false, _, false) => "did not help",
        }
    }

    /// What reports and tables add to it where it may be chance.
    pub fn chance(&self) -> Option<String> {
        let is_open = self.significant() == Some(false) && !self.is_even();
        let p_value = self.p_value.filter(|_| is_open)?;
        Some(format!("p = {p_value:.2}, paired over the test examples"))
    }
}

/// The same student trained without a teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DistillControl {
    pub epochs: u32,
    /// By metric name, on the test split.
    pub metrics: BTreeMap<String, f64>,
}

/// What a distillation did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DistillOutcome {
    pub teachers: u32,
    /// Of each example, how many the teachers saw and were averaged over; 1 is the example alone.
    #[serde(default = "one_view")]
    pub views: u32,
    pub source: TeacherSource,
    pub losses: Vec<DistillTerm>,
    /// By metric name, on the test split, of all teachers as one; empty without labels.
    pub teacher: BTreeMap<String, f64>,
    /// How near the student is to its teachers on the test split: `top_1`, the share of examples with
    /// the same class; `mean_squared_error` and `cosine` of the outputs. Of embeddings, whatever their widths, over at most
    /// 1,000 examples: `spearman`, the rank correlation of the cosines of all pairs, and `recall_at_1` and `recall_at_10`,
    /// the share of each example's nearest neighbours that are the same.
    pub agreement: BTreeMap<String, f64>,
    #[serde(default)]
    pub control: Option<DistillControl>,
    /// The student beside its control, by accuracy, or by the loss where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// Whether the student is better than the control by that, be it by chance: see `significant`. One pair of trainings;
    /// `null` without a control.
    #[serde(default)]
    pub helped: Option<bool>,
    /// Whether the p-value of the comparison is below 0.05: more may be chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub significant: Option<bool>,
}

fn one_view() -> u32 {
    1
}

/// One step of a pipeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepResult {
    pub kind: JobKind,
    pub after: Measurement,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<PruneOutcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<DistillOutcome>,
}

/// Something that whoever takes a job's result should know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Warning {
    /// A stable word, for instance `inputs_on_another_scale`.
    #[serde(rename = "type")]
    pub kind: String,
    /// For people.
    pub message: String,
    /// For programs; left out where there is no more to say.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}

/// `result` of a succeeded job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobResult {
    /// The new model; `null` for `evaluate`, which makes none.
    pub model: Option<Uuid>,
    pub before: Measurement,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Measurement>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<Change>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Training>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prune: Option<PruneOutcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<DistillOutcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchOutcome>,
    /// A pipeline's steps in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepResult>,
    /// What speaks against taking the result as it is; events of these types say the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
    pub environment: Environment,
}

/// What a pruning would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PrunePlan {
    pub before: PlanCost,
    pub after: PlanCost,
    pub outcome: PruneOutcome,
    /// For `channel`: every set of coupled channels.
    pub groups: Vec<PruneGroup>,
}

/// What a distillation would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DistillPlan {
    /// Of the first teacher.
    pub teacher: PlanCost,
    pub student: PlanCost,
    pub teachers: u32,
    /// With the tensors that they compare.
    pub losses: Vec<DistillTerm>,
    /// Of the student's training.
    pub epochs: u32,
    /// Whether the same student is trained without a teacher, too.
    pub control: bool,
}

/// What a training would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrainPlan {
    pub cost: PlanCost,
    pub epochs: u32,
    /// What it begins with.
    pub weights: StartWeights,
}

/// What an evaluation would measure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvaluatePlan {
    pub cost: PlanCost,
    pub metrics: Vec<MetricName>,
    /// What it would be measured on.
    pub test_examples: u64,
}

/// What a pipeline would do, step by step; what training changes is not known beforehand.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PipelinePlan {
    pub steps: Vec<StepPlan>,
}

/// What one step of a pipeline would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepPlan {
    pub kind: JobKind,
    #[schema(no_recursion)]
    pub plan: Plan,
}

/// What a graph costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanCost {
    pub parameters: u64,
    pub nonzero_parameters: u64,
    pub macs: Option<u64>,
}

/// A number with so many significant digits: what is beyond them is no news, or the rounding of sums.
pub fn rounded(value: f64, digits: usize) -> f64 {
    let places = digits.saturating_sub(1);
    format!("{value:.places$e}").parse().unwrap_or(value)
}

/// 1234567 as `1,234,567`, as reports and tables show it.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
