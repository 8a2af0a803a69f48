//! Depthwise convolutions, each channel by a window of its own, with channels in the lanes of a vector.
//!
//! Planes are turned into `[places of the padded plane, lanes]`. Whatever the stride and the size of a plane, all
//! lanes have work then, and each pass is one product of vectors for a tap and a position:
//!
//! - forward: `Y[y] = Σ W[t] · X[s·y + d·t]`
//! - by the input: `dX[s·y + d·t] += W[t] · dY[y]`
//! - by the weights: `dW[t] += X[s·y + d·t] · dY[y]`

use burn::backend::flex::FlexTensor;
use pulp::Simd;
use rayon::prelude::*;

use super::super::arch::Arch;
use super::super::turn::turn;
use super::super::{add, elements, tensor, with_zeros, written};
use super::Convolution;

/// Places of a padded plane up to which channels are in the lanes. Without a stride the rows of larger planes fill
/// vectors as they are; with one, lanes win while they stay in a cache of the second level.
const MOST_PLACES: usize = 512;
const MOST_PLACES_WITH_STRIDE: usize = 2048;

/// Sums of positions that are kept in registers at once.
const AT_ONCE: usize = 8;

/// Parts of a batch whose gradients by the weights are summed apart, whatever the number of threads.
const PARTS: usize = 8;

/// What one plane is read and written by.
pub(super) struct Depthwise<'a> {
    convolution: &'a Convolution,
    arch: Arch,
    lanes: usize,
    /// Places of a padded plane.
    places: usize,
    /// In it, by row of the input: where its first element is.
    rows: Vec<usize>,
    /// In it, by position of the output: where its window begins.
    windows: Vec<usize>,
    /// From there, by tap.
    taps: Vec<usize>,
}

