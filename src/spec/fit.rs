//! Whether a data set fits a model, and how the stored numbers become the model's inputs.
//!
//! Works on the summaries alone, so the service refuses what can't fit before a job is queued,
//! and the engine prepares batches by the very same answer.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod inputs;

pub use inputs::{InferredInput, Normalisation, fit_inputs};

use super::augment::{Augment, Geometry};
use super::dataset::{DatasetSummary, Media, Splits, TargetInfo};
use super::distill::{Average, DistillLossName, DistillParams, LossTerm};
use super::evaluate::MetricName;
use super::job::{DataOptions, Params, Task};
use super::model::{Dimension, Expected, ModelSummary, TensorInfo};
use super::problem::{FieldError, Problem};
use super::prune;
use super::train::{ClassWeights, TrainParams};

/// How many examples each split of a job has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SplitSizes {
    pub train: u64,
    pub validation: u64,
    pub test: u64,
}

/// Everything that was inferred about a job's data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InferredData {
    pub task: Task,
    pub inputs: Vec<InferredInput>,
    /// Name of the model's output that is compared with the target.
    pub output: String,
    /// Number of values of that output for one example, or for one of its tokens.
    pub outputs: Option<u64>,
    pub splits: SplitSizes,
    /// Examples of the upload that are not among them, since they can't be used.
    #[serde(default, skip_serializing_if = "super::dataset::is_zero")]
    pub skipped: u64,
    /// Texts that have more tokens than the model gets.
    #[serde(default, skip_serializing_if = "super::dataset::is_zero")]
    pub cut: u64,
    /// What the classes are called, where the data set has words for them: in the order of the model's, where that knows
    /// their names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
    /// By label of the data set: the model's class of the same name. Left out where both number them alike.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label_map: Vec<u64>,
    /// Whether the result's model has scale, mean and std in its graph.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub embedded: bool,
    /// Smaller than asked where the file has a fixed batch size.
    pub batch_size: u32,
    /// How examples become the inputs, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prepared: Vec<String>,
}

impl InferredData {
    /// Tells anew how examples become the inputs, which have changed.
    pub fn retell(&mut self) {
        let held = self
            .prepared
            .split_off(self.inputs.len().min(self.prepared.len()));
        let inputs = self.inputs.iter().map(InferredInput::in_words);
        self.prepared = inputs.chain(held).collect();
    }

    /// How examples become inputs, for people, of the model that came and of this one, where they differ.
    pub fn beside(mut self, first: &Self) -> Self {
        let pairs = || self.inputs.iter().zip(&first.inputs);
        let is_alike = self.inputs.len() == first.inputs.len()
            && pairs().all(|(own, other)| own.is_made_like(other));
        if !is_alike {
            let of = |whose: &str, lines: &[String]| -> Vec<String> {
                lines
                    .iter()
                    .map(|line| format!("{whose}: {line}"))
                    .collect()
            };
            let own = of("the new model", &self.prepared);
            self.prepared = of("the model that came", &first.prepared);
            self.prepared.extend(own);
        }
        self
    }
}

/// Sizes of the splits: the test split is the data set's own, or set aside, and so is the validation split; `limit`
/// cuts each of them.
pub fn split_sizes(stored: Splits, options: &DataOptions) -> SplitSizes {
    let share = |count: u64, fraction: f64| (count as f64 * fraction).round() as u64;
    let all = stored.train;
    let (rest, test) = if stored.test > 0 {
        (all, stored.test)
    } else {
        let test = share(all, options.test_fraction);
        (all - test, test)
    };
    let (train, validation) = match stored.validation {
        0 => {
            let validation = share(rest, options.validation_fraction);
            (rest - validation, validation)
        }
        own => (rest, own),
    };
    let limit = options.limit.unwrap_or(u64::MAX);
    SplitSizes {
        train: train.min(limit),
        validation: validation.min(limit),
        test: test.min(limit),
    }
}

