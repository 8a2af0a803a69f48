//! Data sets of files: folders that are named by class, or a manifest that names files and their labels.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rayon::prelude::*;

use super::archive::{Archive, Entry};
use super::audio::{is_audio, is_other_audio};
use super::embedded::{Embedded, Unpacked};
use super::files::{self, Files};
use super::image::{is_image, is_other_image};
use super::labels::{Label, target};
use super::parts::Part;
use super::rows::{Cell, each_row, table_format};
use super::texts::{MOST_TEXT_BYTES, Texts, read_by};
use super::tokenizer::Text;
use super::{DataError, Dataset, Reading, Skipped, Split};
use crate::spec::dataset::{DatasetFormat, Media};

/// The order of the examples follows from this alone.
pub(super) const ORDER_SEED: u64 = 0x1a6e;

/// Most bytes of a manifest.
const MOST_MANIFEST_BYTES: u64 = 256 << 20;

/// Most cells of a manifest.
const MOST_CELLS: usize = 20_000_000;

/// What the target is called that the names of folders are.
const FOLDERS: &str = "class";

/// Columns of a manifest that name files, and those that label them where nothing else is said.
const PATHS: [&str; 5] = ["path", "file_name", "filename", "file", "image"];
const LABELS: [&str; 5] = ["label", "labels", "class", "target", "y"];

/// A file that is an example.
struct Example {
    entry: u32,
    part: Part,
    label: Option<Label>,
}

/// Text files that lie beside tokenizers and data sets, and are no examples.
const BESIDE: [&str; 5] = [
    "vocab.txt",
    "merges.txt",
    "readme.txt",
    "license.txt",
    "requirements.txt",
];

/// Whether a file is an example by its name.
pub(super) fn is_example(media: Media, name: &str) -> bool {
    match media {
        Media::Image => is_image(name),
        Media::Text => {
            let name = name.to_lowercase();
            let file = name.rsplit('/').next().unwrap_or_default();
            file.ends_with(".txt") && !BESIDE.contains(&file)
        }
        Media::Audio => is_audio(name),
    }
}

/// Whether a file would be an example if its kind were read.
fn is_other(media: Media, name: &str) -> bool {
    match media {
        Media::Image => is_other_image(name),
        Media::Text => false,
        Media::Audio => is_other_audio(name),
    }
}

/// Reads a data set of files. What an upload's inspection found is not looked for again where that costs much.
pub(super) fn read_files(
    archive: Archive,
    media: Media,
    how: &Reading,
    most: u64,
) -> Result<Dataset, DataError> {
    let (name, examples) = examples(&archive, media, how)?;
    read_examples(archive, media, name, examples, how, most)
}

/// Reads a data set of Parquet files that hold images or audio.
pub(super) fn read_embedded(
    unpacked: Unpacked,
    how: &Reading,
    most: u64,
) -> Result<Dataset, DataError> {
    let examples = unpacked
        .examples
        .into_iter()
        .map(|Embedded { entry, part, label }| Example { entry, part, label });
    read_examples(
        unpacked.archive,
        unpacked.media,
        unpacked.label,
        examples.collect(),
        &Reading {
            classes: how.order().or(unpacked.classes.as_deref()),
            ..*how
        },
        most,
    )
}

