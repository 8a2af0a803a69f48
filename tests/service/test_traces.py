"""Traces, read by OpenTelemetry's own protocol library; and log lines that lead from a request to its job."""

import gzip
import http.server
import json
import threading
import time

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

from conftest import DIGITS, DIGITS_CNN, run_sinter
from lifecycle_tools import ENDLESS, wait_until
from test_webhooks import Receiver, deliveries

#: W3C's own example.
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PRUNING = {"target": {"macs_ratio": 0.5}, "finetune": {"epochs": 2}}


class Collector:
    """Takes spans as a collector does."""

    def __init__(self):
        self.spans, self.requests, self.status = [], [], 200
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.requests.append((self.path, dict(self.headers)))
                if collector.status == 200:
                    batch = ExportTraceServiceRequest.FromString(body)
                    for resource in batch.resource_spans:
                        about = {each.key: each.value.string_value for each in resource.resource.attributes}
                        for scope in resource.scope_spans:
                            collector.spans += [(about, span) for span in scope.spans]
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def named(self, name):
        return [span for _, span in self.spans if span.name == name]

    def one(self, name):
        (span,) = self.named(name)
        return span


@pytest.fixture
def collector():
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


def attributes(span):
    values = {}
    for each in span.attributes:
        kind = each.value.WhichOneof("value")
        values[each.key] = getattr(each.value, kind)
    return values


def submit(server, params=PRUNING, kind="prune", **more):
    model, data = server.upload_model(DIGITS_CNN)["id"], server.upload_dataset(DIGITS)["id"]
    body = {"kind": kind, "model": model, "dataset": data, "params": params, **more}
    answer = server.post("/v1/jobs", json=body, headers={"traceparent": CALLER, "X-Request-Id": "from-a-test"})
    assert answer.status_code == 202, answer.text
    return answer.json()


def test_a_job_is_one_trace_from_its_submission_to_its_delivery(start_server, collector):
    receiver = Receiver()
    server = start_server("--otlp-endpoint", collector.url, "--webhooks-private", "true",
                          env={"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
                               "OTEL_EXPORTER_OTLP_HEADERS": "x-token=secret"})
    job = submit(server, webhook={"url": receiver.url, "events": ["job.finished"]})
    assert server.wait(job)["status"] == "succeeded"
    # The receiver has it before the server knows, and its span ends with that.
    wait_until(lambda: deliveries(server, job)[0]["status"] == "delivered", what="a delivery")
    server.stop()

    request = collector.one("POST /v1/jobs")
    trace = request.trace_id
    assert trace.hex() == CALLER.split("-")[1] and request.parent_span_id.hex() == CALLER.split("-")[2]
    found = attributes(request)
    assert found["http.request.method"] == "POST" and found["http.route"] == "/v1/jobs"
    assert found["http.response.status_code"] == 202 and found["sinter.request_id"] == "from-a-test"

    submitted, waited, attempt = (collector.one(name) for name in ("submit", "queue", "attempt"))
    process, publish, delivered = (collector.one(name) for name in ("process", "publish", "deliver"))
    assert submitted.parent_span_id == request.span_id
    for span in (waited, attempt, delivered):
        assert span.parent_span_id == submitted.span_id
    for span in (process, publish):
        assert span.parent_span_id == attempt.span_id
    phases = [span for _, span in collector.spans if span.name.startswith("phase ")]
    assert {"phase finetune"} <= {span.name for span in phases}
    assert all(span.parent_span_id == process.span_id for span in phases)
    assert all(span.trace_id == trace for span in (submitted, waited, attempt, process, publish, delivered, *phases))
    for span in (submitted, waited, attempt, delivered):
        assert attributes(span)["sinter.job.id"] == job["id"]
    assert attributes(attempt)["sinter.job.attempt"] == 1
    assert attributes(attempt)["sinter.job.status"] == "succeeded"
    assert attributes(attempt)["sinter.job.kind"] == "prune"

    # In order, and each within what it is a part of.
    assert submitted.start_time_unix_nano <= waited.end_time_unix_nano <= attempt.end_time_unix_nano
    for part, whole in ((process, attempt), (publish, attempt), *((phase, process) for phase in phases)):
        assert whole.start_time_unix_nano <= part.start_time_unix_nano
        assert part.end_time_unix_nano <= whole.end_time_unix_nano + 1_000_000
    assert process.end_time_unix_nano <= publish.start_time_unix_nano

    # The receiver can go on with the trace, and the collector knows whose it is.
    assert receiver.received[0][0]["traceparent"].split("-")[1] == trace.hex()
    about, _ = collector.spans[0]
    assert about["service.name"] == "sinter" and about["deployment.environment.name"] == "test"
    assert about["service.version"]
    path, headers = collector.requests[0]
    assert path == "/v1/traces" and headers["x-token"] == "secret"
    assert not {"GET /healthz", "GET /readyz", "GET /metrics"} & {span.name for _, span in collector.spans}


def test_a_trace_goes_through_a_restart_and_tells_of_failures(start_server, collector):
    server = start_server("--otlp-endpoint", collector.url)
    job = submit(server, {"epochs": 20}, "train")
    wait_until(lambda: server.get(f"/v1/jobs/{job['id']}").json()["status"] == "running", what="a start")
    server.stop()
    server.start()
    assert server.wait(job)["status"] == "succeeded"
    lost = submit(server, {**ENDLESS}, "train", timeout_seconds=1)
    assert server.wait(lost)["status"] == "failed"
    server.stop()
    own = [span for span in collector.named("attempt") if attributes(span)["sinter.job.id"] == job["id"]]
    assert [attributes(span)["sinter.job.status"] for span in own] == ["queued", "succeeded"]
    assert len({span.trace_id for span in own}) == 1
    (failed,) = [span for span in collector.named("attempt") if attributes(span)["sinter.job.id"] == lost["id"]]
    assert failed.status.code == 2 and "timed_out" in failed.status.message


def test_a_collector_that_fails_or_is_away_disturbs_nothing(start_server, collector):
    collector.status = 500
    server = start_server("--otlp-endpoint", collector.url)
    assert server.wait(submit(server))["status"] == "succeeded"
    collector.server.shutdown()
    collector.server.server_close()
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 15


def test_without_a_collector_nothing_is_sent_and_a_false_address_is_refused(start_server, collector):
    server = start_server()
    assert server.wait(submit(server))["status"] == "succeeded"
    assert collector.requests == []
    refused = run_sinter("serve", "--otlp-endpoint", "collector:4318")
    assert refused.returncode == 2 and "otlp_endpoint" in refused.stderr


def test_log_lines_in_json_lead_from_the_request_to_the_job(start_server, collector):
    server = start_server("--log-format", "json", "--otlp-endpoint", collector.url)
    job = submit(server)
    server.wait(job)
    server.stop()
    lines = [json.loads(line) for line in server.log().splitlines()]
    (queued,) = [line for line in lines if line["fields"]["message"] == "job queued"]
    assert queued["fields"]["job"] == job["id"] and queued["fields"]["kind"] == "prune"
    assert queued["span"]["request_id"] == "from-a-test"
    assert queued["span"]["trace_id"] == CALLER.split("-")[1]
    of_job = [line["fields"]["message"] for line in lines if line["fields"].get("job") == job["id"]]
    # A worker may have taken the job before the request that queued it goes on.
    assert sorted(of_job[:2]) == ["job queued", "job started"] and of_job[2:] == ["attempt ended"]
    answered = [line for line in lines if line["fields"]["message"] == "answered"]
    assert all(line["span"]["request_id"] and line["fields"]["status"] for line in answered)
