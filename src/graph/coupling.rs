//! Which channels must be removed together.
//!
//! Every index along a weight's axis is an *atom*. Following the graph once, each operator's rule
//! says which atoms are the same channel: a residual sum unites those of its operands, a Concat
//! offsets them, a Reshape repeats or merges them, a depthwise convolution ties its input to its
//! output. What is united at the end is a *unit*, the smallest thing that can leave the graph; the
//! units that share axes form a *group*. An atom that reaches something that can't be followed (an
//! output of the graph, a softmax over channels) is frozen, with the reason.
//!
//! The idea of following channel identities instead of layer names is DepGraph's (Fang et al.,
//! CVPR 2023), here with single channels in place of layers, so that concatenations, flattened
//! maps and grouped convolutions need no special indices.

mod rules;
mod sizes;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Graph, Shapes};
use crate::onnx::proto::NodeProto;

/// Index of an atom.
type Atom = u32;

/// Along one axis of a value: the atom of each index, or `None` where the axis has no channels
/// that could go.
type Axis = Option<Vec<Atom>>;

/// The indices of one weight's axis that a unit takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitSlice {
    pub tensor: String,
    pub axis: usize,
    pub indices: Vec<usize>,
}

/// The smallest set of channels that can be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    pub slices: Vec<UnitSlice>,
}

/// Units that live on the same axes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// `g0`, `g1`, … in the order of the graph.
    pub name: String,
    pub units: Vec<Unit>,
    /// Units on the same axes that must stay.
    pub frozen: usize,
    /// Whether the units are attention heads: they lie side by side in a batch of matrix products.
    pub heads: bool,
}

/// Numbers inside the graph that count channels and must follow a cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fix {
    /// An attribute that counts channels, the `group` of a depthwise convolution for instance: as many as
    /// `axis` keeps.
    Count {
        node: usize,
        attribute: &'static str,
        axis: Vec<Atom>,
    },
    /// An input of zeros, one for each channel, that says what its absence says.
    Zeros {
        node: usize,
        input: usize,
        axis: Vec<Atom>,
    },
    /// Element `index` of the constant that is input `input` of `node`.
    Constant {
        node: usize,
        input: usize,
        index: usize,
        axis: Vec<Atom>,
    },
    /// The sizes of a Split's parts.
    SplitSizes { node: usize, parts: Vec<Vec<Atom>> },
}

/// Everything that is known about removable channels of a graph.
#[derive(Debug, Clone)]
pub struct Couplings {
    pub groups: Vec<Group>,
    /// By the index of a node with a kernel: why none of its output channels can be removed.
    pub blocked: BTreeMap<usize, String>,
    /// By the index of a node with a kernel: the group of its output channels.
    pub group_of_node: BTreeMap<usize, usize>,
    /// For each group and unit, the root atom.
    roots: Vec<Vec<Atom>>,
    /// Root of every atom.
    root_of: Vec<Atom>,
    axes: BTreeMap<(String, usize), Vec<Atom>>,
    fixes: Vec<Fix>,
}

impl Couplings {
    /// Follows every channel of `graph`. Nodes whose name `excluded` accepts are left alone.
    pub fn find(graph: &Graph, shapes: &Shapes, excluded: &dyn Fn(&str) -> bool) -> Self {
        let mut follower = Follower::new(graph, shapes);
        for index in 0..graph.nodes.len() {
            follower.follow(index);
        }
        for output in &graph.outputs {
            let reason = format!("feeds the graph's output `{}`", output.label());
            for axis in follower.axes_of(output.label()) {
                follower.freeze_axis(&axis, &reason);
            }
        }
        for (name, index) in graph.kernels() {
            if excluded(graph.nodes[index].label()) {
                for axis in 0..graph.initializers[name].dims.len() {
                    if let Some(atoms) = follower.weights.get(&(name.to_owned(), axis)).cloned() {
                        follower.freeze_axis(&Some(atoms), "is excluded by the request");
                    }
                }
            }
        }
        follower.finish()
    }

    /// Atoms that go when these `(group, unit)` pairs are removed.
    pub(super) fn removed_atoms(&self, units: &BTreeSet<(usize, usize)>) -> Vec<bool> {
        let mut root_gone = vec![false; self.root_of.len()];
        for &(group, unit) in units {
            root_gone[self.roots[group][unit] as usize] = true;
        }
        self.root_of
            .iter()
            .map(|&root| root_gone[root as usize])
            .collect()
    }

    pub(super) fn axes(&self) -> &BTreeMap<(String, usize), Vec<Atom>> {
        &self.axes
    }

    pub(super) fn fixes(&self) -> &[Fix] {
        &self.fixes
    }

