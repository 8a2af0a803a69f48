//! Cuts of random graphs: a graph without some of its units computes what the graph computes where everything
//! that belongs to the units is zero, and a graph without residual blocks what it computes where the blocks add
//! nothing.
//!
//! The graphs are built of convolutions (dense, grouped, depthwise, transposed), residual blocks, Concat, Split,
//! channel shuffles, squeeze-and-excitation, normalisation, pooling, embeddings, attention and feed-forward
//! layers, linked at random. `SINTER_CUT_GRAPHS` sets how many (default 2,000), `SINTER_CUT_SEED` the first seed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use sinter::exec::{Device, Mode, Operand, Program, upload};
use sinter::graph::blocks::Blocks;
use sinter::graph::coupling::{Couplings, UnitSlice};
use sinter::graph::{Cut, Graph, feeds_for_batch, infer};
use sinter::host::Array;
use sinter::onnx::Tensor;
use sinter::onnx::proto::{
    AttributeProto, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetId,
    TensorShapeProto, TensorType, TypeProto, ValueInfoProto, attribute_type, data_type,
};

const BATCH: usize = 2;
const CLASSES: usize = 5;

/// What a value is, of one example.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// `[channels, size, size]`
    Map(usize, usize),
    /// `[length, width]`
    Tokens(usize, usize),
}

struct Builder {
    random: ChaCha8Rng,
    nodes: Vec<NodeProto>,
    weights: BTreeMap<String, Tensor>,
    input: ValueInfoProto,
}

impl Builder {
    fn name(&self, what: &str) -> String {
        format!("{what}{}", self.nodes.len() + self.weights.len())
    }

    fn weight(&mut self, dims: &[usize], around: f32) -> String {
        let count: usize = dims.iter().product();
        let fan = dims.iter().skip(1).product::<usize>().max(1) as f32;
        let values = (0..count).map(|_| around + self.random.random_range(-1.0..1.0) / fan.sqrt());
        let tensor = Tensor::float(dims.to_vec(), values.collect());
        let name = self.name("w");
        self.weights.insert(name.clone(), tensor);
        name
    }

    fn constant(&mut self, values: &[i64]) -> String {
        let name = self.name("c");
        let tensor = Tensor::int(vec![values.len()], values.to_vec());
        self.weights.insert(name.clone(), tensor);
        name
    }

    fn scalar(&mut self, value: f32) -> String {
        let name = self.name("s");
        self.weights
            .insert(name.clone(), Tensor::float(vec![], vec![value]));
        name
    }

