//! Hill climbing, one dimension at a time.

use rand::seq::SliceRandom;

use super::{Ask, Sight, Strategy, whole};
use crate::search::space::Point;

/// Tries what lies beside the point where it stands, in each dimension in turn and in an order at random, and
/// moves to the best of them if it is better; where no dimension has a better one, it begins anew at random. It
/// begins at the best point that was judged before, if there is one. For one objective.
#[derive(Default)]
pub struct Greedy {
    /// Where it stands, and its value.
    at: Option<(Point, f64)>,
    /// Dimensions of this round that are still to be tried.
    round: Vec<usize>,
    /// Whether this round has moved.
    moved: bool,
    /// What is looked at now, the next one last.
    near: Vec<Point>,
    /// The best of those that were looked at.
    best: Option<(Point, f64)>,
}

impl Greedy {
    /// Ends a dimension: moves if that is better.
    fn step(&mut self) {
        let better = |best: &(Point, f64)| self.at.as_ref().is_none_or(|at| best.1 < at.1);
        if let Some(best) = self.best.take().filter(better) {
            self.moved = true;
            self.at = Some(best);
        }
    }
}

impl Strategy for Greedy {
    fn ask(&mut self, sight: &mut Sight) -> Option<Ask> {
        if self.at.is_none() && self.near.is_empty() {
            let comparable = sight.comparable();
            let values = comparable.iter().map(|(point, values)| (*point, values[0]));
            let best = values.min_by(|a, b| a.1.total_cmp(&b.1));
            self.at = best.map(|(point, value)| (point.clone(), value));
            self.moved = self.at.is_some();
        }
        loop {
            while let Some(point) = self.near.last() {
                match sight.found(point) {
                    Some(judged) => {
                        let value = judged.values.as_ref().map(|values| values[0]);
                        let best = self.best.as_ref().map_or(f64::INFINITY, |best| best.1);
                        if let Some(value) = value.filter(|&value| value < best) {
                            self.best = Some((point.clone(), value));
                        }
                    }
                    None if sight.is_feasible(point) => return Some(whole(point.clone())),
                    None => {}
                }
                self.near.pop();
            }
            self.step();
            let all = sight.space.dimensions.len();
            if let Some((at, _)) = &self.at
                && (self.moved || !self.round.is_empty())
            {
                if self.round.is_empty() {
                    self.round = (0..all).collect();
                    self.round.shuffle(sight.random);
                    self.moved = false;
                }
                if let Some(dimension) = self.round.pop() {
                    self.near = sight.space.beside(at, dimension, sight.random);
                    self.near.shuffle(sight.random);
                    continue;
                }
            }
            // Nothing is better near by.
            self.at = None;
            self.moved = false;
            self.near = vec![sight.fresh()?];
        }
    }
}
