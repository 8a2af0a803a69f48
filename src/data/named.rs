//! Arrays with names (npz, safetensors) sorted into splits, inputs and target.

use super::{Array, DataError, Dataset, Split};
use crate::spec::dataset::DatasetFormat;

const TARGETS: [&str; 4] = ["y", "target", "label", "labels"];

/// `x`, `y`, or Keras' `x_train`, `y_train`, `x_test`, `y_test`; more inputs by their own names.
pub(super) fn from_arrays(format: DatasetFormat, arrays: Vec<Array>) -> Result<Dataset, DataError> {
    let empty = || Split {
        inputs: Vec::new(),
        target: None,
    };
    let (mut train, mut test) = (empty(), empty());
    let found: Vec<String> = arrays.iter().map(|array| array.name.clone()).collect();
    for mut array in arrays {
        let (base, in_test) = match array.name.strip_suffix("_test") {
            Some(base) => (base, true),
            None => (
                array.name.strip_suffix("_train").unwrap_or(&array.name),
                false,
            ),
        };
        let is_target = TARGETS.contains(&base);
        array.name = base.to_owned();
        let split = if in_test { &mut test } else { &mut train };
        if !is_target {
            split.inputs.push(array);
        } else if split.target.replace(array).is_some() {
            return Err(DataError::Unreadable(format!(
                "more than one of the arrays {found:?} is a target; keep `y` only"
            )));
        }
    }
    for split in [&mut train, &mut test] {
        split.inputs.sort_by(|a, b| a.name.cmp(&b.name));
    }
    if train.inputs.is_empty() {
        return Err(DataError::Unreadable(format!(
            "the arrays {found:?} have no input among them; name the examples `x` (or `x_train`) \
             and the labels `y` (or `y_train`)"
        )));
    }
    let has_test = !test.inputs.is_empty() || test.target.is_some();
    Ok(Dataset::new(format, train, has_test.then_some(test)))
}
