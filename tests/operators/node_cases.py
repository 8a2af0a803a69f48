"""Writes the ONNX project's own backend node tests (package `onnx`, backend/test/case/node) as files.

    python3 node_cases.py FOLDER

A case is a folder: model.onnx, input_K.pb and output_K.pb (TensorProto; missing where an optional is
empty), and case.json. What holds no tensors (sequences, optionals) is listed with that reason.
Whether ONNX Runtime itself passes a case is written beside it.
"""

import json
import pathlib
import sys
import warnings

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

warnings.simplefilter("ignore")
onnxruntime.set_default_logger_severity(4)

RANDOM = {"Bernoulli", "RandomUniformLike", "RandomNormalLike", "RandomUniform", "RandomNormal", "Multinomial"}


def tensors(values, infos):
    """TensorProtos, or None where a value is no tensor."""
    protos = []
    for value, info in zip(values, infos):
        if isinstance(value, onnx.TensorProto):
            protos.append(value)
        elif value is None or not info.type.HasField("tensor_type"):
            return None
        else:
            protos.append(numpy_helper.from_array(np.asarray(value), info.name))
    return protos


def close(found, wanted, case):
    wanted = numpy_helper.to_array(wanted)
    found = np.asarray(found)
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if found.dtype.kind in "fc":
        return np.allclose(found, wanted, rtol=case.rtol, atol=case.atol, equal_nan=True)
    return bool(np.array_equal(found, wanted))


def runtime_passes(case, inputs, outputs, random):
    """Whether ONNX Runtime computes what the case wants."""
    try:
        session = onnxruntime.InferenceSession(case.model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = {info.name for info in session.get_inputs()}
        feeds = {info.name: numpy_helper.to_array(value)
                 for info, value in zip(case.model.graph.input, inputs) if info.name in names}
        found = session.run([info.name for info in case.model.graph.output], feeds)
        return random or all(close(f, w, case) for f, w in zip(found, outputs))
    except Exception:
        return False


def operators(graph):
    found = set()
    for node in graph.node:
        found.add(node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}:{node.op_type}")
        for attribute in node.attribute:
            for body in [attribute.g, *attribute.graphs]:
                found |= operators(body)
    return found


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for case in collect_testcases(None):
        if case.model is None:
            continue
        own = folder / case.name
        own.mkdir(exist_ok=True)
        graph = case.model.graph
        used = operators(graph)
        random = bool(used & RANDOM)
        fed, wanted = case.data_sets[0]
        inputs, outputs = tensors(fed, graph.input), tensors(wanted, graph.output)
        holds_tensors = inputs is not None and outputs is not None
        about = dict(name=case.name, rtol=case.rtol, atol=case.atol, random=random, operators=sorted(used),
                     opset=max((s.version for s in case.model.opset_import if s.domain in ("", "ai.onnx")), default=0),
                     tensors=holds_tensors, runtime=False)
        onnx.save(case.model, own / "model.onnx")
        if holds_tensors:
            for index, value in enumerate(inputs):
                (own / f"input_{index}.pb").write_bytes(value.SerializeToString())
            for index, value in enumerate(outputs):
                (own / f"output_{index}.pb").write_bytes(value.SerializeToString())
            about["runtime"] = runtime_passes(case, inputs, outputs, random)
        (own / "case.json").write_text(json.dumps(about))
        written += 1
    print(f"{written} node cases")


if __name__ == "__main__":
    main()
