//! The operators Attention and FlexAttention.

use super::heads::{Heads, merge_heads};
use super::product::{Rules, Stage, attend};
use crate::graph::params::RuleError;
use crate::host::array::{Array, Data, is_float};
use crate::host::call::{Call, Outcome, strides};
use crate::onnx::proto::data_type;

/// Head count `name`, which inputs of rank 3 need.
fn head_count(call: &Call, name: &str) -> Result<usize, RuleError> {
    call.node
        .int(name)
        .and_then(|count| usize::try_from(count).ok())
        .filter(|&count| count > 0)
        .ok_or_else(|| RuleError::new(format!("has no positive `{name}`")))
}

/// Input `index` as heads: of rank 4, or of rank 3 with as many heads as the attribute `name` says.
fn heads(call: &Call, index: usize, name: &str) -> Result<Heads, RuleError> {
    let array = call.input(index)?;
    if array.dims.len() == 3 {
        return Heads::split(array, head_count(call, name)?);
    }
    let heads = Heads::of(array)?;
    match call.node.int(name) {
        Some(count) if usize::try_from(count) != Ok(heads.heads) => Err(RuleError::new(format!(
            "has a `{name}` of {count} and {} heads",
            heads.heads
        ))),
        _ => Ok(heads),
    }
}

/// `softmax_precision`.
fn precision(call: &Call) -> Result<Option<i32>, RuleError> {
    let Some(given) = call.node.int("softmax_precision") else {
        return Ok(None);
    };
    i32::try_from(given)
        .ok()
        .filter(|&kind| is_float(kind))
        .map(Some)
        .ok_or_else(|| RuleError::new(format!("has a `softmax_precision` of {given}")))
}

/// `attn_mask`, read by place.
struct Mask {
    values: Vec<f64>,
    /// A mask of booleans allows, one of numbers is added.
    allows: bool,
    /// Steps along batch, heads and queries; 0 where the mask repeats.
    steps: [usize; 3],
    /// Keys that the mask speaks of; it forbids those behind.
    keys: usize,
}

impl Mask {
    fn of(array: &Array, scores: [usize; 4]) -> Result<Self, RuleError> {
        let dims = &array.dims;
        let unfit = || {
            RuleError::new(format!(
                "has a mask of shape {dims:?} for scores of shape {scores:?}"
            ))
        };
        let lead = 4usize.checked_sub(dims.len()).ok_or_else(unfit)?;
        let keys = *dims.last().ok_or_else(unfit)?;
        if keys > scores[3] || array.is_empty() {
            return Err(unfit());
        }
        let own = strides(dims);
        let mut steps = [0; 3];
        for (axis, step) in steps.iter_mut().enumerate() {
            let Some(mine) = axis.checked_sub(lead) else {
                continue;
            };
            if dims[mine] == scores[axis] {
                *step = own[mine];
            } else if dims[mine] != 1 {
                return Err(unfit());
            }
        }
        Ok(Self {
            values: array.numbers()?,
            allows: array.data_type == data_type::BOOL,
            steps,
            keys,
        })
    }

    fn add(&self, place: [usize; 3], row: &mut [f64]) {
        let at: usize = place.iter().zip(self.steps).map(|(p, s)| p * s).sum();
        let given = &self.values[at..][..self.keys];
        for (bias, &given) in row.iter_mut().zip(given) {
            *bias += match (self.allows, given == 0.0) {
                (true, true) => f64::NEG_INFINITY,
                (true, false) => 0.0,
                (false, _) => given,
            };
        }
        row[self.keys..].fill(f64::NEG_INFINITY);
    }
}

/// Which keys a query sees by its position alone.
struct Window {
    causal: bool,
    left: Option<i64>,
    right: Option<i64>,
}

impl Window {
    fn of(call: &Call) -> Result<Self, RuleError> {
        let bound = |name: &str| match call.node.int(name).unwrap_or(-1) {
            -1 => Ok(None),
            size if size >= 0 => Ok(Some(size)),
            size => Err(RuleError::new(format!("has a `{name}` of {size}"))),
        };
        Ok(Self {
            causal: call.node.int("is_causal").unwrap_or(0) != 0,
            left: bound("left_window_size")?,
            right: bound("right_window_size")?,
        })
    }

    /// Whether the query at `position`, counted over all keys, sees `key`.
    fn sees(&self, position: i64, key: i64) -> bool {
        !(self.causal && key > position)
            && self
                .left
                .is_none_or(|left| key >= position.saturating_sub(left))
            && self
                .right
                .is_none_or(|right| key <= position.saturating_add(right))
    }
}

