//! Sound files: WAV, FLAC, Ogg Vorbis and MP3.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rubato::audioadapter_buffers::owned::InterleavedOwned;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};
use symphonia::core::codecs::audio::AudioDecoderOptions;
use symphonia::core::errors::Error;
use symphonia::core::formats::TrackType;
use symphonia::core::formats::probe::Hint;
use symphonia::core::io::MediaSourceStream;

use super::spectrum::features;
use crate::spec::audio::AudioPreparation;

/// Most samples of a file, of all its channels: half an hour of two at 48 kHz. A decoder must not be made to fill the
/// memory by silence that was compressed.
const MOST_SAMPLES: usize = 172_800_000;

/// Samples that are resampled at once, at least: the more, the steeper the filter.
const CHUNK: usize = 4096;

/// Ends of the names of sound files, and of those that are not read.
const ENDINGS: [&str; 6] = [".wav", ".wave", ".flac", ".ogg", ".oga", ".mp3"];
const OTHERS: [&str; 6] = [".m4a", ".aac", ".opus", ".wma", ".aiff", ".aif"];

/// Whether a file is a sound by its name.
pub(super) fn is_audio(name: &str) -> bool {
    let name = name.to_lowercase();
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Whether a file is a sound of a kind that is not read.
pub(super) fn is_other_audio(name: &str) -> bool {
    let name = name.to_lowercase();
    OTHERS.iter().any(|ending| name.ends_with(ending))
}

/// Whether a file is a sound by its first bytes.
pub(super) fn is_recorded(head: &[u8]) -> bool {
    let is_frame = || matches!(head, [0xff, second, ..] if second & 0xe6 == 0xe2);
    (head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WAVE"))
        || head.starts_with(b"fLaC")
        || head.starts_with(b"OggS")
        || head.starts_with(b"ID3")
        || is_frame()
}

/// A sound, its channels averaged.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sound {
    pub sample_rate: u32,
    pub samples: Vec<f32>,
}

/// Decodes a file, or says why not.
pub(super) fn decode(bytes: Vec<u8>) -> Result<Sound, String> {
    let mut samples = Vec::new();
    let sample_rate = each_sample(bytes, |sample| samples.push(sample))?;
    Ok(Sound {
        sample_rate,
        samples,
    })
}

/// Sample rate and length in milliseconds, without keeping what is decoded; why it can't be otherwise.
pub(super) fn measure(bytes: Vec<u8>) -> Result<(u32, u64), String> {
    let mut count = 0u64;
    let sample_rate = each_sample(bytes, |_| count += 1)?;
    Ok((sample_rate, count * 1000 / u64::from(sample_rate.max(1))))
}

/// Hands each sample over, the channels averaged; the sample rate.
fn each_sample(bytes: Vec<u8>, then: impl FnMut(f32)) -> Result<u32, String> {
    // A file made to break its decoder is one that can't be decoded.
    catch_unwind(AssertUnwindSafe(|| each_sample_unguarded(bytes, then)))
        .unwrap_or_else(|_| Err("its decoder gave up on it".to_owned()))
}

fn each_sample_unguarded(bytes: Vec<u8>, mut then: impl FnMut(f32)) -> Result<u32, String> {
    let said = |error: Error| match error {
        Error::Unsupported(what) => format!("it is not supported: {what}"),
        Error::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "it ends too early".to_owned()
        }
        other => other.to_string(),
    };
    let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes)), Default::default());
    let probe = symphonia::default::get_probe();
    let mut format = probe
        .probe(&Hint::new(), stream, Default::default(), Default::default())
        .map_err(said)?;
    let track = format
        .default_track(TrackType::Audio)
        .ok_or("it has no track of sound")?;
    let id = track.id;
    let parameters = track
        .codec_params
        .as_ref()
        .and_then(|parameters| parameters.audio())
        .ok_or("it does not say how it is encoded")?;
    let mut decoder = symphonia::default::get_codecs()
        .make_audio_decoder(parameters, &AudioDecoderOptions::default())
        .map_err(said)?;
    let (mut sample_rate, mut channels) = (0, 0);
    let mut interleaved: Vec<f32> = Vec::new();
    let mut decoded = 0;
    loop {
        let packet = match format.next_packet() {
            Ok(Some(packet)) => packet,
            Ok(None) => break,
            Err(error) => return Err(said(error)),
        };
        if packet.track_id != id {
            continue;
        }
        let buffer = decoder.decode(&packet).map_err(said)?;
        let own = (buffer.spec().rate(), buffer.spec().channels().count());
        if channels == 0 {
            (sample_rate, channels) = own;
        }
        if own != (sample_rate, channels) || channels == 0 {
            return Err("its sample rate or its channels change midway".to_owned());
        }
        buffer.copy_to_vec_interleaved(&mut interleaved);
        decoded += interleaved.len();
        if decoded > MOST_SAMPLES {
            return Err(format!(
                "it has more than {MOST_SAMPLES} samples; cut it into pieces"
            ));
        }
        for frame in interleaved.chunks_exact(channels) {
            let mean = frame.iter().sum::<f32>() / frame.len() as f32;
            if !mean.is_finite() {
                return Err("it holds samples that are no numbers".to_owned());
            }
            then(mean);
        }
    }
    if decoded == 0 {
        return Err("it holds no sound".to_owned());
    }
    if !(1_000..=384_000).contains(&sample_rate) {
        return Err(format!(
            "it has {sample_rate} samples a second; 1000 to 384000 are read"
        ));
    }
    Ok(sample_rate)
}

/// A sound as a model takes it.
pub(super) fn prepare(sound: Sound, how: &AudioPreparation) -> Result<Vec<f32>, String> {
    let wanted = how.samples as usize;
    let mut samples = sound.samples;
    // What is cut away afterwards need not be resampled.
    let needed = wanted as f64 * f64::from(sound.sample_rate) / f64::from(how.sample_rate);
    samples.truncate(needed.ceil() as usize + 2 * CHUNK);
    if sound.sample_rate != how.sample_rate {
        samples = resampled(samples, sound.sample_rate, how.sample_rate)?;
    }
    samples.resize(wanted, 0.0);
    Ok(match &how.spectrogram {
        None => samples,
        Some(spectrogram) => features(&samples, how.sample_rate, spectrogram),
    })
}

fn gcd(a: usize, b: usize) -> usize {
    match b {
        0 => a,
        b => gcd(b, a % b),
    }
}

fn resampled(samples: Vec<f32>, from: u32, to: u32) -> Result<Vec<f32>, String> {
    let said = |error: &dyn std::fmt::Display| format!("it can't be resampled: {error}");
    let count = samples.len();
    let (from, to) = (from as usize, to as usize);
    // An even number of samples: the filter's middle is on one of them, and its delay can be taken off.
    let unit = 2 * from / gcd(from, to);
    let chunk = CHUNK.div_ceil(unit) * unit;
    let window = WindowFunction::BlackmanHarris2;
    let mut resampler = Fft::<f32>::new_custom(from, to, chunk, 1, 1, window, FixedSync::Both)
        .map_err(|error| said(&error))?;
    let input = InterleavedOwned::new_from(samples, 1, count).map_err(|error| said(&error))?;
    let output = resampler
        .process_all(&input, count, None)
        .map_err(|error| said(&error))?;
    Ok(output.take_data())
}
