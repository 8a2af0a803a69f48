//! Which operators Sinter knows, and which of them behave alike.

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
    /// Computed on the host from shapes and constants alone: Shape, Size, Range, comparisons, ….
    Host,
}

/// The family of a node's operator; `None` for what Sinter can't run.
pub fn family(node: &NodeProto) -> Option<Family> {
    if !matches!(node.domain.as_deref(), None | Some("" | "ai.onnx")) {
        return None;
    }
    use Family::*;
    Some(match node.operator() {
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
        | "Floor" | "Ceil" | "Round" | "Sign" | "Sin" | "Cos" | "Identity" => Unary,
        "Add" | "Sub" | "Mul" | "Div" | "Pow" => Binary,
        "Sum" | "Mean" | "Max" | "Min" => Variadic,
        "PRelu" => PRelu,
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
        "Shape" | "Size" | "Range" | "ConstantOfShape" | "Equal" | "Greater" | "Less" | "Not"
        | "And" | "Or" | "Where" | "Mod" => Host,
        _ => return None,
    })
}
