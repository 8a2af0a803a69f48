//! Running a model over a split, and timing it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use super::{Loss, Measured};
use crate::data::{Batch, Prepared, Role};
use crate::exec::operand::{self, Operand};
use crate::exec::value::to_host;
use crate::exec::{Device, ExecError, Mode, Parameters, Program, upload};
use crate::graph::{Graph, feeds_for_batch};
use crate::onnx::proto::data_type;
use crate::spec::evaluate::MetricName;
use crate::spec::result::Latency;

/// Examples that run at once where the file leaves the batch open.
const EVALUATION_BATCH: usize = 256;

/// Most numbers that are put out for them.
const MOST_OUTPUTS: usize = 32 << 20;

/// The programs of one graph from its inputs to where a loss looks, each compiled when its batch
/// size first comes.
pub(crate) struct Programs<'a> {
    graph: &'a Graph,
    closing: &'static [&'static str],
    tensors: Vec<String>,
    by_batch: HashMap<usize, Program>,
}

impl<'a> Programs<'a> {
    /// `closing` operators at the end of the graph are left out.
    pub fn new(graph: &'a Graph, closing: &'static [&'static str]) -> Self {
        Self::with_tensors(graph, closing, &[])
    }

    /// Programs that give the values `tensors` too, in that order, before the output.
    pub fn with_tensors(
        graph: &'a Graph,
        closing: &'static [&'static str],
        tensors: &[String],
    ) -> Self {
        Self {
            graph,
            closing,
            tensors: tensors.to_vec(),
            by_batch: HashMap::new(),
        }
    }

    pub fn of(&mut self, batch: usize) -> Result<&Program, ExecError> {
        Ok(match self.by_batch.entry(batch) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                entry.insert(compile(self.graph, batch, self.closing, &self.tensors)?)
            }
        })
    }
}

/// A graph ready to be measured.
pub struct Evaluator<'a> {
    graph: &'a Graph,
    device: &'a Device,
    loss: Loss,
    metrics: &'a [MetricName],
    apart: Option<MetricName>,
    programs: RefCell<Programs<'a>>,
}

impl<'a> Evaluator<'a> {
    /// Metrics are taken where `loss` looks.
    pub fn new(graph: &'a Graph, device: &'a Device, loss: Loss) -> Self {
        Self {
            graph,
            device,
            loss,
            metrics: &[],
            apart: None,
            programs: RefCell::new(Programs::new(graph, loss.closing_operators())),
        }
    }

    /// Takes what these metrics need beside what all do.
    pub fn wanting(self, metrics: &'a [MetricName]) -> Self {
        Self { metrics, ..self }
    }

    /// Keeps what each example adds to this metric, too.
    pub fn telling_apart(self, metric: Option<MetricName>) -> Self {
        Self {
            apart: metric,
            ..self
        }
    }

    /// Logits of a batch on the host, row by row.
    fn logits(&self, parameters: &Parameters, batch: &Batch) -> Result<Vec<f32>, ExecError> {
        let (inputs, size) = feed(self.graph, self.device, batch)?;
        let mut programs = self.programs.borrow_mut();
        let program = programs.of(size)?;
        let outcome = program.run(self.device, parameters, &inputs, Mode::Evaluate)?;
        let mut all = Vec::new();
        for output in outcome.outputs {
            all = to_host(output.on_device(self.device));
        }
        // A file with a fixed batch size was fed repetitions at the end.
        let width = all.len() / size.max(1);
        all.truncate(batch.count * width);
        Ok(all)
    }

    /// Measures `role` with the weights `parameters`.
    pub fn measure(
        &self,
        parameters: &Parameters,
        data: &Prepared,
        role: Role,
    ) -> Result<Measured, ExecError> {
        let mut measured = Measured::wanting(self.metrics).telling_apart(self.apart);
        for batch in data.batches(role, evaluation_batch(self.graph, data)) {
            let outputs = self.logits(parameters, &batch)?;
            measured.add(data.about.task, self.loss.name, &outputs, &batch);
        }
        Ok(measured)
    }

    /// Measures `role` with the graph's own weights.
    pub fn measure_graph(&self, data: &Prepared, role: Role) -> Result<Measured, ExecError> {
        let parameters = upload(self.graph, self.device.plain());
        self.measure(&parameters, data, role)
    }
}

/// The batch size that the file fixes, or the one that suits.
pub(crate) fn evaluation_batch(graph: &Graph, data: &Prepared) -> usize {
    let fitting = MOST_OUTPUTS / data.outputs().max(1);
    batch_of(graph, fitting.clamp(1, EVALUATION_BATCH))
}

/// The batch size that the file fixes, or `wanted`.
pub(crate) fn batch_of(graph: &Graph, wanted: usize) -> usize {
    feeds_for_batch(graph, wanted)
        .ok()
        .and_then(|feeds| feeds.get(graph.inputs.first()?.label())?.first().copied())
        .unwrap_or(wanted)
}

