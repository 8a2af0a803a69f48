//! One step of time of a recurrent layer.

use super::activation::{Activation, Precision};
use super::product::Weights;
use crate::graph::params::RuleError;
use crate::host::call::Call;

/// What happens at one step of time.
#[derive(Debug, Clone, Copy)]
pub enum Cell {
    Rnn,
    Gru {
        /// Whether the reset gate comes after the recurrent product of the hidden gate.
        linear_before_reset: bool,
    },
    Lstm {
        /// Whether the forget gate is one minus the input gate.
        input_forget: bool,
    },
}

impl Cell {
    /// LSTM, as the node has it.
    pub fn lstm(call: &Call) -> Self {
        Self::Lstm {
            input_forget: call.node.int("input_forget").unwrap_or(0) != 0,
        }
    }

    pub fn gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru { .. } => 3,
            Self::Lstm { .. } => 4,
        }
    }

    /// The activations of one direction, where the node names none.
    pub fn default_activations(self) -> &'static [&'static str] {
        match self {
            Self::Rnn => &["Tanh"],
            Self::Gru { .. } => &["Sigmoid", "Tanh"],
            Self::Lstm { .. } => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// One direction.
pub struct Layer<'a> {
    pub cell: Cell,
    pub precision: Precision,
    pub hidden: usize,
    pub weights: &'a Weights<'a>,
    /// Of the input, then of the recurrent product, gate by gate; empty where there is none.
    pub biases: &'a [f64],
    /// Of the input, output and forget gate; empty where there is none.
    pub peepholes: &'a [f64],
    pub activations: &'a [Activation],
    pub clip: f64,
}

/// What one example remembers.
pub struct State {
    pub hidden: Vec<f64>,
    pub cell: Vec<f64>,
}

/// Scratch room for one step of time: a row for each example that takes it.
#[derive(Default)]
pub struct Room {
    pub input: Vec<f64>,
    hidden: Vec<f64>,
    /// Products with the input, by gate.
    from_input: Vec<f64>,
    /// Products with the hidden state, by gate.
    recurrent: Vec<f64>,
}

/// Products of one example, by gate.
struct Gates<'a> {
    from_input: &'a mut [f64],
    recurrent: &'a mut [f64],
}

impl Layer<'_> {
    /// The activation number `index` of the clipped value.
    fn activate(&self, index: usize, value: f64) -> f64 {
        let value = value.clamp(-self.clip, self.clip);
        self.round(self.activations[index].apply(value))
    }

    fn round(&self, value: f64) -> f64 {
        self.precision.round(value)
    }

    /// The biases of the input and of the recurrent product.
    fn biases(&self, row: usize) -> (f64, f64) {
        let at = |index: usize| self.biases.get(index).copied().unwrap_or(0.0);
        (at(row), at(self.biases.len() / 2 + row))
    }

    fn peephole(&self, row: usize) -> f64 {
        self.peepholes.get(row).copied().unwrap_or(0.0)
    }

    /// The value of a gate: both products, `peep`, then the biases, in the order of ONNX Runtime.
    fn gate(&self, gates: &Gates, row: usize, peep: f64) -> f64 {
        let products = self.round(gates.from_input[row] + gates.recurrent[row]);
        let (of_input, of_recurrent) = self.biases(row);
        self.round(self.round(products + peep) + self.round(of_input + of_recurrent))
    }

    /// One step of time of the examples `active`, whose inputs are in `room`. The sequences of `ended`
    /// had their last step just before; ONNX Runtime still has their states beside those of the others.
    pub fn step(
        &self,
        states: &mut [State],
        active: &[usize],
        ended: &[usize],
        room: &mut Room,
    ) -> Result<(), RuleError> {
        let rows = self.cell.gates() * self.hidden;
        room.hidden.clear();
        for &example in active.iter().chain(ended) {
            room.hidden.extend_from_slice(&states[example].hidden);
        }
        room.from_input.resize(active.len() * rows, 0.0);
        room.recurrent.resize(active.len() * rows, 0.0);
        let Weights { input, recurrent } = self.weights;
        input.multiply(&room.input, 0..rows, &mut room.from_input)?;
        recurrent.multiply(&room.hidden, 0..rows, &mut room.recurrent)?;
        let from_input = room.from_input.chunks_exact_mut(rows);
        let gates = from_input.zip(room.recurrent.chunks_exact_mut(rows));
        for (&example, (from_input, recurrent)) in active.iter().zip(gates) {
            let gates = Gates {
                from_input,
                recurrent,
            };
            let state = &mut states[example];
            match self.cell {
                Cell::Rnn => self.rnn(state, &gates),
                Cell::Gru {
                    linear_before_reset,
                } => self.gru(state, gates, linear_before_reset)?,
                Cell::Lstm { input_forget } => self.lstm(state, &gates, input_forget),
            }
        }
        Ok(())
    }

    fn rnn(&self, state: &mut State, gates: &Gates) {
        for unit in 0..self.hidden {
            state.hidden[unit] = self.activate(0, self.gate(gates, unit, 0.0));
        }
    }

    /// Gates in the order update, reset, hidden.
    fn gru(
        &self,
        state: &mut State,
        gates: Gates,
        linear_before_reset: bool,
    ) -> Result<(), RuleError> {
        let size = self.hidden;
        let reset =
            |unit: usize, gates: &Gates| self.activate(0, self.gate(gates, size + unit, 0.0));
        if !linear_before_reset {
            let kept: Vec<f64> = (0..size)
                .map(|unit| reset(unit, &gates) * state.hidden[unit])
                .collect();
            let hidden_gate = &mut gates.recurrent[2 * size..];
            let recurrent = &self.weights.recurrent;
            recurrent.multiply(&kept, 2 * size..3 * size, hidden_gate)?;
        }
        for unit in 0..size {
            let row = 2 * size + unit;
            let (of_input, of_recurrent) = self.biases(row);
            let mut recurrent = gates.recurrent[row] + of_recurrent;
            if linear_before_reset {
                recurrent *= reset(unit, &gates);
            }
            let update = self.activate(0, self.gate(&gates, unit, 0.0));
            let new = self.activate(1, gates.from_input[row] + of_input + recurrent);
            state.hidden[unit] = (1.0 - update) * new + update * state.hidden[unit];
        }
        Ok(())
    }

    /// Gates in the order input, output, forget, cell.
    fn lstm(&self, state: &mut State, gates: &Gates, input_forget: bool) {
        let size = self.hidden;
        for unit in 0..size {
            let old = state.cell[unit];
            let gate = |part: usize, peep: f64| self.gate(gates, part * size + unit, peep);
            let peep =
                |part: usize, cell: f64| self.round(self.peephole(part * size + unit) * cell);
            let input = self.activate(0, gate(0, peep(0, old)));
            let forget = if input_forget {
                self.round(1.0 - input)
            } else {
                self.activate(0, gate(2, peep(2, old)))
            };
            let candidate = self.activate(1, gate(3, 0.0));
            let cell = self.round(self.round(forget * old) + self.round(input * candidate));
            let output = self.activate(0, gate(1, peep(1, cell)));
            state.cell[unit] = cell;
            // Gates are clipped; the cell is not, as in ONNX Runtime.
            let shown = self.round(self.activations[2].apply(cell));
            state.hidden[unit] = self.round(output * shown);
        }
    }
}
