//! Data sets of files: folders that are named by class, or a manifest that names files and their labels.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::archive::{Archive, Entry};
use super::files::{self, Files};
use super::image::{is_image, is_other_image};
use super::labels::{Label, target};
use super::{Array, DataError, Dataset, Elements, Split};
use crate::spec::dataset::{Damaged, DatasetFormat, DatasetSummary, SkippedFile};

/// Most bytes of a manifest.
const MOST_MANIFEST_BYTES: u64 = 256 << 20;

/// The order of the examples follows from this alone.
const ORDER_SEED: u64 = 0x1a6e;

/// Most cells of a manifest, and most columns.
const MOST_CELLS: usize = 20_000_000;
const MOST_COLUMNS: usize = 1_000;

/// With more files than this that can't be decoded it is no slip any more.
const MOST_SKIPPED: usize = 1_000;

/// Columns of a manifest that name files, and those that label them where nothing else is said.
const PATHS: [&str; 5] = ["path", "file_name", "filename", "file", "image"];
const LABELS: [&str; 5] = ["label", "labels", "class", "target", "y"];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Train,
    Validation,
    Test,
}

impl Part {
    fn of(word: &str) -> Option<Self> {
        match word.to_lowercase().as_str() {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" | "dev" => Some(Self::Validation),
            "test" | "testing" => Some(Self::Test),
            _ => None,
        }
    }
}

/// A file that is an example.
struct Example {
    entry: u32,
    part: Part,
    label: Option<Label>,
}

/// Reads a data set of images. What an upload's inspection `known` found is not looked for again.
pub(super) fn read_images(
    archive: Archive,
    column: Option<&str>,
    damaged: Damaged,
    known: Option<&DatasetSummary>,
) -> Result<Dataset, DataError> {
    let (name, mut examples) = examples(&archive, column, known.is_none())?;
    let (shape, skipped) = match known {
        Some(known) => {
            let skipped = known.skipped.clone();
            let gone: HashSet<&str> = skipped.iter().map(|file| file.name.as_str()).collect();
            examples.retain(|example| {
                !gone.contains(archive.entries[example.entry as usize].name.as_str())
            });
            let input = known.inputs.first();
            (
                input.map_or_else(Vec::new, |input| input.shape.clone()),
                skipped,
            )
        }
        None => inspect(&archive, &mut examples, damaged)?,
    };
    // Mixed, always alike: a job with a limit takes the first ones, and archives go class by class.
    examples.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(ORDER_SEED));
    examples.sort_by_key(|example| example.part);
    let labels: Vec<Label> = examples
        .iter()
        .filter_map(|example| example.label.clone())
        .collect();
    let target = match labels.len() {
        0 if column.is_some() && known.is_none() => {
            return Err(DataError::Unreadable(format!(
                "no row of the manifest has a value in the column `{name}`"
            )));
        }
        0 => None,
        count if count == examples.len() => Some(target(&name, &labels)?),
        count => {
            let without = examples.iter().find(|example| example.label.is_none());
            let entry = without.map(|example| &archive.entries[example.entry as usize].name);
            return Err(DataError::Unreadable(format!(
                "{count} of {} images have a label; `{}` has none: put it into a folder named by its class",
                examples.len(),
                entry.map_or("", String::as_str)
            )));
        }
    };
    let count = |part: Part| {
        examples
            .iter()
            .filter(|example| example.part == part)
            .count()
    };
    let (validation, in_test) = (count(Part::Validation), count(Part::Test));
    let trained = examples.len() - in_test;
    let archive = Arc::new(archive);
    let split = |range: std::ops::Range<usize>| {
        let entries = examples[range.clone()].iter().map(|example| example.entry);
        Split {
            inputs: vec![Array {
                name: "image".to_owned(),
                dtype: "uint8".to_owned(),
                shape: shape.iter().map(|&size| size as usize).collect(),
                elements: Elements::Files(Files::new(Arc::clone(&archive), entries.collect())),
            }],
            target: target.as_ref().map(|target| target.array.part(range)),
        }
    };
    Ok(Dataset {
        format: DatasetFormat::Images,
        train: split(0..trained),
        validation,
        test: (in_test > 0).then(|| split(trained..examples.len())),
        classes: target.as_ref().and_then(|target| target.classes.clone()),
        skipped,
    })
}

