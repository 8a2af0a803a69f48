"""Attention and rotary embeddings of opset 23; attention's derivatives by PyTorch."""

import numpy as np

import references
from declare import Fed, case, f32, flags, i64

ATTENTION = dict(opset=23, torch=references.attention)
FLAT = [(2, 3, 8), (2, 5, 8), (2, 5, 6)]
HEADS = dict(q_num_heads=2, kv_num_heads=2, **ATTENTION)
case("attention_flat", "Attention", FLAT, **HEADS)
case("attention_flat_grouped", "Attention", [(2, 3, 16), (2, 5, 8), (2, 5, 6)], q_num_heads=4, kv_num_heads=2,
     **ATTENTION)
case("attention_flat_one_key_head", "Attention", [(2, 3, 12), (2, 5, 4), (2, 5, 3)], q_num_heads=3, kv_num_heads=1,
     **ATTENTION)
case("attention_flat_causal", "Attention", [(2, 4, 8)] * 3, is_causal=1, **HEADS)
case("attention_flat_bias", "Attention", [*FLAT, (3, 5)], **HEADS)
case("attention_of_itself", "Attention", [(2, 4, 8)], reads=(0, 0, 0), **HEADS)

SPLIT = [(2, 2, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3)]
SEEN = flags([1, 0, 1, 1, 0], [0, 1, 1, 0, 1], [1, 1, 1, 1, 1])
case("attention", "Attention", SPLIT, **ATTENTION)
case("attention_grouped", "Attention", [(2, 4, 3, 4), (2, 2, 5, 4), (2, 2, 5, 3)], **ATTENTION)
case("attention_scaled", "Attention", SPLIT, scale=0.3, **ATTENTION)
case("attention_softcapped", "Attention", SPLIT, softcap=0.8, **ATTENTION)
case("attention_causal", "Attention", [(2, 2, 4, 4)] * 3, is_causal=1, **ATTENTION)
case("attention_causal_wide", "Attention", SPLIT, is_causal=1, **ATTENTION)
case("attention_bias", "Attention", [*SPLIT, (3, 5)], **ATTENTION)
case("attention_bias_of_heads", "Attention", [*SPLIT, (2, 3, 5)], **ATTENTION)
case("attention_bias_of_examples", "Attention", [*SPLIT, (2, 1, 3, 5)], **ATTENTION)
# ONNX Runtime has no masks of one axis.
case("attention_bias_of_keys", "Attention", [*SPLIT, (5,)], runtime=False, **ATTENTION)
case("attention_bool_mask_of_keys", "Attention", [*SPLIT, Fed(flags(1, 0, 1, 1, 0))], runtime=False, **ATTENTION)
case("attention_float_mask", "Attention", [*SPLIT, np.where(SEEN, 0.0, -np.inf).astype(np.float32)], **ATTENTION)
case("attention_bool_mask", "Attention", [*SPLIT, SEEN], **ATTENTION)
case("attention_bool_mask_fed", "Attention", [*SPLIT, Fed(SEEN)], **ATTENTION)
case("attention_bool_mask_of_examples", "Attention", [*SPLIT, Fed(np.stack([SEEN, ~SEEN | SEEN[::-1]])[:, None])],
     **ATTENTION)
case("attention_causal_bias", "Attention", [(2, 2, 4, 4)] * 3 + [(4, 4)], is_causal=1, **ATTENTION)
case("attention_causal_bool_mask", "Attention",
     [(2, 2, 3, 4)] * 3 + [flags([1, 0, 1], [1, 1, 0], [1, 1, 1])], is_causal=1, **ATTENTION)
case("attention_bool_mask_hides_a_row", "Attention", [*SPLIT, SEEN & flags([1], [0], [1])], **ATTENTION)
case("attention_softcapped_bias", "Attention", [*SPLIT, (3, 5)], softcap=0.8, **ATTENTION)
case("attention_softcapped_bool_mask", "Attention", [*SPLIT, SEEN], softcap=0.8, **ATTENTION)
case("attention_softcapped_causal", "Attention", [(2, 2, 4, 4)] * 3, is_causal=1, softcap=0.8, **ATTENTION)
case("attention_opset_24", "Attention", SPLIT, opset=24, torch=references.attention)

