//! The figures of a model.

use std::collections::BTreeMap;
use std::io::Write;

use crate::data::{Prepared, Role};
use crate::exec::Device;
use crate::graph::{Graph, cost_of_one};
use crate::spec::Problem;
use crate::spec::evaluate::MetricName;
use crate::spec::result::{Change, Measurement};
use crate::train::{Evaluator, Loss};

/// Cost and size of a graph, and its metrics on the test split where there is data. The latency
/// is measured apart, with the models that it is compared to. A metric without a value is an error where all are
/// `required`, and else left out.
pub(super) fn measure(
    graph: &Graph,
    file: &[u8],
    device: &Device,
    data: Option<&Prepared>,
    metrics: &[MetricName],
    required: bool,
) -> Result<Measurement, Problem> {
    let cost = cost_of_one(graph);
    let mut values = BTreeMap::new();
    let mut quality = None;
    if let Some(data) = data.filter(|data| data.has_targets()) {
        let task = data.about.task;
        let names = match metrics {
            [] => MetricName::defaults(task),
            named => named.to_vec(),
        };
        let measured = Evaluator::new(graph, device, Loss::of_task(task))
            .wanting(&names)
            .measure_graph(data, Role::Test)?;
        quality = measured.quality();
        for name in names {
            let value = measured.metric(name, task);
            let undefined =
                !value.is_finite() && measured.metric(MetricName::Loss, task).is_finite();
            if undefined && !required {
                continue;
            }
            if undefined {
                let detail = format!(
                    "`{}` has no finite value on the test split: it needs examples that are of a class and others that \
                     are not, targets that differ, or a smaller loss",
                    name.as_str()
                );
                return Err(Problem::new(422, "metric_undefined", detail));
            }
            if !value.is_finite() {
                return Err(Problem::new(
                    422,
                    "not_finite",
                    format!(
                        "the model's outputs on the test split are not finite: `{}` is {value}; \
                         check the scale of the inputs (data.preprocess) and the weights",
                        name.as_str()
                    ),
                ));
            }
            values.insert(name.as_str().to_owned(), value);
        }
    }
    Ok(Measurement {
        parameters: cost.parameters,
        nonzero_parameters: cost.nonzero_parameters,
        macs: cost.macs,
        size_bytes: file.len() as u64,
        compressed_bytes: compressed(file)?,
        latency_ms: None,
        metrics: values,
        quality,
    })
}

/// Bytes after DEFLATE, which is what zero weights save.
fn compressed(file: &[u8]) -> Result<u64, Problem> {
    let mut encoder =
        flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(file)?;
    Ok(encoder.finish()?.len() as u64)
}

/// After beside before.
pub(super) fn change(before: &Measurement, after: &Measurement) -> Change {
    let ratio = |after: u64, before: u64| after as f64 / before.max(1) as f64;
    Change {
        nonzero_parameters_ratio: ratio(after.nonzero_parameters, before.nonzero_parameters),
        parameters_ratio: ratio(after.parameters, before.parameters),
        macs_ratio: before
            .macs
            .zip(after.macs)
            .map(|(before, after)| ratio(after, before)),
        size_ratio: ratio(after.size_bytes, before.size_bytes),
        speedup: before
            .latency_ms
            .as_ref()
            .zip(after.latency_ms.as_ref())
            .map(|(before, after)| before.p50 / after.p50),
        metrics: after
            .metrics
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value - before.metrics.get(name)?)))
            .collect(),
    }
}
