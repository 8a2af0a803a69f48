//! A convolution's gradient by its weights: sums, over all images and positions, of the gradient at a position
//! times the padded image seen from there.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::super::arch::Arch;
use super::super::correlate::{Block, Correlation, Start};
use super::super::dots::Dots;
use super::super::planes::Layout;
use super::super::tiles::{Rows, Tiles};
use super::super::turn::turn;
use super::super::{add, elements, tensor, with_scratch, with_zeros, written};
use super::Convolution;
use super::depthwise::Depthwise;

/// Elements of a vector, as far as layouts go.
const LANES: usize = 16;

/// Parts of a batch whose gradients are summed apart, and elements of all these sums.
const PARTS: usize = 8;
const MOST_SUMS: usize = 1 << 22;

/// Positions whose products are summed up in registers, about.
const TOGETHER: usize = 384;

/// What lies in the lanes of a vector.
enum Lanes {
    /// Positions, whose sum is taken in the end: for few channels.
    Positions {
        /// Where each channel and tap begins.
        offsets: Vec<usize>,
        /// The planes of the gradient, their positions as far apart as the image's.
        spread: Layout,
    },
    /// Channels, and those of neighbouring taps, of images turned into `[positions, channels]`.
    Channels {
        block: Block,
        /// Of the taps.
        tiles: Tiles,
        /// Of all positions, those of several images.
        offsets: Vec<usize>,
    },
}

/// How gradients of one convolution are summed up.
struct Sums<'a> {
    convolution: &'a Convolution,
    layout: Layout,
    lanes: Lanes,
    /// Images that are summed up in registers.
    together: usize,
    x: &'a [f32],
    gradient: &'a [f32],
}

impl Convolution {
    pub(super) fn weight_gradient(&self, x: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
        if let Some(depthwise) = Depthwise::of(self) {
            return depthwise.weight_gradient(x, gradient);
        }
        let sums = Sums::new(self, elements(x), elements(gradient));
        let [channels, outputs] = self.channels;
        let inner = channels * self.taps();
        // Parts of the batch with sums of their own: of the shapes alone, so that the sums are the same on any
        // number of threads.
        let weights = self.groups * outputs * inner;
        let most = (MOST_SUMS / weights).clamp(1, PARTS);
        let per_part = self
            .batch
            .div_ceil(most.min(self.batch.div_ceil(sums.together)));
        let parts = self.batch.div_ceil(per_part);
        let split = match parts * self.groups {
            many if many >= PARTS => 1,
            few => PARTS.div_ceil(few),
        };
        let share = outputs.div_ceil(split).next_multiple_of(sums.block_rows());
        let mut tasks = Vec::new();
        for part in 0..parts {
            let images = part * per_part..((part + 1) * per_part).min(self.batch);
            for group in 0..self.groups {
                for first in (0..outputs).step_by(share) {
                    let rows = first..(first + share).min(outputs);
                    tasks.push((images.clone(), group, rows));
                }
            }
        }
        let mut found = vec![0f32; parts * weights];
        let mut targets = Vec::with_capacity(tasks.len());
        let mut rest = found.as_mut_slice();
        for (_, _, rows) in &tasks {
            let (own, after) = rest.split_at_mut(rows.len() * inner);
            targets.push(own);
            rest = after;
        }
        let both = tasks.into_par_iter().zip(targets);
        both.for_each(|((images, group, rows), out)| sums.add(images, group, rows, out));
        let total = written(weights, |out| {
            let rows = out.par_chunks_mut(inner).enumerate();
            rows.for_each(|(row, out)| {
                let parts = found.chunks_exact(weights);
                sums.finish(parts.map(|part| &part[row * inner..][..inner]), out);
            });
        });
        tensor(total, &self.shapes[1])
    }
}

