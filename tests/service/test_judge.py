"""What jobs say about their models, judged by ONNX Runtime and by counting in the files."""

import csv
import io
import json
import pathlib
import re
import sys

import numpy as np
import onnx
import pytest

import graph_tools
from conftest import DIGITS, DIGITS_CNN, EXAMPLES, FASHION_CNN, FASHION_RESNET

sys.path.insert(0, str(EXAMPLES))
import datasets  # noqa: E402
import judge  # noqa: E402

FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")
# Examples of each split of Fashion-MNIST.
LIMITS = {"fashion_cnn": 1500, "fashion_resnet": 600}
# Half a twentieth of a point in a hundred.
ACCURACY = 0.0005
NETWORKS = {"digits": DIGITS_CNN, "fashion_cnn": FASHION_CNN, "fashion_resnet": FASHION_RESNET}

pytestmark = pytest.mark.timeout(240)


class Judged:
    """A network that was trained from new weights, and the data that judge it."""

    def __init__(self, server, name, dataset):
        self.server, self.name, self.dataset = server, name, dataset
        digits = name == "digits"
        limit = LIMITS.get(name)
        self.data = {"preprocess": {"scale": 0.0625}} if digits else {"limit": limit}
        self.data["batch_size"] = 32
        arrays = datasets.load(DIGITS if digits else FASHION)
        kept = slice(limit)
        self.images = datasets.prepare(arrays["x_test"][kept], 0.0625 if digits else None)
        self.labels = arrays["y_test"][kept]
        self.epochs = 5 if digits else 3
        self.source = server.upload_model(NETWORKS[name], name)
        self.jobs = {}
        params = {
            "epochs": self.epochs,
            "weights": "reinitialize",
            "optimizer": {"learning_rate": 0.003},
        }
        self.trained = self.run("train", params, self.source)

    def run(self, kind, params, model=None):
        model = model or self.trained["result"]["model"]
        return self.server.run(
            kind, model, self.dataset, params, timeout=600, data=self.data, name=f"{self.name} {kind}"
        )

    def pruned(self, kind):
        """The job of that kind of pruning, run when it is first asked for."""
        finetune = {"epochs": 1 if self.name != "digits" else 3}
        steps = {
            "channel": {"granularity": "channel", "target": {"macs_ratio": 0.5}},
            "weight": {"granularity": "weight", "target": {"sparsity": 0.9}},
        }
        if kind == "train":
            return self.trained
        if kind not in self.jobs:
            if kind == "pipeline":
                first = {"granularity": "channel", "target": {"macs_ratio": 0.8}}
                params = {
                    "steps": [
                        {"kind": "prune", "params": first | {"finetune": finetune}},
                        {"kind": "evaluate", "params": {"metrics": ["accuracy", "loss", "f1"]}},
                        {"kind": "prune", "params": steps["weight"] | {"finetune": finetune}},
                    ]
                }
                self.jobs[kind] = self.run("pipeline", params)
            else:
                self.jobs[kind] = self.run("prune", steps[kind] | {"finetune": finetune})
        return self.jobs[kind]

    def file(self, job):
        return self.server.artifact(job, "model.onnx")

    def judge(self, content):
        """Accuracy and loss on the test split in ONNX Runtime."""
        logits = graph_tools.logits_of(content, self.images)
        assert np.isfinite(logits).all()
        return {
            "accuracy": graph_tools.accuracy(logits, self.labels),
            "loss": graph_tools.cross_entropy(logits, self.labels),
        }


@pytest.fixture(scope="module", params=NETWORKS)
def judged(request, server):
    if request.param == "digits":
        dataset = server.upload_dataset(DIGITS, "digits")
    else:
        if not FASHION.is_dir():
            pytest.skip("apt-get install dataset-fashion-mnist")
        names = ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"]
        parts = [("file", (FASHION / f"{name}-ubyte.gz").open("rb")) for name in names]
        answer = server.post("/v1/datasets", params={"name": "fashion"}, files=parts)
        assert answer.status_code == 201, answer.text
        dataset = answer.json()
        assert dataset["splits"] == {"train": 60000, "test": 10000}
    return Judged(server, request.param, dataset)


KINDS = ["train", "channel", "weight", "pipeline"]


