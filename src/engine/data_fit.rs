//! A job's data set, read and matched with its model.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use super::predict::tried;
use super::problem::no_data;
use super::tokenizer;
use crate::data::{self, Prepared, Reading, Tokenizer};
use crate::distill::closing_operators;
use crate::graph::{Graph, feeds_for_batch, infer};
use crate::onnx::proto::ValueInfoProto;
use crate::spec::Problem;
use crate::spec::child::{DatasetInput, JobInputs};
use crate::spec::dataset::{DatasetSummary, Media};
use crate::spec::fit::{InferredData, InferredInput, check_task, fit, fit_further};
use crate::spec::job::{DataOptions, Params, Task};
use crate::spec::model::ModelSummary;
use crate::spec::problem::FieldError;
use crate::spec::tokens::TokensInfo;

/// Reads the data set and settles how it feeds the model; pins what the file leaves open.
pub(super) fn prepare(
    graph: &mut Graph,
    input: &DatasetInput,
    inputs: &JobInputs,
    params: &Params,
) -> Result<Prepared, Problem> {
    let request = &inputs.request;
    let (summary, tokenizer) = summarize(graph)?;
    let target_column = input
        .summary
        .target
        .as_ref()
        .map(|target| target.name.as_str());
    let how = Reading {
        format: Some(input.summary.format),
        target: target_column,
        text: input.summary.text_column(),
        exclude: &input.summary.excluded,
        known: Some(&input.summary),
        ..Reading::default()
    };
    let dataset = data::read(&input.files, how)?;
    let own = measuring(tokenizer.as_deref(), &summary, &request.data);
    let tokens = own.map_or(Ok(None), |own| dataset.tokens_by(own).map_err(unreadable))?;
    let about = fit(
        &summary,
        &with_tokens(&input.summary, tokens.clone()),
        &request.data,
        request.task,
        params,
    )?;
    pin(graph, &about);
    let about = shortened(
        graph,
        about,
        &summary,
        |options| {
            let dataset = with_tokens(&input.summary, tokens.clone());
            fit(&summary, &dataset, options, request.task, params)
        },
        &request.data,
    );
    check_classes(graph, input, about.task, "/model")?;
    check_task(params, &about, &input.summary)?;
    let mut prepared = Prepared::new(dataset, about, &request.data);
    read_texts(&mut prepared, tokenizer)?;
    if request.data.embed_preprocessing {
        // What can't be done is said before anything is trained.
        embed(&mut graph.clone(), &prepared)?;
    }
    Ok(prepared)
}

/// How the data feeds a model that has places for fewer tokens than the longest text: as many as it takes. `fitted` says it of
/// other options.
fn shortened(
    graph: &mut Graph,
    about: InferredData,
    model: &ModelSummary,
    fitted: impl Fn(&DataOptions) -> Result<InferredData, Problem>,
    options: &DataOptions,
) -> InferredData {
    let tokens = about.inputs.iter().find_map(|input| input.tokens.as_ref());
    let mut axes = model.inputs.iter().filter_map(|input| input.shape.get(1));
    let is_open = axes.any(|axis| axis.fixed().is_none());
    let asked = options.preprocess.max_length.is_some();
    let Some(longest) = tokens
        .map(|tokens| tokens.length)
        .filter(|_| is_open && !asked)
    else {
        return about;
    };
    if tried(graph, &about).is_ok() {
        return about;
    }
    let best = longest_taken(longest, |length| {
        let mut shorter = options.clone();
        shorter.preprocess.max_length = Some(length);
        fitted(&shorter).ok().filter(|about| {
            pin(graph, about);
            tried(graph, about).is_ok()
        })
    });
    // Where no length does, it is not for the length.
    let about = best.unwrap_or(about);
    pin(graph, &about);
    about
}

/// What is found for the largest number of tokens below `longest` for which something is, by bisection.
pub(super) fn longest_taken<T>(longest: u32, mut find: impl FnMut(u32) -> Option<T>) -> Option<T> {
    let mut best = None;
    // What is known to be taken, and not to be.
    let (mut low, mut high) = (0, longest);
    while high - low > 1 {
        let length = low + (high - low) / 2;
        match find(length) {
            Some(found) => (low, best) = (length, Some(found)),
            None => high = length,
        }
    }
    best
}

/// A model's own tokenizer, where the lengths of all texts by it settle how long examples are: making tokens of them takes its
/// time.
fn measuring<'a>(
    tokenizer: Option<&'a Tokenizer>,
    model: &ModelSummary,
    options: &DataOptions,
) -> Option<&'a Tokenizer> {
    let mut axes = model.inputs.iter().filter_map(|input| input.shape.get(1));
    let is_open = axes.any(|axis| axis.fixed().is_none());
    tokenizer.filter(|_| is_open && options.preprocess.max_length.is_none())
}

