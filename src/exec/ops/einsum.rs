//! Einsum as a chain of matrix products.

use burn::backend::Dispatch;
use burn::backend::DispatchDevice;
use burn::backend::ops::FloatTensorOps;

use super::pick::pick;
use crate::exec::ops::linear::multiplied;
use crate::exec::value::{Value, dims, expand, reshape, sum_keep};
use crate::graph::{Equation, Label};
use crate::host;

type B = Dispatch;

/// Einsum (ONNX, NumPy's rules).
#[derive(Debug, Clone)]
pub(in crate::exec) struct Einsum {
    pub equation: Equation,
}

/// A value and the label of each of its axes, none twice.
struct Labelled {
    value: Value,
    labels: Vec<Label>,
}

impl Einsum {
    pub fn run(&self, operands: Vec<Value>, device: &DispatchDevice) -> Value {
        let mut rest: Vec<Labelled> = operands
            .into_iter()
            .zip(&self.equation.operands)
            .map(|(value, labels)| diagonal(value, labels, device))
            .collect();
        rest.reverse();
        let mut left = rest.pop().expect("an equation has an operand");
        loop {
            let read = |label: &Label| {
                self.equation.output.contains(label)
                    || rest.iter().any(|r| r.labels.contains(label))
            };
            left = reduced(left, &read);
            let Some(right) = rest.pop() else { break };
            let later = |label: &Label| {
                self.equation.output.contains(label)
                    || rest.iter().any(|r| r.labels.contains(label))
            };
            let own = |label: &Label| left.labels.contains(label) || later(label);
            let right = reduced(right, &own);
            left = self.product(left, right, &later);
        }
        let order: Vec<usize> = self
            .equation
            .output
            .iter()
            .map(|label| place(&left.labels, *label))
            .collect();
        let turned = match order.is_empty() {
            true => left.value,
            false => B::float_permute(left.value, &order),
        };
        expand(turned, &self.equation.output_dims())
    }

    /// Multiplies two values and sums over the labels that nothing reads `later`.
    fn product(&self, a: Labelled, b: Labelled, later: &dyn Fn(&Label) -> bool) -> Labelled {
        let shared: Vec<Label> = a
            .labels
            .iter()
            .copied()
            .filter(|l| b.labels.contains(l))
            .collect();
        let (batch, sum): (Vec<Label>, Vec<Label>) = shared.into_iter().partition(|l| later(l));
        let alone = |own: &Labelled, other: &Labelled| -> Vec<Label> {
            own.labels
                .iter()
                .copied()
                .filter(|l| !other.labels.contains(l))
                .collect()
        };
        let (rows, columns) = (alone(&a, &b), alone(&b, &a));
        let size = |labels: &[Label]| -> usize {
            labels
                .iter()
                .map(|label| self.equation.sizes[label])
                .product()
        };
        let left = self.laid_out(a, &[&batch, &rows, &sum]);
        let right = self.laid_out(b, &[&batch, &sum, &columns]);
        let left = reshape(left, &[size(&batch), size(&rows), size(&sum)]);
        let right = reshape(right, &[size(&batch), size(&sum), size(&columns)]);
        let labels = [batch, rows, columns].concat();
        let shape: Vec<usize> = labels
            .iter()
            .map(|label| self.equation.sizes[label])
            .collect();
        Labelled {
            value: reshape(multiplied(left, right), &shape),
            labels,
        }
    }

    /// The value with its axes in this order, broadcast to their full sizes.
    fn laid_out(&self, value: Labelled, parts: &[&Vec<Label>]) -> Value {
        let labels: Vec<Label> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let order: Vec<usize> = labels.iter().map(|&l| place(&value.labels, l)).collect();
        let sizes: Vec<usize> = labels
            .iter()
            .map(|label| self.equation.sizes[label])
            .collect();
        match order.is_empty() {
            true => value.value,
            false => expand(B::float_permute(value.value, &order), &sizes),
        }
    }
}

fn place(labels: &[Label], label: Label) -> usize {
    labels.iter().position(|own| *own == label).unwrap_or(0)
}

/// Sums away the labels that nothing reads.
fn reduced(value: Labelled, read: &dyn Fn(&Label) -> bool) -> Labelled {
    let gone: Vec<usize> = (0..value.labels.len())
        .filter(|&i| !read(&value.labels[i]))
        .collect();
    if gone.is_empty() {
        return value;
    }
    let labels: Vec<Label> = value
        .labels
        .iter()
        .copied()
        .filter(|label| read(label))
        .collect();
    let mut shape = dims(&value.value);
    for &axis in gone.iter().rev() {
        shape.remove(axis);
    }
    Labelled {
        value: reshape(sum_keep(value.value, &gone), &shape),
        labels,
    }
}

/// The diagonal along labels that stand more than once.
fn diagonal(value: Value, labels: &[Label], device: &DispatchDevice) -> Labelled {
    let mut own: Vec<Label> = Vec::new();
    for &label in labels {
        if !own.contains(&label) {
            own.push(label);
        }
    }
    if own.len() == labels.len() {
        return Labelled { value, labels: own };
    }
    let shape = dims(&value);
    let strides = host::strides(&shape);
    let sizes: Vec<usize> = own
        .iter()
        .map(|&label| shape[place(labels, label)])
        .collect();
    let step = |label: &Label| -> usize {
        (0..labels.len())
            .filter(|&axis| labels[axis] == *label)
            .map(|axis| strides[axis])
            .sum()
    };
    let mut sources = vec![1i64];
    for (label, &size) in own.iter().zip(&sizes) {
        let step = step(label) as i64;
        sources = sources
            .iter()
            .flat_map(|&start| (0..size as i64).map(move |k| start + k * step))
            .collect();
    }
    Labelled {
        value: pick(value, &sources, &sizes, device),
        labels: own,
    }
}
