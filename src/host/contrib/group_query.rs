//! GroupQueryAttention: attention of groups of query heads to shared keys, with a cache.

use super::attention::{Bias, Positions, columns, head_count, merged, refuse, scale};
use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::host::attention::{Heads, Rotation, Rules, Stage, attend, rotate};
use crate::host::call::{Call, Outcome};
use crate::host::normalization::{Norm, standardize};

/// Queries, keys and values, packed in one input or apart.
fn inputs(call: &Call) -> Result<[Heads; 3], RuleError> {
    let heads = head_count(call, "num_heads")?;
    let shared = head_count(call, "kv_num_heads")?;
    let query = call.input(0)?;
    if let Some(key) = call.optional(1) {
        let value = call.input(2)?;
        return Ok([
            Heads::split(query, heads)?,
            Heads::split(key, shared)?,
            Heads::split(value, shared)?,
        ]);
    }
    let unfit = || RuleError::new(format!("has packed inputs of shape {:?}", query.dims));
    let &[batch, length, width] = query.dims.as_slice() else {
        return Err(unfit());
    };
    let rows = shared
        .checked_mul(2)
        .and_then(|both| both.checked_add(heads))
        .ok_or_else(unfit)?;
    let size = width / rows;
    if size * rows != width {
        return Err(unfit());
    }
    let part = |start: usize, count: usize| {
        let values = columns(query.floats()?, width, start * size, count * size);
        Heads::split_values(&values, [batch, length, count * size], count)
    };
    Ok([
        part(0, heads)?,
        part(heads, shared)?,
        part(heads + shared, shared)?,
    ])
}

/// How far each example has come.
struct Progress {
    /// Tokens in the cache before this step.
    past: Vec<usize>,
    /// Tokens in the cache after it.
    total: Vec<usize>,
    /// Length of the cache after it.
    capacity: usize,
    /// `total_sequence_length`: the most tokens after this step.
    bound: usize,
    /// Whether this is the first step of a prompt.
    prompt: bool,
}

impl Progress {
    fn of(call: &Call, batch: usize, length: usize) -> Result<Self, RuleError> {
        let ends = call.input(5)?;
        let whole = call.input(6)?.scalar()?;
        let bound = if (0.0..=9e15).contains(&whole) {
            whole as usize
        } else {
            return Err(RuleError::new(format!(
                "has a `total_sequence_length` of {whole}"
            )));
        };
        let chunks = match call.optional(16) {
            Some(given) if given.len() == batch => Some(given.ints()?),
            Some(given) => {
                return Err(RuleError::new(format!(
                    "has `query_seqlens` of shape {:?}",
                    given.dims
                )));
            }
            None => None,
        };
        if ends.len() != batch {
            return Err(RuleError::new(format!(
                "has `seqlens_k` of shape {:?} for a batch of {batch}",
                ends.dims
            )));
        }
        let old = call
            .optional(3)
            .map_or(0, |past| past.dims.get(2).copied().unwrap_or(0));
        let mut progress = Self {
            past: Vec::with_capacity(batch),
            total: Vec::with_capacity(batch),
            capacity: old.max(bound),
            bound,
            prompt: bound == length && chunks.is_none(),
        };
        for (example, &end) in ends.ints()?.iter().enumerate() {
            let wrong = || RuleError::new(format!("has {end} in `seqlens_k`"));
            let total = usize::try_from(end.saturating_add(1)).map_err(|_| wrong())?;
            let chunk = match chunks {
                Some(chunks) => usize::try_from(chunks[example]).map_err(|_| wrong())?,
                None => length.min(total),
            };
            let past = total.checked_sub(chunk).ok_or_else(wrong)?;
            if total > progress.capacity || chunk > length || past > old {
                return Err(wrong());
            }
            progress.past.push(past);
            progress.total.push(total);
        }
        Ok(progress)
    }

    /// The keys that a query of an example sees: the first, and the first behind those.
    fn visible(&self, call: &Call) -> impl Fn(usize, usize) -> (usize, usize) {
        let causal = call.node.int("causal").unwrap_or(1) != 0;
        let window = usize::try_from(call.node.int("local_window_size").unwrap_or(-1)).ok();
        move |example, query| {
            let next = self.past[example].saturating_add(query).saturating_add(1);
            let total = self.total[example];
            let end = if causal { next.min(total) } else { total };
            let start = window.map_or(0, |window| next.saturating_sub(window));
            (start.min(end), end)
        }
    }

    /// The cache with the new rows of each example behind its old ones.
    fn extended(&self, call: &Call, new: &Heads, old: Option<&Array>) -> Result<Heads, RuleError> {
        let old = old.map(Heads::of).transpose()?;
        if let Some(old) = &old
            && [old.batch, old.heads, old.size] != [new.batch, new.heads, new.size]
        {
            return Err(RuleError::new(format!(
                "has a past state of shape {:?} for one of {:?}",
                old.dims(),
                new.dims()
            )));
        }
        let dims = [new.batch, new.heads, self.capacity, new.size];
        let mut cache = Heads {
            length: self.capacity,
            values: vec![0.0; call.count(&dims)?],
            ..*new
        };
        if new.size == 0 {
            return Ok(cache);
        }
        for example in 0..new.batch {
            let (past, total) = (self.past[example], self.total[example]);
            for head in 0..new.heads {
                if let Some(old) = &old {
                    let rows = old.head(example, head).chunks(old.size).take(past);
                    for (place, row) in rows.enumerate() {
                        cache.row_mut(example, head, place).copy_from_slice(row);
                    }
                }
                for (place, row) in (past..total).zip(new.head(example, head).chunks(new.size)) {
                    cache.row_mut(example, head, place).copy_from_slice(row);
                }
            }
        }
        Ok(cache)
    }
}

