//! How stored arrays, files and texts feed the inputs of a model.

mod audio;
mod image;
mod text;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use audio::fit_audio;
use image::fit_image;
use text::fit_text;

use crate::spec::audio::{AudioOptions, AudioPreparation};
use crate::spec::dataset::{ArrayInfo, Media};
use crate::spec::job::{DataOptions, Layout, Preprocess};
use crate::spec::model::{Dimension, ModelSummary, TensorInfo};
use crate::spec::picture::{Extent, ImagePreparation};
use crate::spec::result::rounded;
use crate::spec::tokens::{TokenPart, TokenPreparation};

/// How one stored array becomes one input of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InferredInput {
    /// Name of the model's input.
    pub input: String,
    /// Name of the data set's array; empty where none feeds the input.
    pub array: String,
    /// Whether channels-last examples are turned to channels-first.
    pub transposed: bool,
    /// Shape of one example as the model gets it.
    pub shape: Vec<u64>,
    pub scale: f64,
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
    /// How image files are decoded before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImagePreparation>,
    /// How texts become tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenPreparation>,
    /// How audio files become samples or features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<AudioPreparation>,
    /// Whether it is a recurrent state, which begins with zeros.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub zeros: bool,
    /// What the stored numbers are, as NumPy names them; empty where none feed the input.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dtype: String,
    /// Whether it is prepared as in the job that made the model, since the request says nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inherited: bool,
    /// What the model does with the numbers itself, since a job was asked to `embed_preprocessing`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<Normalisation>,
}

/// `(number · scale − mean) ÷ std`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Normalisation {
    pub scale: f64,
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
}

impl Normalisation {
    /// Whether a job can have asked for it.
    fn is_sound(&self) -> bool {
        let asked = Preprocess {
            scale: Some(self.scale),
            mean: Some(self.mean.clone()),
            std: Some(self.std.clone()),
            ..Preprocess::default()
        };
        !self.mean.is_empty() && !self.std.is_empty() && asked.faults().found.is_empty()
    }

    /// This one, and `then` the other behind it, as one.
    pub fn and(&self, then: &Self) -> Self {
        let (own, other) = (self.lines(), then.lines());
        let both = (0..own.len().max(other.len())).map(|channel| {
            let of = |lines: &[(f64, f64)]| lines[channel.min(lines.len() - 1)];
            let ((first, plus), (second, more)) = (of(&own), of(&other));
            (first * second, plus * second + more)
        });
        let both: Vec<(f64, f64)> = both.collect();
        Self {
            scale: 1.0,
            mean: both
                .iter()
                .map(|(factor, offset)| -offset / factor)
                .collect(),
            std: both.iter().map(|(factor, _)| 1.0 / factor).collect(),
        }
    }

    /// What each channel, or all, is multiplied by, and what is added then.
    fn lines(&self) -> Vec<(f64, f64)> {
        let of = |values: &[f64], channel: usize| values[channel.min(values.len() - 1)];
        let line = |channel: usize| {
            let (mean, std) = (of(&self.mean, channel), of(&self.std, channel));
            (self.scale / std, -mean / std)
        };
        (0..self.mean.len().max(self.std.len())).map(line).collect()
    }

    /// For people; `None` where numbers stay as they are.
    fn in_words(&self) -> Option<String> {
        let few = |values: &[f64]| match values {
            [one] => format!("{}", rounded(*one, 5)),
            [..] if values.len() <= 4 => {
                let each: Vec<String> = values
                    .iter()
                    .map(|one| rounded(*one, 5).to_string())
                    .collect();
                format!("[{}]", each.join(", "))
            }
            _ => format!("{} values", values.len()),
        };
        match (self.scale, self.mean.as_slice(), self.std.as_slice()) {
            (1.0, [0.0], [1.0]) => None,
            (scale, [0.0], [1.0]) => Some(times(scale)),
            (scale, mean, std) => Some(format!(
                "{}less the mean {}, divided by the deviation {}",
                if scale == 1.0 {
                    String::new()
                } else {
                    format!("{}, ", times(scale))
                },
                few(mean),
                few(std)
            )),
        }
    }
}

