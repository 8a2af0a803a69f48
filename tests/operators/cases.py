"""Writes the operator test cases: a small ONNX model each, its inputs, what ONNX Runtime computes,
and directional derivatives in float64.

    python3 cases.py FOLDER

A case is a folder: model.onnx, and case.json with the fed values, the expected outputs, and for each
float input x_k a direction d_k and the derivative <dL/dx_k, d_k>, L the sum of the outputs times fixed
factors. Derivatives come from code that shares nothing with Sinter or ONNX Runtime: central differences
of the ONNX project's reference implementation, or PyTorch's for composite operators and where the
reference implementation has defects (references.py).
"""

import json
import pathlib
import sys
import zlib

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from declare import CASES, Fed, Given
import families  # noqa: F401, importing them fills CASES


def draw(case, random):
    """The values of all inputs; the floats are float32, exact in float64, so that all see the same."""
    values = []
    for entry in case.inputs:
        if isinstance(entry, tuple):
            value = random.uniform(case.low, case.high, entry)
            if not case.positive:
                value *= random.choice([-1.0, 1.0], entry)
            values.append(value.astype(np.float32))
        else:
            values.append(entry.array if isinstance(entry, (Fed, Given)) else entry)
    return values


def build(case, values, dtype):
    """The model with its floats in `dtype`."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    initializers, inputs = [], []
    for k, value in enumerate(values):
        if value is None:
            continue
        # Scales of a Resize stay float32 in every version of the operator.
        resize = case.operator in ("Resize", "Upsample") and k > 0
        own = value.astype(dtype) if value.dtype.kind == "f" and not resize else value
        if k in case.fed():
            own_kind = helper.np_dtype_to_tensor_dtype(own.dtype)
            inputs.append(helper.make_tensor_value_info(f"x{k}", own_kind, own.shape))
        else:
            initializers.append(numpy_helper.from_array(own, f"x{k}"))
    outputs = [f"y{k}" for k in range(len(case.asked()))]
    if case.nodes:
        nodes = case.nodes(kind)
    else:
        names = ["" if values[k] is None else f"x{k}" for k in read_by(case)]
        own = [f"y{case.asked().index(k)}" if k in case.asked() else "" for k in range(max(case.asked()) + 1)]
        nodes = [helper.make_node(case.operator, names, own, domain=case.domain, **case.attributes)]
    infos = [helper.make_value_info(name, onnx.TypeProto()) for name in outputs]
    graph = helper.make_graph(nodes, case.name, inputs, infos, initializers)
    opsets = [helper.make_opsetid("", case.opset)]
    if case.domain:
        opsets.append(helper.make_opsetid(case.domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def read_by(case):
    return range(len(case.inputs)) if case.reads is None else case.reads


def feeds(case, values, dtype=np.float32):
    return {f"x{k}": values[k].astype(dtype) if values[k].dtype.kind == "f" else values[k] for k in case.fed()}


def in_torch(case, values):
    """The inputs as tensors, floats in float64, and those of the outputs that PyTorch computes of them which
    the case asks for."""
    tensors = [None if value is None else torch.tensor(value.astype(np.float64) if value.dtype.kind == "f" else value)
               for value in values]
    for k in case.differentiated():
        tensors[k].requires_grad_()
    results = case.torch(*(tensors[k] for k in read_by(case)), **case.attributes)
    return tensors, [results[k] for k in case.asked()] if isinstance(results, (tuple, list)) else [results]


def expect(case, model, values):
    """What the outputs should be."""
    if not case.runtime:
        return [result.detach().numpy().astype(np.float32) for result in in_torch(case, values)[1]]
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds(case, values))


def close(case, found, expected, limit=1e-4):
    assert len(found) == len(expected), f"{case.name}: {len(found)} outputs"
    for k, (own, wanted) in enumerate(zip(found, expected)):
        assert own.shape == wanted.shape, f"{case.name}: y{k} is {own.shape}, not {wanted.shape}"
        np.testing.assert_allclose(own, wanted, rtol=limit, atol=limit, err_msg=f"{case.name}: y{k}")


def by_differences(case, values, expected, factors, directions):
    """The derivatives by central differences of the ONNX project's reference implementation."""
    exact = [value.astype(np.float64) if value is not None and value.dtype.kind == "f" else value for value in values]

    def outputs(moved):
        return ReferenceEvaluator(build(case, moved, np.float64)).run(None, feeds(case, moved, np.float64))

    def difference(k, step):
        sums = []
        for sign in (1, -1):
            moved = list(exact)
            moved[k] = exact[k] + sign * step * directions[k]
            sums.append(sum(float((output * factor).sum()) for output, factor in zip(outputs(moved), factors)))
        return (sums[0] - sums[1]) / (2 * step)

    close(case, outputs(exact), expected)
    found = {k: difference(k, 1e-6) for k in directions}
    for k, derivative in found.items():
        # An implementation that rounds to float32 inside gives another number with another step.
        other = difference(k, 2.5e-6)
        assert abs(other - derivative) < 1e-5 * max(1.0, abs(derivative)), \
            f"{case.name}: the derivative by x{k} is {derivative} or {other}"
    return found


