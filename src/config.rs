//! Settings of `sinter serve`: flags over `SINTER_*` variables over `sinter.toml` over defaults.

pub mod trust;

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::spec::webhook::read_url;
use crate::store::limits::Limits;

/// Every setting with its default and a description; also what `--print-default-config` prints.
pub const DEFAULT_FILE: &str = include_str!("../sinter.default.toml");

/// The file that is read when it is there and `--config` names no other.
const USUAL_FILE: &str = "sinter.toml";

/// 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and a day: three days in all, as Standard Webhooks advises.
const WEBHOOK_RETRY_SECONDS: [u64; 9] =
    [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

/// Each setting once: its flag, its variable, its key in the file, its default.
macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident: $type:ty = $default:expr, $env:literal, $value:literal $(, { $($more:tt)+ })?;
    )+) => {
        /// What the server runs with.
        #[derive(Clone, PartialEq, Eq)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        impl Default for Settings {
            fn default() -> Self {
                Self { $($name: $default,)+ }
            }
        }

        /// Flags of `sinter serve`; each can also come from the environment.
        #[derive(Debug, Clone, Default, Args)]
        pub struct ServeFlags {
            /// Settings file [default: ./sinter.toml, if it is there]
            #[arg(long, env = "SINTER_CONFIG", value_name = "FILE")]
            pub config: Option<PathBuf>,
            /// Print the default settings file with a description of every setting, and end
            #[arg(long)]
            pub print_default_config: bool,
            $(
                $(#[doc = $doc])+
                #[arg(long, env = $env, value_name = $value $(, $($more)+)?)]
                pub $name: Option<$type>,
            )+
        }

        /// The settings file: every setting may be left out, no other key may be there.
        #[derive(Debug, Clone, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        struct FileSettings {
            $($name: Option<$type>,)+
        }

        impl Settings {
            fn merge(flags: ServeFlags, file: FileSettings) -> Self {
                let default = Self::default();
                Self { $($name: flags.$name.or(file.$name).unwrap_or(default.$name),)+ }
            }
        }

        #[cfg(test)]
        impl FileSettings {
            /// Settings that are not there.
            fn missing(&self) -> Vec<&'static str> {
                let mut missing = Vec::new();
                $(if self.$name.is_none() { missing.push(stringify!($name)); })+
                missing
            }
        }
    };
}

