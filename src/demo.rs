//! `sinter demo`: starts the service and uses it as any user would, over HTTP alone.
//!
//! Uploads a small network and the digits it was trained on, runs four jobs, follows them, fetches
//! their artifacts and prints what became smaller. Both files are inside the program, so that the
//! demo needs nothing but itself.

mod jobs;
mod server;

use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde_json::json;
use ureq::tls::TlsConfig;
use uuid::Uuid;

use crate::client::follow::follow;
use crate::client::{Client, ClientError, JobView, table};
use jobs::DemoJob;
use server::Server;

const READY_WITHIN: Duration = Duration::from_secs(30);

const MODEL: &[u8] = include_bytes!("../examples/models/digits_cnn.onnx");
const DIGITS: &[u8] = include_bytes!("../examples/data/digits.npz");

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct DemoOptions {
    /// End when the results are printed, instead of leaving the service up.
    pub exit: bool,
    /// Where the service keeps its data and the artifacts go; `./sinter-demo` when `None`.
    pub data_dir: Option<PathBuf>,
}

/// What can go wrong in the demo.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    #[error("{action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
    #[error("the service did not come up: {reason}; its log is {}", .log.display())]
    NotUp { reason: String, log: PathBuf },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("{failed} of {all} jobs did not succeed")]
    JobsFailed { failed: usize, all: usize },
    #[error("the service ended by itself; its log is {}", .log.display())]
    ServiceEnded { log: PathBuf },
}

impl DemoError {
    /// For `map_err` on file operations.
    fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io {
            action: format!("{action}: {source}"),
            source,
        }
    }
}

/// Runs the demo. Without `exit` it returns only when the service has ended.
///
/// # Errors
///
/// When the service does not start, refuses a request or a job does not succeed; the service is
/// ended then.
pub fn run(options: DemoOptions) -> Result<(), Box<dyn std::error::Error>> {
    let data_dir = options
        .data_dir
        .unwrap_or_else(|| PathBuf::from("sinter-demo"));
    println!("starting the service, data in {}", data_dir.display());
    let server = Server::start(&data_dir)?;
    let client = Client::new(server.base(), None, TlsConfig::default());
    wait_until_ready(&client, &server)?;
    println!("service is ready at {}", server.base());

    let planned = jobs::planned();
    let submitted = submit(&client, &planned)?;
    let ended = follow(&client, &submitted, || server.check())?;
    let failed = report_failures(&ended);
    let artifacts = data_dir.join("artifacts");
    for (name, job) in ended.iter().filter(|(_, job)| job.succeeded()) {
        fetch_artifacts(&client, job, &artifacts.join(name))?;
    }
    println!("\n{}", table::render(&ended));
    print_places(&artifacts, &ended);
    if failed > 0 {
        return Err(DemoError::JobsFailed {
            failed,
            all: ended.len(),
        }
        .into());
    }
    if options.exit {
        server.stop();
        return Ok(());
    }
    println!(
        "\nthe service stays up: {base}/ (web page), {base}/docs (API)\npress Ctrl-C to end it",
        base = server.base()
    );
    server.wait().map_err(Into::into)
}

/// Asks `/readyz` until it says yes.
fn wait_until_ready(client: &Client, server: &Server) -> Result<(), DemoError> {
    let started = Instant::now();
    loop {
        server.check()?;
        match client.ready() {
            Ok(()) => return Ok(()),
            Err(said) if started.elapsed() > READY_WITHIN => return Err(server.not_up(said)),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Uploads both files and submits the jobs, which the service queues.
fn submit(client: &Client, planned: &[DemoJob]) -> Result<Vec<(String, Uuid)>, DemoError> {
    let model = client.upload_bytes("models", &[("name", "digits-cnn")], MODEL)?;
    let dataset = client.upload_bytes("datasets", &[("name", "digits")], DIGITS)?;
    println!("uploaded the model {model} and the data set {dataset}");
    planned
        .iter()
        .map(|job| {
            let body = json!({
                "kind": job.kind,
                "name": job.name,
                "model": model,
                "dataset": dataset,
                "params": job.params,
                // The pixels are 0 to 16, and the network was trained on 0 to 1.
                "data": {"batch_size": 32, "preprocess": {"scale": 0.0625}},
                // Small enough that starting a graphics adapter would take longer than the job.
                "device": "cpu",
                "timeout_seconds": 600,
                "tags": {"from": "demo"},
            });
            Ok((job.name.to_owned(), client.submit(&body)?))
        })
        .collect()
}

/// Prints what went wrong and returns how many jobs it went wrong with.
fn report_failures(ended: &[(String, JobView)]) -> usize {
    let unsuccessful = ended.iter().filter(|(_, job)| !job.succeeded());
    let mut failed = 0;
    for (name, job) in unsuccessful {
        failed += 1;
        match &job.error {
            Some(problem) => eprintln!("{name} {}: {problem}", job.status),
            None => eprintln!("{name} {}", job.status),
        }
    }
    failed
}

/// Downloads the model, where the job made one, and the report.
fn fetch_artifacts(client: &Client, job: &JobView, folder: &Path) -> Result<(), DemoError> {
    std::fs::create_dir_all(folder)
        .map_err(DemoError::io(format!("creating {}", folder.display())))?;
    for artifact in client.artifacts(job.id)? {
        if matches!(artifact.name.as_str(), "model.onnx" | "report.html") {
            let path = folder.join(&artifact.name);
            client.download(
                &artifact.url,
                &artifact.digest,
                &path,
                &ProgressBar::hidden(),
            )?;
        }
    }
    Ok(())
}

fn print_places(artifacts: &Path, ended: &[(String, JobView)]) {
    println!("\nartifacts:");
    for (name, _) in ended.iter().filter(|(_, job)| job.succeeded()) {
        let folder = artifacts.join(name);
        for file in ["model.onnx", "report.html"] {
            let path = folder.join(file);
            if path.exists() {
                println!("  {}", path.display());
            }
        }
    }
}
