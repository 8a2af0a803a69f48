//! Mel spectrograms and cepstral coefficients, as librosa and torchaudio compute them.

use std::f64::consts::PI;

use realfft::RealFftPlanner;

use crate::spec::audio::{AudioConvention, AudioLogarithm, SpectrogramPreparation};

/// The features of an example of samples, in the order that the preparation says.
///
/// The power `|X|²` of the Fourier transforms of frames under a periodic Hann window, each centred on its place; their sums
/// over triangular mel bands; the logarithm; of cepstral coefficients the orthonormal DCT-II over the bands.
pub(super) fn features(
    samples: &[f32],
    sample_rate: u32,
    how: &SpectrogramPreparation,
) -> Vec<f32> {
    let mels = mel_spectrogram(samples, sample_rate, how);
    let bands = how.n_mels as usize;
    let frames = mels.len() / bands.max(1);
    let mut logarithms: Vec<f64> = mels
        .into_iter()
        .map(|power| logarithm(power, how))
        .collect();
    if let Some(top) = how.top_db {
        let loudest = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for value in &mut logarithms {
            *value = value.max(loudest - top);
        }
    }
    let (values, bands) = match how.n_mfcc {
        None => (logarithms, bands),
        Some(count) => (cepstral(&logarithms, bands, count as usize), count as usize),
    };
    // Until here a frame's bands lie side by side.
    if how.frames_first {
        return values.into_iter().map(|value| value as f32).collect();
    }
    let places = (0..bands).flat_map(|band| (0..frames).map(move |frame| frame * bands + band));
    places.map(|place| values[place] as f32).collect()
}

/// `[frames, bands]`.
fn mel_spectrogram(samples: &[f32], sample_rate: u32, how: &SpectrogramPreparation) -> Vec<f64> {
    let (size, hop) = (how.n_fft as usize, how.hop_length as usize);
    let window = window(size, how.win_length as usize);
    let padded = padded(samples, size / 2, how.convention);
    let filters = mel_filters(sample_rate, how);
    let transform = RealFftPlanner::<f64>::new().plan_fft_forward(size);
    let (mut input, mut spectrum) = (transform.make_input_vec(), transform.make_output_vec());
    let mut scratch = transform.make_scratch_vec();
    let frames = 1 + padded.len().saturating_sub(size) / hop;
    let mut out = Vec::with_capacity(frames * filters.len());
    let mut power = vec![0.0; spectrum.len()];
    for frame in 0..frames {
        let own = &padded[frame * hop..][..size];
        for ((place, sample), weight) in input.iter_mut().zip(own).zip(&window) {
            *place = sample * weight;
        }
        transform
            .process_with_scratch(&mut input, &mut spectrum, &mut scratch)
            .expect("buffers of the transform's own sizes");
        for (power, value) in power.iter_mut().zip(&spectrum) {
            *power = value.norm_sqr();
        }
        out.extend(filters.iter().map(|filter| filter.of(&power)));
    }
    out
}

/// A periodic Hann window of `length` in the middle of `size`.
fn window(size: usize, length: usize) -> Vec<f64> {
    let length = length.min(size);
    let mut window = vec![0.0; size];
    let start = (size - length) / 2;
    for (index, weight) in window[start..start + length].iter_mut().enumerate() {
        *weight = 0.5 - 0.5 * (2.0 * PI * index as f64 / length as f64).cos();
    }
    window
}

/// With `half` a frame before and behind.
fn padded(samples: &[f32], half: usize, convention: AudioConvention) -> Vec<f64> {
    let count = samples.len();
    let at = |place: isize| {
        let within = (0..count as isize).contains(&place);
        match convention {
            AudioConvention::Librosa if !within => 0.0,
            _ => {
                // Mirrored at the ends, which are not repeated.
                let period = 2 * (count as isize - 1).max(1);
                let place = place.rem_euclid(period);
                let place = place.min(period - place);
                f64::from(samples[place as usize])
            }
        }
    };
    let half = half as isize;
    (-half..count as isize + half).map(at).collect()
}

/// A triangle over some of the frequencies.
struct Filter {
    start: usize,
    weights: Vec<f64>,
}

impl Filter {
    fn of(&self, power: &[f64]) -> f64 {
        let own = &power[self.start..];
        self.weights
            .iter()
            .zip(own)
            .map(|(weight, power)| weight * power)
            .sum()
    }
}

