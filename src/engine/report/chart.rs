//! Training curves as SVG line charts.

use std::collections::BTreeMap;

use super::Curves;
use super::text::{count, escape, section, significant, words};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 240.0;
/// Room for the labels of the axes: left, right, top, bottom.
const LEFT: f64 = 58.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 26.0;

/// More points than this are averaged, as a screen can't show them.
const MOST_POINTS: usize = 300;

/// The style sheet has so many colours.
const COLOURS: usize = 4;

type Points = Vec<(u64, f64)>;

/// One chart for each figure: `train/loss` and `validation/loss` share one.
pub(super) fn section_of(curves: &Curves) -> String {
    let mut charts: BTreeMap<&str, Vec<(&str, Points)>> = BTreeMap::new();
    for (name, points) in curves {
        let finite: Points = points
            .iter()
            .copied()
            .filter(|(_, value)| value.is_finite())
            .collect();
        if finite.is_empty() {
            continue;
        }
        let (series, figure) = name.rsplit_once('/').unwrap_or(("", name));
        charts
            .entry(figure)
            .or_default()
            .push((series, thinned(finite)));
    }
    if charts.is_empty() {
        return String::new();
    }
    let figures: String = charts
        .iter()
        .map(|(figure, series)| chart(figure, series))
        .collect();
    section(
        "Training curves",
        &format!("<div class=\"charts\">\n{figures}</div>\n"),
    )
}

/// At most [`MOST_POINTS`] points: neighbours are replaced by their mean, at their last step.
fn thinned(points: Points) -> Points {
    let bucket = points.len().div_ceil(MOST_POINTS);
    if bucket <= 1 {
        return points;
    }
    points
        .chunks(bucket)
        .map(|chunk| {
            let sum: f64 = chunk.iter().map(|(_, value)| value).sum();
            (chunk[chunk.len() - 1].0, sum / chunk.len() as f64)
        })
        .collect()
}

/// What part of the numbers a chart shows, and where it puts them.
struct Scale {
    steps: (u64, u64),
    values: (f64, f64),
}

impl Scale {
    fn of(series: &[(&str, Points)], spacing: &mut f64) -> Self {
        let all = || series.iter().flat_map(|(_, points)| points);
        let steps = (
            all().map(|(step, _)| *step).min().unwrap_or(0),
            all().map(|(step, _)| *step).max().unwrap_or(0),
        );
        let low = all().map(|(_, v)| *v).fold(f64::INFINITY, f64::min);
        let high = all().map(|(_, v)| *v).fold(f64::NEG_INFINITY, f64::max);
        *spacing = round_spacing(low, high);
        let values = (
            (low / *spacing).floor() * *spacing,
            (high / *spacing).ceil() * *spacing,
        );
        // A flat curve on a tick would leave nothing between the bounds.
        let values = if values.1 > values.0 {
            values
        } else {
            (values.0 - *spacing, values.1 + *spacing)
        };
        Self { steps, values }
    }

    fn x(&self, step: u64) -> f64 {
        let (first, last) = self.steps;
        let share = if last > first {
            (step - first) as f64 / (last - first) as f64
        } else {
            0.5
        };
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let (low, high) = self.values;
        let share = (value - low) / (high - low);
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }
}

/// A distance of 1, 2 or 5 times a power of ten that divides the range into about four.
fn round_spacing(low: f64, high: f64) -> f64 {
    let range = if high > low {
        high - low
    } else if low != 0.0 {
        low.abs()
    } else {
        1.0
    };
    let power = 10f64.powf((range / 4.0).log10().floor());
    let leading = range / 4.0 / power;
    let rounded = if leading <= 1.0 {
        1.0
    } else if leading <= 2.0 {
        2.0
    } else if leading <= 5.0 {
        5.0
    } else {
        10.0
    };
    rounded * power
}

