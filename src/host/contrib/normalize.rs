//! Normalisations with a sum or an embedding fused in.

use super::bias::add;
use super::standard::{narrow, transposed, wide};
use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome};
use crate::host::normalization::{self, Norm, affine, standardize, vector};
use crate::onnx::proto::data_type;

/// ONNX Runtime's `epsilon` where a fused node has none.
fn epsilon(call: &Call) -> f64 {
    f64::from(call.node.float("epsilon").unwrap_or(1e-12))
}

/// SkipLayerNormalization and SkipSimplifiedLayerNormalization: `input + skip + bias`, normalised
/// over the last axis. Outputs: the result, mean, inverse deviation and the sum.
pub fn skip_layer_normalization(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let simplified = call.operator() == "SkipSimplifiedLayerNormalization";
    let (norm, beta, bias) = if simplified {
        (Norm::RootMeanSquare, None, call.optional(3))
    } else {
        (Norm::Standard, call.optional(3), call.optional(4))
    };
    let mut sum = add(x, call.input(1)?)?;
    if let Some(bias) = bias {
        sum = add(&sum, bias)?;
    }
    let size = *x
        .dims
        .last()
        .ok_or_else(|| RuleError::new("needs an axis"))?;
    let mut values = sum.floats()?.to_vec();
    let statistics = standardize(&mut values, size, epsilon(call), norm);
    affine(&mut values, &x.dims, Some(call.input(2)?), beta)?;
    let mut outer = x.dims.clone();
    if let Some(last) = outer.last_mut() {
        *last = usize::from(size > 0);
    }
    Ok(vec![
        x.with(x.dims.clone(), Data::Float(values)),
        Array::float(data_type::FLOAT, outer.clone(), statistics.mean),
        Array::float(data_type::FLOAT, outer, statistics.inverse),
        narrow(sum, x),
    ])
}

/// Adds to the rows of `sum` the rows of `table` that `ids` name; `ids` repeat where they are fewer.
fn add_embedding(
    sum: &mut [f64],
    table: &Array,
    ids: &[i64],
    size: usize,
) -> Result<(), RuleError> {
    let &[count, width] = table.dims.as_slice() else {
        return Err(RuleError::new(format!(
            "has an embedding of shape {:?}",
            table.dims
        )));
    };
    if width != size {
        return Err(RuleError::new(format!(
            "has embeddings of {width} and {size} elements"
        )));
    }
    let values = table.floats()?;
    for (row, &id) in sum.chunks_mut(size.max(1)).zip(ids.iter().cycle()) {
        let id = usize::try_from(id)
            .ok()
            .filter(|&id| id < count)
            .ok_or_else(|| RuleError::new(format!("has id {id} of {count} embeddings")))?;
        let found = &values[id * size..][..size];
        row.iter_mut().zip(found).for_each(|(sum, v)| *sum += v);
    }
    Ok(())
}

