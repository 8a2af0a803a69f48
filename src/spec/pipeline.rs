//! Parameters of `pipeline`: steps, each on the model of the step before.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::job::{JobKind, Params};
use super::problem::{Faults, FieldError, read};

/// One step as it is posted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StepRequest {
    pub kind: JobKind,
    #[serde(default)]
    #[schema(value_type = Object)]
    pub params: serde_json::Value,
}

/// Parameters of a `pipeline` job as they are posted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineParams {
    /// One after another, each on what the one before made.
    pub steps: Vec<StepRequest>,
}

/// Puts a step that is none in the place of each of `params` that can't be read, so that the others are: what is wrong with
/// those, with pointers from `params`.
pub(super) fn misread_steps(params: &mut serde_json::Value) -> Vec<FieldError> {
    let mut faults = Vec::new();
    let steps = params
        .get_mut("steps")
        .and_then(|steps| steps.as_array_mut());
    for (index, step) in steps.into_iter().flatten().take(MOST_STEPS).enumerate() {
        let reading = read::<StepRequest>(step.clone());
        if reading.faults.is_empty() {
            continue;
        }
        *step = match &reading.value {
            Some(known) => serde_json::json!({"kind": known.kind, "params": known.params}),
            None => serde_json::json!({"kind": JobKind::Train}),
        };
        let found = reading.faults.into_iter();
        faults.extend(found.map(|fault| fault.under(&format!("/steps/{index}"))));
    }
    faults
}

const MOST_STEPS: usize = 32;

impl PipelineParams {
    /// The steps with their parameters read, where all can be, and every fault; pointers are relative to this object.
    pub fn steps(&self) -> (Option<Vec<Params>>, Faults) {
        let mut faults = Faults::default();
        faults.require_value(
            (1..=MOST_STEPS).contains(&self.steps.len()),
            "/steps",
            "needs 1 to 32 steps",
        );
        let mut steps = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.iter().take(MOST_STEPS).enumerate() {
            let at = format!("/steps/{index}");
            if matches!(step.kind, JobKind::Pipeline | JobKind::Search) {
                let kind = step.kind.as_str();
                let detail = format!("a {kind} can't be a step; ask for it as a job of its own");
                faults.require_value(false, &format!("{at}/kind"), detail);
                continue;
            }
            // `Params::read` points from the job (`/kind`, `/params/…`), here from the step.
            let (params, found) = Params::read(step.kind, step.params.clone());
            faults.extend_under(&at, found);
            steps.extend(params);
        }
        let all = steps.len() == self.steps.len();
        (all.then_some(steps), faults)
    }
}