fn chart(figure: &str, series: &[(&str, Points)]) -> String {
    let mut spacing = 0.0;
    let scale = Scale::of(series, &mut spacing);
    let mut svg = format!(
        "<svg class=\"chart\" role=\"img\" viewBox=\"0 0 {WIDTH} {HEIGHT}\"><title>{}</title>\n",
        escape(&format!("{} by step", words(figure)))
    );
    let ticks = ((scale.values.1 - scale.values.0) / spacing).round() as u32;
    for tick in 0..=ticks.min(20) {
        let value = scale.values.0 + f64::from(tick) * spacing;
        // A tick meant to be zero is a rounding error away from it.
        let value = if value.abs() < spacing * 1e-6 {
            0.0
        } else {
            value
        };
        let y = scale.y(value);
        svg.push_str(&rule(y, &tick_label(value, spacing)));
    }
    let (first, last) = scale.steps;
    let below = HEIGHT - 8.0;
    svg.push_str(&format!(
        "<text x=\"{LEFT}\" y=\"{below}\">step {}</text>\
         <text x=\"{:.1}\" y=\"{below}\" text-anchor=\"end\">{}</text>\n",
        count(first),
        WIDTH - RIGHT,
        count(last)
    ));
    let mut legend = String::new();
    for (index, (name, points)) in series.iter().enumerate() {
        let colour = index % COLOURS;
        svg.push_str(&line(&scale, points, colour));
        if !name.is_empty() {
            legend.push_str(&format!(
                "<span class=\"key series-{colour}\"></span>{}",
                escape(name)
            ));
        }
    }
    svg.push_str("</svg>\n");
    format!(
        "<figure>\n<figcaption><strong>{}</strong> <span class=\"quiet\">{legend}</span>\
         </figcaption>\n{svg}</figure>\n",
        escape(&words(figure))
    )
}

/// A line across a chart, with its label on the left.
fn rule(y: f64, label: &str) -> String {
    format!(
        "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n",
        WIDTH - RIGHT,
        LEFT - 6.0,
        y + 4.0
    )
}

/// One figure against another: a dot for each pair, those that are marked joined by a line.
pub(super) fn scatter(x: &str, y: &str, points: &[(f64, f64, bool)]) -> String {
    let spread = |of: &dyn Fn(&(f64, f64, bool)) -> f64| {
        let low = points.iter().map(of).fold(f64::INFINITY, f64::min);
        let high = points.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
        let room = match high > low {
            true => (high - low) * 0.05,
            false => low.abs().max(1.0) * 0.05,
        };
        (low - room, high + room)
    };
    let ((left, right), (low, high)) = (spread(&|p| p.0), spread(&|p| p.1));
    let across = |value: f64| LEFT + (value - left) / (right - left) * (WIDTH - LEFT - RIGHT);
    let up = |value: f64| HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM);
    let mut svg = format!(
        "<svg class=\"chart\" role=\"img\" viewBox=\"0 0 {WIDTH} {HEIGHT}\"><title>{}</title>\n",
        escape(&format!("{} by {}", words(y), words(x)))
    );
    for (value, anchor) in [(low, HEIGHT - BOTTOM), (high, TOP)] {
        svg.push_str(&rule(anchor, &significant(value)));
    }
    let below = HEIGHT - 8.0;
    svg.push_str(&format!(
        "<text x=\"{LEFT}\" y=\"{below}\">{}</text><text x=\"{:.1}\" y=\"{below}\" \
         text-anchor=\"middle\">{}</text><text x=\"{:.1}\" y=\"{below}\" text-anchor=\"end\">{}</text>\n",
        significant(left),
        (LEFT + WIDTH - RIGHT) / 2.0,
        escape(&words(x)),
        WIDTH - RIGHT,
        significant(right)
    ));
    let mut marked: Vec<(f64, f64)> = Vec::new();
    for &(a, b, is_marked) in points {
        let colour = usize::from(!is_marked);
        let (a, b) = (across(a), up(b));
        if is_marked {
            marked.push((a, b));
        }
        svg.push_str(&format!(
            "<circle class=\"series-{colour}\" cx=\"{a:.1}\" cy=\"{b:.1}\" r=\"3\"/>\n"
        ));
    }
    marked.sort_by(|one, other| one.0.total_cmp(&other.0));
    let places: Vec<String> = marked
        .iter()
        .map(|(a, b)| format!("{a:.1},{b:.1}"))
        .collect();
    if places.len() > 1 {
        svg.push_str(&format!(
            "<polyline class=\"series-0\" points=\"{}\"/>\n",
            places.join(" ")
        ));
    }
    svg.push_str("</svg>\n");
    format!(
        "<figure>\n<figcaption><strong>{}</strong></figcaption>\n{svg}</figure>\n",
        escape(&words(y))
    )
}

