//! RNN, GRU and LSTM with the default activations.

use burn::backend::Dispatch;
use burn::backend::DispatchDevice;
use burn::backend::ops::{ActivationOps, FloatTensorOps};

use super::shape::{slice, split};
use crate::exec::value::{Value, dims, full, reshape};
use crate::graph::params::{RuleError, check_shape};
use crate::graph::{Known, Slicing};
use crate::onnx::proto::NodeProto;

type B = Dispatch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Rnn,
    /// `linear_before_reset`.
    Gru {
        linear: bool,
    },
    Lstm,
}

/// RNN (Elman), GRU (Cho et al., 2014) and LSTM (Hochreiter and Schmidhuber, 1997) as ONNX defines them.
#[derive(Debug, Clone)]
pub(in crate::exec) struct Recurrent {
    cell: Cell,
    /// By direction: whether it reads from the end.
    reversed: Vec<bool>,
    batch_first: bool,
    hidden: usize,
}

impl Recurrent {
    pub fn of(node: &NodeProto, inputs: &[Option<&Known>]) -> Result<Self, RuleError> {
        let there = |index: usize| inputs.get(index).copied().flatten();
        if there(4).is_some() {
            return Err(RuleError::new(
                "has sequence lengths, which devices don't follow",
            ));
        }
        if there(7).is_some() {
            return Err(RuleError::new("has peepholes, which devices don't have"));
        }
        if node.float("clip").is_some() || node.int("input_forget").unwrap_or(0) != 0 {
            return Err(RuleError::new(
                "clips or couples its gates, which devices don't",
            ));
        }
        let (cell, gates): (_, &[&str]) = match node.operator() {
            "RNN" => (Cell::Rnn, &["tanh"]),
            "GRU" => {
                let linear = node.int("linear_before_reset").unwrap_or(0) == 1;
                (Cell::Gru { linear }, &["sigmoid", "tanh"])
            }
            _ => (Cell::Lstm, &["sigmoid", "tanh", "tanh"]),
        };
        let reversed = match node.text("direction").unwrap_or("forward") {
            "forward" => vec![false],
            "reverse" => vec![true],
            "bidirectional" => vec![false, true],
            other => return Err(RuleError::new(format!("has the direction `{other}`"))),
        };
        if let Some(named) = node.attribute("activations") {
            let default = gates.iter().cycle().take(gates.len() * reversed.len());
            let given = named.strings.iter().map(|name| name.to_ascii_lowercase());
            if given.ne(default.map(|name| name.as_bytes().to_vec())) {
                return Err(RuleError::new(
                    "has activations of its own, which devices don't",
                ));
            }
        }
        let recurrence = there(2).ok_or_else(|| RuleError::new("has no input 2"))?;
        let [directions, _, hidden] = recurrence.dims[..] else {
            return Err(RuleError::new("has a recurrence weight that is no cube"));
        };
        if directions != reversed.len() {
            return Err(RuleError::new(format!(
                "has weights of {directions} directions"
            )));
        }
        let batch_first = node.int("layout").unwrap_or(0) == 1;
        let gates = hidden
            * match cell {
                Cell::Rnn => 1,
                Cell::Gru { .. } => 3,
                Cell::Lstm => 4,
            };
        let (Some(x), Some(w)) = (there(0), there(1)) else {
            return Err(RuleError::new("needs three inputs"));
        };
        let [time, batch, width] = x.dims[..] else {
            return Err(RuleError::new("has an input that is no cube"));
        };
        let batch = if batch_first { time } else { batch };
        if x.dims.contains(&0) || hidden == 0 {
            return Err(RuleError::new("reads nothing, which devices don't"));
        }
        check_shape("a weight", &w.dims, &[directions, gates, width])?;
        check_shape(
            "a recurrence weight",
            &recurrence.dims,
            &[directions, gates, hidden],
        )?;
        if let Some(bias) = there(3) {
            check_shape("a bias", &bias.dims, &[directions, 2 * gates])?;
        }
        let state = match batch_first {
            true => [batch, directions, hidden],
            false => [directions, batch, hidden],
        };
        for known in [5, 6].into_iter().filter_map(there) {
            check_shape("a first state", &known.dims, &state)?;
        }
        Ok(Self {
            cell,
            reversed,
            batch_first,
            hidden,
        })
    }

