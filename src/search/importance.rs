//! How much each dimension decides.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::space::{Domain, Point, Space};

const TREES: usize = 64;

/// Cells that a dimension of numbers is seen in, and the most choices that are told apart.
const CELLS: usize = 16;
const MOST_CELLS: usize = 64;

/// Points that a leaf has, at least.
const LEAF: usize = 2;

/// The share of the values' variance that each dimension explains alone, by functional analysis of variance of a
/// random forest (Hutter, Hoos and Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter Importance",
/// ICML 2014, section 3): the variance of the forest's mean over all other dimensions, by that of the forest. The
/// rest is what dimensions explain together. All zeros where nothing varies; a dimension that does not count at
/// a point is one cell of its own.
pub fn of_dimensions(space: &Space, judged: &[(&Point, f64)], seed: u64) -> Vec<f64> {
    let grid = Grid::of(space);
    let rows: Vec<Vec<usize>> = judged.iter().map(|(point, _)| grid.cells(point)).collect();
    let values: Vec<f64> = judged.iter().map(|(_, value)| *value).collect();
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut shares = vec![0.0; space.dimensions.len()];
    let mut trees = 0;
    for _ in 0..TREES {
        let drawn = (0..rows.len()).map(|_| random.random_range(0..rows.len()));
        let sample: Vec<usize> = drawn.collect();
        let mut leaves = Vec::new();
        let whole: Vec<u64> = grid.counts.iter().map(|&count| mask(count)).collect();
        grow(
            &grid,
            &rows,
            &values,
            sample,
            whole,
            &mut random,
            &mut leaves,
        );
        let mean = grid.mean(&leaves, None);
        let all = leaves
            .iter()
            .map(|leaf| grid.volume(&leaf.region, None) * (leaf.value - mean).powi(2));
        let variance: f64 = all.sum();
        if variance <= 1e-18 * mean.abs().max(1e-300).powi(2) {
            continue;
        }
        trees += 1;
        for (dimension, share) in shares.iter_mut().enumerate() {
            let cells = grid.counts[dimension];
            let of = |cell| (grid.mean(&leaves, Some((dimension, cell))) - mean).powi(2);
            *share += (0..cells).map(of).sum::<f64>() / cells as f64 / variance;
        }
    }
    shares
        .iter_mut()
        .for_each(|share| *share /= f64::from(trees.max(1)));
    shares
}

fn mask(count: usize) -> u64 {
    u64::MAX >> (64 - count.clamp(1, 64))
}

/// Dimensions in cells, each as likely as the others.
struct Grid<'a> {
    space: &'a Space,
    counts: Vec<usize>,
}

struct Leaf {
    /// The cells of each dimension.
    region: Vec<u64>,
    value: f64,
}

impl<'a> Grid<'a> {
    fn of(space: &'a Space) -> Self {
        let count = |dimension: &super::space::Dimension| {
            let own = match dimension.domain {
                Domain::Choice { count, .. } => count,
                _ => CELLS,
            };
            (own + usize::from(dimension.when.is_some())).clamp(1, MOST_CELLS)
        };
        Self {
            space,
            counts: space.dimensions.iter().map(count).collect(),
        }
    }

    fn cells(&self, point: &Point) -> Vec<usize> {
        let dimensions = self.space.dimensions.iter().zip(&self.counts);
        dimensions
            .zip(&point.0)
            .map(|((dimension, &count), coordinate)| {
                let Some(x) = coordinate else {
                    return count - 1;
                };
                let own = (count - usize::from(dimension.when.is_some())).max(1);
                let cell = match dimension.domain {
                    Domain::Choice { .. } => *x as usize,
                    _ => (dimension.domain.share(*x) * own as f64) as usize,
                };
                cell.min(own - 1)
            })
            .collect()
    }

    /// The share of all cells of the other dimensions that a region has.
    fn volume(&self, region: &[u64], without: Option<usize>) -> f64 {
        let sides = region.iter().zip(&self.counts).enumerate();
        sides
            .filter(|&(dimension, _)| Some(dimension) != without)
            .map(|(_, (cells, &count))| f64::from(cells.count_ones()) / count as f64)
            .product()
    }

    /// The mean of a tree over everything, or over all that has a cell of a dimension.
    fn mean(&self, leaves: &[Leaf], within: Option<(usize, usize)>) -> f64 {
        let inside = leaves.iter().filter(|leaf| {
            within.is_none_or(|(dimension, cell)| leaf.region[dimension] >> cell & 1 == 1)
        });
        let without = within.map(|(dimension, _)| dimension);
        inside
            .map(|leaf| leaf.value * self.volume(&leaf.region, without))
            .sum()
    }
}

