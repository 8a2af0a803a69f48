//! What a browser sees: the overview at `/`, the list of problems, the OpenAPI document.

use std::sync::LazyLock;

use axum::Router;
use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::state::App;

const OVERVIEW: &str = include_str!("pages/overview.html");
const PROBLEMS: &str = include_str!("pages/problems.html");

/// Only the script and the style that are in the page itself run, and they talk to this server
/// alone.
static OVERVIEW_POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; script-src '{}'; style-src '{}'",
        source_hash(OVERVIEW, "script"),
        source_hash(OVERVIEW, "style")
    )
});

static PROBLEMS_POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src '{}'",
        source_hash(PROBLEMS, "style")
    )
});

pub fn routes() -> Router<App> {
    Router::new()
        .route("/", get(overview))
        .route("/docs/problems", get(problems))
        .route("/openapi.json", get(document))
}

async fn overview() -> Response {
    page(OVERVIEW, &OVERVIEW_POLICY)
}

async fn problems() -> Response {
    page(PROBLEMS, &PROBLEMS_POLICY)
}

async fn document() -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, super::openapi_json()).into_response()
}

fn page(html: &'static str, policy: &str) -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(html)).into_response()
}

/// The CSP hash of what the only element of this kind holds.
fn source_hash(html: &str, element: &str) -> String {
    let content = html
        .split_once(&format!("<{element}>"))
        .and_then(|(_, rest)| rest.split_once(&format!("</{element}>")))
        .map_or("", |(content, _)| content);
    format!(
        "sha256-{}",
        STANDARD.encode(Sha256::digest(content.as_bytes()))
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_hold_what_their_policies_allow() {
        let empty = source_hash("", "script");
        assert_ne!(source_hash(OVERVIEW, "script"), empty);
        assert_ne!(source_hash(OVERVIEW, "style"), empty);
        assert_ne!(source_hash(PROBLEMS, "style"), empty);
        for html in [OVERVIEW, PROBLEMS] {
            assert!(!html.contains("style="), "an inline style would be blocked");
            assert!(!html.contains(" src=\"http"));
        }
    }
}
