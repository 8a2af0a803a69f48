//! Writes ended jobs to MLflow: a run with parameters, curves, figures and files, runs below it for trials and steps, and the
//! new model as a version of a registered model.
//!
//! Each step asks first what is there, so that an export that was cut, or whose answer was lost, goes on instead of
//! beginning a second run: runs are found by their tag `sinter.job_id`, versions by their run.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use ureq::SendBody;

use super::figures::{Figure, Texts, add_figures, cut, figures_of, flatten, key_of, milliseconds};
use super::{Failure, JOB_TAG, Mlflow, PROJECT_TAG, number_of};
use crate::bundle::{BUNDLE_ARTIFACT, Bundle, inputs_of};
use crate::spec::child::{Level, MODEL_ARTIFACT, TRIALS_ARTIFACT};
use crate::spec::trial::{Trial, Trials};
use crate::store::artifacts::Artifact;
use crate::store::datasets::Dataset;
use crate::store::deliveries::{DueDelivery, Response};
use crate::store::events::NewEvent;
use crate::store::jobs::{Job, JobStatus};
use crate::store::metrics::Point;
use crate::store::models::Model;
use crate::store::{DEFAULT_PROJECT, Scope, Store, StoreError};

/// What one call may write at most (MLflow's `log-batch`).
const METRICS_AT_ONCE: usize = 1000;
const PARAMS_AT_ONCE: usize = 100;

/// Runs that are asked for at once; an answer is read up to 10 MB.
const RUNS_AT_ONCE: usize = 200;

/// The folder of the model among a run's files.
const MODEL_FOLDER: &str = "model";

/// Tags of a job that failed.
const ERROR_TAG: &str = "sinter.error";
const NOTE_TAG: &str = "mlflow.note.content";

/// Where MLflow keeps what `runs/log-model` was told.
const HISTORY_TAG: &str = "mlflow.log-model.history";

/// The tag by which a run below it is found again.
const PART_TAG: &str = "sinter.part";

/// All that is known about an ended job.
struct Ended {
    job: Job,
    points: Vec<Point>,
    artifacts: Vec<(Artifact, PathBuf)>,
    trials: Option<Trials>,
    /// `None` for a job that made no model, or whose model was deleted since.
    bundle: Option<Bundle>,
    base: Option<Model>,
    dataset: Option<Dataset>,
}

/// What became of it.
struct Exported {
    run_id: String,
    /// Name and version of the registered model.
    version: Option<(String, String)>,
}

/// Writes a job to the server.
pub async fn export(mlflow: &Arc<Mlflow>, store: &Store, due: &DueDelivery) -> Response {
    let exported = async {
        let ended = gather(store, &due.job_id).await?;
        if !ended.job.status.has_ended() {
            // It was retried; its next end has a row of its own.
            return Ok(None);
        }
        let mlflow = Arc::clone(mlflow);
        tokio::task::spawn_blocking(move || mlflow.export(&ended))
            .await
            .map_err(StoreError::from)?
            .map(Some)
    };
    match exported.await {
        Ok(None) => Response::default(),
        Ok(Some(exported)) => {
            let mut text = "The job was written to MLflow".to_owned();
            let (mut name, mut version) = (None, None);
            if let Some((model, number)) = exported.version {
                text.push_str(&format!(", its model as version {number} of `{model}`"));
                (name, version) = (Some(model), Some(number));
            }
            let data = json!({"run_id": exported.run_id, "model": name, "version": version});
            Response {
                status: Some(200),
                note: Some(NewEvent::new(Level::Info, "mlflow_exported", text).with_data(data)),
                ..Response::default()
            }
        }
        Err(failure) => Response {
            status: match &failure {
                Failure::Refused { status, .. } => Some(*status),
                _ => None,
            },
            is_final: failure.is_final(),
            ..Response::failed(failure.to_string())
        },
    }
}

