//! Elementwise operators.

use burn::backend::Dispatch;
use burn::backend::TensorMetadata;
use burn::backend::ops::{ActivationOps, FloatTensorOps};

use crate::exec::value::{Value, bool_type, dims, expand, full, with_rank};
use crate::onnx::proto::NodeProto;

/// A function of one value, element by element; the name is the ONNX operator's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::exec) enum Unary {
    Relu,
    LeakyRelu { alpha: f32 },
    Elu { alpha: f32 },
    Selu { alpha: f32, gamma: f32 },
    Celu { alpha: f32 },
    Sigmoid,
    HardSigmoid { alpha: f32, beta: f32 },
    HardSwish,
    Tanh,
    Softplus,
    Softsign,
    Mish,
    Gelu { tanh: bool },
    Swish { alpha: f32 },
    ThresholdedRelu { alpha: f32 },
    Clip { min: f32, max: f32 },
    Exp,
    Log,
    Sqrt,
    Abs,
    Neg,
    Reciprocal,
    Erf,
    Floor,
    Ceil,
    Round,
    Sign,
    Sin,
    Cos,
    Tan,
    Asin,
    Acos,
    Atan,
    Sinh,
    Cosh,
    Asinh,
    Acosh,
    Atanh,
    Shrink { lambda: f32, bias: f32 },
    Identity,
}

impl Unary {
    /// Reads the operator and its attributes.
    pub fn of(node: &NodeProto) -> Option<Self> {
        let alpha = |default: f32| node.float("alpha").unwrap_or(default);
        Some(match node.operator() {
            "Relu" => Self::Relu,
            "LeakyRelu" => Self::LeakyRelu { alpha: alpha(0.01) },
            "Elu" => Self::Elu { alpha: alpha(1.0) },
            "Selu" => Self::Selu {
                alpha: alpha(1.673_263_2),
                gamma: node.float("gamma").unwrap_or(1.050_701),
            },
            "Celu" => Self::Celu { alpha: alpha(1.0) },
            "Sigmoid" => Self::Sigmoid,
            "HardSigmoid" => Self::HardSigmoid {
                alpha: alpha(0.2),
                beta: node.float("beta").unwrap_or(0.5),
            },
            "HardSwish" => Self::HardSwish,
            "Tanh" => Self::Tanh,
            "Softplus" => Self::Softplus,
            "Softsign" => Self::Softsign,
            "Mish" => Self::Mish,
            "Gelu" => Self::Gelu {
                tanh: node.text("approximate") == Some("tanh"),
            },
            "Swish" => Self::Swish { alpha: alpha(1.0) },
            "ThresholdedRelu" => Self::ThresholdedRelu { alpha: alpha(1.0) },
            "Exp" => Self::Exp,
            "Log" => Self::Log,
            "Sqrt" => Self::Sqrt,
            "Abs" => Self::Abs,
            "Neg" => Self::Neg,
            "Reciprocal" => Self::Reciprocal,
            "Erf" => Self::Erf,
            "Floor" => Self::Floor,
            "Ceil" => Self::Ceil,
            "Round" => Self::Round,
            "Sign" => Self::Sign,
            "Sin" => Self::Sin,
            "Cos" => Self::Cos,
            "Tan" => Self::Tan,
            "Asin" => Self::Asin,
            "Acos" => Self::Acos,
            "Atan" => Self::Atan,
            "Sinh" => Self::Sinh,
            "Cosh" => Self::Cosh,
            "Asinh" => Self::Asinh,
            "Acosh" => Self::Acosh,
            "Atanh" => Self::Atanh,
            "Shrink" => Self::Shrink {
                lambda: node.float("lambd").unwrap_or(0.5),
                bias: node.float("bias").unwrap_or(0.0),
            },
            "Identity" => Self::Identity,
            _ => return None,
        })
    }

