//! The smallest model that is good enough, by bisection.

use serde::{Deserialize, Serialize};

use crate::data::Role;
use crate::engine::child::Ended;
use crate::engine::job::Job;
use crate::graph::{Graph, cost_of_one};
use crate::prune::{PruneError, asked, short};
use crate::spec::Problem;
use crate::spec::child::Level;
use crate::spec::evaluate::MetricName;
use crate::spec::prune::{Granularity, MOST_TRIALS, PruneParams, Target, Worsening};
use crate::spec::result::{PruneOutcome, PruneStage, PruneTrial, StageName, rounded};

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
    /// Why the target can't be reached, where it can't.
    #[serde(default)]
    limit: Option<String>,
}

impl Job<'_> {
    /// Prunes `graph` as far as a metric of the validation split allows, which the target called `name` is about: trials
    /// with less and less left, each with its recovery and fine-tuning.
    pub(super) fn prune_within(
        &mut self,
        key: &str,
        graph: Graph,
        params: &PruneParams,
        (name, allowed): (&'static str, Worsening),
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
        let value = self.value(&graph, allowed.metric)?;
        let value = value.ok_or_else(|| {
            let metric = allowed.metric.as_str().replace('_', " ");
            let detail = format!(
                "{name} is held against the {metric} on a validation split: it needs a data set with a target for which \
                 that has a finite value, and data.validation_fraction above 0"
            );
            Ended::Failed(Problem::new(422, "invalid_request", detail))
        })?;
        let judges = self
            .data
            .as_ref()
            .map_or(0, |data| data.count(Role::Validation));
        let one = 1.0 / judges.max(1) as f64;
        if allowed.metric == MetricName::Accuracy && allowed.by < one {
            let (one, by) = (short(one), short(allowed.by));
            let text = format!(
                "one of the {judges} validation examples is {one} of accuracy, more than the {by} that it may fall: a single example decides \
                 whether a model is good enough; raise data.validation_fraction"
            );
            self.warn("limit_finer_than_validation", text, serde_json::Value::Null);
        }
        let of_weights = params.granularity == Granularity::Weight;
        let others = params.target.of_graph();
        // What is left of the best and of the worst: a ratio of weights or multiply-accumulates.
        let (mut good, mut bad) = (1.0f64, 0.0f64);
        let mut found = None;
        let mut trials = Vec::new();
        let mut limit = None;
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
                        self.trial(&stage, &graph, params, &target, (allowed, value), sought)?;
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
                return Err(PruneError::TooBad {
                    target: name.to_owned(),
                    allowed: allowed.by,
                    tried: "the model that meets the other targets".to_owned(),
                    least: tried.trial.worsening,
                    hint: "; ask for less of those, or for more epochs of finetune",
                }
                .into());
            } else {
                bad = left;
                limit = tried.limit;
            }
            trials.push(tried.trial);
        }
        let (Some(outcome), Some(pruned)) = (found, self.journal.kept(&best)) else {
            let found = trials.iter().filter_map(|trial| trial.worsening);
            return Err(PruneError::TooBad {
                target: name.to_owned(),
                allowed: allowed.by,
                tried: format!(
                    "the best of {} trials on {judges} validation examples",
                    trials.len()
                ),
                least: found.reduce(f64::min),
                hint: "; more epochs of finetune or examples of calibration may help",
            }
            .into());
        };
        let pruned = self.pinned(Some(pruned), graph);
        self.journal.forget(&whole);
        self.journal.forget(&best);
        let last = trials.iter().rfind(|trial| trial.within);
        let mut reached = outcome.reached;
        reached.extend(last.and_then(|trial| Some((name.to_owned(), trial.worsening?))));
        let outcome = PruneOutcome {
            asked: asked(&params.target),
            reached,
            trials,
            judged_by: Some(allowed.metric),
            limited_by: limit,
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
        (allowed, value): (Worsening, f64),
        sought: Option<f64>,
    ) -> Result<(Graph, Tried), Ended> {
        let own = PruneParams {
            target: target.clone(),
            ..params.clone()
        };
        let mut trial = PruneTrial {
            asked: asked(target),
            reached: Default::default(),
            worsening: None,
            within: false,
        };
        let recovered = format!("{stage}/recovered");
        let (mut pruned, mut outcome) =
            match self.prune_to(stage, graph.clone(), &own, Some(&recovered)) {
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
                        limit: Some(smallest(&problem)),
                    };
                    return Ok((graph.clone(), tried));
                }
                Err(other) => return Err(other),
            };
        trial.reached.clone_from(&outcome.reached);
        let metric = allowed.metric.as_str().replace('_', " ");
        let mut value_found = self.value(&pruned, allowed.metric)?;
        let before = self.journal.kept(&recovered);
        self.journal.forget(&recovered);
        let mut left_out = "";
        if let Some(before) = before.map(|before| self.pinned(Some(before), graph.clone()))
            && let Some(earlier) = self.value(&before, allowed.metric)?
            && value_found.is_none_or(|after| match allowed.metric.rises() {
                true => earlier > after,
                false => earlier < after,
            })
        {
            // A learning rate that is too large for what was trained already does that.
            (pruned, value_found) = (before, Some(earlier));
            let last = params.schedule.steps;
            let is_left_out =
                |found: &PruneStage| found.stage == StageName::Finetuned && found.step == last;
            outcome.stages.retain(|found| !is_left_out(found));
            left_out = "; its fine-tuning made it worse and is left out, which a smaller optimizer.learning_rate would not";
        }
        let told = match value_found {
            // A model without a value, as one of constant outputs has no correlation, is not good enough.
            None => format!("{metric} on the validation split has no finite value"),
            Some(found) => {
                let worse = match allowed.metric.rises() {
                    true => value - found,
                    false => found - value,
                };
                // The rounding of a difference is no loss, and no digits to show.
                let slack = 1e-12 * value.abs().max(found.abs());
                trial.worsening = Some(rounded(worse, 9));
                trial.within = worse <= allowed.by + slack;
                match short((found - value).abs()).as_str() {
                    "0" => format!("{metric} on the validation split stayed as it was"),
                    by => format!(
                        "{metric} on the validation split {} by {by}",
                        if found < value { "fell" } else { "rose" }
                    ),
                }
            }
        };
        let told = told + left_out;
        self.voice
            .event(Level::Info, "trial", told, serde_json::json!(trial));
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
                limit: None,
            },
        ))
    }

    /// The metric on the validation split; `None` without one, and where it has no finite value.
    fn value(&self, graph: &Graph, metric: MetricName) -> Result<Option<f64>, Ended> {
        let metrics = self.validated(graph, Some(metric))?;
        Ok(metrics.and_then(|metrics| metrics.get(metric.as_str()).copied()))
    }
}

/// Why nothing smaller was made, without the target that was tried for it, which nobody asked for.
fn smallest(unreachable: &Problem) -> String {
    let detail = &unreachable.detail;
    let found = detail.split_once(" can't be reached: ");
    match found.and_then(|(asked, why)| Some((asked.split_once(' ')?.0, why))) {
        Some((target, why)) => why.replacen(" it is ", &format!(" the {target} is "), 1),
        None => detail.clone(),
    }
}
