//! Jobs as their users see them: submitted, listed, canceled, retried, deleted.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::sqlite::SqlitePool;
use sqlx::{Acquire as _, SqliteConnection};
use tokio::sync::{broadcast, mpsc, oneshot};
use utoipa::ToSchema;

use super::deliveries::ensure_webhook;
use super::events::NewEvent;
use super::idempotency::{Answer, IdempotencyKey, Keep, KeptAnswer, select_kept};
use super::limits::Limits;
use super::queue::{select_state, write_state};
use super::{
    ChangeKind, JobChange, Page, PageRequest, Scope, Store, StoreError, from_json, from_word,
    to_json,
};
use crate::spec::child::{Level, Progress};
use crate::spec::job::{JobKind, JobRequest};
use crate::spec::problem::Problem;
use crate::spec::result::JobResult;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    Queued,
    Running,
    /// Asked to stop, but its process may still run.
    Canceling,
    Succeeded,
    Failed,
    Canceled,
}

impl JobStatus {
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Canceling,
        Self::Succeeded,
        Self::Failed,
        Self::Canceled,
    ];

    /// The name as JSON and the database have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Canceling => "canceling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// Whether nothing more happens to the job by itself.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Canceled)
    }
}

/// A stored job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    pub id: String,
    pub project: String,
    pub kind: JobKind,
    pub name: Option<String>,
    pub status: JobStatus,
    pub attempt: u32,
    pub max_attempts: u32,
    /// 1 for the job that runs next.
    pub queue_position: Option<u64>,
    pub progress: Option<Progress>,
    pub created_at: String,
    pub started_at: Option<String>,
    pub finished_at: Option<String>,
    pub last_heartbeat_at: Option<String>,
    pub request: JobRequest,
    pub result: Option<JobResult>,
    pub error: Option<Problem>,
    /// The W3C trace context of its submission.
    pub traceparent: Option<String>,
}

/// What a list of jobs is narrowed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub status: Option<JobStatus>,
    pub kind: Option<JobKind>,
    pub model: Option<String>,
    pub dataset: Option<String>,
    pub name: Option<String>,
    /// `key` or `key:value`.
    pub tag: Option<String>,
}

/// What came of a submission.
#[derive(Debug, Clone, PartialEq)]
pub enum Submission {
    Queued(Box<Job>),
    /// The same request, or another one with its key, was answered before.
    Answered(KeptAnswer),
    ModelGone,
    DatasetGone,
}

/// What came of a request to stop a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    Accepted,
    NotFound,
    Ended(JobStatus),
}

/// What came of a request to run a job again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    Queued,
    NotFound,
    NotRetryable(JobStatus),
    /// The model or the data set was deleted meanwhile.
    InputGone(&'static str),
}

/// What came of a request to delete a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobDeletion {
    Deleted,
    NotFound,
    /// A search that has not ended begins with its trials.
    InUse,
    NotEnded(JobStatus),
}

struct JobRow {
    id: String,
    project: String,
    kind: String,
    name: Option<String>,
    status: String,
    attempt: i64,
    max_attempts: i64,
    queue_position: Option<i64>,
    progress: Option<String>,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    last_heartbeat_at: Option<String>,
    request: String,
    result: Option<String>,
    error: Option<String>,
    traceparent: Option<String>,
}

impl JobRow {
    fn into_job(self) -> Result<Job, StoreError> {
        let id = self.id;
        Ok(Job {
            project: self.project,
            kind: from_word(&self.kind, "kind", &id)?,
            name: self.name,
            status: from_word(&self.status, "status", &id)?,
            attempt: u32::try_from(self.attempt).unwrap_or(0),
            max_attempts: u32::try_from(self.max_attempts).unwrap_or(0),
            queue_position: self.queue_position.map(super::to_u64),
            progress: optional_json(self.progress, "progress", &id)?,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            last_heartbeat_at: self.last_heartbeat_at,
            request: from_json(&self.request, "request", &id)?,
            result: optional_json(self.result, "result", &id)?,
            error: optional_json(self.error, "error", &id)?,
            traceparent: self.traceparent,
            id,
        })
    }
}

