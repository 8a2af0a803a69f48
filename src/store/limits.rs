//! How much the store takes in, and the errors of what is beyond.

use super::{Store, StoreError, to_u64};

/// What the store is allowed to hold. 0 is no limit, but of the space that is kept free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Jobs of a project that wait.
    pub queued_jobs: u64,
    /// Bytes of a project's models, data sets and artifacts.
    pub project_bytes: u64,
    /// Events of a job.
    pub job_events: u64,
    /// Bytes of the disk that are kept free: nothing new is taken in when there are fewer, and running jobs finish.
    pub free_bytes: u64,
}

impl Limits {
    pub const DEFAULT: Self = Self {
        queued_jobs: 100_000,
        project_bytes: 0,
        job_events: 10_000,
        free_bytes: 256 << 20,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Store {
    /// Whether a project may hold so many bytes more.
    pub async fn check_quota(&self, project: &str, more: u64) -> Result<(), StoreError> {
        let limit = self.limits.project_bytes;
        if limit == 0 {
            return Ok(());
        }
        let held = sqlx::query_scalar!(
            r#"SELECT (SELECT COALESCE(SUM(size_bytes), 0) FROM models WHERE project = ?1)
                    + (SELECT COALESCE(SUM(size_bytes), 0) FROM datasets WHERE project = ?1)
                    + (SELECT COALESCE(SUM(artifacts.size_bytes), 0) FROM artifacts
                       JOIN jobs ON jobs.id = artifacts.job_id WHERE jobs.project = ?1)
                 as "held!: i64""#,
            project
        )
        .fetch_one(&self.reader)
        .await?;
        let arriving = self.partial_bytes(project).await?;
        let bytes = to_u64(held).saturating_add(arriving).saturating_add(more);
        if bytes <= limit {
            return Ok(());
        }
        Err(StoreError::QuotaExceeded {
            project: project.to_owned(),
            bytes,
            limit,
        })
    }

    /// Bytes that the disk of the data folder has left.
    pub fn free_bytes(&self) -> Result<u64, StoreError> {
        free_bytes(&self.data_dir)
    }

    /// Whether the disk has room for something new of so many bytes.
    pub fn check_disk(&self, more: u64) -> Result<(), StoreError> {
        let free = free_bytes(&self.data_dir)?;
        let limit = self.limits.free_bytes;
        if free.saturating_sub(more) >= limit {
            return Ok(());
        }
        Err(StoreError::DiskFull { free, limit })
    }
}

/// What is received between two looks at the disk and the quota: nobody has to announce how long an upload will be.
pub const LOOK_AFTER_BYTES: u64 = 16 << 20;

#[cfg(target_os = "linux")]
fn free_bytes(folder: &std::path::Path) -> Result<u64, StoreError> {
    let found = rustix::fs::statvfs(folder)
        .map_err(|error| StoreError::file("ask for the free space of", folder)(error.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(not(target_os = "linux"))]
fn free_bytes(_folder: &std::path::Path) -> Result<u64, StoreError> {
    Ok(u64::MAX)
}
