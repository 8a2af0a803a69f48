//! Examples that are texts, made into tokens when they are asked for.

use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;

use super::archive::{Archive, Entry};
use super::kept::Keeper;
use super::tokenizer::{Encoded, MOST_TOKENIZER_BYTES, Text, Tokenizer};
use super::{Array, DataError, Dataset, Elements};
use crate::spec::child::InputFile;
use crate::spec::dataset::ArrayInfo;
use crate::spec::tokens::TOKENIZER_FILE;
use crate::spec::tokens::{TokenPart, TokenPreparation, TokensInfo};

/// Most bytes of one text. Models take no more than some thousand tokens of it.
pub(super) const MOST_TEXT_BYTES: usize = 256 << 10;

/// Letters of a text that are shown.
const MOST_SHOWN: usize = 300;

/// Some texts, one for each example.
#[derive(Debug, Clone)]
pub struct Texts {
    all: Arc<[Text]>,
    tokenizers: Tokenizers,
    /// What the data set's own tokenizer makes of all of them.
    about: Option<TokensInfo>,
    kept: Keeper<(String, u32), Encoded>,
}

/// All tokenizers that the texts of a data set are read by: its own, and those of models.
#[derive(Debug, Clone, Default)]
pub(super) struct Tokenizers(Arc<Mutex<Vec<Arc<Tokenizer>>>>);

impl Tokenizers {
    pub fn add(&self, tokenizer: Arc<Tokenizer>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !(all.iter()).any(|known| known.info().digest == tokenizer.info().digest) {
            all.push(tokenizer);
        }
    }

    fn named(&self, digest: &str) -> Option<Arc<Tokenizer>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter()
            .find(|known| known.info().digest == digest)
            .cloned()
    }
}

impl PartialEq for Texts {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.all, &other.all) || self.all == other.all
    }
}

impl Texts {
    pub(super) fn new(all: Vec<Text>, tokenizers: Tokenizers, about: Option<TokensInfo>) -> Self {
        Self {
            all: all.into(),
            tokenizers,
            about,
            kept: Keeper::default(),
        }
    }

    /// Texts that one tokenizer reads; an error where it can't.
    pub fn of(all: Vec<Text>, tokenizer: Arc<Tokenizer>) -> Result<Self, DataError> {
        let tokens = inspect(&tokenizer, &all)?;
        let tokenizers = Tokenizers::default();
        tokenizers.add(tokenizer);
        Ok(Self::new(all, tokenizers, Some(tokens)))
    }

    /// The beginning of a text, for people.
    pub fn shown(&self, example: u32) -> Option<String> {
        let text = match self.all.get(example as usize)? {
            Text::Plain(text) => text.clone(),
            Text::Pair(first, second) => format!("{first} / {second}"),
            Text::Words(words) => words.join(" "),
        };
        Some(text.chars().take(MOST_SHOWN).collect())
    }

    /// How many tokens each has by a tokenizer, the fewest first.
    fn counts_by(&self, tokenizer: &Tokenizer) -> Result<Vec<usize>, String> {
        counts(tokenizer, &self.all)
    }

