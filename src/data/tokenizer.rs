//! Tokenizers as Hugging Face's `tokenizers` has them, and texts made into tokens by them.

use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};
use tokenizers::utils::padding::PaddingDirection;
use tokenizers::utils::truncation::{TruncationParams, TruncationStrategy};
use tokenizers::{EncodeInput, PostProcessor};

use crate::spec::tokens::{MOST_LENGTH, TokenizerInfo};

/// Most bytes of the file.
pub const MOST_TOKENIZER_BYTES: u64 = 64 << 20;

/// Names that vocabularies give the token that fills sequences up.
const PAD_TOKENS: [&str; 5] = ["[PAD]", "<pad>", "<|pad|>", "<PAD>", "[pad]"];

/// A text as it was uploaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    Plain(String),
    /// Two that belong together, such as a question and an answer.
    Pair(String, String),
    /// Cut into words already.
    Words(Vec<String>),
}

impl Text {
    fn input(&self) -> EncodeInput<'_> {
        match self {
            Self::Plain(text) => text.as_str().into(),
            Self::Pair(first, second) => (first.as_str(), second.as_str()).into(),
            Self::Words(words) => words.as_slice().into(),
        }
    }

    /// Bytes of all of it.
    pub fn len(&self) -> usize {
        match self {
            Self::Plain(text) => text.len(),
            Self::Pair(first, second) => first.len() + second.len(),
            Self::Words(words) => words.iter().map(String::len).sum(),
        }
    }

    /// Bytes that it takes in memory, about.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Words(words) => self.len() + words.len() * size_of::<String>(),
            _ => self.len(),
        }
    }

    /// Whether there is nothing to read in it.
    pub fn is_empty(&self) -> bool {
        let blank = |text: &String| text.trim().is_empty();
        match self {
            Self::Plain(text) => blank(text),
            Self::Pair(first, second) => blank(first) || blank(second),
            Self::Words(words) => words.iter().all(blank),
        }
    }
}

/// A text in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Encoded {
    pub ids: Box<[u32]>,
    /// By token; none where all are 0.
    pub types: Option<Box<[u32]>>,
    /// By token, of a text that came in words: the word that the token begins, if it does.
    pub words: Option<Box<[Option<u32>]>>,
    /// Whether there were more tokens.
    pub is_cut: bool,
}

/// A `tokenizer.json` that was read.
pub struct Tokenizer {
    info: TokenizerInfo,
    whole: tokenizers::Tokenizer,
    /// By length: the same, cutting to it.
    cutting: Mutex<Vec<(u32, Arc<tokenizers::Tokenizer>)>>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("info", &self.info)
            .finish()
    }
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json`; why they are none otherwise.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut whole = tokenizers::Tokenizer::from_bytes(bytes)
            .map_err(|error| format!("is no tokenizer of Hugging Face's `tokenizers`: {error}"))?;
        let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
        let dropout = value["model"]["dropout"].as_f64().unwrap_or(0.0);
        if dropout > 0.0 {
            return Err(format!(
                "has a model with dropout {dropout}, which makes tokens at random; set it to null"
            ));
        }
        let vocabulary = whole.get_vocab(true).into_values().max();
        let Some(highest) = vocabulary else {
            return Err("has an empty vocabulary".to_owned());
        };
        let padding = whole.get_padding().cloned();
        let named = PAD_TOKENS.iter().find_map(|token| whole.token_to_id(token));
        let max_length =
            (whole.get_truncation()).and_then(|cut| u32::try_from(cut.max_length).ok());
        let info = TokenizerInfo {
            digest: hex::encode(Sha256::digest(bytes)),
            vocabulary: u64::from(highest) + 1,
            pad_token: (padding.as_ref().map(|padding| padding.pad_id))
                .or(named)
                .unwrap_or(0),
            pad_type: padding.as_ref().map_or(0, |padding| padding.pad_type_id),
            pads_left: padding
                .is_some_and(|padding| matches!(padding.direction, PaddingDirection::Left)),
            max_length: max_length.filter(|length| (1..=MOST_LENGTH).contains(length)),
        };
        // Sequences are filled up and cut as a job says.
        whole.with_padding(None);
        Ok(Self {
            info,
            whole,
            cutting: Mutex::default(),
        })
    }

    /// What the file tells.
    pub fn info(&self) -> &TokenizerInfo {
        &self.info
    }

    /// What a token stands for.
    pub fn token(&self, id: u32) -> Option<String> {
        self.whole.id_to_token(id)
    }

    /// How many tokens a text has, with those that are added to each.
    pub(super) fn count(&self, text: &Text) -> Result<usize, String> {
        let tokenizer = self.cutting(None);
        let encoding = tokenizer.encode_fast(text.input(), true);
        let encoding = encoding.map_err(|error| error.to_string())?;
        Ok(encoding.get_ids().len())
    }

    /// The tokens of a text, at most `length`.
    pub(super) fn encode(&self, text: &Text, length: u32) -> Result<Encoded, String> {
        let tokenizer = self.cutting(Some(length));
        let encoding = match text {
            Text::Plain(_) => tokenizer.encode_fast(text.input(), true),
            // Words and types are told by the slower one alone.
            Text::Pair(..) | Text::Words(_) => tokenizer.encode(text.input(), true),
        };
        let mut encoding = encoding.map_err(|error| error.to_string())?;
        let mut is_cut = !encoding.get_overflowing().is_empty();
        if !is_cut && encoding.get_ids().len() == length as usize {
            // Where nothing is added to texts, what is cut away is not told.
            is_cut = self.count(text)? > length as usize;
        }
        if encoding.get_ids().len() > length as usize {
            // There is no room for what is added to each text.
            let whole = tokenizers::utils::truncation::TruncationDirection::Right;
            encoding.truncate(length as usize, 0, whole);
            is_cut = true;
        }
        let types = encoding.get_type_ids();
        let words = match text {
            Text::Words(_) => Some(first_tokens(encoding.get_word_ids())),
            _ => None,
        };
        Ok(Encoded {
            types: types.iter().any(|&kind| kind != 0).then(|| types.into()),
            ids: encoding.get_ids().into(),
            words,
            is_cut,
        })
    }

    /// The tokenizer that cuts to a length, or not at all.
    fn cutting(&self, length: Option<u32>) -> Arc<tokenizers::Tokenizer> {
        let key = length.unwrap_or(0);
        let mut all = self.cutting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, known)) = all.iter().find(|(known, _)| *known == key) {
            return Arc::clone(known);
        }
        let mut tokenizer = self.whole.clone();
        let direction = tokenizer.get_truncation().map(|cut| cut.direction);
        let added = (tokenizer.get_post_processor()).map_or(0, |added| added.added_tokens(true));
        let cut = length.filter(|&length| length as usize > added);
        let cut = cut.map(|length| TruncationParams {
            direction: direction.unwrap_or_default(),
            max_length: length as usize,
            strategy: TruncationStrategy::LongestFirst,
            stride: 0,
        });
        tokenizer
            .with_truncation(cut)
            .expect("a stride of 0 is below every length");
        let tokenizer = Arc::new(tokenizer);
        all.push((key, Arc::clone(&tokenizer)));
        tokenizer
    }
}

/// The word that each token begins.
fn first_tokens(words: &[Option<u32>]) -> Box<[Option<u32>]> {
    let mut last = None;
    words
        .iter()
        .map(|&word| {
            let begins = word != last;
            last = word;
            word.filter(|_| begins)
        })
        .collect()
}