settings! {
    /// Address and port to listen on [default: 127.0.0.1:8080]
    listen: SocketAddr = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)), "SINTER_LISTEN", "ADDRESS:PORT";
    /// Folder of the database and all files [default: ./sinter-data]
    data_dir: PathBuf = PathBuf::from("./sinter-data"), "SINTER_DATA_DIR", "FOLDER";
    /// How many jobs run at the same time [default: 1]
    workers: usize = 1, "SINTER_WORKERS", "NUMBER";
    /// CPU threads for each job, 0 for all [default: 0]
    threads: usize = 0, "SINTER_THREADS", "NUMBER";
    /// Keys that clients must send, separated by commas, beside those of `sinter key`
    api_keys: Vec<String> = Vec::new(), "SINTER_API_KEYS", "KEYS",
        { hide_env_values = true, value_delimiter = ',' };
    /// PEM file with the certificates for TLS; empty for none
    tls_certificate: PathBuf = PathBuf::new(), "SINTER_TLS_CERTIFICATE", "FILE";
    /// PEM file with the private key for TLS
    tls_key: PathBuf = PathBuf::new(), "SINTER_TLS_KEY", "FILE";
    /// Origins of pages that browsers may let use the API, separated by commas
    cors_origins: Vec<String> = Vec::new(), "SINTER_CORS_ORIGINS", "ORIGINS", { value_delimiter = ',' };
    /// How often a key may ask in a minute, 0 for no limit [default: 0]
    requests_per_minute: u32 = 0, "SINTER_REQUESTS_PER_MINUTE", "NUMBER";
    /// How long nothing may come of a request before it is given up [default: 30]
    client_timeout_seconds: u64 = 30, "SINTER_CLIENT_TIMEOUT_SECONDS", "SECONDS";
    /// Connections at the same time, at most; more wait [default: 8192]
    connections_limit: usize = 8192, "SINTER_CONNECTIONS_LIMIT", "NUMBER";
    /// Largest upload in bytes [default: 16 GiB]
    max_upload_bytes: u64 = 16 << 30, "SINTER_MAX_UPLOAD_BYTES", "BYTES";
    /// How long an upload in pieces is kept that nobody goes on with [default: 24]
    upload_expiry_hours: u64 = 24, "SINTER_UPLOAD_EXPIRY_HOURS", "HOURS";
    /// Jobs of a project that wait, at most; 0 for no limit [default: 100000]
    queued_jobs_limit: u64 = Limits::DEFAULT.queued_jobs, "SINTER_QUEUED_JOBS_LIMIT", "NUMBER";
    /// Bytes of a project's models, data sets and artifacts, at most; 0 for no limit [default: 0]
    project_bytes_limit: u64 = Limits::DEFAULT.project_bytes, "SINTER_PROJECT_BYTES_LIMIT", "BYTES";
    /// Events of a job, at most [default: 10000]
    job_events_limit: u64 = Limits::DEFAULT.job_events, "SINTER_JOB_EVENTS_LIMIT", "NUMBER";
    /// Bytes of the disk that are kept free: with fewer nothing new is taken in [default: 256 MiB]
    free_bytes_limit: u64 = Limits::DEFAULT.free_bytes, "SINTER_FREE_BYTES_LIMIT", "BYTES";
    /// Memory of a job's process in bytes, at most; 0 for no limit [default: 0]
    job_memory_limit: u64 = 0, "SINTER_JOB_MEMORY_LIMIT", "BYTES";
    /// Whether jobs' processes are kept from the network and from other files [default: true]
    sandbox: bool = true, "SINTER_SANDBOX", "BOOL";
    /// Whether webhooks may go to this machine and to private networks [default: false]
    webhooks_private: bool = false, "SINTER_WEBHOOKS_PRIVATE", "BOOL";
    /// PEM file with the certificates that others' TLS is trusted by; empty for the usual ones
    outgoing_ca: PathBuf = PathBuf::new(), "SINTER_OUTGOING_CA", "FILE";
    /// MLflow tracking server that ended jobs are written to; empty for none
    mlflow_url: String = String::new(), "SINTER_MLFLOW_URL", "URL";
    /// Token for MLflow; or a user name and a password
    mlflow_token: String = String::new(), "SINTER_MLFLOW_TOKEN", "TOKEN", { hide_env_values = true };
    /// User name for MLflow
    mlflow_username: String = String::new(), "SINTER_MLFLOW_USERNAME", "NAME";
    /// Password for MLflow
    mlflow_password: String = String::new(), "SINTER_MLFLOW_PASSWORD", "PASSWORD", { hide_env_values = true };
    /// Experiment of the runs [default: sinter]
    mlflow_experiment: String = "sinter".to_owned(), "SINTER_MLFLOW_EXPERIMENT", "NAME";
    /// Alias of the newest version of a registered model; empty for none [default: sinter]
    mlflow_alias: String = "sinter".to_owned(), "SINTER_MLFLOW_ALIAS", "NAME";
    /// Seconds to wait after each try of a webhook that failed, separated by commas
    webhook_retry_seconds: Vec<u64> = WEBHOOK_RETRY_SECONDS.to_vec(), "SINTER_WEBHOOK_RETRY_SECONDS", "SECONDS",
        { value_delimiter = ',' };
    /// OpenTelemetry collector that traces are sent to (OTLP over HTTP); empty for none
    otlp_endpoint: String = String::new(), "SINTER_OTLP_ENDPOINT", "URL";
    /// Days after which ended jobs are deleted, 0 for never [default: 0]
    keep_jobs_days: u64 = 0, "SINTER_KEEP_JOBS_DAYS", "DAYS";
    /// How long a worker may be silent before its job is given away [default: 15]
    lease_seconds: u64 = 15, "SINTER_LEASE_SECONDS", "SECONDS";
    /// How often a worker renews its lease [default: 3]
    heartbeat_seconds: u64 = 3, "SINTER_HEARTBEAT_SECONDS", "SECONDS";
    /// How long a job may take to write a checkpoint at the end of the server [default: 20]
    drain_seconds: u64 = 20, "SINTER_DRAIN_SECONDS", "SECONDS";
    /// How long reading an upload may take [default: 600]
    inspect_timeout_seconds: u64 = 600, "SINTER_INSPECT_TIMEOUT_SECONDS", "SECONDS";
    /// What is logged: a level or directives [default: info]
    log: String = "info".to_owned(), "SINTER_LOG", "FILTER";
    /// Form of log lines [default: text]
    log_format: LogFormat = LogFormat::Text, "SINTER_LOG_FORMAT", "FORMAT";
}