fn mel_filters(sample_rate: u32, how: &SpectrogramPreparation) -> Vec<Filter> {
    let bands = how.n_mels as usize;
    let frequencies = how.n_fft as usize / 2 + 1;
    // Torchaudio has the highest frequency at half of the rate, whatever the size is.
    let frequency = |index: usize| match how.convention {
        AudioConvention::Librosa => index as f64 * f64::from(sample_rate) / f64::from(how.n_fft),
        AudioConvention::Torchaudio => {
            index as f64 * f64::from(sample_rate / 2) / (frequencies - 1).max(1) as f64
        }
    };
    let is_librosa = how.convention == AudioConvention::Librosa;
    let to_mel = if is_librosa { slaney } else { htk };
    let of_mel = if is_librosa {
        hertz_of_slaney
    } else {
        hertz_of_htk
    };
    let (low, high) = (to_mel(how.f_min), to_mel(how.f_max));
    let edge = |index: usize| of_mel(low + (high - low) * index as f64 / (bands + 1) as f64);
    (0..bands)
        .map(|band| {
            let [left, middle, right] = [edge(band), edge(band + 1), edge(band + 2)];
            let height = match how.convention {
                AudioConvention::Librosa => 2.0 / (right - left),
                AudioConvention::Torchaudio => 1.0,
            };
            let weight = |index: usize| {
                let at = frequency(index);
                let rising = (at - left) / (middle - left);
                let falling = (right - at) / (right - middle);
                rising.min(falling).max(0.0) * height
            };
            let start = (0..frequencies)
                .find(|&index| weight(index) > 0.0)
                .unwrap_or(0);
            let weights: Vec<f64> = (start..frequencies)
                .map(weight)
                .take_while(|&weight| weight > 0.0)
                .collect();
            Filter { start, weights }
        })
        .collect()
}

/// `2595 log₁₀(1 + f ÷ 700)` (the HTK book, section 5.4).
fn htk(hertz: f64) -> f64 {
    2595.0 * (1.0 + hertz / 700.0).log10()
}

fn hertz_of_htk(mel: f64) -> f64 {
    700.0 * (10f64.powf(mel / 2595.0) - 1.0)
}

/// Linear up to 1000 Hz, 3 mels to 200 Hz, and logarithmic above (Slaney, "Auditory Toolbox", 1998).
const SLANEY_STEP: f64 = 200.0 / 3.0;
const SLANEY_KNEE: f64 = 1000.0;

fn slaney(hertz: f64) -> f64 {
    match hertz < SLANEY_KNEE {
        true => hertz / SLANEY_STEP,
        false => SLANEY_KNEE / SLANEY_STEP + (hertz / SLANEY_KNEE).ln() / (6.4f64.ln() / 27.0),
    }
}

fn hertz_of_slaney(mel: f64) -> f64 {
    let knee = SLANEY_KNEE / SLANEY_STEP;
    match mel < knee {
        true => mel * SLANEY_STEP,
        false => SLANEY_KNEE * ((6.4f64.ln() / 27.0) * (mel - knee)).exp(),
    }
}

fn logarithm(power: f64, how: &SpectrogramPreparation) -> f64 {
    match how.logarithm {
        AudioLogarithm::Db => 10.0 * power.max(1e-10).log10(),
        AudioLogarithm::Natural => (power + 1e-6).ln(),
    }
}

/// The first `count` coefficients of the orthonormal DCT-II of each frame's bands.
fn cepstral(values: &[f64], bands: usize, count: usize) -> Vec<f64> {
    let basis: Vec<f64> = (0..count)
        .flat_map(|order| {
            let scale = if order == 0 { 1.0 } else { 2.0 };
            let scale = (scale / bands as f64).sqrt();
            (0..bands).map(move |band| {
                scale * (PI / bands as f64 * (band as f64 + 0.5) * order as f64).cos()
            })
        })
        .collect();
    let of_frame = |frame: &[f64]| -> Vec<f64> {
        let of = |row: &[f64]| row.iter().zip(frame).map(|(a, b)| a * b).sum();
        basis.chunks(bands).map(of).collect()
    };
    values.chunks(bands).flat_map(of_frame).collect()
}
