//! Sends signed messages to URLs that users name, after Standard Webhooks
//! (<https://github.com/standard-webhooks/standard-webhooks>), and only into the public internet unless told otherwise.

use std::io::Read as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};
use url::Host;

use super::address::is_public;
use crate::config::{ConfigError, Settings, trust};
use crate::spec::webhook::read_url;
use crate::store::deliveries::{DueDelivery, Response};

/// How long a receiver may take, all in all.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

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

/// An agent that goes where webhooks may go.
pub(super) fn agent(settings: &Settings) -> Result<Agent, ConfigError> {
    let config = trust::agent(settings)?
        .max_idle_connections(0)
        .timeout_global(Some(PATIENCE))
        .build();
    if settings.webhooks_private {
        return Ok(Agent::new_with_config(config));
    }
    let resolver = PublicOnly(DefaultResolver::default());
    Ok(Agent::with_parts(
        config,
        DefaultConnector::default(),
        resolver,
    ))
}

/// Sends a message, signed, and tells what the receiver said. Waits at most fifteen seconds.
pub(super) fn send(agent: &Agent, due: &DueDelivery, traceparent: Option<&str>) -> Response {
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
    let mut request = agent.post(&due.url);
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let sent = request
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
                    let mut bytes = Vec::new();
                    let body = answer.body_mut().as_reader().take(KEPT_BYTES);
                    // What could be read of it is enough.
                    let _ = { body }.read_to_end(&mut bytes);
                    let text = String::from_utf8_lossy(&bytes);
                    Some(format!("it answered {status}: {text}"))
                }
            };
            Response {
                // Gone: the receiver wants no more.
                is_final: status.as_u16() == 410,
                status: Some(status.as_u16()),
                error,
                retry_after,
                note: None,
            }
        }
        Err(Error::Other(error)) => Response::failed(error.to_string()),
        Err(error) => Response::failed(error.to_string()),
    }
}

/// Whether messages may go to this URL, as far as can be told without looking its name up.
pub fn check_url(settings: &Settings, text: &str) -> Result<(), NotPublic> {
    if settings.webhooks_private {
        return Ok(());
    }
    // One that can't be read is refused elsewhere, with the reason.
    read_url(text).map_or(Ok(()), |(_, host)| check_host(&host))
}

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
