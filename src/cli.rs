//! The command line.

mod connections;
mod folder;
mod remote;
mod serve;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::client::tell;
use crate::config::{DEFAULT_FILE, ServeFlags, Settings};

/// Makes trained ONNX models smaller and faster, over HTTP.
#[derive(Debug, Parser)]
#[command(name = "sinter", version, about)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(Box<ServeFlags>),
    /// Run one job; the server starts it and speaks to it over its pipes
    #[command(hide = true)]
    Job,
    /// Start a server, give it a model and a data set, and compress the model before your eyes
    Demo {
        /// End after the demonstration instead of keeping the server up
        #[arg(long)]
        exit: bool,
        /// Folder for everything [default: ./sinter-demo]
        #[arg(long, value_name = "FOLDER")]
        data_dir: Option<PathBuf>,
    },
    /// Give a running service a job, with a model and a data set of its own or from files here
    Submit(Box<remote::SubmitFlags>),
    /// Give a running service a model or a data set from files here
    Upload(remote::UploadFlags),
    /// Follow jobs to their end
    Watch(remote::WatchFlags),
    /// Fetch what a job made, or a model
    Get(remote::GetFlags),
    /// Ask a model about a file, a text or an example of a data set
    Predict(remote::PredictFlags),
    /// List the jobs, models or data sets of a service
    Ls(remote::ListFlags),
    /// Stop jobs
    Cancel(remote::JobsFlags),
    /// Queue failed or canceled jobs again; they go on from their last checkpoint
    Retry(remote::JobsFlags),
    /// Give a model or a data set another name
    Rename(remote::RenameFlags),
    /// Delete jobs, models or data sets
    Rm(remote::RemoveFlags),
    /// Ask whether a service can do its work; ends with 0 if so, for health checks of containers
    Health(remote::HealthFlags),
    /// Print the OpenAPI document
    Openapi,
    /// Make, list and revoke keys of the API
    #[command(subcommand)]
    Key(folder::KeyCommand),
    /// Copy a data folder as it is at this moment; a server may be using it
    Backup(folder::BackupFlags),
    /// Make a data folder of a backup
    Restore(folder::RestoreFlags),
    /// Read a whole data folder and say what is wrong with it; a server may be using it
    Check(folder::FolderFlags),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    set_failpoints();
    match CommandLine::parse().command {
        Command::Serve(flags) if flags.print_default_config => print(DEFAULT_FILE),
        Command::Serve(flags) => match Settings::load(&flags) {
            Ok(settings) => {
                allow_huge_pages(false);
                report(serve::run(settings))
            }
            Err(error) => {
                tell!("sinter: {error}");
                ExitCode::from(2)
            }
        },
        Command::Job => {
            allow_huge_pages(true);
            crate::engine::child_main()
        }
        Command::Demo { exit, data_dir } => report(crate::demo::run(crate::demo::DemoOptions {
            exit,
            data_dir,
        })),
        Command::Submit(flags) => report(remote::submit(&flags)),
        Command::Upload(flags) => report(remote::upload(&flags)),
        Command::Watch(flags) => report(remote::watch(&flags)),
        Command::Get(flags) => report(remote::get(&flags)),
        Command::Predict(flags) => report(remote::predict(&flags)),
        Command::Ls(flags) => report(remote::list(&flags)),
        Command::Cancel(flags) => report(remote::cancel(&flags)),
        Command::Retry(flags) => report(remote::retry(&flags)),
        Command::Rename(flags) => report(remote::rename(&flags)),
        Command::Rm(flags) => report(remote::remove(&flags)),
        Command::Health(flags) => report(remote::health(&flags)),
        Command::Openapi => print(crate::api::openapi_json()),
        Command::Key(command) => folder::key(command),
        Command::Backup(flags) => folder::backup(flags),
        Command::Restore(flags) => folder::restore(flags),
        Command::Check(flags) => folder::check(flags),
    }
}

/// Pages of 2 MiB make computations faster, which is what a job's process is for; the server would hold several that are
/// almost empty. Children inherit this.
#[cfg(target_os = "linux")]
fn allow_huge_pages(allow: bool) {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(!allow) {
        tell!("sinter: the size of memory pages can't be chosen: {error}");
    }
}

#[cfg(not(target_os = "linux"))]
fn allow_huge_pages(_allow: bool) {}

/// What tests ask for: `FAILPOINTS` as the crate `fail` has it, and the end of the process, as by SIGKILL, where
/// `SINTER_CRASH_AT=NAME:N` says, at its Nth passing.
#[cfg(feature = "failpoints")]
fn set_failpoints() {
    use std::sync::atomic::{AtomicU32, Ordering};
    // It lasts as long as the process.
    std::mem::forget(fail::FailScenario::setup());
    let Ok(place) = std::env::var("SINTER_CRASH_AT") else {
        return;
    };
    let (name, count) = place.split_once(':').unwrap_or((&place, "1"));
    let left = AtomicU32::new(count.parse().unwrap_or(1));
    let set = fail::cfg_callback(name, move || {
        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
            std::process::abort();
        }
    });
    set.expect("a failpoint takes a callback");
}

fn report(outcome: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell!("sinter: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes `text` to standard output; a reader that went away is no fault of ours.
fn print(text: &str) -> ExitCode {
    let mut output = std::io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            tell!("sinter: can't write to standard output: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        CommandLine::command().debug_assert();
    }
}
