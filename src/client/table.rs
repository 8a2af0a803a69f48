//! A table of what jobs made of a model.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::JobView;
use crate::spec::evaluate::MetricName;
use crate::spec::prune::{MAX_ACCURACY_DROP, MAX_WORSENING};
use crate::spec::result::{JobResult, Measurement, grouped, rounded, verdict_of};

/// One row for the model as uploaded and one for each job that made a model.
pub fn render(ended: &[(String, JobView)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL);
    // A terminal that is narrow gets narrow columns; without one there is no width.
    table.set_content_arrangement(ContentArrangement::Dynamic);
    let results = || {
        ended
            .iter()
            .filter_map(|(name, job)| job.result.as_ref().map(|result| (name.as_str(), result)))
    };
    // Jobs of several tasks are judged by several metrics.
    let mut metrics: Vec<&str> = Vec::new();
    for metric in results().filter_map(|(_, result)| leading(result)) {
        if !metrics.contains(&metric) {
            metrics.push(metric);
        }
    }
    let counts = [
        "model",
        "parameters",
        "nonzero",
        "MACs",
        "file, bytes",
        "deflated, bytes",
        "p50 in Sinter, ms",
    ];
    let headings = metrics.iter().map(|metric| metric.replace('_', " "));
    let headings = counts.map(str::to_owned).into_iter().chain(headings);
    table.set_header(headings.map(Cell::new));
    // Jobs on one model and data set have one row before them.
    let is_alike = |one: &JobResult, other: &JobResult| {
        let figures = |result: &JobResult| {
            let before = &result.before;
            let judged = metrics
                .iter()
                .map(|metric| before.metrics.get(*metric).copied());
            (
                before.parameters,
                before.nonzero_parameters,
                before.size_bytes,
                judged.collect::<Vec<_>>(),
            )
        };
        figures(one) == figures(other)
    };
    let mut shown: Vec<&JobResult> = Vec::new();
    for (_, first) in results() {
        if shown.iter().any(|other| is_alike(other, first)) {
            continue;
        }
        shown.push(first);
        let alike: Vec<_> = results()
            .filter(|(_, result)| is_alike(first, result))
            .collect();
        let names: Vec<&str> = alike.iter().map(|(name, _)| *name).collect();
        let heading = match (
            alike.iter().all(|(_, result)| result.after.is_none()),
            results().all(|(_, result)| is_alike(first, result)),
        ) {
            (true, _) => names.join(", "),
            (false, true) => "before".to_owned(),
            (false, false) => format!("before {}", names.join(", ")),
        };
        table.add_row(cells(&heading, &first.before, None, &metrics));
        for (name, result) in alike {
            if let Some(after) = &result.after {
                table.add_row(cells(name, after, Some(&result.before), &metrics));
            }
        }
    }
    let mut text = table.to_string();
    for (name, job) in ended {
        let Some(result) = &job.result else { continue };
        let lines = [
            winner(job, result),
            verdict(result),
            agreement(result),
            drop_allowed(result),
            rounded_counts(result),
            others(result, &metrics),
        ];
        for line in lines.into_iter().flatten() {
            text.push_str(&format!("\n{name}: {line}"));
        }
    }
    text
}

/// The metric that the job looked at first: a search its first objective.
fn leading(result: &JobResult) -> Option<&str> {
    let objective = result
        .search
        .as_ref()
        .and_then(|search| search.objectives.first()?.metric.metric())
        .map(MetricName::as_str)
        .filter(|name| result.before.metrics.contains_key(*name));
    let usual = || Some(result.before.leading_metric()?.0);
    objective.or_else(usual)
}