impl InferredInput {
    fn state(input: &TensorInfo) -> Self {
        Self {
            input: input.name.clone(),
            array: String::new(),
            transposed: false,
            shape: Vec::new(),
            scale: 1.0,
            mean: vec![0.0],
            std: vec![1.0],
            image: None,
            tokens: None,
            audio: None,
            zeros: true,
            dtype: String::new(),
            inherited: false,
            inside: None,
        }
    }

    /// How examples become this input, for people.
    pub fn in_words(&self) -> String {
        let name = &self.input;
        if self.zeros {
            return format!("`{name}` begins with zeros");
        }
        let shape = |sizes: &[u64]| {
            let sizes: Vec<String> = sizes.iter().map(u64::to_string).collect();
            format!("[{}]", sizes.join(", "))
        };
        if let Some(tokens) = &self.tokens {
            let what = match tokens.part {
                TokenPart::Ids => "tokens",
                TokenPart::Mask => "1 for each token, 0 for padding",
                TokenPart::Types => "0 for the first text, 1 for the second",
                TokenPart::Positions => "the places of tokens",
            };
            let side = if tokens.pads_left {
                "in front"
            } else {
                "behind"
            };
            return format!(
                "`{name}` gets {what} of `{}`: {} of each text, longer ones cut, shorter ones filled up {side}",
                self.array, tokens.length
            );
        }
        let mut parts = Vec::new();
        if let Some(image) = &self.image {
            parts.push(image.in_words());
        }
        if let Some(audio) = &self.audio {
            parts.push(audio.in_words());
        }
        parts.push(format!("as {}", shape(&self.shape)));
        if self.transposed && self.image.is_none() {
            parts.push("its channels moved in front".to_owned());
        }
        let numbers = self.normalisation().in_words();
        parts.push(numbers.unwrap_or_else(|| "numbers as they are".to_owned()));
        if let Some(inside) = self.inside.as_ref().and_then(Normalisation::in_words) {
            parts.push(format!("{inside} inside the model"));
        }
        if self.inherited {
            parts.push("as in the job that made the model".to_owned());
        }
        format!("`{name}` gets `{}`: {}", self.array, parts.join("; "))
    }

    /// What is done with the numbers.
    pub fn normalisation(&self) -> Normalisation {
        Normalisation {
            scale: self.scale,
            mean: self.mean.clone(),
            std: self.std.clone(),
        }
    }

    /// What each channel, or all, is multiplied by, and what is added then.
    pub fn affine(&self) -> Vec<(f64, f64)> {
        self.normalisation().lines()
    }

    /// Whether a model takes images from files with their channels last.
    pub fn keeps_channels_last(&self) -> bool {
        self.image.is_some() && self.shape.len() == 3 && !self.transposed
    }

    /// How many means and deviations an example can have: one for each channel, or for each feature of a row.
    pub fn channels(&self) -> usize {
        match self.shape.as_slice() {
            [.., channels] if self.keeps_channels_last() => *channels as usize,
            [channels, _, ..] => *channels as usize,
            [features] if self.audio.is_none() && self.tokens.is_none() => *features as usize,
            _ => 1,
        }
    }

    /// Shape of one example as it is stored, or decoded from a file, given that of the array.
    pub fn stored_shape(&self, array: &[usize]) -> Vec<usize> {
        match (&self.image, &self.tokens, &self.audio) {
            (Some(image), ..) => image.shape().to_vec(),
            (_, Some(tokens), _) => vec![tokens.length as usize],
            (.., Some(audio)) => audio.shape(),
            _ => array.to_vec(),
        }
    }

