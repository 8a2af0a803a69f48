//! Every loss of the distillation beside PyTorch: value and gradients. `tests/run` writes the cases
//! (tests/losses/cases.py) and names their file in `SINTER_LOSS_CASES`.

use std::collections::{BTreeMap, BTreeSet};

use burn::backend::{AutodiffBackend, Dispatch};
use serde::Deserialize;
use sinter::distill::losses::{self, Heat};
use sinter::exec::value::{from_host, scalar_to_host, to_host, track};
use sinter::exec::{Device, Value};
use sinter::spec::train::LossName;
use sinter::train::Loss;

/// Of the size of the largest element.
const TOLERANCE: f64 = 1e-5;

#[derive(Deserialize)]
struct Tensor {
    shape: Vec<usize>,
    values: Vec<f64>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    options: BTreeMap<String, f64>,
    tensors: BTreeMap<String, Tensor>,
    value: f64,
    gradients: BTreeMap<String, Tensor>,
}

fn value_of(case: &Case, tensor: &dyn Fn(&str) -> Value) -> Value {
    let option = |name: &str| case.options[name] as f32;
    let heat = || match case.options.get("temperature") {
        Some(&temperature) => Heat::fixed(temperature as f32, Device::cpu().plain()),
        None => Heat::learned(tensor("weight")),
    };
    let (student, teacher) = (tensor("student"), tensor("teacher"));
    let factors = || (option("alpha"), option("beta"));
    match case.name.as_str() {
        "soft_targets" => losses::soft_targets(student, teacher, &heat()),
        "standardized" => losses::standardized(student, teacher, &heat()),
        "decoupled" => losses::decoupled(student, teacher, tensor("labels"), &heat(), factors()),
        "logits_mse" => losses::mean_squared_error(student, teacher),
        "cosine" => losses::cosine(student, teacher),
        "cross_entropy" => {
            let loss = Loss {
                name: LossName::CrossEntropy,
                label_smoothing: 0.0,
            };
            loss.value(student, tensor("labels"))
        }
        "bounded_regression" => {
            losses::bounded_regression(student, teacher, tensor("target"), option("margin"))
        }
        "attention_transfer" => losses::attention_transfer(student, teacher),
        "feature" => losses::feature(student, teacher),
        "similarity" => losses::similarity(student, teacher),
        "relational" => losses::relational(student, teacher, factors()),
        "contrastive" => {
            let examples = case.options["examples"] as usize;
            losses::contrastive(student, teacher, option("temperature"), examples)
        }
        other => panic!("there is no loss {other}"),
    }
}

#[test]
fn every_loss_agrees_with_pytorch() {
    let path = std::env::var("SINTER_LOSS_CASES")
        .expect("SINTER_LOSS_CASES names the file that tests/losses/cases.py wrote");
    let text = std::fs::read_to_string(path).expect("the cases can be read");
    let cases: Vec<Case> =
        serde_json::from_str(&text).expect("the cases are as this test has them");
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), 12, "{names:?}");
    let device = Device::cpu();
    let mut wrong = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let mut leaves = BTreeMap::new();
        for (name, tensor) in &case.tensors {
            let elements = tensor.values.iter().map(|&value| value as f32).collect();
            let value = from_host(&tensor.shape, elements, device.plain());
            let tracked = case.gradients.contains_key(name);
            leaves.insert(name.as_str(), if tracked { track(value) } else { value });
        }
        let found = value_of(case, &|name| leaves[name].clone());
        let value = f64::from(scalar_to_host(Dispatch::inner(found.clone())));
        let near = (value - case.value).abs() <= TOLERANCE * case.value.abs().max(1.0);
        if !near {
            wrong.push(format!(
                "{index} {}: {value} instead of {}",
                case.name, case.value
            ));
        }
        let mut gradients = Dispatch::backward(found);
        for (name, wanted) in &case.gradients {
            let leaf = &leaves[name.as_str()];
            let gradient = Dispatch::grad_remove(leaf, &mut gradients).expect("tracked");
            let largest = wanted
                .values
                .iter()
                .fold(0.0f64, |most, value| most.max(value.abs()));
            let allowed = TOLERANCE * largest.max(1.0);
            let found = to_host(gradient);
            let near =
                |(&found, &wanted): (&f32, &f64)| (f64::from(found) - wanted).abs() <= allowed;
            // NaN is near nothing.
            let count = found
                .iter()
                .zip(&wanted.values)
                .filter(|pair| near(*pair))
                .count();
            if count < wanted.values.len() {
                let off = wanted.values.len() - count;
                wrong.push(format!(
                    "{index} {}: {off} elements of the gradient of {name}",
                    case.name
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
