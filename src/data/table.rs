//! Tables: rows of numbers, or texts with what labels them.

use rand::SeedableRng;
use rand::seq::SliceRandom;

use super::archive::{Archive, Entry};
use super::folders::ORDER_SEED;
use super::labels::{Label, target, word_labels};
use super::parts::Part;
use super::read::Reading;
use super::rows::{Cell, doubtful, each_row, table_format};
use super::texts::{MOST_TEXT_BYTES, Texts, read_by};
use super::tokenizer::Text;
use super::{Array, DataError, Dataset, Elements, Skipped, Split};
use crate::spec::dataset::{DatasetFormat, Media};

/// Columns that hold texts where nothing else is said.
const TEXTS: [&str; 9] = [
    "text", "sentence", "content", "document", "review", "comment", "message", "tokens", "words",
];

/// Columns that label texts where nothing else is said, and those that don't.
const LABELS: [&str; 11] = [
    "label", "labels", "class", "target", "y", "category", "language", "tags", "ner_tags",
    "pos_tags", "score",
];
const NUMBERING: [&str; 6] = ["id", "idx", "index", "guid", "uid", "uuid"];

/// What tables have in the place of a number that is not known.
const MISSING: [&str; 6] = ["na", "n/a", "null", "none", "?", "-"];

/// Most words of a text that comes in words.
const MOST_WORDS: usize = 65_536;

/// Memory of a text or a label beside its letters.
const OVERHEAD: u64 = 32;

/// What the columns of a table are.
struct Columns {
    names: Vec<String>,
    /// One, or two that belong together; none in a table of numbers.
    texts: Vec<usize>,
    /// Inputs of a table of numbers, in their order.
    numbers: Vec<usize>,
    target: Option<usize>,
    split: Option<usize>,
}

/// The examples of one split.
#[derive(Default)]
struct Rows {
    count: usize,
    numbers: Vec<f32>,
    texts: Vec<Text>,
    labels: Vec<Label>,
}

/// Reads a data set of tables: one, or one for each split by their names.
pub(super) fn read_tables(
    archive: &Archive,
    format: Option<DatasetFormat>,
    how: &Reading,
    most: u64,
) -> Result<Dataset, DataError> {
    let only = archive.entries.len() == 1;
    // Of a single file the bytes tell, or the request.
    let said = format.filter(|_| only);
    let of = |entry: &Entry| said.or(table_format(&entry.name));
    let tables: Vec<(&Entry, DatasetFormat)> = archive
        .entries
        .iter()
        .filter_map(|entry| Some((entry, of(entry)?)))
        .collect();
    let Some(&(_, format)) = tables.first() else {
        return Err(DataError::Unreadable(
            "the upload holds no table: csv, jsonl and parquet files are read".to_owned(),
        ));
    };
    let mut parts: [Rows; 3] = std::array::from_fn(|_| Rows::default());
    let mut known: Option<Columns> = None;
    let mut skipped = Skipped::new(how);
    let mut held = 0;
    let several = tables.len() > 1;
    for (entry, own) in tables {
        if own != format {
            return Err(DataError::Unreadable(format!(
                "the upload holds tables of several formats, `{}` is another one; upload one data set at a time",
                entry.name
            )));
        }
        // The name of the only table says nothing: people call it what they like.
        let part = Part::of_table(&entry.name).filter(|_| several);
        let part = part.unwrap_or(Part::Train);
        let mut seen: Option<Columns> = None;
        each_row(archive, entry, format, most, &mut |line, names, cells| {
            let columns = match &mut seen {
                Some(columns) => columns,
                none => none.insert(Columns::of(names, &cells, format, how)?),
            };
            columns.check_late(line, names)?;
            held += columns.take(&entry.name, line, cells, part, &mut parts, &mut skipped)?;
            match held > most {
                true => Err(DataError::TooLarge {
                    name: entry.name.clone(),
                    limit: most,
                }),
                false => Ok(()),
            }
        })?;
        let Some(columns) = seen else {
            return Err(DataError::Unreadable(format!(
                "the table `{}` has no rows",
                entry.name
            )));
        };
        match &known {
            Some(known) => known.check_same(&columns, &entry.name)?,
            None => known = Some(columns),
        }
    }
    let skipped = skipped.finish()?;
    let columns = known.expect("there is a table");
    let [train, validation, test] = parts;
    let dataset = columns.dataset(archive, format, [train, validation, test], how)?;
    Ok(Dataset { skipped, ..dataset })
}

