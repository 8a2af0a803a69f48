//! A user of the service, for the commands that speak to one: `sinter submit`, `watch`, `get`, `ls`, and `demo`.

/// Writes a line for the person at the terminal to standard error. Who has gone away misses it, and nothing else happens.
macro_rules! tell {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

pub(crate) use tell;

pub mod follow;
pub mod table;

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use ureq::http::{Request, Response};
use ureq::tls::TlsConfig;
use ureq::unversioned::multipart::{Form, Part};
use ureq::{Agent, Body, SendBody};
use url::form_urlencoded::Serializer;
use uuid::Uuid;

use crate::spec::Problem;
use crate::spec::child::Progress;
use crate::spec::result::JobResult;

/// How long a call may take that brings no file.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long `/readyz` may take.
const READY_PATIENCE: Duration = Duration::from_secs(5);

/// How long a connection may take, and the answer to an upload, which the service reads through before.
const CONNECT: Duration = Duration::from_secs(20);
const INSPECTION: Duration = Duration::from_secs(3600);

/// Waits before a call is made again that brought no answer, or the answer that there will be one later.
const WAITS: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(10),
];

/// The longest page of a list.
const ROWS_OF_A_PAGE: usize = 100;

const OCTETS: &str = "application/octet-stream";

/// Statuses that pass: too many requests, and those of a gateway whose server is away or slow.
const PASSING: [u16; 4] = [429, 502, 503, 504];

/// Before a call is made again whose earlier try still runs.
const IN_USE_WAIT: Duration = Duration::from_secs(1);

/// What has more is only sent once the service has said that it takes it, so that a refusal is heard.
const ASK_FIRST_BYTES: u64 = 1 << 20;

/// How long nothing may come of a file.
const STALLED: Duration = Duration::from_secs(60);

/// The longest `Retry-After` that is heeded.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What can go wrong between a user and the service.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("{call} failed at {base}: {source}{}", hint(source))]
    Http {
        call: String,
        /// The address of the service.
        base: String,
        #[source]
        source: Box<ureq::Error>,
    },
    #[error("{call} was refused with {status}: {problem}")]
    Refused {
        call: String,
        status: u16,
        problem: Box<Problem>,
    },
    #[error("{call} answered {what}")]
    UnexpectedAnswer {
        call: String,
        /// `None` where the status was as it should be.
        status: Option<u16>,
        what: String,
    },
    #[error("{action}: {source}")]
    File { action: String, source: io::Error },
    #[error(
        "there is no {what} called `{name}`: neither a file here{folder}, nor one that the service has{other}; `sinter ls` lists those"
    )]
    Unknown {
        what: &'static str,
        name: String,
        /// Says so if there is a folder of that name.
        folder: &'static str,
        /// Says so if something else of the service is called so.
        other: &'static str,
    },
}

/// What to do where nobody listens.
fn hint(source: &ureq::Error) -> &'static str {
    match source {
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            "; is `sinter serve` running there? --url or SINTER_URL names another address"
        }
        _ => "",
    }
}

impl ClientError {
    /// For `map_err` on file operations.
    pub fn file(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let action = format!("can't {action} `{}`", path.display());
        move |source| Self::File { action, source }
    }

    /// Whether another try may bring another answer: there was none, or one that is given while a server or what stands
    /// before it is busy or begins anew.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Http { source, .. } => !matches!(
                **source,
                ureq::Error::BadUri(_) | ureq::Error::Tls(_) | ureq::Error::Rustls(_)
            ),
            Self::Refused { status, .. } => PASSING.contains(status),
            Self::UnexpectedAnswer { status, .. } => {
                status.is_some_and(|status| PASSING.contains(&status))
            }
            Self::File { .. } | Self::Unknown { .. } => false,
        }
    }

    /// Whether an earlier try of the same call, whose answer was lost, still runs.
    fn is_in_use(&self) -> bool {
        matches!(self, Self::Refused { problem, .. } if problem.code == "idempotency_key_in_use")
    }
}

