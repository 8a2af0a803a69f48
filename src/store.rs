//! Everything durable: an SQLite database, content-addressed files, and the folders of jobs.
//!
//! One server at a time uses a data folder. All writes go through one connection, each write
//! transaction starts with `BEGIN IMMEDIATE`, and a change that others may wait for is announced
//! on a channel after its commit.

/// A named place where a test makes a step fail (`FAILPOINTS=NAME=return`), wait (`NAME=sleep(MS)`) or kill the process
/// (`SINTER_CRASH_AT=NAME`); nothing unless the feature `failpoints` is on.
macro_rules! fail_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| Err(crate::store::StoreError::NotCommitted(
            concat!("the failpoint ", $name).to_owned()
        )))
    };
}

pub mod artifacts;
pub mod blobs;
pub mod datasets;
pub mod deliveries;
pub mod events;
pub mod idempotency;
pub mod jobs;
pub mod keys;
pub mod limits;
pub mod maintenance;
pub mod metrics;
pub mod models;
pub mod queue;
pub mod uploads;

use std::collections::HashSet;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Sqlite, Transaction};
use tokio::sync::broadcast;
use uuid::Uuid;

use self::blobs::{Arrivals, Blobs};
use self::keys::Pepper;
use self::limits::Limits;

/// How many changes a slow listener may be behind before it has to look for itself.
const CHANGES_KEPT: usize = 1024;

/// Connections for reading.
pub const READERS: u32 = 4;

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    #[error("the database can't be brought to this version: {0}")]
    Migration(sqlx::migrate::MigrateError),
    #[error(
        "the data folder was written by a newer sinter (its schema has step {0}, which this one does not know); run that \
         version, or restore a backup that was made before the upgrade"
    )]
    Newer(i64),
    #[error("can't {action} `{path}`: {source}")]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the data folder `{0}` is in use by another sinter server")]
    InUse(PathBuf),
    #[error("the column {column} of `{id}` can't be read: {source}")]
    Corrupt {
        column: &'static str,
        id: String,
        source: serde_json::Error,
    },
    #[error("a commit failed: {0}")]
    NotCommitted(String),
    #[error("the project `{0}` has as many jobs waiting as it may")]
    QueueFull(String),
    #[error("the project `{project}` would hold {bytes} bytes, more than the {limit} that it may")]
    QuotaExceeded {
        project: String,
        bytes: u64,
        limit: u64,
    },
    #[error("the disk has {free} bytes left, less than the {limit} that are kept free")]
    DiskFull { free: u64, limit: u64 },
    #[error("a background task of the store ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl StoreError {
    /// Whether the disk had no room.
    pub fn is_out_of_space(&self) -> bool {
        // https://sqlite.org/rescode.html#full
        const SQLITE_FULL: &str = "13";
        match self {
            Self::File { source, .. } => source.kind() == std::io::ErrorKind::StorageFull,
            Self::Database(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code == SQLITE_FULL)
            }
            _ => false,
        }
    }

    pub(crate) fn file(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> StoreError + use<> {
        let path = path.to_owned();
        move |source| StoreError::File {
            action,
            path,
            source,
        }
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            sqlx::migrate::MigrateError::VersionMissing(version) => Self::Newer(version),
            other => Self::Migration(other),
        }
    }
}

/// Whose objects a caller sees and changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Those of all projects.
    All,
    Project(String),
}

impl Scope {
    /// Whether objects of this project are there for the caller.
    pub fn sees(&self, project: &str) -> bool {
        match self {
            Self::All => true,
            Self::Project(own) => own == project,
        }
    }

    /// For SQL, where NULL is all.
    fn project(&self) -> Option<&str> {
        match self {
            Self::All => None,
            Self::Project(own) => Some(own),
        }
    }
}

/// The file of the database in the data folder.
pub const DATABASE: &str = "sinter.sqlite";

