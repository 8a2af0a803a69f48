"""Data sets in every format: exact summaries, and jobs that really read what was uploaded."""

import contextlib
import gzip
import hashlib
import io
import json
import pathlib
import time
import zipfile

import numpy as np
import onnx
import pytest

import models
from conftest import DIGITS, DIGITS_CNN, Server, assert_problem
from lifecycle_tools import job_children

# The digits are 0 to 16 and the CNN was trained on them divided by 16.
DIGITS_SCALE = {"preprocess": {"scale": 1 / 16}}


def expect(dataset, *, format, splits, inputs, target):
    assert dataset["format"] == format
    assert dataset["splits"] == dict(zip(("train", "test"), splits, strict=True))
    assert [(i["name"], i["dtype"], i["shape"]) for i in dataset["inputs"]] == inputs
    found = dataset["target"]
    assert (found and (found["name"], found["dtype"], found["shape"], found["classes"])) == target


IMAGES = {"splits": (1437, 360), "inputs": [("x", "uint8", [8, 8])]}


def accuracy(server, model, dataset, **data):
    job = server.run("evaluate", model, dataset, {"metrics": ["accuracy", "loss"]}, data={**DIGITS_SCALE, **data})
    return job["result"]["before"]["metrics"]["accuracy"], job


@pytest.fixture(scope="module")
def true_accuracy():
    """What ONNX Runtime says about the CNN on the test split."""
    arrays = models.digits()
    x = arrays["x_test"][:, None].astype(np.float32) / 16
    logits = models.outputs(DIGITS_CNN.read_bytes(), {"input": x})[0]
    return float((logits.argmax(1) == arrays["y_test"]).mean())


def test_an_npz_with_keras_names(server, digits, digits_model, true_accuracy):
    expect(digits, format="npz", **IMAGES, target=("y", "int64", [], 10))
    assert digits["size_bytes"] == DIGITS.stat().st_size
    assert digits["digest"] == "sha256:" + hashlib.sha256(DIGITS.read_bytes()).hexdigest()
    assert true_accuracy > 0.95
    found, job = accuracy(server, digits_model, digits)
    assert found == pytest.approx(true_accuracy, abs=1e-9)
    data = job["result"]["environment"]["data"]
    assert data["splits"]["test"] == 360
    assert data["inputs"][0]["scale"] == pytest.approx(1 / 16)
    assert data["inputs"][0]["shape"] == [1, 8, 8]


def containers():
    files = models.mnist_files()
    plain = models.mnist_files(compressed=False)
    arrays = models.digits()
    return {
        "zip": models.zip_of(files), "zip of plain files": models.zip_of(plain),
        "zip with a folder": models.zip_of({f"mnist/{name}": data for name, data in files.items()}),
        "zip from a Mac": models.zip_of({**files, "__MACOSX/._train": b"\0\5", ".DS_Store": b"\0"}),
        "tar": models.tar_of(files), "tar.gz": models.tar_of(plain, "w:gz"),
        "npz": models.npz(**arrays),
    }


@pytest.mark.parametrize("kind", ["zip", "zip of plain files", "zip with a folder", "zip from a Mac", "tar", "tar.gz"])
def test_mnists_own_files_in_an_archive(server, kind):
    dataset = server.upload_dataset(containers()[kind], kind)
    expect(dataset, format="idx", **IMAGES, target=("y", "uint8", [], 10))


@pytest.mark.parametrize("compressed", [True, False])
def test_mnists_own_four_files_side_by_side(server, digits_model, true_accuracy, compressed):
    files = models.mnist_files(compressed)
    form = [("file", (name, data)) for name, data in files.items()]
    answer = server.post("/v1/datasets", params={"name": "mnist"}, files=form)
    assert answer.status_code == 201, answer.text
    dataset = answer.json()
    expect(dataset, format="idx", **IMAGES, target=("y", "uint8", [], 10))
    assert dataset["size_bytes"] == sum(len(data) for data in files.values())
    lines = sorted(f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in files.items())
    assert dataset["digest"] == "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()
    assert accuracy(server, digits_model, dataset)[0] == pytest.approx(true_accuracy, abs=1e-9)


def test_one_idx_file_is_a_data_set_without_labels(server):
    x = models.digits()["x_train"]
    for content in (models.idx(x), gzip.compress(models.idx(x))):
        dataset = server.upload_dataset(content, "images only")
        expect(dataset, format="idx", splits=(1437, 0), inputs=[("x", "uint8", [8, 8])], target=None)


@pytest.mark.parametrize(("kind", "dtype"), [(0x09, "int8"), (0x0B, "int16"), (0x0C, "int32"), (0x0D, "float32"), (0x0E, "float64")])
def test_idx_files_of_every_type(server, kind, dtype):
    arrays = models.digits()
    files = {"train-images": models.idx(arrays["x_train"], kind), "train-labels": models.idx(arrays["y_train"])}
    dataset = server.upload_dataset(models.zip_of(files), dtype)
    expect(dataset, format="idx", splits=(1437, 0), inputs=[("x", dtype, [8, 8])], target=("y", "uint8", [], 10))


def test_what_the_numbers_and_labels_are_is_told(server, digits):
    arrays = models.digits()
    both = [np.concatenate([arrays[f"{name}_train"], arrays[f"{name}_test"]]) for name in "xy"]
    assert digits["inputs"][0]["range"] == [both[0].min(), both[0].max()]
    assert digits["target"]["range"] == [0, 9]
    assert digits["target"]["class_counts"] == np.bincount(both[1]).tolist()
    # Where there is nothing to count.
    values = server.upload_dataset(models.npz(x=both[0].astype(np.float32) - 8.5, y=both[0].mean((1, 2))), "values")
    assert values["inputs"][0]["range"] == [-8.5, 7.5] and "class_counts" not in values["target"]


