//! An MLflow tracking server (its REST API, 2.0): what ended jobs are written to, and what models can come from.

pub mod export;
mod figures;
pub mod import;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use ureq::{Agent, Body, SendBody};
use url::Url;

use crate::config::trust::agent;
use crate::config::{ConfigError, Settings};
use crate::store::StoreError;

/// How long a connection, a write, and the body of an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The tag by which the run of a job is found again.
const JOB_TAG: &str = "sinter.job_id";

/// The tag of a version that says whose it is.
const PROJECT_TAG: &str = "sinter.project";

/// A tracking server.
pub struct Mlflow {
    agent: Agent,
    url: String,
    authorization: Option<String>,
    experiment: String,
    alias: String,
}

impl fmt::Debug for Mlflow {
    /// Without the secrets.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Mlflow")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("MLflow can't be reached: {0}")]
    Unreachable(String),
    #[error("MLflow answered {status} {code}: {message}")]
    Refused {
        status: u16,
        code: String,
        message: String,
    },
    #[error("MLflow's answer lacks `{0}`")]
    Incomplete(&'static str),
    #[error(
        "the run's files are at `{0}`, which MLflow does not serve; start it with --serve-artifacts (the default), and \
         give the experiment a location under mlflow-artifacts:"
    )]
    NotServed(String),
    #[error("can't read `{path}`: {source}")]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the job was deleted meanwhile")]
    Gone,
}

impl Failure {
    pub fn unreachable(error: impl fmt::Display) -> Self {
        Self::Unreachable(error.to_string())
    }

    /// Whether another try would be answered alike. Missing rights may be given, so they are tried again.
    fn is_final(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                (400..500).contains(status) && ![401, 403, 408, 409, 429].contains(status)
            }
            Self::NotServed(_) | Self::Gone => true,
            Self::Unreachable(_) | Self::Incomplete(_) | Self::File { .. } | Self::Store(_) => {
                false
            }
        }
    }

    fn has_code(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { code, .. } if code == wanted)
    }
}

impl Mlflow {
    /// `None` without `mlflow_url`.
    pub fn new(settings: &Settings) -> Result<Option<Self>, ConfigError> {
        let url = settings.mlflow_url.trim_end_matches('/').to_owned();
        if url.is_empty() {
            return Ok(None);
        }
        let config = agent(settings)?
            .timeout_connect(Some(PATIENCE))
            .timeout_per_write(Some(PATIENCE))
            // It may bring a file to a store of its own before it answers.
            .timeout_recv_response(Some(10 * PATIENCE))
            .build();
        let authorization = if !settings.mlflow_token.is_empty() {
            Some(format!("Bearer {}", settings.mlflow_token))
        } else if !settings.mlflow_username.is_empty() {
            let pair = format!("{}:{}", settings.mlflow_username, settings.mlflow_password);
            Some(format!("Basic {}", STANDARD.encode(pair)))
        } else {
            None
        };
        Ok(Some(Self {
            agent: config.new_agent(),
            url,
            authorization,
            experiment: settings.mlflow_experiment.clone(),
            alias: settings.mlflow_alias.clone(),
        }))
    }

    /// The answer if it says yes. Its body may take `within`, all in all, or without it as long as something comes.
    fn answer(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, String)],
        body: SendBody<'_>,
        within: Option<Duration>,
    ) -> Result<ureq::http::Response<Body>, Failure> {
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(body).map_err(Failure::unreachable)?;
        let request = self.agent.configure_request(request);
        let request = match within {
            Some(_) => request.timeout_recv_body(within),
            None => request.timeout_per_read(Some(PATIENCE)),
        };
        let answer = self.agent.run(request.build());
        let mut answer = answer.map_err(Failure::unreachable)?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status().as_u16();
        let text = read(&mut answer)?;
        let value: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        let word = |name: &str| value[name].as_str().map(str::to_owned);
        Err(Failure::Refused {
            status,
            code: word("error_code").unwrap_or_default(),
            message: word("message").unwrap_or_else(|| text.chars().take(500).collect()),
        })
    }

    fn send(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, String)],
        body: SendBody<'_>,
    ) -> Result<Value, Failure> {
        let mut answer = self.answer(method, url, headers, body, Some(PATIENCE))?;
        Ok(serde_json::from_str(&read(&mut answer)?).unwrap_or(Value::Null))
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let url = format!("{}/api/2.0/mlflow/{path}", self.url);
        let text = body.to_string();
        // MLflow's server reads no body that comes in chunks.
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("content-length", text.len().to_string()),
        ];
        let body = SendBody::from_owned_reader(std::io::Cursor::new(text));
        self.send("POST", &url, &headers, body)
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Failure> {
        let mut url = Url::parse(&format!("{}/api/2.0/mlflow/{path}", self.url))
            .map_err(Failure::unreachable)?;
        url.query_pairs_mut().extend_pairs(query);
        self.send("GET", url.as_str(), &[], SendBody::none())
    }

    /// Where the server serves a file below a place that it keeps files at.
    fn file_url(&self, artifact_uri: &str, name: &str) -> Result<Url, Failure> {
        let path = served_path(artifact_uri)?;
        self.files_url(path.split('/').chain(name.split('/')))
    }

    /// Where the server lists folders and serves files.
    fn files_url<'a>(&self, path: impl Iterator<Item = &'a str>) -> Result<Url, Failure> {
        let mut url = Url::parse(&self.url).map_err(Failure::unreachable)?;
        if let Ok(mut segments) = url.path_segments_mut() {
            let route = "api/2.0/mlflow-artifacts/artifacts".split('/');
            segments.pop_if_empty().extend(route.chain(path));
        }
        Ok(url)
    }
}

fn read(answer: &mut ureq::http::Response<Body>) -> Result<String, Failure> {
    let text = answer.body_mut().read_to_string();
    text.map_err(Failure::unreachable)
}

/// The path of `mlflow-artifacts:/path` or `mlflow-artifacts://host/path`.
fn served_path(artifact_uri: &str) -> Result<&str, Failure> {
    let place = artifact_uri.strip_prefix("mlflow-artifacts:");
    let place = place.ok_or_else(|| Failure::NotServed(artifact_uri.to_owned()))?;
    Ok(match place.strip_prefix("//") {
        Some(rest) => rest.split_once('/').map_or("", |(_, path)| path),
        None => place.trim_start_matches('/'),
    })
}

/// A version's number: a number in some versions of the server, a text in others.
fn number_of(version: &Value) -> Option<String> {
    match &version["version"] {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}
