//! Traces of requests and jobs, sent to an OpenTelemetry collector (OTLP 1 over HTTP, protobuf).
//!
//! A job's spans hang on the span of its submission, which the database keeps as a W3C `traceparent`, so that a trace goes
//! through restarts of the server: the wait in the queue, every attempt, the phases of its process, the publication, the
//! deliveries. Names of attributes are those of OpenTelemetry's semantic conventions where there are such.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use axum::http::HeaderMap;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::{Bytes, HeaderExtractor, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use ureq::Agent;

use crate::config::trust::agent;
use crate::config::{ConfigError, Settings};

/// How long the collector may take for a batch of spans, and for the last ones when the server ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where spans go; nowhere without a collector.
#[derive(Debug, Clone, Default)]
pub struct Traces(Option<Exporting>);

#[derive(Debug, Clone)]
struct Exporting {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

/// What a span says of itself.
pub type Attributes = Vec<KeyValue>;

/// An attribute.
pub fn attribute(name: &'static str, value: impl Into<Value>) -> KeyValue {
    KeyValue::new(name, value)
}

impl Traces {
    /// `otlp_endpoint` names the collector. Sampling, batches, headers and the resource are set by OpenTelemetry's own
    /// variables (`OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES`, …).
    pub fn new(settings: &Settings) -> Result<Self, ConfigError> {
        let endpoint = settings.otlp_endpoint.trim_end_matches('/');
        if endpoint.is_empty() {
            return Ok(Self(None));
        }
        let agent = agent(settings)?
            .timeout_global(Some(PATIENCE))
            .build()
            .new_agent();
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector(agent))
            .with_endpoint(format!("{endpoint}/v1/traces"))
            .build()
            .map_err(|error| ConfigError::Invalid {
                setting: "otlp_endpoint",
                fault: format!("can't be used: {error}"),
            })?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name("sinter");
        }
        let version = attribute("service.version", env!("CARGO_PKG_VERSION"));
        let provider = SdkTracerProvider::builder()
            .with_resource(resource.with_attribute(version).build())
            .with_batch_exporter(exporter)
            .build();
        Ok(Self(Some(Exporting {
            tracer: provider.tracer("sinter"),
            provider,
        })))
    }

    /// The span of a request, below the one that its `traceparent` names.
    pub fn request(&self, headers: &HeaderMap, name: String, attributes: Attributes) -> Span {
        let parent = match &self.0 {
            Some(_) => TraceContextPropagator::new().extract(&HeaderExtractor(headers)),
            None => Context::new(),
        };
        self.begin(&parent, SpanKind::Server, name, attributes, None)
    }

    /// A span of a job, below the one that the database keeps.
    pub fn of_job(
        &self,
        traceparent: Option<&str>,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        attributes: Attributes,
    ) -> Span {
        self.begin(&kept(traceparent), kind, name, attributes, None)
    }

    /// What a job waited for, seen at its end.
    pub fn waited(
        &self,
        traceparent: Option<&str>,
        since: SystemTime,
        name: &'static str,
        attributes: Attributes,
    ) {
        let parent = kept(traceparent);
        drop(self.begin(&parent, SpanKind::Internal, name, attributes, Some(since)));
    }

    fn begin(
        &self,
        parent: &Context,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        attributes: Attributes,
        since: Option<SystemTime>,
    ) -> Span {
        let Some(Exporting { tracer, .. }) = &self.0 else {
            return Span::default();
        };
        let mut builder = SpanBuilder::from_name(name)
            .with_kind(kind)
            .with_attributes(attributes);
        if let Some(since) = since {
            builder = builder.with_start_time(since);
        }
        let span = tracer.build_with_context(builder, parent);
        Span {
            context: Some(parent.with_span(span)),
            traces: self.clone(),
        }
    }

    /// Sends what was not sent yet. Waits for the collector, a few seconds at most.
    pub fn finish(&self) {
        if let Some(Exporting { provider, .. }) = &self.0
            && let Err(error) = provider.shutdown_with_timeout(PATIENCE)
        {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}

/// The place in a trace that the database keeps for a job.
fn kept(traceparent: Option<&str>) -> Context {
    let Some(traceparent) = traceparent else {
        return Context::new();
    };
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier)
}

/// Something that takes time. It ends when this is dropped; without a collector it is nothing.
#[derive(Clone, Default)]
pub struct Span {
    context: Option<Context>,
    traces: Traces,
}

impl fmt::Debug for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Span")
            .field(&self.trace_id())
            .finish()
    }
}

impl Span {
    /// A span within this one.
    pub fn child(
        &self,
        kind: SpanKind,
        name: impl Into<Cow<'static, str>>,
        attributes: Attributes,
    ) -> Self {
        match &self.context {
            Some(context) => self.traces.begin(context, kind, name, attributes, None),
            None => Self::default(),
        }
    }

    pub fn set(&self, attribute: KeyValue) {
        if let Some(context) = &self.context {
            context.span().set_attribute(attribute);
        }
    }

    pub fn fail(&self, why: &str) {
        if let Some(context) = &self.context {
            context.span().set_status(Status::error(why.to_owned()));
        }
    }

    /// 32 hexadecimal digits, for log lines; `None` if the collector does not get the span.
    pub fn trace_id(&self) -> Option<String> {
        let span = self.context.as_ref()?.span();
        let context = span.span_context();
        context.is_sampled().then(|| context.trace_id().to_string())
    }

    /// The W3C header by which others go on with the trace.
    pub fn traceparent(&self) -> Option<String> {
        let mut carrier = HashMap::new();
        TraceContextPropagator::new().inject_context(self.context.as_ref()?, &mut carrier);
        carrier.remove("traceparent")
    }
}

/// Brings batches of spans to the collector; runs in a thread of OpenTelemetry's own.
#[derive(Debug)]
struct Collector(Agent);

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.0.run(request.map(|bytes| bytes.to_vec()))?;
        let (head, mut body) = answer.into_parts();
        let bytes = body.read_to_vec()?;
        Ok(Response::from_parts(head, bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_kept_place_in_a_trace_is_found_again() {
        let context = kept(Some(PARENT));
        let mut carrier = HashMap::new();
        TraceContextPropagator::new().inject_context(&context, &mut carrier);
        assert_eq!(carrier["traceparent"], PARENT);
        assert!(!kept(Some("nonsense")).span().span_context().is_valid());
    }

    #[test]
    fn without_a_collector_nothing_is_traced() {
        let traces = Traces::new(&Settings::default()).unwrap();
        let span = traces.of_job(Some(PARENT), SpanKind::Consumer, "attempt", Vec::new());
        assert_eq!(span.traceparent(), None);
        assert_eq!(
            span.child(SpanKind::Internal, "phase", Vec::new())
                .trace_id(),
            None
        );
    }
}
