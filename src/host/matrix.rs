//! Products of matrices: MatMul, Gemm, Einsum and the determinant.

mod einsum;

use super::array::{Array, Data};
use super::call::{Call, Outcome, broadcast_indices};
use crate::graph::params::{RuleError, broadcast, checked_elements};
use crate::onnx::proto::data_type;

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    let operator = match call.operator() {
        "MatMul" => matmul,
        "Gemm" => gemm,
        "Einsum" => einsum::einsum,
        "Det" => det,
        _ => return None,
    };
    let result = bounded(call).and_then(|()| operator(call));
    Some(result.map(|array| vec![array]))
}

/// Refuses an empty input whose other sizes multiply to more than any tensor has: past this check
/// the product of any part of a shape is a small number.
pub(super) fn bounded(call: &Call) -> Result<(), RuleError> {
    call.inputs.iter().flatten().try_for_each(|input| {
        let sizes: Vec<usize> = input.dims.iter().map(|&size| size.max(1)).collect();
        checked_elements(&sizes).map(drop)
    })
}

/// The arithmetic of both kinds of elements: float64, and integers that wrap.
pub(super) trait Number: Copy + Default {
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
}

impl Number for f64 {
    fn plus(self, other: Self) -> Self {
        self + other
    }

    fn times(self, other: Self) -> Self {
        self * other
    }
}

impl Number for i64 {
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    fn times(self, other: Self) -> Self {
        self.wrapping_mul(other)
    }
}

/// Rows of the right matrix that stay in the cache while every row of the left one passes.
const INNER_BLOCK: usize = 64;

/// Adds the product of `a`, `[rows, inner]`, and `b`, `[inner, columns]`, to `out`, `[rows, columns]`.
pub(super) fn multiply<T: Number>(a: &[T], b: &[T], out: &mut [T], inner: usize, columns: usize) {
    if inner == 0 || columns == 0 {
        return;
    }
    if columns == 1 {
        for (row, sum) in a.chunks_exact(inner).zip(out) {
            *sum = row
                .iter()
                .zip(b)
                .fold(*sum, |sum, (&x, &y)| sum.plus(x.times(y)));
        }
        return;
    }
    for start in (0..inner).step_by(INNER_BLOCK) {
        let end = inner.min(start + INNER_BLOCK);
        let lines = &b[start * columns..end * columns];
        for (row, sums) in a.chunks_exact(inner).zip(out.chunks_exact_mut(columns)) {
            for (&factor, line) in row[start..end].iter().zip(lines.chunks_exact(columns)) {
                for (sum, &value) in sums.iter_mut().zip(line) {
                    *sum = sum.plus(factor.times(value));
                }
            }
        }
    }
}

/// The transpose of `values`, `[rows, columns]`.
pub(super) fn transposed<T: Copy>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| values[row * columns + column]))
        .collect()
}

fn unequal(a: &Array, b: &Array) -> RuleError {
    RuleError::new(format!(
        "multiplies {} with {}",
        crate::onnx::dtype_name(a.data_type),
        crate::onnx::dtype_name(b.data_type)
    ))
}

/// ONNX MatMul, by NumPy's rules: a vector on either side is a matrix whose extra axis goes away again.
fn matmul(call: &Call) -> Result<Array, RuleError> {
    let (a, b) = (call.input(0)?, call.input(1)?);
    let mismatch = || RuleError::new(format!("can't multiply {:?} with {:?}", a.dims, b.dims));
    let (left, [rows, inner]) = match *a.dims {
        [] => return Err(mismatch()),
        [inner] => (&[][..], [1, inner]),
        [ref batch @ .., rows, inner] => (batch, [rows, inner]),
    };
    let (right, [other, columns]) = match *b.dims {
        [] => return Err(mismatch()),
        [inner] => (&[][..], [inner, 1]),
        [ref batch @ .., inner, columns] => (batch, [inner, columns]),
    };
    if inner != other {
        return Err(mismatch());
    }
    let batch = call.broadcast(&[left, right])?;
    let sizes = [rows, inner, columns];
    let mut dims = batch.clone();
    dims.extend((a.dims.len() > 1).then_some(rows));
    dims.extend((b.dims.len() > 1).then_some(columns));
    let count = call.count(&dims)?;
    let pairs: Vec<(usize, usize)> = broadcast_indices(left, &batch)
        .into_iter()
        .zip(broadcast_indices(right, &batch))
        .collect();
    let data = match (&a.data, &b.data) {
        (Data::Float(a), Data::Float(b)) => Data::Float(products(a, b, &pairs, sizes, count)),
        (Data::Int(a), Data::Int(b)) => Data::Int(products(a, b, &pairs, sizes, count)),
        _ => return Err(unequal(a, b)),
    };
    Ok(a.with(dims, data))
}

/// The products of pairs of matrices out of two stacks, one after the other.
fn products<T: Number>(
    a: &[T],
    b: &[T],
    pairs: &[(usize, usize)],
    [rows, inner, columns]: [usize; 3],
    count: usize,
) -> Vec<T> {
    let mut out = vec![T::default(); count];
    let size = rows * columns;
    if count == 0 {
        return out;
    }
    for (&(left, right), out) in pairs.iter().zip(out.chunks_exact_mut(size)) {
        let a = &a[left * rows * inner..][..rows * inner];
        let b = &b[right * inner * columns..][..inner * columns];
        multiply(a, b, out, inner, columns);
    }
    out
}

