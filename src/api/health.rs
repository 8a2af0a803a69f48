//! What those who run the server ask it.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::Authorized;
use super::problem::{ApiError, Problems};
use super::state::App;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(get_health))
        .routes(routes!(get_readiness))
        .routes(routes!(get_metrics))
}

/// The process answers.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct Health {
    /// Always `ok`.
    #[schema(value_type = String)]
    status: &'static str,
}

/// Whether the server can do its work.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct Readiness {
    /// `ok` or `unavailable`.
    #[schema(value_type = String)]
    status: &'static str,
    checks: ReadinessChecks,
}

/// What the readiness is made of; each is `ok` or says what is wrong.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
struct ReadinessChecks {
    /// `ok` or `not_writable`.
    #[schema(value_type = String)]
    store: &'static str,
    /// `ok`, `silent` or `draining`.
    #[schema(value_type = String)]
    worker: &'static str,
}

/// Tell that the process is up.
#[utoipa::path(
    get, path = "/healthz", operation_id = "getHealth", tag = "operations", security(()),
    responses((status = 200, description = "It is up", body = Health))
)]
async fn get_health() -> Json<Health> {
    Json(Health { status: "ok" })
}

/// Tell whether the database takes writes and the worker is alive.
#[utoipa::path(
    get, path = "/readyz", operation_id = "getReadiness", tag = "operations", security(()),
    responses(
        (status = 200, description = "Ready", body = Readiness),
        (status = 503, description = "Not ready, or not any more", body = Readiness)
    )
)]
async fn get_readiness(State(app): State<App>) -> Response {
    let writable = app.is_writable().await;
    let checks = ReadinessChecks {
        store: if writable { "ok" } else { "not_writable" },
        worker: if app.draining.is_cancelled() {
            "draining"
        } else if app.worker.is_alive() {
            "ok"
        } else {
            "silent"
        },
    };
    let ready = checks.store == "ok" && checks.worker == "ok";
    let (code, status) = if ready {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unavailable")
    };
    (code, Json(Readiness { status, checks })).into_response()
}

/// Get counters and gauges as OpenMetrics text, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", operation_id = "getMetrics", tag = "operations",
    responses(
        (status = 200, description = "OpenMetrics", body = String,
            content_type = "application/openmetrics-text"),
        Problems
    )
)]
async fn get_metrics(access: Authorized) -> Result<Response, ApiError> {
    let app = access.app;
    app.telemetry.set_jobs(&app.store.count_jobs().await?);
    app.telemetry
        .set_state(app.store.free_bytes()?, app.worker.is_alive());
    let text = app.telemetry.text();
    let text = text.map_err(|error| ApiError::Internal(error.to_string()))?;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, media_type)], text).into_response())
}
