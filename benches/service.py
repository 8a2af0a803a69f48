"""How fast the service itself is: start, idle memory, submissions a second, child to first step.

    python3 benches/service.py [path/to/sinter]

Needs `requests`. Prints JSON; medians of the runs stated beside each figure.
"""

import concurrent.futures
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import requests

ROOT = pathlib.Path(__file__).resolve().parents[1]
BINARY = sys.argv[1] if len(sys.argv) > 1 else "sinter"


def start(folder):
    begun = time.perf_counter()
    process = subprocess.Popen(
        [BINARY, "serve", "--listen", "127.0.0.1:0", "--data-dir", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    url = process.stdout.readline().split()[-1]
    while requests.get(f"{url}/readyz").status_code != 200:
        time.sleep(0.001)
    return process, url, time.perf_counter() - begun


def resident_mib(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def main():
    starts = []
    with tempfile.TemporaryDirectory() as folder:
        for run in range(7):
            process, url, seconds = start(pathlib.Path(folder) / str(run))
            starts.append(seconds)
            if run < 6:
                process.terminate()
                process.wait()
        time.sleep(3)
        idle = resident_mib(process.pid)
        session = requests.Session()
        model = session.post(f"{url}/v1/models?name=digits",
                             data=(ROOT / "examples/models/digits_cnn.onnx").read_bytes()).json()
        dataset = session.post(f"{url}/v1/datasets?name=digits",
                               data=(ROOT / "examples/data/digits.npz").read_bytes()).json()
        body = {"kind": "train", "model": model["id"], "dataset": dataset["id"],
                "data": {"preprocess": {"scale": 0.0625}}, "params": {"epochs": 1}}

        firsts = []
        for _ in range(7):
            job = session.post(f"{url}/v1/jobs", json=body).json()
            while job["status"] in ("queued", "running"):
                job = session.get(f"{url}/v1/jobs/{job['id']}", headers={"Prefer": "wait=30"}).json()
            events = session.get(f"{url}/v1/jobs/{job['id']}/events?limit=100").json()["data"]
            curves = session.get(f"{url}/v1/jobs/{job['id']}/metrics").json()["data"]
            at = lambda text: time.mktime(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) + float(text[19:-1])
            started = next(at(e["at"]) for e in events if e["type"] == "job_started")
            first = min(at(p["at"]) for c in curves if c["name"] == "train/loss" for p in c["points"])
            firsts.append(first - started)

        # A long job keeps the only worker busy, so that submissions just queue.
        long_job = session.post(f"{url}/v1/jobs", json={**body, "params": {"epochs": 10000}}).json()
        rates = {}
        for clients in (1, 8):
            def submit(_):
                local = requests.Session()
                ids = [local.post(f"{url}/v1/jobs", json=body).json()["id"] for _ in range(200 // clients)]
                return ids
            begun = time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(clients) as pool:
                ids = [i for part in pool.map(submit, range(clients)) for i in part]
            rates[f"{clients}_clients"] = round(len(ids) / (time.perf_counter() - begun))
            for i in ids:
                session.post(f"{url}/v1/jobs/{i}/cancel")
        session.post(f"{url}/v1/jobs/{long_job['id']}/cancel")
        process.terminate()
        process.wait()
    print(json.dumps({
        "start_to_ready_ms_median_of_7": round(statistics.median(starts) * 1000),
        "idle_resident_mib": round(idle, 1),
        "submissions_per_second_200_durable": rates,
        "job_started_to_first_reported_step_ms_median_of_7": round(statistics.median(firsts) * 1000),
    }, indent=2))


if __name__ == "__main__":
    main()
