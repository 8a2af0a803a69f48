//! Products of recurrent layers: of inputs and hidden states with their weights.

use std::ops::Range;

use crate::graph::params::RuleError;

/// The weights of one direction.
pub struct Weights<'a> {
    pub input: Box<dyn Product + 'a>,
    pub recurrent: Box<dyn Product + 'a>,
}

/// A matrix of weights, one row for each element of each gate.
pub trait Product {
    /// Puts the products of each vector in `vectors`, those of all examples at one step of time, with
    /// each of the `rows` of the matrix into `out`, `[vectors, rows]`. Vectors past the end of `out` get
    /// no products, but count where the products depend on the range of all.
    fn multiply(
        &self,
        vectors: &[f64],
        rows: Range<usize>,
        out: &mut [f64],
    ) -> Result<(), RuleError>;
}

/// Rows of `width` numbers.
pub struct Numbers<'a> {
    pub weights: &'a [f64],
    pub width: usize,
}

impl Product for Numbers<'_> {
    fn multiply(
        &self,
        vectors: &[f64],
        rows: Range<usize>,
        out: &mut [f64],
    ) -> Result<(), RuleError> {
        each_pair(self.width, vectors, self.weights, rows, out, |_, a, b| {
            a.iter().zip(b).map(|(a, b)| a * b).sum()
        });
        Ok(())
    }
}

/// Puts `product(row, vector, weights of the row)` of every vector and row into `out`. A row of
/// weights meets all vectors while it is in the cache.
pub fn each_pair<T>(
    width: usize,
    vectors: &[T],
    weights: &[T],
    rows: Range<usize>,
    out: &mut [f64],
    product: impl Fn(usize, &[T], &[T]) -> f64,
) {
    let count = rows.len();
    for (column, row) in rows.enumerate() {
        let of_row = &weights[row * width..][..width];
        let places = out.iter_mut().skip(column).step_by(count).enumerate();
        for (place, value) in places {
            *value = product(row, &vectors[place * width..][..width], of_row);
        }
    }
}
