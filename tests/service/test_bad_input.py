"""Every row of "Bad input": a clear problem, nothing stored, and the server goes on.

Each test that takes `untouched` is checked afterwards: the lists have not grown, no file was left
in the data folder, no child process was left behind, and `/healthz` answers.
"""

import json
import socket
import time
import urllib.parse

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import models
from conftest import DIGITS, DIGITS_CNN, Server, assert_problem
from lifecycle_tools import wait_until

NOBODY = "019353e0-0000-7000-8000-000000000001"


@pytest.fixture(scope="module")
def bad_server(tmp_path_factory):
    """A server that holds one model and one data set and is to hold no more."""
    with Server(tmp_path_factory.mktemp("bad")) as running:
        running.wait_ready()
        running.model = running.upload_model(DIGITS_CNN, "digits-cnn")
        running.mlp = running.upload_model(models.mlp(), "mlp")
        running.digits = running.upload_dataset(DIGITS, "digits")
        yield running


FAILED = pytest.StashKey()


def clean(server, before):
    """Removes what has come since `before`."""
    for path, known in zip(("/v1/models", "/v1/datasets", "/v1/jobs"), before[0], strict=True):
        for row in server.all_rows(path):
            if row["id"] not in known:
                if path == "/v1/jobs":
                    server.post(f"{path}/{row['id']}/cancel")
                    server.wait(row)
                server.delete(f"{path}/{row['id']}")


def state(server):
    ids = [
        [row["id"] for row in server.all_rows(path)]
        for path in ("/v1/models", "/v1/datasets", "/v1/jobs")
    ]
    return ids, server.stored_files()