    fn nodes_of(
        &mut self,
        operator: &str,
        inputs: &[&str],
        outputs: usize,
        ints: &[(&str, &[i64])],
    ) -> Vec<String> {
        let name = self.name("v");
        let outputs: Vec<String> = (0..outputs)
            .map(|index| format!("{name}_{index}"))
            .collect();
        let attribute = |&(name, values): &(&str, &[i64])| {
            // One number by itself is an INT but for the attributes that are lists.
            let list = !matches!(
                name,
                "group" | "axis" | "transB" | "keepdims" | "num_outputs" | "hidden_size"
            );
            AttributeProto {
                name: Some(name.to_owned()),
                r#type: Some(if list {
                    attribute_type::INTS
                } else {
                    attribute_type::INT
                }),
                i: (!list).then(|| values[0]),
                ints: if list { values.to_vec() } else { Vec::new() },
                ..AttributeProto::default()
            }
        };
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: outputs.clone(),
            name: Some(format!("{operator}_{}", self.nodes.len())),
            op_type: Some(operator.to_owned()),
            attribute: ints.iter().map(attribute).collect(),
            ..NodeProto::default()
        });
        outputs
    }

    fn node(&mut self, operator: &str, inputs: &[&str], ints: &[(&str, &[i64])]) -> String {
        self.nodes_of(operator, inputs, 1, ints).remove(0)
    }

    fn chance(&mut self, share: f64) -> bool {
        self.random.random_bool(share)
    }

    fn pick(&mut self, from: &[usize]) -> usize {
        *from.choose(&mut self.random).expect("something to pick")
    }

    fn activation(&mut self, x: &str) -> String {
        let operators = [
            "Relu",
            "Sigmoid",
            "Tanh",
            "HardSwish",
            "Softplus",
            "Elu",
            "LeakyRelu",
        ];
        let operator = *operators.choose(&mut self.random).expect("some");
        self.node(operator, &[x], &[])
    }

    /// A convolution that keeps the size, in `groups`.
    fn conv(&mut self, x: &str, inputs: usize, outputs: usize, groups: usize) -> String {
        let taps = self.pick(&[1, 3]);
        let kernel = self.weight(&[outputs, inputs / groups, taps, taps], 0.0);
        let pad = (taps / 2) as i64;
        let attributes: &[(&str, &[i64])] = &[("group", &[groups as i64]), ("pads", &[pad; 4])];
        if self.chance(0.5) {
            let bias = self.weight(&[outputs], 0.0);
            return self.node("Conv", &[x, &kernel, &bias], attributes);
        }
        self.node("Conv", &[x, &kernel], attributes)
    }

    fn batch_norm(&mut self, x: &str, channels: usize) -> String {
        let own = [0.8, 0.1, 0.0, 1.5].map(|around| self.weight(&[channels], around));
        // A variance is positive.
        let variance = self.weights.get_mut(&own[3]).expect("just made");
        let values = variance
            .floats()
            .expect("floats")
            .iter()
            .map(|v| v.abs() + 0.1);
        let values = values.collect();
        variance.set_floats(values);
        self.node(
            "BatchNormalization",
            &[x, &own[0], &own[1], &own[2], &own[3]],
            &[],
        )
    }

    fn layer_norm(&mut self, x: &str, width: usize) -> String {
        let (scale, shift) = (self.weight(&[width], 1.0), self.weight(&[width], 0.0));
        self.node(
            "LayerNormalization",
            &[x, &scale, &shift],
            &[("axis", &[-1])],
        )
    }

    fn linear(&mut self, x: &str, inputs: usize, outputs: usize) -> String {
        let kernel = self.weight(&[inputs, outputs], 0.0);
        let product = self.node("MatMul", &[x, &kernel], &[]);
        if self.chance(0.3) {
            return product;
        }
        let bias = self.weight(&[outputs], 0.0);
        self.node("Add", &[&product, &bias], &[])
    }

    fn map_step(
        &mut self,
        x: &str,
        (channels, size): (usize, usize),
        pool: &[(String, Kind)],
    ) -> (String, Kind) {
        let same = Kind::Map(channels, size);
        match self.random.random_range(0..12) {
            0 | 1 => {
                let outputs = self.pick(&[4, 6, 8, 12]);
                let y = self.conv(x, channels, outputs, 1);
                (self.activation(&y), Kind::Map(outputs, size))
            }
            2 if channels % 2 == 0 => {
                let groups = if channels % 4 == 0 {
                    self.pick(&[2, 4])
                } else {
                    2
                };
                let outputs = groups * self.pick(&[2, 3]);
                (
                    self.conv(x, channels, outputs, groups),
                    Kind::Map(outputs, size),
                )
            }
            3 => {
                let outputs = channels * self.pick(&[1, 2]);
                (
                    self.conv(x, channels, outputs, channels),
                    Kind::Map(outputs, size),
                )
            }
            4 => (self.batch_norm(x, channels), same),
            5 => {
                let inner = self.pick(&[4, 6, 10]);
                let y = self.conv(x, channels, inner, 1);
                let y = self.batch_norm(&y, inner);
                let y = self.activation(&y);
                let y = self.conv(&y, inner, channels, 1);
                let sum = if self.chance(0.5) { [x, &y] } else { [&y, x] };
                (self.node("Add", &sum, &[]), same)
            }
            6 => {
                // With another value of the same size, or itself.
                let others: Vec<(String, usize)> = pool
                    .iter()
                    .filter_map(|(name, kind)| match *kind {
                        Kind::Map(c, s) if s == size && c + channels <= 24 => {
                            Some((name.clone(), c))
                        }
                        _ => None,
                    })
                    .collect();
                match others.choose(&mut self.random).cloned() {
                    None => (self.activation(x), same),
                    Some((other, c)) => {
                        let y = self.node("Concat", &[x, &other], &[("axis", &[1])]);
                        (y, Kind::Map(channels + c, size))
                    }
                }
            }
            7 => {
                let inner = self.pick(&[2, 4]);
                let y = self.node("GlobalAveragePool", &[x], &[]);
                let y = self.conv_of_one(&y, channels, inner);
                let y = self.node("Relu", &[&y], &[]);
                let y = self.conv_of_one(&y, inner, channels);
                let y = self.node("Sigmoid", &[&y], &[]);
                (self.node("Mul", &[x, &y], &[]), same)
            }
            8 if size % 2 == 0 => {
                let operator = if self.chance(0.5) {
                    "MaxPool"
                } else {
                    "AveragePool"
                };
                let y = self.node(
                    operator,
                    &[x],
                    &[("kernel_shape", &[2, 2]), ("strides", &[2, 2])],
                );
                (y, Kind::Map(channels, size / 2))
            }
            9 => {
                let half = channels / 2;
                let sizes = self.constant(&[half as i64, (channels - half) as i64]);
                let parts = self.nodes_of("Split", &[x, &sizes], 2, &[("axis", &[1])]);
                let y = self.conv(&parts[0], half, 6, 1);
                let joined = self.node("Concat", &[&parts[1], &y], &[("axis", &[1])]);
                (joined, Kind::Map(channels - half + 6, size))
            }
            10 if channels % 2 == 0 => {
                let (parts, s) = (2i64, size as i64);
                let shape = self.constant(&[0, parts, channels as i64 / parts, s, s]);
                let y = self.node("Reshape", &[x, &shape], &[]);
                let y = self.node("Transpose", &[&y], &[("perm", &[0, 2, 1, 3, 4])]);
                let shape = self.constant(&[0, channels as i64, s, s]);
                (self.node("Reshape", &[&y, &shape], &[]), same)
            }
            _ if size <= 4 => {
                let outputs = self.pick(&[4, 6]);
                let kernel = self.weight(&[channels, outputs, 2, 2], 0.0);
                let bias = self.weight(&[outputs], 0.0);
                let y = self.node(
                    "ConvTranspose",
                    &[x, &kernel, &bias],
                    &[("strides", &[2, 2])],
                );
                (y, Kind::Map(outputs, size * 2))
            }
            _ => (self.activation(x), same),
        }
    }

    fn conv_of_one(&mut self, x: &str, inputs: usize, outputs: usize) -> String {
        let (kernel, bias) = (
            self.weight(&[outputs, inputs, 1, 1], 0.0),
            self.weight(&[outputs], 0.0),
        );
        self.node("Conv", &[x, &kernel, &bias], &[])
    }

    fn tokens_step(&mut self, x: &str, (length, width): (usize, usize)) -> (String, Kind) {
        let same = Kind::Tokens(length, width);
        match self.random.random_range(0..5) {
            0 => (self.layer_norm(x, width), same),
            3 => self.recurrent(x, (length, width)),
            1 => {
                let y = self.attention(x, (length, width));
                (self.node("Add", &[x, &y], &[]), same)
            }
            2 => {
                let inner = self.pick(&[6, 10]);
                let y = self.linear(x, width, inner);
                let y = self.activation(&y);
                let y = self.linear(&y, inner, width);
                (self.node("Add", &[&y, x], &[]), same)
            }
            _ => {
                let outputs = self.pick(&[8, 12]);
                (
                    self.linear(x, width, outputs),
                    Kind::Tokens(length, outputs),
                )
            }
        }
    }

    /// A recurrent layer of one or two directions, from a state of zeros that is or isn't named.
    fn recurrent(&mut self, x: &str, (length, width): (usize, usize)) -> (String, Kind) {
        let (operator, gates) = [("RNN", 1), ("GRU", 3), ("LSTM", 4)][self.pick(&[0, 1, 2])];
        let (directions, hidden) = (self.pick(&[1, 2]), self.pick(&[4, 6]));
        let turned = self.node("Transpose", &[x], &[("perm", &[1, 0, 2])]);
        let rows = gates * hidden;
        let kernel = self.weight(&[directions, rows, width], 0.0);
        let recurrence = self.weight(&[directions, rows, hidden], 0.0);
        let mut inputs = vec![turned, kernel, recurrence];
        inputs.push(match self.chance(0.7) {
            true => self.weight(&[directions, 2 * rows], 0.0),
            false => String::new(),
        });
        if self.chance(0.5) {
            let shape = self.constant(&[directions as i64, BATCH as i64, hidden as i64]);
            let zeros = self.node("ConstantOfShape", &[&shape], &[]);
            inputs.extend([String::new(), zeros.clone()]);
            if operator == "LSTM" {
                inputs.push(zeros);
                if self.chance(0.5) {
                    inputs.push(self.weight(&[directions, 3 * hidden], 0.0));
                }
            }
        }
        let names: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let y = self.node(operator, &names, &[("hidden_size", &[hidden as i64])]);
        if directions == 2 {
            let node = self.nodes.last_mut().expect("the layer");
            node.attribute.push(AttributeProto {
                name: Some("direction".to_owned()),
                r#type: Some(attribute_type::STRING),
                s: Some(b"bidirectional".to_vec()),
                ..AttributeProto::default()
            });
        }
        let y = self.node("Transpose", &[&y], &[("perm", &[2, 0, 1, 3])]);
        let shape = self.constant(&[0, 0, (directions * hidden) as i64]);
        let y = self.node("Reshape", &[&y, &shape], &[]);
        (y, Kind::Tokens(length, directions * hidden))
    }

    fn attention(&mut self, x: &str, (length, width): (usize, usize)) -> String {
        let (heads, depth) = (self.pick(&[2, 3, 4]), self.pick(&[2, 3]));
        let (all, one) = (heads * depth, |n: usize| n as i64);
        let ways: Vec<String> = if self.chance(0.3) {
            // All three from one product, apart by a Split.
            let y = self.linear(x, width, 3 * all);
            let sizes = self.constant(&[one(all); 3]);
            self.nodes_of("Split", &[&y, &sizes], 3, &[("axis", &[2])])
        } else {
            (0..3).map(|_| self.linear(x, width, all)).collect()
        };
        let apart: Vec<String> = ways
            .iter()
            .enumerate()
            .map(|(way, y)| {
                let shape = self.constant(&[0, one(length), one(heads), one(depth)]);
                let y = self.node("Reshape", &[y, &shape], &[]);
                // The keys come turned.
                let order: &[i64] = if way == 1 {
                    &[0, 2, 3, 1]
                } else {
                    &[0, 2, 1, 3]
                };
                self.node("Transpose", &[&y], &[("perm", order)])
            })
            .collect();
        let scores = self.node("MatMul", &[&apart[0], &apart[1]], &[]);
        let scale = self.scalar((depth as f32).sqrt());
        let scores = self.node("Div", &[&scores, &scale], &[]);
        let scores = self.node("Softmax", &[&scores], &[("axis", &[-1])]);
        let y = self.node("MatMul", &[&scores, &apart[2]], &[]);
        let y = self.node("Transpose", &[&y], &[("perm", &[0, 2, 1, 3])]);
        let shape = self.constant(&[0, one(length), one(all)]);
        let y = self.node("Reshape", &[&y, &shape], &[]);
        self.linear(&y, all, width)
    }

    fn tokens_from(&mut self, x: &str, (channels, size): (usize, usize)) -> (String, Kind) {
        let shape = self.constant(&[0, channels as i64, (size * size) as i64]);
        let y = self.node("Reshape", &[x, &shape], &[]);
        let y = self.node("Transpose", &[&y], &[("perm", &[0, 2, 1])]);
        (y, Kind::Tokens(size * size, channels))
    }

    fn flat_from(&mut self, x: &str, kind: Kind) -> (String, usize) {
        match kind {
            Kind::Tokens(_, width) => (
                self.node("ReduceMean", &[x], &[("axes", &[1]), ("keepdims", &[0])]),
                width,
            ),
            Kind::Map(channels, size) if self.chance(0.5) => (
                self.node("Flatten", &[x], &[("axis", &[1])]),
                channels * size * size,
            ),
            Kind::Map(channels, _) => {
                let y = self.node("GlobalAveragePool", &[x], &[]);
                (self.node("Flatten", &[&y], &[("axis", &[1])]), channels)
            }
        }
    }

    fn gemm(&mut self, x: &str, inputs: usize, outputs: usize) -> String {
        let turned = self.chance(0.5);
        let dims = if turned {
            [outputs, inputs]
        } else {
            [inputs, outputs]
        };
        let (kernel, bias) = (self.weight(&dims, 0.0), self.weight(&[outputs], 0.0));
        self.node(
            "Gemm",
            &[x, &kernel, &bias],
            &[("transB", &[i64::from(turned)])],
        )
    }
}

