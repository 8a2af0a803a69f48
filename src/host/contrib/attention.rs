//! Attention with its projections fused in, and what the attention operators of ONNX Runtime share.

use super::standard::{Standard, wide};
use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::host::attention::{Attended, Heads, Rotation, Rules, attend, merge_heads, rotate};
use crate::host::call::{Call, Outcome};

/// The attribute `num_heads`, or another count of heads.
pub fn head_count(call: &Call, name: &str) -> Result<usize, RuleError> {
    call.node
        .int(name)
        .and_then(|count| usize::try_from(count).ok())
        .filter(|&count| count > 0)
        .ok_or_else(|| RuleError::new(format!("has no positive `{name}`")))
}

/// `scale`, where 0 stands for the default.
pub fn scale(call: &Call) -> Option<f32> {
    call.node.float("scale").filter(|&scale| scale != 0.0)
}

/// Refuses attributes and inputs that change what a node computes in a way not held here.
pub fn refuse(call: &Call, attributes: &[&str], inputs: &[(usize, &str)]) -> Result<(), RuleError> {
    for name in attributes {
        if call.node.int(name).unwrap_or(0) != 0 {
            return Err(call.unsupported(format_args!("has `{name}`")));
        }
    }
    for &(index, name) in inputs {
        if call.optional(index).is_some() {
            return Err(call.unsupported(format_args!("has the input `{name}`")));
        }
    }
    Ok(())
}

/// Sizes of the scores `[batch, heads, queries, keys]`.
pub type ScoreShape = [usize; 4];

/// `attention_bias`, added to the scores.
pub struct Bias<'a> {
    values: &'a [f64],
    /// Steps along batch, heads and queries; 0 where the bias repeats.
    steps: [usize; 3],
    keys: usize,
}

impl<'a> Bias<'a> {
    pub fn of(array: Option<&'a Array>, scores: ScoreShape) -> Result<Option<Self>, RuleError> {
        let Some(array) = array else { return Ok(None) };
        let unfit = || {
            RuleError::new(format!(
                "has a bias of shape {:?} for scores of shape {scores:?}",
                array.dims
            ))
        };
        let &[batch, heads, queries, keys] = array.dims.as_slice() else {
            return Err(unfit());
        };
        let repeats = |own: usize, size: usize| own == 1 && own != size;
        if (batch != scores[0] && batch != 1)
            || (heads != scores[1] && heads != 1)
            || queries != scores[2]
            || keys > scores[3]
        {
            return Err(unfit());
        }
        let step = |repeats: bool, size: usize| if repeats { 0 } else { size };
        let head = queries.saturating_mul(keys);
        Ok(Some(Self {
            values: array.floats()?,
            steps: [
                step(repeats(batch, scores[0]), heads.saturating_mul(head)),
                step(repeats(heads, scores[1]), head),
                keys,
            ],
            keys,
        }))
    }

    pub fn add(&self, place: [usize; 3], row: &mut [f64]) {
        let at: usize = place.iter().zip(self.steps).map(|(p, s)| p * s).sum();
        let given = self.values[at..][..self.keys].iter();
        row.iter_mut()
            .zip(given)
            .for_each(|(row, bias)| *row += bias);
    }
}

/// A mask over keys in one of the forms that ONNX Runtime takes.
pub struct KeyMask<'a> {
    form: Form<'a>,
    /// What is added to the score of a masked key.
    filter: f64,
}

enum Form<'a> {
    /// For each example the first key that takes part, and the first behind those.
    Spans(Vec<(i64, i64)>),
    /// 0 at masked keys; with steps along batch and queries, and where the first query stands.
    Places {
        values: &'a [i64],
        steps: [usize; 2],
        start: usize,
        keys: usize,
    },
}

impl<'a> KeyMask<'a> {
    /// The mask `array` for scores of shape `scores`, the first `past` keys of which are older than
    /// the queries.
    pub fn of(
        call: &Call,
        array: Option<&'a Array>,
        scores: ScoreShape,
        past: usize,
    ) -> Result<Option<Self>, RuleError> {
        let Some(array) = array else { return Ok(None) };
        let [batch, _, queries, keys] = scores;
        let values = array.ints()?;
        let form = match array.dims.as_slice() {
            &[count] if count == batch => Form::Spans(values.iter().map(|&end| (0, end)).collect()),
            &[count] if batch.checked_mul(2) == Some(count) => {
                let (ends, starts) = values.split_at(batch);
                Form::Spans(starts.iter().copied().zip(ends.iter().copied()).collect())
            }
            &[examples, width] if examples == batch && width <= keys => Form::Places {
                values,
                steps: [width, 0],
                start: 0,
                keys: width,
            },
            &[examples, height, width]
                if [examples, height] == [batch, queries] && width <= keys =>
            {
                Form::Places {
                    values,
                    steps: [height.saturating_mul(width), width],
                    start: 0,
                    keys: width,
                }
            }
            &[examples, 1, height, width]
                if examples == batch && height >= past.saturating_add(queries) && width >= keys =>
            {
                Form::Places {
                    values,
                    steps: [height.saturating_mul(width), width],
                    start: past.saturating_mul(width),
                    keys,
                }
            }
            dims => {
                return Err(call.unsupported(format_args!(
                    "has a mask of shape {dims:?} for scores of shape {scores:?}"
                )));
            }
        };
        let filter = f64::from(call.node.float("mask_filter_value").unwrap_or(-10000.0));
        Ok(Some(Self { form, filter }))
    }

