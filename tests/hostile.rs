//! Mutated model files: reading, shape inference, compiling and a first run may refuse, but not
//! panic, hang or eat memory. The seeds are the ONNX project's node tests, which cover every operator,
//! and cases of `com.microsoft` (`SINTER_NODE_CASES`, `SINTER_CONTRIBUTED_CASES`, see tests/conformance.rs).
//!
//! `SINTER_HOSTILE_INPUTS` sets how many are tried (default 20,000), `SINTER_HOSTILE_SEED` where the
//! random numbers begin; `SINTER_HOSTILE_LOUD` prints panics where they happen and leaves the last model
//! in the folder of temporary files. `tests/run` runs this under a limit of 8 GiB of address space.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prost::Message as _;
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _, SeedableRng as _};
use sinter::exec::{Device, Mode, Operand, Program, upload};
use sinter::graph::{Graph, limit_elements, summarize};
use sinter::host::Array;
use sinter::onnx::decode_model;
use sinter::onnx::proto::{GraphProto, ModelProto, TensorProto};

/// Longest time for one input.
const LONGEST: Duration = Duration::from_secs(120);

struct Seed {
    name: String,
    model: Vec<u8>,
    inputs: Vec<Array>,
}

fn seeds() -> Vec<Seed> {
    let mut folders: Vec<PathBuf> = ["SINTER_NODE_CASES", "SINTER_CONTRIBUTED_CASES"]
        .into_iter()
        .flat_map(|name| {
            let folder = std::env::var(name);
            let folder =
                folder.unwrap_or_else(|_| panic!("{name} names a folder of cases, see tests/run"));
            std::fs::read_dir(folder).expect("the folder of cases is there")
        })
        .map(|entry| entry.expect("a readable entry").path())
        .collect();
    folders.sort();
    let read = |folder: PathBuf| {
        let model = std::fs::read(folder.join("model.onnx")).expect("a model");
        let inputs = (0..)
            .map_while(|index| std::fs::read(folder.join(format!("input_{index}.pb"))).ok())
            .filter_map(|bytes| Array::decode(&TensorProto::decode(&*bytes).ok()?).ok())
            .collect();
        let name = folder
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        Seed {
            name,
            model,
            inputs,
        }
    };
    folders.into_iter().map(read).collect()
}

const EXTREMES: [i64; 14] = [
    0,
    1,
    -1,
    2,
    3,
    -2,
    7,
    64,
    1 << 20,
    1 << 31,
    1 << 40,
    i64::MAX,
    i64::MIN,
    i64::MAX / 8,
];

/// Changes bytes without understanding them.
fn mutate_bytes(bytes: &mut Vec<u8>, random: &mut impl Rng) {
    for _ in 0..random.random_range(1..4) {
        if bytes.is_empty() {
            return;
        }
        let place = random.random_range(0..bytes.len());
        match random.random_range(0..5) {
            0 => bytes[place] ^= 1 << random.random_range(0..8),
            1 => bytes[place] = [0, 1, 0x7f, 0x80, 0xff][random.random_range(0..5)],
            2 => bytes.truncate(place),
            3 => {
                let end = (place + random.random_range(1..32)).min(bytes.len());
                let copy = bytes[place..end].to_vec();
                bytes.splice(place..place, copy);
            }
            _ => {
                let end = (place + random.random_range(1..16)).min(bytes.len());
                bytes.drain(place..end);
            }
        }
    }
}

/// Changes what a well-formed model says.
fn mutate_graph(graph: &mut GraphProto, operators: &[String], random: &mut impl Rng) {
    for _ in 0..random.random_range(1..4) {
        let extreme = *EXTREMES.choose(random).expect("some");
        let values: Vec<String> = graph
            .input
            .iter()
            .map(|input| input.label().to_owned())
            .chain(graph.node.iter().flat_map(|node| node.output.clone()))
            .collect();
        let count = graph.node.len();
        let Some(node) = graph.node.get_mut(random.random_range(0..count.max(1))) else {
            return;
        };
        match random.random_range(0..9) {
            0 => node.op_type = operators.choose(random).cloned(),
            1 if !node.attribute.is_empty() => {
                let index = random.random_range(0..node.attribute.len());
                let attribute = &mut node.attribute[index];
                match (attribute.ints.is_empty(), attribute.i, attribute.f) {
                    (false, _, _) => {
                        let place = random.random_range(0..attribute.ints.len());
                        match random.random_range(0..3) {
                            0 => attribute.ints.push(extreme),
                            1 => drop(attribute.ints.remove(place)),
                            _ => attribute.ints[place] = extreme,
                        }
                    }
                    (_, Some(_), _) => attribute.i = Some(extreme),
                    (_, _, Some(_)) => {
                        attribute.f = Some([0.0, -1.0, f32::NAN, 1e30][place_of(random)])
                    }
                    _ => drop(node.attribute.remove(index)),
                }
            }
            2 if !node.input.is_empty() => {
                let index = random.random_range(0..node.input.len());
                node.input[index] = values.choose(random).cloned().unwrap_or_default();
            }
            3 if !node.input.is_empty() => {
                let index = random.random_range(0..node.input.len());
                node.input[index] = String::new();
            }
            4 => drop(node.input.pop()),
            5 => node
                .output
                .push(format!("more_{}", random.random_range(0..1000))),
            6 => {
                let value = graph.initializer.first_mut();
                if let Some(dimension) = value.and_then(|tensor| tensor.dims.first_mut()) {
                    *dimension = extreme;
                }
            }
            7 => {
                let kind = random.random_range(0..28);
                if let Some(tensor) = graph.initializer.first_mut() {
                    tensor.data_type = Some(kind);
                }
            }
            _ => {
                let mut copy = node.clone();
                copy.input = copy.output.clone();
                copy.output = vec![format!("after_{}", random.random_range(0..1000))];
                graph.node.push(copy);
            }
        }
    }
}

