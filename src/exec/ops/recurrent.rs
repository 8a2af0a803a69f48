//! RNN, GRU and LSTM.

use burn::backend::Dispatch;
use burn::backend::DispatchDevice;
use burn::backend::ops::FloatTensorOps;

use super::elementwise::Unary;
use super::linear::{multiplied, shifted_product};
use super::shape::{slice, split};
use crate::exec::kernels;
use crate::exec::value::{Value, dims, from_host, full, reshape};
use crate::graph::params::{RuleError, check_shape};
use crate::graph::{Known, Slicing};
use crate::host::{Named, named_activations};
use crate::onnx::proto::NodeProto;

type B = Dispatch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cell {
    Rnn,
    /// `linear_before_reset`.
    Gru {
        linear: bool,
    },
    Lstm {
        /// `input_forget`: what the input gate lets in, the forget gate lets out.
        coupled: bool,
    },
}

/// An activation of a cell.
#[derive(Debug, Clone, Copy)]
enum Activation {
    Plain(Unary),
    /// `alpha · x + beta`.
    Affine {
        alpha: f32,
        beta: f32,
    },
    /// `alpha · tanh(beta · x)`.
    ScaledTanh {
        alpha: f32,
        beta: f32,
    },
}

impl Activation {
    fn of(named: &Named) -> Self {
        let (alpha, beta) = (named.alpha as f32, named.beta as f32);
        Self::Plain(match named.name {
            "affine" => return Self::Affine { alpha, beta },
            "scaledtanh" => return Self::ScaledTanh { alpha, beta },
            "relu" => Unary::Relu,
            "tanh" => Unary::Tanh,
            "softsign" => Unary::Softsign,
            "softplus" => Unary::Softplus,
            "leakyrelu" => Unary::LeakyRelu { alpha },
            "thresholdedrelu" => Unary::ThresholdedRelu { alpha },
            "elu" => Unary::Elu { alpha },
            "hardsigmoid" => Unary::HardSigmoid { alpha, beta },
            _ => Unary::Sigmoid,
        })
    }

    fn run(self, x: Value) -> Value {
        match self {
            Self::Plain(unary) => unary.run(x),
            Self::Affine { alpha, beta } => {
                B::float_add_scalar(B::float_mul_scalar(x, alpha.into()), beta.into())
            }
            Self::ScaledTanh { alpha, beta } => {
                let bent = B::float_tanh(B::float_mul_scalar(x, beta.into()));
                B::float_mul_scalar(bent, alpha.into())
            }
        }
    }
}

/// RNN (Elman), GRU (Cho et al., 2014) and LSTM (Hochreiter and Schmidhuber, 1997; with peepholes,
/// Gers and Schmidhuber, 2000) as ONNX defines them.
#[derive(Debug, Clone)]
pub(in crate::exec) struct Recurrent {
    cell: Cell,
    /// By direction: whether it reads from the end.
    reversed: Vec<bool>,
    /// By direction.
    activations: Vec<Vec<Activation>>,
    /// Gates are cut off at this size before their activation.
    clip: Option<f32>,
    batch_first: bool,
    hidden: usize,
}

/// What one direction computes with at each step.
struct Layer<'a> {
    /// `[hidden, gates · hidden]`.
    recurrence: Value,
    bias: Option<Value>,
    /// Of the input, output and forget gate, `[1, hidden]` each.
    peepholes: Option<[Value; 3]>,
    activations: &'a [Activation],
}

/// The inputs that a node may leave out.
#[derive(Default)]
pub(in crate::exec) struct Optional {
    pub bias: Option<Value>,
    pub first_h: Option<Value>,
    pub first_c: Option<Value>,
    pub peepholes: Option<Value>,
    /// Steps of each example; what comes after is not read.
    pub lengths: Option<Vec<i64>>,
}

