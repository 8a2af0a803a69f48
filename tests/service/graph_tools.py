"""Networks beyond the examples, exported by PyTorch, and counts made from the files alone."""

import functools
import io
import warnings

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import nn


class DenseBlocks(nn.Module):
    """Every layer reads all the ones before it, joined along the channels."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.layers, self.norms = nn.ModuleList(), nn.ModuleList()
        width = 12
        for _ in range(3):
            self.norms.append(nn.BatchNorm2d(width))
            self.layers.append(nn.Conv2d(width, 8, 3, padding=1, bias=False))
            width += 8
        self.last_norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers):
            x = torch.cat([x, layer(torch.relu(norm(x)))], 1)
        x = torch.relu(self.last_norm(x))
        return self.head(x.mean((2, 3)))


class GroupedBlocks(nn.Module):
    """A residual block around a convolution in four groups, as ResNeXt has it."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.narrow, self.narrow_norm = nn.Conv2d(16, 32, 1, bias=False), nn.BatchNorm2d(32)
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4, bias=False)
        self.grouped_norm = nn.BatchNorm2d(32)
        self.widen, self.widen_norm = nn.Conv2d(32, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        y = torch.relu(self.narrow_norm(self.narrow(x)))
        y = torch.relu(self.grouped_norm(self.grouped(y)))
        x = torch.relu(x + self.widen_norm(self.widen(y)))
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))


class Upsampling(nn.Module):
    """Down by a stride and up again by a transposed convolution, joined, pooled globally."""

    def __init__(self):
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.down, self.down_norm = nn.Conv2d(16, 24, 3, 2, padding=1), nn.BatchNorm2d(24)
        self.up, self.up_norm = nn.ConvTranspose2d(24, 16, 2, 2), nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(32, 20, 3, padding=1)
        self.head = nn.Linear(20, 10)

    def forward(self, x):
        x = torch.relu(self.first_norm(self.first(x)))
        y = torch.relu(self.down_norm(self.down(x)))
        y = torch.relu(self.up_norm(self.up(y)))
        y = torch.relu(self.mix(torch.cat([x, y], 1)))
        return self.head(nn.functional.adaptive_max_pool2d(y, 1).flatten(1))


class Upsampled(nn.Module):
    """An hourglass by interpolation, whose two ends are added."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 16, 3, 2, padding=1)
        self.last = nn.Conv2d(16, 24, 3, padding=1)
        self.head = nn.Linear(24, 10)

    def forward(self, x):
        x = torch.relu(self.first(x))
        y = nn.functional.interpolate(torch.relu(self.down(x)), scale_factor=2)
        return self.head(torch.relu(self.last(x + y)).mean((2, 3)))


class ViewPerceptron(nn.Module):
    """A multilayer perceptron behind a view whose batch size is computed in the graph."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(192, 64), nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 48), nn.Tanh()
        )
        self.head = nn.Linear(48, 10)

    def forward(self, x):
        return self.head(self.layers(x.view(x.size(0), -1)))


class ViewCnn(nn.Module):
    """The same view behind convolutions, so that it merges channels with places."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, 2, padding=1), nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 24, 3, 2, padding=1)
        self.hidden, self.head = nn.Linear(24 * 4, 40), nn.Linear(40, 10)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        x = x.view(x.size(0), -1)
        return self.head(torch.relu(self.hidden(x)))


class FixedViewCnn(ViewCnn):
    """A Reshape with the number of features written into it."""

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.norm(self.first(x)))))
        return self.head(torch.relu(self.hidden(x.reshape(-1, 96))))


class Probabilities(ViewCnn):
    """A trailing Softmax."""

    def forward(self, x):
        return torch.softmax(super().forward(x), 1)


class SharedKernels(nn.Module):
    """One convolution that is used twice in a row, and its normalisation."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.shared, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.last, self.head = nn.Conv2d(16, 24, 3, padding=1), nn.Linear(24, 10)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        for _ in range(2):
            x = torch.relu(self.norm(self.shared(x)))
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


