"""Channel pruning of networks that the examples do not have: couplings of every kind.

The inputs are noise and the labels are drawn by lot; nothing here is about accuracy. What a
pruned file computes is checked against the original where half of all channels are silent: their
removal must not change the outputs, whichever of them are taken.
"""

import io

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import graph_tools
import models
from conftest import assert_problem
from graph_tools import NETWORKS, exported, random_noise

pytestmark = pytest.mark.timeout(120)

# The channels of these run into slices or shared tensors whose sizes the graph computes, so that
# less can go; they may fail, but have to say which target and what can be reached.
MAY_FAIL = {("shared", True), ("squeezed", False), ("squeezed", True)}

CASES = [(name, folded, None) for name in NETWORKS for folded in (False, True)]
CASES += [(name, False, 1) for name in ("grouped", "view_cnn", "fixed_view", "view_mlp")]
CASES += [(name, True, 8) for name in ("dense", "transposed", "view_mlp", "squeezed")]


@pytest.fixture(scope="module")
def lottery(server):
    """Noise with labels by lot; 60 test examples do not divide by a batch of 8."""
    draw = np.random.default_rng(3)
    arrays = {
        "x_train": random_noise(256, seed=1),
        "y_train": draw.integers(0, 10, 256),
        "x_test": random_noise(60, seed=2),
        "y_test": draw.integers(0, 10, 60),
    }
    arrays["y_train"][:10] = np.arange(10)
    file = io.BytesIO()
    np.savez(file, **arrays)
    return arrays, server.upload_dataset(file.getvalue(), "lottery")


def assert_same_interface(before, after):
    before, after = onnx.load_from_string(before), onnx.load_from_string(after)
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    assert list(after.opset_import) == list(before.opset_import)
    assert (after.producer_name, after.producer_version) == (
        before.producer_name,
        before.producer_version,
    )
    # With what the job's data says about inputs and answers.
    kept = [entry for entry in after.metadata_props if entry.key != "sinter.expects"]
    assert kept == list(before.metadata_props)
    assert (after.graph.name, after.ir_version) == (before.graph.name, before.ir_version)


@pytest.mark.parametrize(("name", "folded", "batch"), CASES)
def test_channels_of_any_graph_are_pruned_to_the_target_or_the_problem_says_why(
    server, name, folded, batch
):
    content = exported(name, folded, batch)
    model = server.upload_model(content, f"{name} {folded} {batch}")
    summary = model["summary"]
    assert summary["trainable"] and summary["unsupported_operators"] == []
    assert summary["macs"] == graph_tools.count_macs(content)
    counted = graph_tools.count_parameters(content)
    assert (summary["parameters"], summary["nonzero_parameters"]) == counted
    params = {"granularity": "channel", "target": {"macs_ratio": 0.6}}
    answer = server.post("/v1/jobs", json={"kind": "prune", "model": model["id"], "params": params})
    if answer.status_code != 202:
        assert (name, folded) in MAY_FAIL, answer.text
        assert_problem(answer, 422, "target_unreachable", says="macs_ratio of 0.6 ")
        layers = server.get(f"/v1/models/{model['id']}/layers").json()["data"]
        assert [layer["blocked_by"] for layer in layers if layer.get("blocked_by")]
        return
    job = server.wait(answer.json())
    assert job["status"] == "succeeded"
    pruned, result = server.artifact(job, "model.onnx"), job["result"]
    onnx.checker.check_model(onnx.load_from_string(pruned), full_check=True)
    assert_same_interface(content, pruned)
    for size in [batch] if batch else [1, 5]:
        for output in graph_tools.run(pruned, random_noise(size)):
            assert np.isfinite(output).all()
    macs = graph_tools.count_macs(pruned)
    assert macs <= 0.6 * summary["macs"]
    assert result["after"]["macs"] == macs
    assert result["prune"]["reached"]["macs_ratio"] == pytest.approx(macs / summary["macs"])
    counted = graph_tools.count_parameters(pruned)
    assert (result["after"]["parameters"], result["after"]["nonzero_parameters"]) == counted
    assert counted[0] < summary["parameters"]
    heads = {blocked["layer"] for blocked in result["prune"]["blocked"]}
    assert any("head" in layer for layer in heads), "the outputs must not shrink"


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_taking_silent_channels_away_does_not_change_what_a_graph_computes(server, name, folded):
    # The slices of `squeezed` can only be followed where they have fixed sizes.
    batch = 8 if name == "squeezed" else None
    content = exported(name, folded, batch, half_silent=True)
    model = server.upload_model(content, f"{name} half silent")
    params = {"granularity": "channel", "target": {"channel_sparsity": 0.4}, "round_to": 1}
    job = server.run("prune", model, params=params)
    pruned = server.artifact(job, "model.onnx")
    after, before = job["result"]["after"], job["result"]["before"]
    assert after["parameters"] < before["parameters"] and after["macs"] < before["macs"]
    inputs = random_noise(8, seed=5)
    for found, wanted in zip(graph_tools.run(pruned, inputs), graph_tools.run(content, inputs)):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "folded", "batch"),
    [(name, False, None) for name in NETWORKS if name not in {"squeezed", "two_heads"}]
    + [("transposed", True, 8), ("view_mlp", False, 8), ("fixed_view", False, 1)],
)
def test_figures_after_fine_tuning_are_those_of_onnx_runtime(server, lottery, name, folded, batch):
    arrays, dataset = lottery
    content = exported(name, folded, batch)
    params = {
        "granularity": "channel",
        "target": {"macs_ratio": 0.7},
        "finetune": {"epochs": 1, "optimizer": {"learning_rate": 0.01}},
    }
    job = server.run("prune", server.upload_model(content, name), dataset, params)
    result = job["result"]
    assert result["environment"]["data"]["splits"]["test"] == 60
    for file, figures in [
        (content, result["before"]),
        (server.artifact(job, "model.onnx"), result["after"]),
    ]:
        outputs = graph_tools.logits_of(file, arrays["x_test"])
        if name == "softmax":
            outputs = np.log(outputs)
        loss = graph_tools.cross_entropy(outputs, arrays["y_test"])
        assert figures["metrics"]["loss"] == pytest.approx(loss, abs=1e-4)
        right = graph_tools.accuracy(outputs, arrays["y_test"])
        assert figures["metrics"]["accuracy"] == pytest.approx(right, abs=1e-9)
    weights = graph_tools.kernels_of(server.artifact(job, "model.onnx"))
    assert all(np.isfinite(weight).all() for weight in weights.values())


