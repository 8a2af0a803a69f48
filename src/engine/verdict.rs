//! Whether a method was worth it: its model beside that of its control, on the same test examples.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::child::Ended;
use super::job::Job;
use super::problem::no_data;
use crate::data::Role;
use crate::graph::Graph;
use crate::spec::evaluate::MetricName;
use crate::spec::result::Comparison;
use crate::train::{Evaluator, Loss};

/// How often the signs are drawn: a p-value of 0.05 then has a standard error of 0.002.
const DRAWS: usize = 9_999;

/// With more examples that differ the sum is as good as normal.
const MOST_DRAWN: usize = 10_000;

/// A model on a split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Tested {
    /// By name; some may not be finite.
    pub metrics: BTreeMap<String, f64>,
    /// What each example adds to the metric that decides, in the order of the split; empty where it is no mean over examples.
    pub each: Vec<f64>,
}

impl Job<'_> {
    /// The metrics `names` of a split, and what its examples add to `deciding`.
    pub(super) fn tested(
        &self,
        graph: &Graph,
        role: Role,
        names: &[MetricName],
        deciding: Option<MetricName>,
    ) -> Result<Tested, Ended> {
        let data = self
            .data
            .as_ref()
            .ok_or_else(|| no_data("a comparison of models"))?;
        let task = data.about.task;
        let measured = Evaluator::new(graph, &self.device, Loss::of_task(task))
            .wanting(names)
            .telling_apart(deciding)
            .measure_graph(data, role)?;
        let values = names.iter();
        let values = values.map(|&name| (name.as_str().to_owned(), measured.metric(name, task)));
        Ok(Tested {
            metrics: values.collect(),
            // Where one has no number, nothing can be paired, and JSON has no word for it.
            each: Some(measured.each())
                .filter(|each| each.iter().all(|value| value.is_finite()))
                .unwrap_or_default(),
        })
    }
}

/// Both models by the metric `deciding`; `None` where one of them has no finite value of it.
pub(super) fn compare(own: &Tested, control: &Tested, deciding: MetricName) -> Option<Comparison> {
    let of = |tested: &Tested| {
        let value = tested.metrics.get(deciding.as_str()).copied();
        value.filter(|value| value.is_finite())
    };
    let (value, of_control) = (of(own)?, of(control)?);
    let paired = own.each.len() == control.each.len() && !own.each.is_empty();
    let pairs = own.each.iter().zip(&control.each);
    let differences: Vec<f64> = pairs.map(|(own, other)| own - other).collect();
    Some(Comparison {
        metric: deciding,
        value,
        control: of_control,
        p_value: paired.then(|| by_chance(&differences)),
    })
}

/// How often differences of paired examples would sum to as much or more, in either direction, if each might as well be
/// the other way round: the p-value of Fisher's paired randomisation test (The Design of Experiments, 1935, section 21).
fn by_chance(differences: &[f64]) -> f64 {
    let different: Vec<f64> = (differences.iter().copied())
        .filter(|difference| *difference != 0.0)
        .collect();
    let sum = different.iter().sum::<f64>().abs();
    if different.is_empty() {
        return 1.0;
    }
    if different.len() > MOST_DRAWN {
        let squares: f64 = different
            .iter()
            .map(|difference| difference * difference)
            .sum();
        return libm::erfc(sum / (2.0 * squares).sqrt());
    }
    // Sums of the same numbers in another order may differ in their last digits.
    let least = sum * (1.0 - 1e-9);
    let mut signs = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    let as_much = (0..DRAWS).filter(|_| {
        let drawn: f64 = different
            .chunks(64)
            .map(|chunk| {
                let bits = signs.next_u64();
                let signed = chunk.iter().enumerate();
                signed
                    .map(|(place, difference)| match (bits >> place) & 1 {
                        0 => *difference,
                        _ => -difference,
                    })
                    .sum::<f64>()
            })
            .sum();
        drawn.abs() >= least
    });
    (as_much.count() + 1) as f64 / (DRAWS + 1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `k` examples that one model alone has right, `l` that the other has, and many that don't differ.
    fn right(k: usize, l: usize) -> Vec<f64> {
        let mut differences = vec![1.0; k];
        differences.extend(vec![-1.0; l]);
        differences.extend(vec![0.0; 100]);
        differences
    }

    /// Numbers from SciPy: `binomtest(min(k, l), k + l).pvalue`, which is McNemar's exact test.
    #[test]
    fn of_right_and_wrong_answers_it_is_mcnemars_exact_test() {
        let near = |k, l, exact: f64| {
            let found = by_chance(&right(k, l));
            let error = (exact * (1.0 - exact) / DRAWS as f64).sqrt();
            assert!(
                (found - exact).abs() < 4.0 * error + 1e-4,
                "{k} {l}: {found}"
            );
        };
        near(0, 0, 1.0);
        near(4, 0, 0.125);
        near(0, 6, 0.03125);
        near(15, 5, 0.041_389);
        near(60, 40, 0.056_888);
    }

    /// Of ever more of the same differences, drawn and by the normal distribution.
    #[test]
    fn many_examples_are_judged_like_few() {
        let some =
            |count: usize| -> Vec<f64> { (0..count).map(|at| [1.0, -0.97][at % 2]).collect() };
        let (drawn, normal) = (
            by_chance(&some(MOST_DRAWN)),
            by_chance(&some(MOST_DRAWN + 2)),
        );
        assert!((drawn - normal).abs() < 0.02, "{drawn} {normal}");
        assert!((0.1..0.15).contains(&normal), "{normal}");
    }

    #[test]
    fn what_is_no_mean_over_examples_has_no_p_value() {
        let tested = |f1: f64| Tested {
            metrics: [("f1".to_owned(), f1)].into(),
            each: Vec::new(),
        };
        let found = compare(&tested(0.5), &tested(0.25), MetricName::F1).unwrap();
        assert!(found.helped() && found.p_value.is_none() && found.significant().is_none());
        assert_eq!(
            compare(&tested(0.5), &tested(f64::NAN), MetricName::F1),
            None
        );
    }
}
