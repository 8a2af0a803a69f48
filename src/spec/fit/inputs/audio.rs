//! Audio files as inputs.

use super::{Fit, example_shape, refuse_others};
use crate::spec::audio::{
    AudioConvention, AudioFeatures, AudioLogarithm, AudioPreparation, MOST_SAMPLES,
    SpectrogramPreparation,
};
use crate::spec::dataset::{ArrayInfo, Media};
use crate::spec::job::Preprocess;
use crate::spec::model::{Dimension, TensorInfo};

/// Audio files become samples or the features that the model's axes have room for.
pub(super) fn fit_audio(
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
            let least =
                u64::from(fixed.saturating_sub(1)) * u64::from(hop_length) + u64::from(n_fft % 2);
            // Several counts make as many frames: that of the longest file, if it is one of them, leaves it whole.
            let most = least + u64::from(hop_length) - 1;
            let whole = longest * u64::from(sample_rate) / 1000;
            let samples = if (least..=most).contains(&whole) {
                whole
            } else {
                least
            };
            u32::try_from(samples).unwrap_or(u32::MAX)
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
