"""`sinter submit`, `watch`, `get` and `ls`: a service used from a terminal, as a person or a script would."""

import hashlib
import http.server
import json
import os
import pty
import re
import select
import subprocess
import threading
import time

import numpy as np
import onnx
import pytest

import models
from conftest import DIGITS, DIGITS_CNN, Server, clean_environment, run_sinter, sinter_binary
from graph_tools import run
from lifecycle_tools import ENDLESS, wait_until

PRUNING = ("--set", "target.macs_ratio=0.5", "--set", "finetune.epochs=1", "--data", '{"preprocess": {"scale": 0.0625}}')


def test_what_the_service_has_already_goes_up_once(start_server, tmp_path):
    server = start_server()
    def submitted(*more, model=DIGITS_CNN, dataset=DIGITS):
        done = sinter(server, "submit", "evaluate", "--model", model, "--dataset", dataset, *more)
        assert done.returncode == 0, done.stderr
        request = server.get(f"/v1/jobs/{done.stdout.strip()}").json()["request"]
        return (request["model"], request["dataset"]), done.stderr

    first, told = submitted()
    assert told.count("uploaded") == 2
    again, told = submitted()
    assert again == first and told.count("is there already, as `digits") == 2 and "uploaded" not in told
    # Under another name it is the same file; by another target it is another data set.
    other = tmp_path / "other name.onnx"
    other.write_bytes(DIGITS_CNN.read_bytes())
    assert submitted(model=other)[0] == first
    table, model = tmp_path / "table.csv", tmp_path / "three.onnx"
    table.write_text("".join(["a,b,first,second\n", *(f"{n},{n * n},{n % 2},{n % 3}\n" for n in range(60))]))
    model.write_bytes(models.mlp(3, 4, 3))
    by_last, told = submitted(model=model, dataset=table)
    by_first, told = submitted("--target", "first", model=model, dataset=table)
    assert by_first[0] == by_last[0] and by_first[1] != by_last[1] and told.count("uploaded") == 1
    # Which columns were chosen can't be seen of a table, but of arrays.
    assert submitted(model=model, dataset=table)[0][1] not in (by_first[1], by_last[1])
    arrays = tmp_path / "arrays.npz"
    x = np.arange(180, dtype=np.float32).reshape(60, 3)
    arrays.write_bytes(models.npz(x=x, y=np.arange(60) % 2, other=np.arange(60) % 3))
    alone = tmp_path / "alone.npz"
    alone.write_bytes(models.npz(x=x, y=np.arange(60) % 2))
    one, told = submitted(model=model, dataset=alone)
    assert submitted(model=model, dataset=alone)[0] == one and told.count("uploaded") == 1
    assert submitted("--target", "y", model=model, dataset=alone)[0] == one


@pytest.fixture
def model_id(digits_model):
    return digits_model["id"]


@pytest.fixture
def data_id(digits):
    return digits["id"]


def sinter(server, *arguments, env=None, **options):
    return run_sinter(*arguments, env={"SINTER_URL": server.url, **(env or {})}, **options)


def test_a_job_is_submitted_followed_and_fetched_from_files(server, tmp_path):
    done = sinter(server, "submit", "prune", "--model", DIGITS_CNN, "--dataset", DIGITS, "--name", "half", *PRUNING,
                  "--seed", "3", "--tag", "asked-by=terminal", "--output", tmp_path / "out", timeout=120)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    job = server.get(f"/v1/jobs/{lines[0]}").json()
    assert job["status"] == "succeeded" and job["name"] == "half"
    assert job["request"]["seed"] == 3 and job["request"]["tags"] == {"asked-by": "terminal"}
    assert job["request"]["params"]["target"] == {"macs_ratio": 0.5}
    assert job["request"]["data"]["preprocess"]["scale"] == 0.0625
    # A table with the accuracies, then the files.
    accuracy = job["result"]["after"]["metrics"]["accuracy"]
    assert any("half" in line and f"{accuracy:.4f}" in line for line in lines), done.stdout
    assert lines[-2:] == [str(tmp_path / "out" / name) for name in ("model.onnx", "report.html")]
    model = tmp_path / "out" / "model.onnx"
    digests = {each["name"]: each["digest"] for each in server.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]}
    assert "sha256:" + hashlib.sha256(model.read_bytes()).hexdigest() == digests["model.onnx"]
    assert run(model.read_bytes(), np.zeros((2, 1, 8, 8), np.float32))[0].shape == (2, 10)
    assert oct(model.stat().st_mode & 0o777) == oct(0o666 & ~current_mask())
    # Another test may have uploaded the same files to this server.
    assert done.stderr.count("uploaded") + done.stderr.count("is there already") == 2 and "half: running" in done.stderr


def current_mask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_models_and_data_sets_are_found_by_name(server, model_id, data_id):
    name = server.get(f"/v1/models/{model_id}").json()["name"]
    data = server.get(f"/v1/datasets/{data_id}").json()["name"]
    done = sinter(server, "submit", "evaluate", "--model", name, "--dataset", data)
    assert done.returncode == 0, done.stderr
    job = server.get(f"/v1/jobs/{done.stdout.strip()}").json()
    assert server.get(f"/v1/models/{job['request']['model']}").json()["name"] == name
    missing = sinter(server, "submit", "evaluate", "--model", "no such model", "--dataset", data)
    assert missing.returncode == 1 and "no model called `no such model`" in missing.stderr


