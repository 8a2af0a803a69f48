//! Metrics of the order in which scores put examples.

/// Area under the receiver operating characteristic: how likely an example of the class has a higher score than
/// another one, ties counting half (Fawcett, "An introduction to ROC analysis", 2006). `None` where all examples
/// are of the class, or none.
pub(super) fn roc_auc(scored: &mut [(f64, bool)]) -> Option<f64> {
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positives = scored.iter().filter(|(_, is)| *is).count() as f64;
    let negatives = scored.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return None;
    }
    // Of each set of equal scores: pairs with the negatives below, and half of those within.
    let (mut below, mut pairs) = (0.0, 0.0);
    for tied in scored.chunk_by(|a, b| a.0 == b.0) {
        let own = tied.iter().filter(|(_, is)| *is).count() as f64;
        let others = tied.len() as f64 - own;
        pairs += own * (below + others / 2.0);
        below += others;
    }
    Some(pairs / (positives * negatives))
}

/// `Σ (Rₙ − Rₙ₋₁) Pₙ` over the thresholds from the highest score on (scikit-learn's `average_precision_score`).
/// `None` where no example is of the class.
pub(super) fn average_precision(scored: &mut [(f64, bool)]) -> Option<f64> {
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    let positives = scored.iter().filter(|(_, is)| *is).count() as f64;
    if positives == 0.0 {
        return None;
    }
    let (mut found, mut taken, mut sum) = (0.0, 0.0, 0.0);
    for tied in scored.chunk_by(|a, b| a.0 == b.0) {
        let own = tied.iter().filter(|(_, is)| *is).count() as f64;
        found += own;
        taken += tied.len() as f64;
        sum += own / positives * (found / taken);
    }
    Some(sum)
}

/// Spearman's rank correlation: Pearson's of the ranks, ties having their mean. NaN where either is constant.
pub(crate) fn spearman(pairs: &[(f64, f64)]) -> f64 {
    let first = ranks(pairs.iter().map(|pair| pair.0));
    let second = ranks(pairs.iter().map(|pair| pair.1));
    let mean = (pairs.len() as f64 + 1.0) / 2.0;
    let sum = |of: &dyn Fn(f64, f64) -> f64| -> f64 {
        let both = first.iter().zip(&second);
        both.map(|(a, b)| of(a - mean, b - mean)).sum()
    };
    sum(&|a, b| a * b) / (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt()
}

/// From 1 on.
fn ranks(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut order: Vec<(usize, f64)> = values.enumerate().collect();
    order.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut ranks = vec![0.0; order.len()];
    let mut before = 0;
    for tied in order.chunk_by(|a, b| a.1 == b.1) {
        let rank = before as f64 + (tied.len() as f64 + 1.0) / 2.0;
        for &(place, _) in tied {
            ranks[place] = rank;
        }
        before += tied.len();
    }
    ranks
}
