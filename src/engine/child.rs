//! The child's standard streams.

use std::io::BufRead;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::confine::confine;
use super::voice::{Voice, say};
use super::{check, inspect, job, plan, predict};
use crate::data::Reading;
use crate::exec::work_on_this_thread;
use crate::spec::Problem;
use crate::spec::child::{Assignment, Command, Message, Order};

/// Why an order ends without a result.
pub(super) enum Ended {
    Failed(Problem),
    /// The state is kept; the same order later goes on from there.
    Drained,
}

impl<E: Into<Problem>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// How far a job steps back behind the server, which answers while jobs compute.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// Lets others have the processor first; someone waits for all orders but a job.
fn step_back(order: &Order) {
    #[cfg(target_os = "linux")]
    if matches!(order, Order::Run { .. })
        && let Err(error) = rustix::process::nice(NICENESS)
    {
        eprintln!("the job runs at the server's priority: {error}");
    }
}

/// Runs `sinter job`: one order from standard input, messages to standard output.
pub fn child_main() -> ExitCode {
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line).is_err() || line.is_empty() {
        eprintln!("sinter job is started by `sinter serve`, which writes an order to its input");
        return ExitCode::from(2);
    }
    let Assignment { order, confinement } = match serde_json::from_str(&line) {
        Ok(assignment) => assignment,
        Err(error) => {
            eprintln!("the order can't be read: {error}");
            return ExitCode::from(2);
        }
    };
    // Threads that are there already would stay as they are.
    step_back(&order);
    confine(confinement, &order);
    let drain = Arc::new(AtomicBool::new(false));
    let listener = Arc::clone(&drain);
    std::thread::spawn(move || listen(&listener));
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            say(&Message::Alive);
        }
    });
    let voice = Voice::new(drain);
    work_on_this_thread();
    // Where it happened, for who reports it.
    static PLACE: Mutex<String> = Mutex::new(String::new());
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, |place| {
            format!(" at {}:{}", place.file(), place.line())
        });
        eprintln!("the engine panicked{place}: {panic}");
        if let Ok(mut known) = PLACE.lock() {
            *known = place;
        }
    }));
    let speaker = voice.clone();
    let outcome =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| carry_out(order, &speaker)));
    let closing = match outcome {
        Ok(Ok(message)) => message,
        Ok(Err(Ended::Drained)) => Message::Drained,
        Ok(Err(Ended::Failed(problem))) => Message::Failed { problem },
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no text");
            let place = PLACE
                .lock()
                .map_or_else(|_| String::new(), |place| place.clone());
            Message::Failed {
                problem: Problem::new(
                    500,
                    "engine_panicked",
                    format!("a defect in Sinter's engine{place}: {text}"),
                ),
            }
        }
    };
    voice.say(&closing);
    ExitCode::SUCCESS
}

/// Hears commands; the end of the pipe means that the service is gone.
fn listen(drain: &AtomicBool) {
    for line in std::io::stdin().lock().lines() {
        match line.map(|line| serde_json::from_str(&line)) {
            Ok(Ok(Command::Drain)) => drain.store(true, Ordering::Relaxed),
            Ok(Err(error)) => eprintln!("an unknown command: {error}"),
            Err(_) => break,
        }
    }
    std::process::exit(3);
}

fn carry_out(order: Order, voice: &Voice) -> Result<Message, Ended> {
    match order {
        Order::InspectModel { files, staging } => inspect::model(&files, &staging),
        Order::InspectDataset {
            files,
            format,
            target,
            text,
            damaged,
            classes,
            exclude,
        } => {
            let how = Reading {
                format,
                target: target.as_deref(),
                text: text.as_deref(),
                damaged,
                classes: classes.as_deref(),
                exclude: &exclude,
                known: None,
            };
            inspect::dataset(&files, how)
        }
        Order::Layers { model } => inspect::layers(&model),
        Order::Nodes { model } => inspect::nodes(&model),
        Order::Predict(order) => predict::predict(*order),
        Order::Devices => Ok(Message::Devices {
            devices: crate::exec::list_devices(),
        }),
        Order::Check { inputs, about } => check::check(&inputs, about.as_deref()),
        Order::Plan { inputs } => plan::plan(&inputs),
        Order::Run {
            inputs,
            staging,
            checkpoint,
        } => {
            #[cfg(feature = "failpoints")]
            if fail::eval("child_speaks", |_| ()).is_some() {
                println!("what is no message");
            }
            job::run(*inputs, &staging, &checkpoint, voice)
        }
    }
}
