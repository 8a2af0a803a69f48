//! Attention (Vaswani et al. 2017) and its relatives.

mod heads;
mod linear;
mod product;
mod rotary;
mod standard;

pub(super) use heads::{Heads, merge_heads};
pub(super) use linear::linear_attention;
pub(super) use product::{Attended, Rules, Stage, attend};
pub(super) use rotary::{Rotation, rotate};

use super::call::{Call, Outcome};

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    Some(match call.operator() {
        "Attention" => standard::attention(call),
        "FlexAttention" => standard::flex_attention(call),
        "RotaryEmbedding" => rotary::rotary_embedding(call),
        "LinearAttention" => linear_attention(call),
        _ => return None,
    })
}
