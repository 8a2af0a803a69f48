"""Operators that pick elements, or put them, at places that another input names."""

import references
from declare import Fed, case, f32, flags, i64, node, scalar

case("gather", "Gather", [(3, 4, 2), i64(2, 0, -1)], axis=1)
case("gather_matrix_of_indices", "Gather", [(5, 2), i64([0, 4], [1, 1])])
case("gather_scalar", "Gather", [(3, 4), scalar(1)], axis=0)
case("gather_fed", "Gather", [(5, 3), Fed(i64([0, 4, 1], [1, 1, 3]))], weights=(0,))
case("gather_fed_axis_1", "Gather", [(2, 5, 3), Fed(i64(4, -1, 1))], axis=1)

COLUMNS = i64([3, 0, 3], [1, 2, -1], [0, 0, 2])
case("gather_elements", "GatherElements", [(3, 4), COLUMNS], axis=1)
case("gather_elements_rows", "GatherElements", [(3, 4), i64([2, 0, 1, 2], [0, 0, -1, 1])])
case("gather_elements_fed", "GatherElements", [(3, 4), Fed(COLUMNS)], axis=1)
case("gather_nd", "GatherND", [(2, 3, 4), i64([0, 1], [1, 2], [1, 2])])
case("gather_nd_elements", "GatherND", [(2, 3), i64([0, 1], [1, 2])])
case("gather_nd_batch", "GatherND", [(2, 3, 4), i64([[1], [2]], [[0], [0]])], batch_dims=1)
case("gather_nd_two_batch_axes", "GatherND", [(2, 3, 4), i64([[1], [2], [0]], [[0], [0], [3]])], batch_dims=2)
case("gather_nd_fed", "GatherND", [(2, 3, 4), Fed(i64([[1], [2]], [[0], [0]]))], batch_dims=1)

case("tile", "Tile", [(2, 3), i64(2, 2)])
case("tile_one_axis", "Tile", [(2, 1, 3), i64(1, 4, 1)])
for name, upper, right, left in [("upper", 1, 1, -1), ("lower", 0, 1, -2)]:
    case(f"trilu_{name}", "Trilu", [(2, 4, 5)], upper=upper)
    case(f"trilu_{name}_right", "Trilu", [(2, 4, 5), scalar(right)], upper=upper)
    case(f"trilu_{name}_left", "Trilu", [(2, 4, 5), scalar(left)], upper=upper)
case("tile_fed", "Tile", [(2, 3), Fed(i64(2, 2))])
case("trilu_fed", "Trilu", [(4, 5), Fed(scalar(1))])
case("reverse_sequence", "ReverseSequence", [(4, 3, 2), i64(4, 2, 3)])
case("reverse_sequence_batch_first", "ReverseSequence", [(3, 4, 2), i64(1, 4, 2)], time_axis=1, batch_axis=0)
case("reverse_sequence_fed", "ReverseSequence", [(4, 3), Fed(i64(4, 2, 3))])
case("center_crop", "CenterCropPad", [(5, 6), i64(3, 3)], opset=18)
case("center_pad", "CenterCropPad", [(2, 3), i64(5, 4)], opset=18)
case("center_crop_pad_axes", "CenterCropPad", [(2, 6, 3), i64(3, 6)], opset=18, axes=[1, 2])
case("center_crop_pad_fed", "CenterCropPad", [(5, 6), Fed(i64(3, 8))], opset=18)
KEPT = flags(1, 0, 1)
case("compress", "Compress", [(3, 4), KEPT], axis=0)
case("compress_axis_1", "Compress", [(2, 4), flags(0, 1, 1, 0)], axis=1)
case("compress_flat", "Compress", [(2, 3), flags(0, 1, 0, 1, 1)])
case("compress_fed", "Compress", [(3, 4), Fed(KEPT)], axis=0)
case("compress_computed", "Compress", [(3, 4), f32(0.6, 0.1, 0.9), f32(0.5)], axis=0, nodes=lambda kind: [
    node("Greater", ["x1", "x2"], ["kept"]), node("Compress", ["x0", "kept"], ["y0"], axis=0)])
case("compress_by_its_values", "Compress", [(6,), scalar(0.3)], nodes=lambda kind: [
    node("Greater", ["x0", "x1"], ["kept"]), node("Compress", ["x0", "kept"], ["y0"], axis=0)])