def test_rows_are_normalised_feature_by_feature(server):
    """Features of different size, for a model that was trained with a StandardScaler before it."""
    random = np.random.default_rng(3)
    sizes, shift = np.array([1, 1000, 0.01]), np.array([5, -200, 0])
    x = random.normal(0, 1, (400, 3)).astype(np.float32)
    stored = (x * sizes + shift).astype(np.float32)
    labels = x.argmax(1)
    dataset = server.upload_dataset(models.npz(x_train=stored, y_train=labels, x_test=stored, y_test=labels), "rows")
    model = server.upload_model(models.identity(("batch", 3)), "largest")
    whole = {"mean": stored.mean(0).tolist(), "std": stored.std(0).tolist()}
    found = {}
    for name, preprocess in (("as they are", {}), ("normalised", whole)):
        job = server.run("evaluate", model, dataset, {"metrics": ["accuracy"]}, data={"preprocess": preprocess})
        found[name] = job["result"]["before"]["metrics"]["accuracy"]
        warned = [event for event in server.events(job) if event["type"] == "inputs_on_another_scale"]
        assert (len(warned) == 1) == (name == "as they are")
        if warned:
            told = warned[0]["data"]
            assert "standard deviation" in warned[0]["message"]
            # They are those of nine tenths, as the rest is the validation split.
            off = np.abs(np.array(told["preprocess"]["mean"]) - whole["mean"]) / sizes
            assert off.max() < 0.05 and told["preprocess"]["std"] == pytest.approx(whole["std"], rel=0.05)
    normalised = (stored - stored.mean(0)) / stored.std(0)
    assert found["normalised"] == pytest.approx((normalised.argmax(1) == labels).mean(), abs=0.005)
    assert found["as they are"] == pytest.approx((stored.argmax(1) == labels).mean(), abs=1e-6)
    wrong = server.post("/v1/jobs", json={"kind": "evaluate", "model": model["id"], "dataset": dataset["id"],
                                          "data": {"preprocess": {"mean": [1, 2]}}})
    assert_problem(wrong, 422, says="has 2 values, the input `input` has 3 features")


def test_an_npz_with_one_split_sets_the_asked_share_aside(server, digits_model):
    arrays = models.digits()
    dataset = server.upload_dataset(models.npz(x=arrays["x_train"], y=arrays["y_train"]), "one split")
    expect(dataset, format="npz", splits=(1437, 0), inputs=[("x", "uint8", [8, 8])], target=("y", "int64", [], 10))
    found, job = accuracy(server, digits_model, dataset, test_fraction=0.25, validation_fraction=0.2)
    assert job["result"]["environment"]["data"]["splits"] == {"train": 1078 - 216, "validation": 216, "test": 359}
    assert found > 0.95
    # Which examples these were stands in the report, so that anybody can measure on them.
    drawn = json.loads(server.artifact(job, "report.json"))["test_examples"]
    assert len(set(drawn)) == 359
    logits = models.outputs(DIGITS_CNN.read_bytes(), {"input": arrays["x_train"][drawn, None].astype(np.float32) / 16})[0]
    assert found == pytest.approx((logits.argmax(1) == arrays["y_train"][drawn]).mean(), abs=1e-9)


def test_classes_in_another_order_than_the_models_are_told(server, digits_model, true_accuracy):
    arrays = models.digits()
    turned = {f"y_{split}": 9 - arrays[f"y_{split}"] for split in ("train", "test")}
    dataset = server.upload_dataset(models.npz(**{**arrays, **turned}), "turned")
    found, job = accuracy(server, digits_model, dataset)
    assert found < 0.05
    assert job["result"]["before"]["quality"]["order"] == list(range(9, -1, -1))
    told = [event for event in server.events(job) if event["type"] == "classes_in_another_order"]
    assert len(told) == 1 and "it says 9 for label 0" in told[0]["message"], told
    assert "another order of the classes" in server.artifact(job, "report.html").decode()
    # Three of the classes are enough.
    few = {name: array[arrays["y_" + name.split("_")[1]] < 3] for name, array in {**arrays, **turned}.items()}
    _, job = accuracy(server, digits_model, server.upload_dataset(models.npz(**few), "three"))
    assert job["result"]["before"]["quality"]["order"][7:] == [2, 1, 0]
    # On a wrong scale besides it is found, too.
    job = server.run("evaluate", digits_model, dataset)
    [told] = job["result"]["warnings"]
    assert told["type"] == "inputs_on_another_scale" and told["data"]["order"] == list(range(9, -1, -1))
    assert "and its classes in another order (it says 9 for label 0" in told["message"]
    # In their own order there is nothing to tell.
    found, job = accuracy(server, digits_model, server.upload_dataset(DIGITS, "digits"))
    assert found == pytest.approx(true_accuracy) and "order" not in job["result"]["before"]["quality"]


