//! Tokens of texts, and what each of them is to say.

use std::borrow::Cow;
use std::sync::Arc;

use super::{IGNORED, Prepared};
use crate::data::arrays::NO_LABEL;
use crate::data::{Elements, Split, Tokenizer};
use crate::spec::fit::InferredInput;
use crate::spec::job::Task;
use crate::spec::tokens::{TokenPart, TokenPreparation};

impl Prepared {
    /// Lets the texts be read by the tokenizer that a model came with.
    pub fn read_by(&self, tokenizer: Arc<Tokenizer>) {
        for array in self.splits().flat_map(|split| &split.inputs) {
            if let Elements::Texts(texts) = &array.elements {
                texts.read_by(Arc::clone(&tokenizer));
            }
        }
    }

    /// How many of the stored texts have more tokens than the model gets, or why one can't be read. Makes tokens of them
    /// all.
    pub fn count_cut(&self) -> Result<u64, String> {
        let Some((input, how)) = self.ids() else {
            return Ok(0);
        };
        let arrays = self.splits().flat_map(|split| &split.inputs);
        let counts = arrays
            .filter(|array| array.name == input.array)
            .map(|array| match &array.elements {
                Elements::Texts(texts) => texts.count_cut(how).map(|count| count as u64),
                _ => Ok(0),
            });
        counts.sum()
    }

    /// The input that takes the tokens of texts.
    fn ids(&self) -> Option<(&InferredInput, &TokenPreparation)> {
        let input = self.about.inputs.iter().find(|input| input.takes_ids())?;
        Some((input, input.tokens.as_ref()?))
    }

    /// A label for each token of some examples; `inputs` are the same ones as the model gets them.
    pub(super) fn token_labels(
        &self,
        split: &Split,
        indices: &[u32],
        inputs: &[Vec<f32>],
    ) -> Vec<usize> {
        let texts = || {
            let (input, how) = self.ids()?;
            let array = split
                .inputs
                .iter()
                .find(|array| array.name == input.array)?;
            match &array.elements {
                Elements::Texts(texts) => Some((texts, how)),
                _ => None,
            }
        };
        let label = |label: i64| match label {
            ..0 => IGNORED,
            label => self
                .label_map
                .get(label as usize)
                .copied()
                .unwrap_or(label as usize),
        };
        if self.about.task == Task::LanguageModeling {
            let Some(place) = self.ids_place() else {
                return Vec::new();
            };
            let mask = match texts() {
                Some((texts, how)) => {
                    let how = TokenPreparation {
                        part: TokenPart::Mask,
                        ..how.clone()
                    };
                    Some(Cow::Owned(texts.examples(&how, indices)))
                }
                None => (self.mask_place()).map(|place| Cow::Borrowed(&inputs[place])),
            };
            let tokens = inputs[place].len() / indices.len().max(1);
            let is_token = |at: usize| mask.as_ref().is_none_or(|mask| mask[at] != 0.0);
            // What each token is followed by.
            return (0..inputs[place].len())
                .map(
                    |at| match (at + 1) % tokens.max(1) != 0 && is_token(at) && is_token(at + 1) {
                        true => inputs[place][at + 1] as usize,
                        false => IGNORED,
                    },
                )
                .collect();
        }
        let Some(target) = &split.target else {
            return Vec::new();
        };
        match texts() {
            Some((texts, how)) if matches!(target.elements, Elements::Ragged { .. }) => {
                let words = texts.words(how, indices);
                let places = words.into_iter().enumerate();
                let length = how.length as usize;
                places
                    .map(|(place, word)| {
                        let labels = target.elements.ragged(indices[place / length] as usize);
                        let label = labels
                            .zip(word)
                            .and_then(|(labels, word)| labels.get(word as usize).copied());
                        label.unwrap_or(NO_LABEL)
                    })
                    .map(label)
                    .collect()
            }
            _ => {
                let stride = target.stride();
                let (elements, indices) = target.of(indices);
                let places = indices.iter().flat_map(|&index| {
                    let start = index as usize * stride;
                    start..start + stride
                });
                places.map(|place| label(elements.get_i64(place))).collect()
            }
        }
    }

    /// Among the model's inputs, the one that takes tokens: of texts, or integers in one axis.
    pub fn ids_place(&self) -> Option<usize> {
        let inputs = &self.about.inputs;
        let arrays = &self.dataset.train.inputs;
        let of_integers = |input: &InferredInput| {
            let array = arrays.iter().find(|array| array.name == input.array);
            let is_row = array
                .is_some_and(|array| !array.dtype.starts_with("float") && array.shape.len() == 1);
            let is_only = inputs.iter().filter(|input| !input.zeros).count() == 1;
            is_row && TokenPart::of_input(&input.input, is_only) == Some(TokenPart::Ids)
        };
        let of_texts = inputs.iter().position(InferredInput::takes_ids);
        of_texts.or_else(|| inputs.iter().position(of_integers))
    }

    /// Among the model's inputs, the one that says which tokens are no padding.
    pub fn mask_place(&self) -> Option<usize> {
        let is_mask = |input: &InferredInput| match &input.tokens {
            Some(tokens) => tokens.part == TokenPart::Mask,
            None => TokenPart::of_input(&input.input, false) == Some(TokenPart::Mask),
        };
        self.about.inputs.iter().position(is_mask)
    }

    /// The highest label of the tokens of a data set, where these are stored as numbers.
    pub fn highest_token(&self) -> Option<i64> {
        let place = self.ids_place()?;
        let name = &self.about.inputs[place].array;
        let arrays = self.splits().flat_map(|split| &split.inputs);
        let own = arrays.filter(|array| array.name == *name);
        let numbers = own.filter_map(|array| match &array.elements {
            Elements::I64(values) => values.iter().max().copied(),
            Elements::U8(values) => values.iter().max().map(|&value| value.into()),
            Elements::Spilled(spilled) => {
                (0..spilled.len()).map(|place| spilled.get_i64(place)).max()
            }
            _ => None,
        });
        numbers.max()
    }
}
