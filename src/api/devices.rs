//! `/v1/devices`.

use axum::Json;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::Authorized;
use super::problem::{ApiError, Problems};
use super::request::{Listed, NoQuery};
use super::state::App;
use crate::spec::child::DeviceInfo;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_devices))
}

/// List the compute devices that jobs can ask for.
#[utoipa::path(
    get, path = "/v1/devices", operation_id = "listDevices", tag = "devices",
    responses((status = 200, description = "The devices", body = Listed<DeviceInfo>), Problems)
)]
async fn list_devices(
    access: Authorized,
    _query: NoQuery,
) -> Result<Json<Listed<DeviceInfo>>, ApiError> {
    let data = access.app.devices().await?.to_vec();
    Ok(Json(Listed { data }))
}
