//! Arrays with names (npz, safetensors) sorted into splits, inputs and target.

use super::{Array, DataError, Dataset, Elements, Split};
use crate::spec::dataset::{DatasetFormat, USUAL_TARGETS};

/// How the names of a split's arrays end; of the others the first one has its place in the list.
const ENDINGS: [(&str, usize); 5] = [
    ("_train", 0),
    ("_val", 1),
    ("_valid", 1),
    ("_validation", 1),
    ("_test", 2),
];

/// `x`, `y`, or Keras' `x_train`, `y_train`, `x_test`, `y_test`, with `x_val`, `y_val` where there is a validation split;
/// more inputs by their own names. `named` is the target's.
pub(super) fn from_arrays(
    format: DatasetFormat,
    arrays: Vec<Array>,
    named: Option<&str>,
) -> Result<Dataset, DataError> {
    let empty = || Split {
        inputs: Vec::new(),
        target: None,
    };
    let mut splits = [empty(), empty(), empty()];
    let found: Vec<String> = arrays.iter().map(|array| array.name.clone()).collect();
    let named = named.map(|named| {
        let ending = ["_train", "_test"].into_iter();
        let mut bases = ending.filter_map(|ending| named.strip_suffix(ending));
        bases.next().unwrap_or(named)
    });
    let mut has_named = false;
    for mut array in arrays {
        let ending = ENDINGS.into_iter().find_map(|(ending, split)| {
            let place = array.name.len().checked_sub(ending.len())?;
            let (base, own) = array.name.split_at_checked(place)?;
            let base = own.eq_ignore_ascii_case(ending).then_some(base)?;
            // Of an array alone `is_valid` is no more than a name.
            let trains = |name: &String| name == base || *name == format!("{base}_train");
            (split != 1 || found.iter().any(trains)).then(|| (base.to_owned(), split))
        });
        let (base, split) = ending.unwrap_or((array.name.clone(), 0));
        let is_target = match named {
            Some(named) => base == named,
            None => USUAL_TARGETS.contains(&base.to_lowercase().as_str()),
        };
        has_named |= is_target;
        array.name = base;
        let split = &mut splits[split];
        if !is_target {
            split.inputs.push(array);
        } else if split.target.replace(array).is_some() {
            return Err(DataError::Unreadable(format!(
                "more than one of the arrays {found:?} is a target; keep one, or say with `?target=` which it is"
            )));
        }
    }
    if let Some(named) = named.filter(|_| !has_named) {
        return Err(DataError::Unreadable(format!(
            "none of the arrays {found:?} is the target `{named}`"
        )));
    }
    for split in &mut splits {
        split.inputs.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let [mut train, validation, test] = splits;
    if train.inputs.is_empty() {
        return Err(DataError::Unreadable(format!(
            "the arrays {found:?} have no input among them; name the examples `x` (or `x_train`) \
             and the labels `y` (or `y_train`)"
        )));
    }
    let validated = validation.count();
    let is_given = |split: &Split| !split.inputs.is_empty() || split.target.is_some();
    if is_given(&validation) {
        append(&mut train, validation)?;
    }
    Ok(Dataset {
        validation: validated,
        ..Dataset::new(format, train, is_given(&test).then_some(test))
    })
}

/// Puts a validation split behind the examples that train.
fn append(train: &mut Split, validation: Split) -> Result<(), DataError> {
    let names = |split: &Split| -> Vec<String> {
        let all = split.inputs.iter().chain(&split.target);
        all.map(|array| array.name.clone()).collect()
    };
    let (own, more) = (names(train), names(&validation));
    if own != more {
        return Err(DataError::Unreadable(format!(
            "the validation split has the arrays {more:?}, the train split {own:?}; both need the same"
        )));
    }
    let counts = (train.arrays().map(Array::count)).zip(validation.arrays().map(Array::count));
    let counts: Vec<(usize, usize)> = counts.collect();
    if counts.iter().any(|(_, count)| *count != counts[0].1) {
        return Err(DataError::Unreadable(format!(
            "the arrays {more:?} of the validation split have unequal numbers of examples"
        )));
    }
    let all = validation.inputs.into_iter().chain(validation.target);
    for (array, more) in train.inputs.iter_mut().chain(&mut train.target).zip(all) {
        if (&array.dtype, &array.shape) != (&more.dtype, &more.shape) {
            return Err(DataError::Unreadable(format!(
                "`{}` is {} {:?} in the train split and {} {:?} in the validation split",
                array.name, array.dtype, array.shape, more.dtype, more.shape
            )));
        }
        match (&mut array.elements, more.elements) {
            (Elements::U8(values), Elements::U8(more)) => values.extend(more),
            (Elements::F32(values), Elements::F32(more)) => values.extend(more),
            (Elements::I64(values), Elements::I64(more)) => values.extend(more),
            _ => {
                return Err(DataError::Unreadable(format!(
                    "`{}` is too large to have a validation split of its own (256 MiB); leave the validation arrays out, and \
                     a job sets `data.validation_fraction` aside",
                    array.name
                )));
            }
        }
    }
    Ok(())
}
