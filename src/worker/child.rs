//! A child process `sinter job` and the lines that go over its pipes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command as Process};
use tokio::task::JoinHandle;

use crate::spec::child::{Assignment, Command, Confinement, Message, Order};
use crate::spec::problem::Problem;

/// Lines of the child's log that are kept to explain its death.
const KEPT_LOG_LINES: usize = 20;

/// Characters of a line that is no message that go to the log.
const SHOWN_CHARACTERS: usize = 200;

/// How long a child may take to end by itself after its closing message.
const ENDING_TIME: Duration = Duration::from_secs(10);

/// Why a child can't be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    #[error("the child process can't be started: {0}")]
    Start(#[source] std::io::Error),
    #[error("the pipes of the child process failed: {0}")]
    Pipe(#[from] std::io::Error),
    #[error("the order can't be written as JSON: {0}")]
    Order(#[from] serde_json::Error),
    #[error("the child process said something that is no message: {source}: `{line}`")]
    Malformed {
        /// The beginning of what it said.
        line: String,
        source: serde_json::Error,
    },
}

/// How children are started.
#[derive(Debug, Clone)]
pub struct ChildProgram {
    path: PathBuf,
    /// 0 for all processors.
    threads: usize,
    confinement: Confinement,
    /// Bytes of memory that a child may hold; 0 for all.
    memory_limit: u64,
    /// Each child has a folder in it for what it needs for a while.
    staging: PathBuf,
}

/// After how many milliseconds mimalloc gives freed memory back; −1 for never.
const KEEP_FREED_MEMORY: &str = "MIMALLOC_PURGE_DELAY";

impl ChildProgram {
    /// The program that runs now, which knows the command `job`.
    pub fn this_one(
        threads: usize,
        confinement: Confinement,
        memory_limit: u64,
        staging: PathBuf,
    ) -> std::io::Result<Self> {
        Ok(Self {
            path: std::env::current_exe()?,
            threads,
            confinement,
            memory_limit,
            staging,
        })
    }

    /// Starts a child and gives it its order.
    pub async fn start(&self, order: &Order) -> Result<ChildProcess, ChildError> {
        let scratch = tempfile::TempDir::new_in(&self.staging).map_err(ChildError::Start)?;
        let mut process = Process::new(&self.path);
        process
            .arg("job")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env_remove("SINTER_API_KEYS")
            .env("TMPDIR", scratch.path())
            .kill_on_drop(true);
        // A Ctrl-C in a terminal goes to the server alone, which then lets its children drain.
        #[cfg(unix)]
        process.process_group(0);
        if self.threads > 0 {
            process.env("RAYON_NUM_THREADS", self.threads.to_string());
        }
        // A job takes the same memory again step by step; given back in between, each page of it is
        // cleared anew, which took a sixth of the time of training.
        if std::env::var_os(KEEP_FREED_MEMORY).is_none() {
            process.env(KEEP_FREED_MEMORY, "-1");
        }
        let mut child = process.spawn().map_err(ChildError::Start)?;
        let (stdin, stdout, stderr) =
            match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
                (Some(stdin), Some(stdout), Some(stderr)) => (stdin, stdout, stderr),
                _ => unreachable!("all three pipes were asked for"),
            };
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let relay = tokio::spawn(relay_log(stderr, Arc::clone(&log), child.id()));
        let mut started = ChildProcess {
            child,
            stdin,
            messages: BufReader::new(stdout),
            line: Vec::new(),
            log,
            relay,
            memory_limit: self.memory_limit,
            _scratch: scratch,
        };
        let assignment = Assignment {
            order: order.clone(),
            confinement: self.confinement,
        };
        let mut line = serde_json::to_vec(&assignment)?;
        line.push(b'\n');
        started.write(&line).await?;
        Ok(started)
    }
}

/// A running child; it is killed when this value is dropped.
#[derive(Debug)]
pub struct ChildProcess {
    child: Child,
    stdin: ChildStdin,
    messages: BufReader<ChildStdout>,
    /// What was read of the line that comes next.
    line: Vec<u8>,
    log: Arc<Mutex<VecDeque<String>>>,
    relay: JoinHandle<()>,
    memory_limit: u64,
    /// Goes with the child.
    _scratch: tempfile::TempDir,
}

impl ChildProcess {
    /// The next message, or `None` at the end. Nothing is lost when the wait is given up.
    pub async fn next_message(&mut self) -> Result<Option<Message>, ChildError> {
        self.messages.read_until(b'\n', &mut self.line).await?;
        if !self.line.ends_with(b"\n") {
            // A line without an end is what the child was saying when it died.
            return Ok(None);
        }
        let message = parse_message(&self.line);
        self.line.clear();
        message.map(Some)
    }

    /// What is wrong when the child holds more memory than it may; to be asked often, since nothing else stops it.
    pub fn excess(&self) -> Option<Problem> {
        let held = self.child.id().and_then(held_bytes)?;
        (self.memory_limit > 0 && held > self.memory_limit)
            .then(|| out_of_memory(self.memory_limit))
    }

    /// Asks the child for something.
    pub async fn ask(&mut self, command: Command) -> Result<(), ChildError> {
        let mut line = serde_json::to_vec(&command)?;
        line.push(b'\n');
        self.write(&line).await
    }

    async fn write(&mut self, line: &[u8]) -> Result<(), ChildError> {
        match self.stdin.write_all(line).await {
            Ok(()) => Ok(self.stdin.flush().await?),
            // It has died already; the end of its messages will tell.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills the child and waits until it is gone.
    pub async fn kill(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "a child process could not be killed");
        }
        self.relay.abort();
    }

    /// Waits for the end of a child that has nothing more to say, and tells how it ended.
    pub async fn ended(mut self) -> ChildEnd {
        let status = match tokio::time::timeout(ENDING_TIME, self.child.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => {
                // It ignores the end of its work; nothing it does counts any more.
                if let Err(error) = self.child.kill().await {
                    tracing::warn!(%error, "a child process could not be killed");
                }
                None
            }
        };
        // The last log lines may still be in the pipe, which a grandchild could keep open.
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut self.relay).await;
        self.relay.abort();
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        ChildEnd {
            status,
            last_log_lines: log.iter().cloned().collect(),
        }
    }
}

