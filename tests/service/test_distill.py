"""Distillation: one step beside PyTorch, students of all kinds, teachers live and kept, refusals.

Teachers and students are small networks on scikit-learn's digits, exported by PyTorch; ONNX Runtime judges.
"""

import io
import json

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from sklearn.datasets import load_digits
from scipy import stats
from scipy.stats import spearmanr
from torch import nn

import graph_tools
from conftest import END_STATES, Server, assert_problem

pytestmark = pytest.mark.timeout(300)

DATA = {"batch_size": 16, "preprocess": {"scale": 1}}
SOFT = [{"name": "soft_targets", "temperature": 4, "weight": 0.9}, {"name": "cross_entropy", "weight": 0.1}]


def convolutional(width, classes=10):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * width, classes))


def perceptron(hidden, classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, classes))


def exported(model, shape=(1, 8, 8), batch=None):
    file = io.BytesIO()
    axes = {} if batch else {"x": {0: "batch"}, "y": {0: "batch"}}
    torch.onnx.export(model.eval(), (torch.zeros(batch or 2, *shape),), file, dynamo=False, opset_version=17,
                      input_names=["x"], output_names=["y"], dynamic_axes=axes)
    return file.getvalue()


def fitted(model, x, y, epochs=25, rate=4e-3):
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model


def saved(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


class Setting:
    """The digits, a trained teacher, an untrained student, on the server."""

    def __init__(self, server):
        torch.manual_seed(0)
        torch.set_num_threads(1)
        images, labels = load_digits(return_X_y=True)
        self.images = images.reshape(-1, 1, 8, 8).astype(np.float32) / 16
        self.labels = labels
        self.arrays = {"x_train": self.images[:1200], "y_train": labels[:1200], "x_test": self.images[1200:],
                       "y_test": labels[1200:]}
        x, y = torch.from_numpy(self.images[:1200]), torch.from_numpy(labels[:1200])
        self.teacher_module = fitted(convolutional(16), x, y)
        self.student_module = perceptron(12)
        self.teacher = server.upload_model(exported(self.teacher_module), "teacher")
        self.student = server.upload_model(exported(self.student_module), "student")
        self.dataset = server.upload_dataset(saved(**self.arrays), "digits")

    def test_accuracy(self, content):
        logits = graph_tools.session_of(content).run(None, {"x": self.images[1200:]})[0]
        return float((logits.argmax(1) == self.labels[1200:]).mean())


@pytest.fixture(scope="module")
def setting(server):
    return Setting(server)


def distill(server, setting, **params):
    more = {name: params.pop(name) for name in ("dataset", "teacher_model", "task", "seed") if name in params}
    data = params.pop("data", DATA)
    dataset = more.pop("dataset", setting.dataset)
    model = more.pop("teacher_model", setting.teacher)
    params = {"student": {"model": setting.student["id"]}, "finetune": {"epochs": 3}, **params}
    return server.run("distill", model, dataset, params, timeout=280, data=data, **more)


def initializers(content):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(content).graph.initializer}


# One step beside PyTorch


def soft_targets(student, teacher, _, temperature=4.0):
    return F.kl_div(F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1),
                    reduction="batchmean") * temperature ** 2


def standardized(student, teacher, labels):
    def standard(logits):
        return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)
    return soft_targets(standard(student), standard(teacher), labels, 2.0)


STEPS = {
    "hinton": (SOFT, lambda s, t, y: 0.9 * soft_targets(s, t, y) + 0.1 * F.cross_entropy(s, y)),
    "logits_mse": ([{"name": "logits_mse"}], lambda s, t, y: F.mse_loss(s, t)),
    "standardized": ([{"name": "standardized", "temperature": 2}], standardized),
    "cosine": ([{"name": "cosine", "weight": 3}], lambda s, t, y: 3 * (1 - F.cosine_similarity(s, t)).mean()),
}


@pytest.mark.parametrize("name", STEPS)
def test_one_step_is_pytorchs(server, setting, name):
    losses, expected = STEPS[name]
    count = 256
    arrays = {**setting.arrays, "x_train": setting.arrays["x_train"][:count],
              "y_train": setting.arrays["y_train"][:count]}
    dataset = server.upload_dataset(saved(**arrays), f"digits {name}")
    job = distill(server, setting, dataset=dataset, losses=losses,
                  finetune={"epochs": 1, "optimizer": {"name": "sgd", "learning_rate": 1.0, "weight_decay": 0},
                            "schedule": {"name": "constant", "warmup_fraction": 0}},
                  data={**DATA, "batch_size": count, "validation_fraction": 0})
    x, y = torch.from_numpy(arrays["x_train"]), torch.from_numpy(arrays["y_train"])
    module = perceptron(12)
    module.load_state_dict(setting.student_module.state_dict())
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    with torch.no_grad():
        teacher = setting.teacher_module(x)
    expected(module(x), teacher, y).backward()
    optimizer.step()
    found = initializers(server.model_content(job["result"]["model"]))
    before = initializers(exported(setting.student_module))
    wanted = initializers(exported(module))
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        moved = np.abs(value - before[key]).max()
        np.testing.assert_allclose(found[key], value, atol=2e-5 * max(1, moved))
        assert moved > 1e-4 or "bias" in key


