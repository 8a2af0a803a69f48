//! Operators whose results are elements of their inputs, put elsewhere.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::backend::DispatchDevice;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::IndexingUpdateOp;

use crate::exec::operand::{Operand, plain};
use crate::exec::ops::elementwise::Binary;
use crate::exec::value::{Value, bool_type, dims, from_host, indices, reshape, to_host};
use crate::graph::params::{RuleError, check_shape};
use crate::graph::{Known, normalize_axis};
use crate::host::{self, Array};
use crate::onnx::proto::{NodeProto, data_type};

type B = Dispatch;

/// Where each element comes from, counted from 1, and the shape of the result.
pub(in crate::exec) type Moves = (Vec<i64>, Vec<usize>);

/// For every element of the result of a node that moves elements, the flat index of its source in
/// the first input, counted from 1; 0 where it is filled with zero. `None` while the other inputs are
/// not known.
///
/// The host's operator tells by moving the numbers of the elements instead of the elements.
pub(in crate::exec) fn index_map(
    node: &NodeProto,
    opset: i64,
    inputs: &[Option<&Known>],
) -> Result<Option<Moves>, RuleError> {
    let Some(x) = inputs.first().copied().flatten() else {
        return Err(RuleError::new("has no input 0"));
    };
    let mut arrays = vec![Some(Arc::new(numbered(&x.dims)))];
    for known in &inputs[1..] {
        arrays.push(match known {
            None => None,
            Some(known) => match &known.value {
                Some(value) => Some(value.clone()),
                None => return Ok(None),
            },
        });
    }
    let outcome = host::run(node, opset, &arrays)?;
    let moved = outcome
        .first()
        .ok_or_else(|| RuleError::new("gives nothing"))?;
    Ok(Some((moved.ints()?.to_vec(), moved.dims.clone())))
}

/// 1, 2, 3, … in the shape `dims`.
fn numbered(dims: &[usize]) -> Array {
    let count = dims.iter().product::<usize>() as i64;
    Array::int64(dims.to_vec(), (1..=count).collect())
}

/// The elements of `x` at these flat indices, counted from 1; 0 stands for zero.
pub(crate) fn pick(x: Value, sources: &[i64], output: &[usize], device: &DispatchDevice) -> Value {
    let count = dims(&x).iter().product();
    let flat = reshape(x, &[count]);
    let (flat, shift) = match sources.contains(&0) {
        true => (
            B::float_cat(vec![from_host(&[1], vec![0.0], device), flat], 0),
            0,
        ),
        false => (flat, 1),
    };
    let places: Vec<usize> = sources
        .iter()
        .map(|&source| (source - shift) as usize)
        .collect();
    reshape(B::float_select(flat, 0, indices(&places, device)), output)
}

/// The most updates of one element that are folded into it one after the other.
const MOST_ROUNDS: usize = 4096;

/// ScatterElements and ScatterND: `updates` at the places that the indices name.
#[derive(Debug, Clone)]
pub(in crate::exec) struct Scatter {
    /// Gathers the places that updates go to.
    gather: NodeProto,
    opset: i64,
    dims: Vec<usize>,
    /// Shape of the indices.
    indices: Vec<usize>,
    reduction: Reduction,
}

/// What an update does to the element that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reduction {
    Replace,
    Add,
    /// With one after the other: times it, or the larger or smaller of both.
    Fold(Binary),
}

impl Scatter {
    pub fn of(
        node: &NodeProto,
        opset: i64,
        x: &[usize],
        indices: &[usize],
        updates: &[usize],
    ) -> Result<Self, RuleError> {
        let wanted = match (node.operator(), indices.split_last()) {
            ("ScatterND", Some((&depth, before))) if depth <= x.len() => {
                [before, &x[depth..]].concat()
            }
            ("ScatterND", _) => return Err(RuleError::new("has indices that don't fit")),
            _ => indices.to_vec(),
        };
        check_shape("updates", updates, &wanted)?;
        let reduction = match node.text("reduction").unwrap_or("none") {
            "none" => Reduction::Replace,
            "add" => Reduction::Add,
            "mul" => Reduction::Fold(Binary::Mul),
            "max" => Reduction::Fold(Binary::Max),
            "min" => Reduction::Fold(Binary::Min),
            other => {
                return Err(RuleError::new(format!(
                    "reduces by `{other}`, which devices don't"
                )));
            }
        };
        let mut gather = node.clone();
        let operator = match node.operator() {
            "ScatterND" => "GatherND",
            _ => "GatherElements",
        };
        gather.op_type = Some(operator.to_owned());
        Ok(Self {
            gather,
            opset: opset.max(13),
            dims: x.to_vec(),
            indices: indices.to_vec(),
            reduction,
        })
    }

