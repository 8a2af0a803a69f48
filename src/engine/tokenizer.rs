//! The tokenizer that a model brings along, in its file.

use std::sync::Arc;

use crate::data::{MOST_TOKENIZER_BYTES, Tokenizer};
use crate::graph::Graph;
use crate::onnx::proto::{ModelProto, StringStringEntry};
use crate::spec::Problem;
use crate::spec::child::InputFile;
use crate::spec::fit::InferredData;
use crate::spec::tokens::{TOKENIZER_FILE, TOKENIZER_PROPERTY};

/// The tokenizer among the files of a model's upload: `tokenizer.json`, or the only other `.json` if it is one. Two files of that
/// name are both told.
pub(super) fn among(files: &[InputFile]) -> Vec<&InputFile> {
    let base = |file: &&InputFile| file.name.rsplit('/').next() == Some(TOKENIZER_FILE);
    let named: Vec<&InputFile> = files.iter().filter(base).collect();
    if !named.is_empty() {
        return named;
    }
    let others = files
        .iter()
        .filter(|file| file.name.to_lowercase().ends_with(".json"));
    match others.collect::<Vec<_>>()[..] {
        [only] if is_one(only) => vec![only],
        _ => Vec::new(),
    }
}

fn is_one(file: &InputFile) -> bool {
    let size = std::fs::metadata(&file.path).map_or(u64::MAX, |about| about.len());
    let bytes = (size <= MOST_TOKENIZER_BYTES).then(|| std::fs::read(&file.path).ok());
    bytes
        .flatten()
        .is_some_and(|bytes| Tokenizer::parse(&bytes).is_ok())
}

/// Lets a model that has none take the tokenizer of another, whose tokens it was given.
pub(super) fn hand_down(from: Option<&str>, to: &mut Graph, about: &InferredData) {
    let mut tokens = about
        .inputs
        .iter()
        .filter_map(|input| input.tokens.as_ref());
    let (Some(text), Some(tokens), None) = (from, tokens.next(), to.property(TOKENIZER_PROPERTY))
    else {
        return;
    };
    let is_same = Tokenizer::parse(text.as_bytes())
        .is_ok_and(|tokenizer| tokenizer.info().digest == tokens.tokenizer);
    if is_same {
        to.set_property(TOKENIZER_PROPERTY, text.to_owned());
    }
}

/// The tokenizer's file in a model.
pub(super) fn text_of(graph: &Graph) -> Option<&str> {
    graph.property(TOKENIZER_PROPERTY)
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
    all.retain(|entry| entry.key.as_deref() != Some(TOKENIZER_PROPERTY));
    all.push(StringStringEntry {
        key: Some(TOKENIZER_PROPERTY.to_owned()),
        value: Some(text),
    });
    Ok(())
}

/// The tokenizer that the model was uploaded with, or that of the model it was made from.
pub(super) fn of_model(graph: &Graph) -> Result<Option<Arc<Tokenizer>>, Problem> {
    let Some(text) = graph.property(TOKENIZER_PROPERTY) else {
        return Ok(None);
    };
    let tokenizer = Tokenizer::parse(text.as_bytes()).map_err(|detail| {
        let detail = format!("the model's property `{TOKENIZER_PROPERTY}` {detail}");
        Problem::new(422, "invalid_model", detail)
    })?;
    Ok(Some(Arc::new(tokenizer)))
}
