//! A model's answer to a few examples that somebody sends along.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::child::Ended;
use super::data_fit::{pin_input, prepare};
use super::job::load;
use super::problem::no_data;
use super::tokenizer;
use crate::data::{self, Array, Batch, Elements, IGNORED, Text, Texts, Tokenizer, as_batch};
use crate::exec::{Device, Mode, Output, Program, upload};
use crate::graph::{Graph, feeds_for_batch, summarize};
use crate::onnx;
use crate::spec::Problem;
use crate::spec::child::{InputFile, Message, PredictOrder};
use crate::spec::dataset::{ArrayInfo, Media};
use crate::spec::fit::{InferredData, InferredInput, fit_inputs};
use crate::spec::job::{DataOptions, JobKind, Params, Task};
use crate::spec::model::{Dimension, ModelSummary};
use crate::spec::predict::{
    AskedExample, ExampleTarget, MOST_EXAMPLES, PredictedClass, PredictedTensor, Prediction,
};
use crate::spec::problem::{FieldError, parse_slice};
use crate::spec::tokens::TokenPart;

/// Most numbers that are answered.
const MOST_NUMBERS: usize = 1 << 20;

/// How many classes are named.
const TOP: usize = 5;

/// Runs the model on what the order's file holds.
pub(super) fn predict(order: PredictOrder) -> Result<Message, Ended> {
    let sent = sent(&order.body)?;
    if let Sent::Stored { examples, split } = sent {
        return stored(order, &examples, split);
    }
    let mut graph = Graph::load(onnx::read_model(&order.model)?)?;
    let mut summary = summarize(&graph);
    let tokenizer = || match tokenizer::of_model(&graph)? {
        Some(own) => Ok(Some(own)),
        None => data::tokenizer_of(with_texts(&order)).map_err(Problem::from),
    };
    let mut reader = None;
    let arrays = match sent {
        Sent::Arrays(arrays) => arrays,
        Sent::Texts(_) if takes_no_tokens(&summary) => {
            let [input, ..] = summary.inputs.as_slice() else {
                return Err(refused("", "the model has no inputs").into());
            };
            let detail = format!(
                "a text was sent, and the model's input `{}` takes {} of shape {}, no tokens: send an image or a recording that becomes \
                 that, or numbers as JSON",
                input.name,
                input.dtype,
                serde_json::to_string(&input.shape).unwrap_or_default()
            );
            return Err(refused("", detail).into());
        }
        Sent::Texts(texts) => {
            reader = tokenizer()?;
            vec![read(texts, reader.clone())?]
        }
        Sent::Stored { .. } => Vec::new(),
    };
    let about: Vec<ArrayInfo> = arrays.iter().map(Array::info).collect();
    let tokens = about.iter().find_map(|array| array.tokens.as_ref());
    summary.tokenizer = tokens.map(|tokens| tokens.tokenizer.clone());
    let is_media = about.iter().any(|array| array.media.is_some());
    let known = is_media.then_some(order.media_preprocess);
    if !is_media {
        summary.expects = None;
    }
    let options = DataOptions {
        preprocess: order.preprocess.or(known).unwrap_or_default(),
        ..DataOptions::default()
    };
    let inputs = fit_inputs(&summary, &about, &options).map_err(|mut detail| {
        // A single array may be called as it likes, if it suits; otherwise its name may be what is wrong.
        let known = summary.inputs.iter().map(|input| input.name.as_str());
        let known: Vec<&str> = known.collect();
        let stranger = about
            .iter()
            .find(|array| array.media.is_none() && !known.contains(&array.name.as_str()));
        if let Some(stranger) = stranger {
            let known = known.join("`, `");
            detail.push_str(&format!(
                "; the model has no input `{}`, but `{known}`",
                stranger.name
            ));
        }
        refused("/inputs", detail)
    })?;
    let count = arrays.first().map_or(0, Array::count);
    if let Some(other) = arrays.iter().find(|array| array.count() != count) {
        let detail = format!(
            "has {} examples, `{}` has {count}",
            other.count(),
            arrays[0].name
        );
        return Err(refused(&format!("/inputs/{}", other.name), detail).into());
    }
    if !(1..=MOST_EXAMPLES).contains(&count) {
        let detail = format!("{count} examples; 1 to {MOST_EXAMPLES} can be asked about at once");
        return Err(refused("/inputs", detail).into());
    }
    check_axes(&summary, &inputs)?;
    check_whole(&summary, &inputs, &arrays)?;
    for input in &inputs {
        pin_input(&mut graph, input);
    }
    let batch = as_batch(&inputs, &arrays, count);
    Ok(Message::Prediction {
        prediction: Box::new(answer(
            &graph,
            &batch,
            order.class_names.as_ref(),
            reader.as_deref(),
        )?),
    })
}

