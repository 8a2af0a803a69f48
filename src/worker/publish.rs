//! From the files that a child staged to what the store publishes.

use std::path::Path;

use uuid::Uuid;

use crate::spec::child::StagedFile;
use crate::spec::model::{ModelFormat, ModelSummary};
use crate::spec::result::JobResult;
use crate::store::artifacts::NewArtifact;
use crate::store::blobs::digest_file;
use crate::store::jobs::Job;
use crate::store::models::NewModel;
use crate::store::queue::Publication;
use crate::store::{Store, StoreError};

/// The artifact that becomes a model of its own.
const MODEL_ARTIFACT: &str = "model.onnx";

/// Why what a child made can't be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the job's process staged a new model without the file `{MODEL_ARTIFACT}`")]
    NoModelFile,
    #[error("the job's process staged `{0}` outside its staging folder")]
    Outside(String),
}

/// Reads all staged files and puts together what is to be published.
pub async fn prepare(
    store: &Store,
    job: &Job,
    mut result: JobResult,
    staged: Vec<StagedFile>,
    new_model: Option<ModelSummary>,
) -> Result<Publication, PublishError> {
    let folder = store.job_staging_folder(&job.id);
    let mut artifacts = Vec::with_capacity(staged.len());
    for file in staged {
        if !is_inside(&folder, &file.path) {
            return Err(PublishError::Outside(file.name));
        }
        artifacts.push(NewArtifact {
            file: digest_file(&file.path).await?,
            name: file.name,
            media_type: file.media_type,
        });
    }
    let new_model = match new_model {
        None => None,
        Some(summary) => Some(model_of(store, job, &artifacts, summary).await?),
    };
    result.model = match &new_model {
        None => None,
        Some(model) => Uuid::parse_str(&model.id).ok(),
    };
    Ok(Publication {
        result,
        artifacts,
        new_model,
    })
}

async fn model_of(
    store: &Store,
    job: &Job,
    artifacts: &[NewArtifact],
    summary: ModelSummary,
) -> Result<NewModel, PublishError> {
    let artifact = artifacts
        .iter()
        .find(|artifact| artifact.name == MODEL_ARTIFACT)
        .ok_or(PublishError::NoModelFile)?;
    let parent = store.model(&job.request.model.to_string()).await?;
    let name = match (&job.name, &parent) {
        (Some(name), _) => name.clone(),
        (None, Some(parent)) => format!("{} ({})", parent.name, job.kind.as_str()),
        (None, None) => job.kind.as_str().to_owned(),
    };
    Ok(NewModel {
        id: Uuid::now_v7().to_string(),
        name,
        format: ModelFormat::Onnx,
        file: artifact.file.clone(),
        parent_id: parent.map(|parent| parent.id),
        job_id: Some(job.id.clone()),
        tags: job.request.tags.clone(),
        summary,
    })
}

fn is_inside(folder: &Path, path: &Path) -> bool {
    match (folder.canonicalize(), path.canonicalize()) {
        (Ok(folder), Ok(path)) => path.starts_with(folder),
        _ => false,
    }
}
