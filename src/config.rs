//! Settings of `sinter serve`: flags over `SINTER_*` variables over `sinter.toml` over defaults.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Deserialize;

/// Every setting with its default and a description; also what `--print-default-config` prints.
pub const DEFAULT_FILE: &str = include_str!("../sinter.default.toml");

/// The file that is read when it is there and `--config` names no other.
const USUAL_FILE: &str = "sinter.toml";

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    Text,
    Json,
}

/// What the server runs with.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub workers: usize,
    /// CPU threads for each job; 0 is all.
    pub threads: usize,
    pub api_keys: Vec<String>,
    pub max_upload_bytes: u64,
    pub lease_seconds: u64,
    pub heartbeat_seconds: u64,
    pub drain_seconds: u64,
    pub inspect_timeout_seconds: u64,
    pub log: String,
    pub log_format: LogFormat,
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("listen", &self.listen)
            .field("data_dir", &self.data_dir)
            .field("workers", &self.workers)
            .field("threads", &self.threads)
            .field("api_keys", &self.api_keys.len())
            .field("max_upload_bytes", &self.max_upload_bytes)
            .field("lease_seconds", &self.lease_seconds)
            .field("heartbeat_seconds", &self.heartbeat_seconds)
            .field("drain_seconds", &self.drain_seconds)
            .field("inspect_timeout_seconds", &self.inspect_timeout_seconds)
            .field("log", &self.log)
            .field("log_format", &self.log_format)
            .finish()
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            data_dir: PathBuf::from("./sinter-data"),
            workers: 1,
            threads: 0,
            api_keys: Vec::new(),
            max_upload_bytes: 16 << 30,
            lease_seconds: 15,
            heartbeat_seconds: 3,
            drain_seconds: 20,
            inspect_timeout_seconds: 600,
            log: "info".to_owned(),
            log_format: LogFormat::Text,
        }
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
    /// Address and port to listen on [default: 127.0.0.1:8080]
    #[arg(long, env = "SINTER_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Folder of the database and all files [default: ./sinter-data]
    #[arg(long, env = "SINTER_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,
    /// How many jobs run at the same time [default: 1]
    #[arg(long, env = "SINTER_WORKERS", value_name = "NUMBER")]
    pub workers: Option<usize>,
    /// CPU threads for each job, 0 for all [default: 0]
    #[arg(long, env = "SINTER_THREADS", value_name = "NUMBER")]
    pub threads: Option<usize>,
    /// Keys that clients must send, separated by commas
    #[arg(
        long,
        env = "SINTER_API_KEYS",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "KEYS"
    )]
    pub api_keys: Vec<String>,
    /// Largest upload in bytes [default: 16 GiB]
    #[arg(long, env = "SINTER_MAX_UPLOAD_BYTES", value_name = "BYTES")]
    pub max_upload_bytes: Option<u64>,
    /// How long a worker may be silent before its job is given away [default: 15]
    #[arg(long, env = "SINTER_LEASE_SECONDS", value_name = "SECONDS")]
    pub lease_seconds: Option<u64>,
    /// How often a worker renews its lease [default: 3]
    #[arg(long, env = "SINTER_HEARTBEAT_SECONDS", value_name = "SECONDS")]
    pub heartbeat_seconds: Option<u64>,
    /// How long a job may take to write a checkpoint at the end of the server [default: 20]
    #[arg(long, env = "SINTER_DRAIN_SECONDS", value_name = "SECONDS")]
    pub drain_seconds: Option<u64>,
    /// How long reading an upload may take [default: 600]
    #[arg(long, env = "SINTER_INSPECT_TIMEOUT_SECONDS", value_name = "SECONDS")]
    pub inspect_timeout_seconds: Option<u64>,
    /// What is logged: a level or directives [default: info]
    #[arg(long, env = "SINTER_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Form of log lines [default: text]
    #[arg(long, env = "SINTER_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// The settings file: every setting may be left out, no other key may be there.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileSettings {
    listen: Option<SocketAddr>,
    data_dir: Option<PathBuf>,
    workers: Option<usize>,
    threads: Option<usize>,
    api_keys: Option<Vec<String>>,
    max_upload_bytes: Option<u64>,
    lease_seconds: Option<u64>,
    heartbeat_seconds: Option<u64>,
    drain_seconds: Option<u64>,
    inspect_timeout_seconds: Option<u64>,
    log: Option<String>,
    log_format: Option<LogFormat>,
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

