//! Matrix products, of matrices in any order of their axes, with a bias and a clip behind them.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::arch::Arch;
use super::correlate::{Block, Correlation, Start};
use super::tiles::{Rows, Tiles};
use super::turn::turn;
use super::{
    Kernel, add, copy, copy_from_each, dims, elements, first, fixed, inside, is_walkable, run,
    tensor, with_scratch, written,
};
use crate::exec::value::{self, Value};

/// `[batch, rows, inner] · [batch, inner, columns]`, with as many axes of batch as there are.
#[derive(Debug, Clone)]
struct Product {
    /// Which factors have their last two axes the other way round.
    turned: [bool; 2],
    /// What the results are brought into.
    clip: Option<[f32; 2]>,
}

/// Matrices in the last two axes; the others are alike in both. The bias is a number for each column;
/// results beyond the ends of `clip` are brought to them. Factors that are `turned` have rows for
/// columns. `None` on devices that keep Burn's own.
pub(in crate::exec) fn product(
    a: &Value,
    b: &Value,
    turned: [bool; 2],
    bias: Option<&Value>,
    clip: Option<[f32; 2]>,
) -> Option<Value> {
    let shapes = [a, b].map(value::dims);
    if shapes.iter().flatten().any(|&size| size == 0) {
        return None;
    }
    let kernel = Product { turned, clip };
    Some(match bias {
        Some(bias) => run(&kernel, [a, b, bias])?.0,
        None => run(&kernel, [a, b])?.0,
    })
}

/// Matrices in a tensor's last two axes.
#[derive(Clone)]
pub(super) struct Matrices<'a> {
    elements: &'a [f32],
    /// Where each begins.
    starts: Vec<usize>,
    rows: usize,
    columns: usize,
    /// Distances of neighbouring rows and of neighbouring columns.
    strides: [usize; 2],
}

impl<'a> Matrices<'a> {
    /// One matrix, row by row.
    pub fn new(elements: &'a [f32], rows: usize, columns: usize) -> Self {
        Self {
            elements,
            starts: vec![0],
            rows,
            columns,
            strides: [columns, 1],
        }
    }

    pub fn of(tensor: &'a FlexTensor) -> Self {
        let shape = dims(tensor);
        let layout = tensor.layout();
        let strides: Vec<usize> = layout.strides().iter().map(|&s| s.unsigned_abs()).collect();
        let (outer, own) = shape.split_at(shape.len() - 2);
        let mut starts = vec![layout.start_offset()];
        for (size, stride) in outer.iter().zip(&strides) {
            let steps = |start: usize| (0..*size).map(move |step| start + step * stride);
            starts = starts.into_iter().flat_map(steps).collect();
        }
        Self {
            elements: tensor.storage::<f32>(),
            starts,
            rows: own[0],
            columns: own[1],
            strides: [strides[outer.len()], strides[outer.len() + 1]],
        }
    }

    /// All of the tensor's.
    pub fn elements(&self) -> &'a [f32] {
        self.elements
    }

    /// Which of the elements the first matrix has.
    fn source(&self) -> [usize; 5] {
        let [down, right] = self.strides;
        [self.starts[0], self.rows, self.columns, down, right]
    }

    /// With rows for columns.
    pub fn turned(&self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            strides: [self.strides[1], self.strides[0]],
            ..self.clone()
        }
    }

    /// Up to `count` columns from `first` on.
    fn columns(&self, first: usize, count: usize) -> Self {
        let starts = self.starts.iter();
        Self {
            starts: starts
                .map(|start| start + first * self.strides[1])
                .collect(),
            columns: count.min(self.columns - first),
            ..self.clone()
        }
    }

    /// Copies `width` columns from `first` on of one matrix, row by row; columns that it does not have
    /// are zero.
    #[inline(always)]
    fn copy(&self, item: usize, first: usize, width: usize, out: &mut [f32]) {
        let [down, right] = self.strides;
        let start = self.starts[item] + first * right;
        let count = width.min(self.columns - first);
        if count < width {
            out.fill(0.0);
        }
        if right == 1 {
            let source = &self.elements[start..];
            let rows = (0..).map(|row| row * down);
            match (count == width, width) {
                (true, 16) => return copy_from_each::<16>(source, rows, out),
                (true, 32) => return copy_from_each::<32>(source, rows, out),
                (true, 48) => return copy_from_each::<48>(source, rows, out),
                _ => {}
            }
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                copy(&mut out[..count], &self.elements[start + row * down..]);
            }
            return;
        }
        let source = &self.elements[start..];
        if down == 1 {
            return turn(source, right, [count, self.rows], out, width);
        }
        // In squares, so that what is read and what is written stays in the cache.
        const SIDE: usize = 16;
        for (top, out) in out.chunks_mut(SIDE * width).enumerate() {
            for column in 0..count {
                let source = source[top * SIDE * down + column * right..].iter();
                let target = out[column..].iter_mut().step_by(width);
                target.zip(source.step_by(down)).for_each(|(t, s)| *t = *s);
            }
        }
    }
}

