//! `sinter submit`, `watch`, `get`, `ls` and `health`: a service used from a terminal.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use clap::{Args, ValueEnum};
use comfy_table::{Cell, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value, json};
use ureq::tls::TlsConfig;
use uuid::Uuid;

use crate::client::follow::follow;
use crate::client::{
    ArtifactView, Client, ClientError, JobView, LocalFile, Page, table, with_query,
};
use crate::config::ConfigError;
use crate::config::trust::trusting;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The longest page of a list.
const PAGE_LIMIT: usize = 100;

/// Which service, and by which right.
#[derive(Debug, Clone, Args)]
pub struct ServiceFlags {
    /// Address of the service
    #[arg(
        long,
        env = "SINTER_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    url: String,
    /// Key of the API, where the service asks for one
    #[arg(long, env = "SINTER_KEY", value_name = "KEY", hide_env_values = true)]
    key: Option<String>,
    /// PEM file with the certificates that the service's TLS is trusted by [default: the usual authorities]
    #[arg(long, env = "SINTER_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl ServiceFlags {
    fn client(&self) -> Outcome<Client> {
        let url = url::Url::parse(&self.url);
        if !url.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host()) {
            return Err(format!("--url is like http://127.0.0.1:8080, not `{}`", self.url).into());
        }
        let tls = trust(self.ca.as_deref())?;
        Ok(Client::new(&self.url, self.key.as_deref(), tls))
    }
}

fn trust(ca: Option<&Path>) -> Outcome<TlsConfig> {
    trusting(ca.unwrap_or(Path::new(""))).map_err(|error| match error {
        ConfigError::Invalid { fault, .. } => format!("--ca {fault}").into(),
        error => error.into(),
    })
}

/// Flags of `sinter health`.
#[derive(Debug, Clone, Args)]
pub struct HealthFlags {
    /// Address of the service [default: this machine, at the port of SINTER_LISTEN]
    #[arg(long, env = "SINTER_URL", value_name = "URL")]
    url: Option<String>,
    /// What the service listens on
    #[arg(
        long,
        env = "SINTER_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8080"
    )]
    listen: SocketAddr,
    /// PEM file with the certificates that the TLS of another service is trusted by [default: the usual authorities]
    #[arg(long, env = "SINTER_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The certificate of the service, which makes it speak TLS
    #[arg(long, env = "SINTER_TLS_CERTIFICATE", value_name = "FILE")]
    tls_certificate: Option<PathBuf>,
}

/// Flags of `sinter submit`.
#[derive(Debug, Clone, Args)]
pub struct SubmitFlags {
    /// What to do: train, evaluate, prune, distill, search or pipeline
    #[arg(value_name = "KIND")]
    kind: String,
    /// A file to upload, or the id or name of a model that the service has, or models:/NAME@ALIAS of its MLflow
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// A file with external data of the model; may be repeated [default: MODEL.data, if it is there]
    #[arg(long, value_name = "FILE")]
    model_data: Vec<PathBuf>,
    /// A file to upload, or the id or name of a data set that the service has
    #[arg(long, value_name = "DATASET")]
    dataset: Option<String>,
    /// Column of a table that is to be predicted, of a data set that is uploaded [default: the last]
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// Column of a table that holds texts, of a data set that is uploaded
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
    /// Name of the job and of the model that it makes
    #[arg(long)]
    name: Option<String>,
    /// Parameters of the kind: JSON, or @FILE with it
    #[arg(long, value_name = "JSON", value_parser = read_json)]
    params: Option<Value>,
    /// One parameter, for instance target.macs_ratio=0.5; may be repeated, and wins over --params
    #[arg(long, value_name = "NAME=VALUE", value_parser = read_setting)]
    set: Vec<Setting>,
    /// The request's `data`: JSON, or @FILE with it
    #[arg(long, value_name = "JSON", value_parser = read_json)]
    data: Option<Value>,
    /// Whatever else the request has: JSON, or @FILE with it; flags win over it
    #[arg(long, value_name = "JSON", value_parser = read_json)]
    request: Option<Value>,
    /// A tag; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = read_pair)]
    tag: Vec<(String, String)>,
    /// Seed of all that is random
    #[arg(long)]
    seed: Option<u64>,
    /// Device to run on, as `GET /v1/devices` names them
    #[arg(long)]
    device: Option<String>,
    /// Print the plan and its cost of a prune or search job instead of running it; files are uploaded nevertheless
    #[arg(long, conflicts_with_all = ["watch", "output"])]
    dry_run: bool,
    /// Follow the job to its end
    #[arg(long)]
    watch: bool,
    /// Follow the job, then fetch its model and report.html into this folder (`sinter get` fetches more)
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    #[command(flatten)]
    service: ServiceFlags,
}

