"""Ended jobs in a real MLflow: runs, curves, files, registered versions; each once, whatever breaks on the way."""

import concurrent.futures
import http.client
import http.server
import io
import json
import os
import random
import socket
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest
import requests

from conftest import DIGITS, DIGITS_CNN, Server, assert_problem, often, run_sinter
from graph_tools import accuracy, run
from lifecycle_tools import ENDLESS, PIPELINE, TRAINING, event_types, free_port, submit_training, wait_until
from models import digits as digits_arrays
from test_access import bearer, new_key

PRUNING = {"target": {"macs_ratio": 0.6}, "finetune": {"epochs": 2}}


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    port = free_port()
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
             "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")],
            stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is not None or is_up(url), 300, "MLflow")
        assert process.poll() is None, (folder / "log").read_text()
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def is_up(url):
    try:
        return requests.get(url + "/health", timeout=2).ok
    except requests.RequestException:
        return False


@pytest.fixture(scope="module")
def client(mlflow_url):
    import mlflow

    mlflow.set_tracking_uri(mlflow_url)
    return mlflow.MlflowClient(mlflow_url)


class Between:
    """What stands between the service and MLflow, and does to its requests what `mood(number, request)` says: None passes
    one on, a number answers so instead, "lose" passes it on and answers 500."""

    def __init__(self, url, mood=lambda number, handler: None):
        self.mood, self.count, self.seen = mood, 0, []
        between, (host, port) = self, url.removeprefix("http://").split(":")

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                between.count += 1
                between.seen.append((self.command, self.path, dict(self.headers)))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                mood = between.mood(between.count, self)
                status, answer = mood, b"{}"
                if mood is None or mood == "lose":
                    upstream = http.client.HTTPConnection(host, int(port), timeout=30)
                    upstream.request(self.command, self.path, body, {
                        "Content-Type": self.headers.get("Content-Type", ""), "Content-Length": str(len(body))})
                    response = upstream.getresponse()
                    status, answer = response.status, response.read()
                    upstream.close()
                    if mood == "lose":
                        status, answer = 500, b"lost"
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = do_PATCH = do_POST

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def between(mlflow_url):
    started = []

    def start(*arguments):
        started.append(Between(mlflow_url, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def written(server, job, timeout=90):
    """What the job's events say when MLflow has it."""
    def event():
        return next((event for event in server.events(job) if event["type"] == "mlflow_exported"), None)

    return wait_until(event, timeout, "the run in MLflow")["data"]


def runs_of(client, job, experiment):
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    return client.search_runs([found.experiment_id], f"tags.`sinter.job_id` = '{job['id']}'")


def children_of(client, run):
    return client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'")


def test_a_job_becomes_a_run_with_a_registered_version_that_predicts(start_server, mlflow_url, client):
    import mlflow

    server = start_server("--mlflow-url", mlflow_url, "--mlflow-experiment", "first")
    model, data = server.upload_model(name="digits/cnn"), server.upload_dataset()
    job = submit_training(server, (model, data), PRUNING, kind="prune", name="half of it", tags={"team": "vision"})
    ended = server.wait(job)
    assert ended["status"] == "succeeded", ended["error"]
    told = written(server, job)
    (one,) = runs_of(client, job, "first")
    assert one.info.run_id == told["run_id"] and one.info.status == "FINISHED" and one.info.run_name == "half of it"
    assert one.info.end_time >= one.info.start_time > 0
    assert one.data.params["target.macs_ratio"] == "0.6" and one.data.params["finetune.epochs"] == "2"
    assert one.data.tags["team"] == "vision" and one.data.tags["sinter.kind"] == "prune"
    assert one.data.tags["sinter.model_digest"] == model["digest"]
    assert one.data.tags["sinter.dataset_digest"] == data["digest"]
    result = ended["result"]
    for place in ("before", "after"):
        for name, value in result[place]["metrics"].items():
            assert one.data.metrics[f"{place}/{name}"] == pytest.approx(value)
        assert one.data.metrics[f"{place}/macs"] == result[place]["macs"]
    assert one.data.metrics["change/macs_ratio"] == pytest.approx(result["change"]["macs_ratio"])
    curves = {curve["name"]: curve["points"] for curve in server.get(f"/v1/jobs/{job['id']}/metrics").json()["data"]}
    for name, points in curves.items():
        history = client.get_metric_history(one.info.run_id, name)
        assert [(point.step, point.value) for point in sorted(history, key=lambda point: point.step)] == [
            (point["step"], point["value"]) for point in points]
    (used,) = one.inputs.dataset_inputs
    assert used.dataset.name == data["name"] and data["digest"].endswith(used.dataset.digest, 7, 7 + 32)
    files = {file.path for file in client.list_artifacts(one.info.run_id)}
    assert {"report.html", "report.json", "metrics.csv", "model"} <= files and "bundle.tar" not in files

    # The registered version, by its alias.
    assert told["model"] == "digits-cnn" and told["version"] == "1"
    version = client.get_model_version_by_alias("digits-cnn", "sinter")
    assert version.run_id == one.info.run_id and version.tags["sinter.job_id"] == job["id"]
    loaded = mlflow.onnx.load_model("models:/digits-cnn@sinter")
    content = server.model_content(result["model"])
    assert loaded.SerializeToString() == content
    arrays = digits_arrays()
    images = arrays["x_test"].astype(np.float32).reshape(-1, 1, 8, 8) * np.float32(0.0625)
    found = mlflow.pyfunc.load_model("models:/digits-cnn@sinter").predict({"input": images})
    logits = next(iter(found.values())) if isinstance(found, dict) else np.asarray(found)
    assert accuracy(logits, arrays["y_test"]) == pytest.approx(result["after"]["metrics"]["accuracy"], abs=1e-9)

    # Another job on the same model is the next version.
    again = submit_training(server, (model, data), TRAINING)
    server.wait(again)
    assert written(server, again)["version"] == "2"
    assert client.get_model_version_by_alias("digits-cnn", "sinter").version in ("2", 2)


def test_tags_of_users_take_no_run_and_the_newest_version_keeps_the_alias(start_server, mlflow_url, client):
    server = start_server("--mlflow-url", mlflow_url, "--mlflow-experiment", "tags")
    inputs = server.upload_model(name="tagged"), server.upload_dataset()
    quick = {"epochs": 1, "weights": "reinitialize"}
    first = submit_training(server, inputs, quick, tags={"/team": "a", "team": "b", ".": "dot"})
    server.wait(first)
    written(server, first)
    second = submit_training(server, inputs, quick, tags={"sinter.job_id": first["id"]})
    server.wait(second)
    assert written(server, second)["version"] == "2"
    assert [len(runs_of(client, job, "tags")) for job in (first, second)] == [1, 1]
    # The first one again, which is no newer for that.
    row = next(row for row in server.get(f"/v1/jobs/{first['id']}/deliveries").json()["data"] if row["target"] == "mlflow")
    assert server.post(f"/v1/jobs/{first['id']}/deliveries/{row['id']}/resend").status_code == 202
    wait_until(lambda: event_types(server, first).count("mlflow_exported") == 2, 60, "the second export")
    assert str(client.get_model_version_by_alias("tagged", "sinter").version) == "2"
    assert len(client.search_model_versions("name='tagged'")) == 2
    history = json.loads(runs_of(client, first, "tags")[0].data.tags["mlflow.log-model.history"])
    assert len(history) == 1


def test_projects_have_experiments_and_registered_models_of_their_own(start_server, mlflow_url, client):
    server = start_server("--mlflow-url", mlflow_url, "--mlflow-experiment", "projects")
    server.key = new_key(server, role="admin")
    headers = bearer(new_key(server, project="vision"))
    model = server.post_model(DIGITS_CNN, "shared", headers=headers).json()
    data = server.post_dataset(DIGITS, headers=headers).json()
    job = server.post("/v1/jobs", headers=headers, json={
        "kind": "train", "model": model["id"], "dataset": data["id"],
        "params": {"epochs": 1, "weights": "reinitialize"}}).json()
    server.wait(job)
    assert written(server, job)["model"] == "vision.shared"
    assert len(runs_of(client, job, "projects/vision")) == 1
    assert client.search_model_versions("name='shared'") == []


def test_trials_and_steps_are_runs_below_the_job(start_server, mlflow_url, client):
    server = start_server("--mlflow-url", mlflow_url, "--mlflow-experiment", "parts")
    inputs = server.upload_model(), server.upload_dataset()
    pipeline = submit_training(server, inputs, PIPELINE, kind="pipeline")
    search = submit_training(server, inputs, {
        "space": {"hyperparameters": {"learning_rate": {"choice": [0.001, 0.01]}}}, "strategy": {"name": "exhaustive"},
        "trials": 2, "trial": {"epochs": 1}, "final": {"epochs": 1}}, kind="search")
    for job in (pipeline, search):
        ended = server.wait(job, 240)
        assert ended["status"] == "succeeded", ended["error"]
        written(server, job)
    (one,) = runs_of(client, pipeline, "parts")
    steps = {run.data.tags["sinter.part"]: run for run in children_of(client, one)}
    assert sorted(steps) == ["step-0", "step-1", "step-2", "step-3"]
    for index, step in enumerate(server.job(pipeline)["result"]["steps"]):
        of_run = steps[f"step-{index}"]
        assert of_run.data.params["kind"] == step["kind"] and of_run.info.status == "FINISHED"
        assert of_run.data.metrics["after/accuracy"] == pytest.approx(step["after"]["metrics"]["accuracy"])
    (one,) = runs_of(client, search, "parts")
    trials = {run.data.tags["sinter.part"]: run for run in children_of(client, one)}
    kept = {f"trial-{trial['trial']}": trial for trial in json.loads(server.artifact(search, "trials.json"))["trials"]}
    assert sorted(trials) == sorted(kept)
    for name, trial in kept.items():
        assert float(trials[name].data.params["learning_rate"]) == trial["config"]["learning_rate"]
        for metric, value in trial["metrics"].items():
            assert trials[name].data.metrics[metric] == pytest.approx(value)


def test_failed_and_canceled_jobs_say_so_and_one_that_is_retried_keeps_its_run(start_server, mlflow_url, client):
    server = start_server("--mlflow-url", mlflow_url, "--mlflow-experiment", "ends")
    inputs = server.upload_model(), server.upload_dataset()
    late = submit_training(server, inputs, ENDLESS, timeout_seconds=1)
    assert server.wait(late)["status"] == "failed"
    told = written(server, late)
    assert told["version"] is None
    (one,) = runs_of(client, late, "ends")
    assert one.info.status == "FAILED" and one.data.tags["sinter.error"] == "timed_out"
    stopped = submit_training(server, inputs, ENDLESS)
    server.wait_for(stopped, lambda job: job["status"] == "running")
    server.post(f"/v1/jobs/{stopped['id']}/cancel")
    written(server, stopped)
    assert runs_of(client, stopped, "ends")[0].info.status == "KILLED"
    # Again, to another end.
    server.post(f"/v1/jobs/{stopped['id']}/retry")
    server.wait_for(stopped, lambda job: job["status"] == "running")
    server.post(f"/v1/jobs/{stopped['id']}/cancel")
    wait_until(lambda: event_types(server, stopped).count("mlflow_exported") == 2, 60, "the second export")
    assert len(runs_of(client, stopped, "ends")) == 1


@pytest.mark.parametrize("seed", range(often(1, 5)))
def test_lost_answers_and_errors_end_in_one_run_and_one_version(start_server, between, client, seed):
    chance = random.Random(seed)
    moods = lambda number, handler: chance.choices([None, "lose", 503, 500], [6, 2, 1, 1])[0]
    middle = between(moods)
    experiment = f"lossy-{seed}"
    server = start_server("--mlflow-url", middle.url, "--mlflow-experiment", experiment)
    inputs = server.upload_model(name=f"lossy-{seed}"), server.upload_dataset()
    job = submit_training(server, inputs, PRUNING, kind="prune")
    server.wait(job)
    # Fewer and fewer break, so that it ends in time.
    threading.Timer(25, lambda: setattr(middle, "mood", lambda number, handler: None)).start()
    written(server, job, 180)
    (one,) = runs_of(client, job, experiment)
    assert one.info.status == "FINISHED"
    assert len(client.search_model_versions(f"name='lossy-{seed}'")) == 1
    row = next(row for row in server.get(f"/v1/jobs/{job['id']}/deliveries").json()["data"] if row["target"] == "mlflow")
    assert row["status"] == "delivered" and row["attempts"] > 1


@pytest.mark.parametrize("place", ["delivery_taken", "mlflow_run_created", "mlflow_model_uploaded", "mlflow_version_created",
                                   "delivery_sent"])
def test_a_server_that_dies_on_the_way_goes_on_and_repeats_nothing(tmp_path, mlflow_url, client, place):
    experiment = f"crash-{place}"
    server = Server(tmp_path, ("--mlflow-url", mlflow_url, "--mlflow-experiment", experiment),
                    env={"SINTER_CRASH_AT": f"{place}:1"})
    server.start().wait_ready()
    inputs = server.upload_model(name=experiment), server.upload_dataset()
    job = submit_training(server, inputs, TRAINING)
    wait_until(lambda: server.process.poll() is not None, 120, "the crash")
    server.kill()
    server.env.pop("SINTER_CRASH_AT")
    server.start().wait_ready()
    try:
        assert server.wait(job)["status"] == "succeeded"
        written(server, job)
        assert len(runs_of(client, job, experiment)) == 1
        assert len(client.search_model_versions(f"name='{experiment}'")) == 1
        assert event_types(server, job).count("mlflow_exported") == 1
    finally:
        server.stop()


def test_an_mlflow_that_is_down_gets_everything_once_it_is_up(start_server, between, client):
    middle = between(lambda number, handler: 503)
    server = start_server("--mlflow-url", middle.url, "--mlflow-experiment", "down")
    inputs = server.upload_model(name="down"), server.upload_dataset()
    jobs = [submit_training(server, inputs, {"epochs": 1, "weights": "reinitialize"}) for _ in range(3)]
    for job in jobs:
        server.wait(job)
    wait_until(lambda: middle.count >= 3, 60, "tries")
    assert server.get(f"/v1/jobs/{jobs[0]['id']}/deliveries").json()["data"][0]["response_status"] == 503
    server.restart()
    middle.mood = lambda number, handler: None
    for job in jobs:
        written(server, job, 120)
        assert len(runs_of(client, job, "down")) == 1
    assert len(client.search_model_versions("name='down'")) == 3


@pytest.mark.parametrize("flags, expected", [
    (("--mlflow-token", "secret-token"), "Bearer secret-token"),
    (("--mlflow-username", "me", "--mlflow-password", "p:w"), "Basic bWU6cDp3")])
def test_secrets_go_to_mlflow_and_nowhere_else(start_server, between, flags, expected):
    middle = between()
    server = start_server("--mlflow-url", middle.url, "--mlflow-experiment", "secrets", *flags)
    inputs = server.upload_model(), server.upload_dataset()
    job = submit_training(server, inputs, {"epochs": 1, "weights": "reinitialize"})
    server.wait(job)
    written(server, job)
    assert middle.seen and all(headers.get("authorization", headers.get("Authorization")) == expected
                               for _, _, headers in middle.seen)
    assert "secret-token" not in server.log() and "bWU6cDp3" not in server.log()


def test_settings_of_mlflow_are_checked():
    for flags, word in [(("--mlflow-url", "mlflow:5000"), "mlflow_url"), (("--mlflow-alias", "a b"), "mlflow_alias"),
                        (("--mlflow-url", "http://me:secret@mlflow"), "mlflow_url")]:
        refused = run_sinter("serve", "--listen", "127.0.0.1:0", *flags)
        assert refused.returncode != 0 and word in refused.stderr and "secret" not in refused.stderr


# The bundle.


@pytest.fixture(scope="module")
def bundle(server, digits_model, digits, tmp_path_factory):
    job = submit_training(server, (digits_model, digits), PRUNING, kind="prune")
    server.wait(job)
    folder = tmp_path_factory.mktemp("bundle")
    content = server.artifact(job, "bundle.tar")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder, filter="data")
    return server.job(job), folder


def test_the_bundle_holds_together(server, bundle):
    job, folder = bundle
    names = {path.name for path in folder.iterdir()}
    assert {"model.onnx", "MLmodel", "README.md", "compression.json", "provenance.json", "SHA256SUMS"} <= names
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert listed == names - {"SHA256SUMS"}
    assert (folder / "model.onnx").read_bytes() == server.model_content(job["result"]["model"])
    kept = json.loads((folder / "compression.json").read_text())
    assert kept["after"] == job["result"]["after"] and kept["change"] == job["result"]["change"]
    statement = json.loads((folder / "provenance.json").read_text())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    made = server.get(f"/v1/models/{job['result']['model']}").json()
    assert statement["subject"] == [{"name": "model.onnx", "digest": {"sha256": made["digest"].removeprefix("sha256:")}}]
    base = server.get(f"/v1/models/{job['request']['model']}").json()
    dependencies = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert f"sha256:{dependencies[0]['digest']['sha256']}" == base["digest"] and len(dependencies) == 2


def test_the_bundle_is_a_model_for_mlflow(bundle):
    import mlflow
    import yaml

    job, folder = bundle
    about = yaml.safe_load((folder / "MLmodel").read_text())
    assert about["flavors"]["onnx"]["data"] == "model.onnx"
    model = mlflow.models.Model.load(str(folder))
    assert [(each.name, each.type.name, each.shape) for each in model.signature.inputs.inputs] == [
        ("input", "float32", (-1, 1, 8, 8))]
    example = model.load_input_example(str(folder))
    found = mlflow.pyfunc.load_model(str(folder)).predict(example)
    loaded = mlflow.onnx.load_model(str(folder))
    expected = run(loaded.SerializeToString(), np.zeros((1, 1, 8, 8), np.float32))
    for value, wanted in zip(found.values() if isinstance(found, dict) else [found], expected):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


def test_mlflow_serves_the_bundle(bundle):
    _, folder = bundle
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder), "--env-manager", "local", "-p", str(port),
         "--workers", "1"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]})
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: process.poll() is not None or is_up(url), 300, "the model server")
        assert process.poll() is None, process.stdout.read()
        served = requests.post(url + "/invocations", timeout=120, headers={"Content-Type": "application/json"},
                               data=(folder / "serving_input_example.json").read_bytes())
        assert served.status_code == 200, served.text
        (logits,) = served.json()["predictions"].values()
        assert np.shape(logits) == (1, 10)
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def test_the_model_card_is_read_by_the_hub(bundle, digits_model):
    from huggingface_hub import ModelCard

    job, folder = bundle
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "onnx" and "pruned" in card.data.tags
    assert card.data.base_model == digits_model["name"]
    assert card.data.to_dict()["base_model_relation"] == "finetune"
    assert f"| parameters | {job['result']['before']['parameters']} | {job['result']['after']['parameters']} |" in card.content


