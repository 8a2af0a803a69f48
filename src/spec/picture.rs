//! How image files become examples.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most pixels of an example.
pub const MOST_PIXELS: u64 = 1 << 24;

/// A size in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(
    untagged,
    expecting = "must be a number of pixels, or two: height and width"
)]
pub enum Extent {
    /// Of the shorter side when images are resized, of both sides when they are cropped.
    Side(u32),
    /// Height and width.
    Sides([u32; 2]),
}

impl Extent {
    pub(super) fn is_sound(self) -> bool {
        let [height, width] = self.sides().map(u64::from);
        height > 0 && width > 0 && height * width <= MOST_PIXELS
    }

    /// Height and width of a crop.
    pub fn sides(self) -> [u32; 2] {
        match self {
            Self::Side(side) => [side, side],
            Self::Sides(sides) => sides,
        }
    }

    /// Height and width that an image of `[height, width]` is resized to; the longer side follows the shorter
    /// one, rounded down.
    pub fn resized(self, [height, width]: [u32; 2]) -> [u32; 2] {
        let Self::Side(side) = self else {
            return self.sides();
        };
        let along = |long: u32, short: u32| {
            let long = u64::from(side) * u64::from(long) / u64::from(short.max(1));
            u32::try_from(long).unwrap_or(u32::MAX).max(1)
        };
        match height <= width {
            true => [side, along(width, height)],
            false => [along(height, width), side],
        }
    }
}

/// How an image file becomes an example of `height · width · channels` bytes, channels last: colours are
/// converted, then the image is resized (bilinear, antialiased where it shrinks) and its middle cut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct ImagePreparation {
    /// 1 (grey, ITU-R 601-2), 3 (red, green, blue) or 4 (with opacity).
    pub channels: u32,
    /// `null` where images have the size that is needed.
    pub resize: Option<Extent>,
    /// Height and width of the middle that is left; what an image lacks is black.
    pub crop: [u32; 2],
}

impl ImagePreparation {
    /// What is made of an image, for people.
    pub fn in_words(&self) -> String {
        let colours = match self.channels {
            1 => "grey",
            3 => "red, green and blue",
            _ => "red, green, blue and opacity",
        };
        let resized = match self.resize {
            None => String::new(),
            Some(Extent::Side(side)) => format!(", resized to {side} on the shorter side"),
            Some(Extent::Sides([height, width])) => format!(", resized to {height} × {width}"),
        };
        let [height, width] = self.crop;
        match self.resize {
            Some(Extent::Sides(sides)) if sides == self.crop => {
                format!("images in {colours}{resized}")
            }
            Some(_) => {
                format!("images in {colours}{resized}, of which the middle {height} × {width}")
            }
            None => format!("images in {colours}, of {height} × {width}"),
        }
    }

    /// Bytes of an example.
    pub fn bytes(&self) -> usize {
        let [height, width] = self.crop;
        height as usize * width as usize * self.channels as usize
    }

    /// Height, width, channels.
    pub fn shape(&self) -> [usize; 3] {
        let [height, width] = self.crop;
        [height as usize, width as usize, self.channels as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_side_follows_the_shorter() {
        assert_eq!(Extent::Side(256).resized([480, 640]), [256, 341]);
        assert_eq!(Extent::Side(256).resized([640, 480]), [341, 256]);
        assert_eq!(Extent::Side(8).resized([16, 16]), [8, 8]);
        assert_eq!(Extent::Side(1).resized([1, 70_000]), [1, 70_000]);
        assert_eq!(Extent::Sides([3, 4]).resized([480, 640]), [3, 4]);
    }
}
