//! `/v1/models`.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::access::Authorized;
use super::download::{Download, send_file};
use super::idempotent::{KeyInUse, Turn, turn};
use super::items::{ItemsQuery, changes};
use super::problem::{ApiError, Problems, upload_error};
use super::request::{Listed, NoQuery, Paged, StrictQuery, located_json};
use super::state::App;
use super::upload::{Upload, receive};
use super::uploads;
use super::{Binary, UploadForm};
use crate::spec::child::{Message, Order};
use crate::spec::item::ItemChange;
use crate::spec::model::{LayerInfo, ModelFormat, ModelSummary, NodeInfo};
use crate::store::StoreError;
use crate::store::blobs::digest_file;
use crate::store::idempotency::{Answer, IdempotencyKey, Keep};
use crate::store::models::{Deletion, Model, NewModel};
use crate::store::uploads::UploadTarget;
use crate::worker::{InspectionError, is_inside};

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_models, create_model))
        .routes(routes!(get_model, change_model, delete_model))
        .routes(routes!(get_model_content))
        .routes(routes!(get_model_layers))
        .routes(routes!(get_model_graph))
}

/// A model.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Model)]
pub struct ModelView {
    #[schema(format = "uuid")]
    pub id: String,
    pub name: String,
    pub format: ModelFormat,
    /// `sha256:` and the hex digest of the file.
    pub digest: String,
    pub size_bytes: u64,
    #[schema(format = "date-time")]
    pub created_at: String,
    /// The model that a job made this one from.
    pub parent_id: Option<String>,
    /// The job that made it.
    pub job_id: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub summary: ModelSummary,
}

impl From<&Model> for ModelView {
    fn from(model: &Model) -> Self {
        let model = model.clone();
        Self {
            id: model.id,
            name: model.name,
            format: model.format,
            digest: format!("sha256:{}", model.digest),
            size_bytes: model.size_bytes,
            created_at: model.created_at,
            parent_id: model.parent_id,
            job_id: model.job_id,
            tags: model.tags,
            summary: model.summary,
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct CreateQuery {
    /// Name of the model, 1 to 200 bytes; may be a part of the form instead.
    #[param(min_length = 1)]
    pub(super) name: Option<String>,
}

/// Upload a model.
///
/// The body is the file, or a form with a part `file` (repeated for external data), `name` and
/// `tags` (a JSON object). ONNX, ONNX with external data, safetensors. It is parsed and checked
/// before the answer.
#[utoipa::path(
    post, path = "/v1/models", operation_id = "createModel", tag = "models",
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
    responses((status = 201, description = "Stored", body = ModelView, headers(("Location" = String)), links(("getModel" = (operation_id = "getModel", parameters(("id" = "$response.body#/id")))), ("getModelContent" = (operation_id = "getModelContent", parameters(("id" = "$response.body#/id")))), ("getModelLayers" = (operation_id = "getModelLayers", parameters(("id" = "$response.body#/id")))), ("predict" = (operation_id = "predict", parameters(("id" = "$response.body#/id")))), ("deleteModel" = (operation_id = "deleteModel", parameters(("id" = "$response.body#/id")))))), Problems)
)]
async fn create_model(
    access: Authorized,
    StrictQuery(query): StrictQuery<CreateQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    if uploads::begins(request.headers()) {
        return uploads::begin(&access, request, UploadTarget::Models, query.name).await;
    }
    let in_use = KeyInUse::take(&access, request.headers(), "POST /v1/models")?;
    let limit = access.app.settings.max_upload_bytes;
    let upload = receive(&access, request, query.name, limit).await?;
    match turn(in_use.as_ref(), &[&upload.contents()]).await? {
        Turn::Replay(response) => Ok(response),
        Turn::Run(key) => create(&access, &upload, key).await,
    }
}

/// Checks what was uploaded and stores it.
pub(super) async fn create(
    access: &Authorized,
    upload: &Upload,
    key: Option<IdempotencyKey>,
) -> Result<Response, ApiError> {
    let app = &access.app;
    let new = inspect(access, upload).await?;
    let keep = key.as_ref().map(|key| Keep {
        key,
        render: created,
    });
    let project = &access.caller.project;
    let model = app.store.create_model(project, &new, keep).await?;
    let answer = created(&model);
    Ok(located_json(answer.status, &answer.location, answer.body))
}

pub(super) async fn inspect(access: &Authorized, upload: &Upload) -> Result<NewModel, ApiError> {
    let staging = upload.folder.path().join("single");
    tokio::fs::create_dir(&staging)
        .await
        .map_err(StoreError::file("make the folder", &staging))?;
    let order = Order::InspectModel {
        files: upload.input_files(),
        staging,
    };
    let answer = access.inspect(&order).await.map_err(upload_error)?;
    let Message::Model {
        format,
        summary,
        file,
    } = answer
    else {
        return Err(InspectionError::WrongAnswer.into());
    };
    let blob = match (file, upload.files.first()) {
        (Some(path), _) if is_inside(upload.folder.path(), &path) => digest_file(&path).await?,
        (Some(_), _) => {
            let text = "a child named a file outside of its folder";
            return Err(ApiError::Internal(text.to_owned()));
        }
        (None, Some(first)) => first.blob.clone(),
        (None, None) => return Err(ApiError::Internal("an upload without a file".to_owned())),
    };
    Ok(NewModel {
        id: Uuid::now_v7().to_string(),
        name: upload.name.clone(),
        format,
        file: blob,
        parent_id: None,
        job_id: None,
        tags: upload.tags.clone(),
        summary,
    })
}

fn created(model: &Model) -> Answer {
    Answer {
        status: 201,
        location: format!("/v1/models/{}", model.id),
        body: super::to_json(&ModelView::from(model)),
    }
}

/// List models, the newest first.
#[utoipa::path(
    get, path = "/v1/models", operation_id = "listModels", tag = "models",
    params(ItemsQuery),
    responses((status = 200, description = "A page", body = Paged<ModelView>), Problems)
)]
async fn list_models(
    access: Authorized,
    StrictQuery(query): StrictQuery<ItemsQuery>,
) -> Result<Json<Paged<ModelView>>, ApiError> {
    let store = &access.app.store;
    let (filter, page) = query.read()?;
    let models = store.models(&access.scope, &filter, &page).await?;
    Ok(Json(Paged::new(models, |model| ModelView::from(&model))))
}

