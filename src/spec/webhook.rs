//! Where a job tells how it went.

use serde::{Deserialize, Serialize};
use url::{Host, Url};
use utoipa::ToSchema;

use super::problem::Faults;

/// URLs are at most this long.
const MAX_URL_BYTES: usize = 2000;

/// What a job can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub enum WebhookEvent {
    /// An attempt has begun.
    #[serde(rename = "job.started")]
    Started,
    #[serde(rename = "job.succeeded")]
    Succeeded,
    #[serde(rename = "job.failed")]
    Failed,
    #[serde(rename = "job.canceled")]
    Canceled,
    /// Succeeded, failed or canceled.
    #[serde(rename = "job.finished")]
    Finished,
}

/// An address that is told of a job by POST, signed as Standard Webhooks has it
/// (<https://github.com/standard-webhooks/standard-webhooks>).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// `https` or `http`, a public address unless the server allows others.
    pub url: String,
    #[serde(default = "finished")]
    pub events: Vec<WebhookEvent>,
}

fn finished() -> Vec<WebhookEvent> {
    vec![WebhookEvent::Finished]
}

impl Webhook {
    /// What is wrong with it, with pointers from the webhook.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        if let Err(fault) = read_url(&self.url) {
            faults.require_value(false, "/url", fault);
        }
        faults.require_value(
            !self.events.is_empty(),
            "/events",
            "must name at least one event",
        );
        let mut sorted = self.events.clone();
        sorted.sort_unstable();
        sorted.dedup();
        faults.require_value(
            sorted.len() == self.events.len(),
            "/events",
            "names an event twice",
        );
        faults
    }
}

/// Reads an address that messages can go to, or tells why they can't.
pub fn read_url(text: &str) -> Result<(Url, Host<String>), &'static str> {
    let url = Url::parse(text)
        .map_err(|_| "must be an absolute URL, as in https://example.org/hooks/sinter")?;
    if text.len() > MAX_URL_BYTES {
        return Err("must have at most 2000 bytes");
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with https:// or http://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "must have no user name and password; deliveries are signed, which the receiver verifies",
        );
    }
    if url.fragment().is_some() {
        return Err("must have no fragment (`#…`), which is never sent");
    }
    let host = url.host().map(|host| host.to_owned());
    let host = host.ok_or("must name a host")?;
    Ok((url, host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_absolute_and_hold_no_secrets() {
        for url in ["https://example.org/x?y=1", "http://[2001:db8::1]:81/"] {
            assert!(read_url(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "example.org",
            "/hooks",
            "ftp://example.org",
            "file:///etc/passwd",
            "https://user@example.org",
            "https://example.org/#here",
            "https://",
        ] {
            assert!(read_url(url).is_err(), "{url}");
        }
    }
}
