"""Sizes at which kernels change their ways: 1, primes, one more than a vector, a block of elements, or what a
thread takes at once; and steps that are joined into one."""

import references
from declare import case, f32, node

# Convolutions: one and many rows, rows that are whole tiles, tiles across rows, strides without taps.
for name, x, w, about in [
    ("one", (1, 1, 1, 1), (1, 1, 1, 1), {}),
    ("one_channel", (3, 1, 17, 19), (1, 1, 3, 3), dict(pads=[1, 1, 1, 1])),
    ("primes", (3, 7, 13, 11), (5, 7, 3, 5), dict(pads=[2, 1, 0, 3])),
    ("rows_of_16", (2, 3, 5, 16), (13, 3, 3, 3), dict(pads=[1, 1, 1, 1])),
    ("rows_of_33", (1, 2, 3, 33), (17, 2, 3, 3), dict(pads=[1, 1, 1, 1])),
    ("rows_of_8", (5, 3, 8, 8), (8, 3, 3, 3), dict(pads=[1, 1, 1, 1])),
    ("many_channels", (2, 97, 5, 4), (3, 97, 2, 2), {}),
    ("page_planes", (2, 3, 16, 32), (7, 3, 1, 1), {}),
    ("stem", (2, 3, 23, 21), (11, 3, 7, 7), dict(strides=[2, 2], pads=[3, 3, 3, 3])),
    ("strides_without_taps", (2, 3, 11, 13), (4, 3, 2, 2), dict(strides=[3, 4], pads=[1, 0, 0, 2])),
    ("dilated_strides", (2, 2, 17, 19), (3, 2, 3, 3), dict(strides=[2, 3], dilations=[3, 2], pads=[3, 2, 3, 2])),
    ("wide_pads", (1, 2, 3, 4), (3, 2, 2, 2), dict(pads=[2, 3, 3, 2])),
    ("groups", (3, 6, 9, 7), (9, 2, 3, 3), dict(group=3, pads=[1, 1, 1, 1], strides=[2, 1])),
    ("depthwise_5", (2, 5, 11, 9), (5, 1, 5, 5), dict(group=5, pads=[2, 2, 2, 2])),
    ("depthwise_strided", (3, 4, 13, 12), (4, 1, 3, 3), dict(group=4, pads=[1, 1, 1, 1], strides=[2, 2])),
    ("depthwise_many", (3, 17, 7, 9), (17, 1, 3, 3), dict(group=17, pads=[1, 1, 1, 1])),
    ("depthwise_many_strided", (2, 19, 13, 12), (19, 1, 3, 5), dict(group=19, pads=[1, 2, 0, 1], strides=[2, 3])),
    ("depthwise_many_dilated", (5, 7, 11, 8), (7, 1, 3, 2), dict(group=7, pads=[2, 1, 1, 0], dilations=[2, 3])),
    ("depthwise_many_gaps", (3, 33, 8, 9), (33, 1, 1, 2), dict(group=33, strides=[3, 4])),
    ("depthwise_many_wide_pads", (4, 9, 3, 4), (9, 1, 2, 2), dict(group=9, pads=[2, 3, 3, 2])),
    ("depthwise_many_large", (2, 9, 31, 37), (9, 1, 3, 3), dict(group=9, pads=[1, 1, 1, 1])),
    ("depthwise_many_large_strided", (2, 9, 31, 37), (9, 1, 3, 3), dict(group=9, pads=[1, 1, 1, 1], strides=[2, 2])),
    ("depthwise_line", (3, 40, 67), (40, 1, 5), dict(group=40, pads=[2, 2])),
    ("depthwise_cube", (2, 18, 4, 5, 3), (18, 1, 2, 3, 2), dict(group=18, pads=[1, 0, 1, 0, 1, 1], strides=[1, 2, 1])),
    ("line", (3, 5, 131), (7, 5, 5), dict(pads=[2, 2])),
    ("cube", (2, 2, 5, 7, 6), (3, 2, 3, 2, 3), dict(pads=[1, 0, 1, 1, 1, 1], strides=[2, 1, 2])),
]:
    fed = {} if len(x) % 2 else dict(weights=(1, 2))
    case(f"sizes_conv_{name}", "Conv", [x, w, (w[0],)], tolerance=3e-5, **fed, **about)

for length in (1, 17, 511, 512, 513, 8193):
    case(f"sizes_relu_{length}", "Relu", [(length,)])
    case(f"sizes_gelu_{length}", "Gelu", [(length,)], opset=20, torch=references.gelu)
