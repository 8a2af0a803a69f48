//! Networks of repeated cells, for searches that start from nothing.

use std::collections::BTreeSet;

use crate::graph::{Graph, feeds_for_batch, infer};
use crate::onnx::Tensor;
use crate::onnx::proto::{NodeProto, ValueInfoProto, data_type};
use crate::prune::PruneError;
use crate::spec::search::{CellOperation, CellSpace};
use crate::train::reinitialize;

/// Values inside a cell, its input among them.
const VALUES: usize = 4;

/// The edges of a cell, from an earlier value to a later one, in the order of the benchmark's notation.
pub(super) const EDGES: [(usize, usize); 6] = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)];

/// Operators at the end of a model that its candidates keep.
const CLOSING: [&str; 3] = ["Softmax", "LogSoftmax", "Sigmoid"];

/// The network around the cells (Dong and Yang, "NAS-Bench-201", ICLR 2020, section 2.1): a 3×3 convolution with batch
/// normalisation; stages of equal cells, between which a residual block of two 3×3 convolutions halves height and width
/// and doubles the channels; normalisation, the mean of all places and a layer. Each value inside a cell is the sum of
/// the edges that come in; a convolution of an edge is ReLU, convolution, normalisation. An edge from a value that gets
/// nothing is left out, since it would add a constant. It takes what a model takes and gives what that gives.
#[derive(Debug, Clone)]
pub(super) struct Cells {
    /// Channels and axes of the input, and values of the output.
    inputs: usize,
    axes: usize,
    outputs: usize,
    space: CellSpace,
    /// What the weights follow from.
    seed: u64,
}

impl Cells {
    /// Cells in the place of all that `graph` computes.
    pub fn new(graph: &Graph, space: &CellSpace, seed: u64) -> Result<Self, PruneError> {
        let refuse = |why: &str| Err(PruneError::NoCells(why.to_owned()));
        let ([input], [output]) = (graph.inputs.as_slice(), graph.outputs.as_slice()) else {
            return refuse("it has several inputs or outputs");
        };
        let of_floats = |about: &ValueInfoProto| {
            let tensor = about.tensor();
            tensor.is_some_and(|(kind, _)| kind == data_type::FLOAT)
        };
        if !of_floats(input) || !of_floats(output) {
            return refuse("its input or output is not of 32-bit floats");
        }
        let feeds = feeds_for_batch(graph, 2)?;
        let shapes = infer(graph, &feeds)?;
        let given = &feeds[input.label()];
        let made = shapes.get(output.label()).map(|known| known.dims.clone());
        match (given.as_slice(), made.as_deref()) {
            ([_, channels, places @ ..], Some(&[_, outputs])) if matches!(places.len(), 1..=3) => {
                Ok(Self {
                    inputs: *channels,
                    axes: places.len(),
                    outputs,
                    space: space.clone(),
                    seed,
                })
            }
            (_, Some([_, _])) => {
                refuse("its input is not of the shape [batch, channels, …] with 1 to 3 axes behind")
            }
            _ => refuse("its output is not of the shape [batch, values]"),
        }
    }

    /// Values of a cell that get something and reach its end.
    fn live(operations: &[CellOperation]) -> BTreeSet<usize> {
        let edges = || {
            EDGES
                .iter()
                .zip(operations)
                .filter(|(_, operation)| **operation != CellOperation::None)
        };
        let (mut fed, mut used) = (BTreeSet::from([0]), BTreeSet::from([VALUES - 1]));
        // Edges stand in an order in which each value is complete before it is read.
        edges().for_each(|(&(from, to), _)| {
            if fed.contains(&from) {
                fed.insert(to);
            }
        });
        edges().rev().for_each(|(&(from, to), _)| {
            if used.contains(&to) {
                used.insert(from);
            }
        });
        fed.intersection(&used).copied().collect()
    }

    /// Whether anything comes through a cell of these operations.
    pub fn connects(operations: &[CellOperation]) -> bool {
        Self::live(operations).contains(&0)
    }

