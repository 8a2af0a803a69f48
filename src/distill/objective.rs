//! The sum of losses that a student makes small.

use std::collections::BTreeMap;

use burn::backend::Dispatch;
use burn::backend::ops::FloatTensorOps;
use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use super::losses::{self, Heat};
use super::pairs::{Pair, TapError, Taps, feature_maps};
use super::teacher::Teachers;
use crate::data::Batch;
use crate::exec::operand::plain;
use crate::exec::value::{Value, dims, from_host, indices, reshape, with_rank};
use crate::exec::{Device, ExecError};
use crate::graph::Graph;
use crate::spec::distill::{DistillLossName, LossTerm, Pairs, Temperature};
use crate::spec::job::Task;
use crate::train::{Kept, Loss, Objective, Seen};

/// Width of the space in which `contrastive` compares (Tian et al., ICLR 2020, section 4).
const EMBEDDING: usize = 128;

/// Epochs over which the gradient of a learned temperature grows to its full size (Li et al., AAAI
/// 2023, section 3.3), as a share of a training; the paper has 10 of 240.
const TEMPERATURE_WARMUP: f64 = 10.0 / 240.0;

/// What is settled about the losses before any training: which tensors they look at.
pub struct Tuition {
    terms: Vec<Term>,
    /// Of the teacher and of the student, each once.
    pub teacher_tensors: Vec<String>,
    pub student_tensors: Vec<String>,
}

struct Term {
    spec: LossTerm,
    /// Begins the names of its own weights.
    name: String,
    pairs: Vec<Pair>,
}

impl Term {
    fn weight_name(&self, pair: usize, what: &str) -> String {
        format!("{}/{pair}/{what}", self.name)
    }

    fn temperature_name(&self) -> String {
        format!("{}/temperature", self.name)
    }
}

/// A loss with the pairs that it compares.
pub struct Settled<'a> {
    pub loss: DistillLossName,
    pub pairs: &'a [Pair],
    /// For each pair, whether the student's channels are projected on the teacher's.
    pub projected: Vec<bool>,
}

impl Tuition {
    /// Finds the tensors of all losses. An error says of which loss and which model.
    pub fn new(
        losses: &[LossTerm],
        teacher: &Graph,
        student: &Graph,
    ) -> Result<Self, (usize, &'static str, TapError)> {
        let mut terms = Vec::new();
        let mut needed = None;
        for (index, spec) in losses.iter().enumerate() {
            let mut pairs = Vec::new();
            if spec.name.takes_pairs() {
                let of_teacher = |error| (index, "the teacher", error);
                let of_student = |error| (index, "the student", error);
                if needed.is_none() {
                    let teacher = Taps::of(teacher).map_err(of_teacher)?;
                    needed = Some((teacher, Taps::of(student).map_err(of_student)?));
                }
                let (teacher, student) = needed.as_ref().expect("just made");
                pairs = match &spec.pairs {
                    Some(Pairs::Named(named)) => named
                        .iter()
                        .map(|[other, own]| {
                            Ok(Pair {
                                teacher: teacher.named(other).map_err(of_teacher)?,
                                student: student.named(own).map_err(of_student)?,
                            })
                        })
                        .collect::<Result<_, _>>()?,
                    _ if compares_maps(spec.name) => {
                        feature_maps(teacher, student).map_err(of_student)?
                    }
                    _ => vec![Pair {
                        teacher: teacher.embedding().map_err(of_teacher)?,
                        student: student.embedding().map_err(of_student)?,
                    }],
                };
            }
            if spec.name == DistillLossName::AttentionTransfer {
                for pair in &pairs {
                    for (whose, tap) in [
                        ("the teacher", &pair.teacher),
                        ("the student", &pair.student),
                    ] {
                        if tap.area() == 1 {
                            let name = tap.name.clone();
                            return Err((index, whose, TapError::NoPositions { name }));
                        }
                    }
                }
            }
            terms.push(Term {
                spec: spec.clone(),
                name: format!("sinter:distill/{index}"),
                pairs,
            });
        }
        let names = |of: &dyn Fn(&Pair) -> String| {
            let pairs = terms.iter().flat_map(|term| &term.pairs);
            let mut names: Vec<String> = pairs.map(of).collect();
            names.sort();
            names.dedup();
            names
        };
        let teacher_tensors = names(&|pair| pair.teacher.name.clone());
        let student_tensors = names(&|pair| pair.student.name.clone());
        Ok(Self {
            terms,
            teacher_tensors,
            student_tensors,
        })
    }

