//! One direction of an LSTM over a whole sequence, and its gradient through time.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::arch::Arch;
use super::correlate::Start;
use super::math::{sigmoid, tanh};
use super::product::{Factor, Matrices, multiply};
use super::{Kernel, add, all_written, elements, run, tensor};
use crate::exec::value::{self, Value};

/// Hochreiter and Schmidhuber (1997) with forget gates, as ONNX orders them: input, output, forget,
/// cell.
#[derive(Debug, Clone)]
struct Lstm {
    time: usize,
    batch: usize,
    hidden: usize,
    reversed: bool,
}

/// What the backward pass reads.
#[derive(Debug, Clone)]
struct Kept {
    /// `[4 · hidden, hidden]`
    recurrence: FlexTensor,
    first_h: FlexTensor,
    first_c: FlexTensor,
    /// Activated gates of each step, `[time, batch, 4 · hidden]`.
    gates: FlexTensor,
    /// Cells after each step, `[time, batch, hidden]`.
    cells: FlexTensor,
    /// The result.
    out: FlexTensor,
}

/// `given`, `[time, batch, 4 · hidden]`, is what the input and the biases give to the gates;
/// `recurrence` is `[4 · hidden, hidden]`; the first states are `[batch, hidden]`. The result holds
/// all hidden states, `[time, batch, hidden]`, and behind them the last cells, in one axis. `None`
/// on devices that keep Burn's own.
pub(in crate::exec) fn lstm(
    given: &Value,
    recurrence: &Value,
    first_h: &Value,
    first_c: &Value,
    reversed: bool,
) -> Option<Value> {
    let shape = value::dims(given);
    let kernel = Lstm {
        time: shape[0],
        batch: shape[1],
        hidden: shape[2] / 4,
        reversed,
    };
    Some(run(&kernel, [given, recurrence, first_h, first_c])?.0)
}

impl Lstm {
    /// Places of time in the order in which they are read.
    fn order(&self) -> Vec<usize> {
        match self.reversed {
            true => (0..self.time).rev().collect(),
            false => (0..self.time).collect(),
        }
    }

    /// Examples that a thread takes from the first step to the last. Each example's numbers are the
    /// same in any company.
    fn at_once(&self) -> usize {
        self.batch.div_ceil(rayon::current_num_threads())
    }

    /// A sequence of rows of `width` elements for each example, by part of the batch and place of time.
    fn parts<'a>(&self, sequence: &'a mut [f32], width: usize) -> Vec<Vec<&'a mut [f32]>> {
        let rows = self.at_once();
        let mut parts: Vec<Vec<&mut [f32]>> =
            (0..self.batch.div_ceil(rows)).map(|_| Vec::new()).collect();
        for step in sequence.chunks_exact_mut(self.batch * width) {
            let own = parts.iter_mut().zip(step.chunks_mut(rows * width));
            own.for_each(|(part, step)| part.push(step));
        }
        parts
    }

    fn matrix(&self, elements: Vec<f32>, width: usize) -> FlexTensor {
        tensor(elements, &[self.batch, width])
    }
}

fn is_zero(elements: &[f32]) -> bool {
    elements.iter().all(|&element| element == 0.0)
}

/// The four gates of an example, or what they were made of.
#[inline(always)]
fn quarters(row: &[f32]) -> [&[f32]; 4] {
    let (first, second) = row.split_at(row.len() / 2);
    let (i, o) = first.split_at(first.len() / 2);
    let (f, g) = second.split_at(second.len() / 2);
    [i, o, f, g]
}

#[inline(always)]
fn quarters_mut(row: &mut [f32]) -> [&mut [f32]; 4] {
    let (first, second) = row.split_at_mut(row.len() / 2);
    let (i, o) = first.split_at_mut(first.len() / 2);
    let (f, g) = second.split_at_mut(second.len() / 2);
    [i, o, f, g]
}

impl Kernel<4> for Lstm {
    type Kept = Kept;

