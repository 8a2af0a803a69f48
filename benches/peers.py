"""The same work in Sinter, PyTorch and ONNX Runtime, in turns, two threads each. Prints docs/performance.md's tables.

    cargo build --release --bin sinter --example forward
    python3 benches/peers.py path/to/sinter path/to/examples/forward [PART OF A NAME ...]

Operators: a module of one operator is exported once; Sinter and ONNX Runtime run the file, PyTorch the module.
*Forward* is one pass, results on the host; *both* is a pass in training and the gradients of its sum by every
float input and weight. Whole steps: batch, forward, cross-entropy, backward, AdamW; Sinter's as a job over HTTP.
Times are medians of rounds in turns; memory is the largest resident set of a process that does nothing else.
The share of the roofline is the larger of work by this machine's own peak of products and traffic by its copies.
Scaling: training steps on one thread and on two, of so many examples and of twice as many.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime
import requests
import torch
from onnx import numpy_helper
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "models"))
from networks import Bert, LstmClassifier  # noqa: E402

THREADS = 2
ROUNDS = 5
BATCH = 16
# What the service sets for the process of a job.
AS_A_JOB = {"RAYON_NUM_THREADS": str(THREADS), "MIMALLOC_PURGE_DELAY": "-1"}

Row = collections.namedtuple("Row", "name module inputs macs")


class Product(nn.Module):
    def forward(self, a, b):
        return a @ b


class SelfAttention(nn.Module):
    def forward(self, q, k, v):
        return nn.functional.scaled_dot_product_attention(q, k, v)


class FirstOf(nn.Module):
    """The sequence that a recurrent module gives, without its states."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)[0]


def floats(*shape):
    return torch.randn(shape)