/// Multiplications from which on more than one thread is worth it.
const LARGE: usize = 1 << 18;

/// Rows of the first factor up to which threads share the columns: each part of the rows reads the whole
/// second factor.
const FEW_ROWS: usize = 256;

/// How one matrix of many lies in memory as the second factor: tile by tile, so that a tile is read
/// from one end to the other.
#[derive(Debug)]
struct Panels {
    inner: usize,
    columns: usize,
    /// Columns of a tile.
    width: usize,
    block: Block,
    tiles: Tiles,
    offsets: Vec<usize>,
}

impl Panels {
    /// For factors of `rows` rows.
    fn of(b: &Matrices, rows: usize, arch: Arch) -> Self {
        let (block, _) = Block::best(arch, rows, &[Rows::one(0, b.columns, 0)], 1);
        let width = block.width(arch);
        let panels: Vec<Rows> = (0..b.columns)
            .step_by(width)
            .map(|first| Rows::one(first * b.rows, width.min(b.columns - first), first))
            .collect();
        Self {
            inner: b.rows,
            columns: b.columns,
            width,
            block,
            tiles: Tiles::cut(&panels, width, 1),
            offsets: (0..b.rows).map(|row| row * width).collect(),
        }
    }

    fn len(&self) -> usize {
        self.columns.next_multiple_of(self.width) * self.inner
    }

    /// Copies one matrix, by many threads where `shared`.
    fn fill(&self, b: &Matrices, item: usize, out: &mut [f32], arch: Arch, shared: bool) {
        let panel = self.inner * self.width;
        let copy = |(index, out): (usize, &mut [f32])| {
            arch.run(
                #[inline(always)]
                || b.copy(item, index * self.width, self.width, out),
            );
        };
        match shared {
            true => out.par_chunks_mut(panel).enumerate().for_each(copy),
            false => out.chunks_mut(panel).enumerate().for_each(copy),
        }
    }
}

/// How the rows of the first factor are multiplied.
struct Plan<'a> {
    arch: Arch,
    panels: &'a Panels,
    places: Vec<usize>,
    start: Start<'a>,
    clip: Option<[f32; 2]>,
}

impl<'a> Plan<'a> {
    fn of(a: &Matrices, panels: &'a Panels, start: Start<'a>, clip: Option<[f32; 2]>) -> Self {
        Self {
            arch: Arch::new(),
            panels,
            places: (0..a.columns).map(|column| column * a.strides[1]).collect(),
            start,
            clip,
        }
    }

    /// One matrix times the one whose elements are `filled`; by many threads where that helps.
    fn multiply(&self, a: &Matrices, item: usize, filled: &[f32], out: &mut [f32]) {
        let columns = self.panels.columns;
        let rows = out.len() / columns;
        let at_once = match out.len() * self.panels.inner >= LARGE {
            true => rows.div_ceil(4 * rayon::current_num_threads()),
            false => rows,
        };
        let at_once = at_once.next_multiple_of(self.panels.block.rows);
        let elements = &a.elements[a.starts[item]..];
        if at_once >= rows {
            return self.multiply_rows(elements, a.strides, filled, out);
        }
        let parts = out.par_chunks_mut(at_once * columns).enumerate();
        parts.for_each(|(part, out)| {
            let own = &elements[part * at_once * a.strides[0]..];
            self.multiply_rows(own, a.strides, filled, out);
        });
    }

    /// As many rows as fill `out`, on this thread.
    fn multiply_rows(&self, rows: &[f32], strides: [usize; 2], filled: &[f32], out: &mut [f32]) {
        let panels = self.panels;
        let count = out.len() / panels.columns;
        let block = panels.block;
        with_scratch(block.packed_len(count, panels.inner), |packed| {
            let arch = self.arch;
            arch.run(
                #[inline(always)]
                || block.pack(rows, count, strides[0], &self.places, packed),
            );
            Correlation {
                factors: packed,
                block,
                offsets: &panels.offsets,
                tiles: &panels.tiles,
                planes: filled,
                panels: true,
                start: self.start,
                clip: self.clip,
                first: 0,
                out,
                plane: panels.columns,
            }
            .run(arch);
        });
    }
}

