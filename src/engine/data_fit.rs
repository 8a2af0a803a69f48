//! A job's data set, read and matched with its model.

use crate::data::{self, Prepared};
use crate::graph::{Graph, feeds_for_batch, infer};
use crate::spec::Problem;
use crate::spec::child::{DatasetInput, JobInputs};
use crate::spec::fit::{check_task, fit};
use crate::spec::job::{Params, Task};
use crate::spec::problem::FieldError;

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
    check_task(params, about.task)?;
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
    let detail = format!("the target needs {needed} outputs, the model's `{logits}` has {width}");
    Err(Problem::invalid(vec![FieldError::new("/dataset", detail)]).with_code("data_misfit"))
}
