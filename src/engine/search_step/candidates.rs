//! Points of a search's space as models and hyperparameters.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::graph::{Cut, Graph, cost_of_one};
use crate::prune::PruneError;
use crate::search::architecture::Architecture;
use crate::search::space::{Domain, Point, Space};
use crate::search::strategy::Judged;
use crate::spec::hyperparameters::Hyperparameters;
use crate::spec::search::{Cost, Objective, SearchParams};
use crate::spec::trial::{DimensionInfo, Trial, TrialCost};

/// Architectures of a model beside hyperparameters, as one space: those of the model come first.
pub(super) struct Candidates<'a> {
    architecture: Architecture,
    hyperparameters: &'a Hyperparameters,
    pub space: Space,
    /// Bounds that can be looked at before anything is trained.
    bounds: Vec<(Cost, f64)>,
    feasible: RefCell<HashMap<Vec<u64>, bool>>,
    /// By bound: the least that was seen.
    least: RefCell<BTreeMap<Cost, f64>>,
}

impl<'a> Candidates<'a> {
    pub fn new(graph: &Graph, params: &'a SearchParams, seed: u64) -> Result<Self, PruneError> {
        // Weights around a kernel would be zeros that never learn.
        let grows = !params.shares_weights();
        let architecture = Architecture::new(graph, &params.space, grows, seed)?;
        let hyperparameters = &params.space.hyperparameters;
        let mut dimensions = architecture.dimensions().to_vec();
        let shift = dimensions.len();
        for mut dimension in hyperparameters.space().dimensions {
            if let Some(when) = &mut dimension.when {
                when.dimension += shift;
            }
            dimensions.push(dimension);
        }
        // Steps may still make a candidate smaller, and latencies are measured.
        let early = |cost: &Cost| params.steps.is_empty() && *cost != Cost::LatencyMs;
        let bounds = params.constraints.iter();
        let bounds = bounds.filter(|(name, _)| early(name));
        Ok(Self {
            architecture,
            hyperparameters,
            space: Space { dimensions },
            bounds: bounds.collect(),
            feasible: RefCell::default(),
            least: RefCell::default(),
        })
    }

    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Gives all candidates the weights of a model that was trained for them.
    pub fn inherit(&mut self, graph: Graph) {
        self.architecture.inherit(graph);
        // Costs that depend on the weights are others now.
        self.feasible.borrow_mut().clear();
        self.least.borrow_mut().clear();
    }

    /// How many dimensions change the model; the others are hyperparameters.
    fn shift(&self) -> usize {
        self.architecture.dimensions().len()
    }

    /// The model of a point, with the weights that it has from the start.
    pub fn graph(&self, point: &Point) -> Result<Graph, PruneError> {
        self.architecture.build(&point.0[..self.shift()])
    }

    /// The same, corrected by `recover` once channels have left.
    pub fn recovered(
        &self,
        point: &Point,
        recover: &dyn Fn(&Graph, &mut Graph, &Cut) -> Result<(), PruneError>,
    ) -> Result<Graph, PruneError> {
        let own = &point.0[..self.shift()];
        self.architecture.build_recovered(own, recover)
    }

    /// The same for points of the same model.
    pub fn model_key(&self, point: &Point) -> Vec<u64> {
        point.key()[..self.shift()].to_vec()
    }

    /// The hyperparameters of a point, those that count.
    pub fn chosen(&self, point: &Point) -> Vec<(&'a str, Value)> {
        let names = self.hyperparameters.order().into_iter();
        let own = names.zip(&point.0[self.shift()..]);
        own.filter_map(|(name, coordinate)| {
            Some((name, self.hyperparameters.0[name].value((*coordinate)?)))
        })
        .collect()
    }

    fn value(&self, dimension: usize, coordinate: f64) -> Value {
        match dimension.checked_sub(self.shift()) {
            None => self.architecture.value(dimension, coordinate),
            Some(index) => {
                let name = self.hyperparameters.order()[index];
                self.hyperparameters.0[name].value(coordinate)
            }
        }
    }

