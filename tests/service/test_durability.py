"""Servers and processes that are killed, stopped and starved, files that are torn, clocks that jump: nothing that was
accepted is lost, nothing is done twice, nothing is left by half. `tests/run --long` tries each so often as
docs/reliability.md says; otherwise a few times."""

import concurrent.futures
import hashlib
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import time

import pytest
import requests

from conftest import DIGITS, DIGITS_CNN, Server, assert_problem, often, run_sinter
from lifecycle_tools import (
    ENDLESS,
    SHORT_LEASE,
    event_types,
    is_alive,
    job_children,
    made_models,
    send,
    submit_training,
    the_child,
    wait_for_training,
    wait_until,
)

QUICK = {"epochs": 1, "weights": "reinitialize"}
# Short, but longer than a busy machine holds up a worker's or a process's sign of life, where none may be missed.
LEASE = ("--lease-seconds", "6", "--heartbeat-seconds", "1")
FIXTURES = pathlib.Path(__file__).parent / "fixtures"


def checked(server):
    """`sinter check` finds nothing wrong."""
    found = run_sinter("check", "--data-dir", server.data_dir, timeout=120)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def assert_published_once(server, job):
    ended = server.wait(job, 180)
    assert ended["status"] == "succeeded", ended["error"]
    assert event_types(server, job).count("job_succeeded") == 1
    assert len(made_models(server, job)) == 1
    for artifact in server.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]:
        content = server.get(artifact["url"]).content
        assert "sha256:" + hashlib.sha256(content).hexdigest() == artifact["digest"]


def leftovers(server):
    """Files that nothing needs when nothing runs."""
    return [name for name in server.stored_files() if name.startswith(("staging/", "jobs/", "uploads/"))]


def test_a_server_and_its_processes_killed_at_random_moments_lose_and_repeat_nothing(tmp_path):
    chance = random.Random(11)
    server = Server(tmp_path, ("--workers", "2"), env={"SINTER_CHECKPOINT_SECONDS": "0"})
    server.start().wait_ready()
    inputs = server.upload_model(), server.upload_dataset()
    accepted, children = [], set()
    for _ in range(often(8, 200)):
        for _ in range(chance.randint(0, 2)):
            accepted.append(submit_training(server, inputs, QUICK, max_attempts=100))
        time.sleep(chance.uniform(0, 1.2))
        running = job_children(server)
        children |= set(running)
        if running and chance.random() < 0.4:
            send(chance.choice(running), signal.SIGKILL)
        else:
            # A submission that is cut off by the kill may or may not have been accepted.
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                cut = pool.submit(submit_training, server, inputs, QUICK, max_attempts=100)
                time.sleep(chance.uniform(0, 0.02))
                server.kill()
                try:
                    accepted.append(cut.result())
                except (requests.RequestException, AssertionError):
                    pass
            server.start().wait_ready()
    for job in accepted:
        assert_published_once(server, job)
    everything = server.all_rows("/v1/jobs")
    assert {job["id"] for job in accepted} <= {job["id"] for job in everything}
    for job in everything:
        assert server.wait(job, 180)["status"] == "succeeded"
    wait_until(lambda: not any(map(is_alive, children)), what="the end of all processes")
    server.stop()
    assert leftovers(server) == []
    assert "named by nothing" not in checked(server)


# A crash at every durable step. What each place needs, beyond an upload and a job that trains.
CRASHES = {
    "blob_synced": "upload", "blob_moved": "upload", "submit": "submit", "submitted": "submit", "claim": "submit",
    "report": "submit", "publish": "submit", "complete": "submit", "completed": "submit", "cancel": "cancel",
    "end": "cancel", "retry": "retry", "delete": "delete", "deleted": "delete",
}


@pytest.mark.parametrize(("place", "act"), CRASHES.items())
def test_a_crash_at_a_durable_step_leaves_all_or_nothing(tmp_path, place, act):
    with Server(tmp_path) as server:
        server.wait_ready()
        inputs = server.upload_model(), server.upload_dataset()
        known = [submit_training(server, inputs, QUICK)]
        server.wait(known[0])
        if act == "retry":
            known.append(submit_training(server, inputs, ENDLESS))
            server.post(f"/v1/jobs/{known[1]['id']}/cancel")
            server.wait(known[1])
        known = [server.job(job) for job in known]
    server.env = {"SINTER_CRASH_AT": place}
    server.start()
    answers = []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pool.submit(provoke, server, act, inputs, known, answers)
        wait_until(lambda: server.process.poll() is not None, 60, f"the crash at {place}")
    assert server.process.returncode == -signal.SIGABRT
    server.env = {}
    server.start().wait_ready()
    jobs = {job["id"]: job for job in server.all_rows("/v1/jobs")}
    for job in answers:
        assert job["id"] in jobs, "what was answered with 202 is there"
    for job in known:
        now = jobs.get(job["id"])
        assert now is None and act == "delete" or now["status"] == job["status"] or act == "retry"
    for job in jobs.values():
        if job["request"]["params"] == ENDLESS or job["request"]["params"].get("epochs") == ENDLESS["epochs"]:
            server.post(f"/v1/jobs/{job['id']}/cancel")
        assert server.wait(job)["status"] in ("succeeded", "canceled")
    for model in server.all_rows("/v1/models"):
        assert hashlib.sha256(server.model_content(model)).hexdigest() == model["digest"].removeprefix("sha256:")
    server.stop()
    assert "named by nothing" not in checked(server)


