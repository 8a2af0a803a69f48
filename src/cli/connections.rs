//! What a connection may cost: a place among so many, and time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum_server::accept::Accept;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_io_timeout::TimeoutWriter;

/// Files that the server has open beside connections and uploads: the database, artifacts on their way out, children.
const OTHER_FILES: u64 = 256;

/// Lets in so many connections at once, and ends those that read nothing of their answer for so long. One that comes when
/// there is no place waits as long for one, unless as many wait already.
#[derive(Debug, Clone)]
pub struct Patient<A> {
    inner: A,
    places: Arc<Semaphore>,
    /// Of those that wait for a place; as many as there are places.
    queue: Arc<Semaphore>,
    timeout: Duration,
}

impl<A> Patient<A> {
    pub fn new(inner: A, places: usize, timeout: Duration) -> Self {
        Self {
            inner,
            places: Arc::new(Semaphore::new(places)),
            queue: Arc::new(Semaphore::new(places)),
            timeout,
        }
    }
}

impl<A, S> Accept<TcpStream, S> for Patient<A>
where
    A: Accept<TcpStream, S> + Clone + Send + Sync + 'static,
    A::Stream: AsyncWrite + Send,
    A::Service: Send,
    A::Future: Send,
    S: Send + 'static,
{
    type Stream = Placed<A::Stream>;
    type Service = A::Service;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let patient = self.clone();
        Box::pin(async move {
            let waiting = patient.queue.try_acquire().map_err(io::Error::other)?;
            let place = Arc::clone(&patient.places).acquire_owned();
            let place = tokio::time::timeout(patient.timeout, place)
                .await
                .map_err(|_| {
                    io::Error::new(io::ErrorKind::TimedOut, "there are too many connections")
                })?
                .map_err(io::Error::other)?;
            drop(waiting);
            // Answers are written whole; none waits for more to send.
            stream.set_nodelay(true)?;
            let (stream, service) = patient.inner.accept(stream, service).await?;
            let mut writer = TimeoutWriter::new(stream);
            writer.set_timeout(Some(patient.timeout));
            let placed = Placed {
                stream: Box::pin(writer),
                _place: place,
            };
            Ok((placed, service))
        })
    }
}

/// A connection that has a place.
#[derive(Debug)]
pub struct Placed<S> {
    stream: Pin<Box<TimeoutWriter<S>>>,
    _place: OwnedSemaphorePermit,
}

impl<S: AsyncRead + AsyncWrite> AsyncRead for Placed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_read(context, buffer)
    }
}

impl<S: AsyncWrite> AsyncWrite for Placed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Lets this process open as many files as the system allows it, and tells for how many connections these are enough: each
/// may bring a file, and as many wait.
#[cfg(target_os = "linux")]
pub fn raise_open_files() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files.saturating_sub(OTHER_FILES) / 3)
        .unwrap_or(Semaphore::MAX_PERMITS)
        .clamp(1, Semaphore::MAX_PERMITS)
}

#[cfg(not(target_os = "linux"))]
pub fn raise_open_files() -> usize {
    Semaphore::MAX_PERMITS
}
