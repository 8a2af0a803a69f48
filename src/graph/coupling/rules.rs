//! One rule for each operator family: which channels of its inputs, weights and outputs are the
//! same.

use std::collections::HashMap;

use super::sizes::Size;
use super::{Atom, Axis, Element, Fix, Follower};
use crate::graph::infer::known_inputs;
use crate::graph::params::{self, normalize_axis};
use crate::graph::{Family, family, infer};
use crate::onnx::Tensor;
use crate::onnx::proto::NodeProto;

impl<'a> Follower<'a> {
    pub(super) fn follow(&mut self, index: usize) {
        let graph = self.graph;
        let node = &graph.nodes[index];
        // A value known beforehand is shape arithmetic or a constant and has no channels.
        if node.output.iter().all(|name| {
            self.shapes
                .get(name)
                .is_some_and(|known| known.value.is_some())
        }) {
            self.follow_sizes(node);
            return;
        }
        if node.operator() != "Reshape" {
            self.freeze_counts(node);
        }
        let unknown = |name: &String| !name.is_empty() && !self.shapes.contains_key(name);
        let family = match family(node) {
            Some(family) if !node.input.iter().chain(&node.output).any(unknown) => family,
            _ => {
                self.give_up(node);
                return;
            }
        };
        let done = match family {
            Family::Conv => self.conv(index, node),
            Family::ConvTranspose => self.conv_transpose(index, node),
            Family::Gemm => self.gemm(node),
            Family::MatMul => self.matmul(node),
            Family::BatchNormalization => self.normalization(node, 1..5),
            Family::GroupNormalization if node.operator() == "InstanceNormalization" => {
                self.channels_read(&node.input[0], node);
                self.normalization(node, 1..3)
            }
            Family::LayerNormalization => self.layer_normalization(node),
            Family::Where => self.elementwise(node),
            Family::Pool | Family::GlobalPool => self.pool(node),
            Family::Unary | Family::Clip | Family::Cast | Family::Dropout => self.pass(node),
            Family::Binary | Family::Variadic | Family::PRelu | Family::Gated => {
                self.elementwise(node)
            }
            Family::Softmax => self.softmax(node),
            Family::Reduce => self.reduce(node),
            Family::Concat => self.concat(node),
            Family::Split => self.split(index, node),
            Family::Slice => self.slice(node),
            Family::Reshape | Family::Flatten | Family::Squeeze | Family::Unsqueeze => {
                self.reshape(index, node)
            }
            Family::Transpose => self.transpose(node),
            Family::Expand => self.expand(node),
            Family::Pad => self.pad(node),
            Family::Resize => self.resize(index, node),
            Family::Gather => self.gather(node),
            Family::Recurrent => self.recurrent(index, node),
            // What is asked of each number by itself.
            Family::Host if matches!(node.operator(), "IsNaN" | "IsInf" | "Not") => self.pass(node),
            Family::LpNormalization
            | Family::Lrn
            | Family::GroupNormalization
            | Family::LpPool
            | Family::GlobalLpPool
            | Family::Cumulative
            | Family::Pick
            | Family::Scatter
            | Family::TopK
            | Family::Einsum
            | Family::Attention
            | Family::RotaryEmbedding
            | Family::Control
            | Family::SpaceDepth
            | Family::Host => None,
        };
        match done {
            Some(outputs) => {
                for (name, axes) in node.output.iter().zip(outputs) {
                    self.set(name, axes);
                }
            }
            None => self.give_up(node),
        }
    }

    /// Freezes every channel that meets `node`.
    fn give_up(&mut self, node: &NodeProto) {
        let reason = format!(
            "meets `{}` ({}), through which channels can't be followed",
            node.label(),
            node.operator()
        );
        let captured = node.captured().unwrap_or_default();
        for name in node
            .input
            .iter()
            .chain(&captured)
            .filter(|name| !name.is_empty())
        {
            for axis in self.axes_of(name) {
                self.freeze_axis(&axis, &reason);
            }
        }
    }

