//! The elementwise functions and their derivatives, over some elements at a time.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use super::add;
use super::math::{erf, exp, sigmoid, tanh};
use crate::exec::ops::elementwise::{Binary, Unary};

#[inline(always)]
fn map(x: &[f32], out: &mut [f32], function: impl Fn(f32) -> f32) {
    out.iter_mut().zip(x).for_each(|(o, x)| *o = function(*x));
}

#[inline(always)]
fn map_two(a: &[f32], b: &[f32], out: &mut [f32], function: impl Fn(f32, f32) -> f32) {
    let both = a.iter().zip(b);
    out.iter_mut()
        .zip(both)
        .for_each(|(o, (a, b))| *o = function(*a, *b));
}

/// `out[i] += function(a[i], b[i])`
#[inline(always)]
pub(super) fn gather(out: &mut [f32], a: &[f32], b: &[f32], function: impl Fn(f32, f32) -> f32) {
    let both = a.iter().zip(b);
    out.iter_mut()
        .zip(both)
        .for_each(|(o, (a, b))| *o += function(*a, *b));
}

#[inline(always)]
pub(super) fn power(x: f32, exponent: f32) -> f32 {
    match exponent {
        0.0 => 1.0,
        1.0 => x,
        2.0 => x * x,
        3.0 => x * x * x,
        0.5 => x.sqrt(),
        -0.5 => 1.0 / x.sqrt(),
        -1.0 => 1.0 / x,
        other => x.powf(other),
    }
}

#[inline(always)]
pub(super) fn raise(x: &[f32], exponent: f32, out: &mut [f32]) {
    // The common ones as loops of their own, which become vector instructions.
    match exponent {
        2.0 => map(x, out, |x| x * x),
        3.0 => map(x, out, |x| x * x * x),
        0.5 => map(x, out, f32::sqrt),
        other => map(x, out, |x| power(x, other)),
    }
}

/// `ln(1 + eˣ)`
#[inline(always)]
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The square root of 2 ÷ π.
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

#[inline(always)]
fn exponential_half(x: f32, scale: f32, width: f32) -> f32 {
    if x > 0.0 {
        x
    } else {
        scale * (x / width).exp_m1()
    }
}

