//! `/v1/jobs/{id}/events`: what happened, as a list or as it happens.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::sse::{Event as SentEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::time::sleep;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::{Authorized, Caller};
use super::jobs::{find_status, job_changed};
use super::problem::{ApiError, Problems};
use super::request::{Paged, StrictQuery, page, write_cursor};
use super::state::App;
use crate::spec::child::Level;
use crate::store::events::Event;
use crate::store::jobs::JobStatus;
use crate::store::{JobChange, PageRequest, Scope, StoreError};

/// Events that are read from the database at once while they are followed.
const FOLLOWED_AT_ONCE: u32 = 200;

/// A follower looks for itself this often, should a change go unheard, and whether its key still holds.
const LOOK: Duration = Duration::from_secs(10);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_job_events))
}

/// Something that happened in a job.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventView {
    /// Grows from event to event.
    pub id: i64,
    #[schema(format = "date-time")]
    pub at: String,
    pub level: Level,
    /// A snake_case word for programs, such as `job_started`.
    #[serde(rename = "type")]
    pub kind: String,
    pub message: String,
    #[schema(value_type = Option<Object>)]
    pub data: Value,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        Self {
            id: event.id,
            at: event.at,
            level: event.level,
            kind: event.kind,
            message: event.message,
            data: event.data,
        }
    }
}

/// How a list is paged.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Rows of a page, 1 to 100.
    #[param(default = 20, minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[param(min_length = 1)]
    cursor: Option<String>,
}

impl ListQuery {
    fn page(&self) -> Result<PageRequest, ApiError> {
        page(self.limit, self.cursor.as_deref())
    }
}

/// List or follow what happens in a job, the oldest first.
///
/// With `Accept: text/event-stream` the same rows come as they happen, after the one that
/// `Last-Event-ID` names, until the job has ended.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", operation_id = "listJobEvents", tag = "jobs",
    params(("id" = String, Path), ListQuery, ("Last-Event-ID" = Option<i64>, Header)),
    responses(
        (status = 200, description = "Events", content(
            (Paged<EventView> = "application/json"),
            (String = "text/event-stream")
        )),
        Problems
    )
)]
async fn list_job_events(
    access: Authorized,
    Path(id): Path<String>,
    StrictQuery(query): StrictQuery<ListQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    find_status(&access, &id).await?;
    let page = query.page()?;
    let after = match &page.after {
        Some(event) => Some(event.parse::<i64>().map_err(|_| invalid_cursor())?),
        None => last_event_id(&headers)?,
    };
    if wants_stream(&headers) {
        let events = follow(access, id, after.unwrap_or(0));
        return Ok(Sse::new(events)
            .keep_alive(KeepAlive::new())
            .into_response());
    }
    let asked = page.limit + 1;
    let mut rows = access
        .app
        .store
        .events(&id, after.unwrap_or(0), asked)
        .await?;
    let more = rows.len() > page.limit as usize;
    rows.truncate(page.limit as usize);
    let last = rows.last().filter(|_| more);
    let next_cursor = last.map(|event| write_cursor(&event.id.to_string()));
    let data = rows.into_iter().map(EventView::from).collect();
    Ok(Json(Paged { data, next_cursor }).into_response())
}

fn invalid_cursor() -> ApiError {
    let detail = "cursor must be a next_cursor from an answer of this list";
    ApiError::new(400, "invalid_cursor", detail)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) else {
        return Ok(None);
    };
    let id = value
        .to_str()
        .ok()
        .and_then(|id| id.trim().parse::<i64>().ok());
    id.map(Some).ok_or_else(|| {
        let detail = "Last-Event-ID must be the id of an event";
        ApiError::new(400, "invalid_last_event_id", detail)
    })
}

fn wants_stream(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.contains("text/event-stream"))
}

struct Follower {
    app: App,
    caller: Caller,
    /// When the caller's key was last seen to hold.
    trusted_at: Instant,
    job_id: String,
    changes: broadcast::Receiver<JobChange>,
    last: i64,
    pending: VecDeque<Event>,
}

fn follow(
    access: Authorized,
    job_id: String,
    after: i64,
) -> impl Stream<Item = Result<SentEvent, Infallible>> + use<> {
    let follower = Follower {
        changes: access.app.store.changes(),
        app: access.app,
        caller: access.caller,
        trusted_at: Instant::now(),
        job_id,
        last: after,
        pending: VecDeque::new(),
    };
    stream::unfold(follower, |mut follower| async move {
        let event = match follower.next().await {
            Ok(event) => event?,
            Err(error) => {
                tracing::error!(%error, "a stream of events was cut");
                return None;
            }
        };
        Some((Ok::<_, Infallible>(sent(event)), follower))
    })
}

impl Follower {
    /// The next event, or `None` when the job has ended, or the server closes, and all was said.
    async fn next(&mut self) -> Result<Option<Event>, StoreError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                self.last = event.id;
                return Ok(Some(event));
            }
            // A thousand followers wait for most of their time, and hold nothing meanwhile.
            self.pending = VecDeque::new();
            let closing = self.app.closing.is_cancelled();
            let app = App::clone(&self.app);
            // Few look at once: each holds memory for it, and the database has no more readers.
            let turn = app.looks.acquire().await;
            let looked = Box::pin(self.look()).await;
            drop(turn);
            let Some((status, rows)) = looked? else {
                return Ok(None);
            };
            if !rows.is_empty() {
                self.pending = rows.into();
                continue;
            }
            if closing || status.is_none_or(|status| status.has_ended()) {
                return Ok(None);
            }
            tokio::select! {
                () = self.app.closing.cancelled() => {}
                () = sleep(LOOK) => {}
                () = job_changed(&mut self.changes, &self.job_id) => {}
            }
        }
    }
}

impl Follower {
    /// How the job stands, and what happened since the last look; `None` for a caller whose key was revoked.
    ///
    /// What may end the stream is read before the events: an end state is committed together with its event, and the last
    /// worker's events before the server closes its connections, so no event can follow one that was seen here.
    async fn look(&mut self) -> Result<Option<(Option<JobStatus>, Vec<Event>)>, StoreError> {
        let store = &self.app.store;
        if self.caller.revocable && self.trusted_at.elapsed() >= LOOK {
            if !store.key_stands(&self.caller.name).await? {
                return Ok(None);
            }
            self.trusted_at = Instant::now();
        }
        let status = store.job_status(&Scope::All, &self.job_id).await?;
        let events = store
            .events(&self.job_id, self.last, FOLLOWED_AT_ONCE)
            .await?;
        Ok(Some((status, events)))
    }
}

fn sent(event: Event) -> SentEvent {
    let view = EventView::from(event);
    SentEvent::default()
        .id(view.id.to_string())
        // Neither a field name nor a value may hold a line break.
        .event(view.kind.replace(['\r', '\n'], " "))
        .data(super::to_json(&view))
}
