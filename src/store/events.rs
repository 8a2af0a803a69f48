//! What happened in a job, in order.

use serde_json::Value;
use sqlx::SqliteConnection;

use super::{Store, StoreError, from_json, from_word, to_json};
use crate::spec::child::Level;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Grows from event to event.
    pub id: i64,
    pub at: String,
    pub level: Level,
    pub kind: String,
    pub message: String,
    pub data: Value,
}

/// An event on its way in.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    pub level: Level,
    pub kind: String,
    pub message: String,
    pub data: Value,
}

impl NewEvent {
    pub fn new(level: Level, kind: &str, message: impl Into<String>) -> Self {
        Self {
            level,
            kind: kind.to_owned(),
            message: message.into(),
            data: Value::Null,
        }
    }

    pub fn with_data(mut self, data: Value) -> Self {
        self.data = data;
        self
    }

    pub(super) async fn insert(
        &self,
        connection: &mut SqliteConnection,
        job_id: &str,
    ) -> Result<(), StoreError> {
        let level = match self.level {
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let data = to_json(&self.data);
        sqlx::query!(
            "INSERT INTO events (job_id, level, type, message, data)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            job_id,
            level,
            self.kind,
            self.message,
            data
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Inserts events while the job has fewer than `most`; the first that finds no room is replaced by a warning, and how
/// the job ends is always written.
pub(super) async fn insert_within(
    connection: &mut SqliteConnection,
    job_id: &str,
    events: &[NewEvent],
    most: u64,
) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    let present = sqlx::query_scalar!(
        r#"SELECT COUNT(*) as "present!: i64" FROM events WHERE job_id = ?1"#,
        job_id
    )
    .fetch_one(&mut *connection)
    .await?;
    for (place, event) in (super::to_u64(present) + 1..).zip(events) {
        if place < most {
            event.insert(connection, job_id).await?;
        } else if place == most {
            let text = "The job has said as much as the server keeps; what follows is left out";
            NewEvent::new(Level::Warning, "events_left_out", text)
                .with_data(serde_json::json!({"most": most}))
                .insert(connection, job_id)
                .await?;
        } else {
            break;
        }
    }
    Ok(())
}

impl Store {
    /// At most `limit` events of a job that came after the event `after`, the oldest first.
    pub async fn events(
        &self,
        job_id: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<Event>, StoreError> {
        let limit = i64::from(limit);
        let rows = sqlx::query!(
            r#"SELECT id as "id!: i64", at as "at!: String", level as "level!: String",
                      type as "kind!: String", message as "message!: String",
                      data as "data!: String"
               FROM events WHERE job_id = ?1 AND id > ?2 ORDER BY id LIMIT ?3"#,
            job_id,
            after,
            limit
        )
        .fetch_all(&self.reader)
        .await?;
        rows.into_iter()
            .map(|row| {
                Ok(Event {
                    level: from_word(&row.level, "level", job_id)?,
                    data: from_json(&row.data, "data", job_id)?,
                    id: row.id,
                    at: row.at,
                    kind: row.kind,
                    message: row.message,
                })
            })
            .collect()
    }
}
