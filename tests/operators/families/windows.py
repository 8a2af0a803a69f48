"""Convolutions and poolings."""

import references
from declare import Fed, case, i64, node

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
case("conv_2d_depthwise_dilated", "Conv", [(1, 3, 8, 8), (3, 1, 3, 3), (3,)], weights=(1, 2), group=3,
     dilations=[2, 2], pads=[2, 2, 2, 2])
case("conv_2d_pointwise", "Conv", [(2, 7, 5, 3), (3, 7, 1, 1), (3,)], weights=(1, 2))
case("conv_2d_pointwise_strided", "Conv", [(2, 3, 5, 6), (4, 3, 1, 1)], weights=(1,), strides=[2, 2])
case("conv_1d", "Conv", [(2, 3, 13), (5, 3, 3), (5,)], weights=(1, 2), strides=[2], pads=[1, 2])
case("conv_1d_depthwise", "Conv", [(2, 4, 9), (4, 1, 3)], weights=(1,), group=4, pads=[1, 1])
case("conv_3d", "Conv", [(1, 2, 5, 6, 4), (3, 2, 3, 3, 3), (3,)], weights=(1, 2), pads=[1, 1, 1, 1, 1, 1])
case("conv_3d_groups_strided", "Conv", [(1, 4, 5, 6, 4), (4, 2, 2, 3, 2)], weights=(1,), group=2, strides=[1, 2, 2])
case("conv_by_itself", "Conv", [(3, 3, 3, 3)], reads=(0, 0), pads=[1, 1, 1, 1])

case("conv_transpose_2d", "ConvTranspose", [(1, 3, 4, 5), (3, 2, 3, 3), (2,)], weights=(1, 2), strides=[2, 2],
     pads=[1, 1, 1, 1], output_padding=[1, 1])
case("conv_transpose_2d_asymmetric", "ConvTranspose", [(1, 3, 4, 4), (3, 2, 3, 3)], weights=(1,), strides=[2, 2],
     pads=[0, 1, 1, 0])
case("conv_transpose_2d_same", "ConvTranspose", [(1, 2, 4, 4), (2, 2, 3, 3)], weights=(1,), strides=[2, 2],
     auto_pad="SAME_UPPER")
case("conv_transpose_2d_shaped", "ConvTranspose", [(1, 2, 4, 4), (2, 3, 3, 3)], weights=(1,), strides=[2, 2],
     output_shape=[8, 7], torch=references.conv_transpose)
case("conv_transpose_2d_groups", "ConvTranspose", [(1, 4, 3, 3), (4, 2, 2, 2)], weights=(1,), group=2, dilations=[2, 1],
     torch=references.conv_transpose)
case("conv_transpose_2d_depthwise", "ConvTranspose", [(2, 3, 3, 4), (3, 1, 3, 3), (3,)], weights=(1, 2), group=3,
     strides=[2, 2], torch=references.conv_transpose)
case("conv_transpose_1d", "ConvTranspose", [(2, 3, 6), (3, 2, 4)], weights=(1,), strides=[2], pads=[1, 1])
case("conv_transpose_3d", "ConvTranspose", [(1, 2, 3, 2, 3), (2, 3, 2, 3, 2), (3,)], weights=(1, 2),
     strides=[2, 1, 2])

