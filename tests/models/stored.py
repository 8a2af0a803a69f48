"""Reading the cases that export.py wrote."""

import onnx
from onnx import numpy_helper


def read(path):
    """The array of a stored TensorProto."""
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


def numbered(folder, prefix):
    """`prefix` followed by 0, 1, 2, …, in that order."""
    return sorted(folder.glob(f"{prefix}*.pb"), key=lambda path: int(path.stem.rsplit("_", 1)[1]))


def feeds_of(runtime, folder, batch):
    """The stored inputs by the names under which ONNX Runtime takes them."""
    return {info.name: read(path) for info, path in zip(runtime.get_inputs(), numbered(folder, f"input_{batch}_"))}
