//! Whether a model would do better with its inputs prepared in another way that is usual.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::doubt::order_in_words;
use crate::data::{Prepared, Role};
use crate::exec::Device;
use crate::graph::Graph;
use crate::spec::audio::{
    AudioConvention, AudioLogarithm, AudioPreparation, SpectrogramPreparation,
};
use crate::spec::evaluate::MetricName;
use crate::spec::fit::InferredInput;
use crate::spec::job::Task;
use crate::spec::model::Expected;
use crate::spec::result::{Measurement, rounded};
use crate::train::{Evaluator, Loss, Measured};

/// By what it is judged, and a gain that is no chance and worth a warning.
const JUDGES: [(MetricName, f64); 2] = [(MetricName::Accuracy, 0.1), (MetricName::R2, 0.2)];

/// Examples of the test split that are looked at: a twentieth of it, within these bounds.
const EXAMPLES: (usize, usize) = (256, 512);

/// Examples of the train split out of which means and deviations are taken, and numbers of them, at most.
const SAMPLED: usize = 2_000;
const MOST_NUMBERS: usize = 16 << 20;

/// Fewer examples than these tell nothing.
const FEWEST: usize = 50;

/// Means and deviations of more channels than these are not written out for people.
const MOST_SHOWN: usize = 8;

/// How long ways are tried.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// How good a model is, and the order of its classes where it is that in another one.
type Found = (f64, Option<Vec<u64>>);

/// Kinds of warnings.
const INPUTS: &str = "inputs_on_another_scale";
const TARGET: &str = "target_on_another_scale";

/// A better way, for people and for programs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Better {
    pub kind: String,
    pub text: String,
    pub data: serde_json::Value,
}

/// A way to prepare an input, as `data.preprocess` has it.
#[derive(Clone)]
struct Way {
    words: &'static str,
    /// How recordings are made features, where that is another way, too.
    audio: Option<AudioPreparation>,
    scale: f64,
    mean: Vec<f64>,
    std: Vec<f64>,
}

