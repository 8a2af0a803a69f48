//! The sections of the report that are sentences and tables.

use super::text::{
    bytes, count, escape, metric, milliseconds, percent, section, significant, table, text_table,
    words,
};
use crate::spec::fit::InferredData;
use crate::spec::job::{JobKind, JobRequest};
use crate::spec::prune::{MAX_ACCURACY_DROP, MAX_WORSENING};
use crate::spec::result::{JobResult, Measurement, PruneOutcome};

/// The title and the outcome in a sentence.
pub(super) fn headline(title: &str, request: &JobRequest, result: &JobResult) -> String {
    format!(
        "<h1>{}</h1>\n<p class=\"lead\">{}</p>\n",
        escape(title),
        escape(&sentence(request, result))
    )
}

/// What speaks against taking the result as it is.
pub(super) fn warnings(result: &JobResult) -> String {
    let each = result.warnings.iter();
    let each =
        each.map(|warning| format!("<p class=\"warning\">{}</p>\n", escape(&warning.message)));
    each.collect()
}

fn sentence(request: &JobRequest, result: &JobResult) -> String {
    let (Some(after), Some(change)) = (&result.after, &result.change) else {
        return match result.before.leading_metric() {
            Some((name, value)) => format!(
                "The model has {} of {} on the test split, with {} parameters.",
                with_article(name),
                metric(value),
                count(result.before.parameters)
            ),
            None => format!(
                "The model has {} parameters.",
                count(result.before.parameters)
            ),
        };
    };
    let mut parts = Vec::new();
    let same_shape = change.parameters_ratio == 1.0;
    if same_shape && change.nonzero_parameters_ratio < 1.0 {
        parts.push(format!(
            "{} of the parameters are not zero",
            percent(change.nonzero_parameters_ratio)
        ));
    } else if !same_shape {
        parts.push(format!(
            "{} of the parameters remain",
            percent(change.parameters_ratio)
        ));
        // What a mask adds to a cut.
        if change.nonzero_parameters_ratio < change.parameters_ratio - 0.001 {
            parts.push(format!(
                "{} are not zero",
                percent(change.nonzero_parameters_ratio)
            ));
        }
        if let Some(macs) = change.macs_ratio {
            parts.push(format!("{} of the multiply-accumulates", percent(macs)));
        }
    } else if request.kind == JobKind::Train {
        parts.push("the model was trained".to_owned());
    }
    if let (false, Some(speedup)) = (same_shape, change.speedup) {
        parts.push(format!(
            "it runs {speedup:.2} times as fast in Sinter, one example at a time"
        ));
    }
    if let Some((name, now)) = after.leading_metric() {
        let name = words(name);
        parts.push(match result.before.leading_metric() {
            Some((_, old)) => format!("{name} went from {} to {}", metric(old), metric(now)),
            None => format!("{name} is {}", metric(now)),
        });
    }
    let mut text = parts.join(", ");
    if text.is_empty() {
        text = "the model is as it was".to_owned();
    }
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text.push('.');
    text
}

fn with_article(name: &str) -> String {
    let vowel = name.starts_with(['a', 'e', 'i', 'o', 'u']) || name == "f1";
    let article = if vowel { "an" } else { "a" };
    format!("{article} {}", words(name))
}

