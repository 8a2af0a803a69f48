//! Poolings over planes, and their gradients.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::arch::Arch;
use super::{Kernel, dims, elements, run, tensor, written};
use crate::exec::value::{self, Value};
use crate::graph::Window;

/// The largest, or the mean, of each window of `[batch, channels, height, width]`.
#[derive(Debug, Clone)]
struct Pool {
    input: [usize; 2],
    output: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pad: [usize; 2],
    average: bool,
    /// For each output position what the sum of its window is multiplied by.
    factors: Vec<f32>,
}

/// A pooling over two axes. `factors` are those of an average, for each output position. `None` on
/// devices that keep Burn's own, and where a maximum has a window without elements.
pub(in crate::exec) fn pool(
    x: &Value,
    window: &Window,
    factors: Option<Vec<f32>>,
) -> Option<Value> {
    let shape = value::dims(x);
    let pair = |values: &[usize]| [values[0], values[1]];
    let kernel = Pool {
        input: pair(&shape[2..]),
        output: pair(&window.output),
        kernel: pair(&window.kernel),
        stride: pair(&window.stride),
        dilation: pair(&window.dilation),
        pad: pair(&window.pad_begin),
        average: factors.is_some(),
        factors: factors.unwrap_or_default(),
    };
    if shape.contains(&0) || kernel.output.contains(&0) {
        return None;
    }
    let filled = (0..2).all(|axis| {
        (0..kernel.output[axis]).all(|position| kernel.taps(axis, position).next().is_some())
    });
    if !filled && !kernel.average {
        return None;
    }
    Some(run(&kernel, [x])?.0)
}

impl Pool {
    /// Places of the input below an output position.
    #[inline(always)]
    fn taps(&self, axis: usize, position: usize) -> impl Iterator<Item = usize> + Clone {
        let (pad, size) = (self.pad[axis], self.input[axis]);
        let start = position * self.stride[axis];
        let step = self.dilation[axis];
        let first = pad.saturating_sub(start).div_ceil(step);
        let end = (size + pad).saturating_sub(start).div_ceil(step);
        (first..end.min(self.kernel[axis])).map(move |tap| start + tap * step - pad)
    }

    fn result(&self, x: &FlexTensor) -> Vec<usize> {
        [&dims(x)[..2], &self.output].concat()
    }

    /// Whether the windows are 2 × 2, side by side, without padding.
    fn is_half(&self) -> bool {
        self.kernel == [2, 2]
            && self.stride == [2, 2]
            && self.dilation == [1, 1]
            && self.pad == [0, 0]
            && (0..2).all(|axis| self.output[axis] * 2 <= self.input[axis])
    }

    /// Averages of windows as [`Pool::is_half`] says.
    #[inline(always)]
    fn halve(&self, x: &[f32], out: &mut [f32]) {
        let [width, columns] = [self.input[1], self.output[1]];
        let rows = x
            .chunks_exact(2 * width)
            .zip(self.factors.chunks_exact(columns));
        for (out, (rows, factors)) in out.chunks_exact_mut(columns).zip(rows) {
            let (above, below) = rows.split_at(width);
            let pairs = above
                .as_chunks::<2>()
                .0
                .iter()
                .zip(below.as_chunks::<2>().0);
            for ((out, factor), ([a, b], [c, d])) in out.iter_mut().zip(factors).zip(pairs) {
                *out = (a + b + c + d) * factor;
            }
        }
    }

    /// The gradient of [`Pool::halve`].
    #[inline(always)]
    fn double(&self, gradient: &[f32], out: &mut [f32]) {
        let [width, columns] = [self.input[1], self.output[1]];
        let rows = gradient
            .chunks_exact(columns)
            .zip(self.factors.chunks_exact(columns));
        for (out, (gradient, factors)) in out.chunks_exact_mut(2 * width).zip(rows) {
            let (above, below) = out.split_at_mut(width);
            let pairs = above.as_chunks_mut::<2>().0.iter_mut();
            let pairs = pairs.zip(below.as_chunks_mut::<2>().0);
            for ((above, below), (gradient, factor)) in pairs.zip(gradient.iter().zip(factors)) {
                *above = [gradient * factor; 2];
                *below = *above;
            }
        }
    }

