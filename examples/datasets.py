"""Reads the data sets of the examples: an .npz, or a folder of MNIST's own gzipped files."""

import gzip
import pathlib

import numpy as np

IDX_FILES = {
    "x_train": "train-images-idx3-ubyte.gz",
    "y_train": "train-labels-idx1-ubyte.gz",
    "x_test": "t10k-images-idx3-ubyte.gz",
    "y_test": "t10k-labels-idx1-ubyte.gz",
}


def read_idx(path):
    """An IDX file of bytes: two zeros, type 8, the number of axes, their sizes, the values."""
    with gzip.open(path, "rb") as file:
        data = file.read()
    if data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    axes = data[3]
    shape = np.frombuffer(data, ">u4", axes, offset=4).astype(int)
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def load(path):
    """`x_train`, `y_train`, `x_test` and `y_test` as stored."""
    path = pathlib.Path(path)
    if path.is_dir():
        return {name: read_idx(path / file) for name, file in IDX_FILES.items()}
    with np.load(path) as arrays:
        return {name: arrays[name] for name in IDX_FILES}


def prepare(images, scale=None):
    """Float32 images with a channel axis; bytes are scaled by 1/255 unless `scale` is given."""
    if scale is None:
        scale = 1 / 255 if images.dtype == np.uint8 else 1.0
    scaled = images.astype(np.float32) * np.float32(scale)
    return scaled[:, None] if scaled.ndim == 3 else scaled
