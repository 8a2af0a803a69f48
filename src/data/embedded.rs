//! Parquet files that hold images or audio themselves, as data sets on the Hugging Face hub do: a column of groups
//! `{bytes, path}`, others beside it, and what labels are called in the metadata.

use std::collections::BTreeSet;
use std::io::Write;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;

use super::archive::{Archive, Entry};
use super::audio::is_recorded;
use super::image::is_encoded;
use super::labels::Label;
use super::parts::Part;
use super::rows::{table_format, typed};
use super::{DataError, Reading};
use crate::spec::dataset::{DatasetFormat, Media};

/// Memory of an example beside its bytes, which lie on the disk.
const OVERHEAD: u64 = 256;

/// Columns that label examples where nothing else is said.
const LABELS: [&str; 5] = ["label", "labels", "class", "target", "y"];

/// An example: which of the files, which split, what it is labelled with.
pub(super) struct Embedded {
    pub entry: u32,
    pub part: Part,
    pub label: Option<Label>,
}

/// The files that stand in Parquet files, unpacked onto the disk, beside the upload.
pub(super) struct Unpacked {
    pub archive: Archive,
    pub media: Media,
    pub examples: Vec<Embedded>,
    /// The column that labels them.
    pub label: String,
    /// Names of the labels in their order, as the metadata has them.
    pub classes: Option<Vec<String>>,
}

/// Whether a Parquet file holds files in one of its columns.
pub(super) fn holds_files(tables: &Archive, table: &Entry, most: u64) -> Result<bool, DataError> {
    // What is wrong with the file is told by who reads it.
    let Ok(reader) = SerializedFileReader::new(tables.file(table, most)?) else {
        return Ok(false);
    };
    Ok(column_of_files(reader.metadata().file_metadata().schema()).is_some())
}

/// The column of groups with bytes.
fn column_of_files(schema: &Type) -> Option<usize> {
    let holds = |field: &Type| {
        field.is_group()
            && field
                .get_fields()
                .iter()
                .any(|child| child.name() == "bytes")
    };
    schema.get_fields().iter().position(|field| holds(field))
}

/// Takes the files out of the tables of an upload.
pub(super) fn unpack(tables: &Archive, how: &Reading, most: u64) -> Result<Unpacked, DataError> {
    let mut file = Archive::scratch()?;
    let (mut end, mut held) = (0, 0);
    let (mut media, mut entries, mut examples) = (Media::Image, Vec::new(), Vec::new());
    let mut columns: BTreeSet<String> = BTreeSet::new();
    let mut classes = None;
    let is_table = |entry: &&Entry| table_format(&entry.name) == Some(DatasetFormat::Parquet);
    let mut all: Vec<&Entry> = tables.entries.iter().filter(is_table).collect();
    if all.is_empty() {
        all.extend(tables.entries.first());
    }
    let several = all.len() > 1;
    for table in all {
        // The name of the only table says nothing.
        let part = Part::of_table(&table.name).filter(|_| several);
        let part = part.unwrap_or(Part::Train);
        let (label, words) = each_file(tables, table, how, most, &mut |bytes, name, label| {
            if end == 0 {
                media = match (is_encoded(&bytes), is_recorded(&bytes)) {
                    (false, true) => Media::Audio,
                    _ => Media::Image,
                };
            }
            file.write_all(&bytes)?;
            let size = bytes.len() as u64;
            let entry = entries.len() as u32;
            entries.push(Entry::within(name, end, size));
            examples.push(Embedded { entry, part, label });
            end += size;
            held += size + OVERHEAD;
            match held > most {
                true => Err(DataError::TooLarge {
                    name: table.name.clone(),
                    limit: most,
                }),
                false => Ok(()),
            }
        })?;
        columns.insert(label);
        classes = classes.or(words);
    }
    if columns.len() > 1 {
        return Err(DataError::Unreadable(format!(
            "the tables name their labels differently: {columns:?}"
        )));
    }
    Ok(Unpacked {
        archive: tables.of(file, entries),
        media,
        examples,
        label: columns.pop_first().unwrap_or_default(),
        classes,
    })
}