/// Flags of `sinter watch`.
#[derive(Debug, Clone, Args)]
pub struct WatchFlags {
    /// Ids of jobs
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<Uuid>,
    /// Print the jobs as JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    service: ServiceFlags,
}

/// Flags of `sinter get`.
#[derive(Debug, Clone, Args)]
pub struct GetFlags {
    /// Id of a job or a model, or the name of a model
    #[arg(value_name = "JOB_OR_MODEL")]
    wanted: String,
    /// Artifacts of the job [default: model.onnx and report.html; `all` for every one]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Folder for the files [default: the current one]
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    /// Replace files that are there already
    #[arg(long)]
    force: bool,
    /// Print what the service says about the job or model as JSON instead of fetching files
    #[arg(long, conflicts_with_all = ["names", "output", "force"])]
    json: bool,
    #[command(flatten)]
    service: ServiceFlags,
}

/// What is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Resource {
    Jobs,
    Models,
    Datasets,
}

impl Resource {
    fn route(self) -> &'static str {
        match self {
            Self::Jobs => "/v1/jobs",
            Self::Models => "/v1/models",
            Self::Datasets => "/v1/datasets",
        }
    }

    /// What a table shows, and where that is in JSON.
    fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Jobs => &[
                ("id", "/id"),
                ("kind", "/kind"),
                ("name", "/name"),
                ("status", "/status"),
                ("progress", "/progress/fraction"),
                ("created", "/created_at"),
            ],
            Self::Models => &[
                ("id", "/id"),
                ("name", "/name"),
                ("format", "/format"),
                ("bytes", "/size_bytes"),
                ("nonzero parameters", "/summary/nonzero_parameters"),
                ("MACs", "/summary/macs"),
                ("created", "/created_at"),
            ],
            Self::Datasets => &[
                ("id", "/id"),
                ("name", "/name"),
                ("format", "/format"),
                ("bytes", "/size_bytes"),
                ("train", "/splits/train"),
                ("test", "/splits/test"),
                ("created", "/created_at"),
            ],
        }
    }
}

/// Flags of `sinter ls`.
#[derive(Debug, Clone, Args)]
pub struct ListFlags {
    /// What to list
    #[arg(value_enum, default_value = "jobs")]
    what: Resource,
    /// Jobs of this status only
    #[arg(long)]
    status: Option<String>,
    /// Jobs of this kind only
    #[arg(long)]
    kind: Option<String>,
    /// Jobs with this tag only: KEY or KEY:VALUE
    #[arg(long)]
    tag: Option<String>,
    /// Rows, at most
    #[arg(long, default_value_t = 20)]
    limit: usize,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    service: ServiceFlags,
}

/// A parameter by the names that lead to it.
#[derive(Debug, Clone, PartialEq)]
struct Setting {
    path: Vec<String>,
    value: Value,
}

fn read_json(text: &str) -> Result<Value, String> {
    let text = match text.strip_prefix('@') {
        None => text.to_owned(),
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| format!("can't read `{path}`: {error}"))?,
    };
    match serde_json::from_str(&text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err("must be a JSON object".to_owned()),
        Err(error) => Err(format!(
            "is not JSON: {error}; a file with it is named as @FILE"
        )),
    }
}