/// `nonpad_kv_seqlen`: keys of each example that are no padding.
fn filled_keys(call: &Call, batch: usize) -> Result<Option<Vec<i64>>, RuleError> {
    let Some(given) = call.optional(6) else {
        return Ok(None);
    };
    if call.optional(4).is_some() || call.optional(5).is_some() {
        return Err(RuleError::new(
            "has both past states and `nonpad_kv_seqlen`",
        ));
    }
    if given.len() != batch {
        return Err(RuleError::new(format!(
            "has `nonpad_kv_seqlen` of shape {:?} for a batch of {batch}",
            given.dims
        )));
    }
    Ok(Some(given.ints()?.to_vec()))
}

/// Attention (opset 23 and later): the outputs Y, present_key, present_value, qk_matmul_output.
pub fn attention(call: &Call) -> Outcome {
    let q = call.input(0)?;
    let queries = heads(call, 0, "q_num_heads")?;
    let keys = heads(call, 1, "kv_num_heads")?;
    let values = heads(call, 2, "kv_num_heads")?;
    if call.optional(4).is_some() != call.optional(5).is_some() {
        return Err(RuleError::new("has only one of past key and past value"));
    }
    let new = keys.length;
    let keys = keys.after(call, call.optional(4))?;
    let values = values.after(call, call.optional(5))?;
    let past = (keys.length - new) as i64;

    let scores = [queries.batch, queries.heads, queries.length, keys.length];
    let filled = filled_keys(call, queries.batch)?;
    let mask = match call.optional(3) {
        Some(mask) => Some(Mask::of(mask, scores)?),
        None => None,
    };
    let window = Window::of(call)?;
    let modes = [Stage::Raw, Stage::Capped, Stage::Biased, Stage::Softmax];
    let mode = call.node.int("qk_matmul_output_mode").unwrap_or(0);
    let stage = usize::try_from(mode).ok().and_then(|mode| modes.get(mode));
    let stage =
        stage.ok_or_else(|| RuleError::new(format!("has a `qk_matmul_output_mode` of {mode}")))?;
    let rules = Rules {
        softcap: f64::from(call.node.float("softcap").unwrap_or(0.0)),
        precision: precision(call)?,
        keep: call.wants(3).then_some(*stage),
        ..Rules::scaled(call.node.float("scale"), queries.size)
    };
    let bias = |example: usize, head: usize, query: usize, row: &mut [f64]| {
        if let Some(mask) = &mask {
            mask.add([example, head, query], row);
        }
        let filled = filled.as_ref().map(|filled| filled[example]);
        let before = filled.map_or(past, |filled| filled.saturating_sub(queries.length as i64));
        let position = before.saturating_add(query as i64);
        for (key, bias) in row.iter_mut().enumerate() {
            let key = key as i64;
            if !window.sees(position, key) || filled.is_some_and(|filled| key >= filled) {
                *bias = f64::NEG_INFINITY;
            }
        }
    };
    let attended = attend(call, &queries, &keys, &values, &rules, bias)?;
    let [batch, heads, length, _] = scores;
    let shape = [batch, heads, length, values.size];
    let result = if q.dims.len() == 3 {
        let dims = vec![batch, length, heads * values.size];
        q.with(dims, Data::Float(merge_heads(&attended.output, shape)))
    } else {
        q.with(shape.to_vec(), Data::Float(attended.output))
    };
    let mut outputs = vec![result, keys.array(q), values.array(call.input(2)?)];
    if rules.keep.is_some() {
        outputs.push(q.with(scores.to_vec(), Data::Float(attended.scores)));
    }
    Ok(outputs)
}

/// FlexAttention (ai.onnx.preview) without modifiers of scores or probabilities.
pub fn flex_attention(call: &Call) -> Outcome {
    for name in ["score_mod", "prob_mod"] {
        if call.node.attribute(name).is_some() {
            return Err(call.unsupported(format_args!("has the subgraph `{name}`")));
        }
    }
    let q = call.input(0)?;
    let queries = Heads::of(q)?;
    let keys = Heads::of(call.input(1)?)?;
    let values = Heads::of(call.input(2)?)?;
    let rules = Rules {
        precision: precision(call)?,
        ..Rules::scaled(call.node.float("scale"), queries.size)
    };
    let attended = attend(call, &queries, &keys, &values, &rules, |_, _, _, _| {})?;
    let dims = vec![queries.batch, queries.heads, queries.length, values.size];
    Ok(vec![q.with(dims, Data::Float(attended.output))])
}
