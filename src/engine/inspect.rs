//! Looking at uploads and models.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::child::Ended;
use super::data_fit::pin_input;
use super::tokenizer;
use crate::data::{self, Reading};
use crate::exec::{ExecError, Program, Reach};
use crate::graph::{self, Graph, InferError, feeds_for_batch};
use crate::onnx;
use crate::spec::Problem;
use crate::spec::child::{InputFile, Message};
use crate::spec::model::{ModelFormat, ModelSummary};

/// Parses and checks an uploaded model.
pub(super) fn model(files: &[InputFile], staging: &Path) -> Result<Message, Ended> {
    let tokenizers = tokenizer::among(files);
    let is_other = |file: &&InputFile| !tokenizers.iter().any(|one| one.name == file.name);
    let files: Vec<&InputFile> = files.iter().filter(is_other).collect();
    let refuse = |text: String| Err(Ended::Failed(Problem::new(422, "invalid_model", text)));
    if let [first, second, ..] = tokenizers[..] {
        return refuse(format!(
            "the upload holds two tokenizers, `{}` and `{}`; keep one",
            first.name, second.name
        ));
    }
    let main = main_file(&files)?;
    if is_safetensors(&main.path)? {
        if !tokenizers.is_empty() {
            return refuse(
                "a file of weights without a graph reads no texts; upload it without a tokenizer"
                    .to_owned(),
            );
        }
        return Ok(Message::Model {
            format: ModelFormat::Safetensors,
            summary: safetensors_summary(&main.path)?,
            file: None,
        });
    }
    let mut model = onnx::read_model(&main.path)?;
    let beside: HashMap<String, PathBuf> = files
        .iter()
        .map(|file| (file.name.clone(), file.path.clone()))
        .collect();
    let used = onnx::embed_external_data(&mut model, &beside)?;
    let unused = |file: &&&InputFile| file.name != main.name && !used.contains(&file.name);
    if let Some(file) = files.iter().find(unused) {
        return Err(Ended::Failed(Problem::new(
            422,
            "invalid_model",
            format!(
                "`{}` is no external data of the model `{}`; upload only what the model names",
                file.name, main.name
            ),
        )));
    }
    for tokenizer in &tokenizers {
        tokenizer::put_in(&mut model, tokenizer)?;
    }
    let mut file = None;
    if !used.is_empty() || !tokenizers.is_empty() {
        let path = staging.join("model.onnx");
        std::fs::write(&path, prost::Message::encode_to_vec(&model))?;
        file = Some(path);
    }
    let graph = Graph::load(model)?;
    Ok(Message::Model {
        format: ModelFormat::Onnx,
        summary: summarize(&graph)?,
        file,
    })
}

/// The summary, with what only compiling tells.
pub(super) fn summarize(graph: &Graph) -> Result<ModelSummary, Problem> {
    let mut summary = graph::summarize(graph);
    let tokenizer = tokenizer::of_model(graph)?;
    summary.tokenizer = tokenizer.map(|tokenizer| tokenizer.info().clone());
    let because = not_trainable(graph, &mut summary.unsupported_operators);
    summary.trainable = because.is_none();
    summary.not_trainable_because = because;
    Ok(summary)
}

/// Why the graph can't be trained; what can't even run is added to `unsupported`.
fn not_trainable(graph: &Graph, unsupported: &mut Vec<String>) -> Option<String> {
    if !unsupported.is_empty() {
        return Some("some of its operators can't run".to_owned());
    }
    let trained = graph.trainable();
    let integer = |operator: &str| {
        operator.contains("Quantize")
            || operator.starts_with("QLinear")
            || operator.ends_with("Integer")
    };
    let quantised = graph.nodes.iter().find(|node| integer(node.operator()));
    let quantised = quantised.map(|node| {
        format!(
            "the model is quantised to integers (`{}`, {}), which have no gradient; train and prune \
             the floating-point model that it was made from",
            node.label(),
            node.operator()
        )
    });
    let compiled = feeds_for_batch(graph, 2)
        .map_err(ExecError::from)
        .and_then(|feeds| {
            let wanted: Vec<&str> = graph.outputs.iter().map(|output| output.label()).collect();
            Program::compile(graph, &feeds, &wanted)?;
            let main: Vec<&str> = graph.main_output().iter().map(|o| o.label()).collect();
            Program::compile(graph, &feeds, &main)
        });
    match compiled {
        Ok(program) => match program.reach(&trained) {
            _ if quantised.is_some() => quantised,
            Reach::Whole => None,
            Reach::Nothing if trained.is_empty() => Some(
                "no floating-point weight stands where training could change it; a model that was \
                 quantised to integers can be evaluated only"
                    .to_owned(),
            ),
            Reach::Nothing => {
                Some("no weight has a part in the output that training looks at".to_owned())
            }
            Reach::Stopped { node, operator } => Some(format!(
                "the node `{node}` ({operator}) has no gradient, and weights are behind it{}",
                match operator == "BatchNormalization" {
                    true =>
                        ": the model was exported in training mode; export it in evaluation mode (model.eval())",
                    false => "",
                }
            )),
        },
        // Sizes that only the data tells are no fault of the graph.
        Err(ExecError::Infer(InferError::OpenAxis { .. })) => quantised,
        Err(error) => {
            let because = Some(error.to_string());
            unsupported.push(match error {
                ExecError::Node { operator, .. }
                | ExecError::Infer(
                    InferError::Rule { operator, .. } | InferError::Unsupported { operator, .. },
                ) => operator,
                other => other.to_string(),
            });
            because
        }
    }
}

