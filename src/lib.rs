//! Sinter: a self-contained HTTP service that makes trained ONNX models smaller and faster.
//!
//! Two halves and one language between them. The service half ([`api`], [`store`], [`worker`], [`outbox`])
//! never touches a tensor; the engine half ([`engine`] and the rooms it calls) knows no HTTP, no
//! SQL and no async; both speak [`spec`]. The boundary between them is a process: the worker
//! starts `sinter job` as a child for every job.

#![deny(unsafe_code)]

pub mod cli;
pub mod config;

pub mod spec;

pub mod api;
pub mod bundle;
pub mod mlflow;
pub mod outbox;
pub mod store;
pub mod telemetry;
pub mod worker;

pub mod data;
pub mod distill;
pub mod engine;
pub mod exec;
pub mod graph;
pub mod host;
pub mod onnx;
pub mod prune;
pub mod search;
pub mod train;

pub mod client;
pub mod demo;
