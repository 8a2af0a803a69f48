//! Operators that find elements by indices or find the indices of elements: gathering, scattering,
//! sorting, unique values, one-hot vectors.

mod gather;
mod keys;
mod mark;
mod scatter;
mod select;

use super::call::{Call, Outcome};
use super::movement::ruled;

/// The operators of `ai.onnx.ml` that converters put around neural networks: the class names behind
/// an ArgMax.
pub(super) fn evaluate_classic(call: &Call) -> Option<Outcome> {
    match call.operator() {
        "ArrayFeatureExtractor" => Some(ruled(call, gather::array_feature_extractor)),
        _ => None,
    }
}

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    let rule: fn(&Call) -> Outcome = match call.operator() {
        "Gather" => gather::gather,
        "GatherElements" => gather::gather_elements,
        "GatherND" => gather::gather_nd,
        "Scatter" | "ScatterElements" => scatter::scatter_elements,
        "ScatterND" => scatter::scatter_nd,
        "TensorScatter" => scatter::tensor_scatter,
        "TopK" => select::top_k,
        "ArgMax" | "ArgMin" => select::arg_extreme,
        "Hardmax" => select::hardmax,
        "Unique" => select::unique,
        "NonZero" => mark::non_zero,
        "Compress" => mark::compress,
        "OneHot" => mark::one_hot,
        "EyeLike" => mark::eye_like,
        _ => return None,
    };
    Some(ruled(call, rule))
}