def test_an_evaluation_makes_no_bundle(server, digits_model, digits):
    job = server.run("evaluate", digits_model, digits)
    assert_problem(server.get(f"/v1/jobs/{job['id']}/artifacts/bundle.tar"), 404, "artifact_not_found")


def log_model(client, mlflow_url, name, content, **options):
    """Registers a model as a data scientist would."""
    import mlflow
    import onnx

    with mlflow.start_run():
        mlflow.onnx.log_model(onnx.load_model_from_string(content), name="model", registered_model_name=name, **options)
    return max(int(version.version) for version in client.search_model_versions(f"name='{name}'"))


def test_a_model_comes_from_mlflow_by_alias_or_number_and_only_once(start_server, mlflow_url, client):
    content = DIGITS_CNN.read_bytes()
    version = log_model(client, mlflow_url, "digits-net", content)
    client.set_registered_model_alias("digits-net", "champion", version)
    server = start_server("--mlflow-url", mlflow_url, "--mlflow-experiment", "imported")
    data = server.upload_dataset(DIGITS)
    job = server.submit("prune", {"mlflow": "models:/digits-net@champion"}, data, params=PRUNING)
    model = server.get(f"/v1/models/{job['request']['model']}").json()
    assert model["name"] == "digits-net"
    source = model["tags"].pop("mlflow.source")
    assert source.startswith("mlflow-artifacts:/")
    assert model["tags"] == {"mlflow.model": "digits-net", "mlflow.version": str(version)}
    assert server.wait(job, 120)["status"] == "succeeded"
    again = server.submit("evaluate", {"mlflow": f"models:/digits-net/{version}"}, data)
    assert again["request"]["model"] == model["id"]
    # What is made of it is a further version beside it, and can be the next one's beginning.
    exported = written(server, job)
    assert exported["model"] == "digits-net" and int(exported["version"]) == version + 1
    next_one = server.submit("evaluate", {"mlflow": "models:/digits-net@sinter"}, data)
    assert next_one["request"]["model"] != model["id"]
    result = server.wait(next_one, 60)["result"]
    after = server.get(f"/v1/jobs/{job['id']}").json()["result"]["after"]
    assert result["before"]["metrics"]["accuracy"] == after["metrics"]["accuracy"]


