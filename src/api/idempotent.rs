//! `Idempotency-Key`: a creation that is asked for twice happens once.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use sha2::{Digest as _, Sha256};

use super::access::Authorized;
use super::problem::ApiError;
use super::request::located_json;
use super::state::{App, InUse};
use crate::store::idempotency::{Answer, IdempotencyKey, KeptAnswer};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// A key that is in use by the request that holds this value.
#[derive(Debug)]
pub struct KeyInUse {
    app: App,
    project: String,
    key: String,
    route: &'static str,
    _taken: InUse,
}

impl KeyInUse {
    /// Takes the key of a request, if it has one; 409 while another request holds it.
    pub fn take(
        access: &Authorized,
        headers: &HeaderMap,
        route: &'static str,
    ) -> Result<Option<Self>, ApiError> {
        let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
            return Ok(None);
        };
        let key = value
            .to_str()
            .ok()
            .filter(|key| (1..=255).contains(&key.len()))
            .ok_or_else(|| {
                let detail = "Idempotency-Key must have 1 to 255 visible ASCII characters";
                ApiError::new(400, "invalid_idempotency_key", detail)
            })?
            .to_owned();
        let project = access.caller.project.clone();
        let taken = access.app.take(format!("{project} {route} {key}"));
        let taken = taken.ok_or_else(|| {
            let detail = "a request with this Idempotency-Key still runs; ask again later";
            ApiError::new(409, "idempotency_key_in_use", detail)
        })?;
        Ok(Some(Self {
            app: App::clone(&access.app),
            project,
            key,
            route,
            _taken: taken,
        }))
    }

    /// The key together with what the request says, piece by piece.
    fn fingerprint(&self, pieces: &[&[u8]]) -> IdempotencyKey {
        let mut hasher = Sha256::new();
        for piece in pieces {
            hasher.update((piece.len() as u64).to_le_bytes());
            hasher.update(piece);
        }
        IdempotencyKey {
            project: self.project.clone(),
            key: self.key.clone(),
            route: self.route.to_owned(),
            fingerprint: hex::encode(hasher.finalize()),
        }
    }

    /// The first answer to the same request, if there was one; 422 if the key was used for
    /// another request.
    async fn replay(&self, key: &IdempotencyKey) -> Result<Option<Response>, ApiError> {
        let Some(kept) = self.app.store.kept_answer(key).await? else {
            return Ok(None);
        };
        replay(kept, key).map(Some)
    }
}

/// The first answer again; 422 if it was the answer to another request.
pub fn replay(kept: KeptAnswer, key: &IdempotencyKey) -> Result<Response, ApiError> {
    if kept.fingerprint != key.fingerprint {
        let detail = "this Idempotency-Key was used for another request";
        return Err(ApiError::new(422, "idempotency_key_reused", detail));
    }
    let Answer {
        status,
        location,
        body,
    } = kept.answer;
    let mut response = located_json(status, &location, body);
    response
        .headers_mut()
        .insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// Whether a creation is still to be done.
pub enum Turn {
    /// It was done before, with this answer.
    Replay(Response),
    /// Do it, and keep the answer under the key.
    Run(Option<IdempotencyKey>),
}

/// Tells whether a request with these contents still has to run.
pub async fn turn(in_use: Option<&KeyInUse>, pieces: &[&[u8]]) -> Result<Turn, ApiError> {
    let Some(in_use) = in_use else {
        return Ok(Turn::Run(None));
    };
    let key = in_use.fingerprint(pieces);
    Ok(match in_use.replay(&key).await? {
        Some(response) => Turn::Replay(response),
        None => Turn::Run(Some(key)),
    })
}
