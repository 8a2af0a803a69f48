//! Which tensors inside two models belong together.

use std::collections::BTreeMap;

use crate::graph::reading::Reading;
use crate::graph::{Family, Graph, InferError, Shapes, family, feeds_for_batch, infer};
use crate::onnx::proto::NodeProto;

/// The batch that shapes are told for.
const BATCH: usize = 2;

/// Most pairs that are found between models whose tensors all have one resolution.
const MOST_OF_ONE_RESOLUTION: usize = 3;

/// A tensor inside a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tap {
    pub name: String,
    pub channels: usize,
    /// Sizes of the axes that are neither the batch's nor the channels'.
    pub positions: Vec<usize>,
    pub channel_axis: usize,
    /// Node that makes it.
    node: usize,
}

impl Tap {
    /// All positions of one example.
    pub fn area(&self) -> usize {
        self.positions.iter().product()
    }

    /// The shape of one example.
    pub fn shape(&self) -> Vec<u64> {
        let mut shape: Vec<u64> = self.positions.iter().map(|&size| size as u64).collect();
        shape.insert(self.channel_axis - 1, self.channels as u64);
        shape
    }
}

/// A tensor of the teacher and one of the student.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    pub teacher: Tap,
    pub student: Tap,
}

/// Why a tensor can't be compared.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error(transparent)]
    Infer(#[from] InferError),
    #[error(
        "has no tensor or node `{name}`; GET /v1/models/{{id}}/layers names them, for instance {known}"
    )]
    Unknown { name: String, known: String },
    #[error("has the tensor `{name}`, whose shape for one example depends on the data")]
    OpenShape { name: String },
    #[error(
        "has the tensor `{name}` of shape {shape:?}, without an axis of channels behind the batch"
    )]
    NoChannels { name: String, shape: Vec<usize> },
    #[error("has no tensors of features inside; name a pair")]
    None,
    #[error(
        "has the tensor `{name}` of one position, where attention is the same for every example; name \
         feature maps, or take another loss"
    )]
    NoPositions { name: String },
}

/// The tensors of one graph.
pub struct Taps<'a> {
    graph: &'a Graph,
    shapes: Shapes,
    readings: Vec<Reading>,
}

impl<'a> Taps<'a> {
    pub fn of(graph: &'a Graph) -> Result<Self, TapError> {
        Ok(Self {
            graph,
            shapes: infer(graph, &feeds_for_batch(graph, BATCH)?)?,
            readings: Reading::all(graph),
        })
    }

    /// A tensor by its name, or the first output of a node by the node's.
    pub fn named(&self, name: &str) -> Result<Tap, TapError> {
        let nodes = || self.graph.nodes.iter().enumerate();
        let made = nodes().find(|(_, node)| node.output.iter().any(|output| output == name));
        let (node, tensor) = match made {
            Some((index, _)) => (index, name),
            None => nodes()
                .find(|(_, node)| node.label() == name)
                .and_then(|(index, node)| Some((index, node.output.first()?.as_str())))
                .ok_or_else(|| self.unknown(name))?,
        };
        self.tap(node, tensor)
    }

    fn unknown(&self, name: &str) -> TapError {
        let layers = self
            .readings
            .iter()
            .map(|reading| &self.graph.nodes[reading.node]);
        let known: Vec<String> = layers.map(|node| format!("`{}`", node.label())).collect();
        TapError::Unknown {
            name: name.to_owned(),
            known: match known.len() {
                0..=8 => known.join(", "),
                _ => format!("{}, …", known[..8].join(", ")),
            },
        }
    }

    fn tap(&self, node: usize, name: &str) -> Result<Tap, TapError> {
        let known = self.shapes.get(name).ok_or_else(|| TapError::OpenShape {
            name: name.to_owned(),
        })?;
        let shape = known.dims.clone();
        if shape.len() < 2 || shape[0] != self.batch() {
            let name = name.to_owned();
            return Err(TapError::NoChannels { name, shape });
        }
        let channel_axis = self.channel_axis(&self.graph.nodes[node], shape.len(), 0);
        let mut positions = shape[1..].to_vec();
        let channels = positions.remove(channel_axis - 1);
        Ok(Tap {
            name: name.to_owned(),
            channels,
            positions,
            channel_axis,
            node,
        })
    }

    /// The batch that a file fixes, or the one that was asked for.
    fn batch(&self) -> usize {
        let input = self.graph.inputs.first();
        let shape = input.and_then(|input| self.shapes.get(input.label()));
        shape
            .and_then(|known| known.dims.first().copied())
            .unwrap_or(BATCH)
    }

