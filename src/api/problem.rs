//! Errors of the API and the one place that turns them into problem details.

use std::any::Any;
use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa::IntoResponses;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};

use crate::spec::problem::{FieldError, Problem};
use crate::store::StoreError;
use crate::worker::InspectionError;

/// The media type of problem details.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Why a request has no better answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The client's doing, or a state of things that the client is told about.
    #[error(transparent)]
    Problem(Box<Problem>),
    #[error("a valid key is missing")]
    Unauthorized,
    #[error("the key has asked too often")]
    TooManyRequests { wait: Duration },
    #[error("no byte of the range exists; the file has {size_bytes}")]
    RangeNotSatisfiable { size_bytes: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Inspection(#[from] InspectionError),
    #[error("{0}")]
    Internal(String),
}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl ApiError {
    pub fn new(status: u16, code: &str, detail: impl Into<String>) -> Self {
        Problem::new(status, code, detail).into()
    }

    /// 404 for a thing that is not there.
    pub fn not_found(what: &str, id: &str) -> Self {
        let mut detail = format!("there is no {what} `{}`", shortened(id));
        if uuid::Uuid::parse_str(id).is_err() && ["model", "dataset", "job"].contains(&what) {
            detail.push_str(&format!(
                "; addresses have ids, and `/v1/{what}s?name=` finds those of a name"
            ));
        }
        Self::new(404, &format!("{what}_not_found"), detail)
    }

    /// 422 with the place of the fault.
    pub fn fault(code: &str, pointer: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let mut problem = Problem::new(422, code, detail.clone());
        problem.errors = vec![FieldError::new(pointer, detail)];
        problem.into()
    }

    /// Whether the same request may succeed at another time.
    pub fn is_our_fault(&self) -> bool {
        match self {
            Self::Problem(problem) => problem.status >= 500,
            Self::Inspection(InspectionError::Refused(problem)) => problem.status >= 500,
            Self::Unauthorized | Self::RangeNotSatisfiable { .. } => false,
            Self::Store(StoreError::QuotaExceeded { .. }) => false,
            Self::TooManyRequests { .. }
            | Self::Store(_)
            | Self::Inspection(_)
            | Self::Internal(_) => true,
        }
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        match self {
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::TooManyRequests { wait } => retry_after(&mut headers, *wait),
            Self::Store(StoreError::QueueFull(_)) => retry_after(&mut headers, QUEUE_WAIT),
            Self::RangeNotSatisfiable { size_bytes } => {
                if let Ok(value) = HeaderValue::from_str(&format!("bytes */{size_bytes}")) {
                    headers.insert(header::CONTENT_RANGE, value);
                }
            }
            _ => {}
        }
        headers
    }

    fn into_problem(self) -> Problem {
        match self {
            Self::Problem(problem) => *problem,
            Self::Unauthorized => Problem::new(
                401,
                "unauthorized",
                "send a valid key as `Authorization: Bearer KEY`",
            ),
            Self::TooManyRequests { wait } => Problem::new(
                429,
                "too_many_requests",
                format!(
                    "the key has used up its rate; ask again in {} s",
                    whole_seconds(wait)
                ),
            ),
            Self::RangeNotSatisfiable { size_bytes } => Problem::new(
                416,
                "range_not_satisfiable",
                format!("the file has {size_bytes} bytes, none of them in the range"),
            ),
            Self::Inspection(InspectionError::Refused(problem)) => *problem,
            Self::Inspection(InspectionError::TimedOut(limit)) => {
                tracing::warn!(?limit, "an inspection took too long");
                Problem::new(
                    503,
                    "inspection_timed_out",
                    format!("it took longer than the limit of {} s", limit.as_secs()),
                )
            }
            Self::Inspection(error) => {
                log_inspection(&error);
                internal()
            }
            Self::Store(error) => store_problem(&error),
            Self::Internal(error) => {
                tracing::error!(%error, "a request failed");
                internal()
            }
        }
    }
}

/// When to look again whether the queue has room.
const QUEUE_WAIT: Duration = Duration::from_secs(10);

fn retry_after(headers: &mut HeaderMap, wait: Duration) {
    headers.insert(header::RETRY_AFTER, whole_seconds(wait).into());
}

fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// Limits are told; what else goes wrong in the store is nobody's business but the log's.
fn store_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::QueueFull(_) => Problem::new(
            429,
            "queue_full",
            format!("{error} (queued_jobs_limit); wait until some have run, or cancel some"),
        ),
        StoreError::QuotaExceeded { .. } => Problem::new(
            403,
            "quota_exceeded",
            format!("{error} (project_bytes_limit); delete what is no longer needed"),
        ),
        StoreError::DiskFull { .. } => {
            tracing::error!(%error, "nothing new is taken in");
            Problem::new(
                507,
                "insufficient_storage",
                format!(
                    "{error} (free_bytes_limit); jobs that run go on, and nothing new is taken in"
                ),
            )
        }
        full if full.is_out_of_space() => {
            tracing::error!(%error, "a request failed");
            Problem::new(
                507,
                "insufficient_storage",
                "the disk is full; nothing was changed",
            )
        }
        _ => {
            tracing::error!(%error, "a request failed");
            internal()
        }
    }
}

