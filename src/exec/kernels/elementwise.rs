//! Chains of elementwise functions, a few hundred elements at a time, which stay in the first-level
//! cache from the first function to the last; and their gradients, for which the values between are
//! computed again.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use super::arch::Arch;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::math::{erf, exp, sigmoid, tanh};
use super::{Kernel, all_written, dims, elements, run, tensor, written};
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
    fn accesses(&self, inputs: &[FlexTensor]) -> Vec<Access> {
        inputs
            .iter()
            .map(|input| Access::of(&dims(input), &self.output).expect("was expanded where not"))
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

    fn forward(&self, inputs: &[FlexTensor]) -> FlexTensor {
        let accesses = self.accesses(inputs);
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
        let accesses: Vec<Access> = shapes
            .iter()
            .map(|shape| Access::of(shape, &self.output).expect("was expanded where not"))
            .collect();
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

#[inline(always)]
fn add(target: &mut [f32], source: &[f32]) {
    target.iter_mut().zip(source).for_each(|(t, s)| *t += *s);
}

#[inline(always)]
fn map(x: &[f32], out: &mut [f32], function: impl Fn(f32) -> f32) {
    out.iter_mut().zip(x).for_each(|(o, x)| *o = function(*x));
}

#[inline(always)]
fn map_two(a: &[f32], b: &[f32], out: &mut [f32], function: impl Fn(f32, f32) -> f32) {
    let both = a.iter().zip(b);
    out.iter_mut()
        .zip(both)
        .for_each(|(o, (a, b))| *o = function(*a, *b));
}

/// `out[i] += function(a[i], b[i])`
#[inline(always)]
fn gather(out: &mut [f32], a: &[f32], b: &[f32], function: impl Fn(f32, f32) -> f32) {
    let both = a.iter().zip(b);
    out.iter_mut()
        .zip(both)
        .for_each(|(o, (a, b))| *o += function(*a, *b));
}

#[inline(always)]
fn power(x: f32, exponent: f32) -> f32 {
    match exponent {
        0.0 => 1.0,
        1.0 => x,
        2.0 => x * x,
        3.0 => x * x * x,
        0.5 => x.sqrt(),
        -0.5 => 1.0 / x.sqrt(),
        -1.0 => 1.0 / x,
        other => x.powf(other),
    }
}

#[inline(always)]
fn raise(x: &[f32], exponent: f32, out: &mut [f32]) {
    // The common ones as loops of their own, which become vector instructions.
    match exponent {
        2.0 => map(x, out, |x| x * x),
        3.0 => map(x, out, |x| x * x * x),
        0.5 => map(x, out, f32::sqrt),
        other => map(x, out, |x| power(x, other)),
    }
}

/// `ln(1 + eˣ)`
#[inline(always)]
fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The square root of 2 ÷ π.
const GELU_SCALE: f32 = 0.797_884_6;
const GELU_CUBIC: f32 = 0.044_715;

#[inline(always)]
fn exponential_half(x: f32, scale: f32, width: f32) -> f32 {
    if x > 0.0 {
        x
    } else {
        scale * (x / width).exp_m1()
    }
}

impl Unary {
    #[inline(always)]
    fn compute(self, x: &[f32], out: &mut [f32]) {
        match self {
            // What is no number stays that.
            Self::Relu => map(x, out, |x| if x < 0.0 { 0.0 } else { x }),
            Self::LeakyRelu { alpha } => map(x, out, |x| if x < 0.0 { alpha * x } else { x }),
            Self::Elu { alpha } => map(x, out, |x| exponential_half(x, alpha, 1.0)),
            Self::Selu { alpha, gamma } => {
                map(x, out, |x| gamma * exponential_half(x, alpha, 1.0));
            }
            Self::Celu { alpha } => map(x, out, |x| exponential_half(x, alpha, alpha)),
            Self::Sigmoid => map(x, out, sigmoid),
            Self::HardSigmoid { alpha, beta } => {
                map(x, out, |x| (alpha * x + beta).clamp(0.0, 1.0));
            }
            Self::HardSwish => map(x, out, |x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
            Self::Tanh => map(x, out, tanh),
            Self::Softplus => map(x, out, softplus),
            Self::Softsign => map(x, out, |x| x / (1.0 + x.abs())),
            Self::Mish => map(x, out, |x| x * tanh(softplus(x))),
            Self::Gelu { tanh: false } => {
                map(x, out, |x| 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)));
            }
            Self::Gelu { tanh: true } => map(x, out, |x| {
                let inner = GELU_SCALE * (x + GELU_CUBIC * x * x * x);
                0.5 * x * (1.0 + tanh(inner))
            }),
            Self::Swish { alpha } => map(x, out, |x| x * sigmoid(alpha * x)),
            Self::ThresholdedRelu { alpha } => map(x, out, |x| if x <= alpha { 0.0 } else { x }),
            Self::Clip { min, max } => map(x, out, |x| {
                let low = if x < min { min } else { x };
                if low > max { max } else { low }
            }),
            Self::Exp => map(x, out, exp),
            Self::Log => map(x, out, f32::ln),
            Self::Sqrt => map(x, out, f32::sqrt),
            Self::Abs => map(x, out, f32::abs),
            Self::Neg => map(x, out, |x| -x),
            Self::Reciprocal => map(x, out, |x| 1.0 / x),
            Self::Erf => map(x, out, erf),
            Self::Floor => map(x, out, f32::floor),
            Self::Ceil => map(x, out, f32::ceil),
            Self::Round => map(x, out, f32::round_ties_even),
            Self::Sign => map(x, out, |x| match x {
                x if x > 0.0 => 1.0,
                x if x < 0.0 => -1.0,
                x => x,
            }),
            Self::Sin => map(x, out, f32::sin),
            Self::Cos => map(x, out, f32::cos),
            Self::Tan => map(x, out, f32::tan),
            Self::Asin => map(x, out, f32::asin),
            Self::Acos => map(x, out, f32::acos),
            Self::Atan => map(x, out, f32::atan),
            Self::Sinh => map(x, out, f32::sinh),
            Self::Cosh => map(x, out, f32::cosh),
            Self::Asinh => map(x, out, f32::asinh),
            Self::Acosh => map(x, out, f32::acosh),
            Self::Atanh => map(x, out, f32::atanh),
            Self::Shrink { lambda, bias } => map(x, out, |x| match x {
                x if x > lambda => x - bias,
                x if x < -lambda => x + bias,
                _ => 0.0,
            }),
            Self::Identity => out.copy_from_slice(x),
        }
    }

    /// `out[i] += g[i] · f′(x[i])`, with `y = f(x)`.
    #[inline(always)]
    fn go_back(self, x: &[f32], y: &[f32], g: &[f32], out: &mut [f32]) {
        let half = |x: f32, scale: f32, width: f32| match x > 0.0 {
            true => 1.0,
            false => scale / width * (x / width).exp(),
        };
        match self {
            Self::Relu => gather(out, y, g, |y, g| if y > 0.0 { g } else { 0.0 }),
            Self::LeakyRelu { alpha } => {
                gather(out, x, g, |x, g| if x > 0.0 { g } else { alpha * g });
            }
            Self::Elu { alpha } => gather(out, x, g, |x, g| g * half(x, alpha, 1.0)),
            Self::Selu { alpha, gamma } => {
                gather(out, x, g, |x, g| g * gamma * half(x, alpha, 1.0));
            }
            Self::Celu { alpha } => gather(out, x, g, |x, g| g * half(x, alpha, alpha)),
            Self::Sigmoid => gather(out, y, g, |y, g| g * y * (1.0 - y)),
            Self::HardSigmoid { alpha, .. } => {
                gather(
                    out,
                    y,
                    g,
                    |y, g| if y > 0.0 && y < 1.0 { alpha * g } else { 0.0 },
                );
            }
            Self::HardSwish => gather(out, x, g, |x, g| match x {
                x if x <= -3.0 => 0.0,
                x if x >= 3.0 => g,
                x => g * (x / 3.0 + 0.5),
            }),
            Self::Tanh => gather(out, y, g, |y, g| g * (1.0 - y * y)),
            Self::Softplus => gather(out, x, g, |x, g| g * sigmoid(x)),
            Self::Softsign => gather(out, x, g, |x, g| {
                let below = 1.0 + x.abs();
                g / (below * below)
            }),
            Self::Mish => gather(out, x, g, |x, g| {
                let gate = tanh(softplus(x));
                g * (gate + x * (1.0 - gate * gate) * sigmoid(x))
            }),
            Self::Gelu { tanh: false } => gather(out, x, g, |x, g| {
                let below = 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2));
                let density = 0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2 * exp(-0.5 * x * x);
                g * (below + x * density)
            }),
            Self::Gelu { tanh: true } => gather(out, x, g, |x, g| {
                let bent = tanh(GELU_SCALE * (x + GELU_CUBIC * x * x * x));
                let slope = GELU_SCALE * (1.0 + 3.0 * GELU_CUBIC * x * x);
                g * 0.5 * (1.0 + bent + x * (1.0 - bent * bent) * slope)
            }),
            Self::Swish { alpha } => gather(out, x, g, |x, g| {
                let gate = sigmoid(alpha * x);
                g * (gate + alpha * x * gate * (1.0 - gate))
            }),
            Self::ThresholdedRelu { alpha } => {
                gather(out, x, g, |x, g| if x <= alpha { 0.0 } else { g });
            }
            Self::Clip { min, max } => gather(out, y, g, |y, g| match y > min && y < max {
                true => g,
                false => 0.0,
            }),
            Self::Exp => gather(out, y, g, |y, g| g * y),
            Self::Log => gather(out, x, g, |x, g| g / x),
            Self::Sqrt => gather(out, y, g, |y, g| 0.5 * g / y),
            Self::Abs => gather(out, x, g, |x, g| match x {
                x if x > 0.0 => g,
                x if x < 0.0 => -g,
                _ => 0.0,
            }),
            Self::Neg => out.iter_mut().zip(g).for_each(|(o, g)| *o -= *g),
            Self::Reciprocal => gather(out, y, g, |y, g| -g * y * y),
            Self::Erf => gather(out, x, g, |x, g| g * FRAC_2_SQRT_PI * exp(-x * x)),
            Self::Floor | Self::Ceil | Self::Round | Self::Sign => {}
            Self::Sin => gather(out, x, g, |x, g| g * x.cos()),
            Self::Cos => gather(out, x, g, |x, g| -g * x.sin()),
            Self::Tan => gather(out, y, g, |y, g| g * (1.0 + y * y)),
            Self::Asin => gather(out, x, g, |x, g| g / ((1.0 - x) * (1.0 + x)).sqrt()),
            Self::Acos => gather(out, x, g, |x, g| -g / ((1.0 - x) * (1.0 + x)).sqrt()),
            Self::Atan => gather(out, x, g, |x, g| g / (1.0 + x * x)),
            Self::Sinh => gather(out, x, g, |x, g| g * x.cosh()),
            Self::Cosh => gather(out, x, g, |x, g| g * x.sinh()),
            Self::Asinh => gather(out, x, g, |x, g| g / (x * x + 1.0).sqrt()),
            Self::Acosh => gather(out, x, g, |x, g| g / ((x - 1.0) * (x + 1.0)).sqrt()),
            Self::Atanh => gather(out, x, g, |x, g| g / ((1.0 - x) * (1.0 + x))),
            Self::Shrink { lambda, .. } => {
                gather(out, x, g, |x, g| if x.abs() > lambda { g } else { 0.0 });
            }
            Self::Identity => add(out, g),
        }
    }
}