def provoke(server, act, inputs, known, answers):
    try:
        if act == "upload":
            for n in range(5):
                server.post_dataset(DIGITS.read_bytes() + bytes(n))
                server.post_model(DIGITS_CNN.read_bytes())
                answers.append(submit_training(server, inputs, QUICK))
                server.wait(answers[-1])
        elif act == "submit":
            answers.append(submit_training(server, inputs, QUICK))
            server.wait(answers[-1])
        elif act == "cancel":
            answers.append(submit_training(server, inputs, ENDLESS))
            server.wait_for(answers[-1], lambda job: job["status"] == "running")
            server.post(f"/v1/jobs/{answers[-1]['id']}/cancel")
            server.wait(answers[-1])
        elif act == "retry":
            server.post(f"/v1/jobs/{known[1]['id']}/retry")
        elif act == "delete":
            server.delete(f"/v1/jobs/{known[0]['id']}")
    except (requests.RequestException, AssertionError, TimeoutError):
        pass


@pytest.mark.parametrize("place", ["blob_synced", "blob_moved"])
def test_a_file_that_can_not_be_brought_to_the_disk_is_not_taken(start_server, place):
    server = start_server(env={"FAILPOINTS": f"{place}=1*return"})
    assert_problem(server.post_model(DIGITS_CNN), 500, "internal_error")
    assert server.get("/v1/models").json()["data"] == []
    assert server.upload_model(DIGITS_CNN)
    server.stop()
    checked(server)


def test_a_commit_that_fails_is_told_and_a_later_one_goes_on(start_server):
    server = start_server(env={"FAILPOINTS": "submit=1*return;complete=1*return;end=1*return"})
    inputs = server.upload_model(), server.upload_dataset()
    body = {"kind": "train", "model": inputs[0]["id"], "dataset": inputs[1]["id"], "params": QUICK}
    assert_problem(server.post("/v1/jobs", json=body), 500, "internal_error")
    assert server.get("/v1/jobs").json()["data"] == []
    job = submit_training(server, inputs, QUICK)
    # It could not be published at its first attempt, nor its end be written down at once.
    assert_published_once(server, job)
    assert server.job(job)["attempt"] == 2
    server.stop()
    checked(server)


# Workers that stand still.


def test_a_process_that_hangs_is_killed_after_the_lease_and_the_job_tried_again(start_server):
    server = start_server(*LEASE)
    inputs = server.upload_model(), server.upload_dataset()
    for _ in range(often(2, 50)):
        job = submit_training(server, inputs)
        wait_for_training(server, job, 2)
        child = the_child(server)
        send(child, signal.SIGSTOP)
        ended = server.wait(job)
        assert ended["status"] == "succeeded" and ended["attempt"] == 2
        assert not is_alive(child)
        assert_published_once(server, job)
        lost = [event for event in server.events(job) if event["type"] == "attempt_failed"]
        assert len(lost) == 1 and "sign of life" in lost[0]["message"]


def test_a_worker_that_stood_still_past_its_lease_publishes_nothing(start_server):
    """The whole server stands still, with a worker that has a job and one that takes it when they go on."""
    server = start_server("--workers", "2", *SHORT_LEASE)
    inputs = server.upload_model(), server.upload_dataset()
    for _ in range(often(3, 50)):
        job = submit_training(server, inputs, max_attempts=100)
        wait_for_training(server, job, 2)
        send(server.pid, signal.SIGSTOP)
        time.sleep(2.5)
        send(server.pid, signal.SIGCONT)
        assert_published_once(server, job)
    server.stop()
    checked(server)


def test_a_process_that_says_what_is_no_message_fails_its_job(start_server):
    server = start_server(env={"FAILPOINTS": "child_speaks=return"})
    job = submit_training(server, (server.upload_model(), server.upload_dataset()), QUICK)
    ended = server.wait(job)
    assert ended["status"] == "failed" and ended["attempt"] == 1
    assert ended["error"]["code"] == "child_protocol"
    assert server.is_healthy()


