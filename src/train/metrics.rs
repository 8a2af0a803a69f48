//! Metrics, computed on the host in float64 from what the model puts out.

mod ranking;

pub(crate) use ranking::spearman;

use std::collections::BTreeMap;

use crate::data::{Batch, IGNORED};
use crate::spec::evaluate::MetricName;
use crate::spec::job::Task;
use crate::spec::result::{CalibrationBin, Quality, other_order};
use crate::spec::train::LossName;

/// How many bins of confidence a calibration has (Guo et al., "On Calibration of Modern Neural Networks", 2017).
const BINS: usize = 15;

/// With more classes than this a table of all pairs is of no use.
const MOST_TABLED: usize = 100;

/// Sums over examples from which every metric follows.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    examples: f64,
    elements: f64,
    loss: f64,
    correct: f64,
    squared: f64,
    absolute: f64,
    /// How many outputs an example has.
    width: usize,
    /// Of labels by how many classes had a higher output; those of ten and more are one.
    places: [f64; 11],
    /// By class: `[true positives, false positives, false negatives]`.
    by_class: BTreeMap<usize, [f64; 3]>,
    /// By label and predicted class.
    pairs: BTreeMap<[usize; 2], u64>,
    /// By confidence: examples, sum of confidences, right ones.
    bins: [[f64; 3]; BINS],
    /// By output.
    spread: Vec<Spread>,
    /// Scores with targets of every example, where metrics of their order are wanted.
    kept: Option<Kept>,
    /// Of which metric `each` has what the examples add.
    apart: Option<MetricName>,
    each: Vec<f64>,
}

/// Scores (probabilities, or values) and targets, `[examples, width]` each.
#[derive(Debug, Clone, Default)]
struct Kept {
    scores: Vec<f64>,
    targets: Vec<f64>,
}

/// Running mean and sum of squared differences from it (Welford, 1962), and the sum of squared errors.
#[derive(Debug, Clone, Copy, Default)]
struct Spread {
    count: f64,
    mean: f64,
    squares: f64,
    errors: f64,
    /// The same of what is said, and the sum of the products of both differences.
    said: f64,
    said_squares: f64,
    products: f64,
}

impl Measured {
    /// Measured for these metrics and those that need no more than sums.
    pub fn wanting(names: &[MetricName]) -> Self {
        let keeps = names.iter().any(|name| name.needs_scores());
        Self {
            kept: keeps.then(Kept::default),
            ..Self::default()
        }
    }

    /// Keeps what each example adds to this metric, too.
    pub fn telling_apart(self, metric: Option<MetricName>) -> Self {
        Self {
            apart: metric,
            ..self
        }
    }

    /// Adds a batch: `outputs` are logits (or values) `[count, width]`, of tokens `[count, tokens, width]`.
    pub fn add(&mut self, task: Task, loss: LossName, outputs: &[f32], batch: &Batch) {
        if batch.count == 0 {
            return;
        }
        let rows = match task.has_labels() {
            true => batch.labels.len(),
            false => batch.count,
        };
        let width = outputs.len() / rows.max(1);
        self.width = width;
        self.elements += outputs.len() as f64;
        if task.has_labels() {
            let rows = rows / batch.count;
            let labels = batch.labels.chunks(rows.max(1));
            for (labels, outputs) in labels.zip(outputs.chunks((rows * width).max(1))) {
                let before = self.sum();
                let labelled = labels.iter().zip(outputs.chunks(width.max(1)));
                for (&label, logits) in labelled.filter(|(label, _)| **label != IGNORED) {
                    self.examples += 1.0;
                    self.add_class(logits, label);
                }
                self.add_apart(before);
            }
            return;
        }
        self.examples += batch.count as f64;
        self.spread.resize(width, Spread::default());
        for (row, logits) in outputs.chunks(width.max(1)).enumerate() {
            let targets = &batch.values[row * width..(row + 1) * width];
            let before = self.sum();
            self.add_values(task, loss, logits, targets);
            self.add_apart(before);
        }
    }

    /// The sum over examples so far that the metric to be told apart is the mean of; `None` where it is no such mean.
    fn sum(&self) -> Option<f64> {
        match self.apart? {
            MetricName::Loss => Some(self.loss),
            MetricName::Accuracy => Some(self.correct),
            MetricName::MeanSquaredError => Some(self.squared),
            MetricName::MeanAbsoluteError => Some(self.absolute),
            // 1 − squared errors ÷ what is the same for every model.
            MetricName::R2 if self.width == 1 => Some(-self.squared),
            _ => None,
        }
    }

    fn add_apart(&mut self, before: Option<f64>) {
        if let (Some(before), Some(after)) = (before, self.sum()) {
            self.each.push(after - before);
        }
    }

    /// What each example has added to the metric of [`Measured::telling_apart`], or to what it falls or rises with; empty
    /// where it is no mean over examples.
    pub fn each(self) -> Vec<f64> {
        self.each
    }

