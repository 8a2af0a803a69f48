"""Operators of ONNX Runtime's own domain, com.microsoft; their derivatives by PyTorch."""

import numpy as np

import declare
import references
from declare import Fed, Given, i64, scalar


def case(name, operator, inputs, reference, **about):
    declare.case(f"microsoft_{name}", operator, inputs, domain="com.microsoft", torch=reference, **about)


def i32(*values):
    return np.array(values, dtype=np.int32)


case("gelu", "Gelu", [(3, 7)], references.gelu)
for operator, name, reference in [("BiasGelu", "bias_gelu", references.bias_gelu),
                                  ("FastGelu", "fast_gelu_bias", references.fast_gelu)]:
    case(name, operator, [(2, 3, 4), (4,)], reference)
    case(f"{name}_weight", operator, [(2, 3, 4), (4,)], reference, weights=(1,))
case("fast_gelu", "FastGelu", [(3, 7)], references.fast_gelu)
case("quick_gelu", "QuickGelu", [(3, 7)], references.quick_gelu)
case("quick_gelu_alpha", "QuickGelu", [(3, 7)], references.quick_gelu, alpha=0.7)
# ONNX Runtime has no BiasSoftmax on processors.
for name, shapes, axis, inner in [("outer", [(2, 3, 4, 5), (1, 1, 4, 5)], 3, 0), ("axes", [(2, 3, 4), (1, 3, 4)], 1, 0),
                                  ("inner", [(2, 3, 4, 5), (2, 1, 1, 5)], 3, 1)]:
    case(f"bias_softmax_{name}", "BiasSoftmax", shapes, references.bias_softmax, axis=axis, is_inner_broadcast=inner,
         runtime=False)

for name, shapes, about in [
    ("", [(3, 4), (4, 5)], {}), ("_scaled", [(2, 3, 4), (2, 4, 5)], dict(alpha=0.5)),
    ("_broadcast", [(2, 1, 3, 4), (3, 4, 5)], dict(alpha=2.0)),
    ("_weight", [(2, 3, 4), (5, 4)], dict(transB=1, weights=(1,))),
    ("_turned_left", [(2, 4, 3), (2, 4, 5)], dict(transA=1)), ("_turned_right", [(2, 3, 4), (2, 5, 4)], dict(transB=1)),
    ("_turned", [(2, 4, 3), (5, 4)], dict(transA=1, transB=1, alpha=0.3)), ("_vector", [(4,), (2, 4, 5)], {}),
    ("_turned_batch_left", [(3, 2, 4), (2, 4, 5)], dict(transBatchA=1)),
    ("_turned_batch_right", [(2, 3, 4), (4, 2, 5)], dict(transBatchB=1)),
    ("_turned_batches", [(4, 2, 3, 3), (5, 2, 3, 4)], dict(transA=1, transB=1, transBatchA=1, transBatchB=1)),
]:
    case(f"matmul{name}", "FusedMatMul", shapes, references.fused_matmul, **about)
case("matmul_of_itself", "FusedMatMul", [(3, 4)], references.fused_matmul, reads=(0, 0), transB=1)

ACTIVATIONS = [("Relu", []), ("LeakyRelu", [0.3]), ("Tanh", []), ("Sigmoid", []), ("HardSigmoid", [0.3, 0.4])]
for activation, parameters in ACTIVATIONS:
    about = dict(zip(("activation_alpha", "activation_beta"), parameters), activation=activation)
    case(f"gemm_{activation.lower()}", "FusedGemm", [(3, 4), (4, 5), (5,)], references.fused_gemm, alpha=0.5,
         beta=2.0, **about)
    case(f"gemm_{activation.lower()}_turned", "FusedGemm", [(4, 3), (5, 4)], references.fused_gemm, transA=1, transB=1,
         weights=(1,), **about)
for activation, parameters in [*ACTIVATIONS, ("Clip", [-0.5, 0.8])]:
    about = dict(activation=activation, **({"activation_params": parameters} if parameters else {}))
    case(f"conv_{activation.lower()}", "FusedConv", [(1, 2, 5, 5), (3, 2, 3, 3), (3,)], references.fused_conv,
         weights=(1, 2), pads=[1] * 4, **about)
    case(f"conv_{activation.lower()}_sum", "FusedConv", [(2, 2, 5, 6), (4, 1, 3, 2), (4,), (2, 4, 2, 3)],
         references.fused_conv, group=2, strides=[2, 2], **about)
