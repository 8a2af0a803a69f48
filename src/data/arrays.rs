//! A data set as it was read, in the types in which it is stored.

use std::borrow::Cow;
use std::ops::Range;

use super::DataError;
use super::files::Files;
use super::labels::class_names;
use super::spill::Spilled;
use super::texts::Texts;
use crate::spec::dataset::{
    ArrayInfo, DatasetFormat, DatasetSummary, Media, SkippedFile, Splits, TargetInfo,
};

/// Highest number of classes that labels may mean; a larger one is a wrong column.
pub(super) const MOST_CLASSES: i64 = 1_000_000;

/// Classes whose examples are counted, at most.
const MOST_COUNTED: u64 = 1_000;

/// A word's or a token's label that is none, as PyTorch has it.
pub(super) const NO_LABEL: i64 = -100;

/// The numbers of an array, example after example.
#[derive(Debug, Clone, PartialEq)]
pub enum Elements {
    U8(Vec<u8>),
    F32(Vec<f32>),
    I64(Vec<i64>),
    /// Too many for the memory.
    Spilled(Spilled),
    /// Not decoded yet, one for each example.
    Files(Files),
    /// Not made tokens yet, likewise.
    Texts(Texts),
    /// As many numbers for an example as it needs; `ends` has, by example, where they end.
    Ragged {
        values: Vec<i64>,
        ends: Vec<usize>,
    },
}

impl Elements {
    pub fn len(&self) -> usize {
        match self {
            Self::U8(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::Spilled(spilled) => spilled.len(),
            Self::Files(files) => files.len(),
            Self::Texts(texts) => texts.len(),
            Self::Ragged { values, .. } => values.len(),
        }
    }

    /// Bytes that the elements take, in memory or in a file of their own.
    pub fn bytes(&self) -> u64 {
        let width = match self {
            Self::U8(_) => 1,
            Self::F32(_) => 4,
            Self::I64(_) | Self::Ragged { .. } => 8,
            Self::Spilled(spilled) => return spilled.bytes(),
            Self::Files(_) | Self::Texts(_) => 0,
        };
        self.len() as u64 * width
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get_f32(&self, index: usize) -> f32 {
        match self {
            Self::U8(values) => values[index].into(),
            Self::F32(values) => values[index],
            Self::I64(values) | Self::Ragged { values, .. } => values[index] as f32,
            Self::Spilled(spilled) => spilled.get_f64(index) as f32,
            Self::Files(_) | Self::Texts(_) => {
                unreachable!("files and texts are made numbers before these are read")
            }
        }
    }

    pub fn get_i64(&self, index: usize) -> i64 {
        match self {
            Self::U8(values) => values[index].into(),
            Self::F32(values) => values[index] as i64,
            Self::I64(values) | Self::Ragged { values, .. } => values[index],
            Self::Spilled(spilled) => spilled.get_i64(index),
            Self::Files(_) | Self::Texts(_) => {
                unreachable!("files and texts are made numbers before these are read")
            }
        }
    }

    /// Smallest and largest number; `None` for files and texts, and where there is none.
    fn range(&self) -> Option<[f64; 2]> {
        fn of<T: Copy + PartialOrd>(values: &[T]) -> Option<[T; 2]> {
            let first = *values.first()?;
            let wider = |[low, high]: [T; 2], &value: &T| {
                [
                    if value < low { value } else { low },
                    if value > high { value } else { high },
                ]
            };
            Some(values.iter().fold([first, first], wider))
        }
        match self {
            Self::U8(values) => of(values).map(|range| range.map(f64::from)),
            Self::F32(values) => of(values).map(|range| range.map(f64::from)),
            Self::I64(values) | Self::Ragged { values, .. } => {
                of(values).map(|range| range.map(|value| value as f64))
            }
            Self::Spilled(spilled) => {
                let values = (0..spilled.len()).map(|index| spilled.get_f64(index));
                values
                    .map(|value| [value, value])
                    .reduce(|[low, high], [lower, higher]| [low.min(lower), high.max(higher)])
            }
            Self::Files(_) | Self::Texts(_) => None,
        }
    }

    /// The numbers of one example where each has as many as it needs.
    pub fn ragged(&self, example: usize) -> Option<&[i64]> {
        let Self::Ragged { values, ends } = self else {
            return None;
        };
        let start = if example == 0 { 0 } else { ends[example - 1] };
        Some(&values[start..ends[example]])
    }
}

/// One array; the first axis, the examples, is not part of `shape`.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    pub name: String,
    /// As it is stored, in NumPy's words.
    pub dtype: String,
    pub shape: Vec<usize>,
    pub elements: Elements,
}

impl Array {
    /// Elements of one example. Readers refuse shapes whose product does not fit.
    pub fn stride(&self) -> usize {
        self.shape
            .iter()
            .fold(1, |product: usize, &size| product.saturating_mul(size))
    }

