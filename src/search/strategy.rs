//! Which point is judged next.

pub mod genetic;
pub mod greedy;
pub mod halving;
pub mod tpe;

use std::collections::HashMap;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::front;
use super::space::{Point, Space};

/// A point to be judged, after this share of a whole training.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    pub point: Point,
    pub share: f64,
}

/// A point that was judged: one number for each objective, all made small; none where it failed.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub point: Point,
    pub share: f64,
    pub values: Option<Vec<f64>>,
}

/// Chooses among points drawn at random, before any of them is judged.
#[derive(Clone, Copy)]
pub struct Screen<'a> {
    /// How many are drawn.
    pub candidates: usize,
    /// More is better; `None` for a point that has no score.
    pub score: &'a dyn Fn(&Point) -> Option<f64>,
}

/// Whether a point may be judged at all.
pub type Feasible<'a> = &'a dyn Fn(&Point) -> bool;

/// What a strategy sees when it is asked.
pub struct Sight<'a> {
    pub space: &'a Space,
    /// Everything judged so far, in order.
    pub judged: &'a [Judged],
    pub random: &'a mut ChaCha8Rng,
    places: &'a HashMap<Vec<u64>, usize>,
    feasible: Feasible<'a>,
    screen: Option<Screen<'a>>,
}

/// Draws that are made before a strategy is believed to have nothing new.
const DRAWS: usize = 1000;

impl Sight<'_> {
    /// Whether a point may be judged and was not yet.
    pub fn is_open(&self, point: &Point) -> bool {
        !self.places.contains_key(&point.key()) && (self.feasible)(point)
    }

    /// What was found of a point last; `None` if it was not judged.
    pub fn found(&self, point: &Point) -> Option<&Judged> {
        let place = self.places.get(&point.key())?;
        self.judged.get(*place)
    }

    pub fn is_feasible(&self, point: &Point) -> bool {
        (self.feasible)(point)
    }

    /// A point at random that is open, the best of several where they are screened; `None` if there is
    /// hardly one.
    pub fn fresh(&mut self) -> Option<Point> {
        let Some(screen) = self.screen else {
            return self.draw();
        };
        let mut best: Option<(f64, Point)> = None;
        for _ in 0..screen.candidates {
            let Some(point) = self.draw() else { break };
            let score = (screen.score)(&point).filter(|score| !score.is_nan());
            let score = score.unwrap_or(f64::NEG_INFINITY);
            if best.as_ref().is_none_or(|(most, _)| score > *most) {
                best = Some((score, point));
            }
        }
        best.map(|(_, point)| point)
    }

    fn draw(&mut self) -> Option<Point> {
        for _ in 0..DRAWS {
            let point = self.space.sample(self.random);
            if self.is_open(&point) {
                return Some(point);
            }
        }
        // Of a small space the last few are not found by chance.
        let small = self.space.size().is_some_and(|size| size <= 1e5);
        small.then(|| self.space.all().find(|point| self.is_open(point)))?
    }

    /// The longest training that more points than dimensions had, or else the one that most had.
    pub fn share(&self) -> Option<f64> {
        let mut counts: Vec<(f64, usize)> = Vec::new();
        for judged in self.judged.iter().filter(|judged| judged.values.is_some()) {
            match counts.iter_mut().find(|(share, _)| *share == judged.share) {
                Some((_, count)) => *count += 1,
                None => counts.push((judged.share, 1)),
            }
        }
        let enough = counts
            .iter()
            .filter(|(_, count)| *count > self.space.dimensions.len());
        let longest = enough.max_by(|a, b| a.0.total_cmp(&b.0));
        let most = counts.iter().max_by_key(|(_, count)| *count);
        longest.or(most).map(|(share, _)| *share)
    }

    /// Points that were judged after trainings as long as [`Sight::share`] says, with their values.
    pub fn comparable(&self) -> Vec<(&Point, &[f64])> {
        let Some(share) = self.share() else {
            return Vec::new();
        };
        let own = self.judged.iter().filter(|judged| judged.share == share);
        own.filter_map(|judged| Some((&judged.point, judged.values.as_deref()?)))
            .collect()
    }
}

