//! `/v1/datasets`.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::access::Authorized;
use super::idempotent::{KeyInUse, Turn, turn};
use super::items::{ItemsQuery, changes};
use super::problem::{ApiError, Problems, upload_error};
use super::request::{NoQuery, Paged, StrictQuery, located_json};
use super::state::App;
use super::upload::{Upload, UploadedFile, check_name, receive};
use super::uploads;
use super::{Binary, UploadForm};
use crate::spec::child::{Message, Order};
use crate::spec::dataset::{ArrayInfo, Damaged, DatasetFormat, SkippedFile, Splits, TargetInfo};
use crate::spec::item::ItemChange;
use crate::spec::problem::{Problem, parse_slice};
use crate::store::StoreError;
use crate::store::datasets::{Dataset, NewDataset};
use crate::store::idempotency::{Answer, IdempotencyKey, Keep};
use crate::store::models::Deletion;
use crate::store::uploads::UploadTarget;
use crate::worker::InspectionError;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_datasets, create_dataset))
        .routes(routes!(get_dataset, change_dataset, delete_dataset))
}

/// A data set.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Dataset)]
pub struct DatasetView {
    #[schema(format = "uuid")]
    pub id: String,
    pub name: String,
    pub format: DatasetFormat,
    /// `sha256:` and the hex digest of the file; of several files, the digest over their sorted
    /// lines `name digest`.
    pub digest: String,
    pub size_bytes: u64,
    #[schema(format = "date-time")]
    pub created_at: String,
    pub tags: BTreeMap<String, String>,
    pub splits: Splits,
    pub inputs: Vec<ArrayInfo>,
    pub target: Option<TargetInfo>,
    /// Examples of the upload that are no part of it, since they can't be used.
    pub skipped: Vec<SkippedFile>,
    /// Columns of a table that are no inputs, as was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<String>,
}

impl From<&Dataset> for DatasetView {
    fn from(dataset: &Dataset) -> Self {
        let dataset = dataset.clone();
        Self {
            id: dataset.id,
            name: dataset.name,
            format: dataset.summary.format,
            digest: format!("sha256:{}", dataset.digest),
            size_bytes: dataset.size_bytes,
            created_at: dataset.created_at,
            tags: dataset.tags,
            splits: dataset.summary.splits,
            inputs: dataset.summary.inputs,
            target: dataset.summary.target,
            skipped: dataset.summary.skipped,
            excluded: dataset.summary.excluded,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateQuery {
    /// Name of the data set, 1 to 200 bytes; may be a part of the form instead.
    #[param(min_length = 1)]
    pub(super) name: Option<String>,
    /// Detected from the bytes and names when left out. `safetensors` is one file.
    format: Option<DatasetFormat>,
    /// Name of the target column of a table (csv, jsonl, parquet), the last one when left out, or of the manifest in an
    /// archive of files; of an npz or safetensors file the array that is the target, `y`, `target`, `label` or `labels` when
    /// left out. Refused for IDX, which has no names.
    target: Option<String>,
    /// Name of the column that holds texts, or of two with a comma between, for texts that belong together. When left out
    /// one that is called `text`, `sentence`, `tokens` or the like.
    text: Option<String>,
    /// Id of a data set whose files are read in another way, instead of an upload: with another `target`, for instance. It
    /// stays as it is; the new one has its name and tags, and is read with its format, columns and `damaged` where these are
    /// left out here. The request has no body.
    files_of: Option<String>,
    /// What happens to files that can't be decoded, to texts that are empty or have more than 262,144 bytes, and to rows of
    /// tables in which something is missing.
    damaged: Option<Damaged>,
    /// Names of the classes in the order in which a model numbers them, with commas between, or as a JSON list: of labels
    /// that are words their order, which is that of the alphabet when left out; of numbers what 0, 1, … are called.
    classes: Option<String>,
    /// Columns of a table that are no inputs, such as an index, with commas between, or as a JSON list.
    exclude: Option<String>,
}

/// Upload a data set.
///
/// The body is the file, or a form with a part `file` (repeated for files side by side), `name`
/// and `tags` (a JSON object); with `files_of` there is none. It is parsed and checked before the answer.
#[utoipa::path(
    post, path = "/v1/datasets", operation_id = "createDataset", tag = "datasets",
    params(CreateQuery,
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255),
        ("Repr-Digest" = Option<String>, Header,
            description = "`sha-256=:BASE64:` of the file, which is then verified"),
        ("Upload-Complete" = Option<String>, Header,
            description = "`?0` begins an upload that goes on at /v1/uploads"),
        ("Upload-Length" = Option<u64>, Header, description = "Bytes of the whole")),
    request_body(content(
        (inline(Binary) = "application/octet-stream"),
        (UploadForm = "multipart/form-data")
    )),
    responses((status = 201, description = "Stored", body = DatasetView, headers(("Location" = String)), links(("getDataset" = (operation_id = "getDataset", parameters(("id" = "$response.body#/id")))), ("deleteDataset" = (operation_id = "deleteDataset", parameters(("id" = "$response.body#/id")))))), Problems)
)]
async fn create_dataset(
    access: Authorized,
    StrictQuery(query): StrictQuery<CreateQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let begins = uploads::begins(request.headers());
    if let Some(id) = query.files_of.clone() {
        return read_again(&access, &id, query, request, begins).await;
    }
    if begins {
        return uploads::begin(&access, request, UploadTarget::Datasets, query.name).await;
    }
    let in_use = KeyInUse::take(&access, request.headers(), "POST /v1/datasets")?;
    let limit = access.app.settings.max_upload_bytes;
    let upload = receive(&access, request, query.name.clone(), limit).await?;
    match turn(in_use.as_ref(), &[&upload.contents()]).await? {
        Turn::Replay(response) => Ok(response),
        Turn::Run(key) => create(&access, &upload, query, key).await,
    }
}