    fn conv(&mut self, index: usize, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let (x, w) = (node.input_at(0)?, node.input_at(1)?);
        let kernel = self.dims_of(w);
        if !self.graph.initializers.contains_key(w) {
            return None;
        }
        let group = node.int("group").unwrap_or(1).max(1) as usize;
        let input = self.channels_read(x, node)?;
        let output = self.weight_axis(w, 0);
        let reason = format!("is the data that `{}` reads", node.label());
        let per_group = kernel[1];
        if group == 1 {
            let own = self.weight_axis(w, 1);
            self.unite_axes(&input, &own, &reason);
        } else if per_group == 1 {
            // Depthwise: an input channel and the output channels made from it go together.
            let multiplier = kernel[0] / group;
            match (&input, &output) {
                (Some(input), Some(output)) => {
                    for (channel, &atom) in output.iter().enumerate() {
                        self.unite(atom, input[channel / multiplier]);
                    }
                    self.fixes.push(Fix::Count {
                        node: index,
                        attribute: "group",
                        axis: input.clone(),
                    });
                }
                _ => {
                    self.freeze_axis(&input, &reason);
                    self.freeze_axis(&output, &reason);
                }
            }
        } else {
            // Every group keeps the same number: the channels at one position in all groups.
            let own = self.weight_axis(w, 1);
            self.unite_positions(&input, per_group);
            let positions = input.as_ref().map(|atoms| atoms[..per_group].to_vec());
            self.unite_axes(&positions, &own, &reason);
            self.unite_positions(&output, kernel[0] / group);
        }
        if let Some(bias) = node.input_at(2) {
            let own = self.weight_axis(bias, 0);
            self.unite_axes(&output, &own, "shares a bias that is no weight");
        }
        let mut axes = vec![None; kernel.len()];
        axes[1] = output;
        Some(vec![axes])
    }

    /// The channel axis of a convolution's input; channels that lie on its other axes stay.
    fn channels_read(&mut self, x: &str, node: &NodeProto) -> Option<Axis> {
        let axes = self.axes_of(x);
        let reason = format!("lies on a spatial axis of `{}`", node.label());
        for (index, axis) in axes.iter().enumerate() {
            if index != 1 {
                self.freeze_axis(axis, &reason);
            }
        }
        axes.get(1).cloned()
    }

    fn unite_positions(&mut self, axis: &Axis, per_group: usize) {
        if let Some(atoms) = axis {
            for (index, &atom) in atoms.iter().enumerate() {
                self.unite(atom, atoms[index % per_group]);
            }
        }
    }

    fn conv_transpose(&mut self, index: usize, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let (x, w) = (node.input_at(0)?, node.input_at(1)?);
        self.graph.initializers.get(w)?;
        let kernel = self.dims_of(w);
        let group = node.int("group").unwrap_or(1).max(1) as usize;
        let input = self.channels_read(x, node)?;
        let own = self.weight_axis(w, 0);
        let reason = format!("is the data that `{}` reads", node.label());
        let output = if group == 1 {
            self.unite_axes(&input, &own, &reason);
            self.weight_axis(w, 1)
        } else if group == kernel[0] && kernel[1] == 1 {
            let united = self.unite_axes(&input, &own, &reason);
            if let Some(axis) = &united {
                self.fixes.push(Fix::Count {
                    node: index,
                    attribute: "group",
                    axis: axis.clone(),
                });
            }
            own
        } else {
            return None;
        };
        if let Some(bias) = node.input_at(2) {
            let own = self.weight_axis(bias, 0);
            self.unite_axes(&output, &own, "shares a bias that is no weight");
        }
        let mut axes = vec![None; kernel.len()];
        axes[1] = output;
        Some(vec![axes])
    }

    fn gemm(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let turned = |name: &str| node.int(name).unwrap_or(0) == 1;
        let mut a = self.axes_of(node.input_at(0)?);
        let mut b = self.axes_of(node.input_at(1)?);
        if turned("transA") {
            a.swap(0, 1);
        }
        if turned("transB") {
            b.swap(0, 1);
        }
        let reason = format!("is the data that `{}` reads", node.label());
        self.unite_axes(&a[1], &b[0], &reason);
        let mut out = vec![a[0].clone(), b[1].clone()];
        if let Some(c) = node.input_at(2) {
            let result = node.output.first()?;
            let operands = vec![
                (self.dims_of(result), out.clone()),
                (self.dims_of(c), self.axes_of(c)),
            ];
            out = self.broadcast(&operands, node);
        }
        Some(vec![out])
    }

    fn matmul(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let a = self.axes_of(node.input_at(0)?);
        let b = self.axes_of(node.input_at(1)?);
        if a.len() < 2 || b.len() < 2 {
            return None;
        }
        let reason = format!("is the data that `{}` reads", node.label());
        self.unite_axes(&a[a.len() - 1], &b[b.len() - 2], &reason);
        let (a_dims, b_dims) = (
            self.dims_of(node.input_at(0)?),
            self.dims_of(node.input_at(1)?),
        );
        let batch = |dims: &[usize], axes: &[Axis]| {
            let rank = axes.len() - 2;
            (dims[..rank].to_vec(), axes[..rank].to_vec())
        };
        let mut out = self.broadcast(&[batch(&a_dims, &a), batch(&b_dims, &b)], node);
        self.batched.extend(out.iter().flatten().flatten());
        out.push(a[a.len() - 2].clone());
        out.push(b[b.len() - 1].clone());
        Some(vec![out])
    }

