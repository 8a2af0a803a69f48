"""Jobs whose processes are killed, stopped, canceled and resumed."""

import contextlib
import io
import random
import signal
import threading
import time

import numpy as np
import pytest

from conftest import DIGITS, END_STATES, Server, assert_problem, run_sinter
from lifecycle_tools import (
    ENDLESS,
    EVERY_EPOCH,
    PIPELINE,
    SHORT_LEASE,
    TRAINING,
    curves,
    event_types,
    is_alive,
    job_children,
    job_row,
    made_models,
    model_digest,
    send,
    submit_training,
    the_child,
    wait_for_checkpoints,
    wait_for_training,
    wait_until,
)

pytestmark = pytest.mark.timeout(180)


def upload(server):
    inputs = server.upload_model(), server.upload_dataset()
    # The process that lists the devices is no job's, and has ended when they are known.
    server.get("/v1/devices")
    return inputs


@pytest.fixture(scope="module")
def steady(tmp_path_factory):
    """A server for jobs that nothing disturbs."""
    with Server(tmp_path_factory.mktemp("steady")) as running:
        running.wait_ready()
        running.inputs = upload(running)
        yield running


@pytest.fixture(scope="module")
def plain_training(steady):
    """TRAINING with seed 7, undisturbed: its digest and curves."""
    job = submit_training(steady, steady.inputs, seed=7)
    assert steady.wait(job)["status"] == "succeeded"
    return {"digest": model_digest(steady, job), "curves": curves(steady, job)}


@pytest.fixture(scope="module")
def plain_pipeline(steady):
    """PIPELINE with seed 7, undisturbed: its digest and curves."""
    job = submit_training(steady, steady.inputs, PIPELINE, "pipeline", seed=7)
    assert steady.wait(job)["status"] == "succeeded"
    return {"digest": model_digest(steady, job), "curves": curves(steady, job)}


# The child dies.


def test_a_killed_child_costs_one_attempt_and_the_job_goes_on_from_its_checkpoint(
    start_server, plain_training
):
    server = start_server(env=EVERY_EPOCH)
    job = submit_training(server, upload(server), seed=7)
    wait_for_checkpoints(server, job, 4)
    child = the_child(server)
    send(child, signal.SIGKILL)
    ended = server.wait(job)
    assert ended["status"] == "succeeded", ended["error"]
    assert (ended["attempt"], ended["max_attempts"]) == (2, 3)
    assert ended["error"] is None
    assert not is_alive(child)
    types = event_types(server, job)
    assert types.count("job_started") == 2
    assert types.count("attempt_failed") == 1
    assert types.count("resumed") == types.count("training_resumed") == 1
    assert types.count("training_started") == 1
    assert types[-1] == "job_succeeded"
    lost = next(e for e in server.events(job) if e["type"] == "attempt_failed")
    assert "SIGKILL" in lost["message"] and lost["level"] == "warning"
    assert lost["data"]["attempt"] == 1
    assert model_digest(server, job) == plain_training["digest"]
    assert len(made_models(server, job)) == 1


def test_a_child_killed_before_any_checkpoint_starts_over_and_gives_the_same_file(
    start_server, plain_training
):
    server = start_server()
    job = submit_training(server, upload(server), seed=7)
    wait_for_training(server, job, 2)
    send(the_child(server), signal.SIGKILL)
    ended = server.wait(job)
    assert ended["status"] == "succeeded" and ended["attempt"] == 2
    types = event_types(server, job)
    assert "resumed" not in types and types.count("training_started") == 2
    assert model_digest(server, job) == plain_training["digest"]
    assert curves(server, job) == plain_training["curves"]


def test_a_job_whose_attempts_are_used_up_fails_with_the_signal_named(start_server):
    server = start_server()
    job = submit_training(server, upload(server), ENDLESS, max_attempts=2)
    wait_for_training(server, job)
    first = the_child(server)
    send(first, signal.SIGKILL)
    second = wait_until(
        lambda: next((pid for pid in job_children(server) if pid != first), None),
        what="the second child",
    )
    server.wait_for(job, lambda seen: seen["attempt"] == 2)
    send(second, signal.SIGABRT)
    ended = server.wait(job)
    assert ended["status"] == "failed"
    assert (ended["attempt"], ended["max_attempts"]) == (2, 2)
    error = ended["error"]
    assert (error["code"], error["status"]) == ("worker_died", 500)
    assert "SIGABRT" in error["detail"]
    assert error["instance"] == f"/v1/jobs/{job['id']}"
    assert ended["finished_at"] is not None and ended["result"] is None
    assert job_children(server) == []
    assert event_types(server, job)[-1] == "job_failed"
    assert server.is_healthy()


