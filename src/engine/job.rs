//! A whole job: measure, work, measure again, write the artifacts.

use std::path::Path;
use std::time::Instant;

use uuid::Uuid;

use super::child::Ended;
use super::data_fit::{embed, pin, prepare};
use super::doubt::{doubt, doubts_of_data, loss_of_quality, order_in_words};
use super::inspect::summarize;
use super::journal::{Journal, load_graph};
use super::measure::{change, measure};
use super::report;
use super::scaling::{self, Better, better};
use super::search_step::Searched;
use super::tokenizer;
use super::voice::Voice;
use crate::data::Prepared;
use crate::exec::Device;
use crate::graph::Graph;
use crate::prune::Exclusion;
use crate::spec::Problem;
use crate::spec::child::{
    JobInputs, Level, MODEL_ARTIFACT, Message, Progress, StagedFile, StagedModel, TRIALS_ARTIFACT,
};
use crate::spec::evaluate::MetricName;
use crate::spec::job::{JobKind, Params};
use crate::spec::model::Expected;
use crate::spec::result::{
    DistillOutcome, Environment, JobResult, Measurement, PruneOutcome, StepResult, Training,
    Warning,
};
use crate::spec::trial::{SearchOutcome, Trials};
use crate::train::measure_latencies;

/// What the stages of a job share.
pub(super) struct Job<'a> {
    pub voice: &'a Voice,
    pub journal: Journal,
    pub device: Device,
    pub data: Option<Prepared>,
    pub seed: u64,
    pub planned_steps: u64,
    pub inputs: &'a JobInputs,
    pub params: &'a Params,
    /// The job's data as its model gets it; `data` is what the model under work gets.
    pub first_data: Option<Prepared>,
    /// For each pruning that set weights to zero: what it left alone. Later training keeps the
    /// zeros of all of them.
    pub sparse: Vec<Exclusion>,
    /// Size of the job's file, while what is done is done to the model in it.
    pub file_bytes: Option<usize>,
    /// The tokenizer's file in the job's model.
    pub tokenizer: Option<String>,
}