/// Normalises every row of `heads` by its root mean square and scales it, where there is a weight.
fn normalize(call: &Call, heads: &mut Heads, index: usize, own: &str) -> Result<(), RuleError> {
    let Some(weight) = call.optional(index) else {
        return Ok(());
    };
    if weight.len() != heads.size {
        return Err(RuleError::new(format!(
            "has a weight of shape {:?} for heads of {}",
            weight.dims, heads.size
        )));
    }
    let epsilon = call.node.float(own).or(call.node.float("qk_norm_epsilon"));
    let epsilon = f64::from(epsilon.unwrap_or(1e-6));
    standardize(&mut heads.values, heads.size, epsilon, Norm::RootMeanSquare);
    let weight = weight.floats()?;
    for row in heads.values.chunks_mut(heads.size.max(1)) {
        row.iter_mut().zip(weight).for_each(|(v, w)| *v *= w);
    }
    Ok(())
}

/// Rotates queries and new keys by their positions.
fn rotate_both(
    call: &Call,
    progress: &Progress,
    [queries, keys]: [&mut Heads; 2],
) -> Result<(), RuleError> {
    if call.node.int("do_rotary").unwrap_or(0) == 0 {
        return Ok(());
    }
    let interleaved = call.node.int("rotary_interleaved").unwrap_or(0) != 0;
    let rotation = Rotation::of(call.input(7)?, call.input(8)?, interleaved)?;
    let given = match call.optional(9) {
        Some(ids) if progress.prompt => {
            let first = ids.ints()?.first().copied().unwrap_or(0);
            let first = usize::try_from(first)
                .map_err(|_| RuleError::new(format!("has position {first}")))?;
            Some(Positions::From(first))
        }
        Some(ids) => Some(Positions::of(ids, queries.batch, queries.length)?),
        None => None,
    };
    let position = |example: usize, place: usize| match &given {
        Some(given) => given.at(example, place),
        None => progress.past[example].saturating_add(place),
    };
    rotate(queries, &rotation, position)?;
    rotate(keys, &rotation, position)
}

/// GroupQueryAttention without a quantized or windowed cache. Outputs: the result, present key and
/// value, and the scores before (1) or after (2) softmax as `qk_output` says.
pub fn group_query_attention(call: &Call) -> Outcome {
    let quantized = [(12, "k_scale"), (13, "v_scale")];
    refuse(
        call,
        &["sliding_window_cache", "kv_cache_bit_width"],
        &quantized,
    )?;
    let like = call.input(0)?;
    let [mut queries, mut keys, values] = inputs(call)?;
    let extent = [queries.batch, queries.length];
    if [keys.batch, keys.length] != extent || [values.batch, values.length] != extent {
        return Err(call.unsupported("has keys of another length than its queries"));
    }
    let progress = Progress::of(call, queries.batch, queries.length)?;
    normalize(call, &mut queries, 14, "q_norm_epsilon")?;
    normalize(call, &mut keys, 15, "k_norm_epsilon")?;
    rotate_both(call, &progress, [&mut queries, &mut keys])?;
    let keys = progress.extended(call, &keys, call.optional(3))?;
    let values = progress.extended(call, &values, call.optional(4))?;

    let scores = [queries.batch, queries.heads, queries.length, keys.length];
    let bias = Bias::of(call.optional(10), scores)?;
    let sinks = match call.optional(11) {
        Some(sinks) => Some(sinks.floats()?.to_vec()),
        None if call.node.int("smooth_softmax").unwrap_or(0) == 1 => Some(vec![0.0; queries.heads]),
        None => None,
    };
    let rules = Rules {
        softcap: f64::from(call.node.float("softcap").unwrap_or(0.0)),
        keep: match call.node.int("qk_output").unwrap_or(0) {
            1 if call.wants(3) => Some(Stage::Biased),
            2 if call.wants(3) => Some(Stage::Softmax),
            _ => None,
        },
        sinks: sinks.as_deref(),
        ..Rules::scaled(scale(call), queries.size)
    };
    let visible = progress.visible(call);
    let mut attended = attend(call, &queries, &keys, &values, &rules, |b, h, q, row| {
        if let Some(bias) = &bias {
            bias.add([b, h, q], row);
        }
        let (start, end) = visible(b, q);
        for (key, score) in row.iter_mut().enumerate() {
            if key < start || key >= end {
                *score = f64::NEG_INFINITY;
            }
        }
    })?;
    let mut kept = std::mem::take(&mut attended.scores);
    for (index, row) in kept.chunks_mut(keys.length.max(1)).enumerate() {
        let query = index % queries.length;
        let (start, end) = visible(index / queries.length / queries.heads, query);
        row[..start].fill(0.0);
        row[end..].fill(0.0);
    }
    let mut outputs = vec![
        merged(attended, &queries, &values, like),
        keys.array(like),
        values.array(like),
    ];
    if rules.keep.is_some() {
        let [batch, heads, length, capacity] = scores;
        let kept = columns(&kept, capacity, 0, progress.bound);
        let dims = vec![batch, heads, length, progress.bound];
        outputs.push(like.with(dims, Data::Float(kept)));
    }
    Ok(outputs)
}
