"""Writes test cases of the operators of the domain com.microsoft: a model of one node each, its inputs and
its outputs.

    python3 contributed.py FOLDER

A case is a folder: model.onnx, input_K.pb, output_K.pb and case.json, as node_cases.py writes
the ONNX project's own. What is expected comes from ONNX Runtime; where it computes an operator on other
devices alone, from the operator's documented formula in numpy, which the case gives as `formula`.
"""

import json
import math
import pathlib
import sys
import zlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

CASES = []


def case(name, operator, inputs, *, outputs=(True,), formula=None, domain="com.microsoft", opset=17, kind=None,
         rtol=1e-4, atol=1e-5, **attributes):
    """One node. An input is the shape of random floats, an array or None; `outputs` says which
    outputs the node names, `kind` the type of all of them where it does not follow."""
    CASES.append(dict(name=name, operator=operator, inputs=inputs, outputs=outputs, formula=formula, domain=domain,
                      opset=opset, kind=kind, rtol=rtol, atol=atol, attributes=attributes))


def i32(values):
    return np.array(values, dtype=np.int32)


def i64(values):
    return np.array(values, dtype=np.int64)


def f32(values):
    return np.array(values, dtype=np.float32)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def fast_gelu(x):
    return x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x ** 3)))


def number(x):
    return x[..., 0] + 1j * x[..., 1]


def parts(x):
    return np.stack([x.real, x.imag], axis=-1)


def softmax(x, axes):
    e = np.exp(x - x.max(axis=axes, keepdims=True))
    return e / e.sum(axis=axes, keepdims=True)


def attention(q, k, v, heads, bias=0.0):
    """Of `[batch, length, hidden]`."""
    q, k, v = (np.swapaxes(x.reshape(*x.shape[:2], heads, -1), 1, 2) for x in (q, k, v))
    scores = q @ np.swapaxes(k, 2, 3) / math.sqrt(q.shape[-1]) + bias
    result = np.swapaxes(softmax(scores, (3,)) @ v, 1, 2)
    return result.reshape(*result.shape[:2], -1)


def rms_norm(x, weight, epsilon=1e-6):
    """Of `[batch, length, heads, size]`, heads joined."""
    y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + epsilon) * weight
    return y.reshape(*x.shape[:2], -1)


def square_masked(x, weights, bias, mask):
    q, k, v = np.split(x @ weights + bias, 3, axis=-1)
    return attention(q, k, v, 2, np.where(mask[:, :, :x.shape[1], :x.shape[1]] == 0, -10000.0, 0.0))


def group_norm(x, gamma, beta, groups, silu, epsilon=1e-5):
    """Of channels last."""
    grouped = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
    mean = grouped.mean(axis=(1, 3), keepdims=True)
    variance = grouped.var(axis=(1, 3), keepdims=True)
    y = ((grouped - mean) / np.sqrt(variance + epsilon)).reshape(x.shape) * gamma + beta
    return y / (1 + np.exp(-y)) if silu else y


def convolution(x, w, b):
    """Of channels last, without padding."""
    height, width = x.shape[1] - w.shape[2] + 1, x.shape[2] - w.shape[3] + 1
    windows = np.stack([x[:, i:i + height, j:j + width] for i in range(w.shape[2]) for j in range(w.shape[3])], axis=-1)
    return np.einsum("nhwck,mck->nhwm", windows, w.reshape(*w.shape[:2], -1)) + b


# Activations.
case("gelu", "Gelu", [(3, 4)])
case("bias_gelu", "BiasGelu", [(2, 3, 4), (4,)])
case("fast_gelu", "FastGelu", [(3, 4)])
case("fast_gelu_bias", "FastGelu", [(2, 3, 4), (4,)])
case("quick_gelu", "QuickGelu", [(3, 4)])
case("quick_gelu_alpha", "QuickGelu", [(3, 4)], alpha=0.7)
case("bias_split_gelu", "BiasSplitGelu", [(2, 3, 8), (8,)],
     formula=lambda x, b: [(x + b)[..., :4] * gelu((x + b)[..., 4:])])
case("bias_add", "BiasAdd", [(2, 3, 4), (4,), (2, 3, 4)], formula=lambda x, b, s: [x + b + s])
case("bias_softmax_outer", "BiasSoftmax", [(2, 3, 4, 5), (1, 1, 4, 5)], axis=3, is_inner_broadcast=0,
     formula=lambda x, b: [softmax(x + b, (3,))])
