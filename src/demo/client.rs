//! The HTTP calls that the demo makes.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use ureq::http::Response;
use ureq::{Agent, Body};
use uuid::Uuid;

use super::DemoError;
use super::server::Server;
use crate::spec::Problem;
use crate::spec::child::Progress;
use crate::spec::result::JobResult;

const READY_WITHIN: Duration = Duration::from_secs(30);

/// No body that the demo downloads comes near this; the bound guards its memory.
const LARGEST_DOWNLOAD: u64 = 256 << 20;

/// A job as the demo reads it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct JobView {
    pub id: Uuid,
    pub status: String,
    #[serde(default)]
    pub queue_position: Option<u64>,
    #[serde(default)]
    pub progress: Option<Progress>,
    #[serde(default)]
    pub result: Option<JobResult>,
    #[serde(default)]
    pub error: Option<Problem>,
}

impl JobView {
    pub fn succeeded(&self) -> bool {
        self.status == "succeeded"
    }

    pub fn ended(&self) -> bool {
        matches!(self.status.as_str(), "succeeded" | "failed" | "canceled")
    }
}

/// An artifact as the list of artifacts has it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ArtifactView {
    pub name: String,
    /// `sha256:` and hexadecimal digits.
    pub digest: String,
    pub url: String,
}

#[derive(Deserialize)]
struct Created {
    id: Uuid,
}

#[derive(Deserialize)]
struct Listed<T> {
    data: Vec<T>,
}

/// A user of the service at one address.
pub(super) struct Client {
    agent: Agent,
    base: String,
}

impl Client {
    pub fn new(base: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // The service is on this machine, whatever proxy the environment names.
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(60)))
            .build();
        Self {
            agent: config.new_agent(),
            base: base.to_owned(),
        }
    }

    /// Asks `/readyz` until it says yes.
    pub fn wait_until_ready(&self, server: &Server) -> Result<(), DemoError> {
        let started = Instant::now();
        let mut last = "no answer".to_owned();
        while started.elapsed() < READY_WITHIN {
            server.check()?;
            match self.agent.get(format!("{}/readyz", self.base)).call() {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => last = format!("/readyz answers {}", answer.status()),
                Err(error) => last = error.to_string(),
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(server.not_up(last))
    }

    /// Posts the bytes of a file and returns the id of what was made of it.
    pub fn upload(&self, path: &str, bytes: &[u8]) -> Result<Uuid, DemoError> {
        let call = format!("POST {path}");
        let answer = self
            .agent
            .post(self.url(path))
            .content_type("application/octet-stream")
            .send(bytes);
        read::<Created>(call, answer).map(|created| created.id)
    }

    /// Posts a job and returns its id.
    pub fn submit(&self, body: &Value) -> Result<Uuid, DemoError> {
        let answer = self.agent.post(self.url("/v1/jobs")).send_json(body);
        read::<Created>("POST /v1/jobs".to_owned(), answer).map(|created| created.id)
    }

    pub fn job(&self, id: Uuid) -> Result<JobView, DemoError> {
        self.get(&format!("/v1/jobs/{id}"))
    }

    pub fn artifacts(&self, job: Uuid) -> Result<Vec<ArtifactView>, DemoError> {
        self.get::<Listed<ArtifactView>>(&format!("/v1/jobs/{job}/artifacts"))
            .map(|listed| listed.data)
    }

    /// Writes an artifact to `path`, after comparing it with its digest.
    pub fn download(&self, artifact: &ArtifactView, path: &Path) -> Result<(), DemoError> {
        let call = format!("GET {}", artifact.url);
        let answer = self.agent.get(self.url(&artifact.url)).call();
        let mut answer = accept(&call, answer)?;
        let bytes = answer
            .body_mut()
            .with_config()
            .limit(LARGEST_DOWNLOAD)
            .read_to_vec()
            .map_err(|source| http(&call, source))?;
        let found = format!("sha256:{}", hex::encode(Sha256::digest(&bytes)));
        if found != artifact.digest {
            return Err(DemoError::UnexpectedAnswer {
                call,
                what: format!("bytes of {found} instead of {}", artifact.digest),
            });
        }
        std::fs::write(path, bytes).map_err(DemoError::io(format!("writing {}", path.display())))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, DemoError> {
        read(format!("GET {path}"), self.agent.get(self.url(path)).call())
    }

    /// `reference` is a path or already a whole address.
    fn url(&self, reference: &str) -> String {
        if reference.starts_with('/') {
            format!("{}{reference}", self.base)
        } else {
            reference.to_owned()
        }
    }
}

type Answer = Result<Response<Body>, ureq::Error>;

fn http(call: &str, source: ureq::Error) -> DemoError {
    DemoError::Http {
        call: call.to_owned(),
        source: Box::new(source),
    }
}

/// The answer, when its status is 2xx.
fn accept(call: &str, answer: Answer) -> Result<Response<Body>, DemoError> {
    let mut answer = answer.map_err(|source| http(call, source))?;
    if answer.status().is_success() {
        return Ok(answer);
    }
    let status = answer.status().as_u16();
    let text = answer.body_mut().read_to_string().unwrap_or_default();
    match serde_json::from_str::<Problem>(&text) {
        Ok(problem) => Err(DemoError::Refused {
            call: call.to_owned(),
            status,
            problem: Box::new(problem),
        }),
        Err(_) => Err(DemoError::UnexpectedAnswer {
            call: call.to_owned(),
            what: format!("{status} without problem details: {text}"),
        }),
    }
}

fn read<T: DeserializeOwned>(call: String, answer: Answer) -> Result<T, DemoError> {
    let mut answer = accept(&call, answer)?;
    answer
        .body_mut()
        .read_json()
        .map_err(|source| http(&call, source))
}