    /// The losses as they were settled.
    pub fn settled(&self) -> Vec<Settled<'_>> {
        let of = |term| {
            let Term { spec, pairs, .. }: &Term = term;
            let projects = |pair: &Pair| {
                spec.name == DistillLossName::Contrastive
                    || spec.name == DistillLossName::Feature
                        && pair.teacher.channels != pair.student.channels
            };
            Settled {
                loss: spec.name,
                pairs,
                projected: pairs.iter().map(projects).collect(),
            }
        };
        self.terms.iter().map(of).collect()
    }
}

/// Whether a loss compares maps, not embeddings of whole examples.
fn compares_maps(loss: DistillLossName) -> bool {
    matches!(
        loss,
        DistillLossName::Feature | DistillLossName::AttentionTransfer
    )
}

/// The sum of the losses of a request.
pub struct Distillation<'a, 't> {
    pub tuition: &'a Tuition,
    pub teachers: &'a Teachers<'t>,
    pub task: Task,
    /// The task's own, with label smoothing.
    pub loss: Loss,
    /// Of the train split.
    pub examples: usize,
    pub seed: u64,
    /// Place, among the student's inputs, of a mask with 0 for padding.
    pub mask: Option<usize>,
}

impl Distillation<'_, '_> {
    fn heat(&self, term: &Term, seen: &Seen) -> Heat {
        match term.spec.temperature() {
            Temperature::Fixed(heat) => Heat::fixed(heat as f32, seen.device.plain()),
            Temperature::Learned(_) => {
                Heat::learned(seen.parameters[&term.temperature_name()].clone())
            }
        }
    }

    /// Rows of logits: examples, or the tokens of examples that are no padding.
    fn rows(&self, value: Value, batch: &Batch, device: &Device) -> Value {
        let shape = dims(&value);
        let width = shape.last().copied().unwrap_or(1);
        if shape.len() < 3 || !self.task.has_labels() {
            let rows = shape[0];
            return reshape(value, &[rows, shape[1..].iter().product()]);
        }
        let rows: usize = shape[..shape.len() - 1].iter().product();
        let value = reshape(value, &[rows, width]);
        let Some(mask) = self.mask.and_then(|place| batch.inputs.get(place)) else {
            return value;
        };
        let kept: Vec<usize> = (0..rows.min(mask.len()))
            .filter(|&row| mask[row] != 0.0)
            .collect();
        match kept.len() {
            0 => value,
            all if all == rows => value,
            _ => Dispatch::float_select(value, 0, indices(&kept, device.plain())),
        }
    }

    fn of_outputs(&self, term: &Term, student: Value, teacher: Value, seen: &Seen) -> Value {
        let spec = &term.spec;
        let device = seen.device.plain();
        let heat = || self.heat(term, seen);
        let width = dims(&student)[1];
        match spec.name {
            DistillLossName::SoftTargets => losses::soft_targets(student, teacher, &heat()),
            DistillLossName::Standardized => losses::standardized(student, teacher, &heat()),
            DistillLossName::LogitsMse => losses::mean_squared_error(student, teacher),
            DistillLossName::Cosine => losses::cosine(student, teacher),
            DistillLossName::Decoupled => {
                let labels = Loss::labels(seen.batch, width, device);
                let factors = (
                    spec.alpha.unwrap_or(1.0) as f32,
                    spec.beta.unwrap_or(8.0) as f32,
                );
                losses::decoupled(student, teacher, labels, &heat(), factors)
            }
            DistillLossName::BoundedRegression => {
                let target = self.loss.targets(seen.batch, width, device);
                let margin = spec.margin.unwrap_or(0.0) as f32;
                losses::bounded_regression(student, teacher, target, margin)
            }
            DistillLossName::CrossEntropy if seen.batch.is_of_tokens() => {
                let own = seen.output.clone();
                self.loss.of_output(own, seen.batch, device)
            }
            DistillLossName::CrossEntropy => {
                let targets = self.loss.targets(seen.batch, width, device);
                self.loss.value(student, targets)
            }
            _ => unreachable!("losses of tensors inside the models are computed apart"),
        }
    }

    /// The mean over the pairs of a loss of tensors inside the models.
    fn of_pairs(&self, term: &Term, tensors: &[Value], seen: &Seen) -> Value {
        let place = |names: &[String], name: &str| {
            names
                .iter()
                .position(|known| known == name)
                .expect("asked for")
        };
        let mut sum: Option<Value> = None;
        for (index, pair) in term.pairs.iter().enumerate() {
            let own =
                seen.tensors[place(&self.tuition.student_tensors, &pair.student.name)].clone();
            let other = tensors[place(&self.tuition.teacher_tensors, &pair.teacher.name)].clone();
            let value = self.of_pair(term, index, own, other, seen);
            sum = Some(match sum {
                Some(sum) => Dispatch::float_add(sum, value),
                None => value,
            });
        }
        let sum = sum.expect("a loss with pairs has some");
        Dispatch::float_mul_scalar(sum, (1.0 / term.pairs.len() as f32).into())
    }