def test_a_model_with_external_data_comes_from_mlflow(start_server, mlflow_url, client):
    version = log_model(client, mlflow_url, "split-net", DIGITS_CNN.read_bytes(), save_as_external_data=True)
    server = start_server("--mlflow-url", mlflow_url)
    job = server.submit("evaluate", {"mlflow": f"models:/split-net/{version}"}, server.upload_dataset(DIGITS))
    assert server.wait(job, 60)["status"] == "succeeded"


def test_a_model_that_mlflow_has_not_or_not_as_onnx_is_told(start_server, mlflow_url, client, tmp_path):
    import mlflow

    server = start_server("--mlflow-url", mlflow_url)
    data = server.upload_dataset(DIGITS)["id"]

    def refused(source):
        return server.post("/v1/jobs", json={"kind": "evaluate", "model": source, "dataset": data})

    for reference in ("models:/nobody@champion", "models:/nobody/3"):
        assert_problem(refused({"mlflow": reference}), 422, "mlflow_model_not_found", pointer="/model/mlflow")
    for reference in ("nobody", "models:/nobody/latest", "models:/nobody", 3):
        assert_problem(refused({"mlflow": reference}), 422, "invalid_request", pointer="/model/mlflow")
    assert_problem(refused({"mlflow": "models:/a/1", "name": "x"}), 422, "invalid_request")
    assert_problem(refused(7), 422, "invalid_request", pointer="/model", says=["models:/NAME@ALIAS"])
    assert_problem(refused("no-uuid"), 422, "invalid_request", pointer="/model")

    (tmp_path / "notes").write_text("no model")
    with mlflow.start_run():
        mlflow.pyfunc.log_model(name="model", python_model=lambda model_input: model_input, registered_model_name="no-net", pip_requirements=[])
    assert_problem(refused({"mlflow": "models:/no-net/1"}), 422, "mlflow_model_not_onnx", pointer="/model/mlflow")
    assert server.get("/v1/models").json()["data"] == []

    plain = start_server()
    answer = plain.post("/v1/jobs", json={"kind": "evaluate", "model": {"mlflow": "models:/a/1"}, "dataset": plain.upload_dataset(DIGITS)["id"]})
    assert_problem(answer, 422, "mlflow_not_set", pointer="/model/mlflow", says=["mlflow_url"])
    # Nobody listens, and nobody else gets the port.
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = start_server("--mlflow-url", f"http://127.0.0.1:{taken.getsockname()[1]}")
        answer = away.post("/v1/jobs", json={"kind": "evaluate", "model": {"mlflow": "models:/a/1"}, "dataset": away.upload_dataset(DIGITS)["id"]})
    assert_problem(answer, 502, "mlflow_failed", says=["can't be reached"])
    assert "Connection refused" in away.log()


