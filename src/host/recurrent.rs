//! Recurrent layers: RNN, GRU (Cho et al. 2014) and LSTM (Hochreiter and Schmidhuber 1997; with
//! peepholes, Gers and Schmidhuber 2000).

mod activation;

use activation::{Activation, activations};

use super::array::{Array, Data};
use super::call::{Call, Outcome};
use crate::graph::params::RuleError;

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    Some(match call.operator() {
        "RNN" => run(call, Cell::Rnn),
        "GRU" => run(
            call,
            Cell::Gru {
                linear_before_reset: call.node.int("linear_before_reset").unwrap_or(0) != 0,
            },
        ),
        "LSTM" => run(
            call,
            Cell::Lstm {
                input_forget: call.node.int("input_forget").unwrap_or(0) != 0,
            },
        ),
        _ => return None,
    })
}

/// What happens at one step of time.
#[derive(Debug, Clone, Copy)]
enum Cell {
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
    fn gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru { .. } => 3,
            Self::Lstm { .. } => 4,
        }
    }

    /// The activations of one direction, where the node names none.
    fn default_activations(self) -> &'static [&'static str] {
        match self {
            Self::Rnn => &["Tanh"],
            Self::Gru { .. } => &["Sigmoid", "Tanh"],
            Self::Lstm { .. } => &["Sigmoid", "Tanh", "Tanh"],
        }
    }
}

/// Sizes of a layer, and the order of its axes.
struct Shape {
    steps: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    directions: usize,
    /// `layout` 1: the batch comes first.
    batch_first: bool,
}

impl Shape {
    fn of(call: &Call, cell: Cell, directions: usize) -> Result<Self, RuleError> {
        let layout = call.node.int("layout").unwrap_or(0);
        let recurrent = &call.input(2)?.dims;
        let (&[first, second, input], &[_, _, hidden]) =
            (call.input(0)?.dims.as_slice(), recurrent.as_slice())
        else {
            return Err(RuleError::new("needs an input and weights of three axes"));
        };
        if !(0..=1).contains(&layout) {
            return Err(RuleError::new(format!("has layout {layout}")));
        }
        if let Some(given) = call.node.int("hidden_size")
            && usize::try_from(given) != Ok(hidden)
        {
            return Err(RuleError::new(format!(
                "has a `hidden_size` of {given} and weights for {hidden}"
            )));
        }
        let batch_first = layout == 1;
        let (steps, batch) = if batch_first {
            (second, first)
        } else {
            (first, second)
        };
        let shape = Self {
            steps,
            batch,
            input,
            hidden,
            directions,
            batch_first,
        };
        if hidden == 0 {
            return Err(RuleError::new("has a hidden state of no elements"));
        }
        call.count(&[2 * cell.gates(), hidden])?;
        call.count(&shape.output_dims())?;
        call.count(&shape.state_dims())?;
        let rows = cell.gates() * hidden;
        expect(call, 1, &[directions, rows, input])?;
        expect(call, 2, &[directions, rows, hidden])?;
        expect(call, 3, &[directions, 2 * rows])?;
        expect(call, 4, &[batch])?;
        expect(call, 5, &shape.state_dims())?;
        if let Cell::Lstm { .. } = cell {
            expect(call, 6, &shape.state_dims())?;
            expect(call, 7, &[directions, 3 * hidden])?;
        }
        Ok(shape)
    }

    fn state_dims(&self) -> Vec<usize> {
        if self.batch_first {
            vec![self.batch, self.directions, self.hidden]
        } else {
            vec![self.directions, self.batch, self.hidden]
        }
    }

    fn output_dims(&self) -> Vec<usize> {
        if self.batch_first {
            vec![self.batch, self.steps, self.directions, self.hidden]
        } else {
            vec![self.steps, self.directions, self.batch, self.hidden]
        }
    }

    /// Where the state of an example begins in initial and last states.
    fn state_at(&self, direction: usize, example: usize) -> usize {
        let row = if self.batch_first {
            example * self.directions + direction
        } else {
            direction * self.batch + example
        };
        row * self.hidden
    }

    fn output_at(&self, step: usize, direction: usize, example: usize) -> usize {
        let row = if self.batch_first {
            (example * self.steps + step) * self.directions + direction
        } else {
            (step * self.directions + direction) * self.batch + example
        };
        row * self.hidden
    }

    fn input_at(&self, step: usize, example: usize) -> usize {
        let row = if self.batch_first {
            example * self.steps + step
        } else {
            step * self.batch + example
        };
        row * self.input
    }
}

