//! One application of an operator: its node and the tensors that go in.

use std::sync::Arc;

use super::{Array, Data};
use crate::graph::Known;
use crate::graph::params::{RuleError, broadcast};
use crate::onnx::proto::NodeProto;

/// What every operator of this room gives.
pub type Outcome = Result<Vec<Array>, RuleError>;

/// One application of an operator.
pub struct Call<'a> {
    pub node: &'a NodeProto,
    /// Version of the operator set of the node's domain.
    pub opset: i64,
    /// `None` for an input that is left out.
    pub inputs: &'a [Option<Arc<Array>>],
    /// The most elements that any result may have.
    pub most: usize,
}

impl<'a> Call<'a> {
    pub fn operator(&self) -> &'a str {
        self.node.operator()
    }

    /// The input at `index`, which the operator can't do without.
    pub fn input(&self, index: usize) -> Result<&'a Array, RuleError> {
        self.optional(index)
            .ok_or_else(|| RuleError::new(format!("has no input {index}")))
    }

    pub fn optional(&self, index: usize) -> Option<&'a Array> {
        self.inputs.get(index)?.as_deref()
    }

    /// Number of outputs that the node names.
    pub fn outputs(&self) -> usize {
        self.node.output.len()
    }

    /// Whether the node names its output `index`.
    pub fn wants(&self, index: usize) -> bool {
        self.node.output.get(index).is_some_and(|n| !n.is_empty())
    }

    /// A rule of [`crate::graph::params`] over the inputs.
    pub fn params<T>(
        &self,
        rule: impl FnOnce(&[Option<&Known>]) -> Result<T, RuleError>,
    ) -> Result<T, RuleError> {
        let known: Vec<Option<Known>> = self
            .inputs
            .iter()
            .map(|input| input.clone().map(Known::of))
            .collect();
        let refs: Vec<Option<&Known>> = known.iter().map(Option::as_ref).collect();
        rule(&refs)
    }

    /// Number of elements of a result of shape `dims`, refused when it would be too many. To be
    /// asked before anything is allocated whose size an attribute or an input decides.
    pub fn count(&self, dims: &[usize]) -> Result<usize, RuleError> {
        dims.iter()
            // A zero beside huge sizes leaves nothing, but would overflow the strides.
            .try_fold(1usize, |product, &size| product.checked_mul(size.max(1)))
            .filter(|&count| count <= self.most || dims.contains(&0))
            .map(|_| dims.iter().product())
            .ok_or_else(|| RuleError::too_large(dims))
    }

    /// The shape to which all these shapes broadcast.
    pub fn broadcast(&self, shapes: &[&[usize]]) -> Result<Vec<usize>, RuleError> {
        let mut out = Vec::new();
        for dims in shapes {
            out = broadcast(&out, dims)?;
        }
        self.count(&out)?;
        Ok(out)
    }

    /// An error about this call.
    pub fn unsupported(&self, what: impl std::fmt::Display) -> RuleError {
        RuleError::new(format!("{what}, which is not supported"))
    }
}

/// For each element of the shape `to`, in order, the flat index of the element of the shape `from`
/// that stands there after broadcasting.
pub fn broadcast_indices(from: &[usize], to: &[usize]) -> Vec<usize> {
    let strides = broadcast_strides(from, to);
    let count = to.iter().product();
    let mut out = Vec::with_capacity(count);
    let mut place = vec![0usize; to.len()];
    let mut index = 0;
    for _ in 0..count {
        out.push(index);
        for axis in (0..to.len()).rev() {
            place[axis] += 1;
            index += strides[axis];
            if place[axis] < to[axis] {
                break;
            }
            index -= strides[axis] * to[axis];
            place[axis] = 0;
        }
    }
    out
}

/// The step through a tensor of shape `from` along each axis of the shape `to`; 0 where it repeats.
pub fn broadcast_strides(from: &[usize], to: &[usize]) -> Vec<usize> {
    let own = strides(from);
    let lead = to.len() - from.len();
    (0..to.len())
        .map(|axis| match axis.checked_sub(lead) {
            Some(mine) if from[mine] != 1 => own[mine],
            _ => 0,
        })
        .collect()
}

/// Row-major strides.
pub fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; dims.len()];
    for axis in (1..dims.len()).rev() {
        strides[axis - 1] = strides[axis] * dims[axis];
    }
    strides
}

/// `dims` as `[before, axis, after]`, the products of the sizes around `axis`.
pub fn around(dims: &[usize], axis: usize) -> [usize; 3] {
    [
        dims[..axis].iter().product(),
        dims[axis],
        dims[axis + 1..].iter().product(),
    ]
}

/// Tensors of one type and, but for `axis`, one shape, joined along `axis`.
pub(crate) fn join(parts: &[Array], axis: usize) -> Result<Array, RuleError> {
    let first = parts
        .first()
        .ok_or_else(|| RuleError::new("joins nothing"))?;
    let mut dims = first.dims.clone();
    dims[axis] = parts.iter().map(|part| part.dims[axis]).sum();
    let inner: usize = dims[axis + 1..].iter().product();
    let outer: usize = dims[..axis].iter().product();
    fn blocks<T: Clone>(parts: &[(&[T], usize)], outer: usize) -> Vec<T> {
        let mut out = Vec::new();
        for index in 0..outer {
            for (elements, width) in parts {
                out.extend_from_slice(&elements[index * width..(index + 1) * width]);
            }
        }
        out
    }
    let width = |part: &Array| part.dims[axis] * inner;
    let data = match &first.data {
        Data::Float(_) => {
            let all: Vec<_> = parts
                .iter()
                .map(|part| Ok((part.floats()?, width(part))))
                .collect::<Result<_, RuleError>>()?;
            Data::Float(blocks(&all, outer))
        }
        Data::Int(_) => {
            let all: Vec<_> = parts
                .iter()
                .map(|part| Ok((part.ints()?, width(part))))
                .collect::<Result<_, RuleError>>()?;
            Data::Int(blocks(&all, outer))
        }
        Data::Text(_) => {
            let all: Vec<_> = parts
                .iter()
                .map(|part| Ok((part.texts()?, width(part))))
                .collect::<Result<_, RuleError>>()?;
            Data::Text(blocks(&all, outer))
        }
    };
    Ok(Array {
        data_type: first.data_type,
        dims,
        data,
    })
}

/// The slice at `place` of `axis`, without the axis.
pub(crate) fn section(array: &Array, axis: usize, place: usize) -> Array {
    let [outer, size, inner] = around(&array.dims, axis);
    fn pick<T: Clone>(elements: &[T], [outer, size, inner]: [usize; 3], place: usize) -> Vec<T> {
        let mut out = Vec::with_capacity(outer * inner);
        for block in 0..outer {
            let start = (block * size + place) * inner;
            out.extend_from_slice(&elements[start..start + inner]);
        }
        out
    }
    let shape = [outer, size, inner];
    let mut dims = array.dims.clone();
    dims.remove(axis);
    Array {
        data_type: array.data_type,
        dims,
        data: match &array.data {
            Data::Float(elements) => Data::Float(pick(elements, shape, place)),
            Data::Int(elements) => Data::Int(pick(elements, shape, place)),
            Data::Text(elements) => Data::Text(pick(elements, shape, place)),
        },
    }
}