    fn forward(
        &self,
        [given, recurrence, first_h, first_c]: [FlexTensor; 4],
    ) -> (FlexTensor, Kept) {
        let hidden = self.hidden;
        let (rows, step) = (self.at_once(), self.batch * hidden);
        let factor = Factor::of(&Matrices::of(&recurrence).turned(), rows);
        let source = elements(&given);
        let (h_before, c_before) = (elements(&first_h), elements(&first_c));
        let arch = Arch::new();
        let order = self.order();
        let states = self.time * step;
        let lens = [states + step, 4 * states, states];
        let made = all_written(&lens, |mut all| {
            let [out, gates, cells] = &mut all[..] else {
                unreachable!("as many as there are lengths");
            };
            let (out, last_c) = out.split_at_mut(states);
            let own = |all| self.parts(all, hidden);
            let parts = own(out)
                .into_par_iter()
                .zip(self.parts(gates, 4 * hidden))
                .zip(own(cells))
                .zip(last_c.par_chunks_mut(rows * hidden))
                .zip(h_before.par_chunks(rows * hidden))
                .zip(c_before.par_chunks(rows * hidden))
                .enumerate();
            parts.for_each(
                |(part, (((((out, gates), cells), last_c), first_h), first_c))| {
                    let mut out: Vec<&mut [f32]> = out;
                    let (mut gates, mut cells) = (gates, cells);
                    let mut earlier: Option<usize> = None;
                    for &place in &order {
                        let h = earlier.map_or(first_h, |earlier| &*out[earlier]);
                        let gates = &mut *gates[place];
                        let given = &source[4 * (place * step + part * rows * hidden)..];
                        gates.copy_from_slice(&given[..gates.len()]);
                        // A sequence begins at nothing, mostly.
                        if earlier.is_some() || !is_zero(h) {
                            let h = Matrices::new(h, first_h.len() / hidden, hidden);
                            factor.multiply(&h, Start::Held, gates);
                        }
                        let (before, cells): (&[f32], &mut [f32]) = match earlier {
                            None => (first_c, cells[place]),
                            Some(earlier) => {
                                let both = cells.get_disjoint_mut([earlier, place]);
                                let [before, cells] = both.expect("two places of time");
                                (before, cells)
                            }
                        };
                        arch.run(
                            #[inline(always)]
                            || {
                                let h = out[place].chunks_exact_mut(hidden);
                                let cells = cells.chunks_exact_mut(hidden);
                                let examples = cells.zip(before.chunks_exact(hidden)).zip(h);
                                let gates = gates.chunks_exact_mut(4 * hidden);
                                for (gates, ((c, before), h)) in gates.zip(examples) {
                                    let [i, o, f, g] = quarters_mut(gates);
                                    i.iter_mut().for_each(|gate| *gate = sigmoid(*gate));
                                    o.iter_mut().for_each(|gate| *gate = sigmoid(*gate));
                                    f.iter_mut().for_each(|gate| *gate = sigmoid(*gate));
                                    g.iter_mut().for_each(|gate| *gate = tanh(*gate));
                                    for unit in 0..hidden {
                                        c[unit] = f[unit] * before[unit] + i[unit] * g[unit];
                                        h[unit] = o[unit] * tanh(c[unit]);
                                    }
                                }
                            },
                        );
                        earlier = Some(place);
                    }
                    last_c.copy_from_slice(earlier.map_or(first_c, |last| &*cells[last]));
                },
            );
        });
        let [out, gates, cells]: [Vec<f32>; 3] =
            made.try_into().expect("as many as there are lengths");
        let count = out.len();
        let out = tensor(out, &[count]);
        let kept = Kept {
            recurrence,
            first_h,
            first_c,
            gates: tensor(gates, &[self.time * self.batch, 4 * hidden]),
            cells: tensor(cells, &[self.time * self.batch, hidden]),
            out: out.clone(),
        };
        (out, kept)
    }

