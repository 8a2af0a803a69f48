//! Parameters of `distill`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::augment::Augment;
use super::job::{DataOptions, Preprocess, Task};
use super::problem::Faults;
use super::train::{StartWeights, TrainParams};

/// Where the weights of a student come from that is made out of its teacher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StudentWeights {
    /// The teacher's most important channels, with the reconstruction that pruning has.
    #[default]
    Inherit,
    /// Fresh weights, drawn with the job's seed.
    Reinitialize,
}

/// The model that learns: an uploaded one, or one made out of the teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Student {
    /// An uploaded model; no other field but `preprocess` goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<Uuid>,
    /// How the data becomes the student's input where that differs from the teacher's, which `data`
    /// describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<Preprocess>,
    /// Share of each layer's channels that the student has, above 0 to 1; 1 when `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<f64>,
    /// Share of the residual blocks that the student has, above 0 to 1; 1 when `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<StudentWeights>,
}

impl Student {
    /// The job's data options as the student has them.
    pub fn options(&self, data: &DataOptions) -> DataOptions {
        DataOptions {
            preprocess: self
                .preprocess
                .clone()
                .unwrap_or_else(|| data.preprocess.clone()),
            ..data.clone()
        }
    }
}

/// Whose outputs the student learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TeacherChoice {
    /// The model that the step gets.
    #[default]
    Model,
    /// The job's model as it was uploaded; the student is then the model that the step gets, unless
    /// `student` names another. For pipelines.
    Original,
}

/// How several teachers, or what one says about several views, become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Average {
    /// The mean of their outputs.
    #[default]
    Logits,
    /// The logarithm of the mean of their softmaxes (Hinton, Vinyals and Dean, 2015, section 2: the
    /// arithmetic mean of the predictive distributions).
    Probabilities,
}

/// Views of an example that the teachers answer, their answers averaged as those of several teachers are, while the
/// student sees the example as it is (Radosavovic et al., "Data Distillation: Towards Omni-Supervised Learning", CVPR
/// 2018, section 3: one model's predictions on transformed copies, ensembled). For a teacher that was trained with such
/// views itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TeacherViews {
    /// How many, the example as it is among them: 2 to 256; 16 when left out.
    #[serde(default = "sixteen")]
    pub count: u32,
    /// How the others are drawn; anything but `mixup` and `cutmix`.
    pub augment: Augment,
}

fn sixteen() -> u32 {
    16
}

impl TeacherViews {
    fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        faults.require_value(
            (2..=256).contains(&self.count),
            "/count",
            "must be from 2 to 256",
        );
        faults.extend_under("/augment", self.augment.faults());
        for (pointer, is) in [
            ("/augment/mixup", self.augment.mixup.is_some()),
            ("/augment/cutmix", self.augment.cutmix.is_some()),
        ] {
            faults.require_value(
                !is,
                pointer,
                "blends examples, and an answer is to be about one; leave it out",
            );
        }
        faults
    }
}

/// What is made small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DistillLossName {
    SoftTargets,
    CrossEntropy,
    LogitsMse,
    Decoupled,
    Standardized,
    Similarity,
    Contrastive,
    Feature,
    AttentionTransfer,
    Relational,
    Cosine,
    BoundedRegression,
}

impl DistillLossName {
    pub const ALL: [Self; 12] = [
        Self::SoftTargets,
        Self::CrossEntropy,
        Self::LogitsMse,
        Self::Decoupled,
        Self::Standardized,
        Self::Similarity,
        Self::Contrastive,
        Self::Feature,
        Self::AttentionTransfer,
        Self::Relational,
        Self::Cosine,
        Self::BoundedRegression,
    ];

    /// Whether it has a meaning for the task.
    pub fn suits(self, task: Task) -> bool {
        match self {
            // Its parts are of the label of an example.
            Self::Decoupled => task == Task::Classification,
            loss if loss.is_softmax() => task.has_labels(),
            Self::BoundedRegression => task == Task::Regression,
            Self::CrossEntropy => task != Task::Embedding,
            _ => true,
        }
    }

