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
