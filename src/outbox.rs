//! What is on its way to others: messages to webhooks, and finished jobs to MLflow.
//!
//! A row is written in the commit of the change that it tells of, and sent until it is taken. It may be sent twice (a server
//! that dies after a send repeats it); webhooks see the same `webhook-id`, and MLflow is asked what it has already. One
//! at a time goes to a URL, and few of a project, so that one that does not answer keeps no other waiting.

pub mod address;
pub mod webhook;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::SpanKind;
use rand::RngExt as _;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use ureq::Agent;

use crate::config::{ConfigError, Settings};
use crate::mlflow::{Mlflow, export};
use crate::store::deliveries::{Busy, DueDelivery, Response, Target};
use crate::store::{Store, StoreError};
use crate::telemetry::Telemetry;
use crate::telemetry::traces::attribute;

/// Messages to webhooks that are sent at the same time; a project has four of these places at most.
const AT_ONCE: usize = 16;

/// Due rows are looked for this often, whatever is heard.
const LOOK: Duration = Duration::from_secs(30);

/// How often it is tried to write down what came of a delivery; after that it is sent again when the server starts.
const END_TRIES: u32 = 30;

/// After a change has been heard of, others are waited for so long.
const GATHER: Duration = Duration::from_millis(50);

/// The longest wait before MLflow is asked again, which goes on until it answers.
const MLFLOW_WAIT: Duration = Duration::from_secs(300);

/// Sends what is due.
#[derive(Clone)]
pub struct Deliverer {
    store: Arc<Store>,
    telemetry: Arc<Telemetry>,
    /// For webhooks.
    agent: Agent,
    /// How long to wait after each try of a webhook that was in vain; after the last one it is given up.
    retries: Arc<[Duration]>,
    mlflow: Option<Arc<Mlflow>>,
}

impl fmt::Debug for Deliverer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Deliverer").finish_non_exhaustive()
    }
}

impl Deliverer {
    pub fn new(
        store: Arc<Store>,
        settings: &Settings,
        mlflow: Option<Arc<Mlflow>>,
        telemetry: Arc<Telemetry>,
    ) -> Result<Self, ConfigError> {
        let retries = settings.webhook_retry_seconds.iter();
        Ok(Self {
            store,
            telemetry,
            agent: webhook::agent(settings)?,
            retries: retries
                .map(|&seconds| Duration::from_secs(seconds))
                .collect(),
            mlflow,
        })
    }

    /// Sends until `closing` is canceled. What is on its way then is sent again by the next server.
    pub async fn run(self, closing: CancellationToken) {
        let mut changes = self.store.changes();
        let mut sending = JoinSet::new();
        let mut busy = Busy::default();
        while !closing.is_cancelled() {
            let wait = match self.send_due(&mut sending, &mut busy).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!(%error, "deliveries wait: the database failed");
                    LOOK
                }
            };
            tokio::select! {
                () = closing.cancelled() => return,
                // Whatever was heard or missed: the rows tell, and once is enough for all that comes in a moment.
                _ = changes.recv() => {
                    sleep(GATHER).await;
                    changes = changes.resubscribe();
                }
                Some(sent) = sending.join_next() => match sent {
                    Ok(due) => busy.remove(&due),
                    Err(error) => {
                        tracing::error!(%error, "a delivery ended early; it is sent again when the server starts");
                    }
                },
                () = sleep(wait) => {}
            }
        }
    }

    /// Starts to send all that is due; tells how long nothing will be.
    async fn send_due(
        &self,
        sending: &mut JoinSet<DueDelivery>,
        busy: &mut Busy,
    ) -> Result<Duration, StoreError> {
        let mut shortest = LOOK;
        let targets = [
            (Target::Webhook, AT_ONCE),
            (Target::Mlflow, usize::from(self.mlflow.is_some())),
        ];
        for (target, most) in targets {
            while busy.count(target) < most {
                match self.store.next_delivery(target, busy).await? {
                    Some(wait) if wait.is_zero() => {}
                    waiting => {
                        shortest = shortest.min(waiting.unwrap_or(LOOK));
                        break;
                    }
                }
                let Some(due) = self.store.take_delivery(target, busy).await? else {
                    break;
                };
                busy.insert(&due);
                let deliverer = self.clone();
                sending.spawn(async move {
                    deliverer.deliver(&due).await;
                    due
                });
            }
        }
        Ok(shortest)
    }

    async fn deliver(&self, due: &DueDelivery) {
        let span = self.telemetry.traces.of_job(
            due.traceparent.as_deref(),
            SpanKind::Producer,
            "deliver",
            vec![
                attribute("sinter.job.id", due.job_id.clone()),
                attribute("sinter.delivery.id", due.id.clone()),
                attribute("sinter.delivery.target", due.target.as_str()),
            ],
        );
        let response = match (due.target, &self.mlflow) {
            (Target::Mlflow, Some(mlflow)) => export::export(mlflow, &self.store, due).await,
            _ => {
                let (agent, message) = (self.agent.clone(), due.clone());
                let trace = span.traceparent();
                let sent = tokio::task::spawn_blocking(move || {
                    webhook::send(&agent, &message, trace.as_deref())
                });
                match timeout(2 * webhook::PATIENCE, sent).await {
                    Ok(Ok(response)) => response,
                    Ok(Err(error)) => {
                        Response::failed(format!("the delivery ended early: {error}"))
                    }
                    Err(_) => Response::failed("the receiver took too long".to_owned()),
                }
            }
        };
        let wait = self.wait_after(due, &response);
        self.telemetry
            .delivery_tried(due.target.as_str(), response.accepted());
        if let Some(error) = &response.error {
            span.fail(error);
            tracing::warn!(delivery = %due.id, job = %due.job_id, target = due.target.as_str(), %error, "not delivered");
        }
        drop(span);
        for _ in 0..END_TRIES {
            match self.store.end_delivery(due, &response, wait).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::error!(delivery = %due.id, %error, "a delivery's end was not written down")
                }
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    /// How long to wait before the next try; `None` when there is none.
    fn wait_after(&self, due: &DueDelivery, response: &Response) -> Option<Duration> {
        if response.is_final {
            return None;
        }
        let tries = usize::try_from(due.attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let wait = match due.target {
            Target::Webhook => *self.retries.get(tries)?,
            // Nobody is told when it is up again, and what was done must not be lost.
            Target::Mlflow => MLFLOW_WAIT.min(Duration::from_secs(1 << tries.min(16))),
        };
        // Many that failed together must not come back together.
        let spread = wait.mul_f64(rand::rng().random_range(0.9..1.1));
        Some(spread.max(response.retry_after.unwrap_or_default()))
    }
}