    /// Each channel by itself; the inputs `per_channel` hold one number a channel.
    fn normalization(
        &mut self,
        node: &'a NodeProto,
        per_channel: std::ops::Range<usize>,
    ) -> Option<Vec<Vec<Axis>>> {
        let mut axes = self.axes_of(node.input_at(0)?);
        for input in per_channel {
            let own = self.weight_axis(node.input_at(input)?, 0);
            let reason = format!("is normalised by `{}`", node.label());
            axes[1] = self.unite_axes(&axes[1].clone(), &own, &reason);
        }
        Some(vec![axes])
    }

    /// Over the last axes, with a scale and a shift for each place. What is left of a shorter axis is
    /// normalised anew, which fine-tuning gets used to.
    fn layer_normalization(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let mut axes = self.axes_of(node.input_at(0)?);
        for input in 1..3 {
            let Some(name) = node.input_at(input) else {
                continue;
            };
            let own = self.axes_of(name);
            let sizes = self.dims_of(name);
            let lead = axes.len().checked_sub(own.len())?;
            let reason = format!("is normalised by `{}`", node.label());
            for (axis, size) in sizes.into_iter().enumerate() {
                if size > 1 {
                    let place = lead + axis;
                    axes[place] = self.unite_axes(&axes[place].clone(), &own[axis], &reason);
                }
            }
        }
        Some(vec![axes])
    }

    fn pool(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let mut axes = self.axes_of(node.input_at(0)?);
        for axis in axes.iter_mut().skip(2) {
            let reason = format!("lies on a spatial axis of `{}`", node.label());
            self.freeze_axis(axis, &reason);
            *axis = None;
        }
        Some(vec![axes])
    }

    fn pass(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let axes = self.axes_of(node.input_at(0)?);
        Some(vec![axes; node.output.len()])
    }

    fn elementwise(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let operands: Vec<_> = node
            .input
            .iter()
            .map(|name| (self.dims_of(name), self.axes_of(name)))
            .collect();
        Some(vec![self.broadcast(&operands, node)])
    }

    /// Axes of an elementwise result; operands of size 1 along an axis take no part in it.
    fn broadcast(&mut self, operands: &[(Vec<usize>, Vec<Axis>)], node: &NodeProto) -> Vec<Axis> {
        let rank = operands
            .iter()
            .map(|(dims, _)| dims.len())
            .max()
            .unwrap_or(0);
        let reason = format!(
            "is combined with data by `{}` ({})",
            node.label(),
            node.operator()
        );
        (0..rank)
            .map(|axis| {
                let mut result: Option<Axis> = None;
                for (dims, axes) in operands {
                    let Some(own) = (axis + dims.len()).checked_sub(rank) else {
                        continue;
                    };
                    if dims[own] == 1 {
                        continue;
                    }
                    result = Some(match result {
                        None => axes[own].clone(),
                        Some(before) => self.unite_axes(&before, &axes[own], &reason),
                    });
                }
                result.flatten()
            })
            .collect()
    }

    fn softmax(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let mut axes = self.axes_of(node.input_at(0)?);
        let first = normalize_axis(infer::softmax_axis(node, self.graph.opset), axes.len()).ok()?;
        // Before opset 13 all axes from the named one on were normalised together.
        let last = if self.graph.opset < 13 {
            axes.len()
        } else {
            first + 1
        };
        for axis in &mut axes[first..last] {
            let reason = format!("is normalised against the others by `{}`", node.label());
            self.freeze_axis(axis, &reason);
            *axis = None;
        }
        Some(vec![axes])
    }

    fn reduce(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let shapes = self.shapes;
        let inputs = known_inputs(node, shapes);
        let reduction = params::reduction(node, &inputs).ok()?;
        let axes = self.axes_of(node.input_at(0)?);
        // A sum over channels loses a removed channel's share and nothing else.
        let sums = matches!(
            node.operator(),
            "ReduceSum" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare"
        );
        let mut out = Vec::new();
        for (index, axis) in axes.into_iter().enumerate() {
            if !reduction.axes.contains(&index) {
                out.push(axis);
                continue;
            }
            if !sums {
                let reason = format!("is reduced by `{}` ({})", node.label(), node.operator());
                self.freeze_axis(&axis, &reason);
            }
            if reduction.keep_dims {
                out.push(None);
            }
        }
        Some(vec![out])
    }

