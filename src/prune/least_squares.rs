//! Sums over calibration data of what kernels read, and least squares with them.

use nalgebra::{DMatrix, DVector};
use rand::{RngExt, SeedableRng};

use super::calibration::{Calibration, Values};
use super::{Exclusion, PruneError};
use crate::exec::ExecError;
use crate::graph::reading::{Features, KernelMatrix, Reading};
use crate::graph::{Cut, Family, Graph, family};
use crate::onnx::Tensor;

/// Features up to which a system of equations is solved: it takes their number to the third power.
pub(super) const MOST_FEATURES: usize = 2304;

/// Positions for each feature, at least and at most, of all that the data have.
const POSITIONS_PER_FEATURE: usize = 8;
const LEAST_POSITIONS: usize = 4096;
const MOST_POSITIONS: usize = 16384;

/// Bytes of results of the original that are held at once.
const HELD_BYTES: usize = 256 << 20;

/// What is added to the diagonal, by its mean: holds kernels near to what they were where the data do
/// not say otherwise.
const RIDGE: f64 = 1e-2;

/// A kernel whose largest weight became so many times larger fits noise.
const LARGEST: f64 = 1e3;

/// Which positions of a batch are looked at: about `share` of all, the same for one seed.
fn positions(all: usize, wanted: usize, seed: u64) -> Vec<usize> {
    if wanted >= all {
        return (0..all).collect();
    }
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    (0..wanted).map(|_| random.random_range(0..all)).collect()
}

/// What is changed behind a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Kernels,
    Offsets,
}

/// One kernel to be looked at, and how many positions of the calibration data.
pub(super) struct Looked<'a> {
    pub reading: &'a Reading,
    pub matrix: KernelMatrix,
    wanted: usize,
    examples: usize,
}

impl<'a> Looked<'a> {
    /// `None` for a kernel that is no matrix, or too large a one.
    pub fn at(reading: &'a Reading, kernel: &Tensor, examples: usize) -> Option<Self> {
        let matrix = reading.matrix(&kernel.dims)?;
        let wanted =
            (matrix.features * POSITIONS_PER_FEATURE).clamp(LEAST_POSITIONS, MOST_POSITIONS);
        (matrix.features <= MOST_FEATURES).then_some(Self {
            reading,
            matrix,
            wanted,
            examples,
        })
    }

    /// The positions of batch `batch`, of `all` in it.
    fn positions(&self, all: usize, batch: usize, examples: usize) -> Vec<usize> {
        let wanted = (self.wanted * examples).div_ceil(self.examples.max(1));
        positions(all, wanted, (self.reading.node as u64) << 32 | batch as u64)
    }

    fn features(
        &self,
        graph: &Graph,
        values: &Values,
        kernel: &[usize],
    ) -> Result<Features, PruneError> {
        let found = self.reading.features(graph, &values.dims, kernel);
        found.ok().flatten().ok_or_else(|| {
            let name = self.reading.data.clone();
            PruneError::Exec(ExecError::Missing(name))
        })
    }
}

/// `XᵀX`, `XᵀY` and the sums of X and Y, of one group.
struct Sums {
    squares: DMatrix<f64>,
    products: DMatrix<f64>,
    features: DVector<f64>,
    results: DVector<f64>,
    rows: f64,
}

impl Sums {
    fn new(features: usize, outputs: usize) -> Self {
        Self {
            squares: DMatrix::zeros(features, features),
            products: DMatrix::zeros(features, outputs),
            features: DVector::zeros(features),
            results: DVector::zeros(outputs),
            rows: 0.0,
        }
    }

    fn add(&mut self, x: &DMatrix<f64>, y: Option<&DMatrix<f64>>) {
        self.squares.gemm_tr(1.0, x, x, 1.0);
        self.features += x.row_sum_tr();
        if let Some(y) = y {
            self.products.gemm_tr(1.0, x, y, 1.0);
            self.results += y.row_sum_tr();
        }
        self.rows += x.nrows() as f64;
    }
}

/// What a kernel reads at some positions, of one group: `[positions, features]`.
fn read(
    features: &Features,
    matrix: KernelMatrix,
    values: &Values,
    at: &[usize],
    group: usize,
) -> DMatrix<f64> {
    let mut elements = Vec::with_capacity(at.len() * matrix.features);
    for &position in at {
        features.read(&values.elements, position, group, |x| {
            elements.push(f64::from(x))
        });
    }
    DMatrix::from_row_slice(at.len(), matrix.features, &elements)
}