impl<'a> Sums<'a> {
    fn new(convolution: &'a Convolution, x: &'a [f32], gradient: &'a [f32]) -> Self {
        let layout = convolution.input_layout();
        let [channels, outputs] = convolution.channels;
        let arch = Arch::new();
        let inner = channels * convolution.taps();
        let [depth, height, width] = convolution.output;
        let last = layout.place([depth - 1, height - 1, width - 1]) + 1;
        let length = last.next_multiple_of(LANES);

        let places: Vec<usize> = convolution.tap_places(&layout).collect();
        let neighbours = places.chunk_by(|left, right| left + 1 == *right);
        let mut taps = Vec::new();
        let mut tap = 0;
        for run in neighbours {
            taps.push(Rows::one(
                run[0] * channels,
                run.len() * channels,
                tap * channels,
            ));
            tap += run.len();
        }
        let (block, tiles) = Block::best(arch, outputs, &taps, 1);
        let positions = convolution.planes()[1];
        let by_channels = tiles.cost(outputs, block) * positions;
        let by_positions = Dots::cost(outputs, inner) * length.div_ceil(arch.lanes());
        if outputs == 1 || by_positions <= by_channels {
            return Self {
                lanes: Lanes::Positions {
                    offsets: convolution.input_offsets(&layout),
                    spread: Layout {
                        pitch: length,
                        ..convolution.output_layout(layout.extent, [0; 3])
                    },
                },
                together: 1024usize.div_ceil(length).clamp(1, convolution.batch),
                convolution,
                layout,
                x,
                gradient,
            };
        }
        let together = TOGETHER.div_ceil(positions).clamp(1, convolution.batch);
        let place = |at: usize| {
            let (row, x) = (at / width, at % width);
            layout.place([row / height, row % height, x])
        };
        let offsets = (0..together * positions)
            .map(|at| (at / positions * layout.pitch + place(at % positions)) * channels)
            .collect();
        Self {
            lanes: Lanes::Channels {
                block,
                tiles,
                offsets,
            },
            together,
            convolution,
            layout,
            x,
            gradient,
        }
    }

    /// Rows of the result that are computed at once.
    fn block_rows(&self) -> usize {
        match &self.lanes {
            Lanes::Positions { .. } => Dots::ROWS,
            Lanes::Channels { block, .. } => block.rows,
        }
    }

    /// Adds what some images give to rows of one group's weights.
    fn add(
        &self,
        images: std::ops::Range<usize>,
        group: usize,
        rows: std::ops::Range<usize>,
        out: &mut [f32],
    ) {
        let [channels, outputs] = self.convolution.channels;
        let [from, to] = self.convolution.planes();
        let image = |index: usize| {
            let at = index * self.convolution.groups + group;
            let x = &self.x[at * channels * from..][..channels * from];
            let gradient = &self.gradient[(at * outputs + rows.start) * to..][..rows.len() * to];
            (x, gradient)
        };
        let chunks = images.clone().step_by(self.together);
        let chunks = chunks.map(|first| first..(first + self.together).min(images.end));
        match &self.lanes {
            Lanes::Positions { offsets, spread } => {
                self.add_by_positions(chunks, image, offsets, spread, rows.len(), out)
            }
            Lanes::Channels {
                block,
                tiles,
                offsets,
            } => self.add_by_channels(chunks, image, *block, tiles, offsets, rows.len(), out),
        }
    }

