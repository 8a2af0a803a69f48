//! From the files that a child staged to what the store publishes.

use std::path::Path;

use crate::bundle::{BUNDLE_ARTIFACT, Bundle, inputs_of};
use crate::spec::child::{MODEL_ARTIFACT, StagedFile, StagedModel};
use crate::spec::model::ModelFormat;
use crate::spec::result::JobResult;
use crate::store::artifacts::NewArtifact;
use crate::store::blobs::digest_file;
use crate::store::jobs::Job;
use crate::store::models::NewModel;
use crate::store::queue::Publication;
use crate::store::{Scope, Store, StoreError};

/// Why what a child made can't be published.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the job's process staged a new model without the file `{0}`")]
    NoModelFile(String),
    #[error("the job's process staged `{0}` outside its staging folder")]
    Outside(String),
}

/// Reads all staged files and puts together what is to be published.
pub async fn prepare(
    store: &Store,
    job: &Job,
    owner: &str,
    mut result: JobResult,
    staged: Vec<StagedFile>,
    models: Vec<StagedModel>,
) -> Result<Publication, PublishError> {
    let folder = store.job_staging_folder(&job.id, owner);
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
    let own = models.iter().find(|model| model.artifact == MODEL_ARTIFACT);
    result.model = own.map(|model| model.id);
    let mut new_models = Vec::with_capacity(models.len());
    for model in models {
        let is_own = model.artifact == MODEL_ARTIFACT;
        let new = model_of(store, job, &artifacts, model).await?;
        if is_own {
            match bundle_of(store, job, &result, &new, &folder).await {
                Ok(bundle) => artifacts.push(bundle),
                // The model is worth more than what stands beside it.
                Err(error) => {
                    tracing::error!(job = %job.id, %error, "the job is published without its bundle");
                }
            }
        }
        new_models.push(new);
    }
    Ok(Publication {
        result,
        artifacts,
        new_models,
    })
}

/// Everything about the new model in one file.
async fn bundle_of(
    store: &Store,
    job: &Job,
    result: &JobResult,
    new: &NewModel,
    folder: &Path,
) -> Result<NewArtifact, PublishError> {
    let (base, dataset) = inputs_of(store, job).await?;
    let bundle = Bundle {
        job: job.clone(),
        result: result.clone(),
        name: new.name.clone(),
        summary: new.summary.clone(),
        digest: new.file.digest.clone(),
        size_bytes: new.file.size_bytes,
        path: new.file.path.clone(),
        base,
        dataset,
    };
    let path = folder.join(BUNDLE_ARTIFACT);
    let target = path.clone();
    tokio::task::spawn_blocking(move || bundle.write_tar(&target))
        .await
        .map_err(StoreError::from)?
        .map_err(StoreError::file("write", &path))?;
    Ok(NewArtifact {
        name: BUNDLE_ARTIFACT.to_owned(),
        media_type: "application/x-tar".to_owned(),
        file: digest_file(&path).await?,
    })
}

async fn model_of(
    store: &Store,
    job: &Job,
    artifacts: &[NewArtifact],
    model: StagedModel,
) -> Result<NewModel, PublishError> {
    let artifact = artifacts
        .iter()
        .find(|artifact| artifact.name == model.artifact)
        .ok_or_else(|| PublishError::NoModelFile(model.artifact.clone()))?;
    let parent = store
        .model(&Scope::All, &job.request.model.to_string())
        .await?;
    let mut name = match (&job.name, &parent) {
        (Some(name), _) => name.clone(),
        (None, Some(parent)) => format!("{} ({})", parent.name, job.kind.as_str()),
        (None, None) => job.kind.as_str().to_owned(),
    };
    if model.artifact != MODEL_ARTIFACT {
        let which = model.artifact.trim_end_matches(".onnx");
        name = format!("{name} ({which})");
    }
    Ok(NewModel {
        id: model.id.to_string(),
        name,
        format: ModelFormat::Onnx,
        file: artifact.file.clone(),
        parent_id: parent.map(|parent| parent.id),
        job_id: Some(job.id.clone()),
        tags: job.request.tags.clone(),
        summary: model.summary,
    })
}

/// Whether a path that a child named leads into a folder, all links followed.
pub fn is_inside(folder: &Path, path: &Path) -> bool {
    match (folder.canonicalize(), path.canonicalize()) {
        (Ok(folder), Ok(path)) => path.starts_with(folder),
        _ => false,
    }
}
