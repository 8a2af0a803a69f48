//! What is done to a data folder beside the server, or by the server beside its work: keys, backups, checks, and the
//! removal of what is old.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::sqlite::{SqlitePool, SqlitePoolOptions};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::blobs::{Blobs, list, named_blobs, sync, through};
use super::jobs::JobDeletion;
use super::keys::{Key, Pepper, Role, create_key, list_keys, revoke_keys};
use super::queue::select_state;
use super::queue::transition::broken_rule;
use super::{
    DATABASE, Scope, Store, StoreError, connect_options, create_folder, create_private_folder,
    lock_folder, to_u64,
};

/// How often a backup begins again because something was deleted while it was made.
const TRIES: u32 = 5;

/// The file that says what a backup is; written last.
const MANIFEST: &str = "backup.json";

/// A data folder that a server may use at the same time.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    pool: SqlitePool,
    /// Locked when no server runs.
    lock: Option<File>,
}

/// What a backup or a restoration copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copied {
    pub files: u64,
    pub bytes: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    sinter: String,
    #[serde(flatten)]
    copied: Copied,
}

/// What a check found.
#[derive(Debug, Default)]
pub struct CheckReport {
    pub models: u64,
    pub datasets: u64,
    pub jobs: u64,
    pub verified: Copied,
    /// What is wrong; nothing, as it should be.
    pub problems: Vec<String>,
    /// What is not wrong but worth knowing.
    pub notes: Vec<String>,
}

impl DataFolder {
    /// Opens a data folder; `make` makes it where there is none, and brings its database to this version unless a server
    /// is using it.
    pub async fn open(path: &Path, make: bool) -> Result<Self, StoreError> {
        if make {
            create_private_folder(path)?;
        }
        let path =
            std::fs::canonicalize(path).map_err(StoreError::file("find the folder", path))?;
        let database = path.join(DATABASE);
        if !make && !database.exists() {
            let error = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(StoreError::file("find", &database)(error));
        }
        let lock = match lock_folder(&path) {
            Ok(lock) => Some(lock),
            Err(StoreError::InUse(_)) => None,
            Err(error) => return Err(error),
        };
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(connect_options(&path).create_if_missing(make))
            .await?;
        if make && lock.is_some() {
            sqlx::migrate!().run(&pool).await?;
        }
        Ok(Self { path, pool, lock })
    }

    /// Makes a key; the text is shown once.
    pub async fn create_key(
        &self,
        name: &str,
        role: Role,
        project: &str,
        days: Option<u32>,
    ) -> Result<(Key, String), StoreError> {
        let pepper = Pepper::load(&self.path)?;
        let mut connection = self.pool.acquire().await?;
        create_key(&mut connection, &pepper, name, role, project, days).await
    }

    pub async fn keys(&self) -> Result<Vec<Key>, StoreError> {
        list_keys(&mut *self.pool.acquire().await?).await
    }

    /// Revokes a key by its id or prefix, at once; tells whether there was one.
    pub async fn revoke_key(&self, id_or_prefix: &str) -> Result<bool, StoreError> {
        let mut connection = self.pool.acquire().await?;
        Ok(revoke_keys(&mut connection, id_or_prefix).await? > 0)
    }

