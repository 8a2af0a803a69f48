//! Sigmoid and tanh in float32 as ONNX Runtime computes them: quotients of two polynomials in the square
//! of the argument. Where a result is quantized next, one unit in the last place can be a whole level.

const SIGMOID_LIMIT: f32 = 18.0;
/// Coefficients from the highest power down.
const SIGMOID_ABOVE: [f32; 5] = [
    4.37031e-11,
    1.1562732e-7,
    6.085749e-5,
    8.513771e-3,
    2.4828795e-1,
];
const SIGMOID_BELOW: [f32; 6] = [
    6.1024737e-13,
    5.7610214e-9,
    6.291068e-6,
    1.7019882e-3,
    1.1681765e-1,
    9.931519e-1,
];
const TANH_LIMIT: f32 = 9.0;
const TANH_ABOVE: [f32; 7] = [
    -2.7607684e-16,
    2.000188e-13,
    -8.604672e-11,
    5.1222973e-8,
    1.48572235e-5,
    6.3726195e-4,
    4.8935246e-3,
];
const TANH_BELOW: [f32; 4] = [1.1982584e-6, 1.1853471e-4, 2.2684347e-3, 4.893525e-3];

fn polynomial(coefficients: &[f32], x: f32) -> f32 {
    coefficients
        .iter()
        .fold(0.0, |sum: f32, &next| sum.mul_add(x, next))
}

fn quotient(x: f32, limit: f32, above: &[f32], below: &[f32]) -> f32 {
    let x = x.clamp(-limit, limit);
    let square = x * x;
    polynomial(above, square) * x / polynomial(below, square)
}

/// `1 / (1 + exp(-x))`.
pub fn sigmoid(x: f64) -> f64 {
    let odd = quotient(x as f32, SIGMOID_LIMIT, &SIGMOID_ABOVE, &SIGMOID_BELOW);
    f64::from((odd + 0.5).clamp(0.0, 1.0))
}

/// The hyperbolic tangent.
pub fn tanh(x: f64) -> f64 {
    f64::from(quotient(x as f32, TANH_LIMIT, &TANH_ABOVE, &TANH_BELOW))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_agree_with_the_exact_functions_to_float32() {
        for step in -2500..=2500 {
            let x = f64::from(step) / 100.0;
            let exact = 1.0 / (1.0 + (-x).exp());
            assert!((sigmoid(x) - exact).abs() < 3e-7, "{x}");
            assert!((tanh(x) - x.tanh()).abs() < 3e-7, "{x}");
        }
    }
}
