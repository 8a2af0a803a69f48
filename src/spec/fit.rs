//! Whether a data set fits a model, and how the stored numbers become the model's inputs.
//!
//! Works on the summaries alone, so the service refuses what can't fit before a job is queued,
//! and the engine prepares batches by the very same answer.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::augment::Geometry;
use super::dataset::{ArrayInfo, DatasetSummary, Media, Splits, TargetInfo};
use super::distill::{DistillLossName, DistillParams, LossTerm};
use super::job::{DataOptions, Layout, Params, Preprocess, Task};
use super::model::{Dimension, ModelSummary, TensorInfo};
use super::picture::{Extent, ImagePreparation, MOST_PIXELS};
use super::problem::{FieldError, Problem};
use super::train::{ClassWeights, TrainParams};

/// How one stored array becomes one input of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InferredInput {
    /// Name of the model's input.
    pub input: String,
    /// Name of the data set's array.
    pub array: String,
    /// Whether channels-last examples are turned to channels-first.
    pub transposed: bool,
    /// Shape of one example as the model gets it.
    pub shape: Vec<u64>,
    pub scale: f64,
    pub mean: Vec<f64>,
    pub std: Vec<f64>,
    /// How image files are decoded before that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImagePreparation>,
}

impl InferredInput {
    /// What each channel, or all, is multiplied by, and what is added then.
    pub fn affine(&self) -> Vec<(f64, f64)> {
        let of = |values: &[f64], channel: usize| values[channel.min(values.len() - 1)];
        let line = |channel: usize| {
            let (mean, std) = (of(&self.mean, channel), of(&self.std, channel));
            (self.scale / std, -mean / std)
        };
        (0..self.mean.len().max(self.std.len())).map(line).collect()
    }

    /// Whether a model takes images from files with their channels last.
    pub fn keeps_channels_last(&self) -> bool {
        self.image.is_some() && self.shape.len() == 3 && !self.transposed
    }

    /// How many means and deviations an example can have.
    pub fn channels(&self) -> usize {
        match self.shape.as_slice() {
            [.., channels] if self.keeps_channels_last() => *channels as usize,
            [channels, _, ..] => *channels as usize,
            _ => 1,
        }
    }

    /// Shape of one example as it is stored, or decoded from a file, given that of the array.
    pub fn stored_shape(&self, array: &[usize]) -> Vec<usize> {
        match &self.image {
            Some(image) => image.shape().to_vec(),
            None => array.to_vec(),
        }
    }

    /// Whether another model's input, whatever its name, gets the same values.
    pub fn is_made_like(&self, other: &Self) -> bool {
        let Self {
            input: _,
            array,
            transposed,
            shape,
            scale,
            mean,
            std,
            image,
        } = other;
        (&self.array, &self.transposed, &self.shape) == (array, transposed, shape)
            && (&self.scale, &self.mean, &self.std, &self.image) == (scale, mean, std, image)
    }
}

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
    /// Number of values of that output for one example.
    pub outputs: Option<u64>,
    pub splits: SplitSizes,
    /// Files of the upload that are not among them, since they can't be decoded.
    #[serde(default, skip_serializing_if = "super::dataset::is_zero")]
    pub skipped: u64,
    /// What the labels are called, where the data set has words for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
    /// Whether the result's model has scale, mean and std in its graph.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub embedded: bool,
    /// Smaller than asked where the file has a fixed batch size.
    pub batch_size: u32,
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
    let inputs =
        fit_inputs(model, &dataset.inputs, options).map_err(|detail| misfit("/dataset", detail))?;
    // The first that holds floating-point numbers; exporters put class names before them.
    let output = model
        .outputs
        .iter()
        .find(|output| output.dtype.contains("float"))
        .or(model.outputs.first())
        .ok_or_else(|| misfit("/model", "the model has no outputs".to_owned()))?;
    let outputs = count_outputs(output);
    let trains = params.trains();
    let target = match (&dataset.target, params.needs_labels()) {
        (None, true) => {
            return Err(misfit(
                "/dataset",
                "the data set has no target (labels), which training and metrics need; only a \
                 distillation whose losses need no labels does without"
                    .to_owned(),
            ));
        }
        (target, _) => target.as_ref().filter(|_| task != Some(Task::Embedding)),
    };
    let task = task.unwrap_or(match target {
        None => params.presumed_task(),
        Some(target) => {
            let integer = !target.dtype.starts_with("float");
            match (target.shape.as_slice(), integer) {
                ([], true) if outputs != Some(1) => Task::Classification,
                ([_], true) => Task::Multilabel,
                _ => Task::Regression,
            }
        }
    });
    if let Some(target) = target {
        fit_target(target, task, outputs, &output.name)?;
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
    Ok(InferredData {
        task,
        inputs,
        output: output.name.clone(),
        outputs,
        splits,
        skipped: dataset.skipped.len() as u64,
        class_names: target.and_then(|target| target.class_names.clone()),
        embedded: options.embed_preprocessing,
        batch_size,
    })
}

