//! Distillation as stages of a job: a student, its control, its training by a teacher.

use std::collections::BTreeMap;

use super::child::Ended;
use super::data_fit::{pin, prepare_further};
use super::job::Job;
use super::journal::load_graph;
use super::problem;
use super::train_step::{CONTROL, Purpose};
use super::verdict::{Tested, compare};
use crate::data::{Prepared, Role};
use crate::distill::{Distillation, Teacher, Teachers, Tuition, closing_operators, neighbours};
use crate::exec::value::{dims, to_host};
use crate::graph::Graph;
use crate::spec::Problem;
use crate::spec::child::{CONTROL_ARTIFACT, JobInputs};
use crate::spec::distill::{
    Average, DistillParams, LossTerm, Student, StudentWeights, TeacherChoice, TeacherViews,
};
use crate::spec::evaluate::MetricName;
use crate::spec::fit::check_outputs;
use crate::spec::job::{Params, Task};
use crate::spec::problem::FieldError;
use crate::spec::prune::PruneParams;
use crate::spec::prune::Rigl;
use crate::spec::result::{
    Comparison, DistillControl, DistillOutcome, DistillPair, DistillTerm, TeacherSource,
};
use crate::spec::train::{StartWeights, TrainParams};
use crate::train::{Loss, Measured, evaluation_batch};

/// Most bytes of answers of teachers that are kept; more of them are asked for again each time.
const MOST_KEPT_BYTES: usize = 16 << 30;

/// Metrics by name.
type Metrics = BTreeMap<String, f64>;

