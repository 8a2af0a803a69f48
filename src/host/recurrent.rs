//! Recurrent layers: RNN, GRU (Cho et al. 2014) and LSTM (Hochreiter and Schmidhuber 1997; with
//! peepholes, Gers and Schmidhuber 2000).

mod activation;
mod product;

use activation::{Activation, activations};
use product::Numbers;
pub(super) use product::{Product, Weights, each_pair};

use super::array::{Array, Data};
use super::call::{Call, Outcome};
use crate::graph::params::RuleError;

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    Some(match call.operator() {
        "RNN" => with_numbers(call, Cell::Rnn),
        "GRU" => with_numbers(
            call,
            Cell::Gru {
                linear_before_reset: call.node.int("linear_before_reset").unwrap_or(0) != 0,
            },
        ),
        "LSTM" => with_numbers(call, Cell::lstm(call)),
        _ => return None,
    })
}

/// What happens at one step of time.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell {
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
pub(super) struct Shape {
    pub steps: usize,
    pub batch: usize,
    pub input: usize,
    pub hidden: usize,
    pub directions: usize,
    /// Rows of the weights of one direction: the hidden states of every gate.
    pub rows: usize,
    /// `layout` 1: the batch comes first.
    batch_first: bool,
}

impl Shape {
    /// The sizes of the layer whose recurrent weights, at input 2, have the hidden state on axis
    /// `hidden_axis`. Checks every input but the weights.
    pub fn of(call: &Call, cell: Cell, hidden_axis: usize) -> Result<Self, RuleError> {
        let layout = call.node.int("layout").unwrap_or(0);
        let (&[first, second, input], recurrent @ &[_, _, _]) = (
            call.input(0)?.dims.as_slice(),
            call.input(2)?.dims.as_slice(),
        ) else {
            return Err(RuleError::new("needs an input and weights of three axes"));
        };
        let hidden = recurrent[hidden_axis];
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
        if hidden == 0 {
            return Err(RuleError::new("has a hidden state of no elements"));
        }
        call.count(&[2 * cell.gates(), hidden])?;
        let rows = cell.gates() * hidden;
        call.count(&[batch, rows])?;
        let directions = directions(call)?.len();
        let shape = Self {
            steps,
            batch,
            input,
            hidden,
            directions,
            rows,
            batch_first,
        };
        call.count(&shape.output_dims())?;
        call.count(&shape.state_dims())?;
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
pub(super) fn expect(call: &Call, index: usize, dims: &[usize]) -> Result<(), RuleError> {
    match call.optional(index) {
        Some(array) if array.dims != dims => Err(RuleError::new(format!(
            "has a value of shape {:?} as input {index}, needs {dims:?}",
            array.dims
        ))),
        _ => Ok(()),
    }
}

/// One direction.
struct Layer<'a> {
    cell: Cell,
    hidden: usize,
    weights: &'a Weights<'a>,
    /// Of the input, then of the recurrent product, gate by gate; empty where there is none.
    biases: &'a [f64],
    /// Of the input, output and forget gate; empty where there is none.
    peepholes: &'a [f64],
    activations: &'a [Activation],
    clip: f64,
}

/// What one example remembers.
struct State {
    hidden: Vec<f64>,
    cell: Vec<f64>,
}

/// Scratch room for one step of time: a row for each example that takes it.
#[derive(Default)]
struct Room {
    input: Vec<f64>,
    hidden: Vec<f64>,
    /// Products with the input, by gate.
    from_input: Vec<f64>,
    /// Products with the hidden state, by gate.
    recurrent: Vec<f64>,
}

/// Products of one example, by gate, biases included.
struct Gates<'a> {
    from_input: &'a mut [f64],
    recurrent: &'a mut [f64],
}

impl Gates<'_> {
    fn sum(&self, row: usize) -> f64 {
        self.from_input[row] + self.recurrent[row]
    }
}

/// Adds the biases, where there are any.
fn add(values: &mut [f64], biases: &[f64]) {
    values.iter_mut().zip(biases).for_each(|(v, b)| *v += b);
}