    #[inline(always)]
    fn largest(&self, x: &[f32], out: &mut [f32], places: &mut [u32]) {
        let [_, width] = self.input;
        let rows = out.chunks_exact_mut(self.output[1]);
        let rows = rows.zip(places.chunks_exact_mut(self.output[1]));
        for (row, (out, places)) in rows.enumerate() {
            if self.is_half() {
                let start = 2 * row * width;
                let both = x[start..start + 2 * width].split_at(width);
                match out.len() {
                    8.. => squares::<8>(both, start, out, places),
                    4.. => squares::<4>(both, start, out, places),
                    _ => squares::<1>(both, start, out, places),
                }
                continue;
            }
            let ys = self.taps(0, row);
            for (column, (out, place)) in out.iter_mut().zip(places).enumerate() {
                let xs = self.taps(1, column);
                let mut found = None;
                for y in ys.clone() {
                    for at in xs.clone().map(|x| y * width + x) {
                        // What is no number is the largest, wherever it stands.
                        if found.is_none_or(|(most, _)| x[at] > most || x[at].is_nan()) {
                            found = Some((x[at], at));
                        }
                    }
                }
                let (most, at) = found.expect("every window has elements");
                (*out, *place) = (most, at as u32);
            }
        }
    }
}

/// The largest of each 2 × 2 of two rows, of which the first begins at the place `start`: `N` of them at once, the
/// last ones again where they are not a multiple, since a loop over what is left would be without vectors.
#[inline(always)]
fn squares<const N: usize>(
    (above, below): (&[f32], &[f32]),
    start: usize,
    out: &mut [f32],
    places: &mut [u32],
) {
    let width = above.len() as u32;
    let last = out.len() - N;
    let mut first = 0;
    loop {
        let above = above[2 * first..][..2 * N].as_chunks::<2>().0;
        let below = below[2 * first..][..2 * N].as_chunks::<2>().0;
        let (mut most, mut at) = ([0f32; N], [0u32; N]);
        // Without a branch, and apart from what is in memory, so that it is done in vectors.
        for index in 0..N {
            let ([a, b], [c, d]) = (above[index], below[index]);
            // What is no number is the largest, wherever it stands.
            let right = (b > a) | b.is_nan();
            let high = if right { b } else { a };
            let high_at = if right { 1 } else { 0 };
            let right = (d > c) | d.is_nan();
            let low = if right { d } else { c };
            let low_at = if right { width + 1 } else { width };
            let down = (low > high) | low.is_nan();
            most[index] = if down { low } else { high };
            at[index] = if down { low_at } else { high_at };
        }
        let begin = (start + 2 * first) as u32;
        out[first..][..N].copy_from_slice(&most);
        for (index, place) in places[first..][..N].iter_mut().enumerate() {
            *place = begin + 2 * index as u32 + at[index];
        }
        if first == last {
            return;
        }
        first = (first + N).min(last);
    }
}

impl Kernel<1> for Pool {
    /// Shape of the input, and for maxima the place of each in its plane.
    type Kept = (Vec<usize>, Vec<u32>);

