//! The files of an upload, in an archive or side by side, each read by itself and from many threads.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flate2::read::{DeflateDecoder, MultiGzDecoder};

use super::DataError;
use crate::spec::child::InputFile;

/// Most files that an upload may hold.
const MOST_FILES: usize = 10_000_000;

/// Longest path of a file, in bytes.
const LONGEST_PATH: usize = 1024;

/// Bytes that are read at once.
const BUFFER: usize = 64 << 10;

/// How many times its size a gzipped tar may grow on the disk, and what it may take however small it is.
const MOST_GROWTH: u64 = 20;
const ALWAYS_ALLOWED: u64 = 1 << 30;

/// A file of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// A path with slashes, as the archive has it.
    pub name: String,
    source: usize,
    start: u64,
    stored: u64,
    deflated: bool,
    /// Of the unpacked bytes, where the archive says it.
    crc: Option<u32>,
    /// Bytes that it claims to have.
    pub size: u64,
}

impl Entry {
    /// So many plain bytes of a larger file.
    pub fn within(name: String, start: u64, size: u64) -> Self {
        Self {
            name,
            source: 0,
            start,
            stored: size,
            deflated: false,
            crc: None,
            size,
        }
    }
}

/// Where the bytes of entries are.
#[derive(Debug)]
enum Source {
    Archive(File),
    /// By entry; opened when they are read, since a process may hold only so many open.
    Beside(Vec<PathBuf>),
}

/// An upload as a list of files.
#[derive(Debug)]
pub(super) struct Archive {
    source: Source,
    pub entries: Vec<Entry>,
}

impl Archive {
    /// Lists the files of a zip, of a tar (gzipped or not), or those that were uploaded side by side. A single
    /// file that is no archive is a list of one. A gzipped tar is unpacked into a file without
    /// a name, since nothing in it could be read by itself.
    pub fn open(files: &[InputFile]) -> Result<Self, DataError> {
        let mut archive = match files {
            [only] => Self::unpack(only)?,
            files => Self::side_by_side(files)?,
        };
        // Of two files with one path the later one counts, as when they are unpacked.
        let mut last = HashMap::new();
        for (place, entry) in archive.entries.iter().enumerate() {
            if entry.name.len() > LONGEST_PATH {
                let name: String = entry.name.chars().take(80).collect();
                return Err(DataError::Unreadable(format!(
                    "the path `{name}…` in the archive has more than {LONGEST_PATH} bytes"
                )));
            }
            last.insert(entry.name.clone(), place);
        }
        let mut place = 0;
        archive.entries.retain(|entry| {
            place += 1;
            is_meant(&entry.name) && last[&entry.name] == place - 1
        });
        Ok(archive)
    }

    /// Entries that were made by [`Entry::within`], in a file that lies where this upload does.
    pub fn of(&self, file: File, entries: Vec<Entry>) -> Self {
        Self {
            source: Source::Archive(file),
            entries,
        }
    }

    /// A file without a name, in the folder that the service gives the process (`TMPDIR`), that is gone with its last
    /// user.
    pub fn scratch() -> std::io::Result<File> {
        tempfile::tempfile()
    }

    /// An entry as a file of its own, of at most `most` bytes.
    pub fn file(&self, entry: &Entry, most: u64) -> Result<File, DataError> {
        if let Source::Beside(paths) = &self.source {
            return Ok(File::open(&paths[entry.source])?);
        }
        let mut file = Self::scratch()?;
        let broken = |error| DataError::Unreadable(format!("`{}`: {error}", entry.name));
        std::io::copy(&mut self.bounded(entry, most)?, &mut file).map_err(broken)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(file)
    }

