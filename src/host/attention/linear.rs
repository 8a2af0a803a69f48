//! Attention by a recurrent state instead of scores (Katharopoulos et al. 2020; gated, Yang et al.
//! 2023; with the delta rule, Schlag et al. 2021 and Yang et al. 2024).

use super::heads::{Heads, merge_heads};
use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome};

/// Refuses inputs for decay and rate that the update rule lacks or can't use.
fn check_rule(call: &Call) -> Result<(), RuleError> {
    let (gated, delta) = match call.node.text("update_rule").unwrap_or("gated_delta") {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(RuleError::new(format!("has the update rule `{other}`"))),
    };
    for (index, needed) in [(4, gated), (5, delta)] {
        if call.optional(index).is_some() != needed {
            let verb = if needed { "needs" } else { "can't use" };
            return Err(RuleError::new(format!(
                "{verb} input {index} with its update rule"
            )));
        }
    }
    Ok(())
}

fn head_count(call: &Call, name: &str) -> Result<usize, RuleError> {
    let count = call.node.int(name).unwrap_or(0);
    usize::try_from(count)
        .ok()
        .filter(|&count| count > 0)
        .ok_or_else(|| RuleError::new(format!("has no positive `{name}`")))
}

/// An input `[batch, length, width]` of one of two widths, and its width.
fn by_token<'a>(
    array: Option<&'a Array>,
    keys: &Heads,
    widths: [usize; 2],
) -> Result<Option<(&'a [f64], usize)>, RuleError> {
    let Some(array) = array else { return Ok(None) };
    match array.dims.as_slice() {
        &[batch, length, width]
            if [batch, length] == [keys.batch, keys.length] && widths.contains(&width) =>
        {
            Ok(Some((array.floats()?, width)))
        }
        dims => Err(RuleError::new(format!(
            "has a value of shape {dims:?}, needs {:?} or {:?}",
            [keys.batch, keys.length, widths[0]],
            [keys.batch, keys.length, widths[1]]
        ))),
    }
}

/// The state before the first token, zeros where none is given.
fn past_state(call: &Call, dims: &[usize]) -> Result<Vec<f64>, RuleError> {
    match call.optional(3) {
        None => Ok(vec![0.0; call.count(dims)?]),
        Some(past) if past.dims == dims => Ok(past.floats()?.to_vec()),
        Some(past) => Err(RuleError::new(format!(
            "has a past state of shape {:?}, needs {dims:?}",
            past.dims
        ))),
    }
}

/// Updates a state `[key size, value size]` by one token, whose value is lost. `gates` has one
/// logarithm of decay for the state, or one for every row.
fn take_up(
    state: &mut [f64],
    key: &[f64],
    value: &mut [f64],
    gates: Option<&[f64]>,
    rate: Option<f64>,
) {
    let size = value.len();
    if let Some(gates) = gates {
        for (line, gate) in state.chunks_mut(size).zip(gates.iter().cycle()) {
            let factor = gate.exp();
            line.iter_mut().for_each(|s| *s *= factor);
        }
    }
    if let Some(rate) = rate {
        for (line, k) in state.chunks(size).zip(key) {
            value.iter_mut().zip(line).for_each(|(v, s)| *v -= s * k);
        }
        value.iter_mut().for_each(|v| *v *= rate);
    }
    for (line, k) in state.chunks_mut(size).zip(key) {
        line.iter_mut().zip(&*value).for_each(|(s, v)| *s += k * v);
    }
}

/// Queries, keys and values, whose head counts divide one another.
fn inputs(call: &Call) -> Result<[Heads; 3], RuleError> {
    let key_heads = head_count(call, "kv_num_heads")?;
    let queries = Heads::split(call.input(0)?, head_count(call, "q_num_heads")?)?;
    let keys = Heads::split(call.input(1)?, key_heads)?;
    let values = Heads::split(call.input(2)?, key_heads)?;
    let heads = queries.heads.max(key_heads);
    if [queries.batch, queries.length, queries.size] != [keys.batch, keys.length, keys.size]
        || [values.batch, values.length] != [keys.batch, keys.length]
        || !heads.is_multiple_of(queries.heads)
        || !heads.is_multiple_of(key_heads)
    {
        return Err(RuleError::new(format!(
            "has queries, keys and values of the shapes {:?}, {:?} and {:?}",
            queries.dims(),
            keys.dims(),
            values.dims()
        )));
    }
    Ok([queries, keys, values])
}

/// LinearAttention (opset 27; also of com.microsoft, where key heads may outnumber query heads):
/// for every token the state `S` decays by `e^g`, takes up `k ⊗ v`, or with the delta rule
/// `β k ⊗ (v - Sᵀ k)`, and answers `scale · Sᵀ q`.
pub fn linear_attention(call: &Call) -> Outcome {
    if call.node.int("state_window").unwrap_or(0) != 0 {
        return Err(call.unsupported("has a `state_window`"));
    }
    check_rule(call)?;
    let q = call.input(0)?;
    let [queries, keys, values] = inputs(call)?;
    let scale = match call.node.float("scale").unwrap_or(0.0) {
        0.0 => 1.0 / (keys.size as f64).sqrt(),
        scale => f64::from(scale),
    };
    let state_dims = vec![keys.batch, keys.heads, keys.size, values.size];
    let mut states = past_state(call, &state_dims)?;
    let every = keys.heads.saturating_mul(keys.size);
    let decay = by_token(call.optional(4), &keys, [keys.heads, every])?;
    let beta = by_token(call.optional(5), &keys, [keys.heads, 1])?;

    let heads = queries.heads.max(keys.heads);
    let shape = [keys.batch, heads, keys.length, values.size];
    let mut output = vec![0.0; call.count(&shape)?];
    let dims = vec![keys.batch, keys.length, call.count(&[heads, values.size])?];
    let mut value = vec![0.0; values.size];
    let block = call.count(&[keys.size, values.size])?;
    for (row, state) in states.chunks_mut(block.max(1)).enumerate() {
        let (example, head) = (row / keys.heads, row % keys.heads);
        let readers = heads / keys.heads;
        for token in 0..keys.length {
            let place = example * keys.length + token;
            let key = &keys.head(example, head)[token * keys.size..][..keys.size];
            value
                .copy_from_slice(&values.head(example, head)[token * values.size..][..values.size]);
            let gates = decay.map(|(decay, width)| {
                let own = width / keys.heads;
                &decay[place * width + head * own..][..own]
            });
            let rate = beta.map(|(beta, width)| beta[place * width + head % width]);
            take_up(state, key, &mut value, gates, rate);
            for reader in head * readers..(head + 1) * readers {
                let source = reader / (heads / queries.heads);
                let query = &queries.head(example, source)[token * keys.size..][..keys.size];
                let at = ((example * heads + reader) * keys.length + token) * values.size;
                let out = &mut output[at..][..values.size];
                for (line, q) in state.chunks(values.size).zip(query) {
                    let share = scale * q;
                    out.iter_mut().zip(line).for_each(|(o, s)| *o += share * s);
                }
            }
        }
    }
    let state_type = call.optional(3).unwrap_or(q);
    Ok(vec![
        q.with(dims, Data::Float(merge_heads(&output, shape))),
        state_type.with(state_dims, Data::Float(states)),
    ])
}
