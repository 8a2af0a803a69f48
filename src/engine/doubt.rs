//! What speaks against taking a job's figures, or its result, as they are.

use serde_json::{Value, json};

use crate::prune::short;
use crate::spec::dataset::DatasetSummary;
use crate::spec::fit::InferredData;
use crate::spec::result::{Measurement, PruneOutcome, StageName};

/// A warning: its kind, the text, and data for programs.
pub(super) type Doubt = (&'static str, String, Value);

/// Shares of the examples that may be cut, and of an example that may be silence, before that is told.
const CUT: f64 = 0.05;
const SILENCE: f64 = 0.2;

/// What speaks against the way in which a data set feeds a model: examples that lose much, or that are filled up much.
pub(super) fn doubts_of_data(about: &InferredData, dataset: &DatasetSummary) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    let splits = dataset.splits;
    let all = splits.train + splits.validation + splits.test;
    let ids = about.inputs.iter().find_map(|input| input.tokens.as_ref());
    if let (Some(tokens), true) = (ids, about.cut as f64 > CUT * all as f64) {
        let (cut, length) = (about.cut, tokens.length);
        let text = format!(
            "{cut} of {all} texts are longer than the {length} tokens that the model is given, and lose their ends: ask for more with \
             data.preprocess.max_length, if the model takes more"
        );
        doubts.push((
            "texts_cut",
            text,
            json!({"cut": cut, "texts": all, "length": length}),
        ));
    }
    for input in &about.inputs {
        let stored = dataset
            .inputs
            .iter()
            .find(|array| array.name == input.array);
        let (Some(audio), Some(stored)) =
            (&input.audio, stored.and_then(|array| array.audio.as_ref()))
        else {
            continue;
        };
        let seconds = f64::from(audio.samples) / f64::from(audio.sample_rate);
        let (longest, median) = (
            stored.longest_ms as f64 / 1e3,
            stored.median_ms as f64 / 1e3,
        );
        let data =
            json!({"seconds": seconds, "longest_seconds": longest, "median_seconds": median});
        let what = if audio.spectrogram.is_some() {
            "check sample_rate, hop_length and seconds of data.preprocess.audio"
        } else {
            "check sample_rate and seconds of data.preprocess.audio"
        };
        if let Some(rate) = stored
            .sample_rate
            .filter(|&rate| f64::from(rate) < 0.9 * f64::from(audio.sample_rate))
        {
            let (asked, most) = (audio.sample_rate, rate / 2);
            let text = format!(
                "recordings have {rate} samples a second, fewer than the {asked} that the model is given: above {most} Hz there is \
                 nothing in them, which it may never have seen"
            );
            let data = json!({"sample_rate": rate, "asked": asked});
            doubts.push(("recordings_of_a_lower_rate", text, data));
        }
        if longest < (1.0 - SILENCE) * seconds {
            let text = format!(
                "examples last {seconds:.2} s, the longest recording {longest:.2} s: the rest of each is silence; {what}"
            );
            doubts.push(("recordings_filled_up", text, data));
        } else if median * (1.0 - SILENCE) > seconds {
            let text = format!(
                "examples are the first {seconds:.2} s of recordings, half of which last {median:.2} s or more; {what}"
            );
            doubts.push(("recordings_cut", text, data));
        }
    }
    doubts
}

/// What speaks against a model fitting the data that it is given: it says no more than could be said without it. `target` is
/// what the data set calls what is to be said.
pub(super) fn doubt(
    before: &Measurement,
    target: Option<&str>,
    reads_texts: bool,
) -> Option<String> {
    let inputs = match reads_texts {
        true => "whether the tokenizer is that of the model",
        false => "the scale of the inputs (data.preprocess)",
    };
    if let Some(quality) = &before.quality {
        // Of classes in another order there is a warning that says so.
        if quality.order.is_some() {
            return None;
        }
        let accuracy = *before.metrics.get("accuracy")?;
        let rows = quality.confusion.iter().enumerate();
        let classes: Vec<(f64, f64)> = rows
            .map(|(label, row)| (row[label] as f64, row.iter().sum::<u64>() as f64))
            .filter(|(_, examples)| *examples > 0.0)
            .collect();
        let count = classes.len() as f64;
        let even = 1.0 / count;
        let balanced = classes.iter().map(|(right, all)| right / all).sum::<f64>() / count;
        let variance: f64 = classes
            .iter()
            .map(|(_, all)| even * (1.0 - even) / all)
            .sum();
        // Within two standard errors of who always says the same, or guesses.
        let is_chance = balanced < even + 2.0 * variance.sqrt() / count;
        return (classes.len() > 1 && is_chance).then(|| {
            format!(
                "the model as it came is right about {accuracy:.4} of the test split, and about {balanced:.4} as a mean over \
                 the classes, where always saying the same class is about {even:.4}: check {inputs}, the target, and the order of the classes"
            )
        });
    }
    let r2 = *before.metrics.get("r2")?;
    (r2 < 0.0).then(|| {
        format!(
            "the model as it came is further from the targets of the test split than their mean is (R2 {}): check that `{}` is \
             what it says, and {inputs}",
            short(r2),
            target.unwrap_or("the target")
        )
    })
}

