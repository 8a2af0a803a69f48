//! What is checked before a job is queued, and plans of jobs that are not.

use uuid::Uuid;

use super::problem::ApiError;
use super::state::App;
use crate::spec::child::{JobInputs, Message, Order};
use crate::spec::fit::{check_task, fit};
use crate::spec::job::{JobRequest, Params};
use crate::spec::problem::{FieldError, Problem};
use crate::spec::result::PrunePlan;
use crate::store::datasets::Dataset;
use crate::store::models::Model;
use crate::worker::InspectionError;

/// A request that can be queued, with what it names.
pub struct Checked {
    pub request: JobRequest,
    pub model: Model,
    pub dataset: Option<Dataset>,
}

/// Checks a request by itself and against its model, data set and device.
pub async fn check(app: &App, posted: JobRequest) -> Result<Checked, ApiError> {
    let (request, params) = posted.validate()?;
    let model = app.store.model(&request.model.to_string()).await?;
    let model = model.ok_or_else(|| missing("model", request.model))?;
    let dataset = match request.dataset {
        None => None,
        Some(id) => {
            let found = app.store.dataset(&id.to_string()).await?;
            Some(found.ok_or_else(|| missing("dataset", id))?)
        }
    };
    check_model(&model, &params)?;
    if let Some(dataset) = &dataset {
        let fitted = fit(
            &model.summary,
            &dataset.summary,
            &request.data,
            request.task,
            params.needs_gradients(),
        )?;
        check_task(&params, &fitted)?;
    }
    check_device(app, &request.device).await?;
    Ok(Checked {
        request,
        model,
        dataset,
    })
}

fn check_model(model: &Model, params: &Params) -> Result<(), ApiError> {
    let summary = &model.summary;
    if summary.opset.is_none() {
        let detail = "the file holds weights without a graph, so no job can run on it; upload the \
                      model as ONNX";
        return Err(ApiError::fault("model_has_no_graph", "/model", detail));
    }
    if !summary.unsupported_operators.is_empty() {
        let detail = format!(
            "the model has operators that this version can't run: {}",
            summary.unsupported_operators.join(", ")
        );
        return Err(ApiError::fault("unsupported_operator", "/model", detail));
    }
    if params.needs_gradients() && !summary.trainable {
        let detail = match &summary.not_trainable_because {
            Some(because) => format!("this job trains the model, which can't be: {because}"),
            None => "this job trains the model, which can't be".to_owned(),
        };
        return Err(ApiError::fault("model_not_trainable", "/model", detail));
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

/// 422 for a reference in a body to something that is not there.
pub fn missing(what: &str, id: Uuid) -> ApiError {
    let detail = format!("there is no {what} `{id}`");
    let mut problem = Problem::new(422, &format!("{what}_not_found"), detail.clone());
    problem.errors = vec![FieldError::new(format!("/{what}"), detail)];
    problem.into()
}

/// Has a child plan a pruning without training.
pub async fn plan(app: &App, checked: Checked) -> Result<PrunePlan, ApiError> {
    let order = Order::Plan {
        inputs: Box::new(JobInputs {
            job: Uuid::now_v7(),
            model: app.store.blobs().path(&checked.model.digest),
            dataset: checked
                .dataset
                .as_ref()
                .map(|dataset| app.store.dataset_input(dataset)),
            request: checked.request,
        }),
    };
    match app.inspector.inspect(&order).await? {
        Message::Plan { plan } => Ok(*plan),
        _ => Err(InspectionError::WrongAnswer.into()),
    }
}