/// Axes of one name are as long in all inputs.
fn check_axes(model: &ModelSummary, inputs: &[InferredInput]) -> Result<(), Problem> {
    let mut known: BTreeMap<&str, (u64, &str)> = BTreeMap::new();
    for (declared, input) in model
        .inputs
        .iter()
        .zip(inputs)
        .filter(|(_, input)| !input.zeros)
    {
        let axes = declared.shape.iter().skip(1).zip(&input.shape);
        for (axis, &size) in axes {
            let Dimension::Dynamic(name) = axis else {
                continue;
            };
            if name.is_empty() {
                continue;
            }
            let (other, of) = *known.entry(name).or_insert((size, &input.input));
            if other != size {
                let detail = format!(
                    "has {size} where `{of}` has {other}: the axis `{name}` is as long in both"
                );
                return Err(refused(&format!("/inputs/{}", input.array), detail));
            }
        }
    }
    Ok(())
}

/// Inputs of integers are given such.
fn check_whole(
    model: &ModelSummary,
    inputs: &[InferredInput],
    arrays: &[Array],
) -> Result<(), Problem> {
    for (declared, input) in model.inputs.iter().zip(inputs) {
        let array = arrays.iter().find(|array| array.name == input.array);
        let Some(Elements::F32(values)) = array.map(|array| &array.elements) else {
            continue;
        };
        let fraction = values.iter().find(|value| value.fract() != 0.0);
        if let (Some(fraction), false) = (fraction, declared.dtype.contains("float")) {
            let detail = format!(
                "holds {fraction}; the input `{}` takes {}",
                input.input, declared.dtype
            );
            return Err(refused(&format!("/inputs/{}", input.array), detail));
        }
    }
    Ok(())
}

/// Whether all inputs are fractions, which tokens are not.
fn takes_no_tokens(summary: &ModelSummary) -> bool {
    summary
        .inputs
        .iter()
        .all(|input| input.dtype.contains("float"))
}

/// Files of the data set, if it holds texts.
fn with_texts(order: &PredictOrder) -> &[InputFile] {
    let dataset = order.stored.as_ref().and_then(|job| job.dataset.as_ref());
    let dataset = dataset.filter(|dataset| {
        let mut inputs = dataset.summary.inputs.iter();
        inputs.any(|input| input.media == Some(Media::Text))
    });
    dataset.map_or(&[], |dataset| &dataset.files)
}

/// Runs the model on examples of the data set.
fn stored(order: PredictOrder, places: &[u32], split: Option<Half>) -> Result<Message, Ended> {
    let job = order.stored.ok_or_else(|| {
        refused(
            "/examples",
            "say with the query parameter `dataset` which data set they are of; the model was made by no job that says it",
        )
    })?;
    if !(1..=MOST_EXAMPLES).contains(&places.len()) {
        let detail = format!("must be 1 to {MOST_EXAMPLES} places");
        return Err(refused("/examples", detail).into());
    }
    let (mut graph, mut params) = load(&job)?;
    let Some(dataset) = &job.dataset else {
        return Err(no_data("asking about its examples").into());
    };
    if dataset.summary.target.is_none() {
        // What needs no labels is fed without them.
        let losses = json!({"student": {"width": 1}, "losses": [{"name": "soft_targets"}]});
        params = Params::parse(JobKind::Distill, losses)?;
    }
    let data = prepare(&mut graph, dataset, &job, &params)?;
    let has_test = dataset.summary.splits.test > 0;
    let in_test = split.map_or(has_test, |half| half == Half::Test);
    let batch = data.stored_at(in_test, places).map_err(|count| {
        let name = if in_test { "test" } else { "train" };
        match count {
            0 => refused(
                "/split",
                format!("the data set has no {name} split of its own; leave it out"),
            ),
            _ => refused(
                "/examples",
                format!("the {name} split has the examples 0 to {}", count - 1),
            ),
        }
    })?;
    let names = order.class_names.or(data.about.class_names.clone());
    let mut prediction = answer(&graph, &batch, names.as_ref(), None)?;
    let asked = |&place: &u32| AskedExample {
        place: place.into(),
        source: data.source_of(in_test, place),
    };
    prediction.examples = places.iter().map(asked).collect();
    let of_labels = data.about.class_names.clone().or(names);
    prediction.targets = data
        .has_targets()
        .then(|| targets(&batch, of_labels.as_ref()));
    Ok(Message::Prediction {
        prediction: Box::new(prediction),
    })
}

