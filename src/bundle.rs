//! What a new model is handed on with, as files beside it: an MLflow model, a model card as the Hugging Face hub reads it,
//! what was done to it and what came of that, and where it came from (in-toto, SLSA).

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::spec::fit::InferredData;
use crate::spec::job::JobKind;
use crate::spec::model::{Dimension, ModelSummary, TensorInfo};
use crate::spec::result::{JobResult, Measurement};
use crate::store::datasets::Dataset;
use crate::store::jobs::Job;
use crate::store::models::Model;
use crate::store::{Scope, Store, StoreError};

/// The artifact that has all of it in one file.
pub const BUNDLE_ARTIFACT: &str = "bundle.tar";

/// The model's file.
const MODEL: &str = "model.onnx";

/// An example input with more elements than this is left out.
const MOST_ELEMENTS: u64 = 200_000;

/// The version of MLflow whose format is written.
const MLFLOW_VERSION: &str = "3.17.2";

const PYTHON_VERSION: &str = "3.11";

/// What the programs that read the bundle need.
const REQUIREMENTS: [&str; 4] = ["mlflow>=2.10", "numpy", "onnx>=1.16", "onnxruntime>=1.18"];

/// A new model, and all that is known about it.
#[derive(Debug, Clone)]
pub struct Bundle {
    pub job: Job,
    pub result: JobResult,
    /// Name of the new model.
    pub name: String,
    pub summary: ModelSummary,
    /// Hex SHA-256 of the model's file.
    pub digest: String,
    pub size_bytes: u64,
    pub path: PathBuf,
    /// What it was made from, unless that was deleted since.
    pub base: Option<Model>,
    pub dataset: Option<Dataset>,
}

/// The model and the data set that a job worked on, as far as they are still there.
pub async fn inputs_of(
    store: &Store,
    job: &Job,
) -> Result<(Option<Model>, Option<Dataset>), StoreError> {
    let request = &job.request;
    let base = store.model(&Scope::All, &request.model.to_string()).await?;
    let dataset = match request.dataset {
        None => None,
        Some(id) => store.dataset(&Scope::All, &id.to_string()).await?,
    };
    Ok((base, dataset))
}