    /// The name as JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SoftTargets => "soft_targets",
            Self::CrossEntropy => "cross_entropy",
            Self::LogitsMse => "logits_mse",
            Self::Decoupled => "decoupled",
            Self::Standardized => "standardized",
            Self::Similarity => "similarity",
            Self::Contrastive => "contrastive",
            Self::Feature => "feature",
            Self::AttentionTransfer => "attention_transfer",
            Self::Relational => "relational",
            Self::Cosine => "cosine",
            Self::BoundedRegression => "bounded_regression",
        }
    }

    /// Whether it can't be computed without the labels of the examples.
    pub fn needs_labels(self) -> bool {
        matches!(
            self,
            Self::CrossEntropy | Self::Decoupled | Self::BoundedRegression
        )
    }

    /// Whether it compares distributions over classes.
    pub fn is_softmax(self) -> bool {
        matches!(
            self,
            Self::SoftTargets | Self::Decoupled | Self::Standardized
        )
    }

    /// Whether it looks at tensors inside the models.
    pub fn takes_pairs(self) -> bool {
        matches!(
            self,
            Self::Similarity
                | Self::Contrastive
                | Self::Feature
                | Self::AttentionTransfer
                | Self::Relational
        )
    }

    /// Whether it has a softmax temperature.
    pub fn takes_temperature(self) -> bool {
        self.is_softmax() || self == Self::Contrastive
    }

    /// The temperature where the request names none: 4 for distributions (Hinton, Vinyals and Dean,
    /// 2015, found 2.5 to 4 for small students, and later work took 4), 2 for standardised logits
    /// (Sun et al., CVPR 2024), 0.07 for `contrastive` (Tian et al., ICLR 2020).
    fn default_temperature(self) -> f64 {
        match self {
            Self::Contrastive => 0.07,
            Self::Standardized => 2.0,
            _ => 4.0,
        }
    }
}

/// The word `learned`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Learned {
    Learned,
}

/// A temperature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "must be a number, or \"learned\"")]
pub enum Temperature {
    Fixed(f64),
    /// Trained against the student, from 1 to 21 (Li et al., "Curriculum Temperature for Knowledge
    /// Distillation", AAAI 2023).
    Learned(Learned),
}

/// How a weight goes from one value to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WeightCurve {
    #[default]
    Linear,
    /// Half a cosine.
    Cosine,
}

/// The factor of one loss in the sum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "must be a number, or an object with `from` and `to`"
)]
pub enum Weight {
    Constant(f64),
    /// From the first step to the last.
    Scheduled {
        /// At the first step.
        from: f64,
        /// At the last step.
        to: f64,
        #[serde(default)]
        curve: WeightCurve,
    },
}

impl Weight {
    /// The weight when `progress` of the training, 0 to 1, is over.
    pub fn at(self, progress: f64) -> f64 {
        match self {
            Self::Constant(weight) => weight,
            Self::Scheduled { from, to, curve } => {
                let share = match curve {
                    WeightCurve::Linear => progress,
                    WeightCurve::Cosine => 0.5 - 0.5 * (std::f64::consts::PI * progress).cos(),
                };
                from + (to - from) * share
            }
        }
    }

    fn values(self) -> [f64; 2] {
        [self.at(0.0), self.at(1.0)]
    }
}

/// Which tensors of teacher and student belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "must be a list of pairs of names, the teacher's and the student's, or \"auto\""
)]
pub enum Pairs {
    /// `[teacher's, student's]`: names of tensors, or of the nodes that make them.
    Named(Vec<[String; 2]>),
    Auto(Auto),
}

/// The word `auto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Auto {
    Auto,
}

/// One loss of the sum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LossTerm {
    pub name: DistillLossName,
    #[serde(default = "default_weight")]
    pub weight: Weight,
    /// `soft_targets`, `decoupled`, `standardized`, `contrastive`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<Temperature>,
    /// `decoupled`: the factor of the target class's part, 1 when `null`; `relational`: of the
    /// distances, 25 when `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// `decoupled`: the factor of the other classes' part, 8 when `null`; `relational`: of the
    /// angles, 50 when `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// `bounded_regression`: by how much the student's squared error must be below the teacher's, 0
    /// when `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<f64>,
    /// `similarity`, `contrastive`, `feature`, `attention_transfer`, `relational`; `"auto"` when
    /// `null`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<Pairs>,
}

fn default_weight() -> Weight {
    Weight::Constant(1.0)
}

impl LossTerm {
    /// The temperature as asked, or the loss's own.
    pub fn temperature(&self) -> Temperature {
        let own = Temperature::Fixed(self.name.default_temperature());
        self.temperature.unwrap_or(own)
    }

    fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        let name = self.name;
        let values = self.weight.values();
        faults.require_value(
            values.iter().all(|weight| (0.0..=1e6).contains(weight))
                && values.iter().any(|&weight| weight > 0.0),
            "/weight",
            "must be from 0 to 1000000, and not always 0",
        );
        let only = |is: bool, pointer: &str, names: &str, faults: &mut Faults| {
            let detail = format!(
                "does not apply to {}, only to {names}; remove it",
                name.as_str()
            );
            faults.require(is, pointer, detail);
        };
        match self.temperature {
            Some(Temperature::Fixed(value)) => faults.require_value(
                (0.01..=1000.0).contains(&value),
                "/temperature",
                "must be from 0.01 to 1000, or \"learned\"",
            ),
            Some(Temperature::Learned(_)) => faults.require(
                name.is_softmax(),
                "/temperature",
                "is learned for soft_targets, decoupled and standardized only; name a number",
            ),
            None => {}
        }
        only(
            self.temperature.is_none() || name.takes_temperature(),
            "/temperature",
            "soft_targets, decoupled, standardized and contrastive",
            &mut faults,
        );
        let has_factors = matches!(
            name,
            DistillLossName::Decoupled | DistillLossName::Relational
        );
        for (pointer, factor) in [("/alpha", self.alpha), ("/beta", self.beta)] {
            let Some(factor) = factor else { continue };
            only(
                has_factors,
                pointer,
                "decoupled and relational",
                &mut faults,
            );
            faults.require_value(
                (0.0..=1e6).contains(&factor),
                pointer,
                "must be from 0 to 1000000",
            );
        }
        if let Some(margin) = self.margin {
            let is = name == DistillLossName::BoundedRegression;
            only(is, "/margin", "bounded_regression", &mut faults);
            faults.require_value(
                (0.0..=1e6).contains(&margin),
                "/margin",
                "must be from 0 to 1000000",
            );
        }
        if let Some(pairs) = &self.pairs {
            only(
                name.takes_pairs(),
                "/pairs",
                "similarity, contrastive, feature, attention_transfer and relational",
                &mut faults,
            );
            if let Pairs::Named(pairs) = pairs {
                faults.require_value(
                    (1..=64).contains(&pairs.len()),
                    "/pairs",
                    "needs 1 to 64 pairs, or \"auto\"",
                );
            }
        }
        faults
    }
}

/// Every fault of a sum of losses, with pointers relative to the list.
pub(super) fn loss_faults(losses: &[LossTerm]) -> Faults {
    let mut faults = Faults::default();
    faults.require_value((1..=16).contains(&losses.len()), "", "needs 1 to 16 losses");
    for (index, term) in losses.iter().enumerate() {
        faults.extend_under(&format!("/{index}"), term.faults());
    }
    let teaches = |term: &LossTerm| term.name != DistillLossName::CrossEntropy;
    faults.require(
        losses.iter().any(teaches),
        "",
        "cross_entropy alone has nothing of a teacher; add another loss",
    );
    faults
}

/// Parameters of a `distill` job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DistillParams {
    pub student: Option<Student>,
    pub teacher: TeacherChoice,
    /// Further teachers beside the first; their outputs are averaged with its.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub teachers: Vec<Uuid>,
    pub average: Average,
    /// What the teachers see; the examples as they are when `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher_views: Option<TeacherViews>,
    /// For each class of the student, which class of the teacher it is; the same order when `null`.
    /// The labels of the data set are the student's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_map: Option<Vec<u32>>,
    /// What is added up and made small; `soft_targets` (0.9) and `cross_entropy` (0.1) when left out, with `logits_mse` in
    /// the place of `soft_targets` where a task has no classes. Who names just these two is understood alike.
    pub losses: Vec<LossTerm>,
    pub finetune: TrainParams,
    /// Whether the same student is also trained from the same weights without a teacher, for as many
    /// epochs.
    pub control: bool,
}

impl Default for DistillParams {
    fn default() -> Self {
        let term = |name, weight| LossTerm {
            name,
            weight: Weight::Constant(weight),
            temperature: None,
            alpha: None,
            beta: None,
            margin: None,
            pairs: None,
        };
        Self {
            student: None,
            teacher: TeacherChoice::Model,
            teachers: Vec::new(),
            average: Average::Logits,
            teacher_views: None,
            class_map: None,
            losses: vec![
                term(DistillLossName::SoftTargets, 0.9),
                term(DistillLossName::CrossEntropy, 0.1),
            ],
            finetune: TrainParams::default(),
            control: false,
        }
    }
}

