"""Models as people have them: downloaded ones and exports of PyTorch, scikit-learn and Keras.

tests/run writes them (tests/models/export.py) and names the folder in SINTER_MODEL_CASES, and the program
that runs single models (examples/forward.rs) in SINTER_FORWARD.
"""

import io
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "models"))
from stored import feeds_of, numbered, read  # noqa: E402

FOLDER = os.environ.get("SINTER_MODEL_CASES")
ALL = sorted(path.parent for path in pathlib.Path(FOLDER).glob("*/case.json")) if FOLDER else []
PARITY = sorted(path.parent for path in pathlib.Path(FOLDER).glob("train_*/parity.json")) if FOLDER else []
TOLERANCE = 1e-4

# A model may be so sensitive that ONNX Runtime itself gives other results for one example at a time
# (Magika: 1.8e-4); then this many times that difference is allowed.
SPREAD = 3

# Models that quantise while they run turn the last bit of a float into a whole level of 255.
QUANTISED = 2e-3


def name_of(path):
    return path.name


def test_there_are_models():
    assert len(ALL) >= 30, "SINTER_MODEL_CASES names the folder that tests/models/export.py wrote"
    assert len(PARITY) == 6


def forward(*arguments):
    done = subprocess.run([os.environ["SINTER_FORWARD"], *map(str, arguments)], capture_output=True, text=True,
                          timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def session(path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def difference(found, wanted):
    """Largest difference, relative to the largest element of what is wanted."""
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    if wanted.dtype.kind not in "fc":
        return 0.0 if np.array_equal(found, wanted) else np.inf
    if wanted.size == 0:
        return 0.0
    scale = max(float(np.abs(wanted).max()), 1e-6)
    return float(np.abs(found.astype(np.float64) - wanted).max()) / scale


def with_exact_levels(path):
    """The same model in a form that ONNX Runtime computes alike on every processor.

    - uint8 weights where it has int8 ones, levels and zero points 128 higher: the same products. Without VNNI, ONNX
      Runtime adds pairs of uint8 · int8 products in 16 bits and cuts what does not fit; of uint8 · uint8 nothing.
      (The first DynamicQuantizeLSTM of tashkeel_bilstm_int8, on AVX2: 1.5e-2 off the exact sums, 4e-7 off sums cut
      pair by pair; Sinter is 2e-7 off the exact sums.)
    - No hyperbolic tangent beyond 1: ONNX Runtime's reaches 1.0000002 on AVX2. The range [-1, 1] puts zero at level
      127.5, so the last bit of its ends decides where all other numbers go.
    """
    model = onnx.load(path)
    signed = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        weights = {"MatMulInteger": (1, 3), "DynamicQuantizeLSTM": (1, 2, 9, 11)}.get(node.op_type, ())
        for name in (node.input[index] for index in weights if index < len(node.input)):
            if name in signed:
                tensor = signed.pop(name)
                levels = numpy_helper.to_array(tensor).astype(np.int16) + 128
                tensor.CopyFrom(numpy_helper.from_array(levels.astype(np.uint8), name))
        model.graph.node.append(node)
        if node.op_type == "Tanh":
            tanh = model.graph.node[-1].output[0]
            model.graph.node[-1].output[0] = f"{tanh}_uncut"
            model.graph.node.append(helper.make_node("Clip", [f"{tanh}_uncut", "exact_-1", "exact_1"], [tanh]))
    assert not signed, f"no unsigned form of {list(signed)} is known"
    model.graph.initializer.extend(numpy_helper.from_array(np.float32(end), f"exact_{end}") for end in (-1, 1))
    return model


def exactly(folder, batch, tmp_path):
    """What ONNX Runtime gives for that form, on one thread: on more, it quantises a batch in as many parts as it has
    threads."""
    path = tmp_path / "exact.onnx"
    onnx.save(with_exact_levels(folder / "model.onnx"), path)
    runtime = session(path)
    return runtime.run(None, feeds_of(runtime, folder, batch))


def own_spread(folder, batch, index):
    """How far ONNX Runtime's own results are from each other, example by example and all at once."""
    runtime = session(folder / "model.onnx")
    feeds = feeds_of(runtime, folder, batch)
    rows = [runtime.run(None, {name: value[row:row + 1] for name, value in feeds.items()})[index]
            for row in range(batch)]
    return difference(np.concatenate(rows), read(numbered(folder, f"output_{batch}_")[index]))


@pytest.mark.parametrize("folder", ALL, ids=name_of)
def test_agrees_with_onnx_runtime_and_comes_back_the_same(folder, tmp_path):
    case = json.loads((folder / "case.json").read_text())
    again = tmp_path / "again.onnx"
    for batch in case["batches"]:
        about = forward(folder / "model.onnx", "--inputs", folder / f"input_{batch}_", "--outputs", tmp_path / "out_",
                        "--rewrite", again)
        wanted = numbered(folder, f"output_{batch}_")
        assert wanted
        for index, path in enumerate(wanted):
            found = difference(read(tmp_path / f"out_{index}.pb"), read(path))
            if "int8" in folder.name:
                found = difference(read(tmp_path / f"out_{index}.pb"), exactly(folder, batch, tmp_path)[index])
                assert found <= QUANTISED, f"output {index} at batch {batch} differs by {found}"
                continue
            allowed = max(TOLERANCE, SPREAD * own_spread(folder, batch, index) if found > TOLERANCE else 0)
            assert found <= allowed, f"output {index} at batch {batch} differs by {found}"
    assert about["unsupported"] == []
    if not folder.name.startswith("light_") and "int8" not in folder.name:  # weights made by nodes; some floats left
        assert (about["training"] == "reaches the weights") == case["trainable"], about["training"]

    onnx.checker.check_model(str(again))
    first, second = session(folder / "model.onnx"), session(again)
    assert [i.name for i in first.get_inputs()] == [i.name for i in second.get_inputs()]
    feeds = feeds_of(first, folder, case["batches"][0])
    for one, other in zip(first.run(None, feeds), second.run(None, feeds), strict=True):
        assert np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


@pytest.mark.parametrize("folder", PARITY, ids=name_of)
def test_ten_steps_follow_pytorch(server, folder):
    parity = json.loads((folder / "parity.json").read_text())
    arrays = dict(np.load(folder / "data.npz"))
    archive = io.BytesIO()
    np.savez(archive, **{f"{name}_{split}": value for name, value in arrays.items() for split in ("train", "test")})
    steps = len(parity["losses"])
    job = server.run(
        "train", server.upload_model((folder / "model.onnx").read_bytes()),
        server.upload_dataset(archive.getvalue()),
        {"epochs": steps, "optimizer": {"name": "sgd", "learning_rate": parity["learning_rate"], "momentum": 0,
                                        "weight_decay": 0}, "schedule": {"name": "constant"}},
        data={"batch_size": len(arrays["y"]), "validation_fraction": 0, "preprocess": {"scale": 1}}, timeout=600)
    assert job["status"] == "succeeded", job["error"]
    curves = {c["name"]: c["points"] for c in server.get(f"/v1/jobs/{job['id']}/metrics").json()["data"]}
    losses = [point["value"] for point in curves["train/loss"]]
    np.testing.assert_allclose(losses, parity["losses"], rtol=0, atol=1e-3)
    assert losses[-1] < losses[0]

    trained = onnx.load_from_string(server.artifact(job, "model.onnx"))
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in trained.graph.initializer}
    final = onnx.load(folder / "final.onnx")
    compared = 0
    for tensor in final.graph.initializer:
        wanted = numpy_helper.to_array(tensor)
        if wanted.dtype == np.float32 and wanted.size > 1:
            np.testing.assert_allclose(found[tensor.name], wanted, rtol=0, atol=1e-3, err_msg=tensor.name)
            compared += 1
    assert compared > 3


EXPORTS = [folder for folder in ALL if folder.name.endswith(("_dynamo", "_torchscript"))]


@pytest.mark.parametrize("folder", EXPORTS, ids=name_of)
def test_an_export_of_pytorch_loses_half_its_macs_or_says_why_not(server, folder):
    model = server.upload_model((folder / "model.onnx").read_bytes())
    body = {"kind": "prune", "model": model["id"], "params": {"target": {"macs_ratio": 0.5}}}
    planned = server.post("/v1/jobs", json={**body, "dry_run": True})
    if planned.status_code != 200:
        # What is left then is what the reasons name.
        problem = planned.json()
        assert problem["code"] in ("target_unreachable", "nothing_prunable"), problem
        assert "what stays: " in problem["detail"] or problem["code"] == "nothing_prunable", problem
        return
    plan = planned.json()["plan"]
    assert plan["outcome"]["reached"]["macs_ratio"] <= 0.5 * 1.01
    job = server.run("prune", model, None, body["params"])
    assert job["result"]["change"]["macs_ratio"] == pytest.approx(plan["outcome"]["reached"]["macs_ratio"], abs=1e-6)
    content = server.artifact(job, "model.onnx")
    onnx.checker.check_model(onnx.load_from_string(content))
    runtime = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = runtime.run(None, feeds_of(runtime, folder, 1))
    wanted = [read(path) for path in numbered(folder, "output_1_")]
    assert [array.shape for array in found] == [array.shape for array in wanted]
    assert all(np.isfinite(array).all() for array in found)


@pytest.mark.parametrize("folder", [path for path in ALL if "int8" in path.name], ids=name_of)
def test_a_quantised_model_is_evaluated_but_not_trained(server, folder):
    model = server.get(f"/v1/models/{server.upload_model((folder / 'model.onnx').read_bytes())['id']}").json()
    assert model["summary"]["unsupported_operators"] == []
    assert model["summary"]["trainable"] is False
    assert "quantised to integers" in model["summary"]["not_trainable_because"]
