"""The whole way on the whole of Fashion-MNIST: train from nothing, prune, and let ONNX Runtime judge.

The plain CNN of examples/export_models.py; examples/fashion_mnist.sh does the same with more epochs, and
with the residual network.
"""

import glob
import os
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "examples"))

import datasets  # noqa: E402
import judge  # noqa: E402

DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")


def run(server, kind, model, dataset, params):
    answer = server.post("/v1/jobs", json={
        "kind": kind, "model": model, "dataset": dataset, "device": "cpu", "params": params,
    })
    assert answer.status_code == 202, answer.text
    job = answer.json()
    for _ in range(60):
        job = server.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=30"}).json()
        if job["status"] not in ("queued", "running"):
            break
    assert job["status"] == "succeeded", job["error"]
    return job


@pytest.fixture(scope="module")
def jobs(server):
    files = [("file", (os.path.basename(path), open(path, "rb"))) for path in sorted(glob.glob(f"{DATA}/*.gz"))]
    dataset = server.post("/v1/datasets?name=fashion-mnist", files=files).json()
    assert dataset["splits"] == {"train": 60000, "test": 10000}
    file = (ROOT / "examples/models/fashion_cnn.onnx").read_bytes()
    fresh = server.post("/v1/models?name=fashion_cnn", data=file).json()
    assert fresh["summary"]["parameters"] >= 100_000
    optimizer = {"name": "adamw", "learning_rate": 0.002}
    trained = run(server, "train", fresh["id"], dataset["id"],
                  {"weights": "reinitialize", "epochs": 3, "optimizer": optimizer})
    base = trained["result"]["model"]
    channels = run(server, "prune", base, dataset["id"],
                   {"granularity": "channel", "target": {"macs_ratio": 0.5}, "finetune": {"epochs": 2}})
    weights = run(server, "prune", base, dataset["id"],
                  {"granularity": "weight", "target": {"sparsity": 0.9}, "schedule": {"steps": 2},
                   "finetune": {"epochs": 3}})
    return {"trained": trained, "channels": channels, "weights": weights}


@pytest.fixture(scope="module")
def files(server, jobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fashion")
    paths = {}
    for name, job in jobs.items():
        paths[name] = folder / f"{name}.onnx"
        paths[name].write_bytes(server.get(f"/v1/jobs/{job['id']}/artifacts/model.onnx").content)
    return paths


def test_training_from_nothing_reaches_nine_of_ten(jobs):
    assert jobs["trained"]["result"]["after"]["metrics"]["accuracy"] >= 0.90
    assert jobs["trained"]["result"]["before"]["metrics"]["accuracy"] < 0.30


def test_half_the_macs_cost_less_than_a_point(jobs):
    before = jobs["trained"]["result"]["after"]
    result = jobs["channels"]["result"]
    assert result["change"]["macs_ratio"] <= 0.5
    assert result["after"]["parameters"] < before["parameters"]
    assert result["after"]["size_bytes"] < before["size_bytes"]
    assert result["after"]["metrics"]["accuracy"] >= before["metrics"]["accuracy"] - 0.01


def test_nine_of_ten_weights_cost_less_than_a_point(jobs):
    before = jobs["trained"]["result"]["after"]["metrics"]["accuracy"]
    result = jobs["weights"]["result"]
    assert result["prune"]["reached"]["sparsity"] == pytest.approx(0.9, abs=1e-4)
    assert result["after"]["metrics"]["accuracy"] >= before - 0.01


@pytest.fixture(scope="module")
def examples():
    arrays = datasets.load(DATA)
    return datasets.prepare(arrays["x_test"]), arrays["y_test"]


@pytest.mark.parametrize("name", ["trained", "channels", "weights"])
def test_onnx_runtime_finds_the_accuracy_that_the_service_reports(jobs, files, examples, name):
    images, labels = examples
    assert judge.check(files[name]) == "ok"
    logits = judge.logits_of(judge.open_session(files[name], 2), images)
    reported = jobs[name]["result"]["after"]["metrics"]["accuracy"]
    assert (logits.argmax(1) == labels).mean() == pytest.approx(reported, abs=0.0005)


@pytest.mark.parametrize("batch", [1, 64])
def test_half_the_macs_are_faster_in_onnx_runtime(files, examples, batch):
    # One thread each: idle threads of two sessions spin, and take the processors from one another.
    sessions = [judge.open_session(files[name], 1) for name in ("trained", "channels")]
    before, after = judge.median_latencies(sessions, examples[0], batch, 50, 1.0)
    assert after < before, f"{after} ms after, {before} ms before"