/// A tick with as many places after the point as tell it from its neighbours.
fn tick_label(value: f64, spacing: f64) -> String {
    if value == 0.0 || spacing < 1e-4 || value.abs() >= 1e6 {
        return significant(value);
    }
    // The spacing is 1, 2 or 5 times a power of ten, which rounding errors must not fall below.
    let places = (-(spacing * 1.001).log10().floor()).max(0.0) as usize;
    format!("{value:.places$}")
}

/// A line through the points, or a dot for one alone.
fn line(scale: &Scale, points: &[(u64, f64)], colour: usize) -> String {
    if let [(step, value)] = points {
        return format!(
            "<circle class=\"series-{colour}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\"/>\n",
            scale.x(*step),
            scale.y(*value)
        );
    }
    let places: Vec<String> = points
        .iter()
        .map(|(step, value)| format!("{:.1},{:.1}", scale.x(*step), scale.y(*value)))
        .collect();
    format!(
        "<polyline class=\"series-{colour}\" points=\"{}\"/>\n",
        places.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_one_two_or_five_times_a_power_of_ten() {
        assert_eq!(round_spacing(0.0, 4.0), 1.0);
        assert_eq!(round_spacing(0.0, 7.0), 2.0);
        assert_eq!(round_spacing(0.0, 100.0), 50.0);
    }

    #[test]
    fn ticks_of_an_axis_have_the_same_places() {
        let labels = |spacing: f64| [1.0, 2.0].map(|tick| tick_label(tick * spacing, spacing));
        assert_eq!(labels(0.05), ["0.05", "0.10"]);
        assert_eq!(labels(0.0005), ["0.0005", "0.0010"]);
        assert_eq!(labels(0.1), ["0.1", "0.2"]);
        assert_eq!(labels(50.0), ["50", "100"]);
        assert_eq!(tick_label(0.0, 0.05), "0");
    }

    #[test]
    fn long_curves_are_averaged_and_keep_their_last_step() {
        let long: Points = (0..1000).map(|step| (step, (step % 2) as f64)).collect();
        let short = thinned(long);
        assert_eq!(short.len(), 250);
        assert_eq!(short[0], (3, 0.5));
        assert_eq!(short[249].0, 999);
    }

    #[test]
    fn curves_of_one_figure_share_a_chart() {
        let curves = Curves::from([
            ("train/loss".to_owned(), vec![(1, 1.0), (2, 0.5)]),
            ("validation/loss".to_owned(), vec![(2, 0.75)]),
            (
                "train/learning_rate".to_owned(),
                vec![(1, 0.0), (2, f64::NAN)],
            ),
        ]);
        let html = section_of(&curves);
        assert_eq!(html.matches("<figure>").count(), 2);
        // 0.5 to 1 with ticks of 0.2 shows 0.4 to 1: the first point lies on the upper edge.
        assert!(html.contains("points=\"58.0,12.0 468.0,"), "{html}");
        assert!(!html.contains("NaN"));
    }

    #[test]
    fn a_flat_curve_is_drawn_in_the_middle() {
        let curves = Curves::from([("train/loss".to_owned(), vec![(1, 2.0), (2, 2.0)])]);
        let html = section_of(&curves);
        assert!(html.contains("points=\"58.0,113.0 468.0,113.0\""), "{html}");
    }
}
