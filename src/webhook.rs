//! Tells webhooks of jobs: takes messages that are due from the store, signs and sends them, and notes what came of it.
//!
//! A message is committed together with the change that it tells of, and may be sent twice (a server that dies after a send
//! repeats it); its `webhook-id` stays the same. One message at a time goes to a URL, so that one that does not answer
//! keeps no other waiting.

pub mod address;

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rand::RngExt as _;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};
use url::Host;

use self::address::is_public;
use crate::config::{ConfigError, Settings};
use crate::spec::webhook::read_url;
use crate::store::deliveries::{DueDelivery, Response, SEND_TIME};
use crate::store::{Store, StoreError};
use crate::telemetry::Telemetry;

/// Messages that are sent at the same time.
const AT_ONCE: usize = 16;

/// How long a receiver may take, all in all; less than [`SEND_TIME`], after which a message is due again.
const PATIENCE: Duration = Duration::from_secs(15);

/// Due messages are looked for this often, whatever is heard.
const LOOK: Duration = Duration::from_secs(30);

/// How many bytes of an answer that says no are kept.
const KEPT_BYTES: u64 = 500;

/// Why no message may go to a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its address is not of the public internet; the setting webhooks_private would allow it")]
pub struct NotPublic;

/// Looks names up, and refuses those that lead into private networks. The address that was looked at is the one that is
/// connected to: there is no second look that could have another answer.
#[derive(Debug)]
struct PublicOnly(DefaultResolver);

impl Resolver for PublicOnly {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let addresses = self.0.resolve(uri, config, timeout)?;
        if addresses.iter().all(|address| is_public(address.ip())) {
            return Ok(addresses);
        }
        Err(Error::Other(Box::new(NotPublic)))
    }
}

/// Whether the host of a URL can be seen to be none of the public internet without looking it up.
pub fn check_host(host: &Host<String>) -> Result<(), NotPublic> {
    let public = match host {
        Host::Ipv4(address) => is_public((*address).into()),
        Host::Ipv6(address) => is_public((*address).into()),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            let local = |suffix: &str| name == suffix || name.ends_with(&format!(".{suffix}"));
            !["localhost", "local", "internal"].into_iter().any(local)
        }
    };
    if public { Ok(()) } else { Err(NotPublic) }
}

/// Sends what is due.
#[derive(Clone)]
pub struct Deliverer {
    store: Arc<Store>,
    telemetry: Arc<Telemetry>,
    agent: Agent,
    /// How long to wait after each try that was in vain; after the last one the message is given up.
    retries: Arc<[Duration]>,
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
        telemetry: Arc<Telemetry>,
    ) -> Result<Self, ConfigError> {
        let mut tls = TlsConfig::builder();
        if !settings.webhooks_ca.as_os_str().is_empty() {
            tls = tls.root_certs(read_certificates(&settings.webhooks_ca)?);
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect could lead where the URL itself may not.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .max_idle_connections(0)
            .timeout_global(Some(PATIENCE))
            .user_agent(concat!("sinter/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            .build();
        let agent = if settings.webhooks_private {
            Agent::new_with_config(config)
        } else {
            let resolver = PublicOnly(DefaultResolver::default());
            Agent::with_parts(config, DefaultConnector::default(), resolver)
        };
        let retries = settings.webhook_retry_seconds.iter();
        Ok(Self {
            store,
            telemetry,
            agent,
            retries: retries
                .map(|&seconds| Duration::from_secs(seconds))
                .collect(),
        })
    }

    /// Sends until `closing` is canceled. What is on its way then is sent again by the next server.
    pub async fn run(self, closing: CancellationToken) {
        let mut changes = self.store.changes();
        let mut sending = JoinSet::new();
        let mut busy: HashSet<String> = HashSet::new();
        while !closing.is_cancelled() {
            let wait = match self.send_due(&mut sending, &mut busy).await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::error!(%error, "webhooks wait: the database failed");
                    LOOK
                }
            };
            tokio::select! {
                () = closing.cancelled() => return,
                // Whatever was heard or missed: the rows tell.
                _ = changes.recv() => {}
                Some(sent) = sending.join_next() => match sent {
                    Ok(url) => { busy.remove(&url); }
                    Err(error) => {
                        tracing::error!(%error, "a delivery ended early");
                        busy.clear();
                    }
                },
                () = sleep(wait) => {}
            }
        }
    }

    /// Starts to send all that is due; tells how long nothing will be.
    async fn send_due(
        &self,
        sending: &mut JoinSet<String>,
        busy: &mut HashSet<String>,
    ) -> Result<Duration, StoreError> {
        while sending.len() < AT_ONCE {
            match self.store.next_delivery(busy).await? {
                None => return Ok(LOOK),
                Some(wait) if !wait.is_zero() => return Ok(wait.min(LOOK)),
                Some(_) => {}
            }
            let Some(due) = self.store.take_delivery(busy).await? else {
                return Ok(LOOK);
            };
            busy.insert(due.url.clone());
            let deliverer = self.clone();
            sending.spawn(async move {
                deliverer.deliver(&due).await;
                due.url
            });
        }
        Ok(LOOK)
    }

    async fn deliver(&self, due: &DueDelivery) {
        let agent = self.agent.clone();
        let message = due.clone();
        let sent = tokio::task::spawn_blocking(move || send(&agent, &message));
        let response = match timeout(PATIENCE + Duration::from_secs(5), sent).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => Response::failed(format!("the delivery ended early: {error}")),
            Err(_) => Response::failed("the receiver took too long".to_owned()),
        };
        let wait = self.wait_after(due.attempts, &response);
        self.telemetry.webhook_sent(response.accepted());
        if let Err(error) = self.store.end_delivery(due, &response, wait).await {
            tracing::error!(delivery = %due.id, %error, "a delivery's end was not written down; it is sent again");
        }
    }

    /// How long to wait before the next try; `None` when there is none.
    fn wait_after(&self, attempts: u64, response: &Response) -> Option<Duration> {
        // 410 Gone: the receiver wants no more.
        if response.status == Some(410) {
            return None;
        }
        let tries = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let wait = *self.retries.get(tries)?;
        // Many that failed together must not come back together.
        let spread = wait.mul_f64(rand::rng().random_range(0.9..1.1));
        Some(spread.max(response.retry_after.unwrap_or_default()))
    }
}

