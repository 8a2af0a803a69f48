//! Operators of two tensors or more, element by element after broadcasting.

use std::cmp::Ordering;

use super::rows::zip;
use super::unary::bools;
use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome};
use crate::host::number::int_bits;
use crate::onnx::dtype_name;
use crate::onnx::proto::data_type;

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    use Ordering::{Equal, Greater, Less};
    Some(match call.operator() {
        "Add" => arithmetic(call, |a, b| a + b, i64::wrapping_add),
        "Sub" => arithmetic(call, |a, b| a - b, i64::wrapping_sub),
        "Mul" => arithmetic(call, |a, b| a * b, i64::wrapping_mul),
        "Div" => divide(call),
        "Mod" => modulo(call),
        "Pow" => power(call),
        "PRelu" => parametric_relu(call),
        "SwiGLU" => gated(call),
        "Sum" | "Mean" => mean(call),
        "Max" => extreme(call, Greater),
        "Min" => extreme(call, Less),
        "Equal" => compare(call, |order| order == Some(Equal)),
        "Greater" => compare(call, |order| order == Some(Greater)),
        "Less" => compare(call, |order| order == Some(Less)),
        "GreaterOrEqual" => compare(call, |order| matches!(order, Some(Greater | Equal))),
        "LessOrEqual" => compare(call, |order| matches!(order, Some(Less | Equal))),
        "And" => logical(call, |a, b| a & b),
        "Or" => logical(call, |a, b| a | b),
        "Xor" => logical(call, |a, b| a ^ b),
        "BitwiseAnd" => bitwise(call, |a, b| a & b),
        "BitwiseOr" => bitwise(call, |a, b| a | b),
        "BitwiseXor" => bitwise(call, |a, b| a ^ b),
        "BitShift" => shift(call),
        _ => return None,
    })
}

/// Two inputs and the shape to which they broadcast.
struct Pair<'a> {
    a: &'a Array,
    b: &'a Array,
    dims: Vec<usize>,
}

impl<'a> Pair<'a> {
    /// Two inputs of any types.
    fn mixed(call: &Call<'a>) -> Result<Self, RuleError> {
        let (a, b) = (call.input(0)?, call.input(1)?);
        let dims = call.broadcast(&[&a.dims, &b.dims])?;
        Ok(Self { a, b, dims })
    }

    /// Two inputs of one type.
    fn alike(call: &Call<'a>) -> Result<Self, RuleError> {
        let pair = Self::mixed(call)?;
        same_type(pair.a, pair.b)?;
        Ok(pair)
    }

    fn floats<R>(&self, f: impl Fn(f64, f64) -> R) -> Result<Vec<R>, RuleError> {
        let (a, b) = (self.a.floats()?, self.b.floats()?);
        Ok(zip(&self.dims, (a, &self.a.dims), (b, &self.b.dims), f))
    }

    fn ints<R>(&self, f: impl Fn(i64, i64) -> R) -> Result<Vec<R>, RuleError> {
        let (a, b) = (self.a.ints()?, self.b.ints()?);
        Ok(zip(&self.dims, (a, &self.a.dims), (b, &self.b.dims), f))
    }

    /// The result, of the type of the first input.
    fn result(self, data: Data) -> Outcome {
        Ok(vec![self.a.with(self.dims, data)])
    }
}

fn same_type(a: &Array, b: &Array) -> Result<(), RuleError> {
    if a.data_type == b.data_type {
        return Ok(());
    }
    Err(RuleError::new(format!(
        "mixes elements of type {} and {}",
        dtype_name(a.data_type),
        dtype_name(b.data_type)
    )))
}

/// Whether the integer type `kind` has no sign.
fn unsigned(kind: i32) -> bool {
    !int_bits(kind).1
}

/// What makes integers of type `kind` comparable by exclusive or: for uint64, which is kept by its
/// bits, the turn of the sign bit.
fn order_mask(kind: i32) -> i64 {
    if kind == data_type::UINT64 {
        i64::MIN
    } else {
        0
    }
}