/// A job as its followers read it.
#[derive(Debug, Clone, Deserialize)]
pub struct JobView {
    pub id: Uuid,
    #[serde(default)]
    pub kind: String,
    #[serde(default)]
    pub name: Option<String>,
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
pub struct ArtifactView {
    pub name: String,
    /// `sha256:` and hexadecimal digits.
    pub digest: String,
    pub size_bytes: u64,
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

/// A page of a list, as JSON.
#[derive(Deserialize)]
struct Page {
    data: Vec<Value>,
    next_cursor: Option<String>,
}

/// One file of an upload.
#[derive(Debug, Clone)]
pub struct LocalFile {
    /// Relative, as an ONNX file with external data names its parts.
    pub name: String,
    pub path: PathBuf,
}

/// A user of the service at one address.
pub struct Client {
    agent: Agent,
    base: String,
    authorization: Option<String>,
}

impl fmt::Debug for Client {
    /// Without the key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Client")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}

/// The body of a request.
struct Content {
    media_type: String,
    /// Bytes, where it is known how many.
    length: Option<u64>,
    body: SendBody<'static>,
}

impl Content {
    fn bytes(media_type: &str, bytes: Vec<u8>) -> Self {
        Self {
            media_type: media_type.to_owned(),
            length: Some(bytes.len() as u64),
            body: SendBody::from_owned_reader(Cursor::new(bytes)),
        }
    }

    /// One file as it is, several as a form. The bar counts the bytes on their way.
    fn files(files: &[LocalFile], bar: &ProgressBar) -> Result<Self, ClientError> {
        bar.reset();
        let mut opened = Vec::new();
        let mut total = 0;
        for file in files {
            let reader = File::open(&file.path);
            let reader = reader.map_err(ClientError::file("read", &file.path))?;
            let about = reader.metadata();
            let about = about.map_err(ClientError::file("read", &file.path))?;
            if about.is_dir() {
                let source = io::Error::other("it is a folder; put it into a zip or tar");
                return Err(ClientError::file("upload", &file.path)(source));
            }
            total += about.len();
            opened.push((file, bar.wrap_read(reader)));
        }
        bar.set_length(total);
        if opened.len() > 1 {
            let mut form = Form::new();
            for (file, reader) in opened {
                form = form.part("file", Part::owned_reader(reader).file_name(&file.name));
            }
            return Ok(Self {
                media_type: format!("multipart/form-data; boundary={}", form.boundary()),
                length: None,
                body: SendBody::from_owned_reader(form),
            });
        }
        Ok(Self {
            media_type: OCTETS.to_owned(),
            length: Some(total),
            body: match opened.pop() {
                Some((_, reader)) => SendBody::from_owned_reader(reader),
                None => SendBody::none(),
            },
        })
    }
}

/// A request that can be made more than once.
struct Call<'a> {
    method: &'a str,
    path: &'a str,
    /// Makes the body, for each try anew.
    content: Option<&'a dyn Fn() -> Result<Content, ClientError>>,
    /// Under which the service does it once, however often it is asked.
    key: Option<String>,
    /// `None` for one that brings a file.
    within: Option<Duration>,
    /// Before each further try.
    waits: &'static [Duration],
}

impl Client {
    /// `base` is like `http://127.0.0.1:8080`. Without `tls` the certificates of the usual authorities are trusted.
    pub fn new(base: &str, key: Option<&str>, tls: TlsConfig) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(INSPECTION))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("sinter-client/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls);
        if is_this_machine(base) {
            // Whatever proxy the environment names.
            config = config.proxy(None);
        }
        Self {
            agent: config.build().new_agent(),
            base: base.trim_end_matches('/').to_owned(),
            authorization: key.map(|key| format!("Bearer {key}")),
        }
    }

