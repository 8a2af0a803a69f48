//! What hyperparameters can be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::problem::{Faults, FieldError, escape};
use crate::search::space::{Dimension, Domain, Space, When};

/// What one hyperparameter can be: exactly one of `choice`, `uniform`, `log_uniform`, `int` and `log_int`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Range {
    /// One of these values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<Vec<Value>>,
    /// A number from the first to the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uniform: Option<[f64; 2]>,
    /// The same, its logarithm evenly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_uniform: Option<[f64; 2]>,
    /// A whole number from the first to the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub int: Option<[i64; 2]>,
    /// The same, its logarithm evenly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_int: Option<[i64; 2]>,
    /// By the name of a hyperparameter with a `choice`: only where that is one of these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub when: BTreeMap<String, Vec<Value>>,
}

impl Range {
    /// Whole steps within which numbers of 64 bits are exact.
    const MOST: i64 = 1 << 52;

    /// Each of them is tried out when the job is posted.
    const MOST_CHOICES: usize = 256;

    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        let given = [
            self.choice.is_some(),
            self.uniform.is_some(),
            self.log_uniform.is_some(),
            self.int.is_some(),
            self.log_int.is_some(),
        ];
        faults.require(
            given.into_iter().filter(|&given| given).count() == 1,
            "",
            "must have exactly one of `choice`, `uniform`, `log_uniform`, `int` and `log_int`",
        );
        if let Some(values) = &self.choice {
            faults.require_value(!values.is_empty(), "/choice", "must have a value to choose");
            faults.require_value(
                values.len() <= Self::MOST_CHOICES,
                "/choice",
                format!("must have at most {} values", Self::MOST_CHOICES),
            );
            let few = &values[..values.len().min(Self::MOST_CHOICES)];
            let same = |a: &Value, b: &Value| a == b || (a.is_number() && a.as_f64() == b.as_f64());
            let is_there = |at: usize| few[..at].iter().any(|earlier| same(earlier, &few[at]));
            let twice = (1..few.len()).find(|&at| is_there(at));
            if let Some(at) = twice {
                faults.require_value(false, &format!("/choice/{at}"), "is there twice");
            }
        }
        for (name, ends, log) in [
            ("/uniform", self.uniform, false),
            ("/log_uniform", self.log_uniform, true),
        ] {
            if let Some([low, high]) = ends {
                faults.require_value(
                    low <= high && (high - low).is_finite(),
                    name,
                    "must go from a number to one that is not below it",
                );
                faults.require_value(!log || low > 0.0, name, "must begin above 0");
            }
        }
        for (name, ends, log) in [("/int", self.int, false), ("/log_int", self.log_int, true)] {
            if let Some([low, high]) = ends {
                faults.require_value(
                    low <= high && low > -Self::MOST && high < Self::MOST,
                    name,
                    "must go from a whole number below 2^52 to one that is not below it",
                );
                faults.require_value(!log || low > 0, name, "must begin above 0");
            }
        }
        faults
    }

    fn domain(&self) -> Domain {
        let of = |ends: [f64; 2], log| Domain::Uniform {
            low: ends[0],
            high: ends[1],
            log,
        };
        let whole = |ends: [i64; 2], log| Domain::Int {
            low: ends[0],
            high: ends[1],
            log,
        };
        if let Some(ends) = self.uniform {
            of(ends, false)
        } else if let Some(ends) = self.log_uniform {
            of(ends, true)
        } else if let Some(ends) = self.int {
            whole(ends, false)
        } else if let Some(ends) = self.log_int {
            whole(ends, true)
        } else {
            let values = self.choice.as_deref().unwrap_or_default();
            let numbers: Option<Vec<f64>> = values.iter().map(Value::as_f64).collect();
            let ordered = numbers.is_some_and(|numbers| numbers.is_sorted());
            Domain::Choice {
                count: values.len(),
                ordered: ordered && values.len() > 2,
            }
        }
    }

    /// How many values there are; `None` for infinitely many.
    pub fn size(&self) -> Option<f64> {
        self.domain().size()
    }

    /// Values by which a mistake shows: all of a choice, the ends of numbers.
    pub fn examples(&self) -> Vec<Value> {
        let ends = |ends: [f64; 2]| ends.map(Value::from).to_vec();
        let whole = |ends: [i64; 2]| ends.map(Value::from).to_vec();
        let choice = self.choice.clone();
        choice
            .or(self.uniform.or(self.log_uniform).map(ends))
            .or(self.int.or(self.log_int).map(whole))
            .unwrap_or_default()
    }

    /// The value that a coordinate stands for.
    pub fn value(&self, coordinate: f64) -> Value {
        match (&self.choice, self.int.or(self.log_int)) {
            (Some(values), _) => values.get(coordinate as usize).cloned().unwrap_or_default(),
            (None, Some(_)) => Value::from(coordinate as i64),
            (None, None) => Value::from(coordinate),
        }
    }
}