    pub fn add(&self, example: usize, query: usize, row: &mut [f64]) {
        match &self.form {
            Form::Spans(spans) => {
                let (start, end) = spans[example];
                for (key, score) in row.iter_mut().enumerate() {
                    if !(start..end).contains(&(key as i64)) {
                        *score += self.filter;
                    }
                }
            }
            Form::Places {
                values,
                steps,
                start,
                keys,
            } => {
                let at = start + example * steps[0] + query * steps[1];
                let given = &values[at..][..*keys];
                for (score, _) in row.iter_mut().zip(given).filter(|(_, given)| **given <= 0) {
                    *score += self.filter;
                }
            }
        }
    }
}

/// Attention with the masks of Attention and MultiHeadAttention, whose last `queries` keys are as
/// old as the queries.
pub fn masked(
    call: &Call,
    [queries, keys, values]: [&Heads; 3],
    mask: Option<&Array>,
    bias: Option<&Array>,
    rules: &Rules,
) -> Result<Attended, RuleError> {
    let scores = [queries.batch, queries.heads, queries.length, keys.length];
    let past = keys.length.saturating_sub(queries.length);
    let mask = KeyMask::of(call, mask, scores, past)?;
    let bias = Bias::of(bias, scores)?;
    let causal = call.node.int("unidirectional").unwrap_or(0) != 0;
    attend(call, queries, keys, values, rules, |b, h, q, row| {
        if let Some(mask) = &mask {
            mask.add(b, q, row);
        }
        if let Some(bias) = &bias {
            bias.add([b, h, q], row);
        }
        if causal {
            let hidden = row.iter_mut().skip(past + q + 1);
            hidden.for_each(|score| *score = f64::NEG_INFINITY);
        }
    })
}

/// The result `[batch, length, heads · size]` of attention.
pub fn merged(attended: Attended, queries: &Heads, values: &Heads, like: &Array) -> Array {
    let shape = [queries.batch, queries.heads, queries.length, values.size];
    let dims = vec![queries.batch, queries.length, queries.heads * values.size];
    let result = merge_heads(&attended.output, shape);
    like.with(dims, Data::Float(result))
}

/// Columns `start..start + width` of rows of `of` elements.
pub fn columns(values: &[f64], of: usize, start: usize, width: usize) -> Vec<f64> {
    let rows = values.chunks(of.max(1));
    rows.flat_map(|row| &row[start..start + width])
        .copied()
        .collect()
}

/// Widths of queries, keys and values in the merged projection of `total` columns.
fn widths(call: &Call, total: usize) -> Result<[usize; 3], RuleError> {
    let unfit = || RuleError::new(format!("has weights of {total} columns for Q, K and V"));
    let Some(given) = call.node.ints("qkv_hidden_sizes").filter(|v| !v.is_empty()) else {
        let width = total / 3;
        return if width * 3 == total {
            Ok([width; 3])
        } else {
            Err(unfit())
        };
    };
    let sizes: Vec<usize> = given
        .iter()
        .filter_map(|&size| usize::try_from(size).ok())
        .collect();
    match sizes.as_slice() {
        &[q, k, v]
            if q.checked_add(k).and_then(|sum| sum.checked_add(v)) == Some(total) && q == k =>
        {
            Ok([q, k, v])
        }
        _ => Err(unfit()),
    }
}

/// `past` of shape `[2, …]` as keys and values.
fn halves(past: &Array) -> Result<[Array; 2], RuleError> {
    let [2, rest @ ..] = past.dims.as_slice() else {
        return Err(RuleError::new(format!(
            "has a past of shape {:?}, needs [2, …]",
            past.dims
        )));
    };
    let values = past.floats()?;
    let (keys, rows) = values.split_at(values.len() / 2);
    let half = |part: &[f64]| past.with(rest.to_vec(), Data::Float(part.to_vec()));
    Ok([half(keys), half(rows)])
}

