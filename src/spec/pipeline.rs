//! Parameters of `pipeline`: steps, each on the model of the step before.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::job::{JobKind, Params};
use super::problem::Faults;

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

impl PipelineParams {
    /// The steps with their parameters read, where all can be, and every fault; pointers are relative to this object.
    pub fn steps(&self) -> (Option<Vec<Params>>, Faults) {
        let mut faults = Faults::default();
        faults.require(
            (1..=32).contains(&self.steps.len()),
            "/steps",
            "needs 1 to 32 steps",
        );
        let mut steps = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.iter().take(32).enumerate() {
            let at = format!("/steps/{index}");
            if matches!(step.kind, JobKind::Pipeline | JobKind::Search) {
                let kind = step.kind.as_str();
                let detail = format!("a {kind} can't be a step; ask for it as a job of its own");
                faults.require(false, &format!("{at}/kind"), detail);
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
