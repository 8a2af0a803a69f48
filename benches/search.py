"""What searches find, beside their controls. Prints docs/search.md's tables.

    pip install optuna==5.0.0
    cargo build --release --bin sinter --example search
    SINTER_SEARCH=path/to/examples/search python3 benches/search.py path/to/sinter TABLE [--seeds 0 1 2]

functions  Tree-structured Parzen estimators, ours and Optuna's (multivariate), and random search, 60 trials each, on
           six standard test functions and on three tasks of scikit-learn, whose perceptrons have their learning
           rate, size, weight decay, batch size and momentum tuned by the validation log loss.
halving    Fashion-MNIST: the best of 81 whole trainings, and what successive halving and hyperband find in how many of
           their epochs; the accuracy is that of the winner on the test split.
fashion    Fashion-MNIST: width, depth and kernels of a residual network at a third of its multiply-accumulates, 40
           trials, beside uniform narrowing and random search; accuracies are ONNX Runtime's on the test split.
proxies    Fashion-MNIST: rank correlation of scores without training with what short trainings find.
exports    scikit-learn's digits: what a search of widths, half of the multiply-accumulates and nine of ten weights zero leave
           of a residual network that PyTorch exported with its batch normalisation and without, and what candidates are
           worth that are bare cuts.
overhead   What a search of 2,000 trials spends outside of training them.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
import pathlib
import warnings

import numpy as np
import requests
import torch
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benches"), str(ROOT / "tests" / "search")]
from asking import Asker  # noqa: E402
from distillation import fresh  # noqa: E402
from pruning import (Sinter, accuracy, digits_parts, exported, fashion_parts, residual_network, spread, table,  # noqa: E402
                     tuning)

TRIALS = 60


def branin(x):
    a, b = x["a"] * 15 - 5, x["b"] * 15
    return ((b - 5.1 * a * a / (4 * math.pi ** 2) + 5 * a / math.pi - 6) ** 2
            + 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10)


def hartmann6(x):
    weights = np.array([1.0, 1.2, 3.0, 3.2])
    scales = np.array([[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8],
                       [17, 8, 0.05, 10, 0.1, 14]])
    centres = 1e-4 * np.array([[1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
                               [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381]])
    point = np.array(list(x.values()))
    return -float(weights @ np.exp(-(scales * (point - centres) ** 2).sum(1)))


def ackley(x):
    point = np.array(list(x.values())) * 65.536 - 32.768
    return float(20 + math.e - 20 * np.exp(-0.2 * np.sqrt((point ** 2).mean()))
                 - np.exp(np.cos(2 * np.pi * point).mean()))


def rastrigin(x):
    point = np.array(list(x.values())) * 10.24 - 5.12
    return float(10 * len(point) + (point ** 2 - 10 * np.cos(2 * np.pi * point)).sum())


def rosenbrock(x):
    point = np.array(list(x.values())) * 4 - 2
    return float((100 * (point[1:] - point[:-1] ** 2) ** 2 + (1 - point[:-1]) ** 2).sum())


def griewank(x):
    point = np.array(list(x.values())) * 1200 - 600
    return float((point ** 2).sum() / 4000 - np.prod(np.cos(point / np.sqrt(np.arange(1, len(point) + 1)))) + 1)


def box(count):
    return {"abcdefgh"[index]: {"uniform": [0, 1]} for index in range(count)}


FUNCTIONS = {"Branin": (branin, box(2)), "Hartmann, 6": (hartmann6, box(6)), "Ackley, 5": (ackley, box(5)),
             "Rastrigin, 5": (rastrigin, box(5)), "Rosenbrock, 4": (rosenbrock, box(4)),
             "Griewank, 5": (griewank, box(5))}
PERCEPTRON = {"learning_rate": {"log_uniform": [1e-4, 1e-1]}, "hidden": {"log_int": [4, 64]},
              "weight_decay": {"log_uniform": [1e-6, 1e-1]}, "batch_size": {"choice": [16, 32, 64, 128]},
              "solver": {"choice": ["adam", "sgd"]},
              "momentum": {"uniform": [0, 0.95], "when": {"solver": ["sgd"]}}}


def perceptrons(load):
    """The validation log loss of a perceptron on a task of scikit-learn, by its hyperparameters."""
    from sklearn.metrics import log_loss
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier
    from sklearn.preprocessing import StandardScaler

    x, y = load(return_X_y=True)
    x, held, y, held_y = train_test_split(StandardScaler().fit_transform(x), y, test_size=0.3, stratify=y,
                                          random_state=0)

    def judge(point):
        model = MLPClassifier((point["hidden"],), solver=point["solver"], alpha=point["weight_decay"],
                              batch_size=min(point["batch_size"], len(x)), learning_rate_init=point["learning_rate"],
                              momentum=point.get("momentum", 0.9), max_iter=10, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                shares = model.fit(x, y).predict_proba(held)
            except ValueError:  # it diverged
                return 10.0
        return float(log_loss(held_y, np.clip(np.nan_to_num(shares, nan=1e-7), 1e-7, 1), labels=model.classes_))

    return judge


def suggested(trial, space):
    """The same space asked of Optuna."""
    point = {}
    for name, about in sorted(space.items(), key=lambda each: "when" in each[1]):
        if any(point.get(other) not in values for other, values in about.get("when", {}).items()):
            continue
        if "choice" in about:
            point[name] = trial.suggest_categorical(name, about["choice"])
        elif "log_int" in about:
            point[name] = trial.suggest_int(name, *about["log_int"], log=True)
        elif "log_uniform" in about:
            point[name] = trial.suggest_float(name, *about["log_uniform"], log=True)
        else:
            point[name] = trial.suggest_float(name, *about["uniform"])
    return point


def functions(given):
    import optuna
    from sklearn.datasets import load_breast_cancer, load_digits, load_wine

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tasks = dict(FUNCTIONS)
    for load in (load_breast_cancer, load_wine, load_digits):
        tasks[load.__name__.removeprefix("load_")] = (perceptrons(load), PERCEPTRON)
    seeds = range(30)
    ranks = {name: [] for name in ("tpe", "optuna", "random")}

    def rows(asker):
        for task, (judge, space) in tasks.items():
            best = {name: [] for name in ranks}
            for seed in seeds:
                for name in ("tpe", "random"):
                    judged = asker.search(space, {"name": name}, TRIALS, seed, lambda point, _: judge(point))
                    best[name].append(min(value for *_, value in judged))
                study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True,
                                                                               group="solver" in space))
                study.optimize(lambda trial: judge(suggested(trial, space)), n_trials=TRIALS)
                best["optuna"].append(study.best_value)
            values = np.array([best[name] for name in ranks])
            order = (values[:, None] > values[None]).sum(1) + ((values[:, None] == values[None]).sum(1) - 1) / 2 + 1
            for name, own in zip(ranks, order):
                ranks[name].append(own.mean())
            yield [task, *(cell for name, own in zip(ranks, order)
                           for cell in (f"{np.median(best[name]):.4g}", f"{own.mean():.2f}"))]
        yield ["mean rank", *(cell for name in ranks for cell in ("", f"{np.mean(ranks[name]):.2f}"))]

    with Asker() as asker:
        table(["task", "`tpe`, median", "rank", "Optuna, median", "rank", "`random`, median", "rank"], rows(asker))


def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def searched(sinter, model, params, **about):
    result, content = sinter.run("search", model, params, **about)
    return result["search"], content


def halving(given):
    rows = {}
    for seed in given.seeds:
        x, y, test_x, test_y = fashion_parts(given.data, given.images, seed)
        with Sinter(given.binary) as sinter:
            about = dict(dataset=sinter.upload_data(x, y, test_x, test_y), seed=seed,
                         data={"batch_size": 64, "validation_fraction": 0.2, "preprocess": {"scale": 1}})
            torch.manual_seed(seed)
            model = sinter.upload("models", exported(perceptron(), x.shape[1:]))
            params = {"space": {"hyperparameters": {
                "learning_rate": {"log_uniform": [1e-5, 1]}, "weight_decay": {"log_uniform": [1e-5, 1]},
                "batch_size": {"choice": [16, 32, 64, 128, 256]}, "optimizer": {"choice": ["sgd", "adamw", "rmsprop"]},
                "momentum": {"uniform": [0, 0.95], "when": {"optimizer": ["sgd"]}},
                "label_smoothing": {"uniform": [0, 0.3]}}},
                "trials": 81, "trial": {"epochs": 27}, "final": {"epochs": 27}}
            around = {"around": {"name": "tpe"}}
            for name, strategy in {
                "`random`": {"name": "random"},
                "`successive_halving`": {"name": "successive_halving"},
                "`successive_halving` around `tpe`": {"name": "successive_halving", **around},
                "`hyperband`": {"name": "hyperband"},
            }.items():
                if given.searches and name not in given.searches:
                    continue
                found, content = searched(sinter, model, {**params, "strategy": strategy}, **about)
                row = rows.setdefault(name, ([], [], []))
                row[0].append(found["epochs"])
                row[1].append(100 * found["best"][0]["values"]["accuracy"])
                row[2].append(accuracy(content, test_x, test_y))
                print(seed, name, [column[-1] for column in row], file=sys.stderr, flush=True)
    table(["strategy", "epochs", "validation accuracy, %", "test accuracy, %"], (
        [name, f"{np.mean(epochs):.0f}", spread(best, 2), spread(test, 2)]
        for name, (epochs, best, test) in rows.items()))


# As much training as 40 trials of two epochs are, whose models have a third of the multiply-accumulates at most.
SHARED_EPOCHS = 16
FASHION = {"width": [0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0], "depth": True, "kernel": [1, 3, 5]}


def fashion_setting(given, seed, sinter):
    """A residual network, trained, and the data, on the service."""
    x, y, test_x, test_y = fashion_parts(given.data, given.images, seed)
    about = dict(dataset=sinter.upload_data(x, y, test_x, test_y), seed=seed,
                 data={"batch_size": 64, "validation_fraction": 0.15, "preprocess": {"scale": 1}})
    torch.manual_seed(seed)
    model = sinter.upload("models", fresh(residual_network(2, 16, 32, 64), x.shape[1:]))
    result, content = sinter.run("train", model, {"weights": "reinitialize", **tuning(8, 2e-3, 0.05)}, **about)
    return result, content, about, (test_x, test_y)


def fashion(given):
    rows = {}
    final = tuning(8, 2e-3, 0.05)

    def note(row, macs, value):
        found = rows.setdefault(row, ([], []))
        found[0].append(macs)
        found[1].append(value)

    for seed in given.seeds:
        with Sinter(given.binary) as sinter:
            result, content, about, (test_x, test_y) = fashion_setting(given, seed, sinter)
            model, whole = result["model"], result["after"]["macs"]
            note("not searched", 1.0, accuracy(content, test_x, test_y))
            # The widest uniform network within the bound, its weights inherited by magnitude as a search's are.
            for share in np.arange(0.65, 0.4, -0.01):
                narrow, content = sinter.run("prune", model, {
                    "criterion": "magnitude", "scope": "layer", "target": {"channel_sparsity": float(1 - share)},
                    "round_to": 1, "recovery": {"reconstruct": False, "recalibrate": False}}, **about)
                if narrow["after"]["macs"] <= whole / 3:
                    break
            for name, epochs in (("uniform width", 8), ("uniform width, as long as shared weights", 8 + SHARED_EPOCHS)):
                trained, content = sinter.run("train", narrow["model"], tuning(epochs, 2e-3, 0.05), **dict(
                    about, data=dict(about["data"], validation_fraction=0)))
                note(name, trained["after"]["macs"] / whole, accuracy(content, test_x, test_y))
            params = {"space": FASHION, "trials": 40, "trial": tuning(2, 2e-3, 0.05), "final": final,
                      "constraints": {"macs": whole // 3}, "objectives": [{"metric": "cross_entropy"}]}
            shared = {"evaluation": {"method": "shared_weights"}, "trial": tuning(SHARED_EPOCHS, 2e-3, 0.05)}
            genetic = {"strategy": {"name": "genetic", "population": 12},
                       "objectives": [{"metric": "cross_entropy"}, {"metric": "macs"}]}
            for name, more in {
                    "`random`": {"strategy": {"name": "random"}},
                    "`tpe`": {"strategy": {"name": "tpe"}},
                    "`tpe`, fitted": {"strategy": {"name": "tpe"}, "reconstruct": True},
                    "`random`, shared weights": {**shared, "strategy": {"name": "random"}},
                    "`tpe`, shared weights": {**shared, "strategy": {"name": "tpe"}},
                    "`genetic`, shared weights, loss and MACs": {**shared, **genetic},
            }.items():
                if given.searches and name not in given.searches:
                    continue
                found, content = sinter.run("search", model, {**params, **more}, **about)
                note(name, found["after"]["macs"] / whole, accuracy(content, test_x, test_y))
                for entry in found["search"]["front"]:
                    served = requests.get(f"{sinter.url}/v1/models/{entry['model']}/content").content
                    assert accuracy(served, test_x[:500], test_y[:500]) > 20, entry
                print(seed, name, len(found["search"]["front"]), "entries of the front ran in ONNX Runtime",
                      {row: values[1][-1] for row, values in rows.items()}, file=sys.stderr, flush=True)
    table(["search", "MACs", "test accuracy, %"], (
        [name, f"{np.mean(macs):.3f}", spread(values, 2)] for name, (macs, values) in rows.items()))


def pytorchs(module, optimized):
    """A trained module as `torch.onnx.export` writes it."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = pathlib.Path(folder) / "model.onnx"
        torch.onnx.export(module.eval(), (torch.zeros(2, 1, 8, 8),), path, input_names=["x"], external_data=False, verbose=False,
                          dynamic_shapes=({0: torch.export.Dim("batch")},), optimize=optimized)
        return path.read_bytes()


