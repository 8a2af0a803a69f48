//! Operators of one tensor: what happens to an element depends on nothing but the attributes.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, PI};

use crate::graph::params::RuleError;
use crate::host::array::{Array, Data, is_int};
use crate::host::call::{Call, Outcome};
use crate::host::number::int_bits;
use crate::onnx::proto::{NodeProto, data_type};

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    match call.operator() {
        "Not" => Some(logical_not(call)),
        "BitwiseNot" => Some(bitwise_not(call)),
        "IsNaN" => Some(test(call, f64::is_nan)),
        "IsInf" => Some(is_inf(call)),
        "Shrink" => Some(shrink(call)),
        "Gelu" => Some(gelu(call)),
        _ => map(call),
    }
}

/// The operators that are a function of real numbers.
fn map(call: &Call) -> Option<Outcome> {
    let function = float_function(call.node)?;
    Some(call.input(0).and_then(|x| {
        let data = match (&x.data, int_function(call.operator(), x.data_type)) {
            (Data::Int(values), Some(function)) if is_int(x.data_type) => {
                Data::Int(values.iter().map(|&v| function(v)).collect())
            }
            _ => Data::Float(x.floats()?.iter().map(|&v| function(v)).collect()),
        };
        Ok(vec![x.with(x.dims.clone(), data)])
    }))
}

type Function = Box<dyn Fn(f64) -> f64>;

/// The function of a float operator with the node's attributes.
fn float_function(node: &NodeProto) -> Option<Function> {
    let attribute = |name: &str, default: f32| f64::from(node.float(name).unwrap_or(default));
    Some(match node.operator() {
        "Abs" => Box::new(f64::abs),
        "Acos" => Box::new(f64::acos),
        "Acosh" => Box::new(f64::acosh),
        "Asin" => Box::new(f64::asin),
        "Asinh" => Box::new(f64::asinh),
        "Atan" => Box::new(f64::atan),
        "Atanh" => Box::new(f64::atanh),
        "Ceil" => Box::new(f64::ceil),
        "Cos" => Box::new(f64::cos),
        "Cosh" => Box::new(f64::cosh),
        "Erf" => Box::new(erf),
        "Exp" => Box::new(f64::exp),
        "Floor" => Box::new(f64::floor),
        "Log" => Box::new(f64::ln),
        "Neg" => Box::new(|x| -x),
        "Reciprocal" => Box::new(f64::recip),
        "Round" => Box::new(f64::round_ties_even),
        "Sign" => Box::new(|x| if x == 0.0 { 0.0 } else { x.signum() }),
        "Sin" => Box::new(f64::sin),
        "Sinh" => Box::new(f64::sinh),
        "Sqrt" => Box::new(f64::sqrt),
        "Tan" => Box::new(f64::tan),
        "Tanh" => Box::new(f64::tanh),
        "Relu" => Box::new(|x| if x < 0.0 { 0.0 } else { x }),
        "Sigmoid" => Box::new(sigmoid),
        "Softplus" => Box::new(softplus),
        "Softsign" => Box::new(|x| x / (1.0 + x.abs())),
        "Mish" => Box::new(|x| x * softplus(x).tanh()),
        "HardSwish" => Box::new(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        "LeakyRelu" => {
            let alpha = attribute("alpha", 0.01);
            Box::new(move |x| if x < 0.0 { alpha * x } else { x })
        }
        "Elu" => {
            let alpha = attribute("alpha", 1.0);
            Box::new(move |x| if x < 0.0 { alpha * x.exp_m1() } else { x })
        }
        "Selu" => {
            let (alpha, gamma) = (
                attribute("alpha", 1.673_263_2),
                attribute("gamma", 1.050_701),
            );
            Box::new(move |x| gamma * if x <= 0.0 { alpha * x.exp_m1() } else { x })
        }
        "Celu" => {
            let alpha = attribute("alpha", 1.0);
            Box::new(move |x| {
                if x < 0.0 {
                    alpha * (x / alpha).exp_m1()
                } else {
                    x
                }
            })
        }
        "HardSigmoid" => {
            let (alpha, beta) = (attribute("alpha", 0.2), attribute("beta", 0.5));
            Box::new(move |x| (alpha * x + beta).clamp(0.0, 1.0))
        }
        "Swish" => {
            let alpha = attribute("alpha", 1.0);
            Box::new(move |x| x * sigmoid(alpha * x))
        }
        "ThresholdedRelu" => {
            let alpha = attribute("alpha", 1.0);
            Box::new(move |x| if x > alpha { x } else { 0.0 })
        }
        _ => return None,
    })
}

/// What a float operator does to integers, where it takes them.
fn int_function(operator: &str, kind: i32) -> Option<fn(i64) -> i64> {
    let (_, signed) = int_bits(kind);
    Some(match operator {
        "Abs" | "Relu" if !signed => |x| x,
        "Abs" => i64::wrapping_abs,
        "Relu" => |x| x.max(0),
        "Sign" if !signed => |x| i64::from(x != 0),
        "Sign" => i64::signum,
        "Neg" => i64::wrapping_neg,
        _ => return None,
    })
}

/// 1 / (1 + e^-x), without overflow.
pub(in crate::host) fn sigmoid(x: f64) -> f64 {
    let power = (-x.abs()).exp();
    if x < 0.0 {
        power / (1.0 + power)
    } else {
        1.0 / (1.0 + power)
    }
}

/// ln(1 + e^x), without overflow.
fn softplus(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The error function. Near zero by its series with terms of one sign (Abramowitz and Stegun 7.1.6),
/// far from it by the continued fraction of its complement (7.1.14).
fn erf(x: f64) -> f64 {
    let magnitude = x.abs();
    if magnitude.is_nan() {
        return x;
    }
    if magnitude > 6.0 {
        return 1f64.copysign(x);
    }
    let square = x * x;
    let decay = (-square).exp();
    if magnitude < 2.0 {
        let (mut term, mut sum, mut odd) = (x, x, 1.0);
        while term.abs() > sum.abs() * f64::EPSILON / 4.0 {
            odd += 2.0;
            term *= 2.0 * square / odd;
            sum += term;
        }
        return FRAC_2_SQRT_PI * decay * sum;
    }
    let fraction = (1..60).rev().fold(magnitude, |rest, step| {
        magnitude + f64::from(step) / 2.0 / rest
    });
    (1.0 - decay / (fraction * PI.sqrt())).copysign(x)
}

/// Gelu: x times the normal distribution function, or its tanh approximation (Hendrycks and Gimpel 2016).
fn gelu(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let values = x.floats()?.iter();
    let values = match call.node.text("approximate").unwrap_or("none") {
        "none" => values
            .map(|&x| 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)))
            .collect(),
        "tanh" => values
            .map(|&x| 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()))
            .collect(),
        other => return Err(call.unsupported(format!("has the `approximate` {other:?}"))),
    };
    Ok(vec![x.with(x.dims.clone(), Data::Float(values))])
}

