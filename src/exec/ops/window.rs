//! Convolutions and poolings.

use burn::backend::Dispatch;
use burn::backend::DispatchDevice;
use burn::backend::TensorMetadata;
use burn::backend::ops::{FloatTensorOps, ModuleOps};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions, PadMode};

use crate::exec::kernels;
use crate::exec::ops::elementwise::power;
use crate::exec::ops::normalization::{BatchNorm, clipped, line};
use crate::exec::value::{Value, dims, from_host, reshape, sum_keep};
use crate::graph::Window;

type B = Dispatch;

fn array<const N: usize>(values: &[usize]) -> [usize; N] {
    std::array::from_fn(|axis| values[axis])
}

/// Conv over one to three spatial axes.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::exec) struct Conv {
    pub window: Window,
    pub groups: usize,
    /// A normalisation of the result.
    pub norm: Option<BatchNorm>,
    /// What the result is brought into at the end.
    pub clip: Option<[f32; 2]>,
}

impl Conv {
    fn options<const N: usize>(&self) -> ConvOptions<N> {
        let mut options = ConvOptions::new(
            array(&self.window.stride),
            [0; N],
            array(&self.window.dilation),
            self.groups,
        );
        options.padding =
            std::array::from_fn(|axis| (self.window.pad_begin[axis], self.window.pad_end[axis]));
        options
    }

    /// The convolution alone, brought into `clip`.
    pub fn run(&self, x: Value, w: Value, bias: Option<Value>, clip: Option<[f32; 2]>) -> Value {
        if let Some(out) = kernels::convolve(&x, &w, bias.as_ref(), &self.window, self.groups, clip)
        {
            return out;
        }
        let out = match self.window.kernel.len() {
            1 => B::conv1d(x, w, bias, self.options()),
            2 => B::conv2d(x, w, bias, self.options()),
            _ => {
                let window = &self.window;
                let mut options = self.options();
                let mut x = x;
                // Burn's recorded form of this operator knows only padding that is alike on both sides.
                if window.pad_begin != window.pad_end {
                    let sides = window
                        .pad_begin
                        .iter()
                        .copied()
                        .zip(window.pad_end.iter().copied());
                    let pads: Vec<_> = [(0, 0), (0, 0)].into_iter().chain(sides).collect();
                    x = B::float_pad(x, &pads, PadMode::Constant(0.0));
                    options.padding = [(0, 0); 3];
                }
                B::conv3d(x, w, bias, options)
            }
        };
        clipped(out, clip)
    }

    /// The convolution with weights and bias that do what the running statistics `[scale, shift, mean,
    /// variance]` would do behind it.
    pub fn run_normalized(
        &self,
        x: Value,
        w: Value,
        bias: Option<Value>,
        [scale, shift, mean, variance]: [Value; 4],
        epsilon: f32,
    ) -> Value {
        let (factor, offset) = line(scale, shift, mean, variance, epsilon);
        let mut along = vec![1; w.shape().num_dims()];
        along[0] = dims(&factor)[0];
        let bias = match bias {
            Some(bias) => B::float_add(offset, B::float_mul(bias, factor.clone())),
            None => offset,
        };
        let w = B::float_mul(w, reshape(factor, &along));
        self.run(x, w, Some(bias), self.clip)
    }
}

/// ConvTranspose over one to three spatial axes.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::exec) struct ConvTranspose {
    pub window: Window,
    pub groups: usize,
    /// Extra rows at the end of each axis.
    pub extra: Vec<usize>,
}

impl ConvTranspose {
    /// Burn pads both sides alike, so the smaller side is padded and the rest is cut off after.
    fn options<const N: usize>(&self) -> ConvTransposeOptions<N> {
        let both = |axis: usize| self.window.pad_begin[axis].min(self.window.pad_end[axis]);
        ConvTransposeOptions::new(
            array(&self.window.stride),
            std::array::from_fn(both),
            array(&self.extra),
            array(&self.window.dilation),
            self.groups,
        )
    }

    pub fn run(&self, x: Value, w: Value, bias: Option<Value>) -> Value {
        let window = &self.window;
        let axes = window.kernel.len();
        let mut out = match axes {
            1 => B::conv_transpose1d(x, w, bias, self.options()),
            2 => B::conv_transpose2d(x, w, bias, self.options()),
            _ => B::conv_transpose3d(x, w, bias, self.options()),
        };
        let found = dims(&out);
        let mut slices: Vec<burn::tensor::Slice> =
            found.iter().map(|&size| (0..size).into()).collect();
        for axis in 0..axes {
            let (begin, end) = (window.pad_begin[axis], window.pad_end[axis]);
            let start = begin - begin.min(end);
            slices[axis + 2] = (start..start + window.output[axis]).into();
        }
        let wanted = [&found[..2], &*window.output].concat();
        if wanted != found {
            out = B::float_slice(out, &slices);
        }
        out
    }
}

/// MaxPool and AveragePool over one or two spatial axes.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::exec) struct Pool {
    pub window: Window,
    pub average: bool,
    pub counted: Counted,
}

/// Which places of a window an average is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) enum Counted {
    Elements,
    /// With the declared padding.
    Padded,
    /// All of them, so that the window's area times the average is the sum.
    All,
}

