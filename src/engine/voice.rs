//! What the child says, line by line.

use std::cell::Cell;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::spec::child::{Level, Message, Progress};

/// Shortest time between two progress messages.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Speaks to the service, and hears whether it wants the child to stop.
#[derive(Clone)]
pub(super) struct Voice {
    drain: Arc<AtomicBool>,
    last_progress: Cell<Option<Instant>>,
}

impl Voice {
    pub fn new(drain: Arc<AtomicBool>) -> Self {
        Self {
            drain,
            last_progress: Cell::new(None),
        }
    }

    pub fn drain_requested(&self) -> bool {
        self.drain.load(Ordering::Relaxed)
    }

    pub fn say(&self, message: &Message) {
        say(message);
    }

    pub fn event(&self, level: Level, kind: &str, text: String, data: serde_json::Value) {
        self.say(&Message::Event {
            level,
            kind: kind.to_owned(),
            text,
            data,
        });
    }

    pub fn info(&self, kind: &str, text: String) {
        self.event(Level::Info, kind, text, serde_json::Value::Null);
    }

    /// Says how far the job is, unless it was said just now and the phase is still the same.
    pub fn progress(&self, progress: Progress, urgent: bool) {
        let due = self
            .last_progress
            .get()
            .is_none_or(|last| last.elapsed() >= PROGRESS_INTERVAL);
        if due || urgent {
            self.last_progress.set(Some(Instant::now()));
            self.say(&Message::Progress(progress));
        }
    }
}

/// Writes one message. A service that does not listen any more ends the child.
pub(super) fn say(message: &Message) {
    let mut line = serde_json::to_string(message).expect("messages are plain data");
    line.push('\n');
    let mut out = std::io::stdout().lock();
    if out
        .write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(3);
    }
}
