//! `/v1/jobs/{id}/metrics`: the curves of a job.

use std::fmt::Write as _;

use axum::Json;
use axum::extract::Path;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::access::Authorized;
use super::jobs::find_status;
use super::problem::{ApiError, Problems};
use super::request::{Listed, StrictQuery};
use super::state::App;
use crate::store::metrics::Point;

pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list_job_metrics))
}

/// A point of a curve.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct MetricPoint {
    pub step: u64,
    pub value: f64,
    #[schema(format = "date-time")]
    pub at: String,
}

/// A curve.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct MetricSeries {
    /// For instance `train/loss`.
    pub name: String,
    pub points: Vec<MetricPoint>,
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum MetricsFormat {
    #[default]
    Json,
    Csv,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct MetricsQuery {
    #[param(inline)]
    format: Option<MetricsFormat>,
}

/// Get the curves of a job, as JSON or CSV.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/metrics", operation_id = "listJobMetrics", tag = "jobs",
    params(("id" = String, Path), MetricsQuery),
    responses(
        (status = 200, description = "Curves by name", content(
            (Listed<MetricSeries> = "application/json"),
            (String = "text/csv")
        )),
        Problems
    )
)]
async fn list_job_metrics(
    access: Authorized,
    Path(id): Path<String>,
    StrictQuery(query): StrictQuery<MetricsQuery>,
) -> Result<Response, ApiError> {
    find_status(&access, &id).await?;
    let points = access.app.store.metrics(&id).await?;
    Ok(match query.format.unwrap_or_default() {
        MetricsFormat::Json => Json(Listed {
            data: series(points),
        })
        .into_response(),
        MetricsFormat::Csv => {
            let headers = [(header::CONTENT_TYPE, "text/csv; charset=utf-8")];
            (headers, csv(&points)).into_response()
        }
    })
}

/// Gathers points that are sorted by name.
fn series(points: Vec<Point>) -> Vec<MetricSeries> {
    let mut gathered: Vec<MetricSeries> = Vec::new();
    for Point {
        name,
        step,
        value,
        at,
    } in points
    {
        let point = MetricPoint { step, value, at };
        match gathered.last_mut() {
            Some(last) if last.name == name => last.points.push(point),
            _ => gathered.push(MetricSeries {
                name,
                points: vec![point],
            }),
        }
    }
    gathered
}

fn csv(points: &[Point]) -> String {
    let mut text = String::from("name,step,value,at\n");
    for point in points {
        let name = quoted(&point.name);
        let written = writeln!(text, "{name},{},{},{}", point.step, point.value, point.at);
        written.expect("writing to a string never fails");
    }
    text
}

/// RFC 4180.
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, step: u64) -> Point {
        Point {
            name: name.to_owned(),
            step,
            value: 0.5,
            at: "2026-01-01T00:00:00.000Z".to_owned(),
        }
    }

    #[test]
    fn points_are_gathered_by_name() {
        let gathered = series(vec![point("a", 1), point("a", 2), point("b", 1)]);
        let lengths: Vec<_> = gathered
            .iter()
            .map(|series| (series.name.as_str(), series.points.len()))
            .collect();
        assert_eq!(lengths, [("a", 2), ("b", 1)]);
    }

    #[test]
    fn a_name_with_a_comma_is_quoted_in_csv() {
        assert_eq!(
            csv(&[point("a,b", 3)]),
            "name,step,value,at\n\"a,b\",3,0.5,2026-01-01T00:00:00.000Z\n"
        );
    }
}
