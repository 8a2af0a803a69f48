//! Jobs as workers see them: claimed with a lease, reported on, ended.
//!
//! Every report carries the lease, that is the attempt and its owner, and is refused when the job
//! has gone on without them. Leases end by the database's clock.

use std::time::Duration;

use serde_json::json;
use sqlx::SqliteConnection;

use super::artifacts::NewArtifact;
use super::events::NewEvent;
use super::jobs::{Job, JobStatus, select_job};
use super::metrics::NewPoint;
use super::models::{NewModel, insert_model};
use super::{ChangeKind, Store, StoreError, from_word, to_json};
use crate::spec::child::{Level, Progress};
use crate::spec::problem::Problem;
use crate::spec::result::JobResult;

/// The right to report on one attempt of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub job_id: String,
    pub attempt: u32,
    /// Made for this claim.
    pub owner: String,
}

/// A claimed job.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    pub lease: Lease,
    pub job: Job,
}

/// What a worker has to say about a running job.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    pub events: Vec<NewEvent>,
    pub points: Vec<NewPoint>,
    pub progress: Option<Progress>,
}

impl Report {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.points.is_empty() && self.progress.is_none()
    }
}

/// Whether a report was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reported {
    /// Taken; the job is in this status.
    Taken(JobStatus),
    /// The lease was lost: the attempt must be given up and nothing of it counts.
    Refused,
}

/// How an attempt ended, other than with success.
#[derive(Debug, Clone, PartialEq)]
pub enum AttemptEnd {
    /// The job can't succeed at another try either.
    Failed(Problem),
    /// The process died; the job is tried again while it has attempts left.
    Died(Problem),
    /// The process was killed because the job was canceled.
    Canceled,
    /// The server stops; the attempt does not count.
    Drained,
}

/// What a succeeded job publishes; all files are among the blobs already.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    pub result: JobResult,
    pub artifacts: Vec<NewArtifact>,
    /// The result's and others that it names.
    pub new_models: Vec<NewModel>,
}