# With keys and values of the past, and the new ones as outputs.
PAST = [None, (2, 2, 3, 4), (2, 2, 3, 3)]
CAUSAL_SEEN = flags(*np.tril(np.ones((3, 8)), 4).astype(bool))
for name, inputs, about in [
    ("", [*SPLIT, *PAST], {}),
    ("_causal", [*SPLIT, *PAST], dict(is_causal=1)),
    ("_one_query", [(2, 2, 1, 4), (2, 2, 1, 4), (2, 2, 1, 3), *PAST], dict(is_causal=1)),
    ("_bias", [*SPLIT, (3, 8), *PAST[1:]], {}),
    ("_bool_mask", [*SPLIT, CAUSAL_SEEN, *PAST[1:]], {}),
    ("_bool_mask_fed", [*SPLIT, Fed(CAUSAL_SEEN), *PAST[1:]], dict(softcap=0.8)),
    ("_causal_bias", [*SPLIT, (2, 1, 3, 8), *PAST[1:]], dict(is_causal=1, scale=0.3)),
    ("_grouped", [(2, 4, 3, 4), *SPLIT[1:], *PAST], dict(is_causal=1)),
    ("_flat", [*FLAT, *PAST], dict(q_num_heads=2, kv_num_heads=2)),
    ("_flat_causal", [*FLAT, *PAST], dict(q_num_heads=2, kv_num_heads=2, is_causal=1)),
    ("_flat_grouped", [(2, 3, 16), *FLAT[1:], *PAST], dict(q_num_heads=4, kv_num_heads=2)),
]:
    case(f"attention_past{name}", "Attention", inputs, outputs=3, **about, **ATTENTION)
case("attention_past_opset_24", "Attention", [*SPLIT, *PAST], outputs=3, is_causal=1,
     **{**ATTENTION, "opset": 24})
# ONNX Runtime wants the new ones to be asked for.
case("attention_past_unasked", "Attention", [*SPLIT, *PAST], runtime=False, **ATTENTION)

# The scores as an output: as the product gives them, behind the bend, with the bias, and as weights.
for mode in range(4):
    about = dict(outputs=4, qk_matmul_output_mode=mode, **ATTENTION)
    case(f"attention_scores_{mode}", "Attention", [*SPLIT, *PAST], **about)
    case(f"attention_scores_{mode}_bias", "Attention", [*SPLIT, (3, 8), *PAST[1:]], scale=0.4, **about)
    case(f"attention_scores_{mode}_softcapped_bias", "Attention", [*SPLIT, (3, 8), *PAST[1:]], softcap=0.8, **about)
    case(f"attention_scores_{mode}_flat", "Attention", [*FLAT, *PAST], q_num_heads=2, kv_num_heads=2, **about)
    case(f"attention_scores_{mode}_without_past", "Attention", SPLIT, **{**about, "outputs": (0, 3)})

# Masks for fewer keys than there are hide the others; ONNX Runtime has none.
LENGTHS = Fed(i64(4, 5))
AHEAD = dict(opset=24, torch=references.attention)
case("attention_short_bias", "Attention", [*SPLIT, (3, 4)], runtime=False, **AHEAD)
case("attention_short_bool_mask", "Attention", [*SPLIT, Fed(SEEN[:, :4])], runtime=False, **AHEAD)
for name, inputs, about in [
    ("", SPLIT, {}), ("_causal", SPLIT, dict(is_causal=1)), ("_flat", FLAT, dict(q_num_heads=2, kv_num_heads=2)),
    ("_grouped", [(2, 4, 3, 4), *SPLIT[1:]], {}), ("_one_query", [(2, 2, 1, 4), *SPLIT[1:]], dict(is_causal=1)),
]:
    case(f"attention_lengths{name}", "Attention", [*inputs, None, None, None, LENGTHS], **about, **AHEAD)
    case(f"attention_lengths_bias{name}", "Attention", [*inputs, (inputs[0][-2], 5), None, None, LENGTHS], **about,
         **AHEAD)
case("attention_lengths_bool_mask", "Attention", [*SPLIT, SEEN, None, None, LENGTHS.array], **AHEAD)
for name, window in [("left", dict(left_window_size=1)), ("right", dict(right_window_size=1)),
                     ("both", dict(left_window_size=2, right_window_size=0))]:
    case(f"attention_window_{name}", "Attention", SPLIT, runtime=False, **window, **{**AHEAD, "opset": 25})

