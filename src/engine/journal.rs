//! What a job has done so far, kept so that a later attempt goes on from there.
//!
//! A job is a chain of named stages. The journal keeps what each finished stage found, the graph
//! that the last one left, and the state of a training that is under way. One file, replaced as a
//! whole by renaming, so a kill leaves the old one or the new one.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use safetensors::tensor::{Dtype, View};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::graph::Graph;
use crate::onnx;
use crate::spec::Problem;
use crate::spec::result::Warning;
use crate::train::{TrainState, Trained};

const FILE: &str = "journal.safetensors";

/// Curves by metric name.
pub(super) type Curves = BTreeMap<String, Vec<(u64, f64)>>;

/// The part of the journal that is text.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Records {
    /// Finished stages in order, with what they found.
    stages: Vec<(String, serde_json::Value)>,
    /// The training that is under way.
    training: Option<(String, TrainState)>,
    curves: Curves,
    #[serde(default)]
    warnings: Vec<Warning>,
    #[serde(flatten)]
    trained: Totals,
}

/// What the trainings of finished stages come to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Totals {
    pub steps: u64,
    pub examples: u64,
    /// Of the steps.
    pub seconds: f64,
    /// Of the validations between them.
    pub validation_seconds: f64,
    /// Steps of controls, which no curve but their own shows.
    aside: u64,
    /// Where the curves of the last control ended.
    control_end: u64,
}

impl Totals {
    /// The step after which the curves of the next training begin; those of a control lie beside those of what follows
    /// it, behind those of the control before.
    pub fn shown(&self, is_control: bool) -> u64 {
        let shown = self.steps - self.aside;
        if is_control {
            shown.max(self.control_end)
        } else {
            shown
        }
    }

    fn add(&mut self, steps: u64, is_control: bool) {
        if is_control {
            self.control_end = self.shown(true) + steps;
            self.aside += steps;
        }
        self.steps += steps;
    }
}

pub(super) struct Journal {
    folder: PathBuf,
    records: Records,
    /// Places of the stages, by name; the last where one was done again.
    places: HashMap<String, usize>,
    /// ONNX file of the graph that the last finished stage left.
    graph: Option<Vec<u8>>,
    /// By name: ONNX files of graphs that later stages come back to.
    kept: BTreeMap<String, Vec<u8>>,
    saved_at: Instant,
    interval: Duration,
}

impl Journal {
    /// Opens the journal in `folder`; a file that can't be read counts as none, since every stage
    /// can be done again.
    pub fn open(folder: &Path) -> Self {
        let seconds = std::env::var("SINTER_CHECKPOINT_SECONDS")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(30.0);
        let mut journal = Self {
            folder: folder.to_owned(),
            records: Records::default(),
            places: HashMap::new(),
            graph: None,
            kept: BTreeMap::new(),
            saved_at: Instant::now(),
            interval: Duration::from_secs_f64(f64::clamp(seconds, 0.0, 86_400.0)),
        };
        remove_strays(folder);
        if let Some(found) = read(&folder.join(FILE)) {
            let stages = found.records.stages.iter().enumerate();
            journal.places = stages.map(|(at, (key, _))| (key.clone(), at)).collect();
            journal.records = found.records;
            journal.graph = found.graph;
            journal.kept = found.kept;
        }
        journal
    }

    /// Where the journal is; what else is put there goes with the attempt.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether an earlier attempt left something.
    pub fn is_resumed(&self) -> bool {
        !self.records.stages.is_empty() || self.records.training.is_some()
    }

    /// Whether no more than the first stage is finished, and nothing is under way.
    pub fn is_at_its_beginning(&self) -> bool {
        self.records.stages.len() <= 1 && self.records.training.is_none()
    }

