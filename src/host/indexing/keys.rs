//! Elements of every type as keys, integers in the same order, so that one comparison serves all.

use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::onnx::proto::data_type;

/// A key for each number. Both zeros are equal; all NaN are equal and come last, as numpy sorts.
pub(super) fn number_keys(array: &Array) -> Result<Vec<u64>, RuleError> {
    const SIGN: u64 = 1 << 63;
    let float = |&value: &f64| match value {
        value if value.is_nan() => u64::MAX,
        0.0 => SIGN,
        value if value.is_sign_negative() => !value.to_bits(),
        value => value.to_bits() | SIGN,
    };
    Ok(match &array.data {
        Data::Float(values) => values.iter().map(float).collect(),
        _ if array.data_type == data_type::UINT64 => {
            array.ints()?.iter().map(|&value| value as u64).collect()
        }
        _ => array.ints()?.iter().map(|&v| v as u64 ^ SIGN).collect(),
    })
}

/// A key for each element; strings are ordered by their bytes.
pub(super) fn keys(array: &Array) -> Result<Vec<u64>, RuleError> {
    let Data::Text(values) = &array.data else {
        return number_keys(array);
    };
    let mut sorted: Vec<&Vec<u8>> = values.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let rank = |value| sorted.partition_point(|&other| other < value) as u64;
    Ok(values.iter().map(rank).collect())
}
