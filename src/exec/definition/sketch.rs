//! Writing down the nodes of a definition.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::Arc;

use super::{Definition, Part};
use crate::graph::Known;
use crate::graph::params::RuleError;
use crate::host::{self, Array, is_float};
use crate::onnx::proto::{AttributeProto, NodeProto, attribute_type, data_type};

/// The version of the operators in definitions.
const OPSET: i64 = 24;

/// An attribute of a node in a definition.
pub(super) enum Attribute<'a> {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    Text(&'a str),
}

impl From<i64> for Attribute<'_> {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<usize> for Attribute<'_> {
    fn from(value: usize) -> Self {
        Self::Int(value as i64)
    }
}

impl From<f32> for Attribute<'_> {
    fn from(value: f32) -> Self {
        Self::Float(value)
    }
}

impl From<&[usize]> for Attribute<'_> {
    fn from(values: &[usize]) -> Self {
        Self::Ints(values.iter().map(|&value| value as i64).collect())
    }
}

impl<'a> From<&'a str> for Attribute<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

#[derive(Default)]
struct Made {
    parts: Vec<Part>,
    constants: Vec<(String, Arc<Array>)>,
}

/// A definition in the making. Values go by their names; every method that makes one returns it.
pub(super) struct Sketch<'a> {
    pub node: &'a NodeProto,
    pub opset: i64,
    inputs: &'a [Option<&'a Known>],
    outputs: &'a [Known],
    made: RefCell<Made>,
}

