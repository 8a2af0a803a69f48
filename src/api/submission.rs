//! What is checked before a job is queued, and plans of jobs that are not.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use uuid::Uuid;

use super::access::Authorized;
use super::import::resolve;
use super::jobs::DryRun;
use super::problem::ApiError;
use super::state::App;
use super::webhooks::check_target;
use crate::spec::child::{JobInputs, Message, Order, TRIALS_ARTIFACT};
use crate::spec::distill::DistillParams;
use crate::spec::fit::{InferredData, check_augment, check_outputs, check_task, fit, fit_further};
use crate::spec::job::{DataOptions, JobKind, JobRequest, Params};
use crate::spec::mlflow::ModelSource;
use crate::spec::problem::{Faults, FieldError, Problem, Reading};
use crate::store::StoreError;
use crate::store::datasets::Dataset;
use crate::store::models::Model;
use crate::worker::InspectionError;

/// A request that can be queued, with what it names.
pub struct Checked {
    pub request: JobRequest,
    /// Further models that it names.
    models: BTreeMap<Uuid, Model>,
    /// The search that it begins from.
    warm_start: Option<Uuid>,
    pub model: Model,
    pub dataset: Option<Dataset>,
    /// How the data set feeds the model.
    about: Option<InferredData>,
}

impl Checked {
    /// Ids of all that the job needs.
    pub fn inputs(&self) -> BTreeSet<String> {
        let further = self.models.keys().chain(&self.warm_start);
        let mut ids: BTreeSet<String> = further.map(Uuid::to_string).collect();
        ids.insert(self.model.id.clone());
        ids.extend(self.dataset.as_ref().map(|dataset| dataset.id.clone()));
        ids
    }
}

/// A request as it is posted, as far as it could be read.
pub type Posted = Reading<JobRequest<Option<ModelSource>>>;

/// Checks a request by itself and against its model, data set and device. What can be told at once is told at once.
pub async fn check(access: &Authorized, posted: Posted) -> Result<Checked, ApiError> {
    let (app, scope) = (&access.app, &access.scope);
    let mut valid = None;
    let (posted, faults) = posted.checked(|posted| {
        let mut faults = Faults::default();
        faults.require_value(posted.model.is_some(), "/model", "is missing");
        let named = match &posted.model {
            Some(ModelSource::Id(id)) => *id,
            _ => Uuid::nil(),
        };
        match posted.clone().of_model(named).validate() {
            Ok(found) => valid = Some(found),
            Err(problem) => faults.found.extend(problem.errors),
        }
        faults
    });
    let mut refusals = Vec::new();
    if !faults.found.is_empty() {
        refusals.push(faults.problem());
    }
    let Some(posted) = posted else {
        return Err(together(refusals));
    };
    let webhook = valid
        .as_ref()
        .and_then(|(request, _): &(JobRequest, Params)| request.webhook.as_ref());
    if let Some(webhook) = webhook {
        noted(
            check_target(access, &webhook.url, "/webhook/url"),
            &mut refusals,
        )?;
    }
    let dataset = async {
        let Some(id) = posted.dataset else {
            return Ok(None);
        };
        match app.store.dataset(scope, &id.to_string()).await? {
            Some(found) => Ok(Some(found)),
            None => Err(missing(access, "dataset", id, "/dataset").await),
        }
    };
    let dataset = noted(dataset.await, &mut refusals)?.flatten();
    noted(check_device(app, &posted.device).await, &mut refusals)?;
    // Last of all that can be told without it: it may have to be fetched.
    let model = async {
        let id = match &posted.model {
            Some(ModelSource::Id(id)) => *id,
            Some(source) if refusals.is_empty() => resolve(access, source).await?,
            _ => return Ok(None),
        };
        match app.store.model(scope, &id.to_string()).await? {
            Some(found) => Ok(Some((id, found))),
            None => Err(missing(access, "model", id, "/model").await),
        }
    };
    let model = model.await;
    let model = noted(model, &mut refusals)?.flatten();
    let (Some((mut request, params)), Some((id, model)), true) =
        (valid, model, refusals.is_empty())
    else {
        return Err(together(refusals));
    };
    request.model = id;
    check_model(&model, params.needs_gradients(), "/model")?;
    let students: Vec<Uuid> = params
        .distillations()
        .into_iter()
        .filter_map(|(_, distill)| distill.student.as_ref()?.model)
        .collect();
    let mut models = BTreeMap::new();
    for (pointer, id) in params.models() {
        let Some(found) = app.store.model(scope, &id.to_string()).await? else {
            return Err(missing(access, "model", id, &pointer).await);
        };
        check_model(&found, students.contains(&id), &pointer)?;
        models.insert(id, found);
    }
    if let Some(id) = params.warm_start() {
        check_earlier(access, id, &request).await?;
    }
    let mut about = None;
    if let Some(dataset) = &dataset {
        let fitted = fit(
            &model.summary,
            &dataset.summary,
            &request.data,
            request.task,
            &params,
        )?;
        check_task(&params, &fitted, &dataset.summary)?;
        for (pointer, distill) in params.distillations() {
            check_distillation(
                distill, &pointer, &params, &request, &models, dataset, &fitted,
            )?;
        }
        about = Some(fitted);
    }
    Ok(Checked {
        request,
        models,
        warm_start: params.warm_start(),
        model,
        dataset,
        about,
    })
}