    /// These without the groups whose units are no attention heads.
    pub fn heads_alone(mut self) -> Self {
        let heads: Vec<bool> = self.groups.iter().map(|group| group.heads).collect();
        let place = |group: usize| heads[..group].iter().filter(|&&heads| heads).count();
        self.group_of_node.retain(|&node, group| {
            let stays = heads[*group];
            if !stays {
                let reason = "has channels that are no attention heads".to_owned();
                self.blocked.insert(node, reason);
            }
            *group = place(*group);
            stays
        });
        let mut kept = heads.iter();
        self.groups
            .retain(|_| *kept.next().expect("one for each group"));
        let mut kept = heads.iter();
        self.roots
            .retain(|_| *kept.next().expect("one for each group"));
        self
    }

    /// All units of all groups.
    pub fn unit_count(&self) -> usize {
        self.groups.iter().map(|group| group.units.len()).sum()
    }
}

/// The axis of a kernel that holds a node's output channels.
pub fn output_axis(node: &NodeProto, kernel: &str, rank: usize) -> usize {
    match node.operator() {
        "ConvTranspose" => usize::from(node.int("group").unwrap_or(1) == 1),
        "Gemm" if node.input_at(1) == Some(kernel) => {
            usize::from(node.int("transB").unwrap_or(0) == 0)
        }
        "Gemm" => usize::from(node.int("transA").unwrap_or(0) == 1),
        "MatMul" if node.input_at(1) == Some(kernel) => rank - 1,
        "MatMul" => rank - 2,
        "RNN" | "GRU" | "LSTM" => 1,
        _ => 0,
    }
}

/// How many times over a kernel of `node` has its output channels: once for each gate of a recurrent layer.
pub fn gates(node: &NodeProto) -> usize {
    match node.operator() {
        "GRU" => 3,
        "LSTM" => 4,
        _ => 1,
    }
}

/// Unites atoms while it walks through the graph.
struct Follower<'a> {
    graph: &'a Graph,
    shapes: &'a Shapes,
    parent: Vec<Atom>,
    frozen: HashMap<Atom, String>,
    weights: BTreeMap<(String, usize), Vec<Atom>>,
    values: HashMap<&'a str, Vec<Axis>>,
    /// Of integers that are counts: the channels that each element counts.
    sizes: HashMap<&'a str, Vec<Axis>>,
    fixes: Vec<Fix>,
    /// Atoms on batch axes of matrix products.
    batched: Vec<Atom>,
}

impl<'a> Follower<'a> {
    fn new(graph: &'a Graph, shapes: &'a Shapes) -> Self {
        Self {
            graph,
            shapes,
            parent: Vec::new(),
            frozen: HashMap::new(),
            weights: BTreeMap::new(),
            values: HashMap::new(),
            sizes: HashMap::new(),
            fixes: Vec::new(),
            batched: Vec::new(),
        }
    }

    fn fresh(&mut self, count: usize) -> Vec<Atom> {
        let first = self.parent.len() as Atom;
        self.parent.extend(first..first + count as Atom);
        (first..first + count as Atom).collect()
    }

    fn root(&mut self, atom: Atom) -> Atom {
        let mut root = atom;
        while self.parent[root as usize] != root {
            root = self.parent[root as usize];
        }
        let mut walk = atom;
        while self.parent[walk as usize] != root {
            walk = std::mem::replace(&mut self.parent[walk as usize], root);
        }
        root
    }

    fn unite(&mut self, a: Atom, b: Atom) {
        let (a, b) = (self.root(a), self.root(b));
        if a == b {
            return;
        }
        let (keep, merge) = (a.min(b), a.max(b));
        self.parent[merge as usize] = keep;
        if let Some(reason) = self.frozen.remove(&merge) {
            self.frozen.entry(keep).or_insert(reason);
        }
    }

    fn freeze_axis(&mut self, axis: &Axis, reason: &str) {
        for &atom in axis.iter().flatten() {
            let root = self.root(atom);
            self.frozen.entry(root).or_insert_with(|| reason.to_owned());
        }
    }

    /// The two axes hold the same channels. An axis without atoms freezes the other.
    fn unite_axes(&mut self, a: &Axis, b: &Axis, reason: &str) -> Axis {
        match (a, b) {
            (Some(left), Some(right)) if left.len() == right.len() => {
                for (&x, &y) in left.iter().zip(right) {
                    self.unite(x, y);
                }
                a.clone()
            }
            _ => {
                self.freeze_axis(a, reason);
                self.freeze_axis(b, reason);
                None
            }
        }
    }

    /// The atoms of a weight's axis; none for an axis of one element, which can't shrink.
    fn weight_axis(&mut self, name: &str, axis: usize) -> Axis {
        let size = self.graph.initializers.get(name)?.dims[axis];
        if size <= 1 {
            return None;
        }
        let key = (name.to_owned(), axis);
        if let Some(atoms) = self.weights.get(&key) {
            return Some(atoms.clone());
        }
        let atoms = self.fresh(size);
        self.weights.insert(key, atoms.clone());
        Some(atoms)
    }

