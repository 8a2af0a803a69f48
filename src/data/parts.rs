//! The splits that files themselves make.

/// Which split of a data set an example is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Train,
    Validation,
    Test,
}

impl Part {
    /// By the word that names it.
    pub fn of(word: &str) -> Option<Self> {
        match word.to_lowercase().as_str() {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" | "dev" => Some(Self::Validation),
            "test" | "testing" => Some(Self::Test),
            _ => None,
        }
    }

    /// By the folders and the file's name, `test.csv`, `test-00000-of-00001.parquet` or `digits_test.npz`.
    pub fn of_table(path: &str) -> Option<Self> {
        let parts = path.split('/').flat_map(|part| {
            let stem = part.split('.').next().unwrap_or(part);
            let mut words = stem.split(['-', '_']);
            let first = words.next().unwrap_or(stem);
            [stem, first, words.next_back().unwrap_or(first)]
        });
        parts.into_iter().find_map(Self::of)
    }
}
