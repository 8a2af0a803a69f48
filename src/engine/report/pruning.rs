//! How a pruning chose: scores as histograms, what each group bears, and trials.

use super::layers::outcomes;
use super::sections::of_target;
use super::text::{count, escape, metric, percent, section, significant, table, words};
use crate::spec::result::{JobResult, PruneOutcome, ScoreHistogram};

/// Groups that are drawn, at most; `report.json` has all.
const MOST_GROUPS: usize = 60;

pub(super) fn all(result: &JobResult) -> String {
    let of = |(suffix, outcome): (String, &PruneOutcome)| {
        [
            trials(&suffix, outcome),
            scores(&suffix, outcome),
            sensitivity(&suffix, outcome),
        ]
        .concat()
    };
    outcomes(result).into_iter().map(of).collect()
}

fn trials(suffix: &str, outcome: &PruneOutcome) -> String {
    if outcome.trials.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = outcome
        .trials
        .iter()
        .map(|trial| {
            let said = |targets: &std::collections::BTreeMap<String, f64>| {
                let each = targets.iter().map(|(name, value)| {
                    format!("{} {}", escape(&words(name)), of_target(name, *value))
                });
                each.collect::<Vec<String>>().join(", ")
            };
            vec![
                said(&trial.asked),
                match trial.reached.is_empty() {
                    true => "out of reach".to_owned(),
                    false => said(&trial.reached),
                },
                trial
                    .worsening
                    .map_or_else(|| "–".to_owned(), |worse| format!("{worse:+.4}")),
                if trial.within { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    let note = "<p class=\"quiet\">In the order in which they were made; how much worse the metric is on the validation \
                split, and whether that is allowed.</p>\n";
    let header = ["asked", "reached", "worse by", "allowed"];
    section(
        &format!("Trials{suffix}"),
        &format!("{note}{}", table(&header, &rows)),
    )
}

fn scores(suffix: &str, outcome: &PruneOutcome) -> String {
    if outcome.scores.is_empty() {
        return String::new();
    }
    let mut html = String::from(
        "<p class=\"quiet\">Scores at the first cut, from the least to the greatest of each group; \
         <span class=\"key before\"></span>stays<span class=\"key after\"></span>goes</p>\n\
         <div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">group</th>\
         <th scope=\"col\" class=\"number\">least</th><th scope=\"col\"></th>\
         <th scope=\"col\" class=\"number\">greatest</th><th scope=\"col\" class=\"number\">removed</th></tr></thead>\n\
         <tbody>\n",
    );
    for histogram in outcome.scores.iter().take(MOST_GROUPS) {
        let removed: u64 = histogram.removed.iter().sum();
        let all: u64 = histogram.counts.iter().sum();
        html.push_str(&format!(
            "<tr><td class=\"name\">{}</td><td class=\"number\">{}</td><td>{}</td>\
             <td class=\"number\">{}</td><td class=\"number\">{} of {}</td></tr>\n",
            escape(&histogram.name),
            significant(histogram.least),
            bars(histogram),
            significant(histogram.greatest),
            count(removed),
            count(all),
        ));
    }
    html.push_str("</tbody></table></div>\n");
    html.push_str(&more(outcome.scores.len()));
    section(&format!("Importance{suffix}"), &html)
}

/// One bar a bin; what was removed of it stands below.
fn bars(histogram: &ScoreHistogram) -> String {
    let most = histogram.counts.iter().copied().max().unwrap_or(0).max(1);
    let height = |value: u64| 24.0 * value as f64 / most as f64;
    let mut svg = format!(
        "<svg class=\"bar histogram\" role=\"img\" viewBox=\"0 0 {} 24\" preserveAspectRatio=\"none\">\
         <title>{}</title>",
        histogram.counts.len() * 10,
        escape(&format!("scores of {}", histogram.name)),
    );
    let bins = histogram.counts.iter().zip(&histogram.removed);
    for (index, (&all, &removed)) in bins.enumerate() {
        let mut rect = |class: &str, value: u64| {
            if value > 0 {
                let high = height(value);
                svg.push_str(&format!(
                    "<rect class=\"{class}\" x=\"{}\" y=\"{:.2}\" width=\"9\" height=\"{high:.2}\"/>",
                    index * 10,
                    24.0 - high,
                ));
            }
        };
        rect("before", all);
        rect("after", removed);
    }
    svg.push_str("</svg>");
    svg
}

fn sensitivity(suffix: &str, outcome: &PruneOutcome) -> String {
    let Some(first) = outcome
        .sensitivity
        .iter()
        .find_map(|group| group.points.first())
    else {
        return String::new();
    };
    let name = match first.metrics.contains_key("accuracy") {
        true => "accuracy",
        false => "loss",
    };
    let rows: Vec<Vec<String>> = outcome
        .sensitivity
        .iter()
        .take(MOST_GROUPS)
        .map(|group| {
            let points = group.points.iter().map(|point| {
                let value = point.metrics.get(name).copied();
                let value = value.map_or_else(|| "–".to_owned(), metric);
                format!("{value} at {}", percent(point.sparsity))
            });
            vec![
                escape(&group.name),
                escape(&group.layers.join(", ")),
                points.collect::<Vec<String>>().join(", "),
            ]
        })
        .collect();
    let note = format!(
        "<p class=\"quiet\">{} on the validation split with a part of one group gone and nothing done about \
         it.</p>\n",
        match name {
            "accuracy" => "Accuracy",
            _ => "Loss",
        }
    );
    section(
        &format!("Sensitivity{suffix}"),
        &format!(
            "{note}{}{}",
            table(&["group", "layers", name], &rows),
            more(outcome.sensitivity.len())
        ),
    )
}

fn more(groups: usize) -> String {
    match groups.saturating_sub(MOST_GROUPS) {
        0 => String::new(),
        left => format!("<p class=\"quiet\">and {left} more, see report.json</p>\n"),
    }
}
