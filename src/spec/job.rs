//! What a user asks for.

use std::collections::BTreeMap;

use serde::de::{DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::audio::AudioOptions;
use super::distill::{DistillParams, TeacherChoice};
use super::evaluate::{EvaluateParams, MetricName};
use super::hyperparameters::Hyperparameters;
use super::mlflow::ModelSource;
use super::picture::Extent;
use super::pipeline::{PipelineParams, misread_steps};
use super::problem::{Faults, Problem, Reading, escape, parse, read};
use super::prune::PruneParams;
use super::search::SearchParams;
use super::tokens::MOST_LENGTH;
use super::train::{StartWeights, TrainParams};
use super::webhook::{Webhook, read_url};

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    Train,
    Evaluate,
    Prune,
    Distill,
    Search,
    Pipeline,
}

impl JobKind {
    /// The name as JSON and the database have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Evaluate => "evaluate",
            Self::Prune => "prune",
            Self::Distill => "distill",
            Self::Search => "search",
            Self::Pipeline => "pipeline",
        }
    }
}

/// What the model is for; tells the loss, the metrics and the form of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// One label out of many.
    Classification,
    /// A 0/1 target for each output.
    Multilabel,
    Regression,
    /// One label out of many for each token.
    TokenClassification,
    /// The next token, at each token.
    LanguageModeling,
    Embedding,
}

impl Task {
    /// Whether the target is one label out of many: for each example, or for each of its tokens.
    pub fn has_labels(self) -> bool {
        self == Self::Classification || self.is_of_tokens()
    }

    /// Whether each token has a target of its own; the output is `[batch, tokens, classes]`.
    pub fn is_of_tokens(self) -> bool {
        matches!(self, Self::TokenClassification | Self::LanguageModeling)
    }
}

/// The order of an image's axes in the data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    Nchw,
    Nhwc,
}

/// How the stored numbers become the model's input: `(stored · scale − mean) ÷ std`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Preprocess {
    /// 1/255 for uint8 images and 1 otherwise when `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    /// One for all channels (features of a row) or one for each; 0 when `null`.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "one_or_more"
    )]
    #[schema(value_type = Option<OneOrMore>)]
    pub mean: Option<Vec<f64>>,
    /// One for all channels (features of a row) or one for each; 1 when `null`.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "one_or_more"
    )]
    #[schema(value_type = Option<OneOrMore>)]
    pub std: Option<Vec<f64>>,
    /// Of the stored examples; found by comparing shapes when `null`. Of image files: of the model's input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<Layout>,
    /// Size of image files before they are cropped: `[height, width]`, or a number for the shorter side. What the
    /// model takes when `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Extent>,
    /// What is cut out of the middle of image files: `[height, width]`, or a number for both. What the model takes when
    /// `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<Extent>,
    /// How many tokens of a text a model gets that takes any number: longer ones are cut, shorter ones filled up. When
    /// `null` as many as the longest text has, at most as many as the tokenizer's file says, or 512.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u32>,
    /// How audio files are cut, resampled and made features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audio: Option<AudioOptions>,
}

/// A number, which is as a list of it, or a list.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum OneOrMore {
    One(f64),
    More(Vec<f64>),
}

/// Numbers of a list, whose faults have places in it, or one by itself.
fn one_or_more<'de, D: Deserializer<'de>>(given: D) -> Result<Option<Vec<f64>>, D::Error> {
    struct Numbers;
    impl<'de> Visitor<'de> for Numbers {
        type Value = Option<Vec<f64>>;

        fn expecting(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
            formatter.write_str("a number, or a list of numbers")
        }

        fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
            Ok(Some(vec![value]))
        }

        fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
            self.visit_f64(value as f64)
        }

        fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
            self.visit_f64(value as f64)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut values = Vec::new();
            while let Some(value) = list.next_element()? {
                values.push(value);
            }
            Ok(Some(values))
        }
    }
    given.deserialize_any(Numbers)
}

/// How a data set is split, batched and prepared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataOptions {
    /// Examples of one training step; what the model's file fixes, where it does.
    pub batch_size: u32,
    /// Share of the train split set aside to select on, 0 to below 1.
    pub validation_fraction: f64,
    /// Share set aside as the test split where the data set has none of its own.
    pub test_fraction: f64,
    /// Use at most so many examples of each split, of a test split in the data set the first ones;
    /// all when `null`.
    pub limit: Option<u64>,
    pub preprocess: Preprocess,
    /// Whether the result's model does the scaling and normalising (scale, mean, std) itself, so that it takes pixels
    /// or other numbers as they are stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub embed_preprocessing: bool,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            batch_size: 64,
            validation_fraction: 0.1,
            test_fraction: 0.1,
            limit: None,
            preprocess: Preprocess::default(),
            embed_preprocessing: false,
        }
    }
}