impl Unary {
    #[inline(always)]
    pub(in crate::exec) fn compute(self, x: &[f32], out: &mut [f32]) {
        match self {
            // What is no number stays that.
            Self::Relu => map(x, out, |x| if x < 0.0 { 0.0 } else { x }),
            Self::LeakyRelu { alpha } => map(x, out, |x| if x < 0.0 { alpha * x } else { x }),
            Self::Elu { alpha } => map(x, out, |x| exponential_half(x, alpha, 1.0)),
            Self::Selu { alpha, gamma } => {
                map(x, out, |x| gamma * exponential_half(x, alpha, 1.0));
            }
            Self::Celu { alpha } => map(x, out, |x| exponential_half(x, alpha, alpha)),
            Self::Sigmoid => map(x, out, sigmoid),
            Self::HardSigmoid { alpha, beta } => {
                map(x, out, |x| (alpha * x + beta).clamp(0.0, 1.0));
            }
            Self::HardSwish => map(x, out, |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
            Self::Tanh => map(x, out, tanh),
            Self::Softplus => map(x, out, softplus),
            Self::Softsign => map(x, out, |x| x / (1.0 + x.abs())),
            Self::Mish => map(x, out, |x| x * tanh(softplus(x))),
            Self::Gelu { tanh: false } => {
                map(x, out, |x| 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)));
            }
            Self::Gelu { tanh: true } => map(x, out, |x| {
                let inner = GELU_SCALE * (x + GELU_CUBIC * x * x * x);
                0.5 * x * (1.0 + tanh(inner))
            }),
            Self::Swish { alpha } => map(x, out, |x| x * sigmoid(alpha * x)),
            Self::ThresholdedRelu { alpha } => map(x, out, |x| if x <= alpha { 0.0 } else { x }),
            Self::Clip { min, max } => map(x, out, |x| {
                let low = if x < min { min } else { x };
                if low > max { max } else { low }
            }),
            Self::Exp => map(x, out, exp),
            Self::Log => map(x, out, f32::ln),
            Self::Sqrt => map(x, out, f32::sqrt),
            Self::Abs => map(x, out, f32::abs),
            Self::Neg => map(x, out, |x| -x),
            Self::Reciprocal => map(x, out, |x| 1.0 / x),
            Self::Erf => map(x, out, erf),
            Self::Floor => map(x, out, f32::floor),
            Self::Ceil => map(x, out, f32::ceil),
            Self::Round => map(x, out, f32::round_ties_even),
            Self::Sign => map(x, out, |x| match x {
                x if x > 0.0 => 1.0,
                x if x < 0.0 => -1.0,
                x => x,
            }),
            Self::Sin => map(x, out, f32::sin),
            Self::Cos => map(x, out, f32::cos),
            Self::Tan => map(x, out, f32::tan),
            Self::Asin => map(x, out, f32::asin),
            Self::Acos => map(x, out, f32::acos),
            Self::Atan => map(x, out, f32::atan),
            Self::Sinh => map(x, out, f32::sinh),
            Self::Cosh => map(x, out, f32::cosh),
            Self::Asinh => map(x, out, f32::asinh),
            Self::Acosh => map(x, out, f32::acosh),
            Self::Atanh => map(x, out, f32::atanh),
            Self::Shrink { lambda, bias } => map(x, out, |x| match x {
                x if x > lambda => x - bias,
                x if x < -lambda => x + bias,
                _ => 0.0,
            }),
            Self::Identity => out.copy_from_slice(x),
        }
    }

    /// `out[i] += g[i] · f′(x[i])`, with `y = f(x)`.
    #[inline(always)]
    pub(in crate::exec) fn go_back(self, x: &[f32], y: &[f32], g: &[f32], out: &mut [f32]) {
        let half = |x: f32, scale: f32, width: f32| match x > 0.0 {
            true => 1.0,
            false => scale / width * (x / width).exp(),
        };
        match self {
            Self::Relu => gather(out, y, g, |y, g| if y > 0.0 { g } else { 0.0 }),
            Self::LeakyRelu { alpha } => {
                gather(out, x, g, |x, g| if x > 0.0 { g } else { alpha * g });
            }
            Self::Elu { alpha } => gather(out, x, g, |x, g| g * half(x, alpha, 1.0)),
            Self::Selu { alpha, gamma } => {
                gather(out, x, g, |x, g| g * gamma * half(x, alpha, 1.0));
            }
            Self::Celu { alpha } => gather(out, x, g, |x, g| g * half(x, alpha, alpha)),
            Self::Sigmoid => gather(out, y, g, |y, g| g * y * (1.0 - y)),
            Self::HardSigmoid { alpha, .. } => {
                gather(
                    out,
                    y,
                    g,
                    |y, g| if y > 0.0 && y < 1.0 { alpha * g } else { 0.0 },
                );
            }
            Self::HardSwish => gather(out, x, g, |x, g| match x {
                x if x <= -3.0 => 0.0,
                x if x >= 3.0 => g,
                x => g * (x / 3.0 + 0.5),
            }),
            Self::Tanh => gather(out, y, g, |y, g| g * (1.0 - y * y)),
            Self::Softplus => gather(out, x, g, |x, g| g * sigmoid(x)),
            Self::Softsign => gather(out, x, g, |x, g| {
                let below = 1.0 + x.abs();
                g / (below * below)
            }),
            Self::Mish => gather(out, x, g, |x, g| {
                let gate = tanh(softplus(x));
                g * (gate + x * (1.0 - gate * gate) * sigmoid(x))
            }),
            Self::Gelu { tanh: false } => gather(out, x, g, |x, g| {
                let below = 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2));
                let density = 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * exp(-0.5 * x * x);
                g * (below + x * density)
            }),
            Self::Gelu { tanh: true } => gather(out, x, g, |x, g| {
                let bent = tanh(GELU_SCALE * (x + GELU_CUBIC * x * x * x));
                let slope = GELU_SCALE * (1.0 + 3.0 * GELU_CUBIC * x * x);
                g * 0.5 * (1.0 + bent + x * (1.0 - bent * bent) * slope)
            }),
            Self::Swish { alpha } => gather(out, x, g, |x, g| {
                let gate = sigmoid(alpha * x);
                g * (gate + alpha * x * gate * (1.0 - gate))
            }),
            Self::ThresholdedRelu { alpha } => {
                gather(out, x, g, |x, g| if x <= alpha { 0.0 } else { g });
            }
            Self::Clip { min, max } => gather(out, y, g, |y, g| match y > min && y < max {
                true => g,
                false => 0.0,
            }),
            Self::Exp => gather(out, y, g, |y, g| g * y),
            Self::Log => gather(out, x, g, |x, g| g / x),
            Self::Sqrt => gather(out, y, g, |y, g| 0.5 * g / y),
            Self::Abs => gather(out, x, g, |x, g| match x {
                x if x > 0.0 => g,
                x if x < 0.0 => -g,
                _ => 0.0,
            }),
            Self::Neg => out.iter_mut().zip(g).for_each(|(o, g)| *o -= *g),
            Self::Reciprocal => gather(out, y, g, |y, g| -g * y * y),
            Self::Erf => gather(out, x, g, |x, g| g * FRAC_2_SQRT_PI * exp(-x * x)),
            Self::Floor | Self::Ceil | Self::Round | Self::Sign => {}
            Self::Sin => gather(out, x, g, |x, g| g * x.cos()),
            Self::Cos => gather(out, x, g, |x, g| -g * x.sin()),
            Self::Tan => gather(out, y, g, |y, g| g * (1.0 + y * y)),
            Self::Asin => gather(out, x, g, |x, g| g / ((1.0 - x) * (1.0 + x)).sqrt()),
            Self::Acos => gather(out, x, g, |x, g| -g / ((1.0 - x) * (1.0 + x)).sqrt()),
            Self::Atan => gather(out, x, g, |x, g| g / (1.0 + x * x)),
            Self::Sinh => gather(out, x, g, |x, g| g * x.cosh()),
            Self::Cosh => gather(out, x, g, |x, g| g * x.sinh()),
            Self::Asinh => gather(out, x, g, |x, g| g / (x * x + 1.0).sqrt()),
            Self::Acosh => gather(out, x, g, |x, g| g / ((x - 1.0) * (x + 1.0)).sqrt()),
            Self::Atanh => gather(out, x, g, |x, g| g / ((1.0 - x) * (1.0 + x))),
            Self::Shrink { lambda, .. } => {
                gather(out, x, g, |x, g| if x.abs() > lambda { g } else { 0.0 });
            }
            Self::Identity => add(out, g),
        }
    }
}