impl<'a> Depthwise<'a> {
    /// `None` where channels see each other, planes are large, or too few for the lanes.
    pub fn of(convolution: &'a Convolution) -> Option<Self> {
        let Convolution {
            input,
            output,
            kernel,
            stride,
            dilation,
            pad,
            ..
        } = *convolution;
        let extent: [usize; 3] = std::array::from_fn(|axis| {
            let read = (output[axis] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1;
            read.max(pad[axis] + input[axis])
        });
        let places = extent.iter().product();
        let most = match stride {
            [1, 1, 1] => MOST_PLACES,
            _ => MOST_PLACES_WITH_STRIDE,
        };
        let arch = Arch::new();
        let lanes = arch.lanes();
        let planes = convolution.batch * convolution.groups;
        if convolution.channels != [1, 1] || places > most || 2 * planes < lanes {
            return None;
        }
        let place = |[z, y, x]: [usize; 3]| (z * extent[1] + y) * extent[2] + x;
        let all = |sizes: [usize; 3], step: [usize; 3]| -> Vec<usize> {
            let [deep, high, wide] = [0, 1, 2].map(|axis| 0..sizes[axis]);
            deep.flat_map(|z| high.clone().map(move |y| (z, y)))
                .flat_map(|(z, y)| wide.clone().map(move |x| [z, y, x]))
                .map(|at| place(std::array::from_fn(|axis| at[axis] * step[axis])))
                .collect()
        };
        let corner = place(pad);
        let rows = all([input[0], input[1], 1], [1; 3]);
        Some(Self {
            convolution,
            arch,
            lanes,
            places,
            rows: rows.iter().map(|row| corner + row).collect(),
            windows: all(output, stride),
            taps: all(kernel, dilation),
        })
    }

    /// `[taps, channels]`, and the first channels again behind them, so that the lanes of any planes that are
    /// neighbours are: a batch is one row of planes.
    fn weights(&self, w: &[f32]) -> Vec<f32> {
        let mut turned = vec![0f32; self.taps.len() * self.pitch()];
        turn(
            w,
            self.taps.len(),
            [self.convolution.groups, self.taps.len()],
            &mut turned,
            self.pitch(),
        );
        turned
            .chunks_exact_mut(self.pitch())
            .for_each(|tap| self.repeat(tap));
        turned
    }

    fn pitch(&self) -> usize {
        self.convolution.groups + self.lanes
    }

    fn repeat(&self, channels: &mut [f32]) {
        for at in self.convolution.groups..channels.len() {
            channels[at] = channels[at - self.convolution.groups];
        }
    }

    /// Calls `work` with the number of each set of as many neighbouring planes as there are lanes, on all
    /// threads, room as [`Depthwise::with_room`] gives it, and what these make of `out`, of `plane` elements each.
    fn each(
        &self,
        out: &mut [f32],
        plane: usize,
        work: impl Fn(usize, [&mut [f32]; 2], &mut [f32]) + Sync,
    ) {
        let one = self.lanes * plane;
        let sets = out.len().div_ceil(one);
        let at_once = sets.div_ceil(8 * rayon::current_num_threads());
        let tasks = out.par_chunks_mut(at_once * one).enumerate();
        tasks.for_each(|(task, out)| {
            self.with_room(|[padded, positions]| {
                for (set, out) in (task * at_once..).zip(out.chunks_mut(one)) {
                    work(set, [&mut *padded, &mut *positions], out);
                }
            });
        });
    }

    /// Works with zeros for the lanes of a padded plane and of the output's positions.
    fn with_room<R>(&self, work: impl FnOnce([&mut [f32]; 2]) -> R) -> R {
        let [_, to] = self.convolution.planes();
        with_zeros((self.places + to) * self.lanes, |room| {
            let (padded, positions) = room.split_at_mut(self.places * self.lanes);
            work([padded, positions])
        })
    }

    /// Turns planes of the input into the lanes of the padded one.
    fn lay(&self, planes: &[f32], count: usize, padded: &mut [f32]) {
        let [from, _] = self.convolution.planes();
        let width = self.convolution.input[2];
        for (row, &to) in self.rows.iter().enumerate() {
            let target = &mut padded[to * self.lanes..];
            turn(
                &planes[row * width..],
                from,
                [count, width],
                target,
                self.lanes,
            );
        }
    }

    pub fn result(&self, x: &FlexTensor, w: &FlexTensor, bias: Option<&FlexTensor>) -> FlexTensor {
        self.run(elements(x), elements(w), bias.map(elements))
    }

    fn run(&self, x: &[f32], w: &[f32], bias: Option<&[f32]>) -> FlexTensor {
        let [from, to] = self.convolution.planes();
        let weights = self.weights(w);
        let mut starts = vec![0f32; self.pitch()];
        if let Some(bias) = bias {
            starts[..bias.len()].copy_from_slice(bias);
            self.repeat(&mut starts);
        }
        let planes = self.convolution.batch * self.convolution.groups;
        let out = written(planes * to, |out| {
            self.each(out, to, |set, [padded, sums], out| {
                let count = out.len() / to;
                self.lay(&x[set * self.lanes * from..], count, padded);
                let first = set * self.lanes % self.convolution.groups;
                self.arch.dispatch(Forward {
                    depthwise: self,
                    weights: &weights[first..],
                    bias: &starts[first..],
                    padded,
                    out: sums,
                });
                turn(sums, self.lanes, [to, count], out, to);
            });
        });
        tensor(out, &self.convolution.shapes[2])
    }

    pub fn input_gradient(&self, w: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
        if let Some(own) = self.transposed().as_ref().and_then(Depthwise::of) {
            let mut w = elements(w).to_vec();
            w.chunks_exact_mut(self.taps.len())
                .for_each(<[f32]>::reverse);
            return own.run(elements(gradient), &w, None);
        }
        let [from, to] = self.convolution.planes();
        let width = self.convolution.input[2];
        let gradient = elements(gradient);
        let weights = self.weights(elements(w));
        let planes = self.convolution.batch * self.convolution.groups;
        let out = written(planes * from, |out| {
            self.each(out, from, |set, [padded, given], out| {
                let count = out.len() / from;
                padded.fill(0.0);
                turn(
                    &gradient[set * self.lanes * to..],
                    to,
                    [count, to],
                    given,
                    self.lanes,
                );
                self.arch.dispatch(ByInput {
                    depthwise: self,
                    weights: &weights[set * self.lanes % self.convolution.groups..],
                    gradient: given,
                    padded,
                });
                for (row, &place) in self.rows.iter().enumerate() {
                    let lanes = &padded[place * self.lanes..];
                    turn(
                        lanes,
                        self.lanes,
                        [width, count],
                        &mut out[row * width..],
                        from,
                    );
                }
            });
        });
        tensor(out, &self.convolution.shapes[0])
    }

    /// The convolution that takes a gradient back, with its taps the other way round; there is one where no stride
    /// leaves gaps.
    fn transposed(&self) -> Option<Convolution> {
        let Convolution {
            input,
            output,
            kernel,
            dilation,
            pad,
            ..
        } = *self.convolution;
        if self.convolution.stride != [1; 3] {
            return None;
        }
        let mut back = [0; 3];
        for axis in 0..3 {
            back[axis] = ((kernel[axis] - 1) * dilation[axis]).checked_sub(pad[axis])?;
        }
        let [x, w, y] = self.convolution.shapes.clone();
        Some(Convolution {
            input: output,
            output: input,
            pad: back,
            clip: None,
            shapes: [y, w, x],
            ..self.convolution.clone()
        })
    }

    pub fn weight_gradient(&self, x: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
        let [from, to] = self.convolution.planes();
        let (x, gradient) = (elements(x), elements(gradient));
        let (batch, channels, taps) = (
            self.convolution.batch,
            self.convolution.groups,
            self.taps.len(),
        );
        let images = batch.div_ceil(PARTS);
        let parts = batch.div_ceil(images);
        let one = taps * self.lanes;
        let sets = channels.div_ceil(self.lanes);
        let mut found = vec![0f32; parts * sets * one];
        let tasks = found.par_chunks_mut(one).enumerate();
        tasks.for_each(|(task, sums)| {
            let first = task % sets * self.lanes;
            let count = self.lanes.min(channels - first);
            let own = task / sets * images..batch.min((task / sets + 1) * images);
            self.with_room(|[padded, given]| {
                for image in own {
                    let plane = image * channels + first;
                    self.lay(&x[plane * from..], count, padded);
                    turn(&gradient[plane * to..], to, [count, to], given, self.lanes);
                    self.arch.dispatch(ByWeights {
                        depthwise: self,
                        padded,
                        gradient: given,
                        sums,
                    });
                }
            });
        });
        let (total, rest) = found.split_at_mut(sets * one);
        rest.chunks_exact(sets * one)
            .for_each(|part| add(total, part));
        let total = written(channels * taps, |out| {
            for (first, sums) in (0..).step_by(self.lanes).zip(total.chunks_exact(one)) {
                let count = self.lanes.min(channels - first);
                turn(
                    sums,
                    self.lanes,
                    [taps, count],
                    &mut out[first * taps..],
                    taps,
                );
            }
        });
        tensor(total, &self.convolution.shapes[1])
    }
}

/// `out[y] = bias + Σ weights[t] · padded[windows[y] + taps[t]]`, brought into the convolution's clip.
struct Forward<'a> {
    depthwise: &'a Depthwise<'a>,
    weights: &'a [f32],
    bias: &'a [f32],
    padded: &'a [f32],
    out: &'a mut [f32],
}

