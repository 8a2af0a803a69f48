//! What all handlers share.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OnceCell, Semaphore};
use tokio_util::sync::CancellationToken;

use super::access::Gate;
use super::arriving::Arrivals;
use crate::config::Settings;
use crate::mlflow::Mlflow;
use crate::spec::child::{DeviceInfo, Message, Order};
use crate::store::{READERS, Store};
use crate::telemetry::Telemetry;
use crate::worker::{InspectionError, Inspector, WorkerHealth};

/// As many as the database has connections for reading, twice.
const LOOKS_AT_ONCE: usize = 2 * READERS as usize;

/// The server's parts.
#[derive(Debug)]
pub struct AppState {
    pub store: Arc<Store>,
    pub settings: Arc<Settings>,
    pub inspector: Inspector,
    pub worker: WorkerHealth,
    pub mlflow: Option<Arc<Mlflow>>,
    pub telemetry: Arc<Telemetry>,
    /// Canceled when the server has been asked to stop.
    pub draining: CancellationToken,
    /// Canceled when connections are to end.
    pub closing: CancellationToken,
    pub(super) gate: Gate,
    pub(super) arrivals: Arrivals,
    /// Followers of events that may read the database at once.
    pub(super) looks: Semaphore,
    /// What only one request at a time may use: keys of creations that run now, and uploads that go on.
    pub(super) in_use: Mutex<HashSet<String>>,
    devices: OnceCell<Vec<DeviceInfo>>,
    /// Whether the database took a write, and when.
    writable: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

/// How the server is told to end.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    /// Canceled when the server has been asked to stop.
    pub draining: CancellationToken,
    /// Canceled when connections are to end.
    pub closing: CancellationToken,
}

/// A shared [`AppState`].
pub type App = Arc<AppState>;

impl AppState {
    pub fn new(
        store: Arc<Store>,
        settings: Arc<Settings>,
        inspector: Inspector,
        worker: WorkerHealth,
        mlflow: Option<Arc<Mlflow>>,
        telemetry: Arc<Telemetry>,
        Ending { draining, closing }: Ending,
    ) -> Self {
        let gate = Gate::new(&settings.api_keys, settings.requests_per_minute);
        Self {
            store,
            settings,
            inspector,
            worker,
            mlflow,
            telemetry,
            draining,
            closing,
            gate,
            arrivals: Arrivals::default(),
            looks: Semaphore::new(LOOKS_AT_ONCE),
            in_use: Mutex::default(),
            devices: OnceCell::new(),
            writable: tokio::sync::Mutex::default(),
        }
    }

    /// The compute devices; asked for once, again only after a failure.
    pub async fn devices(&self) -> Result<&[DeviceInfo], InspectionError> {
        let devices = self
            .devices
            .get_or_try_init(|| async {
                match self.inspector.inspect("", &Order::Devices).await? {
                    Message::Devices { devices } => Ok(devices),
                    _ => Err(InspectionError::WrongAnswer),
                }
            })
            .await?;
        Ok(devices)
    }
}

impl AppState {
    /// Whether the database takes writes. It is tried once a second at most: anyone may ask, and each try waits for the disk.
    pub async fn is_writable(&self) -> bool {
        let mut known = self.writable.lock().await;
        if let Some((at, writable)) = *known
            && at.elapsed() < Duration::from_secs(1)
        {
            return writable;
        }
        let tried = self.store.probe_write().await;
        if let Err(error) = &tried {
            tracing::error!(%error, "the database takes no writes");
        }
        *known = Some((Instant::now(), tried.is_ok()));
        tried.is_ok()
    }

    /// Forgets how often callers asked that have not for a while.
    pub fn forget_idle_callers(&self) {
        self.gate.forget_idle();
    }

    /// Takes something for one request alone, unless another one has it.
    pub(super) fn take(self: &Arc<Self>, name: String) -> Option<InUse> {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        in_use.insert(name.clone()).then(|| InUse {
            app: Arc::clone(self),
            name,
        })
    }
}

/// Something that the request alone has that holds this value.
#[derive(Debug)]
pub(super) struct InUse {
    app: App,
    name: String,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut in_use = self
            .app
            .in_use
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        in_use.remove(&self.name);
    }
}
