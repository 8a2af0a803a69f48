//! Examples that are files of their own, decoded when they are asked for.

use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::archive::{Archive, Entry};
use super::{Array, DataError, Elements, image};
use crate::spec::child::InputFile;
use crate::spec::picture::ImagePreparation;

/// Most bytes of one image file.
pub(super) const MOST_FILE_BYTES: u64 = 256 << 20;

/// Examples that were decoded are kept where all of them together take no more than so many bytes.
const KEPT_BYTES: usize = 512 << 20;

/// Some of an upload's files, one for each example.
#[derive(Debug, Clone)]
pub struct Files {
    archive: Arc<Archive>,
    /// Which of the archive's, by example.
    entries: Arc<[u32]>,
    kept: Arc<Mutex<Vec<Arc<Kept>>>>,
}

/// Decoded examples, as far as they have been asked for.
#[derive(Debug)]
struct Kept {
    how: ImagePreparation,
    examples: Vec<OnceLock<Box<[u8]>>>,
}

impl PartialEq for Files {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.archive, &other.archive) && self.entries == other.entries
    }
}

impl Files {
    pub(super) fn new(archive: Arc<Archive>, entries: Vec<u32>) -> Self {
        Self {
            archive,
            entries: entries.into(),
            kept: Arc::default(),
        }
    }

    /// The files of some of the examples.
    pub(super) fn part(&self, examples: Range<usize>) -> Self {
        Self::new(Arc::clone(&self.archive), self.entries[examples].to_vec())
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry(&self, example: u32) -> &Entry {
        &self.archive.entries[self.entries[example as usize] as usize]
    }

    /// The examples as they were asked for, one behind the other.
    ///
    /// # Panics
    ///
    /// Where a file that could be decoded when it was uploaded no longer can, since the disk has lost it.
    pub fn examples(&self, how: &ImagePreparation, examples: &[u32]) -> Vec<u8> {
        let mut out = Vec::with_capacity(examples.len() * how.bytes());
        let kept = self.kept(how);
        for &example in examples {
            let decoded = || self.decoded(how, example);
            match &kept {
                Some(kept) => {
                    let kept = &kept.examples[example as usize];
                    out.extend_from_slice(kept.get_or_init(decoded));
                }
                None => out.extend_from_slice(&decoded()),
            }
        }
        out
    }

    fn decoded(&self, how: &ImagePreparation, example: u32) -> Box<[u8]> {
        let entry = self.entry(example);
        let read = self.archive.read(entry, MOST_FILE_BYTES);
        let decoded = read
            .map_err(|error| error.to_string())
            .and_then(|bytes| image::decode(&bytes));
        match decoded {
            Ok(image) => image::prepare(image, how).into(),
            Err(error) => panic!(
                "the stored data set is damaged: `{}` could be read when it was uploaded and now can't: {error}",
                entry.name
            ),
        }
    }

    /// Where examples of this preparation are kept; nowhere where they would take too much memory.
    fn kept(&self, how: &ImagePreparation) -> Option<Arc<Kept>> {
        if self.len().saturating_mul(how.bytes()) > KEPT_BYTES {
            return None;
        }
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = all.iter().find(|kept| kept.how == *how) {
            return Some(Arc::clone(kept));
        }
        let fresh = Arc::new(Kept {
            how: *how,
            examples: (0..self.len()).map(|_| OnceLock::new()).collect(),
        });
        all.push(Arc::clone(&fresh));
        Some(fresh)
    }
}

/// A data set of one image; why it can't be decoded otherwise.
pub fn image_of(file: &InputFile) -> Result<Array, String> {
    let archive = Archive::open(std::slice::from_ref(file)).map_err(|error| error.to_string())?;
    let [entry] = archive.entries.as_slice() else {
        return Err("it is an archive".to_owned());
    };
    let shape = inspect(&archive, entry)?;
    Ok(Array {
        name: "image".to_owned(),
        dtype: "uint8".to_owned(),
        shape: shape.iter().map(|&size| size as usize).collect(),
        elements: Elements::Files(Files::new(Arc::new(archive), vec![0])),
    })
}

/// What a file's image looks like, or why it can't be decoded.
pub(super) fn inspect(archive: &Archive, entry: &Entry) -> Result<[u64; 3], String> {
    let bytes = archive
        .read(entry, MOST_FILE_BYTES)
        .map_err(|error| match error {
            DataError::Unreadable(detail) => detail,
            other => other.to_string(),
        })?;
    Ok(image::shape(&image::decode(&bytes)?))
}