impl Columns {
    /// By the names, the first row, and what the request says.
    fn of(
        names: &[String],
        first: &[Cell],
        format: DatasetFormat,
        how: &Reading,
    ) -> Result<Self, DataError> {
        let wrong = |detail: String| {
            DataError::Unreadable(format!("the table has the columns {names:?}; {detail}"))
        };
        let place = |wanted: &str| names.iter().position(|name| name == wanted);
        let named = |wanted: &str, what: &str| {
            place(wanted).ok_or_else(|| {
                DataError::Unreadable(format!(
                    "there is no column `{wanted}` for the {what}; the columns are {names:?}"
                ))
            })
        };
        let target = how.target.map(|name| named(name, "target")).transpose()?;
        // Who names a column knows that these are names.
        let doubt = doubtful(names)
            .filter(|_| format == DatasetFormat::Csv && target.is_none() && how.text.is_none());
        if let Some(doubt) = doubt {
            return Err(wrong(doubt));
        }
        let texts: Vec<usize> = match how.text {
            Some(text) => {
                let columns = text.split(',').map(|name| named(name.trim(), "text"));
                columns.collect::<Result<_, _>>()?
            }
            None => {
                let known = TEXTS.iter().find_map(|name| {
                    place(name).filter(|&at| Some(at) != target && first[at].is_text())
                });
                known.into_iter().collect()
            }
        };
        if texts.len() > 2 {
            return Err(wrong(
                "the query parameter `text` names one column, or two that belong together"
                    .to_owned(),
            ));
        }
        if let (Some(at), true) = (target, target.is_some_and(|at| texts.contains(&at))) {
            return Err(wrong(format!(
                "`{}` can't be both text and target",
                names[at]
            )));
        }
        let is_split = |at: &usize| match &first[*at] {
            Cell::Text(word) => Part::of(word).is_some(),
            Cell::Typed(Label::Text(word)) => Part::of(word).is_some(),
            _ => false,
        };
        let left_out = how.exclude.iter().map(|name| named(name, "exclusion"));
        let left_out: Vec<usize> = left_out.collect::<Result<_, _>>()?;
        let used = texts.iter().chain(&target).find(|at| left_out.contains(at));
        if let Some(&at) = used {
            return Err(wrong(format!(
                "`{}` can't be both used and left out",
                names[at]
            )));
        }
        let split = place("split").filter(|at| Some(*at) != target && is_split(at));
        let others: Vec<usize> = (0..names.len())
            .filter(|at| !texts.contains(at) && Some(*at) != split && Some(*at) != target)
            .filter(|at| !left_out.contains(at))
            .collect();
        let labelling = || {
            LABELS
                .iter()
                .find_map(|name| place(name).filter(|at| others.contains(at)))
        };
        let target = match (target, texts.is_empty()) {
            (Some(target), _) => Some(target),
            (None, false) => {
                let is_other =
                    |at: &&usize| !NUMBERING.contains(&names[**at].to_lowercase().as_str());
                let left: Vec<usize> = others.iter().filter(is_other).copied().collect();
                match (labelling(), left.as_slice()) {
                    (Some(target), _) | (None, &[target]) => Some(target),
                    (None, []) => None,
                    (None, _) => {
                        return Err(wrong(
                            "say with the query parameter `target` which of them labels the texts"
                                .to_owned(),
                        ));
                    }
                }
            }
            (None, true) if names.len() < 2 => {
                return Err(wrong(
                    "it needs inputs and a target, with a header".to_owned(),
                ));
            }
            (None, true) => match format {
                // The keys of an object have no order.
                DatasetFormat::Jsonl => Some(labelling().ok_or_else(|| {
                    wrong(
                        "say with the query parameter `target` which of them is the label"
                            .to_owned(),
                    )
                })?),
                _ => others.last().copied(),
            },
        };
        let is_input = |at: &usize| texts.is_empty() && Some(*at) != target;
        let numbers: Vec<usize> = others.into_iter().filter(is_input).collect();
        if texts.is_empty() && numbers.is_empty() {
            return Err(wrong(
                "it needs inputs and a target, with a header".to_owned(),
            ));
        }
        Ok(Self {
            names: names.to_vec(),
            texts,
            numbers,
            target,
            split,
        })
    }

    fn named(&self, places: &[usize]) -> Vec<&str> {
        places.iter().map(|&at| self.names[at].as_str()).collect()
    }

    /// The tables of a data set have the same columns, as far as they are used.
    fn check_same(&self, other: &Self, name: &str) -> Result<(), DataError> {
        let used = |columns: &Self| {
            let of = |places: &[usize]| columns.named(places).join(", ");
            let target: Vec<usize> = columns.target.into_iter().collect();
            [of(&columns.texts), of(&columns.numbers), of(&target)]
        };
        match used(self) == used(other) {
            true => Ok(()),
            false => Err(DataError::Unreadable(format!(
                "the table `{name}` has the columns {:?}, another one {:?}; the tables of a data set have the same",
                other.names, self.names
            ))),
        }
    }

