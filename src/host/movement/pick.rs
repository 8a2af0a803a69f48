//! Elements by their place: what the operators that move, select or repeat elements share.

use crate::graph::params::RuleError;
use crate::host::array::{Array, Data, is_float, is_int};
use crate::host::call::{Call, Outcome, around, strides};
use crate::onnx::dtype_name;
use crate::onnx::proto::data_type;

/// A place where there is no element.
pub(super) const OUTSIDE: usize = usize::MAX;

/// Most axes of a tensor, as in numpy.
const MOST_AXES: usize = 64;

/// Refuses more axes than rules that look at each pair of them can bear.
pub(super) fn few_axes(rank: usize) -> Result<(), RuleError> {
    if rank <= MOST_AXES {
        return Ok(());
    }
    Err(RuleError::new(format!(
        "has a value of rank {rank}, more than {MOST_AXES}"
    )))
}

/// `rule` applied to `call`, once the shapes of its inputs are known to be safe to reckon with: an
/// empty tensor may claim any sizes beside its zero, whose product overflows.
pub(in crate::host) fn ruled(call: &Call, rule: fn(&Call) -> Outcome) -> Outcome {
    for input in call.inputs.iter().flatten() {
        few_axes(input.dims.len())?;
        nonzero_product(&input.dims)
            .filter(|&count| count <= isize::MAX as usize)
            .ok_or_else(|| RuleError::too_large(&input.dims))?;
    }
    rule(call)
}

fn nonzero_product(dims: &[usize]) -> Option<usize> {
    dims.iter()
        .try_fold(1usize, |product, &size| product.checked_mul(size.max(1)))
}

/// Number of elements of a result of shape `dims`, refused when it would be too many. Sizes beside
/// a zero are refused too when they alone would be too many, so that loops over them stay short.
pub(in crate::host) fn room(call: &Call, dims: &[usize]) -> Result<usize, RuleError> {
    few_axes(dims.len())?;
    nonzero_product(dims)
        .filter(|&count| count <= call.most)
        .ok_or_else(|| RuleError::too_large(dims))?;
    Ok(dims.iter().product())
}

/// The product, refused when it overflows.
pub(super) fn product(sizes: &[usize]) -> Result<usize, RuleError> {
    nonzero_product(sizes).ok_or_else(|| RuleError::too_large(sizes))?;
    Ok(sizes.iter().product())
}

/// The elements as sizes; none may be negative.
pub(in crate::host) fn sizes(array: &Array) -> Result<Vec<usize>, RuleError> {
    array
        .ints()?
        .iter()
        .map(|&size| {
            usize::try_from(size).map_err(|_| RuleError::new(format!("has the size {size}")))
        })
        .collect()
}

/// The only element of an integer tensor.
pub(in crate::host) fn one_int(array: &Array, name: &str) -> Result<i64, RuleError> {
    match array.ints()? {
        [value] => Ok(*value),
        values => Err(RuleError::new(format!(
            "has {} values in `{name}`, needs one",
            values.len()
        ))),
    }
}

/// What is said of an index beyond an axis.
pub(crate) const OUT_OF_RANGE: &str = "out of range for size";

/// An index into an axis of `size` elements, counted from the front.
pub(in crate::host) fn position(index: i64, size: usize) -> Result<usize, RuleError> {
    let from_front = if index < 0 {
        index.saturating_add_unsigned(size as u64)
    } else {
        index
    };
    usize::try_from(from_front)
        .ok()
        .filter(|&place| place < size)
        .ok_or_else(|| RuleError::new(format!("has index {index}, {OUT_OF_RANGE} {size}")))
}

/// Whole numbers as a tensor of type `kind`.
pub(in crate::host) fn of_kind(
    kind: i32,
    dims: Vec<usize>,
    values: Vec<i64>,
) -> Result<Array, RuleError> {
    if is_float(kind) {
        let values = values.into_iter().map(|value| value as f64).collect();
        Ok(Array::float(kind, dims, values))
    } else if is_int(kind) || kind == data_type::BOOL {
        Ok(Array::int(kind, dims, values))
    } else {
        Err(RuleError::new(format!(
            "makes elements of type {}, which is not supported",
            dtype_name(kind)
        )))
    }
}

