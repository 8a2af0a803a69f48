//! Cast, CastLike and BitCast: from every type to every type.

use crate::graph::params::RuleError;
use crate::host::array::{Array, Data, is_float, is_int};
use crate::host::call::{Call, Outcome};
use crate::host::number::{
    PowerRounding, decode, element_bits, encode, largest_float, round_float, round_power, wrap_int,
};
use crate::onnx::dtype_name;
use crate::onnx::proto::data_type::{self, BOOL, FLOAT, FLOAT8E8M0, STRING, UINT64};

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    Some(match call.operator() {
        "Cast" => wanted_type(call).and_then(|kind| convert(call, kind)),
        "CastLike" => call.input(1).and_then(|like| convert(call, like.data_type)),
        "BitCast" => bit_cast(call),
        _ => return None,
    })
}

fn wanted_type(call: &Call) -> Result<i32, RuleError> {
    let kind = call.node.int("to").unwrap_or_default();
    i32::try_from(kind)
        .ok()
        .filter(|&kind| is_float(kind) || is_int(kind) || matches!(kind, BOOL | STRING))
        .ok_or_else(|| call.unsupported(format!("casts to the type {kind}")))
}

/// How numbers become floating-point numbers of a small type (Cast since operator set 19).
struct Rounding {
    /// Whether the largest number stands for what lies beyond it.
    saturate: bool,
    powers: PowerRounding,
}

fn convert(call: &Call, kind: i32) -> Outcome {
    let x = call.input(0)?;
    let rounding = Rounding {
        saturate: call.node.int("saturate").unwrap_or(1) != 0,
        powers: match call.node.text("round_mode").unwrap_or("up") {
            "up" => PowerRounding::Up,
            "down" => PowerRounding::Down,
            "nearest" => PowerRounding::Nearest,
            other => return Err(call.unsupported(format!("has the `round_mode` {other:?}"))),
        },
    };
    let dims = x.dims.clone();
    Ok(vec![match kind {
        _ if kind == x.data_type => x.clone(),
        STRING => Array {
            data_type: STRING,
            dims,
            data: Data::Text(to_texts(x)),
        },
        _ if is_float(kind) => Array::float(kind, dims, to_floats(x, kind, &rounding)?),
        _ => Array::int(kind, dims, to_ints(x, kind)?),
    }])
}

/// `value` as an element of the floating-point type `kind`; float8 saturates unless told otherwise.
pub(in crate::host) fn to_float(kind: i32, value: f64, saturate: bool) -> f64 {
    use data_type::*;
    let largest = match kind {
        FLOAT8E4M3FN | FLOAT8E4M3FNUZ | FLOAT8E5M2 | FLOAT8E5M2FNUZ if saturate => {
            largest_float(kind)
        }
        _ => f64::INFINITY,
    };
    round_float(kind, value.clamp(-largest, largest))
}

/// `value` as an integer of type `kind`: the fraction is cut off, then the highest bits.
pub(in crate::host) fn to_int(kind: i32, value: f64) -> i64 {
    match kind {
        BOOL => i64::from(value != 0.0),
        UINT64 if value > 0.0 => value as u64 as i64,
        _ => wrap_int(kind, value as i64),
    }
}

fn to_floats(x: &Array, kind: i32, rounding: &Rounding) -> Result<Vec<f64>, RuleError> {
    let convert = |value: f64| match kind {
        FLOAT8E8M0 => round_power(value, rounding.powers, rounding.saturate),
        _ => to_float(kind, value, rounding.saturate),
    };
    Ok(match &x.data {
        Data::Float(values) => values.iter().map(|&v| convert(v)).collect(),
        // Rounded once, not by way of float64.
        Data::Int(values) if kind == FLOAT && x.data_type == UINT64 => {
            values.iter().map(|&v| f64::from(v as u64 as f32)).collect()
        }
        Data::Int(values) if kind == FLOAT => values.iter().map(|&v| f64::from(v as f32)).collect(),
        Data::Int(_) => x.numbers()?.iter().map(|&v| convert(v)).collect(),
        Data::Text(values) => values
            .iter()
            .map(|text| Ok(convert(read_float(text)?)))
            .collect::<Result<_, RuleError>>()?,
    })
}

fn to_ints(x: &Array, kind: i32) -> Result<Vec<i64>, RuleError> {
    Ok(match &x.data {
        Data::Int(values) => values.iter().map(|&v| wrap_int(kind, v)).collect(),
        Data::Float(values) => values.iter().map(|&v| to_int(kind, v)).collect(),
        Data::Text(values) => values
            .iter()
            .map(|text| read_int(text, kind))
            .collect::<Result<_, _>>()?,
    })
}

fn read_text(text: &[u8]) -> &str {
    std::str::from_utf8(text).unwrap_or_default().trim()
}

/// The number that `text` spells, infinity and NaN in any case.
fn read_float(text: &[u8]) -> Result<f64, RuleError> {
    read_text(text).parse().map_err(|_| {
        RuleError::new(format!(
            "casts the string {:?}, which is no number",
            String::from_utf8_lossy(&text[..text.len().min(60)])
        ))
    })
}

/// The integer that `text` spells; the fraction of another number is cut off.
fn read_int(text: &[u8], kind: i32) -> Result<i64, RuleError> {
    let trimmed = read_text(text);
    match (trimmed.parse::<i64>(), trimmed.parse::<u64>()) {
        (Ok(value), _) => Ok(wrap_int(kind, value)),
        (_, Ok(value)) => Ok(wrap_int(kind, value as i64)),
        _ => Ok(to_int(kind, read_float(text)?)),
    }
}

/// Numbers as text: the shortest plain decimals that read back as the same number.
fn to_texts(x: &Array) -> Vec<Vec<u8>> {
    let text = |value: f64| match value {
        _ if value.is_infinite() => if value > 0.0 { "INF" } else { "-INF" }.to_owned(),
        _ if x.data_type == data_type::DOUBLE => value.to_string(),
        _ => (value as f32).to_string(),
    };
    match &x.data {
        Data::Float(values) => values.iter().map(|&v| text(v).into_bytes()).collect(),
        Data::Int(values) if x.data_type == UINT64 => values
            .iter()
            .map(|&v| (v as u64).to_string().into_bytes())
            .collect(),
        Data::Int(values) => values.iter().map(|v| v.to_string().into_bytes()).collect(),
        Data::Text(values) => values.clone(),
    }
}

/// BitCast: the same bits read as another type of the same width.
fn bit_cast(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let kind = wanted_type(call)?;
    if element_bits(kind) != element_bits(x.data_type) || element_bits(kind).is_none() {
        return Err(RuleError::new(format!(
            "reads elements of type {} as {}, which are not of the same width",
            dtype_name(x.data_type),
            dtype_name(kind)
        )));
    }
    let mut stored = encode(x, "");
    stored.data_type = Some(kind);
    Ok(vec![decode(&stored)?])
}