    fn concat(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let rank = self.dims_of(node.input_at(0)?).len();
        let join = normalize_axis(node.int("axis").unwrap_or(1), rank).ok()?;
        let mut out: Option<Vec<Axis>> = None;
        let mut joined = Vec::new();
        for name in &node.input {
            let axes = self.axes_of(name);
            let size = self.dims_of(name)[join];
            match &axes[join] {
                Some(atoms) => joined.extend_from_slice(atoms),
                None => {
                    let fixed = self.fresh(size);
                    self.freeze_axis(&Some(fixed.clone()), "is joined with data");
                    joined.extend(fixed);
                }
            }
            out = Some(match out {
                None => axes,
                Some(before) => (0..rank)
                    .map(|axis| match axis == join {
                        true => None,
                        false => self.unite_axes(&before[axis], &axes[axis], "is joined with data"),
                    })
                    .collect(),
            });
        }
        let mut out = out?;
        out[join] = Some(joined);
        Some(vec![out])
    }

    fn split(&mut self, index: usize, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let shapes = self.shapes;
        let (axis, sizes) = params::splits(node, &known_inputs(node, shapes)).ok()?;
        let axes = self.axes_of(node.input_at(0)?);
        let mut start = 0;
        let mut parts = Vec::new();
        let mut outputs = Vec::new();
        for size in sizes {
            let mut own = axes.clone();
            own[axis] = axes[axis]
                .as_ref()
                .map(|atoms| atoms[start..start + size].to_vec());
            start += size;
            parts.extend(own[axis].clone());
            outputs.push(own);
        }
        if axes[axis].is_some() {
            self.fixes.push(Fix::SplitSizes { node: index, parts });
        }
        Some(outputs)
    }

    fn slice(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let shapes = self.shapes;
        let slicing = params::slicing(node, self.graph.opset, &known_inputs(node, shapes)).ok()?;
        let dims = self.dims_of(node.input_at(0)?);
        let mut axes = self.axes_of(node.input_at(0)?);
        for (index, &(start, step, count)) in slicing.ranges.iter().enumerate() {
            if (start, step, count) != (0, 1, dims[index]) {
                let reason = format!("is sliced by `{}`", node.label());
                self.freeze_axis(&axes[index], &reason);
                axes[index] = None;
            }
        }
        Some(vec![axes])
    }

    fn transpose(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let axes = self.axes_of(node.input_at(0)?);
        let order = params::permutation(node, axes.len()).ok()?;
        Some(vec![order.iter().map(|&axis| axes[axis].clone()).collect()])
    }

    fn expand(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let x = node.input_at(0)?;
        let (dims, axes) = (self.dims_of(x), self.axes_of(x));
        let wanted = self.shapes.get(node.input_at(1)?)?.ints()?;
        let out = self.dims_of(node.output.first()?);
        let mut result = vec![None; out.len()];
        for (axis, own) in axes.iter().enumerate() {
            let place = out.len() - dims.len() + axis;
            let asked = (place + wanted.len())
                .checked_sub(out.len())
                .map(|i| wanted[i]);
            if asked.is_some_and(|size| size != 1) {
                let reason = format!("is expanded to a fixed size by `{}`", node.label());
                self.freeze_axis(own, &reason);
            } else {
                result[place] = own.clone();
            }
        }
        Some(vec![result])
    }

    fn pad(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let shapes = self.shapes;
        let pads = params::pads(node, &known_inputs(node, shapes)).ok()?;
        let mut axes = self.axes_of(node.input_at(0)?);
        for (axis, pad) in pads.into_iter().enumerate() {
            if pad != (0, 0) {
                let reason = format!("is padded by `{}`", node.label());
                self.freeze_axis(&axes[axis], &reason);
                axes[axis] = None;
            }
        }
        Some(vec![axes])
    }

    fn resize(&mut self, index: usize, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let dims = self.dims_of(node.input_at(0)?);
        let out = self.dims_of(node.output.first()?);
        let mut axes = self.axes_of(node.input_at(0)?);
        let sizes = node
            .input_at(3)
            .filter(|name| self.graph.initializers.contains_key(*name));
        for axis in 0..axes.len() {
            if dims[axis] != out[axis] {
                let reason = format!("is resized by `{}`", node.label());
                self.freeze_axis(&axes[axis], &reason);
                axes[axis] = None;
            } else if let (Some(_), Some(atoms)) = (sizes, &axes[axis]) {
                self.fixes.push(Fix::Constant {
                    node: index,
                    input: 3,
                    index: axis,
                    axis: atoms.clone(),
                });
            }
        }
        Some(vec![axes])
    }