ROTARY = dict(opset=23)
PLACES = i64([2, 0, 3], [1, 4, 4])
case("rotary", "RotaryEmbedding", [(2, 2, 3, 4), (2, 3, 2), (2, 3, 2)], **ROTARY)
case("rotary_flat", "RotaryEmbedding", [(2, 3, 8), (2, 3, 2), (2, 3, 2)], num_heads=2, **ROTARY)
case("rotary_interleaved", "RotaryEmbedding", [(2, 2, 3, 4), (2, 3, 2), (2, 3, 2)], interleaved=1, **ROTARY)
case("rotary_partial", "RotaryEmbedding", [(2, 2, 3, 6), (2, 3, 2), (2, 3, 2)], rotary_embedding_dim=4, **ROTARY)
case("rotary_partial_interleaved", "RotaryEmbedding", [(2, 3, 12), (2, 3, 2), (2, 3, 2)], num_heads=2, interleaved=1,
     rotary_embedding_dim=4, **ROTARY)
case("rotary_positions", "RotaryEmbedding", [(2, 2, 3, 4), (5, 2), (5, 2), PLACES], **ROTARY)
case("rotary_positions_flat", "RotaryEmbedding", [(2, 3, 8), (5, 2), (5, 2), PLACES], num_heads=2, interleaved=1,
     **ROTARY)
case("rotary_positions_fed", "RotaryEmbedding", [(2, 3, 8), (5, 2), (5, 2), Fed(PLACES)], num_heads=2, **ROTARY)
case("rotary_constant_caches", "RotaryEmbedding",
     [(1, 3, 8), *(f(np.outer(np.arange(5), f32(1.0, 0.1))).astype(np.float32) for f in (np.cos, np.sin)),
      i64([0, 1, 2])], num_heads=2, **ROTARY)

# Recurrences of opset 27.
LINEAR = [(2, 3, 8), (2, 3, 8), (2, 3, 6)]
PLAIN, HEADWISE, ELEMENTWISE = None, (2, 3, 2), (2, 3, 8)
for name, rule, state, decay, beta in [
    ("", "linear", True, PLAIN, PLAIN), ("_without_state", "linear", False, PLAIN, PLAIN),
    ("_gated", "gated", True, HEADWISE, PLAIN), ("_gated_elements", "gated", False, ELEMENTWISE, PLAIN),
    ("_delta", "delta", True, PLAIN, HEADWISE), ("_delta_one_rate", "delta", False, PLAIN, (2, 3, 1)),
    ("_gated_delta", "gated_delta", True, HEADWISE, HEADWISE),
    ("_gated_delta_elements", "gated_delta", True, ELEMENTWISE, (2, 3, 1)),
]:
    about = dict(opset=27, outputs=2, update_rule=rule, kv_num_heads=2, torch=references.linear_attention, high=0.8)
    inputs = [(2, 2, 4, 3) if state else None, decay, beta]
    case(f"linear_attention{name}", "LinearAttention", [*LINEAR, *inputs], q_num_heads=2, **about)
    case(f"linear_attention{name}_grouped", "LinearAttention", [(2, 3, 16), *LINEAR[1:], *inputs], q_num_heads=4,
         scale=0.3, **about)
for activation in ["none", "silu", "swish"]:
    about = dict(opset=27, outputs=2, activation=activation, torch=references.causal_conv)
    case(f"causal_conv_{activation}", "CausalConvWithState", [(2, 3, 5), (3, 1, 4), (3,), (2, 3, 3)], **about)
    case(f"causal_conv_{activation}_weights", "CausalConvWithState", [(2, 3, 5), (3, 1, 3), (3,)], weights=(1, 2),
         **about)
    case(f"causal_conv_{activation}_one_step", "CausalConvWithState", [(2, 3, 1), (3, 1, 4), None, (2, 3, 3)], **about)
    case(f"causal_conv_{activation}_plain", "CausalConvWithState", [(2, 3, 2), (3, 1, 4)], **about)
case("flex_attention", "FlexAttention", [(2, 3, 4, 5), (2, 3, 6, 5), (2, 3, 6, 4)], domain="ai.onnx.preview", opset=26,
     torch=references.attention, runtime=False)
