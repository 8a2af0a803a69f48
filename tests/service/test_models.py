"""Models: what uploading tells, what comes back, layers, external data, safetensors, deletion."""

import hashlib
import json
import struct

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import models
from conftest import DIGITS_CNN, FASHION_CNN, FASHION_RESNET, assert_problem

EXAMPLES = [DIGITS_CNN, FASHION_CNN, FASHION_RESNET]


def parameters_of(model):
    """Elements of all weights of an ONNX file as PyTorch counts them: without the running means
    and variances of batch normalisation, which no training learns by gradient."""
    graph = onnx.load_from_string(model).graph
    running = {name for node in graph.node if node.op_type == "BatchNormalization" for name in node.input[3:5]}
    return sum(int(np.prod(t.dims)) for t in graph.initializer if t.name not in running)


def feeds(model_bytes, batch=4):
    """Real digits, fitted to the input by repeating and cutting."""
    image = onnx.load_from_string(model_bytes).graph.input[0]
    shape = [d.dim_value for d in image.type.tensor_type.shape.dim][1:]
    pixels = models.digits()["x_test"][:batch].reshape(batch, -1).astype(np.float32) / 16
    size = int(np.prod(shape))
    return {image.name: np.resize(pixels, (batch, size)).reshape(batch, *shape)}


def test_the_summary_of_the_digits_cnn_is_exact(digits_model):
    content = DIGITS_CNN.read_bytes()
    assert digits_model["format"] == "onnx"
    assert digits_model["size_bytes"] == len(content)
    assert digits_model["parent_id"] is None and digits_model["job_id"] is None
    assert digits_model["tags"] == {}
    summary = digits_model["summary"]
    assert summary == {
        "opset": 17,
        "producer": "pytorch 2.15.0",
        "parameters": parameters_of(content),
        "nonzero_parameters": parameters_of(content),
        # 3×3 convolutions 1→16 and 16→32 on 8×8, 32→64 on 4×4, Gemm 256→64 and 64→10.
        "macs": 9 * 16 * 64 + 9 * 16 * 32 * 64 + 9 * 32 * 64 * 16 + 256 * 64 + 64 * 10,
        "inputs": [{"name": "input", "dtype": "float32", "shape": ["batch", 1, 8, 8]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 10]}],
        "operators": {"BatchNormalization": 3, "Conv": 3, "Flatten": 1, "Gemm": 2, "MaxPool": 2, "Relu": 4},
        "trainable": True,
        "unsupported_operators": [],
    }


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_upload_then_download_is_the_same_file_and_computes_bit_identically(server, path):
    content = path.read_bytes()
    model = server.upload_model(path, path.stem)
    back = server.model_content(model)
    assert back == content
    expected = models.outputs(content, feeds(content))
    for computed, wanted in zip(models.outputs(back, feeds(content)), expected, strict=True):
        assert computed.tobytes() == wanted.tobytes()
    assert model["summary"]["parameters"] == parameters_of(content)
    assert model["summary"]["trainable"] is True


def test_zeros_are_no_nonzero_parameters(server):
    model = onnx.load_from_string(models.mlp())
    tensor = next(t for t in model.graph.initializer if t.name == "w1")
    values = numpy_helper.to_array(tensor).copy()
    values[:10] = 0.0
    values[10] = -0.0
    tensor.CopyFrom(numpy_helper.from_array(values, "w1"))
    summary = server.upload_model(model.SerializeToString())["summary"]
    assert summary["parameters"] == 64 * 16 + 16 + 160 + 10
    assert summary["nonzero_parameters"] == summary["parameters"] - 11 * 16
    assert summary["macs"] == 64 * 16 + 160


def test_a_model_without_weights_is_a_model(server):
    model = server.upload_model(models.identity(), "nothing to learn")
    assert model["summary"]["parameters"] == 0
    assert model["summary"]["operators"] == {"Identity": 1}
    assert server.model_content(model) == models.identity()


def test_the_name_of_the_query_wins_over_that_of_the_form_and_tags_are_kept(server):
    form = {"file": ("m.onnx", models.mlp()), "name": (None, "from the form"),
            "tags": (None, json.dumps({"team": "vision", "ü": "ß"}))}
    answer = server.post("/v1/models", files=form)
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == "from the form"
    assert answer.json()["tags"] == {"team": "vision", "ü": "ß"}
    answer = server.post("/v1/models", params={"name": "from the query"}, files=form)
    assert answer.json()["name"] == "from the query"
    assert server.get(answer.headers["Location"]).json() == answer.json()


def test_the_content_type_of_a_plain_upload_does_not_matter(server):
    for content_type in ("application/octet-stream", "application/x-www-form-urlencoded", "application/json"):
        answer = server.post_model(models.mlp(), "curl", headers={"Content-Type": content_type})
        assert answer.status_code == 201, answer.text