class Squeezed(nn.Module):
    """A squeeze-and-excitation gate, chunks and a shuffle of channels."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.shrink, self.grow = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.left, self.right = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.last, self.head = nn.Conv2d(32, 24, 1), nn.Linear(24, 10)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        gate = nn.functional.adaptive_avg_pool2d(x, 1)
        x = x * torch.sigmoid(self.grow(torch.relu(self.shrink(gate))))
        left, right = x.chunk(2, 1)
        x = torch.cat([torch.relu(self.left(left)), torch.relu(self.right(right))], 1)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2)
        x = x.reshape(batch, channels, height, width)
        return self.head(torch.relu(self.last(x)).mean((2, 3)))


class ParallelHeads(nn.Module):
    """Two outputs from one trunk."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3)
        self.head, self.other = nn.Linear(24, 10), nn.Linear(24, 4)

    def forward(self, x):
        x = torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3))
        return self.head(x), self.other(x)


NETWORKS = {
    "dense": DenseBlocks,
    "grouped": GroupedBlocks,
    "transposed": Upsampling,
    "upsampled": Upsampled,
    "view_mlp": ViewPerceptron,
    "view_cnn": ViewCnn,
    "fixed_view": FixedViewCnn,
    "softmax": Probabilities,
    "shared": SharedKernels,
    "squeezed": Squeezed,
    "two_heads": ParallelHeads,
}


@functools.cache
def exported(name, folded=False, batch=None, half_silent=False):
    """The network as an ONNX file: normalisation kept or folded, the batch open or fixed."""
    torch.manual_seed(len(name))
    model = NETWORKS[name]()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, (nn.BatchNorm1d, nn.BatchNorm2d)):
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    tensor += 0.2 * torch.rand(tensor.shape, generator=noise)
    if half_silent:
        silence_half(model)
    model.eval()
    outputs = ["logits"] + (["other"] if name == "two_heads" else [])
    mode = torch.onnx.TrainingMode.EVAL if folded else torch.onnx.TrainingMode.PRESERVE
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.rand(batch or 2, 3, 8, 8),),
            file,
            dynamo=False,
            opset_version=17,
            training=mode,
            do_constant_folding=folded,
            input_names=["input"],
            output_names=outputs,
            dynamic_axes=None if batch else {n: {0: "batch"} for n in ["input", *outputs]},
        )
    written = onnx.load_from_string(file.getvalue())
    onnx.checker.check_model(written, full_check=True)
    return file.getvalue()


def random_noise(batch, shape=(3, 8, 8), seed=0):
    return np.random.default_rng(seed).standard_normal((batch, *shape)).astype(np.float32)


def session_of(content):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # Warnings of the shape inference count as failures elsewhere; here they only make noise.
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(content, inputs):
    """All outputs of the file in ONNX Runtime."""
    session = session_of(content)
    return session.run(None, {session.get_inputs()[0].name: inputs})


