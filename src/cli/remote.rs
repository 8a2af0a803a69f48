//! `sinter submit`, `upload`, `watch`, `get`, `predict`, `ls`, `cancel`, `retry`, `rename`, `rm` and `health`: a service used from a terminal.

mod change;
mod fetch;
mod list;
mod predict;
mod submit;
mod upload;

use std::error::Error;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use ureq::tls::TlsConfig;
use uuid::Uuid;

pub use change::{JobsFlags, RemoveFlags, RenameFlags, cancel, remove, rename, retry};
pub use fetch::{GetFlags, get};
pub use list::{ListFlags, list};
pub use predict::{PredictFlags, predict};
pub use submit::{SubmitFlags, submit};
pub use upload::{UploadFlags, upload};

use crate::client::follow::follow;
use crate::client::tell;
use crate::client::{Client, ClientError, JobView, table};
use crate::config::ConfigError;
use crate::config::trust::trusting;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

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

/// A JSON object in an argument, or in the file that it names.
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

/// Flags of `sinter watch`.
#[derive(Debug, Clone, Args)]
pub struct WatchFlags {
    /// Ids or names of jobs
    #[arg(required = true, value_name = "JOB")]
    jobs: Vec<String>,
    /// Print the jobs as JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    service: ServiceFlags,
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

/// Follows jobs to their end; an error unless all succeeded.
pub fn watch(flags: &WatchFlags) -> Outcome {
    let client = flags.service.client()?;
    let jobs = flags.jobs.iter().map(|wanted| {
        let id = named(&client, "jobs", wanted)?;
        if wanted.parse::<Uuid>().is_err() {
            return Ok((wanted.clone(), id));
        }
        // People read names rather than ids; the end of an id tells those without one apart. What hinders this is told
        // when the job is followed.
        let shown = client.job(id).ok().map(|job| {
            let short = &wanted[wanted.len().saturating_sub(8)..];
            job.name.unwrap_or_else(|| format!("{} …{short}", job.kind))
        });
        Ok((shown.unwrap_or_else(|| wanted.clone()), id))
    });
    let jobs: Vec<_> = jobs.collect::<Outcome<_>>()?;
    let ended = follow::<ClientError>(&client, &jobs, || Ok(()))?;
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
            Some(problem) => tell!("{name} {}: {problem}", job.status),
            None => tell!("{name} {}", job.status),
        }
    }
    for (name, job) in ended {
        // Whatever hinders this says nothing about the job.
        for warning in client.warnings(job.id).unwrap_or_default() {
            tell!("{name}: warning: {warning}");
        }
    }
    match unsuccessful.len() {
        0 => Ok(()),
        count => Err(format!("{count} of {} jobs did not succeed", ended.len()).into()),
    }
}

/// The newest job, model or data set of that name; standard error says if it is not the only one.
fn newest(client: &Client, resource: &str, name: &str) -> Outcome<Option<Uuid>> {
    let found = client.find_by_name(resource, name)?;
    if let Some((id, true)) = found {
        tell!("several are called `{name}`: the newest is taken, {id}");
    }
    Ok(found.map(|(id, _)| id))
}

/// The id that `wanted` is, or that of the newest job, model or data set of that name.
fn named(client: &Client, resource: &str, wanted: &str) -> Outcome<Uuid> {
    if let Ok(id) = wanted.parse() {
        return Ok(id);
    }
    let what = match resource {
        "jobs" => "job",
        "models" => "model",
        _ => "data set",
    };
    let found = newest(client, resource, wanted)?;
    found.ok_or_else(|| format!("there is no {what} `{wanted}`").into())
}

/// JSON for people: what is short, and lists of plain values, on one line.
fn pretty(value: &Value) -> String {
    let mut text = String::new();
    lay_out(value, 0, &mut text);
    text.push('\n');
    text
}

/// How long a line of [`pretty`] may be that has a whole object or list of lists.
const LINE: usize = 80;

fn lay_out(value: &Value, indent: usize, text: &mut String) {
    let line = value.to_string();
    let is_plain = |value: &Value| !value.is_object() && !value.is_array();
    let short = match value {
        Value::Array(items) => items.iter().all(is_plain),
        _ => false,
    };
    let (opening, closing) = if value.is_array() {
        ('[', ']')
    } else {
        ('{', '}')
    };
    if is_plain(value) || short || line.len() + indent <= LINE {
        return text.push_str(&line);
    }
    let entries: Vec<(Option<&String>, &Value)> = match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (Some(name), value))
            .collect(),
        Value::Array(items) => items.iter().map(|item| (None, item)).collect(),
        _ => Vec::new(),
    };
    text.push(opening);
    for (index, (name, value)) in entries.into_iter().enumerate() {
        text.push_str(if index > 0 { ",\n" } else { "\n" });
        text.push_str(&" ".repeat(indent + 2));
        if let Some(name) = name {
            text.push_str(&format!("{}: ", json!(name)));
        }
        lay_out(value, indent + 2, text);
    }
    text.push('\n');
    text.push_str(&" ".repeat(indent));
    text.push(closing);
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
    fn scores_take_a_line_and_what_is_laid_out_is_the_same_json() {
        let scores: Vec<f64> = (0..200).map(f64::from).collect();
        let group = json!({"name": "g0", "units": 200, "scores": scores, "layers": ["a\"b", "c"]});
        let value = json!({"kind": "prune", "plan": {"groups": [group, {}], "nothing": []}});
        let text = pretty(&value);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(text.lines().count() < 20, "{text}");
        assert!(
            text.contains("\n      {\n        \"layers\": [\"a\\\"b\",\"c\"],\n"),
            "{text}"
        );
    }
}
