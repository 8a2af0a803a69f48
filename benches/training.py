"""Training speed of Sinter beside PyTorch: the same models, data, batch size and optimizer, two
threads each, in turns.

    python3 benches/training.py path/to/sinter [rounds]

Needs `torch`, `requests` and the data set (Debian: dataset-fashion-mnist). Prints JSON: examples a
second of the training steps alone, medians over the rounds, and the ratio of times.
"""

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import requests

ROOT = pathlib.Path(__file__).resolve().parents[1]
DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
MODELS = ("fashion_cnn", "fashion_resnet")
EXAMPLES = 9600


def sinter(url, models, dataset):
    rates = {}
    for name in MODELS:
        job = requests.post(f"{url}/v1/jobs", json={
            "kind": "train", "model": models[name], "dataset": dataset, "device": "cpu",
            "data": {"limit": EXAMPLES, "batch_size": 64},
            "params": {"epochs": 1, "weights": "reinitialize"},
        }).json()
        while job["status"] in ("queued", "running"):
            job = requests.get(f"{url}/v1/jobs/{job['id']}", headers={"Prefer": "wait=30"}).json()
        rates[name] = job["result"]["training"]["examples_per_second"]
    return rates


def pytorch():
    output = subprocess.run(
        [sys.executable, ROOT / "examples/bench_training.py", "--threads", "2", "--steps", str(EXAMPLES // 64)],
        capture_output=True, text=True, check=True,
    ).stdout
    answer = json.loads(output)
    return {name: answer["models"][name]["examples_per_second"] for name in MODELS}, answer["torch"]


def main():
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.argv[1], "serve", "--listen", "127.0.0.1:0", "--data-dir", folder, "--threads", "2"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        try:
            url = process.stdout.readline().split()[-1]
            files = [("file", (path.name, path.read_bytes())) for path in sorted(DATA.glob("*.gz"))]
            dataset = requests.post(f"{url}/v1/datasets?name=fashion", files=files).json()["id"]
            models = {
                name: requests.post(f"{url}/v1/models?name={name}",
                                    data=(ROOT / f"examples/models/{name}.onnx").read_bytes()).json()["id"]
                for name in MODELS
            }
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(sinter(url, models, dataset))
                rates, version = pytorch()
                theirs.append(rates)
        finally:
            process.terminate()
            process.wait()
    result = {"rounds": rounds, "torch": version}
    for name in MODELS:
        mine = statistics.median(rates[name] for rates in ours)
        peer = statistics.median(rates[name] for rates in theirs)
        result[name] = {"sinter": round(mine), "pytorch": round(peer), "ratio_of_times": round(peer / mine, 2)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
