//! How sounds become numbers.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::Faults;

/// Most samples of an example, and most numbers.
pub const MOST_SAMPLES: u64 = 1 << 24;

/// Sounds of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AudioInfo {
    /// Samples a second; `null` where files differ.
    pub sample_rate: Option<u32>,
    /// Length of the longest file.
    pub longest_ms: u64,
    /// Half of the files are at most as long.
    pub median_ms: u64,
}

/// What is computed from the samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AudioFeatures {
    /// The samples themselves, −1 to 1.
    Waveform,
    /// The logarithm of a mel spectrogram.
    LogMel,
    /// Mel-frequency cepstral coefficients: the discrete cosine transform of that.
    Mfcc,
}

/// Whose defaults hold: how the spectrogram is padded (librosa by zeros, torchaudio by reflection), on which scale mels
/// lie (Slaney's, HTK's), and whether each mel band is divided by its width (Slaney's norm; none).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AudioConvention {
    Librosa,
    #[default]
    Torchaudio,
}

/// Which logarithm a mel spectrogram gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AudioLogarithm {
    /// `10 log₁₀(max(x, 1e−10))`.
    Db,
    /// `ln(x + 1e−6)`.
    Natural,
}

/// How a job has sounds prepared. What is `null` follows from the model's input and from the convention.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AudioOptions {
    /// Samples a second that files of another rate are resampled to. The files' own when `null`, if they share one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<u32>,
    /// Length of an example: longer files are cut at their end, shorter ones get silence. What the model takes when `null`,
    /// or else as long as the longest file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// When `null` a waveform for an input of one row, else a logarithmic mel spectrogram, or `mfcc` where `n_mfcc` is
    /// given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<AudioFeatures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub convention: Option<AudioConvention>,
    /// Samples of a frame's Fourier transform; 2048 (librosa) or 400 (torchaudio) when `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_fft: Option<u32>,
    /// Samples that a frame's Hann window covers; `n_fft` when `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub win_length: Option<u32>,
    /// Samples from frame to frame; 512 (librosa) or half of `win_length` (torchaudio) when `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hop_length: Option<u32>,
    /// Mel bands. When `null` as many as the model takes, or 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_mels: Option<u32>,
    /// Coefficients of `mfcc`. When `null` as many as the model takes, or 20 (librosa) or 40 (torchaudio).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_mfcc: Option<u32>,
    /// Lowest frequency in hertz; 0 when `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f_min: Option<f64>,
    /// Highest frequency in hertz; half of the sample rate when `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub f_max: Option<f64>,
    /// `db` when `null`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logarithm: Option<AudioLogarithm>,
    /// Decibels below an example's loudest value that are kept apart, all below being one. 80 when `null`, of a
    /// `log_mel` in torchaudio's convention all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_db: Option<f64>,
}

impl AudioOptions {
    /// Whether something is said that a waveform has not.
    pub(super) fn says_spectrogram(&self) -> bool {
        self.convention.is_some()
            || self.n_fft.is_some()
            || self.win_length.is_some()
            || self.hop_length.is_some()
            || self.n_mels.is_some()
            || self.n_mfcc.is_some()
            || self.f_min.is_some()
            || self.f_max.is_some()
            || self.logarithm.is_some()
            || self.top_db.is_some()
    }

    /// Every fault, with pointers relative to this object.
    pub(super) fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        faults.require_value(
            self.sample_rate
                .is_none_or(|rate| (1_000..=192_000).contains(&rate)),
            "/sample_rate",
            "must be from 1000 to 192000",
        );
        let sound = |value: Option<f64>, low: f64, high: f64| {
            value.is_none_or(|value| value > low && value <= high)
        };
        faults.require_value(
            sound(self.seconds, 0.0, 600.0),
            "/seconds",
            "must be above 0 and at most 600",
        );
        for (pointer, value, most) in [
            ("/n_fft", self.n_fft, 1 << 16),
            ("/win_length", self.win_length, 1 << 16),
            ("/hop_length", self.hop_length, 1 << 16),
            ("/n_mels", self.n_mels, 1024),
            ("/n_mfcc", self.n_mfcc, 1024),
        ] {
            let detail = format!("must be from 1 to {most}");
            let within = value.is_none_or(|value| (1..=most).contains(&value));
            faults.require_value(within, pointer, &detail);
        }
        faults.require_value(
            sound(self.f_min, -1e-9, 96_000.0),
            "/f_min",
            "must be from 0 to 96000",
        );
        let low = self.f_min.unwrap_or(0.0);
        faults.require(
            sound(self.f_max, low, 96_000.0),
            "/f_max",
            "must be above f_min and at most 96000",
        );
        faults.require_value(sound(self.top_db, 0.0, 1e6), "/top_db", "must be above 0");
        faults.require(
            self.top_db.is_none() || self.logarithm != Some(AudioLogarithm::Natural),
            "/top_db",
            "is in decibels: leave it out, or ask for the logarithm `db`",
        );
        faults.require(
            !(self.says_spectrogram() && self.features == Some(AudioFeatures::Waveform)),
            "/features",
            "is `waveform`, which is not transformed; leave out what is said of spectrograms",
        );
        faults.require(
            self.n_mfcc.is_none() || matches!(self.features, None | Some(AudioFeatures::Mfcc)),
            "/n_mfcc",
            "is for the features `mfcc`",
        );
        faults
    }
}

