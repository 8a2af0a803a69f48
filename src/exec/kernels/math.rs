//! Functions of one number that a compiler turns into vector instructions: no calls, no branches.

use std::f32::consts::LOG2_E;

/// `eˣ` within 2 units in the last place: `2ⁿ · eʳ` with `|r| ≤ ln 2 ÷ 2` (Cody and Waite, 1980), the
/// polynomial of the Cephes library's `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2²³ rounds to a whole number, which stands in the lowest bits then.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-104.0, 89.0);
    let rounded = x * LOG2_E + ROUND;
    let whole = rounded - ROUND;
    let power = rounded.to_bits() as i32 - ROUND.to_bits() as i32;
    let r = x - whole * LN_2_HIGH - whole * LN_2_LOW;
    let sum = polynomial(
        r,
        [
            1.987_569_1e-4,
            1.398_2e-3,
            8.333_452e-3,
            4.166_579_6e-2,
            1.666_666_5e-1,
            0.5,
        ],
    );
    let near = sum * r * r + r + 1.0;
    // In two steps, so that neither leaves the range of the exponent.
    let half = power >> 1;
    let scale = |power: i32| f32::from_bits(((power + 127) as u32) << 23);
    near * scale(half) * scale(power - half)
}

/// `1 ÷ (1 + e⁻ˣ)`
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `tanh x` within 2 units in the last place, ±1 where that is the nearest number: `1 - 2 ÷ (e²ˣ + 1)`, and near
/// zero, where that would cancel, the odd polynomial of the Cephes library's `tanhf`.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let square = x * x;
    let sum = polynomial(
        square,
        [
            -5.704_988_7e-3,
            2.063_908_8e-2,
            -5.373_971_6e-2,
            1.333_144_2e-1,
            -3.333_328e-1,
        ],
    );
    let near = sum * square * x + x;
    let size = x.abs();
    let far = 1.0 - 2.0 / (exp(size + size) + 1.0);
    let size = if size < 0.625 { near } else { far };
    size.copysign(x)
}

/// The error function by the odd rational function of the Eigen library.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let top = polynomial(
        square,
        [
            -2.726_142_3e-10,
            2.770_681_4e-8,
            -2.101_024e-6,
            -5.692_506_5e-5,
            -7.349_906_4e-4,
            -2.954_6e-3,
            -1.609_603_3e-2,
        ],
    );
    let below = polynomial(
        square,
        [
            -1.456_607_2e-5,
            -2.133_740_6e-4,
            -1.682_827e-3,
            -7.373_329_3e-3,
            -1.426_474e-2,
        ],
    );
    x * top / below
}

/// A polynomial at `x`, coefficients from the highest power down.
#[inline(always)]
fn polynomial<const N: usize>(x: f32, coefficients: [f32; N]) -> f32 {
    let mut sum = coefficients[0];
    for coefficient in &coefficients[1..] {
        sum = sum * x + coefficient;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest difference from `exact`, relative or, near zero, by a thousandth.
    fn worst(own: fn(f32) -> f32, exact: fn(f64) -> f64, range: f32) -> f64 {
        let places = (-20_000..=20_000).map(|step| step as f32 / 20_000.0 * range);
        places
            .map(|x| {
                let right = exact(f64::from(x));
                (f64::from(own(x)) - right).abs() / right.abs().max(1e-3)
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn functions_are_exact_to_a_few_units_in_the_last_place() {
        assert!(worst(exp, f64::exp, 80.0) < 4e-7);
        assert!(worst(tanh, f64::tanh, 12.0) < 2e-7);
        assert!(worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 40.0) < 4e-7);
    }

    #[test]
    fn ends_of_the_range_and_what_is_no_number() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert!((erf(10.0) - 1.0).abs() < 2e-7);
        for (x, end) in [
            (9.1, 1.0),
            (f32::INFINITY, 1.0),
            (-9.1, -1.0),
            (-50.0, -1.0),
            (-0.0, -0.0),
        ] {
            assert_eq!(tanh(x).to_bits(), f32::to_bits(end));
        }
        for function in [exp, sigmoid, tanh, erf] {
            assert!(function(f32::NAN).is_nan());
        }
    }
}
