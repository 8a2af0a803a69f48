//! Rows for columns.

use super::LINE;

/// Turns as many whole squares of `$side` as there are, each by `$turned`. Lines of the side whose lines are farther
/// apart are read or written at once: where they are a page apart, a cache keeps only a few of them. (A function would
/// call `$turned` without its instructions.)
macro_rules! squares {
    ($side:literal, $turned:path, $rows:expr, $stride:expr, $size:expr, $out:expr, $out_stride:expr) => {
        let (rows, stride, out, out_stride): (&[f32], usize, &mut [f32], usize) =
            ($rows, $stride, $out, $out_stride);
        let [count, columns]: [usize; 2] = $size.map(|size| size / $side * $side);
        let by_rows = stride > out_stride;
        // Along the lines that are near each other, then from one line of the cache to the next.
        let (lines, along) = if by_rows {
            (columns, count)
        } else {
            (count, columns)
        };
        for first in (0..lines).step_by(LINE) {
            for along in (0..along).step_by($side) {
                for line in (first..lines.min(first + LINE)).step_by($side) {
                    let (row, column) = if by_rows {
                        (along, line)
                    } else {
                        (line, along)
                    };
                    let mut square = [[0f32; $side]; $side];
                    for (index, own) in square.iter_mut().enumerate() {
                        own.copy_from_slice(&rows[(row + index) * stride + column..][..$side]);
                    }
                    for (index, own) in $turned(square).iter().enumerate() {
                        out[(column + index) * out_stride + row..][..$side].copy_from_slice(own);
                    }
                }
            }
        }
    };
}

/// `out[column · out_stride + row] = rows[row · stride + column]`
///
/// In squares that fit into registers. What compilers make of a plain loop are stores to scattered places, which take
/// processors with AVX-512 ten times as long.
pub(super) fn turn(
    rows: &[f32],
    stride: usize,
    size: [usize; 2],
    out: &mut [f32],
    out_stride: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx") {
        // SAFETY: the processor has AVX.
        #[expect(
            unsafe_code,
            reason = "what is compiled for AVX is unsafe to call elsewhere"
        )]
        return unsafe { avx::turn(rows, stride, size, out, out_stride) };
    }
    by_fours(rows, stride, size, out, out_stride);
}

#[inline(always)]
fn by_fours(
    rows: &[f32],
    stride: usize,
    [count, columns]: [usize; 2],
    out: &mut [f32],
    out_stride: usize,
) {
    squares!(4, turned, rows, stride, [count, columns], out, out_stride);
    let (whole_rows, whole_columns) = (count / 4 * 4, columns / 4 * 4);
    let mut one = |row: usize, column: usize| {
        out[column * out_stride + row] = rows[row * stride + column];
    };
    for column in whole_columns..columns {
        for row in 0..whole_rows {
            one(row, column);
        }
    }
    for row in whole_rows..count {
        for column in 0..columns {
            one(row, column);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx {
    use std::arch::x86_64::*;

    use super::{LINE, by_fours};

    #[target_feature(enable = "avx")]
    pub fn turn(
        rows: &[f32],
        stride: usize,
        [count, columns]: [usize; 2],
        out: &mut [f32],
        out_stride: usize,
    ) {
        squares!(8, turned, rows, stride, [count, columns], out, out_stride);
        let (whole_rows, whole_columns) = (count / 8 * 8, columns / 8 * 8);
        if whole_columns < columns {
            let out = &mut out[whole_columns * out_stride..];
            let size = [count, columns - whole_columns];
            by_fours(&rows[whole_columns..], stride, size, out, out_stride);
        }
        if whole_rows < count && whole_columns > 0 {
            let (rows, out) = (&rows[whole_rows * stride..], &mut out[whole_rows..]);
            let size = [count - whole_rows, whole_columns];
            by_fours(rows, stride, size, out, out_stride);
        }
    }

    /// The squares of four in the corners, two rows of them side by side in a register, change places as they are
    /// read; each is turned for itself.
    #[inline]
    #[target_feature(enable = "avx")]
    fn turned(square: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
        let parts: [[__m128; 2]; 8] = pulp::cast(square);
        let mut turned = [[_mm256_setzero_ps(); 4]; 2];
        for half in 0..2 {
            let a = _mm256_set_m128(parts[4][half], parts[0][half]);
            let b = _mm256_set_m128(parts[5][half], parts[1][half]);
            let c = _mm256_set_m128(parts[6][half], parts[2][half]);
            let d = _mm256_set_m128(parts[7][half], parts[3][half]);
            let (low, low_below) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            let (high, high_below) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            turned[half] = [
                _mm256_shuffle_ps::<0b01_00_01_00>(low, low_below),
                _mm256_shuffle_ps::<0b11_10_11_10>(low, low_below),
                _mm256_shuffle_ps::<0b01_00_01_00>(high, high_below),
                _mm256_shuffle_ps::<0b11_10_11_10>(high, high_below),
            ];
        }
        pulp::cast(turned)
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(
    unsafe_code,
    reason = "intrinsics of SSE are unsafe to call where it is not asked for by name"
)]
fn turned(square: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    use std::arch::x86_64::*;

    let [a, b, c, d]: [__m128; 4] = pulp::cast(square);
    // SAFETY: every x86-64 processor has SSE.
    unsafe {
        let (low, low_below) = (_mm_unpacklo_ps(a, b), _mm_unpacklo_ps(c, d));
        let (high, high_below) = (_mm_unpackhi_ps(a, b), _mm_unpackhi_ps(c, d));
        pulp::cast([
            _mm_movelh_ps(low, low_below),
            _mm_movehl_ps(low_below, low),
            _mm_movelh_ps(high, high_below),
            _mm_movehl_ps(high_below, high),
        ])
    }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn turned(square: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    std::array::from_fn(|column| std::array::from_fn(|row| square[row][column]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns_whatever_their_number() {
        for count in [1, 3, 4, 6, 12, 16, 23, 48] {
            for columns in [1, 2, 4, 7, 16, 33] {
                let (stride, out_stride) = (columns + 3, count + 2);
                let rows: Vec<f32> = (0..count * stride).map(|place| place as f32).collect();
                let mut out = vec![-1f32; columns * out_stride];
                turn(&rows, stride, [count, columns], &mut out, out_stride);
                let mut without_avx = vec![-1f32; columns * out_stride];
                by_fours(
                    &rows,
                    stride,
                    [count, columns],
                    &mut without_avx,
                    out_stride,
                );
                assert_eq!(out, without_avx);
                for (place, value) in out.iter().enumerate() {
                    let (column, row) = (place / out_stride, place % out_stride);
                    let expected = if row < count {
                        (row * stride + column) as f32
                    } else {
                        -1.0
                    };
                    assert_eq!(
                        *value, expected,
                        "{count} rows of {columns} columns, place {place}"
                    );
                }
            }
        }
    }
}
