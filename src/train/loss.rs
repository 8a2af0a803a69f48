//! Losses as values on a device.

use burn::backend::ops::{ActivationOps, FloatTensorOps};
use burn::backend::{Dispatch, DispatchDevice};

use crate::data::{Batch, IGNORED};
use crate::exec::value::{Value, dims, from_host, indices, reshape};
use crate::spec::job::Task;
use crate::spec::train::{LossName, TrainParams};

type B = Dispatch;

/// What a training makes small, or an evaluation reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loss {
    pub name: LossName,
    /// Share of each label spread over all classes (Szegedy et al., 2016, section 7).
    pub label_smoothing: f64,
}

impl Loss {
    /// Operators at the end of a graph that the loss applies itself, in a stabler way.
    pub fn closing_operators(self) -> &'static [&'static str] {
        match self.name {
            LossName::CrossEntropy => &["Softmax", "LogSoftmax"],
            LossName::BinaryCrossEntropy => &["Sigmoid"],
            LossName::MeanSquaredError => &[],
        }
    }

    /// The loss that a task has when the request names none.
    pub fn of_task(task: Task) -> Self {
        let name = match task {
            Task::Multilabel => LossName::BinaryCrossEntropy,
            Task::Regression => LossName::MeanSquaredError,
            _ => LossName::CrossEntropy,
        };
        Self {
            name,
            label_smoothing: 0.0,
        }
    }

    /// The loss that a training asks for, or its task has.
    pub fn of_training(params: &TrainParams, task: Task, label_smoothing: f64) -> Self {
        Self {
            name: params.loss.unwrap_or_else(|| Self::of_task(task).name),
            label_smoothing,
        }
    }

    /// The targets as the loss takes them, `[batch, outputs]`, by the weights of the batch's classes.
    pub fn targets(self, batch: &Batch, outputs: usize, device: &DispatchDevice) -> Value {
        let mut elements = self.unweighed(batch, outputs);
        if let (LossName::CrossEntropy, Some(weights)) = (self.name, &batch.class_weights) {
            weigh(&mut elements, outputs, batch, weights);
        }
        from_host(&[batch.count, outputs], elements, device)
    }

    /// Each example's label as a distribution `[batch, outputs]`, all examples alike.
    pub fn labels(batch: &Batch, outputs: usize, device: &DispatchDevice) -> Value {
        let plain = Self::of_task(Task::Classification);
        from_host(
            &[batch.count, outputs],
            plain.unweighed(batch, outputs),
            device,
        )
    }

    fn unweighed(self, batch: &Batch, outputs: usize) -> Vec<f32> {
        match self.name {
            LossName::CrossEntropy => {
                let spread = self.label_smoothing as f32 / outputs as f32;
                let peak = 1.0 - self.label_smoothing as f32 + spread;
                let mut elements = vec![spread; batch.count * outputs];
                for (row, &label) in batch.labels.iter().enumerate() {
                    let (partner, share) = batch.partner(row);
                    let mut raise = |label: usize, share: f32| {
                        elements[row * outputs + label] += share * (peak - spread);
                    };
                    raise(label, 1.0 - share);
                    raise(batch.labels[partner], share);
                }
                elements
            }
            _ => batch.values.clone(),
        }
    }

    /// The mean loss of a batch by the output `[batch, …]` that a graph gave for it.
    pub fn of_output(self, output: Value, batch: &Batch, device: &DispatchDevice) -> Value {
        let shape = dims(&output);
        if batch.is_of_tokens() {
            return self.of_tokens(output, batch, device);
        }
        let width = shape.iter().product::<usize>() / shape[0].max(1);
        let targets = self.targets(batch, width, device);
        self.value(reshape(output, &[shape[0], width]), targets)
    }

    /// The mean cross-entropy of the tokens of a batch that have labels, by the output `[batch, tokens, classes]`.
    fn of_tokens(self, output: Value, batch: &Batch, device: &DispatchDevice) -> Value {
        let width = dims(&output).last().copied().unwrap_or(1);
        let labelled = batch.labels.iter().enumerate();
        let (places, labels): (Vec<usize>, Vec<usize>) =
            labelled.filter(|(_, label)| **label != IGNORED).unzip();
        let rows = reshape(output, &[batch.labels.len(), width]);
        if places.is_empty() {
            // Nothing is said about anything.
            return B::float_mul_scalar(B::float_sum(rows), 0.0.into());
        }
        let rows = match places.len() == batch.labels.len() {
            true => rows,
            false => B::float_select(rows, 0, indices(&places, device)),
        };
        let logarithms = B::log_softmax(rows, 1);
        let flat = reshape(logarithms.clone(), &[places.len() * width]);
        let own = labels
            .iter()
            .enumerate()
            .map(|(row, label)| row * width + label);
        let own = B::float_select(flat, 0, indices(&own.collect::<Vec<_>>(), device));
        let count = places.len() as f64;
        let smoothing = self.label_smoothing;
        let sharp = B::float_mul_scalar(B::float_sum(own), ((smoothing - 1.0) / count).into());
        if smoothing == 0.0 {
            return sharp;
        }
        let even = B::float_sum(logarithms);
        let even = B::float_mul_scalar(even, (-smoothing / (count * width as f64)).into());
        B::float_add(sharp, even)
    }

    /// The mean loss of a batch: `outputs` is `[batch, …]`, `targets` as [`Loss::targets`] makes
    /// them. A value of one element.
    ///
    /// - `cross_entropy`: `−Σ tᵢ ln softmax(x)ᵢ`, averaged over examples;
    /// - `binary_cross_entropy`: `max(x, 0) − x·t + ln(1 + e^−|x|)`, averaged over all elements;
    /// - `mean_squared_error`: `(x − t)²`, averaged over all elements.
    pub fn value(self, outputs: Value, targets: Value) -> Value {
        let shape = dims(&targets);
        let outputs = reshape(outputs, &shape);
        let examples = shape[0] as f32;
        let elements = (shape[0] * shape[1]) as f32;
        match self.name {
            LossName::CrossEntropy => {
                let logarithms = B::log_softmax(outputs, 1);
                let sum = B::float_sum(B::float_mul(logarithms, targets));
                B::float_mul_scalar(sum, (-1.0 / examples).into())
            }
            LossName::BinaryCrossEntropy => {
                let tail = B::float_neg(B::float_abs(outputs.clone()));
                let tail = B::float_log1p(B::float_exp(tail));
                let product = B::float_mul(outputs.clone(), targets);
                let each = B::float_add(B::float_sub(B::relu(outputs), product), tail);
                B::float_div_scalar(B::float_sum(each), elements.into())
            }
            LossName::MeanSquaredError => {
                let difference = B::float_sub(outputs, targets);
                let square = B::float_mul(difference.clone(), difference);
                B::float_div_scalar(B::float_sum(square), elements.into())
            }
        }
    }
}

/// Each class counts by its weight, and the mean of the batch is by the weights of its labels, as PyTorch's
/// `cross_entropy(…, weight=…)` has it.
fn weigh(targets: &mut [f32], outputs: usize, batch: &Batch, weights: &[f32]) {
    let weight = |label: usize| weights.get(label).copied().unwrap_or(1.0);
    let of_row = |row: usize| {
        let (partner, share) = batch.partner(row);
        (1.0 - share) * weight(batch.labels[row]) + share * weight(batch.labels[partner])
    };
    let sum: f32 = (0..batch.count).map(of_row).sum();
    let factor = batch.count as f32 / sum;
    for (place, target) in targets.iter_mut().enumerate() {
        *target *= weight(place % outputs) * factor;
    }
}
