//! Reading an uploaded ONNX file with the distrust that it needs.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use prost::Message;
use prost::bytes::Buf;

use super::proto::{DATA_LOCATION_EXTERNAL, GraphProto, ModelProto, TensorProto};

/// Why a file is no usable ONNX model.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the file can't be read: {0}")]
    Io(#[from] std::io::Error),
    #[error(
        "not an ONNX model: {0}; upload the .onnx file itself, whole (a broken download looks like this, and so does what curl sends with -d instead of --data-binary)"
    )]
    NotProtobuf(String),
    #[error("not an ONNX model: this is {0}")]
    OtherFormat(&'static str),
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

/// Reads the messages of a model file; tensors stay as they are stored. The file passes through a window, so that memory holds
/// its messages, one tensor twice for a moment, and not its bytes beside them, and what is no model is told by its beginning.
pub fn read_model(path: &Path) -> Result<ModelProto, ReadError> {
    let mut window = Window::open(path)?;
    let model = decode(&mut window);
    match window.fault {
        Some(fault) => Err(fault.into()),
        None => model,
    }
}

/// The messages of a model file that is in memory.
pub fn decode_model(bytes: &[u8]) -> Result<ModelProto, ReadError> {
    decode(bytes)
}

fn decode(bytes: impl Buf) -> Result<ModelProto, ReadError> {
    if let Some(format) = other_format(bytes.chunk()) {
        return Err(ReadError::OtherFormat(format));
    }
    let model =
        ModelProto::decode(bytes).map_err(|error| ReadError::NotProtobuf(error.to_string()))?;
    match &model.graph {
        Some(graph) if !graph.node.is_empty() || !graph.output.is_empty() => Ok(model),
        _ => Err(ReadError::NoGraph),
    }
}

/// Bytes of a file that are in memory at a time.
const WINDOW_BYTES: usize = 256 << 10;

/// A file from its beginning to its end, as prost takes bytes.
struct Window {
    file: File,
    bytes: Vec<u8>,
    /// How much of `bytes` was taken.
    taken: usize,
    /// Bytes of the file behind these.
    behind: u64,
    /// Why the file could not be read on; zeros are in the place of what is missing, so that its length stays.
    fault: Option<std::io::Error>,
}

impl Window {
    fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        let behind = file.metadata()?.len();
        let mut window = Self {
            file,
            bytes: vec![0; behind.min(WINDOW_BYTES as u64) as usize],
            taken: 0,
            behind,
            fault: None,
        };
        window.fill();
        Ok(window)
    }

    fn fill(&mut self) {
        self.bytes
            .truncate(self.behind.min(WINDOW_BYTES as u64) as usize);
        self.taken = 0;
        self.behind -= self.bytes.len() as u64;
        if self.fault.is_none()
            && let Err(fault) = self.file.read_exact(&mut self.bytes)
        {
            self.fault = Some(fault);
        }
        if self.fault.is_some() {
            self.bytes.fill(0);
        }
    }
}

impl Buf for Window {
    fn remaining(&self) -> usize {
        let here = (self.bytes.len() - self.taken) as u64;
        usize::try_from(self.behind.saturating_add(here)).unwrap_or(usize::MAX)
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining(), "beyond the end of the file");
        loop {
            let here = count.min(self.bytes.len() - self.taken);
            self.taken += here;
            count -= here;
            if self.taken < self.bytes.len() || self.behind == 0 {
                return;
            }
            self.fill();
        }
    }
}

/// What people take for a model that can be read here, told by how the file begins.
fn other_format(bytes: &[u8]) -> Option<&'static str> {
    let begins = |magic: &[u8]| bytes.starts_with(magic);
    match () {
        // The name of the first file stands behind 30 bytes.
        () if begins(b"PK\x03\x04")
            && bytes[..bytes.len().min(256)]
                .windows(4)
                .any(|four| four == b".npy") =>
        {
            Some("an archive of NumPy's arrays (npz); upload it as a data set")
        }
        () if begins(b"PK\x03\x04") => Some(
            "a zip archive, such as torch.save and Keras write: export the model with torch.onnx.export(model, example, \
             \"model.onnx\") or tf2onnx, and upload files beside it as further parts of the form",
        ),
        // Protocols 2 to 5 of pickle, which no message of a model begins like.
        () if matches!(bytes, [0x80, 2..=5, ..]) => Some(
            "a Python pickle, such as older torch.save writes; export the model with \
             torch.onnx.export(model, example, \"model.onnx\")",
        ),
        () if begins(b"\x89HDF\r\n\x1a\n") => {
            Some("an HDF5 file, such as Keras writes; convert the model with tf2onnx")
        }
        // What begins with 8 is an ONNX file's version, before the name of its producer.
        () if bytes.get(4..8) == Some(b"TFL3") && !begins(b"\x08") => {
            Some("a TensorFlow Lite model; convert it with tf2onnx")
        }
        () if begins(b"\x89PNG") || begins(b"\xff\xd8\xff") => {
            Some("an image; upload images as a data set, in a zip with a folder for each class")
        }
        () if begins(b"RIFF") || begins(b"fLaC") || begins(b"OggS") => Some(
            "a recording; upload recordings as a data set, in a zip with a folder for each class",
        ),
        () if begins(b"version https://git-lfs") => {
            Some("a Git LFS pointer; `git lfs pull` fetches the file that it stands for")
        }
        () if is_text(&bytes[..bytes.len().min(256)]) => Some(
            "a text, such as a table in CSV; upload data as a data set, and the model that torch.onnx.export writes as a model",
        ),
        () => None,
    }
}

/// Whether bytes are letters, digits and signs alone, which no message of a model is.
fn is_text(bytes: &[u8]) -> bool {
    // The last letter may be cut.
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    let is_letter = |letter: char| !letter.is_control() || matches!(letter, '\t' | '\r' | '\n');
    text.len() >= 8 && text.chars().all(is_letter)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn model(bytes: usize) -> ModelProto {
        let weight = TensorProto {
            name: Some("w".to_owned()),
            raw_data: Some((0..bytes).map(|byte| byte as u8).collect()),
            float_data: vec![1.5; 2 * WINDOW_BYTES],
            ..TensorProto::default()
        };
        ModelProto {
            producer_name: Some("a name".to_owned()),
            graph: Some(GraphProto {
                initializer: vec![weight],
                output: vec![Default::default()],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        }
    }

    #[test]
    fn a_file_longer_than_the_window_is_read_as_from_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        for bytes in [0, 1, WINDOW_BYTES - 1, WINDOW_BYTES, 3 * WINDOW_BYTES + 7] {
            let model = model(bytes);
            std::fs::write(&path, model.encode_to_vec()).unwrap();
            assert_eq!(read_model(&path).unwrap(), model);
        }
    }

    #[test]
    fn a_file_that_ends_too_early_is_no_model_and_one_that_shrinks_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        let whole = model(3 * WINDOW_BYTES).encode_to_vec();
        for kept in [1, WINDOW_BYTES, 2 * WINDOW_BYTES + 1, whole.len() - 1] {
            std::fs::write(&path, &whole[..kept]).unwrap();
            let refused = read_model(&path);
            assert!(matches!(refused, Err(ReadError::NotProtobuf(_))));
        }
        std::fs::write(&path, &whole).unwrap();
        let mut window = Window::open(&path).unwrap();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(WINDOW_BYTES as u64)
            .unwrap();
        assert_eq!(window.remaining(), whole.len());
        window.advance(whole.len());
        assert_eq!(window.remaining(), 0);
        assert!(window.fault.is_some());
    }
}
