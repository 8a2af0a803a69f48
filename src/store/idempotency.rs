//! First answers, kept for requests that come again with the same `Idempotency-Key`.

use sqlx::SqliteConnection;

use super::{Store, StoreError};

/// A key as one request used it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    pub project: String,
    pub key: String,
    /// Keys of different routes are different keys.
    pub route: String,
    /// Digest of everything that the request says.
    pub fingerprint: String,
}

/// An answer as it was first given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub location: String,
    /// JSON.
    pub body: String,
}

/// A kept answer and what the request was that got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    pub fingerprint: String,
    pub answer: Answer,
}

/// Asks a creation to keep the answer to it in the same transaction.
#[derive(Debug, Clone, Copy)]
pub struct Keep<'a, Row> {
    pub key: &'a IdempotencyKey,
    pub render: fn(&Row) -> Answer,
}

impl<Row> Keep<'_, Row> {
    pub(super) async fn insert(
        &self,
        connection: &mut SqliteConnection,
        row: &Row,
    ) -> Result<(), StoreError> {
        let answer = (self.render)(row);
        let status = i64::from(answer.status);
        let IdempotencyKey {
            project,
            key,
            route,
            fingerprint,
        } = self.key;
        sqlx::query!(
            "INSERT INTO kept_answers (project, key, route, fingerprint, status, location, body)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            project,
            key,
            route,
            fingerprint,
            status,
            answer.location,
            answer.body
        )
        .execute(&mut *connection)
        .await?;
        sqlx::query!(
            "DELETE FROM kept_answers
             WHERE created_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-7 days')"
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

impl Store {
    /// The answer that was first given to this key on this route; answers are kept for a week.
    pub async fn kept_answer(
        &self,
        key: &IdempotencyKey,
    ) -> Result<Option<KeptAnswer>, StoreError> {
        select_kept(&mut *self.reader.acquire().await?, key).await
    }
}

pub(super) async fn select_kept(
    connection: &mut SqliteConnection,
    key: &IdempotencyKey,
) -> Result<Option<KeptAnswer>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT fingerprint as "fingerprint!: String", status as "status!: i64",
                  location as "location!: String", body as "body!: String"
           FROM kept_answers WHERE project = ?1 AND key = ?2 AND route = ?3"#,
        key.project,
        key.key,
        key.route
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| KeptAnswer {
        fingerprint: row.fingerprint,
        answer: Answer {
            status: u16::try_from(row.status).unwrap_or(200),
            location: row.location,
            body: row.body,
        },
    }))
}
