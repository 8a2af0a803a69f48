//! How texts become numbers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the file of a tokenizer is called, as Hugging Face has it.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// The property of an ONNX file that holds a `tokenizer.json`; models made of this one inherit it.
pub const TOKENIZER_PROPERTY: &str = "sinter.tokenizer";

/// Longest sequence of tokens that is made where neither the model nor the request says how long they are.
pub const USUAL_LENGTH: u32 = 512;

/// Longest sequence of tokens that can be asked for.
pub const MOST_LENGTH: u32 = 65_536;

/// A tokenizer, as its `tokenizer.json` tells (the format of Hugging Face's `tokenizers`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenizerInfo {
    /// SHA-256 of the file, in hex.
    pub digest: String,
    /// Highest token plus one.
    pub vocabulary: u64,
    /// What fills a sequence up: that of the file's padding, or else its token `[PAD]`, `<pad>` or the like, or else 0.
    pub pad_token: u32,
    /// Type (segment) of that token.
    pub pad_type: u32,
    /// Whether sequences are filled up in front.
    pub pads_left: bool,
    /// Length that the file cuts sequences to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u32>,
}

/// Texts in tokens, with those that the tokenizer adds to each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokensInfo {
    pub tokenizer: TokenizerInfo,
    /// Tokens of the longest text.
    pub longest: u64,
    /// Half of the texts have at most so many tokens.
    pub median: u64,
}

/// What an input of a model that reads texts gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenPart {
    /// The tokens themselves.
    Ids,
    /// 1 for a token, 0 for padding.
    Mask,
    /// 0 for the first text, 1 for the second.
    Types,
    /// Where each token stands, from 0 on.
    Positions,
}

impl TokenPart {
    /// By the names that exporters give inputs. A model's only input takes the tokens, whatever its name.
    pub fn of_input(name: &str, is_only: bool) -> Option<Self> {
        let name = name.to_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| name.contains(word));
        match () {
            () if is_only => Some(Self::Ids),
            () if has(&["mask"]) => Some(Self::Mask),
            () if has(&["type", "segment"]) => Some(Self::Types),
            () if has(&["position"]) => Some(Self::Positions),
            () if has(&["id", "token", "text", "input", "source", "src"]) => Some(Self::Ids),
            () => None,
        }
    }
}

/// How a text becomes an example of `length` numbers: it is made tokens, cut to that length where it has more (of two
/// texts the longer one first), and filled up where it has fewer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct TokenPreparation {
    pub part: TokenPart,
    pub length: u32,
    pub pad_token: u32,
    pub pad_type: u32,
    pub pads_left: bool,
    /// Digest of the tokenizer's file.
    pub tokenizer: String,
}

impl TokenPreparation {
    /// What is known of the tokenizer, for another model that is given the same tokens, and as many.
    pub fn tokenizer_info(&self) -> TokenizerInfo {
        TokenizerInfo {
            digest: self.tokenizer.clone(),
            // Not known here; what a model of the same tokens says of them tells.
            vocabulary: 0,
            pad_token: self.pad_token,
            pad_type: self.pad_type,
            pads_left: self.pads_left,
            max_length: Some(self.length),
        }
    }
}
