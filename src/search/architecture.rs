//! The architectures that can be made of a model, as dimensions of a space.

use std::collections::BTreeSet;

use serde_json::Value;

use super::cells::{Cells, EDGES};
use super::edits::{bend, is_image, regroup, resize, shrink_images};
use super::space::{Dimension, Domain, When};
use crate::graph::blocks::Blocks;
use crate::graph::{Cut, Family, Graph, family, feeds_for_batch, infer};
use crate::onnx::proto::NodeProto;
use crate::prune::removal::Removal;
use crate::prune::select::{spare, units_by_axis};
use crate::prune::{Exclusion, PruneError};
use crate::spec::prune::{Granularity, PruneParams, Scope};
use crate::spec::search::{CellOperation, CellSpace, SearchSpace};

/// What one dimension changes.
#[derive(Debug, Clone)]
enum Part {
    /// Whether a residual block stays.
    Depth { block: usize },
    /// How many units of a group stay.
    Width { group: usize, counts: Vec<usize> },
    /// The size of a convolution's kernel.
    Kernel { node: usize, sizes: Vec<usize> },
    /// The groups of a convolution.
    Groups { node: usize, counts: Vec<usize> },
    /// The share of an image's height and width that the model looks at.
    Resolution { shares: Vec<f64> },
    /// What bends the results of a layer.
    Activation { node: usize, operators: Vec<String> },
    /// What an edge of every cell does.
    Operation { operations: Vec<CellOperation> },
}

/// A model and all that can be made of it. Every point is a graph that fits together: widths change by the
/// couplings of pruning, the most important units stay, and weights are the model's own.
pub struct Architecture {
    graph: Graph,
    channels: Removal,
    blocks: Blocks,
    /// What stands in the model's place.
    cells: Option<Cells>,
    /// By group: its units from the most to the least important.
    order: Vec<Vec<usize>>,
    /// Units of which one stays, the best ones first.
    by_axis: Vec<Vec<(usize, usize)>>,
    parts: Vec<Part>,
    dimensions: Vec<Dimension>,
}

impl Architecture {
    /// The dimensions that `params` opens in `graph`; kernels only grow where `grows`. Networks of cells begin with
    /// weights that follow from `seed`.
    pub fn new(
        graph: &Graph,
        params: &SearchSpace,
        grows: bool,
        seed: u64,
    ) -> Result<Self, PruneError> {
        let mut graph = graph.clone();
        graph.settle_weights();
        let graph = &graph;
        let cells = params
            .cell
            .as_ref()
            .map(|cell| Cells::new(graph, cell, seed));
        let cells = cells.transpose()?;
        let exclusion = Exclusion::new(&params.exclude);
        let shapes = infer(graph, &feeds_for_batch(graph, 2)?)?;
        let excluded = |name: &str| exclusion.covers(name);
        let blocks = match params.depth {
            true => Blocks::find(graph, &shapes, &excluded),
            false => Blocks::default(),
        };
        let channels = Removal::find(graph, Granularity::Channel, Scope::Layer, &exclusion)?;
        let scores = channels.scores(graph, &PruneParams::default(), None, 0)?;
        let mut architecture = Self {
            order: scores.iter().map(|own| falling(own)).collect(),
            by_axis: units_by_axis(&channels, &scores),
            graph: graph.clone(),
            channels,
            blocks,
            cells,
            parts: Vec::new(),
            dimensions: Vec::new(),
        };
        match &params.cell {
            Some(cell) => architecture.open_cells(cell),
            None => {
                architecture.open(params, grows, &excluded);
                architecture.open_resolutions(&params.resolution);
            }
        }
        Ok(architecture)
    }

    fn open_cells(&mut self, cell: &CellSpace) {
        for (from, to) in EDGES {
            let operations = cell.operations.clone();
            let count = operations.len();
            let part = Part::Operation { operations };
            self.push(format!("cell:{from}-{to}"), part, count, None);
        }
    }