fn value(name: &str, kind: i32, dims: &[usize]) -> ValueInfoProto {
    let open = DimensionProto {
        dim_param: Some("batch".to_owned()),
        ..DimensionProto::default()
    };
    let fixed = dims.iter().map(|&size| DimensionProto {
        dim_value: Some(size as i64),
        ..DimensionProto::default()
    });
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            tensor_type: Some(TensorType {
                elem_type: Some(kind),
                shape: Some(TensorShapeProto {
                    dim: std::iter::once(open).chain(fixed).collect(),
                }),
            }),
            ..TypeProto::default()
        }),
        ..ValueInfoProto::default()
    }
}

fn random_graph(seed: u64) -> Graph {
    let mut builder = Builder {
        random: ChaCha8Rng::seed_from_u64(seed),
        nodes: Vec::new(),
        weights: BTreeMap::new(),
        input: ValueInfoProto::default(),
    };
    let words = builder.chance(0.25);
    let (mut x, mut kind) = if words {
        let (length, width) = (6, builder.pick(&[8, 12]));
        builder.input = value("x", data_type::INT64, &[length]);
        let (table, places) = (
            builder.weight(&[11, width], 0.0),
            builder.weight(&[length, width], 0.0),
        );
        let y = builder.node("Gather", &[&table, "x"], &[]);
        (
            builder.node("Add", &[&y, &places], &[]),
            Kind::Tokens(length, width),
        )
    } else {
        builder.input = value("x", data_type::FLOAT, &[3, 4, 4]);
        let channels = builder.pick(&[4, 6, 8]);
        (builder.conv("x", 3, channels, 1), Kind::Map(channels, 4))
    };
    let mut pool = vec![(x.clone(), kind)];
    for _ in 0..builder.random.random_range(2..9) {
        (x, kind) = match kind {
            Kind::Map(channels, size) if builder.chance(0.1) => {
                builder.tokens_from(&x, (channels, size))
            }
            Kind::Map(channels, size) => builder.map_step(&x, (channels, size), &pool),
            Kind::Tokens(length, width) => builder.tokens_step(&x, (length, width)),
        };
        pool.push((x.clone(), kind));
    }
    let (flat, width) = builder.flat_from(&x, kind);
    let mut outputs = Vec::new();
    let hidden = builder.pick(&[6, 9]);
    let y = builder.gemm(&flat, width, hidden);
    let y = builder.activation(&y);
    outputs.push(builder.gemm(&y, hidden, CLASSES));
    if builder.chance(0.2) {
        outputs.push(builder.gemm(&flat, width, CLASSES));
    }
    let model = ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetId {
            domain: None,
            version: Some(17),
        }],
        graph: Some(GraphProto {
            node: builder.nodes,
            name: Some("random".to_owned()),
            initializer: builder
                .weights
                .iter()
                .map(|(name, tensor)| tensor.encode(name))
                .collect(),
            input: vec![builder.input],
            output: outputs
                .iter()
                .map(|name| value(name, data_type::FLOAT, &[CLASSES]))
                .collect(),
            ..GraphProto::default()
        }),
        ..ModelProto::default()
    };
    Graph::load(model).unwrap_or_else(|error| panic!("graph {seed}: {error}"))
}