fn read_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be like name=value".to_owned()),
    }
}

/// What is no JSON is a string, so that quotes are seldom needed.
fn read_setting(text: &str) -> Result<Setting, String> {
    let (name, value) = read_pair(text)?;
    let path: Vec<String> = name.split('.').map(str::to_owned).collect();
    if path.iter().any(String::is_empty) {
        return Err(format!("`{name}` has an empty name between its points"));
    }
    let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
    Ok(Setting { path, value })
}

impl Setting {
    fn apply(&self, params: &mut Value) -> Result<(), String> {
        let mut place = params;
        for name in &self.path {
            let Value::Object(fields) = place else {
                let name = self.path.join(".");
                return Err(format!(
                    "--set {name} leads through a value that is no object"
                ));
            };
            place = fields.entry(name).or_insert_with(|| json!({}));
        }
        *place = self.value.clone();
        Ok(())
    }
}

/// Asks a service, by default the one of the same environment, whether it is ready.
pub fn health(flags: &HealthFlags) -> Outcome {
    let client = match &flags.url {
        Some(url) => Client::new(url, None, trust(flags.ca.as_deref())?),
        None => {
            let certificate = flags.tls_certificate.as_deref();
            let has_tls = certificate.is_some_and(|path| !path.as_os_str().is_empty());
            let scheme = if has_tls { "https" } else { "http" };
            let host = match flags.listen.ip() {
                address if address.is_unspecified() => "localhost".to_owned(),
                IpAddr::V6(address) => format!("[{address}]"),
                IpAddr::V4(address) => address.to_string(),
            };
            // The certificate is for those names that others reach it by.
            let tls = TlsConfig::builder().disable_verification(true).build();
            let url = format!("{scheme}://{host}:{}", flags.listen.port());
            Client::new(&url, None, tls)
        }
    };
    client.ready()?;
    say("ready\n")
}

/// Gives the service a job.
pub fn submit(flags: &SubmitFlags) -> Outcome {
    let client = flags.service.client()?;
    let body = request_of(flags, &client)?;
    if body["dry_run"] == true {
        return say(&pretty(&client.plan(&body)?));
    }
    let id = client.submit(&body)?;
    say(&format!("{id}\n"))?;
    if !flags.watch && flags.output.is_none() {
        return Ok(());
    }
    let name = flags.name.clone().unwrap_or_else(|| flags.kind.clone());
    let ended = follow::<ClientError>(&client, &[(name, id)], || Ok(()))?;
    conclude(&ended, false, &client)?;
    match &flags.output {
        Some(folder) => fetch(&client, id, &[], folder, true),
        None => Ok(()),
    }
}

/// The request's body; files that it names are uploaded.
fn request_of(flags: &SubmitFlags, client: &Client) -> Outcome<Value> {
    let mut body = match &flags.request {
        Some(Value::Object(fields)) => fields.clone(),
        _ => Map::new(),
    };
    body.insert("kind".to_owned(), json!(flags.kind));
    let given = flags.params.clone().or_else(|| body.remove("params"));
    let mut params = given.unwrap_or_else(|| json!({}));
    for setting in &flags.set {
        setting.apply(&mut params)?;
    }
    body.insert("params".to_owned(), params);
    if let Some(data) = &flags.data {
        body.insert("data".to_owned(), data.clone());
    }
    if !flags.tag.is_empty() {
        let tags: BTreeMap<_, _> = flags.tag.iter().cloned().collect();
        body.insert("tags".to_owned(), json!(tags));
    }
    let plain = [
        ("name", flags.name.as_ref().map(|name| json!(name))),
        ("seed", flags.seed.map(|seed| json!(seed))),
        ("device", flags.device.as_ref().map(|device| json!(device))),
        ("dry_run", flags.dry_run.then_some(json!(true))),
    ];
    for (name, value) in plain {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    }
    // Both are looked for before either is uploaded.
    let model = match flags.model.starts_with("models:/") {
        true => None,
        false => Some(find(client, "models", &flags.model, &flags.model_data)?),
    };
    let dataset = flags.dataset.as_deref();
    let dataset = dataset.map(|dataset| find(client, "datasets", dataset, &[]));
    let dataset = dataset.transpose()?;
    let columns = [("target", &flags.target), ("text", &flags.text)];
    let columns = columns
        .iter()
        .filter_map(|(name, column)| Some((*name, column.as_deref()?)));
    let columns: Vec<_> = columns.collect();
    if let (Some((name, _)), false) = (
        columns.first(),
        matches!(dataset, Some(Input::Files { .. })),
    ) {
        return Err(format!("--{name} goes with a --dataset that is a file").into());
    }
    let model = match model {
        None => json!({"mlflow": flags.model}),
        Some(model) => json!(model.id(client, &[])?),
    };
    body.insert("model".to_owned(), model);
    if let Some(dataset) = dataset {
        body.insert("dataset".to_owned(), json!(dataset.id(client, &columns)?));
    }
    Ok(Value::Object(body))
}