/// Add, Sub and Mul.
fn arithmetic(
    call: &Call,
    of_floats: impl Fn(f64, f64) -> f64,
    of_ints: impl Fn(i64, i64) -> i64,
) -> Outcome {
    let pair = Pair::alike(call)?;
    let data = match pair.a.data {
        Data::Int(_) => Data::Int(pair.ints(of_ints)?),
        _ => Data::Float(pair.floats(of_floats)?),
    };
    pair.result(data)
}

/// Refuses a divisor of zero.
fn checked_divisors(pair: &Pair) -> Result<(), RuleError> {
    if pair.b.ints()?.contains(&0) && !pair.dims.contains(&0) {
        return Err(RuleError::new("divides an integer by zero"));
    }
    Ok(())
}

/// Div; of integers, the fraction is cut off.
fn divide(call: &Call) -> Outcome {
    let pair = Pair::alike(call)?;
    let data = match pair.a.data {
        Data::Int(_) => {
            checked_divisors(&pair)?;
            Data::Int(if unsigned(pair.a.data_type) {
                pair.ints(|a, b| (a as u64 / b as u64) as i64)?
            } else {
                pair.ints(i64::wrapping_div)?
            })
        }
        _ => Data::Float(pair.floats(|a, b| a / b)?),
    };
    pair.result(data)
}

/// Mod: the remainder with the sign of the dividend where `fmod` is set, of the divisor otherwise.
fn modulo(call: &Call) -> Outcome {
    let pair = Pair::alike(call)?;
    let truncated = call.node.int("fmod").unwrap_or(0) == 1;
    let data = match pair.a.data {
        Data::Int(_) => {
            checked_divisors(&pair)?;
            Data::Int(match truncated {
                _ if unsigned(pair.a.data_type) => {
                    pair.ints(|a, b| (a as u64 % b as u64) as i64)?
                }
                true => pair.ints(i64::wrapping_rem)?,
                false => pair.ints(|a, b| match a.wrapping_rem(b) {
                    rest if rest != 0 && (rest < 0) != (b < 0) => rest + b,
                    rest => rest,
                })?,
            })
        }
        _ if truncated => Data::Float(pair.floats(|a, b| a % b)?),
        _ => Data::Float(pair.floats(|a, b| match a % b {
            rest if rest != 0.0 && (rest < 0.0) != (b < 0.0) => rest + b,
            rest => rest,
        })?),
    };
    pair.result(data)
}

/// Pow; the result has the type of the base, whatever that of the exponent.
fn power(call: &Call) -> Outcome {
    let pair = Pair::mixed(call)?;
    let (base, exponent) = (pair.a, pair.b);
    let kind = base.data_type;
    let data = match (&base.data, &exponent.data) {
        (Data::Int(bases), Data::Int(exponents)) => {
            let whole = unsigned(exponent.data_type);
            if !whole && exponents.iter().any(|&e| e < 0) && bases.contains(&0) {
                return Err(RuleError::new("has a negative power of zero"));
            }
            Data::Int(pair.ints(|a, e| int_power(a, e, whole))?)
        }
        (Data::Int(_), _) => {
            let powers = zip(
                &pair.dims,
                (&base.numbers()?, &base.dims),
                (exponent.floats()?, &exponent.dims),
                f64::powf,
            );
            let cut = powers.iter().map(|&v| super::cast::to_int(kind, v));
            Data::Int(cut.collect())
        }
        _ => Data::Float(zip(
            &pair.dims,
            (base.floats()?, &base.dims),
            (&exponent.numbers()?, &exponent.dims),
            f64::powf,
        )),
    };
    pair.result(data)
}

/// `base` to the power of `exponent`, wrapping; a fraction is cut off. `whole` exponents are unsigned.
fn int_power(base: i64, exponent: i64, whole: bool) -> i64 {
    if exponent < 0 && !whole {
        return match base {
            1 => 1,
            -1 => 1 - 2 * (exponent & 1),
            _ => 0,
        };
    }
    let (mut power, mut square, mut rest) = (1i64, base, exponent as u64);
    while rest != 0 {
        if rest & 1 == 1 {
            power = power.wrapping_mul(square);
        }
        square = square.wrapping_mul(square);
        rest >>= 1;
    }
    power
}

