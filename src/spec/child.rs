//! What goes over the pipes between the service and its child process `sinter job`.
//!
//! The service writes one [`Order`] as a line of JSON to the child's standard input and keeps the
//! pipe open; a later [`Command`] line asks for something, and the end of the pipe (the service is
//! gone) ends the child. The child writes [`Message`] lines to its standard output, the last of
//! which is one of the closing ones ([`Message::is_closing`]), and logs to standard error. A child
//! that ends without a closing message has died, whatever its exit code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::dataset::{Damaged, DatasetFormat, DatasetSummary};
use super::fit::InferredData;
use super::job::{JobRequest, Preprocess};
use super::model::{LayerInfo, ModelFormat, ModelSummary, NodeInfo};
use super::predict::Prediction;
use super::problem::Problem;
use super::result::{JobResult, Plan};

/// A file that was uploaded: under which name, and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputFile {
    /// As the uploader named it; a plain file name or a relative path.
    pub name: String,
    pub path: PathBuf,
}

/// The first line that a child reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Assignment {
    pub order: Order,
    pub confinement: Confinement,
}

/// What the child keeps itself from before it reads anything that was uploaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// From the network, from other programs, and from all files but those of its order.
    pub sandbox: bool,
}

/// What the child is to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// Parse and check an uploaded model. Closes with [`Message::Model`].
    InspectModel {
        files: Vec<InputFile>,
        /// Where a single-file copy goes when the upload has external data.
        staging: PathBuf,
    },
    /// Parse and check an uploaded data set. Closes with [`Message::Dataset`].
    InspectDataset {
        files: Vec<InputFile>,
        /// As the uploader says; detected from the bytes when `None`.
        format: Option<DatasetFormat>,
        /// Name of the target column of a table, the last one when `None`; or of a manifest.
        target: Option<String>,
        /// Name of a table's column of texts, or two with a comma between; by their usual names when `None`.
        #[serde(default)]
        text: Option<String>,
        #[serde(default)]
        damaged: Damaged,
        /// Names of the classes, in their order.
        #[serde(default)]
        classes: Option<Vec<String>>,
        /// Columns of a table that are left out.
        #[serde(default)]
        exclude: Vec<String>,
    },
    /// Describe the layers of a model. Closes with [`Message::Layers`].
    Layers { model: PathBuf },
    /// Describe the whole graph of a model. Closes with [`Message::Nodes`].
    Nodes { model: PathBuf },
    /// Ask a model about a few examples. Closes with [`Message::Prediction`].
    Predict(Box<PredictOrder>),
    /// List the compute devices. Closes with [`Message::Devices`].
    Devices,
    /// Look for what makes a job impossible, in its model alone. Closes with [`Message::Checked`].
    Check {
        inputs: Box<JobInputs>,
        about: Option<Box<InferredData>>,
    },
    /// Plan a job without training. Closes with [`Message::Plan`].
    Plan { inputs: Box<JobInputs> },
    /// Run a job. Closes with [`Message::Done`], or [`Message::Drained`] after
    /// [`Command::Drain`].
    Run {
        inputs: Box<JobInputs>,
        /// Finished files go here; it is empty at the start.
        staging: PathBuf,
        /// Checkpoints go here; what an earlier attempt left is resumed from.
        checkpoint: PathBuf,
    },
}

/// A model, and examples to ask it about.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PredictOrder {
    pub model: PathBuf,
    /// JSON, an image, audio or a text.
    pub body: InputFile,
    /// As the request says.
    pub preprocess: Option<Preprocess>,
    /// Of images, audio and texts where the request does not say it.
    pub media_preprocess: Preprocess,
    /// An evaluation of the model on the data set whose examples can be asked about; its tokenizer reads texts where the
    /// model brings none along.
    pub stored: Option<Box<JobInputs>>,
    /// By label.
    pub class_names: Option<Vec<String>>,
}

/// All that a job reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobInputs {
    pub job: Uuid,
    pub request: JobRequest,
    pub model: PathBuf,
    /// Further models that the parameters name.
    #[serde(default)]
    pub models: BTreeMap<Uuid, PathBuf>,
    pub dataset: Option<DatasetInput>,
    /// The file `trials.json` of the search that the parameters name.
    #[serde(default)]
    pub trials: Option<PathBuf>,
}

/// An uploaded data set and what its inspection found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DatasetInput {
    pub files: Vec<InputFile>,
    pub summary: DatasetSummary,
}

/// What the service may ask while the child works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Write a checkpoint as soon as possible, say [`Message::Drained`] and end.
    Drain,
}

/// How loud an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Info,
    Warning,
    Error,
}

/// How far a job is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Progress {
    /// 0 to 1 over the whole job.
    pub fraction: f64,
    /// `load`, `evaluate`, `prune`, `recalibrate`, `finetune`, `train`, `measure`, `report`.
    pub phase: String,
    pub step: Option<u64>,
    pub steps: Option<u64>,
    pub epoch: Option<u32>,
    pub epochs: Option<u32>,
    pub eta_seconds: Option<f64>,
}

