//! What exporters write out at length, in short, so that channels can be followed through it: numbers that are computed
//! from sizes and come to the same whatever is fed (the scale of an attention, where the gates of a recurrent layer lie),
//! and a transposition that goes by way of three axes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::graph::{Graph, Shapes, feeds_for_batch, infer};
use crate::host::{Array, is_float};
use crate::onnx::Tensor;
use crate::onnx::proto::NodeProto;

/// The order of three axes of which the last two change places.
const SWAP: [i64; 3] = [0, 2, 1];

impl Graph {
    /// Shortens what is written out; nothing where the shapes can't be told.
    pub(super) fn shorten(&mut self) {
        // Most networks have nothing of that, and need not be looked at in several sizes.
        let is_written_out = |node: &NodeProto| match node.operator() {
            "Shape" | "Size" => true,
            "Transpose" => node.ints("perm") == Some(&SWAP),
            _ => false,
        };
        if !self.nodes.iter().any(is_written_out) {
            return;
        }
        if let Some(known) = self.in_several_sizes() {
            self.transpose_directly(&known);
            self.settle_sizes(&known);
        }
    }

    /// What is known of values for a batch of two, and where the axes that the file leaves open have other lengths: each by
    /// itself, those of one name together, at least two other lengths of each; `None` where so many do not go.
    fn in_several_sizes(&self) -> Option<Vec<Shapes>> {
        let usual = feeds_for_batch(self, 2).ok()?;
        // By name; without one by length.
        let mut axes: BTreeMap<(String, usize), Vec<(&str, usize)>> = BTreeMap::new();
        for input in &self.inputs {
            let (_, dims) = input.tensor()?;
            let sizes = usual.get(input.label())?;
            for (axis, (&size, dim)) in sizes.iter().zip(dims?).enumerate() {
                if dim.dim_value.is_none_or(|fixed| fixed <= 0) {
                    let name = dim.dim_param.clone().unwrap_or_default();
                    let same = axes.entry((name, size)).or_default();
                    same.push((input.label(), axis));
                }
            }
        }
        let mut known = vec![infer(self, &usual).ok()?];
        for ((_, size), places) in &axes {
            // A model may have no places for more tokens, and a convolution gives the same for neighbours.
            let others = [
                size + 1,
                size + 7,
                3 * size,
                size / 2,
                size.saturating_sub(3),
                1,
            ];
            let found = others
                .into_iter()
                .filter(|other| *other > 0 && other != size);
            let found = found.filter_map(|other| {
                let mut fed = usual.clone();
                for (input, axis) in places {
                    *fed.get_mut(*input)?.get_mut(*axis)? = other;
                }
                infer(self, &fed).ok()
            });
            let found: Vec<Shapes> = found.take(3).collect();
            if found.len() < 2 {
                return None;
            }
            known.extend(found);
        }
        Some(known)
    }