def on_rows(path):
    """The CNN as a model of rows of 64 numbers, as tables hold them."""
    model = onnx.load(str(path))
    [given] = model.graph.input
    for node in model.graph.node:
        node.input[:] = ["image" if name == given.name else name for name in node.input]
    shape = onnx.helper.make_tensor("of_image", onnx.TensorProto.INT64, [4], [-1, 1, 8, 8])
    model.graph.initializer.append(shape)
    model.graph.node.insert(0, onnx.helper.make_node("Reshape", [given.name, shape.name], ["image"]))
    given.CopyFrom(onnx.helper.make_tensor_value_info(given.name, onnx.TensorProto.FLOAT, ["batch", 64]))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_classes_that_are_words_get_the_order_of_the_model(server, digits_model, true_accuracy):
    arrays = models.digits()
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    columns = ",".join(f"p{place}" for place in range(64))

    def table(split):
        rows = zip(arrays[f"x_{split}"].reshape(-1, 64), arrays[f"y_{split}"], strict=True)
        return "".join([f"{columns},digit\n", *(f"{','.join(map(str, x))},{names[y]}\n" for x, y in rows)]).encode()

    files = [("file", (f"{split}.csv", table(split))) for split in ("train", "test")]
    plain = server.post("/v1/datasets", params={"name": "words"}, files=files).json()
    assert plain["target"]["class_names"] == sorted(names)
    flat = server.upload_model(on_rows(DIGITS_CNN), "flat")
    found, job = accuracy(server, flat, plain)
    assert found < 0.4
    [told] = [event for event in server.events(job) if event["type"] == "classes_in_another_order"]
    # What the warning says makes the data set right.
    order = [None] * 10
    for label, said in enumerate(told["data"]["order"]):
        order[said] = plain["target"]["class_names"][label]
    assert order == names and f"would be {','.join(names)}" in told["message"]
    right = server.post("/v1/datasets", params={"files_of": plain["id"], "classes": json.dumps(order)}).json()
    assert right["target"]["class_names"] == names and accuracy(server, flat, right)[0] == pytest.approx(true_accuracy)
    # It stays so when the files are read again, and at the upload.
    again = server.post("/v1/datasets", params={"files_of": right["id"], "name": "again"}).json()
    assert again["target"] == right["target"]
    at_once = server.post("/v1/datasets", params={"name": "words", "classes": ",".join(names)}, files=files).json()
    assert at_once["target"] == right["target"]
    refused = {"classes": ",".join(names[:-1])}
    assert_problem(server.post("/v1/datasets", params={"name": "w", **refused}, files=files), 422, says="the class `nine`")
    assert_problem(server.post("/v1/datasets", params={"name": "w", "classes": "a,b,a"}, files=files), 422, pointer="/classes", says="`a` twice")
    # Of numbers they are the names.
    numbers = server.upload_dataset(params={"classes": ",".join(names)})
    assert numbers["target"]["class_names"] == names and numbers["target"]["numbered"] and "numbered" not in right["target"]
    several = server.upload_dataset(b"text,labels\na,0;1\nb,1\n", params={"classes": "no,yes"})
    assert several["target"]["class_names"] == ["no", "yes"] and several["target"]["shape"] == [2]
    assert accuracy(server, digits_model, numbers)[0] == pytest.approx(true_accuracy)
    assert_problem(server.post_dataset(DIGITS.read_bytes(), params={"classes": "a,b"}), 422, says="0 to 9")
    values = server.post_dataset(b"a,b\n1,0.5\n2,1.5\n", params={"classes": "a,b"})
    assert_problem(values, 422, says="the target has none")


def test_examples_of_a_data_set_can_be_asked_about(server, digits_model, digits):
    arrays = models.digits()

    def ask(body, **query):
        query = {"dataset": digits["id"], "preprocess": '{"scale": 0.0625}', **query}
        return server.post(f"/v1/models/{digits_model['id']}/predict", params=query, json=body)

    for split, body in (("test", {"examples": [3, 0, 359]}), ("train", {"examples": [3, 1436], "split": "train"})):
        answer = ask(body).json()
        x = arrays[f"x_{split}"][body["examples"], None].astype(np.float32) / 16
        logits = models.outputs(DIGITS_CNN.read_bytes(), {"input": x})[0]
        np.testing.assert_allclose(np.array(answer["outputs"][0]["values"]), logits, atol=1e-4)
        assert [one["value"] for one in answer["targets"]] == arrays[f"y_{split}"][body["examples"]].tolist()
        assert answer["examples"] == [{"place": place} for place in body["examples"]]
        assert answer["prepared"] == ["`input` gets `x`: as [1, 8, 8]; divided by 16"]
    for body, pointer, says in (
        ({"examples": [360]}, "/examples", "0 to 359"), ({"examples": []}, "/examples", "1 to 1024"),
        ({"examples": [0], "texts": ["a"]}, "", "one of"), ({"split": "test", "inputs": {"input": [[1]]}}, "/split", "goes with"),
    ):
        assert_problem(ask(body), 422, pointer=pointer, says=says)
    alone = server.post(f"/v1/models/{digits_model['id']}/predict", json={"examples": [0]})
    assert_problem(alone, 422, pointer="/examples", says="`dataset`")
    whole = server.upload_dataset(models.npz(x=arrays["x_train"], y=arrays["y_train"]), "whole")
    assert_problem(ask({"examples": [0], "split": "test"}, dataset=whole["id"]), 422, pointer="/split", says="no test split")
    assert ask({"examples": [7]}, dataset=whole["id"]).json()["targets"][0]["value"] == arrays["y_train"][7]
    # A model that a job made is asked as in that job.
    made = server.run("train", digits_model, digits, {"epochs": 1}, data=DIGITS_SCALE)["result"]["model"]
    own = server.post(f"/v1/models/{made}/predict", json={"examples": list(range(64))}).json()
    right = sum(top[0]["label"] == one["value"] for top, one in zip(own["top"], own["targets"], strict=True))
    assert right > 55 and own["prepared"] == [f"{how}; as in the job that made the model" for how in answer["prepared"]]
    bare = server.upload_dataset(models.npz(x=arrays["x_train"]), "bare")
    assert "targets" not in ask({"examples": [0]}, dataset=bare["id"]).json()
    assert_problem(ask({"examples": [0], "split": "validation"}), 422, pointer="/split", says="`train`")


def test_rows_in_which_something_is_missing_are_refused_or_left_out(server):
    table = b"a,b,label\n1,2,0\n,4,1\n5,6,\n7,8,1\n" + b"".join(b"%d,%d,%d\n" % (n, n + 1, n % 2) for n in range(20))
    problem = assert_problem(server.post_dataset(table), 422, "invalid_dataset", says="its column `a` is empty")
    assert "2 of the examples" in problem["detail"] and "damaged=skip" in problem["detail"]
    found = server.upload_dataset(table, params={"damaged": "skip"})
    assert found["splits"]["train"] == 22 and [one["detail"] for one in found["skipped"]] == [
        "its column `a` is empty", "its column `label`, the target, is empty"]
    # A job reads the same rows.
    model = server.upload_model(models.mlp(2, 4, 2), "two")
    assert server.run("evaluate", model, found, data={"test_fraction": 0.5})["result"]["environment"]["data"]["splits"]["test"] == 11
    unknown = b"a,b,label\nnan,2,0\nNA,4,1\n" + b"".join(b"%d,%d,%d\n" % (n, n + 1, n % 2) for n in range(20))
    assert [one["detail"] for one in server.upload_dataset(unknown, params={"damaged": "skip"})["skipped"]] == [
        "its column `a` holds NaN", "its column `a` holds `NA`"]
    words = b"id,a,label\np1,1,0\np2,2,1\n"
    assert_problem(server.post_dataset(words, params={"damaged": "skip"}), 422, says=["`p1` is no number", "`exclude`"])


