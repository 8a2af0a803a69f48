//! A model's answer to a few examples that somebody sends along.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::child::Ended;
use super::data_fit::pin_input;
use super::tokenizer;
use crate::data::{self, Array, Elements, Text, Texts, Tokenizer, as_batch};
use crate::exec::{Device, Mode, Program, upload};
use crate::graph::{Graph, feeds_for_batch, summarize};
use crate::onnx;
use crate::spec::Problem;
use crate::spec::child::{InputFile, Message, PredictOrder};
use crate::spec::dataset::ArrayInfo;
use crate::spec::fit::{InferredInput, fit_inputs};
use crate::spec::job::DataOptions;
use crate::spec::predict::{MOST_EXAMPLES, PredictedClass, PredictedTensor, Prediction};
use crate::spec::problem::FieldError;

/// Most numbers that are answered.
const MOST_NUMBERS: usize = 1 << 20;

/// How many classes are named.
const TOP: usize = 5;

/// Runs the model on what the order's file holds.
pub(super) fn predict(order: PredictOrder) -> Result<Message, Ended> {
    let mut graph = Graph::load(onnx::read_model(&order.model)?)?;
    let mut summary = summarize(&graph);
    let tokenizer = || match tokenizer::of_model(&graph)? {
        Some(own) => Ok(Some(own)),
        None => data::tokenizer_of(&order.dataset).map_err(Problem::from),
    };
    let arrays = examples(&order.body, tokenizer)?;
    let about: Vec<ArrayInfo> = arrays.iter().map(Array::info).collect();
    let tokens = about.iter().find_map(|array| array.tokens.as_ref());
    summary.tokenizer = tokens.map(|tokens| tokens.tokenizer.clone());
    let is_media = about.iter().any(|array| array.media.is_some());
    let known = is_media.then_some(order.media_preprocess);
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
    for input in &inputs {
        pin_input(&mut graph, input);
    }
    Ok(Message::Prediction {
        prediction: Box::new(answer(&graph, &inputs, &arrays, count, order.class_names)?),
    })
}

fn answer(
    graph: &Graph,
    inputs: &[InferredInput],
    arrays: &[Array],
    count: usize,
    class_names: Option<Vec<String>>,
) -> Result<Prediction, Problem> {
    let device = Device::open("cpu")?;
    let batch = as_batch(inputs, arrays, count);
    let size = crate::train::batch_of(graph, count);
    if count > size {
        let detail = format!("{count} examples; the model's batch size is fixed at {size}");
        return Err(refused("/inputs", detail));
    }
    let wanted: Vec<&str> = graph.outputs.iter().map(|output| output.label()).collect();
    let program = Program::compile(graph, &feeds_for_batch(graph, size)?, &wanted)?;
    let (values, _) = crate::train::feed(graph, &device, &batch)?;
    let parameters = upload(graph, device.plain());
    let outcome = program.run(&device, &parameters, &values, Mode::Evaluate)?;
    let main = graph.main_output().map(|output| output.label());
    let (mut outputs, mut top, mut numbers) = (Vec::new(), None, 0);
    for (name, output) in wanted.iter().zip(outcome.outputs) {
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
            let names = class_names.as_ref().filter(|names| names.len() == classes);
            let rows = found.chunks(classes);
            top = Some(rows.map(|row| likeliest(row, names)).collect());
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
    Ok(Prediction { outputs, top })
}

/// The likeliest classes of one example.
fn likeliest(row: &[f64], names: Option<&Vec<String>>) -> Vec<PredictedClass> {
    if row.iter().any(|value| !value.is_finite()) {
        return Vec::new();
    }
    let sum: f64 = row.iter().sum();
    let is_distribution = row.iter().all(|value| *value >= 0.0) && (sum - 1.0).abs() < 1e-3;
    let highest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let raised: Vec<f64> = match is_distribution {
        true => row.to_vec(),
        false => row.iter().map(|value| (value - highest).exp()).collect(),
    };
    let total: f64 = raised.iter().sum();
    let mut order: Vec<usize> = (0..row.len()).collect();
    order.sort_by(|&a, &b| raised[b].total_cmp(&raised[a]).then(a.cmp(&b)));
    let class = |label: usize| PredictedClass {
        label: label as u64,
        class: names.map(|names| names[label].clone()),
        probability: raised[label] / total,
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

/// JSON, an image file, or a text, which the tokenizer makes tokens.
fn examples(
    body: &InputFile,
    tokenizer: impl FnOnce() -> Result<Option<Arc<Tokenizer>>, Problem>,
) -> Result<Vec<Array>, Problem> {
    let unreadable = |error: std::io::Error| Problem::new(500, "storage_failed", error.to_string());
    let bytes = std::fs::read(&body.path).map_err(unreadable)?;
    if bytes.trim_ascii_start().starts_with(b"{") {
        let body: Body =
            serde_json::from_slice(&bytes).map_err(|error| refused("", error.to_string()))?;
        return match (body.inputs, body.texts) {
            (Some(inputs), None) => arrays(inputs),
            (None, Some(texts)) => {
                let texts = texts.into_iter().map(SentText::text);
                Ok(vec![read(texts.collect(), tokenizer()?)?])
            }
            _ => Err(refused("", "must have either `inputs` or `texts`")),
        };
    }
    // Texts have no zeros.
    if let (Ok(text), false) = (std::str::from_utf8(&bytes), bytes.contains(&0)) {
        let text = Text::Plain(text.trim_start_matches('\u{feff}').to_owned());
        return Ok(vec![read(vec![text], tokenizer()?)?]);
    }
    let image = data::media_of(body).map_err(|detail| {
        let detail = format!(
            "the body is no JSON object, no text, and no image or audio that can be read: {detail}; send \
             {{\"inputs\": {{\"NAME\": [[…], …]}}}}, {{\"texts\": [\"…\", …]}}, a text in UTF-8, or a png, jpg, webp, bmp, wav, flac, ogg or mp3 file"
        );
        Problem::new(422, "invalid_request", detail)
    })?;
    Ok(vec![image])
}

/// `{"inputs": {"name": [[…], …], …}}` or `{"texts": ["…", …]}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    inputs: Option<BTreeMap<String, Value>>,
    texts: Option<Vec<SentText>>,
}

#[derive(Deserialize)]
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
        let top = likeliest(&[0.25, 0.75], None);
        assert_eq!((top[0].label, top[0].probability), (1, 0.75));
        let names = vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let top = likeliest(&[2.0, 1.0, -1.0], Some(&names));
        assert_eq!(top[0].class.as_deref(), Some("a"));
        let expected = 1.0 / (1.0 + (-1f64).exp() + (-3f64).exp());
        assert!((top[0].probability - expected).abs() < 1e-12);
    }
}