    /// Where the first axes of a value are made one, its last two change places, and the first ones are as they were:
    /// the last two change places.
    fn transpose_directly(&mut self, known: &[Shapes]) {
        let mut makers: HashMap<&str, usize> = HashMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            makers.extend(node.output.iter().map(|name| (name.as_str(), index)));
        }
        let mut readers: HashMap<String, usize> = HashMap::new();
        for name in self.ends(&BTreeSet::new()) {
            *readers.entry(name.into_owned()).or_default() += 1;
        }
        // The node that makes a node's first input, where nothing else reads that.
        let before = |node: &NodeProto, operator: &str| {
            let name = node.input_at(0)?;
            let maker = *makers.get(name)?;
            let is_one = readers.get(name) == Some(&1);
            (is_one && self.nodes[maker].operator() == operator).then_some(maker)
        };
        let mut found = Vec::new();
        let mut taken: BTreeSet<usize> = BTreeSet::new();
        for (last, node) in self.nodes.iter().enumerate() {
            let turn = before(node, "Transpose").filter(|_| node.operator() == "Reshape");
            let first = turn.and_then(|turn| before(&self.nodes[turn], "Reshape"));
            let (Some(turn), Some(first)) = (turn, first) else {
                continue;
            };
            let is_swap = self.nodes[turn].ints("perm") == Some(&SWAP);
            let (Some(given), Some(made)) = (self.nodes[first].input_at(0), node.output.first())
            else {
                continue;
            };
            let merged = &self.nodes[first].output[0];
            let is_back = |shapes: &Shapes| {
                let dims = |name: &str| shapes.get(name).map(|known| known.dims.as_slice());
                let (Some([lead @ .., m, n]), Some(merged), Some(made)) =
                    (dims(given), dims(merged), dims(made))
                else {
                    return false;
                };
                let turned = [lead, &[*n, *m]].concat();
                merged == [lead.iter().product(), *m, *n] && made == turned
            };
            // What one of them makes another one must not take away.
            let is_free = [first, turn, last]
                .iter()
                .all(|place| !taken.contains(place));
            if is_swap && is_free && known.iter().all(is_back) {
                let rank = known[0][given].dims.len() as i64;
                taken.extend([first, turn, last]);
                found.push((last, given.to_owned(), rank, [first, turn]));
            }
        }
        let mut gone = BTreeSet::new();
        for (last, given, rank, between) in found {
            let node = &mut self.nodes[last];
            node.op_type = Some("Transpose".to_owned());
            node.input = vec![given];
            node.attribute.clear();
            let swapped = (0..rank - 2).chain([rank - 1, rank - 2]);
            node.set_ints("perm", swapped.collect());
            gone.extend(between);
        }
        self.take_out(&gone);
    }

    /// Puts numbers in the place of what computes them from sizes: fractions, and where weights are cut.
    fn settle_sizes(&mut self, known: &[Shapes]) {
        let Some(usual) = known.first() else {
            return;
        };
        let mut arithmetic = BTreeSet::new();
        let mut computed: BTreeSet<&str> = BTreeSet::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let begins = matches!(node.operator(), "Shape" | "Size");
            let follows = node
                .input
                .iter()
                .any(|name| computed.contains(name.as_str()));
            let value = |name: &String| usual.get(name)?.value.as_ref();
            let is_known = node.output.iter().all(|name| value(name).is_some());
            if is_known && (begins || follows && is_smooth(node, usual)) {
                arithmetic.insert(index);
                computed.extend(node.output.iter().map(String::as_str));
            }
        }
        let mut settled: BTreeMap<String, Tensor> = BTreeMap::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let first = node
                .input_at(0)
                .and_then(|name| self.initializers.get(name));
            let cuts =
                node.operator() == "Slice" && first.is_some_and(|weight| weight.floats().is_some());
            let is_read = |name: &&String| {
                let about = usual.get(*name);
                let is_fraction = about.is_some_and(|known| is_float(known.data_type));
                computed.contains(name.as_str())
                    && (cuts || is_fraction && !arithmetic.contains(&index))
            };
            for name in node.input.iter().filter(is_read) {
                if let Some(tensor) = same(name, known) {
                    settled.insert(name.clone(), tensor);
                }
            }
        }
        if settled.is_empty() {
            return;
        }
        self.put_in_place(&arithmetic, settled);
    }
}

/// Whether what a node makes of sizes changes with them: a smaller one of two, or what is left of a division, need not.
fn is_smooth(node: &NodeProto, shapes: &Shapes) -> bool {
    let is_fraction = |name: Option<&str>| {
        let known = name.and_then(|name| shapes.get(name));
        known.is_some_and(|known| is_float(known.data_type))
    };
    let made = node.output.first().map(String::as_str);
    match node.operator() {
        "Gather" | "Slice" | "Concat" | "Unsqueeze" | "Squeeze" | "Reshape" | "Identity"
        | "Mul" | "Add" | "Sub" | "Sqrt" | "Reciprocal" | "Pow" => true,
        "Div" => is_fraction(made),
        "Cast" | "CastLike" => is_fraction(made) || !is_fraction(node.input_at(0)),
        _ => false,
    }
}