async fn gather(store: &Store, job_id: &str) -> Result<Ended, Failure> {
    let job = store.job(&Scope::All, job_id).await?.ok_or(Failure::Gone)?;
    let (base, dataset) = inputs_of(store, &job).await?;
    let blobs = store.blobs();
    let result = job.result.clone();
    let made = match result.as_ref().and_then(|result| result.model) {
        None => None,
        Some(id) => store.model(&Scope::All, &id.to_string()).await?,
    };
    let bundle = result.zip(made).map(|(result, made)| Bundle {
        job: job.clone(),
        result,
        path: blobs.path(&made.digest),
        name: made.name,
        summary: made.summary,
        digest: made.digest,
        size_bytes: made.size_bytes,
        base: base.clone(),
        dataset: dataset.clone(),
    });
    let artifacts = store.artifacts(job_id).await?;
    let artifacts: Vec<_> = artifacts
        .into_iter()
        .map(|artifact| {
            let path = blobs.path(&artifact.digest);
            (artifact, path)
        })
        .collect();
    let trials = artifacts
        .iter()
        .find(|(file, _)| file.name == TRIALS_ARTIFACT);
    let trials = match trials {
        None => None,
        Some((_, path)) => {
            let text = tokio::fs::read(path)
                .await
                .map_err(|source| Failure::File {
                    path: path.clone(),
                    source,
                })?;
            serde_json::from_slice(&text).ok()
        }
    };
    Ok(Ended {
        points: store.metrics(job_id).await?,
        job,
        artifacts,
        trials,
        bundle,
        base,
        dataset,
    })
}

/// A run as the server has it.
struct Run {
    id: String,
    artifact_uri: String,
}

impl Run {
    fn read(run: &Value) -> Result<Self, Failure> {
        let text = |name: &'static str| {
            let found = run["info"][name].as_str();
            found.map(str::to_owned).ok_or(Failure::Incomplete(name))
        };
        Ok(Self {
            id: text("run_id")?,
            artifact_uri: text("artifact_uri")?,
        })
    }
}

