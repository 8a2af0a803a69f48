"""Writes test cases of quantized operators: those of the domain com.microsoft, and what the node tests of
ONNX leave out of the standard ones.

    python3 contributed_quantized.py FOLDER

A case is a folder: model.onnx, input_K.pb, output_K.pb as ONNX Runtime computes it, and case.json with the
tolerances. The inputs follow from the case's name alone.
"""

import json
import pathlib
import sys
import types
import zlib

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

CASES = []
MICROSOFT = "com.microsoft"
U8, I8, U16, I16, I32, F16, F32 = (np.dtype(t) for t in "uint8 int8 uint16 int16 int32 float16 float32".split())
SEVEN_BITS = types.SimpleNamespace(min=-64, max=63)


class Levels:
    """Random elements of an integer type, `low` to `high`."""

    def __init__(self, dtype, *shape, low=None, high=None):
        # ONNX Runtime's kernels for uint8 by int8 saturate sums of two products on older processors;
        # seven bits in int8 stay clear of that.
        limits = SEVEN_BITS if dtype == I8 else np.iinfo(dtype)
        self.dtype, self.shape = dtype, shape
        self.low = limits.min if low is None else low
        self.high = limits.max if high is None else high

    def draw(self, random):
        return random.integers(self.low, self.high, self.shape, endpoint=True).astype(self.dtype)


class Reals:
    """Random elements of a floating-point type."""

    def __init__(self, *shape, low=-3.0, high=3.0, dtype=F32):
        self.shape, self.low, self.high, self.dtype = shape, low, high, dtype

    def draw(self, random):
        return random.uniform(self.low, self.high, self.shape).astype(self.dtype)


def scale(value, dtype=F32):
    return np.array(value, dtype)


def zero(value, dtype=U8):
    return np.array(value, dtype)


def case(name, operator, inputs, *, domain=MICROSOFT, since=21, outputs=1, rtol=1e-5, atol=1e-5, **attributes):
    """One node. An input is an array, something to draw, or None for one that is left out."""
    CASES.append((name, operator, inputs, domain, since, outputs, rtol, atol, attributes))


def standard(name, operator, inputs, **options):
    case(name, operator, inputs, domain="", **options)


# Numbers to levels and back.
for kind in (U8, I8, U16, I16):
    case(f"quantize_{kind}", "QuantizeLinear", [Reals(3, 5), scale(0.031), zero(3, kind)])
    case(f"dequantize_{kind}", "DequantizeLinear", [Levels(kind, 3, 5), scale(0.031), zero(3, kind)])
case("quantize_without_zero_point", "QuantizeLinear", [Reals(4, 5), scale(0.02), None])
case("quantize_axis_0", "QuantizeLinear", [Reals(3, 4, 2), scale([0.02, 0.03, 0.05]), zero([1, 2, 3])], axis=0)
case("quantize_axis_last", "QuantizeLinear", [Reals(4, 3), scale([0.02, 0.03, 0.05]), zero([1, -2, 3], I8)], axis=-1)
case("quantize_half", "QuantizeLinear", [Reals(4, 5, dtype=F16), scale(0.02, F16), zero(7)])
case("dequantize_int32", "DequantizeLinear", [Levels(I32, 7), scale(0.01), None])
case("dequantize_axis_1", "DequantizeLinear", [Levels(I8, 2, 3, 2), scale([0.02, 0.03, 0.05]), zero([1, -2, 3], I8)],
     axis=1)
case("dequantize_half", "DequantizeLinear", [Levels(U8, 4, 5), scale(0.02, F16), zero(130)])

# Element by element.
for operator in ("QLinearAdd", "QLinearMul"):
    for kind, zeros in ((U8, (120, 131, 117)), (I8, (-3, 5, 2))):
        a, b, c = (zero(value, kind) for value in zeros)
        case(f"{operator}_{kind}", operator,
             [Levels(kind, 2, 3, 4), scale(0.023), a, Levels(kind, 2, 3, 4), scale(0.041), b, scale(0.067), c])
        case(f"{operator}_{kind}_broadcast", operator,
             [Levels(kind, 2, 3, 4), scale(0.023), a, Levels(kind, 3, 1), scale(0.041), b, scale(0.067), c])
        case(f"{operator}_{kind}_scalar", operator,
             [Levels(kind), scale(0.023), a, Levels(kind, 3, 5), scale(0.041), b, scale(0.067), c])
