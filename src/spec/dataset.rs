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
        }
    }
}

/// Numbers of examples as the files have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Splits {
    pub train: u64,
    /// 0 where the files have no test split of their own; a job then sets one aside.
    pub test: u64,
}

/// One input array; the axis of examples is left out of `shape`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArrayInfo {
    pub name: String,
    /// `uint8`, `float32`, …, as NumPy names them.
    pub dtype: String,
    pub shape: Vec<u64>,
}

/// The labels or values to predict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TargetInfo {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<u64>,
    /// Largest label plus one, for integer labels without a shape.
    pub classes: Option<u64>,
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
}