impl Job<'_> {
    /// Says that a phase begins.
    pub fn phase(&self, phase: &str) {
        let steps = self.journal.trained().steps;
        let fraction = match phase {
            "measure" | "report" => 0.95,
            _ => 0.95 * steps as f64 / self.planned_steps.max(1) as f64,
        };
        let progress = Progress {
            fraction: fraction.min(0.95),
            phase: phase.to_owned(),
            ..Progress::default()
        };
        self.voice.progress(progress, true);
    }

    /// Says what whoever takes the result should know, now and in the result; once.
    pub fn warn(&mut self, kind: &str, text: String, data: serde_json::Value) {
        warn(self.voice, &mut self.journal, kind, text, data);
    }

    /// A way to prepare the inputs that suits the model better, looked for once in a job.
    fn better_scaled(
        &mut self,
        graph: &Graph,
        before: &Measurement,
        expected: Option<&Expected>,
    ) -> Result<Option<Better>, Ended> {
        const STAGE: &str = "scaling";
        if let Some((_, found)) = self.journal.recall(STAGE) {
            return Ok(found);
        }
        // A journal that an earlier version began goes on where it was.
        let Some(data) = self
            .first_data
            .clone()
            .filter(|_| self.journal.is_at_its_beginning())
        else {
            return Ok(None);
        };
        let (voice, begun) = (self.voice, Instant::now());
        let go_on = || !voice.drain_requested() && begun.elapsed() < scaling::LONGEST;
        let found = better(graph, &self.device, &data, before, expected, &go_on);
        self.check_drain()?;
        self.journal.note(STAGE, &found)?;
        Ok(found)
    }

    /// Between stages: keeps what is done and ends, if that is wanted.
    pub fn check_drain(&mut self) -> Result<(), Ended> {
        if !self.voice.drain_requested() {
            return Ok(());
        }
        self.journal.save()?;
        Err(Ended::Drained)
    }

    /// A recalled graph with what the data tells about its inputs; `instead` where a later stage
    /// has its own, so that this one's is not needed.
    pub fn pinned(&self, recalled: Option<Graph>, instead: Graph) -> Graph {
        match recalled {
            None => instead,
            Some(mut graph) => {
                if let Some(data) = &self.data {
                    pin(&mut graph, &data.about);
                }
                graph
            }
        }
    }

    /// Measures `graph` as the stage `key`. The graph comes back, since a recalled stage may be
    /// the one that holds it.
    fn measured(
        &mut self,
        key: &str,
        graph: Graph,
        file: Option<&[u8]>,
        metrics: &[MetricName],
        required: bool,
    ) -> Result<(Graph, Measurement), Ended> {
        if let Some((kept, found)) = self.journal.recall(key) {
            return Ok((self.pinned(kept, graph), found));
        }
        self.phase("evaluate");
        let written;
        let file = match file {
            Some(file) => file,
            None => {
                written = graph.to_bytes();
                &written
            }
        };
        let found = measure(
            &graph,
            file,
            &self.device,
            self.data.as_ref(),
            metrics,
            required,
        )?;
        self.journal.record(key, &found, &graph)?;
        self.check_drain()?;
        Ok((graph, found))
    }

    /// Makes a graph what the job hands out: with the preparation of `data` in it, if that was asked for, and what it
    /// expects in its file. Returns the data as it is fed then.
    pub(super) fn hand_out(&self, graph: &mut Graph, data: &Prepared) -> Result<Prepared, Problem> {
        let embeds =
            self.params.kind() != JobKind::Evaluate && self.inputs.request.data.embed_preprocessing;
        let fed = match embeds {
            true => embed(graph, data)?,
            false => data.clone(),
        };
        tokenizer::hand_down(self.tokenizer.as_deref(), graph, &fed.about);
        graph.set_expected(&fed.about);
        Ok(fed)
    }

    pub(super) fn step(
        &mut self,
        key: &str,
        graph: Graph,
        params: &Params,
    ) -> Result<(Graph, Outcomes), Ended> {
        let mut outcomes = Outcomes::default();
        let graph = match params {
            Params::Train(train) => {
                let key = format!("{key}/train");
                self.train(&key, "train", graph, train)?
            }
            Params::Prune(prune) => {
                let (graph, outcome) = self.prune(key, graph, prune)?;
                outcomes.prune = Some(outcome);
                graph
            }
            Params::Distill(distill) => {
                let (graph, outcome) = self.distill(key, graph, distill)?;
                outcomes.distill = Some(outcome);
                graph
            }
            Params::Search { search, .. } => {
                let (graph, searched) = self.search(key, &graph, search)?;
                outcomes.search = Some(searched);
                graph
            }
            Params::Evaluate(_) | Params::Pipeline(_) => graph,
        };
        Ok((graph, outcomes))
    }
}

/// As [`Job::warn`], where a part of the job is lent out.
pub(super) fn warn(
    voice: &Voice,
    journal: &mut Journal,
    kind: &str,
    text: String,
    data: serde_json::Value,
) {
    let warning = Warning {
        kind: kind.to_owned(),
        message: text,
        data,
    };
    if journal.warn(&warning) {
        let Warning { message, data, .. } = warning;
        voice.event(Level::Warning, kind, message, data);
    }
}

/// What a step says about itself.
#[derive(Default)]
pub(super) struct Outcomes {
    prune: Option<PruneOutcome>,
    distill: Option<DistillOutcome>,
    search: Option<Searched>,
}

pub(super) fn load(inputs: &JobInputs) -> Result<(Graph, Params), Problem> {
    let (_, params) = inputs.request.clone().validate()?;
    let graph = load_graph(&inputs.model)?;
    if let Some(operator) = graph.unsupported.first() {
        return Err(Problem::new(
            422,
            "unsupported_operator",
            format!("the model uses `{operator}`, which this version can't run"),
        ));
    }
    Ok((graph, params))
}