/// The table of figures before and after.
pub(super) fn figures(result: &JobResult) -> String {
    let before = &result.before;
    let after = result.after.as_ref();
    let mut rows = Vec::new();
    let mut add = |name: &str, of: &dyn Fn(&Measurement) -> Option<(f64, String)>| {
        let old = of(before);
        let new = after.and_then(of);
        if old.is_none() && new.is_none() {
            return;
        }
        let ratio = match (&old, &new) {
            (Some((old, _)), Some((new, _))) if *old > 0.0 => percent(new / old),
            _ => String::new(),
        };
        rows.push((name.to_owned(), old, new, ratio));
    };
    let counted = |value: u64| Some((value as f64, count(value)));
    let sized = |value: u64| Some((value as f64, bytes(value)));
    add("Parameters", &|m| counted(m.parameters));
    add("Nonzero parameters", &|m| counted(m.nonzero_parameters));
    add("MACs for one example", &|m| counted(m.macs?));
    add("ONNX file", &|m| sized(m.size_bytes));
    add("ONNX file, deflated", &|m| sized(m.compressed_bytes));
    let batch = before.latency_ms.as_ref().map_or(1, |l| l.batch_size);
    add(&format!("Latency, median, batch of {batch}"), &|m| {
        let latency = m.latency_ms.as_ref()?;
        Some((latency.p50, milliseconds(latency.p50)))
    });
    add(&format!("Latency, 90 % below, batch of {batch}"), &|m| {
        let latency = m.latency_ms.as_ref()?;
        Some((latency.p90, milliseconds(latency.p90)))
    });
    let mut html_rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, old, new, ratio)| {
            let shown = |value: Option<(f64, String)>| value.map_or_else(dash, |(_, text)| text);
            vec![escape(&name), shown(old), shown(new), ratio]
        })
        .collect();
    html_rows.extend(metric_rows(before, after));
    let header: &[&str] = if after.is_some() {
        &["", "before", "after", "after ÷ before"]
    } else {
        for row in &mut html_rows {
            row.truncate(2);
        }
        &["", "measured"]
    };
    let note = "<p class=\"quiet\">Metrics are measured on the test split, which no step of \
                this job was trained or selected on; where the data has none of its own it was drawn from all of it, \
                and the model as it came may have been trained on these examples. For metrics the last column is the difference. Latency is \
                that of Sinter's own engine.</p>\n";
    section("Figures", &format!("{}{note}", table(header, &html_rows)))
}

/// One row for each metric, with the difference in the last column.
fn metric_rows(before: &Measurement, after: Option<&Measurement>) -> Vec<Vec<String>> {
    let mut names: Vec<&String> = before.metrics.keys().collect();
    if let Some(after) = after {
        names.extend(after.metrics.keys());
    }
    names.sort();
    names.dedup();
    names
        .into_iter()
        .map(|name| {
            let old = before.metrics.get(name).copied();
            let new = after.and_then(|m| m.metrics.get(name)).copied();
            let difference = match (old, new) {
                (Some(old), Some(new)) => format!("{:+.4}", new - old),
                _ => String::new(),
            };
            let mut label = words(name);
            if let Some(first) = label.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            let shown = |value: Option<f64>| value.map_or_else(dash, metric);
            vec![escape(&label), shown(old), shown(new), difference]
        })
        .collect()
}

/// What pruning was asked for and what it reached, of the job and of a pipeline's steps.
pub(super) fn targets(result: &JobResult) -> String {
    let steps = result.steps.iter().enumerate();
    let of_steps = steps.filter_map(|(index, step)| {
        let outcome = step.prune.as_ref()?;
        Some((format!("step {}, ", index + 1), outcome))
    });
    // A pipeline says the same of its steps as of the whole.
    let of_job = result
        .prune
        .iter()
        .filter(|_| result.steps.is_empty())
        .map(|outcome| (String::new(), outcome));
    let data = result.environment.data.as_ref();
    let judges = data.map(|data| data.splits.validation);
    let rows: Vec<Vec<String>> = of_job
        .chain(of_steps)
        .flat_map(|(prefix, outcome)| target_rows(&prefix, outcome, judges))
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    section(
        "Asked and reached",
        &table(&["target", "asked", "reached", ""], &rows),
    )
}

/// `judges` is how many examples the validation split has, on which a drop of accuracy is held against its target.
fn target_rows(prefix: &str, outcome: &PruneOutcome, judges: Option<u64>) -> Vec<Vec<String>> {
    outcome
        .asked
        .iter()
        .map(|(name, asked)| {
            let at_least = name.ends_with("sparsity");
            let bound = if at_least { "at least" } else { "at most" };
            let reached = outcome.reached.get(name).copied();
            let verdict = match reached {
                // Weights and channels are whole, so a share is met to the nearest of them.
                Some(value) if at_least && value >= asked - 0.001 => MET,
                Some(value) if !at_least && value <= asked + 1e-9 => MET,
                Some(_) => MISSED,
                None => "",
            };
            let is_judged = [MAX_ACCURACY_DROP, MAX_WORSENING].contains(&name.as_str());
            let of_validation = match judges.filter(|_| is_judged) {
                Some(examples) => format!(", on the {} validation examples", count(examples)),
                None => String::new(),
            };
            let of_kernels = match name.as_str() {
                "sparsity" => ", of the weights of kernels",
                _ => "",
            };
            vec![
                escape(&format!(
                    "{prefix}{}{of_validation}{of_kernels}",
                    words(name)
                )),
                format!("{bound} {}", of_target(name, *asked)),
                reached.map_or_else(dash, |reached| of_target(name, reached)),
                verdict.to_owned(),
            ]
        })
        .collect()
}

