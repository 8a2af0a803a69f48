"""Operators that move elements by rules that their attributes and shapes give."""

from onnx import TensorProto, helper

import references
from declare import Fed, case, constant, f32, i64, node, scalar

case("concat", "Concat", [(2, 3, 4), (2, 1, 4), (2, 2, 4)], axis=1)
case("concat_negative_axis", "Concat", [(2, 3), (2, 4)], axis=-1)
case("concat_one", "Concat", [(2, 3)], axis=0)
case("concat_with_itself", "Concat", [(2, 3)], axis=1, reads=(0, 0))
case("concat_with_a_repeated_value", "Concat", [(2, 3), (1, 3)], axis=0, reads=(0, 1, 0))
case("concat_constant", "Concat", [(2, 3), f32([1.0, 2.0], [3.0, 4.0])], axis=1)
case("split_equal", "Split", [(2, 6, 3)], outputs=3, axis=1)
case("split_sizes", "Split", [(2, 6, 3), i64(1, 5)], outputs=2, axis=1)
case("split_negative_axis", "Split", [(2, 5), i64(2, 3)], outputs=2, axis=-1)
case("split_opset_11", "Split", [(2, 6, 3)], opset=11, outputs=2, axis=1, split=[2, 4])
case("split_num_outputs", "Split", [(2, 7)], opset=18, outputs=3, axis=1, num_outputs=3)
case("split_fed", "Split", [(2, 6), Fed(i64(1, 5))], outputs=2, axis=1)
case("split_second_part", "Split", [(2, 6)], nodes=lambda kind: [
    node("Split", ["x0"], ["unused", "y0"], axis=1)])
case("slice", "Slice", [(4, 6), i64(1, 0), i64(3, -1), i64(0, 1), i64(1, 2)])
case("slice_backwards", "Slice", [(4, 6), i64(-1), i64(-5), i64(1), i64(-2)])
case("slice_to_the_end", "Slice", [(4, 6), i64(2), i64(2**63 - 1), i64(1)])
case("slice_fed", "Slice", [(4, 6), Fed(i64(1)), Fed(i64(3))])
case("slice_opset_9", "Slice", [(4, 6)], opset=9, starts=[1], ends=[4], axes=[1])
case("reshape", "Reshape", [(2, 3, 4), i64(0, -1)])
case("reshape_merge", "Reshape", [(2, 3, 4), i64(6, 4)])
case("reshape_fed", "Reshape", [(2, 3, 4), Fed(i64(6, 4))])
case("flatten", "Flatten", [(2, 3, 4)])
case("flatten_axis_2", "Flatten", [(2, 3, 4)], axis=2)
case("flatten_axis_0", "Flatten", [(2, 3, 4)], axis=0)
case("flatten_negative_axis", "Flatten", [(2, 3, 4)], axis=-1)
case("squeeze", "Squeeze", [(2, 1, 4, 1), i64(1, -1)])
case("squeeze_all", "Squeeze", [(2, 1, 4, 1)])
case("squeeze_opset_11", "Squeeze", [(2, 1, 4)], opset=11, axes=[1])
case("unsqueeze", "Unsqueeze", [(2, 4), i64(0, -1)])
case("unsqueeze_opset_11", "Unsqueeze", [(2, 4)], opset=11, axes=[1, 3])
case("unsqueeze_fed", "Unsqueeze", [(2, 4), Fed(i64(0, -1))])
case("transpose", "Transpose", [(2, 3, 4)], perm=[2, 0, 1])
case("transpose_all", "Transpose", [(2, 3, 4)])
case("expand", "Expand", [(3, 1), i64(2, 1, 4)])
case("expand_nothing", "Expand", [(3, 4), i64(1, 1)])
case("expand_fed", "Expand", [(3, 1), Fed(i64(2, 1, 4))])
case("expand_single", "Expand", [(), i64(2, 3)])
case("pad_constant", "Pad", [(2, 3, 4), i64(0, 1, 2, 0, 0, 1), scalar(0.7)])
case("pad_reflect", "Pad", [(1, 2, 5, 5), i64(0, 0, 1, 2, 0, 0, 2, 1)], mode="reflect")
case("pad_edge", "Pad", [(1, 2, 4, 4), i64(0, 0, 1, 0, 0, 0, 0, 2)], mode="edge")
case("pad_negative", "Pad", [(4, 5), i64(-1, 1, 0, -2)], torch=references.pad)
case("pad_wrap", "Pad", [(2, 4, 3), i64(1, 2, 0, 0, 3, 2)], opset=19, mode="wrap")
case("pad_wrap_axes", "Pad", [(2, 4, 3), i64(2, 1), None, i64(-1)], opset=19, mode="wrap")
case("pad_wrap_far", "Pad", [(2, 3), i64(0, 4, 0, 7)], opset=19, mode="wrap")
case("pad_wrap_fed", "Pad", [(2, 3), Fed(i64(0, 1, 1, 2))], opset=19, mode="wrap")
case("pad_axes", "Pad", [(2, 3, 4), i64(1, 2, 0, 1), scalar(0.0), i64(2, 0)], opset=18)
case("pad_fed", "Pad", [(2, 3), Fed(i64(0, 1, 2, 0))])
case("pad_fed_value", "Pad", [(2, 3), i64(0, 1, 2, 0), ()], frozen=(2,))
case("pad_opset_9", "Pad", [(2, 3)], opset=9, pads=[1, 0, 0, 2], value=0.5)
case("depth_to_space", "DepthToSpace", [(1, 8, 2, 3)], blocksize=2)
case("depth_to_space_crd", "DepthToSpace", [(1, 8, 2, 3)], blocksize=2, mode="CRD")
case("space_to_depth", "SpaceToDepth", [(1, 2, 4, 6)], blocksize=2)
# ONNX Runtime does not have the mode yet.
case("space_to_depth_crd", "SpaceToDepth", [(1, 2, 4, 6)], opset=28, blocksize=2, mode="CRD",
     torch=references.space_to_depth_crd, runtime=False)


def shape_arithmetic(_):
    """x.view(x.size(0), -1) as PyTorch writes it."""
    return [
        node("Shape", ["x0"], ["shape"]),
        constant("zero", scalar(0)),
        node("Gather", ["shape", "zero"], ["batch"], axis=0),
        constant("axes", i64(0)),
        node("Unsqueeze", ["batch", "axes"], ["batch_1d"]),
        constant("rest", i64(-1)),
        node("Concat", ["batch_1d", "rest"], ["target"], axis=0),
        node("Reshape", ["x0", "target"], ["y0"]),
    ]


def expanded_by_where(_):
    """An Expand whose shape goes through ConstantOfShape, Equal and Where, as PyTorch's expand."""
    return [
        constant("wanted", i64(-1, 4)),
        constant("ones_shape", i64(2)),
        node("ConstantOfShape", ["ones_shape"], ["ones"], value=helper.make_tensor("one", TensorProto.INT64, [1], [1])),
        constant("minus", i64(-1)),
        node("Mul", ["ones", "minus"], ["minus_ones"]),
        node("Equal", ["wanted", "minus_ones"], ["open"]),
        node("Where", ["open", "ones", "wanted"], ["target"]),
        node("Expand", ["x0", "target"], ["y0"]),
    ]


case("shape_arithmetic_around_reshape", "Reshape", [(2, 3, 4)], nodes=shape_arithmetic)
case("shape_arithmetic_around_expand", "Expand", [(3, 1)], nodes=expanded_by_where)