impl Job<'_> {
    /// Trains a student of the teacher that `params` name; `graph` is the model that the step gets.
    pub(super) fn distill(
        &mut self,
        key: &str,
        graph: Graph,
        params: &DistillParams,
    ) -> Result<(Graph, DistillOutcome), Ended> {
        let pointer = self.pointer(key);
        let held = format!("{key}/held/");
        let stage = format!("{key}/outcome");
        let data = self.data.clone().ok_or_else(no_data)?;
        let made = params
            .student
            .as_ref()
            .is_none_or(|student| student.model.is_none());
        // Later stages leave other graphs in the journal, and an attempt that goes on needs these two.
        let (first, first_data) = match params.teacher {
            TeacherChoice::Model => {
                let kept = self.journal.kept(&format!("{held}teacher"));
                let teacher = self.pinned(kept, graph.clone());
                // A job of its own finds its model in its file.
                if pointer != "/params" {
                    self.journal.keep(&format!("{held}teacher"), &teacher);
                }
                (teacher, data.clone())
            }
            TeacherChoice::Original => (self.named()).original(&data, self.first_data.as_ref())?,
        };
        if params.student.is_some() {
            // Zeros of an earlier pruning are not this model's.
            self.sparse.clear();
        }
        if let Some((kept, outcome)) = self.journal.recall(&stage) {
            self.data = Some(match &params.student {
                None => data,
                Some(student) if student.model.is_none() => first_data,
                Some(_) => {
                    self.student(key, &pointer, graph.clone(), &first, &first_data, params)?
                        .1
                }
            });
            return Ok((self.pinned(kept, graph), outcome));
        }
        let (student, student_data) = match self.journal.kept(&format!("{held}student")) {
            Some(student) if made => (self.pinned(Some(student), graph), data),
            _ => self.student(key, &pointer, graph, &first, &first_data, params)?,
        };
        self.journal.keep(&format!("{held}student"), &student);
        self.data = Some(student_data.clone());
        let (of_teacher, of_student) = (first_data.about.outputs, student_data.about.outputs);
        check_outputs(params, of_teacher, of_student, &pointer)?;

        let losses = params.losses_for(student_data.about.task);
        let tuition = settle(&losses, &first, &student, &format!("{pointer}/losses"))?;
        let teachers = self.named().teachers(&pointer, first, first_data, params)?;
        for teacher in &teachers {
            check_tokens(&teacher.data, &student_data, &pointer)?;
        }
        let finetune = self.lessons(params);
        let control = match params.control {
            false => None,
            true => Some(self.control(key, &student, &finetune)?),
        };
        let count = teachers.len() as u32;
        let lesson = Lesson {
            stage: &format!("{key}/train"),
            phase: "distill",
            finetune: &finetune,
            tuition: &tuition,
            average: params.average,
            views: params.teacher_views.as_ref(),
            class_map: params.class_map.as_deref(),
            rigl: None,
        };
        let (graph, source, (teacher, agreement)) =
            self.taught(&lesson, student, teachers, Self::compared)?;
        let mut comparison = None;
        if let Some((_, control)) = &control {
            let task = student_data.about.task;
            comparison = compare(&self.usual(&graph)?, control, deciding(task));
        }
        let helped = comparison.as_ref().map(Comparison::helped);
        if helped == Some(false) {
            self.voice.info(
                "distillation_did_not_help",
                "the student is no better than the one trained without a teacher".to_owned(),
            );
        }
        let outcome = DistillOutcome {
            teachers: count,
            views: params.teacher_views.as_ref().map_or(1, |views| views.count),
            source,
            losses: settled(&tuition),
            teacher,
            agreement,
            control: control.map(|(control, _)| control),
            helped,
            significant: comparison.as_ref().and_then(Comparison::significant),
            comparison,
        };
        self.journal.forget(&held);
        self.journal.record(&stage, &outcome, &graph)?;
        Ok((graph, outcome))
    }

    /// Where the request has the parameters of the step `key`.
    pub(super) fn pointer(&self, key: &str) -> String {
        match key.strip_prefix("step").filter(|index| !index.is_empty()) {
            Some(index) => format!("/params/steps/{index}/params"),
            None => "/params".to_owned(),
        }
    }

    /// The controls of the job's distillations, or of its search, as they are handed out, by the name of their file.
    pub(super) fn controls(&self) -> Vec<(String, Graph)> {
        let steps = match self.params {
            Params::Pipeline(steps) => (0..steps.len())
                .map(|index| {
                    (
                        format!("step-{}-{CONTROL_ARTIFACT}", index + 1),
                        format!("step{index}"),
                    )
                })
                .collect(),
            _ => vec![(CONTROL_ARTIFACT.to_owned(), "step".to_owned())],
        };
        let kept =
            |(name, key): (String, String)| Some((name, self.journal.kept(&control_model(&key))?));
        steps.into_iter().filter_map(kept).collect()
    }

    /// The model that learns, before it does, and how the data feeds it.
    fn student(
        &mut self,
        key: &str,
        pointer: &str,
        graph: Graph,
        teacher: &Graph,
        teacher_data: &Prepared,
        params: &DistillParams,
    ) -> Result<(Graph, Prepared), Ended> {
        let Some(student) = &params.student else {
            let data = self.data.clone().ok_or_else(no_data)?;
            return Ok((graph, data));
        };
        if let Some(other) = self.named().student(student, teacher_data, pointer)? {
            return Ok(other);
        }
        self.data = Some(teacher_data.clone());
        let graph = self.made(key, teacher.clone(), student)?;
        Ok((graph, teacher_data.clone()))
    }

    /// What the request names.
    fn named(&self) -> Named<'_> {
        Named {
            inputs: self.inputs,
            params: self.params,
        }
    }

    /// A student out of its teacher: a share of the channels of each layer, a share of the blocks.
    fn made(&mut self, key: &str, teacher: Graph, student: &Student) -> Result<Graph, Ended> {
        let labelled = self.data.as_ref().is_some_and(Prepared::has_targets);
        let mut graph = teacher;
        for cut in student_cuts(student, labelled) {
            let stage = format!("{key}/{}", cut.granularity);
            if !self.journal.has(&format!("{stage}/outcome")) {
                let (asked, share) = (cut.asked, cut.share);
                let text = format!("making the student: {share} of the teacher's {asked}");
                self.voice.info("student", text);
            }
            let pruned = self.prune(&stage, graph, &cut.params);
            graph = pruned.map_err(|error| cut.explained(error))?.0;
        }
        Ok(graph)
    }

    /// How the student trains.
    fn lessons(&self, params: &DistillParams) -> TrainParams {
        let mut finetune = params.finetune.clone();
        let weights = params.student.as_ref().and_then(|student| student.weights);
        if weights == Some(StudentWeights::Reinitialize) {
            finetune.weights = StartWeights::Reinitialize;
        }
        finetune
    }

    /// The same student trained by the labels alone.
    fn control(
        &mut self,
        key: &str,
        student: &Graph,
        finetune: &TrainParams,
    ) -> Result<(DistillControl, Tested), Ended> {
        let stage = format!("{key}/control/tested");
        if let Some((_, found)) = self.journal.recall(&stage) {
            return Ok(found);
        }
        let training = format!("{key}/control/student");
        let trained = self.train(&training, CONTROL, student.clone(), finetune)?;
        if is_own_step(key) {
            let mut model = trained.clone();
            self.hand_out(&mut model, self.data.as_ref().ok_or_else(no_data)?)?;
            self.journal.keep(&control_model(key), &model);
        }
        self.phase("evaluate");
        let tested = self.usual(&trained)?;
        let control = DistillControl {
            epochs: finetune.epochs,
            metrics: tested.metrics.clone(),
        };
        let found = (control, tested);
        self.journal.record(&stage, &found, student)?;
        self.check_drain()?;
        Ok(found)
    }

    /// Trains a student by teachers that answer live, or, where their answers never change, out of what
    /// they said once; and what `then` finds about the two.
    pub(super) fn taught<T>(
        &mut self,
        lesson: &Lesson,
        student: Graph,
        teachers: Vec<Teacher>,
        then: impl FnOnce(&Self, &Graph, &Teachers) -> Result<T, Ended>,
    ) -> Result<(Graph, TeacherSource, T), Ended> {
        let data = self.data.clone().ok_or_else(no_data)?;
        let device = self.device.clone();
        let tensors = &lesson.tuition.teacher_tensors;
        self.phase("teacher");
        let live = Teachers::live(
            &teachers,
            &device,
            closing_operators(data.about.task),
            tensors,
            lesson.average,
            lesson.class_map,
        )
        .seeing(lesson.views, self.seed);
        let bytes = (data.outputs() * 4).saturating_mul(data.examples());
        if lesson.finetune.augment.is_some() || !tensors.is_empty() || bytes > MOST_KEPT_BYTES {
            let graph = self.teach(lesson, student, &live)?;
            let found = then(self, &graph, &live)?;
            return Ok((graph, TeacherSource::Live, found));
        }
        let folder = self.journal.folder().to_owned();
        std::fs::create_dir_all(&folder).map_err(Problem::from)?;
        let kept = live.kept(&data, &folder, &device, || self.check_drain())?;
        drop(teachers);
        let graph = self.teach(lesson, student, &kept)?;
        let found = then(self, &graph, &kept)?;
        Ok((graph, TeacherSource::Cached, found))
    }

    fn teach(
        &mut self,
        lesson: &Lesson,
        student: Graph,
        teachers: &Teachers,
    ) -> Result<Graph, Ended> {
        let data = self.data.clone().ok_or_else(no_data)?;
        let (task, finetune) = (data.about.task, lesson.finetune);
        let objective = Distillation {
            tuition: lesson.tuition,
            teachers,
            task,
            loss: Loss::of_training(finetune, task, finetune.label_smoothing),
            examples: data.count(Role::Train),
            seed: self.seed,
            mask: data.mask_place(),
        };
        let purpose = Purpose {
            objective: Some(&objective),
            rigl: lesson.rigl,
            ..Purpose::default()
        };
        self.train_past(lesson.stage, lesson.phase, student, finetune, purpose)
    }

    /// The task's usual metrics on the test split; none without labels.
    fn usual(&self, graph: &Graph) -> Result<Tested, Ended> {
        let data = self.data.as_ref().ok_or_else(no_data)?;
        if !data.has_targets() {
            return Ok(Tested::default());
        }
        let task = data.about.task;
        let names = MetricName::defaults(task);
        let mut tested = self.tested(graph, Role::Test, &names, Some(deciding(task)))?;
        // JSON has no word for others.
        tested.metrics.retain(|_, value| value.is_finite());
        Ok(tested)
    }

    /// The metrics of all teachers as one on the test split, and how near the student is to them.
    fn compared(&self, graph: &Graph, teachers: &Teachers) -> Result<(Metrics, Metrics), Ended> {
        self.phase("evaluate");
        let data = self.data.clone().ok_or_else(no_data)?;
        let task = data.about.task;
        let own = [Teacher {
            graph: graph.clone(),
            data: data.clone(),
        }];
        let closing = closing_operators(task);
        let student = Teachers::live(&own, &self.device, closing, &[], Average::Logits, None);
        let mut measured = Measured::default();
        let (mut rows, mut same, mut cosine) = (0usize, 0usize, 0.0);
        let (mut squares, mut elements) = (0.0, 0usize);
        let (mut theirs_embedded, mut own_embedded) = (Vec::new(), Vec::new());
        let mask = data.mask_place();
        for batch in data.batches(Role::Test, evaluation_batch(graph, &data)) {
            let (theirs, own) = (
                teachers.answer(&batch)?.output,
                student.answer(&batch)?.output,
            );
            let shape = dims(&own);
            let comparable = dims(&theirs) == shape;
            let theirs_rank = dims(&theirs).len();
            // Each token of a sequence has a distribution of its own.
            let width: usize = match (task, shape.len()) {
                (task, 3..) if task.has_labels() => shape[shape.len() - 1],
                _ => shape[1..].iter().product(),
            };
            let width = width.max(1);
            let (theirs, own) = (to_host(theirs), to_host(own));
            let is_row = shape.len() == 2 && theirs_rank == 2;
            if task == Task::Embedding && is_row && own_embedded.len() < neighbours::MOST {
                let rows = |all: &[f32]| -> Vec<Vec<f32>> {
                    let width = (all.len() / batch.count.max(1)).max(1);
                    all.chunks(width).map(<[f32]>::to_vec).collect()
                };
                theirs_embedded.extend(rows(&theirs));
                own_embedded.extend(rows(&own));
            }
            if data.has_targets() && comparable {
                measured.add(task, Loss::of_task(task).name, &theirs, &batch);
            }
            if !comparable {
                continue;
            }
            let mask = mask.map(|place| &batch.inputs[place]);
            let mask = mask.filter(|mask| mask.len() == own.len() / width);
            let is_meant = |row: &usize| mask.is_none_or(|mask| mask[*row] != 0.0);
            for row in (0..own.len() / width).filter(is_meant) {
                let range = row * width..(row + 1) * width;
                let (theirs, own) = (&theirs[range.clone()], &own[range]);
                rows += 1;
                same += usize::from(highest(theirs) == highest(own));
                let of = |a: &[f32], b: &[f32]| -> f64 {
                    a.iter()
                        .zip(b)
                        .map(|(&a, &b)| f64::from(a) * f64::from(b))
                        .sum()
                };
                let lengths = (of(theirs, theirs) * of(own, own)).sqrt();
                cosine += of(theirs, own) / lengths.max(1e-12);
                let distance = |(&a, &b): (&f32, &f32)| f64::from(a - b).powi(2);
                squares += theirs.iter().zip(own).map(distance).sum::<f64>();
                elements += width;
            }
        }
        let mut agreement = Metrics::new();
        if elements > 0 {
            agreement.insert("mean_squared_error".to_owned(), squares / elements as f64);
            // Of single numbers it is their sign.
            if elements > rows {
                agreement.insert("cosine".to_owned(), cosine / rows as f64);
            }
            if task.has_labels() {
                agreement.insert("top_1".to_owned(), same as f64 / rows as f64);
            }
        }
        own_embedded.truncate(neighbours::MOST);
        if let Some(found) = neighbours::likeness(&theirs_embedded, &own_embedded) {
            agreement.insert("spearman".to_owned(), found.spearman);
            agreement.insert("recall_at_1".to_owned(), found.recall_at_1);
            agreement.insert("recall_at_10".to_owned(), found.recall_at_10);
        }
        agreement.retain(|_, value| value.is_finite());
        let metrics = match data.has_targets() && elements > 0 {
            true => measured.finite(&MetricName::defaults(task), task),
            false => Metrics::new(),
        };
        Ok((metrics, agreement))
    }
}

