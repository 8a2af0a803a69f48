"""Searches whose candidates share the weights of one training, on scikit-learn's digits."""

import io
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

from conftest import assert_problem
from lifecycle_tools import EVERY_EPOCH, the_child, wait_for_checkpoints
from test_search import DATA, RATES, accuracy, arrays, search, trials_of

pytestmark = pytest.mark.timeout(300)

# A first kernel of one place would skip three quarters of the image.
SPACE = {"width": [0.25, 0.5, 0.75, 1.0], "depth": True, "kernel": [1, 3], "exclude": ["/0/*"]}
ADAM = {"name": "adamw", "learning_rate": 0.01}
SHARED = {"method": "shared_weights"}


def normalized(width=16, **open_axes):
    """A residual network with batch normalisation whose parameters differ, so that the exporter ties none."""
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))

        def forward(self, x):
            return torch.relu(x + self.main(x))

    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, stride=2), nn.BatchNorm2d(width), nn.ReLU(), Block(),
                            Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight.data, part.running_mean, part.running_var):
                tensor += 0.01 * torch.rand(len(tensor))
    file = io.BytesIO()
    torch.onnx.export(network.eval(), (torch.zeros(2, 1, 8, 8),), file, dynamo=False, input_names=["x"],
                      output_names=["y"], dynamic_axes={"x": {0: "batch", **open_axes.get("x", {})}, "y": {0: "batch"}},
                      training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)
    return file.getvalue()


@pytest.fixture(scope="module")
def network(server):
    return server.upload_model(normalized(), "normalized")


def test_candidates_that_learned_together_are_better_than_those_cut_from_a_model_that_learned_alone(
        server, network, digits):
    asked = {"space": SPACE, "strategy": {"name": "random"}, "trials": 12, "constraints": {"parameters": 5000},
             "objectives": [{"metric": "accuracy"}, {"metric": "parameters"}], "final": {"epochs": 2}}
    training = {"epochs": 12, "optimizer": ADAM}
    together = search(server, network, digits, {**asked, "evaluation": SHARED, "trial": training})
    outcome = together["result"]["search"]
    assert outcome["trials"] == 12 and outcome["epochs"] == 12
    trials = trials_of(server, together)["trials"]
    assert all(fold["epochs"] == 0 and not fold["validation_loss"] for trial in trials for fold in trial["folds"])
    alone = server.run("train", network, digits, training, data=DATA)["result"]["model"]
    # A training that changes nothing to speak of, so that candidates are as they were cut.
    still = {"epochs": 1, "optimizer": {"name": "sgd", "learning_rate": 1e-9}}
    cut = search(server, {"id": alone}, digits, {**asked, "trial": still})

    def mean(found):
        return np.mean([trial["values"]["accuracy"] for trial in found])

    assert mean(trials) > 0.7
    assert mean(trials) > mean(trials_of(server, cut)["trials"]) + 0.4
    data = arrays()
    x = data["x_train"].reshape(-1, 1, 8, 8).astype(np.float32) / 16
    judged_on = trials_of(server, together)["judged_on"][0]
    for entry in outcome["front"]:
        found = accuracy(server.model_content(entry["model"]), x[judged_on], data["y_train"][judged_on])
        assert found == pytest.approx(entry["values"]["accuracy"], abs=2e-3)
    tested = data["x_test"].reshape(-1, 1, 8, 8).astype(np.float32) / 16
    winner = accuracy(server.model_content(together["result"]["model"]), tested, data["y_test"])
    assert winner == pytest.approx(together["result"]["after"]["metrics"]["accuracy"], abs=3e-3)
    assert winner > 0.85


