//! Changes of single nodes that keep what weights fit.

use crate::graph::Graph;
use crate::onnx::Tensor;
use crate::onnx::proto::{AttributeProto, NodeProto, attribute_type};

/// Puts another activation in the place of a node's.
pub(super) fn bend(node: &mut NodeProto, operator: &str) {
    if node.operator() != operator {
        node.op_type = Some(operator.to_owned());
        node.attribute.clear();
        node.input.truncate(1);
    }
}

/// Cuts a kernel to its middle, or puts zeros around it, with the padding to match.
pub(super) fn resize(graph: &mut Graph, node: usize, size: usize) {
    let Some(kernel) = graph.kernel_of(&graph.nodes[node]) else {
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
    let tensor = kernel.like(dims, resized);
    give_kernel(graph, node, &size.to_string(), tensor);
    let proto = &mut graph.nodes[node];
    let dilations = proto.ints("dilations").map(<[i64]>::to_vec);
    let step = |axis: usize| dilations.as_ref().map_or(1, |all| all[axis]);
    let pads = proto.ints("pads").map(<[i64]>::to_vec);
    let pads = pads.unwrap_or_else(|| vec![0; 2 * rank]);
    let automatic = !matches!(proto.text("auto_pad").unwrap_or("NOTSET"), "NOTSET" | "");
    let padded = pads.iter().enumerate();
    let padded = padded
        .map(|(side, pad)| pad + shift * step(side % rank))
        .collect();
    proto.set_ints("kernel_shape", vec![size as i64; rank]);
    if !automatic {
        proto.set_ints("pads", padded);
    }
    graph.drop_unused_initializers();
    graph.forget_recorded_shapes();
}

/// Gives a node a kernel of its own, since another node may read the old one.
fn give_kernel(graph: &mut Graph, node: usize, suffix: &str, kernel: Tensor) {
    let name = graph.unused_name(&format!("{}_{suffix}", graph.nodes[node].input[1]));
    graph.initializers.insert(name.clone(), kernel);
    graph.nodes[node].input[1] = name;
}

/// Splits a convolution into groups, each of which keeps the kernels between its own inputs and outputs; `false`
/// where they can't be shared out.
pub(super) fn regroup(graph: &mut Graph, node: usize, groups: usize) -> bool {
    let kernel = graph.kernel_of(&graph.nodes[node]);
    let Some(kernel) = kernel.filter(|kernel| kernel.dims.len() > 2) else {
        return false;
    };
    let (outputs, inputs) = (kernel.dims[0], kernel.dims[1]);
    if groups == 1 {
        return true;
    }
    if outputs % groups != 0 || inputs % groups != 0 {
        return false;
    }
    let (rows, columns) = (outputs / groups, inputs / groups);
    let taps: usize = kernel.dims[2..].iter().product();
    let values = kernel.floats().unwrap_or_default();
    let kept = (0..outputs).flat_map(|row| {
        let first = (row * inputs + row / rows * columns) * taps;
        values[first..first + columns * taps].iter().copied()
    });
    let mut dims = kernel.dims.clone();
    dims[1] = columns;
    let tensor = kernel.like(dims, kept.collect());
    give_kernel(graph, node, &format!("groups_{groups}"), tensor);
    graph.nodes[node].set_int("group", groups as i64);
    graph.drop_unused_initializers();
    true
}

/// Puts a Resize (linear, with half-pixel centres) behind every input that is an image, to this share of its
/// height and width.
pub(super) fn shrink_images(graph: &mut Graph, share: f64) {
    if share == 1.0 {
        return;
    }
    let images: Vec<String> = graph
        .inputs
        .iter()
        .filter(|input| is_image(input))
        .map(|input| input.label().to_owned())
        .collect();
    for image in images {
        let scales = graph.unused_name(&format!("{image}_scales"));
        let small = graph.unused_name(&format!("{image}_small"));
        let share = share as f32;
        graph.initializers.insert(
            scales.clone(),
            Tensor::float(vec![4], vec![1.0, 1.0, share, share]),
        );
        for node in &mut graph.nodes {
            for name in node.input.iter_mut().filter(|name| **name == image) {
                name.clone_from(&small);
            }
        }
        let mode = AttributeProto {
            name: Some("mode".to_owned()),
            r#type: Some(attribute_type::STRING),
            s: Some(b"linear".to_vec()),
            ..AttributeProto::default()
        };
        let node = NodeProto {
            op_type: Some("Resize".to_owned()),
            name: Some(small.clone()),
            input: vec![image, String::new(), scales],
            output: vec![small],
            attribute: vec![mode],
            ..NodeProto::default()
        };
        graph.nodes.insert(0, node);
    }
    graph.forget_recorded_shapes();
}

/// Whether an input has floats of `[batch, channels, height, width]`.
pub(super) fn is_image(input: &crate::onnx::proto::ValueInfoProto) -> bool {
    let tensor = input.tensor();
    tensor.is_some_and(|(kind, shape)| {
        crate::host::is_float(kind) && shape.is_some_and(|shape| shape.len() == 4)
    })
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