    /// The options that ask for it.
    fn options(&self) -> Preprocess {
        let resize = self.image.and_then(|image| image.resize);
        let crop = self.image.map(|image| Extent::Sides(image.crop));
        let is_last = match self.image {
            Some(_) => self.keeps_channels_last(),
            None => self.transposed,
        };
        Preprocess {
            scale: Some(self.scale),
            mean: Some(self.mean.clone()),
            std: Some(self.std.clone()),
            layout: is_last.then_some(Layout::Nhwc),
            resize,
            // A size that files had by themselves was not asked for.
            crop: crop.filter(|_| resize.is_some() && resize != crop),
            max_length: None,
            audio: self.audio.as_ref().map(AudioPreparation::options),
        }
    }

    /// Whether a job can have had it: a model's file says what whoever made it likes.
    pub fn is_sound(&self) -> bool {
        let mut sizes = self.shape.iter();
        sizes.all(|&size| (1..=1 << 24).contains(&size))
            && !self.mean.is_empty()
            && !self.std.is_empty()
            && self.options().faults().found.is_empty()
            && self.inside.as_ref().is_none_or(Normalisation::is_sound)
    }

    /// Whether another model's input, whatever its name, gets the same values.
    pub fn is_made_like(&self, other: &Self) -> bool {
        let Self {
            input: _,
            array,
            transposed,
            shape,
            scale,
            mean,
            std,
            image,
            tokens,
            audio,
            zeros,
            dtype: _,
            inherited: _,
            inside: _,
        } = other;
        (&self.array, &self.transposed, &self.shape) == (array, transposed, shape)
            && (&self.scale, &self.mean, &self.std, &self.zeros) == (scale, mean, std, zeros)
            && (&self.image, &self.tokens, &self.audio) == (image, tokens, audio)
    }

    /// Whether it takes the tokens of texts, and not what is told about them.
    pub fn takes_ids(&self) -> bool {
        let tokens = self.tokens.as_ref();
        tokens.is_some_and(|tokens| tokens.part == TokenPart::Ids)
    }
}

fn times(scale: f64) -> String {
    match (1.0 / scale).round() {
        whole if whole > 1.0 && (scale * whole - 1.0).abs() < 1e-9 => format!("divided by {whole}"),
        _ => format!("times {}", rounded(scale, 5)),
    }
}

/// How arrays feed each of a model's inputs, or why they don't.
pub fn fit_inputs(
    model: &ModelSummary,
    arrays: &[ArrayInfo],
    options: &DataOptions,
) -> Result<Vec<InferredInput>, String> {
    let fit = |input: &TensorInfo| {
        if is_state(input, model, arrays) {
            return Ok(InferredInput::state(input));
        }
        let array = match_array(input, model, arrays).ok_or_else(|| {
            format!(
                "the model's input `{}` has no array of that name; what is given is {}",
                input.name,
                names(arrays)
            )
        })?;
        fit_input(input, array, options, model, arrays)
    };
    model.inputs.iter().map(fit).collect()
}

fn names(arrays: &[ArrayInfo]) -> String {
    let quoted = arrays.iter().map(|array| match array.media {
        None => format!("`{}`", array.name),
        Some(Media::Image) => format!("`{}`, images", array.name),
        Some(Media::Audio) => format!("`{}`, recordings", array.name),
        Some(Media::Text) => format!("`{}`, texts", array.name),
    });
    quoted.collect::<Vec<_>>().join(", ")
}

/// Names of inputs that hold a recurrent state.
const STATES: [&str; 10] = [
    "state",
    "hidden",
    "initial_h",
    "initial_c",
    "h0",
    "c0",
    "h_0",
    "c_0",
    "hx",
    "cx",
];

/// Whether an input behind the first is a recurrent state, and no array of that name feeds it.
fn is_state(input: &TensorInfo, model: &ModelSummary, arrays: &[ArrayInfo]) -> bool {
    let name = input.name.to_lowercase();
    let is_first = model
        .inputs
        .first()
        .is_some_and(|first| first.name == input.name);
    let has_array = arrays.iter().any(|array| array.name == input.name);
    // The shorter ones are whole names, and what an encoder says is no state.
    let is_named = STATES.iter().any(|word| match word.len() {
        ..=3 => name == *word,
        _ => name.contains(word),
    });
    // An array that feeds nothing may be meant for it.
    let feeds = |array: &ArrayInfo| model.inputs.iter().any(|input| input.name == array.name);
    let is_left = arrays.len() > 1 && !arrays.iter().all(feeds);
    is_named
        && !is_first
        && !has_array
        && !is_left
        && !name.starts_with("encoder")
        && input.dtype.contains("float")
}