    fn gather(&mut self, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let axes = self.axes_of(node.input_at(0)?);
        let axis = normalize_axis(node.int("axis").unwrap_or(0), axes.len()).ok()?;
        // As PyTorch exports pooling to one position of an example input whose memory is not in the order of its axes.
        let hint = match node.label().contains("as_strided") {
            true => {
                " (exported with an example input `x.contiguous()`, PyTorch's pooling needs no such step)"
            }
            false => "",
        };
        let reason = format!("is picked by index in `{}`{hint}", node.label());
        self.freeze_axis(&axes[axis], &reason);
        let indices = self.dims_of(node.input_at(1)?).len();
        let mut out = axes[..axis].to_vec();
        out.extend(vec![None; indices]);
        out.extend_from_slice(&axes[axis + 1..]);
        Some(vec![out])
    }

    /// Hidden units: the rows of every gate, what the gates read of the step before, and the state that is
    /// given on. Two directions lie in the same tensors, so the unit at one place of both goes.
    fn recurrent(&mut self, index: usize, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let (x, w, r) = (node.input_at(0)?, node.input_at(1)?, node.input_at(2)?);
        let weights = &self.graph.initializers;
        let optional = [3, 7].map(|input| node.input_at(input));
        let all = [Some(w), Some(r)].into_iter().chain(optional).flatten();
        if !all.clone().all(|name| weights.contains_key(name)) {
            return None;
        }
        let mut axes = self.axes_of(x);
        let features = axes.pop()?;
        for axis in &axes {
            self.freeze_axis(axis, &format!("lies on a time axis of `{}`", node.label()));
        }
        let own = self.weight_axis(w, 2);
        let reason = format!("is the data that `{}` reads", node.label());
        self.unite_axes(&features, &own, &reason);
        let hidden = self.weight_axis(r, 2);
        if let Some(units) = &hidden {
            // Gate by gate, of the input's share and the state's.
            for name in all {
                let rows = self.weight_axis(name, 1)?;
                for (row, atom) in rows.into_iter().enumerate() {
                    self.unite(units[row % units.len()], atom);
                }
            }
            self.fixes.push(Fix::Count {
                node: index,
                attribute: "hidden_size",
                axis: units.clone(),
            });
        }
        for input in [5, 6] {
            let Some(state) = node.input_at(input) else {
                continue;
            };
            if let (true, Some(units)) = (self.zeros(state), &hidden) {
                self.fixes.push(Fix::Zeros {
                    node: index,
                    input,
                    axis: units.clone(),
                });
                continue;
            }
            let own = self.axes_of(state).pop()?;
            let reason = format!("starts from a state that is given to `{}`", node.label());
            self.unite_axes(&hidden, &own, &reason);
        }
        let outputs = node.output.iter().enumerate();
        Some(
            outputs
                .map(|(output, _)| {
                    let mut axes = vec![None; if output == 0 { 3 } else { 2 }];
                    axes.push(hidden.clone());
                    axes
                })
                .collect(),
        )
    }

    /// Whether a value is made of zeros, however many.
    fn zeros(&self, name: &str) -> bool {
        let zeros = |tensor: &Tensor| {
            let values = tensor.floats();
            values.is_some_and(|values| values.iter().all(|&value| value == 0.0))
        };
        if let Some(tensor) = self.graph.initializers.get(name) {
            return zeros(tensor);
        }
        let makes = |node: &&NodeProto| node.output.iter().any(|output| output == name);
        self.graph.nodes.iter().find(makes).is_some_and(|node| {
            let moves = matches!(
                node.operator(),
                "Expand"
                    | "Identity"
                    | "Cast"
                    | "Reshape"
                    | "Unsqueeze"
                    | "Squeeze"
                    | "Transpose"
                    | "Slice"
                    | "Tile"
            );
            match node.operator() {
                "ConstantOfShape" => node
                    .attribute("value")
                    .and_then(|value| value.t.as_ref())
                    .is_none_or(|value| {
                        Tensor::decode(value.clone()).is_ok_and(|tensor| zeros(&tensor))
                    }),
                _ => moves && node.input_at(0).is_some_and(|from| self.zeros(from)),
            }
        })
    }

