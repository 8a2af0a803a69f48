//! Random changes of training examples.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::{Faults, FieldError};

/// Along which axis half of the examples are mirrored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Flip {
    /// Left and right.
    Horizontal,
    /// Top and bottom.
    Vertical,
    /// Each along its own axis, apart.
    Both,
}

/// A border of zeros, and a random cut of the old size out of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Crop {
    /// Pixels on each side: how far an example is moved at most.
    pub padding: u32,
}

/// A square of zeros somewhere (DeVries and Taylor, "Improved Regularization of Convolutional Neural
/// Networks with Cutout", 2017).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cutout {
    /// Pixels on each side; its centre may be anywhere, so it may stick out.
    pub size: u32,
}

/// Blends of examples, or boxes of one in another, with a share from a Beta(`alpha`, `alpha`)
/// distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// Small for shares near 0 and 1, 1 for all alike.
    pub alpha: f64,
}

/// Normal noise on every element.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Noise {
    /// Its deviation, on the scale of the model's input.
    pub std: f64,
}

/// Stretches of zeros along one axis (Park et al., "SpecAugment", Interspeech 2019).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Stretches {
    /// How many, each somewhere else.
    #[serde(default = "one")]
    pub count: u32,
    /// Most elements that one covers.
    pub size: u32,
}

fn one() -> u32 {
    1
}

/// Tokens that are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenDropout {
    /// Of each token, above 0 to below 1. Padding stays: the tokenizer's, or tokens 0 of arrays.
    pub probability: f64,
    /// What a dropped token becomes: the vocabulary's mask or unknown.
    pub token: u32,
}

/// What happens to an example before a model sees it; in a training the same to teacher and student.
/// Applied in the order of the fields.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crop: Option<Crop>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flip: Option<Flip>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutout: Option<Cutout>,
    /// Along the last axis.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_mask: Option<Stretches>,
    /// Along the axis before the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_mask: Option<Stretches>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_dropout: Option<TokenDropout>,
    /// Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mixup: Option<Mix>,
    /// Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
    /// Features", ICCV 2019. Beside `mixup`, each batch takes one of the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutmix: Option<Mix>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<Noise>,
}

/// How the elements of one example lie, once channels-last examples that a model wants channels-first
/// have been turned: `channels` planes of `height` rows of `width`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub channels: usize,
    pub height: usize,
    pub width: usize,
    /// Whether the channels of a place lie side by side.
    pub channels_last: bool,
    /// Whether the elements are token numbers.
    pub tokens: bool,
}

impl Geometry {
    /// Of examples of `shape` as they are stored; `None` for those with more than three axes, or none.
    pub fn of(transposed: bool, dtype: &str, shape: &[usize]) -> Option<Self> {
        let integers = !dtype.starts_with("float") && dtype != "uint8";
        let (channels, height, width, channels_last) = match shape {
            [height, width, channels] if transposed => (*channels, *height, *width, false),
            [width, channels] if transposed => (1, *channels, *width, false),
            [height, width, channels] if *channels <= 4 && *height > 4 => {
                (*channels, *height, *width, true)
            }
            [channels, height, width] => (*channels, *height, *width, false),
            [height, width] => (1, *height, *width, false),
            [width] => (1, 1, *width, false),
            _ => return None,
        };
        Some(Self {
            channels,
            height,
            width,
            channels_last,
            tokens: integers && shape.len() == 1,
        })
    }

    pub fn elements(&self) -> usize {
        self.channels * self.height * self.width
    }

    /// Whether neighbours mean something.
    pub fn is_plane(&self) -> bool {
        self.width > 1 && !self.tokens
    }

    /// Where an element stands in its example.
    pub fn index(&self, channel: usize, row: usize, column: usize) -> usize {
        match self.channels_last {
            true => (row * self.width + column) * self.channels + channel,
            false => (channel * self.height + row) * self.width + column,
        }
    }
}

impl Augment {
    /// Whether it can be done to these inputs; a fault points into this object.
    pub fn check(&self, inputs: &[Option<Geometry>]) -> Result<(), FieldError> {
        let known = || inputs.iter().flatten();
        let all_known = inputs.iter().all(Option::is_some);
        if self.needs_planes() && !(all_known && known().any(Geometry::is_plane)) {
            let detail = "crop, flip, cutout, cutmix and the masks need examples of 1 to 3 axes that are \
                          no token numbers";
            return Err(FieldError::new("", detail));
        }
        if self.token_dropout.is_some() && !known().any(|geometry| geometry.tokens) {
            let detail = "needs an input of token numbers: integers in one axis";
            return Err(FieldError::new("/token_dropout", detail));
        }
        let blends = self.mixup.is_some() || self.cutmix.is_some();
        if blends && known().any(|geometry| geometry.tokens) {
            let detail = "token numbers can't be blended; leave out mixup and cutmix";
            return Err(FieldError::new("", detail));
        }
        Ok(())
    }

    /// Whether it works on planes of elements, as images and spectrograms are.
    fn needs_planes(&self) -> bool {
        self.crop.is_some()
            || self.flip.is_some()
            || self.cutout.is_some()
            || self.time_mask.is_some()
            || self.frequency_mask.is_some()
            || self.cutmix.is_some()
    }

    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        faults.require(
            *self != Self::default(),
            "",
            "names nothing to do: crop, flip, cutout, time_mask, frequency_mask, token_dropout, mixup, \
             cutmix or noise; or leave it out",
        );
        let mut size = |pointer: &str, size: Option<u32>| {
            faults.require_value(
                size.is_none_or(|size| (1..=4096).contains(&size)),
                pointer,
                "must be from 1 to 4096",
            );
        };
        size("/crop/padding", self.crop.map(|crop| crop.padding));
        size("/cutout/size", self.cutout.map(|cutout| cutout.size));
        for (name, mask) in [
            ("time_mask", self.time_mask),
            ("frequency_mask", self.frequency_mask),
        ] {
            size(&format!("/{name}/size"), mask.map(|mask| mask.size));
            size(&format!("/{name}/count"), mask.map(|mask| mask.count));
        }
        for (pointer, mix) in [("/mixup/alpha", self.mixup), ("/cutmix/alpha", self.cutmix)] {
            faults.require_value(
                mix.is_none_or(|mix| mix.alpha > 0.0 && mix.alpha <= 100.0),
                pointer,
                "must be above 0 and at most 100",
            );
        }
        faults.require_value(
            self.noise
                .is_none_or(|noise| noise.std > 0.0 && noise.std <= 1000.0),
            "/noise/std",
            "must be above 0 and at most 1000",
        );
        let probability = self.token_dropout.map(|dropout| dropout.probability);
        faults.require_value(
            probability.is_none_or(|probability| probability > 0.0 && probability < 1.0),
            "/token_dropout/probability",
            "must be above 0 and below 1",
        );
        faults
    }
}