    fn backward(
        &self,
        kept: Kept,
        gradient: FlexTensor,
        wanted: [bool; 4],
    ) -> [Option<FlexTensor>; 4] {
        let hidden = self.hidden;
        let (rows, step) = (self.at_once(), self.batch * hidden);
        let gradient = elements(&gradient);
        let (gates, cells) = (elements(&kept.gates), elements(&kept.cells));
        let first_c = elements(&kept.first_c);
        let arch = Arch::new();
        let (gradient, by_last_c) = gradient.split_at(self.time * step);
        let mut by_h = vec![0f32; step];
        let mut by_c = by_last_c.to_vec();
        let order = self.order();
        let factor = Factor::of(&Matrices::of(&kept.recurrence), rows);
        let by_gates = super::written(4 * self.time * step, |by_gates| {
            let parts = self
                .parts(by_gates, 4 * hidden)
                .into_par_iter()
                .zip(by_h.par_chunks_mut(rows * hidden))
                .zip(by_c.par_chunks_mut(rows * hidden))
                .enumerate();
            parts.for_each(|(part, ((by_gates, by_h), by_c))| {
                let mut by_gates: Vec<&mut [f32]> = by_gates;
                let first = part * rows * hidden;
                for (number, &place) in order.iter().enumerate().rev() {
                    let earlier = match number {
                        0 => &first_c[first..],
                        _ => &cells[order[number - 1] * step + first..],
                    };
                    let start = place * step + first;
                    let (gates, cells) = (&gates[4 * start..], &cells[start..]);
                    let gradient = &gradient[start..];
                    let by_gates = &mut *by_gates[place];
                    arch.run(
                        #[inline(always)]
                        || {
                            for example in 0..by_c.len() / hidden {
                                let at = example * hidden;
                                let [i, o, f, g] = quarters(&gates[4 * at..][..4 * hidden]);
                                let [di, d_o, df, dg] =
                                    quarters_mut(&mut by_gates[4 * at..][..4 * hidden]);
                                let by_c = &mut by_c[at..][..hidden];
                                let (by_h, gradient) =
                                    (&by_h[at..][..hidden], &gradient[at..][..hidden]);
                                let (cells, earlier) =
                                    (&cells[at..][..hidden], &earlier[at..][..hidden]);
                                for unit in 0..hidden {
                                    let dh = by_h[unit] + gradient[unit];
                                    let bent = tanh(cells[unit]);
                                    let dc = by_c[unit] + dh * o[unit] * (1.0 - bent * bent);
                                    d_o[unit] = dh * bent * o[unit] * (1.0 - o[unit]);
                                    di[unit] = dc * g[unit] * i[unit] * (1.0 - i[unit]);
                                    df[unit] = dc * earlier[unit] * f[unit] * (1.0 - f[unit]);
                                    dg[unit] = dc * i[unit] * (1.0 - g[unit] * g[unit]);
                                    by_c[unit] = dc * f[unit];
                                }
                            }
                        },
                    );
                    if number > 0 || wanted[2] {
                        let own = Matrices::new(by_gates, by_c.len() / hidden, 4 * hidden);
                        factor.multiply(&own, Start::Zero, by_h);
                    }
                }
            });
        });
        let by_recurrence = wanted[1].then(|| {
            let product = |gates: &[f32], h: &[f32]| {
                let rows = h.len() / hidden;
                let turned = Matrices::new(gates, rows, 4 * hidden).turned();
                multiply(&turned, &Matrices::new(h, rows, hidden), None, None)
            };
            // Each step's gates by the state before it, which is the first one or the neighbour's in time.
            let later = (self.time - 1) * step;
            let first = 4 * order[0] * step;
            let first_h = elements(&kept.first_h);
            let mut found = match is_zero(first_h) {
                true => vec![0f32; 4 * hidden * hidden],
                false => product(&by_gates[first..first + 4 * step], first_h),
            };
            if later > 0 {
                let (gates, h) = match self.reversed {
                    false => (4 * step, 0),
                    true => (0, step),
                };
                let h = &elements(&kept.out)[h..h + later];
                add(&mut found, &product(&by_gates[gates..gates + 4 * later], h));
            }
            tensor(found, &[4 * hidden, hidden])
        });
        let by_gates = tensor(by_gates, &[self.time * self.batch, 4 * hidden]);
        let shape = burn::tensor::Shape::from(vec![self.time, self.batch, 4 * hidden]);
        [
            wanted[0].then(|| by_gates.reshape(shape)),
            by_recurrence,
            wanted[2].then(|| self.matrix(by_h, hidden)),
            wanted[3].then(|| self.matrix(by_c, hidden)),
        ]
    }
}
