//! Single weights set to zero.

use std::collections::BTreeMap;

use super::{Exclusion, PruneError, importance};
use crate::graph::Graph;
use crate::spec::prune::{PruneParams, Scope};

/// Names of the kernels whose weights may go.
pub fn prunable<'a>(graph: &'a Graph, exclusion: &Exclusion) -> Vec<&'a str> {
    graph
        .kernels()
        .into_iter()
        .filter(|&(_, node)| !exclusion.covers(graph.nodes[node].label()))
        .map(|(name, _)| name)
        .collect()
}

/// Sets the least important weights to zero, so many that their share of all prunable weights is
/// `sparsity`, to the nearest weight. Zeros that are there already count. Returns the share.
pub fn sparsify(
    graph: &mut Graph,
    exclusion: &Exclusion,
    params: &PruneParams,
    sparsity: f64,
    seed: u64,
) -> Result<f64, PruneError> {
    let names: Vec<String> = prunable(graph, exclusion)
        .into_iter()
        .map(str::to_owned)
        .collect();
    if names.is_empty() {
        return Err(PruneError::NothingPrunable(
            "the graph has no kernels of convolutions or matrix products that are not excluded"
                .to_owned(),
        ));
    }
    // By kernel: weights from the least important on, as many as may go.
    let mut ranked: Vec<Vec<(f64, usize)>> = Vec::new();
    let mut total = 0;
    for name in &names {
        let tensor = &graph.initializers[name];
        let mut own: Vec<(f64, usize)> =
            importance::of_weights(name, tensor, params.criterion, seed)
                .into_iter()
                .zip(0..)
                .collect();
        total += own.len();
        own.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        own.truncate((own.len() as f64 * params.max_layer_sparsity).floor() as usize);
        ranked.push(own);
    }
    let wanted = (total as f64 * sparsity).round() as usize;
    let available: usize = ranked.iter().map(Vec::len).sum();
    if wanted > available {
        return Err(PruneError::Unreachable {
            target: "sparsity".to_owned(),
            asked: sparsity,
            nearest: available as f64 / total as f64,
            hint: format!(
                " (max_layer_sparsity keeps {:.0} % of every kernel)",
                (1.0 - params.max_layer_sparsity) * 100.0
            ),
        });
    }
    let counts = match params.scope {
        Scope::Layer => shares(&ranked, wanted),
        _ => lowest(&ranked, wanted),
    };
    let mut zeros = 0;
    for ((name, own), count) in names.iter().zip(&ranked).zip(counts) {
        let Some(tensor) = graph.initializers.get_mut(name) else {
            continue;
        };
        let mut values = tensor.floats().unwrap_or_default().to_vec();
        for &(_, index) in &own[..count] {
            values[index] = 0.0;
        }
        zeros += values.iter().filter(|&&value| value == 0.0).count();
        tensor.set_floats(values);
    }
    Ok(zeros as f64 / total as f64)
}

/// The same share of every kernel; what rounding leaves over goes to the largest.
fn shares(ranked: &[Vec<(f64, usize)>], wanted: usize) -> Vec<usize> {
    let available: usize = ranked.iter().map(Vec::len).sum();
    let share = wanted as f64 / available.max(1) as f64;
    let mut counts: Vec<usize> = ranked
        .iter()
        .map(|own| (own.len() as f64 * share).floor() as usize)
        .collect();
    let mut left = wanted - counts.iter().sum::<usize>();
    let mut order: Vec<usize> = (0..ranked.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(ranked[index].len()));
    for index in order.into_iter().cycle() {
        if left == 0 {
            break;
        }
        if counts[index] < ranked[index].len() {
            counts[index] += 1;
            left -= 1;
        }
    }
    counts
}

/// The `wanted` lowest of all kernels together.
fn lowest(ranked: &[Vec<(f64, usize)>], wanted: usize) -> Vec<usize> {
    let mut all: Vec<(f64, usize, usize)> = Vec::new();
    for (kernel, own) in ranked.iter().enumerate() {
        all.extend(own.iter().map(|&(score, index)| (score, kernel, index)));
    }
    let mut counts = vec![0; ranked.len()];
    if wanted == 0 {
        return counts;
    }
    let by_score = |a: &(f64, usize, usize), b: &(f64, usize, usize)| {
        a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2)))
    };
    all.select_nth_unstable_by(wanted - 1, by_score);
    for &(_, kernel, _) in &all[..wanted] {
        counts[kernel] += 1;
    }
    counts
}

/// For each prunable kernel, 1 where a weight is left and 0 where it is gone.
pub fn masks(graph: &Graph, exclusion: &Exclusion) -> BTreeMap<String, Vec<f32>> {
    prunable(graph, exclusion)
        .into_iter()
        .map(|name| {
            let values = graph.initializers[name].floats().unwrap_or_default();
            let mask = values
                .iter()
                .map(|&value| f32::from(u8::from(value != 0.0)));
            (name.to_owned(), mask.collect())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_weights_of_all_kernels_are_counted_by_kernel() {
        let ranked = vec![
            vec![(0.1, 0), (0.4, 1), (0.9, 2)],
            vec![(0.2, 1), (0.3, 0), (0.8, 2)],
        ];
        assert_eq!(lowest(&ranked, 3), [1, 2]);
        assert_eq!(shares(&ranked, 3), [2, 1]);
    }
}
