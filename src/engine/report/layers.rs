//! Layers before and after as bars, and the layers that could not be cut.

use super::text::{count, escape, section, text_table};
use crate::spec::result::{Blocked, JobResult, LayerChange, PruneOutcome};

/// The pruning of the job, and of each step of a pipeline, with a heading for each.
pub(super) fn outcomes(result: &JobResult) -> Vec<(String, &PruneOutcome)> {
    if result.steps.is_empty() {
        let own = result.prune.iter();
        return own.map(|outcome| (String::new(), outcome)).collect();
    }
    let steps = result.steps.iter().enumerate();
    steps
        .filter_map(|(index, step)| {
            let outcome = step.prune.as_ref()?;
            Some((format!(", step {}", index + 1), outcome))
        })
        .collect()
}

/// Bars of parameters and MACs for each layer.
fn section_of(heading: &str, layers: &[LayerChange]) -> String {
    if layers.is_empty() {
        return String::new();
    }
    let most_parameters = layers
        .iter()
        .map(|l| l.parameters_before)
        .max()
        .unwrap_or(0);
    let most_macs = layers.iter().map(|l| l.macs_before).max().unwrap_or(0);
    let mut html = String::from(
        "<p class=\"quiet\"><span class=\"key before\"></span>before\
         <span class=\"key after\"></span>after\
         <span class=\"key zero\"></span>after, but zero</p>\n\
         <div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">layer</th>\
         <th scope=\"col\">parameters</th><th scope=\"col\" class=\"number\"></th>\
         <th scope=\"col\">MACs</th><th scope=\"col\" class=\"number\"></th></tr></thead>\n<tbody>\n",
    );
    for layer in layers {
        let parameters = bar(
            "parameters",
            most_parameters,
            layer.parameters_before,
            layer.parameters_after,
            layer.nonzero_parameters_after,
        );
        let macs = bar(
            "MACs",
            most_macs,
            layer.macs_before,
            layer.macs_after,
            layer.macs_after,
        );
        let group = match &layer.group {
            Some(group) => format!(", group {group}"),
            None => String::new(),
        };
        html.push_str(&format!(
            "<tr><td class=\"name\" title=\"{detail}\">{name}</td><td>{parameters}</td>\
             <td class=\"number\">{parameter_counts}</td><td>{macs}</td>\
             <td class=\"number\">{mac_counts}</td></tr>\n",
            detail = escape(&format!("{}{group}", layer.operator)),
            name = escape(&layer.name),
            parameter_counts = arrow(layer.parameters_before, layer.parameters_after),
            mac_counts = arrow(layer.macs_before, layer.macs_after),
        ));
    }
    html.push_str("</tbody></table></div>\n");
    section(heading, &html)
}

pub(super) fn all(result: &JobResult) -> String {
    outcomes(result)
        .into_iter()
        .map(|(suffix, outcome)| section_of(&format!("Layers{suffix}"), &outcome.layers))
        .collect()
}

fn arrow(before: u64, after: u64) -> String {
    if before == after {
        return count(before);
    }
    format!("{} → {}", count(before), count(after))
}

/// Two bars on top of each other on the scale 0 to `most`; the part of the lower one beyond
/// `nonzero` is drawn as zeros.
fn bar(what: &str, most: u64, before: u64, after: u64, nonzero: u64) -> String {
    let width = |value: u64| {
        if most == 0 {
            return 0.0;
        }
        100.0 * value as f64 / most as f64
    };
    let label = format!("{what}: {} before, {} after", count(before), count(after));
    format!(
        "<svg class=\"bar\" role=\"img\" viewBox=\"0 0 100 16\" preserveAspectRatio=\"none\">\
         <title>{}</title>\
         <rect class=\"before\" x=\"0\" y=\"1\" width=\"{:.2}\" height=\"6\"/>\
         <rect class=\"zero\" x=\"0\" y=\"9\" width=\"{:.2}\" height=\"6\"/>\
         <rect class=\"after\" x=\"0\" y=\"9\" width=\"{:.2}\" height=\"6\"/></svg>",
        escape(&label),
        width(before),
        width(after),
        width(nonzero.min(after)),
    )
}

/// Layers whose channels could not be removed, with the reasons.
pub(super) fn blocked(result: &JobResult) -> String {
    let mut found: Vec<&Blocked> = Vec::new();
    for (_, outcome) in outcomes(result) {
        for blocked in &outcome.blocked {
            if !found.contains(&blocked) {
                found.push(blocked);
            }
        }
    }
    if found.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = found
        .into_iter()
        .map(|blocked| vec![escape(&blocked.layer), escape(&blocked.reason)])
        .collect();
    section("Left alone", &text_table(&["layer", "reason"], &rows))
}
