//! Tables: CSV with a header, and Parquet.

use std::collections::BTreeSet;
use std::path::Path;

use super::labels::class_names;
use super::{Array, DataError, Dataset, Elements, Split};
use crate::spec::dataset::DatasetFormat;

/// A column while it is read: numbers, or the first text that is none.
#[derive(Default)]
struct Column {
    name: String,
    numbers: Vec<f64>,
    texts: Vec<String>,
}

pub(super) fn read_csv(path: &Path, target: Option<&str>) -> Result<Dataset, DataError> {
    let unreadable = |error: csv::Error| DataError::Unreadable(format!("the CSV file: {error}"));
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_path(path)
        .map_err(unreadable)?;
    let header = reader.headers().map_err(unreadable)?.clone();
    let mut columns: Vec<Column> = header
        .iter()
        .map(|name| Column {
            name: name.to_owned(),
            ..Column::default()
        })
        .collect();
    let target = target_index(&columns, target)?;
    for (row, record) in reader.records().enumerate() {
        let record = record.map_err(unreadable)?;
        for (index, cell) in record.iter().enumerate() {
            // The header is line 1.
            push(&mut columns[index], cell, index == target, row + 2)?;
        }
    }
    finish(DatasetFormat::Csv, columns, target)
}

fn push(column: &mut Column, cell: &str, is_target: bool, line: usize) -> Result<(), DataError> {
    match cell.parse::<f64>() {
        Ok(number) => column.numbers.push(number),
        Err(_) if is_target && !cell.is_empty() => column.numbers.push(f64::NAN),
        Err(_) => {
            return Err(DataError::Unreadable(format!(
                "line {line}, column `{}`: `{cell}` is no number; encode texts as numbers and \
                 fill in what is missing",
                column.name
            )));
        }
    }
    if is_target {
        column.texts.push(cell.to_owned());
    }
    Ok(())
}

pub(super) fn read_parquet(path: &Path, target: Option<&str>) -> Result<Dataset, DataError> {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    let unreadable = |error: parquet::errors::ParquetError| {
        DataError::Unreadable(format!("the Parquet file: {error}"))
    };
    let file = std::fs::File::open(path)?;
    let reader = SerializedFileReader::new(file).map_err(unreadable)?;
    let schema = reader.metadata().file_metadata().schema().clone();
    let mut columns: Vec<Column> = schema
        .get_fields()
        .iter()
        .map(|field| Column {
            name: field.name().to_owned(),
            ..Column::default()
        })
        .collect();
    let target = target_index(&columns, target)?;
    for (row, record) in reader.get_row_iter(None).map_err(unreadable)?.enumerate() {
        let record = record.map_err(unreadable)?;
        for (index, (name, field)) in record.get_column_iter().enumerate() {
            let cell = match field {
                Field::Bool(value) => u8::from(*value).to_string(),
                Field::Group(_) | Field::ListInternal(_) | Field::MapInternal(_) => {
                    return Err(DataError::NotSupported {
                        what: format!("the nested Parquet column `{name}`"),
                    });
                }
                Field::Str(text) => text.clone(),
                Field::Null => String::new(),
                Field::Float(value) => f64::from(*value).to_string(),
                other => other.to_string(),
            };
            push(&mut columns[index], &cell, index == target, row + 1)?;
        }
    }
    finish(DatasetFormat::Parquet, columns, target)
}

fn target_index(columns: &[Column], target: Option<&str>) -> Result<usize, DataError> {
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    if columns.len() < 2 {
        return Err(DataError::Unreadable(format!(
            "the table has the columns {names:?}; it needs inputs and a target, with a header"
        )));
    }
    match target {
        None => Ok(columns.len() - 1),
        Some(wanted) => names
            .iter()
            .position(|name| *name == wanted)
            .ok_or_else(|| {
                DataError::Unreadable(format!(
                    "there is no column `{wanted}` for the target; the columns are {names:?}"
                ))
            }),
    }
}

/// Whole numbers from 0 on; others, prices or temperatures, are values to regress on.
fn could_be_label(number: f64) -> bool {
    number.fract() == 0.0 && (0.0..super::arrays::MOST_CLASSES as f64).contains(&number)
}

/// Columns side by side become the input `x`; a target of texts becomes labels in their order.
fn finish(
    format: DatasetFormat,
    mut columns: Vec<Column>,
    target: usize,
) -> Result<Dataset, DataError> {
    let target = columns.remove(target);
    let rows = target.numbers.len();
    let mut x = Vec::with_capacity(rows * columns.len());
    for row in 0..rows {
        x.extend(columns.iter().map(|column| column.numbers[row] as f32));
    }
    let any_text = target
        .numbers
        .iter()
        .zip(&target.texts)
        .any(|(number, text)| number.is_nan() && !text.eq_ignore_ascii_case("nan"));
    let mut classes = None;
    let (dtype, elements) = if any_text {
        let names: BTreeSet<&str> = target.texts.iter().map(String::as_str).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let label = |text: &String| names.binary_search(&text.as_str()).unwrap_or(0) as i64;
        let labels = target.texts.iter().map(label).collect();
        let owned = names.iter().map(|&name| name.to_owned()).collect();
        classes = Some(class_names(&target.name, owned)?);
        ("int64", Elements::I64(labels))
    } else if target.numbers.iter().all(|&number| could_be_label(number)) {
        let values = target.numbers.iter().map(|&number| number as i64);
        ("int64", Elements::I64(values.collect()))
    } else {
        let values = target.numbers.iter().map(|&number| number as f32);
        ("float64", Elements::F32(values.collect()))
    };
    let train = Split {
        inputs: vec![Array {
            name: "x".to_owned(),
            dtype: "float64".to_owned(),
            shape: vec![columns.len()],
            elements: Elements::F32(x),
        }],
        target: Some(Array {
            name: target.name,
            dtype: dtype.to_owned(),
            shape: vec![],
            elements,
        }),
    };
    Ok(Dataset {
        classes,
        ..Dataset::new(format, train, None)
    })
}
