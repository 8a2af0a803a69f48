//! Bringing elements into the order of their axes, which views of turned tensors are not in.

use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;
use rayon::prelude::*;

use super::arch::Arch;
use super::{Kernel, copy, dims, is_walkable, run, tensor, written};
use crate::exec::value::Value;

/// The value in another shape, its elements in order; `None` on devices that keep Burn's own.
pub(in crate::exec) fn reshape(value: &Value, to: &[usize]) -> Option<Value> {
    Some(run(&Reshape { to: to.to_vec() }, [value])?.0)
}

#[derive(Debug, Clone)]
struct Reshape {
    to: Vec<usize>,
}

impl Kernel<1> for Reshape {
    /// The shape that it was.
    type Kept = Vec<usize>;

    fn accepts(&self, _: &FlexTensor) -> bool {
        true
    }

    fn forward(&self, [input]: [FlexTensor; 1]) -> (FlexTensor, Vec<usize>) {
        let shape = Shape::from(self.to.clone());
        (arranged(&input).reshape(shape), dims(&input))
    }

    fn backward(
        &self,
        from: Vec<usize>,
        gradient: FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        [Some(gradient.reshape(Shape::from(from)))]
    }
}

/// Elements that one thread copies at a time.
const TASK: usize = 16384;

/// The tensor with its elements in order.
pub(super) fn arranged(input: &FlexTensor) -> FlexTensor {
    let shape = dims(input);
    let len: usize = shape.iter().product();
    let layout = input.layout();
    if input.is_contiguous() || len < TASK || !is_walkable(input) || shape.len() < 2 {
        return input.to_contiguous();
    }
    let strides: Vec<usize> = layout.strides().iter().map(|&s| s.unsigned_abs()).collect();
    let (outer, [rows, columns]) = shape.split_last_chunk::<2>().expect("there are two axes");
    let (steps, &[down, right]) = strides.split_last_chunk::<2>().expect("there are two axes");
    let source = &input.storage::<f32>()[layout.start_offset()..];
    let start_of = |mut item: usize| {
        let mut start = 0;
        for (size, step) in outer.iter().zip(steps).rev() {
            start += item % size * step;
            item /= size;
        }
        start
    };
    let arch = Arch::new();
    // Whole rows, so many that a task is worth it.
    let height = (TASK / columns).clamp(1, *rows);
    let strips = rows.div_ceil(height);
    let out = written(len, |out| {
        out.par_chunks_mut(rows * columns)
            .enumerate()
            .flat_map(|(item, out)| {
                let parts = out.par_chunks_mut(height * columns).enumerate();
                parts.map(move |(strip, out)| (item * strips + strip, out))
            })
            .for_each(|(task, out)| {
                let start = start_of(task / strips) + task % strips * height * down;
                arch.run(
                    #[inline(always)]
                    || copy_matrix(&source[start..], down, right, *columns, out),
                );
            });
    });
    tensor(out, &shape)
}

/// `out[row, column] = source[row · down + column · right]`
#[inline(always)]
fn copy_matrix(source: &[f32], down: usize, right: usize, columns: usize, out: &mut [f32]) {
    if right == 1 {
        for (row, out) in out.chunks_exact_mut(columns).enumerate() {
            copy(out, &source[row * down..]);
        }
        return;
    }
    // In squares, so that what is read and what is written stays in the cache.
    const SIDE: usize = 16;
    for (top, out) in out.chunks_mut(SIDE * columns).enumerate() {
        for left in (0..columns).step_by(SIDE) {
            let width = SIDE.min(columns - left);
            for (row, out) in out.chunks_exact_mut(columns).enumerate() {
                let source = source[(top * SIDE + row) * down + left * right..].iter();
                let target = out[left..left + width].iter_mut();
                target.zip(source.step_by(right)).for_each(|(t, s)| *t = *s);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plain;
    use super::*;

    #[test]
    fn broadcast_axes_are_filled() {
        let column: Vec<f32> = (0..200).map(|index| index as f32).collect();
        let column = super::super::value(tensor(column, &[200, 1]));
        let wide = crate::exec::value::expand(column, &[200, 200]);
        let found = arranged(plain(&wide).expect("a tensor of the processor"));
        let rows = super::super::elements(&found).chunks_exact(200);
        for (row, elements) in rows.enumerate() {
            assert!(elements.iter().all(|&element| element == row as f32));
        }
        let one = super::super::value(tensor(vec![0.5], &[1, 1]));
        let halves = crate::exec::value::expand(one, &[200, 200]);
        let product = super::super::product(&wide, &halves, [false, false], None, None);
        let product = crate::exec::value::to_host(product.expect("a product"));
        assert_eq!(product[3 * 200 + 7], 300.0);
    }

    #[test]
    fn views_come_into_the_order_that_burn_gives_them() {
        // Large enough for threads; sizes that no square or task divides.
        let shape = [3, 37, 5, 41];
        let elements: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|index| index as f32)
            .collect();
        let whole = tensor(elements, &shape);
        for order in [[0, 2, 1, 3], [3, 2, 1, 0], [0, 1, 3, 2], [2, 0, 3, 1]] {
            let view = whole.permute(&order);
            let (found, wanted) = (arranged(&view), view.to_contiguous());
            assert!(found.is_contiguous());
            assert_eq!(
                super::super::elements(&found),
                super::super::elements(&wanted)
            );
        }
    }
}
