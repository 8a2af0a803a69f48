//! Search: a space, strategies that choose points of it, and what several objectives say of them.
//!
//! Strategies do not know what a point stands for or how it is judged; `architecture` makes graphs of points.

pub mod architecture;
mod cells;
mod edits;
pub mod front;
pub mod importance;
pub mod proxy;
pub mod shared;
pub mod space;
pub mod strategy;
