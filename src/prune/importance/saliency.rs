//! A number for every single weight.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};

use super::{needed, random_number};
use crate::graph::Graph;
use crate::graph::reading::Reading;
use crate::prune::PruneError;
use crate::prune::calibration::{Calibration, Gradients};
use crate::spec::prune::Criterion;

/// By weight: a number for each element.
pub type Saliencies = BTreeMap<String, Vec<f64>>;

/// Saliencies of the weights `names`; `sparsegpt` has none, since it corrects what stays.
///
/// With `gᵢ` the gradient of the loss of example i:
/// - `magnitude`: `|w|` (Han et al., "Learning both Weights and Connections for Efficient Neural
///   Networks", NeurIPS 2015);
/// - `gradient`: the mean of `|gᵢ|`; `taylor`: that of `|w·gᵢ|`, the loss's change to first order when
///   the weight goes (Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, eq. 5);
/// - `fisher`: `½·w²·mean gᵢ²`, the change to second order with the empirical Fisher information for the
///   Hessian (Theis et al., "Faster gaze prediction with dense networks and Fisher pruning", 2018, eq. 6);
/// - `hessian`: `½·w²·|h|`, the saliency of LeCun et al. ("Optimal Brain Damage", NeurIPS 1989, eq. 5), with
///   [`hessian_diagonal`] for h; a negative one is mostly an error of the estimate, as large as the weight's
///   part in the loss, so its size counts (zeros in its place would all go first);
/// - `activation`: `|w|·‖x‖₂` over all values x of the channel that it is multiplied with (Sun et al.,
///   "A Simple and Effective Pruning Approach for Large Language Models" (Wanda), ICLR 2024, eq. 1);
/// - `lamp`: `w²` by the sum of the squares of all weights of the tensor that are not smaller (Lee et
///   al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, eq. 1);
/// - `random`: uniform.
pub fn of_weights(
    graph: &Graph,
    names: &[&str],
    criterion: Criterion,
    calibration: Option<&dyn Calibration>,
    seed: u64,
) -> Result<Saliencies, PruneError> {
    let weights = |name: &str| graph.initializers[name].floats().unwrap_or_default();
    let all = |of: &dyn Fn(&str) -> Vec<f64>| -> Saliencies {
        let named = names.iter().map(|&name| (name.to_owned(), of(name)));
        named.collect()
    };
    Ok(match criterion {
        Criterion::Random => all(&|name| {
            let first = (random_number(seed, name, 0) * 2f64.powi(53)) as u64;
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(first);
            let values = weights(name).iter();
            // A weight that is zero already counts as removed.
            values
                .map(|&value| if value == 0.0 { -1.0 } else { random.random() })
                .collect()
        }),
        Criterion::Gradient | Criterion::Taylor | Criterion::Fisher => {
            let squared = criterion == Criterion::Fisher;
            let means = mean_powers(graph, names, squared, needed(criterion, calibration)?)?;
            all(&|name| {
                let pairs = weights(name).iter().zip(&means[name]);
                pairs
                    .map(|(&w, mean)| match criterion {
                        Criterion::Gradient => *mean,
                        Criterion::Taylor => f64::from(w).abs() * mean,
                        _ => 0.5 * f64::from(w).powi(2) * mean,
                    })
                    .collect()
            })
        }
        Criterion::Hessian => {
            let mut signed = second_order(graph, names, needed(criterion, calibration)?, seed)?;
            signed.values_mut().flatten().for_each(|s| *s = s.abs());
            signed
        }
        Criterion::Activation => {
            let norms = input_norms(graph, names, needed(criterion, calibration)?)?;
            all(&|name| {
                let pairs = weights(name).iter().zip(&norms[name]);
                pairs.map(|(&w, norm)| f64::from(w).abs() * norm).collect()
            })
        }
        Criterion::Lamp => all(&|name| {
            let squares = weights(name).iter().map(|&w| f64::from(w).powi(2));
            share_of_larger(&squares.collect::<Vec<f64>>())
        }),
        _ => all(&|name| {
            let values = weights(name).iter();
            values.map(|&w| f64::from(w).abs()).collect()
        }),
    })
}

/// `½·w²·h` for each weight, negative where the estimate of h is.
pub(super) fn second_order(
    graph: &Graph,
    names: &[&str],
    calibration: &dyn Calibration,
    seed: u64,
) -> Result<Saliencies, PruneError> {
    let mut found = hessian_diagonal(graph, names, calibration, seed)?;
    for (name, own) in &mut found {
        let weights = graph.initializers[name].floats().unwrap_or_default();
        for (number, &w) in own.iter_mut().zip(weights) {
            *number *= 0.5 * f64::from(w).powi(2);
        }
    }
    Ok(found)
}

/// Each number by the sum of all that are not smaller.
pub(super) fn share_of_larger(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    let mut shares = vec![0.0; values.len()];
    let mut sum = 0.0;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        sum += values[equal[0]] * equal.len() as f64;
        for &index in equal {
            shares[index] = if sum > 0.0 { values[index] / sum } else { 0.0 };
        }
    }
    shares
}