    fn add_class(&mut self, logits: &[f32], label: usize) {
        let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let from_highest = |x: f32| f64::from(x) - f64::from(highest);
        let raised = || logits.iter().map(|&x| from_highest(x).exp());
        let sum: f64 = raised().sum();
        let own = logits[label];
        self.loss += sum.ln() - from_highest(own);
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
        if !own.is_nan() {
            let above = logits.iter().filter(|&&x| x > own).count();
            self.places[above.min(10)] += 1.0;
        }
        *self.pairs.entry([label, predicted]).or_default() += 1;
        if right {
            self.by_class.entry(label).or_default()[0] += 1.0;
        } else {
            self.by_class.entry(predicted).or_default()[1] += 1.0;
            self.by_class.entry(label).or_default()[2] += 1.0;
        }
        self.add_confidence(1.0 / sum, right);
        if let Some(kept) = &mut self.kept {
            kept.scores.extend(raised().map(|raised| raised / sum));
            let is = |class: usize| f64::from(u8::from(class == label));
            kept.targets.extend((0..logits.len()).map(is));
        }
    }

    fn add_values(&mut self, task: Task, loss: LossName, outputs: &[f32], targets: &[f32]) {
        for (class, (&x, &t)) in outputs.iter().zip(targets).enumerate() {
            let (x, t) = (f64::from(x), f64::from(t));
            let error = (x - t) * (x - t);
            self.squared += error;
            self.absolute += (x - t).abs();
            self.spread[class].add(x, t, error);
            self.loss += match loss {
                LossName::BinaryCrossEntropy => x.max(0.0) - x * t + (-x.abs()).exp().ln_1p(),
                _ => error,
            };
            if task == Task::Multilabel {
                let (said, is) = (x > 0.0, t > 0.5);
                if self.width == 1 && (t == 0.0 || t == 1.0) {
                    self.add_answer(x, said, is);
                }
                self.correct += f64::from(u8::from(said == is));
                let counts = self.by_class.entry(class).or_default();
                match (said, is) {
                    (true, true) => counts[0] += 1.0,
                    (true, false) => counts[1] += 1.0,
                    (false, true) => counts[2] += 1.0,
                    (false, false) => {}
                }
            }
            if let Some(kept) = &mut self.kept {
                kept.scores.push(x);
                kept.targets.push(t);
            }
        }
    }

    /// Of a single output that says yes or no: what it was taken for, and how sure.
    fn add_answer(&mut self, logit: f64, said: bool, is: bool) {
        *self.pairs.entry([is.into(), said.into()]).or_default() += 1;
        let confidence = 1.0 / (1.0 + (-logit.abs()).exp());
        self.add_confidence(confidence, said == is);
    }

    fn add_confidence(&mut self, confidence: f64, right: bool) {
        if !confidence.is_finite() {
            return;
        }
        let bin = ((confidence * BINS as f64).ceil() as usize).clamp(1, BINS) - 1;
        let [examples, confidences, rights] = &mut self.bins[bin];
        *examples += 1.0;
        *confidences += confidence;
        *rights += f64::from(u8::from(right));
    }

    /// By what the only output is multiplied, and what is added, so that it fits the targets best, and the R2 of that; `None`
    /// where nothing changes, or there are several.
    pub fn line(&self) -> Option<(f64, f64, f64)> {
        match self.spread.as_slice() {
            [only] => only.line(),
            _ => None,
        }
    }

    /// Those of the metrics `names` that have a finite value, which JSON has a word for.
    pub fn finite(&self, names: &[MetricName], task: Task) -> BTreeMap<String, f64> {
        let values = names
            .iter()
            .map(|&name| (name.as_str().to_owned(), self.metric(name, task)));
        values.filter(|(_, value)| value.is_finite()).collect()
    }

    /// The metric of everything added so far. NaN where the examples don't define it.
    pub fn metric(&self, name: MetricName, task: Task) -> f64 {
        let per_example = task.has_labels();
        let count = if per_example {
            self.examples
        } else {
            self.elements
        };
        let below = |places: usize| self.places[..places].iter().sum::<f64>() / count;
        match name {
            MetricName::Loss => self.loss / count,
            MetricName::Perplexity => (self.loss / count).exp(),
            MetricName::Accuracy => self.correct / count,
            MetricName::Top2Accuracy => below(2),
            MetricName::Top3Accuracy => below(3),
            MetricName::Top5Accuracy => below(5),
            MetricName::Top10Accuracy => below(10),
            MetricName::MeanSquaredError => self.squared / self.elements,
            MetricName::RootMeanSquaredError => (self.squared / self.elements).sqrt(),
            MetricName::MeanAbsoluteError => self.absolute / self.elements,
            MetricName::R2 => mean(self.spread.iter().map(Spread::r2)),
            MetricName::F1 => mean(self.classes(task).map(f1)),
            MetricName::Precision => {
                let of = |[right, wrong, _]: [f64; 3]| share(right, right + wrong);
                mean(self.classes(task).map(of))
            }
            MetricName::Recall => mean(self.classes(task).map(recall)),
            MetricName::BalancedAccuracy => {
                let with_examples = |[right, _, missed]: &[f64; 3]| right + missed > 0.0;
                mean(self.classes(task).filter(with_examples).map(recall))
            }
            MetricName::WeightedF1 => {
                let support = |[right, _, missed]: [f64; 3]| right + missed;
                let weighed = self
                    .classes(task)
                    .map(|counts| f1(counts) * support(counts));
                share(weighed.sum(), self.classes(task).map(support).sum())
            }
            MetricName::ExpectedCalibrationError => {
                let gap = |[_, confidences, rights]: &[f64; 3]| (confidences - rights).abs();
                self.bins.iter().map(gap).sum::<f64>() / count
            }
            MetricName::RocAuc => self.ranked(task, ranking::roc_auc),
            MetricName::AveragePrecision => self.ranked(task, ranking::average_precision),
            MetricName::Spearman => {
                let correlation = |class| ranking::spearman(&self.scored(class));
                mean((0..self.width).map(correlation))
            }
        }
    }

