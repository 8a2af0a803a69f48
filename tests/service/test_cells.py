"""Searches among networks of cells; PyTorch computes what each should."""

import io
import itertools

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

import graph_tools
from conftest import assert_problem
from test_distill import exported, saved
from test_search import DATA, arrays, search, trials_of

pytestmark = pytest.mark.timeout(300)

EDGES = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
ALL = ["none", "skip_connect", "conv_1x1", "conv_3x3", "avg_pool_3x3"]


def start(*closing, shape=(1, 8, 8)):
    """What someone uploads who has no network yet: a layer with the right input and output."""
    torch.manual_seed(0)
    return exported(nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 10), *closing), shape)


def reference(weights, x, config, stages, cells):
    """NAS-Bench-201's network (Dong and Yang, 2020) with these weights, one or two axes."""
    axes = x.ndim - 2
    convolve = (functional.conv1d, functional.conv2d)[axes - 1]
    average = (functional.avg_pool1d, functional.avg_pool2d)[axes - 1]

    def normalized(name, x):
        scale, bias, mean, variance = (weights[f"{name}/{part}"] for part in ("scale", "bias", "mean", "variance"))
        return functional.batch_norm(x, mean, variance, scale, bias)

    def convolution(name, x, stride=1):
        kernel = weights[f"{name}/weight"]
        return normalized(name, convolve(x, kernel, stride=stride, padding=kernel.shape[-1] // 2))

    def edge(name, operation, x):
        match operation:
            case "none":
                return torch.zeros_like(x)
            case "skip_connect":
                return x
            case "avg_pool_3x3":
                return average(x, 3, 1, 1, count_include_pad=False)
            case _:
                return convolution(name, torch.relu(x))

    x = convolution("stem", x)
    for stage in range(stages):
        if stage > 0:
            name = f"stage{stage}/reduction"
            inner = convolution(f"{name}/second", torch.relu(convolution(f"{name}/first", torch.relu(x), 2)))
            x = inner + convolve(average(x, 2, 2), weights[f"{name}/shortcut/weight"])
        for cell in range(cells):
            values = [x, 0, 0, 0]
            for (source, target), operation in zip(EDGES, config):
                name = f"stage{stage}/cell{cell}/{source}-{target}"
                value = values[source]
                if isinstance(value, int) or f"{name}/weight" not in weights and operation.startswith("conv"):
                    continue
                values[target] = values[target] + edge(name, operation, value)
            x = values[3]
    x = torch.relu(normalized("last", x)).flatten(2).mean(2)
    return functional.linear(x, weights["classifier/weight"], weights["classifier/bias"])


def operations_of(trial):
    return [trial["config"][f"cell:{source}-{target}"] for source, target in EDGES]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 64)], ids=["images", "waves"])
def test_networks_of_cells_compute_what_the_benchmarks_do(server, shape):
    data = arrays()
    own = {name: data[name].reshape(-1, *shape) for name in ("x_train", "x_test")}
    dataset = server.upload_dataset(saved(**dict(data, **own)))
    model = server.upload_model(start(shape=shape), "start")
    job = search(server, model, dataset, {
        "space": {"cell": {"channels": 4, "cells": 2, "stages": 2}}, "strategy": {"name": "genetic", "population": 4},
        "trials": 8, "trial": {"epochs": 2, "optimizer": {"name": "adamw", "learning_rate": 0.01}},
        "objectives": [{"metric": "accuracy"}, {"metric": "parameters"}], "final": {"epochs": 10}})
    outcome = job["result"]["search"]
    assert outcome["space_size"] == 5 ** 6 and outcome["failed"] == 0
    assert all(each["choices"] == ALL for each in outcome["space"])
    trials = trials_of(server, job)["trials"]
    x = own["x_test"].astype(np.float32)[:50] / 16
    models = {entry["trial"]: entry["model"] for entry in outcome["front"]}
    seen = [(trials[number], model) for number, model in models.items()]
    for trial, made in [*seen, (outcome["best"][0], job["result"]["model"])]:
        content = server.model_content(made)
        found = graph_tools.session_of(content).run(None, {"x": x})[0]
        weights = {tensor.name: torch.tensor(numpy_helper.to_array(tensor).copy())
                   for tensor in onnx.load_from_string(content).graph.initializer}
        expected = reference(weights, torch.tensor(x), operations_of(trial), 2, 2)
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)
    assert job["result"]["after"]["metrics"]["accuracy"] > 0.5


