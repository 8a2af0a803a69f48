//! Which operators Sinter knows, and which of them behave alike.

use crate::host;
use crate::onnx::proto::NodeProto;

/// Operators that follow the same rules for shapes, cost, channels and execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Conv,
    ConvTranspose,
    Gemm,
    MatMul,
    BatchNormalization,
    /// MaxPool, AveragePool.
    Pool,
    /// GlobalMaxPool, GlobalAveragePool.
    GlobalPool,
    /// One input, elementwise; shape and channels pass through.
    Unary,
    /// Two inputs, elementwise with broadcasting.
    Binary,
    /// Any number of inputs, elementwise with broadcasting.
    Variadic,
    PRelu,
    /// SwiGLU.
    Gated,
    Clip,
    Cast,
    /// Softmax, LogSoftmax.
    Softmax,
    Reduce,
    Concat,
    Split,
    Slice,
    Reshape,
    Flatten,
    Squeeze,
    Unsqueeze,
    Transpose,
    Expand,
    Pad,
    Resize,
    Gather,
    /// DepthToSpace, SpaceToDepth.
    SpaceDepth,
    Dropout,
    /// LayerNormalization, RMSNormalization: over the last axes.
    LayerNormalization,
    /// GroupNormalization, InstanceNormalization, MeanVarianceNormalization.
    GroupNormalization,
    LpNormalization,
    /// Local response normalisation.
    Lrn,
    LpPool,
    GlobalLpPool,
    /// CumSum.
    Cumulative,
    Where,
    /// Every result is an element of the first input or zero: GatherElements, GatherND, Tile, Trilu, ….
    Pick,
    /// ScatterElements, ScatterND.
    Scatter,
    TopK,
    Einsum,
    /// RNN, GRU, LSTM.
    Recurrent,
    Attention,
    RotaryEmbedding,
    /// If, Loop, Scan: nodes with graphs of their own.
    Control,
    /// Computed on the host, without gradients.
    Host,
}

/// The family of a node's operator; `None` for what Sinter can't run.
pub fn family(node: &NodeProto) -> Option<Family> {
    let standard = matches!(node.domain.as_deref(), None | Some("" | "ai.onnx"));
    standard
        .then(|| device_family(node.operator()))
        .flatten()
        .or_else(|| host::holds(node).then_some(Family::Host))
}

/// The family of an operator that runs on devices.
fn device_family(operator: &str) -> Option<Family> {
    use Family::*;
    Some(match operator {
        "Conv" => Conv,
        "ConvTranspose" => ConvTranspose,
        "Gemm" => Gemm,
        "MatMul" => MatMul,
        "BatchNormalization" => BatchNormalization,
        "MaxPool" | "AveragePool" => Pool,
        "GlobalMaxPool" | "GlobalAveragePool" => GlobalPool,
        "Relu" | "LeakyRelu" | "Elu" | "Selu" | "Celu" | "Sigmoid" | "HardSigmoid"
        | "HardSwish" | "Tanh" | "Softplus" | "Softsign" | "Mish" | "Gelu" | "Swish"
        | "ThresholdedRelu" | "Exp" | "Log" | "Sqrt" | "Abs" | "Neg" | "Reciprocal" | "Erf"
        | "Floor" | "Ceil" | "Round" | "Sign" | "Sin" | "Cos" | "Tan" | "Asin" | "Acos"
        | "Atan" | "Sinh" | "Cosh" | "Asinh" | "Acosh" | "Atanh" | "Shrink" | "Identity" => Unary,
        "Add" | "Sub" | "Mul" | "Div" | "Pow" => Binary,
        "Sum" | "Mean" | "Max" | "Min" => Variadic,
        "PRelu" => PRelu,
        "SwiGLU" => Gated,
        "Clip" => Clip,
        "Cast" => Cast,
        "Softmax" | "LogSoftmax" => Softmax,
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceProd" | "ReduceL1"
        | "ReduceL2" | "ReduceSumSquare" | "ReduceLogSum" | "ReduceLogSumExp" => Reduce,
        "Concat" => Concat,
        "Split" => Split,
        "Slice" => Slice,
        "Reshape" => Reshape,
        "Flatten" => Flatten,
        "Squeeze" => Squeeze,
        "Unsqueeze" => Unsqueeze,
        "Transpose" => Transpose,
        "Expand" => Expand,
        "Pad" => Pad,
        "Resize" | "Upsample" => Resize,
        "Gather" => Gather,
        "DepthToSpace" | "SpaceToDepth" => SpaceDepth,
        "Dropout" => Dropout,
        "LayerNormalization" | "RMSNormalization" | "SimplifiedLayerNormalization" => {
            LayerNormalization
        }
        "GroupNormalization" | "InstanceNormalization" | "MeanVarianceNormalization" => {
            GroupNormalization
        }
        "LpNormalization" => LpNormalization,
        "LRN" => Lrn,
        "LpPool" => LpPool,
        "GlobalLpPool" => GlobalLpPool,
        "CumSum" => Cumulative,
        "Where" => Where,
        "GatherElements" | "GatherND" | "Tile" | "Trilu" | "ReverseSequence" | "CenterCropPad"
        | "Compress" => Pick,
        "ScatterElements" | "ScatterND" | "Scatter" => Scatter,
        "TopK" => TopK,
        "Einsum" => Einsum,
        "RNN" | "GRU" | "LSTM" => Recurrent,
        "Attention" => Attention,
        "RotaryEmbedding" => RotaryEmbedding,
        "If" | "Loop" | "Scan" => Control,
        _ => return None,
    })
}

/// Which inputs of an operator without a family of its own are weights.
pub(crate) fn defined_weights(node: &NodeProto) -> &'static [usize] {
    let standard = matches!(node.domain.as_deref(), None | Some("" | "ai.onnx"));
    match node.operator() {
        "DeformConv" => &[1, 3],
        "CausalConvWithState" => &[1, 2],
        _ if standard => &[],
        "FusedMatMul" | "TransposeMatMul" | "FusedMatMulActivation" => &[0, 1],
        "FusedGemm" | "GemmFastGelu" => &[0, 1, 2],
        "FusedConv" | "Attention" | "LayerNormalization" => &[1, 2],
        "BiasGelu" | "FastGelu" | "BiasSplitGelu" | "BiasAdd" | "SimplifiedLayerNormalization" => {
            &[1]
        }
        "SkipLayerNormalization" => &[2, 3, 4],
        "SkipSimplifiedLayerNormalization" => &[2, 3],
        "EmbedLayerNormalization" => &[2, 3, 4, 5, 6],
        "MultiHeadAttention" => &[3],
        _ => &[],
    }
}