/// The program from the graph's inputs to `tensors` and its main output, without its `closing`
/// operators, for a batch size.
pub(super) fn compile(
    graph: &Graph,
    batch: usize,
    closing: &[&str],
    tensors: &[String],
) -> Result<Program, ExecError> {
    let feeds = feeds_for_batch(graph, batch)?;
    let output = graph
        .output_before(closing)
        .ok_or_else(|| ExecError::Missing("output".to_owned()))?;
    let tensors = tensors.iter().map(String::as_str);
    let wanted: Vec<&str> = tensors.chain([output]).collect();
    Program::compile(graph, &feeds, &wanted)
}

/// Uploads a batch; returns the values and the batch size that they have, which is larger than
/// the batch where the file fixes it.
pub(crate) fn feed(
    graph: &Graph,
    device: &Device,
    batch: &Batch,
) -> Result<(Vec<Operand>, usize), ExecError> {
    let feeds = feeds_for_batch(graph, batch.count)?;
    let mut size = None;
    let mut values = Vec::with_capacity(batch.inputs.len());
    for (input, elements) in graph.inputs.iter().zip(&batch.inputs) {
        let dims = &feeds[input.label()];
        let needed: usize = dims.iter().product();
        // Of a recurrent state another axis is the batch.
        size = size.or(dims.first().copied());
        let elements = match elements.len() == needed {
            true => elements.clone(),
            false => elements.iter().copied().cycle().take(needed).collect(),
        };
        let kind = input.tensor().map_or(data_type::FLOAT, |(kind, _)| kind);
        values.push(operand::feed(kind, dims, elements, device.plain()));
    }
    Ok((values, size.unwrap_or(batch.count)))
}

/// Whether a tenth of the times is more than half as long again as their median.
fn restless(times: &[f64]) -> bool {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |share: f64| sorted.get((sorted.len().saturating_sub(1) as f64 * share) as usize);
    at(0.9)
        .zip(at(0.5))
        .is_some_and(|(late, usual)| *late > 1.5 * usual)
}

/// Times one run of each graph, in turns, so that what slows the machine slows them alike: at
/// least 30 runs and half a second each after a warm-up, up to four times as long where they vary much. Inputs are examples of the test split
/// of each graph's data, or constants without.
pub fn measure_latencies(
    graphs: &[(&Graph, Option<&Prepared>)],
    device: &Device,
) -> Result<Vec<Latency>, ExecError> {
    struct Timed {
        program: Program,
        parameters: Parameters,
        inputs: Vec<Operand>,
        batch: usize,
        times: Vec<f64>,
    }
    let mut all = Vec::new();
    for &(graph, data) in graphs {
        let batch = match data {
            Some(data) => data.sample(Role::Test, batch_of(graph, 1)),
            None => constant_batch(graph)?,
        };
        let (inputs, size) = feed(graph, device, &batch)?;
        all.push(Timed {
            program: compile(graph, size, &[], &[])?,
            parameters: upload(graph, device.plain()),
            inputs,
            batch: size,
            times: Vec::new(),
        });
    }
    let run = |timed: &mut Timed| -> Result<(), ExecError> {
        let start = Instant::now();
        let outcome =
            timed
                .program
                .run(device, &timed.parameters, &timed.inputs, Mode::Evaluate)?;
        for output in outcome.outputs {
            drop(output.on_host());
        }
        timed.times.push(start.elapsed().as_secs_f64() * 1000.0);
        Ok(())
    };
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(100) {
        all.iter_mut().try_for_each(run)?;
    }
    for timed in &mut all {
        timed.times.clear();
    }
    let enough = Duration::from_millis(500) * graphs.len() as u32;
    // A machine that is busy with other things is timed for longer.
    for _ in 0..4 {
        let start = Instant::now();
        while all.first().is_some_and(|timed| timed.times.len() < 30) || start.elapsed() < enough {
            all.iter_mut().try_for_each(run)?;
        }
        if !all.iter().any(|timed| restless(&timed.times)) {
            break;
        }
    }
    Ok(all
        .into_iter()
        .map(|mut timed| {
            timed.times.sort_by(f64::total_cmp);
            let at = |share: f64| timed.times[((timed.times.len() - 1) as f64 * share) as usize];
            Latency {
                batch_size: timed.batch as u32,
                p50: at(0.5),
                p90: at(0.9),
            }
        })
        .collect())
}

fn constant_batch(graph: &Graph) -> Result<Batch, ExecError> {
    let feeds = feeds_for_batch(graph, 1)?;
    let inputs = graph
        .inputs
        .iter()
        .map(|input| vec![0.5; feeds[input.label()].iter().product()])
        .collect();
    Ok(Batch {
        count: batch_of(graph, 1),
        inputs,
        ..Batch::default()
    })
}
