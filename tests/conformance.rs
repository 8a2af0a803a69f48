//! The ONNX project's own node tests through the executor. `tests/run` writes them
//! (tests/operators/node_cases.py) and names their folder in `SINTER_NODE_CASES`.
//!
//! docs/operators.md is the result: this test fails when it is not what the run gives. With
//! `SINTER_UPDATE=1` it is written anew.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use prost::Message as _;
use serde::Deserialize;
use sinter::exec::{Device, Mode, Operand, Program, upload};
use sinter::graph::{Family, Graph, family};
use sinter::host::{Array, Data};
use sinter::onnx::proto::{NodeProto, TensorProto};
use sinter::onnx::read_model;

#[derive(Deserialize)]
struct Case {
    name: String,
    rtol: f64,
    atol: f64,
    /// Only types and shapes can be compared.
    random: bool,
    operators: Vec<String>,
    opset: i64,
    /// Whether everything that goes in and out is a tensor.
    tensors: bool,
    /// Whether ONNX Runtime passes.
    runtime: bool,
}

/// Classes of operators that are no part of Sinter's work.
const ELSEWHERE: [(&str, &[&str]); 5] = [
    (
        "sequence",
        &[
            "SequenceMap",
            "SequenceAt",
            "SequenceEmpty",
            "SequenceConstruct",
            "SequenceErase",
            "SequenceInsert",
            "SequenceLength",
            "SplitToSequence",
            "ConcatFromSequence",
        ],
    ),
    (
        "optional",
        &["Optional", "OptionalGetElement", "OptionalHasElement"],
    ),
    (
        "string",
        &[
            "StringConcat",
            "StringSplit",
            "StringNormalizer",
            "RegexFullMatch",
            "ai.onnx.ml:LabelEncoder",
        ],
    ),
    (
        "training",
        &[
            "ai.onnx.preview.training:Adam",
            "ai.onnx.preview.training:Adagrad",
            "ai.onnx.preview.training:Momentum",
            "ai.onnx.preview.training:Gradient",
        ],
    ),
    ("image decoding", &["ImageDecoder"]),
];

fn class_elsewhere(case: &Case) -> Option<&'static str> {
    let of_class = |names: &[&str]| {
        case.operators
            .iter()
            .any(|own| names.contains(&own.as_str()))
    };
    ELSEWHERE
        .iter()
        .find(|(_, names)| of_class(names))
        .map(|(class, _)| *class)
        .or((!case.tensors).then_some("sequence"))
}

fn cases() -> Vec<(PathBuf, Case)> {
    let folder = std::env::var("SINTER_NODE_CASES")
        .expect("SINTER_NODE_CASES names the folder that tests/operators/node_cases.py wrote");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of cases is there")
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    folders.sort();
    assert!(folders.len() > 1800, "only {} cases", folders.len());
    folders
        .into_iter()
        .map(|folder| {
            let text = std::fs::read_to_string(folder.join("case.json")).expect("a case");
            (folder, serde_json::from_str(&text).expect("a case in JSON"))
        })
        .collect()
}

fn array(path: &Path) -> Option<Array> {
    let bytes = std::fs::read(path).ok()?;
    let proto = TensorProto::decode(&*bytes).expect("a tensor");
    Some(Array::decode(&proto).expect("a tensor that can be decoded"))
}

fn compare(found: &Array, wanted: &Array, case: &Case) -> Result<(), String> {
    if (found.data_type, &found.dims) != (wanted.data_type, &wanted.dims) {
        return Err(format!(
            "type {} of shape {:?}, not {} of {:?}",
            found.data_type, found.dims, wanted.data_type, wanted.dims
        ));
    }
    if case.random {
        return Ok(());
    }
    let (Data::Float(a), Data::Float(b)) = (&found.data, &wanted.data) else {
        return match found.data == wanted.data {
            true => Ok(()),
            false => Err("other elements".to_owned()),
        };
    };
    for (index, (x, y)) in a.iter().zip(b).enumerate() {
        let same = x == y || (x.is_nan() && y.is_nan());
        if !same && ((x - y).abs() > case.atol + case.rtol * y.abs() || x.is_nan() || y.is_nan()) {
            return Err(format!("element {index} is {x}, not {y}"));
        }
    }
    Ok(())
}

fn check(folder: &Path, case: &Case, device: &Device) -> Result<(), String> {
    let model = read_model(&folder.join("model.onnx")).map_err(|e| e.to_string())?;
    let names: Vec<String> = model
        .graph
        .iter()
        .flat_map(|graph| graph.input.iter().map(|input| input.label().to_owned()))
        .collect();
    let graph = Graph::load(model).map_err(|e| e.to_string())?;
    let mut arrays = HashMap::new();
    for (index, name) in names.into_iter().enumerate() {
        if let Some(array) = array(&folder.join(format!("input_{index}.pb"))) {
            arrays.insert(name, array);
        }
    }
    let feeds = arrays
        .iter()
        .map(|(name, array)| (name.clone(), array.dims.clone()))
        .collect();
    let wanted: Vec<&str> = graph.outputs.iter().map(|output| output.label()).collect();
    let program = Program::compile(&graph, &feeds, &wanted).map_err(|e| e.to_string())?;
    let inputs: Vec<Operand> = graph
        .inputs
        .iter()
        .map(|input| Operand::of(arrays[input.label()].clone(), device.plain()))
        .collect();
    let parameters = upload(&graph, device.plain());
    let outcome = program
        .run(device, &parameters, &inputs, Mode::Evaluate)
        .map_err(|e| e.to_string())?;
    for (index, output) in outcome.outputs.iter().enumerate() {
        if let Some(wanted) = array(&folder.join(format!("output_{index}.pb"))) {
            compare(&output.on_host(), &wanted, case)
                .map_err(|e| format!("output {index}: {e}"))?;
        }
    }
    Ok(())
}

