//! `/v1/uploads`: uploads in pieces, which go on after a cut (draft-ietf-httpbis-resumable-upload).
//!
//! `POST /v1/models?name=…` (or data sets) with `Upload-Complete: ?0` begins one and answers with its address; `GET` (or
//! `HEAD`) tells how many bytes are there; `PATCH` appends, and its last one, with `Upload-Complete: ?1`, is answered as
//! the upload in one request would have been.

use axum::Json;
use axum::extract::{Path, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Binary;
use super::access::Authorized;
use super::arriving::{Allowance, ArrivingFile};
use super::problem::{ApiError, Problems};
use super::request::{NoQuery, broken_body, media_type, read_query, too_large};
use super::state::{App, InUse};
use super::upload::{Upload, announced_length, check_name, wanted_digest};
use super::{datasets, models};
use crate::store::blobs::digest_file;
use crate::store::uploads::{PartialUpload, UploadTarget};
use crate::store::{StagedBlob, StoreError};

const UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_LIMIT: HeaderName = HeaderName::from_static("upload-limit");

/// The media type of a piece.
const PARTIAL_UPLOAD: &str = "application/partial-upload";

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(get_upload, append_to_upload, delete_upload))
}

/// An upload that is not whole yet.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Upload)]
pub struct UploadView {
    #[schema(format = "uuid")]
    pub id: String,
    /// What it becomes.
    pub target: UploadTarget,
    /// Bytes so far; the next piece begins here.
    pub offset: u64,
    /// Bytes of the whole, if they were announced.
    pub length: Option<u64>,
}

/// Whether a creation is the beginning of an upload in pieces.
pub fn begins(headers: &HeaderMap) -> bool {
    headers
        .get(UPLOAD_COMPLETE)
        .is_some_and(|value| value.as_bytes() == b"?0")
}

/// Begins an upload with the bytes of this request, which may be none.
pub async fn begin(
    access: &Authorized,
    request: Request,
    target: UploadTarget,
    name: Option<String>,
) -> Result<Response, ApiError> {
    if media_type(request.headers()) == "multipart/form-data" {
        let detail = "an upload in pieces is one file as the body, not a form";
        return Err(ApiError::new(415, "unsupported_media_type", detail));
    }
    check_name(name)?;
    let query = request.uri().query().unwrap_or_default().to_owned();
    let length = number(request.headers(), &UPLOAD_LENGTH)?;
    let limit = access.app.settings.max_upload_bytes;
    if length.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let store = &access.app.store;
    let project = &access.caller.project;
    store.check_quota(project, length.unwrap_or(0)).await?;
    store.check_disk(length.unwrap_or(0))?;
    let mut upload = store.begin_upload(project, target, &query, length).await?;
    if let Err(error) = append(access, &mut upload, request).await {
        // Nobody knows its address.
        store.remove_upload(&upload.id).await?;
        return Err(error);
    }
    let mut response = view(access, StatusCode::CREATED, &upload);
    let address = format!("/v1/uploads/{}", upload.id);
    if let Ok(value) = HeaderValue::from_str(&address) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    Ok(response)
}