impl DataOptions {
    fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        faults.require_value(
            (1..=65_536).contains(&self.batch_size),
            "/batch_size",
            "must be from 1 to 65536",
        );
        for (pointer, fraction) in [
            ("/validation_fraction", self.validation_fraction),
            ("/test_fraction", self.test_fraction),
        ] {
            faults.require_value(
                (0.0..1.0).contains(&fraction),
                pointer,
                "must be from 0 to below 1: a share, as 0.1 for a tenth",
            );
        }
        let sound = faults.found.is_empty();
        faults.require(
            !sound || self.validation_fraction + self.test_fraction < 1.0,
            "/validation_fraction",
            "leaves nothing to train on together with test_fraction",
        );
        faults.require_value(self.limit != Some(0), "/limit", "must be at least 1");
        faults.extend_under("/preprocess", self.preprocess.faults());
        faults
    }
}

impl Preprocess {
    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        for (pointer, values) in [("/mean", &self.mean), ("/std", &self.std)] {
            let values = values.iter().flatten();
            let sound = values
                .clone()
                .all(|value| value.is_finite() && value.abs() < 1e30);
            faults.require_value(sound, pointer, "must be numbers below 1e30");
        }
        if let Some(std) = &self.std {
            faults.require_value(
                std.iter().all(|value| *value > 1e-30),
                "/std",
                "must be above 0",
            );
        }
        for (pointer, extent) in [("/resize", self.resize), ("/crop", self.crop)] {
            let sound = extent.is_none_or(Extent::is_sound);
            faults.require_value(
                sound,
                pointer,
                "must be above 0, and at most 16777216 pixels in all",
            );
        }
        if let Some(audio) = &self.audio {
            faults.extend_under("/audio", audio.faults());
        }
        faults.require_value(
            self.max_length
                .is_none_or(|length| (1..=MOST_LENGTH).contains(&length)),
            "/max_length",
            "must be from 1 to 65536",
        );
        if let Some(scale) = self.scale {
            let is_sound = scale.is_finite() && scale.abs() > 1e-30;
            faults.require_value(is_sound, "/scale", "must not be 0, nor nearly so");
        }
        faults
    }
}

/// A job as it is posted, and as it is kept: defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(bound = "")]
#[serde(deny_unknown_fields)]
pub struct JobRequest<M = Uuid> {
    pub kind: JobKind,
    /// In answers always an id.
    #[schema(value_type = ModelSource)]
    pub model: M,
    /// An uploaded data set; only a `prune` by a criterion of the weights alone, without fine-tuning, can do without.
    #[serde(default)]
    pub dataset: Option<Uuid>,
    /// What lists call the job, and the model that it makes.
    #[serde(default)]
    pub name: Option<String>,
    /// By kind: `TrainParams`, `EvaluateParams`, `PruneParams`, `DistillParams`, `SearchParams` or
    /// `PipelineParams`.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub params: serde_json::Value,
    #[serde(default)]
    pub data: DataOptions,
    /// Inferred from the target when `null`.
    #[serde(default)]
    pub task: Option<Task>,
    /// `auto`, `cpu`, or a name from `GET /v1/devices`.
    #[serde(default = "default_device")]
    pub device: String,
    /// Of everything that is drawn: with the same seed, files and device the result is the same. 0 when left out.
    #[serde(default)]
    pub seed: u64,
    /// Higher runs first, −1000 to 1000.
    #[serde(default)]
    pub priority: i32,
    /// How often the job is begun, or gone on with, before it has failed, 1 to 100; 3 when left out.
    #[serde(default = "default_max_attempts")]
    pub max_attempts: u32,
    /// How long an attempt may take; 86,400, a day, when left out.
    #[serde(default = "default_timeout_seconds")]
    pub timeout_seconds: u64,
    /// Words of one's own to find jobs by, at most 50.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// Who is told how the job went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// Answer with the plan and its cost instead of queueing the job.
    #[serde(default)]
    pub dry_run: bool,
}