/// Another preparation of the only input that holds numbers, by which the model is much better on some of the test
/// examples than it is by that of `data`, be it with its classes in another order; `before` is how good that is, and `expected`
/// what the model's file says of its inputs; ways are tried as long as `go_on` says. What can't be measured is no better, and
/// what is bad on any scale has another fault.
pub(super) fn better(
    graph: &Graph,
    device: &Device,
    data: &Prepared,
    before: &Measurement,
    expected: Option<&Expected>,
    go_on: &dyn Fn() -> bool,
) -> Option<Better> {
    let (judge, gain) = JUDGES.into_iter().find(|(judge, gain)| {
        let value = before.metrics.get(judge.as_str());
        value.is_some_and(|value| *value < 1.0 - gain)
    })?;
    let inputs = &data.about.inputs;
    let mut numbers =
        (inputs.iter().enumerate()).filter(|(_, input)| !input.zeros && input.tokens.is_none());
    let (place, input) = numbers.next()?;
    if numbers.next().is_some() || inputs.iter().any(|input| input.tokens.is_some()) {
        return None;
    }
    // Where few examples test, those that train tell as well how they were prepared.
    let mut splits = [Role::Test, Role::Train].into_iter();
    let role = splits.find(|role| data.count(*role) >= FEWEST)?;
    let (least, most) = EXAMPLES;
    let few = data.few_of(role, (data.count(role) / 20).clamp(least, most));
    let count = few.count(role);
    let split = if role == Role::Test { "test" } else { "train" };
    let needed = f64::max(gain, 3.0 / (count as f64).sqrt());
    let task = data.about.task;
    let evaluator = Evaluator::new(graph, device, Loss::of_task(task));
    let fed = |way: &Way| {
        let mut inputs = inputs.clone();
        let own = &mut inputs[place];
        own.scale = way.scale;
        own.mean.clone_from(&way.mean);
        own.std.clone_from(&way.std);
        own.audio = way.audio.clone().or(own.audio.take());
        few.fed_as(inputs)
    };
    let measured = |data: &Prepared| evaluator.measure_graph(data, role).ok();
    let judged = |measured: &Measured| {
        let value = Some(measured.metric(judge, task)).filter(|value| value.is_finite())?;
        // A wrong order hides that the inputs are right.
        let quality = Some(measured).filter(|_| judge == MetricName::Accuracy);
        let ordered = quality.and_then(|measured| measured.quality()?.in_order());
        Some(ordered.map_or((value, None), |(value, order)| (value, Some(order))))
    };
    let first = measured(&few)?;
    let (now, _) = judged(&first)?;
    let is_better = |(found, _): &(Found, Way)| found.0 - now > needed && found.0 > gain;
    let judge_way = |way: Way| Some((judged(&measured(&fed(&way))?)?, way));
    // What the model's own job did needs no guess.
    let found = recorded(input, expected)
        .and_then(judge_way)
        .filter(is_better)
        .or_else(|| {
            let (moments, largest) = sampled(data, place, input);
            let others = other_features(input).flat_map(|(words, normalised, audio)| {
                let input = InferredInput {
                    audio: Some(audio.clone()),
                    ..input.clone()
                };
                let (moments, _) = sampled(data, place, &input);
                let own = Way {
                    words,
                    scale: input.scale,
                    mean: input.mean.clone(),
                    std: input.std.clone(),
                    audio: Some(audio.clone()),
                };
                [
                    own,
                    Way {
                        words: normalised,
                        audio: Some(audio),
                        ..standardised(&moments, 1.0)
                    },
                ]
            });
            let best = |ways: &mut dyn Iterator<Item = Way>| {
                ways.take_while(|_| go_on())
                    .filter_map(judge_way)
                    // Of ways that are as good the one that changes less, which comes first.
                    .reduce(|best, next| if next.0.0 > best.0.0 { next } else { best })
                    .filter(is_better)
            };
            // Other features only where no scale of these does it.
            best(&mut ways(input, &moments, largest).into_iter())
                .or_else(|| best(&mut others.into_iter()))
        });
    let Some(((value, order), way)) = found else {
        return line_of(&first, task, needed);
    };
    let mut preprocess = match way.mean.iter().all(|mean| *mean == 0.0) && way.std == [1.0] {
        true => json!({"scale": way.scale}),
        false => json!({"scale": way.scale, "mean": way.mean, "std": way.std}),
    };
    if let Some(audio) = &way.audio {
        preprocess["audio"] = json!(audio.options());
    }
    let shown = match way.mean.len() > MOST_SHOWN {
        true => "; `data` of the warning, in the job's result and its events, has the numbers"
            .to_owned(),
        false => format!(": {preprocess}"),
    };
    let (words, judge) = (way.words, judge.as_str());
    let mut told = json!({"preprocess": preprocess, "metric": judge, "value": now, "better": value, "examples": count});
    let ordered = order.as_ref().map_or_else(String::new, |order| {
        told["order"] = json!(order);
        let names = data.about.class_names.as_deref();
        format!(
            " and its classes in another order ({})",
            order_in_words(order, names)
        )
    });
    Some(Better {
        kind: INPUTS.to_owned(),
        text: format!(
            "on {count} examples of the {split} split the {judge} of the model as it came is {now:.4}, and {value:.4} {words}{ordered}; \
             if that is how it was trained, say so with `data.preprocess`{shown}"
        ),
        data: told,
    })
}

