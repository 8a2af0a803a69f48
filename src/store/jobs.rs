//! Jobs as their users see them: submitted, listed, canceled, retried, deleted.

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::datasets::select_dataset;
use super::events::NewEvent;
use super::idempotency::Keep;
use super::models::select_model;
use super::{ChangeKind, Page, PageRequest, Store, StoreError, from_json, from_word, to_json};
use crate::spec::child::{Level, Progress};
use crate::spec::job::{JobKind, JobRequest};
use crate::spec::problem::Problem;
use crate::spec::result::JobResult;

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
}

/// What a list of jobs is narrowed to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    pub status: Option<JobStatus>,
    pub kind: Option<JobKind>,
    pub model: Option<String>,
    /// `key` or `key:value`.
    pub tag: Option<String>,
}

/// What came of a submission.
#[derive(Debug, Clone, PartialEq)]
pub enum Submission {
    Queued(Box<Job>),
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
}

impl JobRow {
    fn into_job(self) -> Result<Job, StoreError> {
        let id = self.id;
        Ok(Job {
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

/// Selects [`JobRow`]s; the text after `WHERE` and its arguments follow.
macro_rules! select_jobs {
    ($condition:tt, $($argument:expr),+) => {
        sqlx::query_as!(
            JobRow,
            r#"SELECT job.id as "id!: String", job.kind as "kind!: String",
                      job.name as "name?: String", job.status as "status!: String",
                      job.attempt as "attempt!: i64", job.max_attempts as "max_attempts!: i64",
                      CASE WHEN job.status = 'queued' THEN
                          (SELECT COUNT(*) FROM jobs ahead
                           WHERE ahead.status = 'queued'
                             AND (ahead.priority > job.priority
                                  OR (ahead.priority = job.priority AND ahead.id <= job.id)))
                      END as "queue_position?: i64",
                      job.progress as "progress?: String", job.created_at as "created_at!: String",
                      job.started_at as "started_at?: String",
                      job.finished_at as "finished_at?: String",
                      job.last_heartbeat_at as "last_heartbeat_at?: String",
                      job.request as "request!: String", job.result as "result?: String",
                      job.error as "error?: String"
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

pub(super) async fn select_status(
    connection: &mut SqliteConnection,
    id: &str,
) -> Result<Option<JobStatus>, StoreError> {
    sqlx::query_scalar!(
        r#"SELECT status as "status!: String" FROM jobs WHERE id = ?1"#,
        id
    )
    .fetch_optional(connection)
    .await?
    .map(|status| from_word(&status, "status", id))
    .transpose()
}

impl Store {
    /// Queues a job, unless its model or data set has gone.
    pub async fn submit_job(
        &self,
        id: &str,
        request: &JobRequest,
        keep: Option<Keep<'_, Job>>,
    ) -> Result<Submission, StoreError> {
        let mut transaction = self.begin().await?;
        let model_id = request.model.to_string();
        let dataset_id = request.dataset.map(|dataset| dataset.to_string());
        if select_model(&mut transaction, &model_id).await?.is_none() {
            return Ok(Submission::ModelGone);
        }
        if let Some(dataset_id) = &dataset_id
            && select_dataset(&mut transaction, dataset_id)
                .await?
                .is_none()
        {
            return Ok(Submission::DatasetGone);
        }
        let kind = request.kind.as_str();
        let priority = i64::from(request.priority);
        let max_attempts = i64::from(request.max_attempts);
        let request_json = to_json(request);
        sqlx::query!(
            "INSERT INTO jobs
                 (id, kind, name, model_id, dataset_id, status, priority, max_attempts, request)
             VALUES (?1, ?2, ?3, ?4, ?5, 'queued', ?6, ?7, ?8)",
            id,
            kind,
            request.name,
            model_id,
            dataset_id,
            priority,
            max_attempts,
            request_json
        )
        .execute(&mut *transaction)
        .await?;
        for (key, value) in &request.tags {
            sqlx::query!(
                "INSERT INTO job_tags (job_id, key, value) VALUES (?1, ?2, ?3)",
                id,
                key,
                value
            )
            .execute(&mut *transaction)
            .await?;
        }
        NewEvent::new(Level::Info, "job_queued", "The job waits to run")
            .insert(&mut transaction, id)
            .await?;
        let job = select_job(&mut transaction, id)
            .await?
            .ok_or(sqlx::Error::RowNotFound)?;
        if let Some(keep) = keep {
            keep.insert(&mut transaction, &job).await?;
        }
        transaction.commit().await?;
        self.announce(id, ChangeKind::Queued);
        Ok(Submission::Queued(Box::new(job)))
    }

    pub async fn job(&self, id: &str) -> Result<Option<Job>, StoreError> {
        let mut connection = self.reader.acquire().await?;
        select_job(&mut connection, id).await
    }

    pub async fn job_status(&self, id: &str) -> Result<Option<JobStatus>, StoreError> {
        let mut connection = self.reader.acquire().await?;
        select_status(&mut connection, id).await
    }

    /// Jobs that pass the filter, the newest first.
    pub async fn jobs(
        &self,
        filter: &JobFilter,
        page: &PageRequest,
    ) -> Result<Page<Job>, StoreError> {
        let asked = i64::from(page.limit) + 1;
        let status = filter.status.map(JobStatus::as_str);
        let kind = filter.kind.map(JobKind::as_str);
        let rows = select_jobs!(
            "(?1 IS NULL OR job.id < ?1) AND (?2 IS NULL OR job.status = ?2)
             AND (?3 IS NULL OR job.kind = ?3) AND (?4 IS NULL OR job.model_id = ?4)
             AND (?5 IS NULL OR EXISTS
                 (SELECT 1 FROM job_tags tag WHERE tag.job_id = job.id
                  AND (tag.key = ?5 OR tag.key || ':' || tag.value = ?5)))
             ORDER BY job.id DESC LIMIT ?6",
            page.after,
            status,
            kind,
            filter.model,
            filter.tag,
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
    pub async fn cancel_job(&self, id: &str) -> Result<Cancellation, StoreError> {
        let mut transaction = self.begin().await?;
        let (event, change) = match select_status(&mut transaction, id).await? {
            None => return Ok(Cancellation::NotFound),
            Some(JobStatus::Canceling | JobStatus::Canceled) => return Ok(Cancellation::Accepted),
            Some(ended @ (JobStatus::Succeeded | JobStatus::Failed)) => {
                return Ok(Cancellation::Ended(ended));
            }
            Some(JobStatus::Queued) => {
                sqlx::query!(
                    "UPDATE jobs SET status = 'canceled',
                         finished_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
                     WHERE id = ?1",
                    id
                )
                .execute(&mut *transaction)
                .await?;
                let event = NewEvent::new(Level::Info, "job_canceled", "Canceled before it ran");
                (event, ChangeKind::Updated)
            }
            Some(JobStatus::Running) => {
                sqlx::query!("UPDATE jobs SET status = 'canceling' WHERE id = ?1", id)
                    .execute(&mut *transaction)
                    .await?;
                let event =
                    NewEvent::new(Level::Info, "cancel_requested", "The job was asked to stop");
                (event, ChangeKind::CancelRequested)
            }
        };
        event.insert(&mut transaction, id).await?;
        transaction.commit().await?;
        self.announce(id, change);
        Ok(Cancellation::Accepted)
    }

    /// Queues a failed or canceled job again with all its attempts; its checkpoints are kept.
    pub async fn retry_job(&self, id: &str) -> Result<Retry, StoreError> {
        let mut transaction = self.begin().await?;
        let Some(job) = select_job(&mut transaction, id).await? else {
            return Ok(Retry::NotFound);
        };
        if !matches!(job.status, JobStatus::Failed | JobStatus::Canceled) {
            return Ok(Retry::NotRetryable(job.status));
        }
        let model_id = job.request.model.to_string();
        if select_model(&mut transaction, &model_id).await?.is_none() {
            return Ok(Retry::InputGone("model"));
        }
        if let Some(dataset) = job.request.dataset
            && select_dataset(&mut transaction, &dataset.to_string())
                .await?
                .is_none()
        {
            return Ok(Retry::InputGone("dataset"));
        }
        sqlx::query!(
            "UPDATE jobs SET status = 'queued', attempt = 0, error = NULL, result = NULL,
                 progress = NULL, started_at = NULL, finished_at = NULL, last_heartbeat_at = NULL
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
        transaction.commit().await?;
        self.announce(id, ChangeKind::Queued);
        Ok(Retry::Queued)
    }

    /// Removes an ended job and what only it holds. A model that it made stays.
    pub async fn delete_job(&self, id: &str) -> Result<JobDeletion, StoreError> {
        let _gate = self.blob_gate.lock().await;
        let mut transaction = self.begin().await?;
        match select_status(&mut transaction, id).await? {
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
        transaction.commit().await?;
        self.announce(id, ChangeKind::Updated);
        self.remove_unreferenced(&digests).await?;
        self.remove_job_folder(id).await?;
        Ok(JobDeletion::Deleted)
    }
}