    /// The axes of any value. An initializer's are all its own.
    fn axes_of(&mut self, name: &str) -> Vec<Axis> {
        if let Some(tensor) = self.graph.initializers.get(name) {
            if tensor.floats().is_none() {
                return vec![None; tensor.dims.len()];
            }
            return (0..tensor.dims.len())
                .map(|axis| self.weight_axis(name, axis))
                .collect();
        }
        if let Some(axes) = self.values.get(name) {
            return axes.clone();
        }
        let rank = self.shapes.get(name).map_or(0, |known| known.dims.len());
        vec![None; rank]
    }

    fn dims_of(&self, name: &str) -> Vec<usize> {
        self.shapes
            .get(name)
            .map(|known| known.dims.clone())
            .unwrap_or_default()
    }

    fn set(&mut self, name: &'a str, axes: Vec<Axis>) {
        self.values.insert(name, axes);
    }

    fn finish(mut self) -> Couplings {
        let axes = std::mem::take(&mut self.weights);
        let root_of: Vec<Atom> = (0..self.parent.len() as Atom)
            .map(|atom| self.root(atom))
            .collect();
        let batched: BTreeSet<Atom> = std::mem::take(&mut self.batched)
            .into_iter()
            .map(|atom| root_of[atom as usize])
            .collect();
        // Axes that share a root belong to one group.
        let keys: Vec<&(String, usize)> = axes.keys().collect();
        let mut leader: Vec<usize> = (0..keys.len()).collect();
        fn lead(leader: &mut [usize], mut index: usize) -> usize {
            while leader[index] != index {
                leader[index] = leader[leader[index]];
                index = leader[index];
            }
            index
        }
        let mut first_with: HashMap<Atom, usize> = HashMap::new();
        for (index, key) in keys.iter().enumerate() {
            for &atom in &axes[*key] {
                let root = root_of[atom as usize];
                let other = *first_with.entry(root).or_insert(index);
                let (a, b) = (lead(&mut leader, index), lead(&mut leader, other));
                leader[a.max(b)] = a.min(b);
            }
        }
        // Number the groups in the order in which their kernels stand in the graph.
        let kernels = self.graph.kernels();
        let mut order: Vec<(usize, usize)> = Vec::new();
        for (position, key) in keys.iter().enumerate() {
            let node = kernels.get(key.0.as_str()).copied().unwrap_or(usize::MAX);
            order.push((node, lead(&mut leader, position)));
        }
        order.sort_unstable();
        let mut group_index: HashMap<usize, usize> = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        let mut roots: Vec<Vec<Atom>> = Vec::new();
        for (_, leader_index) in order {
            if group_index.contains_key(&leader_index) {
                continue;
            }
            let mut slices: BTreeMap<Atom, Vec<UnitSlice>> = BTreeMap::new();
            let mut frozen = BTreeSet::new();
            for (position, key) in keys.iter().enumerate() {
                if lead(&mut leader, position) != leader_index {
                    continue;
                }
                let mut by_root: BTreeMap<Atom, Vec<usize>> = BTreeMap::new();
                for (index, &atom) in axes[*key].iter().enumerate() {
                    by_root
                        .entry(root_of[atom as usize])
                        .or_default()
                        .push(index);
                }
                for (root, indices) in by_root {
                    if self.frozen.contains_key(&root) {
                        frozen.insert(root);
                        continue;
                    }
                    slices.entry(root).or_default().push(UnitSlice {
                        tensor: key.0.clone(),
                        axis: key.1,
                        indices,
                    });
                }
            }
            group_index.insert(leader_index, usize::MAX);
            if slices.is_empty() {
                continue;
            }
            group_index.insert(leader_index, groups.len());
            let heads = slices.keys().any(|root| batched.contains(root));
            roots.push(slices.keys().copied().collect());
            groups.push(Group {
                name: format!("g{}", groups.len()),
                units: slices.into_values().map(|slices| Unit { slices }).collect(),
                frozen: frozen.len(),
                heads,
            });
        }
        let mut blocked = BTreeMap::new();
        let mut group_of_node = BTreeMap::new();
        for (name, node) in kernels {
            let rank = self.graph.initializers[name].dims.len();
            let key = (
                name.to_owned(),
                output_axis(&self.graph.nodes[node], name, rank),
            );
            let Ok(position) = keys.binary_search(&&key) else {
                blocked.insert(node, "has a single output channel".to_owned());
                continue;
            };
            match group_index.get(&lead(&mut leader, position)) {
                Some(&group) if group != usize::MAX => {
                    let free = axes[&key]
                        .iter()
                        .any(|&a| !self.frozen.contains_key(&root_of[a as usize]));
                    if free {
                        group_of_node.insert(node, group);
                        continue;
                    }
                }
                _ => {}
            }
            let reason = axes[&key]
                .iter()
                .find_map(|&atom| self.frozen.get(&root_of[atom as usize]))
                .cloned()
                .unwrap_or_else(|| "can't be followed".to_owned());
            blocked.insert(node, reason);
        }
        Couplings {
            groups,
            blocked,
            group_of_node,
            roots,
            root_of,
            axes,
            fixes: self.fixes,
        }
    }
}