def test_a_model_with_external_data_goes_up_with_its_parts(server, tmp_path):
    model = onnx.load(str(DIGITS_CNN))
    onnx.save_model(model, str(tmp_path / "net.onnx"), save_as_external_data=True, location="weights.bin",
                    size_threshold=0)
    done = sinter(server, "submit", "evaluate", "--model", tmp_path / "net.onnx", "--model-data", tmp_path / "weights.bin",
                  "--dataset", DIGITS, "--data", '{"preprocess": {"scale": 0.0625}}', "--watch", timeout=60)
    assert done.returncode == 0, done.stderr
    job = server.get(f"/v1/jobs/{done.stdout.split()[0]}").json()
    assert job["result"]["before"]["metrics"]["accuracy"] > 0.9
    alone = sinter(server, "submit", "evaluate", "--model", tmp_path / "net.onnx", "--dataset", DIGITS)
    assert alone.returncode == 1 and "external_data_missing" in alone.stderr


def test_external_data_beside_the_model_goes_up_by_itself(server, tmp_path):
    model = onnx.load(str(DIGITS_CNN))
    onnx.save_model(model, str(tmp_path / "net.onnx"), save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    done = sinter(server, "submit", "evaluate", "--model", tmp_path / "net.onnx", "--dataset", DIGITS)
    assert done.returncode == 0, done.stderr


def test_the_target_of_a_table_can_be_named(server, tmp_path):
    table = tmp_path / "table.csv"
    rows = [f"{'even' if n % 2 else 'odd'},{n % 5},{n % 3}" for n in range(40)]
    table.write_text("\n".join(["parity,a,b", *rows]))
    linear = onnx.helper.make_model(onnx.helper.make_graph(
        [onnx.helper.make_node("Gemm", ["x", "w"], ["y"])], "linear",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 2])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 2])],
        [onnx.numpy_helper.from_array(np.ones((2, 2), np.float32), "w")]),
        opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(linear, tmp_path / "linear.onnx")
    named = sinter(server, "submit", "train", "--model", tmp_path / "linear.onnx", "--dataset", table, "--target", "parity",
                   "--set", "epochs=1", "--watch", timeout=60)
    assert named.returncode == 0, named.stderr
    job = server.get(f"/v1/jobs/{named.stdout.split()[0]}").json()
    target = server.get(f"/v1/datasets/{job['request']['dataset']}").json()["target"]
    assert target["name"] == "parity" and target["classes"] == 2
    there = job["request"]["dataset"]
    # Of a data set that is there the files are read again, unless it is so already.
    target_of = lambda done: server.get(f"/v1/datasets/{server.get(f'/v1/jobs/{done.stdout.strip()}').json()['request']['dataset']}").json()
    same = sinter(server, "submit", "train", "--model", "linear", "--dataset", there, "--target", "parity")
    assert same.returncode == 0 and target_of(same)["id"] == there, same.stderr
    numbers = server.upload_dataset(b"a,b,c\n" + b"".join(b"%d,%d,%d\n" % (n % 2, n, n % 3) for n in range(40)), "numbers to read again")
    other = sinter(server, "submit", "train", "--model", "linear", "--dataset", numbers["name"], "--target", "a", "--set", "epochs=1")
    assert f"read the files of {numbers['id']} again as" in other.stderr, other.stderr
    assert target_of(other)["target"]["name"] == "a" and target_of(other)["name"] == numbers["name"]
    none = sinter(server, "submit", "prune", "--model", "linear", "--target", "parity")
    assert none.returncode == 1 and "--target goes with a --dataset" in none.stderr


def test_what_is_wrong_with_a_request_is_told_before_its_files_go_up(server):
    def there():
        return [[each["id"] for each in server.get(f"/v1/{kind}", params={"limit": 100}).json()["data"]] for kind in ("models", "datasets")]

    before = there()
    done = sinter(server, "submit", "prune", "--model", DIGITS_CNN, "--dataset", DIGITS, "--set", "target.macs_ratio=7")
    assert done.returncode == 1 and "/params/target/macs_ratio" in done.stderr
    assert "uploaded" not in done.stderr and there() == before


def test_models_within_parameters_are_names_or_files(server, data_id, tmp_path):
    large = server.upload_model(DIGITS_CNN, f"large {tmp_path}")
    small = tmp_path / "small.onnx"
    small.write_bytes(models.mlp(64, 8, 10))
    parameters = ("--set", f"student.model={small}", "--set", f'teachers=["{large["name"]}"]', "--set", "finetune.epochs=1")
    arguments = ("submit", "distill", "--model", DIGITS_CNN, "--dataset", data_id, *parameters)
    refused = sinter(server, *arguments, "--set", "average=sum")
    assert refused.returncode == 1 and "/params/average" in refused.stderr
    assert "no model" not in refused.stderr and "uploaded" not in refused.stderr
    done = sinter(server, *arguments, "--data", '{"preprocess": {"scale": 0.0625}}')
    assert done.returncode == 0, done.stderr
    params = server.get(f"/v1/jobs/{done.stdout.strip()}").json()["request"]["params"]
    assert params["teachers"] == [large["id"]]
    assert server.get(f"/v1/models/{params['student']['model']}").json()["name"] == "small"
    unknown = sinter(server, *arguments, "--set", "student.model=nosuch.onnx")
    assert unknown.returncode == 1 and "no model called `nosuch.onnx`" in unknown.stderr


