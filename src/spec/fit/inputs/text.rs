//! Texts as inputs.

use super::{Fit, example_shape, refuse_others};
use crate::spec::dataset::{ArrayInfo, Media};
use crate::spec::job::Preprocess;
use crate::spec::model::{ModelSummary, TensorInfo};
use crate::spec::tokens::{MOST_LENGTH, TokenPart, TokenPreparation, USUAL_LENGTH};

/// Texts become tokens by the model's own tokenizer, or else by that of the data set.
pub(super) fn fit_text(
    input: &TensorInfo,
    array: &ArrayInfo,
    preprocess: &Preprocess,
    model: &ModelSummary,
    is_only: bool,
) -> Result<Fit, String> {
    refuse_others(preprocess, array, Media::Text)?;
    if preprocess.scale.is_some() || preprocess.mean.is_some() || preprocess.std.is_some() {
        return Err(format!(
            "preprocess.scale, mean and std are for numbers, images and audio, `{}` holds texts",
            array.name
        ));
    }
    let max_length = &preprocess.max_length;
    let own = array.tokens.as_ref();
    let Some(tokenizer) = (model.tokenizer.as_ref()).or(own.map(|tokens| &tokens.tokenizer)) else {
        return Err(format!(
            "`{}` holds texts, and neither the model nor the data set came with a tokenizer: upload the model, or the \
             data set, together with the model's tokenizer.json: `--tokenizer` of the terminal, `tokenizer` of the Python client, \
             both files chosen at once on the page, a form with two parts `file` by curl",
            array.name
        ));
    };
    let wanted = example_shape(input);
    let [axis] = wanted else {
        return Err(format!(
            "the model's input `{}` has examples of {} axes; a text is a row of tokens, [batch, tokens]",
            input.name,
            wanted.len()
        ));
    };
    let part = TokenPart::of_input(&input.name, is_only).ok_or_else(|| {
        format!(
            "it can't be told from the name of the model's input `{}` what of a text it takes; names with `ids`, `mask`, \
             `type` or `position` are known",
            input.name
        )
    })?;
    if part == TokenPart::Ids && !input.dtype.contains("int") {
        return Err(format!(
            "the model's input `{}` takes {}; tokens are integers",
            input.name, input.dtype
        ));
    }
    // Of other tokens than the data set's the lengths are not known.
    let longest = own.filter(|own| own.tokenizer.digest == tokenizer.digest);
    let longest = longest.map_or(USUAL_LENGTH, |own| {
        u32::try_from(own.longest).unwrap_or(u32::MAX).max(1)
    });
    let most = tokenizer.max_length.unwrap_or(USUAL_LENGTH);
    let length = match (axis.fixed(), max_length) {
        (Some(fixed), asked) => {
            let length = u32::try_from(fixed)
                .ok()
                .filter(|length| (1..=MOST_LENGTH).contains(length));
            let length = length.ok_or_else(|| {
                format!(
                    "the model's input `{}` takes {fixed} tokens; 1 to {MOST_LENGTH} can be made",
                    input.name
                )
            })?;
            if asked.is_some_and(|asked| asked != length) {
                return Err(format!(
                    "preprocess.max_length is {}, the model's input `{}` takes {length} tokens",
                    asked.unwrap_or(0),
                    input.name
                ));
            }
            length
        }
        (None, Some(asked)) => *asked,
        (None, None) => longest.min(most),
    };
    Ok(Fit {
        tokens: Some(TokenPreparation {
            part,
            length,
            pad_token: tokenizer.pad_token,
            pad_type: tokenizer.pad_type,
            pads_left: tokenizer.pads_left,
            tokenizer: tokenizer.digest.clone(),
        }),
        ..Fit::of(vec![length.into()], false)
    })
}