/// Refuses an input, where there is one, of another shape.
fn expect(call: &Call, index: usize, dims: &[usize]) -> Result<(), RuleError> {
    match call.optional(index) {
        Some(array) if array.dims != dims => Err(RuleError::new(format!(
            "has a value of shape {:?} as input {index}, needs {dims:?}",
            array.dims
        ))),
        _ => Ok(()),
    }
}

/// The weights of one direction.
struct Layer<'a> {
    cell: Cell,
    hidden: usize,
    input_weights: &'a [f64],
    recurrent_weights: &'a [f64],
    /// Of the input, then of the recurrent product, gate by gate; empty where there is none.
    biases: &'a [f64],
    /// Of the input, output and forget gate; empty where there is none.
    peepholes: &'a [f64],
    activations: &'a [Activation],
    clip: f64,
}

/// What one example remembers, and scratch room for a step.
struct State {
    hidden: Vec<f64>,
    cell: Vec<f64>,
    /// Products with the input, by gate.
    from_input: Vec<f64>,
    /// Products with the hidden state, by gate.
    recurrent: Vec<f64>,
    reset: Vec<f64>,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Layer<'_> {
    /// The activation number `index` of the clipped value.
    fn activate(&self, index: usize, value: f64) -> f64 {
        self.activations[index].apply(value.clamp(-self.clip, self.clip))
    }

    fn input_bias(&self, row: usize) -> f64 {
        self.biases.get(row).copied().unwrap_or(0.0)
    }

    fn recurrent_bias(&self, row: usize) -> f64 {
        let rows = self.cell.gates() * self.hidden;
        self.biases.get(rows + row).copied().unwrap_or(0.0)
    }

    fn peephole(&self, row: usize) -> f64 {
        self.peepholes.get(row).copied().unwrap_or(0.0)
    }

    /// One step of time of one example.
    fn step(&self, input: &[f64], state: &mut State) {
        let width = input.len();
        for row in 0..self.cell.gates() * self.hidden {
            state.from_input[row] =
                self.input_bias(row) + dot(&self.input_weights[row * width..][..width], input);
            state.recurrent[row] =
                self.recurrent_bias(row) + dot(self.recurrent_row(row), &state.hidden);
        }
        match self.cell {
            Cell::Rnn => self.rnn(state),
            Cell::Gru {
                linear_before_reset,
            } => self.gru(state, linear_before_reset),
            Cell::Lstm { input_forget } => self.lstm(state, input_forget),
        }
    }

    fn recurrent_row(&self, row: usize) -> &[f64] {
        &self.recurrent_weights[row * self.hidden..][..self.hidden]
    }

    fn rnn(&self, state: &mut State) {
        for unit in 0..self.hidden {
            state.hidden[unit] = self.activate(0, state.from_input[unit] + state.recurrent[unit]);
        }
    }

    /// Gates in the order update, reset, hidden.
    fn gru(&self, state: &mut State, linear_before_reset: bool) {
        let size = self.hidden;
        let gate = |state: &State, row: usize| state.from_input[row] + state.recurrent[row];
        for unit in 0..size {
            state.reset[unit] = self.activate(0, gate(state, size + unit));
        }
        if !linear_before_reset {
            for unit in 0..size {
                state.reset[unit] *= state.hidden[unit];
            }
            for unit in 0..size {
                let row = 2 * size + unit;
                state.recurrent[row] =
                    self.recurrent_bias(row) + dot(self.recurrent_row(row), &state.reset);
            }
        }
        for unit in 0..size {
            let row = 2 * size + unit;
            let reset = if linear_before_reset {
                state.reset[unit]
            } else {
                1.0
            };
            let update = self.activate(0, gate(state, unit));
            let new = self.activate(1, state.from_input[row] + reset * state.recurrent[row]);
            state.hidden[unit] = (1.0 - update) * new + update * state.hidden[unit];
        }
    }

    /// Gates in the order input, output, forget, cell.
    fn lstm(&self, state: &mut State, input_forget: bool) {
        let size = self.hidden;
        let gate = |state: &State, row: usize| state.from_input[row] + state.recurrent[row];
        for unit in 0..size {
            let old = state.cell[unit];
            let peep = |part: usize, cell: f64| self.peephole(part * size + unit) * cell;
            let input = self.activate(0, gate(state, unit) + peep(0, old));
            let forget = if input_forget {
                1.0 - input
            } else {
                self.activate(0, gate(state, 2 * size + unit) + peep(2, old))
            };
            let candidate = self.activate(1, gate(state, 3 * size + unit));
            let cell = forget * old + input * candidate;
            let output = self.activate(0, gate(state, size + unit) + peep(1, cell));
            state.cell[unit] = cell;
            // Gates are clipped; the cell is not, as in ONNX Runtime.
            state.hidden[unit] = output * self.activations[2].apply(cell);
        }
    }
}

