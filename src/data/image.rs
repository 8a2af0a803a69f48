//! Image files: PNG, JPEG, WebP and BMP.

use std::io::Cursor;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};

use crate::spec::picture::ImagePreparation;

/// Most pixels of an image: a decoder must not be made to fill the memory by a header.
const MOST_PIXELS: u64 = 100_000_000;

/// Most bytes that decoding one image may take.
const MOST_BYTES: u64 = 512 << 20;

/// How many times longer one side may be than the other.
const LONGEST: u32 = 200;

/// Ends of the names of image files.
const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

/// Ends of the names of image files that are not read.
const OTHERS: [&str; 8] = ["gif", "tif", "tiff", "avif", "heic", "jp2", "ppm", "pgm"];

/// Whether a file is an image by its name.
pub(super) fn is_image(name: &str) -> bool {
    ends_in(name, &ENDINGS)
}

/// Whether a file is an image of a kind that is not read.
pub(super) fn is_other_image(name: &str) -> bool {
    ends_in(name, &OTHERS)
}

fn ends_in(name: &str, endings: &[&str]) -> bool {
    let ending = name
        .rsplit_once('.')
        .map(|(_, ending)| ending.to_lowercase());
    ending.is_some_and(|ending| endings.contains(&ending.as_str()))
}

/// Whether a file is an image by its first bytes.
pub(super) fn is_encoded(head: &[u8]) -> bool {
    // Two letters are no proof: a bitmap's second header has one of few sizes.
    let is_bitmap = || {
        let size = head
            .get(14..18)
            .map(|size| size.try_into().expect("four bytes"));
        let size = size.map(u32::from_le_bytes);
        head.starts_with(b"BM") && matches!(size, Some(12 | 40 | 52 | 56 | 64 | 108 | 124))
    };
    head.starts_with(b"\x89PNG\r\n\x1a\n")
        || head.starts_with(&[0xff, 0xd8, 0xff])
        || (head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP"))
        || is_bitmap()
}

/// Decodes a file, or says why not.
pub(super) fn decode(bytes: &[u8]) -> Result<DynamicImage, String> {
    if bytes.is_empty() {
        return Err("the file is empty".to_owned());
    }
    let said = |error: image::ImageError| error.to_string();
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_BYTES);
    let mut reader = ImageReader::new(Cursor::new(bytes));
    reader.limits(limits);
    let reader = reader.with_guessed_format().map_err(|e| e.to_string())?;
    let decoder = reader.into_decoder().map_err(said)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(format!(
            "it claims {width} × {height} pixels, more than {MOST_PIXELS}"
        ));
    }
    if width == 0 || height == 0 {
        return Err("it has no pixels".to_owned());
    }
    if width.max(height) / width.min(height) > LONGEST {
        return Err(format!(
            "it has {width} × {height} pixels, too narrow to be resized"
        ));
    }
    DynamicImage::from_decoder(decoder).map_err(said)
}

/// Height, width and channels.
pub(super) fn shape(image: &DynamicImage) -> [u64; 3] {
    let color = image.color();
    let channels = match (color.has_color(), color.has_alpha()) {
        (false, _) => 1,
        (true, false) => 3,
        (true, true) => 4,
    };
    [image.height().into(), image.width().into(), channels]
}

/// The example that an image becomes.
pub(super) fn prepare(image: DynamicImage, how: &ImagePreparation) -> Vec<u8> {
    let stored = [image.height(), image.width()];
    let pixels = converted(image, how.channels);
    let size = how.resize.map_or(stored, |resize| resize.resized(stored));
    let pixels = match size == stored {
        true => pixels,
        false => resized(&pixels, stored, size, how.channels),
    };
    middle(pixels, size, how)
}

/// The bytes of pixels with so many channels. Opacity is left out, as Pillow's `convert` does.
fn converted(image: DynamicImage, channels: u32) -> Vec<u8> {
    match channels {
        4 => image.into_rgba8().into_raw(),
        3 => image.into_rgb8().into_raw(),
        _ if !image.color().has_color() => image.into_luma8().into_raw(),
        _ => {
            // Pillow's 16-bit fixed-point weights of ITU-R BT.601.
            let grey = |[red, green, blue]: &[u8; 3]| {
                let weighed = u32::from(*red) * 19_595
                    + u32::from(*green) * 38_470
                    + u32::from(*blue) * 7_471;
                ((weighed + 0x8000) >> 16) as u8
            };
            let pixels = image.into_rgb8().into_raw();
            pixels.as_chunks::<3>().0.iter().map(grey).collect()
        }
    }
}

fn resized(pixels: &[u8], stored: [u32; 2], size: [u32; 2], channels: u32) -> Vec<u8> {
    let kind = match channels {
        1 => PixelType::U8,
        3 => PixelType::U8x3,
        _ => PixelType::U8x4,
    };
    let source =
        ImageRef::new(stored[1], stored[0], pixels, kind).expect("as many bytes as pixels");
    let mut target = Image::new(size[1], size[0], kind);
    let bilinear = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear));
    Resizer::new()
        .resize(&source, &mut target, &bilinear)
        .expect("both images have the same kind of pixels");
    target.into_vec()
}

/// The middle of an image of `[height, width]`; half a pixel more is cut off or added at the even side, as torchvision's
/// `CenterCrop` does.
fn middle(pixels: Vec<u8>, size: [u32; 2], how: &ImagePreparation) -> Vec<u8> {
    if size == how.crop {
        return pixels;
    }
    // By axis: where it begins in the image, where in the example, and how much is copied.
    let along = |axis: usize| {
        let (have, want) = (size[axis] as usize, how.crop[axis] as usize);
        match have >= want {
            true => (half_to_even(have - want), 0, want),
            false => (0, (want - have) / 2, have),
        }
    };
    let ((top, down, rows), (left, right, columns)) = (along(0), along(1));
    let channels = how.channels as usize;
    let (from, to) = (size[1] as usize * channels, how.crop[1] as usize * channels);
    let mut out = vec![0; how.bytes()];
    for row in 0..rows {
        let source = (top + row) * from + left * channels;
        let target = (down + row) * to + right * channels;
        let count = columns * channels;
        out[target..target + count].copy_from_slice(&pixels[source..source + count]);
    }
    out
}

/// Half of a number, what lies between two to the even one.
fn half_to_even(number: usize) -> usize {
    number / 2 + usize::from(number % 4 == 3)
}