impl Binary {
    #[inline(always)]
    fn compute(self, a: &[f32], b: &[f32], out: &mut [f32]) {
        match self {
            Self::Add => map_two(a, b, out, |a, b| a + b),
            Self::Sub => map_two(a, b, out, |a, b| a - b),
            Self::Mul => map_two(a, b, out, |a, b| a * b),
            Self::Div => map_two(a, b, out, |a, b| a / b),
            Self::Pow => map_two(a, b, out, f32::powf),
            Self::Max => map_two(a, b, out, |a, b| if b > a { b } else { a }),
            Self::Min => map_two(a, b, out, |a, b| if b < a { b } else { a }),
        }
    }

    /// Adds to `out` the gradient by one side of both; of two alike the first is the larger and the
    /// smaller.
    #[inline(always)]
    fn go_back(self, side: usize, [a, b]: [&[f32]; 2], y: &[f32], g: &[f32], out: &mut [f32]) {
        match (self, side) {
            (Self::Add, _) | (Self::Sub, 0) => add(out, g),
            (Self::Sub, _) => out.iter_mut().zip(g).for_each(|(o, g)| *o -= *g),
            (Self::Mul, 0) => gather(out, b, g, |b, g| b * g),
            (Self::Mul, _) => gather(out, a, g, |a, g| a * g),
            (Self::Div, 0) => gather(out, b, g, |b, g| g / b),
            (Self::Div, _) => {
                let quotients = y.iter().zip(b).zip(g);
                let each = out.iter_mut().zip(quotients);
                each.for_each(|(o, ((y, b), g))| *o -= g * y / b);
            }
            (Self::Pow, 0) => {
                let all = a.iter().zip(b).zip(g);
                let each = out.iter_mut().zip(all);
                each.for_each(|(o, ((a, b), g))| *o += g * b * a.powf(b - 1.0));
            }
            (Self::Pow, _) => {
                let all = y.iter().zip(a).zip(g);
                let each = out.iter_mut().zip(all);
                each.for_each(|(o, ((y, a), g))| *o += g * y * a.ln());
            }
            (Self::Max | Self::Min, side) => {
                let all = a.iter().zip(b).zip(g);
                for (o, ((a, b), g)) in out.iter_mut().zip(all) {
                    let second = match self {
                        Self::Max => b > a,
                        _ => b < a,
                    };
                    *o += if second == (side == 1) { *g } else { 0.0 };
                }
            }
        }
    }
}

impl<const N: usize> Kernel<N> for Chain {
    type Kept = (Kept, Vec<Vec<usize>>);

    fn forward(&self, inputs: [FlexTensor; N]) -> (FlexTensor, Self::Kept) {
        let out = Chain::forward(self, &inputs);
        let shapes = inputs.iter().map(dims).collect();
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