def test_a_starved_server_keeps_its_jobs(tmp_path):
    burners = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(12)]
    try:
        with Server(tmp_path) as server:
            os.setpriority(os.PRIO_PROCESS, server.pid, 15)
            server.wait_ready(60)
            job = submit_training(server, (server.upload_model(), server.upload_dataset()), QUICK)
            assert_published_once(server, job)
            assert server.job(job)["attempt"] == 1
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def test_a_clock_that_jumps_moves_no_lease(tmp_path):
    libraries = [path for pattern in ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")
                 for path in pathlib.Path("/").glob(pattern[1:])]
    assert libraries, "tests/run installs faketime"
    clock = tmp_path / "clock"
    clock.write_text("+0")
    server = Server(tmp_path / "server", ("--workers", "2", *LEASE), env={
        "LD_PRELOAD": str(libraries[0]), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"})
    with server:
        server.wait_ready()
        job = submit_training(server, (server.upload_model(), server.upload_dataset()), {"epochs": 40, "weights": "reinitialize"})
        for jump in ("+2d", "-3d", "+1y", "+0"):
            wait_until(lambda: server.job(job)["status"] != "queued", what="the start")
            clock.write_text(jump)
            time.sleep(1.2)
        seen = {event["at"][:4] for event in server.events(job)}
        assert_published_once(server, job)
        assert server.job(job)["attempt"] == 1, event_types(server, job)
        assert seen


# The end of the server while something goes on.


def test_a_server_asked_to_stop_during_an_upload_ends_and_keeps_nothing_of_it(start_server):
    from test_uploads import raw

    server = start_server()
    upload = raw(server, "POST", "/v1/models?name=x", {"Content-Length": "100000"})
    upload.sendall(b"x" * 50_000)
    time.sleep(0.2)
    start = time.monotonic()
    assert server.stop(30) == 0
    assert time.monotonic() - start < 15
    server.start().wait_ready()
    assert leftovers(server) == []
    assert server.get("/v1/models").json()["data"] == []


# Files.


def test_a_server_asked_to_stop_while_it_publishes_publishes_once(tmp_path):
    server = Server(tmp_path, env={"FAILPOINTS": "publish=sleep(2000)"})
    server.start().wait_ready()
    inputs = server.upload_model(), server.upload_dataset()
    job = submit_training(server, inputs, QUICK)
    # Before that, its process may not have begun, and another one be there that has read an upload.
    server.wait_for(job, lambda seen: seen["progress"])
    wait_until(lambda: not job_children(server), 60, "the end of the process")
    assert server.job(job)["status"] == "running"
    server.stop()
    server.env.clear()
    server.start().wait_ready()
    assert_published_once(server, job)
    server.stop()
    assert leftovers(server) == []
    checked(server)


def test_a_torn_log_of_the_database_is_opened_and_whole(tmp_path):
    """What a power cut may leave: the log ends anywhere. Every row that is there is whole, with its files."""
    chance = random.Random(5)
    with Server(tmp_path / "first") as server:
        server.wait_ready()
        inputs = server.upload_model(), server.upload_dataset()
        server.run("train", *inputs, QUICK)
        submit_training(server, inputs, ENDLESS)
        for n in range(5):
            server.upload_model(name=f"m{n}")
        server.kill()
    for turn in range(often(5, 100)):
        folder = tmp_path / f"torn{turn}"
        shutil.copytree(server.data_dir, folder / "data")
        log = folder / "data" / "sinter.sqlite-wal"
        size = log.stat().st_size
        with log.open("r+b") as file:
            cut = chance.randrange(size)
            if chance.random() < 0.5:
                file.truncate(cut)
            else:
                file.seek(cut)
                file.write(chance.randbytes(min(size - cut, 4096)))
        torn = Server(folder)
        torn.start().wait_ready()
        for model in torn.all_rows("/v1/models"):
            assert torn.get(f"/v1/models/{model['id']}/content").status_code in (200, 500)
        torn.kill()
        found = run_sinter("check", "--data-dir", torn.data_dir)
        # The log is cut where it was synced already, which no power cut does: rows may be gone, and with them, at the
        # start, their files; a row without its file would be a lie.
        assert found.returncode == 0, found.stdout
        shutil.rmtree(folder)


def test_a_damaged_or_missing_file_is_found_by_check(start_server):
    server = start_server()
    first, second = server.upload_model(), server.upload_dataset()
    server.stop()
    blobs = server.data_dir / "blobs"

    def blob(thing):
        digest = thing["digest"].removeprefix("sha256:")
        return blobs / digest[:2] / digest[2:]

    assert "2 files" in checked(server)
    content = blob(first).read_bytes()
    blob(first).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    blob(second).unlink()
    (blobs / "00").mkdir(exist_ok=True)
    (blobs / "00" / "stray").write_bytes(b"x")
    found = run_sinter("check", "--data-dir", server.data_dir)
    assert found.returncode == 1
    assert first["digest"].removeprefix("sha256:") in found.stdout
    assert second["digest"].removeprefix("sha256:") in found.stdout
    assert "named by nothing" in found.stdout
    with sqlite3.connect(server.data_dir / "sinter.sqlite") as database:
        database.execute("UPDATE queue_lengths SET jobs = jobs + 1")
        database.execute("INSERT INTO queue_lengths (priority, project, jobs) VALUES (9, 'x', 4)")
    database.close()
    assert "queue" in run_sinter("check", "--data-dir", server.data_dir).stdout


def test_a_backup_of_a_running_server_becomes_one_that_works(start_server, tmp_path):
    server = start_server("--workers", "2")
    inputs = server.upload_model(), server.upload_dataset()
    done = server.run("train", *inputs, QUICK)
    running = submit_training(server, inputs, ENDLESS)
    wait_for_training(server, running)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        # Uploads and removals go on meanwhile.
        stop = []

        def disturb():
            while not stop:
                extra = server.upload_model(DIGITS_CNN.read_bytes() + b"", "extra")
                server.delete(f"/v1/models/{extra['id']}")

        disturbing = pool.submit(disturb)
        try:
            made = run_sinter("backup", tmp_path / "backup", "--data-dir", server.data_dir, timeout=120)
        finally:
            stop.append(True)
        disturbing.result()
    assert made.returncode == 0, made.stderr
    again = run_sinter("backup", tmp_path / "backup", "--data-dir", server.data_dir)
    assert again.returncode == 1 and "not empty" in again.stderr.lower()
    restored = run_sinter("restore", tmp_path / "backup", "--data-dir", tmp_path / "second" / "data")
    assert restored.returncode == 0, restored.stderr
    second = Server(tmp_path / "second")
    with second:
        second.wait_ready()
        assert second.artifact(done, "model.onnx") == server.artifact(done, "model.onnx")
        assert second.job(running)["status"] in ("queued", "running")
        second.post(f"/v1/jobs/{running['id']}/cancel")
        assert second.run("train", *inputs, QUICK)["status"] == "succeeded"
    checked(second)


def test_a_backup_that_is_damaged_or_no_backup_is_not_restored(start_server, tmp_path):
    server = start_server()
    model = server.upload_model()
    assert run_sinter("backup", tmp_path / "backup", "--data-dir", server.data_dir).returncode == 0
    digest = model["digest"].removeprefix("sha256:")
    blob = tmp_path / "backup" / "blobs" / digest[:2] / digest[2:]
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    refused = run_sinter("restore", tmp_path / "backup", "--data-dir", tmp_path / "new")
    assert refused.returncode == 1 and "damaged" in refused.stderr
    assert not (tmp_path / "new" / "sinter.sqlite").exists()
    nothing = run_sinter("restore", tmp_path, "--data-dir", tmp_path / "newer")
    assert nothing.returncode == 1 and "backup.json" in nothing.stderr
    used = run_sinter("restore", tmp_path / "backup", "--data-dir", server.data_dir)
    assert used.returncode == 1


# Versions.


@pytest.mark.parametrize("fixture", sorted(FIXTURES.glob("data-*.tar.gz")), ids=lambda path: path.stem)
def test_a_data_folder_of_every_earlier_version_is_taken_over(tmp_path, fixture):
    with tarfile.open(fixture) as archive:
        archive.extractall(tmp_path, filter="data")
    server = Server(tmp_path)
    with server:
        server.wait_ready()
        jobs = {job["name"]: job for job in server.all_rows("/v1/jobs")}
        assert jobs["ended"]["status"] == "succeeded"
        assert server.artifact(jobs["ended"], "model.onnx")
        # One waited when the old version was stopped.
        assert server.wait(jobs["waiting"])["status"] == "succeeded"
        body = {"kind": "evaluate", "model": jobs["ended"]["request"]["model"],
                "dataset": jobs["ended"]["request"]["dataset"], "name": "kept"}
        replayed = server.post("/v1/jobs", json=body, headers={"Idempotency-Key": "kept"})
        assert replayed.headers.get("Idempotency-Replayed") == "true", replayed.text
    checked(server)


def test_a_data_folder_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path):
    with Server(tmp_path) as server:
        server.wait_ready()
    database = server.data_dir / "sinter.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)"
            " VALUES (9999, 'of the future', 1, x'00', 0)")
    connection.close()
    before = hashlib.sha256(database.read_bytes()).hexdigest()
    refused = run_sinter("serve", "--listen", "127.0.0.1:0", "--data-dir", server.data_dir)
    assert refused.returncode == 1 and "newer sinter" in refused.stderr and "9999" in refused.stderr
    assert hashlib.sha256(database.read_bytes()).hexdigest() == before
