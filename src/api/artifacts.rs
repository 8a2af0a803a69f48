//! `/v1/jobs/{id}/artifacts`: the files of a job.

use axum::Json;
use axum::extract::Path;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Binary;
use super::access::Authorized;
use super::download::{Download, send_file};
use super::jobs::find_status;
use super::problem::{ApiError, Problems};
use super::request::{Listed, NoQuery};
use super::state::App;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_job_artifacts))
        .routes(routes!(get_job_artifact))
}

/// A file of a job.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Artifact)]
pub struct ArtifactView {
    pub name: String,
    pub media_type: String,
    pub size_bytes: u64,
    /// `sha256:` and the hex digest.
    pub digest: String,
    /// Path of the file on this server.
    pub url: String,
}

/// List the files of a job.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/artifacts", operation_id = "listJobArtifacts", tag = "jobs",
    params(("id" = String, Path)),
    responses((status = 200, description = "The files", body = Listed<ArtifactView>), Problems)
)]
async fn list_job_artifacts(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<Json<Listed<ArtifactView>>, ApiError> {
    find_status(&access, &id).await?;
    let artifacts = access.app.store.artifacts(&id).await?;
    let view = artifacts.into_iter().map(|artifact| ArtifactView {
        url: format!("/v1/jobs/{id}/artifacts/{}", artifact.name),
        digest: format!("sha256:{}", artifact.digest),
        name: artifact.name,
        media_type: artifact.media_type,
        size_bytes: artifact.size_bytes,
    });
    Ok(Json(Listed {
        data: view.collect(),
    }))
}

/// Download a file of a job.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/artifacts/{name}", operation_id = "getJobArtifact", tag = "jobs",
    params(("id" = String, Path), ("name" = String, Path), ("Range" = Option<String>, Header),
        ("If-Range" = Option<String>, Header), ("If-None-Match" = Option<String>, Header)),
    responses(
        (status = 200, description = "The file", body = inline(Binary),
            content_type = "application/octet-stream"),
        (status = 206, description = "A part of the file", body = inline(Binary),
            content_type = "application/octet-stream"),
        (status = 304, description = "The client has it already"),
        Problems
    )
)]
async fn get_job_artifact(
    access: Authorized,
    Path((id, name)): Path<(String, String)>,
    _query: NoQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    find_status(&access, &id).await?;
    let artifacts = access.app.store.artifacts(&id).await?;
    let artifact = artifacts
        .into_iter()
        .find(|artifact| artifact.name == name)
        .ok_or_else(|| ApiError::not_found("artifact", &name))?;
    let download = Download {
        digest: artifact.digest,
        size_bytes: artifact.size_bytes,
        media_type: artifact.media_type,
        file_name: artifact.name,
    };
    send_file(&access.app, &headers, &download).await
}
