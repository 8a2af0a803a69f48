//! Depthwise convolution (one kernel a channel): passes over rows of a padded plane, vectorised
//! for the processor that it runs on.

use burn::backend::flex::FlexTensor;
use pulp::Arch;
use rayon::prelude::*;

use super::{Shape, elements, tensor};

impl Shape {
    /// Sizes of a plane with its padding; large enough for the last window.
    fn padded(&self) -> [usize; 2] {
        std::array::from_fn(|axis| {
            let reach = (self.output[axis] - 1) * self.stride[axis]
                + (self.kernel[axis] - 1) * self.dilation[axis]
                + 1;
            reach.max(self.input[axis] + self.pad[axis])
        })
    }

    fn plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    fn pad_plane(&self, x: &[f32], padded: &mut [f32]) {
        let [_, width] = self.padded();
        for (y, row) in x.chunks_exact(self.input[1]).enumerate() {
            let start = (y + self.pad[0]) * width + self.pad[1];
            padded[start..start + row.len()].copy_from_slice(row);
        }
    }

    /// Start of the padded row that tap `(y, x)` of the kernel sees from output row `row`.
    fn row_start(&self, row: usize, tap: [usize; 2]) -> usize {
        let y = row * self.stride[0] + tap[0] * self.dilation[0];
        y * self.padded()[1] + tap[1] * self.dilation[1]
    }

    fn taps(&self) -> impl Iterator<Item = (usize, [usize; 2])> + use<> {
        let width = self.kernel[1];
        (0..self.kernel[0] * width).map(move |tap| (tap, [tap / width, tap % width]))
    }
}

pub(super) fn forward(shape: &Shape, x: &FlexTensor, w: &FlexTensor) -> FlexTensor {
    let (x, w) = (x.to_contiguous(), w.to_contiguous());
    let (x, w) = (elements(&x), elements(&w));
    let [height, width] = shape.output;
    let taps = shape.kernel[0] * shape.kernel[1];
    let [padded_height, padded_width] = shape.padded();
    let mut out = vec![0f32; shape.batch * shape.channels[0] * height * width];
    let arch = Arch::new();
    out.par_chunks_mut(height * width)
        .zip(x.par_chunks(shape.plane()))
        .enumerate()
        .for_each_init(
            || vec![0f32; padded_height * padded_width],
            |padded, (plane, (out, x))| {
                let channel = plane % shape.channels[0];
                let kernel = &w[channel * taps..(channel + 1) * taps];
                arch.dispatch(|| {
                    shape.pad_plane(x, padded);
                    for (row, out) in out.chunks_exact_mut(width).enumerate() {
                        for (tap, place) in shape.taps() {
                            let source = &padded[shape.row_start(row, place)..];
                            multiply_add(out, source, kernel[tap], shape.stride[1]);
                        }
                    }
                });
            },
        );
    tensor(out, &[shape.batch, shape.channels[0], height, width])
}

/// `out[i] += source[i · stride] · factor`.
#[inline(always)]
fn multiply_add(out: &mut [f32], source: &[f32], factor: f32, stride: usize) {
    if stride == 1 {
        let source = &source[..out.len()];
        out.iter_mut().zip(source).for_each(|(o, s)| *o += *s * factor);
    } else {
        let source = source.iter().step_by(stride);
        out.iter_mut().zip(source).for_each(|(o, s)| *o += *s * factor);
    }
}

pub(super) fn input_gradient(shape: &Shape, w: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
    let w = w.to_contiguous();
    let (w, gradient) = (elements(&w), elements(gradient));
    let [height, width] = shape.output;
    let taps = shape.kernel[0] * shape.kernel[1];
    let [padded_height, padded_width] = shape.padded();
    let mut out = vec![0f32; shape.batch * shape.channels[0] * shape.plane()];
    let arch = Arch::new();
    out.par_chunks_mut(shape.plane())
        .zip(gradient.par_chunks(height * width))
        .enumerate()
        .for_each_init(
            || vec![0f32; padded_height * padded_width],
            |padded, (plane, (out, gradient))| {
                let channel = plane % shape.channels[0];
                let kernel = &w[channel * taps..(channel + 1) * taps];
                arch.dispatch(|| {
                    padded.fill(0.0);
                    for (row, gradient) in gradient.chunks_exact(width).enumerate() {
                        for (tap, place) in shape.taps() {
                            let target = &mut padded[shape.row_start(row, place)..];
                            spread(target, gradient, kernel[tap], shape.stride[1]);
                        }
                    }
                    for (y, row) in out.chunks_exact_mut(shape.input[1]).enumerate() {
                        let start = (y + shape.pad[0]) * padded_width + shape.pad[1];
                        row.copy_from_slice(&padded[start..start + row.len()]);
                    }
                });
            },
        );
    tensor(
        out,
        &[shape.batch, shape.channels[0], shape.input[0], shape.input[1]],
    )
}

/// `target[i · stride] += source[i] · factor`.
#[inline(always)]
fn spread(target: &mut [f32], source: &[f32], factor: f32, stride: usize) {
    if stride == 1 {
        let target = &mut target[..source.len()];
        target.iter_mut().zip(source).for_each(|(t, s)| *t += *s * factor);
    } else {
        let target = target.iter_mut().step_by(stride);
        target.zip(source).for_each(|(t, s)| *t += *s * factor);
    }
}

pub(super) fn weight_gradient(shape: &Shape, x: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
    let x = x.to_contiguous();
    let (x, gradient) = (elements(&x), elements(gradient));
    let [height, width] = shape.output;
    let taps = shape.kernel[0] * shape.kernel[1];
    let [padded_height, padded_width] = shape.padded();
    let channels = shape.channels[0];
    let mut out = vec![0f32; channels * taps];
    let arch = Arch::new();
    // A channel's sums run over the batch in order, so they are the same for any thread count.
    out.par_chunks_mut(taps).enumerate().for_each_init(
        || vec![0f32; padded_height * padded_width],
        |padded, (channel, out)| {
            arch.dispatch(|| {
                for image in 0..shape.batch {
                    let plane = image * channels + channel;
                    shape.pad_plane(&x[plane * shape.plane()..][..shape.plane()], padded);
                    let gradient = &gradient[plane * height * width..][..height * width];
                    for (row, gradient) in gradient.chunks_exact(width).enumerate() {
                        for (tap, place) in shape.taps() {
                            let source = &padded[shape.row_start(row, place)..];
                            out[tap] += dot(gradient, source, shape.stride[1]);
                        }
                    }
                }
            });
        },
    );
    tensor(out, &[channels, 1, shape.kernel[0], shape.kernel[1]])
}

/// `Σ a[i] · b[i · stride]`, in sixteen sums side by side.
#[inline(always)]
fn dot(a: &[f32], b: &[f32], stride: usize) -> f32 {
    if stride != 1 {
        return a.iter().zip(b.iter().step_by(stride)).map(|(x, y)| x * y).sum();
    }
    const LANES: usize = 16;
    let b = &b[..a.len()];
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
