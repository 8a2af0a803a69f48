//! The report of a job for a person: one HTML file that needs nothing else, and the curves as CSV.
//!
//! The same input gives the same bytes: nothing here reads a clock, a random number or the
//! machine.

mod chart;
mod distill;
mod layers;
mod pruning;
mod quality;
mod search;
mod sections;
mod text;

use std::collections::BTreeMap;

use crate::spec::job::JobRequest;
use crate::spec::result::JobResult;
use crate::spec::trial::Trials;
use text::escape;

/// Curves by metric name (`train/loss`), each a list of step and value.
pub type Curves = BTreeMap<String, Vec<(u64, f64)>>;

/// The report as one HTML document without scripts or references to other files.
pub fn render_html(
    request: &JobRequest,
    result: &JobResult,
    curves: &Curves,
    trials: Option<&Trials>,
) -> String {
    let title = match &request.name {
        Some(name) if !name.is_empty() => name.clone(),
        _ => format!("Sinter {}", request.kind.as_str()),
    };
    let body: String = [
        sections::headline(&title, request, result),
        sections::warnings(result),
        sections::figures(result),
        sections::targets(result),
        sections::steps(result),
        layers::all(result),
        pruning::all(result),
        distill::all(result),
        quality::all(result),
        search::all(result, trials),
        chart::section_of(curves),
        layers::blocked(result),
        sections::environment(result),
        sections::request(request),
    ]
    .concat();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\
         </main>\n</body>\n</html>\n",
        title = escape(&title),
        style = include_str!("report/style.css"),
    )
}

/// The curves as CSV with the header `name,step,value`, by name and in the order of their points.
pub fn metrics_csv(curves: &Curves) -> String {
    let mut csv = String::from("name,step,value\n");
    for (name, points) in curves {
        for (step, value) in points {
            csv.push_str(&format!("{},{step},{value}\n", csv_field(name)));
        }
    }
    csv
}

/// A field as RFC 4180 has it: quoted where it holds a separator.
fn csv_field(value: &str) -> String {
    if value.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value.to_owned()
    }
}

#[cfg(test)]
mod tests;