/// Runs every case; what is wrong with each that fails.
fn run_all(device: &Device) -> Vec<(Case, Result<(), String>)> {
    cases()
        .into_iter()
        .map(|(folder, case)| {
            let run = std::panic::AssertUnwindSafe(|| check(&folder, &case, device));
            let outcome = std::panic::catch_unwind(run);
            let outcome = outcome.unwrap_or_else(|_| Err("panicked".to_owned()));
            (case, outcome)
        })
        .collect()
}

#[test]
fn node_tests_pass_and_the_table_says_so() {
    let device = Device::cpu();
    let results = run_all(&device);
    let mut text = String::new();
    let mut elsewhere: BTreeMap<&str, usize> = BTreeMap::new();
    let mut failures = Vec::new();
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let (mut passed, mut runtime, mut counted) = (0, 0, 0);
    for (case, outcome) in &results {
        if let Some(class) = class_elsewhere(case) {
            *elsewhere.entry(class).or_default() += 1;
            continue;
        }
        counted += 1;
        runtime += usize::from(case.runtime);
        match outcome {
            Ok(()) => passed += 1,
            Err(reason) => failures.push((case, reason)),
        }
        for operator in &case.operators {
            let row = rows.entry(operator.clone()).or_default();
            row.opsets.insert(case.opset);
            row.cases += 1;
            row.passed += usize::from(outcome.is_ok());
            row.runtime += usize::from(case.runtime);
        }
    }
    writeln!(text, "# Operators\n").unwrap();
    writeln!(
        text,
        "Written by `tests/conformance.rs`, which fails when this page is not what it finds. The cases \
         are the ONNX project's\nown node tests (package `onnx`, `backend/test/case/node`), run through \
         the executor on `cpu` with the tolerances\nthat they carry.\n"
    )
    .unwrap();
    let share = 100.0 * passed as f64 / counted as f64;
    writeln!(
        text,
        "**{passed} of {counted} cases pass ({share:.1} %).** ONNX Runtime's CPU provider passes {runtime} \
         of the same cases.\n"
    )
    .unwrap();
    writeln!(text, "Not counted, as no part of what Sinter does:\n").unwrap();
    for (class, count) in &elsewhere {
        writeln!(text, "- {class}: {count}").unwrap();
    }
    writeln!(text, "\n## Table\n").unwrap();
    writeln!(
        text,
        "*Runs on*: `device` means the chosen device, with gradients where they exist; `host` means the \
         processor, for every\ndata type, without gradients. What is listed for the device also runs on \
         the host for types that devices don't have.\nGradients are checked by `tests/operators.rs` \
         (central differences in float64).\n"
    )
    .unwrap();
    writeln!(
        text,
        "| operator | opsets in cases | runs on | passed | ONNX Runtime |"
    )
    .unwrap();
    writeln!(text, "| --- | --- | --- | ---: | ---: |").unwrap();
    for (operator, row) in &rows {
        let opsets: Vec<String> = row.opsets.iter().map(i64::to_string).collect();
        writeln!(
            text,
            "| {operator} | {} | {} | {} / {} | {} |",
            opsets.join(", "),
            place(operator),
            row.passed,
            row.cases,
            row.runtime
        )
        .unwrap();
    }
    writeln!(text, "\n## Cases that fail\n").unwrap();
    for (case, reason) in &failures {
        writeln!(text, "- `{}`: {}", case.name, reason.replace('\n', " ")).unwrap();
    }
    println!("{passed} of {counted} pass, ONNX Runtime {runtime}");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operators.md");
    if std::env::var_os("SINTER_UPDATE").is_some() {
        std::fs::write(&page, &text).expect("docs/operators.md can be written");
    }
    assert!(share >= 95.0, "only {share:.1} % pass");
    let kept = std::fs::read_to_string(&page).unwrap_or_default();
    assert!(
        kept == text,
        "docs/operators.md is not what the run gave; write it anew with SINTER_UPDATE=1"
    );
}

#[derive(Default)]
struct Row {
    opsets: BTreeSet<i64>,
    cases: usize,
    passed: usize,
    runtime: usize,
}

fn place(operator: &str) -> &'static str {
    let (domain, name) = operator.split_once(':').unwrap_or(("", operator));
    let node = NodeProto {
        op_type: Some(name.to_owned()),
        domain: Some(domain.to_owned()),
        ..NodeProto::default()
    };
    match family(&node) {
        None => "refused",
        Some(Family::Host) => "host",
        Some(Family::Control) => "device and host",
        Some(_) => "device",
    }
}