# Whole trainings


def check_comparison(outcome, differences):
    """The p-value, against SciPy's test of the same pairs."""
    by_scipy = stats.permutation_test((differences, np.zeros_like(differences)), lambda a, b, axis: (a - b).mean(axis=axis),
                                      permutation_type="samples", vectorized=True, n_resamples=20_000, rng=0)
    assert outcome["comparison"]["p_value"] == pytest.approx(by_scipy.pvalue, abs=0.02)
    assert outcome["significant"] == (outcome["comparison"]["p_value"] < 0.05)


def test_a_distilled_student_beside_its_control(server, setting):
    job = distill(server, setting, losses=SOFT, control=True, finetune={
        "epochs": 15, "weights": "reinitialize", "optimizer": {"name": "adamw", "learning_rate": 0.01}})
    result = job["result"]
    outcome = result["distill"]
    assert outcome["source"] == "cached" and outcome["teachers"] == 1
    content = server.model_content(result["model"])
    assert result["after"]["metrics"]["accuracy"] == pytest.approx(setting.test_accuracy(content), abs=1e-6)
    teacher = setting.test_accuracy(server.model_content(setting.teacher))
    assert outcome["teacher"]["accuracy"] == pytest.approx(teacher, abs=1e-6)
    assert result["before"]["metrics"]["accuracy"] == pytest.approx(teacher, abs=1e-6)
    assert result["after"]["metrics"]["accuracy"] > 0.8
    control = outcome["control"]
    assert control["epochs"] == 15
    assert outcome["helped"] == (result["after"]["metrics"]["accuracy"] > control["metrics"]["accuracy"])
    chance = b"that can be told from chance" in server.artifact(job, "report.html")
    assert chance == (not outcome["significant"] and outcome["comparison"]["value"] != outcome["comparison"]["control"])
    # The control is what a training without a teacher gives.
    alone = server.run("train", setting.student, setting.dataset, {
        "epochs": 15, "weights": "reinitialize", "optimizer": {"name": "adamw", "learning_rate": 0.01}}, data=DATA)
    assert control["metrics"]["accuracy"] == alone["result"]["after"]["metrics"]["accuracy"]
    beside = server.artifact(job, "control.onnx")
    assert setting.test_accuracy(beside) == pytest.approx(control["metrics"]["accuracy"], abs=1e-6)
    assert graph_tools.count_parameters(beside) == graph_tools.count_parameters(content)
    logits = [graph_tools.session_of(server.model_content(model)).run(None, {"x": setting.images[1200:]})[0]
              for model in (setting.teacher, result["model"])]
    right = [graph_tools.session_of(server.model_content(model)).run(None, {"x": setting.images[1200:]})[0].argmax(1)
             == setting.labels[1200:] for model in (result["model"], alone["result"]["model"])]
    assert outcome["comparison"]["metric"] == "accuracy"
    assert outcome["comparison"]["value"] == result["after"]["metrics"]["accuracy"]
    assert outcome["comparison"]["control"] == control["metrics"]["accuracy"]
    check_comparison(outcome, right[0].astype(float) - right[1])
    same = (logits[0].argmax(1) == logits[1].argmax(1)).mean()
    assert outcome["agreement"]["top_1"] == pytest.approx(same, abs=1e-6)
    assert result["change"]["parameters_ratio"] < 0.2
    report = server.artifact(job, "report.html").decode()
    assert "Distillation" in report and "without a teacher" in report
    # The curves of both lie beside each other, step by step.
    curves = {each["name"]: [point["step"] for point in each["points"]]
              for each in server.get(f"/v1/jobs/{job['id']}/metrics").json()["data"]}
    assert curves["train/loss"] == curves["control/loss"] and curves["train/loss"][0] <= 10
    assert curves["validation/loss"] == curves["control_validation/loss"]


EVERY = {
    "soft_targets": {"temperature": 2},
    "logits_mse": {},
    "decoupled": {"alpha": 1, "beta": 2},
    "standardized": {},
    "similarity": {},
    "contrastive": {},
    "feature": {},
    "attention_transfer": {},
    "relational": {},
    "cosine": {},
}


