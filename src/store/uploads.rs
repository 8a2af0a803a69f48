//! Uploads that come in pieces: a row, and a file that grows.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use sqlx::SqliteConnection;
use utoipa::ToSchema;
use uuid::Uuid;

use super::blobs::sync;
use super::{Scope, Store, StoreError, from_word, to_i64, to_u64};

/// What an upload becomes when it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UploadTarget {
    Models,
    Datasets,
}

impl UploadTarget {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Models => "models",
            Self::Datasets => "datasets",
        }
    }
}

/// An upload that is not whole yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartialUpload {
    pub id: String,
    pub project: String,
    pub target: UploadTarget,
    /// The query string that it began with.
    pub query: String,
    /// Bytes of the whole, if they were announced.
    pub length: Option<u64>,
    /// Bytes so far.
    pub offset: u64,
    /// Where these are.
    pub path: PathBuf,
}

impl Store {
    fn upload_path(&self, id: &str) -> PathBuf {
        self.data_dir.join("uploads").join(id)
    }

    /// Begins an upload without a byte.
    pub async fn begin_upload(
        &self,
        project: &str,
        target: UploadTarget,
        query: &str,
        length: Option<u64>,
    ) -> Result<PartialUpload, StoreError> {
        let id = Uuid::now_v7().to_string();
        let path = self.upload_path(&id);
        tokio::fs::File::create_new(&path)
            .await
            .map_err(StoreError::file("make", &path))?;
        let target_word = target.as_str();
        let length_number = length.map(to_i64);
        sqlx::query!(
            "INSERT INTO uploads (id, project, target, query, length) VALUES (?1, ?2, ?3, ?4, ?5)",
            id,
            project,
            target_word,
            query,
            length_number
        )
        .execute(&self.writer)
        .await?;
        Ok(PartialUpload {
            id,
            project: project.to_owned(),
            target,
            query: query.to_owned(),
            length,
            offset: 0,
            path,
        })
    }

    /// An upload as it is now.
    pub async fn partial_upload(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<Option<PartialUpload>, StoreError> {
        let row = sqlx::query!(
            r#"SELECT project as "project!: String", target as "target!: String",
                      query as "query!: String", length as "length?: i64"
               FROM uploads WHERE id = ?1"#,
            id
        )
        .fetch_optional(&self.reader)
        .await?;
        let Some(row) = row.filter(|row| scope.sees(&row.project)) else {
            return Ok(None);
        };
        let path = self.upload_path(id);
        let offset = match tokio::fs::metadata(&path).await {
            Ok(found) => found.len(),
            // It is being removed, of which the bytes go first.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::file("look at", &path)(error)),
        };
        Ok(Some(PartialUpload {
            id: id.to_owned(),
            project: row.project,
            target: from_word(&row.target, "target", id)?,
            query: row.query,
            length: row.length.map(to_u64),
            offset,
            path,
        }))
    }

    /// Bytes of a project's uploads that are not whole yet. Those of one that is being finished are counted as what it
    /// becomes.
    pub(super) async fn partial_bytes(&self, project: &str) -> Result<u64, StoreError> {
        let ids = sqlx::query_scalar!(
            r#"SELECT id as "id!: String" FROM uploads WHERE project = ?1"#,
            project
        )
        .fetch_all(&self.reader)
        .await?;
        let sizes = ids
            .iter()
            .filter_map(|id| std::fs::metadata(self.upload_path(id)).ok())
            .filter(|found| !has_other_name(found));
        Ok(sizes.map(|found| found.len()).sum())
    }

    /// Makes sure that an upload's bytes are its own: a server that ended while it finished one may have left a stored
    /// file under both names.
    pub async fn own_bytes(&self, upload: &PartialUpload) -> Result<(), StoreError> {
        let path = &upload.path;
        let found = tokio::fs::metadata(path).await;
        if has_other_name(&found.map_err(StoreError::file("look at", path))?) {
            let copy = path.with_extension("copy");
            let copied = async {
                tokio::fs::copy(path, &copy).await?;
                tokio::fs::rename(&copy, path).await
            };
            copied.await.map_err(StoreError::file("copy", path))?;
        }
        Ok(())
    }

    /// Brings a file to the disk.
    pub async fn sync(&self, path: &Path) -> Result<(), StoreError> {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || sync(&path)).await?
    }

    /// Notes that an upload goes on, and how long it will be if that is known now.
    pub async fn touch_upload(&self, id: &str, length: Option<u64>) -> Result<(), StoreError> {
        let length = length.map(to_i64);
        sqlx::query!(
            "UPDATE uploads SET touched_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
                 length = COALESCE(?2, length)
             WHERE id = ?1",
            id,
            length
        )
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Removes an upload and its bytes, if they were not moved; the bytes first, so that a full disk has room for the rest.
    pub async fn remove_upload(&self, id: &str) -> Result<(), StoreError> {
        self.remove_upload_file(id).await?;
        sqlx::query!("DELETE FROM uploads WHERE id = ?1", id)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    async fn remove_upload_file(&self, id: &str) -> Result<(), StoreError> {
        let path = self.upload_path(id);
        match tokio::fs::remove_file(&path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::file("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes uploads that nobody went on with for so long; tells how many.
    pub async fn expire_uploads(&self, after: Duration) -> Result<usize, StoreError> {
        let since = format!("-{} seconds", after.as_secs());
        let expired = sqlx::query_scalar!(
            r#"SELECT id as "id!: String" FROM uploads
               WHERE touched_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?1)"#,
            since
        )
        .fetch_all(&self.reader)
        .await?;
        for id in &expired {
            self.remove_upload(id).await?;
        }
        Ok(expired.len())
    }

    /// Removes files without a row and rows without a file, which a crash leaves.
    pub(super) async fn remove_orphaned_uploads(&self) -> Result<(), StoreError> {
        let mut connection = self.writer.acquire().await?;
        let rows = upload_ids(&mut connection).await?;
        drop(connection);
        let folder = self.data_dir.join("uploads");
        let mut files = HashSet::new();
        let entries = std::fs::read_dir(&folder).map_err(StoreError::file("list", &folder))?;
        for entry in entries {
            let entry = entry.map_err(StoreError::file("list", &folder))?;
            files.insert(entry.file_name().to_string_lossy().into_owned());
        }
        for id in rows.symmetric_difference(&files) {
            self.remove_upload(id).await?;
        }
        Ok(())
    }
}

/// Whether a file has a second name, as while an upload is being finished.
#[cfg(unix)]
fn has_other_name(file: &std::fs::Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(file) > 1
}

#[cfg(not(unix))]
fn has_other_name(_file: &std::fs::Metadata) -> bool {
    false
}

async fn upload_ids(connection: &mut SqliteConnection) -> Result<HashSet<String>, StoreError> {
    let ids = sqlx::query_scalar!(r#"SELECT id as "id!: String" FROM uploads"#)
        .fetch_all(connection)
        .await?;
    Ok(ids.into_iter().collect())
}
