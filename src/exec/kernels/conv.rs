//! Convolution over one to three spatial axes, in groups or not, and its gradients, as
//! correlations of padded planes ([`super::correlate`]).
//!
//! An image is copied once with its padding. For a stride of `s` the copy holds, for each remainder
//! of a place by `s`, a plane of its own, so that neighbouring results read neighbouring elements
//! whatever the stride.
//!
//! - forward: `Y[o] = Σ W[o, c, t] · X[c, s·y + d·t − p]`
//! - by the weights: `dW[o, c, t] = Σ over batch and places of dY[o, y] · X[c, s·y + d·t − p]`
//! - by the input: for each remainder `r`, the taps with `d·t ≡ r (mod s)` correlate the padded
//!   gradient: `dX[c, s·i + r − p] = Σ W[o, c, t] · dY[o, i − ⌊d·t ÷ s⌋]`

mod depthwise;
mod weights;

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use self::depthwise::Depthwise;
use super::arch::Arch;
use super::correlate::{Block, Correlation, Start};
use super::planes::{Layout, Stretch};
use super::slide::Slide;
use super::tiles::{Rows, Tiles};
use super::{Kernel, elements, first, inside, run, tensor, with_scratch, written};
use crate::exec::value::{Value, dims};
use crate::graph::Window;

/// A convolution with everything but the numbers settled. Fewer than three spatial axes have axes of
/// size 1 in front.
#[derive(Debug, Clone)]
struct Convolution {
    batch: usize,
    groups: usize,
    /// Of the input and of the output, of one group.
    channels: [usize; 2],
    input: [usize; 3],
    output: [usize; 3],
    kernel: [usize; 3],
    stride: [usize; 3],
    dilation: [usize; 3],
    pad: [usize; 3],
    /// What the results are brought into.
    clip: Option<[f32; 2]>,
    /// Shapes of input, weights and output.
    shapes: [Vec<usize>; 3],
}

/// Conv: `x` is `[batch, channels, …]`, `w` `[outputs, channels ÷ groups, …]`, the bias `[outputs]`;
/// results beyond the ends of `clip` are brought to them. `None` on devices that keep Burn's own.
pub(in crate::exec) fn convolve(
    x: &Value,
    w: &Value,
    bias: Option<&Value>,
    window: &Window,
    groups: usize,
    clip: Option<[f32; 2]>,
) -> Option<Value> {
    let mut convolution = Convolution::of(&dims(x), &dims(w), window, groups)?;
    convolution.clip = clip;
    Some(match bias {
        Some(bias) => run(&convolution, [x, w, bias])?.0,
        None => run(&convolution, [x, w])?.0,
    })
}

impl Convolution {
    fn of(x: &[usize], w: &[usize], window: &Window, groups: usize) -> Option<Self> {
        let axes = x
            .len()
            .checked_sub(2)
            .filter(|axes| (1..=3).contains(axes))?;
        let three = |values: &[usize], fill: usize| -> [usize; 3] {
            std::array::from_fn(|axis| match (axis + axes).checked_sub(3) {
                Some(own) => values[own],
                None => fill,
            })
        };
        if x.iter()
            .chain(w)
            .chain(&window.output)
            .any(|&size| size == 0)
        {
            return None;
        }
        Some(Self {
            batch: x[0],
            groups,
            channels: [x[1] / groups, w[0] / groups],
            input: three(&x[2..], 1),
            output: three(&window.output, 1),
            kernel: three(&window.kernel, 1),
            stride: three(&window.stride, 1),
            dilation: three(&window.dilation, 1),
            pad: three(&window.pad_begin, 0),
            clip: None,
            shapes: [
                x.to_vec(),
                w.to_vec(),
                [&[x[0], w[0]], &*window.output].concat(),
            ],
        })
    }

    fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    fn planes(&self) -> [usize; 2] {
        [self.input, self.output].map(|sizes| sizes.iter().product())
    }

    /// Place of a tap: remainder and quotient of `d · t` by the stride, by axis.
    fn tap(&self, mut tap: usize) -> ([usize; 3], [usize; 3]) {
        let mut at = [0; 3];
        for axis in (0..3).rev() {
            at[axis] = tap % self.kernel[axis] * self.dilation[axis];
            tap /= self.kernel[axis];
        }
        (
            std::array::from_fn(|axis| at[axis] % self.stride[axis]),
            std::array::from_fn(|axis| at[axis] / self.stride[axis]),
        )
    }