fn run(graph: &Graph, device: &Device, seed: u64) -> Vec<f64> {
    run_batch(graph, device, seed, BATCH)
}

/// What a graph gives for numbers at random; integers after the first input are ones (a mask of what counts).
fn run_batch(graph: &Graph, device: &Device, seed: u64, batch: usize) -> Vec<f64> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let feeds = feeds_for_batch(graph, batch).expect("an open batch");
    let wanted: Vec<&str> = graph.outputs.iter().map(|output| output.label()).collect();
    let (mut shapes, mut fed) = (HashMap::new(), Vec::new());
    for (place, input) in graph.inputs.iter().enumerate() {
        let dims = feeds[input.label()].clone();
        let count: usize = dims.iter().product();
        let array = match input.tensor().expect("a tensor").0 {
            data_type::INT64 if place > 0 => Array::int64(dims.clone(), vec![1; count]),
            data_type::INT64 => Array::int64(
                dims.clone(),
                (0..count).map(|_| random.random_range(0..11)).collect(),
            ),
            kind => Array::float(
                kind,
                dims.clone(),
                (0..count).map(|_| random.random_range(-1.0..1.0)).collect(),
            ),
        };
        shapes.insert(input.label().to_owned(), dims);
        fed.push(Operand::of(array, device.plain()));
    }
    let program = Program::compile(graph, &shapes, &wanted).expect("a program");
    let outcome = program.run(device, &upload(graph, device.plain()), &fed, Mode::Evaluate);
    let outputs = outcome.expect("results").outputs.into_iter();
    outputs
        .flat_map(|output| output.on_host().floats().expect("floats").to_vec())
        .collect()
}

