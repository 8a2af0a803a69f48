//! Who asks, what they may, and how often.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use governor::clock::{Clock as _, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

use super::problem::ApiError;
use super::state::App;
use crate::spec::child::{Message, Order};
use crate::store::keys::Role;
use crate::store::{DEFAULT_PROJECT, Scope};
use crate::worker::InspectionError;

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Rates are counted over this many seconds.
const WINDOW_SECONDS: u64 = 60;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The beginning of the key, or a word for those without a key of their own.
    pub name: String,
    /// Whether the key is one of `sinter key`, which can be revoked.
    pub revocable: bool,
    pub role: Role,
    /// Where what they make belongs.
    pub project: String,
}

impl Caller {
    fn trusted(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            revocable: false,
            role: Role::Admin,
            project: DEFAULT_PROJECT.to_owned(),
        }
    }

    /// Whose objects they see.
    pub fn scope(&self) -> Scope {
        match self.role {
            Role::Admin => Scope::All,
            Role::Read | Role::Submit => Scope::Project(self.project.clone()),
        }
    }
}

/// The server's parts for a request that may use them, and who asks.
#[derive(Debug, Clone)]
pub struct Authorized {
    pub app: App,
    pub caller: Caller,
    /// Whose objects the caller sees.
    pub scope: Scope,
}

impl Authorized {
    /// Has a child answer an order that is no job, when it is the project's turn.
    pub async fn inspect(&self, order: &Order) -> Result<Message, InspectionError> {
        let inspector = &self.app.inspector;
        inspector.inspect(&self.caller.project, order).await
    }
}

impl FromRequestParts<App> for Authorized {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        // Put there by `guard`; a path that it does not guard has no caller.
        let caller = parts.extensions.get::<Caller>();
        let caller = caller.ok_or(ApiError::Unauthorized)?.clone();
        Ok(Self {
            app: Arc::clone(app),
            scope: caller.scope(),
            caller,
        })
    }
}

/// The keys of the settings, and how often each caller may ask.
#[derive(Debug)]
pub struct Gate {
    configured: Vec<[u8; 32]>,
    rates: Option<(NonZeroU32, Rates)>,
}

type Rates = RateLimiter<
    String,
    governor::state::keyed::DefaultKeyedStateStore<String>,
    DefaultClock,
    StateInformationMiddleware,
>;

impl Gate {
    pub fn new(api_keys: &[String], requests_per_minute: u32) -> Self {
        let rates = NonZeroU32::new(requests_per_minute).map(|rate| {
            let limiter: DefaultKeyedRateLimiter<String> =
                RateLimiter::keyed(Quota::per_minute(rate));
            (rate, limiter.with_middleware())
        });
        Self {
            configured: api_keys.iter().map(|key| digest(key)).collect(),
            rates,
        }
    }

    /// Which of the configured keys this is, counted from 1, in a time that does not tell how much of it is right.
    fn configured(&self, key: &str) -> Option<u64> {
        let given = digest(key);
        let mut place = 0;
        for (number, known) in (1_u64..).zip(&self.configured) {
            place.conditional_assign(&number, known[..].ct_eq(&given[..]));
        }
        (place > 0).then_some(place)
    }

    /// Counts a request: what is left in this window, or after how long there will be something again.
    fn count(&self, caller: &Caller) -> Result<Option<Allowance>, Duration> {
        let Some((rate, limiter)) = &self.rates else {
            return Ok(None);
        };
        match limiter.check_key(&caller.name) {
            Ok(state) => Ok(Some(Allowance {
                rate: *rate,
                left: state.remaining_burst_capacity(),
            })),
            Err(not_until) => Err(not_until.wait_time_from(DefaultClock::default().now())),
        }
    }

    /// Forgets callers that have not asked for a while.
    pub fn forget_idle(&self) {
        if let Some((_, limiter)) = &self.rates {
            limiter.retain_recent();
        }
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// What is left of a rate.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    rate: NonZeroU32,
    left: u32,
}

impl Allowance {
    /// draft-ietf-httpapi-ratelimit-headers-10.
    fn write(self, headers: &mut HeaderMap) {
        let policy = format!("\"key\";q={};w={WINDOW_SECONDS}", self.rate);
        let left = format!("\"key\";r={};t={WINDOW_SECONDS}", self.left);
        for (name, text) in [(RATE_LIMIT_POLICY, policy), (RATE_LIMIT, left)] {
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert(name, value);
            }
        }
    }
}

