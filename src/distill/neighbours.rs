//! How alike two embeddings of the same examples are, whatever their widths.

use crate::train::spearman;

/// Most examples that are compared, each with each.
pub const MOST: usize = 1_000;

/// How many nearest neighbours are looked at.
const NEAREST: usize = 10;

/// What the neighbours of examples say about a student's embedding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likeness {
    /// Rank correlation of the cosines of all pairs of examples, as the teacher and as the student has them.
    pub spearman: f64,
    /// Share of examples whose nearest neighbour is the same.
    pub recall_at_1: f64,
    /// Of the teacher's ten nearest neighbours, the share that is among the student's.
    pub recall_at_10: f64,
}

/// Compares embeddings of the same examples, one row each; nothing of fewer than three.
pub fn likeness(teacher: &[Vec<f32>], student: &[Vec<f32>]) -> Option<Likeness> {
    let count = teacher.len().min(student.len());
    if count < 3 {
        return None;
    }
    let (theirs, own) = (cosines(&teacher[..count]), cosines(&student[..count]));
    let pairs = (0..count).flat_map(|a| (0..a).map(move |b| a * count + b));
    let pairs: Vec<(f64, f64)> = pairs.map(|place| (theirs[place], own[place])).collect();
    let shared = |nearest: usize| {
        let of = |example: usize| {
            let wanted = neighbours(&theirs, example, count, nearest);
            let found = neighbours(&own, example, count, nearest);
            let same = wanted.iter().filter(|other| found.contains(other)).count();
            same as f64 / wanted.len() as f64
        };
        (0..count).map(of).sum::<f64>() / count as f64
    };
    Some(Likeness {
        spearman: spearman(&pairs),
        recall_at_1: shared(1),
        recall_at_10: shared(NEAREST),
    })
}

/// The cosine of each pair of rows, `[rows, rows]`.
fn cosines(rows: &[Vec<f32>]) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
        products.sum()
    };
    let lengths: Vec<f64> = rows
        .iter()
        .map(|row| dot(row, row).sqrt().max(1e-12))
        .collect();
    let each = (0..rows.len()).flat_map(|a| (0..rows.len()).map(move |b| (a, b)));
    each.map(|(a, b)| dot(&rows[a], &rows[b]) / (lengths[a] * lengths[b]))
        .collect()
}

/// The others that are nearest to an example, the nearest first.
fn neighbours(cosines: &[f64], example: usize, count: usize, nearest: usize) -> Vec<usize> {
    let row = &cosines[example * count..][..count];
    let mut others: Vec<usize> = (0..count).filter(|&other| other != example).collect();
    others.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
    others.truncate(nearest);
    others
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turned_and_stretched_embedding_is_as_good_as_the_same() {
        let rows: Vec<Vec<f32>> = (0..40)
            .map(|n| {
                vec![
                    (n as f32 * 0.7).sin(),
                    (n as f32 * 1.3).cos(),
                    n as f32 * 0.1,
                ]
            })
            .collect();
        let turned: Vec<Vec<f32>> = rows
            .iter()
            .map(|row| vec![3.0 * row[2], -3.0 * row[0], 3.0 * row[1], 0.0])
            .collect();
        let same = likeness(&rows, &turned).unwrap();
        assert!(same.spearman > 0.999 && same.recall_at_1 == 1.0 && same.recall_at_10 == 1.0);
        let other: Vec<Vec<f32>> = (0..40).map(|n| vec![(n as f32 * 9.1).sin(), 1.0]).collect();
        let less = likeness(&rows, &other).unwrap();
        assert!(less.spearman < 0.5 && less.recall_at_10 < 0.8, "{less:?}");
        assert!(likeness(&rows[..2], &rows[..2]).is_none());
    }
}