def test_a_version_of_the_same_name_and_number_in_another_place_is_another_model(start_server, mlflow_url, client):
    first = log_model(client, mlflow_url, "again-net", DIGITS_CNN.read_bytes())
    server = start_server("--mlflow-url", mlflow_url)
    data = server.upload_dataset(DIGITS)
    before = server.submit("evaluate", {"mlflow": f"models:/again-net/{first}"}, data)["request"]["model"]
    client.delete_registered_model("again-net")
    assert log_model(client, mlflow_url, "again-net", DIGITS_CNN.read_bytes()) == first
    after = server.submit("evaluate", {"mlflow": f"models:/again-net/{first}"}, data)["request"]["model"]
    assert after != before


def test_jobs_that_come_together_fetch_a_model_once(start_server, mlflow_url, client):
    version = log_model(client, mlflow_url, "wanted-net", DIGITS_CNN.read_bytes())
    server = start_server("--mlflow-url", mlflow_url)
    data = server.upload_dataset(DIGITS)
    source = {"mlflow": f"models:/wanted-net/{version}"}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        jobs = list(pool.map(lambda _: server.submit("evaluate", source, data), range(6)))
    assert len({job["request"]["model"] for job in jobs}) == 1
    assert len(server.get("/v1/models").json()["data"]) == 1


