//! What can be changed of a model or a data set.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is to be changed of a model or a data set; what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ItemChange {
    /// 1 to 200 bytes.
    #[schema(min_length = 1)]
    pub name: Option<String>,
    /// In the place of those that there were; at most 50, keys of 1 to 64 bytes, values of at most 500.
    pub tags: Option<BTreeMap<String, String>>,
}

impl ItemChange {
    /// Name and tags after the change.
    pub fn applied(
        &self,
        name: String,
        tags: BTreeMap<String, String>,
    ) -> (String, BTreeMap<String, String>) {
        (
            self.name.clone().unwrap_or(name),
            self.tags.clone().unwrap_or(tags),
        )
    }
}