fn default_device() -> String {
    "auto".to_owned()
}

fn default_max_attempts() -> u32 {
    3
}

fn default_timeout_seconds() -> u64 {
    86_400
}

/// The parameters of a job, read by its kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Params {
    Train(TrainParams),
    Evaluate(EvaluateParams),
    Prune(Box<PruneParams>),
    Distill(Box<DistillParams>),
    /// With what is done to each candidate where that is not plain training.
    Search {
        search: Box<SearchParams>,
        steps: Vec<Params>,
    },
    Pipeline(Vec<Params>),
}

impl Params {
    /// Reads and validates `params` for `kind`; pointers are from the job (`/params/…`).
    pub fn parse(kind: JobKind, params: serde_json::Value) -> Result<Self, Problem> {
        match Self::read(kind, params) {
            (Some(params), faults) if faults.found.is_empty() => Ok(params),
            (_, faults) => Err(faults.problem()),
        }
    }

    /// The same, as far as `params` can be read, with every fault.
    pub fn read(kind: JobKind, params: serde_json::Value) -> (Option<Self>, Faults) {
        let mut params = match params {
            serde_json::Value::Null => serde_json::json!({}),
            given => given,
        };
        let (read, found) = match kind {
            JobKind::Train => checked(params, TrainParams::faults, Self::Train),
            JobKind::Evaluate => checked(params, EvaluateParams::faults, Self::Evaluate),
            JobKind::Prune => checked(params, PruneParams::faults, |prune| {
                Self::Prune(Box::new(prune))
            }),
            JobKind::Distill => checked(params, DistillParams::faults, |distill| {
                Self::Distill(Box::new(distill))
            }),
            JobKind::Pipeline => {
                let mut steps = None;
                let misread = misread_steps(&mut params);
                let reading = read(params).without(misread);
                let (_, faults) = reading.checked(|pipeline: &PipelineParams| {
                    let (read, faults) = pipeline.steps();
                    steps = read;
                    faults
                });
                (steps.map(Self::Pipeline), faults)
            }
            JobKind::Search => {
                let given = params.pointer_mut("/space/hyperparameters");
                let misread = given.map(Hyperparameters::misread).unwrap_or_default();
                let misread = misread.into_iter();
                let misread = misread.map(|fault| fault.under("/space/hyperparameters"));
                let misread = misread.collect();
                let unread = misread_steps(&mut params);
                let reading = read(params).without(unread).with(misread);
                let (search, faults) = reading.checked(SearchParams::faults);
                let search = search.map(|search: SearchParams| {
                    let steps = PipelineParams {
                        steps: search.steps.clone(),
                    };
                    // Faults in them are among those of the search.
                    let steps = steps.steps().0.unwrap_or_default();
                    let search = Box::new(search);
                    Self::Search { search, steps }
                });
                (search, faults)
            }
        };
        let mut faults = Faults::default();
        faults.extend_under("/params", found);
        (read, faults)
    }

    pub fn kind(&self) -> JobKind {
        match self {
            Self::Train(_) => JobKind::Train,
            Self::Evaluate(_) => JobKind::Evaluate,
            Self::Prune(_) => JobKind::Prune,
            Self::Distill(_) => JobKind::Distill,
            Self::Search { .. } => JobKind::Search,
            Self::Pipeline(_) => JobKind::Pipeline,
        }
    }

    /// The parameters as JSON with the defaults filled in.
    pub fn to_json(&self) -> serde_json::Value {
        let json = match self {
            Self::Train(params) => serde_json::to_value(params),
            Self::Evaluate(params) => serde_json::to_value(params),
            Self::Prune(params) => serde_json::to_value(params),
            Self::Distill(params) => serde_json::to_value(params),
            Self::Search { search, .. } => serde_json::to_value(search),
            Self::Pipeline(steps) => {
                let steps: Vec<_> = steps
                    .iter()
                    .map(|step| serde_json::json!({"kind": step.kind(), "params": step.to_json()}))
                    .collect();
                Ok(serde_json::json!({ "steps": steps }))
            }
        };
        json.expect("parameters are plain data with string keys")
    }

