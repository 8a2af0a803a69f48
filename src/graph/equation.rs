//! The equation of an Einsum.

use std::collections::BTreeMap;

use super::params::RuleError;
use crate::onnx::proto::NodeProto;

/// An index of an equation: a letter, or an axis that `...` stands for (counted from the last).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Label {
    Ellipsis(usize),
    Letter(char),
}

/// An equation that fits the shapes of its operands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Equation {
    /// By operand: the label of each axis.
    pub operands: Vec<Vec<Label>>,
    pub output: Vec<Label>,
    pub sizes: BTreeMap<Label, usize>,
}

impl Equation {
    /// Reads the attribute `equation` (ONNX Einsum, NumPy's rules) for operands of these shapes.
    pub fn of(node: &NodeProto, shapes: &[&Vec<usize>]) -> Result<Self, RuleError> {
        let text: String = node
            .text("equation")
            .unwrap_or_default()
            .chars()
            .filter(|c| !c.is_whitespace())
            .collect();
        let wrong = |why: String| RuleError::new(format!("has the equation `{text}`, {why}"));
        let (left, right) = match text.split_once("->") {
            Some((left, right)) => (left, Some(right)),
            None => (&*text, None),
        };
        let terms: Vec<&str> = left.split(',').collect();
        if terms.len() != shapes.len() {
            return Err(wrong(format!("and {} operands", shapes.len())));
        }
        let mut sizes: BTreeMap<Label, usize> = BTreeMap::new();
        let mut operands = Vec::with_capacity(terms.len());
        let mut widest = 0;
        for (term, shape) in terms.iter().zip(shapes) {
            let labels = labels_of(term, Some(shape.len()))
                .ok_or_else(|| wrong(format!("whose part `{term}` doesn't fit {shape:?}")))?;
            for (&label, &size) in labels.iter().zip(shape.iter()) {
                if let Label::Ellipsis(back) = label {
                    widest = widest.max(back + 1);
                }
                let known = sizes.entry(label).or_insert(size);
                if *known == 1 {
                    *known = size;
                } else if size != *known && size != 1 {
                    return Err(wrong(format!("in which one index is {known} and {size}")));
                }
            }
            operands.push(labels);
        }
        let output = match right {
            Some(right) => labels_of(
                right,
                right.contains("...").then(|| letters(right) + widest),
            )
            .ok_or_else(|| wrong("whose result makes no sense".to_owned()))?,
            None => {
                let all: Vec<Label> = operands.iter().flatten().copied().collect();
                let once = |label: &Label| match label {
                    Label::Ellipsis(_) => true,
                    Label::Letter(_) => all.iter().filter(|other| *other == label).count() == 1,
                };
                let mut single: Vec<Label> = sizes.keys().copied().filter(once).collect();
                // Ellipsis axes stand in front, the first axis first.
                single.sort_by_key(|label| match label {
                    Label::Ellipsis(back) => (0, usize::MAX - back, ' '),
                    Label::Letter(letter) => (1, 0, *letter),
                });
                single
            }
        };
        let mut sorted = output.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() != output.len() || output.iter().any(|label| !sizes.contains_key(label)) {
            return Err(wrong(
                "whose result names an index twice or anew".to_owned(),
            ));
        }
        Ok(Self {
            operands,
            output,
            sizes,
        })
    }

    pub fn output_dims(&self) -> Vec<usize> {
        self.output.iter().map(|label| self.sizes[label]).collect()
    }
}

fn letters(term: &str) -> usize {
    term.chars().filter(|c| c.is_alphabetic()).count()
}

/// The labels of a term; `rank` tells how many axes `...` stands for.
fn labels_of(term: &str, rank: Option<usize>) -> Option<Vec<Label>> {
    let (before, after) = match term.split_once("...") {
        Some((before, after)) => (before, Some(after)),
        None => (term, None),
    };
    let letter = |c: char| c.is_alphabetic().then_some(Label::Letter(c));
    let mut labels: Vec<Label> = before.chars().map(letter).collect::<Option<_>>()?;
    if let Some(after) = after {
        let hidden = rank?.checked_sub(letters(term))?;
        labels.extend((0..hidden).rev().map(Label::Ellipsis));
        labels.extend(after.chars().map(letter).collect::<Option<Vec<_>>>()?);
    }
    rank.is_none_or(|rank| labels.len() == rank)
        .then_some(labels)
}