fn assert_alike(found: &[f64], expected: &[f64], about: &str) {
    assert_eq!(found.len(), expected.len(), "{about}");
    let scale = expected
        .iter()
        .fold(1.0f64, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() <= 1e-5 * scale,
            "{about}: {found} for {expected}"
        );
    }
}

/// Sets what belongs to a unit to zero.
fn silence(graph: &mut Graph, slices: &[UnitSlice]) {
    for UnitSlice {
        tensor,
        axis,
        indices,
    } in slices
    {
        let tensor = graph.initializers.get_mut(tensor).expect("a weight");
        let inner: usize = tensor.dims[axis + 1..].iter().product();
        let size = tensor.dims[*axis];
        let mut values = tensor.floats().expect("floats").to_vec();
        for (place, value) in values.iter_mut().enumerate() {
            if indices.contains(&(place / inner % size)) {
                *value = 0.0;
            }
        }
        tensor.set_floats(values);
    }
}

/// Some units of every group, at least one of each axis left. A layer normalisation divides by what is left of
/// an axis, so a graph without a part of it is another function; groups that meet one are left alone.
fn some_units(
    couplings: &Couplings,
    graph: &Graph,
    random: &mut ChaCha8Rng,
) -> BTreeSet<(usize, usize)> {
    let normalised: BTreeSet<&str> = graph
        .nodes
        .iter()
        .filter(|node| node.operator() == "LayerNormalization")
        .filter_map(|node| node.input_at(1))
        .collect();
    let mut gone = BTreeSet::new();
    for (group, own) in couplings.groups.iter().enumerate() {
        let slices = || own.units.iter().flat_map(|unit| &unit.slices);
        if slices().any(|slice| normalised.contains(slice.tensor.as_str())) {
            continue;
        }
        let share = random.random_range(0.0..0.9);
        let units = (0..own.units.len()).filter(|_| random.random_bool(share));
        gone.extend(units.map(|unit| (group, unit)));
    }
    for axis in couplings.made_of_units() {
        let left = |gone: &BTreeSet<(usize, usize)>| {
            let stays =
                |takers: &Vec<(usize, usize)>| !takers.iter().any(|unit| gone.contains(unit));
            axis.iter().any(stays)
        };
        if !left(&gone) {
            let kept = axis.choose(random).expect("an axis has places");
            kept.iter().for_each(|unit| {
                gone.remove(unit);
            });
        }
    }
    gone
}