    fn forward(&self, [x]: [FlexTensor; 1]) -> (FlexTensor, Self::Kept) {
        let [from, to] = [self.input, self.output].map(|sizes| sizes[0] * sizes[1]);
        let source = elements(&x);
        let planes = source.len() / from;
        let arch = Arch::new();
        let mut places = vec![0u32; if self.average { 0 } else { planes * to }];
        let out = written(planes * to, |out| {
            let all = out.par_chunks_mut(to).zip(source.par_chunks(from));
            if self.average {
                all.for_each(|(out, x)| {
                    arch.run(
                        #[inline(always)]
                        || {
                            if self.is_half() {
                                return self.halve(x, out);
                            }
                            for row in 0..self.output[0] {
                                for column in 0..self.output[1] {
                                    let at = row * self.output[1] + column;
                                    let mut sum = 0.0;
                                    for y in self.taps(0, row) {
                                        for place in self.taps(1, column) {
                                            sum += x[y * self.input[1] + place];
                                        }
                                    }
                                    out[at] = sum * self.factors[at];
                                }
                            }
                        },
                    );
                });
            } else {
                all.zip(places.par_chunks_mut(to))
                    .for_each(|((out, x), places)| {
                        arch.run(
                            #[inline(always)]
                            || self.largest(x, out, places),
                        );
                    });
            }
        });
        let result = self.result(&x);
        (tensor(out, &result), (dims(&x), places))
    }

    fn backward(
        &self,
        (shape, places): Self::Kept,
        gradient: FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let [from, to] = [self.input, self.output].map(|sizes| sizes[0] * sizes[1]);
        let gradient = elements(&gradient);
        let arch = Arch::new();
        let out = written(gradient.len() / to * from, |out| {
            let all = out.par_chunks_mut(from).zip(gradient.par_chunks(to));
            if self.average {
                all.for_each(|(out, gradient)| {
                    arch.run(
                        #[inline(always)]
                        || {
                            out.fill(0.0);
                            if self.is_half() {
                                return self.double(gradient, out);
                            }
                            for row in 0..self.output[0] {
                                for column in 0..self.output[1] {
                                    let at = row * self.output[1] + column;
                                    let share = gradient[at] * self.factors[at];
                                    for y in self.taps(0, row) {
                                        for place in self.taps(1, column) {
                                            out[y * self.input[1] + place] += share;
                                        }
                                    }
                                }
                            }
                        },
                    );
                });
            } else {
                all.zip(places.par_chunks(to))
                    .for_each(|((out, gradient), places)| {
                        out.fill(0.0);
                        for (gradient, &place) in gradient.iter().zip(places) {
                            out[place as usize] += gradient;
                        }
                    });
            }
        });
        [Some(tensor(out, &shape))]
    }
}

/// The mean of each plane: `[batch, channels, …]` to `[batch, channels, 1, …]`.
#[derive(Debug, Clone)]
struct GlobalAverage;

/// GlobalAveragePool. `None` on devices that keep Burn's own.
pub(in crate::exec) fn global_average(x: &Value) -> Option<Value> {
    Some(run(&GlobalAverage, [x])?.0)
}

impl Kernel<1> for GlobalAverage {
    /// Shape of the input.
    type Kept = Vec<usize>;

    fn forward(&self, [x]: [FlexTensor; 1]) -> (FlexTensor, Vec<usize>) {
        let shape = dims(&x);
        let plane: usize = shape[2..].iter().product();
        let arch = Arch::new();
        let mean = |values: &[f32]| {
            arch.run(
                #[inline(always)]
                || super::norm::sum(values) / plane as f32,
            )
        };
        let source = elements(&x);
        let out = source
            .par_chunks(plane.max(1))
            .with_min_len(64)
            .map(mean)
            .collect();
        let mut to = vec![1; shape.len()];
        to[..2].copy_from_slice(&shape[..2]);
        (tensor(out, &to), shape)
    }

    fn backward(
        &self,
        shape: Vec<usize>,
        gradient: FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let plane: usize = shape[2..].iter().product();
        let gradient = elements(&gradient);
        let out = written(gradient.len() * plane, |out| {
            let planes = out.par_chunks_mut(plane.max(1)).with_min_len(64);
            planes
                .zip(gradient)
                .for_each(|(out, gradient)| out.fill(gradient / plane as f32));
        });
        [Some(tensor(out, &shape))]
    }
}