fn place_of(random: &mut impl Rng) -> usize {
    random.random_range(0..4)
}

/// Changes the shape or the elements that are fed.
fn mutate_inputs(inputs: &mut [Array], random: &mut impl Rng) {
    let count = inputs.len();
    let Some(input) = inputs.get_mut(random.random_range(0..count.max(1))) else {
        return;
    };
    match (random.random_range(0..3), input.ints()) {
        (0, Ok(ints)) if !ints.is_empty() => {
            let mut ints = ints.to_vec();
            let place = random.random_range(0..ints.len());
            ints[place] = *EXTREMES.choose(random).expect("some");
            *input = Array::int(input.data_type, input.dims.clone(), ints);
        }
        (1, _) => {
            let mut dims = input.dims.clone();
            dims.insert(0, 1);
            *input = input.reshaped(dims);
        }
        _ => *input = input.reshaped(vec![input.len()]),
    }
}

/// Everything that happens to an upload until its first result.
fn first_contact(model: &[u8], inputs: &[Array], device: &Device) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let model = decode_model(model).map_err(|e| text(&e))?;
    let graph = Graph::load(model).map_err(|e| text(&e))?;
    let summary = summarize(&graph);
    assert!(summary.nonzero_parameters <= summary.parameters);
    let again = decode_model(&graph.to_bytes()).map_err(|e| text(&e))?;
    Graph::load(again).map_err(|e| text(&e))?;
    let mut feeds = HashMap::new();
    let mut fed = Vec::new();
    for (input, array) in graph.inputs.iter().zip(inputs) {
        feeds.insert(input.label().to_owned(), array.dims.clone());
        fed.push(Operand::of(array.clone(), device.plain()));
    }
    if fed.len() < graph.inputs.len() {
        return Err("has more inputs than are fed".to_owned());
    }
    let wanted: Vec<&str> = graph.outputs.iter().map(|output| output.label()).collect();
    let program = Program::compile(&graph, &feeds, &wanted).map_err(|e| text(&e))?;
    program.reach(&graph.trainable());
    let parameters = upload(&graph, device.plain());
    let outcome = program.run(device, &parameters, &fed, Mode::Evaluate);
    for output in outcome.map_err(|e| text(&e))?.outputs {
        output.on_host();
    }
    Ok(())
}

#[test]
fn mutated_models_are_refused_or_run() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let tried = number("SINTER_HOSTILE_INPUTS", 20_000);
    let start = number("SINTER_HOSTILE_SEED", 1);
    limit_elements(1 << 20);
    let seeds = seeds();
    let mut operators: Vec<String> = Vec::new();
    for seed in &seeds {
        let model = ModelProto::decode(&*seed.model).expect("a seed is well-formed");
        let nodes = model.graph.into_iter().flat_map(|graph| graph.node);
        operators.extend(nodes.filter_map(|node| node.op_type));
    }
    operators.sort();
    operators.dedup();
    // A panic is looked at below; its text on standard error would be thousands of lines.
    let quiet = std::env::var_os("SINTER_HOSTILE_LOUD").is_none();
    if quiet {
        std::panic::set_hook(Box::new(|_| {}));
    }
    let device = Device::cpu();
    static CURRENT: AtomicU64 = AtomicU64::new(0);
    std::thread::spawn(|| {
        let (mut seen, mut since) = (u64::MAX, Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(500));
            let current = CURRENT.load(Ordering::Relaxed);
            if current != seen {
                (seen, since) = (current, Instant::now());
            } else if since.elapsed() > LONGEST {
                eprintln!("input {current} takes longer than {LONGEST:?}");
                std::process::abort();
            }
        }
    });
    let mut wrong = Vec::new();
    let (mut ran, mut slowest) = (0, (Duration::ZERO, 0));
    for index in start..start + tried {
        CURRENT.store(index, Ordering::Relaxed);
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(index);
        let seed = seeds.choose(&mut random).expect("some seeds");
        let mut inputs = seed.inputs.clone();
        let mut model = seed.model.clone();
        let kind = random.random_range(0..4);
        if kind == 0 {
            mutate_bytes(&mut model, &mut random);
        } else {
            let mut message = ModelProto::decode(&*model).expect("a seed is well-formed");
            if let Some(graph) = &mut message.graph {
                mutate_graph(graph, &operators, &mut random);
            }
            model = message.encode_to_vec();
        }
        if kind == 3 {
            mutate_inputs(&mut inputs, &mut random);
        }
        if !quiet {
            let path = std::env::temp_dir().join("hostile.onnx");
            std::fs::write(path, &model).expect("the model can be written");
        }
        let began = Instant::now();
        let run = std::panic::AssertUnwindSafe(|| first_contact(&model, &inputs, &device));
        match std::panic::catch_unwind(run) {
            Ok(outcome) => ran += u64::from(outcome.is_ok()),
            Err(cause) => {
                let text = cause
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| cause.downcast_ref::<&str>().map(|text| (*text).to_owned()))
                    .unwrap_or_default();
                wrong.push(format!("input {index} ({}): {text}", seed.name));
            }
        }
        slowest = slowest.max((began.elapsed(), index));
    }
    let _ = std::panic::take_hook();
    println!(
        "{tried} inputs, {ran} of them ran, the slowest ({}) {:?}",
        slowest.1, slowest.0
    );
    assert!(ran > tried / 20, "only {ran} mutated models still ran");
    assert!(
        wrong.is_empty(),
        "{} panics:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
