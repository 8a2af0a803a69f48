//! Images laid out with their padding, for correlations at any stride.

use super::arch::Arch;
use super::tiles::Tiles;
use super::{copy, with_scratch, with_zeros};

/// Places `first, first + step, …` of an axis, `count` of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stretch {
    pub first: usize,
    pub step: usize,
    pub count: usize,
    /// Where the first one goes.
    pub to: usize,
}

/// How an image is laid out with its padding: `[channels, phases, …]`.
#[derive(Debug)]
pub(super) struct Layout {
    /// By axis and remainder: which elements of the image there are.
    pub stretches: [Vec<Stretch>; 3],
    /// Size of one phase's plane.
    pub extent: [usize; 3],
    /// Distance of channels.
    pub pitch: usize,
    /// Sizes of the image.
    pub image: [usize; 3],
}

impl Layout {
    fn phases(&self) -> [usize; 3] {
        std::array::from_fn(|axis| self.stretches[axis].len())
    }

    pub fn new(image: [usize; 3], extent: [usize; 3], stretches: [Vec<Stretch>; 3]) -> Self {
        let phases: usize = stretches.iter().map(Vec::len).product();
        let pitch = extent.iter().product::<usize>() * phases;
        let mut layout = Self {
            stretches,
            extent,
            pitch,
            image,
        };
        // Planes a multiple of a page apart would fall into the same few places of a cache.
        if pitch.is_multiple_of(512) && !layout.is_plain() {
            layout.pitch += 16;
        }
        layout
    }

    /// Whether the image lies like this already, but for what is read behind its end.
    pub fn is_plain(&self) -> bool {
        let whole = |axis: usize| match self.stretches[axis].as_slice() {
            [one] => one.step == 1 && one.to == 0 && one.count == self.image[axis],
            _ => false,
        };
        self.extent == self.image && (0..3).all(whole)
    }

    /// Elements of `channels` channels.
    pub fn len(&self, channels: usize) -> usize {
        channels * self.pitch + Tiles::SLACK
    }

    /// Where the plane of these remainders is in a channel.
    pub fn phase(&self, remainders: [usize; 3]) -> usize {
        let phases = self.phases();
        let index = (remainders[0] * phases[1] + remainders[1]) * phases[2] + remainders[2];
        index * self.extent.iter().product::<usize>()
    }

    pub fn place(&self, at: [usize; 3]) -> usize {
        (at[0] * self.extent[1] + at[1]) * self.extent[2] + at[2]
    }

    /// Works with room for `channels` channels, in which what is padding is zero.
    pub fn with_room<R>(&self, channels: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
        match self.is_plain() {
            true => with_scratch(self.len(channels), work),
            false => with_zeros(self.len(channels), work),
        }
    }

    /// The planes of the image, of `channels` channels, at the beginning of `images`: as it lies, where it
    /// lies like that, or copied into `buffer`, in which what is padding is zero already.
    pub fn lay<'a>(
        &self,
        arch: Arch,
        channels: usize,
        images: &'a [f32],
        buffer: &'a mut [f32],
    ) -> &'a [f32] {
        if let (true, Some(planes)) = (self.is_plain(), images.get(..self.len(channels))) {
            return planes;
        }
        let image = &images[..channels * self.image.iter().product::<usize>()];
        arch.run(
            #[inline(always)]
            || self.fill(image, buffer),
        );
        buffer
    }

    /// Copies an image's channels; what is padding is zero already.
    #[inline(always)]
    pub fn fill(&self, image: &[f32], buffer: &mut [f32]) {
        let [depth, height, width] = self.image;
        let channels = image.chunks_exact(depth * height * width);
        for (channel, buffer) in channels.zip(buffer.chunks_exact_mut(self.pitch)) {
            for (a, deep) in self.stretches[0].iter().enumerate() {
                for (b, high) in self.stretches[1].iter().enumerate() {
                    for (c, wide) in self.stretches[2].iter().enumerate() {
                        let start = self.phase([a, b, c]);
                        for z in 0..deep.count {
                            for y in 0..high.count {
                                let row = (deep.first + z * deep.step) * height
                                    + high.first
                                    + y * high.step;
                                let source = &channel[row * width + wide.first.min(width)..];
                                let to = self.place([deep.to + z, high.to + y, wide.to]);
                                let target = &mut buffer[start + to..][..wide.count];
                                if wide.step == 1 {
                                    copy(target, source);
                                } else if wide.step == 2 {
                                    every_second(target, source);
                                } else {
                                    let source = source.iter().step_by(wide.step);
                                    target.iter_mut().zip(source).for_each(|(t, s)| *t = *s);
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `target[i] = source[2i]`
#[inline(always)]
fn every_second(target: &mut [f32], source: &[f32]) {
    let (pairs, last) = source.as_chunks::<2>();
    let values = pairs.iter().map(|pair| pair[0]);
    let both = target.iter_mut().zip(values);
    both.for_each(|(t, s)| *t = s);
    if let ([last], Some(target)) = (last, target.get_mut(pairs.len())) {
        *target = *last;
    }
}