/// The value of a target: a share, but for what is in the unit of a metric.
pub(super) fn of_target(name: &str, value: f64) -> String {
    match name {
        MAX_WORSENING => metric(value),
        _ => percent(value),
    }
}

const MET: &str = "<span class=\"met\">met</span>";
const MISSED: &str = "<span class=\"missed\">not met</span>";

/// The steps of a pipeline, one a row.
pub(super) fn steps(result: &JobResult) -> String {
    if result.steps.is_empty() {
        return String::new();
    }
    let row = |label: String, figures: &Measurement| {
        vec![
            escape(&label),
            count(figures.parameters),
            count(figures.nonzero_parameters),
            figures.macs.map_or_else(dash, count),
            bytes(figures.size_bytes),
            figures.leading_metric().map_or_else(dash, |(name, v)| {
                format!("{} {}", escape(&words(name)), metric(v))
            }),
        ]
    };
    let mut rows = vec![row("before".to_owned(), &result.before)];
    for (index, step) in result.steps.iter().enumerate() {
        rows.push(row(
            format!("{}. {}", index + 1, step.kind.as_str()),
            &step.after,
        ));
    }
    let header = [
        "step",
        "parameters",
        "nonzero",
        "MACs",
        "ONNX file",
        "test split",
    ];
    section("Pipeline steps", &table(&header, &rows))
}

/// Version, device, seed, speed of training and what was inferred about the data.
pub(super) fn environment(result: &JobResult) -> String {
    let environment = &result.environment;
    let mut rows = vec![
        row("Sinter", &environment.version),
        row("Device", &environment.device),
        row("Seed", &environment.seed.to_string()),
    ];
    if let Some(training) = &result.training {
        let text = format!(
            "{} s, {} examples a second",
            significant(training.seconds),
            count(training.examples_per_second.max(0.0).round() as u64)
        );
        rows.push(row("Training", &text));
    }
    if let Some(data) = &environment.data {
        rows.extend(data_rows(data));
    }
    section("Environment", &text_table(&["", ""], &rows))
}

fn data_rows(data: &InferredData) -> Vec<Vec<String>> {
    let splits = &data.splits;
    let mut rows = vec![
        row("Task", &words(&json_word(&data.task))),
        row(
            "Examples",
            &format!(
                "{} to train on, {} to select on, {} to test on",
                count(splits.train),
                count(splits.validation),
                count(splits.test)
            ),
        ),
        row("Batch size", &data.batch_size.to_string()),
        row("Output", &data.output),
    ];
    if data.skipped > 0 {
        let text = format!("{} examples that can’t be used", count(data.skipped));
        rows.push(row("Left out", &text));
    }
    if data.cut > 0 {
        let text = format!(
            "{} texts, which are longer than the model takes",
            count(data.cut)
        );
        rows.push(row("Cut", &text));
    }
    for input in &data.inputs {
        let text = input.in_words();
        rows.push(row(&format!("Input “{}”", input.input), &text));
    }
    rows
}

/// The request as kept, folded away.
pub(super) fn request(request: &JobRequest) -> String {
    // A request is plain data with string keys; a report without it is still a report.
    let json = serde_json::to_string_pretty(request).unwrap_or_default();
    section(
        "Request",
        &format!(
            "<details><summary>as it was accepted, with the defaults filled in</summary>\n\
             <pre>{}</pre></details>\n",
            escape(&json)
        ),
    )
}

fn row(name: &str, value: &str) -> Vec<String> {
    vec![escape(name), escape(value)]
}

fn dash() -> String {
    "–".to_owned()
}

/// The word that JSON has for a plain variant.
fn json_word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}
