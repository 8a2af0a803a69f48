//! The HTTP service: one file a resource, one place for errors, one source for the routes and the
//! OpenAPI document.

mod access;
mod arriving;
mod artifacts;
mod context;
mod datasets;
mod devices;
mod download;
mod events;
mod health;
mod idempotent;
mod import;
mod items;
mod jobs;
mod metrics;
mod models;
mod pages;
mod predict;
mod problem;
mod request;
mod state;
mod submission;
mod upload;
mod uploads;
mod webhooks;

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::from_fn_with_state;
use serde::Serialize;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use self::problem::ApiError;
pub use self::state::{App, AppState, Ending};
use crate::spec::dataset::Damaged;
use crate::spec::distill::DistillParams;
use crate::spec::evaluate::EvaluateParams;
use crate::spec::pipeline::PipelineParams;
use crate::spec::problem::Problem;
use crate::spec::prune::PruneParams;
use crate::spec::search::SearchParams;
use crate::spec::train::TrainParams;

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    let mut json = openapi()
        .to_pretty_json()
        .expect("the document is plain data with string keys");
    json.push('\n');
    json
});

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Sinter",
        description = "Makes trained ONNX models smaller and faster. Errors are RFC 9457 problem \
                       details; lists are paged with `limit` and `cursor`; POSTs that create take \
                       an `Idempotency-Key`."
    ),
    tags(
        (name = "models", description = "Trained models"),
        (name = "datasets", description = "What models are trained and measured on"),
        (name = "uploads", description = "Uploads in pieces"),
        (name = "jobs", description = "Work on models: train, evaluate, prune, distill, search, pipeline"),
        (name = "webhooks", description = "Where jobs tell how they went"),
        (name = "devices", description = "What jobs can run on"),
        (name = "operations", description = "For those who run the server")
    ),
    components(schemas(
        Problem,
        Damaged,
        TrainParams,
        EvaluateParams,
        PruneParams,
        DistillParams,
        SearchParams,
        PipelineParams
    )),
    security(("bearer" = [])),
    modifiers(&BearerScheme)
)]
struct Document;

struct BearerScheme;

impl Modify for BearerScheme {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("bearer", scheme);
    }
}

/// The bytes of a file, in the document of the API.
#[derive(Debug, ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct Binary(());

/// An upload as a form.
#[derive(Debug, ToSchema)]
pub struct UploadForm {
    /// Repeated for several files, each with its file name.
    #[schema(inline)]
    pub file: Vec<Binary>,
    pub name: Option<String>,
    /// A JSON object of strings.
    pub tags: Option<String>,
}

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(models::routes())
        .merge(predict::routes())
        .merge(datasets::routes())
        .merge(uploads::routes())
        .merge(jobs::routes())
        .merge(events::routes())
        .merge(metrics::routes())
        .merge(artifacts::routes())
        .merge(webhooks::routes())
        .merge(devices::routes())
        .merge(health::routes())
}

/// The OpenAPI document of the routes.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

/// The OpenAPI document as indented JSON that ends with a line break.
pub fn openapi_json() -> &'static str {
    &DOCUMENT
}

/// The whole service.
pub fn service(app: App) -> Router {
    let (router, _) = routes().split_for_parts();
    let settings = Arc::clone(&app.settings);
    let service = router
        .merge(pages::routes())
        .merge(SwaggerUi::new("/docs").config(Config::new(["/openapi.json"])))
        .fallback(unknown_path)
        // Uploads and JSON bodies have limits of their own.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(App::clone(&app), access::guard))
        .layer(CatchPanicLayer::custom(problem::panicked))
        .layer(RequestBodyTimeoutLayer::new(settings.client_timeout()))
        .layer(from_fn_with_state(App::clone(&app), context::around))
        .layer(SetResponseHeaderLayer::if_not_present(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
        .with_state(app);
    let service = match settings.has_tls() {
        // A year, as browsers' preload lists ask for.
        true => service.layer(SetResponseHeaderLayer::overriding(
            header::STRICT_TRANSPORT_SECURITY,
            HeaderValue::from_static("max-age=31536000"),
        )),
        false => service,
    };
    match cross_origin(&settings.cors_origins) {
        Some(layer) => service.layer(layer),
        None => service,
    }
}

/// Lets pages of other origins in, those that the settings name; without one the browser's own rule holds.
fn cross_origin(origins: &[String]) -> Option<CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origins = origins
        .iter()
        .filter_map(|origin| HeaderValue::from_str(origin).ok());
    let layer = CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers(tower_http::cors::AllowHeaders::mirror_request())
        .expose_headers(tower_http::cors::Any);
    Some(layer)
}

async fn unknown_path() -> ApiError {
    ApiError::new(404, "not_found", "there is nothing at this path")
}

fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("answers are plain data with string keys")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_openapi_3_1_with_an_id_for_every_operation() {
        let document: serde_json::Value = serde_json::from_str(openapi_json()).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        let paths = document["paths"].as_object().unwrap();
        assert!(paths.contains_key("/v1/jobs/{id}/artifacts/{name}"));
        for (path, item) in paths {
            for (method, operation) in item.as_object().unwrap() {
                assert!(operation["operationId"].is_string(), "{method} {path}");
            }
        }
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        let text = openapi_json();
        let document: serde_json::Value = serde_json::from_str(text).unwrap();
        for reference in text.split("\"$ref\": \"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