    pub fn run(self, x: Value) -> Value {
        type B = Dispatch;
        match self {
            Self::Relu => B::relu(x),
            Self::LeakyRelu { alpha } => {
                let negative = B::float_clamp_max(x.clone(), 0f32.into());
                B::float_add(B::relu(x), B::float_mul_scalar(negative, alpha.into()))
            }
            // The exponential sees only the negative half, so that it can't overflow.
            Self::Elu { alpha } => {
                B::float_add(B::relu(x.clone()), exponential_half(x, alpha, 1.0))
            }
            Self::Selu { alpha, gamma } => {
                let elu = B::float_add(B::relu(x.clone()), exponential_half(x, alpha, 1.0));
                B::float_mul_scalar(elu, gamma.into())
            }
            Self::Celu { alpha } => {
                B::float_add(B::relu(x.clone()), exponential_half(x, alpha, alpha))
            }
            Self::Sigmoid => B::sigmoid(x),
            Self::HardSigmoid { alpha, beta } => hard_sigmoid(x, alpha, beta),
            Self::HardSwish => {
                let gate = hard_sigmoid(x.clone(), 1.0 / 6.0, 0.5);
                B::float_mul(x, gate)
            }
            Self::Tanh => B::float_tanh(x),
            Self::Softplus => softplus(x),
            Self::Softsign => {
                let bottom = B::float_add_scalar(B::float_abs(x.clone()), 1f32.into());
                B::float_div(x, bottom)
            }
            Self::Mish => {
                let gate = B::float_tanh(softplus(x.clone()));
                B::float_mul(x, gate)
            }
            Self::Gelu { tanh: false } => {
                let scaled = B::float_mul_scalar(x.clone(), std::f32::consts::FRAC_1_SQRT_2.into());
                half_gate(x, B::float_erf(scaled))
            }
            Self::Gelu { tanh: true } => {
                let square = B::float_mul(x.clone(), x.clone());
                let cubic = B::float_mul(square, x.clone());
                let inner =
                    B::float_add(x.clone(), B::float_mul_scalar(cubic, 0.044_715f32.into()));
                let scale = (2.0 / std::f32::consts::PI).sqrt();
                half_gate(x, B::float_tanh(B::float_mul_scalar(inner, scale.into())))
            }
            Self::Swish { alpha } => {
                let gate = B::sigmoid(B::float_mul_scalar(x.clone(), alpha.into()));
                B::float_mul(x, gate)
            }
            Self::ThresholdedRelu { alpha } => {
                let low = B::float_lower_equal_elem(x.clone(), alpha.into(), bool_type(&x));
                B::float_mask_fill(x, low, 0f32.into())
            }
            Self::Clip { min, max } => match (min > f32::MIN, max < f32::MAX) {
                // One after the other: a file may name bounds that cross.
                (true, true) if min <= max => B::float_clamp(x, min.into(), max.into()),
                (true, true) => B::float_clamp_max(B::float_clamp_min(x, min.into()), max.into()),
                (true, false) => B::float_clamp_min(x, min.into()),
                (false, true) => B::float_clamp_max(x, max.into()),
                (false, false) => x,
            },
            Self::Exp => B::float_exp(x),
            Self::Log => B::float_log(x),
            Self::Sqrt => B::float_sqrt(x),
            Self::Abs => B::float_abs(x),
            Self::Neg => B::float_neg(x),
            Self::Reciprocal => B::float_recip(x),
            Self::Erf => B::float_erf(x),
            Self::Floor => B::float_floor(x),
            Self::Ceil => B::float_ceil(x),
            Self::Round => B::float_round(x),
            Self::Sign => B::float_sign(x),
            Self::Sin => B::float_sin(x),
            Self::Cos => B::float_cos(x),
            Self::Tan => B::float_tan(x),
            Self::Asin => arcsine(x),
            Self::Acos => {
                let turned = B::float_neg(arcsine(x));
                B::float_add_scalar(turned, std::f32::consts::FRAC_PI_2.into())
            }
            Self::Atan => B::float_atan(x),
            Self::Sinh => B::float_sinh(x),
            Self::Cosh => B::float_cosh(x),
            Self::Asinh => B::float_asinh(x),
            Self::Acosh => B::float_acosh(x),
            Self::Atanh => B::float_atanh(x),
            Self::Shrink { lambda, bias } => {
                let kind = bool_type(&x);
                let above = B::float_lower_equal_elem(x.clone(), lambda.into(), kind);
                let below = B::float_greater_equal_elem(x.clone(), (-lambda).into(), kind);
                let high = B::float_sub_scalar(x.clone(), bias.into());
                let low = B::float_add_scalar(x, bias.into());
                let high = B::float_mask_fill(high, above, 0f32.into());
                B::float_add(high, B::float_mask_fill(low, below, 0f32.into()))
            }
            Self::Identity => x,
        }
    }
}

