"""What the tests of jobs' lives share: looking at processes, files and rows from the outside."""

import contextlib
import os
import pathlib
import random
import socket
import sqlite3
import time

DIGITS_DATA = {"batch_size": 64, "preprocess": {"scale": 0.0625}}

# Eight epochs of twenty batches: long enough to be disturbed, short enough to be repeated.
TRAINING = {"epochs": 8, "weights": "reinitialize"}
ENDLESS = {"epochs": 2000, "weights": "reinitialize"}
# Cuts, fine-tuning and measuring in turns.
PIPELINE = {
    "steps": [
        {"kind": "train", "params": {"epochs": 3, "weights": "reinitialize"}},
        {
            "kind": "prune",
            "params": {
                "granularity": "channel",
                "target": {"macs_ratio": 0.6},
                "schedule": {"steps": 2},
                "finetune": {"epochs": 4},
            },
        },
        {"kind": "evaluate", "params": {"metrics": ["accuracy", "f1"]}},
        {
            "kind": "prune",
            "params": {
                "granularity": "weight",
                "target": {"sparsity": 0.5},
                "finetune": {"epochs": 2},
            },
        },
    ]
}

# A worker checkpoints after every epoch and every stage.
EVERY_EPOCH = {"SINTER_CHECKPOINT_SECONDS": "0"}
SHORT_LEASE = ("--lease-seconds", "2", "--heartbeat-seconds", "1")


def free_port():
    """Below those that the system gives to whoever names none: nobody else takes it until it is used."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            return port


def wait_until(condition, timeout=60, what="the condition"):
    """Polls until `condition()` is true and returns what it gave."""
    deadline = time.monotonic() + timeout
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come about in {timeout} s")
        time.sleep(0.02)


def is_alive(pid):
    """Whether the process runs; a zombie does not."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def job_children(server):
    """Process ids of the server's children that run `sinter job`."""
    found = []
    for pid in server.child_pids():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words[1:2] == [b"job"] and is_alive(pid):
                found.append(pid)
    return found


def the_child(server, timeout=60):
    """The one child that runs now."""

    def one():
        children = job_children(server)
        return children[0] if len(children) == 1 else None

    return wait_until(one, timeout, "one child process")


def send(pid, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def event_types(server, job):
    return [event["type"] for event in server.events(job)]


def wait_for_training(server, job, epoch=2, timeout=120):
    """Waits until the job is in that epoch of a training."""

    def trains(seen):
        assert seen["status"] in {"queued", "running"}, seen
        progress = seen["progress"] or {}
        return (progress.get("epoch") or 0) >= epoch

    return server.wait_for(job, trains, timeout)


def wait_for_checkpoints(server, job, count, timeout=120):
    """Waits until the job has said so often that it wrote a checkpoint."""

    def enough():
        status = server.job(job)["status"]
        assert status in {"queued", "running"}, status
        return event_types(server, job).count("checkpoint_written") >= count

    wait_until(enough, timeout, f"{count} checkpoints")


def job_row(server, job):
    """The job as the database has it."""
    path = next(server.data_dir.glob("*.sqlite"))
    # A server that ended has left the log of its writes behind, so the file is not immutable.
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        row = connection.execute("SELECT * FROM jobs WHERE id = ?", [job["id"]]).fetchone()
    return dict(row)


def model_digest(server, job):
    """Digest of the job's artifact `model.onnx`."""
    rows = server.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]
    return {row["name"]: row["digest"] for row in rows}["model.onnx"]


def curves(server, job):
    """The job's points by metric name: `[(step, value)]`."""
    answer = server.get(f"/v1/jobs/{job['id']}/metrics")
    assert answer.status_code == 200, answer.text
    return {
        series["name"]: [(point["step"], point["value"]) for point in series["points"]]
        for series in answer.json()["data"]
    }


def made_models(server, job):
    """All models that the job made."""
    return [model for model in server.all_rows("/v1/models") if model["job_id"] == job["id"]]


def submit_training(server, inputs, params=TRAINING, kind="train", **more):
    model, dataset = inputs
    return server.submit(kind, model, dataset, params, data=DIGITS_DATA, **more)