ROWS, COLUMN = i64([1, 0, 2], [0, 2, 1]), i64([1, 3], [0, 0], [2, -1])
case("scatter_elements", "ScatterElements", [(3, 3), ROWS, (2, 3)])
case("scatter_elements_axis_1", "ScatterElements", [(3, 4), i64([1, 3], [0, 2], [2, -1]), (3, 2)], axis=1)
case("scatter_elements_add", "ScatterElements", [(3, 4), COLUMN, (3, 2)], axis=1, reduction="add")
case("scatter_elements_fed", "ScatterElements", [(3, 3), Fed(ROWS), (2, 3)])
case("scatter_elements_add_fed", "ScatterElements", [(3, 4), Fed(COLUMN), (3, 2)], axis=1, reduction="add")
case("scatter_elements_of_itself", "ScatterElements", [(3, 3), i64([1, 0, 2], [0, 2, 1], [2, 1, 0])], reads=(0, 1, 0))
case("scatter_opset_10", "Scatter", [(3, 3), ROWS, (2, 3)], opset=10, torch=references.scatter)
case("scatter_nd", "ScatterND", [(4, 3), i64([2], [0]), (2, 3)])
case("scatter_nd_elements", "ScatterND", [(3, 4), i64([0, 1], [2, 3], [1, -1]), (3,)])
case("scatter_nd_add", "ScatterND", [(4, 3), i64([2], [0], [2]), (3, 3)], reduction="add")
case("scatter_nd_fed", "ScatterND", [(4, 3), Fed(i64([2], [0])), (2, 3)])
case("scatter_nd_add_fed", "ScatterND", [(4, 3), Fed(i64([2], [0], [2])), (3, 3)], reduction="add")

case("top_k", "TopK", [(3, 6), i64(2)], outputs=2)
case("top_k_smallest", "TopK", [(3, 6), i64(3)], outputs=2, largest=0)
case("top_k_first_axis", "TopK", [(5, 2, 2), i64(2)], outputs=2, axis=0)
case("top_k_fed", "TopK", [(3, 6), Fed(i64(2))], outputs=2)
case("top_k_opset_9", "TopK", [(3, 6)], opset=9, outputs=2, k=2)

# With reductions: places that are written twice, and some that are not.
for reduction in ["mul", "max", "min"]:
    about = dict(opset=18, reduction=reduction)
    case(f"scatter_elements_{reduction}", "ScatterElements", [(3, 4), i64([1, 1], [0, 0], [2, -1]), (3, 2)], axis=1,
         **about)
    case(f"scatter_elements_{reduction}_rows", "ScatterElements",
         [(3, 2, 2), i64([[0, 1], [2, 2]], [[0, 1], [0, 2]]), (2, 2, 2)], **about)
    case(f"scatter_elements_{reduction}_fed", "ScatterElements",
         [(3, 4), Fed(i64([1, 1, 1], [0, 3, 0])), (2, 3)], axis=1, **about)
    case(f"scatter_nd_{reduction}", "ScatterND", [(4, 3), i64([2], [0], [2]), (3, 3)], **about)
    case(f"scatter_nd_{reduction}_elements", "ScatterND", [(3, 4), i64([0, 1], [2, 3], [0, 1], [1, -1]), (4,)], **about)
    case(f"scatter_nd_{reduction}_fed", "ScatterND", [(4, 3), Fed(i64([2], [0], [2], [2])), (4, 3)], **about)
case("scatter_elements_mul_opset_16", "ScatterElements", [(3, 4), COLUMN, (3, 2)], axis=1, opset=16, reduction="mul")

for name, inputs, about in [
    ("", [i64(2, 0, -1), scalar(4), (2,)], {}), ("_matrix", [i64([1, 3], [0, -4]), i64(4), (2,)], {}),
    ("_outside", [i64(2, 5, -7, 1), scalar(4), (2,)], {}),
    ("_first_axis", [i64(2, 0, 1), scalar(4), (2,)], dict(axis=0)),
    ("_axis_1", [i64([1, 3], [0, -4]), scalar(4), (2,)], dict(axis=1)),
    ("_fed", [Fed(i64(2, 0, -1)), Fed(i64(4)), (2,)], {}),
]:
    case(f"one_hot_values{name}", "OneHot", inputs, torch=references.one_hot, **about)

CACHE = (2, 2, 5, 3)
WRITTEN = [CACHE, (2, 2, 2, 3), i64(1, 3)]
case("tensor_scatter", "TensorScatter", WRITTEN, opset=24)
case("tensor_scatter_fed", "TensorScatter", [*WRITTEN[:2], Fed(i64(3, 0))], opset=24)
case("tensor_scatter_from_zero", "TensorScatter", WRITTEN[:2], opset=24)
case("tensor_scatter_circular", "TensorScatter", [*WRITTEN[:2], i64(4, 2)], opset=24, mode="circular")
case("tensor_scatter_axis", "TensorScatter", [(2, 5, 3), (2, 2, 3), i64(1, 3)], opset=24, axis=1)
case("tensor_scatter_last_axis", "TensorScatter", [(2, 3, 5), (2, 3, 3), i64(4, 3)], opset=24, axis=-1, mode="circular")