def test_what_the_service_has_is_renamed_stopped_and_removed(start_server):
    server = start_server()
    model, data = server.upload_model(DIGITS_CNN, "first"), server.upload_dataset(DIGITS, "numbers")
    renamed = sinter(server, "rename", "model", "first", "second")
    assert renamed.returncode == 0 and renamed.stdout.strip() == model["id"], renamed.stderr
    assert server.get(f"/v1/models/{model['id']}").json()["name"] == "second"
    assert sinter(server, "rename", "dataset", data["id"], "digits").returncode == 0
    assert "keeps the name" in sinter(server, "rename", "job", "a", "b").stderr
    both = sinter(server, "upload", "model", DIGITS_CNN, "--name", "up"), sinter(server, "upload", "dataset", DIGITS, "--target", "y")
    assert [done.returncode for done in both] == [0, 0], both
    up, down = (done.stdout.strip() for done in both)
    assert server.get(f"/v1/models/{up}").json()["name"] == "up" and server.get(f"/v1/datasets/{down}").json()["name"] == "digits"
    assert "there is no file `nosuch.onnx`" in sinter(server, "upload", "model", "nosuch.onnx").stderr
    ambiguous = sinter(server, "rename", "dataset", "digits", "x")
    assert ambiguous.returncode == 1 and down in ambiguous.stderr and data["id"] in ambiguous.stderr
    assert sinter(server, "rm", "model", "up", up).returncode == 0 and sinter(server, "rm", "dataset", down).returncode == 0
    endless = server.submit("train", model["id"], data["id"], params=ENDLESS, name="endless")
    stopped = sinter(server, "cancel", "endless")
    assert stopped.returncode == 0, stopped.stderr
    assert server.wait(endless)["status"] == "canceled"
    ended = server.wait(server.submit("evaluate", model["id"], data["id"]))
    running = server.submit("train", model["id"], data["id"], params=ENDLESS)
    mixed = sinter(server, "cancel", ended["id"], running["id"])
    assert mixed.returncode == 1 and "job_already_ended" in mixed.stderr and mixed.stdout.strip() == running["id"]
    assert server.wait(running)["status"] == "canceled"
    retried = sinter(server, "retry", running["id"])
    assert retried.returncode == 0 and server.get(f"/v1/jobs/{running['id']}").json()["status"] in ("queued", "running"), retried.stderr
    sinter(server, "cancel", running["id"])
    server.wait(running)
    server.delete(f"/v1/jobs/{running['id']}")
    server.delete(f"/v1/jobs/{ended['id']}")
    by_name = sinter(server, "ls", "--model", "second", "--dataset", "digits", "--name", "endless", "--json")
    assert [job["id"] for job in json.loads(by_name.stdout)] == [endless["id"]], by_name.stderr
    assert json.loads(sinter(server, "ls", "models", "--name", "first", "--json").stdout) == []
    assert "--model is for jobs" in sinter(server, "ls", "datasets", "--model", model["id"]).stderr
    # A name that several have removes none of them.
    twins = [server.upload_model(DIGITS_CNN, "twin")["id"] for _ in range(2)]
    both = sinter(server, "rm", "model", "second", "twin")
    assert both.returncode == 1 and "several are called `twin`" in both.stderr
    assert len(server.get("/v1/models").json()["data"]) == 3
    assert sinter(server, "rm", "model", "second", *twins).returncode == 0
    assert sinter(server, "rm", "job", "endless").returncode == 0 and sinter(server, "rm", "dataset", "digits").returncode == 0
    assert [server.get(f"/v1/{kind}").json()["data"] for kind in ("jobs", "models", "datasets")] == [[], [], []]
    gone = sinter(server, "rm", "dataset", "digits")
    assert gone.returncode == 1 and "there is no data set `digits`" in gone.stderr


def test_uploads_of_a_job_that_is_refused_are_removed(start_server):
    server = start_server()
    # Only the data set shows that it has no three channels.
    done = sinter(server, "submit", "evaluate", "--model", DIGITS_CNN, "--dataset", DIGITS, "--data", '{"preprocess": {"mean": [1, 2, 3]}}')
    assert done.returncode == 1 and "/data/preprocess/mean" in done.stderr and "was removed again" in done.stderr
    assert [server.get(f"/v1/{kind}").json()["data"] for kind in ("models", "datasets")] == [[], []]
    # What was there before stays.
    model = server.upload_model(DIGITS_CNN, "mine")
    done = sinter(server, "submit", "evaluate", "--model", "mine", "--dataset", DIGITS, "--data", '{"preprocess": {"mean": [1, 2, 3]}}')
    assert done.returncode == 1 and [one["id"] for one in server.get("/v1/models").json()["data"]] == [model["id"]]


