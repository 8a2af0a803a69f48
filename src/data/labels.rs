//! What examples are labelled with, in words or numbers, as a target.

use std::collections::BTreeSet;

use super::{Array, DataError, Elements};

/// What one example is labelled with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Label {
    Text(String),
    Whole(i64),
    Real(f64),
    /// Several at once, or a vector.
    Many(Vec<Label>),
}

impl Label {
    /// Text as a table has it: a number where it is one.
    pub fn of(text: &str) -> Self {
        let text = text.trim();
        match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(whole), _) => Self::Whole(whole),
            (_, Ok(real)) if real.is_finite() => Self::Real(real),
            _ => Self::Text(text.to_owned()),
        }
    }

    fn as_text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Whole(whole) => whole.to_string(),
            Self::Real(real) => real.to_string(),
            Self::Many(many) => many
                .iter()
                .map(Self::as_text)
                .collect::<Vec<_>>()
                .join(", "),
        }
    }

    fn as_real(&self) -> Option<f64> {
        match self {
            Self::Whole(whole) => Some(*whole as f64),
            Self::Real(real) => Some(*real),
            Self::Text(_) | Self::Many(_) => None,
        }
    }
}

/// Labels as an array, and the names of the classes where they were words.
pub(super) struct Target {
    pub array: Array,
    pub classes: Option<Vec<String>>,
}

/// One kind of target for all examples: words and whole numbers are classes, words in their order; other numbers are
/// values to fit. Where examples have several labels at once, each is a 0 or 1 for every class (multilabel), and
/// several numbers with fractions are a vector to fit.
pub(super) fn target(name: &str, labels: &[Label]) -> Result<Target, DataError> {
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
    let words = each().any(|label| matches!(label, Label::Text(_)));
    if !words && each().any(|label| matches!(label, Label::Real(_))) {
        let width = all.first().map_or(1, Vec::len);
        if let Some(row) = all.iter().position(|values| values.len() != width) {
            return Err(DataError::Unreadable(format!(
                "`{name}` has {} numbers in example {row} and {width} in the first",
                all[row].len()
            )));
        }
        let values = each().filter_map(|label| Some(label.as_real()? as f32));
        let shape = if several { vec![width] } else { Vec::new() };
        return Ok(Target {
            array: array("float64", shape, Elements::F32(values.collect())),
            classes: None,
        });
    }
    let (classes, places): (Option<Vec<String>>, Vec<Vec<i64>>) = if words {
        let names: BTreeSet<String> = each().map(Label::as_text).collect();
        let names: Vec<String> = names.into_iter().collect();
        let place = |label: &Label| names.binary_search(&label.as_text()).unwrap_or(0) as i64;
        let places = all.iter().map(|row| row.iter().map(place).collect());
        let places = places.collect();
        (Some(names), places)
    } else {
        let whole = |label: &Label| match label {
            Label::Whole(whole) => *whole,
            _ => -1,
        };
        (
            None,
            all.iter()
                .map(|row| row.iter().map(whole).collect())
                .collect(),
        )
    };
    if !several {
        let values = Elements::I64(places.into_iter().flatten().collect());
        return Ok(Target {
            array: array("int64", Vec::new(), values),
            classes,
        });
    }
    let highest = places.iter().flatten().copied().max().unwrap_or(0);
    let wrong = places.iter().flatten().position(|place| *place < 0);
    if wrong.is_some() || highest >= 10_000 {
        return Err(DataError::Unreadable(format!(
            "`{name}` has several labels an example, which are words or integers from 0 to 9999; it has {}",
            if wrong.is_some() {
                "negative ones".to_owned()
            } else {
                highest.to_string()
            }
        )));
    }
    let width = classes.as_ref().map_or(highest as usize + 1, Vec::len);
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
            &[text("dog"), text("cat"), Label::Whole(7), text("dog")],
        )
        .unwrap();
        assert_eq!(found.classes.unwrap(), ["7", "cat", "dog"]);
        assert_eq!(found.array.elements, Elements::I64(vec![2, 1, 0, 2]));
        assert_eq!(found.array.shape, [0usize; 0]);
    }

    #[test]
    fn whole_numbers_are_labels_and_others_values() {
        let found = target("y", &[Label::of("3"), Label::of(" 1 ")]).unwrap();
        assert_eq!((found.array.dtype.as_str(), found.classes), ("int64", None));
        let found = target("y", &[Label::of("3"), Label::of("1.5")]).unwrap();
        assert_eq!(found.array.elements, Elements::F32(vec![3.0, 1.5]));
    }

    #[test]
    fn several_labels_are_hot_or_a_vector() {
        let many = |words: &[&str]| Label::Many(words.iter().copied().map(text).collect());
        let found = target("labels", &[many(&["b", "a"]), many(&[]), many(&["c"])]).unwrap();
        assert_eq!(found.array.shape, [3]);
        assert_eq!(
            found.array.elements,
            Elements::U8(vec![1, 1, 0, 0, 0, 0, 0, 0, 1])
        );
        let vector = |values: &[f64]| Label::Many(values.iter().map(|v| Label::Real(*v)).collect());
        let found = target("y", &[vector(&[0.5, 2.0]), vector(&[1.5, 0.0])]).unwrap();
        assert_eq!(found.array.shape, [2]);
        assert!(target("y", &[vector(&[0.5, 2.0]), vector(&[1.5])]).is_err());
        assert!(target("y", &[Label::Many(vec![Label::Whole(-1)])]).is_err());
    }
}