/// `XᵀX` of what a kernel reads, of each of its groups.
pub(super) fn second_moments(
    graph: &Graph,
    looked: &Looked,
    calibration: &dyn Calibration,
) -> Result<Vec<DMatrix<f64>>, PruneError> {
    let matrix = looked.matrix;
    let dims = graph.initializers[&looked.reading.kernel].dims.clone();
    let mut sums: Vec<Sums> = (0..matrix.groups)
        .map(|_| Sums::new(matrix.features, 0))
        .collect();
    let (mut batch, mut failed) = (0, None);
    calibration.values(graph, &[&looked.reading.data], &mut |values| {
        let values = &values[0];
        match looked.features(graph, values, &dims) {
            Ok(features) => {
                let all = features.positions(values.elements.len());
                let at = looked.positions(all, batch, values.dims[0]);
                for (group, sums) in sums.iter_mut().enumerate() {
                    sums.add(&read(&features, matrix, values, &at, group), None);
                }
            }
            Err(error) => failed = Some(error),
        }
        batch += 1;
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(sums.into_iter().map(|sums| sums.squares).collect()),
    }
}

/// Where a constant that is added to a kernel's results can be changed.
enum Offset {
    /// A weight, one number for each output.
    Weight(String),
    /// The running mean of a batch normalisation, which is taken off.
    Mean(String),
    Nowhere,
}

fn offset_of(graph: &Graph, reading: &Reading) -> Offset {
    let node = &graph.nodes[reading.node];
    let uses = |name: &str| {
        let inputs = graph.nodes.iter().flat_map(|node| &node.input);
        inputs.filter(|input| *input == name).count()
    };
    let own = |name: &str, outputs: usize| {
        let tensor = graph.initializers.get(name);
        let fits = tensor.is_some_and(|t| t.floats().is_some() && t.dims == [outputs]);
        fits && uses(name) == 1
    };
    let Some(matrix) = reading.matrix(&graph.initializers[&reading.kernel].dims) else {
        return Offset::Nowhere;
    };
    let outputs = matrix.groups * matrix.outputs;
    if let Some(bias) = node.input_at(2) {
        return match own(bias, outputs) && node.float("beta").unwrap_or(1.0) == 1.0 {
            true => Offset::Weight(bias.to_owned()),
            false => Offset::Nowhere,
        };
    }
    let Some(result) = node.output.first() else {
        return Offset::Nowhere;
    };
    let readers = graph.nodes.iter().filter(|n| n.input.contains(result));
    match readers.collect::<Vec<_>>().as_slice() {
        [next] if family(next) == Some(Family::BatchNormalization) => match next.input_at(3) {
            Some(mean) if own(mean, outputs) => Offset::Mean(mean.to_owned()),
            _ => Offset::Nowhere,
        },
        [next] if next.operator() == "Add" => {
            let last = matches!(
                reading.form,
                crate::graph::reading::Form::Product { last: true, .. }
            );
            let mut others = next.input.iter().filter(|input| *input != result);
            match others.next() {
                Some(other) if last && own(other, outputs) => Offset::Weight(other.clone()),
                _ => Offset::Nowhere,
            }
        }
        _ => Offset::Nowhere,
    }
}

/// Changes the kernels behind a cut so that their results are as near to those of the original as they can
/// be, kernel by kernel in the order of the graph, each on the values that the changed ones before it
/// give (`Kernels`: He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, eq. 5, here
/// with a ridge, for all layers and with their offsets). Running statistics of batch normalisation fit the
/// results after it and must not be measured anew: least squares takes from the variance what it can't
/// explain, and normalising that away again costs most of what is gained. `Offsets` changes no kernel, and each
/// offset so that the mean of the results is that of the original (Nagel et al., "Data-Free Quantization
/// Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2, with means of data). Returns the
/// names of kernels that were too large for it.
pub fn reconstruct(
    original: &Graph,
    pruned: &mut Graph,
    cut: &Cut,
    exclusion: &Exclusion,
    change: Change,
    calibration: &dyn Calibration,
) -> Result<Vec<String>, PruneError> {
    let readings = Reading::all(pruned);
    let mut counts = std::collections::BTreeMap::new();
    for reading in &readings {
        *counts.entry(reading.kernel.as_str()).or_insert(0) += 1;
    }
    // From the first kernel on that misses an input.
    let misses = |reading: &Reading| {
        let dims = &original.initializers[&reading.kernel].dims;
        (0..dims.len()).any(|axis| {
            cut.kept.contains_key(&(reading.kernel.clone(), axis))
                && !reading.channels_at(dims, axis, &[0]).is_empty()
        })
    };
    let behind = readings.iter().skip_while(|reading| !misses(reading));
    let mut skipped = Vec::new();
    let mut looked = Vec::new();
    for reading in behind {
        let label = pruned.nodes[reading.node].label();
        if counts[reading.kernel.as_str()] > 1 || exclusion.covers(label) {
            continue;
        }
        let kernel = &pruned.initializers[&reading.kernel];
        match Looked::at(reading, kernel, calibration.examples()) {
            Some(found) => looked.push(found),
            None => skipped.push(label.to_owned()),
        }
    }
    let held = |looked: &Looked| 4 * looked.wanted * looked.matrix.groups * looked.matrix.outputs;
    let mut rest = looked.as_slice();
    while !rest.is_empty() {
        let mut bytes = 0;
        let fitting = rest.iter().take_while(|looked| {
            bytes += held(looked);
            bytes <= HELD_BYTES
        });
        let (now, later) = rest.split_at(fitting.count().max(1));
        let results = results_of(original, now, cut, calibration)?;
        for (looked, results) in now.iter().zip(results) {
            improve(pruned, looked, &results, change, calibration)?;
        }
        rest = later;
    }
    Ok(skipped)
}

/// By kernel and batch: what the original gives for the outputs that stay, `[positions, outputs]`.
fn results_of(
    original: &Graph,
    looked: &[Looked],
    cut: &Cut,
    calibration: &dyn Calibration,
) -> Result<Vec<Vec<Vec<f32>>>, PruneError> {
    let names: Vec<&str> = looked
        .iter()
        .flat_map(|looked| {
            let node = &original.nodes[looked.reading.node];
            [looked.reading.data.as_str(), node.output[0].as_str()]
        })
        .collect();
    let mut found: Vec<Vec<Vec<f32>>> = vec![Vec::new(); looked.len()];
    let mut failed = None;
    calibration.values(original, &names, &mut |values| {
        for ((looked, values), found) in looked.iter().zip(values.chunks_exact(2)).zip(&mut found) {
            let kernel = &original.initializers[&looked.reading.kernel].dims;
            let features = match looked.features(original, &values[0], kernel) {
                Ok(features) => features,
                Err(error) => {
                    failed = Some(error);
                    return;
                }
            };
            let matrix = looked.reading.matrix(kernel).expect("it was looked at");
            let outputs = matrix.groups * matrix.outputs;
            let kept = (0..kernel.len())
                .filter(|&axis| kernel[axis] == outputs)
                .find_map(|axis| {
                    let key = (looked.reading.kernel.clone(), axis);
                    let reads = !looked.reading.channels_at(kernel, axis, &[0]).is_empty();
                    let makes = matrix.groups > 1 || !reads;
                    cut.kept.get(&key).filter(|_| makes).cloned()
                })
                .unwrap_or_else(|| (0..outputs).collect());
            let all = features.positions(values[0].elements.len());
            let at = looked.positions(all, found.len(), values[0].dims[0]);
            let results = &values[1].elements;
            let of = |&position: &usize| {
                let places = kept.iter().map(move |&output| (position, output));
                places.collect::<Vec<_>>()
            };
            found.push(
                at.iter()
                    .flat_map(of)
                    .map(|(position, output)| results[features.result(position, output, outputs)])
                    .collect(),
            );
        }
    })?;
    match failed {
        Some(error) => Err(error),
        None => Ok(found),
    }
}

/// `now`, `[features, outputs]`, and on it what solves `squares · x = missing`; weights that are zero stay
/// zero, and the others of that output make up for it. `None` where there is no solution.
fn solve(
    squares: &DMatrix<f64>,
    now: &DMatrix<f64>,
    missing: &DMatrix<f64>,
) -> Option<DMatrix<f64>> {
    let mut better = now.clone();
    let (sparse, dense): (Vec<usize>, Vec<usize>) = (0..now.ncols())
        .partition(|&output| now.column(output).iter().any(|&weight| weight == 0.0));
    if !dense.is_empty() {
        let change = squares
            .clone()
            .cholesky()?
            .solve(&missing.select_columns(&dense));
        for (&output, change) in dense.iter().zip(change.column_iter()) {
            let mut column = better.column_mut(output);
            column += change;
        }
    }
    for output in sparse {
        let weights = now.column(output);
        let left: Vec<usize> = (0..now.nrows()).filter(|&f| weights[f] != 0.0).collect();
        if left.is_empty() {
            continue;
        }
        let own = squares.select_rows(&left).select_columns(&left);
        let change = own
            .cholesky()?
            .solve(&missing.column(output).select_rows(&left));
        for (&feature, change) in left.iter().zip(change.iter()) {
            better[(feature, output)] += change;
        }
    }
    Some(better)
}

/// Solves for one kernel.
fn improve(
    pruned: &mut Graph,
    looked: &Looked,
    results: &[Vec<f32>],
    change: Change,
    calibration: &dyn Calibration,
) -> Result<(), PruneError> {
    let name = &looked.reading.kernel;
    let kernel = pruned.initializers[name].clone();
    let matrix = looked.matrix;
    let outputs = matrix.groups * matrix.outputs;
    let mut sums: Vec<Sums> = (0..matrix.groups)
        .map(|_| Sums::new(matrix.features, matrix.outputs))
        .collect();
    let (mut batch, mut failed) = (0, None);
    calibration.values(pruned, &[&looked.reading.data], &mut |values| {
        let values = &values[0];
        let features = match looked.features(pruned, values, &kernel.dims) {
            Ok(features) => features,
            Err(error) => {
                failed = Some(error);
                return;
            }
        };
        let all = features.positions(values.elements.len());
        let at = looked.positions(all, batch, values.dims[0]);
        let rows = results[batch].chunks_exact(outputs);
        let y = DMatrix::from_row_iterator(
            at.len(),
            outputs,
            rows.flatten().map(|&value| f64::from(value)),
        );
        for (group, sums) in sums.iter_mut().enumerate() {
            let own = y
                .columns(group * matrix.outputs, matrix.outputs)
                .into_owned();
            sums.add(&read(&features, matrix, values, &at, group), Some(&own));
        }
        batch += 1;
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let offset = offset_of(pruned, looked.reading);
    let mut weights = kernel.floats().unwrap_or_default().to_vec();
    let mut biases = Vec::with_capacity(outputs);
    for (group, sums) in sums.into_iter().enumerate() {
        let now = DMatrix::from_fn(matrix.features, matrix.outputs, |feature, output| {
            f64::from(weights[matrix.index(group, output, feature)])
        });
        let rows = sums.rows.max(1.0);
        let (mut squares, mut products) = (sums.squares, sums.products);
        let (x_mean, y_mean) = (sums.features / rows, sums.results / rows);
        if !matches!(offset, Offset::Nowhere) {
            // About the means, which the offset brings into line.
            squares.ger(-rows, &x_mean, &x_mean, 1.0);
            products.ger(-rows, &x_mean, &y_mean, 1.0);
        }
        let missing = products - &squares * &now;
        let ridge = RIDGE * squares.diagonal().mean();
        for index in 0..matrix.features {
            squares[(index, index)] += ridge.max(f64::MIN_POSITIVE);
        }
        let most = LARGEST * now.amax().max(f64::from(f32::MIN_POSITIVE));
        let found = match change {
            Change::Kernels => solve(&squares, &now, &missing),
            Change::Offsets => Some(now),
        };
        let Some(better) = found else {
            // No data, or all of it zero: nothing is known, and nothing changes.
            return Ok(());
        };
        // So are values that are next to nothing, out of which no kernel could make what is missing.
        if !better.iter().all(|value| value.abs() <= most) {
            return Ok(());
        }
        for output in 0..matrix.outputs {
            for feature in 0..matrix.features {
                weights[matrix.index(group, output, feature)] = better[(feature, output)] as f32;
            }
        }
        let explained = better.tr_mul(&x_mean);
        biases.extend((y_mean - explained).iter().map(|&bias| bias as f32));
    }
    if let Some(tensor) = pruned.initializers.get_mut(name) {
        tensor.set_floats(weights);
    }
    let (name, sign) = match offset {
        Offset::Weight(bias) => (bias, 1.0),
        Offset::Mean(mean) => (mean, -1.0),
        Offset::Nowhere => return Ok(()),
    };
    // The node's results have its own bias in them, and not what is added or taken off later.
    let inside = pruned.nodes[looked.reading.node].input_at(2) == Some(name.as_str());
    if let Some(tensor) = pruned.initializers.get_mut(&name) {
        let old = tensor.floats().unwrap_or_default().to_vec();
        let both = biases.iter().zip(old);
        let new = both.map(|(bias, old)| if inside { *bias } else { old + sign * bias });
        tensor.set_floats(new.collect());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_weights_stay_zero_and_the_others_make_up_for_them() {
        let squares = DMatrix::from_row_slice(2, 2, &[2.0, 1.0, 1.0, 2.0]);
        let now = DMatrix::from_row_slice(2, 2, &[1.0, 1.0, 1.0, 0.0]);
        let missing = DMatrix::from_row_slice(2, 2, &[3.0, 3.0, 3.0, 3.0]);
        let found = solve(&squares, &now, &missing).expect("the matrix is positive");
        let wanted = DMatrix::from_row_slice(2, 2, &[2.0, 2.5, 2.0, 0.0]);
        assert!((found - wanted).norm() < 1e-12);
    }
}