/// Compares a model with a data set. Pointers are into the job's request.
pub fn fit(
    model: &ModelSummary,
    dataset: &DatasetSummary,
    options: &DataOptions,
    task: Option<Task>,
    params: &Params,
) -> Result<InferredData, Problem> {
    if model.inputs.is_empty() {
        return Err(misfit("/model", "the model has no inputs".to_owned()));
    }
    let of_numbers = dataset.inputs.iter().all(|array| array.media.is_none());
    let inputs = fit_inputs(model, &dataset.inputs, options).map_err(|detail| {
        let columns = match &dataset.target {
            Some(target) if dataset.format.is_table() && of_numbers => format!(
                "; of the table all columns but the target `{}` are taken (`?target=` of the upload, `--target` of the terminal \
                 choose another one; `?files_of=` reads the same files again): a column that is no input, such as an index, is left out by `?exclude=`",
                target.name
            ),
            None if dataset.format.has_arrays() && params.needs_labels() => {
                "; no array is the target: that is `y`, `target`, `label` or `labels`, or the one that `?target=` of the upload \
                 names; `?files_of=` reads the same files again"
                    .to_owned()
            }
            _ => String::new(),
        };
        match place_in_preprocess(&detail) {
            Some(place) => misfit(&place, detail),
            None => misfit("/dataset", detail + &columns),
        }
    })?;
    // The first that holds floating-point numbers; exporters put class names before them.
    let output = model
        .outputs
        .iter()
        .find(|output| output.dtype.contains("float"))
        .or(model.outputs.first())
        .ok_or_else(|| misfit("/model", "the model has no outputs".to_owned()))?;
    let outputs = count_outputs(output);
    let trains = params.trains();
    let has_texts = (dataset.inputs.iter()).any(|array| array.media == Some(Media::Text));
    // Texts without labels are what a language model says.
    let has_rows = output.shape.is_empty() || output.shape.len() == 3;
    let says_texts = dataset.target.is_none() && has_texts && has_rows && params.needs_labels();
    let task = task.or(says_texts.then_some(Task::LanguageModeling));
    let without_target = matches!(task, Some(Task::Embedding | Task::LanguageModeling));
    let target = match (&dataset.target, params.needs_labels()) {
        (None, true) if task != Some(Task::LanguageModeling) => {
            return Err(misfit(
                "/dataset",
                format!(
                    "the data set has no target (labels), which training and metrics need; only a \
                     distillation whose losses need no labels does without{}",
                    match dataset.format.has_arrays() {
                        true =>
                            " (the target is the array `y`, `target`, `label` or `labels`, or the one that `?target=` of \
                                 the upload names; `?files_of=` reads the same files again)",
                        false => "",
                    }
                ),
            ));
        }
        (target, _) => target.as_ref().filter(|_| !without_target),
    };
    let encoded = target.filter(|target| target.one_hot && params.needs_labels());
    let known = model.expects.as_ref().map(|expected| expected.task);
    let suits = |known: &Task| known_task_suits(*known, target, output);
    let task = task.or(known.filter(suits));
    if let (None, Some(target)) = (task, encoded) {
        return Err(misfit(
            "/task",
            format!(
                "the target `{0}` has a single 1 in each row of {1}: classes that were encoded, or values? Upload the \
                 classes as whole numbers (in NumPy {0}.argmax(axis=1)), or name the task, `multilabel` or `regression`",
                target.name,
                target.shape.iter().product::<u64>()
            ),
        ));
    }
    let task = task.unwrap_or(match target {
        None => params.presumed_task(),
        Some(target) => {
            let integer = !target.dtype.starts_with("float");
            match (target.shape.as_slice(), integer) {
                // One output says yes or no.
                _ if target.is_binary() && outputs == Some(target.shape.iter().product()) => {
                    Task::Multilabel
                }
                ([], true) if outputs != Some(1) => Task::Classification,
                ([0], true) => Task::TokenClassification,
                ([_], true) => Task::Multilabel,
                _ => Task::Regression,
            }
        }
    });
    let says_tokens = output.shape.len() == 3 && output.shape[1].fixed() != Some(1);
    if let (Task::Classification, true, true, Some(target)) = (task, has_texts, says_tokens, target)
    {
        return Err(misfit(
            "/task",
            format!(
                "the model's output `{}` says something of each token, `{}` is one label for a whole text: say `\"task\": \"language_modeling\"` \
                 for a model that says the next token, whatever the labels are; a classifier puts out [batch, classes]",
                output.name, target.name
            ),
        ));
    }
    let outputs = match task.is_of_tokens() {
        true => output.shape.last().and_then(Dimension::fixed),
        false => outputs.map(|outputs| outputs as i64),
    };
    let outputs = outputs.and_then(|outputs| u64::try_from(outputs).ok());
    if let Some(target) = target {
        fit_target(target, task, outputs, &output.name).map_err(|mut problem| {
            // Who does not name the target gets the last column.
            if dataset.format.is_table() {
                let hint = format!(
                    "; the column `{}` is the target unless `?target=` of the upload names another one; `?files_of=` reads the same files again",
                    target.name
                );
                problem.detail.push_str(&hint);
                (problem.errors.iter_mut()).for_each(|error| error.detail.push_str(&hint));
            }
            problem
        })?;
    }
    if task.is_of_tokens() {
        fit_tokens(model, dataset, task, output, outputs)?;
    }
    let splits = split_sizes(dataset.splits, options);
    if splits.test == 0 {
        return Err(misfit(
            "/data/test_fraction",
            "the test split is empty: the data set has none of its own and test_fraction sets \
             nothing aside"
                .to_owned(),
        ));
    }
    if trains && splits.train == 0 {
        return Err(misfit(
            "/data/validation_fraction",
            "the train split is empty".to_owned(),
        ));
    }
    let fixed_batch = model.inputs[0].shape.first().and_then(Dimension::fixed);
    let batch_size = match fixed_batch {
        Some(size) => u32::try_from(size).unwrap_or(options.batch_size),
        None => options.batch_size,
    };
    let smallest = if trains {
        splits.train.min(splits.test)
    } else {
        splits.test
    };
    if fixed_batch.is_some() && u64::from(batch_size) > smallest {
        return Err(misfit(
            "/dataset",
            format!(
                "the model's batch size is fixed at {batch_size}, more than a split's {smallest} \
                 examples"
            ),
        ));
    }
    if let (Params::Search { search, .. }, Some(_)) = (params, fixed_batch) {
        if search.space.hyperparameters.0.contains_key("batch_size") {
            return Err(misfit(
                "/params/space/hyperparameters/batch_size",
                format!("the model's batch size is fixed at {batch_size}"),
            ));
        }
        let folds = u64::from(search.folds());
        let examples = splits.train + splits.validation;
        if folds > 1 && examples - examples.div_ceil(folds) < u64::from(batch_size) {
            return Err(misfit(
                "/params/evaluation/folds",
                format!(
                    "the model's batch size is fixed at {batch_size}, more than the examples that a fold \
                     trains on"
                ),
            ));
        }
    }
    let (class_names, label_map) = classes_of(model, target, task, outputs);
    Ok(InferredData {
        task,
        prepared: in_words(&inputs, &output.name, target, !label_map.is_empty())
            .into_iter()
            .chain(options.embed_preprocessing.then(|| {
                "the new model scales and normalises by itself what it is given".to_owned()
            }))
            .chain(fixed_batch.map(|size| {
                format!("in batches of {size}, which the model's file fixes: exported with an open batch it trains faster")
            }))
            .collect(),
        inputs,
        output: output.name.clone(),
        outputs,
        splits,
        skipped: dataset.skipped.len() as u64,
        cut: 0,
        class_names,
        label_map,
        embedded: options.embed_preprocessing,
        batch_size,
    })
}