@pytest.mark.parametrize("name", EVERY)
def test_every_loss_teaches_a_smaller_network(server, setting, name):
    """The second model is narrower, so that features are projected."""
    torch.manual_seed(2)
    student = server.upload_model(exported(convolutional(8)), "narrow")
    losses = [{"name": name, "weight": 1, **EVERY[name]}, {"name": "cross_entropy", "weight": 0.5}]
    finetune = {"epochs": 10, "optimizer": {"name": "adamw", "learning_rate": 0.01}}
    job = distill(server, setting, student={"model": student["id"]}, losses=losses, finetune=finetune)
    result = job["result"]
    assert result["after"]["metrics"]["accuracy"] > 0.8
    content = server.model_content(result["model"])
    assert result["after"]["metrics"]["accuracy"] == pytest.approx(setting.test_accuracy(content), abs=1e-6)
    # Nothing of the projections is left.
    assert initializers(content).keys() == initializers(server.model_content(student)).keys()
    term = result["distill"]["losses"][0]
    if name in ("feature", "attention_transfer"):
        shapes = [(pair["teacher_shape"], pair["student_shape"]) for pair in term["pairs"]]
        assert shapes == [([16, 8, 8], [8, 8, 8]), ([32, 4, 4], [16, 4, 4])]
        assert all(pair["projected"] == (name == "feature") for pair in term["pairs"])
    elif name in ("similarity", "contrastive", "relational"):
        assert [(pair["teacher_shape"], pair["student_shape"]) for pair in term["pairs"]] == [([128], [64])]
    else:
        assert "pairs" not in term
    live = name in ("similarity", "contrastive", "feature", "attention_transfer", "relational")
    assert result["distill"]["source"] == ("live" if live else "cached")


def test_named_pairs_of_other_resolutions(server, setting):
    layers = [layer["name"] for layer in server.get(f"/v1/models/{setting.teacher['id']}/layers").json()["data"]]
    student = server.upload_model(exported(convolutional(4)), "narrow")
    pairs = [[layers[1], layers[0]]]
    losses = [{"name": "feature", "pairs": pairs}, {"name": "attention_transfer", "pairs": pairs}]
    job = distill(server, setting, student={"model": student["id"]}, losses=losses)
    for term in job["result"]["distill"]["losses"]:
        (pair,) = term["pairs"]
        assert (pair["teacher_shape"], pair["student_shape"]) == ([32, 4, 4], [4, 8, 8])


@pytest.mark.parametrize("weights", ["inherit", "reinitialize"])
def test_a_student_made_out_of_its_teacher(server, setting, weights):
    job = distill(server, setting, student={"width": 0.5, "weights": weights},
                  finetune={"epochs": 8, "optimizer": {"name": "adamw", "learning_rate": 0.005}})
    result = job["result"]
    shapes = [array.shape for array in initializers(server.model_content(result["model"])).values()
              if array.ndim == 4]
    assert sorted(shapes) == [(8, 1, 3, 3), (16, 8, 3, 3)]
    content = server.model_content(result["model"])
    assert result["after"]["metrics"]["accuracy"] == pytest.approx(setting.test_accuracy(content), abs=1e-6)
    assert result["after"]["metrics"]["accuracy"] > (0.93 if weights == "inherit" else 0.6)


def test_an_ensemble_teaches_its_mean(server, setting):
    torch.manual_seed(1)
    x, y = torch.from_numpy(setting.images[:1200]), torch.from_numpy(setting.labels[:1200])
    other_module = fitted(perceptron(40), x, y)
    other = server.upload_model(exported(other_module), "other")
    test = torch.from_numpy(setting.images[1200:])
    with torch.no_grad():
        logits = [setting.teacher_module(test), other_module(test)]
    means = {
        "logits": (logits[0] + logits[1]) / 2,
        "probabilities": ((logits[0].softmax(1) + logits[1].softmax(1)) / 2).log(),
    }
    for average, mean in means.items():
        job = distill(server, setting, teachers=[other["id"]], average=average)
        outcome = job["result"]["distill"]
        assert outcome["teachers"] == 2
        loss = F.cross_entropy(mean, torch.from_numpy(setting.labels[1200:])).item()
        assert outcome["teacher"]["loss"] == pytest.approx(loss, rel=1e-4)


def test_a_teacher_teaches_the_mean_of_what_it_sees(server, setting):
    """Digits moved by up to a pixel, as nine shifts that are drawn alike often."""
    test, labels = torch.from_numpy(setting.images[1200:]), torch.from_numpy(setting.labels[1200:])
    border = F.pad(test, (1, 1, 1, 1))
    with torch.no_grad():
        plain = setting.teacher_module(test)
        shifts = torch.stack([setting.teacher_module(border[..., down:down + 8, right:right + 8])
                              for down in range(3) for right in range(3)])
    means = {"logits": (plain + 255 * shifts.mean(0)) / 256,
             "probabilities": ((plain.softmax(1) + 255 * shifts.softmax(2).mean(0)) / 256).log()}
    views = {"count": 256, "augment": {"crop": {"padding": 1}}}
    for average, mean in means.items():
        job = distill(server, setting, teacher_views=views, average=average)
        outcome = job["result"]["distill"]
        assert (outcome["source"], outcome["teachers"], outcome["views"]) == ("cached", 1, 256)
        assert "average over 256 views" in server.artifact(job, "report.html").decode()
        wanted, alone = F.cross_entropy(mean, labels).item(), F.cross_entropy(plain, labels).item()
        assert outcome["teacher"]["loss"] == pytest.approx(wanted, rel=0.03)
        assert abs(alone - wanted) > 0.1 * wanted


