//! Uploads: streamed to a staging folder and hashed on the way, never held in memory.

use std::collections::{BTreeMap, HashSet};
use std::path::{Component, Path};

use axum::body::Bytes;
use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest as _, Multipart, Request};
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::{Stream, StreamExt as _};
use serde::Serialize;

use super::access::Authorized;
use super::arriving::{Allowance, ArrivingFile};
use super::problem::ApiError;
use super::request::{broken_body, media_type, timed_out, too_large, too_slow};
use super::state::App;
use crate::spec::child::InputFile;
use crate::spec::job::tag_faults;
use crate::spec::problem::{Faults, Problem, parse_slice};
use crate::store::{StagedBlob, StagingFolder};

/// Parts of a form that are no file are at most this long.
const MAX_TEXT_BYTES: usize = 64 << 10;

/// Boundaries and part headers of a form may have so many bytes beside the files.
const FORM_OVERHEAD_BYTES: u64 = 1 << 20;

/// Names of models and data sets are at most this long.
const MAX_NAME_BYTES: usize = 200;

/// Files of a form at most; each is brought to the disk by itself.
const MAX_FILES: usize = 10_000;

/// A received file.
#[derive(Debug, Clone)]
pub struct UploadedFile {
    /// A file name, or a relative path that stays inside its folder.
    pub name: String,
    pub blob: StagedBlob,
}

/// Everything that came with an upload.
#[derive(Debug)]
pub struct Upload {
    pub name: String,
    pub tags: BTreeMap<String, String>,
    /// At least one.
    pub files: Vec<UploadedFile>,
    /// Holds the files; they go with it unless they were moved.
    pub folder: StagingFolder,
    /// The query string as sent.
    query: String,
}

impl Upload {
    /// An upload that came in pieces, with the digest that it should have.
    pub fn whole(
        name: Option<String>,
        blob: StagedBlob,
        folder: StagingFolder,
        digest: Option<&str>,
    ) -> Result<Self, ApiError> {
        check_digest(digest, &blob.digest)?;
        let name = check_name(name)?;
        if blob.size_bytes == 0 {
            return Err(empty(&name));
        }
        let files = vec![UploadedFile {
            name: as_file_name(&name),
            blob,
        }];
        Ok(Self::gathered(name, BTreeMap::new(), files, folder))
    }

    /// Files that the service fetched by itself.
    pub fn gathered(
        name: String,
        tags: BTreeMap<String, String>,
        files: Vec<UploadedFile>,
        folder: StagingFolder,
    ) -> Self {
        Self {
            name,
            tags,
            files,
            folder,
            query: String::new(),
        }
    }

    /// The files as a child process is told of them.
    pub fn input_files(&self) -> Vec<InputFile> {
        self.files
            .iter()
            .map(|file| InputFile {
                name: file.name.clone(),
                path: file.blob.path.clone(),
            })
            .collect()
    }

    /// Everything that the upload says, for its fingerprint.
    pub fn contents(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Contents<'a> {
            query: &'a str,
            name: &'a str,
            tags: &'a BTreeMap<String, String>,
            files: Vec<(&'a str, &'a str)>,
        }
        let files = self.files.iter();
        let contents = Contents {
            query: &self.query,
            name: &self.name,
            tags: &self.tags,
            files: files
                .map(|file| (file.name.as_str(), file.blob.digest.as_str()))
                .collect(),
        };
        serde_json::to_vec(&contents).expect("contents are plain data with string keys")
    }
}

/// Receives the body of a request of at most `limit` bytes: one file as it is, or a form. `name` is from the query
/// and wins over a part of the form.
pub async fn receive(
    access: &Authorized,
    request: Request,
    name: Option<String>,
    limit: u64,
) -> Result<Upload, ApiError> {
    let app = &access.app;
    let is_form = media_type(request.headers()) == "multipart/form-data";
    let overhead = if is_form { FORM_OVERHEAD_BYTES } else { 0 };
    check_completeness(request.headers(), announced_length(&request))?;
    let announced = announced_length(&request).unwrap_or(0);
    if announced > limit.saturating_add(overhead) {
        return Err(too_large(limit));
    }
    let digest = wanted_digest(request.headers())?;
    if is_form && digest.is_some() {
        let detail = "Repr-Digest is the digest of one file that is the body; a form has none";
        return Err(ApiError::new(400, "invalid_digest", detail));
    }
    app.store.check_disk(announced)?;
    app.store
        .check_quota(&access.caller.project, announced)
        .await?;
    let mut receiver = Receiver {
        app,
        allowance: Allowance::new(app, &access.caller.project, limit, false),
        folder: app.store.staging_folder()?,
        name,
        tags: BTreeMap::new(),
        files: Vec::new(),
        names: HashSet::new(),
    };
    let query = request.uri().query().unwrap_or_default().to_owned();
    if is_form {
        receiver.form(request).await?;
    } else {
        let file_name = receiver
            .name
            .as_deref()
            .map_or_else(|| "upload".to_owned(), as_file_name);
        let chunks = request.into_body().into_data_stream();
        receiver.file(file_name, chunks, broken_body).await?;
        for file in &receiver.files {
            check_digest(digest.as_deref(), &file.blob.digest)?;
        }
    }
    receiver.finish(query)
}

