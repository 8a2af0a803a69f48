"""What the server takes in at most, and how it says that it has enough."""

import os
import shutil
import subprocess

import numpy as np
import pytest

from conftest import DIGITS, DIGITS_CNN, Server, assert_problem, run_sinter
from lifecycle_tools import ENDLESS, TRAINING, event_types, submit_training, wait_until
from test_access import bearer, new_key


def test_a_project_has_so_many_jobs_waiting_and_no_more(start_server):
    server = start_server("--queued-jobs-limit", "3")
    model, data = server.upload_model(), server.upload_dataset()
    running = submit_training(server, (model, data), ENDLESS)
    server.wait_for(running, lambda job: job["status"] == "running")
    waiting = [submit_training(server, (model, data)) for _ in range(3)]
    body = {"kind": "train", "model": model["id"], "dataset": data["id"], "params": TRAINING}
    answer = server.post("/v1/jobs", json=body)
    assert_problem(answer, 429, "queue_full", says="queued_jobs_limit")
    assert int(answer.headers["Retry-After"]) > 0
    # Another project has a queue of its own.
    key = new_key(server, project="other")
    headers = bearer(key)
    theirs = server.post("/v1/models", params={"name": "m"}, data=DIGITS_CNN.read_bytes(), headers=headers).json()
    mine = server.post("/v1/datasets", params={"name": "d"}, data=DIGITS.read_bytes(), headers=headers).json()
    assert server.post("/v1/jobs", headers=headers, json={
        **body, "model": theirs["id"], "dataset": mine["id"]}).status_code == 202
    server.key = new_key(server, role="admin")
    assert server.post(f"/v1/jobs/{waiting[0]['id']}/cancel").status_code == 202
    assert server.post("/v1/jobs", json=body).status_code == 202


def test_a_place_in_the_queue_counts_those_ahead(start_server):
    server = start_server()
    inputs = server.upload_model(), server.upload_dataset()
    running = submit_training(server, inputs, ENDLESS)
    server.wait_for(running, lambda job: job["status"] == "running")
    low = [submit_training(server, inputs) for _ in range(4)]
    assert [job["queue_position"] for job in low] == [1, 2, 3, 4]
    high = submit_training(server, inputs, priority=5)
    assert high["queue_position"] == 1
    assert [server.job(job)["queue_position"] for job in low] == [2, 3, 4, 5]
    server.post(f"/v1/jobs/{low[1]['id']}/cancel")
    assert [server.job(job)["queue_position"] for job in low] == [2, None, 3, 4]
    server.restart()
    # What ran waits again, and is the oldest.
    seen = [server.job(job)["queue_position"] for job in (high, *low)]
    assert [place for place in seen if place] == sorted(place for place in seen if place)


def test_a_project_holds_so_many_bytes_and_no_more(start_server):
    content = DIGITS_CNN.read_bytes()
    limit = int(2.5 * len(content))
    server = start_server("--project-bytes-limit", str(limit))
    first = server.upload_model(content)
    server.upload_model(content)
    refused = server.post_model(content)
    assert_problem(refused, 403, "quota_exceeded", says=[str(limit), "project_bytes_limit"])
    begun = server.post("/v1/models", params={"name": "x"}, headers={
        "Upload-Complete": "?0", "Upload-Length": str(len(content))})
    assert_problem(begun, 403, "quota_exceeded")
    assert server.delete(f"/v1/models/{first['id']}").status_code == 204
    assert server.post_model(content).status_code == 201


def test_a_disk_that_is_nearly_full_takes_nothing_new_and_lets_jobs_finish(tmp_path):
    with Server(tmp_path) as server:
        server.wait_ready()
        inputs = server.upload_model(), server.upload_dataset()
        job = submit_training(server, inputs, {"epochs": 3, "weights": "reinitialize"})
    free = shutil.disk_usage(tmp_path).free
    server.flags = ["--free-bytes-limit", str(2 * free)]
    with server:
        assert_problem(server.post_model(DIGITS_CNN), 507, "insufficient_storage", says="free_bytes_limit")
        body = {"kind": "train", "model": inputs[0]["id"], "dataset": inputs[1]["id"], "params": TRAINING}
        assert_problem(server.post("/v1/jobs", json=body), 507, "insufficient_storage")
        assert server.wait(job)["status"] == "succeeded"
        assert server.artifact(job, "model.onnx")


