//! Single weights set to zero.

use std::collections::BTreeMap;

use super::calibration::Calibration;
use super::importance::{self, Saliencies};
use super::sparsegpt::{Layer, Zeros};
use super::{Exclusion, PruneError};
use crate::graph::Graph;
use crate::graph::reading::Reading;
use crate::spec::prune::{Criterion, PruneParams, Scope};

/// Names of the kernels whose weights may go.
pub fn prunable<'a>(graph: &'a Graph, exclusion: &Exclusion) -> Vec<&'a str> {
    graph
        .kernels()
        .into_iter()
        .filter(|&(_, node)| !exclusion.covers(graph.nodes[node].label()))
        .map(|(name, _)| name)
        .collect()
}

fn prunable_or_error(graph: &Graph, exclusion: &Exclusion) -> Result<Vec<String>, PruneError> {
    let names: Vec<String> = prunable(graph, exclusion)
        .into_iter()
        .map(str::to_owned)
        .collect();
    match names.is_empty() {
        false => Ok(names),
        true => Err(PruneError::NothingPrunable(
            "the graph has no kernels of convolutions or matrix products that are not excluded"
                .to_owned(),
        )),
    }
}

/// Importance of every weight that may go, by kernel; what each costs by itself for `sparsegpt`, which corrects
/// those that stay.
pub fn saliencies(
    graph: &Graph,
    exclusion: &Exclusion,
    params: &PruneParams,
    calibration: Option<&dyn Calibration>,
    seed: u64,
) -> Result<Saliencies, PruneError> {
    let names = prunable_or_error(graph, exclusion)?;
    match (params.criterion, calibration) {
        (Criterion::Sparsegpt, Some(calibration)) => own_costs(graph, &names, calibration),
        (Criterion::Sparsegpt, None) => Err(PruneError::NeedsData(params.criterion)),
        (criterion, _) => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            importance::of_weights(graph, &names, criterion, calibration, seed)
        }
    }
}

/// The largest share of all prunable weights that may be zero.
pub fn most(saliencies: &Saliencies, params: &PruneParams) -> f64 {
    let able = |own: &Vec<f64>| (own.len() as f64 * params.max_layer_sparsity).floor();
    let total: usize = saliencies.values().map(Vec::len).sum();
    saliencies.values().map(able).sum::<f64>() / total.max(1) as f64
}

/// Sets a share of one kernel's weights to zero, the least important ones.
pub fn sparsify_one(graph: &mut Graph, name: &str, saliencies: &[f64], share: f64) {
    let mut order: Vec<usize> = (0..saliencies.len()).collect();
    order.sort_by(|&a, &b| saliencies[a].total_cmp(&saliencies[b]).then(a.cmp(&b)));
    let gone = (order.len() as f64 * share).round() as usize;
    change(graph, name, |weights| {
        order[..gone].iter().for_each(|&index| weights[index] = 0.0);
    });
}