def convolution(name, channels, size, outputs=None, kernel=3, stride=1, groups=1, axes=2):
    outputs = outputs or channels
    make = nn.Conv2d if axes == 2 else nn.Conv1d
    module = make(channels, outputs, kernel, stride, kernel // 2, groups=groups)
    places = ((size - 1) // stride + 1) ** axes
    macs = BATCH * places * outputs * channels // groups * kernel ** axes
    return Row(f"conv {name}", module, [floats(BATCH, channels, *[size] * axes)], macs)


def product(name, *shapes):
    a, b = shapes
    return Row(f"matmul {name}", Product(), [floats(*a), floats(*b)], int(np.prod(a)) * b[-1])


def operators():
    yield convolution("3×3, 16 channels, 32²", 16, 32)
    yield convolution("3×3, 64 channels, 16²", 64, 16)
    yield convolution("3×3, 256 channels, 8²", 256, 8)
    yield convolution("1×1, 64 to 128, 16²", 64, 16, 128, kernel=1)
    yield convolution("depthwise 3×3, 64, 16²", 64, 16, groups=64)
    yield convolution("depthwise 5×5, 64, 16²", 64, 16, kernel=5, groups=64)
    yield convolution("3×3 stride 2, 64, 16²", 64, 16, stride=2)
    yield convolution("7×7 stem stride 2, 3 to 64, 64²", 3, 64, 64, kernel=7, stride=2)
    yield convolution("1-D 5, 64, 512", 64, 512, kernel=5, axes=1)
    yield product("512², square", (512, 512), (512, 512))
    yield product("4096×64 by 64×64, tall", (4096, 64), (64, 64))
    yield product("64 of 64×32 by 32×64, batched", (64, 64, 32), (64, 32, 64))
    yield Row("batch normalisation 64, 16²", nn.BatchNorm2d(64), [floats(BATCH, 64, 16, 16)], 0)
    yield Row("layer normalisation 2048×256", nn.LayerNorm(256), [floats(2048, 256)], 0)
    yield Row("softmax 2048×256", nn.Softmax(-1), [floats(2048, 256)], 0)
    yield Row("max pool 2×2, 64, 32²", nn.MaxPool2d(2), [floats(BATCH, 64, 32, 32)], 0)
    yield Row("average pool 2×2, 64, 32²", nn.AvgPool2d(2), [floats(BATCH, 64, 32, 32)], 0)
    heads = [floats(BATCH, 4, 64, 32) for _ in range(3)]
    yield Row("attention 4 heads, 64×32", SelfAttention(), heads, 2 * BATCH * 4 * 64 * 64 * 32)
    macs = BATCH * 64 * 4 * 128 * (64 + 128)
    yield Row("LSTM 64 to 128, 64 steps", FirstOf(nn.LSTM(64, 128, batch_first=True)), [floats(BATCH, 64, 64)], macs)
    ids = torch.randint(0, 5000, (BATCH, 64))
    yield Row("embedding 5000×128", nn.Embedding(5000, 128), [ids], 0)


class Residual(nn.Module):
    """Two convolutions beside a shortcut (He et al., 2016), with normalisation."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(3 if stride > 1 else 2))
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else None

    def forward(self, x):
        out = torch.relu(self.norms[0](self.first(x)))
        out = self.norms[1](self.second(out))
        return torch.relu(out + (self.norms[2](self.shortcut(x)) if self.shortcut else x))


class Inverted(nn.Module):
    """An inverted bottleneck (Sandler et al., 2018)."""

    def __init__(self, inputs, outputs, stride, expansion):
        super().__init__()
        wide = inputs * expansion
        layers = [nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()] if expansion > 1 else []
        self.layers = nn.Sequential(
            *layers, nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x):
        return x + self.layers(x) if self.adds else self.layers(x)


class Vit(nn.Module):
    """ViT-tiny's width and heads over 4×4 patches of 32² (Dosovitskiy et al., 2021), four layers."""

    def __init__(self, width=192, heads=3, layers=4):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.places = nn.Parameter(0.02 * torch.randn(1, 64, width))
        self.heads = heads
        self.layers = nn.ModuleList(nn.ModuleDict({
            "before": nn.LayerNorm(width), "qkv": nn.Linear(width, 3 * width), "out": nn.Linear(width, width),
            "between": nn.LayerNorm(width), "up": nn.Linear(width, 4 * width), "down": nn.Linear(4 * width, width),
        }) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2) + self.places
        for layer in self.layers:
            q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2)
                       for part in layer["qkv"](layer["before"](x)).chunk(3, 2))
            seen = nn.functional.scaled_dot_product_attention(q, k, v)
            x = x + layer["out"](seen.transpose(1, 2).flatten(2))
            x = x + layer["down"](nn.functional.gelu(layer["up"](layer["between"](x))))
        return self.head(self.norm(x).mean(1))


class LongerBert(Bert):
    LENGTH = 32


class BertOfIds(nn.Module):
    """The encoder of tests/models/networks.py with four layers, every token seen."""

    def __init__(self):
        super().__init__()
        self.bert = LongerBert(classes=10, width=128, layers=4)

    def forward(self, ids):
        return self.bert(ids, torch.ones_like(ids))


def resnet20():
    stages = [(16, 16, 1), (16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 32, 1),
              (32, 64, 2), (64, 64, 1), (64, 64, 1)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                         *(Residual(*stage) for stage in stages), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(64, 10))


def mobilenet():
    """MobileNetV2 of half width for images of 32²: the first two strides are 1."""
    layers, width = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()], 16
    for expansion, outputs, times, stride in [(1, 8, 1, 1), (6, 12, 2, 1), (6, 16, 3, 2), (6, 32, 4, 2),
                                              (6, 48, 3, 1), (6, 80, 3, 2), (6, 160, 1, 1)]:
        for index in range(times):
            layers.append(Inverted(width, outputs, stride if index == 0 else 1, expansion))
            width = outputs
    return nn.Sequential(*layers, nn.Conv2d(width, 640, 1, bias=False), nn.BatchNorm2d(640), nn.ReLU6(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(640, 10))


def networks():
    image = np.float32, (3, 32, 32)
    yield "MLP", nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(),
                               nn.Linear(256, 10)), (np.float32, (1, 28, 28))
    yield "LeNet", nn.Sequential(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5),
                                 nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU(),
                                 nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)), (np.float32, (1, 28, 28))
    yield "ResNet-20", resnet20(), image
    yield "MobileNetV2 0.5", mobilenet(), image
    yield "ViT-tiny, 4 layers", Vit(), image
    yield "BERT-like, 4 layers", BertOfIds(), (np.int64, (32,))
    yield "LSTM", LstmClassifier(tags=10, width=64, layers=1), (np.int64, (32,))


