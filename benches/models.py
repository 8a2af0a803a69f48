"""Real models: what they hold, how near Sinter's results are to ONNX Runtime's, how fast both are, and what
channel pruning makes of them. Writes docs/models.md.

    cargo build --release --example forward
    python3 benches/models.py path/to/sinter path/to/examples/forward FOLDER [NAME ...]

FOLDER is what tests/models/export.py wrote. Speed: medians in turns, 2 threads each, in one run. Pruning:
`macs_ratio` 0.7 by magnitude, without fine-tuning (the weights are random or the data are not ours), judged by
the median latency of ONNX Runtime at batch 1, in turns with the original.
"""

import collections
import io
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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "models"))
from stored import feeds_of, numbered, read  # noqa: E402

ROUNDS = 7


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def time_runtime(runtime, feeds, count):
    times = []
    for _ in range(count):
        start = time.perf_counter()
        runtime.run(None, feeds)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def difference(found, wanted):
    if wanted.dtype.kind != "f":
        return 0.0 if np.array_equal(found, wanted) else float("inf")
    scale = max(float(np.abs(wanted).max(initial=0)), 1e-6)
    return float(np.abs(found.astype(np.float64) - wanted).max(initial=0)) / scale


def beside_runtime(forward, folder, case):
    """Largest difference over all batches, and the times of both at the last batch."""
    worst = 0.0
    with tempfile.TemporaryDirectory() as place:
        for batch in case["batches"]:
            command = [forward, folder / "model.onnx", "--inputs", folder / f"input_{batch}_", "--outputs",
                       f"{place}/out_"]
            about = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            for index, path in enumerate(numbered(folder, f"output_{batch}_")):
                worst = max(worst, difference(read(pathlib.Path(place) / f"out_{index}.pb"), read(path)))
        batch = case["batches"][-1]
        environment = dict(os.environ, RAYON_NUM_THREADS="2", MIMALLOC_PURGE_DELAY="-1")
        peer = subprocess.Popen([forward, folder / "model.onnx", "--inputs", folder / f"input_{batch}_", "--serve"],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        peer.stdout.readline()
        runtime = session(str(folder / "model.onnx"))
        feeds = feeds_of(runtime, folder, batch)
        once = max(time_runtime(runtime, feeds, 3), 0.02)
        count = int(np.clip(100 / once, 1, 50))
        ours, theirs = [], []
        for _ in range(ROUNDS):
            peer.stdin.write(f"{max(1, count // 3)}\n")
            peer.stdin.flush()
            ours.append(float(peer.stdout.readline()))
            theirs.append(time_runtime(runtime, feeds, count))
        peer.stdin.close()
        peer.wait()
    return about, worst, statistics.median(ours), statistics.median(theirs)


def post(base, what, name, content):
    return requests.post(f"{base}/v1/{what}?name={name}", data=content, timeout=120,
                         headers={"Content-Type": "application/octet-stream"}).json()


def examples(folder, case, model):
    """The inputs of the largest batch as a data set, which tells the sizes that the file leaves open."""
    batch = case["batches"][-1]
    arrays = {}
    for info, path in zip(session(model).get_inputs(), numbered(folder, f"input_{batch}_")):
        for split in ("train", "test"):
            arrays[f"{info.name}_{split}"] = read(path)
    file = io.BytesIO()
    labels = np.zeros(batch, np.int64)
    np.savez(file, **arrays, y_train=labels, y_test=labels)
    return file.getvalue()


def prune(base, folder, case):
    """What came of pruning: MACs reached and times before and after, or what stood in the way."""
    model = str(folder / "model.onnx")
    upload = post(base, "models", folder.name, (folder / "model.onnx").read_bytes())
    if not upload["summary"]["trainable"]:
        return "not trainable: " + upload["summary"]["not_trainable_because"]
    body = {"kind": "prune", "model": upload["id"], "device": "cpu",
            "params": {"granularity": "channel", "scope": "global", "target": {"macs_ratio": 0.7}}}
    if upload["summary"]["macs"] is None:
        dataset = post(base, "datasets", folder.name, examples(folder, case, model))
        if "id" not in dataset:
            return "its sizes are open and its inputs make no data set: " + dataset["detail"]
        body["dataset"] = dataset["id"]
        body["data"] = {"validation_fraction": 0, "preprocess": {"scale": 1}}
    answer = requests.post(f"{base}/v1/jobs", timeout=60, json=body)
    if answer.status_code != 202:
        return answer.json().get("detail", answer.text)
    job = answer.json()
    while job["status"] in ("queued", "running"):
        job = requests.get(f"{base}/v1/jobs/{job['id']}", headers={"Prefer": "wait=30"}, timeout=60).json()
    if job["status"] != "succeeded":
        return job["error"]["detail"]
    smaller = requests.get(f"{base}/v1/jobs/{job['id']}/artifacts/model.onnx", timeout=60).content
    before, after = session(model), session(smaller)
    feeds = feeds_of(before, folder, case["batches"][0])
    count = int(np.clip(100 / max(time_runtime(before, feeds, 3), 0.02), 3, 200))
    times = [(time_runtime(before, feeds, count), time_runtime(after, feeds, count)) for _ in range(ROUNDS)]
    first, second = (statistics.median(column) for column in zip(*times))
    outcome = job["result"]["prune"]
    return outcome["reached"]["macs_ratio"], first, second, in_the_way(outcome)


def in_the_way(outcome):
    """What kept most of the layers whole that are."""
    reasons = collections.Counter(re.sub(r"`[^`]*` ?", "", blocked["reason"]) for blocked in outcome["blocked"])
    text = [f"{count} layers: {reason.strip()}" for reason, count in reasons.most_common(2)]
    text.append(f"kept counts are multiples of {outcome['round_to']}")
    return "; ".join(text)


def start_server(binary, folder):
    server = subprocess.Popen([binary, "serve", "--listen", "127.0.0.1:0", "--data-dir", folder],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in server.stdout:
        if "http://" in line:
            return server, "http://" + line.split("http://", 1)[1].split()[0].strip('",')
    raise SystemExit("the server did not start")


def main():
    binary, forward, folder = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    only = set(sys.argv[4:])
    rows = []
    with tempfile.TemporaryDirectory() as data:
        server, base = start_server(binary, data)
        for path in sorted(folder.glob("*/case.json")):
            own, case = path.parent, json.loads(path.read_text())
            if only and own.name not in only:
                continue
            about, worst, ours, theirs = beside_runtime(forward, own, case)
            outcome = prune(base, own, case)
            if isinstance(outcome, tuple):
                reached, before, after, way = outcome
                why = f"; {way}" if before / after < 1.15 and way else ""
                outcome = f"{reached:.2f} | {before:.3f} → {after:.3f} ms, {before / after:.2f}×{why}"
            else:
                outcome = f" | {outcome}"
            operators = len(about["operators"])
            macs = f"{about['macs']:,}" if about["macs"] is not None else ""
            rows.append(f"| `{own.name}` | {case['source']} | {operators} | {about['parameters']:,} | {macs} | "
                        f"{worst:.1e} | {ours:.2f} / {theirs:.2f} ms, {ours / theirs:.1f} | {outcome} |")
            print(rows[-1], flush=True)
        server.terminate()
        server.wait()
    if only:
        return
    versions = f"ONNX Runtime {onnxruntime.__version__}, 2 threads"
    text = f"""# Real models

Written by `benches/models.py` ({versions}; medians of {ROUNDS} rounds in turns). *Difference* is the largest one
from ONNX Runtime without graph optimisations, relative to the output's largest element, at every batch size that
the model takes. *Sinter / ORT* is the time of one forward pass at the largest of them (8 where the model allows it).
*Pruned* is channel pruning by magnitude to `macs_ratio` 0.7 over HTTP: the ratio reached, and ONNX Runtime's time at
batch 1 before and after. `tests/service/test_real_models.py` checks the differences and the round trip in every run.

| model | source | operators | parameters | MACs | difference | Sinter / ORT | MACs ratio | pruned |
| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | --- |
""" + "\n".join(rows) + "\n"
    pathlib.Path(__file__).resolve().parents[1].joinpath("docs/models.md").write_text(text)


if __name__ == "__main__":
    main()