/// The project of those who name none.
pub const DEFAULT_PROJECT: &str = "default";

/// Milliseconds since the Unix epoch, as the machine had it when this was made, counted on by a clock that nobody sets:
/// a lease neither ends nor lasts because the machine's time was changed.
#[derive(Debug)]
struct Clock {
    started: Instant,
    started_at: i64,
}

impl Clock {
    fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            started: Instant::now(),
            started_at: since_epoch.map_or(0, |time| to_i64(time.as_millis() as u64)),
        }
    }

    fn now(&self) -> i64 {
        self.started_at + i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX / 4)
    }
}

/// What happened to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// A new status, new events or new progress.
    Updated,
    /// Someone asked a running job to stop.
    CancelRequested,
    /// A job waits to be claimed.
    Queued,
}

/// A committed change of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobChange {
    pub job_id: String,
    pub kind: ChangeKind,
}

/// The open data folder.
#[derive(Debug)]
pub struct Store {
    data_dir: PathBuf,
    reader: SqlitePool,
    writer: SqlitePool,
    blobs: Blobs,
    arrivals: Mutex<Arrivals>,
    changes: broadcast::Sender<JobChange>,
    clock: Clock,
    limits: Limits,
    /// What digests of keys are made with.
    pepper: Pepper,
    /// Submissions on their way to the next commit.
    submissions: jobs::Submissions,
    /// Locked for as long as the store is open.
    _lock: File,
}

impl Store {
    /// Opens the data folder, or makes it; what a crash left over is removed, and the jobs that ran
    /// then are let go.
    pub async fn open(data_dir: &Path) -> Result<Self, StoreError> {
        Self::open_within(data_dir, Limits::default()).await
    }

    /// The same, with limits of its own.
    pub async fn open_within(data_dir: &Path, limits: Limits) -> Result<Self, StoreError> {
        create_private_folder(data_dir)?;
        let data_dir = std::fs::canonicalize(data_dir)
            .map_err(StoreError::file("find the folder", data_dir))?;
        let lock = lock_folder(&data_dir)?;
        let staging = data_dir.join("staging");
        if staging.exists() {
            std::fs::remove_dir_all(&staging)
                .map_err(StoreError::file("remove the folder", &staging))?;
        }
        for folder in ["staging", "blobs", "jobs", "uploads"] {
            create_folder(&data_dir.join(folder))?;
        }
        let options = connect_options(&data_dir).create_if_missing(true);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(options.clone())
            .await?;
        sqlx::migrate!().run(&writer).await?;
        let reader = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(options)
            .await?;
        let blobs = Blobs::new(data_dir.join("blobs"));
        let pepper = Pepper::load(&data_dir)?;
        let (changes, _) = broadcast::channel(CHANGES_KEPT);
        let submissions = jobs::Submissions::start(writer.clone(), changes.clone(), limits);
        let store = Self {
            data_dir,
            reader,
            writer,
            blobs,
            arrivals: Mutex::default(),
            changes,
            clock: Clock::new(),
            limits,
            pepper,
            submissions,
            _lock: lock,
        };
        store.remove_orphaned_blobs().await?;
        store.remove_orphaned_uploads().await?;
        store.release_orphaned_jobs().await?;
        store.release_deliveries().await?;
        store.remove_orphaned_job_folders().await?;
        Ok(store)
    }

    /// The files that rows name by digest.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Committed changes of jobs from now on.
    pub fn changes(&self) -> broadcast::Receiver<JobChange> {
        self.changes.subscribe()
    }

    /// A new empty folder for files on their way in; it goes when the guard does.
    pub fn staging_folder(&self) -> Result<StagingFolder, StoreError> {
        let path = self
            .data_dir
            .join("staging")
            .join(Uuid::now_v7().to_string());
        create_folder(&path)?;
        Ok(StagingFolder { path })
    }

