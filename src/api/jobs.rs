//! `/v1/jobs`.

use std::time::Duration;

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use opentelemetry::trace::SpanKind;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep_until};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::access::Authorized;
use super::idempotent::{KeyInUse, Turn, replay, turn};
use super::problem::{ApiError, Problems};
use super::request::{NoQuery, Paged, StrictQuery, json_value, located_json, page};
use super::state::App;
use super::submission::{Checked, check, missing, plan, refuse_impossible};
use crate::spec::child::Progress;
use crate::spec::fit::InferredData;
use crate::spec::job::{JobKind, JobRequest, read_posted};
use crate::spec::problem::Problem;
use crate::spec::result::{JobResult, Plan};
use crate::store::JobChange;
use crate::store::idempotency::Answer;
use crate::store::jobs::{
    Cancellation, Job, JobDeletion, JobFilter, JobStatus, NewJob, Render, Retry, Submission,
};
use crate::telemetry::traces::{Span, attribute};

/// `Prefer: wait` waits no longer than this.
const MAX_WAIT_SECONDS: u64 = 60;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_jobs, create_job))
        .routes(routes!(get_job, delete_job))
        .routes(routes!(cancel_job))
        .routes(routes!(retry_job))
}

/// A job.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Job)]
pub struct JobView {
    #[schema(format = "uuid")]
    pub id: String,
    pub kind: JobKind,
    pub name: Option<String>,
    pub status: JobStatus,
    /// 0 before the first.
    pub attempt: u32,
    pub max_attempts: u32,
    /// 1 for the job that runs next; `null` unless queued.
    pub queue_position: Option<u64>,
    pub progress: Option<Progress>,
    #[schema(format = "date-time")]
    pub created_at: String,
    #[schema(format = "date-time")]
    pub started_at: Option<String>,
    #[schema(format = "date-time")]
    pub finished_at: Option<String>,
    #[schema(format = "date-time")]
    pub last_heartbeat_at: Option<String>,
    /// As accepted, defaults filled in.
    pub request: JobRequest,
    pub result: Option<JobResult>,
    pub error: Option<Problem>,
}

impl From<&Job> for JobView {
    fn from(job: &Job) -> Self {
        let job = job.clone();
        Self {
            id: job.id,
            kind: job.kind,
            name: job.name,
            status: job.status,
            attempt: job.attempt,
            max_attempts: job.max_attempts,
            queue_position: job.queue_position,
            progress: job.progress,
            created_at: job.created_at,
            started_at: job.started_at,
            finished_at: job.finished_at,
            last_heartbeat_at: job.last_heartbeat_at,
            request: job.request,
            result: job.result,
            error: job.error,
        }
    }
}