def test_folders_and_files_that_belong_together_go_up_as_one_data_set(server, tmp_path):
    texts = {"cats": ["a cat sat", "cats sit", "the cat"], "dogs": ["a dog ran", "dogs run", "the dog"]}
    for name, lines in texts.items():
        (tmp_path / "pets" / name).mkdir(parents=True)
        for n, line in enumerate(lines * 5):
            (tmp_path / "pets" / name / f"{n}.txt").write_text(f"{line} {n}")
    done = sinter(server, "upload", "dataset", tmp_path / "pets")
    assert done.returncode == 0, done.stderr
    found = server.get(f"/v1/datasets/{done.stdout.strip()}").json()
    assert (found["name"], found["format"], found["splits"]["train"]) == ("pets", "texts", 30)
    assert found["target"]["class_names"] == ["cats", "dogs"]
    turned = sinter(server, "upload", "dataset", tmp_path / "pets", "--classes", "dogs,cats", "--name", "turned")
    assert server.get(f"/v1/datasets/{turned.stdout.strip()}").json()["target"]["class_names"] == ["dogs", "cats"]
    for split, count in (("train", 40), ("test", 20)):
        rows = "".join(f"{n},{n * n},{n % 2}\n" for n in range(count))
        (tmp_path / f"{split}.csv").write_text(f"a,b,label\n{rows}")
    model = tmp_path / "two.onnx"
    model.write_bytes(models.mlp(2, 4, 2))
    done = sinter(server, "submit", "evaluate", "--model", model, "--dataset", tmp_path / "train.csv", "--dataset", tmp_path / "test.csv")
    assert done.returncode == 0, done.stderr
    dataset = server.get(f"/v1/jobs/{done.stdout.strip()}").json()["request"]["dataset"]
    assert server.get(f"/v1/datasets/{dataset}").json()["splits"] == {"train": 40, "test": 20}
    alike = sinter(server, "upload", "dataset", tmp_path / "pets" / "cats" / "0.txt", tmp_path / "pets" / "dogs" / "0.txt")
    assert alike.returncode == 1 and "name the folder" in alike.stderr
    (tmp_path / "gaps.csv").write_text("a,b,label\n1,,0\n" + "".join(f"{n},{n},{n % 2}\n" for n in range(20)))
    assert "damaged skip" in sinter(server, "upload", "dataset", tmp_path / "gaps.csv").stderr
    done = sinter(server, "upload", "dataset", tmp_path / "gaps.csv", "--damaged", "skip")
    assert done.returncode == 0 and "its target is `label`" in done.stderr and "1 example can't be used" in done.stderr


def test_a_model_is_asked_about_examples(server, model_id, data_id, tmp_path):
    scale = ("--preprocess", '{"scale": 0.0625}')
    done = sinter(server, "predict", model_id, "--dataset", data_id, "--example", "0", "--example", "5", *scale)
    assert done.returncode == 0, done.stderr
    labels = models.digits()["y_test"]
    for place, line in zip((0, 5), done.stdout.splitlines(), strict=True):
        assert line.startswith(f"example {place}: {labels[place]} ") and line.endswith(f"the data set says {labels[place]}"), line
    body = tmp_path / "body.json"
    body.write_text(json.dumps({"inputs": {"input": np.zeros((1, 1, 8, 8)).tolist()}}))
    whole = sinter(server, "predict", model_id, body, "--json")
    assert json.loads(whole.stdout)["outputs"][0]["shape"] == [1, 10], whole.stderr
    for arguments, says in (
        ((model_id,), "required"), (("no such model", body), "there is no model"), ((model_id, "nosuch.png"), "can't read `nosuch.png`"),
        ((model_id, "--dataset", data_id, "--example", "999"), "0 to 359"), ((model_id, "--text", "a"), "no tokens"),
    ):
        wrong = sinter(server, "predict", *arguments)
        assert wrong.returncode in (1, 2) and says in wrong.stderr, wrong.stderr


def test_jobs_on_several_models_stand_beside_their_own(server, model_id, data_id, tmp_path):
    other = server.upload_model(models.mlp(64, 8, 10), "other")
    params = {"epochs": 1}
    jobs = [server.run("train", model, data_id, params, name=name, data={"preprocess": {"scale": 0.0625}})
            for model, name in ((model_id, "first"), (other["id"], "second"), (model_id, "third"))]
    done = sinter(server, "watch", *(job["id"] for job in jobs))
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in re.split("[│┆]", line)] for line in done.stdout.splitlines() if line.startswith("│")]
    by_name = {cells[1]: cells for cells in rows}
    of = lambda job: f"{job['result']['before']['metrics']['accuracy']:.4f}"
    assert by_name["before first, third"][-2] == of(jobs[0]) and by_name["before second"][-2] == of(jobs[1])


def test_a_name_of_something_else_or_of_several_is_told(server, data_id):
    data = server.upload_dataset(name="no model is called so")["name"]
    other = sinter(server, "submit", "evaluate", "--model", data, "--dataset", data)
    assert other.returncode == 1 and "a data set is" in other.stderr
    twins = [server.upload_model(name="one of two")["id"] for _ in range(2)]
    done = sinter(server, "submit", "evaluate", "--model", "one of two", "--dataset", data_id)
    assert done.returncode == 0 and f"the newest is taken, {twins[1]}" in done.stderr, done.stderr


