//! What a distillation did: student, teacher and control side by side, and which tensors were compared.

use std::collections::BTreeMap;

use super::text::{beside, escape, metric, section, table, words};
use crate::spec::result::{DistillOutcome, JobResult, Measurement, TeacherSource, verdict_of};

pub(super) fn all(result: &JobResult) -> String {
    let own = result
        .distill
        .iter()
        .map(|outcome| (String::new(), outcome, result.after.as_ref()));
    let steps = result.steps.iter().enumerate().filter_map(|(index, step)| {
        let outcome = step.distill.as_ref()?;
        Some((
            format!(" in step {}", index + 1),
            outcome,
            Some(&step.after),
        ))
    });
    own.chain(steps)
        .map(|(suffix, outcome, after)| one(&suffix, outcome, after))
        .collect()
}

fn one(suffix: &str, outcome: &DistillOutcome, after: Option<&Measurement>) -> String {
    let mut html = String::new();
    let source = match outcome.source {
        TeacherSource::Live => "ran on every batch",
        TeacherSource::Cached => "answered every example once, before the training",
    };
    let teachers = match outcome.teachers {
        1 => "The teacher".to_owned(),
        several => format!("{several} teachers, averaged,"),
    };
    html.push_str(&format!("<p>{teachers} {source}.</p>\n"));
    if outcome.views > 1 {
        html.push_str(&format!(
            "<p>An answer is the average over {} views of the example; the student saw the example as it is.</p>\n",
            outcome.views
        ));
    }
    if let Some(helped) = outcome.helped {
        html.push_str(&format!(
            "<p><strong>Distillation {}:</strong> the student beside the same one trained by the labels alone, for as many \
             epochs{}.</p>\n",
            verdict_of(helped, outcome.comparison.as_ref()),
            beside(outcome.comparison.as_ref())
        ));
    }
    let empty = BTreeMap::new();
    let student = after.map_or(&empty, |after| &after.metrics);
    let control = outcome.control.as_ref().map(|control| &control.metrics);
    let rows: Vec<Vec<String>> = student
        .iter()
        .map(|(name, value)| {
            let of = |metrics: Option<&BTreeMap<String, f64>>| {
                let value = metrics.and_then(|metrics| metrics.get(name));
                value.map_or_else(|| "–".to_owned(), |value| metric(*value))
            };
            let mut row = vec![
                escape(&words(name)),
                of(Some(&outcome.teacher)),
                metric(*value),
            ];
            if control.is_some() {
                row.push(of(control));
            }
            row
        })
        .collect();
    let mut header = vec!["on the test split", "teacher", "student"];
    if control.is_some() {
        header.push("without a teacher");
    }
    if !rows.is_empty() {
        html.push_str(&table(&header, &rows));
    }
    let agreement: Vec<Vec<String>> = outcome
        .agreement
        .iter()
        .map(|(name, value)| vec![escape(&words(name)), metric(*value)])
        .collect();
    if !agreement.is_empty() {
        html.push_str("<p class=\"quiet\">How near the student is to its teachers:</p>\n");
        html.push_str(&table(&["student beside teacher", ""], &agreement));
    }
    let pairs: Vec<Vec<String>> = outcome
        .losses
        .iter()
        .flat_map(|term| term.pairs.iter().map(move |pair| (term, pair)))
        .map(|(term, pair)| {
            let shown = |name: &str, shape: &[u64]| {
                let sizes: Vec<String> = shape.iter().map(u64::to_string).collect();
                format!("{} ({})", escape(name), sizes.join("×"))
            };
            vec![
                escape(&words(term.name.as_str())),
                shown(&pair.teacher, &pair.teacher_shape),
                shown(&pair.student, &pair.student_shape),
                if pair.projected { "yes" } else { "no" }.to_owned(),
            ]
        })
        .collect();
    if !pairs.is_empty() {
        html.push_str(
            "<p class=\"quiet\">Tensors that were compared, with the shape of one example:</p>\n",
        );
        html.push_str(&table(
            &["loss", "of the teacher", "of the student", "projected"],
            &pairs,
        ));
    }
    section(&format!("Distillation{suffix}"), &html)
}