/// A matrix that others are multiplied by again and again.
#[derive(Debug)]
pub(super) struct Factor {
    /// Of the matrix: its first element's place, rows, columns and strides.
    source: [usize; 5],
    /// What it is for.
    rows: usize,
    panels: Panels,
    elements: Vec<f32>,
}

impl Factor {
    /// For factors of `rows` rows: the one that is kept, of weights that do not change.
    pub fn of(b: &Matrices, rows: usize) -> Arc<Self> {
        fixed::factor(b, rows).unwrap_or_else(|| Arc::new(Self::new(b, rows)))
    }

    pub fn new(b: &Matrices, rows: usize) -> Self {
        let arch = Arch::new();
        let panels = Panels::of(b, rows, arch);
        let elements = written(panels.len(), |out| panels.fill(b, 0, out, arch, false));
        Self {
            source: b.source(),
            rows,
            panels,
            elements,
        }
    }

    /// Whether it is the one for `rows` rows that would be made of `b`, which has the same elements.
    pub fn is_of(&self, b: &Matrices, rows: usize) -> bool {
        (self.source, self.rows) == (b.source(), rows)
    }

    /// `a`, one matrix, times this one, added to `start`, on this thread.
    pub fn multiply(&self, a: &Matrices, start: Start, out: &mut [f32]) {
        let plan = Plan::of(a, &self.panels, start, None);
        plan.multiply_rows(&a.elements[a.starts[0]..], a.strides, &self.elements, out);
    }
}

/// `a · b`, and on it the bias, a number for each column, brought into `clip`.
pub(super) fn multiply(
    a: &Matrices,
    b: &Matrices,
    bias: Option<&[f32]>,
    clip: Option<[f32; 2]>,
) -> Vec<f32> {
    let (batch, one) = (a.starts.len(), a.rows * b.columns);
    let threads = rayon::current_num_threads();
    let large = batch * one * a.columns >= LARGE;
    // Each thread reads the whole first factor then.
    let by_columns = a.rows <= FEW_ROWS && b.columns >= 64 && b.columns > a.rows;
    if large && batch == 1 && by_columns && threads > 1 {
        return multiply_by_columns(a, b, bias, clip, threads);
    }
    let start = Start::of(bias, Start::Positions);
    if let Some(factor) = kept_for_few(b, a.rows) {
        let plan = Plan::of(a, &factor.panels, start, clip);
        return written(one, |out| plan.multiply(a, 0, &factor.elements, out));
    }
    let panels = Panels::of(b, a.rows, Arch::new());
    let plan = Plan::of(a, &panels, start, clip);
    let each = |(item, out): (usize, &mut [f32])| {
        with_scratch(panels.len(), |filled| {
            panels.fill(b, item, filled, plan.arch, large && batch == 1);
            plan.multiply(a, item, filled, out);
        });
    };
    written(batch * one, |out| match large && batch > 1 {
        true => out.par_chunks_mut(one).enumerate().for_each(each),
        false => out.chunks_mut(one).enumerate().for_each(each),
    })
}

/// The factor that is kept of one matrix of weights. With many rows what it would spare is nothing beside the product.
fn kept_for_few(b: &Matrices, rows: usize) -> Option<Arc<Factor>> {
    match b.starts.len() == 1 && rows <= FEW_ROWS {
        true => fixed::factor(b, rows),
        false => None,
    }
}

/// One product of few rows, of which each thread computes some columns.
fn multiply_by_columns(
    a: &Matrices,
    b: &Matrices,
    bias: Option<&[f32]>,
    clip: Option<[f32; 2]>,
    threads: usize,
) -> Vec<f32> {
    let share = b.columns.div_ceil(threads).next_multiple_of(16);
    let own = |part: usize| b.columns(part * share, share);
    let parts = 0..b.columns.div_ceil(share);
    let kept: Vec<Option<Arc<Factor>>> =
        parts.map(|part| kept_for_few(&own(part), a.rows)).collect();
    let parts: Vec<Vec<f32>> = kept
        .into_par_iter()
        .enumerate()
        .map(|(part, kept)| {
            let own = own(part);
            let start = bias.map(|bias| &bias[part * share..][..own.columns]);
            let start = Start::of(start, Start::Positions);
            let multiply = |panels: &Panels, filled: &[f32]| {
                let plan = Plan::of(a, panels, start, clip);
                written(a.rows * own.columns, |out| {
                    plan.multiply_rows(&a.elements[a.starts[0]..], a.strides, filled, out);
                })
            };
            if let Some(factor) = kept {
                return multiply(&factor.panels, &factor.elements);
            }
            let arch = Arch::new();
            let panels = Panels::of(&own, a.rows, arch);
            with_scratch(panels.len(), |filled| {
                panels.fill(&own, 0, filled, arch, false);
                multiply(&panels, filled)
            })
        })
        .collect();
    written(a.rows * b.columns, |out| {
        for (row, out) in out.chunks_exact_mut(b.columns).enumerate() {
            for (part, out) in parts.iter().zip(out.chunks_mut(share)) {
                out.copy_from_slice(&part[row * out.len()..][..out.len()]);
            }
        }
    })
}

