//! What residual blocks do.

use std::collections::BTreeSet;

use super::{needed, of_weights, random_number};
use crate::graph::Graph;
use crate::graph::blocks::Blocks;
use crate::prune::PruneError;
use crate::prune::calibration::Calibration;
use crate::spec::prune::{Criterion, PruneParams};

/// Numbers of one output that are compared, at most, of all examples together.
const COMPARED: usize = 1 << 22;

/// Importance of every block:
/// - `activation`: by how much the model's output differs without the block, `‖y′ − y‖² ÷ ‖y‖²` over all
///   calibration examples (of its kind is Men et al., "ShortGPT", ACL 2025 findings, eq. 1, which compares what
///   enters a block with what leaves it; here the rest of the model has its say too);
/// - `taylor`, `fisher`, `hessian`: the sum of the saliencies of the kernels' weights ([`of_weights`]), an
///   estimate of the loss's change;
/// - `magnitude`, `gradient`: their mean, so that a block is not important for being large;
/// - `random`: uniform.
pub fn of_blocks(
    graph: &Graph,
    blocks: &Blocks,
    params: &PruneParams,
    calibration: Option<&dyn Calibration>,
    seed: u64,
) -> Result<Vec<f64>, PruneError> {
    let criterion = params.criterion;
    match criterion {
        Criterion::Random => {
            let all = 0..blocks.blocks.len();
            return Ok(all
                .map(|index| random_number(seed, "blocks", index))
                .collect());
        }
        Criterion::Activation => return by_effect(graph, blocks, needed(criterion, calibration)?),
        _ => {}
    }
    let kernels = graph.kernels();
    let of_block = |nodes: &[usize]| -> Vec<&str> {
        let own = nodes.iter().flat_map(|&node| &graph.nodes[node].input);
        let own: BTreeSet<&str> = own
            .map(String::as_str)
            .filter(|name| kernels.contains_key(name))
            .collect();
        own.into_iter().collect()
    };
    let by_block: Vec<Vec<&str>> = blocks
        .blocks
        .iter()
        .map(|block| of_block(&block.nodes))
        .collect();
    let names: BTreeSet<&str> = by_block.iter().flatten().copied().collect();
    let names: Vec<&str> = names.into_iter().collect();
    let mut saliencies = of_weights(graph, &names, criterion, calibration, seed)?;
    if criterion == Criterion::Magnitude && params.norm.unwrap_or(2) == 2 {
        saliencies.values_mut().flatten().for_each(|s| *s *= *s);
    }
    let mean = matches!(criterion, Criterion::Magnitude | Criterion::Gradient);
    let score = |names: &Vec<&str>| {
        let sum: f64 = names.iter().flat_map(|&name| &saliencies[name]).sum();
        let count: usize = names.iter().map(|&name| saliencies[name].len()).sum();
        match (mean, count) {
            // A recurrent block has no kernels that are told apart.
            (_, 0) => f64::INFINITY,
            (true, count) => sum / count as f64,
            (false, _) => sum,
        }
    };
    Ok(by_block.iter().map(score).collect())
}

fn by_effect(
    graph: &Graph,
    blocks: &Blocks,
    calibration: &dyn Calibration,
) -> Result<Vec<f64>, PruneError> {
    let output = graph
        .main_output()
        .map(|output| output.label().to_owned())
        .unwrap_or_default();
    let mut whole: Vec<Vec<f32>> = Vec::new();
    let mut held = 0;
    calibration.values(graph, &[&output], &mut |values| {
        if held < COMPARED {
            let elements = &values[0].elements;
            let taken = elements.len().min(COMPARED - held);
            held += taken;
            whole.push(elements[..taken].to_vec());
        }
    })?;
    let norm: f64 = whole.iter().flatten().map(|&y| f64::from(y).powi(2)).sum();
    let mut scores = Vec::new();
    for index in 0..blocks.blocks.len() {
        let without = blocks.without(graph, &BTreeSet::from([index]))?;
        let mut difference = 0.0;
        let mut batches = whole.iter();
        calibration.values(&without, &[&output], &mut |values| {
            let Some(whole) = batches.next() else { return };
            for (&y, &other) in whole.iter().zip(&values[0].elements) {
                difference += (f64::from(other) - f64::from(y)).powi(2);
            }
        })?;
        scores.push(difference / norm.max(f64::MIN_POSITIVE));
    }
    Ok(scores)
}