def test_a_failed_job_can_be_retried_with_all_its_attempts(start_server, plain_training):
    server = start_server(env=EVERY_EPOCH)
    job = submit_training(server, upload(server), seed=7, max_attempts=1)
    wait_for_checkpoints(server, job, 3)
    send(the_child(server), signal.SIGKILL)
    failed = server.wait(job)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "worker_died")
    again = server.post(f"/v1/jobs/{job['id']}/retry")
    assert again.status_code == 202, again.text
    assert again.json()["error"] is None and again.json()["finished_at"] is None
    ended = server.wait(job)
    assert ended["status"] == "succeeded" and ended["attempt"] == 1
    assert "training_resumed" in event_types(server, job)
    assert model_digest(server, job) == plain_training["digest"]


# The server dies.


def test_a_killed_server_takes_its_child_along_and_the_next_one_finishes_the_job(
    start_server, plain_training
):
    server = start_server(env=EVERY_EPOCH)
    job = submit_training(server, upload(server), seed=7)
    waiting = submit_training(server, (job["request"]["model"], job["request"]["dataset"]), seed=7)
    wait_for_checkpoints(server, job, 3)
    child = the_child(server)
    server.kill()
    wait_until(lambda: not is_alive(child), 20, "the end of the orphan")
    server.start().wait_ready()
    ended = server.wait(job)
    assert ended["status"] == "succeeded", ended["error"]
    assert ended["attempt"] == 1
    types = event_types(server, job)
    assert types.count("requeued") == 1 and types.count("training_resumed") == 1
    assert "attempt_failed" not in types
    assert model_digest(server, job) == plain_training["digest"]
    assert curves(server, job) == plain_training["curves"]
    # What was queued is still queued and runs as well.
    other = server.wait(waiting)
    assert other["status"] == "succeeded" and other["attempt"] == 1
    assert model_digest(server, waiting) == plain_training["digest"]


@pytest.mark.parametrize("phase", ["evaluate", "measure", "report"])
def test_a_server_killed_in_any_phase_publishes_the_job_exactly_once(start_server, phase):
    server = start_server(env=EVERY_EPOCH)
    job = submit_training(server, upload(server), {"epochs": 1, "weights": "reinitialize"})
    seen = {}

    def there(now):
        seen.update(now)
        reached = (now["progress"] or {}).get("phase")
        return reached == phase or now["status"] in END_STATES

    server.wait_for(job, there)
    server.kill()
    server.start().wait_ready()
    ended = server.wait(job)
    assert ended["status"] == "succeeded", ended["error"]
    assert ended["attempt"] == 1
    assert len(made_models(server, job)) == 1
    assert event_types(server, job).count("job_succeeded") == 1
    names = {row["name"] for row in server.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]}
    assert names == {"model.onnx", "report.html", "report.json", "metrics.csv", "bundle.tar"}
    # The folder goes after the end is told.
    wait_until(lambda: not [name for name in server.stored_files() if name.startswith("jobs/")],
               what="the end of the job's folder")


def test_a_server_that_was_frozen_longer_than_its_lease_still_completes_the_job_once(
    start_server, plain_training
):
    server = start_server(*SHORT_LEASE, "--workers", "2", env=EVERY_EPOCH)
    job = submit_training(server, upload(server), seed=7)
    wait_for_checkpoints(server, job, 2)
    server.process.send_signal(signal.SIGSTOP)
    time.sleep(3)  # Longer than the lease; the child goes on until its pipe is full.
    server.process.send_signal(signal.SIGCONT)
    ended = server.wait(job)
    assert ended["status"] == "succeeded", ended["error"]
    assert event_types(server, job).count("job_succeeded") == 1
    assert len(made_models(server, job)) == 1
    assert model_digest(server, job) == plain_training["digest"]
    wait_until(lambda: job_children(server) == [], what="no children")