/// Makes a data set of the files of another one; what the query leaves out is as it was read the first time.
async fn read_again(
    access: &Authorized,
    id: &str,
    mut query: CreateQuery,
    request: Request,
    begins: bool,
) -> Result<Response, ApiError> {
    let in_use = KeyInUse::take(access, request.headers(), "POST /v1/datasets")?;
    let asked = request.uri().query().unwrap_or_default().to_owned();
    let body = to_bytes(request.into_body(), 0).await;
    if begins || !body.is_ok_and(|body| body.is_empty()) {
        let detail = "`files_of` names files that are there, so the request has no body; leave out one of the two";
        return Err(ApiError::fault("invalid_request", "/files_of", detail));
    }
    let key = match turn(in_use.as_ref(), &[asked.as_bytes()]).await? {
        Turn::Replay(response) => return Ok(response),
        Turn::Run(key) => key,
    };
    let store = &access.app.store;
    let gone = || {
        let detail = format!("there is no data set `{id}`");
        ApiError::fault("dataset_not_found", "/files_of", detail)
    };
    let dataset = store.dataset(&access.scope, id).await?.ok_or_else(gone)?;
    let summary = &dataset.summary;
    query.format = query.format.or(Some(summary.format));
    if check_has_columns(summary.format).is_ok() {
        let target = summary.target.as_ref().map(|target| target.name.clone());
        query.target = query.target.or(target);
    }
    let names = summary
        .target
        .as_ref()
        .and_then(|target| target.class_names.as_ref());
    let is_same = summary.target.as_ref().map(|target| &target.name) == query.target.as_ref();
    // Those of the alphabet are so again.
    if let (Some(names), None, true) = (
        names.filter(|names| !names.is_sorted()),
        &query.classes,
        is_same,
    ) {
        query.classes = Some(serde_json::json!(names).to_string());
    }
    if query.exclude.is_none() && !summary.excluded.is_empty() {
        query.exclude = Some(serde_json::json!(summary.excluded).to_string());
    }
    query.text = query
        .text
        .or_else(|| summary.text_column().map(str::to_owned));
    let skips = !summary.skipped.is_empty();
    query.damaged = query.damaged.or(skips.then_some(Damaged::Skip));
    let folder = store.staging_folder()?;
    let (app, path) = (App::clone(&access.app), folder.path().to_owned());
    let linked = spawn_blocking(move || {
        let files = dataset.files.into_iter().enumerate();
        files
            .map(|(index, file)| {
                let path = path.join(index.to_string());
                let blob = app
                    .store
                    .blobs()
                    .staged(file.digest, file.size_bytes, path)?;
                Ok(blob.map(|blob| UploadedFile {
                    name: file.name,
                    blob,
                }))
            })
            .collect::<Result<Option<Vec<_>>, StoreError>>()
    });
    // They can have gone since the data set was looked up.
    let files = linked.await.map_err(StoreError::from)??.ok_or_else(gone)?;
    let name = query.name.clone().unwrap_or(dataset.name);
    let upload = Upload::gathered(check_name(Some(name))?, dataset.tags, files, folder);
    create(access, &upload, query, key).await
}