def exported(module, inputs, path, **about):
    module.eval()
    torch.onnx.export(module, tuple(inputs), str(path), dynamo=False, opset_version=17, **about)
    module.train()


def peer(forward, path, prefix, *flags):
    """Starts Sinter on a model; a number of runs on its standard input gives their median time."""
    process = subprocess.Popen([forward, path, "--inputs", prefix, "--serve", *flags], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True,
                               env=dict(os.environ, **AS_A_JOB))
    process.stdout.readline()

    def run(count):
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        return float(process.stdout.readline())
    return process, run


def timed(work):
    def run(count):
        times = []
        for _ in range(count):
            start = time.perf_counter()
            work()
            times.append(1000 * (time.perf_counter() - start))
        return statistics.median(times)
    return run


def in_turns(*peers):
    """The median time of each, over rounds of about 150 ms."""
    counts = [int(np.clip(150 / max(run(3), 0.01), 3, 300)) for run in peers]
    rounds = [[run(count) for run, count in zip(peers, counts)] for _ in range(ROUNDS)]
    return [statistics.median(times) for times in zip(*rounds)]


def roofline():
    """GFLOP/s of the best product and GB/s of a copy larger than the caches."""
    a = floats(2048, 2048)
    best = min(timed(lambda: a @ a)(1) for _ in range(10))
    source, target = floats(1 << 26), torch.empty(1 << 26)
    copy = min(timed(lambda: target.copy_(source))(1) for _ in range(10))
    return 2 * 2048 ** 3 / best / 1e6, 2 * source.nbytes / copy / 1e6


class Peers:
    """One model in a folder of its own, ready to run in Sinter, PyTorch and ONNX Runtime."""

    def __init__(self, forward, module, inputs):
        self.forward, self.module, self.inputs = forward, module, inputs
        self.folder = tempfile.TemporaryDirectory()
        self.path, self.prefix = f"{self.folder.name}/model.onnx", f"{self.folder.name}/x_"
        exported(module, inputs, self.path)
        for index, value in enumerate(inputs):
            pathlib.Path(f"{self.prefix}{index}.pb").write_bytes(
                numpy_helper.from_array(value.numpy()).SerializeToString())

    def forward_times(self):
        """Milliseconds of a pass in Sinter, PyTorch and ONNX Runtime."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        runtime = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
        feeds = {about.name: value.numpy() for about, value in zip(runtime.get_inputs(), self.inputs)}
        self.module.eval()

        def plain():
            with torch.no_grad():
                self.module(*self.inputs)

        process, ours = peer(self.forward, self.path, self.prefix)
        times = in_turns(ours, timed(plain), timed(lambda: runtime.run(None, feeds)))
        process.kill()
        return times

    def both_times(self):
        """Milliseconds of a pass in training and its gradients, in Sinter and PyTorch."""
        leaves = [value.clone().requires_grad_() if value.is_floating_point() else value for value in self.inputs]
        self.module.train()

        def both():
            self.module.zero_grad()
            for leaf in leaves:
                leaf.grad = None
            self.module(*leaves).sum().backward()

        process, ours = peer(self.forward, self.path, self.prefix, "--backward")
        times = in_turns(ours, timed(both))
        process.kill()
        return times


def operator_row(forward, row, peak):
    peers = Peers(forward, row.module, row.inputs)
    sinter, theirs, runtime = peers.forward_times()
    sinter_both, theirs_both = peers.both_times()
    with torch.no_grad():
        touched = sum(value.nbytes for value in [*row.inputs, *row.module.parameters(), row.module(*row.inputs)])
    share = max(2 * row.macs / peak[0], touched / peak[1]) / sinter / 1e6
    print(f"| {row.name} | {sinter:.3f} | {sinter / theirs:.2f} | {sinter / runtime:.2f} | {share:.0%} "
          f"| {sinter_both:.3f} | {sinter_both / theirs_both:.2f} |", flush=True)
    return sinter / theirs, sinter / runtime, sinter_both / theirs_both


def examples_of(about, count):
    kind, shape = about
    random = np.random.default_rng(1)
    if kind == np.float32:
        return random.normal(size=(count, *shape)).astype(kind)
    return random.integers(0, 100, (count, *shape))


def evaluation_row(forward, name, module, about):
    sinter, theirs, runtime = Peers(forward, module, [torch.from_numpy(examples_of(about, 64))]).forward_times()
    print(f"| {name} | {sinter:.2f} | {theirs:.2f} | {runtime:.2f} | {sinter / theirs:.2f} | {sinter / runtime:.2f} |",
          flush=True)
    return sinter / theirs, sinter / runtime


# What PyTorch does in a process of its own, for its speed and its largest resident set.
TRAINING = """
import json, resource, sys, time
import numpy as np, torch
sys.path[:0] = {paths!r}
import peers
torch.set_num_threads({threads})
module = dict((name, module) for name, module, _ in peers.networks())[{name!r}].train()
data = np.load({data!r})
x, y = torch.from_numpy(data["x_train"]), torch.from_numpy(data["y_train"])
optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.01)
times = []
for start in range(0, len(x) - 63, 64):
    began = time.perf_counter()
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(module(x[start:start + 64]), y[start:start + 64])
    loss.backward()
    optimizer.step()
    loss.item()
    times.append(time.perf_counter() - began)