impl Recurrent {
    pub fn of(node: &NodeProto, inputs: &[Option<&Known>]) -> Result<Self, RuleError> {
        let there = |index: usize| inputs.get(index).copied().flatten();
        let flag = |name: &str| node.int(name).unwrap_or(0) != 0;
        let (cell, defaults): (_, &[&str]) = match node.operator() {
            "RNN" => (Cell::Rnn, &["Tanh"]),
            "GRU" => {
                let linear = flag("linear_before_reset");
                (Cell::Gru { linear }, &["Sigmoid", "Tanh"])
            }
            _ => {
                let coupled = flag("input_forget");
                (Cell::Lstm { coupled }, &["Sigmoid", "Tanh", "Tanh"])
            }
        };
        let reversed = match node.text("direction").unwrap_or("forward") {
            "forward" => vec![false],
            "reverse" => vec![true],
            "bidirectional" => vec![false, true],
            other => return Err(RuleError::new(format!("has the direction `{other}`"))),
        };
        let named = named_activations(node, defaults, reversed.len())?;
        let activations = named
            .iter()
            .map(|own| own.iter().map(Activation::of).collect())
            .collect();
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
                Cell::Lstm { .. } => 4,
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
        if node
            .float("clip")
            .is_some_and(|clip| clip.is_nan() || clip < 0.0)
        {
            return Err(RuleError::new("clips at no size"));
        }
        if let Some(lengths) = there(4) {
            check_shape("sequence lengths", &lengths.dims, &[batch])?;
        }
        if let Some(peepholes) = there(7) {
            check_shape("peepholes", &peepholes.dims, &[directions, 3 * hidden])?;
        }
        Ok(Self {
            cell,
            reversed,
            activations,
            clip: node.float("clip").filter(|clip| clip.is_finite()),
            batch_first,
            hidden,
        })
    }

