//! What models and data sets have in common: how their lists are filtered, and what can be changed of them.

use axum::body::Body;
use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::IntoParams;

use super::problem::ApiError;
use super::request::{json_body, page};
use super::upload::check_name;
use crate::spec::item::ItemChange;
use crate::spec::job::tag_faults;
use crate::spec::problem::Faults;
use crate::store::{ItemFilter, PageRequest};

/// How a list of models or data sets is filtered and paged.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ItemsQuery {
    /// Those of this name alone; several can have the same.
    name: Option<String>,
    /// Those of this `digest` alone: `sha256:` and 64 hexadecimal digits. So who has a file learns whether it is there.
    #[param(example = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")]
    digest: Option<String>,
    /// Rows of a page, 1 to 100.
    #[param(default = 20, minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[param(min_length = 1)]
    cursor: Option<String>,
}

impl ItemsQuery {
    pub fn read(self) -> Result<(ItemFilter, PageRequest), ApiError> {
        let page = page(self.limit, self.cursor.as_deref())?;
        let digest = self.digest.map(|digest| {
            let hex = digest.strip_prefix("sha256:").unwrap_or_default();
            match hex.len() == 64 && hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                true => Ok(hex.to_ascii_lowercase()),
                false => {
                    let detail =
                        "the query parameter `digest` must be `sha256:` and 64 hexadecimal digits";
                    Err(ApiError::new(400, "invalid_query_parameter", detail))
                }
            }
        });
        let filter = ItemFilter {
            name: self.name,
            digest: digest.transpose()?,
        };
        Ok((filter, page))
    }
}

/// Reads and checks the body of a change.
pub async fn changes(headers: &HeaderMap, body: Body) -> Result<ItemChange, ApiError> {
    let (_, change) = json_body::<ItemChange>(headers, body).await?;
    let mut faults = Faults::default();
    if let Some(tags) = &change.tags {
        tag_faults(tags, &mut faults);
    }
    if !faults.found.is_empty() {
        return Err(faults.problem().into());
    }
    Ok(ItemChange {
        name: change.name.map(|name| check_name(Some(name))).transpose()?,
        tags: change.tags,
    })
}