/// ONNX Gemm: `alpha A' B' + beta C`, with `C` broadcast to the product.
fn gemm(call: &Call) -> Result<Array, RuleError> {
    let (a, b, c) = (call.input(0)?, call.input(1)?, call.optional(2));
    let (&[a_rows, a_columns], &[b_rows, b_columns]) = (&*a.dims, &*b.dims) else {
        return Err(RuleError::new(format!(
            "multiplies {:?} with {:?}, needs matrices",
            a.dims, b.dims
        )));
    };
    let flag = |name: &str| call.node.int(name).unwrap_or(0) != 0;
    let (flip_a, flip_b) = (flag("transA"), flag("transB"));
    let turned = |flip, rows, columns| {
        if flip {
            (columns, rows)
        } else {
            (rows, columns)
        }
    };
    let (rows, inner) = turned(flip_a, a_rows, a_columns);
    let (other, columns) = turned(flip_b, b_rows, b_columns);
    if inner != other {
        return Err(RuleError::new(format!(
            "can't multiply {:?} with {:?}",
            a.dims, b.dims
        )));
    }
    let dims = vec![rows, columns];
    let count = call.count(&dims)?;
    let addend = match c {
        Some(c) => {
            if broadcast(&c.dims, &dims)? != dims {
                return Err(RuleError::new(format!(
                    "adds {:?} to a product of {dims:?}",
                    c.dims
                )));
            }
            Some((c, broadcast_indices(&c.dims, &dims)))
        }
        None => None,
    };
    let factor = |name: &str| f64::from(call.node.float(name).unwrap_or(1.0));
    let (alpha, beta) = (factor("alpha"), factor("beta"));
    let data = match (&a.data, &b.data) {
        (Data::Float(x), Data::Float(y)) => {
            let x = oriented(x, &a.dims, flip_a);
            let y = oriented(y, &b.dims, flip_b);
            let mut out = vec![0.0; count];
            multiply(&x, &y, &mut out, inner, columns);
            out.iter_mut().for_each(|value| *value *= alpha);
            if let Some((c, places)) = addend.filter(|_| beta != 0.0) {
                let c = c.floats()?;
                for (value, place) in out.iter_mut().zip(places) {
                    *value += beta * c[place];
                }
            }
            Data::Float(out)
        }
        (Data::Int(x), Data::Int(y)) => {
            let x = oriented(x, &a.dims, flip_a);
            let y = oriented(y, &b.dims, flip_b);
            let mut out = vec![0; count];
            multiply(&x, &y, &mut out, inner, columns);
            let scale = scaling(a.data_type);
            out.iter_mut()
                .for_each(|value| *value = scale(*value, alpha));
            if let Some((c, places)) = addend.filter(|_| beta != 0.0) {
                let c = c.ints()?;
                for (value, place) in out.iter_mut().zip(places) {
                    *value = value.wrapping_add(scale(c[place], beta));
                }
            }
            Data::Int(out)
        }
        _ => return Err(unequal(a, b)),
    };
    Ok(a.with(dims, data))
}

/// The matrix, transposed where `flip` says so.
fn oriented<'a, T: Copy>(values: &'a [T], dims: &[usize], flip: bool) -> std::borrow::Cow<'a, [T]> {
    if flip {
        transposed(values, dims[0], dims[1]).into()
    } else {
        values.into()
    }
}

/// How an integer is multiplied by Gemm's `alpha` or `beta`; fractions are cut off.
fn scaling(kind: i32) -> fn(i64, f64) -> i64 {
    if kind == data_type::UINT64 {
        |value, factor| match factor {
            1.0 => value,
            factor => (value as u64 as f64 * factor) as u64 as i64,
        }
    } else {
        |value, factor| match factor {
            1.0 => value,
            factor => (value as f64 * factor) as i64,
        }
    }
}

/// ONNX Det: the determinant of each matrix in a stack.
fn det(call: &Call) -> Result<Array, RuleError> {
    let x = call.input(0)?;
    let [batch @ .., rows, columns] = &*x.dims else {
        return Err(RuleError::new(format!(
            "takes the determinant of {:?}",
            x.dims
        )));
    };
    if rows != columns {
        return Err(RuleError::new(format!(
            "takes the determinant of a matrix of {rows} × {columns}"
        )));
    }
    let (size, values) = (*rows, x.floats()?);
    let count = call.count(batch)?;
    let out = match size {
        0 => vec![1.0; count],
        _ => values
            .chunks_exact(size * size)
            .map(|matrix| determinant(matrix.to_vec(), size))
            .collect(),
    };
    Ok(x.with(batch.to_vec(), Data::Float(out)))
}

/// By elimination with the largest pivot of each column.
fn determinant(mut matrix: Vec<f64>, size: usize) -> f64 {
    let mut product = 1.0;
    for step in 0..size {
        let pivot = (step..size)
            .max_by(|&i, &j| {
                let value = |row: usize| matrix[row * size + step].abs();
                value(i).total_cmp(&value(j))
            })
            .unwrap_or(step);
        if pivot != step {
            for column in step..size {
                matrix.swap(step * size + column, pivot * size + column);
            }
            product = -product;
        }
        let (upper, lower) = matrix.split_at_mut((step + 1) * size);
        let head = &upper[step * size + step..];
        product *= head[0];
        if head[0] == 0.0 {
            return 0.0;
        }
        for row in lower.chunks_exact_mut(size) {
            let row = &mut row[step..];
            let factor = row[0] / head[0];
            for (value, &above) in row.iter_mut().zip(head) {
                *value -= factor * above;
            }
        }
    }
    product
}
