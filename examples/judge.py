"""Measures ONNX files with ONNX Runtime, independently of Sinter. Prints JSON.

    python examples/judge.py before.onnx after.onnx --data FOLDER_OR_NPZ [--scale 0.0625]

Every model is checked by onnx.checker and run over the whole test split. Latencies are medians
of runs that alternate between the models, so that a slow moment of the machine hits all alike.
"""

import argparse
import json
import pathlib
import sys
import time

import numpy as np
import onnx
import onnxruntime

import datasets

BATCH = 256


def check(path):
    """The word ok, or what onnx.checker says."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as fault:  # the checker raises several unrelated types
        return f"{type(fault).__name__}: {fault}".strip()
    return "ok"


def open_session(path, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def fixed_batch(session):
    size = session.get_inputs()[0].shape[0]
    return size if isinstance(size, int) else None


def logits_of(session, images):
    """The first output for all images; short last batches are padded for a fixed batch size."""
    name = session.get_inputs()[0].name
    size = fixed_batch(session) or BATCH
    parts = []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        missing = size - len(batch) if fixed_batch(session) else 0
        padded = np.concatenate([batch, np.zeros_like(batch[:1]).repeat(missing, 0)])
        parts.append(session.run(None, {name: padded})[0][: len(batch)])
    return np.concatenate(parts)


def median_latencies(sessions, images, batch, runs, seconds):
    """Median milliseconds of each session, the sessions taking turns."""
    batches = np.resize(images, (batch, *images.shape[1:]))
    times = [[] for _ in sessions]
    able = [fixed_batch(session) in (None, batch) for session in sessions]
    names = [session.get_inputs()[0].name for session in sessions]
    for _ in range(5):
        for session, name, can in zip(sessions, names, able):
            if can:
                session.run(None, {name: batches})
    while any(can and (len(t) < runs or sum(t) < seconds) for t, can in zip(times, able)):
        for session, name, can, spent in zip(sessions, names, able, times):
            if can:
                start = time.perf_counter()
                session.run(None, {name: batches})
                spent.append(time.perf_counter() - start)
    return [round(float(np.median(t)) * 1000, 4) if t else None for t in times]


def tensor_figures(path):
    """Elements and nonzero elements of the floating-point weights in the file."""
    model = onnx.load(str(path))
    tensors = list(model.graph.initializer)
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors += [a.t for a in node.attribute if a.name == "value"]
    floats = [onnx.numpy_helper.to_array(t) for t in tensors]
    floats = [a for a in floats if a.dtype.kind == "f" and a.ndim > 0]
    return sum(a.size for a in floats), sum(int(np.count_nonzero(a)) for a in floats)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", type=pathlib.Path, metavar="MODEL.onnx")
    parser.add_argument("--data", required=True, type=pathlib.Path, help=".npz or IDX folder")
    parser.add_argument("--scale", type=float, help="factor for the stored values")
    parser.add_argument("--outputs", type=pathlib.Path, help="write the logits to this .npy")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=30, help="at least so many timed runs")
    parser.add_argument("--seconds", type=float, default=0.5, help="at least so long for each")
    parser.add_argument("--no-latency", action="store_true")
    arguments = parser.parse_args()
    if arguments.outputs and len(arguments.models) != 1:
        parser.error("--outputs takes exactly one model")

    arrays = datasets.load(arguments.data)
    images = datasets.prepare(arrays["x_test"], arguments.scale)
    labels = arrays["y_test"]
    sessions = [open_session(path, arguments.threads) for path in arguments.models]
    rows = []
    for path, session in zip(arguments.models, sessions):
        logits = logits_of(session, images)
        if arguments.outputs:
            np.save(arguments.outputs, logits)
        parameters, nonzero = tensor_figures(path)
        rows.append(
            {
                "model": str(path),
                "checker": check(path),
                "accuracy": float((logits.argmax(1) == labels).mean()),
                "finite": bool(np.isfinite(logits).all()),
                "parameters": parameters,
                "nonzero_parameters": nonzero,
                "size_bytes": path.stat().st_size,
            }
        )
    if not arguments.no_latency:
        for batch in (1, 64):
            medians = median_latencies(
                sessions, images, batch, arguments.runs, arguments.seconds
            )
            for row, median in zip(rows, medians):
                row[f"latency_ms_batch_{batch}"] = median
    report = {
        "onnxruntime": onnxruntime.__version__,
        "threads": arguments.threads,
        "test_examples": len(labels),
        "models": rows,
    }
    print(json.dumps(report, indent=2))
    return 0 if all(row["checker"] == "ok" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