def test_what_a_job_warns_of_is_told_at_its_end(server, data_id, tmp_path):
    model = onnx.load(str(DIGITS_CNN))
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    done = sinter(server, "submit", "train", "--model", tmp_path / "one.onnx", "--dataset", data_id, "--set", "epochs=1",
                  "--data", '{"limit": 50, "preprocess": {"scale": 0.0625}}', "--watch", timeout=120)
    assert done.returncode == 0, done.stderr
    assert "warning: the model's file fixes its batch size" in done.stderr


def test_a_plan_is_printed_without_a_job(server, model_id, data_id):
    before = len(server.get("/v1/jobs", params={"limit": 100}).json()["data"])
    done = sinter(server, "submit", "prune", "--model", model_id, "--dataset", data_id, "--dry-run",
                  "--params", '{"target": {"macs_ratio": 0.5}, "criterion": "magnitude"}')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["plan"]["after"]["macs"] <= 0.5 * json.loads(done.stdout)["plan"]["before"]["macs"]
    assert len(server.get("/v1/jobs", params={"limit": 100}).json()["data"]) == before


def test_what_the_service_refuses_is_told_with_its_place(server, model_id, data_id):
    done = sinter(server, "submit", "prune", "--model", model_id, "--dataset", data_id, "--set", "target.macs_ratio=7")
    assert done.returncode == 1
    assert "422" in done.stderr and "/params/target/macs_ratio" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments, words", [
    (("submit", "prune", "--model", "x", "--set", "target"), "must be like name=value"),
    (("submit", "prune", "--model", "x", "--params", "[1]"), "must be a JSON object"),
    (("submit", "prune", "--model", "x", "--params", "@/no/such/file"), "can't read `/no/such/file`"),
    (("watch", "no such job"), "there is no job `no such job`"),
    (("ls", "--url", "ftp://x"), "--url is like http://127.0.0.1:8080"),
    (("ls", "models", "--status", "failed"), "--status is for jobs"),
])
def test_arguments_that_can_not_be_right_are_refused(server, arguments, words):
    done = sinter(server, *arguments)
    assert done.returncode in (1, 2) and words in done.stderr


def test_a_job_that_fails_or_is_canceled_is_no_success(server, model_id, data_id):
    job = server.submit("train", model_id, data_id, params=ENDLESS)
    watching = subprocess.Popen([sinter_binary(), "watch", job["id"], "--json"], env=clean_environment({"SINTER_URL": server.url}),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: server.get(f"/v1/jobs/{job['id']}").json()["status"] == "running", what="a start")
    server.post(f"/v1/jobs/{job['id']}/cancel")
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 1 and "1 of 1 jobs did not succeed" in err
    assert [each["status"] for each in json.loads(out)] == ["canceled"]


def test_watching_goes_on_through_a_restart(start_server):
    first = start_server()
    model, data = first.upload_model(DIGITS_CNN), first.upload_dataset(DIGITS)
    job = first.submit("train", model, data, params={"epochs": 40})
    watching = subprocess.Popen([sinter_binary(), "watch", job["id"]], env=clean_environment({"SINTER_URL": first.url}),
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: first.get(f"/v1/jobs/{job['id']}").json()["status"] == "running", what="a start")
    port = first.url.rsplit(":", 1)[1]
    first.stop()
    time.sleep(1.5)
    first.listen = f"127.0.0.1:{port}"
    first.start()
    out, err = watching.communicate(timeout=300)
    assert watching.returncode == 0, err
    # Who has no name is told by kind and the end of the id.
    assert job["id"][-8:] in out.replace("\n", "")


def test_a_terminal_gets_a_live_bar(server, model_id, data_id):
    job = server.submit("train", model_id, data_id, params={"epochs": 8})
    controller, terminal = pty.openpty()
    watching = subprocess.Popen([sinter_binary(), "watch", job["id"]], stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal,
                                env=clean_environment({"SINTER_URL": server.url, "TERM": "xterm", "COLUMNS": "120"}))
    os.close(terminal)
    shown = b""
    while watching.poll() is None or select.select([controller], [], [], 0.2)[0]:
        if select.select([controller], [], [], 0.2)[0]:
            try:
                shown += os.read(controller, 65536)
            except OSError:
                break
    assert watching.wait(60) == 0
    text = shown.decode()
    assert "[" in text and " % " in text and "epoch" in text and "succeeded" in text


