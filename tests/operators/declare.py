"""What a case of the operator tests is made of, and the list of all cases. The families fill it."""

from dataclasses import dataclass

import numpy as np
from onnx import helper, numpy_helper

CASES = []


@dataclass
class Fed:
    """Integers or booleans that are an input of the model and have no derivative."""

    array: np.ndarray


@dataclass
class Given:
    """Floats that the model is fed with and that have a derivative, where they should not be random."""

    array: np.ndarray


@dataclass
class Case:
    name: str
    operator: str
    inputs: list
    attributes: dict
    opset: int = 17
    domain: str = ""
    outputs: int | tuple = 1
    gradient: bool = True
    low: float = 0.2
    high: float = 1.5
    positive: bool = False
    weights: tuple = ()
    frozen: tuple = ()
    reads: tuple | None = None
    nodes: object = None
    torch: object = None
    runtime: bool = True
    tolerance: float = 1e-5

    def differentiated(self):
        """Indices of the inputs that have a derivative."""
        return [k for k, entry in enumerate(self.inputs) if isinstance(entry, (tuple, Given)) and k not in self.frozen]

    def asked(self):
        """Indices of the node's outputs that it names."""
        return range(self.outputs) if isinstance(self.outputs, int) else self.outputs

    def fed(self):
        """Indices of the inputs that the model is fed with; the others are initializers."""
        return [k for k, entry in enumerate(self.inputs)
                if isinstance(entry, (Fed, Given)) or (isinstance(entry, tuple) and k not in self.weights)]


KEYWORDS = set(Case.__dataclass_fields__) - {"name", "operator", "inputs", "attributes"}


def case(name, operator, inputs, **about):
    """Declares a case: one node of `operator`, or the model of several nodes that `nodes` gives.

    An input is the shape of random floats (between `low` and `high`, of either sign unless `positive`),
    an array (an initializer that has no derivative), `Fed`, `Given` or None where it is left out. Input k is the
    value xk, the k-th output that the node names is yk. What is no attribute of the operator:

    outputs   how many outputs the node names, or the indices of them
    weights   indices of floats that are initializers, not fed
    frozen    indices of floats that have no derivative
    reads     the inputs that the node reads, in its order, where it reads some twice
    nodes     gives the nodes for a tensor type (float32 for Sinter, float64 for derivatives)
    torch     a function of references.py, where the derivative is PyTorch's
    runtime   False where ONNX Runtime lacks the operator and `torch` says what is expected
    gradient  False where the derivative is zero or there is none
    """
    assert all(own.name != name for own in CASES), name
    own = {key: about.pop(key) for key in KEYWORDS & about.keys()}
    CASES.append(Case(name, operator, list(inputs), about, **own))


def i64(*values):
    return np.array(values, dtype=np.int64)


def f32(*values):
    return np.array(values, dtype=np.float32)


def flags(*values):
    return np.array(values, dtype=bool)


def scalar(value):
    return np.array(value, dtype=np.float32 if isinstance(value, float) else np.int64)


node = helper.make_node


def constant(name, array):
    return node("Constant", [], [name], value=numpy_helper.from_array(array))