    /// A line of JSON may bring a column that the first one lacks, but no labels: the lines before it have none.
    fn check_late(&self, line: usize, names: &[String]) -> Result<(), DataError> {
        let late = names.get(self.names.len()..).unwrap_or_default();
        let labels = |name: &&String| LABELS.contains(&name.as_str());
        match late.iter().find(labels).filter(|_| self.target.is_none()) {
            None => Ok(()),
            Some(name) => Err(DataError::Unreadable(format!(
                "line {line} has `{name}`, which the first line lacks; label all lines, or none"
            ))),
        }
    }

    /// Takes a row up; the bytes that it takes in memory.
    fn take(
        &self,
        table: &str,
        line: usize,
        mut cells: Vec<Cell>,
        part: Part,
        parts: &mut [Rows; 3],
        skipped: &mut Skipped,
    ) -> Result<u64, DataError> {
        let place = || format!("{table}:{line}");
        let wrong = |detail: String| DataError::Unreadable(format!("line {line}{detail}"));
        if cells.len() > self.names.len() && self.texts.is_empty() {
            return Err(wrong(
                " has a column that the lines before it lack".to_owned(),
            ));
        }
        cells.resize(cells.len().max(self.names.len()), Cell::Missing);
        let part = match self.split.map(|at| &cells[at]) {
            None => part,
            Some(cell) => {
                let word = match cell {
                    Cell::Text(word) => word,
                    Cell::Typed(Label::Text(word)) => word.as_str(),
                    _ => "",
                };
                Part::of(word).ok_or_else(|| {
                    wrong(format!(
                        " has the split `{word}`; it is `train`, `val` or `test`"
                    ))
                })?
            }
        };
        let text = match self.text(&mut cells) {
            Ok(text) => text,
            Err(detail) => {
                skipped.add(place(), detail);
                return Ok(OVERHEAD);
            }
        };
        let first = parts.iter().find_map(|rows| rows.texts.first());
        if let (Some(first), Some(text)) = (first, &text)
            && std::mem::discriminant(first) != std::mem::discriminant(text)
        {
            return Err(wrong(
                " differs from those before it: texts are all plain, or all lists of words"
                    .to_owned(),
            ));
        }
        let rows = &mut parts[part as usize];
        let mut numbers = Vec::with_capacity(self.numbers.len());
        for &at in &self.numbers {
            let name = &self.names[at];
            let missing = match cells[at].number() {
                Ok(number) if number.is_finite() => {
                    numbers.push(number as f32);
                    continue;
                }
                Ok(number) => format!("holds {number}"),
                Err(cell) if cell.is_empty() => "is empty".to_owned(),
                Err(cell) if MISSING.contains(&cell.to_lowercase().as_str()) => {
                    format!("holds `{cell}`")
                }
                Err(cell) => {
                    // A file without names of its columns has a number, or a sentence, in their place.
                    let is_data =
                        |name: &String| name.parse::<f64>().is_ok() || name.split(' ').count() > 3;
                    let headless = match self.names.iter().any(is_data) {
                        true => {
                            ". The first line, which names the columns, looks like a row of data: put their names in front of it"
                        }
                        false => "",
                    };
                    return Err(wrong(format!(
                        ", column `{name}`: `{cell}` is no number{headless}. Of a table every column but the target is an input, and a \
                         number: leave out an id or a name by `exclude` (`--exclude`, “Columns to leave out”), or make numbers of \
                         words that are an input. If the column is what is to be predicted, say so by `target` (`--target`, \
                         “Target”); if it holds texts that are read, by `text` (`--text`, “Text column”). A value that is not known is \
                         an empty cell, NA, NaN, null or ?, and such rows can be left out"
                    )));
                }
            };
            skipped.add(place(), format!("its column `{name}` {missing}"));
            return Ok(OVERHEAD);
        }
        let mut bytes = 4 * self.numbers.len() as u64;
        if let Some(at) = self.target {
            let cell = std::mem::replace(&mut cells[at], Cell::Missing);
            let Some(label) = self.label(cell, at) else {
                let name = &self.names[at];
                skipped.add(
                    place(),
                    format!("its column `{name}`, the target, is empty"),
                );
                return Ok(OVERHEAD);
            };
            if let (Some(Text::Words(words)), Label::Many(labels)) = (&text, &label)
                && words.len() != labels.len()
            {
                return Err(wrong(format!(
                    " has {} words and {} labels for them",
                    words.len(),
                    labels.len()
                )));
            }
            bytes += label.bytes() as u64;
            rows.labels.push(label);
        }
        rows.numbers.extend(numbers);
        if let Some(text) = text {
            bytes += text.bytes() as u64 + OVERHEAD;
            rows.texts.push(text);
        }
        rows.count += 1;
        Ok(bytes)
    }