    /// Every distillation, with its pointer from the job.
    pub fn distillations(&self) -> Vec<(String, &DistillParams)> {
        match self {
            Self::Distill(distill) => vec![("/params".to_owned(), &**distill)],
            Self::Pipeline(steps) | Self::Search { steps, .. } => steps
                .iter()
                .enumerate()
                .filter_map(|(index, step)| match step {
                    Self::Distill(distill) => {
                        Some((format!("/params/steps/{index}/params"), &**distill))
                    }
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }

    /// What is measured of the models before and after; the task's usual metrics where empty. The objectives of a search, and
    /// what a pruning must not make worse, are among them.
    pub fn metrics(&self, task: Option<Task>) -> Vec<MetricName> {
        match (self, task) {
            (Self::Evaluate(evaluate), _) => evaluate.metrics.clone(),
            (Self::Search { search, .. }, Some(task)) => search.metrics(task),
            (_, Some(task)) => {
                let held = self.held_against().into_iter();
                let held = held.filter(|metric| metric.applies_to(task));
                let mut all = MetricName::defaults(task);
                let usual = all.len();
                for metric in held {
                    if !all.contains(&metric) {
                        all.push(metric);
                    }
                }
                match all.len() > usual {
                    true => all,
                    false => Vec::new(),
                }
            }
            _ => Vec::new(),
        }
    }

    /// The metrics that prunings must not make worse.
    fn held_against(&self) -> Vec<MetricName> {
        match self {
            Self::Prune(prune) => {
                let allowed = prune.target.allowed();
                allowed
                    .map(|(_, allowed)| allowed.metric)
                    .into_iter()
                    .collect()
            }
            Self::Pipeline(steps) => steps.iter().flat_map(Self::held_against).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether the model is trained, or makes way for another one, before anything else: then it need not be good.
    pub fn starts_afresh(&self) -> bool {
        match self {
            Self::Train(_) => true,
            Self::Prune(prune) => prune.schedule.rewind.is_some(),
            Self::Search { search, steps } => {
                search.trial.weights == StartWeights::Reinitialize
                    || search.space.cell.is_some()
                    || steps.first().is_some_and(Self::starts_afresh)
            }
            Self::Pipeline(steps) => steps.first().is_some_and(Self::starts_afresh),
            _ => false,
        }
    }

    /// Whether the job can't run without a data set.
    pub fn needs_data(&self) -> bool {
        match self {
            Self::Train(_) | Self::Evaluate(_) | Self::Distill(_) | Self::Search { .. } => true,
            Self::Prune(prune) => prune.needs_data(),
            Self::Pipeline(steps) => steps.iter().any(Self::needs_data),
        }
    }

    /// Whether the examples are trained on.
    pub fn trains(&self) -> bool {
        match self {
            Self::Distill(_) => true,
            Self::Pipeline(steps) => steps.iter().any(Self::trains),
            Self::Search { .. } => true,
            other => other.needs_gradients(),
        }
    }

    /// Whether labels, or values to fit, are needed.
    pub fn needs_labels(&self) -> bool {
        match self {
            Self::Distill(distill) => distill.needs_labels(),
            Self::Pipeline(steps) => steps.iter().any(Self::needs_labels),
            _ => true,
        }
    }

    /// What the outputs are where neither the request nor a target tells.
    pub fn presumed_task(&self) -> Task {
        match self {
            Self::Distill(distill) => distill.presumed_task(),
            _ => Task::Classification,
        }
    }

    /// The models that the parameters name beside the job's, with pointers from the job.
    pub fn models(&self) -> Vec<(String, Uuid)> {
        let all = self.distillations().into_iter();
        all.flat_map(|(prefix, distill)| {
            let named = distill.models().into_iter();
            named.map(move |(pointer, id)| (format!("{prefix}{pointer}"), id))
        })
        .collect()
    }

    /// Epochs of all its trainings, at most.
    pub fn epochs(&self) -> u64 {
        match self {
            Self::Train(train) => u64::from(train.epochs),
            Self::Prune(prune) => {
                let slimming = prune.slimming.map_or(0, |slimming| slimming.epochs);
                let each = prune.finetune.as_ref().map_or(0, |train| train.epochs);
                u64::from(each) * prune.trainings() + u64::from(slimming)
            }
            Self::Distill(distill) => {
                u64::from(distill.finetune.epochs) * (1 + u64::from(distill.control))
            }
            Self::Evaluate(_) => 0,
            Self::Search { search, .. } => {
                let last = search
                    .finish(&[])
                    .map_or(0, |recipe| recipe.steps.iter().map(Self::epochs).sum());
                let trials = search.most_epochs() * search.trainings(search.trials);
                match (search.control, search.shares_weights()) {
                    (false, _) => trials + last,
                    (true, false) => 2 * (trials + last),
                    (true, true) => trials + 2 * last,
                }
            }
            Self::Pipeline(steps) => steps.iter().map(Self::epochs).sum(),
        }
    }

    /// Whether the validation split has a say in the outcome.
    pub fn selects(&self) -> bool {
        let stops = |train: &TrainParams| train.early_stopping.is_some();
        match self {
            Self::Train(train) => stops(train),
            Self::Prune(prune) => {
                prune.target.allowed().is_some() || prune.finetune.as_ref().is_some_and(stops)
            }
            Self::Distill(distill) => stops(&distill.finetune),
            Self::Evaluate(_) => false,
            Self::Search { .. } => true,
            Self::Pipeline(steps) => steps.iter().any(Self::selects),
        }
    }

    /// The search whose trials count as seen.
    pub fn warm_start(&self) -> Option<Uuid> {
        match self {
            Self::Search { search, .. } => search.warm_start,
            _ => None,
        }
    }

    /// Whether gradients are needed.
    pub fn needs_gradients(&self) -> bool {
        match self {
            Self::Train(_) | Self::Search { .. } => true,
            // The model teaches; whether its student can be trained is seen apart.
            Self::Evaluate(_) | Self::Distill(_) => false,
            Self::Prune(prune) => prune.finetune.is_some() || prune.criterion.needs_gradients(),
            Self::Pipeline(steps) => steps.iter().any(Self::needs_gradients),
        }
    }
}

const NEEDS_DATA: &str = "this job trains, measures or ranks by examples, so it needs a data set";

/// Reads parameters and has them validated.
fn checked<T: DeserializeOwned + Serialize>(
    params: serde_json::Value,
    faults: impl FnOnce(&T) -> Faults,
    of_kind: impl FnOnce(T) -> Params,
) -> (Option<Params>, Faults) {
    let (params, faults) = read(params).checked(faults);
    (params.map(of_kind), faults)
}

/// Reads a posted job as far as that goes. Without its kind nothing can be said of its parameters, but of the rest.
pub fn read_posted<M>(mut posted: serde_json::Value) -> Reading<JobRequest<M>>
where
    JobRequest<M>: DeserializeOwned + Serialize,
{
    #[derive(Serialize, Deserialize)]
    struct Kind {
        kind: JobKind,
    }
    let Some(fields) = posted.as_object_mut() else {
        return read(posted);
    };
    let given = fields
        .get("kind")
        .map(|kind| ("kind".to_owned(), kind.clone()));
    let Err(faults) = parse::<Kind>(serde_json::Value::Object(given.into_iter().collect())) else {
        return read(posted);
    };
    // Of all kinds the one that asks for least.
    fields.insert("kind".to_owned(), serde_json::json!(JobKind::Prune));
    fields.remove("params");
    read(posted).without(faults).guessed("/params")
}

impl<M> JobRequest<M> {
    /// The same request for a model with this id.
    pub fn of_model(self, model: Uuid) -> JobRequest {
        JobRequest {
            model,
            kind: self.kind,
            dataset: self.dataset,
            name: self.name,
            params: self.params,
            data: self.data,
            task: self.task,
            device: self.device,
            seed: self.seed,
            priority: self.priority,
            max_attempts: self.max_attempts,
            timeout_seconds: self.timeout_seconds,
            tags: self.tags,
            webhook: self.webhook,
            dry_run: self.dry_run,
        }
    }
}

impl JobRequest {
    /// A look at how a model does on a data set.
    pub fn evaluation(model: Uuid, dataset: Uuid, data: DataOptions, task: Option<Task>) -> Self {
        Self {
            kind: JobKind::Evaluate,
            model,
            dataset: Some(dataset),
            name: None,
            params: serde_json::Value::Null,
            data,
            task,
            device: "cpu".to_owned(),
            seed: 0,
            priority: 0,
            max_attempts: default_max_attempts(),
            timeout_seconds: default_timeout_seconds(),
            tags: BTreeMap::new(),
            webhook: None,
            dry_run: false,
        }
    }

    /// What reports and bundles show: without where the job tells how it went, which is nobody else's business.
    pub fn shown(&self) -> Self {
        Self {
            webhook: None,
            ..self.clone()
        }
    }

    /// Checks everything that can be told from the request alone and returns the request with
    /// the defaults of its parameters filled in, beside the parameters as read.
    pub fn validate(mut self) -> Result<(Self, Params), Problem> {
        let (params, mut faults) = Params::read(self.kind, self.params.take());
        let whole = params.as_ref().filter(|_| faults.found.is_empty());
        let together = whole.map(|params| self.faults_with(params));
        faults.extend_under("", self.faults());
        faults.extend_under("", together.unwrap_or_default());
        let Some(params) = params.filter(|_| faults.found.is_empty()) else {
            return Err(faults.problem());
        };
        self.params = params.to_json();
        if let Some(webhook) = &mut self.webhook
            && let Ok((url, _)) = read_url(&webhook.url)
        {
            // As it is sent: a host of other letters becomes its punycode.
            webhook.url = url.to_string();
        }
        Ok((self, params))
    }

    /// Every fault of what all kinds of jobs have.
    fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        faults.extend_under("/data", self.data.faults());
        let always = matches!(
            self.kind,
            JobKind::Train | JobKind::Evaluate | JobKind::Distill
        );
        let is_there = self.dataset.is_some();
        faults.require_value(!always || is_there, "/dataset", NEEDS_DATA);
        let searches = self.kind == JobKind::Search && !self.dry_run;
        faults.require(!searches || is_there, "/dataset", NEEDS_DATA);
        faults.require(
            !self.data.embed_preprocessing
                || (self.kind != JobKind::Evaluate && self.dataset.is_some()),
            "/data/embed_preprocessing",
            "needs a data set, and a job that makes a model",
        );
        faults.require_value(
            self.name.as_ref().is_none_or(|name| name.len() <= 200),
            "/name",
            "must have at most 200 bytes",
        );
        faults.require_value(
            (-1000..=1000).contains(&self.priority),
            "/priority",
            "must be from -1000 to 1000",
        );
        faults.require_value(
            (1..=100).contains(&self.max_attempts),
            "/max_attempts",
            "must be from 1 to 100",
        );
        faults.require_value(
            (1..=31_536_000).contains(&self.timeout_seconds),
            "/timeout_seconds",
            "must be from 1 to 31536000",
        );
        faults.require_value(
            i64::try_from(self.seed).is_ok(),
            "/seed",
            "must be below 2^63",
        );
        tag_faults(&self.tags, &mut faults);
        if let Some(webhook) = &self.webhook {
            faults.extend_under("/webhook", webhook.faults());
        }
        faults
    }

    /// Every fault of what does not go together with the job's parameters.
    fn faults_with(&self, params: &Params) -> Faults {
        let mut faults = Faults::default();
        let planned = match params {
            // A dry run does not train, but its criterion looks at examples.
            Params::Prune(prune) if self.dry_run => prune.criterion.needs_data(),
            Params::Prune(_) | Params::Pipeline(_) => params.needs_data(),
            // Of the others the kind tells.
            _ => false,
        };
        faults.require(!planned || self.dataset.is_some(), "/dataset", NEEDS_DATA);
        for (pointer, distill) in params.distillations() {
            let student = distill.student.as_ref().and_then(|student| student.model);
            let teaches =
                distill.teacher == TeacherChoice::Original || self.kind == JobKind::Distill;
            faults.require(
                student != Some(self.model)
                    || !teaches
                    || distill.finetune.weights == StartWeights::Reinitialize,
                &format!("{pointer}/student/model"),
                "the student is its own teacher: name another model, or give it fresh weights with \
                 finetune.weights `reinitialize`",
            );
            faults.require(
                distill.teacher == TeacherChoice::Model
                    || matches!(self.kind, JobKind::Pipeline | JobKind::Search),
                &format!("{pointer}/teacher"),
                "`original` is for steps of a pipeline; here the job's model teaches",
            );
        }
        faults.require_support(
            self.task != Some(Task::Embedding) || !params.needs_labels(),
            "/task",
            "the task `embedding` in jobs other than distillation with losses that need no labels",
        );
        faults.require(
            !self.dry_run || params.held_against().is_empty(),
            "/dry_run",
            "how much worse a metric may become (max_accuracy_drop, max_worsening) is found by training, which a dry run \
             does not do: ask for another target, or for the job itself",
        );
        faults
    }
}

/// Tags are at most 50, keys 1 to 64 bytes, values at most 500.
pub fn tag_faults(tags: &BTreeMap<String, String>, faults: &mut Faults) {
    faults.require_value(tags.len() <= 50, "/tags", "must be at most 50");
    for (key, value) in tags {
        faults.require_value(
            (1..=64).contains(&key.len()) && value.len() <= 500,
            &format!("/tags/{}", escape(key)),
            "a key has 1 to 64 bytes, a value at most 500",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::webhook::WebhookEvent;
    use super::*;
    use serde_json::json;

    fn request(extra: serde_json::Value) -> JobRequest {
        let mut body = json!({"kind": "prune", "model": Uuid::nil(), "dataset": Uuid::nil()});
        body.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        parse(body).unwrap()
    }

    fn pointers(problem: Problem) -> Vec<String> {
        problem.errors.into_iter().map(|f| f.pointer).collect()
    }

    #[test]
    fn defaults_are_filled_into_the_kept_request() {
        let (kept, _) = request(json!({"params": {"target": {"macs_ratio": 0.5}}}))
            .validate()
            .unwrap();
        assert_eq!(kept.params["criterion"], "magnitude");
        assert_eq!(kept.params["schedule"]["steps"], 1);
    }

    #[test]
    fn a_fault_in_a_pipeline_step_is_pointed_at_from_the_job() {
        let mut posted = request(json!({"params": {"steps": [
            {"kind": "prune", "params": {"target": {"sparsity": 1.5}}}]}}));
        posted.kind = JobKind::Pipeline;
        let found = pointers(posted.validate().unwrap_err());
        assert!(found.contains(&"/params/steps/0/params/target/sparsity".to_owned()));
    }

    #[test]
    fn hyperparameters_are_tried_in_their_places() {
        let search = |params: serde_json::Value| {
            let mut posted = request(json!({ "params": params }));
            posted.kind = JobKind::Search;
            posted.validate().map_err(pointers)
        };
        let ranges =
            |ranges: serde_json::Value| search(json!({"space": {"hyperparameters": ranges}}));
        assert!(ranges(json!({"learning_rate": {"log_uniform": [1e-4, 0.1]}})).is_ok());
        assert!(ranges(json!({"augment.crop.padding": {"int": [1, 3]}})).is_ok());
        assert!(
            ranges(json!({"optimizer": {"choice": ["sgd", "adamw"]},
            "momentum": {"uniform": [0, 0.9], "when": {"optimizer": ["sgd"]}}}))
            .is_ok()
        );
        for (name, range) in [
            ("learning_rte", json!({"uniform": [0.1, 0.2]})),
            ("learning_rate", json!({"uniform": [-1, 0.2]})),
            ("momentum", json!({"uniform": [0, 0.9]})),
            ("optimizer", json!({"choice": ["sgd", "sdg"]})),
            ("batch_size", json!({"uniform": [1, 3.5]})),
        ] {
            let found = ranges(json!({ name: range })).unwrap_err();
            assert_eq!(found, [format!("/params/space/hyperparameters/{name}")]);
        }
        assert_eq!(search(json!({})).unwrap_err(), ["/params/space"]);
        let nested = json!({"space": {"hyperparameters": {
            "steps.0.params.target.macs_ratio": {"uniform": [0.2, 0.9]}}},
            "steps": [{"kind": "prune", "params": {"target": {"macs_ratio": 0.5}}}]});
        assert!(search(nested).is_ok());
        let beyond = json!({"space": {"hyperparameters": {
            "steps.1.params.target.macs_ratio": {"uniform": [0.2, 0.9]}}},
            "steps": [{"kind": "prune", "params": {"target": {"macs_ratio": 0.5}}}]});
        assert_eq!(search(beyond).unwrap_err().len(), 1);
    }

    #[test]
    fn a_webhook_is_an_absolute_url_with_events_that_are_known_and_named_once() {
        let with = |webhook: serde_json::Value| {
            request(json!({"params": {"target": {"macs_ratio": 0.5}}, "webhook": webhook}))
                .validate()
        };
        let (told, _) = with(json!({"url": "https://example.com"})).unwrap();
        let told = told.webhook.unwrap();
        assert_eq!(
            (told.url.as_str(), told.events),
            ("https://example.com/", vec![WebhookEvent::Finished])
        );
        let wrong = json!({"url": "example.com", "events": ["job.failed", "job.failed"]});
        let found = pointers(with(wrong).unwrap_err());
        assert_eq!(found, ["/webhook/url", "/webhook/events"]);
    }
}