impl<'a> Sketch<'a> {
    pub fn new(
        node: &'a NodeProto,
        opset: i64,
        inputs: &'a [Option<&'a Known>],
        outputs: &'a [Known],
    ) -> Self {
        Self {
            node,
            opset,
            inputs,
            outputs,
            made: RefCell::default(),
        }
    }

    /// What was written down, without the parts that nobody reads.
    pub fn finish(self) -> Definition {
        let Made {
            mut parts,
            mut constants,
        } = self.made.into_inner();
        let named = |name: &&String| !name.is_empty();
        let mut read: HashSet<String> = self.node.output.iter().filter(named).cloned().collect();
        let mut kept = Vec::with_capacity(parts.len());
        for part in parts.drain(..).rev() {
            if part.node.output.iter().any(|name| read.contains(name)) {
                read.extend(part.node.input.iter().filter(named).cloned());
                kept.push(part);
            }
        }
        kept.reverse();
        constants.retain(|(name, _)| read.contains(name));
        Definition {
            parts: kept,
            constants,
        }
    }

    /// What is known of the input at `index`; `None` where it is left out.
    pub fn optional(&self, index: usize) -> Option<&'a Known> {
        self.inputs.get(index).copied().flatten()
    }

    pub fn known(&self, index: usize) -> Result<&'a Known, RuleError> {
        self.optional(index)
            .ok_or_else(|| RuleError::new(format!("has no input {index}")))
    }

    pub fn dims(&self, index: usize) -> Result<&'a [usize], RuleError> {
        self.known(index).map(|known| known.dims.as_slice())
    }

    /// The sizes of input 0.
    pub fn x(&self) -> Result<&'a [usize], RuleError> {
        self.dims(0)
    }

    /// The elements of an input; open where they are not known yet.
    pub fn elements(&self, index: usize) -> Result<&'a Arc<Array>, RuleError> {
        let value = self.known(index)?.value.as_ref();
        value.ok_or_else(|| RuleError::open("reads the elements of an input"))
    }

    /// Refuses inputs that are no floats: the host computes with those.
    pub fn floats(&self, indices: &[usize]) -> Result<(), RuleError> {
        let float = |index: &usize| {
            self.optional(*index)
                .is_none_or(|known| is_float(known.data_type))
        };
        match indices.iter().all(float) {
            true => Ok(()),
            false => Err(RuleError::new("takes integers, which run on the host only")),
        }
    }

    /// The shape of the output at `index`.
    pub fn output(&self, index: usize) -> Result<&'a [usize], RuleError> {
        let known = self.outputs.get(index);
        known
            .map(|known| known.dims.as_slice())
            .ok_or_else(|| RuleError::open("has a result of a shape that isn't known"))
    }

    /// Whether the node names its output `index`.
    pub fn wants(&self, index: usize) -> bool {
        self.node.output.get(index).is_some_and(|n| !n.is_empty())
    }

    pub fn flag(&self, name: &str) -> bool {
        self.node.int(name).unwrap_or(0) != 0
    }

    /// The value of the input at `index`; floats of other types as float32, in which all is computed.
    pub fn input(&self, index: usize) -> String {
        let name = self.node.input_at(index).unwrap_or_default().to_owned();
        let kind = self.optional(index).map(|known| known.data_type);
        match kind.filter(|&kind| is_float(kind) && kind != data_type::FLOAT) {
            Some(_) => self.float(&name),
            None => name,
        }
    }

    /// The values of all inputs, in order.
    pub fn all(&self) -> Vec<String> {
        (0..self.node.input.len())
            .map(|index| self.input(index))
            .collect()
    }

    fn fresh(&self) -> String {
        let Made { parts, constants } = &*self.made.borrow();
        let stem = self.node.output.iter().find(|name| !name.is_empty());
        let stem = stem.map_or("", String::as_str);
        // No exporter names values so.
        format!("{stem}›{}.{}", parts.len(), constants.len())
    }

    fn add(&self, node: NodeProto, detached: bool) {
        self.made.borrow_mut().parts.push(Part {
            node,
            opset: OPSET,
            detached,
        });
    }

    fn node_of(
        &self,
        operator: &str,
        inputs: &[&str],
        attributes: Vec<(&str, Attribute)>,
        outputs: Vec<String>,
    ) -> NodeProto {
        let attribute = |(name, value): (&str, Attribute)| {
            let mut attribute = AttributeProto {
                name: Some(name.to_owned()),
                ..AttributeProto::default()
            };
            attribute.r#type = Some(match value {
                Attribute::Int(value) => {
                    attribute.i = Some(value);
                    attribute_type::INT
                }
                Attribute::Ints(values) => {
                    attribute.ints = values;
                    attribute_type::INTS
                }
                Attribute::Float(value) => {
                    attribute.f = Some(value);
                    attribute_type::FLOAT
                }
                Attribute::Text(text) => {
                    attribute.s = Some(text.as_bytes().to_vec());
                    attribute_type::STRING
                }
            });
            attribute
        };
        NodeProto {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: outputs,
            name: Some(self.node.label().to_owned()),
            op_type: Some(operator.to_owned()),
            attribute: attributes.into_iter().map(attribute).collect(),
            ..NodeProto::default()
        }
    }

    /// A node with attributes, and its only result.
    pub fn with(
        &self,
        operator: &str,
        inputs: &[&str],
        attributes: Vec<(&str, Attribute)>,
    ) -> String {
        let made = self.fresh();
        let node = self.node_of(operator, inputs, attributes, vec![made.clone()]);
        self.add(node, false);
        made
    }

    /// A node with `count` results.
    pub fn several(
        &self,
        operator: &str,
        inputs: &[&str],
        attributes: Vec<(&str, Attribute)>,
        count: usize,
    ) -> Vec<String> {
        let stem = self.fresh();
        let made: Vec<String> = (0..count).map(|index| format!("{stem}.{index}")).collect();
        self.add(
            self.node_of(operator, inputs, attributes, made.clone()),
            false,
        );
        made
    }

    /// A node without attributes.
    pub fn op(&self, operator: &str, inputs: &[&str]) -> String {
        self.with(operator, inputs, Vec::new())
    }

    /// A node that runs on the host, and through which no gradient goes.
    pub fn detached(
        &self,
        operator: &str,
        inputs: &[&str],
        attributes: Vec<(&str, Attribute)>,
    ) -> String {
        let made = self.fresh();
        let node = self.node_of(operator, inputs, attributes, vec![made.clone()]);
        self.add(node, true);
        made
    }

    /// A node like the sketched one on the host, without gradient, for its output `index` alone.
    pub fn itself(&self, mut node: NodeProto, index: usize) -> String {
        let made = self.fresh();
        for (place, name) in node.output.iter_mut().enumerate() {
            match place == index {
                true => name.clone_from(&made),
                false => name.clear(),
            }
        }
        self.made.borrow_mut().parts.push(Part {
            node,
            opset: self.opset,
            detached: true,
        });
        made
    }

    /// Defines the node as a choice among the elements of its inputs `sources`, by the elements of
    /// the others: the host moves the numbers of the elements in their stead.
    pub fn moved(&self, sources: &[usize]) -> Result<(), RuleError> {
        self.floats(sources)?;
        let (mut arrays, mut first) = (Vec::new(), 1);
        for index in 0..self.inputs.len() {
            arrays.push(match self.optional(index) {
                None => None,
                Some(known) if sources.contains(&index) => {
                    let count = known.dims.iter().product::<usize>() as i64;
                    let numbers = (first..first + count).collect();
                    first += count;
                    Some(Arc::new(Array::int64(known.dims.clone(), numbers)))
                }
                Some(_) => Some(self.elements(index)?.clone()),
            });
        }
        let results = host::run(self.node, self.opset, &arrays)?;
        let moved = results
            .first()
            .ok_or_else(|| RuleError::new("gives nothing"))?;
        let mut parts = vec![self.numbers(&[1], vec![0.0])];
        for &index in sources {
            let count = self.dims(index)?.iter().product();
            parts.push(self.reshape(&self.input(index), &[count]));
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let places = self.constant((**moved).clone());
        self.give(0, &self.gather(&self.concat(&parts, 0), &places, 0));
        Ok(())
    }

    /// The node with another operator, or other inputs, and its attributes but `without`, as one
    /// that makes a single value.
    pub fn like(&self, operator: &str, inputs: &[&str], without: &[&str]) -> String {
        let made = self.fresh();
        let mut node = self.node_of(operator, inputs, Vec::new(), vec![made.clone()]);
        let kept = |attribute: &&AttributeProto| {
            !without.contains(&attribute.name.as_deref().unwrap_or_default())
        };
        node.attribute = self.node.attribute.iter().filter(kept).cloned().collect();
        self.add(node, false);
        made
    }

    /// Makes `value`, floats, the output `index` of the node, if anyone wants it. It gets the type
    /// that the output has, or where that is not known the type of the node's first floats.
    pub fn give(&self, index: usize, value: &str) {
        let own = self.outputs.get(index);
        let first = self
            .inputs
            .iter()
            .flatten()
            .find(|known| is_float(known.data_type));
        let kind = own.or(first.copied()).map(|known| known.data_type);
        self.give_as(index, value, kind.unwrap_or(data_type::FLOAT));
    }

    /// Makes `value`, floats, the output `index` of the node, of this type.
    pub fn give_as(&self, index: usize, value: &str, kind: i32) {
        match Some(kind).filter(|&kind| is_float(kind) && kind != data_type::FLOAT) {
            Some(kind) => {
                let attributes = vec![("to", i64::from(kind).into())];
                self.hand(index, &self.with("Cast", &[value], attributes));
            }
            None => self.hand(index, value),
        }
    }

    /// Makes `value`, as it is, the output `index` of the node, if anyone wants it.
    pub fn hand(&self, index: usize, value: &str) {
        if self.wants(index) {
            let outputs = vec![self.node.output[index].clone()];
            let node = self.node_of("Identity", &[value], Vec::new(), outputs);
            self.add(node, false);
        }
    }

    pub fn constant(&self, array: Array) -> String {
        let name = self.fresh();
        self.made
            .borrow_mut()
            .constants
            .push((name.clone(), Arc::new(array)));
        name
    }

    pub fn numbers(&self, dims: &[usize], values: Vec<f64>) -> String {
        self.constant(Array::float(data_type::FLOAT, dims.to_vec(), values))
    }

    pub fn number(&self, value: f64) -> String {
        self.numbers(&[], vec![value])
    }

    pub fn ints(&self, dims: &[usize], values: Vec<i64>) -> String {
        self.constant(Array::int64(dims.to_vec(), values))
    }

    /// Integers along one axis.
    pub fn list(&self, values: &[usize]) -> String {
        let values: Vec<i64> = values.iter().map(|&value| value as i64).collect();
        self.ints(&[values.len()], values)
    }

    pub fn plus(&self, a: &str, b: &str) -> String {
        self.op("Add", &[a, b])
    }

    pub fn minus(&self, a: &str, b: &str) -> String {
        self.op("Sub", &[a, b])
    }

    pub fn times(&self, a: &str, b: &str) -> String {
        self.op("Mul", &[a, b])
    }

    pub fn over(&self, a: &str, b: &str) -> String {
        self.op("Div", &[a, b])
    }

    /// `x · factor + shift`.
    pub fn linear(&self, x: &str, factor: f64, shift: f64) -> String {
        let scaled = match factor {
            1.0 => x.to_owned(),
            factor => self.times(x, &self.number(factor)),
        };
        match shift {
            0.0 => scaled,
            shift => self.plus(&scaled, &self.number(shift)),
        }
    }

    pub fn matmul(&self, a: &str, b: &str) -> String {
        self.op("MatMul", &[a, b])
    }

    pub fn reshape(&self, x: &str, dims: &[usize]) -> String {
        let attributes = vec![("allowzero", 1i64.into())];
        self.with("Reshape", &[x, &self.list(dims)], attributes)
    }

    pub fn transpose(&self, x: &str, order: &[usize]) -> String {
        self.with("Transpose", &[x], vec![("perm", order.into())])
    }

    pub fn sum(&self, x: &str, axes: &[usize], keep: bool) -> String {
        let attributes = vec![("keepdims", i64::from(keep).into())];
        self.with("ReduceSum", &[x, &self.list(axes)], attributes)
    }

    pub fn gather(&self, x: &str, indices: &str, axis: usize) -> String {
        self.with("Gather", &[x, indices], vec![("axis", axis.into())])
    }

    /// The elements at one place of an axis, which goes.
    pub fn at(&self, x: &str, place: usize, axis: usize) -> String {
        self.gather(x, &self.ints(&[], vec![place as i64]), axis)
    }

    pub fn concat(&self, values: &[&str], axis: usize) -> String {
        match values {
            [value] => (*value).to_owned(),
            _ => self.with("Concat", values, vec![("axis", axis.into())]),
        }
    }

    /// The elements from `start` on, `count` of them, along an axis.
    pub fn part(&self, x: &str, axis: usize, start: usize, count: usize) -> String {
        let [start, end, axis] = [start, start + count, axis].map(|value| self.list(&[value]));
        self.op("Slice", &[x, &start, &end, &axis])
    }

    /// Whole numbers in floats as integers.
    pub fn whole(&self, x: &str) -> String {
        let attributes = vec![("to", i64::from(data_type::INT64).into())];
        self.with("Cast", &[x], attributes)
    }

    /// Integers or booleans as floats.
    pub fn float(&self, x: &str) -> String {
        let attributes = vec![("to", i64::from(data_type::FLOAT).into())];
        self.with("Cast", &[x], attributes)
    }

    /// `x`, as a value that no gradient reaches.
    pub fn frozen(&self, x: &str) -> String {
        self.detached("Identity", &[x], Vec::new())
    }
}
