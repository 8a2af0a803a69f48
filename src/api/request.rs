//! What handlers read out of requests: queries, pages, JSON bodies, headers.

use axum::body::Body;
use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use utoipa::ToSchema;

use super::problem::ApiError;
use crate::spec::problem::{Problem, parse};
use crate::store::PageRequest;

/// JSON bodies are at most this long.
const MAX_JSON_BYTES: usize = 1 << 20;

/// Rows of a list when the client does not say.
const DEFAULT_LIMIT: u32 = 20;

/// Rows of a list at most.
const MAX_LIMIT: u32 = 100;

/// A query string whose every parameter is known.
#[derive(Debug, Clone, Copy)]
pub struct StrictQuery<T>(pub T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for StrictQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        query_of(&parts.uri).map(Self)
    }
}

fn query_of<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    match Query::try_from_uri(uri) {
        Ok(Query(value)) => Ok(value),
        Err(rejection) => Err(query_error(&rejection.body_text())),
    }
}

/// Reads a query string that was kept, as [`StrictQuery`] does.
pub fn read_query<T: DeserializeOwned>(query: &str) -> Result<T, ApiError> {
    let uri = Uri::builder().path_and_query(format!("/?{query}")).build();
    let uri = uri.map_err(|error| ApiError::Internal(format!("a kept query: {error}")))?;
    query_of(&uri)
}

fn query_error(text: &str) -> ApiError {
    let unknown = text
        .split_once("unknown field `")
        .and_then(|(_, rest)| rest.split_once('`'));
    match unknown {
        Some((name, _)) => unknown_parameter(name),
        None => {
            let detail = text
                .strip_prefix("Failed to deserialize query string: ")
                .unwrap_or(text);
            ApiError::new(400, "invalid_query_parameter", detail)
        }
    }
}

fn unknown_parameter(name: &str) -> ApiError {
    let detail = format!("the query parameter `{name}` is not known here");
    ApiError::new(400, "unknown_query_parameter", detail)
}

/// The absence of a query string.
#[derive(Debug, Clone, Copy)]
pub struct NoQuery;

impl<S: Sync> FromRequestParts<S> for NoQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        match parts.uri.query() {
            None | Some("") => Ok(Self),
            Some(query) => {
                let first = query.split(['&', '=']).next().unwrap_or(query);
                Err(unknown_parameter(first))
            }
        }
    }
}

/// Makes the page that `limit` and `cursor` ask for.
pub fn page(limit: Option<u32>, cursor: Option<&str>) -> Result<PageRequest, ApiError> {
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        let detail = format!("limit must be from 1 to {MAX_LIMIT}");
        return Err(ApiError::new(400, "invalid_query_parameter", detail));
    }
    let after = cursor.map(read_cursor).transpose()?;
    Ok(PageRequest { limit, after })
}

/// A place in a list, opaque to clients.
pub fn write_cursor(last_id: &str) -> String {
    URL_SAFE_NO_PAD.encode(last_id)
}

fn read_cursor(cursor: &str) -> Result<String, ApiError> {
    URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic()))
        .ok_or_else(|| {
            let detail = "cursor must be a next_cursor from an answer of this list";
            ApiError::new(400, "invalid_cursor", detail)
        })
}

/// A page of a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Paged<T> {
    pub data: Vec<T>,
    /// Goes into `cursor` for the next page; `null` on the last.
    pub next_cursor: Option<String>,
}

impl<T> Paged<T> {
    pub fn new<Row>(page: crate::store::Page<Row>, view: impl Fn(Row) -> T) -> Self {
        Self {
            data: page.rows.into_iter().map(view).collect(),
            next_cursor: page.next.as_deref().map(write_cursor),
        }
    }
}

/// A whole list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Listed<T> {
    pub data: Vec<T>,
}

/// Reads a JSON body that is of no use unless all of it can be read, and gives it back as text, for its fingerprint, and
/// as a value.
pub async fn json_body<T: DeserializeOwned + Serialize>(
    headers: &HeaderMap,
    body: Body,
) -> Result<(Vec<u8>, T), ApiError> {
    let (bytes, value) = json_value(headers, body).await?;
    Ok((bytes, parse(value).map_err(Problem::invalid)?))
}

/// The body, and its JSON.
pub async fn json_value(headers: &HeaderMap, body: Body) -> Result<(Vec<u8>, Value), ApiError> {
    if !is_json(headers) {
        let detail = "send JSON with `Content-Type: application/json`";
        return Err(ApiError::new(415, "unsupported_media_type", detail));
    }
    let bytes = collect(body, MAX_JSON_BYTES).await?;
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok((bytes, value)),
        Err(error) => {
            let detail = format!("the body is not JSON: {error}");
            Err(ApiError::new(400, "malformed_json", detail))
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = media_type(headers);
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

/// The content type without its parameters, in lower case; empty without one.
pub fn media_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(|value| value.trim().to_ascii_lowercase())
        .unwrap_or_default()
}

async fn collect(body: Body, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut stream = body.into_data_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| broken_body(&error))?;
        if bytes.len() + chunk.len() > limit {
            return Err(too_large(limit as u64));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// 413 with the limit.
pub fn too_large(limit: u64) -> ApiError {
    let detail = format!("the body has more than {limit} bytes");
    ApiError::new(413, "body_too_large", detail)
}

/// Whether an error comes of a body of which nothing came for too long.
pub fn timed_out(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<tower_http::timeout::TimeoutError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// 408 for a body of which nothing came for too long.
pub fn too_slow() -> ApiError {
    let detail = "nothing of the body came for as long as client_timeout_seconds allows; send it again, large files in \
                  pieces (docs/service.md)";
    ApiError::new(408, "request_timeout", detail)
}

/// 400 for a body that ends too early, for which nobody may be there any more, or 408 for one that does not come.
pub fn broken_body(error: &axum::Error) -> ApiError {
    if timed_out(error) {
        return too_slow();
    }
    ApiError::new(400, "broken_body", "the body ended before its end")
}

/// An answer of JSON text with this status and `Location`.
pub fn located_json(status: u16, location: &str, body: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::LOCATION, location.to_owned()),
    ];
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_the_id_it_was_made_of() {
        let id = "019353e0-0000-7000-8000-000000000001";
        let asked = page(None, Some(&write_cursor(id))).unwrap();
        assert_eq!(asked.after.as_deref(), Some(id));
        assert_eq!(asked.limit, 20);
        assert!(page(None, Some("not a cursor")).is_err());
    }

    #[test]
    fn a_limit_of_nothing_or_too_much_is_refused() {
        for limit in [0, 101] {
            assert!(page(Some(limit), None).is_err(), "{limit}");
        }
        assert_eq!(page(Some(100), None).unwrap().limit, 100);
    }

    #[test]
    fn an_unknown_query_parameter_is_named() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Known {
            #[serde(rename = "limit")]
            _limit: Option<u32>,
        }
        let uri = "/v1/models?limits=3".parse().unwrap();
        let text = Query::<Known>::try_from_uri(&uri).unwrap_err().body_text();
        let ApiError::Problem(problem) = query_error(&text) else {
            panic!("{text}");
        };
        assert_eq!(problem.code, "unknown_query_parameter");
        assert!(problem.detail.contains("`limits`"));
    }
}