@pytest.fixture
def untouched(bad_server, request):
    before = state(bad_server)
    yield bad_server
    if request.node.stash.get(FAILED, False):
        clean(bad_server, before)  # a failing test must not disturb the next
    assert bad_server.is_healthy()
    deadline = time.monotonic() + 60
    while (state(bad_server) != before or bad_server.child_pids()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert state(bad_server) == before
    assert bad_server.child_pids() == []


def refused_model(server, content, code, says=(), **options):
    problem = assert_problem(server.post_model(content, "bad", **options), 422, code, says=says)
    assert_speaks_of_the_file(problem)


def refused_dataset(server, content, code="invalid_dataset", says=(), **options):
    problem = assert_problem(server.post_dataset(content, "bad", **options), 422, code, says=says)
    assert_speaks_of_the_file(problem)


def assert_speaks_of_the_file(problem):
    """A reader that dies explains nothing to the one who sent the file."""
    assert problem["code"] != "unreadable_upload", problem
    assert "exit status" not in problem["detail"], problem
    assert "signal" not in problem["detail"], problem


def post_and_clean(server, body):
    """Posts a job that is to be refused; one that is taken is stopped and removed, so that it
    does not disturb the tests after this one."""
    answer = server.post("/v1/jobs", json=body)
    if answer.status_code == 202:
        server.post(f"/v1/jobs/{answer.json()['id']}/cancel")
        server.wait(answer.json())
        made = (server.job(answer.json())["result"] or {}).get("model")
        server.delete(f"/v1/jobs/{answer.json()['id']}")
        if made:
            server.delete(f"/v1/models/{made}")
    return answer


# Models that are none.


@pytest.mark.parametrize(
    "content",
    [b"this is no protobuf", b"<!doctype html><title>404</title>", b"\x00" * 64, b"\xff" * 64,
     b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", b"\x0a"],
    ids=["text", "html", "zeros", "ones", "lfs", "one byte"],
)
def test_a_file_that_is_no_protobuf_is_refused(untouched, content):
    refused_model(untouched, content, "invalid_model")


@pytest.mark.parametrize(("content", "words"), [
    (b"PK\x03\x04" + bytes(60), "torch.onnx.export"),
    (b"PK\x03\x04" + bytes(26) + b"x_train.npy" + bytes(60), "as a data set"),
    (b"\x80\x02ccollections\nOrderedDict\n.", "pickle"),
    (b"\x89HDF\r\n\x1a\n" + bytes(60), "tf2onnx"),
    (b"\x1c\x00\x00\x00TFL3" + bytes(60), "TensorFlow Lite"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
], ids=["torch.save", "npz", "pickle", "keras", "tflite", "lfs"])
def test_what_is_taken_for_a_model_is_told_what_it_is(untouched, content, words):
    refused_model(untouched, content, "invalid_model", says=words)


def test_a_protobuf_of_another_kind_is_refused(untouched):
    refused_model(untouched, numpy_helper.from_array(np.ones(4, np.float32), "t").SerializeToString(),
                  "invalid_model")


@pytest.mark.parametrize("kept", [1, 10, 100, 1_000, 50_000, -1000, -1])
def test_a_truncated_model_is_refused(untouched, kept):
    refused_model(untouched, DIGITS_CNN.read_bytes()[:kept], "invalid_model")


def test_an_empty_body_is_refused(untouched):
    refused_model(untouched, b"", "empty_upload")
    refused_dataset(untouched, b"", "empty_upload")


def test_a_model_without_a_graph_is_refused(untouched):
    empty = helper.make_model(helper.make_graph([], "empty", [], [])).SerializeToString()
    refused_model(untouched, empty, "invalid_model", says="graph")


@pytest.mark.parametrize(
    "dims",
    [[2**60], [2**30, 2**30], [2**62, 2**62], [2**32, 2**32], [2**63 - 1], [3], [2, 0], [-1], [1, -4]],
    ids=str,
)
def test_a_tensor_that_claims_more_than_it_holds_is_refused_by_name(untouched, dims):
    refused_model(untouched, models.bomb(dims), "invalid_model", says="bomb")


def test_a_tensor_that_claims_two_to_the_sixty_elements_takes_no_memory(untouched):
    started = time.monotonic()
    before = untouched.peak_memory_bytes()
    refused_model(untouched, models.bomb([2**30, 2**30]), "invalid_model", says="bomb")
    assert time.monotonic() - started < 30
    assert untouched.peak_memory_bytes() - before < 50 << 20


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile", "Range"])
def test_an_operator_that_would_make_two_to_the_forty_elements_takes_no_memory(untouched, operator):
    # A graph of a few hundred bytes; whether it is accepted is another matter than whether
    # looking at it costs anything.
    def weight(name, values, kind=np.int64):
        return numpy_helper.from_array(np.array(values, kind), name)

    nodes = {
        "ConstantOfShape": helper.make_node("ConstantOfShape", ["huge"], ["made"], "maker"),
        "Expand": helper.make_node("Expand", ["one", "huge"], ["made"], "maker"),
        "Tile": helper.make_node("Tile", ["one2", "huge"], ["made"], "maker"),
        "Range": helper.make_node("Range", ["zero", "end", "step"], ["made"], "maker"),
    }
    initializers = [
        weight("huge", [2**20, 2**20]), weight("one", [1.0], np.float32), weight("one2", [[1.0]], np.float32),
        weight("zero", 0.0, np.float32), weight("end", 2.0**40, np.float32), weight("step", 1.0, np.float32),
        weight("axes", [-1]),
    ]
    reduce = helper.make_node("ReduceMean", ["made"], ["mean"], "mean", keepdims=0)
    add = helper.make_node("Add", ["input", "mean"], ["output"], "add")
    content = models.build([nodes[operator], reduce, add], [("input", ["batch", 4])],
                           [("output", ["batch", 4])], initializers)
    started = time.monotonic()
    answer = untouched.post_model(content, "bomb")
    assert time.monotonic() - started < 30
    assert answer.status_code in (201, 422)
    if answer.status_code == 201:
        assert operator in answer.json()["summary"]["unsupported_operators"] or not answer.json()["summary"]["trainable"]
        assert untouched.delete(f"/v1/models/{answer.json()['id']}").status_code == 204
    else:
        assert_speaks_of_the_file(answer.json())


# External data.


def test_a_model_whose_external_file_is_missing_is_refused_by_its_name(untouched):
    content, _ = models.with_external_data("weights.bin")
    refused_model(untouched, content, "external_data_missing", says=["w1", "weights.bin"])


@pytest.mark.parametrize(
    "location",
    ["../weights.bin", "a/../../weights.bin", "/etc/passwd", "..", "", ".", "a/../weights.bin", "..\\weights.bin", "C:\\w.bin"],
)
def test_a_model_whose_external_file_is_outside_is_refused(untouched, location):
    content, data = models.with_external_data(location)
    refused_model(untouched, content, "external_data_outside", says="w1")
    form = [("file", ("model.onnx", content)), ("file", ("weights.bin", data))]
    answer = untouched.post("/v1/models", params={"name": "bad"}, files=form)
    assert_problem(answer, 422, "external_data_outside", says="w1")


@pytest.mark.parametrize("location", ["../../../../../../etc/passwd", "/etc/passwd", "missing.bin"])
def test_external_data_inside_of_a_branch_is_refused_as_elsewhere(untouched, location):
    answer = untouched.post_model(models.external_data_in_a_branch(location), "branch")
    if answer.status_code == 201:
        untouched.delete(f"/v1/models/{answer.json()['id']}")
    code = "external_data_missing" if location == "missing.bin" else "external_data_outside"
    assert_problem(answer, 422, code, says="far")


@pytest.mark.parametrize(
    "name", ["../model.onnx", "/etc/passwd", "a/../../m.onnx", "a\\b.onnx", "..", "m\n.onnx"]
)
def test_an_uploaded_file_may_not_be_named_outside_of_its_folder(untouched, name):
    # By hand: clients clean such names.
    quoted = name.replace("\n", "\t")
    body = (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="' + quoted.encode()
        + b'"\r\n\r\n' + models.mlp() + b"\r\n--B--\r\n"
    )
    answer = untouched.post("/v1/models", params={"name": "bad"}, data=body,
                            headers={"Content-Type": "multipart/form-data; boundary=B"})
    assert_problem(answer, 422, "invalid_file_name", pointer="/file")


def test_external_data_that_ends_too_early_is_refused(untouched):
    content, data = models.with_external_data("weights.bin")
    form = [("file", ("model.onnx", content)), ("file", ("weights.bin", data[:-1]))]
    answer = untouched.post("/v1/models", params={"name": "bad"}, files=form)
    assert_problem(answer, 422, "invalid_model", says=["w1", "weights.bin"])


@pytest.mark.parametrize(("key", "value"), [("offset", "-1"), ("offset", "99999999999999999999"), ("length", "ten"),
                                            ("offset", str(2**63)), ("length", "1")])
def test_external_data_with_a_nonsensical_place_is_refused(untouched, key, value):
    content, data = models.with_external_data("weights.bin")
    model = onnx.load_from_string(content)
    tensor = next(t for t in model.graph.initializer if t.name == "w1")
    next(entry for entry in tensor.external_data if entry.key == key).value = value
    form = [("file", ("model.onnx", model.SerializeToString())), ("file", ("weights.bin", data))]
    answer = untouched.post("/v1/models", params={"name": "bad"}, files=form)
    assert_speaks_of_the_file(assert_problem(answer, 422, "invalid_model", says="w1"))


# Graphs that are none.


def test_an_unknown_operator_is_refused_by_name(untouched):
    refused_model(untouched, models.unknown_operator(), "unknown_operator", says=["FluxCapacitor", "doc"])


def test_an_operator_of_a_domain_that_is_not_imported_is_refused_by_name(untouched):
    node = helper.make_node("Special", ["input"], ["output"], "it", domain="com.example")
    content = models.build([node], [("input", ["batch", 4])], [("output", ["batch", 4])])
    refused_model(untouched, content, "unknown_operator", says="com.example")


def test_a_graph_with_a_cycle_is_refused_with_a_node_of_it(untouched):
    refused_model(untouched, models.cycle(), "invalid_model", says=["cycle", "round"])


def test_a_node_that_reads_what_nothing_makes_is_refused(untouched):
    node = helper.make_node("Add", ["input", "ghost"], ["output"], "adding")
    content = models.build([node], [("input", ["batch", 4])], [("output", ["batch", 4])])
    refused_model(untouched, content, "invalid_model", says=["ghost", "adding"])


def test_two_nodes_that_make_the_same_value_are_refused(untouched):
    nodes = [helper.make_node("Relu", ["input"], ["output"], f"n{n}") for n in range(2)]
    content = models.build(nodes, [("input", ["batch", 4])], [("output", ["batch", 4])])
    refused_model(untouched, content, "invalid_model", says="output")


def test_an_output_that_nothing_makes_is_refused(untouched):
    node = helper.make_node("Relu", ["input"], ["a"], "n")
    content = models.build([node], [("input", ["batch", 4])], [("elsewhere", ["batch", 4])])
    refused_model(untouched, content, "invalid_model", says="elsewhere")


def test_shapes_that_do_not_go_together_are_refused_or_told(untouched):
    weight = numpy_helper.from_array(np.ones((5, 3), np.float32), "w")
    node = helper.make_node("MatMul", ["input", "w"], ["output"], "product")
    content = models.build([node], [("input", ["batch", 4])], [("output", ["batch", 3])], [weight])
    answer = untouched.post_model(content, "mismatch")
    if answer.status_code == 201:
        summary = answer.json()["summary"]
        untouched.delete(f"/v1/models/{answer.json()['id']}")
        assert not summary["trainable"]
        assert summary["unsupported_operators"]
    else:
        assert_speaks_of_the_file(assert_problem(answer, 422, "invalid_model", says="product"))


def test_an_opset_that_does_not_exist_is_refused_by_number(untouched):
    node = helper.make_node("Relu", ["input"], ["output"], "n")
    for opset in (0, 3, 9999):
        content = models.build([node], [("input", ["batch", 4])], [("output", ["batch", 4])], opset=opset)
        refused_model(untouched, content, "invalid_model", says=str(opset))


CONVOLUTION = {
    "strides": [[0, 0], [-1, -1], [2**62, 2**62], [1], [1, 1, 1]],
    "dilations": [[0, 0], [-1, -1], [2**62, 2**62], [1]],
    "kernel_shape": [[0, 0], [-1, -1], [2**62, 2**62], [3], [5, 5]],
    "pads": [[-9, -9, -9, -9], [2**62] * 4, [1], [1] * 8],
    "group": [0, -1, 3, 2**62],
}


@pytest.mark.parametrize(
    ("attribute", "value"),
    [(attribute, value) for attribute, values in CONVOLUTION.items() for value in values],
    ids=lambda value: str(value).replace(str(2**62), "2^62"),
)
def test_a_convolution_with_an_attribute_out_of_reason_does_not_kill_its_reader(untouched, attribute, value):
    model = onnx.load(DIGITS_CNN)
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    kept = [a for a in node.attribute if a.name != attribute]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(attribute, value)])
    answer = untouched.post_model(model.SerializeToString(), "odd")
    if answer.status_code == 201:
        made = answer.json()
        layers = untouched.get(f"/v1/models/{made['id']}/layers")
        untouched.delete(f"/v1/models/{made['id']}")
        assert not made["summary"]["trainable"]
        assert made["summary"]["unsupported_operators"]
        assert layers.status_code in (200, 422)
    else:
        assert_problem(answer, 422)
        assert_speaks_of_the_file(answer.json())


@pytest.mark.parametrize(
    ("operator", "inputs", "attributes"),
    [
        ("DepthToSpace", ["input"], {"blocksize": 2**62}),
        ("DepthToSpace", ["input"], {"blocksize": 0}),
        ("Split", ["scalar"], {}),
        ("Gather", ["scalar", "scalar"], {}),
        ("Concat", ["input", "input"], {"axis": 2**62}),
        ("Flatten", ["input"], {"axis": -(2**63)}),
        ("Transpose", ["input"], {"perm": [0, 1, 2, 9]}),
        ("Transpose", ["input"], {"perm": [0, 0, 0, 0]}),
        ("Reshape", ["input", "huge"], {}),
        ("MaxPool", ["input"], {"kernel_shape": [3, 3], "pads": [2**62] * 4}),
        ("MaxPool", ["input"], {"kernel_shape": [0, 0]}),
        ("Add", [], {}),
        ("Conv", [], {}),
        ("Conv", ["input", "scalar"], {}),
        ("Gemm", ["scalar", "scalar"], {}),
        ("BatchNormalization", ["input"], {}),
    ],
    ids=lambda value: str(value),
)
def test_a_node_out_of_reason_does_not_kill_its_reader(untouched, operator, inputs, attributes):
    node = helper.make_node(operator, inputs, ["output"], "odd", **attributes)
    initializers = [
        numpy_helper.from_array(np.array(1.0, np.float32), "scalar"),
        numpy_helper.from_array(np.array([2**62, 4], np.int64), "huge"),
    ]
    content = models.build([node], [("input", ["batch", 4, 8, 8])], [("output", None)], initializers)
    answer = untouched.post_model(content, "odd")
    if answer.status_code == 201:
        made = answer.json()
        untouched.delete(f"/v1/models/{made['id']}")
        assert not made["summary"]["trainable"]
        assert made["summary"]["unsupported_operators"]
    else:
        assert_speaks_of_the_file(assert_problem(answer, 422))


# Data sets.


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\x01\x02\x03\x04" * 100, "invalid_dataset"),
        (b"PK\x03\x04 and no zip", "invalid_dataset"),
        (b"\x1f\x8b and no gzip", "invalid_dataset"),
        (b"PAR1 and no parquet", "invalid_dataset"),
        (DIGITS.read_bytes()[:-1000], "invalid_dataset"),
        (DIGITS.read_bytes()[:20000], "invalid_dataset"),
        (models.idx(np.zeros((4, 2, 2), np.uint8))[:-3], "invalid_dataset"),
        (b"PK\x05\x06" + b"\0" * 18, "invalid_dataset"),
    ],
    ids=["bytes", "zip", "gzip", "parquet", "npz cut", "npz halved", "idx cut", "empty zip"],
)
def test_a_file_that_is_no_data_set_is_refused(untouched, content, code):
    refused_dataset(untouched, content, code)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_input_that_is_not_finite_is_refused_with_its_place(untouched, value, dtype):
    arrays = models.digits()
    x = arrays["x_train"].astype(dtype)
    x[1234, 3, 4] = value
    refused_dataset(untouched, models.npz(x=x, y=arrays["y_train"]), says=["`x`", "1234", "finite"])


