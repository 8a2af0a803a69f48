//! `/v1/models/{id}/predict`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Request};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::Binary;
use super::access::Authorized;
use super::models;
use super::problem::{ApiError, Problems};
use super::request::{StrictQuery, media_type};
use super::state::App;
use super::upload::receive;
use crate::spec::child::{JobInputs, Message, Order, PredictOrder};
use crate::spec::job::{DataOptions, JobRequest, Preprocess};
use crate::spec::predict::Prediction;
use crate::spec::problem::{Faults, FieldError, Problem, parse_slice};
use crate::store::jobs::Job;
use crate::store::models::Model;
use crate::worker::InspectionError;

/// Most bytes of a request.
const MOST_BYTES: u64 = 32 << 20;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(predict))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct PredictQuery {
    /// A JSON object like `data.preprocess` of a job. When left out, images, audio and texts are prepared as in the job that made
    /// the model, and numbers not at all.
    preprocess: Option<String>,
    /// The data set whose examples are asked about, whose classes have names, and whose tokenizer reads texts where the model
    /// came with none. That of the job that made the model when left out.
    dataset: Option<String>,
}

/// Ask a model about a few examples.
///
/// For trying a model with curl, not for serving it: each request starts a process and loads the file. The body, of at
/// most 32 MiB, is a png, jpg, webp, bmp, wav, flac, ogg or mp3 file, a text, or JSON: `{"inputs": {"NAME": [[…], …]}}` with a list of examples for
/// each of the model's inputs, `{"texts": ["…", …]}`, where a pair of texts is a list of two, or
/// `{"examples": [0, 7], "split": "test"}`, places in the data set, counted from 0 in the order in which it is stored, of its
/// test split where it has one and `split` is left out.
#[utoipa::path(
    post, path = "/v1/models/{id}/predict", operation_id = "predict", tag = "models",
    params(("id" = String, Path), PredictQuery),
    request_body(content(
        (inline(Binary) = "application/octet-stream"),
        (Object = "application/json")
    )),
    responses((status = 200, description = "What it answers", body = Prediction), Problems)
)]
async fn predict(
    access: Authorized,
    Path(id): Path<String>,
    StrictQuery(query): StrictQuery<PredictQuery>,
    request: Request,
) -> Result<Json<Prediction>, ApiError> {
    let model = models::find(&access, &id).await?;
    if model.summary.opset.is_none() {
        let detail = "the file holds weights without a graph, so there is nothing to run";
        return Err(ApiError::new(422, "model_has_no_graph", detail));
    }
    if media_type(request.headers()) == "multipart/form-data" {
        let detail =
            "send the file or the JSON itself as the body (curl --data-binary @FILE), not a form";
        return Err(ApiError::new(415, "unsupported_media_type", detail));
    }
    let known = known(&access, &model, query).await?;
    let upload = receive(&access, request, Some("body".to_owned()), MOST_BYTES).await?;
    let body = upload.input_files().into_iter().next();
    let order = Order::Predict(Box::new(PredictOrder {
        model: access.app.store.blobs().path(&model.digest),
        body: body.ok_or_else(|| ApiError::Internal("a request without a body".to_owned()))?,
        preprocess: known.asked,
        media_preprocess: known.of_job,
        stored: known.stored,
        class_names: known.class_names,
    }));
    let Message::Prediction { prediction } = access.inspect(&order).await? else {
        return Err(InspectionError::WrongAnswer.into());
    };
    Ok(Json(*prediction))
}

/// How examples are prepared and what classes are called.
struct Known {
    asked: Option<Preprocess>,
    of_job: Preprocess,
    /// The model on the data set.
    stored: Option<Box<JobInputs>>,
    class_names: Option<Vec<String>>,
}

/// What the request says, and what the job that made the model had.
async fn known(access: &Authorized, model: &Model, query: PredictQuery) -> Result<Known, ApiError> {
    let (store, scope) = (&access.app.store, &access.scope);
    let job = match &model.job_id {
        Some(id) => store.job(scope, id).await?,
        None => None,
    };
    let parsed = |text: String| match parse_slice(text.as_bytes()) {
        Ok(Ok(preprocess)) => Ok::<Preprocess, Problem>(preprocess),
        Ok(Err(faults)) => Err(Problem::invalid_under("/preprocess", faults)),
        Err(error) => {
            let fault = FieldError::new("/preprocess", error.to_string());
            Err(Problem::invalid(vec![fault]))
        }
    };
    let asked = query.preprocess.map(parsed).transpose()?;
    if let Some(preprocess) = &asked {
        let mut faults = Faults::default();
        faults.extend_under("/preprocess", preprocess.faults());
        if !faults.found.is_empty() {
            return Err(Problem::invalid(faults.found).into());
        }
    }
    let dataset = match &query.dataset {
        Some(id) => {
            let dataset = store.dataset(scope, id).await?;
            Some(dataset.ok_or_else(|| ApiError::not_found("dataset", id))?)
        }
        None => None,
    };
    // That of the job may be gone, which matters only where its tokenizer is needed.
    let of_job = match (&dataset, &job) {
        (None, Some(Job { request, .. })) => match &request.dataset {
            Some(id) => store.dataset(scope, &id.to_string()).await?,
            None => None,
        },
        _ => None,
    };
    let named = dataset.as_ref();
    let named = named.and_then(|dataset| dataset.summary.target.clone()?.class_names);
    let task = job.as_ref().and_then(|job| job.request.task);
    let mut options = job
        .as_ref()
        .map_or_else(DataOptions::default, |job| job.request.data.clone());
    let data = job.and_then(|job| job.result?.environment.data);
    let inputs = data.iter().flat_map(|data| &data.inputs);
    let length = inputs.filter_map(|input| input.tokens.as_ref()).next();
    // The rest the model's file says.
    let prepared = Preprocess {
        max_length: length
            .map(|tokens| tokens.length)
            .or(options.preprocess.max_length),
        ..Preprocess::default()
    };
    options.preprocess = asked.clone().unwrap_or_else(|| prepared.clone());
    options.embed_preprocessing = false;
    let id = |text: &str| Uuid::parse_str(text).unwrap_or_default();
    let stored = dataset.or(of_job).map(|dataset| {
        let request = JobRequest::evaluation(id(&model.id), id(&dataset.id), options, task);
        Box::new(JobInputs {
            job: Uuid::now_v7(),
            model: store.blobs().path(&model.digest),
            models: BTreeMap::new(),
            dataset: Some(store.dataset_input(&dataset)),
            request,
            trials: None,
        })
    });
    Ok(Known {
        asked,
        of_job: prepared,
        stored,
        // The model numbers its outputs as it knows them.
        class_names: (model.summary.expects.as_ref())
            .and_then(|expected| expected.class_names.clone())
            .or(named)
            .or(data.and_then(|data| data.class_names)),
    })
}
