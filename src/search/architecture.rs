//! The architectures that can be made of a model, as dimensions of a space.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::space::{Dimension, Domain, When};
use crate::graph::blocks::Blocks;
use crate::graph::{Family, Graph, family, feeds_for_batch, infer};
use crate::onnx::Tensor;
use crate::onnx::proto::{AttributeProto, NodeProto, attribute_type};
use crate::prune::removal::Removal;
use crate::prune::{Exclusion, PruneError};
use crate::spec::prune::{Granularity, PruneParams, Scope};
use crate::spec::search::SearchSpace;

/// What one dimension changes.
#[derive(Debug, Clone)]
enum Part {
    /// Whether a residual block stays.
    Depth { block: usize },
    /// How many units of a group stay.
    Width { group: usize, counts: Vec<usize> },
    /// The size of a convolution's kernel.
    Kernel { node: usize, sizes: Vec<usize> },
    /// What bends the results of a layer.
    Activation { node: usize, operators: Vec<String> },
}

/// A model and all that can be made of it. Every point is a graph that fits together: widths change by the
/// couplings of pruning, the most important units stay, and weights are the model's own.
pub struct Architecture {
    graph: Graph,
    channels: Removal,
    blocks: Blocks,
    /// By group: its units from the most to the least important.
    order: Vec<Vec<usize>>,
    parts: Vec<Part>,
    dimensions: Vec<Dimension>,
}

impl Architecture {
    /// The dimensions that `params` opens in `graph`.
    pub fn new(graph: &Graph, params: &SearchSpace) -> Result<Self, PruneError> {
        let mut graph = graph.clone();
        graph.settle_weights();
        let graph = &graph;
        let exclusion = Exclusion::new(&params.exclude);
        let shapes = infer(graph, &feeds_for_batch(graph, 2)?)?;
        let excluded = |name: &str| exclusion.covers(name);
        let blocks = match params.depth {
            true => Blocks::find(graph, &shapes, &excluded),
            false => Blocks::default(),
        };
        let channels = Removal::find(graph, Granularity::Channel, Scope::Layer, &exclusion)?;
        let magnitude: PruneParams = serde_json::from_value(serde_json::json!({}))
            .expect("every parameter of pruning has a default");
        let scores = channels.scores(graph, &magnitude, None, 0)?;
        let mut architecture = Self {
            order: scores.iter().map(|own| falling(own)).collect(),
            graph: graph.clone(),
            channels,
            blocks,
            parts: Vec::new(),
            dimensions: Vec::new(),
        };
        architecture.open(params, &excluded);
        Ok(architecture)
    }

    fn open(&mut self, params: &SearchSpace, excluded: &dyn Fn(&str) -> bool) {
        for block in 0..self.blocks.blocks.len() {
            let add = self.graph.nodes[self.blocks.blocks[block].add].label();
            let name = format!("depth:{add}");
            self.push(name, Part::Depth { block }, 2, None);
        }
        for group in 0..self.channels.groups.len() {
            let units = self.channels.groups[group].units.len();
            let of = |share: &f64| ((units as f64 * share).round() as usize).clamp(1, units);
            let counts: BTreeSet<usize> = params.width.iter().map(of).collect();
            if counts.len() > 1 {
                let nodes = self.channels.nodes(group);
                let name = format!("width:{}", self.channels.groups[group].name);
                let when = self.inside(&nodes);
                let counts: Vec<usize> = counts.into_iter().collect();
                let count = counts.len();
                self.push(name, Part::Width { group, counts }, count, when);
            }
        }
        for node in 0..self.graph.nodes.len() {
            let proto = &self.graph.nodes[node];
            if excluded(proto.label()) {
                continue;
            }
            let label = proto.label().to_owned();
            let when = self.inside(&[node]);
            let sizes = self.sizes(proto, &params.kernel);
            if sizes.len() > 1 {
                let count = sizes.len();
                self.push(
                    format!("kernel:{label}"),
                    Part::Kernel { node, sizes },
                    count,
                    when,
                );
            } else if is_activation(proto) && !params.activation.is_empty() {
                let mut operators = params.activation.clone();
                operators.retain(|operator| self.graph.opset >= since(operator));
                let own = proto.operator().to_owned();
                if !operators.contains(&own) {
                    operators.push(own);
                }
                let count = operators.len();
                if count > 1 {
                    let part = Part::Activation { node, operators };
                    self.push(format!("activation:{label}"), part, count, when);
                }
            }
        }
    }