def test_what_can_not_be_accepted_or_has_no_room_fetches_nothing(start_server, between, mlflow_url, client):
    version = log_model(client, mlflow_url, "big-net", DIGITS_CNN.read_bytes())
    source = {"mlflow": f"models:/big-net/{version}"}
    watched = between()
    server = start_server("--mlflow-url", watched.url)
    data = server.upload_dataset(DIGITS)["id"]
    for fault in ({"dataset": "00000000-0000-7000-8000-000000000000"}, {"device": "wgpu:77"}, {"seed": -1}):
        refused = server.post("/v1/jobs", json={"kind": "evaluate", "model": source, "dataset": data, **fault})
        assert refused.status_code == 422
    assert watched.seen == [] and server.get("/v1/models").json()["data"] == []
    small = start_server("--mlflow-url", mlflow_url, "--max-upload-bytes", "60000")
    data = small.upload_dataset(DIGITS)["id"]
    body = {"kind": "evaluate", "model": source, "dataset": data}
    assert_problem(small.post("/v1/jobs", json=body), 413, "body_too_large")
    full = start_server("--mlflow-url", mlflow_url, "--project-bytes-limit", "60000")
    body["dataset"] = full.upload_dataset(DIGITS)["id"]
    assert_problem(full.post("/v1/jobs", json=body), 403, "quota_exceeded")
    for each in (small, full):
        assert each.get("/v1/models").json()["data"] == []
        # Beside what was fetched it holds the folders of children that look at something, such as which devices there are.
        wait_until(lambda: not each.staged_files(), 10, "an empty staging folder")