    /// Whether `/readyz` says yes; else what it says.
    pub fn ready(&self) -> Result<(), String> {
        match self.once(&Call::get("/readyz", Some(READY_PATIENCE))) {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(format!("/readyz answers {}", answer.status())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Uploads bytes and returns the id of what was made of them. `resource` is `models` or `datasets`.
    pub fn upload_bytes(
        &self,
        resource: &str,
        query: &[(&str, &str)],
        bytes: &[u8],
    ) -> Result<Uuid, ClientError> {
        self.create(resource, query, &|| {
            Ok(Content::bytes(OCTETS, bytes.to_vec()))
        })
    }

    /// Uploads a file, or a model with its external data.
    pub fn upload(
        &self,
        resource: &str,
        query: &[(&str, &str)],
        files: &[LocalFile],
        bar: &ProgressBar,
    ) -> Result<Uuid, ClientError> {
        self.create(resource, query, &|| Content::files(files, bar))
    }

    fn create(
        &self,
        resource: &str,
        query: &[(&str, &str)],
        content: &dyn Fn() -> Result<Content, ClientError>,
    ) -> Result<Uuid, ClientError> {
        let path = with_query(&format!("/v1/{resource}"), query);
        self.read::<Created>(&Call::post(&path, content))
            .map(|created| created.id)
    }

    /// Posts a job and returns its id.
    pub fn submit(&self, body: &Value) -> Result<Uuid, ClientError> {
        self.post_job::<Created>(body).map(|created| created.id)
    }

    /// Posts a job with `dry_run`; the answer is its plan.
    pub fn plan(&self, body: &Value) -> Result<Value, ClientError> {
        self.post_job(body)
    }

    /// What a model answers to a file, a text or JSON.
    pub fn predict(
        &self,
        model: Uuid,
        query: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Value, ClientError> {
        let content = || Ok(Content::bytes(OCTETS, body.to_vec()));
        let path = with_query(&format!("/v1/models/{model}/predict"), query);
        self.read(&Call {
            key: None,
            ..Call::post(&path, &content)
        })
    }

    fn post_job<T: DeserializeOwned>(&self, body: &Value) -> Result<T, ClientError> {
        let content = || {
            let text = body.to_string().into_bytes();
            Ok(Content::bytes("application/json", text))
        };
        self.read(&Call::post("/v1/jobs", &content))
    }

    /// Asked for once: who follows a job asks again.
    pub fn job(&self, id: Uuid) -> Result<JobView, ClientError> {
        let path = format!("/v1/jobs/{id}");
        self.read(&Call {
            waits: &[],
            ..Call::get(&path, Some(PATIENCE))
        })
    }

    pub fn artifacts(&self, job: Uuid) -> Result<Vec<ArtifactView>, ClientError> {
        self.get::<Listed<ArtifactView>>(&format!("/v1/jobs/{job}/artifacts"))
            .map(|listed| listed.data)
    }

    /// The rows of a list that pass the filters, in pages of `size`, each asked for when its first row is taken.
    pub fn rows<'a>(
        &'a self,
        route: &'a str,
        filters: &'a [(&'a str, &'a str)],
        size: usize,
    ) -> impl Iterator<Item = Result<Value, ClientError>> + 'a {
        let size = size.clamp(1, ROWS_OF_A_PAGE).to_string();
        let mut rows = Vec::new().into_iter();
        // No cursor before the first page, and nothing more after the last.
        let mut next: Option<Option<String>> = Some(None);
        std::iter::from_fn(move || {
            loop {
                if let Some(row) = rows.next() {
                    return Some(Ok(row));
                }
                let cursor = next.take()?;
                let mut query = filters.to_vec();
                query.push(("limit", size.as_str()));
                query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
                match self.get::<Page>(&with_query(route, &query)) {
                    Ok(page) => {
                        rows = page.data.into_iter();
                        next = page.next_cursor.map(Some);
                    }
                    Err(error) => return Some(Err(error)),
                }
            }
        })
    }

    /// What the first 1,000 events of a job warn of, in their order.
    pub fn warnings(&self, job: Uuid) -> Result<Vec<String>, ClientError> {
        let mut warnings = Vec::new();
        let route = format!("/v1/jobs/{job}/events");
        for event in self.rows(&route, &[], ROWS_OF_A_PAGE).take(1000) {
            let event = event?;
            if let ("warning", Some(message)) = (
                event["level"].as_str().unwrap_or_default(),
                event["message"].as_str(),
            ) {
                warnings.push(message.to_owned());
            }
        }
        Ok(warnings)
    }

    /// The newest job, model or data set of that name, if there is one, and whether one of the hundred before it is called so.
    pub fn find_by_name(
        &self,
        resource: &str,
        name: &str,
    ) -> Result<Option<(Uuid, bool)>, ClientError> {
        let found = self.matching(resource, "name", name)?;
        let id = found.first().and_then(id_of);
        Ok(id.map(|id| (id, found.len() > 1)))
    }

    /// The newest models or data sets that are of this file, at most as many as a page has.
    pub fn of_file(&self, resource: &str, path: &Path) -> Result<Vec<Value>, ClientError> {
        let mut file = File::open(path).map_err(ClientError::file("read", path))?;
        let (mut hasher, mut piece) = (Sha256::new(), vec![0; 1 << 18]);
        loop {
            match file
                .read(&mut piece)
                .map_err(ClientError::file("read", path))?
            {
                0 => break,
                count => hasher.update(&piece[..count]),
            }
        }
        let digest = format!("sha256:{}", hex::encode(hasher.finalize()));
        self.matching(resource, "digest", &digest)
    }

    /// Rows of the first page of a list whose `field` is `value`.
    fn matching(
        &self,
        resource: &str,
        field: &str,
        value: &str,
    ) -> Result<Vec<Value>, ClientError> {
        let route = format!("/v1/{resource}");
        let path = with_query(&route, &[(field, value)]);
        self.get::<Page>(&path).map(|page| page.data)
    }

    /// Writes a file of the service to `path`, through a file beside it that takes its place when all is there and has
    /// the digest (`sha256:` and hexadecimal digits).
    pub fn download(
        &self,
        url: &str,
        digest: &str,
        path: &Path,
        bar: &ProgressBar,
    ) -> Result<(), ClientError> {
        let call = Call::get(url, None);
        let mut answer = self.accepted(&call)?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        let mut file = temporary_file(folder).map_err(ClientError::file("write into", folder))?;
        let mut hasher = Sha256::new();
        let mut reader = bar.wrap_read(answer.body_mut().as_reader());
        let mut piece = vec![0; 1 << 18];
        loop {
            let count = match reader.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(source) => {
                    let source = Box::new(ureq::Error::Io(source));
                    let (call, base) = (call.name(), self.base.clone());
                    return Err(ClientError::Http { call, base, source });
                }
            };
            hasher.update(&piece[..count]);
            let written = file.write_all(&piece[..count]);
            written.map_err(ClientError::file("write", path))?;
        }
        let found = format!("sha256:{}", hex::encode(hasher.finalize()));
        if found != digest {
            return Err(ClientError::UnexpectedAnswer {
                call: call.name(),
                status: None,
                what: format!("bytes of {found} instead of {digest}"),
            });
        }
        let kept = file.persist(path).map_err(|error| error.error);
        kept.map(drop).map_err(ClientError::file("write", path))
    }

    /// Any answer of the service that is JSON.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.read(&Call::get(path, Some(PATIENCE)))
    }