fn internal() -> Problem {
    Problem::new(
        500,
        "internal_error",
        "something went wrong here; the server's log has it under the request id",
    )
}

fn log_inspection(error: &InspectionError) {
    if let InspectionError::Died { last_log_lines, .. } = error {
        for line in last_log_lines {
            tracing::error!(target: "sinter::child", "{line}");
        }
    }
    tracing::error!(%error, "an inspection failed");
}

/// An upload that kills the process that reads it is the upload's fault, as far as anyone can
/// tell, so it is answered with 422.
pub fn upload_error(error: InspectionError) -> ApiError {
    match &error {
        InspectionError::Died { explanation, .. } => {
            log_inspection(&error);
            let detail = format!("the file could not be read: {explanation}");
            ApiError::new(422, "unreadable_upload", detail)
        }
        InspectionError::TimedOut(limit) => {
            let detail = format!(
                "reading the file took longer than the limit of {} s",
                limit.as_secs()
            );
            ApiError::new(422, "unreadable_upload", detail)
        }
        _ => error.into(),
    }
}

/// At most so many characters of what a client sent are sent back.
fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

/// A problem that waits in the extensions of an answer for [`settle`].
#[derive(Debug, Clone)]
struct Unsettled(Problem);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let headers = self.headers();
        let problem = self.into_problem();
        let status =
            StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, headers).into_response();
        response.extensions_mut().insert(Unsettled(problem));
        response
    }
}

/// The answer of a handler that panicked.
pub fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    ApiError::Internal(format!("a handler panicked: {text}")).into_response()
}

/// Fills in what only the outermost layer knows and writes the body. Errors that come from the
/// framework instead of a handler become problems here too.
pub fn settle(mut response: Response, path: &str, request_id: &str) -> Response {
    let status = response.status();
    let unsettled = response.extensions_mut().remove::<Unsettled>();
    let mut problem = match unsettled {
        Some(Unsettled(problem)) => problem,
        None if status.is_client_error() || status.is_server_error() => {
            if !is_bare(response.headers()) {
                return response;
            }
            framework_problem(status)
        }
        None => return response,
    };
    problem.instance = path.to_owned();
    problem.request_id = Some(request_id.to_owned());
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
    headers.remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
    response
}

/// Whether a body is at most a sentence of the framework's.
fn is_bare(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_none_or(|media_type| media_type.as_bytes().starts_with(b"text/plain"))
}

fn framework_problem(status: StatusCode) -> Problem {
    let (code, detail) = match status {
        StatusCode::NOT_FOUND => ("not_found", "there is nothing at this path"),
        StatusCode::METHOD_NOT_ALLOWED => (
            "method_not_allowed",
            "this path does not answer that method; the header Allow names those it does",
        ),
        StatusCode::REQUEST_TIMEOUT => ("request_timeout", "the request did not come in time"),
        StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", "the body is too large"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (
            "unsupported_media_type",
            "the body has a content type that is not accepted here",
        ),
        status if status.is_server_error() => ("internal_error", "something went wrong here"),
        _ => ("bad_request", "the request can't be understood"),
    };
    Problem::new(status.as_u16(), code, detail)
}

/// Documents that anything else is answered with problem details.
pub struct Problems;

impl IntoResponses for Problems {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let content = ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("Problem")))
            .build();
        let response = ResponseBuilder::new()
            .description("RFC 9457 problem details; `code` is the stable word for programs")
            .content("application/problem+json", content)
            .build();
        BTreeMap::from([("default".to_owned(), RefOr::T(response))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn internals_never_reach_the_client() {
        let error = ApiError::Internal("secret path /etc".to_owned());
        let response = settle(error.into_response(), "/v1/jobs", "r1");
        let body = axum::body::to_bytes(response.into_body(), 10_000)
            .await
            .unwrap();
        let problem: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem.code, "internal_error");
        assert!(!problem.detail.contains("secret"));
        assert_eq!(problem.instance, "/v1/jobs");
        assert_eq!(problem.request_id.as_deref(), Some("r1"));
    }

    #[test]
    fn a_bare_405_becomes_a_problem_and_keeps_its_headers() {
        let bare = (
            StatusCode::METHOD_NOT_ALLOWED,
            [(header::ALLOW, "GET,HEAD")],
        );
        let response = settle(bare.into_response(), "/v1/models", "r2");
        assert_eq!(response.headers()[header::CONTENT_TYPE], PROBLEM_JSON);
        assert_eq!(response.headers()[header::ALLOW], "GET,HEAD");
    }
}