def test_lists_are_tables_or_json_and_page_on(server, model_id, data_id):
    jobs = [server.submit("evaluate", model_id, data_id, name=f"row {n}", tags={"for": "ls"})["id"] for n in range(3)]
    for job in jobs:
        server.wait({"id": job}, 60)
    listed = sinter(server, "ls", "--tag", "for:ls", "--limit", "2", "--json")
    cut, whole = (sinter(server, "ls", "--tag", "for:ls", "--limit", limit).stderr for limit in ("2", "3"))
    assert "there are more; --limit 4 shows twice as many" in cut and whole == ""
    watched = sinter(server, "watch", "row 1", "--json")
    assert watched.returncode == 0 and [each["id"] for each in json.loads(watched.stdout)] == jobs[1:2], watched.stderr
    assert [each["id"] for each in json.loads(listed.stdout)] == jobs[:0:-1]
    table = sinter(server, "ls", "jobs", "--status", "succeeded", "--kind", "evaluate", "--tag", "for").stdout.splitlines()
    assert table[0].split() == ["id", "kind", "name", "status", "progress", "created"]
    assert [line.split()[0] for line in table[1:]] == jobs[::-1]
    assert all("100 %" in line or "–" in line for line in table[1:])
    models = sinter(server, "ls", "models", "--limit", "2000").stdout
    assert model_id in models and "nonzero parameters" in models
    assert data_id in sinter(server, "ls", "datasets", "--limit", "2000").stdout


def test_artifacts_and_models_are_fetched_by_id(server, model_id, data_id, tmp_path):
    job = server.submit("prune", model_id, data_id, name=f"fetched {data_id}",
                        params={"target": {"macs_ratio": 0.5}, "finetune": {"epochs": 1}})
    job = server.wait(job, 60)
    named = sinter(server, "get", job["id"], "report.json", "metrics.csv", "--output", tmp_path / "some")
    assert named.returncode == 0, named.stderr
    assert sorted(path.name for path in (tmp_path / "some").iterdir()) == ["metrics.csv", "report.json"]
    named = sinter(server, "get", job["name"], "metrics.csv", "--output", tmp_path / "by name")
    assert named.returncode == 0, named.stderr
    assert (tmp_path / "by name" / "metrics.csv").read_bytes() == (tmp_path / "some" / "metrics.csv").read_bytes()
    assert sinter(server, "get", job["id"], "all", "--output", tmp_path / "all").returncode == 0
    known = {each["name"] for each in server.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]}
    assert {path.name for path in (tmp_path / "all").iterdir()} == known
    unknown = sinter(server, "get", job["id"], "nothing.txt")
    assert unknown.returncode == 1 and "it has" in unknown.stderr and "model.onnx" in unknown.stderr
    fetched = sinter(server, "get", model_id, "--output", tmp_path / "model")
    assert fetched.returncode == 0, fetched.stderr
    assert [path.read_bytes() for path in (tmp_path / "model").iterdir()] == [DIGITS_CNN.read_bytes()]
    name = f"named {model_id}"
    by_name = server.upload_model(DIGITS_CNN, name)["id"]
    assert json.loads(sinter(server, "get", name, "--json").stdout)["id"] == by_name
    assert json.loads(sinter(server, "get", job["id"], "--json").stdout)["id"] == job["id"]
    # Of a job and the model that it made the job is taken.
    both = sinter(server, "get", job["name"], "--output", tmp_path / "both")
    assert both.returncode == 0 and "is a job and a model" not in both.stderr, both.stderr
    assert sorted(path.name for path in (tmp_path / "both").iterdir()) == ["model.onnx", "report.html"]
    other = server.upload_model(DIGITS_CNN, job["name"])["id"]
    about = sinter(server, "get", job["name"], "--json")
    assert json.loads(about.stdout)["id"] == job["id"] and f"the model is {other}" in about.stderr
    (tmp_path / "both" / "model.onnx").unlink()
    again = sinter(server, "get", job["name"], "--output", tmp_path / "both")
    assert again.returncode == 1 and "report.html` is there already" in again.stderr
    assert not (tmp_path / "both" / "model.onnx").exists()
    nobody = sinter(server, "get", "00000000-0000-7000-8000-000000000000")
    assert nobody.returncode == 1 and "there is no job and no model" in nobody.stderr
    nameless = sinter(server, "get", "no such name")
    assert nameless.returncode == 1 and "there is no job and no model `no such name`" in nameless.stderr


def test_whether_a_teacher_helped_is_told(server, model_id, data_id):
    done = sinter(server, "submit", "distill", "--model", model_id, "--dataset", data_id, "--watch", "--set", "student.width=0.5",
                  "--set", "control=true", "--set", "finetune.epochs=2", "--name", "half as wide", timeout=300)
    assert done.returncode == 0, done.stderr
    result = server.get(f"/v1/jobs/{done.stdout.split()[0]}").json()["result"]
    outcome = result["distill"]
    both = outcome["comparison"]
    verdict = "it made no difference" if both["value"] == both["control"] \
        else "it made no difference that can be told from chance" if not outcome["significant"] \
        else "it helped" if outcome["helped"] else "it did not help"
    reached = outcome["control"]["metrics"]["accuracy"]
    own = result["after"]["metrics"]["accuracy"]
    told = f"half as wide: {verdict}: accuracy {own:.4f}, and {reached:.4f} of the control, the same student without a teacher"
    assert told in done.stdout