/// The model among the files: the only one, or the only one that ends in `.onnx`.
fn main_file<'a>(files: &[&'a InputFile]) -> Result<&'a InputFile, Ended> {
    let refuse = |text: &str| Ended::Failed(Problem::new(422, "invalid_model", text));
    if let [only] = files {
        return Ok(only);
    }
    let mut named = files.iter().filter(|file| file.name.ends_with(".onnx"));
    match (named.next(), named.next()) {
        (Some(main), None) => Ok(*main),
        (None, _) => Err(refuse("none of the files ends in .onnx")),
        _ => Err(refuse(
            "more than one of the files ends in .onnx; upload one model at a time",
        )),
    }
}

/// A safetensors file begins with the length of a JSON header and its opening brace.
fn is_safetensors(path: &Path) -> Result<bool, Ended> {
    let mut head = [0; 9];
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    if file.read_exact(&mut head).is_err() {
        return Ok(false);
    }
    let length = u64::from_le_bytes(head[..8].try_into().expect("eight bytes"));
    Ok(head[8] == b'{' && length < size)
}

fn safetensors_summary(path: &Path) -> Result<ModelSummary, Ended> {
    let bytes = std::fs::read(path)?;
    let refuse = |error: safetensors::SafeTensorError| {
        Ended::Failed(Problem::new(
            422,
            "invalid_model",
            format!("the safetensors file: {error}"),
        ))
    };
    let file = safetensors::SafeTensors::deserialize(&bytes).map_err(refuse)?;
    let (mut parameters, mut nonzero) = (0u64, 0u64);
    for (_, view) in file.iter() {
        let count: usize = view.shape().iter().product();
        let width = view.data().len() / count.max(1);
        parameters += count as u64;
        nonzero += view
            .data()
            .chunks(width.max(1))
            .filter(|element| element.iter().any(|&byte| byte != 0))
            .count() as u64;
    }
    Ok(ModelSummary {
        opset: None,
        producer: String::new(),
        parameters,
        nonzero_parameters: nonzero,
        macs: None,
        inputs: Vec::new(),
        outputs: Vec::new(),
        operators: BTreeMap::new(),
        trainable: false,
        not_trainable_because: Some("the file holds weights without a graph".to_owned()),
        unsupported_operators: Vec::new(),
        tokenizer: None,
        expects: None,
    })
}

/// Parses and checks an uploaded data set.
pub(super) fn dataset(files: &[InputFile], how: Reading) -> Result<Message, Ended> {
    let dataset = data::read(files, how)?;
    Ok(Message::Dataset {
        summary: dataset.summarize(),
    })
}

/// Describes the layers of a stored model as pruning finds them.
pub(super) fn layers(model: &Path) -> Result<Message, Ended> {
    let graph = prunable(model)?;
    Ok(Message::Layers {
        layers: graph.as_ref().map_or_else(Vec::new, graph::layers),
    })
}

/// Describes all nodes of a stored model as pruning finds them.
pub(super) fn nodes(model: &Path) -> Result<Message, Ended> {
    let graph = prunable(model)?;
    Ok(Message::Nodes {
        nodes: graph.as_ref().map_or_else(Vec::new, graph::nodes),
    })
}

/// The graph that pruning looks at; `None` of a file of weights alone.
fn prunable(model: &Path) -> Result<Option<Graph>, Ended> {
    if is_safetensors(model)? {
        return Ok(None);
    }
    let mut graph = Graph::load(onnx::read_model(model)?)?;
    for input in graph
        .expected()
        .iter()
        .flat_map(|expected| &expected.inputs)
    {
        pin_input(&mut graph, input);
    }
    graph.settle_weights();
    Ok(Some(graph))
}
