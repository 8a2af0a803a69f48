//! Distillation: what a student learns from its teachers.

pub mod losses;
pub mod neighbours;
mod objective;
mod pairs;
mod teacher;

pub use objective::{Distillation, Settled, Tuition, closing_operators};
pub use pairs::{Pair, Tap, TapError};
pub use teacher::{Teacher, Teachers};