    /// Copies the database and every file that it names, as they were at one moment, to a new folder. A server may go on.
    /// Checkpoints are left out: a job that ran begins anew.
    pub async fn back_up(&self, target: &Path) -> Result<Copied, StoreError> {
        new_folder(target)?;
        let mut verified = BTreeSet::new();
        for attempt in 1.. {
            let database = target.join(DATABASE);
            if database.exists() {
                std::fs::remove_file(&database).map_err(StoreError::file("remove", &database))?;
            }
            let name = database.to_string_lossy().into_owned();
            sqlx::query("VACUUM INTO ?1")
                .bind(&name)
                .execute(&self.pool)
                .await?;
            let named = digests_of(&database).await?;
            let to = target.join("blobs");
            match copy_blobs(&self.blobs(), &to, &named, &mut verified) {
                Ok(copied) => {
                    Pepper::copy(&self.path, target)?;
                    sync(target)?;
                    write_manifest(target, copied)?;
                    sync(target)?;
                    return Ok(copied);
                }
                // Deleted between the copy of the database and now.
                Err(StoreError::File { source, .. })
                    if source.kind() == std::io::ErrorKind::NotFound && attempt < TRIES => {}
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last try returns")
    }

    /// Reads everything and says what is wrong.
    pub async fn check(&self) -> Result<CheckReport, StoreError> {
        let mut report = CheckReport::default();
        let mut connection = self.pool.acquire().await?;
        let integrity: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_all(&mut *connection)
            .await?;
        let faults = integrity.into_iter().filter(|line| line != "ok");
        report
            .problems
            .extend(faults.map(|line| format!("the database: {line}")));
        let dangling = sqlx::query("PRAGMA foreign_key_check")
            .fetch_all(&mut *connection)
            .await?
            .len();
        if dangling > 0 {
            let text = format!("{dangling} rows refer to rows that are not there");
            report.problems.push(text);
        }
        let counts = sqlx::query!(
            r#"SELECT (SELECT COUNT(*) FROM models) as "models!: i64",
                      (SELECT COUNT(*) FROM datasets) as "datasets!: i64",
                      (SELECT COUNT(*) FROM jobs) as "jobs!: i64""#
        )
        .fetch_one(&mut *connection)
        .await?;
        report.models = to_u64(counts.models);
        report.datasets = to_u64(counts.datasets);
        report.jobs = to_u64(counts.jobs);
        check_jobs(&mut connection, &mut report).await?;
        let named = named_blobs(&mut connection).await?;
        drop(connection);
        self.check_blobs(&named, &mut report)?;
        Ok(report)
    }

    fn check_blobs(
        &self,
        named: &BTreeMap<String, u64>,
        report: &mut CheckReport,
    ) -> Result<(), StoreError> {
        let blobs = self.blobs();
        for (digest, &size_bytes) in named {
            match hash(&blobs.path(digest)) {
                Ok((found, length)) if found == *digest && length == size_bytes => {
                    report.verified.files += 1;
                    report.verified.bytes += length;
                }
                Ok((_, length)) if length != size_bytes => report.problems.push(format!(
                    "the file {digest} has {length} bytes instead of {size_bytes}"
                )),
                Ok((found, _)) => report
                    .problems
                    .push(format!("the file {digest} holds the bytes of {found}")),
                Err(error) => report
                    .problems
                    .push(format!("the file {digest} can't be read: {error}")),
            }
        }
        let root = self.path.join("blobs");
        let present = if root.exists() {
            list(&root)?
        } else {
            Vec::new()
        };
        let unnamed = present
            .iter()
            .filter(|digest| !named.contains_key(*digest))
            .count();
        if unnamed > 0 {
            let why = match self.lock {
                Some(_) => "a server removes them when it starts",
                None => "they may be on their way in",
            };
            report
                .notes
                .push(format!("{unnamed} files are named by nothing: {why}"));
        }
        Ok(())
    }

    fn blobs(&self) -> Blobs {
        Blobs::new(self.path.join("blobs"))
    }
}

/// Makes a data folder of a backup, every digest verified.
pub async fn restore(backup: &Path, data_dir: &Path) -> Result<Copied, StoreError> {
    let manifest = backup.join(MANIFEST);
    if !manifest.exists() {
        let text = "a backup that was made to its end has this file";
        return Err(StoreError::file("find", &manifest)(std::io::Error::other(
            text,
        )));
    }
    new_folder(data_dir)?;
    let database = backup.join(DATABASE);
    let named = digests_of(&database).await?;
    let (from, to) = (Blobs::new(backup.join("blobs")), data_dir.join("blobs"));
    let copied = copy_blobs(&from, &to, &named, &mut BTreeSet::new())?;
    Pepper::copy(backup, data_dir)?;
    // The database comes last: a folder with one is whole.
    let (unfinished, finished) = (data_dir.join("restoring"), data_dir.join(DATABASE));
    copy(&database, &unfinished)?;
    sync(data_dir)?;
    std::fs::rename(&unfinished, &finished).map_err(StoreError::file("rename", &unfinished))?;
    sync(data_dir)?;
    Ok(copied)
}

async fn digests_of(database: &Path) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut connection = sqlx::sqlite::SqliteConnectOptions::new()
        .filename(database)
        .read_only(true)
        .immutable(true)
        .connect()
        .await?;
    let named = named_blobs(&mut connection).await?;
    connection.close().await?;
    Ok(named)
}

/// What the queue promises, of every job that is there.
async fn check_jobs(
    connection: &mut SqliteConnection,
    report: &mut CheckReport,
) -> Result<(), StoreError> {
    let ids = sqlx::query_scalar!(r#"SELECT id as "id!: String" FROM jobs"#)
        .fetch_all(&mut *connection)
        .await?;
    for id in ids {
        let state = select_state(connection, &id).await?;
        if let Some(rule) = state.and_then(|state| broken_rule(None, &state)) {
            report
                .problems
                .push(format!("job {id}: {rule}, not this one"));
        }
    }
    let unfinished = sqlx::query_scalar!(
        r#"SELECT id as "id!: String" FROM jobs
           WHERE (status = 'succeeded')
              <> (result IS NOT NULL AND EXISTS (SELECT 1 FROM artifacts WHERE job_id = jobs.id))"#
    )
    .fetch_all(&mut *connection)
    .await?;
    let halves = unfinished.into_iter();
    report
        .problems
        .extend(halves.map(|id| format!("job {id} is published by half")));
    let twice = sqlx::query_scalar!(
        r#"SELECT job_id as "id!: String" FROM events WHERE type = 'job_succeeded'
           GROUP BY job_id HAVING COUNT(*) > 1"#
    )
    .fetch_all(&mut *connection)
    .await?;
    let again = twice.into_iter();
    report
        .problems
        .extend(again.map(|id| format!("job {id} succeeded more than once")));
    let miscounted = sqlx::query_scalar!(
        r#"SELECT COUNT(*) as "lengths!: i64" FROM (
               SELECT priority, project, SUM(jobs) AS left_over FROM (
                   SELECT priority, project, jobs FROM queue_lengths
                   UNION ALL SELECT priority, project, -1 FROM jobs WHERE status = 'queued'
               ) GROUP BY priority, project HAVING left_over <> 0
           )"#
    )
    .fetch_one(connection)
    .await?;
    if miscounted > 0 {
        let text = "the queue's lengths are not those of its jobs";
        report.problems.push(text.to_owned());
    }
    Ok(())
}

/// Copies files durably and verifies them; those in `verified` are there already.
fn copy_blobs(
    from: &Blobs,
    to: &Path,
    named: &BTreeMap<String, u64>,
    verified: &mut BTreeSet<String>,
) -> Result<Copied, StoreError> {
    let mut copied = Copied::default();
    let mut folders = BTreeSet::new();
    let target_blobs = Blobs::new(to.to_owned());
    create_folder(to)?;
    for (digest, &size_bytes) in named {
        copied.files += 1;
        copied.bytes += size_bytes;
        if verified.contains(digest) {
            continue;
        }
        let (source, target) = (from.path(digest), target_blobs.path(digest));
        if let Some(folder) = target.parent() {
            create_folder(folder)?;
            folders.insert(folder.to_owned());
        }
        let (found, _) = copy(&source, &target)?;
        if found != *digest {
            let text = format!("its bytes are those of {found}: it was damaged");
            return Err(StoreError::file("copy", &source)(std::io::Error::other(
                text,
            )));
        }
        verified.insert(digest.clone());
    }
    for folder in &folders {
        sync(folder)?;
    }
    sync(to)?;
    Ok(copied)
}

/// Copies a file durably; tells its digest and length.
fn copy(source: &Path, target: &Path) -> Result<(String, u64), StoreError> {
    let mut reader = File::open(source).map_err(StoreError::file("open", source))?;
    let mut writer = File::create(target).map_err(StoreError::file("make", target))?;
    let read = through(&mut reader, |bytes| writer.write_all(bytes));
    let done = read.map_err(StoreError::file("copy", source))?;
    writer
        .sync_all()
        .map_err(StoreError::file("sync", target))?;
    Ok(done)
}

fn hash(path: &Path) -> std::io::Result<(String, u64)> {
    through(&mut File::open(path)?, |_| Ok(()))
}

fn write_manifest(target: &Path, copied: Copied) -> Result<(), StoreError> {
    let manifest = Manifest {
        sinter: env!("CARGO_PKG_VERSION").to_owned(),
        copied,
    };
    let path = target.join(MANIFEST);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(super::to_json(&manifest).as_bytes())?;
        file.sync_all()
    });
    written.map_err(StoreError::file("write", &path))
}

