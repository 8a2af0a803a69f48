//! Parameters of `search` jobs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::problem::Faults;
use crate::search::architecture::activations;
use crate::search::space::{Dimension, Domain, Space, When};
use crate::search::strategy::genetic::Genetic;
use crate::search::strategy::greedy::Greedy;
use crate::search::strategy::halving::Halving;
use crate::search::strategy::tpe::Tpe;
use crate::search::strategy::{Exhaustive, Random, Strategy};

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
            faults.require(!values.is_empty(), "/choice", "must have a value to choose");
            let twice = (1..values.len()).find(|&at| values[..at].contains(&values[at]));
            if let Some(at) = twice {
                faults.require(false, &format!("/choice/{at}"), "is there twice");
            }
        }
        for (name, ends, log) in [
            ("/uniform", self.uniform, false),
            ("/log_uniform", self.log_uniform, true),
        ] {
            if let Some([low, high]) = ends {
                faults.require(
                    low <= high && low.is_finite() && high.is_finite(),
                    name,
                    "must go from a number to one that is not below it",
                );
                faults.require(!log || low > 0.0, name, "must begin above 0");
            }
        }
        for (name, ends, log) in [("/int", self.int, false), ("/log_int", self.log_int, true)] {
            if let Some([low, high]) = ends {
                faults.require(
                    low <= high && low > -Self::MOST && high < Self::MOST,
                    name,
                    "must go from a whole number below 2^52 to one that is not below it",
                );
                faults.require(!log || low > 0, name, "must begin above 0");
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
    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        for (name, range) in &self.0 {
            let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            faults.extend_under(&pointer, range.faults());
            for (other, values) in &range.when {
                let place = format!("{pointer}/when/{other}");
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

/// What can change. Architectures are made of the job's model.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSpace {
    /// Shares of the channels (neurons, heads) of each group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub width: Vec<f64>,
    /// Whether residual blocks may go.
    pub depth: bool,
    /// Sizes of square kernels of convolutions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kernel: Vec<u32>,
    /// Operators that take the place of an activation.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub activation: Vec<String>,
    /// Node names to leave alone, with `*` and `?`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    pub hyperparameters: Hyperparameters,
}

impl SearchSpace {
    /// Every fault, with pointers relative to this object.
    pub fn faults(&self) -> Faults {
        let mut faults = Faults::default();
        for (index, share) in self.width.iter().enumerate() {
            faults.require(
                *share > 0.0 && *share <= 1.0,
                &format!("/width/{index}"),
                "must be above 0 and at most 1",
            );
        }
        for (index, size) in self.kernel.iter().enumerate() {
            faults.require(
                (1..=31).contains(size),
                &format!("/kernel/{index}"),
                "must be from 1 to 31",
            );
        }
        let known: Vec<&str> = activations().collect();
        for (index, operator) in self.activation.iter().enumerate() {
            faults.require(
                known.contains(&operator.as_str()),
                &format!("/activation/{index}"),
                format!("must be one of {}", known.join(", ")),
            );
        }
        for (index, pattern) in self.exclude.iter().enumerate() {
            if let Err(error) = globset::Glob::new(pattern) {
                faults.require(false, &format!("/exclude/{index}"), error.to_string());
            }
        }
        faults.extend_under("/hyperparameters", self.hyperparameters.faults());
        faults
    }
}

/// How the next point is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum StrategyParams {
    /// At random, none twice: the control of all others.
    Random {},
    /// Hill climbing, one dimension at a time, with restarts.
    Greedy {},
    /// Aging evolution, or NSGA-II with several objectives.
    Genetic {
        #[serde(default = "default_population")]
        population: u32,
        /// Probability that a coordinate changes.
        #[serde(default = "default_mutation")]
        mutation: f64,
        /// Probability that a child has two parents.
        #[serde(default = "default_crossover")]
        crossover: f64,
    },
    /// Tree-structured Parzen estimator, over all dimensions at once.
    Tpe {
        /// Points at random before.
        #[serde(default = "default_first")]
        first: u32,
    },
    /// Short trainings of all trials; the best of each round train longer.
    SuccessiveHalving(HalvingParams),
    /// Successive halving with several lengths of the first round.
    Hyperband(HalvingParams),
    /// Every point of a finite space.
    Exhaustive {},
}

/// Rounds of longer and longer trainings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HalvingParams {
    /// What chooses the trials that begin.
    #[schema(no_recursion)]
    #[serde(default = "default_around")]
    pub around: Box<StrategyParams>,
    /// One of so many goes on, and trains so many times longer.
    #[serde(default = "default_eta")]
    pub eta: u32,
    /// When `null` as many as leave one, of `hyperband` four at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u32>,
}

fn default_population() -> u32 {
    16
}

fn default_mutation() -> f64 {
    0.1
}

fn default_crossover() -> f64 {
    0.3
}

fn default_first() -> u32 {
    10
}

fn default_around() -> Box<StrategyParams> {
    Box::new(StrategyParams::Random {})
}

fn default_eta() -> u32 {
    3
}

impl StrategyParams {
    /// Every fault, with pointers relative to this object, for so many objectives.
    pub fn faults(&self, objectives: usize) -> Faults {
        let mut faults = Faults::default();
        match self {
            Self::Random {} | Self::Exhaustive {} => {}
            Self::Greedy {} => faults.require(
                objectives <= 1,
                "/name",
                "`greedy` climbs by one objective; ask for `genetic` or `tpe` with several",
            ),
            Self::Genetic {
                population,
                mutation,
                crossover,
            } => {
                faults.require(
                    (2..=100_000).contains(population),
                    "/population",
                    "must be from 2 to 100000",
                );
                for (name, share) in [("/mutation", mutation), ("/crossover", crossover)] {
                    faults.require((0.0..=1.0).contains(share), name, "must be from 0 to 1");
                }
            }
            Self::Tpe { first } => {
                faults.require(
                    (1..=100_000).contains(first),
                    "/first",
                    "must be from 1 to 100000",
                );
            }
            Self::SuccessiveHalving(halving) | Self::Hyperband(halving) => {
                let HalvingParams {
                    around,
                    eta,
                    rounds,
                } = halving;
                faults.require((2..=16).contains(eta), "/eta", "must be from 2 to 16");
                faults.require(
                    rounds.is_none_or(|rounds| (1..=16).contains(&rounds)),
                    "/rounds",
                    "must be from 1 to 16",
                );
                let plain = matches!(
                    **around,
                    Self::Random {} | Self::Genetic { .. } | Self::Tpe { .. }
                );
                faults.require(plain, "/around", "must be `random`, `genetic` or `tpe`");
                faults.extend_under("/around", around.faults(objectives));
            }
        }
        faults
    }

    /// The strategy, for so many trials.
    pub fn build(&self, trials: usize) -> Box<dyn Strategy> {
        match self {
            Self::Random {} => Box::new(Random),
            Self::Exhaustive {} => Box::new(Exhaustive),
            Self::Greedy {} => Box::new(Greedy::default()),
            Self::Genetic {
                population,
                mutation,
                crossover,
            } => Box::new(Genetic::new(*population as usize, *mutation, *crossover)),
            Self::Tpe { first } => Box::new(Tpe {
                first: *first as usize,
            }),
            Self::SuccessiveHalving(halving) => {
                let (around, eta, rounds) = halving.build(trials, u32::MAX);
                Box::new(Halving::successive(around, trials, eta, rounds))
            }
            Self::Hyperband(halving) => {
                let (around, eta, rounds) = halving.build(trials, 4);
                Box::new(Halving::hyperband(around, trials, eta, rounds))
            }
        }
    }
}

impl HalvingParams {
    /// What chooses the trials, `eta`, and the rounds: `most` at most where they are left open.
    fn build(&self, trials: usize, most: u32) -> (Box<dyn Strategy>, usize, u32) {
        let open = || rounds_for(trials, self.eta).min(most);
        let rounds = self.rounds.unwrap_or_else(open);
        (self.around.build(trials), self.eta as usize, rounds)
    }
}

/// Rounds after which one of `trials` is left.
fn rounds_for(trials: usize, eta: u32) -> u32 {
    1 + trials.max(1).ilog(eta.max(2) as usize)
}