/// The mean over examples of `|g|`, or of `g²`.
fn mean_powers(
    graph: &Graph,
    names: &[&str],
    squared: bool,
    calibration: &dyn Calibration,
) -> Result<Saliencies, PruneError> {
    let mut sums: Saliencies = BTreeMap::new();
    for &name in names {
        sums.insert(
            name.to_owned(),
            vec![0.0; graph.initializers[name].elements()],
        );
    }
    let count = calibration.gradients(graph, &mut |gradients| {
        for (name, sums) in &mut sums {
            for (sum, &g) in sums
                .iter_mut()
                .zip(gradients.get(name).into_iter().flatten())
            {
                let g = f64::from(g);
                *sum += if squared { g * g } else { g.abs() };
            }
        }
    })?;
    let share = 1.0 / count.max(1) as f64;
    sums.values_mut().flatten().for_each(|sum| *sum *= share);
    Ok(sums)
}

/// Random vectors of [`hessian_diagonal`].
const VECTORS: u64 = 16;

/// Length of its steps, by the root mean square of each tensor.
const STEP: f64 = 1e-2;

/// The diagonal of the Hessian of the mean loss: the mean of `z ⊙ Hz` over vectors z of random signs
/// (Hutchinson 1990; Bekas et al., "An estimator for the diagonal of a matrix", 2007), with central
/// differences of gradients for Hz. The steps are scaled for each tensor, which leaves the mean as it is.
pub fn hessian_diagonal(
    graph: &Graph,
    names: &[&str],
    calibration: &dyn Calibration,
    seed: u64,
) -> Result<Saliencies, PruneError> {
    let mut sums: Saliencies = BTreeMap::new();
    for vector in 0..VECTORS {
        let mut moves: BTreeMap<&str, (f64, Vec<f64>)> = BTreeMap::new();
        for &name in names {
            let values = graph.initializers[name].floats().unwrap_or_default();
            let mean = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>()
                / values.len().max(1) as f64;
            let first = (random_number(seed, name, vector as usize + 1) * 2f64.powi(53)) as u64;
            let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(first);
            let signs = values
                .iter()
                .map(|_| if random.random::<bool>() { 1.0 } else { -1.0 });
            let length = STEP * mean.sqrt().max(1e-6);
            moves.insert(name, (length, signs.collect()));
        }
        let moved = |direction: f64| -> Result<Gradients, PruneError> {
            let mut moved = graph.clone();
            for (name, (length, signs)) in &moves {
                let Some(tensor) = moved.initializers.get_mut(*name) else {
                    continue;
                };
                let values = tensor.floats().unwrap_or_default().iter().zip(signs);
                let values = values.map(|(&v, z)| v + (direction * length * z) as f32);
                tensor.set_floats(values.collect());
            }
            Ok(calibration.mean_gradients(&moved)?)
        };
        let (ahead, behind) = (moved(1.0)?, moved(-1.0)?);
        for (name, (length, signs)) in &moves {
            let sums = sums
                .entry((*name).to_owned())
                .or_insert_with(|| vec![0.0; signs.len()]);
            let (Some(ahead), Some(behind)) = (ahead.get(*name), behind.get(*name)) else {
                continue;
            };
            for (index, sum) in sums.iter_mut().enumerate() {
                let change = f64::from(ahead[index]) - f64::from(behind[index]);
                *sum += signs[index] * change / (2.0 * length) / VECTORS as f64;
            }
        }
    }
    Ok(sums)
}

/// For each weight: the 2-norm, over all examples and places, of the channel that it is multiplied with.
fn input_norms(
    graph: &Graph,
    names: &[&str],
    calibration: &dyn Calibration,
) -> Result<Saliencies, PruneError> {
    let mut readings = Reading::all(graph);
    readings.retain(|reading| names.contains(&reading.kernel.as_str()));
    let data: Vec<&str> = readings
        .iter()
        .map(|reading| reading.data.as_str())
        .collect();
    let mut squares: Vec<Vec<f64>> = vec![Vec::new(); readings.len()];
    calibration.values(graph, &data, &mut |values| {
        for ((reading, values), squares) in readings.iter().zip(values).zip(&mut squares) {
            let axis = reading.channel_axis(values.dims.len());
            let channels = values.dims[axis];
            let inner: usize = values.dims[axis + 1..].iter().product();
            squares.resize(channels, 0.0);
            for (run, elements) in values.elements.chunks_exact(inner.max(1)).enumerate() {
                let sum: f64 = elements.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                squares[run % channels] += sum;
            }
        }
    })?;
    let mut norms = Saliencies::new();
    for &name in names {
        let dims = &graph.initializers[name].dims;
        let mut own = vec![0.0; graph.initializers[name].elements()];
        for (reading, squares) in readings.iter().zip(&squares) {
            if reading.kernel == name {
                for (index, norm) in own.iter_mut().enumerate() {
                    let square = squares.get(reading.channel_of(dims, index));
                    *norm += square.copied().unwrap_or_default();
                }
            }
        }
        own.iter_mut().for_each(|square| *square = square.sqrt());
        norms.insert(name.to_owned(), own);
    }
    Ok(norms)
}

#[cfg(test)]
mod tests {
    use super::share_of_larger;

    #[test]
    fn a_number_is_held_against_all_that_are_not_smaller() {
        assert_eq!(share_of_larger(&[1.0, 4.0, 3.0]), [0.125, 1.0, 3.0 / 7.0]);
        assert_eq!(share_of_larger(&[2.0, 2.0]), [0.5, 0.5]);
        assert_eq!(share_of_larger(&[0.0]), [0.0]);
    }
}