/// The models that a job's request names, as they come from their files.
pub(super) struct Named<'a> {
    pub inputs: &'a JobInputs,
    pub params: &'a Params,
}

impl Named<'_> {
    /// The model that the job came with, and how `data` feeds it; `first` is the job's data as that model gets it.
    pub fn original(
        &self,
        data: &Prepared,
        first: Option<&Prepared>,
    ) -> Result<(Graph, Prepared), Ended> {
        let mut teacher = load_graph(&self.inputs.model)?;
        // The trials of a search have splits of their own.
        let first = first.ok_or_else(no_data)?;
        let data = data.for_model(first.about.clone(), Vec::new());
        pin(&mut teacher, &data.about);
        Ok((teacher, data))
    }

    /// A model that the request names beside the job's.
    fn further(&self, id: &uuid::Uuid) -> Result<Graph, Problem> {
        let path = self.inputs.models.get(id).ok_or_else(|| {
            Problem::new(422, "model_not_found", format!("there is no model `{id}`"))
        })?;
        load_graph(path)
    }

    /// A student that is a model of its own, and how the data feeds it; `None` where it is made out of its teacher.
    /// `pointer` is of the distillation.
    pub fn student(
        &self,
        student: &Student,
        teacher_data: &Prepared,
        pointer: &str,
    ) -> Result<Option<(Graph, Prepared)>, Ended> {
        let Some(id) = student.model else {
            return Ok(None);
        };
        let mut graph = self.further(&id)?;
        let data = prepare_further(
            &mut graph,
            teacher_data,
            &student.options(&self.inputs.request.data),
            self.inputs,
            self.params,
            &format!("{pointer}/student/model"),
            student.preprocess.is_none(),
        )?;
        Ok(Some((graph, data)))
    }

    /// The first teacher and the further ones.
    pub fn teachers(
        &self,
        pointer: &str,
        first: Graph,
        data: Prepared,
        params: &DistillParams,
    ) -> Result<Vec<Teacher>, Ended> {
        let labels = match &params.class_map {
            Some(map) => map.iter().map(|&class| class as usize).collect(),
            None => Vec::new(),
        };
        let mut all = Vec::new();
        for (index, id) in params.teachers.iter().enumerate() {
            let at = format!("{pointer}/teachers/{index}");
            let mut graph = self.further(id)?;
            let options = &self.inputs.request.data;
            let own = prepare_further(
                &mut graph,
                &data,
                options,
                self.inputs,
                self.params,
                &at,
                true,
            )?;
            if own.about.outputs != data.about.outputs {
                let detail = "has another number of outputs than the first teacher";
                let error = FieldError::new(at, detail);
                return Err(Ended::Failed(
                    Problem::invalid(vec![error]).with_code("outputs_differ"),
                ));
            }
            let data = own.for_model(own.about.clone(), labels.clone());
            all.push(Teacher { graph, data });
        }
        let data = data.for_model(data.about.clone(), labels);
        all.insert(0, Teacher { graph: first, data });
        Ok(all)
    }
}