/// The flat indices of `count` elements, `stride` apart.
pub(in crate::host) fn steps(count: usize, stride: usize) -> Vec<usize> {
    (0..count).map(|index| index * stride).collect()
}

/// All sums of one offset an axis, the last axis fastest: the flat indices of a result whose element
/// at `[i, j, …]` comes from `offsets[0][i] + offsets[1][j] + …`. Where one is [`OUTSIDE`], so is the
/// sum.
pub(in crate::host) fn walk(offsets: &[Vec<usize>]) -> Vec<usize> {
    if offsets.iter().any(Vec::is_empty) {
        return Vec::new();
    }
    offsets.iter().fold(vec![0], |starts, axis| {
        if *axis == [0] {
            return starts;
        }
        let mut out = Vec::with_capacity(starts.len() * axis.len());
        for start in starts {
            out.extend(axis.iter().map(|&offset| start.saturating_add(offset)));
        }
        out
    })
}

/// The elements of `array` at flat indices, as many as `dims` says; zero, or an empty string, where
/// an index is [`OUTSIDE`].
pub(in crate::host) fn take(
    call: &Call,
    array: &Array,
    dims: Vec<usize>,
    indices: &[usize],
) -> Result<Array, RuleError> {
    take_or(call, array, None, dims, indices)
}

/// [`take`], with the only element of `fill` where an index is [`OUTSIDE`].
pub(super) fn take_or(
    call: &Call,
    array: &Array,
    fill: Option<&Array>,
    dims: Vec<usize>,
    indices: &[usize],
) -> Result<Array, RuleError> {
    debug_assert_eq!(dims.iter().product::<usize>(), indices.len());
    let data = match &array.data {
        Data::Float(values) => {
            let fill = fill.map_or(Ok(0.0), |fill| fill.floats().map(first))?;
            Data::Float(pick(values, fill, indices))
        }
        Data::Int(values) => {
            let fill = fill.map_or(Ok(0), |fill| fill.ints().map(first))?;
            Data::Int(pick(values, fill, indices))
        }
        Data::Text(values) => {
            let fill = fill.map_or(Ok(Vec::new()), |fill| fill.texts().map(first))?;
            let lengths = indices
                .iter()
                .map(|&i| values.get(i).unwrap_or(&fill).len());
            fits(call, lengths)?;
            Data::Text(pick(values, fill, indices))
        }
    };
    Ok(Array {
        data_type: array.data_type,
        dims,
        data,
    })
}

fn first<T: Clone + Default>(values: &[T]) -> T {
    values.first().cloned().unwrap_or_default()
}

fn pick<T: Clone>(values: &[T], fill: T, indices: &[usize]) -> Vec<T> {
    indices
        .iter()
        .map(|&index| values.get(index).unwrap_or(&fill).clone())
        .collect()
}

/// Refuses strings that together take more memory than the largest result of numbers may.
pub(super) fn fits(call: &Call, lengths: impl Iterator<Item = usize>) -> Result<(), RuleError> {
    let bytes = lengths.fold(0usize, usize::saturating_add);
    if bytes <= call.most.saturating_mul(size_of::<f64>()) {
        return Ok(());
    }
    Err(RuleError::too_large(&[bytes]))
}

/// The slices of `array` at the places `kept` of `axis`; in the result of shape `dims`, they stand in
/// place of the axis.
pub(in crate::host) fn along(
    call: &Call,
    array: &Array,
    axis: usize,
    kept: &[usize],
    dims: Vec<usize>,
) -> Result<Array, RuleError> {
    room(call, &dims)?;
    let [before, size, after] = around(&array.dims, axis);
    let indices = walk(&[
        steps(before, size * after),
        kept.iter().map(|&place| place * after).collect(),
        steps(after, 1),
    ]);
    take(call, array, dims, &indices)
}

/// The elements of `array`, seen in the shape `dims`, in the order that walks its axes `order` one
/// inside the other.
pub(super) fn permuted(
    call: &Call,
    array: &Array,
    dims: &[usize],
    order: &[usize],
    out: Vec<usize>,
) -> Result<Array, RuleError> {
    room(call, dims)?;
    room(call, &out)?;
    let strides = strides(dims);
    let offsets: Vec<_> = order
        .iter()
        .map(|&axis| steps(dims[axis], strides[axis]))
        .collect();
    take(call, array, out, &walk(&offsets))
}