impl Settings {
    /// Reads the settings file that `flags` names, or the usual one if it is there, and lays the
    /// flags over it.
    pub fn load(flags: &ServeFlags) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            Some(path) => read_file(path)?,
            None if Path::new(USUAL_FILE).exists() => read_file(Path::new(USUAL_FILE))?,
            None => FileSettings::default(),
        };
        let settings = Self::merge(flags.clone(), file);
        settings.check()?;
        Ok(settings)
    }

    fn merge(flags: ServeFlags, file: FileSettings) -> Self {
        let default = Self::default();
        let given_keys = if flags.api_keys.is_empty() {
            file.api_keys.unwrap_or(default.api_keys)
        } else {
            flags.api_keys
        };
        Self {
            listen: flags.listen.or(file.listen).unwrap_or(default.listen),
            data_dir: flags.data_dir.or(file.data_dir).unwrap_or(default.data_dir),
            workers: flags.workers.or(file.workers).unwrap_or(default.workers),
            threads: flags.threads.or(file.threads).unwrap_or(default.threads),
            api_keys: given_keys
                .into_iter()
                .map(|key| key.trim().to_owned())
                .collect(),
            max_upload_bytes: flags
                .max_upload_bytes
                .or(file.max_upload_bytes)
                .unwrap_or(default.max_upload_bytes),
            lease_seconds: flags
                .lease_seconds
                .or(file.lease_seconds)
                .unwrap_or(default.lease_seconds),
            heartbeat_seconds: flags
                .heartbeat_seconds
                .or(file.heartbeat_seconds)
                .unwrap_or(default.heartbeat_seconds),
            drain_seconds: flags
                .drain_seconds
                .or(file.drain_seconds)
                .unwrap_or(default.drain_seconds),
            inspect_timeout_seconds: flags
                .inspect_timeout_seconds
                .or(file.inspect_timeout_seconds)
                .unwrap_or(default.inspect_timeout_seconds),
            log: flags.log.or(file.log).unwrap_or(default.log),
            log_format: flags
                .log_format
                .or(file.log_format)
                .unwrap_or(default.log_format),
        }
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
            self.listen.ip().is_loopback() || !self.api_keys.is_empty(),
            "listen",
            &format!(
                "asks for {}, which other machines can reach, but no api_keys are set; set \
                 api_keys (or SINTER_API_KEYS), or listen on 127.0.0.1",
                self.listen
            ),
        )?;
        require(
            self.api_keys
                .iter()
                .all(|key| !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic())),
            "api_keys",
            "has an empty key or one with characters that are not visible ASCII",
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
        let FileSettings {
            listen,
            data_dir,
            workers,
            threads,
            api_keys,
            max_upload_bytes,
            lease_seconds,
            heartbeat_seconds,
            drain_seconds,
            inspect_timeout_seconds,
            log,
            log_format,
        } = file(DEFAULT_FILE);
        assert!(listen.is_some() && data_dir.is_some() && api_keys.is_some());
        assert!(workers.is_some() && threads.is_some() && max_upload_bytes.is_some());
        assert!(lease_seconds.is_some() && heartbeat_seconds.is_some());
        assert!(drain_seconds.is_some() && inspect_timeout_seconds.is_some());
        assert!(log.is_some() && log_format.is_some());
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
        let message = settings.check().unwrap_err().to_string();
        assert!(message.contains("api_keys"), "{message}");
        settings.api_keys = vec!["secret".to_owned()];
        settings.check().unwrap();
    }
}