/// Splits a region as long as that makes its parts more alike, each time by the best of two thirds of the
/// dimensions (Breiman 2001).
fn grow(
    grid: &Grid,
    rows: &[Vec<usize>],
    values: &[f64],
    sample: Vec<usize>,
    region: Vec<u64>,
    random: &mut ChaCha8Rng,
    leaves: &mut Vec<Leaf>,
) {
    let sum = |sample: &[usize]| sample.iter().map(|&row| values[row]).sum::<f64>();
    let mean = sum(&sample) / sample.len().max(1) as f64;
    let mut dimensions: Vec<usize> = (0..region.len()).collect();
    dimensions.shuffle(random);
    let looked = (2 * region.len()).div_ceil(3);
    let mut best: Option<(f64, usize, u64)> = None;
    for &dimension in &dimensions[..looked] {
        // The cells by their mean values, or in their order: one side of the split are the first of them.
        let mut cells: Vec<(f64, f64, usize)> = (0..grid.counts[dimension])
            .filter_map(|cell| {
                let own = sample.iter().filter(|&&row| rows[row][dimension] == cell);
                let own: Vec<usize> = own.copied().collect();
                (!own.is_empty()).then(|| (sum(&own), own.len() as f64, cell))
            })
            .collect();
        if !grid.space.dimensions[dimension].domain.is_ordered() {
            cells.sort_by(|a, b| (a.0 / a.1).total_cmp(&(b.0 / b.1)));
        }
        let (mut left, mut count, mut side) = (0.0, 0.0, 0u64);
        let (all, rows) = (mean * sample.len() as f64, sample.len() as f64);
        for &(own, number, cell) in &cells[..cells.len().saturating_sub(1)] {
            left += own;
            count += number;
            side |= 1 << cell;
            if (count as usize) < LEAF || ((rows - count) as usize) < LEAF {
                continue;
            }
            // What the squares about the means shrink by.
            let gain =
                left * left / count + (all - left).powi(2) / (rows - count) - all * all / rows;
            if best.is_none_or(|(most, ..)| gain > most) {
                best = Some((gain, dimension, side));
            }
        }
    }
    let Some((gain, dimension, side)) = best.filter(|(gain, ..)| *gain > 1e-12) else {
        leaves.push(Leaf {
            region,
            value: mean,
        });
        return;
    };
    debug_assert!(gain.is_finite());
    // Cells that no point has go to the side of their neighbour below, or to the second.
    let mut side = side;
    if grid.space.dimensions[dimension].domain.is_ordered() {
        let last = 63 - side.leading_zeros() as usize;
        side = mask(last + 1) & region[dimension];
    }
    let (first, second): (Vec<usize>, Vec<usize>) = sample
        .into_iter()
        .partition(|&row| side >> rows[row][dimension] & 1 == 1);
    for (sample, cells) in [
        (first, region[dimension] & side),
        (second, region[dimension] & !side),
    ] {
        let mut part = region.clone();
        part[dimension] = cells;
        grow(grid, rows, values, sample, part, random, leaves);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::space::Dimension;

    #[test]
    fn what_decides_more_is_said_to() {
        let dimension = |name: &str, domain| Dimension {
            name: name.to_owned(),
            domain,
            when: None,
        };
        let real = || Domain::Uniform {
            low: 0.0,
            high: 1.0,
            log: false,
        };
        let choice = Domain::Choice {
            count: 3,
            ordered: false,
        };
        let space = Space {
            dimensions: vec![
                dimension("much", real()),
                dimension("kind", choice),
                dimension("nothing", real()),
            ],
        };
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let points: Vec<Point> = (0..400).map(|_| space.sample(&mut random)).collect();
        let value = |point: &Point| {
            let x: Vec<f64> = point.0.iter().map(|x| x.unwrap_or(0.0)).collect();
            // Variances of 4 ÷ 12 and of 2 ÷ 9 · 0.75².
            2.0 * x[0] + [0.0, 0.75, 0.0][x[1] as usize]
        };
        let judged: Vec<(&Point, f64)> = points.iter().map(|p| (p, value(p))).collect();
        let shares = of_dimensions(&space, &judged, 0);
        let (much, kind) = (4.0 / 12.0, 2.0 / 9.0 * 0.75 * 0.75);
        assert!(
            (shares[0] - much / (much + kind)).abs() < 0.06,
            "{shares:?}"
        );
        assert!(
            (shares[1] - kind / (much + kind)).abs() < 0.06,
            "{shares:?}"
        );
        assert!(shares[2] < 0.02, "{shares:?}");
        let flat: Vec<(&Point, f64)> = points.iter().map(|p| (p, 1.0)).collect();
        assert_eq!(of_dimensions(&space, &flat, 0), [0.0; 3]);
    }
}
