//! Elementwise functions one after the other, as one pass.

use super::elementwise::{Binary, Unary, power};
use crate::exec::kernels;
use crate::exec::value::{Value, reshape};

/// One function of a [`Chain`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::exec) enum Function {
    Unary(Unary),
    Binary(Binary),
    /// The operand raised to a constant.
    Power(f32),
}

/// A function and the registers that it reads; a function of one operand reads the first.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::exec) struct Link {
    pub function: Function,
    pub reads: [usize; 2],
}

impl Link {
    pub fn reads(&self) -> &[usize] {
        match self.function {
            Function::Binary(_) => &self.reads,
            _ => &self.reads[..1],
        }
    }
}

/// Functions of which each gives a value of the same shape. Registers hold the inputs and then the
/// result of each link; the last one is the chain's.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::exec) struct Chain {
    pub inputs: usize,
    pub links: Vec<Link>,
    pub output: Vec<usize>,
}

/// Inputs of the longest chain.
const MOST_INPUTS: usize = 8;

/// Links of the longest chain.
const MOST_LINKS: usize = 16;

impl Chain {
    pub fn of(function: Function, output: Vec<usize>) -> Self {
        let inputs = match function {
            Function::Binary(_) => 2,
            _ => 1,
        };
        let reads = [0, 1];
        // Devices have no values of rank 0.
        let output = if output.is_empty() { vec![1] } else { output };
        Self {
            inputs,
            links: vec![Link { function, reads }],
            output,
        }
    }

    /// This chain with `before` in the place of its inputs `places`, which come after the others;
    /// `None` where it would be too long.
    pub fn after(&self, before: &Self, places: &[usize]) -> Option<Self> {
        let kept = self.inputs - places.len();
        let inputs = kept + before.inputs;
        let count = before.links.len() + self.links.len();
        if inputs > MOST_INPUTS || count > MOST_LINKS || before.output != self.output {
            return None;
        }
        let joint = inputs + before.links.len() - 1;
        let shifted = |register: usize| match register < self.inputs {
            true if places.contains(&register) => joint,
            true => register - places.iter().filter(|&&place| place < register).count(),
            false => register - self.inputs + joint + 1,
        };
        let own = self.links.iter().map(|link| Link {
            function: link.function,
            reads: link.reads.map(shifted),
        });
        let first = before.links.iter().map(|link| Link {
            function: link.function,
            reads: link.reads.map(|register| match register < before.inputs {
                true => register + kept,
                false => register - before.inputs + inputs,
            }),
        });
        Some(Self {
            inputs,
            links: first.chain(own).collect(),
            output: self.output.clone(),
        })
    }

    /// The ends into which the values are brought, where that is all.
    pub fn clip(&self) -> Option<[f32; 2]> {
        match self.links[..] {
            [
                Link {
                    function: Function::Unary(Unary::Relu),
                    ..
                },
            ] => Some([0.0, f32::INFINITY]),
            [
                Link {
                    function: Function::Unary(Unary::Clip { min, max }),
                    ..
                },
            ] if min < max => Some([min, max]),
            _ => None,
        }
    }

    pub fn run(&self, mut inputs: Vec<Value>) -> Value {
        if let [
            Link {
                function: Function::Unary(Unary::Identity),
                ..
            },
        ] = self.links[..]
        {
            return inputs.remove(0);
        }
        if let Some(result) = kernels::elementwise(self, &inputs) {
            return result;
        }
        let mut registers = inputs;
        for link in &self.links {
            let mut operands = link.reads().iter().map(|&read| registers[read].clone());
            let mut next = || operands.next().expect("as many as the function reads");
            registers.push(match link.function {
                Function::Unary(unary) => unary.run(next()),
                Function::Binary(binary) => {
                    let (a, b) = (next(), next());
                    binary.run(a, b)
                }
                Function::Power(exponent) => power(next(), exponent),
            });
        }
        let last = registers.pop().expect("a chain has links");
        reshape(last, &self.output)
    }
}
