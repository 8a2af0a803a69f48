//! Softmax along an axis.

/// `e^x / Σ e^x`, or its logarithm, along the middle axis of `[before, size, after]`.
pub fn softmax(values: &[f64], shape: [usize; 3], log: bool) -> Vec<f64> {
    let [before, size, after] = shape;
    let mut result = values.to_vec();
    if after == 1 {
        softmax_rows(&mut result, size, log);
        return result;
    }
    let mut largest = vec![0.0; after];
    let mut sums = vec![0.0; after];
    for block in result.chunks_mut((size * after).max(1)).take(before) {
        largest.fill(f64::NEG_INFINITY);
        sums.fill(0.0);
        for row in block.chunks(after) {
            for (most, v) in largest.iter_mut().zip(row) {
                *most = v.max(*most);
            }
        }
        for row in block.chunks_mut(after) {
            for ((v, most), sum) in row.iter_mut().zip(&largest).zip(&mut sums) {
                *v -= most;
                *sum += v.exp();
            }
        }
        for row in block.chunks_mut(after) {
            for (v, sum) in row.iter_mut().zip(&sums) {
                *v = if log { *v - sum.ln() } else { v.exp() / sum };
            }
        }
    }
    result
}

/// Softmax, or its logarithm, of every row of `size` elements, in place.
pub fn softmax_rows(values: &mut [f64], size: usize, log: bool) {
    for row in values.chunks_mut(size.max(1)) {
        let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut sum = 0.0;
        for v in row.iter_mut() {
            *v -= largest;
            sum += v.exp();
        }
        for v in row.iter_mut() {
            *v = if log { *v - sum.ln() } else { v.exp() / sum };
        }
    }
}