/// What the data set says of its examples.
fn targets(batch: &Batch, names: Option<&Vec<String>>) -> Vec<ExampleTarget> {
    let label = |&label: &usize| match label {
        IGNORED => Value::Null,
        label => Value::from(label),
    };
    let of = |row: usize| match (batch.tokens(), batch.values.len() / batch.count) {
        (1, _) => ExampleTarget {
            value: label(&batch.labels[row]),
            class: names.and_then(|names| names.get(batch.labels[row]).cloned()),
        },
        (0, width) => ExampleTarget {
            value: match &batch.values[row * width..(row + 1) * width] {
                [one] => Value::from(*one),
                several => several.iter().copied().map(Value::from).collect(),
            },
            class: None,
        },
        (tokens, _) => ExampleTarget {
            value: batch.labels[row * tokens..(row + 1) * tokens]
                .iter()
                .map(label)
                .collect(),
            class: None,
        },
    };
    (0..batch.count).map(of).collect()
}

/// Whether a model runs on an example as it is given them: of zeros, in which every token is one.
pub(super) fn tried(graph: &Graph, about: &InferredData) -> Result<(), Problem> {
    let of = |input: &InferredInput| {
        let is_mask = (input.tokens.as_ref()).is_some_and(|tokens| tokens.part == TokenPart::Mask);
        let count = input.shape.iter().product::<u64>().max(1) as usize;
        vec![f32::from(u8::from(is_mask)); count]
    };
    let batch = Batch {
        count: 1,
        inputs: about.inputs.iter().map(of).collect(),
        made_by: about.inputs.clone(),
        ..Batch::default()
    };
    run(graph, &batch).map(drop)
}

/// All outputs for a batch, and the batch size that the file has.
fn run(graph: &Graph, batch: &Batch) -> Result<(Vec<Output>, usize), Problem> {
    let device = Device::open("cpu")?;
    let size = crate::train::batch_of(graph, batch.count);
    if batch.count > size {
        let count = batch.count;
        let detail = format!("{count} examples; the model's batch size is fixed at {size}");
        return Err(refused("/inputs", detail));
    }
    let wanted: Vec<&str> = graph.outputs.iter().map(|output| output.label()).collect();
    let program = Program::compile(graph, &feeds_for_batch(graph, size)?, &wanted)?;
    let (values, _) = crate::train::feed(graph, &device, batch)?;
    let parameters = upload(graph, device.plain());
    let outcome = program.run(&device, &parameters, &values, Mode::Evaluate)?;
    Ok((outcome.outputs, size))
}

