//! What all handlers share, and the key that opens it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use axum::extract::FromRequestParts;
use axum::http::header;
use axum::http::request::Parts;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::problem::ApiError;
use crate::config::Settings;
use crate::spec::child::{DeviceInfo, Message, Order};
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::worker::{InspectionError, Inspector, WorkerHealth};

/// The server's parts.
#[derive(Debug)]
pub struct AppState {
    pub store: Arc<Store>,
    pub settings: Arc<Settings>,
    pub inspector: Inspector,
    pub worker: WorkerHealth,
    pub telemetry: Arc<Telemetry>,
    /// Canceled when the server has been asked to stop.
    pub draining: CancellationToken,
    /// Canceled when connections are to end.
    pub closing: CancellationToken,
    /// Keys and routes of creations that run now.
    pub(super) keys_in_use: Mutex<HashSet<(String, String)>>,
    key_digests: Vec<[u8; 32]>,
    devices: OnceCell<Vec<DeviceInfo>>,
}

/// A shared [`AppState`].
pub type App = Arc<AppState>;

impl AppState {
    pub fn new(
        store: Arc<Store>,
        settings: Arc<Settings>,
        inspector: Inspector,
        worker: WorkerHealth,
        telemetry: Arc<Telemetry>,
        draining: CancellationToken,
        closing: CancellationToken,
    ) -> Self {
        let key_digests = settings.api_keys.iter().map(|key| digest(key)).collect();
        Self {
            store,
            settings,
            inspector,
            worker,
            telemetry,
            draining,
            closing,
            keys_in_use: Mutex::default(),
            key_digests,
            devices: OnceCell::new(),
        }
    }

    /// The compute devices; asked for once, again only after a failure.
    pub async fn devices(&self) -> Result<&[DeviceInfo], InspectionError> {
        let devices = self
            .devices
            .get_or_try_init(|| async {
                match self.inspector.inspect(&Order::Devices).await? {
                    Message::Devices { devices } => Ok(devices),
                    _ => Err(InspectionError::WrongAnswer),
                }
            })
            .await?;
        Ok(devices)
    }

    /// Whether this key is one of the configured ones, in a time that does not tell how much of
    /// it is right.
    fn accepts(&self, key: &str) -> bool {
        let given = digest(key);
        let mut accepted = Choice::from(0);
        for known in &self.key_digests {
            accepted |= known[..].ct_eq(&given[..]);
        }
        accepted.into()
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// The server's parts for a request that may use them: without keys any, else one with a key.
#[derive(Debug, Clone)]
pub struct Authorized(pub App);

impl FromRequestParts<App> for Authorized {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        if app.key_digests.is_empty() {
            return Ok(Self(Arc::clone(app)));
        }
        let key = parts
            .headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(bearer_token);
        match key {
            Some(key) if app.accepts(key) => Ok(Self(Arc::clone(app))),
            _ => Err(ApiError::Unauthorized),
        }
    }
}

fn bearer_token(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_read_in_any_case_and_no_other_is_taken() {
        assert_eq!(bearer_token("bearer abc"), Some("abc"));
        assert_eq!(bearer_token("Basic abc"), None);
        assert_eq!(bearer_token("abc"), None);
    }
}