    /// The bytes of a file, which fails where there are more than `most`.
    pub fn bounded(&self, entry: &Entry, most: u64) -> Result<impl Read + '_, DataError> {
        Ok(Bounded {
            inner: self.reader(entry)?,
            left: most,
        })
    }

    fn unpack(only: &InputFile) -> Result<Self, DataError> {
        let file = File::open(&only.path)?;
        let head = head(&file)?;
        if head.starts_with(b"PK") {
            Self::zip(file)
        } else if is_tar(&head) {
            Self::tar(file)
        } else if is_gzip(&head) && is_tar(&unpacked_head(&only.path)?) {
            Self::tar(unpacked(&only.path)?)
        } else {
            Self::side_by_side(std::slice::from_ref(only))
        }
    }

    fn side_by_side(files: &[InputFile]) -> Result<Self, DataError> {
        let mut entries = Vec::new();
        for (source, input) in files.iter().enumerate() {
            let size = std::fs::metadata(&input.path)?.len();
            entries.push(Entry {
                name: input.name.clone(),
                source,
                start: 0,
                stored: size,
                deflated: false,
                crc: None,
                size,
            });
        }
        let paths = files.iter().map(|input| input.path.clone()).collect();
        Ok(Self {
            source: Source::Beside(paths),
            entries,
        })
    }

    fn zip(file: File) -> Result<Self, DataError> {
        let broken = |error| DataError::Unreadable(format!("the zip archive: {error}"));
        let mut archive =
            zip::ZipArchive::new(BufReader::new(file.try_clone()?)).map_err(broken)?;
        check_count(archive.len())?;
        let mut entries = Vec::new();
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index).map_err(broken)?;
            if !entry.is_file() {
                continue;
            }
            let name = entry.name().map_err(broken)?.into_owned();
            let deflated = match entry.compression() {
                zip::CompressionMethod::Stored => false,
                zip::CompressionMethod::Deflated => true,
                other => {
                    return Err(DataError::NotSupported {
                        what: format!("the compression {other} of `{name}` in the zip archive"),
                    });
                }
            };
            if entry.encrypted() {
                return Err(DataError::NotSupported {
                    what: format!("the encryption of `{name}` in the zip archive"),
                });
            }
            let start = entry.data_start().ok_or_else(|| {
                DataError::Unreadable(format!("the zip archive has no data for `{name}`"))
            })?;
            entries.push(Entry {
                source: 0,
                start,
                stored: entry.compressed_size(),
                deflated,
                crc: Some(entry.crc32()),
                size: entry.size(),
                name,
            });
        }
        Ok(Self {
            source: Source::Archive(file),
            entries,
        })
    }

    fn tar(file: File) -> Result<Self, DataError> {
        let broken =
            |error: std::io::Error| DataError::Unreadable(format!("the tar archive: {error}"));
        let mut from_start = file.try_clone()?;
        from_start.rewind()?;
        let mut archive = tar::Archive::new(from_start);
        let mut entries = Vec::new();
        for entry in archive.entries_with_seek().map_err(broken)? {
            let entry = entry.map_err(broken)?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            check_count(entries.len())?;
            entries.push(Entry {
                name: (entry.path().map_err(broken)?)
                    .to_string_lossy()
                    .into_owned(),
                source: 0,
                start: entry.raw_file_position(),
                stored: entry.size(),
                deflated: false,
                crc: None,
                size: entry.size(),
            });
        }
        Ok(Self {
            source: Source::Archive(file),
            entries,
        })
    }

    /// The bytes of a file as it was before it was packed.
    pub fn reader(&self, entry: &Entry) -> Result<Box<dyn Read + '_>, DataError> {
        let file = match &self.source {
            Source::Archive(file) => file,
            Source::Beside(paths) => {
                return Ok(Box::new(BufReader::new(File::open(&paths[entry.source])?)));
            }
        };
        let stored = Stored {
            file,
            place: entry.start,
            end: entry.start.saturating_add(entry.stored),
        };
        let stored = BufReader::with_capacity(BUFFER, stored);
        let Some(wanted) = entry.crc else {
            return Ok(Box::new(stored));
        };
        fn checked<'a>(inner: impl Read + 'a, wanted: u32) -> Box<dyn Read + 'a> {
            let checked = Checked {
                inner,
                found: flate2::Crc::new(),
                wanted,
            };
            Box::new(BufReader::with_capacity(BUFFER, checked))
        }
        Ok(match entry.deflated {
            true => checked(DeflateDecoder::new(stored), wanted),
            false => checked(stored, wanted),
        })
    }

    /// A whole file, of at most `most` bytes.
    pub fn read(&self, entry: &Entry, most: u64) -> Result<Vec<u8>, DataError> {
        let too_large =
            || DataError::Unreadable(format!("`{}` has more than {most} bytes", entry.name));
        if entry.size > most {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let broken = |error| DataError::Unreadable(format!("`{}`: {error}", entry.name));
        let reader = self.reader(entry)?.take(most + 1);
        { reader }.read_to_end(&mut bytes).map_err(broken)?;
        match bytes.len() as u64 {
            read if read > most => Err(too_large()),
            // What an archive claims is what memory was reckoned by.
            read if read != entry.size => Err(DataError::Unreadable(format!(
                "`{}` has {read} bytes, the archive says {}",
                entry.name, entry.size
            ))),
            _ => Ok(bytes),
        }
    }
}