    fn reshape(&mut self, index: usize, node: &'a NodeProto) -> Option<Vec<Vec<Axis>>> {
        let x = node.input_at(0)?;
        let (from, axes) = (self.dims_of(x), self.axes_of(x));
        let to = self.dims_of(node.output.first()?);
        if from.contains(&0) || to.contains(&0) {
            return None;
        }
        let mut out: Vec<Axis> = vec![None; to.len()];
        let reason = format!("is rearranged by `{}` ({})", node.label(), node.operator());
        for (sources, targets) in blocks(&from, &to) {
            let Some(factors) = factors(&sources, &from, &targets, &to) else {
                for axis in sources {
                    self.freeze_axis(&axes[axis], &reason);
                }
                continue;
            };
            let sizes: Vec<usize> = factors.iter().map(|factor| factor.size).collect();
            let mut parts: Vec<Axis> = vec![None; factors.len()];
            for &axis in &sources {
                let own = places(&factors, |factor| factor.source == axis);
                if let Some(atoms) = &axes[axis] {
                    let split = self.split_axis(atoms, &sizes[own.clone()], &reason);
                    parts[own].clone_from_slice(&split);
                }
            }
            for &axis in &targets {
                let own = places(&factors, |factor| factor.target == axis);
                out[axis] = self.merged_axis(&parts[own.clone()], &sizes[own]);
            }
        }
        if node.operator() == "Reshape" {
            self.follow_target_shape(index, node, &from, &axes, &mut out);
        }
        Some(vec![out])
    }

    /// The axes that one is split into. An axis along which nothing differs has no atoms; where more than one has,
    /// the old atoms are made of the new ones.
    fn split_axis(&mut self, atoms: &[Atom], sizes: &[usize], reason: &str) -> Vec<Axis> {
        let roots: Vec<Atom> = atoms.iter().map(|&atom| self.root(atom)).collect();
        let pitch = |axis: usize| sizes[axis + 1..].iter().product::<usize>();
        let coordinate = |place: usize, axis: usize| place / pitch(axis) % sizes[axis];
        let differs = |&axis: &usize| {
            let along = |place: usize| place - coordinate(place, axis) * pitch(axis);
            (0..roots.len()).any(|place| roots[place] != roots[along(place)])
        };
        let differing: Vec<usize> = (0..sizes.len()).filter(differs).collect();
        let mut split = vec![None; sizes.len()];
        match differing[..] {
            [] => self.freeze_axis(&Some(atoms.to_vec()), reason),
            [axis] => {
                let steps = (0..sizes[axis]).map(|step| atoms[step * pitch(axis)]);
                split[axis] = Some(steps.collect());
            }
            _ => {
                let fresh: Vec<Vec<Atom>> = differing
                    .iter()
                    .map(|&axis| self.fresh(sizes[axis]))
                    .collect();
                for (place, &atom) in atoms.iter().enumerate() {
                    let parts = differing.iter().zip(&fresh);
                    let parts = parts.map(|(&axis, own)| own[coordinate(place, axis)]);
                    self.compose(atom, parts.collect());
                }
                for (axis, own) in differing.into_iter().zip(fresh) {
                    split[axis] = Some(own);
                }
            }
        }
        split
    }

    /// The axis that several become: each channel is repeated for every index of the axes without any, and where
    /// more than one has some, every place is made of one of each.
    fn merged_axis(&mut self, parts: &[Axis], sizes: &[usize]) -> Axis {
        let carrying: Vec<usize> = (0..parts.len()).filter(|&i| parts[i].is_some()).collect();
        let pitch = |axis: usize| sizes[axis + 1..].iter().product::<usize>();
        let at = |place: usize, axis: usize| {
            let own = parts[axis].as_ref();
            own.map(|atoms| atoms[place / pitch(axis) % sizes[axis]])
        };
        let all = 0..sizes.iter().product();
        match carrying[..] {
            [] => None,
            [axis] => all.map(|place| at(place, axis)).collect(),
            _ => {
                let mut known: HashMap<Vec<Atom>, Atom> = HashMap::new();
                let composed: Vec<(Atom, Vec<Atom>)> = self
                    .parts
                    .iter()
                    .map(|(&root, parts)| (root, parts.clone()))
                    .collect();
                for (root, parts) in composed {
                    let key = self.key_of(&parts);
                    let first = known.entry(key).or_insert(root);
                    *first = root.min(*first);
                }
                let merged = all.map(|place| {
                    let own: Vec<Atom> = carrying
                        .iter()
                        .filter_map(|&axis| at(place, axis))
                        .collect();
                    let key = self.key_of(&own);
                    if let Some(&atom) = known.get(&key) {
                        return atom;
                    }
                    let atom = self.fresh(1)[0];
                    self.compose(atom, own);
                    known.insert(key, atom);
                    atom
                });
                Some(merged.collect())
            }
        }
    }

