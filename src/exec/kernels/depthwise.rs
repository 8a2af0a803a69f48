//! Depthwise convolution (one kernel a channel), vectorised for the processor that it runs on.
//!
//! A plane is padded once. With a stride of 1 an output plane is kept as wide as the padded input,
//! so that every tap of the kernel is a single pass over the whole plane; the columns between are
//! never read. Other strides go row by row.

use burn::backend::flex::FlexTensor;
use pulp::Arch;
use rayon::prelude::*;

use super::{Shape, elements, tensor};

/// A plane with its padding.
struct Padded<'a> {
    shape: &'a Shape,
    height: usize,
    width: usize,
}

impl<'a> Padded<'a> {
    fn new(shape: &'a Shape) -> Self {
        // Large enough for the last window, and for what the last window leaves over.
        let [height, width] = std::array::from_fn(|axis| {
            let reach = (shape.output[axis] - 1) * shape.stride[axis]
                + (shape.kernel[axis] - 1) * shape.dilation[axis]
                + 1;
            reach.max(shape.input[axis] + shape.pad[axis])
        });
        Self {
            shape,
            height,
            width,
        }
    }

    fn buffer(&self) -> Vec<f32> {
        vec![0f32; self.height * self.width]
    }

    #[inline(always)]
    fn fill(&self, x: &[f32], buffer: &mut [f32]) {
        for (y, row) in x.chunks_exact(self.shape.input[1]).enumerate() {
            let start = (y + self.shape.pad[0]) * self.width + self.shape.pad[1];
            buffer[start..start + row.len()].copy_from_slice(row);
        }
    }

    fn is_dense(&self) -> bool {
        self.shape.stride == [1, 1]
    }

    /// Length of an output plane that is as wide as the padded input.
    fn wide_length(&self) -> usize {
        (self.shape.output[0] - 1) * self.width + self.shape.output[1]
    }

    /// Lays an output plane out as wide as the padded input, zeros between.
    #[inline(always)]
    fn widen(&self, plane: &[f32], wide: &mut [f32]) {
        for (row, values) in plane.chunks_exact(self.shape.output[1]).enumerate() {
            let start = row * self.width;
            wide[start..start + values.len()].copy_from_slice(values);
        }
    }

    /// Where tap `tap` of the kernel sees the padded plane from the first output.
    #[inline(always)]
    fn tap_start(&self, tap: usize) -> usize {
        let [y, x] = [tap / self.shape.kernel[1], tap % self.shape.kernel[1]];
        y * self.shape.dilation[0] * self.width + x * self.shape.dilation[1]
    }

    #[inline(always)]
    fn row_start(&self, row: usize, tap: usize) -> usize {
        row * self.shape.stride[0] * self.width + self.tap_start(tap)
    }
}

