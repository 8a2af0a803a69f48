//! What MLflow is told of a job, in its own form: metrics, and keys and values of parameters and tags.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::spec::result::{JobResult, Measurement};

/// Values of parameters and tags are cut after so many characters.
const VALUE_CHARACTERS: usize = 5000;

/// A value of a metric at a step.
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub step: u64,
    pub at: i64,
}

/// Keys and values.
pub type Texts = Vec<(String, String)>;

/// Milliseconds since the Unix epoch.
pub fn milliseconds(time: Option<&String>) -> Option<i64> {
    let parsed = OffsetDateTime::parse(time?, &Rfc3339).ok()?;
    i64::try_from(parsed.unix_timestamp_nanos() / 1_000_000).ok()
}

pub fn figures_of(result: &JobResult, at: i64) -> Vec<Figure> {
    let mut figures = Vec::new();
    add_figures("before", &result.before, at, &mut figures);
    if let Some(after) = &result.after {
        add_figures("after", after, at, &mut figures);
    }
    let mut add = |name: &str, value: f64| {
        figures.push(Figure {
            name: name.to_owned(),
            value,
            step: 0,
            at,
        });
    };
    if let Some(change) = &result.change {
        add("change/parameters_ratio", change.parameters_ratio);
        add(
            "change/nonzero_parameters_ratio",
            change.nonzero_parameters_ratio,
        );
        add("change/size_ratio", change.size_ratio);
        change
            .macs_ratio
            .into_iter()
            .for_each(|ratio| add("change/macs_ratio", ratio));
        change
            .speedup
            .into_iter()
            .for_each(|speedup| add("change/speedup", speedup));
        for (name, value) in &change.metrics {
            add(&format!("change/{name}"), *value);
        }
    }
    if let Some(training) = &result.training {
        add("training/seconds", training.seconds);
        add("training/examples_per_second", training.examples_per_second);
    }
    if let Some(control) = result
        .distill
        .as_ref()
        .and_then(|distill| distill.control.as_ref())
    {
        for (name, value) in &control.metrics {
            add(&format!("control/{name}"), *value);
        }
    }
    figures
}

pub fn add_figures(prefix: &str, of: &Measurement, at: i64, figures: &mut Vec<Figure>) {
    let mut add = |name: &str, value: f64| {
        figures.push(Figure {
            name: format!("{prefix}/{name}"),
            value,
            step: 0,
            at,
        });
    };
    add("parameters", of.parameters as f64);
    add("nonzero_parameters", of.nonzero_parameters as f64);
    add("size_bytes", of.size_bytes as f64);
    add("compressed_bytes", of.compressed_bytes as f64);
    of.macs
        .into_iter()
        .for_each(|macs| add("macs", macs as f64));
    if let Some(latency) = &of.latency_ms {
        add("latency_ms_p50", latency.p50);
        add("latency_ms_p90", latency.p90);
    }
    for (name, value) in &of.metrics {
        add(name, *value);
    }
}

/// Every scalar with the path to it: `finetune.optimizer.name`.
pub fn flatten(prefix: &str, value: &Value, texts: &mut Texts) {
    let joined = |name: &str| match prefix {
        "" => name.to_owned(),
        _ => format!("{prefix}.{name}"),
    };
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                flatten(&joined(name), value, texts);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.is_object() || item.is_array()) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&joined(&index.to_string()), item, texts);
            }
        }
        Value::Null => {}
        Value::String(text) => texts.push((prefix.to_owned(), text.clone())),
        other => texts.push((prefix.to_owned(), other.to_string())),
    }
}

/// A key as MLflow allows it: letters, digits and `_-. :/`, at most 250 characters, and a path that can't be written shorter.
pub fn key_of(name: &str) -> String {
    let fits = |character: char| character.is_alphanumeric() || "_-. :/".contains(character);
    let fitting: String = name
        .chars()
        .take(250)
        .map(|character| if fits(character) { character } else { '_' })
        .collect();
    let parts = fitting
        .split('/')
        .filter(|part| !["", ".", ".."].contains(part));
    match parts.collect::<Vec<_>>().join("/") {
        key if key.is_empty() => "_".to_owned(),
        key => key,
    }
}

pub fn cut(text: &str) -> String {
    text.chars().take(VALUE_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parameters_are_flat_and_keys_as_mlflow_has_them() {
        let mut flat = Vec::new();
        flatten(
            "",
            &json!({
            "target": {"macs_ratio": 0.5}, "losses": [{"name": "soft_targets"}, {"name": "cross_entropy"}],
            "exclude": ["/a", "/b"], "schedule": null}),
            &mut flat,
        );
        flat.sort();
        let found: Vec<(&str, &str)> = flat
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        assert_eq!(
            found,
            [
                ("exclude", r#"["/a","/b"]"#),
                ("losses.0.name", "soft_targets"),
                ("losses.1.name", "cross_entropy"),
                ("target.macs_ratio", "0.5")
            ]
        );
        for (name, key) in [
            ("a(b)*c/d é", "a_b__c/d é"),
            ("/team//x/./../", "team/x"),
            (".", "_"),
            ("a.b", "a.b"),
        ] {
            assert_eq!(key_of(name), key);
        }
    }

    #[test]
    fn times_become_milliseconds() {
        let time = "1970-01-01T00:00:01.250Z".to_owned();
        assert_eq!(milliseconds(Some(&time)), Some(1250));
        assert_eq!(milliseconds(None), None);
    }
}
