//! The tokenizer that a model brings along, in its file.

use std::sync::Arc;

use crate::data::{MOST_TOKENIZER_BYTES, Tokenizer};
use crate::graph::Graph;
use crate::onnx::proto::{ModelProto, StringStringEntry};
use crate::spec::Problem;
use crate::spec::child::InputFile;
use crate::spec::tokens::TOKENIZER_FILE;

/// The property of the ONNX file that holds a `tokenizer.json`; models made of this one inherit it.
const PROPERTY: &str = "sinter.tokenizer";

/// Whether a file of an upload is a tokenizer.
pub(super) fn is_tokenizer(file: &InputFile) -> bool {
    file.name.rsplit('/').next() == Some(TOKENIZER_FILE)
}

/// Puts the tokenizer that came with a model into it.
pub(super) fn put_in(model: &mut ModelProto, file: &InputFile) -> Result<(), Problem> {
    let refuse = |detail: String| {
        let detail = format!("`{}` {detail}", file.name);
        Problem::new(422, "invalid_model", detail)
    };
    let size = std::fs::metadata(&file.path)?.len();
    if size > MOST_TOKENIZER_BYTES {
        return Err(refuse(format!(
            "has {size} bytes; tokenizers have at most {MOST_TOKENIZER_BYTES}"
        )));
    }
    let bytes = std::fs::read(&file.path)?;
    Tokenizer::parse(&bytes).map_err(refuse)?;
    let text = String::from_utf8(bytes).map_err(|_| refuse("is no UTF-8".to_owned()))?;
    let all = &mut model.metadata_props;
    all.retain(|entry| entry.key.as_deref() != Some(PROPERTY));
    all.push(StringStringEntry {
        key: Some(PROPERTY.to_owned()),
        value: Some(text),
    });
    Ok(())
}

/// The tokenizer that the model was uploaded with, or that of the model it was made from.
pub(super) fn of_model(graph: &Graph) -> Result<Option<Arc<Tokenizer>>, Problem> {
    let Some(text) = graph.property(PROPERTY) else {
        return Ok(None);
    };
    let tokenizer = Tokenizer::parse(text.as_bytes()).map_err(|detail| {
        let detail = format!("the model's property `{PROPERTY}` {detail}");
        Problem::new(422, "invalid_model", detail)
    })?;
    Ok(Some(Arc::new(tokenizer)))
}