    fn add_by_positions<'b>(
        &self,
        chunks: impl Iterator<Item = std::ops::Range<usize>>,
        image: impl Fn(usize) -> (&'b [f32], &'b [f32]),
        offsets: &[usize],
        spread: &Layout,
        rows: usize,
        out: &mut [f32],
    ) {
        let arch = Arch::new();
        let length = spread.pitch;
        let size = self.layout.len(self.convolution.channels[0]);
        with_zeros(self.together * (size + rows * length), |both| {
            let (planes, spreads) = both.split_at_mut(self.together * size);
            for chunk in chunks {
                arch.run(
                    #[inline(always)]
                    || {
                        for (index, at) in chunk.clone().enumerate() {
                            let (x, gradient) = image(at);
                            self.layout.fill(x, &mut planes[index * size..][..size]);
                            let own = &mut spreads[index * rows * length..];
                            spread.fill(gradient, own);
                        }
                    },
                );
                arch.dispatch(Dots {
                    rows: &spreads[..chunk.len() * rows * length],
                    length,
                    planes: &planes[..chunk.len() * size],
                    image: size,
                    offsets,
                    out,
                });
            }
        });
    }

    #[expect(clippy::too_many_arguments, reason = "called once, beside its like")]
    fn add_by_channels<'b>(
        &self,
        chunks: impl Iterator<Item = std::ops::Range<usize>>,
        image: impl Fn(usize) -> (&'b [f32], &'b [f32]),
        block: Block,
        tiles: &Tiles,
        offsets: &[usize],
        rows: usize,
        out: &mut [f32],
    ) {
        let arch = Arch::new();
        let channels = self.convolution.channels[0];
        let positions = self.convolution.planes()[1];
        let places: Vec<usize> = (0..positions).collect();
        let size = self.layout.pitch * channels;
        let plane = out.len() / rows;
        let packed_len = block.packed_len(rows, offsets.len());
        self.layout.with_room(channels, |planes| {
            with_scratch(
                self.together * size + Tiles::SLACK + packed_len,
                |scratch| {
                    let (turned, packed) =
                        scratch.split_at_mut(self.together * size + Tiles::SLACK);
                    for chunk in chunks {
                        let inner = chunk.len() * positions;
                        arch.run(
                            #[inline(always)]
                            || {
                                for (index, at) in chunk.clone().enumerate() {
                                    let (x, gradient) = image(at);
                                    let planes = match self.layout.is_plain() {
                                        true => x,
                                        false => {
                                            self.layout.fill(x, planes);
                                            &*planes
                                        }
                                    };
                                    turn(
                                        planes,
                                        self.layout.pitch,
                                        [channels, self.layout.pitch],
                                        &mut turned[index * size..],
                                        channels,
                                    );
                                    let blocks = packed.chunks_exact_mut(block.rows * inner);
                                    let rows = gradient.chunks(block.rows * positions);
                                    for (packed, rows) in blocks.zip(rows) {
                                        let own = index * positions * block.rows;
                                        let own = &mut packed[own..][..positions * block.rows];
                                        block.pack(
                                            rows,
                                            rows.len() / positions,
                                            positions,
                                            &places,
                                            own,
                                        );
                                    }
                                }
                            },
                        );
                        Correlation {
                            factors: &packed[..block.packed_len(rows, inner)],
                            block,
                            offsets: &offsets[..inner],
                            tiles,
                            planes: turned,
                            panels: false,
                            start: Start::Held,
                            clip: None,
                            first: 0,
                            out,
                            plane,
                        }
                        .run(arch);
                    }
                },
            );
        });
    }

    /// Adds up one row of weights' parts, `[channels, taps]` afterwards.
    fn finish<'b>(&self, mut parts: impl Iterator<Item = &'b [f32]>, out: &mut [f32]) {
        let arch = Arch::new();
        let sum = |sum: &mut [f32], parts: &mut dyn Iterator<Item = &'b [f32]>| {
            sum.copy_from_slice(parts.next().expect("a batch has a part"));
            arch.run(
                #[inline(always)]
                || parts.for_each(|part| add(sum, part)),
            );
        };
        match &self.lanes {
            Lanes::Positions { .. } => sum(out, &mut parts),
            Lanes::Channels { .. } => with_scratch(out.len(), |scratch| {
                sum(scratch, &mut parts);
                let taps = self.convolution.taps();
                let by_tap = scratch.chunks_exact(self.convolution.channels[0]);
                for (tap, channels) in by_tap.enumerate() {
                    let target = out[tap..].iter_mut().step_by(taps);
                    target.zip(channels).for_each(|(t, s)| *t = *s);
                }
            }),
        }
    }
}