impl Store {
    /// Claims the next job, if there is one: the highest priority first, then the oldest. Jobs
    /// whose lease has ended are dealt with before.
    pub async fn claim_job(
        &self,
        owner: &str,
        lease_time: Duration,
    ) -> Result<Option<Claim>, StoreError> {
        let mut transaction = self.begin().await?;
        let expired = end_expired_leases(&mut transaction).await?;
        let lease_ms = milliseconds(lease_time);
        let claimed = sqlx::query_scalar!(
            r#"UPDATE jobs SET status = 'running', attempt = attempt + 1, lease_owner = ?1,
                   lease_expires_at = CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) + ?2,
                   started_at = COALESCE(started_at, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
                   last_heartbeat_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
               WHERE id = (SELECT id FROM jobs WHERE status = 'queued'
                           ORDER BY priority DESC, id ASC LIMIT 1)
               RETURNING id as "id!: String""#,
            owner,
            lease_ms
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let job = match &claimed {
            None => None,
            Some(id) => select_job(&mut transaction, id).await?,
        };
        if let Some(job) = &job {
            NewEvent::new(Level::Info, "job_started", "A worker has taken the job")
                .with_data(json!({"attempt": job.attempt, "max_attempts": job.max_attempts}))
                .insert(&mut transaction, &job.id)
                .await?;
        }
        transaction.commit().await?;
        for id in expired.iter().chain(&claimed) {
            self.announce(id, ChangeKind::Updated);
        }
        Ok(job.map(|job| Claim {
            lease: Lease {
                job_id: job.id.clone(),
                attempt: job.attempt,
                owner: owner.to_owned(),
            },
            job,
        }))
    }

    /// Writes down what a worker reports and renews its lease; an empty report is a heartbeat.
    pub async fn report(
        &self,
        lease: &Lease,
        report: &Report,
        lease_time: Duration,
    ) -> Result<Reported, StoreError> {
        let mut transaction = self.begin().await?;
        let attempt = i64::from(lease.attempt);
        let lease_ms = milliseconds(lease_time);
        let progress = report.progress.as_ref().map(to_json);
        let status = sqlx::query_scalar!(
            r#"UPDATE jobs SET
                   last_heartbeat_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
                   lease_expires_at = CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER) + ?4,
                   progress = COALESCE(?5, progress)
               WHERE id = ?1 AND attempt = ?2 AND lease_owner = ?3
               RETURNING status as "status!: String""#,
            lease.job_id,
            attempt,
            lease.owner,
            lease_ms,
            progress
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(status) = status else {
            return Ok(Reported::Refused);
        };
        for event in &report.events {
            event.insert(&mut transaction, &lease.job_id).await?;
        }
        for point in &report.points {
            point.insert(&mut transaction, &lease.job_id).await?;
        }
        transaction.commit().await?;
        if !report.is_empty() {
            self.announce(&lease.job_id, ChangeKind::Updated);
        }
        Ok(Reported::Taken(from_word(
            &status,
            "status",
            &lease.job_id,
        )?))
    }

    /// Publishes a succeeded attempt: files, the new models, the result and the end of the job in
    /// one transaction. A job that was canceled meanwhile becomes canceled instead.
    pub async fn complete_job(
        &self,
        lease: &Lease,
        publication: &Publication,
    ) -> Result<Reported, StoreError> {
        let _gate = self.blob_gate.lock().await;
        for artifact in &publication.artifacts {
            self.blobs.adopt(&artifact.file).await?;
        }
        let mut transaction = self.begin().await?;
        let held = held_job(&mut transaction, lease).await?;
        if held
            .as_ref()
            .is_none_or(|job| job.status != JobStatus::Running)
        {
            transaction.rollback().await?;
            let files = publication.artifacts.iter();
            let digests: Vec<_> = files.map(|new| new.file.digest.clone()).collect();
            self.remove_unreferenced(&digests).await?;
            return self.end_attempt(lease, &AttemptEnd::Canceled).await;
        }
        for new_model in &publication.new_models {
            insert_model(&mut transaction, new_model).await?;
        }
        for artifact in &publication.artifacts {
            artifact.insert(&mut transaction, &lease.job_id).await?;
        }
        let result = to_json(&publication.result);
        sqlx::query!(
            "UPDATE jobs SET status = 'succeeded', result = ?2, error = NULL,
                 progress = json_set(progress, '$.fraction', 1.0, '$.eta_seconds', 0.0),
                 lease_owner = NULL, lease_expires_at = NULL,
                 finished_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
             WHERE id = ?1",
            lease.job_id,
            result
        )
        .execute(&mut *transaction)
        .await?;
        NewEvent::new(Level::Info, "job_succeeded", "The job has succeeded")
            .with_data(json!({"model": publication.result.model}))
            .insert(&mut transaction, &lease.job_id)
            .await?;
        transaction.commit().await?;
        self.announce(&lease.job_id, ChangeKind::Updated);
        Ok(Reported::Taken(JobStatus::Succeeded))
    }

    /// Ends an attempt that did not succeed; tells the status that the job has then.
    pub async fn end_attempt(
        &self,
        lease: &Lease,
        end: &AttemptEnd,
    ) -> Result<Reported, StoreError> {
        let mut transaction = self.begin().await?;
        let Some(held) = held_job(&mut transaction, lease).await? else {
            return Ok(Reported::Refused);
        };
        let (status, used_attempts, error, event) = if held.status == JobStatus::Canceling {
            canceled(lease)
        } else {
            match end {
                AttemptEnd::Canceled => canceled(lease),
                AttemptEnd::Failed(problem) => failed(lease, problem),
                AttemptEnd::Died(problem) if lease.attempt < held.max_attempts => {
                    again(lease, held.max_attempts, problem)
                }
                AttemptEnd::Died(problem) => failed(lease, problem),
                AttemptEnd::Drained => {
                    let text = "The server stops; the job waits to go on from its last checkpoint";
                    let event = NewEvent::new(Level::Info, "drained", text);
                    (JobStatus::Queued, lease.attempt - 1, None, event)
                }
            }
        };
        let attempt = i64::from(used_attempts);
        let error = error.map(|problem| to_json(&located(problem, &lease.job_id)));
        let_go(&mut transaction, &lease.job_id, status, attempt, error).await?;
        event.insert(&mut transaction, &lease.job_id).await?;
        transaction.commit().await?;
        let change = if status == JobStatus::Queued {
            ChangeKind::Queued
        } else {
            ChangeKind::Updated
        };
        self.announce(&lease.job_id, change);
        Ok(Reported::Taken(status))
    }

    /// Lets go of the jobs that an earlier server ran when it ended. The lock on the data folder
    /// proves that it is gone, so their leases need not run out, and its end costs them no attempt.
    pub(super) async fn release_orphaned_jobs(&self) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        let orphans = sqlx::query!(
            r#"SELECT id as "id!: String", status as "status!: String", attempt as "attempt!: i64",
                      max_attempts as "max_attempts!: i64"
               FROM jobs WHERE status IN ('running', 'canceling')"#
        )
        .fetch_all(&mut *transaction)
        .await?;
        let mut canceled = Vec::new();
        for row in orphans {
            let (status, attempt, event) = if row.status == "canceling" {
                let text = "The job was stopped as asked";
                let event = NewEvent::new(Level::Info, "job_canceled", text);
                canceled.push(row.id.clone());
                (JobStatus::Canceled, row.attempt, event)
            } else {
                let text = "The server had ended while the job ran; the job waits to go on from its \
                            last checkpoint";
                let event = NewEvent::new(Level::Warning, "requeued", text);
                (JobStatus::Queued, (row.attempt - 1).max(0), event)
            };
            let_go(&mut transaction, &row.id, status, attempt, None).await?;
            event
                .with_data(json!({"attempt": row.attempt, "max_attempts": row.max_attempts}))
                .insert(&mut transaction, &row.id)
                .await?;
        }
        transaction.commit().await?;
        for id in canceled {
            if let Err(error) = self.keep_checkpoint(&id).await {
                tracing::warn!(job = %id, %error, "a job folder stays behind");
            }
        }
        Ok(())
    }
}