def test_columns_that_are_no_inputs_are_left_out(server):
    table = b"id,a,name,b,label\n" + b"".join(b"%d,%d,n%d,%d,%d\n" % (n, n * n, n, n + 1, n % 2) for n in range(40))
    found = server.upload_dataset(table, params={"exclude": "id, name"})
    assert found["excluded"] == ["id", "name"] and found["inputs"][0]["shape"] == [2] and found["inputs"][0]["range"] == [0, 39 * 39]
    model = server.upload_model(models.mlp(2, 4, 2), "two")
    result = server.run("evaluate", model, found)["result"]
    assert result["environment"]["data"]["inputs"][0]["shape"] == [2]
    # So it stays where the files are read again, unless it is said otherwise.
    again = server.post("/v1/datasets", params={"files_of": found["id"], "target": "b"}).json()
    assert again["excluded"] == ["id", "name"] and again["target"]["name"] == "b" and again["inputs"][0]["shape"] == [2]
    other = server.post("/v1/datasets", params={"files_of": found["id"], "exclude": '["name"]'}).json()
    assert other["excluded"] == ["name"] and other["inputs"][0]["shape"] == [3]
    for exclude, says in (("ide", "no column `ide`"), ("label", "used and left out"), ("id,id", "`id` twice"), ("id,,a", "empty")):
        assert_problem(server.post_dataset(table, params={"exclude": exclude, "target": "label"}), 422, says=says)
    assert_problem(server.post_dataset(DIGITS.read_bytes(), params={"exclude": "x"}), 422, says="columns of a table")


@pytest.mark.parametrize("name, content, says", [
    ("one", b"RIFF\x24\x00\x00\x00WAVEfmt ", "a recording, by itself"),
    ("one", b"\x89PNG\r\n\x1a\n", "an image, by itself"),
    ("net.pt", models.zip_of({"net/data.pkl": b"\x80\x02", "net/version": b"3"}), "torch.save"),
    ("x.npy", b"\x93NUMPY\x01\x00", "numpy.savez"),
    ("words.npz", models.npz(x=np.zeros((2, 3)), y=np.array(["a", "b"])), "np.unique"),
    ("semi.csv", b"a;b;label\n1,5;2,5;0\n", "separate values by commas"),
    ("run.py", b"import os, sys\nprint(1, 2, 3)\n", "is it a CSV file?"),
])
def test_what_is_no_data_set_is_told_what_it_is(server, name, content, says):
    assert_problem(server.post_dataset(content, name), 422, "invalid_dataset", says=says)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "int64", "uint32", "uint64", "float32", "float64", "bool"])
def test_an_npz_of_every_type(server, dtype):
    arrays = models.digits()
    content = models.npz(x=arrays["x_train"].astype(dtype), y=arrays["y_train"].astype(np.int32))
    dataset = server.upload_dataset(content, dtype)
    expect(dataset, format="npz", splits=(1437, 0), inputs=[("x", dtype, [8, 8])], target=("y", "int32", [], 10))


def test_a_big_endian_npz_has_the_same_numbers(server, digits_model, true_accuracy):
    arrays = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in models.digits().items()}
    arrays["x_train"], arrays["x_test"] = (arrays[n].astype(">f4") for n in ("x_train", "x_test"))
    dataset = server.upload_dataset(models.npz(**arrays), "big endian")
    assert accuracy(server, digits_model, dataset)[0] == pytest.approx(true_accuracy, abs=1e-9)


def test_an_npz_in_fortran_order_has_the_same_numbers_or_is_refused_by_name(server, digits_model, true_accuracy):
    arrays = {name: np.asfortranarray(array) for name, array in models.digits().items()}
    answer = server.post_dataset(models.npz(**arrays), "fortran")
    if answer.status_code == 422:
        assert_problem(answer, 422, says="Fortran")
    else:
        assert accuracy(server, digits_model, answer.json())[0] == pytest.approx(true_accuracy, abs=1e-9)


def test_a_compressed_npz(server):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **models.digits())
    expect(server.upload_dataset(buffer.getvalue(), "z"), format="npz", **IMAGES, target=("y", "int64", [], 10))


def test_several_inputs_keep_their_names(server):
    arrays = models.digits()
    x = arrays["x_train"]
    dataset = server.upload_dataset(models.npz(left=x[:, :, :4], right=x[:, :, 4:], y=arrays["y_train"]), "halves")
    expect(dataset, format="npz", splits=(1437, 0), inputs=[("left", "uint8", [8, 4]), ("right", "uint8", [8, 4])],
           target=("y", "int64", [], 10))


def test_an_npz_whose_names_are_ones_own(server, digits_model, true_accuracy):
    arrays = models.digits()
    own = {"bilder_train": arrays["x_train"], "ziffer_train": arrays["y_train"], "bilder_test": arrays["x_test"],
           "ziffer_test": arrays["y_test"]}
    unnamed = server.upload_dataset(models.npz(**own), "own")
    assert unnamed["target"] is None
    body = {"kind": "evaluate", "model": digits_model["id"], "dataset": unnamed["id"], "data": DIGITS_SCALE}
    assert_problem(server.post("/v1/jobs", json=body), 422, "data_misfit", says="`?target=` of the upload")
    named = server.upload_dataset(models.npz(**own), "own", params={"target": "ziffer"})
    assert (named["target"]["name"], named["target"]["classes"]) == ("ziffer", 10)
    job = server.run("evaluate", digits_model, named, data=DIGITS_SCALE)
    assert job["result"]["before"]["metrics"]["accuracy"] == pytest.approx(true_accuracy, abs=1e-6)
    problem = assert_problem(server.post_dataset(models.npz(**own), "own", params={"target": "digit"}), 422, "invalid_dataset")
    assert "none of the arrays" in problem["detail"] and "`digit`" in problem["detail"]