impl Layer<'_> {
    /// The activation number `index` of the clipped value.
    fn activate(&self, index: usize, value: f64) -> f64 {
        self.activations[index].apply(value.clamp(-self.clip, self.clip))
    }

    /// The biases of the input and of the recurrent product.
    fn biases(&self) -> (&[f64], &[f64]) {
        self.biases.split_at(self.biases.len() / 2)
    }

    fn peephole(&self, row: usize) -> f64 {
        self.peepholes.get(row).copied().unwrap_or(0.0)
    }

    /// One step of time of the examples `active`, whose inputs are in `room`.
    fn step(
        &self,
        states: &mut [State],
        active: &[usize],
        room: &mut Room,
    ) -> Result<(), RuleError> {
        let rows = self.cell.gates() * self.hidden;
        room.hidden.clear();
        for &example in active {
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
            add(from_input, self.biases().0);
            add(recurrent, self.biases().1);
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
            state.hidden[unit] = self.activate(0, gates.sum(unit));
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
        let mut reset: Vec<f64> = (size..2 * size)
            .map(|row| self.activate(0, gates.sum(row)))
            .collect();
        if !linear_before_reset {
            reset
                .iter_mut()
                .zip(&state.hidden)
                .for_each(|(r, h)| *r *= h);
            let hidden_gate = &mut gates.recurrent[2 * size..];
            let recurrent = &self.weights.recurrent;
            recurrent.multiply(&reset, 2 * size..3 * size, hidden_gate)?;
            let biases = self.biases().1;
            add(hidden_gate, biases.get(2 * size..).unwrap_or_default());
            reset.fill(1.0);
        }
        for unit in 0..size {
            let row = 2 * size + unit;
            let update = self.activate(0, gates.sum(unit));
            let recurrent = reset[unit] * gates.recurrent[row];
            let new = self.activate(1, gates.from_input[row] + recurrent);
            state.hidden[unit] = (1.0 - update) * new + update * state.hidden[unit];
        }
        Ok(())
    }

    /// Gates in the order input, output, forget, cell.
    fn lstm(&self, state: &mut State, gates: &Gates, input_forget: bool) {
        let size = self.hidden;
        for unit in 0..size {
            let old = state.cell[unit];
            let peep = |part: usize, cell: f64| self.peephole(part * size + unit) * cell;
            let input = self.activate(0, gates.sum(unit) + peep(0, old));
            let forget = if input_forget {
                1.0 - input
            } else {
                self.activate(0, gates.sum(2 * size + unit) + peep(2, old))
            };
            let candidate = self.activate(1, gates.sum(3 * size + unit));
            let cell = forget * old + input * candidate;
            let output = self.activate(0, gates.sum(size + unit) + peep(1, cell));
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

/// RNN, GRU and LSTM with weights that are numbers, `[directions, rows, input or hidden]`.
fn with_numbers(call: &Call, cell: Cell) -> Outcome {
    let shape = Shape::of(call, cell, 2)?;
    expect(call, 1, &[shape.directions, shape.rows, shape.input])?;
    expect(call, 2, &[shape.directions, shape.rows, shape.hidden])?;
    let product = |index: usize, direction: usize, width: usize| {
        let weights = part(Some(call.input(index)?), direction, shape.directions)?;
        Ok(Box::new(Numbers { weights, width }) as Box<dyn Product>)
    };
    let weights = (0..shape.directions)
        .map(|direction| {
            Ok(Weights {
                input: product(1, direction, shape.input)?,
                recurrent: product(2, direction, shape.hidden)?,
            })
        })
        .collect::<Result<Vec<_>, RuleError>>()?;
    run(call, cell, &shape, &weights)
}

/// The outputs Y, Y_h and, for LSTM, Y_c of a layer with the weights of each direction. Padding gives
/// zeros in Y.
pub(super) fn run(call: &Call, cell: Cell, shape: &Shape, weights: &[Weights]) -> Outcome {
    let lengths = lengths(call, shape)?;
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let is_lstm = matches!(cell, Cell::Lstm { .. });
    let x = call.input(0)?;
    let input = x.floats()?;
    let count = shape.directions;
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
    let initial = |index: usize, at: usize| -> Result<Vec<f64>, RuleError> {
        match call.optional(index) {
            Some(array) => Ok(array.floats()?[at..][..shape.hidden].to_vec()),
            None => Ok(vec![0.0; shape.hidden]),
        }
    };
    let mut room = Room::default();
    let backwards = directions(call)?.iter();
    for (direction, (&backward, weights)) in backwards.zip(weights).enumerate() {
        let layer = Layer {
            cell,
            hidden: shape.hidden,
            weights,
            biases: part(call.optional(3), direction, count)?,
            peepholes: part(call.optional(7).filter(|_| is_lstm), direction, count)?,
            activations: &activations[direction],
            clip,
        };
        let mut states = (0..shape.batch)
            .map(|example| {
                let at = shape.state_at(direction, example);
                Ok(State {
                    hidden: initial(5, at)?,
                    cell: if is_lstm { initial(6, at)? } else { vec![] },
                })
            })
            .collect::<Result<Vec<_>, RuleError>>()?;
        for turn in 0..longest {
            let active: Vec<usize> = (0..shape.batch).filter(|&e| lengths[e] > turn).collect();
            let step = |example: usize| match backward {
                true => lengths[example] - 1 - turn,
                false => turn,
            };
            room.input.clear();
            for &example in &active {
                let start = shape.input_at(step(example), example);
                room.input.extend_from_slice(&input[start..][..shape.input]);
            }
            layer.step(&mut states, &active, &mut room)?;
            for &example in &active {
                let start = shape.output_at(step(example), direction, example);
                output[start..][..shape.hidden].copy_from_slice(&states[example].hidden);
            }
        }
        // A sequence of no steps leaves zeros, as in ONNX Runtime.
        let examples = states.iter().enumerate();
        for (example, state) in examples.filter(|(example, _)| lengths[*example] > 0) {
            let at = shape.state_at(direction, example);
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