/// The metrics that have no column: of an evaluation all of them, else R2, which tells how good an error is.
fn others(result: &JobResult, shown: &[&str]) -> Option<String> {
    let figures = |measured: &Measurement| -> String {
        let asked = measured.metrics.iter();
        let asked = asked.filter(|(name, _)| !shown.contains(&name.as_str()));
        let judged_by = result.prune.as_ref().and_then(|prune| prune.judged_by);
        let judged_by = judged_by.map(MetricName::as_str);
        let wanted = asked.filter(|(name, _)| {
            result.after.is_none()
                || matches!(name.as_str(), "r2" | "perplexity")
                || Some(name.as_str()) == judged_by
        });
        let figures = wanted.map(|(name, value)| format!("{} {value:.4}", name.replace('_', " ")));
        figures.collect::<Vec<_>>().join(", ")
    };
    let before = figures(&result.before);
    let after = result.after.as_ref().map(figures);
    (!before.is_empty()).then(|| match after {
        Some(after) if !after.is_empty() => format!("{after} (before: {before})"),
        _ => before,
    })
}

/// How near a student is to its teachers, where nothing else can be said of it.
fn agreement(result: &JobResult) -> Option<String> {
    let distill = result.distill.as_ref()?;
    let without = result.after.as_ref()?.metrics.is_empty();
    let figures = distill.agreement.iter().filter(|_| without);
    let figures: Vec<String> = figures
        .map(|(name, value)| format!("{} {value:.4}", name.replace('_', " ")))
        .collect();
    (!figures.is_empty()).then(|| format!("near to its teachers: {}", figures.join(", ")))
}

/// Why a pruning went further than it was asked to.
fn rounded_counts(result: &JobResult) -> Option<String> {
    let prune = result.prune.as_ref()?;
    let multiple = prune.round_to.filter(|&multiple| multiple > 1)?;
    // Of several targets the strictest decides.
    let (name, asked) = prune
        .asked
        .iter()
        .next()
        .filter(|_| prune.asked.len() == 1)?;
    let reached = *prune.reached.get(name)?;
    if !name.ends_with("_ratio") || reached > 0.93 * asked {
        return None;
    }
    let far = format!("{name} is {reached:.3} where {asked} was asked for");
    Some(format!(
        "{far}, since channel counts stay multiples of {multiple}, which run faster; `round_to` 1 comes nearer"
    ))
}

/// What `max_accuracy_drop` or `max_worsening` is held against, which is not the split of the table.
fn drop_allowed(result: &JobResult) -> Option<String> {
    let prune = result.prune.as_ref()?;
    let name = [MAX_ACCURACY_DROP, MAX_WORSENING]
        .into_iter()
        .find(|name| prune.asked.contains_key(*name))?;
    let (asked, reached) = (prune.asked.get(name)?, prune.reached.get(name)?);
    let examples = result.environment.data.as_ref()?.splits.validation;
    let metric = prune.judged_by.map_or("metric", MetricName::as_str);
    let became = match reached {
        0.0.. => format!("worse by {reached:.4}"),
        _ => format!("better by {:.4}", -reached),
    };
    let limit = prune.limited_by.as_ref();
    let limit = limit.map_or_else(String::new, |limit| {
        format!(". There is no smaller one: {limit}")
    });
    Some(format!(
        "on the {examples} validation examples the {} became {became}, {asked} was allowed{limit}. The figures of the table are of the test split",
        metric.replace('_', " ")
    ))
}

/// What a search chose, and what else it leaves to choose from.
fn winner(job: &JobView, result: &JobResult) -> Option<String> {
    let search = result.search.as_ref()?;
    let best = search.best.first()?;
    let config = best.config.iter();
    let config: Vec<String> = config
        .map(
            |(name, value)| match value.as_f64().filter(|at| at.fract() != 0.0) {
                Some(at) => format!("{name} {}", rounded(at, 3)),
                None => format!("{name} {value}"),
            },
        )
        .collect();
    let mut text = format!("trial {} won: {}", best.trial, config.join(", "));
    let others = search
        .front
        .iter()
        .filter(|entry| entry.trial != best.trial);
    let others: Vec<&str> = others.map(|entry| entry.artifact.as_str()).collect();
    if !others.is_empty() {
        text.push_str(&format!(
            "; of the Pareto front there are also {} (sinter get {} all)",
            others.join(", "),
            job.id
        ));
    }
    Some(text)
}