    /// A point as people read it.
    pub fn config(&self, point: &Point) -> BTreeMap<String, Value> {
        let dimensions = self.space.dimensions.iter().enumerate();
        dimensions
            .filter_map(|(index, dimension)| {
                let coordinate = point.0[index]?;
                Some((dimension.name.clone(), self.value(index, coordinate)))
            })
            .collect()
    }

    /// The point that reads like this; `None` where this space has none.
    fn point(&self, config: &BTreeMap<String, Value>) -> Option<Point> {
        let names = |name: &String| {
            let mut all = self.space.dimensions.iter();
            all.any(|dimension| dimension.name == *name)
        };
        if !config.keys().all(names) {
            return None;
        }
        let mut coordinates: Vec<Option<f64>> = Vec::new();
        for (index, dimension) in self.space.dimensions.iter().enumerate() {
            let counts = dimension.when.as_ref().is_none_or(|when| {
                coordinates[when.dimension].is_some_and(|at| when.choices.contains(&(at as usize)))
            });
            let wanted = config.get(&dimension.name);
            let found = match (&dimension.domain, wanted.filter(|_| counts)) {
                (_, None) => None,
                (Domain::Choice { count, .. }, Some(wanted)) => (0..*count)
                    .map(|choice| choice as f64)
                    .find(|&choice| self.value(index, choice) == *wanted),
                (Domain::Uniform { low, high, .. }, Some(wanted)) => {
                    wanted.as_f64().filter(|at| (*low..=*high).contains(at))
                }
                (Domain::Int { low, high, .. }, Some(wanted)) => {
                    let whole = wanted.as_i64().filter(|at| (*low..=*high).contains(at));
                    whole.map(|at| at as f64)
                }
            };
            if found.is_some() != counts {
                return None;
            }
            coordinates.push(found);
        }
        Some(Point(coordinates))
    }

    /// What an earlier search found, as this one would have.
    pub fn warm(&self, trials: &[Trial], objectives: &[Objective]) -> Vec<Judged> {
        let seen = trials
            .iter()
            .filter(|trial| trial.counts() && trial.share == 1.0);
        seen.filter_map(|trial| {
            let point = self.point(&trial.config)?;
            self.is_feasible(&point)
                .then(|| judged(point, trial, objectives))
        })
        .filter(|judged| judged.values.is_some())
        .collect()
    }

    /// Whether the model of a point meets the bounds that can be told before training.
    pub fn is_feasible(&self, point: &Point) -> bool {
        let model = self.model_key(point);
        if let Some(&known) = self.feasible.borrow().get(&model) {
            return known;
        }
        let found = self.meets_bounds(point);
        self.feasible.borrow_mut().insert(model, found);
        found
    }

    /// The same, looked at anew and not kept.
    pub fn meets_bounds(&self, point: &Point) -> bool {
        if self.bounds.is_empty() {
            return self.architecture.fits(&point.0[..self.shift()]);
        }
        self.graph(point).is_ok_and(|graph| {
            let sizes = |(cost, _): &(Cost, f64)| *cost == Cost::SizeBytes;
            let cost = match self.bounds.iter().any(sizes) {
                true => cost_of(&graph),
                false => cost_without_file(&graph),
            };
            self.bounds.iter().all(|&(name, most)| {
                let value = cost.of(name).unwrap_or(f64::INFINITY);
                let mut least = self.least.borrow_mut();
                let least = least.entry(name).or_insert(f64::INFINITY);
                *least = least.min(value);
                value <= most
            })
        })
    }

    /// Whether the smallest models of the space meet the bounds; `true` where it can't be told which those are.
    pub fn may_fit(&self) -> bool {
        let smallest = |grouped| Point(self.architecture.smallest(grouped));
        // What can't be built is not the least that can be.
        let may = |point: Point| self.graph(&point).is_err() || self.meets_bounds(&point);
        self.bounds.is_empty()
            || !self.architecture.has_smallest()
            || may(smallest(false))
            || may(smallest(true))
    }

