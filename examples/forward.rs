//! Runs an ONNX model through Sinter's executor, without a server: what tests and measurements use to
//! hold it against ONNX Runtime.
//!
//! ```sh
//! cargo run --release --example forward -- model.onnx --inputs FOLDER/input_1_ --outputs /tmp/out_ --rewrite again.onnx
//! ```
//!
//! Reads `input_1_0.pb`, `input_1_1.pb`, … (TensorProto, in the order of the graph's inputs), writes
//! `out_0.pb`, …, and the model as Sinter writes it. Prints one line of JSON: what the graph holds,
//! and the median time of `--repeat` runs. With `--serve` it answers each line on standard input
//! (a number of runs) with the median of that many, so that measurements can take turns with a peer.
//! `--backward` times a forward pass in training and the gradients behind it.

use std::collections::HashMap;
use std::io::BufRead as _;
use std::path::PathBuf;
use std::time::Instant;

use burn::backend::ops::FloatTensorOps;
use burn::backend::{AutodiffBackend, Dispatch};
use clap::Parser;
use prost::Message as _;
use serde_json::json;
use sinter::exec::value::{to_host, track};
use sinter::exec::{
    Device, Mode, Operand, Parameters, Program, Reach, upload, work_on_this_thread,
};
use sinter::graph::{Graph, summarize};
use sinter::host::Array;
use sinter::onnx::proto::TensorProto;
use sinter::onnx::read_model;

// The allocator of the program, so that times are those of the service.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static GLOBAL_ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
struct Arguments {
    model: PathBuf,
    /// Beginning of the paths of the inputs.
    #[arg(long)]
    inputs: Option<String>,
    /// Beginning of the paths to which the outputs are written.
    #[arg(long)]
    outputs: Option<String>,
    /// Where the model is written back.
    #[arg(long)]
    rewrite: Option<PathBuf>,
    #[arg(long, default_value_t = 1)]
    repeat: usize,
    #[arg(long)]
    serve: bool,
    /// Times the gradients of the outputs' sum too, by all float inputs and initializers.
    #[arg(long)]
    backward: bool,
    #[arg(long, default_value = "cpu")]
    device: String,
}

struct Ready {
    device: Device,
    program: Program,
    parameters: Parameters,
    inputs: Vec<Operand>,
    backward: bool,
}

impl Ready {
    /// One forward pass, the results of which come to the host.
    fn forward(&self) -> Result<(), Box<dyn std::error::Error>> {
        let (parameters, inputs) = (&self.parameters, &self.inputs);
        let outcome = self
            .program
            .run(&self.device, parameters, inputs, Mode::Evaluate)?;
        for output in outcome.outputs {
            drop(to_host(output.on_device(&self.device)));
        }
        Ok(())
    }

    /// One forward pass and the gradients of the sum of its results.
    fn step(&self) -> Result<(), Box<dyn std::error::Error>> {
        let parameters: Parameters = self
            .parameters
            .iter()
            .map(|(name, value)| (name.clone(), track(value.clone())))
            .collect();
        let inputs: Vec<Operand> = self
            .inputs
            .iter()
            .map(|input| match input {
                Operand::Device(value) => Operand::Device(track(value.clone())),
                Operand::Host(array) => Operand::Host(array.clone()),
            })
            .collect();
        let mode = Mode::Train { seed: 1 };
        let outcome = self.program.run(&self.device, &parameters, &inputs, mode)?;
        let sums = outcome
            .outputs
            .into_iter()
            .map(|output| Dispatch::float_sum(output.on_device(&self.device)));
        let sum = sums.reduce(Dispatch::float_add).ok_or("no outputs")?;
        let mut gradients = Dispatch::backward(sum);
        let tracked = inputs.iter().filter_map(|input| match input {
            Operand::Device(value) => Some(value),
            Operand::Host(_) => None,
        });
        for value in tracked.chain(parameters.values()) {
            drop(Dispatch::grad_remove(value, &mut gradients));
        }
        self.device.wait()?;
        Ok(())
    }

    /// Median time of `count` runs, in milliseconds.
    fn time(&self, count: usize) -> Result<f64, Box<dyn std::error::Error>> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count.max(1) {
            let start = Instant::now();
            match self.backward {
                true => self.step()?,
                false => self.forward()?,
            }
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    work_on_this_thread();
    let model = read_model(&arguments.model)?;
    let names: Vec<String> = model
        .graph
        .iter()
        .flat_map(|graph| graph.input.iter().map(|input| input.label().to_owned()))
        .collect();
    let graph = Graph::load(model)?;
    if let Some(path) = &arguments.rewrite {
        std::fs::write(path, graph.to_bytes())?;
    }
    let summary = summarize(&graph);
    let mut about = json!({
        "parameters": summary.parameters,
        "macs": summary.macs,
        "operators": summary.operators,
        "unsupported": graph.unsupported,
        "opset": graph.opset,
    });
    let Some(prefix) = &arguments.inputs else {
        println!("{about}");
        return Ok(());
    };
    let fed = |name: &String| graph.inputs.iter().any(|input| input.label() == name);
    let mut arrays = HashMap::new();
    for (index, name) in names.iter().filter(|name| fed(name)).enumerate() {
        let bytes = std::fs::read(format!("{prefix}{index}.pb"))?;
        arrays.insert(name.clone(), Array::decode(&TensorProto::decode(&*bytes)?)?);
    }
    let feeds = arrays
        .iter()
        .map(|(name, array)| (name.clone(), array.dims.clone()))
        .collect();
    let device = Device::open(&arguments.device)?;
    let wanted: Vec<&str> = graph.outputs.iter().map(|output| output.label()).collect();
    let program = Program::compile(&graph, &feeds, &wanted)?;
    let main: Vec<&str> = graph.main_output().iter().map(|o| o.label()).collect();
    let first = Program::compile(&graph, &feeds, &main)?;
    about["training"] = match first.reach(&graph.trainable()) {
        Reach::Whole => json!("reaches the weights"),
        Reach::Nothing => json!("no weights"),
        Reach::Stopped { node, operator } => json!(format!("stopped by {operator} `{node}`")),
    };
    let inputs = graph
        .inputs
        .iter()
        .map(|input| {
            let array = arrays.get(input.label()).ok_or("an input is missing")?;
            Ok(Operand::of(array.clone(), device.plain()))
        })
        .collect::<Result<_, Box<dyn std::error::Error>>>()?;
    let ready = Ready {
        parameters: upload(&graph, device.plain()),
        program,
        inputs,
        device,
        backward: arguments.backward,
    };
    let outcome = ready.program.run(
        &ready.device,
        &ready.parameters,
        &ready.inputs,
        Mode::Evaluate,
    )?;
    if let Some(prefix) = &arguments.outputs {
        for (index, output) in outcome.outputs.iter().enumerate() {
            let bytes = output.on_host().encode("").encode_to_vec();
            std::fs::write(format!("{prefix}{index}.pb"), bytes)?;
        }
    }
    about["milliseconds"] = json!(ready.time(arguments.repeat)?);
    println!("{about}");
    if arguments.serve {
        for line in std::io::stdin().lock().lines() {
            println!("{}", ready.time(line?.trim().parse()?)?);
        }
    }
    Ok(())
}
