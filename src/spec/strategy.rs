//! Strategies of a search.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::Faults;
use crate::search::strategy::genetic::Genetic;
use crate::search::strategy::greedy::Greedy;
use crate::search::strategy::halving::Halving;
use crate::search::strategy::tpe::Tpe;
use crate::search::strategy::{Exhaustive, Random, Strategy};

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
        /// How many of the candidates may have children.
        #[schema(default = 16)]
        #[serde(default = "default_population")]
        population: u32,
        /// Probability that a coordinate changes.
        #[schema(default = 0.1)]
        #[serde(default = "default_mutation")]
        mutation: f64,
        /// Probability that a child has two parents.
        #[schema(default = 0.3)]
        #[serde(default = "default_crossover")]
        crossover: f64,
    },
    /// Tree-structured Parzen estimator, over all dimensions at once.
    Tpe {
        /// Points at random before.
        #[schema(default = 10)]
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
    #[schema(no_recursion, default = json!({"name": "random"}))]
    #[serde(default = "default_around")]
    pub around: Box<StrategyParams>,
    /// One of so many goes on, and trains so many times longer.
    #[schema(default = 3)]
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

impl Default for StrategyParams {
    fn default() -> Self {
        Self::Tpe {
            first: default_first(),
        }
    }
}

impl StrategyParams {
    /// Whether the model itself, narrowed alike where it must be, is tried before anything else.
    pub fn begins_with_the_model(&self) -> bool {
        matches!(
            self,
            Self::Greedy {} | Self::Genetic { .. } | Self::Tpe { .. }
        )
    }

    /// Whether most candidates are trained for a share of the epochs only.
    pub fn halves(&self) -> bool {
        matches!(self, Self::SuccessiveHalving(_) | Self::Hyperband(_))
    }

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
                faults.require_value(
                    (2..=100_000).contains(population),
                    "/population",
                    "must be from 2 to 100000",
                );
                for (name, share) in [("/mutation", mutation), ("/crossover", crossover)] {
                    faults.require_value((0.0..=1.0).contains(share), name, "must be from 0 to 1");
                }
            }
            Self::Tpe { first } => {
                faults.require_value(
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
                faults.require_value((2..=16).contains(eta), "/eta", "must be from 2 to 16");
                faults.require_value(
                    rounds.is_none_or(|rounds| (1..=16).contains(&rounds)),
                    "/rounds",
                    "must be from 1 to 16",
                );
                let plain = matches!(
                    **around,
                    Self::Random {} | Self::Genetic { .. } | Self::Tpe { .. }
                );
                faults.require_value(plain, "/around", "must be `random`, `genetic` or `tpe`");
                faults.extend_under("/around", around.faults(objectives));
            }
        }
        faults
    }

    /// The strategy, for so many trials, each of which is trained for `epochs` in the end.
    pub fn build(&self, trials: usize, epochs: u32) -> Box<dyn Strategy> {
        match self {
            Self::Random {} => Box::new(Random),
            Self::Exhaustive {} => Box::new(Exhaustive::default()),
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
                let (around, eta, rounds) = halving.build(trials, epochs, u32::MAX);
                Box::new(Halving::successive(around, trials, eta, rounds))
            }
            Self::Hyperband(halving) => {
                let (around, eta, rounds) = halving.build(trials, epochs, 4);
                Box::new(Halving::hyperband(around, trials, eta, rounds))
            }
        }
    }
}

impl HalvingParams {
    /// What chooses the trials, `eta`, and the rounds: `most` at most where they are left open.
    fn build(&self, trials: usize, epochs: u32, most: u32) -> (Box<dyn Strategy>, usize, u32) {
        // The first round trains for an epoch at least.
        let whole = 1 + epochs.max(1).ilog(self.eta.max(2));
        let open = || rounds_for(trials, self.eta).min(most).min(whole);
        let rounds = self.rounds.unwrap_or_else(open);
        (self.around.build(trials, epochs), self.eta as usize, rounds)
    }
}

/// Rounds after which one of `trials` is left.
fn rounds_for(trials: usize, eta: u32) -> u32 {
    1 + trials.max(1).ilog(eta.max(2) as usize)
}
