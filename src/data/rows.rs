//! Rows of tables and manifests, whatever file they stand in.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use parquet::record::Field;

use super::DataError;
use super::archive::{Archive, Entry};
use super::labels::Label;
use crate::spec::dataset::DatasetFormat;

/// Most columns of a table, and most bytes of a column's name.
const MOST_COLUMNS: usize = 100_000;
const LONGEST_COLUMN: usize = 2_000;

/// Most bytes of one line of JSON.
const LONGEST_LINE: u64 = 16 << 20;

/// What stands in a row under a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell<'a> {
    Missing,
    /// Of a file without types: it may mean a number.
    Text(&'a str),
    Number(f64),
    Whole(i64),
    Typed(Label),
}

impl Cell<'_> {
    /// As what labels an example; nothing where there is nothing.
    pub fn label(self) -> Option<Label> {
        match self {
            Self::Missing => None,
            Self::Text(text) if text.trim().is_empty() => None,
            Self::Text(text) => Some(Label::of(text)),
            // A fraction is written as one, even where it is whole.
            Self::Number(number) => Some(Label::Number(number, format!("{number:?}"))),
            Self::Whole(number) => Some(Label::Number(number as f64, number.to_string())),
            Self::Typed(label) => Some(label),
        }
    }

    /// As a number; what it is otherwise.
    pub fn number(&self) -> Result<f64, String> {
        match self {
            Self::Missing => Err(String::new()),
            Self::Text(text) => text.parse().map_err(|_| (*text).to_owned()),
            Self::Number(number) => Ok(*number),
            Self::Whole(number) => Ok(*number as f64),
            Self::Typed(Label::Number(number, _)) => Ok(*number),
            Self::Typed(label) => Err(label.as_text()),
        }
    }

    /// Whether it is a word or a list.
    pub fn is_text(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty() && text.parse::<f64>().is_err(),
            Self::Typed(label) => !matches!(label, Label::Number(..)),
            Self::Missing | Self::Number(_) | Self::Whole(_) => false,
        }
    }
}

/// The format of a table, by its name.
pub(super) fn table_format(name: &str) -> Option<DatasetFormat> {
    let name = name.to_lowercase();
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    match () {
        () if ends(&[".csv"]) => Some(DatasetFormat::Csv),
        () if ends(&[".jsonl", ".ndjson"]) => Some(DatasetFormat::Jsonl),
        () if ends(&[".parquet"]) => Some(DatasetFormat::Parquet),
        () => None,
    }
}

/// Hands each row of a table over: the number of its line (of Parquet the number of the row, from 1 on), the columns, and
/// as many cells. Lines of JSON may bring further columns.
pub(super) fn each_row(
    archive: &Archive,
    entry: &Entry,
    format: DatasetFormat,
    most: u64,
    then: Then,
) -> Result<(), DataError> {
    let wrong =
        |detail: String| DataError::Unreadable(format!("the table `{}`: {detail}", entry.name));
    match format {
        DatasetFormat::Parquet => parquet_rows(archive.file(entry, most)?, &wrong, then),
        DatasetFormat::Jsonl => json_rows(archive.bounded(entry, most)?, &wrong, then),
        _ => csv_rows(archive.bounded(entry, most)?, &wrong, then),
    }
}

type Wrong<'a> = &'a dyn Fn(String) -> DataError;
type Then<'a> = &'a mut dyn FnMut(usize, &[String], Vec<Cell>) -> Result<(), DataError>;

fn check_columns(columns: &[String], wrong: Wrong) -> Result<(), DataError> {
    let long = columns.iter().any(|name| name.len() > LONGEST_COLUMN);
    match columns.len() > MOST_COLUMNS || long {
        false => Ok(()),
        true => Err(wrong(format!(
            "it has {} columns; at most {MOST_COLUMNS}, with names of at most {LONGEST_COLUMN} bytes, are read",
            columns.len()
        ))),
    }
}

/// What speaks against a first line being the names of columns.
pub(super) fn doubtful(columns: &[String]) -> Option<String> {
    let numbers: Option<Vec<f64>> = columns.iter().map(|name| name.parse().ok()).collect();
    // Data frames without names number their columns.
    let counts = |from: usize| {
        let names = columns.iter().enumerate();
        names
            .into_iter()
            .all(|(index, name)| *name == (index + from).to_string())
    };
    if numbers.is_some() && !counts(0) && !counts(1) {
        let first = columns
            .iter()
            .take(3)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        return Some(format!(
            "its first line holds numbers ({first}, …), where the names of the columns should be; put a line with names before it"
        ));
    }
    let [only] = columns else { return None };
    let other = [(';', "semicolons"), ('\t', "tabs"), ('|', "bars")]
        .into_iter()
        .find(|(separator, _)| only.contains(*separator))?;
    Some(format!(
        "its columns are separated by {}; separate them by commas, and write decimal numbers with points",
        other.1
    ))
}

