//! Scores of a model that was not trained: what is cheap to know stands in for what training would tell.

use std::collections::{BTreeMap, BTreeSet};

use nalgebra::DMatrix;

use super::architecture::is_activation;
use crate::exec::ExecError;
use crate::graph::{Graph, cost_of_one};
use crate::onnx::Tensor;
use crate::prune::calibration::Calibration;
use crate::spec::search::ProxyName;

/// Examples of one of ZiCo's batches.
const ZICO_BATCH: usize = 16;

/// The score of a graph; more is better.
///
/// - `synflow`: `ln Σ |w·∂R/∂w|`, with `R` the sum of the outputs for an input of ones, all weights positive and
///   normalisation neutral (Tanaka et al., "Pruning neural networks without any data by iteratively conserving
///   synaptic flow", NeurIPS 2020, eq. 4; as a score of networks Abdelfattah et al., "Zero-Cost Proxies for
///   Lightweight NAS", ICLR 2021);
/// - `grad_norm`: the Euclidean norm of the loss's gradient by all weights (Abdelfattah et al., section 3.1);
/// - `naswot`: `ln |det K|`, with `K` the number of activations on which two examples agree whether they are above
///   zero (Mellor et al., "Neural Architecture Search without Training", ICML 2021, eq. 2);
/// - `zico`: over the kernels, `Σ ln Σ mean|g| ÷ σ(|g|)` with the gradients `g` of batches (Li et al., "ZiCo",
///   ICLR 2023, eq. 17);
/// - `parameters`: their number, the control of the others.
pub fn score(
    proxy: ProxyName,
    graph: &Graph,
    calibration: &dyn Calibration,
) -> Result<f64, ExecError> {
    match proxy {
        ProxyName::Parameters => Ok(cost_of_one(graph).parameters as f64),
        ProxyName::GradNorm => {
            let gradients = calibration.mean_gradients(graph)?;
            let all = gradients.values().flatten();
            Ok(all.map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt())
        }
        ProxyName::Synflow => synflow(graph, calibration),
        ProxyName::Naswot => naswot(graph, calibration),
        ProxyName::Zico => zico(graph, calibration),
    }
}

fn synflow(graph: &Graph, calibration: &dyn Calibration) -> Result<f64, ExecError> {
    let mut positive = graph.clone();
    let (scales, statistics) = (graph.scales(), graph.running_statistics());
    let trained = graph.trainable();
    let means: BTreeSet<&str> = (graph.nodes.iter().filter_map(|node| node.input_at(3))).collect();
    for (name, tensor) in &mut positive.initializers {
        let name = name.as_str();
        let Some(values) = tensor.floats() else {
            continue;
        };
        let changed: Vec<f32> = if scales.contains(name) {
            vec![1.0; values.len()]
        } else if statistics.contains(name) {
            // Means are 0 and variances 1.
            vec![f32::from(u8::from(!means.contains(name))); values.len()]
        } else if trained.contains(name) {
            values.iter().map(|value| value.abs()).collect()
        } else {
            continue;
        };
        tensor.set_floats(changed);
    }
    let gradients = calibration.flow(&positive)?;
    let mut flow = 0.0;
    for (name, gradient) in &gradients {
        let weights = positive.initializers.get(name).and_then(Tensor::floats);
        let pairs = weights.unwrap_or_default().iter().zip(gradient);
        flow += pairs
            .map(|(&weight, &g)| (f64::from(weight) * f64::from(g)).abs())
            .sum::<f64>();
    }
    Ok(flow.max(f64::MIN_POSITIVE).ln())
}

fn naswot(graph: &Graph, calibration: &dyn Calibration) -> Result<f64, ExecError> {
    let bending = graph.nodes.iter().filter(|node| is_activation(node));
    let names: Vec<&str> = bending
        .filter_map(|node| node.output.first().map(String::as_str))
        .collect();
    if names.is_empty() {
        return Ok(0.0);
    }
    // By example the signs, one bit an activation.
    let mut codes: Vec<Vec<u64>> = Vec::new();
    let mut units = 0;
    calibration.values(graph, &names, &mut |values| {
        let rows = values
            .first()
            .map_or(0, |first| first.dims.first().copied().unwrap_or(1));
        let mut own = vec![Vec::new(); rows];
        units = 0;
        for value in values {
            let width = value.elements.len() / rows.max(1);
            units += width;
            for (row, elements) in value.elements.chunks(width.max(1)).enumerate().take(rows) {
                let words = elements.chunks(64).map(|part| {
                    let bits = part.iter().enumerate();
                    bits.fold(0u64, |word, (bit, &x)| word | u64::from(x > 0.0) << bit)
                });
                own[row].extend(words);
            }
        }
        codes.extend(own);
    })?;
    let count = codes.len();
    let agreeing = |a: usize, b: usize| {
        let differing: u32 = codes[a]
            .iter()
            .zip(&codes[b])
            .map(|(x, y)| (x ^ y).count_ones())
            .sum();
        units as f64 - f64::from(differing)
    };
    // Two examples with the same code would make the determinant zero.
    let kernel = DMatrix::from_fn(count, count, |a, b| {
        agreeing(a, b) + if a == b { 1e-3 * units as f64 } else { 0.0 }
    });
    Ok(match kernel.cholesky() {
        Some(factors) => 2.0 * factors.l().diagonal().iter().map(|x| x.ln()).sum::<f64>(),
        None => f64::NEG_INFINITY,
    })
}

fn zico(graph: &Graph, calibration: &dyn Calibration) -> Result<f64, ExecError> {
    let kernels = graph.kernels();
    let mut sums: BTreeMap<String, Vec<(f64, f64)>> = Default::default();
    let batches = calibration.batch_gradients(graph, ZICO_BATCH, &mut |gradients, _| {
        for (name, gradient) in gradients {
            if !kernels.contains_key(name.as_str()) {
                continue;
            }
            let own = sums
                .entry(name.clone())
                .or_insert_with(|| vec![(0.0, 0.0); gradient.len()]);
            for (sum, &g) in own.iter_mut().zip(gradient) {
                let size = f64::from(g).abs();
                sum.0 += size;
                sum.1 += size * size;
            }
        }
    })?;
    let count = batches.max(1) as f64;
    let layer = |own: &Vec<(f64, f64)>| {
        let ratios = own.iter().filter_map(|&(sum, squares)| {
            let mean = sum / count;
            let deviation = (squares / count - mean * mean).max(0.0).sqrt();
            (deviation > 0.0).then(|| mean / deviation)
        });
        let total: f64 = ratios.sum();
        if total > 0.0 { total.ln() } else { 0.0 }
    };
    Ok(sums.values().map(layer).sum())
}