/// What the model says; of texts that `reader` has read also which token comes next, where it says that.
fn answer(
    graph: &Graph,
    batch: &Batch,
    class_names: Option<&Vec<String>>,
    reader: Option<&Tokenizer>,
) -> Result<Prediction, Problem> {
    let (values, size) = run(graph, batch)?;
    let count = batch.count;
    let wanted: Vec<&str> = graph.outputs.iter().map(|output| output.label()).collect();
    let main = graph.main_output().map(|output| output.label());
    let (mut outputs, mut top, mut numbers) = (Vec::new(), None, 0);
    for (name, output) in wanted.iter().zip(values) {
        let array = output.on_host();
        let mut dims = array.dims.clone();
        let mut found = array.numbers().map_err(|_| {
            Problem::not_supported(
                "/outputs",
                &format!("the output `{name}`, which holds no numbers,"),
            )
        })?;
        if dims.first() == Some(&size) {
            // A file with a fixed batch answers for examples that nobody asked about.
            found.truncate(found.len() / size * count);
            dims[0] = count;
        }
        numbers += found.len();
        if numbers > MOST_NUMBERS {
            let detail =
                format!("the answer has more than {MOST_NUMBERS} numbers; send fewer examples");
            return Err(refused("/inputs", detail));
        }
        if main == Some(name)
            && let [rows, classes] = dims[..]
            && rows == count
            && classes > 1
        {
            let names = class_names.filter(|names| names.len() == classes);
            let rows = found.chunks(classes);
            let task = graph.expected().map(|expected| expected.task);
            let each = match task {
                Some(Task::Regression | Task::Embedding) => None,
                Some(Task::Multilabel) => Some(apart as fn(&[f64]) -> Vec<f64>),
                _ => Some(together as fn(&[f64]) -> Vec<f64>),
            };
            top = each.map(|each| rows.map(|row| likeliest(row, names, each)).collect());
        }
        if main == Some(name)
            && let ([rows, tokens, classes], Some(reader)) = (&dims[..], reader)
            && *rows == count
            && let Some(last) = last_tokens(batch, *tokens)
        {
            let next = last.into_iter().enumerate().map(|(row, token)| {
                let start = (row * tokens + token) * classes;
                let mut next = likeliest(&found[start..start + classes], None, together);
                for one in &mut next {
                    one.class = reader.token(one.label as u32);
                }
                next
            });
            top = Some(next.collect());
        }
        outputs.push(PredictedTensor {
            name: (*name).to_owned(),
            dtype: crate::onnx::dtype_name(array.data_type),
            shape: dims.iter().map(|&size| size as u64).collect(),
            values: nested(
                &dims,
                &mut found.into_iter(),
                crate::host::is_float(array.data_type),
            ),
        });
    }
    Ok(Prediction {
        outputs,
        top,
        prepared: batch.made_by.iter().map(InferredInput::in_words).collect(),
        examples: Vec::new(),
        targets: None,
    })
}

/// Where each text ends, in rows of so many tokens.
fn last_tokens(batch: &Batch, tokens: usize) -> Option<Vec<usize>> {
    let part = |wanted: TokenPart| {
        let is_it =
            |input: &InferredInput| input.tokens.as_ref().is_some_and(|how| how.part == wanted);
        batch.made_by.iter().position(is_it)
    };
    let ids = part(TokenPart::Ids)?;
    let padding = batch.made_by[ids].tokens.as_ref()?.pad_token as f32;
    let (place, blank) = part(TokenPart::Mask).map_or((ids, padding), |mask| (mask, 0.0));
    let rows = batch.inputs[place].chunks(tokens.max(1));
    let last = |row: &[f32]| row.iter().rposition(|value| *value != blank);
    (batch.inputs[ids].len() == batch.count * tokens)
        .then(|| rows.map(|row| last(row).unwrap_or(0)).collect())
}

/// Probabilities of classes of which one is right, by a softmax where they are none yet.
fn together(row: &[f64]) -> Vec<f64> {
    let sum: f64 = row.iter().sum();
    let is_distribution = row.iter().all(|value| *value >= 0.0) && (sum - 1.0).abs() < 1e-3;
    let highest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let raised: Vec<f64> = match is_distribution {
        true => row.to_vec(),
        false => row.iter().map(|value| (value - highest).exp()).collect(),
    };
    let total: f64 = raised.iter().sum();
    raised.into_iter().map(|value| value / total).collect()
}

/// Probabilities of labels each of which is right or not, by a sigmoid where they are none yet.
fn apart(row: &[f64]) -> Vec<f64> {
    match row.iter().all(|value| (0.0..=1.0).contains(value)) {
        true => row.to_vec(),
        false => row
            .iter()
            .map(|value| 1.0 / (1.0 + (-value).exp()))
            .collect(),
    }
}

