"""Builds the example models in PyTorch and exports them to ONNX, with the digits data set.

    python examples/export_models.py            # everything
    python examples/export_models.py --only fashion_cnn

Batch normalisation stays in the files as inference-form nodes, so that Sinter can go on
training them. `build_fashion_cnn` and `build_fashion_resnet` are imported by the benchmarks.
"""

import argparse
import json
import pathlib
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent

# Stored digits are 0..16; the models are trained on 0..1.
DIGITS_SCALE = 0.0625


class DigitsCnn(nn.Module):
    """[batch, 1, 8, 8] to ten logits."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(64 * 2 * 2, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.relu(self.norm1(self.conv1(x)))
        x = self.pool(torch.relu(self.norm2(self.conv2(x))))
        x = self.pool(torch.relu(self.norm3(self.conv3(x))))
        x = torch.relu(self.hidden(torch.flatten(x, 1)))
        return self.head(x)


class FashionCnn(nn.Module):
    """[batch, 1, 28, 28] to ten logits through three plain convolutions."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.norm3 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(64 * 3 * 3, 160)
        self.head = nn.Linear(160, 10)

    def forward(self, x):
        x = self.pool(torch.relu(self.norm1(self.conv1(x))))
        x = self.pool(torch.relu(self.norm2(self.conv2(x))))
        x = self.pool(torch.relu(self.norm3(self.conv3(x))))
        x = torch.relu(self.hidden(torch.flatten(x, 1)))
        return self.head(x)


class InvertedResidual(nn.Module):
    """Widen by 1x1, filter each channel by 3x3, narrow by 1x1; add the input where shapes allow."""

    def __init__(self, channels_in, channels_out, stride, expansion=3):
        super().__init__()
        wide = channels_in * expansion
        self.expand = nn.Conv2d(channels_in, wide, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(wide)
        self.depthwise = nn.Conv2d(wide, wide, 3, stride, padding=1, groups=wide, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(wide)
        self.project = nn.Conv2d(wide, channels_out, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(channels_out)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x):
        y = torch.relu(self.expand_norm(self.expand(x)))
        y = torch.relu(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return x + y if self.residual else y


class FashionResnet(nn.Module):
    """[batch, 1, 28, 28] to ten logits through residual sums and depthwise convolutions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 24, 3, stride=2, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(24)
        self.block1 = InvertedResidual(24, 24, 1)
        self.block2 = InvertedResidual(24, 40, 2)
        self.block3 = InvertedResidual(40, 40, 1)
        self.block4 = InvertedResidual(40, 80, 2)
        self.block5 = InvertedResidual(80, 80, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(80, 10)

    def forward(self, x):
        x = torch.relu(self.stem_norm(self.stem(x)))
        x = self.block1(x)
        x = self.block3(self.block2(x))
        x = torch.relu(self.block5(self.block4(x)))
        return self.head(torch.flatten(self.pool(x), 1))


def build_digits_cnn(seed=0):
    torch.manual_seed(seed)
    return DigitsCnn()


def build_fashion_cnn(seed=0):
    torch.manual_seed(seed)
    return FashionCnn()


def build_fashion_resnet(seed=0):
    torch.manual_seed(seed)
    return FashionResnet()


def count_macs(model, shape):
    """Multiply-accumulates of convolutions and linear layers for one example."""
    total = 0

    def add(module, _inputs, output):
        nonlocal total
        per_output = module.weight[0].numel()
        total += output[0].numel() * per_output

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    for hook in hooks:
        hook.remove()
    return total


def count_parameters(model):
    """Elements of all weights, running means and variances included."""
    buffers = (b for b in model.buffers() if b.is_floating_point())
    return sum(p.numel() for p in model.parameters()) + sum(b.numel() for b in buffers)


def separate_norms(model):
    """Makes the normalisations of an untrained model differ a little from each other.

    Fresh ones are all ones and zeros, and the exporter stores tensors of equal value once, with
    `Identity` nodes, which would tie weights that are not tied in the model.
    """
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor += 0.02 * (torch.rand(tensor.shape, generator=noise) - 0.5)


def digits_splits():
    """The 1,797 digits as uint8 images of 0..16, 1,437 to train on and 360 to test on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = digits.images.astype(np.uint8)
    labels = digits.target.astype(np.int64)
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=360, stratify=labels, random_state=0
    )
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def train_digits(model, splits, epochs=30, batch_size=64):
    """Trains in place and returns the accuracy on the test split."""

    def prepare(images):
        return torch.from_numpy(images).float().unsqueeze(1) * DIGITS_SCALE

    x_train, y_train = prepare(splits["x_train"]), torch.from_numpy(splits["y_train"])
    order = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    steps = epochs * (len(x_train) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        shuffled = torch.randperm(len(x_train), generator=order)
        for batch in shuffled.split(batch_size):
            if len(batch) < batch_size:
                continue
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x_train[batch]), y_train[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.no_grad():
        guesses = model(prepare(splits["x_test"])).argmax(1).numpy()
    return float((guesses == splits["y_test"]).mean())


def export(model, shape, path):
    """Writes `model` to `path`, checks the file and compares it with PyTorch."""
    model.eval()
    example = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,),
            str(path),
            dynamo=False,
            opset_version=17,
            # The model's own mode, which is eval: no fusing into the convolutions.
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
            input_names=["input"],
            output_names=["logits"],
            dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
        )
    written = onnx.load(str(path))
    onnx.checker.check_model(written, full_check=True)
    norms = [node for node in written.graph.node if node.op_type == "BatchNormalization"]
    expected = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert all(node.op_type != "Identity" for node in written.graph.node), "weights are shared"
    assert len(norms) == expected, f"{path}: {len(norms)} of {expected} normalisations remain"
    for node in norms:
        assert len(node.output) == 1, f"{node.name} is in training form"
        assert all(a.name != "training_mode" or a.i == 0 for a in node.attribute), node.name
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        for batch in (1, 2, 5):
            data = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(batch))
            found = session.run(None, {"input": data.numpy()})[0]
            np.testing.assert_allclose(found, model(data).numpy(), rtol=1e-4, atol=1e-5)
    return len(norms)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["digits_cnn", "fashion_cnn", "fashion_resnet"]
    parser.add_argument("--only", choices=names, action="append", help="may be repeated")
    parser.add_argument("--models", type=pathlib.Path, default=HERE / "models")
    parser.add_argument("--data", type=pathlib.Path, default=HERE / "data")
    arguments = parser.parse_args()
    chosen = arguments.only or names
    arguments.models.mkdir(parents=True, exist_ok=True)
    arguments.data.mkdir(parents=True, exist_ok=True)
    # The order of additions, and so the exact weights, depends on the number of threads.
    torch.set_num_threads(1)

    builders = {
        "digits_cnn": (build_digits_cnn, (1, 8, 8)),
        "fashion_cnn": (build_fashion_cnn, (1, 28, 28)),
        "fashion_resnet": (build_fashion_resnet, (1, 28, 28)),
    }
    summary = {}
    for name in chosen:
        build, shape = builders[name]
        model = build()
        figures = {"parameters": count_parameters(model), "macs": count_macs(model, shape)}
        if name == "digits_cnn":
            splits = digits_splits()
            np.savez_compressed(arguments.data / "digits.npz", **splits)
            figures["test_accuracy"] = round(train_digits(model, splits), 4)
        else:
            separate_norms(model)
        path = arguments.models / f"{name}.onnx"
        figures["batch_normalizations"] = export(model, shape, path)
        figures["size_bytes"] = path.stat().st_size
        summary[name] = figures
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