impl Shape {
    fn input_plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    fn output_plane(&self) -> usize {
        self.output[0] * self.output[1]
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

pub(super) fn forward(shape: &Shape, x: &FlexTensor, w: &FlexTensor) -> FlexTensor {
    let (x, w) = (x.to_contiguous(), w.to_contiguous());
    let (x, w) = (elements(&x), elements(&w));
    let [height, width] = shape.output;
    let layout = Padded::new(shape);
    let mut out = vec![0f32; shape.batch * shape.channels[0] * height * width];
    let arch = Arch::new();
    out.par_chunks_mut(height * width)
        .zip(x.par_chunks(shape.input_plane()))
        .enumerate()
        .for_each_init(
            || (layout.buffer(), vec![0f32; layout.wide_length()]),
            |(padded, wide), (plane, (out, x))| {
                let channel = plane % shape.channels[0];
                let kernel = &w[channel * shape.taps()..][..shape.taps()];
                arch.dispatch(|| {
                    layout.fill(x, padded);
                    if layout.is_dense() {
                        wide.fill(0.0);
                        for (tap, &factor) in kernel.iter().enumerate() {
                            let source = &padded[layout.tap_start(tap)..][..wide.len()];
                            multiply_add(wide, source, factor);
                        }
                        for (row, out) in out.chunks_exact_mut(width).enumerate() {
                            out.copy_from_slice(&wide[row * layout.width..][..width]);
                        }
                        return;
                    }
                    for (row, out) in out.chunks_exact_mut(width).enumerate() {
                        for (tap, &factor) in kernel.iter().enumerate() {
                            let source = padded[layout.row_start(row, tap)..].iter();
                            let source = source.step_by(shape.stride[1]);
                            out.iter_mut()
                                .zip(source)
                                .for_each(|(o, s)| *o += *s * factor);
                        }
                    }
                });
            },
        );
    tensor(out, &[shape.batch, shape.channels[0], height, width])
}

/// `out += source · factor`, element by element.
#[inline(always)]
fn multiply_add(out: &mut [f32], source: &[f32], factor: f32) {
    out.iter_mut()
        .zip(source)
        .for_each(|(o, s)| *o += *s * factor);
}

pub(super) fn input_gradient(shape: &Shape, w: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
    let w = w.to_contiguous();
    let (w, gradient) = (elements(&w), elements(gradient));
    let layout = Padded::new(shape);
    let mut out = vec![0f32; shape.batch * shape.channels[0] * shape.input_plane()];
    let arch = Arch::new();
    out.par_chunks_mut(shape.input_plane())
        .zip(gradient.par_chunks(shape.output_plane()))
        .enumerate()
        .for_each_init(
            || (layout.buffer(), vec![0f32; layout.wide_length()]),
            |(padded, wide), (plane, (out, gradient))| {
                let channel = plane % shape.channels[0];
                let kernel = &w[channel * shape.taps()..][..shape.taps()];
                arch.dispatch(|| {
                    padded.fill(0.0);
                    if layout.is_dense() {
                        layout.widen(gradient, wide);
                        for (tap, &factor) in kernel.iter().enumerate() {
                            let target = &mut padded[layout.tap_start(tap)..][..wide.len()];
                            multiply_add(target, wide, factor);
                        }
                    } else {
                        for (row, gradient) in gradient.chunks_exact(shape.output[1]).enumerate() {
                            for (tap, &factor) in kernel.iter().enumerate() {
                                let target = padded[layout.row_start(row, tap)..].iter_mut();
                                let target = target.step_by(shape.stride[1]);
                                target.zip(gradient).for_each(|(t, s)| *t += *s * factor);
                            }
                        }
                    }
                    for (y, row) in out.chunks_exact_mut(shape.input[1]).enumerate() {
                        let start = (y + shape.pad[0]) * layout.width + shape.pad[1];
                        row.copy_from_slice(&padded[start..start + row.len()]);
                    }
                });
            },
        );
    tensor(
        out,
        &[
            shape.batch,
            shape.channels[0],
            shape.input[0],
            shape.input[1],
        ],
    )
}

pub(super) fn weight_gradient(shape: &Shape, x: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
    let x = x.to_contiguous();
    let (x, gradient) = (elements(&x), elements(gradient));
    let layout = Padded::new(shape);
    let channels = shape.channels[0];
    let mut out = vec![0f32; channels * shape.taps()];
    let arch = Arch::new();
    // A channel's sums run over the batch in order, so they are the same for any thread count.
    out.par_chunks_mut(shape.taps()).enumerate().for_each_init(
        || (layout.buffer(), vec![0f32; layout.wide_length()]),
        |(padded, wide), (channel, out)| {
            arch.dispatch(|| {
                for image in 0..shape.batch {
                    let plane = image * channels + channel;
                    layout.fill(
                        &x[plane * shape.input_plane()..][..shape.input_plane()],
                        padded,
                    );
                    let gradient =
                        &gradient[plane * shape.output_plane()..][..shape.output_plane()];
                    if layout.is_dense() {
                        layout.widen(gradient, wide);
                        for (tap, sum) in out.iter_mut().enumerate() {
                            *sum += dot(wide, &padded[layout.tap_start(tap)..][..wide.len()]);
                        }
                        continue;
                    }
                    for (row, gradient) in gradient.chunks_exact(shape.output[1]).enumerate() {
                        for (tap, sum) in out.iter_mut().enumerate() {
                            let source = padded[layout.row_start(row, tap)..].iter();
                            let source = source.step_by(shape.stride[1]);
                            *sum += gradient.iter().zip(source).map(|(g, s)| g * s).sum::<f32>();
                        }
                    }
                }
            });
        },
    );
    tensor(out, &[channels, 1, shape.kernel[0], shape.kernel[1]])
}

/// `Σ a[i] · b[i]`, in sixteen sums side by side.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
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