    /// Where folders are made for what is needed for a while; it is emptied when a server starts.
    pub fn staging(&self) -> PathBuf {
        self.data_dir.join("staging")
    }

    /// The folder of a job's checkpoints; it outlives attempts.
    pub fn checkpoint_folder(&self, job_id: &str) -> PathBuf {
        self.job_folder(job_id).join(CHECKPOINT)
    }

    /// The folder that a claim of a job stages its files in; of its own, since a process whose server has just died, or
    /// whose lease was lost, may still write.
    pub fn job_staging_folder(&self, job_id: &str, owner: &str) -> PathBuf {
        self.job_folder(job_id).join(format!("staging-{owner}"))
    }

    fn job_folder(&self, job_id: &str) -> PathBuf {
        self.data_dir.join("jobs").join(job_id)
    }

    /// Removes everything that a job has in its folder.
    pub async fn remove_job_folder(&self, job_id: &str) -> Result<(), StoreError> {
        remove_folder(&self.job_folder(job_id)).await
    }

    /// Removes everything that a job has in its folder but its last checkpoint.
    pub async fn keep_checkpoint(&self, job_id: &str) -> Result<(), StoreError> {
        let folder = self.job_folder(job_id);
        for entry in names(&folder)? {
            if entry != CHECKPOINT {
                remove_folder(&folder.join(entry)).await?;
            }
        }
        remove_unfinished(&self.checkpoint_folder(job_id)).await
    }

    /// Removes the folders of jobs that are gone or need none, which a crash leaves.
    async fn remove_orphaned_job_folders(&self) -> Result<(), StoreError> {
        let needed: HashSet<String> = sqlx::query_scalar!(
            r#"SELECT id as "id!: String" FROM jobs WHERE status <> 'succeeded'"#
        )
        .fetch_all(&self.reader)
        .await?
        .into_iter()
        .collect();
        let folder = self.data_dir.join("jobs");
        for id in names(&folder)? {
            if !needed.contains(&id) {
                remove_folder(&folder.join(id)).await?;
            }
        }
        Ok(())
    }

    /// What is allowed.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Writes a row, to see whether the database takes writes.
    pub async fn probe_write(&self) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO write_probe (id, at) VALUES (1, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
             ON CONFLICT (id) DO UPDATE SET at = excluded.at"
        )
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    fn announce(&self, job_id: &str, kind: ChangeKind) {
        // There may be nobody who listens.
        let _ = self.changes.send(JobChange {
            job_id: job_id.to_owned(),
            kind,
        });
    }
}

/// A folder under `staging` that is removed when this value is dropped.
#[derive(Debug)]
pub struct StagingFolder {
    path: PathBuf,
}

impl StagingFolder {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for StagingFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a staging folder stays behind");
        }
    }
}

/// A finished file outside the blobs, with its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedBlob {
    pub path: PathBuf,
    /// Hex SHA-256.
    pub digest: String,
    pub size_bytes: u64,
}

/// One page of a list, and the id to go on from.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    pub rows: Vec<T>,
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Makes a page of at most `limit` rows out of `limit + 1` that were asked for.
    fn cut(mut rows: Vec<T>, limit: u32, id: impl Fn(&T) -> String) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = if more { rows.last().map(id) } else { None };
        Self { rows, next }
    }
}

/// Which models or data sets are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ItemFilter {
    pub name: Option<String>,
    /// Hex SHA-256.
    pub digest: Option<String>,
}

/// What is asked of a list that goes from the newest to the oldest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageRequest {
    pub limit: u32,
    /// The last id of the page before.
    pub after: Option<String>,
}

/// A job's folder for what a later attempt goes on from.
const CHECKPOINT: &str = "checkpoint";

/// Names of what is in a folder; none where it is not there.
fn names(folder: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::file("list the folder", folder)(error)),
    };
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()
        .map_err(StoreError::file("list the folder", folder))
}

