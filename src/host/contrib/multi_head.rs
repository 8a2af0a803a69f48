//! MultiHeadAttention.

use super::attention::{columns, head_count, masked, merged, refuse, scale};
use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::host::attention::{Heads, Rules, Stage};
use crate::host::call::{Call, Outcome};

/// Part `index` of values packed as `[batch, length, heads, parts, size]`.
fn packed(array: &Array, index: usize, heads: usize) -> Result<Heads, RuleError> {
    let &[batch, length, count, parts, size] = array.dims.as_slice() else {
        return Err(unfit(array));
    };
    if count != heads || index >= parts {
        return Err(unfit(array));
    }
    let of = parts.checked_mul(size).ok_or_else(|| unfit(array))?;
    let width = count.checked_mul(size).ok_or_else(|| unfit(array))?;
    let values = columns(array.floats()?, of, index * size, size);
    Heads::split_values(&values, [batch, length, width], heads)
}

fn unfit(array: &Array) -> RuleError {
    RuleError::new(format!(
        "has a value of shape {:?} among query, key and value",
        array.dims
    ))
}

/// Adds the projection bias that begins at `start`.
fn add_bias(heads: &mut Heads, bias: Option<&Array>, start: usize) -> Result<(), RuleError> {
    let Some(bias) = bias else { return Ok(()) };
    let given = start
        .checked_add(heads.heads * heads.size)
        .and_then(|end| bias.floats().ok()?.get(start..end))
        .ok_or_else(|| RuleError::new(format!("has a bias of shape {:?}", bias.dims)))?;
    if heads.values.is_empty() {
        return Ok(());
    }
    for example in 0..heads.batch {
        for head in 0..heads.heads {
            let part = &given[head * heads.size..][..heads.size];
            for place in 0..heads.length {
                let row = heads.row_mut(example, head, place);
                row.iter_mut().zip(part).for_each(|(v, bias)| *v += bias);
            }
        }
    }
    Ok(())
}

/// Queries, keys and values, from whichever of the five forms the node has.
fn inputs(call: &Call) -> Result<[Heads; 3], RuleError> {
    let count = head_count(call, "num_heads")?;
    let query = call.input(0)?;
    let bias = call.optional(3);
    let [mut queries, mut keys, mut values] = match (query.dims.len(), call.optional(1)) {
        (5, None) => [
            packed(query, 0, count)?,
            packed(query, 1, count)?,
            packed(query, 2, count)?,
        ],
        (3, Some(key)) if key.dims.len() == 5 => [
            Heads::split(query, count)?,
            packed(key, 0, count)?,
            packed(key, 1, count)?,
        ],
        (3, Some(key)) if key.dims.len() == 4 => {
            let mut queries = Heads::split(query, count)?;
            add_bias(&mut queries, bias, 0)?;
            return Ok([queries, Heads::of(key)?, Heads::of(call.input(2)?)?]);
        }
        (3, Some(key)) => [
            Heads::split(query, count)?,
            Heads::split(key, count)?,
            Heads::split(call.input(2)?, count)?,
        ],
        _ => return Err(unfit(query)),
    };
    let hidden = queries.heads * queries.size;
    add_bias(&mut queries, bias, 0)?;
    add_bias(&mut keys, bias, hidden)?;
    add_bias(&mut values, bias, hidden.saturating_mul(2))?;
    Ok([queries, keys, values])
}

/// MultiHeadAttention. Outputs: the result, present key and value, and the scores before softmax.
pub fn multi_head_attention(call: &Call) -> Outcome {
    let names = [(8, "past_sequence_length"), (9, "cache_indirection")];
    refuse(call, &[], &names)?;
    let like = call.input(0)?;
    let [queries, keys, values] = inputs(call)?;
    let keys = keys.after(call, call.optional(6))?;
    let values = values.after(call, call.optional(7))?;
    let rules = Rules {
        keep: call.wants(3).then_some(Stage::Biased),
        ..Rules::scaled(scale(call), queries.size)
    };
    let heads = [&queries, &keys, &values];
    let mut attended = masked(call, heads, call.optional(4), call.optional(5), &rules)?;
    let scores = std::mem::take(&mut attended.scores);
    let score_dims = vec![queries.batch, queries.heads, queries.length, keys.length];
    let mut outputs = vec![
        merged(attended, &queries, &values, like),
        keys.array(like),
        values.array(like),
    ];
    if rules.keep.is_some() {
        outputs.push(like.with(score_dims, Data::Float(scores)));
    }
    Ok(outputs)
}