    pub fn run(
        &self,
        x: Value,
        wanted: &[i64],
        updates: Value,
        device: &DispatchDevice,
    ) -> Result<Value, RuleError> {
        let numbers = Known::of(Arc::new(numbered(&self.dims)));
        let wanted = Array::int64(self.indices.clone(), wanted.to_vec());
        let wanted = Known::of(Arc::new(wanted));
        let inputs = [Some(&numbers), Some(&wanted)];
        let (places, _) = index_map(&self.gather, self.opset, &inputs)?
            .ok_or_else(|| RuleError::new("has no indices"))?;
        let count: usize = self.dims.iter().product();
        let mut flat = reshape(x, &[count]);
        let mut updates = reshape(updates, &[places.len()]);
        if let Reduction::Fold(operation) = self.reduction {
            let folded = fold_updates(flat, &places, updates, operation, device)?;
            return Ok(reshape(folded, &self.dims));
        }
        if self.reduction == Reduction::Replace {
            // What is written over goes first; of several updates of one element the last stays.
            let mut last = vec![usize::MAX; count];
            for (index, &place) in places.iter().enumerate() {
                last[place as usize - 1] = index;
            }
            let written = last.iter().map(|&index| index != usize::MAX);
            flat = cleared(flat, written, device);
            let loses = places
                .iter()
                .enumerate()
                .map(|(index, &place)| last[place as usize - 1] != index);
            updates = cleared(updates, loses, device);
        }
        let places: Vec<usize> = places.iter().map(|&place| place as usize - 1).collect();
        let places = indices(&places, device);
        let sum = B::float_select_assign(flat, 0, places, updates, IndexingUpdateOp::Add);
        Ok(reshape(sum, &self.dims))
    }
}

/// A value of one axis with zeros where `marks` are set, whatever was there.
fn cleared(value: Value, marks: impl Iterator<Item = bool>, device: &DispatchDevice) -> Value {
    let marks: Vec<f32> = marks.map(|mark| f32::from(u8::from(mark))).collect();
    let marks = from_host(&[marks.len()], marks, device);
    let kind = bool_type(&marks);
    let mask = B::float_greater_elem(marks, 0.5f32.into(), kind);
    B::float_mask_fill(value, mask, 0f32.into())
}

/// `flat` with each of `updates` folded into the element at its place, counted from 1; several of one
/// place in rounds, so that none overwrites another.
fn fold_updates(
    flat: Value,
    places: &[i64],
    updates: Value,
    operation: Binary,
    device: &DispatchDevice,
) -> Result<Value, RuleError> {
    let count = dims(&flat)[0];
    let mut seen = vec![0usize; count];
    let mut rounds: Vec<(Vec<usize>, Vec<usize>)> = Vec::new();
    for (index, &place) in places.iter().enumerate() {
        let place = place as usize - 1;
        let round = seen[place];
        seen[place] += 1;
        if rounds.len() == round {
            rounds.push((Vec::new(), Vec::new()));
        }
        rounds[round].0.push(index);
        rounds[round].1.push(place);
    }
    if rounds.len() > MOST_ROUNDS {
        return Err(RuleError::new(format!(
            "updates an element more than {MOST_ROUNDS} times, which devices don't"
        )));
    }
    Ok(rounds.into_iter().fold(flat, |flat, (taken, places)| {
        let mut written = vec![false; count];
        places.iter().for_each(|&place| written[place] = true);
        let at = || indices(&places, device);
        let old = B::float_select(flat.clone(), 0, at());
        let new = operation.run(
            old,
            B::float_select(updates.clone(), 0, indices(&taken, device)),
        );
        let rest = cleared(flat, written.into_iter(), device);
        B::float_select_assign(rest, 0, at(), new, IndexingUpdateOp::Add)
    }))
}

/// TopK: the host finds the places, the device picks the values, so that gradients reach them.
#[derive(Debug, Clone)]
pub(in crate::exec) struct TopK {
    node: NodeProto,
    opset: i64,
    input: Known,
    axis: usize,
    output: Vec<usize>,
}

impl TopK {
    pub fn of(
        node: &NodeProto,
        opset: i64,
        input: &Known,
        output: &[usize],
    ) -> Result<Self, RuleError> {
        Ok(Self {
            node: node.clone(),
            opset,
            input: Known::shaped(input.data_type, input.dims.clone()),
            axis: normalize_axis(node.int("axis").unwrap_or(-1), input.dims.len())?,
            output: output.to_vec(),
        })
    }

    pub fn run(&self, x: Operand, device: &DispatchDevice) -> Result<Vec<Operand>, RuleError> {
        let x = x.on_device(device);
        let elements = to_host(plain(x.clone()))
            .into_iter()
            .map(f64::from)
            .collect();
        let array = Array::float(data_type::FLOAT, self.input.dims.clone(), elements);
        let count = Array::int64(vec![1], vec![self.output[self.axis] as i64]);
        let inputs = [Some(Arc::new(array)), Some(Arc::new(count))];
        let results = host::run(&self.node, self.opset, &inputs)?;
        let Some(found) = results.into_iter().nth(1) else {
            return Err(RuleError::new("gives no indices"));
        };
        let [_, size, inner] = host::around(&self.input.dims, self.axis);
        let block = self.output[self.axis] * inner;
        let sources: Vec<i64> = found
            .ints()?
            .iter()
            .enumerate()
            .map(|(flat, &place)| {
                let outer = flat / block.max(1) * size;
                ((outer + place as usize) * inner + flat % inner.max(1)) as i64 + 1
            })
            .collect();
        let values = pick(x, &sources, &self.output, device);
        Ok(vec![Operand::Device(values), Operand::Host(found)])
    }
}