/// A data set whose texts a model's tokenizer makes these tokens.
fn with_tokens(dataset: &DatasetSummary, tokens: Option<TokensInfo>) -> Cow<'_, DatasetSummary> {
    let mut dataset = Cow::Borrowed(dataset);
    if let Some(tokens) = tokens {
        let inputs = &mut dataset.to_mut().inputs;
        for input in inputs
            .iter_mut()
            .filter(|input| input.media == Some(Media::Text))
        {
            input.tokens = Some(tokens.clone());
        }
    }
    dataset
}

/// What a graph holds, with the tokenizer that it brings along.
fn summarize(graph: &Graph) -> Result<(ModelSummary, Option<Arc<Tokenizer>>), Problem> {
    let mut summary = crate::graph::summarize(graph);
    let tokenizer = tokenizer::of_model(graph)?;
    summary.tokenizer = tokenizer.as_ref().map(|tokenizer| tokenizer.info().clone());
    Ok((summary, tokenizer))
}

/// That a tokenizer can't read the texts.
fn unreadable(detail: String) -> Problem {
    let detail = format!("the tokenizer can't read the texts: {detail}");
    misfit("/dataset", detail)
}

/// Lets texts be read by the model's own tokenizer, and counts those that are cut.
fn read_texts(data: &mut Prepared, tokenizer: Option<Arc<Tokenizer>>) -> Result<(), Problem> {
    if let Some(tokenizer) = tokenizer {
        data.read_by(tokenizer);
    }
    data.about.cut = data.count_cut().map_err(unreadable)?;
    if data.about.task == Task::LanguageModeling && data.ids_place().is_none() {
        let detail = "no input of the model is given tokens: integers in one axis, under a name with `ids` or `tokens` where \
                      there are several inputs";
        return Err(misfit("/dataset", detail.to_owned()));
    }
    let highest = data
        .highest_token()
        .filter(|_| data.about.task == Task::LanguageModeling);
    if let (Some(highest), Some(outputs)) = (highest, data.about.outputs)
        && highest >= outputs as i64
    {
        let detail = format!(
            "tokens go up to {highest}, the model's output `{}` has {outputs} for the next one",
            data.about.output
        );
        return Err(misfit("/dataset", detail));
    }
    Ok(())
}

fn misfit(pointer: &str, detail: String) -> Problem {
    Problem::invalid(vec![FieldError::new(pointer, detail)]).with_code("data_misfit")
}

/// Tells a graph what the data says about the inputs that the file leaves open.
pub(super) fn pin(graph: &mut Graph, about: &InferredData) {
    for found in &about.inputs {
        pin_input(graph, found);
    }
}

pub(super) fn pin_input(graph: &mut Graph, input: &InferredInput) {
    if input.zeros {
        return;
    }
    let shape = input.shape.iter().map(|&size| size as usize).collect();
    graph.example_shapes.insert(input.input.clone(), shape);
}

/// Puts the scaling and normalising of the data into the graph; the data as it is fed then.
pub(super) fn embed(graph: &mut Graph, data: &Prepared) -> Result<Prepared, Problem> {
    let mut inputs = data.about.inputs.clone();
    for input in &mut inputs {
        let lines = input.affine();
        if lines.iter().all(|line| *line == (1.0, 0.0)) {
            continue;
        }
        let mut dims = match lines.len() {
            1 => Vec::new(),
            count => vec![count],
        };
        if lines.len() > 1 && !input.keeps_channels_last() {
            dims.resize(input.shape.len(), 1);
        }
        let of =
            |part: fn(&(f64, f64)) -> f64| lines.iter().map(|line| part(line) as f32).collect();
        let both = [of(|line| line.0), of(|line| line.1)];
        graph
            .prepare_input(&input.input, &dims, both)
            .map_err(|error| {
                let error = FieldError::new("/data/embed_preprocessing", error.to_string());
                Problem::invalid(vec![error]).with_code("not_supported")
            })?;
        let own = input.normalisation();
        input.inside = Some(match &input.inside {
            Some(inside) => own.and(inside),
            None => own,
        });
        (input.scale, input.mean, input.std) = (1.0, vec![0.0], vec![1.0]);
    }
    let mut fed = data.fed_as(inputs);
    fed.about.retell();
    Ok(fed)
}

