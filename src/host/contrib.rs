//! Operators that ONNX Runtime adds in the domain `com.microsoft`, most of them fusions of standard
//! ones, which do the work here.

mod attention;
mod bias;
mod fused;
mod group_query;
mod multi_head;
mod normalize;
mod other;
mod quantized_lstm;
mod standard;

use super::call::{Call, Outcome};

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    Some(match call.operator() {
        "FusedMatMul" | "TransposeMatMul" | "FusedMatMulActivation" => fused::fused_matmul(call),
        "FusedGemm" => fused::fused_gemm(call),
        "GemmFastGelu" => fused::gemm_fast_gelu(call),
        "FusedConv" => fused::fused_conv(call, false),
        "NhwcConv" | "NhwcFusedConv" => fused::fused_conv(call, true),
        "ConvTransposeWithDynamicPads" => fused::conv_transpose(call),
        "Gelu" | "BiasGelu" => bias::gelu(call, "none"),
        "FastGelu" => bias::gelu(call, "tanh"),
        "QuickGelu" => bias::quick_gelu(call),
        "BiasSplitGelu" => bias::bias_split_gelu(call),
        "BiasSoftmax" => bias::bias_softmax(call),
        "BiasAdd" => bias::bias_add(call),
        "BiasDropout" => bias::bias_dropout(call),
        "LayerNormalization" | "SimplifiedLayerNormalization" => {
            return super::normalization::evaluate(call);
        }
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => {
            normalize::skip_layer_normalization(call)
        }
        "EmbedLayerNormalization" => normalize::embed_layer_normalization(call),
        "GroupNorm" | "SkipGroupNorm" => normalize::group_norm(call),
        "Attention" => attention::attention(call),
        "MultiHeadAttention" => multi_head::multi_head_attention(call),
        "GroupQueryAttention" => group_query::group_query_attention(call),
        "LinearAttention" => super::attention::linear_attention(call),
        "RotaryEmbedding" => attention::rotary_embedding(call),
        "DynamicQuantizeLSTM" => quantized_lstm::dynamic_quantize_lstm(call),
        "Trilu" | "Pad" | "GatherND" | "GridSample" => other::renamed(call),
        "Range" => other::range(call),
        "ExpandDims" => other::expand_dims(call),
        "Unique" => other::unique(call),
        "Inverse" => other::inverse(call),
        "CDist" => other::distances(call),
        "ComplexMul" => other::complex_mul(call, 1.0),
        "ComplexMulConj" => other::complex_mul(call, -1.0),
        "IsAllFinite" => other::is_all_finite(call),
        _ => return super::quantize::evaluate_contributed(call),
    })
}