/// EmbedLayerNormalization: the sum of word, position and segment embeddings, normalised. Outputs:
/// the result, the number of ones in each row of the mask, and the sum.
pub fn embed_layer_normalization(call: &Call) -> Outcome {
    let words = call.input(0)?;
    let table = call.input(2)?;
    let (&[batch, length], &[_, size]) = (words.dims.as_slice(), table.dims.as_slice()) else {
        return Err(RuleError::new(format!(
            "has ids of shape {:?} and embeddings of shape {:?}",
            words.dims, table.dims
        )));
    };
    let dims = vec![batch, length, size];
    let mut sum = vec![0.0; call.count(&dims)?];
    call.count(&[batch, length])?;
    add_embedding(&mut sum, table, words.ints()?, size)?;
    match call.optional(8) {
        Some(given) if given.dims == [batch, length] || given.dims == [1, length] => {
            add_embedding(&mut sum, call.input(3)?, given.ints()?, size)?;
        }
        Some(given) => {
            return Err(RuleError::new(format!(
                "has positions of shape {:?}",
                given.dims
            )));
        }
        None => {
            let positions: Vec<i64> = (0..call.count(&[length])? as i64).collect();
            add_embedding(&mut sum, call.input(3)?, &positions, size)?;
        }
    }
    if let (Some(segments), Some(table)) = (call.optional(1), call.optional(4)) {
        if segments.dims != words.dims {
            return Err(RuleError::new(format!(
                "has segments of shape {:?} for words of shape {:?}",
                segments.dims, words.dims
            )));
        }
        add_embedding(&mut sum, table, segments.ints()?, size)?;
    }
    let mut values = sum.clone();
    standardize(&mut values, size, epsilon(call), Norm::Standard);
    affine(
        &mut values,
        &dims,
        Some(call.input(5)?),
        Some(call.input(6)?),
    )?;
    let ones = match call.optional(7) {
        Some(mask) if mask.dims == words.dims && length > 0 => mask
            .ints()?
            .chunks(length)
            .map(|row| row.iter().filter(|&&m| m == 1).count() as i64)
            .collect(),
        Some(mask) if mask.dims != words.dims => {
            return Err(RuleError::new(format!(
                "has a mask of shape {:?} for words of shape {:?}",
                mask.dims, words.dims
            )));
        }
        _ => vec![0; call.count(&[batch])?],
    };
    Ok(vec![
        table.with(dims.clone(), Data::Float(values)),
        Array::int(data_type::INT32, vec![batch], ones),
        table.with(dims, Data::Float(sum)),
    ])
}

/// The axes of a tensor of that rank with its last axis as axis 1.
fn channels_first(rank: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rank).collect();
    order[1..].rotate_right(1);
    order
}

/// GroupNorm and SkipGroupNorm: group normalisation of `x`, or of `x + skip + bias`, with channels
/// last by default, and SiLU where `activation` is 1. SkipGroupNorm's second output is the sum.
pub fn group_norm(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let rank = x.dims.len();
    if rank < 2 {
        return Err(RuleError::new("needs a channel axis"));
    }
    let last = call.node.int("channels_last").unwrap_or(1) != 0;
    let mut sum = wide(x);
    if call.operator() == "SkipGroupNorm" {
        let skip = call.input(3)?;
        sum = match skip.dims.as_slice() {
            &[batch, channels] if rank > 2 => {
                let mut dims = vec![1; rank];
                dims[0] = batch;
                dims[if last { rank - 1 } else { 1 }] = channels;
                add(&sum, &skip.reshaped(dims))?
            }
            _ => add(&sum, skip)?,
        };
        if let Some(bias) = call.optional(4) {
            let mut dims = vec![bias.len()];
            dims.resize(if last { 1 } else { rank - 1 }, 1);
            sum = add(&sum, &bias.reshaped(dims))?;
        }
    }
    let order = channels_first(rank);
    let by_channel = if last {
        transposed(call, sum.clone(), &order)?
    } else {
        sum.clone()
    };
    let [batch, channels] = [by_channel.dims[0], by_channel.dims[1]];
    let shape = [batch, channels, call.count(&by_channel.dims[2..])?];
    let groups = usize::try_from(call.node.int("groups").unwrap_or(0)).unwrap_or(0);
    let mut values = by_channel.floats()?.to_vec();
    let (gamma, beta) = (vector(call, 1, channels)?, vector(call, 2, channels)?);
    let epsilon = normalization::epsilon(call);
    normalization::group_norm(&mut values, shape, groups, epsilon, gamma, beta)?;
    match call.node.int("activation").unwrap_or(0) {
        0 => {}
        1 => values.iter_mut().for_each(|v| *v /= 1.0 + (-*v).exp()),
        other => return Err(call.unsupported(format_args!("has the activation {other}"))),
    }
    let mut result = by_channel.with(by_channel.dims.clone(), Data::Float(values));
    if last {
        let mut back: Vec<usize> = (0..rank).collect();
        back[1..].rotate_left(1);
        result = transposed(call, result, &back)?;
    }
    Ok(vec![narrow(result, x), narrow(sum, x)])
}