    /// The largest quotient of a tap, by axis.
    fn reach(&self) -> [usize; 3] {
        std::array::from_fn(|axis| {
            (self.kernel[axis] - 1) * self.dilation[axis] / self.stride[axis]
        })
    }

    /// How the forward pass reads the input.
    fn input_layout(&self) -> Layout {
        let reach = self.reach();
        let extent: [usize; 3] = std::array::from_fn(|axis| self.output[axis] + reach[axis]);
        let stretches = std::array::from_fn(|axis| {
            let (stride, pad) = (self.stride[axis], self.pad[axis]);
            let used = ((self.kernel[axis] - 1) * self.dilation[axis] + 1).min(stride);
            (0..used)
                .map(|remainder| {
                    let to = pad.saturating_sub(remainder).div_ceil(stride);
                    let end = (self.input[axis] + pad)
                        .saturating_sub(remainder)
                        .div_ceil(stride)
                        .min(extent[axis]);
                    Stretch {
                        first: (to * stride + remainder).saturating_sub(pad),
                        step: stride,
                        count: end.saturating_sub(to),
                        to: to.min(extent[axis]),
                    }
                })
                .collect()
        });
        Layout::new(self.input, extent, stretches)
    }

    /// Planes of the output in larger ones, each from the place `to` on.
    fn output_layout(&self, extent: [usize; 3], to: [usize; 3]) -> Layout {
        let whole = |axis: usize| Stretch {
            first: 0,
            step: 1,
            count: self.output[axis],
            to: to[axis],
        };
        Layout::new(self.output, extent, [0, 1, 2].map(|axis| vec![whole(axis)]))
    }

    /// Where each tap reads in a channel's planes.
    fn tap_places<'a>(&'a self, layout: &'a Layout) -> impl Iterator<Item = usize> + 'a {
        (0..self.taps()).map(|tap| {
            let (remainder, quotient) = self.tap(tap);
            layout.phase(remainder) + layout.place(quotient)
        })
    }

    /// Where each row of the im2col matrix, a channel and a tap, begins.
    fn input_offsets(&self, layout: &Layout) -> Vec<usize> {
        let taps: Vec<usize> = self.tap_places(layout).collect();
        (0..self.channels[0])
            .flat_map(|channel| taps.iter().map(move |tap| channel * layout.pitch + tap))
            .collect()
    }

    /// The positions of the output in a layout's planes.
    fn output_rows(&self, layout: &Layout) -> Vec<Rows> {
        let [depth, height, width] = self.output;
        (0..depth)
            .map(|z| Rows {
                source: layout.place([z, 0, 0]),
                pitch: layout.extent[2],
                count: height,
                width,
                to: z * height * width,
                to_pitch: width,
            })
            .map(|rows| rows.joined(1))
            .collect()
    }

    fn result(&self, x: &FlexTensor, w: &FlexTensor, bias: Option<&FlexTensor>) -> FlexTensor {
        if let Some(depthwise) = Depthwise::of(self) {
            return depthwise.result(x, w, bias);
        }
        let layout = self.input_layout();
        let offsets = self.input_offsets(&layout);
        let [channels, outputs] = self.channels;
        let [from, to] = self.planes();
        let arch = Arch::new();
        let places: Vec<usize> = (0..offsets.len()).collect();
        let (rows, row_stride) = (self.output_rows(&layout), offsets.len());
        let pass = self.pass(elements(w), outputs, row_stride, &places, offsets, rows, 1);
        let (x, bias) = (elements(x), bias.map(elements));
        let share = self.share(outputs, pass.block.rows);
        let correlate = |group: usize, first: usize, planes: &[f32], out: &mut [f32]| {
            let bias = bias.map(|bias| &bias[group * outputs..][..outputs]);
            pass.run(group, first, planes, bias, self.clip, out, to);
        };
        let out = written(self.batch * self.groups * outputs * to, |out| {
            if share >= outputs {
                return self.each_image(&layout, channels, x, out, |group, planes, out| {
                    correlate(group, 0, planes, out);
                });
            }
            let images = out.par_chunks_mut(outputs * to).enumerate();
            images.for_each(|(image, out)| {
                let rest = &x[image * channels * from..];
                let parts = out.par_chunks_mut(share * to).enumerate();
                parts.for_each(|(part, out)| {
                    layout.with_room(channels, |buffer| {
                        let planes = layout.lay(arch, channels, rest, buffer);
                        correlate(image % self.groups, part * share, planes, out);
                    });
                });
            });
        });
        tensor(out, &self.shapes[2])
    }

