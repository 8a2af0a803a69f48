//! Quantized operators: between numbers and levels, and products and convolutions of levels.

mod contributed;
mod convolution;
mod levels;
mod linear;
mod product;

use super::call::{Call, Outcome};

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    Some(match call.operator() {
        "QuantizeLinear" => linear::quantize(call),
        "DequantizeLinear" => linear::dequantize(call),
        "DynamicQuantizeLinear" => linear::dynamic_quantize(call),
        "MatMulInteger" => product::integer(call),
        "QLinearMatMul" => product::quantized(call),
        "ConvInteger" => convolution::integer(call),
        "QLinearConv" => convolution::quantized(call),
        _ => return None,
    })
}

/// The operators of the domain com.microsoft; `None` for one that is none of this file.
pub(super) fn evaluate_contributed(call: &Call) -> Option<Outcome> {
    Some(match call.operator() {
        "QuantizeLinear" => linear::quantize(call),
        "DequantizeLinear" => linear::dequantize(call),
        "QLinearAdd" => contributed::binary(call, |a, b| a + b),
        "QLinearMul" => contributed::binary(call, |a, b| a * b),
        "QLinearSigmoid" => contributed::logistic(call),
        "QLinearLeakyRelu" => contributed::leaky_relu(call),
        "QLinearConcat" => contributed::concat(call),
        "QLinearGlobalAveragePool" => contributed::global_average_pool(call),
        "QLinearAveragePool" => contributed::average_pool(call),
        "QLinearSoftmax" => contributed::softmax(call),
        "QGemm" => product::gemm(call),
        "MatMulIntegerToFloat" => product::integer_to_float(call),
        "DynamicQuantizeMatMul" => product::dynamic(call),
        _ => return None,
    })
}
