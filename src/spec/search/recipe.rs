//! Hyperparameters put into their places: what is done to a candidate.

use serde_json::Value;

use super::SearchParams;
use crate::spec::job::{JobKind, Params};
use crate::spec::pipeline::{PipelineParams, StepRequest};
use crate::spec::problem::{Faults, FieldError, parse_part};
use crate::spec::train::TrainParams;

/// What is done to a candidate.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recipe {
    /// The job's where `None`.
    pub batch_size: Option<u32>,
    pub steps: Vec<Params>,
}

/// Hyperparameters that have a short name for their place in `trial`.
const PLACES: [(&str, &str); 7] = [
    ("learning_rate", "optimizer.learning_rate"),
    ("weight_decay", "optimizer.weight_decay"),
    ("momentum", "optimizer.momentum"),
    ("nesterov", "optimizer.nesterov"),
    ("optimizer", "optimizer.name"),
    ("schedule", "schedule.name"),
    ("warmup_fraction", "schedule.warmup_fraction"),
];

impl SearchParams {
    /// Hyperparameters with these values, the others with their first one, where they count.
    fn settled<'a>(&'a self, given: &[(&str, Value)]) -> Vec<(&'a str, Value)> {
        let mut chosen: Vec<(&str, Value)> = Vec::new();
        for name in self.space.hyperparameters.order() {
            let range = &self.space.hyperparameters.0[name];
            let value_of = |other: &str| chosen.iter().find(|(name, _)| *name == other);
            let counts = range.when.iter().all(|(other, values)| {
                value_of(other).is_some_and(|(_, value)| values.contains(value))
            });
            let own = given.iter().find(|(other, _)| *other == name);
            let own = own.map(|(_, value)| value.clone());
            let first = || range.examples().into_iter().next();
            if let Some(value) = own.or_else(first).filter(|_| counts) {
                chosen.push((name, value));
            }
        }
        chosen
    }

    /// Hyperparameters by which mistakes show: each with every value of a choice and both ends of numbers, and
    /// every value of the one that it waits for; the others with their first. With the one that varies.
    #[expect(
        clippy::type_complexity,
        reason = "what varies, and all that is chosen"
    )]
    pub(super) fn examples(&self) -> Vec<((&str, Value), Vec<(&str, Value)>)> {
        let mut all = Vec::new();
        for (name, range) in &self.space.hyperparameters.0 {
            let waits = range.when.iter().next();
            let befores: Vec<Option<(&str, Value)>> = match waits {
                None => vec![None],
                Some((other, values)) => {
                    let of = |value: &Value| Some((other.as_str(), value.clone()));
                    values.iter().map(of).collect()
                }
            };
            for (at, value) in range.examples().into_iter().enumerate() {
                // One after the other, not each with each.
                let few = if at == 0 { befores.len() } else { 1 };
                for before in &befores[..few.min(befores.len())] {
                    let mut given = vec![(name.as_str(), value.clone())];
                    given.extend(before.clone());
                    all.push(((name.as_str(), value.clone()), self.settled(&given)));
                }
            }
        }
        all
    }

    /// Tries what hyperparameters can be in their places; the errors, one for each that it comes from.
    pub(super) fn tried(&self) -> Vec<(Option<(&str, Value)>, FieldError)> {
        let both = |chosen: &[(&str, Value)]| {
            self.recipe(chosen)?;
            self.finish(chosen)
        };
        if let Err(error) = both(&[]) {
            return vec![(None, error)];
        }
        let first = both(&self.settled(&[]));
        let mut found: Vec<(Option<(&str, Value)>, FieldError)> = Vec::new();
        for (varied, chosen) in self.examples() {
            let is_told = found
                .iter()
                .any(|(from, _)| from.as_ref().is_some_and(|(name, _)| *name == varied.0));
            let Err(error) = both(&chosen) else { continue };
            // Where they can't be together from the start, those are told that can't be by themselves.
            let alone = both(std::slice::from_ref(&varied));
            if !is_told && (first.is_ok() || alone.is_err()) {
                found.push((Some(varied), alone.err().unwrap_or(error)));
            }
        }
        match first {
            Err(error) if found.is_empty() => vec![(None, error)],
            _ => found,
        }
    }

    /// What is done to candidates and to the winner, with hyperparameters of every kind; each with the place of
    /// the parameters in this object.
    pub fn recipes(&self) -> Result<Vec<(String, Recipe)>, FieldError> {
        let mut all = vec![
            ("/trial".to_owned(), self.recipe(&[])?),
            ("/final".to_owned(), self.finish(&[])?),
        ];
        for ((name, _), chosen) in self.examples() {
            let place = format!("/space/hyperparameters/{name}");
            all.push((place.clone(), self.recipe(&chosen)?));
            all.push((place, self.finish(&chosen)?));
        }
        Ok(all)
    }

    /// Where a hyperparameter is put.
    pub(super) fn place_of<'a>(&self, name: &'a str) -> &'a str {
        let short = PLACES.iter().find(|(short, _)| *short == name);
        match (self.steps.is_empty(), short) {
            (true, Some((_, place))) => place,
            _ => name,
        }
    }

    /// The steps of a trial, where all can be read, and every fault.
    pub(super) fn pipeline(&self, steps: Vec<StepRequest>) -> (Option<Vec<Params>>, Faults) {
        let known = [JobKind::Train, JobKind::Prune, JobKind::Distill];
        let other = steps.iter().position(|step| !known.contains(&step.kind));
        if let Some(index) = other {
            let detail = "a trial can have steps of the kinds train, prune and distill";
            let mut faults = Faults::default();
            faults.require_value(false, &format!("/steps/{index}/kind"), detail);
            return (None, faults);
        }
        PipelineParams { steps }.steps()
    }

    /// What is done to a candidate with these hyperparameters.
    pub fn recipe(&self, chosen: &[(&str, Value)]) -> Result<Recipe, FieldError> {
        let trial = serde_json::to_value(&self.trial).expect("parameters are plain data");
        self.with(trial, "/trial", chosen)
    }

    /// What is done to the winner, which has these hyperparameters.
    pub fn finish(&self, chosen: &[(&str, Value)]) -> Result<Recipe, FieldError> {
        let mut trial = serde_json::to_value(&self.trial).expect("parameters are plain data");
        if self.shares_weights() {
            // Those of the model are where the shared ones began; the winner has its part of these.
            trial["weights"] = Value::from("keep");
        }
        for (name, value) in self.last.iter().flatten() {
            merge(&mut trial[name.as_str()], value);
        }
        self.with(trial, "/final", chosen)
    }

    fn with(
        &self,
        trial: Value,
        pointer: &str,
        chosen: &[(&str, Value)],
    ) -> Result<Recipe, FieldError> {
        let mut batch_size = None;
        let mut all = match self.steps.is_empty() {
            true => trial,
            false => serde_json::json!({ "steps": self.steps }),
        };
        for (name, value) in chosen {
            if *name == "batch_size" {
                let size = value.as_u64().filter(|size| (1..=65_536).contains(size));
                let refused = || FieldError::new("", "must be a whole number from 1 to 65536");
                batch_size = Some(size.ok_or_else(refused)? as u32);
                continue;
            }
            let place = self.place_of(name);
            let names_models = place.ends_with(".model") || place.contains(".teachers");
            if names_models || has_models(value) {
                let detail = "which models take part can't be searched; post a search for each";
                return Err(FieldError::new("", detail));
            }
            if !self.steps.is_empty() && !place.starts_with("steps.") {
                let detail =
                    "name the place beside `steps`, such as steps.0.params.finetune.epochs";
                return Err(FieldError::new("", detail));
            }
            put(&mut all, place, value)?;
        }
        if !self.steps.is_empty() {
            let read: PipelineParams = parse_part(all)?;
            let (steps, faults) = self.pipeline(read.steps);
            if let Some(first) = faults.found.into_iter().next() {
                return Err(first);
            }
            let steps = steps.unwrap_or_default();
            return Ok(Recipe { batch_size, steps });
        }
        let train: TrainParams = parse_part(all).map_err(|mut error| {
            if error.detail.starts_with("unknown field") {
                let short: Vec<String> =
                    PLACES.iter().map(|(name, _)| format!("`{name}`")).collect();
                error.detail.push_str(&format!(
                    "; as hyperparameters also `batch_size` and, for their places in these, {}",
                    short.join(", ")
                ));
            }
            error.under(pointer)
        })?;
        match train.faults().found.into_iter().next() {
            Some(error) => Err(error.under(pointer)),
            None => Ok(Recipe {
                batch_size,
                steps: vec![Params::Train(train)],
            }),
        }
    }
}

