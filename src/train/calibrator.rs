//! Calibration data for pruning: a few examples of the train split, run on a device.

use std::collections::{BTreeMap, BTreeSet};

use burn::backend::ops::FloatTensorOps;
use burn::backend::{AutodiffBackend, Dispatch};

use super::Loss;
use super::evaluate::{Programs, batch_of, feed};
use crate::data::{Batch, Prepared, Role};
use crate::exec::value::{Value, to_host, track};
use crate::exec::{Device, ExecError, Mode, Parameters, Program, upload};
use crate::graph::{Graph, feeds_for_batch};
use crate::prune::calibration::{Calibration, Gradients, Values};

/// Examples that run at once where gradients are not wanted one by one.
const BATCH: usize = 64;

/// The first `examples` of the train split of `data`, on a device.
pub struct Calibrator<'a> {
    pub device: &'a Device,
    pub data: &'a Prepared,
    pub loss: Loss,
    pub examples: usize,
}

impl Calibrator<'_> {
    /// Batches of `wanted` examples, or as many as the file fixes; the short rest is left out there.
    fn batches(&self, graph: &Graph, wanted: usize) -> impl Iterator<Item = Batch> {
        let (size, other) = (batch_of(graph, wanted), batch_of(graph, wanted + 1));
        let fixed = size == other;
        let count = self.examples().div_ceil(size);
        let rest = self.examples() - (count - 1) * size;
        self.data
            .batches(Role::Train, size)
            .take(count)
            .enumerate()
            .filter_map(move |(index, mut batch)| {
                if index + 1 == count && rest < batch.count {
                    if fixed {
                        return (count == 1).then_some(batch);
                    }
                    batch.truncate(rest);
                }
                (!fixed || batch.count == size || count == 1).then_some(batch)
            })
    }

    /// The gradients of what `value` makes of the main output.
    fn gradients_of(
        &self,
        graph: &Graph,
        programs: &mut Programs,
        parameters: &Parameters,
        trainable: &BTreeSet<&str>,
        batch: &Batch,
        value: &dyn Fn(Value) -> Value,
    ) -> Result<Gradients, ExecError> {
        let mut leaves = parameters.clone();
        for name in trainable {
            if let Some(leaf) = leaves.get_mut(*name) {
                *leaf = track(leaf.clone());
            }
        }
        let (inputs, size) = feed(graph, self.device, batch)?;
        let mut outcome = programs
            .of(size)?
            .run(self.device, &leaves, &inputs, Mode::Evaluate)?;
        let logits = outcome
            .outputs
            .pop()
            .expect("a program gives what it was asked for")
            .on_device(self.device);
        let mut gradients = Dispatch::backward(value(logits));
        Ok(trainable
            .iter()
            .filter_map(|&name| {
                let gradient = Dispatch::grad_remove(leaves.get(name)?, &mut gradients)?;
                Some((name.to_owned(), to_host(gradient)))
            })
            .collect())
    }
}

impl Calibration for Calibrator<'_> {
    fn batch_gradients(
        &self,
        graph: &Graph,
        size: usize,
        each: &mut dyn FnMut(&Gradients, usize),
    ) -> Result<u64, ExecError> {
        let parameters = upload(graph, self.device.plain());
        let mut programs = Programs::new(graph, self.loss.closing_operators());
        let trainable = graph.trainable();
        let mut count = 0;
        for batch in self.batches(graph, size) {
            let loss = |output: Value| self.loss.of_output(output, &batch, self.device.plain());
            let found =
                self.gradients_of(graph, &mut programs, &parameters, &trainable, &batch, &loss)?;
            each(&found, batch.count);
            count += 1;
        }
        Ok(count)
    }

    fn flow(&self, graph: &Graph) -> Result<Gradients, ExecError> {
        let parameters = upload(graph, self.device.plain());
        let mut programs = Programs::new(graph, self.loss.closing_operators());
        let mut ones = self.data.sample(Role::Train, 1);
        for elements in &mut ones.inputs {
            elements.fill(1.0);
        }
        let trainable = graph.trainable();
        let sum = |output: Value| Dispatch::float_sum(output);
        self.gradients_of(graph, &mut programs, &parameters, &trainable, &ones, &sum)
    }

    fn mean_gradients(&self, graph: &Graph) -> Result<Gradients, ExecError> {
        let mut sums: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let mut count = 0;
        self.batch_gradients(graph, BATCH, &mut |found, examples| {
            for (name, gradient) in found {
                let sum = sums
                    .entry(name.clone())
                    .or_insert_with(|| vec![0.0; gradient.len()]);
                for (sum, &value) in sum.iter_mut().zip(gradient) {
                    *sum += f64::from(value) * examples as f64;
                }
            }
            count += examples;
        })?;
        let mean = |sum: Vec<f64>| {
            let values = sum.into_iter().map(|value| (value / count as f64) as f32);
            values.collect()
        };
        Ok(sums
            .into_iter()
            .map(|(name, sum)| (name, mean(sum)))
            .collect())
    }

    fn values(
        &self,
        graph: &Graph,
        names: &[&str],
        each: &mut dyn FnMut(&[Values]),
    ) -> Result<(), ExecError> {
        let parameters = upload(graph, self.device.plain());
        let mut program: Option<(usize, Program)> = None;
        for batch in self.batches(graph, BATCH) {
            let (inputs, size) = feed(graph, self.device, &batch)?;
            let program = match &mut program {
                Some((compiled, program)) if *compiled == size => program,
                other => {
                    let feeds = feeds_for_batch(graph, size)?;
                    let fresh = Program::compile(graph, &feeds, names)?;
                    &mut other.insert((size, fresh)).1
                }
            };
            let outcome = program.run(self.device, &parameters, &inputs, Mode::Evaluate)?;
            let values: Vec<Values> = outcome
                .outputs
                .into_iter()
                .map(|output| Values {
                    dims: output.dims.clone(),
                    elements: to_host(output.on_device(self.device)),
                })
                .collect();
            each(&values);
        }
        Ok(())
    }

    fn examples(&self) -> usize {
        self.examples.min(self.data.count(Role::Train)).max(1)
    }
}
