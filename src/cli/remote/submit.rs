//! `sinter submit` and `sinter upload`: jobs, models and data sets from files that are here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::fetch::fetch;
use super::{Outcome, ServiceFlags, conclude, newest, pretty, read_json, say, transfer_bar};
use crate::client::follow::follow;
use crate::client::tell;
use crate::client::{Client, ClientError, LocalFile, id_of};
use crate::spec::Problem;
use crate::spec::dataset::USUAL_TARGETS;

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
    /// A file to upload, or the id or name of a data set that the service has
    #[arg(long, value_name = "DATASET")]
    dataset: Option<String>,
    /// Column of a table that is to be predicted [default: the last]; the files of a data set that is there are read again
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// Column of a table that holds texts
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
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

/// What can be uploaded by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Uploaded {
    Model,
    Dataset,
}

/// Flags of `sinter upload`.
#[derive(Debug, Clone, Args)]
pub struct UploadFlags {
    /// What it is
    #[arg(value_enum)]
    what: Uploaded,
    /// The file; of a model with external data, and of a data set in several files, the others behind it
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Its name [default: that of the file]
    #[arg(long)]
    name: Option<String>,
    /// Column of a table that is to be predicted, or array that is the target
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// Column of a table that holds texts
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
    #[command(flatten)]
    service: ServiceFlags,
}

/// Gives the service a model or a data set, and prints the id.
pub fn upload(flags: &UploadFlags) -> Outcome {
    let client = flags.service.client()?;
    let resource = match flags.what {
        Uploaded::Model => "models",
        Uploaded::Dataset => "datasets",
    };
    let options = columns(&flags.target, &flags.text);
    if let (Uploaded::Model, Some((name, _))) = (flags.what, options.first()) {
        return Err(format!("--{name} is for data sets").into());
    }
    if let Some(path) = flags.files.iter().find(|path| !path.is_file()) {
        return Err(format!("there is no file `{}`", path.display()).into());
    }
    let input = files_of(
        resource,
        &flags.files[0],
        &flags.files[1..],
        flags.name.clone(),
    );
    // It is wanted as it is, whatever there is already.
    let id = input.uploaded(&client, &options)?;
    say(&format!("{id}\n"))
}