/// `scale · (exp(min(x, 0) ÷ width) − 1)`.
fn exponential_half(x: Value, scale: f32, width: f32) -> Value {
    type B = Dispatch;
    let negative = B::float_clamp_max(x, 0f32.into());
    let narrowed = B::float_div_scalar(negative, width.into());
    let raised = B::float_sub_scalar(B::float_exp(narrowed), 1f32.into());
    B::float_mul_scalar(raised, scale.into())
}

fn hard_sigmoid(x: Value, alpha: f32, beta: f32) -> Value {
    type B = Dispatch;
    let line = B::float_add_scalar(B::float_mul_scalar(x, alpha.into()), beta.into());
    B::float_clamp(line, 0f32.into(), 1f32.into())
}

/// `max(x, 0) + ln(1 + exp(−|x|))`, which overflows nowhere.
fn softplus(x: Value) -> Value {
    type B = Dispatch;
    let tail = B::float_log1p(B::float_exp(B::float_neg(B::float_abs(x.clone()))));
    B::float_add(B::relu(x), tail)
}

/// `atan(x ÷ √((1 − x)(1 + x)))`; shaders know the arctangent better than the arcsine.
fn arcsine(x: Value) -> Value {
    type B = Dispatch;
    let below = B::float_add_scalar(B::float_neg(x.clone()), 1f32.into());
    let above = B::float_add_scalar(x.clone(), 1f32.into());
    B::float_atan(B::float_div(x, B::float_sqrt(B::float_mul(below, above))))
}

/// `x · (1 + gate) ÷ 2`.
fn half_gate(x: Value, gate: Value) -> Value {
    type B = Dispatch;
    let gate = B::float_mul_scalar(B::float_add_scalar(gate, 1f32.into()), 0.5f32.into());
    B::float_mul(x, gate)
}

/// A function of two values with broadcasting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    Pow,
    Max,
    Min,
}

impl Binary {
    pub fn of(operator: &str) -> Option<Self> {
        Some(match operator {
            "Add" | "Sum" | "Mean" => Self::Add,
            "Sub" => Self::Sub,
            "Mul" => Self::Mul,
            "Div" => Self::Div,
            "Pow" => Self::Pow,
            "Max" => Self::Max,
            "Min" => Self::Min,
            _ => return None,
        })
    }

    pub fn run(self, a: Value, b: Value) -> Value {
        type B = Dispatch;
        let rank = a.shape().num_dims().max(b.shape().num_dims());
        let (a, b) = (with_rank(a, rank), with_rank(b, rank));
        match self {
            Self::Add => B::float_add(a, b),
            Self::Sub => B::float_sub(a, b),
            Self::Mul => B::float_mul(a, b),
            Self::Div => B::float_div(a, b),
            Self::Pow => B::float_powf(a, b),
            Self::Max | Self::Min => {
                let to: Vec<usize> = dims(&a)
                    .into_iter()
                    .zip(dims(&b))
                    .map(|(x, y)| if x == 1 { y } else { x })
                    .collect();
                let (a, b) = (expand(a, &to), expand(b, &to));
                let kind = bool_type(&a);
                let take_b = match self {
                    Self::Max => B::float_greater(b.clone(), a.clone(), kind),
                    _ => B::float_lower(b.clone(), a.clone(), kind),
                };
                B::float_mask_where(a, take_b, b)
            }
        }
    }
}

/// `x` raised to a constant; squares and roots take their short ways.
pub(in crate::exec) fn power(x: Value, exponent: f32) -> Value {
    type B = Dispatch;
    if exponent == 2.0 {
        B::float_mul(x.clone(), x)
    } else if exponent == 0.5 {
        B::float_sqrt(x)
    } else if exponent == 1.0 {
        x
    } else if exponent.abs() < 1e6 {
        B::float_powf_scalar(x, exponent.into())
    } else {
        // Burn takes a whole exponent for an integer, which has to fit.
        let rank = x.shape().num_dims();
        let exponents = with_rank(full(&[1], exponent, &x.device()), rank);
        B::float_powf(x, exponents)
    }
}

/// PRelu: `max(x, 0) + slope · min(x, 0)`.
pub(in crate::exec) fn prelu(x: Value, slope: Value) -> Value {
    type B = Dispatch;
    let rank = x.shape().num_dims();
    let negative = B::float_clamp_max(x.clone(), 0f32.into());
    B::float_add(B::relu(x), B::float_mul(negative, with_rank(slope, rank)))
}