/// What a job would do, without doing it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct DryRun {
    pub kind: JobKind,
    pub plan: Plan,
    /// What was inferred about the data; left out without any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<InferredData>,
    /// Optimizer steps of all its trainings, at most.
    pub steps: u64,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListJobsQuery {
    status: Option<JobStatus>,
    kind: Option<JobKind>,
    /// Id of the model that the jobs started from.
    model: Option<String>,
    /// Id of the data set that they used.
    dataset: Option<String>,
    /// Those of this name alone; several can have the same.
    name: Option<String>,
    /// `key` or `key:value`.
    tag: Option<String>,
    /// Rows of a page, 1 to 100.
    #[param(default = 20, minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Queue a job, or see what it would do.
///
/// 202 means that the job is durable. With `dry_run` the answer is 200 and holds the plan and its
/// cost; nothing is queued.
#[utoipa::path(
    post, path = "/v1/jobs", operation_id = "createJob", tag = "jobs",
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255)),
    request_body = JobRequest,
    responses(
        (status = 202, description = "Queued", body = JobView,
            headers(("Location" = String)), links(("getJob" = (operation_id = "getJob", parameters(("id" = "$response.body#/id")))), ("cancelJob" = (operation_id = "cancelJob", parameters(("id" = "$response.body#/id")))), ("retryJob" = (operation_id = "retryJob", parameters(("id" = "$response.body#/id")))), ("listJobEvents" = (operation_id = "listJobEvents", parameters(("id" = "$response.body#/id")))), ("listJobMetrics" = (operation_id = "listJobMetrics", parameters(("id" = "$response.body#/id")))), ("listJobArtifacts" = (operation_id = "listJobArtifacts", parameters(("id" = "$response.body#/id")))), ("deleteJob" = (operation_id = "deleteJob", parameters(("id" = "$response.body#/id")))))),
        (status = 200, description = "The plan of a dry run", body = DryRun),
        Problems
    )
)]
async fn create_job(
    access: Authorized,
    _query: NoQuery,
    headers: HeaderMap,
    Extension(request_span): Extension<Span>,
    body: Body,
) -> Result<Response, ApiError> {
    let in_use = KeyInUse::take(&access, &headers, "POST /v1/jobs")?;
    let (bytes, posted) = json_value(&headers, body).await?;
    let key = match turn(in_use.as_ref(), &[&bytes]).await? {
        Turn::Replay(response) => return Ok(response),
        Turn::Run(key) => key,
    };
    let app = &access.app;
    let checked = check(&access, read_posted(posted)).await?;
    if checked.request.dry_run {
        return Ok(Json(plan(&access, checked).await?).into_response());
    }
    refuse_impossible(&access, &checked).await?;
    let inputs = checked.inputs();
    let Checked { request, .. } = checked;
    let (model, dataset) = (request.model, request.dataset);
    let id = Uuid::now_v7().to_string();
    let about = vec![
        attribute("sinter.job.id", id.clone()),
        attribute("sinter.job.kind", request.kind.as_str()),
    ];
    let span = request_span.child(SpanKind::Producer, "submit", about);
    let new = NewJob {
        id,
        project: access.caller.project.clone(),
        request,
        inputs,
        keep: key.clone().map(|key| (key, accepted as Render)),
        traceparent: span.traceparent(),
    };
    match app.store.submit_job(new).await? {
        Submission::Queued(job) => {
            tracing::info!(job = %job.id, kind = job.kind.as_str(), "job queued");
            let answer = accepted(&job);
            Ok(located_json(answer.status, &answer.location, answer.body))
        }
        Submission::Answered(kept) => match &key {
            Some(key) => replay(kept, key),
            None => Err(ApiError::Internal("an answer without a key".to_owned())),
        },
        Submission::ModelGone => Err(missing(&access, "model", model, "/model").await),
        Submission::DatasetGone => {
            let id = dataset.unwrap_or_default();
            Err(missing(&access, "dataset", id, "/dataset").await)
        }
    }
}

fn accepted(job: &Job) -> Answer {
    Answer {
        status: 202,
        location: format!("/v1/jobs/{}", job.id),
        body: super::to_json(&JobView::from(job)),
    }
}

/// List jobs, the newest first.
#[utoipa::path(
    get, path = "/v1/jobs", operation_id = "listJobs", tag = "jobs",
    params(ListJobsQuery),
    responses((status = 200, description = "A page of jobs", body = Paged<JobView>), Problems)
)]
async fn list_jobs(
    access: Authorized,
    StrictQuery(query): StrictQuery<ListJobsQuery>,
) -> Result<Json<Paged<JobView>>, ApiError> {
    let asked = page(query.limit, query.cursor.as_deref())?;
    let filter = JobFilter {
        status: query.status,
        kind: query.kind,
        model: query.model,
        dataset: query.dataset,
        name: query.name,
        tag: query.tag,
    };
    let store = &access.app.store;
    let jobs = store.jobs(&access.scope, &filter, &asked).await?;
    Ok(Json(Paged::new(jobs, |job| JobView::from(&job))))
}

/// Get a job; with the header Prefer: wait=N, wait up to N seconds for its end.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", operation_id = "getJob", tag = "jobs",
    params(("id" = String, Path), ("Prefer" = Option<String>, Header,
        description = "`wait=30` waits up to 30 s for an end state, at most 60")),
    responses((status = 200, description = "The job", body = JobView), Problems)
)]
async fn get_job(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Some(seconds) = preferred_wait(&headers) else {
        return Ok(Json(JobView::from(&find(&access, &id).await?)).into_response());
    };
    let job = wait_for_end(&access, &id, Duration::from_secs(seconds)).await?;
    let mut response = Json(JobView::from(&job)).into_response();
    if let Ok(applied) = HeaderValue::from_str(&format!("wait={seconds}")) {
        response.headers_mut().insert(PREFERENCE_APPLIED, applied);
    }
    Ok(response)
}

/// `wait=N` out of `Prefer` (RFC 7240), at most [`MAX_WAIT_SECONDS`].
fn preferred_wait(headers: &HeaderMap) -> Option<u64> {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split([',', ';']))
        .find_map(|preference| {
            let (name, value) = preference.split_once('=')?;
            if !name.trim().eq_ignore_ascii_case("wait") {
                return None;
            }
            value.trim().trim_matches('"').parse::<u64>().ok()
        })
        .map(|seconds| seconds.min(MAX_WAIT_SECONDS))
}