def test_classes_in_another_order(server, setting):
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    module = nn.Sequential(*[each for each in setting.teacher_module][:-1], nn.Linear(128, 10))
    with torch.no_grad():
        # The teacher's class order[k] is what the data calls k.
        module[-1].weight[order] = setting.teacher_module[-1].weight
        module[-1].bias[order] = setting.teacher_module[-1].bias
    shuffled = server.upload_model(exported(module), "shuffled")
    plain = distill(server, setting, losses=SOFT[:1])
    mapped = distill(server, setting, losses=SOFT[:1], teacher_model=shuffled, class_map=order)
    found, wanted = (initializers(server.model_content(job["result"]["model"])) for job in (mapped, plain))
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, atol=1e-4)
    assert mapped["result"]["distill"]["teacher"] == pytest.approx(plain["result"]["distill"]["teacher"], rel=1e-4)


def test_teacher_and_student_of_other_layouts_and_batch_sizes(server, setting):
    """The student reads rows of 64 numbers, the teacher images, and always 50 of them."""
    fixed = server.upload_model(exported(setting.teacher_module, batch=50), "fixed")
    flat = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    student = server.upload_model(exported(flat, (64,)), "flat")
    finetune = {"epochs": 10, "optimizer": {"name": "adamw", "learning_rate": 0.01}}
    free = distill(server, setting, student={"model": student["id"]}, finetune=finetune)
    bound = distill(server, setting, student={"model": student["id"]}, finetune=finetune, teacher_model=fixed)
    assert free["result"]["after"]["metrics"]["accuracy"] > 0.8
    # 1,080 examples are no multiple of 50 and each has the same answer.
    found, wanted = (initializers(server.model_content(job["result"]["model"])) for job in (bound, free))
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, atol=2e-3)


def test_the_same_view_goes_to_teacher_and_student(server, setting):
    augment = {"crop": {"padding": 1}, "mixup": {"alpha": 0.2}, "noise": {"std": 0.05}}
    finetune = {"epochs": 12, "augment": augment, "optimizer": {"name": "adamw", "learning_rate": 0.01}}
    job = distill(server, setting, losses=SOFT[:1], finetune=finetune)
    assert job["result"]["distill"]["source"] == "live"
    assert job["result"]["after"]["metrics"]["accuracy"] > 0.75
    # A student that has learned everything the teacher knows of moved digits agrees with it on them.
    twin = distill(server, setting, student={"width": 1, "weights": "reinitialize"}, losses=[{"name": "logits_mse"}],
                   finetune={**finetune, "epochs": 1})
    assert twin["status"] == "succeeded"


def test_weights_by_schedule_and_a_learned_temperature(server, setting):
    losses = [
        {"name": "soft_targets", "temperature": "learned", "weight": {"from": 1, "to": 0.2, "curve": "cosine"}},
        {"name": "cross_entropy", "weight": {"from": 0, "to": 1}},
    ]
    job = distill(server, setting, losses=losses,
                  finetune={"epochs": 12, "optimizer": {"name": "adamw", "learning_rate": 0.01}})
    assert job["result"]["after"]["metrics"]["accuracy"] > 0.8
    assert job["params"]["losses"] == losses if "params" in job else True


def test_unlabelled_examples(server, setting):
    arrays = {"x_train": setting.images[:1200], "x_test": setting.images[1200:]}
    dataset = server.upload_dataset(saved(**arrays), "unlabelled")
    finetune = {"epochs": 40, "optimizer": {"name": "adamw", "learning_rate": 0.01},
                "early_stopping": {"patience": 10}}
    job = distill(server, setting, dataset=dataset, losses=SOFT[:1], finetune=finetune)
    result = job["result"]
    assert result["before"]["metrics"] == {} and result["after"]["metrics"] == {}
    assert result["distill"]["agreement"]["top_1"] > 0.85
    assert setting.test_accuracy(server.model_content(result["model"])) > 0.85
    body = {"kind": "distill", "model": setting.teacher["id"], "dataset": dataset["id"],
            "params": {"student": {"model": setting.student["id"]}, "losses": SOFT}}
    assert_problem(server.post("/v1/jobs", json=body), 422, "data_misfit", pointer="/dataset")
    # Without labels nothing can be evaluated.
    body = {"kind": "evaluate", "model": setting.teacher["id"], "dataset": dataset["id"]}
    assert_problem(server.post("/v1/jobs", json=body), 422, "data_misfit", pointer="/dataset")