/// The likeliest classes of one example; `probabilities` makes them of the outputs.
fn likeliest(
    row: &[f64],
    names: Option<&Vec<String>>,
    probabilities: impl Fn(&[f64]) -> Vec<f64>,
) -> Vec<PredictedClass> {
    if row.iter().any(|value| !value.is_finite()) {
        return Vec::new();
    }
    let found = probabilities(row);
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| found[b].total_cmp(&found[a]).then(a.cmp(&b)));
    let class = |label: usize| PredictedClass {
        label: label as u64,
        class: names.map(|names| names[label].clone()),
        probability: found[label],
    };
    order.into_iter().take(TOP).map(class).collect()
}

fn nested(dims: &[usize], values: &mut impl Iterator<Item = f64>, is_float: bool) -> Value {
    match dims.split_first() {
        Some((&size, rest)) => {
            Value::Array((0..size).map(|_| nested(rest, values, is_float)).collect())
        }
        None => match values.next() {
            Some(value) if !is_float => Value::from(value as i64),
            Some(value) => Value::from(value),
            None => Value::Null,
        },
    }
}

/// What a request asks about.
enum Sent {
    Arrays(Vec<Array>),
    Texts(Vec<Text>),
    /// Places in the data set.
    Stored {
        examples: Vec<u32>,
        split: Option<Half>,
    },
}

/// JSON, an image or audio file, or a text.
fn sent(body: &InputFile) -> Result<Sent, Problem> {
    let unreadable = |error: std::io::Error| Problem::new(500, "storage_failed", error.to_string());
    let bytes = std::fs::read(&body.path).map_err(unreadable)?;
    if bytes.trim_ascii_start().starts_with(b"{") {
        let body: Body = parse_slice(&bytes)
            .map_err(|error| refused("", error.to_string()))?
            .map_err(Problem::invalid)?;
        if let (Some(_), None) = (body.split, &body.examples) {
            return Err(refused("/split", "goes with `examples`"));
        }
        return match (body.inputs, body.texts, body.examples) {
            (Some(inputs), None, None) => arrays(inputs).map(Sent::Arrays),
            (None, Some(texts), None) => {
                Ok(Sent::Texts(texts.into_iter().map(SentText::text).collect()))
            }
            (None, None, Some(examples)) => Ok(Sent::Stored {
                examples,
                split: body.split,
            }),
            _ => Err(refused(
                "",
                "must have one of `inputs`, `texts` and `examples`",
            )),
        };
    }
    // Texts have no zeros.
    if let (Ok(text), false) = (std::str::from_utf8(&bytes), bytes.contains(&0)) {
        let text = Text::Plain(text.trim_start_matches('\u{feff}').to_owned());
        return Ok(Sent::Texts(vec![text]));
    }
    let image = data::media_of(body).map_err(|detail| {
        let detail = format!(
            "the body is no JSON object, no text, and no image or audio that can be read: {detail}; send \
             {{\"inputs\": {{\"NAME\": [[…], …]}}}}, {{\"texts\": [\"…\", …]}}, a text in UTF-8, or a png, jpg, webp, bmp, wav, flac, ogg or mp3 file"
        );
        Problem::new(422, "invalid_request", detail)
    })?;
    Ok(Sent::Arrays(vec![image]))
}

/// `{"inputs": {"name": [[…], …], …}}`, `{"texts": ["…", …]}` or `{"examples": [0, …], "split": "test"}`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    inputs: Option<BTreeMap<String, Value>>,
    texts: Option<Vec<SentText>>,
    examples: Option<Vec<u32>>,
    split: Option<Half>,
}

/// The stored split that examples are of; one for validation is the end of the other.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Half {
    Train,
    Test,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "must be a text, or a list of two")]
enum SentText {
    Plain(String),
    Pair([String; 2]),
}

impl SentText {
    fn text(self) -> Text {
        match self {
            Self::Plain(text) => Text::Plain(text),
            Self::Pair([first, second]) => Text::Pair(first, second),
        }
    }
}