def test_no_point_is_lost_that_a_killed_server_had_not_read_when_the_child_checkpointed(
    start_server, plain_training
):
    server = start_server(*SHORT_LEASE, env=EVERY_EPOCH)
    job = submit_training(server, upload(server), seed=7)
    wait_for_checkpoints(server, job, 2)
    journal = server.data_dir / "jobs" / job["id"] / "checkpoint" / "journal.safetensors"
    server.process.send_signal(signal.SIGSTOP)
    seen = journal.stat().st_mtime_ns
    wait_until(lambda: journal.stat().st_mtime_ns != seen, what="a checkpoint of the child")
    server.kill()
    server.start().wait_ready()
    assert server.wait(job)["status"] == "succeeded"
    assert "training_resumed" in event_types(server, job)
    assert model_digest(server, job) == plain_training["digest"]
    assert curves(server, job) == plain_training["curves"]


# The server is asked to stop.


def test_a_stopped_server_lets_the_job_checkpoint_and_the_next_one_resumes_it(
    start_server, plain_training
):
    server = start_server("--drain-seconds", "20")
    job = submit_training(server, upload(server), seed=7)
    wait_for_training(server, job, 3)
    child = the_child(server)
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 10
    assert not is_alive(child)
    row = job_row(server, job)
    assert (row["status"], row["attempt"], row["error"]) == ("queued", 0, None)
    assert row["lease_owner"] is None and row["finished_at"] is None
    server.start().wait_ready()
    ended = server.wait(job)
    assert ended["status"] == "succeeded", ended["error"]
    assert ended["attempt"] == 1
    types = event_types(server, job)
    assert types.count("drained") == types.count("resumed") == types.count("training_resumed") == 1
    assert types.count("training_started") == 1 and "attempt_failed" not in types
    assert model_digest(server, job) == plain_training["digest"]
    assert curves(server, job) == plain_training["curves"]


def test_a_job_drained_four_times_has_used_one_attempt_and_gives_the_same_file(
    start_server, plain_pipeline
):
    moments = random.Random(4)
    server = start_server()
    job = submit_training(server, upload(server), PIPELINE, "pipeline", seed=7, max_attempts=1)
    drained = 0
    for _ in range(4):
        server.wait_for(job, lambda seen: seen["status"] != "queued")
        time.sleep(moments.uniform(0.1, 0.6))
        assert server.stop() == 0
        row = job_row(server, job)
        server.start().wait_ready()
        if row["status"] == "succeeded":  # A fast machine was done before the last stops.
            break
        assert (row["status"], row["attempt"]) == ("queued", 0), row
        drained += 1
    assert drained >= 2
    ended = server.wait(job)
    assert ended["status"] == "succeeded", ended["error"]
    assert ended["attempt"] == 1
    assert model_digest(server, job) == plain_pipeline["digest"]
    assert curves(server, job) == plain_pipeline["curves"]


def test_a_server_stopped_while_it_measures_ends_cleanly_and_the_job_succeeds(start_server):
    server = start_server()
    job = submit_training(server, upload(server), {"epochs": 1})
    # A machine that is busy with other things may let it end unseen.
    server.wait_for(
        job,
        lambda seen: (seen["progress"] or {}).get("phase") == "measure"
        or seen["status"] in END_STATES,
    )
    assert server.stop() == 0
    row = job_row(server, job)
    assert row["status"] in {"queued", "succeeded"}
    server.start().wait_ready()
    ended = server.wait(job)
    assert ended["status"] == "succeeded" and ended["attempt"] == 1
    assert len(made_models(server, job)) == 1


def test_a_child_that_does_not_drain_in_time_is_killed_and_its_attempt_not_counted(start_server):
    server = start_server("--drain-seconds", "1")  # Otherwise it would be 20.
    job = submit_training(server, upload(server), ENDLESS)
    wait_for_training(server, job)
    child = the_child(server)
    send(child, signal.SIGSTOP)
    begun = time.monotonic()
    assert server.stop() == 0
    assert 1 <= time.monotonic() - begun < 15
    assert not is_alive(child)
    row = job_row(server, job)
    assert (row["status"], row["attempt"]) == ("queued", 0)


# Cancel.


