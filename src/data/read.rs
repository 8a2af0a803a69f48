//! Telling formats apart by their bytes, and unpacking archives with a limit.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use npyz::{DType, NpyFile, Order, TypeChar};

use super::archive::{Archive, Entry, is_tar};
use super::audio::is_recorded;
use super::embedded::{Unpacked, holds_files, unpack};
use super::folders::{is_example, read_embedded, read_files};
use super::image::is_encoded;
use super::named::from_arrays;
use super::parts::Part;
use super::rows::table_format;
use super::spill::{Collector, numbers};
use super::table::read_tables;
use super::{Array, DataError, Dataset, idx};
use crate::spec::child::InputFile;
use crate::spec::dataset::{Damaged, DatasetFormat, DatasetSummary, Media};

/// Most bytes that one array may unpack to, 16 GiB, and how many times the upload's size where that is more: as whole
/// numbers of 64 bits bytes are eight times as many.
const MOST_BYTES: u64 = 16 << 30;
const ANY_GROWTH: u64 = 8;

/// What the header of a safetensors file may take, as its library has it.
const MOST_HEADER_BYTES: u64 = 100_000_000;

/// How many times its own size a file may grow. Real data sets stay below 50, zeros that
/// were compressed to bring a server down do not.
const MOST_GROWTH: u64 = 100;

/// What any file may take, however small it is: 256 MiB.
const ALWAYS_ALLOWED: u64 = 256 << 20;

/// Most bytes that the arrays of compressed files may take in memory.
fn most_bytes(files: &[InputFile]) -> Result<u64, DataError> {
    let mut size = 0;
    for file in files {
        size += std::fs::metadata(&file.path)?.len();
    }
    Ok((size.saturating_mul(MOST_GROWTH))
        .saturating_add(ALWAYS_ALLOWED)
        .min(MOST_BYTES.max(size.saturating_mul(ANY_GROWTH))))
}

/// How an upload is to be read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reading<'a> {
    /// Overrules what the bytes say.
    pub format: Option<DatasetFormat>,
    /// The column of a table or manifest, or the array, that is the target.
    pub target: Option<&'a str>,
    /// The column of a table that holds texts, or two of them with a comma between.
    pub text: Option<&'a str>,
    pub damaged: Damaged,
    /// Names of the classes, in the order in which a model numbers them.
    pub classes: Option<&'a [String]>,
    /// Columns of a table that are left out.
    pub exclude: &'a [String],
    /// What the upload's inspection found, which a job need not look for again.
    pub known: Option<&'a DatasetSummary>,
}

impl<'a> Reading<'a> {
    /// The order of classes that are words: as it is asked for, or as it was found.
    pub(super) fn order(&self) -> Option<&'a [String]> {
        let found = self.known.and_then(|known| known.target.as_ref());
        self.classes
            .or(found.and_then(|target| target.class_names.as_deref()))
    }
}

/// Reads and checks a data set.
pub fn read(files: &[InputFile], how: Reading) -> Result<Dataset, DataError> {
    let mut dataset = read_unchecked(files, how)?;
    if !dataset.format.is_media() {
        dataset.squeeze_labels();
    }
    dataset.check()?;
    if let Some(names) = how.classes {
        dataset.name_classes(names)?;
    }
    if !how.exclude.is_empty() && !dataset.format.is_table() {
        return Err(DataError::Unreadable(
            "the query parameter `exclude` names columns of a table, and the upload is none; leave it out".to_owned(),
        ));
    }
    dataset.excluded = how.exclude.to_vec();
    Ok(dataset)
}