/// A finished file in the staging folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    /// As the artifact is called.
    pub name: String,
    pub media_type: String,
    pub path: PathBuf,
}

/// The artifact that is the result's model.
pub const MODEL_ARTIFACT: &str = "model.onnx";

/// The artifact that has all trials of a search.
pub const TRIALS_ARTIFACT: &str = "trials.json";

/// The name of the file with the model of a distillation's control.
pub const CONTROL_ARTIFACT: &str = "control.onnx";

/// An artifact that becomes a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StagedModel {
    /// The id that the model will have.
    pub id: Uuid,
    /// Name of the artifact.
    pub artifact: String,
    pub summary: ModelSummary,
}

/// A compute device that jobs can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeviceInfo {
    /// `cpu`, `wgpu`, `wgpu:1`, …
    pub name: String,
    /// The processor's or adapter's own name.
    pub adapter: String,
    /// `cpu`, `discrete_gpu`, `integrated_gpu`, `virtual_gpu` or `other`; a software adapter is
    /// a `cpu`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `flex`, `vulkan`, `metal`, `dx12`, …
    pub backend: String,
    /// Whether `auto` may choose it.
    pub auto: bool,
}

/// What the child says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum Message {
    /// Something a person following the job wants to know.
    Event {
        level: Level,
        /// snake_case word for programs, for instance `checkpoint_written`.
        #[serde(rename = "type")]
        kind: String,
        text: String,
        #[serde(default)]
        data: serde_json::Value,
    },
    Progress(Progress),
    /// Nothing but a sign of life, once a second; it comes from a thread of its own, so that long steps are no silence.
    Alive,
    /// A point of a curve. A resumed job says points again; `(name, step)` identifies one.
    Metric {
        name: String,
        step: u64,
        value: f64,
    },
    Model {
        format: ModelFormat,
        summary: ModelSummary,
        /// The single-file copy, when one was made; else the first uploaded file is the model.
        file: Option<PathBuf>,
    },
    Dataset {
        summary: DatasetSummary,
    },
    Layers {
        layers: Vec<LayerInfo>,
    },
    Nodes {
        nodes: Vec<NodeInfo>,
    },
    Prediction {
        prediction: Box<Prediction>,
    },
    Devices {
        devices: Vec<DeviceInfo>,
    },
    /// Nothing is known that makes the job impossible.
    Checked,
    Plan {
        plan: Box<Plan>,
        /// What was inferred about the data.
        data: Option<Box<InferredData>>,
        /// Optimizer steps of all its trainings, at most.
        steps: u64,
    },
    Done {
        /// `model` is filled in by the service.
        result: Box<JobResult>,
        artifacts: Vec<StagedFile>,
        /// Those of the artifacts that become models of their own; `model.onnx` is the result's.
        models: Vec<StagedModel>,
    },
    Drained,
    /// The order can't be carried out, now or at another try.
    Failed {
        problem: Problem,
    },
}

impl Order {
    /// What the child reads beside the programs' own files: files, and folders with all that is in them.
    pub fn reads(&self) -> Vec<&Path> {
        match self {
            Self::InspectModel { files, .. } | Self::InspectDataset { files, .. } => paths(files),
            Self::Layers { model } | Self::Nodes { model } => vec![model],
            Self::Predict(order) => {
                let mut all = vec![order.model.as_path(), order.body.path.as_path()];
                all.extend(order.stored.iter().flat_map(|inputs| inputs.reads()));
                all
            }
            Self::Devices => Vec::new(),
            Self::Check { inputs, .. } | Self::Plan { inputs } | Self::Run { inputs, .. } => {
                inputs.reads()
            }
        }
    }

    /// Folders that the child writes to.
    pub fn writes(&self) -> Vec<&Path> {
        match self {
            Self::InspectModel { staging, .. } => vec![staging],
            Self::Run {
                staging,
                checkpoint,
                ..
            } => vec![staging, checkpoint],
            _ => Vec::new(),
        }
    }
}

fn paths(files: &[InputFile]) -> Vec<&Path> {
    files.iter().map(|file| file.path.as_path()).collect()
}

impl JobInputs {
    fn reads(&self) -> Vec<&Path> {
        let mut all = vec![self.model.as_path()];
        all.extend(self.models.values().map(PathBuf::as_path));
        all.extend(self.trials.as_deref());
        if let Some(dataset) = &self.dataset {
            all.extend(paths(&dataset.files));
        }
        all
    }
}

impl Message {
    /// Whether nothing follows this message.
    pub fn is_closing(&self) -> bool {
        !matches!(
            self,
            Self::Event { .. } | Self::Progress(_) | Self::Metric { .. } | Self::Alive
        )
    }
}
