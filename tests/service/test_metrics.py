"""Every metric against scikit-learn, SciPy or NumPy, on outputs that are the examples themselves."""

import io
import json

import numpy as np
import onnx
import pytest
from scipy.special import softmax
from scipy.stats import spearmanr
from sklearn import metrics as sk
from sklearn.preprocessing import label_binarize

import models
from conftest import assert_problem


def measured(server, outputs, targets, names, **more):
    """The service's metrics of a model whose outputs are `outputs`."""
    rows = {f"{kind}_{split}": values for split in ("train", "test") for kind, values in (("x", outputs), ("y", targets))}
    dataset = server.upload_dataset(models.npz(**rows), "scores")
    model = server.upload_model(models.identity(("batch", outputs.shape[1])), "scores")
    job = server.run("evaluate", model, dataset, {"metrics": names}, data={"preprocess": {"scale": 1}}, **more)
    return job["result"]["before"], job


def agree(found, expected):
    assert set(found["metrics"]) == set(expected)
    for name, value in expected.items():
        assert found["metrics"][name] == pytest.approx(value, abs=1e-9, rel=1e-9), name


def scores(count, classes, seed=0):
    """Logits that are often right, with ties, and labels of which some classes are rare."""
    random = np.random.default_rng(seed)
    labels = np.minimum(random.geometric(0.35, count) - 1, classes - 1)
    logits = random.normal(0, 1.5, (count, classes)).round(1)
    logits[np.arange(count), labels] += 1.5
    return logits.astype(np.float32), labels


def calibration_error(probabilities, labels):
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    return sum(abs((confidence[bins == b] - right[bins == b]).sum()) for b in range(15)) / len(labels)


@pytest.mark.parametrize("classes", [2, 3, 12])
def test_classification(server, classes):
    logits, labels = scores(700, classes)
    probabilities = softmax(logits.astype(np.float64), 1)
    said = logits.argmax(1)
    hot = label_binarize(labels, classes=range(classes))
    one = (labels, probabilities[:, 1]) if classes == 2 else (hot, probabilities)
    macro = {"average": "macro", "zero_division": 0}
    expected = {
        "loss": sk.log_loss(labels, probabilities), "perplexity": np.exp(sk.log_loss(labels, probabilities)),
        "accuracy": sk.accuracy_score(labels, said), "balanced_accuracy": sk.balanced_accuracy_score(labels, said),
        "f1": sk.f1_score(labels, said, **macro), "weighted_f1": sk.f1_score(labels, said, average="weighted"),
        "precision": sk.precision_score(labels, said, **macro), "recall": sk.recall_score(labels, said, **macro),
        "roc_auc": sk.roc_auc_score(*one), "average_precision": sk.average_precision_score(*one),
        "expected_calibration_error": calibration_error(probabilities, labels),
    }
    found, job = measured(server, logits, labels, list(expected))
    agree(found, expected)
    assert found["quality"]["confusion"] == sk.confusion_matrix(labels, said, labels=range(classes)).tolist()
    bins = found["quality"]["calibration"]
    assert len(bins) == 15 and sum(b["examples"] for b in bins) == 700
    report = server.artifact(job, "report.html").decode()
    assert "Confusion matrix" in report and "Calibration" in report


def test_the_label_among_the_first_few(server):
    random = np.random.default_rng(1)
    logits = random.permuted(np.tile(np.arange(14, dtype=np.float32), (500, 1)), axis=1)
    labels = random.integers(0, 14, 500)
    expected = {f"top_{k}_accuracy": sk.top_k_accuracy_score(labels, logits, k=k, labels=range(14)) for k in (2, 3, 5, 10)}
    agree(measured(server, logits, labels, list(expected))[0], expected)


