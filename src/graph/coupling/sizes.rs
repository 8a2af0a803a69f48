//! Numbers inside the graph that are counts of channels: what Shape says, and what is computed from it.
//!
//! A count that only names a size again, of the same channels, follows a cut by itself, also where it is multiplied
//! by what no channel is counted in. One that is computed with in another way (the scale of an attention, a number of
//! groups) or that names the size of other channels would change what the graph means, so those channels stay.

use super::{Atom, Axis, Follower};
use crate::graph::infer::known_inputs;
use crate::graph::params;
use crate::host::is_float;
use crate::onnx::proto::NodeProto;

/// An element of shape arithmetic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Size {
    /// The same whatever is fed.
    Fixed,
    /// Depends on what is fed: a batch, a length.
    Free,
    /// Counts these channels; one that is there twice counts twice.
    Count(Vec<Atom>),
}

impl<'a> Follower<'a> {
    /// Follows counts of channels through a node of shape arithmetic.
    pub(super) fn follow_sizes(&mut self, node: &'a NodeProto) {
        let sizes = match node.operator() {
            "Shape" => self.sizes_of_shape(node),
            "Gather" | "Slice" | "Concat" | "Unsqueeze" | "Squeeze" | "Reshape" | "Identity"
            | "Cast" => self.moved_sizes(node),
            "Mul" => self.multiplied_sizes(node),
            _ => None,
        };
        let sizes = sizes.or_else(|| {
            // Channels that stay are as many whatever is fed.
            self.freeze_counts(node);
            let known = node.input.iter().map(|name| self.sizes.get(name.as_str()));
            let free = known.flatten().flatten().any(|size| *size == Size::Free);
            free.then(Vec::new)
        });
        for output in &node.output {
            let Some(mut sizes) = sizes.clone() else {
                continue;
            };
            let count = self.dims_of(output).iter().product();
            sizes.resize(count, Size::Free);
            if sizes.iter().any(|size| *size != Size::Fixed) {
                self.sizes.insert(output, sizes);
            }
        }
    }

    /// Freezes the channels whose count `node` reads.
    pub(super) fn freeze_counts(&mut self, node: &NodeProto) {
        let reason = format!(
            "has its number read by `{}` ({})",
            node.label(),
            node.operator()
        );
        for name in &node.input {
            for size in self.sizes.get(name.as_str()).cloned().unwrap_or_default() {
                if let Size::Count(atoms) = size {
                    self.freeze_axis(&Some(atoms), &reason);
                }
            }
        }
    }

    fn sizes_of_shape(&mut self, node: &NodeProto) -> Option<Vec<Size>> {
        let axes = self.axes_of(node.input_at(0)?);
        let rank = axes.len() as i64;
        let place = |name: &str, default: i64| {
            let given = node.int(name).unwrap_or(default);
            let from_front = if given < 0 {
                given.saturating_add(rank)
            } else {
                given
            };
            from_front.clamp(0, rank) as usize
        };
        let start = place("start", 0);
        let end = place("end", rank).max(start);
        let size = |axis: &Axis| match axis {
            Some(atoms) => Size::Count(atoms.clone()),
            None => Size::Free,
        };
        Some(axes[start..end].iter().map(size).collect())
    }

    fn sizes_of(&self, name: &str) -> Option<Vec<Size>> {
        let count = self.shapes.get(name)?.dims.iter().product();
        let known = self.sizes.get(name).cloned();
        Some(known.unwrap_or_else(|| vec![Size::Fixed; count]))
    }

    /// Elements that a node puts elsewhere as they are; `None` where it does more.
    fn moved_sizes(&self, node: &NodeProto) -> Option<Vec<Size>> {
        let shapes = self.shapes;
        let first = self.sizes_of(node.input_at(0)?)?;
        match node.operator() {
            "Gather" => {
                let indices = shapes.get(node.input_at(1)?)?.ints()?;
                indices
                    .into_iter()
                    .map(|index| {
                        let wrapped = if index < 0 {
                            index + first.len() as i64
                        } else {
                            index
                        };
                        first.get(usize::try_from(wrapped).ok()?).cloned()
                    })
                    .collect()
            }
            "Slice" => {
                let inputs = known_inputs(node, shapes);
                let slicing = params::slicing(node, self.graph.opset, &inputs).ok()?;
                let [(start, step, count)] = slicing.ranges[..] else {
                    return None;
                };
                (0..count as i64)
                    .map(|k| first.get((start as i64 + k * step) as usize).cloned())
                    .collect()
            }
            "Concat" => {
                let parts = node.input.iter().map(|name| self.sizes_of(name));
                Some(parts.collect::<Option<Vec<_>>>()?.concat())
            }
            "Cast" if is_float(node.int("to").unwrap_or(1) as i32) => None,
            _ => Some(first),
        }
    }

    /// Counts taken as often as a factor says that counts no channels.
    fn multiplied_sizes(&self, node: &NodeProto) -> Option<Vec<Size>> {
        let (a, b) = (node.input_at(0)?, node.input_at(1)?);
        let values = [a, b].map(|name| self.shapes.get(name).and_then(|known| known.ints()));
        let [Some(left), Some(right)] = values else {
            return None;
        };
        let (sizes, others) = (self.sizes_of(a)?, self.sizes_of(b)?);
        let count = left.len().max(right.len());
        let at = |index: usize, len: usize| if len == 1 { 0 } else { index };
        (0..count)
            .map(|index| {
                let (i, j) = (at(index, left.len()), at(index, right.len()));
                let taken = |atoms: &[Atom], times: i64| {
                    let times = usize::try_from(times)
                        .ok()
                        .filter(|times| *times < 1 << 16)?;
                    Some(Size::Count(atoms.repeat(times)))
                };
                match (sizes.get(i)?, others.get(j)?) {
                    (Size::Count(_), Size::Count(_)) => None,
                    (Size::Count(atoms), _) => taken(atoms, right[j]),
                    (_, Size::Count(atoms)) => taken(atoms, left[i]),
                    (Size::Fixed, Size::Fixed) => Some(Size::Fixed),
                    _ => Some(Size::Free),
                }
            })
            .collect()
    }
}