    /// The network whose cells have these operations on their edges, with fresh weights.
    pub fn network(
        &self,
        model: &Graph,
        operations: &[CellOperation],
    ) -> Result<Graph, PruneError> {
        if !Self::connects(operations) {
            let why = "nothing comes through a cell of these operations".to_owned();
            return Err(PruneError::NoCells(why));
        }
        let mut graph = model.clone();
        let closing = model.nodes.last().filter(|node| {
            CLOSING.contains(&node.operator())
                && node.output[..] == [model.outputs[0].label().to_owned()]
        });
        graph.nodes.clear();
        graph.initializers.clear();
        graph.forget_recorded_shapes();
        let mut build = Build {
            graph: &mut graph,
            axes: self.axes,
        };
        let live = Self::live(operations);
        let mut channels = self.space.channels as usize;
        let mut value = model.inputs[0].label().to_owned();
        value = build.convolution("stem", &value, [self.inputs, channels], 3, 1);
        for stage in 0..self.space.stages {
            if stage > 0 {
                value = build.reduction(&format!("stage{stage}/reduction"), &value, channels);
                channels *= 2;
            }
            for cell in 0..self.space.cells {
                let name = format!("stage{stage}/cell{cell}");
                value = build.cell(&name, &value, channels, operations, &live);
            }
        }
        value = build.normalization("last", &value, channels);
        value = build.node("Relu", "last/relu", &[&value]);
        value = build.node("GlobalAveragePool", "pool", &[&value]);
        value = build.node("Flatten", "flatten", &[&value]);
        let kernel = build.weight("classifier/weight", vec![self.outputs, channels], 0.0);
        let bias = build.weight("classifier/bias", vec![self.outputs], 0.0);
        let logits = build.node("Gemm", "classifier", &[&value, &kernel, &bias]);
        build.last().set_int("transB", 1);
        let output = model.outputs[0].label().to_owned();
        match closing {
            None => build.last().output = vec![output],
            Some(closing) => {
                let mut closing = closing.clone();
                closing.input = vec![logits];
                graph.nodes.push(closing);
            }
        }
        reinitialize(&mut graph, self.seed);
        Ok(graph)
    }
}

/// Puts nodes behind each other; each is named like the value that it makes.
struct Build<'a> {
    graph: &'a mut Graph,
    axes: usize,
}

