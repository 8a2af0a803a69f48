//! A table of what jobs made of a model.

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::JobView;
use crate::spec::result::{JobResult, MAY_BE_CHANCE, Measurement, grouped};

/// One row for the model as uploaded and one for each job that made a model.
pub fn render(ended: &[(String, JobView)]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL);
    table.set_header(
        [
            "model",
            "parameters",
            "nonzero",
            "MACs",
            "file, bytes",
            "deflated, bytes",
            "p50, ms",
            "accuracy",
        ]
        .map(Cell::new),
    );
    let results = || {
        ended
            .iter()
            .filter_map(|(name, job)| job.result.as_ref().map(|result| (name.as_str(), result)))
    };
    if let Some((_, first)) = results().next() {
        table.add_row(cells("as uploaded", &first.before, None));
    }
    for (name, result) in results() {
        if let Some(after) = &result.after {
            table.add_row(cells(name, after, Some(&result.before)));
        }
    }
    let mut text = table.to_string();
    for (name, result) in results() {
        if let Some(verdict) = verdict(result) {
            text.push_str(&format!("\n{name}: {verdict}"));
        }
    }
    text
}

/// Whether the method was worth it, where a control ran beside it.
fn verdict(result: &JobResult) -> Option<String> {
    let (helped, significant, control, what) = match (&result.distill, &result.search) {
        (Some(of), _) => (
            of.helped?,
            of.significant,
            of.control.as_ref().map(|control| &control.metrics),
            "the same student without a teacher",
        ),
        (None, Some(of)) => (
            of.helped?,
            of.significant,
            of.control.as_ref().map(|control| &control.metrics),
            "random search with as much training",
        ),
        (None, None) => return None,
    };
    let helped = if helped {
        "it helped"
    } else {
        "it did not help"
    };
    let reached = control.and_then(|metrics| metrics.get("accuracy"));
    let reached = reached.map_or_else(String::new, |value| {
        format!(", reached an accuracy of {value:.4}")
    });
    let chance = match significant {
        Some(false) => format!("; they differ {MAY_BE_CHANCE}"),
        _ => String::new(),
    };
    Some(format!("{helped}: the control, {what}{reached}{chance}"))
}

/// A row; with the figures `before`, each count carries its ratio to them.
fn cells(name: &str, figures: &Measurement, before: Option<&Measurement>) -> Vec<Cell> {
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
            format!("{:.3} ({:.2}× as fast)", now.p50, old.p50 / now.p50)
        }
        (Some(now), _) => format!("{:.3}", now.p50),
    };
    let accuracy = match (
        figures.metrics.get("accuracy"),
        before.and_then(|b| b.metrics.get("accuracy")),
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
        accuracy,
    ];
    std::iter::once(Cell::new(name))
        .chain(
            numbers
                .into_iter()
                .map(|text| Cell::new(text).set_alignment(CellAlignment::Right)),
        )
        .collect()
}

fn ratio(value: u64, old: u64) -> String {
    if old == 0 {
        return "–".to_owned();
    }
    format!("{:.2}×", value as f64 / old as f64)
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
        assert!(text.contains("0.200 (2.00× as fast)"), "{text}");
    }
}
