//! `sinter serve`: everything put together, and taken apart in order at the end.

use std::error::Error;
use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::api::AppState;
use crate::config::{LogFormat, Settings};
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::worker::{Inspector, Worker, child::ChildProgram};

/// How long open connections may take to end after the last job has drained.
const CLOSING_TIME: Duration = Duration::from_secs(5);

/// Runs the server until SIGTERM or SIGINT.
pub fn run(settings: Settings) -> Result<(), Box<dyn Error>> {
    start_log(&settings)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(serve(settings));
    // A blocking file operation must not keep the process from ending.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

fn start_log(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_new(&settings.log)
        .map_err(|error| format!("the setting `log` is not right: {error}"))?;
    // https://no-color.org
    let colors_wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colors_wanted && std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match settings.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|error| -> Box<dyn Error> { error })
}

async fn serve(settings: Settings) -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::new()?;
    let settings = Arc::new(settings);
    let store = Arc::new(Store::open(&settings.data_dir).await?);
    let listener = TcpListener::bind(settings.listen)
        .await
        .map_err(|error| format!("can't listen on {}: {error}", settings.listen))?;
    let address = listener.local_addr()?;
    let draining = CancellationToken::new();
    let closing = CancellationToken::new();
    let telemetry = Arc::new(Telemetry::new());
    let program = ChildProgram::this_one(settings.threads)?;
    let inspector = Inspector::new(program.clone(), settings.inspect_timeout());
    let mut worker = Worker::start(
        Arc::clone(&store),
        Arc::clone(&settings),
        program,
        Arc::clone(&telemetry),
        draining.clone(),
    );
    let app = Arc::new(AppState::new(
        store,
        Arc::clone(&settings),
        inspector,
        worker.health(),
        telemetry,
        draining.clone(),
        closing.clone(),
    ));
    let asking = Arc::clone(&app);
    tokio::spawn(async move {
        if let Err(error) = asking.devices().await {
            tracing::warn!(%error, "the compute devices could not be listed");
        }
    });

    let service = crate::api::service(app);
    let closed = closing.clone();
    let server = tokio::spawn(async move {
        axum::serve(listener, service)
            .with_graceful_shutdown(closed.cancelled_owned())
            .await
    });
    if settings.api_keys.is_empty() {
        tracing::info!("no api_keys are set: listening on loopback only, without authentication");
    }
    announce(&format!("sinter listens on http://{address}\n"))?;
    tracing::info!(%address, data_dir = %settings.data_dir.display(), workers = settings.workers,
        "started");

    signals.next().await;
    tracing::info!("stopping: running jobs write a checkpoint and are queued again");
    draining.cancel();
    tokio::select! {
        () = worker.finished() => {}
        () = signals.next() => {
            tracing::warn!("asked to stop again: ending at once");
        }
    }
    closing.cancel();
    match tokio::time::timeout(CLOSING_TIME, server).await {
        Ok(ended) => ended??,
        Err(_) => tracing::warn!("connections that were still open were cut"),
    }
    tracing::info!("stopped");
    Ok(())
}

/// The one line on standard output, for those who start the server and wait for it.
fn announce(line: &str) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(line.as_bytes())?;
    output.flush()
}

/// The signals that ask the server to stop.
#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
