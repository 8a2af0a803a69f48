//! Scaled dot-product attention: `softmax(Q Kᵀ · scale + bias) V` (Vaswani et al. 2017).

use super::heads::Heads;
use crate::graph::params::RuleError;
use crate::host::call::Call;
use crate::host::number::round_float;
use crate::onnx::proto::data_type;

/// A stage of the scores that a node can ask for as an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Scaled products.
    Raw,
    /// Products after the soft cap.
    Capped,
    /// Products after cap and bias.
    Biased,
    /// Probabilities.
    Softmax,
}

/// How scores come about.
pub struct Rules<'a> {
    pub scale: f64,
    /// Scores become `cap · tanh(score / cap)`; none at 0.
    pub softcap: f64,
    /// Type in which the softmax is computed, where it is not float64.
    pub precision: Option<i32>,
    /// Which stage of the scores is given back.
    pub keep: Option<Stage>,
    /// For each query head, the exponent of one more key that has no value.
    pub sinks: Option<&'a [f64]>,
}

impl Rules<'_> {
    /// Scores scaled by `scale`, or `1 / √size`, and nothing else.
    pub fn scaled(scale: Option<f32>, size: usize) -> Self {
        Self {
            scale: scale.map_or_else(|| 1.0 / (size as f64).sqrt(), f64::from),
            softcap: 0.0,
            precision: None,
            keep: None,
            sinks: None,
        }
    }

    fn capped(&self, score: f64) -> f64 {
        if self.softcap > 0.0 {
            self.softcap * (score / self.softcap).tanh()
        } else {
            score
        }
    }

    /// Makes probabilities of products, and keeps the stage that is asked for in `kept`.
    fn weigh(&self, row: &mut [f64], biases: &[f64], sink: Option<f64>, kept: &mut Vec<f64>) {
        let mut keep = |stage: Stage, row: &[f64]| {
            if self.keep == Some(stage) {
                kept.extend_from_slice(row);
            }
        };
        keep(Stage::Raw, row);
        for score in row.iter_mut() {
            *score = self.capped(*score);
        }
        keep(Stage::Capped, row);
        for (score, bias) in row.iter_mut().zip(biases) {
            *score = if *bias == f64::NEG_INFINITY {
                *bias
            } else {
                *score + bias
            };
        }
        keep(Stage::Biased, row);
        probabilities(row, self, sink);
        keep(Stage::Softmax, row);
    }

    fn rounded(&self, value: f64) -> f64 {
        match self.precision {
            None | Some(data_type::DOUBLE) => value,
            Some(data_type::FLOAT) => f64::from(value as f32),
            Some(kind) => round_float(kind, value),
        }
    }
}

/// What attention gives.
pub struct Attended {
    /// `[batch, query heads, queries, value size]`.
    pub output: Vec<f64>,
    /// `[batch, query heads, queries, keys]` of the stage that was asked for, or empty.
    pub scores: Vec<f64>,
}

/// Whether the shapes of queries, keys and values fit together.
fn check(queries: &Heads, keys: &Heads, values: &Heads) -> Result<(), RuleError> {
    let grouped = keys.heads != 0 && queries.heads.is_multiple_of(keys.heads);
    if queries.batch == keys.batch
        && queries.size == keys.size
        && [values.batch, values.heads, values.length] == [keys.batch, keys.heads, keys.length]
        && grouped
    {
        return Ok(());
    }
    Err(RuleError::new(format!(
        "has queries, keys and values of the shapes {:?}, {:?} and {:?}",
        queries.dims(),
        keys.dims(),
        values.dims()
    )))
}

/// Attention of every query head to the key head of its group. `bias` adds to the zeros of a row
/// of keys what belongs to `(example, head, query)`; a key with a bias of -∞ takes no part,
/// whatever its score, and a query with no key at all gets zeros.
pub fn attend(
    call: &Call,
    queries: &Heads,
    keys: &Heads,
    values: &Heads,
    rules: &Rules,
    mut bias: impl FnMut(usize, usize, usize, &mut [f64]),
) -> Result<Attended, RuleError> {
    check(queries, keys, values)?;
    let [batch, heads, length] = [queries.batch, queries.heads, queries.length];
    let scores = call.count(&[batch, heads, length, keys.length])?;
    let mut attended = Attended {
        output: vec![0.0; call.count(&[batch, heads, length, values.size])?],
        scores: Vec::new(),
    };
    for dims in [&[batch, heads, length], &[length, heads, values.size]] {
        call.count(dims)?;
    }
    if scores == 0 {
        return Ok(attended);
    }
    attended.scores.reserve(rules.keep.map_or(0, |_| scores));
    let group = heads / keys.heads;
    let mut row = vec![0.0; keys.length];
    let mut biases = vec![0.0; keys.length];
    for index in 0..batch * heads * length {
        let (row_of, query) = (index / length, index % length);
        let (example, head) = (row_of / heads, row_of % heads);
        let query_row = &queries.head(example, head)[query * queries.size..][..queries.size];
        products(
            query_row,
            keys.head(example, head / group),
            rules.scale,
            &mut row,
        );
        biases.fill(0.0);
        bias(example, head, query, &mut biases);
        let sink = rules.sinks.and_then(|sinks| sinks.get(head).copied());
        rules.weigh(&mut row, &biases, sink, &mut attended.scores);
        let out = &mut attended.output[index * values.size..][..values.size];
        mix(&row, values.head(example, head / group), out);
    }
    Ok(attended)
}

/// The scaled products of a query with every key.
fn products(query: &[f64], keys: &[f64], scale: f64, row: &mut [f64]) {
    for (key, score) in row.iter_mut().enumerate() {
        let key = &keys[key * query.len()..][..query.len()];
        let product: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
        *score = product * scale;
    }
}

/// The sum of the values by their shares.
fn mix(shares: &[f64], values: &[f64], out: &mut [f64]) {
    let rows = values.chunks(out.len().max(1));
    for (share, value) in shares.iter().zip(rows).filter(|(share, _)| **share != 0.0) {
        out.iter_mut().zip(value).for_each(|(o, v)| *o += share * v);
    }
}

/// Softmax of a row in place; zeros where every score is -∞.
fn probabilities(row: &mut [f64], rules: &Rules, sink: Option<f64>) {
    row.iter_mut()
        .for_each(|score| *score = rules.rounded(*score));
    let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY && !row.iter().any(|score| score.is_nan()) {
        row.fill(0.0);
        return;
    }
    let most = sink.map_or(most, |sink| most.max(sink));
    let mut sum = sink.map_or(0.0, |sink| (sink - most).exp());
    for score in row.iter_mut() {
        *score = (*score - most).exp();
        sum += *score;
    }
    row.iter_mut()
        .for_each(|score| *score = rules.rounded(*score / sum));
}