def test_a_nan_in_a_table_is_refused_with_its_place(untouched):
    refused_dataset(untouched, b"a,b,y\n1,2,0\n3,nan,1\n", says=[":3`", "`b` holds NaN"])
    refused_dataset(untouched, b"a,b,y\n1,2,0\n3,,1\n", says=[":3`", "`b` is empty"])
    refused_dataset(untouched, b"a,b,y\n1,2,0\n3,four,1\n", says=["line 3", "`b`", "four"])


@pytest.mark.parametrize("label", [-1, -(2**40), 2**40])
def test_a_label_out_of_range_is_refused_with_its_place(untouched, label):
    arrays = models.digits()
    y = arrays["y_train"].copy()
    y[77] = label
    refused_dataset(untouched, models.npz(x=arrays["x_train"], y=y), says=["`y`", str(label), "77"])


def test_a_label_beyond_the_models_classes_is_refused_when_they_meet(untouched):
    arrays = models.digits()
    y = arrays["y_train"].copy()
    y[77] = 10
    dataset = untouched.upload_dataset(models.npz(x=arrays["x_train"], y=y), "eleven")
    assert dataset["target"]["classes"] == 11
    body = {"kind": "train", "model": untouched.model["id"], "dataset": dataset["id"]}
    answer = untouched.post("/v1/jobs", json=body)
    assert_problem(answer, 422, "data_misfit", pointer="/dataset", says=["10", "logits"])
    assert untouched.delete(f"/v1/datasets/{dataset['id']}").status_code == 204


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": np.zeros((0, 8, 8), np.uint8), "y": np.zeros(0, np.int64)},
        {"x_train": np.ones((4, 8, 8), np.uint8), "y_train": np.zeros(4, np.int64),
         "x_test": np.zeros((0, 8, 8), np.uint8), "y_test": np.zeros(0, np.int64)},
        {"x": np.zeros((4, 0), np.float32), "y": np.zeros(4, np.int64)},
    ],
    ids=["all", "test", "no numbers"],
)
def test_an_empty_split_is_refused(untouched, arrays):
    refused_dataset(untouched, models.npz(**arrays), says="empty")


def test_a_table_without_rows_is_refused(untouched):
    refused_dataset(untouched, b"a,b,y\n", says="no rows")


def test_counts_that_differ_are_refused_with_both(untouched):
    arrays = models.digits()
    content = models.npz(x=arrays["x_train"], y=arrays["y_train"][:-1])
    refused_dataset(untouched, content, says=["1437", "1436"])
    idx = {"train-images": models.idx(arrays["x_train"]), "train-labels": models.idx(arrays["y_train"][:-1])}
    refused_dataset(untouched, models.zip_of(idx), says=["1437", "1436"])


def test_a_test_split_of_another_shape_is_refused(untouched):
    arrays = models.digits()
    content = models.npz(**{**arrays, "x_test": arrays["x_test"].reshape(360, 64)})
    refused_dataset(untouched, content, says="`x`")


def test_a_test_split_without_labels_is_refused(untouched):
    arrays = models.digits()
    del arrays["y_test"]
    refused_dataset(untouched, models.npz(**arrays), says="`y`")


def test_ragged_tables_are_refused_with_the_line(untouched):
    refused_dataset(untouched, b"a,b,y\n1,2,0\n3,4\n", says="line 3")


def test_a_target_column_that_is_not_there_is_refused_with_those_that_are(untouched):
    refused_dataset(untouched, b"a,b,y\n1,2,0\n", params={"target": "z"}, says=["`z`", "a", "b", "y"])


@pytest.mark.parametrize(
    "shape",
    [(2**60,), (2**31, 2**31), (2**62, 8), (2**40, 0), (0, 2**40, 2**40), (4, 2**40, 2**40, 0), (10**9,), ()],
    ids=str,
)
def test_an_array_that_claims_more_than_it_holds_is_refused_without_dying(untouched, shape):
    entry = {"x.npy": models.npy_header(shape), "y.npy": models.npy_header((4,), "<i8") + b"\0" * 32}
    refused_dataset(untouched, models.zip_of(entry))


@pytest.mark.parametrize("sizes", [(2**32 - 1,) * 3, (0, 2**32 - 1, 2**32 - 1, 2**32 - 1), (2**32 - 1,), (1,) * 8], ids=str)
def test_an_idx_file_that_claims_more_than_it_holds_is_refused_without_dying(untouched, sizes):
    head = bytes([0, 0, 8, len(sizes)]) + b"".join(size.to_bytes(4, "big") for size in sizes)
    refused_dataset(untouched, head)


def test_structured_complex_object_and_text_arrays_are_refused(untouched):
    for x in (
        np.zeros(4, [("a", "<f4"), ("b", "<i4")]), np.zeros((4, 2), np.complex64),
        np.array([{"a": 1}] * 4, object), np.array(["a", "b", "c", "d"]),
    ):
        answer = untouched.post_dataset(models.npz(x=x, y=np.zeros(4, np.int64)), "bad")
        problem = assert_problem(answer, 422, says="`x`")
        assert problem["code"] in ("invalid_dataset", "not_supported")


def test_sounds_without_sound_are_refused_and_other_kinds_are_not_supported(untouched):
    files = {"cat/1.wav": b"RIFF\0\0\0\0WAVE", "dog/1.wav": b"RIFF\0\0\0\0WAVE"}
    others = {"cat/1.opus": b"OggS", "dog/1.opus": b"OggS"}
    for packed in (models.zip_of, models.tar_of, lambda files: models.tar_of(files, "w:gz")):
        refused_dataset(untouched, packed(files), says=["cat/1.wav", "damaged=skip"])
        refused_dataset(untouched, packed(others), "not_supported", says=["cat/1.opus", "npz"])


