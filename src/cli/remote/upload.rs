//! `sinter upload`, and what `sinter submit` finds or uploads: models and data sets from files that are here.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tempfile::TempPath;
use uuid::Uuid;

use super::{Outcome, ServiceFlags, newest, say, transfer_bar};
use crate::client::tell;
use crate::client::{Client, ClientError, LocalFile, id_of};
use crate::spec::dataset::USUAL_TARGETS;

/// How a data set is read.
#[derive(Debug, Clone, Args)]
pub struct ReadingFlags {
    /// Column of a table or manifest that is to be predicted, or array that is the target [default: the last column, the
    /// array y, target, label or labels]; the files of a data set that is there are read again
    #[arg(long, value_name = "COLUMN")]
    target: Option<String>,
    /// Column of a table that holds texts
    #[arg(long, value_name = "COLUMN")]
    text: Option<String>,
    /// What happens to files, texts and rows of tables that can't be used: skip or refuse [default: refuse]
    #[arg(long, value_name = "HOW")]
    damaged: Option<String>,
    /// Names of the classes, with commas between, in the order in which the model numbers them [default: that of the alphabet]
    #[arg(long, value_name = "NAMES")]
    classes: Option<String>,
    /// Columns of a table that are no inputs, with commas between
    #[arg(long, value_name = "COLUMNS")]
    exclude: Option<String>,
    /// Format of the data set, where its bytes and names don't tell
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// One choice of how a data set is read: a query parameter and its value.
pub type Choice = (&'static str, String);

impl ReadingFlags {
    /// All that are given.
    pub fn choices(&self) -> Vec<Choice> {
        let all = [
            ("target", &self.target),
            ("text", &self.text),
            ("damaged", &self.damaged),
            ("classes", &self.classes),
            ("exclude", &self.exclude),
            ("format", &self.format),
        ];
        all.into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?)))
            .collect()
    }
}

/// What can be uploaded by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Uploaded {
    #[value(alias = "models")]
    Model,
    #[value(alias = "datasets")]
    Dataset,
}

/// Flags of `sinter upload`.
#[derive(Debug, Clone, Args)]
pub struct UploadFlags {
    /// What it is
    #[arg(value_enum)]
    what: Uploaded,
    /// The file; behind that of a model those with its external data, and its tokenizer.json; of a data set all of its files
    /// (train.csv test.csv tokenizer.json), or a folder, whose links are followed
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Its name [default: that of the file]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    reading: ReadingFlags,
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
    let choices = flags.reading.choices();
    if let (Uploaded::Model, Some((name, _))) = (flags.what, choices.first()) {
        return Err(format!("--{name} is for data sets").into());
    }
    let files = Files::of(resource, &flags.files, flags.name.clone())?;
    // It is wanted as it is, whatever there is already.
    let id = files.upload(&client, &choices)?;
    say(&format!("{id}\n"))
}

/// A model or a data set that a job is to be for.
pub enum Input {
    There(Uuid),
    /// A data set that is there, but was read in another way.
    Otherwise(Uuid),
    Here(Files),
}

impl Input {
    /// Nil where nothing is there yet.
    pub fn known(&self) -> Uuid {
        match self {
            Self::There(id) => *id,
            Self::Here(_) | Self::Otherwise(_) => Uuid::nil(),
        }
    }

    /// The id; uploads it unless it is there, and what is there otherwise than it is wanted is read again. And whether it is new.
    pub fn id(self, client: &Client, choices: &[Choice]) -> Outcome<(Uuid, bool)> {
        match self {
            Self::There(id) => Ok((id, false)),
            Self::Otherwise(id) => Ok((read_again(client, id, choices)?, true)),
            Self::Here(files) => match uploaded_before(client, &files, choices)? {
                Some(there) => Ok((there, false)),
                None => Ok((files.upload(client, choices)?, true)),
            },
        }
    }

    /// A data set as it is wanted.
    pub fn read_as(self, client: &Client, choices: &[Choice]) -> Outcome<Self> {
        match self {
            Self::There(id) if !is_read_as(client, id, choices)? => Ok(Self::Otherwise(id)),
            other => Ok(other),
        }
    }
}

/// Files to upload, which belong together.
pub struct Files {
    resource: &'static str,
    name: String,
    files: Vec<LocalFile>,
    /// A folder as it is sent; it goes away afterwards.
    _packed: Option<TempPath>,
}