    /// The text of a row, if its table holds texts; or why it can't be used.
    fn text(&self, cells: &mut [Cell]) -> Result<Option<Text>, String> {
        if self.texts.is_empty() {
            return Ok(None);
        }
        let mut of = |at: usize| match std::mem::replace(&mut cells[at], Cell::Missing) {
            Cell::Missing => Text::Plain(String::new()),
            Cell::Text(text) => Text::Plain(text.to_owned()),
            Cell::Number(number) => Text::Plain(number.to_string()),
            Cell::Whole(number) => Text::Plain(number.to_string()),
            Cell::Typed(Label::Many(words)) => {
                Text::Words(words.iter().map(Label::as_text).collect())
            }
            Cell::Typed(label) => Text::Plain(label.as_text()),
        };
        let text = match self.texts[..] {
            [first, second] => match (of(first), of(second)) {
                (Text::Plain(first), Text::Plain(second)) => Text::Pair(first, second),
                _ => return Err("it holds lists of words in a pair of texts".to_owned()),
            },
            _ => of(self.texts[0]),
        };
        if let Text::Words(words) = &text
            && words.len() > MOST_WORDS
        {
            let count = words.len();
            return Err(format!(
                "it has {count} words; at most {MOST_WORDS} are read"
            ));
        }
        match text.len() {
            _ if text.is_empty() => Err("it has no text".to_owned()),
            bytes if bytes > MOST_TEXT_BYTES => Err(format!(
                "its text has {bytes} bytes; at most {MOST_TEXT_BYTES} are read"
            )),
            _ => Ok(Some(text)),
        }
    }

    /// A column `labels` beside texts has several in a cell, between `;` or `|`.
    fn label(&self, cell: Cell, at: usize) -> Option<Label> {
        let several = !self.texts.is_empty() && self.names[at] == "labels";
        match cell {
            Cell::Text(text) if several => Some(Label::several(text)),
            Cell::Missing if several => Some(Label::Many(Vec::new())),
            cell => cell.label(),
        }
    }

    fn dataset(
        self,
        archive: &Archive,
        format: DatasetFormat,
        parts: [Rows; 3],
        how: &Reading,
    ) -> Result<Dataset, DataError> {
        let counts = parts.each_ref().map(|rows| rows.count);
        let trained = counts[0] + counts[1];
        let all = Rows::joined(parts.map(Rows::mixed));
        let is_words = matches!(all.texts.first(), Some(Text::Words(_)));
        let target = match self.target {
            None => None,
            Some(at) => Some(match is_words {
                true => word_labels(&self.names[at], &all.labels, how.order())?,
                false => target(&self.names[at], &all.labels, how.order())?,
            }),
        };
        let input = match self.texts.is_empty() {
            true => Array {
                name: "x".to_owned(),
                dtype: "float64".to_owned(),
                shape: vec![self.numbers.len()],
                elements: Elements::F32(all.numbers),
            },
            false => {
                let name = self.named(&self.texts).join(",");
                let known = how.known.and_then(|known| known.inputs.first());
                let known = known.filter(|input| input.media == Some(Media::Text));
                let (tokenizers, tokens) = read_by(archive, &all.texts, known)?;
                Texts::new(all.texts, tokenizers, tokens).input(&name)
            }
        };
        let split = |range: std::ops::Range<usize>| Split {
            inputs: vec![input.part(range.clone())],
            target: target.as_ref().map(|target| target.array.part(range)),
        };
        let test = (counts[2] > 0).then(|| split(trained..trained + counts[2]));
        Ok(Dataset {
            validation: counts[1],
            classes: target.as_ref().and_then(|target| target.classes.clone()),
            ..Dataset::new(format, split(0..trained), test)
        })
    }
}

impl Rows {
    /// Texts in another order, always the same: a job with a limit takes the first ones, and tables are often sorted by
    /// their labels.
    fn mixed(self) -> Self {
        if self.texts.is_empty() {
            return self;
        }
        let mut order: Vec<usize> = (0..self.texts.len()).collect();
        order.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(ORDER_SEED));
        fn moved<T>(all: Vec<T>, order: &[usize]) -> Vec<T> {
            let mut all: Vec<Option<T>> = all.into_iter().map(Some).collect();
            let taken = order.iter().filter_map(|&place| all.get_mut(place)?.take());
            taken.collect()
        }
        Self {
            texts: moved(self.texts, &order),
            labels: moved(self.labels, &order),
            ..self
        }
    }

    /// The splits, one behind the other.
    fn joined(parts: [Self; 3]) -> Self {
        let mut all = Self::default();
        for rows in parts {
            all.count += rows.count;
            all.numbers.extend(rows.numbers);
            all.texts.extend(rows.texts);
            all.labels.extend(rows.labels);
        }
        all
    }
}