/// An upload in one request may say so (`Upload-Complete: ?1`), and how long it is.
fn check_completeness(headers: &HeaderMap, announced: Option<u64>) -> Result<(), ApiError> {
    if let Some(complete) = headers.get("upload-complete")
        && complete.as_bytes() != b"?1"
    {
        let detail = "Upload-Complete must be `?1` or `?0`";
        return Err(ApiError::new(400, "invalid_header", detail));
    }
    let Some(length) = headers.get("upload-length") else {
        return Ok(());
    };
    let length: Option<u64> = length.to_str().ok().and_then(|text| text.parse().ok());
    if announced.is_some() && length != announced {
        let detail = "Upload-Length is another number of bytes than the body has";
        return Err(ApiError::new(400, "upload_length_mismatch", detail));
    }
    Ok(())
}

fn as_file_name(name: &str) -> String {
    name.replace(['/', '\\', '\0'], "_")
}

/// Bytes of the body as its header says.
pub fn announced_length(request: &Request) -> Option<u64> {
    let value = request.headers().get(header::CONTENT_LENGTH)?;
    value.to_str().ok()?.parse().ok()
}

struct Receiver<'a> {
    app: &'a App,
    /// Of all files together.
    allowance: Allowance<'a>,
    folder: StagingFolder,
    name: Option<String>,
    tags: BTreeMap<String, String>,
    files: Vec<UploadedFile>,
    /// Names of all files.
    names: HashSet<String>,
}

impl Receiver<'_> {
    async fn form(&mut self, request: Request) -> Result<(), ApiError> {
        let mut form = Multipart::from_request(request, &())
            .await
            .map_err(|error| ApiError::new(400, "malformed_multipart", error.body_text()))?;
        while let Some(part) = form
            .next_field()
            .await
            .map_err(|error| form_error(&error))?
        {
            let part_name = part.name().map(str::to_owned);
            match part_name.as_deref() {
                Some("file") => {
                    let file_name = safe_name(part.file_name().unwrap_or("upload"))?;
                    if self.files.len() == MAX_FILES {
                        let detail = format!(
                            "a form has at most {MAX_FILES} files; put them into one zip or tar"
                        );
                        return Err(ApiError::new(413, "too_many_files", detail));
                    }
                    if !self.names.insert(file_name.clone()) {
                        let detail = format!("two files are called `{file_name}`");
                        return Err(ApiError::fault("invalid_file_name", "/file", detail));
                    }
                    self.file(file_name, part, form_error).await?;
                }
                Some("name") => {
                    let bytes = text_part(part).await?;
                    let text = String::from_utf8(bytes).map_err(|_| invalid_name())?;
                    self.name.get_or_insert(text);
                }
                Some("tags") => self.tags = read_tags(&text_part(part).await?)?,
                other => {
                    let detail = format!(
                        "the form has a part `{}`; `file`, `name` and `tags` are known",
                        other.unwrap_or_default()
                    );
                    return Err(ApiError::new(422, "unknown_part", detail));
                }
            }
        }
        Ok(())
    }

    async fn file<E>(
        &mut self,
        name: String,
        chunks: impl Stream<Item = Result<Bytes, E>>,
        explain: impl Fn(&E) -> ApiError,
    ) -> Result<(), ApiError> {
        let path = self.folder.path().join(format!("{}", self.files.len()));
        let mut file = ArrivingFile::open(self.app, &path)?;
        tokio::pin!(chunks);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| explain(&error))?;
            file.take(chunk, &mut self.allowance).await?;
        }
        let (digest, size_bytes) = file.finish().await?;
        if size_bytes == 0 {
            return Err(empty(&name));
        }
        self.files.push(UploadedFile {
            name,
            blob: StagedBlob {
                path,
                digest,
                size_bytes,
            },
        });
        Ok(())
    }

    fn finish(self, query: String) -> Result<Upload, ApiError> {
        if self.files.is_empty() {
            let detail = "the form has no part `file`";
            return Err(ApiError::new(422, "empty_upload", detail));
        }
        Ok(Upload {
            name: check_name(self.name)?,
            tags: self.tags,
            files: self.files,
            folder: self.folder,
            query,
        })
    }
}

