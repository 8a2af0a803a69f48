//! Rows for columns.

/// Rows that are turned side by side: what they give to one column is a line of the cache.
const SIDE_BY_SIDE: usize = 16;

/// `out[column · out_stride + row] = rows[row · stride + column]`
///
/// In squares of 4 × 4. What compilers make of a plain loop are stores to scattered places, which take processors with
/// AVX-512 ten times as long.
#[inline(always)]
pub(super) fn turn(
    rows: &[f32],
    stride: usize,
    [count, columns]: [usize; 2],
    out: &mut [f32],
    out_stride: usize,
) {
    let (whole_rows, whole_columns) = (count / 4 * 4, columns / 4 * 4);
    for first in (0..whole_rows).step_by(SIDE_BY_SIDE) {
        let end = whole_rows.min(first + SIDE_BY_SIDE);
        for column in (0..whole_columns).step_by(4) {
            for row in (first..end).step_by(4) {
                let mut square = [[0f32; 4]; 4];
                for (index, own) in square.iter_mut().enumerate() {
                    own.copy_from_slice(&rows[(row + index) * stride + column..][..4]);
                }
                for (index, own) in turned(square).iter().enumerate() {
                    out[(column + index) * out_stride + row..][..4].copy_from_slice(own);
                }
            }
        }
    }
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
#[inline(always)]
#[expect(
    unsafe_code,
    reason = "intrinsics of SSE are unsafe to call where it is not asked for by name"
)]
fn turned([a, b, c, d]: [[f32; 4]; 4]) -> [[f32; 4]; 4] {
    use std::arch::x86_64::*;

    let [a, b, c, d]: [__m128; 4] = pulp::cast([a, b, c, d]);
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
    let mut turned = [[0f32; 4]; 4];
    for row in 0..4 {
        for column in 0..4 {
            turned[column][row] = square[row][column];
        }
    }
    turned
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