/// The query of an upload that says how a data set is read.
fn columns<'a>(
    target: &'a Option<String>,
    text: &'a Option<String>,
) -> Vec<(&'static str, &'a str)> {
    let given = [("target", target), ("text", text)].into_iter();
    given
        .filter_map(|(name, column)| Some((name, column.as_deref()?)))
        .collect()
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
    let refused = |error: ClientError| with_uploads(&error.to_string(), &uploaded);
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

/// An error, and what can be named instead of what went up before it.
fn with_uploads(error: &str, uploaded: &[String]) -> String {
    match uploaded {
        [] => error.to_owned(),
        uploaded => format!(
            "{error}\nThe uploads stay: name them by {} instead of the files and flags that go with files, or remove them by `sinter rm`",
            uploaded.join(" ")
        ),
    }
}

/// The request's body; files that it names are uploaded, and the flags that name what came of them.
fn request_of(flags: &SubmitFlags, client: &Client) -> Outcome<(Value, Vec<String>)> {
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
    let model = match flags.model.starts_with("models:/") {
        true => None,
        false => Some(find(client, "models", &flags.model, &flags.model_data)?),
    };
    let dataset = flags.dataset.as_deref();
    let dataset = dataset.map(|dataset| find(client, "datasets", dataset, &[]));
    let dataset = dataset.transpose()?;
    let columns = columns(&flags.target, &flags.text);
    if let (Some((name, _)), None) = (columns.first(), &dataset) {
        return Err(format!("--{name} goes with a --dataset").into());
    }
    let dataset = match dataset {
        Some(Input::There(id)) if !is_read_as(client, id, &columns)? => Some(Input::Otherwise(id)),
        other => other,
    };
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
        let is_new = input.known().is_nil();
        let options = match pointer.as_str() {
            "/dataset" => columns.as_slice(),
            _ => &[],
        };
        let id = input.id(client, options);
        let id = id.map_err(|error| with_uploads(&error.to_string(), &uploaded))?;
        if is_new {
            let place = match pointer.strip_prefix("/params/") {
                None => format!("--{}", pointer.trim_start_matches('/')),
                Some(place) => format!("in the params {}", place.replace('/', ".")),
            };
            uploaded.push(format!("{place} {id}"));
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

/// A model or a data set that a job is to be for.
enum Input {
    There(Uuid),
    /// A data set that is there, but was read with other columns.
    Otherwise(Uuid),
    Files {
        resource: &'static str,
        name: String,
        files: Vec<LocalFile>,
    },
}

impl Input {
    /// Nil where nothing is there yet.
    fn known(&self) -> Uuid {
        match self {
            Self::There(id) => *id,
            Self::Files { .. } | Self::Otherwise(_) => Uuid::nil(),
        }
    }

    /// Uploads it unless it is there; what is there otherwise than it is wanted is read again.
    fn id(self, client: &Client, options: &[(&str, &str)]) -> Outcome<Uuid> {
        match &self {
            Self::There(id) => Ok(*id),
            Self::Otherwise(id) => read_again(client, *id, options),
            Self::Files {
                resource, files, ..
            } => match uploaded_before(client, resource, files, options)? {
                Some(there) => Ok(there),
                None => self.uploaded(client, options),
            },
        }
    }

    /// Uploads it.
    fn uploaded(self, client: &Client, options: &[(&str, &str)]) -> Outcome<Uuid> {
        let (resource, name, files) = match self {
            Self::There(id) | Self::Otherwise(id) => return Ok(id),
            Self::Files {
                resource,
                name,
                files,
            } => (resource, name, files),
        };
        let shown = files.first().map_or(Path::new(""), |file| &file.path);
        let bar = transfer_bar(&format!("uploading {}", shown.display()));
        let query: Vec<_> = [("name", name.as_str())]
            .into_iter()
            .chain(options.iter().copied())
            .collect();
        let id = client.upload(resource, &query, &files, &bar)?;
        bar.finish_and_clear();
        tell!("uploaded {} as {id}", shown.display());
        Ok(id)
    }
}

/// Whether a data set that the service has was read with these columns.
fn is_read_as(client: &Client, id: Uuid, columns: &[(&str, &str)]) -> Outcome<bool> {
    if columns.is_empty() {
        return Ok(true);
    }
    // What is not there the job's check tells.
    let Some(row) = client.find::<Value>(&format!("/v1/datasets/{id}"))? else {
        return Ok(true);
    };
    let inputs = row["inputs"].as_array().into_iter().flatten();
    let mut texts = inputs.filter(|input| input["media"] == "text");
    let text = texts.next().map_or(&Value::Null, |input| &input["name"]);
    Ok(columns.iter().all(|(name, column)| match *name {
        "target" => row["target"]["name"] == **column,
        _ => text == *column,
    }))
}

/// Another data set of the same files, with these columns.
fn read_again(client: &Client, id: Uuid, columns: &[(&str, &str)]) -> Outcome<Uuid> {
    let source = id.to_string();
    let mut query = vec![("files_of", source.as_str())];
    query.extend(columns.iter().copied());
    let again = client.upload_bytes("datasets", &query, &[])?;
    tell!("read the files of {id} again as {again}");
    Ok(again)
}

/// What the service has of the same bytes, read in the same way; a file of several, and tables and archives, whose
/// columns may have been chosen, are uploaded again.
fn uploaded_before(
    client: &Client,
    resource: &str,
    files: &[LocalFile],
    options: &[(&str, &str)],
) -> Outcome<Option<Uuid>> {
    let [file] = files else {
        return Ok(None);
    };
    let usual = |name: &str| USUAL_TARGETS.contains(&name);
    let is_alike = |row: &&Value| {
        let inputs = row["inputs"].as_array().into_iter().flatten();
        let mut inputs = inputs.filter_map(|input| input["name"].as_str());
        let own = row["target"]["name"].as_str();
        match row["format"].as_str() {
            _ if resource == "models" => true,
            Some("idx") => options.is_empty(),
            // Of arrays the names say how they were read.
            Some("npz" | "safetensors") => match options {
                [] => own.is_none_or(usual) && !inputs.any(usual),
                [("target", wanted)] => own == Some(wanted),
                _ => false,
            },
            _ => false,
        }
    };
    let found = client.of_file(resource, &file.path)?;
    let Some(row) = found.iter().find(is_alike) else {
        return Ok(None);
    };
    let Some(id) = id_of(row) else {
        return Ok(None);
    };
    let name = row["name"].as_str().unwrap_or_default();
    tell!(
        "{} is there already, as `{name}`: {id}",
        file.path.display()
    );
    Ok(Some(id))
}

/// An id, a file that is here, or the name of what the service has.
fn find(
    client: &Client,
    resource: &'static str,
    wanted: &str,
    further: &[PathBuf],
) -> Outcome<Input> {
    let path = Path::new(wanted);
    let id = wanted.parse().ok();
    if id.is_none() && path.is_file() {
        return Ok(files_of(resource, path, further, None));
    }
    if !further.is_empty() {
        return Err("--model-data goes with a --model that is a file".into());
    }
    if let Some(id) = id {
        return Ok(Input::There(id));
    }
    if let Some(found) = newest(client, resource, wanted)? {
        return Ok(Input::There(found));
    }
    let (what, other, of_other) = match resource {
        "models" => ("model", "datasets", "; a data set is"),
        _ => ("data set", "models", "; a model is"),
    };
    let is_other = client.find_by_name(other, wanted)?.is_some();
    Err(Box::new(ClientError::Unknown {
        what,
        name: wanted.to_owned(),
        folder: match path.is_dir() {
            true => " (a folder goes into a zip or tar)",
            false => "",
        },
        other: if is_other { of_other } else { "" },
    }))
}

/// A file to upload, with those that belong to it.
fn files_of(
    resource: &'static str,
    path: &Path,
    further: &[PathBuf],
    name: Option<String>,
) -> Input {
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut files = vec![local(path, folder)];
    files.extend(further.iter().map(|path| local(path, folder)));
    // As PyTorch's exporter names it.
    let mut usual = path.as_os_str().to_owned();
    usual.push(".data");
    let usual = PathBuf::from(usual);
    if further.is_empty() && resource == "models" && usual.is_file() {
        files.push(local(&usual, folder));
    }
    let stem = || {
        path.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    Input::Files {
        resource,
        name: name.unwrap_or_else(stem),
        files,
    }
}

/// External data is named as seen from the model.
fn local(path: &Path, folder: &Path) -> LocalFile {
    let own = Path::new(path.file_name().unwrap_or_default());
    let name = path.strip_prefix(folder).unwrap_or(own);
    LocalFile {
        name: name.to_string_lossy().into_owned(),
        path: path.to_owned(),
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
