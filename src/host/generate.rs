//! Operators that make tensors from attributes: constants, ranges, random numbers, and vectors that
//! count n-grams.

mod ngrams;
mod random;

use super::array::{Array, Data};
use super::call::{Call, Outcome};
use super::movement::{room, ruled, sizes, take};
use crate::graph::params::RuleError;
use crate::onnx::dtype_name;
use crate::onnx::proto::data_type;

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    let rule: fn(&Call) -> Outcome = match call.operator() {
        "Constant" => constant,
        "ConstantOfShape" => constant_of_shape,
        "Range" => range,
        "RandomNormal" | "RandomNormalLike" => random::normal,
        "RandomUniform" | "RandomUniformLike" => random::uniform,
        "Bernoulli" => random::bernoulli,
        "Multinomial" => random::multinomial,
        "TfIdfVectorizer" => ngrams::tf_idf_vectorizer,
        _ => return None,
    };
    Some(ruled(call, rule))
}

/// Constant, in every form but the sparse one.
fn constant(call: &Call) -> Outcome {
    for attribute in &call.node.attribute {
        let text = |dims: Vec<usize>, values: Vec<Vec<u8>>| Array {
            data_type: data_type::STRING,
            dims,
            data: Data::Text(values),
        };
        let float = |dims: Vec<usize>, values: &[f32]| {
            let values = values.iter().map(|&value| value.into()).collect();
            Array::float(data_type::FLOAT, dims, values)
        };
        let value = match attribute.name.as_deref() {
            Some("value") => match &attribute.t {
                Some(tensor) => Array::decode(tensor)?,
                None => return Err(RuleError::new("has no tensor in its `value`")),
            },
            Some("value_float") => float(vec![], &[attribute.f.unwrap_or_default()]),
            Some("value_floats") => float(vec![attribute.floats.len()], &attribute.floats),
            Some("value_int") => Array::int64(vec![], vec![attribute.i.unwrap_or_default()]),
            Some("value_ints") => Array::int64(vec![attribute.ints.len()], attribute.ints.clone()),
            Some("value_string") => text(vec![], vec![attribute.s.clone().unwrap_or_default()]),
            Some("value_strings") => text(vec![attribute.strings.len()], attribute.strings.clone()),
            Some("sparse_value") => return Err(call.unsupported("has a `sparse_value`")),
            _ => continue,
        };
        return Ok(vec![value]);
    }
    Err(RuleError::new("has no value"))
}

/// ConstantOfShape.
fn constant_of_shape(call: &Call) -> Outcome {
    let dims = sizes(call.input(0)?)?;
    let count = room(call, &dims)?;
    let tensor = call.node.attribute("value").and_then(|a| a.t.as_ref());
    let value = match tensor {
        Some(tensor) => Array::decode(tensor)?,
        None => Array::float(data_type::FLOAT, vec![1], vec![0.0]),
    };
    if value.len() != 1 {
        return Err(RuleError::new(format!("has {} values", value.len())));
    }
    Ok(vec![take(call, &value, dims, &vec![0; count])?])
}

/// Range. Floats are computed in float64, whatever the `stash_type`.
fn range(call: &Call) -> Outcome {
    let parts = [call.input(0)?, call.input(1)?, call.input(2)?];
    let kind = parts[0].data_type;
    if let Some(other) = parts.iter().find(|part| part.data_type != kind) {
        return Err(RuleError::new(format!(
            "mixes elements of type {} and {}",
            dtype_name(kind),
            dtype_name(other.data_type)
        )));
    }
    if parts.iter().any(|part| part.len() != 1) {
        return Err(RuleError::new("needs one start, one limit and one delta"));
    }
    if let Data::Float(_) = parts[0].data {
        let [start, limit, delta] = [parts[0].scalar()?, parts[1].scalar()?, parts[2].scalar()?];
        let count = ((limit - start) / delta).ceil().max(0.0);
        if delta == 0.0 || !(limit - start).is_finite() || !count.is_finite() {
            return Err(RuleError::new(format!(
                "counts from {start} to {limit} by {delta}"
            )));
        }
        let count = room(call, &[count as usize])?;
        let values = (0..count).map(|i| start + i as f64 * delta).collect();
        return Ok(vec![Array::float(kind, vec![count], values)]);
    }
    let wide = |part: &Array| -> Result<i128, RuleError> {
        let value = part.ints()?[0];
        Ok(if kind == data_type::UINT64 {
            i128::from(value as u64)
        } else {
            i128::from(value)
        })
    };
    let [start, limit, delta] = [wide(parts[0])?, wide(parts[1])?, wide(parts[2])?];
    if delta == 0 {
        return Err(RuleError::new("counts by zero"));
    }
    let span = (limit - start) * delta.signum();
    let step = delta.abs();
    let count = ((span + step - 1) / step).max(0);
    let count = room(call, &[usize::try_from(count).unwrap_or(usize::MAX)])?;
    let values = (0..count as i128)
        .map(|index| (start + index * delta) as i64)
        .collect();
    Ok(vec![Array::int(kind, vec![count], values)])
}
