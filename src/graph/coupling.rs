//! Which channels must be removed together.
//!
//! Every index along a weight's axis is an *atom*. Following the graph once, each operator's rule
//! says which atoms are the same channel: a residual sum unites those of its operands, a Concat
//! offsets them, a Reshape repeats or merges them, a depthwise convolution ties its input to its
//! output. What is united at the end is a *unit*, the smallest thing that can leave the graph; the
//! units that share axes form a *group*. An atom that reaches something that can't be followed (an
//! output of the graph, a softmax over channels) is frozen, with the reason.
//!
//! An axis that a Reshape splits (into heads and their dimensions, for instance) has atoms of its own for each of
//! the new axes. The old ones then have *parts*, one of each: an index leaves with any of its parts, so a whole
//! head can go as well as one dimension of every head.
//!
//! The idea of following channel identities instead of layer names is DepGraph's (Fang et al.,
//! CVPR 2023), here with single channels in place of layers, so that concatenations, flattened
//! maps and grouped convolutions need no special indices.

mod rules;
mod sizes;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use sizes::Size;

use super::{Graph, Shapes};
use crate::onnx::proto::NodeProto;

/// Why layers stay where heads alone can go.
pub const NO_HEADS: &str = "has channels that are no attention heads";

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
    /// Whether the units are dimensions inside of heads: they lie on the axes that heads make up already.
    pub inside: bool,
}

/// An element of a Reshape's target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Element {
    /// As in the input.
    Copied,
    /// What is left.
    Inferred,
    Fixed(i64),
    /// As many as the axis keeps.
    Count(Vec<Atom>),
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
    /// Input `input` of the Concat that puts together the target of a Reshape: one number, which would stay as it is.
    Piece {
        node: usize,
        input: usize,
        element: Element,
        /// What lies on the axis, or is counted.
        atoms: Vec<Atom>,
    },
    /// The target of a Reshape, whose computed one would stay as it is.
    Target {
        node: usize,
        elements: Vec<Element>,
        /// What lies on the axes.
        atoms: Vec<Atom>,
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
    /// By the index of a node with a kernel: the groups of its output channels; of heads before that of their
    /// dimensions.
    pub groups_of_node: BTreeMap<usize, Vec<usize>>,
    /// For each group and unit, the root atom.
    roots: Vec<Vec<Atom>>,
    /// Root of every atom.
    root_of: Vec<Atom>,
    /// Of roots that have them: the roots of their parts.
    parts: HashMap<Atom, Vec<Atom>>,
    axes: BTreeMap<(String, usize), Vec<Atom>>,
    /// Roots along every axis of a weight or value that has some.
    lengths: BTreeSet<Vec<Atom>>,
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
        let gone = |root: &Atom| match self.parts.get(root) {
            None => root_gone[*root as usize],
            Some(parts) => parts.iter().any(|&part| root_gone[part as usize]),
        };
        self.root_of.iter().map(gone).collect()
    }

    pub(super) fn axes(&self) -> &BTreeMap<(String, usize), Vec<Atom>> {
        &self.axes
    }

    pub(super) fn fixes(&self) -> &[Fix] {
        &self.fixes
    }

    /// These without the groups whose units are no attention heads.
    pub fn heads_alone(self) -> Self {
        self.with_groups(|group| group.heads, NO_HEADS)
    }

    /// These without the dimensions inside of heads, so that every axis has units in one way only.
    pub fn whole_heads(self) -> Self {
        self.with_groups(
            |group| !group.inside,
            "has dimensions inside of heads alone",
        )
    }

    fn with_groups(mut self, stays: impl Fn(&Group) -> bool, otherwise: &str) -> Self {
        let kept: Vec<bool> = self.groups.iter().map(stays).collect();
        let place = |group: usize| kept[..group].iter().filter(|&&kept| kept).count();
        self.groups_of_node.retain(|&node, groups| {
            groups.retain(|&group| kept[group]);
            if groups.is_empty() {
                self.blocked.insert(node, otherwise.to_owned());
            }
            groups.iter_mut().for_each(|group| *group = place(*group));
            !groups.is_empty()
        });
        let mut left = kept.iter();
        self.groups
            .retain(|_| *left.next().expect("one for each group"));
        let mut left = kept.iter();
        self.roots
            .retain(|_| *left.next().expect("one for each group"));
        self
    }

    /// For each axis of a weight or value that units alone make up: the `(group, unit)` pairs any of which takes each
    /// of its indices away. Not all of them may go.
    pub fn made_of_units(&self) -> Vec<Vec<Vec<(usize, usize)>>> {
        let mut place: HashMap<Atom, (usize, usize)> = HashMap::new();
        for (group, own) in self.roots.iter().enumerate() {
            let units = own.iter().enumerate();
            place.extend(units.map(|(unit, &root)| (root, (group, unit))));
        }
        let takers = |root: &Atom| -> Option<Vec<(usize, usize)>> {
            let one = [*root];
            let leaves = self.parts.get(root).map_or(&one[..], |parts| parts);
            let found: Vec<_> = leaves
                .iter()
                .filter_map(|leaf| place.get(leaf).copied())
                .collect();
            (!found.is_empty()).then_some(found)
        };
        let of = |axis: &Vec<Atom>| axis.iter().map(takers).collect::<Option<Vec<_>>>();
        self.lengths.iter().filter_map(of).collect()
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
    /// Of roots: the atoms of which each takes them along.
    parts: HashMap<Atom, Vec<Atom>>,
    weights: BTreeMap<(String, usize), Vec<Atom>>,
    values: HashMap<&'a str, Vec<Axis>>,
    /// What the elements of shape arithmetic are, where not all are constants.
    sizes: HashMap<&'a str, Vec<Size>>,
    fixes: Vec<Fix>,
    /// Atoms on batch axes of matrix products.
    batched: Vec<Atom>,
    /// Axes of values that have atoms.
    lengths: BTreeSet<Vec<Atom>>,
}

