//! What examples are labelled with, in words or numbers, as a target.

use std::collections::{BTreeSet, HashMap};

use super::arrays::{MOST_CLASSES, NO_LABEL};
use super::{Array, DataError, Elements};

/// Longest name of a class, and all of them together, in bytes: they go into every answer about the data set.
const LONGEST_NAME: usize = 200;
const MOST_NAMES: usize = 1 << 20;

/// Most numbers of a target with several labels an example.
const MOST_HOT: usize = 512 << 20;

/// What one example is labelled with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Label {
    Text(String),
    /// With the text that it was written as.
    Number(f64, String),
    /// Several at once, or a vector.
    Many(Vec<Label>),
}

impl Label {
    /// Text as a table has it: a number where it is one.
    pub fn of(text: &str) -> Self {
        let text = text.trim();
        match text.parse::<f64>() {
            Ok(number) => Self::Number(number, text.to_owned()),
            Err(_) => Self::Text(text.to_owned()),
        }
    }

    /// Several in a table's cell, between `;` or `|`.
    pub fn several(text: &str) -> Self {
        let words = text.split([';', '|']).map(str::trim);
        Self::Many(
            words
                .filter(|word| !word.is_empty())
                .map(Self::of)
                .collect(),
        )
    }

    /// A JSON value; nothing for `null`.
    pub fn of_json(value: &serde_json::Value) -> Result<Option<Self>, String> {
        use serde_json::Value;
        Ok(Some(match value {
            Value::Null => return Ok(None),
            Value::Bool(value) => {
                Self::Number(f64::from(u8::from(*value)), u8::from(*value).to_string())
            }
            Value::String(text) => Self::Text(text.clone()),
            Value::Number(number) => {
                Self::Number(number.as_f64().unwrap_or(f64::NAN), number.to_string())
            }
            Value::Array(values) => {
                let label = |value| Self::of_json(value)?.ok_or("holds null in a list".to_owned());
                Self::Many(values.iter().map(label).collect::<Result<_, _>>()?)
            }
            Value::Object(_) => return Err("holds an object".to_owned()),
        }))
    }

    /// Bytes that it takes in memory, about.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
            + match self {
                Self::Text(text) | Self::Number(_, text) => text.len(),
                Self::Many(many) => many.iter().map(Self::bytes).sum(),
            }
    }

    pub fn as_text(&self) -> String {
        match self {
            Self::Text(text) | Self::Number(_, text) => text.clone(),
            Self::Many(many) => many
                .iter()
                .map(Self::as_text)
                .collect::<Vec<_>>()
                .join(", "),
        }
    }

    fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number, _) => Some(*number),
            Self::Text(_) | Self::Many(_) => None,
        }
    }
}

/// Names of classes, unless they are too long to be any.
pub(super) fn class_names(column: &str, names: Vec<String>) -> Result<Vec<String>, DataError> {
    let bytes: usize = names.iter().map(String::len).sum();
    match names.iter().any(|name| name.len() > LONGEST_NAME) || bytes > MOST_NAMES {
        true => Err(DataError::Unreadable(format!(
            "`{column}` holds {} different words of {bytes} bytes together; names of classes have at most {LONGEST_NAME} \
             bytes each and {MOST_NAMES} in all",
            names.len()
        ))),
        false => Ok(names),
    }
}

/// Names of the classes of `column`, those that occur: as they are `asked` for, else in the order of the alphabet.
fn in_order(
    column: &str,
    occurring: BTreeSet<String>,
    asked: Option<&[String]>,
) -> Result<Vec<String>, DataError> {
    let Some(asked) = asked else {
        return class_names(column, occurring.into_iter().collect());
    };
    let known = places(asked);
    let unknown = occurring
        .iter()
        .filter(|name| !known.contains_key(name.as_str()));
    let unknown: Vec<&String> = unknown.collect();
    match unknown.first() {
        None => class_names(column, asked.to_vec()),
        Some(name) => Err(DataError::Unreadable(format!(
            "`{column}` has the class `{name}`, which the query parameter `classes` does not name{}; name all of them, in the \
             order in which the model numbers them",
            match unknown.len() {
                1 => String::new(),
                2 => ", nor another one".to_owned(),
                count => format!(", nor {} others", count - 1),
            }
        ))),
    }
}

/// The place of each name.
fn places(names: &[String]) -> HashMap<&str, i64> {
    let named = names.iter().map(String::as_str);
    named.zip(0..).collect()
}

/// Labels as an array, and the names of the classes where they were words.
pub(super) struct Target {
    pub array: Array,
    pub classes: Option<Vec<String>>,
}

