//! What of a job can be told to be impossible by its model alone, before it waits in the queue.

use super::child::Ended;
use super::data_fit::pin;
use super::distill_step::student_cuts;
use super::job::load;
use super::{predict, prune_step, search_step};
use crate::exec::Device;
use crate::graph::Graph;
use crate::prune::{Exclusion, PruneError};
use crate::spec::Problem;
use crate::spec::child::{JobInputs, Message};
use crate::spec::fit::InferredData;
use crate::spec::job::Params;
use crate::spec::problem::FieldError;
use crate::spec::prune::{Criterion, PruneParams};

/// Refuses what no training, data or measurement could make possible: a target below what is left when everything has gone
/// that may go, a granularity that the model has nothing of, a space without a choice or without a candidate.
///
/// `about` pins the shapes that the model leaves open. Of a pipeline the first step is looked at, since the others get
/// another model.
pub(super) fn check(inputs: &JobInputs, about: Option<&InferredData>) -> Result<Message, Ended> {
    let (mut graph, params) = load(inputs)?;
    if let Some(about) = about {
        pin(&mut graph, about);
    }
    if let (Some(about), Some(length)) = (about, inputs.request.data.preprocess.max_length) {
        // How many places a model has for tokens shows when it is asked about them.
        predict::tried(&graph, about).map_err(|problem| {
            let at = "/data/preprocess/max_length";
            let detail = format!(
                "the model can't be given {length} tokens: {}",
                problem.detail
            );
            Problem::invalid(vec![FieldError::new(at, detail)]).with_code("data_misfit")
        })?;
    }
    graph.settle_weights();
    let seed = inputs.request.seed;
    let first = match &params {
        Params::Pipeline(steps) => steps.first(),
        single => Some(single),
    };
    match first {
        Some(Params::Prune(prune)) => {
            let at = match &params {
                Params::Pipeline(_) => "/params/steps/0/params",
                _ => "/params",
            };
            let file_bytes = std::fs::metadata(&inputs.model)?.len() as usize;
            pruning(&graph, Some(file_bytes), prune, seed).map_err(|error| placed(error, at))?;
        }
        Some(Params::Distill(params)) => {
            let mut cuts = params
                .student
                .iter()
                .flat_map(|own| student_cuts(own, false));
            // The second one has another graph.
            if let Some(cut) = cuts.next() {
                pruning(&graph, None, &cut.params, seed).map_err(|error| cut.explained(error))?;
            }
        }
        Some(Params::Search { search, .. }) => search_step::check(&graph, search, seed)?,
        _ => {}
    }
    Ok(Message::Checked)
}

/// With the pointer of the parameter that it is about, where the message names one. `at` is the pointer of a pruning's
/// parameters.
pub(super) fn placed(error: Ended, at: &str) -> Ended {
    let Ended::Failed(mut problem) = error else {
        return error;
    };
    let detail = &problem.detail;
    let place = match problem.code.as_str() {
        "target_unreachable" => detail
            .split_once(" of ")
            .map(|(name, _)| format!("target/{name}")),
        "invalid_request" => ["exclude", "keep"]
            .into_iter()
            .find(|name| {
                detail.contains(&format!(" in {name};"))
                    || detail.starts_with(&format!("{name} names"))
            })
            .map(str::to_owned),
        _ => None,
    };
    if let (Some(place), true) = (place, problem.errors.is_empty()) {
        let fault = FieldError::new(format!("{at}/{place}"), detail.clone());
        problem.errors.push(fault);
    }
    Ended::Failed(problem)
}

fn pruning(
    graph: &Graph,
    file_bytes: Option<usize>,
    params: &PruneParams,
    seed: u64,
) -> Result<(), Ended> {
    if params.granularity.has_zeros() {
        return match Exclusion::unmatched(&params.exclude, graph) {
            None => Ok(()),
            Some(pattern) => {
                let error = PruneError::UnmatchedExclusion(pattern.to_owned());
                Err(Ended::Failed(error.into()))
            }
        };
    }
    let mut params = params.clone();
    // These are measured, and what a criterion thinks of examples does not change what can go.
    params.target = params.target.of_graph();
    params.target.latency_ratio = None;
    if params.criterion.needs_data() {
        params.criterion = Criterion::Magnitude;
    }
    prune_step::plan(
        graph,
        file_bytes,
        &params,
        None,
        &Device::open("cpu")?,
        seed,
    )
    .map(|_| ())
}