type Then<'a> = &'a mut dyn FnMut(Vec<u8>, String, Option<Label>) -> Result<(), DataError>;

/// Hands each file of a table over; the name of the column that labels.
fn each_file(
    tables: &Archive,
    table: &Entry,
    how: &Reading,
    most: u64,
    then: Then,
) -> Result<(String, Option<Vec<String>>), DataError> {
    let wrong =
        |detail: String| DataError::Unreadable(format!("the table `{}`: {detail}", table.name));
    let unreadable = |error: ParquetError| wrong(error.to_string());
    let reader = SerializedFileReader::new(tables.file(table, most)?).map_err(unreadable)?;
    let metadata = reader.metadata().file_metadata();
    let fields = metadata.schema().get_fields();
    let names: Vec<&str> = fields.iter().map(|field| field.name()).collect();
    let files = column_of_files(metadata.schema())
        .ok_or_else(|| wrong("no column holds files as `{bytes, path}`".to_owned()))?;
    let place = |wanted: &str| names.iter().position(|name| *name == wanted);
    let others: Vec<usize> = (0..names.len())
        .filter(|&at| at != files && fields[at].is_primitive())
        .collect();
    let label = match how.target {
        // A job asks for what its inspection found, which may be nothing.
        Some(name) => Some(place(name).ok_or_else(|| {
            DataError::Unreadable(format!(
                "there is no column `{name}` for the target; the columns are {names:?}"
            ))
        })?),
        None => match (LABELS.iter().find_map(|name| place(name)), &others[..]) {
            (Some(named), _) => Some(named),
            (None, &[only]) => Some(only),
            (None, []) => None,
            (None, _) => {
                return Err(wrong(format!(
                    "it has the columns {names:?}; say with the query parameter `target` which of them is the label"
                )));
            }
        },
    };
    let words = label.and_then(|label| {
        let metadata = metadata.key_value_metadata()?;
        class_names(
            metadata
                .iter()
                .find(|pair| pair.key == "huggingface")?
                .value
                .as_ref()?,
            names[label],
        )
    });
    for (row, record) in reader.get_row_iter(None).map_err(unreadable)?.enumerate() {
        let record = record.map_err(unreadable)?;
        let fields: Vec<&Field> = record.get_column_iter().map(|(_, field)| field).collect();
        let place = format!("{}:{}", table.name, row + 1);
        let bytes = match fields[files] {
            Field::Group(group) => bytes_of(group),
            _ => None,
        };
        let own = match label {
            Some(label) => typed(names[label], fields[label])?.label(),
            None => None,
        };
        let own = match (own, &words) {
            (Some(Label::Number(number, _)), Some(words)) => {
                let word = words.get(number as usize).filter(|_| number >= 0.0);
                let word = word.ok_or_else(|| {
                    wrong(format!(
                        "row {} has the label {number}, which has no name",
                        row + 1
                    ))
                })?;
                Some(Label::Text(word.clone()))
            }
            (own, _) => own,
        };
        then(bytes.unwrap_or_default(), place, own)?;
    }
    let label = label.map_or("label", |label| names[label]);
    Ok((label.to_owned(), words))
}

/// The bytes of a group `{bytes, path}`.
fn bytes_of(group: &Row) -> Option<Vec<u8>> {
    let bytes = group.get_column_iter().find(|(name, _)| *name == "bytes");
    match bytes {
        Some((_, Field::Bytes(bytes))) => Some(bytes.data().to_vec()),
        _ => None,
    }
}

/// What the labels of a column are called, as the `datasets` library writes it:
/// `{"info": {"features": {COLUMN: {"names": […], "_type": "ClassLabel"}}}}`.
fn class_names(metadata: &str, column: &str) -> Option<Vec<String>> {
    let value: serde_json::Value = serde_json::from_str(metadata).ok()?;
    let names = value
        .get("info")?
        .get("features")?
        .get(column)?
        .get("names")?;
    let words = names
        .as_array()?
        .iter()
        .map(|name| name.as_str().map(str::to_owned));
    words.collect()
}