fn read_unchecked(files: &[InputFile], how: Reading) -> Result<Dataset, DataError> {
    let mut format = how.format;
    let mut head = [0; 512];
    if let [file] = files {
        let length = BufReader::new(File::open(&file.path)?)
            .take(512)
            .read(&mut head)?;
        format = format.or(told_by(&head[..length])?);
    }
    if let (Some(found @ DatasetFormat::Safetensors), [file]) = (format, files) {
        return from_arrays(found, safetensors_arrays(&file.path)?, how.target);
    }
    let most = most_bytes(files)?;
    let are_arrays = files.iter().all(|file| file.name.ends_with(".npz"));
    if files.len() > 1 && are_arrays && format.is_none_or(|format| format == DatasetFormat::Npz) {
        return from_arrays(
            DatasetFormat::Npz,
            arrays_of_splits(files, most)?,
            how.target,
        );
    }
    let archive = Archive::open(files)?;
    if archive.entries.is_empty() {
        return Err(DataError::Unreadable("the upload holds no file".to_owned()));
    }
    refuse_others(&archive, &head, files.len() == 1)?;
    let has = |is: &dyn Fn(&str) -> bool| archive.entries.iter().any(|entry| is(&entry.name));
    let found = format.unwrap_or_else(|| match () {
        () if has(&|name| name.ends_with(".npy")) => DatasetFormat::Npz,
        () if has(&|name| is_example(Media::Image, name)) => DatasetFormat::Images,
        () if has(&|name| is_example(Media::Audio, name)) => DatasetFormat::Audio,
        () if has(&|name| is_example(Media::Text, name)) => DatasetFormat::Texts,
        () => match archive
            .entries
            .iter()
            .find_map(|entry| table_format(&entry.name))
        {
            Some(table) => table,
            None => DatasetFormat::Idx,
        },
    });
    let media = [Media::Image, Media::Audio, Media::Text];
    let has_files = media
        .iter()
        .any(|&media| has(&|name| is_example(media, name)));
    let may_hold = found == DatasetFormat::Parquet || (found.is_media() && !has_files);
    let unpacked = match may_hold {
        true => embedded(&archive, &how, most)?,
        false => None,
    };
    match unpacked {
        Some(_) if has_files => {
            return Err(DataError::Unreadable(
                "the upload holds Parquet files with images or audio in them, and others beside them; upload one data \
                 set at a time"
                    .to_owned(),
            ));
        }
        Some(unpacked) => return read_embedded(unpacked, &how, most),
        None => {}
    }
    let missing = |what: &str| Err(DataError::Unreadable(format!("the upload holds {what}")));
    match found {
        DatasetFormat::Images if !has(&|name| is_example(Media::Image, name)) => {
            missing("no image: png, jpg, jpeg, webp and bmp files are read")
        }
        DatasetFormat::Texts if !has(&|name| is_example(Media::Text, name)) => {
            missing("no text: txt files are read")
        }
        DatasetFormat::Audio if !has(&|name| is_example(Media::Audio, name)) => {
            missing("no audio: wav, flac, ogg and mp3 files are read")
        }
        DatasetFormat::Images => read_files(archive, Media::Image, &how, most),
        DatasetFormat::Audio => read_files(archive, Media::Audio, &how, most),
        DatasetFormat::Texts => read_files(archive, Media::Text, &how, most),
        table if table.is_table() => read_tables(&archive, Some(table), &how, most),
        DatasetFormat::Npz => from_arrays(found, npz_arrays(&archive, most)?, how.target),
        _ => {
            refuse_media(&archive)?;
            idx::from_files(idx_arrays(&archive, most)?)
        }
    }
}

/// The files that Parquet files hold, if they do.
fn embedded(archive: &Archive, how: &Reading, most: u64) -> Result<Option<Unpacked>, DataError> {
    let is_table = |entry: &&Entry| table_format(&entry.name) == Some(DatasetFormat::Parquet);
    let first = archive
        .entries
        .iter()
        .find(is_table)
        .or(archive.entries.first());
    let Some(first) = first else { return Ok(None) };
    match holds_files(archive, first, most)? {
        true => unpack(archive, how, most).map(Some),
        false => Ok(None),
    }
}

/// The format of a file that is no archive, by its first bytes; `None` for an archive and for files of one.
fn told_by(head: &[u8]) -> Result<Option<DatasetFormat>, DataError> {
    match head {
        [] => Err(DataError::Unreadable("the file is empty".to_owned())),
        [b'P', b'K', ..] | [0x1f, 0x8b, ..] => Ok(None),
        _ if is_tar(head) || idx::is_idx(head) => Ok(None),
        _ if is_encoded(head) || is_recorded(head) => Ok(None),
        _ if head.starts_with(b"\x93NUMPY") => Err(DataError::Unreadable(
            "the file is a single array (npy); inputs and target go into one file, by numpy.savez(\"data.npz\", x=…, y=…)".to_owned(),
        )),
        _ if head.starts_with(b"PAR1") => Ok(Some(DatasetFormat::Parquet)),
        // A length of 8 bytes before the header; texts have no zeros.
        _ if head.get(7..9) == Some(b"\0{") => Ok(Some(DatasetFormat::Safetensors)),
        _ if is_text(head) && head.trim_ascii_start().starts_with(b"{") => {
            Ok(Some(DatasetFormat::Jsonl))
        }
        _ if is_text(head) => Ok(Some(DatasetFormat::Csv)),
        // Version of the format, then who made it, operator sets or the graph.
        [0x08, version, 0x12 | 0x1a | 0x3a | 0x42, ..] if *version < 32 => {
            Err(DataError::Unreadable(
                "the file looks like an ONNX model; upload it as a model, to `/v1/models`".to_owned(),
            ))
        }
        _ if is_latin(head) => Err(DataError::Unreadable(
            "the file looks like a text in another encoding than UTF-8, such as Latin-1: write it in UTF-8 (`iconv -f latin1 -t utf-8`, \
             `to_csv(path, encoding=\"utf-8\")`)"
                .to_owned(),
        )),
        _ => Err(DataError::Unreadable(
            "the bytes are of no known format; npz, IDX files, images, audio and texts (side by side, in a zip or in a tar), csv, \
             jsonl, parquet and safetensors are read"
                .to_owned(),
        )),
    }
}