    /// The numbers of some examples in memory, and which examples of these they are.
    pub(super) fn of<'a>(&'a self, examples: &'a [u32]) -> (Cow<'a, Elements>, Cow<'a, [u32]>) {
        match &self.elements {
            Elements::Spilled(spilled) => (
                Cow::Owned(spilled.rows(examples, self.stride())),
                (0..).take(examples.len()).collect(),
            ),
            elements => (Cow::Borrowed(elements), Cow::Borrowed(examples)),
        }
    }

    /// Some of the examples.
    pub(super) fn part(&self, examples: Range<usize>) -> Self {
        let range = examples.start * self.stride()..examples.end * self.stride();
        let elements = match &self.elements {
            Elements::Texts(texts) => Elements::Texts(texts.part(examples)),
            Elements::Ragged { values, ends } => {
                let end_of = |example: usize| if example == 0 { 0 } else { ends[example - 1] };
                let start = end_of(examples.start);
                Elements::Ragged {
                    values: values[start..end_of(examples.end)].to_vec(),
                    ends: ends[examples].iter().map(|end| end - start).collect(),
                }
            }
            Elements::U8(values) => Elements::U8(values[range].to_vec()),
            Elements::F32(values) => Elements::F32(values[range].to_vec()),
            Elements::I64(values) => Elements::I64(values[range].to_vec()),
            Elements::Spilled(spilled) => Elements::Spilled(spilled.part(range)),
            Elements::Files(files) => Elements::Files(files.part(examples)),
        };
        Self {
            elements,
            ..self.clone()
        }
    }

    /// What the service tells about the array.
    pub fn info(&self) -> ArrayInfo {
        ArrayInfo {
            name: self.name.clone(),
            dtype: self.dtype.clone(),
            shape: self.shape.iter().map(|&size| size as u64).collect(),
            range: None,
            media: match &self.elements {
                Elements::Files(files) if files.audio().is_some() => Some(Media::Audio),
                Elements::Files(_) => Some(Media::Image),
                Elements::Texts(_) => Some(Media::Text),
                _ => None,
            },
            tokens: match &self.elements {
                Elements::Texts(texts) => texts.tokens().cloned(),
                _ => None,
            },
            audio: match &self.elements {
                Elements::Files(files) => files.audio().cloned(),
                _ => None,
            },
        }
    }

    /// Number of examples.
    pub fn count(&self) -> usize {
        match (&self.elements, self.stride()) {
            (Elements::Files(files), _) => files.len(),
            (Elements::Texts(texts), _) => texts.len(),
            (Elements::Ragged { ends, .. }, _) => ends.len(),
            (_, 0) => 0,
            (elements, stride) => elements.len() / stride,
        }
    }
}

/// Examples that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Split {
    pub inputs: Vec<Array>,
    pub target: Option<Array>,
}

impl Split {
    pub fn count(&self) -> usize {
        self.inputs.first().map_or(0, Array::count)
    }

    pub(super) fn arrays(&self) -> impl Iterator<Item = &Array> {
        self.inputs.iter().chain(&self.target)
    }
}

/// A whole data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    pub format: DatasetFormat,
    pub train: Split,
    /// So many of the last examples of `train` are the files' own validation split.
    pub validation: usize,
    /// The files' own test split, where they have one.
    pub test: Option<Split>,
    /// Names of the labels, where the files have any.
    pub classes: Option<Vec<String>>,
    /// Whether the files have numbers for them.
    pub numbered: bool,
    /// Columns that were left out.
    pub excluded: Vec<String>,
    /// Files that were left out.
    pub skipped: Vec<SkippedFile>,
}

