//! `sinter submit`: a job for what the service has, or for files that are here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::fetch::fetch;
use super::upload::{Input, ReadingFlags, find};
use super::{Outcome, ServiceFlags, conclude, pretty, read_json, say};
use crate::client::follow::follow;
use crate::client::tell;
use crate::client::{Client, ClientError};
use crate::spec::Problem;

/// Flags of `sinter submit`.
#[derive(Debug, Clone, Args)]
pub struct SubmitFlags {
    /// What to do: train, evaluate, prune, distill, search or pipeline
    #[arg(value_name = "KIND")]
    kind: String,
    /// A file to upload, or the id or name of a model that the service has, or models:/NAME@ALIAS of its MLflow
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// A file with external data of the model; may be repeated [default: MODEL.data, if it is there]
    #[arg(long, value_name = "FILE")]
    model_data: Vec<PathBuf>,
    /// The tokenizer.json of a model that reads texts, which is uploaded with it
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// A file or folder to upload, or the id or name of a data set that the service has; may be repeated for a data set in
    /// several files (train.csv, test.csv)
    #[arg(long, value_name = "DATASET")]
    dataset: Vec<String>,
    #[command(flatten)]
    reading: ReadingFlags,
    /// Name of the job and of the model that it makes
    #[arg(long)]
    name: Option<String>,
    /// Parameters of the kind: JSON, or @FILE with it
    #[arg(long, value_name = "JSON", value_parser = read_json)]
    params: Option<Value>,
    /// One parameter, for instance target.macs_ratio=0.5; may be repeated, and wins over --params. Models among them
    /// (student.model, teachers) are ids, names or files, as with --model
    #[arg(long, value_name = "NAME=VALUE", value_parser = read_setting)]
    set: Vec<Setting>,
    /// The request's `data`: JSON, or @FILE with it
    #[arg(long, value_name = "JSON", value_parser = read_json)]
    data: Option<Value>,
    /// Whatever else the request has: JSON, or @FILE with it; flags win over it
    #[arg(long, value_name = "JSON", value_parser = read_json)]
    request: Option<Value>,
    /// A tag; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = read_pair)]
    tag: Vec<(String, String)>,
    /// Seed of all that is random
    #[arg(long)]
    seed: Option<u64>,
    /// Device to run on, as `GET /v1/devices` names them
    #[arg(long)]
    device: Option<String>,
    /// Print the job's plan and its cost instead of running it; files are uploaded nevertheless
    #[arg(long, conflicts_with_all = ["watch", "output"])]
    dry_run: bool,
    /// Follow the job to its end
    #[arg(long)]
    watch: bool,
    /// Follow the job, then fetch its model and report.html into this folder (`sinter get` fetches more)
    #[arg(long, value_name = "FOLDER")]
    output: Option<PathBuf>,
    #[command(flatten)]
    service: ServiceFlags,
}

/// A parameter by the names that lead to it.
#[derive(Debug, Clone, PartialEq)]
struct Setting {
    path: Vec<String>,
    value: Value,
}

fn read_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be like name=value".to_owned()),
    }
}

/// What is no JSON is a string, so that quotes are seldom needed.
fn read_setting(text: &str) -> Result<Setting, String> {
    let (name, value) = read_pair(text)?;
    let path: Vec<String> = name.split('.').map(str::to_owned).collect();
    if path.iter().any(String::is_empty) {
        return Err(format!("`{name}` has an empty name between its points"));
    }
    let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
    Ok(Setting { path, value })
}

impl Setting {
    fn apply(&self, params: &mut Value) -> Result<(), String> {
        let mut place = params;
        for name in &self.path {
            let Value::Object(fields) = place else {
                let name = self.path.join(".");
                return Err(format!(
                    "--set {name} leads through a value that is no object"
                ));
            };
            place = fields.entry(name).or_insert_with(|| json!({}));
        }
        *place = self.value.clone();
        Ok(())
    }
}