case("QLinearSigmoid_uint8", "QLinearSigmoid", [Levels(U8, 5, 9), scale(0.037), zero(127), scale(1 / 256), zero(0)])
case("QLinearSigmoid_int8", "QLinearSigmoid", [Levels(I8, 5, 9), scale(0.037), zero(3, I8), scale(1 / 256),
                                               zero(-128, I8)])
case("QLinearLeakyRelu_uint8", "QLinearLeakyRelu", [Levels(U8, 5, 9), scale(0.037), zero(127), scale(0.029), zero(60)],
     alpha=0.3)
case("QLinearLeakyRelu_int8", "QLinearLeakyRelu", [Levels(I8, 5, 9), scale(0.037), zero(4, I8), scale(0.029),
                                                   zero(-9, I8)])
case("QLinearConcat", "QLinearConcat",
     [scale(0.04), zero(120), Levels(U8, 2, 3, 2), scale(0.031), zero(100), Levels(U8, 2, 1, 2), scale(0.04), zero(120),
      Levels(U8, 2, 2, 2), scale(0.057), zero(131)], axis=1)
case("QLinearConcat_int8_last", "QLinearConcat",
     [scale(0.04), zero(-12, I8), Levels(I8, 2, 3), scale(0.031), zero(10, I8), Levels(I8, 2, 4), scale(0.06),
      zero(-7, I8)], axis=-1)

# Pooling and softmax.
for kind, zeros in ((U8, (120, 117)), (I8, (-3, 2))):
    x, y = (zero(value, kind) for value in zeros)
    # The ratio of these scales puts no average of so few levels halfway between two.
    codes = [scale(0.0313), x, scale(0.0271), y]
    case(f"QLinearGlobalAveragePool_{kind}", "QLinearGlobalAveragePool", [Levels(kind, 2, 3, 4, 5), *codes])
    case(f"QLinearGlobalAveragePool_{kind}_channels_last", "QLinearGlobalAveragePool",
         [Levels(kind, 2, 4, 5, 3), *codes], channels_last=1)
    case(f"QLinearAveragePool_{kind}", "QLinearAveragePool", [Levels(kind, 2, 3, 7, 6), *codes], kernel_shape=[3, 2],
         strides=[2, 1], pads=[1, 0, 1, 1])
    case(f"QLinearAveragePool_{kind}_padding_counted", "QLinearAveragePool", [Levels(kind, 2, 3, 7, 6), *codes],
         kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1], count_include_pad=1)
    case(f"QLinearAveragePool_{kind}_ceil", "QLinearAveragePool", [Levels(kind, 1, 2, 8, 8), *codes],
         kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    case(f"QLinearAveragePool_{kind}_channels_last", "QLinearAveragePool", [Levels(kind, 2, 7, 6, 3), *codes],
         kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1], channels_last=1)
    case(f"QLinearAveragePool_{kind}_1d", "QLinearAveragePool", [Levels(kind, 2, 3, 9), *codes], kernel_shape=[3],
         auto_pad="SAME_UPPER", strides=[2])
    lowest = zero(np.iinfo(kind).min, kind)
    codes = [scale(0.05), x, scale(1 / 256), lowest]
    case(f"QLinearSoftmax_{kind}", "QLinearSoftmax", [Levels(kind, 3, 4, 5), *codes], axis=-1, opset=13)
    case(f"QLinearSoftmax_{kind}_axis_1", "QLinearSoftmax", [Levels(kind, 3, 4, 5), *codes], axis=1, opset=13)
    case(f"QLinearSoftmax_{kind}_opset_12", "QLinearSoftmax", [Levels(kind, 3, 4, 5), *codes], axis=1, opset=12)