case("bias_softmax_inner", "BiasSoftmax", [(2, 3, 4, 5), (2, 1, 1, 5)], axis=3, is_inner_broadcast=1,
     formula=lambda x, b: [softmax(x + b, (3,))])
case("bias_softmax_axes", "BiasSoftmax", [(2, 3, 4), (1, 3, 4)], axis=1, is_inner_broadcast=0,
     formula=lambda x, b: [softmax(x + b, (1, 2))])
case("bias_dropout", "BiasDropout", [(2, 3, 4), (4,), (2, 3, 4)], outputs=(True, True),
     formula=lambda x, b, r: [x + b + r, np.ones(x.shape, dtype=bool)])

# Products and convolutions.
case("fused_matmul", "FusedMatMul", [(2, 3, 4), (2, 4, 5)], alpha=0.5)
case("fused_matmul_turned", "FusedMatMul", [(2, 4, 3), (5, 4)], transA=1, transB=1)
case("fused_matmul_turned_batch", "FusedMatMul", [(3, 2, 4), (2, 4, 5)], transBatchA=1)
case("fused_matmul_turned_batch_both", "FusedMatMul", [(4, 2, 6, 3), (5, 2, 6, 4)], transA=1, transB=1,
     transBatchA=1, transBatchB=1)
case("fused_matmul_vector", "FusedMatMul", [(4,), (2, 4, 5)], transA=1)
case("transpose_matmul", "TransposeMatMul", [(4, 3), (4, 5)], transA=1, alpha=2.0)
case("fused_matmul_activation", "FusedMatMulActivation", [(3, 4), (4, 5)], activation="Relu", alpha=2.0,
     formula=lambda a, b: [np.maximum(2 * a @ b, 0)])
case("fused_gemm_relu", "FusedGemm", [(3, 4), (4, 5), (5,)], activation="Relu", alpha=0.5, beta=2.0)
case("fused_gemm_leaky", "FusedGemm", [(4, 3), (5, 4)], activation="LeakyRelu", activation_alpha=0.2, transA=1,
     transB=1)
case("fused_gemm_sigmoid", "FusedGemm", [(3, 4), (4, 5)], activation="Sigmoid")
case("gemm_fast_gelu", "GemmFastGelu", [(2, 3, 4), (4, 5), (5,)],
     formula=lambda x, w, b: [fast_gelu(x @ w + b)])
for name, parameters in [("Relu", []), ("Tanh", []), ("Sigmoid", []), ("LeakyRelu", [0.3]), ("Clip", [-0.5, 0.8]),
                         ("HardSigmoid", [0.3, 0.4])]:
    case(f"fused_conv_{name.lower()}", "FusedConv", [(1, 2, 5, 5), (3, 2, 3, 3), (3,)], activation=name, pads=[1] * 4,
         **({"activation_params": parameters} if parameters else {}))
case("fused_conv_sum", "FusedConv", [(1, 2, 5, 5), (3, 2, 3, 3), (3,), (1, 3, 3, 3)], activation="Relu")
case("nhwc_conv", "NhwcConv", [(2, 5, 6, 3), (4, 3, 3, 2), (4,)], formula=lambda x, w, b: [convolution(x, w, b)])
case("nhwc_fused_conv", "NhwcFusedConv", [(2, 5, 6, 3), (4, 3, 3, 2), (4,), (2, 3, 5, 4)], activation="Relu",
     formula=lambda x, w, b, z: [np.maximum(convolution(x, w, b) + z, 0)])
case("conv_transpose_with_dynamic_pads", "ConvTransposeWithDynamicPads",
     [(1, 3, 4, 4), (3, 2, 3, 3), i64([1, 1, 1, 1]), (2,)], strides=[2, 2], output_padding=[1, 1])

# Normalisation.
case("simplified_layer_normalization", "SimplifiedLayerNormalization", [(2, 3, 4), (4,)], domain="", axis=-1,
     epsilon=1e-6)
case("simplified_layer_normalization_deviation", "SimplifiedLayerNormalization", [(2, 3, 4), (3, 4)], domain="",
     axis=1, outputs=(True, True))
case("skip_layer_normalization", "SkipLayerNormalization", [(2, 3, 4), (2, 3, 4), (4,), (4,), (4,)],
     outputs=(True, False, False, True))
