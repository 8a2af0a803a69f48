//! Every operator on every device: forward against ONNX Runtime, gradients in float64 against central
//! differences or PyTorch. `tests/run` writes the cases (tests/operators/cases.py) and names their
//! folder in `SINTER_OPERATOR_CASES`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::backend::ops::FloatTensorOps;
use burn::backend::{AutodiffBackend, Dispatch, DispatchTensorKind};
use serde::Deserialize;
use sinter::exec::operand::feed;
use sinter::exec::value::{from_host, scalar_to_host, to_host, track};
use sinter::exec::{Device, Mode, Operand, Program, Value, upload};
use sinter::graph::Graph;
use sinter::onnx::read_model;

#[derive(Deserialize)]
struct Array {
    name: String,
    /// `TensorProto.DataType`.
    dtype: i32,
    shape: Vec<usize>,
    /// Integers and booleans are written as floats.
    values: Vec<f32>,
}

#[derive(Deserialize)]
struct Direction {
    value: String,
    direction: Vec<f32>,
    derivative: f64,
}

#[derive(Deserialize)]
struct Gradients {
    factors: Vec<Vec<f32>>,
    directions: Vec<Direction>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    /// The ONNX operator that the case is about; empty for whole networks.
    operator: String,
    tolerance: f32,
    inputs: Vec<Array>,
    outputs: Vec<Array>,
    gradients: Option<Gradients>,
}

fn cases() -> Vec<(PathBuf, Case)> {
    let folder = std::env::var("SINTER_OPERATOR_CASES")
        .expect("SINTER_OPERATOR_CASES names the folder that tests/operators/cases.py wrote");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of cases is there")
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    folders.sort();
    assert!(folders.len() > 1350, "only {} cases", folders.len());
    folders
        .into_iter()
        .map(|folder| {
            let text = std::fs::read_to_string(folder.join("case.json")).expect("a case");
            let case = serde_json::from_str(&text).expect("a case in JSON");
            (folder, case)
        })
        .collect()
}

/// Whether a difference is small; NaN is not.
fn within(difference: f64, limit: f64) -> bool {
    difference.abs() <= limit
}

/// What is wrong with the forward pass, and with the gradients.
fn check(folder: &Path, case: &Case, device: &Device) -> Result<(), String> {
    let model = read_model(&folder.join("model.onnx")).map_err(|e| e.to_string())?;
    let graph = Graph::load(model).map_err(|e| e.to_string())?;
    let feeds: HashMap<String, Vec<usize>> = case
        .inputs
        .iter()
        .map(|input| (input.name.clone(), input.shape.clone()))
        .collect();
    let wanted: Vec<&str> = case.outputs.iter().map(|o| o.name.as_str()).collect();
    let program = Program::compile(&graph, &feeds, &wanted).map_err(|e| e.to_string())?;
    let mut inputs: Vec<Operand> = case
        .inputs
        .iter()
        .map(|input| {
            let values = input.values.clone();
            feed(input.dtype, &input.shape, values, device.plain())
        })
        .collect();
    let mut parameters = upload(&graph, device.plain());
    let run = |parameters: &_, inputs: &[Operand]| {
        program
            .run(device, parameters, inputs, Mode::Evaluate)
            .map_err(|e| e.to_string())
    };
    let outcome = run(&parameters, &inputs)?;
    for (output, expected) in outcome.outputs.into_iter().zip(&case.outputs) {
        let about = (output.data_type, output.dims.clone());
        if about != (expected.dtype, expected.shape.clone()) {
            return Err(format!(
                "type {} of shape {:?}, ONNX Runtime has {} of {:?}",
                about.0, about.1, expected.dtype, expected.shape
            ));
        }
        let found = to_host(output.on_device(device));
        if found.len() != expected.values.len() {
            return Err(format!("{} elements for {:?}", found.len(), expected.shape));
        }
        let scale = expected.values.iter().fold(1f32, |s, v| s.max(v.abs()));
        for (index, (a, b)) in found.iter().zip(&expected.values).enumerate() {
            if !within(f64::from(a - b), f64::from(case.tolerance * scale)) {
                return Err(format!("element {index} is {a}, ONNX Runtime has {b}"));
            }
        }
    }
    let Some(gradients) = &case.gradients else {
        return Ok(());
    };
    inputs = inputs
        .into_iter()
        .map(|input| match input {
            Operand::Device(value) => Operand::Device(track(value)),
            Operand::Host(array) => Operand::Host(array),
        })
        .collect();
    let names: Vec<String> = gradients
        .directions
        .iter()
        .map(|d| d.value.clone())
        .collect();
    for name in &names {
        if let Some(value) = parameters.get_mut(name) {
            *value = track(value.clone());
        }
    }
    let outcome = run(&parameters, &inputs)?;
    let mut objective: Option<Value> = None;
    for ((output, factors), about) in outcome
        .outputs
        .into_iter()
        .zip(&gradients.factors)
        .zip(&case.outputs)
    {
        let factors = from_host(&about.shape, factors.clone(), device.plain());
        let sum = Dispatch::float_sum(Dispatch::float_mul(output.on_device(device), factors));
        objective = Some(match objective {
            None => sum,
            Some(before) => Dispatch::float_add(before, sum),
        });
    }
    let objective = objective.ok_or("no outputs")?;
    if !matches!(objective.kind, DispatchTensorKind::Autodiff(_)) {
        return Err("no gradient leaves the outputs".to_owned());
    }
    assert!(scalar_to_host(Dispatch::inner(objective.clone())).is_finite());
    let mut found = Dispatch::backward(objective);
    for direction in &gradients.directions {
        let value = match case.inputs.iter().position(|i| i.name == direction.value) {
            Some(index) => match &inputs[index] {
                Operand::Device(value) => value,
                Operand::Host(_) => return Err(format!("`{}` is no float", direction.value)),
            },
            None => &parameters[&direction.value],
        };
        let gradient = Dispatch::grad_remove(value, &mut found)
            .map(to_host)
            .ok_or_else(|| format!("`{}` has no gradient", direction.value))?;
        let along: f64 = gradient
            .iter()
            .zip(&direction.direction)
            .map(|(g, d)| f64::from(*g) * f64::from(*d))
            .sum();
        let size: f64 = gradient
            .iter()
            .map(|g| f64::from(g.abs()))
            .sum::<f64>()
            .max(1.0);
        if !within(along - direction.derivative, 2e-4 * size) {
            return Err(format!(
                "the derivative by `{}` is {along}, differences give {}",
                direction.value, direction.derivative
            ));
        }
    }
    Ok(())
}

fn check_all(device: &Device) {
    let all = cases();
    let mut derivatives = 0;
    let mut wrong = Vec::new();
    for (folder, case) in &all {
        derivatives += usize::from(case.gradients.is_some());
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(folder, case, device)));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(text)) => wrong.push(format!("{} ({}): {text}", case.name, case.operator)),
            Err(_) => wrong.push(format!("{} ({}): panicked", case.name, case.operator)),
        }
    }
    println!(
        "{} cases on {}, {derivatives} with gradients",
        all.len(),
        device.name
    );
    assert!(derivatives > 550, "only {derivatives} cases have gradients");
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_operator_agrees_with_onnx_runtime_on_the_cpu() {
    check_all(&Device::cpu());
}

/// Needs an adapter; `tests/run` installs Debian's software Vulkan for that.
#[test]
fn every_operator_agrees_with_onnx_runtime_on_wgpu() {
    let device = Device::open("wgpu").expect("a Vulkan adapter, for instance mesa-vulkan-drivers");
    check_all(&device);
}