fn empty(name: &str) -> ApiError {
    let detail = format!("the file `{name}` is empty; send its bytes as the body");
    ApiError::new(422, "empty_upload", detail)
}

/// The name that an upload must have.
pub fn check_name(name: Option<String>) -> Result<String, ApiError> {
    let name = name.ok_or_else(|| {
        let detail = "give it a name with the query parameter `name`, as in `?name=lenet`";
        ApiError::new(400, "name_required", detail)
    })?;
    if !(1..=MAX_NAME_BYTES).contains(&name.len()) || name.chars().any(char::is_control) {
        return Err(invalid_name());
    }
    Ok(name)
}

/// The hex SHA-256 that `Repr-Digest` (RFC 9530) says the file has.
pub fn wanted_digest(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("repr-digest") else {
        return Ok(None);
    };
    let encoded = value.to_str().ok().and_then(|text| {
        let mut digests = text.split(',').map(str::trim);
        let own = digests.find_map(|digest| digest.strip_prefix("sha-256="))?;
        own.strip_prefix(':')?.strip_suffix(':')
    });
    let bytes = encoded.and_then(|text| STANDARD.decode(text).ok());
    match bytes {
        Some(bytes) if bytes.len() == 32 => Ok(Some(hex::encode(bytes))),
        _ => {
            let detail = "Repr-Digest must have `sha-256=:BASE64:` with the 32 bytes of the digest";
            Err(ApiError::new(400, "invalid_digest", detail))
        }
    }
}

fn check_digest(wanted: Option<&str>, found: &str) -> Result<(), ApiError> {
    match wanted {
        Some(wanted) if wanted != found => {
            let detail = format!(
                "Repr-Digest says sha-256 {wanted}, and what arrived has {found}; send it again"
            );
            Err(ApiError::new(422, "digest_mismatch", detail))
        }
        _ => Ok(()),
    }
}

fn invalid_name() -> ApiError {
    let detail = format!("must have 1 to {MAX_NAME_BYTES} bytes of UTF-8, no control characters");
    ApiError::fault("invalid_name", "/name", detail)
}

async fn text_part(mut part: Field<'_>) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = part.chunk().await.map_err(|error| form_error(&error))? {
        if bytes.len() + chunk.len() > MAX_TEXT_BYTES {
            return Err(too_large(MAX_TEXT_BYTES as u64));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn form_error(error: &MultipartError) -> ApiError {
    if timed_out(error) {
        return too_slow();
    }
    ApiError::new(400, "malformed_multipart", error.body_text())
}

fn read_tags(bytes: &[u8]) -> Result<BTreeMap<String, String>, ApiError> {
    let tags: BTreeMap<String, String> = match parse_slice(bytes) {
        Ok(Ok(tags)) => tags,
        Ok(Err(faults)) => return Err(Problem::invalid_under("/tags", faults).into()),
        Err(error) => {
            let detail = format!("the part `tags` is not JSON: {error}");
            return Err(ApiError::new(400, "malformed_json", detail));
        }
    };
    let mut faults = Faults::default();
    tag_faults(&tags, &mut faults);
    if faults.found.is_empty() {
        Ok(tags)
    } else {
        Err(Problem::invalid(faults.found).into())
    }
}

/// A relative path that stays inside its folder; external data is found by it.
pub fn safe_name(name: &str) -> Result<String, ApiError> {
    let inside = Path::new(name)
        .components()
        .all(|component| matches!(component, Component::Normal(_) | Component::CurDir));
    let parts_fit = Path::new(name)
        .components()
        .all(|component| component.as_os_str().len() <= 255);
    let fit = inside
        && parts_fit
        && Path::new(name).file_name().is_some()
        && !name.ends_with('/')
        && !name.ends_with("/.")
        && (1..=1024).contains(&name.len())
        && !name
            .chars()
            .any(|character| character.is_control() || character == '\\');
    if fit {
        Ok(name.strip_prefix("./").unwrap_or(name).to_owned())
    } else {
        let detail = "a file name is relative, without `..`, backslashes and control characters";
        Err(ApiError::fault("invalid_file_name", "/file", detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_may_have_folders_but_not_leave_theirs() {
        assert_eq!(safe_name("./a/b.data").unwrap(), "a/b.data");
        let long = "x".repeat(256);
        for name in [
            "../a",
            "a/../../b",
            "/etc/passwd",
            "a\\b",
            "",
            ".",
            "./",
            "b/",
            "a/.",
            &long,
        ] {
            assert!(safe_name(name).is_err(), "{name}");
        }
    }
}
