//! Weights that a file computes from others, as exporters write recurrent layers.

mod written_out;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Family, Graph, Known, family, feeds_for_batch, fold, infer, moves};
use crate::host::Array;
use crate::onnx::Tensor;
use crate::onnx::proto::{NodeProto, data_type};

/// Numbers of a value that is computed from shapes, at most; more would make a file larger than it was.
const MOST_SETTLED: usize = 1 << 16;

/// By the name of a value: the weights that it is made of.
type Made<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

impl Graph {
    /// Puts weights that nodes only move (cut, joined, turned) into the place where they are used, and takes
    /// those nodes out: a pruning that edits the weights of a layer must find them there. Weights that
    /// are used in several places, or of which a part is left out or used twice, stay as they are.
    pub fn settle_weights(&mut self) {
        self.settle_shapes();
        self.shorten();
        let (makers, made) = self.made_of_weights();
        let settled = self.settled_weights(&makers, &made);
        if settled.is_empty() {
            return;
        }
        self.put_in_place(&makers, settled);
    }

    /// Puts tensors in the place of the values of their names, and takes those of the nodes `makers` out that nothing needs then.
    fn put_in_place(&mut self, makers: &BTreeSet<usize>, settled: BTreeMap<String, Tensor>) {
        let mut needed: BTreeSet<String> = self.ends(makers).map(Cow::into_owned).collect();
        needed.retain(|name| !settled.contains_key(name));
        let mut gone = BTreeSet::new();
        for &index in makers.iter().rev() {
            let node = &self.nodes[index];
            match node.output.iter().any(|name| needed.contains(name)) {
                true => {
                    let read = node.input.iter();
                    needed.extend(read.filter(|name| !settled.contains_key(*name)).cloned());
                }
                false => {
                    gone.insert(index);
                }
            }
        }
        self.take_out(&gone);
        self.initializers.extend(settled);
        self.drop_unused_initializers();
    }

    /// Removes the nodes at these places.
    fn take_out(&mut self, gone: &BTreeSet<usize>) {
        let mut index = 0..;
        self.nodes
            .retain(|_| !index.next().is_some_and(|index| gone.contains(&index)));
    }

    /// Computes what follows from the shapes of weights and from constants that are none, as exporters write the zeros of an
    /// offset: what reads the shape of a kernel would keep it from being cut.
    fn settle_shapes(&mut self) {
        let (found, gone) = self.computed_from_shapes();
        if found.is_empty() {
            return;
        }
        let tensors = found.iter().map(|(name, value)| {
            let tensor = Tensor::decode(value.encode(name)).ok()?;
            Some((name.clone(), tensor))
        });
        let Some(tensors) = tensors.collect::<Option<Vec<_>>>() else {
            return;
        };
        // An offset of zeros is none: as a weight it would be one more to store and to train.
        let are_zeros = |tensor: &Tensor| {
            let floats = tensor.floats();
            floats.is_some_and(|values| values.iter().all(|&value| value == 0.0))
        };
        let zeros: BTreeSet<&str> = (tensors.iter())
            .filter(|(_, tensor)| are_zeros(tensor))
            .map(|(name, _)| name.as_str())
            .collect();
        for node in &mut self.nodes {
            let is_layer = matches!(node.operator(), "Conv" | "ConvTranspose");
            let offset = node.input.get(2);
            if is_layer && offset.is_some_and(|name| zeros.contains(name.as_str())) {
                node.input.truncate(2);
            }
        }
        self.initializers.extend(tensors);
        self.take_out(&gone);
        self.drop_unused_initializers();
    }

