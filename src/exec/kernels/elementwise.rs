//! Chains of elementwise functions, a few hundred elements at a time, which stay in the first-level
//! cache from the first function to the last; and their gradients, for which the values between are
//! computed again.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::arch::Arch;
use super::functions::{gather, power, raise};
use super::{Kernel, add, all_written, dims, elements, run, tensor, written};
use crate::exec::ops::chain::{Chain, Function};
use crate::exec::ops::elementwise::{Binary, Unary};
use crate::exec::value::{self, Value};

/// Elements that go through a chain together.
const BLOCK: usize = 512;

/// Elements that a thread takes at once.
const TASK: usize = 16 * BLOCK;

/// The result of a chain; `None` on devices that keep Burn's own.
pub(in crate::exec) fn elementwise(chain: &Chain, inputs: &[Value]) -> Option<Value> {
    if chain.output.contains(&0) {
        return None;
    }
    let fitting: Vec<Value> = inputs
        .iter()
        .map(
            |input| match Access::of(&value::dims(input), &chain.output) {
                Some(_) => input.clone(),
                None => value::expand(input.clone(), &chain.output),
            },
        )
        .collect();
    macro_rules! by_count {
        ($($count:literal)*) => {
            match fitting.len() {
                $($count => {
                    let inputs: [&Value; $count] = std::array::from_fn(|index| &fitting[index]);
                    run(chain, inputs)?.0
                })*
                _ => return None,
            }
        };
    }
    Some(by_count!(1 2 3 4 5 6 7 8))
}

/// How the elements of an input stand for those of the result: the i-th is `(i ÷ inner) mod count`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Access {
    inner: usize,
    count: usize,
}

impl Access {
    /// `None` where the input repeats in the middle of its own axes.
    fn of(input: &[usize], output: &[usize]) -> Option<Self> {
        let size = |axis: usize| match (axis + input.len()).checked_sub(output.len()) {
            Some(own) => input[own],
            None => 1,
        };
        let own: Vec<usize> = (0..output.len()).filter(|&axis| size(axis) > 1).collect();
        let (Some(&first), Some(&last)) = (own.first(), own.last()) else {
            return Some(Self { inner: 1, count: 1 });
        };
        if (first..=last).any(|axis| size(axis) != output[axis]) {
            return None;
        }
        Some(Self {
            inner: output[last + 1..].iter().product(),
            count: output[first..=last].iter().product(),
        })
    }

    /// Whether the elements are those of the result, of which there are `len`.
    fn is_whole(self, len: usize) -> bool {
        self.inner == 1 && self.count == len
    }

    /// Calls `visit(element of the input, places from `start` on)` for stretches of `len` places: of
    /// neighbouring elements where each stands for one place, else of a single element.
    #[inline(always)]
    fn stretches(self, start: usize, len: usize, mut visit: impl FnMut(usize, usize, usize)) {
        let mut done = 0;
        while done < len {
            let at = start + done;
            let (element, left) = match self.inner {
                1 if self.count == 1 => (0, len),
                1 => (at % self.count, self.count - at % self.count),
                inner => ((at / inner) % self.count, inner - at % inner),
            };
            let step = left.min(len - done);
            visit(element, done, step);
            done += step;
        }
    }

    /// Whether a stretch is of a single element.
    fn repeats(self) -> bool {
        self.inner > 1 || self.count == 1
    }

    #[inline(always)]
    fn read(self, source: &[f32], start: usize, out: &mut [f32]) {
        self.stretches(start, out.len(), |element, place, len| {
            let out = &mut out[place..place + len];
            match self.repeats() {
                true => out.fill(source[element]),
                false => out.copy_from_slice(&source[element..element + len]),
            }
        });
    }

    /// How many of its elements `len` neighbouring places have at most.
    fn reach(self, len: usize) -> usize {
        self.count.min(len.div_ceil(self.inner) + 1)
    }
}

/// Values of a block.
type Registers = Vec<[f32; BLOCK]>;

/// Neighbouring places of which one thread brings the gradients back: by input its places of a whole
/// one, or sums of what repeats.
struct Task<'a> {
    start: usize,
    len: usize,
    whole: Vec<&'a mut [f32]>,
    parts: Vec<&'a mut [f32]>,
}

/// Inputs, or the result where that is enough.
type Kept = (Vec<FlexTensor>, bool);

impl Chain {
    fn accesses(&self, shapes: &[Vec<usize>]) -> Vec<Access> {
        let access = |shape: &Vec<usize>| Access::of(shape, &self.output);
        let all = shapes.iter().map(access);
        all.map(|access| access.expect("was expanded where not"))
            .collect()
    }