def assert_nothing_is_left(server, job, files_before, models_before):
    """No child, no artifact, no model, no file but a whole checkpoint."""
    assert job_children(server) == []
    assert server.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"] == []
    assert len(server.all_rows("/v1/models")) == models_before
    kept = {*files_before, f"jobs/{job['id']}/checkpoint/journal.safetensors"}
    # What a job staged that was canceled while it published goes after the end is told.
    with contextlib.suppress(TimeoutError):
        wait_until(lambda: set(server.stored_files()) <= kept, 20)
    assert set(server.stored_files()) - kept == set()


def test_cancel_at_ten_random_moments_ends_the_job_in_two_seconds_with_nothing_left(start_server):
    server = start_server(env=EVERY_EPOCH)
    inputs = upload(server)
    files, models = server.stored_files(), len(server.all_rows("/v1/models"))
    moments = random.Random(20261124)
    times = []
    for number in range(10):
        kind, params = [("train", TRAINING), ("pipeline", PIPELINE)][number % 2]
        job = submit_training(server, inputs, params, kind)
        time.sleep(moments.uniform(0, 2.5))
        begun = time.monotonic()
        answer = server.post(f"/v1/jobs/{job['id']}/cancel")
        assert answer.status_code == 202, answer.text
        assert answer.json()["status"] in {"canceling", "canceled"}
        ended = server.wait(job, 10)
        times.append(time.monotonic() - begun)
        assert ended["status"] == "canceled", ended["error"]
        assert ended["error"] is None and ended["result"] is None
        assert ended["finished_at"] is not None
        assert event_types(server, job)[-1] == "job_canceled"
        assert_nothing_is_left(server, job, files, models)
        assert server.delete(f"/v1/jobs/{job['id']}").status_code == 204
        assert server.stored_files() == files
    # One of them may have met a machine that was busy with other things.
    assert sorted(times)[-2] < 2, times
    assert server.is_healthy()
    last = submit_training(server, inputs, {"epochs": 1})
    assert server.wait(last)["status"] == "succeeded"


@pytest.mark.parametrize("phase", ["measure", "report"])
def test_cancel_in_the_last_phases_publishes_nothing_or_everything(start_server, phase):
    server = start_server()
    inputs = upload(server)
    files, models = server.stored_files(), len(server.all_rows("/v1/models"))
    job = submit_training(server, inputs, {"epochs": 1})
    server.wait_for(
        job,
        lambda seen: (seen["progress"] or {}).get("phase") == phase
        or seen["status"] in END_STATES,
    )
    answer = server.post(f"/v1/jobs/{job['id']}/cancel")
    ended = server.wait(job, 10)
    if answer.status_code == 202:
        assert ended["status"] == "canceled"
        assert_nothing_is_left(server, job, files, models)
    else:
        assert_problem(answer, 409, "job_already_ended")
        assert ended["status"] == "succeeded" and len(made_models(server, job)) == 1


def test_a_hung_child_is_canceled_in_two_seconds(start_server):
    # The next heartbeat, which would find the cancellation too, is far away.
    server = start_server("--lease-seconds", "120", "--heartbeat-seconds", "60")
    inputs, times = upload(server), []
    # The machine may be busy with other things once.
    while not times or (times[-1] >= 2 and len(times) < 3):
        job = submit_training(server, inputs, ENDLESS)
        wait_for_training(server, job)
        child = the_child(server)
        send(child, signal.SIGSTOP)
        begun = time.monotonic()
        assert server.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
        assert server.wait(job, 10)["status"] == "canceled"
        times.append(time.monotonic() - begun)
        assert not is_alive(child)
    assert times[-1] < 2, times


def test_a_queued_job_is_canceled_at_once_and_never_runs(start_server):
    server = start_server()
    inputs = upload(server)
    blocker = submit_training(server, inputs, ENDLESS)
    wait_for_training(server, blocker, 1)
    job = submit_training(server, inputs)
    assert job["queue_position"] == 1
    answer = server.post(f"/v1/jobs/{job['id']}/cancel")
    assert answer.status_code == 202
    assert answer.json()["status"] == "canceled" and answer.json()["queue_position"] is None
    assert server.post(f"/v1/jobs/{blocker['id']}/cancel").status_code == 202
    assert server.wait(blocker, 10)["status"] == "canceled"
    last = submit_training(server, inputs, {"epochs": 1})
    assert server.wait(last)["status"] == "succeeded"
    seen = server.job(job)
    assert seen["status"] == "canceled" and seen["attempt"] == 0 and seen["started_at"] is None
    assert event_types(server, job) == ["job_queued", "job_canceled"]
    # Asking again changes nothing; what has ended otherwise can't be canceled.
    assert server.post(f"/v1/jobs/{job['id']}/cancel").status_code in {202, 409}
    assert server.job(job)["status"] == "canceled"
    assert_problem(server.post(f"/v1/jobs/{last['id']}/cancel"), 409, "job_already_ended")
    assert_problem(server.post(f"/v1/jobs/{last['id']}/retry"), 409, "job_not_retryable")