/// Height, width and channels that all images share, 0 where they differ. Those that can't be decoded are refused, or
/// taken out and told of.
fn inspect(
    archive: &Archive,
    examples: &mut Vec<Example>,
    damaged: Damaged,
) -> Result<(Vec<u64>, Vec<SkippedFile>), DataError> {
    let look =
        |example: &Example| files::inspect(archive, &archive.entries[example.entry as usize]);
    let found: Vec<Result<[u64; 3], String>> = examples.par_iter().map(look).collect();
    let mut skipped = Vec::new();
    let mut shape: Option<[u64; 3]> = None;
    let all = &found;
    for (example, found) in examples.iter().zip(all) {
        let name = &archive.entries[example.entry as usize].name;
        match found {
            Ok(own) => {
                let shape = shape.get_or_insert(*own);
                for (size, own) in shape.iter_mut().zip(own) {
                    *size = if size == own { *size } else { 0 };
                }
            }
            Err(detail) if damaged == Damaged::Skip && skipped.len() < MOST_SKIPPED => {
                skipped.push(SkippedFile {
                    name: name.clone(),
                    detail: detail.clone(),
                });
            }
            Err(detail) => {
                return Err(DataError::Damaged {
                    name: name.clone(),
                    detail: detail.clone(),
                    count: all.iter().filter(|found| found.is_err()).count(),
                    hint: match damaged {
                        Damaged::Refuse => "upload with damaged=skip to leave such files out",
                        Damaged::Skip => "more than 1000 are not left out",
                    },
                });
            }
        }
    }
    let mut found = found.into_iter();
    examples.retain(|_| found.next().is_some_and(|found| found.is_ok()));
    Ok((shape.map_or_else(Vec::new, Vec::from), skipped))
}

/// The archive's images and the name of what labels them.
fn examples(
    archive: &Archive,
    column: Option<&str>,
    is_new: bool,
) -> Result<(String, Vec<Example>), DataError> {
    let is_manifest = |entry: &&Entry| {
        let name = entry.name.to_lowercase();
        [".csv", ".jsonl", ".ndjson"]
            .iter()
            .any(|ending| name.ends_with(ending))
    };
    let manifests: Vec<&Entry> = archive.entries.iter().filter(is_manifest).collect();
    if manifests.is_empty() {
        return match column {
            Some(column) if is_new => Err(DataError::Unreadable(format!(
                "the query parameter `target` names the column `{column}` of a manifest, and the archive has no .csv or \
                 .jsonl file; leave it out"
            ))),
            _ => Ok(("class".to_owned(), by_folder(archive)?)),
        };
    }
    let places: HashMap<String, u32> = (0..)
        .zip(&archive.entries)
        .map(|(index, entry)| (plain(&entry.name), index))
        .collect();
    let (mut label, mut all) = (None, Vec::new());
    for manifest in manifests {
        let found = by_manifest(archive, manifest, &places, column, &mut all)?;
        let name = label.get_or_insert_with(|| found.clone());
        if *name != found {
            return Err(DataError::Unreadable(format!(
                "the manifests name their labels differently: `{name}` and `{found}`"
            )));
        }
    }
    Ok((label.unwrap_or_default(), all))
}

/// A path without `./` and with single slashes.
fn plain(name: &str) -> String {
    let parts: Vec<&str> = name
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    parts.join("/")
}