def test_embeddings_by_their_cosine(server, setting):
    def embedding(width):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh(), nn.Linear(width, 16))

    torch.manual_seed(3)
    teacher = server.upload_model(exported(embedding(48)), "embedding")
    student = server.upload_model(exported(embedding(20)), "small embedding")
    job = distill(server, setting, teacher_model=teacher, task="embedding", student={"model": student["id"]},
                  losses=[{"name": "cosine"}],
                  finetune={"epochs": 20, "optimizer": {"name": "adamw", "learning_rate": 0.01}})
    agreement = job["result"]["distill"]["agreement"]
    assert agreement["cosine"] > 0.97
    assert job["result"]["after"]["metrics"] == {}
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.Tanh(), nn.Linear(20, 6))
    other = distill(server, setting, teacher_model=teacher, task="embedding",
                    student={"model": server.upload_model(exported(narrow), "narrow")["id"]}, losses=[{"name": "relational"}],
                    finetune={"epochs": 10, "optimizer": {"name": "adamw", "learning_rate": 0.01}})
    x = setting.arrays["x_test"].astype(np.float32).reshape(-1, 1, 8, 8) * DATA["preprocess"]["scale"]
    embedded = lambda model: run_model(server, model, x)
    theirs = cosines(embedded(teacher["id"]))
    for result in (job["result"], other["result"]):
        own, agreement = cosines(embedded(result["model"])), result["distill"]["agreement"]
        pairs = np.tril_indices(len(x), -1)
        assert agreement["spearman"] == pytest.approx(spearmanr(theirs[pairs], own[pairs]).statistic, abs=1e-3)
        for name, count in (("recall_at_1", 1), ("recall_at_10", 10)):
            nearest = lambda table: np.argsort(-(table - 3 * np.eye(len(x))), 1, kind="stable")[:, :count]
            shared = np.mean([len(set(a) & set(b)) / count for a, b in zip(nearest(theirs), nearest(own))])
            assert agreement[name] == pytest.approx(shared, abs=0.01)
    assert job["result"]["distill"]["agreement"]["recall_at_10"] > 0.7
    assert "cosine" not in other["result"]["distill"]["agreement"]


def run_model(server, model, x):
    session = graph_tools.session_of(server.model_content(model))
    return session.run(None, {session.get_inputs()[0].name: x})[0].astype(np.float64)


def cosines(rows):
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows @ rows.T


