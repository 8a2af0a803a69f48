//! What a classifier takes for what, and whether it is as sure as it is right.

use super::text::{count, escape, percent, section};
use crate::spec::result::{CalibrationBin, JobResult, Quality};

/// The pictures are as wide as high.
const SIDE: f64 = 320.0;
/// Room for labels on the left and below.
const EDGE: f64 = 68.0;
/// Room for what stands out above and on the right.
const MARGIN: f64 = 8.0;
/// Numbers are written into the squares of at most so many classes.
const MOST_NUMBERED: usize = 12;
/// Longer names of classes are cut.
const LONGEST_NAME: usize = 9;

pub(super) fn all(result: &JobResult) -> String {
    let before = result.before.quality.as_ref();
    let after = result
        .after
        .as_ref()
        .and_then(|after| after.quality.as_ref());
    let Some(shown) = after.or(before) else {
        return String::new();
    };
    let data = result.environment.data.as_ref();
    let names = data.and_then(|data| data.class_names.as_deref());
    let mut curves = Vec::new();
    if let (Some(before), Some(_)) = (before, after) {
        curves.push(("before", "series-1", before.calibration.as_slice()));
    }
    let own = if after.is_some() { "after" } else { "" };
    curves.push((own, "series-0", shown.calibration.as_slice()));
    let pictures = confusion(shown, names) + &calibration(&curves);
    let other = match before.is_some_and(|before| before.order.is_some()) {
        true => {
            "<p><strong>The answers of the model as it came fit the labels in another order of the classes.</strong> Words are \
             numbered in the order of the alphabet; labels that are whole numbers are taken as they are.</p>\n"
        }
        false => "",
    };
    section(
        "Right and wrong answers",
        &format!("{other}<div class=\"charts\">\n{pictures}</div>\n"),
    )
}

/// The name of a class, cut to fit beside the picture.
fn name_of(class: usize, names: Option<&[String]>) -> String {
    let Some(name) = names.and_then(|names| names.get(class)) else {
        return class.to_string();
    };
    match name.chars().count() > LONGEST_NAME {
        true => name.chars().take(LONGEST_NAME - 1).chain(['…']).collect(),
        false => name.clone(),
    }
}

/// A square for each label and answer, the darker the larger its share of the label's examples.
fn confusion(quality: &Quality, names: Option<&[String]>) -> String {
    let classes = quality.confusion.len();
    let side = (SIDE - EDGE) / classes.max(1) as f64;
    let mut svg = String::new();
    for (label, row) in quality.confusion.iter().enumerate() {
        let examples: u64 = row.iter().sum();
        let y = label as f64 * side;
        let full = |class: usize| {
            let name = names.and_then(|names| names.get(class)).cloned();
            escape(&name.unwrap_or_else(|| class.to_string()))
        };
        for (answer, &number) in row.iter().enumerate().filter(|(_, number)| **number > 0) {
            let x = EDGE + answer as f64 * side;
            let share = number as f64 / examples as f64;
            let colour = if answer == label { "right" } else { "wrong" };
            svg.push_str(&format!(
                "<rect class=\"{colour}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{side:.1}\" height=\"{side:.1}\" \
                 fill-opacity=\"{:.3}\"><title>{} taken for {}: {} of {}</title></rect>\n",
                0.08 + 0.92 * share.sqrt(),
                full(label),
                full(answer),
                count(number),
                count(examples)
            ));
            if classes <= MOST_NUMBERED {
                let (x, y) = (x + side / 2.0, y + side / 2.0 + 4.0);
                svg.push_str(&format!(
                    "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{number}</text>\n"
                ));
            }
        }
        if classes <= 2 * MOST_NUMBERED {
            let middle = (label as f64 + 0.5) * side;
            let name = escape(&name_of(label, names));
            svg.push_str(&format!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>\
                 <text transform=\"translate({:.1} {:.1}) rotate(-90)\" text-anchor=\"end\">{name}</text>\n",
                EDGE - 4.0,
                middle + 4.0,
                EDGE + middle + 4.0,
                SIDE - EDGE + 4.0
            ));
        }
    }
    let caption = "labels by row, answers by column";
    figure("Confusion matrix", caption, &svg)
}

/// Accuracy over confidence; on the diagonal a model is as often right as it says.
fn calibration(curves: &[(&str, &str, &[CalibrationBin])]) -> String {
    let place = |share: f64| share * (SIDE - EDGE);
    let (x, y) = (
        |share: f64| EDGE + place(share),
        |share: f64| place(1.0 - share),
    );
    let mut svg = String::new();
    for tick in 0..=4 {
        let share = f64::from(tick) / 4.0;
        svg.push_str(&format!(
            "<line class=\"axis\" x1=\"{EDGE}\" x2=\"{SIDE}\" y1=\"{0:.1}\" y2=\"{0:.1}\"/>\
             <text x=\"{1:.1}\" y=\"{2:.1}\" text-anchor=\"end\">{share}</text>\
             <text x=\"{3:.1}\" y=\"{4:.1}\" text-anchor=\"middle\">{share}</text>\n",
            y(share),
            EDGE - 6.0,
            y(share) + 4.0,
            x(share).min(SIDE - 10.0),
            SIDE - EDGE + 16.0
        ));
    }
    svg.push_str(&format!(
        "<line class=\"axis\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke-dasharray=\"4 4\"/>\n",
        x(0.0),
        y(0.0),
        x(1.0),
        y(1.0)
    ));
    let mut caption = "share of right answers over confidence".to_owned();
    for (name, colour, bins) in curves {
        let filled = || bins.iter().filter(|bin| bin.examples > 0);
        let points: Vec<String> = filled()
            .map(|bin| format!("{:.1},{:.1}", x(bin.confidence), y(bin.accuracy)))
            .collect();
        svg.push_str(&format!(
            "<polyline class=\"{colour}\" points=\"{}\"/>\n",
            points.join(" ")
        ));
        for bin in filled() {
            svg.push_str(&format!(
                "<circle class=\"{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"><title>{} examples, {} sure, {} right</title></circle>\n",
                x(bin.confidence),
                y(bin.accuracy),
                count(bin.examples),
                percent(bin.confidence),
                percent(bin.accuracy)
            ));
        }
        if !name.is_empty() {
            caption.push_str(&format!(
                " <span class=\"whole\"><span class=\"key {colour}\"></span>{name}</span>"
            ));
        }
    }
    figure("Calibration", &caption, &svg)
}

fn figure(title: &str, caption: &str, svg: &str) -> String {
    let whole = SIDE + MARGIN;
    format!(
        "<figure>\n<figcaption><strong>{title}</strong> <span class=\"quiet\">{caption}</span></figcaption>\n\
         <svg class=\"chart\" role=\"img\" viewBox=\"0 -{MARGIN} {whole} {whole}\"><title>{title}</title>\n{svg}</svg>\n</figure>\n"
    )
}