def test_an_npz_with_a_validation_split(server, digits_model):
    arrays = models.digits()
    split = {"x_train": arrays["x_train"][:900], "y_train": arrays["y_train"][:900], "x_test": arrays["x_test"],
             "y_test": arrays["y_test"], "x_val": arrays["x_train"][900:1000], "y_val": arrays["y_train"][900:1000]}
    dataset = server.upload_dataset(models.npz(**split), "three splits")
    assert dataset["splits"] == {"train": 900, "validation": 100, "test": len(arrays["x_test"])}
    job = server.run("train", digits_model, dataset, {"epochs": 1}, data=DIGITS_SCALE)
    assert job["result"]["environment"]["data"]["splits"] == {"train": 900, "validation": 100, "test": len(arrays["x_test"])}
    for wrong, says in (({"x_val": split["x_val"][:50]}, "unequal numbers"), ({"x_val": split["x_val"][:, :, :4]}, "in the validation split"),
                        ({"y_val": None}, "both need the same")):
        kept = {name: value for name, value in {**split, **wrong}.items() if value is not None}
        assert_problem(server.post_dataset(models.npz(**kept), "wrong"), 422, "invalid_dataset", says=says)


def test_a_model_that_is_uploaded_as_a_data_set_is_told_where_it_belongs(server):
    assert_problem(server.post_dataset(DIGITS_CNN.read_bytes(), "model"), 422, "invalid_dataset", says="`/v1/models`")


def test_safetensors_with_the_names_of_npz(server, digits_model, true_accuracy):
    from safetensors.numpy import save

    dataset = server.upload_dataset(save(models.digits()), "st")
    expect(dataset, format="safetensors", **IMAGES, target=("y", "int64", [], 10))
    assert accuracy(server, digits_model, dataset)[0] == pytest.approx(true_accuracy, abs=1e-9)


def test_channels_last_images_are_turned_and_the_result_says_so(server, digits_model, true_accuracy):
    arrays = {name: a[..., None] if name.startswith("x") else a for name, a in models.digits().items()}
    dataset = server.upload_dataset(models.npz(**arrays), "nhwc")
    expect(dataset, format="npz", splits=(1437, 360), inputs=[("x", "uint8", [8, 8, 1])], target=("y", "int64", [], 10))
    found, job = accuracy(server, digits_model, dataset)
    assert found == pytest.approx(true_accuracy, abs=1e-9)
    assert job["result"]["environment"]["data"]["inputs"][0]["transposed"] is True


def test_uint8_images_are_scaled_to_one_unless_told_otherwise(server, digits_model, digits):
    job = server.run("evaluate", digits_model, digits)
    assert job["result"]["environment"]["data"]["inputs"][0]["scale"] == pytest.approx(1 / 255)