case("max_pool", "MaxPool", [(2, 3, 8, 7)], kernel_shape=[2, 2], strides=[2, 2])
case("max_pool_overlapping", "MaxPool", [(2, 3, 6, 7)], kernel_shape=[3, 3], strides=[1, 1])
case("max_pool_padded", "MaxPool", [(1, 2, 7, 7)], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
case("max_pool_asymmetric", "MaxPool", [(1, 2, 7, 6)], kernel_shape=[3, 2], strides=[2, 2], pads=[0, 0, 1, 1])
case("max_pool_ceil", "MaxPool", [(1, 2, 8, 8)], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
case("max_pool_dilated", "MaxPool", [(1, 2, 9, 9)], kernel_shape=[3, 3], dilations=[2, 2])
case("max_pool_same_upper", "MaxPool", [(1, 2, 7, 7)], kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER")
case("max_pool_same_lower", "MaxPool", [(1, 2, 7, 7)], kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_LOWER",
     torch=references.max_pool_same_lower)
case("max_pool_1d", "MaxPool", [(2, 3, 9)], kernel_shape=[3], strides=[2], pads=[1, 1])
case("average_pool", "AveragePool", [(2, 3, 8, 6)], kernel_shape=[2, 2], strides=[2, 2])
case("average_pool_padded", "AveragePool", [(1, 2, 7, 7)], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
case("average_pool_counting_pads", "AveragePool", [(1, 2, 7, 7)], kernel_shape=[3, 3], strides=[2, 2],
     pads=[1, 1, 1, 1], count_include_pad=1)
case("average_pool_asymmetric", "AveragePool", [(1, 2, 6, 7)], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 1])
case("average_pool_asymmetric_counting_pads", "AveragePool", [(1, 2, 6, 7)], kernel_shape=[3, 3], strides=[2, 2],
     pads=[1, 0, 0, 1], count_include_pad=1)
case("average_pool_ceil", "AveragePool", [(1, 2, 8, 8)], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
case("average_pool_same_upper", "AveragePool", [(1, 2, 7, 7)], kernel_shape=[2, 2], strides=[2, 2],
     auto_pad="SAME_UPPER")
case("average_pool_1d", "AveragePool", [(2, 3, 9)], kernel_shape=[2], strides=[2])
case("average_pool_1d_padded", "AveragePool", [(2, 3, 9)], kernel_shape=[3], strides=[2], pads=[1, 1])
for rank, shape in enumerate([(2, 3, 5), (2, 3, 5, 4), (1, 2, 3, 4, 3)], 1):
    case(f"global_average_pool_{rank}d", "GlobalAveragePool", [shape])
    case(f"global_max_pool_{rank}d", "GlobalMaxPool", [shape], torch=references.global_max_pool)
    for p in (1, 2, 3):
        case(f"global_lp_pool_{rank}d_{p}", "GlobalLpPool", [shape], p=p, torch=references.global_lp_pool)
for p in (1, 2, 3):
    case(f"lp_pool_{p}", "LpPool", [(2, 3, 6, 7)], opset=18, p=p, kernel_shape=[2, 3], strides=[2, 2],
         torch=references.lp_pool)
case("lp_pool_padded", "LpPool", [(1, 2, 7, 7)], opset=18, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1],
     torch=references.lp_pool)
case("lp_pool_asymmetric", "LpPool", [(1, 2, 6, 7)], opset=18, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 0, 0, 1],
     torch=references.lp_pool)
case("lp_pool_1d", "LpPool", [(2, 3, 9)], opset=18, kernel_shape=[3], strides=[2])
case("lp_pool_dilated", "LpPool", [(1, 2, 7, 8)], opset=18, kernel_shape=[3, 2], dilations=[2, 3], pads=[1, 0, 1, 1],
     torch=references.lp_pool)

# The places of the largest elements count elements of the whole tensor; with storage_order 1 by columns.
for order in (0, 1):
    for name, shape, about in [
        ("", (2, 3, 6, 7), dict(kernel_shape=[2, 3], strides=[2, 2])),
        ("_padded", (1, 2, 5, 6), dict(kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1])),
        ("_asymmetric", (1, 2, 6, 5), dict(kernel_shape=[3, 2], strides=[2, 2], pads=[0, 1, 2, 0])),
        ("_dilated", (2, 2, 7, 8), dict(kernel_shape=[2, 3], dilations=[3, 2])),
        ("_dilated_padded", (1, 2, 7, 8),
         dict(kernel_shape=[3, 2], strides=[2, 3], dilations=[2, 3], pads=[1, 1, 1, 1])),
        ("_ceil", (1, 2, 6, 8), dict(kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)),
        ("_1d", (2, 3, 9), dict(kernel_shape=[3], strides=[2], pads=[1, 1])),
        ("_3d", (2, 2, 4, 5, 3), dict(kernel_shape=[2, 3, 2], strides=[2, 1, 1])),
        ("_3d_padded", (1, 2, 4, 5, 3), dict(kernel_shape=[3, 2, 3], strides=[2, 2, 1], pads=[1, 0, 1, 0, 1, 1])),
    ]:
        case(f"max_pool_indices{name}_{order}", "MaxPool", [shape], outputs=2, storage_order=order, **about)
case("max_pool_indices_same_upper", "MaxPool", [(1, 2, 5, 6)], outputs=2, kernel_shape=[2, 3], strides=[2, 2],
     auto_pad="SAME_UPPER")

CUBE = dict(kernel_shape=[2, 3, 2], strides=[2, 1, 1])
PADDED_CUBE = dict(kernel_shape=[3, 2, 3], strides=[2, 2, 1], pads=[1, 0, 1, 0, 1, 1])
CEIL_CUBE = dict(kernel_shape=[3, 2, 2], strides=[2, 3, 2], ceil_mode=1)
for name, shape, about in [("", (2, 2, 4, 5, 3), CUBE), ("_padded", (1, 2, 4, 5, 3), PADDED_CUBE),
                           ("_ceil", (1, 2, 6, 6, 5), CEIL_CUBE),
                           ("_dilated", (1, 2, 5, 6, 4), dict(kernel_shape=[2, 3, 2], dilations=[2, 2, 1]))]:
    case(f"max_pool_3d{name}", "MaxPool", [shape], **about)
    for counted in (0, 1):
        case(f"average_pool_3d{name}_{counted}", "AveragePool", [shape], opset=19, count_include_pad=counted, **about)
    for p in (1, 2, 3):
        case(f"lp_pool_3d{name}_{p}", "LpPool", [shape], opset=18, p=p, torch=references.lp_pool, **about)
for counted in (0, 1):
    case(f"average_pool_dilated_{counted}", "AveragePool", [(2, 2, 7, 8)], opset=19, kernel_shape=[2, 3],
         dilations=[3, 2], count_include_pad=counted)
    case(f"average_pool_dilated_padded_{counted}", "AveragePool", [(1, 2, 7, 8)], opset=19, kernel_shape=[3, 2],
         strides=[2, 1], dilations=[2, 3], pads=[1, 1, 0, 1], count_include_pad=counted)
    case(f"average_pool_dilated_ceil_{counted}", "AveragePool", [(1, 2, 8, 8)], opset=19, kernel_shape=[2, 2],
         strides=[2, 3], dilations=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1, count_include_pad=counted)

for name, shape, image, block, about in [
    ("1d", (2, 6, 4), [6], [3], {}),
    ("1d_padded", (2, 6, 4), [7], [3], dict(pads=[1, 1], strides=[2])),
    ("2d", (2, 12, 9), [4, 5], [2, 3], dict()),
    ("2d_padded", (1, 12, 25), [4, 5], [2, 3], dict(pads=[1, 1, 1, 1])),
    ("2d_asymmetric", (1, 12, 16), [4, 5], [2, 3], dict(pads=[0, 1, 1, 0])),
    ("2d_strided", (1, 8, 6), [4, 6], [2, 2], dict(strides=[2, 2])),
    ("2d_dilated", (1, 12, 15), [5, 7], [2, 3], dict(dilations=[2, 1])),
    ("2d_all", (2, 12, 4), [6, 5], [3, 2], dict(strides=[2, 2], dilations=[2, 3], pads=[1, 0, 1, 2])),
    ("3d", (1, 24, 8), [3, 4, 3], [2, 3, 2], {}),
    ("3d_padded", (1, 16, 24), [4, 4, 5], [2, 2, 2], dict(strides=[1, 2, 2], pads=[0, 1, 1, 1, 0, 1])),
]:
    case(f"col2im_{name}", "Col2Im", [shape, i64(*image), i64(*block)], opset=18, torch=references.col2im, **about)
# ONNX Runtime puts elements to other places in 3-D, where there are dilations.
case("col2im_3d_dilated", "Col2Im", [(1, 8, 4), i64(3, 4, 5), i64(2, 2, 2)], opset=18, dilations=[2, 2, 3],
     torch=references.col2im, runtime=False)
case("col2im_fed", "Col2Im", [(1, 12, 9), Fed(i64(4, 5)), Fed(i64(2, 3))], opset=18, torch=references.col2im)

PLACES = Fed(i64([[[5, 7], [13, 15]], [[16, 19], [26, 24]]]))
SQUARE = dict(kernel_shape=[2, 2], strides=[2, 2])
case("max_unpool", "MaxUnpool", [(1, 2, 2, 2), PLACES], opset=11, **SQUARE)
case("max_unpool_constant", "MaxUnpool", [(1, 2, 2, 2), PLACES.array], opset=11, **SQUARE)
case("max_unpool_shaped", "MaxUnpool", [(1, 1, 2, 2), Fed(i64(5, 7, 13, 15).reshape(1, 1, 2, 2)), i64(1, 1, 6, 4)],
     opset=11, **SQUARE)
# Places count in the shape without output_shape; ONNX Runtime counts in output_shape.
case("max_unpool_shaped_wider", "MaxUnpool", [(1, 2, 2, 2), PLACES, i64(1, 2, 5, 6)], opset=11,
     torch=references.max_unpool, runtime=False, **SQUARE)
case("max_unpool_shaped_fed", "MaxUnpool", [(1, 2, 2, 2), PLACES, Fed(i64(1, 2, 5, 5))], opset=11,
     torch=references.max_unpool, runtime=False, **SQUARE)
PADDED = Fed(i64(0, 2, 4, 11, 13, 12, 22, 21, 24, 25, 27, 29, 31, 33, 40, 45, 47, 49).reshape(1, 2, 3, 3))
case("max_unpool_padded", "MaxUnpool", [(1, 2, 3, 3), PADDED], opset=11, kernel_shape=[3, 3], strides=[2, 2],
     pads=[1, 1, 1, 1])
case("max_unpool_1d", "MaxUnpool", [(2, 1, 3), Fed(i64(1, 2, 5, 6, 9, 10).reshape(2, 1, 3))], opset=11,
     kernel_shape=[2], strides=[2])
case("max_unpool_3d", "MaxUnpool", [(1, 1, 2, 1, 2), Fed(i64(1, 7, 12, 18).reshape(1, 1, 2, 1, 2))], opset=11,
     kernel_shape=[2, 2, 2], strides=[2, 1, 2])
case("max_unpool_opset_22", "MaxUnpool", [(1, 2, 2, 2), PLACES], opset=22, **SQUARE)


def pooled_and_back(_):
    """The places of a MaxPool given to a MaxUnpool."""
    return [node("MaxPool", ["x0"], ["largest", "places"], **SQUARE),
            node("MaxUnpool", ["largest", "places"], ["y0"], **SQUARE)]


case("max_unpool_behind_max_pool", "MaxUnpool", [(2, 3, 4, 6)], nodes=pooled_and_back)