/// One cut that makes a student out of its teacher.
pub(super) struct StudentCut {
    granularity: &'static str,
    /// `depth` or `width`.
    asked: &'static str,
    share: f64,
    pub params: PruneParams,
}

impl StudentCut {
    /// The error in the words of who asked for a student and not for a pruning.
    pub fn explained(&self, error: Ended) -> Ended {
        match error {
            Ended::Failed(problem) if problem.status == 422 => {
                let (asked, share) = (self.asked, self.share);
                let detail = format!(
                    "a student of the {asked} {share} can't be made: {}",
                    problem.detail
                );
                Ended::Failed(Problem { detail, ..problem })
            }
            other => other,
        }
    }
}

/// The cuts that make a student: first of blocks, then of channels. Where there are labels, they help to choose.
pub(super) fn student_cuts(student: &Student, labelled: bool) -> impl Iterator<Item = StudentCut> {
    let inherits = student.weights.unwrap_or_default() == StudentWeights::Inherit;
    let asked = [
        ("block", "depth", student.depth),
        ("channel", "width", student.width),
    ];
    asked
        .into_iter()
        .filter_map(move |(granularity, asked, share)| {
            let share = share.filter(|&share| share < 1.0)?;
            let criterion = match inherits && labelled {
                true => "taylor",
                false => "magnitude",
            };
            let channels = granularity == "channel";
            let scope = if channels { "layer" } else { "global" };
            let json = serde_json::json!({
                "granularity": granularity, "criterion": criterion, "scope": scope,
                "target": {"channel_sparsity": 1.0 - share}, "finetune": null, "round_to": 1,
                "max_layer_sparsity": 1.0 - 0.5 * share,
                "recovery": {"recalibrate": inherits, "reconstruct": inherits && channels},
            });
            Some(StudentCut {
                granularity,
                asked,
                share,
                params: serde_json::from_value(json).expect("parameters that pruning has"),
            })
        })
}

