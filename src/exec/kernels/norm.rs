//! Normalisations and softmax, with their gradients, in few passes over the elements.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::arch::Arch;
use super::math::exp;
use super::{Kernel, add, dims, elements, first, run, tensor, value, written};
use crate::exec::value::{self, Value};

/// Batch normalisation with the statistics of the batch over `[batch, channels, …]` (Ioffe and
/// Szegedy, 2015, algorithm 1 and the derivatives of section 3).
#[derive(Debug, Clone)]
struct BatchNorm {
    epsilon: f32,
    /// What the results are brought into.
    clip: [f32; 2],
}

/// What was computed on the way and is needed again.
#[derive(Debug, Clone)]
struct Statistics {
    x: FlexTensor,
    scale: FlexTensor,
    shift: FlexTensor,
    mean: Vec<f32>,
    /// Biased.
    variance: Vec<f32>,
    /// `1 ÷ √(variance + ε)`.
    inverse: Vec<f32>,
}

/// `[batch, channels, elements of a plane]`
fn sizes(x: &FlexTensor) -> [usize; 3] {
    let dims = dims(x);
    [dims[0], dims[1], dims[2..].iter().product()]
}

/// The normalised values, brought between the ends of `clip`, and mean and biased variance of the
/// batch, `[channels]`. `None` on devices that keep Burn's own.
pub(in crate::exec) fn batch_norm_train(
    x: &Value,
    scale: &Value,
    shift: &Value,
    epsilon: f32,
    clip: Option<[f32; 2]>,
) -> Option<[Value; 3]> {
    let clip = clip.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
    let (out, statistics) = run(&BatchNorm { epsilon, clip }, [x, scale, shift])?;
    let channels = [statistics.mean.len()];
    let mean = value(tensor(statistics.mean, &channels));
    let variance = value(tensor(statistics.variance, &channels));
    Some([out, mean, variance])
}

impl Kernel<3> for BatchNorm {
    type Kept = Statistics;

    fn forward(&self, [x, scale, shift]: [FlexTensor; 3]) -> (FlexTensor, Statistics) {
        let [batch, channels, plane] = sizes(&x);
        let count = (batch * plane) as f64;
        let arch = Arch::new();
        let source = elements(&x);
        let both: Vec<(f32, f32)> = (0..channels)
            .into_par_iter()
            .map(|channel| {
                arch.run(
                    #[inline(always)]
                    || {
                        let planes = || {
                            (0..batch).map(|n| &source[(n * channels + channel) * plane..][..plane])
                        };
                        let sum: f64 = planes().map(|values| f64::from(sum(values))).sum();
                        let mean = (sum / count) as f32;
                        let squares: f64 = planes().map(|v| f64::from(squares(v, mean))).sum();
                        (mean, (squares / count) as f32)
                    },
                )
            })
            .collect();
        let inverse: Vec<f32> = both
            .iter()
            .map(|both| 1.0 / (both.1 + self.epsilon).sqrt())
            .collect();
        let (scales, shifts) = (elements(&scale), elements(&shift));
        let [low, high] = self.clip;
        let out = written(source.len(), |out| {
            out.par_chunks_mut(plane)
                .zip(source.par_chunks(plane))
                .enumerate()
                .for_each(|(index, (out, x))| {
                    let channel = index % channels;
                    let factor = inverse[channel] * scales[channel];
                    let offset = shifts[channel] - both[channel].0 * factor;
                    arch.run(
                        #[inline(always)]
                        || {
                            out.iter_mut()
                                .zip(x)
                                .for_each(|(o, x)| *o = (*x * factor + offset).clamp(low, high));
                        },
                    );
                });
        });
        let out = tensor(out, &dims(&x));
        let (mean, variance) = both.into_iter().unzip();
        let statistics = Statistics {
            x,
            scale,
            shift,
            mean,
            variance,
            inverse,
        };
        (out, statistics)
    }