/// Makes a folder that only its owner reads; one that is there stays as it is.
fn create_private_folder(path: &Path) -> Result<(), StoreError> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder
        .create(path)
        .map_err(StoreError::file("make the folder", path))
}

fn connect_options(data_dir: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(data_dir.join(DATABASE))
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(Duration::from_secs(10))
}

fn lock_folder(data_dir: &Path) -> Result<File, StoreError> {
    let path = data_dir.join("lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(StoreError::file("open the lock file", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(data_dir.to_owned())),
        Err(TryLockError::Error(source)) => Err(StoreError::file("lock", &path)(source)),
    }
}

fn create_folder(path: &Path) -> Result<(), StoreError> {
    std::fs::create_dir_all(path).map_err(StoreError::file("make the folder", path))
}

/// Removes a folder with everything in it; one that is not there is fine.
pub(crate) async fn remove_folder(path: &Path) -> Result<(), StoreError> {
    match tokio::fs::remove_dir_all(path).await {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StoreError::file("remove the folder", path)(error)),
    }
}

/// Removes the temporary files of checkpoints that were not written to their end; a folder that is
/// not there has none.
async fn remove_unfinished(folder: &Path) -> Result<(), StoreError> {
    let mut entries = match tokio::fs::read_dir(folder).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(StoreError::file("read the folder", folder)(error)),
    };
    while let Some(entry) = entries
        .next_entry()
        .await
        .map_err(StoreError::file("read the folder", folder))?
    {
        if entry.file_name().as_encoded_bytes().starts_with(b".tmp") {
            let path = entry.path();
            tokio::fs::remove_file(&path)
                .await
                .map_err(StoreError::file("remove", &path))?;
        }
    }
    Ok(())
}

fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("stored values are plain data with string keys")
}

fn from_json<T: DeserializeOwned>(
    text: &str,
    column: &'static str,
    id: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|source| StoreError::Corrupt {
        column,
        id: id.to_owned(),
        source,
    })
}

/// Reads a unit variant that is stored as its bare name.
fn from_word<T: DeserializeOwned>(
    word: &str,
    column: &'static str,
    id: &str,
) -> Result<T, StoreError> {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).map_err(|source| {
        StoreError::Corrupt {
            column,
            id: id.to_owned(),
            source,
        }
    })
}

/// SQLite counts with signed numbers; sizes and counts are never negative.
fn to_u64(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or(0)
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_server_is_refused_the_data_folder() {
        let folder = tempfile::tempdir().unwrap();
        let _first = Store::open(folder.path()).await.unwrap();
        let second = Store::open(folder.path()).await;
        assert!(matches!(second, Err(StoreError::InUse(_))));
    }

    #[tokio::test]
    async fn leftovers_in_staging_are_removed_at_start() {
        let folder = tempfile::tempdir().unwrap();
        let leftover = folder.path().join("staging/left/over");
        std::fs::create_dir_all(&leftover).unwrap();
        let _store = Store::open(folder.path()).await.unwrap();
        assert!(!leftover.exists());
        assert!(folder.path().join("staging").exists());
    }

    #[tokio::test]
    async fn a_kept_checkpoint_loses_its_unfinished_files_and_the_staged_ones() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        store.keep_checkpoint("never-ran").await.unwrap();
        let staging = store.job_staging_folder("j", "one");
        let checkpoint = store.checkpoint_folder("j");
        for path in [&staging, &checkpoint] {
            std::fs::create_dir_all(path).unwrap();
        }
        let journal = checkpoint.join("journal.safetensors");
        for path in [
            &staging.join("model.onnx"),
            &checkpoint.join(".tmpA1b2C3"),
            &journal,
        ] {
            std::fs::write(path, "x").unwrap();
        }
        store.keep_checkpoint("j").await.unwrap();
        assert!(!staging.exists());
        let left: Vec<_> = std::fs::read_dir(&checkpoint)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(left, [journal]);
    }
}