impl Forward<'_> {
    #[inline(always)]
    fn sums<S: Simd, const N: usize>(&self, simd: S, windows: &[usize; N]) -> [S::f32s; N] {
        let (padded, _) = S::as_simd_f32s(self.padded);
        let mut sums = [S::as_simd_f32s(self.bias).0[0]; N];
        let weights = self.weights.chunks(self.depthwise.pitch());
        for (weights, &tap) in weights.zip(&self.depthwise.taps) {
            let weight = S::as_simd_f32s(weights).0[0];
            let padded = &padded[tap..];
            for (sum, &window) in sums.iter_mut().zip(windows) {
                *sum = simd.mul_add_f32s(weight, padded[window], *sum);
            }
        }
        if let Some([low, high]) = self.depthwise.convolution.clip {
            let (low, high) = (simd.splat_f32s(low), simd.splat_f32s(high));
            for sum in &mut sums {
                *sum = simd.min_f32s(high, simd.max_f32s(low, *sum));
            }
        }
        sums
    }
}

impl pulp::WithSimd for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let (windows, last) = self.depthwise.windows.as_chunks::<AT_ONCE>();
        let out = std::mem::take(&mut self.out);
        let (sums, rest) = S::as_mut_simd_f32s(out).0.as_chunks_mut::<AT_ONCE>();
        for (sums, windows) in sums.iter_mut().zip(windows) {
            *sums = self.sums(simd, windows);
        }
        for (sum, &window) in rest.iter_mut().zip(last) {
            [*sum] = self.sums(simd, &[window]);
        }
    }
}

