//! Several objectives at once: what dominates what, and how much a front covers. All are made small.

/// Whether `a` is nowhere worse than `b` and somewhere better.
pub fn dominates(a: &[f64], b: &[f64]) -> bool {
    let pairs = || a.iter().zip(b);
    pairs().all(|(a, b)| a <= b) && pairs().any(|(a, b)| a < b)
}

/// The indices of the points that none dominates, in order.
pub fn free(points: &[&[f64]]) -> Vec<usize> {
    let mut free: Vec<usize> = Vec::new();
    for (index, point) in points.iter().enumerate() {
        if free.iter().any(|&other| dominates(points[other], point)) {
            continue;
        }
        free.retain(|&other| !dominates(point, points[other]));
        free.push(index);
    }
    free
}

/// For each point the front that it is in: 0 for those that none dominates, 1 for those that only points of
/// front 0 dominate, and so on (Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm: NSGA-II",
/// 2002, section III-A).
pub fn ranks(points: &[&[f64]]) -> Vec<usize> {
    let mut ranks = vec![usize::MAX; points.len()];
    let mut left: Vec<usize> = (0..points.len()).collect();
    for rank in 0.. {
        if left.is_empty() {
            break;
        }
        let own: Vec<&[f64]> = left.iter().map(|&point| points[point]).collect();
        for index in free(&own) {
            ranks[left[index]] = rank;
        }
        left.retain(|&point| ranks[point] == usize::MAX);
    }
    ranks
}

/// For each point of one front the sum of the gaps between its neighbours in each objective, by the front's
/// width; infinite at the ends (section III-B).
pub fn crowding(points: &[&[f64]]) -> Vec<f64> {
    let mut distances = vec![0.0; points.len()];
    let objectives = points.first().map_or(0, |point| point.len());
    for objective in 0..objectives {
        let mut order: Vec<usize> = (0..points.len()).collect();
        order.sort_by(|&a, &b| points[a][objective].total_cmp(&points[b][objective]));
        let (Some(&first), Some(&last)) = (order.first(), order.last()) else {
            continue;
        };
        distances[first] = f64::INFINITY;
        distances[last] = f64::INFINITY;
        let width = points[last][objective] - points[first][objective];
        if width > 0.0 {
            for near in order.windows(3) {
                let gap = points[near[2]][objective] - points[near[0]][objective];
                distances[near[1]] += gap / width;
            }
        }
    }
    distances
}

/// The points from the best to the worst: by one objective, or by their fronts and the widest gaps first.
pub fn order(points: &[&[f64]]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    if points.first().is_none_or(|point| point.len() == 1) {
        order.sort_by(|&a, &b| points[a][0].total_cmp(&points[b][0]));
        return order;
    }
    let ranks = ranks(points);
    let mut gaps = vec![0.0; points.len()];
    for rank in 0..=ranks.iter().copied().max().unwrap_or(0) {
        let own: Vec<usize> = (0..points.len()).filter(|&p| ranks[p] == rank).collect();
        let of_front: Vec<&[f64]> = own.iter().map(|&point| points[point]).collect();
        for (point, gap) in own.into_iter().zip(crowding(&of_front)) {
            gaps[point] = gap;
        }
    }
    order.sort_by(|&a, &b| ranks[a].cmp(&ranks[b]).then(gaps[b].total_cmp(&gaps[a])));
    order
}

/// The volume between the points and `reference` that some point dominates (Zitzler and Thiele 1999), by
/// slices along the last objective.
pub fn hypervolume(points: &[&[f64]], reference: &[f64]) -> f64 {
    let inside = |point: &&&[f64]| point.iter().zip(reference).all(|(x, end)| x < end);
    let inside: Vec<&[f64]> = points.iter().filter(inside).copied().collect();
    // What another point dominates, or equals, adds nothing, and there are many of those.
    let mut alone: Vec<&[f64]> = Vec::new();
    for point in free(&inside).into_iter().map(|index| inside[index]) {
        if !alone.contains(&point) {
            alone.push(point);
        }
    }
    let mut inside = alone;
    let Some(last) = reference.len().checked_sub(1) else {
        return 0.0;
    };
    if last == 0 {
        let best = inside
            .iter()
            .map(|point| point[0])
            .fold(f64::INFINITY, f64::min);
        return (reference[0] - best).max(0.0);
    }
    inside.sort_by(|a, b| a[last].total_cmp(&b[last]));
    let mut volume = 0.0;
    for index in 0..inside.len() {
        let end = inside
            .get(index + 1)
            .map_or(reference[last], |next| next[last]);
        let height = end - inside[index][last];
        if height > 0.0 {
            let base: Vec<&[f64]> = inside[..=index]
                .iter()
                .map(|point| &point[..last])
                .collect();
            volume += height * hypervolume(&base, &reference[..last]);
        }
    }
    volume
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fronts_lie_behind_each_other() {
        let points: [&[f64]; 5] = [
            &[1.0, 4.0],
            &[2.0, 2.0],
            &[4.0, 1.0],
            &[3.0, 3.0],
            &[4.0, 4.0],
        ];
        assert_eq!(ranks(&points), [0, 0, 0, 1, 2]);
        assert_eq!(crowding(&points[..3]), [f64::INFINITY, 2.0, f64::INFINITY]);
        assert_eq!(order(&points)[3..], [3, 4]);
        assert_eq!(order(&[&[2.0], &[1.0], &[3.0]]), [1, 0, 2]);
    }

    #[test]
    fn volumes_of_boxes_are_counted_once() {
        let points: [&[f64]; 3] = [&[1.0, 3.0], &[2.0, 2.0], &[3.0, 1.0]];
        assert_eq!(hypervolume(&points, &[4.0, 4.0]), 3.0 + 2.0 + 1.0);
        assert_eq!(hypervolume(&points, &[2.0, 4.0]), 1.0);
        let cubes: [&[f64]; 2] = [&[0.0, 0.0, 1.0], &[1.0, 1.0, 0.0]];
        assert_eq!(hypervolume(&cubes, &[2.0, 2.0, 2.0]), 4.0 + 2.0 - 1.0);
        assert_eq!(hypervolume(&[], &[1.0]), 0.0);
    }
}