impl Bundle {
    /// All files but the model's own, by name.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let example = self.example();
        let mut files = vec![("MLmodel".to_owned(), self.mlmodel(example.is_some()))];
        if let Some(example) = example {
            files.push(("input_example.json".to_owned(), compact(&example)));
            let served = json!({ "inputs": example });
            files.push(("serving_input_example.json".to_owned(), compact(&served)));
        }
        files.extend([
            ("conda.yaml".to_owned(), conda()),
            ("python_env.yaml".to_owned(), python_env()),
            (
                "requirements.txt".to_owned(),
                (REQUIREMENTS.join("\n") + "\n").into_bytes(),
            ),
            ("README.md".to_owned(), self.card().into_bytes()),
            ("compression.json".to_owned(), pretty(&self.compression())),
            ("provenance.json".to_owned(), pretty(&self.provenance())),
        ]);
        let mut sums = format!("{}  {MODEL}\n", self.digest);
        for (name, bytes) in &files {
            sums.push_str(&format!("{}  {name}\n", hex::encode(Sha256::digest(bytes))));
        }
        files.push(("SHA256SUMS".to_owned(), sums.into_bytes()));
        files
    }

    /// Writes a tar of all files, the same bytes for the same bundle.
    pub fn write_tar(&self, path: &Path) -> io::Result<()> {
        let mut tar = tar::Builder::new(BufWriter::new(File::create(path)?));
        let header = |size: u64| {
            let mut header = tar::Header::new_gnu();
            header.set_size(size);
            header.set_mode(0o644);
            header.set_mtime(0);
            header
        };
        let model = File::open(&self.path)?;
        tar.append_data(&mut header(self.size_bytes), MODEL, model)?;
        for (name, bytes) in self.files() {
            let size = bytes.len() as u64;
            tar.append_data(&mut header(size), name, bytes.as_slice())?;
        }
        tar.into_inner()?.flush()
    }

    /// When its job began, as MLflow writes times.
    pub fn created(&self) -> String {
        let at = self
            .job
            .started_at
            .as_deref()
            .unwrap_or(&self.job.created_at);
        at.replace('T', " ").replace('Z', "")
    }

    /// The flavors as MLflow's `MLmodel` has them.
    pub fn flavors(&self) -> Value {
        json!({
            "onnx": {
                "code": null, "data": MODEL, "onnx_session_options": null, "onnx_version": "1.16.0",
                "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
            },
            "python_function": {
                "data": MODEL, "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": "mlflow.onnx", "python_version": PYTHON_VERSION,
            },
        })
    }

    /// `MLmodel` as JSON, which is YAML too.
    fn mlmodel(&self, has_example: bool) -> Vec<u8> {
        let tensors = |tensors: &[TensorInfo]| -> Option<String> {
            let all: Option<Vec<Value>> = tensors.iter().map(tensor_spec).collect();
            all.map(|all| Value::from(all).to_string())
        };
        let signature = tensors(&self.summary.inputs)
            .zip(tensors(&self.summary.outputs))
            .map(|(inputs, outputs)| json!({"inputs": inputs, "outputs": outputs, "params": null}));
        let mut model = json!({
            "flavors": self.flavors(),
            "metadata": {"sinter_job": self.job.id, "sinter_model": self.result.model},
            "mlflow_version": MLFLOW_VERSION,
            "model_size_bytes": self.size_bytes,
            // Of its own for each job, and the same whenever it is asked for.
            "model_uuid": self.job.id.replace('-', ""),
            "utc_time_created": self.created(),
        });
        if let Some(signature) = signature {
            model["signature"] = signature;
        }
        if has_example {
            model["saved_input_example_info"] = json!({
                "artifact_path": "input_example.json", "serving_input_path": "serving_input_example.json",
                "type": "ndarray",
            });
        }
        pretty(&model)
    }

    /// Zeros for every input; `None` where a size is open that is not the batch's, or too much would be written.
    fn example(&self) -> Option<Value> {
        let mut inputs = serde_json::Map::new();
        let mut left = MOST_ELEMENTS;
        for input in &self.summary.inputs {
            tensor_spec(input)?;
            let mut shape = Vec::new();
            for (axis, dimension) in input.shape.iter().enumerate() {
                let size = match dimension.fixed() {
                    Some(size) => u64::try_from(size).ok()?,
                    None if axis == 0 => 1,
                    None => return None,
                };
                shape.push(size);
            }
            let elements = shape
                .iter()
                .try_fold(1u64, |product, size| product.checked_mul(*size))?;
            left = left.checked_sub(elements)?;
            let zero = match input.dtype.as_str() {
                "bool" => json!(false),
                dtype if dtype.starts_with("float") => json!(0.0),
                _ => json!(0),
            };
            inputs.insert(input.name.clone(), filled(&zero, &shape));
        }
        Some(Value::Object(inputs))
    }

    /// What was asked for and what came of it.
    fn compression(&self) -> Value {
        json!({
            "job": self.job.id,
            "request": self.job.request.shown(),
            "before": self.result.before,
            "after": self.result.after,
            "change": self.result.change,
            "training": self.result.training,
            "environment": self.result.environment,
        })
    }

    /// An in-toto statement (<https://github.com/in-toto/attestation>, v1) with SLSA's provenance predicate
    /// (<https://slsa.dev/spec/v1.0/provenance>).
    fn provenance(&self) -> Value {
        const PROJECT: &str = env!("CARGO_PKG_REPOSITORY");
        let mut dependencies = Vec::new();
        if let Some(base) = &self.base {
            dependencies.push(json!({
                "name": base.name, "uri": format!("sinter:models/{}", base.id), "digest": {"sha256": base.digest}}));
        }
        if let Some(dataset) = &self.dataset {
            let files: Vec<Value> = dataset.files.iter().map(|file| {
                json!({"name": format!("{}/{}", dataset.name, file.name),
                       "uri": format!("sinter:datasets/{}", dataset.id), "digest": {"sha256": file.digest}})
            }).collect();
            dependencies.extend(files);
        }
        json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": MODEL, "digest": {"sha256": self.digest}}],
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {
                "buildDefinition": {
                    "buildType": format!("{PROJECT}/job/v1"),
                    "externalParameters": {"request": self.job.request.shown()},
                    "internalParameters": {"device": self.result.environment.device},
                    "resolvedDependencies": dependencies,
                },
                "runDetails": {
                    "builder": {"id": PROJECT, "version": {"sinter": self.result.environment.version}},
                    "metadata": {"invocationId": self.job.id, "startedOn": self.job.started_at},
                },
            },
        })
    }

    /// A model card; its front matter is what the hub reads.
    fn card(&self) -> String {
        let kind = self.job.kind;
        let about = self.result.environment.data.as_ref();
        let after = self.result.after.as_ref();
        let mut tags = vec!["onnx", "sinter"];
        tags.extend(words(kind));
        let mut front = String::from("---\nlibrary_name: onnx\n");
        if let Some(base) = &self.base {
            // The hub knows four relations: adapter, finetune, merge, quantized. What was done stands among the tags.
            front.push_str(&format!(
                "base_model: {}\nbase_model_relation: finetune\n",
                quoted(&hub_name(&base.name))
            ));
        }
        let list = |items: &[&str]| {
            items
                .iter()
                .map(|item| format!("- {}\n", quoted(item)))
                .collect::<String>()
        };
        front.push_str(&format!("tags:\n{}", list(&tags)));
        if let Some(task) = about.and_then(|about| pipeline_tag(about, self.dataset.as_ref())) {
            front.push_str(&format!("pipeline_tag: {task}\n"));
        }
        if let Some(after) = after.filter(|after| !after.metrics.is_empty()) {
            let names: Vec<&str> = after.metrics.keys().map(String::as_str).collect();
            front.push_str(&format!("metrics:\n{}", list(&names)));
        }
        front.push_str("---\n");

        let mut text = format!("{front}\n# {}\n\n", self.name);
        let origin = self
            .base
            .as_ref()
            .map_or("a model", |base| base.name.as_str());
        text.push_str(&format!(
            "An ONNX model that [Sinter]({}) {} made from `{origin}` (job `{}`, kind `{}`).\n\n",
            env!("CARGO_PKG_REPOSITORY"),
            self.result.environment.version,
            self.job.id,
            kind.as_str()
        ));
        if let Some(after) = after {
            text.push_str(&figures(&self.result.before, after));
        }
        if let Some(dataset) = self.dataset.as_ref().filter(|_| after.is_some()) {
            text.push_str(&format!(
                "Measured on the test split of the data set `{}`, on which this job did not train.\n\n",
                dataset.name
            ));
        }
        text.push_str("## Inputs and outputs\n\n");
        for (what, tensors) in [
            ("input", &self.summary.inputs),
            ("output", &self.summary.outputs),
        ] {
            for tensor in tensors {
                text.push_str(&format!(
                    "- {what} `{}`: {} {}\n",
                    tensor.name,
                    tensor.dtype,
                    shape_text(&tensor.shape)
                ));
            }
        }
        if let Some(about) = about {
            let told = about.prepared.iter().map(|line| format!("- {line}\n"));
            let told = told.collect::<String>();
            let expects = serde_json::to_string_pretty(&about.inputs).unwrap_or_default();
            text.push_str(&format!(
                "\nHow examples became inputs while it was trained and measured:\n\n{told}\n```json\n{expects}\n```\n"
            ));
            if let Some(names) = &about.class_names {
                text.push_str(&format!("\nClasses, by index: {}.\n", names.join(", ")));
            }
        }
        let tokens = about.and_then(|about| {
            let mut inputs = about.inputs.iter();
            inputs.find_map(|input| input.tokens.as_ref())
        });
        if let (Some(tokens), Some(_)) = (tokens, &self.summary.tokenizer) {
            text.push_str(&format!(
                "\nTexts become tokens by the tokenizer that is in the model's file:\n\n```python\nimport onnxruntime\nimport tokenizers\n\n\
                 session = onnxruntime.InferenceSession(\"model.onnx\")\n\
                 tokenizer = tokenizers.Tokenizer.from_str(session.get_modelmeta().custom_metadata_map[\"sinter.tokenizer\"])\n\
                 tokenizer.enable_truncation({length})\n\
                 tokenizer.enable_padding(length={length}, pad_id={pad}, direction=\"{side}\")\n\
                 encoded = tokenizer.encode(\"A text.\")  # encoded.ids, encoded.attention_mask, encoded.type_ids\n```\n",
                length = tokens.length,
                pad = tokens.pad_token,
                side = if tokens.pads_left { "left" } else { "right" },
            ));
        }
        text.push_str(
            "\n## Use\n\n```python\nimport onnxruntime\n\nsession = onnxruntime.InferenceSession(\"model.onnx\")\n\
             outputs = session.run(None, inputs)\n```\n\nOr `mlflow.onnx.load_model(\".\")`, `mlflow models serve -m .`. \
             `compression.json` has all figures, `provenance.json` what it was made from (in-toto, SLSA), `SHA256SUMS` the \
             digests.\n",
        );
        text
    }
}