/// Checks what was uploaded as the query says, and stores it.
pub(super) async fn create(
    access: &Authorized,
    upload: &Upload,
    query: CreateQuery,
    key: Option<IdempotencyKey>,
) -> Result<Response, ApiError> {
    let app = &access.app;
    let new = inspect(access, upload, query).await?;
    let keep = key.as_ref().map(|key| Keep {
        key,
        render: created,
    });
    let project = &access.caller.project;
    let dataset = app.store.create_dataset(project, &new, keep).await?;
    let answer = created(&dataset);
    Ok(located_json(answer.status, &answer.location, answer.body))
}

async fn inspect(
    access: &Authorized,
    upload: &Upload,
    query: CreateQuery,
) -> Result<NewDataset, ApiError> {
    if let Some(format) = query.format {
        check_format(format, upload.files.len())?;
    }
    let classes = query
        .classes
        .as_deref()
        .map(|text| listed(text, "/classes"))
        .transpose()?;
    let exclude = query
        .exclude
        .as_deref()
        .map(|text| listed(text, "/exclude"))
        .transpose()?
        .unwrap_or_default();
    let (names_a_column, names_a_text) = (query.target.is_some(), query.text.is_some());
    let order = Order::InspectDataset {
        files: upload.input_files(),
        format: query.format,
        target: query.target,
        text: query.text,
        damaged: query.damaged.unwrap_or_default(),
        classes,
        exclude,
    };
    let answer = access.inspect(&order).await.map_err(upload_error)?;
    let Message::Dataset { summary } = answer else {
        return Err(InspectionError::WrongAnswer.into());
    };
    if names_a_column {
        check_has_columns(summary.format)?;
    }
    if names_a_text && !summary.format.is_table() {
        let detail = format!(
            "the query parameter `text` names a column of a csv, jsonl or parquet file, and the upload is {}; leave it out",
            summary.format.as_str()
        );
        return Err(ApiError::fault("invalid_request", "/text", detail));
    }
    let of_media = summary.inputs.iter().any(|input| input.media.is_some());
    if query.damaged.is_some() && !of_media && !summary.format.is_table() {
        let detail = format!(
            "the query parameter `damaged` is about files, texts and rows of tables, and the upload is {}; leave it out",
            summary.format.as_str()
        );
        return Err(ApiError::fault("invalid_request", "/damaged", detail));
    }
    let files = upload.files.iter();
    Ok(NewDataset {
        id: Uuid::now_v7().to_string(),
        name: upload.name.clone(),
        digest: digest_of_all(&upload.files),
        files: files
            .map(|file| (file.name.clone(), file.blob.clone()))
            .collect(),
        tags: upload.tags.clone(),
        summary,
    })
}

/// Names that a query gives.
fn listed(text: &str, pointer: &str) -> Result<Vec<String>, ApiError> {
    let names: Vec<String> = match text.trim_start().starts_with('[') {
        true => parse_slice(text.as_bytes())
            .map_err(|error| ApiError::fault("invalid_request", pointer, error.to_string()))?
            .map_err(|faults| Problem::invalid_under(pointer, faults))?,
        false => text.split(',').map(|name| name.trim().to_owned()).collect(),
    };
    let mut seen = BTreeSet::new();
    let wrong = names
        .iter()
        .find(|name| name.is_empty() || !seen.insert(name.as_str()));
    match wrong {
        None => Ok(names),
        Some(name) => {
            let detail = match name.is_empty() {
                true => "has a name that is empty".to_owned(),
                false => format!("names `{name}` twice"),
            };
            Err(ApiError::fault("invalid_request", pointer, &detail))
        }
    }
}

fn check_format(format: DatasetFormat, file_count: usize) -> Result<(), ApiError> {
    if file_count == 1 || format.takes_several() {
        return Ok(());
    }
    let detail = format!(
        "the query parameter `format` says {}, which is one file, and {file_count} files were \
         uploaded; several files side by side are read as npz, as idx, as images, as audio, as texts or as tables",
        format.as_str()
    );
    Err(ApiError::fault("invalid_request", "/format", detail))
}

fn check_has_columns(format: DatasetFormat) -> Result<(), ApiError> {
    match format {
        // Of images and texts a manifest has columns, if there is one.
        DatasetFormat::Images | DatasetFormat::Texts | DatasetFormat::Audio => Ok(()),
        DatasetFormat::Npz | DatasetFormat::Safetensors => Ok(()),
        table if table.is_table() => Ok(()),
        _ => {
            let detail = format!(
                "the query parameter `target` names a column of a csv, jsonl or parquet file, or an array of an npz or \
                 safetensors file, and the upload is {}, which has neither; leave it out",
                format.as_str()
            );
            Err(ApiError::fault("invalid_request", "/target", detail))
        }
    }
}

