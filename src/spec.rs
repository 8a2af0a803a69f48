//! The one language that the service half and the engine half share.
//!
//! Plain serde types with validation and OpenAPI schemas: what a job asks for, what a child
//! process is ordered to do and says while it does it, and what comes out. No I/O, no tensors,
//! no SQL, no HTTP.

pub mod audio;
pub mod augment;
pub mod child;
pub mod dataset;
pub mod distill;
pub mod evaluate;
pub mod fit;
pub mod hyperparameters;
pub mod item;
pub mod job;
pub mod mlflow;
pub mod model;
pub mod picture;
pub mod pipeline;
pub mod predict;
pub mod problem;
pub mod prune;
pub mod result;
pub mod search;
pub mod strategy;
pub mod tokens;
pub mod train;
pub mod trial;
pub mod webhook;

pub use problem::{FieldError, Problem};
