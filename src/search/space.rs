//! What a search chooses from.

use std::collections::HashSet;

use rand::{Rng, RngExt};
use rand_distr::StandardNormal;

/// What one dimension of a space can be. A coordinate is a number: the index of a choice, or the value itself.
#[derive(Debug, Clone, PartialEq)]
pub enum Domain {
    /// `ordered` where neighbours in the list are alike, as numbers are.
    Choice { count: usize, ordered: bool },
    /// Numbers from `low` to `high`, evenly or by their logarithms.
    Uniform { low: f64, high: f64, log: bool },
    /// Whole numbers from `low` to `high`.
    Int { low: i64, high: i64, log: bool },
}

impl Domain {
    /// How many coordinates there are; `None` for infinitely many.
    pub fn size(&self) -> Option<f64> {
        match *self {
            Self::Choice { count, .. } => Some(count as f64),
            Self::Int { low, high, .. } => Some((high - low) as f64 + 1.0),
            Self::Uniform { low, high, .. } => (low == high).then_some(1.0),
        }
    }

    /// Whether a coordinate says more than that it is another.
    pub fn is_ordered(&self) -> bool {
        !matches!(self, Self::Choice { ordered: false, .. })
    }

    /// The coordinate as a share of the way from the first to the last, 0 to 1.
    pub fn share(&self, coordinate: f64) -> f64 {
        let (low, high, log) = self.ends();
        let scaled = |x: f64| if log { x.ln() } else { x };
        match scaled(high) - scaled(low) {
            0.0 => 0.5,
            width => ((scaled(coordinate) - scaled(low)) / width).clamp(0.0, 1.0),
        }
    }

    /// The coordinate nearest to a share of the way.
    pub fn at(&self, share: f64) -> f64 {
        let (low, high, log) = self.ends();
        let share = share.clamp(0.0, 1.0);
        let found = match log {
            true => (low.ln() + share * (high.ln() - low.ln())).exp(),
            false => low + share * (high - low),
        };
        match self {
            Self::Uniform { .. } => found.clamp(low, high),
            Self::Choice { .. } => (low - 0.5 + share * (high - low + 1.0))
                .round()
                .clamp(low, high),
            Self::Int { .. } => found.round().clamp(low, high),
        }
    }

    fn ends(&self) -> (f64, f64, bool) {
        match *self {
            Self::Choice { count, .. } => (0.0, count.saturating_sub(1) as f64, false),
            Self::Uniform { low, high, log } => (low, high, log),
            Self::Int { low, high, log } => (low as f64, high as f64, log),
        }
    }

    /// A coordinate at random: every choice, number (or logarithm) alike.
    pub fn sample(&self, random: &mut impl Rng) -> f64 {
        match *self {
            Self::Choice { count, .. } => random.random_range(0..count.max(1)) as f64,
            Self::Int {
                low,
                high,
                log: false,
            } => random.random_range(low..=high) as f64,
            _ => self.at(random.random()),
        }
    }

    /// Coordinates beside this one: all others of an unordered choice; of ordered ones the nearest on both
    /// sides, and of numbers those a tenth of the way off.
    pub fn beside(&self, coordinate: f64) -> Vec<f64> {
        let mut found: Vec<f64> = match *self {
            Self::Choice {
                count,
                ordered: false,
            } => (0..count).map(|index| index as f64).collect(),
            Self::Choice { count, .. } => {
                let near = [coordinate - 1.0, coordinate + 1.0];
                let inside = |x: &f64| *x >= 0.0 && *x < count as f64;
                near.into_iter().filter(inside).collect()
            }
            Self::Uniform { .. } | Self::Int { .. } => {
                let share = self.share(coordinate);
                let mut near = vec![self.at(share - 0.1), self.at(share + 0.1)];
                if let Self::Int { low, high, .. } = *self {
                    near.extend([coordinate - 1.0, coordinate + 1.0]);
                    near.retain(|&x| x >= low as f64 && x <= high as f64);
                }
                near
            }
        };
        found.sort_by(f64::total_cmp);
        found.dedup();
        found.retain(|&x| x != coordinate);
        found
    }

    /// A coordinate that a mutation makes of this one: any other of an unordered choice, one near by (a
    /// normal step of a fifth of the way) otherwise.
    pub fn mutate(&self, coordinate: f64, random: &mut impl Rng) -> f64 {
        if self.size() == Some(1.0) {
            return coordinate;
        }
        for _ in 0..16 {
            let found = match self.is_ordered() {
                false => self.sample(random),
                true => {
                    self.at(self.share(coordinate) + 0.2 * random.sample::<f64, _>(StandardNormal))
                }
            };
            if found != coordinate {
                return found;
            }
        }
        self.beside(coordinate)
            .first()
            .copied()
            .unwrap_or(coordinate)
    }
}