/// What people upload that is no data set, told by what it is.
fn refuse_others(archive: &Archive, head: &[u8], is_one: bool) -> Result<(), DataError> {
    let refuse = |detail: String| Err(DataError::Unreadable(detail));
    let pickled = |entry: &&Entry| entry.name.ends_with("/data.pkl") || entry.name == "data.pkl";
    if let Some(entry) = archive.entries.iter().find(pickled) {
        return refuse(format!(
            "the file is what `torch.save` writes (`{}` is in it), which is code and not read; save arrays with \
             numpy.savez(\"data.npz\", x=inputs.numpy(), y=labels.numpy())",
            entry.name
        ));
    }
    let media = [Media::Image, Media::Audio];
    let is_named = |entry: &Entry| media.iter().any(|&media| is_example(media, &entry.name));
    match (is_one, is_encoded(head), is_recorded(head)) {
        (true, image, recording)
            if (image || recording) && !archive.entries.iter().any(is_named) =>
        {
            let what = if image { "an image" } else { "a recording" };
            refuse(format!(
                "the file is {what}, by itself: a data set is many of them, in a zip or tar with a folder for each class; to \
                 ask a model about one there is /v1/models/{{id}}/predict"
            ))
        }
        _ => Ok(()),
    }
}

/// Whether the bytes are UTF-8, but for a character that their end cuts.
fn is_text(head: &[u8]) -> bool {
    match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    }
}

/// Whether the bytes are letters of one byte each, most of them those of ASCII, as Latin-1 has them.
fn is_latin(head: &[u8]) -> bool {
    let is_plain = |byte: &&u8| byte.is_ascii_graphic() || byte.is_ascii_whitespace();
    let is_control = |byte: &u8| *byte < 9 || (14..32).contains(byte);
    let plain = head.iter().filter(is_plain).count();
    !head.is_empty() && !head.iter().any(is_control) && plain * 10 > head.len() * 7
}

/// Media that are not read are told of, instead of failing on their bytes.
fn refuse_media(archive: &Archive) -> Result<(), DataError> {
    let media = [".gif", ".tif", ".tiff", ".opus", ".m4a", ".aac", ".wma"];
    let is_media = |entry: &&Entry| {
        let name = entry.name.to_lowercase();
        media.iter().any(|end| name.ends_with(end))
    };
    match archive.entries.iter().find(is_media) {
        None => Ok(()),
        Some(entry) => Err(DataError::NotSupported {
            what: format!(
                "an archive of other images than png, jpg, webp and bmp, or of other audio than wav, flac, ogg and mp3 \
                 (`{}`); convert them, or pack the examples as an .npz with `x` and `y`",
                entry.name
            ),
        }),
    }
}

/// The arrays of npz files that are a split each, named as those of one file with all splits.
fn arrays_of_splits(files: &[InputFile], most: u64) -> Result<Vec<Array>, DataError> {
    let mut all: Vec<Array> = Vec::new();
    for file in files {
        let Some(part) = Part::of_table(&file.name) else {
            return Err(DataError::Unreadable(format!(
                "of several npz files each is a split by its name, such as `train.npz` and `digits_test.npz`, and `{}` has \
                 none; rename it, or put all arrays into one file, as x_train, y_train, x_test and y_test",
                file.name
            )));
        };
        let ending = match part {
            Part::Train => "_train",
            Part::Validation => "_val",
            Part::Test => "_test",
        };
        let held: u64 = all.iter().map(|array| array.elements.bytes()).sum();
        let archive = Archive::open(std::slice::from_ref(file))?;
        for mut array in npz_arrays(&archive, most.saturating_sub(held))? {
            if !array.name.ends_with(ending) {
                array.name.push_str(ending);
            }
            if all.iter().any(|other| other.name == array.name) {
                return Err(DataError::Unreadable(format!(
                    "two of the npz files hold the array `{}`; each split is one file",
                    array.name
                )));
            }
            all.push(array);
        }
    }
    Ok(all)
}

