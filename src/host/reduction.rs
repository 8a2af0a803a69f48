//! Reduce operators and running sums and products.

use super::array::{Array, Data, is_int};
use super::call::{Call, Outcome, around, strides};
use super::movement::{one_int, room, ruled, steps, walk};
use crate::graph::params::{self, RuleError, normalize_axis};
use crate::onnx::dtype_name;
use crate::onnx::proto::data_type;

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    let rule: fn(&Call) -> Outcome = match call.operator() {
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1"
        | "ReduceL2" | "ReduceSumSquare" | "ReduceLogSum" | "ReduceLogSumExp" => reduce,
        "CumSum" | "CumProd" => cumulate,
        _ => return None,
    };
    Some(ruled(call, rule))
}

/// How two elements become one; NaN spreads.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Fold {
    Add,
    Multiply,
    Max,
    Min,
}

impl Fold {
    pub(super) fn float(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Add => a + b,
            Self::Multiply => a * b,
            Self::Max if a.is_nan() || a > b => a,
            Self::Min if a.is_nan() || a < b => a,
            Self::Max | Self::Min => b,
        }
    }

    /// Of elements of type `kind`, which wraps later.
    pub(super) fn int(self, kind: i32, a: i64, b: i64) -> i64 {
        match self {
            Self::Add => a.wrapping_add(b),
            Self::Multiply => a.wrapping_mul(b),
            Self::Max if kind == data_type::UINT64 => (a as u64).max(b as u64) as i64,
            Self::Min if kind == data_type::UINT64 => (a as u64).min(b as u64) as i64,
            Self::Max => a.max(b),
            Self::Min => a.min(b),
        }
    }

    /// What folding nothing gives.
    fn float_start(self) -> f64 {
        match self {
            Self::Add => 0.0,
            Self::Multiply => 1.0,
            Self::Max => f64::NEG_INFINITY,
            Self::Min => f64::INFINITY,
        }
    }

    /// What folding nothing gives in the type `kind`.
    fn int_start(self, kind: i32) -> i64 {
        match self {
            Self::Add => 0,
            Self::Multiply => 1,
            Self::Max => int_range(kind).0,
            Self::Min => int_range(kind).1,
        }
    }
}

/// The first and the last element of the integer type `kind`, or of bool.
fn int_range(kind: i32) -> (i64, i64) {
    use data_type::*;
    let (bits, signed) = match kind {
        BOOL => (1, false),
        UINT2 => (2, false),
        INT2 => (2, true),
        UINT4 => (4, false),
        INT4 => (4, true),
        UINT8 => (8, false),
        INT8 => (8, true),
        UINT16 => (16, false),
        INT16 => (16, true),
        UINT32 => (32, false),
        INT32 => (32, true),
        // By its bits.
        UINT64 => return (0, -1),
        _ => (64, true),
    };
    if signed {
        (i64::MIN >> (64 - bits), i64::MAX >> (64 - bits))
    } else {
        (0, (1 << bits) - 1)
    }
}

/// The groups of elements that a Reduce operator makes one of.
struct Groups {
    /// The group of each element of the input.
    of: Vec<usize>,
    /// Number of groups.
    count: usize,
    /// Number of elements of each.
    size: usize,
    /// Shape of the result.
    dims: Vec<usize>,
}

impl Groups {
    fn of(call: &Call, input: &Array) -> Result<Self, RuleError> {
        let reduction = call.params(|inputs| params::reduction(call.node, inputs))?;
        let gone = |axis: usize| reduction.axes.contains(&axis);
        let rank = input.dims.len();
        let kept: Vec<usize> = (0..rank)
            .map(|axis| if gone(axis) { 1 } else { input.dims[axis] })
            .collect();
        let count = room(call, &kept)?;
        let of = if input.is_empty() {
            Vec::new()
        } else {
            let offsets: Vec<_> = strides(&kept)
                .into_iter()
                .enumerate()
                .map(|(axis, stride)| steps(input.dims[axis], if gone(axis) { 0 } else { stride }))
                .collect();
            walk(&offsets)
        };
        let sizes = (0..rank)
            .filter(|&axis| gone(axis))
            .map(|axis| input.dims[axis]);
        Ok(Self {
            of,
            count,
            size: sizes.product(),
            dims: (0..rank)
                .filter(|&axis| reduction.keep_dims || !gone(axis))
                .map(|axis| kept[axis])
                .collect(),
        })
    }

    /// All elements of each group together, after `start`.
    fn fold<T: Copy, A: Copy>(
        &self,
        values: &[T],
        start: A,
        join: impl Fn(A, T, usize) -> A,
    ) -> Vec<A> {
        let mut out = vec![start; self.count];
        for (&group, &value) in self.of.iter().zip(values) {
            out[group] = join(out[group], value, group);
        }
        out
    }

    fn fold_floats(&self, values: &[f64], fold: Fold, change: impl Fn(f64) -> f64) -> Vec<f64> {
        self.fold(values, fold.float_start(), |sum, value, _| {
            fold.float(sum, change(value))
        })
    }
}

/// All Reduce operators.
fn reduce(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let groups = Groups::of(call, input)?;
    let data = match &input.data {
        Data::Float(values) => Data::Float(reduce_floats(call.operator(), &groups, values)?),
        Data::Int(_) => Data::Int(reduce_ints(call.operator(), &groups, input)?),
        Data::Text(_) => return Err(RuleError::new("reduces strings, which is not supported")),
    };
    Ok(vec![input.with(groups.dims, data)])
}

