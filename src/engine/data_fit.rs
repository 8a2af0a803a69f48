//! A job's data set, read and matched with its model.

use crate::data::{self, Prepared};
use crate::graph::{Graph, feeds_for_batch, infer};
use crate::spec::Problem;
use crate::spec::child::{DatasetInput, JobInputs};
use crate::spec::evaluate::MetricName;
use crate::spec::fit::fit;
use crate::spec::job::{Params, Task};
use crate::spec::problem::FieldError;
use crate::train::Loss;

/// Reads the data set and settles how it feeds the model; pins what the file leaves open.
pub(super) fn prepare(
    graph: &mut Graph,
    input: &DatasetInput,
    inputs: &JobInputs,
    params: &Params,
) -> Result<Prepared, Problem> {
    let request = &inputs.request;
    let summary = crate::graph::summarize(graph);
    let about = fit(
        &summary,
        &input.summary,
        &request.data,
        request.task,
        params.needs_gradients(),
    )?;
    for found in &about.inputs {
        let shape = found.shape.iter().map(|&size| size as usize).collect();
        graph.example_shapes.insert(found.input.clone(), shape);
    }
    check_classes(graph, input, about.task)?;
    check_losses(params, about.task, "/params")?;
    let target_column = input
        .summary
        .target
        .as_ref()
        .map(|target| target.name.as_str());
    let dataset = data::read(&input.files, Some(input.summary.format), target_column)?;
    Ok(Prepared::new(dataset, about))
}

/// The width of the logits is known for certain only now, when the shapes can be inferred.
fn check_classes(graph: &Graph, input: &DatasetInput, task: Task) -> Result<(), Problem> {
    let (Some((logits, _)), Some(target)) = (graph.logits(), &input.summary.target) else {
        return Ok(());
    };
    let shapes = infer(graph, &feeds_for_batch(graph, 1)?)?;
    let width: usize = shapes
        .get(logits)
        .map_or(0, |known| known.dims.iter().skip(1).product());
    let needed = match task {
        Task::Classification => target.classes.unwrap_or(0) as usize,
        _ => target.shape.iter().product::<u64>() as usize,
    };
    let fits = match task {
        Task::Classification => needed <= width,
        _ => needed == width,
    };
    if fits {
        return Ok(());
    }
    let mut problem = Problem::invalid(vec![FieldError::new(
        "/dataset",
        format!("the target needs {needed} outputs, the model's `{logits}` has {width}"),
    )]);
    problem.code = "data_misfit".to_owned();
    Err(problem)
}

/// Losses and metrics must suit the task, which only the data tells.
fn check_losses(params: &Params, task: Task, pointer: &str) -> Result<(), Problem> {
    let refuse = |pointer: String, detail: String| {
        Err(Problem::invalid(vec![FieldError::new(pointer, detail)]))
    };
    let check = |name: Option<crate::spec::train::LossName>, pointer: String| {
        let Some(name) = name else { return Ok(()) };
        let loss = Loss {
            name,
            label_smoothing: 0.0,
        };
        match loss.fits(task) {
            true => Ok(()),
            false => refuse(
                pointer,
                format!("this loss does not suit the task {task:?}"),
            ),
        }
    };
    match params {
        Params::Train(train) => check(train.loss, format!("{pointer}/loss")),
        Params::Prune(prune) => check(
            prune.finetune.as_ref().and_then(|finetune| finetune.loss),
            format!("{pointer}/finetune/loss"),
        ),
        Params::Evaluate(evaluate) => {
            let unsuited = |metric: &&MetricName| !metric.applies_to(task);
            match evaluate.metrics.iter().find(unsuited) {
                None => Ok(()),
                Some(metric) => refuse(
                    format!("{pointer}/metrics"),
                    format!("`{}` does not suit the task {task:?}", metric.as_str()),
                ),
            }
        }
        Params::Pipeline(steps) => steps.iter().enumerate().try_for_each(|(index, step)| {
            check_losses(step, task, &format!("{pointer}/steps/{index}/params"))
        }),
    }
}