fn compact(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_string_pretty(value).expect("bundles are plain data");
    text.push('\n');
    text.into_bytes()
}

/// A scalar for YAML: JSON's strings are YAML's double-quoted ones.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// As MLflow has a tensor in a signature; `None` for one that NumPy has no type for.
fn tensor_spec(tensor: &TensorInfo) -> Option<Value> {
    const NUMPY: [&str; 12] = [
        "bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8",
        "uint16", "uint32", "uint64",
    ];
    if !NUMPY.contains(&tensor.dtype.as_str()) || tensor.shape.is_empty() {
        return None;
    }
    let shape: Vec<i64> = tensor
        .shape
        .iter()
        .map(|size| size.fixed().unwrap_or(-1))
        .collect();
    Some(
        json!({"name": tensor.name, "type": "tensor", "tensor-spec": {"dtype": tensor.dtype, "shape": shape}}),
    )
}

fn filled(value: &Value, shape: &[u64]) -> Value {
    match shape.split_first() {
        None => value.clone(),
        Some((&count, rest)) => (0..count).map(|_| filled(value, rest)).collect(),
    }
}

fn conda() -> Vec<u8> {
    let pip: String = REQUIREMENTS
        .iter()
        .map(|each| format!("  - {each}\n"))
        .collect();
    format!("channels:\n- conda-forge\ndependencies:\n- python={PYTHON_VERSION}\n- pip\n- pip:\n{pip}name: mlflow-env\n").into_bytes()
}

