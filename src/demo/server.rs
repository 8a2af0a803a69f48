//! The service as a child process of the demo.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::DemoError;

/// What `serve` prints, followed by the address, once its socket is bound.
const LISTENS_ON: &str = "sinter listens on ";

const UP_WITHIN: Duration = Duration::from_secs(30);

/// How long the service may take to end in order before it is killed.
const DOWN_WITHIN: Duration = Duration::from_secs(30);

/// The running service. It is ended when this is dropped, and when the demo is interrupted.
pub(super) struct Server {
    process: Arc<Process>,
    base: String,
}

struct Process {
    child: Mutex<Child>,
    log: PathBuf,
    /// Set while nothing but waiting is left to do, so that an interrupt is no failure.
    finished: AtomicBool,
    /// Set when this program is about to end by an interrupt.
    interrupted: AtomicBool,
}

impl Server {
    /// Starts `sinter serve` on a free port of this machine, its log in `DATA_DIR/server.log`.
    pub fn start(data_dir: &Path) -> Result<Self, DemoError> {
        std::fs::create_dir_all(data_dir)
            .map_err(DemoError::io(format!("creating {}", data_dir.display())))?;
        let log = data_dir.join("server.log");
        let log_file =
            File::create(&log).map_err(DemoError::io(format!("creating {}", log.display())))?;
        let program =
            std::env::current_exe().map_err(DemoError::io("finding this program's own file"))?;
        let folder = std::path::absolute(data_dir)
            .map_err(DemoError::io(format!("finding {}", data_dir.display())))?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(&folder)
            // The keys and the `sinter.toml` of a real installation are not for the demo.
            .current_dir(&folder)
            .env_remove("SINTER_CONFIG")
            .env_remove("SINTER_API_KEYS")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file);
        // Ctrl-C then reaches the demo alone, which ends the service in order.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command
            .spawn()
            .map_err(DemoError::io("starting the service"))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let process = Arc::new(Process {
            child: Mutex::new(child),
            log,
            finished: AtomicBool::new(false),
            interrupted: AtomicBool::new(false),
        });
        end_on_interrupt(Arc::clone(&process));
        let mut server = Self {
            process,
            base: String::new(),
        };
        server.base = server.read_address(stdout)?;
        Ok(server)
    }

    /// `http://127.0.0.1:PORT`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// An error when the service has ended by itself. Does not return after an interrupt.
    pub fn check(&self) -> Result<(), DemoError> {
        while self.process.interrupted.load(Ordering::SeqCst) {
            thread::park();
        }
        match self.process.exit_status() {
            None => Ok(()),
            Some(_) => Err(DemoError::ServiceEnded {
                log: self.process.log.clone(),
            }),
        }
    }

    /// Blocks until the service ends, which is an error unless the user asked for it.
    pub fn wait(self) -> Result<(), DemoError> {
        self.process.finished.store(true, Ordering::SeqCst);
        loop {
            self.check()?;
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Ends the service in order.
    pub fn stop(self) {
        drop(self);
    }

    pub fn not_up(&self, reason: String) -> DemoError {
        DemoError::NotUp {
            reason,
            log: self.process.log.clone(),
        }
    }

    fn read_address(&self, stdout: ChildStdout) -> Result<String, DemoError> {
        let (found, address) = mpsc::channel();
        thread::spawn(move || {
            // Reads on to the end, so that the service never blocks on a full pipe.
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once(LISTENS_ON) {
                    let word = rest.split_whitespace().next().unwrap_or_default();
                    // Nobody listens after the first address, and that is fine.
                    let _ = found.send(word.trim_end_matches('/').to_owned());
                }
            }
        });
        address.recv_timeout(UP_WITHIN).map_err(|fault| {
            let reason = match (fault, self.process.exit_status()) {
                (_, Some(status)) => format!("it ended with {status}"),
                (mpsc::RecvTimeoutError::Timeout, None) => {
                    format!("no address after {} s", UP_WITHIN.as_secs())
                }
                (mpsc::RecvTimeoutError::Disconnected, None) => {
                    "its output ended without an address".to_owned()
                }
            };
            self.not_up(reason)
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.process.end();
    }
}

impl Process {
    fn child(&self) -> MutexGuard<'_, Child> {
        // A panic elsewhere must not keep the service from being ended.
        self.child
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn exit_status(&self) -> Option<ExitStatus> {
        self.child().try_wait().ok().flatten()
    }

    /// Asks the service to end (SIGTERM) and kills it when it does not. Can be called twice.
    fn end(&self) {
        if self.exit_status().is_some() {
            return;
        }
        let id = self.child().id().to_string();
        let asked = Command::new("kill")
            .args(["-TERM", &id])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        let started = Instant::now();
        while asked && started.elapsed() < DOWN_WITHIN {
            if self.exit_status().is_some() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        let mut child = self.child();
        // Both fail only when the process has just ended by itself.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Ends the service and then this program on Ctrl-C or SIGTERM.
fn end_on_interrupt(process: Arc<Process>) {
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        // Without a handler the signals keep their usual effect on this program.
        let Ok(runtime) = runtime else { return };
        if !runtime.block_on(interrupted()) {
            return;
        }
        let finished = process.finished.load(Ordering::SeqCst);
        process.interrupted.store(true, Ordering::SeqCst);
        process.end();
        // 130: ended by an interrupt, as shells have it.
        std::process::exit(if finished { 0 } else { 130 });
    });
}

/// Waits for a signal; false when none can be waited for.
#[cfg(unix)]
async fn interrupted() -> bool {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return false;
    };
    tokio::select! {
        _ = interrupt.recv() => true,
        _ = terminate.recv() => true,
    }
}

/// Waits for a signal; false when none can be waited for.
#[cfg(not(unix))]
async fn interrupted() -> bool {
    tokio::signal::ctrl_c().await.is_ok()
}