/// What speaks against a job's model being of use, where its data is the same as before: what it lost, and since when.
/// `lacks_norms` says whether the model has convolutions and no batch normalisation.
pub(super) fn loss_of_quality(
    before: &Measurement,
    after: &Measurement,
    pruned: Option<&PruneOutcome>,
    lacks_norms: bool,
) -> Option<String> {
    /// More than this is no price that one pays knowingly.
    const MOST: [(&str, f64); 2] = [("accuracy", 0.1), ("r2", 0.2)];
    let (name, was, is) = MOST.into_iter().find_map(|(name, most)| {
        let (was, is) = (*before.metrics.get(name)?, *after.metrics.get(name)?);
        (was - is > most).then_some((name, was, is))
    })?;
    let stages = pruned.map_or(&[][..], |pruned| &pruned.stages);
    let validated = |stage: StageName| {
        let found = stages.iter().rfind(|found| found.stage == stage)?;
        found.metrics.get(name).copied()
    };
    let recovered = validated(StageName::Recovered);
    let finetuned = validated(StageName::Finetuned);
    let advice = match recovered.zip(finetuned) {
        Some((before, after)) if after < before => {
            format!(
                "on the validation split it was {before:.4} before the fine-tuning and {after:.4} after it: a smaller \
                 `optimizer.learning_rate` would not do that"
            )
        }
        _ if pruned.is_some() => format!(
            "a milder target, more cuts (`schedule.steps`) or more epochs of fine-tuning lose less{}",
            match lacks_norms {
                false => "",
                true =>
                    "; so do models that are exported with their batch normalisation, if they have one",
            }
        ),
        _ => format!(
            "more epochs, another `optimizer.learning_rate` or a larger model lose less{}",
            match lacks_norms {
                false => "",
                true =>
                    "; so does a network that is exported with its batch normalisation, which others train badly without",
            }
        ),
    };
    Some(format!(
        "the {name} on the test split fell from {was:.4} to {is:.4}: {advice}"
    ))
}

/// An order of classes for people: at most three of those that differ.
pub(super) fn order_in_words(order: &[u64], names: Option<&[String]>) -> String {
    let different = order
        .iter()
        .enumerate()
        .filter(|(label, class)| *label as u64 != **class);
    let each = different.take(3).map(|(label, class)| {
        let name = names.and_then(|names| names.get(label));
        let name = name.map_or_else(String::new, |name| format!(" (`{name}`)"));
        format!("it says {class} for label {label}{name}")
    });
    let each = each.collect::<Vec<_>>().join(", ");
    let ways = "`classes` of the upload or of `?files_of=`, `--classes`, `read_again(classes=…)`, “Order of the classes” of “Read in another way” on \
                the data set's page";
    let Some(names) = names.filter(|names| names.len() == order.len()) else {
        return match names {
            None => format!(
                "{each}; give it labels as it numbers them, which whole numbers are taken for as they are"
            ),
            Some(names) => format!(
                "{each}; name all {} classes in the model's order, those without examples, too ({ways})",
                order.len().max(names.len())
            ),
        };
    };
    let mut ordered = vec![""; names.len()];
    for (name, &class) in names.iter().zip(order) {
        if let Some(place) = ordered.get_mut(class as usize) {
            *place = name;
        }
    }
    format!(
        "{each}; classes that are words are numbered in the order of the alphabet unless another one is said, which would be {} ({ways})",
        ordered.join(",")
    )
}
