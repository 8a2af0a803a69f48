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
use sinter::exec::{Device, Mode, Operand, Program, defines, upload};
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

/// Cases of the folder that the environment variable `variable` names.
fn cases(variable: &str) -> Vec<(PathBuf, Case)> {
    let folder = std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} names a folder of cases, see tests/run"));
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of cases is there")
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    folders.sort();
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

fn compare(found: &Array, wanted: &Array, case: &Case, slack: f64) -> Result<(), String> {
    if (found.data_type, &found.dims) != (wanted.data_type, &wanted.dims) {
        return Err("another type or shape".to_owned());
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
    for (x, y) in a.iter().zip(b) {
        let same = x == y || (x.is_nan() && y.is_nan());
        if !same
            && ((x - y).abs() > slack * (case.atol + case.rtol * y.abs())
                || x.is_nan()
                || y.is_nan())
        {
            // The numbers themselves may differ from machine to machine.
            println!("{}: {x}, not {y}", case.name);
            return Err("elements beyond the tolerance".to_owned());
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
    // Shaders approximate exponentials and logarithms more loosely than the processor.
    let slack = if device.name == "cpu" { 1.0 } else { 4.0 };
    let outcome = program
        .run(device, &parameters, &inputs, Mode::Evaluate)
        .map_err(|e| e.to_string())?;
    for (index, output) in outcome.outputs.iter().enumerate() {
        if let Some(wanted) = array(&folder.join(format!("output_{index}.pb"))) {
            compare(&output.on_host(), &wanted, case, slack)
                .map_err(|e| format!("output {index}: {e}"))?;
        }
    }
    Ok(())
}

/// Runs every case; what is wrong with each that fails.
fn run_all(variable: &str, device: &Device) -> Vec<(Case, Result<(), String>)> {
    cases(variable)
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
    let results = run_all("SINTER_NODE_CASES", &device);
    assert!(results.len() > 1800, "only {} cases", results.len());
    let contributed = run_all("SINTER_CONTRIBUTED_CASES", &device);
    let gradients = operators_with_gradients();
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
            rows.entry(operator.clone())
                .or_default()
                .count(case, outcome.is_ok());
        }
    }
    let mut contributed_wrong = Vec::new();
    for (case, outcome) in &contributed {
        if let Err(reason) = outcome {
            contributed_wrong.push(format!("{}: {reason}", case.name));
        }
        for operator in &case.operators {
            rows.entry(operator.clone())
                .or_default()
                .count(case, outcome.is_ok());
        }
    }
    assert!(
        contributed.len() > 150 && contributed_wrong.is_empty(),
        "{} of {} contributed cases are wrong:\n{}",
        contributed_wrong.len(),
        contributed.len(),
        contributed_wrong.join("\n")
    );
    writeln!(text, "# Operators\n").unwrap();
    writeln!(
        text,
        "Written by `tests/conformance.rs`, which fails when this page is not what it finds. The cases \
         are the ONNX project's\nown node tests (package `onnx`, `backend/test/case/node`), run through \
         the executor on `cpu` with the tolerances\nthat they carry; \
         what passes there passes on `wgpu` too. The operators of `com.microsoft` are held against ONNX \
         Runtime\n(tests/operators/contributed.py and contributed_quantized.py).\n"
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
         the host for types that devices don't have.\n*Gradient*: `checked` means that \
         `tests/operators.rs` holds it against central differences in float64 (composites:\nagainst \
         PyTorch), with tolerance 2e-4 of the gradient's sum of magnitudes. Operators without it have no \
         gradient (choices,\nplaces, integers), or run on the host.\n"
    )
    .unwrap();
    writeln!(
        text,
        "| operator | opsets in cases | runs on | gradient | passed | ONNX Runtime |"
    )
    .unwrap();
    writeln!(text, "| --- | --- | --- | --- | ---: | ---: |").unwrap();
    for (operator, row) in &rows {
        let opsets: Vec<String> = row.opsets.iter().map(i64::to_string).collect();
        writeln!(
            text,
            "| {operator} | {} | {} | {} | {} / {} | {} |",
            opsets.join(", "),
            place(operator),
            if gradients.contains(operator) {
                "checked"
            } else {
                ""
            },
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
        own_findings(&kept) == own_findings(&text),
        "docs/operators.md is not what the run gave; write it anew with SINTER_UPDATE=1"
    );
}

/// The page without what is said of ONNX Runtime, which may pass other cases on other processors.
fn own_findings(page: &str) -> Vec<&str> {
    page.lines()
        .map(|line| match line.strip_suffix(" |") {
            Some(row) => row.rsplit_once(" | ").map_or(row, |(own, _)| own),
            None => line
                .split("ONNX Runtime's CPU provider")
                .next()
                .unwrap_or(line),
        })
        .collect()
}

/// What passes on the processor passes on other devices. Needs an adapter, as tests/operators.rs.
#[test]
fn node_tests_pass_on_wgpu_too() {
    let device = Device::open("wgpu").expect("a Vulkan adapter, for instance mesa-vulkan-drivers");
    let processor: BTreeSet<String> = run_all("SINTER_NODE_CASES", &Device::cpu())
        .into_iter()
        .filter(|(_, outcome)| outcome.is_ok())
        .map(|(case, _)| case.name)
        .collect();
    let wrong: Vec<String> = run_all("SINTER_NODE_CASES", &device)
        .into_iter()
        .filter(|(case, _)| processor.contains(&case.name) && class_elsewhere(case).is_none())
        .filter_map(|(case, outcome)| Some(format!("{}: {}", case.name, outcome.err()?)))
        .collect();
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[derive(Default)]
struct Row {
    opsets: BTreeSet<i64>,
    cases: usize,
    passed: usize,
    runtime: usize,
}

impl Row {
    fn count(&mut self, case: &Case, passed: bool) {
        self.opsets.insert(case.opset);
        self.cases += 1;
        self.passed += usize::from(passed);
        self.runtime += usize::from(case.runtime);
    }
}

/// Operators whose gradients tests/operators.rs checks.
fn operators_with_gradients() -> BTreeSet<String> {
    #[derive(Deserialize)]
    struct Checked {
        operator: String,
        gradients: Option<serde_json::Value>,
    }
    let folder = std::env::var("SINTER_OPERATOR_CASES")
        .expect("SINTER_OPERATOR_CASES names a folder of cases, see tests/run");
    std::fs::read_dir(folder)
        .expect("the folder of cases is there")
        .filter_map(|entry| {
            let path = entry.expect("a readable entry").path().join("case.json");
            let text = std::fs::read_to_string(path).expect("a case");
            let case: Checked = serde_json::from_str(&text).expect("a case in JSON");
            case.gradients.map(|_| case.operator)
        })
        .collect()
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
        Some(Family::Host) if !defines(&node) => "host",
        Some(Family::Control) => "device and host",
        Some(_) => "device",
    }
}