    fn key_of(&mut self, parts: &[Atom]) -> Vec<Atom> {
        let mut roots: Vec<Atom> = parts.iter().map(|&part| self.root(part)).collect();
        roots.sort_unstable();
        roots
    }

    /// Whether an axis holds exactly as many of each of these channels.
    fn alike(&mut self, axis: &Axis, atoms: &[Atom]) -> bool {
        let Some(own) = axis else {
            return false;
        };
        self.key_of(own) == self.key_of(atoms)
    }

    /// A Reshape to sizes that are named must change with the channels that it counts.
    fn follow_target_shape(
        &mut self,
        index: usize,
        node: &NodeProto,
        from: &[usize],
        axes: &[Axis],
        out: &mut [Axis],
    ) {
        let Some(shape) = node.input_at(1) else {
            return;
        };
        let constant = self.graph.initializers.contains_key(shape);
        let reason = format!("has its size computed for `{}`", node.label());
        let Some(wanted) = self.shapes.get(shape).and_then(|known| known.ints()) else {
            for own in out.iter_mut() {
                self.freeze_axis(own, &reason);
                *own = None;
            }
            return;
        };
        let sizes = self.sizes.get(shape).cloned();
        let size = |axis: usize| match &sizes {
            None => Size::Fixed,
            Some(sizes) => sizes.get(axis).cloned().unwrap_or(Size::Free),
        };
        let zero_copies = node.int("allowzero").unwrap_or(0) == 0;
        let mut computed = false;
        for (axis, own) in out.iter().enumerate() {
            if let Size::Count(count) = size(axis) {
                // A size that is read off the very channels that it names follows them.
                computed |= !self.alike(own, &count);
                continue;
            }
            let Some(atoms) = own.clone() else {
                continue;
            };
            match wanted.get(axis) {
                Some(-1) => {}
                Some(0) if zero_copies => {}
                Some(_) if constant => self.fixes.push(Fix::Constant {
                    node: index,
                    input: 1,
                    index: axis,
                    axis: atoms,
                }),
                _ => computed = true,
            }
        }
        if !computed {
            return;
        }
        // Some size is computed that would not follow: a target that says the same in other words.
        let to = self.dims_of(node.output.first().map_or("", String::as_str));
        let given = |axis: usize| wanted.get(axis).copied();
        let mut elements = Vec::new();
        let mut pieces = Some(Vec::new());
        for (axis, own) in out.iter().enumerate() {
            let before = axes.get(axis).cloned().flatten();
            let same = from.get(axis) == to.get(axis)
                && match (&before, own) {
                    (None, None) => true,
                    (Some(before), own) => self.alike(own, before),
                    (None, Some(_)) => false,
                };
            let mut atoms = own.clone().unwrap_or_default();
            let named = match size(axis) {
                Size::Count(count) => {
                    let follows = self.alike(own, &count);
                    atoms.extend(count);
                    follows
                }
                _ => own.is_none(),
            };
            let element = match (given(axis), own, size(axis)) {
                (Some(-1), ..) => Element::Inferred,
                (Some(0), ..) if zero_copies => Element::Copied,
                (_, Some(atoms), Size::Fixed) => Element::Count(atoms.clone()),
                _ if named => {
                    elements.push(match size(axis) {
                        _ if same => Element::Copied,
                        Size::Fixed => Element::Fixed(to[axis] as i64),
                        _ => Element::Inferred,
                    });
                    continue;
                }
                _ if same => Element::Copied,
                _ => Element::Inferred,
            };
            if given(axis).is_some_and(|size| size > 0)
                && let Some(found) = &mut pieces
            {
                match self.piece(shape, axis) {
                    Some((node, input)) => found.push(Fix::Piece {
                        node,
                        input,
                        // A zero might mean no copy here; what is left is the same.
                        element: match &element {
                            Element::Copied => Element::Inferred,
                            other => other.clone(),
                        },
                        atoms,
                    }),
                    None => pieces = None,
                }
            }
            elements.push(element);
        }
        let inferred = |elements: &mut dyn Iterator<Item = &Element>| {
            elements
                .filter(|element| **element == Element::Inferred)
                .count()
        };
        let open = (0..to.len())
            .filter(|&axis| given(axis) == Some(-1))
            .count();
        if let Some(pieces) = pieces {
            let mut all = pieces.iter().filter_map(|fix| match fix {
                Fix::Piece { element, .. } => Some(element),
                _ => None,
            });
            if open + inferred(&mut all) <= 1 {
                self.fixes.extend(pieces);
                return;
            }
        }
        if inferred(&mut elements.iter()) <= 1 {
            let mut counted: Vec<Atom> = out.iter().flatten().flatten().copied().collect();
            for axis in 0..out.len() {
                if let Size::Count(count) = size(axis) {
                    counted.extend(count);
                }
            }
            self.fixes.push(Fix::Target {
                node: index,
                elements,
                atoms: counted,
            });
            return;
        }
        for (axis, own) in out.iter_mut().enumerate() {
            if let Size::Count(count) = size(axis) {
                self.freeze_axis(&Some(count), &reason);
            }
            self.freeze_axis(own, &reason);
            *own = None;
        }
    }

