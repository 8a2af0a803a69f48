//! Data sets: reading the files that users have, splitting, preparing and batching.

mod archive;
mod arrays;
mod audio;
mod augment;
mod batch;
mod embedded;
mod files;
mod folders;
mod idx;
mod image;
mod kept;
mod labels;
mod named;
mod parts;
mod read;
mod rows;
mod skipped;
mod spectrum;
mod spill;
mod table;
mod texts;
mod tokenizer;

pub use arrays::{Array, Dataset, Elements, Split};
pub use augment::{Mixed, View};
pub use batch::{Batch, IGNORED, Prepared, Role, as_batch};
pub use files::media_of;
pub use read::{Reading, read};
pub use texts::{Texts, tokenizer_of};
pub use tokenizer::{MOST_TOKENIZER_BYTES, Text, Tokenizer};

use skipped::Skipped;

/// Why files are no usable data set.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    #[error("the file can't be read: {0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Unreadable(String),
    #[error("`{name}` can't be used: {detail} ({count} of the examples can't; {hint})")]
    Damaged {
        name: String,
        detail: String,
        count: usize,
        hint: &'static str,
    },
    #[error("{what} is not supported yet")]
    NotSupported { what: String },
    #[error("`{x}` has {x_count} examples and `{y}` has {y_count}")]
    UnequalCounts {
        x: String,
        x_count: usize,
        y: String,
        y_count: usize,
    },
    #[error("the {0} split is empty")]
    EmptySplit(&'static str),
    #[error("`{array}` holds {value} in example {example}; inputs and targets must be finite")]
    NotFinite {
        array: String,
        value: f32,
        example: usize,
    },
    #[error(
        "`{array}` holds the label {label} in example {example}; labels are integers from 0 on"
    )]
    LabelOutOfRange {
        array: String,
        label: i64,
        example: usize,
    },
    #[error("the train split has `{0}`, the test split has another shape or lacks it")]
    SplitsDiffer(String),
    #[error(
        "the label {label} has {examples} examples to train and select on, too few for {folds} folds; ask for \
         fewer, or for holdout"
    )]
    RareLabel {
        label: i64,
        examples: usize,
        folds: usize,
    },
    #[error(
        "`{name}` would take more than {limit} bytes in memory, out of proportion to the file; \
         upload it uncompressed if that is meant"
    )]
    TooLarge { name: String, limit: u64 },
}
