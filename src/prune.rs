//! Pruning: importance, selection and schedule, each apart from the others.
//!
//! Importance is a number for each unit or weight ([`importance`]), selection takes the least
//! important ones until the graph's real cost meets the target ([`select`], [`weight`]), of what can leave
//! the graph ([`removal`]: channels, heads, blocks), the
//! schedule says how much of the way each step goes ([`schedule`]), and what stays is corrected on
//! unlabelled examples ([`reconstruct`]). What data tell comes through one trait ([`calibration`]).

pub mod calibration;
pub mod importance;
mod least_squares;
pub mod removal;
pub mod rigl;
pub mod schedule;
pub mod select;
pub mod slimming;
mod sparsegpt;
pub mod weight;

pub use least_squares::{Change, reconstruct};

use std::collections::BTreeMap;

use crate::exec::ExecError;
use crate::graph::{CutError, Graph, InferError};
use crate::spec::prune::{Criterion, Target, word};
use crate::spec::result::{Blocked, rounded};

/// Why a pruning can't be done.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    #[error(transparent)]
    Infer(#[from] InferError),
    #[error(transparent)]
    Cut(#[from] CutError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    #[error("the criterion `{}` looks at examples, so the job needs a data set", word(.0))]
    NeedsData(Criterion),
    #[error(
        "{target} of {asked} can't be reached: with everything removed that may go it is {nearest:.4}{hint}"
    )]
    Unreachable {
        target: String,
        asked: f64,
        nearest: f64,
        hint: String,
    },
    #[error(
        "{target} of {allowed} can't be kept: {tried} {}{hint}",
        least.map_or("has no finite value of the metric".to_owned(), |least| format!("is worse by {}", short(least)))
    )]
    TooBad {
        target: String,
        allowed: f64,
        /// What is worse.
        tried: String,
        /// `None` where the metric has no finite value.
        least: Option<f64>,
        hint: &'static str,
    },
    #[error(
        "no node of the model matches the pattern `{0}` in exclude; the model's layers (its page, `/layers` of the API) have their names"
    )]
    UnmatchedExclusion(String),
    #[error(
        "no node with a kernel matches the pattern `{0}` in keep; the model's layers (its page, `/layers` of the API) have their names"
    )]
    UnmatchedKeep(String),
    #[error("keep names channel {channel} of `{node}`, which has {channels}, counted from 0")]
    KeptOutside {
        node: String,
        channel: usize,
        channels: usize,
    },
    #[error("the channels of the convolution `{node}` can't be shared out to {groups} groups")]
    Indivisible { node: String, groups: usize },
    #[error("cells can't take the place of what the model computes: {0}")]
    NoCells(String),
    #[error("the model has more weights than candidates can share (2.1 billion)")]
    TooManyWeights,
    #[error("nothing can be pruned: {0}")]
    NothingPrunable(String),
}

/// Node names that a request leaves alone.
pub struct Exclusion(globset::GlobSet);

impl Exclusion {
    /// From validated patterns; one that does not parse matches nothing.
    pub fn new(patterns: &[String]) -> Self {
        let mut set = globset::GlobSetBuilder::new();
        for pattern in patterns {
            if let Ok(glob) = globset::Glob::new(pattern) {
                set.add(glob);
            }
        }
        Self(set.build().unwrap_or_else(|_| globset::GlobSet::empty()))
    }

    /// The first of `patterns` that no node of `graph` matches.
    pub fn unmatched<'a>(patterns: &'a [String], graph: &Graph) -> Option<&'a str> {
        patterns.iter().map(String::as_str).find(|pattern| {
            globset::Glob::new(pattern).is_ok_and(|glob| {
                let matcher = glob.compile_matcher();
                !graph
                    .nodes
                    .iter()
                    .any(|node| matcher.is_match(node.label()))
            })
        })
    }

    pub fn covers(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

/// Which nodes' channels or blocks can't go, in words, in the order of the graph.
fn blocked(graph: &Graph, reasons: &BTreeMap<usize, String>) -> Vec<Blocked> {
    reasons
        .iter()
        .map(|(&node, reason)| Blocked {
            layer: graph.nodes[node].label().to_owned(),
            reason: reason.clone(),
        })
        .collect()
}

/// The given targets by name.
pub fn asked(target: &Target) -> BTreeMap<String, f64> {
    target
        .given()
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Four significant digits, of what is tiny with its power of ten.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        tiny if tiny > 0.0 && tiny < 1e-4 => format!("{value:.3e}"),
        _ => rounded(value, 4).to_string(),
    }
}