impl Dataset {
    /// A data set whose labels have no names.
    pub(super) fn new(format: DatasetFormat, train: Split, test: Option<Split>) -> Self {
        Self {
            format,
            train,
            validation: 0,
            test,
            classes: None,
            numbered: false,
            excluded: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Checks what no job could work with: unequal counts, empty splits, NaN, labels that are no
    /// labels.
    pub(super) fn check(&self) -> Result<(), DataError> {
        let splits = [("train", Some(&self.train)), ("test", self.test.as_ref())];
        for (name, split) in splits {
            let Some(split) = split else { continue };
            let Some(first) = split.inputs.first() else {
                return Err(DataError::EmptySplit(name));
            };
            if split.count() == 0 || (name == "train" && split.count() == self.validation) {
                return Err(DataError::EmptySplit(name));
            }
            for array in split.arrays() {
                if array.count() != first.count() {
                    return Err(DataError::UnequalCounts {
                        x: first.name.clone(),
                        x_count: first.count(),
                        y: array.name.clone(),
                        y_count: array.count(),
                    });
                }
                check_finite(array)?;
            }
            if let Some(target) = &split.target {
                check_labels(target)?;
            }
        }
        if let Some(test) = &self.test {
            for array in self.train.arrays() {
                let same = test
                    .arrays()
                    .any(|other| other.name == array.name && other.shape == array.shape);
                if !same {
                    return Err(DataError::SplitsDiffer(array.name.clone()));
                }
            }
        }
        Ok(())
    }

    /// Integer labels in a column, `[examples, 1]`, are labels.
    pub(super) fn squeeze_labels(&mut self) {
        let splits = [Some(&mut self.train), self.test.as_mut()];
        for target in splits
            .into_iter()
            .flatten()
            .filter_map(|s| s.target.as_mut())
        {
            if target.shape == [1] && !target.dtype.starts_with("float") {
                target.shape.clear();
            }
        }
    }

    /// Arrays of that name in all splits.
    fn everywhere<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Array> {
        let splits = [Some(&self.train), self.test.as_ref()];
        let arrays = splits.into_iter().flatten().flat_map(Split::arrays);
        arrays.filter(move |array| array.name == name)
    }

    /// Smallest and largest number of an array in all splits; `None` for files and texts.
    fn range(&self, name: &str) -> Option<[f64; 2]> {
        let ranges = self
            .everywhere(name)
            .filter_map(|array| array.elements.range());
        ranges.reduce(|[low, high], [lower, higher]| [low.min(lower), high.max(higher)])
    }

    /// Gives the classes these names, in this order.
    pub(super) fn name_classes(&mut self, names: &[String]) -> Result<(), DataError> {
        let refuse = |detail: String| Err(DataError::Unreadable(detail));
        if self.classes.as_deref() == Some(names) {
            return Ok(());
        }
        if self.classes.is_some() {
            return refuse(
                "the query parameter `classes` gives names that the file itself gives already; leave it out".to_owned(),
            );
        }
        let target = self.summarize().target;
        // Of several labels at once each is a column.
        let hot = target.as_ref().and_then(|target| match target.shape[..] {
            [width] if width > 0 && !target.dtype.starts_with("float") => Some(width),
            _ => None,
        });
        match target.and_then(|target| target.classes).or(hot) {
            None => refuse(
                "the query parameter `classes` names classes, and the target has none; leave it out".to_owned(),
            ),
            Some(count) if count > names.len() as u64 => refuse(format!(
                "the query parameter `classes` names {} classes, and the labels are 0 to {}",
                names.len(),
                count - 1
            )),
            Some(_) => {
                self.numbered = true;
                self.classes = Some(class_names("classes", names.to_vec())?);
                Ok(())
            }
        }
    }

    /// How often each of `classes` labels occurs.
    fn class_counts(&self, target: &Array, classes: u64) -> Option<Vec<u64>> {
        let of_examples = target.shape.is_empty() && classes <= MOST_COUNTED;
        let mut counts = vec![0; usize::try_from(classes).ok().filter(|_| of_examples)?];
        for array in self.everywhere(&target.name) {
            for index in 0..array.elements.len() {
                let label = usize::try_from(array.elements.get_i64(index)).ok()?;
                *counts.get_mut(label)? += 1;
            }
        }
        Some(counts)
    }

    /// Whether each row of the target has a single 1 among zeros, in files of arrays: elsewhere lists of labels are made such rows.
    fn has_one_hot_target(&self) -> bool {
        let of_arrays = matches!(self.format, DatasetFormat::Npz | DatasetFormat::Safetensors);
        let splits = [Some(&self.train), self.test.as_ref()];
        let targets = splits
            .into_iter()
            .flatten()
            .filter_map(|split| split.target.as_ref());
        let is_one_hot = |target: &Array| match target.shape[..] {
            [width] if width > 1 => (0..target.count()).all(|row| {
                let values = (0..width).map(|column| target.elements.get_f32(row * width + column));
                let (mut ones, mut others) = (0, 0);
                for value in values {
                    ones += usize::from(value == 1.0);
                    others += usize::from(value != 1.0 && value != 0.0);
                }
                (ones, others) == (1, 0)
            }),
            _ => false,
        };
        of_arrays && self.train.target.is_some() && targets.into_iter().all(is_one_hot)
    }

    /// Whether a target of floats has zeros and ones alone, as losses of several labels take them.
    fn has_zeros_and_ones(&self) -> bool {
        let of_arrays = matches!(self.format, DatasetFormat::Npz | DatasetFormat::Safetensors);
        let Some(target) = self.train.target.as_ref() else {
            return false;
        };
        let mut values = self
            .everywhere(&target.name)
            .flat_map(|array| (0..array.elements.len()).map(|place| array.elements.get_f32(place)));
        of_arrays
            && target.dtype.starts_with("float")
            && values.all(|value| value == 0.0 || value == 1.0)
    }

    /// What the service tells about the data set.
    pub fn summarize(&self) -> DatasetSummary {
        let classes = |array: &Array| {
            let labels = |split: &Split| {
                let target = split.target.as_ref()?;
                (0..target.elements.len())
                    .map(|index| target.elements.get_i64(index))
                    .max()
            };
            let highest = labels(&self.train).max(self.test.as_ref().and_then(labels));
            let of_words = matches!(array.elements, Elements::Ragged { .. });
            let is_label =
                (array.shape.is_empty() || of_words) && !array.dtype.starts_with("float");
            let named = self.classes.as_ref().map(|names| names.len() as u64);
            let counted = highest.map(|label| (label + 1).max(0) as u64);
            named.or(counted).filter(|_| is_label)
        };
        DatasetSummary {
            format: self.format,
            excluded: self.excluded.clone(),
            splits: Splits {
                train: (self.train.count() - self.validation) as u64,
                validation: self.validation as u64,
                test: self.test.as_ref().map_or(0, Split::count) as u64,
            },
            inputs: (self.train.inputs.iter())
                .map(|array| ArrayInfo {
                    range: self.range(&array.name),
                    ..array.info()
                })
                .collect(),
            target: self.train.target.as_ref().map(|array| TargetInfo {
                name: array.name.clone(),
                dtype: array.dtype.clone(),
                shape: array.shape.iter().map(|&size| size as u64).collect(),
                classes: classes(array),
                class_counts: classes(array).and_then(|count| self.class_counts(array, count)),
                class_names: self.classes.clone(),
                numbered: self.numbered,
                range: self.range(&array.name),
                one_hot: self.has_one_hot_target(),
                zeros_and_ones: self.has_zeros_and_ones(),
            }),
            skipped: self.skipped.clone(),
        }
    }
}

fn check_finite(array: &Array) -> Result<(), DataError> {
    let found = match &array.elements {
        Elements::F32(values) => values.iter().position(|value| !value.is_finite()),
        Elements::Spilled(spilled) => {
            (0..spilled.len()).find(|&index| !spilled.get_f64(index).is_finite())
        }
        _ => None,
    };
    match found {
        None => Ok(()),
        Some(index) => Err(DataError::NotFinite {
            array: array.name.clone(),
            value: array.elements.get_f32(index),
            example: index / array.stride().max(1),
        }),
    }
}

fn check_labels(target: &Array) -> Result<(), DataError> {
    if target.dtype.starts_with("float") || !target.shape.is_empty() {
        // Several integers an example are read as a 0/1 for each output, or are values to regress
        // on; which of them, and so what is out of range, is settled when a job names a task.
        return Ok(());
    }
    let wrong = (0..target.elements.len())
        .map(|index| (index, target.elements.get_i64(index)))
        .find(|(_, label)| !(0..MOST_CLASSES).contains(label));
    match wrong {
        None => Ok(()),
        Some((example, label)) => Err(DataError::LabelOutOfRange {
            array: target.name.clone(),
            label,
            example,
        }),
    }
}
