//! Examples that can't be used.

use super::{DataError, Reading};
use crate::spec::dataset::{Damaged, SkippedFile};

/// With more examples than this that can't be used it is no slip any more.
const MOST_SKIPPED: usize = 1_000;

/// Those of an upload, refused or left out as was asked for.
pub(super) struct Skipped {
    damaged: Damaged,
    files: Vec<SkippedFile>,
    count: usize,
}

impl Skipped {
    /// A job leaves out what was left out when the data set was uploaded.
    pub fn new(how: &Reading) -> Self {
        Self {
            damaged: match how.known {
                Some(_) => Damaged::Skip,
                None => how.damaged,
            },
            files: Vec::new(),
            count: 0,
        }
    }

    pub fn add(&mut self, name: String, detail: String) {
        self.count += 1;
        if self.files.len() < MOST_SKIPPED {
            self.files.push(SkippedFile { name, detail });
        }
    }

    /// Those that are left out; a refusal otherwise.
    pub fn finish(self) -> Result<Vec<SkippedFile>, DataError> {
        let hint = match self.damaged {
            Damaged::Refuse => {
                "upload with damaged=skip (`--damaged skip`, “skip them” on the page) to leave such ones out"
            }
            Damaged::Skip if self.count <= MOST_SKIPPED => return Ok(self.files),
            Damaged::Skip => "more than 1000 are not left out",
        };
        match self.files.into_iter().next() {
            None => Ok(Vec::new()),
            Some(SkippedFile { name, detail }) => Err(DataError::Damaged {
                name,
                detail,
                count: self.count,
                hint,
            }),
        }
    }
}