impl Mlflow {
    fn export(&self, ended: &Ended) -> Result<Exported, Failure> {
        let job = &ended.job;
        let experiment = self.ensure_experiment(&job.project)?;
        let name = job.name.clone().unwrap_or_else(|| {
            let base = ended
                .base
                .as_ref()
                .map_or("model", |base| base.name.as_str());
            format!("{} {base}", job.kind.as_str())
        });
        let started = milliseconds(job.started_at.as_ref().or(Some(&job.created_at)));
        let finished = milliseconds(job.finished_at.as_ref());
        let found = self.find_runs(
            &experiment,
            &format!("tags.`{JOB_TAG}` = '{}'", job.id),
            Some(1),
        )?;
        let known_tags = found
            .first()
            .map_or(&Value::Null, |run| &run["data"]["tags"]);
        let known_tags: Vec<(&str, &str)> = known_tags
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|tag| Some((tag["key"].as_str()?, tag["value"].as_str()?)))
            .collect();
        let run = match found.first() {
            Some(run) => Run::read(run)?,
            None => self.create_run(
                &experiment,
                &name,
                started,
                &[(JOB_TAG.to_owned(), job.id.clone())],
            )?,
        };
        fail_here("mlflow_run_created")?;
        let at = finished.or(started).unwrap_or(0);
        let mut figures: Vec<Figure> = ended
            .points
            .iter()
            .map(|point| Figure {
                name: point.name.clone(),
                value: point.value,
                step: point.step,
                at: milliseconds(Some(&point.at)).unwrap_or(at),
            })
            .collect();
        if let Some(result) = &job.result {
            figures.extend(figures_of(result, at));
        }
        let mut params = Vec::new();
        flatten("", &job.request.params, &mut params);
        let request = &job.request;
        params.push(("seed".to_owned(), request.seed.to_string()));
        params.push(("device".to_owned(), request.device.clone()));
        self.log(&run.id, &params, &figures, &tags(ended))?;
        if job.error.is_none() {
            // Of an end before a retry.
            for key in [ERROR_TAG, NOTE_TAG] {
                if known_tags.iter().any(|tag| tag.0 == key) {
                    self.post("runs/delete-tag", &json!({"run_id": run.id, "key": key}))?;
                }
            }
        }
        self.log_dataset(&run.id, ended)?;
        self.export_parts(&experiment, &run.id, ended, at)?;
        for (artifact, path) in &ended.artifacts {
            // The model goes into its folder, the bundle's files beside it.
            if artifact.name != MODEL_ARTIFACT && artifact.name != BUNDLE_ARTIFACT {
                self.upload(&run, &artifact.name, path)?;
            }
        }
        let version = match &ended.bundle {
            None => None,
            Some(bundle) => {
                let history = known_tags.iter().find(|tag| tag.0 == HISTORY_TAG);
                let logged = history.is_some_and(|tag| tag.1.contains(&uuid_of(bundle)));
                Some(self.register(&run, bundle, ended, logged)?)
            }
        };
        let status = match job.status {
            JobStatus::Succeeded => "FINISHED",
            JobStatus::Canceled => "KILLED",
            _ => "FAILED",
        };
        self.end_run(&run.id, status, finished)?;
        Ok(Exported {
            run_id: run.id,
            version,
        })
    }

    fn ensure_experiment(&self, project: &str) -> Result<String, Failure> {
        let name = match project {
            DEFAULT_PROJECT => self.experiment.clone(),
            other => format!("{}/{other}", self.experiment),
        };
        let find = || -> Result<Option<String>, Failure> {
            match self.get("experiments/get-by-name", &[("experiment_name", &name)]) {
                Ok(found) => Ok(found["experiment"]["experiment_id"]
                    .as_str()
                    .map(str::to_owned)),
                Err(failure) if failure.has_code("RESOURCE_DOES_NOT_EXIST") => Ok(None),
                Err(failure) => Err(failure),
            }
        };
        if let Some(id) = find()? {
            return Ok(id);
        }
        match self.post("experiments/create", &json!({ "name": name })) {
            Ok(made) => {
                let id = made["experiment_id"].as_str().map(str::to_owned);
                id.ok_or(Failure::Incomplete("experiment_id"))
            }
            // Someone else made it at the same time.
            Err(failure) if failure.has_code("RESOURCE_ALREADY_EXISTS") => {
                find()?.ok_or(Failure::Incomplete("experiment_id"))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Runs that pass a filter, all of them or so many.
    fn find_runs(
        &self,
        experiment: &str,
        filter: &str,
        most: Option<usize>,
    ) -> Result<Vec<Value>, Failure> {
        let mut runs = Vec::new();
        let mut page = String::new();
        loop {
            let mut body = json!({
                "experiment_ids": [experiment], "filter": filter, "max_results": most.unwrap_or(RUNS_AT_ONCE),
                "order_by": ["attributes.start_time ASC"]});
            if !page.is_empty() {
                body["page_token"] = Value::from(page);
            }
            let answer = self.post("runs/search", &body)?;
            runs.extend(answer["runs"].as_array().cloned().unwrap_or_default());
            page = answer["next_page_token"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if page.is_empty() || most.is_some() {
                return Ok(runs);
            }
        }
    }

    fn create_run(
        &self,
        experiment: &str,
        name: &str,
        started: Option<i64>,
        tags: &[(String, String)],
    ) -> Result<Run, Failure> {
        let tags: Vec<Value> = tags
            .iter()
            .map(|(key, value)| json!({"key": key, "value": value}))
            .collect();
        let made = self.post("runs/create", &json!({
            "experiment_id": experiment, "run_name": cut(name), "start_time": started, "tags": tags}))?;
        Run::read(&made["run"])
    }

    fn end_run(&self, id: &str, status: &str, finished: Option<i64>) -> Result<(), Failure> {
        self.post(
            "runs/update",
            &json!({"run_id": id, "status": status, "end_time": finished}),
        )?;
        Ok(())
    }

    /// Writes parameters, figures and tags; what is there already stays as it is.
    fn log(
        &self,
        run: &str,
        params: &[(String, String)],
        figures: &[Figure],
        tags: &[(String, String)],
    ) -> Result<(), Failure> {
        // Keys that become alike are one.
        let texts = |texts: &[(String, String)]| -> Vec<Value> {
            let unique: BTreeMap<String, &String> = texts
                .iter()
                .map(|(key, value)| (key_of(key), value))
                .collect();
            let value = |(key, value): (String, &String)| json!({"key": key, "value": cut(value)});
            unique.into_iter().map(value).collect()
        };
        // Neither NaN nor an infinity has a form in JSON.
        let figures: Vec<Value> = figures.iter().filter(|figure| figure.value.is_finite()).map(|figure| {
            json!({"key": key_of(&figure.name), "value": figure.value, "timestamp": figure.at, "step": figure.step})
        }).collect();
        for some in texts(params).chunks(PARAMS_AT_ONCE) {
            self.post("runs/log-batch", &json!({"run_id": run, "params": some}))?;
        }
        for some in texts(tags).chunks(PARAMS_AT_ONCE) {
            self.post("runs/log-batch", &json!({"run_id": run, "tags": some}))?;
        }
        for some in figures.chunks(METRICS_AT_ONCE) {
            self.post("runs/log-batch", &json!({"run_id": run, "metrics": some}))?;
        }
        Ok(())
    }

    fn log_dataset(&self, run: &str, ended: &Ended) -> Result<(), Failure> {
        let Some(dataset) = &ended.dataset else {
            return Ok(());
        };
        let source = json!({"id": dataset.id, "sha256": dataset.digest});
        self.post(
            "runs/log-inputs",
            &json!({"run_id": run, "datasets": [{
            "tags": [{"key": "mlflow.data.context", "value": "training"}],
            "dataset": {
                "name": cut(&dataset.name),
                // MLflow takes 36 characters.
                "digest": dataset.digest.chars().take(32).collect::<String>(),
                "source_type": "sinter", "source": source.to_string(),
                "profile": json!({"size_bytes": dataset.size_bytes}).to_string(),
            }}]}),
        )?;
        Ok(())
    }

    /// Trials of a search and steps of a pipeline, each a run below the job's.
    fn export_parts(
        &self,
        experiment: &str,
        parent: &str,
        ended: &Ended,
        at: i64,
    ) -> Result<(), Failure> {
        let parts = parts(ended, at);
        if parts.is_empty() {
            return Ok(());
        }
        let filter = format!("tags.`mlflow.parentRunId` = '{parent}'");
        let mut known = BTreeMap::new();
        for run in self.find_runs(experiment, &filter, None)? {
            let tags = run["data"]["tags"].as_array().cloned().unwrap_or_default();
            let part = tags.iter().find(|tag| tag["key"] == PART_TAG);
            if let Some(part) = part.and_then(|tag| tag["value"].as_str()) {
                known.insert(part.to_owned(), Run::read(&run)?.id);
            }
        }
        for part in parts {
            let id = match known.remove(&part.name) {
                Some(id) => id,
                None => {
                    let tags = [
                        ("mlflow.parentRunId".to_owned(), parent.to_owned()),
                        (PART_TAG.to_owned(), part.name.clone()),
                    ];
                    self.create_run(experiment, &part.name, Some(at), &tags)?.id
                }
            };
            self.log(&id, &part.params, &part.figures, &part.tags)?;
            let status = if part.succeeded { "FINISHED" } else { "FAILED" };
            self.end_run(&id, status, Some(at))?;
        }
        Ok(())
    }

    /// Sends a file through the server, which keeps it where the run's files are.
    fn upload(&self, run: &Run, name: &str, path: &Path) -> Result<(), Failure> {
        let read = |source| Failure::File {
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        self.put(run, name, size, SendBody::from_reader(&mut file))
    }

    fn put(&self, run: &Run, name: &str, size: u64, body: SendBody<'_>) -> Result<(), Failure> {
        let url = self.file_url(&run.artifact_uri, name)?;
        let headers = [
            ("content-length", size.to_string()),
            ("content-type", "application/octet-stream".to_owned()),
        ];
        self.send("PUT", url.as_str(), &headers, body)?;
        Ok(())
    }

    /// Sends the model and makes it a version of the registered model of its base's name.
    fn register(
        &self,
        run: &Run,
        bundle: &Bundle,
        ended: &Ended,
        logged: bool,
    ) -> Result<(String, String), Failure> {
        let in_folder = |name: &str| format!("{MODEL_FOLDER}/{name}");
        self.upload(run, &in_folder(MODEL_ARTIFACT), &bundle.path)?;
        for (name, bytes) in bundle.files() {
            let size = bytes.len() as u64;
            self.put(
                run,
                &in_folder(&name),
                size,
                SendBody::from_reader(&mut bytes.as_slice()),
            )?;
        }
        let about = json!({
            "run_id": run.id, "artifact_path": MODEL_FOLDER, "flavors": bundle.flavors(),
            "utc_time_created": bundle.created(), "model_uuid": uuid_of(bundle),
        });
        // It would stand there twice.
        if !logged {
            self.post(
                "runs/log-model",
                &json!({"run_id": run.id, "model_json": about.to_string()}),
            )?;
        }
        fail_here("mlflow_model_uploaded")?;

        let base = ended
            .base
            .as_ref()
            .map_or(bundle.name.as_str(), |base| base.name.as_str());
        let base = base.replace(['/', ':', '\\'], "-");
        // What one project makes must not become what another one loads.
        let name = match bundle.job.project.as_str() {
            DEFAULT_PROJECT => base,
            project => format!("{project}.{base}"),
        };
        let filter = format!("run_id='{}'", run.id);
        let found = self.get(
            "model-versions/search",
            &[("filter", &filter), ("max_results", "100")],
        )?;
        // Whatever its name: the base may have been deleted since.
        if let Some(version) = found["model_versions"]
            .as_array()
            .and_then(|all| all.first())
        {
            let name = version["name"].as_str().unwrap_or(&name).to_owned();
            return self.name_newest(name, version);
        }
        match self.post(
            "registered-models/create",
            &json!({
            "name": name, "description": "Models that Sinter made out of this one"}),
        ) {
            Err(failure) if !failure.has_code("RESOURCE_ALREADY_EXISTS") => return Err(failure),
            _ => {}
        }
        let made = self.post("model-versions/create", &json!({
            "name": name, "source": format!("{}/{MODEL_FOLDER}", run.artifact_uri), "run_id": run.id,
            "description": format!("{} by Sinter, job {}", bundle.job.kind.as_str(), bundle.job.id),
            "tags": [{"key": JOB_TAG, "value": bundle.job.id},
                     {"key": PROJECT_TAG, "value": bundle.job.project},
                     {"key": "sinter.digest", "value": format!("sha256:{}", bundle.digest)}]}))?;
        fail_here("mlflow_version_created")?;
        self.name_newest(name, &made["model_version"])
    }

    /// Gives a version the alias, unless a newer one has it.
    fn name_newest(&self, name: String, version: &Value) -> Result<(String, String), Failure> {
        let number = number_of(version).ok_or(Failure::Incomplete("version"))?;
        if self.alias.is_empty() {
            return Ok((name, number));
        }
        let query = [("name", name.as_str()), ("alias", self.alias.as_str())];
        let newest = match self.get("registered-models/alias", &query) {
            Ok(found) => number_of(&found["model_version"]),
            Err(Failure::Refused { status, .. }) if (400..500).contains(&status) => None,
            Err(failure) => return Err(failure),
        };
        let numeric = |text: &String| text.parse::<u64>().unwrap_or(0);
        if newest.as_ref().map_or(0, numeric) < numeric(&number) {
            self.post(
                "registered-models/alias",
                &json!({"name": name, "alias": self.alias, "version": number}),
            )?;
        }
        Ok((name, number))
    }
}

/// What MLflow knows the model by.
fn uuid_of(bundle: &Bundle) -> String {
    bundle.job.id.replace('-', "")
}

/// A fail point of the calls, which have no store.
fn fail_here(_name: &'static str) -> Result<(), Failure> {
    #[cfg(feature = "failpoints")]
    fail::fail_point!(_name, |_| Err(Failure::Unreachable(format!(
        "the failpoint {_name}"
    ))));
    Ok(())
}

/// A run below the job's.
struct Part {
    name: String,
    succeeded: bool,
    params: Texts,
    figures: Vec<Figure>,
    tags: Texts,
}

fn parts(ended: &Ended, at: i64) -> Vec<Part> {
    let mut parts = Vec::new();
    if let Some(result) = &ended.job.result {
        for (index, step) in result.steps.iter().enumerate() {
            let mut figures = Vec::new();
            add_figures("after", &step.after, at, &mut figures);
            let mut params = vec![("kind".to_owned(), step.kind.as_str().to_owned())];
            let asked = ended
                .job
                .request
                .params
                .pointer(&format!("/steps/{index}/params"));
            flatten("", asked.unwrap_or(&Value::Null), &mut params);
            parts.push(Part {
                name: format!("step-{index}"),
                succeeded: true,
                params,
                figures,
                tags: Vec::new(),
            });
        }
    }
    if let Some(trials) = &ended.trials {
        parts.extend(
            trials
                .trials
                .iter()
                .map(|trial| of_trial("trial", trial, at)),
        );
        parts.extend(
            trials
                .control
                .iter()
                .map(|trial| of_trial("control", trial, at)),
        );
    }
    parts
}

fn of_trial(what: &str, trial: &Trial, at: i64) -> Part {
    let figure = |name: String, value: f64| Figure {
        name,
        value,
        step: 0,
        at,
    };
    let mut figures = Vec::new();
    figures.extend(
        trial
            .metrics
            .iter()
            .map(|(name, value)| figure(name.clone(), *value)),
    );
    figures.extend(
        trial
            .values
            .iter()
            .map(|(name, value)| figure(format!("objective/{name}"), *value)),
    );
    if let Some(cost) = &trial.cost {
        figures.push(figure("parameters".to_owned(), cost.parameters as f64));
        figures.push(figure("size_bytes".to_owned(), cost.size_bytes as f64));
        figures.extend(cost.macs.map(|macs| figure("macs".to_owned(), macs as f64)));
        figures.extend(
            cost.latency_ms
                .map(|time| figure("latency_ms".to_owned(), time)),
        );
    }
    let mut params = Vec::new();
    for (name, value) in &trial.config {
        flatten(name, value, &mut params);
    }
    let mut tags: Texts = Vec::new();
    tags.extend(
        trial
            .error
            .clone()
            .map(|error| ("sinter.error".to_owned(), error)),
    );
    Part {
        name: format!("{what}-{}", trial.trial),
        succeeded: trial.counts(),
        params,
        figures,
        tags,
    }
}

/// Where the run came from, as tags.
fn tags(ended: &Ended) -> Texts {
    let job = &ended.job;
    let mut tags = vec![
        ("sinter.kind".to_owned(), job.kind.as_str().to_owned()),
        ("sinter.project".to_owned(), job.project.clone()),
        ("sinter.status".to_owned(), job.status.as_str().to_owned()),
        ("sinter.attempt".to_owned(), job.attempt.to_string()),
        ("sinter.model_id".to_owned(), job.request.model.to_string()),
        ("mlflow.source.name".to_owned(), "sinter".to_owned()),
        ("mlflow.source.type".to_owned(), "JOB".to_owned()),
    ];
    let mut add = |name: &str, value: String| tags.push((name.to_owned(), value));
    if let Some(base) = &ended.base {
        add("sinter.model_name", base.name.clone());
        add("sinter.model_digest", format!("sha256:{}", base.digest));
    }
    if let Some(dataset) = &ended.dataset {
        add("sinter.dataset_id", dataset.id.clone());
        add("sinter.dataset_name", dataset.name.clone());
        add(
            "sinter.dataset_digest",
            format!("sha256:{}", dataset.digest),
        );
    }
    if let Some(result) = &job.result {
        add("sinter.version", result.environment.version.clone());
        result
            .model
            .into_iter()
            .for_each(|id| add("sinter.result_model_id", id.to_string()));
    }
    if let Some(error) = &job.error {
        add(ERROR_TAG, error.code.clone());
        add(NOTE_TAG, error.detail.clone());
    }
    for (name, value) in &job.request.tags {
        // By ours runs are found again.
        if !name.starts_with("sinter.") && !name.starts_with("mlflow.") {
            add(name, value.clone());
        }
    }
    tags
}