/// One kind of target for all examples: words and whole numbers from 0 on are classes, words in their order; other
/// numbers are values to fit. Names that are `asked` for are the order of words. Where examples have several labels at once, each is a 0 or 1 for every class (multilabel), and
/// several numbers with fractions are a vector to fit.
pub(super) fn target(
    name: &str,
    labels: &[Label],
    asked: Option<&[String]>,
) -> Result<Target, DataError> {
    let several = labels.iter().any(|label| matches!(label, Label::Many(_)));
    let parts = |label: &Label| match label {
        Label::Many(many) => many.clone(),
        one => vec![one.clone()],
    };
    let all: Vec<Vec<Label>> = labels.iter().map(parts).collect();
    let each = || all.iter().flatten();
    let array = |dtype: &str, shape: Vec<usize>, elements| Array {
        name: name.to_owned(),
        dtype: dtype.to_owned(),
        shape,
        elements,
    };
    let wrong = |detail: String| Err(DataError::Unreadable(format!("`{name}` {detail}")));
    if each().any(|label| matches!(label, Label::Many(_))) {
        return wrong("holds lists in lists".to_owned());
    }
    let words = each().any(|label| matches!(label, Label::Text(_)));
    let numbers = || each().filter_map(Label::number);
    let is_wrong = |label: &Label| label.number().is_some_and(|number| !number.is_finite());
    if let Some(example) = all.iter().position(|labels| labels.iter().any(is_wrong)) {
        return Err(DataError::NotFinite {
            array: name.to_owned(),
            value: f32::NAN,
            example,
        });
    }
    let written_whole =
        |label: &Label| !matches!(label, Label::Number(_, text) if text.parse::<i64>().is_err());
    let are_values = match several {
        true => !each().all(written_whole),
        false => !numbers().all(|n| n.fract() == 0.0 && (0.0..MOST_CLASSES as f64).contains(&n)),
    };
    if !words && are_values {
        let width = all.first().map_or(1, Vec::len);
        if let Some(row) = all.iter().position(|values| values.len() != width) {
            let own = all[row].len();
            return wrong(format!(
                "has {own} numbers in example {row} and {width} in the first"
            ));
        }
        let values = numbers().map(|number| number as f32).collect();
        let shape = if several { vec![width] } else { Vec::new() };
        return Ok(Target {
            array: array("float64", shape, Elements::F32(values)),
            classes: None,
        });
    }
    let (classes, places): (Option<Vec<String>>, Vec<Vec<i64>>) = if words {
        let names: BTreeSet<String> = each().map(Label::as_text).collect();
        let names = in_order(name, names, asked)?;
        let known = places(&names);
        let place = |label: &Label| known.get(&*label.as_text()).copied().unwrap_or(0);
        let places = all.iter().map(|row| row.iter().map(place).collect());
        let places = places.collect();
        (Some(names), places)
    } else {
        let whole = |label: &Label| label.number().map_or(-1, |number| number as i64);
        let row = |row: &Vec<Label>| row.iter().map(whole).collect();
        (None, all.iter().map(row).collect())
    };
    if !several {
        let values = Elements::I64(places.into_iter().flatten().collect());
        return Ok(Target {
            array: array("int64", Vec::new(), values),
            classes,
        });
    }
    let highest = places.iter().flatten().copied().max().unwrap_or(0);
    if places.iter().flatten().any(|place| *place < 0) || highest >= 10_000 {
        return wrong(
            "has several labels an example, which are words or integers from 0 to 9999; others are there".to_owned(),
        );
    }
    let width = classes.as_ref().map_or(highest as usize + 1, Vec::len);
    if width.saturating_mul(places.len()) > MOST_HOT {
        return wrong(format!(
            "has {width} labels for {} examples, more than fit",
            places.len()
        ));
    }
    let mut hot = vec![0u8; width * places.len()];
    for (row, places) in places.iter().enumerate() {
        for &place in places {
            hot[row * width + place as usize] = 1;
        }
    }
    Ok(Target {
        array: array("uint8", vec![width], Elements::U8(hot)),
        classes,
    })
}