/// That outputs fit the target once they are multiplied and moved, as those of a model do that was trained on a target less its
/// mean and divided by its deviation; `needed` is how much better that must be.
fn line_of(measured: &Measured, task: Task, needed: f64) -> Option<Better> {
    let (slope, offset, r2) = measured.line().filter(|_| task == Task::Regression)?;
    let now = measured.metric(MetricName::R2, task);
    let is_better = r2 - now.max(-1.0) > needed.max(0.2) && r2 > 0.2 && slope > 0.0;
    let [by, plus] = [slope, offset].map(|value| rounded(value, 5));
    is_better.then(|| Better {
        kind: TARGET.to_owned(),
        text: format!(
            "what the model says fits the target once it is multiplied by {by} and {plus} is added (R2 {r2:.4}, as it is {now:.4}): it was \
             trained on a target on another scale, most often less its mean and divided by its deviation. Upload the target so: (value − \
             {plus}) ÷ {by}"
        ),
        data: json!({"scale": by, "offset": plus, "metric": "r2", "value": now, "better": r2}),
    })
}

/// The way that the job had which made the model, as its file says.
fn recorded(input: &InferredInput, expected: Option<&Expected>) -> Option<Way> {
    let mut inputs = expected?.inputs.iter();
    let own = inputs.find(|own| own.input == input.input)?;
    let shape = |of: &InferredInput| of.audio.as_ref().map(AudioPreparation::shape);
    let audio = own.audio.clone().filter(|_| own.audio != input.audio);
    let numbers = |of: &InferredInput| (of.scale, of.mean.clone(), of.std.clone());
    let is_other = audio.is_some() || numbers(own) != numbers(input);
    let fits = shape(own) == shape(input)
        && [own.mean.len(), own.std.len()]
            .iter()
            .all(|&count| count == 1 || count == input.channels());
    (is_other && fits).then(|| Way {
        words: "with its inputs prepared as in the job that made it",
        audio,
        scale: own.scale,
        mean: own.mean.clone(),
        std: own.std.clone(),
    })
}

/// Inputs less their mean and divided by their standard deviation, `moments`, after they were multiplied by `scale`.
fn standardised(moments: &[(f64, f64)], scale: f64) -> Way {
    // Five digits are as many as a sample has.
    let rounded = |value: f64| rounded(value, 5);
    let means = moments.iter().map(|(mean, _)| rounded(mean * scale));
    let stds = moments.iter().map(|(_, std)| match rounded(std * scale) {
        // What never changes tells nothing, on whatever scale.
        0.0 => 1.0,
        std => std,
    });
    Way {
        words: "with its inputs less their mean and divided by their standard deviation, as the train split has them",
        audio: None,
        scale,
        mean: means.collect(),
        std: stds.collect(),
    }
}

/// Features of recordings cut off where nothing was, by the other convention, and with the other logarithm: in words as they
/// are, and less their mean and divided by their deviation.
fn other_features(
    input: &InferredInput,
) -> impl Iterator<Item = (&'static str, &'static str, AudioPreparation)> {
    let with = |change: fn(&mut SpectrogramPreparation)| {
        let mut audio = input.audio.clone()?;
        change(audio.spectrogram.as_mut()?);
        (Some(&audio) != input.audio.as_ref()).then_some(audio)
    };
    let cut = with(|how| {
        if how.logarithm == AudioLogarithm::Db {
            how.top_db = how.top_db.or(Some(80.0));
        }
    });
    let convention = with(|how| {
        how.convention = match how.convention {
            AudioConvention::Librosa => AudioConvention::Torchaudio,
            AudioConvention::Torchaudio => AudioConvention::Librosa,
        };
    });
    let logarithm = with(|how| {
        (how.logarithm, how.top_db) = match how.logarithm {
            AudioLogarithm::Db => (AudioLogarithm::Natural, None),
            AudioLogarithm::Natural => (AudioLogarithm::Db, Some(80.0)),
        };
    });
    [
        cut.map(|audio| {
            let words = "with its features at most 80 decibels below the loudest";
            let normalised = "with its features at most 80 decibels below the loudest, less their mean and divided by their deviation";
            (words, normalised, audio)
        }),
        convention.map(|audio| {
            let words = "with its features by the other convention";
            let normalised = "with its features by the other convention, less their mean and divided by their deviation";
            (words, normalised, audio)
        }),
        logarithm.map(|audio| {
            let words = "with the other logarithm of its features";
            let normalised = "with the other logarithm of its features, less their mean and divided by their deviation";
            (words, normalised, audio)
        }),
    ]
    .into_iter()
    .flatten()
}

