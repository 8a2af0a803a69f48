"""Training in Sinter beside training in PyTorch: the same data, the same start, the same numbers.

A batch as large as the train split makes the order of examples irrelevant, so every step of both is
the same step.
"""

import io
import pathlib

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from conftest import DIGITS_CNN

EPOCHS = 10
EXAMPLES = 256


class Network(torch.nn.Module):
    """A convolution, a depthwise one, batch normalisation, a residual sum, pooling and two layers."""

    def __init__(self):
        super().__init__()
        # Without a bias: before a normalisation its gradient is rounding noise, which Adam scales up.
        self.first = torch.nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = torch.nn.BatchNorm2d(8)
        self.depthwise = torch.nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.second_norm = torch.nn.BatchNorm2d(8)
        self.hidden = torch.nn.Linear(8 * 4 * 4, 24)
        self.head = torch.nn.Linear(24, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.second_norm(self.depthwise(x)) + x)
        x = torch.nn.functional.max_pool2d(x, 2).flatten(1)
        return self.head(torch.nn.functional.gelu(self.hidden(x)))


OPTIMIZERS = {
    "sgd": (
        {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.001},
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.001),
    ),
    "adamw": (
        {"name": "adamw", "learning_rate": 0.005, "weight_decay": 0.01},
        lambda p: torch.optim.AdamW(p, lr=0.005, weight_decay=0.01),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ten_steps_follow_pytorch(server, tmp_path, name):
    settings, make_optimizer = OPTIMIZERS[name]
    root = pathlib.Path(__file__).resolve().parents[2]
    digits = np.load(root / "examples/data/digits.npz")
    x, y = digits["x_train"][:EXAMPLES], digits["y_train"][:EXAMPLES]

    torch.manual_seed(5)
    network = Network()
    # Away from the start that every network has, so that running statistics matter.
    for norm in (network.norm, network.second_norm):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
        torch.nn.init.uniform_(norm.running_mean, -0.1, 0.1)
        torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
    file = io.BytesIO()
    torch.onnx.export(
        network.eval(), torch.zeros(2, 1, 8, 8), file, dynamo=False, opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
        input_names=["input"], output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
    )

    network.train()
    optimizer = make_optimizer(network.parameters())
    inputs = torch.tensor(x, dtype=torch.float32).unsqueeze(1) * 0.0625
    labels = torch.tensor(y)
    expected = []
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(inputs), labels)
        loss.backward()
        optimizer.step()
        expected.append(loss.item())

    archive = io.BytesIO()
    np.savez(archive, x_train=x, y_train=y, x_test=x, y_test=y)
    model = server.post("/v1/models?name=parity", data=file.getvalue()).json()
    dataset = server.post("/v1/datasets?name=parity", data=archive.getvalue()).json()
    answer = server.post("/v1/jobs", json={
        "kind": "train", "model": model["id"], "dataset": dataset["id"],
        "data": {"batch_size": EXAMPLES, "validation_fraction": 0, "preprocess": {"scale": 0.0625}},
        "params": {"epochs": EPOCHS, "optimizer": settings, "schedule": {"name": "constant"}},
    })
    assert answer.status_code == 202, answer.text
    job = answer.json()
    for _ in range(10):
        job = server.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=30"}).json()
        if job["status"] not in ("queued", "running"):
            break
    assert job["status"] == "succeeded", job["error"]

    curves = {c["name"]: c["points"] for c in server.get(f"/v1/jobs/{job['id']}/metrics").json()["data"]}
    losses = [point["value"] for point in curves["train/loss"]]
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-3)
    assert expected[-1] < 0.8 * expected[0]

    trained = onnx.load_from_string(server.get(f"/v1/jobs/{job['id']}/artifacts/model.onnx").content)
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in trained.graph.initializer}
    wanted = {k: v.numpy() for k, v in network.state_dict().items() if "num_batches" not in k}
    assert set(wanted) <= set(found)
    for key, value in wanted.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-3, err_msg=key)


def test_a_batch_size_that_the_file_fixes_is_told(server, digits):
    model = onnx.load(str(DIGITS_CNN))
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 8
    fixed = server.upload_model(model.SerializeToString(), "fixed")
    job = server.run("train", fixed, digits, {"epochs": 1})
    (told,) = [event for event in server.events(job) if event["type"] == "batch_size_fixed"]
    assert told["level"] == "warning" and told["data"] == {"batch_size": 8, "asked": 64}
    small = server.run("train", fixed, digits, {"epochs": 1}, data={"batch_size": 8})
    assert "batch_size_fixed" not in [event["type"] for event in server.events(small)]
