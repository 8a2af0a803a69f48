"""Writes real models with cases: what ONNX Runtime computes for them, and what PyTorch trains them to.

    python3 export.py FOLDER [CACHE] [--only NAME ...]

FOLDER gets a folder for each model: see case.py for what is in it, training.py for those named train_NAME, and
summary.json with the time, the size and what went wrong. Wheels are kept in CACHE (or $SINTER_TEST_CACHE, or
~/.cache/sinter). NAME may be a pattern: 'resnet18_*'. Exit code 1 says that a model failed; the others are written.
"""

import argparse
import fnmatch
import json
import logging
import os
import pathlib
import shutil
import sys
import time
import warnings

import torch

import downloaded  # noqa: F401, this and the next three list their models
import other_tools  # noqa: F401
import pytorch  # noqa: F401
import training  # noqa: F401
from case import MODELS


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("cache", type=pathlib.Path, nargs="?")
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME")
    return parser.parse_args()


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*"))


def main():
    options = arguments()
    if options.cache:
        os.environ["SINTER_TEST_CACHE"] = str(options.cache)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    chosen = [name for name in MODELS if any(fnmatch.fnmatch(name, pattern) for pattern in options.only)]
    if not chosen:
        sys.exit(f"no model is named {' or '.join(options.only)}")
    written, failures, started = [], {}, time.monotonic()
    for name in chosen:
        folder, begun = options.folder / name, time.monotonic()
        shutil.rmtree(folder, ignore_errors=True)
        try:
            facts = MODELS[name]().write(folder)
        except Exception as error:
            shutil.rmtree(folder, ignore_errors=True)
            failures[name] = f"{type(error).__name__}: {error}"
            continue
        seconds = round(time.monotonic() - begun, 1)
        written.append({**facts, "bytes": size(folder), "seconds": seconds})
        print(f"{name}: {size(folder) / 1e6:.1f} MB, {seconds} s {facts['note']}", flush=True)
    summary = {
        "seconds": round(time.monotonic() - started, 1),
        "bytes": sum(facts["bytes"] for facts in written),
        "models": written,
        "failures": failures,
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"{len(written)} models, {summary['bytes'] / 1e6:.0f} MB, {summary['seconds']} s")
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
