//! The Reduce family.

use burn::backend::Dispatch;
use burn::backend::ops::FloatTensorOps;

use crate::exec::value::{Value, dims, reshape, sum_keep};

type B = Dispatch;

/// Which figure is taken over the axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::exec) enum Reduce {
    Mean,
    Sum,
    Max,
    Min,
    Product,
    L1,
    L2,
    SumSquare,
    LogSum,
    LogSumExp,
}

impl Reduce {
    pub fn of(operator: &str) -> Option<Self> {
        Some(match operator {
            "ReduceMean" => Self::Mean,
            "ReduceSum" => Self::Sum,
            "ReduceMax" => Self::Max,
            "ReduceMin" => Self::Min,
            "ReduceProd" => Self::Product,
            "ReduceL1" => Self::L1,
            "ReduceL2" => Self::L2,
            "ReduceSumSquare" => Self::SumSquare,
            "ReduceLogSum" => Self::LogSum,
            "ReduceLogSumExp" => Self::LogSumExp,
            _ => return None,
        })
    }

    /// Reduces `axes`; the result has the shape `output`.
    pub fn run(self, x: Value, axes: &[usize], output: &[usize]) -> Value {
        let each = |mut value: Value, step: fn(Value, usize) -> Value| {
            for &axis in axes {
                value = step(value, axis);
            }
            value
        };
        let square = |value: Value| B::float_mul(value.clone(), value);
        let reduced = match self {
            Self::Mean => {
                let shape = dims(&x);
                let count: usize = axes.iter().map(|&axis| shape[axis]).product();
                B::float_div_scalar(sum_keep(x, axes), (count.max(1) as f32).into())
            }
            Self::Sum => sum_keep(x, axes),
            Self::Max => each(x, B::float_max_dim),
            Self::Min => each(x, B::float_min_dim),
            Self::Product => each(x, B::float_prod_dim),
            Self::L1 => sum_keep(B::float_abs(x), axes),
            Self::L2 => B::float_sqrt(sum_keep(square(x), axes)),
            Self::SumSquare => sum_keep(square(x), axes),
            Self::LogSum => B::float_log(sum_keep(x, axes)),
            Self::LogSumExp => {
                let highest = B::float_detach(each(x.clone(), B::float_max_dim));
                let lowered = B::float_exp(B::float_sub(x, highest.clone()));
                B::float_add(B::float_log(sum_keep(lowered, axes)), highest)
            }
        };
        reshape(reduced, output)
    }
}

/// CumSum along `axis`; `exclusive` leaves an element out of its own sum, `reverse` sums from the end.
pub(in crate::exec) fn cumulate(x: Value, axis: usize, exclusive: bool, reverse: bool) -> Value {
    let turned = match reverse {
        true => B::float_flip(x, &[axis]),
        false => x,
    };
    let own = exclusive.then(|| turned.clone());
    let mut sums = B::float_cumsum(turned, axis);
    if let Some(own) = own {
        sums = B::float_sub(sums, own);
    }
    match reverse {
        true => B::float_flip(sums, &[axis]),
        false => sums,
    }
}