def test_multilabel(server):
    random = np.random.default_rng(2)
    targets = (random.random((400, 5)) < [0.5, 0.3, 0.1, 0.6, 0.02]).astype(np.uint8)
    logits = (random.normal(0, 1.5, (400, 5)) + targets * 1.5 - 0.5).round(1).astype(np.float32)
    said = logits > 0
    macro = {"average": "macro", "zero_division": 0}
    expected = {
        "accuracy": (said == targets).mean(), "f1": sk.f1_score(targets, said, **macro),
        "weighted_f1": sk.f1_score(targets, said, average="weighted", zero_division=0),
        "precision": sk.precision_score(targets, said, **macro), "recall": sk.recall_score(targets, said, **macro),
        "roc_auc": sk.roc_auc_score(targets, logits), "average_precision": sk.average_precision_score(targets, logits),
    }
    found, _ = measured(server, logits, targets, list(expected), task="multilabel")
    agree(found, expected)
    assert "quality" not in found


@pytest.mark.parametrize("outputs", [1, 3])
def test_regression(server, outputs):
    random = np.random.default_rng(3)
    targets = (random.normal(0, 1, (300, outputs)) * [1, 10, 0.1][:outputs] + [1000, 0, -5][:outputs]).astype(np.float32)
    said = (targets + random.normal(0, 0.5, targets.shape)).round(1).astype(np.float32)
    t, x = targets.astype(np.float64), said.astype(np.float64)
    expected = {
        "mean_absolute_error": sk.mean_absolute_error(t, x), "mean_squared_error": sk.mean_squared_error(t, x),
        "root_mean_squared_error": np.sqrt(sk.mean_squared_error(t, x)), "r2": sk.r2_score(t, x),
        "spearman": np.mean([spearmanr(t[:, k], x[:, k]).statistic for k in range(outputs)]),
    }
    agree(measured(server, said, targets, list(expected), task="regression")[0], expected)


def asked(server, kind, model, dataset, params):
    return server.post("/v1/jobs", json={"kind": kind, "model": model["id"], "dataset": dataset["id"], "params": params})


def test_metrics_that_have_no_value_or_suit_no_task(server, digits_model, digits):
    logits, _ = scores(50, 3)
    ended = server.wait(server.submit("evaluate", server.upload_model(models.identity(("batch", 3)), "same"),
                        server.upload_dataset(models.npz(x=logits, y=np.ones(50, int)), "one label"),
                        {"metrics": ["roc_auc"]}, data={"preprocess": {"scale": 1}}))
    assert (ended["status"], ended["error"]["code"]) == ("failed", "metric_undefined")
    assert "roc_auc" in ended["error"]["detail"]
    for name in ("r2", "spearman"):
        answer = asked(server, "evaluate", digits_model, digits, {"metrics": [name]})
        assert_problem(answer, 422, pointer="/params/metrics/0")


def test_a_drop_of_the_accuracy_needs_one_and_a_validation_split(server, digits_model, digits):
    x = np.random.default_rng(0).normal(0, 1, (60, 3)).astype(np.float32)
    line = server.upload_model(models.identity(("batch", 3)), "line")
    shifted = server.upload_dataset(models.npz(x_train=x, y_train=x + 0.5, x_test=x, y_test=x + 0.5), "shifted")
    drop = {"target": {"max_accuracy_drop": 0.01}}
    assert_problem(asked(server, "prune", line, shifted, drop), 422, pointer="/params/target/max_accuracy_drop",
                   says=["has the metric `accuracy`, which does not suit the task regression", "max_worsening", "`r2`"])
    body = {"kind": "prune", "model": digits_model["id"], "dataset": digits["id"], "params": drop,
            "data": {"validation_fraction": 0}}
    assert_problem(server.post("/v1/jobs", json=body), 422, pointer="/params/target/max_accuracy_drop",
                   says="raise data.validation_fraction")