/// A model or a data set that a job is to be for.
enum Input {
    There(Uuid),
    Files {
        resource: &'static str,
        name: String,
        files: Vec<LocalFile>,
    },
}

impl Input {
    /// Uploads it unless it is there.
    fn id(self, client: &Client, options: &[(&str, &str)]) -> Outcome<Uuid> {
        let (resource, name, files) = match self {
            Self::There(id) => return Ok(id),
            Self::Files {
                resource,
                name,
                files,
            } => (resource, name, files),
        };
        let shown = files.first().map_or(Path::new(""), |file| &file.path);
        let bar = transfer_bar(&format!("uploading {}", shown.display()));
        let query: Vec<_> = [("name", name.as_str())]
            .into_iter()
            .chain(options.iter().copied())
            .collect();
        let id = client.upload(resource, &query, &files, &bar)?;
        bar.finish_and_clear();
        eprintln!("uploaded {} as {id}", shown.display());
        Ok(id)
    }
}

/// An id, a file that is here, or the name of what the service has.
fn find(
    client: &Client,
    resource: &'static str,
    wanted: &str,
    further: &[PathBuf],
) -> Outcome<Input> {
    let path = Path::new(wanted);
    let id = wanted.parse().ok();
    if id.is_none() && path.is_file() {
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut files = vec![local(path, folder)];
        files.extend(further.iter().map(|path| local(path, folder)));
        // As PyTorch's exporter names it.
        let usual = PathBuf::from(format!("{wanted}.data"));
        if further.is_empty() && resource == "models" && usual.is_file() {
            files.push(local(&usual, folder));
        }
        let name = path.file_stem().unwrap_or_default();
        return Ok(Input::Files {
            resource,
            name: name.to_string_lossy().into_owned(),
            files,
        });
    }
    if !further.is_empty() {
        return Err("--model-data goes with a --model that is a file".into());
    }
    if let Some(id) = id {
        return Ok(Input::There(id));
    }
    let found = client.find_by_name(resource, wanted)?;
    let found = found.ok_or_else(|| ClientError::Unknown {
        what: match resource {
            "models" => "model",
            _ => "data set",
        },
        name: wanted.to_owned(),
        folder: match path.is_dir() {
            true => " (a folder goes into a zip or tar)",
            false => "",
        },
    })?;
    Ok(Input::There(found))
}

/// External data is named as seen from the model.
fn local(path: &Path, folder: &Path) -> LocalFile {
    let name = path.strip_prefix(folder).unwrap_or(path);
    LocalFile {
        name: name.to_string_lossy().into_owned(),
        path: path.to_owned(),
    }
}

/// Follows jobs to their end; an error unless all succeeded.
pub fn watch(flags: &WatchFlags) -> Outcome {
    let client = flags.service.client()?;
    let named = flags.jobs.iter().map(|&id| (id.to_string(), id));
    let named: Vec<_> = named.collect();
    let ended = follow::<ClientError>(&client, &named, || Ok(()))?;
    conclude(&ended, flags.json, &client)
}