fn optional_json<T: serde::de::DeserializeOwned>(
    text: Option<String>,
    column: &'static str,
    id: &str,
) -> Result<Option<T>, StoreError> {
    text.map(|text| from_json(&text, column, id)).transpose()
}

/// Selects [`JobRow`]s; the text after `WHERE` and its arguments follow. A place in the queue is all that wait with this
/// priority or a higher one, without those behind it: counting these costs least for the newest, which are asked for most.
macro_rules! select_jobs {
    ($condition:tt, $($argument:expr),+) => {
        sqlx::query_as!(
            JobRow,
            r#"SELECT job.id as "id!: String", job.project as "project!: String",
                      job.kind as "kind!: String",
                      job.name as "name?: String", job.status as "status!: String",
                      job.attempt as "attempt!: i64", job.max_attempts as "max_attempts!: i64",
                      CASE WHEN job.status = 'queued' THEN
                          (SELECT SUM(jobs) FROM queue_lengths WHERE priority >= job.priority)
                          - (SELECT COUNT(*) FROM jobs behind
                             WHERE behind.status = 'queued' AND behind.priority = job.priority
                               AND behind.id > job.id)
                      END as "queue_position?: i64",
                      job.progress as "progress?: String", job.created_at as "created_at!: String",
                      job.started_at as "started_at?: String",
                      job.finished_at as "finished_at?: String",
                      job.last_heartbeat_at as "last_heartbeat_at?: String",
                      job.request as "request!: String", job.result as "result?: String",
                      job.error as "error?: String", job.traceparent as "traceparent?: String"
               FROM jobs job WHERE "# + $condition,
            $($argument),+
        )
    };
}

pub(super) async fn select_job(
    connection: &mut SqliteConnection,
    id: &str,
) -> Result<Option<Job>, StoreError> {
    select_jobs!("job.id = ?1", id)
        .fetch_optional(connection)
        .await?
        .map(JobRow::into_job)
        .transpose()
}

async fn select_status(
    connection: &mut SqliteConnection,
    scope: &Scope,
    id: &str,
) -> Result<Option<JobStatus>, StoreError> {
    let project = scope.project();
    sqlx::query_scalar!(
        r#"SELECT status as "status!: String" FROM jobs WHERE id = ?1 AND (?2 IS NULL OR project = ?2)"#,
        id,
        project
    )
    .fetch_optional(connection)
    .await?
    .map(|status| from_word(&status, "status", id))
    .transpose()
}

/// A job on its way in.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub id: String,
    pub project: String,
    pub request: JobRequest,
    /// Ids of all that it needs: models, a data set, an earlier search.
    pub inputs: BTreeSet<String>,
    /// Under which the answer is kept, and what it is.
    pub keep: Option<(IdempotencyKey, Render)>,
    /// The W3C trace context of the submission.
    pub traceparent: Option<String>,
}

/// Makes the answer to a submission.
pub type Render = fn(&Job) -> Answer;

/// As many submissions share a commit at most.
const SHARED_COMMIT: usize = 256;

type Submitted = (NewJob, oneshot::Sender<Result<Submission, StoreError>>);

/// Submissions on their way to the next commit. A commit waits for the disk, and all that come meanwhile are in the next
/// one together, so that a thousand a second are durable on a disk that syncs two hundred times.
#[derive(Debug)]
pub(super) struct Submissions(mpsc::Sender<Submitted>);