    fn backward(
        &self,
        kept: Statistics,
        gradient: FlexTensor,
        wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let [batch, channels, plane] = sizes(&kept.x);
        let count = (batch * plane) as f32;
        let arch = Arch::new();
        let (x, gradient) = (elements(&kept.x), elements(&gradient));
        let (scale, shift) = (elements(&kept.scale), elements(&kept.shift));
        let [low, high] = self.clip;
        // The result again, as a line in x: where it was cut off there is no gradient.
        let line = |channel: usize| {
            let factor = kept.inverse[channel] * scale[channel];
            (factor, shift[channel] - kept.mean[channel] * factor)
        };
        let inside = |x: f32, (factor, offset): (f32, f32)| {
            let result = x * factor + offset;
            result > low && result < high
        };
        let (by_scale, by_shift): (Vec<f32>, Vec<f32>) = (0..channels)
            .into_par_iter()
            .map(|channel| {
                arch.run(
                    #[inline(always)]
                    || {
                        let (mut shift, mut product) = (0f64, 0f64);
                        let line = line(channel);
                        for image in 0..batch {
                            let start = (image * channels + channel) * plane;
                            let (x, gradient) = (&x[start..][..plane], &gradient[start..][..plane]);
                            let [first, second] =
                                two_sums(x, gradient, |x, g| match inside(x, line) {
                                    true => [g, g * x],
                                    false => [0.0, 0.0],
                                });
                            shift += f64::from(first);
                            product += f64::from(second);
                        }
                        let mean = f64::from(kept.mean[channel]);
                        let by_scale = (product - mean * shift) * f64::from(kept.inverse[channel]);
                        (by_scale as f32, shift as f32)
                    },
                )
            })
            .unzip();
        let by_input = wanted[0].then(|| {
            let out = written(x.len(), |out| {
                out.par_chunks_mut(plane)
                    .zip(x.par_chunks(plane).zip(gradient.par_chunks(plane)))
                    .enumerate()
                    .for_each(|(index, (out, (x, gradient)))| {
                        let channel = index % channels;
                        let (mean, inverse) = (kept.mean[channel], kept.inverse[channel]);
                        // γ σ⁻¹ (g − Σg ÷ m − x̂ Σ(g x̂) ÷ m), as one line in g and x.
                        let factor = scale[channel] * inverse;
                        let slope = factor * inverse * by_scale[channel] / count;
                        let offset = slope * mean - factor * by_shift[channel] / count;
                        let line = line(channel);
                        arch.run(
                            #[inline(always)]
                            || {
                                let both = x.iter().zip(gradient);
                                for (o, (x, g)) in out.iter_mut().zip(both) {
                                    let own = if inside(*x, line) { *g } else { 0.0 };
                                    *o = own * factor - *x * slope + offset;
                                }
                            },
                        );
                    });
            });
            tensor(out, &dims(&kept.x))
        });
        [
            by_input,
            wanted[1].then(|| tensor(by_scale, &dims(&kept.scale))),
            wanted[2].then(|| tensor(by_shift, &dims(&kept.scale))),
        ]
    }
}

/// Brings each row of the last axis to mean 0, if `centred`, and variance 1, then scales and shifts:
/// LayerNormalization (Ba, Kiros and Hinton, 2016) and RMSNormalization (Zhang and Sennrich, 2019).
#[derive(Debug, Clone)]
struct LayerNorm {
    width: usize,
    epsilon: f32,
    centred: bool,
}

/// Input, scale, and mean and `1 ÷ deviation` of each row.
type Rows = (FlexTensor, FlexTensor, Vec<[f32; 2]>);

/// Rows that a thread takes at once.
fn rows_at_once(width: usize) -> usize {
    (16384 / width.max(1)).max(1)
}

/// Rows of `width` elements, `scale` and `shift` of as many. `None` on devices that keep Burn's own.
pub(in crate::exec) fn layer_norm(
    x: &Value,
    scale: &Value,
    shift: Option<&Value>,
    epsilon: f32,
    centred: bool,
) -> Option<Value> {
    let width = *value::dims(x).last()?;
    if value::dims(scale) != [width] || shift.is_some_and(|shift| value::dims(shift) != [width]) {
        return None;
    }
    let kernel = LayerNorm {
        width,
        epsilon,
        centred,
    };
    Some(match shift {
        Some(shift) => run(&kernel, [x, scale, shift])?.0,
        None => run(&kernel, [x, scale])?.0,
    })
}

impl LayerNorm {
    fn normalize(
        &self,
        x: FlexTensor,
        scale: FlexTensor,
        shift: Option<&FlexTensor>,
    ) -> (FlexTensor, Rows) {
        let width = self.width;
        let source = elements(&x);
        let (scales, shifts) = (elements(&scale), shift.map(elements));
        let arch = Arch::new();
        let mut figures = vec![[0f32; 2]; source.len() / width];
        let at_once = rows_at_once(width);
        let out = written(source.len(), |out| {
            out.par_chunks_mut(at_once * width)
                .zip(source.par_chunks(at_once * width))
                .zip(figures.par_chunks_mut(at_once))
                .for_each(|((out, x), figures)| {
                    arch.run(
                        #[inline(always)]
                        || {
                            let rows = out.chunks_exact_mut(width).zip(x.chunks_exact(width));
                            for ((out, x), figure) in rows.zip(figures.iter_mut()) {
                                let mean = match self.centred {
                                    true => sum(x) / width as f32,
                                    false => 0.0,
                                };
                                let inverse =
                                    1.0 / (squares(x, mean) / width as f32 + self.epsilon).sqrt();
                                *figure = [mean, inverse];
                                let pairs = out.iter_mut().zip(x).zip(scales);
                                match shifts {
                                    Some(shifts) => {
                                        for (((o, x), s), t) in pairs.zip(shifts) {
                                            *o = (*x - mean) * inverse * s + t;
                                        }
                                    }
                                    None => {
                                        pairs
                                            .for_each(|((o, x), s)| *o = (*x - mean) * inverse * s);
                                    }
                                }
                            }
                        },
                    );
                });
        });
        (tensor(out, &dims(&x)), (x, scale, figures))
    }