def test_a_retried_job_goes_on_from_the_checkpoint_it_was_canceled_at(
    start_server, plain_training
):
    server = start_server(env=EVERY_EPOCH)
    job = submit_training(server, upload(server), seed=7)
    wait_for_checkpoints(server, job, 4)
    assert server.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    assert server.wait(job, 10)["status"] == "canceled"
    answer = server.post(f"/v1/jobs/{job['id']}/retry")
    assert answer.status_code == 202
    assert answer.json()["status"] in {"queued", "running"}
    ended = server.wait(job)
    assert ended["status"] == "succeeded" and ended["attempt"] == 1
    types = event_types(server, job)
    assert types.count("training_resumed") == 1 and types.count("training_started") == 1
    assert model_digest(server, job) == plain_training["digest"]
    assert curves(server, job) == plain_training["curves"]


# Ends by themselves.


def test_a_job_that_takes_too_long_fails_as_timed_out_and_is_not_tried_again(steady):
    begun = time.monotonic()
    job = submit_training(steady, steady.inputs, ENDLESS, timeout_seconds=2)
    ended = steady.wait(job)
    assert 1.5 < time.monotonic() - begun < 20
    assert ended["status"] == "failed" and ended["attempt"] == 1
    assert ended["error"]["code"] == "timed_out"
    assert [fault["pointer"] for fault in ended["error"]["errors"]] == ["/timeout_seconds"]
    assert job_children(steady) == []


def test_a_job_that_can_not_succeed_is_not_tried_again(steady):
    params = {"granularity": "channel", "target": {"latency_ratio": 0.0001}}
    job = submit_training(steady, steady.inputs, params, "prune")
    ended = steady.wait(job)
    assert ended["status"] == "failed"
    assert (ended["attempt"], ended["max_attempts"]) == (1, 3)
    assert ended["error"]["code"] == "target_unreachable"
    assert "latency_ratio of 0.0001 " in ended["error"]["detail"]
    types = event_types(steady, job)
    assert types.count("job_started") == 1 and "attempt_failed" not in types
    assert steady.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"] == []


# Same seed, same bytes.


def test_the_same_job_and_seed_give_the_same_file_and_curves(steady, plain_training):
    job = submit_training(steady, steady.inputs, seed=7, name="again", tags={"run": "2"})
    assert steady.wait(job)["status"] == "succeeded"
    assert model_digest(steady, job) == plain_training["digest"]
    assert curves(steady, job) == plain_training["curves"]


def test_another_seed_gives_another_file(steady, plain_training):
    job = submit_training(steady, steady.inputs, seed=8)
    assert steady.wait(job)["status"] == "succeeded"
    assert model_digest(steady, job) != plain_training["digest"]


def test_jobs_that_run_side_by_side_give_the_same_file_as_alone(start_server, plain_training):
    server = start_server("--workers", "3")
    inputs = upload(server)
    jobs = [submit_training(server, inputs, seed=7) for _ in range(3)]
    assert [server.wait(job)["status"] for job in jobs] == ["succeeded"] * 3
    assert {model_digest(server, job) for job in jobs} == {plain_training["digest"]}


@pytest.mark.parametrize("threads", [1])
def test_the_number_of_threads_changes_no_byte(start_server, plain_training, threads):
    server = start_server("--threads", threads)
    job = submit_training(server, upload(server), seed=7)
    assert server.wait(job)["status"] == "succeeded"
    assert model_digest(server, job) == plain_training["digest"]


