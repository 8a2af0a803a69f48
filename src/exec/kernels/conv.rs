//! Convolution as matrix products: the input's windows are laid out as columns
//! `[batch, channels · kernel, positions]`, and the kernel is a matrix
//! `[outputs, channels · kernel]`.
//!
//! - forward: `Y = W · columns(X)`
//! - by the weights: `Σ over the batch of dY · columns(X)ᵀ`
//! - by the input: `columns⁻¹(Wᵀ · dY)`, each column's elements added back to where they came from
//!
//! (Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document
//! Processing", 2006.)

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::Shape as Dims;
use rayon::prelude::*;

use super::{Shape, elements, tensor};

impl Shape {
    fn positions(&self) -> usize {
        self.output[0] * self.output[1]
    }

    fn inner(&self) -> usize {
        self.channels[0] * self.kernel[0] * self.kernel[1]
    }

    /// Whether the columns are the input itself.
    fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.input == self.output
    }

    /// For one kernel column: the output columns whose input column exists.
    fn valid(&self, axis: usize, tap: usize) -> std::ops::Range<usize> {
        let offset = tap * self.dilation[axis];
        let (pad, stride) = (self.pad[axis], self.stride[axis]);
        let first = pad.saturating_sub(offset).div_ceil(stride);
        let reach = self.input[axis] + pad;
        let last = reach.saturating_sub(offset).div_ceil(stride);
        first.min(self.output[axis])..last.min(self.output[axis])
    }

    /// Calls `visit(row of the columns, output row, input row start, …)` for each kernel tap and
    /// output row of one image that has input below it.
    fn for_each_row(
        &self,
        mut visit: impl FnMut(usize, usize, usize, std::ops::Range<usize>, usize),
    ) {
        let [kernel_height, kernel_width] = self.kernel;
        for channel in 0..self.channels[0] {
            for tap_y in 0..kernel_height {
                let rows = self.valid(0, tap_y);
                for tap_x in 0..kernel_width {
                    let row = (channel * kernel_height + tap_y) * kernel_width + tap_x;
                    let columns = self.valid(1, tap_x);
                    if columns.is_empty() {
                        continue;
                    }
                    let first_x =
                        columns.start * self.stride[1] + tap_x * self.dilation[1] - self.pad[1];
                    for y in rows.clone() {
                        let input_y = y * self.stride[0] + tap_y * self.dilation[0] - self.pad[0];
                        let start = (channel * self.input[0] + input_y) * self.input[1] + first_x;
                        visit(row, y, start, columns.clone(), self.stride[1]);
                    }
                }
            }
        }
    }
}

fn columns(shape: &Shape, x: &FlexTensor) -> FlexTensor {
    let (inner, positions) = (shape.inner(), shape.positions());
    let dims = [shape.batch, inner, positions];
    let x = x.to_contiguous();
    if shape.is_pointwise() {
        return x.reshape(Dims::from(dims.to_vec()));
    }
    let image = shape.channels[0] * shape.input[0] * shape.input[1];
    let x = elements(&x);
    let width = shape.output[1];
    let mut out = vec![0f32; shape.batch * inner * positions];
    out.par_chunks_mut(inner * positions)
        .zip(x.par_chunks(image))
        .for_each(|(out, x)| {
            shape.for_each_row(|row, y, start, columns, stride| {
                let place = row * positions + y * width;
                let target = &mut out[place + columns.start..place + columns.end];
                if stride == 1 {
                    target.copy_from_slice(&x[start..start + target.len()]);
                } else {
                    let source = x[start..].iter().step_by(stride);
                    target.iter_mut().zip(source).for_each(|(t, s)| *t = *s);
                }
            });
        });
    tensor(out, &dims)
}

fn add_back(shape: &Shape, columns: &FlexTensor) -> FlexTensor {
    let [height, width] = shape.input;
    let dims = [shape.batch, shape.channels[0], height, width];
    let columns = columns.to_contiguous();
    if shape.is_pointwise() {
        return columns.reshape(Dims::from(dims.to_vec()));
    }
    let (inner, positions) = (shape.inner(), shape.positions());
    let image = shape.channels[0] * height * width;
    let columns = elements(&columns);
    let output_width = shape.output[1];
    let mut out = vec![0f32; shape.batch * image];
    out.par_chunks_mut(image)
        .zip(columns.par_chunks(inner * positions))
        .for_each(|(out, columns)| {
            shape.for_each_row(|row, y, start, valid, stride| {
                let place = row * positions + y * output_width;
                let source = &columns[place + valid.start..place + valid.end];
                if stride == 1 {
                    let target = &mut out[start..start + source.len()];
                    target.iter_mut().zip(source).for_each(|(t, s)| *t += *s);
                } else {
                    let target = out[start..].iter_mut().step_by(stride);
                    target.zip(source).for_each(|(t, s)| *t += *s);
                }
            });
        });
    tensor(out, &dims)
}

/// The kernel as a matrix for the whole batch.
fn matrix(shape: &Shape, w: &FlexTensor) -> FlexTensor {
    w.to_contiguous()
        .reshape(Dims::from(vec![1, shape.channels[1], shape.inner()]))
}

pub(super) fn forward(shape: &Shape, x: &FlexTensor, w: &FlexTensor) -> FlexTensor {
    let product = Flex::float_matmul(matrix(shape, w), columns(shape, x));
    let [height, width] = shape.output;
    product.reshape(Dims::from(vec![
        shape.batch,
        shape.channels[1],
        height,
        width,
    ]))
}

fn by_position(shape: &Shape, gradient: &FlexTensor) -> FlexTensor {
    gradient.reshape(Dims::from(vec![
        shape.batch,
        shape.channels[1],
        shape.positions(),
    ]))
}

pub(super) fn input_gradient(shape: &Shape, w: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
    let turned = matrix(shape, w).transpose(1, 2);
    add_back(
        shape,
        &Flex::float_matmul(turned, by_position(shape, gradient)),
    )
}

pub(super) fn weight_gradient(shape: &Shape, x: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
    let turned = columns(shape, x).transpose(1, 2);
    let each = Flex::float_matmul(by_position(shape, gradient), turned);
    let sum = Flex::float_sum_dim(each, 0);
    sum.to_contiguous().reshape(Dims::from(vec![
        shape.channels[1],
        shape.channels[0],
        shape.kernel[0],
        shape.kernel[1],
    ]))
}
