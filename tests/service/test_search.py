"""Searches: spaces, strategies, judging, what is told of trials, and what happens when they are disturbed.

Networks are small ones on scikit-learn's digits, exported by PyTorch; ONNX Runtime and scikit-learn judge.
"""

import io
import json
import random
import signal
import time

import numpy as np
import onnx
import pytest
import torch
from sklearn import metrics
from torch import nn

import graph_tools
import models
from conftest import DIGITS, END_STATES, assert_problem
from lifecycle_tools import EVERY_EPOCH, event_types, job_children, send, wait_until
from test_distill import exported, perceptron, saved

pytestmark = pytest.mark.timeout(300)

DATA = {"batch_size": 32, "preprocess": {"scale": 0.0625}, "validation_fraction": 0.2}
RATES = {"learning_rate": {"log_uniform": [1e-4, 1e-1]}}


def residual(width=8):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
                                      nn.Conv2d(width, width, 3, padding=1))

        def forward(self, x):
            return torch.relu(x + self.main(x))

    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1, stride=2), nn.ReLU(), Block(), Block(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


@pytest.fixture(scope="module")
def network(server):
    torch.manual_seed(0)
    return server.upload_model(exported(residual()), "residual")


@pytest.fixture(scope="module")
def small(server):
    torch.manual_seed(0)
    return server.upload_model(exported(perceptron(16)), "small")


def search(server, model, dataset, params, **more):
    params = {"trials": 6, **({} if "steps" in params else {"trial": {"epochs": 1}}), **params}
    return server.run("search", model, dataset, params, data=more.pop("data", DATA), timeout=600, **more)


def trials_of(server, job):
    return json.loads(server.artifact(job, "trials.json"))


def curves_of(server, job):
    return {curve["name"] for curve in server.get(f"/v1/jobs/{job['id']}/metrics").json()["data"]}


def arrays():
    return dict(np.load(DIGITS))


def accuracy(content, x, y):
    session = graph_tools.session_of(content)
    logits = session.run(None, {session.get_inputs()[0].name: x})[0]
    return float((logits.argmax(1) == y).mean())


def test_a_front_of_widths_depths_kernels_and_activations_downloads_and_runs(server, network, digits):
    job = search(server, network, digits, {
        "space": {"width": [0.25, 0.5, 1.0], "depth": True, "kernel": [1, 3], "activation": ["Relu", "HardSwish"]},
        "strategy": {"name": "genetic", "population": 6}, "trials": 16, "trial": {"epochs": 2},
        "objectives": [{"metric": "accuracy"}, {"metric": "macs", "goal": "minimize"}],
        "constraints": {"parameters": 3500}, "final": {"epochs": 3}})
    outcome = job["result"]["search"]
    assert outcome["trials"] == 16 and outcome["strategy"] == "genetic"
    assert {name.split(":")[0] for name in (each["name"] for each in outcome["space"])} == {
        "width", "depth", "kernel", "activation"}
    trials = trials_of(server, job)["trials"]
    configs = [json.dumps(trial["config"], sort_keys=True) for trial in trials]
    assert len(set(configs)) == 16, "a candidate was trained twice"
    assert all(trial["cost"]["parameters"] <= 3500 for trial in trials)
    # No trial beats one of the front in both objectives, and each other trial is beaten by one.
    pareto = json.loads(server.artifact(job, "pareto.json"))
    front = {entry["trial"] for entry in pareto["front"]}
    assert 0 < pareto["hypervolume"] <= 1

    def beats(a, b):
        a, b = a["values"], b["values"]
        return (a["accuracy"] >= b["accuracy"] and a["macs"] <= b["macs"]
                and (a["accuracy"], a["macs"]) != (b["accuracy"], b["macs"]))

    for trial in trials:
        assert any(beats(other, trial) for other in trials) == (trial["trial"] not in front)
    assert outcome["best"][0]["trial"] in front, "the winner is beaten by another"
    data = arrays()
    x = data["x_train"].reshape(-1, 1, 8, 8).astype(np.float32) / 16
    judged_on = trials_of(server, job)["judged_on"][0]
    for entry in pareto["front"]:
        content = server.model_content(entry["model"])
        assert content == server.artifact(job, entry["artifact"])
        found = accuracy(content, x[judged_on], data["y_train"][judged_on])
        assert found == pytest.approx(entry["values"]["accuracy"], abs=2e-3)
        about = server.get(f"/v1/models/{entry['model']}").json()
        assert about["summary"]["macs"] == entry["values"]["macs"]
    winner = accuracy(server.model_content(job["result"]["model"]),
                      data["x_test"].reshape(-1, 1, 8, 8).astype(np.float32) / 16, data["y_test"])
    assert winner == pytest.approx(job["result"]["after"]["metrics"]["accuracy"], abs=3e-3)
    report = server.artifact(job, "report.html").decode()
    assert "Search" in report and "functional ANOVA" in report and "accuracy by macs" in report
    assert {"trial/best", "trial/value"} <= curves_of(server, job)
    done = [event for event in server.events(job) if event["type"] == "trial_done"]
    assert len(done) == 16 and all("config" in event["data"] for event in done)


@pytest.mark.parametrize("strategy", ["tpe", "greedy", "genetic"])
def test_a_search_begins_with_the_model_narrowed_alike_and_what_the_bounds_leave_beside(
        server, network, digits, strategy):
    asked = {"space": {"width": [0.25, 0.5, 0.75, 1.0], "depth": True}, "strategy": {"name": strategy}, "trials": 4}
    whole = trials_of(server, search(server, network, digits, asked))["trials"][0]
    widths = [name for name in whole["config"] if name.startswith("width:")]
    assert all(whole["config"][name] == 8 for name in widths)
    bounded = {**asked, "constraints": {"macs": whole["cost"]["macs"] // 2}}
    first, second = trials_of(server, search(server, network, digits, bounded))["trials"][:2]
    assert {first["config"][name] for name in widths} in ({4}, {6})
    assert {second["config"][name] for name in widths} > {first["config"][widths[0]]}
    assert first["cost"]["macs"] < second["cost"]["macs"] <= whole["cost"]["macs"] // 2
    assert all(first["config"][name] and second["config"][name] for name in whole["config"] if name.startswith("depth:"))


def test_bottlenecks_expand_convolutions_group_and_images_shrink(server, digits):
    class Inverted(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = nn.Sequential(
                nn.Conv2d(8, 48, 1), nn.ReLU6(), nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.ReLU6(),
                nn.Conv2d(48, 8, 1))

        def forward(self, x):
            return x + self.main(x)

    torch.manual_seed(0)
    model = server.upload_model(exported(nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), Inverted(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))), "inverted")
    job = search(server, model, digits, {
        "space": {"expand": [2, 4], "groups": [4], "resolution": [0.5]},
        "strategy": {"name": "exhaustive"}, "trials": 100, "objectives": [{"metric": "accuracy"}, {"metric": "macs"}]})
    outcome = job["result"]["search"]
    about = {dimension["name"].split(":")[0]: dimension for dimension in outcome["space"]}
    assert about["expand"]["choices"] == [16, 32, 48]
    assert about["resolution"]["choices"] == [0.5, 1.0]
    grouped = [each for each in outcome["space"] if each["name"].startswith("groups:")]
    # The two of single points in the bottleneck and the one behind it; the very first has one input.
    assert [each["choices"] for each in grouped] == [[1, 4]] * 3
    trials = trials_of(server, job)["trials"]
    assert len(trials) == outcome["space_size"] == 3 * 8 * 2
    assert all(trial["status"] == "judged" for trial in trials), trials
    macs = {json.dumps(trial["config"], sort_keys=True): trial["cost"]["macs"] for trial in trials}
    last = grouped[-1]["name"]
    for trial in trials:
        if trial["config"]["resolution"] == 1.0:
            half = macs[json.dumps({**trial["config"], "resolution": 0.5}, sort_keys=True)]
            # All but the last layer has a quarter of the places.
            assert 4 * (half - 160) == trial["cost"]["macs"] - 160
        if trial["config"][last] == 1:
            four = macs[json.dumps({**trial["config"], last: 4}, sort_keys=True)]
            area = 64 if trial["config"]["resolution"] == 1 else 16
            assert trial["cost"]["macs"] - four == area * 16 * 8 * 9 * 3 // 4
    data = arrays()
    x = data["x_train"].reshape(-1, 1, 8, 8).astype(np.float32) / 16
    judged_on = trials_of(server, job)["judged_on"][0]
    for entry in outcome["front"]:
        content = server.model_content(entry["model"])
        found = accuracy(content, x[judged_on], data["y_train"][judged_on])
        assert found == pytest.approx(entry["values"]["accuracy"], abs=5e-3)


def test_folds_are_stratified_disjoint_and_cover_everything_and_their_metrics_are_scikit_learns(
        server, small, digits):
    job = search(server, small, digits, {
        "space": {"hyperparameters": RATES}, "strategy": {"name": "random"}, "trials": 2, "trial": {"epochs": 3},
        "objectives": [{"metric": "f1"}],
        "evaluation": {"method": "cross_validation", "folds": 4, "stop_hopeless": False}})
    found = trials_of(server, job)
    data = arrays()
    folds = found["judged_on"]
    everything = np.concatenate(folds)
    assert sorted(everything) == list(range(len(data["y_train"])))
    counts = np.array([np.bincount(data["y_train"][fold], minlength=10) for fold in folds])
    assert (counts.max(0) - counts.min(0)).max() <= 1
    for trial in found["trials"]:
        assert len(trial["folds"]) == 4
        for name, mean in trial["metrics"].items():
            values = [fold["metrics"][name] for fold in trial["folds"]]
            assert mean == pytest.approx(np.mean(values))
            assert trial["standard_errors"][name] == pytest.approx(np.std(values, ddof=1) / 2)
    # The front's model is that of the first fold.
    entry = job["result"]["search"]["front"][0]
    session = graph_tools.session_of(server.model_content(entry["model"]))
    x = data["x_train"].reshape(-1, 1, 8, 8).astype(np.float32) / 16
    logits = session.run(None, {session.get_inputs()[0].name: x[folds[0]]})[0].astype(np.float64)
    labels = data["y_train"][folds[0]]
    said = found["trials"][entry["trial"]]["folds"][0]["metrics"]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    assert said["accuracy"] == pytest.approx(metrics.accuracy_score(labels, logits.argmax(1)), abs=1e-9)
    assert said["f1"] == pytest.approx(metrics.f1_score(labels, logits.argmax(1), average="macro"), abs=1e-6)
    assert said["loss"] == pytest.approx(metrics.log_loss(labels, shares, labels=range(10)), rel=1e-4)


@pytest.mark.parametrize("evaluation", [
    {"method": "holdout"}, {"method": "cross_validation", "folds": 3}], ids=lambda each: each["method"])
def test_poisoned_test_labels_change_nothing_but_the_last_measurement(server, small, evaluation):
    data = arrays()
    poisoned = dict(data, y_test=(data["y_test"] + 1) % 10, x_test=data["x_test"][::-1].copy())
    found = []
    for content in (data, poisoned):
        dataset = server.upload_dataset(saved(**content))
        job = search(server, small, dataset, {
            "space": {"width": [0.25, 0.5, 1.0], "hyperparameters": RATES}, "strategy": {"name": "tpe", "first": 3},
            "evaluation": evaluation, "final": {"epochs": 2}})
        record = trials_of(server, job)
        for trial in record["trials"]:
            for fold in trial["folds"]:
                del fold["seconds"], fold["validation_seconds"]
        found.append((record, server.model_content(job["result"]["model"]), job["result"]["after"]["metrics"]))
    (clean, model, measured), (other, other_model, other_measured) = found
    assert clean == other
    assert model == other_model
    assert other_measured["accuracy"] < 0.5 < measured["accuracy"]


def test_a_search_killed_at_ten_random_moments_ends_with_the_same_trials_and_the_same_winner(start_server):
    params = {"space": {"width": [0.25, 0.5, 0.75, 1.0], "hyperparameters": RATES},
              "strategy": {"name": "genetic", "population": 4}, "trials": 12, "trial": {"epochs": 2},
              "evaluation": {"method": "cross_validation", "folds": 3}, "final": {"epochs": 6}, "control": True}
    torch.manual_seed(0)
    content = exported(perceptron(64))
    server = start_server(env=EVERY_EPOCH)
    model, dataset = server.upload_model(content), server.upload_dataset()
    results = []
    calm = server.run("search", model, dataset, params, data=DATA, max_attempts=100)
    written = event_types(server, calm).count("checkpoint_written")
    disturbed = server.submit("search", model, dataset, params, data=DATA, max_attempts=100)
    draw = random.Random(5)

    def has_come_to(count):
        if server.job(disturbed)["status"] in END_STATES:
            return True
        return job_children(server) and event_types(server, disturbed).count("checkpoint_written") >= count

    # Moments of the search and not of the clock: the machine may be faster now than it was a while ago.
    for part in range(10):
        count = int((part + draw.random()) * written / 10)
        wait_until(lambda count=count: has_come_to(count), 240, f"{count} checkpoints")
        time.sleep(draw.uniform(0, 0.2))
        for child in job_children(server):
            send(child, signal.SIGKILL)
    disturbed = server.wait(disturbed, 240)
    assert disturbed["status"] == "succeeded", disturbed["error"]
    for job in (calm, disturbed):
        record = trials_of(server, job)
        for trial in record["trials"] + record["control"]:
            for fold in trial["folds"]:
                del fold["seconds"], fold["validation_seconds"]
        outcome = job["result"]["search"]
        results.append((record, server.model_content(job["result"]["model"]), outcome["control"],
                        [entry["trial"] for entry in outcome["front"]]))
    assert results[0] == results[1]
    assert disturbed["attempt"] > 3


def test_hyperparameters_reach_the_training_and_only_those_that_count_are_told(server, small, digits):
    job = search(server, small, digits, {
        "space": {"hyperparameters": {
            "optimizer": {"choice": ["sgd", "adamw"]}, "momentum": {"uniform": [0.5, 0.9], "when": {"optimizer": ["sgd"]}},
            "learning_rate": {"log_uniform": [1e-3, 0.1]}, "batch_size": {"choice": [16, 64]},
            "label_smoothing": {"uniform": [0, 0.1]}, "augment.crop.padding": {"int": [1, 2]}}},
        "strategy": {"name": "tpe", "first": 4}, "trials": 8, "objectives": [{"metric": "cross_entropy"}]})
    trials = trials_of(server, job)["trials"]
    for trial in trials:
        config = trial["config"]
        assert ("momentum" in config) == (config["optimizer"] == "sgd")
        assert trial["values"]["cross_entropy"] == trial["metrics"]["loss"]
    assert len({trial["metrics"]["loss"] for trial in trials}) == len(trials)
    best = min(trials, key=lambda trial: trial["values"]["cross_entropy"])
    assert job["result"]["search"]["best"][0]["config"] == best["config"]


def test_a_pipeline_is_tuned_by_the_places_of_its_parameters(server, network, digits):
    steps = [{"kind": "train", "params": {"epochs": 2}},
             {"kind": "prune", "params": {"target": {"macs_ratio": 0.9}, "finetune": {"epochs": 1}}},
             {"kind": "distill", "params": {"teacher": "original", "finetune": {"epochs": 1}}}]
    job = search(server, network, digits, {
        "space": {"hyperparameters": {"steps.1.params.target.macs_ratio": {"choice": [0.3, 0.6, 0.9]},
                                      "steps.1.params.criterion": {"choice": ["magnitude", "taylor"]}}},
        "strategy": {"name": "exhaustive"}, "trials": 100, "steps": steps,
        "objectives": [{"metric": "accuracy"}, {"metric": "macs"}]})
    outcome = job["result"]["search"]
    assert outcome["space_size"] == 6 == outcome["trials"]
    whole = server.get(f"/v1/models/{network['id']}").json()["summary"]["macs"]
    for trial in trials_of(server, job)["trials"]:
        assert trial["status"] == "judged", trial
        wanted = trial["config"]["steps.1.params.target.macs_ratio"]
        assert trial["cost"]["macs"] <= whole * (wanted + 0.02)


def test_halving_trains_the_best_longer_and_no_candidate_twice_as_long(server, small, digits):
    job = search(server, small, digits, {
        "space": {"hyperparameters": RATES}, "strategy": {"name": "successive_halving", "eta": 3}, "trials": 9,
        "trial": {"epochs": 9}, "final": {"epochs": 2}})
    trials = trials_of(server, job)["trials"]
    epochs = [trial["folds"][0]["epochs"] for trial in trials]
    assert epochs == [1] * 9 + [3] * 3 + [9]
    first, second = trials[:9], trials[9:12]
    best = sorted(first, key=lambda trial: -trial["values"]["accuracy"])
    assert {json.dumps(trial["config"]) for trial in second} <= {
        json.dumps(trial["config"]) for trial in best
        if trial["values"]["accuracy"] >= best[2]["values"]["accuracy"]}
    assert job["result"]["search"]["epochs"] == 27


def test_a_later_search_begins_with_what_an_earlier_one_found(server, small, digits):
    params = {"space": {"width": [0.25, 0.5, 0.75, 1.0], "kernel": []}, "strategy": {"name": "exhaustive"},
              "trial": {"epochs": 1}}
    first = search(server, small, digits, params)
    assert first["result"]["search"]["trials"] == 4
    refused = server.wait(server.submit("search", small, digits, {**params, "warm_start": first["id"]}, data=DATA))
    assert refused["status"] == "failed" and "earlier" in refused["error"]["detail"]
    wider = {"space": {"width": [0.125, 0.25, 0.5, 0.75, 1.0]}, "strategy": {"name": "exhaustive"},
             "warm_start": first["id"], "trial": {"epochs": 1}}
    answer = server.post("/v1/jobs", json={
        "kind": "search", "model": small["id"], "dataset": digits["id"], "data": DATA,
        "params": {**wider, "trial": {"epochs": 2}}})
    assert_problem(answer, 422, "searches_differ", pointer="/params/warm_start")
    second = server.submit("search", small, digits, wider, data=DATA)
    gone = server.delete(f"/v1/jobs/{first['id']}")
    second = server.wait(second)
    assert second["status"] == "succeeded", second["error"]
    if gone.status_code != 409:  # The later one had ended before.
        pytest.fail(f"{gone.status_code}: what a search begins with was deleted under it")
    assert second["result"]["search"]["warm"] == 4
    assert second["result"]["search"]["trials"] == 1


def test_the_control_has_as_much_training_and_its_winner_is_measured(server, small, digits):
    job = search(server, small, digits, {
        "space": {"hyperparameters": RATES}, "strategy": {"name": "successive_halving", "eta": 2}, "trials": 4,
        "trial": {"epochs": 4}, "control": True})
    outcome = job["result"]["search"]
    assert outcome["control"]["epochs"] >= outcome["epochs"] == 12
    assert outcome["control"]["trials"] == 3
    assert set(outcome["control"]["metrics"]) == {"loss", "accuracy"}
    better = job["result"]["after"]["metrics"]["accuracy"] > outcome["control"]["metrics"]["accuracy"]
    assert outcome["helped"] == better
    both = outcome["comparison"]
    assert both["metric"] == "accuracy" and both["control"] == outcome["control"]["metrics"]["accuracy"]
    assert outcome["significant"] == (both["p_value"] < 0.05)
    assert "control/best" in curves_of(server, job)


def test_narrow_candidates_are_fitted_to_what_the_model_computes(server, digits_model, digits):
    """Before any training to speak of: what least squares leaves beside the bare cuts of the same architectures."""
    still = {"epochs": 1, "optimizer": {"name": "sgd", "learning_rate": 1e-9}}
    params = {"space": {"width": [0.25, 0.5]}, "strategy": {"name": "exhaustive"}, "trials": 8, "trial": still, "final": still}
    accuracy = {}
    for fits in (True, False):
        found = trials_of(server, search(server, digits_model, digits, {**params, "reconstruct": fits}))["trials"]
        accuracy[fits] = {json.dumps(trial["config"], sort_keys=True): trial["values"]["accuracy"] for trial in found}
    assert accuracy[True].keys() == accuracy[False].keys()
    gain = [accuracy[True][config] - accuracy[False][config] for config in accuracy[True]]
    assert np.mean(gain) > 0.1 and min(gain) > -0.05, accuracy


def test_a_candidate_that_can_not_be_made_is_a_failed_trial_and_not_the_end(server, network, digits):
    place = "steps.0.params.target.macs_ratio"
    job = search(server, network, digits, {
        "space": {"hyperparameters": {place: {"choice": [0.9, 0.0001]}}}, "strategy": {"name": "exhaustive"},
        "steps": [{"kind": "prune", "params": {"target": {"macs_ratio": 0.9}}}]})
    trials = {trial["config"][place]: trial for trial in trials_of(server, job)["trials"]}
    assert trials[0.9]["status"] == "judged"
    assert trials[0.0001]["status"] == "failed" and "macs_ratio" in trials[0.0001]["error"]
    assert job["result"]["search"]["failed"] == 1


def test_latency_is_measured_where_it_is_an_objective_or_a_constraint(server, network, digits):
    job = search(server, network, digits, {
        "space": {"width": [0.25, 1.0]}, "trials": 4, "strategy": {"name": "random"},
        "objectives": [{"metric": "accuracy"}, {"metric": "latency_ms"}], "constraints": {"latency_ms": 1000}})
    for trial in trials_of(server, job)["trials"]:
        assert trial["cost"]["latency_ms"] > 0
        assert trial["values"]["latency_ms"] == trial["cost"]["latency_ms"]
    tight = server.wait(server.submit("search", network, digits, {
        "space": {"width": [0.25, 1.0]}, "trials": 2, "trial": {"epochs": 1}, "constraints": {"latency_ms": 1e-6}},
        data=DATA))
    assert tight["status"] == "failed"
    assert tight["error"]["code"] == "every_trial_failed" and "latency_ms" in tight["error"]["detail"]


@pytest.mark.parametrize("proxy", ["synflow", "grad_norm", "naswot", "zico", "parameters"])
def test_candidates_are_screened_by_scores_that_need_no_training(server, network, digits, proxy):
    space = {"width": [0.125, 0.25, 0.5, 0.75, 1.0], "kernel": [1, 3]}
    trial = {"epochs": 1, "weights": "reinitialize"}
    jobs = [search(server, network, digits, {
        "space": space, "strategy": {"name": "random"}, "trial": trial,
        "screening": {"proxy": proxy, "candidates": candidates}}) for candidates in (1, 12)]
    plain, screened = ([trial["proxy"] for trial in trials_of(server, job)["trials"]] for job in jobs)
    assert np.mean(screened) > np.mean(plain) + 1.5 * np.std(plain, ddof=1) / np.sqrt(len(plain))
    about = jobs[1]["result"]["search"]["screening"]
    assert about["proxy"] == proxy and -1 <= about["correlation"] <= 1
    for job in jobs:
        for trial in trials_of(server, job)["trials"]:
            if proxy == "parameters":
                assert trial["proxy"] == trial["cost"]["parameters"]


def test_scores_without_training_agree_with_pytorch(server, digits):
    """One candidate apart from the model itself, which is the one that is looked at."""
    torch.manual_seed(3)
    module = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(), nn.Flatten(),
                           nn.Linear(64, 10))
    model = server.upload_model(exported(module), "scored")
    data = arrays()
    params = {"space": {"width": [0.5, 1.0]}, "strategy": {"name": "exhaustive"}, "trials": 4,
              "trial": {"epochs": 1, "optimizer": {"learning_rate": 1e-6}}}
    module.double()

    def whole(proxy):
        job = search(server, model, digits, {**params, "screening": {"proxy": proxy, "candidates": 1}})
        trials = trials_of(server, job)["trials"]
        return next(trial["proxy"] for trial in trials if set(trial["config"].values()) == {6, 4})

    ones = torch.ones(1, 1, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        signs = [parameter.sign() for parameter in module.parameters()]
        for parameter in module.parameters():
            parameter.abs_()
    module(ones).sum().backward()
    flow = sum(float((parameter * parameter.grad).abs().sum()) for parameter in module.parameters())
    assert whole("synflow") == pytest.approx(np.log(flow), abs=1e-5)
    with torch.no_grad():
        for parameter, sign in zip(module.parameters(), signs):
            parameter.mul_(sign)

    # Of 64 examples those that are not selected on are the train split.
    few = np.arange(64)
    dataset = server.upload_dataset(saved(
        x_train=data["x_train"][few], y_train=data["y_train"][few], x_test=data["x_test"], y_test=data["y_test"]))
    x = torch.from_numpy(data["x_train"][few].reshape(-1, 1, 8, 8).astype(np.float64) / 16)
    y = torch.from_numpy(data["y_train"][few])

    def of_few(proxy):
        job = search(server, model, dataset, {**params, "screening": {"proxy": proxy, "candidates": 1}})
        record = trials_of(server, job)
        train = [index for index in range(64) if index not in set(record["judged_on"][0])]
        return next(t["proxy"] for t in record["trials"] if set(t["config"].values()) == {6, 4}), train

    found, train = of_few("grad_norm")
    module.zero_grad()
    nn.functional.cross_entropy(module(x[train]), y[train]).backward()
    norm = sum(float((parameter.grad ** 2).sum()) for parameter in module.parameters()) ** 0.5
    assert found == pytest.approx(norm, rel=1e-4)

    found, train = of_few("naswot")
    with torch.no_grad():
        codes = torch.cat([module[:2](x[train]).flatten(1), module[:4](x[train]).flatten(1)], 1) > 0
    agreeing = (codes[:, None] == codes[None]).sum(-1).double().numpy() + 1e-3 * codes.shape[1] * np.eye(len(train))
    assert found == pytest.approx(np.linalg.slogdet(agreeing)[1], rel=1e-3)


def test_steps_that_select_keep_the_validation_split_for_the_winner(server, network, digits):
    job = search(server, network, digits, {
        "space": {"width": [0.5, 1.0]}, "trials": 2, "strategy": {"name": "random"}, "control": False,
        "steps": [{"kind": "train", "params": {"epochs": 4}},
                  {"kind": "prune", "params": {"target": {"max_accuracy_drop": 0.9}}},
                  {"kind": "train", "params": {"epochs": 1}}]})
    found = trials_of(server, job)["trials"]
    assert all(trial["status"] == "judged" for trial in found), found


def test_students_are_judged_by_the_folds_of_the_search(server, network, digits):
    job = search(server, network, digits, {
        "space": {"hyperparameters": {"steps.1.params.finetune.optimizer.learning_rate": {"choice": [1e-3, 1e-2]}}},
        "strategy": {"name": "exhaustive"}, "evaluation": {"method": "cross_validation", "folds": 3},
        "steps": [{"kind": "train", "params": {"epochs": 1}},
                  {"kind": "distill", "params": {"teacher": "original", "student": {"width": 0.5},
                                                 "finetune": {"epochs": 1}}}]})
    for trial in trials_of(server, job)["trials"]:
        losses = [fold["metrics"]["loss"] for fold in trial["folds"]]
        assert len(set(losses)) == len(losses), "the folds are the same"


def test_the_epochs_that_are_told_are_those_that_were_trained(server, small, digits):
    job = search(server, small, digits, {
        "space": {"hyperparameters": {"learning_rate": {"choice": [0.05, 0.08]}}}, "strategy": {"name": "exhaustive"},
        "trial": {"epochs": 40, "early_stopping": {"patience": 1}}, "final": {"epochs": 1}})
    folds = [trial["folds"][0] for trial in trials_of(server, job)["trials"]]
    assert all(fold["epochs"] == len(fold["validation_loss"]) < 40 for fold in folds)
    assert job["result"]["search"]["epochs"] == sum(fold["epochs"] for fold in folds)


def test_rounds_shorter_than_an_epoch_are_left_out(server, small, digits):
    job = search(server, small, digits, {
        "space": {"hyperparameters": RATES}, "strategy": {"name": "successive_halving", "eta": 2}, "trials": 8,
        "trial": {"epochs": 2}})
    assert [trial["folds"][0]["epochs"] for trial in trials_of(server, job)["trials"]] == [1] * 8 + [2] * 4


def test_a_fixed_batch_has_no_other(server, digits):
    torch.manual_seed(0)
    fixed = server.upload_model(exported(perceptron(8), batch=16), "fixed")
    answer = server.post("/v1/jobs", json={
        "kind": "search", "model": fixed["id"], "dataset": digits["id"], "data": DATA,
        "params": {"space": {"hyperparameters": {"batch_size": {"choice": [16, 32]}}}}})
    assert_problem(answer, 422, pointer="/params/space/hyperparameters/batch_size", says="fixed at 16")
    job = search(server, fixed, digits, {"space": {"hyperparameters": RATES}, "trials": 2,
                                         "evaluation": {"method": "cross_validation", "folds": 2}})
    assert job["result"]["search"]["trials"] == 2


def test_a_dry_run_tells_the_space_without_training(server, network):
    answer = server.post("/v1/jobs", json={
        "kind": "search", "model": network["id"], "dry_run": True, "params": {
            "space": {"width": [0.5, 1.0], "depth": True, "hyperparameters": RATES}, "trials": 10,
            "trial": {"epochs": 4}, "constraints": {"macs": 20_000},
            "evaluation": {"method": "cross_validation", "folds": 5}}})
    assert answer.status_code == 200, answer.text
    plan = answer.json()["plan"]
    assert plan["space_size"] is None and plan["trials"] == 10 and plan["epochs"] == 200
    assert 0 < plan["feasible_share"] < 1
    names = {dimension["name"]: dimension for dimension in plan["space"]}
    assert names["learning_rate"]["range"] == [1e-4, 1e-1]
    blocks = [name for name in names if name.startswith("depth:")]
    assert len(blocks) == 2
    assert any(dimension.get("depends_on") == blocks[0] for dimension in plan["space"])
    assert "not_applicable" not in plan and "nearest" not in plan


def test_a_dry_run_says_how_near_candidates_come_to_what_none_of_them_meets(server, network):
    body = {"kind": "search", "model": network["id"], "dry_run": True, "params": {
        # Too many to be counted.
        "space": {"width": [n / 8 for n in range(1, 9)], "hyperparameters": RATES}, "trials": 10, "trial": {"epochs": 1}}}
    most = server.post("/v1/jobs", json=body).json()["plan"]["cost"]["parameters"]
    # The parameters of the smallest candidate, which is one of very many, and so is hardly drawn.
    low, least = 0, most
    while low < least - 1:
        body["params"]["constraints"] = {"parameters": (low + least) // 2}
        answer = server.post("/v1/jobs", json=body)
        if answer.status_code == 422:
            assert answer.json()["code"] == "no_feasible_candidate"
            low = (low + least) // 2
        else:
            least = (low + least) // 2
    body["params"]["constraints"] = {"parameters": least}
    plan = server.post("/v1/jobs", json=body).json()["plan"]
    assert plan["feasible_share"] == 0
    assert plan["nearest"].startswith(f"parameters at most {least} (the least seen was ")


def test_what_the_space_names_and_the_model_has_not_is_told(server, small, digits):
    params = {"space": {"width": [0.5, 1.0], "depth": True, "kernel": [1, 3]}, "strategy": {"name": "exhaustive"}}
    dry = server.post("/v1/jobs", json={"kind": "search", "model": small["id"], "dry_run": True, "params": params})
    assert dry.json()["plan"]["not_applicable"] == ["depth", "kernel"]
    job = search(server, small, digits, params)
    assert job["result"]["search"]["not_applicable"] == ["depth", "kernel"]
    told = [event for event in server.events(job) if event["type"] == "space_not_applicable"]
    assert len(told) == 1 and "depth, kernel" in told[0]["message"]
    assert "depth, kernel" in server.artifact(job, "report.html").decode()


def test_a_plan_counts_the_candidates_of_a_small_space(server, small):
    """Each alone, by a search of all of them whose trials say what they cost."""
    params = {"space": {"width": [0.25, 0.5, 0.75, 1.0]}, "trials": 500, "strategy": {"name": "exhaustive"}}
    body = {"kind": "search", "model": small["id"], "dry_run": True, "params": params}
    whole = server.post("/v1/jobs", json=body).json()["plan"]
    size = int(whole["space_size"])
    assert size <= 512 and whole["feasible_share"] == 1 and whole["trials"] == size
    shares = []
    for share in (0.5, 0.7, 0.9):
        params["constraints"] = {"parameters": int(whole["cost"]["parameters"] * share)}
        plan = server.post("/v1/jobs", json=body).json()["plan"]
        assert plan["trials"] == round(plan["feasible_share"] * size) > 0 and "nearest" not in plan
        shares.append(plan["feasible_share"])
    assert shares == sorted(shares) and shares[0] < shares[-1]
    params.update(strategy={"name": "tpe"}, trials=5)
    assert "never comes to choose" in server.post("/v1/jobs", json=body).json()["plan"]["warnings"][0]


def test_a_branch_keeps_a_channel_in_every_candidate(server, tmp_path):
    """Two branches of one group, of which the second matters least in all of its units."""
    class Branches(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.large, self.small, self.answer = torch.nn.Linear(8, 24), torch.nn.Linear(8, 6), torch.nn.Linear(30, 3)
            with torch.no_grad():
                self.small.weight.mul_(1e-3)
                self.answer.weight[:, 24:].mul_(1e-3)

        def forward(self, x):
            return self.answer(torch.cat([self.large(x), self.small(x)], 1).relu())

    torch.manual_seed(0)
    file = io.BytesIO()
    torch.onnx.export(Branches(), (torch.zeros(2, 8),), file, dynamo=False, input_names=["x"], output_names=["y"],
                      dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}})
    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    dataset = server.upload_dataset(models.npz(x=x, y=(x[:, :3].argmax(1)).astype(np.int64)), "rows")
    for recovery in ({}, {"reconstruct": False}):
        job = search(server, server.upload_model(file.getvalue(), "branches"), dataset, {
            "space": {"width": [0.4, 0.5]}, "trials": 2, "strategy": {"name": "exhaustive"}, "trial": {"epochs": 1}, "final": {"epochs": 1}, **recovery})
        sizes = [list(tensor.dims) for tensor in onnx.load_from_string(server.artifact(job, "model.onnx")).graph.initializer]
        assert all(size > 0 for dims in sizes for size in dims), sizes


@pytest.mark.parametrize(("params", "pointer", "word"), [
    ({}, "/params/space", "empty"),
    ({"space": {"width": [0.5, 2]}}, "/params/space/width/1", "at most 1"),
    ({"space": {"activation": ["Sigmoidal"]}}, "/params/space/activation/0", "Relu"),
    ({"space": {"width": [0.5, 1]}, "objectives": [{"metric": "acuracy"}]}, "/params/objectives/0/metric", "accuracy"),
    ({"space": {"width": [0.5, 1]}, "objectives": [{"metric": "mean_absolute_error"}]},
     "/params/objectives/0/metric", "suit"),
    ({"space": {"width": [0.5, 1]}, "objectives": [{"metric": "macs"}, {"metric": "macs"}]}, "/params/objectives/1",
     "twice"),
    ({"space": {"width": [0.5, 1]}, "constraints": {"accuracy": 0.9}}, "/params/constraints/accuracy", "can be one of the `objectives`"),
    ({"space": {"width": [0.5, 1]}, "constraints": {"macs_ratio": 0.5}}, "/params/constraints/macs_ratio", "an absolute figure here"),
    ({"space": {"width": [0.5, 1]}, "constraints": {"mac": 5}}, "/params/constraints/mac", "did you mean `macs`?"),
    ({"space": {"width": [0.5, 1]}, "objectives": [{"metric": "binary_cross_entropy"}]}, "/params/objectives/0/metric", "unknown"),
    ({"space": {"width": [0.5, 1]}, "strategy": {"name": "simulated_annealing"}}, "/params/strategy", "tpe"),
    ({"space": {"width": [0.5, 1]}, "strategy": {"name": "random"}, "control": True}, "/params/control", "random"),
    ({"space": {"width": [0.5, 1]}, "evaluation": {"method": "one_shot"}}, "/params/evaluation", "shared_weights"),
    ({"space": {"width": [0.5, 1]}, "evaluation": {"method": "cross_validation", "folds": 1}},
     "/params/evaluation/folds", "from 2"),
    ({"space": {"hyperparameters": {"learning_rate": {"uniform": [0.1, 0.01]}}}},
     "/params/space/hyperparameters/learning_rate/uniform", "not below"),
    ({"space": {"hyperparameters": {"learning_rat": {"uniform": [0.01, 0.1]}}}},
     "/params/space/hyperparameters/learning_rat", "`learning_rate`"),
    ({"space": {"hyperparameters": {"learning_rat": [0.01, 0.1]}}},
     "/params/space/hyperparameters/learning_rat", "`learning_rate`"),
    ({"space": {"hyperparameters": {"learning_rate": [0.0001, 0.1]}}},
     "/params/space/hyperparameters/learning_rate", '{"log_uniform": [0.0001,0.1]}'),
    ({"space": {"hyperparameters": {"learning_rate": [0, 0.1], "momentum": list(range(200))}}, "trials": "many"},
     "/params/space/hyperparameters/momentum", 'must say what the list is: {"choice": […]}'),
    ({"space": {"hyperparameters": {"optimizer": ["adam", "sgd"]}}},
     "/params/space/hyperparameters/optimizer", '{"choice": ["adam","sgd"]}'),
    ({"space": {"hyperparameters": {"learning_rate": 0.1}}}, "/params/space/hyperparameters/learning_rate", "an object"),
    ({"space": {"hyperparameters": RATES}, "steps": [{"kind": "train", "params": {}}]},
     "/params/space/hyperparameters/learning_rate", "steps.0"),
    ({"space": {"width": [0.5, 1]}, "steps": [{"kind": "evaluate", "params": {}}]}, "/params/steps/0/kind", "train"),
    ({"space": {"width": [0.5, 1]}, "final": {"epoch": 3}}, "/params/final/epoch", "unknown"),
    ({"space": {"width": [0.5, 1]}, "trials": 0}, "/params/trials", "from 1"),
    ({"space": {"resolution": [0.5, 1.5]}}, "/params/space/resolution/1", "at most 1"),
    ({"space": {"template": "nas_bench_201"}}, "/params/space/template", "unknown"),
    ({"space": {"activation": ["Relu", "Relu"]}}, "/params/space/activation/1", "twice"),
    ({"space": {"hyperparameters": RATES}, "strategy": {"name": "exhaustive"}}, "/params/strategy/name", "learning_rate"),
    ({"space": {"hyperparameters": {**RATES, "optimizer.learning_rate": {"choice": [1e-3]}}}},
     "/params/space/hyperparameters/optimizer.learning_rate", "same as"),
    ({"space": {"hyperparameters": RATES}, "final": {"optimizer": {"learning_rate": 0.1}}},
     "/params/space/hyperparameters/learning_rate", "final"),
    ({"space": {"hyperparameters": {"momentum": {"uniform": [0.5, 0.9], "when": {"optimizer": ["sgd", "adamw"]}},
                                    "optimizer": {"choice": ["sgd", "adamw"]}}}},
     "/params/space/hyperparameters/momentum", "sgd"),
    ({"space": {"hyperparameters": {"loss": {"choice": ["cross_entropy", "mean_squared_error"]}}}},
     "/params/space/hyperparameters/loss", "suit"),
    ({"space": {"width": [0.5, 1]}, "final": {"loss": "mean_squared_error"}}, "/params/final/loss", "suit"),
    ({"space": {"width": [0.5, 1]}, "objectives": [{"metric": "macs"}], "control": True}, "/params/control", "metric"),
    ({"space": {"hyperparameters": {"augment." * 20_000 + "x": {"choice": [1]}}}}, "/params/space/hyperparameters/augment",
     "16 parts"),
    ({"space": {"hyperparameters": {"learning_rate": {"choice": [rate / 1e5 for rate in range(1, 5000)]}}}},
     "/params/space/hyperparameters/learning_rate/choice", "at most 256"),
    ({"space": {"hyperparameters": {"learning_rate": {"choice": [1, 1.0]}}}},
     "/params/space/hyperparameters/learning_rate/choice/1", "twice"),
    ({"space": {"hyperparameters": {"learning_rate": {"uniform": [-1e308, 1e308]}}}},
     "/params/space/hyperparameters/learning_rate/uniform", "number"),
    ({"space": {"hyperparameters": {"augment": {"choice": [{"mixup": {"alpha": 0.9}}]},
                                    "augment.mixup.alpha": {"choice": [0.1, 0.2]}}}},
     "/params/space/hyperparameters/augment.mixup.alpha", "within"),
    ({"space": {"width": [0.5, 1]}, "strategy": {"name": "successive_halving", "eta": 3, "rounds": 3},
      "trial": {"epochs": 8}}, "/params/strategy/rounds", "epoch"),
    ({"space": {"hyperparameters": {"steps.0.params.student": {"choice": [{"model": "x"}]}}},
      "steps": [{"kind": "distill", "params": {"student": {"width": 0.5}}}]},
     "/params/space/hyperparameters/steps.0.params.student", "models"),
    ({"space": {"hyperparameters": {"steps.+0.params.epochs": {"choice": [1]}}},
      "steps": [{"kind": "train", "params": {}}]}, "/params/space/hyperparameters/steps.+0.params.epochs", "number"),
    ({"space": {"hyperparameters": {"steps.0.params.student.model": {"choice": [1]}}},
      "steps": [{"kind": "distill", "params": {"student": {"width": 0.5}}}]},
     "/params/space/hyperparameters/steps.0.params.student.model", "models"),
    ({"space": {"width": [0.5, 1]}, "screening": {"proxy": "jacobian"}}, "/params/screening/proxy", "synflow"),
    ({"space": {"hyperparameters": RATES}, "screening": {"proxy": "zico"}}, "/params/screening", "only hyper"),
])
def test_bad_searches_are_refused_with_what_to_do(server, small, digits, params, pointer, word):
    answer = server.post("/v1/jobs", json={
        "kind": "search", "model": small["id"], "dataset": digits["id"], "params": params})
    problem = assert_problem(answer, 422)
    faults = [each["detail"] for each in problem["errors"] if each["pointer"].startswith(pointer)]
    assert any(word in detail for detail in faults), problem


def test_spaces_that_can_not_be_searched_fail_with_the_reason(server, network, small, digits):
    def refused(model, params, code, says):
        body = {"kind": "search", "model": model["id"], "dataset": digits["id"], "data": DATA, "params": params}
        assert_problem(server.post("/v1/jobs", json=body), 422, code, says=says)

    refused(small, {"space": {"kernel": [3, 5]}}, "empty_space", "layers")
    refused(network, {"space": {"width": [0.5, 1]}, "constraints": {"macs": 10}}, "no_feasible_candidate", "macs at most 10")
    data = arrays()
    rare = np.flatnonzero(data["y_train"] == 4)[3:]
    kept = np.delete(np.arange(len(data["y_train"])), rare)
    dataset = server.upload_dataset(saved(**dict(data, x_train=data["x_train"][kept], y_train=data["y_train"][kept])))
    job = server.wait(server.submit("search", network, dataset, {
        "space": {"width": [0.5, 1]}, "evaluation": {"method": "cross_validation", "folds": 5}}, data=DATA))
    assert job["status"] == "failed" and job["error"]["code"] == "rare_label"
    assert "4 has 3 examples" in job["error"]["detail"]
    answer = server.post("/v1/jobs", json={
        "kind": "search", "model": small["id"], "dataset": digits["id"], "data": {"validation_fraction": 0},
        "params": {"space": {"width": [0.5, 1]}}})
    assert_problem(answer, 422, pointer="/params/evaluation")
    unknown = server.post("/v1/jobs", json={
        "kind": "search", "model": small["id"], "dataset": digits["id"],
        "params": {"space": {"width": [0.5, 1]}, "warm_start": small["id"]}})
    assert_problem(unknown, 422, "job_not_found", pointer="/params/warm_start")
