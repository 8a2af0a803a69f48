//! Queries, keys and values split into heads.

use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::host::call::Call;

/// Values `[batch, heads, length, size]`.
#[derive(Debug, Clone)]
pub struct Heads {
    pub batch: usize,
    pub heads: usize,
    pub length: usize,
    pub size: usize,
    pub values: Vec<f64>,
}

impl Heads {
    /// `array` as it is, of rank 4.
    pub fn of(array: &Array) -> Result<Self, RuleError> {
        let &[batch, heads, length, size] = array.dims.as_slice() else {
            return Err(RuleError::new(format!(
                "has a value of shape {:?} where [batch, heads, length, size] is needed",
                array.dims
            )));
        };
        Ok(Self {
            batch,
            heads,
            length,
            size,
            values: array.floats()?.to_vec(),
        })
    }

    /// `[batch, length, heads · size]` taken apart.
    pub fn split(array: &Array, heads: usize) -> Result<Self, RuleError> {
        let &[batch, length, width] = array.dims.as_slice() else {
            return Err(RuleError::new(format!(
                "has a value of shape {:?} where [batch, length, hidden] is needed",
                array.dims
            )));
        };
        Self::split_values(array.floats()?, [batch, length, width], heads)
    }

    /// [`Heads::split`] of values of shape `[batch, length, width]`.
    pub fn split_values(
        values: &[f64],
        [batch, length, width]: [usize; 3],
        heads: usize,
    ) -> Result<Self, RuleError> {
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(RuleError::new(format!(
                "has a width of {width} for {heads} heads"
            )));
        }
        let size = width / heads;
        Ok(Self {
            batch,
            heads,
            length,
            size,
            values: swap_middle(values, [batch, length, heads, size]),
        })
    }

    /// `[batch, heads, length, size]`.
    pub fn dims(&self) -> Vec<usize> {
        vec![self.batch, self.heads, self.length, self.size]
    }

    /// The rows `[length, size]` of one head.
    pub fn head(&self, example: usize, head: usize) -> &[f64] {
        let count = self.length * self.size;
        &self.values[(example * self.heads + head) * count..][..count]
    }

    /// One row of one head.
    pub fn row_mut(&mut self, example: usize, head: usize, place: usize) -> &mut [f64] {
        let row = (example * self.heads + head) * self.length + place;
        &mut self.values[row * self.size..][..self.size]
    }

    /// `self` after `past` along the axis of length.
    pub fn after(self, call: &Call, past: Option<&Array>) -> Result<Self, RuleError> {
        let Some(past) = past else { return Ok(self) };
        let past = Self::of(past)?;
        if [past.batch, past.heads, past.size] != [self.batch, self.heads, self.size] {
            return Err(RuleError::new(format!(
                "has a past state of shape {:?} for one of {:?}",
                past.dims(),
                self.dims()
            )));
        }
        let length = past.length.saturating_add(self.length);
        let dims = [self.batch, self.heads, length, self.size];
        let mut values = Vec::with_capacity(call.count(&dims)?);
        if !(past.values.is_empty() && self.values.is_empty()) {
            for example in 0..self.batch {
                for head in 0..self.heads {
                    values.extend_from_slice(past.head(example, head));
                    values.extend_from_slice(self.head(example, head));
                }
            }
        }
        Ok(Self {
            length,
            values,
            ..self
        })
    }

    /// A tensor `[batch, heads, length, size]` of the type of `like`.
    pub fn array(self, like: &Array) -> Array {
        like.with(self.dims(), Data::Float(self.values))
    }
}

/// `[batch, heads, length, size]` as `[batch, length, heads · size]`.
pub fn merge_heads(values: &[f64], [batch, heads, length, size]: [usize; 4]) -> Vec<f64> {
    swap_middle(values, [batch, heads, length, size])
}

/// `[a, b, c, d]` as `[a, c, b, d]`.
fn swap_middle(values: &[f64], [outer, first, second, size]: [usize; 4]) -> Vec<f64> {
    let mut result = Vec::with_capacity(values.len());
    if values.is_empty() {
        return result;
    }
    for block in 0..outer {
        for row in 0..second {
            for column in 0..first {
                let at = ((block * first + column) * second + row) * size;
                result.extend_from_slice(&values[at..][..size]);
            }
        }
    }
    result
}