/// `class/image.png` with `train/`, `val/` and `test/` above, if there; folders above those, which all files share, do
/// not count. Images beside the folders' top have no label.
fn by_folder(archive: &Archive) -> Result<Vec<Example>, DataError> {
    let images = (0..)
        .zip(&archive.entries)
        .filter(|(_, entry)| is_image(&entry.name) || is_other_image(&entry.name));
    let paths: Vec<(u32, Vec<String>)> = images
        .map(|(index, entry)| {
            let name = plain(&entry.name);
            let mut folders: Vec<String> = name.split('/').map(str::to_owned).collect();
            folders.pop();
            (index, folders)
        })
        .collect();
    let splits = |depth: usize| {
        let mut folders = paths
            .iter()
            .filter_map(|(_, folders)| folders.get(depth))
            .peekable();
        folders.peek().is_some() && folders.all(|folder| Part::of(folder).is_some())
    };
    // One folder above the splits, or above the classes, is how archives are often packed.
    let is_shared = |depth: usize| {
        let first = paths.first().and_then(|(_, folders)| folders.get(depth));
        first.is_some()
            && paths.iter().all(|(_, folders)| folders.get(depth) == first)
            && paths.iter().any(|(_, folders)| folders.len() > depth + 1)
    };
    let mut top = 0;
    while !splits(top) && is_shared(top) {
        top += 1;
    }
    let with_splits = splits(top);
    // `train/cat/1.png` beside `extra/cat/1.png`, but not `train/1.png` beside `plane/1.png`.
    let is_split = |folders: &[String]| folders.len() > 1 && Part::of(&folders[0]).is_some();
    let beside = |folders: &[String]| {
        folders
            .first()
            .is_some_and(|first| Part::of(first).is_none())
    };
    let rests = || {
        paths
            .iter()
            .map(|(_, folders)| &folders[top.min(folders.len())..])
    };
    if !with_splits
        && rests().any(is_split)
        && let Some(other) = rests().find(|folders| beside(folders))
    {
        return Err(DataError::Unreadable(format!(
            "the folder `{}` stands beside those of the splits; pack `train`, `val` and `test` alone",
            other[0]
        )));
    }
    Ok(paths
        .into_iter()
        .map(|(entry, folders)| {
            let rest = &folders[top.min(folders.len())..];
            let (part, rest) = match rest.split_first() {
                Some((first, rest)) if with_splits => {
                    (Part::of(first).unwrap_or(Part::Train), rest)
                }
                _ => (Part::Train, rest),
            };
            Example {
                entry,
                part,
                label: rest.first().map(|class| Label::Text(class.clone())),
            }
        })
        .collect())
}

/// Reads a manifest's rows into `all`; the name of the column that labels.
fn by_manifest(
    archive: &Archive,
    manifest: &Entry,
    places: &HashMap<String, u32>,
    column: Option<&str>,
    all: &mut Vec<Example>,
) -> Result<String, DataError> {
    let name = &manifest.name;
    let wrong = |detail: String| DataError::Unreadable(format!("the manifest `{name}` {detail}"));
    let bytes = archive.read(manifest, MOST_MANIFEST_BYTES)?;
    let rows = match name.to_lowercase().ends_with(".csv") {
        true => csv_rows(&bytes).map_err(wrong)?,
        false => json_rows(&bytes).map_err(wrong)?,
    };
    let folder = plain(name)
        .rsplit_once('/')
        .map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let columns: Vec<&str> = rows.columns.iter().map(String::as_str).collect();
    let place_of = |wanted: &str| columns.iter().position(|name| *name == wanted);
    let path = PATHS.iter().find_map(|name| place_of(name)).ok_or_else(|| {
        wrong(format!("has the columns {columns:?}; one named `path` or `file_name` must say which file a row is about"))
    })?;
    let split = place_of("split");
    let label = match column {
        Some(column) => Some(place_of(column).ok_or_else(|| {
            DataError::Unreadable(format!(
                "the manifest `{name}` has no column `{column}` for the target; it has {columns:?}"
            ))
        })?),
        None => {
            let mut others =
                (0..columns.len()).filter(|&place| place != path && Some(place) != split);
            let named = LABELS.iter().find_map(|name| place_of(name));
            match (named, others.next(), others.next()) {
                (Some(named), _, _) => Some(named),
                (None, Some(only), None) => Some(only),
                (None, None, _) => None,
                (None, Some(_), Some(_)) => {
                    return Err(wrong(format!(
                        "has the columns {columns:?}; say with the query parameter `target` which of them is the label"
                    )));
                }
            }
        }
    };
    for (index, row) in rows.rows.into_iter().enumerate() {
        let number = index + 1;
        let Some(Label::Text(file)) = &row[path] else {
            return Err(wrong(format!("names no file in row {number}")));
        };
        let file = plain(file);
        let found = [format!("{folder}{file}"), file.clone()];
        let entry = found.iter().find_map(|file| places.get(file)).copied();
        let entry = entry.ok_or_else(|| {
            wrong(format!(
                "names `{file}` in row {number}, which the archive does not hold"
            ))
        })?;
        let part = match split.and_then(|split| row[split].as_ref()) {
            Some(Label::Text(word)) => Part::of(word).ok_or_else(|| {
                wrong(format!(
                    "has the split `{word}` in row {number}; it is `train`, `val` or `test`"
                ))
            })?,
            Some(_) => return Err(wrong(format!("has no word for the split in row {number}"))),
            None => (folder.split('/').chain(file.split('/')))
                .find_map(Part::of)
                .unwrap_or(Part::Train),
        };
        all.push(Example {
            entry,
            part,
            label: label.and_then(|label| row[label].clone()),
        });
    }
    Ok(label.map_or_else(|| "label".to_owned(), |label| columns[label].to_owned()))
}