seconds = sum(times[5:]) / len(times[5:])
print(json.dumps([64 / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def largest_resident_set(parent):
    """MiB of the children of a process, the largest so far; 0 where there is none."""
    largest = 0
    for children in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
        try:
            for child in children.read_text().split():
                status = pathlib.Path(f"/proc/{child}/status").read_text()
                largest = max(largest, int(re.search(r"VmHWM:\s*(\d+)", status)[1]) / 1024)
        except (OSError, TypeError):
            continue
    return largest


class Server:
    """Sinter's service on a folder of its own, and one model and data set in it."""

    def __init__(self, binary, name, module, about, threads=THREADS, batches=40):
        self.name, self.threads, self.folder = name, threads, tempfile.TemporaryDirectory()
        self.data = pathlib.Path(self.folder.name) / "data.npz"
        count = 64 * batches
        x = examples_of(about, count)
        labels = np.random.default_rng(2).integers(0, 10, count)
        np.savez(self.data, x_train=x, y_train=labels, x_test=x[:64], y_test=np.arange(64) % 10)
        path = pathlib.Path(self.folder.name) / "model.onnx"
        exported(module, [torch.from_numpy(x[:2])], path, input_names=["x"], output_names=["y"],
                 dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}})
        self.process = subprocess.Popen(
            [binary, "serve", "--listen", "127.0.0.1:0", "--data-dir", f"{self.folder.name}/sinter", "--threads",
             str(threads)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = self.process.stdout.readline().split()[-1]
        self.model, self.dataset = (
            requests.post(f"{self.url}/v1/{kind}?name=peer", data=file.read_bytes(),
                          headers={"Content-Type": "application/octet-stream"}).json()["id"]
            for kind, file in [("models", path), ("datasets", self.data)])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def train(self):
        """Examples a second and the largest resident set in MiB of one epoch."""
        job = requests.post(f"{self.url}/v1/jobs", json={
            "kind": "train", "model": self.model, "dataset": self.dataset, "device": "cpu",
            "data": {"batch_size": 64, "validation_fraction": 0, "preprocess": {"scale": 1}},
            "params": {"epochs": 1}}).json()
        memory = 0
        while job["status"] in ("queued", "running"):
            memory = max(memory, largest_resident_set(self.process.pid))
            time.sleep(0.25)  # often enough to see the largest set, and next to no work beside the job
            job = requests.get(f"{self.url}/v1/jobs/{job['id']}").json()
        assert job["status"] == "succeeded", job["error"]
        return job["result"]["training"]["examples_per_second"], memory

    def train_pytorch(self):
        """The same of PyTorch, in a process of its own."""
        script = TRAINING.format(paths=[str(ROOT / "benches"), str(ROOT / "tests/models")], threads=self.threads,
                                 name=self.name, data=str(self.data))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def medians(rounds):
    return [statistics.median(values) for values in zip(*rounds)]


def training_row(binary, *network):
    with Server(binary, *network) as server:
        ours, theirs = zip(*((server.train(), server.train_pytorch()) for _ in range(3)))
    (speed, memory), (peer_speed, peer_memory) = medians(ours), medians(theirs)
    print(f"| {network[0]} | {speed:,.0f} | {peer_speed:,.0f} | {peer_speed / speed:.2f} | {memory:,.0f} "
          f"| {peer_memory:,.0f} |", flush=True)
    return [peer_speed / speed]


def scaling_row(binary, *network):
    kinds = [(1, 20), (2, 20), (2, 40)]
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Server(binary, *network, *kind)) for kind in kinds]
        rounds = [[*(server.train() for server in servers), *(server.train_pytorch() for server in servers[:2])]
                  for _ in range(3)]
    (one, _), (two, memory), (twice, twice_memory), (peer_one, _), (peer_two, _) = (
        medians(results) for results in zip(*rounds))
    print(f"| {network[0]} | {one:,.0f} | {two:,.0f} | {two / one:.2f} | {peer_two / peer_one:.2f} | {twice / two:.2f} "
          f"| {memory:,.0f} | {twice_memory:,.0f} |", flush=True)


def geometric_mean(values):
    return float(np.exp(np.mean(np.log(values)))) if values else float("nan")


def table(heading, rows, columns):
    """Prints a table, whose rows print themselves as they are made, and the means of their ratios."""
    print(f"{heading}\n| --- |{' ---: |' * columns}", flush=True)
    means = [f"{geometric_mean(column):.2f}" for column in zip(*[row for row in rows if row])]
    print(f"\nGeometric means of the ratios of times: {', '.join(means)}.\n" if means else "", flush=True)


def main():
    binary, forward, *parts = sys.argv[1:]
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)

    def chosen(kind, named):
        """All, or those with one of the parts in their name, which has the kind of table in front."""
        return [row for row in named if not parts or any(part in f"{kind} {row[0]}" for part in parts)]

    peak = roofline()
    print(f"PyTorch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, {THREADS} threads. Products reach "
          f"{peak[0]:,.0f} GFLOP/s, copies {peak[1]:.1f} GB/s.\n")
    table("| operator | forward, ms | beside PyTorch | beside ONNX Runtime | roofline | both, ms | beside PyTorch |",
          (operator_row(forward, row, peak) for row in chosen("operator", operators())), 6)
    table("| evaluation, batches of 64 | Sinter, ms | PyTorch, ms | ONNX Runtime, ms | beside PyTorch "
          "| beside ONNX Runtime |",
          (evaluation_row(forward, *network) for network in chosen("evaluation", networks())), 5)
    table("| training step, batches of 64 | Sinter, examples/s | PyTorch | ratio of times | Sinter, MiB | PyTorch, MiB |",
          (training_row(binary, *network) for network in chosen("training", networks())), 5)
    table("| scaling | one thread, examples/s | two | two by one | PyTorch, two by one "
          "| twice the examples: speed by speed | MiB | twice the examples, MiB |",
          (scaling_row(binary, *network) for network in chosen("scaling", networks()) if network[0] == "ResNet-20"), 7)


if __name__ == "__main__":
    main()
