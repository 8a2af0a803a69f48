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
        let stem_of = |part: &'_ str| part.split('.').next().unwrap_or(part).to_owned();
        let (folders, file) = path.rsplit_once('/').unwrap_or(("", path));
        let word = |stem: &str, last: bool| {
            let mut words = stem.split(['-', '_']);
            let word = if last {
                words.next_back()
            } else {
                words.next()
            };
            word.unwrap_or(stem).to_owned()
        };
        let mut stems = folders.split('/').chain([file]).map(stem_of);
        let first =
            stems.find_map(|stem| Self::of(&stem).or_else(|| Self::of(&word(&stem, false))));
        // Of the file's own name the last word says it, too.
        first.or_else(|| Self::of(&word(&stem_of(file), true)))
    }
}