    /// Whether the gradients follow from the result alone.
    fn told_by_result(&self) -> bool {
        let (last, others) = self.links.split_last().expect("a chain has links");
        let linear = |function: &Function| {
            matches!(
                function,
                Function::Binary(Binary::Add | Binary::Sub)
                    | Function::Unary(Unary::Neg | Unary::Identity)
            )
        };
        let by_result = match last.function {
            Function::Unary(unary) => matches!(
                unary,
                Unary::Relu
                    | Unary::Sigmoid
                    | Unary::Tanh
                    | Unary::Exp
                    | Unary::Sqrt
                    | Unary::Clip { .. }
            ),
            _ => false,
        };
        (by_result || linear(&last.function)) && others.iter().all(|link| linear(&link.function))
    }

    /// Computes the links of a block of which the inputs' registers are filled.
    #[inline(always)]
    fn compute(&self, registers: &mut [[f32; BLOCK]], len: usize) {
        for (index, link) in self.links.iter().enumerate() {
            let (before, after) = registers.split_at_mut(self.inputs + index);
            let out = &mut after[0][..len];
            let a = &before[link.reads[0]][..len];
            match link.function {
                Function::Unary(unary) => unary.compute(a, out),
                Function::Binary(binary) => binary.compute(a, &before[link.reads[1]][..len], out),
                Function::Power(exponent) => raise(a, exponent, out),
            }
        }
    }

