//! ONNX operators on the host, for every data type and in every mode.
//!
//! This is where integers, booleans, strings and rare operators are computed, on every device alike;
//! what training needs runs in [`crate::exec`] on the device, with gradients. The same functions fold
//! constants and shape arithmetic before a graph runs. Floats are computed in float64 and rounded to
//! their own type at the end, so a result is at least as exact as the type can tell.

mod array;
mod attention;
mod call;
mod contrib;
mod elementwise;
mod generate;
mod indexing;
mod loss;
mod matrix;
mod movement;
mod normalization;
mod number;
mod quantize;
mod recurrent;
mod reduction;
mod signal;
mod vision;
mod window;

pub use array::{Array, Data, is_float, is_int};
pub use call::{Call, Outcome};
pub(crate) use call::{around, broadcast_indices, join, section, strides};
pub(crate) use movement::OUT_OF_RANGE;
pub(crate) use recurrent::{Named, named_activations};
pub(crate) use vision::{Resampling, RoiPooling, resampling};
pub(crate) use window::RoiMaxima;

use std::sync::Arc;

use crate::graph::params::{RuleError, most_elements};
use crate::onnx::proto::NodeProto;

/// The results of an operator; `None` for one that this room does not hold.
pub fn evaluate(call: &Call) -> Option<Outcome> {
    match call.node.domain.as_deref() {
        None | Some("" | "ai.onnx") => [
            elementwise::evaluate,
            movement::evaluate,
            indexing::evaluate,
            reduction::evaluate,
            generate::evaluate,
            matrix::evaluate,
            window::evaluate,
            quantize::evaluate,
            normalization::evaluate,
            recurrent::evaluate,
            attention::evaluate,
            vision::evaluate,
            signal::evaluate,
            loss::evaluate,
        ]
        .iter()
        .find_map(|file| file(call)),
        Some("ai.onnx.preview") => attention::evaluate(call),
        Some("ai.onnx.ml") => indexing::evaluate_classic(call),
        Some("com.microsoft") => contrib::evaluate(call),
        Some(_) => None,
    }
}

/// The results of an operator while a graph runs, as large as the process allows.
pub(crate) fn run(
    node: &NodeProto,
    opset: i64,
    inputs: &[Option<Arc<Array>>],
) -> Result<Vec<Arc<Array>>, RuleError> {
    let call = Call {
        node,
        opset,
        inputs,
        most: most_elements(),
    };
    let results = evaluate(&call).unwrap_or_else(|| Err(RuleError::new("is not supported yet")))?;
    Ok(results.into_iter().map(Arc::new).collect())
}

/// Whether this room holds the operator of `node`.
pub fn holds(node: &NodeProto) -> bool {
    // Without inputs and without room for a result nothing is computed.
    let call = Call {
        node,
        opset: 1,
        inputs: &[],
        most: 0,
    };
    evaluate(&call).is_some()
}