/// Whether a job on what a job made has its task: what the target alone would be taken for is not told from it.
fn known_task_suits(known: Task, target: Option<&TargetInfo>, output: &TensorInfo) -> bool {
    let Some(target) = target else { return false };
    let is_of_values = target.dtype.starts_with("float") || !target.shape.is_empty();
    match known {
        Task::Multilabel => {
            is_of_values
                && target
                    .range
                    .is_some_and(|[low, high]| low >= 0.0 && high <= 1.0)
        }
        Task::Regression => is_of_values && target.shape != [0],
        Task::LanguageModeling => target.shape.is_empty() && output.shape.len() == 3,
        _ => false,
    }
}

/// What the classes are called and, by label, the model's class of the same name, where it knows them by name and numbers them
/// otherwise.
fn classes_of(
    model: &ModelSummary,
    target: Option<&TargetInfo>,
    task: Task,
    outputs: Option<u64>,
) -> (Option<Vec<String>>, Vec<u64>) {
    let own = target.and_then(|target| target.class_names.clone());
    // Whoever makes a file can write into it what he likes.
    let known = model
        .expects
        .as_ref()
        .and_then(|expected| expected.class_names.as_ref())
        .filter(|known| outputs == Some(known.len() as u64));
    let (Some(names), Some(known), Some(target)) = (&own, known, target) else {
        return (own, Vec::new());
    };
    let place = |name: &String| known.iter().position(|known| known == name);
    let places: Option<Vec<u64>> = names
        .iter()
        .map(|name| place(name).map(|place| place as u64))
        .collect();
    match places.filter(|_| task.has_labels() && !target.numbered) {
        None => (own, Vec::new()),
        Some(places) => {
            let is_alike = places.iter().copied().eq(0..places.len() as u64);
            let map = if is_alike { Vec::new() } else { places };
            (Some(known.clone()), map)
        }
    }
}

