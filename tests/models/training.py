"""Ten steps of SGD by PyTorch, for Sinter's training to be compared with. Imported by export.py; not run.

The folder train_NAME has model.onnx with nothing folded; data.npz, an array for each input and the labels `y`;
parity.json with the learning rate, the loss before each step, and the losses of the same ten steps in float64, which
say how much of a difference is rounding; and final.onnx, the same model after the last step, its initializers named
as before.
"""

import copy
import dataclasses
import functools
import json

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

import networks
from case import infer, model, seed, session
from pytorch import CLASSES, NETWORKS, OWN, TORCHVISION, Network, images, make, torchscript, torchvision_model

EXAMPLES, STEPS = 16, 10
# Gradients explode through the depth of networks with batch norms at random weights (Yang et al. 2019): ten steps
# then make a difference of 0.1 out of a rounding error of 1e-7. After some steps on noise they no longer do.
WARM_UP_STEPS, WARM_UP_RATE, WARM_UP_MOMENTUM = 100, 0.03, 0.9


def untouched(network):
    """The model in inference mode with batch norms apart and each parameter an initializer of its own name."""
    network.module.eval()
    return torchscript(network, training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)


def step(module, optimizer, tensors, labels):
    """One step of training; gives the loss before it."""
    optimizer.zero_grad()
    loss = functional.cross_entropy(module(*tensors), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def train(module, tensors, labels, learning_rate):
    """The losses of plain SGD on all examples at once, each before its step."""
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=learning_rate)
    return [step(module, optimizer, tensors, labels) for _ in range(STEPS)]


def warm_up(network):
    """Steps on seeded noise with seeded labels."""
    network.module.train()
    optimizer = torch.optim.SGD(network.module.parameters(), lr=WARM_UP_RATE, momentum=WARM_UP_MOMENTUM)
    for index in range(WARM_UP_STEPS):
        rng = np.random.default_rng(seed(f"warm-up {index}"))
        labels = torch.from_numpy(rng.integers(CLASSES, size=EXAMPLES))
        step(network.module, optimizer, network.tensors(EXAMPLES, rng), labels)


def in_float64(module, tensors, labels, learning_rate):
    """The same losses in float64: what float32 can be expected to reproduce."""
    return train(
        copy.deepcopy(module).double(), [t.double() if t.is_floating_point() else t for t in tensors], labels,
        learning_rate,
    )


def initializers(proto):
    return {value.name: numpy_helper.to_array(value) for value in proto.graph.initializer}


def check_names(first, last):
    """Refuses two exports whose initializers or nodes differ in more than values."""
    before, after = initializers(first), initializers(last)
    assert before.keys() == after.keys(), f"initializers differ: {before.keys() ^ after.keys()}"
    assert all(before[name].shape == after[name].shape for name in before), "shapes differ"
    assert [node.SerializeToString() for node in first.graph.node] == [
        node.SerializeToString() for node in last.graph.node
    ], "nodes differ"
    return sum((before[name] != after[name]).any() for name in before)


@dataclasses.dataclass
class Training:
    """A network, its examples, and the source and learning rate that go into the files."""

    network: Network
    source: str
    learning_rate: float

    def write(self, folder):
        """Writes the four files; the arrays of data.npz have the names of the model's inputs."""
        folder.mkdir(parents=True)
        rng = np.random.default_rng(seed(folder.name))
        arrays = self.network.inputs(EXAMPLES, rng)
        tensors = [torch.from_numpy(array) for array in arrays.values()]
        with torch.no_grad():
            classes = self.network.module(*tensors).shape[1]
        labels = rng.integers(classes, size=EXAMPLES)
        np.savez(folder / "data.npz", y=labels, **arrays)

        first = self.save(folder / "model.onnx", arrays)
        precise = in_float64(self.network.module, tensors, torch.from_numpy(labels), self.learning_rate)
        losses = train(self.network.module, tensors, torch.from_numpy(labels), self.learning_rate)
        last = self.save(folder / "final.onnx", arrays)
        changed = check_names(first, last)

        rounding = float(np.abs(np.array(losses) - precise).max())
        assert rounding < 1e-3, f"float32 and float64 losses differ by {rounding}"
        assert losses[-1] < 0.9 * losses[0], f"the loss does not fall: {losses}"
        parity = {"learning_rate": self.learning_rate, "losses": losses, "losses_float64": precise}
        (folder / "parity.json").write_text(json.dumps(parity, indent=2) + "\n")
        note = f"loss {losses[0]:.3f} to {losses[-1]:.3f}, {rounding:.0e} from float64, {changed} initializers change"
        return {"name": folder.name, "source": self.source, "note": note}

    def save(self, path, arrays):
        """Exports the network as it is now and compares it with PyTorch."""
        proto = untouched(self.network)
        onnx.checker.check_model(proto)
        with torch.no_grad():
            wanted = self.network.module(*map(torch.from_numpy, arrays.values())).numpy()
        (output,) = infer(session(proto), arrays.values())
        np.testing.assert_allclose(output, wanted, rtol=1e-3, atol=1e-3 * np.abs(wanted).max())
        onnx.save(proto, path)
        return proto


def trained(name, learning_rate, warm, origin, build, inputs):
    network = make(f"train_{name}", build, inputs)
    if warm:
        warm_up(network)
    return Training(network, f"{origin}, TorchScript exporter", learning_rate)


# name: (learning rate, whether to warm up, origin, what makes the module, what makes its inputs)
TRAININGS = {
    "resnet18": (0.03, True, TORCHVISION, torchvision_model("resnet18"), images(32)),
    "mobilenet_v2": (0.003, True, TORCHVISION, torchvision_model("mobilenet_v2", dropout=0.0), images(32)),
    "vit": (0.02, False, *NETWORKS["vit"]),
    "bert": (0.05, False, *NETWORKS["bert"]),
    "lstm_classifier": (0.5, False, OWN, networks.LstmClassifier, NETWORKS["lstm_tagger"][2]),
    "conformer": (0.05, False, *NETWORKS["conformer"]),
}
for name, options in TRAININGS.items():
    model(f"train_{name}")(functools.partial(trained, name, *options))