#[test]
fn a_graph_without_units_computes_what_it_computes_where_they_are_zero() {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let (graphs, first) = (
        number("SINTER_CUT_GRAPHS", 2_000),
        number("SINTER_CUT_SEED", 1),
    );
    let device = Device::cpu();
    let (mut cuts, mut heads, mut inside, mut blocks, mut operators) =
        (0, 0, 0, 0, BTreeSet::new());
    for seed in first..first + graphs {
        let graph = random_graph(seed);
        operators.extend(graph.nodes.iter().map(|node| node.operator().to_owned()));
        let mut random = ChaCha8Rng::seed_from_u64(!seed);
        let shapes = infer(
            &graph,
            &feeds_for_batch(&graph, BATCH).expect("an open batch"),
        )
        .expect("shapes");
        let couplings = Couplings::find(&graph, &shapes, &|_| false);
        heads += couplings.clone().heads_alone().unit_count();
        let both = couplings.groups_of_node.values();
        inside += both.filter(|groups| groups.len() > 1).count();
        let units = some_units(&couplings, &graph, &mut random);
        if !units.is_empty() {
            cuts += 1;
            let about = format!("graph {seed} without {units:?}");
            let cut = Cut::new(&couplings, &units).apply(&graph);
            let cut = cut.unwrap_or_else(|error| panic!("{about}: {error}"));
            let mut silent = graph.clone();
            for &(group, unit) in &units {
                silence(&mut silent, &couplings.groups[group].units[unit].slices);
            }
            assert_alike(
                &run(&cut, &device, seed),
                &run(&silent, &device, seed),
                &about,
            );
        }
        let found = Blocks::find(&graph, &shapes, &|_| false);
        let gone: BTreeSet<usize> = (0..found.blocks.len())
            .filter(|_| random.random_bool(0.5))
            .collect();
        if !gone.is_empty() {
            blocks += gone.len();
            let about = format!("graph {seed} without the blocks {gone:?}");
            let without = found
                .without(&graph, &gone)
                .unwrap_or_else(|error| panic!("{about}: {error}"));
            assert!(
                without.nodes.len() < graph.nodes.len()
                    && without.initializers.len() < graph.initializers.len()
            );
            let mut silent = graph.clone();
            silent
                .initializers
                .insert("nothing".to_owned(), Tensor::float(vec![1], vec![0.0]));
            for &block in &gone {
                let block = &found.blocks[block];
                for input in &mut silent.nodes[block.add].input {
                    if *input != block.trunk {
                        *input = "nothing".to_owned();
                    }
                }
            }
            assert_alike(
                &run(&without, &device, seed),
                &run(&silent, &device, seed),
                &about,
            );
        }
    }
    println!(
        "{cuts} cuts, {heads} heads, {inside} of more dimensions, {blocks} blocks of {graphs} graphs of {operators:?}"
    );
    assert!(
        cuts > graphs * 8 / 10,
        "only {cuts} of {graphs} graphs were cut"
    );
    assert!(
        heads > 0 && inside > 0 && blocks as u64 > graphs / 10,
        "{heads} heads and {blocks} blocks"
    );
}