/// How examples become inputs, and what the output is compared with.
fn in_words(
    inputs: &[InferredInput],
    output: &str,
    target: Option<&TargetInfo>,
    by_name: bool,
) -> Vec<String> {
    let names = match by_name {
        true => ", its classes in the model's order by their names",
        false => "",
    };
    let held = target.map(|target| format!("`{output}` is held against `{}`{names}", target.name));
    let inputs = inputs.iter().map(InferredInput::in_words);
    inputs.chain(held).collect()
}

/// The field that a misfit is about, where it begins with its name.
fn place_in_preprocess(detail: &str) -> Option<String> {
    let name = detail.strip_prefix("preprocess.")?;
    let end = name.find(|letter: char| letter != '.' && letter != '_' && !letter.is_alphanumeric());
    let name = name.get(..end?)?.trim_end_matches('.');
    Some(format!("/data/preprocess/{}", name.replace('.', "/")))
}

fn misfit(pointer: &str, detail: String) -> Problem {
    Problem::invalid(vec![FieldError::new(pointer, detail)]).with_code("data_misfit")
}

/// Compares the target with the output `output` of `outputs` values.
fn fit_target(
    target: &TargetInfo,
    task: Task,
    outputs: Option<u64>,
    output: &str,
) -> Result<(), Problem> {
    if let (Some(classes), Some(names), Some(outputs)) =
        (target.classes, &target.class_names, outputs)
        && task.has_labels()
        && classes > outputs
    {
        if outputs == 1 && classes == 2 {
            let detail = format!(
                "`{output}` is a single output, which says yes or no: of two classes ({}, {}) that is the task `multilabel`, or no task at all",
                names[0], names[1]
            );
            return Err(misfit("/task", detail));
        }
        let shown: Vec<&str> = names.iter().take(12).map(String::as_str).collect();
        let more = if names.len() > shown.len() {
            ", …"
        } else {
            ""
        };
        let detail = format!(
            "the data set has {classes} classes ({}{more}), the model's output `{output}` has {outputs}: is one of them \
             misspelt, or no class of the model's?",
            shown.join(", ")
        );
        return Err(misfit("/dataset", detail));
    }
    match task {
        Task::Classification => {
            let Some(classes) = target.classes.filter(|_| target.shape.is_empty()) else {
                return Err(misfit(
                    "/task",
                    format!(
                        "classification needs one integer label for each example; `{}` is {} \
                         of shape {:?}",
                        target.name, target.dtype, target.shape
                    ),
                ));
            };
            if let Some(outputs) = outputs
                && classes > outputs
            {
                return Err(misfit(
                    "/dataset",
                    format!(
                        "labels go up to {}, but the model's output `{}` has {outputs} classes, counted from 0{}",
                        classes - 1,
                        output,
                        match (outputs, classes == outputs + 1) {
                            (1, _) if classes == 2 =>
                                ": a single output says yes or no, which is the task `multilabel`, or no task at all",
                            (1, _) =>
                                ": of a single value it is a regression; leave the task out, or ask for `regression`",
                            (_, true) => ": upload labels that begin with 0 (in NumPy y - 1)",
                            (_, false) => "",
                        }
                    ),
                ));
            }
        }
        Task::Multilabel | Task::Regression => {
            let values: u64 = target.shape.iter().product();
            if let Some(outputs) = outputs
                && values != outputs
            {
                return Err(misfit(
                    "/dataset",
                    format!(
                        "the target `{}` has {values} {} an example, the model's output `{output}` has {outputs}{}",
                        target.name,
                        if values == 1 { "value" } else { "values" },
                        match target.shape.is_empty() && target.dtype.starts_with("float") {
                            true =>
                                "; labels of classes are uploaded as whole numbers (in NumPy y.astype(int))",
                            false => "",
                        }
                    ),
                ));
            }
        }
        Task::TokenClassification => {
            let is_whole = !target.dtype.starts_with("float") && target.shape.len() == 1;
            let highest = target.range.map(|[_, highest]| highest as u64 + 1);
            let Some(classes) = target.classes.or(highest).filter(|_| is_whole) else {
                return Err(misfit(
                    "/task",
                    format!(
                        "token_classification needs a list of labels for each example, one for each word or token; `{}` \
                         is {} of shape {:?}",
                        target.name, target.dtype, target.shape
                    ),
                ));
            };
            if let Some(outputs) = outputs
                && classes > outputs
            {
                return Err(misfit(
                    "/dataset",
                    format!(
                        "labels go up to {}, but the model's output `{output}` has {outputs} classes for a token",
                        classes - 1
                    ),
                ));
            }
        }
        Task::LanguageModeling | Task::Embedding => {
            return Err(Problem::not_supported("/task", "this task"));
        }
    }
    if let (Task::Multilabel, Some([low, high])) = (task, target.range)
        && !(low >= 0.0 && high <= 1.0)
    {
        return Err(misfit(
            "/dataset",
            format!(
                "the target `{}` has values from {low} to {high}; multilabel needs 0 to 1 (ask \
                 for the task `regression` to fit other values)",
                target.name
            ),
        ));
    }
    Ok(())
}

