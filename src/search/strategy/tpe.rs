//! The tree-structured Parzen estimator.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use super::{Ask, Sight, Strategy, best_first, whole};
use crate::search::space::{Domain, Point, Space};

/// Draws from the density of good points those where it is largest beside that of the others (Bergstra et
/// al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011, section 4). Both densities are mixtures
/// of one kernel for each point and the prior, each kernel over all dimensions at once (Falkner et al.,
/// "BOHB", ICML 2018, section 3.3), so that what belongs together is drawn together. With several
/// objectives the good ones are those of the first fronts (Ozaki et al., "Multiobjective Tree-structured
/// Parzen Estimator", GECCO 2020).
pub struct Tpe {
    /// Points at random before.
    pub first: usize,
}

impl Default for Tpe {
    fn default() -> Self {
        Self { first: 10 }
    }
}

/// Points drawn for each that is asked for.
const CANDIDATES: usize = 64;

/// The tenth of all points that is good, at most.
const MOST_GOOD: usize = 25;

/// Others that make up their density, at most: the latest.
const MOST_OTHERS: usize = 500;

/// Width of the kernel of a single point. It falls with their number as Scott's rule has it; half of what is
/// common (0.2) was better on five of six functions at 60 points (`benches/search.py functions`).
const WIDEST: f64 = 0.1;

/// The share of an unordered choice's kernel that is spread over all choices (Aitchison and Aitken 1976).
const SPREAD: f64 = 0.15;

impl Strategy for Tpe {
    fn ask(&mut self, sight: &mut Sight) -> Option<Ask> {
        let (good, others) = {
            let judged = sight.comparable();
            if judged.len() < self.first {
                return sight.fresh().map(whole);
            }
            let count = judged.len().div_ceil(10).min(MOST_GOOD);
            let order = best_first(&judged);
            let good: Vec<Point> = order[..count]
                .iter()
                .map(|&i| judged[i].0.clone())
                .collect();
            let mut others = order[count..].to_vec();
            others.sort_unstable();
            let late = others.len().saturating_sub(MOST_OTHERS);
            let others = others[late..].iter().map(|&i| judged[i].0.clone());
            (good, others.collect::<Vec<Point>>())
        };
        let (good, others) = (
            Mixture::of(good, sight.space),
            Mixture::of(others, sight.space),
        );
        let mut best: Option<(f64, Point)> = None;
        for _ in 0..CANDIDATES {
            let drawn = good.draw(sight.random);
            if !sight.is_open(&drawn) {
                continue;
            }
            let gain = good.log_density(&drawn) - others.log_density(&drawn);
            if best.as_ref().is_none_or(|(most, _)| gain > *most) {
                best = Some((gain, drawn));
            }
        }
        let point = match best {
            Some((_, point)) => point,
            None => sight.fresh()?,
        };
        Some(whole(point))
    }
}

/// One kernel a point, and one for the prior, all of the same weight.
struct Mixture<'a> {
    space: &'a Space,
    points: Vec<Point>,
    /// By dimension: the width of kernels where it is ordered, as a share of the way from end to end.
    widths: Vec<f64>,
    /// By point and dimension.
    kernels: Vec<Vec<Kernel>>,
}

/// A density over one dimension.
#[derive(Debug, Clone, Copy)]
enum Kernel {
    /// The same everywhere.
    Prior(f64),
    /// Of an unordered choice: mostly this one.
    Choice { at: f64, elsewhere: f64 },
    /// Of shares of the way: a normal density cut off at the ends, with its height in the middle.
    Bell {
        middle: f64,
        width: f64,
        height: f64,
    },
}

impl Kernel {
    fn of(domain: &Domain, at: Option<f64>, width: f64) -> Self {
        let everywhere = match domain {
            Domain::Choice {
                count,
                ordered: false,
            } => 1.0 / (*count).max(1) as f64,
            _ => 1.0,
        };
        match at {
            None => Self::Prior(everywhere),
            Some(at) if !domain.is_ordered() => Self::Choice {
                at,
                elsewhere: SPREAD * everywhere,
            },
            Some(at) => {
                let middle = domain.share(at);
                let inside = cumulative((1.0 - middle) / width) - cumulative(-middle / width);
                let whole = width * std::f64::consts::TAU.sqrt() * inside.max(1e-12);
                Self::Bell {
                    middle,
                    width,
                    height: 1.0 / whole,
                }
            }
        }
    }
}