def test_what_the_exporter_leaves_when_it_keeps_batch_normalisation(server, tmp_path):
    """`optimize=False` writes a missing offset as zeros in the shape of the kernel, computed at each run."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                            nn.Conv2d(16, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    path = tmp_path / "kept.onnx"
    torch.onnx.export(network.eval(), (torch.zeros(2, 1, 8, 8),), path, dynamic_shapes=({0: torch.export.Dim("batch")},),
                      external_data=False, optimize=False, verbose=False)
    content = path.read_bytes()
    operators = lambda file: [node.op_type for node in onnx.load_from_string(file).graph.node]
    assert {"Shape", "Expand", "BatchNormalization"} <= set(operators(content))
    model = server.upload_model(content, "kept")
    layers = {layer["name"]: layer for layer in server.get(f"/v1/models/{model['id']}/layers").json()["data"]}
    assert [layer["parameters"] for layer in layers.values()] == [144, 32, 2304, 32, 2570]
    job = server.run("prune", model, params={"target": {"macs_ratio": 0.5}})
    pruned = server.artifact(job, "model.onnx")
    assert operators(pruned).count("BatchNormalization") == 2 and not {"Expand", "CastLike"} & set(operators(pruned))
    result = job["result"]
    assert result["before"]["parameters"] == 144 + 32 + 2304 + 32 + 2570
    assert result["after"]["parameters"] == graph_tools.count_parameters(pruned)[0] < 0.7 * result["before"]["parameters"]
    # Of the size the file as it came counts, with what it did not need.
    sized = server.run("prune", model, params={"target": {"size_ratio": 0.7}})["result"]
    assert sized["change"]["size_ratio"] <= 0.7
    assert sized["prune"]["reached"]["size_ratio"] == pytest.approx(sized["change"]["size_ratio"], abs=0.01)
    images = random_noise(3, seed=5)[:, :1, :8, :8].astype(np.float32)
    images = np.ascontiguousarray(np.resize(images, (3, 1, 8, 8)))
    assert graph_tools.session_of(pruned).run(None, {"input": images})[0].shape == (3, 10)


class Normalising(nn.Module):
    """Takes what is stored: its mean and deviation are buffers, which an exported file does not tell from weights."""

    def __init__(self, shape):
        super().__init__()
        self.register_buffer("mean", torch.tensor([3.0, 5.0, 7.0]).reshape(shape))
        self.register_buffer("deviation", torch.tensor([2.0, 4.0, 8.0]).reshape(shape))
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4)) if len(shape) == 3 \
            else nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 4))
        # Learned, and as near to the input as can be.
        self.gain = nn.Parameter(torch.full(shape, 1.5))

    def forward(self, x):
        return self.body((x.float() * (1 / 255) - self.mean) / self.deviation * self.gain)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("shape", [(3, 1, 1), (3,)])
def test_what_normalises_the_inputs_is_no_weight(server, tmp_path, shape, dynamo):
    torch.manual_seed(0)
    network = Normalising(shape).eval()
    example = (3, 8, 8) if len(shape) == 3 else (3,)
    path = tmp_path / "normalising.onnx"
    options = {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("batch")},), "external_data": False, "verbose": False} \
        if dynamo else {"dynamo": False, "input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    torch.onnx.export(network, (torch.zeros(2, *example),), path, **options)
    model = server.upload_model(path.read_bytes(), "normalising")
    assert model["summary"]["parameters"] == sum(weight.numel() for weight in network.parameters())
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 200)
    x = (random.normal(0, 1, (200, *example)) + labels.reshape(-1, *[1] * len(example))).astype(np.float32) * 255
    dataset = server.upload_dataset(models.npz(x_train=x, y_train=labels, x_test=x, y_test=labels), "levels")
    job = server.run("train", model, dataset, {"epochs": 2, "optimizer": {"learning_rate": 0.01}})
    trained = {tensor.name: onnx.numpy_helper.to_array(tensor)
               for tensor in onnx.load_from_string(server.artifact(job, "model.onnx")).graph.initializer}
    kept = [sorted(values.ravel().tolist()) for values in trained.values() if values.size == 3]
    assert [3.0, 5.0, 7.0] in kept and [2.0, 4.0, 8.0] in kept
    assert len(kept) == 3 and [1.5] * 3 not in kept, "the gain was not trained"
