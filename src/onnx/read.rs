//! Reading an uploaded ONNX file with the distrust that it needs.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use prost::Message;

use super::proto::{DATA_LOCATION_EXTERNAL, GraphProto, ModelProto, TensorProto};

/// Why a file is no usable ONNX model.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the file can't be read: {0}")]
    Io(#[from] std::io::Error),
    #[error(
        "not an ONNX model: {0}; upload the .onnx file itself, whole (a broken download or a \
         Git LFS pointer looks like this)"
    )]
    NotProtobuf(String),
    #[error("the ONNX file holds no graph; it is empty or truncated")]
    NoGraph,
    #[error(
        "tensor `{tensor}` is stored in the external file `{location}`, which was not uploaded; \
         upload both as parts named `file` of one multipart form (on the page choose both files at once; \
         `sinter submit` has --model-data)"
    )]
    MissingExternalFile { tensor: String, location: String },
    #[error(
        "tensor `{tensor}` points at the external file `{location}`, outside of the upload; only \
         files beside the model may be named"
    )]
    ExternalFileOutside { tensor: String, location: String },
    #[error(
        "tensor `{tensor}` wants bytes {offset} to {end} of `{location}`, which has {size} bytes"
    )]
    ExternalRange {
        tensor: String,
        location: String,
        offset: u64,
        end: u64,
        size: u64,
    },
    #[error("tensor `{tensor}` has an external data entry `{key}` that is no number")]
    ExternalEntry { tensor: String, key: String },
    #[error("a model with its external data is limited to 2 GiB, the limit of protobuf")]
    TooLarge,
    #[error("the model holds graphs in graphs, too deep")]
    TooDeep,
}

/// Reads the messages of a model file; tensors stay as they are stored.
pub fn read_model(path: &Path) -> Result<ModelProto, ReadError> {
    let bytes = std::fs::read(path)?;
    decode_model(&bytes)
}

/// The messages of a model file that is in memory.
pub fn decode_model(bytes: &[u8]) -> Result<ModelProto, ReadError> {
    let model =
        ModelProto::decode(bytes).map_err(|error| ReadError::NotProtobuf(error.to_string()))?;
    match &model.graph {
        Some(graph) if !graph.node.is_empty() || !graph.output.is_empty() => Ok(model),
        _ => Err(ReadError::NoGraph),
    }
}

/// Moves external data into the model itself, in subgraphs as well. `files` are the uploaded files
/// by name; returns the names of those that were used.
pub fn embed_external_data(
    model: &mut ModelProto,
    files: &HashMap<String, PathBuf>,
) -> Result<BTreeSet<String>, ReadError> {
    let mut embedded = Embedded::default();
    if let Some(graph) = &mut model.graph {
        embed_in_graph(graph, files, &mut embedded, DEEPEST)?;
    }
    Ok(embedded.used)
}

/// How deep graphs may stand in graphs.
const DEEPEST: usize = 32;

/// What was moved into the model so far.
#[derive(Default)]
struct Embedded {
    bytes: u64,
    used: BTreeSet<String>,
}

fn embed_in_graph(
    graph: &mut GraphProto,
    files: &HashMap<String, PathBuf>,
    embedded: &mut Embedded,
    depth: usize,
) -> Result<bool, ReadError> {
    if depth == 0 {
        return Err(ReadError::TooDeep);
    }
    let mut found = false;
    let mut visit = |tensor: &mut TensorProto, embedded: &mut Embedded| {
        if tensor.data_location == Some(DATA_LOCATION_EXTERNAL) {
            embed(tensor, files, embedded)?;
            found = true;
        }
        Ok::<_, ReadError>(())
    };
    for tensor in &mut graph.initializer {
        visit(tensor, embedded)?;
    }
    let mut nested = Vec::new();
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        for tensor in attribute.t.iter_mut().chain(&mut attribute.tensors) {
            visit(tensor, embedded)?;
        }
        nested.extend(attribute.g.iter_mut().chain(&mut attribute.graphs));
    }
    for bytes in nested {
        let unreadable = |error: prost::DecodeError| ReadError::NotProtobuf(error.to_string());
        let mut inner = GraphProto::decode(bytes.as_slice()).map_err(unreadable)?;
        if embed_in_graph(&mut inner, files, embedded, depth - 1)? {
            *bytes = inner.encode_to_vec();
            found = true;
        }
    }
    Ok(found)
}

fn embed(
    tensor: &mut TensorProto,
    files: &HashMap<String, PathBuf>,
    embedded: &mut Embedded,
) -> Result<(), ReadError> {
    let name = tensor.name.clone().unwrap_or_default();
    let entry = |key: &str| {
        tensor
            .external_data
            .iter()
            .find(|entry| entry.key.as_deref() == Some(key))
            .and_then(|entry| entry.value.as_deref())
    };
    let number = |key: &str| match entry(key) {
        None => Ok(None),
        Some(text) => text
            .parse::<u64>()
            .map(Some)
            .map_err(|_| ReadError::ExternalEntry {
                tensor: name.clone(),
                key: key.to_owned(),
            }),
    };
    let location = entry("location").unwrap_or_default().to_owned();
    let relative = location.strip_prefix("./").unwrap_or(&location);
    let outside = Path::new(relative)
        .components()
        .any(|part| !matches!(part, std::path::Component::Normal(_)));
    if outside || relative.is_empty() || relative.contains('\\') {
        return Err(ReadError::ExternalFileOutside {
            tensor: name,
            location,
        });
    }
    let Some(path) = files.get(relative) else {
        return Err(ReadError::MissingExternalFile {
            tensor: name,
            location,
        });
    };
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let offset = number("offset")?.unwrap_or(0);
    let length = match number("length")? {
        Some(length) => length,
        None => size.saturating_sub(offset),
    };
    let end = offset.saturating_add(length);
    if end > size {
        return Err(ReadError::ExternalRange {
            tensor: name,
            location,
            offset,
            end,
            size,
        });
    }
    embedded.bytes = embedded.bytes.saturating_add(length);
    if embedded.bytes >= 1 << 31 {
        return Err(ReadError::TooLarge);
    }
    embedded.used.insert(relative.to_owned());
    file.seek(SeekFrom::Start(offset))?;
    let mut raw = Vec::with_capacity(length as usize);
    file.take(length).read_to_end(&mut raw)?;
    tensor.raw_data = Some(raw);
    tensor.external_data.clear();
    tensor.data_location = None;
    Ok(())
}
