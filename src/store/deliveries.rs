//! Webhooks: what their messages are signed with, and messages on their way. A trigger of the database makes the messages,
//! in the commit of the change that they tell of.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngExt as _;
use serde::Serialize;
use serde_json::json;
use sqlx::SqliteConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::events::NewEvent;
use super::{Scope, Store, StoreError, from_word, to_json, to_u64};
use crate::spec::child::Level;

/// What is being sent.
#[derive(Debug, Default)]
pub struct Busy {
    /// Of webhooks; one message at a time goes to each.
    urls: HashSet<String>,
    /// How many webhooks of each project are told.
    projects: HashMap<String, usize>,
    exports: usize,
}

impl Busy {
    pub fn insert(&mut self, due: &DueDelivery) {
        match due.target {
            Target::Webhook => {
                self.urls.insert(due.url.clone());
                *self.projects.entry(due.project.clone()).or_default() += 1;
            }
            Target::Mlflow => self.exports += 1,
        }
    }

    pub fn remove(&mut self, due: &DueDelivery) {
        match due.target {
            Target::Webhook => {
                self.urls.remove(&due.url);
                if let Some(count) = self.projects.get_mut(&due.project) {
                    *count = count.saturating_sub(1);
                }
            }
            Target::Mlflow => self.exports = self.exports.saturating_sub(1),
        }
    }

    pub fn count(&self, target: Target) -> usize {
        match target {
            Target::Webhook => self.urls.len(),
            Target::Mlflow => self.exports,
        }
    }

    /// URLs that are told now, and projects of which `most` are: JSON lists for SQL.
    fn lists(&self, most: usize) -> (String, String) {
        let full = self.projects.iter().filter(|project| *project.1 >= most);
        let full: Vec<&String> = full.map(|(project, _)| project).collect();
        (to_json(&self.urls), to_json(&full))
    }
}

/// Messages of one project that are sent at the same time.
const OF_A_PROJECT: usize = 4;

/// A URL that messages go to, and the secret that they are signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookRow {
    pub id: String,
    pub project: String,
    pub url: String,
    /// `whsec_` and 32 bytes in Base64.
    pub secret: String,
    pub created_at: String,
}

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    Webhook,
    Mlflow,
}

impl Target {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Mlflow => "mlflow",
        }
    }
}

/// How far a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    Pending,
    Sending,
    Delivered,
    /// Given up.
    Failed,
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub id: String,
    pub target: Target,
    /// Empty for MLflow.
    pub url: String,
    pub event: String,
    pub status: DeliveryStatus,
    pub attempts: u64,
    /// Until the next try; of a pending message only.
    pub next_attempt_in: Option<Duration>,
    pub response_status: Option<u16>,
    pub last_error: Option<String>,
    pub created_at: String,
    pub delivered_at: Option<String>,
}

/// A message to be sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueDelivery {
    pub id: String,
    pub job_id: String,
    pub project: String,
    pub target: Target,
    pub url: String,
    pub event: String,
    pub body: String,
    /// With this one.
    pub attempts: u64,
    /// What it is signed with; empty for MLflow.
    pub secret: String,
    /// The W3C trace context of the job's submission.
    pub traceparent: Option<String>,
}

/// What a receiver said.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Response {
    pub status: Option<u16>,
    /// `None` if the message was taken.
    pub error: Option<String>,
    /// Whether another try would be in vain.
    pub is_final: bool,
    /// When it wants to be asked again at the earliest.
    pub retry_after: Option<Duration>,
    /// What the job's events say of it.
    pub note: Option<NewEvent>,
}

impl Response {
    /// There was no answer.
    pub fn failed(error: String) -> Self {
        Self {
            error: Some(error),
            ..Self::default()
        }
    }

    pub fn accepted(&self) -> bool {
        self.error.is_none()
    }
}

fn new_secret() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    format!("whsec_{}", STANDARD.encode(bytes))
}

