//! `/v1/webhooks` and `/v1/jobs/{id}/deliveries`: where jobs tell how they went, and what became of it.

use axum::Json;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::Authorized;
use super::jobs::find_status;
use super::problem::{ApiError, Problems};
use super::request::{Listed, NoQuery, json_body, located_json};
use super::state::App;
use crate::outbox::webhook::check_url;
use crate::spec::webhook::read_url;
use crate::store::deliveries::{Delivery, DeliveryStatus, Target, WebhookRow};
use crate::store::keys::Role;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_webhooks, create_webhook))
        .routes(routes!(delete_webhook))
        .routes(routes!(list_deliveries))
        .routes(routes!(resend_delivery))
}

/// A URL that jobs tell how they went.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = WebhookEndpoint)]
pub struct WebhookView {
    #[schema(format = "uuid")]
    pub id: String,
    pub project: String,
    pub url: String,
    /// What its messages are signed with (`whsec_…`); `null` for a key that may only read.
    pub secret: Option<String>,
    #[schema(format = "date-time")]
    pub created_at: String,
}

impl WebhookView {
    fn new(row: WebhookRow, role: Role) -> Self {
        Self {
            id: row.id,
            project: row.project,
            url: row.url,
            secret: (role >= Role::Submit).then_some(row.secret),
            created_at: row.created_at,
        }
    }
}

/// A message to a webhook, or what is written to MLflow.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub struct DeliveryView {
    /// What the receiver gets as `webhook-id`, the same at each try.
    pub id: String,
    pub target: Target,
    /// Empty for MLflow.
    pub url: String,
    pub event: String,
    pub status: DeliveryStatus,
    pub attempts: u64,
    /// Until the next try; of a pending message only.
    pub next_attempt_in_seconds: Option<f64>,
    /// What the receiver answered last.
    pub response_status: Option<u16>,
    pub last_error: Option<String>,
    #[schema(format = "date-time")]
    pub created_at: String,
    #[schema(format = "date-time")]
    pub delivered_at: Option<String>,
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self {
            id: delivery.id,
            target: delivery.target,
            url: delivery.url,
            event: delivery.event,
            status: delivery.status,
            attempts: delivery.attempts,
            next_attempt_in_seconds: delivery.next_attempt_in.map(|wait| wait.as_secs_f64()),
            response_status: delivery.response_status,
            last_error: delivery.last_error,
            created_at: delivery.created_at,
            delivered_at: delivery.delivered_at,
        }
    }
}

/// A webhook before a job needs it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    #[schema(max_length = 2000, format = "uri")]
    pub url: String,
}

/// List the webhooks, each with the secret that its messages are signed with.
#[utoipa::path(
    get, path = "/v1/webhooks", operation_id = "listWebhooks", tag = "webhooks",
    responses((status = 200, description = "The webhooks", body = Listed<WebhookView>), Problems)
)]
async fn list_webhooks(
    access: Authorized,
    _query: NoQuery,
) -> Result<Json<Listed<WebhookView>>, ApiError> {
    let rows = access.app.store.webhooks(&access.scope).await?;
    let role = access.caller.role;
    let data = rows.into_iter().map(|row| WebhookView::new(row, role));
    Ok(Json(Listed {
        data: data.collect(),
    }))
}

/// Make a webhook before a job needs it, to give its secret to the receiver.
///
/// A job's `webhook` makes one by itself. Asked again for the same URL the answer is the same webhook.
#[utoipa::path(
    post, path = "/v1/webhooks", operation_id = "createWebhook", tag = "webhooks",
    request_body = NewWebhook,
    responses(
        (status = 201, description = "Made", body = WebhookView, headers(("Location" = String))),
        (status = 200, description = "It was there", body = WebhookView, headers(("Location" = String))),
        Problems
    )
)]
async fn create_webhook(
    access: Authorized,
    _query: NoQuery,
    headers: HeaderMap,
    body: axum::body::Body,
) -> Result<Response, ApiError> {
    let (_, new) = json_body::<NewWebhook>(&headers, body).await?;
    let url = match read_url(&new.url) {
        Ok((url, _)) => url.to_string(),
        Err(fault) => return Err(ApiError::fault("invalid_request", "/url", fault)),
    };
    check_target(&access, &url, "/url")?;
    let store = &access.app.store;
    let project = &access.caller.project;
    let (row, made) = store.ensure_webhook(project, &url).await?;
    let location = format!("/v1/webhooks/{}", row.id);
    let view = WebhookView::new(row, access.caller.role);
    let status = if made { 201 } else { 200 };
    Ok(located_json(status, &location, super::to_json(&view)))
}

/// Refuses what can be seen to be no public address.
pub fn check_target(access: &Authorized, url: &str, pointer: &str) -> Result<(), ApiError> {
    check_url(&access.app.settings, url)
        .map_err(|error| ApiError::fault("webhook_not_allowed", pointer, error.to_string()))
}

/// Forget a webhook and its secret.
///
/// The next message to its URL is signed with a new one.
#[utoipa::path(
    delete, path = "/v1/webhooks/{id}", operation_id = "deleteWebhook", tag = "webhooks",
    params(("id" = String, Path)),
    responses((status = 204, description = "It is gone"), Problems)
)]
async fn delete_webhook(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<StatusCode, ApiError> {
    match access.app.store.delete_webhook(&access.scope, &id).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::not_found("webhook", &id)),
    }
}

/// List what a job told its webhook and MLflow, and whether it was taken.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/deliveries", operation_id = "listJobDeliveries", tag = "webhooks",
    params(("id" = String, Path)),
    responses((status = 200, description = "The messages, the oldest first", body = Listed<DeliveryView>), Problems)
)]
async fn list_deliveries(
    access: Authorized,
    Path(id): Path<String>,
    _query: NoQuery,
) -> Result<Json<Listed<DeliveryView>>, ApiError> {
    find_status(&access, &id).await?;
    let rows = access.app.store.deliveries(&id).await?;
    let has_mlflow = !access.app.settings.mlflow_url.is_empty();
    let told = |row: &Delivery| row.target == Target::Webhook || has_mlflow;
    let data = rows
        .into_iter()
        .filter(told)
        .map(DeliveryView::from)
        .collect();
    Ok(Json(Listed { data }))
}

/// Send a message again, whatever became of it, with all its tries.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/deliveries/{delivery}/resend", operation_id = "resendJobDelivery", tag = "webhooks",
    params(("id" = String, Path), ("delivery" = String, Path)),
    responses((status = 202, description = "It will be sent"), Problems)
)]
async fn resend_delivery(
    access: Authorized,
    Path((id, delivery)): Path<(String, String)>,
    _query: NoQuery,
) -> Result<StatusCode, ApiError> {
    find_status(&access, &id).await?;
    match access.app.store.resend_delivery(&id, &delivery).await? {
        true => Ok(StatusCode::ACCEPTED),
        false => Err(ApiError::not_found("delivery", &delivery)),
    }
}