def test_the_same_file_twice_is_two_models_of_one_digest(server):
    first, second = (server.upload_model(models.mlp(seed=9), name) for name in ("a", "b"))
    assert first["id"] != second["id"]
    assert first["digest"] == second["digest"] == "sha256:" + hashlib.sha256(models.mlp(seed=9)).hexdigest()
    assert server.delete(f"/v1/models/{first['id']}").status_code == 204
    assert server.model_content(second) == models.mlp(seed=9)


def test_models_and_data_sets_are_found_by_their_name_or_file(server):
    content = models.mlp(seed=10)
    first, second = (server.upload_model(content, name) for name in ("found", "found too"))
    digest = {"digest": first["digest"]}
    listed = lambda path, **query: [row["id"] for row in server.get(path, params=query).json()["data"]]
    assert listed("/v1/models", **digest) == [second["id"], first["id"]]
    assert listed("/v1/models", **digest, limit=1) == [second["id"]]
    assert listed("/v1/models", name="found") == [first["id"]]
    assert listed("/v1/models", name="found", digest="sha256:" + "0" * 64) == []
    again = server.upload_dataset(models.npz(**models.digits()), "found again")
    assert again["id"] in listed("/v1/datasets", digest=again["digest"].upper().replace("SHA256", "sha256"))
    assert listed("/v1/datasets", name="no such data set") == []
    for wrong in ("0" * 64, "sha256:0", "md5:" + "0" * 64):
        assert_problem(server.get("/v1/models", params={"digest": wrong}), 400, "invalid_query_parameter", says="64 hexadecimal")


@pytest.mark.parametrize("route", ["models", "datasets"])
def test_a_name_and_tags_can_be_changed(server, route):
    make = server.upload_model if route == "models" else server.upload_dataset
    made = make(models.mlp(seed=11), "old") if route == "models" else make(name="old")
    path = f"/v1/{route}/{made['id']}"
    change = lambda **body: server.request("PATCH", path, json=body)
    assert change(name="new").json() == {**made, "name": "new"}
    assert change(tags={"team": "vision"}).json() == {**made, "name": "new", "tags": {"team": "vision"}}
    assert change().json() == server.get(path).json() == {**made, "name": "new", "tags": {"team": "vision"}}
    assert made["id"] in [row["id"] for row in server.get(f"/v1/{route}", params={"name": "new"}).json()["data"]]
    assert_problem(change(name=""), 422, "invalid_name")
    assert_problem(change(tags={"": "x"}), 422, pointer="/tags/")
    assert_problem(change(digest="x"), 422, pointer="/digest")
    assert server.get(path).json()["name"] == "new"
    gone = f"/v1/{route}/00000000-0000-0000-0000-000000000000"
    assert_problem(server.request("PATCH", gone, json={"name": "x"}), 404)


# External data.


@pytest.mark.parametrize(
    ("location", "part", "offset"),
    [("weights.bin", "weights.bin", 0), ("sub/weights.bin", "sub/weights.bin", 4096), ("./weights.bin", "weights.bin", 0)],
)
def test_external_data_uploaded_beside_the_model_becomes_one_file_that_computes_the_same(server, location, part, offset):
    content, data = models.with_external_data(location, offset)
    for files in ([("model.onnx", content), (part, data)], [(part, data), ("model.onnx", content)]):
        answer = server.post("/v1/models", params={"name": "external"}, files=[("file", file) for file in files])
        assert answer.status_code == 201, answer.text
        model = answer.json()
        back = server.model_content(model)
        assert hashlib.sha256(back).hexdigest() == model["digest"].removeprefix("sha256:")
        assert model["size_bytes"] == len(back)
        onnx.checker.check_model(onnx.load_from_string(back), full_check=True)
        x = {"input": feeds(models.mlp())["input"]}
        assert models.outputs(back, x)[0].tobytes() == models.outputs(models.mlp(), x)[0].tobytes()
        assert model["summary"]["parameters"] == 1210


def test_a_second_model_or_a_file_that_nobody_asks_for_is_refused(server):
    two = [("file", ("a.onnx", models.mlp())), ("file", ("b.onnx", models.mlp()))]
    assert_problem(server.post("/v1/models", params={"name": "x"}, files=two), 422, "invalid_model")
    none = [("file", ("a.bin", models.mlp())), ("file", ("b.bin", b"x"))]
    assert_problem(server.post("/v1/models", params={"name": "x"}, files=none), 422, "invalid_model")
    idle = [("file", ("a.onnx", models.mlp())), ("file", ("b.bin", b"x"))]
    assert_problem(server.post("/v1/models", params={"name": "x"}, files=idle), 422, "invalid_model")
    content, data = models.with_external_data()
    more = [("file", ("a.onnx", content)), ("file", ("weights.bin", data)), ("file", ("unused.bin", b"x"))]
    assert_problem(server.post("/v1/models", params={"name": "x"}, files=more), 422, says="unused.bin")