def test_regression_by_a_bounded_loss(server, setting):
    """The brightness of the four quarters of an image."""
    def quarters(images):
        return images.reshape(-1, 2, 4, 2, 4).mean((2, 4)).reshape(-1, 4).astype(np.float32)

    arrays = {key: quarters(setting.arrays[key.replace("y", "x")]) if key[0] == "y" else value
              for key, value in setting.arrays.items()}
    dataset = server.upload_dataset(saved(**arrays), "quarters")
    torch.manual_seed(4)
    exact = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        exact[1].bias.zero_()
        places = np.arange(64).reshape(8, 8)
        for index in range(4):
            exact[1].weight[index] = 0
            block = places[index // 2 * 4:][:4, index % 2 * 4:][:, :4].flatten()
            exact[1].weight[index, block] = 1 / 16
    teacher = server.upload_model(exported(exact), "exact")
    student = server.upload_model(exported(perceptron(16, 4)), "student")
    losses = [{"name": "bounded_regression"}, {"name": "logits_mse", "weight": 0.5}]
    job = distill(server, setting, dataset=dataset, teacher_model=teacher, student={"model": student["id"]},
                  losses=losses, control=True, finetune=(lessons := {
                      "epochs": 15, "optimizer": {"name": "adamw", "learning_rate": 0.01}}))
    assert job["result"]["before"]["metrics"]["loss"] < 1e-10
    assert job["result"]["after"]["metrics"]["loss"] < 3e-3
    # What the control is worth, by the squared errors of the same examples.
    outcome = job["result"]["distill"]
    alone = server.run("train", student, dataset, lessons, data=DATA)["result"]["model"]
    errors = [(graph_tools.session_of(server.model_content(model)).run(None, {"x": setting.images[1200:]})[0]
               - arrays["y_test"]) ** 2 for model in (job["result"]["model"], alone)]
    own, control = (float(error.mean()) for error in errors)
    assert outcome["comparison"] | {"p_value": 0} == {
        "metric": "loss", "value": pytest.approx(own, rel=1e-4), "control": pytest.approx(control, rel=1e-4), "p_value": 0}
    assert outcome["helped"] == (own < control)
    check_comparison(outcome, (errors[0] - errors[1]).mean(1))


def test_prune_then_distil_from_the_original(server, setting):
    steps = [
        {"kind": "prune", "params": {"target": {"macs_ratio": 0.4}, "criterion": "taylor"}},
        {"kind": "distill", "params": {"teacher": "original", "losses": SOFT, "control": True,
                                       "finetune": {"epochs": 5}}},
        {"kind": "evaluate", "params": {}},
    ]
    job = server.run("pipeline", setting.teacher, setting.dataset, {"steps": steps}, timeout=280, data=DATA)
    result = job["result"]
    pruned, distilled, _ = result["steps"]
    assert pruned["after"]["macs"] == distilled["after"]["macs"] == result["after"]["macs"]
    assert result["change"]["macs_ratio"] <= 0.4
    assert distilled["distill"]["teacher"]["accuracy"] == result["before"]["metrics"]["accuracy"]
    assert distilled["distill"]["control"]["epochs"] == 5
    assert setting.test_accuracy(server.artifact(job, "step-2-control.onnx")) == pytest.approx(
        distilled["distill"]["control"]["metrics"]["accuracy"], abs=1e-6)
    assert distilled["after"]["metrics"]["accuracy"] >= pruned["after"]["metrics"]["accuracy"] - 0.02
    # Zeros of a pruning stay zeros.
    steps[0]["params"] = {"granularity": "weight", "target": {"sparsity": 0.7}}
    sparse = server.run("pipeline", setting.teacher, setting.dataset, {"steps": steps[:2]}, timeout=280, data=DATA)
    before, after = (step["after"]["nonzero_parameters"] for step in sparse["result"]["steps"])
    assert before == after < 0.4 * sparse["result"]["before"]["parameters"]


def test_fine_tuning_by_the_original_is_pruning_and_distilling(server, setting):
    prune = {"target": {"macs_ratio": 0.5}, "criterion": "taylor"}
    finetune = {"epochs": 3}
    apart = server.run("pipeline", setting.teacher, setting.dataset, {"steps": [
        {"kind": "prune", "params": prune},
        {"kind": "distill", "params": {"teacher": "original", "losses": SOFT, "finetune": finetune}},
    ]}, data=DATA)
    together = server.run("prune", setting.teacher, setting.dataset, {**prune, "distill": SOFT, "finetune": finetune},
                          data=DATA)
    alone = server.run("prune", setting.teacher, setting.dataset, {**prune, "finetune": finetune}, data=DATA)
    contents = [server.model_content(job["result"]["model"]) for job in (apart, together, alone)]
    assert contents[0] == contents[1] != contents[2]
    body = {"kind": "prune", "model": setting.teacher["id"], "dataset": setting.dataset["id"]}
    for params, pointer in [
        ({**prune, "distill": SOFT}, "/params/distill"),
        ({**prune, "finetune": finetune, "distill": [{"name": "cross_entropy"}]}, "/params/distill"),
        ({**prune, "finetune": finetune, "distill": [{"name": "cosine", "alpha": 1}]}, "/params/distill/0/alpha"),
        ({**prune, "finetune": finetune, "distill": [{"name": "bounded_regression"}]}, "/params/distill/0"),
    ]:
        assert_problem(server.post("/v1/jobs", json={**body, "params": params}), 422, pointer=pointer)


# Refusals


def refused(server, setting, status=422, code=None, pointer=None, says=(), model=None, dataset=None, **params):
    params = {"student": {"model": setting.student["id"]}, **params}
    body = {"kind": "distill", "model": (model or setting.teacher)["id"],
            "dataset": (dataset or setting.dataset)["id"], "params": params, "data": DATA}
    return assert_problem(server.post("/v1/jobs", json=body), status, code, pointer=pointer, says=says)


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"student": None}, "/params/student"),
        ({"student": {}}, "/params/student"),
        ({"student": {"width": 1}}, "/params/student"),
        ({"student": {"width": 0}}, "/params/student/width"),
        ({"student": {"width": 0.5, "depth": 1.5}}, "/params/student/depth"),
        ({"student": {"width": 0.5, "weights": "borrow"}}, "/params/student/weights"),
        ({"student": {"width": 0.5, "preprocess": {"scale": 1}}}, "/params/student/preprocess"),
        ({"teacher": "original"}, "/params/teacher"),
        ({"losses": []}, "/params/losses"),
        ({"losses": [{"name": "cross_entropy"}]}, "/params/losses"),
        ({"losses": [{"name": "wasserstein"}]}, "/params/losses/0/name"),
        ({"losses": [{"name": "soft_targets", "weight": -1}]}, "/params/losses/0/weight"),
        ({"losses": [{"name": "soft_targets", "weight": {"from": 0, "to": 0}}]}, "/params/losses/0/weight"),
        ({"losses": [{"name": "soft_targets", "temperature": 0}]}, "/params/losses/0/temperature"),
        ({"losses": [{"name": "soft_targets", "temperature": "warm"}]}, "/params/losses/0/temperature"),
        ({"losses": [{"name": "logits_mse", "temperature": 2}]}, "/params/losses/0/temperature"),
        ({"losses": [{"name": "contrastive", "temperature": "learned"}]}, "/params/losses/0/temperature"),
        ({"losses": [{"name": "soft_targets", "alpha": 1}]}, "/params/losses/0/alpha"),
        ({"losses": [{"name": "decoupled", "beta": -1}]}, "/params/losses/0/beta"),
        ({"losses": [{"name": "soft_targets", "margin": 1}]}, "/params/losses/0/margin"),
        ({"losses": [{"name": "soft_targets", "pairs": "auto"}]}, "/params/losses/0/pairs"),
        ({"losses": [{"name": "feature", "pairs": []}]}, "/params/losses/0/pairs"),
        ({"losses": [{"name": "feature", "pairs": [["a"]]}]}, "/params/losses/0/pairs"),
        ({"losses": [{"name": "bounded_regression"}]}, "/params/losses/0"),
        ({"finetune": {"epochs": 0}}, "/params/finetune/epochs"),
        ({"finetune": {"loss": "cross_entropy"}}, "/params/finetune/loss"),
        ({"finetune": {"augment": {}}}, "/params/finetune/augment"),
        ({"finetune": {"augment": {"crop": {"padding": 0}}}}, "/params/finetune/augment/crop/padding"),
        ({"finetune": {"augment": {"blur": 1}}}, "/params/finetune/augment/blur"),
        ({"finetune": {"augment": {"mixup": {"alpha": 1}}}, "losses": [{"name": "decoupled"}]}, "/params/losses/0"),
        ({"average": "median"}, "/params/average"),
        ({"teacher_views": {"augment": {}}}, "/params/teacher_views/augment"),
        ({"teacher_views": {"count": 1, "augment": {"noise": {"std": 1}}}}, "/params/teacher_views/count"),
        ({"teacher_views": {"augment": {"mixup": {"alpha": 1}}}}, "/params/teacher_views/augment/mixup"),
        ({"teacher_views": {"augment": {"token_dropout": {"probability": 0.1, "token": 1}}}},
         "/params/teacher_views/augment/token_dropout"),
        ({"teacher_views": {"augment": {"noise": {"std": 1}}}, "losses": [{"name": "feature"}]}, "/params/teacher_views"),
        ({"teacher_views": {"augment": {"noise": {"std": 1}}}, "finetune": {"augment": {"noise": {"std": 1}}}},
         "/params/teacher_views"),
        ({"class_map": [0, 1]}, "/params/class_map"),
        ({"class_map": [0, 1, 2, 3, 4, 5, 6, 7, 8, 10]}, "/params/class_map/9"),
        ({"class_map": []}, "/params/class_map"),
        ({"teachers": ["00000000-0000-0000-0000-000000000000"]}, "/params/teachers/0"),
        ({"teachers": ["x"]}, "/params/teachers/0"),
        ({"control": "yes"}, "/params/control"),
        ({"layers": 3}, "/params/layers"),
    ],
    ids=lambda value: json.dumps(value)[:80],
)
def test_a_wrong_parameter_is_422_with_its_pointer(server, setting, params, pointer):
    refused(server, setting, pointer=pointer, **params)


