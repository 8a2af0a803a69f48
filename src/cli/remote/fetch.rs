//! `sinter get`: files of a job, and models.

use std::path::{Component, Path, PathBuf};

use clap::Args;
use serde_json::Value;
use uuid::Uuid;

use super::{Outcome, ServiceFlags, newest, pretty, say, transfer_bar};
use crate::client::tell;
use crate::client::{ArtifactView, Client, ClientError};

/// Flags of `sinter get`.
#[derive(Debug, Clone, Args)]
pub struct GetFlags {
    /// Id or name of a job, or of a model
    #[arg(value_name = "JOB_OR_MODEL")]
    wanted: String,
    /// Artifacts of the job [default: model.onnx and report.html; `all` for every one]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Folder for the files [default: the current one]
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Replace files that are there already
    #[arg(long)]
    force: bool,
    /// Print what the service says about the job or model as JSON instead of fetching files
    #[arg(long, conflicts_with_all = ["names", "output", "force"])]
    json: bool,
    #[command(flatten)]
    service: ServiceFlags,
}

/// Fetches what a job made, or a model.
pub fn get(flags: &GetFlags) -> Outcome {
    let client = flags.service.client()?;
    let folder = flags.output.as_deref().unwrap_or(Path::new("."));
    let unknown = || format!("there is no job and no model `{}`", flags.wanted);
    let id = match flags.wanted.parse() {
        Ok(id) => id,
        Err(_) => {
            // The model that a job made has its name.
            let model = client.find_by_name("models", &flags.wanted)?;
            let model = model.map(|(model, _)| model);
            let job = newest(&client, "jobs", &flags.wanted)?;
            let made: Option<Value> = match job {
                Some(job) => client.find(&format!("/v1/jobs/{job}"))?,
                None => None,
            };
            let made = made.map(|job| job["result"]["model"].clone());
            // A job that made no model leaves it to the model of that name, unless its files or words are asked for.
            let about_job = flags.json || !flags.names.is_empty();
            match (job, model) {
                (Some(job), Some(model))
                    if about_job || made.as_ref().is_some_and(Value::is_string) =>
                {
                    if made != Some(Value::from(model.to_string())) {
                        tell!(
                            "`{}` is a job and a model: the job is taken; the model is {model}",
                            flags.wanted
                        );
                    }
                    job
                }
                (_, Some(_)) => newest(&client, "models", &flags.wanted)?.ok_or_else(unknown)?,
                (Some(job), None) => job,
                (None, None) => return Err(unknown().into()),
            }
        }
    };
    let job: Option<Value> = client.find(&format!("/v1/jobs/{id}"))?;
    if let Some(job) = job {
        return match flags.json {
            true => say(&pretty(&job)),
            false => fetch(&client, id, &flags.names, folder, flags.force),
        };
    }
    let model: Option<Value> = client.find(&format!("/v1/models/{id}"))?;
    let model = model.ok_or_else(unknown)?;
    if flags.json {
        return say(&pretty(&model));
    }
    if !flags.names.is_empty() {
        return Err("a model is one file; names are those of a job's artifacts".into());
    }
    let text = |name: &str| model[name].as_str().unwrap_or_default().to_owned();
    let extension = format!(".{}", text("format"));
    let name = text("name").replace(['/', '\\'], "_");
    let stem = name.strip_suffix(&extension).unwrap_or(&name);
    let file = ArtifactView {
        name: format!("{stem}{extension}"),
        digest: text("digest"),
        size_bytes: model["size_bytes"].as_u64().unwrap_or(0),
        url: format!("/v1/models/{id}/content"),
    };
    fetch_file(&client, &file, folder, flags.force)
}

/// Fetches artifacts of a job: those named, or the model and the report.
pub(super) fn fetch(
    client: &Client,
    job: Uuid,
    names: &[String],
    folder: &Path,
    force: bool,
) -> Outcome {
    let artifacts = client.artifacts(job)?;
    let all = names.iter().any(|name| name == "all");
    let known: Vec<&str> = artifacts.iter().map(|each| each.name.as_str()).collect();
    let known = match known.is_empty() {
        true => "none: only jobs that succeeded have artifacts".to_owned(),
        false => known.join(", "),
    };
    for name in names.iter().filter(|name| *name != "all") {
        if !artifacts.iter().any(|artifact| artifact.name == *name) {
            return Err(format!("the job has no artifact `{name}`; it has {known}").into());
        }
    }
    let wanted = |artifact: &&ArtifactView| match names.is_empty() {
        true => matches!(artifact.name.as_str(), "model.onnx" | "report.html"),
        false => all || names.contains(&artifact.name),
    };
    let wanted: Vec<&ArtifactView> = artifacts.iter().filter(wanted).collect();
    if wanted.is_empty() {
        return Err(format!("the job has no model.onnx and no report.html; it has {known}").into());
    }
    let there = wanted.iter().map(|artifact| folder.join(&artifact.name));
    if let Some(path) = there.into_iter().find(|path| !force && path.exists()) {
        return Err(is_there(&path));
    }
    for artifact in wanted {
        fetch_file(client, artifact, folder, force)?;
    }
    Ok(())
}

fn fetch_file(client: &Client, file: &ArtifactView, folder: &Path, force: bool) -> Outcome {
    // The service names files plainly; another server could name one that leads elsewhere.
    let mut parts = Path::new(&file.name).components();
    if !matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    ) {
        return Err(format!("`{}` is no name for a file", file.name).into());
    }
    std::fs::create_dir_all(folder).map_err(ClientError::file("make the folder", folder))?;
    let path = folder.join(&file.name);
    if path.exists() && !force {
        return Err(is_there(&path));
    }
    let bar = transfer_bar(&format!("fetching {}", file.name));
    bar.set_length(file.size_bytes);
    client.download(&file.url, &file.digest, &path, &bar)?;
    bar.finish_and_clear();
    say(&format!("{}\n", path.display()))
}

fn is_there(path: &Path) -> Box<dyn std::error::Error> {
    format!("`{}` is there already; --force replaces it", path.display()).into()
}
