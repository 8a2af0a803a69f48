//! `sinter predict`: what a model says of a few examples.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Outcome, ServiceFlags, named, pretty, read_json, say};
use crate::client::tell;
use crate::spec::predict::{ExampleTarget, PredictedClass, Prediction};

/// Flags of `sinter predict`.
#[derive(Debug, Clone, Args)]
pub struct PredictFlags {
    /// Id or name of a model
    #[arg(value_name = "MODEL")]
    model: String,
    /// An image, recording or text to ask about, or JSON as the API takes it
    #[arg(value_name = "FILE", conflicts_with_all = ["text", "example"], required_unless_present_any = ["text", "example"])]
    file: Option<PathBuf>,
    /// A text to ask about; may be repeated
    #[arg(long, value_name = "TEXT", conflicts_with = "example")]
    text: Vec<String>,
    /// Place of an example in the data set, counted from 0; may be repeated
    #[arg(long, value_name = "PLACE")]
    example: Vec<u32>,
    /// The split that it is of [default: test, where the data set has one]
    #[arg(long, value_enum, requires = "example")]
    split: Option<SplitName>,
    /// Id or name of the data set that the examples are of, or that has the tokenizer and the names of classes [default: that
    /// of the job that made the model]
    #[arg(long, value_name = "DATASET")]
    dataset: Option<String>,
    /// How examples are prepared, as `data.preprocess` of a job: JSON, or @FILE with it [default: as in the job that made the
    /// model]
    #[arg(long, value_name = "JSON", value_parser = read_json)]
    preprocess: Option<Value>,
    /// Print the whole answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    service: ServiceFlags,
}

/// A split as data sets are stored.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum SplitName {
    Train,
    Test,
}

/// Asks a model about examples.
pub fn predict(flags: &PredictFlags) -> Outcome {
    let client = flags.service.client()?;
    let body = match &flags.file {
        Some(path) => std::fs::read(path)
            .map_err(|error| format!("can't read `{}`: {error}", path.display()))?,
        None => asked(flags).to_string().into_bytes(),
    };
    let model = named(&client, "models", &flags.model)?;
    let dataset = flags.dataset.as_deref();
    let dataset = dataset.map(|dataset| named(&client, "datasets", dataset));
    let dataset = dataset.transpose()?.map(|id| id.to_string());
    let preprocess = flags.preprocess.as_ref().map(Value::to_string);
    let given = [("dataset", &dataset), ("preprocess", &preprocess)].into_iter();
    let query: Vec<_> = given
        .filter_map(|(name, value)| Some((name, value.as_deref()?)))
        .collect();
    let answer = client.predict(model, &query, &body)?;
    let prediction: Prediction = serde_json::from_value(answer.clone())?;
    match (&prediction.top, flags.json) {
        (Some(top), false) => {
            for words in &prediction.prepared {
                tell!("{words}");
            }
            for example in &prediction.examples {
                if let Some(source) = &example.source {
                    tell!("example {}: {source}", example.place);
                }
            }
            say(&lines(top, prediction.targets.as_deref(), &flags.example))
        }
        _ => say(&pretty(&answer)),
    }
}

/// The request's body, where no file is.
fn asked(flags: &PredictFlags) -> Value {
    match (flags.example.is_empty(), flags.split) {
        (true, _) => json!({"texts": flags.text}),
        (false, None) => json!({"examples": flags.example}),
        (false, Some(SplitName::Train)) => json!({"examples": flags.example, "split": "train"}),
        (false, Some(SplitName::Test)) => json!({"examples": flags.example, "split": "test"}),
    }
}

/// A line for each example: its likeliest classes, and what the data set says of it.
fn lines(top: &[Vec<PredictedClass>], targets: Option<&[ExampleTarget]>, places: &[u32]) -> String {
    let class = |label: &str, name: &Option<String>| match name {
        Some(name) => name.clone(),
        None => label.to_owned(),
    };
    let mut text = String::new();
    for (row, classes) in top.iter().enumerate() {
        if let Some(place) = places.get(row) {
            text.push_str(&format!("example {place}: "));
        }
        let named = classes.iter().map(|one| {
            let name = class(&one.label.to_string(), &one.class);
            format!("{name} {:.4}", one.probability)
        });
        let named: Vec<String> = named.collect();
        text.push_str(match named.is_empty() {
            true => "the outputs are no finite numbers",
            false => "",
        });
        text.push_str(&named.join(", "));
        if let Some(target) = targets.and_then(|targets| targets.get(row)) {
            let name = class(&target.value.to_string(), &target.class);
            text.push_str(&format!("; the data set says {name}"));
        }
        text.push('\n');
    }
    text
}