def test_mean_and_std_are_applied_after_the_scale(server, digits_model, digits):
    arrays = models.digits()
    x = (arrays["x_test"][:, None].astype(np.float32) / 16 - 0.3) / 0.5
    logits = models.outputs(DIGITS_CNN.read_bytes(), {"input": x.astype(np.float32)})[0].astype(np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    log_softmax = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    loss = -log_softmax[np.arange(360), arrays["y_test"]].mean()
    preprocess = {"scale": 1 / 16, "mean": [0.3], "std": [0.5]}
    job = server.run("evaluate", digits_model, digits, {"metrics": ["loss"]}, data={"preprocess": preprocess})
    assert job["result"]["before"]["metrics"]["loss"] == pytest.approx(loss, rel=1e-4)


def test_labels_in_a_column_of_their_own_are_labels(server, digits_model, true_accuracy):
    # As Keras ships CIFAR: y_train has the shape (n, 1).
    arrays = {name: a[:, None] if name.startswith("y") else a for name, a in models.digits().items()}
    dataset = server.upload_dataset(models.npz(**arrays), "column")
    assert accuracy(server, digits_model, dataset)[0] == pytest.approx(true_accuracy, abs=1e-9)


# Tables.


def digits_table(label=str):
    arrays = models.digits()
    header = [f"p{n}" for n in range(64)] + ["digit"]
    rows = [[*map(str, x.reshape(-1)), label(y)] for x, y in zip(arrays["x_train"], arrays["y_train"], strict=True)]
    return "\n".join(",".join(row) for row in [header, *rows]) + "\n"


def test_a_csv_with_a_header_takes_the_last_column_as_the_target(server):
    dataset = server.upload_dataset(digits_table().encode(), "table")
    expect(dataset, format="csv", splits=(1437, 0), inputs=[("x", "float64", [64])], target=("digit", "int64", [], 10))


def test_a_csv_can_be_trained_on_by_a_model_of_flat_inputs(server):
    dataset = server.upload_dataset(digits_table().encode(), "table")
    model = server.upload_model(models.mlp(), "mlp")
    job = server.run("train", model, dataset, {"epochs": 8, "optimizer": {"learning_rate": 0.01}}, data=DIGITS_SCALE)
    before, after = (job["result"][side]["metrics"]["accuracy"] for side in ("before", "after"))
    assert before < 0.4 and after > 0.9
    assert job["result"]["environment"]["data"]["inputs"][0]["scale"] == pytest.approx(1 / 16)


def test_a_named_target_column_leaves_the_others_in_their_order(server):
    dataset = server.upload_dataset(b"label,a,b\n1,2.5,3\n0,4,5\n2,1,1\n", "t", params={"target": "label"})
    expect(dataset, format="csv", splits=(3, 0), inputs=[("x", "float64", [2])], target=("label", "int64", [], 3))


def test_labels_that_are_words_become_classes_and_fractions_become_values(server):
    dataset = server.upload_dataset(b"a,b,kind\n1,2,cat\n3,4,dog\n5,6,cat\n", "words")
    assert dataset["target"] == {"name": "kind", "dtype": "int64", "shape": [], "classes": 2,
                                 "class_names": ["cat", "dog"], "class_counts": [2, 1], "range": [0.0, 1.0]}
    assert dataset["inputs"][0]["range"] == [1.0, 6.0]
    dataset = server.upload_dataset(b"a,b,price\n1,2,1.5\n3,4,-2.25\n", "values")
    low, high = dataset["target"].pop("range")
    assert low < high
    assert dataset["target"] == {"name": "price", "dtype": "float64", "shape": [], "classes": None}


@pytest.mark.parametrize("prices", ["-5,3,7", "250000,1250000,900000"])
def test_whole_numbers_can_be_values_to_predict_too(server, prices):
    # A table of house prices or of temperatures; `task: regression` is for the job to say.
    rows = "".join(f"{n},{n * n},{price}\n" for n, price in enumerate(prices.split(",")))
    answer = server.post_dataset(f"a,b,value\n{rows}".encode(), "regression")
    assert answer.status_code == 201, answer.text
    assert answer.json()["target"]["classes"] is None


def test_files_that_are_there_are_read_in_another_way(start_server):
    server = start_server()
    rows = "".join(f"{n},{n * n},{n % 2},{n % 3}\n" for n in range(60))
    first = server.upload_dataset(f"a,b,first,second\n{rows}".encode(), "table")
    assert first["target"]["name"] == "second"

    def again(**query):
        return server.post("/v1/datasets", params={"files_of": first["id"], **query})

    answer = again(target="first")
    assert answer.status_code == 201 and answer.headers["Location"] == f"/v1/datasets/{answer.json()['id']}"
    other = answer.json()
    assert other["target"]["name"] == "first" and other["inputs"][0]["shape"] == [3] and other["inputs"][0]["range"] == [0, 59 * 59]
    assert (other["name"], other["digest"]) == ("table", first["digest"]) and other["id"] != first["id"]
    assert server.get(f"/v1/datasets/{first['id']}").json() == first
    assert again(target="a", name="another").json()["name"] == "another"
    # It stays when the first goes.
    assert server.delete(f"/v1/datasets/{first['id']}").status_code == 204
    model = server.upload_model(models.mlp(3, 4, 2), "three")
    assert server.wait(server.submit("evaluate", model["id"], other["id"]))["status"] == "succeeded"
    assert_problem(again(target="first"), 422, "dataset_not_found", pointer="/files_of", says=first["id"])
    first = other
    assert_problem(again(target="third"), 422, says="third")
    assert_problem(again(name=""), 422, pointer="/name")
    answer = server.post("/v1/datasets", params={"files_of": first["id"]}, data=b"a,b\n1,2\n")
    assert_problem(answer, 422, pointer="/files_of", says="no body")
    # A body without a length is a body.
    answer = server.post("/v1/datasets", params={"files_of": first["id"]}, data=iter([b"a,b\n", b"1,2\n"]))
    assert_problem(answer, 422, pointer="/files_of", says="no body")
    key = {"Idempotency-Key": "again"}
    once, twice = (server.post("/v1/datasets", params={"files_of": first["id"], "target": "b"}, headers=key) for _ in range(2))
    assert once.json() == twice.json() and twice.headers["Idempotency-Replayed"] == "true"
    otherwise = server.post("/v1/datasets", params={"files_of": first["id"], "target": "a"}, headers=key)
    assert_problem(otherwise, 422, "idempotency_key_reused")
    # The first answer, whatever has become of the files' first data set.
    server.request("PATCH", f"/v1/datasets/{first['id']}", json={"name": "renamed"})
    assert server.delete(f"/v1/datasets/{first['id']}").status_code == 204
    thrice = server.post("/v1/datasets", params={"files_of": first["id"], "target": "b"}, headers=key)
    assert thrice.json() == once.json()


def test_what_is_left_out_is_read_as_the_first_time(server):
    words = "".join(f"a{n},review {n},{n % 2},{n % 3}\n" for n in range(40))
    first = server.post("/v1/datasets", params={"name": "words", "text": "review", "target": "y"},
                        data=f"text,review,y,z\n{words}".encode()).json()
    assert [array["name"] for array in first["inputs"]] == ["review"]
    again = server.post("/v1/datasets", params={"files_of": first["id"], "target": "z"}).json()
    assert [array["name"] for array in again["inputs"]] == ["review"] and again["target"]["name"] == "z"
    # A folder of files has no column to name, and what was left out is so again.
    files = {f"{name}/{n}.txt": f"{name} {n}".encode() for name in ("one", "two") for n in range(12)}
    files["one/empty.txt"] = b""
    folder = io.BytesIO()
    with zipfile.ZipFile(folder, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    first = server.post("/v1/datasets", params={"name": "folder", "damaged": "skip"}, data=folder.getvalue()).json()
    assert len(first["skipped"]) == 1, first
    again = server.post("/v1/datasets", params={"files_of": first["id"], "name": "again"}).json()
    assert {**again, "id": 0, "name": 0, "created_at": 0} == {**first, "id": 0, "name": 0, "created_at": 0}
    # So is the column of a manifest.
    rows = "".join(f"{name},{n % 2},{n % 3}\n" for n, name in enumerate(files))
    manifest = {**files, "metadata.csv": f"file_name,first,second\n{rows}".encode()}
    first = server.post("/v1/datasets", params={"name": "m", "target": "second", "damaged": "skip"}, data=models.zip_of(manifest)).json()
    again = server.post("/v1/datasets", params={"files_of": first["id"]}).json()
    assert again["target"] == first["target"] and again["target"]["name"] == "second" and again["target"]["classes"] == 3


def test_several_npz_files_are_a_split_each(server):
    x, y = np.arange(120, dtype=np.float32).reshape(40, 3), np.arange(40) % 2

    def post(**parts):
        return server.post("/v1/datasets", params={"name": "parts"}, files=[("file", (name, content)) for name, content in parts.items()])

    parts = {"digits_train.npz": models.npz(x=x[:30], y=y[:30]), "digits_test.npz": models.npz(x=x[30:], y=y[30:])}
    made = post(**parts).json()
    assert (made["format"], made["splits"], made["target"]["name"]) == ("npz", {"train": 30, "test": 10}, "y")
    again = server.post("/v1/datasets", params={"files_of": made["id"]}).json()
    assert again["splits"] == made["splits"]
    assert_problem(post(**{"digits_train.npz": parts["digits_train.npz"], "other.npz": parts["digits_test.npz"]}), 422,
                   says=["`other.npz`", "x_train"])
    assert_problem(post(**{"train.npz": parts["digits_train.npz"], "a_train.npz": parts["digits_test.npz"]}), 422, says="two of the npz files")
    model = server.upload_model(models.mlp(3, 4, 2), "three")
    result = server.wait(server.submit("evaluate", model["id"], made["id"]))["result"]
    assert result["environment"]["data"]["splits"]["test"] == 10
    tables = {"iris_train.csv": b"a,b,y\n" + b"1,2,0\n3,4,1\n" * 10, "iris_test.csv": b"a,b,y\n1,2,0\n"}
    assert post(**tables).json()["splits"] == {"train": 20, "test": 1}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_fault_of_a_table_is_told_with_its_line(server, end):
    rows = ["a,b,y", *(f"{n},{n},{n % 2}" for n in range(30))]
    rows[7] = "1,wrong,0"
    answer = server.post_dataset(end.join(rows).encode(), "faulty")
    assert_problem(answer, 422, says="line 8")


def test_tables_that_are_written_otherwise_are_refused_by_what_they_are(server):
    headless = server.post_dataset(b"1.5,2,0\n3,4,1\n5,6,0\n", "headless")
    assert_problem(headless, 422, says=["first line holds numbers (1.5, 2, 0", "put a line with names before it"])
    # As a data frame without names is written.
    numbered = server.upload_dataset(b"0,1,2\n3,4,1\n5,6,0\n", "numbered")
    expect(numbered, format="csv", splits=(2, 0), inputs=[("x", "float64", [2])], target=("2", "int64", [], 2))
    # Who names a column knows that they are names.
    years = server.upload_dataset(b"2001,2002,2003\n3,4,1\n5,6,0\n", "years", params={"target": "2003"})
    expect(years, format="csv", splits=(2, 0), inputs=[("x", "float64", [2])], target=("2003", "int64", [], 2))
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        text = "\n".join(separator.join(row) for row in (("a", "b", "y"), ("1", "2", "0"), ("3", "4", "1")))
        assert_problem(server.post_dataset(text.encode(), "other", params={"format": "csv"}), 422,
                       says=[f"separated by {name}", "by commas"])


@pytest.mark.parametrize("text", [
    "a,b,y\r\n1,2,0\r\n3,4,1\r\n", "a,b,y\n1,2,0\n3,4,1", '"a","b","y"\n"1","2","0"\n"3","4","1"\n',
    "\ufeffa,b,y\n1,2,0\n3,4,1\n", "a, b, y\n1, 2, 0\n3, 4, 1\n", "a,b,y\n1e0,+2,0\n3,4.0,1\n",
], ids=["crlf", "no last line break", "quoted", "bom", "spaces", "exponents"])
def test_csv_as_spreadsheets_write_it(server, text):
    dataset = server.upload_dataset(text.encode(), "sheet")
    expect(dataset, format="csv", splits=(2, 0), inputs=[("x", "float64", [2])], target=("y", "int64", [], 2))
    first = server.upload_dataset(text.encode(), "sheet", params={"target": "a"})
    assert first["target"]["name"] == "a"


def test_a_csv_with_letters_beyond_ascii_is_a_csv_wherever_they_stand(server):
    for pad in range(4):  # one of them is cut in two by whoever looks at the first 512 bytes
        name = "x" * (508 + pad) + "é" * 4
        dataset = server.upload_dataset(f"{name},b,y\n1,2,0\n3,4,1\n".encode(), "accents")
        assert dataset["format"] == "csv" and dataset["splits"]["train"] == 2


def test_a_parquet_file_is_read_like_a_table(server):
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = models.digits()
    columns = {f"p{n}": arrays["x_train"].reshape(-1, 64)[:, n] for n in range(64)}
    for compression in ("snappy", "zstd", "gzip", "none"):
        buffer = io.BytesIO()
        pq.write_table(pa.table({**columns, "digit": arrays["y_train"]}), buffer, compression=compression)
        dataset = server.upload_dataset(buffer.getvalue(), compression)
        expect(dataset, format="parquet", splits=(1437, 0), inputs=[("x", "float64", [64])], target=("digit", "int64", [], 10))
    dataset = server.upload_dataset(buffer.getvalue(), "other", params={"target": "p3"})
    assert dataset["target"]["name"] == "p3"


def test_the_columns_of_a_parquet_file_keep_their_types_values(server):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"f": pa.array([1.5, -2.25, 1e-3], pa.float32()), "b": [True, False, True],
                      "i": pa.array([1, -2, 3], pa.int16()), "kind": ["cat", "dog", "cat"]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    expect(server.upload_dataset(buffer.getvalue(), "types"), format="parquet", splits=(3, 0),
           inputs=[("x", "float64", [3])], target=("kind", "int64", [], 2))
    table = pa.table({"a": pa.array([1.0, None]), "y": [0, 1]})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    assert_problem(server.post_dataset(buffer.getvalue(), "hole"), 422, "invalid_dataset", says="`a`")


def test_the_format_can_be_said_and_is_then_believed(server):
    assert server.upload_dataset(DIGITS, "said", params={"format": "npz"})["format"] == "npz"
    for wrong in ("csv", "parquet", "safetensors", "idx"):
        assert_problem(server.post_dataset(DIGITS, "said", params={"format": wrong}), 422, "invalid_dataset")
    assert_problem(server.post_dataset(DIGITS, "said", params={"format": "hdf5"}), 400, "invalid_query_parameter")


def test_a_target_column_of_a_file_without_columns_is_refused(server):
    answer = server.post_dataset(DIGITS, "npz", params={"target": "digit"})
    problem = assert_problem(answer, 422)
    assert "target" in problem["detail"]


def test_a_deleted_data_set_is_gone_with_its_files(start_server):
    server = start_server()
    form = [("file", (name, data)) for name, data in models.mnist_files().items()]
    dataset = server.post("/v1/datasets", params={"name": "d"}, files=form).json()
    assert len([path for path in server.stored_files() if path.startswith("blobs")]) == 4
    assert server.delete(f"/v1/datasets/{dataset['id']}").status_code == 204
    assert_problem(server.get(f"/v1/datasets/{dataset['id']}"), 404, "dataset_not_found")
    assert [path for path in server.stored_files() if path.startswith("blobs")] == []


@pytest.mark.parametrize(("header", "more", "says"), [
    ({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"1234", "other bytes than the 16"),
    ({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 12]}}, b"", "invalid shape, data type, or offset"),
    ({"x": {"dtype": "F32", "shape": [4], "data_offsets": [4, 20]}}, b"1234", "the safetensors file: invalid"),
    ({"x": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}, b"", "the safetensors file: invalid"),
    ({"x": {"dtype": "F32", "shape": [1 << 62, 64], "data_offsets": [0, 16]}}, b"", "the safetensors file: overflow"),
    ({"x": {"dtype": "F32", "shape": "many"}}, b"", "the safetensors file: invalid type"),
])
def test_safetensors_whose_header_is_wrong(server, header, more, says):
    text = json.dumps(header).encode()
    content = len(text).to_bytes(8, "little") + text + bytes(16) + more
    assert_problem(server.post_dataset(content, "bad"), 422, "invalid_dataset", says=says)
    beyond = (10**9).to_bytes(8, "little") + text
    assert_problem(server.post_dataset(beyond, "bad"), 422, "invalid_dataset", says="longer than the file")


# Size.


def big_npz(megabytes):
    """The digits, stored again and again as one .npz, in pieces and never whole in memory."""
    arrays = models.digits()
    times = (megabytes << 20) // arrays["x_train"].nbytes
    rows = times * len(arrays["x_train"])

    class Pieces(io.RawIOBase):
        """What the zip writer wrote since the last look."""

        def __init__(self):
            self.written = bytearray()

        def writable(self):
            return True

        def write(self, data):
            self.written += data
            return len(data)

    pieces = Pieces()
    with zipfile.ZipFile(pieces, "w", zipfile.ZIP_STORED) as archive:
        for name, descr, shape, block in (
            ("x.npy", "|u1", (rows, 8, 8), arrays["x_train"].tobytes()),
            ("y.npy", "<i8", (rows,), arrays["y_train"].tobytes()),
        ):
            with archive.open(name, "w", force_zip64=True) as entry:
                entry.write(models.npy_header(shape, descr))
                for _ in range(times):
                    entry.write(block)
                    if len(pieces.written) > 1 << 20:
                        yield bytes(pieces.written)
                        pieces.written.clear()
    yield bytes(pieces.written)


@pytest.mark.parametrize(("form", "megabytes"), [("body", 300), ("part", 100)])
def test_the_memory_of_the_server_does_not_grow_with_an_upload(tmp_path, form, megabytes):
    with Server(tmp_path, flags=["--inspect-timeout-seconds", "600"]) as server:
        server.wait_ready()
        server.upload_dataset(DIGITS, "small")
        before = server.peak_memory_bytes()
        pieces = big_npz(megabytes)
        headers = {}
        if form == "part":
            head = b'--B\r\nContent-Disposition: form-data; name="file"; filename="big.npz"\r\n\r\n'
            content = pieces
            pieces = (piece for part in ([head], content, [b"\r\n--B--\r\n"]) for piece in part)
            headers["Content-Type"] = "multipart/form-data; boundary=B"
        answer = server.post("/v1/datasets", params={"name": "big"}, data=pieces, headers=headers, timeout=600)
        assert answer.status_code == 201, answer.text
        assert answer.json()["size_bytes"] > megabytes << 20
        assert answer.json()["splits"]["train"] == 1437 * ((megabytes << 20) // (1437 * 64))
        assert server.peak_memory_bytes() - before < 32 << 20


def tiled(path, megabytes):
    """The digits as the CNN takes them, again and again; and how often."""
    arrays = models.digits()
    x = (arrays["x_test"][:, None] / 16).astype(np.float32)
    times = (megabytes << 20) // x.nbytes
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, descr, block in (("x.npy", "<f4", x), ("y.npy", "<i8", arrays["y_test"].astype(np.int64))):
            with archive.open(name, "w", force_zip64=True) as entry:
                entry.write(models.npy_header((times * len(block), *block.shape[1:]), descr))
                for _ in range(times):
                    entry.write(block.tobytes())
    return times


def test_arrays_that_are_larger_than_the_memory_are_read_from_the_disk(tmp_path, true_accuracy):
    times = tiled(tmp_path / "big.npz", 700)
    with Server(tmp_path / "server", flags=["--inspect-timeout-seconds", "600"]) as server:
        server.wait_ready()
        with open(tmp_path / "big.npz", "rb") as file:
            answer = server.post("/v1/datasets", params={"name": "big"}, data=file, timeout=600)
        assert answer.status_code == 201, answer.text
        assert answer.json()["splits"]["train"] == 360 * times
        assert answer.json()["inputs"][0] == {"name": "x", "dtype": "float32", "shape": [1, 8, 8], "range": [0, 1]}
        model = server.upload_model()

        def trained(dataset):
            """The job, and the largest resident size of its process."""
            job = server.submit("train", model, dataset, {"epochs": 1}, data={"limit": 20_000, "batch_size": 256})
            peak = 0
            while (told := server.get(f"/v1/jobs/{job['id']}").json())["status"] in ("queued", "running"):
                for child in job_children(server):
                    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                        status = pathlib.Path(f"/proc/{child}/status").read_text()
                        peak = max([peak, *(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))])
                time.sleep(0.02)
            assert told["status"] == "succeeded", told
            return told, peak

        tiled(tmp_path / "small.npz", 9)
        _, usual = trained(server.upload_dataset((tmp_path / "small.npz").read_bytes(), "small"))
        told, peak = trained(answer.json())
        # Every example is one of 360; those that the job judges are some of each.
        assert told["result"]["before"]["metrics"]["accuracy"] == pytest.approx(true_accuracy, abs=0.02)
        # 256 MiB until they go to the disk, half as much while these grow, labels and orders.
        assert usual < peak < usual + (500 << 20), (usual >> 20, peak >> 20)