    /// Whether the stage `key` is finished.
    pub fn has(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// What the stage `key` found in an earlier attempt. The graph is there only if it was the
    /// last finished stage: the graphs between are not needed any more.
    pub fn recall<T: DeserializeOwned>(&self, key: &str) -> Option<(Option<Graph>, T)> {
        let position = *self.places.get(key)?;
        let value = serde_json::from_value(self.records.stages[position].1.clone()).ok()?;
        let is_last = position + 1 == self.records.stages.len();
        let graph = match (&self.graph, is_last) {
            (Some(bytes), true) => Some(decode(bytes)?),
            _ => None,
        };
        Some((graph, value))
    }

    /// Keeps what the result will warn of; whether it is new.
    pub fn warn(&mut self, warning: &Warning) -> bool {
        let is_new = !self.records.warnings.contains(warning);
        if is_new {
            self.records.warnings.push(warning.clone());
        }
        is_new
    }

    /// All that this attempt and those before it have warned of.
    pub fn warnings(&self) -> &[Warning] {
        &self.records.warnings
    }

    /// Keeps a graph that later stages come back to; the next record is written down with it.
    pub fn keep(&mut self, name: &str, graph: &Graph) {
        self.kept.insert(name.to_owned(), graph.to_bytes());
    }

    /// A graph that was kept under `name`.
    pub fn kept(&self, name: &str) -> Option<Graph> {
        decode(self.kept.get(name)?)
    }

    /// Lets go of the graphs that were kept under names that begin with `prefix`.
    pub fn forget(&mut self, prefix: &str) {
        self.kept.retain(|name, _| !name.starts_with(prefix));
    }

    /// Notes that the stage `key` is finished, what it found and the graph that it left.
    pub fn record<T: Serialize>(
        &mut self,
        key: &str,
        found: &T,
        graph: &Graph,
    ) -> Result<(), Problem> {
        self.graph = Some(graph.to_bytes());
        self.note(key, found)
    }

    /// Notes that the stage `key` is finished, which left the graph of the stage before as it was.
    pub fn note<T: Serialize>(&mut self, key: &str, found: &T) -> Result<(), Problem> {
        let value = serde_json::to_value(found).expect("what a stage finds is plain data");
        let place = self.records.stages.len();
        self.places.insert(key.to_owned(), place);
        self.records.stages.push((key.to_owned(), value));
        self.records.training = None;
        if self.is_due() {
            self.save()?;
        }
        Ok(())
    }

    pub fn is_due(&self) -> bool {
        self.saved_at.elapsed() >= self.interval
    }

    /// The state of the training `key`, if an earlier attempt was in the middle of it.
    pub fn take_training(&mut self, key: &str) -> Option<TrainState> {
        match self.records.training.take() {
            Some((name, state)) if name == key => Some(state),
            _ => None,
        }
    }

    /// Keeps the state of the training `key`, now.
    pub fn save_training(&mut self, key: &str, state: TrainState) -> Result<(), Problem> {
        self.records.training = Some((key.to_owned(), state));
        self.save()
    }

    pub fn add_point(&mut self, name: &str, step: u64, value: f64) {
        let curve = self.records.curves.entry(name.to_owned()).or_default();
        match curve.last_mut() {
            // Points after the checkpoint are said again by the next attempt.
            Some(last) if last.0 >= step => {
                curve.retain(|&(earlier, _)| earlier < step);
                curve.push((step, value));
            }
            _ => curve.push((step, value)),
        }
    }

    pub fn curves(&self) -> &Curves {
        &self.records.curves
    }

    pub fn add_training(&mut self, trained: &Trained, is_control: bool) {
        let totals = &mut self.records.trained;
        totals.add(trained.steps, is_control);
        totals.examples += trained.examples;
        totals.seconds += trained.seconds;
        totals.validation_seconds += trained.validation_seconds;
    }

    /// All finished training.
    pub fn trained(&self) -> Totals {
        self.records.trained
    }

    /// What was trained before the stage `key` began, in whichever attempt that was.
    pub fn trained_before(&mut self, key: &str) -> Result<Totals, Problem> {
        let begin = format!("{key}/begin");
        if let Some((_, before)) = self.recall(&begin) {
            return Ok(before);
        }
        let before = self.trained();
        self.note(&begin, &before)?;
        Ok(before)
    }

    /// Writes everything down, durably.
    pub fn save(&mut self) -> Result<(), Problem> {
        std::fs::create_dir_all(&self.folder)?;
        let text = serde_json::to_string(&self.records).expect("records are plain data");
        let metadata = HashMap::from([("records".to_owned(), text)]);
        let mut tensors: Vec<(String, Stored)> = Vec::new();
        let graph = self.graph.iter().map(|bytes| ("graph".to_owned(), bytes));
        let kept = self.kept.iter();
        let kept = kept.map(|(name, bytes)| (format!("kept/{name}"), bytes));
        for (name, bytes) in graph.chain(kept) {
            tensors.push((
                name,
                Stored {
                    dtype: Dtype::U8,
                    shape: vec![bytes.len()],
                    bytes: Cow::Borrowed(bytes),
                },
            ));
        }
        if let Some((_, state)) = &self.records.training {
            for (name, (shape, elements)) in &state.tensors {
                let bytes = elements.iter().flat_map(|value| value.to_le_bytes());
                tensors.push((
                    format!("training/{name}"),
                    Stored {
                        dtype: Dtype::F32,
                        shape: shape.clone(),
                        bytes: Cow::Owned(bytes.collect()),
                    },
                ));
            }
        }
        let bytes = safetensors::serialize(tensors, Some(metadata))
            .map_err(|error| Problem::new(500, "storage_failed", error.to_string()))?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&bytes)?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(FILE))
            .map_err(|error| Problem::from(error.error))?;
        std::fs::File::open(&self.folder)?.sync_all()?;
        self.saved_at = Instant::now();
        Ok(())
    }
}