/// The same for what PyTorch exports (tests/run writes the models and names their folder), for one example and for
/// several: shapes that the graph computes from what is fed still fit.
#[test]
fn exports_without_units_compute_what_they_compute_where_they_are_zero() {
    let Some(folder) = std::env::var_os("SINTER_MODEL_CASES") else {
        return;
    };
    let device = Device::cpu();
    let mut seen = 0;
    let entries = std::fs::read_dir(folder).expect("the folder of models");
    for entry in entries {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if !name.ends_with("_dynamo") && !name.ends_with("_torchscript") {
            continue;
        }
        let content = std::fs::read(path.join("model.onnx")).expect("a model");
        let model: ModelProto = prost::Message::decode(content.as_slice()).expect("ONNX");
        let graph = Graph::load(model).expect("a graph");
        let feeds = feeds_for_batch(&graph, BATCH).expect("an open batch");
        let shapes = infer(&graph, &feeds).expect("shapes");
        let couplings = Couplings::find(&graph, &shapes, &|_| false);
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let units = some_units(&couplings, &graph, &mut random);
        assert!(!units.is_empty(), "{name} has no units");
        seen += 1;
        let cut = Cut::new(&couplings, &units).apply(&graph);
        let cut = cut.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut silent = graph.clone();
        for &(group, unit) in &units {
            silence(&mut silent, &couplings.groups[group].units[unit].slices);
        }
        for batch in [1, 3] {
            assert_alike(
                &run_batch(&cut, &device, 1, batch),
                &run_batch(&silent, &device, 1, batch),
                &format!("{name} for {batch}"),
            );
        }
    }
    assert!(seen >= 25, "only {seen} exports");
}