/// A way to search. Everything random comes from [`Sight::random`], which follows from the seed and the number
/// of points judged, so that a search that stops and goes on takes the same way.
pub trait Strategy {
    /// The next point; `None` when there is nothing left to try. Asked again before anything new was judged, it
    /// gives the same.
    fn ask(&mut self, sight: &mut Sight) -> Option<Ask>;
}

/// A search under way.
pub struct Search<'a> {
    space: &'a Space,
    strategy: Box<dyn Strategy>,
    feasible: Feasible<'a>,
    screen: Option<Screen<'a>>,
    /// Asked for before the strategy chooses.
    first: Vec<Point>,
    seed: u64,
    judged: Vec<Judged>,
    places: HashMap<Vec<u64>, usize>,
}

impl<'a> Search<'a> {
    pub fn new(
        space: &'a Space,
        strategy: Box<dyn Strategy>,
        feasible: Feasible<'a>,
        seed: u64,
    ) -> Self {
        Self {
            space,
            strategy,
            feasible,
            screen: None,
            first: Vec::new(),
            seed,
            judged: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// The same search with points at random screened.
    pub fn screened(mut self, screen: Option<Screen<'a>>) -> Self {
        self.screen = screen;
        self
    }

    /// The same search that begins with these points, those that it does not know.
    pub fn beginning_with(mut self, points: Vec<Point>) -> Self {
        self.first = points;
        self
    }

    /// The next point to judge.
    pub fn ask(&mut self) -> Option<Ask> {
        if let Some(point) = self.first.iter().find(|point| !self.knows(point)) {
            return Some(whole(point.clone()));
        }
        let place = (self.judged.len() as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ place);
        self.strategy.ask(&mut Sight {
            space: self.space,
            judged: &self.judged,
            random: &mut random,
            places: &self.places,
            feasible: self.feasible,
            screen: self.screen,
        })
    }

    /// What was found of a point; it need not be one that was asked for.
    pub fn tell(&mut self, judged: Judged) {
        self.places.insert(judged.point.key(), self.judged.len());
        self.judged.push(judged);
    }

    /// Takes up a search where these points had been asked for and judged.
    pub fn replay(&mut self, judged: impl IntoIterator<Item = Judged>) {
        for each in judged {
            self.ask();
            self.tell(each);
        }
    }

    pub fn judged(&self) -> &[Judged] {
        &self.judged
    }

    /// Points that were judged, however often.
    pub fn points(&self) -> usize {
        self.places.len()
    }

    /// Whether a point was judged already.
    pub fn knows(&self, point: &Point) -> bool {
        self.places.contains_key(&point.key())
    }
}

/// Points at random, none twice.
pub struct Random;

impl Strategy for Random {
    fn ask(&mut self, sight: &mut Sight) -> Option<Ask> {
        sight.fresh().map(whole)
    }
}

/// Every point of a finite space, in order.
#[derive(Default)]
pub struct Exhaustive {
    /// How many points at the beginning are not open any more.
    passed: usize,
}

impl Strategy for Exhaustive {
    fn ask(&mut self, sight: &mut Sight) -> Option<Ask> {
        let mut left = sight.space.all().enumerate().skip(self.passed);
        let (index, point) = left.find(|(_, point)| sight.is_open(point))?;
        self.passed = index;
        Some(whole(point))
    }
}

/// A point after a whole training.
pub fn whole(point: Point) -> Ask {
    Ask { point, share: 1.0 }
}

/// The indices of judged points from the best to the worst.
fn best_first(judged: &[(&Point, &[f64])]) -> Vec<usize> {
    let values: Vec<&[f64]> = judged.iter().map(|(_, values)| *values).collect();
    front::order(&values)
}
