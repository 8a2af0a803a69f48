//! Einsum: sums of products over named axes.
//!
//! Operands are contracted two at a time, each time those two whose result is the smallest, and each
//! contraction is a stack of matrix products.

use std::collections::BTreeMap;

use super::super::array::{Array, Data};
use super::super::call::{Call, strides};
use super::{Number, multiply};
use crate::graph::params::RuleError;

/// An axis: the letter's code, or [`HIDDEN`] and more for those of the ellipsis, counted from its end.
type Label = u32;

const HIDDEN: Label = 256;

/// So many operands are looked at for the next contraction.
const CHOICE: usize = 12;

/// More axes than any model has.
const MOST_AXES: usize = 64;

/// What the equation says about operands of given ranks.
struct Equation {
    terms: Vec<Vec<Label>>,
    output: Vec<Label>,
}

/// ONNX Einsum: ellipses, diagonals and the implicit output of NumPy, for any number of operands.
pub(super) fn einsum(call: &Call) -> Result<Array, RuleError> {
    let text = call
        .node
        .text("equation")
        .ok_or_else(|| RuleError::new("has no `equation`"))?;
    let inputs: Vec<&Array> = (0..call.inputs.len())
        .map(|index| call.input(index))
        .collect::<Result<_, _>>()?;
    let first = *inputs
        .first()
        .ok_or_else(|| RuleError::new("has no operand"))?;
    let equation = parse(text, &inputs)?;
    let sizes = sizes(&equation, &inputs)?;
    let plan = Plan {
        call,
        equation,
        sizes,
    };
    let dims: Vec<usize> = plan.dims(&plan.equation.output);
    call.count(&dims)?;
    let data = match &first.data {
        Data::Float(_) => Data::Float(plan.run(&inputs, Array::floats)?),
        Data::Int(_) => Data::Int(plan.run(&inputs, Array::ints)?),
        Data::Text(_) => return Err(RuleError::new("multiplies strings")),
    };
    Ok(first.with(dims, data))
}

fn parse(text: &str, inputs: &[&Array]) -> Result<Equation, RuleError> {
    if let Some(input) = inputs.iter().find(|input| input.dims.len() > MOST_AXES) {
        return Err(RuleError::new(format!(
            "has an operand of {} axes, more than {MOST_AXES}",
            input.dims.len()
        )));
    }
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match text.split_once("->") {
        Some((left, right)) => (left, Some(right)),
        None => (&*text, None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != inputs.len() {
        return Err(RuleError::new(format!(
            "has {} terms in `{text}` for {} operands",
            terms.len(),
            inputs.len()
        )));
    }
    let terms: Vec<Vec<Label>> = terms
        .iter()
        .zip(inputs)
        .map(|(term, input)| labels(term, Some(input.dims.len())))
        .collect::<Result<_, _>>()?;
    let hidden = terms
        .iter()
        .flatten()
        .filter(|&&label| label >= HIDDEN)
        .max()
        .map_or(0, |label| (label - HIDDEN + 1) as usize);
    let output = match right {
        Some(right) => {
            let letters = right.replacen("...", "", 1).len();
            let rank = right.contains("...").then_some(letters + hidden);
            labels(right, rank.or(Some(letters)))?
        }
        None => implicit(&terms, hidden),
    };
    let mut sorted = output.clone();
    sorted.sort_unstable();
    if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(RuleError::new(format!(
            "repeats an output axis in `{text}`"
        )));
    }
    Ok(Equation { terms, output })
}

/// The axes that one term names for an operand of that rank.
fn labels(term: &str, rank: Option<usize>) -> Result<Vec<Label>, RuleError> {
    let (front, back) = term.split_once("...").unwrap_or((term, ""));
    let letters = front.len() + back.len();
    if !(front.bytes().chain(back.bytes())).all(|byte| byte.is_ascii_alphabetic()) {
        return Err(RuleError::new(format!("has the term `{term}`")));
    }
    let hidden = rank
        .and_then(|rank| rank.checked_sub(letters))
        .filter(|&hidden| hidden == 0 || term.contains("..."))
        .ok_or_else(|| {
            RuleError::new(format!(
                "has the term `{term}` for an operand of rank {}",
                rank.unwrap_or_default()
            ))
        })?;
    Ok(front
        .bytes()
        .map(Label::from)
        .chain((0..hidden).rev().map(|place| HIDDEN + place as Label))
        .chain(back.bytes().map(Label::from))
        .collect())
}

/// The ellipsis, then the letters that occur once, in the order of their codes.
fn implicit(terms: &[Vec<Label>], hidden: usize) -> Vec<Label> {
    let mut counts = BTreeMap::new();
    for &label in terms.iter().flatten().filter(|&&label| label < HIDDEN) {
        *counts.entry(label).or_insert(0) += 1;
    }
    let single = counts.into_iter().filter(|&(_, count)| count == 1);
    (0..hidden)
        .rev()
        .map(|place| HIDDEN + place as Label)
        .chain(single.map(|(label, _)| label))
        .collect()
}

/// The size of each axis; an operand of size 1 repeats along it.
fn sizes(equation: &Equation, inputs: &[&Array]) -> Result<BTreeMap<Label, usize>, RuleError> {
    let mut sizes = BTreeMap::new();
    for (term, input) in equation.terms.iter().zip(inputs) {
        for (&label, &size) in term.iter().zip(&input.dims) {
            let known = sizes.entry(label).or_insert(size);
            if *known == 1 {
                *known = size;
            } else if size != 1 && size != *known {
                return Err(RuleError::new(format!(
                    "has an axis of sizes {known} and {size}"
                )));
            }
        }
    }
    match equation.output.iter().find(|l| !sizes.contains_key(l)) {
        Some(_) => Err(RuleError::new("has an output axis that no operand has")),
        None => Ok(sizes),
    }
}

struct Plan<'a> {
    call: &'a Call<'a>,
    equation: Equation,
    sizes: BTreeMap<Label, usize>,
}