    /// As an input.
    pub fn input(self, name: &str) -> Array {
        Array {
            name: name.to_owned(),
            dtype: "string".to_owned(),
            shape: Vec::new(),
            elements: Elements::Texts(self),
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Lets a model's own tokenizer read them too.
    pub fn read_by(&self, tokenizer: Arc<Tokenizer>) {
        self.tokenizers.add(tokenizer);
    }

    /// Some of them.
    pub(super) fn part(&self, examples: std::ops::Range<usize>) -> Self {
        let (tokenizers, about) = (self.tokenizers.clone(), self.about.clone());
        Self::new(self.all[examples].to_vec(), tokenizers, about)
    }

    /// What the data set's own tokenizer makes of all texts, if it has one.
    pub fn tokens(&self) -> Option<&TokensInfo> {
        self.about.as_ref()
    }

    /// The examples as they were asked for, one behind the other.
    pub fn examples(&self, how: &TokenPreparation, examples: &[u32]) -> Vec<f32> {
        let length = how.length as usize;
        let mut out = Vec::with_capacity(examples.len() * length);
        self.each(how, examples, |encoded| {
            let count = encoded.ids.len();
            let padding = match how.part {
                TokenPart::Ids => how.pad_token,
                TokenPart::Types => how.pad_type,
                TokenPart::Mask | TokenPart::Positions => 0,
            };
            let filled = std::iter::repeat_n(padding as f32, length - count);
            let token = |place: usize| match how.part {
                TokenPart::Ids => encoded.ids[place] as f32,
                TokenPart::Mask => 1.0,
                TokenPart::Types => encoded.types.as_ref().map_or(0.0, |all| all[place] as f32),
                TokenPart::Positions => place as f32,
            };
            match how.pads_left {
                true => out.extend(filled.chain((0..count).map(token))),
                false => out.extend((0..count).map(token).chain(filled)),
            }
        });
        out
    }

    /// By example and place: the word that the token there begins.
    pub(super) fn words(&self, how: &TokenPreparation, examples: &[u32]) -> Vec<Option<u32>> {
        let length = how.length as usize;
        let mut out = Vec::with_capacity(examples.len() * length);
        self.each(how, examples, |encoded| {
            let filled = std::iter::repeat_n(None, length - encoded.ids.len());
            let words = encoded.words.iter().flat_map(|words| words.iter().copied());
            match how.pads_left {
                true => out.extend(filled.chain(words)),
                false => out.extend(words.chain(filled)),
            }
        });
        out
    }

    /// How many have more tokens than a preparation keeps, or why one can't be read. All of them are made tokens for that,
    /// and kept if they are going to be.
    pub fn count_cut(&self, how: &TokenPreparation) -> Result<usize, String> {
        let tokenizer = self.tokenizer(how);
        let kept = self.kept(how);
        let is_cut = |index: usize| {
            let encoded = tokenizer.encode(&self.all[index], how.length)?;
            let is_cut = encoded.is_cut;
            if let Some(kept) = &kept {
                kept.example(index, || encoded);
            }
            Ok(usize::from(is_cut))
        };
        (0..self.len()).into_par_iter().map(is_cut).sum()
    }

    fn each(&self, how: &TokenPreparation, examples: &[u32], mut then: impl FnMut(&Encoded)) {
        let tokenizer = self.tokenizer(how);
        let kept = self.kept(how);
        for &example in examples {
            let encode = || encode(&tokenizer, &self.all[example as usize], how.length);
            match &kept {
                Some(kept) => then(kept.example(example as usize, encode)),
                None => then(&encode()),
            }
        }
    }

    fn kept(
        &self,
        how: &TokenPreparation,
    ) -> Option<Arc<super::kept::Kept<(String, u32), Encoded>>> {
        let key = (how.tokenizer.clone(), how.length);
        self.kept.of(&key, self.len(), how.length as usize * 8)
    }

    fn tokenizer(&self, how: &TokenPreparation) -> Arc<Tokenizer> {
        let named = self.tokenizers.named(&how.tokenizer);
        named.expect("a preparation is of a tokenizer that the texts are read by")
    }
}

/// # Panics
///
/// Where a text can't be made tokens, which was tried by [`Texts::count_cut`] or [`inspect`].
fn encode(tokenizer: &Tokenizer, text: &Text, length: u32) -> Encoded {
    match tokenizer.encode(text, length) {
        Ok(encoded) => encoded,
        Err(error) => panic!("the tokenizer can't read a text that it could read before: {error}"),
    }
}

impl Dataset {
    /// What a model's own tokenizer makes of all texts, where the data set's inspection did not say that; or why it can't read
    /// one.
    pub fn tokens_by(&self, tokenizer: &Tokenizer) -> Result<Option<TokensInfo>, String> {
        let splits = std::iter::once(&self.train).chain(&self.test);
        let texts =
            splits
                .flat_map(|split| &split.inputs)
                .filter_map(|array| match &array.elements {
                    Elements::Texts(texts) => Some(texts),
                    _ => None,
                });
        let is_known = |texts: &&Texts| {
            let known = texts.tokens().map(|tokens| &tokens.tokenizer.digest);
            known == Some(&tokenizer.info().digest)
        };
        let unknown: Vec<&Texts> = texts.filter(|texts| !is_known(texts)).collect();
        let counts: Result<Vec<Vec<usize>>, String> = unknown
            .iter()
            .map(|texts| texts.counts_by(tokenizer))
            .collect();
        let mut counts = counts?.concat();
        counts.sort_unstable();
        Ok((!unknown.is_empty()).then(|| about(tokenizer, &counts)))
    }
}

/// The tokenizer of an upload, if it came with one, and what it makes of the texts. What an inspection found, `known`, is
/// not looked for again.
pub(super) fn read_by(
    archive: &Archive,
    texts: &[Text],
    known: Option<&ArrayInfo>,
) -> Result<(Tokenizers, Option<TokensInfo>), DataError> {
    let tokenizers = Tokenizers::default();
    let Some(tokenizer) = tokenizer_in(archive)? else {
        return Ok((tokenizers, None));
    };
    let tokens = match known.and_then(|known| known.tokens.clone()) {
        Some(known) => known,
        None => inspect(&tokenizer, texts)?,
    };
    tokenizers.add(Arc::new(tokenizer));
    Ok((tokenizers, Some(tokens)))
}

/// The tokenizer among the files of an upload.
pub fn tokenizer_of(files: &[InputFile]) -> Result<Option<Arc<Tokenizer>>, DataError> {
    match files {
        [] => Ok(None),
        files => Ok(tokenizer_in(&Archive::open(files)?)?.map(Arc::new)),
    }
}

fn tokenizer_in(archive: &Archive) -> Result<Option<Tokenizer>, DataError> {
    let is_tokenizer = |entry: &&Entry| entry.name.rsplit('/').next() == Some(TOKENIZER_FILE);
    let mut found = archive.entries.iter().filter(is_tokenizer);
    let Some(entry) = found.next() else {
        // Of another name it is the only one of its kind, or some file beside texts.
        let is_other = |entry: &&Entry| entry.name.to_lowercase().ends_with(".json");
        let others: Vec<&Entry> = archive.entries.iter().filter(is_other).take(2).collect();
        let [only] = others[..] else {
            return Ok(None);
        };
        let bytes = archive.read(only, MOST_TOKENIZER_BYTES);
        return Ok(bytes.ok().and_then(|bytes| Tokenizer::parse(&bytes).ok()));
    };
    if let Some(other) = found.next() {
        return Err(DataError::Unreadable(format!(
            "the upload holds two tokenizers, `{}` and `{}`; keep one",
            entry.name, other.name
        )));
    }
    let bytes = archive.read(entry, MOST_TOKENIZER_BYTES)?;
    let wrong = |detail: String| DataError::Unreadable(format!("`{}` {detail}", entry.name));
    Ok(Some(Tokenizer::parse(&bytes).map_err(wrong)?))
}

/// What a tokenizer makes of texts, or the first that it can't read.
fn inspect(tokenizer: &Tokenizer, texts: &[Text]) -> Result<TokensInfo, DataError> {
    let counts = counts(tokenizer, texts).map_err(|error| {
        DataError::Unreadable(format!("the tokenizer can't read the texts: {error}"))
    })?;
    Ok(about(tokenizer, &counts))
}

/// How many tokens texts have, the fewest first.
fn counts(tokenizer: &Tokenizer, texts: &[Text]) -> Result<Vec<usize>, String> {
    let counts = texts.par_iter().map(|text| tokenizer.count(text));
    let mut counts: Vec<usize> = counts.collect::<Result<_, _>>()?;
    counts.sort_unstable();
    Ok(counts)
}

fn about(tokenizer: &Tokenizer, counts: &[usize]) -> TokensInfo {
    let at = |place: usize| counts.get(place).map_or(0, |&count| count as u64);
    TokensInfo {
        tokenizer: tokenizer.info().clone(),
        longest: at(counts.len().saturating_sub(1)),
        median: at(counts.len().saturating_sub(1) / 2),
    }
}