/// Whether a value names models.
fn has_models(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| name == "model" || name == "teachers" || has_models(value)),
        Value::Array(items) => items.iter().any(has_models),
        _ => false,
    }
}

/// Puts what is given into the places of objects, whole otherwise.
fn merge(into: &mut Value, given: &Value) {
    match (into, given) {
        (Value::Object(into), Value::Object(given)) => {
            for (name, value) in given {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, given) => *into = given.clone(),
    }
}

/// Puts a value into the place that is named from the outside in, with dots between.
fn put(json: &mut Value, place: &str, value: &Value) -> Result<(), FieldError> {
    let mut at = json;
    for part in place.split('.') {
        if at.is_null() {
            *at = Value::Object(serde_json::Map::new());
        }
        at = match at {
            Value::Object(fields) => fields.entry(part.to_owned()).or_insert(Value::Null),
            Value::Array(items) => {
                let count = items.len();
                // One place has one name.
                let index = part
                    .parse::<usize>()
                    .ok()
                    .filter(|at| at.to_string() == part);
                let item = index.and_then(|at| items.get_mut(at));
                item.ok_or_else(|| {
                    let detail = format!("`{part}` in `{place}` must be a number below {count}");
                    FieldError::new("", detail)
                })?
            }
            _ => {
                let detail =
                    format!("`{place}` names no place: there is nothing in it at `{part}`");
                return Err(FieldError::new("", detail));
            }
        };
    }
    *at = value.clone();
    Ok(())
}