/// The density of a product of kernels; places are coordinates, of ordered dimensions shares of the way.
fn density(kernels: &[Kernel], places: &[Option<f64>]) -> f64 {
    let (mut factor, mut squares) = (1.0, 0.0);
    for (kernel, place) in kernels.iter().zip(places) {
        let Some(place) = *place else {
            continue;
        };
        factor *= match *kernel {
            Kernel::Prior(everywhere) => everywhere,
            Kernel::Choice { at, elsewhere } if place == at => elsewhere + 1.0 - SPREAD,
            Kernel::Choice { elsewhere, .. } => elsewhere,
            Kernel::Bell {
                middle,
                width,
                height,
            } => {
                squares += ((place - middle) / width).powi(2);
                height
            }
        };
    }
    factor * (-0.5 * squares).exp()
}

impl<'a> Mixture<'a> {
    fn of(points: Vec<Point>, space: &'a Space) -> Self {
        let dimensions = space.dimensions.len() as f64;
        let width = WIDEST * (points.len().max(1) as f64).powf(-1.0 / (dimensions + 4.0));
        // A kernel narrower than the way to the next value would never leave its own.
        let least = |domain: &Domain| match domain.size() {
            Some(size) if domain.is_ordered() => 0.5 / (size - 1.0).max(1.0),
            _ => 0.0,
        };
        let domains = space.dimensions.iter().map(|dimension| &dimension.domain);
        let widths: Vec<f64> = domains.map(|domain| width.max(least(domain))).collect();
        let nowhere = Point(vec![None; space.dimensions.len()]);
        let all = points.iter().chain([&nowhere]);
        let kernels = all.map(|point| {
            let pairs = space.dimensions.iter().zip(&point.0).zip(&widths);
            pairs
                .map(|((dimension, at), width)| Kernel::of(&dimension.domain, *at, *width))
                .collect()
        });
        Self {
            space,
            kernels: kernels.collect(),
            points,
            widths,
        }
    }

    fn draw(&self, random: &mut ChaCha8Rng) -> Point {
        let kernel = random.random_range(0..=self.points.len());
        let Some(point) = self.points.get(kernel) else {
            return self.space.sample(random);
        };
        let coordinates = self.space.dimensions.iter().zip(&point.0).zip(&self.widths);
        let wanted: Vec<Option<f64>> = coordinates
            .map(|((dimension, coordinate), width)| {
                let x = (*coordinate)?;
                if !dimension.domain.is_ordered() {
                    return Some(match random.random_bool(SPREAD) {
                        true => dimension.domain.sample(random),
                        false => x,
                    });
                }
                let middle = dimension.domain.share(x);
                let steps =
                    (0..100).map(|_| middle + width * random.sample::<f64, _>(StandardNormal));
                let mut inside = steps.filter(|share| (0.0..=1.0).contains(share));
                Some(dimension.domain.at(inside.next().unwrap_or(middle)))
            })
            .collect();
        self.space.settled(&wanted, random)
    }

    fn log_density(&self, at: &Point) -> f64 {
        let pairs = self.space.dimensions.iter().zip(&at.0);
        let places: Vec<Option<f64>> = pairs
            .map(|(dimension, x)| {
                let x = (*x)?;
                Some(match dimension.domain.is_ordered() {
                    true => dimension.domain.share(x),
                    false => x,
                })
            })
            .collect();
        let of = |kernels: &Vec<Kernel>| density(kernels, &places);
        let sum: f64 = self.kernels.iter().map(of).sum();
        (sum / self.kernels.len() as f64)
            .max(f64::MIN_POSITIVE)
            .ln()
    }
}

/// The normal distribution's share below `x`.
fn cumulative(x: f64) -> f64 {
    0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_densities() {
        let choice = Domain::Choice {
            count: 4,
            ordered: false,
        };
        let of = |domain: &Domain, at, x| density(&[Kernel::of(domain, at, 0.13)], &[Some(x)]);
        for at in [None, Some(2.0)] {
            let sum: f64 = (0..4).map(|x| of(&choice, at, f64::from(x))).sum();
            assert!((sum - 1.0).abs() < 1e-12);
        }
        let rate = Domain::Uniform {
            low: 0.0,
            high: 1.0,
            log: false,
        };
        for middle in [0.0, 0.05, 0.5, 1.0] {
            let steps = 10_000;
            let places = (0..steps).map(|i| (f64::from(i) + 0.5) / f64::from(steps));
            let sum: f64 = places.map(|x| of(&rate, Some(middle), x)).sum();
            assert!(
                (sum / f64::from(steps) - 1.0).abs() < 1e-5,
                "{middle}: {sum}"
            );
        }
    }
}
