//! What a browser sees: the web page at `/` with its scripts and styles, the list of problems, the OpenAPI document.
//!
//! The page is one file with plain modules beside it, as they stand in `pages/`; it does all by the API alone.

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::LazyLock;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use super::problem::ApiError;
use super::state::App;

const PROBLEMS: &str = include_str!("pages/problems.html");

/// Only what this server serves runs, and it talks to this server alone.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                           img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

static PROBLEMS_POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; base-uri 'none'; form-action 'none'; style-src '{}'",
        source_hash(PROBLEMS, "style")
    )
});

/// A file of the page, ready to be sent.
struct Asset {
    media_type: &'static str,
    content: &'static str,
    gzip: Vec<u8>,
    /// Strong, of the content; that of the compressed form has an ending.
    digest: String,
}

macro_rules! assets {
    ($($name:literal)+) => {
        [("index.html", include_str!("pages/index.html")),
         // For reports that the page shows: its policy, which they get, knows no other styles.
         ("report.css", include_str!("../engine/report/style.css")),
         $(($name, include_str!(concat!("pages/assets/", $name)))),+]
    };
}

static ASSETS: LazyLock<HashMap<&str, Asset>> = LazyLock::new(|| {
    assets! {
        "api.js" "app.js" "charts.js" "compare.js" "dataset.js" "dom.js" "favicon.svg" "format.js" "forms.js" "graph.js" "job.js"
        "jobs.js" "kinds.js" "lists.js" "model.js" "overview.js" "results.js" "style.css" "theme.js" "try.js" "uploads.js"
        "uplot.css" "uplot.js"
    }
    .into_iter()
    .map(|(name, content)| (name, Asset::new(name, content)))
    .collect()
});

impl Asset {
    fn new(name: &str, content: &'static str) -> Self {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        let gzip = gzip
            .write_all(content.as_bytes())
            .and_then(|()| gzip.finish());
        Self {
            media_type: match name.rsplit_once('.') {
                Some((_, "js")) => "text/javascript; charset=utf-8",
                Some((_, "css")) => "text/css; charset=utf-8",
                Some((_, "svg")) => "image/svg+xml",
                _ => "text/html; charset=utf-8",
            },
            content,
            gzip: gzip.expect("a vector takes all that is written"),
            digest: hex::encode(Sha256::digest(content.as_bytes())),
        }
    }

    fn answer(&'static self, request: &HeaderMap) -> Response {
        let compressed = accepts_gzip(request);
        let etag = match compressed {
            true => format!("\"{}-gzip\"", self.digest),
            false => format!("\"{}\"", self.digest),
        };
        let headers = [
            (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-cache"),
            (header::VARY, "accept-encoding"),
            (header::ETAG, &etag),
        ];
        let known = request.get(header::IF_NONE_MATCH);
        let known = known.and_then(|value| value.to_str().ok()).unwrap_or("");
        if known.split(',').any(|each| each.trim() == etag) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        let media_type = [(header::CONTENT_TYPE, self.media_type)];
        match compressed {
            true => {
                let encoding = [(header::CONTENT_ENCODING, "gzip")];
                (headers, media_type, encoding, self.gzip.as_slice()).into_response()
            }
            false => (headers, media_type, self.content).into_response(),
        }
    }
}

fn accepts_gzip(request: &HeaderMap) -> bool {
    let accepted = request.get(header::ACCEPT_ENCODING);
    let accepted = accepted.and_then(|value| value.to_str().ok()).unwrap_or("");
    accepted.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        named && !parts.any(|part| ["q=0", "q=0.0", "q=0.00", "q=0.000"].contains(&part))
    })
}

pub fn routes() -> Router<App> {
    Router::new()
        .route("/", get(index))
        .route("/assets/{name}", get(asset))
        .route("/docs/problems", get(problems))
        .route("/openapi.json", get(document))
}

async fn index(headers: HeaderMap) -> Response {
    ASSETS["index.html"].answer(&headers)
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    match ASSETS.get(name.as_str()) {
        Some(asset) => Ok(asset.answer(&headers)),
        None => Err(ApiError::new(
            404,
            "not_found",
            "there is nothing at this path",
        )),
    }
}

async fn problems() -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, PROBLEMS_POLICY.as_str()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(PROBLEMS)).into_response()
}

async fn document() -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json")];
    (headers, super::openapi_json()).into_response()
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
        assert_ne!(source_hash(PROBLEMS, "style"), source_hash("", "style"));
        let index = ASSETS["index.html"].content;
        assert!(
            !index.contains("<style"),
            "an inline style would be blocked"
        );
        for html in [index, PROBLEMS] {
            assert!(!html.contains("style="), "an inline style would be blocked");
            assert!(
                !html.contains("=\"http"),
                "the page loads from this server alone"
            );
        }
    }

    #[test]
    fn what_the_page_names_is_served() {
        for (name, asset) in ASSETS.iter() {
            let quoted = asset.content.split(['"', '\'']);
            for word in quoted.filter(|word| word.ends_with(".js") || word.ends_with(".css")) {
                let file = word.rsplit('/').next().unwrap_or(word);
                assert!(ASSETS.contains_key(file), "{name} names {word}");
            }
        }
    }

    #[test]
    fn compression_is_for_those_that_ask_for_it() {
        let accepts = |value: &str| {
            let value = value.parse().unwrap();
            accepts_gzip(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]))
        };
        assert!(accepts("br, GZIP;q=0.5"));
        assert!(!accepts("gzip;q=0, identity"));
        assert!(!accepts("identity"));
    }
}