    fn of_pair(&self, term: &Term, index: usize, own: Value, other: Value, seen: &Seen) -> Value {
        let pair = &term.pairs[index];
        let weight = |what: &str| seen.parameters[&term.weight_name(index, what)].clone();
        let device = seen.device;
        let flat = |value: Value| {
            let shape = dims(&value);
            reshape(value, &[shape[0], shape[1..].iter().product()])
        };
        let own = to_map(own, pair.student.channel_axis);
        let other = to_map(other, pair.teacher.channel_axis);
        match term.spec.name {
            DistillLossName::Similarity => losses::similarity(flat(own), flat(other)),
            DistillLossName::Relational => {
                let factors = (
                    term.spec.alpha.unwrap_or(25.0) as f32,
                    term.spec.beta.unwrap_or(50.0) as f32,
                );
                losses::relational(averaged(own), averaged(other), factors)
            }
            DistillLossName::Contrastive => {
                let project = |value: Value, what: &str| {
                    let product =
                        Dispatch::float_matmul(averaged(value), weight(&format!("{what}_weight")));
                    Dispatch::float_add(product, with_rank(weight(&format!("{what}_bias")), 2))
                };
                let heat = match term.spec.temperature() {
                    Temperature::Fixed(heat) => heat as f32,
                    Temperature::Learned(_) => unreachable!("refused with the request"),
                };
                losses::contrastive(
                    project(own, "student"),
                    project(other, "teacher"),
                    heat,
                    self.examples,
                )
            }
            DistillLossName::Feature => {
                let (own, other) = to_one_resolution(pair, own, other, device);
                let own = match pair.student.channels == pair.teacher.channels {
                    true => own,
                    false => {
                        // [N, C, L] as rows of channels, projected, and back.
                        let shape = dims(&own);
                        let rows = Dispatch::float_swap_dims(own, 1, 2);
                        let rows = reshape(rows, &[shape[0] * shape[2], shape[1]]);
                        let product = Dispatch::float_matmul(rows, weight("weight"));
                        let product = Dispatch::float_add(product, with_rank(weight("bias"), 2));
                        let map = [shape[0], shape[2], pair.teacher.channels];
                        Dispatch::float_swap_dims(reshape(product, &map), 1, 2)
                    }
                };
                losses::feature(own, other)
            }
            DistillLossName::AttentionTransfer => {
                let (own, other) = to_one_resolution(pair, own, other, device);
                losses::attention_transfer(own, other)
            }
            _ => unreachable!("losses of outputs are computed apart"),
        }
    }
}

impl Objective for Distillation<'_, '_> {
    fn closing_operators(&self) -> &'static [&'static str] {
        closing_operators(self.task)
    }

    fn tensors(&self) -> &[String] {
        &self.tuition.student_tensors
    }

    fn weights(&self) -> BTreeMap<String, Kept> {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(self.seed ^ 0xd157_1717);
        let mut weights = BTreeMap::new();
        for term in &self.tuition.terms {
            if let (Temperature::Learned(_), true) =
                (term.spec.temperature(), term.spec.name.takes_temperature())
            {
                weights.insert(term.temperature_name(), (vec![1, 1], vec![0.0]));
            }
            for (index, Pair { teacher, student }) in term.pairs.iter().enumerate() {
                let mut linear = |prefix: &str, from: usize, to: usize| {
                    // Keeps the size of what goes through (He et al., 2015).
                    let deviation = (1.0 / from as f32).sqrt();
                    let one = |_| deviation * random.sample::<f32, _>(StandardNormal);
                    let kernel: Vec<f32> = (0..from * to).map(one).collect();
                    let name = |what: &str| term.weight_name(index, &format!("{prefix}{what}"));
                    weights.insert(name("weight"), (vec![from, to], kernel));
                    weights.insert(name("bias"), (vec![to], vec![0.0; to]));
                };
                match term.spec.name {
                    DistillLossName::Contrastive => {
                        linear("student_", student.channels, EMBEDDING);
                        linear("teacher_", teacher.channels, EMBEDDING);
                    }
                    DistillLossName::Feature if student.channels != teacher.channels => {
                        linear("", student.channels, teacher.channels);
                    }
                    _ => {}
                }
            }
        }
        weights
    }

    fn gradient_factor(&self, weight: &str, progress: f64) -> f64 {
        if !weight.ends_with("/temperature") || !weight.starts_with("sinter:distill/") {
            return 1.0;
        }
        // The temperature goes up the loss, at first slowly.
        let share = (progress / TEMPERATURE_WARMUP).min(1.0);
        0.5 * (std::f64::consts::PI * share).cos() - 0.5
    }

    fn value(&self, seen: &Seen) -> Result<Value, ExecError> {
        let answer = self.teachers.answer(seen.batch)?;
        let tensors: Vec<Value> = answer.tensors.into_iter().map(plain).collect();
        let rows = |value: Value| self.rows(value, seen.batch, seen.device);
        let (student, teacher) = (rows(seen.output.clone()), rows(plain(answer.output)));
        let mut sum: Option<Value> = None;
        for term in &self.tuition.terms {
            let weight = term.spec.weight.at(seen.progress);
            // A loss that does not count now need not be computed.
            if weight == 0.0 && sum.is_some() {
                continue;
            }
            let value = match term.spec.name.takes_pairs() {
                true => self.of_pairs(term, &tensors, seen),
                false => self.of_outputs(term, student.clone(), teacher.clone(), seen),
            };
            let value = Dispatch::float_mul_scalar(value, weight.into());
            sum = Some(match sum {
                Some(sum) => Dispatch::float_add(sum, value),
                None => value,
            });
        }
        Ok(sum.expect("a request has losses"))
    }
}