fn match_array<'a>(
    input: &TensorInfo,
    model: &ModelSummary,
    arrays: &'a [ArrayInfo],
) -> Option<&'a ArrayInfo> {
    let named = arrays.iter().find(|array| array.name == input.name);
    let states = model
        .inputs
        .iter()
        .filter(|input| is_state(input, model, arrays));
    match (named, model.inputs.len() - states.count(), arrays) {
        (Some(array), _, _) => Some(array),
        // One text feeds all inputs: tokens, mask, types.
        (None, _, [only]) if only.media == Some(Media::Text) => Some(only),
        (None, 1, [only]) => Some(only),
        _ => None,
    }
}

fn fit_input(
    input: &TensorInfo,
    array: &ArrayInfo,
    options: &DataOptions,
    model: &ModelSummary,
    arrays: &[ArrayInfo],
) -> Result<InferredInput, String> {
    let fit = |preprocess: &Preprocess| fit_as(input, array, preprocess, model, arrays);
    let own = fit(&options.preprocess);
    // What was done to other data may not suit this.
    let inherited = inherited(input, array, &options.preprocess, model);
    let inherited = inherited.and_then(|all| {
        let mut less = parts(&all, &options.preprocess).into_iter();
        less.find_map(|preprocess| fit(&preprocess).ok())
    });
    match (inherited, own) {
        (Some(found), Ok(own)) if found.is_made_like(&own) => Ok(own),
        (Some(found), _) => Ok(InferredInput {
            inherited: true,
            ..found
        }),
        (None, own) => own,
    }
}

/// All of what is taken over, and less of it: without sizes, which another model of the same data has of its own.
fn parts(all: &Preprocess, asked: &Preprocess) -> Vec<Preprocess> {
    let any_size = Preprocess {
        resize: asked.resize,
        crop: asked.crop,
        ..all.clone()
    };
    let audio = |change: fn(&mut AudioOptions)| {
        let mut less = any_size.clone();
        if let (Some(audio), None) = (&mut less.audio, &asked.audio) {
            change(audio);
        }
        less
    };
    let any_length = audio(|audio| audio.seconds = None);
    let any_bands = audio(|audio| (audio.seconds, audio.n_mels, audio.n_mfcc) = (None, None, None));
    let numbers = Preprocess {
        audio: asked.audio.clone(),
        layout: asked.layout,
        ..any_size.clone()
    };
    let mut found = vec![all.clone(), any_size, any_length, any_bands, numbers];
    found.dedup();
    found
}

/// How the job that made a model prepared this input.
fn expected_of<'a>(input: &TensorInfo, model: &'a ModelSummary) -> Option<&'a InferredInput> {
    let all = model.expected_inputs();
    let named = all.iter().find(|own| own.input == input.name);
    named.or(match (all, model.inputs.as_slice()) {
        ([only], [_]) => Some(only),
        _ => None,
    })
}

