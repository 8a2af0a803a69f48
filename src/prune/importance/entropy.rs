//! What the activations of a unit say.

use super::units::{by_mean, reduce};
use crate::graph::Graph;
use crate::graph::coupling::Group;
use crate::graph::reading::Reading;
use crate::prune::PruneError;
use crate::prune::calibration::{Calibration, Values};
use crate::spec::prune::Reduction;

/// Bins of a histogram.
const BINS: usize = 32;

/// The entropy, in nats, of what each kernel reads of a unit (Luo and Wu, "An Entropy-based Pruning
/// Method for CNN Compression", 2017, eq. 2), by the mean of the units that the kernel reads, reduced over
/// the kernels that read it; infinite for a unit that none reads.
///
/// The values of an example are averaged over places to one number; a histogram of [`BINS`] bins, which all
/// units that a kernel reads have in common, gives the probabilities. (The paper's bins are each unit's own,
/// between its least and greatest value. Then the entropy tells the shape of a distribution and not its
/// width: a unit that hardly moves says as much as one that moves a lot. On digits such an order was worse than
/// a random one.) With N examples the estimate is
/// too low by some `(bins − 1) ÷ 2N` (Miller 1955), about alike for all units, so the order is hardly
/// concerned. A unit that says the same of every example has the entropy 0 and goes first.
pub(super) fn of_units(
    graph: &Graph,
    groups: &[Group],
    reduction: Reduction,
    calibration: &dyn Calibration,
) -> Result<Vec<Vec<f64>>, PruneError> {
    struct Series {
        group: usize,
        unit: usize,
        reading: usize,
        channels: Vec<usize>,
        values: Vec<f64>,
    }
    let readings = Reading::all(graph);
    let mut all = Vec::new();
    for (group, own) in groups.iter().enumerate() {
        for (unit, slices) in own.units.iter().enumerate() {
            for slice in &slices.slices {
                for (reading, read) in readings.iter().enumerate() {
                    if read.kernel != slice.tensor {
                        continue;
                    }
                    let dims = &graph.initializers[&slice.tensor].dims;
                    let channels = read.channels_at(dims, slice.axis, &slice.indices);
                    if !channels.is_empty() {
                        all.push(Series {
                            group,
                            unit,
                            reading,
                            channels,
                            values: Vec::new(),
                        });
                    }
                }
            }
        }
    }
    let data: Vec<&str> = readings
        .iter()
        .map(|reading| reading.data.as_str())
        .collect();
    let mut left = calibration.examples();
    calibration.values(graph, &data, &mut |values| {
        let means: Vec<Vec<Vec<f64>>> = readings
            .iter()
            .zip(values)
            .map(|(reading, values)| {
                let axis = reading.channel_axis(values.dims.len());
                means_of_examples(values, axis, reading.example_axis(), left)
            })
            .collect();
        for series in &mut all {
            for channels in &means[series.reading] {
                let own = series.channels.iter().map(|&channel| channels[channel]);
                series
                    .values
                    .push(own.sum::<f64>() / series.channels.len() as f64);
            }
        }
        left -= means.iter().map(Vec::len).max().unwrap_or(0).min(left);
    })?;
    let mut by_unit: Vec<Vec<Vec<f64>>> = groups
        .iter()
        .map(|group| vec![Vec::new(); group.units.len()])
        .collect();
    all.sort_by_key(|series| (series.group, series.reading));
    for read in all.chunk_by(|a, b| (a.group, a.reading) == (b.group, b.reading)) {
        let all = read.iter().flat_map(|series| series.values.iter().copied());
        let range = all.fold(
            (f64::INFINITY, f64::NEG_INFINITY),
            |(least, most), value| (least.min(value), most.max(value)),
        );
        let of = |series: &Series| entropy(&series.values, range);
        let mut entropies: Vec<f64> = read.iter().map(of).collect();
        by_mean(&mut entropies);
        for (series, entropy) in read.iter().zip(entropies) {
            by_unit[series.group][series.unit].push(entropy);
        }
    }
    let reduced = |units: &Vec<Vec<f64>>| units.iter().map(|own| reduce(reduction, own)).collect();
    Ok(by_unit.iter().map(reduced).collect())
}

/// For each example (an index of axis `example`, where that is not the channels'), the mean of each
/// channel; at most `most` examples.
fn means_of_examples(values: &Values, axis: usize, example: usize, most: usize) -> Vec<Vec<f64>> {
    let dims = &values.dims;
    let inner = |axis: usize| dims[axis + 1..].iter().product::<usize>().max(1);
    let (channels, examples) = (dims[axis], if axis == example { 1 } else { dims[example] });
    let (channel, of_example) = (inner(axis), inner(example));
    let places = (values.elements.len() / (channels * examples).max(1)).max(1) as f64;
    let mut means = vec![vec![0.0; channels]; examples.min(most)];
    for (place, &value) in values.elements.iter().enumerate() {
        if let Some(own) = means.get_mut(place / of_example % examples) {
            own[place / channel % channels] += f64::from(value) / places;
        }
    }
    means
}

/// `−Σ p ln p` of a histogram of [`BINS`] bins from `least` to `greatest`.
fn entropy(values: &[f64], (least, greatest): (f64, f64)) -> f64 {
    let spread = greatest - least;
    if !spread.is_finite() || spread <= f64::EPSILON * greatest.abs().max(least.abs()) {
        return 0.0;
    }
    let mut counts = [0usize; BINS];
    for value in values {
        let place = (value - least) / spread * BINS as f64;
        counts[(place as usize).min(BINS - 1)] += 1;
    }
    let all = values.len() as f64;
    let shares = counts.iter().filter(|&&count| count > 0);
    shares
        .map(|&count| count as f64 / all)
        .map(|share| -share * share.ln())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_values_alike_often_say_one_bit_and_one_value_nothing() {
        assert!((entropy(&[0.0, 5.0, 0.0, 5.0], (-1.0, 5.0)) - 2f64.ln()).abs() < 1e-12);
        assert_eq!(entropy(&[3.0; 9], (0.0, 5.0)), 0.0);
        assert_eq!(entropy(&[3.0; 9], (3.0, 3.0)), 0.0);
        // What moves by less than a bin says nothing.
        assert_eq!(entropy(&[3.0, 3.01], (0.0, 5.0)), 0.0);
    }

    #[test]
    fn channels_are_averaged_over_places_example_by_example() {
        let values = Values {
            dims: vec![2, 2, 2],
            elements: vec![1.0, 3.0, 5.0, 7.0, 2.0, 2.0, 4.0, 8.0],
        };
        let means = means_of_examples(&values, 1, 0, 2);
        assert_eq!(means, [vec![2.0, 6.0], vec![2.0, 6.0]]);
        // Time first, then examples, then channels, as recurrent layers have them.
        let means = means_of_examples(&values, 2, 1, 2);
        assert_eq!(means, [vec![1.5, 2.5], vec![4.5, 7.5]]);
    }
}
