//! Numbers that say what is missed least.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use crate::graph::coupling::{Couplings, Unit};
use crate::graph::{Family, Graph, family};
use crate::onnx::Tensor;
use crate::spec::prune::Criterion;

/// A uniform number from 0 to 1 that follows from `seed` and what it is for.
fn random_number(seed: u64, name: &str, index: usize) -> f64 {
    use rand::{RngExt, SeedableRng};
    let mut hasher = std::hash::DefaultHasher::new();
    (name, index).hash(&mut hasher);
    rand_chacha::ChaCha8Rng::seed_from_u64(seed ^ hasher.finish()).random::<f64>()
}

/// Importance of every unit, by group.
///
/// `magnitude` is the norm of the weights that a unit takes away (Li et al., "Pruning Filters for
/// Efficient ConvNets", 2017, section 3.1): for each kernel of the group, on the side that makes
/// the channel as on the side that reads it, and for each normalisation scale, the norm of the
/// unit's slice divided by the mean over the units with a slice there, so that every tensor has the
/// same say; the unit's importance is the mean over its own tensors (DepGraph, CVPR 2023, eq. 5, with that
/// normalisation). Being relative to the group's mean, importances of different groups compare.
///
/// `random` is uniform.
pub fn of_units(
    graph: &Graph,
    couplings: &Couplings,
    criterion: Criterion,
    norm: u8,
    seed: u64,
) -> Vec<Vec<f64>> {
    let scales = normalization_scales(graph);
    couplings
        .groups
        .iter()
        .map(|group| match criterion {
            Criterion::Random => (0..group.units.len())
                .map(|unit| random_number(seed, &group.name, unit))
                .collect(),
            _ => relative_norms(graph, &scales, &group.units, norm),
        })
        .collect()
}

/// Names of batch-normalisation scales.
fn normalization_scales(graph: &Graph) -> Vec<&str> {
    graph
        .nodes
        .iter()
        .filter(|node| family(node) == Some(Family::BatchNormalization))
        .filter_map(|node| node.input_at(1))
        .collect()
}

fn relative_norms(graph: &Graph, scales: &[&str], units: &[Unit], norm: u8) -> Vec<f64> {
    // By tensor axis, the norm of the slice of each unit that has one there.
    let mut norms: BTreeMap<(&str, usize), Vec<(usize, f64)>> = BTreeMap::new();
    for (index, unit) in units.iter().enumerate() {
        for slice in &unit.slices {
            let Some(tensor) = graph.initializers.get(&slice.tensor) else {
                continue;
            };
            if tensor.dims.len() < 2 && !scales.contains(&slice.tensor.as_str()) {
                continue;
            }
            let norm = slice_norm(tensor, slice.axis, &slice.indices, norm);
            norms
                .entry((&slice.tensor, slice.axis))
                .or_default()
                .push((index, norm));
        }
    }
    let mut sums = vec![(0.0, 0u32); units.len()];
    for values in norms.values() {
        let mean = values.iter().map(|(_, norm)| norm).sum::<f64>() / values.len() as f64;
        for &(unit, norm) in values {
            sums[unit].0 += if mean > 0.0 { norm / mean } else { 0.0 };
            sums[unit].1 += 1;
        }
    }
    sums.iter()
        .map(|&(sum, count)| sum / f64::from(count.max(1)))
        .collect()
}

/// Norm of the elements whose coordinate along `axis` is one of `indices`: 1 for the sum of
/// absolute values, 2 for the Euclidean norm.
fn slice_norm(tensor: &Tensor, axis: usize, indices: &[usize], norm: u8) -> f64 {
    let values = tensor.floats().unwrap_or_default();
    let outer: usize = tensor.dims[..axis].iter().product();
    let inner: usize = tensor.dims[axis + 1..].iter().product();
    let size = tensor.dims[axis];
    let mut sum = 0.0;
    for block in 0..outer {
        for &index in indices {
            let start = (block * size + index) * inner;
            for &value in &values[start..start + inner] {
                let value = f64::from(value).abs();
                sum += if norm == 1 { value } else { value * value };
            }
        }
    }
    if norm == 1 { sum } else { sum.sqrt() }
}

/// Importance of every single weight of a kernel: its absolute value, or a uniform number.
pub fn of_weights(name: &str, tensor: &Tensor, criterion: Criterion, seed: u64) -> Vec<f64> {
    let values = tensor.floats().unwrap_or_default();
    match criterion {
        Criterion::Random => {
            use rand::{RngExt, SeedableRng};
            let first = (random_number(seed, name, 0) * 2f64.powi(53)) as u64;
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(first);
            values
                .iter()
                // A weight that is zero already counts as removed.
                .map(|&value| if value == 0.0 { -1.0 } else { random.random() })
                .collect()
        }
        _ => values.iter().map(|&value| f64::from(value).abs()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_of_slices_are_those_computed_by_hand() {
        let tensor = Tensor::float(vec![2, 2], vec![3.0, -1.0, 4.0, 2.0]);
        assert_eq!(slice_norm(&tensor, 1, &[0], 2), 5.0);
        assert_eq!(slice_norm(&tensor, 1, &[1], 1), 3.0);
        assert_eq!(slice_norm(&tensor, 0, &[1], 1), 6.0);
    }
}
