//! Broadcasting over several tensors at once, a run of elements at a time.

use crate::host::call::broadcast_strides;

/// Calls `row(starts, steps, length)` for each run of a result of shape `dims`, in order: from
/// `starts[k]` on, tensor `k` of shape `shapes[k]` gives the elements of the run, one after the other
/// where `steps[k]` is 1, the same one where it is 0. Axes along which all tensors go on alike are one
/// run.
pub(in crate::host) fn each_row<const N: usize>(
    dims: &[usize],
    shapes: [&[usize]; N],
    mut row: impl FnMut([usize; N], [usize; N], usize),
) {
    if dims.contains(&0) {
        return;
    }
    let axes = merged_axes(dims, shapes);
    let Some((&(length, steps), outer)) = axes.split_last() else {
        return row([0; N], [0; N], 1);
    };
    let mut place = vec![0usize; outer.len()];
    let mut starts = [0; N];
    loop {
        row(starts, steps, length);
        let mut axis = outer.len();
        loop {
            let Some(next) = axis.checked_sub(1) else {
                return;
            };
            axis = next;
            let (size, strides) = outer[axis];
            place[axis] += 1;
            if place[axis] < size {
                (0..N).for_each(|k| starts[k] += strides[k]);
                break;
            }
            (0..N).for_each(|k| starts[k] -= strides[k] * (size - 1));
            place[axis] = 0;
        }
    }
}

/// The axes of `dims` as sizes and strides, without those of size 1, neighbours made one where every
/// tensor allows it.
fn merged_axes<const N: usize>(dims: &[usize], shapes: [&[usize]; N]) -> Vec<(usize, [usize; N])> {
    let strides = shapes.map(|shape| broadcast_strides(shape, dims));
    let mut axes: Vec<(usize, [usize; N])> = Vec::with_capacity(dims.len());
    for (axis, &size) in dims.iter().enumerate() {
        if size == 1 {
            continue;
        }
        let own: [usize; N] = std::array::from_fn(|k| strides[k][axis]);
        match axes.last_mut() {
            Some((before, outer)) if (0..N).all(|k| outer[k] == own[k] * size) => {
                *before *= size;
                *outer = own;
            }
            _ => axes.push((size, own)),
        }
    }
    axes
}

/// `f` of the elements of `a` and `b`, broadcast to `dims`.
pub(in crate::host) fn zip<A: Copy, B: Copy, R>(
    dims: &[usize],
    (a, a_dims): (&[A], &[usize]),
    (b, b_dims): (&[B], &[usize]),
    f: impl Fn(A, B) -> R,
) -> Vec<R> {
    let mut out = Vec::with_capacity(dims.iter().product());
    each_row(
        dims,
        [a_dims, b_dims],
        |[i, j], steps, length| match steps {
            [1, 1] => {
                let pairs = a[i..i + length].iter().zip(&b[j..j + length]);
                out.extend(pairs.map(|(&a, &b)| f(a, b)));
            }
            [1, _] => out.extend(a[i..i + length].iter().map(|&a| f(a, b[j]))),
            [_, 1] => out.extend(b[j..j + length].iter().map(|&b| f(a[i], b))),
            _ => out.extend((0..length).map(|_| f(a[i], b[j]))),
        },
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_visit_every_element_of_a_broadcast_in_order() {
        let a: Vec<usize> = (0..6).collect();
        let b = [10, 20];
        let sums = zip(&[2, 2, 3], (&a, &[2, 1, 3]), (&b, &[2, 1]), |a, b| a + b);
        assert_eq!(sums, [10, 11, 12, 20, 21, 22, 13, 14, 15, 23, 24, 25]);
        assert_eq!(zip(&[], (&[1], &[]), (&[2], &[]), |a, b| a + b), [3]);
        assert!(zip(&[0], (&[1], &[1]), (&[], &[0]), |a: i32, b: i32| a + b).is_empty());
    }
}