def close(figures, truth):
    assert figures["accuracy"] == pytest.approx(truth["accuracy"], abs=ACCURACY)
    assert figures["loss"] == pytest.approx(truth["loss"], abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_figures_before_and_after_are_those_of_onnx_runtime(judged, kind):
    job = judged.pruned(kind)
    before = NETWORKS[judged.name].read_bytes() if kind == "train" else judged.file(judged.trained)
    after = judged.file(job)
    result = job["result"]
    for content, figures in [(before, result["before"]), (after, result["after"])]:
        close(figures["metrics"], judged.judge(content))
        assert figures["macs"] == graph_tools.count_macs(content)
        counted = graph_tools.count_parameters(content)
        assert (figures["parameters"], figures["nonzero_parameters"]) == counted
        assert figures["size_bytes"] == len(content)
        assert 0 < figures["compressed_bytes"] < figures["size_bytes"]
        latency = figures["latency_ms"]
        assert latency["batch_size"] == 1 and 0 < latency["p50"] <= latency["p90"]
    change, first, last = result["change"], result["before"], result["after"]
    for ratio, figure in [
        ("parameters_ratio", "parameters"),
        ("nonzero_parameters_ratio", "nonzero_parameters"),
        ("macs_ratio", "macs"),
        ("size_ratio", "size_bytes"),
    ]:
        assert change[ratio] == pytest.approx(last[figure] / first[figure])
    speedup = first["latency_ms"]["p50"] / last["latency_ms"]["p50"]
    assert change["speedup"] == pytest.approx(speedup)
    for name, value in change["metrics"].items():
        assert value == pytest.approx(last["metrics"][name] - first["metrics"][name])
    if kind == "pipeline":
        assert [step["kind"] for step in result["steps"]] == ["prune", "evaluate", "prune"]
        assert set(result["steps"][1]["after"]["metrics"]) == {"accuracy", "loss", "f1"}
        assert result["steps"][1]["after"]["macs"] == last["macs"] <= 0.8 * first["macs"]
        assert result["steps"][2]["after"]["metrics"] == last["metrics"]
        assert result["steps"][0]["prune"]["reached"]["macs_ratio"] <= 0.8
        assert result["steps"][2]["prune"]["reached"]["sparsity"] == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_keeps_names_axes_opset_and_metadata_and_passes_the_checker(judged, kind):
    before = onnx.load(NETWORKS[judged.name])
    content = judged.file(judged.pruned(kind))
    after = onnx.load_from_string(content)
    onnx.checker.check_model(after, full_check=True)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert after.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert list(after.opset_import) == list(before.opset_import)
    # With what the job's data says about inputs and answers.
    kept = [entry for entry in after.metadata_props if entry.key != "sinter.expects"]
    assert kept == list(before.metadata_props)
    for field in ["ir_version", "producer_name", "producer_version", "domain", "doc_string"]:
        assert getattr(after, field) == getattr(before, field), field
    assert after.graph.name == before.graph.name
    assert [node.name for node in after.graph.node] == [node.name for node in before.graph.node]
    for batch in (1, 3):
        found = graph_tools.run(content, judged.images[:batch])[0]
        assert found.shape == (batch, 10)


def test_training_learns(judged):
    accuracy = judged.trained["result"]["after"]["metrics"]["accuracy"]
    assert accuracy > {"digits": 0.9, "fashion_cnn": 0.7, "fashion_resnet": 0.4}[judged.name]
    assert judged.trained["result"]["training"]["examples_per_second"] > 0


def test_channel_pruning_reaches_what_was_asked_and_says_so(judged):
    job = judged.pruned("channel")
    outcome = job["result"]["prune"]
    macs = [graph_tools.count_macs(judged.file(j)) for j in (judged.trained, job)]
    assert outcome["asked"] == {"macs_ratio": 0.5}
    assert outcome["reached"] == {"macs_ratio": pytest.approx(macs[1] / macs[0])}
    # The fewest channels that do: not far below what was asked.
    assert 0.45 < outcome["reached"]["macs_ratio"] <= 0.5
    layers = outcome["layers"]
    assert sum(layer["macs_before"] for layer in layers) == macs[0]
    assert sum(layer["macs_after"] for layer in layers) == macs[1]
    after = job["result"]["after"]
    assert sum(layer["parameters_after"] for layer in layers) == after["parameters"]
    assert [blocked["layer"] for blocked in outcome["blocked"]] == ["/head/Gemm"]


def test_pruned_weights_stay_zero_through_fine_tuning(judged):
    outcome = judged.pruned("weight")["result"]["prune"]
    kernels = graph_tools.kernels_of(judged.file(judged.pruned("weight")))
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels.values())
    total = sum(kernel.size for kernel in kernels.values())
    assert zeros / total >= 0.9 - 1e-4
    assert outcome["asked"] == {"sparsity": 0.9}
    assert outcome["reached"]["sparsity"] == pytest.approx(zeros / total, abs=1e-4)
    # Those that are left were tuned, and they are the largest ones of before.
    trained = graph_tools.kernels_of(judged.file(judged.trained))
    kept = np.concatenate([(kernels[name] != 0).ravel() for name in sorted(kernels)])
    sizes = np.concatenate([np.abs(trained[name]).ravel() for name in sorted(kernels)])
    moved = np.concatenate([(kernels[n] != trained[n]).ravel() for n in sorted(kernels)])
    assert moved[kept].mean() > 0.9
    assert sizes[kept].mean() > 2 * sizes[~kept].mean()