    /// Changes what is at a path, with a JSON body or none, by a method whose repetition changes nothing more. A deletion
    /// is not repeated: its second answer would be that there is no such thing.
    pub fn act(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(), ClientError> {
        let content = body.map(|body| {
            let body = body.to_string().into_bytes();
            move || Ok(Content::bytes("application/json", body.clone()))
        });
        let content = content
            .as_ref()
            .map(|content| content as &dyn Fn() -> Result<Content, ClientError>);
        let call = Call {
            method,
            content,
            waits: if method == "DELETE" { &[] } else { &WAITS },
            ..Call::get(path, Some(PATIENCE))
        };
        self.accepted(&call).map(|_| ())
    }

    /// As [`Client::get`], or `None` when there is no such thing.
    pub fn find<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, ClientError> {
        match self.get(path) {
            Ok(found) => Ok(Some(found)),
            Err(ClientError::Refused { status: 404, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T, ClientError> {
        let mut answer = self.accepted(call)?;
        let body = answer.body_mut().with_config().limit(64 << 20);
        let text = body
            .read_to_string()
            .map_err(|source| call.failed(&self.base, source))?;
        serde_json::from_str(&text).map_err(|error| ClientError::UnexpectedAnswer {
            call: call.name(),
            status: None,
            what: format!("something that can't be read: {error}"),
        })
    }

    /// The answer when its status is 2xx, after so many tries as it takes.
    fn accepted(&self, call: &Call<'_>) -> Result<Response<Body>, ClientError> {
        let mut waits = call.waits.iter();
        let begun = Instant::now();
        loop {
            let (error, wanted) = match self.once(call) {
                Ok(answer) if answer.status().is_success() => return Ok(answer),
                Ok(answer) => {
                    let wanted = retry_after(&answer);
                    (refusal(call, answer), wanted)
                }
                Err(error) => (error, None),
            };
            // Without an answer it may have been done: a key, or nothing that is changed, lets it be sent again.
            let wait = if error.is_in_use() && begun.elapsed() < INSPECTION {
                Some(IN_USE_WAIT)
            } else if error.is_passing() && wanted.is_none_or(|wait| wait <= LONGEST_WAIT) {
                let wait = waits.next();
                wait.map(|wait| (*wait).max(wanted.unwrap_or_default()))
            } else {
                None
            };
            match wait {
                Some(wait) => thread::sleep(wait),
                None => return Err(error),
            }
        }
    }

    fn once(&self, call: &Call<'_>) -> Result<Response<Body>, ClientError> {
        // The key is for this service alone, whatever address one of its answers names.
        if !call.path.starts_with('/') {
            return Err(ClientError::UnexpectedAnswer {
                call: call.name(),
                status: None,
                what: "an address that is no path of this service".to_owned(),
            });
        }
        let url = format!("{}{}", self.base, call.path);
        let mut request = Request::builder().method(call.method).uri(url);
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        if let Some(key) = &call.key {
            request = request.header("idempotency-key", key);
        }
        let content = call.content.map(|content| content()).transpose()?;
        let mut body = SendBody::none();
        if let Some(content) = content {
            request = request.header("content-type", content.media_type);
            if let Some(length) = content.length {
                request = request.header("content-length", length);
            }
            if content.length.is_none_or(|length| length > ASK_FIRST_BYTES) {
                request = request.header("expect", "100-continue");
            }
            body = content.body;
        }
        let request = request.body(body);
        let request = request.map_err(|error| call.failed(&self.base, error.into()))?;
        let request = self.agent.configure_request(request);
        let stalled = call.content.is_none().then_some(STALLED);
        let request = request
            .timeout_global(call.within)
            .timeout_per_read(stalled);
        let answer = self.agent.run(request.build());
        answer.map_err(|error| call.failed(&self.base, error))
    }
}

impl<'a> Call<'a> {
    fn get(path: &'a str, within: Option<Duration>) -> Self {
        Self {
            method: "GET",
            path,
            content: None,
            key: None,
            within,
            waits: &WAITS,
        }
    }

    /// One that is sent again, because its answer was lost, makes nothing twice.
    fn post(path: &'a str, content: &'a dyn Fn() -> Result<Content, ClientError>) -> Self {
        Self {
            method: "POST",
            path,
            content: Some(content),
            key: Some(Uuid::now_v7().to_string()),
            within: None,
            waits: &WAITS,
        }
    }

    /// For messages.
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn failed(&self, base: &str, source: ureq::Error) -> ClientError {
        ClientError::Http {
            call: self.name(),
            base: base.to_owned(),
            source: Box::new(source),
        }
    }
}

/// The id of a row of a list.
pub fn id_of(row: &Value) -> Option<Uuid> {
    row["id"].as_str().and_then(|id| id.parse().ok())
}

fn refusal(call: &Call<'_>, mut answer: Response<Body>) -> ClientError {
    let status = answer.status().as_u16();
    let place = answer.headers().get("location");
    if let Some(place) = place.filter(|_| (300..400).contains(&status)) {
        let place = String::from_utf8_lossy(place.as_bytes());
        return ClientError::UnexpectedAnswer {
            call: call.name(),
            status: Some(status),
            what: format!("that it is at {place}; name the final address of the service"),
        };
    }
    let text = answer.body_mut().read_to_string().unwrap_or_default();
    match serde_json::from_str::<Problem>(&text) {
        Ok(problem) => ClientError::Refused {
            call: call.name(),
            status,
            problem: Box::new(problem),
        },
        Err(_) => ClientError::UnexpectedAnswer {
            call: call.name(),
            status: Some(status),
            what: format!("{status} without problem details: {text}"),
        },
    }
}

fn retry_after(answer: &Response<Body>) -> Option<Duration> {
    let value = answer.headers().get("retry-after")?.to_str().ok()?;
    value.parse().ok().map(Duration::from_secs)
}

fn is_this_machine(base: &str) -> bool {
    let url = url::Url::parse(base).ok();
    match url.as_ref().and_then(url::Url::host) {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A path with its query.
fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    if query.is_empty() {
        return path.to_owned();
    }
    let mut encoded = Serializer::new(String::new());
    encoded.extend_pairs(query);
    format!("{path}?{}", encoded.finish())
}

/// A file that others may read as far as the user's mask lets them; by themselves temporary files are for their owner alone.
fn temporary_file(folder: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    #[cfg(unix)]
    builder.permissions(permissions);
    builder.tempfile_in(folder)
}