impl DistillParams {
    /// The losses, where none are named those that are usual for the task.
    pub fn losses_for(&self, task: Task) -> Vec<LossTerm> {
        let mut losses = self.losses.clone();
        if losses == Self::default().losses {
            for term in &mut losses {
                if term.name == DistillLossName::SoftTargets && !term.name.suits(task) {
                    term.name = DistillLossName::LogitsMse;
                }
            }
        }
        losses
    }

    /// Whether a loss, or what else is asked for, needs the labels of the examples.
    pub fn needs_labels(&self) -> bool {
        self.control || self.losses.iter().any(|term| term.name.needs_labels())
    }

    /// What the outputs are where neither the request nor a target tells.
    pub fn presumed_task(&self) -> Task {
        let softmax =
            |term: &LossTerm| term.name.is_softmax() || term.name == DistillLossName::LogitsMse;
        match self.losses.iter().any(softmax) {
            true => Task::Classification,
            false => Task::Embedding,
        }
    }

    /// The models that the request names beside the job's.
    pub fn models(&self) -> Vec<(String, Uuid)> {
        let student = self.student.as_ref().and_then(|student| student.model);
        let student = student.map(|id| ("/student/model".to_owned(), id));
        let teachers = self.teachers.iter().enumerate();
        student
            .into_iter()
            .chain(teachers.map(|(index, &id)| (format!("/teachers/{index}"), id)))
            .collect()
    }

    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        match &self.student {
            None => faults.require(
                self.teacher == TeacherChoice::Original,
                "/student",
                "there is no model that learns: `width` (0.5, for instance) or `depth` makes one out of the teacher, `model` is \
                 the id of another one; only a step with the teacher `original` has a student already",
            ),
            Some(student) => self.student_faults(student, &mut faults),
        }
        faults.extend_under("/losses", loss_faults(&self.losses));
        faults.require_value(self.teachers.len() <= 16, "/teachers", "must be at most 16");
        let needs_features = self.losses.iter().any(|term| term.name.takes_pairs());
        faults.require(
            self.teachers.is_empty() || !needs_features,
            "/teachers",
            "outputs can be averaged, tensors inside models can't: leave out the losses with pairs, or \
             the further teachers",
        );
        if let Some(views) = &self.teacher_views {
            faults.extend_under("/teacher_views", views.faults());
            faults.require(
                self.finetune.augment.is_none(),
                "/teacher_views",
                "the teachers see what the student sees where finetune.augment changes that; leave out one of the two",
            );
            faults.require(
                !needs_features,
                "/teacher_views",
                "outputs can be averaged over views, tensors inside models can't: leave out the losses with pairs, or the \
                 views",
            );
        }
        if let Some(map) = &self.class_map {
            faults.require_value(!map.is_empty(), "/class_map", "must not be empty");
        }
        faults.require(
            self.finetune.loss.is_none(),
            "/finetune/loss",
            "follows from `losses` here; remove it",
        );
        faults.extend_under("/finetune", self.finetune.faults());
        faults
    }

    fn student_faults(&self, student: &Student, faults: &mut Faults) {
        let made = student.width.is_some() || student.depth.is_some() || student.weights.is_some();
        faults.require(
            student.model.is_some() != made,
            "/student",
            "is either {\"model\": \"<id>\"} or made by `width`, `depth` and `weights`",
        );
        for (pointer, share) in [
            ("/student/width", student.width),
            ("/student/depth", student.depth),
        ] {
            faults.require_value(
                share.is_none_or(|share| share > 0.0 && share <= 1.0),
                pointer,
                "must be above 0 and at most 1",
            );
        }
        let whole = |share: Option<f64>| share.is_none_or(|share| share == 1.0);
        let fresh = student.weights == Some(StudentWeights::Reinitialize)
            || self.finetune.weights == StartWeights::Reinitialize;
        faults.require(
            !made || fresh || !whole(student.width) || !whole(student.depth),
            "/student",
            "the student would be its own teacher: ask for a width or depth below 1, or for fresh \
             weights",
        );
        faults.require(
            student.preprocess.is_none() || student.model.is_some(),
            "/student/preprocess",
            "goes with `model` only: a student made out of the teacher takes what the teacher takes",
        );
    }
}
