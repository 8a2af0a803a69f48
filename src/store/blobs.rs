//! Content-addressed files: `blobs/ab/cdef…` by the hex SHA-256 of what is in them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::future::Future;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};
use sqlx::SqliteConnection;

use super::{StagedBlob, Store, StoreError, to_u64};

/// The folder of the files.
#[derive(Debug, Clone)]
pub struct Blobs {
    root: PathBuf,
}

impl Blobs {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where the file with this hex SHA-256 is.
    pub fn path(&self, digest: &str) -> PathBuf {
        let (folder, file) = digest.split_at_checked(2).unwrap_or(("", digest));
        self.root.join(folder).join(file)
    }

    /// Moves a file in, durably; a file that is there already stays. The file must be on the
    /// same file system.
    pub async fn adopt(&self, staged: &StagedBlob) -> Result<(), StoreError> {
        let target = self.path(&staged.digest);
        let source = staged.path.clone();
        let root = self.root.clone();
        tokio::task::spawn_blocking(move || move_in(&source, &target, &root)).await?
    }

    /// A file that is there already as one that is on its way in, at `path`: its bytes are there once, whatever becomes
    /// of those that name it now. `None` where it is not there any more.
    pub fn staged(
        &self,
        digest: String,
        size_bytes: u64,
        path: PathBuf,
    ) -> Result<Option<StagedBlob>, StoreError> {
        match std::fs::hard_link(self.path(&digest), &path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            linked => linked.map_err(StoreError::file("link", &path))?,
        }
        Ok(Some(StagedBlob {
            path,
            digest,
            size_bytes,
        }))
    }

    fn remove(&self, digest: &str) -> Result<(), StoreError> {
        let path = self.path(digest);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(StoreError::file("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Files on their way in: they are among the blobs, or soon will be, and the row that names them is not committed yet.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// How many there ever were, so that it shows when one came meanwhile.
    count: u64,
    by_digest: HashMap<String, usize>,
}

/// Files that nobody takes for unneeded while this value lives.
struct Arriving<'a> {
    store: &'a Store,
    digests: Vec<String>,
}

impl<'a> Arriving<'a> {
    fn announce(store: &'a Store, digests: &[String]) -> Self {
        let mut arrivals = store.arrivals();
        arrivals.count += 1;
        for digest in digests {
            *arrivals.by_digest.entry(digest.clone()).or_default() += 1;
        }
        Self {
            store,
            digests: digests.to_vec(),
        }
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        let mut arrivals = self.store.arrivals();
        for digest in &self.digests {
            if let Some(count) = arrivals.by_digest.get_mut(digest) {
                *count -= 1;
                if *count == 0 {
                    arrivals.by_digest.remove(digest);
                }
            }
        }
    }
}

fn move_in(source: &Path, target: &Path, root: &Path) -> Result<(), StoreError> {
    let folder = target.parent().unwrap_or(root);
    if target.exists() {
        // Whoever brought it may not have come to this yet.
        sync(target)?;
        sync(folder)?;
        return std::fs::remove_file(source).map_err(StoreError::file("remove", source));
    }
    if !folder.exists() {
        std::fs::create_dir_all(folder).map_err(StoreError::file("make the folder", folder))?;
        sync(root)?;
    }
    sync(source)?;
    fail_point!("blob_synced");
    std::fs::rename(source, target).map_err(StoreError::file("move a file to", target))?;
    fail_point!("blob_moved");
    sync(folder)
}

/// Brings a file's bytes, or a folder's entries, to the disk.
pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(StoreError::file("sync", path))
}

/// Reads a file, tells its digest and size, and brings its bytes to the disk.
pub async fn digest_file(path: &Path) -> Result<StagedBlob, StoreError> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let (digest, size_bytes) = digest_of(&path).map_err(StoreError::file("read", &path))?;
        Ok(StagedBlob {
            path,
            digest,
            size_bytes,
        })
    })
    .await?
}

fn digest_of(path: &Path) -> std::io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let found = through(&mut file, |_| Ok(()))?;
    file.sync_all()?;
    Ok(found)
}

/// Reads a file to its end, piece by piece; tells its hex SHA-256 and length.
pub(super) fn through(
    reader: &mut File,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> std::io::Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut length = 0;
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok((hex::encode(hasher.finalize()), length));
        }
        hasher.update(&buffer[..count]);
        take(&buffer[..count])?;
        length += count as u64;
    }
}

