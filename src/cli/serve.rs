//! `sinter serve`: everything put together, and taken apart in order at the end.

use std::error::Error;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum_server::Handle;
use axum_server::tls_rustls::RustlsConfig;
use tracing_subscriber::EnvFilter;

use super::connections::{Patient, raise_open_files};
use crate::api::{App, AppState, Ending};
use crate::config::{LogFormat, Settings};
use crate::mlflow::Mlflow;
use crate::outbox::Deliverer;
use crate::spec::child::Confinement;
use crate::store::{DATABASE, Store};
use crate::telemetry::Telemetry;
use crate::telemetry::traces::Traces;
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
    if !settings.data_dir.join(DATABASE).exists() {
        // Nobody can have made a key yet; nothing is made either.
        settings.check_reach(false)?;
    }
    let store = Arc::new(Store::open_within(&settings.data_dir, settings.limits()).await?);
    settings.check_reach(store.has_keys().await?)?;
    let listener = std::net::TcpListener::bind(settings.listen).map_err(|error| {
        format!(
            "can't listen on {}: {error}; --listen names another address or port",
            settings.listen
        )
    })?;
    let address = listener.local_addr()?;
    let tls = load_tls(&settings).await?;
    let ending = Ending::default();
    let traces = Traces::new(&settings)?;
    let telemetry = Arc::new(Telemetry::new(traces.clone()));
    let confinement = Confinement {
        sandbox: settings.sandbox,
    };
    let program = ChildProgram::this_one(
        settings.threads,
        confinement,
        settings.job_memory_limit,
        store.staging(),
    )?;
    let inspector = Inspector::new(program.clone(), settings.inspect_timeout());
    let mut worker = Worker::start(
        Arc::clone(&store),
        Arc::clone(&settings),
        program,
        Arc::clone(&telemetry),
        ending.draining.clone(),
    );
    let mlflow = Mlflow::new(&settings)?.map(Arc::new);
    let deliverer = Deliverer::new(
        Arc::clone(&store),
        &settings,
        mlflow.clone(),
        Arc::clone(&telemetry),
    )?;
    let app = Arc::new(AppState::new(
        store,
        Arc::clone(&settings),
        inspector,
        worker.health(),
        mlflow,
        telemetry,
        ending.clone(),
    ));
    let asking = Arc::clone(&app);
    tokio::spawn(async move {
        if let Err(error) = asking.devices().await {
            tracing::warn!(%error, "the compute devices could not be listed");
        }
    });

    let deliveries = tokio::spawn(deliverer.run(ending.closing.clone()));
    let janitor = tokio::spawn(keep_house(Arc::clone(&app), tls.clone()));
    let without_keys = settings.api_keys.is_empty() && !app.store.has_keys().await?;
    let service = crate::api::service(app).into_make_service();
    let connections = Handle::new();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let server = match tls {
        Some(tls) => {
            let server = axum_server::from_tcp_rustls(listener, tls)?;
            let server = patient(server, &settings).handle(connections.clone());
            tokio::spawn(server.serve(service))
        }
        None => {
            let server = patient(axum_server::from_tcp(listener)?, &settings);
            tokio::spawn(server.handle(connections.clone()).serve(service))
        }
    };
    if without_keys {
        tracing::info!("no api_keys are set: listening on loopback only, without authentication");
    }
    announce(&format!("sinter listens on {scheme}://{address}\n"))?;
    tracing::info!(%address, data_dir = %settings.data_dir.display(), workers = settings.workers,
        "started");

    signals.next().await;
    tracing::info!("stopping: running jobs write a checkpoint and are queued again");
    ending.draining.cancel();
    tokio::select! {
        () = worker.finished() => {}
        () = signals.next() => {
            tracing::warn!("asked to stop again: ending at once");
        }
    }
    ending.closing.cancel();
    janitor.abort();
    deliveries.await?;
    connections.graceful_shutdown(Some(CLOSING_TIME));
    server.await??;
    tokio::task::spawn_blocking(move || traces.finish()).await?;
    tracing::info!("stopped");
    Ok(())
}

/// How often what is old is removed, and certificates are read again.
const HOUSEKEEPING: Duration = Duration::from_secs(3600);

/// What is read of a connection at once, at most.
const READ_BUFFER_BYTES: usize = 32 << 10;

/// A server that gives up requests whose headers don't come and answers that nobody reads, and holds little for each of so
/// many connections.
fn patient<Acceptor>(
    server: axum_server::Server<SocketAddr, Acceptor>,
    settings: &Settings,
) -> axum_server::Server<SocketAddr, Patient<Acceptor>> {
    let places = settings.connections_limit.min(raise_open_files());
    let timeout = settings.client_timeout();
    let mut server = server.map(|acceptor| Patient::new(acceptor, places, timeout));
    server
        .http_builder()
        .http1()
        .header_read_timeout(timeout)
        .max_buf_size(READ_BUFFER_BYTES);
    // HTTP/2 has streams that none of these bounds knows, and looking for it costs each connection 8 KiB.
    server.first_request_timeout(timeout).http1_only()
}

async fn load_tls(settings: &Settings) -> Result<Option<RustlsConfig>, Box<dyn Error>> {
    if !settings.has_tls() {
        return Ok(None);
    }
    // Of the process; a second time it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let loaded = RustlsConfig::from_pem_file(&settings.tls_certificate, &settings.tls_key).await;
    let explain = |error| {
        format!(
            "can't use the certificate `{}` with the key `{}`: {error}",
            settings.tls_certificate.display(),
            settings.tls_key.display()
        )
    };
    let loaded = loaded.map_err(explain)?;
    offer_http1(&loaded);
    Ok(Some(loaded))
}

/// Offers HTTP/1.1 alone in the handshake.
fn offer_http1(tls: &RustlsConfig) {
    let mut config = rustls::ServerConfig::clone(&tls.get_inner());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    tls.reload_from_config(Arc::new(config));
}

/// Removes what is too old, now and every hour.
async fn keep_house(app: App, tls: Option<RustlsConfig>) {
    let settings = &app.settings;
    let mut hours = tokio::time::interval(HOUSEKEEPING);
    loop {
        hours.tick().await;
        app.forget_idle_callers();
        let expiry = Duration::from_secs(settings.upload_expiry_hours.saturating_mul(3600));
        match app.store.expire_uploads(expiry).await {
            Ok(0) => {}
            Ok(uploads) => tracing::info!(uploads, "uploads that nobody went on with were removed"),
            Err(error) => tracing::error!(%error, "old uploads can't be removed"),
        }
        if settings.keep_jobs_days > 0 {
            let age = Duration::from_secs(settings.keep_jobs_days.saturating_mul(86_400));
            match app.store.delete_old_jobs(age).await {
                Ok(0) => {}
                Ok(jobs) => tracing::info!(jobs, "jobs that ended long ago were deleted"),
                Err(error) => tracing::error!(%error, "old jobs can't be deleted"),
            }
        }
        if let Some(tls) = &tls {
            let (certificate, key) = (&settings.tls_certificate, &settings.tls_key);
            match tls.reload_from_pem_file(certificate, key).await {
                Ok(()) => offer_http1(tls),
                Err(error) => {
                    tracing::error!(%error, "the certificate can't be read again; the one from before stays");
                }
            }
        }
    }
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