/// A manifest's cells, `None` where a row has nothing.
struct Rows {
    columns: Vec<String>,
    rows: Vec<Vec<Option<Label>>>,
}

/// Refuses what would fill the memory.
fn check_size(columns: &[String], rows: usize) -> Result<(), String> {
    let long = columns.iter().any(|name| name.len() > 200);
    match columns.len() > MOST_COLUMNS || long || columns.len().saturating_mul(rows) > MOST_CELLS {
        true => Err(format!(
            "has {} columns and {rows} rows; at most {MOST_COLUMNS} columns, with names of at most 200 bytes, and \
             {MOST_CELLS} cells are read",
            columns.len()
        )),
        false => Ok(()),
    }
}

/// A column `labels` has several, between `;` or `|`.
fn csv_rows(bytes: &[u8]) -> Result<Rows, String> {
    let mut reader = csv::ReaderBuilder::new()
        .trim(csv::Trim::All)
        .from_reader(bytes);
    let columns: Vec<String> = reader
        .headers()
        .map_err(|e| e.to_string())?
        .iter()
        .map(str::to_owned)
        .collect();
    let mut rows = Vec::new();
    check_size(&columns, 1)?;
    for record in reader.records() {
        let record = record.map_err(|error| format!("can't be read: {error}"))?;
        let cell = |(cell, column): (&str, &String)| {
            if PATHS.contains(&column.as_str()) || column == "split" {
                return (!cell.is_empty()).then(|| Label::Text(cell.to_owned()));
            }
            if column == "labels" {
                let words = cell
                    .split([';', '|'])
                    .map(str::trim)
                    .filter(|word| !word.is_empty());
                return Some(Label::Many(words.map(Label::of).collect()));
            }
            (!cell.is_empty()).then(|| Label::of(cell))
        };
        rows.push(record.iter().zip(&columns).map(cell).collect());
        check_size(&columns, rows.len())?;
    }
    Ok(Rows { columns, rows })
}

fn json_rows(bytes: &[u8]) -> Result<Rows, String> {
    use serde_json::Value;
    fn label(value: &Value) -> Result<Option<Label>, String> {
        Ok(match value {
            Value::Null => None,
            Value::Bool(value) => Some(Label::Number(
                f64::from(u8::from(*value)),
                u8::from(*value).to_string(),
            )),
            Value::String(text) => Some(Label::Text(text.clone())),
            Value::Number(number) => {
                let value = number.as_f64().unwrap_or(f64::NAN);
                Some(Label::Number(value, number.to_string()))
            }
            Value::Array(values) => {
                let labels = values.iter().map(label).collect::<Result<Vec<_>, _>>()?;
                Some(Label::Many(labels.into_iter().flatten().collect()))
            }
            Value::Object(_) => return Err("holds an object".to_owned()),
        })
    }
    let mut columns: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    let lines = bytes.split(|&byte| byte == b'\n').enumerate();
    for (number, line) in lines.filter(|(_, line)| !line.trim_ascii().is_empty()) {
        let at = |detail: String| format!("line {} {detail}", number + 1);
        let object: serde_json::Map<String, Value> = serde_json::from_slice(line)
            .map_err(|error| at(format!("is no JSON object: {error}")))?;
        let mut row = vec![None; columns.len()];
        for (name, value) in &object {
            let value = label(value).map_err(|detail| at(format!("{detail} in `{name}`")))?;
            match columns.iter().position(|column| column == name) {
                Some(place) => row[place] = value,
                None => {
                    columns.push(name.clone());
                    row.push(value);
                }
            }
        }
        rows.push(row);
        check_size(&columns, rows.len())?;
    }
    for row in &mut rows {
        row.resize(columns.len(), None);
    }
    Ok(Rows { columns, rows })
}
