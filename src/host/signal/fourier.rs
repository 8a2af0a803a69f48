//! Discrete Fourier transforms: DFT and STFT.

use std::f64::consts::TAU;

use super::super::array::{Array, Data};
use super::super::call::{Call, around};
use super::{length, whole};
use crate::graph::params::{RuleError, normalize_axis};

#[derive(Clone, Copy, Default)]
struct Complex {
    re: f64,
    im: f64,
}

impl Complex {
    fn new(re: f64, im: f64) -> Self {
        Self { re, im }
    }

    /// The point of the unit circle at `turns`, in parts of the whole circle.
    fn turn(turns: f64) -> Self {
        let (im, re) = (TAU * turns).sin_cos();
        Self { re, im }
    }

    fn plus(self, other: Self) -> Self {
        Self::new(self.re + other.re, self.im + other.im)
    }

    fn minus(self, other: Self) -> Self {
        Self::new(self.re - other.re, self.im - other.im)
    }

    fn times(self, other: Self) -> Self {
        Self::new(
            self.re * other.re - self.im * other.im,
            self.re * other.im + self.im * other.re,
        )
    }

    fn conjugate(self) -> Self {
        Self::new(self.re, -self.im)
    }
}

/// A transform of one length: by halves where that is a power of two (Cooley and Tukey 1965), else as
/// a convolution of such a length (Bluestein 1970).
enum Transform {
    Halves(Halves),
    Chirp(Chirp),
}

impl Transform {
    fn new(size: usize) -> Self {
        if size.is_power_of_two() {
            Self::Halves(Halves::new(size))
        } else {
            Self::Chirp(Chirp::new(size))
        }
    }

    /// `Σ_n x[n] e^(-2πi k n / size)` for every `k`, in place.
    fn forward(&mut self, line: &mut [Complex]) {
        match self {
            Self::Halves(halves) => halves.forward(line),
            Self::Chirp(chirp) => chirp.forward(line),
        }
    }

    /// The inverse of `forward`: by conjugates, divided by the size.
    fn inverse(&mut self, line: &mut [Complex]) {
        let scale = 1.0 / line.len().max(1) as f64;
        line.iter_mut().for_each(|x| *x = x.conjugate());
        self.forward(line);
        for x in line {
            *x = Complex::new(x.re * scale, -x.im * scale);
        }
    }
}

/// The transform of a length that is a power of two.
struct Halves {
    /// The first half of the circle, clockwise.
    circle: Vec<Complex>,
}

impl Halves {
    fn new(size: usize) -> Self {
        let turn = |k| Complex::turn(-(k as f64) / size as f64);
        Self {
            circle: (0..size / 2).map(turn).collect(),
        }
    }

    fn forward(&self, line: &mut [Complex]) {
        let size = line.len();
        if size < 2 {
            return;
        }
        let unused = usize::BITS - size.trailing_zeros();
        for index in 0..size {
            let other = index.reverse_bits() >> unused;
            if index < other {
                line.swap(index, other);
            }
        }
        let mut half = 1;
        while half < size {
            let step = size / (2 * half);
            for block in line.chunks_exact_mut(2 * half) {
                let (low, high) = block.split_at_mut(half);
                let turns = self.circle.iter().step_by(step);
                for ((a, b), &turn) in low.iter_mut().zip(high).zip(turns) {
                    let moved = b.times(turn);
                    (*a, *b) = (a.plus(moved), a.minus(moved));
                }
            }
            half *= 2;
        }
    }
}

/// The transform of any length: with `kn = (k² + n² - (k - n)²) / 2` it is a convolution.
struct Chirp {
    /// `e^(-πi n² / size)`.
    chirp: Vec<Complex>,
    /// The transform of its conjugate, around zero.
    filter: Vec<Complex>,
    halves: Halves,
    room: Vec<Complex>,
}

impl Chirp {
    fn new(size: usize) -> Self {
        // Squares modulo 2 size keep the angle small and so exact.
        let square = |n: usize| (n as u128 * n as u128 % (2 * size).max(1) as u128) as f64;
        let chirp: Vec<Complex> = (0..size)
            .map(|n| Complex::turn(-square(n) / (2 * size) as f64))
            .collect();
        let halves = Halves::new((2 * size).next_power_of_two());
        let mut filter = vec![Complex::default(); (2 * size).next_power_of_two()];
        for (n, value) in chirp.iter().enumerate() {
            let mirrored = (filter.len() - n) % filter.len();
            filter[n] = value.conjugate();
            filter[mirrored] = value.conjugate();
        }
        halves.forward(&mut filter);
        Self {
            room: Vec::with_capacity(filter.len()),
            chirp,
            filter,
            halves,
        }
    }

    fn forward(&mut self, line: &mut [Complex]) {
        let room = &mut self.room;
        room.clear();
        room.extend(line.iter().zip(&self.chirp).map(|(x, turn)| x.times(*turn)));
        room.resize(self.filter.len(), Complex::default());
        self.halves.forward(room);
        for (value, factor) in room.iter_mut().zip(&self.filter) {
            *value = value.times(*factor).conjugate();
        }
        self.halves.forward(room);
        let scale = 1.0 / self.filter.len() as f64;
        for ((x, value), turn) in line.iter_mut().zip(room).zip(&self.chirp) {
            let sum = Complex::new(value.re * scale, -value.im * scale);
            *x = sum.times(*turn);
        }
    }
}

/// The real or complex elements of a signal whose last axis has one or two parts.
struct Signal<'a> {
    values: &'a [f64],
    parts: usize,
}