/// Gives the service a job.
pub fn submit(flags: &SubmitFlags) -> Outcome {
    let client = flags.service.client()?;
    let (body, uploaded) = request_of(flags, &client)?;
    let refused = |error: ClientError| taken_back(&client, &error.to_string(), &uploaded);
    if body["dry_run"] == true {
        return say(&pretty(&client.plan(&body).map_err(refused)?));
    }
    let id = client.submit(&body).map_err(refused)?;
    say(&format!("{id}\n"))?;
    if !flags.watch && flags.output.is_none() {
        return Ok(());
    }
    let name = flags.name.clone().unwrap_or_else(|| flags.kind.clone());
    let ended = follow::<ClientError>(&client, &[(name, id)], || Ok(()))?;
    conclude(&ended, false, &client)?;
    match &flags.output {
        Some(folder) => fetch(&client, id, &[], folder, true),
        None => Ok(()),
    }
}

/// What went up for a job, by the resources.
type Uploads = Vec<(&'static str, Uuid)>;

/// An error, after what went up for it is gone again: nobody looks for it, and by its name it would be taken for something else.
fn taken_back(client: &Client, error: &str, uploads: &Uploads) -> String {
    for (resource, id) in uploads {
        let path = format!("/v1/{resource}/{id}");
        if let Err(left) = client.act("DELETE", &path, None) {
            tell!("{id} was uploaded for nothing and stays: {left}");
        }
    }
    match uploads.is_empty() {
        true => error.to_owned(),
        false => format!("{error}\nWhat was uploaded for it was removed again."),
    }
}

/// The request's body; files that it names are uploaded, and the flags that name what came of them.
fn request_of(flags: &SubmitFlags, client: &Client) -> Outcome<(Value, Uploads)> {
    let mut body = match &flags.request {
        Some(Value::Object(fields)) => fields.clone(),
        _ => Map::new(),
    };
    body.insert("kind".to_owned(), json!(flags.kind));
    let given = flags.params.clone().or_else(|| body.remove("params"));
    let mut params = given.unwrap_or_else(|| json!({}));
    for setting in &flags.set {
        setting.apply(&mut params)?;
    }
    body.insert("params".to_owned(), params);
    if let Some(data) = &flags.data {
        body.insert("data".to_owned(), data.clone());
    }
    if !flags.tag.is_empty() {
        let tags: BTreeMap<_, _> = flags.tag.iter().cloned().collect();
        body.insert("tags".to_owned(), json!(tags));
    }
    let plain = [
        ("name", flags.name.as_ref().map(|name| json!(name))),
        ("seed", flags.seed.map(|seed| json!(seed))),
        ("device", flags.device.as_ref().map(|device| json!(device))),
        ("dry_run", flags.dry_run.then_some(json!(true))),
    ];
    for (name, value) in plain {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    }
    // All are looked for before one is uploaded.
    let mut beside = flags.model_data.clone();
    beside.extend(flags.tokenizer.clone());
    let model = match flags.model.starts_with("models:/") {
        true => None,
        false => Some(find(client, "models", &flags.model, &beside)?),
    };
    let choices = flags.reading.choices();
    let dataset = match flags.dataset.split_first() {
        None => None,
        Some((first, others)) => {
            let others: Vec<PathBuf> = others.iter().map(PathBuf::from).collect();
            let found = find(client, "datasets", first, &others)?;
            Some(found.read_as(client, &choices)?)
        }
    };
    if let (Some((name, _)), None) = (choices.first(), &dataset) {
        return Err(format!("--{name} goes with a --dataset").into());
    }
    if model.is_none() {
        body.insert("model".to_owned(), json!({"mlflow": flags.model}));
    }
    let mut body = Value::Object(body);
    let given = [("model", model), ("dataset", dataset)].into_iter();
    let mut inputs: Vec<(String, Input)> = given
        .filter_map(|(name, input)| Some((format!("/{name}"), input?)))
        .collect();
    let mut further = Vec::new();
    models_within(&body["params"], "/params".to_owned(), &mut further);
    for (pointer, wanted) in further {
        inputs.push((pointer, find(client, "models", &wanted, &[])?));
    }
    for (pointer, input) in &inputs {
        put(&mut body, pointer, input.known());
    }
    rehearse(client, &body, &inputs)?;
    let mut uploaded = Vec::new();
    for (pointer, input) in inputs {
        let (resource, choices) = match pointer.as_str() {
            "/dataset" => ("datasets", choices.as_slice()),
            _ => ("models", &[][..]),
        };
        let id = input.id(client, choices);
        let (id, is_new) = id.map_err(|error| taken_back(client, &error.to_string(), &uploaded))?;
        if is_new {
            uploaded.push((resource, id));
        }
        put(&mut body, &pointer, id);
    }
    Ok((body, uploaded))
}

/// Where parameters name models in other words than by their ids: the pointer and the word.
fn models_within(params: &Value, pointer: String, found: &mut Vec<(String, String)>) {
    let student = params.pointer("/student/model");
    let teachers = params["teachers"].as_array().into_iter().flatten();
    let places = teachers
        .enumerate()
        .map(|(index, teacher)| (format!("{pointer}/teachers/{index}"), teacher));
    let places = places.chain(student.map(|model| (format!("{pointer}/student/model"), model)));
    for (place, model) in places {
        if let Some(word) = model.as_str().filter(|word| word.parse::<Uuid>().is_err()) {
            found.push((place, word.to_owned()));
        }
    }
    let steps = params["steps"].as_array().into_iter().flatten();
    for (index, step) in steps.enumerate() {
        models_within(
            &step["params"],
            format!("{pointer}/steps/{index}/params"),
            found,
        );
    }
}

/// Puts an id into its place, which is there unless it is a field of the request.
fn put(body: &mut Value, pointer: &str, id: Uuid) {
    match body.pointer_mut(pointer) {
        Some(place) => *place = json!(id),
        None => body[pointer.trim_start_matches('/')] = json!(id),
    }
}

/// Posts the request before its files are there, with an id that nothing has: what is wrong with it besides is told
/// before they go up.
fn rehearse(client: &Client, body: &Value, inputs: &[(String, Input)]) -> Result<(), ClientError> {
    let missing = inputs
        .iter()
        .filter(|(_, input)| input.known().is_nil())
        .map(|(pointer, _)| pointer.as_str());
    let missing: Vec<&str> = missing.collect();
    if missing.is_empty() {
        return Ok(());
    }
    match client.submit(body) {
        Err(ClientError::Refused {
            call,
            status,
            mut problem,
        }) => {
            let all = problem.errors.len();
            problem
                .errors
                .retain(|fault| !missing.contains(&fault.pointer.as_str()));
            match (problem.errors.len(), all) {
                (0, 1..) => return Ok(()),
                (left, all) if left < all => {
                    problem.detail = Problem::invalid(problem.errors.clone()).detail;
                    if problem.code.ends_with("_not_found") {
                        *problem = problem.with_code("invalid_request");
                    }
                }
                _ => {}
            }
            Err(ClientError::Refused {
                call,
                status,
                problem,
            })
        }
        other => other.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_that_parameters_name_are_found_where_they_are() {
        let id = "019353e0-0000-7000-8000-000000000001";
        let params = json!({"steps": [
            {"kind": "prune"},
            {"kind": "distill", "params": {"student": {"model": "small"}, "teachers": [id, "large"]}},
        ]});
        let mut found = Vec::new();
        models_within(&params, "/params".to_owned(), &mut found);
        let at = "/params/steps/1/params";
        let wanted = [("teachers/1", "large"), ("student/model", "small")];
        let wanted = wanted.map(|(place, name)| (format!("{at}/{place}"), name.to_owned()));
        assert_eq!(found, wanted);
    }

    #[test]
    fn settings_lead_to_their_place_and_words_need_no_quotes() {
        let mut params = json!({"finetune": {"epochs": 2}});
        for text in [
            "target.macs_ratio=0.5",
            "criterion=taylor",
            "finetune.epochs=3",
        ] {
            read_setting(text).unwrap().apply(&mut params).unwrap();
        }
        let wanted = json!({"target": {"macs_ratio": 0.5}, "criterion": "taylor", "finetune": {"epochs": 3}});
        assert_eq!(params, wanted);
        let through = read_setting("criterion.norm=1").unwrap();
        assert!(through.apply(&mut params).is_err());
        assert!(read_setting("a..b=1").is_err());
    }
}