/// What a student is taught, and how.
pub(super) struct Lesson<'a> {
    /// The stage of the training.
    pub stage: &'a str,
    pub phase: &'a str,
    pub finetune: &'a TrainParams,
    pub tuition: &'a Tuition,
    pub average: Average,
    pub views: Option<&'a TeacherViews>,
    pub class_map: Option<&'a [u32]>,
    /// How the zeros of a pruning move.
    pub rigl: Option<Rigl>,
}

/// Settles which tensors the losses at `pointer` look at.
pub(super) fn settle(
    losses: &[LossTerm],
    teacher: &Graph,
    student: &Graph,
    pointer: &str,
) -> Result<Tuition, Problem> {
    Tuition::new(losses, teacher, student).map_err(|(loss, whose, error)| {
        let at = format!("{pointer}/{loss}/pairs");
        let error = FieldError::new(at, format!("{whose} {error}"));
        Problem::invalid(vec![error]).with_code("tensor_not_found")
    })
}

/// Tokens are compared one by one: teacher and student must be given the same ones.
pub(super) fn check_tokens(
    teacher: &Prepared,
    student: &Prepared,
    pointer: &str,
) -> Result<(), Problem> {
    let ids = |data: &Prepared| {
        let input = data.about.inputs.get(data.ids_place()?)?;
        let tokenizer = input.tokens.as_ref().map(|tokens| tokens.tokenizer.clone());
        Some((input.shape.clone(), tokenizer))
    };
    let (theirs, own) = (ids(teacher), ids(student));
    if !student.about.task.is_of_tokens() || theirs == own {
        return Ok(());
    }
    let detail = format!(
        "the teacher is given {} tokens and the student {}, or those of another tokenizer; tokens are compared one by one",
        theirs.map_or(0, |(shape, _)| shape.iter().product::<u64>()),
        own.map_or(0, |(shape, _)| shape.iter().product::<u64>()),
    );
    let error = FieldError::new(format!("{pointer}/student"), detail);
    Err(Problem::invalid(vec![error]).with_code("outputs_differ"))
}