impl Binary {
    #[inline(always)]
    pub(in crate::exec) fn compute(self, a: &[f32], b: &[f32], out: &mut [f32]) {
        match self {
            Self::Add => map_two(a, b, out, |a, b| a + b),
            Self::Sub => map_two(a, b, out, |a, b| a - b),
            Self::Mul => map_two(a, b, out, |a, b| a * b),
            Self::Div => map_two(a, b, out, |a, b| a / b),
            Self::Pow => map_two(a, b, out, f32::powf),
            Self::Max => map_two(a, b, out, |a, b| if b > a { b } else { a }),
            Self::Min => map_two(a, b, out, |a, b| if b < a { b } else { a }),
        }
    }

    /// Adds to `out` the gradient by one side of both; of two alike the first is the larger and the
    /// smaller.
    #[inline(always)]
    pub(in crate::exec) fn go_back(
        self,
        side: usize,
        [a, b]: [&[f32]; 2],
        y: &[f32],
        g: &[f32],
        out: &mut [f32],
    ) {
        match (self, side) {
            (Self::Add, _) | (Self::Sub, 0) => add(out, g),
            (Self::Sub, _) => out.iter_mut().zip(g).for_each(|(o, g)| *o -= *g),
            (Self::Mul, 0) => gather(out, b, g, |b, g| b * g),
            (Self::Mul, _) => gather(out, a, g, |a, g| a * g),
            (Self::Div, 0) => gather(out, b, g, |b, g| g / b),
            (Self::Div, _) => {
                let quotients = y.iter().zip(b).zip(g);
                let each = out.iter_mut().zip(quotients);
                each.for_each(|(o, ((y, b), g))| *o -= g * y / b);
            }
            (Self::Pow, 0) => {
                let all = a.iter().zip(b).zip(g);
                let each = out.iter_mut().zip(all);
                each.for_each(|(o, ((a, b), g))| *o += g * b * a.powf(b - 1.0));
            }
            (Self::Pow, _) => {
                let all = y.iter().zip(a).zip(g);
                let each = out.iter_mut().zip(all);
                each.for_each(|(o, ((y, a), g))| *o += g * y * a.ln());
            }
            (Self::Max | Self::Min, side) => {
                let all = a.iter().zip(b).zip(g);
                for (o, ((a, b), g)) in out.iter_mut().zip(all) {
                    let second = match self {
                        Self::Max => b > a,
                        _ => b < a,
                    };
                    *o += if second == (side == 1) { *g } else { 0.0 };
                }
            }
        }
    }
}