/// Whether the output `output` can say something about each token.
fn fit_tokens(
    model: &ModelSummary,
    dataset: &DatasetSummary,
    task: Task,
    output: &TensorInfo,
    outputs: Option<u64>,
) -> Result<(), Problem> {
    if !output.shape.is_empty() && output.shape.len() != 3 {
        let task = serde_json::to_value(task).unwrap_or_default();
        return Err(misfit(
            "/task",
            format!(
                "the task {task} compares outputs of [batch, tokens, classes]; the model's `{}` has {} axes",
                output.name,
                output.shape.len()
            ),
        ));
    }
    let tokens = dataset
        .inputs
        .iter()
        .find_map(|array| array.tokens.as_ref());
    let tokenizer = (model.tokenizer.as_ref()).or(tokens.map(|tokens| &tokens.tokenizer));
    if let (Task::LanguageModeling, Some(tokenizer), Some(outputs)) = (task, tokenizer, outputs)
        && tokenizer.vocabulary > outputs
    {
        return Err(misfit(
            "/dataset",
            format!(
                "the tokenizer has {} tokens, the model's output `{}` has {outputs} for the next one",
                tokenizer.vocabulary, output.name
            ),
        ));
    }
    Ok(())
}

/// Losses and metrics must suit the task, which only the data tells.
pub fn check_task(
    params: &Params,
    about: &InferredData,
    dataset: &DatasetSummary,
) -> Result<(), Problem> {
    check_task_at(params, about, dataset, "/params")
}