/// The webhook of a project with this URL, made if it is not there; tells whether it was made.
pub(super) async fn ensure_webhook(
    connection: &mut SqliteConnection,
    project: &str,
    url: &str,
) -> Result<(WebhookRow, bool), StoreError> {
    let (id, secret) = (Uuid::now_v7().to_string(), new_secret());
    let made = sqlx::query!(
        "INSERT INTO webhooks (id, project, url, secret) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (project, url) DO NOTHING",
        id,
        project,
        url,
        secret
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    let row = sqlx::query_as!(
        WebhookRow,
        r#"SELECT id as "id!: String", project as "project!: String", url as "url!: String",
                  secret as "secret!: String", created_at as "created_at!: String"
           FROM webhooks WHERE project = ?1 AND url = ?2"#,
        project,
        url
    )
    .fetch_one(connection)
    .await?;
    Ok((row, made > 0))
}

impl Store {
    /// The webhook of a project with this URL, made if it is not there; tells whether it was made.
    pub async fn ensure_webhook(
        &self,
        project: &str,
        url: &str,
    ) -> Result<(WebhookRow, bool), StoreError> {
        ensure_webhook(&mut *self.writer.acquire().await?, project, url).await
    }

    /// Webhooks, the oldest first.
    pub async fn webhooks(&self, scope: &Scope) -> Result<Vec<WebhookRow>, StoreError> {
        let project = scope.project();
        let rows = sqlx::query_as!(
            WebhookRow,
            r#"SELECT id as "id!: String", project as "project!: String", url as "url!: String",
                      secret as "secret!: String", created_at as "created_at!: String"
               FROM webhooks WHERE ?1 IS NULL OR project = ?1 ORDER BY id"#,
            project
        );
        Ok(rows.fetch_all(&self.reader).await?)
    }

    /// Forgets a webhook and its secret; the next message to its URL makes a new one. `false` if there is none.
    pub async fn delete_webhook(&self, scope: &Scope, id: &str) -> Result<bool, StoreError> {
        let project = scope.project();
        let deleted = sqlx::query!(
            "DELETE FROM webhooks WHERE id = ?1 AND (?2 IS NULL OR project = ?2)",
            id,
            project
        );
        Ok(deleted.execute(&self.writer).await?.rows_affected() > 0)
    }

    /// Makes those messages due that an earlier server was sending when it ended.
    pub(super) async fn release_deliveries(&self) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE deliveries SET status = 'pending', next_attempt_at = 0 WHERE status = 'sending'"
        )
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Messages of a job, the oldest first.
    pub async fn deliveries(&self, job_id: &str) -> Result<Vec<Delivery>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id as "id!: String", target as "target!: String", url as "url!: String",
                      event as "event!: String", status as "status!: String", attempts as "attempts!: i64",
                      next_attempt_at as "next_attempt_at!: i64",
                      response_status as "response_status?: u16", last_error as "last_error?: String",
                      created_at as "created_at!: String", delivered_at as "delivered_at?: String"
               FROM deliveries WHERE job_id = ?1 ORDER BY created_at, rowid"#,
            job_id
        )
        .fetch_all(&self.reader)
        .await?;
        let now = self.clock.now();
        rows.into_iter()
            .map(|row| {
                let status = from_word(&row.status, "status", &row.id)?;
                let wait = Duration::from_millis(to_u64(row.next_attempt_at.saturating_sub(now)));
                Ok(Delivery {
                    status,
                    target: from_word(&row.target, "target", &row.id)?,
                    next_attempt_in: (status == DeliveryStatus::Pending).then_some(wait),
                    id: row.id,
                    url: row.url,
                    event: row.event,
                    attempts: to_u64(row.attempts),
                    response_status: row.response_status,
                    last_error: row.last_error,
                    created_at: row.created_at,
                    delivered_at: row.delivered_at,
                })
            })
            .collect()
    }

    /// Makes a message due now, with all its tries before it; `false` if the job has none with this id.
    pub async fn resend_delivery(&self, job_id: &str, id: &str) -> Result<bool, StoreError> {
        let changed = sqlx::query!(
            "UPDATE deliveries SET status = 'pending', attempts = 0, next_attempt_at = 0, delivered_at = NULL
             WHERE id = ?1 AND job_id = ?2",
            id,
            job_id
        )
        .execute(&self.writer)
        .await?
        .rows_affected();
        if changed > 0 {
            self.announce(job_id, super::ChangeKind::Updated);
        }
        Ok(changed > 0)
    }

    /// How long until a message to a target is due that need not wait for the busy ones; `None` if none waits.
    pub async fn next_delivery(
        &self,
        target: Target,
        busy: &Busy,
    ) -> Result<Option<Duration>, StoreError> {
        let (target, (urls, projects)) = (target.as_str(), busy.lists(OF_A_PROJECT));
        let next = sqlx::query_scalar!(
            r#"SELECT next_attempt_at as "at!: i64" FROM deliveries
               WHERE target = ?1 AND status = 'pending' AND url NOT IN (SELECT value FROM json_each(?2))
                 AND project NOT IN (SELECT value FROM json_each(?3))
               ORDER BY next_attempt_at LIMIT 1"#,
            target,
            urls,
            projects
        )
        .fetch_optional(&self.reader)
        .await?;
        let now = self.clock.now();
        Ok(next.map(|at| Duration::from_millis(to_u64(at.saturating_sub(now)))))
    }

    /// Takes the message to a target that has been due the longest, of those that need not wait for the busy ones.
    pub async fn take_delivery(
        &self,
        target: Target,
        busy: &Busy,
    ) -> Result<Option<DueDelivery>, StoreError> {
        let (word, (urls, projects)) = (target.as_str(), busy.lists(OF_A_PROJECT));
        let now = self.clock.now();
        let mut transaction = self.begin().await?;
        let taken = sqlx::query!(
            r#"UPDATE deliveries SET status = 'sending', attempts = attempts + 1
               WHERE id = (SELECT id FROM deliveries
                           WHERE target = ?1 AND status = 'pending' AND next_attempt_at <= ?4
                             AND url NOT IN (SELECT value FROM json_each(?2))
                             AND project NOT IN (SELECT value FROM json_each(?3))
                           ORDER BY next_attempt_at LIMIT 1)
               RETURNING id as "id!: String", job_id as "job_id!: String", project as "project!: String",
                         url as "url!: String", event as "event!: String", body as "body!: String",
                         attempts as "attempts!: i64",
                         (SELECT traceparent FROM jobs WHERE jobs.id = job_id) as "traceparent?: String""#,
            word,
            urls,
            projects,
            now
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(row) = taken else {
            return Ok(None);
        };
        let secret = match target {
            Target::Webhook => {
                let (webhook, _) = ensure_webhook(&mut transaction, &row.project, &row.url).await?;
                webhook.secret
            }
            Target::Mlflow => String::new(),
        };
        transaction.commit().await?;
        fail_point!("delivery_taken");
        Ok(Some(DueDelivery {
            id: row.id,
            job_id: row.job_id,
            project: row.project,
            target,
            url: row.url,
            event: row.event,
            body: row.body,
            attempts: to_u64(row.attempts),
            secret,
            traceparent: row.traceparent,
        }))
    }

    /// Notes what a receiver said. A message that was not taken is due again after `wait`; without one it is given up, and
    /// the job's events say so.
    pub async fn end_delivery(
        &self,
        due: &DueDelivery,
        response: &Response,
        wait: Option<Duration>,
    ) -> Result<(), StoreError> {
        fail_point!("delivery_sent");
        let status = match (response.accepted(), wait) {
            (true, _) => "delivered",
            (false, Some(_)) => "pending",
            (false, None) => "failed",
        };
        let wait = i64::try_from(wait.unwrap_or_default().as_millis()).unwrap_or(i64::MAX / 2);
        let next_attempt_at = self.clock.now().saturating_add(wait);
        // One that was meanwhile asked for anew is sent anew.
        let attempts = super::to_i64(due.attempts);
        let mut transaction = self.begin().await?;
        let changed = sqlx::query!(
            "UPDATE deliveries SET status = ?2, next_attempt_at = ?3, response_status = ?4, last_error = ?5,
                 delivered_at = CASE ?2 WHEN 'delivered' THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now') END
             WHERE id = ?1 AND status = 'sending' AND attempts = ?6",
            due.id,
            status,
            next_attempt_at,
            response.status,
            response.error,
            attempts
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        let failed = (status == "failed").then(|| {
            let target = due.target.as_str();
            let text = format!("The {target} did not take `{}`, and is asked no more", due.event);
            NewEvent::new(Level::Warning, &format!("{target}_failed"), text).with_data(json!({
                "delivery": due.id, "attempts": due.attempts, "status": response.status, "error": response.error}))
        });
        let note = failed.or_else(|| response.note.clone());
        if let Some(note) = note.filter(|_| changed > 0) {
            note.insert(&mut transaction, &due.job_id).await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