def test_a_disk_that_is_full_loses_nothing(tmp_path):
    """A file system of 3 MiB; where none can be mounted, the watermark's test has to do."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        with Server(folder, ("--free-bytes-limit", "0")) as server:
            server.wait_ready()
            kept = server.upload_model(DIGITS_CNN, "kept")
            refused = server.post_dataset(os.urandom(4 << 20))
            assert_problem(refused, 507, "insufficient_storage")
            # In pieces: one that begins with too much leaves nothing, one that goes on with too much keeps what it could.
            too_much = os.urandom(4 << 20)
            begun = server.post("/v1/models", params={"name": "x"}, data=too_much, headers={"Upload-Complete": "?0"})
            assert_problem(begun, 507, "insufficient_storage")
            assert not [name for name in server.stored_files() if name.startswith("uploads/")]
            begun = server.post("/v1/models", params={"name": "x"}, headers={"Upload-Complete": "?0"})
            piece = {"Content-Type": "application/partial-upload", "Upload-Offset": "0", "Upload-Complete": "?1"}
            address = begun.headers["Location"]
            assert_problem(server.request("PATCH", address, data=too_much, headers=piece), 507, "insufficient_storage")
            assert server.get(address).status_code == 200
            assert server.delete(address).status_code == 204
            assert server.model_content(kept) == DIGITS_CNN.read_bytes()
            assert server.is_healthy()
            assert server.upload_model(DIGITS_CNN, "and another")
        checked = run_sinter("check", "--data-dir", server.data_dir)
        assert checked.returncode == 0, checked.stdout
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_job_says_so_much_and_no_more_and_always_how_it_ended(start_server):
    server = start_server("--job-events-limit", "10", env={"SINTER_CHECKPOINT_SECONDS": "0"})
    inputs = server.upload_model(), server.upload_dataset()
    job = submit_training(server, inputs, {"epochs": 20, "weights": "reinitialize"})
    assert server.wait(job)["status"] == "succeeded"
    types = event_types(server, job)
    assert types.count("events_left_out") == 1
    assert types[-1] == "job_succeeded"
    assert len(types) == 11


def test_a_job_that_needs_too_much_memory_fails_and_says_so(start_server, tmp_path):
    server = start_server("--job-memory-limit", str(256 << 20))
    images = np.random.default_rng(0).integers(0, 17, (120_000, 8, 8), np.uint8)
    np.savez(tmp_path / "large.npz", x=images, y=np.zeros(len(images), np.int64))
    model, small = server.upload_model(), server.upload_dataset()
    fits = server.run("train", model, small, TRAINING)
    assert fits["status"] == "succeeded"
    large = server.upload_dataset(tmp_path / "large.npz")
    ended = server.wait(server.submit("train", model, large, {"epochs": 1}, data={"batch_size": 60_000}))
    assert ended["status"] == "failed" and ended["attempt"] == 1
    assert (ended["error"]["code"], ended["error"]["status"]) == ("out_of_memory", 422)
    assert "batch_size" in ended["error"]["detail"] and "job_memory_limit" in ended["error"]["detail"]
    assert server.is_healthy()


def test_a_job_says_what_it_was_kept_from(start_server):
    confined, open_ = start_server(), start_server("--sandbox", "false")
    for server, expected in ((confined, dict), (open_, type(None))):
        model, data = server.upload_model(), server.upload_dataset()
        job = server.run("evaluate", model, data, data={"preprocess": {"scale": 0.0625}})
        sandbox = job["result"]["environment"]["sandbox"]
        assert isinstance(sandbox, expected)
        if sandbox:
            assert sandbox["network"] is True


def test_the_process_of_a_job_has_its_filter_and_gains_no_privileges(start_server):
    from lifecycle_tools import the_child

    server = start_server()
    job = submit_training(server, (server.upload_model(), server.upload_dataset()), ENDLESS)
    server.wait_for(job, lambda seen: seen["status"] == "running" and seen["progress"])
    child = the_child(server)
    with open(f"/proc/{child}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    assert status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
    environment = open(f"/proc/{child}/environ", "rb").read()
    assert b"SINTER_API_KEYS" not in environment
    scratch = [word for word in environment.split(b"\0") if word.startswith(b"TMPDIR=")][0][7:].decode()
    assert scratch.startswith(str(server.data_dir / "staging"))
    assert server.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    wait_until(lambda: not os.path.exists(scratch), what="the end of the process's folder")


def test_old_jobs_are_deleted_when_the_settings_say_so(tmp_path):
    import sqlite3

    with Server(tmp_path) as server:
        server.wait_ready()
        inputs = server.upload_model(), server.upload_dataset()
        old, new = (server.run("train", *inputs, {"epochs": 1}) for _ in range(2))
    with sqlite3.connect(server.data_dir / "sinter.sqlite") as database:
        database.execute("UPDATE jobs SET finished_at = '2020-01-01T00:00:00.000Z' WHERE id = ?", [old["id"]])
    database.close()
    server.flags = ["--keep-jobs-days", "30"]
    with server:
        wait_until(lambda: server.get(f"/v1/jobs/{old['id']}").status_code == 404, what="the end of the old job")
        assert server.get(f"/v1/jobs/{new['id']}").status_code == 200
        assert server.get(f"/v1/models/{old['result']['model']}").status_code == 200, "models stay"
