//! Matrix products.

use burn::backend::Dispatch;
use burn::backend::TensorMetadata;
use burn::backend::ops::{FloatTensorOps, ModuleOps};

use crate::exec::kernels;
use crate::exec::ops::normalization::clipped;
use crate::exec::value::{Value, dims, expand, reshape, with_rank};

type B = Dispatch;

/// MatMul (ONNX, NumPy's rules): matrices in the last two axes, the others broadcast.
pub(in crate::exec) fn matmul(a: Value, b: Value, output: &[usize]) -> Value {
    let (a_dims, b_dims) = (dims(&a), dims(&b));
    let a = if a_dims.len() == 1 {
        reshape(a, &[1, a_dims[0]])
    } else {
        a
    };
    let b = if b_dims.len() == 1 {
        reshape(b, &[b_dims[0], 1])
    } else {
        b
    };
    let (a_dims, b_dims) = (dims(&a), dims(&b));
    let inner = a_dims[a_dims.len() - 1];
    if b_dims.len() == 2 {
        // One matrix for the whole batch: a single tall product.
        let rows = a_dims[..a_dims.len() - 1].iter().product();
        let product = multiplied(reshape(a, &[rows, inner]), b);
        return reshape(product, output);
    }
    let rank = a_dims.len().max(b_dims.len());
    let (a, b) = (with_rank(a, rank), with_rank(b, rank));
    let (mut a_dims, mut b_dims) = (dims(&a), dims(&b));
    for axis in 0..rank - 2 {
        let size = a_dims[axis].max(b_dims[axis]);
        (a_dims[axis], b_dims[axis]) = (size, size);
    }
    reshape(multiplied(expand(a, &a_dims), expand(b, &b_dims)), output)
}

/// Matrices in the last two axes; the others are alike.
pub(in crate::exec) fn multiplied(a: Value, b: Value) -> Value {
    shifted_product(a, b, None)
}

/// `a · b`, and on it a number for each column.
pub(in crate::exec) fn shifted_product(a: Value, b: Value, bias: Option<Value>) -> Value {
    if let Some(out) = kernels::product(&a, &b, [false, false], bias.as_ref(), None) {
        return out;
    }
    let out = B::float_matmul(a, b);
    match bias {
        Some(bias) => {
            let mut shape = vec![1; dims(&out).len()];
            *shape.last_mut().expect("matrices have two axes") = dims(&bias)[0];
            B::float_add(out, reshape(bias, &shape))
        }
        None => out,
    }
}

/// Gemm: `alpha · A′ · B′ + beta · C`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::exec) struct Gemm {
    pub alpha: f32,
    pub beta: f32,
    pub turn_a: bool,
    pub turn_b: bool,
    /// What the result is brought into.
    pub clip: Option<[f32; 2]>,
}

impl Gemm {
    pub fn run(self, a: Value, b: Value, c: Option<Value>) -> Value {
        if self.alpha == 1.0 {
            let turned = [self.turn_a, self.turn_b];
            let columns = dims(&b)[usize::from(!self.turn_b)];
            let bias = match &c {
                Some(c) if self.beta == 1.0 && dims(c) == [columns] => Some(c),
                _ => None,
            };
            if bias.is_some() == c.is_some()
                && let Some(out) = kernels::product(&a, &b, turned, bias, self.clip)
            {
                return out;
            }
        }
        let a = if self.turn_a {
            B::float_swap_dims(a, 0, 1)
        } else {
            a
        };
        let b = if self.turn_b {
            B::float_swap_dims(b, 0, 1)
        } else {
            b
        };
        let clip = self.clip;
        let plain_bias = c.as_ref().is_none_or(|c| c.shape().num_dims() == 1);
        if self.alpha == 1.0 && self.beta == 1.0 && plain_bias {
            return clipped(B::linear(a, b, c), clip);
        }
        let scale = |value: Value, by: f32| match by {
            1.0 => value,
            _ => B::float_mul_scalar(value, by.into()),
        };
        let product = scale(B::float_matmul(a, b), self.alpha);
        let out = match c {
            None => product,
            Some(c) => B::float_add(product, with_rank(scale(c, self.beta), 2)),
        };
        clipped(out, clip)
    }
}