def test_the_table_of_a_search_names_its_winner_and_of_a_regression_its_error(server, model_id, data_id):
    space = {"space": {"hyperparameters": {"learning_rate": {"log_uniform": [1e-3, 1e-2]}}}, "trials": 2, "trial": {"epochs": 1},
             "final": {"epochs": 1}, "evaluation": {"method": "holdout"}, "strategy": {"name": "random"}}
    done = sinter(server, "submit", "search", "--model", model_id, "--dataset", data_id, "--watch", "--name", "rate",
                  "--params", json.dumps(space), timeout=120)
    assert done.returncode == 0, done.stderr
    best = server.get(f"/v1/jobs/{done.stdout.split()[0]}").json()["result"]["search"]["best"][0]
    rate = best["config"]["learning_rate"]
    [shown] = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith(f"rate: trial {best['trial']} won: learning_rate ")]
    assert float(shown) == pytest.approx(rate, rel=0.01) and len(shown) < 8
    x = np.random.default_rng(0).normal(0, 1, (60, 3)).astype(np.float32)
    parts = {f"{kind}_{split}": values for split in ("train", "test") for kind, values in (("x", x), ("y", x + 1.5))}
    data = server.upload_dataset(models.npz(**parts), "shifted")
    line = server.upload_model(models.identity(("batch", 3)), "line")
    done = sinter(server, "submit", "evaluate", "--model", line["id"], "--dataset", data["id"], "--data",
                  '{"preprocess": {"scale": 1}}', "--watch")
    assert done.returncode == 0, done.stderr
    assert "mean absolute error" in done.stdout and "1.5000" in done.stdout and "accuracy" not in done.stdout
    # The mean of the targets is nearer to them.
    assert "warning: the model as it came is further from the targets" in done.stderr and "R2 -" in done.stderr


def test_a_key_is_sent_and_never_shown(start_server, tmp_path):
    server = start_server("--api-keys", "a-key-for-all")
    refused = sinter(server, "ls")
    assert refused.returncode == 1 and "401" in refused.stderr
    assert sinter(server, "ls", env={"SINTER_KEY": "a-key-for-all"}).returncode == 0
    wrong = sinter(server, "ls", env={"SINTER_KEY": "not-the-key"})
    assert wrong.returncode == 1 and "not-the-key" not in wrong.stderr
    assert "a-key-for-all" not in sinter(server, "ls", "--help", env={"SINTER_KEY": "a-key-for-all"}).stdout


class Between:
    """A proxy that lets the answers to some POSTs, counted from 1, be lost, and gives back what files it is told to give back wrong."""

    def __init__(self, url, lost=(), wrong=False, elsewhere=None, busy=0):
        import http.client

        host, port = url.removeprefix("http://").split(":")
        between = self
        self.posts, self.gets, self.seen = [], 0, []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                between.seen.append((self.path, self.headers.get("Authorization")))
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                upstream = http.client.HTTPConnection(host, int(port), timeout=30)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                upstream.request(self.command, self.path, body, {**headers, "Host": f"{host}:{port}"})
                response = upstream.getresponse()
                content = response.read()
                if self.command == "POST":
                    between.posts.append(self.headers.get("Idempotency-Key"))
                    if len(between.posts) in lost:
                        self.close_connection = True
                        self.connection.close()
                        return
                if elsewhere and self.path.endswith("/artifacts"):
                    content = content.replace(b'"url":"/', f'"url":"{elsewhere}/'.encode())
                between.gets += self.command == "GET"
                if self.command == "GET" and between.gets <= busy:
                    # As a gateway says it whose server begins anew.
                    self.send_response(502)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if wrong and self.path.endswith("/content"):
                    content = b"x" + content[1:]
                self.send_response(response.status)
                self.send_header("Content-Type", response.headers.get("Content-Type", ""))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_a_lost_answer_makes_nothing_twice(start_server):
    server = start_server()
    between = Between(server.url, lost=(2, 5))
    done = run_sinter("submit", "evaluate", "--url", between.url, "--model", DIGITS_CNN, "--dataset", DIGITS)
    assert done.returncode == 0, done.stderr
    # The request itself comes before its files. Answers to the first upload and to the job were lost; both were sent
    # again under the same key.
    first, model, again, data, job, once_more = between.posts
    assert model == again and job == once_more and len({first, model, data, job}) == 4
    assert len(server.get("/v1/models").json()["data"]) == 1
    assert len(server.get("/v1/jobs").json()["data"]) == 1


def test_a_busy_service_or_gateway_ends_no_watching(start_server):
    server = start_server("--requests-per-minute", "60", "--api-keys", "k")
    server.key = "k"
    job = server.submit("train", server.upload_model(DIGITS_CNN), server.upload_dataset(DIGITS), params={"epochs": 60})
    done = run_sinter("watch", job["id"], env={"SINTER_URL": server.url, "SINTER_KEY": "k"}, timeout=300)
    assert done.returncode == 0, done.stderr
    behind = Between(server.url, busy=3)
    done = run_sinter("watch", job["id"], env={"SINTER_URL": behind.url, "SINTER_KEY": "k"}, timeout=120)
    assert done.returncode == 0 and "no answer, asking again" in done.stderr


def test_nobody_there_is_told_soon(tmp_path):
    begun = time.monotonic()
    done = run_sinter("watch", "00000000-0000-7000-8000-000000000000", env={"SINTER_URL": "http://127.0.0.1:9"}, timeout=60)
    assert done.returncode == 1 and "failed" in done.stderr and time.monotonic() - begun < 30