/// One label for each word of each example: words are classes in their order, whole numbers from 0 on are labels, and −100
/// is none, as PyTorch has it.
pub(super) fn word_labels(
    name: &str,
    labels: &[Label],
    asked: Option<&[String]>,
) -> Result<Target, DataError> {
    let wrong = |example: usize, detail: &str| {
        DataError::Unreadable(format!("`{name}` {detail} in example {example}"))
    };
    let lists: Vec<&[Label]> = (labels.iter().enumerate())
        .map(|(example, label)| match label {
            Label::Many(labels) => Ok(labels.as_slice()),
            _ => Err(wrong(example, "has no list of labels, one for each word,")),
        })
        .collect::<Result<_, _>>()?;
    let each = || lists.iter().flat_map(|labels| labels.iter());
    let classes = match each().any(|label| !matches!(label, Label::Number(..))) {
        true => {
            let names: BTreeSet<String> = each().map(Label::as_text).collect();
            Some(in_order(name, names, asked)?)
        }
        false => None,
    };
    let known = places(classes.as_deref().unwrap_or_default());
    let (mut values, mut ends) = (Vec::new(), Vec::new());
    for (example, labels) in lists.iter().enumerate() {
        for label in *labels {
            let value = match (&classes, label.number()) {
                (Some(_), _) => known.get(&*label.as_text()).copied().unwrap_or(0),
                (None, Some(number)) if number == NO_LABEL as f64 => NO_LABEL,
                (None, Some(number))
                    if number.fract() == 0.0 && (0.0..MOST_CLASSES as f64).contains(&number) =>
                {
                    number as i64
                }
                _ => return Err(wrong(example, "holds what is no integer from 0 on")),
            };
            values.push(value);
        }
        ends.push(values.len());
    }
    Ok(Target {
        array: Array {
            name: name.to_owned(),
            dtype: "int64".to_owned(),
            shape: vec![0],
            elements: Elements::Ragged { values, ends },
        },
        classes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Label {
        Label::Text(text.to_owned())
    }

    #[test]
    fn words_are_classes_in_their_order() {
        let found = target(
            "label",
            &[text("dog"), text("cat"), Label::of("007"), text("dog")],
            None,
        )
        .unwrap();
        assert_eq!(found.classes.unwrap(), ["007", "cat", "dog"]);
        assert_eq!(found.array.elements, Elements::I64(vec![2, 1, 0, 2]));
        assert_eq!(found.array.shape, [0usize; 0]);
    }

    #[test]
    fn words_are_in_the_order_that_is_asked_for() {
        let names = ["dog", "bird", "cat"].map(str::to_owned);
        let labels = [text("cat"), text("dog")];
        let found = target("label", &labels, Some(&names)).unwrap();
        assert_eq!(found.classes.unwrap(), names);
        assert_eq!(found.array.elements, Elements::I64(vec![2, 0]));
        let Err(DataError::Unreadable(detail)) = target("label", &labels, Some(&names[..2])) else {
            panic!("a class without a name is taken");
        };
        assert!(detail.contains("the class `cat`"), "{detail}");
    }

    #[test]
    fn whole_numbers_are_labels_and_others_values() {
        let found = target("y", &[Label::of("3"), Label::of(" 1 ")], None).unwrap();
        assert_eq!((found.array.dtype.as_str(), found.classes), ("int64", None));
        let found = target("y", &[Label::of("3.0"), Label::of("1.0")], None).unwrap();
        assert_eq!(found.array.elements, Elements::I64(vec![3, 1]));
        let found = target("y", &[Label::of("-3"), Label::of("1")], None).unwrap();
        assert_eq!(found.array.elements, Elements::F32(vec![-3.0, 1.0]));
        let found = target("y", &[Label::of("3"), Label::of("1.5")], None).unwrap();
        assert_eq!(found.array.elements, Elements::F32(vec![3.0, 1.5]));
    }

    #[test]
    fn several_labels_are_hot_or_a_vector() {
        let many = |words: &[&str]| Label::Many(words.iter().copied().map(text).collect());
        let found = target(
            "labels",
            &[many(&["b", "a"]), many(&[]), many(&["c"])],
            None,
        )
        .unwrap();
        assert_eq!(found.array.shape, [3]);
        assert_eq!(
            found.array.elements,
            Elements::U8(vec![1, 1, 0, 0, 0, 0, 0, 0, 1])
        );
        let vector = |values: &[f64]| {
            Label::Many(
                values
                    .iter()
                    .map(|v| Label::Number(*v, format!("{v:?}")))
                    .collect(),
            )
        };
        let found = target("y", &[vector(&[0.5, 2.0]), vector(&[1.5, 0.0])], None).unwrap();
        assert_eq!(found.array.shape, [2]);
        assert!(target("y", &[vector(&[0.5, 2.0]), vector(&[1.5])], None).is_err());
        assert!(target("y", &[Label::Many(vec![Label::of("-1")])], None).is_err());
        assert!(
            target(
                "y",
                &[Label::Many(vec![Label::of("0.5"), vector(&[1.0])])],
                None
            )
            .is_err()
        );
        assert!(target("y", &[Label::of("nan"), Label::of("1")], None).is_err());
        assert!(target("y", &[text(&"long".repeat(100))], None).is_err());
    }
}