/// Ends a lease: the job has this status and has used so many attempts.
async fn let_go(
    connection: &mut SqliteConnection,
    job_id: &str,
    status: JobStatus,
    attempt: i64,
    error: Option<String>,
) -> Result<(), StoreError> {
    let status_word = status.as_str();
    let ended = status.has_ended();
    sqlx::query!(
        "UPDATE jobs SET status = ?2, attempt = ?3, error = ?4,
                 lease_owner = NULL, lease_expires_at = NULL,
                 finished_at = CASE WHEN ?5 THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now') END
             WHERE id = ?1",
        job_id,
        status_word,
        attempt,
        error,
        ended
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Status, attempts used, error and event that an attempt ends with.
type Ending<'a> = (JobStatus, u32, Option<&'a Problem>, NewEvent);

fn canceled(lease: &Lease) -> Ending<'static> {
    let event = NewEvent::new(Level::Info, "job_canceled", "The job was stopped as asked");
    (JobStatus::Canceled, lease.attempt, None, event)
}

fn failed<'a>(lease: &Lease, problem: &'a Problem) -> Ending<'a> {
    let event = NewEvent::new(Level::Error, "job_failed", problem.detail.clone())
        .with_data(json!({"code": problem.code}));
    (JobStatus::Failed, lease.attempt, Some(problem), event)
}

fn again(lease: &Lease, max_attempts: u32, problem: &Problem) -> Ending<'static> {
    let event = NewEvent::new(Level::Warning, "attempt_failed", problem.detail.clone()).with_data(
        json!({"code": problem.code, "attempt": lease.attempt, "max_attempts": max_attempts}),
    );
    (JobStatus::Queued, lease.attempt, None, event)
}

fn located(problem: &Problem, job_id: &str) -> Problem {
    Problem {
        instance: format!("/v1/jobs/{job_id}"),
        ..problem.clone()
    }
}

struct HeldJob {
    status: JobStatus,
    max_attempts: u32,
}

async fn held_job(
    connection: &mut SqliteConnection,
    lease: &Lease,
) -> Result<Option<HeldJob>, StoreError> {
    let attempt = i64::from(lease.attempt);
    let held = sqlx::query!(
        r#"SELECT status as "status!: String", max_attempts as "max_attempts!: i64" FROM jobs
           WHERE id = ?1 AND attempt = ?2 AND lease_owner = ?3"#,
        lease.job_id,
        attempt,
        lease.owner
    )
    .fetch_optional(connection)
    .await?;
    held.map(|row| {
        Ok(HeldJob {
            status: from_word(&row.status, "status", &lease.job_id)?,
            max_attempts: u32::try_from(row.max_attempts).unwrap_or(0),
        })
    })
    .transpose()
}

/// Takes jobs from workers that have been silent for too long; tells which jobs.
async fn end_expired_leases(connection: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let problem = Problem::new(
        500,
        "worker_died",
        "the worker was silent for longer than its lease, and no attempt is left",
    );
    let expired = sqlx::query!(
        r#"SELECT id as "id!: String", status as "status!: String", attempt as "attempt!: i64",
                  max_attempts as "max_attempts!: i64"
           FROM jobs
           WHERE status IN ('running', 'canceling')
             AND lease_expires_at <= CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)"#
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut ids = Vec::with_capacity(expired.len());
    for row in expired {
        let (status, error, event) = if row.status == "canceling" {
            let text = "The job was stopped as asked";
            let event = NewEvent::new(Level::Info, "job_canceled", text);
            (JobStatus::Canceled, None, event)
        } else if row.attempt < row.max_attempts {
            let text = "The worker was silent for longer than its lease; the job is tried again";
            let event = NewEvent::new(Level::Warning, "attempt_failed", text);
            (JobStatus::Queued, None, event)
        } else {
            let event = NewEvent::new(Level::Error, "job_failed", problem.detail.clone());
            let error = to_json(&located(&problem, &row.id));
            (JobStatus::Failed, Some(error), event)
        };
        let_go(connection, &row.id, status, row.attempt, error).await?;
        event
            .with_data(json!({"attempt": row.attempt, "max_attempts": row.max_attempts}))
            .insert(connection, &row.id)
            .await?;
        ids.push(row.id);
    }
    Ok(ids)
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests;