def test_a_pipeline_killed_at_five_random_moments_gives_the_same_file_and_curves(
    start_server, plain_pipeline
):
    server = start_server(env=EVERY_EPOCH)
    job = submit_training(server, upload(server), PIPELINE, "pipeline", seed=7, max_attempts=100)
    moments = random.Random(5)

    def ended_or_child():
        return server.job(job)["status"] in END_STATES or job_children(server)

    for _ in range(5):
        found = wait_until(ended_or_child, what="a child or the end")
        if found is True:
            break
        time.sleep(moments.uniform(0.1, 0.8))
        send(found[0], signal.SIGKILL)
        wait_until(lambda: not is_alive(found[0]))
    ended = server.wait(job)
    assert ended["status"] == "succeeded", ended["error"]
    assert ended["attempt"] >= 2  # The job may end before the last kills, on a fast machine.
    assert "resumed" in event_types(server, job)
    assert model_digest(server, job) == plain_pipeline["digest"]
    assert curves(server, job) == plain_pipeline["curves"]


@pytest.mark.parametrize("steps", [1, 2])
def test_a_pipeline_killed_after_a_step_was_measured_goes_on_with_that_steps_model(
    start_server, steps
):
    train = {"kind": "train", "params": {"epochs": 1, "weights": "reinitialize"}}
    params = {"steps": [train, {"kind": "evaluate", "params": {}}][:steps]}
    server = start_server(env=EVERY_EPOCH)
    inputs = upload(server)
    plain = submit_training(server, inputs, params, "pipeline", seed=7)
    assert server.wait(plain)["status"] == "succeeded"
    job = submit_training(server, inputs, params, "pipeline", seed=7)
    server.wait_for(job, lambda seen: (seen["progress"] or {}).get("phase") == "measure")
    send(the_child(server), signal.SIGKILL)
    ended = server.wait(job)
    assert ended["status"] == "succeeded" and ended["attempt"] == 2
    assert "resumed" in event_types(server, job)
    assert ended["result"]["after"]["metrics"] == ended["result"]["steps"][-1]["after"]["metrics"]
    digest = model_digest(server, job)
    assert digest != inputs[0]["digest"], "the original was published as the trained model"
    assert digest == model_digest(server, plain)


def test_a_pipeline_drained_between_its_steps_publishes_what_it_trained(start_server):
    train = {"kind": "train", "params": {"epochs": 1, "weights": "reinitialize"}}
    # Seconds of measuring, to be stopped in the middle of it.
    steps = [train] + [{"kind": "evaluate", "params": {}}] * 31
    server = start_server()
    digits = np.load(DIGITS)
    many = io.BytesIO()
    np.savez(many, **{name: np.concatenate([digits[name]] * 20) for name in digits.files})
    inputs = server.upload_model(), server.upload_dataset(many.getvalue())
    job = submit_training(server, inputs, {"steps": steps}, "pipeline", seed=7)

    def measures_the_trained(seen):
        progress = seen["progress"] or {}
        return progress.get("phase") == "evaluate" and progress["fraction"] > 0.9

    server.wait_for(job, measures_the_trained)
    assert server.stop() == 0
    assert job_row(server, job)["status"] == "queued"
    server.start().wait_ready()
    ended = server.wait(job)
    assert ended["status"] == "succeeded" and ended["attempt"] == 1
    result = ended["result"]
    measured = [step["after"]["metrics"] for step in result["steps"]]
    assert measured == [result["after"]["metrics"]] * 32
    assert result["after"]["metrics"] != result["before"]["metrics"]


def test_a_resumed_job_has_no_point_twice_and_its_csv_agrees(start_server, plain_training):
    server = start_server(env=EVERY_EPOCH)
    job = submit_training(server, upload(server), seed=7)
    for count in (2, 5):
        wait_for_checkpoints(server, job, count)
        child = the_child(server)
        send(child, signal.SIGKILL)
        wait_until(lambda: not is_alive(child))
    assert server.wait(job)["status"] == "succeeded"
    found = curves(server, job)
    for name, points in found.items():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps)), name
    assert found == plain_training["curves"]
    rows = server.artifact(job, "metrics.csv").decode().splitlines()[1:]
    staged = {}
    for row in rows:
        name, step, value = row.split(",")
        staged.setdefault(name, []).append((int(step), float(value)))
    assert staged == found


