//! The smallest model that is good enough, by bisection.

use serde::{Deserialize, Serialize};

use crate::engine::child::Ended;
use crate::engine::job::Job;
use crate::graph::{Graph, cost_of_one};
use crate::prune::{PruneError, asked};
use crate::spec::Problem;
use crate::spec::child::Level;
use crate::spec::evaluate::MetricName;
use crate::spec::prune::{Granularity, MOST_TRIALS, PruneParams, Target};
use crate::spec::result::{PruneOutcome, PruneTrial};

/// The search ends when what is left of the best model and of the largest one that is too small are as near as
/// this, as a ratio.
const NEAR: f64 = 1.05;

/// A trial and, of one that is within the drop, what its pruning found.
#[derive(Serialize, Deserialize)]
struct Tried {
    trial: PruneTrial,
    /// Of the weights or multiply-accumulates: what is left.
    left: f64,
    outcome: Option<PruneOutcome>,
}

impl Job<'_> {
    /// Prunes `graph` as far as the accuracy on the validation split allows: trials with less and less left,
    /// each with its recovery and fine-tuning.
    pub(super) fn prune_within(
        &mut self,
        key: &str,
        graph: Graph,
        params: &PruneParams,
        drop: f64,
    ) -> Result<(Graph, PruneOutcome), Ended> {
        let (whole, best) = (format!("{key}/whole"), format!("{key}/best"));
        let stage = format!("{key}/outcome");
        if let Some((kept, outcome)) = self.journal.recall(&stage) {
            return Ok((self.pinned(kept, graph), outcome));
        }
        let graph = match self.journal.kept(&whole) {
            Some(kept) => self.pinned(Some(kept), graph),
            None => {
                self.journal.keep(&whole, &graph);
                graph
            }
        };
        let accuracy = self.accuracy(&graph)?;
        let of_weights = params.granularity == Granularity::Weight;
        let others = Target {
            max_accuracy_drop: None,
            ..params.target.clone()
        };
        // What is left of the best and of the worst: a ratio of weights or multiply-accumulates.
        let (mut good, mut bad) = (1.0f64, 0.0f64);
        let mut found = None;
        let mut trials = Vec::new();
        for number in 0..MOST_TRIALS {
            let first_with_others = number == 0 && !others.given().is_empty();
            if !first_with_others && bad > 0.0 && good / bad <= NEAR {
                break;
            }
            let left = match bad > 0.0 {
                true => (good * bad).sqrt(),
                false => good / 2.0,
            };
            let sought = (!first_with_others).then_some(left);
            let mut target = others.clone();
            match (first_with_others, of_weights) {
                (true, _) => {}
                (false, true) => target.sparsity = Some(1.0 - left),
                (false, false) => target.macs_ratio = Some(left),
            }
            let stage = format!("{key}/trial{number}");
            let tried: Tried = match self.journal.recall(&stage) {
                Some((_, tried)) => tried,
                None => {
                    let smaller = found.is_none() || left < good;
                    let (pruned, tried) =
                        self.trial(&stage, &graph, params, &target, (accuracy, drop), sought)?;
                    if tried.trial.within && smaller {
                        self.journal.keep(&best, &pruned);
                    }
                    self.journal.record(&stage, &tried, &pruned)?;
                    self.check_drain()?;
                    tried
                }
            };
            if tried.trial.within {
                good = tried.left;
                found = tried.outcome.or(found);
            } else if first_with_others {
                return Err(PruneError::Unreachable {
                    target: "max_accuracy_drop".to_owned(),
                    asked: drop,
                    nearest: tried.trial.accuracy_drop.unwrap_or(f64::NAN),
                    hint: " (with the other targets met)".to_owned(),
                }
                .into());
            } else {
                bad = left;
            }
            trials.push(tried.trial);
        }
        let (Some(outcome), Some(pruned)) = (found, self.journal.kept(&best)) else {
            let drops = trials.iter().filter_map(|trial| trial.accuracy_drop);
            return Err(PruneError::Unreachable {
                target: "max_accuracy_drop".to_owned(),
                asked: drop,
                nearest: drops.fold(f64::INFINITY, f64::min),
                hint: format!(
                    " (the least drop of {} trials; more epochs of finetune or examples of calibration \
                     may help)",
                    trials.len()
                ),
            }
            .into());
        };
        let pruned = self.pinned(Some(pruned), graph);
        self.journal.forget(&whole);
        self.journal.forget(&best);
        let reached_drop = trials
            .iter()
            .rfind(|trial| trial.within)
            .and_then(|trial| trial.accuracy_drop);
        let mut reached = outcome.reached;
        reached.extend(reached_drop.map(|drop| ("max_accuracy_drop".to_owned(), drop)));
        let outcome = PruneOutcome {
            asked: asked(&params.target),
            reached,
            trials,
            ..outcome
        };
        self.journal.record(&stage, &outcome, &pruned)?;
        Ok((pruned, outcome))
    }

    /// Prunes to `target`; `sought` is what would be left, `None` where a target that is out of reach ends the
    /// job.
    fn trial(
        &mut self,
        stage: &str,
        graph: &Graph,
        params: &PruneParams,
        target: &Target,
        (accuracy, drop): (f64, f64),
        sought: Option<f64>,
    ) -> Result<(Graph, Tried), Ended> {
        let own = PruneParams {
            target: target.clone(),
            ..params.clone()
        };
        let mut trial = PruneTrial {
            asked: asked(target),
            reached: Default::default(),
            accuracy_drop: None,
            within: false,
        };
        let (pruned, outcome) = match self.prune_to(stage, graph.clone(), &own) {
            Ok(found) => found,
            // As far as this it does not go; the search goes on above.
            Err(Ended::Failed(problem)) if problem.code == "target_unreachable" => {
                let Some(left) = sought else {
                    return Err(Ended::Failed(problem));
                };
                let tried = Tried {
                    trial,
                    left,
                    outcome: None,
                };
                return Ok((graph.clone(), tried));
            }
            Err(other) => return Err(other),
        };
        let lost = accuracy - self.accuracy(&pruned)?;
        trial.reached.clone_from(&outcome.reached);
        trial.accuracy_drop = Some(lost);
        // The rounding of a sum is no loss.
        trial.within = lost <= drop + 1e-9;
        self.voice.event(
            Level::Info,
            "trial",
            format!(
                "accuracy {} by {:.4}",
                if lost > 0.0 { "fell" } else { "rose" },
                lost.abs()
            ),
            serde_json::json!(trial),
        );
        let ratio = |after: u64, before: u64| after as f64 / before.max(1) as f64;
        let (before, after) = (cost_of_one(graph), cost_of_one(&pruned));
        let left = match params.granularity {
            Granularity::Weight => {
                let zeros = outcome.reached.get("sparsity").copied();
                zeros.map_or(sought.unwrap_or(1.0), |zeros| 1.0 - zeros)
            }
            _ => ratio(after.macs.unwrap_or(0), before.macs.unwrap_or(0)),
        };
        let outcome = trial.within.then_some(outcome);
        Ok((
            pruned,
            Tried {
                trial,
                left,
                outcome,
            },
        ))
    }

    /// Accuracy on the validation split.
    fn accuracy(&self, graph: &Graph) -> Result<f64, Ended> {
        let name = MetricName::Accuracy.as_str();
        let metrics = self.validated(graph)?;
        let found = metrics.and_then(|metrics| metrics.get(name).copied());
        found.ok_or_else(|| {
            let detail = "max_accuracy_drop is held against the accuracy on a validation split: it needs a data \
                          set with labels of classes and data.validation_fraction above 0";
            Ended::Failed(Problem::new(422, "invalid_request", detail))
        })
    }
}
