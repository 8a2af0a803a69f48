//! Matrix products.

use burn::backend::Dispatch;
use burn::backend::TensorMetadata;
use burn::backend::ops::{FloatTensorOps, ModuleOps};

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
        let product = B::float_matmul(reshape(a, &[rows, inner]), b);
        return reshape(product, output);
    }
    let rank = a_dims.len().max(b_dims.len());
    let (a, b) = (with_rank(a, rank), with_rank(b, rank));
    let (mut a_dims, mut b_dims) = (dims(&a), dims(&b));
    for axis in 0..rank - 2 {
        let size = a_dims[axis].max(b_dims[axis]);
        (a_dims[axis], b_dims[axis]) = (size, size);
    }
    reshape(
        B::float_matmul(expand(a, &a_dims), expand(b, &b_dims)),
        output,
    )
}

/// Gemm: `alpha · A′ · B′ + beta · C`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::exec) struct Gemm {
    pub alpha: f32,
    pub beta: f32,
    pub turn_a: bool,
    pub turn_b: bool,
}

impl Gemm {
    pub fn run(self, a: Value, b: Value, c: Option<Value>) -> Value {
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
        let plain_bias = c.as_ref().is_none_or(|c| c.shape().num_dims() == 1);
        if self.alpha == 1.0 && self.beta == 1.0 && plain_bias {
            return B::linear(a, b, c);
        }
        let scale = |value: Value, by: f32| match by {
            1.0 => value,
            _ => B::float_mul_scalar(value, by.into()),
        };
        let product = scale(B::float_matmul(a, b), self.alpha);
        match c {
            None => product,
            Some(c) => B::float_add(product, with_rank(scale(c, self.beta), 2)),
        }
    }
}
