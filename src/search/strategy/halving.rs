//! Many short trainings, of which the best go on.

use super::{Ask, Judged, Sight, Strategy, best_first, whole};
use crate::search::space::Point;

/// Points that go through the same rounds.
#[derive(Debug)]
struct Bracket {
    /// How many begin.
    begins: usize,
    /// Rounds, of which each trains `eta` times longer than the one before; the last one in full.
    rounds: u32,
}

/// Successive halving (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification", AISTATS 2016), and
/// Hyperband, which does that with several lengths of the first round (Li et al., "Hyperband", JMLR 2018,
/// algorithm 1). The points that begin come from another strategy, which sees what was judged after the longest
/// training that enough of them had.
pub struct Halving {
    around: Box<dyn Strategy>,
    eta: usize,
    brackets: Vec<Bracket>,
    /// The bracket under way, the round in it, and its points.
    bracket: usize,
    round: u32,
    points: Vec<Point>,
    /// Where the round began among all that was judged; `None` before anything was asked.
    since: Option<usize>,
}

impl Halving {
    /// One bracket: `begins` points, of which each of `rounds` rounds leaves one of `eta`.
    pub fn successive(around: Box<dyn Strategy>, begins: usize, eta: usize, rounds: u32) -> Self {
        Self::new(around, eta, vec![Bracket { begins, rounds }])
    }

    /// All brackets from the one with the shortest first round to the one that trains in full, at most `rounds`
    /// rounds, scaled so that they begin with about `begins` points together.
    pub fn hyperband(around: Box<dyn Strategy>, begins: usize, eta: usize, rounds: u32) -> Self {
        let plain =
            |more: u32| f64::from(rounds) / f64::from(more + 1) * (eta as f64).powi(more as i32);
        let all: f64 = (0..rounds).map(plain).sum();
        let brackets = (0..rounds).rev().map(|more| Bracket {
            begins: ((plain(more) / all * begins as f64).round() as usize).max(1),
            rounds: more + 1,
        });
        Self::new(around, eta, brackets.collect())
    }

    fn new(around: Box<dyn Strategy>, eta: usize, brackets: Vec<Bracket>) -> Self {
        Self {
            around,
            eta: eta.max(2),
            brackets,
            bracket: 0,
            round: 0,
            points: Vec::new(),
            since: None,
        }
    }

    fn share(&self, bracket: &Bracket) -> f64 {
        let left = bracket.rounds - 1 - self.round;
        (self.eta as f64).powi(-(left as i32))
    }
}

impl Strategy for Halving {
    fn ask(&mut self, sight: &mut Sight) -> Option<Ask> {
        loop {
            let bracket = self.brackets.get(self.bracket)?;
            let share = self.share(bracket);
            let all: &[Judged] = sight.judged;
            // What an earlier search had judged is no part of the first round.
            let since = *self.since.get_or_insert(all.len());
            let judged = &all[since.min(all.len())..];
            if self.round == 0 && judged.len() < bracket.begins {
                if let Some(ask) = self.around.ask(sight) {
                    return Some(Ask { share, ..ask });
                }
            } else if self.round > 0 && judged.len() < self.points.len() {
                let point = self.points[judged.len()].clone();
                return Some(Ask {
                    share,
                    ..whole(point)
                });
            }
            // The round is over.
            let done: Vec<(&Point, &[f64])> = judged
                .iter()
                .filter_map(|each| Some((&each.point, each.values.as_deref()?)))
                .collect();
            let left = judged.len() / self.eta;
            let best = best_first(&done).into_iter().take(left.max(1));
            let points: Vec<Point> = best.map(|index| done[index].0.clone()).collect();
            let over = self.round + 1 == bracket.rounds || points.is_empty();
            self.since = Some(sight.judged.len());
            self.round = if over { 0 } else { self.round + 1 };
            self.bracket += usize::from(over);
            self.points = if over { Vec::new() } else { points };
        }
    }
}
