//! Runs jobs: claims them from the store, starts a child process for each, relays what the child
//! says, and publishes what it made.

pub mod child;
mod inspect;
mod publish;
mod queue_loop;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::child::ChildProgram;
pub use self::inspect::{InspectionError, Inspector};
pub use self::publish::is_inside;
use self::queue_loop::Slot;
use crate::config::Settings;
use crate::store::Store;
use crate::telemetry::Telemetry;

/// All slots that run jobs.
#[derive(Debug)]
pub struct Worker {
    slots: JoinSet<()>,
    health: WorkerHealth,
}

impl Worker {
    /// Starts as many slots as are set. They end when `draining` is canceled and their jobs have
    /// drained.
    pub fn start(
        store: Arc<Store>,
        settings: Arc<Settings>,
        program: ChildProgram,
        telemetry: Arc<Telemetry>,
        draining: CancellationToken,
    ) -> Self {
        let health = WorkerHealth::new(settings.workers, settings.heartbeat());
        let mut slots = JoinSet::new();
        for number in 0..settings.workers {
            let slot = Slot {
                number,
                store: Arc::clone(&store),
                settings: Arc::clone(&settings),
                program: program.clone(),
                telemetry: Arc::clone(&telemetry),
                draining: draining.clone(),
                health: health.clone(),
            };
            slots.spawn(slot.run());
        }
        Self { slots, health }
    }

    pub fn health(&self) -> WorkerHealth {
        self.health.clone()
    }

    /// Waits until every slot has ended.
    pub async fn finished(&mut self) {
        while let Some(ended) = self.slots.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a worker slot ended early");
            }
        }
    }
}

/// When each slot was last seen to be alive.
#[derive(Debug, Clone)]
pub struct WorkerHealth {
    started: Instant,
    /// Milliseconds after `started`, slot by slot.
    ticks: Arc<[AtomicU64]>,
    longest_silence: Duration,
}

impl WorkerHealth {
    fn new(slots: usize, heartbeat: Duration) -> Self {
        Self {
            started: Instant::now(),
            ticks: (0..slots).map(|_| AtomicU64::new(0)).collect(),
            longest_silence: heartbeat * 3 + Duration::from_secs(30),
        }
    }

    fn tick(&self, slot: usize) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(tick) = self.ticks.get(slot) {
            tick.store(now, Ordering::Relaxed);
        }
    }

    /// Whether every slot has given a sign of life lately.
    pub fn is_alive(&self) -> bool {
        let now = self.started.elapsed();
        self.ticks.iter().all(|tick| {
            let last = Duration::from_millis(tick.load(Ordering::Relaxed));
            now.saturating_sub(last) <= self.longest_silence
        })
    }
}