fn reduce_floats(operator: &str, groups: &Groups, values: &[f64]) -> Result<Vec<f64>, RuleError> {
    let folded = |fold, change: fn(f64) -> f64| groups.fold_floats(values, fold, change);
    let each = |mut sums: Vec<f64>, finish: &dyn Fn(f64) -> f64| {
        sums.iter_mut().for_each(|sum| *sum = finish(*sum));
        sums
    };
    let same: fn(f64) -> f64 = |value| value;
    let square: fn(f64) -> f64 = |value| value * value;
    Ok(match operator {
        "ReduceSum" => folded(Fold::Add, same),
        "ReduceMean" => each(folded(Fold::Add, same), &|sum| sum / groups.size as f64),
        "ReduceMax" => folded(Fold::Max, same),
        "ReduceMin" => folded(Fold::Min, same),
        "ReduceProd" => folded(Fold::Multiply, same),
        "ReduceL1" => folded(Fold::Add, f64::abs),
        "ReduceL2" => each(folded(Fold::Add, square), &f64::sqrt),
        "ReduceSumSquare" => folded(Fold::Add, square),
        "ReduceLogSum" => each(folded(Fold::Add, same), &f64::ln),
        "ReduceLogSumExp" => {
            // Less the largest, so that no exponential overflows.
            let shifts = each(folded(Fold::Max, same), &|most| {
                if most.is_finite() { most } else { 0.0 }
            });
            let sums = groups.fold(values, 0.0, |sum, value, group| {
                sum + (value - shifts[group]).exp()
            });
            let both = sums.iter().zip(&shifts);
            both.map(|(sum, shift)| sum.ln() + shift).collect()
        }
        other => return Err(RuleError::new(format!("is no known reduction {other}"))),
    })
}

fn reduce_ints(operator: &str, groups: &Groups, input: &Array) -> Result<Vec<i64>, RuleError> {
    let (kind, values) = (input.data_type, input.ints()?);
    let folded = |fold: Fold, change: fn(i64) -> i64| {
        groups.fold(values, fold.int_start(kind), |sum, value, _| {
            fold.int(kind, sum, change(value))
        })
    };
    let extreme = matches!(operator, "ReduceMax" | "ReduceMin");
    if !is_int(kind) && !extreme {
        return Err(RuleError::new(format!(
            "reduces elements of type {}, which is not supported",
            dtype_name(kind)
        )));
    }
    let unsigned = kind == data_type::UINT64;
    Ok(match operator {
        "ReduceSum" => folded(Fold::Add, |value| value),
        "ReduceMax" => folded(Fold::Max, |value| value),
        "ReduceMin" => folded(Fold::Min, |value| value),
        "ReduceProd" => folded(Fold::Multiply, |value| value),
        "ReduceL1" if unsigned => folded(Fold::Add, |value| value),
        "ReduceL1" => folded(Fold::Add, i64::wrapping_abs),
        "ReduceSumSquare" => folded(Fold::Add, |value| value.wrapping_mul(value)),
        "ReduceMean" => {
            let size = groups.size as i128;
            if size == 0 && groups.count > 0 {
                return Err(RuleError::new("takes the mean of no integers"));
            }
            let sums = groups.fold(values, 0i128, |sum, value, _| {
                sum + if unsigned {
                    i128::from(value as u64)
                } else {
                    i128::from(value)
                }
            });
            sums.into_iter().map(|sum| (sum / size) as i64).collect()
        }
        _ => {
            let (least, most) = int_range(kind);
            let cut = |value: f64| match unsigned {
                true => value as u64 as i64,
                false => (value as i64).clamp(least, most),
            };
            let values = reduce_floats(operator, groups, &input.numbers()?)?;
            values.into_iter().map(cut).collect()
        }
    })
}

/// CumSum and CumProd.
fn cumulate(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let axis = normalize_axis(one_int(call.input(1)?, "axis")?, input.dims.len())?;
    room(call, &input.dims)?;
    let along = around(&input.dims, axis);
    let set = |name: &str| call.node.int(name).unwrap_or(0) != 0;
    let order = (set("reverse"), set("exclusive"));
    let fold = match call.operator() {
        "CumSum" => Fold::Add,
        _ => Fold::Multiply,
    };
    let kind = input.data_type;
    let data = match &input.data {
        Data::Float(values) => {
            let join = |a, b| fold.float(a, b);
            Data::Float(running(values, along, order, fold.float_start(), join))
        }
        _ => {
            let join = |a, b| fold.int(kind, a, b);
            let start = fold.int_start(kind);
            Data::Int(running(input.ints()?, along, order, start, join))
        }
    };
    Ok(vec![input.with(input.dims.clone(), data)])
}

/// For each element, all up to it along the middle axis together; from the end when `reverse`,
/// without itself when `exclusive`.
fn running<T: Copy>(
    values: &[T],
    [before, size, after]: [usize; 3],
    (reverse, exclusive): (bool, bool),
    start: T,
    join: impl Fn(T, T) -> T,
) -> Vec<T> {
    let mut out = values.to_vec();
    for outer in 0..before {
        for inner in 0..after {
            let mut sum = start;
            for step in 0..size {
                let index = if reverse { size - 1 - step } else { step };
                let place = (outer * size + index) * after + inner;
                let next = join(sum, values[place]);
                out[place] = if exclusive { sum } else { next };
                sum = next;
            }
        }
    }
    out
}
