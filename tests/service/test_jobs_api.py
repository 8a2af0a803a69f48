"""Jobs over HTTP: what they answer, lists, waiting, events, curves, files, plans, deletion.

How jobs live and die is tested elsewhere; here it is what the routes say about them.
"""

import csv
import datetime
import hashlib
import io
import json
import threading
import time

import numpy as np
import onnx
import pytest
import requests

import models
from conftest import DIGITS, DIGITS_CNN, Server, assert_problem

SCALE = {"preprocess": {"scale": 1 / 16}}
LONG = {"epochs": 5000, "weights": "reinitialize"}
NOBODY = "019353e0-0000-7000-8000-000000000001"


@pytest.fixture(scope="module")
def trained(server, digits_model, digits):
    """A train job of three epochs that has succeeded."""
    params = {"epochs": 3, "weights": "reinitialize", "optimizer": {"name": "adam", "learning_rate": 0.005}}
    return server.run("train", digits_model, digits, params, name="three epochs", seed=7, data=SCALE,
                      tags={"team": "vision", "stage": "test"})


@pytest.fixture(scope="module")
def pruned(server, digits_model, digits):
    """A channel pruning with fine-tuning that has succeeded."""
    params = {"target": {"macs_ratio": 0.5}, "finetune": {"epochs": 2}, "schedule": {"steps": 2}}
    return server.run("prune", digits_model, digits, params, data=SCALE)


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A server of its own whose only worker has a long job, behind which others queue."""
    with Server(tmp_path_factory.mktemp("busy"), flags=["--drain-seconds", "3"]) as running:
        running.model = running.upload_model(DIGITS_CNN, "cnn")
        running.data = running.upload_dataset(DIGITS, "digits")
        running.long = running.submit("train", running.model, running.data, LONG, data=SCALE, priority=1000)
        running.wait_for(running.long, lambda job: job["status"] == "running")
        yield running
        running.post(f"/v1/jobs/{running.long['id']}/cancel")


def queue_one(busy, **more):
    params = {"granularity": "weight", "target": {"sparsity": 0.5}}
    return busy.submit("prune", busy.model, params=params, **more)


# What a job says.


def test_a_queued_job_shows_its_request_with_the_defaults_filled_in(busy):
    job = queue_one(busy, name="later", tags={"a": "b"})
    assert job["status"] == "queued" and job["attempt"] == 0 and job["max_attempts"] == 3
    assert job["name"] == "later" and job["kind"] == "prune"
    assert job["queue_position"] >= 1
    for empty in ("progress", "started_at", "finished_at", "result", "error"):
        assert job[empty] is None
    request = job["request"]
    assert request["seed"] == 0 and request["device"] == "auto" and request["timeout_seconds"] == 86400
    assert request["priority"] == 0 and request["tags"] == {"a": "b"} and request["dry_run"] is False
    assert request["data"]["batch_size"] == 64 and request["data"]["validation_fraction"] == 0.1
    assert request["params"]["criterion"] == "magnitude" and request["params"]["schedule"]["steps"] == 1
    assert busy.job(job) == job
    busy.post(f"/v1/jobs/{job['id']}/cancel")


def test_jobs_of_higher_priority_come_first_and_the_position_says_so(busy):
    made = [queue_one(busy, priority=priority) for priority in (0, 0, 5, -5)]
    positions = [busy.job(job)["queue_position"] for job in made]
    assert positions == [2, 3, 1, 4]
    assert busy.post(f"/v1/jobs/{made[2]['id']}/cancel").status_code == 202
    assert [busy.job(job)["queue_position"] for job in made] == [1, 2, None, 3]
    for job in made:
        busy.post(f"/v1/jobs/{job['id']}/cancel")


def test_a_succeeded_training_says_all_that_the_contract_promises(server, trained, digits_model, digits):
    assert trained["status"] == "succeeded" and trained["error"] is None and trained["attempt"] == 1
    assert trained["progress"]["fraction"] == 1.0
    times = [datetime.datetime.fromisoformat(trained[n]) for n in ("created_at", "started_at", "last_heartbeat_at", "finished_at")]
    assert times == sorted(times)
    result = trained["result"]
    assert set(result) >= {"model", "before", "after", "change", "training", "environment"}
    for side in ("before", "after"):
        figures = result[side]
        assert figures["parameters"] == digits_model["summary"]["parameters"]
        assert figures["macs"] == digits_model["summary"]["macs"]
        assert 0 < figures["compressed_bytes"] < figures["size_bytes"]
        assert 0 < figures["latency_ms"]["p50"] <= figures["latency_ms"]["p90"]
        assert set(figures["metrics"]) == {"loss", "accuracy"}
    assert result["before"]["size_bytes"] == digits_model["size_bytes"]
    assert result["before"]["metrics"]["accuracy"] > 0.95 and result["after"]["metrics"]["accuracy"] > 0.85
    assert result["change"]["parameters_ratio"] == 1.0 and result["change"]["macs_ratio"] == 1.0
    change = result["after"]["metrics"]["accuracy"] - result["before"]["metrics"]["accuracy"]
    assert result["change"]["metrics"]["accuracy"] == pytest.approx(change, abs=1e-12)
    assert result["change"]["speedup"] == pytest.approx(
        result["before"]["latency_ms"]["p50"] / result["after"]["latency_ms"]["p50"])
    assert result["training"]["seconds"] > 0 and result["training"]["examples_per_second"] > 0
    environment = result["environment"]
    assert environment["seed"] == 7 and environment["version"] and environment["device"]
    data = environment["data"]
    assert data["task"] == "classification" and data["output"] == "logits" and data["outputs"] == 10
    assert data["splits"] == {"train": 1437 - 144, "validation": 144, "test": 360}


def test_the_new_model_knows_where_it_came_from(server, trained, digits_model):
    model = server.get(f"/v1/models/{trained['result']['model']}").json()
    assert model["parent_id"] == digits_model["id"] and model["job_id"] == trained["id"]
    assert model["summary"]["parameters"] == digits_model["summary"]["parameters"]
    assert server.model_content(model) == server.artifact(trained, "model.onnx")
    assert model["size_bytes"] == trained["result"]["after"]["size_bytes"]


def test_evaluating_makes_no_model_and_measures_what_was_asked(server, digits_model, digits):
    asked = ["accuracy", "top_5_accuracy", "f1", "loss"]
    job = server.run("evaluate", digits_model, digits, {"metrics": asked}, data=SCALE)
    result = job["result"]
    assert result["model"] is None and "after" not in result and "change" not in result
    from sklearn.metrics import f1_score, log_loss, top_k_accuracy_score

    arrays = models.digits()
    x = arrays["x_test"][:, None].astype(np.float32) / 16
    logits = models.outputs(DIGITS_CNN.read_bytes(), {"input": x})[0].astype(np.float64)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    y = arrays["y_test"]
    assert result["before"]["metrics"] == {
        "accuracy": pytest.approx((logits.argmax(1) == y).mean(), abs=1e-9),
        "top_5_accuracy": pytest.approx(top_k_accuracy_score(y, logits, k=5), abs=1e-9),
        "f1": pytest.approx(f1_score(y, logits.argmax(1), average="macro"), abs=1e-9),
        "loss": pytest.approx(log_loss(y, shares), rel=1e-4),
    }


@pytest.mark.parametrize(
    ("metrics", "pointer"),
    [(["speed"], "/params/metrics/0"), (["accuracy", "accuracy"], "/params/metrics/1"),
     (["mean_squared_error"], "/params/metrics")],
)
def test_a_metric_that_means_nothing_here_is_refused_at_once(server, digits_model, digits, metrics, pointer):
    body = {"kind": "evaluate", "model": digits_model["id"], "dataset": digits["id"], "params": {"metrics": metrics}}
    answer = server.post("/v1/jobs", json=body)
    problem = assert_problem(answer, 422)
    assert any(fault["pointer"].startswith(pointer) for fault in problem["errors"]), problem


def test_a_loss_that_does_not_suit_the_task_is_refused_at_once(server, digits_model, digits):
    body = {"kind": "train", "model": digits_model["id"], "dataset": digits["id"], "params": {"loss": "binary_cross_entropy"}}
    assert_problem(server.post("/v1/jobs", json=body), 422, pointer="/params/loss")


def test_the_smallest_run_of_all_works(server, digits_model, digits):
    data = {**SCALE, "limit": 1, "batch_size": 1, "validation_fraction": 0}
    job = server.run("train", digits_model, digits, {"epochs": 1}, data=data)
    assert job["result"]["environment"]["data"]["splits"] == {"train": 1, "validation": 0, "test": 1}
    assert job["result"]["after"]["metrics"]["accuracy"] in (0.0, 1.0)


def test_a_batch_larger_than_the_data_works(server, digits_model, digits):
    job = server.run("train", digits_model, digits, {"epochs": 1}, data={**SCALE, "limit": 50, "batch_size": 4096})
    assert job["result"]["environment"]["data"]["splits"]["train"] == 50


def test_every_device_that_is_listed_runs_a_job(server, digits_model, digits):
    for device in server.get("/v1/devices").json()["data"]:
        job = server.run("evaluate", digits_model, digits, {"metrics": ["accuracy"]}, device=device["name"], data=SCALE)
        assert job["result"]["environment"]["device"] == device["name"]
        assert job["result"]["before"]["metrics"]["accuracy"] > 0.95


def test_a_pipeline_reports_every_step(server, digits_model, digits):
    steps = [
        {"kind": "prune", "params": {"target": {"parameters_ratio": 0.6}}},
        {"kind": "train", "params": {"epochs": 2}},
        {"kind": "prune", "params": {"granularity": "weight", "target": {"sparsity": 0.5}}},
        {"kind": "evaluate", "params": {}},
    ]
    job = server.run("pipeline", digits_model, digits, {"steps": steps}, data=SCALE)
    result = job["result"]
    assert [step["kind"] for step in result["steps"]] == ["prune", "train", "prune", "evaluate"]
    cut, trained, sparse, evaluated = (step["after"] for step in result["steps"])
    assert cut["parameters"] <= 0.6 * result["before"]["parameters"]
    assert trained["parameters"] == cut["parameters"] == sparse["parameters"]
    assert sparse["nonzero_parameters"] < 0.6 * sparse["parameters"]
    assert evaluated["metrics"] == result["after"]["metrics"]
    assert trained["metrics"]["loss"] < cut["metrics"]["loss"]
    model = server.get(f"/v1/models/{result['model']}").json()
    assert model["summary"]["nonzero_parameters"] == result["after"]["nonzero_parameters"]


# Lists.


def test_jobs_are_listed_the_newest_first_and_filtered(server, trained, pruned, digits_model):
    def ids(**params):
        answer = server.get("/v1/jobs", params={"limit": 100, **params})
        assert answer.status_code == 200, answer.text
        return [job["id"] for job in answer.json()["data"]]

    everything = ids()
    assert everything == sorted(everything, reverse=True)
    assert trained["id"] in ids(kind="train") and pruned["id"] not in ids(kind="train")
    assert pruned["id"] in ids(kind="prune", status="succeeded")
    assert ids(status="queued") == [] and ids(kind="pipeline", status="queued") == []
    assert trained["id"] in ids(model=digits_model["id"]) and ids(model=NOBODY) == []
    assert ids(tag="team") == ids(tag="team:vision") == ids(tag="stage:test") == [trained["id"]]
    assert ids(tag="team:sound") == ids(tag="vision") == []
    assert ids(tag="team:vision", kind="prune") == []


@pytest.mark.parametrize("query", ["status=done", "kind=shrink", "state=queued", "status="])
def test_a_filter_that_makes_no_sense_is_400(server, query):
    assert_problem(server.get(f"/v1/jobs?{query}"), 400)


def test_a_filtered_list_is_paged_with_the_filter(busy):
    made = [queue_one(busy, tags={"batch": "paged"})["id"] for _ in range(3)]
    queue_one(busy, tags={"batch": "other"})
    first = busy.get("/v1/jobs", params={"tag": "batch:paged", "limit": 2}).json()
    rest = busy.get("/v1/jobs", params={"tag": "batch:paged", "limit": 2, "cursor": first["next_cursor"]}).json()
    assert [job["id"] for page in (first, rest) for job in page["data"]] == made[::-1]
    assert rest["next_cursor"] is None


# Waiting.


def test_prefer_wait_answers_as_soon_as_the_job_has_ended(server, digits_model):
    job = server.submit("prune", digits_model, params={"granularity": "weight", "target": {"sparsity": 0.5}})
    started = time.monotonic()
    answer = server.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=60"})
    assert answer.json()["status"] == "succeeded"
    assert answer.headers["Preference-Applied"] == "wait=60"
    assert time.monotonic() - started < 50
    ended = datetime.datetime.fromisoformat(answer.json()["finished_at"])
    assert (datetime.datetime.now(datetime.UTC) - ended).total_seconds() < 8
    # On an ended job it does not wait.
    started = time.monotonic()
    server.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=60"})
    assert time.monotonic() - started < 20


def test_prefer_wait_gives_up_after_its_time(busy):
    for prefer, least in (("wait=1", 1.0), ("respond-async, wait=1", 1.0), ("wait=0", 0.0), ("wait=soon", 0.0)):
        started = time.monotonic()
        answer = busy.get(f"/v1/jobs/{busy.long['id']}", headers={"Prefer": prefer})
        assert answer.json()["status"] == "running"
        assert least <= time.monotonic() - started < least + 10


def test_waiting_for_a_job_that_is_not_there_does_not_wait(server):
    started = time.monotonic()
    assert_problem(server.get(f"/v1/jobs/{NOBODY}", headers={"Prefer": "wait=30"}), 404, "job_not_found")
    assert time.monotonic() - started < 15


def test_a_job_that_is_deleted_while_someone_waits_ends_the_wait(busy):
    job = queue_one(busy)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(
        busy.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=60"})))
    waiting.start()
    time.sleep(0.3)
    busy.post(f"/v1/jobs/{job['id']}/cancel")
    waiting.join(30)
    assert not waiting.is_alive() and answers[0].json()["status"] == "canceled"


# Events.


def sse(answer):
    """The events of a stream, each as a dict of its fields."""
    event = {}
    for line in answer.iter_lines(decode_unicode=True):
        if line == "":
            if event:
                yield event
            event = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            event[name] = event.get(name, "") + value.removeprefix(" ")


def stream(server, job, last=None, timeout=30):
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": str(last)} if last is not None else {})}
    answer = requests.get(f"{server.url}/v1/jobs/{job['id']}/events", headers=headers, stream=True, timeout=timeout)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    return answer


def test_events_tell_the_story_from_the_queue_to_the_end(server, trained):
    events = server.events(trained)
    kinds = [event["type"] for event in events]
    assert kinds[0] == "job_queued" and kinds[1] == "job_started" and kinds[-1] == "job_succeeded"
    for event in events:
        assert set(event) == {"id", "at", "level", "type", "message", "data"}
        assert event["level"] in ("info", "warning", "error") and event["message"]
    ids = [event["id"] for event in events]
    assert ids == sorted(set(ids))
    assert events[-1]["data"]["model"] == trained["result"]["model"]


def test_events_are_paged_by_cursor(server, trained):
    path = f"/v1/jobs/{trained['id']}/events"
    assert server.all_rows(path, limit=1) == server.all_rows(path, limit=100)
    assert_problem(server.get(path, params={"cursor": "YWJj"}), 400, "invalid_cursor")


def test_the_stream_of_an_ended_job_has_all_rows_and_closes(server, trained):
    rows = server.events(trained)
    streamed = list(sse(stream(server, trained)))
    assert [json.loads(event["data"]) for event in streamed] == rows
    assert [(int(event["id"]), event["event"]) for event in streamed] == [(row["id"], row["type"]) for row in rows]


def test_the_stream_goes_on_after_the_last_event_id(server, trained):
    rows = server.events(trained)
    for place in (0, 1, len(rows) - 1):
        streamed = list(sse(stream(server, trained, last=rows[place]["id"])))
        assert [int(event["id"]) for event in streamed] == [row["id"] for row in rows[place + 1 :]]


@pytest.mark.parametrize("last", ["abc", "1.5", "99999999999999999999"])
def test_a_last_event_id_that_is_none_is_400(server, trained, last):
    answer = server.get(f"/v1/jobs/{trained['id']}/events", headers={"Accept": "text/event-stream", "Last-Event-ID": last})
    assert_problem(answer, 400, "invalid_last_event_id")


def test_the_stream_follows_a_job_live_and_closes_after_its_end(server, digits_model, digits):
    job = server.submit("train", digits_model, digits, {"epochs": 2}, data=SCALE)
    answer = stream(server, job)
    seen = []
    for event in sse(answer):
        seen.append(event["event"])
        if event["event"] == "job_started":
            # It came while the job was still at work, not all at once at the end.
            assert server.job(job)["status"] in ("running", "succeeded")
    assert seen[0] == "job_queued" and seen[-1] == "job_succeeded" and "job_started" in seen
    assert server.job(job)["status"] == "succeeded"


def test_a_canceled_job_ends_its_stream(busy):
    job = queue_one(busy)
    answer = stream(busy, job)
    events = sse(answer)
    assert next(events)["event"] == "job_queued"
    busy.post(f"/v1/jobs/{job['id']}/cancel")
    assert [event["event"] for event in events] == ["job_canceled"]


# Curves.


def test_curves_have_a_point_for_every_step_as_json_and_as_csv_and_in_the_artifact(server, trained):
    curves = {c["name"]: c["points"] for c in server.get(f"/v1/jobs/{trained['id']}/metrics").json()["data"]}
    assert {"train/loss", "train/learning_rate"} <= set(curves)
    assert any(name.startswith("validation/") for name in curves)
    steps = 3 * -(-1293 // 64)
    losses = curves["train/loss"]
    assert [point["step"] for point in losses] == list(range(1, len(losses) + 1))
    assert len(losses) in (steps, 3 * (1293 // 64))
    assert np.mean([p["value"] for p in losses[-10:]]) < 0.5 * np.mean([p["value"] for p in losses[:5]])
    answer = server.get(f"/v1/jobs/{trained['id']}/metrics?format=csv")
    assert answer.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(rows[0]) == ["name", "step", "value", "at"]
    assert [(r["name"], int(r["step"]), float(r["value"]), r["at"]) for r in rows] == [
        (name, p["step"], p["value"], p["at"]) for name, points in curves.items() for p in points
    ]
    file = list(csv.DictReader(io.StringIO(server.artifact(trained, "metrics.csv").decode())))
    assert {(r["name"], int(r["step"]), float(r["value"])) for r in file} == {
        (name, p["step"], p["value"]) for name, points in curves.items() for p in points
    }
    assert_problem(server.get(f"/v1/jobs/{trained['id']}/metrics?format=xml"), 400, "invalid_query_parameter")


def test_a_job_that_has_not_started_has_no_curves_and_no_files(busy):
    job = queue_one(busy)
    assert busy.get(f"/v1/jobs/{job['id']}/metrics").json() == {"data": []}
    assert busy.get(f"/v1/jobs/{job['id']}/metrics?format=csv").text == "name,step,value,at\n"
    assert busy.get(f"/v1/jobs/{job['id']}/artifacts").json() == {"data": []}
    assert_problem(busy.get(f"/v1/jobs/{job['id']}/artifacts/model.onnx"), 404, "artifact_not_found")


# Files.


@pytest.mark.parametrize("which", ["trained", "pruned"])
def test_every_promised_artifact_is_there_with_its_digest(server, request, which):
    job = request.getfixturevalue(which)
    rows = {row["name"]: row for row in server.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]}
    assert {"model.onnx", "report.html", "report.json", "metrics.csv"} <= set(rows)
    types = {"report.html": "text/html", "report.json": "application/json", "metrics.csv": "text/csv"}
    for name, row in rows.items():
        answer = server.get(row["url"])
        assert answer.status_code == 200
        digest = hashlib.sha256(answer.content).hexdigest()
        assert row["digest"] == f"sha256:{digest}" and answer.headers["ETag"] == f'"{digest}"'
        assert row["size_bytes"] == len(answer.content)
        assert answer.headers["Content-Type"] == row["media_type"]
        assert row["media_type"].startswith(types.get(name, "application/"))
        assert f'filename="{name}"' in answer.headers["Content-Disposition"]
        part = server.get(row["url"], headers={"Range": "bytes=0-9"})
        assert part.status_code == 206 and part.content == answer.content[:10]
        assert server.get(row["url"], headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
        assert server.request("HEAD", row["url"]).headers["Content-Length"] == str(len(answer.content))
    assert_problem(server.get(f"/v1/jobs/{job['id']}/artifacts/other.bin"), 404, "artifact_not_found")
    assert_problem(server.get(f"/v1/jobs/{job['id']}/artifacts/..%2F..%2Fsinter.sqlite"), 404)


def test_the_reports_agree_with_the_result(server, pruned):
    report = json.loads(server.artifact(pruned, "report.json"))
    text = json.dumps(report)
    for figure in (pruned["result"]["after"]["parameters"], pruned["result"]["after"]["macs"]):
        assert str(figure) in text
    page = server.artifact(pruned, "report.html").decode()
    assert page.lstrip().lower().startswith("<!doctype html>")
    # Self-contained: nothing is fetched from anywhere.
    for word in ('src="http', "src='http", 'href="http', "@import", "url(http"):
        assert word not in page


def test_a_pruned_model_is_smaller_valid_and_keeps_its_face(server, pruned, digits_model):
    content = server.artifact(pruned, "model.onnx")
    model, original = onnx.load_from_string(content), onnx.load(DIGITS_CNN)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input == original.graph.input and model.graph.output == original.graph.output
    assert model.opset_import == original.opset_import
    result = pruned["result"]
    assert result["after"]["macs"] <= 0.5 * result["before"]["macs"]
    assert result["change"]["macs_ratio"] == pytest.approx(result["after"]["macs"] / result["before"]["macs"])
    assert result["change"]["size_ratio"] == pytest.approx(len(content) / DIGITS_CNN.stat().st_size)
    outcome = result["prune"]
    assert outcome["asked"] == {"macs_ratio": 0.5}
    assert outcome["reached"]["macs_ratio"] == pytest.approx(result["change"]["macs_ratio"])
    assert sum(l["macs_after"] for l in outcome["layers"]) == result["after"]["macs"]
    assert sum(l["parameters_before"] for l in outcome["layers"]) == result["before"]["parameters"]
    assert [blocked["layer"] for blocked in outcome["blocked"]] == ["/head/Gemm"]


# Plans.


def test_a_plan_says_what_the_job_then_does_and_queues_nothing(server, digits_model, digits):
    params = {"target": {"macs_ratio": 0.4}, "round_to": 4}
    jobs = len(server.all_rows("/v1/jobs"))
    body = {"kind": "prune", "model": digits_model["id"], "params": params}
    answer = server.post("/v1/jobs", json={**body, "dry_run": True})
    assert answer.status_code == 200, answer.text
    assert "Location" not in answer.headers
    assert len(server.all_rows("/v1/jobs")) == jobs
    assert answer.json()["kind"] == "prune"
    plan = answer.json()["plan"]
    summary = digits_model["summary"]
    assert plan["before"] == {key: summary[key] for key in ("parameters", "nonzero_parameters", "macs")}
    assert plan["after"]["macs"] <= 0.4 * summary["macs"]
    job = server.run("prune", digits_model, digits, params, data=SCALE)
    after = job["result"]["after"]
    assert {key: after[key] for key in plan["after"]} == plan["after"]
    # What a job measures on the way is not planned.
    assert {**job["result"]["prune"], "stages": []} == plan["outcome"]
    content = onnx.load_from_string(server.artifact(job, "model.onnx"))
    kept = [t.dims[0] for t in content.graph.initializer if len(t.dims) == 4]
    assert kept and all(count % 4 == 0 for count in kept)


def test_a_plan_of_weights_counts_the_zeros(server, digits_model):
    body = {"kind": "prune", "model": digits_model["id"], "dry_run": True,
            "params": {"granularity": "weight", "target": {"sparsity": 0.75}}}
    answer = server.post("/v1/jobs", json=body)
    assert answer.status_code == 200, answer.text
    plan = answer.json()["plan"]
    assert plan["after"]["parameters"] == plan["before"]["parameters"]
    assert plan["after"]["macs"] == plan["before"]["macs"]
    assert plan["outcome"]["reached"]["sparsity"] == pytest.approx(0.75, abs=0.001)
    assert plan["after"]["nonzero_parameters"] < 0.3 * plan["before"]["parameters"]


def test_a_pruning_without_data_has_no_metrics(server, digits_model):
    job = server.run("prune", digits_model, params={"target": {"channel_sparsity": 0.3}})
    result = job["result"]
    assert result["before"]["metrics"] == result["after"]["metrics"] == {}
    assert result["environment"]["data"] is None
    assert result["after"]["parameters"] < result["before"]["parameters"]


def test_a_layer_that_is_excluded_keeps_all_its_weights(server, digits_model):
    params = {"target": {"channel_sparsity": 0.3}, "exclude": ["/conv2/*"]}
    job = server.run("prune", digits_model, params=params)
    content = onnx.load_from_string(server.artifact(job, "model.onnx"))
    original = onnx.load(DIGITS_CNN)

    def weight(model, name):
        node = next(node for node in model.graph.node if node.name == name)
        return next(t for t in model.graph.initializer if t.name == node.input[1])

    # It keeps its outputs and, as its inputs are the outputs of another layer, that layer does too.
    assert weight(content, "/conv2/Conv").raw_data == weight(original, "/conv2/Conv").raw_data
    assert list(weight(content, "/conv1/Conv").dims) == [16, 1, 3, 3]
    assert weight(content, "/conv3/Conv").dims[0] < 64 or weight(content, "/hidden/Gemm").dims[0] < 64
    blocked = {entry["layer"]: entry["reason"] for entry in job["result"]["prune"]["blocked"]}
    assert "exclude" in blocked["/conv2/Conv"]


# Cancel, retry, delete.


def test_a_queued_job_is_canceled_at_once_and_again_without_harm(busy):
    job = queue_one(busy)
    for _ in range(2):
        answer = busy.post(f"/v1/jobs/{job['id']}/cancel")
        assert answer.status_code == 202 and answer.json()["status"] == "canceled"
    assert busy.job(job)["finished_at"] is not None


def test_canceling_or_retrying_a_succeeded_job_is_409(server, trained):
    assert_problem(server.post(f"/v1/jobs/{trained['id']}/cancel"), 409, "job_already_ended", says="succeeded")
    assert_problem(server.post(f"/v1/jobs/{trained['id']}/retry"), 409, "job_not_retryable", says="succeeded")


def test_a_queued_or_running_job_can_not_be_retried_or_deleted(busy):
    for job in (queue_one(busy), busy.long):
        assert_problem(busy.post(f"/v1/jobs/{job['id']}/retry"), 409, "job_not_retryable")
        assert_problem(busy.delete(f"/v1/jobs/{job['id']}"), 409, "job_not_ended")


def test_a_canceled_job_can_be_retried(busy):
    job = queue_one(busy)
    busy.post(f"/v1/jobs/{job['id']}/cancel")
    answer = busy.post(f"/v1/jobs/{job['id']}/retry")
    assert answer.status_code == 202 and answer.json()["status"] == "queued"
    assert answer.json()["id"] == job["id"] and answer.json()["finished_at"] is None
    busy.post(f"/v1/jobs/{job['id']}/cancel")


def test_a_job_whose_model_was_deleted_can_not_be_retried(busy):
    model = busy.upload_model(models.mlp(), "short-lived")
    job = busy.submit("prune", model, params={"granularity": "weight", "target": {"sparsity": 0.5}})
    assert_problem(busy.delete(f"/v1/models/{model['id']}"), 409, "model_in_use")
    busy.post(f"/v1/jobs/{job['id']}/cancel")
    assert busy.delete(f"/v1/models/{model['id']}").status_code == 204
    assert_problem(busy.post(f"/v1/jobs/{job['id']}/retry"), 409, "model_not_found")
    assert busy.job(job)["status"] == "canceled"


def test_what_an_unfinished_job_needs_can_not_be_deleted(busy):
    assert_problem(busy.delete(f"/v1/models/{busy.model['id']}"), 409, "model_in_use")
    assert_problem(busy.delete(f"/v1/datasets/{busy.data['id']}"), 409, "dataset_in_use")
    assert busy.job(busy.long)["status"] == "running"


def test_a_deleted_job_goes_with_what_only_it_holds_and_its_model_stays(start_server):
    server = start_server()
    model = server.upload_model(DIGITS_CNN, "cnn")
    job = server.run("prune", model, params={"target": {"macs_ratio": 0.5}})
    made = job["result"]["model"]
    digests = {row["name"]: row["digest"].removeprefix("sha256:") for row in
               server.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]}
    assert server.delete(f"/v1/jobs/{job['id']}").status_code == 204
    for path in ("", "/events", "/metrics", "/artifacts", "/artifacts/model.onnx"):
        assert_problem(server.get(f"/v1/jobs/{job['id']}{path}"), 404, "job_not_found")
    assert_problem(server.delete(f"/v1/jobs/{job['id']}"), 404, "job_not_found")
    left = {path.removeprefix("blobs/").replace("/", "") for path in server.stored_files() if path.startswith("blobs")}
    assert left == {model["digest"].removeprefix("sha256:"), digests["model.onnx"]}
    kept = server.get(f"/v1/models/{made}").json()
    assert kept["job_id"] is None and kept["parent_id"] == model["id"]
    assert hashlib.sha256(server.model_content(made)).hexdigest() == digests["model.onnx"]
    assert server.delete(f"/v1/models/{model['id']}").status_code == 204
    assert server.get(f"/v1/models/{made}").json()["parent_id"] is None


def test_a_model_that_a_job_made_can_be_deleted_and_the_jobs_files_stay(start_server):
    server = start_server()
    model = server.upload_model(DIGITS_CNN, "cnn")
    job = server.run("prune", model, params={"target": {"macs_ratio": 0.5}})
    assert server.delete(f"/v1/models/{job['result']['model']}").status_code == 204
    assert len(server.artifact(job, "model.onnx")) == job["result"]["after"]["size_bytes"]
    assert server.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert len([path for path in server.stored_files() if path.startswith("blobs")]) == 1


def test_a_job_over_its_time_fails_and_says_so(server, digits_model, digits):
    job = server.submit("train", digits_model, digits, LONG, data=SCALE, timeout_seconds=1, max_attempts=1)
    ended = server.wait(job, timeout=30)
    assert ended["status"] == "failed" and ended["result"] is None
    assert "1 s" in ended["error"]["detail"] or "time" in ended["error"]["code"], ended["error"]
    assert server.events(job)[-1]["type"] == "job_failed"
    assert server.get(f"/v1/jobs/{job['id']}/artifacts").json() == {"data": []}


def test_a_failed_jobs_error_has_the_same_form_as_any_problem(server, digits_model):
    job = server.wait(server.submit("prune", digits_model, params={"target": {"latency_ratio": 0.001}}))
    error = job["error"]
    assert {"type", "title", "status", "detail", "instance", "code"} <= set(error)
    assert error["type"] == f"/docs/problems#{error['code']}"
    assert error["instance"] == f"/v1/jobs/{job['id']}"
    assert error["code"] in server.get("/docs/problems").text


# Dry runs.


def test_what_a_job_of_each_kind_would_do_is_told(server, digits_model, digits):
    def plan(kind, **params):
        body = {"kind": kind, "model": digits_model["id"], "dataset": digits["id"], "params": params, "dry_run": True,
                "data": {"preprocess": {"scale": 0.0625}}}
        answer = server.post("/v1/jobs", json=body)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["kind"] == kind and told["data"]["splits"] == {"train": 1293, "validation": 144, "test": 360}
        assert told["data"]["prepared"] == ["`input` gets `x`: as [1, 8, 8]; divided by 16", "`logits` is held against `y`"]
        return told

    before = server.get("/v1/jobs", params={"limit": 100}).json()["data"]
    own = {"parameters": 40618, "nonzero_parameters": 40618, "macs": 616064}
    trained = plan("train", epochs=3)
    # 21 batches of 64.
    assert trained["plan"] == {"cost": own, "epochs": 3, "weights": "keep"} and trained["steps"] == 3 * 20
    measured = plan("evaluate")
    assert measured["plan"] == {"cost": own, "metrics": ["loss", "accuracy"], "test_examples": 360} and measured["steps"] == 0
    losses = [{"name": "soft_targets"}, {"name": "attention_transfer"}]
    taught = plan("distill", student={"width": 0.5}, losses=losses, finetune={"epochs": 2}, control=True)
    assert taught["steps"] == 2 * 2 * 20 and taught["plan"]["teacher"] == own and taught["plan"]["control"]
    pairs = taught["plan"]["losses"][1]["pairs"]
    assert [pair["teacher_shape"][0] for pair in pairs] == [2 * pair["student_shape"][0] for pair in pairs]
    steps = [{"kind": "prune", "params": {"target": {"macs_ratio": 0.5}, "finetune": {"epochs": 1}}},
             {"kind": "distill", "params": {"teacher": "original", "finetune": {"epochs": 2}}}, {"kind": "evaluate"}]
    piped = plan("pipeline", steps=steps)
    cut, taught_back, last = (step["plan"] for step in piped["plan"]["steps"])
    assert [step["kind"] for step in piped["plan"]["steps"]] == ["prune", "distill", "evaluate"] and piped["steps"] == 3 * 20
    # Each step is planned on what the one before would leave.
    assert cut["after"]["macs"] <= own["macs"] / 2 and taught_back["teacher"] == own
    assert taught_back["student"] == cut["after"] == last["cost"]
    assert server.get("/v1/jobs", params={"limit": 100}).json()["data"] == before
    # And so does the job.
    done = server.run("distill", digits_model, digits, {"student": {"width": 0.5}, "losses": losses, "finetune": {"epochs": 1}},
                      data={"preprocess": {"scale": 0.0625}})["result"]
    assert {name: done["after"][name] for name in own} == taught["plan"]["student"]
    assert done["distill"]["losses"] == taught["plan"]["losses"]


def test_a_plan_refuses_what_the_job_would(server, digits_model, digits):
    body = {"model": digits_model["id"], "dataset": digits["id"], "dry_run": True}
    drop = {"target": {"max_accuracy_drop": 0.01}}
    steps = {"steps": [{"kind": "train", "params": {"epochs": 1}}, {"kind": "prune", "params": drop}]}
    for kind, params in (("prune", drop), ("pipeline", steps)):
        assert_problem(server.post("/v1/jobs", json={**body, "kind": kind, "params": params}), 422, pointer="/dry_run")
    losses = [{"name": "feature", "pairs": [["nowhere", "nowhere"]]}]
    params = {"student": {"width": 0.5}, "losses": losses}
    answer = server.post("/v1/jobs", json={**body, "kind": "distill", "params": params})
    assert_problem(answer, 422, "tensor_not_found", pointer="/params/losses/0/pairs")
    far = {"steps": [{"kind": "evaluate"}, {"kind": "prune", "params": {"target": {"macs_ratio": 0.0001}}}]}
    answer = server.post("/v1/jobs", json={**body, "kind": "pipeline", "params": far})
    assert_problem(answer, 422, "target_unreachable", pointer="/params/steps/1/params/target/macs_ratio")
