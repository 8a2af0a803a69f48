//! Rows by index, and the gradient that adds up what rows were read more than once.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::{Kernel, add, dims, elements, run, tensor, written};
use crate::exec::value::Value;

/// Rows of the first axis.
#[derive(Debug, Clone)]
struct Gather {
    rows: Vec<usize>,
}

/// The rows `rows` of the first axis, in their order. `None` on devices that keep Burn's own.
pub(in crate::exec) fn gather(x: &Value, rows: &[usize]) -> Option<Value> {
    let rows = rows.to_vec();
    Some(run(&Gather { rows }, [x])?.0)
}

impl Kernel<1> for Gather {
    /// Shape of the input.
    type Kept = Vec<usize>;

    fn forward(&self, [x]: [FlexTensor; 1]) -> (FlexTensor, Vec<usize>) {
        let shape = dims(&x);
        let width = shape[1..].iter().product::<usize>();
        let source = elements(&x);
        let out = written(self.rows.len() * width, |out| {
            let rows = out.chunks_exact_mut(width.max(1)).zip(&self.rows);
            rows.for_each(|(out, row)| out.copy_from_slice(&source[row * width..][..width]));
        });
        let mut result = shape.clone();
        result[0] = self.rows.len();
        (tensor(out, &result), shape)
    }

    fn backward(
        &self,
        shape: Vec<usize>,
        gradient: FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let width = shape[1..].iter().product::<usize>();
        let gradient = elements(&gradient);
        // Each thread looks after a stretch of the rows, so that sums are made in one order.
        let at_once = shape[0].div_ceil(16).max(1);
        let out = written(shape[0] * width, |out| {
            out.par_chunks_mut((at_once * width).max(1))
                .enumerate()
                .for_each(|(part, out)| {
                    out.fill(0.0);
                    let own = part * at_once..(part + 1) * at_once;
                    let read = self.rows.iter().zip(gradient.chunks_exact(width.max(1)));
                    for (row, gradient) in read.filter(|(row, _)| own.contains(row)) {
                        let target = &mut out[(row - own.start) * width..][..width];
                        add(target, gradient);
                    }
                });
        });
        [Some(tensor(out, &shape))]
    }
}