/// PRelu: negative elements times the slope, which broadcasts to the shape of the input.
fn parametric_relu(call: &Call) -> Outcome {
    let pair = Pair::alike(call)?;
    if pair.dims != pair.a.dims {
        return Err(RuleError::new(format!(
            "has a slope of shape {:?} for an input of shape {:?}",
            pair.b.dims, pair.a.dims
        )));
    }
    let data = match pair.a.data {
        Data::Int(_) if unsigned(pair.a.data_type) => pair.a.data.clone(),
        Data::Int(_) => Data::Int(pair.ints(|x, slope| match x {
            0.. => x,
            _ => x.wrapping_mul(slope),
        })?),
        _ => Data::Float(pair.floats(|x, slope| if x < 0.0 { x * slope } else { x })?),
    };
    pair.result(data)
}

/// SwiGLU (opset 28): `a ÷ (1 + e^(−alpha · a)) · b`.
fn gated(call: &Call) -> Outcome {
    let pair = Pair::alike(call)?;
    let alpha = f64::from(call.node.float("alpha").unwrap_or(1.0));
    let values = pair.floats(|a, b| a / (1.0 + (-alpha * a).exp()) * b)?;
    pair.result(Data::Float(values))
}

/// Folds any number of inputs of one type; floats are rounded by the caller.
fn fold<'a>(
    call: &Call<'a>,
    of_floats: impl Fn(f64, f64) -> f64,
    of_ints: impl Fn(i64, i64) -> i64,
) -> Result<(&'a Array, Vec<usize>, Data), RuleError> {
    let first = call.input(0)?;
    let mut dims = first.dims.clone();
    let mut sum = first.data.clone();
    for index in 1..call.inputs.len() {
        let next = call.input(index)?;
        same_type(first, next)?;
        let out = call.broadcast(&[&dims, &next.dims])?;
        sum = match &sum {
            Data::Int(values) => {
                let next = (next.ints()?, &*next.dims);
                Data::Int(zip(&out, (values, &dims), next, &of_ints))
            }
            Data::Float(values) => {
                let next = (next.floats()?, &*next.dims);
                Data::Float(zip(&out, (values, &dims), next, &of_floats))
            }
            Data::Text(_) => return Err(RuleError::new("needs numbers, not strings")),
        };
        dims = out;
    }
    Ok((first, dims, sum))
}

/// Sum and Mean.
fn mean(call: &Call) -> Outcome {
    let (first, dims, mut sum) = fold(call, |a, b| a + b, i64::wrapping_add)?;
    if call.operator() == "Mean" {
        first.floats()?;
        if let Data::Float(values) = &mut sum {
            let count = call.inputs.len() as f64;
            values.iter_mut().for_each(|v| *v /= count);
        }
    }
    Ok(vec![first.with(dims, sum)])
}

/// Max and Min, by which side of the other one an element wins. NaN wins over everything.
fn extreme(call: &Call, side: Ordering) -> Outcome {
    let mask = order_mask(call.input(0)?.data_type);
    let (first, dims, data) = fold(
        call,
        |a, b| {
            if a.is_nan() || a.partial_cmp(&b) == Some(side) {
                a
            } else {
                b
            }
        },
        |a, b| {
            if (a ^ mask).cmp(&(b ^ mask)) == side {
                a
            } else {
                b
            }
        },
    )?;
    Ok(vec![first.with(dims, data)])
}