/// Whether the method was worth it, where a control ran beside it.
fn verdict(result: &JobResult) -> Option<String> {
    let (helped, comparison, what) = match (&result.distill, &result.search) {
        (Some(of), _) => (
            of.helped?,
            of.comparison,
            "the same student without a teacher",
        ),
        (None, Some(of)) => (
            of.helped?,
            of.comparison,
            "random search with as much training",
        ),
        (None, None) => return None,
    };
    let came_to = verdict_of(helped, comparison.as_ref());
    let both = comparison.map(|both| {
        let name = both.metric.as_str().replace('_', " ");
        format!(": {name} {:.4}, and {:.4} of ", both.value, both.control)
    });
    let both = both.unwrap_or_else(|| " beside ".to_owned());
    let chance = comparison.and_then(|both| both.chance());
    let chance = chance.map_or_else(String::new, |chance| format!(", {chance}"));
    Some(format!("it {came_to}{both}the control, {what}{chance}"))
}

/// A row, the metrics last; with the figures `before`, each count carries its ratio to them.
fn cells(
    name: &str,
    figures: &Measurement,
    before: Option<&Measurement>,
    metrics: &[&str],
) -> Vec<Cell> {
    let count = |of: fn(&Measurement) -> Option<u64>| match of(figures) {
        None => "unknown".to_owned(),
        Some(value) => match before.and_then(of) {
            None => grouped(value),
            Some(old) => format!("{} ({})", grouped(value), ratio(value, old)),
        },
    };
    let latency = match (&figures.latency_ms, before.map(|b| &b.latency_ms)) {
        (None, _) => "–".to_owned(),
        (Some(now), Some(Some(old))) if now.p50 > 0.0 => {
            // Each job measures its own model beside what it made, so that both figures are of one moment.
            format!(
                "{:.3} → {:.3} ({:.2}×)",
                old.p50,
                now.p50,
                old.p50 / now.p50
            )
        }
        (Some(now), _) => format!("{:.3}", now.p50),
    };
    let quality = |metric: &&str| match (
        figures.metrics.get(*metric),
        before.and_then(|b| b.metrics.get(*metric)),
    ) {
        (None, _) => "–".to_owned(),
        (Some(now), None) => format!("{now:.4}"),
        (Some(now), Some(old)) => format!("{now:.4} ({:+.4})", now - old),
    };
    let numbers = [
        count(|m| Some(m.parameters)),
        count(|m| Some(m.nonzero_parameters)),
        count(|m| m.macs),
        count(|m| Some(m.size_bytes)),
        count(|m| Some(m.compressed_bytes)),
        latency,
    ];
    let numbers = numbers.into_iter().chain(metrics.iter().map(quality));
    let numbers = numbers.map(|text| Cell::new(text).set_alignment(CellAlignment::Right));
    std::iter::once(Cell::new(name)).chain(numbers).collect()
}

fn ratio(value: u64, old: u64) -> String {
    if old == 0 {
        return "–".to_owned();
    }
    let ratio = value as f64 / old as f64;
    match ratio < 0.1 {
        true => format!("{}×", rounded(ratio, 4)),
        false => format!("{ratio:.2}×"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn thousands_are_grouped() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1_234_567), "1,234,567");
    }

    #[test]
    fn counts_carry_their_ratio_and_accuracy_its_difference() {
        let measurement = |macs: u64, accuracy: f64, p50: f64| {
            json!({"parameters": 2000, "nonzero_parameters": 2000, "macs": macs,
                "size_bytes": 8000, "compressed_bytes": 7000,
                "latency_ms": {"batch_size": 1, "p50": p50, "p90": p50},
                "metrics": {"accuracy": accuracy}})
        };
        let job: JobView = serde_json::from_value(json!({
            "id": "00000000-0000-0000-0000-000000000000",
            "status": "succeeded",
            "result": {
                "model": null,
                "before": measurement(600_000, 0.99, 0.4),
                "after": measurement(300_000, 0.98, 0.2),
                "environment": {"version": "0", "device": "cpu", "seed": 0, "data": null},
            },
        }))
        .unwrap();
        let text = render(&[("smaller".to_owned(), job)]);
        assert!(text.contains("300,000 (0.50×)"), "{text}");
        assert!(text.contains("0.9800 (-0.0100)"), "{text}");
        assert!(text.contains("0.400 → 0.200 (2.00×)"), "{text}");
    }
}
