//! Jobs as workers see them: claimed with a lease, reported on, ended.
//!
//! Every report carries the lease, that is the attempt and its owner, and is refused when the job has gone on without
//! them. What may follow what is in [`transition`], and is proved there; here it is read and written. Leases end by the
//! store's own clock, which a change of the machine's does not move.

#[cfg(test)]
mod proof;
pub mod transition;

use std::time::Duration;

use serde_json::json;
use sqlx::SqliteConnection;

use super::artifacts::NewArtifact;
use super::events::{NewEvent, insert_within};
use super::jobs::{Job, JobStatus, select_job};
use super::metrics::NewPoint;
use super::models::{NewModel, insert_model};
use super::{ChangeKind, Store, StoreError, from_word, to_json};
use crate::spec::child::{Level, Progress};
use crate::spec::problem::Problem;
use crate::spec::result::JobResult;
use transition::{End, JobState, Term, broken_rule};

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
        let mut changed = self.end_expired_leases(&mut transaction).await?;
        let next = sqlx::query_scalar!(
            r#"SELECT id as "id!: String" FROM jobs WHERE status = 'queued'
               ORDER BY priority DESC, id ASC LIMIT 1"#
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let mut claimed = None;
        if let Some(id) = next {
            let before = select_state(&mut transaction, &id).await?;
            let before = before.ok_or(sqlx::Error::RowNotFound)?;
            let expires_at = self.clock.now() + milliseconds(lease_time);
            if let Some(after) = before.claimed(owner.to_owned(), expires_at) {
                write_state(&mut transaction, &id, &before, &after, None).await?;
                sqlx::query!(
                    "UPDATE jobs SET
                         started_at = COALESCE(started_at, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
                         last_heartbeat_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
                     WHERE id = ?1",
                    id
                )
                .execute(&mut *transaction)
                .await?;
                NewEvent::new(Level::Info, "job_started", "A worker has taken the job")
                    .with_data(
                        json!({"attempt": after.attempt, "max_attempts": after.max_attempts}),
                    )
                    .insert(&mut transaction, &id)
                    .await?;
                claimed = select_job(&mut transaction, &id).await?;
                fail_point!("claim");
                changed.push(id);
            }
        }
        transaction.commit().await?;
        for id in &changed {
            self.announce(id, ChangeKind::Updated);
        }
        Ok(claimed.map(|job| Claim {
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
        let expires_at = self.clock.now() + milliseconds(lease_time);
        let before = select_state(&mut transaction, &lease.job_id).await?;
        let renewed = before
            .as_ref()
            .and_then(|job| Some((job, job.renewed(lease.attempt, &lease.owner, expires_at)?)));
        let Some((before, after)) = renewed else {
            return Ok(Reported::Refused);
        };
        write_state(&mut transaction, &lease.job_id, before, &after, None).await?;
        let progress = report.progress.as_ref().map(to_json);
        sqlx::query!(
            "UPDATE jobs SET last_heartbeat_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
                 progress = COALESCE(?2, progress)
             WHERE id = ?1",
            lease.job_id,
            progress
        )
        .execute(&mut *transaction)
        .await?;
        let most = self.limits.job_events;
        insert_within(&mut transaction, &lease.job_id, &report.events, most).await?;
        for point in &report.points {
            point.insert(&mut transaction, &lease.job_id).await?;
        }
        fail_point!("report");
        transaction.commit().await?;
        if !report.is_empty() {
            self.announce(&lease.job_id, ChangeKind::Updated);
        }
        Ok(Reported::Taken(after.status))
    }

    /// Publishes a succeeded attempt: files, the new models, the result and the end of the job in
    /// one transaction. A job that was canceled meanwhile becomes canceled instead.
    pub async fn complete_job(
        &self,
        lease: &Lease,
        publication: &Publication,
    ) -> Result<Reported, StoreError> {
        // Before a file is moved: what an attempt made that lost its lease is nobody's.
        let state = select_state(&mut *self.reader.acquire().await?, &lease.job_id).await?;
        let may_publish =
            state.is_some_and(|job| job.completed(lease.attempt, &lease.owner).is_some());
        if may_publish {
            let files: Vec<_> = publication.artifacts.iter().map(|new| &new.file).collect();
            let published = self.with_files(&files, self.publish(lease, publication));
            if let Some(reported) = published.await? {
                return Ok(reported);
            }
            let digests: Vec<_> = files.iter().map(|file| file.digest.clone()).collect();
            self.remove_unreferenced(&digests).await?;
        }
        self.end_attempt(lease, &AttemptEnd::Canceled).await
    }

    /// The transaction of a publication; `None` if the job is no longer the attempt's to complete.
    async fn publish(
        &self,
        lease: &Lease,
        publication: &Publication,
    ) -> Result<Option<Reported>, StoreError> {
        fail_point!("publish");
        let mut transaction = self.begin().await?;
        let before = select_state(&mut transaction, &lease.job_id).await?;
        let completed = before
            .as_ref()
            .and_then(|job| Some((job, job.completed(lease.attempt, &lease.owner)?)));
        let Some((before, after)) = completed else {
            return Ok(None);
        };
        let project = project_of(&mut transaction, &lease.job_id).await?;
        for new_model in &publication.new_models {
            insert_model(&mut transaction, &project, new_model).await?;
        }
        for artifact in &publication.artifacts {
            artifact.insert(&mut transaction, &lease.job_id).await?;
        }
        let result = to_json(&publication.result);
        sqlx::query!(
            "UPDATE jobs SET result = ?2,
                 progress = json_set(progress, '$.fraction', 1.0, '$.eta_seconds', 0.0)
             WHERE id = ?1",
            lease.job_id,
            result
        )
        .execute(&mut *transaction)
        .await?;
        // After the result, which the message to a webhook names.
        write_state(&mut transaction, &lease.job_id, before, &after, None).await?;
        NewEvent::new(Level::Info, "job_succeeded", "The job has succeeded")
            .with_data(json!({"model": publication.result.model}))
            .insert(&mut transaction, &lease.job_id)
            .await?;
        fail_point!("complete");
        transaction.commit().await?;
        fail_point!("completed");
        self.announce(&lease.job_id, ChangeKind::Updated);
        Ok(Some(Reported::Taken(after.status)))
    }

    /// Ends an attempt that did not succeed; tells the status that the job has then.
    pub async fn end_attempt(
        &self,
        lease: &Lease,
        end: &AttemptEnd,
    ) -> Result<Reported, StoreError> {
        let (kind, problem) = match end {
            AttemptEnd::Failed(problem) => (End::Failed, Some(problem)),
            AttemptEnd::Died(problem) => (End::Died, Some(problem)),
            AttemptEnd::Canceled => (End::Canceled, None),
            AttemptEnd::Drained => (End::Drained, None),
        };
        let mut transaction = self.begin().await?;
        let before = select_state(&mut transaction, &lease.job_id).await?;
        let ended = before
            .as_ref()
            .and_then(|job| Some((job, job.ended(lease.attempt, &lease.owner, kind)?)));
        let Some((before, after)) = ended else {
            return Ok(Reported::Refused);
        };
        let event = match (after.status, problem) {
            (JobStatus::Canceled, _) => stopped(),
            (JobStatus::Failed, Some(problem)) => {
                NewEvent::new(Level::Error, "job_failed", problem.detail.clone())
                    .with_data(json!({"code": problem.code}))
            }
            (_, Some(problem)) => {
                NewEvent::new(Level::Warning, "attempt_failed", problem.detail.clone()).with_data(
                    json!({"code": problem.code, "attempt": lease.attempt, "max_attempts": after.max_attempts}),
                )
            }
            (_, None) => {
                let text = "The server stops; the job waits to go on from its last checkpoint";
                NewEvent::new(Level::Info, "drained", text)
            }
        };
        let error = problem.filter(|_| after.status == JobStatus::Failed);
        write_state(&mut transaction, &lease.job_id, before, &after, error).await?;
        event.insert(&mut transaction, &lease.job_id).await?;
        fail_point!("end");
        transaction.commit().await?;
        let change = if after.status == JobStatus::Queued {
            ChangeKind::Queued
        } else {
            ChangeKind::Updated
        };
        self.announce(&lease.job_id, change);
        Ok(Reported::Taken(after.status))
    }

    /// Lets go of the jobs that an earlier server ran when it ended. The lock on the data folder
    /// proves that it is gone, so their leases need not run out, and its end costs them no attempt.
    pub(super) async fn release_orphaned_jobs(&self) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        let mut canceled = Vec::new();
        for id in running(&mut transaction).await? {
            let before = select_state(&mut transaction, &id).await?;
            let released = before.as_ref().and_then(|job| Some((job, job.released()?)));
            let Some((before, after)) = released else {
                continue;
            };
            let event = if after.status == JobStatus::Canceled {
                canceled.push(id.clone());
                stopped()
            } else {
                let text = "The server had ended while the job ran; the job waits to go on from its \
                            last checkpoint";
                NewEvent::new(Level::Warning, "requeued", text)
            };
            write_state(&mut transaction, &id, before, &after, None).await?;
            event
                .with_data(json!({"attempt": before.attempt, "max_attempts": before.max_attempts}))
                .insert(&mut transaction, &id)
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

    /// Takes jobs from workers that have been silent for too long; tells which jobs.
    async fn end_expired_leases(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<String>, StoreError> {
        let problem = Problem::new(
            500,
            "worker_died",
            "the worker was silent for longer than its lease, and no attempt is left",
        );
        let now = self.clock.now();
        let mut ids = Vec::new();
        for id in running(connection).await? {
            let before = select_state(connection, &id).await?;
            let expired = before
                .as_ref()
                .and_then(|job| Some((job, job.expired(now)?)));
            let Some((before, after)) = expired else {
                continue;
            };
            let (error, event) = match after.status {
                JobStatus::Canceled => (None, stopped()),
                JobStatus::Failed => {
                    let event = NewEvent::new(Level::Error, "job_failed", problem.detail.clone());
                    (Some(&problem), event)
                }
                _ => {
                    let text =
                        "The worker was silent for longer than its lease; the job is tried again";
                    (None, NewEvent::new(Level::Warning, "attempt_failed", text))
                }
            };
            write_state(connection, &id, before, &after, error).await?;
            event
                .with_data(json!({"attempt": before.attempt, "max_attempts": before.max_attempts}))
                .insert(connection, &id)
                .await?;
            ids.push(id);
        }
        Ok(ids)
    }
}

fn stopped() -> NewEvent {
    NewEvent::new(Level::Info, "job_canceled", "The job was stopped as asked")
}

/// Ids of the jobs that run, or should have stopped.
async fn running(connection: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let ids = sqlx::query_scalar!(
        r#"SELECT id as "id!: String" FROM jobs WHERE status IN ('running', 'canceling')"#
    )
    .fetch_all(connection)
    .await?;
    Ok(ids)
}

/// What the queue knows of a job.
pub(super) async fn select_state(
    connection: &mut SqliteConnection,
    id: &str,
) -> Result<Option<JobState>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT status as "status!: String", attempt as "attempt!: i64",
                  max_attempts as "max_attempts!: i64", lease_owner as "owner?: String",
                  lease_expires_at as "expires_at?: i64"
           FROM jobs WHERE id = ?1"#,
        id
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(JobState {
            status: from_word(&row.status, "status", id)?,
            attempt: u32::try_from(row.attempt).unwrap_or(0),
            max_attempts: u32::try_from(row.max_attempts).unwrap_or(0),
            lease: row.owner.map(|owner| Term {
                owner,
                expires_at: row.expires_at.unwrap_or(0),
            }),
        })
    })
    .transpose()
}

/// Writes a change of a job that was read in the same transaction.
pub(super) async fn write_state(
    connection: &mut SqliteConnection,
    id: &str,
    before: &JobState,
    after: &JobState,
    error: Option<&Problem>,
) -> Result<(), StoreError> {
    debug_assert_eq!(broken_rule(Some(before), after), None, "job {id}");
    let status = after.status.as_str();
    let attempt = i64::from(after.attempt);
    let owner = after.lease.as_ref().map(|term| &term.owner);
    let expires_at = after.lease.as_ref().map(|term| term.expires_at);
    let ended = after.status.has_ended();
    let error = error.map(|problem| to_json(&located(problem, id)));
    sqlx::query!(
        "UPDATE jobs SET status = ?2, attempt = ?3, lease_owner = ?4, lease_expires_at = ?5, error = ?6,
             finished_at = CASE WHEN ?7 THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now') END
         WHERE id = ?1",
        id,
        status,
        attempt,
        owner,
        expires_at,
        error,
        ended
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn project_of(connection: &mut SqliteConnection, id: &str) -> Result<String, StoreError> {
    let project = sqlx::query_scalar!(
        r#"SELECT project as "project!: String" FROM jobs WHERE id = ?1"#,
        id
    );
    Ok(project.fetch_one(connection).await?)
}

fn located(problem: &Problem, job_id: &str) -> Problem {
    Problem {
        instance: format!("/v1/jobs/{job_id}"),
        ..problem.clone()
    }
}

fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests;