impl Submissions {
    /// Starts to commit; it ends with the store.
    pub fn start(
        writer: SqlitePool,
        changes: broadcast::Sender<JobChange>,
        limits: Limits,
    ) -> Self {
        let (sender, mut receiver) = mpsc::channel(4 * SHARED_COMMIT);
        tokio::spawn(async move {
            let mut together: Vec<Submitted> = Vec::new();
            while receiver.recv_many(&mut together, SHARED_COMMIT).await > 0 {
                let (jobs, answers): (Vec<_>, Vec<_>) = together.drain(..).unzip();
                match commit(&writer, &jobs, &limits).await {
                    Ok(submissions) => {
                        for (submission, answer) in submissions.into_iter().zip(answers) {
                            if let Ok(Submission::Queued(job)) = &submission {
                                let job_id = job.id.clone();
                                let kind = ChangeKind::Queued;
                                // There may be nobody who listens, here and below.
                                let _ = changes.send(JobChange { job_id, kind });
                            }
                            let _ = answer.send(submission);
                        }
                    }
                    Err(error) => {
                        for answer in answers {
                            let _ = answer.send(Err(StoreError::NotCommitted(error.to_string())));
                        }
                    }
                }
            }
        });
        Self(sender)
    }
}

/// Queues jobs in one transaction; one that can't be does not keep the others from it.
async fn commit(
    writer: &SqlitePool,
    jobs: &[NewJob],
    limits: &Limits,
) -> Result<Vec<Result<Submission, StoreError>>, StoreError> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    let mut submissions = Vec::with_capacity(jobs.len());
    for job in jobs {
        let mut own = transaction.begin().await?;
        let submission = insert_job(&mut own, job, limits).await;
        match &submission {
            Ok(Submission::Queued(_)) => own.commit().await?,
            _ => own.rollback().await?,
        }
        submissions.push(submission);
    }
    fail_point!("submit");
    transaction.commit().await?;
    fail_point!("submitted");
    Ok(submissions)
}

async fn insert_job(
    connection: &mut SqliteConnection,
    new: &NewJob,
    limits: &Limits,
) -> Result<Submission, StoreError> {
    let NewJob {
        id,
        project,
        request,
        inputs,
        keep,
        traceparent,
    } = new;
    // A client that went away may have left the same request on its way here.
    if let Some((key, _)) = keep
        && let Some(kept) = select_kept(connection, key).await?
    {
        return Ok(Submission::Answered(kept));
    }
    if let Some(gone) = missing_input(connection, request).await? {
        return Ok(gone);
    }
    if limits.queued_jobs > 0 {
        let waiting = sqlx::query_scalar!(
            r#"SELECT COALESCE(SUM(jobs), 0) as "waiting!: i64" FROM queue_lengths WHERE project = ?1"#,
            project
        )
        .fetch_one(&mut *connection)
        .await?;
        if super::to_u64(waiting) >= limits.queued_jobs {
            return Err(StoreError::QueueFull(project.clone()));
        }
    }
    let model_id = request.model.to_string();
    let dataset_id = request.dataset.map(|dataset| dataset.to_string());
    let kind = request.kind.as_str();
    let priority = i64::from(request.priority);
    let max_attempts = i64::from(request.max_attempts);
    let request_json = to_json(request);
    sqlx::query!(
        "INSERT INTO jobs
             (id, kind, name, model_id, dataset_id, status, priority, max_attempts, request, project, traceparent)
         VALUES (?1, ?2, ?3, ?4, ?5, 'queued', ?6, ?7, ?8, ?9, ?10)",
        id,
        kind,
        request.name,
        model_id,
        dataset_id,
        priority,
        max_attempts,
        request_json,
        project,
        traceparent
    )
    .execute(&mut *connection)
    .await?;
    for (key, value) in &request.tags {
        sqlx::query!(
            "INSERT INTO job_tags (job_id, key, value) VALUES (?1, ?2, ?3)",
            id,
            key,
            value
        )
        .execute(&mut *connection)
        .await?;
    }
    for input in inputs {
        sqlx::query!(
            "INSERT INTO job_inputs (job_id, input_id) VALUES (?1, ?2)",
            id,
            input
        )
        .execute(&mut *connection)
        .await?;
    }
    if let Some(webhook) = &request.webhook {
        ensure_webhook(connection, project, &webhook.url).await?;
    }
    NewEvent::new(Level::Info, "job_queued", "The job waits to run")
        .insert(connection, id)
        .await?;
    let job = select_job(connection, id).await?;
    let job = job.ok_or(sqlx::Error::RowNotFound)?;
    if let Some((key, render)) = keep {
        let keep = Keep {
            key,
            render: *render,
        };
        keep.insert(connection, &job).await?;
    }
    Ok(Submission::Queued(Box::new(job)))
}

