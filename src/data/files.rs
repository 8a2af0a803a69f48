//! Examples that are files of their own, decoded when they are asked for.

use std::ops::Range;
use std::sync::Arc;

use super::archive::{Archive, Entry};
use super::kept::Keeper;
use super::{Array, DataError, Elements, audio, image};
use crate::spec::audio::{AudioInfo, AudioPreparation};
use crate::spec::child::InputFile;
use crate::spec::picture::ImagePreparation;

/// Most bytes of one file.
pub(super) const MOST_FILE_BYTES: u64 = 256 << 20;

/// Some of an upload's files, one for each example.
#[derive(Debug, Clone)]
pub struct Files {
    archive: Arc<Archive>,
    /// Which of the archive's, by example.
    entries: Arc<[u32]>,
    /// What audio files are like; none of images.
    audio: Option<AudioInfo>,
    images: Keeper<ImagePreparation, Box<[u8]>>,
    sounds: Keeper<AudioPreparation, Box<[f32]>>,
}

impl Files {
    /// The path of an example in its archive.
    pub fn name_of(&self, example: u32) -> Option<&str> {
        let entry = *self.entries.get(example as usize)?;
        Some(self.archive.entries.get(entry as usize)?.name.as_str())
    }
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
            audio: None,
            images: Keeper::default(),
            sounds: Keeper::default(),
        }
    }

    /// As an input of images of `[height, width, channels]`, 0 where they differ.
    pub(super) fn images(self, shape: &[u64]) -> Array {
        Array {
            name: "image".to_owned(),
            dtype: "uint8".to_owned(),
            shape: shape.iter().map(|&size| size as usize).collect(),
            elements: Elements::Files(self),
        }
    }

    /// As an input of audio.
    pub(super) fn sounds(self, about: AudioInfo) -> Array {
        Array {
            name: "audio".to_owned(),
            dtype: "float32".to_owned(),
            shape: vec![0],
            elements: Elements::Files(Self {
                audio: Some(about),
                ..self
            }),
        }
    }

    /// What audio files are like; none of images.
    pub fn audio(&self) -> Option<&AudioInfo> {
        self.audio.as_ref()
    }

    /// The files of some of the examples.
    pub(super) fn part(&self, examples: Range<usize>) -> Self {
        Self {
            audio: self.audio.clone(),
            ..Self::new(Arc::clone(&self.archive), self.entries[examples].to_vec())
        }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry(&self, example: u32) -> &Entry {
        &self.archive.entries[self.entries[example as usize] as usize]
    }

    /// Audio as it was asked for, one example behind the other.
    ///
    /// # Panics
    ///
    /// As [`Files::pictures`].
    pub fn recordings(&self, how: &AudioPreparation, examples: &[u32]) -> Vec<f32> {
        let mut out = Vec::with_capacity(examples.len() * how.numbers());
        let kept = self.sounds.of(how, self.len(), how.numbers() * 4);
        for &example in examples {
            let prepared = || -> Box<[f32]> {
                let decode = |bytes| audio::prepare(audio::decode(bytes)?, how);
                self.decoded(example, decode).into()
            };
            match &kept {
                Some(kept) => out.extend_from_slice(kept.example(example as usize, prepared)),
                None => out.extend_from_slice(&prepared()),
            }
        }
        out
    }

    /// Images as they were asked for, one behind the other.
    ///
    /// # Panics
    ///
    /// Where a file that could be decoded when it was uploaded no longer can, since the disk has lost it.
    pub fn pictures(&self, how: &ImagePreparation, examples: &[u32]) -> Vec<u8> {
        let mut out = Vec::with_capacity(examples.len() * how.bytes());
        let kept = self.images.of(how, self.len(), how.bytes());
        for &example in examples {
            let decoded = || -> Box<[u8]> {
                let decode = |bytes: Vec<u8>| image::decode(&bytes);
                image::prepare(self.decoded(example, decode), how).into()
            };
            match &kept {
                Some(kept) => out.extend_from_slice(kept.example(example as usize, decoded)),
                None => out.extend_from_slice(&decoded()),
            }
        }
        out
    }

    fn decoded<T>(&self, example: u32, decode: impl Fn(Vec<u8>) -> Result<T, String>) -> T {
        let entry = self.entry(example);
        let read = self.archive.read(entry, MOST_FILE_BYTES);
        match read.map_err(|error| error.to_string()).and_then(decode) {
            Ok(decoded) => decoded,
            Err(error) => panic!(
                "the stored data set is damaged: `{}` could be read when it was uploaded and now can't: {error}",
                entry.name
            ),
        }
    }
}

/// A data set of one image, or of one sound; why it can't be decoded otherwise.
pub fn media_of(file: &InputFile) -> Result<Array, String> {
    let archive = Archive::open(std::slice::from_ref(file)).map_err(|error| error.to_string())?;
    let [entry] = archive.entries.as_slice() else {
        return Err("it is an archive".to_owned());
    };
    let head = archive
        .read(entry, MOST_FILE_BYTES)
        .map_err(|error| error.to_string())?;
    if audio::is_recorded(&head) {
        let about = about_all(&[inspect_audio(&archive, entry)?]);
        return Ok(Files::new(Arc::new(archive), vec![0]).sounds(about));
    }
    let shape = inspect(&archive, entry)?;
    Ok(Files::new(Arc::new(archive), vec![0]).images(&shape))
}

/// Sample rate and milliseconds of a sound file, or why it can't be decoded.
pub(super) fn inspect_audio(archive: &Archive, entry: &Entry) -> Result<(u32, u64), String> {
    audio::measure(read(archive, entry)?)
}

/// What files of these sample rates and lengths are like together.
pub(super) fn about_all(files: &[(u32, u64)]) -> AudioInfo {
    let first = files.first().map(|(rate, _)| *rate);
    let mut lengths: Vec<u64> = files
        .iter()
        .map(|(_, milliseconds)| *milliseconds)
        .collect();
    lengths.sort_unstable();
    AudioInfo {
        sample_rate: first.filter(|first| files.iter().all(|(rate, _)| rate == first)),
        longest_ms: lengths.last().copied().unwrap_or(0),
        median_ms: lengths
            .get(lengths.len().saturating_sub(1) / 2)
            .copied()
            .unwrap_or(0),
    }
}

/// What a file's image looks like, or why it can't be decoded.
pub(super) fn inspect(archive: &Archive, entry: &Entry) -> Result<[u64; 3], String> {
    Ok(image::shape(&image::decode(&read(archive, entry)?)?))
}

fn read(archive: &Archive, entry: &Entry) -> Result<Vec<u8>, String> {
    let read = archive.read(entry, MOST_FILE_BYTES);
    read.map_err(|error| match error {
        DataError::Unreadable(detail) => detail,
        other => other.to_string(),
    })
}
