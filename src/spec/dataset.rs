//! What is known about an uploaded data set.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The file format of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatasetFormat {
    Npz,
    /// MNIST's own files, each plain or gzipped: in a zip, in a tar, or uploaded side by side.
    Idx,
    Csv,
    Parquet,
    Safetensors,
    /// PNG, JPEG, WebP or BMP files in a zip, in a tar, or uploaded side by side.
    Images,
}

impl DatasetFormat {
    /// The name as JSON and the database have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Npz => "npz",
            Self::Idx => "idx",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
            Self::Safetensors => "safetensors",
            Self::Images => "images",
        }
    }
}

/// Numbers of examples as the files have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Splits {
    pub train: u64,
    /// Left out where the files have no validation split of their own; a job then takes one out of the train split.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub validation: u64,
    /// 0 where the files have no test split of their own; a job then sets one aside.
    pub test: u64,
}

pub(super) fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// One input array; the axis of examples is left out of `shape`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArrayInfo {
    pub name: String,
    /// `uint8`, `float32`, …, as NumPy names them.
    pub dtype: String,
    /// Of images in files height, width and channels, 0 where they differ.
    pub shape: Vec<u64>,
    /// What the examples are where each is a file; left out for numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Media>,
}

/// What a file is an example of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Media {
    Image,
}

/// What happens to an upload with files that can't be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Damaged {
    /// It is refused.
    #[default]
    Refuse,
    /// They are left out, and told of in `skipped`; at most 1,000.
    Skip,
}

/// A file that is no part of the data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SkippedFile {
    pub name: String,
    /// Why.
    pub detail: String,
}

/// The labels or values to predict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TargetInfo {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<u64>,
    /// Largest label plus one, for integer labels without a shape.
    pub classes: Option<u64>,
    /// Names of the classes, in the order of the labels, where the files have words for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
    /// Smallest and largest value of all splits.
    #[serde(default)]
    pub range: Option<[f64; 2]>,
}

/// What the files of a data set hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatasetSummary {
    pub format: DatasetFormat,
    pub splits: Splits,
    pub inputs: Vec<ArrayInfo>,
    pub target: Option<TargetInfo>,
    /// Files of the upload that can't be decoded, left out as was asked for.
    #[serde(default)]
    pub skipped: Vec<SkippedFile>,
}
