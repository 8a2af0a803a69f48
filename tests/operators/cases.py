"""Writes the operator test cases: a small ONNX model each, its inputs, what ONNX Runtime computes,
and directional derivatives by central differences in float64.

    python3 cases.py FOLDER

A case is a folder: model.onnx, input_K.npy, weight directions and expected numbers in case.json.
The derivative along a direction d of every fed value x_k (the sum over all k of <dL/dx_k, d_k>),
with L the sum of the outputs times fixed factors, is computed by the ONNX project's reference
implementation in float64, which shares no code with Sinter or ONNX Runtime.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

CASES = []


def case(name, operator, shapes, *, constants=(), opset=17, outputs=1, gradient=True, low=0.2, high=1.5,
         positive=False, nodes=None, weights=(), tolerance=1e-5, **attributes):
    """One node over float inputs of these shapes. `constants` are further inputs as arrays,
    `weights` indices of inputs that are initializers. None leaves an input out."""
    CASES.append(dict(name=name, operator=operator, shapes=shapes, constants=list(constants), opset=opset,
                      outputs=outputs, gradient=gradient, low=low, high=high, positive=positive, nodes=nodes,
                      weights=set(weights), tolerance=tolerance, attributes=attributes))


def i64(*values):
    return np.array(values, dtype=np.int64)


def f32(*values):
    return np.array(values, dtype=np.float32)


# Convolutions.
case("conv_2d", "Conv", [(2, 3, 7, 6), (4, 3, 3, 3), (4,)], weights=(1, 2), pads=[1, 1, 1, 1])
case("conv_2d_fed_weights", "Conv", [(2, 3, 5, 5), (4, 3, 3, 3)])
case("conv_2d_strided_dilated", "Conv", [(2, 3, 11, 10), (4, 3, 3, 2), (4,)], weights=(1, 2), strides=[2, 1],
     dilations=[2, 3], pads=[2, 1, 2, 1])
case("conv_2d_asymmetric_pads", "Conv", [(1, 2, 6, 5), (3, 2, 3, 3)], weights=(1,), pads=[0, 1, 2, 0])
case("conv_2d_same_upper", "Conv", [(1, 2, 7, 7), (3, 2, 4, 4)], weights=(1,), strides=[2, 2], auto_pad="SAME_UPPER")
case("conv_2d_same_lower", "Conv", [(1, 2, 7, 7), (3, 2, 4, 4)], weights=(1,), strides=[2, 2], auto_pad="SAME_LOWER")
case("conv_2d_valid", "Conv", [(1, 2, 7, 7), (3, 2, 3, 3)], weights=(1,), auto_pad="VALID")
case("conv_2d_groups", "Conv", [(2, 4, 5, 5), (6, 2, 3, 3), (6,)], weights=(1, 2), group=2, pads=[1, 1, 1, 1])
case("conv_2d_depthwise", "Conv", [(2, 5, 7, 7), (5, 1, 3, 3), (5,)], weights=(1, 2), group=5, strides=[2, 2],
     pads=[1, 1, 1, 1])
case("conv_2d_depthwise_multiplied", "Conv", [(1, 3, 6, 6), (6, 1, 3, 3)], weights=(1,), group=3)
case("conv_2d_pointwise", "Conv", [(2, 7, 5, 3), (3, 7, 1, 1), (3,)], weights=(1, 2))
case("conv_1d", "Conv", [(2, 3, 13), (5, 3, 3), (5,)], weights=(1, 2), strides=[2], pads=[1, 2])
case("conv_3d", "Conv", [(1, 2, 5, 6, 4), (3, 2, 3, 3, 3), (3,)], weights=(1, 2), pads=[1, 1, 1, 1, 1, 1])
case("conv_transpose_2d", "ConvTranspose", [(1, 3, 4, 5), (3, 2, 3, 3), (2,)], weights=(1, 2), strides=[2, 2],
     pads=[1, 1, 1, 1], output_padding=[1, 1])
case("conv_transpose_2d_asymmetric", "ConvTranspose", [(1, 3, 4, 4), (3, 2, 3, 3)], weights=(1,), strides=[2, 2],
     pads=[0, 1, 1, 0])
case("conv_transpose_2d_same", "ConvTranspose", [(1, 2, 4, 4), (2, 2, 3, 3)], weights=(1,), strides=[2, 2],
     auto_pad="SAME_UPPER")
case("conv_transpose_2d_groups", "ConvTranspose", [(1, 4, 3, 3), (4, 2, 2, 2)], weights=(1,), group=2, dilations=[2, 1])
case("conv_transpose_1d", "ConvTranspose", [(2, 3, 6), (3, 2, 4)], weights=(1,), strides=[2], pads=[1, 1])

# Matrix products.
case("gemm", "Gemm", [(3, 4), (4, 5), (5,)], weights=(1, 2))
case("gemm_turned_scaled", "Gemm", [(4, 3), (5, 4), (3, 5)], transA=1, transB=1, alpha=0.5, beta=2.0)
case("gemm_without_bias", "Gemm", [(3, 4), (5, 4)], weights=(1,), transB=1)
case("gemm_bias_column", "Gemm", [(3, 4), (4, 5), (3, 1)])
case("matmul", "MatMul", [(3, 4), (4, 5)])
case("matmul_batch", "MatMul", [(2, 3, 3, 4), (2, 3, 4, 5)])
case("matmul_one_matrix", "MatMul", [(2, 3, 4), (4, 5)], weights=(1,))
case("matmul_broadcast", "MatMul", [(2, 1, 3, 4), (3, 4, 5)])
case("matmul_vector", "MatMul", [(4,), (2, 4, 3)])
case("matmul_by_vector", "MatMul", [(2, 3, 4), (4,)])

# Normalisation and softmax.
case("batch_normalization", "BatchNormalization", [(2, 3, 4, 5), (3,), (3,), (3,), (3,)], positive=True,
     weights=(1, 2, 3, 4), epsilon=1e-3)
case("batch_normalization_rows", "BatchNormalization", [(5, 3), (3,), (3,), (3,), (3,)], positive=True,
     weights=(1, 2, 3, 4))
case("softmax", "Softmax", [(2, 3, 4)], axis=1)
case("softmax_last", "Softmax", [(2, 5)])
case("softmax_opset_11", "Softmax", [(2, 3, 4)], opset=11, axis=1)
case("log_softmax", "LogSoftmax", [(3, 6)])
case("log_softmax_opset_11", "LogSoftmax", [(3, 6)], opset=11)

# Pooling.
case("max_pool", "MaxPool", [(2, 3, 8, 7)], kernel_shape=[2, 2], strides=[2, 2])
case("max_pool_padded", "MaxPool", [(1, 2, 7, 7)], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
case("max_pool_asymmetric", "MaxPool", [(1, 2, 7, 6)], kernel_shape=[3, 2], strides=[2, 2], pads=[0, 0, 1, 1])
case("max_pool_ceil", "MaxPool", [(1, 2, 8, 8)], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
case("max_pool_dilated", "MaxPool", [(1, 2, 9, 9)], kernel_shape=[3, 3], dilations=[2, 2])
case("max_pool_same_upper", "MaxPool", [(1, 2, 7, 7)], kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER")
case("max_pool_1d", "MaxPool", [(2, 3, 9)], kernel_shape=[3], strides=[2], pads=[1, 1])
case("average_pool", "AveragePool", [(2, 3, 8, 6)], kernel_shape=[2, 2], strides=[2, 2])
case("average_pool_padded", "AveragePool", [(1, 2, 7, 7)], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
case("average_pool_counting_pads", "AveragePool", [(1, 2, 7, 7)], kernel_shape=[3, 3], strides=[2, 2],
     pads=[1, 1, 1, 1], count_include_pad=1)
case("average_pool_asymmetric", "AveragePool", [(1, 2, 6, 7)], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 1])
case("average_pool_ceil", "AveragePool", [(1, 2, 8, 8)], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
case("average_pool_1d", "AveragePool", [(2, 3, 9)], kernel_shape=[2], strides=[2])
case("global_average_pool", "GlobalAveragePool", [(2, 3, 5, 4)])
case("global_average_pool_1d", "GlobalAveragePool", [(2, 3, 5)])
case("global_max_pool", "GlobalMaxPool", [(2, 3, 5, 4)])

# Elementwise.
for unary in ["Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus",
              "Softsign", "Mish", "ThresholdedRelu", "Exp", "Abs", "Neg", "Reciprocal", "Erf", "Sin", "Cos", "Identity"]:
    opset = 18 if unary == "Mish" else 17
    low = 0.2 if unary != "ThresholdedRelu" else 0.3
    case(unary.lower(), unary, [(3, 7)], opset=opset, low=low)
case("leaky_relu_slope", "LeakyRelu", [(3, 7)], alpha=0.3)
case("elu_alpha", "Elu", [(3, 7)], alpha=2.0)
case("hard_sigmoid_slope", "HardSigmoid", [(3, 7)], alpha=0.3, beta=0.4)
case("gelu", "Gelu", [(3, 7)], opset=20)
case("gelu_tanh", "Gelu", [(3, 7)], opset=20, approximate="tanh")
case("log", "Log", [(3, 7)], positive=True)
case("sqrt", "Sqrt", [(3, 7)], positive=True)
for rounding in ["Floor", "Ceil", "Round", "Sign"]:
    case(rounding.lower(), rounding, [(3, 7)], gradient=False)
case("softplus_large", "Softplus", [(3, 7)], low=20.0, high=60.0, gradient=False)
case("elu_large", "Elu", [(3, 7)], low=60.0, high=100.0)
for binary in ["Add", "Sub", "Mul", "Div"]:
    case(binary.lower(), binary, [(2, 3, 4), (2, 3, 4)])
    case(f"{binary.lower()}_broadcast", binary, [(2, 3, 4), (3, 1)])
    case(f"{binary.lower()}_broadcast_left", binary, [(4,), (2, 3, 1)])
case("mul_with_itself", "Mul", [(3, 4)], nodes=lambda: [helper.make_node("Mul", ["x0", "x0"], ["y0"])])
case("pow_square", "Pow", [(3, 4)], constants=[f32(2.0)])
case("pow_half", "Pow", [(3, 4)], constants=[f32(0.5)], positive=True)
case("pow_cube", "Pow", [(3, 4)], constants=[f32(3.0)])
case("pow_fed", "Pow", [(3, 4), (3, 4)], positive=True)
case("sum_of_three", "Sum", [(3, 4), (4,), (3, 1)])
case("mean_of_three", "Mean", [(3, 4), (4,), (3, 1)])
case("max_of_three", "Max", [(3, 4), (4,), (3, 1)])
case("min_of_two", "Min", [(3, 4), (3, 4)])
case("prelu", "PRelu", [(2, 3, 4, 4), (3, 1, 1)], weights=(1,))
case("prelu_single", "PRelu", [(2, 3), (1,)], weights=(1,))
case("clip", "Clip", [(3, 7)], constants=[f32(-0.5).reshape(()), f32(0.9).reshape(())])
case("clip_below", "Clip", [(3, 7)], constants=[f32(0.0).reshape(())])
case("clip_opset_9", "Clip", [(3, 7)], opset=9, min=0.0, max=1.0)
case("dropout", "Dropout", [(3, 7)], constants=[f32(0.4).reshape(())])
case("cast", "Cast", [(3, 4)], to=TensorProto.FLOAT, gradient=False)

# Reductions.
for reduce in ["Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]:
    attribute = dict(axes=[1]) if reduce != "Sum" else {}
    constants = [i64(1)] if reduce == "Sum" else []
    case(f"reduce_{reduce.lower()}", f"Reduce{reduce}", [(2, 3, 4)], constants=constants, positive=reduce == "LogSum",
         keepdims=1, **attribute)
case("reduce_mean_spatial", "ReduceMean", [(2, 3, 4, 5)], axes=[2, 3], keepdims=0)
case("reduce_mean_all", "ReduceMean", [(2, 3, 4)], keepdims=0)
case("reduce_mean_opset_18", "ReduceMean", [(2, 3, 4)], constants=[i64(-1, 1)], opset=18)
case("reduce_sum_negative_axis", "ReduceSum", [(2, 3, 4)], constants=[i64(-1)], keepdims=0)

# Moving elements.
case("concat", "Concat", [(2, 3, 4), (2, 1, 4), (2, 2, 4)], axis=1)
case("concat_negative_axis", "Concat", [(2, 3), (2, 4)], axis=-1)
case("split_equal", "Split", [(2, 6, 3)], outputs=3, axis=1)
case("split_sizes", "Split", [(2, 6, 3)], constants=[i64(1, 5)], outputs=2, axis=1)
case("split_opset_11", "Split", [(2, 6, 3)], opset=11, outputs=2, axis=1, split=[2, 4])
case("split_num_outputs", "Split", [(2, 7)], opset=18, outputs=3, axis=1, num_outputs=3)
case("slice", "Slice", [(4, 6)], constants=[i64(1, 0), i64(3, -1), i64(0, 1), i64(1, 2)])
case("slice_backwards", "Slice", [(4, 6)], constants=[i64(-1), i64(-5), i64(1), i64(-2)])
case("slice_to_the_end", "Slice", [(4, 6)], constants=[i64(2), i64(2**63 - 1), i64(1)])
case("slice_opset_9", "Slice", [(4, 6)], opset=9, starts=[1], ends=[4], axes=[1])
case("reshape", "Reshape", [(2, 3, 4)], constants=[i64(0, -1)])
case("reshape_merge", "Reshape", [(2, 3, 4)], constants=[i64(6, 4)])
case("flatten", "Flatten", [(2, 3, 4)])
case("flatten_axis_2", "Flatten", [(2, 3, 4)], axis=2)
case("flatten_axis_0", "Flatten", [(2, 3, 4)], axis=0)
case("squeeze", "Squeeze", [(2, 1, 4, 1)], constants=[i64(1, -1)])
case("squeeze_opset_11", "Squeeze", [(2, 1, 4)], opset=11, axes=[1])
case("unsqueeze", "Unsqueeze", [(2, 4)], constants=[i64(0, -1)])
case("transpose", "Transpose", [(2, 3, 4)], perm=[2, 0, 1])
case("transpose_all", "Transpose", [(2, 3, 4)])
case("expand", "Expand", [(3, 1)], constants=[i64(2, 1, 4)])
case("pad_constant", "Pad", [(2, 3, 4)], constants=[i64(0, 1, 2, 0, 0, 1), f32(0.7).reshape(())])
case("pad_reflect", "Pad", [(1, 2, 5, 5)], constants=[i64(0, 0, 1, 2, 0, 0, 2, 1)], mode="reflect")
case("pad_edge", "Pad", [(1, 2, 4, 4)], constants=[i64(0, 0, 1, 0, 0, 0, 0, 2)], mode="edge")
case("pad_negative", "Pad", [(4, 5)], constants=[i64(-1, 1, 0, -2)])
case("pad_opset_9", "Pad", [(2, 3)], opset=9, pads=[1, 0, 0, 2], value=0.5)
case("gather", "Gather", [(3, 4, 2)], constants=[i64(2, 0, -1)], axis=1)
case("gather_matrix_of_indices", "Gather", [(5, 2)], constants=[np.array([[0, 4], [1, 1]], dtype=np.int64)])
case("gather_scalar", "Gather", [(3, 4)], constants=[np.array(1, dtype=np.int64)], axis=0)
case("depth_to_space", "DepthToSpace", [(1, 8, 2, 3)], blocksize=2)
case("depth_to_space_crd", "DepthToSpace", [(1, 8, 2, 3)], blocksize=2, mode="CRD")
case("space_to_depth", "SpaceToDepth", [(1, 2, 4, 6)], blocksize=2)

# Resize in its modes.
for mode, coordinates, rounding in [
    ("nearest", "asymmetric", "floor"), ("nearest", "half_pixel", "round_prefer_floor"),
    ("nearest", "half_pixel", "round_prefer_ceil"), ("nearest", "asymmetric", "ceil"),
    ("linear", "half_pixel", None), ("linear", "align_corners", None), ("linear", "asymmetric", None),
    ("linear", "pytorch_half_pixel", None), ("cubic", "half_pixel", None), ("cubic", "align_corners", None),
]:
    extra = {} if rounding is None else {"nearest_mode": rounding}
    case("_".join(filter(None, ["resize", mode, coordinates, rounding])), "Resize", [(1, 2, 4, 5)],
         constants=[None, f32(1, 1, 2, 1.5)], mode=mode, coordinate_transformation_mode=coordinates,
         tolerance=1e-4, **extra)
case("resize_to_sizes", "Resize", [(1, 2, 4, 4)], constants=[None, None, i64(1, 2, 7, 6)], mode="linear", tolerance=1e-4)
case("resize_smaller", "Resize", [(1, 2, 6, 6)], constants=[None, f32(1, 1, 0.5, 0.5)], mode="nearest")
case("upsample_opset_9", "Upsample", [(1, 2, 3, 3)], opset=9, constants=[f32(1, 1, 2, 2)], mode="nearest",
     gradient=False)


def shape_arithmetic():
    """x.view(x.size(0), -1) as PyTorch writes it."""
    return [
        helper.make_node("Shape", ["x0"], ["shape"]),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.array(0, dtype=np.int64))),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(i64(0))),
        helper.make_node("Unsqueeze", ["batch", "axes"], ["batch_1d"]),
        helper.make_node("Constant", [], ["rest"], value=numpy_helper.from_array(i64(-1))),
        helper.make_node("Concat", ["batch_1d", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x0", "target"], ["y0"]),
    ]


def expanded_by_where():
    """An Expand whose shape goes through ConstantOfShape, Equal and Where, as PyTorch's expand."""
    constant = lambda name, value: helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
    return [
        constant("wanted", i64(-1, 4)),
        constant("ones_shape", i64(2)),
        helper.make_node("ConstantOfShape", ["ones_shape"], ["ones"],
                         value=helper.make_tensor("one", TensorProto.INT64, [1], [1])),
        constant("minus", i64(-1)),
        helper.make_node("Mul", ["ones", "minus"], ["minus_ones"]),
        helper.make_node("Equal", ["wanted", "minus_ones"], ["open"]),
        helper.make_node("Where", ["open", "ones", "wanted"], ["target"]),
        helper.make_node("Expand", ["x0", "target"], ["y0"]),
    ]