    /// By the input, the scale and the shift.
    fn gradients(
        &self,
        (x, scale, figures): Rows,
        gradient: &FlexTensor,
        wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let width = self.width;
        let (source, scales, gradient) = (elements(&x), elements(&scale), elements(gradient));
        let arch = Arch::new();
        let at_once = rows_at_once(width);
        let by_input = wanted[0].then(|| {
            let out = written(source.len(), |out| {
                out.par_chunks_mut(at_once * width)
                    .zip(source.par_chunks(at_once * width))
                    .zip(gradient.par_chunks(at_once * width))
                    .zip(figures.par_chunks(at_once))
                    .for_each(|(((out, x), gradient), figures)| {
                        arch.run(
                            #[inline(always)]
                            || {
                                let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width));
                                for ((out, (x, g)), [mean, inverse]) in
                                    out.chunks_exact_mut(width).zip(rows).zip(figures)
                                {
                                    // σ⁻¹ (γg − mean of γg − x̂ · mean of γg·x̂)
                                    for ((o, g), s) in out.iter_mut().zip(g).zip(scales) {
                                        *o = g * s;
                                    }
                                    let whole = match self.centred {
                                        true => sum(out) / width as f32,
                                        false => 0.0,
                                    };
                                    let along = (dot(out, x) - mean * sum(out)) * inverse * inverse
                                        / width as f32;
                                    for (o, x) in out.iter_mut().zip(x) {
                                        *o = (*o - whole - (*x - mean) * along) * inverse;
                                    }
                                }
                            },
                        );
                    });
            });
            tensor(out, &dims(&x))
        });
        // Sums of parts of fixed size, so that they are the same on any number of threads.
        let parts: Vec<[Vec<f32>; 2]> = source
            .par_chunks(at_once * width)
            .zip(gradient.par_chunks(at_once * width))
            .zip(figures.par_chunks(at_once))
            .map(|((x, gradient), figures)| {
                let (mut by_scale, mut by_shift) = (vec![0f32; width], vec![0f32; width]);
                arch.run(
                    #[inline(always)]
                    || {
                        let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width));
                        for ((x, g), [mean, inverse]) in rows.zip(figures) {
                            let sums = by_scale.iter_mut().zip(&mut by_shift);
                            for ((a, b), (x, g)) in sums.zip(x.iter().zip(g)) {
                                *a += *g * (*x - mean) * inverse;
                                *b += *g;
                            }
                        }
                    },
                );
                [by_scale, by_shift]
            })
            .collect();
        let total = |which: usize| {
            let mut sums = vec![0f32; width];
            parts.iter().for_each(|part| add(&mut sums, &part[which]));
            tensor(sums, &[width])
        };
        [
            by_input,
            wanted[1].then(|| total(0)),
            wanted[2].then(|| total(1)),
        ]
    }
}

impl<const N: usize> Kernel<N> for LayerNorm {
    type Kept = Rows;

    fn forward(&self, inputs: [FlexTensor; N]) -> (FlexTensor, Rows) {
        let [x, scale] = [&inputs[0], &inputs[1]];
        self.normalize(x.clone(), scale.clone(), inputs.get(2))
    }

    fn backward(
        &self,
        kept: Rows,
        gradient: FlexTensor,
        wanted: [bool; N],
    ) -> [Option<FlexTensor>; N] {
        first(self.gradients(kept, &gradient, first(wanted)))
    }
}

/// Softmax, or its logarithm, over the last axis.
#[derive(Debug, Clone)]
struct Softmax {
    width: usize,
    logarithm: bool,
}

/// Softmax over the last axis. `None` on devices that keep Burn's own.
pub(in crate::exec) fn softmax(x: &Value, logarithm: bool) -> Option<Value> {
    let width = *value::dims(x).last()?;
    Some(run(&Softmax { width, logarithm }, [x])?.0)
}