/// By channel the mean and the standard deviation of an input as it is stored, and its largest number.
fn sampled(data: &Prepared, place: usize, input: &InferredInput) -> (Vec<(f64, f64)>, f64) {
    let plain = InferredInput {
        scale: 1.0,
        mean: vec![0.0],
        std: vec![1.0],
        ..input.clone()
    };
    let mut inputs = data.about.inputs.clone();
    inputs[place] = plain;
    let role = match data.count(Role::Train) {
        0 => Role::Test,
        _ => Role::Train,
    };
    let elements = input.shape.iter().product::<u64>().max(1) as usize;
    // Recordings take their time.
    let most = if input.audio.is_some() {
        SAMPLED / 8
    } else {
        SAMPLED
    };
    let count = data.count(role).min(most);
    let count = count.min((MOST_NUMBERS / elements).max(1));
    let batch = data.fed_as(inputs).sample(role, count);
    let numbers = &batch.inputs[place];
    let channels = input.channels().max(1);
    let area = (numbers.len() / batch.count.max(1) / channels).max(1);
    let channel = |index: usize| match input.keeps_channels_last() {
        true => index % channels,
        false => index / area % channels,
    };
    let mut sums = vec![(0.0f64, 0.0f64, 0.0f64); channels];
    for (index, &number) in numbers.iter().enumerate() {
        let (count, sum, squares) = &mut sums[channel(index)];
        *count += 1.0;
        *sum += f64::from(number);
        *squares += f64::from(number).powi(2);
    }
    let moments = sums.into_iter().map(|(count, sum, squares)| {
        let mean = sum / f64::max(count, 1.0);
        let variance = squares / f64::max(count, 1.0) - mean * mean;
        (mean, variance.max(0.0).sqrt())
    });
    let largest = numbers.iter().copied().fold(0.0, f32::max);
    (moments.collect(), f64::from(largest))
}

/// How inputs are usually prepared, but for the way that is theirs; `moments` are those of each channel as it is stored,
/// `largest` is its largest number.
fn ways(input: &InferredInput, moments: &[(f64, f64)], largest: f64) -> Vec<Way> {
    let is_image = input.shape.len() == 3 && input.audio.is_none();
    // Levels go up to 255.
    let levels = moments.iter().any(|(mean, std)| mean + std > 2.0);
    let share = if levels && is_image { 1.0 / 255.0 } else { 1.0 };
    let own = |scale: f64, words| Way {
        words,
        audio: None,
        scale,
        mean: input.mean.clone(),
        std: input.std.clone(),
    };
    let plain = |scale: f64, words| Way {
        words,
        audio: None,
        scale,
        mean: vec![0.0],
        std: vec![1.0],
    };
    let mut all = vec![
        own(input.scale * 255.0, "with its inputs 255 times as large"),
        own(input.scale / 255.0, "with its inputs divided by 255"),
        plain(share, "with its inputs from 0 to 1"),
        plain(1.0, "with its inputs as they are stored"),
        standardised(moments, share),
    ];
    if largest > 1.0 {
        all.push(plain(
            1.0 / largest,
            "with its inputs divided by their largest number",
        ));
    }
    if is_image {
        all.push(Way {
            words: "with its inputs from −1 to 1",
            audio: None,
            scale: share,
            mean: vec![0.5],
            std: vec![0.5],
        });
    }
    if is_image && moments.len() == 3 {
        all.push(Way {
            words: "with its inputs normalised as those of ImageNet are",
            audio: None,
            scale: share,
            // Of torchvision's models, by channel (red, green, blue).
            mean: vec![0.485, 0.456, 0.406],
            std: vec![0.229, 0.224, 0.225],
        });
    }
    all.retain(|way| (way.scale, &way.mean, &way.std) != (input.scale, &input.mean, &input.std));
    all
}