/// Why there are no settings to run with.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("can't read the settings file `{path}`: {source}")]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the settings file `{path}` is not right:\n{source}")]
    Malformed {
        path: PathBuf,
        source: Box<toml::de::Error>,
    },
    #[error("the setting `{setting}` {fault}")]
    Invalid {
        setting: &'static str,
        fault: String,
    },
}

impl fmt::Debug for Settings {
    /// Without anything that may be secret.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Settings").finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads the settings file that `flags` names, or the usual one if it is there, and lays the
    /// flags over it.
    pub fn load(flags: &ServeFlags) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            Some(path) => read_file(path)?,
            None if Path::new(USUAL_FILE).exists() => read_file(Path::new(USUAL_FILE))?,
            None => FileSettings::default(),
        };
        let mut settings = Self::merge(flags.clone(), file);
        for word in settings
            .api_keys
            .iter_mut()
            .chain(&mut settings.cors_origins)
        {
            *word = word.trim().to_owned();
        }
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let require = |holds: bool, setting: &'static str, fault: &str| {
            if holds {
                Ok(())
            } else {
                Err(ConfigError::Invalid {
                    setting,
                    fault: fault.to_owned(),
                })
            }
        };
        require(
            self.api_keys
                .iter()
                .all(|key| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic())),
            "api_keys",
            "has an empty key or one with characters that are not visible ASCII",
        )?;
        require(
            self.tls_certificate.as_os_str().is_empty() == self.tls_key.as_os_str().is_empty(),
            "tls_certificate",
            "needs tls_key beside it, and tls_key needs tls_certificate",
        )?;
        require(
            self.cors_origins.iter().all(|origin| is_origin(origin)),
            "cors_origins",
            "must be like https://example.org, without a path",
        )?;
        require(
            self.client_timeout_seconds >= 1,
            "client_timeout_seconds",
            "must be at least 1",
        )?;
        require(
            (1..=1 << 20).contains(&self.connections_limit),
            "connections_limit",
            "must be from 1 to 1048576",
        )?;
        require(
            self.webhook_retry_seconds.len() <= 100
                && self
                    .webhook_retry_seconds
                    .iter()
                    .all(|&seconds| seconds <= 30 * 86_400),
            "webhook_retry_seconds",
            "may have 100 waits of at most 2592000 seconds (30 days)",
        )?;
        require(
            self.mlflow_url.is_empty() || read_url(&self.mlflow_url).is_ok(),
            "mlflow_url",
            "must be like http://mlflow:5000; name and password are settings of their own",
        )?;
        require(
            self.otlp_endpoint.is_empty()
                || read_url(&self.otlp_endpoint).is_ok_and(|(url, _)| url.query().is_none()),
            "otlp_endpoint",
            "must be like http://collector:4318; `/v1/traces` is added to it",
        )?;
        require(
            !self.mlflow_experiment.is_empty(),
            "mlflow_experiment",
            "must not be empty",
        )?;
        require(
            self.mlflow_alias
                .chars()
                .all(|each| each.is_ascii_alphanumeric() || each == '-' || each == '_'),
            "mlflow_alias",
            "has letters, digits, `-` and `_` only",
        )?;
        require(
            self.upload_expiry_hours >= 1,
            "upload_expiry_hours",
            "must be at least 1",
        )?;
        require(
            self.job_events_limit >= 10,
            "job_events_limit",
            "must be at least 10",
        )?;
        require(
            self.job_memory_limit == 0 || self.job_memory_limit >= 64 << 20,
            "job_memory_limit",
            "must be 0 or at least 67108864 (64 MiB)",
        )?;
        require(
            self.job_memory_limit == 0 || cfg!(target_os = "linux"),
            "job_memory_limit",
            "can be kept on Linux only",
        )?;
        require(
            (1..=256).contains(&self.workers),
            "workers",
            "must be from 1 to 256",
        )?;
        require(
            self.max_upload_bytes >= 1,
            "max_upload_bytes",
            "must be at least 1",
        )?;
        require(
            self.heartbeat_seconds >= 1,
            "heartbeat_seconds",
            "must be at least 1",
        )?;
        require(
            self.lease_seconds > self.heartbeat_seconds && self.lease_seconds <= 86_400,
            "lease_seconds",
            "must be above heartbeat_seconds and at most 86400",
        )?;
        require(
            self.inspect_timeout_seconds >= 1,
            "inspect_timeout_seconds",
            "must be at least 1",
        )
    }

    /// Refuses an address that other machines reach while nobody needs a key.
    pub fn check_reach(&self, has_keys: bool) -> Result<(), ConfigError> {
        if self.listen.ip().is_loopback() || !self.api_keys.is_empty() || has_keys {
            return Ok(());
        }
        Err(ConfigError::Invalid {
            setting: "listen",
            fault: format!(
                "asks for {}, which other machines can reach, but there are no keys; make one with `sinter key \
                 create`, set api_keys (or SINTER_API_KEYS), or listen on 127.0.0.1",
                self.listen
            ),
        })
    }

    pub fn has_tls(&self) -> bool {
        !self.tls_certificate.as_os_str().is_empty()
    }

    /// What the store may hold.
    pub fn limits(&self) -> Limits {
        Limits {
            queued_jobs: self.queued_jobs_limit,
            project_bytes: self.project_bytes_limit,
            job_events: self.job_events_limit,
            free_bytes: self.free_bytes_limit,
        }
    }

    /// How long nothing may come of a request.
    pub fn client_timeout(&self) -> Duration {
        Duration::from_secs(self.client_timeout_seconds)
    }

    /// How long a lease holds without a heartbeat.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds)
    }

    /// Time between two heartbeats.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_secs(self.heartbeat_seconds)
    }

    /// How long a child may take to drain.
    pub fn drain(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }

    /// How long an inspection may take.
    pub fn inspect_timeout(&self) -> Duration {
        Duration::from_secs(self.inspect_timeout_seconds)
    }
}

