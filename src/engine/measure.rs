//! The figures of a model.

use std::collections::BTreeMap;
use std::io::Write;

use crate::data::{Prepared, Role};
use crate::exec::Device;
use crate::graph::{Graph, cost_of_one};
use crate::spec::Problem;
use crate::spec::evaluate::MetricName;
use crate::spec::result::{Change, Measurement, PruneOutcome, StageName};
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

/// What speaks against a model fitting the data that it is given: it says no more than could be said without it.
pub(super) fn doubt(before: &Measurement) -> Option<String> {
    const ADVICE: &str =
        "check the scale of the inputs (data.preprocess), the target, and the order of the classes";
    if let Some(quality) = &before.quality {
        // Of classes in another order there is a warning that says so.
        if quality.order.is_some() {
            return None;
        }
        let accuracy = *before.metrics.get("accuracy")?;
        let rows = quality.confusion.iter().enumerate();
        let classes: Vec<(f64, f64)> = rows
            .map(|(label, row)| (row[label] as f64, row.iter().sum::<u64>() as f64))
            .filter(|(_, examples)| *examples > 0.0)
            .collect();
        let count = classes.len() as f64;
        let even = 1.0 / count;
        let balanced = classes.iter().map(|(right, all)| right / all).sum::<f64>() / count;
        let variance: f64 = classes
            .iter()
            .map(|(_, all)| even * (1.0 - even) / all)
            .sum();
        // Within two standard errors of who always says the same, or guesses.
        let is_chance = balanced < even + 2.0 * variance.sqrt() / count;
        return (classes.len() > 1 && is_chance).then(|| {
            format!(
                "the model as it came is right about {accuracy:.4} of the test split, and about {balanced:.4} as a mean over \
                 the classes, where always saying the same class is about {even:.4}: {ADVICE}"
            )
        });
    }
    let r2 = *before.metrics.get("r2")?;
    (r2 < 0.0).then(|| {
        format!(
            "the model as it came is further from the targets of the test split than their mean is (R2 {r2:.4}): {ADVICE}"
        )
    })
}

/// What speaks against a job's model being of use, where its data is the same as before: what it lost, and since when.
/// `normalised` says whether the model has batch normalisation.
pub(super) fn loss_of_quality(
    before: &Measurement,
    after: &Measurement,
    pruned: Option<&PruneOutcome>,
    normalised: bool,
) -> Option<String> {
    /// More than this is no price that one pays knowingly.
    const MOST: [(&str, f64); 2] = [("accuracy", 0.1), ("r2", 0.2)];
    let (name, was, is) = MOST.into_iter().find_map(|(name, most)| {
        let (was, is) = (*before.metrics.get(name)?, *after.metrics.get(name)?);
        (was - is > most).then_some((name, was, is))
    })?;
    let stages = pruned.map_or(&[][..], |pruned| &pruned.stages);
    let validated = |stage: StageName| {
        let found = stages.iter().rfind(|found| found.stage == stage)?;
        found.metrics.get(name).copied()
    };
    let recovered = validated(StageName::Recovered);
    let finetuned = validated(StageName::Finetuned);
    let advice = match recovered.zip(finetuned) {
        Some((before, after)) if after < before => {
            format!(
                "on the validation split it was {before:.4} before the fine-tuning and {after:.4} after it: a smaller \
                 `optimizer.learning_rate` would not do that"
            )
        }
        _ if pruned.is_some() => format!(
            "a milder target, more cuts (`schedule.steps`) or more epochs of fine-tuning lose less{}",
            match normalised {
                true => "",
                false =>
                    "; so do models that are exported with their batch normalisation, if they have one",
            }
        ),
        _ => {
            "more epochs, another `optimizer.learning_rate` or a larger model lose less".to_owned()
        }
    };
    Some(format!(
        "the {name} on the test split fell from {was:.4} to {is:.4}: {advice}"
    ))
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