/// Equal, Greater, Less and their kin. NaN has no order.
fn compare(call: &Call, holds: impl Fn(Option<Ordering>) -> bool) -> Outcome {
    let pair = Pair::alike(call)?;
    let mask = order_mask(pair.a.data_type);
    let values = match (&pair.a.data, &pair.b.data) {
        (Data::Text(a), Data::Text(b)) => {
            let a: Vec<&[u8]> = a.iter().map(Vec::as_slice).collect();
            let b: Vec<&[u8]> = b.iter().map(Vec::as_slice).collect();
            let order = |a: &[u8], b: &[u8]| holds(Some(a.cmp(b)));
            zip(&pair.dims, (&a, &pair.a.dims), (&b, &pair.b.dims), order)
        }
        (Data::Int(_), _) => pair.ints(|a, b| holds(Some((a ^ mask).cmp(&(b ^ mask)))))?,
        _ => pair.floats(|a, b| holds(a.partial_cmp(&b)))?,
    };
    Ok(vec![Array::bools(pair.dims, values)])
}

/// And, Or and Xor of bools.
fn logical(call: &Call, f: impl Fn(i64, i64) -> i64) -> Outcome {
    let pair = Pair::alike(call)?;
    bools(pair.a)?;
    let values = pair.ints(f)?;
    pair.result(Data::Int(values))
}

/// BitwiseAnd, BitwiseOr and BitwiseXor of integers.
fn bitwise(call: &Call, f: impl Fn(i64, i64) -> i64) -> Outcome {
    let pair = Pair::alike(call)?;
    let values = pair.ints(f)?;
    pair.result(Data::Int(values))
}

/// BitShift; what is shifted out is lost, and negative numbers keep their sign to the right.
fn shift(call: &Call) -> Outcome {
    let pair = Pair::alike(call)?;
    let kind = pair.a.data_type;
    let (bits, signed) = int_bits(kind);
    let within = |by: i64| (0..i64::from(bits)).contains(&by);
    let values = match call.node.text("direction") {
        Some("LEFT") => pair.ints(|a, by| if within(by) { a << by } else { 0 })?,
        Some("RIGHT") if signed => pair.ints(|a, by| a >> if within(by) { by } else { 63 })?,
        Some("RIGHT") => pair.ints(|a, by| match within(by) {
            true => (a as u64 >> by) as i64,
            false => 0,
        })?,
        other => {
            return Err(RuleError::new(format!(
                "has the direction {other:?}, neither LEFT nor RIGHT"
            )));
        }
    };
    pair.result(Data::Int(values))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::onnx::proto::NodeProto;

    fn apply(operator: &str, inputs: Vec<Array>) -> Outcome {
        let node = NodeProto {
            op_type: Some(operator.to_owned()),
            ..NodeProto::default()
        };
        let inputs: Vec<_> = inputs.into_iter().map(|x| Some(Arc::new(x))).collect();
        let call = Call {
            node: &node,
            opset: 21,
            inputs: &inputs,
            most: 100,
        };
        evaluate(&call).unwrap()
    }

    fn ints(kind: i32, values: &[i64]) -> Array {
        Array::int(kind, vec![values.len()], values.to_vec())
    }

    #[test]
    fn an_integer_is_not_divided_by_zero() {
        for operator in ["Div", "Mod"] {
            let pair = vec![ints(data_type::INT32, &[1]), ints(data_type::INT32, &[0])];
            assert!(apply(operator, pair).is_err());
        }
    }

    #[test]
    fn uint64_beyond_the_range_of_int64_keeps_its_order_and_quotient() {
        let pair = vec![
            ints(data_type::UINT64, &[-2]),
            ints(data_type::UINT64, &[3]),
        ];
        let most = (u64::MAX - 1) as i64;
        for (operator, value) in [
            ("Div", ((u64::MAX - 1) / 3) as i64),
            ("Mod", ((u64::MAX - 1) % 3) as i64),
            ("Max", most),
            ("Min", 3),
            ("Greater", 1),
        ] {
            let found = apply(operator, pair.clone()).unwrap();
            assert_eq!(found[0].ints().unwrap(), [value], "{operator}");
        }
    }

    #[test]
    fn the_lowest_integer_divided_by_minus_one_wraps() {
        let pair = vec![
            ints(data_type::INT64, &[i64::MIN]),
            ints(data_type::INT64, &[-1]),
        ];
        let found = apply("Div", pair).unwrap();
        assert_eq!(found[0].ints().unwrap(), [i64::MIN]);
    }
}
