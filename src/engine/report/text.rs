//! Numbers and text as the report writes them.

use crate::spec::result::Comparison;

/// Text that stands for itself in HTML, between tags and within quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// 1234567 as `1,234,567`.
pub(super) use crate::spec::result::grouped as count;

/// What is added to a sentence that says which of two models is better.
pub(super) fn beside(comparison: Option<&Comparison>) -> String {
    let Some(both) = comparison else {
        return String::new();
    };
    let chance = both.chance();
    format!(
        " ({} {} beside {}){}",
        escape(&words(both.metric.as_str())),
        metric(both.value),
        metric(both.control),
        chance.map_or_else(String::new, |chance| format!(", {chance}"))
    )
}

/// Bytes in the unit that leaves one to three digits before the point, in steps of 1000.
pub(super) fn bytes(value: u64) -> String {
    let mut scaled = value as f64;
    for unit in ["bytes", "kB", "MB", "GB"] {
        if scaled < 1000.0 {
            return match unit {
                "bytes" => format!("{value} bytes"),
                _ => format!("{} {unit}", significant(scaled)),
            };
        }
        scaled /= 1000.0;
    }
    format!("{} TB", significant(scaled))
}

/// 0.25 as `25.0 %`.
pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

pub(super) fn milliseconds(value: f64) -> String {
    format!("{value:.3} ms")
}

/// About three significant digits, without an exponent where that stays short.
pub(super) fn significant(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        return "0".to_owned();
    }
    if !value.is_finite() {
        return value.to_string();
    }
    if !(1e-4..1e6).contains(&size) {
        return format!("{value:.2e}");
    }
    // 123.4 has no place after the point, 0.0123 has four.
    let places = (2 - size.log10().floor() as i32).max(0) as usize;
    format!("{value:.places$}")
}

/// A metric's value; shares such as accuracy have four places.
pub(super) fn metric(value: f64) -> String {
    if value.is_finite() && value.abs() < 1000.0 {
        format!("{value:.4}")
    } else {
        significant(value)
    }
}

/// `top_5_accuracy` as `top 5 accuracy`.
pub(super) fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// A section with a heading; nothing for an empty body.
pub(super) fn section(heading: &str, body: &str) -> String {
    if body.is_empty() {
        return String::new();
    }
    format!(
        "<section>\n<h2>{}</h2>\n{body}</section>\n",
        escape(heading)
    )
}

/// A table; the cells are HTML already. All columns but the first hold numbers.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    build_table(header, rows, " class=\"number\"")
}

/// A table of text; the cells are HTML already.
pub(super) fn text_table(header: &[&str], rows: &[Vec<String>]) -> String {
    build_table(header, rows, "")
}

fn build_table(header: &[&str], rows: &[Vec<String>], others: &str) -> String {
    let attribute = |column: usize| if column == 0 { "" } else { others };
    let mut html = String::from("<div class=\"scroll\"><table>\n");
    if header.iter().any(|heading| !heading.is_empty()) {
        html.push_str("<thead><tr>");
        for (column, heading) in header.iter().enumerate() {
            html.push_str(&format!(
                "<th scope=\"col\"{}>{}</th>",
                attribute(column),
                escape(heading)
            ));
        }
        html.push_str("</tr></thead>\n");
    }
    html.push_str("<tbody>\n");
    for row in rows {
        html.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            html.push_str(&format!("<td{}>{cell}</td>", attribute(column)));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table></div>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_about_three_digits() {
        assert_eq!(significant(123.4), "123");
        assert_eq!(significant(0.0123), "0.0123");
        assert_eq!(significant(-0.000_01), "-1.00e-5");
        assert_eq!(significant(0.0), "0");
    }

    #[test]
    fn bytes_have_a_unit() {
        assert_eq!(bytes(999), "999 bytes");
        assert_eq!(bytes(1_724_320), "1.72 MB");
    }
}