def test_what_would_do_instead_is_named(server, setting):
    refused(server, setting, pointer="/params/losses/0/temperatur", losses=[{"name": "soft_targets", "temperatur": 2}],
            says=["did you mean `temperature`"])
    refused(server, setting, pointer="/params/losses/0", losses=[{"name": "bounded_regression"}],
            says=["does not suit the task", "`soft_targets`", "`decoupled`", "`cosine`"])


def test_models_that_do_not_go_together_are_named(server, setting):
    twelve = server.upload_model(exported(perceptron(8, 12)), "twelve classes")
    refused(server, setting, 422, "outputs_differ", "/params/student", student={"model": twelve["id"]})
    refused(server, setting, 422, "outputs_differ", "/params/teachers/0", teachers=[twelve["id"]])
    refused(server, setting, 422, "model_not_found", "/params/student/model",
            student={"model": "00000000-0000-0000-0000-000000000000"})
    problem = refused(server, setting, 422, pointer="/params/student/model", student={"model": setting.teacher["id"]})
    assert "its own teacher" in problem["errors"][0]["detail"]
    wide = server.upload_model(exported(perceptron(8).__class__(nn.Flatten(), nn.Linear(100, 10)), (1, 10, 10)), "wide")
    refused(server, setting, 422, "data_misfit", student={"model": wide["id"]})
    refused(server, setting, 422, pointer="/params/teachers", teachers=[setting.student["id"]],
            losses=[{"name": "feature"}])
    # Features alone can be learned from a teacher of other classes.
    job = distill(server, setting, student={"model": twelve["id"]},
                  losses=[{"name": "similarity"}, {"name": "cross_entropy"}])
    assert job["result"]["distill"]["agreement"] == {}


def test_a_wrong_tensor_name_says_which_there_are(server, setting):
    job = server.wait(server.submit("distill", setting.teacher, setting.dataset, {
        "student": {"model": setting.student["id"]}, "losses": [{"name": "feature", "pairs": [["/conv9", "/1/Gemm"]]}],
    }, data=DATA))
    assert job["status"] == "failed" and job["error"]["code"] == "tensor_not_found"
    (fault,) = job["error"]["errors"]
    assert fault["pointer"] == "/params/losses/0/pairs" and "/conv9" in fault["detail"] and "Conv" in fault["detail"]
    assert "the teacher" in fault["detail"]


def test_a_model_that_a_waiting_job_teaches_or_trains_stays(server, setting):
    student = server.upload_model(exported(perceptron(7)), "needed")
    job = server.submit("distill", setting.teacher, setting.dataset, {
        "student": {"model": student["id"]}, "finetune": {"epochs": 2000}}, data=DATA)
    assert_problem(server.delete(f"/v1/models/{student['id']}"), 409)
    server.post(f"/v1/jobs/{job['id']}/cancel")
    server.wait(job)
    assert server.delete(f"/v1/models/{student['id']}").status_code == 204


