//! The child process: reads an order, carries it out, says how it goes.
//!
//! A pure function of its order: the same job, files and seed give the same `model.onnx`, byte for
//! byte, whether the work was interrupted or not.

mod check;
mod child;
mod confine;
mod data_fit;
mod distill_step;
mod doubt;
mod inspect;
mod job;
mod journal;
mod measure;
mod plan;
mod predict;
mod problem;
mod prune_step;
pub mod report;
mod scaling;
mod search_step;
mod tokenizer;
mod train_step;
mod verdict;
mod voice;

pub use child::child_main;