    /// The products of `rows` rows of each group's weights, `row_stride` apart, with their `places`, at
    /// `positions` of planes.
    #[expect(
        clippy::too_many_arguments,
        reason = "called twice, with names that say what is given"
    )]
    fn pass(
        &self,
        w: &[f32],
        rows: usize,
        row_stride: usize,
        places: &[usize],
        offsets: Vec<usize>,
        positions: Vec<Rows>,
        step: usize,
    ) -> Pass {
        let (block, tiles) = Block::best(Arch::new(), rows, &positions, step);
        let groups = w.chunks_exact(w.len() / self.groups);
        let packed = groups
            .map(|w| {
                let mut packed = vec![0f32; block.packed_len(rows, places.len())];
                block.pack(w, rows, row_stride, places, &mut packed);
                packed
            })
            .collect();
        Pass {
            offsets,
            packed,
            block,
            tiles,
            positions,
            step,
        }
    }

    /// Calls `work` with each group of each image, its padded planes and what is made of them. Padding is
    /// cleared once for many images.
    fn each_image(
        &self,
        layout: &Layout,
        channels: usize,
        images: &[f32],
        out: &mut [f32],
        work: impl Fn(usize, &[f32], &mut [f32]) + Sync,
    ) {
        let count = self.batch * self.groups;
        let (from, to) = (images.len() / count, out.len() / count);
        let at_once = count.div_ceil(8 * rayon::current_num_threads());
        let tasks = out.par_chunks_mut(at_once * to).enumerate();
        tasks.for_each(|(task, out)| {
            layout.with_room(channels, |buffer| {
                for (image, out) in (task * at_once..).zip(out.chunks_mut(to)) {
                    let planes = layout.lay(Arch::new(), channels, &images[image * from..], buffer);
                    work(image % self.groups, planes, out);
                }
            });
        });
    }

    /// Rows of the result that one task computes: all of them where there are enough images.
    fn share(&self, rows: usize, block: usize) -> usize {
        let wanted = 4 * rayon::current_num_threads();
        let parts = wanted.div_ceil(self.batch * self.groups);
        match self.batch * self.groups >= wanted / 2 {
            true => rows.next_multiple_of(block),
            false => rows.div_ceil(parts).next_multiple_of(block),
        }
    }

    fn input_gradient(&self, w: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
        if let Some(depthwise) = Depthwise::of(self) {
            return depthwise.input_gradient(w, gradient);
        }
        let [channels, outputs] = self.channels;
        let [from, _] = self.planes();
        let reach = self.reach();
        // By axis and remainder: places `i` whose element `s·i + r − p` exists.
        let ranges: [Vec<std::ops::Range<usize>>; 3] = std::array::from_fn(|axis| {
            let (stride, pad) = (self.stride[axis], self.pad[axis]);
            (0..stride)
                .map(|remainder| {
                    let place = |at: usize| at.saturating_sub(remainder).div_ceil(stride);
                    place(pad)..place(pad + self.input[axis])
                })
                .collect()
        });
        let extent: [usize; 3] = std::array::from_fn(|axis| {
            let last = ranges[axis].iter().map(|range| range.end).max();
            (last.unwrap_or(0)).max(self.output[axis]) + reach[axis]
        });
        let layout = self.output_layout(extent, reach);
        let (w, gradient) = (elements(w), elements(gradient));
        let taps = self.taps();
        let mut phases = Vec::new();
        let mut whole_plane = true;
        let [_, height, width] = self.input;
        for a in 0..self.stride[0] {
            for b in 0..self.stride[1] {
                for c in 0..self.stride[2] {
                    let own: Vec<(usize, [usize; 3])> = (0..taps)
                        .filter_map(|tap| {
                            let (remainder, quotient) = self.tap(tap);
                            (remainder == [a, b, c]).then_some((tap, quotient))
                        })
                        .collect();
                    let [deep, high, wide] =
                        [(0, a), (1, b), (2, c)].map(|(axis, r)| ranges[axis][r].clone());
                    if deep.is_empty() || high.is_empty() || wide.is_empty() {
                        continue;
                    }
                    if own.is_empty() {
                        whole_plane = false;
                        continue;
                    }
                    let [s, t, u] = self.stride;
                    let rows: Vec<Rows> = deep
                        .map(|z| Rows {
                            source: layout.place([z, high.start, wide.start]),
                            pitch: layout.extent[2],
                            count: high.len(),
                            width: wide.len(),
                            to: ((s * z + a - self.pad[0]) * height + t * high.start + b
                                - self.pad[1])
                                * width
                                + u * wide.start
                                + c
                                - self.pad[2],
                            to_pitch: t * width,
                        })
                        .map(|rows| rows.joined(u))
                        .collect();
                    let places = |output: usize| {
                        own.iter()
                            .map(move |(tap, _)| output * channels * taps + tap)
                    };
                    let places: Vec<usize> = (0..outputs).flat_map(places).collect();
                    let offsets = |output: usize| {
                        let layout = &layout;
                        own.iter().map(move |(_, quotient)| {
                            let back = [0, 1, 2].map(|axis| reach[axis] - quotient[axis]);
                            output * layout.pitch + layout.place(back)
                        })
                    };
                    let offsets = (0..outputs).flat_map(offsets).collect();
                    phases.push(self.pass(w, channels, taps, &places, offsets, rows, u));
                }
            }
        }
        let out = written(self.batch * self.groups * channels * from, |out| {
            self.each_image(&layout, outputs, gradient, out, |group, planes, out| {
                if !whole_plane {
                    out.fill(0.0);
                }
                for phase in &phases {
                    phase.run(group, 0, planes, None, None, out, from);
                }
            });
        });
        tensor(out, &self.shapes[0])
    }

    /// Gradients by input, weights and bias.
    fn gradients(
        &self,
        (x, w, out): Kept,
        gradient: FlexTensor,
        wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let gradient = match (&out, self.clip) {
            (Some(out), Some(ends)) => inside(&gradient, out, ends),
            _ => gradient,
        };
        [
            wanted[0].then(|| self.input_gradient(&w, &gradient)),
            wanted[1].then(|| self.weight_gradient(&x, &gradient)),
            wanted[2].then(|| self.bias_gradient(&gradient)),
        ]
    }

    /// Sums of the gradient by output channel.
    fn bias_gradient(&self, gradient: &FlexTensor) -> FlexTensor {
        let outputs = self.groups * self.channels[1];
        let plane = self.planes()[1];
        let gradient = elements(gradient);
        let arch = Arch::new();
        let sums = (0..outputs)
            .into_par_iter()
            .map(|output| {
                let planes = gradient.chunks_exact(plane).skip(output).step_by(outputs);
                arch.run(
                    #[inline(always)]
                    || planes.clone().map(super::norm::sum).sum(),
                )
            })
            .collect();
        tensor(sums, &[outputs])
    }
}