def test_impossible_augmentation_is_422_with_its_pointer(server, setting):
    body = {"kind": "train", "model": setting.student["id"], "dataset": setting.dataset["id"], "data": DATA,
            "params": {"augment": {"token_dropout": {"probability": 0.1, "token": 1}}}}
    assert_problem(server.post("/v1/jobs", json=body), 422, pointer="/params/augment/token_dropout")


# Sequences


class Tagger(nn.Module):
    """Five numbers for each character, out of its neighbours; padding is masked in the mean."""

    def __init__(self, width):
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(128, width), nn.Linear(width, width), nn.Linear(width, 5)

    def forward(self, ids, attention_mask):
        mask = attention_mask.unsqueeze(2).float()
        x = self.embed(ids) * mask
        mean = x.sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return self.head(torch.tanh(self.mix(x + mean)))


def test_tokens_are_distilled_one_by_one_and_padding_is_left_out(server):
    text = (graph_tools.__doc__ + __doc__).encode() * 40
    rows, length = 160, 12
    ids = np.frombuffer(text[:rows * length], np.uint8).reshape(rows, length).astype(np.int64)
    lengths = np.arange(rows) % 7 + 6
    mask = (np.arange(length) < lengths[:, None]).astype(np.int64)
    ids = ids * mask
    dataset = server.upload_dataset(saved(ids_train=ids[:128], attention_mask_train=mask[:128], ids_test=ids[128:],
                                          attention_mask_test=mask[128:]), "characters")
    torch.manual_seed(6)
    teacher, student = Tagger(24), Tagger(6)
    uploads = []
    for module in (teacher, student):
        file = io.BytesIO()
        torch.onnx.export(module.eval(), (torch.from_numpy(ids[:2]), torch.from_numpy(mask[:2])), file, dynamo=False,
                          opset_version=17, input_names=["ids", "attention_mask"], output_names=["y"],
                          dynamic_axes={name: {0: "batch"} for name in ("ids", "attention_mask", "y")})
        uploads.append((server.upload_model(file.getvalue(), "tagger"), file.getvalue()))
    job = server.run("distill", uploads[0][0], dataset, {
        "student": {"model": uploads[1][0]["id"]}, "losses": [{"name": "soft_targets", "temperature": 2}],
        "finetune": {"epochs": 1, "optimizer": {"name": "sgd", "learning_rate": 1, "weight_decay": 0},
                     "schedule": {"name": "constant", "warmup_fraction": 0}},
    }, data={"batch_size": 128, "validation_fraction": 0})
    x = torch.from_numpy(ids[:128]), torch.from_numpy(mask[:128])
    optimizer = torch.optim.SGD(student.parameters(), lr=1)
    with torch.no_grad():
        wanted = teacher(*x)
    kept = x[1].bool()
    soft_targets(student(*x)[kept], wanted[kept], None, 2.0).backward()
    optimizer.step()
    found = graph_tools.session_of(server.model_content(job["result"]["model"])).run(
        None, {"ids": ids, "attention_mask": mask})[0]
    with torch.no_grad():
        everything = torch.from_numpy(ids), torch.from_numpy(mask)
        logits, target = student(*everything).numpy(), teacher(*everything).numpy()
    np.testing.assert_allclose(found, logits, atol=2e-4)
    same = (logits[128:].argmax(2) == target[128:].argmax(2))[mask[128:].astype(bool)].mean()
    assert job["result"]["distill"]["agreement"]["top_1"] == pytest.approx(same, abs=0.01)


# Interruptions


def test_an_interrupted_distillation_ends_with_the_same_bytes(tmp_path):
    def body(setting):
        return {"student": {"width": 0.5}, "control": True, "losses": [
            {**SOFT[0], "temperature": "learned"}, SOFT[1], {"name": "feature", "weight": 0.1}],
            "finetune": {"epochs": 40, "augment": {"crop": {"padding": 1}}}}

    with Server(tmp_path / "whole") as server:
        setting = Setting(server)
        whole = distill(server, setting, **body(setting))
        wanted = server.model_content(whole["result"]["model"])
    with Server(tmp_path / "parts", env={"SINTER_CHECKPOINT_SECONDS": "0"}) as server:
        setting = Setting(server)
        job = server.submit("distill", setting.teacher, setting.dataset, body(setting), data=DATA)
        for phase in ("control", "distill"):
            seen = server.wait_for(job, lambda seen, phase=phase: (seen["progress"] or {}).get("phase") == phase
                                   and (seen["progress"].get("step") or 0) > 5 or seen["status"] in END_STATES, 280)
            assert seen["status"] not in END_STATES, f"it ended before it was seen in the phase {phase}"
            server.restart()
        job = server.wait(job)
        assert job["status"] == "succeeded", job["error"]
        assert "resumed" in {event["type"] for event in server.events(job)}
        assert server.model_content(job["result"]["model"]) == wanted
        assert job["result"]["distill"] == whole["result"]["distill"]
