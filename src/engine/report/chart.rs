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

/// What divisions of numbers as they are shown may be off by.
const ROUNDING: f64 = 1e-9;

/// Where an axis begins and ends, and how far apart its ticks are.
struct Axis {
    low: f64,
    high: f64,
    spacing: f64,
}

impl Axis {
    /// Both ends are ticks. A figure that is the same everywhere gets a twentieth of itself as room.
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min);
        let high = values.fold(f64::NEG_INFINITY, f64::max);
        // What differs by rounding alone is the same.
        let room = match high - low > low.abs() * 1e-9 {
            true => 0.0,
            false if low == 0.0 => 0.5,
            false => low.abs() * 0.05,
        };
        let (low, high) = (low - room, high + room);
        let spacing = round_spacing(low, high);
        // An end that is a tick but for a rounding error is that tick.
        Self {
            low: (low / spacing + ROUNDING).floor() * spacing,
            high: (high / spacing - ROUNDING).ceil() * spacing,
            spacing,
        }
    }

    /// Where a value lies between the ends, which are 0 and 1.
    fn share(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }

    /// Values of the ticks and their labels.
    fn ticks(&self) -> Vec<(f64, String)> {
        let count = ((self.high - self.low) / self.spacing).round() as u32;
        let at = |tick: u32| {
            let value = self.low + f64::from(tick) * self.spacing;
            // A tick meant to be zero is a rounding error away from it.
            let value = if value.abs() < self.spacing * 1e-6 {
                0.0
            } else {
                value
            };
            (value, tick_label(value, self.spacing))
        };
        (0..=count.min(20)).map(at).collect()
    }
}

/// What part of the numbers a chart shows, and where it puts them.
struct Scale {
    steps: (u64, u64),
    values: Axis,
}

impl Scale {
    fn of(series: &[(&str, Points)]) -> Self {
        let all = || series.iter().flat_map(|(_, points)| points);
        Self {
            steps: (
                all().map(|(step, _)| *step).min().unwrap_or(0),
                all().map(|(step, _)| *step).max().unwrap_or(0),
            ),
            values: Axis::of(all().map(|(_, value)| *value)),
        }
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
        HEIGHT - BOTTOM - self.values.share(value) * (HEIGHT - TOP - BOTTOM)
    }
}

/// A distance of 1, 2 or 5 times a power of ten that divides the range into about four.
fn round_spacing(low: f64, high: f64) -> f64 {
    let range = high - low;
    let power = 10f64.powf((range / 4.0).log10().floor());
    let leading = range / 4.0 / power;
    let rounded = if leading <= 1.0 + ROUNDING {
        1.0
    } else if leading <= 2.0 + ROUNDING {
        2.0
    } else if leading <= 5.0 + ROUNDING {
        5.0
    } else {
        10.0
    };
    rounded * power
}

fn chart(figure: &str, series: &[(&str, Points)]) -> String {
    let scale = Scale::of(series);
    let mut svg = format!(
        "<svg class=\"chart\" role=\"img\" viewBox=\"0 0 {WIDTH} {HEIGHT}\"><title>{}</title>\n",
        escape(&format!("{} by step", words(figure)))
    );
    for (value, label) in scale.values.ticks() {
        svg.push_str(&rule(scale.y(value), &label));
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
    let horizontal = Axis::of(points.iter().map(|point| point.0));
    let vertical = Axis::of(points.iter().map(|point| point.1));
    // Below the labels of the ticks stands what they are of.
    let bottom = BOTTOM + 18.0;
    let across = |value: f64| LEFT + horizontal.share(value) * (WIDTH - LEFT - RIGHT);
    let up = |value: f64| HEIGHT - bottom - vertical.share(value) * (HEIGHT - TOP - bottom);
    let mut svg = format!(
        "<svg class=\"chart\" role=\"img\" viewBox=\"0 0 {WIDTH} {HEIGHT}\"><title>{}</title>\n",
        escape(&format!("{} by {}", words(y), words(x)))
    );
    for (value, label) in vertical.ticks() {
        svg.push_str(&rule(up(value), &label));
    }
    for (value, label) in horizontal.ticks() {
        // The last one ends where the chart does.
        let anchor = if value < horizontal.high - horizontal.spacing / 2.0 {
            "middle"
        } else {
            "end"
        };
        svg.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{label}</text>\n",
            across(value),
            HEIGHT - bottom + 16.0
        ));
    }
    svg.push_str(&format!(
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 8.0,
        escape(&words(x))
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

/// A tick with as many places after the point as tell it from its neighbours, large ones in thousands and more.
fn tick_label(value: f64, spacing: f64) -> String {
    let units = [(1e9, " G"), (1e6, " M"), (1e3, " k")];
    let unit = units
        .into_iter()
        .find(|(size, _)| value.abs() >= *size * 10.0 || spacing >= *size);
    let (size, unit) = unit.unwrap_or((1.0, ""));
    let (value, spacing) = (value / size, spacing / size);
    if value == 0.0 || spacing < 1e-4 {
        return significant(value * size);
    }
    // The spacing is 1, 2 or 5 times a power of ten, which rounding errors must not fall below.
    let places = (-(spacing * 1.001).log10().floor()).max(0.0) as usize;
    format!("{value:.places$}{unit}")
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
    fn a_figure_that_is_the_same_everywhere_lies_near_its_ends() {
        let axis = Axis::of([1.0, 1.0].into_iter());
        assert!(
            axis.low >= 0.85 && axis.high <= 1.15,
            "{} {}",
            axis.low,
            axis.high
        );
        assert!(axis.low < 1.0 && axis.high > 1.0);
        let nearly = Axis::of([5.511464242233906, 5.511464242233907].into_iter());
        assert!(nearly.share(5.511464242233907).is_finite() && nearly.low < 5.5);
        let axis = Axis::of([0.0].into_iter());
        assert!(axis.low < 0.0 && axis.high > 0.0);
        let html = scatter("macs", "accuracy", &[(5e5, 0.9, true), (5e5, 0.9, false)]);
        assert!(!html.contains("NaN") && html.contains("500 k"), "{html}");
    }

    #[test]
    fn ticks_of_an_axis_have_the_same_places() {
        let labels = |spacing: f64| [1.0, 2.0].map(|tick| tick_label(tick * spacing, spacing));
        assert_eq!(labels(0.05), ["0.05", "0.10"]);
        assert_eq!(labels(0.0005), ["0.0005", "0.0010"]);
        assert_eq!(labels(0.1), ["0.1", "0.2"]);
        assert_eq!(labels(50.0), ["50", "100"]);
        assert_eq!(tick_label(0.0, 0.05), "0");
        assert_eq!(labels(50_000.0), ["50 k", "100 k"]);
        assert_eq!(tick_label(1.25e6, 5e4), "1250 k");
        assert_eq!(tick_label(1.25e7, 5e5), "12.5 M");
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