    /// `x` is `[time, batch, input]`, the weights `[directions, gates · hidden, …]`. Gives Y, Y_h and
    /// Y_c.
    pub fn run(
        &self,
        x: Value,
        w: Value,
        r: Value,
        more: Optional,
        device: &DispatchDevice,
    ) -> Vec<Value> {
        let x = match self.batch_first {
            true => B::float_swap_dims(x, 0, 1),
            false => x,
        };
        let shape = dims(&x);
        let (time, batch, hidden) = (shape[0], shape[1], self.hidden);
        let directions = self.reversed.len();
        let Optional {
            bias,
            first_h,
            first_c,
            peepholes,
            lengths,
        } = more;
        // 1 for the examples that have a step at a place of time; nothing where all have one.
        let taking = |place: usize| {
            let lengths = lengths.as_ref()?;
            let has = |length: &i64| *length > place as i64;
            let marks = lengths
                .iter()
                .map(|l| f32::from(u8::from(has(l))))
                .collect();
            (!lengths.iter().all(has)).then(|| from_host(&[batch, 1], marks, device))
        };
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
            let (own, shift) = match (bias, self.cell) {
                (Some((own, shift)), Cell::Gru { .. }) => (Some(own), Some(shift)),
                (Some((own, shift)), _) => (Some(B::float_add(own, shift)), None),
                (None, _) => (None, None),
            };
            let own = own.map(|own| reshape(own, &[gates]));
            let given = shifted_product(flat, B::float_swap_dims(weight, 0, 1), own);
            let given = reshape(given, &[time, batch, gates]);
            let layer = Layer {
                recurrence: B::float_swap_dims(recurrence, 0, 1),
                bias: shift,
                peepholes: peepholes.clone().map(|all| {
                    let rows = reshape(part(all, direction, device), &[3, hidden]);
                    std::array::from_fn(|gate| part(rows.clone(), gate, device))
                }),
                activations: &self.activations[direction],
            };
            let mut h = state(&first_h, direction);
            let mut c = state(&first_c, direction);
            if let Some((y, c)) = self.whole(
                &layer,
                &given,
                [&h, &c],
                reversed,
                lengths.is_some(),
                device,
            ) {
                let last = if reversed { 0 } else { time - 1 };
                last_h.push(part(y.clone(), last, device));
                all.push(reshape(y, &[time, 1, batch, hidden]));
                last_c.push(c);
                continue;
            }
            let mut outputs = Vec::with_capacity(time);
            for step in 0..time {
                let place = if reversed { time - 1 - step } else { step };
                let input = reshape(part(given.clone(), place, device), &[batch, gates]);
                let (next_h, next_c) = self.step(&layer, input, h.clone(), c.clone());
                let mut shown = next_h.clone();
                (h, c) = match taking(place) {
                    None => (next_h, next_c),
                    Some(taking) => {
                        let kept = |new: Value, old: Value| {
                            let change =
                                B::float_mul(B::float_sub(new, old.clone()), taking.clone());
                            B::float_add(old, change)
                        };
                        shown = B::float_mul(shown, taking.clone());
                        (kept(next_h, h), kept(next_c, c))
                    }
                };
                outputs.push(reshape(shown, &[1, 1, batch, hidden]));
            }
            if reversed {
                outputs.reverse();
            }
            // Who has no step has no state, as in ONNX Runtime.
            if let Some(some) = taking(0) {
                (h, c) = (B::float_mul(h, some.clone()), B::float_mul(c, some));
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

    /// All hidden states, `[time, batch, hidden]`, and the last cells, `[1, batch, hidden]`, where the
    /// device has a pass over the whole sequence.
    fn whole(
        &self,
        layer: &Layer,
        given: &Value,
        [h, c]: [&Value; 2],
        reversed: bool,
        has_lengths: bool,
        device: &DispatchDevice,
    ) -> Option<(Value, Value)> {
        let usual = matches!(
            layer.activations,
            [
                Activation::Plain(Unary::Sigmoid),
                Activation::Plain(Unary::Tanh),
                Activation::Plain(Unary::Tanh)
            ]
        );
        let plain = self.clip.is_none() && layer.peepholes.is_none() && !has_lengths;
        if self.cell != (Cell::Lstm { coupled: false }) || !usual || !plain {
            return None;
        }
        let shape = dims(given);
        let (time, batch, hidden) = (shape[0], shape[1], self.hidden);
        let recurrence = B::float_swap_dims(layer.recurrence.clone(), 0, 1);
        let both = kernels::lstm(given, &recurrence, h, c, reversed)?;
        let stretch = |start: usize, count: usize| {
            let ranges = vec![(start, 1, count)];
            slice(both.clone(), &Slicing { ranges }, device)
        };
        let step = batch * hidden;
        Some((
            reshape(stretch(0, time * step), &[time, batch, hidden]),
            reshape(stretch(time * step, step), &[1, batch, hidden]),
        ))
    }

    /// One step; `input` holds what the input gives to all gates, its bias included.
    fn step(&self, layer: &Layer, input: Value, h: Value, c: Value) -> (Value, Value) {
        let biased = |value: Value, bias: Option<Value>| match bias {
            Some(bias) => B::float_add(value, bias),
            None => value,
        };
        let parts = |value: Value, count: usize| split(value, 1, &vec![self.hidden; count]);
        let activate = |index: usize, value: Value| {
            let value = match self.clip {
                Some(clip) => B::float_clamp(value, (-clip).into(), clip.into()),
                None => value,
            };
            layer.activations[index].run(value)
        };
        let recurrence = layer.recurrence.clone();
        let sum = || {
            let recurrent = multiplied(h.clone(), recurrence.clone());
            B::float_add(input.clone(), biased(recurrent, layer.bias.clone()))
        };
        match self.cell {
            Cell::Rnn => (activate(0, sum()), c),
            Cell::Lstm { coupled } => {
                let mut gates = parts(sum(), 4).into_iter();
                let mut next = || gates.next().expect("four gates");
                let (i, o, f, g) = (next(), next(), next(), next());
                let peep = |value: Value, gate: usize, cell: &Value| match &layer.peepholes {
                    Some(own) => B::float_add(value, B::float_mul(cell.clone(), own[gate].clone())),
                    None => value,
                };
                let i = activate(0, peep(i, 0, &c));
                let f = match coupled {
                    true => B::float_add_scalar(B::float_neg(i.clone()), 1f32.into()),
                    false => activate(0, peep(f, 2, &c)),
                };
                let let_in = B::float_mul(i, activate(1, g));
                let c = B::float_add(B::float_mul(f, c), let_in);
                let o = activate(0, peep(o, 1, &c));
                // Gates are clipped; the cell is not, as in ONNX Runtime.
                let h = B::float_mul(o, layer.activations[2].run(c.clone()));
                (h, c)
            }
            Cell::Gru { linear } => {
                let mut from_x = parts(input.clone(), 3).into_iter();
                let mut weights = parts(recurrence.clone(), 3).into_iter();
                let mut biases = layer.bias.clone().map(|bias| parts(bias, 3).into_iter());
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
                    let recurrent = biased(multiplied(h.clone(), r), b);
                    activate(0, B::float_add(x, recurrent))
                };
                let z = open(zx, zr, zb);
                let reset = open(rx, rr, rb);
                let own = match linear {
                    true => B::float_mul(reset, biased(multiplied(h.clone(), nr), nb)),
                    false => biased(multiplied(B::float_mul(reset, h.clone()), nr), nb),
                };
                let fresh = activate(1, B::float_add(nx, own));
                // (1 − z) · fresh + z · h
                let change = B::float_mul(z, B::float_sub(h.clone(), fresh.clone()));
                (B::float_add(fresh, change), c)
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