    /// The axis that a node's channels have in a value of `rank` axes: 1 behind convolutions, the
    /// last behind matrix products, whatever elementwise nodes stand between.
    fn channel_axis(&self, node: &NodeProto, rank: usize, depth: usize) -> usize {
        let image = if rank == 4 { 1 } else { rank - 1 };
        if depth > 64 {
            return image;
        }
        match family(node) {
            Some(Family::Conv | Family::ConvTranspose | Family::BatchNormalization) => 1,
            Some(Family::Gemm | Family::MatMul | Family::LayerNormalization | Family::Gather) => {
                rank - 1
            }
            Some(Family::Reshape | Family::Transpose) => image,
            _ => {
                let of_rank = |name: &&String| {
                    !self.graph.initializers.contains_key(*name)
                        && self
                            .shapes
                            .get(*name)
                            .is_some_and(|known| known.dims.len() == rank)
                };
                let input = node.input.iter().find(of_rank);
                let maker = input.and_then(|name| {
                    self.graph.nodes[..]
                        .iter()
                        .find(|node| node.output.contains(name))
                });
                match maker {
                    Some(maker) => self.channel_axis(maker, rank, depth + 1),
                    None => image,
                }
            }
        }
    }

    /// What the last layer reads: the embedding of an example.
    pub fn embedding(&self) -> Result<Tap, TapError> {
        let last = self.readings.iter().max_by_key(|reading| reading.node);
        let data = &last.ok_or(TapError::None)?.data;
        match self.graph.producers().get(data.as_str()) {
            Some(&node) => self.tap(node, data),
            // A single layer reads the model's input; what it makes is all there is.
            None => self.named(self.graph.nodes[last.expect("seen").node].label()),
        }
    }

    /// Feature maps at which a stage of the model ends, in order: the last of each resolution; of
    /// models with one resolution the sums that end blocks, or the activations.
    fn stages(&self) -> Vec<Tap> {
        let last_layer = self.readings.iter().map(|reading| reading.node).max();
        let mut taps: Vec<Tap> = Vec::new();
        for (index, node) in self.graph.nodes.iter().enumerate() {
            // What the last layer makes is the output, which other losses compare.
            if last_layer.is_some_and(|last| index >= last) {
                break;
            }
            let makes_features = match family(node) {
                Some(
                    Family::Conv
                    | Family::Gemm
                    | Family::MatMul
                    | Family::BatchNormalization
                    | Family::LayerNormalization
                    | Family::Unary
                    | Family::PRelu,
                ) => true,
                Some(Family::Binary) => node.operator() == "Add" || node.operator() == "Mul",
                _ => false,
            };
            let name = node.output.first();
            if let (true, Some(name)) = (makes_features, name)
                && let Ok(tap) = self.tap(index, name)
                && tap.channels > 1
            {
                taps.push(tap);
            }
        }
        if taps.iter().any(|tap| tap.area() > 1) {
            taps.retain(|tap| tap.area() > 1);
        }
        let mut last: BTreeMap<(usize, Vec<usize>), Tap> = BTreeMap::new();
        for tap in &taps {
            last.insert(
                (usize::MAX - tap.area(), tap.positions.clone()),
                tap.clone(),
            );
        }
        if last.len() > 1 {
            let mut stages: Vec<Tap> = last.into_values().collect();
            stages.sort_by_key(|tap| tap.node);
            return stages;
        }
        let is_sum = |tap: &&Tap| self.is_sum_of_two(tap.node);
        let is_activation = |tap: &&Tap| family(&self.graph.nodes[tap.node]) == Some(Family::Unary);
        let chosen: Vec<Tap> = match taps.iter().any(|tap| is_sum(&tap)) {
            true => taps.iter().filter(is_sum).cloned().collect(),
            false => taps.iter().filter(is_activation).cloned().collect(),
        };
        if chosen.is_empty() { taps } else { chosen }
    }

    fn is_sum_of_two(&self, node: usize) -> bool {
        let node = &self.graph.nodes[node];
        let made = |name: &&String| !self.graph.initializers.contains_key(*name);
        node.operator() == "Add" && node.input.iter().filter(made).count() == 2
    }
}

/// Pairs of feature maps: stages of the same resolution; where no resolution is shared, or there is one
/// only, places at the same share of the depth.
pub fn feature_maps(teacher: &Taps, student: &Taps) -> Result<Vec<Pair>, TapError> {
    let (of_teacher, of_student) = (teacher.stages(), student.stages());
    if of_teacher.is_empty() || of_student.is_empty() {
        return Err(TapError::None);
    }
    let resolutions = |taps: &[Tap]| {
        let mut all: Vec<Vec<usize>> = taps.iter().map(|tap| tap.positions.clone()).collect();
        all.sort();
        all.dedup();
        all.len()
    };
    let one = resolutions(&of_teacher) == 1 || resolutions(&of_student) == 1;
    let mut pairs = Vec::new();
    if !one {
        for own in &of_student {
            let other = of_teacher
                .iter()
                .rev()
                .find(|tap| tap.positions == own.positions);
            if let Some(other) = other {
                pairs.push(Pair {
                    teacher: other.clone(),
                    student: own.clone(),
                });
            }
        }
    }
    if pairs.is_empty() {
        let most = if one {
            MOST_OF_ONE_RESOLUTION
        } else {
            usize::MAX
        };
        let count = of_teacher.len().min(of_student.len()).min(most);
        let at = |taps: &[Tap], place: usize| {
            taps[((place + 1) * taps.len()).div_ceil(count) - 1].clone()
        };
        pairs.extend((0..count).map(|place| Pair {
            teacher: at(&of_teacher, place),
            student: at(&of_student, place),
        }));
    }
    Ok(pairs)
}