fn check_task_at(
    params: &Params,
    about: &InferredData,
    dataset: &DatasetSummary,
    pointer: &str,
) -> Result<(), Problem> {
    let task = about.task;
    let refuse = |pointer: String, what: String| {
        let task = serde_json::to_value(task).unwrap_or_default();
        let detail = format!("{what} does not suit the task {task}");
        Err(Problem::invalid(vec![FieldError::new(pointer, detail)]))
    };
    let augmentation =
        |augment: &Augment, pointer: &str| check_augment(augment, about, dataset, pointer);
    let training = |train: &TrainParams, pointer: &str| {
        if let Some(name) = train.loss.filter(|name| !name.fits(task)) {
            let name = serde_json::to_value(name).unwrap_or_default();
            return refuse(format!("{pointer}/loss"), format!("the loss {name}"));
        }
        if train.label_smoothing > 0.0 && !task.has_labels() {
            return refuse(format!("{pointer}/label_smoothing"), "it".to_owned());
        }
        if let Some(weights) = &train.class_weights {
            let at = format!("{pointer}/class_weights");
            if task != Task::Classification {
                return refuse(at, "it".to_owned());
            }
            if let (ClassWeights::Each(weights), Some(outputs)) = (weights, about.outputs)
                && weights.len() as u64 != outputs
            {
                let detail = format!(
                    "has {} weights, the model has {outputs} classes",
                    weights.len()
                );
                return Err(Problem::invalid(vec![FieldError::new(at, detail)]));
            }
            let classes = dataset.target.as_ref().and_then(|target| target.classes);
            if let (ClassWeights::Each(weights), Some(classes)) = (weights, classes)
                && (weights.len() as u64) < classes
            {
                let detail = format!(
                    "has {} weights, the data set has {classes} classes",
                    weights.len()
                );
                return Err(Problem::invalid(vec![FieldError::new(at, detail)]));
            }
        }
        if let Some(augment) = &train.augment {
            augmentation(augment, &format!("{pointer}/augment"))?;
        }
        if train.early_stopping.is_some() && about.splits.validation == 0 {
            let detail = "needs validation examples; raise data.validation_fraction".to_owned();
            let pointer = format!("{pointer}/early_stopping");
            return Err(Problem::invalid(vec![FieldError::new(pointer, detail)]));
        }
        Ok(())
    };
    match params {
        Params::Train(train) => training(train, pointer),
        Params::Prune(prune) => {
            if let Some((name, allowed)) = prune.target.allowed() {
                let at = format!("{pointer}/target/{name}");
                let metric = allowed.metric.as_str();
                if !allowed.metric.applies_to(task) {
                    let instead = MetricName::ALL
                        .into_iter()
                        .filter(|metric| metric.applies_to(task));
                    let instead: Vec<String> = instead
                        .map(|metric| format!("`{}`", metric.as_str()))
                        .collect();
                    let what = format!(
                        "has the metric `{metric}`, which does not suit the task {}; max_worsening takes those that do: {}",
                        prune::word(&task),
                        instead.join(", ")
                    );
                    return Err(Problem::invalid(vec![FieldError::new(at, what)]));
                }
                if about.splits.validation == 0 {
                    let detail = format!(
                        "is held against the {} on a validation split; raise data.validation_fraction",
                        metric.replace('_', " ")
                    );
                    return Err(Problem::invalid(vec![FieldError::new(at, detail)]));
                }
            }
            let Some(finetune) = &prune.finetune else {
                return Ok(());
            };
            training(finetune, &format!("{pointer}/finetune"))?;
            let at = format!("{pointer}/distill");
            check_losses(&prune.distill, finetune, about, &at)
        }
        Params::Distill(distill) => {
            training(&distill.finetune, &format!("{pointer}/finetune"))?;
            if distill.average == Average::Probabilities && !task.has_labels() {
                return refuse(
                    format!("{pointer}/average"),
                    "a mean of probabilities".to_owned(),
                );
            }
            if let Some(views) = &distill.teacher_views {
                augmentation(&views.augment, &format!("{pointer}/teacher_views/augment"))?;
            }
            let at = format!("{pointer}/losses");
            check_losses(&distill.losses_for(task), &distill.finetune, about, &at)
        }
        Params::Evaluate(evaluate) => {
            let unsuited = evaluate
                .metrics
                .iter()
                .position(|metric| !metric.applies_to(task));
            match unsuited {
                None => Ok(()),
                Some(index) => {
                    let suited = MetricName::ALL
                        .into_iter()
                        .filter(|metric| metric.applies_to(task));
                    let suited: Vec<String> = suited
                        .map(|metric| format!("`{}`", metric.as_str()))
                        .collect();
                    let detail = format!(
                        "the metric `{}` does not suit the task {}; these do: {}",
                        evaluate.metrics[index].as_str(),
                        prune::word(&task),
                        suited.join(", ")
                    );
                    let at = format!("{pointer}/metrics/{index}");
                    Err(Problem::invalid(vec![FieldError::new(at, detail)]))
                }
            }
        }
        Params::Search { search, steps } => {
            let refused = |error: FieldError| Err(Problem::invalid(vec![error.under(pointer)]));
            if let Err(error) = search.check_objectives(task) {
                return refused(error);
            }
            let selects = search.folds() == 1;
            if selects && about.splits.validation == 0 {
                let detail = "without folds validation examples judge: raise data.validation_fraction, or ask \
                              for cross_validation";
                return refused(FieldError::new("/evaluation", detail));
            }
            let examples = about.splits.train + about.splits.validation;
            if !selects && u64::from(search.folds()) > examples {
                let detail = format!("there are only {examples} examples");
                return refused(FieldError::new("/evaluation/folds", detail));
            }
            let recipes = search
                .recipes()
                .map_err(|error| Problem::invalid(vec![error.under(pointer)]))?;
            for (place, recipe) in recipes {
                for (index, step) in recipe.steps.iter().enumerate() {
                    let at = match steps.is_empty() {
                        true => format!("{pointer}{place}"),
                        false => format!("{pointer}/steps/{index}/params"),
                    };
                    check_task_at(step, about, dataset, &at)?;
                }
            }
            Ok(())
        }
        Params::Pipeline(steps) => steps.iter().enumerate().try_for_each(|(index, step)| {
            check_task_at(
                step,
                about,
                dataset,
                &format!("{pointer}/steps/{index}/params"),
            )
        }),
    }
}