def test_a_model_with_half_the_macs_is_faster_in_onnx_runtime(judged, tmp_path):
    paths = []
    for job in (judged.trained, judged.pruned("channel")):
        paths.append(tmp_path / f"{job['id']}.onnx")
        paths[-1].write_bytes(judged.file(job))
        assert judge.check(paths[-1]) == "ok"
    sessions = [judge.open_session(path, 1) for path in paths]
    before, after = judge.median_latencies(sessions, judged.images, 64, 50, 1.0)
    # Convolutions with odd widths fall out of its fast kernels: fewer MACs can be slower.
    assert after < before, f"{before} ms before, {after} ms after"


def test_a_pruned_model_uploaded_again_is_measured_the_same(judged):
    job = judged.pruned("channel")
    again = judged.server.upload_model(judged.file(job), "again")
    after = job["result"]["after"]
    assert again["summary"]["macs"] == after["macs"]
    assert again["summary"]["parameters"] == after["parameters"]
    result = judged.run("evaluate", {"metrics": ["accuracy", "loss"]}, again)["result"]
    assert result["before"]["metrics"] == after["metrics"]
    assert result["model"] is None and "after" not in result


def test_a_made_model_names_its_parent_and_its_job(judged):
    job = judged.pruned("channel")
    model = judged.server.get(f"/v1/models/{job['result']['model']}").json()
    assert model["parent_id"] == judged.trained["result"]["model"]
    assert model["job_id"] == job["id"]
    assert judged.server.model_content(model) == judged.file(job)
    parent = judged.server.get(f"/v1/models/{model['parent_id']}").json()
    assert parent["parent_id"] == judged.source["id"]
    assert parent["job_id"] == judged.trained["id"]
    assert judged.source["parent_id"] is None and judged.source["job_id"] is None
    after = job["result"]["after"]
    for figure in ("parameters", "nonzero_parameters", "macs"):
        assert model["summary"][figure] == after[figure]
    rows = judged.server.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]
    assert model["digest"] == {row["name"]: row["digest"] for row in rows}["model.onnx"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_reports_hold_the_result_and_need_nothing_else(judged, kind):
    job = judged.pruned(kind)
    report = json.loads(judged.server.artifact(job, "report.json"))
    assert report["job"] == job["id"] and report["request"] == job["request"]
    # The new model gets its id only when it is published.
    assert report["result"] | {"model": None} == job["result"] | {"model": None}
    page = judged.server.artifact(job, "report.html").decode()
    assert page.startswith("<!DOCTYPE html>") and page.rstrip().endswith("</html>")
    assert "<script" not in page and "<link" not in page and "@import" not in page
    assert not re.search(r"""(?:src|href|action|data)\s*=\s*["']?(?!#)\w""", page)
    assert not re.search(r"url\((?!\s*['\"]?(?:#|data:))", page)
    assert f"{judged.name} " in page
    after = job["result"]["after"]
    assert f"{after['macs']:,}" in page
    assert f"{after['metrics']['accuracy']:.4f}" in page
    if kind == "channel":
        assert "/head/Gemm" in page and "feeds the graph" in page


@pytest.mark.parametrize("kind", KINDS)
def test_the_curves_are_the_same_in_the_csv_the_report_and_the_route(judged, kind):
    job = judged.pruned(kind)
    text = judged.server.artifact(job, "metrics.csv").decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows and set(rows[0]) == {"name", "step", "value"}
    staged = {}
    for row in rows:
        staged.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
    answer = judged.server.get(f"/v1/jobs/{job['id']}/metrics").json()["data"]
    told = {s["name"]: [(p["step"], p["value"]) for p in s["points"]] for s in answer}
    assert staged == told
    report = json.loads(judged.server.artifact(job, "report.json"))["curves"]
    assert {name: [tuple(p) for p in points] for name, points in report.items()} == told
    answer = judged.server.get(f"/v1/jobs/{job['id']}/metrics", params={"format": "csv"})
    assert answer.headers["Content-Type"].startswith("text/csv")
    routed = {}
    for row in csv.DictReader(io.StringIO(answer.text)):
        routed.setdefault(row["name"], []).append((int(row["step"]), float(row["value"])))
    assert routed == told
    assert {"train/loss", "train/learning_rate", "validation/loss"} <= set(told)
    for points in told.values():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps))
    losses = [value for _, value in told["train/loss"]]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(
    "later",
    [
        {"kind": "train", "params": {"epochs": 1}},
        {"kind": "prune", "params": {"target": {"macs_ratio": 0.7}, "finetune": {"epochs": 1}}},
    ],
    ids=["train", "channels"],
)
def test_a_later_step_of_a_pipeline_keeps_pruned_weights_at_zero(
    server, digits_model, digits, later
):
    sparse = {"granularity": "weight", "target": {"sparsity": 0.9}}
    params = {"steps": [{"kind": "prune", "params": sparse}, later]}
    job = server.run("pipeline", digits_model, digits, params)
    kernels = graph_tools.kernels_of(server.artifact(job, "model.onnx")).values()
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels)
    # Taking channels away moves the share a little.
    assert zeros / sum(kernel.size for kernel in kernels) > 0.8
