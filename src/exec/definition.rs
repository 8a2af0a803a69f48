//! Operators defined by others: a node becomes the nodes of a small graph, each of which runs on the
//! device and has a gradient. What ONNX calls a function body is built here for the shapes at hand.

mod contributed;
mod loss;
mod normalization;
mod products;
mod sampling;
mod signal;
mod sketch;
mod window;

use std::sync::Arc;

use self::sketch::Sketch;
use crate::graph::params::RuleError;
use crate::graph::{Known, Shapes, Told, known_inputs, tell};
use crate::host::Array;
use crate::onnx::proto::NodeProto;

/// One node of a definition.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub node: NodeProto,
    pub opset: i64,
    /// Runs on the host, and no gradient goes through it: it makes places, choices and factors.
    pub detached: bool,
}

/// The nodes that stand for one. They read the values that it reads, and make those that it makes.
#[derive(Debug, Clone)]
pub(super) struct Definition {
    pub parts: Vec<Part>,
    pub constants: Vec<(String, Arc<Array>)>,
}

type Define = fn(&Sketch) -> Result<(), RuleError>;

/// How the operator of a node is defined, if it is.
fn definition_of(node: &NodeProto) -> Option<Define> {
    Some(match node.domain.as_deref() {
        None | Some("" | "ai.onnx") => match node.operator() {
            "CastLike" => products::cast_like,
            "CumProd" => products::cumulative_product,
            "Det" => products::determinant,
            "Mod" => products::remainder,
            "OneHot" => products::one_hot,
            "TensorScatter" => products::tensor_scatter,
            "DequantizeLinear" => products::dequantize,
            "AffineGrid" => sampling::affine_grid,
            "GridSample" => sampling::grid_sample,
            "MaxRoiPool" => sampling::max_roi_pool,
            "RoiAlign" => sampling::roi_align,
            "DeformConv" => sampling::deform_conv,
            "DFT" => signal::dft,
            "STFT" => signal::stft,
            "NegativeLogLikelihoodLoss" => loss::negative_log_likelihood,
            "SoftmaxCrossEntropyLoss" => loss::softmax_cross_entropy,
            "LayerNormalization" => normalization::with_statistics,
            "LRN" => normalization::local_response,
            "Dropout" => normalization::dropout,
            "Col2Im" => window::col2im,
            "MaxUnpool" => window::max_unpool,
            "MaxPool" | "AveragePool" | "LpPool" => window::pool,
            "CausalConvWithState" => window::causal,
            "Attention" => products::attention,
            "LinearAttention" => products::linear_attention,
            _ => return None,
        },
        Some("ai.onnx.preview") if node.operator() == "FlexAttention" => products::flex_attention,
        Some("com.microsoft") => return contributed::definition_of(node.operator()),
        Some(_) => return None,
    })
}

/// Whether the operator of a node has a definition, which a run may use.
pub fn defines(node: &NodeProto) -> bool {
    definition_of(node).is_some()
}

/// The definition of a node for these inputs; `None` where its operator has none. The error says
/// what it can't do, or which elements of inputs it has to know.
pub(super) fn define(
    node: &NodeProto,
    opset: i64,
    inputs: &[Option<&Known>],
    outputs: &[Known],
) -> Option<Result<Definition, RuleError>> {
    let define = definition_of(node)?;
    let sketch = Sketch::new(node, opset, inputs, outputs);
    let defined = define(&sketch).and_then(|()| {
        let definition = sketch.finish();
        definition.check(node, inputs)?;
        Ok(definition)
    });
    Some(defined)
}

impl Definition {
    /// Refuses parts that don't fit together or would be too large, as far as shapes tell: what can't be
    /// done in parts is left to the host.
    fn check(&self, node: &NodeProto, inputs: &[Option<&Known>]) -> Result<(), RuleError> {
        let mut shapes = Shapes::new();
        for (name, known) in node.input.iter().zip(inputs) {
            if let Some(known) = known {
                shapes.insert(name.clone(), (*known).clone());
            }
        }
        for (name, array) in &self.constants {
            shapes.insert(name.clone(), Known::of(array.clone()));
        }
        for part in &self.parts {
            let known = known_inputs(&part.node, &shapes);
            let mut named = part.node.input.iter().zip(&known);
            if !named.all(|(name, known)| name.is_empty() || known.is_some()) {
                continue;
            }
            let told = tell(&part.node, part.opset, &known);
            if let Told::Outputs(outputs) = told.map_err(|e| RuleError::new(e.to_string()))? {
                let named = part.node.output.iter().zip(outputs);
                for (name, known) in named.filter(|(name, _)| !name.is_empty()) {
                    shapes.insert(name.clone(), known);
                }
            }
        }
        Ok(())
    }
}