    fn push(&mut self, name: String, part: Part, count: usize, when: Option<When>) {
        let ordered = !matches!(part, Part::Activation { .. }) && count > 2;
        self.parts.push(part);
        self.dimensions.push(Dimension {
            name,
            domain: Domain::Choice { count, ordered },
            when,
        });
    }

    /// The block that holds all of these nodes, whose choice is whether it is there at all.
    fn inside(&self, nodes: &[usize]) -> Option<When> {
        let holds = |part: &Part| {
            let Part::Depth { block } = part else {
                return false;
            };
            let own = &self.blocks.blocks[*block].nodes;
            !nodes.is_empty() && nodes.iter().all(|node| own.contains(node))
        };
        let dimension = self.parts.iter().position(holds)?;
        Some(When {
            dimension,
            choices: vec![1],
        })
    }

    /// The sizes that a convolution's kernel can have with the same output; its own among them.
    fn sizes(&self, node: &NodeProto, wanted: &[u32]) -> Vec<usize> {
        let kernel = node
            .input_at(1)
            .and_then(|name| self.graph.initializers.get(name));
        let Some(kernel) = kernel.filter(|_| family(node) == Some(Family::Conv)) else {
            return Vec::new();
        };
        let spatial = &kernel.dims[2..];
        let (Some(&own), true) = (spatial.first(), spatial.iter().all(|s| *s == spatial[0])) else {
            return Vec::new();
        };
        if own == 1 || kernel.floats().is_none() {
            return Vec::new();
        }
        let automatic = !matches!(node.text("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "");
        let pads = node.ints("pads").unwrap_or_default();
        let fits = |size: usize| {
            let less = own.saturating_sub(size) as i64 / 2;
            let dilations = node.ints("dilations").unwrap_or(&[]);
            let step = dilations.iter().copied().max().unwrap_or(1);
            size % 2 == own % 2
                && match (automatic, size <= own) {
                    (true, _) => node.text("auto_pad") != Some("VALID"),
                    (false, true) => {
                        pads.len() == 2 * spatial.len()
                            && pads.iter().all(|pad| *pad >= less * step)
                    }
                    (false, false) => true,
                }
        };
        let sizes = wanted
            .iter()
            .map(|&size| size as usize)
            .filter(|&size| fits(size));
        let mut sizes: BTreeSet<usize> = sizes.collect();
        sizes.insert(own);
        sizes.into_iter().collect()
    }

    /// The model that all others are made of.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// In the order of a point's coordinates.
    pub fn dimensions(&self) -> &[Dimension] {
        &self.dimensions
    }

    /// What a coordinate of a dimension stands for, as the report says it.
    pub fn value(&self, dimension: usize, coordinate: f64) -> Value {
        let index = coordinate as usize;
        match &self.parts[dimension] {
            Part::Depth { .. } => Value::from(index == 1),
            Part::Width { counts, .. } => Value::from(counts[index]),
            Part::Kernel { sizes, .. } => Value::from(sizes[index]),
            Part::Activation { operators, .. } => Value::from(operators[index].clone()),
        }
    }

    /// The point of the model itself.
    pub fn own(&self) -> Vec<f64> {
        let last = |all: usize| all as f64 - 1.0;
        self.parts
            .iter()
            .map(|part| match part {
                Part::Depth { .. } => 1.0,
                Part::Width { counts, .. } => last(counts.len()),
                Part::Kernel { node, sizes } => {
                    let own = self.graph.nodes[*node].input_at(1);
                    let own = own.and_then(|name| self.graph.initializers.get(name));
                    let own = own.map_or(0, |kernel| kernel.dims[2]);
                    sizes.iter().position(|&size| size == own).unwrap_or(0) as f64
                }
                Part::Activation { node, operators } => {
                    let own = self.graph.nodes[*node].operator();
                    operators
                        .iter()
                        .position(|operator| operator == own)
                        .unwrap_or(0) as f64
                }
            })
            .collect()
    }

    /// The graph of a point, with the model's weights where they fit.
    pub fn build(&self, coordinates: &[Option<f64>]) -> Result<Graph, PruneError> {
        let chosen = || {
            let pairs = self.parts.iter().zip(coordinates);
            pairs.filter_map(|(part, coordinate)| Some((part, (*coordinate)? as usize)))
        };
        let (mut units, mut gone) = (BTreeSet::new(), BTreeSet::new());
        for (part, index) in chosen() {
            match part {
                Part::Depth { block } if index == 0 => {
                    gone.insert(*block);
                }
                Part::Width { group, counts } => {
                    let out = self.order[*group].iter().skip(counts[index]);
                    units.extend(out.map(|&unit| (*group, unit)));
                }
                _ => {}
            }
        }
        let mut graph = match units.is_empty() {
            true => self.graph.clone(),
            false => self.channels.without(&self.graph, &units)?.0,
        };
        // Kernels and nodes keep their places until blocks leave.
        for (part, index) in chosen() {
            match part {
                Part::Kernel { node, sizes } => resize(&mut graph, *node, sizes[index]),
                Part::Activation { node, operators } => {
                    bend(&mut graph.nodes[*node], &operators[index]);
                }
                _ => {}
            }
        }
        if !gone.is_empty() {
            graph = self.blocks.without(&graph, &gone)?;
        }
        Ok(graph)
    }
}

/// Indices from the largest number to the least.
fn falling(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    order
}

/// Activations that stand for each other. Gates (Sigmoid, HardSigmoid, Tanh) have a range that others need.
const ACTIVATIONS: [(&str, i64); 8] = [
    ("Relu", 1),
    ("LeakyRelu", 1),
    ("Elu", 1),
    ("Selu", 1),
    ("Celu", 12),
    ("HardSwish", 14),
    ("Mish", 18),
    ("Gelu", 20),
];

/// Names of the activations that one can ask for.
pub fn activations() -> impl Iterator<Item = &'static str> {
    ACTIVATIONS.iter().map(|(name, _)| *name)
}

/// The operator set that first has an activation.
fn since(operator: &str) -> i64 {
    let found = ACTIVATIONS.iter().find(|(name, _)| *name == operator);
    found.map_or(1, |(_, since)| *since)
}

/// Whether a node is an activation that another can stand for.
pub fn is_activation(node: &NodeProto) -> bool {
    // A Clip is most often the Relu6 of mobile networks.
    let standard = matches!(node.domain.as_deref(), None | Some("" | "ai.onnx"));
    standard && (activations().any(|name| name == node.operator()) || node.operator() == "Clip")
}

fn bend(node: &mut NodeProto, operator: &str) {
    if node.operator() != operator {
        node.op_type = Some(operator.to_owned());
        node.attribute.clear();
        node.input.truncate(1);
    }
}

/// Cuts a kernel to its middle, or puts zeros around it, with the padding to match.
fn resize(graph: &mut Graph, node: usize, size: usize) {
    let proto = &graph.nodes[node];
    let Some(kernel) = proto
        .input_at(1)
        .and_then(|name| graph.initializers.get(name))
    else {
        return;
    };
    let rank = kernel.dims.len() - 2;
    let own = kernel.dims[2];
    if own == size {
        return;
    }
    let shift = (size as i64 - own as i64) / 2;
    let outer = kernel.dims[0] * kernel.dims[1];
    let (old, new) = (own.pow(rank as u32), size.pow(rank as u32));
    let values = kernel.floats().unwrap_or_default();
    let mut resized = vec![0.0; outer * new];
    for (place, value) in resized.iter_mut().enumerate() {
        let (block, mut tap) = (place / new, place % new);
        let (mut from, mut pitch) = (0, 1);
        let mut inside = true;
        for _ in 0..rank {
            let at = (tap % size) as i64 - shift;
            inside &= (0..own as i64).contains(&at);
            from += at.max(0) as usize * pitch;
            pitch *= own;
            tap /= size;
        }
        if inside {
            *value = values[block * old + from];
        }
    }
    let mut dims = kernel.dims.clone();
    dims[2..].fill(size);
    let mut tensor = Tensor::float(dims, resized.clone());
    tensor.data_type = kernel.data_type;
    tensor.set_floats(resized);
    // A kernel of its own, since another node may read the old one.
    let name = graph.unused_name(&format!("{}_{size}", proto.input[1]));
    graph.initializers.insert(name.clone(), tensor);
    let proto = &mut graph.nodes[node];
    proto.input[1] = name;
    let dilations = proto.ints("dilations").map(<[i64]>::to_vec);
    let step = |axis: usize| dilations.as_ref().map_or(1, |all| all[axis]);
    let pads = proto.ints("pads").map(<[i64]>::to_vec);
    let pads = pads.unwrap_or_else(|| vec![0; 2 * rank]);
    let automatic = !matches!(proto.text("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "");
    let padded = pads.iter().enumerate();
    let padded = padded
        .map(|(side, pad)| pad + shift * step(side % rank))
        .collect();
    let mut changed = BTreeMap::from([("kernel_shape", vec![size as i64; rank])]);
    if !automatic {
        changed.insert("pads", padded);
    }
    for (name, ints) in changed {
        proto
            .attribute
            .retain(|attribute| attribute.name.as_deref() != Some(name));
        proto.attribute.push(AttributeProto {
            name: Some(name.to_owned()),
            r#type: Some(attribute_type::INTS),
            ints,
            ..AttributeProto::default()
        });
    }
    graph.drop_unused_initializers();
    graph.forget_recorded_shapes();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::{GraphProto, ModelProto, NodeProto, OperatorSetId};

    #[test]
    fn a_kernel_is_cut_to_its_middle_or_grows_by_zeros() {
        let kernel = Tensor::float(vec![1, 1, 3, 3], (1..=9).map(|x| x as f32).collect());
        let graph = GraphProto {
            node: vec![NodeProto {
                op_type: Some("Conv".to_owned()),
                input: vec!["x".to_owned(), "w".to_owned()],
                output: vec!["y".to_owned()],
                ..NodeProto::default()
            }],
            initializer: vec![
                kernel.encode("w"),
                Tensor::float(vec![1, 1, 1, 1], vec![0.0]).encode("x"),
            ],
            ..GraphProto::default()
        };
        let model = ModelProto {
            graph: Some(graph),
            opset_import: vec![OperatorSetId {
                domain: None,
                version: Some(17),
            }],
            ..ModelProto::default()
        };
        let graph = Graph::load(model).expect("a graph");
        let mut large = graph.clone();
        resize(&mut large, 0, 5);
        let name = large.nodes[0].input[1].clone();
        let grown = large.initializers[&name].floats().expect("floats").to_vec();
        assert_eq!(grown[6..9], [1.0, 2.0, 3.0]);
        assert_eq!(grown.iter().filter(|x| **x == 0.0).count(), 16);
        assert_eq!(large.nodes[0].ints("pads"), Some(&[1i64; 4][..]));
        resize(&mut large, 0, 1);
        let name = &large.nodes[0].input[1];
        assert_eq!(large.initializers[name].floats(), Some(&[5.0f32][..]));
        assert_eq!(large.initializers.len(), 2);
        assert_eq!(large.nodes[0].ints("pads"), Some(&[-1i64; 4][..]));
    }
}