/// What is asked for, and where nothing is, what the job did that made the model; `None` where that adds nothing.
fn inherited(
    input: &TensorInfo,
    array: &ArrayInfo,
    asked: &Preprocess,
    model: &ModelSummary,
) -> Option<Preprocess> {
    let expected = expected_of(input, model)?;
    let of_numbers = expected.image.is_none() && expected.audio.is_none() && !expected.zeros;
    let is_alike = match array.media {
        // On which scale numbers are goes with their type.
        None => of_numbers && expected.dtype == array.dtype,
        Some(Media::Image) => expected.image.is_some(),
        Some(Media::Audio) => expected.audio.is_some(),
        Some(Media::Text) => false,
    };
    if !is_alike {
        return None;
    }
    let own = expected.options();
    let mut all = asked.clone();
    if !input.prepared && asked.scale.is_none() && asked.mean.is_none() && asked.std.is_none() {
        (all.scale, all.mean, all.std) = (own.scale, own.mean, own.std);
    }
    if asked.resize.is_none() && asked.crop.is_none() {
        (all.resize, all.crop) = (own.resize, own.crop);
    }
    all.layout = asked.layout.or(own.layout);
    all.audio = asked.audio.clone().or(own.audio);
    (all != *asked).then_some(all)
}

fn fit_as(
    input: &TensorInfo,
    array: &ArrayInfo,
    preprocess: &Preprocess,
    model: &ModelSummary,
    arrays: &[ArrayInfo],
) -> Result<InferredInput, String> {
    if input.dtype == "string" {
        return Err(format!(
            "the model's input `{}` takes strings, which are not supported",
            input.name
        ));
    }
    let Fit {
        shape,
        transposed,
        image,
        tokens,
        audio,
    } = match array.media {
        Some(Media::Image) => fit_image(input, array, preprocess)?,
        Some(Media::Text) => {
            let states = model
                .inputs
                .iter()
                .filter(|input| is_state(input, model, arrays));
            let is_only = model.inputs.len() - states.count() == 1;
            fit_text(input, array, preprocess, model, is_only)?
        }
        Some(Media::Audio) => fit_audio(input, array, preprocess)?,
        None => fit_numbers(input, array, preprocess)?,
    };
    // Pixels become shares of one where the model takes fractions; what it takes whole, or scales itself, stays.
    let takes_shares =
        array.dtype == "uint8" && input.dtype.starts_with("float") && !input.prepared;
    let default_scale = if takes_shares { 1.0 / 255.0 } else { 1.0 };
    let mut found = InferredInput {
        input: input.name.clone(),
        array: array.name.clone(),
        transposed,
        scale: preprocess.scale.unwrap_or(default_scale),
        mean: vec![0.0],
        std: vec![1.0],
        shape,
        image,
        tokens,
        audio,
        zeros: false,
        dtype: array.dtype.clone(),
        inherited: false,
        inside: expected_of(input, model)
            .filter(|_| input.prepared)
            .and_then(|own| own.inside.clone()),
    };
    let channels = found.channels();
    let is_plain = |values: &Option<Vec<f64>>, plain: f64| {
        values.iter().flatten().all(|value| *value == plain)
    };
    if input.prepared && !(is_plain(&preprocess.mean, 0.0) && is_plain(&preprocess.std, 1.0)) {
        return Err(format!(
            "preprocess.mean and std would be taken off twice: the model has them inside (embed_preprocessing) and its input `{}` takes \
             levels as they are stored; leave them out",
            input.name
        ));
    }
    for (name, given, value) in [
        ("mean", &preprocess.mean, &mut found.mean),
        ("std", &preprocess.std, &mut found.std),
    ] {
        let Some(given) = given else { continue };
        if given.len() != 1 && given.len() != channels {
            return Err(format!(
                "preprocess.{name} has {} values, the input `{}` has {channels} {}",
                given.len(),
                input.name,
                match (found.shape.len(), channels) {
                    (1, 1) => "feature",
                    (1, _) => "features",
                    (_, 1) => "channel",
                    _ => "channels",
                }
            ));
        }
        value.clone_from(given);
    }
    Ok(found)
}

fn elements(shape: &[u64]) -> Option<u64> {
    shape
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size))
}

/// How the elements of an example are laid out for a model.
struct Fit {
    shape: Vec<u64>,
    transposed: bool,
    image: Option<ImagePreparation>,
    tokens: Option<TokenPreparation>,
    audio: Option<AudioPreparation>,
}

