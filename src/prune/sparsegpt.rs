//! Weights set to zero one by one, the others corrected for it.

use nalgebra::DMatrix;

use super::PruneError;
use super::calibration::Calibration;
use super::least_squares::{Looked, second_moments};
use crate::graph::Graph;
use crate::graph::reading::{KernelMatrix, Reading};

/// Columns whose zeros are chosen together.
const BLOCK: usize = 128;

/// What is added to the diagonal of the Hessian, by its mean.
const DAMPING: f64 = 1e-2;

/// Which weights become zero.
#[derive(Debug, Clone, Copy)]
pub(super) enum Zeros {
    /// So many.
    Count(usize),
    /// All but `n` of each `m` neighbours along the axis of inputs.
    NOfM { n: usize, m: usize },
}

/// One kernel with the Hessian of its results' squared error.
pub(super) struct Layer {
    matrix: KernelMatrix,
    /// The feature of each column: neighbours that are looked at together stand side by side.
    order: Vec<usize>,
    /// Columns that have all their neighbours.
    whole: usize,
    /// By group: `U` with `UᵀU = H⁻¹`, upper triangular.
    factors: Vec<DMatrix<f64>>,
    /// By group: columns that are always zero.
    dead: Vec<Vec<bool>>,
}

impl Layer {
    /// For zeros of `neighbours` inputs at once; `None` where the kernel is no matrix, or too large a one.
    pub fn of(
        graph: &Graph,
        reading: &Reading,
        calibration: &dyn Calibration,
        neighbours: usize,
    ) -> Result<Option<Self>, PruneError> {
        let kernel = &graph.initializers[&reading.kernel];
        let Some(looked) = Looked::at(reading, kernel, calibration.examples()) else {
            return Ok(None);
        };
        let inputs = kernel.dims[reading.input_axis()];
        let taps = looked.matrix.features / inputs.max(1);
        let order = (0..inputs).step_by(neighbours).flat_map(|first| {
            let near = first..(first + neighbours).min(inputs);
            (0..taps).flat_map(move |tap| near.clone().map(move |input| input * taps + tap))
        });
        let mut layer = Self {
            matrix: looked.matrix,
            order: order.collect(),
            whole: inputs / neighbours * neighbours * taps,
            factors: Vec::new(),
            dead: Vec::new(),
        };
        for moments in second_moments(graph, &looked, calibration)? {
            let mut hessian = moments
                .select_rows(&layer.order)
                .select_columns(&layer.order);
            let damping = (DAMPING * hessian.diagonal().mean()).max(f64::MIN_POSITIVE);
            let dead: Vec<bool> = hessian.diagonal().iter().map(|&h| h == 0.0).collect();
            for (index, dead) in dead.iter().enumerate() {
                hessian[(index, index)] =
                    if *dead { 1.0 } else { hessian[(index, index)] } + damping;
            }
            let inverse = hessian.cholesky().map(|factors| factors.inverse());
            let Some(factors) = inverse.and_then(DMatrix::cholesky) else {
                return Ok(None);
            };
            layer.factors.push(factors.l().transpose());
            layer.dead.push(dead);
        }
        Ok(Some(layer))
    }

    /// `w² ÷ [H⁻¹]` for each weight, without corrections: what each costs by itself (Hassibi and Stork,
    /// "Optimal Brain Surgeon", NeurIPS 1992, eq. 5).
    pub fn saliencies(&self, weights: &[f32]) -> Vec<f64> {
        let mut all = vec![0.0; weights.len()];
        for (group, factors) in self.factors.iter().enumerate() {
            for (column, &feature) in self.order.iter().enumerate() {
                let inverse = factors.column(column).iter().map(|u| u * u).sum::<f64>();
                for output in 0..self.matrix.outputs {
                    let place = self.matrix.index(group, output, feature);
                    let dead = self.dead[group][column];
                    let weight = if dead { 0.0 } else { f64::from(weights[place]) };
                    all[place] = weight * weight / inverse;
                }
            }
        }
        all
    }

    /// Sets weights to zero column by column and lets those behind make up for it (Frantar and Alistarh,
    /// "SparseGPT", ICML 2023, algorithm 1, and section 3.3 for `n` of `m`).
    pub fn prune(&self, weights: &mut [f32], zeros: Zeros) {
        let KernelMatrix {
            groups,
            outputs,
            features,
            ..
        } = self.matrix;
        let all = (groups * outputs * features).max(1);
        // How many are gone after so many of all, so that the sum comes out.
        let due = |seen: usize| match zeros {
            Zeros::Count(count) => (count as f64 * seen as f64 / all as f64).round() as usize,
            Zeros::NOfM { .. } => 0,
        };
        let width = match zeros {
            Zeros::Count(_) => BLOCK,
            Zeros::NOfM { m, .. } => BLOCK.div_ceil(m) * m,
        };
        let (mut seen, mut gone) = (0, 0);
        for (group, factors) in self.factors.iter().enumerate() {
            let mut w = DMatrix::from_fn(outputs, features, |output, column| {
                let place = self.matrix.index(group, output, self.order[column]);
                if self.dead[group][column] {
                    0.0
                } else {
                    f64::from(weights[place])
                }
            });
            for start in (0..features).step_by(width) {
                let end = (start + width).min(features);
                let cost = |w: &DMatrix<f64>, output: usize, feature: usize| {
                    (w[(output, feature)] / factors[(feature, feature)]).powi(2)
                };
                let mut zero = DMatrix::from_element(outputs, end - start, false);
                seen += outputs * (end - start);
                let now = due(seen) - gone;
                gone += now;
                let mut order: Vec<(f64, usize, usize)> = (start..end)
                    .flat_map(|feature| (0..outputs).map(move |output| (output, feature)))
                    .map(|(output, feature)| (cost(&w, output, feature), output, feature))
                    .collect();
                order.sort_by(|a, b| a.0.total_cmp(&b.0));
                for &(_, output, feature) in &order[..now] {
                    zero[(output, feature - start)] = true;
                }
                let mut errors = DMatrix::<f64>::zeros(outputs, end - start);
                for feature in start..end {
                    if let Zeros::NOfM { n, m } = zeros
                        && feature < self.whole
                        && feature.is_multiple_of(m)
                    {
                        for output in 0..outputs {
                            let mut near: Vec<usize> = (feature..feature + m).collect();
                            let of = |&column: &usize| cost(&w, output, column);
                            near.sort_by(|a, b| of(a).total_cmp(&of(b)));
                            for column in &near[..m - n] {
                                zero[(output, column - start)] = true;
                            }
                        }
                    }
                    for output in 0..outputs {
                        if !zero[(output, feature - start)] {
                            continue;
                        }
                        let error = w[(output, feature)] / factors[(feature, feature)];
                        errors[(output, feature - start)] = error;
                        for later in feature..end {
                            w[(output, later)] -= error * factors[(feature, later)];
                        }
                        w[(output, feature)] = 0.0;
                    }
                }
                if end < features {
                    let behind = factors.view((start, end), (end - start, features - end));
                    let change = errors * behind;
                    let mut later = w.columns_mut(end, features - end);
                    later -= change;
                }
            }
            for output in 0..outputs {
                for (column, &feature) in self.order.iter().enumerate() {
                    let place = self.matrix.index(group, output, feature);
                    weights[place] = w[(output, column)] as f32;
                }
            }
        }
    }
}