/// Names with what they can be. They are chosen in the order of names, those that others wait for first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct Hyperparameters(pub BTreeMap<String, Range>);

impl Hyperparameters {
    const MOST: usize = 64;

    /// What stands in the place of a [`Range`] and is none, as people first write it. In `given` it becomes a choice, so that
    /// what else is wrong with it is found, too.
    pub(super) fn misread(given: &mut Value) -> Vec<FieldError> {
        let Some(fields) = given.as_object_mut() else {
            return Vec::new();
        };
        let mut faults = Vec::new();
        for (name, value) in fields {
            let detail = match value {
                Value::Object(_) => continue,
                Value::Array(items) => {
                    let text = match items.len() {
                        ..=8 => Value::Array(items.clone()).to_string(),
                        _ => "[…]".to_owned(),
                    };
                    let ends: Vec<f64> = items.iter().filter_map(Value::as_f64).collect();
                    let kinds: &[&str] = match (items.len(), ends.as_slice()) {
                        (2, [low, high]) if *low > 0.0 && low < high => {
                            &["log_uniform", "uniform", "choice"]
                        }
                        (2, [low, high]) if low < high => &["uniform", "choice"],
                        _ => &["choice"],
                    };
                    let shown: Vec<String> = kinds
                        .iter()
                        .map(|kind| format!("{{\"{kind}\": {text}}}"))
                        .collect();
                    format!("must say what the list is: {}", shown.join(" or "))
                }
                _ => "must be an object such as {\"choice\": [1, 2]} or {\"log_uniform\": [0.0001, 0.1]}"
                    .to_owned(),
            };
            if faults.len() < Self::MOST {
                faults.push(FieldError::new(format!("/{}", escape(name)), detail));
            }
            let mut choices = match value.take() {
                Value::Array(items) => items,
                single => vec![single],
            };
            choices.truncate(Self::MOST);
            *value = serde_json::json!({"choice": choices});
        }
        faults
    }

    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        faults.require_value(
            self.0.len() <= Self::MOST,
            "",
            format!("must be at most {}", Self::MOST),
        );
        for (name, range) in self.0.iter().take(Self::MOST) {
            let pointer = format!("/{}", escape(name));
            faults.require_value(
                name.len() <= 200 && name.split('.').count() <= 16,
                &pointer,
                "must have at most 200 bytes, and at most 16 parts with dots between",
            );
            faults.extend_under(&pointer, range.faults());
            for (other, values) in &range.when {
                let place = format!("{pointer}/when/{}", escape(other));
                let choice = self.0.get(other).and_then(|range| range.choice.as_ref());
                let Some(choice) = choice.filter(|_| other != name) else {
                    faults.require(
                        false,
                        &place,
                        "must name another hyperparameter with a `choice`",
                    );
                    continue;
                };
                faults.require(
                    !values.is_empty() && values.iter().all(|value| choice.contains(value)),
                    &place,
                    "must have some of the values of that choice",
                );
                let waits = self
                    .0
                    .get(other)
                    .is_some_and(|other| !other.when.is_empty());
                faults.require(!waits, &place, "waits for another one itself");
            }
            faults.require(
                range.when.len() <= 1,
                &format!("{pointer}/when"),
                "must name one hyperparameter at most",
            );
        }
        faults
    }

    /// Names in the order of the space's dimensions.
    pub fn order(&self) -> Vec<&str> {
        let by = |waits: bool| {
            let own = self
                .0
                .iter()
                .filter(move |(_, range)| range.when.is_empty() != waits);
            own.map(|(name, _)| name.as_str())
        };
        by(false).chain(by(true)).collect()
    }

    /// The space of these, in [`Hyperparameters::order`].
    pub fn space(&self) -> Space {
        let order = self.order();
        let dimension = |&name: &&str| {
            let range = &self.0[name];
            let when = range.when.iter().next().and_then(|(other, values)| {
                let choice = self.0.get(other)?.choice.as_ref()?;
                Some(When {
                    dimension: order.iter().position(|name| name == other)?,
                    choices: (0..choice.len())
                        .filter(|&index| values.contains(&choice[index]))
                        .collect(),
                })
            });
            Dimension {
                name: name.to_owned(),
                domain: range.domain(),
                when,
            }
        };
        Space {
            dimensions: order.iter().map(dimension).collect(),
        }
    }
}