impl Fit {
    fn of(shape: Vec<u64>, transposed: bool) -> Self {
        Self {
            shape,
            transposed,
            image: None,
            tokens: None,
            audio: None,
        }
    }
}

/// What the model's file says about the shape of one example.
fn example_shape(input: &TensorInfo) -> &[Dimension] {
    input.shape.get(1..).unwrap_or_default()
}

fn fit_numbers(
    input: &TensorInfo,
    array: &ArrayInfo,
    preprocess: &Preprocess,
) -> Result<Fit, String> {
    refuse_others(preprocess, array, None)?;
    let wanted = example_shape(input);
    let matches = |shape: &[u64]| {
        shape.len() == wanted.len()
            && shape.iter().zip(wanted).all(|(size, dimension)| {
                dimension.fixed().is_none_or(|fixed| fixed == *size as i64)
            })
    };
    let stored = array.shape.as_slice();
    let turned = || match stored {
        [height, width, channels] => Some(vec![*channels, *height, *width]),
        [length, channels] => Some(vec![*channels, *length]),
        _ => None,
    };
    let with_channel = || {
        let mut shape = vec![1];
        shape.extend_from_slice(stored);
        shape
    };
    let fixed: Option<Vec<u64>> = wanted
        .iter()
        .map(|d| d.fixed().and_then(|size| u64::try_from(size).ok()))
        .collect();
    if preprocess.layout == Some(Layout::Nhwc) && turned().is_none() {
        return Err(format!(
            "the layout nhwc needs examples of 2 or 3 axes, the array `{}` has {stored:?}",
            array.name
        ));
    }
    let (shape, transposed) = if preprocess.layout == Some(Layout::Nhwc) {
        (turned().expect("just seen"), true)
    } else if matches(stored) {
        (stored.to_vec(), false)
    } else if matches(&with_channel()) {
        (with_channel(), false)
    } else if preprocess.layout.is_none() && turned().is_some_and(|shape| matches(&shape)) {
        (turned().expect("just seen"), true)
    } else if let Some(fixed) = fixed
        && elements(&fixed).is_some()
        && elements(&fixed) == elements(stored)
        && (stored.len() == 1 || fixed.len() == 1)
    {
        // A flat row of a table for an image, or an image for a multilayer perceptron.
        (fixed, false)
    } else {
        return Err(format!(
            "the model's input `{}` wants examples of shape {}, the array `{}` has {stored:?}",
            input.name,
            serde_json::to_string(wanted).unwrap_or_default(),
            array.name
        ));
    };
    if !matches(&shape) {
        return Err(format!(
            "with the layout asked for, `{}` has examples of shape {shape:?}, the model's input \
             `{}` wants {}",
            array.name,
            input.name,
            serde_json::to_string(wanted).unwrap_or_default()
        ));
    }
    Ok(Fit::of(shape, transposed))
}

/// What is said of another kind of data than the array's is an error, not ignored.
fn refuse_others(
    preprocess: &Preprocess,
    array: &ArrayInfo,
    media: impl Into<Option<Media>>,
) -> Result<(), String> {
    let media = media.into();
    let held = match media {
        None => "numbers",
        Some(Media::Image) => "images",
        Some(Media::Text) => "texts",
        Some(Media::Audio) => "audio",
    };
    let refused = |fields: &str, of: &str| {
        Err(format!(
            "preprocess.{fields} is for {of}, `{}` holds {held}",
            array.name
        ))
    };
    let is_image = media == Some(Media::Image);
    match () {
        () if preprocess.max_length.is_some() && media != Some(Media::Text) => {
            refused("max_length", "texts")
        }
        () if preprocess.audio.is_some() && media != Some(Media::Audio) => {
            refused("audio", "audio files")
        }
        () if preprocess.resize.is_some() && !is_image => refused("resize", "image files"),
        () if preprocess.crop.is_some() && !is_image => refused("crop", "image files"),
        () if preprocess.layout.is_some() && !is_image && media.is_some() => {
            refused("layout", "arrays and image files")
        }
        () => Ok(()),
    }
}