fn python_env() -> Vec<u8> {
    format!("python: \"{PYTHON_VERSION}\"\nbuild_dependencies:\n- pip\n- setuptools\n- wheel\ndependencies:\n- -r requirements.txt\n")
        .into_bytes()
}

/// What was done, in words.
fn words(kind: JobKind) -> Vec<&'static str> {
    match kind {
        JobKind::Prune => vec!["pruned"],
        JobKind::Distill => vec!["distilled"],
        JobKind::Search => vec!["neural-architecture-search"],
        JobKind::Pipeline => vec!["compressed"],
        JobKind::Train => vec!["fine-tuned"],
        JobKind::Evaluate => Vec::new(),
    }
}

/// A name as repositories of the hub have it.
fn hub_name(name: &str) -> String {
    let fits = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
    name.chars()
        .map(|character| if fits(character) { character } else { '-' })
        .collect()
}

/// The hub's word for what the model does, where the data set tells.
fn pipeline_tag(about: &InferredData, dataset: Option<&Dataset>) -> Option<&'static str> {
    use crate::spec::dataset::DatasetFormat;
    use crate::spec::job::Task;
    let media = dataset?.summary.format;
    match (about.task, media) {
        (Task::Classification, DatasetFormat::Images) => Some("image-classification"),
        (Task::Classification, DatasetFormat::Audio) => Some("audio-classification"),
        (Task::LanguageModeling, _) => Some("text-generation"),
        (Task::Embedding, _) => Some("feature-extraction"),
        _ => None,
    }
}

fn shape_text(shape: &[Dimension]) -> String {
    let sizes: Vec<String> = shape
        .iter()
        .map(|dimension| match dimension {
            Dimension::Fixed(size) => size.to_string(),
            Dimension::Dynamic(name) if name.is_empty() => "?".to_owned(),
            Dimension::Dynamic(name) => name.clone(),
        })
        .collect();
    format!("[{}]", sizes.join(", "))
}

/// Before and after as a table.
fn figures(before: &Measurement, after: &Measurement) -> String {
    let mut text = String::from("| | before | after |\n| --- | ---: | ---: |\n");
    let mut row = |name: &str, before: Option<String>, after: Option<String>| {
        if let (Some(before), Some(after)) = (before, after) {
            text.push_str(&format!("| {name} | {before} | {after} |\n"));
        }
    };
    let whole = |value: u64| Some(value.to_string());
    row(
        "parameters",
        whole(before.parameters),
        whole(after.parameters),
    );
    row(
        "nonzero parameters",
        whole(before.nonzero_parameters),
        whole(after.nonzero_parameters),
    );
    row(
        "multiply-accumulates",
        before.macs.map(|macs| macs.to_string()),
        after.macs.map(|macs| macs.to_string()),
    );
    row("bytes", whole(before.size_bytes), whole(after.size_bytes));
    for (name, value) in &after.metrics {
        let shown = |value: &f64| format!("{value:.4}");
        row(
            name,
            before.metrics.get(name).map(shown),
            Some(shown(value)),
        );
    }
    text.push('\n');
    text
}