fn csv_rows(reader: impl Read, wrong: Wrong, then: Then) -> Result<(), DataError> {
    let unreadable = |error: csv::Error| match error.kind() {
        csv::ErrorKind::UnequalLengths {
            pos,
            expected_len,
            len,
        } => {
            let line = pos.as_ref().map_or(0, |place| place.line());
            if *expected_len == 1 && *len > 1 {
                return wrong(format!(
                    "line {line} has {len} values between commas, the first line none; separate values by commas, and write decimal \
                     numbers with points"
                ));
            }
            wrong(format!(
                "line {line} has {len} values, the first line {expected_len}; is it a CSV file? Tables as csv, jsonl and parquet, \
                 arrays as npz, and archives of images, recordings and texts are read"
            ))
        }
        _ => wrong(error.to_string()),
    };
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(reader);
    let header = reader.headers().map_err(unreadable)?.iter();
    let columns: Vec<String> = header
        .map(|name| name.trim_start_matches('\u{feff}').to_owned())
        .collect();
    check_columns(&columns, wrong)?;
    let mut record = csv::StringRecord::new();
    // Where lines end in a carriage return and a line feed, the reader is still before the latter.
    let behind = usize::from(reader.position().line() == 1);
    while reader.read_record(&mut record).map_err(unreadable)? {
        let line = record.position().map_or(0, |place| place.line() as usize) + behind;
        let cells = record.iter().map(|text| match text {
            "" => Cell::Missing,
            text => Cell::Text(text),
        });
        then(line, &columns, cells.collect())?;
    }
    Ok(())
}

fn json_rows(reader: impl Read, wrong: Wrong, then: Then) -> Result<(), DataError> {
    let mut reader = BufReader::new(reader);
    let mut columns: Vec<String> = Vec::new();
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let mut limited = (&mut reader).take(LONGEST_LINE);
        if limited.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let at = |detail: String| wrong(format!("line {number} {detail}"));
        if line.len() as u64 == LONGEST_LINE {
            return Err(at(format!("has more than {LONGEST_LINE} bytes")));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&line)
            .map_err(|error| at(format!("is no JSON object: {error}")))?;
        let mut cells = vec![Cell::Missing; columns.len()];
        for (name, value) in object {
            let label =
                Label::of_json(&value).map_err(|detail| at(format!("{detail} in `{name}`")))?;
            let cell = label.map_or(Cell::Missing, Cell::Typed);
            match columns.iter().position(|column| *column == name) {
                Some(place) => cells[place] = cell,
                None => {
                    columns.push(name);
                    check_columns(&columns, wrong)?;
                    cells.push(cell);
                }
            }
        }
        then(number, &columns, cells)?;
    }
    Ok(())
}

fn parquet_rows(file: File, wrong: Wrong, then: Then) -> Result<(), DataError> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    let unreadable = |error: parquet::errors::ParquetError| wrong(error.to_string());
    let reader = SerializedFileReader::new(file).map_err(unreadable)?;
    let schema = reader.metadata().file_metadata().schema().clone();
    let fields = schema.get_fields().iter();
    let columns: Vec<String> = fields.map(|field| field.name().to_owned()).collect();
    check_columns(&columns, wrong)?;
    for (row, record) in reader.get_row_iter(None).map_err(unreadable)?.enumerate() {
        let record = record.map_err(unreadable)?;
        let cells = record
            .get_column_iter()
            .map(|(name, field)| typed(name, field));
        then(row + 1, &columns, cells.collect::<Result<_, _>>()?)?;
    }
    Ok(())
}

/// What a Parquet column has in a row.
pub(super) fn typed(name: &str, field: &Field) -> Result<Cell<'static>, DataError> {
    Ok(match field {
        Field::Null => Cell::Missing,
        Field::Bool(value) => Cell::Whole((*value).into()),
        Field::Byte(value) => Cell::Whole((*value).into()),
        Field::Short(value) => Cell::Whole((*value).into()),
        Field::Int(value) => Cell::Whole((*value).into()),
        Field::UByte(value) => Cell::Whole((*value).into()),
        Field::UShort(value) => Cell::Whole((*value).into()),
        Field::UInt(value) => Cell::Whole((*value).into()),
        Field::Float(value) => Cell::Number(f64::from(*value)),
        Field::Double(value) => Cell::Number(*value),
        Field::Long(value) => Cell::Whole(*value),
        Field::Str(text) => Cell::Typed(Label::Text(text.clone())),
        Field::ListInternal(list) => {
            let elements = list.elements().iter();
            let label = |element| {
                let label = typed(name, element)?.label();
                label.ok_or_else(|| {
                    DataError::Unreadable(format!("the column `{name}` holds null in a list"))
                })
            };
            Cell::Typed(Label::Many(elements.map(label).collect::<Result<_, _>>()?))
        }
        Field::Group(_) | Field::MapInternal(_) | Field::Bytes(_) => {
            return Err(DataError::NotSupported {
                what: format!("the nested Parquet column `{name}`"),
            });
        }
        // Decimals, dates: numbers where they are written as such.
        other => Cell::Typed(Label::of(&other.to_string())),
    })
}
