//! Files on their way in: hashed and written beside the arrival of what comes next, and never in memory as a whole.

use std::fs::File;
use std::io::Write as _;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::problem::ApiError;
use super::request::too_large;
use super::state::App;
use crate::store::StoreError;
use crate::store::limits::LOOK_AFTER_BYTES;

/// Bytes that all files on their way in gather before they are written; as many again are being written.
const GATHERED_BYTES: usize = 16 << 20;

/// What one file gathers, at least and at most.
const PIECE_BYTES: (usize, usize) = (16 << 10, 1 << 20);

/// Shorter chunks are copied together: each would keep the whole buffer that it came in.
const SHORT_BYTES: usize = 4 << 10;

/// So much is brought to the disk while more comes, so that little is left to wait for at the end.
const SYNC_AFTER_BYTES: usize = 32 << 20;

/// How many files are on their way in.
#[derive(Debug, Default)]
pub struct Arrivals(AtomicUsize);

impl Arrivals {
    fn piece_bytes(&self) -> usize {
        let (least, most) = PIECE_BYTES;
        (GATHERED_BYTES / self.0.load(Ordering::Relaxed).max(1)).clamp(least, most)
    }
}

/// What an upload may still bring. Nobody has to announce how long it is, so disk and quota are looked at again and again.
pub struct Allowance<'a> {
    app: &'a App,
    project: &'a str,
    /// Bytes, at most.
    limit: u64,
    /// Whether the database counts what arrived already.
    counted: bool,
    arrived: u64,
    /// Of these, those after which there was room.
    looked_at: u64,
}

impl<'a> Allowance<'a> {
    pub fn new(app: &'a App, project: &'a str, limit: u64, counted: bool) -> Self {
        Self {
            app,
            project,
            limit,
            counted,
            arrived: 0,
            looked_at: 0,
        }
    }

    async fn take(&mut self, bytes: u64) -> Result<(), ApiError> {
        self.arrived += bytes;
        self.app.telemetry.bytes_uploaded(bytes);
        if self.arrived > self.limit {
            return Err(too_large(self.limit));
        }
        if self.arrived - self.looked_at >= LOOK_AFTER_BYTES {
            self.looked_at = self.arrived;
            let store = &self.app.store;
            store.check_disk(0)?;
            let uncounted = if self.counted { 0 } else { self.arrived };
            store.check_quota(self.project, uncounted).await?;
        }
        Ok(())
    }
}

/// A file that grows.
pub struct ArrivingFile {
    app: App,
    path: PathBuf,
    /// What is not on its way to the file yet, as it came.
    piece: Vec<Bytes>,
    /// Short chunks that came after these.
    short: Vec<u8>,
    /// Bytes of both.
    gathered: usize,
    /// Writes the piece before; `None` after a failure.
    writing: Option<JoinHandle<std::io::Result<Sink>>>,
    syncing: Option<JoinHandle<std::io::Result<()>>>,
    since_sync: usize,
}

struct Sink {
    file: File,
    hasher: Sha256,
    size_bytes: u64,
}

impl Sink {
    fn write(&mut self, piece: &[Bytes]) -> std::io::Result<()> {
        for chunk in piece {
            self.hasher.update(chunk);
            self.file.write_all(chunk)?;
            self.size_bytes += chunk.len() as u64;
        }
        Ok(())
    }
}

impl ArrivingFile {
    /// A file that is there already goes on at its end. It is opened here and now: one that came to be later could come
    /// into a folder that is being removed.
    pub fn open(app: &App, path: &Path) -> Result<Self, StoreError> {
        let opened = File::options().append(true).create(true).open(path);
        let file = opened.map_err(StoreError::file("open", path))?;
        let sink = Sink {
            file,
            hasher: Sha256::new(),
            size_bytes: 0,
        };
        app.arrivals.0.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            app: App::clone(app),
            path: path.to_owned(),
            piece: Vec::new(),
            short: Vec::new(),
            gathered: 0,
            writing: Some(tokio::task::spawn_blocking(move || Ok(sink))),
            syncing: None,
            since_sync: 0,
        })
    }

    /// Takes what came, if the upload may bring it.
    pub async fn take(
        &mut self,
        chunk: Bytes,
        allowance: &mut Allowance<'_>,
    ) -> Result<(), ApiError> {
        allowance.take(chunk.len() as u64).await?;
        self.gathered += chunk.len();
        if chunk.len() < SHORT_BYTES {
            self.short.extend_from_slice(&chunk);
        } else {
            self.close_short();
            self.piece.push(chunk);
        }
        if self.gathered >= self.app.arrivals.piece_bytes() {
            self.write_piece().await?;
        }
        Ok(())
    }

    fn close_short(&mut self) {
        if !self.short.is_empty() {
            self.piece.push(mem::take(&mut self.short).into());
        }
    }

    async fn write_piece(&mut self) -> Result<(), StoreError> {
        let mut sink = self.written().await?;
        self.since_sync += mem::take(&mut self.gathered);
        if self.since_sync >= SYNC_AFTER_BYTES {
            self.since_sync = 0;
            self.synced().await?;
            let file = sink.file.try_clone();
            let file = file.map_err(StoreError::file("sync", &self.path))?;
            self.syncing = Some(tokio::task::spawn_blocking(move || file.sync_data()));
        }
        self.close_short();
        let piece = mem::take(&mut self.piece);
        let writing = tokio::task::spawn_blocking(move || sink.write(&piece).map(|()| sink));
        self.writing = Some(writing);
        Ok(())
    }

    async fn written(&mut self) -> Result<Sink, StoreError> {
        let Some(writing) = self.writing.take() else {
            let broken = std::io::Error::other("an earlier piece could not be written");
            return Err(StoreError::file("write", &self.path)(broken));
        };
        writing
            .await?
            .map_err(StoreError::file("write", &self.path))
    }

    async fn synced(&mut self) -> Result<(), StoreError> {
        match self.syncing.take() {
            None => Ok(()),
            Some(syncing) => syncing.await?.map_err(StoreError::file("sync", &self.path)),
        }
    }

    /// Writes the rest; tells the hex SHA-256 and the number of the bytes that were taken.
    pub async fn finish(mut self) -> Result<(String, u64), StoreError> {
        self.write_piece().await?;
        let sink = self.written().await?;
        self.synced().await?;
        Ok((hex::encode(sink.hasher.finalize()), sink.size_bytes))
    }
}

impl Drop for ArrivingFile {
    fn drop(&mut self) {
        self.app.arrivals.0.fetch_sub(1, Ordering::Relaxed);
    }
}