/// Whether each direction runs backwards.
fn directions(call: &Call) -> Result<&'static [bool], RuleError> {
    match call.node.text("direction").unwrap_or("forward") {
        "forward" => Ok(&[false]),
        "reverse" => Ok(&[true]),
        "bidirectional" => Ok(&[false, true]),
        other => Err(RuleError::new(format!("has the direction `{other}`"))),
    }
}

/// Steps of each example; the rest is padding.
fn lengths(call: &Call, shape: &Shape) -> Result<Vec<usize>, RuleError> {
    let Some(given) = call.optional(4) else {
        return Ok(vec![shape.steps; shape.batch]);
    };
    given
        .ints()?
        .iter()
        .map(|&length| {
            usize::try_from(length)
                .ok()
                .filter(|&length| length <= shape.steps)
                .ok_or_else(|| {
                    RuleError::new(format!(
                        "has a sequence of {length} steps of {}",
                        shape.steps
                    ))
                })
        })
        .collect()
}

/// The rows of direction `index` of a tensor whose first axis is the directions.
fn part(array: Option<&Array>, index: usize, of: usize) -> Result<&[f64], RuleError> {
    let Some(array) = array else { return Ok(&[]) };
    let values = array.floats()?;
    let size = values.len() / of;
    Ok(&values[index * size..][..size])
}

/// RNN, GRU and LSTM: the outputs Y, Y_h and, for LSTM, Y_c. Padding gives zeros in Y.
fn run(call: &Call, cell: Cell) -> Outcome {
    let backwards = directions(call)?;
    let count = backwards.len();
    let shape = Shape::of(call, cell, count)?;
    let lengths = lengths(call, &shape)?;
    let is_lstm = matches!(cell, Cell::Lstm { .. });
    let x = call.input(0)?;
    let input = x.floats()?;
    let activations = activations(call, cell.default_activations(), count)?;
    let clip = call.node.float("clip").map_or(f64::INFINITY, f64::from);
    if clip.is_nan() || clip < 0.0 {
        return Err(RuleError::new(format!("has a `clip` of {clip}")));
    }

    let output_dims = shape.output_dims();
    let state_dims = shape.state_dims();
    let mut output = vec![0.0; call.count(&output_dims)?];
    let mut last = vec![0.0; call.count(&state_dims)?];
    let mut last_cell = last.clone();
    let rows = cell.gates() * shape.hidden;
    let initial = |index: usize, at: usize| -> Result<Vec<f64>, RuleError> {
        match call.optional(index) {
            Some(array) => Ok(array.floats()?[at..][..shape.hidden].to_vec()),
            None => Ok(vec![0.0; shape.hidden]),
        }
    };
    for (direction, &backward) in backwards.iter().enumerate() {
        let layer = Layer {
            cell,
            hidden: shape.hidden,
            input_weights: part(Some(call.input(1)?), direction, count)?,
            recurrent_weights: part(Some(call.input(2)?), direction, count)?,
            biases: part(call.optional(3), direction, count)?,
            peepholes: part(call.optional(7).filter(|_| is_lstm), direction, count)?,
            activations: &activations[direction],
            clip,
        };
        // A sequence of no steps leaves zeros, as in ONNX Runtime.
        let sequences = lengths.iter().enumerate();
        for (example, &length) in sequences.filter(|(_, length)| **length > 0) {
            let at = shape.state_at(direction, example);
            let mut state = State {
                hidden: initial(5, at)?,
                cell: if is_lstm { initial(6, at)? } else { vec![] },
                from_input: vec![0.0; rows],
                recurrent: vec![0.0; rows],
                reset: vec![0.0; shape.hidden],
            };
            for turn in 0..length {
                let step = if backward { length - 1 - turn } else { turn };
                let start = shape.input_at(step, example);
                layer.step(&input[start..][..shape.input], &mut state);
                let start = shape.output_at(step, direction, example);
                output[start..][..shape.hidden].copy_from_slice(&state.hidden);
            }
            last[at..][..shape.hidden].copy_from_slice(&state.hidden);
            if is_lstm {
                last_cell[at..][..shape.hidden].copy_from_slice(&state.cell);
            }
        }
    }
    let mut outputs = vec![
        x.with(output_dims, Data::Float(output)),
        x.with(state_dims.clone(), Data::Float(last)),
    ];
    if is_lstm {
        outputs.push(x.with(state_dims, Data::Float(last_cell)));
    }
    Ok(outputs)
}