fn read_examples(
    archive: Archive,
    media: Media,
    name: String,
    mut examples: Vec<Example>,
    how: &Reading,
    most: u64,
) -> Result<Dataset, DataError> {
    let mut skipped = Skipped::new(how);
    let mut shape = Vec::new();
    let mut texts = Vec::new();
    let mut audio = None;
    match (media, how.known) {
        (Media::Image | Media::Audio, Some(known)) => {
            for file in &known.skipped {
                skipped.add(file.name.clone(), file.detail.clone());
            }
            let gone: HashSet<&str> = known
                .skipped
                .iter()
                .map(|file| file.name.as_str())
                .collect();
            let name = |example: &Example| archive.entries[example.entry as usize].name.as_str();
            examples.retain(|example| !gone.contains(name(example)));
            if let Some(input) = known.inputs.first() {
                shape.clone_from(&input.shape);
                audio.clone_from(&input.audio);
            }
        }
        (Media::Audio, None) => {
            let found = usable(&archive, &mut examples, &mut skipped, files::inspect_audio);
            audio = Some(files::about_all(&found));
        }
        (Media::Image, None) => {
            let shapes = usable(&archive, &mut examples, &mut skipped, files::inspect);
            shape = common_shape(&shapes);
        }
        (Media::Text, _) => {
            let claimed = |example: &Example| archive.entries[example.entry as usize].size;
            if examples.iter().map(claimed).sum::<u64>() > most {
                return Err(DataError::TooLarge {
                    name: "the texts".to_owned(),
                    limit: most,
                });
            }
            texts = usable(&archive, &mut examples, &mut skipped, text_of);
        }
    }
    let skipped = skipped.finish()?;
    // Mixed, always alike: a job with a limit takes the first ones, and archives go class by class.
    let mut order: Vec<usize> = (0..examples.len()).collect();
    order.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(ORDER_SEED));
    order.sort_by_key(|&place| examples[place].part);
    let labels: Vec<Label> = order
        .iter()
        .filter_map(|&place| examples[place].label.clone())
        .collect();
    let target = match labels.len() {
        0 if how.target.is_some() && how.known.is_none() => {
            return Err(DataError::Unreadable(format!(
                "no file has a value of `{name}`, neither by a manifest nor by its folder"
            )));
        }
        0 => None,
        count if count == examples.len() => Some(target(&name, &labels, how.order())?),
        count => {
            let without = examples.iter().find(|example| example.label.is_none());
            let entry = without.map(|example| &archive.entries[example.entry as usize].name);
            return Err(DataError::Unreadable(format!(
                "{count} of {} files have a label; `{}` has none: put it into a folder named by its class",
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
    let (format, input) = match media {
        Media::Image | Media::Audio => {
            let entries = order.iter().map(|&place| examples[place].entry).collect();
            let files = Files::new(Arc::new(archive), entries);
            match audio {
                Some(about) => (DatasetFormat::Audio, files.sounds(about)),
                None => (DatasetFormat::Images, files.images(&shape)),
            }
        }
        Media::Text => {
            let known = how.known.and_then(|known| known.inputs.first());
            let all: Vec<Text> = order.iter().map(|&place| texts[place].clone()).collect();
            let (tokenizers, tokens) = read_by(&archive, &all, known)?;
            let texts = Texts::new(all, tokenizers, tokens);
            (DatasetFormat::Texts, texts.input("text"))
        }
    };
    let split = |range: std::ops::Range<usize>| Split {
        inputs: vec![input.part(range.clone())],
        target: target.as_ref().map(|target| target.array.part(range)),
    };
    Ok(Dataset {
        format,
        train: split(0..trained),
        validation,
        test: (in_test > 0).then(|| split(trained..examples.len())),
        classes: target.as_ref().and_then(|target| target.classes.clone()),
        numbered: false,
        excluded: Vec::new(),
        skipped,
    })
}

/// What `look` finds in the file of each example. Those that can't be used are taken out and told of.
fn usable<T: Send>(
    archive: &Archive,
    examples: &mut Vec<Example>,
    skipped: &mut Skipped,
    look: fn(&Archive, &Entry) -> Result<T, String>,
) -> Vec<T> {
    let entry = |example: &Example| &archive.entries[example.entry as usize];
    let found: Vec<Result<T, String>> = examples
        .par_iter()
        .map(|example| look(archive, entry(example)))
        .collect();
    let mut all = Vec::with_capacity(found.len());
    let mut found = found.into_iter();
    examples.retain(|example| match found.next() {
        Some(Ok(found)) => {
            all.push(found);
            true
        }
        Some(Err(detail)) => {
            skipped.add(entry(example).name.clone(), detail);
            false
        }
        None => false,
    });
    all
}

/// Height, width and channels that all images share, 0 where they differ.
fn common_shape(shapes: &[[u64; 3]]) -> Vec<u64> {
    let Some(first) = shapes.first() else {
        return Vec::new();
    };
    let axis = |axis: usize| match shapes.iter().all(|shape| shape[axis] == first[axis]) {
        true => first[axis],
        false => 0,
    };
    (0..3).map(axis).collect()
}

/// The text of a file, or why it can't be used.
fn text_of(archive: &Archive, entry: &Entry) -> Result<Text, String> {
    let bytes = archive
        .read(entry, MOST_TEXT_BYTES as u64)
        .map_err(|error| match error {
            DataError::Unreadable(detail) => detail,
            other => other.to_string(),
        })?;
    let text = String::from_utf8(bytes).map_err(|_| "it is no UTF-8".to_owned())?;
    let text = Text::Plain(text.trim_start_matches('\u{feff}').to_owned());
    match text.is_empty() {
        true => Err("it has no text".to_owned()),
        false => Ok(text),
    }
}

/// The archive's examples and the name of what labels them.
fn examples(
    archive: &Archive,
    media: Media,
    how: &Reading,
) -> Result<(String, Vec<Example>), DataError> {
    let column = how.target;
    let is_manifest = |entry: &&Entry| table_format(&entry.name).is_some();
    let manifests: Vec<&Entry> = archive.entries.iter().filter(is_manifest).collect();
    if manifests.is_empty() {
        return match column {
            Some(column) if how.known.is_none() && column != FOLDERS => {
                Err(DataError::Unreadable(format!(
                    "the query parameter `target` names the column `{column}` of a manifest, and the archive has no .csv or \
                 .jsonl file; leave it out"
                )))
            }
            _ => Ok((FOLDERS.to_owned(), by_folder(archive, media)?)),
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
/// not count. Files beside the folders' top have no label.
fn by_folder(archive: &Archive, media: Media) -> Result<Vec<Example>, DataError> {
    let files = (0..)
        .zip(&archive.entries)
        .filter(|(_, entry)| is_example(media, &entry.name) || is_other(media, &entry.name));
    let paths: Vec<(u32, Vec<String>)> = files
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
    let rows = Rows::read(archive, manifest)?;
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
        let (Some(Label::Text(file)) | Some(Label::Number(_, file))) = &row[path] else {
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

impl Rows {
    /// A column `labels` of a CSV file has several in a cell, between `;` or `|`.
    fn read(archive: &Archive, manifest: &Entry) -> Result<Self, DataError> {
        let format = table_format(&manifest.name).unwrap_or(DatasetFormat::Csv);
        let (mut columns, mut rows) = (Vec::new(), Vec::new());
        each_row(
            archive,
            manifest,
            format,
            MOST_MANIFEST_BYTES,
            &mut |_, names, cells| {
                columns = names.to_vec();
                let cell = |(cell, name): (Cell, &String)| match cell {
                    Cell::Missing if name == "labels" && format == DatasetFormat::Csv => {
                        Some(Label::Many(Vec::new()))
                    }
                    Cell::Text(text) if name == "labels" => Some(Label::several(text)),
                    cell => cell.label(),
                };
                rows.push(cells.into_iter().zip(names).map(cell).collect::<Vec<_>>());
                match names.len().saturating_mul(rows.len()) > MOST_CELLS {
                    true => Err(DataError::Unreadable(format!(
                        "the manifest `{}` has more than {MOST_CELLS} cells",
                        manifest.name
                    ))),
                    false => Ok(()),
                }
            },
        )?;
        for row in &mut rows {
            row.resize(columns.len(), None);
        }
        Ok(Self { columns, rows })
    }
}