/// A kill in the middle of writing leaves a temporary file.
fn remove_strays(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name() != FILE
            && let Err(error) = std::fs::remove_file(entry.path())
        {
            eprintln!("{} can't be removed: {error}", entry.path().display());
        }
    }
}

struct Stored<'a> {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

struct Found {
    records: Records,
    graph: Option<Vec<u8>>,
    kept: BTreeMap<String, Vec<u8>>,
}

fn decode(bytes: &[u8]) -> Option<Graph> {
    let model = prost::Message::decode(bytes).ok()?;
    Graph::load(model).ok()
}

fn read(path: &Path) -> Option<Found> {
    let bytes = std::fs::read(path).ok()?;
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).ok()?;
    let text = metadata.metadata().as_ref()?.get("records")?;
    let mut records: Records = serde_json::from_str(text).ok()?;
    let file = safetensors::SafeTensors::deserialize(&bytes).ok()?;
    let (mut graph, mut kept) = (None, BTreeMap::new());
    for (name, view) in file.iter() {
        if name == "graph" {
            graph = Some(view.data().to_vec());
        } else if let Some(name) = name.strip_prefix("kept/") {
            kept.insert(name.to_owned(), view.data().to_vec());
        } else if let (Some(key), Some((_, state))) =
            (name.strip_prefix("training/"), &mut records.training)
        {
            let elements = view.data().as_chunks::<4>().0;
            let elements = elements.iter().map(|&chunk| f32::from_le_bytes(chunk));
            state
                .tensors
                .insert(key.to_owned(), (view.shape().to_vec(), elements.collect()));
        }
    }
    Some(Found {
        records,
        graph,
        kept,
    })
}

/// Reads a model file into a graph.
pub(super) fn load_graph(path: &Path) -> Result<Graph, Problem> {
    Ok(Graph::load(onnx::read_model(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn curves_of_controls_lie_beside_and_never_over_each_other() {
        let mut totals = Totals::default();
        let mut train = |steps: u64, is_control: bool| {
            let from = totals.shown(is_control);
            totals.add(steps, is_control);
            (from, from + steps)
        };
        assert_eq!(train(10, false), (0, 10));
        assert_eq!(train(20, true), (10, 30));
        assert_eq!(train(15, false), (10, 25));
        assert_eq!(train(20, true), (30, 50));
        assert_eq!(train(5, true), (50, 55));
        assert_eq!(train(40, false), (25, 65));
        assert_eq!(train(1, true), (65, 66));
    }
}