/// Whether the model or the data set of a request has gone.
async fn missing_input(
    connection: &mut SqliteConnection,
    request: &JobRequest,
) -> Result<Option<Submission>, StoreError> {
    let model = request.model.to_string();
    let dataset = request.dataset.map(|dataset| dataset.to_string());
    let there = sqlx::query!(
        r#"SELECT EXISTS (SELECT 1 FROM models WHERE id = ?1) as "model!: bool",
                  (?2 IS NULL OR EXISTS (SELECT 1 FROM datasets WHERE id = ?2)) as "dataset!: bool""#,
        model,
        dataset
    )
    .fetch_one(connection)
    .await?;
    Ok(match (there.model, there.dataset) {
        (false, _) => Some(Submission::ModelGone),
        (_, false) => Some(Submission::DatasetGone),
        _ => None,
    })
}

impl Store {
    /// Queues a job, unless its model or data set has gone. It is durable when this returns.
    pub async fn submit_job(&self, new: NewJob) -> Result<Submission, StoreError> {
        self.check_disk(0)?;
        let (sender, answer) = oneshot::channel();
        let ended = || StoreError::NotCommitted("the store was closed".to_owned());
        let sent = self.submissions.0.send((new, sender)).await;
        sent.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }

    pub async fn job(&self, scope: &Scope, id: &str) -> Result<Option<Job>, StoreError> {
        let mut connection = self.reader.acquire().await?;
        let job = select_job(&mut connection, id).await?;
        Ok(job.filter(|job| scope.sees(&job.project)))
    }

    pub async fn job_status(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<Option<JobStatus>, StoreError> {
        let mut connection = self.reader.acquire().await?;
        select_status(&mut connection, scope, id).await
    }

    /// Jobs that pass the filter, the newest first.
    pub async fn jobs(
        &self,
        scope: &Scope,
        filter: &JobFilter,
        page: &PageRequest,
    ) -> Result<Page<Job>, StoreError> {
        let asked = i64::from(page.limit) + 1;
        let status = filter.status.map(JobStatus::as_str);
        let kind = filter.kind.map(JobKind::as_str);
        let project = scope.project();
        let rows = select_jobs!(
            "(?1 IS NULL OR job.id < ?1) AND (?2 IS NULL OR job.status = ?2)
             AND (?3 IS NULL OR job.kind = ?3) AND (?4 IS NULL OR job.model_id = ?4)
             AND (?5 IS NULL OR EXISTS
                 (SELECT 1 FROM job_tags tag WHERE tag.job_id = job.id
                  AND (tag.key = ?5 OR tag.key || ':' || tag.value = ?5)))
             AND (?6 IS NULL OR job.project = ?6) AND (?7 IS NULL OR job.dataset_id = ?7)
             AND (?8 IS NULL OR job.name = ?8)
             ORDER BY job.id DESC LIMIT ?9",
            page.after,
            status,
            kind,
            filter.model,
            filter.tag,
            project,
            filter.dataset,
            filter.name,
            asked
        )
        .fetch_all(&self.reader)
        .await?;
        let jobs = rows
            .into_iter()
            .map(JobRow::into_job)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Page::cut(jobs, page.limit, |job| job.id.clone()))
    }