/// What was found, unless it is a refusal, which joins the others.
fn noted<T>(
    found: Result<T, ApiError>,
    refusals: &mut Vec<Problem>,
) -> Result<Option<T>, ApiError> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(ApiError::Problem(problem)) if problem.status == 422 => {
            refusals.push(*problem);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// All refusals in one answer.
fn together(refusals: Vec<Problem>) -> ApiError {
    match Problem::together(refusals) {
        Some(problem) => problem.into(),
        None => ApiError::Internal("a request is refused for no reason".to_owned()),
    }
}

/// Checks the data of a distillation's further models, and that outputs can be compared.
fn check_distillation(
    distill: &DistillParams,
    pointer: &str,
    params: &Params,
    request: &JobRequest,
    models: &BTreeMap<Uuid, Model>,
    dataset: &Dataset,
    first: &InferredData,
) -> Result<(), ApiError> {
    let of = |id: Uuid, place: &str, options: &DataOptions, inherits: bool| {
        let summary = &models[&id].summary;
        let at = format!("{pointer}{place}");
        fit_further(
            summary,
            &dataset.summary,
            options,
            first,
            params,
            &at,
            inherits,
        )
    };
    for (index, &id) in distill.teachers.iter().enumerate() {
        let place = format!("/teachers/{index}");
        let fitted = of(id, &place, &request.data, true)?;
        if let Some(views) = &distill.teacher_views {
            let at = format!("{pointer}/teacher_views/augment");
            check_augment(&views.augment, &fitted, &dataset.summary, &at)?;
        }
        if fitted.outputs != first.outputs && fitted.outputs.is_some() && first.outputs.is_some() {
            let detail = "has another number of outputs than the first teacher";
            return Err(ApiError::fault(
                "outputs_differ",
                &format!("{pointer}{place}"),
                detail,
            ));
        }
    }
    let Some((id, student)) = distill.student.as_ref().and_then(|s| Some((s.model?, s))) else {
        return Ok(check_outputs(
            distill,
            first.outputs,
            first.outputs,
            pointer,
        )?);
    };
    let options = student.options(&request.data);
    let fitted = of(id, "/student/model", &options, student.preprocess.is_none())?;
    if let Some(augment) = &distill.finetune.augment {
        let at = format!("{pointer}/finetune/augment");
        check_augment(augment, &fitted, &dataset.summary, &at)?;
    }
    Ok(check_outputs(
        distill,
        first.outputs,
        fitted.outputs,
        pointer,
    )?)
}

/// The search to begin from must have come to its end.
async fn check_earlier(
    access: &Authorized,
    id: Uuid,
    request: &JobRequest,
) -> Result<(), ApiError> {
    let pointer = "/params/warm_start";
    let store = &access.app.store;
    let Some(found) = store.job(&access.scope, &id.to_string()).await? else {
        return Err(missing(access, "job", id, pointer).await);
    };
    let artifacts = store.artifacts(&found.id).await?;
    if artifacts.iter().any(|file| file.name == TRIALS_ARTIFACT) {
        let (earlier, own) = (&found.request, request);
        let judging = ["trial", "steps", "evaluation", "reconstruct"];
        let cell = |request: &JobRequest| request.params.pointer("/space/cell").cloned();
        let alike = earlier.model == own.model
            && cell(earlier) == cell(own)
            && earlier.dataset == own.dataset
            && earlier.data == own.data
            && judging
                .iter()
                .all(|name| earlier.params.get(name) == own.params.get(name));
        if alike {
            return Ok(());
        }
        let detail = "that search had another model, data set, `data`, `trial`, `steps`, `evaluation`, `reconstruct` or cell, so that \
                      its trials can't be compared with those of this one";
        return Err(ApiError::fault("searches_differ", pointer, detail));
    }
    let detail = format!(
        "the job is a {} that is {}, and only a search that succeeded has trials to begin from",
        found.kind.as_str(),
        found.status.as_str()
    );
    Err(ApiError::fault("no_trials", pointer, &detail))
}

/// `pointer` is where the request names the model.
fn check_model(model: &Model, trains: bool, pointer: &str) -> Result<(), ApiError> {
    let summary = &model.summary;
    if summary.opset.is_none() {
        let detail = "the file holds weights without a graph, so no job can run on it; upload the \
                      model as ONNX";
        return Err(ApiError::fault("model_has_no_graph", pointer, detail));
    }
    if !summary.unsupported_operators.is_empty() {
        let detail = format!(
            "the model has operators that this version can't run: {}",
            summary.unsupported_operators.join(", ")
        );
        return Err(ApiError::fault("unsupported_operator", pointer, detail));
    }
    if trains && !summary.trainable {
        let detail = match &summary.not_trainable_because {
            Some(because) => format!("this job trains the model, which can't be: {because}"),
            None => "this job trains the model, which can't be".to_owned(),
        };
        return Err(ApiError::fault("model_not_trainable", pointer, detail));
    }
    Ok(())
}

async fn check_device(app: &App, device: &str) -> Result<(), ApiError> {
    if device == "auto" || device == "cpu" {
        return Ok(());
    }
    let devices = app.devices().await?;
    if devices.iter().any(|known| known.name == device) {
        return Ok(());
    }
    let names: Vec<&str> = devices.iter().map(|known| known.name.as_str()).collect();
    let detail = format!(
        "there is no such device; `auto` always works, and there are: {}",
        names.join(", ")
    );
    Err(ApiError::fault("device_not_found", "/device", detail))
}

/// 422 for a reference in a body to something that is not there; says so where the id is that of something else.
pub async fn missing(access: &Authorized, what: &str, id: Uuid, pointer: &str) -> ApiError {
    let other = match other_kind(access, id).await {
        Ok(found) => found,
        Err(error) => return error.into(),
    };
    let named = if what == "dataset" { "data set" } else { what };
    let mut detail = format!("there is no {named} `{id}`");
    if let Some(other) = other {
        detail.push_str(&format!("; that is the id of {other}"));
    }
    if (what, other) == ("model", Some("a job")) {
        detail.push_str(", whose `result.model` is the model that it made");
    }
    let mut problem = Problem::new(422, &format!("{what}_not_found"), detail.clone());
    problem.errors = vec![FieldError::new(pointer, detail)];
    problem.into()
}

/// What there is of this id.
async fn other_kind(access: &Authorized, id: Uuid) -> Result<Option<&'static str>, StoreError> {
    let (store, scope, id) = (&access.app.store, &access.scope, id.to_string());
    Ok(match () {
        () if store.model(scope, &id).await?.is_some() => Some("a model"),
        () if store.dataset(scope, &id).await?.is_some() => Some("a data set"),
        () if store.job(scope, &id).await?.is_some() => Some("a job"),
        () => None,
    })
}