/// How arrays feed each of a model's inputs, or why they don't.
pub fn fit_inputs(
    model: &ModelSummary,
    arrays: &[ArrayInfo],
    options: &DataOptions,
) -> Result<Vec<InferredInput>, String> {
    let fit = |input: &TensorInfo| {
        let array = match_array(input, model, arrays).ok_or_else(|| {
            format!(
                "the model's input `{}` has no array of that name; the data set has {}",
                input.name,
                names(arrays)
            )
        })?;
        fit_input(input, array, options)
    };
    model.inputs.iter().map(fit).collect()
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
    match task {
        Task::Classification => {
            let Some(classes) = target.classes else {
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
                        "labels go up to {}, but the model's output `{}` has {outputs} classes",
                        classes - 1,
                        output
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
                        "the target `{}` has {values} values an example, the model's output \
                         `{}` has {outputs}",
                        target.name, output
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

fn elements(shape: &[u64]) -> Option<u64> {
    shape
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size))
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
    let training = |train: &TrainParams, pointer: &str| {
        if let Some(name) = train.loss.filter(|name| !name.fits(task)) {
            let name = serde_json::to_value(name).unwrap_or_default();
            return refuse(format!("{pointer}/loss"), format!("the loss {name}"));
        }
        if train.label_smoothing > 0.0 && task != Task::Classification {
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
            let geometry = |input: &InferredInput| {
                let array = dataset
                    .inputs
                    .iter()
                    .find(|array| array.name == input.array)?;
                let shape: Vec<usize> = array.shape.iter().map(|&size| size as usize).collect();
                let shape = input.stored_shape(&shape);
                Geometry::of(input.transposed, &array.dtype, &shape)
            };
            let geometries: Vec<_> = about.inputs.iter().map(geometry).collect();
            let fault = augment.check(&geometries);
            fault.map_err(|fault| {
                Problem::invalid(vec![fault.under(&format!("{pointer}/augment"))])
            })?;
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
        Params::Prune(prune) => match &prune.finetune {
            Some(finetune) => {
                training(finetune, &format!("{pointer}/finetune"))?;
                check_losses(
                    &prune.distill,
                    finetune,
                    about,
                    &format!("{pointer}/distill"),
                )
            }
            None => Ok(()),
        },
        Params::Distill(distill) => {
            training(&distill.finetune, &format!("{pointer}/finetune"))?;
            let at = format!("{pointer}/losses");
            check_losses(&distill.losses, &distill.finetune, about, &at)
        }
        Params::Evaluate(evaluate) => {
            let unsuited = evaluate
                .metrics
                .iter()
                .position(|metric| !metric.applies_to(task));
            match unsuited {
                None => Ok(()),
                Some(index) => refuse(
                    format!("{pointer}/metrics/{index}"),
                    format!("the metric `{}`", evaluate.metrics[index].as_str()),
                ),
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
        let suits = match term.name {
            loss if loss.is_softmax() => about.task == Task::Classification,
            DistillLossName::BoundedRegression => about.task == Task::Regression,
            DistillLossName::CrossEntropy => about.task != Task::Embedding,
            _ => true,
        };
        let at = format!("{pointer}/{index}");
        let refuse = |detail: String| Err(Problem::invalid(vec![FieldError::new(&*at, detail)]));
        if !suits {
            let task = serde_json::to_value(about.task).unwrap_or_default();
            return refuse(format!("the loss `{name}` does not suit the task {task}"));
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
/// student, or another teacher. `first` is what was inferred for the job's model.
pub fn fit_further(
    model: &ModelSummary,
    dataset: &DatasetSummary,
    options: &DataOptions,
    first: &InferredData,
    params: &Params,
    pointer: &str,
) -> Result<InferredData, Problem> {
    fit(model, dataset, options, Some(first.task), params).map_err(|mut problem| {
        for error in &mut problem.errors {
            if error.pointer == "/model" {
                error.pointer = pointer.to_owned();
            } else {
                error.detail = format!("for the model at {pointer}: {}", error.detail);
            }
        }
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

fn names(arrays: &[ArrayInfo]) -> String {
    let quoted: Vec<_> = arrays.iter().map(|a| format!("`{}`", a.name)).collect();
    quoted.join(", ")
}

fn match_array<'a>(
    input: &TensorInfo,
    model: &ModelSummary,
    arrays: &'a [ArrayInfo],
) -> Option<&'a ArrayInfo> {
    let named = arrays.iter().find(|array| array.name == input.name);
    match (named, model.inputs.len(), arrays) {
        (Some(array), _, _) => Some(array),
        (None, 1, [only]) => Some(only),
        _ => None,
    }
}

fn count_outputs(output: &TensorInfo) -> Option<u64> {
    let rest = output.shape.get(1..)?;
    rest.iter().try_fold(1u64, |product, dimension| {
        product.checked_mul(u64::try_from(dimension.fixed()?).ok()?)
    })
}

fn fit_input(
    input: &TensorInfo,
    array: &ArrayInfo,
    options: &DataOptions,
) -> Result<InferredInput, String> {
    let preprocess = &options.preprocess;
    if input.dtype == "string" {
        return Err(format!(
            "the model's input `{}` takes strings, which are not supported",
            input.name
        ));
    }
    let Fit {
        shape,
        transposed,
        image,
    } = match array.media {
        Some(Media::Image) => fit_image(input, array, preprocess)?,
        None => fit_numbers(input, array, preprocess)?,
    };
    // Pixels become shares of one where the model takes fractions; what it takes whole, or scales itself, stays.
    let takes_shares =
        array.dtype == "uint8" && input.dtype.starts_with("float") && !input.prepared;
    let default_scale = if takes_shares { 1.0 / 255.0 } else { 1.0 };
    let mut found = InferredInput {
        input: input.name.clone(),
        array: array.name.clone(),
        transposed,
        scale: preprocess.scale.unwrap_or(default_scale),
        mean: vec![0.0],
        std: vec![1.0],
        shape,
        image,
    };
    let channels = found.channels();
    for (name, given, value) in [
        ("mean", &preprocess.mean, &mut found.mean),
        ("std", &preprocess.std, &mut found.std),
    ] {
        let Some(given) = given else { continue };
        if given.len() != 1 && given.len() != channels {
            return Err(format!(
                "preprocess.{name} has {} values, the input `{}` has {channels} channels",
                given.len(),
                input.name
            ));
        }
        value.clone_from(given);
    }
    Ok(found)
}

/// How the elements of an example are laid out for a model.
struct Fit {
    shape: Vec<u64>,
    transposed: bool,
    image: Option<ImagePreparation>,
}

/// What the model's file says about the shape of one example.
fn example_shape(input: &TensorInfo) -> &[Dimension] {
    input.shape.get(1..).unwrap_or_default()
}

fn fit_numbers(
    input: &TensorInfo,
    array: &ArrayInfo,
    preprocess: &Preprocess,
) -> Result<Fit, String> {
    if preprocess.resize.is_some() || preprocess.crop.is_some() {
        return Err(format!(
            "preprocess.resize and preprocess.crop are for image files, the array `{}` holds numbers",
            array.name
        ));
    }
    let wanted = example_shape(input);
    let matches = |shape: &[u64]| {
        shape.len() == wanted.len()
            && shape.iter().zip(wanted).all(|(size, dimension)| {
                dimension.fixed().is_none_or(|fixed| fixed == *size as i64)
            })
    };
    let stored = array.shape.as_slice();
    let turned = || match stored {
        [height, width, channels] => Some(vec![*channels, *height, *width]),
        [length, channels] => Some(vec![*channels, *length]),
        _ => None,
    };
    let with_channel = || {
        let mut shape = vec![1];
        shape.extend_from_slice(stored);
        shape
    };
    let fixed: Option<Vec<u64>> = wanted
        .iter()
        .map(|d| d.fixed().and_then(|size| u64::try_from(size).ok()))
        .collect();
    if preprocess.layout == Some(Layout::Nhwc) && turned().is_none() {
        return Err(format!(
            "the layout nhwc needs examples of 2 or 3 axes, the array `{}` has {stored:?}",
            array.name
        ));
    }
    let (shape, transposed) = if preprocess.layout == Some(Layout::Nhwc) {
        (turned().expect("just seen"), true)
    } else if matches(stored) {
        (stored.to_vec(), false)
    } else if matches(&with_channel()) {
        (with_channel(), false)
    } else if preprocess.layout.is_none() && turned().is_some_and(|shape| matches(&shape)) {
        (turned().expect("just seen"), true)
    } else if let Some(fixed) = fixed
        && elements(&fixed).is_some()
        && elements(&fixed) == elements(stored)
        && (stored.len() == 1 || fixed.len() == 1)
    {
        // A flat row of a table for an image, or an image for a multilayer perceptron.
        (fixed, false)
    } else {
        return Err(format!(
            "the model's input `{}` wants examples of shape {}, the array `{}` has {stored:?}",
            input.name,
            serde_json::to_string(wanted).unwrap_or_default(),
            array.name
        ));
    };
    if !matches(&shape) {
        return Err(format!(
            "with the layout asked for, `{}` has examples of shape {shape:?}, the model's input \
             `{}` wants {}",
            array.name,
            input.name,
            serde_json::to_string(wanted).unwrap_or_default()
        ));
    }
    Ok(Fit {
        shape,
        transposed,
        image: None,
    })
}

/// Image files have the size and the colours that the model takes, or are given them.
fn fit_image(
    input: &TensorInfo,
    array: &ArrayInfo,
    preprocess: &Preprocess,
) -> Result<Fit, String> {
    let wanted = example_shape(input);
    let fixed = |place: usize| match wanted[place].fixed() {
        None => Ok(None),
        Some(size) => match u32::try_from(size) {
            Ok(size @ 1..) => Ok(Some(size)),
            _ => Err(format!(
                "the model's input `{}` has an axis of size {size}",
                input.name
            )),
        },
    };
    let stored = |place: usize| {
        let size = array.shape.get(place).copied().filter(|size| *size > 0);
        size.and_then(|size| u32::try_from(size).ok())
    };
    let of_colours = |place: usize| matches!(wanted[place].fixed(), None | Some(1 | 3 | 4));
    let last = preprocess.layout == Some(Layout::Nhwc);
    // Where height, width and channels are among the model's axes.
    let places = match wanted.len() {
        3 if last || (!of_colours(0) && of_colours(2)) => [Some(0), Some(1), Some(2)],
        3 => [Some(1), Some(2), Some(0)],
        2 => [Some(0), Some(1), None],
        1 => [None; 3],
        rank => {
            return Err(format!(
                "the model's input `{}` has examples of {rank} axes; images are put into 3 (channels, height, width in \
                 the order of preprocess.layout), 2 (grey) or 1 (a flat row of grey)",
                input.name
            ));
        }
    };
    let channels = match places[2] {
        None => 1,
        Some(place) => fixed(place)?.or(stored(2)).unwrap_or(3),
    };
    if !matches!(channels, 1 | 3 | 4) {
        return Err(format!(
            "the model's input `{}` has {channels} channels; images have 1, 3 or 4 (say preprocess.layout if its \
             channels are elsewhere)",
            input.name
        ));
    }
    let asked = match (preprocess.crop, preprocess.resize) {
        (Some(crop), _) => Some(crop.sides()),
        (None, Some(Extent::Sides(sides))) => Some(sides),
        (None, _) => None,
    };
    let shorter = match preprocess.resize {
        Some(Extent::Side(side)) => Some(side),
        _ => None,
    };
    let mut crop = [0; 2];
    for axis in 0..2 {
        let taken = places[axis].map_or(Ok(None), fixed)?;
        let given = asked.map(|asked| asked[axis]);
        if let (Some(taken), Some(given)) = (taken, given)
            && taken != given
        {
            let name = ["height", "width"][axis];
            return Err(format!(
                "preprocess gives images the {name} {given}, the model's input `{}` takes {taken}",
                input.name
            ));
        }
        let open = given.or(taken).or(shorter).or(stored(axis));
        crop[axis] = open.ok_or_else(|| {
            format!(
                "images differ in size, and the model's input `{}` takes any: say with preprocess.resize or \
                 preprocess.crop which they are to have",
                input.name
            )
        })?;
    }
    if u64::from(crop[0]) * u64::from(crop[1]) > MOST_PIXELS {
        return Err(format!(
            "the model's input `{}` takes images of {} × {}; at most {MOST_PIXELS} pixels are prepared",
            input.name, crop[0], crop[1]
        ));
    }
    if let [only] = wanted
        && let Some(size) = only.fixed()
        && i64::from(crop[0]) * i64::from(crop[1]) != size
    {
        return Err(format!(
            "grey images of {} × {} are no row of {size} for the model's input `{}`; say with preprocess.resize which \
             size they are to have",
            crop[0], crop[1], input.name
        ));
    }
    let is_stored = (0..2).all(|axis| stored(axis) == Some(crop[axis]));
    let resize = match preprocess.resize {
        None if is_stored || preprocess.crop.is_some() => None,
        None => Some(Extent::Sides(crop)),
        given => given,
    };
    let [height, width] = crop.map(u64::from);
    let (shape, transposed) = match places {
        [Some(0), Some(1), Some(_)] => (vec![height, width, channels.into()], false),
        [Some(1), Some(2), _] => (vec![channels.into(), height, width], true),
        [Some(_), ..] => (vec![height, width], false),
        _ => (vec![height * width], false),
    };
    Ok(Fit {
        shape,
        transposed,
        image: Some(ImagePreparation {
            channels,
            resize,
            crop,
        }),
    })
}