/// The data of the job as a further model of a distillation, which the request names at `pointer`,
/// gets it; `inherits` says whether `options` are those of the job's model.
pub(super) fn prepare_further(
    graph: &mut Graph,
    first: &Prepared,
    options: &DataOptions,
    inputs: &JobInputs,
    params: &Params,
    pointer: &str,
    inherits: bool,
) -> Result<Prepared, Problem> {
    let Some(input) = &inputs.dataset else {
        return Err(no_data("distillation"));
    };
    let (summary, tokenizer) = summarize(graph)?;
    let own = measuring(tokenizer.as_deref(), &summary, options);
    let tokens = own.map_or(Ok(None), |own| first.tokens_by(own).map_err(unreadable))?;
    let dataset = &with_tokens(&input.summary, tokens);
    let about = fit_further(
        &summary,
        dataset,
        options,
        &first.about,
        params,
        pointer,
        inherits,
    )?;
    pin(graph, &about);
    let about = shortened(
        graph,
        about,
        &summary,
        |options| {
            fit_further(
                &summary,
                dataset,
                options,
                &first.about,
                params,
                pointer,
                inherits,
            )
        },
        options,
    );
    check_classes(graph, input, about.task, pointer)?;
    let mut prepared = first.for_model(about, Vec::new());
    read_texts(&mut prepared, tokenizer)?;
    Ok(prepared)
}

/// One row of the output for each token, as wide as the target needs.
fn check_tokens(
    first: &ValueInfoProto,
    feeds: &HashMap<String, Vec<usize>>,
    output: &str,
    dims: &[usize],
    (input, task): (&DatasetInput, Task),
    model: &str,
) -> Result<(), Problem> {
    let fed = feeds.get(first.label()).map_or(&[][..], Vec::as_slice);
    let [_, tokens] = fed else {
        return Err(misfit(
            "/dataset",
            format!(
                "the model's input `{}` of shape {fed:?} takes no rows of tokens",
                first.label()
            ),
        ));
    };
    let classes = match dims {
        [_, rows, classes] if rows == tokens => *classes,
        _ => {
            return Err(misfit(
                model,
                format!(
                    "the output `{output}` has shape {dims:?} for {tokens} tokens an example; it must be \
                     [batch, tokens, classes]"
                ),
            ));
        }
    };
    let Some(target) =
        (input.summary.target.as_ref()).filter(|_| task == Task::TokenClassification)
    else {
        return Ok(());
    };
    if target.shape != [0] && target.shape != [*tokens as u64] {
        return Err(misfit(
            "/dataset",
            format!(
                "the target `{}` has examples of shape {:?}, the model is given {tokens} tokens; it needs a label for each \
                 of them, or for each word of texts that come in words",
                target.name, target.shape
            ),
        ));
    }
    let highest = target.range.map(|[_, highest]| highest as u64 + 1);
    match target.classes.or(highest) {
        Some(needed) if needed as usize > classes => Err(misfit(
            "/dataset",
            format!(
                "the target needs {needed} outputs for a token, the model's `{output}` has {classes}"
            ),
        )),
        _ => Ok(()),
    }
}

/// The form of the output is known for certain only now, when the shapes can be inferred: one row
/// an example, as wide as the target needs.
fn check_classes(
    graph: &Graph,
    input: &DatasetInput,
    task: Task,
    model: &str,
) -> Result<(), Problem> {
    let Some(output) = graph.output_before(closing_operators(task)) else {
        return Ok(());
    };
    let misfit = |pointer: &str, detail: String| Err(misfit(pointer, detail));
    let feeds = feeds_for_batch(graph, 2)?;
    let fed = graph
        .inputs
        .first()
        .and_then(|input| feeds.get(input.label())?.first().copied());
    let shapes = infer(graph, &feeds)?;
    // A shape that depends on the data shows when it runs.
    let Some(dims) = shapes.get(output).map(|known| known.dims.clone()) else {
        return Ok(());
    };
    if dims.first().copied() != fed {
        return misfit(
            model,
            format!(
                "the output `{output}` has shape {dims:?} for a batch of {}; its first axis must \
                 be the batch",
                fed.unwrap_or(0)
            ),
        );
    }
    if task.is_of_tokens() {
        return check_tokens(
            &graph.inputs[0],
            &feeds,
            output,
            &dims,
            (input, task),
            model,
        );
    }
    let width: usize = dims[1..].iter().product();
    let target = input.summary.target.as_ref();
    if target.is_none() && task == Task::Classification && dims.len() > 3 {
        return misfit(
            model,
            format!(
                "the output `{output}` has shape {dims:?}; distributions are compared row by row of \
                 [batch, classes] or [batch, tokens, classes]"
            ),
        );
    }
    let Some(target) = target.filter(|_| task != Task::Embedding) else {
        return Ok(());
    };
    let wide = dims[1..].iter().filter(|&&size| size > 1);
    if task == Task::Classification && wide.count() > 1 {
        return misfit(
            model,
            format!(
                "the output `{output}` has shape {dims:?}; a classification compares one row of classes for each example, [batch, classes]"
            ),
        );
    }
    let needed = match task {
        Task::Classification => target.classes.unwrap_or(0) as usize,
        _ => target.shape.iter().product::<u64>() as usize,
    };
    let fits = match task {
        Task::Classification => needed <= width,
        _ => needed == width,
    };
    match fits {
        true => Ok(()),
        false => misfit(
            "/dataset",
            format!("the target needs {needed} outputs, the model's `{output}` has {width}"),
        ),
    }
}
