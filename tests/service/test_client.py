"""The Python client, over a real server and over connections that break; what a generator makes of the document; the
examples for other platforms."""

import contextlib
import hashlib
import importlib
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import types as python_types

import numpy as np
import onnxruntime
import pytest
import yaml

from conftest import DIGITS, DIGITS_CNN, ROOT, clean_environment
from lifecycle_tools import ENDLESS, TRAINING, event_types
from test_access import new_key

CLIENT = ROOT / "clients" / "python"
PLATFORMS = ROOT / "examples" / "platforms"
sys.path.insert(0, str(CLIENT))

from sinter_client import (  # noqa: E402
    ApiError, Client, ConnectionLost, DigestMismatch, JobCanceled, JobFailed, SinterError, SinterWarning, UnknownName,
    _transfer)

# pytest-xdist hands warnings over by their class, which the process that gathers them can't import.
pytestmark = pytest.mark.filterwarnings("ignore::sinter_client.SinterWarning")

SCALED = {"preprocess": {"scale": 0.0625}}
PRUNING = {"granularity": "channel", "target": {"macs_ratio": 0.5}, "finetune": {"epochs": 2}}


class Proxy:
    """Stands between a client and a server, and disturbs their connections by rules, each once.

    A rule is `(marker, direction, bytes, what)`: on the first connection on which the client says the marker, after so
    many more bytes in the direction ("up" to the server or "down" to the client) `what` happens: "cut" ends the
    connection, "flip" changes a byte.
    """

    def __init__(self, server, *rules):
        self.server, self.rules, self.lock = server, list(rules), threading.Lock()
        # What clients have said, one entry a connection.
        self.said = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self.said.append(bytearray())
                try:
                    # Asked each time: a server that is started again has no address for a while, and then another.
                    host, _, port = (self.server.url or "http://127.0.0.1:1").removeprefix("http://").partition(":")
                    upstream = socket.create_connection((host, int(port)))
                except OSError:
                    client.close()
                    continue
                ends = {"up": (client, upstream), "down": (upstream, client)}
                armed = []
                for direction in ends:
                    threading.Thread(target=self.pump, args=(ends, direction, self.said[-1], armed), daemon=True).start()

    def pump(self, ends, direction, said, armed):
        source, sink = ends[direction]
        with contextlib.suppress(OSError):
            while chunk := source.recv(4096):
                if direction == "up":
                    self.arm(said, chunk, armed)
                if not self.pass_on(sink, direction, chunk, armed):
                    break
        for end in ends["up"]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def arm(self, said, chunk, armed):
        """Puts a rule in force whose marker has just been said."""
        with self.lock:
            before = len(said)
            said += chunk
            for rule in list(self.rules):
                if said.find(rule[0], max(0, before - len(rule[0]) + 1)) >= 0:
                    self.rules.remove(rule)
                    armed.append(list(rule))
                    return

    def pass_on(self, sink, direction, chunk, armed):
        """Sends a chunk on; False when the connection is to end."""
        for rule in armed:
            if rule[1] != direction:
                continue
            if len(chunk) <= rule[2]:
                rule[2] -= len(chunk)
                continue
            armed.remove(rule)
            if rule[3] == "cut":
                sink.sendall(chunk[:rule[2]])
                return False
            chunk = chunk[:rule[2]] + bytes([chunk[rule[2]] ^ 1]) + chunk[rule[2] + 1:]
            break
        sink.sendall(chunk)
        return True

    def heard(self, pattern):
        """Everything that clients have said and the pattern finds."""
        return [match for said in self.said for match in re.findall(pattern, bytes(said))]

    def close(self):
        # Closing alone would leave the thread where it waits.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@pytest.fixture
def proxied():
    """Makes a proxy before a server and a client that knows the proxy alone."""
    with contextlib.ExitStack() as stack:
        def make(server, *rules, **options):
            proxy = Proxy(server, *rules)
            stack.callback(proxy.close)
            return proxy, stack.enter_context(Client(proxy.url, **options))

        yield make


@pytest.fixture
def client(server):
    with Client(server.url) as client:
        yield client


@pytest.fixture
def pause_less(monkeypatch):
    """Tries follow each other quickly."""
    monkeypatch.setattr("sinter_client._connection.LONGEST_PAUSE", 0.5)