    fn result(&self, inputs: &[FlexTensor], shapes: &[Vec<usize>]) -> FlexTensor {
        let accesses = self.accesses(shapes);
        let sources: Vec<&[f32]> = inputs.iter().map(elements).collect();
        let arch = Arch::new();
        let len = self.output.iter().product();
        let registers = self.inputs + self.links.len();
        let out = written(len, |out| {
            let task = |registers: &mut Registers, (index, out): (usize, &mut [f32])| {
                arch.run(
                    #[inline(always)]
                    || {
                        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
                            let start = index * TASK + block * BLOCK;
                            let len = out.len();
                            for ((access, source), register) in
                                accesses.iter().zip(&sources).zip(registers.iter_mut())
                            {
                                access.read(source, start, &mut register[..len]);
                            }
                            self.compute(registers, len);
                            out.copy_from_slice(&registers[registers.len() - 1][..len]);
                        }
                    },
                );
            };
            let fresh = || vec![[0f32; BLOCK]; registers];
            if len <= TASK {
                task(&mut fresh(), (0, out));
            } else {
                out.par_chunks_mut(TASK)
                    .enumerate()
                    .for_each_init(fresh, task);
            }
        });
        tensor(out, &self.output)
    }

    fn gradients<const N: usize>(
        &self,
        (kept, by_result): Kept,
        gradient: &FlexTensor,
        wanted: [bool; N],
        shapes: &[Vec<usize>],
    ) -> [Option<FlexTensor>; N] {
        let accesses = self.accesses(shapes);
        let sources: Vec<&[f32]> = kept.iter().map(elements).collect();
        let gradient = elements(gradient);
        let len = gradient.len();
        let tasks = len.div_ceil(TASK);
        let count = self.inputs + self.links.len();
        // Which registers have a wanted input behind them.
        let mut tracked = vec![false; count];
        tracked[..N].copy_from_slice(&wanted);
        for (index, link) in self.links.iter().enumerate() {
            tracked[self.inputs + index] = link.reads().iter().any(|&read| tracked[read]);
        }
        // Each task writes its places of whole inputs, and sums of its own for the others.
        let lens: Vec<usize> = accesses
            .iter()
            .zip(wanted)
            .map(|(access, wanted)| {
                if wanted && access.is_whole(len) {
                    len
                } else {
                    0
                }
            })
            .collect();
        let mut parts: Vec<Vec<f32>> = accesses
            .iter()
            .zip(wanted)
            .map(|(access, wanted)| match wanted && !access.is_whole(len) {
                true => vec![0f32; tasks * access.reach(TASK)],
                false => Vec::new(),
            })
            .collect();
        let arch = Arch::new();
        let work = |(registers, adjoints): &mut (Registers, Registers), mut task: Task| {
            arch.run(
                #[inline(always)]
                || {
                    for first in (0..task.len).step_by(BLOCK) {
                        let start = task.start + first;
                        let len = BLOCK.min(task.len - first);
                        if by_result {
                            registers[count - 1][..len]
                                .copy_from_slice(&sources[0][start..][..len]);
                        } else {
                            let inputs = accesses.iter().zip(&sources).zip(registers.iter_mut());
                            for ((access, source), register) in inputs {
                                access.read(source, start, &mut register[..len]);
                            }
                            self.compute(registers, len);
                        }
                        adjoints
                            .iter_mut()
                            .for_each(|adjoint| adjoint[..len].fill(0.0));
                        adjoints[count - 1][..len].copy_from_slice(&gradient[start..][..len]);
                        self.go_back(registers, adjoints, &tracked, len);
                        for (input, access) in accesses.iter().enumerate() {
                            let adjoint = &adjoints[input][..len];
                            if !wanted[input] {
                                continue;
                            }
                            if access.is_whole(gradient.len()) {
                                task.whole[input][first..][..len].copy_from_slice(adjoint);
                                continue;
                            }
                            let base = (task.start / access.inner) % access.count;
                            let sums = &mut *task.parts[input];
                            access.stretches(start, len, |element, place, len| {
                                let own = &adjoint[place..place + len];
                                let at = (element + access.count - base) % access.count;
                                if access.repeats() {
                                    sums[at] += super::norm::sum(own);
                                    return;
                                }
                                // What wraps around is at the beginning again.
                                let (near, far) = own.split_at(len.min(sums.len() - at));
                                add(&mut sums[at..], near);
                                add(sums, far);
                            });
                        }
                    }
                },
            );
        };
        let mut whole = all_written(&lens, |whole| {
            let mut all: Vec<Task> = (0..tasks)
                .map(|index| Task {
                    start: index * TASK,
                    len: TASK.min(len - index * TASK),
                    whole: Vec::new(),
                    parts: Vec::new(),
                })
                .collect();
            for ((whole, parts), access) in whole.into_iter().zip(&mut parts).zip(&accesses) {
                let mut whole = whole.chunks_mut(TASK);
                let mut parts = parts.chunks_mut(access.reach(TASK));
                for task in &mut all {
                    task.whole.push(whole.next().unwrap_or_default());
                    task.parts.push(parts.next().unwrap_or_default());
                }
            }
            let fresh = || (vec![[0f32; BLOCK]; count], vec![[0f32; BLOCK]; count]);
            match all.len() {
                1 => work(&mut fresh(), all.remove(0)),
                _ => all.into_par_iter().for_each_init(fresh, work),
            }
        });
        std::array::from_fn(|input| {
            let access = accesses[input];
            if !wanted[input] {
                return None;
            }
            if access.is_whole(len) {
                return Some(tensor(std::mem::take(&mut whole[input]), &shapes[input]));
            }
            let mut sums = vec![0f32; access.count];
            for (task, part) in parts[input].chunks(access.reach(TASK)).enumerate() {
                let base = (task * TASK / access.inner) % access.count;
                let (near, far) = part.split_at(part.len().min(access.count - base));
                add(&mut sums[base..], near);
                add(&mut sums, far);
            }
            Some(tensor(sums, &shapes[input]))
        })
    }

    /// Brings the gradients of a block from each link to what it reads.
    #[inline(always)]
    fn go_back(
        &self,
        registers: &[[f32; BLOCK]],
        adjoints: &mut [[f32; BLOCK]],
        tracked: &[bool],
        len: usize,
    ) {
        for (index, link) in self.links.iter().enumerate().rev() {
            let own = self.inputs + index;
            if !tracked[own] {
                continue;
            }
            let (before, after) = adjoints.split_at_mut(own);
            let g = &after[0][..len];
            let y = &registers[own][..len];
            let x = &registers[link.reads[0]][..len];
            match link.function {
                Function::Unary(unary) => unary.go_back(x, y, g, &mut before[link.reads[0]][..len]),
                Function::Power(exponent) => {
                    let out = &mut before[link.reads[0]][..len];
                    gather(out, x, g, |x, g| g * exponent * power(x, exponent - 1.0));
                }
                Function::Binary(binary) => {
                    let second = &registers[link.reads[1]][..len];
                    for side in 0..2 {
                        if tracked[link.reads[side]] {
                            let out = &mut before[link.reads[side]][..len];
                            binary.go_back(side, [x, second], y, g, out);
                        }
                    }
                }
            }
        }
    }
}

impl<const N: usize> Kernel<N> for Chain {
    type Kept = (Kept, Vec<Vec<usize>>);

    fn forward(&self, inputs: [FlexTensor; N]) -> (FlexTensor, Self::Kept) {
        let shapes: Vec<Vec<usize>> = inputs.iter().map(dims).collect();
        let out = self.result(&inputs, &shapes);
        let kept = match self.told_by_result() {
            true => (vec![out.clone()], true),
            false => (inputs.to_vec(), false),
        };
        (out, (kept, shapes))
    }

    fn backward(
        &self,
        (kept, shapes): Self::Kept,
        gradient: FlexTensor,
        wanted: [bool; N],
    ) -> [Option<FlexTensor>; N] {
        self.gradients(kept, &gradient, wanted, &shapes)
    }
}