/// Both factors, and the result where it was clipped.
type Kept = (FlexTensor, FlexTensor, Option<FlexTensor>);

impl Product {
    fn factors<'a>(&self, a: &'a FlexTensor, b: &'a FlexTensor) -> [Matrices<'a>; 2] {
        let turned = |factor: Matrices<'a>, turned: bool| match turned {
            true => factor.turned(),
            false => factor,
        };
        [
            turned(Matrices::of(a), self.turned[0]),
            turned(Matrices::of(b), self.turned[1]),
        ]
    }

    fn result(&self, a: FlexTensor, b: FlexTensor, bias: Option<&[f32]>) -> (FlexTensor, Kept) {
        let [left, right] = self.factors(&a, &b);
        let mut shape = dims(&a);
        let outer = shape.len() - 2;
        shape.truncate(outer);
        shape.extend([left.rows, right.columns]);
        let out = tensor(multiply(&left, &right, bias, self.clip), &shape);
        let kept = self.clip.map(|_| out.clone());
        (out, (a, b, kept))
    }

    /// Gradients by both factors and the bias.
    fn gradients(
        &self,
        (a, b, out): Kept,
        gradient: FlexTensor,
        wanted: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let gradient = match (&out, self.clip) {
            (Some(out), Some(ends)) => inside(&gradient, out, ends),
            _ => gradient,
        };
        let [left, right] = self.factors(&a, &b);
        let given = Matrices::of(&gradient);
        // A turned factor takes its gradient turned: (G · Bᵀ)ᵀ = B · Gᵀ, (Aᵀ · G)ᵀ = Gᵀ · A.
        [
            wanted[0].then(|| {
                let found = match self.turned[0] {
                    false => multiply(&given, &right.turned(), None, None),
                    true => multiply(&right, &given.turned(), None, None),
                };
                tensor(found, &dims(&a))
            }),
            wanted[1].then(|| {
                let found = match self.turned[1] {
                    false => multiply(&left.turned(), &given, None, None),
                    true => multiply(&given.turned(), &left, None, None),
                };
                tensor(found, &dims(&b))
            }),
            wanted[2].then(|| column_sums(&gradient)),
        ]
    }
}

/// Sums over all axes but the last, of parts of fixed size, so that they are the same on any number
/// of threads.
fn column_sums(values: &FlexTensor) -> FlexTensor {
    const ROWS: usize = 64;
    let columns = *dims(values).last().expect("matrices have two axes");
    let arch = Arch::new();
    let parts: Vec<Vec<f32>> = elements(values)
        .par_chunks(ROWS * columns)
        .map(|rows| {
            let mut sums = vec![0f32; columns];
            arch.run(
                #[inline(always)]
                || {
                    rows.chunks_exact(columns)
                        .for_each(|row| add(&mut sums, row))
                },
            );
            sums
        })
        .collect();
    let mut sums = vec![0f32; columns];
    parts.iter().for_each(|part| add(&mut sums, part));
    tensor(sums, &[columns])
}

impl<const N: usize> Kernel<N> for Product {
    type Kept = Kept;

    fn accepts(&self, input: &FlexTensor) -> bool {
        is_walkable(input)
    }

    fn forward(&self, inputs: [FlexTensor; N]) -> (FlexTensor, Kept) {
        let bias = inputs.get(2).map(FlexTensor::to_contiguous);
        let [a, b] = [&inputs[0], &inputs[1]];
        self.result(a.clone(), b.clone(), bias.as_ref().map(elements))
    }

    fn backward(
        &self,
        kept: Kept,
        gradient: FlexTensor,
        wanted: [bool; N],
    ) -> [Option<FlexTensor>; N] {
        first(self.gradients(kept, gradient, first(wanted)))
    }
}
