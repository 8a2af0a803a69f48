//! What a search tried: the best trials, what mattered, and what several objectives leave to choose from.

use serde_json::Value;

use super::chart::scatter;
use super::text::{
    beside, count, escape, metric, percent, section, significant, table, text_table, words,
};
use crate::spec::result::{JobResult, verdict_of};
use crate::spec::trial::{SearchOutcome, Trial, Trials};

pub(super) fn all(result: &JobResult, trials: Option<&Trials>) -> String {
    let Some(outcome) = &result.search else {
        return String::new();
    };
    let mut html = sentences(outcome);
    html.push_str(&best(outcome));
    if let (Some(trials), [first, second, ..]) = (trials, outcome.objectives.as_slice()) {
        let front = |trial: &Trial| outcome.front.iter().any(|entry| entry.trial == trial.trial);
        let points: Vec<(f64, f64, bool)> = trials
            .trials
            .iter()
            .filter(|trial| trial.counts())
            .filter_map(|trial| {
                let of = |name: &str| trial.values.get(name).copied();
                let (x, y) = (of(second.metric.as_str())?, of(first.metric.as_str())?);
                Some((x, y, front(trial)))
            })
            .collect();
        let plot = scatter(second.metric.as_str(), first.metric.as_str(), &points);
        html.push_str(&format!(
            "<p class=\"quiet\">All trials; no other one beats those on the line in every objective:</p>\n\
             <div class=\"charts\">\n{plot}</div>\n"
        ));
    }
    html.push_str(&importance(outcome));
    section("Search", &html)
}

fn sentences(outcome: &SearchOutcome) -> String {
    let space = match outcome.space_size {
        Some(size) if size < 1e6 => format!("{} candidates", count(size as u64)),
        Some(size) => format!("{} candidates", significant(size)),
        None => "infinitely many candidates".to_owned(),
    };
    let mut html = format!(
        "<p>Of {space} the strategy <em>{}</em> judged {}, in {} epochs of training; {} of them failed or \
         were beyond the constraints.</p>\n",
        escape(&words(&outcome.strategy)),
        count(u64::from(outcome.trials)),
        count(outcome.epochs),
        count(u64::from(outcome.failed))
    );
    if !outcome.not_applicable.is_empty() {
        html.push_str(&format!(
            "<p>These of the space leave no choice in this model: {}.</p>\n",
            outcome.not_applicable.join(", ")
        ));
    }
    if outcome.warm > 0 {
        html.push_str(&format!(
            "<p>It knew {} trials of an earlier search.</p>\n",
            count(u64::from(outcome.warm))
        ));
    }
    if let Some(control) = &outcome.control {
        let own = outcome.best.first().and_then(|best| {
            let name = outcome.objectives.first()?.metric.as_str();
            best.values.get(name).copied()
        });
        let shown = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), shown);
        html.push_str(&format!(
            "<p>Random search with {} epochs came to {}, this search to {}.</p>\n",
            count(control.epochs),
            shown(control.best),
            shown(own)
        ));
    }
    if let Some(helped) = outcome.helped {
        html.push_str(&format!(
            "<p><strong>The search {}:</strong> on the test split its winner beside that of random search{}.</p>\n",
            verdict_of(helped, outcome.comparison.as_ref()),
            beside(outcome.comparison.as_ref())
        ));
    }
    if let Some(screening) = &outcome.screening {
        let shown = |value: Option<f64>| {
            value.map_or_else(|| "–".to_owned(), |value| format!("{value:.2}"))
        };
        html.push_str(&format!(
            "<p>Candidates at random were the best of {} by <em>{}</em>, whose rank correlation with the first \
             objective was {}; that of the number of parameters was {}.</p>\n",
            count(u64::from(screening.candidates)),
            escape(&words(screening.proxy.as_str())),
            shown(screening.correlation),
            shown(screening.parameters_correlation)
        ));
    }
    if let Some(volume) = outcome.hypervolume {
        html.push_str(&format!(
            "<p>The front dominates {} of the box between the best and the worst figures of all \
             trials.</p>\n",
            percent(volume)
        ));
    }
    html
}

fn best(outcome: &SearchOutcome) -> String {
    let names: Vec<&str> = outcome
        .objectives
        .iter()
        .map(|o| o.metric.as_str())
        .collect();
    let rows: Vec<Vec<String>> = outcome
        .best
        .iter()
        .map(|trial| {
            let mut row = vec![trial.trial.to_string()];
            row.extend(names.iter().map(|name| {
                let value = trial.values.get(*name).copied();
                let error = trial.standard_errors.get(*name);
                let error =
                    error.map_or_else(String::new, |error| format!(" ± {}", metric(*error)));
                value.map_or_else(
                    || "–".to_owned(),
                    |value| format!("{}{error}", shown(value)),
                )
            }));
            let config = trial.config.iter();
            let config = config.map(|(name, value)| format!("{name} {}", plain(value)));
            row.push(escape(&config.collect::<Vec<_>>().join(", ")));
            row
        })
        .collect();
    let headings: Vec<String> = names.iter().map(|name| words(name)).collect();
    let mut header = vec!["trial"];
    header.extend(headings.iter().map(String::as_str));
    header.push("candidate");
    text_table(&header, &rows)
}

/// Whole numbers whole, others as metrics.
fn shown(value: f64) -> String {
    // Costs are whole and beyond any share.
    match value.fract() == 0.0 && value > 1.0 {
        true => count(value as u64),
        false => metric(value),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => significant(number.as_f64().unwrap_or(0.0)),
        other => other.to_string(),
    }
}

/// Dimensions by how much of the first objective's variance they explain.
fn importance(outcome: &SearchOutcome) -> String {
    let mut dimensions: Vec<_> = outcome
        .space
        .iter()
        .filter_map(|dimension| Some((dimension.importance?, dimension.name.as_str())))
        .filter(|(share, _)| *share > 0.0)
        .collect();
    dimensions.sort_by(|a, b| b.0.total_cmp(&a.0));
    dimensions.truncate(20);
    if dimensions.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = dimensions
        .iter()
        .map(|(share, name)| vec![escape(name), percent(*share)])
        .collect();
    format!(
        "<p class=\"quiet\">How much of the first objective's variance each dimension explains alone \
         (functional ANOVA):</p>\n{}",
        table(&["dimension", "share"], &rows)
    )
}
