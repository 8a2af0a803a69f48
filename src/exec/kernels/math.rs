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
    let mut sum = 1.987_569_1e-4;
    sum = sum * r + 1.398_2e-3;
    sum = sum * r + 8.333_452e-3;
    sum = sum * r + 4.166_579_6e-2;
    sum = sum * r + 1.666_666_5e-1;
    sum = sum * r + 0.5;
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

/// `tanh x` by the odd rational function of the Eigen library, exact to rounding beyond ±7.9.
#[inline(always)]
pub(super) fn tanh(x: f32) -> f32 {
    let x = x.clamp(-7.905_311, 7.905_311);
    let square = x * x;
    let mut top = -2.760_768_5e-16;
    top = top * square + 2.000_188e-13;
    top = top * square + -8.604_672e-11;
    top = top * square + 5.122_297e-8;
    top = top * square + 1.485_722_4e-5;
    top = top * square + 6.372_619e-4;
    top = top * square + 4.893_524_6e-3;
    let mut below = 1.198_258_4e-6;
    below = below * square + 1.185_347_1e-4;
    below = below * square + 2.268_434_6e-3;
    below = below * square + 4.893_525e-3;
    x * top / below
}

/// The error function by the odd rational function of the Eigen library.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let mut top = -2.726_142_2e-10;
    top = top * square + 2.770_681_4e-8;
    top = top * square + -2.101_024e-6;
    top = top * square + -5.692_506_5e-5;
    top = top * square + -7.349_906_4e-4;
    top = top * square + -2.954_6e-3;
    top = top * square + -1.609_603_3e-2;
    let mut below = -1.456_607_2e-5;
    below = below * square + -2.133_740_6e-4;
    below = below * square + -1.682_827e-3;
    below = below * square + -7.373_329_3e-3;
    below = below * square + -1.426_474e-2;
    x * top / below
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
        assert!(worst(tanh, f64::tanh, 12.0) < 4e-7);
        assert!(worst(sigmoid, |x| 1.0 / (1.0 + (-x).exp()), 40.0) < 4e-7);
    }

    #[test]
    fn ends_of_the_range_and_what_is_no_number() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(100.0), f32::INFINITY);
        assert_eq!(exp(0.0), 1.0);
        assert!((erf(10.0) - 1.0).abs() < 2e-7);
        assert!((tanh(-50.0) + 1.0).abs() < 2e-7);
        for function in [exp, sigmoid, tanh, erf] {
            assert!(function(f32::NAN).is_nan());
        }
    }
}
