//! Content-addressed files: `blobs/ab/cdef…` by the hex SHA-256 of what is in them.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use sqlx::SqliteConnection;

use super::{StagedBlob, Store, StoreError};

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

    async fn remove(&self, digest: &str) -> Result<(), StoreError> {
        let path = self.path(digest);
        match tokio::fs::remove_file(&path).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StoreError::file("remove", &path)(error)),
        }
    }
}

fn move_in(source: &Path, target: &Path, root: &Path) -> Result<(), StoreError> {
    if target.exists() {
        return std::fs::remove_file(source).map_err(StoreError::file("remove", source));
    }
    let folder = target.parent().unwrap_or(root);
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
fn sync(path: &Path) -> Result<(), StoreError> {
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
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut size_bytes = 0;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            file.sync_all()?;
            return Ok((hex::encode(hasher.finalize()), size_bytes));
        }
        hasher.update(&buffer[..count]);
        size_bytes += count as u64;
    }
}

impl Store {
    /// Removes those of the files that no row names any more. Call it with the gate held and
    /// after the commit that took the rows away.
    pub(super) async fn remove_unreferenced(&self, digests: &[String]) -> Result<(), StoreError> {
        let mut connection = self.writer.acquire().await?;
        for digest in digests {
            if !is_referenced(&mut connection, digest).await? {
                self.blobs.remove(digest).await?;
            }
        }
        Ok(())
    }

    /// Removes files that a crash left between their arrival and the commit of their row.
    pub(super) async fn remove_orphaned_blobs(&self) -> Result<(), StoreError> {
        let named: HashSet<String> = sqlx::query_scalar!(
            r#"SELECT digest as "digest!: String" FROM models
               UNION SELECT digest FROM dataset_files
               UNION SELECT digest FROM artifacts"#
        )
        .fetch_all(&self.reader)
        .await?
        .into_iter()
        .collect();
        let root = self.blobs.root.clone();
        let present = tokio::task::spawn_blocking(move || list(&root)).await??;
        for digest in present.iter().filter(|digest| !named.contains(*digest)) {
            tracing::info!(%digest, "a file that nothing refers to is removed");
            self.blobs.remove(digest).await?;
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