case("skip_layer_normalization_broadcast", "SkipLayerNormalization", [(2, 3, 4), (1, 3, 4), (4,)], epsilon=1e-3)
case("skip_layer_normalization_plane", "SkipLayerNormalization", [(2, 3, 4), (3, 4), (4,), (4,)])
case("skip_simplified_layer_normalization", "SkipSimplifiedLayerNormalization", [(2, 3, 4), (2, 3, 4), (4,), (4,)],
     outputs=(True, False, False, True), epsilon=1e-5)
IDS = [i32([[1, 3, 0], [5, 2, 2]]), i32([[0, 0, 1], [0, 1, 1]])]
case("embed_layer_normalization", "EmbedLayerNormalization",
     [*IDS, (6, 8), (4, 8), (2, 8), (8,), (8,), i32([[1, 1, 0], [1, 0, 1]])], outputs=(True, True, True))
case("embed_layer_normalization_plain", "EmbedLayerNormalization", [IDS[0], None, (6, 8), (4, 8), None, (8,), (8,)],
     outputs=(True, True))
case("embed_layer_normalization_positions", "EmbedLayerNormalization",
     [*IDS, (6, 8), (4, 8), (2, 8), (8,), (8,), None, i32([[3, 1, 0]])], outputs=(True, True), epsilon=1e-3)
case("group_norm", "GroupNorm", [(2, 3, 3, 6), (6,), (6,)], groups=3, activation=0,
     formula=lambda x, g, b: [group_norm(x, g, b, 3, False)])
case("group_norm_silu", "GroupNorm", [(2, 6, 3, 3), (6,), (6,)], groups=2, activation=1, channels_last=0,
     formula=lambda x, g, b: [group_norm(x.transpose(0, 2, 3, 1), g, b, 2, True).transpose(0, 3, 1, 2)])
case("skip_group_norm", "SkipGroupNorm", [(2, 3, 3, 6), (6,), (6,), (2, 6), (6,)], groups=3, activation=1,
     outputs=(True, True), formula=lambda x, g, b, s, a: [
         group_norm(x + s[:, None, None] + a, g, b, 3, True), x + s[:, None, None] + a])

# Attention over one projected input.
WEIGHTS = [(6, 24), (24,)]
case("attention", "Attention", [(2, 3, 6), *WEIGHTS], num_heads=2)
case("attention_unbiased_scaled", "Attention", [(2, 3, 6), (6, 24), None], num_heads=4, scale=0.3)
case("attention_unidirectional", "Attention", [(2, 3, 6), *WEIGHTS], num_heads=2, unidirectional=1)
case("attention_lengths", "Attention", [(2, 3, 6), *WEIGHTS, i32([2, 3])], num_heads=2)
case("attention_spans", "Attention", [(2, 3, 6), *WEIGHTS, i32([3, 2, 1, 0])], num_heads=2)
case("attention_keys", "Attention", [(2, 3, 6), *WEIGHTS, i32([[1, 0, 1], [0, 0, 1]])], num_heads=2)
case("attention_keys_filter", "Attention", [(2, 3, 6), *WEIGHTS, i32([[1, 0, 1], [0, 1, 1]])], num_heads=2,
     mask_filter_value=-2.0)
case("attention_queries", "Attention",
     [(1, 3, 6), *WEIGHTS, i32([[[1, 0, 1], [1, 1, 0], [0, 0, 1]]])], num_heads=2)
case("attention_square", "Attention",
     [(2, 3, 6), *WEIGHTS, i32(np.tril(np.ones((2, 1, 5, 5))))], num_heads=2,
     formula=lambda *values: [square_masked(*values)])
case("attention_bias", "Attention", [(2, 3, 6), *WEIGHTS, None, None, (1, 2, 3, 3)], num_heads=2)
case("attention_bias_examples", "Attention", [(2, 3, 6), *WEIGHTS, None, None, (2, 1, 3, 3)], num_heads=2)
case("attention_sizes", "Attention", [(2, 3, 6), (6, 20), (20,)], num_heads=2, qkv_hidden_sizes=[6, 6, 8])
case("attention_past", "Attention", [(2, 3, 6), *WEIGHTS, None, (2, 2, 2, 4, 4)], num_heads=2, unidirectional=1,
     outputs=(True, True))