def test_two_files_of_one_name_are_refused(server):
    content, data = models.with_external_data()
    form = [("file", ("m.onnx", content)), ("file", ("weights.bin", data)), ("file", ("./weights.bin", data))]
    answer = server.post("/v1/models", params={"name": "x"}, files=form)
    assert_problem(answer, 422, "invalid_file_name", says="weights.bin")


# Safetensors.


def safetensors(tensors):
    from safetensors.numpy import save

    return save(tensors)


def test_a_safetensors_file_is_a_model_without_a_graph(server, digits):
    content = safetensors({
        "w": np.array([[1, 0, 2], [0, 0, 3]], np.float32), "b": np.zeros(5, np.float64), "s": np.array(7, np.int64),
    })
    model = server.upload_model(content, "weights")
    assert model["format"] == "safetensors"
    summary = model["summary"]
    assert (summary["parameters"], summary["nonzero_parameters"]) == (12, 4)
    assert summary["opset"] is None and summary["macs"] is None and summary["trainable"] is False
    answer = server.get(f"/v1/models/{model['id']}/content")
    assert answer.content == content
    assert "weights.safetensors" in answer.headers["Content-Disposition"]
    assert_problem(server.get(f"/v1/models/{model['id']}/layers"), 422, "model_has_no_graph")
    body = {"kind": "evaluate", "model": model["id"], "dataset": digits["id"]}
    assert_problem(server.post("/v1/jobs", json=body), 422, "model_has_no_graph", pointer="/model")


@pytest.mark.parametrize(
    "header",
    [
        {"w": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 9999]}},
        {"w": {"dtype": "F33", "shape": [4], "data_offsets": [0, 16]}},
        {"w": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}},
        [],
    ],
    ids=lambda header: json.dumps(header)[:60],
)
def test_a_broken_safetensors_file_is_refused(server, header):
    text = json.dumps(header).encode().ljust(120)
    for route in ("/v1/models", "/v1/datasets"):
        content = struct.pack("<Q", len(text)) + text + b"\1" * 16
        answer = server.post(route, params={"name": "bad"}, data=content)
        problem = assert_problem(answer, 422)
        assert problem["code"] in ("invalid_model", "invalid_dataset")
        assert "exit status" not in problem["detail"]


# Layers.


def test_the_layers_of_the_digits_cnn_are_exact(server, digits_model):
    answer = server.get(f"/v1/models/{digits_model['id']}/layers")
    assert answer.status_code == 200
    layers = answer.json()["data"]
    table = [
        (l["name"], l["operator"], l["output_shape"], l["parameters"], l["macs"], l["prunable"]) for l in layers
    ]
    assert table == [
        ("/conv1/Conv", "Conv", [1, 16, 8, 8], 160, 9216, True),
        ("/norm1/BatchNormalization", "BatchNormalization", [1, 16, 8, 8], 32, 0, False),
        ("/conv2/Conv", "Conv", [1, 32, 8, 8], 4640, 294912, True),
        ("/norm2/BatchNormalization", "BatchNormalization", [1, 32, 8, 8], 64, 0, False),
        ("/conv3/Conv", "Conv", [1, 64, 4, 4], 18496, 294912, True),
        ("/norm3/BatchNormalization", "BatchNormalization", [1, 64, 4, 4], 128, 0, False),
        ("/hidden/Gemm", "Gemm", [1, 64], 16448, 16384, True),
        ("/head/Gemm", "Gemm", [1, 10], 650, 640, False),
    ]
    assert sum(layer["parameters"] for layer in layers) == digits_model["summary"]["parameters"]
    assert sum(layer["macs"] for layer in layers) == digits_model["summary"]["macs"]
    # A plain chain couples nothing.
    groups = [layer["group"] for layer in layers if layer["prunable"]]
    assert None not in groups and len(set(groups)) == 4
    # A normalisation is in the group of what it normalises, and each layer takes in the channels of the one before.
    first, second, third, hidden = groups
    assert [(layer["group"], layer.get("input_groups")) for layer in layers] == [
        (first, None), (first, None), (second, [first]), (second, None), (third, [second]), (third, None), (hidden, [third]), (None, [hidden])]
    assert "logits" in layers[-1]["blocked_by"]
    # The second answer comes from a store.
    assert server.get(f"/v1/models/{digits_model['id']}/layers").json()["data"] == layers


def coupled(layers):
    """Sets of layer names that share a group."""
    groups = {}
    for layer in layers:
        if layer["group"] is not None:
            groups.setdefault(layer["group"], set()).add(layer["name"])
    return {frozenset(names) for names in groups.values()}