def exports(given):
    rows = {}
    for seed in given.seeds:
        x, y, test_x, test_y = digits_parts(seed)
        torch.manual_seed(seed)
        module = residual_network(1, 24, 24, 24)
        optimizer = torch.optim.Adam(module.parameters(), 3e-3)
        images, labels = torch.from_numpy(x), torch.from_numpy(y)
        for _ in range(12):
            module.train()
            for batch in torch.randperm(len(x)).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(module(images[batch]), labels[batch]).backward()
                optimizer.step()
        with Sinter(given.binary) as sinter:
            about = dict(dataset=sinter.upload_data(x, y, test_x, test_y), seed=seed, data={"preprocess": {"scale": 1}})
            for name, optimized in (("folded", True), ("kept", False)):
                content = pytorchs(module, optimized)
                model = sinter.upload("models", content)
                widths = {"space": {"width": [0.25, 0.5, 0.75, 1.0]}, "strategy": {"name": "random"}, "trials": 8,
                          "trial": {"epochs": 2}, "final": {"epochs": 10}, "constraints": {"parameters": 10_000}}
                found = {
                    "as it came": content,
                    "half of the MACs, 5 epochs": sinter.run("prune", model, {"target": {"macs_ratio": 0.5}, "finetune": {"epochs": 5}}, **about)[1],
                    "nine of ten weights zero, 6 epochs": sinter.run("prune", model, {
                        "granularity": "weight", "target": {"sparsity": 0.9}, "finetune": {"epochs": 6}}, **about)[1],
                    "search, fitted": sinter.run("search", model, {**widths, "reconstruct": True}, **about)[1],
                    "search, bare cuts": sinter.run("search", model, {**widths, "reconstruct": False}, **about)[1],
                }
                for row, made in found.items():
                    rows.setdefault(row, {}).setdefault(name, []).append(accuracy(made, test_x, test_y))
        print(seed, {row: {name: values[-1] for name, values in both.items()} for row, both in rows.items()}, file=sys.stderr, flush=True)
    table(["test accuracy, %", "batch normalisation folded", "kept"], (
        [row, spread(both["folded"], 1), spread(both["kept"], 1)] for row, both in rows.items()))