# Data sets that do not fit.


def test_examples_of_another_shape_than_the_models_input_are_refused(untouched):
    arrays = models.digits()
    content = models.npz(x=arrays["x_train"][:, :7], y=arrays["y_train"])
    dataset = untouched.upload_dataset(content, "too low")
    for kind in ("train", "evaluate", "prune"):
        params = {"target": {"macs_ratio": 0.5}} if kind == "prune" else {}
        body = {"kind": kind, "model": untouched.model["id"], "dataset": dataset["id"], "params": params}
        answer = untouched.post("/v1/jobs", json=body)
        assert_problem(answer, 422, "data_misfit", pointer="/dataset", says=["input", "[7, 8]"])
    assert untouched.delete(f"/v1/datasets/{dataset['id']}").status_code == 204


def test_a_data_set_without_labels_can_not_be_trained_on(untouched):
    dataset = untouched.upload_dataset(models.npz(x=models.digits()["x_train"]), "no labels")
    assert dataset["target"] is None
    body = {"kind": "train", "model": untouched.model["id"], "dataset": dataset["id"]}
    assert_problem(untouched.post("/v1/jobs", json=body), 422, "data_misfit", pointer="/dataset", says="target")
    assert untouched.delete(f"/v1/datasets/{dataset['id']}").status_code == 204


def test_splits_that_leave_nothing_are_refused(untouched):
    arrays = models.digits()
    dataset = untouched.upload_dataset(models.npz(x=arrays["x_train"], y=arrays["y_train"]), "one split")
    body = {"kind": "train", "model": untouched.model["id"], "dataset": dataset["id"]}
    answer = untouched.post("/v1/jobs", json={**body, "data": {"test_fraction": 0.0}})
    assert_problem(answer, 422, "data_misfit", pointer="/data/test_fraction", says="empty")
    answer = untouched.post("/v1/jobs", json={**body, "data": {"validation_fraction": 0.5, "test_fraction": 0.5}})
    assert_problem(answer, 422)
    answer = untouched.post("/v1/jobs", json={**body, "data": {"validation_fraction": 0.9999}})
    assert_problem(answer, 422)
    assert untouched.delete(f"/v1/datasets/{dataset['id']}").status_code == 204


@pytest.mark.parametrize("shape", [["batch", 2**40, 2**40], [2**40, 2**40, 2**40], [0, 64], [-1, 64], []], ids=str)
@pytest.mark.parametrize("place", ["input", "output"])
def test_a_model_that_declares_an_absurd_shape_is_refused_here_or_there(untouched, shape, place):
    shapes = {"input": ["batch", 64], "output": ["batch", 64], place: shape}
    node = helper.make_node("Relu", ["input"], ["output"], "n")
    content = models.build([node], [("input", shapes["input"])], [("output", shapes["output"])])
    answer = untouched.post_model(content, "absurd")
    if answer.status_code == 422:
        assert_speaks_of_the_file(answer.json())
        return
    assert answer.status_code == 201
    model = answer.json()
    body = {"kind": "evaluate", "model": model["id"], "dataset": untouched.digits["id"]}
    answer = untouched.post("/v1/jobs", json=body)
    job = answer.json()
    if answer.status_code == 202:
        job = untouched.wait(job)
        assert untouched.delete(f"/v1/jobs/{job['id']}").status_code == 204
    untouched.delete(f"/v1/models/{model['id']}")
    assert answer.status_code in (202, 422), answer.text
    if answer.status_code == 202:
        # An output of another shape than declared may be computed all the same.
        assert job["error"] is None or "exit status" not in job["error"]["detail"], job["error"]


def test_targets_of_many_labels_that_are_not_0_or_1_are_refused(untouched):
    arrays = models.digits()
    y = np.eye(10, dtype=np.int64)[arrays["y_train"]] * 7
    answer = untouched.post_dataset(models.npz(x=arrays["x_train"], y=y), "sevens")
    if answer.status_code == 201:
        body = {"kind": "train", "model": untouched.mlp["id"], "dataset": answer.json()["id"], "task": "multilabel",
                "params": {"epochs": 1}}
        posted = post_and_clean(untouched, body)
        untouched.delete(f"/v1/datasets/{answer.json()['id']}")
        assert_problem(posted, 422, says="y")
    else:
        assert_problem(answer, 422, "invalid_dataset", says="`y`")


def test_one_hot_classes_are_no_values_to_fit_unless_the_task_says_so(untouched):
    arrays = models.digits()
    content = models.npz(x=arrays["x_train"], y=np.eye(10, dtype=np.float32)[arrays["y_train"]])
    dataset = untouched.upload_dataset(content, "one-hot")
    assert dataset["target"]["one_hot"] is True
    body = {"kind": "evaluate", "model": untouched.model["id"], "dataset": dataset["id"]}
    assert_problem(untouched.post("/v1/jobs", json=body), 422, "data_misfit", pointer="/task", says=["y.argmax", "regression"])
    for task in ("regression", "multilabel"):
        assert post_and_clean(untouched, {**body, "task": task}).status_code == 202
    assert untouched.delete(f"/v1/datasets/{dataset['id']}").status_code == 204


def test_lists_of_one_label_each_are_lists(untouched):
    rows = "".join(json.dumps({"text": f"number {n}", "labels": [["odd", "even"][n % 2]]}) + "\n" for n in range(20))
    dataset = untouched.upload_dataset(rows.encode(), "lists", params={"text": "text", "target": "labels"})
    assert dataset["target"]["shape"] == [2] and "one_hot" not in dataset["target"]
    assert untouched.delete(f"/v1/datasets/{dataset['id']}").status_code == 204


def test_a_table_that_does_not_fit_names_the_column_that_was_left_out(untouched):
    rows = "\n".join("1,2,0" for _ in range(10))
    dataset = untouched.upload_dataset(f"width,height,kind\n{rows}\n".encode(), "narrow")
    body = {"kind": "evaluate", "model": untouched.mlp["id"], "dataset": dataset["id"]}
    answer = untouched.post("/v1/jobs", json=body)
    assert_problem(answer, 422, "data_misfit", pointer="/dataset", says=["[2]", "`kind`", "?target="])
    assert untouched.delete(f"/v1/datasets/{dataset['id']}").status_code == 204


def test_an_integer_beyond_int64_is_refused_instead_of_wrapped(untouched):
    x = np.array([[2**63 + 5], [1]], np.uint64)
    refused_dataset(untouched, models.npz(x=x, y=np.array([0, 1])), says="`x`")


def test_a_model_that_computes_nothing_finite_fails_at_its_first_attempt_and_says_why(untouched):
    job = untouched.submit("evaluate", untouched.model, untouched.digits, data={"preprocess": {"scale": 1e300}})
    job = untouched.wait(job)
    untouched.delete(f"/v1/jobs/{job['id']}")
    assert job["status"] == "failed"
    assert job["error"]["code"] != "worker_died", job["error"]
    assert job["attempt"] == 1 and "finite" in job["error"]["detail"] or "NaN" in job["error"]["detail"]