    fn open(&mut self, params: &SearchSpace, grows: bool, excluded: &dyn Fn(&str) -> bool) {
        for block in 0..self.blocks.blocks.len() {
            let add = self.graph.nodes[self.blocks.blocks[block].add].label();
            let name = format!("depth:{add}");
            self.push(name, Part::Depth { block }, 2, None);
        }
        for group in 0..self.channels.groups.len() {
            let units = self.channels.groups[group].units.len();
            let nodes = self.channels.nodes(group);
            let of = |count: f64| (count.round() as usize).clamp(1, units);
            let (what, mut counts): (_, BTreeSet<usize>) = match self.bottleneck(&nodes) {
                Some(inputs) if !params.expand.is_empty() => {
                    let ratios = params.expand.iter();
                    (
                        "expand",
                        ratios.map(|ratio| of(ratio * inputs as f64)).collect(),
                    )
                }
                _ => {
                    let shares = params.width.iter();
                    (
                        "width",
                        shares.map(|share| of(share * units as f64)).collect(),
                    )
                }
            };
            if what == "expand" {
                // The model's own expansion is one of them.
                counts.insert(units);
            }
            if counts.len() > 1 {
                let name = format!("{what}:{}", self.channels.groups[group].name);
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
            let groups = self.group_counts(proto, &params.groups);
            if groups.len() > 1 {
                let count = groups.len();
                let part = Part::Groups {
                    node,
                    counts: groups,
                };
                self.push(format!("groups:{label}"), part, count, when.clone());
            }
            let proto = &self.graph.nodes[node];
            let sizes = self.sizes(proto, &params.kernel, grows);
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

    /// The resolutions at which the model still fits together.
    fn open_resolutions(&mut self, wanted: &[f64]) {
        let has_images = self.graph.inputs.iter().any(is_image) && self.graph.opset >= 11;
        let mut shares: Vec<f64> = wanted.to_vec();
        shares.push(1.0);
        shares.sort_by(f64::total_cmp);
        shares.dedup();
        shares.retain(|&share| {
            let mut small = self.graph.clone();
            shrink_images(&mut small, share);
            let feeds = feeds_for_batch(&small, 2);
            share == 1.0 || feeds.and_then(|feeds| infer(&small, &feeds)).is_ok()
        });
        if has_images && shares.len() > 1 {
            let count = shares.len();
            self.push(
                "resolution".to_owned(),
                Part::Resolution { shares },
                count,
                None,
            );
        }
    }

    /// Of the nodes of an inverted bottleneck's inside: the channels that are expanded.
    fn bottleneck(&self, nodes: &[usize]) -> Option<usize> {
        let kernel = |node: &NodeProto| {
            let kernel = self.graph.kernel_of(node)?;
            (family(node) == Some(Family::Conv)).then(|| kernel.dims.clone())
        };
        let own = || nodes.iter().map(|&node| &self.graph.nodes[node]);
        let is_depthwise = |node: &NodeProto| {
            let groups = node.int("group").unwrap_or(1) as usize;
            kernel(node).is_some_and(|dims| groups > 1 && groups == dims[0] && dims[1] == 1)
        };
        let expands = |node: &NodeProto| {
            let dims = kernel(node)?;
            let points = dims[2..].iter().all(|&size| size == 1);
            (points && node.int("group").unwrap_or(1) == 1).then_some(dims[1])
        };
        own().any(is_depthwise).then(|| own().find_map(expands))?
    }

    /// The numbers of groups that a convolution without any can have; 1 among them.
    fn group_counts(&self, node: &NodeProto, wanted: &[u32]) -> Vec<usize> {
        let kernel = self.graph.kernel_of(node);
        let whole = family(node) == Some(Family::Conv) && node.int("group").unwrap_or(1) == 1;
        let Some(kernel) = kernel.filter(|kernel| whole && kernel.floats().is_some()) else {
            return Vec::new();
        };
        let divides = |&count: &usize| kernel.dims[0] % count == 0 && kernel.dims[1] % count == 0;
        let counts = wanted.iter().map(|&count| count as usize).filter(divides);
        let mut counts: BTreeSet<usize> = counts.collect();
        counts.insert(1);
        counts.into_iter().collect()
    }

    fn push(&mut self, name: String, part: Part, count: usize, when: Option<When>) {
        let unordered = matches!(part, Part::Activation { .. } | Part::Operation { .. });
        let ordered = !unordered && count > 2;
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
    fn sizes(&self, node: &NodeProto, wanted: &[u32], grows: bool) -> Vec<usize> {
        let kernel = self.graph.kernel_of(node);
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
                && (grows || size <= own)
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
            Part::Groups { counts, .. } => Value::from(counts[index]),
            Part::Resolution { shares } => Value::from(shares[index]),
            Part::Activation { operators, .. } => Value::from(operators[index].clone()),
            Part::Operation { operations } => Value::from(operations[index].as_str()),
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
                Part::Groups { .. } | Part::Operation { .. } => 0.0,
                Part::Resolution { shares } => last(shares.len()),
                Part::Kernel { node, sizes } => {
                    let own = self.graph.kernel_of(&self.graph.nodes[*node]);
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

    /// Whether anything can be built of these coordinates.
    pub fn fits(&self, coordinates: &[Option<f64>]) -> bool {
        self.cells.is_none() || Cells::connects(&self.operations(coordinates))
    }

    fn operations(&self, coordinates: &[Option<f64>]) -> Vec<CellOperation> {
        let pairs = self.parts.iter().zip(coordinates);
        pairs
            .filter_map(|(part, coordinate)| match part {
                Part::Operation { operations } => Some(operations[(*coordinate)? as usize]),
                _ => None,
            })
            .collect()
    }

    /// The model itself, with the weights that candidates get.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Gives candidates the weights of `graph`, the model itself with others.
    pub fn inherit(&mut self, graph: Graph) {
        self.graph = graph;
    }

    /// The model with all its groups as wide as each other, from the widest to the narrowest: the indices of the
    /// dimensions that are widths, and the points.
    pub fn uniform(&self) -> (Vec<usize>, Vec<Vec<f64>>) {
        let last = |part: &Part| match part {
            Part::Width { counts, .. } => Some(counts.len() - 1),
            _ => None,
        };
        let widths = (0..self.parts.len()).filter(|&part| last(&self.parts[part]).is_some());
        let most = self.parts.iter().filter_map(last).max().unwrap_or(0);
        let level = |level: usize| {
            let scaled = |last: usize| (level as f64 / most.max(1) as f64 * last as f64).round();
            let pairs = self.parts.iter().zip(self.own());
            let point = pairs.map(|(part, own)| last(part).map_or(own, scaled));
            point.collect()
        };
        (widths.collect(), (0..=most).rev().map(level).collect())
    }

    /// Whether the point with the least of everything is the least model: cells have none.
    pub fn has_smallest(&self) -> bool {
        self.cells.is_none()
    }

    /// The point with the least of everything, with the most groups of each convolution where `grouped`; activations
    /// are the model's own.
    pub fn smallest(&self, grouped: bool) -> Vec<Option<f64>> {
        let pairs = self.parts.iter().zip(self.own());
        pairs
            .map(|(part, own)| {
                Some(match part {
                    Part::Groups { counts, .. } if grouped => counts.len() as f64 - 1.0,
                    Part::Activation { .. } => own,
                    _ => 0.0,
                })
            })
            .collect()
    }

    /// The graph of a point, with the model's weights where they fit.
    pub fn build(&self, coordinates: &[Option<f64>]) -> Result<Graph, PruneError> {
        self.build_of(&self.graph, coordinates)
    }

    /// The same, corrected by `recover` once channels have left: it gets the model, what is left of it and the cut.
    pub fn build_recovered(
        &self,
        coordinates: &[Option<f64>],
        recover: &dyn Fn(&Graph, &mut Graph, &Cut) -> Result<(), PruneError>,
    ) -> Result<Graph, PruneError> {
        self.build_with(&self.graph, coordinates, recover)
    }

    /// The same of a model that differs from it in its weights alone.
    pub(super) fn build_of(
        &self,
        graph: &Graph,
        coordinates: &[Option<f64>],
    ) -> Result<Graph, PruneError> {
        self.build_with(graph, coordinates, &|_, _, _| Ok(()))
    }

    fn build_with(
        &self,
        graph: &Graph,
        coordinates: &[Option<f64>],
        recover: &dyn Fn(&Graph, &mut Graph, &Cut) -> Result<(), PruneError>,
    ) -> Result<Graph, PruneError> {
        if let Some(cells) = &self.cells {
            return cells.network(graph, &self.operations(coordinates));
        }
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
        spare(&self.by_axis, &mut units);
        let mut graph = match units.is_empty() {
            true => graph.clone(),
            false => {
                let (mut narrowed, cut) = self.channels.without(graph, &units)?;
                if let Some(cut) = cut {
                    recover(graph, &mut narrowed, &cut)?;
                }
                narrowed
            }
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
        for (part, index) in chosen() {
            if let Part::Groups { node, counts } = part
                && !regroup(&mut graph, *node, counts[index])
            {
                return Err(PruneError::Indivisible {
                    node: graph.nodes[*node].label().to_owned(),
                    groups: counts[index],
                });
            }
        }
        if !gone.is_empty() {
            graph = self.blocks.without(&graph, &gone)?;
        }
        for (part, index) in chosen() {
            if let Part::Resolution { shares } = part {
                shrink_images(&mut graph, shares[index]);
            }
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