def test_a_model_that_knows_no_more_than_the_labels_is_doubted(server, digits_model, digits):
    def doubts(kind, params=None, scale=1 / 16):
        job = server.run(kind, digits_model, digits, params, data={"preprocess": {"scale": scale}})
        return [event["message"] for event in server.events(job) if event["type"] == "model_fits_badly"]

    assert doubts("evaluate") == []
    # Whatever becomes of its inputs, what was drawn can't be foretold.
    arrays = models.digits()
    drawn = {f"y_{split}": np.random.default_rng(0).permutation(arrays[f"y_{split}"]) for split in ("train", "test")}
    digits = server.upload_dataset(models.npz(**{**arrays, **drawn}), "drawn labels")
    [doubt] = doubts("evaluate")
    assert "always saying the same class" in doubt and "data.preprocess" in doubt
    # Nobody expects anything of a model before it is trained.
    assert doubts("train", {"epochs": 1}) == []


def test_a_way_to_prepare_inputs_that_suits_the_model_better_is_told(server, digits_model, digits):
    def told(kind="evaluate", params=None, **data):
        job = server.run(kind, digits_model, digits, params, data=data)
        return job, [event for event in server.events(job) if event["type"] == "inputs_on_another_scale"]

    assert told(preprocess={"scale": 1 / 16})[1] == []
    # Levels up to 16 are taken for those of 255, as all whole bytes are.
    job, [warning] = told()
    assert warning["level"] == "warning" and job["result"]["before"]["metrics"]["accuracy"] < 0.8
    better = warning["data"]["preprocess"]
    # It is where the result is, too.
    assert job["result"]["warnings"] == [{key: warning[key] for key in ("type", "message", "data")}]
    assert "say so with `data.preprocess`" in server.artifact(job, "report.html").decode()
    job, none = told(preprocess=better)
    assert "warnings" not in job["result"]
    assert none == [] and job["result"]["before"]["metrics"]["accuracy"] > 0.95
    assert "say so with `data.preprocess`" in warning["message"]
    assert warning["data"]["better"] == pytest.approx(job["result"]["before"]["metrics"]["accuracy"], abs=0.05)
    # Nobody expects anything of a model before it is trained.
    assert told("train", {"epochs": 1})[1] == []
    # Of a model that a job made, its own way is known.
    own = {"scale": 0.05, "mean": [0.1], "std": [0.8]}
    made = server.run("prune", digits_model, digits, {"target": {"macs_ratio": 0.9}}, data={"preprocess": own})
    job = server.run("evaluate", {"id": made["result"]["model"]}, digits, data={"preprocess": {"scale": 1 / 255}})
    [warning] = job["result"]["warnings"]
    assert "as in the job that made it" in warning["message"]
    assert warning["data"]["preprocess"] == own
    # Of a few examples nothing is concluded.
    arrays = models.digits()
    few = server.upload_dataset(models.npz(**{name: values[:40] for name, values in arrays.items()}), "few")
    job = server.run("evaluate", digits_model, few)
    assert [each["type"] for each in job["result"].get("warnings", [])] in ([], ["model_fits_badly"])