/// Runs a job; finished files go to `staging`.
pub(super) fn run(
    inputs: JobInputs,
    staging: &Path,
    checkpoint: &Path,
    voice: &Voice,
) -> Result<Message, Ended> {
    let (mut graph, params) = load(&inputs)?;
    let device = Device::open(&inputs.request.device)?;
    let data = match &inputs.dataset {
        None => None,
        Some(dataset) => Some(prepare(&mut graph, dataset, &inputs, &params)?),
    };
    // How the job that made the model prepared its inputs.
    let expected = graph.expected();
    if let Some(data) = &data {
        // From the start, so that its bytes count wherever the file's size does.
        graph.set_expected(&data.about);
    }
    let batches = data.as_ref().map_or(0, Prepared::train_batches);
    let journal = Journal::open(checkpoint);
    let resumed = journal.is_resumed();
    if resumed {
        voice.info("resumed", "going on from the last checkpoint".to_owned());
        // The service may have been gone before it read what the earlier attempt said.
        for (name, points) in journal.curves() {
            for &(step, value) in points {
                let name = name.clone();
                voice.say(&Message::Metric { name, step, value });
            }
        }
    }
    let mut job = Job {
        voice,
        journal,
        device,
        first_data: data.clone(),
        data,
        inputs: &inputs,
        params: &params,
        seed: inputs.request.seed,
        planned_steps: params.epochs() * batches as u64,
        sparse: Vec::new(),
        file_bytes: None,
        tokenizer: tokenizer::text_of(&graph).map(str::to_owned),
    };
    let original_file = std::fs::read(&inputs.model)?;
    // Candidates of a search are other models.
    if !matches!(params, Params::Search { .. }) {
        job.file_bytes = Some(original_file.len());
    }
    let task = job.data.as_ref().map(|data| data.about.task);
    let metrics = params.metrics(task);
    // Only who asks for metrics alone has nothing without them.
    let required = matches!(params, Params::Evaluate(_));
    let (mut graph, mut before) =
        job.measured("before", graph, Some(&original_file), &metrics, required)?;
    let order = before
        .quality
        .as_ref()
        .and_then(|quality| quality.order.as_ref());
    if let (Some(order), Some(data)) = (order, &job.first_data) {
        let names = data.about.class_names.as_deref();
        let text = format!(
            "the model's answers fit the labels in another order of the classes: {}",
            order_in_words(order, names)
        );
        let order = serde_json::json!({"order": order});
        warn(
            job.voice,
            &mut job.journal,
            "classes_in_another_order",
            text,
            order,
        );
    }
    let has_order = order.is_some();
    if let (Some(data), Some(dataset)) = (&job.first_data, &inputs.dataset) {
        for (kind, text, data) in doubts_of_data(&data.about, &dataset.summary) {
            warn(job.voice, &mut job.journal, kind, text, data);
        }
    }
    let dataset = inputs.dataset.as_ref();
    let target = dataset.and_then(|dataset| Some(dataset.summary.target.as_ref()?.name.as_str()));
    let about = job.first_data.as_ref().map(|data| &data.about);
    let reads_texts = about.is_some_and(|about| {
        let mut inputs = about.inputs.iter();
        inputs.any(|input| input.tokens.is_some())
    });
    if !params.starts_afresh() {
        let better = match has_order {
            true => None,
            false => job.better_scaled(&graph, &before, expected.as_ref())?,
        };
        let warning = match (better, doubt(&before, target, reads_texts)) {
            (Some(better), _) => Some((better.kind, better.text, better.data)),
            (None, Some(doubt)) => Some((
                "model_fits_badly".to_owned(),
                doubt,
                serde_json::Value::Null,
            )),
            (None, None) => None,
        };
        if let Some((kind, text, data)) = warning {
            job.warn(&kind, text, data);
        }
    }
    let mut steps = Vec::new();
    let mut outcomes = Outcomes::default();
    match &params {
        Params::Pipeline(parts) => {
            for (index, part) in parts.iter().enumerate() {
                let key = format!("step{index}");
                let (next, found) = job.step(&key, graph, part)?;
                if !matches!(part, Params::Evaluate(_)) {
                    job.file_bytes = None;
                }
                let required = matches!(part, Params::Evaluate(_));
                let metrics = part.metrics(task);
                let stage = format!("{key}/after");
                let (measured, after) = job.measured(&stage, next, None, &metrics, required)?;
                graph = measured;
                steps.push(StepResult {
                    kind: part.kind(),
                    after,
                    prune: found.prune,
                    distill: found.distill,
                });
            }
        }
        single => (graph, outcomes) = job.step("step", graph, single)?,
    }
    let makes_model = params.kind() != JobKind::Evaluate;
    let mut data = None;
    if let Some(trained) = &job.data {
        for (_, _, graph) in outcomes
            .search
            .iter_mut()
            .flat_map(|search| &mut search.front)
        {
            job.hand_out(graph, trained)?;
        }
        data = Some(job.hand_out(&mut graph, trained)?);
    }
    let file = match makes_model {
        true => graph.to_bytes(),
        false => original_file,
    };
    let mut after = None;
    job.phase("measure");
    // The model as it came; not held while others train.
    let mut original = load_graph(&inputs.model)?;
    if let Some(data) = &job.first_data {
        pin(&mut original, &data.about);
    }
    let first = (&original, job.first_data.as_ref());
    if makes_model {
        let mut measured = measure(
            &graph,
            &file,
            &job.device,
            data.as_ref(),
            &metrics,
            required,
        )?;
        let mut latencies =
            measure_latencies(&[first, (&graph, data.as_ref())], &job.device)?.into_iter();
        before.latency_ms = latencies.next();
        measured.latency_ms = latencies.next();
        after = Some(measured);
    } else {
        before.latency_ms = measure_latencies(&[first], &job.device)?.pop();
    }
    let told = data.as_ref().or(job.data.as_ref()).map(|own| {
        let first = job
            .first_data
            .as_ref()
            .filter(|_| !inputs.request.data.embed_preprocessing);
        let own = own.about.clone();
        first.map_or(own.clone(), |first| own.beside(&first.about))
    });
    let trained = job.journal.trained();
    let (search, trials, front) = match outcomes.search {
        None => (None, None, Vec::new()),
        Some(searched) => (
            Some(searched.outcome),
            Some(searched.trials),
            searched.front,
        ),
    };
    let is_bare = |graph: &Graph| {
        let mut nodes = graph.nodes.iter();
        graph.scales().is_empty() && nodes.any(|node| node.operator() == "Conv")
    };
    let lacks_norms = is_bare(&original) || is_bare(&graph);
    if let Some(lost) = after
        .as_ref()
        .and_then(|after| loss_of_quality(&before, after, outcomes.prune.as_ref(), lacks_norms))
    {
        job.warn("quality_lost", lost, serde_json::Value::Null);
    }
    let result = JobResult {
        model: None,
        change: after.as_ref().map(|after| change(&before, after)),
        before,
        after,
        training: (trained.steps > 0).then(|| Training {
            examples_per_second: trained.examples as f64 / trained.seconds.max(1e-9),
            seconds: trained.seconds,
        }),
        prune: outcomes.prune,
        distill: outcomes.distill,
        search,
        steps,
        warnings: job.journal.warnings().to_vec(),
        environment: Environment {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: job.device.name.clone(),
            seed: job.seed,
            // Of the model that comes out: a student of its own may get them in another way.
            data: told,
            sandbox: super::confine::in_force(),
        },
    };
    job.phase("report");
    let trials = trials.as_ref();
    let journal = &job.journal;
    let drawn = drawn_for_test(&inputs, job.first_data.as_ref());
    let mut artifacts = write_artifacts(&inputs, &result, drawn, trials, journal, &file, staging)?;
    for (name, control) in job.controls() {
        artifacts.push(stage(staging, &name, OCTETS, &control.to_bytes())?);
    }
    let mut models = Vec::new();
    if makes_model {
        models.push(StagedModel {
            id: Uuid::now_v7(),
            artifact: MODEL_ARTIFACT.to_owned(),
            summary: summarize(&graph)?,
        });
    }
    if let (Some(outcome), Some(trials)) = (&result.search, trials) {
        artifacts.extend(write_search(outcome, trials, &front, staging)?);
    }
    for (id, artifact, graph) in front {
        models.push(StagedModel {
            id,
            artifact,
            summary: summarize(&graph)?,
        });
    }
    Ok(Message::Done {
        result: Box::new(result),
        artifacts,
        models,
    })
}

