//! Numbers inside the graph that are counts of channels: what Shape says, and what is computed from it.
//!
//! A count that only names a size again, of the same channels, follows a cut by itself. One that is
//! computed with (the scale of an attention, a number of groups) or that names the size of other
//! channels would change what the graph means, so those channels stay.

use super::{Axis, Follower};
use crate::graph::infer::known_inputs;
use crate::graph::params;
use crate::host::is_float;
use crate::onnx::proto::NodeProto;

impl<'a> Follower<'a> {
    /// Follows counts of channels through a node of shape arithmetic.
    pub(super) fn follow_sizes(&mut self, node: &'a NodeProto) {
        let Some(output) = node.output.first() else {
            return;
        };
        let counts = match node.operator() {
            "Shape" => self.counts_of_shape(node),
            "Gather" | "Slice" | "Concat" | "Unsqueeze" | "Squeeze" | "Reshape" | "Identity"
            | "Cast" => self.moved_counts(node),
            _ => None,
        };
        match counts {
            Some(counts) => {
                if counts.iter().any(Option::is_some) {
                    self.sizes.insert(output, counts);
                }
            }
            None => self.freeze_counts(node),
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
            for axis in self.sizes.get(name.as_str()).cloned().unwrap_or_default() {
                self.freeze_axis(&axis, &reason);
            }
        }
    }

    fn counts_of_shape(&mut self, node: &NodeProto) -> Option<Vec<Axis>> {
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
        Some(axes[start..end].to_vec())
    }

    /// Counts that a node puts elsewhere as they are; `None` where it does more.
    fn moved_counts(&mut self, node: &NodeProto) -> Option<Vec<Axis>> {
        let shapes = self.shapes;
        let own = |follower: &Self, index: usize| -> Option<Vec<Axis>> {
            let name = node.input_at(index)?;
            let count = shapes.get(name)?.dims.iter().product();
            let counts = follower.sizes.get(name).cloned();
            Some(counts.unwrap_or_else(|| vec![None; count]))
        };
        let first = own(self, 0)?;
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
                let parts = (0..node.input.len()).map(|index| own(self, index));
                Some(parts.collect::<Option<Vec<_>>>()?.concat())
            }
            "Cast" if is_float(node.int("to").unwrap_or(1) as i32) => None,
            _ => Some(first),
        }
    }
}