/// When a dimension counts at all.
#[derive(Debug, Clone, PartialEq)]
pub struct When {
    /// Index of an earlier dimension, which is a choice.
    pub dimension: usize,
    /// The indices of its choice for which it does.
    pub choices: Vec<usize>,
}

/// One thing that is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Dimension {
    pub name: String,
    pub domain: Domain,
    pub when: Option<When>,
}

/// What is chosen: a coordinate for each dimension, `None` where it does not count.
#[derive(Debug, Clone, PartialEq)]
pub struct Point(pub Vec<Option<f64>>);

impl Point {
    /// The same for equal points only.
    pub fn key(&self) -> Vec<u64> {
        let bits = |x: &Option<f64>| x.map_or(u64::MAX, |x| (x + 0.0).to_bits());
        self.0.iter().map(bits).collect()
    }
}

/// All that can be chosen together.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Space {
    pub dimensions: Vec<Dimension>,
}

impl Space {
    /// How many points there are; `None` for infinitely many.
    pub fn size(&self) -> Option<f64> {
        let roots =
            (0..self.dimensions.len()).filter(|&index| self.dimensions[index].when.is_none());
        roots.map(|root| self.size_below(root)).product()
    }

    /// The points of a dimension and of those that wait for it.
    fn size_below(&self, index: usize) -> Option<f64> {
        let waiting: Vec<(usize, &When)> = (index + 1..self.dimensions.len())
            .filter_map(|later| Some((later, self.dimensions[later].when.as_ref()?)))
            .filter(|(_, when)| when.dimension == index)
            .collect();
        let size = self.dimensions[index].domain.size()?;
        if waiting.is_empty() {
            return Some(size);
        }
        let with = |choice: usize| -> Option<f64> {
            let counting = waiting
                .iter()
                .filter(|(_, when)| when.choices.contains(&choice));
            counting.map(|(later, _)| self.size_below(*later)).product()
        };
        (0..size as usize).map(with).sum()
    }

    fn counts(&self, index: usize, chosen: &dyn Fn(usize) -> Option<f64>) -> bool {
        self.dimensions[index].when.as_ref().is_none_or(|when| {
            chosen(when.dimension)
                .is_some_and(|choice| choice >= 0.0 && when.choices.contains(&(choice as usize)))
        })
    }

    /// The point with these coordinates, without those that do not count and with the ones that are missing
    /// drawn at random.
    pub fn settled(&self, wanted: &[Option<f64>], random: &mut impl Rng) -> Point {
        let mut point: Vec<Option<f64>> = Vec::with_capacity(self.dimensions.len());
        for (index, dimension) in self.dimensions.iter().enumerate() {
            let counts = self.counts(index, &|of| point.get(of).copied().flatten());
            let given = wanted.get(index).copied().flatten();
            point.push(counts.then(|| given.unwrap_or_else(|| dimension.domain.sample(random))));
        }
        Point(point)
    }

    pub fn sample(&self, random: &mut impl Rng) -> Point {
        self.settled(&[], random)
    }