/// Sets the least important weights to zero, so many that their share of all prunable weights is
/// `sparsity`, to the nearest weight. Zeros that are there already count. Returns the share.
///
/// `sparsegpt` goes kernel by kernel, each on what the pruned ones before it give, and corrects the
/// weights that stay.
pub fn sparsify(
    graph: &mut Graph,
    saliencies: &Saliencies,
    params: &PruneParams,
    sparsity: f64,
    calibration: Option<&dyn Calibration>,
) -> Result<f64, PruneError> {
    let names: Vec<String> = saliencies.keys().cloned().collect();
    // By kernel: weights from the least important on, as many as may go.
    let mut ranked: Vec<Vec<(f64, usize)>> = Vec::new();
    let mut total = 0;
    for name in &names {
        let mut own: Vec<(f64, usize)> = saliencies[name].iter().copied().zip(0..).collect();
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
    let mut counts = vec![0; names.len()];
    let sets = ranked_together(graph, &names, params.scope);
    let sizes = sets
        .iter()
        .map(|set| set.iter().map(|&kernel| ranked[kernel].len()).sum());
    for (set, wanted) in sets
        .iter()
        .zip(shares(&sizes.collect::<Vec<usize>>(), wanted))
    {
        let own: Vec<&[(f64, usize)]> = set.iter().map(|&kernel| &*ranked[kernel]).collect();
        for (&kernel, count) in set.iter().zip(lowest(&own, wanted)) {
            counts[kernel] = count;
        }
    }
    if let (Criterion::Sparsegpt, Some(calibration)) = (params.criterion, calibration) {
        for reading in Reading::all(graph) {
            let Some(kernel) = names.iter().position(|name| *name == reading.kernel) else {
                continue;
            };
            if counts[kernel] > 0
                && let Some(layer) = Layer::of(graph, &reading, calibration, 1)?
            {
                change(graph, &reading.kernel, |weights| {
                    layer.prune(weights, Zeros::Count(counts[kernel]));
                });
                counts[kernel] = 0;
            }
        }
    }
    for ((name, own), count) in names.iter().zip(&ranked).zip(counts) {
        change(graph, name, |weights| {
            own[..count]
                .iter()
                .for_each(|&(_, index)| weights[index] = 0.0);
        });
    }
    Ok(zeros(graph, &names) as f64 / total as f64)
}

/// Sets all but the `n` most important of each `m` neighbours along the axis of inputs to zero (Mishra et
/// al., "Accelerating Sparse Deep Neural Networks", 2021, section 3). Neighbours that are fewer than `m` at
/// the end of an axis stay. `sparsegpt` corrects what stays. Returns the share of zeros in all prunable
/// weights.
pub fn keep_n_of_m(
    graph: &mut Graph,
    saliencies: &Saliencies,
    params: &PruneParams,
    calibration: Option<&dyn Calibration>,
) -> Result<f64, PruneError> {
    let names: Vec<String> = saliencies.keys().cloned().collect();
    let (n, m) = params.n_of_m();
    let (n, m) = (n as usize, m as usize);
    let mut found = false;
    for reading in Reading::all(graph) {
        let Some(scores) = saliencies.get(&reading.kernel) else {
            continue;
        };
        let dims = graph.initializers[&reading.kernel].dims.clone();
        let axis = reading.input_axis();
        let inner: usize = dims[axis + 1..].iter().product();
        let outer: usize = dims[..axis].iter().product();
        found |= dims[axis] >= m;
        if let (Criterion::Sparsegpt, Some(calibration)) = (params.criterion, calibration)
            && let Some(layer) = Layer::of(graph, &reading, calibration, m)?
        {
            change(graph, &reading.kernel, |weights| {
                layer.prune(weights, Zeros::NOfM { n, m });
            });
            continue;
        }
        change(graph, &reading.kernel, |weights| {
            for (block, place) in (0..outer).flat_map(|b| (0..inner).map(move |i| (b, i))) {
                for first in (0..dims[axis] / m * m).step_by(m) {
                    let mut near: Vec<usize> = (first..first + m)
                        .map(|index| (block * dims[axis] + index) * inner + place)
                        .collect();
                    near.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
                    near[..m - n].iter().for_each(|&index| weights[index] = 0.0);
                }
            }
        });
    }
    if !found {
        return Err(PruneError::NothingPrunable(format!(
            "no kernel has {m} inputs or more"
        )));
    }
    let total: usize = names
        .iter()
        .map(|name| graph.initializers[name].elements())
        .sum();
    Ok(zeros(graph, &names) as f64 / total as f64)
}

fn zeros(graph: &Graph, names: &[String]) -> usize {
    let weights = names
        .iter()
        .filter_map(|name| graph.initializers[name].floats());
    weights.flatten().filter(|&&weight| weight == 0.0).count()
}

fn change(graph: &mut Graph, name: &str, work: impl FnOnce(&mut [f32])) {
    if let Some(tensor) = graph.initializers.get_mut(name) {
        let mut values = tensor.floats().unwrap_or_default().to_vec();
        work(&mut values);
        tensor.set_floats(values);
    }
}

/// What each weight costs by itself where those that stay are corrected; squares where a kernel is too
/// large for that.
fn own_costs(
    graph: &Graph,
    names: &[String],
    calibration: &dyn Calibration,
) -> Result<BTreeMap<String, Vec<f64>>, PruneError> {
    let mut costs = BTreeMap::new();
    for reading in Reading::all(graph) {
        if names.contains(&reading.kernel)
            && let Some(layer) = Layer::of(graph, &reading, calibration, 1)?
        {
            let weights = graph.initializers[&reading.kernel].floats();
            costs.insert(
                reading.kernel,
                layer.saliencies(weights.unwrap_or_default()),
            );
        }
    }
    for name in names {
        costs.entry(name.clone()).or_insert_with(|| {
            let weights = graph.initializers[name].floats().unwrap_or_default();
            weights
                .iter()
                .map(|&weight| f64::from(weight).powi(2))
                .collect()
        });
    }
    Ok(costs)
}

/// The sets of kernels that are ranked together.
fn ranked_together(graph: &Graph, names: &[String], scope: Scope) -> Vec<Vec<usize>> {
    let all = 0..names.len();
    match scope {
        Scope::Global => vec![all.collect()],
        Scope::Layer => all.map(|kernel| vec![kernel]).collect(),
        Scope::Isomorphic => {
            let kernels = graph.kernels();
            let mut sets: BTreeMap<(&str, &[usize]), Vec<usize>> = BTreeMap::new();
            for kernel in all {
                let name = names[kernel].as_str();
                let operator = graph.nodes[kernels[name]].operator();
                let dims = graph.initializers[name].dims.as_slice();
                sets.entry((operator, dims)).or_default().push(kernel);
            }
            sets.into_values().collect()
        }
    }
}

/// The same share of every set, of `sizes`; what rounding leaves over goes to the largest.
fn shares(sizes: &[usize], wanted: usize) -> Vec<usize> {
    let available: usize = sizes.iter().sum();
    let share = wanted as f64 / available.max(1) as f64;
    let mut counts: Vec<usize> = sizes
        .iter()
        .map(|&size| (size as f64 * share).floor() as usize)
        .collect();
    let mut left = wanted - counts.iter().sum::<usize>();
    let mut order: Vec<usize> = (0..sizes.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(sizes[index]));
    for index in order.into_iter().cycle() {
        if left == 0 {
            break;
        }
        if counts[index] < sizes[index] {
            counts[index] += 1;
            left -= 1;
        }
    }
    counts
}

/// The `wanted` lowest of all kernels together.
fn lowest(ranked: &[&[(f64, usize)]], wanted: usize) -> Vec<usize> {
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
        let first = [(0.1, 0), (0.4, 1), (0.9, 2)];
        let second = [(0.2, 1), (0.3, 0), (0.8, 2)];
        assert_eq!(lowest(&[&first, &second], 3), [1, 2]);
        assert_eq!(shares(&[3, 3], 3), [2, 1]);
    }
}
