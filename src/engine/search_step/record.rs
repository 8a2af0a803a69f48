//! What the trials so far say together.

use std::cmp::Ordering;

use super::Setup;
use super::candidates::minimized;
use crate::search::front;
use crate::search::space::Point;
use crate::spec::trial::{ScreeningOutcome, Trial, TrialStatus};

/// Objectives of which a hypervolume is told, at most; its cost grows with every one.
const MOST_MEASURED: usize = 4;

/// Trials in the order of judging, each with its point.
pub(super) type Record = Vec<(Point, Trial)>;

/// All trials, each with its index.
fn all(record: &Record) -> impl Iterator<Item = (usize, &Trial)> + Clone {
    record.iter().map(|(_, trial)| trial).enumerate()
}

/// The trials that were judged after a training of this length, with their objectives, made small.
fn alike<'a>(
    setup: &Setup,
    trials: impl Iterator<Item = (usize, &'a Trial)>,
    share: f64,
) -> Vec<(usize, Vec<f64>)> {
    trials
        .filter(|(_, trial)| trial.status == TrialStatus::Judged && trial.share == share)
        .filter_map(|(index, trial)| Some((index, minimized(trial, &setup.objectives)?)))
        .collect()
}

/// The best trial of those that were trained as long.
pub(super) fn leader<'a>(setup: &Setup, record: &'a Record, share: f64) -> Option<&'a Trial> {
    let alike = alike(setup, all(record), share).into_iter();
    let best = alike.min_by(|(_, a), (_, b)| a[0].total_cmp(&b[0]));
    best.map(|(index, _)| &record[index].1)
}

/// The trials that were trained longest, from the best to the worst by the first objective, then by the others.
fn complete<'a>(
    setup: &Setup,
    trials: impl Iterator<Item = (usize, &'a Trial)> + Clone,
) -> Vec<(usize, Vec<f64>)> {
    let judged = trials.clone().map(|(_, trial)| trial);
    let judged = judged.filter(|trial| trial.status == TrialStatus::Judged);
    let longest = judged.map(|trial| trial.share).fold(0.0, f64::max);
    let mut complete = alike(setup, trials, longest);
    // Later objectives decide between equals, so that the first is never beaten by another.
    complete.sort_by(|(_, a), (_, b)| {
        let pairs = a.iter().zip(b).map(|(a, b)| a.total_cmp(b));
        pairs.fold(Ordering::Equal, Ordering::then)
    });
    complete
}

/// Indices of the trials that were trained longest, from the best to the worst by the first objective.
pub(super) fn best_first(setup: &Setup, record: &Record) -> Vec<usize> {
    let complete = complete(setup, all(record)).into_iter();
    complete.map(|(index, _)| index).collect()
}

/// Indices of those `among` the trials that no other one of them beats in every objective, from the best by the
/// first one. A front and a new trial have the front that all trials have.
pub(super) fn front_of(
    setup: &Setup,
    record: &Record,
    among: impl Iterator<Item = usize> + Clone,
) -> Vec<usize> {
    let mut complete = complete(setup, among.map(|index| (index, &record[index].1)));
    if setup.objectives.len() == 1 {
        complete.truncate(1);
    }
    let values: Vec<&[f64]> = complete
        .iter()
        .map(|(_, values)| values.as_slice())
        .collect();
    let free = front::free(&values).into_iter();
    free.map(|at| complete[at].0).collect()
}

/// What the front covers, each objective by its range over the trials.
pub(super) fn volume(setup: &Setup, record: &Record) -> Option<f64> {
    if !(2..=MOST_MEASURED).contains(&setup.objectives.len()) {
        return None;
    }
    let complete = complete(setup, all(record));
    let column = |at: usize| complete.iter().map(move |(_, values)| values[at]);
    let ends: Vec<(f64, f64)> = (0..setup.objectives.len())
        .map(|at| {
            (
                column(at).fold(f64::INFINITY, f64::min),
                column(at).fold(f64::NEG_INFINITY, f64::max),
            )
        })
        .collect();
    let scaled: Vec<Vec<f64>> = complete
        .iter()
        .map(|(_, values)| {
            let pairs = values.iter().zip(&ends);
            pairs
                .map(|(value, (low, high))| (value - low) / (high - low).max(f64::MIN_POSITIVE))
                .collect()
        })
        .collect();
    let points: Vec<&[f64]> = scaled.iter().map(Vec::as_slice).collect();
    Some(front::hypervolume(&points, &vec![1.0; ends.len()]))
}

/// How scores without training agree with what training found.
pub(super) fn foretold(setup: &Setup, record: &Record) -> Option<ScreeningOutcome> {
    let screening = setup.params.screening?;
    let complete = complete(setup, all(record));
    let better: Vec<f64> = complete.iter().map(|(_, values)| -values[0]).collect();
    let of = |figure: &dyn Fn(&Trial) -> Option<f64>| {
        let figures: Option<Vec<f64>> = complete
            .iter()
            .map(|(index, _)| figure(&record[*index].1))
            .collect();
        rank_correlation(&figures?, &better)
    };
    Some(ScreeningOutcome {
        proxy: screening.proxy,
        candidates: screening.candidates,
        correlation: of(&|trial| trial.proxy),
        parameters_correlation: of(&|trial| Some(trial.cost.as_ref()?.parameters as f64)),
    })
}

/// Spearman's, ties by their mean rank; `None` where one side does not vary.
fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let ranks = |values: &[f64]| -> Vec<f64> {
        let below = |x: f64| values.iter().filter(|&&y| y < x).count() as f64;
        let same = |x: f64| values.iter().filter(|&&y| y == x).count() as f64;
        values.iter().map(|&x| below(x) + same(x) / 2.0).collect()
    };
    let centered = |values: Vec<f64>| -> Vec<f64> {
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        values.into_iter().map(|x| x - mean).collect()
    };
    let (a, b) = (centered(ranks(a)), centered(ranks(b)));
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let sizes = (product(&a, &a) * product(&b, &b)).sqrt();
    (sizes > 0.0).then(|| product(&a, &b) / sizes)
}

/// Epochs of all trainings.
pub(super) fn trained(record: &Record) -> u64 {
    let folds = record.iter().flat_map(|(_, trial)| &trial.folds);
    folds.map(|fold| u64::from(fold.epochs)).sum()
}