impl Build<'_> {
    fn last(&mut self) -> &mut NodeProto {
        self.graph
            .nodes
            .last_mut()
            .expect("a network begins with a convolution")
    }

    /// The name, or one like it where the model's input or output has it.
    fn free(&self, name: &str) -> String {
        let mut name = name.to_owned();
        let ends = || self.graph.inputs.iter().chain(&self.graph.outputs);
        while ends().any(|end| end.label() == name) {
            name.push('_');
        }
        name
    }

    fn node(&mut self, operator: &str, name: &str, inputs: &[&str]) -> String {
        let name = self.free(name);
        self.graph.nodes.push(NodeProto {
            op_type: Some(operator.to_owned()),
            name: Some(name.clone()),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![name.clone()],
            ..NodeProto::default()
        });
        name
    }

    fn weight(&mut self, name: &str, dims: Vec<usize>, value: f32) -> String {
        let count = dims.iter().product();
        let tensor = Tensor::float(dims, vec![value; count]);
        let name = self.free(name);
        self.graph.initializers.insert(name.clone(), tensor);
        name
    }

    fn normalization(&mut self, name: &str, value: &str, channels: usize) -> String {
        let parts = [
            ("scale", 1.0),
            ("bias", 0.0),
            ("mean", 0.0),
            ("variance", 1.0),
        ];
        let parts =
            parts.map(|(part, fill)| self.weight(&format!("{name}/{part}"), vec![channels], fill));
        let [scale, bias, mean, variance] = &parts;
        let name = format!("{name}/normalization");
        self.node(
            "BatchNormalization",
            &name,
            &[value, scale, bias, mean, variance],
        )
    }

    /// A convolution of odd size that keeps every place, or every second one.
    fn kernel(
        &mut self,
        name: &str,
        value: &str,
        [from, to]: [usize; 2],
        size: usize,
        stride: i64,
    ) -> String {
        let mut dims = vec![to, from];
        dims.extend(vec![size; self.axes]);
        let kernel = self.weight(&format!("{name}/weight"), dims, 0.0);
        let result = self.node("Conv", name, &[value, &kernel]);
        let axes = self.axes;
        let conv = self.last();
        conv.set_ints("kernel_shape", vec![size as i64; axes]);
        conv.set_ints("pads", vec![size as i64 / 2; 2 * axes]);
        conv.set_ints("strides", vec![stride; axes]);
        result
    }

    fn convolution(
        &mut self,
        name: &str,
        value: &str,
        channels: [usize; 2],
        size: usize,
        stride: i64,
    ) -> String {
        let value = self.kernel(name, value, channels, size, stride);
        self.normalization(name, &value, channels[1])
    }

    /// The mean of the places of a window that are there.
    fn mean(&mut self, name: &str, value: &str, size: i64, stride: i64, pads: Vec<i64>) -> String {
        let axes = self.axes;
        let result = self.node("AveragePool", name, &[value]);
        let pool = self.last();
        pool.set_ints("kernel_shape", vec![size; axes]);
        pool.set_ints("pads", pads);
        pool.set_ints("strides", vec![stride; axes]);
        pool.set_int("count_include_pad", 0);
        result
    }

    fn cell(
        &mut self,
        name: &str,
        input: &str,
        channels: usize,
        operations: &[CellOperation],
        live: &BTreeSet<usize>,
    ) -> String {
        let mut values: [Option<String>; VALUES] = [Some(input.to_owned()), None, None, None];
        for (&(from, to), operation) in EDGES.iter().zip(operations) {
            if !live.contains(&from) || !live.contains(&to) {
                continue;
            }
            let source = values[from].clone().expect("earlier values are complete");
            let edge = format!("{name}/{from}-{to}");
            let own = match operation {
                CellOperation::None => continue,
                CellOperation::SkipConnect => source,
                CellOperation::Conv1x1 | CellOperation::Conv3x3 => {
                    let size = if *operation == CellOperation::Conv1x1 {
                        1
                    } else {
                        3
                    };
                    let bent = self.node("Relu", &format!("{edge}/relu"), &[&source]);
                    self.convolution(&edge, &bent, [channels; 2], size, 1)
                }
                CellOperation::AvgPool3x3 => {
                    let pads = vec![1; 2 * self.axes];
                    self.mean(&edge, &source, 3, 1, pads)
                }
            };
            values[to] = Some(match values[to].take() {
                None => own,
                Some(before) => self.node("Add", &format!("{edge}/sum"), &[&before, &own]),
            });
        }
        values[VALUES - 1].take().expect("something comes through")
    }

    /// Half the places, twice the channels.
    fn reduction(&mut self, name: &str, input: &str, channels: usize) -> String {
        let wide = 2 * channels;
        let bent = self.node("Relu", &format!("{name}/first/relu"), &[input]);
        let first = self.convolution(&format!("{name}/first"), &bent, [channels, wide], 3, 2);
        let bent = self.node("Relu", &format!("{name}/second/relu"), &[&first]);
        let second = self.convolution(&format!("{name}/second"), &bent, [wide, wide], 3, 1);
        // An odd place at the end stands alone.
        let pads = [vec![0; self.axes], vec![1; self.axes]].concat();
        let halved = self.mean(&format!("{name}/mean"), input, 2, 2, pads);
        let shortcut = self.kernel(&format!("{name}/shortcut"), &halved, [channels, wide], 1, 1);
        self.node("Add", &format!("{name}/sum"), &[&second, &shortcut])
    }
}