def digest_of(path):
    return "sha256:" + hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def accuracy_in_onnx_runtime(path):
    """On the digits' test split, with the example data's own scaling."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with np.load(DIGITS) as data:
        pictures, labels = data["x_test"], data["y_test"]
    wanted = session.get_inputs()[0]
    pictures = (pictures.astype(np.float32) * 0.0625).reshape(-1, *wanted.shape[1:])
    (scores,) = session.run(None, {wanted.name: pictures})
    return float(np.mean(scores.argmax(axis=1) == labels))


# A job, from the upload to the file.


def test_a_model_is_pruned_downloaded_and_runs_elsewhere(client, tmp_path):
    model = client.upload_model(DIGITS_CNN, name="to be pruned", tags={"team": "vision"})
    data = client.upload_dataset(str(DIGITS), progress=False)
    assert model["digest"] == digest_of(DIGITS_CNN) and model["tags"] == {"team": "vision"}
    assert data["name"] == "digits" and data["splits"]["test"] == 360
    job = client.submit("prune", model, data["id"], PRUNING, data=SCALED, name="half", tags={"test": "client"}, seed=7)
    assert job.wait(timeout=120) is job and job.status == "succeeded"
    assert job.data["name"] == "half" and job.data["request"]["seed"] == 7
    assert job.result["change"]["macs_ratio"] <= 0.5
    path = job.download("model.onnx", tmp_path)
    assert path == tmp_path / "model.onnx"
    listed = {artifact["name"]: artifact for artifact in job.artifacts()}
    assert digest_of(path) == listed["model.onnx"]["digest"]
    assert accuracy_in_onnx_runtime(path) == pytest.approx(job.result["after"]["metrics"]["accuracy"], abs=1e-6)
    made = client.model(job.result["model"])
    assert client.download_model(made, tmp_path / "again.onnx").read_bytes() == path.read_bytes()
    assert client.download_model(made, tmp_path) == tmp_path / f"{made['name']}.onnx"
    curve = job.metrics()["validation/accuracy"]
    assert curve[-1]["value"] > 0.9 and [point["step"] for point in curve] == sorted(point["step"] for point in curve)
    assert [event["type"] for event in job.events()][-1] == "job_succeeded"
    assert sum(layer["macs"] for layer in client.layers(made)) == made["summary"]["macs"]
    job.delete()
    with pytest.raises(ApiError) as gone:
        client.job(job.id)
    assert (gone.value.status, gone.value.code) == (404, "job_not_found")


def test_a_plan_costs_what_the_job_then_does(client):
    model = client.upload_model(DIGITS_CNN, progress=False)
    data = client.upload_dataset(DIGITS, progress=False)
    plan = client.plan("prune", model, data, PRUNING)
    with pytest.raises(TypeError, match="plan"):
        client.submit("prune", model, data, PRUNING, dry_run=True)
    job = client.submit("prune", model, data, PRUNING).wait(progress=False)
    assert plan["after"]["macs"] == job.result["after"]["macs"]


def test_each_kind_of_job_has_a_plan(client):
    model, data = client.upload_model(DIGITS_CNN), client.upload_dataset(DIGITS)
    taught = client.plan("distill", model, data, {"student": {"width": 0.5}}, data=SCALED)
    assert taught["student"]["macs"] < taught["teacher"]["macs"]
    dry = client.dry_run("distill", model, data, {"student": {"width": 0.5}}, data=SCALED)
    assert dry["plan"] == taught and dry["steps"] > 0 and dry["data"]["inputs"][0]["scale"] == SCALED["preprocess"]["scale"]
    piped = client.plan("pipeline", model, data, {"steps": [{"kind": "prune", "params": PRUNING}, {"kind": "evaluate"}]}, data=SCALED)
    assert [step["kind"] for step in piped["steps"]] == ["prune", "evaluate"]


def test_a_model_says_what_it_takes_examples_for(client, tmp_path):
    model, data = client.upload_model(DIGITS_CNN), client.upload_dataset(DIGITS)
    said = client.predict(model, examples=range(8), split="test", dataset=data, preprocess={"scale": 0.0625})
    assert sum(top[0]["label"] == one["value"] for top, one in zip(said["top"], said["targets"], strict=True)) >= 7
    zeros = client.predict(model, inputs={"input": np.zeros((2, 1, 8, 8), np.float32)})
    assert zeros["outputs"][0]["shape"] == [2, 10]
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"inputs": {"input": np.zeros((2, 1, 8, 8)).tolist()}}))
    assert client.predict(model, body) == zeros
    for wrong in ({}, {"file": body, "texts": ["a"]}):
        with pytest.raises(TypeError, match="one of"):
            client.predict(model, **wrong)
    with pytest.raises(TypeError, match="list of strings"):
        client.predict(model, texts="a text")
    assert client.predict(model, examples=np.array([0, 1]), dataset=data)["targets"][0]["value"] == said["targets"][0]["value"]


def test_data_sets_are_folders_and_several_files(client, tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for n in range(12):
            (tmp_path / "pets" / name / f"{n}.txt").write_text(f"{name} {n}")
    pets = client.upload_dataset(tmp_path / "pets", classes=["dogs", "cats"])
    assert (pets["name"], pets["splits"]["train"], pets["target"]["class_names"]) == ("pets", 24, ["dogs", "cats"])
    back = client.read_again(pets, classes=["cats", "dogs"])
    assert back["target"]["class_names"] == ["cats", "dogs"]
    paths = []
    for split, count in (("train", 30), ("test", 10)):
        paths.append(tmp_path / f"{split}.csv")
        paths[-1].write_text("a,b,label\n" + "".join(f"{n},{n},{n % 2}\n" for n in range(count)))
    both = client.upload_dataset(paths, "both")
    assert both["splits"] == {"train": 30, "test": 10}
    with pytest.raises(ApiError, match="tokenizer.json"):
        client.upload_model(DIGITS_CNN, tokenizer=broken(tmp_path))


def broken(folder):
    path = folder / "tokenizer.json"
    path.write_text("{}")
    return path


def test_a_job_that_fails_raises_what_the_server_says(client):
    model, data = client.upload_model(DIGITS_CNN, progress=False), client.upload_dataset(DIGITS, progress=False)
    job = client.submit("train", model, data, ENDLESS, timeout_seconds=1)
    with pytest.raises(JobFailed, match="timed_out") as failure:
        job.wait(progress=False, timeout=60)
    assert failure.value.code == "timed_out" and failure.value.job is job
    assert failure.value.problem == job.error and failure.value.detail == job.error["detail"]


def test_a_request_that_is_refused_points_at_its_fields(client):
    model = client.upload_model(DIGITS_CNN, progress=False)
    with pytest.raises(ApiError) as refused:
        client.submit("prune", model, params={"target": {"macs_ratio": 2}, "round_to": -1})
    error = refused.value
    assert (error.status, error.code) == (422, "invalid_request")
    assert all(fault["pointer"].startswith("/params/") for fault in error.errors) and error.errors
    assert error.request_id and error.request_id in str(error)
    assert str(error).count("/params/target/macs_ratio") == 1 and str(error).count("/params/round_to") == 1
    assert isinstance(error, SinterError)


def test_a_job_is_canceled_and_queued_again(client):
    model, data = client.upload_model(DIGITS_CNN, progress=False), client.upload_dataset(DIGITS, progress=False)
    job = client.submit("train", model, data, ENDLESS)
    with pytest.raises(TimeoutError, match=job.id):
        job.wait(timeout=1)
    assert job.cancel().status in ("canceling", "canceled")
    with pytest.raises(JobCanceled) as canceled:
        job.wait(progress=False, timeout=60)
    assert canceled.value.job.id == job.id
    assert job.retry().status in ("queued", "running")
    job.cancel()
    with pytest.raises(JobCanceled):
        job.wait(progress=False, timeout=60)


def test_a_model_in_two_files_is_uploaded_whole(client, tmp_path):
    import onnx

    weights = tmp_path / "parts" / "weights.bin"
    weights.parent.mkdir()
    onnx.save_model(onnx.load(DIGITS_CNN), tmp_path / "digits.onnx", save_as_external_data=True,
                    location="parts/weights.bin", size_threshold=0)
    with pytest.raises(ApiError) as alone:
        client.upload_model(tmp_path / "digits.onnx", progress=False)
    assert alone.value.code == "external_data_missing"
    model = client.upload_model(tmp_path / "digits.onnx", external_data=[weights], progress=False)
    assert model["summary"]["parameters"] == client.upload_model(DIGITS_CNN, progress=False)["summary"]["parameters"]


# Connections that break.


@pytest.mark.parametrize("upload, route", [
    (lambda client, name: client.upload_model(DIGITS_CNN, name=name), b"models"),
    (lambda client, name: client.upload_dataset(DIGITS, name=name), b"datasets")], ids=["model", "data set"])
def test_an_upload_that_is_cut_goes_on_where_it_was(server, proxied, pause_less, upload, route):
    proxy, client = proxied(server, (b"PATCH", "up", 20_000, "cut"), (b"PATCH", "up", 10_000, "cut"))
    made = upload(client, "cut twice")
    assert made["digest"] == digest_of(DIGITS_CNN if route == b"models" else DIGITS)
    offsets = [int(offset) for offset in proxy.heard(rb"(?i)upload-offset: (\d+)")]
    # Cut for the second time, the upload may not have moved on: the server may still have been at what was cut first.
    assert offsets[0] == 0 and offsets == sorted(offsets) and 15_000 < offsets[-1] <= 30_000 and not proxy.rules
    assert len(proxy.heard(rb"POST /v1/" + route)) == 1
    # What arrived is not sent again.
    lengths = [int(length) for length in proxy.heard(rb"(?i)content-length: (\d+)")]
    assert offsets[-1] + lengths[-1] == (DIGITS_CNN if route == b"models" else DIGITS).stat().st_size


def test_an_upload_whose_answer_was_lost_is_there_once(server, proxied, pause_less):
    proxy, client = proxied(server, (b"PATCH", "down", 0, "cut"))
    made = client.upload_model(DIGITS_CNN, name="answer lost")
    assert made["digest"] == digest_of(DIGITS_CNN) and not proxy.rules
    assert [model["id"] for model in client.models() if model["name"] == "answer lost"] == [made["id"]]


def test_a_form_whose_answer_was_lost_is_there_once(server, proxied, pause_less):
    proxy, client = proxied(server, (b"POST /v1/models", "up", 50_000, "cut"), (b"POST /v1/models", "down", 0, "cut"))
    made = client.upload_model(DIGITS_CNN, name="form lost", tags={"a": "b"})
    assert made["digest"] == digest_of(DIGITS_CNN) and made["tags"] == {"a": "b"} and not proxy.rules
    assert [model["id"] for model in client.models() if model["name"] == "form lost"] == [made["id"]]


def test_a_file_that_is_refused_is_refused_after_a_cut_too(server, proxied, pause_less, tmp_path):
    path = tmp_path / "no model.onnx"
    path.write_bytes(b"no model" * 10_000)
    _, client = proxied(server, (b"PATCH", "down", 0, "cut"))
    with pytest.raises(ApiError) as refused:
        client.upload_model(path)
    assert (refused.value.status, refused.value.code) == (422, "invalid_model")


def test_a_job_is_queued_once_however_often_the_connection_breaks(server, proxied, pause_less, digits_model, digits):
    rules = [(b"POST /v1/jobs", "up", 100, "cut"), (b"POST /v1/jobs", "down", 0, "cut"),
             (b"POST /v1/jobs", "down", 10, "cut"), (b"POST /v1/jobs", "down", 300, "cut")]
    proxy, client = proxied(server, *rules)
    # So that it is no first request, which is tried less often.
    client.request("GET", "/healthz")
    job = client.submit("evaluate", digits_model, digits, data=SCALED, tags={"case": "once"})
    assert len(proxy.heard(rb"POST /v1/jobs")) == 5 and not proxy.rules
    assert len(set(proxy.heard(rb"(?i)idempotency-key: (\S+)"))) == 1
    assert [each.id for each in client.jobs(tag="case:once")] == [job.id]
    again = client.submit("evaluate", digits_model, digits, data=SCALED, tags={"case": "once"})
    assert again.id != job.id
    named = {client.submit("evaluate", digits_model, digits, idempotency_key="release 7").id for _ in range(2)}
    assert len(named) == 1


def test_a_retry_whose_answer_was_lost_is_not_sent_again(server, proxied, pause_less, digits_model, digits):
    proxy, client = proxied(server, (b"/retry", "down", 0, "cut"))
    job = client.submit("train", digits_model, digits, ENDLESS).cancel()
    with pytest.raises(JobCanceled):
        job.wait(progress=False, timeout=60)
    with pytest.raises(ConnectionLost):
        job.retry()
    assert len(proxy.heard(rb"POST \S+/retry")) == 1
    assert job.refresh().status in ("queued", "running")
    job.cancel()


def test_a_download_that_is_cut_goes_on_and_is_verified(server, proxied, pause_less, digits_model, tmp_path):
    proxy, client = proxied(server, (b"/content", "down", 40_000, "cut"), (b"/content", "down", 60_000, "cut"))
    path = client.download_model(digits_model, tmp_path / "model.onnx")
    assert digest_of(path) == digits_model["digest"]
    first, second = (int(offset) for offset in proxy.heard(rb"(?i)\nrange: bytes=(\d+)-"))
    assert 30_000 < first < 40_000 and 85_000 < second < 100_000
    assert list(tmp_path.iterdir()) == [path]


def test_a_download_that_was_changed_on_its_way_is_refused_and_leaves_what_was_there(
        server, proxied, digits_model, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_text("earlier")
    _, client = proxied(server, (b"/content", "down", 50_000, "flip"))
    with pytest.raises(DigestMismatch, match=digits_model["digest"].removeprefix("sha256:")):
        client.download_model(digits_model, path)
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]


def test_events_are_followed_over_cuts_each_once(server, proxied, pause_less, digits_model, digits):
    proxy, client = proxied(server, (b"text/event-stream", "down", 600, "cut"), (b"Last-Event-ID", "down", 500, "cut"))
    job = client.submit("train", digits_model, digits, TRAINING, data=SCALED)
    followed = list(job.events(follow=True))
    assert followed == list(job.events()) and followed[-1]["type"] == "job_succeeded"
    assert [event["id"] for event in followed] == sorted({event["id"] for event in followed})
    assert proxy.heard(rb"(?i)last-event-id: (\d+)") and not proxy.rules
    assert list(job.events(follow=True, after=followed[0]["id"])) == followed[1:]
    assert list(job.events(after=followed[-2]["id"])) == followed[-1:]


def test_a_job_that_is_waited_for_outlives_a_restart_of_the_server(start_server, proxied, capsys):
    server = start_server()
    _, client = proxied(server)
    model, data = client.upload_model(DIGITS_CNN, progress=False), client.upload_dataset(DIGITS, progress=False)
    job = client.submit("train", model, data, {"epochs": 12, "weights": "reinitialize"}, name="long")

    def disturb():
        server.wait_for(job.id, lambda job: job["status"] == "running")
        server.kill()
        time.sleep(1)
        server.start()

    disturbing = threading.Thread(target=disturb)
    disturbing.start()
    job.wait(timeout=120)
    disturbing.join()
    assert job.status == "succeeded" and "requeued" in event_types(server, job.data)
    assert "long: 100%" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_told_soon():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        began = time.monotonic()
        with Client(f"http://127.0.0.1:{taken.getsockname()[1]}") as client, pytest.raises(ConnectionLost) as lost:
            client.upload_model(DIGITS_CNN, progress=False)
    # With all the tries of one that was there before it would be half a minute.
    assert time.monotonic() - began < 15 and lost.value.__cause__ is not None


def test_a_rate_is_kept_to(start_server):
    server = start_server("--requests-per-minute", "60")
    with Client(server.url, new_key(server)) as client:
        began = time.monotonic()
        for _ in range(62):
            client.request("GET", "/v1/devices")
        assert time.monotonic() - began > 0.9


# Lists, keys, threads.


def test_lists_are_walked_through_all_their_pages(start_server, monkeypatch):
    server = start_server()
    monkeypatch.setattr(_transfer, "PAGE_ROWS", 2)
    with Client(server.url) as client:
        models = [client.upload_model(DIGITS_CNN, name=f"m{number}", progress=False) for number in range(5)]
        data = client.upload_dataset(DIGITS, progress=False)
        assert list(client.models()) == models[::-1] and list(client.datasets()) == [data]
        jobs = [client.submit("evaluate", model, data, data=SCALED, tags={"n": str(number % 2)})
                for number, model in enumerate(models)]
        assert [job.id for job in client.jobs()] == [job.id for job in jobs[::-1]]
        assert [job.id for job in client.jobs(tag="n:1")] == [jobs[3].id, jobs[1].id]
        assert [job.id for job in client.jobs(kind="evaluate", model=models[0])] == [jobs[0].id]
        assert list(client.jobs(kind="prune")) == []
        ended = jobs[0].wait(progress=False)
        assert len(list(ended.events())) > 2
        jobs[1].wait(progress=False), jobs[1].delete()
        client.delete_model(models[1])
        assert [model["name"] for model in client.models()] == ["m4", "m3", "m2", "m0"]


def test_models_and_data_sets_go_by_their_names(client):
    model = client.upload_model(DIGITS_CNN, name="by its name", progress=False)
    data = client.upload_dataset(DIGITS, name="data by its name", progress=False)
    job = client.submit("evaluate", "by its name", "data by its name", data=SCALED, name="of that name").wait(progress=False)
    assert (job.data["request"]["model"], job.data["request"]["dataset"]) == (model["id"], data["id"])
    assert [each.id for each in client.jobs(dataset="data by its name")] == [job.id]
    assert [each.id for each in client.jobs(name="of that name", model=model)] == [job.id]
    assert next(client.models(digest=model["digest"]))["id"] == model["id"]
    newer = client.upload_model(DIGITS_CNN, name="by its name", progress=False)
    assert client.model("by its name") == newer
    changed = client.change_model(newer, name="another", tags={"team": "vision"})
    assert client.model("another") == changed and client.model("by its name") == model
    assert client.change_dataset(data, name="numbers")["name"] == "numbers"
    assert [node["operator"] for node in client.graph(model)][:3] == ["Conv", "BatchNormalization", "Relu"]
    assert {layer["name"] for layer in client.layers("another")} <= {node["name"] for node in client.graph("another")}
    assert client.job("of that name").id == job.id
    client.upload_model(DIGITS_CNN, name="a student", progress=False)
    steps = [{"kind": "prune", "params": {"target": {"macs_ratio": 0.5}, "finetune": None}},
             {"kind": "distill", "params": {"student": {"model": "a student"}, "teachers": ["another"], "finetune": {"epochs": 1}}}]
    piped = client.submit("pipeline", model, "numbers", {"steps": steps}, data=SCALED)
    distil = piped.data["request"]["params"]["steps"][1]["params"]
    assert distil["student"]["model"] == client.model("a student")["id"] and distil["teachers"] == [newer["id"]]
    piped.cancel()
    read = client.read_again("numbers", "the same", target="y")
    assert read["name"] == "the same" and read["digest"] == data["digest"] and read["id"] != data["id"]
    assert client.upload_model(DIGITS_CNN, name="once more", progress=False, reuse=True)["digest"] == changed["digest"]
    assert len(list(client.models(name="once more"))) == 0
    with pytest.warns(SinterWarning, match="say so with `data.preprocess`"):
        assert client.submit("evaluate", model, data).wait(progress=False).warnings[0]["type"] == "inputs_on_another_scale"
    with pytest.raises(UnknownName, match="no data set that is called 'data by its name'"):
        client.submit("evaluate", model, "data by its name")


def test_a_server_with_keys_is_used_with_one(start_server, monkeypatch):
    server = start_server()
    key = new_key(server)
    with Client(server.url) as client, pytest.raises(ApiError) as refused:
        client.upload_model(DIGITS_CNN, progress=False)
    assert (refused.value.status, refused.value.code) == (401, "unauthorized")
    monkeypatch.setenv("SINTER_URL", server.url)
    monkeypatch.setenv("SINTER_KEY", key)
    with Client() as client:
        assert client.upload_model(DIGITS_CNN, progress=False)["name"] == "digits_cnn"


def test_threads_share_a_client(client, digits_model, digits):
    ended = []

    def work(number):
        job = client.submit("evaluate", digits_model, digits, data=SCALED, tags={"thread": str(number)})
        ended.append((number, job.wait(progress=False).data["request"]["tags"]["thread"]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == [(number, str(number)) for number in range(4)]


# The package, its shapes, its page.


def test_the_shapes_are_what_the_document_says():
    checked = subprocess.run([sys.executable, CLIENT / "generate", "--check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_the_package_is_built_and_installed(tmp_path):
    """From a copy, since building leaves files; without the network, since the environment has setuptools."""
    source = tmp_path / "source"
    shutil.copytree(CLIENT, source, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
                    "--target", tmp_path / "installed", source], check=True)
    code = "import sinter_client; print(sinter_client.__file__); sinter_client.Client().close()"
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path,
                         env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")})
    installed = pathlib.Path(ran.stdout.strip()).parent
    assert installed == tmp_path / "installed" / "sinter_client"
    assert (installed / "py.typed").exists() and (installed / "types.py").exists()


def python_blocks(page):
    return "\n".join(re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("page", [ROOT / "docs" / "clients.md", CLIENT / "README.md"], ids=lambda page: page.name)
def test_what_the_pages_show_runs(start_server, tmp_path, page):
    server = start_server()
    code = python_blocks(page)
    # Verifying a webhook needs a message; test_webhooks.py has some.
    code = code.split("from standardwebhooks import")[0]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300,
                         env=clean_environment({"SINTER_URL": server.url, "PYTHONPATH": str(CLIENT)}))
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "smaller.onnx").stat().st_size < DIGITS_CNN.stat().st_size
    if page.name == "clients.md":
        assert "['/params/target/mac_ratio']" in ran.stdout and "timed_out" in ran.stdout


# What a generator makes of the document.


def test_a_generated_client_uploads_submits_and_gets(server, tmp_path, monkeypatch):
    """`openapi-python-client` knows nothing of Sinter but its document."""
    (tmp_path / "settings.yaml").write_text("package_name_override: generated_client\npost_hooks: []\n")
    ran = subprocess.run([sys.executable, "-m", "openapi_python_client", "generate", "--path",
                          ROOT / "openapi" / "openapi.json", "--meta", "none", "--config", tmp_path / "settings.yaml",
                          "--output-path", tmp_path / "generated_client"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    monkeypatch.syspath_prepend(tmp_path)
    generated = importlib.import_module("generated_client")
    models = importlib.import_module("generated_client.models")
    binary = importlib.import_module("generated_client.types").File

    def call(name):
        return importlib.import_module(f"generated_client.api.{name}").sync

    with generated.Client(server.url) as client, DIGITS_CNN.open("rb") as model_file, DIGITS.open("rb") as data_file:
        model = call("models.create_model")(client=client, body=binary(model_file), name="generated")
        data = call("datasets.create_dataset")(client=client, body=binary(data_file), name="generated")
        assert isinstance(model, models.Model) and model.summary.parameters == 40_618
        assert isinstance(data, models.Dataset) and data.splits.train == 1437
        body = models.JobRequest(kind=models.JobKind.PRUNE, model=model.id, dataset=data.id,
                                 params=models.JobRequestParams.from_dict(PRUNING))
        job = call("jobs.create_job")(client=client, body=body, idempotency_key="generated")
        assert isinstance(job, models.Job)
        assert call("jobs.create_job")(client=client, body=body, idempotency_key="generated").id == job.id
        while job.status not in (models.JobStatus.SUCCEEDED, models.JobStatus.FAILED):
            job = call("jobs.get_job")(client=client, id=str(job.id), prefer="wait=30")
        assert job.status == models.JobStatus.SUCCEEDED, job.error
        assert job.result.change.macs_ratio <= 0.5
        smaller = call("models.get_model_content")(client=client, id=str(job.result.model)).payload.read()
        assert hashlib.sha256(smaller).hexdigest() == server.get(f"/v1/models/{job.result.model}").json()["digest"][7:]
        wrong = call("jobs.get_job")(client=client, id="none")
        assert isinstance(wrong, models.Problem) and wrong.code == "job_not_found"


# Other platforms.


@pytest.fixture
def keyed(start_server):
    """A server with a key, and a data set on it."""
    server = start_server()
    server.key = new_key(server)
    return server, server.upload_dataset()["id"]


def expanded(mapping, values):
    """Environment variables with the expressions of a platform replaced by values."""
    expression = re.compile(r"\$?\{\{\s*(\S+?)\s*\}\}")
    return {name: expression.sub(lambda found: values[found[1]], value) for name, value in mapping.items()}


@pytest.mark.parametrize("most_lost, ends", [("0.5", 0), ("-0.5", 1)])
def test_the_workflow_of_github_prunes_and_compares(keyed, tmp_path, most_lost, ends):
    server, dataset = keyed
    job = yaml.safe_load((PLATFORMS / "github-action.yaml").read_text(encoding="utf-8"))["jobs"]["prune"]
    values = {"vars.SINTER_URL": server.url, "vars.SINTER_DATASET": dataset, "secrets.SINTER_KEY": server.key,
              "github.event.release.tag_name": "v1.0 beta", "github.token": "none"}
    outer = {**expanded(job["env"], values), "MOST_ACCURACY_LOST": most_lost}
    runner = {"GITHUB_RUN_ID": "7", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"), "GITHUB_REPOSITORY": "me/net"}
    # The release of the model is the only thing that a runner has and this machine has not.
    shutil.copy(DIGITS_CNN, tmp_path / "model.onnx")
    fetch, *steps = [step for step in job["steps"] if "run" in step]
    assert fetch["run"].startswith("gh release download") and [step["name"] for step in steps] == [
        "Prune it", "Compare the accuracy"]
    statuses = []
    for step in steps:
        # Expressions in the text of a script would be run as a part of it.
        assert "${{" not in step["run"]
        environment = clean_environment({**runner, **outer, **expanded(step.get("env", {}), values)})
        ran = subprocess.run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]], cwd=tmp_path,
                             env=environment, capture_output=True, text=True, timeout=300)
        assert server.key not in ran.stdout + ran.stderr
        statuses.append(ran.returncode)
    assert statuses == [0, ends], ran.stdout + ran.stderr
    assert ("::error::the accuracy fell by" in ran.stdout) == bool(ends)
    assert accuracy_in_onnx_runtime(tmp_path / "pruned" / "model.onnx") > 0.9
    assert "accuracy" in (tmp_path / "summary.md").read_text()
    assert json.loads((tmp_path / "job.json").read_text())["name"] == "v1.0 beta"


def test_the_workflow_of_github_fails_with_its_job(keyed, tmp_path):
    server, dataset = keyed
    job = yaml.safe_load((PLATFORMS / "github-action.yaml").read_text(encoding="utf-8"))["jobs"]["prune"]
    step = next(step for step in job["steps"] if step["name"] == "Prune it")
    shutil.copy(DIGITS_CNN, tmp_path / "model.onnx")
    diverging = {"epochs": 5, "optimizer": {"name": "sgd", "learning_rate": 100}}
    params = {"target": {"macs_ratio": 0.5}, "finetune": diverging}
    ran = subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], cwd=tmp_path, capture_output=True, text=True,
                         timeout=300, env=clean_environment({
                             "GITHUB_RUN_ID": "8", "TAG": "v2", "SINTER_URL": server.url, "SINTER_DATASET": dataset,
                             "SINTER_KEY": server.key, "PARAMS": json.dumps(params), "DATA": json.dumps(SCALED)}))
    assert ran.returncode == 1 and "::error::failed training_diverged" in ran.stdout, ran.stdout + ran.stderr


def test_the_template_of_argo_prunes(keyed, tmp_path):
    server, dataset = keyed
    spec = yaml.safe_load((PLATFORMS / "argo-workflow.yaml").read_text(encoding="utf-8"))["spec"]
    template = next(each for each in spec["templates"] if each["name"] == "job")
    inputs = {each["name"]: each.get("value") for each in template["inputs"]["parameters"]}
    given = {"sinter-url": server.url, "dataset": dataset, "data": json.dumps(SCALED), "name": "sinter-x7"}
    values = {"workflow.uid": "0b1c", **{f"inputs.parameters.{name}": given.get(name, inputs[name]) for name in inputs}}
    script = template["script"]
    plain = {each["name"]: each["value"] for each in script["env"] if "value" in each}
    # The image's package manager; curl and jq are here.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "apk").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "apk").chmod(0o755)
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copy(DIGITS_CNN, folder / "model.onnx")
    assert "{{" not in script["source"]
    environment = clean_environment({**expanded(plain, values), "SINTER_KEY": server.key,
                                     "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"})
    for _ in range(2):
        # The second is a pod that was started again: it takes up the same job.
        ran = subprocess.run([*script["command"], "-c", script["source"]], cwd=folder, env=environment,
                             capture_output=True, text=True, timeout=300)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(server.all_rows("/v1/jobs")) == 1
    outputs = [template["outputs"]["parameters"][0]["valueFrom"]["path"],
               *(each["path"] for each in template["outputs"]["artifacts"])]
    assert all((folder / pathlib.Path(output).name).stat().st_size > 0 for output in outputs)
    accuracy = float((folder / "accuracy").read_text())
    assert accuracy_in_onnx_runtime(folder / "smaller.onnx") == pytest.approx(accuracy, abs=1e-6)


def test_the_component_of_kubeflow_prunes(keyed, tmp_path, monkeypatch):
    """The function that the component is made of; kfp itself is not installed here."""
    server, dataset = keyed
    kfp = python_types.ModuleType("kfp")
    kfp.compiler, kfp.kubernetes = None, None
    kfp.dsl = python_types.ModuleType("kfp.dsl")
    kfp.dsl.component = lambda **options: lambda function: function
    kfp.dsl.pipeline = lambda **options: lambda function: function
    generic = type("Generic", (), {"__class_getitem__": classmethod(lambda kind, of: kind)})
    for name in ("HTML", "Input", "Metrics", "Model", "Output"):
        setattr(kfp.dsl, name, generic)
    monkeypatch.setitem(sys.modules, "kfp", kfp)
    monkeypatch.setitem(sys.modules, "kfp.dsl", kfp.dsl)
    monkeypatch.setenv("SINTER_KEY", server.key)
    monkeypatch.syspath_prepend(PLATFORMS)
    component = importlib.import_module("kubeflow_component").prune

    class Artifact:
        def __init__(self, path):
            self.path, self.metadata, self.logged = str(path), {}, {}

        def log_metric(self, name, value):
            self.logged[name] = value

    smaller, report, metrics = (Artifact(tmp_path / name) for name in ("model", "report", "metrics"))
    for _ in range(2):
        # A pod that was started again queues no other job.
        component(Artifact(DIGITS_CNN), server.url, dataset, PRUNING, SCALED, "run-1", smaller, report, metrics)
    assert [job["id"] for job in server.all_rows("/v1/jobs")] == [smaller.metadata["sinter_job"]]
    assert metrics.logged["accuracy"] == pytest.approx(accuracy_in_onnx_runtime(smaller.path), abs=1e-6)
    assert metrics.logged["macs_ratio"] <= 0.5 and "<html" in pathlib.Path(report.path).read_text()