def test_the_key_goes_to_the_service_alone(start_server, tmp_path):
    server = start_server("--api-keys", "secret-key")
    server.key = "secret-key"
    job = server.run("prune", server.upload_model(DIGITS_CNN), server.upload_dataset(DIGITS),
                     {"target": {"macs_ratio": 0.5}, "finetune": {"epochs": 1}})
    thief = Between(server.url)
    between = Between(server.url, elsewhere=thief.url)
    done = run_sinter("get", job["id"], "--output", tmp_path / "out",
                      env={"SINTER_URL": between.url, "SINTER_KEY": "secret-key"})
    assert done.returncode == 1 and "no path of this service" in done.stderr
    assert thief.seen == [] and list((tmp_path / "out").iterdir()) == []

    class Moved(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(301)
            self.send_header("Location", thief.url + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET

        def log_message(self, *_):
            pass

    moved = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moved)
    threading.Thread(target=moved.serve_forever, daemon=True).start()
    done = run_sinter("ls", env={"SINTER_URL": f"http://127.0.0.1:{moved.server_port}", "SINTER_KEY": "secret-key"})
    assert done.returncode == 1 and thief.url in done.stderr and "final address" in done.stderr
    assert thief.seen == []


def test_why_a_large_upload_is_refused_is_heard(start_server, tmp_path):
    server = start_server("--api-keys", "right", "--max-upload-bytes", "1000000")
    large = tmp_path / "large.npz"
    large.write_bytes(os.urandom(64 << 20))
    begun = time.monotonic()
    for key, status in (("wrong", "401"), ("right", "413")):
        done = run_sinter("submit", "evaluate", "--model", DIGITS_CNN, "--dataset", large,
                          env={"SINTER_URL": server.url, "SINTER_KEY": key}, timeout=60)
        assert done.returncode == 1 and status in done.stderr, done.stderr
    assert time.monotonic() - begun < 30


def test_files_are_replaced_only_when_asked(server, model_id, tmp_path):
    assert sinter(server, "get", model_id, "--output", tmp_path).returncode == 0
    (kept,) = tmp_path.iterdir()
    kept.write_bytes(b"mine")
    again = sinter(server, "get", model_id, "--output", tmp_path)
    assert again.returncode == 1 and "--force" in again.stderr and kept.read_bytes() == b"mine"
    assert sinter(server, "get", model_id, "--output", tmp_path, "--force").returncode == 0
    assert kept.read_bytes() == DIGITS_CNN.read_bytes()


def test_a_folder_hides_no_model_and_nothing_goes_up_for_nothing(server, model_id, data_id, tmp_path):
    name = server.get(f"/v1/models/{model_id}").json()["name"]
    (tmp_path / name).mkdir()
    plan = '{"dry_run": true}'
    done = sinter(server, "submit", "prune", "--model", name, "--dataset", data_id, "--set", "target.macs_ratio=0.5",
                  "--request", plan, cwd=tmp_path)
    assert done.returncode == 0 and "plan" in json.loads(done.stdout), done.stderr
    (tmp_path / "network").mkdir()
    before = len(server.get("/v1/models", params={"limit": 100}).json()["data"])
    done = sinter(server, "submit", "evaluate", "--model", "network", "--dataset", DIGITS, cwd=tmp_path)
    assert done.returncode == 1 and "a folder is no model" in done.stderr
    assert len(server.get("/v1/models", params={"limit": 100}).json()["data"]) == before


def test_health_asks_the_service_of_the_same_environment(start_server, certificate, tmp_path):
    server = start_server()
    port = server.url.rsplit(":", 1)[1]
    for listen, code in ((f"127.0.0.1:{port}", 0), (f"0.0.0.0:{port}", 0), ("127.0.0.1:9", 1)):
        assert run_sinter("health", env={"SINTER_LISTEN": listen}).returncode == code
    assert run_sinter("health", "--url", server.url).stdout == "ready\n"
    pem, key = certificate
    behind_tls = Server(tmp_path, ["--tls-certificate", pem, "--tls-key", key])
    try:
        port = behind_tls.start().url.rsplit(":", 1)[1]
        own = {"SINTER_LISTEN": f"127.0.0.1:{port}", "SINTER_TLS_CERTIFICATE": str(pem)}
        wait_until(lambda: run_sinter("health", env=own).returncode == 0, what="a server with TLS")
        there = {"SINTER_URL": f"https://localhost:{port}"}
        assert run_sinter("health", env=there).returncode == 1
        assert run_sinter("health", env={**there, "SINTER_CA": str(pem)}).returncode == 0
        missing = run_sinter("health", env={**there, "SINTER_CA": "/no/such/file"})
        assert missing.returncode == 1 and "--ca can't be read" in missing.stderr
    finally:
        behind_tls.stop()


def test_a_file_that_came_wrong_is_not_kept(server, model_id, tmp_path):
    between = Between(server.url, wrong=True)
    done = run_sinter("get", model_id, "--url", between.url, "--output", tmp_path)
    assert done.returncode == 1 and "instead of" in done.stderr
    assert list(tmp_path.iterdir()) == []