    /// Points to begin with: the model narrowed alike everywhere until it meets the bounds, and that one with as
    /// many groups a step wider as the bounds allow. Dimensions that are hyperparameters are drawn.
    pub fn beginnings(&self, seed: u64) -> Vec<Point> {
        if self.shift() == 0 {
            return Vec::new();
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut point = |own: &[f64]| {
            let own: Vec<Option<f64>> = own.iter().copied().map(Some).collect();
            self.space.settled(&own, &mut random)
        };
        let (widths, levels) = self.architecture.uniform();
        let Some(mut own) = levels.into_iter().find(|own| self.is_feasible(&point(own))) else {
            return Vec::new();
        };
        let mut points = vec![point(&own)];
        for width in widths {
            let Domain::Choice { count, .. } = self.space.dimensions[width].domain else {
                continue;
            };
            own[width] += 1.0;
            if own[width] >= count as f64 || !self.is_feasible(&point(&own)) {
                own[width] -= 1.0;
            }
        }
        let filled = point(&own);
        if self.model_key(&filled) != self.model_key(&points[0]) {
            points.push(filled);
        }
        points
    }

    /// The bounds, each with the least that was seen, in words.
    pub fn bounds_seen(&self) -> String {
        let least = self.least.borrow();
        let of = |(name, most): &(Cost, f64)| {
            let least = least.get(name).copied().unwrap_or(f64::NAN);
            format!(
                "{} at most {most} (the least seen was {least})",
                name.as_str()
            )
        };
        let all: Vec<String> = self.bounds.iter().map(of).collect();
        all.join(", ")
    }

    /// Whether there is nothing that a candidate could exceed.
    pub fn bounds_met_by_all(&self) -> bool {
        self.bounds.is_empty()
    }

    /// What was asked for and leaves no choice in this model.
    pub fn not_applicable(&self, params: &SearchParams) -> Vec<String> {
        let opened = |way: &str| {
            let mut names = self.space.dimensions.iter().map(|each| each.name.as_str());
            names.any(|name| name.split(':').next() == Some(way))
        };
        let ways = params.space.ways().into_iter();
        ways.filter(|way| !opened(way)).map(str::to_owned).collect()
    }

    /// The dimensions with how much each matters, where that is known.
    pub fn dimensions(&self, importance: &[f64]) -> Vec<DimensionInfo> {
        let dimensions = self.space.dimensions.iter().enumerate();
        dimensions
            .map(|(index, dimension)| {
                let (choices, range) = match dimension.domain {
                    Domain::Choice { count, .. } => {
                        let values = (0..count).map(|choice| self.value(index, choice as f64));
                        (values.collect(), None)
                    }
                    Domain::Uniform { low, high, .. } => (Vec::new(), Some([low, high])),
                    Domain::Int { low, high, .. } => (Vec::new(), Some([low as f64, high as f64])),
                };
                let on = dimension.when.as_ref();
                DimensionInfo {
                    name: dimension.name.clone(),
                    choices,
                    range,
                    depends_on: on.map(|when| self.space.dimensions[when.dimension].name.clone()),
                    importance: importance.get(index).copied(),
                }
            })
            .collect()
    }
}

/// The objectives of a trial, made small; `None` where it does not count or one is missing.
pub(super) fn minimized(trial: &Trial, objectives: &[Objective]) -> Option<Vec<f64>> {
    let values = trial.objectives(objectives).filter(|_| trial.counts())?;
    let pairs = objectives.iter().zip(values);
    let small = pairs.map(|(objective, value)| objective.minimized(value));
    Some(small.collect())
}

/// A trial as the strategy sees it.
pub(super) fn judged(point: Point, trial: &Trial, objectives: &[Objective]) -> Judged {
    Judged {
        point,
        share: trial.share,
        values: minimized(trial, objectives),
    }
}

/// What a model costs, but for its latency.
pub(super) fn cost_of(graph: &Graph) -> TrialCost {
    TrialCost {
        size_bytes: graph.to_bytes().len() as u64,
        ..cost_without_file(graph)
    }
}

fn cost_without_file(graph: &Graph) -> TrialCost {
    let cost = cost_of_one(graph);
    TrialCost {
        macs: cost.macs,
        parameters: cost.parameters,
        nonzero_parameters: cost.nonzero_parameters,
        ..TrialCost::default()
    }
}
