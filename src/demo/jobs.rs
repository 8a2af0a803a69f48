//! What the demo asks the service to do.

use serde_json::{Value, json};

/// One job of the demo.
pub(super) struct DemoJob {
    pub kind: &'static str,
    /// Names the job, its row in the table and its folder of artifacts.
    pub name: &'static str,
    pub params: Value,
}

/// The jobs in the order of the table. With 1,293 digits to train on, an epoch takes well under a
/// second.
pub(super) fn planned() -> Vec<DemoJob> {
    vec![
        DemoJob {
            kind: "evaluate",
            name: "evaluate",
            params: json!({"metrics": ["loss", "accuracy", "f1"]}),
        },
        DemoJob {
            kind: "prune",
            name: "half-the-macs",
            params: json!({
                "granularity": "channel",
                "target": {"macs_ratio": 0.5},
                "schedule": {"steps": 2},
                "finetune": finetune(16),
            }),
        },
        DemoJob {
            kind: "prune",
            name: "nine-of-ten-weights-zero",
            params: json!({
                "granularity": "weight",
                "target": {"sparsity": 0.9},
                "schedule": {"steps": 4, "curve": "cubic"},
                "finetune": finetune(20),
            }),
        },
        DemoJob {
            kind: "pipeline",
            name: "quarter-of-the-macs",
            params: json!({"steps": [
                {"kind": "prune", "params": {
                    "granularity": "channel",
                    "target": {"macs_ratio": 0.25},
                    "schedule": {"steps": 2},
                    "finetune": finetune(12),
                }},
                {"kind": "train", "params": finetune(12)},
            ]}),
        },
    ]
}

fn finetune(epochs: u32) -> Value {
    json!({
        "epochs": epochs,
        "optimizer": {"name": "adamw", "learning_rate": 0.001, "weight_decay": 0.01},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::job::{JobKind, Params};
    use crate::spec::problem::parse;

    #[test]
    fn the_service_accepts_the_parameters_of_every_job() {
        for job in planned() {
            let kind: JobKind = parse(json!(job.kind)).unwrap();
            let parsed = Params::parse(kind, job.params);
            assert!(parsed.is_ok(), "{}: {}", job.name, parsed.unwrap_err());
        }
    }
}