impl Kernel<1> for Softmax {
    /// The result.
    type Kept = FlexTensor;

    fn forward(&self, [x]: [FlexTensor; 1]) -> (FlexTensor, FlexTensor) {
        let source = elements(&x);
        let at_once = rows_at_once(self.width) * self.width;
        let arch = Arch::new();
        let out = written(source.len(), |out| {
            out.par_chunks_mut(at_once)
                .zip(source.par_chunks(at_once))
                .for_each(|(out, x)| {
                    arch.run(
                        #[inline(always)]
                        || {
                            let rows = x.chunks_exact(self.width);
                            for (out, x) in out.chunks_exact_mut(self.width).zip(rows) {
                                let highest = largest(x);
                                for (o, x) in out.iter_mut().zip(x) {
                                    *o = exp(*x - highest);
                                }
                                let total = sum(out);
                                if self.logarithm {
                                    let shift = highest + total.ln();
                                    out.iter_mut().zip(x).for_each(|(o, x)| *o = *x - shift);
                                } else {
                                    let factor = 1.0 / total;
                                    out.iter_mut().for_each(|o| *o *= factor);
                                }
                            }
                        },
                    );
                });
        });
        let out = tensor(out, &dims(&x));
        (out.clone(), out)
    }

    fn backward(
        &self,
        kept: FlexTensor,
        gradient: FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let (result, gradient) = (elements(&kept), elements(&gradient));
        let at_once = rows_at_once(self.width) * self.width;
        let arch = Arch::new();
        let out = written(result.len(), |out| {
            out.par_chunks_mut(at_once)
                .zip(result.par_chunks(at_once))
                .zip(gradient.par_chunks(at_once))
                .for_each(|((out, y), g)| {
                    arch.run(
                        #[inline(always)]
                        || {
                            let rows = y.chunks_exact(self.width).zip(g.chunks_exact(self.width));
                            for (out, (y, g)) in out.chunks_exact_mut(self.width).zip(rows) {
                                let pairs = out.iter_mut().zip(y).zip(g);
                                if self.logarithm {
                                    let total = sum(g);
                                    pairs.for_each(|((o, y), g)| *o = *g - exp(*y) * total);
                                } else {
                                    let total = dot(y, g);
                                    pairs.for_each(|((o, y), g)| *o = *y * (*g - total));
                                }
                            }
                        },
                    );
                });
        });
        [Some(tensor(out, &dims(&kept)))]
    }
}

const LANES: usize = 16;

/// `f` of neighbouring elements, in sixteen results side by side, folded at the end.
#[inline(always)]
fn folded<T: Copy>(
    values: &[T],
    start: f32,
    step: impl Fn(f32, T) -> f32,
    join: impl Fn(f32, f32) -> f32,
) -> f32 {
    let (lanes, rest) = values.as_chunks::<LANES>();
    let mut found = [start; LANES];
    for chunk in lanes {
        for lane in 0..LANES {
            found[lane] = step(found[lane], chunk[lane]);
        }
    }
    let rest = rest.iter().fold(start, |all, value| step(all, *value));
    found.into_iter().fold(rest, join)
}

/// The sums of both results of `function` over `a` and `b`.
#[inline(always)]
fn two_sums(a: &[f32], b: &[f32], function: impl Fn(f32, f32) -> [f32; 2]) -> [f32; 2] {
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [[0f32; LANES]; 2];
    for (a, b) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            let [first, second] = function(a[lane], b[lane]);
            sums[0][lane] += first;
            sums[1][lane] += second;
        }
    }
    let mut totals = sums.map(|lanes| lanes.iter().sum::<f32>());
    for (a, b) in a_rest.iter().zip(b_rest) {
        let [first, second] = function(*a, *b);
        totals[0] += first;
        totals[1] += second;
    }
    totals
}

/// `Σ values[i]`
#[inline(always)]
pub(super) fn sum(values: &[f32]) -> f32 {
    folded(values, 0.0, |all, value| all + value, |a, b| a + b)
}

/// `Σ (values[i] − mean)²`
#[inline(always)]
fn squares(values: &[f32], mean: f32) -> f32 {
    let step = |all: f32, value: f32| all + (value - mean) * (value - mean);
    folded(values, 0.0, step, |a, b| a + b)
}

#[inline(always)]
fn largest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    folded(values, f32::NEG_INFINITY, larger, larger)
}

/// `Σ a[i] · b[i]`, in sixteen sums side by side.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_lanes, a_rest) = a.as_chunks::<LANES>();
    let (b_lanes, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0f32; LANES];
    for (x, y) in a_lanes.iter().zip(b_lanes) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f32>() + rest
}