/// A dense tensor whose axes are named, no name twice.
struct Operand<T> {
    labels: Vec<Label>,
    values: Vec<T>,
}

impl Plan<'_> {
    fn dims(&self, labels: &[Label]) -> Vec<usize> {
        labels.iter().map(|label| self.size(*label)).collect()
    }

    fn size(&self, label: Label) -> usize {
        self.sizes.get(&label).copied().unwrap_or(1)
    }

    fn run<T: Number>(
        &self,
        inputs: &[&Array],
        elements: impl Fn(&Array) -> Result<&[T], RuleError>,
    ) -> Result<Vec<T>, RuleError> {
        let mut operands = Vec::with_capacity(inputs.len());
        for (term, input) in self.equation.terms.iter().zip(inputs) {
            operands.push(self.operand(term, &input.dims, elements(input)?)?);
        }
        while operands.len() > 1 {
            let (i, j) = self.cheapest(&operands);
            let b = operands.remove(j);
            let a = operands.remove(i);
            let joined = self.contract(a, b, &operands)?;
            operands.insert(i, joined);
        }
        let output = &self.equation.output;
        let result = operands.pop().map(|operand| {
            let operand = self.without(operand, |label| output.contains(&label));
            self.arranged(&operand, output)
        });
        Ok(result.unwrap_or_default())
    }

    /// One input with its diagonals taken, without the axes along which it repeats.
    fn operand<T: Number>(
        &self,
        term: &[Label],
        dims: &[usize],
        values: &[T],
    ) -> Result<Operand<T>, RuleError> {
        let mut labels: Vec<Label> = Vec::new();
        let mut steps: Vec<usize> = Vec::new();
        for ((&label, &size), step) in term.iter().zip(dims).zip(strides(dims)) {
            if size != self.size(label) {
                continue;
            }
            match labels.iter().position(|&known| known == label) {
                Some(place) => steps[place] += step,
                None => {
                    labels.push(label);
                    steps.push(step);
                }
            }
        }
        let mixed = term
            .iter()
            .zip(dims)
            .find(|&(label, &size)| size != self.size(*label) && labels.contains(label));
        if let Some((label, size)) = mixed {
            return Err(RuleError::new(format!(
                "takes a diagonal of axes of sizes {} and {size}",
                self.size(*label)
            )));
        }
        let values = collect(values, &self.dims(&labels), &steps);
        Ok(Operand { labels, values })
    }

    /// The two operands to contract next.
    fn cheapest<T>(&self, operands: &[Operand<T>]) -> (usize, usize) {
        let some = operands.len().min(CHOICE);
        let pairs = (0..some).flat_map(|i| (i + 1..some).map(move |j| (i, j)));
        pairs
            .min_by(|&first, &second| {
                let cost = |(i, j)| self.cost(operands, i, j);
                cost(first).total_cmp(&cost(second))
            })
            .unwrap_or((0, 1))
    }

    /// Number of elements of the contraction of two operands.
    fn cost<T>(&self, operands: &[Operand<T>], i: usize, j: usize) -> f64 {
        let others = |label: Label| {
            self.equation.output.contains(&label)
                || operands
                    .iter()
                    .enumerate()
                    .any(|(k, other)| k != i && k != j && other.labels.contains(&label))
        };
        let own = &operands[i].labels;
        let new = operands[j].labels.iter().filter(|l| !own.contains(l));
        own.iter()
            .chain(new)
            .filter(|&&label| others(label))
            .map(|&label| self.size(label) as f64)
            .product()
    }

    /// The sum of the product of two operands over the axes that nothing else needs.
    fn contract<T: Number>(
        &self,
        a: Operand<T>,
        b: Operand<T>,
        rest: &[Operand<T>],
    ) -> Result<Operand<T>, RuleError> {
        let needed = |label: Label| {
            self.equation.output.contains(&label)
                || rest.iter().any(|other| other.labels.contains(&label))
        };
        let shared = |label: Label| a.labels.contains(&label) && b.labels.contains(&label);
        let pick = |labels: &[Label], wanted: &dyn Fn(Label) -> bool| -> Vec<Label> {
            labels.iter().copied().filter(|&l| wanted(l)).collect()
        };
        let batch = pick(&a.labels, &|label| shared(label) && needed(label));
        let summed = pick(&a.labels, &|label| shared(label) && !needed(label));
        let left = pick(&a.labels, &|label| !shared(label) && needed(label));
        let right = pick(&b.labels, &|label| !shared(label) && needed(label));
        let labels = [&*batch, &*left, &*right].concat();
        let count = self.call.count(&self.dims(&labels))?;
        let keep = [&*labels, &*summed].concat();
        let a = self.without(a, |label| keep.contains(&label));
        let b = self.without(b, |label| keep.contains(&label));
        let x = self.arranged(&a, &[&*batch, &*left, &*summed].concat());
        let y = self.arranged(&b, &[&*batch, &*summed, &*right].concat());
        let total = |labels: &[Label]| self.dims(labels).iter().product::<usize>();
        let (rows, inner, columns) = (total(&left), total(&summed), total(&right));
        let mut values = vec![T::default(); count];
        if count > 0 && inner > 0 {
            let stacks = x.chunks_exact(rows * inner);
            let stacks = stacks.zip(y.chunks_exact(inner * columns));
            for ((x, y), out) in stacks.zip(values.chunks_exact_mut(rows * columns)) {
                multiply(x, y, out, inner, columns);
            }
        }
        Ok(Operand { labels, values })
    }

    /// The operand summed over the axes that are not kept.
    fn without<T: Number>(&self, operand: Operand<T>, kept: impl Fn(Label) -> bool) -> Operand<T> {
        let (labels, gone): (Vec<Label>, Vec<Label>) =
            operand.labels.iter().partition(|&&label| kept(label));
        if gone.is_empty() {
            return operand;
        }
        let count = self.dims(&labels).iter().product();
        let run: usize = self.dims(&gone).iter().product();
        let order = [&*labels, &*gone].concat();
        let values = self.arranged(&operand, &order);
        let mut sums = vec![T::default(); count];
        if run > 0 {
            for (sum, values) in sums.iter_mut().zip(values.chunks_exact(run)) {
                *sum = values.iter().fold(*sum, |sum, &value| sum.plus(value));
            }
        }
        Operand {
            labels,
            values: sums,
        }
    }

    /// The elements in another order of axes.
    fn arranged<T: Number>(&self, operand: &Operand<T>, order: &[Label]) -> Vec<T> {
        let own = strides(&self.dims(&operand.labels));
        let step = |label: &Label| {
            let place = operand.labels.iter().position(|known| known == label);
            place.map_or(0, |place| own[place])
        };
        let steps: Vec<usize> = order.iter().map(step).collect();
        collect(&operand.values, &self.dims(order), &steps)
    }
}

/// The elements that a walk over `dims` with these steps meets, in order.
fn collect<T: Copy>(values: &[T], dims: &[usize], steps: &[usize]) -> Vec<T> {
    let count: usize = dims.iter().product();
    if count == 0 {
        return Vec::new();
    }
    if *steps == *strides(dims) {
        return values[..count].to_vec();
    }
    let Some((&last, outer)) = dims.split_last() else {
        return values[..1].to_vec();
    };
    let step = steps[outer.len()];
    let mut out = Vec::with_capacity(count);
    let mut place = vec![0; outer.len()];
    let mut base = 0;
    for _ in 0..count / last {
        out.extend((0..last).map(|k| values[base + k * step]));
        for axis in (0..outer.len()).rev() {
            place[axis] += 1;
            base += steps[axis];
            if place[axis] < outer[axis] {
                break;
            }
            base -= steps[axis] * outer[axis];
            place[axis] = 0;
        }
    }
    out
}