fn conclude(ended: &[(String, JobView)], as_json: bool, client: &Client) -> Outcome {
    if as_json {
        let jobs = ended
            .iter()
            .map(|(_, job)| client.get(&format!("/v1/jobs/{}", job.id)));
        let jobs: Vec<Value> = jobs.collect::<Result<_, _>>()?;
        say(&pretty(&json!(jobs)))?;
    } else if ended.iter().any(|(_, job)| job.result.is_some()) {
        say(&format!("{}\n", table::render(ended)))?;
    }
    let unsuccessful: Vec<_> = ended.iter().filter(|(_, job)| !job.succeeded()).collect();
    for (name, job) in &unsuccessful {
        match &job.error {
            Some(problem) => eprintln!("{name} {}: {problem}", job.status),
            None => eprintln!("{name} {}", job.status),
        }
    }
    match unsuccessful.len() {
        0 => Ok(()),
        count => Err(format!("{count} of {} jobs did not succeed", ended.len()).into()),
    }
}

/// Fetches what a job made, or a model.
pub fn get(flags: &GetFlags) -> Outcome {
    let client = flags.service.client()?;
    let folder = flags.output.as_deref().unwrap_or(Path::new("."));
    let unknown = || format!("there is no job and no model `{}`", flags.wanted);
    let id = match flags.wanted.parse() {
        Ok(id) => id,
        Err(_) => (client.find_by_name("models", &flags.wanted)?).ok_or_else(unknown)?,
    };
    let job: Option<Value> = client.find(&format!("/v1/jobs/{id}"))?;
    if let Some(job) = job {
        return match flags.json {
            true => say(&pretty(&job)),
            false => fetch(&client, id, &flags.names, folder, flags.force),
        };
    }
    let model: Option<Value> = client.find(&format!("/v1/models/{id}"))?;
    let model = model.ok_or_else(unknown)?;
    if flags.json {
        return say(&pretty(&model));
    }
    if !flags.names.is_empty() {
        return Err("a model is one file; names are those of a job's artifacts".into());
    }
    let text = |name: &str| model[name].as_str().unwrap_or_default().to_owned();
    let extension = format!(".{}", text("format"));
    let name = text("name").replace(['/', '\\'], "_");
    let stem = name.strip_suffix(&extension).unwrap_or(&name);
    let file = ArtifactView {
        name: format!("{stem}{extension}"),
        digest: text("digest"),
        size_bytes: model["size_bytes"].as_u64().unwrap_or(0),
        url: format!("/v1/models/{id}/content"),
    };
    fetch_file(&client, &file, folder, flags.force)
}

/// Fetches artifacts of a job: those named, or the model and the report.
fn fetch(client: &Client, job: Uuid, names: &[String], folder: &Path, force: bool) -> Outcome {
    let artifacts = client.artifacts(job)?;
    let all = names.iter().any(|name| name == "all");
    let known: Vec<&str> = artifacts.iter().map(|each| each.name.as_str()).collect();
    let known = match known.is_empty() {
        true => "none: only jobs that succeeded have artifacts".to_owned(),
        false => known.join(", "),
    };
    for name in names.iter().filter(|name| *name != "all") {
        if !artifacts.iter().any(|artifact| artifact.name == *name) {
            return Err(format!("the job has no artifact `{name}`; it has {known}").into());
        }
    }
    let wanted = |artifact: &&ArtifactView| match names.is_empty() {
        true => matches!(artifact.name.as_str(), "model.onnx" | "report.html"),
        false => all || names.contains(&artifact.name),
    };
    let wanted: Vec<&ArtifactView> = artifacts.iter().filter(wanted).collect();
    if wanted.is_empty() {
        return Err(format!("the job has no model.onnx and no report.html; it has {known}").into());
    }
    for artifact in wanted {
        fetch_file(client, artifact, folder, force)?;
    }
    Ok(())
}

