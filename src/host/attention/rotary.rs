//! Rotary position embeddings (Su et al. 2021).

use super::heads::{Heads, merge_heads};
use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome};

/// Cosines and sines by position, and how pairs of elements lie.
pub struct Rotation<'a> {
    pub cosines: &'a [f64],
    pub sines: &'a [f64],
    /// Cosines of one position; twice as many elements of a row are rotated.
    pub half: usize,
    /// Whether the two elements of a pair stand side by side, not half a rotation apart.
    pub interleaved: bool,
}

impl<'a> Rotation<'a> {
    /// The inputs `cosine` and `sine`, whose last axis is the pairs.
    pub fn of(cosine: &'a Array, sine: &'a Array, interleaved: bool) -> Result<Self, RuleError> {
        match cosine.dims.last() {
            Some(&half) if cosine.dims == sine.dims => Ok(Self {
                cosines: cosine.floats()?,
                sines: sine.floats()?,
                half,
                interleaved,
            }),
            _ => Err(RuleError::new(format!(
                "has cosines of shape {:?} and sines of shape {:?}",
                cosine.dims, sine.dims
            ))),
        }
    }

    /// Rotates the first elements of `row` as at `position`.
    fn apply(&self, row: &mut [f64], position: usize) -> Result<(), RuleError> {
        let range = position
            .checked_mul(self.half)
            .and_then(|start| Some(start..start.checked_add(self.half)?));
        let angles = range.and_then(|range| {
            let cosines = self.cosines.get(range.clone())?;
            Some(cosines.iter().zip(self.sines.get(range)?))
        });
        let angles = angles
            .ok_or_else(|| RuleError::new(format!("has position {position}, past its cosines")))?;
        for (pair, (cosine, sine)) in angles.enumerate() {
            let (first, second) = if self.interleaved {
                (2 * pair, 2 * pair + 1)
            } else {
                (pair, self.half + pair)
            };
            let (real, imaginary) = (row[first], row[second]);
            row[first] = cosine * real - sine * imaginary;
            row[second] = sine * real + cosine * imaginary;
        }
        Ok(())
    }
}

/// Rotates every row of `heads` as at `position_of(example, place)`.
pub fn rotate(
    heads: &mut Heads,
    rotation: &Rotation,
    position_of: impl Fn(usize, usize) -> usize,
) -> Result<(), RuleError> {
    if rotation.half.saturating_mul(2) > heads.size {
        return Err(RuleError::new(format!(
            "rotates {} pairs of heads of {} elements",
            rotation.half, heads.size
        )));
    }
    if heads.values.is_empty() {
        return Ok(());
    }
    for example in 0..heads.batch {
        for place in 0..heads.length {
            let position = position_of(example, place);
            for head in 0..heads.heads {
                rotation.apply(heads.row_mut(example, head, place), position)?;
            }
        }
    }
    Ok(())
}

/// Positions given as an input of shape `[batch, length]`.
pub fn positions(array: &Array, batch: usize, length: usize) -> Result<Vec<usize>, RuleError> {
    if array.dims != [batch, length] {
        return Err(RuleError::new(format!(
            "has positions of shape {:?}, needs {:?}",
            array.dims,
            [batch, length]
        )));
    }
    let given = array.ints()?.iter();
    given
        .map(|&position| {
            usize::try_from(position)
                .map_err(|_| RuleError::new(format!("has position {position}")))
        })
        .collect()
}

/// RotaryEmbedding (opset 23).
fn rotated(call: &Call, x: &Array) -> Result<Heads, RuleError> {
    let mut heads = if x.dims.len() == 3 {
        let count = call.node.int("num_heads").unwrap_or(0);
        Heads::split(x, usize::try_from(count).unwrap_or(0))?
    } else {
        Heads::of(x)?
    };
    let interleaved = call.node.int("interleaved").unwrap_or(0) != 0;
    let rotation = Rotation::of(call.input(1)?, call.input(2)?, interleaved)?;
    let wanted = match call.node.int("rotary_embedding_dim").unwrap_or(0) {
        0 => heads.size,
        size => usize::try_from(size).unwrap_or(0),
    };
    if rotation.half != wanted / 2 {
        return Err(RuleError::new(format!(
            "has {} cosines a position to rotate {wanted} elements",
            rotation.half
        )));
    }
    let (batch, length) = (heads.batch, heads.length);
    match call.optional(3) {
        Some(given) => {
            let given = positions(given, batch, length)?;
            rotate(&mut heads, &rotation, |b, place| given[b * length + place])?;
        }
        None => {
            let dims = &call.input(1)?.dims;
            if dims[..dims.len() - 1] != [batch, length] {
                return Err(RuleError::new(format!(
                    "has cosines of shape {dims:?} and no positions"
                )));
            }
            rotate(&mut heads, &rotation, |b, place| b * length + place)?;
        }
    }
    Ok(heads)
}

/// RotaryEmbedding (opset 23).
pub fn rotary_embedding(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let heads = rotated(call, x)?;
    let shape = [heads.batch, heads.heads, heads.length, heads.size];
    let values = if x.dims.len() == 3 {
        merge_heads(&heads.values, shape)
    } else {
        heads.values
    };
    Ok(vec![x.with(x.dims.clone(), Data::Float(values))])
}
