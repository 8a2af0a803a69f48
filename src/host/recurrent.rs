//! Recurrent layers: RNN, GRU (Cho et al. 2014) and LSTM (Hochreiter and Schmidhuber 1997; with
//! peepholes, Gers and Schmidhuber 2000).

mod activation;
mod cell;
mod product;
mod single;

pub(super) use activation::Precision;
use activation::activations;
pub(crate) use activation::{Named, named_activations};
pub(super) use cell::Cell;
use cell::{Layer, Room, State};
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
    run(call, cell, Precision::Double, &shape, &weights)
}

/// The outputs Y, Y_h and, for LSTM, Y_c of a layer with the weights of each direction. Padding gives
/// zeros in Y.
pub(super) fn run(
    call: &Call,
    cell: Cell,
    precision: Precision,
    shape: &Shape,
    weights: &[Weights],
) -> Outcome {
    let lengths = lengths(call, shape)?;
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let is_lstm = matches!(cell, Cell::Lstm { .. });
    let x = call.input(0)?;
    let input = x.floats()?;
    let count = shape.directions;
    let activations = activations(call, cell.default_activations(), count, precision)?;
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
            precision,
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
            let ended: Vec<usize> = (0..shape.batch).filter(|&e| lengths[e] == turn).collect();
            let step = |example: usize| match backward {
                true => lengths[example] - 1 - turn,
                false => turn,
            };
            room.input.clear();
            for &example in &active {
                let start = shape.input_at(step(example), example);
                room.input.extend_from_slice(&input[start..][..shape.input]);
            }
            layer.step(&mut states, &active, &ended, &mut room)?;
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