def test_a_job_on_what_a_job_made_prepares_its_inputs_alike(server, digits_model, digits):
    def fed(result):
        [entry] = result["environment"]["data"]["inputs"]
        return entry

    own = {"scale": 0.05, "mean": [0.1], "std": [0.8]}
    made = server.run("prune", digits_model, digits, {"target": {"macs_ratio": 0.9}, "finetune": {"epochs": 2}}, data={"preprocess": own})["result"]
    assert "inherited" not in fed(made)
    expects = server.get(f"/v1/models/{made['model']}").json()["summary"]["expects"]
    [expected] = expects["inputs"]
    assert {**own, "dtype": "uint8"}.items() <= expected.items()
    again = server.run("evaluate", made["model"], digits)["result"]
    assert own.items() <= fed(again).items() and fed(again)["inherited"] is True and "warnings" not in again
    assert again["before"]["metrics"] == made["after"]["metrics"]
    # It is told before the job runs, too, and a file that is uploaded elsewhere says the same.
    copy = server.upload_model(server.model_content(made["model"]), "copy")
    plan = server.post("/v1/jobs", json={"kind": "evaluate", "model": copy["id"], "dataset": digits["id"], "dry_run": True}).json()
    assert "as in the job that made the model" in plan["data"]["prepared"][0]
    # A student that no job made is fed as its teacher is.
    taught = server.run("distill", made["model"], digits, {"student": {"model": digits_model["id"]}, "finetune": {"epochs": 1}})["result"]
    assert own.items() <= fed(taught).items()
    # Who says one of the three speaks for all, and numbers of another type are on another scale.
    said = server.run("evaluate", made["model"], digits, data={"preprocess": {"scale": 0.0625}})["result"]
    assert (fed(said)["mean"], "inherited" in fed(said)) == ([0.0], False)
    arrays = models.digits()
    shares = server.upload_dataset(models.npz(**{name: array / np.float32(16) if name[0] == "x" else array for name, array in arrays.items()}), "shares")
    assert "inherited" not in fed(server.run("evaluate", made["model"], shares)["result"])
    # What was written into a file by somebody else is no reason to fail.
    for told in ("{", '{"inputs": [{}]}', json.dumps({**expects, "inputs": [{**expected, "std": [0.0]}]}), json.dumps({**expects, "inputs": [{**expected, "mean": [1, 2]}]}),
                 json.dumps({**expects, "inputs": [{**expected, "mean": [], "shape": [0]}]}),
                 json.dumps({**expects, "inputs": [{**expected, "audio": {"sample_rate": 0, "samples": 8, "spectrogram": None}}]})):
        forged = onnx.load_from_string(server.model_content(made["model"]))
        [entry] = [entry for entry in forged.metadata_props if entry.key == "sinter.expects"]
        entry.value = told
        forged = server.upload_model(forged.SerializeToString(), "forged")
        assert "inherited" not in fed(server.run("evaluate", forged, digits)["result"]), told


@pytest.fixture(scope="module")
def tumours(server):
    """Thirty measures of a tumour and a model with a single output, a sigmoid; PyTorch's accuracy beside it."""
    import torch
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    mean, std = x[:400].mean(0), x[:400].std(0)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(30, 16), torch.nn.ReLU(), torch.nn.Linear(16, 1), torch.nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    given, wanted = torch.from_numpy(((x - mean) / std).astype(np.float32)), torch.from_numpy(y.astype(np.float32))[:, None]
    for _ in range(100):
        optimizer.zero_grad()
        torch.nn.functional.binary_cross_entropy(model(given[:400]), wanted[:400]).backward()
        optimizer.step()
    file = io.BytesIO()
    torch.onnx.export(model.eval(), (given[:2],), file, dynamo=False, input_names=["x"], output_names=["benign"],
                      dynamic_axes={"x": {0: "batch"}, "benign": {0: "batch"}})
    accuracy = ((model(given[400:]) > 0.5).float() == wanted[400:]).float().mean().item()
    assert accuracy > 0.95
    return x.astype(np.float32), y, {"mean": mean.tolist(), "std": std.tolist()}, server.upload_model(file.getvalue(), "tumours"), accuracy


