//! Operators that work element by element: arithmetic, activations, comparisons, logic, conversions
//! and choices.

mod binary;
mod cast;
mod rows;
mod select;
mod unary;

pub(super) use cast::to_float;
pub(super) use rows::{each_row, zip};
pub(super) use unary::sigmoid;

use super::call::{Call, Outcome};

/// `None` for an operator that is none of this file.
pub(super) fn evaluate(call: &Call) -> Option<Outcome> {
    [
        binary::evaluate,
        unary::evaluate,
        cast::evaluate,
        select::evaluate,
    ]
    .iter()
    .find_map(|family| family(call))
}
