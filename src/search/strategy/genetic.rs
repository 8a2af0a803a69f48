//! Evolution.

use rand::RngExt;
use rand::seq::IndexedRandom;

use super::{Ask, Sight, Strategy, whole};
use crate::search::front;
use crate::search::space::Point;

/// With one objective aging evolution (Real et al., "Regularized Evolution for Image Classifier Architecture
/// Search", AAAI 2019, algorithm 1): of a population of the youngest, the best of a sample is a parent. With
/// several, NSGA-II one child at a time (Deb et al. 2002; Durillo et al., "On the Effect of the Steady-State
/// Selection Scheme", 2009): the population is the best by fronts and gaps, the sample is of two.
///
/// A child has each coordinate from one of two parents (uniform crossover) with the probability `crossover`,
/// else it is one parent's; every coordinate of it is then changed with the probability `mutation`, and at
/// least one if there was no crossover or the child is known.
pub struct Genetic {
    pub population: usize,
    pub mutation: f64,
    pub crossover: f64,
    alive: Vec<(Point, Vec<f64>)>,
    /// How many of what was judged were looked at.
    looked: usize,
    /// The training after which those alive were judged.
    share: Option<f64>,
}

/// Children that are made before a point at random takes their place.
const CHILDREN: usize = 100;

impl Genetic {
    pub fn new(population: usize, mutation: f64, crossover: f64) -> Self {
        Self {
            population: population.max(2),
            mutation,
            crossover,
            alive: Vec::new(),
            looked: 0,
            share: None,
        }
    }

    /// Takes in what was judged since.
    fn grow(&mut self, sight: &Sight) {
        let share = sight.share();
        if share != self.share {
            // After longer trainings the values are others.
            (self.share, self.looked) = (share, 0);
            self.alive.clear();
        }
        for judged in &sight.judged[self.looked..] {
            let Some(values) = judged
                .values
                .as_ref()
                .filter(|_| Some(judged.share) == share)
            else {
                continue;
            };
            self.alive.push((judged.point.clone(), values.clone()));
            if self.alive.len() > self.population {
                let gone = match values.len() {
                    1 => 0,
                    _ => {
                        let values: Vec<&[f64]> = self.alive.iter().map(|(_, v)| &**v).collect();
                        front::order(&values).pop().unwrap_or(0)
                    }
                };
                self.alive.remove(gone);
            }
        }
        self.looked = sight.judged.len();
    }

    /// The best of a sample, by the place of each in `order`.
    fn parent(&self, place: &[usize], sight: &mut Sight) -> &Point {
        let sample = match self.alive.first() {
            Some((_, values)) if values.len() > 1 => 2,
            _ => (self.alive.len() * 5).div_ceil(8).max(2),
        };
        let all: Vec<usize> = (0..self.alive.len()).collect();
        let drawn = all.sample(sight.random, sample);
        let best = drawn.min_by_key(|&&index| place[index]);
        &self.alive[best.copied().unwrap_or(0)].0
    }
}

impl Strategy for Genetic {
    fn ask(&mut self, sight: &mut Sight) -> Option<Ask> {
        self.grow(sight);
        if self.alive.len() < self.population {
            return sight.fresh().map(whole);
        }
        let values: Vec<&[f64]> = self.alive.iter().map(|(_, values)| &**values).collect();
        let mut place = vec![0; values.len()];
        for (rank, index) in front::order(&values).into_iter().enumerate() {
            place[index] = rank;
        }
        for _ in 0..CHILDREN {
            let mother = self.parent(&place, sight).clone();
            let mut child = mother.clone();
            if sight.random.random_bool(self.crossover) {
                let father = self.parent(&place, sight).clone();
                child = sight.space.crossed(&mother, &father, sight.random);
            }
            if !sight.is_open(&child) {
                child = sight.space.mutated(&child, self.mutation, sight.random);
            }
            if sight.is_open(&child) {
                return Some(whole(child));
            }
        }
        sight.fresh().map(whole)
    }
}