    /// `x` is `[time, batch, input]`, the weights `[directions, gates · hidden, …]`; `more` are the
    /// bias and the initial states. Gives Y, Y_h and Y_c.
    pub fn run(
        &self,
        x: Value,
        w: Value,
        r: Value,
        more: [Option<Value>; 3],
        device: &DispatchDevice,
    ) -> Vec<Value> {
        let x = match self.batch_first {
            true => B::float_swap_dims(x, 0, 1),
            false => x,
        };
        let shape = dims(&x);
        let (time, batch, hidden) = (shape[0], shape[1], self.hidden);
        let directions = self.reversed.len();
        let [bias, first_h, first_c] = more;
        let state = |given: &Option<Value>, direction: usize| match given {
            None => full(&[batch, hidden], 0.0, device),
            Some(value) => {
                let value = match self.batch_first {
                    true => B::float_swap_dims(value.clone(), 0, 1),
                    false => value.clone(),
                };
                reshape(part(value, direction, device), &[batch, hidden])
            }
        };
        let (mut all, mut last_h, mut last_c) = (Vec::new(), Vec::new(), Vec::new());
        for (direction, &reversed) in self.reversed.iter().enumerate() {
            let weight = matrix(part(w.clone(), direction, device));
            let recurrence = matrix(part(r.clone(), direction, device));
            let gates = dims(&weight)[0];
            let bias = bias.clone().map(|bias| {
                let halves = reshape(part(bias, direction, device), &[2, gates]);
                let mut halves = split(halves, 0, &[1, 1]).into_iter();
                let mut next = || halves.next().expect("two halves");
                (next(), next())
            });
            // What the input gives is one product for all steps.
            let flat = reshape(x.clone(), &[time * batch, shape[2]]);
            let mut given = B::float_matmul(flat, B::float_swap_dims(weight, 0, 1));
            if let Some((own, _)) = &bias {
                given = B::float_add(given, own.clone());
            }
            let given = reshape(given, &[time, batch, gates]);
            let turned = B::float_swap_dims(recurrence, 0, 1);
            let mut h = state(&first_h, direction);
            let mut c = state(&first_c, direction);
            let mut outputs = Vec::with_capacity(time);
            for step in 0..time {
                let place = if reversed { time - 1 - step } else { step };
                let input = reshape(part(given.clone(), place, device), &[batch, gates]);
                let shift = bias.as_ref().map(|(_, shift)| shift.clone());
                (h, c) = self.step(input, h, c, turned.clone(), shift);
                outputs.push(reshape(h.clone(), &[1, 1, batch, hidden]));
            }
            if reversed {
                outputs.reverse();
            }
            all.push(B::float_cat(outputs, 0));
            last_h.push(reshape(h, &[1, batch, hidden]));
            last_c.push(reshape(c, &[1, batch, hidden]));
        }
        let join = |mut parts: Vec<Value>, axis: usize| match parts.len() {
            1 => parts.remove(0),
            _ => B::float_cat(parts, axis),
        };
        // `[time, directions, batch, hidden]`, the last states `[directions, batch, hidden]`.
        let y = join(all, 1);
        let (h, c) = (join(last_h, 0), join(last_c, 0));
        debug_assert_eq!(dims(&y), [time, directions, batch, hidden]);
        match self.batch_first {
            true => vec![
                B::float_permute(y, &[2, 0, 1, 3]),
                B::float_swap_dims(h, 0, 1),
                B::float_swap_dims(c, 0, 1),
            ],
            false => vec![y, h, c],
        }
    }

    /// One step; `input` holds what the input gives to all gates, its bias included.
    fn step(
        &self,
        input: Value,
        h: Value,
        c: Value,
        recurrence: Value,
        bias: Option<Value>,
    ) -> (Value, Value) {
        let biased = |value: Value, bias: Option<Value>| match bias {
            Some(bias) => B::float_add(value, bias),
            None => value,
        };
        let parts = |value: Value, count: usize| split(value, 1, &vec![self.hidden; count]);
        match self.cell {
            Cell::Rnn => {
                let sum = B::float_add(input, biased(B::float_matmul(h, recurrence), bias));
                (B::float_tanh(sum), c)
            }
            Cell::Lstm => {
                let sum = B::float_add(input, biased(B::float_matmul(h, recurrence), bias));
                let mut gates = parts(sum, 4).into_iter();
                let mut next = || gates.next().expect("four gates");
                let (i, o, f, g) = (next(), next(), next(), next());
                let kept = B::float_mul(B::sigmoid(f), c);
                let c = B::float_add(kept, B::float_mul(B::sigmoid(i), B::float_tanh(g)));
                let h = B::float_mul(B::sigmoid(o), B::float_tanh(c.clone()));
                (h, c)
            }
            Cell::Gru { linear } => {
                let mut from_x = parts(input, 3).into_iter();
                let mut weights = parts(recurrence, 3).into_iter();
                let mut biases = bias.map(|bias| parts(bias, 3).into_iter());
                let mut gate = || {
                    (
                        from_x.next().expect("three gates"),
                        weights.next().expect("three gates"),
                        biases.as_mut().and_then(Iterator::next),
                    )
                };
                let (zx, zr, zb) = gate();
                let (rx, rr, rb) = gate();
                let (nx, nr, nb) = gate();
                let open = |x: Value, r: Value, b: Option<Value>| {
                    B::sigmoid(B::float_add(x, biased(B::float_matmul(h.clone(), r), b)))
                };
                let z = open(zx, zr, zb);
                let reset = open(rx, rr, rb);
                let own = match linear {
                    true => B::float_mul(reset, biased(B::float_matmul(h.clone(), nr), nb)),
                    false => biased(B::float_matmul(B::float_mul(reset, h.clone()), nr), nb),
                };
                let fresh = B::float_tanh(B::float_add(nx, own));
                // (1 − z) · fresh + z · h
                let h = B::float_add(
                    fresh.clone(),
                    B::float_mul(z, B::float_sub(h.clone(), fresh)),
                );
                (h, c)
            }
        }
    }
}

/// The slice at `place` of the first axis, which stays with size 1.
fn part(value: Value, place: usize, device: &DispatchDevice) -> Value {
    let ranges = dims(&value)
        .iter()
        .enumerate()
        .map(|(axis, &size)| {
            if axis == 0 {
                (place, 1, 1)
            } else {
                (0, 1, size)
            }
        })
        .collect();
    slice(value, &Slicing { ranges }, device)
}

/// A value of shape `[1, rows, columns]` as a matrix.
fn matrix(value: Value) -> Value {
    let shape = dims(&value);
    reshape(value, &shape[1..])
}