/// Attention: projections of one input to queries, keys and values, and their attention. Outputs:
/// the result and `present`.
pub fn attention(call: &Call) -> Outcome {
    refuse(
        call,
        &["do_rotary", "past_present_share_buffer"],
        &[(6, "past_sequence_length")],
    )?;
    let x = call.input(0)?;
    let weights = call.input(1)?;
    let (&[batch, length, _], &[_, total]) = (x.dims.as_slice(), weights.dims.as_slice()) else {
        return Err(RuleError::new(format!(
            "has an input of shape {:?} and weights of shape {:?}",
            x.dims, weights.dims
        )));
    };
    let mut projected = Standard::new("MatMul")
        .input(wide(x))
        .input(wide(weights))
        .run(call)?;
    if let Some(bias) = call.optional(2) {
        projected = super::bias::add(&projected, bias)?;
    }
    let count = head_count(call, "num_heads")?;
    let sizes = widths(call, total)?;
    let part = |index: usize| -> Result<Heads, RuleError> {
        let start = sizes[..index].iter().sum();
        let values = columns(projected.floats()?, total, start, sizes[index]);
        Heads::split_values(&values, [batch, length, sizes[index]], count)
    };
    let queries = part(0)?;
    let (mut keys, mut values) = (part(1)?, part(2)?);
    if let Some(past) = call.optional(4) {
        let [past_keys, past_values] = halves(past)?;
        keys = keys.after(call, Some(&past_keys))?;
        values = values.after(call, Some(&past_values))?;
    }
    let rules = Rules::scaled(scale(call), queries.size);
    let heads = [&queries, &keys, &values];
    let attended = masked(call, heads, call.optional(3), call.optional(5), &rules)?;
    let mut outputs = vec![merged(attended, &queries, &values, x)];
    if call.wants(1) {
        if keys.size != values.size {
            return Err(RuleError::new(
                "has keys and values of unlike size in `present`",
            ));
        }
        let mut dims = vec![2];
        dims.extend(keys.dims());
        let mut both = keys.values;
        both.extend(values.values);
        outputs.push(x.with(dims, Data::Float(both)));
    }
    Ok(outputs)
}

/// RotaryEmbedding of com.microsoft: positions are given for every token, or the first alone.
pub fn rotary_embedding(call: &Call) -> Outcome {
    refuse(call, &["is_packed_batching"], &[])?;
    if call.node.float("scale").is_some_and(|scale| scale != 1.0) {
        return Err(call.unsupported("has a `scale` other than 1"));
    }
    let x = call.input(0)?;
    let interleaved = call.node.int("interleaved").unwrap_or(0) != 0;
    let rotation = Rotation::of(call.input(2)?, call.input(3)?, interleaved)?;
    let mut heads = if x.dims.len() == 3 {
        let count = match call.node.int("num_heads").unwrap_or(0) {
            0 => x.dims[2]
                .checked_div(rotation.half.saturating_mul(2))
                .unwrap_or(0),
            count => usize::try_from(count).unwrap_or(0),
        };
        Heads::split(x, count)?
    } else {
        Heads::of(x)?
    };
    let positions = Positions::of(call.input(1)?, heads.batch, heads.length)?;
    rotate(&mut heads, &rotation, |b, place| positions.at(b, place))?;
    let shape = [heads.batch, heads.heads, heads.length, heads.size];
    let values = if x.dims.len() == 3 {
        merge_heads(&heads.values, shape)
    } else {
        heads.values
    };
    Ok(vec![x.with(x.dims.clone(), Data::Float(values))])
}

/// `position_ids`.
pub enum Positions {
    From(usize),
    Each { ids: Vec<usize>, length: usize },
}

impl Positions {
    /// Of shape `[1]`, the first position, or `[batch, length]`.
    pub fn of(array: &Array, batch: usize, length: usize) -> Result<Self, RuleError> {
        let ids = array.ints()?.iter().map(|&id| {
            usize::try_from(id).map_err(|_| RuleError::new(format!("has position {id}")))
        });
        let ids = ids.collect::<Result<Vec<usize>, _>>()?;
        match ids.as_slice() {
            &[first] if array.dims == [1] => Ok(Self::From(first)),
            _ if array.dims == [batch, length] => Ok(Self::Each { ids, length }),
            _ => Err(RuleError::new(format!(
                "has positions of shape {:?} for {batch} sequences of {length}",
                array.dims
            ))),
        }
    }

    pub fn at(&self, example: usize, place: usize) -> usize {
        match self {
            Self::From(first) => first.saturating_add(place),
            Self::Each { ids, length } => ids[example * length + place],
        }
    }
}
