"""Convolutions and poolings."""

import references
from declare import case

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