def test_an_interrupted_search_by_shared_weights_ends_with_the_same_bytes(start_server):
    params = {"space": SPACE, "strategy": {"name": "genetic", "population": 4}, "trials": 10, "evaluation": SHARED,
              "trial": {"epochs": 8, "optimizer": ADAM}, "final": {"epochs": 3}, "control": True}
    server = start_server(env=EVERY_EPOCH)
    # The file leaves the images' size open, which the data tell.
    model, dataset = server.upload_model(normalized(8, x={2: "height", 3: "width"})), server.upload_dataset()
    calm = server.run("search", model, dataset, params, data=DATA)
    job = server.submit("search", model, dataset, params, data=DATA, max_attempts=9)
    for count in (2, 6, 8):
        wait_for_checkpoints(server, job, count, 240)
        os.kill(the_child(server), signal.SIGKILL)
    ended = server.wait(job, 240)
    assert ended["status"] == "succeeded" and ended["attempt"] > 2
    results = []
    for each in (calm, ended):
        record = trials_of(server, each)
        for trial in record["trials"] + record["control"]:
            for fold in trial["folds"]:
                del fold["seconds"], fold["validation_seconds"]
        results.append((record, server.model_content(each["result"]["model"])))
    assert results[0] == results[1]


@pytest.mark.parametrize(("params", "pointer", "word"), [
    ({"space": {"width": [0.5, 1], "hyperparameters": RATES}}, "/params/space/hyperparameters", "one training"),
    ({"evaluation": {**SHARED, "random": 0}}, "/params/evaluation/random", "from 1"),
    ({"evaluation": {**SHARED, "folds": 5}}, "/params/evaluation", "folds"),
    ({"strategy": {"name": "hyperband"}, "trial": {"epochs": 9}}, "/params/strategy/name", "shorter"),
    ({"space": {"cell": {}}}, "/params/space/cell", "shared"),
    ({"warm_start": "01890a5d-ac96-774b-bcce-b302099a8057"}, "/params/warm_start", "another training"),
    ({"steps": [{"kind": "train", "params": {}}]}, "/params/steps", "shared"),
])
def test_what_shared_weights_can_not_judge_is_refused(server, network, digits, params, pointer, word):
    params = {"space": {"width": [0.5, 1]}, "evaluation": SHARED, **params}
    answer = server.post("/v1/jobs", json={
        "kind": "search", "model": network["id"], "dataset": digits["id"], "params": params})
    problem = assert_problem(answer, 422)
    fault = next((each for each in problem["errors"] if each["pointer"].startswith(pointer)), None)
    assert fault and word in fault["detail"], problem


def test_the_winner_goes_on_from_its_part_of_weights_that_began_fresh(server, network, digits):
    job = search(server, network, digits, {
        "space": SPACE, "strategy": {"name": "random"}, "trials": 5, "evaluation": SHARED,
        "trial": {"epochs": 12, "optimizer": ADAM, "weights": "reinitialize"},
        "final": {"epochs": 1, "optimizer": {"name": "sgd", "learning_rate": 1e-6}}})
    result = job["result"]
    assert result["search"]["best"][0]["values"]["accuracy"] > 0.85
    assert result["after"]["metrics"]["accuracy"] > 0.7


def test_nothing_is_trained_where_no_candidate_is_feasible(server, network, digits):
    answer = server.post("/v1/jobs", json={
        "kind": "search", "model": network["id"], "dataset": digits["id"], "data": DATA, "params": {
            "space": {"width": [0.5, 1]}, "evaluation": SHARED, "constraints": {"parameters": 1}, "trial": {"epochs": 5000}}})
    assert_problem(answer, 422, "no_feasible_candidate", says="parameters at most 1")


def test_a_dry_run_counts_one_training_and_kernels_do_not_grow(server, network):
    answer = server.post("/v1/jobs", json={"kind": "search", "model": network["id"], "dry_run": True, "params": {
        "space": {"kernel": [1, 3, 5]}, "evaluation": SHARED, "trials": 9, "trial": {"epochs": 4}}})
    plan = answer.json()["plan"]
    assert plan["epochs"] == 4 and plan["trials"] == 9
    assert {tuple(each["choices"]) for each in plan["space"]} == {(1, 3)}