fn send(agent: &Agent, due: &DueDelivery) -> Response {
    let timestamp = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let signed = standardwebhooks::Webhook::new(&due.secret).and_then(|signer| {
        let seconds = i64::try_from(timestamp).unwrap_or(i64::MAX);
        signer.sign(&due.id, seconds, due.body.as_bytes())
    });
    let signature = match signed {
        Ok(signature) => signature,
        Err(error) => return Response::failed(format!("the message can't be signed: {error}")),
    };
    let sent = agent
        .post(&due.url)
        .header("content-type", "application/json")
        .header("webhook-id", &due.id)
        .header("webhook-timestamp", timestamp.to_string())
        .header("webhook-signature", signature)
        .send(&due.body);
    match sent {
        Ok(mut answer) => {
            let status = answer.status();
            let retry_after = answer
                .headers()
                .get("retry-after")
                .and_then(|value| value.to_str().ok()?.trim().parse().ok())
                .map(|seconds: u64| Duration::from_secs(seconds.min(86_400)));
            let error = match status.as_u16() {
                200..=299 => None,
                300..=399 => {
                    Some("it redirects, which is not followed; name the final URL".to_owned())
                }
                _ => {
                    let body = answer.body_mut().with_config().limit(KEPT_BYTES);
                    let text = body.read_to_string().unwrap_or_default();
                    Some(format!("it answered {status}: {text}"))
                }
            };
            Response {
                status: Some(status.as_u16()),
                error,
                retry_after,
            }
        }
        Err(Error::Other(error)) => Response::failed(error.to_string()),
        Err(error) => Response::failed(error.to_string()),
    }
}

fn read_certificates(path: &Path) -> Result<RootCerts, ConfigError> {
    let invalid = |fault: String| ConfigError::Invalid {
        setting: "webhooks_ca",
        fault,
    };
    let pem = std::fs::read(path)
        .map_err(|error| invalid(format!("can't be read: `{}`: {error}", path.display())))?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(invalid(format!("is no PEM file: {error}"))),
        }
    }
    if certificates.is_empty() {
        return Err(invalid(format!("has no certificate: `{}`", path.display())));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// Whether messages may go to this URL, as far as can be told without looking its name up.
pub fn check_url(settings: &Settings, text: &str) -> Result<(), NotPublic> {
    if settings.webhooks_private {
        return Ok(());
    }
    // One that can't be read is refused elsewhere, with the reason.
    read_url(text).map_or(Ok(()), |(_, host)| check_host(&host))
}

const _: () = assert!(PATIENCE.as_secs() + 5 < SEND_TIME.as_secs());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_this_machine_and_its_network_are_seen_without_looking_them_up() {
        let host = |url: &str| read_url(url).unwrap().1;
        for url in [
            "https://example.org",
            "http://8.8.8.8",
            "https://localhost.example.org",
        ] {
            assert_eq!(check_host(&host(url)), Ok(()), "{url}");
        }
        for url in [
            "http://localhost:8080",
            "http://LOCALHOST.",
            "http://a.localhost",
            "http://printer.local",
            "http://metadata.google.internal",
            "http://127.1",
            "http://0x7f.1",
            "http://2130706433",
            "http://017700000001",
            "http://[::ffff:10.0.0.1]",
            "http://169.254.169.254/latest/meta-data",
        ] {
            assert_eq!(check_host(&host(url)), Err(NotPublic), "{url}");
        }
    }
}