/// Memory of a process that is its own, in bytes: what is resident without what is shared with files.
#[cfg(target_os = "linux")]
fn held_bytes(pid: u32) -> Option<u64> {
    // https://man7.org/linux/man-pages/man5/proc_pid_statm.5.html
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let mut pages = text.split(' ').map(|word| word.parse::<u64>().unwrap_or(0));
    let (resident, shared) = (pages.nth(1)?, pages.next()?);
    Some(resident.saturating_sub(shared) * rustix::param::page_size() as u64)
}

#[cfg(not(target_os = "linux"))]
fn held_bytes(_pid: u32) -> Option<u64> {
    None
}

/// Another attempt would need as much. `limit` in bytes, 0 for the machine's own.
pub fn out_of_memory(limit: u64) -> Problem {
    let of = match limit {
        0 => "the machine has".to_owned(),
        limit => format!("a job may have here ({limit} bytes, job_memory_limit)"),
    };
    let detail = format!(
        "the job needs more memory than {of}; try a smaller batch_size, fewer examples, or a smaller model"
    );
    Problem::new(422, "out_of_memory", detail)
}

fn parse_message(line: &[u8]) -> Result<Message, ChildError> {
    serde_json::from_slice(line).map_err(|source| {
        let text = String::from_utf8_lossy(line);
        ChildError::Malformed {
            line: text.trim_end().chars().take(SHOWN_CHARACTERS).collect(),
            source,
        }
    })
}

/// How a child ended.
#[derive(Debug)]
pub struct ChildEnd {
    /// `None` when it had to be killed because it did not end by itself.
    pub status: Option<ExitStatus>,
    pub last_log_lines: Vec<String>,
}

impl ChildEnd {
    /// Whether the last thing the child said is that it got no more memory, as Rust's standard library says it.
    pub fn is_out_of_memory(&self) -> bool {
        let mut last = self.last_log_lines.iter().rev().take(3);
        last.any(|line| line.contains("memory allocation of"))
    }

    /// What happened, in words for those who gave the order.
    pub fn explanation(&self) -> String {
        let Some(status) = self.status else {
            return "the process fell silent and had to be killed".to_owned();
        };
        if let Some(signal) = signal_of(status) {
            let hint = if signal == 9 {
                "; the usual reason is that the machine ran out of memory, so try a smaller \
                 batch_size"
            } else {
                ""
            };
            let name = signal_name(signal);
            return format!("the process was ended by signal {signal}{name}{hint}");
        }
        match status.code() {
            Some(code) => {
                format!("the process ended with exit status {code} before its work was done")
            }
            None => "the process ended before its work was done".to_owned(),
        }
    }
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal_of(_status: ExitStatus) -> Option<i32> {
    None
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        4 => " (SIGILL)",
        6 => " (SIGABRT)",
        7 => " (SIGBUS)",
        9 => " (SIGKILL)",
        11 => " (SIGSEGV)",
        15 => " (SIGTERM)",
        _ => "",
    }
}

async fn relay_log(stderr: ChildStderr, kept: Arc<Mutex<VecDeque<String>>>, pid: Option<u32>) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        tracing::debug!(target: "sinter::child", pid, "{text}");
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT_LOG_LINES {
            kept.pop_front();
        }
        kept.push_back(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_no_message_is_shown_in_part() {
        let text = "panic ".repeat(1000);
        let Err(ChildError::Malformed { line, .. }) = parse_message(text.as_bytes()) else {
            panic!("it was taken for a message");
        };
        assert_eq!(line, text[..SHOWN_CHARACTERS]);
    }

    #[test]
    fn a_line_with_a_message_is_read_with_its_end() {
        let message = parse_message(b"{\"message\": \"drained\"}\n");
        assert!(matches!(message, Ok(Message::Drained)));
    }
}
