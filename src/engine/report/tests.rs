use serde_json::json;

use super::*;
use crate::spec::problem::parse;

fn request(name: &str) -> JobRequest {
    parse(json!({
        "kind": "prune",
        "model": "00000000-0000-0000-0000-000000000000",
        "name": name,
        "params": {"target": {"macs_ratio": 0.5}},
    }))
    .unwrap()
}

fn measurement(parameters: u64, accuracy: f64) -> serde_json::Value {
    json!({
        "parameters": parameters, "nonzero_parameters": parameters, "macs": parameters * 10,
        "size_bytes": parameters * 4, "compressed_bytes": parameters * 3,
        "latency_ms": {"batch_size": 1, "p50": 0.5, "p90": 0.75},
        "metrics": {"accuracy": accuracy, "loss": 0.25},
    })
}

fn pruned() -> JobResult {
    parse(json!({
        "model": null,
        "before": measurement(431_080, 0.991),
        "after": measurement(107_770, 0.985),
        "change": {"nonzero_parameters_ratio": 0.25, "parameters_ratio": 0.25,
            "macs_ratio": 0.25, "size_ratio": 0.25, "speedup": 1.9,
            "metrics": {"accuracy": -0.006, "loss": 0.0}},
        "prune": {
            "asked": {"macs_ratio": 0.5}, "reached": {"macs_ratio": 0.493},
            "layers": [{"name": "/conv1/<Conv>", "operator": "Conv", "group": "g0",
                "parameters_before": 400, "parameters_after": 100,
                "nonzero_parameters_after": 50, "macs_before": 4000, "macs_after": 1000}],
            "blocked": [{"layer": "/head/Gemm", "reason": "its output is \"logits\""}],
        },
        "training": {"examples_per_second": 5120.4, "seconds": 61.2},
        "environment": {"version": "0.1.0", "device": "cpu", "seed": 7, "data": null},
    }))
    .unwrap()
}

#[test]
fn user_text_is_escaped_everywhere() {
    let html = render_html(
        &request("<script>alert('&')</script>"),
        &pruned(),
        &Curves::from([("<b>/\"loss\"".to_owned(), vec![(1, 1.0)])]),
        None,
    );
    assert!(!html.contains("<script"));
    assert!(!html.contains("<b>"));
    assert!(!html.contains("<Conv>"));
    assert!(html.contains("<h1>&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;</h1>"));
    assert!(html.contains("its output is &quot;logits&quot;"));
}

#[test]
fn the_table_has_the_figures_before_and_after() {
    let html = render_html(&request("smaller"), &pruned(), &Curves::new(), None);
    assert!(html.contains(
        "<tr><td>Parameters</td><td class=\"number\">431,080</td>\
         <td class=\"number\">107,770</td><td class=\"number\">25.0 %</td></tr>"
    ));
    assert!(html.contains("<td class=\"number\">1.72 MB</td>"));
    assert!(html.contains(
        "<tr><td>Accuracy</td><td class=\"number\">0.9910</td>\
         <td class=\"number\">0.9850</td><td class=\"number\">-0.0060</td></tr>"
    ));
}

#[test]
fn the_headline_says_what_remains() {
    let html = render_html(&request("smaller"), &pruned(), &Curves::new(), None);
    assert!(html.contains(
        "25.0 % of the parameters remain, 25.0 % of the multiply-accumulates, it runs 1.90 times \
         as fast in Sinter, one example at a time, accuracy went from 0.9910 to 0.9850."
    ));
}

#[test]
fn an_evaluation_has_one_column_of_figures() {
    let mut result = pruned();
    (result.after, result.change, result.prune) = (None, None, None);
    let html = render_html(&request("look"), &result, &Curves::new(), None);
    assert!(html.contains("The model has an accuracy of 0.9910 on the test split"));
    assert!(html.contains("<tr><td>Parameters</td><td class=\"number\">431,080</td></tr>"));
    assert!(!html.contains("Asked and reached"));
}

#[test]
fn targets_and_layers_are_shown() {
    let html = render_html(&request("smaller"), &pruned(), &Curves::new(), None);
    assert!(html.contains("at most 50.0 %"));
    assert!(html.contains("49.3 %"));
    assert!(html.contains("class=\"met\""));
    assert!(html.contains("400 → 100"));
    // A quarter of the parameters is left, and half of that is not zero.
    assert!(html.contains("class=\"zero\" x=\"0\" y=\"9\" width=\"25.00\""));
    assert!(html.contains("class=\"after\" x=\"0\" y=\"9\" width=\"12.50\""));
}

#[test]
fn the_report_refers_to_nothing_outside() {
    let html = render_html(&request("smaller"), &pruned(), &Curves::new(), None);
    for reference in ["http:", "https:", "src=", "url(", "@import"] {
        assert!(!html.contains(reference), "{reference}");
    }
}

#[test]
fn curves_are_written_as_csv_by_name() {
    let curves = Curves::from([
        ("validation/loss".to_owned(), vec![(20, 0.5)]),
        ("train/loss".to_owned(), vec![(10, 1.25), (20, 0.1)]),
        ("odd,\"name\"".to_owned(), vec![(1, 2.0)]),
    ]);
    assert_eq!(
        metrics_csv(&curves),
        "name,step,value\n\"odd,\"\"name\"\"\",1,2\ntrain/loss,10,1.25\ntrain/loss,20,0.1\n\
         validation/loss,20,0.5\n"
    );
}
