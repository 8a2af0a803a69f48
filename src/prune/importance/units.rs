//! A number for every unit: slices of its tensors, made comparable, reduced to one.

use std::collections::BTreeMap;

use super::saliency::{Saliencies, of_weights, second_order, share_of_larger};
use super::{entropy, needed, random_number};
use crate::graph::coupling::{Group, output_axis};
use crate::graph::{Family, Graph, family};
use crate::prune::PruneError;
use crate::prune::calibration::Calibration;
use crate::spec::prune::{Criterion, PruneParams, Reduction};

/// The slices that the units of a group have of one axis of a tensor.
struct Side<'a> {
    tensor: &'a str,
    axis: usize,
    /// A scale of batch normalisation, and no kernel.
    scale: bool,
    /// Whether the axis is that of a kernel's outputs.
    makes: bool,
    /// Index of a unit, and its indices along the axis.
    slices: Vec<(usize, &'a [usize])>,
}

/// The sides of a group that count: those of kernels and of the scales of batch normalisation.
fn sides<'a>(graph: &Graph, group: &'a Group) -> Vec<Side<'a>> {
    let kernels = graph.kernels();
    let scales = graph.scales();
    let offsets: Vec<&str> = graph
        .nodes
        .iter()
        .filter(|node| family(node) == Some(Family::Recurrent))
        .flat_map(|node| [node.input_at(3), node.input_at(7)])
        .flatten()
        .collect();
    let mut found: BTreeMap<(&str, usize), Side> = BTreeMap::new();
    for (index, unit) in group.units.iter().enumerate() {
        for slice in &unit.slices {
            let name = slice.tensor.as_str();
            let Some(tensor) = graph.initializers.get(name) else {
                continue;
            };
            let scale = scales.contains(name);
            if tensor.dims.len() < 2 && !scale || offsets.contains(&name) {
                continue;
            }
            let makes = kernels.get(name).is_some_and(|&node| {
                slice.axis == output_axis(&graph.nodes[node], name, tensor.dims.len())
            });
            found
                .entry((name, slice.axis))
                .or_insert_with(|| Side {
                    tensor: name,
                    axis: slice.axis,
                    scale,
                    makes,
                    slices: Vec::new(),
                })
                .slices
                .push((index, &slice.indices));
        }
    }
    found.into_values().collect()
}

/// Calls `each` with the places of the elements whose coordinate along `axis` is one of `indices`.
fn each_place(dims: &[usize], axis: usize, indices: &[usize], mut each: impl FnMut(usize)) {
    let outer: usize = dims[..axis].iter().product();
    let inner: usize = dims[axis + 1..].iter().product();
    for block in 0..outer {
        for &index in indices {
            let start = (block * dims[axis] + index) * inner;
            (start..start + inner).for_each(&mut each);
        }
    }
}