/// Operators at the end of a graph that the losses of a task apply themselves.
pub fn closing_operators(task: Task) -> &'static [&'static str] {
    match task {
        Task::Embedding => &[],
        task => Loss::of_task(task).closing_operators(),
    }
}

/// `[N, …]` with the channels at `axis` as `[N, channels, positions]`.
fn to_map(value: Value, axis: usize) -> Value {
    let shape = dims(&value);
    let (before, channels): (usize, usize) = (shape[1..axis].iter().product(), shape[axis]);
    let after: usize = shape[axis + 1..].iter().product();
    if before == 1 {
        return reshape(value, &[shape[0], channels, after]);
    }
    let value = reshape(value, &[shape[0], before, channels, after]);
    let value = Dispatch::float_swap_dims(value, 1, 2);
    reshape(value, &[shape[0], channels, before * after])
}

/// The mean over the positions.
fn averaged(map: Value) -> Value {
    let shape = dims(&map);
    let sum = Dispatch::float_sum_dim(map, 2);
    let mean = Dispatch::float_mul_scalar(sum, (1.0 / shape[2] as f32).into());
    reshape(mean, &[shape[0], shape[1]])
}

/// The map with more positions averaged to the other's.
fn to_one_resolution(pair: &Pair, own: Value, other: Value, device: &Device) -> (Value, Value) {
    let (from_own, from_other) = (&pair.student.positions, &pair.teacher.positions);
    if from_own == from_other {
        return (own, other);
    }
    match pair.student.area() > pair.teacher.area() {
        true => (pooled(own, from_own, from_other, device), other),
        false => (own, pooled(other, from_other, from_own, device)),
    }
}

/// Adaptive average pooling of `[N, C, positions]`: a place of the result is the mean of the places
/// that it covers, along each axis from `⌊i · from ÷ to⌋` to `⌈(i + 1) · from ÷ to⌉`; along the line of
/// all positions where the numbers of axes differ.
fn pooled(map: Value, from: &[usize], to: &[usize], device: &Device) -> Value {
    let line = |sizes: &[usize]| vec![sizes.iter().product::<usize>()];
    let (from, to) = match from.len() == to.len() {
        true => (from.to_vec(), to.to_vec()),
        false => (line(from), line(to)),
    };
    let (wide, narrow): (usize, usize) = (from.iter().product(), to.iter().product());
    let mut matrix = vec![0.0f32; wide * narrow];
    for target in 0..narrow {
        let mut covered = vec![0usize];
        let (mut rest, mut ranges) = (target, Vec::new());
        for (&from, &to) in from.iter().zip(&to).rev() {
            let place = rest % to;
            rest /= to;
            ranges.push((from, place * from / to..((place + 1) * from).div_ceil(to)));
        }
        for (from, range) in ranges.into_iter().rev() {
            covered = covered
                .iter()
                .flat_map(|start| range.clone().map(move |place| start * from + place))
                .collect();
        }
        for &source in &covered {
            matrix[source * narrow + target] = 1.0 / covered.len() as f32;
        }
    }
    let shape = dims(&map);
    let rows = reshape(map, &[shape[0] * shape[1], wide]);
    let matrix = from_host(&[wide, narrow], matrix, device.plain());
    reshape(
        Dispatch::float_matmul(rows, matrix),
        &[shape[0], shape[1], narrow],
    )
}