pub(super) fn no_data() -> Problem {
    problem::no_data("distillation")
}

/// Whether it is the job's own, or of its pipeline, and not that of a search's trial.
pub(super) fn is_own_step(key: &str) -> bool {
    key.strip_prefix("step")
        .is_some_and(|index| index.chars().all(|digit| digit.is_ascii_digit()))
}

/// Where the journal has the model of a control.
pub(super) fn control_model(key: &str) -> String {
    format!("{key}/control/model")
}

/// The metric that says whether a distillation helped: the accuracy, or the loss where there is none.
fn deciding(task: Task) -> MetricName {
    match MetricName::defaults(task).contains(&MetricName::Accuracy) {
        true => MetricName::Accuracy,
        false => MetricName::Loss,
    }
}

fn highest(row: &[f32]) -> usize {
    let places = 0..row.len();
    places
        .reduce(|best, next| if row[next] > row[best] { next } else { best })
        .unwrap_or(0)
}

pub(super) fn settled(tuition: &Tuition) -> Vec<DistillTerm> {
    let of = |settled: crate::distill::Settled| DistillTerm {
        name: settled.loss,
        pairs: settled
            .pairs
            .iter()
            .zip(settled.projected)
            .map(|(pair, projected)| DistillPair {
                teacher: pair.teacher.name.clone(),
                student: pair.student.name.clone(),
                teacher_shape: pair.teacher.shape(),
                student_shape: pair.student.shape(),
                projected,
            })
            .collect(),
    };
    tuition.settled().into_iter().map(of).collect()
}