    /// The input of a Concat that is element `element` of a shape and nothing else, where nothing but one Reshape
    /// reads that shape.
    fn piece(&self, shape: &str, element: usize) -> Option<(usize, usize)> {
        let nodes = &self.graph.nodes;
        let readers = nodes.iter().flat_map(|node| &node.input);
        let node = nodes
            .iter()
            .position(|node| node.output.first().is_some_and(|output| output == shape))?;
        if nodes[node].operator() != "Concat" || readers.filter(|name| *name == shape).count() != 1
        {
            return None;
        }
        let mut before = 0;
        for (input, name) in nodes[node].input.iter().enumerate() {
            let len: usize = self.dims_of(name).iter().product();
            if element < before + len {
                return match len {
                    1 => Some((node, input)),
                    _ => self.piece(name, element - before),
                };
            }
            before += len;
        }
        None
    }
}

/// A part of an axis that a Reshape leaves in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Factor {
    size: usize,
    /// The axes that it is a part of.
    source: usize,
    target: usize,
}

/// The largest pieces that the axes of a block of [`blocks`] have in common, in order; `None` where one would be cut
/// in the middle.
fn factors(
    sources: &[usize],
    from: &[usize],
    targets: &[usize],
    to: &[usize],
) -> Option<Vec<Factor>> {
    let (mut sources, mut targets) = (sources.iter(), targets.iter());
    let (mut source, mut target) = (*sources.next()?, *targets.next()?);
    let (mut left, mut right) = (from[source], to[target]);
    let mut factors = Vec::new();
    loop {
        let size = left.min(right);
        if left % size != 0 || right % size != 0 {
            return None;
        }
        factors.push(Factor {
            size,
            source,
            target,
        });
        (left, right) = (left / size, right / size);
        match (left, right) {
            (1, 1) => match (sources.next(), targets.next()) {
                (Some(&next), Some(&other)) => {
                    (source, target) = (next, other);
                    (left, right) = (from[source], to[target]);
                }
                _ => return Some(factors),
            },
            (1, _) => {
                source = *sources.next()?;
                left = from[source];
            }
            (_, 1) => {
                target = *targets.next()?;
                right = to[target];
            }
            _ => return None,
        }
    }
}

/// The places of the factors of one axis, which stand together.
fn places(factors: &[Factor], of: impl Fn(&Factor) -> bool) -> std::ops::Range<usize> {
    let first = factors.iter().position(&of).unwrap_or(factors.len());
    let count = factors.iter().filter(|factor| of(factor)).count();
    first..first + count
}

/// Pairs the axes of two shapes of equally many elements into the smallest blocks whose products
/// agree. Axes of size 1 take part in none.
fn blocks(from: &[usize], to: &[usize]) -> Vec<(Vec<usize>, Vec<usize>)> {
    let mut sources = (0..from.len()).filter(|&axis| from[axis] != 1).peekable();
    let mut targets = (0..to.len()).filter(|&axis| to[axis] != 1).peekable();
    let mut found = Vec::new();
    while let (Some(source), Some(target)) = (sources.next(), targets.next()) {
        let (mut left, mut right) = (vec![source], vec![target]);
        let (mut a, mut b) = (from[source], to[target]);
        while a != b {
            let next = if a < b {
                sources.next()
            } else {
                targets.next()
            };
            match next {
                Some(axis) if a < b => {
                    a *= from[axis];
                    left.push(axis);
                }
                Some(axis) => {
                    b *= to[axis];
                    right.push(axis);
                }
                None => break,
            }
        }
        found.push((left, right));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::blocks;

    #[test]
    fn a_flattened_map_is_one_block_and_the_batch_another() {
        assert_eq!(
            blocks(&[2, 8, 3, 3], &[2, 72]),
            [(vec![0], vec![0]), (vec![1, 2, 3], vec![1])]
        );
    }

    #[test]
    fn axes_of_one_take_part_in_no_block() {
        assert_eq!(
            blocks(&[2, 8, 1, 1], &[2, 8]),
            [(vec![0], vec![0]), (vec![1], vec![1])]
        );
    }
}