case("attention_past_keys", "Attention",
     [(2, 3, 6), *WEIGHTS, i32([[1, 0, 1, 1, 1], [0, 1, 1, 1, 0]]), (2, 2, 2, 2, 4)], num_heads=2, unidirectional=1,
     outputs=(True, True))

# Attention over queries, keys and values.
QKV = [(2, 3, 8), (2, 5, 8), (2, 5, 6)]
case("multi_head", "MultiHeadAttention", QKV, num_heads=2)
case("multi_head_bias", "MultiHeadAttention", [*QKV, (22,)], num_heads=2)
case("multi_head_scale", "MultiHeadAttention", QKV, num_heads=2, scale=0.2)
case("multi_head_packed", "MultiHeadAttention", [(2, 3, 2, 3, 4)], num_heads=2,
     formula=lambda x: [attention(*(x[:, :, :, part].reshape(2, 3, 8) for part in range(3)), 2)])
case("multi_head_packed_keys", "MultiHeadAttention", [(2, 3, 8), (2, 5, 2, 2, 4)], num_heads=2,
     formula=lambda q, x: [attention(q, x[:, :, :, 0].reshape(2, 5, 8), x[:, :, :, 1].reshape(2, 5, 8), 2)])
case("multi_head_of_heads", "MultiHeadAttention", [(2, 3, 8), (2, 2, 5, 4), (2, 2, 5, 4)], num_heads=2)
case("multi_head_lengths", "MultiHeadAttention", [*QKV, None, i32([2, 5])], num_heads=2)
case("multi_head_keys", "MultiHeadAttention", [*QKV, None, i32([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1]])], num_heads=2)
case("multi_head_queries", "MultiHeadAttention",
     [(1, 2, 8), (1, 3, 8), (1, 3, 8), None, i32([[[1, 0, 1], [0, 1, 1]]])], num_heads=2)
case("multi_head_attention_bias", "MultiHeadAttention", [*QKV, None, None, (1, 2, 3, 5)], num_heads=2)
case("multi_head_unidirectional", "MultiHeadAttention", [(2, 3, 8)] * 3, num_heads=2, unidirectional=1)
case("multi_head_past", "MultiHeadAttention", [(2, 3, 8)] * 3 + [None, None, None, (2, 2, 4, 4), (2, 2, 4, 4)],
     num_heads=2, unidirectional=1, outputs=(True, True, True))
case("multi_head_scores", "MultiHeadAttention",
     [(1, 2, 8), (1, 3, 8), (1, 3, 8), None, None, (1, 2, 2, 3)], num_heads=2, outputs=(True, False, False, True),
     kind=TensorProto.FLOAT)

# Attention of grouped queries.
PAST = [(2, 2, 4, 16)] * 2
WIDE_CACHE = [(9, 8), (9, 8)]
case("group_query_prompt", "GroupQueryAttention",
     [(2, 3, 64), (2, 3, 32), (2, 3, 32), None, None, i32([2, 2]), i32([3])], num_heads=4, kv_num_heads=2,
     outputs=(True, True, True))
case("group_query_packed_rotary", "GroupQueryAttention",
     [(2, 3, 128), None, None, None, None, i32([2, 2]), i32([3]), *WIDE_CACHE], num_heads=4, kv_num_heads=2,
     do_rotary=1, outputs=(True, True, True))
case("group_query_decode", "GroupQueryAttention",
     [(2, 1, 64), (2, 1, 32), (2, 1, 32), *PAST, i32([4, 4]), i32([5])], num_heads=4, kv_num_heads=2,
     outputs=(True, True, True))
case("group_query_decode_ragged", "GroupQueryAttention",
     [(2, 1, 64), (2, 1, 32), (2, 1, 32), *PAST, i32([2, 4]), i32([5]), *WIDE_CACHE], num_heads=4, kv_num_heads=2,
     do_rotary=1, rotary_interleaved=1, outputs=(True, True, True))
case("group_query_chunk", "GroupQueryAttention",
     [(1, 3, 64), (1, 3, 32), (1, 3, 32), (1, 2, 4, 16), (1, 2, 4, 16), i32([6]), i32([7]), *WIDE_CACHE], num_heads=4,
     kv_num_heads=2, do_rotary=1, outputs=(True, True, True))