# Requests.


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"kind": "shrink"}, "/kind"),
        ({"kind": 3}, "/kind"),
        ({"kind": None}, "/kind"),
        ({"model": "digits-cnn"}, "/model"),
        ({"model": None}, "/model"),
        ({"dataset": 7}, "/dataset"),
        ({"params": []}, "/params"),
        ({"params": [3]}, "/params"),
        ({"params": "fast"}, "/params"),
        ({"params": {"optimizer": []}}, "/params/optimizer"),
        ({"data": [32]}, "/data"),
        ({"data": {"preprocess": []}}, "/data/preprocess"),
        ({"kind": {"train": None}}, "/kind"),
        ({"params": {"epochs": "ten"}}, "/params/epochs"),
        ({"params": {"epochs": 1.5}}, "/params/epochs"),
        ({"params": {"epochs": -1}}, "/params/epochs"),
        ({"params": {"epochs": 0}}, "/params/epochs"),
        ({"params": {"epochs": 2**40}}, "/params/epochs"),
        ({"params": {"optimizer": "adam"}}, "/params/optimizer"),
        ({"params": {"optimizer": {"name": "lion"}}}, "/params/optimizer/name"),
        ({"params": {"optimizer": {"learning_rate": 0}}}, "/params/optimizer/learning_rate"),
        ({"params": {"optimizer": {"name": "adam", "momentum": 0.9}}}, "/params/optimizer/momentum"),
        ({"params": {"schedule": {"name": "exponential"}}}, "/params/schedule/name"),
        ({"params": {"loss": "hinge"}}, "/params/loss"),
        ({"params": {"label_smoothing": 1}}, "/params/label_smoothing"),
        ({"params": {"weights": "random"}}, "/params/weights"),
        ({"params": {"early_stopping": {"patience": 0}}}, "/params/early_stopping/patience"),
        ({"params": {"augment": {"flip": True}}}, "/params/augment/flip"),
        ({"data": {"batch_size": 0}}, "/data/batch_size"),
        ({"data": {"batch_size": -1}}, "/data/batch_size"),
        ({"data": {"batch_size": 2**33}}, "/data/batch_size"),
        ({"data": {"validation_fraction": 1}}, "/data/validation_fraction"),
        ({"data": {"test_fraction": -0.1}}, "/data/test_fraction"),
        ({"data": {"limit": 0}}, "/data/limit"),
        ({"data": {"preprocess": {"std": [0]}}}, "/data/preprocess/std"),
        ({"data": {"preprocess": {"scale": 0}}}, "/data/preprocess/scale"),
        ({"data": {"preprocess": {"layout": "hwcn"}}}, "/data/preprocess/layout"),
        ({"data": None}, "/data"),
        ({"task": "clustering"}, "/task"),
        ({"task": "language_modeling"}, "/task"),
        ({"task": "embedding"}, "/task"),
        ({"device": 0}, "/device"),
        ({"device": "tpu"}, "/device"),
        ({"device": ""}, "/device"),
        ({"seed": -1}, "/seed"),
        ({"seed": 2**63}, "/seed"),
        ({"seed": 2**70}, "/seed"),
        ({"priority": 1001}, "/priority"),
        ({"priority": "high"}, "/priority"),
        ({"max_attempts": 0}, "/max_attempts"),
        ({"timeout_seconds": 0}, "/timeout_seconds"),
        ({"tags": {"team": 1}}, "/tags/team"),
        ({"tags": ["vision"]}, "/tags"),
        ({"tags": {"": "x"}}, "/tags/"),
        ({"tags": {f"t{n}": "" for n in range(51)}}, "/tags"),
        ({"name": "x" * 201}, "/name"),
        ({"name": 1}, "/name"),
        ({"webhook": "https://example.com"}, "/webhook"),
        ({"webhook": {"url": "example.com"}}, "/webhook/url"),
        ({"dry_run": "yes"}, "/dry_run"),
        ({"dataset": None}, "/dataset"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_wrong_value_of_a_job_is_422_with_its_pointer(untouched, change, pointer):
    body = {"kind": "train", "model": untouched.model["id"], "dataset": untouched.digits["id"], **change}
    assert_problem(post_and_clean(untouched, body), 422, pointer=pointer)


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({}, "/params/target"),
        ({"target": {}}, "/params/target"),
        ({"target": {"macs_ratio": 0}}, "/params/target/macs_ratio"),
        ({"target": {"macs_ratio": 1}}, "/params/target/macs_ratio"),
        ({"target": {"macs_ratio": -0.5}}, "/params/target/macs_ratio"),
        ({"target": {"macs_ratio": "half"}}, "/params/target/macs_ratio"),
        ({"target": {"sparsity": 0.5}}, "/params/target/sparsity"),
        ({"granularity": "weight", "target": {"macs_ratio": 0.5}}, "/params/target/macs_ratio"),
        ({"granularity": "weight", "target": {"sparsity": 1.0}}, "/params/target/sparsity"),
        ({"target": {"macs_ratio": 0.5}, "norm": 3}, "/params/norm"),
        ({"target": {"macs_ratio": 0.5}, "criterion": "random", "norm": 1}, "/params/norm"),
        ({"target": {"macs_ratio": 0.5}, "n": 2, "m": 4}, "/params/n"),
        ({"target": {"macs_ratio": 0.5}, "schedule": {"steps": 0}}, "/params/schedule/steps"),
        ({"target": {"macs_ratio": 0.5}, "schedule": {"curve": "sine"}}, "/params/schedule/curve"),
        ({"target": {"macs_ratio": 0.5}, "round_to": 0}, "/params/round_to"),
        ({"target": {"macs_ratio": 0.5}, "max_layer_sparsity": 0}, "/params/max_layer_sparsity"),
        ({"target": {"macs_ratio": 0.5}, "exclude": ["[a"]}, "/params/exclude/0"),
        ({"target": [0.5]}, "/params/target"),
        ({"target": {"macs_ratio": 0.5}, "schedule": [2]}, "/params/schedule"),
        ({"target": {"macs_ratio": 0.5}, "granularity": {"channel": None}}, "/params/granularity"),
        ({"target": {"macs_ratio": 0.5}, "finetune": {"epochs": 10_001}}, "/params/finetune/epochs"),
        ({"target": {"macs_ratio": 0.5}, "finetune": {"weights": "reinitialize"}}, "/params/finetune/weights"),
    ],
    ids=lambda value: str(value)[:80],
)
def test_a_wrong_parameter_of_a_pruning_is_422_with_its_pointer(untouched, params, pointer):
    body = {"kind": "prune", "model": untouched.model["id"], "dataset": untouched.digits["id"], "params": params}
    assert_problem(post_and_clean(untouched, body), 422, pointer=pointer)