/// Importance of every unit, by group; infinite for a unit that the criterion can't tell, which stays.
///
/// Each kernel of the group has a slice of the unit, on the side that makes the channel as on a side that
/// reads it, and each scale of batch normalisation has one. Their numbers, by criterion:
/// - `magnitude`: the norm of the slice (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017,
///   section 3.1); `gradient` and `hessian`: the sum of the weights' saliencies; `activation`: their
///   2-norm;
/// - `taylor`: the mean over examples of `|Σ w·gᵢ|`, which is the gate of the unit to first order
///   (Molchanov et al., CVPR 2019, eq. 8, with the absolute value); `fisher`: that of
///   `½·(Σ w·gᵢ)²` (Liu et al., "Group Fisher Pruning", ICML 2021, eq. 6);
/// - `bn_scale`: `|γ|` (Liu et al., "Network Slimming", ICCV 2017, section 3), of scales alone;
/// - `lamp`: [`of_weights`]' formula with the squared 2-norms of slices for the squares of weights;
/// - `fpgm`: the sum of the distances to the other slices, on the sides that make the channel (He et
///   al., "Filter Pruning via Geometric Median", CVPR 2019, eq. 4);
/// - `entropy`: see [`entropy::of_units`]; `random`: uniform.
///
/// The numbers of different tensors do not compare: those of losses, too, tell what each unit does alone and
/// not what is left of a layer when many go. So each (but for `lamp`, which is a share) is divided by its
/// mean over the units, and every tensor has the same say. The unit's importance is the `reduction` over
/// its slices (DepGraph, CVPR 2023, eq. 5, has the sum).
pub fn of_units(
    graph: &Graph,
    all: &[Group],
    params: &PruneParams,
    calibration: Option<&dyn Calibration>,
    seed: u64,
) -> Result<Vec<Vec<f64>>, PruneError> {
    let criterion = params.criterion;
    if criterion == Criterion::Random {
        let of = |group: &Group| {
            let units = 0..group.units.len();
            let numbers = units.map(|unit| random_number(seed, &group.name, unit));
            numbers.collect()
        };
        return Ok(all.iter().map(of).collect());
    }
    if criterion == Criterion::Entropy {
        let calibration = needed(criterion, calibration)?;
        return entropy::of_units(graph, all, params.reduction, calibration);
    }
    let mut groups: Vec<Vec<Side>> = all.iter().map(|group| sides(graph, group)).collect();
    for side in &mut groups {
        side.retain(|side| match criterion {
            Criterion::BnScale => side.scale,
            Criterion::Activation => !side.scale,
            Criterion::Fpgm => side.makes,
            _ => true,
        });
    }
    let numbers = of_slices(graph, &groups, params, calibration, seed)?;
    // Those are shares already.
    let relative = criterion != Criterion::Lamp;
    let all = all.iter().zip(groups.iter().zip(numbers));
    Ok(all
        .map(|(group, (sides, numbers))| {
            let mut by_unit: Vec<Vec<f64>> = vec![Vec::new(); group.units.len()];
            for (side, mut numbers) in sides.iter().zip(numbers) {
                if relative {
                    by_mean(&mut numbers);
                }
                for (&(unit, _), number) in side.slices.iter().zip(numbers) {
                    by_unit[unit].push(number);
                }
            }
            let reduced = by_unit.iter().map(|own| reduce(params.reduction, own));
            reduced.collect()
        })
        .collect())
}

/// Divides numbers by their mean, if that is not zero.
pub(super) fn by_mean(numbers: &mut [f64]) {
    let mean = numbers.iter().sum::<f64>() / numbers.len().max(1) as f64;
    if mean > 0.0 {
        numbers.iter_mut().for_each(|number| *number /= mean);
    }
}

/// One number of many; infinite for none.
pub(super) fn reduce(reduction: Reduction, numbers: &[f64]) -> f64 {
    if numbers.is_empty() {
        return f64::INFINITY;
    }
    let sum = numbers.iter().sum::<f64>();
    match reduction {
        Reduction::Mean => sum / numbers.len() as f64,
        Reduction::Sum => sum,
        Reduction::Max => numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        Reduction::L2 => numbers.iter().map(|n| n * n).sum::<f64>().sqrt(),
    }
}