    /// Counts of the classes that occur; of several labels an example has, of all.
    fn classes(&self, task: Task) -> impl Iterator<Item = [f64; 3]> {
        let occurs =
            move |counts: &[f64; 3]| !task.has_labels() || counts.iter().any(|&count| count > 0.0);
        self.by_class.values().copied().filter(occurs)
    }

    /// Scores and targets of one output.
    fn scored(&self, class: usize) -> Vec<(f64, f64)> {
        let Some(kept) = &self.kept else {
            return Vec::new();
        };
        let of = |all: &Vec<f64>| {
            all.iter()
                .skip(class)
                .step_by(self.width)
                .copied()
                .collect()
        };
        let (scores, targets): (Vec<f64>, Vec<f64>) = (of(&kept.scores), of(&kept.targets));
        scores.into_iter().zip(targets).collect()
    }

    /// The mean of a class' figure, each against all others, over the classes that have one; of two classes that of
    /// the second.
    fn ranked(&self, task: Task, of: fn(&mut [(f64, bool)]) -> Option<f64>) -> f64 {
        let classes = match (task, self.width) {
            (task, 2) if task.has_labels() => 1..2,
            (_, width) => 0..width,
        };
        let figure = |class| {
            let scored = self.scored(class).into_iter();
            of(&mut scored
                .map(|(score, target)| (score, target > 0.5))
                .collect::<Vec<_>>())
        };
        mean(classes.filter_map(figure))
    }

    /// How often each class was taken for each, and how sure the model was when it was right; a single output that says yes or
    /// no is of two classes. `None` where examples have no single label, or there are too many classes to show.
    pub fn quality(&self) -> Option<Quality> {
        if self.pairs.is_empty() || self.width > MOST_TABLED {
            return None;
        }
        let classes = self.width.max(2);
        let mut confusion = vec![vec![0; classes]; classes];
        for (&[label, predicted], &count) in &self.pairs {
            confusion[label][predicted] = count;
        }
        let bin = |[examples, confidences, rights]: &[f64; 3]| CalibrationBin {
            examples: *examples as u64,
            confidence: share(*confidences, *examples),
            accuracy: share(*rights, *examples),
        };
        Some(Quality {
            order: other_order(&confusion),
            confusion,
            calibration: self.bins.iter().map(bin).collect(),
        })
    }
}

impl Spread {
    fn add(&mut self, said: f64, target: f64, error: f64) {
        self.count += 1.0;
        let before = target - self.mean;
        self.mean += before / self.count;
        self.squares += before * (target - self.mean);
        let said_before = said - self.said;
        self.said += said_before / self.count;
        self.said_squares += said_before * (said - self.said);
        self.products += said_before * (target - self.mean);
        self.errors += error;
    }

    /// Slope, offset and R2 of the line through targets by what is said.
    fn line(&self) -> Option<(f64, f64, f64)> {
        let varies = self.said_squares > 0.0 && self.squares > 0.0;
        varies.then(|| {
            let slope = self.products / self.said_squares;
            let offset = self.mean - slope * self.said;
            (slope, offset, self.products * slope / self.squares)
        })
    }

    /// `1 − Σ (x − t)² ÷ Σ (t − mean t)²`; of constant targets 1 where all are met and 0 otherwise, as scikit-learn has it.
    fn r2(&self) -> f64 {
        match (self.squares > 0.0, self.errors > 0.0) {
            (true, _) => 1.0 - self.errors / self.squares,
            (false, false) => 1.0,
            (false, true) => 0.0,
        }
    }
}

fn f1([right, wrong, missed]: [f64; 3]) -> f64 {
    share(2.0 * right, 2.0 * right + wrong + missed)
}

fn recall([right, _, missed]: [f64; 3]) -> f64 {
    share(right, right + missed)
}

/// 0 of nothing.
fn share(part: f64, whole: f64) -> f64 {
    match whole > 0.0 {
        true => part / whole,
        false => 0.0,
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for value in values {
        sum += value;
        count += 1.0;
    }
    sum / count
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