fn npz_arrays(archive: &Archive, most: u64) -> Result<Vec<Array>, DataError> {
    let mut arrays = Vec::new();
    let mut total = 0;
    for entry in &archive.entries {
        let Some(name) = entry.name.strip_suffix(".npy") else {
            continue;
        };
        let array = npy_array(name, archive.reader(entry)?, most)?;
        total += array.elements.bytes();
        if total > most {
            return Err(DataError::TooLarge {
                name: name.to_owned(),
                limit: most,
            });
        }
        arrays.push(array);
    }
    arrays.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(arrays)
}

fn idx_arrays(archive: &Archive, most: u64) -> Result<Vec<Array>, DataError> {
    let array = |entry: &Entry| idx_entry(&entry.name, archive.reader(entry)?, most);
    archive.entries.iter().map(array).collect()
}

fn npy_array(name: &str, reader: impl Read, most: u64) -> Result<Array, DataError> {
    let broken = |what: String| DataError::Unreadable(format!("the array `{name}` {what}"));
    // npyz multiplies the sizes unchecked, which panics where overflow is checked; where it is not,
    // the sizes are checked below.
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| NpyFile::new(reader)))
        .map_err(|_| DataError::TooLarge {
            name: name.to_owned(),
            limit: most,
        })?;
    let file = opened.map_err(|error| broken(format!("has no header: {error}")))?;
    let header = file.header();
    let shape: Vec<usize> = header.shape().iter().map(|&size| size as usize).collect();
    if shape.is_empty() {
        return Err(broken(
            "is a scalar; it needs an axis of examples".to_owned(),
        ));
    }
    if header.order() == Order::Fortran && shape.len() > 1 {
        return Err(broken(
            "is stored in Fortran order; save np.ascontiguousarray of it".to_owned(),
        ));
    }
    let DType::Plain(kind) = header.dtype() else {
        return Err(broken("has a structured type".to_owned()));
    };
    let width = kind.size_field();
    // An axis of size 0 must not hide that the others are absurd.
    let claimed = shape.iter().try_fold(width as usize, |product, &size| {
        product.checked_mul(size.max(1))
    });
    // Integers of any width are kept as int64, eight times a byte.
    let kept = match (kind.type_char(), width) {
        (TypeChar::Int | TypeChar::Uint, 2..) | (TypeChar::Int, _) => 8,
        (TypeChar::Float, _) => 4,
        _ => 1,
    };
    let in_memory = claimed.and_then(|bytes| (bytes / width.max(1) as usize).checked_mul(kept));
    if in_memory.is_none_or(|bytes| bytes as u64 > most) {
        return Err(DataError::TooLarge {
            name: name.to_owned(),
            limit: most,
        });
    }
    let count = shape.iter().product::<usize>();
    // Elements are read one by one, so what they take grows with the data that is really there.
    macro_rules! elements {
        ($stored:ty, $kept:ty, $convert:expr) => {{
            let mut values = Collector::<$kept>::new();
            let reader = file
                .data::<$stored>()
                .map_err(|error| broken(format!("can't be read: {error}")))?;
            for value in reader {
                let value = value.map_err(|error| broken(format!("is truncated: {error}")))?;
                values.push($convert(value))?;
            }
            values.finish()?
        }};
    }
    let (dtype, elements) = match (kind.type_char(), width) {
        (TypeChar::Uint, 1) => ("uint8", elements!(u8, u8, |v| v)),
        (TypeChar::Uint, 2) => ("uint16", elements!(u16, i64, i64::from)),
        (TypeChar::Uint, 4) => ("uint32", elements!(u32, i64, i64::from)),
        (TypeChar::Uint, 8) => {
            let mut largest = 0;
            let elements = elements!(u64, i64, |v: u64| {
                largest = largest.max(v);
                v as i64
            });
            if i64::try_from(largest).is_err() {
                return Err(broken(format!("holds {largest}, beyond int64")));
            }
            ("uint64", elements)
        }
        (TypeChar::Int, 1) => ("int8", elements!(i8, i64, i64::from)),
        (TypeChar::Int, 2) => ("int16", elements!(i16, i64, i64::from)),
        (TypeChar::Int, 4) => ("int32", elements!(i32, i64, i64::from)),
        (TypeChar::Int, 8) => ("int64", elements!(i64, i64, |v| v)),
        (TypeChar::Float, 4) => ("float32", elements!(f32, f32, |v| v)),
        (TypeChar::Float, 8) => ("float64", elements!(f64, f32, |v| v as f32)),
        (TypeChar::Bool, _) => ("bool", elements!(bool, u8, u8::from)),
        (TypeChar::UnicodeStr | TypeChar::ByteStr, _) => {
            return Err(broken(
                "holds texts; number them (in NumPy `names, y = np.unique(y, return_inverse=True)`), and give the names with the query \
                 parameter `classes`"
                    .to_owned(),
            ));
        }
        _ => {
            let kind = kind.to_string();
            let hint = match kind.contains('O') {
                true => {
                    ", Python's objects: make numbers of it (`array.astype(np.float32)`; of words in NumPy `names, y = np.unique(y.astype(str), \
                         return_inverse=True)`, with the names as the query parameter `classes`); it"
                }
                false => "",
            };
            return Err(DataError::NotSupported {
                what: format!("the type {kind} of the array `{name}`{hint}"),
            });
        }
    };
    if elements.len() != count {
        return Err(broken(format!(
            "claims {count} numbers and has {}",
            elements.len()
        )));
    }
    Ok(Array {
        name: name.to_owned(),
        dtype: dtype.to_owned(),
        shape: shape[1..].to_vec(),
        elements,
    })
}