/// Whether the examples of a model can be augmented so.
pub fn check_augment(
    augment: &Augment,
    about: &InferredData,
    dataset: &DatasetSummary,
    pointer: &str,
) -> Result<(), Problem> {
    let only_tokens = Augment {
        token_dropout: augment.token_dropout,
        ..Augment::default()
    };
    if about.task.is_of_tokens() && *augment != only_tokens {
        let what = format!(
            "an augmentation other than token_dropout, which would leave the targets of tokens behind, does not suit the \
             task \"{}\"",
            prune::word(&about.task)
        );
        return Err(Problem::invalid(vec![FieldError::new(pointer, what)]));
    }
    let geometry = |input: &InferredInput| {
        let array = dataset
            .inputs
            .iter()
            .find(|array| array.name == input.array)?;
        let shape: Vec<usize> = array.shape.iter().map(|&size| size as usize).collect();
        let shape = input.stored_shape(&shape);
        Geometry::of(input.transposed, &array.dtype, &shape)
    };
    let fed = about.inputs.iter().filter(|input| !input.zeros);
    let geometries: Vec<_> = fed.map(geometry).collect();
    let fault = augment.check(&geometries);
    fault.map_err(|fault| Problem::invalid(vec![fault.under(pointer)]))
}

/// Losses must suit the task and the augmentation.
fn check_losses(
    losses: &[LossTerm],
    finetune: &TrainParams,
    about: &InferredData,
    pointer: &str,
) -> Result<(), Problem> {
    let by_labels = |term: &LossTerm| term.name == DistillLossName::CrossEntropy;
    if finetune.class_weights.is_some() && !losses.is_empty() && !losses.iter().any(by_labels) {
        let detail = "class_weights weigh the loss `cross_entropy`, which is not among these; add it, or leave them out";
        return Err(Problem::invalid(vec![FieldError::new(pointer, detail)]));
    }
    let augment = finetune.augment.as_ref();
    let mixes = augment.is_some_and(|augment| augment.mixup.is_some() || augment.cutmix.is_some());
    for (index, term) in losses.iter().enumerate() {
        let name = term.name.as_str();
        let at = format!("{pointer}/{index}");
        let refuse = |detail: String| Err(Problem::invalid(vec![FieldError::new(&*at, detail)]));
        if !term.name.suits(about.task) {
            let task = serde_json::to_value(about.task).unwrap_or_default();
            let suited = DistillLossName::ALL.into_iter();
            let suited = suited.filter(|loss| loss.suits(about.task));
            let suited: Vec<String> = suited.map(|loss| format!("`{}`", loss.as_str())).collect();
            return refuse(format!(
                "the loss `{name}` does not suit the task {task}; these do: {}",
                suited.join(", ")
            ));
        }
        if mixes && term.name == DistillLossName::Decoupled {
            return refuse(
                "`decoupled` needs one label an example, which mixup and cutmix take away; leave out one \
                 of the two"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

/// How the data feeds a further model of a distillation that the request names at `pointer`: its
/// student, or another teacher. `first` is what was inferred for the job's model; `inherits` whether `options` are that one's.
pub fn fit_further(
    model: &ModelSummary,
    dataset: &DatasetSummary,
    options: &DataOptions,
    first: &InferredData,
    params: &Params,
    pointer: &str,
    inherits: bool,
) -> Result<InferredData, Problem> {
    let mut options = Cow::Borrowed(options);
    if inherits && model.inputs.iter().any(|input| input.prepared) {
        // It does itself what the job's model needs to have done.
        let preprocess = &mut options.to_mut().preprocess;
        (preprocess.scale, preprocess.mean, preprocess.std) = (None, None, None);
    }
    let mut model = Cow::Borrowed(model);
    if inherits && model.expects.is_none() {
        // A model that no job made is fed as the job's model is, and numbers its classes alike.
        let numbers = |input: &InferredInput| {
            let Normalisation { scale, mean, std } = input.inside.clone()?;
            Some(InferredInput {
                scale,
                mean,
                std,
                inside: None,
                ..input.clone()
            })
        };
        let fed = first.inputs.iter();
        let fed = fed.filter_map(|input| numbers(input).or(input.inherited.then(|| input.clone())));
        model.to_mut().expects = Some(Expected {
            task: first.task,
            inputs: fed.collect(),
            output: String::new(),
            class_names: first
                .class_names
                .clone()
                .filter(|_| !first.label_map.is_empty()),
        });
    }
    if model.tokenizer.is_none() {
        // Both get the same tokens.
        let tokens = first.inputs.iter().find_map(|input| input.tokens.as_ref());
        if let Some(tokens) = tokens {
            model.to_mut().tokenizer = Some(tokens.tokenizer_info());
        }
    }
    fit(&model, dataset, &options, Some(first.task), params).map_err(|mut problem| {
        for error in &mut problem.errors {
            match error.pointer.as_str() {
                "/model" | "/dataset" => error.pointer = pointer.to_owned(),
                _ => error.detail = format!("for the model at {pointer}: {}", error.detail),
            }
        }
        let code = problem.code.clone();
        problem = Problem::invalid(problem.errors).with_code(&code);
        problem
    })
}

/// Whether a teacher's outputs can be compared with a student's. `pointer` is of the distillation.
pub fn check_outputs(
    params: &DistillParams,
    teacher: Option<u64>,
    student: Option<u64>,
    pointer: &str,
) -> Result<(), Problem> {
    let refuse = |place: &str, detail: String| {
        let error = FieldError::new(format!("{pointer}{place}"), detail);
        Err(Problem::invalid(vec![error]).with_code("outputs_differ"))
    };
    let compares = params
        .losses
        .iter()
        .any(|term| !term.name.takes_pairs() && term.name != DistillLossName::CrossEntropy);
    let (Some(teacher), Some(student)) = (teacher, student) else {
        return Ok(());
    };
    match &params.class_map {
        Some(map) => {
            if map.len() as u64 != student {
                return refuse(
                    "/class_map",
                    format!("has {} classes, the student has {student}", map.len()),
                );
            }
            let beyond = map.iter().position(|&class| u64::from(class) >= teacher);
            match beyond {
                Some(index) => refuse(
                    &format!("/class_map/{index}"),
                    format!(
                        "is {}, the teacher has the classes 0 to {}",
                        map[index],
                        teacher - 1
                    ),
                ),
                None => Ok(()),
            }
        }
        None if compares && teacher != student => refuse(
            if params.student.is_some() {
                "/student"
            } else {
                ""
            },
            format!(
                "the teacher has {teacher} outputs and the student {student}; say with class_map which \
                 of the teacher's is which of the student's, or leave out the losses of outputs"
            ),
        ),
        None => Ok(()),
    }
}

fn count_outputs(output: &TensorInfo) -> Option<u64> {
    let rest = output.shape.get(1..)?;
    rest.iter().try_fold(1u64, |product, dimension| {
        product.checked_mul(u64::try_from(dimension.fixed()?).ok()?)
    })
}
