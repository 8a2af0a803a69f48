//! Parameters of `pipeline`: steps, each on the model of the step before.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::job::{JobKind, Params};
use super::problem::{FieldError, Problem, parse};

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
    /// The steps with their parameters read; pointers are relative to this object.
    pub fn steps(&self) -> Result<Vec<Params>, Problem> {
        let at = |index: usize| format!("/steps/{index}");
        if self.steps.is_empty() || self.steps.len() > 32 {
            return Err(Problem::invalid(vec![FieldError::new(
                "/steps",
                "needs 1 to 32 steps",
            )]));
        }
        let mut steps = Vec::with_capacity(self.steps.len());
        for (index, step) in self.steps.iter().enumerate() {
            if matches!(step.kind, JobKind::Pipeline | JobKind::Search) {
                let kind = step.kind.as_str();
                return Err(Problem::invalid(vec![FieldError::new(
                    format!("{}/kind", at(index)),
                    format!("a {kind} can't be a step; ask for it as a job of its own"),
                )]));
            }
            // `Params::parse` points from the job (`/kind`, `/params/…`), here from the step.
            let params = Params::parse(step.kind, step.params.clone()).map_err(|problem| {
                let code = problem.code;
                Problem::invalid_under(&at(index), problem.errors).with_code(&code)
            })?;
            steps.push(params);
        }
        Ok(steps)
    }

    pub(super) fn read(value: serde_json::Value) -> Result<Self, Vec<FieldError>> {
        parse(value)
    }
}
