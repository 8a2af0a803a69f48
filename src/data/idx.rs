//! MNIST's IDX files: a magic number, sizes, and the numbers, all big-endian.

use std::io::{BufReader, Read};

use super::spill::numbers;
use super::{Array, DataError, Dataset, Split};
use crate::spec::dataset::DatasetFormat;

/// Whether the first bytes are those of an IDX file.
pub(super) fn is_idx(head: &[u8]) -> bool {
    matches!(
        head,
        [0, 0, 0x08 | 0x09 | 0x0b | 0x0c | 0x0d | 0x0e, 1..=8, ..]
    )
}

/// Reads one file that may take `most` bytes in memory; the claimed sizes are checked against what
/// is there as it is read.
pub(super) fn read_array(name: &str, mut reader: impl Read, most: u64) -> Result<Array, DataError> {
    let broken = |what: &str| DataError::Unreadable(format!("the IDX file `{name}` {what}"));
    let mut magic = [0; 4];
    reader
        .read_exact(&mut magic)
        .map_err(|_| broken("is truncated"))?;
    if !is_idx(&magic) {
        return Err(broken("does not begin with an IDX magic number"));
    }
    let mut sizes = Vec::new();
    for _ in 0..magic[3] {
        let mut size = [0; 4];
        reader
            .read_exact(&mut size)
            .map_err(|_| broken("is truncated"))?;
        sizes.push(u32::from_be_bytes(size) as usize);
    }
    let width = match magic[2] {
        0x08 | 0x09 => 1,
        0x0b => 2,
        0x0e => 8,
        _ => 4,
    };
    // An axis of size 0 must not hide that the others are absurd.
    let bytes = sizes
        .iter()
        .try_fold(width, |product: usize, &size| {
            product.checked_mul(size.max(1))
        })
        .map(|bytes| if sizes.contains(&0) { 0 } else { bytes })
        .ok_or_else(|| broken("claims more data than any memory holds"))?;
    // int8 and int16 are kept as int64.
    let growth = if matches!(magic[2], 0x09 | 0x0b | 0x0c) {
        8 / width
    } else {
        1
    };
    if (bytes as u64).saturating_mul(growth as u64) > most {
        return Err(DataError::TooLarge {
            name: name.to_owned(),
            limit: most,
        });
    }
    let count = bytes / width;
    let mut reader = BufReader::new(reader);
    let mut data = (&mut reader).take(bytes as u64);
    let (dtype, elements) = match magic[2] {
        0x08 => ("uint8", numbers(&mut data, |[byte]: [u8; 1]| byte)),
        0x09 => ("int8", numbers(&mut data, |[byte]| i64::from(byte as i8))),
        0x0b => (
            "int16",
            numbers(&mut data, |b| i64::from(i16::from_be_bytes(b))),
        ),
        0x0c => (
            "int32",
            numbers(&mut data, |b| i64::from(i32::from_be_bytes(b))),
        ),
        0x0d => ("float32", numbers(&mut data, f32::from_be_bytes)),
        _ => (
            "float64",
            numbers(&mut data, |b| f64::from_be_bytes(b) as f32),
        ),
    };
    let elements = elements?;
    // What is left is too much.
    let more = reader.read(&mut [0])?;
    if elements.len() != count || more > 0 {
        return Err(broken(&format!(
            "claims {bytes} bytes of data and has {}",
            match more {
                0 => (elements.len() * width).to_string(),
                _ => "more".to_owned(),
            }
        )));
    }
    Ok(Array {
        name: name.to_owned(),
        dtype: dtype.to_owned(),
        shape: sizes[1..].to_vec(),
        elements,
    })
}

/// Sorts the files into splits: one axis is a file of labels, `t10k` or `test` in the name is the
/// test split.
pub(super) fn from_files(arrays: Vec<Array>) -> Result<Dataset, DataError> {
    let names: Vec<String> = arrays.iter().map(|array| array.name.clone()).collect();
    let mut parts: [Option<Array>; 4] = Default::default();
    for mut array in arrays {
        let lower = array.name.to_lowercase();
        let in_test = lower.contains("t10k") || lower.contains("test");
        let is_target = array.shape.is_empty();
        array.name = if is_target { "y" } else { "x" }.to_owned();
        let place = &mut parts[usize::from(in_test) * 2 + usize::from(is_target)];
        if place.replace(array).is_some() {
            return Err(DataError::Unreadable(format!(
                "two of the IDX files {names:?} hold the same part; name them like MNIST's: \
                 train-images, train-labels, t10k-images, t10k-labels"
            )));
        }
    }
    let [train_x, train_y, test_x, test_y] = parts;
    let missing = || {
        DataError::Unreadable(format!(
            "the IDX files {names:?} hold no train images; name them like MNIST's: train-images, \
             train-labels, t10k-images, t10k-labels"
        ))
    };
    let test = match (test_x, test_y) {
        (Some(x), target) => Some(Split {
            inputs: vec![x],
            target,
        }),
        (None, Some(_)) => {
            return Err(DataError::Unreadable(
                "the test split has labels and no images".to_owned(),
            ));
        }
        (None, None) => None,
    };
    let train = Split {
        inputs: vec![train_x.ok_or_else(missing)?],
        target: train_y,
    };
    Ok(Dataset::new(DatasetFormat::Idx, train, test))
}

#[cfg(test)]
mod tests {
    use super::super::Elements;
    use super::*;

    #[test]
    fn a_file_that_claims_more_than_it_holds_is_refused() {
        let file = [0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, 1, 2, 3];
        let error = read_array("train-images", &file[..], 1 << 20).unwrap_err();
        assert!(error.to_string().contains("claims 8 bytes"), "{error}");
    }

    #[test]
    fn a_file_that_goes_on_is_refused() {
        let file = [0, 0, 0x0b, 1, 0, 0, 0, 1, 0x01, 0x00, 0x02];
        let error = read_array("labels", &file[..], 1 << 20).unwrap_err();
        assert!(error.to_string().contains("has more"), "{error}");
    }

    #[test]
    fn big_endian_numbers_are_read() {
        let file = [0, 0, 0x0b, 1, 0, 0, 0, 2, 0x01, 0x00, 0xff, 0xff];
        let array = read_array("labels", &file[..], 1 << 20).unwrap();
        assert_eq!(array.elements, Elements::I64(vec![256, -1]));
    }
}
