//! TfIdfVectorizer: how often the n-grams of a pool occur in a sequence.

use std::collections::HashMap;
use std::hash::Hash;

use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome};
use crate::host::movement::room;
use crate::onnx::proto::data_type;

/// What the attributes say about the n-grams to count.
struct Rules {
    shortest: usize,
    longest: usize,
    /// Most elements left out between two of an n-gram.
    most_skipped: usize,
    /// Where the n-grams of each length begin in the pool.
    begins: Vec<usize>,
    /// The column in which each n-gram is counted.
    columns: Vec<usize>,
    /// Number of columns.
    width: usize,
}

impl Rules {
    fn of(call: &Call) -> Result<Self, RuleError> {
        let size = |name: &str, value: i64| {
            usize::try_from(value).map_err(|_| RuleError::new(format!("has {value} in `{name}`")))
        };
        let one = |name: &str| {
            let value = call.node.int(name);
            size(
                name,
                value.ok_or_else(|| RuleError::new(format!("has no `{name}`")))?,
            )
        };
        let list = |name: &str| {
            let values = call.node.ints(name).unwrap_or_default().iter();
            values
                .map(|&value| size(name, value))
                .collect::<Result<Vec<_>, _>>()
        };
        let columns = list("ngram_indexes")?;
        let last = columns.iter().max();
        let width = last.map_or(0, |last| last.saturating_add(1));
        room(call, &[width])?;
        Ok(Self {
            shortest: one("min_gram_length")?.max(1),
            longest: one("max_gram_length")?,
            most_skipped: one("max_skip_count")?,
            begins: list("ngram_counts")?,
            columns,
            width,
        })
    }

    /// The column of each n-gram of the pool that has one of the lengths to count.
    fn known<'p, T: Hash + Eq>(
        &self,
        pool: &'p [T],
    ) -> Result<HashMap<Vec<&'p T>, usize>, RuleError> {
        let mut columns = self.columns.iter();
        let mut known = HashMap::new();
        for (index, &begin) in self.begins.iter().enumerate() {
            let length = index + 1;
            let end = self.begins.get(length).copied().unwrap_or(pool.len());
            let grams = pool
                .get(begin..end)
                .filter(|grams| grams.len().is_multiple_of(length))
                .ok_or_else(|| {
                    RuleError::new(format!(
                        "has {length}-grams from {begin} to {end} in a pool of {}",
                        pool.len()
                    ))
                })?;
            for gram in grams.chunks(length) {
                let column = columns
                    .next()
                    .ok_or_else(|| RuleError::new("has more n-grams than `ngram_indexes`"))?;
                if (self.shortest..=self.longest).contains(&length) {
                    known.insert(gram.iter().collect(), *column);
                }
            }
        }
        Ok(known)
    }

    /// How often the n-grams of the pool occur in each row of `length` elements, a row of columns
    /// each. Single elements are counted once, whatever may be skipped.
    fn counts<T: Hash + Eq>(
        &self,
        call: &Call,
        pool: &[T],
        rows: &[T],
        length: usize,
    ) -> Result<Vec<f64>, RuleError> {
        let known = self.known(pool)?;
        let longest = self.longest.min(self.begins.len()).min(length);
        let furthest = self.most_skipped.saturating_add(1).min(length.max(1));
        let work = [rows.len(), longest, longest, furthest];
        let work = work.iter().fold(1usize, |a, &b| a.saturating_mul(b));
        if work > call.most.saturating_mul(64) {
            return Err(RuleError::new(format!(
                "looks for {longest}-grams with up to {} left out among {length}, too much work",
                self.most_skipped
            )));
        }
        let mut out = Vec::new();
        let mut gram = Vec::with_capacity(longest);
        for row in rows.chunks(length.max(1)) {
            let mut counts = vec![0.0; self.width];
            for size in self.shortest..=longest {
                let furthest = if size == 1 { 1 } else { furthest };
                for distance in 1..=furthest {
                    let Some(starts) = row.len().checked_sub((size - 1) * distance) else {
                        break;
                    };
                    for start in 0..starts {
                        gram.clear();
                        gram.extend(row[start..].iter().step_by(distance).take(size));
                        if let Some(count) = known.get(&gram).and_then(|&c| counts.get_mut(c)) {
                            *count += 1.0;
                        }
                    }
                }
            }
            out.append(&mut counts);
        }
        Ok(out)
    }
}

/// TfIdfVectorizer.
pub(super) fn tf_idf_vectorizer(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let (rows, length) = match input.dims[..] {
        [length] => (None, length),
        [rows, length] => (Some(rows), length),
        _ => return Err(RuleError::new("needs an input of rank 1 or 2")),
    };
    let rules = Rules::of(call)?;
    let dims: Vec<usize> = rows.into_iter().chain([rules.width]).collect();
    let total = room(call, &dims)?;
    let strings = call.node.attribute("pool_strings").map(|a| &a.strings);
    let mut counts = match (&input.data, strings, call.node.ints("pool_int64s")) {
        (Data::Text(values), Some(pool), None) => rules.counts(call, pool, values, length)?,
        (Data::Int(values), None, Some(pool)) => rules.counts(call, pool, values, length)?,
        _ => return Err(RuleError::new("needs one pool, of the type of its input")),
    };
    // Rows without elements.
    counts.resize(total, 0.0);
    let (cut, weighed) = match call.node.text("mode") {
        Some("TF") => (false, false),
        Some("IDF") => (true, true),
        Some("TFIDF") => (false, true),
        mode => return Err(call.unsupported(format!("has the mode {mode:?}"))),
    };
    if cut {
        counts.iter_mut().for_each(|count| *count = count.min(1.0));
    }
    let weights = call.node.attribute("weights").map(|a| &a.floats);
    if let Some(weights) = weights.filter(|weights| weighed && !weights.is_empty()) {
        if weights.len() != rules.columns.len() {
            return Err(RuleError::new(format!(
                "has {} weights for {} n-grams",
                weights.len(),
                rules.columns.len()
            )));
        }
        // A weight belongs to an n-gram, wherever that is counted.
        let mut scales = vec![1.0; rules.width];
        for (&column, &weight) in rules.columns.iter().zip(weights) {
            scales[column] = f64::from(weight);
        }
        for row in counts.chunks_mut(rules.width.max(1)) {
            for (count, scale) in row.iter_mut().zip(&scales) {
                *count *= scale;
            }
        }
    }
    Ok(vec![Array::float(data_type::FLOAT, dims, counts)])
}
