//! Whether a data set fits a model, and how the stored numbers become the model's inputs.
//!
//! Works on the summaries alone, so the service refuses what can't fit before a job is queued,
//! and the engine prepares batches by the very same answer.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::dataset::{ArrayInfo, DatasetSummary, Splits};
use super::job::{DataOptions, Layout, Params, Task};
use super::model::{Dimension, ModelSummary, TensorInfo};
use super::problem::{FieldError, Problem};
use super::train::TrainParams;

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
    /// Smaller than asked where the file has a fixed batch size.
    pub batch_size: u32,
}

/// Sizes of the splits: the test split is the data set's own, or set aside; validation always
/// comes out of the train split; `limit` cuts each of them.
pub fn split_sizes(stored: Splits, options: &DataOptions) -> SplitSizes {
    let share = |count: u64, fraction: f64| (count as f64 * fraction).round() as u64;
    let all = stored.train;
    let (rest, test) = if stored.test > 0 {
        (all, stored.test)
    } else {
        let test = share(all, options.test_fraction);
        (all - test, test)
    };
    let validation = share(rest, options.validation_fraction);
    let limit = options.limit.unwrap_or(u64::MAX);
    SplitSizes {
        train: (rest - validation).min(limit),
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
    trains: bool,
) -> Result<InferredData, Problem> {
    let misfit = |pointer: &str, detail: String| {
        Problem::invalid(vec![FieldError::new(pointer, detail)]).with_code("data_misfit")
    };
    if model.inputs.is_empty() {
        return Err(misfit("/model", "the model has no inputs".to_owned()));
    }
    let mut inputs = Vec::new();
    for input in &model.inputs {
        let array = match_array(input, model, dataset).ok_or_else(|| {
            misfit(
                "/dataset",
                format!(
                    "the model's input `{}` has no array of that name; the data set has {}",
                    input.name,
                    names(&dataset.inputs)
                ),
            )
        })?;
        inputs.push(fit_input(input, array, options).map_err(|detail| misfit("/dataset", detail))?);
    }
    // The first that holds floating-point numbers; exporters put class names before them.
    let output = model
        .outputs
        .iter()
        .find(|output| output.dtype.contains("float"))
        .or(model.outputs.first())
        .ok_or_else(|| misfit("/model", "the model has no outputs".to_owned()))?;
    let outputs = count_outputs(output);
    let target = dataset.target.as_ref().ok_or_else(|| {
        misfit(
            "/dataset",
            "the data set has no target (labels), which training and metrics need".to_owned(),
        )
    })?;
    let integer = !target.dtype.starts_with("float");
    let task = task.unwrap_or(match (target.shape.as_slice(), integer) {
        ([], true) if outputs != Some(1) => Task::Classification,
        ([_], true) => Task::Multilabel,
        _ => Task::Regression,
    });
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
                        output.name
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
                        target.name, output.name
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
    Ok(InferredData {
        task,
        inputs,
        output: output.name.clone(),
        outputs,
        splits,
        batch_size,
    })
}

fn elements(shape: &[u64]) -> Option<u64> {
    shape
        .iter()
        .try_fold(1u64, |product, &size| product.checked_mul(size))
}

/// Losses and metrics must suit the task, which only the data tells.
pub fn check_task(params: &Params, about: &InferredData) -> Result<(), Problem> {
    check_task_at(params, about, "/params")
}

fn check_task_at(params: &Params, about: &InferredData, pointer: &str) -> Result<(), Problem> {
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
            Some(finetune) => training(finetune, &format!("{pointer}/finetune")),
            None => Ok(()),
        },
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
        Params::Pipeline(steps) => steps.iter().enumerate().try_for_each(|(index, step)| {
            check_task_at(step, about, &format!("{pointer}/steps/{index}/params"))
        }),
    }
}

fn names(arrays: &[ArrayInfo]) -> String {
    let quoted: Vec<_> = arrays.iter().map(|a| format!("`{}`", a.name)).collect();
    quoted.join(", ")
}

fn match_array<'a>(
    input: &TensorInfo,
    model: &ModelSummary,
    dataset: &'a DatasetSummary,
) -> Option<&'a ArrayInfo> {
    let named = dataset.inputs.iter().find(|array| array.name == input.name);
    match (named, model.inputs.len(), dataset.inputs.as_slice()) {
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
    let wanted = input.shape.get(1..).unwrap_or_default();
    let matches = |shape: &[u64]| {
        shape.len() == wanted.len()
            && shape.iter().zip(wanted).all(|(size, dimension)| {
                dimension.fixed().is_none_or(|fixed| fixed == *size as i64)
            })
    };
    let preprocess = &options.preprocess;
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
    if input.dtype == "string" {
        return Err(format!(
            "the model's input `{}` takes strings, which are not supported",
            input.name
        ));
    }
    let channels = if shape.len() >= 2 {
        shape[0] as usize
    } else {
        1
    };
    let per_channel = |given: &Option<Vec<f64>>, default: f64, name: &str| match given {
        None => Ok(vec![default]),
        Some(values) if values.len() == 1 || values.len() == channels => Ok(values.clone()),
        Some(values) => Err(format!(
            "preprocess.{name} has {} values, the input `{}` has {channels} channels",
            values.len(),
            input.name
        )),
    };
    // Pixels become shares of one where the model takes fractions; what it takes whole stays.
    let default_scale = if array.dtype == "uint8" && input.dtype.starts_with("float") {
        1.0 / 255.0
    } else {
        1.0
    };
    Ok(InferredInput {
        input: input.name.clone(),
        array: array.name.clone(),
        transposed,
        scale: preprocess.scale.unwrap_or(default_scale),
        mean: per_channel(&preprocess.mean, 0.0, "mean")?,
        std: per_channel(&preprocess.std, 1.0, "std")?,
        shape,
    })
}
