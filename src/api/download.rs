//! Downloads of stored files: whole or in part, and not at all when the client has them.

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use super::problem::ApiError;
use super::state::App;
use crate::store::StoreError;

/// Files are read in pieces of this size.
const READ_BUFFER_BYTES: usize = 256 << 10;

/// A stored file and how to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Hex SHA-256.
    pub digest: String,
    pub size_bytes: u64,
    pub media_type: String,
    pub file_name: String,
}

/// The part of a file that is to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// First and last byte.
    Range(u64, u64),
    Impossible,
}

/// Answers with a stored file, as the request's `Range` and conditions ask.
pub async fn send_file(
    app: &App,
    request: &HeaderMap,
    download: &Download,
) -> Result<Response, ApiError> {
    let etag = format!("\"{}\"", download.digest);
    let caching = [
        (header::ETAG, etag.clone()),
        (header::CACHE_CONTROL, "private, no-cache".to_owned()),
    ];
    if text(request, header::IF_NONE_MATCH).is_some_and(|tags| matches_any(tags, &etag)) {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    let (status, first, length) = match asked_part(request, &etag, download.size_bytes) {
        Part::Whole => (StatusCode::OK, 0, download.size_bytes),
        Part::Range(first, last) => (StatusCode::PARTIAL_CONTENT, first, last - first + 1),
        Part::Impossible => {
            return Err(ApiError::RangeNotSatisfiable {
                size_bytes: download.size_bytes,
            });
        }
    };
    let body = open_part(app, &download.digest, first, length).await?;
    let headers = [
        (header::ACCEPT_RANGES, "bytes".to_owned()),
        (header::CONTENT_TYPE, download.media_type.clone()),
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_DISPOSITION, attachment(&download.file_name)),
        (
            header::HeaderName::from_static("repr-digest"),
            repr_digest(&download.digest)?,
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    let mut response = (status, caching, headers, body).into_response();
    if status == StatusCode::PARTIAL_CONTENT {
        let last = first + length - 1;
        let range = format!("bytes {first}-{last}/{}", download.size_bytes);
        let value = range
            .parse()
            .map_err(|_| ApiError::Internal(format!("`{range}` is no header value")))?;
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    Ok(response)
}

async fn open_part(app: &App, digest: &str, first: u64, length: u64) -> Result<Body, ApiError> {
    let path = app.store.blobs().path(digest);
    let mut file = tokio::fs::File::open(&path)
        .await
        .map_err(StoreError::file("open", &path))?;
    if first > 0 {
        file.seek(std::io::SeekFrom::Start(first))
            .await
            .map_err(StoreError::file("read", &path))?;
    }
    let stream = ReaderStream::with_capacity(file.take(length), READ_BUFFER_BYTES);
    Ok(Body::from_stream(stream))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// `If-None-Match` compares weakly (RFC 9110, section 13.1.2).
fn matches_any(tags: &str, etag: &str) -> bool {
    tags.split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// A range that is malformed, of several parts, or made for other bytes (`If-Range`) is ignored
/// (RFC 9110, section 14.2).
fn asked_part(request: &HeaderMap, etag: &str, size_bytes: u64) -> Part {
    let Some(range) = text(request, header::RANGE) else {
        return Part::Whole;
    };
    if text(request, header::IF_RANGE).is_some_and(|condition| condition != etag) {
        return Part::Whole;
    }
    let Ok(parsed) = http_range_header::parse_range_header(range) else {
        return Part::Whole;
    };
    match parsed.validate(size_bytes).as_deref() {
        Ok([one]) => Part::Range(*one.start(), *one.end()),
        Ok(_) => Part::Whole,
        Err(_) => Part::Impossible,
    }
}

/// RFC 9530.
fn repr_digest(digest: &str) -> Result<String, ApiError> {
    let bytes = hex::decode(digest)
        .map_err(|error| ApiError::Internal(format!("the digest `{digest}`: {error}")))?;
    Ok(format!("sha-256=:{}:", STANDARD.encode(bytes)))
}

/// RFC 6266: the name in ASCII for old clients, and whole in UTF-8.
fn attachment(file_name: &str) -> String {
    let plain = |character: char| {
        character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | '_' | ' ')
    };
    let ascii: String = file_name
        .chars()
        .map(|character| if plain(character) { character } else { '_' })
        .collect();
    let encoded: String = file_name
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect();
    format!("attachment; filename=\"{ascii}\"; filename*=UTF-8''{encoded}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn part(headers: &[(header::HeaderName, &'static str)]) -> Part {
        let request: HeaderMap = headers
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect();
        asked_part(&request, "\"abc\"", 100)
    }

    #[test]
    fn ranges_from_the_start_from_the_end_and_past_the_end_are_read() {
        assert_eq!(part(&[(header::RANGE, "bytes=0-9")]), Part::Range(0, 9));
        assert_eq!(part(&[(header::RANGE, "bytes=90-")]), Part::Range(90, 99));
        assert_eq!(part(&[(header::RANGE, "bytes=-10")]), Part::Range(90, 99));
        assert_eq!(
            part(&[(header::RANGE, "bytes=90-500")]),
            Part::Range(90, 99)
        );
        assert_eq!(part(&[(header::RANGE, "bytes=100-")]), Part::Impossible);
    }

    #[test]
    fn a_range_that_is_malformed_or_for_other_bytes_is_ignored() {
        assert_eq!(part(&[(header::RANGE, "lines=0-9")]), Part::Whole);
        assert_eq!(part(&[(header::RANGE, "bytes=0-1,5-6")]), Part::Whole);
        let stale = [(header::RANGE, "bytes=0-9"), (header::IF_RANGE, "\"old\"")];
        assert_eq!(part(&stale), Part::Whole);
        let fresh = [(header::RANGE, "bytes=0-9"), (header::IF_RANGE, "\"abc\"")];
        assert_eq!(part(&fresh), Part::Range(0, 9));
    }

    #[test]
    fn an_etag_is_found_in_a_list_and_by_the_star() {
        assert!(matches_any("\"x\", W/\"abc\"", "\"abc\""));
        assert!(matches_any("*", "\"abc\""));
        assert!(!matches_any("\"x\"", "\"abc\""));
    }

    #[test]
    fn a_name_beyond_ascii_is_sent_in_both_forms() {
        assert_eq!(
            attachment("é.onnx"),
            "attachment; filename=\"_.onnx\"; filename*=UTF-8''%C3%A9.onnx"
        );
    }
}