def test_layers_whose_outputs_are_added_are_one_group(server):
    rng = np.random.default_rng(3)
    def weight(name, *shape):
        return numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
    def conv(source, name, target, **attributes):
        return helper.make_node("Conv", [source, f"w_{name}"], [target], name, pads=[1, 1, 1, 1], **attributes)
    nodes = [
        conv("input", "stem", "s"), conv("s", "inner", "i"), conv("i", "outer", "o"),
        helper.make_node("Add", ["s", "o"], ["sum"], "sum"), conv("sum", "depthwise", "d", group=8),
        conv("d", "last", "l"), helper.make_node("GlobalAveragePool", ["l"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["output"], "flat"),
    ]
    weights = [weight("w_stem", 8, 1, 3, 3), weight("w_inner", 6, 8, 3, 3), weight("w_outer", 8, 6, 3, 3),
               weight("w_depthwise", 8, 1, 3, 3), weight("w_last", 10, 8, 3, 3)]
    content = models.build(nodes, [("input", ["batch", 1, 8, 8])], [("output", ["batch", 10])], weights)
    model = server.upload_model(content, "residual")
    layers = server.get(f"/v1/models/{model['id']}/layers").json()["data"]
    assert coupled(layers) == {frozenset({"stem", "outer", "depthwise"}), frozenset({"inner"})}
    group = {layer["name"]: layer["group"] for layer in layers}
    assert {layer["name"]: layer.get("input_groups") for layer in layers} == {
        "stem": None, "inner": [group["stem"]], "outer": [group["inner"]], "depthwise": None, "last": [group["stem"]]}
    prunable = {layer["name"]: layer["prunable"] for layer in layers}
    assert prunable["stem"] and prunable["inner"] and not prunable["last"]
    # The whole graph, whose layers are these.
    graph = server.get(f"/v1/models/{model['id']}/graph").json()["data"]
    assert [(node["name"], node["inputs"], node["outputs"]) for node in graph] == [
        ("stem", ["input"], ["s"]), ("inner", ["s"], ["i"]), ("outer", ["i"], ["o"]), ("sum", ["s", "o"], ["sum"]),
        ("depthwise", ["sum"], ["d"]), ("last", ["d"], ["l"]), ("pool", ["l"], ["p"]), ("flat", ["p"], ["output"])]
    shared = ("name", "operator", "output_shape", "parameters", "nonzero_parameters", "macs", "group")
    of_layers = {node["name"]: tuple(node[key] for key in shared) for node in graph if node["macs"]}
    assert of_layers == {layer["name"]: tuple(layer[key] for key in shared) for layer in layers}
    assert {node["name"]: node["output_shape"] for node in graph}["pool"] == [1, 10, 1, 1]


def test_a_weight_that_is_used_twice_has_its_groups_at_both_places(server):
    rng = np.random.default_rng(3)
    weights = [numpy_helper.from_array(rng.normal(0, 0.3, shape).astype(np.float32), name)
               for name, shape in (("A1", (8, 6)), ("A2", (8, 6)), ("S", (6, 4)), ("H", (4, 3)))]
    nodes = [helper.make_node("MatMul", ["input", name], [f"a{name}"], f"first_{name}") for name in ("A1", "A2")]
    nodes += [helper.make_node("MatMul", [f"a{name}", "S"], [f"s{name}"], f"shared_{name}") for name in ("A1", "A2")]
    nodes += [helper.make_node("Add", ["sA1", "sA2"], ["sum"], "sum"), helper.make_node("MatMul", ["sum", "H"], ["output"], "head")]
    content = models.build(nodes, [("input", ["batch", 8])], [("output", ["batch", 3])], weights)
    model = server.upload_model(content, "shared")
    layers = {layer["name"]: layer for layer in server.get(f"/v1/models/{model['id']}/layers").json()["data"]}
    of = lambda name: (layers[name]["group"], layers[name].get("input_groups"))
    assert of("shared_A1") == of("shared_A2") and of("shared_A1")[1] == [layers["first_A1"]["group"]] == [layers["first_A2"]["group"]]


# Deletion.


def test_a_deleted_model_is_gone_with_its_file(start_server):
    server = start_server()
    model = server.upload_model(models.mlp(), "m")
    stored = server.stored_files()
    assert any(model["digest"].removeprefix("sha256:")[2:] in path for path in stored)
    answer = server.delete(f"/v1/models/{model['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    for path in ("", "/content", "/layers"):
        assert_problem(server.get(f"/v1/models/{model['id']}{path}"), 404, "model_not_found")
    assert_problem(server.delete(f"/v1/models/{model['id']}"), 404, "model_not_found")
    assert server.get("/v1/models").json() == {"data": [], "next_cursor": None}
    assert [path for path in server.stored_files() if path.startswith("blobs")] == []