/// Makes a folder that must not hold anything yet.
fn new_folder(path: &Path) -> Result<(), StoreError> {
    create_private_folder(path)?;
    let mut entries = std::fs::read_dir(path).map_err(StoreError::file("list", path))?;
    if entries.next().is_none() {
        return Ok(());
    }
    let error = std::io::Error::from(std::io::ErrorKind::DirectoryNotEmpty);
    Err(StoreError::file("use", path)(error))
}

impl Store {
    /// Deletes jobs that ended so long ago, as their users could; tells how many.
    pub async fn delete_old_jobs(&self, age: Duration) -> Result<usize, StoreError> {
        let since = format!("-{} seconds", age.as_secs());
        let mut deleted = 0;
        loop {
            let old = sqlx::query_scalar!(
                r#"SELECT id as "id!: String" FROM jobs
                   WHERE status IN ('succeeded', 'failed', 'canceled')
                     AND finished_at < strftime('%Y-%m-%dT%H:%M:%fZ', 'now', ?1)
                   ORDER BY id LIMIT 100"#,
                since
            )
            .fetch_all(&self.reader)
            .await?;
            let mut progressed = false;
            for id in old {
                if self.delete_job(&Scope::All, &id).await? == JobDeletion::Deleted {
                    deleted += 1;
                    progressed = true;
                }
            }
            if !progressed {
                return Ok(deleted);
            }
        }
    }
}