/// The tensors of a file, each read by itself: neither the file nor what is large in it is held in memory.
fn safetensors_arrays(path: &Path) -> Result<Vec<Array>, DataError> {
    use safetensors::Dtype;
    use safetensors::tensor::Metadata;
    let broken = |what: &dyn std::fmt::Display| {
        DataError::Unreadable(format!("the safetensors file: {what}"))
    };
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length)
        .map_err(|_| broken(&"it is too short"))?;
    let length = u64::from_le_bytes(length);
    if length > size.saturating_sub(8).min(MOST_HEADER_BYTES) {
        return Err(broken(
            &"its header is longer than the file, or than 100 MB",
        ));
    }
    let mut head = Vec::new();
    (&file).take(length).read_to_end(&mut head)?;
    let metadata: Metadata = serde_json::from_slice(&head).map_err(|error| broken(&error))?;
    // Its shapes and places fit each other, or it would not have been read.
    let tensors = metadata.tensors();
    let end = tensors.values().map(|tensor| tensor.data_offsets.1).max();
    let end = end.unwrap_or(0);
    if end as u64 != size - 8 - length {
        let what = format!("it holds other bytes than the {end} that its header tells of");
        return Err(broken(&what));
    }
    let mut arrays = Vec::new();
    for (name, tensor) in tensors {
        let (start, end) = tensor.data_offsets;
        file.seek(SeekFrom::Start(8 + length + start as u64))?;
        let raw = BufReader::with_capacity(64 << 10, &file).take((end - start) as u64);
        let (dtype, elements) = match tensor.dtype {
            Dtype::U8 => ("uint8", numbers(raw, |[byte]: [u8; 1]| byte)?),
            Dtype::BOOL => ("bool", numbers(raw, |[byte]: [u8; 1]| byte)?),
            Dtype::I8 => ("int8", numbers(raw, |b| i64::from(i8::from_le_bytes(b)))?),
            Dtype::I16 => ("int16", numbers(raw, |b| i64::from(i16::from_le_bytes(b)))?),
            Dtype::I32 => ("int32", numbers(raw, |b| i64::from(i32::from_le_bytes(b)))?),
            Dtype::I64 => ("int64", numbers(raw, i64::from_le_bytes)?),
            Dtype::F32 => ("float32", numbers(raw, f32::from_le_bytes)?),
            Dtype::F64 => ("float64", numbers(raw, |b| f64::from_le_bytes(b) as f32)?),
            other => {
                return Err(DataError::NotSupported {
                    what: format!("the type {other:?} of the tensor `{name}`"),
                });
            }
        };
        let [_, shape @ ..] = tensor.shape.as_slice() else {
            return Err(DataError::Unreadable(format!(
                "the tensor `{name}` is a scalar; it needs an axis of examples"
            )));
        };
        arrays.push(Array {
            name,
            dtype: dtype.to_owned(),
            shape: shape.to_vec(),
            elements,
        });
    }
    arrays.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(arrays)
}

/// One IDX file, plain or gzipped.
fn idx_entry(name: &str, mut reader: impl Read, most: u64) -> Result<Array, DataError> {
    let mut head = [0; 2];
    let found = reader.read(&mut head)?;
    let whole = head[..found].chain(reader);
    if head == [0x1f, 0x8b] {
        return idx::read_array(name, flate2::read::MultiGzDecoder::new(whole), most);
    }
    idx::read_array(name, BufReader::new(whole), most)
}