def test_what_a_projects_job_wrote_is_not_for_another_one(start_server, mlflow_url, client):
    server = start_server("--mlflow-url", mlflow_url, "--mlflow-experiment", "kept-apart")
    keys = {project: bearer(new_key(server, project=project)) for project in ("vision", "speech")}

    def post(project, path, **options):
        return server.post(path, headers=keys[project], **options)

    ids = {}
    for project in keys:
        model = post(project, "/v1/models", params={"name": "net"}, data=DIGITS_CNN.read_bytes()).json()["id"]
        data = post(project, "/v1/datasets", params={"name": "digits"}, data=DIGITS.read_bytes()).json()["id"]
        ids[project] = (model, data)
    model, data = ids["vision"]
    job = post("vision", "/v1/jobs", json={"kind": "prune", "model": model, "dataset": data, "params": PRUNING}).json()

    def exported():
        events = server.get(f"/v1/jobs/{job['id']}/events", headers=keys["vision"]).json()["data"]
        return next((event["data"] for event in events if event["type"] == "mlflow_exported"), None)

    made = wait_until(exported, 90, "the run in MLflow")
    source = {"mlflow": f"models:/{made['model']}/{made['version']}"}
    body = {"kind": "evaluate", "model": source, "dataset": ids["speech"][1]}
    assert_problem(post("speech", "/v1/jobs", json=body), 422, "mlflow_model_not_found")
    assert post("vision", "/v1/jobs", json={**body, "dataset": data}).status_code == 202


def test_a_download_that_breaks_off_leaves_nothing(start_server, between, client, mlflow_url):
    version = log_model(client, mlflow_url, "broken-net", DIGITS_CNN.read_bytes())
    broken = between(lambda number, handler: 500 if handler.path.endswith("/model.onnx") else None)
    server = start_server("--mlflow-url", broken.url)
    body = {"kind": "evaluate", "model": {"mlflow": f"models:/broken-net/{version}"}, "dataset": server.upload_dataset(DIGITS)["id"]}
    assert_problem(server.post("/v1/jobs", json=body), 502, "mlflow_failed")
    assert server.get("/v1/models").json()["data"] == []
    wait_until(lambda: not server.staged_files(), 10, "an empty staging folder")
    broken.mood = lambda number, handler: None
    assert server.post("/v1/jobs", json=body).status_code == 202