async fn wait_for_end(access: &Authorized, id: &str, longest: Duration) -> Result<Job, ApiError> {
    let app = &access.app;
    let deadline = Instant::now() + longest;
    let mut changes = app.store.changes();
    while !find_status(access, id).await?.has_ended() {
        tokio::select! {
            () = app.closing.cancelled() => break,
            () = sleep_until(deadline) => break,
            () = job_changed(&mut changes, id) => {}
        }
    }
    find(access, id).await
}

/// Waits until something happens to this job, or may have happened unheard.
pub async fn job_changed(changes: &mut broadcast::Receiver<JobChange>, id: &str) {
    loop {
        match changes.recv().await {
            Ok(change) if change.job_id != id => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
        }
    }
}

/// Stop a job.
///
/// A queued job is canceled at once, a running one within seconds. Asking again changes nothing.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", operation_id = "cancelJob", tag = "jobs",
    params(("id" = String, Path)),
    responses((status = 202, description = "Canceled or canceling", body = JobView), Problems)
)]
async fn cancel_job(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<Response, ApiError> {
    match access.app.store.cancel_job(&access.scope, &id).await? {
        Cancellation::Accepted => accepted_view(&access, &id).await,
        Cancellation::NotFound => Err(ApiError::not_found("job", &id)),
        Cancellation::Ended(status) => {
            let detail = format!("the job has {} already", status.as_str());
            Err(ApiError::new(409, "job_already_ended", detail))
        }
    }
}

/// Queue a failed or canceled job again; it goes on from its last checkpoint.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/retry", operation_id = "retryJob", tag = "jobs",
    params(("id" = String, Path)),
    responses((status = 202, description = "Queued again", body = JobView), Problems)
)]
async fn retry_job(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<Response, ApiError> {
    match access.app.store.retry_job(&access.scope, &id).await? {
        Retry::Queued => accepted_view(&access, &id).await,
        Retry::NotFound => Err(ApiError::not_found("job", &id)),
        Retry::NotRetryable(status) => {
            let detail = format!(
                "the job is {}; only a failed or canceled job can be retried",
                status.as_str()
            );
            Err(ApiError::new(409, "job_not_retryable", detail))
        }
        Retry::InputGone(what) => {
            let detail = format!("the {what} of the job was deleted");
            Err(ApiError::new(409, &format!("{what}_not_found"), detail))
        }
    }
}

async fn accepted_view(access: &Authorized, id: &str) -> Result<Response, ApiError> {
    let answer = accepted(&find(access, id).await?);
    Ok(located_json(answer.status, &answer.location, answer.body))
}

/// Delete an ended job and what only it holds. A model that it made stays.
#[utoipa::path(
    delete, path = "/v1/jobs/{id}", operation_id = "deleteJob", tag = "jobs",
    params(("id" = String, Path)),
    responses((status = 204, description = "It is gone"), Problems)
)]
async fn delete_job(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<StatusCode, ApiError> {
    match access.app.store.delete_job(&access.scope, &id).await? {
        JobDeletion::Deleted => Ok(StatusCode::NO_CONTENT),
        JobDeletion::NotFound => Err(ApiError::not_found("job", &id)),
        JobDeletion::InUse => {
            let detail = "a search that has not ended begins with the trials of this one; cancel it or wait for \
                          its end";
            Err(ApiError::new(409, "job_in_use", detail))
        }
        JobDeletion::NotEnded(status) => {
            let detail = format!(
                "the job is {}; cancel it or wait for its end",
                status.as_str()
            );
            Err(ApiError::new(409, "job_not_ended", detail))
        }
    }
}

async fn find(access: &Authorized, id: &str) -> Result<Job, ApiError> {
    let job = access.app.store.job(&access.scope, id).await?;
    job.ok_or_else(|| ApiError::not_found("job", id))
}

/// The status of a job that has to be there.
pub async fn find_status(access: &Authorized, id: &str) -> Result<JobStatus, ApiError> {
    let store = &access.app.store;
    let status = store.job_status(&access.scope, id).await?;
    status.ok_or_else(|| ApiError::not_found("job", id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_is_found_among_other_preferences_and_has_a_cap() {
        let wait = |value: &'static str| {
            let headers: HeaderMap = [(PREFER, HeaderValue::from_static(value))]
                .into_iter()
                .collect();
            preferred_wait(&headers)
        };
        assert_eq!(wait("wait=30"), Some(30));
        assert_eq!(wait("respond-async, Wait = \"5\"; x=1"), Some(5));
        assert_eq!(wait("wait=3600"), Some(MAX_WAIT_SECONDS));
        assert_eq!(wait("respond-async"), None);
    }
}