/// The media type of a model.
const OCTETS: &str = "application/octet-stream";

/// The files that a search has beside the others.
fn write_search(
    outcome: &SearchOutcome,
    trials: &Trials,
    front: &[(Uuid, String, Graph)],
    staging: &Path,
) -> Result<Vec<StagedFile>, Problem> {
    let pareto = serde_json::json!({
        "objectives": outcome.objectives, "hypervolume": outcome.hypervolume, "front": outcome.front,
    });
    let json = |value: &serde_json::Value| {
        let text = serde_json::to_string_pretty(value).expect("what a search found is plain data");
        text.into_bytes()
    };
    let all = serde_json::to_value(trials).expect("trials are plain data");
    let mut files = vec![
        stage(staging, TRIALS_ARTIFACT, "application/json", &json(&all))?,
        stage(staging, "pareto.json", "application/json", &json(&pareto))?,
    ];
    for (_, artifact, graph) in front {
        files.push(stage(staging, artifact, OCTETS, &graph.to_bytes())?);
    }
    Ok(files)
}

fn stage(
    staging: &Path,
    name: &str,
    media_type: &str,
    bytes: &[u8],
) -> Result<StagedFile, Problem> {
    let path = staging.join(name);
    std::fs::write(&path, bytes)?;
    Ok(StagedFile {
        name: name.to_owned(),
        media_type: media_type.to_owned(),
        path,
    })
}

