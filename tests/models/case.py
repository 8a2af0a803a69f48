"""The list of models, and how a case of one is written. Imported by the modules that make models; not run."""

import dataclasses
import json
import pathlib
import zlib
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

BATCHES = (1, 8)
MODELS = {}


def model(name):
    """Lists a function without arguments that makes something with `write(folder)`."""

    def register(function):
        assert name not in MODELS, f"two models are named {name}"
        MODELS[name] = function
        return function

    return register


def seed(text):
    """A seed that is the same in every run."""
    return zlib.crc32(text.encode())


def session(proto):
    """ONNX Runtime with all its optimisations off: the reference for every output."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 2
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def infer(runtime, inputs):
    """The outputs for `inputs`, arrays in the order of the graph's inputs that are no initializers."""
    names = [value.name for value in runtime.get_inputs()]
    return runtime.run(None, dict(zip(names, inputs, strict=True)))


def save(start, values, arrays):
    """Writes START_K.pb, a TensorProto, for the K-th array."""
    for index, (value, array) in enumerate(zip(values, arrays, strict=True)):
        onnx.save_tensor(numpy_helper.from_array(np.asarray(array), value.name), f"{start}_{index}.pb")


def misdeclared(values, arrays):
    """The names of values whose declared shape isn't their array's; a symbol stands for one number in all of them."""
    symbols, names = {}, []
    for value, array in zip(values, arrays, strict=True):
        right = len(value.shape) == array.ndim
        for declared, actual in zip(value.shape, array.shape):
            if isinstance(declared, str):
                declared = symbols.setdefault(declared, actual)
            right &= declared in (actual, None, -1)
        if not right:
            names.append(value.name)
    return names


@dataclasses.dataclass
class Case:
    """A model, inputs for it, and where it is from.

    `inputs(batch, rng)` gives arrays in the order of the graph's inputs. `reference(inputs)`, where there is one,
    gives the outputs by the framework that the model is from. Cases of one `seed_name` get the same inputs.
    """

    proto: onnx.ModelProto
    source: str
    inputs: Callable
    reference: Callable | None = None
    trainable: bool = True
    note: str = ""
    seed_name: str = ""

    def write(self, folder: pathlib.Path):
        """Writes model.onnx, the inputs and outputs of each batch size that works, and case.json."""
        onnx.checker.check_model(self.proto)
        folder.mkdir(parents=True)
        onnx.save(self.proto, folder / "model.onnx")
        runtime = session(self.proto)
        batches, notes, wrong = [], [self.note] if self.note else [], []
        for batch in BATCHES:
            inputs = self.inputs(batch, np.random.default_rng(seed(f"{self.seed_name or folder.name} {batch}")))
            try:
                outputs = infer(runtime, inputs)
            except Exception as error:  # ONNX Runtime has no base class for its errors
                if batch == 1:
                    raise
                notes.append(f"fails at batch {batch} in ONNX Runtime: {str(error).splitlines()[0]}")
                continue
            self.check(inputs, outputs)
            save(folder / f"input_{batch}", runtime.get_inputs(), inputs)
            save(folder / f"output_{batch}", runtime.get_outputs(), outputs)
            batches.append(batch)
            wrong = misdeclared([*runtime.get_inputs(), *runtime.get_outputs()], [*inputs, *outputs])
        if wrong:
            notes.append(f"the file declares another shape for {', '.join(wrong)}")
        facts = {
            "name": folder.name,
            "source": self.source,
            "batches": batches,
            "trainable": self.trainable,
            "note": "; ".join(notes),
        }
        (folder / "case.json").write_text(json.dumps(facts, indent=2) + "\n")
        return facts

    def check(self, inputs, outputs):
        """Refuses outputs that are not finite, the same for all examples, or not what the framework computes."""
        for output in outputs:
            assert np.isfinite(output).all(), "an output is not finite"
        examples = outputs[0].astype(np.float64)
        differ = len(examples) == 1 or examples.std(axis=0).max() > 1e-2 * examples.std()
        assert differ, "the outputs do not depend on the inputs"
        if self.reference:
            for wanted, output in zip(self.reference(inputs), outputs, strict=True):
                np.testing.assert_allclose(output, wanted, rtol=1e-3, atol=1e-3 * max(np.abs(wanted).max(), 1e-3))
