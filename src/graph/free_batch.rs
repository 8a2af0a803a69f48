//! Batch sizes that a tracer wrote into Reshape constants.
//!
//! A model that was traced with one example may say `Reshape(x, [1, 512])` where it means "one row an
//! example", though its input declares an open batch. Such a constant is made `[-1, 512]` where the
//! graph's algebra shows that it is the batch: the value that is reshaped has the batch as its first
//! axis and nowhere else, so its elements lie example by example, and the new shape holds those of
//! one example in each of its first rows.

use super::infer::{Told, feeds_for_batch, tell};
use super::{Graph, Shapes, infer, known_inputs};
use crate::onnx::Tensor;

impl Graph {
    /// Frees the batch where the graph fits together for one example only. Changes nothing unless
    /// the result fits together for two and for three, with results that grow alike.
    pub(super) fn free_batch(&mut self) {
        let open = |graph: &Graph| {
            graph.inputs.iter().all(|input| {
                let first = input.tensor().and_then(|(_, dims)| dims?.first().cloned());
                first.is_some_and(|dim| dim.dim_value.unwrap_or(0) <= 0)
            })
        };
        if self.inputs.is_empty() || !open(self) {
            return;
        }
        let Some(one) = self.shapes_for(1) else {
            return;
        };
        if self.shapes_for(2).is_some() {
            return;
        }
        let Some(freed) = self.freed(&one) else {
            return;
        };
        let grows = |batch: usize| {
            freed.shapes_for(batch).is_some_and(|shapes| {
                freed.outputs.iter().all(|output| {
                    match (one.get(output.label()), shapes.get(output.label())) {
                        (Some(one), Some(many)) => scaled(&one.dims, &many.dims, batch),
                        _ => false,
                    }
                })
            })
        };
        if freed.shapes_for(1).is_some() && grows(2) && grows(3) {
            *self = freed;
        }
    }

    fn shapes_for(&self, batch: usize) -> Option<Shapes> {
        infer(self, &feeds_for_batch(self, batch).ok()?).ok()
    }

    /// The graph with every such constant made open, found by following two examples through it.
    fn freed(&self, one: &Shapes) -> Option<Self> {
        let mut freed = self.clone();
        // The weights and inputs as `infer` knows them; nodes are followed here.
        let mut start = self.clone();
        start.nodes.clear();
        let mut shapes = infer(&start, &feeds_for_batch(self, 2).ok()?).ok()?;
        for (index, node) in self.nodes.iter().enumerate() {
            if node
                .input
                .iter()
                .any(|name| !name.is_empty() && !shapes.contains_key(name))
            {
                continue;
            }
            if node.operator() == "Reshape"
                && let Some(open) = self.opened(index, one, &shapes)
            {
                let wanted = format!("{}_open", node.input[1]);
                let name = freed.unused_name(&wanted);
                let known = super::Known::of(std::sync::Arc::new(crate::host::Array::int64(
                    vec![open.len()],
                    open.clone(),
                )));
                shapes.insert(name.clone(), known);
                freed
                    .initializers
                    .insert(name.clone(), Tensor::int(vec![open.len()], open));
                freed.nodes[index].input[1] = name;
            }
            let node = &freed.nodes[index];
            let inputs = known_inputs(node, &shapes);
            if let Told::Outputs(outputs) = tell(node, self.opset_of(node), &inputs).ok()? {
                for (name, known) in node.output.iter().zip(outputs) {
                    shapes.insert(name.clone(), known);
                }
            }
        }
        freed.drop_unused_initializers();
        Some(freed)
    }

    /// The shape of a Reshape with the batch open, where it is written down as a number.
    fn opened(&self, node: usize, one: &Shapes, two: &Shapes) -> Option<Vec<i64>> {
        let node = &self.nodes[node];
        let (value, shape) = (node.input_at(0)?, node.input_at(1)?);
        let wanted = self.initializers.get(shape)?.ints()?;
        let (from, to) = (&one.get(value)?.dims, &two.get(value)?.dims);
        let fits_already = wanted.iter().all(|&size| size > 0)
            && wanted.iter().product::<i64>() == to.iter().product::<usize>() as i64;
        if fits_already || !scaled(from, to, 2) || *wanted.first()? <= 0 {
            return None;
        }
        let mut open = wanted.to_vec();
        match wanted.iter().position(|&size| size == -1) {
            None => open[0] = -1,
            // The first axis is kept as it is.
            Some(_) if wanted[0] == from[0] as i64 => open[0] = 0,
            Some(_) => return None,
        }
        Some(open)
    }
}

/// Whether `many` is `one` with a first axis `times` as long.
fn scaled(one: &[usize], many: &[usize], times: usize) -> bool {
    match (one.split_first(), many.split_first()) {
        (Some((a, rest)), Some((b, others))) => rest == others && a * times == *b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::*;

    fn reshaping(to: Vec<i64>) -> Graph {
        let node = NodeProto {
            op_type: Some("Reshape".to_owned()),
            input: vec!["x".to_owned(), "shape".to_owned()],
            output: vec!["y".to_owned()],
            ..NodeProto::default()
        };
        Graph::load(ModelProto {
            opset_import: vec![OperatorSetId {
                domain: None,
                version: Some(17),
            }],
            graph: Some(GraphProto {
                node: vec![node],
                initializer: vec![Tensor::int(vec![to.len()], to).encode("shape")],
                input: vec![ValueInfoProto::of_floats("x", &[None, Some(4), Some(3)])],
                output: vec![ValueInfoProto::of_floats("y", &[])],
                ..GraphProto::default()
            }),
            ..ModelProto::default()
        })
        .expect("a graph")
    }

    #[test]
    fn a_batch_written_into_a_reshape_is_made_open() {
        for (to, rows) in [(vec![1, 12], 5), (vec![2, 6], 10)] {
            let graph = reshaping(to);
            let shapes = graph.shapes_for(5).expect("shapes for five examples");
            assert_eq!(shapes["y"].dims[0], rows);
        }
    }

    #[test]
    fn a_shape_that_holds_for_any_batch_is_left_alone() {
        let graph = reshaping(vec![-1, 6]);
        assert_eq!(graph.initializers["shape"].ints(), Some(&[-1, 6][..]));
    }
}