# Matrix products.
KINDS = ((U8, U8), (U8, I8), (I8, I8))
for left, right in KINDS:
    a, b, y = zero(7, left), zero(3, right), zero(11, left)
    name = f"{left}_{right}"
    columns = scale([0.011, 0.013, 0.007, 0.017, 0.019])
    column_zeros = zero([3, 4, 5, 2, 6], right)
    for suffix, b_scale, b_zero in (("", scale(0.013), b), ("_columns", columns, column_zeros)):
        case(f"MatMulIntegerToFloat_{name}{suffix}", "MatMulIntegerToFloat",
             [Levels(left, 2, 4, 6), Levels(right, 6, 5), scale(0.021), b_scale, a, b_zero, Reals(5)])
        standard(f"QLinearMatMul_{name}{suffix}", "QLinearMatMul",
                 [Levels(left, 2, 4, 6), scale(0.021), a, Levels(right, 6, 5), b_scale, b_zero, scale(0.19), y])
        standard(f"MatMulInteger_{name}{suffix}", "MatMulInteger",
                 [Levels(left, 3, 4, 6), Levels(right, 6, 5), a, b_zero])
        case(f"QGemm_{name}{suffix}", "QGemm",
             [Levels(left, 4, 6), scale(0.021), a, Levels(right, 6, 5), b_scale, b_zero,
              Levels(I32, 5, low=-900, high=900), scale(0.19), y])
        case(f"QGemm_{name}{suffix}_turned_to_float", "QGemm",
             [Levels(left, 6, 4), scale(0.021), a, Levels(right, 5, 6), b_scale, b_zero,
              Levels(I32, 4, 1, low=-900, high=900)], transA=1, transB=1, alpha=0.7)
    standard(f"MatMulInteger_{name}_batches", "MatMulInteger", [Levels(left, 2, 1, 4, 6), Levels(right, 3, 6, 5), a, b])
    case(f"QGemm_{name}_without_bias", "QGemm",
         [Levels(left, 4, 6), scale(0.021), a, Levels(right, 6, 5), scale(0.013), b, None, scale(0.19), y], alpha=1.3)
for right in (U8, I8):
    case(f"DynamicQuantizeMatMul_{right}", "DynamicQuantizeMatMul",
         [Reals(2, 4, 6), Levels(right, 6, 5), scale(0.013), zero(3, right), Reals(5)])
    case(f"DynamicQuantizeMatMul_{right}_columns", "DynamicQuantizeMatMul",
         [Reals(3, 8, low=0.1), Levels(right, 8, 3), scale([0.011, 0.013, 0.007]), None, None])

# Recurrent layers: weights [directions, input or hidden, 4 * hidden].
HIDDEN = 6


def lstm(name, kind, scales, *, lengths=None, states=False, peepholes=False, outputs=3, **attributes):
    """DynamicQuantizeLSTM of 7 steps, 3 examples and 5 inputs. `scales` is one scale for each direction, or for
    each direction and column. The cases run on one thread: on more, ONNX Runtime quantizes the hidden states of
    each thread's share of the batch apart."""
    scales = np.array(scales, F32)
    directions = len(scales)
    zeros = np.full(scales.shape, 0 if kind == I8 else 131, kind)
    state = [Reals(directions, 3, HIDDEN, low=-0.9, high=0.9) if states else None for _ in range(2)]
    case(f"DynamicQuantizeLSTM_{kind}_{name}", "DynamicQuantizeLSTM",
         [Reals(7, 3, 5), Levels(kind, directions, 5, 4 * HIDDEN), Levels(kind, directions, HIDDEN, 4 * HIDDEN),
          Reals(directions, 8 * HIDDEN, low=-0.5, high=0.5), lengths and np.array(lengths, I32), *state,
          Reals(directions, 3 * HIDDEN, low=-0.5, high=0.5) if peepholes else None, scales, zeros, scales * 1.5, zeros],
         outputs=outputs, hidden_size=HIDDEN, **attributes)


for kind in (U8, I8):
    by_column = [np.linspace(0.005, 0.011, 4 * HIDDEN), np.linspace(0.009, 0.004, 4 * HIDDEN)]
    lstm("forward", kind, [0.008])
    lstm("reverse_columns", kind, by_column[:1], direction="reverse", states=True)
    lstm("bidirectional", kind, [0.008, 0.006], direction="bidirectional", states=True)
    lstm("bidirectional_columns", kind, by_column, direction="bidirectional")
    lstm("lengths", kind, [0.008, 0.006], direction="bidirectional", lengths=[4, 6, 0], states=True)
    lstm("peepholes", kind, [0.008], peepholes=True, states=True, clip=1.5)
    lstm("input_forget", kind, [0.008], input_forget=1)
    lstm("activations", kind, [0.008], activations=["HardSigmoid", "Softsign", "Relu"])