/// Get a model.
#[utoipa::path(
    get, path = "/v1/models/{id}", operation_id = "getModel", tag = "models",
    params(("id" = String, Path)),
    responses((status = 200, description = "The model", body = ModelView), Problems)
)]
async fn get_model(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<Json<ModelView>, ApiError> {
    Ok(Json(ModelView::from(&find(&access, &id).await?)))
}

/// Give a model another name or other tags.
#[utoipa::path(
    patch, path = "/v1/models/{id}", operation_id = "changeModel", tag = "models",
    params(("id" = String, Path)),
    request_body = ItemChange,
    responses((status = 200, description = "The model as it is now", body = ModelView), Problems)
)]
async fn change_model(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ModelView>, ApiError> {
    let change = changes(&headers, body).await?;
    let store = &access.app.store;
    let model = store.change_model(&access.scope, &id, &change).await?;
    let model = model.ok_or_else(|| ApiError::not_found("model", &id))?;
    Ok(Json(ModelView::from(&model)))
}

/// Delete a model that no unfinished job needs.
#[utoipa::path(
    delete, path = "/v1/models/{id}", operation_id = "deleteModel", tag = "models",
    params(("id" = String, Path)),
    responses((status = 204, description = "It is gone"), Problems)
)]
async fn delete_model(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<StatusCode, ApiError> {
    match access.app.store.delete_model(&access.scope, &id).await? {
        Deletion::Deleted => Ok(StatusCode::NO_CONTENT),
        Deletion::NotFound => Err(ApiError::not_found("model", &id)),
        Deletion::InUse => {
            let detail = "an unfinished job needs the model; cancel the job or wait for its end";
            Err(ApiError::new(409, "model_in_use", detail))
        }
    }
}

/// Download the file of a model.
#[utoipa::path(
    get, path = "/v1/models/{id}/content", operation_id = "getModelContent", tag = "models",
    params(("id" = String, Path), ("Range" = Option<String>, Header),
        ("If-Range" = Option<String>, Header), ("If-None-Match" = Option<String>, Header)),
    responses(
        (status = 200, description = "The file", body = inline(Binary), content_type = "application/octet-stream"),
        (status = 206, description = "A part of the file", body = inline(Binary), content_type = "application/octet-stream"),
        (status = 304, description = "The client has it already"),
        Problems
    )
)]
async fn get_model_content(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let model = find(&access, &id).await?;
    let extension = format!(".{}", model.format.as_str());
    let stem = model.name.strip_suffix(&extension).unwrap_or(&model.name);
    let download = Download {
        file_name: format!("{stem}{extension}"),
        digest: model.digest,
        size_bytes: model.size_bytes,
        media_type: "application/octet-stream".to_owned(),
    };
    send_file(&access.app, &headers, &download).await
}

/// Describe the layers of a model: what they hold and cost, and what can be pruned together.
#[utoipa::path(
    get, path = "/v1/models/{id}/layers", operation_id = "getModelLayers", tag = "models",
    params(("id" = String, Path)),
    responses((status = 200, description = "The layers", body = Listed<LayerInfo>), Problems)
)]
async fn get_model_layers(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<Response, ApiError> {
    let model = find_with_graph(&access, &id).await?;
    let app = &access.app;
    if let Some(data) = app.store.kept_layers(&id).await? {
        return Ok(Json(Listed { data }).into_response());
    }
    let order = Order::Layers {
        model: app.store.blobs().path(&model.digest),
    };
    let Message::Layers { layers } = access.inspect(&order).await? else {
        return Err(InspectionError::WrongAnswer.into());
    };
    app.store.keep_layers(&id, &layers).await?;
    Ok(Json(Listed { data: layers }).into_response())
}

/// Describe the whole graph of a model: every node, what it reads, holds and costs.
#[utoipa::path(
    get, path = "/v1/models/{id}/graph", operation_id = "getModelGraph", tag = "models",
    params(("id" = String, Path)),
    responses((status = 200, description = "The nodes, in the order in which they can be computed", body = Listed<NodeInfo>), Problems)
)]
async fn get_model_graph(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<Json<Listed<NodeInfo>>, ApiError> {
    let model = find_with_graph(&access, &id).await?;
    let order = Order::Nodes {
        model: access.app.store.blobs().path(&model.digest),
    };
    let Message::Nodes { nodes } = access.inspect(&order).await? else {
        return Err(InspectionError::WrongAnswer.into());
    };
    Ok(Json(Listed { data: nodes }))
}

async fn find_with_graph(access: &Authorized, id: &str) -> Result<Model, ApiError> {
    let model = find(access, id).await?;
    if model.summary.opset.is_none() {
        let detail = "the file holds weights without a graph, so it has no layers to describe";
        return Err(ApiError::new(422, "model_has_no_graph", detail));
    }
    Ok(model)
}

pub(super) async fn find(access: &Authorized, id: &str) -> Result<Model, ApiError> {
    let model = access.app.store.model(&access.scope, id).await?;
    model.ok_or_else(|| ApiError::not_found("model", id))
}