/// Tell how much of an upload is there; with HEAD the headers alone.
#[utoipa::path(
    get, path = "/v1/uploads/{id}", operation_id = "getUpload", tag = "uploads",
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "How far it is; also in Upload-Offset and Upload-Complete", body = UploadView,
            headers(("Upload-Offset" = u64), ("Upload-Complete" = String))),
        Problems
    )
)]
async fn get_upload(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<Response, ApiError> {
    let upload = find(&access, &id).await?;
    Ok(view(&access, StatusCode::OK, &upload))
}

/// Append a piece to an upload.
///
/// `Upload-Offset` is where the piece begins, which must be where the upload ends. With `Upload-Complete: ?1` it is the
/// last one, and the answer is that of the creation. What arrived before a cut is kept.
#[utoipa::path(
    patch, path = "/v1/uploads/{id}", operation_id = "appendToUpload", tag = "uploads",
    params(("id" = String, Path),
        ("Upload-Offset" = Option<u64>, Header, description = "Where the piece begins"),
        ("Upload-Complete" = Option<String>, Header, description = "`?1` with the last piece"),
        ("Upload-Length" = Option<u64>, Header, description = "Bytes of the whole"),
        ("Repr-Digest" = Option<String>, Header,
            description = "With the last piece: `sha-256=:BASE64:` of the whole file, which is then verified")),
    request_body(content((inline(Binary) = "application/partial-upload"))),
    responses(
        (status = 204, description = "Appended",
            headers(("Upload-Offset" = u64), ("Upload-Complete" = String))),
        (status = 201, description = "Whole, checked and stored", headers(("Location" = String))),
        Problems
    )
)]
async fn append_to_upload(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
    request: Request,
) -> Result<Response, ApiError> {
    // Whether it is there for this caller comes first; how long it is, only when nobody else appends.
    find(&access, &id).await?;
    let taken = take(&access, &id)?;
    let mut upload = find(&access, &id).await?;
    let headers = request.headers();
    if media_type(headers) != PARTIAL_UPLOAD {
        let detail = format!("send a piece with `Content-Type: {PARTIAL_UPLOAD}`");
        return Err(ApiError::new(415, "unsupported_media_type", detail));
    }
    let offset = number(headers, &UPLOAD_OFFSET)?.ok_or_else(|| {
        let detail = "say with Upload-Offset where the piece begins";
        ApiError::new(400, "upload_offset_required", detail)
    })?;
    if offset != upload.offset {
        let detail = format!(
            "the piece begins at {offset} and the upload has {} bytes; go on from there",
            upload.offset
        );
        let mut response = ApiError::new(409, "upload_offset_mismatch", detail).into_response();
        write_headers(&access, response.headers_mut(), &upload);
        return Ok(response);
    }
    if let Some(length) = number(headers, &UPLOAD_LENGTH)? {
        if upload.length.is_some_and(|known| known != length) {
            let detail = "Upload-Length is another one than before";
            return Err(ApiError::new(400, "upload_length_mismatch", detail));
        }
        upload.length = Some(length);
    }
    let complete = match headers.get(UPLOAD_COMPLETE).map(HeaderValue::as_bytes) {
        Some(b"?1") => true,
        Some(b"?0") | None => false,
        Some(_) => {
            let detail = "Upload-Complete must be `?1` or `?0`";
            return Err(ApiError::new(400, "invalid_header", detail));
        }
    };
    let digest = wanted_digest(headers)?;
    // A client that goes away now must not leave it half done.
    let going_on = tokio::spawn(async move {
        let _taken = taken;
        let found = append(&access, &mut upload, request).await?;
        if complete {
            return finish(&access, upload, found, digest).await;
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        write_headers(&access, response.headers_mut(), &upload);
        Ok(response)
    });
    match going_on.await {
        Ok(answer) => answer,
        Err(error) => Err(ApiError::Internal(format!("an upload in pieces: {error}"))),
    }
}

/// Give up an upload and remove its bytes.
#[utoipa::path(
    delete, path = "/v1/uploads/{id}", operation_id = "deleteUpload", tag = "uploads",
    params(("id" = String, Path)),
    responses((status = 204, description = "It is gone"), Problems)
)]
async fn delete_upload(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<StatusCode, ApiError> {
    let upload = find(&access, &id).await?;
    let _taken = take(&access, &id)?;
    access.app.store.remove_upload(&upload.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Takes an upload for this request alone.
fn take(access: &Authorized, id: &str) -> Result<InUse, ApiError> {
    access.app.take(format!("upload {id}")).ok_or_else(|| {
        let detail =
            "another request appends to this upload; ask for its offset when that has ended";
        ApiError::new(409, "upload_in_use", detail)
    })
}

async fn find(access: &Authorized, id: &str) -> Result<PartialUpload, ApiError> {
    let upload = access.app.store.partial_upload(&access.scope, id).await?;
    upload.ok_or_else(|| ApiError::not_found("upload", id))
}

fn view(access: &Authorized, status: StatusCode, upload: &PartialUpload) -> Response {
    let body = UploadView {
        id: upload.id.clone(),
        target: upload.target,
        offset: upload.offset,
        length: upload.length,
    };
    let mut response = (status, Json(body)).into_response();
    write_headers(access, response.headers_mut(), upload);
    response
}

fn write_headers(access: &Authorized, headers: &mut HeaderMap, upload: &PartialUpload) {
    headers.insert(UPLOAD_OFFSET, upload.offset.into());
    headers.insert(UPLOAD_COMPLETE, HeaderValue::from_static("?0"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(length) = upload.length {
        headers.insert(UPLOAD_LENGTH, length.into());
    }
    let limit = format!("max-size={}", access.app.settings.max_upload_bytes);
    if let Ok(value) = HeaderValue::from_str(&limit) {
        headers.insert(UPLOAD_LIMIT, value);
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let parsed: Option<u64> = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let countable = parsed.filter(|&bytes| i64::try_from(bytes).is_ok());
    countable.map(Some).ok_or_else(|| {
        ApiError::new(
            400,
            "invalid_header",
            format!("{name} must be a whole number of bytes"),
        )
    })
}

/// Appends the body to the file; whatever arrived is kept and brought to the disk, also when the body breaks off. Tells the
/// hex SHA-256 of the file if nothing was there before.
async fn append(
    access: &Authorized,
    upload: &mut PartialUpload,
    request: Request,
) -> Result<Option<String>, ApiError> {
    let limit = access.app.settings.max_upload_bytes;
    let limit = upload.length.unwrap_or(limit).min(limit);
    let announced = announced_length(&request).unwrap_or(0);
    if upload.offset.saturating_add(announced) > limit {
        return Err(too_large(limit));
    }
    let store = &access.app.store;
    store.check_disk(announced)?;
    store.check_quota(&upload.project, announced).await?;
    store.touch_upload(&upload.id, upload.length).await?;
    store.own_bytes(upload).await?;
    let mut file = ArrivingFile::open(&access.app, &upload.path)?;
    let mut allowance = Allowance::new(
        &access.app,
        &access.caller.project,
        limit - upload.offset,
        true,
    );
    let chunks = request.into_body().into_data_stream();
    tokio::pin!(chunks);
    let mut arrived = Ok(());
    while arrived.is_ok()
        && let Some(chunk) = chunks.next().await
    {
        arrived = match chunk {
            Ok(chunk) => file.take(chunk, &mut allowance).await,
            Err(error) => Err(broken_body(&error)),
        };
    }
    let (digest, size_bytes) = match file.finish().await {
        Ok(finished) => finished,
        // The first error says more.
        Err(error) => return arrived.and(Err(error.into())),
    };
    store.sync(&upload.path).await?;
    let whole = (upload.offset == 0).then_some(digest);
    upload.offset += size_bytes;
    arrived.map(|()| whole)
}

/// Makes of a whole upload what it was begun for. One that is refused is gone; one that the server failed stays.
async fn finish(
    access: &Authorized,
    upload: PartialUpload,
    found: Option<String>,
    wanted: Option<String>,
) -> Result<Response, ApiError> {
    if upload.length.is_some_and(|length| length != upload.offset) {
        let detail = format!(
            "the upload was announced with {} bytes and has {}; send the rest, or begin anew",
            upload.length.unwrap_or_default(),
            upload.offset
        );
        return Err(ApiError::new(400, "upload_length_mismatch", detail));
    }
    let created = create(access, &upload, found, wanted).await;
    if !matches!(&created, Err(error) if error.is_our_fault()) {
        access.app.store.remove_upload(&upload.id).await?;
    }
    created
}

async fn create(
    access: &Authorized,
    upload: &PartialUpload,
    found: Option<String>,
    wanted: Option<String>,
) -> Result<Response, ApiError> {
    let query = &upload.query;
    let folder = access.app.store.staging_folder()?;
    let path = folder.path().join("0");
    // A second name of the same bytes: should the server fail, the upload still has them.
    std::fs::hard_link(&upload.path, &path).map_err(StoreError::file("link", &path))?;
    let blob = match found {
        Some(digest) => StagedBlob {
            path,
            digest,
            size_bytes: upload.offset,
        },
        None => digest_file(&path).await?,
    };
    match upload.target {
        UploadTarget::Models => {
            let query: models::CreateQuery = read_query(query)?;
            let whole = Upload::whole(query.name, blob, folder, wanted.as_deref())?;
            models::create(access, &whole, None).await
        }
        UploadTarget::Datasets => {
            let query: datasets::CreateQuery = read_query(query)?;
            let whole = Upload::whole(query.name.clone(), blob, folder, wanted.as_deref())?;
            datasets::create(access, &whole, query, None).await
        }
    }
}
