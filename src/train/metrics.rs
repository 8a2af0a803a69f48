//! Metrics, computed on the host in float64 from what the model puts out.

use std::collections::BTreeMap;

use crate::data::Batch;
use crate::spec::evaluate::MetricName;
use crate::spec::job::Task;
use crate::spec::train::LossName;

/// Sums over examples from which every metric follows.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    examples: f64,
    elements: f64,
    loss: f64,
    correct: f64,
    in_top_5: f64,
    squared: f64,
    absolute: f64,
    /// By class: `[true positives, false positives, false negatives]`.
    confusion: BTreeMap<usize, [f64; 3]>,
}

impl Measured {
    /// Adds a batch: `outputs` are logits (or values) `[count, width]`.
    pub fn add(&mut self, task: Task, loss: LossName, outputs: &[f32], batch: &Batch) {
        if batch.count == 0 {
            return;
        }
        let width = outputs.len() / batch.count;
        self.examples += batch.count as f64;
        self.elements += outputs.len() as f64;
        for (row, logits) in outputs.chunks(width.max(1)).enumerate() {
            match task {
                Task::Classification => self.add_class(logits, batch.labels[row]),
                _ => {
                    let targets = &batch.values[row * width..(row + 1) * width];
                    self.add_values(task, loss, logits, targets);
                }
            }
        }
    }

    fn add_class(&mut self, logits: &[f32], label: usize) {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - highest).exp()).sum();
        let own = logits[label];
        self.loss += sum.ln() - f64::from(own - highest);
        // Ties go to the first class, as argmax has it. A NaN is never right.
        let predicted = (0..logits.len())
            .reduce(|best, next| {
                if logits[next] > logits[best] {
                    next
                } else {
                    best
                }
            })
            .unwrap_or(0);
        let right = predicted == label && !own.is_nan();
        self.correct += f64::from(u8::from(right));
        let above = logits.iter().filter(|&&x| x > own).count();
        self.in_top_5 += f64::from(u8::from(above < 5 && !own.is_nan()));
        if right {
            self.confusion.entry(label).or_default()[0] += 1.0;
        } else {
            self.confusion.entry(predicted).or_default()[1] += 1.0;
            self.confusion.entry(label).or_default()[2] += 1.0;
        }
    }

    fn add_values(&mut self, task: Task, loss: LossName, outputs: &[f32], targets: &[f32]) {
        for (class, (&x, &t)) in outputs.iter().zip(targets).enumerate() {
            let (x, t) = (f64::from(x), f64::from(t));
            self.squared += (x - t) * (x - t);
            self.absolute += (x - t).abs();
            self.loss += match loss {
                LossName::BinaryCrossEntropy => x.max(0.0) - x * t + (-x.abs()).exp().ln_1p(),
                _ => (x - t) * (x - t),
            };
            if task == Task::Multilabel {
                let (said, is) = (x > 0.0, t > 0.5);
                self.correct += f64::from(u8::from(said == is));
                let counts = self.confusion.entry(class).or_default();
                match (said, is) {
                    (true, true) => counts[0] += 1.0,
                    (true, false) => counts[1] += 1.0,
                    (false, true) => counts[2] += 1.0,
                    (false, false) => {}
                }
            }
        }
    }

    /// The metric of everything added so far.
    pub fn metric(&self, name: MetricName, task: Task) -> f64 {
        let per_example = task == Task::Classification;
        let count = if per_example {
            self.examples
        } else {
            self.elements
        };
        match name {
            MetricName::Loss => self.loss / count,
            MetricName::Accuracy => self.correct / count,
            MetricName::Top5Accuracy => self.in_top_5 / count,
            MetricName::MeanSquaredError => self.squared / self.elements,
            MetricName::MeanAbsoluteError => self.absolute / self.elements,
            MetricName::F1 => {
                let seen = || {
                    self.confusion
                        .values()
                        .filter(|counts| counts.iter().any(|&c| c > 0.0))
                };
                let scores = seen()
                    .map(|[right, wrong, missed]| 2.0 * right / (2.0 * right + wrong + missed));
                scores.sum::<f64>() / seen().count().max(1) as f64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(labels: Vec<usize>) -> Batch {
        Batch {
            count: labels.len(),
            labels,
            ..Batch::default()
        }
    }

    /// Numbers from scikit-learn 1.9: `log_loss`, `f1_score(average="macro")`.
    #[test]
    fn classification_metrics_agree_with_scikit_learn() {
        let logits = [
            2.0, 1.0, 0.0, //
            0.0, 3.0, 1.0, //
            1.0, 0.0, 0.5, //
            0.0, 0.0, 4.0,
        ];
        let mut measured = Measured::default();
        measured.add(
            Task::Classification,
            LossName::CrossEntropy,
            &logits,
            &batch(vec![0, 1, 2, 2]),
        );
        let task = Task::Classification;
        assert_eq!(measured.metric(MetricName::Accuracy, task), 0.75);
        assert!((measured.metric(MetricName::Loss, task) - 0.448_424_5).abs() < 1e-6);
        assert!((measured.metric(MetricName::F1, task) - 0.777_777_8).abs() < 1e-6);
        assert_eq!(measured.metric(MetricName::Top5Accuracy, task), 1.0);
    }

    #[test]
    fn a_model_that_puts_out_nan_is_never_right() {
        let mut measured = Measured::default();
        measured.add(
            Task::Classification,
            LossName::CrossEntropy,
            &[f32::NAN, f32::NAN],
            &batch(vec![0]),
        );
        assert_eq!(
            measured.metric(MetricName::Accuracy, Task::Classification),
            0.0
        );
    }
}