# Convolutions of the standard domain.
for left, right in KINDS:
    x, w, y = zero(7, left), zero(0, right), zero(11, left)
    name = f"{left}_{right}"
    codes = [scale(0.19), y]

    def kernel(*shape):
        return [Levels(right, *shape), scale(0.013), w]

    standard(f"QLinearConv_{name}", "QLinearConv",
             [Levels(left, 2, 3, 9, 8), scale(0.021), x, *kernel(4, 3, 3, 3), *codes,
              Levels(I32, 4, low=-900, high=900)], pads=[1, 1, 1, 1])
    standard(f"QLinearConv_{name}_strided", "QLinearConv",
             [Levels(left, 1, 3, 17, 15), scale(0.021), x, *kernel(4, 3, 3, 2), *codes], strides=[2, 1],
             dilations=[1, 2], pads=[0, 1, 2, 1])
    standard(f"QLinearConv_{name}_groups", "QLinearConv",
             [Levels(left, 2, 4, 6, 6), scale(0.021), x, *kernel(6, 2, 3, 3), *codes], group=2)
    standard(f"QLinearConv_{name}_depthwise", "QLinearConv",
             [Levels(left, 1, 5, 7, 7), scale(0.021), x, *kernel(5, 1, 3, 3), *codes], group=5, pads=[1, 1, 1, 1])
    standard(f"QLinearConv_{name}_1d", "QLinearConv",
             [Levels(left, 2, 3, 11), scale(0.021), x, *kernel(4, 3, 3), *codes], auto_pad="SAME_UPPER")
standard("QLinearConv_by_channel", "QLinearConv",
         [Levels(U8, 2, 3, 9, 8), scale(0.021), zero(7), Levels(I8, 4, 3, 3, 3), scale([0.011, 0.013, 0.007, 0.017]),
          zero([0, 0, 0, 0], I8), scale(0.19), zero(11), Levels(I32, 4, low=-900, high=900)])
for right in (U8, I8):
    standard(f"ConvInteger_{right}", "ConvInteger",
             [Levels(U8, 2, 3, 9, 8), Levels(right, 4, 3, 3, 3), zero(9), zero(3, right)], pads=[1, 0, 1, 2], strides=[1, 2])
standard("ConvInteger_3d", "ConvInteger", [Levels(U8, 1, 2, 4, 5, 3), Levels(U8, 3, 2, 2, 2, 2), zero(9)])


def write(folder, name, operator, inputs, domain, since, outputs, rtol, atol, attributes):
    random = np.random.default_rng(zlib.crc32(name.encode()))
    arrays = [value if value is None or isinstance(value, np.ndarray) else value.draw(random) for value in inputs]
    names = ["" if array is None else f"x{index}" for index, array in enumerate(arrays)]
    results = [f"y{index}" for index in range(outputs)]
    node = helper.make_node(operator, names, results, domain=domain, **attributes)
    given = [(label, array) for label, array in zip(names, arrays) if label]
    infos = [helper.make_tensor_value_info(label, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
             for label, array in given]
    opsets = [helper.make_opsetid("", since), helper.make_opsetid(MICROSOFT, 1)]
    untyped = [onnx.ValueInfoProto(name=label) for label in results]
    model = helper.make_model(helper.make_graph([node], name, infos, untyped), opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found = session.run(None, dict(given))
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(label, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for label, array in zip(results, found))

    target = folder / name
    target.mkdir(parents=True, exist_ok=True)
    onnx.save(model, target / "model.onnx")
    for prefix, tensors in (("input", given), ("output", zip(results, found))):
        for index, (label, array) in enumerate(tensors):
            (target / f"{prefix}_{index}.pb").write_bytes(numpy_helper.from_array(array, label).SerializeToString())
    about = dict(name=name, rtol=rtol, atol=atol, random=False, opset=since, tensors=True, runtime=True,
                 operators=[f"{domain}:{operator}" if domain else operator])
    (target / "case.json").write_text(json.dumps(about))


def main():
    folder = pathlib.Path(sys.argv[1])
    for entry in CASES:
        write(folder, *entry)
    print(f"{len(CASES)} cases")


if __name__ == "__main__":
    main()
