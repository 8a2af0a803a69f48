//! What the server tells of itself: counters and histograms for `GET /metrics`, and traces.

pub mod traces;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use self::traces::Traces;

/// Upper bounds of request durations, in seconds.
const REQUEST_SECONDS: [f64; 10] = [0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0];

/// Upper bounds of job durations, in seconds.
const JOB_SECONDS: [f64; 10] = [
    1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0, 86_400.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: String,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JobLabels {
    kind: String,
    status: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    target: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: String,
}

/// Everything that is counted and traced.
#[derive(Debug)]
pub struct Telemetry {
    pub traces: Traces,
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabels, Histogram>,
    upload_bytes: Counter<u64, AtomicU64>,
    jobs: Family<StatusLabels, Gauge>,
    queue_depth: Gauge,
    job_seconds: Family<JobLabels, Histogram>,
    queue_seconds: Histogram,
    failed_attempts: Counter<u64, AtomicU64>,
    deliveries: Family<OutcomeLabels, Counter>,
    free_bytes: Gauge<u64, AtomicU64>,
    worker_alive: Gauge,
}

impl Telemetry {
    pub fn new(traces: Traces) -> Self {
        let requests = Family::<RequestLabels, Counter>::default();
        let request_seconds = Family::<RouteLabels, Histogram>::new_with_constructor(
            request_histogram as fn() -> Histogram,
        );
        let upload_bytes = Counter::<u64, AtomicU64>::default();
        let jobs = Family::<StatusLabels, Gauge>::default();
        let queue_depth: Gauge = Gauge::default();
        let job_seconds = Family::<JobLabels, Histogram>::new_with_constructor(
            job_histogram as fn() -> Histogram,
        );
        let queue_seconds = job_histogram();
        let failed_attempts = Counter::<u64, AtomicU64>::default();
        let mut registry = Registry::with_prefix("sinter");
        registry.register("http_requests", "HTTP requests answered", requests.clone());
        registry.register(
            "http_request_duration_seconds",
            "Time until the head of the answer",
            request_seconds.clone(),
        );
        registry.register(
            "upload_bytes",
            "Bytes of model and data set files received",
            upload_bytes.clone(),
        );
        registry.register("jobs", "Jobs by status", jobs.clone());
        registry.register("queue_depth", "Jobs waiting to run", queue_depth.clone());
        registry.register(
            "job_duration_seconds",
            "Run time of the last attempt of ended jobs",
            job_seconds.clone(),
        );
        registry.register(
            "job_queue_seconds",
            "Time from the submission of a job to its first attempt",
            queue_seconds.clone(),
        );
        registry.register(
            "job_attempts_failed",
            "Attempts whose child process died",
            failed_attempts.clone(),
        );
        let deliveries = Family::<OutcomeLabels, Counter>::default();
        registry.register(
            "delivery_attempts",
            "Tries to tell webhooks and MLflow",
            deliveries.clone(),
        );
        // One that is there from the beginning shows its first step.
        for target in ["webhook", "mlflow"] {
            for outcome in ["accepted", "failed"] {
                drop(deliveries.get_or_create(&OutcomeLabels { target, outcome }));
            }
        }
        let free_bytes = Gauge::<u64, AtomicU64>::default();
        registry.register(
            "disk_free_bytes",
            "Bytes left on the disk of the data folder",
            free_bytes.clone(),
        );
        let worker_alive: Gauge = Gauge::default();
        registry.register(
            "worker_alive",
            "1 while every worker gives signs of life",
            worker_alive.clone(),
        );
        let version = ("version", env!("CARGO_PKG_VERSION"));
        let build = Info::new(vec![version]);
        registry.register("build", "What runs", build);
        Self {
            traces,
            registry,
            requests,
            request_seconds,
            upload_bytes,
            jobs,
            queue_depth,
            job_seconds,
            queue_seconds,
            failed_attempts,
            deliveries,
            free_bytes,
            worker_alive,
        }
    }

    pub fn request_answered(&self, method: &str, route: &str, status: u16, time: Duration) {
        let (method, route) = (method.to_owned(), route.to_owned());
        self.request_seconds
            .get_or_create(&RouteLabels {
                method: method.clone(),
                route: route.clone(),
            })
            .observe(time.as_secs_f64());
        self.requests
            .get_or_create(&RequestLabels {
                method,
                route,
                status,
            })
            .inc();
    }

    pub fn bytes_uploaded(&self, bytes: u64) {
        self.upload_bytes.inc_by(bytes);
    }

    pub fn job_ended(&self, kind: &str, status: &str, run_time: Duration) {
        self.job_seconds
            .get_or_create(&JobLabels {
                kind: kind.to_owned(),
                status: status.to_owned(),
            })
            .observe(run_time.as_secs_f64());
    }

    pub fn delivery_tried(&self, target: &'static str, accepted: bool) {
        let outcome = if accepted { "accepted" } else { "failed" };
        self.deliveries
            .get_or_create(&OutcomeLabels { target, outcome })
            .inc();
    }

    pub fn job_waited(&self, time: Duration) {
        self.queue_seconds.observe(time.as_secs_f64());
    }

    pub fn attempt_failed(&self) {
        self.failed_attempts.inc();
    }

    /// Sets the gauges of the jobs table, status by status.
    pub fn set_jobs(&self, counts: &[(&str, i64)]) {
        for (status, count) in counts {
            self.jobs
                .get_or_create(&StatusLabels {
                    status: (*status).to_owned(),
                })
                .set(*count);
            if *status == "queued" {
                self.queue_depth.set(*count);
            }
        }
    }

    pub fn set_state(&self, free_bytes: u64, worker_alive: bool) {
        self.free_bytes.set(free_bytes);
        self.worker_alive.set(i64::from(worker_alive));
    }

    /// All of it as OpenMetrics text.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new(Traces::default())
    }
}

fn request_histogram() -> Histogram {
    Histogram::new(REQUEST_SECONDS)
}

fn job_histogram() -> Histogram {
    Histogram::new(JOB_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_under_its_route_and_status() {
        let telemetry = Telemetry::default();
        telemetry.request_answered("GET", "/v1/jobs/{id}", 404, Duration::from_millis(2));
        let text = telemetry.text().unwrap();
        let line =
            "sinter_http_requests_total{method=\"GET\",route=\"/v1/jobs/{id}\",status=\"404\"} 1";
        assert!(text.contains(line), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