/// Which examples of an array, or rows of a table, were set aside for the test split, counted from 0; `None` where the data set
/// has splits of its own, and where examples don't stay in the order of the upload (files, texts).
fn drawn_for_test<'a>(inputs: &JobInputs, data: Option<&'a Prepared>) -> Option<&'a [u32]> {
    let dataset = &inputs.dataset.as_ref()?.summary;
    let in_order = dataset.inputs.iter().all(|array| array.media.is_none());
    let whole = dataset.skipped.is_empty();
    let is_one = dataset.splits.test == 0 && dataset.splits.validation == 0;
    Some(data?.test_examples()).filter(|_| in_order && whole && is_one)
}

fn write_artifacts(
    inputs: &JobInputs,
    result: &JobResult,
    drawn: Option<&[u32]>,
    trials: Option<&Trials>,
    journal: &Journal,
    model: &[u8],
    staging: &Path,
) -> Result<Vec<StagedFile>, Problem> {
    let request = &inputs.request;
    let curves = journal.curves();
    let json = serde_json::json!({
        "job": inputs.job, "request": request, "result": result, "curves": curves,
    });
    let mut json = serde_json::to_string_pretty(&json).expect("reports are plain data");
    if let (Some(drawn), Some(open)) = (drawn, json.strip_suffix("\n}")) {
        // In one line, since there may be many.
        let drawn = serde_json::to_string(drawn).expect("numbers are plain data");
        json = format!("{open},\n  \"test_examples\": {drawn}\n}}");
    }
    let files: [(&str, &str, Vec<u8>); 4] = [
        (MODEL_ARTIFACT, OCTETS, model.to_vec()),
        ("report.json", "application/json", json.into_bytes()),
        (
            "report.html",
            "text/html; charset=utf-8",
            report::render_html(request, result, curves, trials).into_bytes(),
        ),
        (
            "metrics.csv",
            "text/csv; charset=utf-8",
            report::metrics_csv(curves).into_bytes(),
        ),
    ];
    files
        .into_iter()
        .map(|(name, media_type, bytes)| stage(staging, name, media_type, &bytes))
        .collect()
}