def proxies(given):
    rows = {}
    for seed in given.seeds:
        with Sinter(given.binary) as sinter:
            result, _, about, _ = fashion_setting(given, seed, sinter)
            for name in ("synflow", "grad_norm", "naswot", "zico", "parameters"):
                found, _ = sinter.run("search", result["model"], {
                    "space": FASHION, "trials": 30, "strategy": {"name": "random"}, "screening": {
                        "proxy": name, "candidates": 1},
                    "trial": {"weights": "reinitialize", **tuning(2, 2e-3, 0.05)}, "final": {"epochs": 1}}, **about)
                screening = found["search"]["screening"]
                rows.setdefault(name, []).append(screening["correlation"])
                print(seed, json.dumps(screening), file=sys.stderr, flush=True)
    table(["proxy", "rank correlation"], ([f"`{name}`", spread(values, 2)] for name, values in rows.items()))


def overhead(given):
    """What a search of 2,000 trials spends outside training them: a perceptron for scikit-learn's digits."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = x.reshape(-1, 1, 8, 8).astype(np.float32) / 16
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    with Sinter(given.binary) as sinter:
        about = dict(dataset=sinter.upload_data(x[:1437], y[:1437], x[1437:], y[1437:]),
                     data={"batch_size": 32, "validation_fraction": 0.2, "preprocess": {"scale": 1}})
        model = sinter.upload("models", exported(network, (1, 8, 8)))
        rates = {name: {"log_uniform": ends} for name, ends in
                 {"learning_rate": [1e-4, 1e-1], "weight_decay": [1e-5, 1e-1]}.items()}
        start = time.monotonic()
        sinter.run("search", model, {
            "space": {"width": [0.25, 0.5, 0.75, 1.0],
                      "hyperparameters": {**rates, "batch_size": {"choice": [16, 32, 64]}}},
            "strategy": {"name": "tpe"}, "trials": 2000, "trial": {"epochs": given.epochs},
            "final": {"epochs": 1}}, **about)
        whole = time.monotonic() - start
        job = requests.get(f"{sinter.url}/v1/jobs").json()["data"][0]["id"]
        trials = requests.get(f"{sinter.url}/v1/jobs/{job}/artifacts/trials.json").json()["trials"]
    folds = [fold for trial in trials for fold in trial["folds"]]
    training = sum(fold["seconds"] + fold["validation_seconds"] for fold in folds)
    table(["trials", "seconds", "of training, validations among them", "outside, %", "outside, ms a trial"], [[
        str(len(trials)), f"{whole:.1f}", f"{training:.1f}", f"{100 * (1 - training / whole):.2f}",
        f"{1000 * (whole - training) / len(trials):.2f}"]])


TABLES = {each.__name__: each for each in (functions, halving, fashion, exports, proxies, overhead)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", metavar="SINTER")
    parser.add_argument("table", metavar="TABLE", choices=TABLES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=6_000, help="of Fashion-MNIST, to train and to select on")
    parser.add_argument("--epochs", type=int, default=32, help="of a trial whose overhead is measured")
    parser.add_argument("--searches", nargs="+", help="those of halving or fashion, by their names in the table")
    parser.add_argument("--data", default="/usr/share/datasets/fashion-mnist", help="the folder of Fashion-MNIST")
    given = parser.parse_args()
    os.environ.setdefault("SINTER_SEARCH", str(pathlib.Path(given.binary).parent / "examples" / "search"))
    TABLES[given.table](given)


if __name__ == "__main__":
    main()