fn fetch_file(client: &Client, file: &ArtifactView, folder: &Path, force: bool) -> Outcome {
    // The service names files plainly; another server could name one that leads elsewhere.
    let mut parts = Path::new(&file.name).components();
    if !matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    ) {
        return Err(format!("`{}` is no name for a file", file.name).into());
    }
    std::fs::create_dir_all(folder).map_err(ClientError::file("make the folder", folder))?;
    let path = folder.join(&file.name);
    if path.exists() && !force {
        let shown = path.display();
        return Err(format!("`{shown}` is there already; --force replaces it").into());
    }
    let bar = transfer_bar(&format!("fetching {}", file.name));
    bar.set_length(file.size_bytes);
    client.download(&file.url, &file.digest, &path, &bar)?;
    bar.finish_and_clear();
    say(&format!("{}\n", path.display()))
}

/// Lists what the service has, the newest first.
pub fn list(flags: &ListFlags) -> Outcome {
    let client = flags.service.client()?;
    let filters = [
        ("status", &flags.status),
        ("kind", &flags.kind),
        ("tag", &flags.tag),
    ];
    let filters = filters
        .iter()
        .filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    let filters: Vec<_> = filters.collect();
    if let (Some((name, _)), true) = (filters.first(), flags.what != Resource::Jobs) {
        return Err(format!("--{name} is for jobs").into());
    }
    let route = flags.what.route();
    let mut rows: Vec<Value> = Vec::new();
    let mut cursor: Option<String> = None;
    while rows.len() < flags.limit {
        let limit = (flags.limit - rows.len()).min(PAGE_LIMIT).to_string();
        let mut query = filters.clone();
        query.push(("limit", &limit));
        if let Some(cursor) = &cursor {
            query.push(("cursor", cursor));
        }
        let page: Page = client.get(&with_query(route, &query))?;
        rows.extend(page.data);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    if flags.json {
        return say(&pretty(&json!(rows)));
    }
    let mut lines = Table::new();
    lines.load_style(presets::NOTHING);
    let columns = flags.what.columns();
    lines.set_header(columns.iter().map(|(header, _)| Cell::new(header)));
    for row in &rows {
        lines.add_row(columns.iter().map(|(_, place)| text(row.pointer(place))));
    }
    say(&format!("{}\n", lines.trim_fmt()))
}

/// A value as a cell shows it. The only fractions are those of progress.
fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "–".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => match (number.is_f64(), number.as_f64()) {
            (true, Some(fraction)) => format!("{:.0} %", fraction * 100.0),
            _ => number.to_string(),
        },
        Some(other) => other.to_string(),
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Writes to standard output; a reader that went away is no fault.
fn say(text: &str) -> Outcome {
    let mut output = std::io::stdout().lock();
    let written = output.write_all(text.as_bytes());
    match written.and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("can't write to standard output: {error}").into())
        }
        _ => Ok(()),
    }
}

/// Of bytes on their way; unseen without a terminal.
fn transfer_bar(message: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{msg} [{bar:28}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
    );
    let style = style.expect("the template is valid").progress_chars("=> ");
    ProgressBar::new(0)
        .with_style(style)
        .with_message(message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_lead_to_their_place_and_words_need_no_quotes() {
        let mut params = json!({"finetune": {"epochs": 2}});
        for text in [
            "target.macs_ratio=0.5",
            "criterion=taylor",
            "finetune.epochs=3",
        ] {
            read_setting(text).unwrap().apply(&mut params).unwrap();
        }
        let wanted = json!({"target": {"macs_ratio": 0.5}, "criterion": "taylor", "finetune": {"epochs": 3}});
        assert_eq!(params, wanted);
        let through = read_setting("criterion.norm=1").unwrap();
        assert!(through.apply(&mut params).is_err());
        assert!(read_setting("a..b=1").is_err());
    }
}
