//! Models that a job names by their place in MLflow: fetched, checked and stored as if they had been uploaded.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::access::Authorized;
use super::arriving::{Allowance, ArrivingFile};
use super::models::inspect;
use super::problem::ApiError;
use super::upload::{Upload, UploadedFile, safe_name};
use crate::mlflow::import::{RemoteFile, Version};
use crate::mlflow::{Failure, Mlflow};
use crate::spec::mlflow::{ModelSource, RegisteredModel};
use crate::store::{Scope, StagedBlob, StoreError};

/// Where the request names it.
const POINTER: &str = "/model/mlflow";

/// The tags by which a model that was fetched before is found again.
const NAME_TAG: &str = "mlflow.model";
const VERSION_TAG: &str = "mlflow.version";
const SOURCE_TAG: &str = "mlflow.source";

/// Bytes of a tag, at most.
const TAG_BYTES: usize = 200;

/// How often it is looked whether another request has fetched the same.
const LOOK: Duration = Duration::from_millis(100);

/// Bytes that are read at once.
const PIECE_BYTES: usize = 256 << 10;

/// Pieces on their way from MLflow to the disk.
const PIECES: usize = 4;

/// The id of a job's model, which is fetched if MLflow has it and the project does not.
pub async fn resolve(access: &Authorized, source: &ModelSource) -> Result<Uuid, ApiError> {
    match source {
        ModelSource::Id(id) => Ok(*id),
        ModelSource::Mlflow(from) => {
            let id = import(access, &from.mlflow).await?;
            id.parse()
                .map_err(|_| ApiError::Internal(format!("a model has the id `{id}`")))
        }
    }
}

/// Returns the id of the model that a version became.
async fn import(access: &Authorized, wanted: &RegisteredModel) -> Result<String, ApiError> {
    let app = &access.app;
    let Some(mlflow) = &app.mlflow else {
        let detail = "this server knows no MLflow: its setting mlflow_url is empty";
        return Err(ApiError::fault("mlflow_not_set", POINTER, detail));
    };
    let (asked, reference) = (Arc::clone(mlflow), wanted.clone());
    let version = spawn_blocking(move || asked.find_version(&reference))
        .await
        .map_err(StoreError::from)?
        .map_err(|failure| explain(failure, wanted))?;
    if !is_visible(access, &version).await? {
        return Err(not_found(wanted));
    }
    let project = &access.caller.project;
    // Two jobs with the same model fetch it once.
    let place = format!("mlflow {project} {} {}", version.name, version.number);
    let alone = async {
        loop {
            match app.take(place.clone()) {
                Some(alone) => return alone,
                None => tokio::time::sleep(LOOK).await,
            }
        }
    };
    let patience = app.settings.inspect_timeout();
    let _alone = tokio::time::timeout(patience, alone)
        .await
        .map_err(|_| failed("another job has been fetching this version for too long"))?;
    // A name and a number can come again in another server, or when the registered model was deleted.
    let mut source = version.artifact_uri.clone();
    source.truncate(source.floor_char_boundary(TAG_BYTES));
    let tags = BTreeMap::from([
        (NAME_TAG.to_owned(), version.name.clone()),
        (VERSION_TAG.to_owned(), version.number.clone()),
        (SOURCE_TAG.to_owned(), source),
    ]);
    let known = app.store.uploaded_model(project, &tags).await?;
    if let Some(id) = known {
        return Ok(id);
    }
    let upload = fetch(access, mlflow, version, tags, wanted).await?;
    let new = inspect(access, &upload).await?;
    let model = app.store.create_model(project, &new, None).await?;
    tracing::info!(model = %model.id, from = %wanted, "a model came from MLflow");
    Ok(model.id)
}

/// What one project's job wrote to MLflow is not for another one.
async fn is_visible(access: &Authorized, version: &Version) -> Result<bool, ApiError> {
    if let Some(project) = &version.project {
        return Ok(access.scope.sees(project));
    }
    match &version.job {
        None => Ok(true),
        Some(_) if access.scope == Scope::All => Ok(true),
        // Written by a server that did not tell the project.
        Some(job) => Ok(access.app.store.job(&access.scope, job).await?.is_some()),
    }
}