case("sizes_add_rows", "Add", [(37, 293), (293,)])
case("sizes_add_channels", "Add", [(3, 7, 19, 23), (7, 1, 1)])
case("sizes_mul_columns", "Mul", [(129, 71), (129, 1)])
case("sizes_mul_one", "Mul", [(97, 101), (1,)])
case("sizes_mul_places", "Mul", [(2, 9001), (1, 9001)])
case("sizes_div_middle", "Div", [(5, 11, 13), (11, 1)])
case("sizes_sub_gaps", "Sub", [(3, 5, 7), (3, 1, 7)])

for width in (1, 15, 17, 257):
    case(f"sizes_softmax_{width}", "Softmax", [(5, width)])
    case(f"sizes_log_softmax_{width}", "LogSoftmax", [(3, 2, width)])
for rows, width in [(1, 17), (7, 31), (67, 257)]:
    case(f"sizes_layer_normalization_{width}", "LayerNormalization", [(rows, width), (width,), (width,)],
         torch=references.layer_normalization, tolerance=3e-5)

case("sizes_max_pool_halves", "MaxPool", [(2, 3, 17, 13)], kernel_shape=[2, 2], strides=[2, 2])
case("sizes_max_pool_one", "MaxPool", [(2, 3, 1, 1)], kernel_shape=[1, 1])
case("sizes_max_pool_dilated", "MaxPool", [(1, 2, 13, 11)], kernel_shape=[3, 2], dilations=[2, 3], strides=[2, 1])
case("sizes_average_pool", "AveragePool", [(2, 5, 13, 11)], kernel_shape=[3, 5], strides=[2, 3], pads=[1, 2, 1, 2])
case("sizes_global_average", "GlobalAveragePool", [(3, 7, 13, 5)])

for name, time, batch, width, hidden, directions, about in [
    ("one", 1, 1, 1, 1, 1, {}),
    ("prime", 5, 7, 3, 17, 1, {}),
    ("reverse", 4, 3, 5, 13, 1, dict(direction="reverse")),
    ("both_ways", 3, 2, 5, 19, 2, dict(direction="bidirectional")),
]:
    weights = [(directions, 4 * hidden, width), (directions, 4 * hidden, hidden), (directions, 8 * hidden)]
    states = [(directions, batch, hidden)] * 2
    case(f"sizes_lstm_{name}", "LSTM", [(time, batch, width), *weights, None, *states], weights=(1, 2, 3), outputs=3,
         torch=references.lstm, hidden_size=hidden, **about)


def joined(name, inputs, *steps, **about):
    """Nodes one after the other, each `(operator, inputs)`, the last of which gives y0; r0, r1, … are the results."""
    def nodes(_):
        return [node(operator, reads, [f"r{index}" if index < len(steps) - 1 else "y0"], **attributes)
                for index, (operator, reads, attributes) in enumerate(steps)]
    case(f"joined_{name}", steps[-1][0], inputs, nodes=nodes, **about)


PADDED = dict(pads=[1, 1, 1, 1])
joined("conv_relu", [(2, 3, 9, 7), (5, 3, 3, 3), (5,)], ("Conv", ["x0", "x1", "x2"], PADDED), ("Relu", ["r0"], {}))
joined("conv_clip", [(2, 3, 9, 7), (5, 3, 3, 3), f32(-1.0), f32(2.0)], ("Conv", ["x0", "x1"], PADDED),
       ("Clip", ["r0", "x2", "x3"], {}))
joined("add_relu", [(3, 5, 7), (3, 5, 7)], ("Add", ["x0", "x1"], {}), ("Relu", ["r0"], {}))
joined("bias_tanh_scale", [(5, 103), (103,), (5, 1)], ("Add", ["x0", "x1"], {}), ("Tanh", ["r0"], {}),
       ("Mul", ["r1", "x2"], {}))
joined("gelu_in_parts", [(7, 103), f32(2 ** 0.5), f32(1.0), f32(0.5)], ("Div", ["x0", "x1"], {}), ("Erf", ["r0"], {}),
       ("Add", ["r1", "x2"], {}), ("Mul", ["x0", "r2"], {}), ("Mul", ["r3", "x3"], {}),
       torch=lambda x, *_: references.gelu(x))
joined("square_of_a_sum", [(11, 13), (11, 13)], ("Add", ["x0", "x1"], {}), ("Mul", ["r0", "r0"], {}))
joined("one_read_twice", [(11, 13), (11, 13)], ("Mul", ["x0", "x1"], {}), ("Exp", ["r0"], {}), ("Add", ["r0", "r1"], {}))
joined("rounded_between", [(11, 13), (11, 13)], ("Mul", ["x0", "x1"], {}), ("Floor", ["r0"], {}),
       ("Mul", ["r1", "x1"], {}), frozen=(0,))