/// What is multiplied with planes: the weights, and where each of them reads.
struct Pass {
    offsets: Vec<usize>,
    /// By group.
    packed: Vec<Vec<f32>>,
    block: Block,
    tiles: Tiles,
    positions: Vec<Rows>,
    step: usize,
}

impl Pass {
    /// Rows of one group's result from `first` on, as many as fill `out`: `[rows, plane]`.
    #[expect(
        clippy::too_many_arguments,
        reason = "called twice, with names that say what is given"
    )]
    fn run(
        &self,
        group: usize,
        first: usize,
        planes: &[f32],
        bias: Option<&[f32]>,
        clip: Option<[f32; 2]>,
        out: &mut [f32],
        plane: usize,
    ) {
        let arch = Arch::new();
        if self.block.rows == 1 {
            return with_scratch(Slide::stretch(&self.positions), |stretch| {
                arch.dispatch(Slide {
                    factors: &self.packed[group],
                    offsets: &self.offsets,
                    rows: &self.positions,
                    step: self.step,
                    planes,
                    bias: bias.map_or(0.0, |bias| bias[0]),
                    clip,
                    stretch,
                    out,
                });
            });
        }
        Correlation {
            factors: &self.packed[group],
            block: self.block,
            offsets: &self.offsets,
            tiles: &self.tiles,
            planes,
            panels: false,
            start: Start::of(bias, Start::Rows),
            clip,
            first,
            out,
            plane,
        }
        .run(arch);
    }
}

/// Input, weights, and the result where it was clipped.
type Kept = (FlexTensor, FlexTensor, Option<FlexTensor>);

impl<const N: usize> Kernel<N> for Convolution {
    type Kept = Kept;

    fn forward(&self, inputs: [FlexTensor; N]) -> (FlexTensor, Kept) {
        let out = self.result(&inputs[0], &inputs[1], inputs.get(2));
        let clipped = self.clip.map(|_| out.clone());
        (out, (inputs[0].clone(), inputs[1].clone(), clipped))
    }

    fn backward(
        &self,
        kept: Kept,
        gradient: FlexTensor,
        wanted: [bool; N],
    ) -> [Option<FlexTensor>; N] {
        first(self.gradients(kept, gradient, first(wanted)))
    }
}