case("conv_sum_without_activation", "FusedConv", [(1, 2, 5, 5), (3, 2, 3, 3), None, (1, 3, 3, 3)],
     references.fused_conv)

SKIP = [(2, 3, 4), (2, 3, 4), (4,)]
for name, inputs, about in [
    ("", [*SKIP, (4,), (4,)], {}), ("_without_bias", [*SKIP, (4,)], {}), ("_scale_alone", SKIP, {}),
    ("_bias_without_shift", [*SKIP, None, (4,)], {}), ("_broadcast", [SKIP[0], (1, 3, 4), (4,), (4,)], {}),
    ("_plane", [SKIP[0], (3, 4), (4,), (4,)], {}),
    ("_weights", [*SKIP, (4,), (4,)], dict(weights=(2, 3, 4), epsilon=1e-2)),
]:
    for more, outputs in [("", 1), ("_and_sum", (0, 3))]:
        case(f"skip_layer_normalization{name}{more}", "SkipLayerNormalization", inputs,
             references.skip_layer_normalization, outputs=outputs, **about)
for name, inputs, about in [("", [*SKIP, (4,)], {}), ("_without_bias", SKIP, {}),
                            ("_weights", SKIP, dict(weights=(2,), epsilon=1e-2))]:
    for more, outputs in [("", 1), ("_and_sum", (0, 3))]:
        case(f"skip_rms_normalization{name}{more}", "SkipSimplifiedLayerNormalization", inputs,
             references.skip_rms_normalization, outputs=outputs, **about)

IDS, SEGMENTS = Fed(i32([1, 3, 0], [5, 2, 2])), Fed(i32([0, 0, 1], [0, 1, 1]))
TABLES, SCALE = [(6, 8), (4, 8), (2, 8)], [(8,), (8,)]
for name, inputs, about in [
    ("", [IDS, SEGMENTS, *TABLES, *SCALE], {}),
    ("_weights", [IDS, SEGMENTS, *TABLES, *SCALE], dict(weights=(2, 3, 4, 5, 6), epsilon=1e-3)),
    ("_without_segments", [IDS, None, *TABLES[:2], None, *SCALE], {}),
    ("_mask", [IDS, SEGMENTS, *TABLES, *SCALE, Fed(i32([1, 1, 0], [1, 0, 1]))], {}),
    ("_positions", [IDS, SEGMENTS, *TABLES, *SCALE, None, Fed(i32([3, 1, 0], [0, 0, 2]))], {}),
    ("_sum", [IDS, SEGMENTS, *TABLES, *SCALE], dict(outputs=3)),
]:
    case(f"embed_layer_normalization{name}", "EmbedLayerNormalization", inputs, references.embed_layer_normalization,
         **{"outputs": 2, **about})

PACKED = [(2, 3, 6), (6, 24), (24,)]
KEYS = Fed(i32([1, 0, 1], [0, 1, 1]))
for name, inputs, about in [
    ("", PACKED, {}), ("_weights", PACKED, dict(weights=(1, 2))), ("_unbiased", [*PACKED[:2], None], dict(scale=0.3)),
    ("_unidirectional", PACKED, dict(unidirectional=1)), ("_keys", [*PACKED, KEYS], {}),
    ("_keys_unidirectional", [*PACKED, KEYS], dict(unidirectional=1)),
    ("_keys_filter", [*PACKED, KEYS], dict(mask_filter_value=-2.0)),
    ("_sizes", [(2, 3, 6), (6, 20), (20,)], dict(qkv_hidden_sizes=[6, 6, 8])),
    ("_bias", [*PACKED, None, None, (1, 2, 3, 3)], {}), ("_bias_of_examples", [*PACKED, None, None, (2, 1, 3, 3)], {}),
    ("_past", [*PACKED, None, (2, 2, 2, 4, 4)], dict(unidirectional=1, outputs=2)),
    ("_past_keys", [*PACKED, Fed(i32([1, 0, 1, 1, 1], [0, 1, 1, 1, 0])), (2, 2, 2, 2, 4)], dict(outputs=2)),
]:
    case(f"attention{name}", "Attention", inputs, references.packed_attention, num_heads=2, **about)

