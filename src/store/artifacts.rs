//! Files that succeeded jobs leave.

use sqlx::SqliteConnection;

use super::{StagedBlob, Store, StoreError, to_i64, to_u64};

/// A file of a job; it never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    pub name: String,
    pub media_type: String,
    pub size_bytes: u64,
    /// Hex SHA-256.
    pub digest: String,
}

/// A file of a job on its way in; it is among the blobs already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewArtifact {
    pub name: String,
    pub media_type: String,
    pub file: StagedBlob,
}

impl NewArtifact {
    pub(super) async fn insert(
        &self,
        connection: &mut SqliteConnection,
        job_id: &str,
    ) -> Result<(), StoreError> {
        let size_bytes = to_i64(self.file.size_bytes);
        sqlx::query!(
            "INSERT INTO artifacts (job_id, name, media_type, size_bytes, digest)
             VALUES (?1, ?2, ?3, ?4, ?5)",
            job_id,
            self.name,
            self.media_type,
            size_bytes,
            self.file.digest
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

impl Store {
    /// The files of a job, by name.
    pub async fn artifacts(&self, job_id: &str) -> Result<Vec<Artifact>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT name as "name!: String", media_type as "media_type!: String",
                      size_bytes as "size_bytes!: i64", digest as "digest!: String"
               FROM artifacts WHERE job_id = ?1 ORDER BY name"#,
            job_id
        )
        .fetch_all(&self.reader)
        .await?;
        let artifacts = rows.into_iter().map(|row| Artifact {
            name: row.name,
            media_type: row.media_type,
            size_bytes: to_u64(row.size_bytes),
            digest: row.digest,
        });
        Ok(artifacts.collect())
    }
}
