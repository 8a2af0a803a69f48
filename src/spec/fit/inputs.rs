//! How stored arrays, files and texts feed the inputs of a model.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spec::audio::{
    AudioConvention, AudioFeatures, AudioLogarithm, AudioPreparation, MOST_SAMPLES,
    SpectrogramPreparation,
};
use crate::spec::dataset::{ArrayInfo, Media};
use crate::spec::job::{DataOptions, Layout, Preprocess};
use crate::spec::model::{Dimension, ModelSummary, TensorInfo};
use crate::spec::picture::{Extent, ImagePreparation, MOST_PIXELS};
use crate::spec::tokens::{MOST_LENGTH, TokenPart, TokenPreparation, USUAL_LENGTH};

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
        }
    }

    /// What each channel, or all, is multiplied by, and what is added then.
    pub fn affine(&self) -> Vec<(f64, f64)> {
        let of = |values: &[f64], channel: usize| values[channel.min(values.len() - 1)];
        let line = |channel: usize| {
            let (mean, std) = (of(&self.mean, channel), of(&self.std, channel));
            (self.scale / std, -mean / std)
        };
        (0..self.mean.len().max(self.std.len())).map(line).collect()
    }

    /// Whether a model takes images from files with their channels last.
    pub fn keeps_channels_last(&self) -> bool {
        self.image.is_some() && self.shape.len() == 3 && !self.transposed
    }

    /// How many means and deviations an example can have.
    pub fn channels(&self) -> usize {
        match self.shape.as_slice() {
            [.., channels] if self.keeps_channels_last() => *channels as usize,
            [channels, _, ..] => *channels as usize,
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
                "the model's input `{}` has no array of that name; the data set has {}",
                input.name,
                names(arrays)
            )
        })?;
        fit_input(input, array, options, model, arrays)
    };
    model.inputs.iter().map(fit).collect()
}

