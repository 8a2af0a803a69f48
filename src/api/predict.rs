//! `/v1/models/{id}/predict`.

use axum::Json;
use axum::extract::{Path, Request};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Binary;
use super::access::Authorized;
use super::models;
use super::problem::{ApiError, Problems};
use super::request::{StrictQuery, media_type};
use super::state::App;
use super::upload::receive;
use crate::spec::audio::AudioOptions;
use crate::spec::child::{InputFile, Message, Order, PredictOrder};
use crate::spec::dataset::Media;
use crate::spec::job::Preprocess;
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
    /// The data set whose classes have names, and whose tokenizer reads texts where the model came with none. That of the
    /// job that made the model when left out.
    dataset: Option<String>,
}

/// Ask a model about a few examples.
///
/// For trying a model with curl, not for serving it: each request starts a process and loads the file. The body, of at
/// most 32 MiB, is a png, jpg, webp, bmp, wav, flac, ogg or mp3 file, a text, or JSON: `{"inputs": {"NAME": [[…], …]}}` with a list of examples for
/// each of the model's inputs, or `{"texts": ["…", …]}`, where a pair of texts is a list of two.
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
        dataset: known.dataset,
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
    /// Files of the data set, if it holds texts.
    dataset: Vec<InputFile>,
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
    let with_texts = dataset.as_ref().or(of_job.as_ref()).filter(|dataset| {
        let mut inputs = dataset.summary.inputs.iter();
        inputs.any(|input| input.media == Some(Media::Text))
    });
    let files = match with_texts {
        Some(dataset) => store.dataset_input(dataset).files,
        None => Vec::new(),
    };
    let named = dataset.and_then(|dataset| dataset.summary.target?.class_names);
    let prepares = model.summary.inputs.iter().any(|input| input.prepared);
    let of_job = job.as_ref().map(|job| match prepares {
        false => job.request.data.preprocess.clone(),
        // The model does the rest itself.
        true => Preprocess {
            scale: None,
            mean: None,
            std: None,
            ..job.request.data.preprocess.clone()
        },
    });
    let data = job.and_then(|job| job.result?.environment.data);
    let inputs = data.iter().flat_map(|data| &data.inputs);
    let length = inputs.filter_map(|input| input.tokens.as_ref()).next();
    let mut of_job = of_job.unwrap_or_default();
    of_job.max_length = length.map(|tokens| tokens.length).or(of_job.max_length);
    let mut sounds = data.iter().flat_map(|data| &data.inputs);
    if let Some(audio) = sounds.find_map(|input| input.audio.as_ref()) {
        // What followed from the job's files does not follow from another one.
        of_job.audio = Some(AudioOptions {
            sample_rate: Some(audio.sample_rate),
            seconds: Some(f64::from(audio.samples) / f64::from(audio.sample_rate)),
            ..of_job.audio.unwrap_or_default()
        });
    }
    Ok(Known {
        asked,
        of_job,
        dataset: files,
        class_names: named.or(data.and_then(|data| data.class_names)),
    })
}