case("group_query_window", "GroupQueryAttention",
     [(1, 6, 64), (1, 6, 32), (1, 6, 32), None, None, i32([5]), i32([6])], num_heads=4, kv_num_heads=2,
     local_window_size=2, outputs=(True, True, True))
case("group_query_softcap", "GroupQueryAttention",
     [(1, 3, 64), (1, 3, 32), (1, 3, 32), None, None, i32([2]), i32([3])], num_heads=4, kv_num_heads=2, softcap=0.5,
     scale=0.9, outputs=(True, True, True))
case("group_query_smooth", "GroupQueryAttention",
     [(1, 3, 64), (1, 3, 32), (1, 3, 32), None, None, i32([2]), i32([3])], num_heads=4, kv_num_heads=2,
     smooth_softmax=1, outputs=(True, True, True))
case("group_query_sink", "GroupQueryAttention",
     [(1, 3, 64), (1, 3, 32), (1, 3, 32), None, None, i32([2]), i32([3]), None, None, None, None, (4,)], num_heads=4,
     kv_num_heads=2, outputs=(True, True, True))
case("group_query_bias", "GroupQueryAttention",
     [(2, 3, 64), (2, 3, 32), (2, 3, 32), None, None, i32([2, 2]), i32([3]), None, None, None, (1, 4, 3, 3)],
     num_heads=4, kv_num_heads=2, softcap=2.0, outputs=(True, True, True))
case("group_query_positions", "GroupQueryAttention",
     [(2, 1, 64), (2, 1, 32), (2, 1, 32), *PAST, i32([4, 4]), i32([5]), *WIDE_CACHE, i64([[3], [7]])], num_heads=4,
     kv_num_heads=2, do_rotary=1, outputs=(True, True, True))
for mode in (1, 2):
    case(f"group_query_scores_{mode}", "GroupQueryAttention",
         [(1, 3, 64), (1, 3, 32), (1, 3, 32), None, None, i32([2]), i32([3])], num_heads=4, kv_num_heads=2,
         qk_output=mode, outputs=(True, True, True, True))
case("group_query_normalized", "GroupQueryAttention",
     [(2, 3, 32), (2, 3, 32), (2, 3, 32), None, None, i32([2, 2]), i32([3]), *[None] * 7, (16,), (16,)], num_heads=2,
     kv_num_heads=2, causal=0, formula=lambda q, k, v, _, __, a, b: [
         attention(rms_norm(q.reshape(2, 3, 2, 16), a), rms_norm(k.reshape(2, 3, 2, 16), b), v, 2)])
case("group_query_long_cache", "GroupQueryAttention",
     [(1, 2, 64), (1, 2, 32), (1, 2, 32), (1, 2, 8, 16), (1, 2, 8, 16), i32([4]), i32([5])], num_heads=4,
     kv_num_heads=2, local_window_size=3, softcap=1.0, qk_output=1, outputs=(True, True, True, True))
case("group_query_padded_chunks", "GroupQueryAttention",
     [(2, 3, 64), (2, 3, 32), (2, 3, 32), (2, 2, 8, 16), (2, 2, 8, 16), i32([4, 5]), i32([8]), *[None] * 9,
      i32([3, 3])], num_heads=4, kv_num_heads=2, outputs=(True, True, True))
case("group_query_both_ways", "GroupQueryAttention",
     [(1, 3, 64), (1, 3, 32), (1, 3, 32), None, None, i32([2]), i32([3])], num_heads=4, kv_num_heads=2, causal=0,
     outputs=(True, True, True))

# Rotary embeddings.
CACHE = [(9, 4), (9, 4)]
case("rotary", "RotaryEmbedding", [(2, 3, 16), i64([[0, 1, 2], [4, 5, 6]]), *CACHE])
case("rotary_offset", "RotaryEmbedding", [(2, 3, 16), i64([2]), *CACHE], interleaved=1)
case("rotary_heads", "RotaryEmbedding", [(2, 2, 3, 8), i64([[0, 1, 2], [4, 5, 6]]), *CACHE])
case("rotary_partial", "RotaryEmbedding", [(2, 3, 24), i64([1]), *CACHE], num_heads=2, rotary_embedding_dim=8)
case("linear_attention", "LinearAttention", [(2, 3, 8), (2, 3, 8), (2, 3, 6), (2, 2, 4, 3), (2, 3, 2), (2, 3, 2)],
     q_num_heads=2, kv_num_heads=2, outputs=(True, True))

