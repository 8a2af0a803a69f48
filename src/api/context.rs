//! What happens around every request: its id, its log line, its count.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;
use uuid::Uuid;

use super::problem::settle;
use super::state::App;
use crate::telemetry::traces::{Span, attribute};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Asked every few seconds by machines; not worth a trace.
const UNTRACED: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// A method as metrics and traces name it; others are countless.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}

/// The outermost layer.
pub async fn around(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let request_id = request_id(request.headers());
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let span = tracing::info_span!("request", %method, path, request_id, key = tracing::field::Empty,
        trace_id = tracing::field::Empty);
    let method_label = known_method(&method);
    let traced = match UNTRACED.contains(&route.as_str()) {
        true => Span::default(),
        false => app.telemetry.traces.request(
            request.headers(),
            format!("{method_label} {route}"),
            vec![
                attribute("http.request.method", method_label),
                attribute("http.route", route.clone()),
                attribute("url.path", path.clone()),
                attribute("sinter.request_id", request_id.clone()),
            ],
        ),
    };
    if let Some(trace_id) = traced.trace_id() {
        span.record("trace_id", trace_id);
    }
    request.extensions_mut().insert(traced.clone());
    let answer = async {
        let answered = settle(next.run(request).await, &path, &request_id);
        let status = answered.status().as_u16();
        let milliseconds = started.elapsed().as_secs_f64() * 1000.0;
        // Pages and scripts poll; what changes something or goes wrong is worth more.
        if method.is_safe() && status < 400 {
            tracing::debug!(status, milliseconds, "answered");
        } else {
            tracing::info!(status, milliseconds, "answered");
        }
        answered
    };
    let mut response = answer.instrument(span).await;
    let status = response.status();
    traced.set(attribute(
        "http.response.status_code",
        i64::from(status.as_u16()),
    ));
    if status.is_server_error() {
        traced.fail(status.canonical_reason().unwrap_or_default());
    }
    app.telemetry
        .request_answered(method_label, &route, status.as_u16(), started.elapsed());
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// The client's id if it has 1 to 128 visible ASCII characters, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(|id| {
            (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
        })
        .map_or_else(|| Uuid::now_v7().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_request_id_is_kept_unless_it_is_unfit_for_a_log() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("abc-1"));
        assert_eq!(request_id(&headers), "abc-1");
        headers.insert(REQUEST_ID, HeaderValue::from_static("a b"));
        assert_ne!(request_id(&headers), "a b");
    }
}