/// Scheme, host and perhaps port, and nothing behind.
fn is_origin(text: &str) -> bool {
    let host = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| {
        !host.is_empty()
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    })
}

fn read_file(path: &Path) -> Result<FileSettings, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| ConfigError::Malformed {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> FileSettings {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_default_file_holds_the_defaults() {
        let merged = Settings::merge(ServeFlags::default(), file(DEFAULT_FILE));
        assert_eq!(merged, Settings::default());
    }

    #[test]
    fn the_default_file_names_every_setting() {
        assert!(file(DEFAULT_FILE).missing().is_empty());
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let flags = ServeFlags {
            workers: Some(3),
            ..ServeFlags::default()
        };
        let merged = Settings::merge(flags, file("workers = 2\nlease_seconds = 30"));
        assert_eq!(merged.workers, 3);
        assert_eq!(merged.lease_seconds, 30);
        assert_eq!(merged.heartbeat_seconds, 3);
    }

    #[test]
    fn an_unknown_key_in_the_file_is_named() {
        let error = toml::from_str::<FileSettings>("workerz = 2").unwrap_err();
        assert!(error.to_string().contains("workerz"));
    }

    #[test]
    fn a_reachable_address_without_keys_is_refused() {
        let mut settings = Settings {
            listen: "0.0.0.0:80".parse().unwrap(),
            ..Settings::default()
        };
        let message = settings.check_reach(false).unwrap_err().to_string();
        assert!(message.contains("api_keys"), "{message}");
        settings.check_reach(true).unwrap();
        settings.api_keys = vec!["secret".to_owned()];
        settings.check_reach(false).unwrap();
    }

    #[test]
    fn an_origin_has_a_scheme_and_a_host_and_no_path() {
        assert!(is_origin("https://example.org") && is_origin("http://[::1]:3000"));
        for text in [
            "example.org",
            "https://",
            "https://example.org/",
            "*",
            "https://a b",
        ] {
            assert!(!is_origin(text), "{text}");
        }
    }
}