impl Pool {
    pub fn run(&self, x: Value, device: &DispatchDevice) -> Value {
        let from = dims(&x);
        let window = &self.window;
        let output = [&from[..2], &*window.output].concat();
        // One spatial axis is a plane of height 1.
        if window.kernel.len() == 1 {
            let plane = Pool {
                window: Window {
                    kernel: vec![1, window.kernel[0]],
                    stride: vec![1, window.stride[0]],
                    dilation: vec![1, window.dilation[0]],
                    pad_begin: vec![0, window.pad_begin[0]],
                    pad_end: vec![0, window.pad_end[0]],
                    output: vec![1, window.output[0]],
                },
                ..self.clone()
            };
            let x = reshape(x, &[from[0], from[1], 1, from[2]]);
            return reshape(plane.run(x, device), &output);
        }
        let sizes = [from[2], from[3]];
        let area = (window.kernel[0] * window.kernel[1]) as f32;
        let factors = self.average.then(|| {
            let corrections = match self.counted {
                Counted::All => vec![1.0; window.output[0] * window.output[1]],
                _ => self.corrections(sizes),
            };
            corrections
                .into_iter()
                .map(|factor| factor / area)
                .collect()
        });
        if let Some(out) = kernels::pool(&x, window, factors) {
            return out;
        }
        let even = (0..2).all(|axis| {
            window.pad_begin[axis] == window.pad_end[axis]
                && window.overhang(axis, sizes[axis]) == 0
        });
        let (kernel, stride) = (array(&window.kernel), array(&window.stride));
        let padding: [usize; 2] = array(&window.pad_begin);
        let dilation = array(&window.dilation);
        if even && self.average {
            return B::avg_pool2d(
                x,
                kernel,
                stride,
                padding,
                self.counted != Counted::Elements,
                false,
            );
        }
        if even {
            return B::max_pool2d(x, kernel, stride, padding, dilation, false);
        }
        let pads: Vec<(usize, usize)> = [(0, 0), (0, 0)]
            .into_iter()
            .chain((0..2).map(|axis| {
                let end = window.pad_end[axis] + window.overhang(axis, sizes[axis]);
                (window.pad_begin[axis], end)
            }))
            .collect();
        if self.average {
            let padded = B::float_pad(x, &pads, PadMode::Constant(0.0));
            let mean = B::avg_pool2d(padded, kernel, stride, [0, 0], true, false);
            if self.counted == Counted::All {
                return mean;
            }
            let correction = from_host(
                &[1, 1, window.output[0], window.output[1]],
                self.corrections(sizes),
                device,
            );
            return B::float_mul(mean, correction);
        }
        let padded = B::float_pad(x, &pads, PadMode::Constant(f32::MIN));
        B::max_pool2d(padded, kernel, stride, [0, 0], dilation, false)
    }

    /// For each output position: window size ÷ number of elements that count there.
    fn corrections(&self, sizes: [usize; 2]) -> Vec<f32> {
        let counted = |axis: usize, position: usize| {
            let window = &self.window;
            let begin = window.pad_begin[axis];
            let start = position * window.stride[axis];
            let (low, high) = match self.counted {
                Counted::Elements => (begin, begin + sizes[axis]),
                _ => (0, begin + sizes[axis] + window.pad_end[axis]),
            };
            (0..window.kernel[axis])
                .map(|k| start + k)
                .filter(|place| (low..high).contains(place))
                .count()
        };
        let area = (self.window.kernel[0] * self.window.kernel[1]) as f32;
        let mut corrections = Vec::new();
        for row in 0..self.window.output[0] {
            for column in 0..self.window.output[1] {
                corrections.push(area / (counted(0, row) * counted(1, column)).max(1) as f32);
            }
        }
        corrections
    }
}

/// GlobalAveragePool and GlobalMaxPool: `[batch, channels, …]` to `[batch, channels, 1, …]`.
pub(in crate::exec) fn global_pool(x: Value, average: bool) -> Value {
    if average && let Some(mean) = kernels::global_average(&x) {
        return mean;
    }
    let from = dims(&x);
    let rank = x.shape().num_dims();
    let area = from[2..].iter().product();
    let flat = reshape(x, &[from[0], from[1], area]);
    let pooled = match average {
        true => B::float_mean_dim(flat, 2),
        false => B::float_max_dim(flat, 2),
    };
    let mut to = vec![1; rank];
    to[..2].copy_from_slice(&from[..2]);
    reshape(pooled, &to)
}

/// LpPool: the `order`-norm of each window; padding counts as zeros.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::exec) struct LpPool {
    /// Averages over all places of the windows.
    pub pool: Pool,
    pub order: f32,
}

impl LpPool {
    pub fn run(&self, x: Value, device: &DispatchDevice) -> Value {
        let area = self.pool.window.kernel.iter().product::<usize>() as f32;
        let powers = power(B::float_abs(x), self.order);
        let sums = B::float_mul_scalar(self.pool.run(powers, device), area.into());
        power(sums, 1.0 / self.order)
    }
}

/// GlobalLpPool: `[batch, channels, …]` to `[batch, channels, 1, …]`.
pub(in crate::exec) fn global_lp_pool(x: Value, order: f32) -> Value {
    let axes: Vec<usize> = (2..x.shape().num_dims()).collect();
    power(sum_keep(power(B::float_abs(x), order), &axes), 1.0 / order)
}