def weights_of(model):
    """The floating-point tensors of the file by name, those in Constant nodes included."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return {name: value for name, value in found.items() if value.dtype.kind == "f"}


def sources_of(model):
    """By name of a value, the name of the tensor that it is a copy of."""
    return {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Identity"}


def count_parameters(content):
    """Elements, and nonzero ones, of what training changes: no statistics, no arguments."""
    model = onnx.load_from_string(content)
    weights, sources = weights_of(model), sources_of(model)
    names = set()
    for node in model.graph.node:
        if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul"}:
            names |= {sources.get(name, name) for name in node.input}
        elif node.op_type == "BatchNormalization":
            names |= {sources.get(name, name) for name in node.input[:3]}
    kept = [weights[name] for name in names if name in weights and weights[name].ndim > 0]
    return sum(v.size for v in kept), sum(int(np.count_nonzero(v)) for v in kept)


def kernels_of(content):
    """The tensors that convolutions and matrix products multiply by."""
    model = onnx.load_from_string(content)
    weights, sources = weights_of(model), sources_of(model)
    found = {}
    for node in model.graph.node:
        if node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
            for name in node.input[:2]:
                name = sources.get(name, name)
                if name in weights:
                    found[name] = weights[name]
    return found


def shapes_of(content):
    """Shapes of all values of the file for its own batch size or one, seen in ONNX Runtime."""
    model = onnx.load_from_string(content)
    first = model.graph.input[0]
    dims = [d.dim_value for d in first.type.tensor_type.shape.dim]
    dims[0] = dims[0] or 1
    shapes = {name: value.shape for name, value in weights_of(model).items()}
    shapes[first.name] = tuple(dims)
    known = {output.name for output in model.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in known:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {first.name: np.zeros(dims, np.float32)})
    shapes.update({name: np.shape(value) for name, value in zip(names, values)})
    return dims[0], shapes


def count_macs(content):
    """Multiply-accumulates for one example."""
    batch, shapes = shapes_of(content)
    total = 0
    for node in onnx.load_from_string(content).graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Conv":
            out, kernel = shapes[node.output[0]], shapes[node.input[1]]
            total += int(np.prod(out)) * int(np.prod(kernel[1:]))
        elif node.op_type == "ConvTranspose":
            into, kernel = shapes[node.input[0]], shapes[node.input[1]]
            total += int(np.prod(into)) * int(np.prod(kernel[1:]))
        elif node.op_type in {"Gemm", "MatMul"}:
            left = shapes[node.input[0]]
            inner = left[0] if attributes.get("transA") else left[-1]
            total += int(np.prod(shapes[node.output[0]])) * inner
    assert total % batch == 0
    return total // batch


def logits_of(content, images):
    """The first output for all images, padded to the batch size that the file fixes."""
    session = session_of(content)
    name, size = session.get_inputs()[0].name, session.get_inputs()[0].shape[0]
    size = size if isinstance(size, int) else 256
    parts = []
    for start in range(0, len(images), size):
        batch = images[start : start + size]
        padded = np.concatenate([batch, np.zeros_like(batch[:1]).repeat(size - len(batch), 0)])
        parts.append(session.run(None, {name: padded})[0][: len(batch)])
    return np.concatenate(parts)


def cross_entropy(logits, labels):
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-logs[np.arange(len(labels)), labels].mean())


def accuracy(logits, labels):
    return float((logits.argmax(1) == labels).mean())


def first_half(count):
    return slice(0, count // 2)


def silence(module, channels):
    """Makes the named output channels of a layer, or of a normalisation, zero for any input."""
    with torch.no_grad():
        if isinstance(module, nn.ConvTranspose2d):
            module.weight[:, channels] = 0
        else:
            module.weight[channels] = 0
        if module.bias is not None:
            module.bias[channels] = 0


def silence_half(model):
    """Silences half of every set of coupled channels, so that their removal changes nothing."""
    groups = {
        GroupedBlocks: lambda m: [[m.stem, m.widen, m.widen_norm]],
        Upsampling: lambda m: [
            [m.first, m.first_norm],
            [m.down, m.down_norm],
            [m.up, m.up_norm],
            [m.mix],
        ],
        Upsampled: lambda m: [[m.first, m.down], [m.last]],
        ViewPerceptron: lambda m: [[m.layers[0], m.layers[2]], [m.layers[3]]],
        ViewCnn: lambda m: [[m.first, m.norm], [m.second], [m.hidden]],
        FixedViewCnn: lambda m: [[m.first, m.norm], [m.second], [m.hidden]],
        Probabilities: lambda m: [[m.first, m.norm], [m.second], [m.hidden]],
        SharedKernels: lambda m: [[m.stem, m.norm], [m.last]],
        Squeezed: lambda m: [[m.shrink], [m.left, m.right], [m.last]],
        ParallelHeads: lambda m: [[m.first], [m.second]],
    }
    if isinstance(model, DenseBlocks):
        dead = []
        for start, width in [(0, 12), (12, 8), (20, 8), (28, 8)]:
            dead += range(start, start + width // 2)
        for norm in [*model.norms, model.last_norm]:
            silence(norm, [channel for channel in dead if channel < norm.num_features])
        silence(model.stem, first_half(12))
        for layer in model.layers:
            silence(layer, first_half(8))
        return
    for coupled in groups[type(model)](model):
        for module in coupled:
            width = module.bias.shape[0] if module.bias is not None else module.weight.shape[0]
            silence(module, first_half(width))
    if isinstance(model, GroupedBlocks):
        # Groups of eight keep the same number each.
        dead = [group * 8 + place for group in range(4) for place in range(4)]
        for module in [model.narrow, model.narrow_norm, model.grouped, model.grouped_norm]:
            silence(module, dead)