QKV = [(2, 3, 8), (2, 5, 8), (2, 5, 6)]
KEYS = Fed(i32([1, 1, 0, 1, 0], [0, 1, 1, 1, 1]))
PAST = [None, None, None, (2, 2, 4, 4), (2, 2, 4, 4)]
for name, inputs, about in [
    ("", QKV, {}), ("_bias", [*QKV, (22,)], {}), ("_bias_weight", [*QKV, (22,)], dict(weights=(3,), scale=0.2)),
    ("_keys", [*QKV, None, KEYS], {}), ("_keys_bias", [*QKV, (22,), KEYS], dict(mask_filter_value=-2.0)),
    ("_attention_bias", [*QKV, None, None, (1, 2, 3, 5)], {}), ("_all", [*QKV, (22,), KEYS, (2, 1, 3, 5)], {}),
    ("_unidirectional", [(2, 3, 8)] * 3, dict(unidirectional=1)),
    ("_of_heads", [(2, 3, 8), (2, 2, 5, 4), (2, 2, 5, 4)], {}),
    ("_past", [(2, 3, 8)] * 3 + PAST, dict(unidirectional=1, outputs=3)),
    ("_past_bias", [(2, 3, 8)] * 3 + [(24,)] + PAST[1:], dict(outputs=3)),
    # ONNX Runtime does not infer the type of the scores.
    ("_scores", QKV, dict(outputs=(0, 3), runtime=False)),
]:
    case(f"multi_head_attention{name}", "MultiHeadAttention", inputs, references.multi_head_attention, num_heads=2,
         **about)

for name, k, about in [("", [], {}), ("_lower", [], dict(upper=0)), ("_right", [scalar(1)], {}),
                       ("_lower_left", [Fed(scalar(-1))], dict(upper=0))]:
    case(f"trilu{name}", "Trilu", [(2, 4, 5), *k], references.trilu, **about)
for name, inputs, about in [
    ("", [(2, 3), i64(1, 0, 0, 2), declare.f32(0.5)], {}), ("_negative", [(4, 5), i64(-1, 1, 0, -2)], {}),
    ("_fed", [(2, 3), Fed(i64(1, 0, 0, 2))], {}),
    ("_reflect", [(1, 2, 4, 5), i64(0, 0, 1, 2, 0, 0, 2, 1)], dict(mode="reflect")),
    ("_edge", [(1, 2, 4, 5), i64(0, 0, 1, 2, 0, 0, 2, 1)], dict(mode="edge")),
]:
    case(f"pad{name}", "Pad", inputs, references.pad, **about)
for name, axis in [("", i32(-1)), ("_first", i32(0)), ("_fed", Fed(i32(1)))]:
    case(f"expand_dims{name}", "ExpandDims", [(2, 3), axis], references.expand_dims)
SQUARES = (2 * np.eye(3) + np.arange(18).reshape(2, 3, 3) / 10).astype(np.float32)
case("inverse", "Inverse", [Given(SQUARES[0])], references.inverse)
case("inverse_batch", "Inverse", [Given(SQUARES)], references.inverse)
for metric in ["euclidean", "sqeuclidean"]:
    case(f"cdist_{metric}", "CDist", [(3, 4), (5, 4)], references.cdist, metric=metric)

# ONNX Runtime has these on graphics cards only.
case("bias_add", "BiasAdd", [(2, 3, 4), (4,), (2, 3, 4)], references.bias_add, runtime=False)
case("bias_split_gelu", "BiasSplitGelu", [(2, 3, 8), (8,)], references.bias_split_gelu, runtime=False)
case("gemm_fast_gelu", "GemmFastGelu", [(2, 3, 4), (4, 5), (5,)], references.gemm_fast_gelu, runtime=False)
case("gemm_fast_gelu_unbiased", "GemmFastGelu", [(2, 3, 4), (4, 5)], references.gemm_fast_gelu, weights=(1,),
     runtime=False)
case("matmul_activation", "FusedMatMulActivation", [(3, 4), (4, 5)], references.fused_matmul_relu, alpha=2.0,
     activation="Relu", runtime=False)

case("transpose_matmul", "TransposeMatMul", [(4, 3), (4, 5)], references.fused_matmul, transA=1, alpha=2.0)
case("gather_nd", "GatherND", [(3, 4), np.array([[0, 1], [2, 3]], np.int64)], references.gather_pairs)
case("grid_sample", "GridSample", [(1, 2, 4, 4), Given(np.array([[[[-0.3, 0.1], [0.62, -0.45]]]], np.float32))],
     references.grid_sample, mode="bilinear", align_corners=1)
case("linear_attention", "LinearAttention", [(2, 3, 8), (2, 3, 8), (2, 3, 6), (2, 2, 4, 3), (2, 3, 2), (2, 3, 2)],
     references.linear_attention, outputs=2, update_rule="gated_delta", q_num_heads=2, kv_num_heads=2, high=0.8)
