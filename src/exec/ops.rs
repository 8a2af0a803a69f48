//! What single steps compute, one file a family.

pub(super) mod attention;
pub(super) mod chain;
pub(super) mod einsum;
pub(super) mod elementwise;
pub(super) mod linear;
pub(super) mod normalization;
pub(in crate::exec) mod pick;
pub(super) mod recurrent;
pub(super) mod reduce;
pub(super) mod resize;
pub(super) mod shape;
pub(super) mod window;
