//! What a job would do, found out without training: the answer to a dry run.

use super::check::placed;
use super::child::Ended;
use super::data_fit::prepare;
use super::distill_step::{Named, check_tokens, no_data, settle, settled, student_cuts};
use super::job::load;
use super::{prune_step, search_step};
use crate::data::{Prepared, Role};
use crate::exec::Device;
use crate::graph::{Graph, cost_of_one};
use crate::spec::child::{JobInputs, Message};
use crate::spec::distill::{DistillParams, TeacherChoice};
use crate::spec::evaluate::MetricName;
use crate::spec::fit::{InferredData, check_outputs};
use crate::spec::job::{JobKind, Params};
use crate::spec::prune::PruneParams;
use crate::spec::result::{
    DistillPlan, EvaluatePlan, PipelinePlan, Plan, PlanCost, PrunePlan, StepPlan, TrainPlan,
};

/// Answers a dry run. Steps of a pipeline are planned one after the other, each on the model that the one before would
/// leave, untrained.
pub(super) fn plan(inputs: &JobInputs) -> Result<Message, Ended> {
    let (mut graph, params) = load(inputs)?;
    let data = match &inputs.dataset {
        None => None,
        Some(dataset) => Some(prepare(&mut graph, dataset, inputs, &params)?),
    };
    // The winner of a search trains on what its trials were judged by, too.
    let trained_on = |data: &Prepared| match params.kind() {
        JobKind::Search => data.joined().train_batches(),
        _ => data.train_batches(),
    };
    let batches = data.as_ref().map_or(0, trained_on) as u64;
    let mut planner = Planner {
        named: Named {
            inputs,
            params: &params,
        },
        device: Device::open(&inputs.request.device)?,
        first: data.clone(),
        graph,
        data,
        file_bytes: Some(std::fs::metadata(&inputs.model)?.len() as usize),
    };
    let plan = match &params {
        Params::Pipeline(parts) => {
            let mut steps = Vec::with_capacity(parts.len());
            for (index, part) in parts.iter().enumerate() {
                let plan = planner.step(part, &format!("/params/steps/{index}/params"))?;
                let kind = part.kind();
                steps.push(StepPlan { kind, plan });
            }
            Plan::Pipeline(PipelinePlan { steps })
        }
        single => planner.step(single, "/params")?,
    };
    let told = planner.first.as_ref().map(|first| match &planner.data {
        Some(own) => InferredData {
            prepared: own.about.clone().beside(&first.about).prepared,
            ..first.about.clone()
        },
        None => first.about.clone(),
    });
    Ok(Message::Plan {
        plan: Box::new(plan),
        data: told.map(Box::new),
        steps: params.epochs() * batches,
    })
}

/// The model under work, between the steps.
struct Planner<'a> {
    named: Named<'a>,
    device: Device,
    /// The job's data as its model gets it; `data` is what the model under work gets.
    first: Option<Prepared>,
    graph: Graph,
    data: Option<Prepared>,
    /// Size of the job's file, while nothing is done to the model in it.
    file_bytes: Option<usize>,
}

impl Planner<'_> {
    /// Plans a step whose parameters are at `pointer`, and goes on with the model that it would leave.
    fn step(&mut self, params: &Params, pointer: &str) -> Result<Plan, Ended> {
        let plan = match params {
            Params::Prune(prune) => {
                let found = self.pruned(self.graph.clone(), self.file_bytes, prune);
                let (plan, graph) = found.map_err(|error| placed(error, pointer))?;
                self.graph = graph;
                Plan::Prune(Box::new(plan))
            }
            Params::Distill(distill) => Plan::Distill(self.distilled(distill, pointer)?),
            Params::Search { search, .. } => {
                let seed = self.named.inputs.request.seed;
                Plan::Search(Box::new(search_step::plan(&self.graph, search, seed)?))
            }
            Params::Train(train) => Plan::Train(TrainPlan {
                cost: price(&self.graph),
                epochs: train.epochs,
                weights: train.weights,
            }),
            Params::Evaluate(_) | Params::Pipeline(_) => {
                let task = self.data.as_ref().map(|data| data.about.task);
                let metrics = match (params.metrics(task), task) {
                    (none, Some(task)) if none.is_empty() => MetricName::defaults(task),
                    (asked, _) => asked,
                };
                let tested = self.data.as_ref().map_or(0, |data| data.count(Role::Test));
                return Ok(Plan::Evaluate(EvaluatePlan {
                    cost: price(&self.graph),
                    metrics,
                    test_examples: tested as u64,
                }));
            }
        };
        self.file_bytes = None;
        Ok(plan)
    }

    fn pruned(
        &self,
        mut graph: Graph,
        file_bytes: Option<usize>,
        params: &PruneParams,
    ) -> Result<(PrunePlan, Graph), Ended> {
        graph.settle_weights();
        let seed = self.named.inputs.request.seed;
        let data = self.data.as_ref();
        prune_step::plan(&graph, file_bytes, params, data, &self.device, seed)
    }

    fn distilled(&mut self, params: &DistillParams, pointer: &str) -> Result<DistillPlan, Ended> {
        let data = self.data.clone().ok_or_else(no_data)?;
        let (teacher, teacher_data) = match params.teacher {
            TeacherChoice::Model => (self.graph.clone(), data.clone()),
            TeacherChoice::Original => self.named.original(&data, self.first.as_ref())?,
        };
        let (student, student_data) = match &params.student {
            None => (self.graph.clone(), data),
            Some(student) => match self.named.student(student, &teacher_data, pointer)? {
                Some(other) => other,
                None => {
                    let labelled = teacher_data.has_targets();
                    self.data = Some(teacher_data.clone());
                    let mut graph = teacher.clone();
                    for cut in student_cuts(student, labelled) {
                        let found = self.pruned(graph, None, &cut.params);
                        graph = found.map_err(|error| cut.explained(error))?.1;
                    }
                    (graph, teacher_data.clone())
                }
            },
        };
        let (of_teacher, of_student) = (teacher_data.about.outputs, student_data.about.outputs);
        check_outputs(params, of_teacher, of_student, pointer)?;
        let losses = params.losses_for(student_data.about.task);
        let tuition = settle(&losses, &teacher, &student, &format!("{pointer}/losses"))?;
        let mut costs = (price(&teacher), price(&student));
        // Zeros that no pruning of this job made are trained as all weights are.
        costs.1.nonzero_parameters = costs.1.parameters;
        let teachers = self
            .named
            .teachers(pointer, teacher, teacher_data, params)?;
        for teacher in &teachers {
            check_tokens(&teacher.data, &student_data, pointer)?;
        }
        (self.graph, self.data) = (student, Some(student_data));
        Ok(DistillPlan {
            teacher: costs.0,
            student: costs.1,
            teachers: teachers.len() as u32,
            losses: settled(&tuition),
            epochs: params.finetune.epochs,
            control: params.control,
        })
    }
}

/// What a graph costs for one example.
pub(super) fn price(graph: &Graph) -> PlanCost {
    let cost = cost_of_one(graph);
    PlanCost {
        parameters: cost.parameters,
        nonzero_parameters: cost.nonzero_parameters,
        macs: cost.macs,
    }
}