async fn fetch(
    access: &Authorized,
    mlflow: &Arc<Mlflow>,
    version: Version,
    tags: BTreeMap<String, String>,
    wanted: &RegisteredModel,
) -> Result<Upload, ApiError> {
    let app = &access.app;
    let (asked, listed) = (Arc::clone(mlflow), version.clone());
    let files = spawn_blocking(move || asked.model_files(&listed))
        .await
        .map_err(StoreError::from)?
        .map_err(|failure| explain(failure, wanted))?;
    if files.is_empty() {
        let detail = format!(
            "`{wanted}` has no `model.onnx`; log it with mlflow.onnx.log_model, as MLflow's onnx flavor"
        );
        return Err(ApiError::fault("mlflow_model_not_onnx", POINTER, &detail));
    }
    let sizes = files.iter().map(|file| file.size_bytes);
    let total = sizes.fold(0, u64::saturating_add);
    app.store.check_disk(total)?;
    app.store.check_quota(&access.caller.project, total).await?;
    let limit = app.settings.max_upload_bytes;
    let mut allowance = Allowance::new(app, &access.caller.project, limit, false);
    let folder = app.store.staging_folder()?;
    let mut fetched = Vec::with_capacity(files.len());
    for (index, file) in files.into_iter().enumerate() {
        let path = folder.path().join(index.to_string());
        let mut arriving = ArrivingFile::open(app, &path)?;
        let (name, listed) = (safe_name(&file.name)?, file.size_bytes);
        let mut pieces = read_pieces(Arc::clone(mlflow), version.clone(), file);
        while let Some(piece) = pieces.recv().await {
            let piece = piece.map_err(|failure| explain(failure, wanted))?;
            arriving.take(piece, &mut allowance).await?;
        }
        let (digest, size_bytes) = arriving.finish().await?;
        if size_bytes != listed {
            let what = format!("`{name}` came with {size_bytes} bytes instead of {listed}");
            return Err(failed(&what));
        }
        let blob = StagedBlob {
            path,
            digest,
            size_bytes,
        };
        fetched.push(UploadedFile { name, blob });
    }
    let name = version.name.chars().filter(|each| !each.is_control());
    let name = name.take(50).collect();
    Ok(Upload::gathered(name, tags, fetched, folder))
}

/// Reads a file of MLflow's in a thread that may wait; the last piece may be a failure.
fn read_pieces(
    mlflow: Arc<Mlflow>,
    version: Version,
    file: RemoteFile,
) -> mpsc::Receiver<Result<Bytes, Failure>> {
    let (sender, pieces) = mpsc::channel(PIECES);
    spawn_blocking(move || {
        let read = || -> Result<(), Failure> {
            let mut reader = mlflow.open(&version, &file)?;
            loop {
                let mut piece = vec![0; PIECE_BYTES];
                let count = reader.read(&mut piece).map_err(Failure::unreachable)?;
                piece.truncate(count);
                // Nobody waits for more once the request has gone.
                if count == 0 || sender.blocking_send(Ok(piece.into())).is_err() {
                    return Ok(());
                }
            }
        };
        if let Err(failure) = read() {
            let _ = sender.blocking_send(Err(failure));
        }
    });
    pieces
}

fn not_found(wanted: &RegisteredModel) -> ApiError {
    let detail = format!("MLflow has no version `{wanted}`");
    ApiError::fault("mlflow_model_not_found", POINTER, &detail)
}

fn failed(what: &str) -> ApiError {
    ApiError::new(502, "mlflow_failed", what)
}

/// What is told to whoever posted the job; the log has the rest, which may name what is not theirs to know.
fn explain(failure: Failure, wanted: &RegisteredModel) -> ApiError {
    tracing::warn!(error = %failure, from = %wanted, "a model could not be fetched");
    match failure {
        Failure::Refused { code, .. }
            if code == "RESOURCE_DOES_NOT_EXIST" || code == "INVALID_PARAMETER_VALUE" =>
        {
            not_found(wanted)
        }
        Failure::NotServed(_) => {
            let detail =
                "MLflow does not serve the version's files; the server's log names where they are";
            ApiError::fault("mlflow_model_not_served", POINTER, detail)
        }
        Failure::Store(error) => error.into(),
        Failure::Refused { status, .. } => failed(&format!(
            "MLflow answered {status}; the server's log has more"
        )),
        _ => failed(
            "MLflow can't be reached or did not answer as it should; the server's log has more",
        ),
    }
}