/// The digest of the only file, or over the sorted lines `name digest` of several.
fn digest_of_all(files: &[UploadedFile]) -> String {
    if let [only] = files {
        return only.blob.digest.clone();
    }
    let mut lines: Vec<String> = files
        .iter()
        .map(|file| format!("{} {}\n", file.name, file.blob.digest))
        .collect();
    lines.sort();
    hex::encode(Sha256::digest(lines.concat().as_bytes()))
}

fn created(dataset: &Dataset) -> Answer {
    Answer {
        status: 201,
        location: format!("/v1/datasets/{}", dataset.id),
        body: super::to_json(&DatasetView::from(dataset)),
    }
}

/// List data sets, the newest first.
#[utoipa::path(
    get, path = "/v1/datasets", operation_id = "listDatasets", tag = "datasets",
    params(ItemsQuery),
    responses((status = 200, description = "A page", body = Paged<DatasetView>), Problems)
)]
async fn list_datasets(
    access: Authorized,
    StrictQuery(query): StrictQuery<ItemsQuery>,
) -> Result<Json<Paged<DatasetView>>, ApiError> {
    let store = &access.app.store;
    let (filter, page) = query.read()?;
    let datasets = store.datasets(&access.scope, &filter, &page).await?;
    Ok(Json(Paged::new(datasets, |dataset| {
        DatasetView::from(&dataset)
    })))
}

/// Get a data set.
#[utoipa::path(
    get, path = "/v1/datasets/{id}", operation_id = "getDataset", tag = "datasets",
    params(("id" = String, Path)),
    responses((status = 200, description = "The data set", body = DatasetView), Problems)
)]
async fn get_dataset(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<Json<DatasetView>, ApiError> {
    let dataset = access.app.store.dataset(&access.scope, &id).await?;
    let dataset = dataset.ok_or_else(|| ApiError::not_found("dataset", &id))?;
    Ok(Json(DatasetView::from(&dataset)))
}

/// Give a data set another name or other tags.
#[utoipa::path(
    patch, path = "/v1/datasets/{id}", operation_id = "changeDataset", tag = "datasets",
    params(("id" = String, Path)),
    request_body = ItemChange,
    responses((status = 200, description = "The data set as it is now", body = DatasetView), Problems)
)]
async fn change_dataset(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<DatasetView>, ApiError> {
    let change = changes(&headers, body).await?;
    let store = &access.app.store;
    let dataset = store.change_dataset(&access.scope, &id, &change).await?;
    let dataset = dataset.ok_or_else(|| ApiError::not_found("dataset", &id))?;
    Ok(Json(DatasetView::from(&dataset)))
}

/// Delete a data set that no unfinished job needs.
#[utoipa::path(
    delete, path = "/v1/datasets/{id}", operation_id = "deleteDataset", tag = "datasets",
    params(("id" = String, Path)),
    responses((status = 204, description = "It is gone"), Problems)
)]
async fn delete_dataset(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<StatusCode, ApiError> {
    match access.app.store.delete_dataset(&access.scope, &id).await? {
        Deletion::Deleted => Ok(StatusCode::NO_CONTENT),
        Deletion::NotFound => Err(ApiError::not_found("dataset", &id)),
        Deletion::InUse => {
            let detail = "an unfinished job needs the data set; cancel the job or wait for its end";
            Err(ApiError::new(409, "dataset_in_use", detail))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safetensors_are_one_file() {
        assert!(check_format(DatasetFormat::Idx, 4).is_ok());
        assert!(check_format(DatasetFormat::Npz, 4).is_ok());
        assert!(check_format(DatasetFormat::Safetensors, 1).is_ok());
        let Err(ApiError::Problem(problem)) = check_format(DatasetFormat::Safetensors, 4) else {
            panic!("four files were taken for one");
        };
        assert_eq!(
            (problem.status, problem.code.as_str()),
            (422, "invalid_request")
        );
        assert_eq!(problem.errors[0].pointer, "/format");
    }

    #[test]
    fn only_what_has_names_has_a_named_target() {
        for format in [
            DatasetFormat::Csv,
            DatasetFormat::Parquet,
            DatasetFormat::Npz,
            DatasetFormat::Safetensors,
        ] {
            assert!(check_has_columns(format).is_ok(), "{format:?}");
        }
        let Err(ApiError::Problem(problem)) = check_has_columns(DatasetFormat::Idx) else {
            panic!("IDX was taken for a table");
        };
        assert_eq!(problem.errors[0].pointer, "/target");
    }
}