def test_a_single_output_says_yes_or_no(server, tumours):
    x, y, norm, model, accuracy = tumours

    def table(words):
        rows = lambda which: "".join([",".join([*(f"m{place}" for place in range(30)), "diagnosis"]) + "\n",
                                      *(",".join([*map(str, x[row]), words[y[row]]]) + "\n" for row in which)]).encode()
        return [("file", ("train.csv", rows(range(400)))), ("file", ("test.csv", rows(range(400, len(y)))))]

    named = server.post("/v1/datasets", params={"name": "named", "classes": "malignant,benign"}, files=table(["malignant", "benign"])).json()
    found = server.run("evaluate", model, named, data={"preprocess": norm})["result"]
    assert found["environment"]["data"]["task"] == "multilabel" and "warnings" not in found
    assert found["before"]["metrics"]["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    confusion = np.array(found["before"]["quality"]["confusion"])
    assert confusion.shape == (2, 2) and confusion.trace() / confusion.sum() == pytest.approx(accuracy, abs=1e-6)
    # In the order of the alphabet yes is no, which is told with the way out.
    turned = server.post("/v1/datasets", params={"name": "turned"}, files=table(["malignant", "benign"])).json()
    found = server.run("evaluate", model, turned, data={"preprocess": norm})["result"]
    [told] = found["warnings"]
    assert told["type"] == "classes_in_another_order" and told["data"]["order"] == [1, 0]
    # Numbers, and floating-point numbers, are taken alike.
    for kind in (np.int64, np.float32):
        arrays = models.npz(x_train=x[:400], y_train=y[:400].astype(kind), x_test=x[400:], y_test=y[400:].astype(kind))
        found = server.run("evaluate", model, server.upload_dataset(arrays, kind.__name__), data={"preprocess": norm})["result"]
        assert found["before"]["metrics"]["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    body = {"kind": "evaluate", "model": model["id"], "dataset": named["id"], "task": "classification"}
    assert_problem(server.post("/v1/jobs", json=body), 422, pointer="/task", says="`multilabel`")
    # What was not said is told: numbers less their mean, and the order.
    found = server.run("evaluate", model, turned)["result"]
    assert {one["type"] for one in found["warnings"]} <= {"inputs_on_another_scale", "model_fits_badly"} and found["warnings"]


def test_a_model_that_is_right_but_unsure_is_not_doubted(server):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 1)).astype(np.float32)
    y = (rng.random(2000) < 1 / (1 + np.exp(-1.5 * x[:, 0]))).astype(np.int64)
    dataset = server.upload_dataset(models.npz(x_train=x[:1000], y_train=y[:1000], x_test=x[1000:], y_test=y[1000:]), "unsure")
    found = server.run("evaluate", server.upload_model(models.identity(("batch", 1)), "unsure"), dataset)["result"]
    assert found["environment"]["data"]["task"] == "multilabel" and 0.6 < found["before"]["metrics"]["accuracy"] < 0.8
    assert "warnings" not in found


def test_what_two_jobs_put_into_a_model_is_one_preparation(server, digits_model, digits):
    fed = lambda result: result["environment"]["data"]["inputs"][0]
    first = {"preprocess": {"scale": 0.0625, "mean": [0.5], "std": [0.5]}, "embed_preprocessing": True}
    once = server.run("train", digits_model, digits, {"epochs": 1}, data=first)["result"]
    assert fed(once)["inside"] == {"scale": 0.0625, "mean": [0.5], "std": [0.5]} and fed(once)["scale"] == 1.0
    assert any("inside the model" in line for line in once["environment"]["data"]["prepared"])
    again = server.run("train", once["model"], digits, {"epochs": 1}, data={"preprocess": {"scale": 2}, "embed_preprocessing": True})["result"]
    inside = fed(again)["inside"]
    of = lambda level: (level * inside["scale"] - inside["mean"][0]) / inside["std"][0]
    for level in (0.0, 7.0, 16.0):
        assert of(level) == pytest.approx((level * 2 * 0.0625 - 0.5) / 0.5, abs=1e-6)
    # A student that no job made is fed what its teacher does inside.
    taught = server.run("distill", once["model"], digits, {"student": {"model": digits_model["id"]}, "finetune": {"epochs": 1}})["result"]
    assert (fed(taught)["scale"], fed(taught)["mean"], fed(taught)["std"]) == (0.0625, [0.5], [0.5])