impl Files {
    /// The first is the model; a data set may be a folder.
    pub fn of(resource: &'static str, paths: &[PathBuf], name: Option<String>) -> Outcome<Self> {
        let [path, further @ ..] = paths else {
            return Err("there is no file to upload".into());
        };
        let stem = |path: &Path| {
            let stem = if path.is_dir() {
                path.file_name()
            } else {
                path.file_stem()
            };
            stem.unwrap_or_default().to_string_lossy().into_owned()
        };
        let named = |path: &Path| name.clone().unwrap_or_else(|| stem(path));
        if let ("datasets", [folder]) = (resource, paths)
            && folder.is_dir()
        {
            let folder = folder.canonicalize()?;
            let packed = pack(&folder)?;
            let file = LocalFile {
                name: format!("{}.tar", stem(&folder)),
                path: packed.to_path_buf(),
            };
            return Ok(Self {
                resource,
                name: named(&folder),
                files: vec![file],
                _packed: Some(packed),
            });
        }
        for path in paths {
            if path.is_dir() {
                return Err(format!(
                    "`{}` is a folder; a data set can be one, by itself",
                    path.display()
                )
                .into());
            }
            if !path.is_file() {
                return Err(format!("there is no file `{}`", path.display()).into());
            }
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut files: Vec<LocalFile> = paths.iter().map(|path| local(path, folder)).collect();
        // As PyTorch's exporter names it.
        let mut usual = path.as_os_str().to_owned();
        usual.push(".data");
        let usual = PathBuf::from(usual);
        let is_tokenizer = |path: &PathBuf| {
            path.extension()
                .is_some_and(|name| name.eq_ignore_ascii_case("json"))
        };
        if further.iter().all(is_tokenizer) && resource == "models" && usual.is_file() {
            files.push(local(&usual, folder));
        }
        let mut names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!(
                "two files are called `{}`: name the folder that they are in, and they keep their places",
                twice[0]
            )
            .into());
        }
        Ok(Self {
            resource,
            name: named(path),
            files,
            _packed: None,
        })
    }

    /// What people gave.
    fn shown(&self) -> String {
        match (&self._packed, self.files.first()) {
            (None, Some(file)) => file.path.display().to_string(),
            _ => self.name.clone(),
        }
    }

    fn upload(&self, client: &Client, choices: &[Choice]) -> Outcome<Uuid> {
        let shown = self.shown();
        let bar = transfer_bar(&format!("uploading {shown}"));
        let choices = choices.iter().map(|(name, value)| (*name, value.as_str()));
        let query: Vec<_> = std::iter::once(("name", self.name.as_str()))
            .chain(choices)
            .collect();
        let id = client.upload(self.resource, &query, &self.files, &bar)?;
        bar.finish_and_clear();
        tell!("uploaded {shown} as {id}");
        if self.resource == "datasets" {
            tell_reading(client, id)?;
        }
        Ok(id)
    }
}

/// Says what of a data set nobody chose: its target, and what was left out.
fn tell_reading(client: &Client, id: Uuid) -> Outcome {
    let Some(row) = client.find::<Value>(&format!("/v1/datasets/{id}"))? else {
        return Ok(());
    };
    match row["target"]["name"].as_str() {
        Some(name) => tell!("its target is `{name}`"),
        None => tell!("it has no target"),
    }
    match row["skipped"].as_array().map_or(0, Vec::len) {
        0 => {}
        1 => tell!("1 example can't be used and is left out"),
        count => tell!("{count} examples can't be used and are left out"),
    }
    Ok(())
}

/// All that is in a folder, as one file.
fn pack(folder: &Path) -> Outcome<TempPath> {
    let failed =
        |error: std::io::Error| format!("can't read the folder `{}`: {error}", folder.display());
    let file = tempfile::NamedTempFile::new().map_err(failed)?;
    let mut archive = tar::Builder::new(std::io::BufWriter::new(file.as_file()));
    archive.mode(tar::HeaderMode::Deterministic);
    archive.append_dir_all("", folder).map_err(failed)?;
    let written = archive.into_inner().map_err(failed)?;
    written
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    Ok(file.into_temp_path())
}

