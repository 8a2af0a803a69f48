//! Versions of MLflow's registered models, and their files. A model as MLflow's `onnx` flavor writes it is a folder with
//! `model.onnx`, its external data where there is some, and files that tell others how to load it.

use std::io::Read;

use serde_json::Value;

use super::{Failure, JOB_TAG, Mlflow, PROJECT_TAG, number_of, served_path};
use crate::spec::child::MODEL_ARTIFACT;
use crate::spec::mlflow::{RegisteredModel, Which};
use crate::spec::tokens::TOKENIZER_FILE;

/// What stands beside a model and is no part of it, by the ends of the names.
const ABOUT: [&str; 13] = [
    "MLmodel",
    "SHA256SUMS",
    ".yaml",
    ".yml",
    ".json",
    ".txt",
    ".md",
    ".py",
    ".jinja",
    ".npy",
    ".npz",
    ".csv",
    ".pkl",
];

/// A version of a registered model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub name: String,
    pub number: String,
    /// Of the job that made it, if Sinter did.
    pub job: Option<String>,
    pub project: Option<String>,
    /// Where its files are; it has the id of the run or the model that they belong to.
    pub artifact_uri: String,
}

/// A file of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteFile {
    pub name: String,
    pub size_bytes: u64,
}

impl Mlflow {
    /// Looks a version up.
    pub fn find_version(&self, wanted: &RegisteredModel) -> Result<Version, Failure> {
        let name = wanted.name.as_str();
        let found = match &wanted.which {
            Which::Version(number) => self.get(
                "model-versions/get",
                &[("name", name), ("version", &number.to_string())],
            )?,
            Which::Alias(alias) => self.get(
                "registered-models/alias",
                &[("name", name), ("alias", alias)],
            )?,
        };
        let found = &found["model_version"];
        let number = number_of(found).ok_or(Failure::Incomplete("version"))?;
        let place = self.get(
            "model-versions/get-download-uri",
            &[("name", name), ("version", &number)],
        )?;
        let artifact_uri = place["artifact_uri"].as_str();
        let tag = |wanted: &str| {
            let tags = found["tags"].as_array()?;
            let tag = tags.iter().find(|tag| tag["key"] == wanted)?;
            tag["value"].as_str().map(str::to_owned)
        };
        Ok(Version {
            name: name.to_owned(),
            job: tag(JOB_TAG),
            project: tag(PROJECT_TAG),
            artifact_uri: artifact_uri
                .ok_or(Failure::Incomplete("artifact_uri"))?
                .to_owned(),
            number,
        })
    }

    /// The files of a version that are the model, `model.onnx` first; none if it has none in that form.
    pub fn model_files(&self, version: &Version) -> Result<Vec<RemoteFile>, Failure> {
        let path = served_path(&version.artifact_uri)?;
        let mut url = self.files_url(std::iter::empty())?;
        url.query_pairs_mut().append_pair("path", path);
        let listed = self.send("GET", url.as_str(), &[], ureq::SendBody::none())?;
        let mut files: Vec<RemoteFile> = listed["files"]
            .as_array()
            .ok_or(Failure::Incomplete("files"))?
            .iter()
            .filter(|file| file["is_dir"] != Value::Bool(true))
            .filter_map(|file| {
                let path = file["path"].as_str()?;
                Some(RemoteFile {
                    name: path.rsplit('/').next().unwrap_or(path).to_owned(),
                    size_bytes: file["file_size"].as_u64().unwrap_or(0),
                })
            })
            .filter(|file| {
                let beside = ABOUT.iter().any(|end| file.name.ends_with(end));
                file.name == TOKENIZER_FILE || !beside
            })
            .collect();
        if !files.iter().any(|file| file.name == MODEL_ARTIFACT) {
            return Ok(Vec::new());
        }
        files.sort_by_key(|file| (file.name != MODEL_ARTIFACT, file.name.clone()));
        Ok(files)
    }

    /// The bytes of a file.
    pub fn open(&self, version: &Version, file: &RemoteFile) -> Result<impl Read + use<>, Failure> {
        let url = self.file_url(&version.artifact_uri, &file.name)?;
        let answer = self.answer("GET", url.as_str(), &[], ureq::SendBody::none(), None)?;
        Ok(answer.into_body().into_reader())
    }
}