def test_several_labels_of_floats_are_labels_and_stay_so(server):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3)).astype(np.float32)
    labels = (x > 0).astype(np.float32)
    dataset = server.upload_dataset(models.npz(x_train=x[:200], y_train=labels[:200], x_test=x[200:], y_test=labels[200:]), "labels")
    model = server.upload_model(models.identity(("batch", 3)), "same")
    found = server.run("evaluate", model, dataset)["result"]
    assert found["environment"]["data"]["task"] == "multilabel" and found["before"]["metrics"]["accuracy"] == 1.0
    # A job on what a job made has its task, where the target alone would be taken for values.
    file = io.BytesIO()
    import torch
    torch.onnx.export(torch.nn.Linear(3, 3), (torch.zeros(2, 3),), file, dynamo=False, input_names=["x"], output_names=["y"],
                      dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}})
    soft = server.upload_dataset(models.npz(x_train=x[:200], y_train=labels[:200] * 0.9, x_test=x[200:], y_test=labels[200:] * 0.9), "soft")
    made = server.run("train", server.upload_model(file.getvalue(), "linear"), dataset, {"epochs": 2})["result"]["model"]
    assert server.get(f"/v1/models/{made}").json()["summary"]["expects"]["task"] == "multilabel"
    assert server.run("evaluate", made, soft)["result"]["environment"]["data"]["task"] == "multilabel"
    assert server.run("evaluate", model, soft)["result"]["environment"]["data"]["task"] == "regression"
    # Each label is right or not by itself.
    said = server.post(f"/v1/models/{made}/predict", json={"inputs": {"x": x[:4].tolist()}}).json()
    logits = np.array(said["outputs"][0]["values"])
    for row, classes in zip(logits, said["top"], strict=True):
        for one in classes:
            assert one["probability"] == pytest.approx(1 / (1 + np.exp(-row[one["label"]])), abs=1e-6)


def test_a_target_on_another_scale_is_told(server):
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    x, y = x.astype(np.float32), y.astype(np.float32)
    weights = np.linalg.lstsq(np.c_[x[:300], np.ones(300)], (y[:300] - y[:300].mean()) / y[:300].std(), rcond=None)[0]
    import torch
    layer = torch.nn.Linear(10, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights[None, :10]))
        layer.bias.copy_(torch.from_numpy(weights[10:]))
    file = io.BytesIO()
    torch.onnx.export(layer, (torch.zeros(2, 10),), file, dynamo=False, input_names=["x"], output_names=["y"],
                      dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}})
    dataset = server.upload_dataset(models.npz(x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:]), "diabetes")
    found = server.run("evaluate", server.upload_model(file.getvalue(), "standardised"), dataset)["result"]
    [told] = found["warnings"]
    assert told["type"] == "target_on_another_scale" and found["before"]["metrics"]["r2"] < 0
    said = np.c_[x[300:], np.ones(142)] @ weights
    slope, offset = np.polyfit(said, y[300:], 1)
    assert told["data"]["scale"] == pytest.approx(slope, rel=1e-3) and told["data"]["offset"] == pytest.approx(offset, rel=1e-3)
    assert told["data"]["better"] == pytest.approx(np.corrcoef(said, y[300:])[0, 1] ** 2, abs=1e-4)


def test_a_model_that_lost_most_of_what_it_knew_comes_with_a_warning(server, digits_model, digits):
    def warned(params):
        job = server.run("prune", digits_model, digits, params, data={"preprocess": {"scale": 1 / 16}})
        return job, [event["message"] for event in server.events(job) if event["type"] == "quality_lost"]

    half = {"target": {"macs_ratio": 0.5}}
    job, none = warned({**half, "finetune": {"epochs": 2}})
    assert none == []
    job, [warning] = warned({**half, "finetune": {"epochs": 2, "optimizer": {"name": "sgd", "learning_rate": 100}}})
    before, after = (job["result"][when]["metrics"]["accuracy"] for when in ("before", "after"))
    assert f"fell from {before:.4f} to {after:.4f}" in warning and "a smaller `optimizer.learning_rate`" in warning
    job, [warning] = warned({"granularity": "weight", "target": {"sparsity": 0.98}, "max_layer_sparsity": 1})
    assert "more cuts (`schedule.steps`)" in warning