/// Problems of a job that no data and no training could mend.
const IMPOSSIBLE: [&str; 7] = [
    "data_misfit",
    "target_unreachable",
    "nothing_prunable",
    "empty_space",
    "no_feasible_candidate",
    "unsupported",
    "invalid_request",
];

/// How long a client waits for the answer; a job whose model takes longer is queued without it.
const LONGEST_CHECK: Duration = Duration::from_secs(10);

/// Has a child look whether the model alone makes the job impossible. What it can't tell, the job will.
pub async fn refuse_impossible(access: &Authorized, checked: &Checked) -> Result<(), ApiError> {
    let says_length = checked.request.data.preprocess.max_length.is_some();
    if matches!(checked.request.kind, JobKind::Train | JobKind::Evaluate) && !says_length {
        return Ok(());
    }
    let order = Order::Check {
        inputs: Box::new(job_inputs(access, checked)),
        about: checked.about.clone().map(Box::new),
    };
    match tokio::time::timeout(LONGEST_CHECK, access.inspect(&order)).await {
        Ok(Err(InspectionError::Refused(problem))) if IMPOSSIBLE.contains(&&*problem.code) => {
            Err(ApiError::Problem(problem))
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "a job is queued without having been checked");
            Ok(())
        }
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// Has a child plan a job without training.
pub async fn plan(access: &Authorized, checked: Checked) -> Result<DryRun, ApiError> {
    let order = Order::Plan {
        inputs: Box::new(job_inputs(access, &checked)),
    };
    match access.inspect(&order).await? {
        Message::Plan { plan, data, steps } => Ok(DryRun {
            kind: checked.request.kind,
            plan: *plan,
            data: data.map(|data| *data),
            steps,
        }),
        _ => Err(InspectionError::WrongAnswer.into()),
    }
}

/// What a child reads that looks at a job before it is queued: its models and data set.
fn job_inputs(access: &Authorized, checked: &Checked) -> JobInputs {
    let store = &access.app.store;
    let dataset = checked.dataset.as_ref();
    JobInputs {
        job: Uuid::now_v7(),
        model: store.blobs().path(&checked.model.digest),
        models: (checked.models.iter())
            .map(|(id, model)| (*id, store.blobs().path(&model.digest)))
            .collect(),
        dataset: dataset.map(|dataset| store.dataset_input(dataset)),
        request: checked.request.clone(),
        trials: None,
    }
}
