//! What is known about an uploaded data set.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::audio::AudioInfo;
use super::tokens::TokensInfo;

/// The file format of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatasetFormat {
    Npz,
    /// MNIST's own files, each plain or gzipped: in a zip, in a tar, or uploaded side by side.
    Idx,
    Csv,
    /// A JSON object a line.
    Jsonl,
    Parquet,
    Safetensors,
    /// PNG, JPEG, WebP or BMP files in a zip, in a tar, or uploaded side by side.
    Images,
    /// Text files, likewise.
    Texts,
    /// WAV, FLAC, Ogg Vorbis or MP3 files, likewise.
    Audio,
}

impl DatasetFormat {
    /// The name as JSON and the database have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Npz => "npz",
            Self::Idx => "idx",
            Self::Csv => "csv",
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
            Self::Safetensors => "safetensors",
            Self::Images => "images",
            Self::Texts => "texts",
            Self::Audio => "audio",
        }
    }

    /// Whether it holds arrays with names.
    pub fn has_arrays(self) -> bool {
        matches!(self, Self::Npz | Self::Safetensors)
    }

    /// Whether the examples are rows of a table.
    pub fn is_table(self) -> bool {
        matches!(self, Self::Csv | Self::Jsonl | Self::Parquet)
    }

    /// Whether the examples are files.
    pub fn is_media(self) -> bool {
        matches!(self, Self::Images | Self::Texts | Self::Audio)
    }

    /// Whether several files side by side, or those of an archive, can be one data set.
    pub fn takes_several(self) -> bool {
        self.is_table() || self.is_media() || matches!(self, Self::Idx | Self::Npz)
    }
}

/// What an array is called that is the target of a file whose uploader does not name it.
pub const USUAL_TARGETS: [&str; 4] = ["y", "target", "label", "labels"];

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ArrayInfo {
    pub name: String,
    /// `uint8`, `float32`, …, as NumPy names them; `string` for texts.
    pub dtype: String,
    /// Of images in files height, width and channels, 0 where they differ; of audio files `[0]`.
    pub shape: Vec<u64>,
    /// Smallest and largest number of all splits, as they are stored; left out for files and texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
    /// What the examples are; left out for numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media: Option<Media>,
    /// What texts are in the tokens of the tokenizer that came with them; left out where none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokensInfo>,
    /// What audio files are like; left out for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<AudioInfo>,
}

/// What examples are that are no numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Media {
    Image,
    Text,
    Audio,
}

/// What happens to an upload with examples that can't be used: files that can't be decoded, texts that are empty or too
/// long, rows of tables in which something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Damaged {
    /// It is refused.
    #[default]
    Refuse,
    /// They are left out, and told of in `skipped`; at most 1,000.
    Skip,
}

/// A file, or a row of one, that is no part of the data set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SkippedFile {
    /// Of a row the file's name, a colon and the line, or the number of the row.
    pub name: String,
    /// Why.
    pub detail: String,
}

/// The labels or values to predict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TargetInfo {
    pub name: String,
    pub dtype: String,
    /// `[0]` for labels of the words of texts.
    pub shape: Vec<u64>,
    /// Largest label plus one, for integer labels without a shape, and for those of words.
    pub classes: Option<u64>,
    /// Examples of each class in all splits, in the order of the labels; left out for more than 1,000 classes, and where
    /// words have labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_counts: Option<Vec<u64>>,
    /// Names of the classes, in the order of the labels, where the files have words for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
    /// Whether the labels are numbers, which the names only name: their order is that of the numbers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub numbered: bool,
    /// Smallest and largest value of all splits.
    #[serde(default)]
    pub range: Option<[f64; 2]>,
    /// Whether each example has a single 1 among zeros, as classes do that were encoded; of files of arrays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub one_hot: bool,
    /// Whether all values are 0 or 1, where they are numbers with fractions; of files of arrays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub zeros_and_ones: bool,
}

impl TargetInfo {
    /// Whether it says yes or no, of each example or of each of several things.
    pub fn is_binary(&self) -> bool {
        self.zeros_and_ones || (self.shape.is_empty() && self.classes == Some(2))
    }
}

/// What the files of a data set hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatasetSummary {
    pub format: DatasetFormat,
    pub splits: Splits,
    pub inputs: Vec<ArrayInfo>,
    pub target: Option<TargetInfo>,
    /// Examples of the upload that can't be used, left out as was asked for.
    #[serde(default)]
    pub skipped: Vec<SkippedFile>,
    /// Columns of a table that are no inputs, as was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excluded: Vec<String>,
}

impl DatasetSummary {
    /// The column of a table that holds texts, or two with a comma between.
    pub fn text_column(&self) -> Option<&str> {
        let texts = self.inputs.iter();
        let mut texts = texts.filter(|array| array.media == Some(Media::Text));
        texts
            .next()
            .map(|array| array.name.as_str())
            .filter(|_| self.format.is_table())
    }
}