def test_a_search_is_judged_by_any_metric(server, digits_model, digits):
    job = server.run("search", digits_model, digits, {
        "space": {"hyperparameters": {"learning_rate": {"log_uniform": [1e-3, 1e-2]}}}, "trials": 2,
        "strategy": {"name": "random"}, "trial": {"epochs": 1}, "final": {"epochs": 1}, "evaluation": {"method": "holdout"},
        "objectives": [{"metric": "roc_auc"}, {"metric": "macs"}]}, data={"preprocess": {"scale": 1 / 16}})
    trials = server.artifact(job, "trials.json")
    assert b'"roc_auc"' in trials
    # Of both models also on the test split, beside what is usual.
    assert all({"accuracy", "loss", "roc_auc"} <= set(job["result"][when]["metrics"]) for when in ("before", "after"))
    unknown = asked(server, "search", digits_model, digits, {"space": {}, "objectives": [{"metric": "beauty"}]})
    assert "beauty" in unknown.text and "roc_auc" in unknown.text and "latency_ms" in unknown.text


def test_class_weights_are_pytorchs(server):
    """One step of plain descent on a linear model, by given and by balanced weights."""
    import torch

    random = np.random.default_rng(5)
    labels = random.choice(3, 64, p=[0.7, 0.2, 0.1])
    x = (random.normal(0, 1, (64, 6)) + labels[:, None]).astype(np.float32)
    dataset = server.upload_dataset(models.npz(x_train=x, y_train=labels, x_test=x, y_test=labels), "rare labels")
    torch.manual_seed(0)
    start = torch.nn.Linear(6, 3)
    file = io.BytesIO()
    torch.onnx.export(start, (torch.zeros(2, 6),), file, input_names=["input"], output_names=["output"],
                      dynamic_axes={"input": {0: "batch"}, "output": {0: "batch"}}, dynamo=False)
    model = server.upload_model(file.getvalue(), "linear")
    balanced = 64 / (3 * np.bincount(labels, minlength=3))
    for asked, weights, smoothing in (("balanced", balanced, 0), ([0.5, 2, 3], [0.5, 2, 3], 0.1), (None, [1, 1, 1], 0)):
        layer = torch.nn.Linear(6, 3)
        layer.load_state_dict(start.state_dict())
        loss = torch.nn.functional.cross_entropy(layer(torch.from_numpy(x)), torch.from_numpy(labels),
                                                 weight=torch.tensor(weights, dtype=torch.float32), label_smoothing=smoothing)
        loss.backward()
        with torch.no_grad():
            expected = x @ (layer.weight - 0.5 * layer.weight.grad).numpy().T + (layer.bias - 0.5 * layer.bias.grad).numpy()
        job = server.run("train", model, dataset, {
            "epochs": 1, "optimizer": {"name": "sgd", "learning_rate": 0.5}, "label_smoothing": smoothing,
            "schedule": {"name": "constant", "warmup_fraction": 0}, **({"class_weights": asked} if asked else {})},
            data={"batch_size": 64, "validation_fraction": 0, "preprocess": {"scale": 1}})
        content = server.model_content(job["result"]["model"])
        assert np.abs(models.outputs(content, {"input": x})[0] - expected).max() < 1e-5, asked
    for wrong, says in (([1, 2], "3 classes"), ([0, 1, 1], "above 0"), ("even", "balanced")):
        answer = asked_of(server, model, dataset, {"class_weights": wrong})
        assert_problem(answer, 422, pointer="/params/class_weights")
        assert says in answer.text


def asked_of(server, model, dataset, params):
    return asked(server, "train", model, dataset, params)