def pixels_from_size():
    """A Resize to twice the size, computed inside of the graph with floats in between."""
    constant = lambda name, value: helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
    return [
        helper.make_node("Shape", ["x0"], ["shape"]),
        constant("from", i64(2)), constant("to", i64(4)),
        helper.make_node("Slice", ["shape", "from", "to"], ["spatial"]),
        helper.make_node("Cast", ["spatial"], ["spatial_float"], to=TensorProto.FLOAT),
        constant("two", f32(2.0)),
        helper.make_node("Mul", ["spatial_float", "two"], ["doubled"]),
        helper.make_node("Floor", ["doubled"], ["floored"]),
        helper.make_node("Cast", ["floored"], ["spatial_new"], to=TensorProto.INT64),
        constant("zero", i64(0)),
        helper.make_node("Slice", ["shape", "zero", "from"], ["leading"]),
        helper.make_node("Concat", ["leading", "spatial_new"], ["sizes"], axis=0),
        helper.make_node("Resize", ["x0", "", "", "sizes"], ["y0"], mode="nearest",
                         coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ]


case("shape_arithmetic_around_reshape", "Reshape", [(2, 3, 4)], nodes=shape_arithmetic)
case("shape_arithmetic_around_expand", "Expand", [(3, 1)], nodes=expanded_by_where)
case("shape_arithmetic_around_resize", "Resize", [(1, 2, 3, 4)], nodes=pixels_from_size, gradient=False)


def build(spec, values, dtype):
    """The model with its tensors in `dtype`."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    names = [f"x{k}" for k in range(len(values))]
    initializers, inputs = [], []
    for k, value in enumerate(values):
        if k in spec["weights"]:
            initializers.append(numpy_helper.from_array(value.astype(dtype), names[k]))
        else:
            inputs.append(helper.make_tensor_value_info(names[k], kind, value.shape))
    for k, constant in enumerate(spec["constants"]):
        if constant is None:
            names.append("")
            continue
        name = f"c{k}"
        # Scales of a Resize stay float32 in every version of the operator.
        own = dtype if constant.dtype == np.float32 and spec["operator"] not in ("Resize", "Upsample") else constant.dtype
        initializers.append(numpy_helper.from_array(constant.astype(own), name))
        names.append(name)
    outputs = [f"y{k}" for k in range(spec["outputs"])]
    attributes = dict(spec["attributes"])
    if spec["operator"] == "Cast":
        attributes["to"] = kind
    nodes = spec["nodes"]() if spec["nodes"] else [helper.make_node(spec["operator"], names, outputs, **attributes)]
    graph = helper.make_graph(nodes, spec["name"], inputs,
                              [helper.make_tensor_value_info(name, kind, None) for name in outputs], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", spec["opset"])], ir_version=8)
    return model, [f"x{k}" for k in range(len(values)) if k not in spec["weights"]]


def main(folder):
    for spec in CASES:
        random = np.random.default_rng(abs(hash_name(spec["name"])))
        values = []
        for shape in spec["shapes"]:
            value = random.uniform(spec["low"], spec["high"], shape)
            if not spec["positive"]:
                value *= random.choice([-1.0, 1.0], shape)
            # float32 values, exact in float64, so that both see the same numbers.
            values.append(value.astype(np.float32))
        model, fed = build(spec, values, np.float32)
        target = folder / spec["name"]
        target.mkdir(parents=True, exist_ok=True)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        feeds = {name: values[int(name[1:])] for name in fed}
        expected = session.run(None, feeds)
        onnx.save(model, target / "model.onnx")
        description = {
            "name": spec["name"], "operator": spec["operator"], "tolerance": spec["tolerance"],
            "inputs": [{"name": name, "shape": list(feeds[name].shape), "values": feeds[name].ravel().tolist()}
                       for name in fed],
            "outputs": [{"name": f"y{k}", "shape": list(value.shape), "values": value.ravel().tolist()}
                        for k, value in enumerate(expected)],
        }
        if spec["gradient"]:
            try:
                description["gradients"] = gradients(spec, values, expected, random)
            except Exception as error:  # the reference implementation has defects of its own
                reason = str(error).strip().splitlines()[0]
                print(f"{spec['name']}: no derivative from the reference implementation: {reason}")
        (target / "case.json").write_text(json.dumps(description))
    print(f"{len(CASES)} operator cases")
    for path in sorted((pathlib.Path(__file__).resolve().parents[2] / "examples/models").glob("*.onnx")):
        whole_model(path, folder / f"model_{path.stem}")


def whole_model(path, target):
    """A case of a whole network: its outputs element by element, for eight examples."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    about = session.get_inputs()[0]
    random = np.random.default_rng(hash_name(path.stem))
    value = random.uniform(0, 1, (8, *about.shape[1:])).astype(np.float32)
    target.mkdir(parents=True, exist_ok=True)
    (target / "model.onnx").write_bytes(path.read_bytes())
    names = [output.name for output in session.get_outputs()]
    (target / "case.json").write_text(json.dumps({
        "name": target.name, "operator": "", "tolerance": 1e-4,
        "inputs": [{"name": about.name, "shape": list(value.shape), "values": value.ravel().tolist()}],
        "outputs": [{"name": name, "shape": list(output.shape), "values": output.ravel().tolist()}
                    for name, output in zip(names, session.run(None, {about.name: value}))],
    }))


def gradients(spec, values, expected, random):
    """For each value: a direction, and the derivative of sum(outputs * factors) along it."""
    factors = [random.uniform(-1, 1, value.shape).astype(np.float32) for value in expected]

    def objective(moved):
        model, fed = build(spec, moved, np.float64)
        outputs = ReferenceEvaluator(model).run(None, {name: moved[int(name[1:])] for name in fed})
        return sum(float((output * factor).sum()) for output, factor in zip(outputs, factors))

    model, fed = build(spec, [value.astype(np.float64) for value in values], np.float64)
    outputs = ReferenceEvaluator(model).run(None, {name: values[int(name[1:])].astype(np.float64) for name in fed})
    for output, wanted in zip(outputs, expected):
        np.testing.assert_allclose(output, wanted, rtol=1e-4, atol=1e-4)
    directions = []
    # The reference Erf rounds to float32 inside; a longer step keeps its noise small.
    step = 1e-3 if spec["operator"] in ("Erf", "Gelu") else 1e-6
    for k in range(len(values)):
        # Running statistics are not differentiated.
        if spec["operator"] == "BatchNormalization" and k >= 3:
            continue
        direction = random.uniform(-1, 1, values[k].shape).astype(np.float32)
        moved = []
        for sign in (1, -1):
            copy = [value.astype(np.float64) for value in values]
            copy[k] = copy[k] + sign * step * direction
            moved.append(objective(copy))
        directions.append({"value": f"x{k}", "direction": direction.ravel().tolist(),
                           "derivative": (moved[0] - moved[1]) / (2 * step)})
    return {"factors": [factor.ravel().tolist() for factor in factors], "directions": directions}


def hash_name(name):
    import zlib

    return zlib.crc32(name.encode())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