/// How the frames of a spectrogram are made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SpectrogramPreparation {
    pub convention: AudioConvention,
    pub n_fft: u32,
    pub win_length: u32,
    pub hop_length: u32,
    pub n_mels: u32,
    pub f_min: f64,
    pub f_max: f64,
    pub logarithm: AudioLogarithm,
    /// `null` where nothing is cut off.
    pub top_db: Option<f64>,
    /// `null` for mel bands themselves.
    pub n_mfcc: Option<u32>,
    /// Whether a frame's numbers lie side by side, `[frames, bands]`, as recurrent networks take them.
    pub frames_first: bool,
}

impl SpectrogramPreparation {
    /// Numbers of a frame.
    pub fn bands(&self) -> u32 {
        self.n_mfcc.unwrap_or(self.n_mels)
    }
}

/// How a sound becomes an example: its channels are averaged, it is resampled, cut or filled with silence at its end, and
/// made features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AudioPreparation {
    pub sample_rate: u32,
    /// Samples of an example.
    pub samples: u32,
    /// `null` where the model takes samples.
    pub spectrogram: Option<SpectrogramPreparation>,
}

impl AudioPreparation {
    /// The options that ask for it.
    pub fn options(&self) -> AudioOptions {
        let how = self.spectrogram.as_ref();
        AudioOptions {
            sample_rate: Some(self.sample_rate),
            seconds: Some(f64::from(self.samples) / f64::from(self.sample_rate)),
            features: Some(match how {
                None => AudioFeatures::Waveform,
                Some(how) if how.n_mfcc.is_some() => AudioFeatures::Mfcc,
                Some(_) => AudioFeatures::LogMel,
            }),
            convention: how.map(|how| how.convention),
            n_fft: how.map(|how| how.n_fft),
            win_length: how.map(|how| how.win_length),
            hop_length: how.map(|how| how.hop_length),
            n_mels: how.map(|how| how.n_mels),
            n_mfcc: how.and_then(|how| how.n_mfcc),
            f_min: how.map(|how| how.f_min),
            f_max: how.map(|how| how.f_max),
            logarithm: how.map(|how| how.logarithm),
            top_db: how.and_then(|how| how.top_db),
        }
    }

    /// What is made of a recording, for people.
    pub fn in_words(&self) -> String {
        let seconds = f64::from(self.samples) / f64::from(self.sample_rate);
        let cut = format!(
            "the first {seconds:.3} s at {} Hz, shorter ones filled up with silence",
            self.sample_rate
        );
        let Some(how) = &self.spectrogram else {
            return format!("samples of {cut}");
        };
        let features = match how.n_mfcc {
            Some(count) => format!("{count} MFCCs of {} mel bands", how.n_mels),
            None => format!("{} log-mel bands", how.n_mels),
        };
        let logarithm = match (how.logarithm, how.top_db) {
            (AudioLogarithm::Natural, _) => "natural logarithm".to_owned(),
            (AudioLogarithm::Db, None) => "decibels".to_owned(),
            (AudioLogarithm::Db, Some(top)) => format!("decibels, at most {top} below the loudest"),
        };
        let convention = match how.convention {
            AudioConvention::Librosa => "librosa",
            AudioConvention::Torchaudio => "torchaudio",
        };
        format!(
            "{features} as {convention} makes them (n_fft {}, win_length {}, hop_length {}, {} to {} Hz, {logarithm}) of {cut}",
            how.n_fft, how.win_length, how.hop_length, how.f_min, how.f_max
        )
    }

    /// Frames of the spectrogram, which are centred on their place; samples without one.
    pub fn length(&self) -> u32 {
        self.spectrogram.as_ref().map_or(self.samples, |how| {
            frames(self.samples, how.n_fft, how.hop_length)
        })
    }

    /// Shape of an example, but for an axis of one channel.
    pub fn shape(&self) -> Vec<usize> {
        let length = self.length() as usize;
        match &self.spectrogram {
            None => vec![length],
            Some(how) if how.frames_first => vec![length, how.bands() as usize],
            Some(how) => vec![how.bands() as usize, length],
        }
    }

    /// Numbers of an example.
    pub fn numbers(&self) -> usize {
        self.shape().iter().product()
    }
}

/// Frames of so many samples, with half a frame before and behind them.
pub fn frames(samples: u32, n_fft: u32, hop_length: u32) -> u32 {
    let padded = samples + n_fft / 2 * 2;
    1 + padded.saturating_sub(n_fft) / hop_length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_those_of_librosa_and_torchaudio() {
        assert_eq!(frames(16_000, 400, 200), 81);
        assert_eq!(frames(22_050, 2048, 512), 44);
        assert_eq!(frames(1000, 401, 100), 10);
    }
}