/// Lets a request pass to what needs a key, with its caller, or refuses it. Pages, probes and the API's description are
/// for all.
pub async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !(path.starts_with("/v1/") || path == "/v1" || path == "/metrics") {
        return next.run(request).await;
    }
    let caller = match caller(&app, request.headers()).await {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    if caller.name == ANYONE
        && let Err(error) = check_browser(&app.settings.cors_origins, &request)
    {
        return error.into_response();
    }
    let allowance = match app.gate.count(&caller) {
        Ok(allowance) => allowance,
        Err(wait) => return ApiError::TooManyRequests { wait }.into_response(),
    };
    let mut response = if !request.method().is_safe() && caller.role < Role::Submit {
        let detail = "this key may look and download; what changes something needs a key with the role `submit`";
        ApiError::new(403, "forbidden", detail).into_response()
    } else {
        tracing::Span::current().record("key", caller.name.as_str());
        request.extensions_mut().insert(caller);
        next.run(request).await
    };
    if let Some(allowance) = allowance {
        allowance.write(response.headers_mut());
    }
    response
}

/// The caller of a server without keys.
const ANYONE: &str = "anyone";

/// A server without keys trusts whoever reaches its loopback address, which a browser does for any page: one that was
/// brought here by a name of its own (DNS rebinding), or that sends something without asking, is refused.
fn check_browser(allowed: &[String], request: &Request) -> Result<(), ApiError> {
    let header = |name| {
        let value: Option<&HeaderValue> = request.headers().get(name);
        value.and_then(|value| value.to_str().ok())
    };
    let host = header(header::HOST).or(request.uri().authority().map(|name| name.as_str()));
    if host.is_some_and(|host| !is_loopback(host)) {
        let detail = "a server without keys answers to localhost, 127.0.0.1 and [::1] alone; make a key with `sinter key \
                      create`";
        return Err(ApiError::new(403, "foreign_host", detail));
    }
    let Some(origin) = header(header::ORIGIN) else {
        return Ok(());
    };
    let own = origin
        .split_once("://")
        .is_some_and(|(_, name)| Some(name) == host);
    if request.method().is_safe() || own || allowed.iter().any(|each| each == origin) {
        return Ok(());
    }
    let detail =
        "a page of another origin may not change anything here unless cors_origins names it";
    Err(ApiError::new(403, "foreign_origin", detail))
}

/// Whether a name with or without a port is this machine's own.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

async fn caller(app: &App, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let key = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(bearer_token);
    if app.gate.configured.is_empty() && !app.store.has_keys().await? {
        return Ok(Caller::trusted(ANYONE));
    }
    let key = key.ok_or(ApiError::Unauthorized)?;
    if let Some(number) = app.gate.configured(key) {
        return Ok(Caller::trusted(&format!("api_keys {number}")));
    }
    let known = app.store.key(key).await?.ok_or(ApiError::Unauthorized)?;
    Ok(Caller {
        name: known.prefix,
        revocable: true,
        role: known.role,
        project: known.project,
    })
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

    #[test]
    fn this_machine_has_few_names() {
        for host in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:80",
            "127.1.2.3",
            "[::1]:8080",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "example.org",
            "localhost.example.org",
            "10.0.0.1",
            "[2001:db8::1]",
            "",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_caller_that_has_used_up_its_rate_waits_and_others_do_not() {
        let gate = Gate::new(&[], 2);
        let (one, other) = (Caller::trusted("one"), Caller::trusted("other"));
        assert_eq!(gate.count(&one).unwrap().unwrap().left, 1);
        assert_eq!(gate.count(&one).unwrap().unwrap().left, 0);
        let wait = gate.count(&one).unwrap_err();
        assert!(
            wait > Duration::ZERO && wait <= Duration::from_secs(30),
            "{wait:?}"
        );
        assert!(gate.count(&other).is_ok());
    }
}
