//! `sinter key`, `backup`, `restore` and `check`: what is done to a data folder beside the server.

use std::error::Error;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use comfy_table::Table;

use crate::client::tell;
use crate::store::DEFAULT_PROJECT;
use crate::store::keys::Role;
use crate::store::maintenance::{DataFolder, restore as restore_backup};

#[derive(Debug, Args)]
pub(super) struct FolderFlags {
    /// The data folder; for a restoration empty or not there yet
    #[arg(
        long,
        env = "SINTER_DATA_DIR",
        value_name = "FOLDER",
        default_value = "./sinter-data"
    )]
    data_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key and print it; it is not shown again
    Create {
        /// What it is for
        #[arg(long)]
        name: String,
        /// What it may do
        #[arg(long, value_enum, default_value = "submit")]
        role: Role,
        /// Whose models, data sets and jobs it sees; those of other projects are not there for it
        #[arg(long, default_value = DEFAULT_PROJECT, value_parser = project)]
        project: String,
        /// After how many days it is no longer taken
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=36500))]
        expires_in_days: Option<u32>,
        #[command(flatten)]
        folder: FolderFlags,
    },
    /// List all keys, without their secrets
    List {
        #[command(flatten)]
        folder: FolderFlags,
    },
    /// Take a key back, at once
    Revoke {
        /// Its id, or its beginning as `sinter key list` shows it
        key: String,
        #[command(flatten)]
        folder: FolderFlags,
    },
}

#[derive(Debug, Args)]
pub(super) struct BackupFlags {
    /// A folder that is empty or not there yet
    target: PathBuf,
    #[command(flatten)]
    folder: FolderFlags,
}

#[derive(Debug, Args)]
pub(super) struct RestoreFlags {
    /// What `sinter backup` made
    backup: PathBuf,
    #[command(flatten)]
    folder: FolderFlags,
}

/// 1 to 64 letters, digits, `-`, `_` and `.`.
fn project(text: &str) -> Result<String, String> {
    let fit = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if fit {
        Ok(text.to_owned())
    } else {
        Err("a project has 1 to 64 letters, digits, `-`, `_` and `.`".to_owned())
    }
}

fn run(work: impl Future<Output = Result<ExitCode, Box<dyn Error>>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => Err(error.into()),
    };
    outcome.unwrap_or_else(|error| {
        tell!("sinter: {error}");
        ExitCode::FAILURE
    })
}

pub(super) fn key(command: KeyCommand) -> ExitCode {
    run(async {
        match command {
            KeyCommand::Create {
                name,
                role,
                project,
                expires_in_days,
                folder,
            } => {
                let folder = DataFolder::open(&folder.data_dir, true).await?;
                let (key, text) = folder
                    .create_key(&name, role, &project, expires_in_days)
                    .await?;
                tell!(
                    "A key for {} with the role `{}` in the project `{}`; it is not shown again:",
                    key.name,
                    key.role.as_str(),
                    key.project
                );
                Ok(super::print(&format!("{text}\n")))
            }
            KeyCommand::List { folder } => {
                let folder = DataFolder::open(&folder.data_dir, false).await?;
                let mut table = Table::new();
                table.load_style(comfy_table::presets::NOTHING);
                table.set_header([
                    "id", "key", "name", "role", "project", "created", "expires", "revoked",
                ]);
                for key in folder.keys().await? {
                    table.add_row([
                        key.id,
                        format!("{}…", key.prefix),
                        key.name,
                        key.role.as_str().to_owned(),
                        key.project,
                        key.created_at,
                        key.expires_at.unwrap_or_else(|| "never".to_owned()),
                        key.revoked_at.unwrap_or_default(),
                    ]);
                }
                Ok(super::print(&format!("{table}\n")))
            }
            KeyCommand::Revoke { key, folder } => {
                let folder = DataFolder::open(&folder.data_dir, false).await?;
                if folder.revoke_key(key.trim_end_matches('…')).await? {
                    tell!("The key is revoked.");
                    Ok(ExitCode::SUCCESS)
                } else {
                    Err(format!("there is no key `{key}` that is not revoked already").into())
                }
            }
        }
    })
}

pub(super) fn backup(flags: BackupFlags) -> ExitCode {
    run(async {
        let folder = DataFolder::open(&flags.folder.data_dir, false).await?;
        let copied = folder.back_up(&flags.target).await?;
        Ok(super::print(&format!(
            "{} files, {} bytes, and the database are in {}\n",
            copied.files,
            copied.bytes,
            flags.target.display()
        )))
    })
}

pub(super) fn restore(flags: RestoreFlags) -> ExitCode {
    run(async {
        let copied = restore_backup(&flags.backup, &flags.folder.data_dir).await?;
        Ok(super::print(&format!(
            "{} files, {} bytes, and the database are in {}\n",
            copied.files,
            copied.bytes,
            flags.folder.data_dir.display()
        )))
    })
}

pub(super) fn check(flags: FolderFlags) -> ExitCode {
    run(async {
        let folder = DataFolder::open(&flags.data_dir, false).await?;
        let report = folder.check().await?;
        let mut text = format!(
            "{} models, {} data sets, {} jobs; {} files with {} bytes have the digests they should\n",
            report.models,
            report.datasets,
            report.jobs,
            report.verified.files,
            report.verified.bytes
        );
        for note in &report.notes {
            text.push_str(&format!("note: {note}\n"));
        }
        for problem in &report.problems {
            text.push_str(&format!("wrong: {problem}\n"));
        }
        let printed = super::print(&text);
        if report.problems.is_empty() {
            Ok(printed)
        } else {
            Ok(ExitCode::FAILURE)
        }
    })
}