/// A value that is the same in all sizes.
fn same(name: &str, known: &[Shapes]) -> Option<Tensor> {
    let value = |shapes: &Shapes| -> Option<Arc<Array>> { shapes.get(name)?.value.clone() };
    let own = value(known.first()?)?;
    let is_small = own.dims.iter().product::<usize>() <= super::MOST_SETTLED;
    if !is_small
        || known
            .iter()
            .any(|other| value(other).as_ref() != Some(&own))
    {
        return None;
    }
    Tensor::decode(own.encode(name)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::*;

    fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
        NodeProto {
            op_type: Some(operator.to_owned()),
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: vec![output.to_owned()],
            ..NodeProto::default()
        }
    }

    fn turned(perm: &[i64], input: &str, output: &str) -> NodeProto {
        let mut turn = node("Transpose", &[input], output);
        turn.set_ints("perm", perm.to_vec());
        turn
    }

    #[test]
    fn what_neighbouring_lengths_have_in_common_stays_computed() {
        // A convolution that halves its input: 15 and 16 both give 8.
        let mut halve = node("Conv", &["x", "kernel"], "half");
        halve.set_ints("strides", vec![2]);
        halve.set_ints("kernel_shape", vec![1]);
        let scale = vec![
            halve,
            node("Shape", &["half"], "shape"),
            node("Gather", &["shape", "last"], "size"),
            node("CastLike", &["size", "x"], "fraction"),
            node("Mul", &["half", "fraction"], "y"),
        ];
        let kernel = Tensor::float(vec![4, 4, 1], vec![0.5; 16]).encode("kernel");
        let mut graph = loaded(
            &[None, Some(4), None],
            scale,
            &[("last", vec![-1])],
            vec![kernel],
        );
        graph.example_shapes.insert("x".to_owned(), vec![4, 15]);
        graph.shorten();
        assert_eq!(graph.nodes.len(), 5);
        // Two axes that are as long here need not be elsewhere.
        let ratio = vec![
            node("Shape", &["x"], "shape"),
            node("Gather", &["shape", "height"], "rows"),
            node("Gather", &["shape", "width"], "columns"),
            node("CastLike", &["rows", "x"], "a"),
            node("CastLike", &["columns", "x"], "b"),
            node("Div", &["a", "b"], "ratio"),
            node("Mul", &["x", "ratio"], "y"),
        ];
        let constants = [("height", vec![2]), ("width", vec![3])];
        let mut graph = loaded(&[None, Some(4), None, None], ratio, &constants, Vec::new());
        graph.inputs[0] = named(&["batch", "", "height", "width"]);
        graph.example_shapes.insert("x".to_owned(), vec![4, 8, 8]);
        graph.shorten();
        assert_eq!(graph.nodes.len(), 7);
    }

    /// The input `x` of fractions with axes of these names, the second of size 4.
    fn named(names: &[&str]) -> ValueInfoProto {
        let mut value = ValueInfoProto::of_floats("x", &[None, Some(4), None, None]);
        let shape = value
            .r#type
            .as_mut()
            .and_then(|kind| kind.tensor_type.as_mut());
        let dims = shape
            .and_then(|tensor| tensor.shape.as_mut())
            .expect("a shape");
        for (dim, name) in dims.dim.iter_mut().zip(names) {
            dim.dim_param = Some((*name).to_owned()).filter(|name| !name.is_empty());
        }
        value
    }

    #[test]
    fn a_chain_of_such_transpositions_stays_whole() {
        let nodes = vec![
            node("Reshape", &["x", "merged"], "a"),
            turned(&[0, 2, 1], "a", "b"),
            node("Reshape", &["b", "turned"], "c"),
            turned(&[0, 2, 1], "c", "d"),
            node("Reshape", &["d", "merged"], "y"),
        ];
        let constants = [("merged", vec![-1, 5, 6]), ("turned", vec![-1, 6, 5])];
        let mut graph = loaded(&[None, Some(5), Some(6)], nodes, &constants, Vec::new());
        graph.shorten();
        let made: BTreeSet<&str> = graph
            .nodes
            .iter()
            .flat_map(|node| &node.output)
            .map(String::as_str)
            .collect();
        let is_there = |name: &String| {
            name == "x" || made.contains(name.as_str()) || graph.initializers.contains_key(name)
        };
        assert!(
            graph
                .nodes
                .iter()
                .flat_map(|node| &node.input)
                .all(is_there)
        );
        assert!(graph.nodes.len() < 5);
    }

    /// A graph whose input `x` has these axes.
    fn graph(axes: &[Option<i64>], nodes: Vec<NodeProto>, constants: &[(&str, Vec<i64>)]) -> Graph {
        let mut graph = loaded(axes, nodes, constants, Vec::new());
        graph.example_shapes.insert("x".to_owned(), vec![4, 5, 6]);
        graph.shorten();
        graph
    }

    fn loaded(
        axes: &[Option<i64>],
        nodes: Vec<NodeProto>,
        constants: &[(&str, Vec<i64>)],
        more: Vec<TensorProto>,
    ) -> Graph {
        let last = nodes.last().expect("a node").output[0].clone();
        let initializer = constants
            .iter()
            .map(|(name, values)| Tensor::int(vec![values.len()], values.clone()).encode(name));
        let one = Tensor::float(vec![], vec![1.0]).encode("unit");
        Graph::load(ModelProto {
            opset_import: vec![OperatorSetId {
                domain: None,
                version: Some(17),
            }],
            graph: Some(GraphProto {
                initializer: initializer.chain([one]).chain(more).collect(),
                input: vec![ValueInfoProto::of_floats("x", axes)],
                output: vec![ValueInfoProto::of_floats(&last, &vec![None; axes.len()])],
                node: nodes,
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        })
        .expect("the graph is sound")
    }

    fn operators(graph: &Graph) -> Vec<&str> {
        graph.nodes.iter().map(NodeProto::operator).collect()
    }

    /// `1 ÷ √d` of the last axis, as PyTorch's `torch.onnx.export(optimize=False)` writes it.
    fn scale() -> Vec<NodeProto> {
        vec![
            node("Shape", &["x"], "shape"),
            node("Gather", &["shape", "last"], "size"),
            node("CastLike", &["size", "x"], "fraction"),
            node("Sqrt", &["fraction"], "root"),
            node("Div", &["unit", "root"], "scale"),
            node("Mul", &["x", "scale"], "y"),
        ]
    }

    #[test]
    fn a_scale_of_a_size_that_is_fixed_becomes_a_number() {
        let last = [("last", vec![-1])];
        let fixed = graph(&[None, Some(4), None, Some(6)], scale(), &last);
        assert_eq!(operators(&fixed), ["Mul"]);
        let number = fixed.initializers["scale"].floats().unwrap()[0];
        assert!((number - 6f32.sqrt().recip()).abs() < 1e-6, "{number}");
        // One that is open is another with each length.
        let open = graph(&[None, Some(4), Some(5), None], scale(), &last);
        assert_eq!(open.nodes.len(), 6);
        // A size that is cut off is the same for most lengths only.
        let mut cut = scale();
        cut[1] = node("Gather", &["shape", "last"], "whole");
        cut.insert(2, node("Min", &["whole", "limit"], "size"));
        let limits = [("last", vec![-1]), ("limit", vec![3])];
        assert_eq!(
            graph(&[None, Some(4), Some(5), None], cut, &limits)
                .nodes
                .len(),
            7
        );
    }

    #[test]
    fn a_transposition_by_way_of_three_axes_is_one() {
        let by_way = |perm: &[i64], back: &str| {
            vec![
                node("Reshape", &["x", "merged"], "rows"),
                turned(perm, "rows", "columns"),
                node("Reshape", &["columns", back], "y"),
            ]
        };
        let constants = [
            ("merged", vec![-1, 5, 6]),
            ("back", vec![-1, 4, 6, 5]),
            ("wrong", vec![-1, 2, 12, 5]),
        ];
        let axes = [None, Some(4), Some(5), Some(6)];
        let short = graph(&axes, by_way(&[0, 2, 1], "back"), &constants);
        assert_eq!(operators(&short), ["Transpose"]);
        assert_eq!(short.nodes[0].ints("perm"), Some(&[0, 1, 3, 2][..]));
        assert_eq!(short.nodes[0].input, ["x"]);
        for other in [by_way(&[0, 2, 1], "wrong"), by_way(&[0, 1, 2], "wrong")] {
            assert_eq!(graph(&axes, other, &constants).nodes.len(), 3);
        }
    }
}