def by_torch(case, values, expected, factors, directions):
    """The derivatives by PyTorch in float64."""
    tensors, outputs = in_torch(case, values)
    close(case, [output.detach().numpy() for output in outputs], expected)
    objective = sum((output * torch.tensor(factor, dtype=torch.float64)).sum()
                    for output, factor in zip(outputs, factors))
    found = torch.autograd.grad(objective, [tensors[k] for k in directions])
    return {k: float((own * torch.tensor(direction, dtype=torch.float64)).sum())
            for own, (k, direction) in zip(found, directions.items())}


def gradients(case, values, expected, random):
    """The factors of the outputs, and for each differentiated value a direction and the derivative along it."""
    # Integers, such as the indices of a TopK, have no part in the sum.
    factors = [(random.uniform(-1, 1, value.shape) * (value.dtype.kind == "f")).astype(np.float32)
               for value in expected]
    directions = {k: random.uniform(-1, 1, values[k].shape).astype(np.float32) for k in case.differentiated()}
    derive = by_torch if case.torch else by_differences
    derivatives = derive(case, values, expected, factors, directions)
    return {
        "factors": [factor.ravel().tolist() for factor in factors],
        "directions": [{"value": f"x{k}", "direction": direction.ravel().tolist(), "derivative": derivatives[k]}
                       for k, direction in directions.items()],
    }


def described(name, value):
    """A tensor; integers and booleans are written as floats."""
    return {"name": name, "dtype": helper.np_dtype_to_tensor_dtype(value.dtype), "shape": list(value.shape),
            "values": value.astype(np.float64).ravel().tolist()}


def write(case, target):
    random = np.random.default_rng(zlib.crc32(case.name.encode()))
    values = draw(case, random)
    model = build(case, values, np.float32)
    expected = expect(case, model, values)
    for info, value in zip(model.graph.output, expected):
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        info.CopyFrom(helper.make_tensor_value_info(info.name, kind, value.shape))
    description = {
        "name": case.name, "operator": f"{case.domain}:{case.operator}".lstrip(":"), "tolerance": case.tolerance,
        "inputs": [described(name, value) for name, value in feeds(case, values).items()],
        "outputs": [described(f"y{k}", value) for k, value in enumerate(expected)],
    }
    if case.gradient:
        description["gradients"] = gradients(case, values, expected, random)
    target.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target / "model.onnx")
    (target / "case.json").write_text(json.dumps(description))


def whole_model(path, target):
    """A case of a whole network: its outputs element by element, for eight examples."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(zlib.crc32(path.stem.encode()))

    def drawn(about):
        shape = (8, *(size if isinstance(size, int) else 12 for size in about.shape[1:]))
        if "mask" in about.name:
            # Sequences of four tokens and more.
            return (np.arange(shape[1]) < np.arange(4, 12)[:, None]).astype(np.int64)
        if "int64" in about.type:
            return random.integers(0, 100, shape)
        return random.uniform(0, 1, shape).astype(np.float32)

    values = {about.name: drawn(about) for about in session.get_inputs()}
    target.mkdir(parents=True, exist_ok=True)
    (target / "model.onnx").write_bytes(path.read_bytes())
    names = [output.name for output in session.get_outputs()]
    outputs = session.run(None, values)
    (target / "case.json").write_text(json.dumps({
        "name": target.name, "operator": "", "tolerance": 1e-4,
        "inputs": [described(name, value) for name, value in values.items()],
        "outputs": [described(name, output) for name, output in zip(names, outputs)],
    }))


def main(folder):
    for case in CASES:
        try:
            write(case, folder / case.name)
        except Exception as problem:
            raise RuntimeError(case.name) from problem
    print(f"{len(CASES)} operator cases, {sum(case.gradient for case in CASES)} with gradients")
    for path in sorted((pathlib.Path(__file__).resolve().parents[2] / "examples/models").glob("*.onnx")):
        whole_model(path, folder / f"model_{path.stem}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