/// By group and side, a number for each slice.
fn of_slices(
    graph: &Graph,
    groups: &[Vec<Side>],
    params: &PruneParams,
    calibration: Option<&dyn Calibration>,
    seed: u64,
) -> Result<Vec<Vec<Vec<f64>>>, PruneError> {
    let criterion = params.criterion;
    if matches!(criterion, Criterion::Taylor | Criterion::Fisher) {
        let calibration = needed(criterion, calibration)?;
        return of_gates(graph, groups, criterion == Criterion::Fisher, calibration);
    }
    let mut names: Vec<&str> = groups.iter().flatten().map(|side| side.tensor).collect();
    names.sort_unstable();
    names.dedup();
    // Of weights, where slices add those up; magnitudes for the rest.
    let summed = match criterion {
        Criterion::Gradient | Criterion::Activation => criterion,
        _ => Criterion::Magnitude,
    };
    let saliencies = match criterion {
        // With signs, so that errors of the estimate cancel within a slice.
        Criterion::Hessian => second_order(graph, &names, needed(criterion, calibration)?, seed)?,
        _ => of_weights(graph, &names, summed, calibration, seed)?,
    };
    let norm = match criterion {
        Criterion::Magnitude => params.norm.unwrap_or(2),
        Criterion::Activation | Criterion::Lamp => 2,
        _ => 1,
    };
    let of_side = |side: &Side| match criterion {
        // A negative curvature is an error of the estimate.
        Criterion::Hessian => {
            let sums = norms(graph, side, &saliencies, norm).into_iter();
            sums.map(|sum| sum.max(0.0)).collect()
        }
        Criterion::Fpgm => distances(graph, side),
        Criterion::Lamp => {
            let norms = norms(graph, side, &saliencies, norm);
            share_of_larger(&norms.iter().map(|n| n * n).collect::<Vec<f64>>())
        }
        _ => norms(graph, side, &saliencies, norm),
    };
    Ok(groups
        .iter()
        .map(|sides| sides.iter().map(of_side).collect())
        .collect())
}

/// Norms of the slices' saliencies: 1 for the sum, 2 for the Euclidean norm.
fn norms(graph: &Graph, side: &Side, saliencies: &Saliencies, norm: u8) -> Vec<f64> {
    let dims = &graph.initializers[side.tensor].dims;
    let values = &saliencies[side.tensor];
    let of = |indices: &[usize]| {
        let mut sum = 0.0;
        each_place(dims, side.axis, indices, |place| {
            let value = values[place];
            sum += if norm == 1 { value } else { value * value };
        });
        if norm == 1 { sum } else { sum.sqrt() }
    };
    side.slices.iter().map(|(_, indices)| of(indices)).collect()
}

/// For each slice the sum of its Euclidean distances to the others.
fn distances(graph: &Graph, side: &Side) -> Vec<f64> {
    let tensor = &graph.initializers[side.tensor];
    let values = tensor.floats().unwrap_or_default();
    let slices: Vec<Vec<f32>> = side
        .slices
        .iter()
        .map(|(_, indices)| {
            let mut slice = Vec::new();
            each_place(&tensor.dims, side.axis, indices, |p| slice.push(values[p]));
            slice
        })
        .collect();
    let distance = |a: &[f32], b: &[f32]| {
        let pairs = a.iter().zip(b);
        let sum: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
        sum.sqrt()
    };
    let to_all = |slice: &Vec<f32>| slices.iter().map(|other| distance(slice, other)).sum();
    slices.iter().map(to_all).collect()
}

/// The mean over examples of `|Σ w·g|` over each slice, or of half its square.
fn of_gates(
    graph: &Graph,
    groups: &[Vec<Side>],
    squared: bool,
    calibration: &dyn Calibration,
) -> Result<Vec<Vec<Vec<f64>>>, PruneError> {
    let mut sums: Vec<Vec<Vec<f64>>> = groups
        .iter()
        .map(|sides| {
            sides
                .iter()
                .map(|side| vec![0.0; side.slices.len()])
                .collect()
        })
        .collect();
    let count = calibration.gradients(graph, &mut |gradients| {
        let sides = groups.iter().flatten().zip(sums.iter_mut().flatten());
        for (side, sums) in sides {
            let tensor = &graph.initializers[side.tensor];
            let values = tensor.floats().unwrap_or_default();
            let Some(gradient) = gradients.get(side.tensor) else {
                continue;
            };
            for ((_, indices), sum) in side.slices.iter().zip(sums) {
                let mut gate = 0.0;
                each_place(&tensor.dims, side.axis, indices, |place| {
                    gate += f64::from(values[place]) * f64::from(gradient[place]);
                });
                *sum += if squared {
                    0.5 * gate * gate
                } else {
                    gate.abs()
                };
            }
        }
    })?;
    let share = 1.0 / count.max(1) as f64;
    sums.iter_mut()
        .flatten()
        .flatten()
        .for_each(|sum| *sum *= share);
    Ok(sums)
}