    /// All points in order, of a space that is finite.
    pub fn all(&self) -> impl Iterator<Item = Point> + '_ {
        let mut next = self.first_from(&[]);
        std::iter::from_fn(move || {
            let found = next.take()?;
            next = self.after(&found);
            Some(Point(found))
        })
    }

    /// The first point that begins with these coordinates.
    fn first_from(&self, begin: &[Option<f64>]) -> Option<Vec<Option<f64>>> {
        let mut point = begin.to_vec();
        for index in begin.len()..self.dimensions.len() {
            let counts = self.counts(index, &|of| point.get(of).copied().flatten());
            point.push(counts.then(|| self.dimensions[index].domain.ends().0));
        }
        Some(point)
    }

    fn after(&self, point: &[Option<f64>]) -> Option<Vec<Option<f64>>> {
        for index in (0..point.len()).rev() {
            let Some(coordinate) = point[index] else {
                continue;
            };
            if coordinate + 1.0 <= self.dimensions[index].domain.ends().1 {
                let mut begin = point[..index].to_vec();
                begin.push(Some(coordinate + 1.0));
                return self.first_from(&begin);
            }
        }
        None
    }

    /// Points that differ from this one in the dimension `index` alone, but for those that follow from it.
    pub fn beside(&self, point: &Point, index: usize, random: &mut impl Rng) -> Vec<Point> {
        let Some(coordinate) = point.0[index] else {
            return Vec::new();
        };
        let near = self.dimensions[index].domain.beside(coordinate);
        near.into_iter()
            .map(|coordinate| {
                let mut wanted = point.0.clone();
                wanted[index] = Some(coordinate);
                self.settled(&wanted, random)
            })
            .collect()
    }

    /// The point with every coordinate changed with this probability, and at least one that can be.
    pub fn mutated(&self, point: &Point, probability: f64, random: &mut impl Rng) -> Point {
        let able: Vec<usize> = (0..point.0.len())
            .filter(|&index| {
                point.0[index].is_some() && self.dimensions[index].domain.size() != Some(1.0)
            })
            .collect();
        if able.is_empty() {
            return point.clone();
        }
        let mut changed: HashSet<usize> = able
            .iter()
            .copied()
            .filter(|_| random.random_bool(probability))
            .collect();
        if changed.is_empty() {
            changed.insert(able[random.random_range(0..able.len())]);
        }
        let mut wanted = point.0.clone();
        for index in able.into_iter().filter(|index| changed.contains(index)) {
            wanted[index] = wanted[index].map(|x| self.dimensions[index].domain.mutate(x, random));
        }
        self.settled(&wanted, random)
    }

    /// The point with each coordinate from one of two (uniform crossover).
    pub fn crossed(&self, a: &Point, b: &Point, random: &mut impl Rng) -> Point {
        let pairs = a.0.iter().zip(&b.0);
        let mixed: Vec<Option<f64>> = pairs
            .map(|(&a, &b)| {
                if random.random_bool(0.5) {
                    a.or(b)
                } else {
                    b.or(a)
                }
            })
            .collect();
        self.settled(&mixed, random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    fn dimension(name: &str, domain: Domain, when: Option<When>) -> Dimension {
        let name = name.to_owned();
        Dimension { name, domain, when }
    }

    fn conditional() -> Space {
        let choice = |count| Domain::Choice {
            count,
            ordered: false,
        };
        let only = |choices: &[usize]| {
            Some(When {
                dimension: 0,
                choices: choices.to_vec(),
            })
        };
        let int = Domain::Int {
            low: 1,
            high: 4,
            log: true,
        };
        Space {
            dimensions: vec![
                dimension("optimizer", choice(3), None),
                dimension("momentum", choice(5), only(&[0])),
                dimension("steps", int, only(&[0, 1])),
            ],
        }
    }

    #[test]
    fn the_size_counts_what_counts_together() {
        let space = conditional();
        assert_eq!(space.size(), Some(5.0 * 4.0 + 4.0 + 1.0));
        let all: Vec<Vec<u64>> = space.all().map(|point| point.key()).collect();
        let distinct: HashSet<&Vec<u64>> = all.iter().collect();
        assert_eq!((all.len(), distinct.len()), (25, 25));
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let drawn: HashSet<Vec<u64>> = (0..2000).map(|_| space.sample(&mut random).key()).collect();
        assert_eq!(drawn, all.into_iter().collect());
        let mut endless = space;
        let rate = Domain::Uniform {
            low: 1e-4,
            high: 1e-1,
            log: true,
        };
        endless.dimensions.push(dimension("rate", rate, None));
        assert_eq!(endless.size(), None);
    }

    #[test]
    fn coordinates_and_shares_are_each_others_inverse() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        for domain in [
            Domain::Uniform {
                low: 1e-5,
                high: 1.0,
                log: true,
            },
            Domain::Uniform {
                low: -3.0,
                high: 9.0,
                log: false,
            },
            Domain::Int {
                low: 3,
                high: 300,
                log: true,
            },
        ] {
            for _ in 0..100 {
                let x = domain.sample(&mut random);
                assert!((domain.at(domain.share(x)) - x).abs() <= 1e-9 * x.abs().max(1.0));
            }
        }
        let domain = Domain::Choice {
            count: 4,
            ordered: true,
        };
        assert_eq!(domain.beside(0.0), [1.0]);
        assert_eq!(domain.beside(2.0), [1.0, 3.0]);
    }

    #[test]
    fn a_mutation_changes_something_and_drops_what_no_longer_counts() {
        let space = conditional();
        let mut random = ChaCha8Rng::seed_from_u64(3);
        for _ in 0..500 {
            let point = space.sample(&mut random);
            let mutated = space.mutated(&point, 0.1, &mut random);
            assert_ne!(point, mutated);
            let waits = mutated.0[0] == Some(0.0);
            assert_eq!(mutated.0[1].is_some(), waits);
            let other = space.sample(&mut random);
            let child = space.crossed(&point, &other, &mut random);
            assert!(child.0[0] == point.0[0] || child.0[0] == other.0[0]);
        }
    }
}