@pytest.mark.parametrize(
    ("steps", "pointer"),
    [
        ([], "/params/steps"),
        ([{"kind": "evaluate"}] * 33, "/params/steps"),
        ({}, "/params/steps"),
        ([{"kind": "pipeline", "params": {"steps": []}}], "/params/steps/0/kind"),
        ([{"kind": "evaluate"}, {"kind": "search"}], "/params/steps/1/kind"),
        ([{"kind": "train", "params": {"epochs": 0}}], "/params/steps/0/params/epochs"),
        ([{"kind": "prune", "params": {"target": {"macs_ratio": 2}}}], "/params/steps/0/params/target/macs_ratio"),
        ([{}], "/params/steps/0/kind"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_wrong_pipeline_is_422_with_its_pointer(untouched, steps, pointer):
    body = {"kind": "pipeline", "model": untouched.model["id"], "dataset": untouched.digits["id"],
            "params": {"steps": steps}}
    assert_problem(untouched.post("/v1/jobs", json=body), 422, pointer=pointer)


def test_all_faults_of_a_request_are_named_at_once(untouched):
    body = {"kind": "train", "model": untouched.model["id"], "dataset": untouched.digits["id"],
            "priority": 5000, "max_attempts": 0, "data": {"batch_size": 0}}
    problem = assert_problem(untouched.post("/v1/jobs", json=body), 422)
    assert {fault["pointer"] for fault in problem["errors"]} == {"/priority", "/max_attempts", "/data/batch_size"}


def test_faults_of_form_are_told_together(server, digits_model, digits):
    def faults(**body):
        answer = server.post("/v1/jobs", json={"kind": "train", "model": digits_model["id"], "dataset": digits["id"], **body})
        problem = assert_problem(answer, 422)
        return [fault["pointer"] for fault in problem["errors"]]

    assert faults(priority="high", tags=[], data={"batch_size": "many", "limits": 3}, nam="x") == [
        "/data/batch_size", "/data/limits", "/nam", "/priority", "/tags"]
    assert faults(params={"epochs": "ten", "optimizer": {"learning_rate": "small"}, "los": 1}) == [
        "/params/epochs", "/params/los", "/params/optimizer/learning_rate"]
    # A strategy that there is not leaves open what else it may have.
    assert faults(kind="search", params={"space": {"width": [0.5, 1]}, "strategy": {"name": "tpee", "population": 3}}) == [
        "/params/strategy/name"]
    # What is missing is told once, and not again for what it is part of.
    assert faults(kind="pipeline", params={"steps": [{"params": {}}], "step": 1}) == ["/params/step", "/params/steps/0/kind"]


@pytest.mark.parametrize(
    ("change", "pointer", "word"),
    [
        *[({"task": name, "params": {"target": {"macs_ratio": 0.5}}}, "/task", name)
          for name in ("embedding",)],
    ],
    ids=lambda value: str(value)[:70],
)
def test_what_the_contract_has_and_this_version_has_not_is_refused_by_name(untouched, change, pointer, word):
    body = {"kind": "prune", "model": untouched.model["id"], "dataset": untouched.digits["id"], **change}
    problem = assert_problem(untouched.post("/v1/jobs", json=body), 422, pointer=pointer)
    assert word in problem["detail"] and "support" in problem["detail"], problem["detail"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "nonsense", '{"kind": "prune",}', '{"a": NaN}', "[" * 100_000, '"\\ud800"', "{} {}", "\xff\xfe"],
    ids=["empty", "open", "word", "comma", "nan", "deep", "surrogate", "two", "latin-1"],
)
def test_a_body_that_is_no_json_is_400(untouched, text):
    answer = untouched.post("/v1/jobs", data=text.encode("latin-1"), headers={"Content-Type": "application/json"})
    assert_problem(answer, 400, "malformed_json")


@pytest.mark.parametrize("value", [[], "x", 1, None, True])
def test_json_that_is_no_object_is_422(untouched, value):
    answer = untouched.post("/v1/jobs", data=json.dumps(value), headers={"Content-Type": "application/json"})
    assert_problem(answer, 422)


def test_a_list_in_the_order_of_the_fields_is_no_job(untouched):
    body = ["prune", untouched.model["id"], None, None, {"target": {"macs_ratio": 0.5}}]
    assert_problem(post_and_clean(untouched, body), 422)


def test_a_json_body_of_ten_megabytes_is_413_and_takes_no_memory(untouched):
    before = untouched.peak_memory_bytes()
    body = json.dumps({"kind": "train", "name": "x" * (10 << 20)}).encode()
    headers = {"Content-Type": "application/json"}
    assert_problem(untouched.post("/v1/jobs", data=body, headers=headers), 413, "body_too_large")
    chunks = (body[start : start + 65536] for start in range(0, len(body), 65536))
    assert_problem(untouched.post("/v1/jobs", data=chunks, headers=headers), 413, "body_too_large")
    assert untouched.peak_memory_bytes() - before < 30 << 20


def test_a_job_that_names_a_deleted_model_or_data_set_is_422(untouched):
    model = untouched.upload_model(models.identity(), "short-lived")
    dataset = untouched.upload_dataset(b"a,b\n1,2\n3,4\n", "short-lived")
    for kind, thing in (("models", model), ("datasets", dataset)):
        assert untouched.delete(f"/v1/{kind}/{thing['id']}").status_code == 204
    body = {"kind": "train", "model": model["id"], "dataset": untouched.digits["id"]}
    assert_problem(untouched.post("/v1/jobs", json=body), 422, "model_not_found", pointer="/model", says=model["id"])
    body = {"kind": "train", "model": untouched.model["id"], "dataset": dataset["id"]}
    assert_problem(untouched.post("/v1/jobs", json=body), 422, "dataset_not_found", pointer="/dataset", says=dataset["id"])
    body = {"kind": "evaluate", "model": NOBODY, "dataset": untouched.digits["id"]}
    assert_problem(untouched.post("/v1/jobs", json=body), 422, "model_not_found", pointer="/model")


def test_an_id_of_something_else_is_told(untouched):
    body = {"kind": "evaluate", "model": untouched.digits["id"], "dataset": untouched.digits["id"]}
    assert_problem(untouched.post("/v1/jobs", json=body), 422, "model_not_found", pointer="/model", says="the id of a data set")
    body = {"kind": "evaluate", "model": untouched.model["id"], "dataset": untouched.model["id"]}
    assert_problem(untouched.post("/v1/jobs", json=body), 422, "dataset_not_found", pointer="/dataset", says="the id of a model")


@pytest.mark.parametrize(("params", "pointer", "words"), [
    ({"epochs": "many"}, "/params/epochs", 'must be a whole number, not "many"'),
    ({"epochs": 1.5}, "/params/epochs", "must be a whole number, not 1.5"),
    ({"epochs": -3}, "/params/epochs", "must not be negative"),
    ({"optimizer": {"learning_rate": "high"}}, "/params/optimizer/learning_rate", 'must be a number, not "high"'),
    ({"optimizer": 1}, "/params/optimizer", "must be an object, not 1"),
    ({"optimizer": {"name": 5}}, "/params/optimizer/name", "must be a word, not 5"),
])
def test_types_are_told_in_words_of_json(untouched, params, pointer, words):
    body = {"kind": "train", "model": untouched.model["id"], "dataset": untouched.digits["id"], "params": params}
    assert_problem(untouched.post("/v1/jobs", json=body), 422, pointer=pointer, says=words)


def test_all_that_is_wrong_with_a_request_is_told_at_once(untouched):
    def pointers(body):
        problem = assert_problem(untouched.post("/v1/jobs", json=body), 422)
        return problem["code"], {fault["pointer"] for fault in problem["errors"]}

    # Wrong types beside values out of range, in the request and in its parameters, and nothing that follows from them.
    params = {"epochs": 0, "optimizer": {"learning_rate": "high", "weight_decay": -1}, "schedul": {}}
    body = {"kind": "train", "model": untouched.model["id"], "priority": "high", "seed": 2**63, "params": params,
            "data": {"batch_size": 0, "test_fraction": "x"}, "tags": {"": "empty"}}
    assert pointers(body) == ("invalid_request", {
        "/params/epochs", "/params/optimizer/learning_rate", "/params/optimizer/weight_decay", "/params/schedul",
        "/priority", "/seed", "/data/batch_size", "/data/test_fraction", "/tags/", "/dataset"})
    # Of a target that can't be read nothing more is said than that.
    pruning = {"target": {"macs_ratio": "half"}, "finetune": {"epochs": 2, "optimizer": {"name": "adamw", "learning_rate": -1}}}
    body = {"kind": "prune", "model": untouched.model["id"], "params": pruning}
    assert pointers(body)[1] == {"/params/target/macs_ratio", "/params/finetune/optimizer/learning_rate"}
    steps = [{"kind": "prune", "params": {"target": {"macs_ratio": 2}}}, {"kind": "search"}, {"kind": "train", "params": {"epochs": "x"}},
             {"kind": "train", "params": {"epochs": 0}}, {"kind": "distil"}, {"kind": "train", "parms": {}}]
    body = {"kind": "pipeline", "model": untouched.model["id"], "dataset": untouched.digits["id"], "params": {"steps": steps}}
    assert pointers(body)[1] == {"/params/steps/0/params/target/macs_ratio", "/params/steps/1/kind", "/params/steps/2/params/epochs",
                                 "/params/steps/3/params/epochs", "/params/steps/4/kind", "/params/steps/5/parms"}
    # What is named and not there belongs to it.
    body = {"kind": "evaluate", "model": NOBODY, "dataset": NOBODY, "device": "gpu7", "params": {}}
    assert pointers(body) == ("dataset_not_found", {"/dataset", "/device", "/model"})
    body = {"kind": "evaluate", "dataset": NOBODY, "params": {"metrics": "accuracy"}}
    assert pointers(body) == ("invalid_request", {"/model", "/dataset", "/params/metrics"})


@pytest.mark.parametrize(("kind", "params", "told"), [
    ("prune", {"granularity": "wieght", "criterion": "sparsegpt", "storage": "sparse", "target": {"sparsity": 0.5}}, ["/granularity"]),
    ("prune", {"granularity": "n:m", "n": 2, "m": 4}, ["/granularity"]),
    ("prune", {"target": {"macs_ratio": 0.5}, "finetune": 5, "distill": [{"name": "soft_targets"}]}, ["/finetune"]),
    ("distill", {"student": {"width": 1.0}, "finetune": {"weights": "fresh"}}, ["/finetune/weights"]),
    ("distill", {"student": {"width": 0.5}, "finetune": {"epochs": 0, "loss": "foo", "optimizer": {"learning_rate": -1}}},
     ["/finetune/epochs", "/finetune/loss", "/finetune/optimizer/learning_rate"]),
    ("search", {"space": {"width": [0.5, 1]}, "trial": {"epochs": "x"}, "strategy": {"name": "successive_halving", "eta": 3, "rounds": 4}},
     ["/trial/epochs"]),
    ("search", {"space": {"width": "x", "hyperparameters": {"learning_rate": {"choice": [0.1, 0.2]}}}, "screening": {"candidates": 10, "proxy": "synflow"}},
     ["/space/width"]),
    ("search", {"space": {"hyperparameters": {"optimizer.name": ["foo"], "lr": [1], "aug": {"choice": [1, 2]}}}},
     # Each is in the wrong form, and wrong besides.
     ["/space/hyperparameters/aug", *2 * ["/space/hyperparameters/lr"], *2 * ["/space/hyperparameters/optimizer.name"]]),
    ("search", {"space": {"hyperparameters": {"lr": {"choice": [1, 2]}, "aug": {"choice": [1, 2]}, "learning_rate": {"choice": [0.1, -1]}}}},
     ["/space/hyperparameters/aug", "/space/hyperparameters/learning_rate", "/space/hyperparameters/lr"]),
    ("search", {"space": {"hyperparameters": {"optimizer.learning_rate": {"choice": [0.1]}, "epochs": {"choice": "x"}}},
                "evaluation": {"method": "shared_weights"}}, ["/space/hyperparameters/epochs/choice"]),
    ("search", {"space": {"width": [0.5, 1]}, "constraints": {"size_bytes": "100KB", "latency": 3, "macs": 0.5}},
     ["/constraints/latency", "/constraints/macs", "/constraints/size_bytes"]),
    ("search", {"space": {"width": [0.5, 1]}, "steps": [{"kind": "trian"}, {"kind": "train", "params": {"epochs": 0}}]},
     ["/steps/0/kind", "/steps/1/params/epochs"]),
])
def test_what_follows_from_another_fault_is_none(untouched, kind, params, told):
    body = {"kind": kind, "model": untouched.model["id"], "dataset": untouched.digits["id"], "params": params}
    problem = assert_problem(untouched.post("/v1/jobs", json=body), 422, "invalid_request")
    assert sorted(fault["pointer"] for fault in problem["errors"]) == [f"/params{pointer}" for pointer in told], problem


@pytest.mark.parametrize(("kind", "params", "pointer", "says"), [
    ("evaluate", {"metrics": "roc_auc"}, "/params/metrics", 'must be a list, as ["roc_auc"]'),
    ("search", {"space": {"width": [0.5, 1]}, "objectives": ["accuracy"]}, "/params/objectives/0", 'must be an object, as {"metric": "accuracy"}'),
    ("distill", {"student": {"width": 0.5}, "temperature": 4}, "/params/temperature", '[{"name": "soft_targets", "temperature": 4'),
    ("train", {"finetune": {"epochs": 3}}, "/params/finetune", "the training itself here"),
    ("prune", {"target": {"macs_ratio": 50}}, "/params/target/macs_ratio", "it is a share, as 0.5 for a half"),
    ("prune", {"target": {"macs_ratio": 0.0001}}, "/params/target/macs_ratio", "can't be reached"),
    ("prune", {"target": {"macs_ratio": 0.5}, "exclude": ["nosuch*"]}, "/params/exclude", "`/layers` of the API"),
    ("search", {"space": {"width": [0.5]}}, None, "width has one value"),
    ("search", {"space": {"hyperparameters": {"learning_rate": {"choice": [0.1]}}}}, "/params/space/hyperparameters", "leave no choice"),
    ("search", {"space": {"width": [0.5, 1]}, "constraints": {"parameters": 0.5}}, "/params/constraints/parameters", "no share of the model's"),
])
def test_a_fault_says_what_would_be_right(untouched, kind, params, pointer, says):
    body = {"kind": kind, "model": untouched.model["id"], "dataset": untouched.digits["id"], "params": params}
    problem = assert_problem(untouched.post("/v1/jobs", json=body), 422, pointer=pointer, says=says)
    assert len(problem.get("errors", [])) == (pointer is not None), problem


def test_a_job_on_an_operator_that_can_not_run_is_refused_by_its_name(untouched):
    node = helper.make_node("SequenceConstruct", ["input"], ["several"], "n")
    first = helper.make_node("ConcatFromSequence", ["several"], ["output"], "c", axis=0)
    content = models.build([node, first], [("input", ["batch", 64])], [("output", ["a", "b"])])
    model = untouched.upload_model(content, "odd")
    assert model["summary"]["unsupported_operators"] == ["ConcatFromSequence", "SequenceConstruct"]
    assert model["summary"]["trainable"] is False
    body = {"kind": "evaluate", "model": model["id"], "dataset": untouched.digits["id"]}
    assert_problem(untouched.post("/v1/jobs", json=body), 422, "unsupported_operator", pointer="/model",
                   says="SequenceConstruct")
    assert untouched.delete(f"/v1/models/{model['id']}").status_code == 204


# Targets that can't be reached.


def test_a_target_out_of_reach_says_the_nearest_in_the_plan_and_where_the_job_is_refused(untouched):
    params = {"target": {"macs_ratio": 0.001}, "max_layer_sparsity": 0.5}
    body = {"kind": "prune", "model": untouched.model["id"], "params": params}
    problem = assert_problem(untouched.post("/v1/jobs", json={**body, "dry_run": True}), 422, "target_unreachable",
                             says=["macs_ratio", "0.001"])
    error = assert_problem(untouched.post("/v1/jobs", json=body), 422, "target_unreachable")
    assert error["detail"] == problem["detail"]
    # The nearest that it names can indeed be reached.
    numbers = [float(word.strip("`,.;:()")) for word in error["detail"].split()
               if word.strip("`,.;:()").replace(".", "", 1).isdigit()]
    nearest = max(number for number in numbers if number < 1)
    assert nearest > 0.001
    reachable = {**params, "target": {"macs_ratio": nearest + 0.005}}
    answer = untouched.post("/v1/jobs", json={**body, "params": reachable, "dry_run": True})
    assert answer.status_code == 200, answer.text
    assert answer.json()["plan"]["outcome"]["reached"]["macs_ratio"] <= nearest + 0.005


@pytest.mark.parametrize("kind, params, code, says", [
    ("prune", {"granularity": "head", "target": {"macs_ratio": 0.5}}, "nothing_prunable", "no attention heads"),
    ("prune", {"granularity": "block", "target": {"macs_ratio": 0.5}}, "nothing_prunable", "no sum adds"),
    ("prune", {"granularity": "weight", "target": {"sparsity": 0.5}, "exclude": ["nosuch*"]}, "invalid_request", "nosuch*"),
    ("prune", {"criterion": "taylor", "target": {"macs_ratio": 0.0001}}, "target_unreachable", "macs_ratio of 0.0001"),
    ("distill", {"student": {"depth": 0.5}}, "nothing_prunable", "a student of the depth 0.5 can't be made"),
    ("search", {"space": {"depth": True}}, "empty_space", "residual blocks"),
    ("search", {"space": {"width": [0.5, 1]}, "constraints": {"parameters": 10}}, "no_feasible_candidate", "the least seen"),
    ("pipeline", {"steps": [{"kind": "prune", "params": {"target": {"macs_ratio": 0.0001}}}]}, "target_unreachable", "macs_ratio"),
])
def test_what_the_model_alone_makes_impossible_does_not_wait_in_the_queue(untouched, kind, params, code, says):
    before = untouched.get("/v1/jobs").json()
    answer = untouched.post("/v1/jobs", json={
        "kind": kind, "model": untouched.model["id"], "dataset": untouched.digits["id"], "params": params})
    assert_problem(answer, 422, code, says=says)
    assert untouched.get("/v1/jobs").json() == before


def test_each_wrong_element_of_a_list_is_told_in_its_place(untouched):
    body = {"kind": "evaluate", "model": untouched.model["id"], "dataset": untouched.digits["id"]}
    metrics = ["accuracy", "auc", "loss", 3, "f1", "f2"]
    problem = assert_problem(untouched.post("/v1/jobs", json={**body, "params": {"metrics": metrics}}), 422)
    assert [fault["pointer"] for fault in problem["errors"]] == [f"/params/metrics/{place}" for place in (1, 3, 5)]
    assert "did you mean `roc_auc`?" in problem["errors"][0]["detail"]
    losses = [{"name": "cross_entropy"}, {"name": "soft_target"}, {"name": "soft_targets", "temperature": "hot"}]
    params = {"student": {"width": 0.5}, "losses": losses}
    problem = assert_problem(untouched.post("/v1/jobs", json={**body, "kind": "distill", "params": params}), 422)
    assert [fault["pointer"] for fault in problem["errors"]] == ["/params/losses/1/name", "/params/losses/2/temperature"]


@pytest.mark.parametrize("kind, given, example", [
    ("distill", {"student": {"width": 0.5}, "losses": "soft_targets,cross_entropy"}, '[{"name": "soft_targets"}, {"name": "cross_entropy"}]'),
    ("search", {"space": {"width": [0.5, 1]}, "objectives": "accuracy"}, '[{"metric": "accuracy"}]'),
    ("evaluate", {"metrics": "f1,accuracy"}, '["f1", "accuracy"]'),
    ("search", {"space": {"width": "0.5,1"}}, "[0.5, 1]"),
])
def test_a_word_for_a_list_is_shown_as_one(untouched, kind, given, example):
    body = {"kind": kind, "model": untouched.model["id"], "dataset": untouched.digits["id"], "params": given}
    assert_problem(untouched.post("/v1/jobs", json=body), 422, says=f"as {example}")


def test_without_a_kind_the_rest_is_looked_at(untouched):
    body = {"model": 5, "dataset": "x", "seed": -1, "params": {"epochs": "x"}, "data": {"limit": 0}}
    for kind in ({}, {"kind": "prun"}):
        problem = assert_problem(untouched.post("/v1/jobs", json={**body, **kind}), 422)
        pointers = {fault["pointer"] for fault in problem["errors"]}
        assert pointers == {"/kind", "/model", "/dataset", "/seed", "/data/limit"}, problem
    [kind] = [fault for fault in problem["errors"] if fault["pointer"] == "/kind"]
    assert "did you mean `prune`?" in kind["detail"]


def test_a_mean_may_be_one_number_and_points_at_itself(untouched):
    body = {"kind": "evaluate", "model": untouched.model["id"], "dataset": untouched.digits["id"]}
    dry = untouched.post("/v1/jobs", json={**body, "dry_run": True, "data": {"preprocess": {"mean": 0.5, "std": 2}}})
    assert dry.json()["data"]["inputs"][0]["mean"] == [0.5] and dry.json()["data"]["inputs"][0]["std"] == [2.0], dry.text
    wrong = {**body, "data": {"preprocess": {"mean": [0.5, 0.5, 0.5]}}}
    assert_problem(untouched.post("/v1/jobs", json=wrong), 422, "data_misfit", pointer="/data/preprocess/mean", says="1 channel")
    wrong = {**body, "data": {"preprocess": {"mean": [0.5, "x"], "std": "x"}}}
    problem = assert_problem(untouched.post("/v1/jobs", json=wrong), 422)
    assert [fault["pointer"] for fault in problem["errors"]] == ["/data/preprocess/mean/1", "/data/preprocess/std"]


def test_a_pruning_that_excludes_everything_says_so(untouched):
    params = {"target": {"macs_ratio": 0.5}, "exclude": ["*"]}
    body = {"kind": "prune", "model": untouched.model["id"], "params": params, "dry_run": True}
    assert_problem(untouched.post("/v1/jobs", json=body), 422, "nothing_prunable")


# Forms.


@pytest.mark.parametrize(
    ("content_type", "body", "status"),
    [
        ("multipart/form-data", b"--B\r\n", 400),
        ("multipart/form-data; boundary=B", b"no boundary here", 400),
        ("multipart/form-data; boundary=B", b'--B\r\nContent-Disposition: form-data; name="file"; filename="m"\r\n\r\nabc', 400),
        ("multipart/form-data; boundary=B", b"--B--\r\n", 422),
        ("multipart/form-data; boundary=B", b'--B\r\nContent-Disposition: form-data; name="file"; filename="m"\r\n\r\n\r\n--B--\r\n', 422),
        ("multipart/form-data; boundary=B", b'--B\r\nContent-Disposition: form-data; name="extra"\r\n\r\nx\r\n--B--\r\n', 422),
        ("multipart/form-data; boundary=B", b'--B\r\nContent-Disposition: form-data; name="tags"\r\n\r\n{\r\n--B--\r\n', 400),
        ("multipart/form-data; boundary=B", b'--B\r\nContent-Disposition: form-data; name="tags"\r\n\r\n{"a": 1}\r\n--B--\r\n', 422),
    ],
    ids=["no boundary", "not a form", "truncated", "no file", "empty file", "unknown part", "tags no json", "tags no texts"],
)
@pytest.mark.parametrize("route", ["/v1/models", "/v1/datasets"])
def test_a_broken_form_is_a_problem(untouched, route, content_type, body, status):
    answer = untouched.post(route, params={"name": "bad"}, data=body, headers={"Content-Type": content_type})
    assert_problem(answer, status)


@pytest.mark.parametrize("name", [None, "", "x" * 201, "line\nbreak", "nul\0"])
@pytest.mark.parametrize("route", ["/v1/models", "/v1/datasets"])
def test_a_name_that_is_missing_or_unfit_is_refused(untouched, route, name):
    content = models.mlp() if route == "/v1/models" else DIGITS.read_bytes()
    answer = untouched.post(route, params={} if name is None else {"name": name}, data=content)
    assert answer.status_code in (400, 422), answer.text
    assert "name" in answer.json()["detail"] or answer.json()["errors"][0]["pointer"] == "/name"


def test_an_upload_that_breaks_off_leaves_nothing(untouched):
    address = urllib.parse.urlsplit(untouched.url)

    for route in ("models", "datasets"):
        for length, body in (("Content-Length: 1000000", b"x" * 300_000), ("Transfer-Encoding: chunked", b"ff\r\nabc")):
            others = set(untouched.staged_files())
            with socket.create_connection((address.hostname, address.port)) as connection:
                head = f"POST /v1/{route}?name=broken HTTP/1.1\r\nHost: {address.netloc}\r\n{length}\r\n\r\n"
                connection.sendall(head.encode() + body)
                # Else it might begin when this test is over, and be taken for what the next one leaves.
                wait_until(lambda others=others: set(untouched.staged_files()) - others, what="an upload that has begun")


def test_an_id_of_a_thing_of_another_kind_is_not_found(untouched):
    assert_problem(untouched.get(f"/v1/models/{untouched.digits['id']}"), 404, "model_not_found")
    assert_problem(untouched.get(f"/v1/jobs/{untouched.model['id']}"), 404, "job_not_found")
    model, digits = untouched.model["id"], untouched.digits["id"]
    for body, field in (({"model": digits, "dataset": digits}, "model"), ({"model": model, "dataset": model}, "dataset")):
        answer = untouched.post("/v1/jobs", json={"kind": "train", **body})
        assert_problem(answer, 422, f"{field}_not_found", pointer=f"/{field}")
