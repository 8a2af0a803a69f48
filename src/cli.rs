//! The command line.

mod serve;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    /// Print the OpenAPI document
    Openapi,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    match CommandLine::parse().command {
        Command::Serve(flags) if flags.print_default_config => print(DEFAULT_FILE),
        Command::Serve(flags) => match Settings::load(&flags) {
            Ok(settings) => report(serve::run(settings)),
            Err(error) => {
                eprintln!("sinter: {error}");
                ExitCode::from(2)
            }
        },
        Command::Job => crate::engine::child_main(),
        Command::Demo { exit, data_dir } => report(crate::demo::run(crate::demo::DemoOptions {
            exit,
            data_dir,
        })),
        Command::Openapi => print(crate::api::openapi_json()),
    }
}

fn report(outcome: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sinter: {error}");
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
            eprintln!("sinter: can't write to standard output: {error}");
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