impl<'a> Signal<'a> {
    fn new(array: &'a Array) -> Result<Self, RuleError> {
        match array.dims.last() {
            Some(&parts @ (1 | 2)) if array.dims.len() > 1 => Ok(Self {
                values: array.floats()?,
                parts,
            }),
            _ => Err(RuleError::new(format!(
                "takes a signal of shape {:?}, needs 1 or 2 parts in its last axis",
                array.dims
            ))),
        }
    }

    fn at(&self, index: usize) -> Complex {
        match self
            .values
            .get(index * self.parts..(index + 1) * self.parts)
        {
            Some(&[re]) => Complex::new(re, 0.0),
            Some(&[re, im]) => Complex::new(re, im),
            _ => Complex::default(),
        }
    }
}

/// ONNX DFT: along the axis that is an attribute before operator set 20 and an input since.
pub(super) fn dft(call: &Call) -> Result<Array, RuleError> {
    let x = call.input(0)?;
    let signal = Signal::new(x)?;
    let signal_dims = &x.dims[..x.dims.len() - 1];
    let axis = match call.opset {
        ..20 => call.node.int("axis").unwrap_or(1),
        _ if call.optional(2).is_some() => whole(call, 2)?,
        _ => -2,
    };
    let axis = normalize_axis(axis, x.dims.len())?;
    if axis >= signal_dims.len() {
        return Err(RuleError::new("transforms the axis of its complex parts"));
    }
    let flag = |name: &str| call.node.int(name).unwrap_or(0) != 0;
    let (inverse, onesided) = (flag("inverse"), flag("onesided"));
    if onesided && !inverse && signal.parts == 2 {
        return Err(RuleError::new("is onesided with a complex signal"));
    }
    let [before, given, after] = around(signal_dims, axis);
    let size = match call.optional(1) {
        Some(_) => length(call, 1)?,
        None if onesided && inverse => 2 * given.saturating_sub(1),
        None => given,
    };
    if size == 0 {
        return Err(RuleError::new("has a transform of length 0"));
    }
    let real = onesided && inverse;
    let kept = if onesided && !inverse {
        size / 2 + 1
    } else {
        size
    };
    let parts = if real { 1 } else { 2 };
    let mut dims = x.dims.clone();
    dims[axis] = kept;
    dims[signal_dims.len()] = parts;
    let mut out = vec![0.0; call.count(&dims)?];
    if out.is_empty() {
        return Ok(x.with(dims, Data::Float(out)));
    }
    let mut transform = Transform::new(size);
    let mut line = vec![Complex::default(); size];
    let read = if real { size / 2 + 1 } else { size }.min(given);
    for outer in 0..before {
        for inner in 0..after {
            line.fill(Complex::default());
            for (index, value) in line.iter_mut().enumerate().take(read) {
                *value = signal.at((outer * given + index) * after + inner);
            }
            if real {
                mirror(&mut line);
            }
            if inverse {
                transform.inverse(&mut line);
            } else {
                transform.forward(&mut line);
            }
            for (index, value) in line.iter().enumerate().take(kept) {
                let place = ((outer * kept + index) * after + inner) * parts;
                out[place] = value.re;
                if !real {
                    out[place + 1] = value.im;
                }
            }
        }
    }
    Ok(x.with(dims, Data::Float(out)))
}

/// The other half of a spectrum whose signal is real.
fn mirror(line: &mut [Complex]) {
    let size = line.len();
    line[0].im = 0.0;
    if size.is_multiple_of(2) {
        line[size / 2].im = 0.0;
    }
    for index in size / 2 + 1..size {
        line[index] = line[size - index].conjugate();
    }
}

/// ONNX STFT: the transforms of frames of a signal, `[batch, length, parts]`, times a window.
pub(super) fn stft(call: &Call) -> Result<Array, RuleError> {
    let x = call.input(0)?;
    let signal = Signal::new(x)?;
    let &[batch, total, _] = &*x.dims else {
        return Err(RuleError::new(format!(
            "takes a signal of shape {:?}, needs rank 3",
            x.dims
        )));
    };
    let step = length(call, 1)?;
    let window = call.optional(2).map(Array::floats).transpose()?;
    let size = match (call.optional(3), window) {
        (Some(_), _) => length(call, 3)?,
        (None, Some(window)) => window.len(),
        (None, None) => total,
    };
    if step == 0 || size == 0 || size > total || window.is_some_and(|window| window.len() != size) {
        return Err(RuleError::new(format!(
            "takes frames of {size}, every {step}, of a signal of {total}, with a window of {:?}",
            window.map(<[f64]>::len)
        )));
    }
    let frames = (total - size) / step + 1;
    let onesided = call.node.int("onesided").unwrap_or(1) != 0;
    let kept = if onesided { size / 2 + 1 } else { size };
    let dims = vec![batch, frames, kept, 2];
    let mut out = Vec::with_capacity(call.count(&dims)?);
    let mut transform = Transform::new(size);
    let mut line = vec![Complex::default(); size];
    for item in 0..batch {
        for frame in 0..frames {
            let start = item * total + frame * step;
            for (index, value) in line.iter_mut().enumerate() {
                let factor = window.map_or(1.0, |window| window[index]);
                let x = signal.at(start + index);
                *value = Complex::new(x.re * factor, x.im * factor);
            }
            transform.forward(&mut line);
            let kept = line[..kept].iter();
            out.extend(kept.flat_map(|value| [value.re, value.im]));
        }
    }
    Ok(x.with(dims, Data::Float(out)))
}