/// Texts as an input.
fn read(texts: Vec<Text>, tokenizer: Option<Arc<Tokenizer>>) -> Result<Array, Problem> {
    let tokenizer = tokenizer.ok_or_else(|| {
        refused(
            "/texts",
            "neither the model nor the data set of the job that made it has a tokenizer to read texts by; upload the model \
             together with its tokenizer.json, or name a data set that has one with `dataset` (numbers are sent as JSON)",
        )
    })?;
    if let Some(place) = texts.iter().position(Text::is_empty) {
        return Err(refused(&format!("/texts/{place}"), "has no text"));
    }
    Ok(Texts::of(texts, tokenizer)?.input("text"))
}

fn arrays(inputs: BTreeMap<String, Value>) -> Result<Vec<Array>, Problem> {
    let array = |(name, value): (String, Value)| {
        let (mut dims, mut numbers) = (Vec::new(), Vec::new());
        flatten(&value, 0, &mut dims, &mut numbers)
            .map_err(|detail| refused(&format!("/inputs/{name}"), detail))?;
        let [_, shape @ ..] = dims.as_slice() else {
            return Err(refused(
                &format!("/inputs/{name}"),
                "must be a list with one element for each example",
            ));
        };
        Ok(Array {
            shape: shape.to_vec(),
            name,
            dtype: "float32".to_owned(),
            elements: Elements::F32(numbers),
        })
    };
    inputs.into_iter().map(array).collect()
}

/// The numbers of nested lists, which must all have the same length at the same depth.
fn flatten(
    value: &Value,
    depth: usize,
    dims: &mut Vec<usize>,
    numbers: &mut Vec<f32>,
) -> Result<(), String> {
    match value {
        Value::Array(values) => {
            match dims.get(depth) {
                Some(&size) if size != values.len() => {
                    return Err(format!(
                        "has lists of {size} and of {} elements at the same depth",
                        values.len()
                    ));
                }
                // A deeper list behind a number.
                None if !numbers.is_empty() => {
                    return Err("has numbers and lists side by side".to_owned());
                }
                None => dims.push(values.len()),
                Some(_) => {}
            }
            values
                .iter()
                .try_for_each(|value| flatten(value, depth + 1, dims, numbers))
        }
        Value::Number(_) | Value::Bool(_) if depth == dims.len() => {
            let number = value
                .as_f64()
                .or(value.as_bool().map(f64::from))
                .unwrap_or(f64::NAN);
            numbers.push(number as f32);
            Ok(())
        }
        Value::Number(_) | Value::Bool(_) => Err("has numbers and lists side by side".to_owned()),
        _ => Err("must hold numbers".to_owned()),
    }
}

fn refused(pointer: &str, detail: impl Into<String>) -> Problem {
    Problem::invalid(vec![FieldError::new(pointer, detail)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat(json: Value) -> Result<(Vec<usize>, Vec<f32>), String> {
        let (mut dims, mut numbers) = (Vec::new(), Vec::new());
        flatten(&json, 0, &mut dims, &mut numbers)?;
        Ok((dims, numbers))
    }

    #[test]
    fn nested_lists_have_one_shape() {
        use serde_json::json;
        assert_eq!(
            flat(json!([[1, 2.5], [true, 4]])),
            Ok((vec![2, 2], vec![1.0, 2.5, 1.0, 4.0]))
        );
        for wrong in [
            json!([[1], [2, 3]]),
            json!([[1], 2]),
            json!([1, [2]]),
            json!([["a"]]),
            json!([null]),
        ] {
            assert!(flat(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn distributions_stay_and_logits_are_raised() {
        let top = likeliest(&[0.25, 0.75], None, together);
        assert_eq!((top[0].label, top[0].probability), (1, 0.75));
        let names = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let top = likeliest(&[2.0, 1.0, -1.0], Some(&names), together);
        assert_eq!(top[0].class.as_deref(), Some("a"));
        let expected = 1.0 / (1.0 + (-1f64).exp() + (-3f64).exp());
        assert!((top[0].probability - expected).abs() < 1e-12);
        // Of several labels each is right or not.
        let top = likeliest(&[2.0, 1.0, -1.0], None, apart);
        assert!((top[0].probability - 1.0 / (1.0 + (-2f64).exp())).abs() < 1e-12);
        assert_eq!(likeliest(&[0.9, 0.8], None, apart)[1].probability, 0.8);
    }
}