    /// The values that follow from shapes of weights and such constants, by name, and the places of the nodes that make them.
    fn computed_from_shapes(&self) -> (BTreeMap<String, Arc<Array>>, BTreeSet<usize>) {
        let is_constant = |name: &str| {
            let tensor = self.initializers.get(name);
            tensor.is_some_and(|tensor| tensor.floats().is_none() || tensor.dims.is_empty())
        };
        // The type of a value is known where its numbers are not.
        let is_cast = |node: &NodeProto| {
            node.operator() == "CastLike" && node.input_at(0).is_some_and(is_constant)
        };
        let is_shape = |node: &NodeProto| matches!(node.operator(), "Shape" | "Size");
        let given = |name: &str| self.outputs.iter().any(|output| output.label() == name);
        let types = self.nodes.iter().any(is_cast).then(|| {
            let feeds = feeds_for_batch(self, 2).ok()?;
            infer(self, &feeds).ok()
        });
        let types = types.flatten().unwrap_or_default();
        let mut found: BTreeMap<String, Arc<Array>> = BTreeMap::new();
        let mut gone = BTreeSet::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let first = node
                .input_at(0)
                .and_then(|name| self.initializers.get(name));
            let begins = is_cast(node) || (is_shape(node) && first.is_some());
            let follows = node.input.iter().any(|name| found.contains_key(name));
            let known =
                |name: &String| name.is_empty() || found.contains_key(name) || is_constant(name);
            let is_wanted = node.output.iter().any(|name| given(name));
            if is_wanted || !(begins || follows && node.input.iter().all(known)) {
                continue;
            }
            let inputs = node.input.iter().enumerate();
            let inputs = inputs.map(|(place, name)| match found.get(name) {
                Some(value) => Some(Known::of(value.clone())),
                None if is_cast(node) && place == 1 => {
                    let kind = types.get(name)?.data_type;
                    let is_number = kind != data_type::STRING;
                    is_number.then(|| Known::of(Arc::new(Array::empty(kind))))
                }
                None => {
                    let tensor = self.initializers.get(name)?;
                    Some(match is_shape(node) {
                        true => Known::shaped(tensor.data_type, tensor.dims.clone()),
                        false => Known::of(Arc::new(Array::of_tensor(tensor).ok()?)),
                    })
                }
            });
            let inputs: Vec<Option<Known>> = inputs.collect();
            let inputs: Vec<Option<&Known>> = inputs.iter().map(Option::as_ref).collect();
            if let Ok(Some(values)) = fold(node, self.opset_of(node), &inputs, MOST_SETTLED)
                && values.len() == node.output.len()
            {
                let named = node.output.iter().cloned().zip(values);
                found.extend(named.filter(|(name, _)| !name.is_empty()));
                gone.insert(index);
            }
        }
        (found, gone)
    }

    /// Nodes that only move weights, in order; by the name of a result the weights that it is made of.
    fn made_of_weights(&self) -> (BTreeSet<usize>, Made<'_>) {
        let is_weight = |name: &str| {
            let tensor = self.initializers.get(name);
            tensor.is_some_and(|tensor| tensor.floats().is_some() && !tensor.dims.is_empty())
        };
        let mut made = Made::new();
        let mut makers = BTreeSet::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let known = |name: &String| {
                name.is_empty()
                    || self.initializers.contains_key(name)
                    || made.contains_key(name.as_str())
            };
            let changes = family(node) == Some(Family::Cast);
            if changes || !moves(family(node), node) || !node.input.iter().all(known) {
                continue;
            }
            let mut sources = BTreeSet::new();
            for name in &node.input {
                match made.get(name.as_str()) {
                    Some(own) => sources.extend(own),
                    None if is_weight(name) => {
                        sources.insert(name.as_str());
                    }
                    None => {}
                }
            }
            if !sources.is_empty() {
                makers.insert(index);
                let named = node.output.iter().filter(|name| !name.is_empty());
                made.extend(named.map(|name| (name.as_str(), sources.clone())));
            }
        }
        (makers, made)
    }

    /// Names of values that other nodes than these read, or that the graph gives.
    fn ends(&self, makers: &BTreeSet<usize>) -> impl Iterator<Item = Cow<'_, str>> {
        let others = self.nodes.iter().enumerate();
        let others = others.filter(|(index, _)| !makers.contains(index));
        let read = others.flat_map(|(_, node)| {
            let inputs = node.input.iter().map(|name| Cow::from(name.as_str()));
            inputs.chain(
                node.captured()
                    .unwrap_or_default()
                    .into_iter()
                    .map(Cow::from),
            )
        });
        let outputs = self.outputs.iter();
        read.chain(outputs.map(|output| Cow::from(output.label())))
    }

    /// By the name of the value: the weights that can be put in its place.
    fn settled_weights(&self, makers: &BTreeSet<usize>, made: &Made) -> BTreeMap<String, Tensor> {
        let mut ends: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for end in self.ends(makers) {
            if let Some((name, sources)) = made.get_key_value(&*end) {
                for source in sources {
                    ends.entry(source).or_default().insert(name);
                }
            } else if let Some((name, _)) = self.initializers.get_key_value(&*end) {
                ends.entry(name).or_default().insert(name);
            }
        }
        let given: BTreeSet<&str> = self.outputs.iter().map(|output| output.label()).collect();
        // Each weight has one end, and all that comes there are such weights.
        let is_whole = |name: &str, sources: &BTreeSet<&str>| {
            let only = BTreeSet::from([name]);
            !given.contains(name) && sources.iter().all(|source| ends.get(source) == Some(&only))
        };
        let mut wanted: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, sources) in made
            .iter()
            .filter(|(name, sources)| is_whole(name, sources))
        {
            let elements = sources
                .iter()
                .map(|source| self.initializers[*source].elements());
            wanted.insert(name, elements.sum());
        }
        if wanted.is_empty() {
            return BTreeMap::new();
        }
        // Elements are followed by their numbers, so that one that is left out or used twice shows.
        let sources: BTreeSet<&str> = made.values().flatten().copied().collect();
        let mut numbers: BTreeMap<&str, Arc<Array>> = BTreeMap::new();
        let mut elements: Vec<f32> = Vec::new();
        for name in sources {
            let tensor = &self.initializers[name];
            let first = elements.len() as i64;
            elements.extend(tensor.floats().unwrap_or_default());
            let own = (first..elements.len() as i64).collect();
            numbers.insert(name, Arc::new(Array::int64(tensor.dims.clone(), own)));
        }
        let values = self.moved(makers, numbers);
        let found = wanted.into_iter().filter_map(|(name, count)| {
            let array = values.get(name)?;
            let places = array.ints().ok()?;
            let different: BTreeSet<i64> = places.iter().copied().collect();
            if different.len() != count || places.len() != count {
                return None;
            }
            let mut sources = made[name].iter().map(|source| &self.initializers[*source]);
            let first = sources.next()?;
            if sources.any(|source| source.data_type != first.data_type) {
                return None;
            }
            let kept = places.iter().map(|&place| elements[place as usize]);
            Some((
                name.to_owned(),
                first.like(array.dims.clone(), kept.collect()),
            ))
        });
        found.collect()
    }

    /// The results of these nodes, beside `values` that stand for weights.
    fn moved<'a>(
        &'a self,
        makers: &BTreeSet<usize>,
        mut values: BTreeMap<&'a str, Arc<Array>>,
    ) -> BTreeMap<&'a str, Arc<Array>> {
        for &index in makers {
            let node = &self.nodes[index];
            let known = |name: &String| match values.get(name.as_str()) {
                Some(value) => Some(Known::of(value.clone())),
                None => {
                    let tensor = self.initializers.get(name)?;
                    Some(Known::of(Arc::new(Array::of_tensor(tensor).ok()?)))
                }
            };
            let inputs: Vec<Option<Known>> = node.input.iter().map(known).collect();
            let inputs: Vec<Option<&Known>> = inputs.iter().map(Option::as_ref).collect();
            if let Ok(Some(found)) = fold(node, self.opset_of(node), &inputs, usize::MAX) {
                values.extend(node.output.iter().map(String::as_str).zip(found));
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::*;

    fn node(operator: &str, inputs: &[&str], output: &str, axis: Option<i64>) -> NodeProto {
        let attribute = axis.map(|axis| AttributeProto {
            name: Some("axis".to_owned()),
            r#type: Some(attribute_type::INT),
            i: Some(axis),
            ..AttributeProto::default()
        });
        NodeProto {
            op_type: Some(operator.to_owned()),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute: attribute.into_iter().collect(),
            ..NodeProto::default()
        }
    }

    fn graph(nodes: Vec<NodeProto>) -> Graph {
        let tensor = |name: &str, dims: Vec<usize>, first: f32| {
            let count: usize = dims.iter().product();
            let values = (0..count).map(|index| first + index as f32).collect();
            Tensor::float(dims, values).encode(name)
        };
        let ints =
            |name: &str, values: Vec<i64>| Tensor::int(vec![values.len()], values).encode(name);
        Graph::load(ModelProto {
            opset_import: vec![OperatorSetId {
                domain: None,
                version: Some(15),
            }],
            graph: Some(GraphProto {
                initializer: vec![
                    tensor("a", vec![2, 3], 0.0),
                    tensor("b", vec![2, 3], 10.0),
                    Tensor::int(vec![], vec![0]).encode("nothing"),
                    ints("zero", vec![0]),
                    ints("one", vec![1]),
                    ints("two", vec![2]),
                ],
                input: vec![ValueInfoProto::of_floats("x", &[Some(1), Some(4)])],
                output: vec![ValueInfoProto::of_floats("y", &[Some(1), Some(3)])],
                node: nodes,
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        })
        .expect("the graph is sound")
    }

    fn gates() -> Vec<NodeProto> {
        vec![
            node("Slice", &["a", "one", "two", "zero"], "a1", None),
            node("Slice", &["a", "zero", "one", "zero"], "a0", None),
            node("Concat", &["a1", "a0"], "turned", Some(0)),
            node("Concat", &["turned", "b"], "w", Some(0)),
        ]
    }

    /// As PyTorch writes an offset that is missing: `Expand(0, Shape(a)[1])`.
    #[test]
    fn zeros_in_the_shape_of_a_weight_become_a_weight() {
        let mut graph = graph(vec![
            node("MatMul", &["x4", "a"], "product", None),
            node("Shape", &["a"], "shape", None),
            node("Gather", &["shape", "one"], "columns", None),
            node("CastLike", &["nothing", "x"], "zero_of_x", None),
            node("Expand", &["zero_of_x", "columns"], "zeros", None),
            node("Slice", &["x", "zero", "two", "one"], "x4", None),
            node("Add", &["product", "zeros"], "y", None),
        ]);
        graph.settle_weights();
        let left: Vec<&str> = graph.nodes.iter().map(|node| node.operator()).collect();
        assert_eq!(left, ["Slice", "MatMul", "Add"]);
        let zeros = &graph.initializers["zeros"];
        assert_eq!(
            (zeros.floats(), &zeros.dims[..]),
            (Some(&[0.0; 3][..]), &[3][..])
        );
        assert!(!graph.initializers.contains_key("shape"));
    }

    #[test]
    fn weights_that_are_cut_and_joined_come_to_their_place() {
        let mut nodes = gates();
        nodes.push(node("MatMul", &["x", "w"], "y", None));
        let mut graph = graph(nodes);
        graph.settle_weights();
        assert_eq!(graph.nodes.len(), 1);
        assert_eq!(graph.initializers.keys().collect::<Vec<_>>(), ["w"]);
        let settled = &graph.initializers["w"];
        assert_eq!(settled.dims, [4, 3]);
        let turned = [
            3.0, 4.0, 5.0, 0.0, 1.0, 2.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0,
        ];
        assert_eq!(settled.floats(), Some(&turned[..]));
    }

    #[test]
    fn weights_that_are_used_elsewhere_or_in_part_stay() {
        let mut shared = gates();
        shared.push(node("MatMul", &["x", "w"], "z", None));
        shared.push(node("Gather", &["a", "one"], "row", None));
        shared.push(node("Add", &["z", "row"], "y", None));
        let mut part = gates();
        part[2] = node("Concat", &["a1", "a1"], "turned", Some(0));
        part.push(node("MatMul", &["x", "w"], "y", None));
        for nodes in [shared, part] {
            let mut graph = graph(nodes);
            let before = graph.to_bytes();
            graph.settle_weights();
            assert_eq!(graph.to_bytes(), before);
        }
    }
}