/// Shrink: what lies within `lambd` of zero becomes zero, the rest moves towards zero by `bias`.
fn shrink(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let edge = f64::from(call.node.float("lambd").unwrap_or(0.5));
    let bias = f64::from(call.node.float("bias").unwrap_or(0.0));
    let shrunk = |&x: &f64| match x {
        _ if x < -edge => x + bias,
        _ if x > edge => x - bias,
        _ => 0.0,
    };
    let values = x.numbers()?;
    let values = values.iter().map(shrunk);
    let data = match &x.data {
        Data::Int(_) => Data::Int(
            values
                .map(|v| super::cast::to_int(x.data_type, v))
                .collect(),
        ),
        _ => Data::Float(values.collect()),
    };
    Ok(vec![x.with(x.dims.clone(), data)])
}

/// Not, of bools.
fn logical_not(call: &Call) -> Outcome {
    let x = bools(call.input(0)?)?;
    let values = x.ints()?.iter().map(|&v| v == 0);
    Ok(vec![Array::bools(x.dims.clone(), values)])
}

/// `array`, which has to hold bools.
pub(super) fn bools(array: &Array) -> Result<&Array, RuleError> {
    if array.data_type == data_type::BOOL {
        return Ok(array);
    }
    Err(RuleError::new("needs bools where it has another type"))
}

/// BitwiseNot, of integers.
fn bitwise_not(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let values = x.ints()?.iter().map(|&v| !v).collect();
    Ok(vec![x.with(x.dims.clone(), Data::Int(values))])
}

/// IsInf, with the signs that its attributes ask for.
fn is_inf(call: &Call) -> Outcome {
    let asked = |name| call.node.int(name).unwrap_or(1) != 0;
    let (negative, positive) = (asked("detect_negative"), asked("detect_positive"));
    test(call, |v| {
        v.is_infinite() && if v > 0.0 { positive } else { negative }
    })
}

fn test(call: &Call, holds: impl Fn(f64) -> bool) -> Outcome {
    let x = call.input(0)?;
    let values = x.floats()?.iter().map(|&v| holds(v));
    Ok(vec![Array::bools(x.dims.clone(), values)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Abramowitz and Stegun, table 7.1.
    #[test]
    fn erf_has_the_tabulated_values() {
        for (x, value) in [
            (0.0, 0.0),
            (0.1, 0.1124629160),
            (0.5, 0.5204998778),
            (1.0, 0.8427007929),
            (1.98, 0.9948920004),
            (2.0, 0.9953222650),
            (3.0, 0.9999779095),
        ] {
            assert!((erf(x) - value).abs() < 6e-11, "{x}: {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }
}