fn check_count(count: usize) -> Result<(), DataError> {
    match count > MOST_FILES {
        true => Err(DataError::Unreadable(format!(
            "the archive holds more than {MOST_FILES} files"
        ))),
        false => Ok(()),
    }
}

/// What a system leaves in archives beside the user's files.
fn is_meant(name: &str) -> bool {
    let hidden = |part: &str| part.starts_with('.') && part != "." && part != "..";
    !name.starts_with("__MACOSX") && !name.split('/').any(hidden)
}

pub(super) fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

fn is_gzip(head: &[u8]) -> bool {
    head.starts_with(&[0x1f, 0x8b])
}

/// The first bytes, 512 where there are as many.
fn head(reader: impl Read) -> Result<Vec<u8>, std::io::Error> {
    let mut head = Vec::new();
    reader.take(512).read_to_end(&mut head)?;
    Ok(head)
}

fn unpacked_head(path: &Path) -> Result<Vec<u8>, DataError> {
    let unreadable = |error| DataError::Unreadable(format!("the gzip file: {error}"));
    head(MultiGzDecoder::new(File::open(path)?)).map_err(unreadable)
}

fn unpacked(path: &Path) -> Result<File, DataError> {
    let packed = File::open(path)?;
    let most = (packed.metadata()?.len())
        .saturating_mul(MOST_GROWTH)
        .saturating_add(ALWAYS_ALLOWED);
    let mut file = Archive::scratch()?;
    let unreadable = |error| DataError::Unreadable(format!("the gzip file: {error}"));
    let mut reader = MultiGzDecoder::new(packed).take(most + 1);
    let written = std::io::copy(&mut reader, &mut file).map_err(unreadable)?;
    if written > most {
        return Err(DataError::TooLarge {
            name: "the gzipped tar".to_owned(),
            limit: most,
        });
    }
    Ok(file)
}

/// Bytes of which there may be so many.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
            std::io::Error::other("it unpacks to far more bytes than the upload has")
        })?;
        Ok(read)
    }
}

/// Bytes that are compared with their checksum at the end.
struct Checked<R> {
    inner: R,
    found: flate2::Crc,
    wanted: u32,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.found.update(&buffer[..read]);
        if read == 0 && !buffer.is_empty() && self.found.sum() != self.wanted {
            let damaged = "its bytes do not have the checksum that the archive says";
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                damaged,
            ));
        }
        Ok(read)
    }
}

/// A part of a file that is read without moving anybody else's place in it.
struct Stored<'a> {
    file: &'a File,
    place: u64,
    end: u64,
}

impl Read for Stored<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.end - self.place).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let read = self.file.read_at(&mut buffer[..wanted], self.place)?;
        self.place += read as u64;
        Ok(read)
    }
}
