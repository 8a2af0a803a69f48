"""Small ONNX models and data files made on the spot, right ones and wrong ones."""

import gzip
import io
import struct
import tarfile
import zipfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from conftest import DIGITS

OPSET = 17


def build(nodes, inputs, outputs, initializers=(), opset=OPSET, extra_domains=(), **graph_parts):
    """A model as bytes. `inputs` and `outputs` are `(name, shape)` of float32 tensors."""
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in group]
        for group in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "test", *infos, initializer=list(initializers), **graph_parts)
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(domain, 1) for domain in extra_domains]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="sinter-tests")
    model.ir_version = 8
    return model.SerializeToString()


def mlp(inputs=64, hidden=16, outputs=10, seed=1):
    """Two Gemm layers with weights that are not symmetric in any way, for flat digits."""
    rng = np.random.default_rng(seed)
    weights = {
        "w1": rng.normal(0, 0.2, (inputs, hidden)),
        "b1": rng.normal(0, 0.1, hidden),
        "w2": rng.normal(0, 0.2, (hidden, outputs)),
        "b2": rng.normal(0, 0.1, outputs),
    }
    initializers = [
        numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["input", "w1", "b1"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["a"], "relu"),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["logits"], "second"),
    ]
    return build(nodes, [("input", ["batch", inputs])], [("logits", ["batch", outputs])], initializers)


def identity(shape=("batch", 4)):
    """The smallest model: no weights at all."""
    node = helper.make_node("Identity", ["input"], ["output"], "same")
    return build([node], [("input", list(shape))], [("output", list(shape))])


def with_external_data(location="weights.bin", offset=0):
    """`mlp()` with the tensor `w1` in a file of its own: the model's and that file's bytes."""
    model = onnx.load_from_string(mlp())
    tensor = next(t for t in model.graph.initializer if t.name == "w1")
    data = b"\xee" * offset + tensor.raw_data
    length = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return model.SerializeToString(), data


def bomb(dims):
    """A model whose only weight claims `dims` and holds four bytes."""
    tensor = TensorProto(name="bomb", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"\0" * 4)
    node = helper.make_node("Add", ["input", "bomb"], ["output"], "adding")
    return build([node], [("input", ["batch", 4])], [("output", None)], [tensor])


def unknown_operator():
    node = helper.make_node("FluxCapacitor", ["input"], ["output"], "doc")
    return build([node], [("input", ["batch", 4])], [("output", ["batch", 4])])


def cycle():
    nodes = [
        helper.make_node("Add", ["input", "b"], ["a"], "round"),
        helper.make_node("Relu", ["a"], ["b"], "and_round"),
    ]
    return build(nodes, [("input", ["batch", 4])], [("b", ["batch", 4])])


def external_data_in_a_branch(location):
    """An If whose branch holds a tensor in an external file."""
    tensor = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    out = helper.make_tensor_value_info("branch_out", TensorProto.FLOAT, [4])
    node = helper.make_node("Identity", ["far"], ["branch_out"], "inner")
    branch = helper.make_graph([node], "branch", [], [out], [tensor])
    condition = numpy_helper.from_array(np.array(True), "condition")
    choice = helper.make_node(
        "If", ["condition"], ["chosen"], "choice", then_branch=branch, else_branch=branch
    )
    total = helper.make_node("Add", ["input", "chosen"], ["output"], "total")
    return build([choice, total], [("input", ["batch", 4])], [("output", ["batch", 4])], [condition])


def outputs(model_bytes, feeds):
    """What ONNX Runtime computes, deterministically."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model_bytes, options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


# Data files.


def digits():
    """The arrays of the digits."""
    with np.load(DIGITS) as arrays:
        return {name: arrays[name] for name in ("x_train", "y_train", "x_test", "y_test")}


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def idx(array, kind=0x08):
    """An array of unsigned bytes (or of big-endian numbers of another kind) as an IDX file."""
    big_endian = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}[kind]
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.astype(big_endian).tobytes()


def mnist_files(compressed=True):
    """The digits under the names of MNIST's own four files."""
    arrays = digits()
    files = {
        "train-images-idx3-ubyte": idx(arrays["x_train"]),
        "train-labels-idx1-ubyte": idx(arrays["y_train"]),
        "t10k-images-idx3-ubyte": idx(arrays["x_test"]),
        "t10k-labels-idx1-ubyte": idx(arrays["y_test"]),
    }
    if compressed:
        return {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in files.items()}
    return files


def parquet(columns):
    """Bytes of a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def zip_of(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def tar_of(files, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def npy_header(shape, descr="<f4"):
    """An .npy file that claims `shape` and holds no numbers."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {tuple(shape)}, }}"
    text = text.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()