fn names(arrays: &[ArrayInfo]) -> String {
    let quoted: Vec<_> = arrays.iter().map(|a| format!("`{}`", a.name)).collect();
    quoted.join(", ")
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
    let preprocess = &options.preprocess;
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
    };
    let channels = found.channels();
    for (name, given, value) in [
        ("mean", &preprocess.mean, &mut found.mean),
        ("std", &preprocess.std, &mut found.std),
    ] {
        let Some(given) = given else { continue };
        if given.len() != 1 && given.len() != channels {
            return Err(format!(
                "preprocess.{name} has {} values, the input `{}` has {channels} channels",
                given.len(),
                input.name
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

/// Image files have the size and the colours that the model takes, or are given them.
fn fit_image(
    input: &TensorInfo,
    array: &ArrayInfo,
    preprocess: &Preprocess,
) -> Result<Fit, String> {
    refuse_others(preprocess, array, Media::Image)?;
    let wanted = example_shape(input);
    let fixed = |place: usize| match wanted[place].fixed() {
        None => Ok(None),
        Some(size) => match u32::try_from(size) {
            Ok(size @ 1..) => Ok(Some(size)),
            _ => Err(format!(
                "the model's input `{}` has an axis of size {size}",
                input.name
            )),
        },
    };
    let stored = |place: usize| {
        let size = array.shape.get(place).copied().filter(|size| *size > 0);
        size.and_then(|size| u32::try_from(size).ok())
    };
    let of_colours = |place: usize| matches!(wanted[place].fixed(), None | Some(1 | 3 | 4));
    let last = preprocess.layout == Some(Layout::Nhwc);
    // Where height, width and channels are among the model's axes.
    let places = match wanted.len() {
        3 if last || (!of_colours(0) && of_colours(2)) => [Some(0), Some(1), Some(2)],
        3 => [Some(1), Some(2), Some(0)],
        2 => [Some(0), Some(1), None],
        1 => [None; 3],
        rank => {
            return Err(format!(
                "the model's input `{}` has examples of {rank} axes; images are put into 3 (channels, height, width in \
                 the order of preprocess.layout), 2 (grey) or 1 (a flat row of grey)",
                input.name
            ));
        }
    };
    let channels = match places[2] {
        None => 1,
        Some(place) => fixed(place)?.or(stored(2)).unwrap_or(3),
    };
    if !matches!(channels, 1 | 3 | 4) {
        return Err(format!(
            "the model's input `{}` has {channels} channels; images have 1, 3 or 4 (say preprocess.layout if its \
             channels are elsewhere)",
            input.name
        ));
    }
    let asked = match (preprocess.crop, preprocess.resize) {
        (Some(crop), _) => Some(crop.sides()),
        (None, Some(Extent::Sides(sides))) => Some(sides),
        (None, _) => None,
    };
    let shorter = match preprocess.resize {
        Some(Extent::Side(side)) => Some(side),
        _ => None,
    };
    let mut crop = [0; 2];
    for axis in 0..2 {
        let taken = places[axis].map_or(Ok(None), fixed)?;
        let given = asked.map(|asked| asked[axis]);
        if let (Some(taken), Some(given)) = (taken, given)
            && taken != given
        {
            let name = ["height", "width"][axis];
            return Err(format!(
                "preprocess gives images the {name} {given}, the model's input `{}` takes {taken}",
                input.name
            ));
        }
        let open = given.or(taken).or(shorter).or(stored(axis));
        crop[axis] = open.ok_or_else(|| {
            format!(
                "images differ in size, and the model's input `{}` takes any: say with preprocess.resize or \
                 preprocess.crop which they are to have",
                input.name
            )
        })?;
    }
    if u64::from(crop[0]) * u64::from(crop[1]) > MOST_PIXELS {
        return Err(format!(
            "the model's input `{}` takes images of {} × {}; at most {MOST_PIXELS} pixels are prepared",
            input.name, crop[0], crop[1]
        ));
    }
    if let [only] = wanted
        && let Some(size) = only.fixed()
        && i64::from(crop[0]) * i64::from(crop[1]) != size
    {
        return Err(format!(
            "grey images of {} × {} are no row of {size} for the model's input `{}`; say with preprocess.resize which \
             size they are to have",
            crop[0], crop[1], input.name
        ));
    }
    let is_stored = (0..2).all(|axis| stored(axis) == Some(crop[axis]));
    let resize = match preprocess.resize {
        None if is_stored || preprocess.crop.is_some() => None,
        None => Some(Extent::Sides(crop)),
        given => given,
    };
    let [height, width] = crop.map(u64::from);
    let (shape, transposed) = match places {
        [Some(0), Some(1), Some(_)] => (vec![height, width, channels.into()], false),
        [Some(1), Some(2), _] => (vec![channels.into(), height, width], true),
        [Some(_), ..] => (vec![height, width], false),
        _ => (vec![height * width], false),
    };
    Ok(Fit {
        image: Some(ImagePreparation {
            channels,
            resize,
            crop,
        }),
        ..Fit::of(shape, transposed)
    })
}

/// Texts become tokens by the model's own tokenizer, or else by that of the data set.
fn fit_text(
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
             data set, together with the model's tokenizer.json (a form with two parts `file`)",
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

/// Audio files become samples or the features that the model's axes have room for.
fn fit_audio(
    input: &TensorInfo,
    array: &ArrayInfo,
    preprocess: &Preprocess,
) -> Result<Fit, String> {
    refuse_others(preprocess, array, Media::Audio)?;
    let options = preprocess.audio.clone().unwrap_or_default();
    let name = &input.name;
    if !input.dtype.contains("float") {
        return Err(format!(
            "the model's input `{name}` takes {}; audio is of floating-point numbers",
            input.dtype
        ));
    }
    let axes: Vec<Option<i64>> = example_shape(input).iter().map(Dimension::fixed).collect();
    let is_one = |axis: Option<i64>| axis.is_none_or(|size| size == 1);
    let features = options.features.unwrap_or(match axes[..] {
        [_] | [Some(1), _] => AudioFeatures::Waveform,
        _ if options.n_mfcc.is_some() => AudioFeatures::Mfcc,
        _ => AudioFeatures::LogMel,
    });
    let is_waveform = features == AudioFeatures::Waveform;
    if is_waveform && options.says_spectrogram() {
        return Err(format!(
            "the model's input `{name}` takes a waveform, which is not transformed; leave out what preprocess.audio says of \
             spectrograms"
        ));
    }
    // An axis of one channel may stand in front.
    let (has_channel, own) = match (is_waveform, &axes[..]) {
        (true, [samples]) => (false, [Some(1), *samples]),
        (true, [channel, samples]) if is_one(*channel) => (true, [Some(1), *samples]),
        (false, [first, second]) => (false, [*first, *second]),
        (false, [channel, first, second]) if is_one(*channel) => (true, [*first, *second]),
        _ => {
            return Err(format!(
                "the model's input `{name}` has examples of shape {}; a waveform is [samples] or [1, samples], features \
                 are [bands, frames] or [frames, bands], with or without an axis of 1 in front (say preprocess.audio.features)",
                serde_json::to_string(example_shape(input)).unwrap_or_default()
            ));
        }
    };
    let about = array.audio.as_ref();
    let sample_rate = (options.sample_rate).or(about.and_then(|about| about.sample_rate));
    let sample_rate = sample_rate.ok_or(
        "audio files differ in their sample rates; say with preprocess.audio.sample_rate which the model takes",
    )?;
    let convention = options.convention.unwrap_or_default();
    let is_librosa = convention == AudioConvention::Librosa;
    let n_fft = options.n_fft.unwrap_or(if is_librosa { 2048 } else { 400 });
    let win_length = options.win_length.unwrap_or(n_fft);
    let usual_hop = if is_librosa {
        512
    } else {
        (win_length / 2).max(1)
    };
    let hop_length = options.hop_length.unwrap_or(usual_hop);
    let is_mfcc = features == AudioFeatures::Mfcc;
    let asked = if is_mfcc {
        options.n_mfcc
    } else {
        options.n_mels
    };
    let frames_first = !is_waveform
        && match (asked.map(i64::from), own) {
            (Some(bands), [first, second]) => {
                first != Some(bands) && (second == Some(bands) || first.is_some())
            }
            (None, [first, second]) => first.is_none() && second.is_some(),
        };
    let [bands, length] = if frames_first { [own[1], own[0]] } else { own };
    let size = |size: Option<i64>| size.map(|size| u32::try_from(size).unwrap_or(0));
    let (fixed_bands, fixed_length) = (size(bands), size(length));
    let usual = match (is_mfcc, is_librosa) {
        (false, _) => 128,
        (true, true) => 20,
        (true, false) => 40,
    };
    let bands = asked.or(fixed_bands).unwrap_or(usual);
    if !is_waveform && fixed_bands.is_some_and(|fixed| fixed != bands) {
        return Err(format!(
            "preprocess.audio asks for {bands} bands, the model's input `{name}` has axes of {}",
            serde_json::to_string(example_shape(input)).unwrap_or_default()
        ));
    }
    let longest = about.map_or(0, |about| about.longest_ms);
    let asked_samples = options
        .seconds
        .map(|seconds| (seconds * f64::from(sample_rate)).round() as u32);
    let samples = match (fixed_length, asked_samples) {
        (Some(fixed), None) if is_waveform => fixed,
        (Some(fixed), None) => {
            let most =
                u64::from(fixed.saturating_sub(1)) * u64::from(hop_length) + u64::from(n_fft % 2);
            u32::try_from(most).unwrap_or(u32::MAX)
        }
        (_, Some(asked)) => asked,
        (None, None) if longest <= 60_000 => {
            u32::try_from(longest * u64::from(sample_rate) / 1000).unwrap_or(u32::MAX)
        }
        (None, None) => {
            return Err(format!(
                "the model's input `{name}` takes any length, and the longest file lasts {} seconds; say with \
                 preprocess.audio.seconds how long examples are",
                longest / 1000
            ));
        }
    };
    if samples == 0 || u64::from(samples) > MOST_SAMPLES {
        return Err(format!(
            "examples for the model's input `{name}` would have {samples} samples; 1 to {MOST_SAMPLES} are made"
        ));
    }
    let n_mels = if is_mfcc {
        options.n_mels.unwrap_or(128)
    } else {
        bands
    };
    let highest = f64::from(sample_rate) / 2.0;
    let usual_top = (is_mfcc || is_librosa).then_some(80.0);
    let logarithm = options.logarithm.unwrap_or(AudioLogarithm::Db);
    let spectrogram = SpectrogramPreparation {
        convention,
        n_fft,
        win_length,
        hop_length,
        n_mels,
        f_min: options.f_min.unwrap_or(0.0),
        f_max: options.f_max.unwrap_or(highest),
        logarithm,
        top_db: options
            .top_db
            .or(usual_top.filter(|_| logarithm == AudioLogarithm::Db)),
        n_mfcc: is_mfcc.then_some(bands),
        frames_first,
    };
    let audio = AudioPreparation {
        sample_rate,
        samples,
        spectrogram: (!is_waveform).then_some(spectrogram),
    };
    if let Some(how) = &audio.spectrogram {
        check_spectrogram(how, samples, highest)?;
    }
    let made = audio.length();
    if fixed_length.is_some_and(|fixed| fixed != made) {
        let unit = if is_waveform { "samples" } else { "frames" };
        return Err(format!(
            "{samples} samples make {made} {unit} (n_fft {n_fft}, hop_length {hop_length}), the model's input `{name}` takes \
             {}; change preprocess.audio.seconds, or n_fft and hop_length",
            fixed_length.unwrap_or(0)
        ));
    }
    if audio.numbers() as u64 > MOST_SAMPLES {
        return Err(format!(
            "examples for the model's input `{name}` would have more than {MOST_SAMPLES} numbers"
        ));
    }
    let mut shape: Vec<u64> = audio.shape().into_iter().map(|size| size as u64).collect();
    if has_channel {
        shape.insert(0, 1);
    }
    Ok(Fit {
        audio: Some(audio),
        ..Fit::of(shape, false)
    })
}

fn check_spectrogram(
    how: &SpectrogramPreparation,
    samples: u32,
    highest: f64,
) -> Result<(), String> {
    if how.win_length > how.n_fft {
        return Err(format!(
            "preprocess.audio.win_length is {}, more than the {} of n_fft",
            how.win_length, how.n_fft
        ));
    }
    if how.f_max > highest || how.f_min >= how.f_max {
        return Err(format!(
            "preprocess.audio has bands from {} to {} Hz, the sample rate allows 0 to {highest}",
            how.f_min, how.f_max
        ));
    }
    if how.n_mfcc.is_some_and(|count| count > how.n_mels) {
        return Err(format!(
            "preprocess.audio.n_mfcc is {}, more than the {} of n_mels",
            how.n_mfcc.unwrap_or(0),
            how.n_mels
        ));
    }
    if samples <= how.n_fft / 2 {
        return Err(format!(
            "examples of {samples} samples are too short for frames of n_fft {}",
            how.n_fft
        ));
    }
    Ok(())
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