def test_early_stopping_keeps_the_same_best_epoch_after_a_kill(start_server, steady):
    params = {
        "epochs": 12,
        "weights": "reinitialize",
        "early_stopping": {"patience": 2},
        "optimizer": {"name": "sgd", "learning_rate": 0.2, "momentum": 0.9},
    }
    plain = submit_training(steady, steady.inputs, params, seed=3)
    assert steady.wait(plain)["status"] == "succeeded"
    server = start_server(env=EVERY_EPOCH)
    job = submit_training(server, upload(server), params, seed=3)
    wait_for_checkpoints(server, job, 2)
    send(the_child(server), signal.SIGKILL)
    ended = server.wait(job)
    assert ended["status"] == "succeeded" and ended["attempt"] == 2
    assert "training_resumed" in event_types(server, job)
    assert curves(server, job) == curves(steady, plain)
    assert model_digest(server, job) == model_digest(steady, plain)


# The queue.


def test_higher_priorities_run_first_and_equal_ones_in_the_order_of_arrival(start_server):
    server = start_server()
    inputs = upload(server)
    blocker = submit_training(server, inputs, ENDLESS)
    wait_for_training(server, blocker, 1)
    jobs = {
        name: submit_training(server, inputs, {}, "evaluate", priority=priority)
        for name, priority in [("low", -5), ("first", 0), ("second", 0), ("high", 10)]
    }
    positions = {name: server.job(job)["queue_position"] for name, job in jobs.items()}
    assert positions == {"high": 1, "first": 2, "second": 3, "low": 4}
    assert server.post(f"/v1/jobs/{blocker['id']}/cancel").status_code == 202
    started = {name: server.wait(job)["started_at"] for name, job in jobs.items()}
    assert sorted(started, key=started.get) == ["high", "first", "second", "low"]


def test_two_workers_run_two_jobs_at_once_and_a_third_waits(start_server):
    server = start_server("--workers", "2")
    inputs = upload(server)
    jobs = [submit_training(server, inputs, ENDLESS) for _ in range(3)]
    for job in jobs[:2]:
        wait_for_training(server, job, 1)
    assert len(job_children(server)) == 2
    third = server.job(jobs[2])
    assert (third["status"], third["queue_position"]) == ("queued", 1)
    # An end makes room for it.
    assert server.post(f"/v1/jobs/{jobs[0]['id']}/cancel").status_code == 202
    server.wait_for(jobs[2], lambda seen: seen["status"] == "running")
    for job in jobs[1:]:
        assert server.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
        assert server.wait(job)["status"] == "canceled"
    assert job_children(server) == []


def test_a_second_server_on_the_same_folder_is_refused(steady):
    answer = run_sinter("serve", "--listen", "127.0.0.1:0", "--data-dir", steady.data_dir)
    assert answer.returncode != 0
    assert "in use" in answer.stderr and str(steady.data_dir.resolve()) in answer.stderr
    assert answer.stdout == ""
    assert steady.is_healthy()


def test_a_job_keeps_its_inputs_until_it_has_ended(steady):
    model, dataset = steady.upload_model(name="held"), steady.upload_dataset(name="held")
    job = submit_training(steady, (model, dataset), ENDLESS)
    wait_for_training(steady, job, 1)
    assert_problem(steady.delete(f"/v1/models/{model['id']}"), 409)
    assert_problem(steady.delete(f"/v1/datasets/{dataset['id']}"), 409)
    assert_problem(steady.delete(f"/v1/jobs/{job['id']}"), 409, "job_not_ended")
    assert steady.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    assert steady.wait(job)["status"] == "canceled"
    assert steady.delete(f"/v1/models/{model['id']}").status_code == 204
    assert_problem(steady.post(f"/v1/jobs/{job['id']}/retry"), 409, "model_not_found")


def test_a_server_with_open_event_streams_and_waiting_clients_still_stops_at_once(start_server):
    server = start_server()
    inputs = upload(server)
    job = submit_training(server, inputs, ENDLESS)
    wait_for_training(server, job, 1)
    stream = server.get(
        f"/v1/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"}, stream=True
    )
    assert stream.status_code == 200
    said = []

    def wait_long():
        answer = server.get(f"/v1/jobs/{job['id']}", headers={"Prefer": "wait=60"})
        said.append((answer.status_code, answer.json()["status"]))

    waiting = threading.Thread(target=wait_long)
    waiting.start()
    time.sleep(1)  # Until the server has been asked.
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 6
    waiting.join(60)
    assert said and said[0][0] == 200 and said[0][1] in {"running", "queued"}
    assert b"drained" in b"".join(stream.iter_content(None))