/// Digests and sizes of all files that the database names.
pub(super) async fn named_blobs(
    connection: &mut SqliteConnection,
) -> Result<BTreeMap<String, u64>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT digest as "digest!: String", size_bytes as "size_bytes!: i64" FROM models
           UNION SELECT digest, size_bytes FROM dataset_files
           UNION SELECT digest, size_bytes FROM artifacts"#
    )
    .fetch_all(connection)
    .await?;
    let named = rows.into_iter();
    Ok(named
        .map(|row| (row.digest, to_u64(row.size_bytes)))
        .collect())
}

impl Store {
    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings files in, durably, and then does what commits the rows that name them. Where that fails the files go again,
    /// unless something else names them.
    pub(super) async fn with_files<T>(
        &self,
        files: &[&StagedBlob],
        commit: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let digests: Vec<String> = files.iter().map(|file| file.digest.clone()).collect();
        let arriving = Arriving::announce(self, &digests);
        let brought_in = async {
            for file in files {
                self.blobs.adopt(file).await?;
            }
            commit.await
        };
        let outcome = brought_in.await;
        drop(arriving);
        if outcome.is_err()
            && let Err(error) = self.remove_unreferenced(&digests).await
        {
            tracing::warn!(%error, "files of a failed commit stay until the next start");
        }
        outcome
    }

    /// Removes those of the files that no row names any more, and that are not on their way in. Call it after the commit
    /// that took the rows away.
    pub(super) async fn remove_unreferenced(&self, digests: &[String]) -> Result<(), StoreError> {
        for digest in digests {
            let mut looked_at = None;
            // Until nothing came between the look at the rows and the removal, with its row or on its way to it.
            while !self.remove_unless_arriving(digest, looked_at)? {
                let arrivals = self.arrivals().count;
                let mut connection = self.writer.acquire().await?;
                if is_referenced(&mut connection, digest).await? {
                    break;
                }
                looked_at = Some(arrivals);
            }
        }
        Ok(())
    }

    /// Removes a file that no row named when there had been so many arrivals; `false` if one came since. One that is on
    /// its way in stays, and is looked at again if its commit fails.
    fn remove_unless_arriving(
        &self,
        digest: &str,
        looked_at: Option<u64>,
    ) -> Result<bool, StoreError> {
        let arrivals = self.arrivals();
        if looked_at != Some(arrivals.count) {
            return Ok(false);
        }
        if !arrivals.by_digest.contains_key(digest) {
            self.blobs.remove(digest)?;
        }
        Ok(true)
    }

    /// Removes files that a crash left between their arrival and the commit of their row.
    pub(super) async fn remove_orphaned_blobs(&self) -> Result<(), StoreError> {
        let named = named_blobs(&mut *self.reader.acquire().await?).await?;
        let root = self.blobs.root.clone();
        let present = tokio::task::spawn_blocking(move || list(&root)).await??;
        for digest in present.iter().filter(|digest| !named.contains_key(*digest)) {
            tracing::info!(%digest, "a file that nothing refers to is removed");
            self.blobs.remove(digest)?;
        }
        Ok(())
    }
}

pub(super) fn list(root: &Path) -> Result<Vec<String>, StoreError> {
    let mut digests = Vec::new();
    let read = |path: &Path| {
        std::fs::read_dir(path)
            .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
            .map_err(StoreError::file("list the folder", path))
    };
    for folder in read(root)? {
        if !folder.path().is_dir() {
            continue;
        }
        for file in read(&folder.path())? {
            digests.push(format!(
                "{}{}",
                folder.file_name().to_string_lossy(),
                file.file_name().to_string_lossy()
            ));
        }
    }
    Ok(digests)
}

async fn is_referenced(
    connection: &mut SqliteConnection,
    digest: &str,
) -> Result<bool, StoreError> {
    let named = sqlx::query_scalar!(
        r#"SELECT (SELECT COUNT(*) FROM models WHERE digest = ?1)
                + (SELECT COUNT(*) FROM dataset_files WHERE digest = ?1)
                + (SELECT COUNT(*) FROM artifacts WHERE digest = ?1) as "named!: i64""#,
        digest
    )
    .fetch_one(connection)
    .await?;
    Ok(named > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_found_under_its_digest_and_an_unnamed_one_goes_at_start() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let staging = store.staging_folder().unwrap();
        let path = staging.path().join("file");
        std::fs::write(&path, b"abc").unwrap();
        let staged = digest_file(&path).await.unwrap();
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            staged.digest,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        store.blobs().adopt(&staged).await.unwrap();
        let kept = store.blobs().path(&staged.digest);
        assert_eq!(std::fs::read(&kept).unwrap(), b"abc");
        drop((staging, store));
        let _store = Store::open(folder.path()).await.unwrap();
        assert!(!kept.exists());
    }
}