/// Whether a data set that the service has was read in this way.
fn is_read_as(client: &Client, id: Uuid, choices: &[Choice]) -> Outcome<bool> {
    if choices.is_empty() {
        return Ok(true);
    }
    // What is not there the job's check tells.
    let Some(row) = client.find::<Value>(&format!("/v1/datasets/{id}"))? else {
        return Ok(true);
    };
    let inputs = row["inputs"].as_array().into_iter().flatten();
    let mut texts = inputs.filter(|input| input["media"] == "text");
    let text = texts.next().map_or(&Value::Null, |input| &input["name"]);
    let classes = row["target"]["class_names"]
        .as_array()
        .into_iter()
        .flatten();
    let classes: Vec<&str> = classes.filter_map(Value::as_str).collect();
    Ok(choices.iter().all(|(name, wanted)| match *name {
        "target" => row["target"]["name"] == *wanted,
        "text" => text == wanted,
        "classes" => listed(wanted) == classes,
        // It is there, so that nothing was damaged, or it was left out.
        "damaged" => wanted == "skip" || row["skipped"] == json!([]),
        "exclude" => row["excluded"] == json!(listed(wanted)),
        "format" => row["format"] == *wanted,
        _ => false,
    }))
}

/// Names as a query has them: a JSON list, or with commas between.
fn listed(names: &str) -> Vec<String> {
    let commas = || names.split(',').map(|name| name.trim().to_owned());
    serde_json::from_str(names).unwrap_or_else(|_| commas().collect())
}

/// Another data set of the same files, read in this way.
fn read_again(client: &Client, id: Uuid, choices: &[Choice]) -> Outcome<Uuid> {
    let source = id.to_string();
    let mut query = vec![("files_of", source.as_str())];
    query.extend(choices.iter().map(|(name, value)| (*name, value.as_str())));
    let again = client.upload_bytes("datasets", &query, &[])?;
    tell!("read the files of {id} again as {again}");
    Ok(again)
}

/// What the service has of the same bytes, read in the same way; a file of several, and tables, whose columns may have been
/// chosen, are uploaded again.
fn uploaded_before(client: &Client, files: &Files, options: &[Choice]) -> Outcome<Option<Uuid>> {
    let resource = files.resource;
    let [file] = files.files.as_slice() else {
        return Ok(None);
    };
    let usual = |name: &str| USUAL_TARGETS.contains(&name.to_lowercase().as_str());
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
                [("target", wanted)] => own == Some(wanted.as_str()),
                _ => false,
            },
            // Files in folders, of which none was left out; their classes may have been ordered.
            Some("images" | "audio" | "texts") => {
                let classes = row["target"]["class_names"]
                    .as_array()
                    .into_iter()
                    .flatten();
                let classes = classes.map(|name| name.as_str().unwrap_or_default());
                let is_usual = own.is_none_or(|own| own == "class") && classes.is_sorted();
                options.is_empty() && row["skipped"] == json!([]) && is_usual
            }
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
    tell!("{} is there already, as `{name}`: {id}", files.shown());
    Ok(Some(id))
}

/// An id, files that are here, or the name of what the service has. `further` files belong to the first.
pub fn find(
    client: &Client,
    resource: &'static str,
    wanted: &str,
    further: &[PathBuf],
) -> Outcome<Input> {
    let path = Path::new(wanted);
    let id = wanted.parse().ok();
    let is_here = path.is_file() || (resource == "datasets" && path.is_dir());
    if id.is_none() && is_here {
        let mut paths = vec![path.to_owned()];
        paths.extend_from_slice(further);
        return Files::of(resource, &paths, None).map(Input::Here);
    }
    if !further.is_empty() {
        return Err(match resource {
            "models" => "--model-data and --tokenizer go with a --model that is a file".into(),
            _ => format!(
                "several --dataset are files of one data set, and there is no file `{wanted}`"
            )
            .into(),
        });
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
            true => " (a folder is no model)",
            false => "",
        },
        other: if is_other { of_other } else { "" },
    }))
}

/// External data is named as seen from the model; a tokenizer by its usual name, wherever it is.
fn local(path: &Path, folder: &Path) -> LocalFile {
    let own = Path::new(path.file_name().unwrap_or_default());
    let name = path.strip_prefix(folder).unwrap_or(own);
    LocalFile {
        name: name.to_string_lossy().into_owned(),
        path: path.to_owned(),
    }
}
