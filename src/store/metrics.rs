//! Curves that jobs say while they run.

use sqlx::SqliteConnection;

use super::{Store, StoreError, to_i64, to_u64};

/// A point of a curve on its way in.
#[derive(Debug, Clone, PartialEq)]
pub struct NewPoint {
    pub name: String,
    pub step: u64,
    pub value: f64,
}

/// A point of a curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub name: String,
    pub step: u64,
    pub value: f64,
    pub at: String,
}

impl NewPoint {
    /// A point that a resumed job says again replaces the one from before.
    pub(super) async fn insert(
        &self,
        connection: &mut SqliteConnection,
        job_id: &str,
    ) -> Result<(), StoreError> {
        if !self.value.is_finite() {
            return Ok(());
        }
        let step = to_i64(self.step);
        sqlx::query!(
            "INSERT INTO metrics (job_id, name, step, value) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (job_id, name, step) DO UPDATE SET value = excluded.value",
            job_id,
            self.name,
            step,
            self.value
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

impl Store {
    /// All points of a job, by name and then by step.
    pub async fn metrics(&self, job_id: &str) -> Result<Vec<Point>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT name as "name!: String", step as "step!: i64", value as "value!: f64",
                      at as "at!: String"
               FROM metrics WHERE job_id = ?1 ORDER BY name, step"#,
            job_id
        )
        .fetch_all(&self.reader)
        .await?;
        let points = rows.into_iter().map(|row| Point {
            name: row.name,
            step: to_u64(row.step),
            value: row.value,
            at: row.at,
        });
        Ok(points.collect())
    }
}