impl<'a> Follower<'a> {
    fn new(graph: &'a Graph, shapes: &'a Shapes) -> Self {
        Self {
            graph,
            shapes,
            parent: Vec::new(),
            frozen: HashMap::new(),
            parts: HashMap::new(),
            weights: BTreeMap::new(),
            values: HashMap::new(),
            sizes: HashMap::new(),
            fixes: Vec::new(),
            batched: Vec::new(),
            lengths: BTreeSet::new(),
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
        if let Some(parts) = self.parts.remove(&merge) {
            self.compose(keep, parts);
        } else {
            self.freeze_parts(keep);
        }
    }

    /// The atom leaves with any of these.
    fn compose(&mut self, atom: Atom, parts: Vec<Atom>) {
        let root = self.root(atom);
        match self.parts.get(&root).cloned() {
            None => {
                self.parts.insert(root, parts);
            }
            Some(before) if before.len() == parts.len() => {
                for (x, y) in before.into_iter().zip(parts) {
                    self.unite(x, y);
                }
            }
            Some(_) => {
                let reason = "is split in two ways that do not go together";
                for part in parts {
                    self.freeze(part, reason);
                }
                self.freeze(root, reason);
            }
        }
        self.freeze_parts(root);
    }

    /// What must stay stays with all its parts.
    fn freeze_parts(&mut self, atom: Atom) {
        let root = self.root(atom);
        if let (Some(reason), Some(parts)) = (self.frozen.get(&root), self.parts.get(&root)) {
            let (reason, parts) = (reason.clone(), parts.clone());
            for part in parts {
                self.freeze(part, &reason);
            }
        }
    }

    fn freeze(&mut self, atom: Atom, reason: &str) {
        let root = self.root(atom);
        if let Entry::Vacant(entry) = self.frozen.entry(root) {
            entry.insert(reason.to_owned());
            self.freeze_parts(root);
        }
    }

    fn freeze_axis(&mut self, axis: &Axis, reason: &str) {
        for &atom in axis.iter().flatten() {
            self.freeze(atom, reason);
        }
    }

    /// The roots that take an atom along: its own, or those of its parts and theirs.
    fn leaves(&mut self, atom: Atom) -> Vec<Atom> {
        let (mut left, mut seen, mut leaves) = (vec![atom], BTreeSet::new(), Vec::new());
        while let Some(atom) = left.pop() {
            let root = self.root(atom);
            if !seen.insert(root) {
                continue;
            }
            match self.parts.get(&root) {
                None => leaves.push(root),
                // The first on top.
                Some(parts) => left.extend(parts.iter().rev()),
            }
        }
        leaves
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
        self.lengths.extend(axes.iter().flatten().cloned());
        self.values.insert(name, axes);
    }

    fn finish(mut self) -> Couplings {
        let axes = std::mem::take(&mut self.weights);
        let root_of: Vec<Atom> = (0..self.parent.len() as Atom)
            .map(|atom| self.root(atom))
            .collect();
        let lengths = std::mem::take(&mut self.lengths).into_iter();
        let all = lengths.chain(axes.values().cloned());
        let lengths = all.map(|axis| {
            let roots: BTreeSet<Atom> = axis.iter().map(|&atom| root_of[atom as usize]).collect();
            roots.into_iter().collect()
        });
        let lengths = lengths.collect();
        let composed: Vec<Atom> = self.parts.keys().copied().collect();
        let parts: HashMap<Atom, Vec<Atom>> = composed
            .into_iter()
            .map(|root| (root, self.leaves(root)))
            .collect();
        let own: Vec<[Atom; 1]> = root_of.iter().map(|&root| [root]).collect();
        let leaves = |atom: Atom| -> &[Atom] {
            match parts.get(&root_of[atom as usize]) {
                Some(parts) => parts,
                None => &own[atom as usize],
            }
        };
        let batched: BTreeSet<Atom> = std::mem::take(&mut self.batched)
            .into_iter()
            .flat_map(leaves)
            .copied()
            .collect();
        // Axes that share a root belong to one group. An axis of composed atoms counts once for each part.
        let keys: Vec<&(String, usize)> = axes.keys().collect();
        let mut sides: Vec<(usize, usize)> = Vec::new();
        for (position, key) in keys.iter().enumerate() {
            let most = axes[*key].iter().map(|&atom| leaves(atom).len()).max();
            sides.extend((0..most.unwrap_or(0)).map(|part| (position, part)));
        }
        // By side: its leaves with their places.
        let along = |&(position, part): &(usize, usize)| {
            let atoms = axes[keys[position]].iter().enumerate();
            atoms.filter_map(move |(index, &atom)| Some((index, *leaves(atom).get(part)?)))
        };
        let mut leader: Vec<usize> = (0..sides.len()).collect();
        fn lead(leader: &mut [usize], mut index: usize) -> usize {
            while leader[index] != index {
                leader[index] = leader[leader[index]];
                index = leader[index];
            }
            index
        }
        let mut first_with: HashMap<Atom, usize> = HashMap::new();
        for (index, side) in sides.iter().enumerate() {
            for (_, leaf) in along(side) {
                let other = *first_with.entry(leaf).or_insert(index);
                let (a, b) = (lead(&mut leader, index), lead(&mut leader, other));
                leader[a.max(b)] = a.min(b);
            }
        }
        // Number the groups in the order in which their kernels stand in the graph.
        let kernels = self.graph.kernels();
        let mut order: Vec<(usize, usize)> = Vec::new();
        for (index, &(position, _)) in sides.iter().enumerate() {
            let kernel = kernels.get(keys[position].0.as_str());
            let node = kernel.copied().unwrap_or(usize::MAX);
            order.push((node, lead(&mut leader, index)));
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
            let mut by_leaf: BTreeMap<(usize, Atom), BTreeSet<usize>> = BTreeMap::new();
            for (index, side) in sides.iter().enumerate() {
                if lead(&mut leader, index) == leader_index {
                    for (place, leaf) in along(side) {
                        by_leaf.entry((side.0, leaf)).or_default().insert(place);
                    }
                }
            }
            for ((position, leaf), indices) in by_leaf {
                if self.frozen.contains_key(&leaf) {
                    frozen.insert(leaf);
                    continue;
                }
                slices.entry(leaf).or_default().push(UnitSlice {
                    tensor: keys[position].0.clone(),
                    axis: keys[position].1,
                    indices: indices.into_iter().collect(),
                });
            }
            group_index.insert(leader_index, usize::MAX);
            if slices.is_empty() {
                continue;
            }
            group_index.insert(leader_index, groups.len());
            let heads = slices.keys().any(|leaf| batched.contains(leaf));
            roots.push(slices.keys().copied().collect());
            groups.push(Group {
                name: format!("g{}", groups.len()),
                units: slices.into_values().map(|slices| Unit { slices }).collect(),
                frozen: frozen.len(),
                heads,
                inside: false,
            });
        }
        let mut lies_on: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); groups.len()];
        for (index, &(position, _)) in sides.iter().enumerate() {
            let group = group_index.get(&lead(&mut leader, index)).copied();
            if let Some(group) = group.filter(|&group| group != usize::MAX) {
                lies_on[group].insert(position);
            }
        }
        let of_heads: BTreeSet<usize> = groups
            .iter()
            .zip(&lies_on)
            .filter(|(group, _)| group.heads)
            .flat_map(|(_, own)| own.iter().copied())
            .collect();
        for (group, own) in groups.iter_mut().zip(&lies_on) {
            group.inside = !group.heads && own.is_subset(&of_heads);
        }
        let mut blocked = BTreeMap::new();
        let mut groups_of_node: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
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
            let free = |leaf: &Atom| !self.frozen.contains_key(leaf);
            for (index, side) in sides.iter().enumerate() {
                let group = group_index.get(&lead(&mut leader, index)).copied();
                if side.0 == position
                    && let Some(group) = group.filter(|&group| group != usize::MAX)
                    && along(side).any(|(_, leaf)| free(&leaf))
                {
                    let own = groups_of_node.entry(node).or_default();
                    if !own.contains(&group) {
                        own.push(group);
                    }
                }
            }
            if groups_of_node.contains_key(&node) {
                continue;
            }
            let reason = axes[&key]
                .iter()
                // Of several parts the last: what comes first (the choice of a query, key or value) stays anyway.
                .flat_map(|&atom| leaves(atom).iter().rev())
                .find_map(|leaf| self.frozen.get(leaf))
                .cloned()
                .unwrap_or_else(|| "can't be followed".to_owned());
            blocked.insert(node, reason);
        }
        Couplings {
            groups,
            blocked,
            groups_of_node,
            roots,
            root_of,
            parts,
            axes,
            lengths,
            fixes: self.fixes,
        }
    }
}