    /// How many jobs there are in each status.
    pub async fn count_jobs(&self) -> Result<Vec<(&'static str, i64)>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT status as "status!: String", COUNT(*) as "jobs!: i64"
               FROM jobs GROUP BY status"#
        )
        .fetch_all(&self.reader)
        .await?;
        let count = |status: JobStatus| {
            rows.iter()
                .find(|row| row.status == status.as_str())
                .map_or(0, |row| row.jobs)
        };
        Ok(JobStatus::ALL
            .iter()
            .map(|status| (status.as_str(), count(*status)))
            .collect())
    }

    /// Stops a job: a queued one at once, a running one as soon as its worker has killed it.
    pub async fn cancel_job(&self, scope: &Scope, id: &str) -> Result<Cancellation, StoreError> {
        let mut transaction = self.begin().await?;
        let Some(status) = select_status(&mut transaction, scope, id).await? else {
            return Ok(Cancellation::NotFound);
        };
        let before = select_state(&mut transaction, id).await?;
        let asked = before
            .as_ref()
            .and_then(|job| Some((job, job.cancel_requested()?)));
        let Some((before, after)) = asked else {
            return Ok(match status {
                JobStatus::Succeeded | JobStatus::Failed => Cancellation::Ended(status),
                _ => Cancellation::Accepted,
            });
        };
        write_state(&mut transaction, id, before, &after, None).await?;
        let (event, change) = if after.status == JobStatus::Canceled {
            let event = NewEvent::new(Level::Info, "job_canceled", "Canceled before it ran");
            (event, ChangeKind::Updated)
        } else {
            let event = NewEvent::new(Level::Info, "cancel_requested", "The job was asked to stop");
            (event, ChangeKind::CancelRequested)
        };
        event.insert(&mut transaction, id).await?;
        fail_point!("cancel");
        transaction.commit().await?;
        self.announce(id, change);
        Ok(Cancellation::Accepted)
    }

    /// Queues a failed or canceled job again with all its attempts; its checkpoints are kept.
    pub async fn retry_job(&self, scope: &Scope, id: &str) -> Result<Retry, StoreError> {
        let mut transaction = self.begin().await?;
        let found = select_job(&mut transaction, id).await?;
        let Some(job) = found.filter(|job| scope.sees(&job.project)) else {
            return Ok(Retry::NotFound);
        };
        let before = select_state(&mut transaction, id).await?;
        let again = before.as_ref().and_then(|job| Some((job, job.retried()?)));
        let Some((before, after)) = again else {
            return Ok(Retry::NotRetryable(job.status));
        };
        match missing_input(&mut transaction, &job.request).await? {
            Some(Submission::ModelGone) => return Ok(Retry::InputGone("model")),
            Some(_) => return Ok(Retry::InputGone("dataset")),
            None => {}
        }
        write_state(&mut transaction, id, before, &after, None).await?;
        sqlx::query!(
            "UPDATE jobs SET result = NULL, progress = NULL, started_at = NULL, last_heartbeat_at = NULL
             WHERE id = ?1",
            id
        )
        .execute(&mut *transaction)
        .await?;
        NewEvent::new(
            Level::Info,
            "job_queued",
            "The job waits to run again, from its last checkpoint if it has one",
        )
        .with_data(json!({"retry": true}))
        .insert(&mut transaction, id)
        .await?;
        fail_point!("retry");
        transaction.commit().await?;
        self.announce(id, ChangeKind::Queued);
        Ok(Retry::Queued)
    }

    /// Removes an ended job and what only it holds. A model that it made stays.
    pub async fn delete_job(&self, scope: &Scope, id: &str) -> Result<JobDeletion, StoreError> {
        let mut transaction = self.begin().await?;
        match select_status(&mut transaction, scope, id).await? {
            None => return Ok(JobDeletion::NotFound),
            Some(status) if !status.has_ended() => return Ok(JobDeletion::NotEnded(status)),
            Some(_) => {}
        }
        if super::models::is_needed(&mut transaction, id).await? {
            return Ok(JobDeletion::InUse);
        }
        let digests = sqlx::query_scalar!(
            r#"SELECT digest as "digest!: String" FROM artifacts WHERE job_id = ?1"#,
            id
        )
        .fetch_all(&mut *transaction)
        .await?;
        sqlx::query!("DELETE FROM jobs WHERE id = ?1", id)
            .execute(&mut *transaction)
            .await?;
        fail_point!("delete");
        transaction.commit().await?;
        fail_point!("deleted");
        self.announce(id, ChangeKind::Updated);
        self.remove_unreferenced(&digests).await?;
        self.remove_job_folder(id).await?;
        Ok(JobDeletion::Deleted)
    }
}