def test_cells_through_which_nothing_comes_are_not_tried(server, digits):
    def comes_through(config):
        reached = {0}
        for (source, target), operation in zip(EDGES, config):
            if operation != "none" and source in reached:
                reached.add(target)
        return 3 in reached

    model = server.upload_model(start(nn.Softmax(1)), "softmax")
    job = search(server, model, digits, {
        "space": {"cell": {"operations": ["none", "skip_connect"], "channels": 2, "cells": 1, "stages": 1}},
        "strategy": {"name": "exhaustive"}, "trials": 100}, data={**DATA, "limit": 300})
    able = [list(config) for config in itertools.product(["none", "skip_connect"], repeat=6) if comes_through(config)]
    assert sorted(map(operations_of, trials_of(server, job)["trials"])) == sorted(able)
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    shares = graph_tools.session_of(server.model_content(job["result"]["model"])).run(None, {"x": x})[0]
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize(("space", "pointer", "word"), [
    ({"cell": {"operations": ["conv_5x5"]}}, "/params/space/cell/operations/0", "conv_3x3"),
    ({"cell": {"operations": ["none"]}}, "/params/space/cell/operations", "through"),
    ({"cell": {"operations": ["conv_1x1", "conv_1x1"]}}, "/params/space/cell/operations/1", "twice"),
    ({"cell": {"channels": 0}}, "/params/space/cell/channels", "from 1"),
    ({"cell": {"template": "darts"}}, "/params/space/cell/template", "nas_bench_201"),
    ({"cell": {}, "width": [0.5, 1]}, "/params/space/cell", "leave out"),
])
def test_bad_cells_are_refused(server, digits_model, digits, space, pointer, word):
    answer = server.post("/v1/jobs", json={
        "kind": "search", "model": digits_model["id"], "dataset": digits["id"], "params": {"space": space}})
    problem = assert_problem(answer, 422)
    fault = next((each for each in problem["errors"] if each["pointer"].startswith(pointer)), None)
    assert fault and word in fault["detail"], problem


def test_names_of_the_model_stay_its_own(server, digits):
    file = io.BytesIO()
    torch.onnx.export(nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1)), (torch.zeros(2, 1, 8, 8),), file,
                      dynamo=False, input_names=["stem"], output_names=["classifier"],
                      dynamic_axes={"stem": {0: "batch"}, "classifier": {0: "batch"}})
    model = server.upload_model(file.getvalue(), "names")
    job = search(server, model, digits, {"space": {"cell": {"channels": 2, "cells": 1, "stages": 1}}, "trials": 2})
    session = graph_tools.session_of(server.model_content(job["result"]["model"]))
    assert [session.get_inputs()[0].name, session.get_outputs()[0].name] == ["stem", "classifier"]
    assert session.run(None, {"stem": np.zeros((3, 1, 8, 8), np.float32)})[0].shape == (3, 10)


def test_a_model_of_half_precision_says_so(server, digits):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).half()
    file = io.BytesIO()
    torch.onnx.export(network, (torch.zeros(2, 1, 8, 8, dtype=torch.half),), file, dynamo=False, input_names=["x"],
                      output_names=["y"], dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}})
    model = server.upload_model(file.getvalue(), "half")
    body = {"kind": "search", "model": model["id"], "dataset": digits["id"], "data": DATA, "params": {"space": {"cell": {}}}}
    assert_problem(server.post("/v1/jobs", json=body), 422, "unsupported", says="32-bit")


def test_a_model_whose_input_has_no_places_says_so(server):
    data = arrays()
    flat = {name: data[name].reshape(-1, 64) for name in ("x_train", "x_test")}
    dataset = server.upload_dataset(saved(**dict(data, **flat)))
    model = server.upload_model(start(shape=(64,)), "flat")
    body = {"kind": "search", "model": model["id"], "dataset": dataset["id"], "data": DATA, "params": {"space": {"cell": {}}}}
    assert_problem(server.post("/v1/jobs", json=body), 422, "unsupported", says="[batch, channels")