# Others.
case("inverse", "Inverse", [(2, 4, 4)], rtol=1e-3)
case("trilu", "Trilu", [(2, 4, 5)])
case("trilu_lower", "Trilu", [(2, 4, 5), i64(-1)], upper=0)
case("pad", "Pad", [(2, 3), i64([1, 0, 0, 2]), f32([0.5])])
case("pad_reflect", "Pad", [(3, 4), i64([1, 0, 0, 2])], mode="reflect")
case("range", "Range", [i32(2), i32(9), i32(3)])
case("range_without_step", "Range", [f32([0.5]), f32([4])])
case("expand_dims", "ExpandDims", [(2, 3), i32(-1)])
case("gather_nd", "GatherND", [(3, 4), i64([[0, 1], [2, 3]])])
case("grid_sample", "GridSample", [(1, 2, 4, 4), (1, 3, 3, 2)], mode="bilinear", align_corners=1)
case("unique", "Unique", [f32([2, 1, 1, 3, 4, 3])], outputs=(True, True, True))
case("cdist", "CDist", [(3, 4), (5, 4)], metric="euclidean")
case("cdist_squares", "CDist", [(3, 4), (5, 4)], metric="sqeuclidean", rtol=1e-3)
case("complex_mul", "ComplexMul", [(3, 4, 2), (3, 4, 2)], formula=lambda a, b: [parts(number(a) * number(b))])
case("complex_mul_conj", "ComplexMulConj", [(3, 4, 2), (3, 4, 2)],
     formula=lambda a, b: [parts(number(a) * np.conj(number(b)))])
case("is_all_finite", "IsAllFinite", [(3,), f32([1, np.inf])], formula=lambda *_: [np.array(False)])
case("is_all_finite_but_infinite", "IsAllFinite", [(3,), f32([1, np.inf])], isnan_only=1,
     formula=lambda *_: [np.array(True)])


def values_of(spec):
    random = np.random.default_rng(zlib.crc32(spec["name"].encode()))
    return [value if value is None or isinstance(value, np.ndarray)
            else random.normal(0, 1, value).astype(np.float32) for value in spec["inputs"]]


def build(spec, values):
    names = [f"x{k}" if value is not None else "" for k, value in enumerate(values)]
    outputs = [f"y{k}" if wanted else "" for k, wanted in enumerate(spec["outputs"])]
    node = helper.make_node(spec["operator"], names, outputs, domain=spec["domain"], **spec["attributes"])
    fed = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
           for name, value in zip(names, values) if name]
    given = [helper.make_tensor_value_info(name, spec["kind"], None) if spec["kind"]
             else helper.make_value_info(name, onnx.TypeProto()) for name in outputs if name]
    graph = helper.make_graph([node], spec["name"], fed, given)
    opsets = [helper.make_opsetid("", spec["opset"]), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def expected(spec, model, values):
    present = [value for value in values if value is not None]
    if spec["formula"]:
        widened = [value.astype(np.float64) if value.dtype == np.float32 else value for value in present]
        results = spec["formula"](*widened)
        return [value.astype(np.float32) if value.dtype == np.float64 else value for value in results]
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, dict(zip(names, present)))


def write(spec, folder):
    values = values_of(spec)
    model = build(spec, values)
    results = expected(spec, model, values)
    for entry, value in zip(model.graph.output, results):
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        entry.CopyFrom(helper.make_tensor_value_info(entry.name, kind, value.shape))
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    present = [value for value in values if value is not None]
    for kind, tensors in (("input", present), ("output", results)):
        for k, value in enumerate(tensors):
            (folder / f"{kind}_{k}.pb").write_bytes(numpy_helper.from_array(value).SerializeToString())
    domain = spec["domain"]
    operator = f"{domain}:{spec['operator']}" if domain else spec["operator"]
    about = dict(name=spec["name"], rtol=spec["rtol"], atol=spec["atol"], random=False, operators=[operator],
                 opset=spec["opset"], tensors=True, runtime=spec["formula"] is None)
    (folder / "case.json").write_text(json.dumps(about))


def main(folder):
    for spec in CASES:
        try:
            write(spec, folder / spec["name"])
        except Exception as problem:
            raise RuntimeError(spec["name"]) from problem


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