/// `padded[windows[y] + taps[t]] += weights[t] · gradient[y]`
struct ByInput<'a> {
    depthwise: &'a Depthwise<'a>,
    weights: &'a [f32],
    gradient: &'a [f32],
    padded: &'a mut [f32],
}

impl pulp::WithSimd for ByInput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (gradient, _) = S::as_simd_f32s(self.gradient);
        let (padded, _) = S::as_mut_simd_f32s(self.padded);
        let weights = self.weights.chunks(self.depthwise.pitch());
        for (weights, &tap) in weights.zip(&self.depthwise.taps) {
            let weight = S::as_simd_f32s(weights).0[0];
            let padded = &mut padded[tap..];
            for (&window, &gradient) in self.depthwise.windows.iter().zip(gradient) {
                padded[window] = simd.mul_add_f32s(weight, gradient, padded[window]);
            }
        }
    }
}

/// `sums[t] += padded[windows[y] + taps[t]] · gradient[y]`
struct ByWeights<'a> {
    depthwise: &'a Depthwise<'a>,
    padded: &'a [f32],
    gradient: &'a [f32],
    sums: &'a mut [f32],
}

impl ByWeights<'_> {
    #[inline(always)]
    fn add<S: Simd, const N: usize>(&self, simd: S, taps: &[usize; N], sums: &mut [S::f32s; N]) {
        let (gradient, _) = S::as_simd_f32s(self.gradient);
        let (padded, _) = S::as_simd_f32s(self.padded);
        let seen = taps.map(|tap| &padded[tap..]);
        let mut own = *sums;
        for (&window, &gradient) in self.depthwise.windows.iter().zip(gradient) {
            for (sum, seen) in own.iter_mut().zip(seen) {
                *sum = simd.mul_add_f32s(gradient, seen[window], *sum);
            }
        }
        *sums = own;
    }
}

impl pulp::WithSimd for ByWeights<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let sums = std::mem::take(&mut self.sums);
        let (sums, _) = S::as_mut_simd_f32s(sums);
        let (nines, taps) = self.depthwise.taps.as_chunks::<9>();
        let (own, sums) = sums.as_chunks_mut::<9>();
        own.iter_mut()
            .zip(nines)
            .for_each(|(sums, taps)| self.add(simd, taps, sums));
        let (threes, taps) = taps.as_chunks::<3>();
        let (own, sums) = sums.as_chunks_mut::<3>();
        own.iter_mut()
            .zip(threes)
            .for_each(|(sums, taps)| self.add(simd, taps, sums));
        for (sum, tap) in sums.iter_mut().zip(taps) {
            self.add(simd, &[*tap], std::array::from_mut(sum));
        }
    }
}
