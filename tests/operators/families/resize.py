"""Resize in its modes, and Upsample."""

from onnx import TensorProto

import references
from declare import Fed, case, constant, f32, i64, node

EXACT = dict(tolerance=1e-4)
for mode, coordinates, rounding in [
    ("nearest", "asymmetric", "floor"), ("nearest", "half_pixel", "round_prefer_floor"),
    ("nearest", "half_pixel", "round_prefer_ceil"), ("nearest", "asymmetric", "ceil"),
    ("linear", "half_pixel", None), ("linear", "align_corners", None), ("linear", "asymmetric", None),
    ("linear", "pytorch_half_pixel", None), ("cubic", "half_pixel", None), ("cubic", "align_corners", None),
    ("cubic", "asymmetric", None),
]:
    extra = {} if rounding is None else {"nearest_mode": rounding}
    # From corner to corner ONNX takes a size that is no whole number as it is, ONNX Runtime rounds it.
    scales = f32(1, 1, 2, 3) if coordinates == "align_corners" else f32(1, 1, 2, 1.5)
    case("_".join(filter(None, ["resize", mode, coordinates, rounding])), "Resize", [(1, 2, 4, 5), None, scales],
         mode=mode, coordinate_transformation_mode=coordinates, **EXACT, **extra)
case("resize_half_pixel_symmetric", "Resize", [(1, 2, 4, 5), None, f32(1, 1, 2, 1.5)], opset=19, mode="linear",
     coordinate_transformation_mode="half_pixel_symmetric", **EXACT)
case("resize_cubic_inside", "Resize", [(1, 2, 4, 5), None, f32(1, 1, 2, 1.5)], mode="cubic", exclude_outside=1,
     cubic_coeff_a=-0.5, **EXACT)
case("resize_to_sizes", "Resize", [(1, 2, 4, 4), None, None, i64(1, 2, 7, 6)], mode="linear", **EXACT)
case("resize_to_sizes_align_corners", "Resize", [(1, 2, 4, 4), None, None, i64(1, 2, 7, 6)], mode="linear",
     coordinate_transformation_mode="align_corners", **EXACT)
case("resize_fed", "Resize", [(1, 2, 4, 4), None, None, Fed(i64(1, 2, 7, 6))], mode="linear", **EXACT)
case("resize_axes", "Resize", [(1, 2, 4, 4), None, None, i64(7, 6)], opset=18, mode="linear", axes=[2, 3], **EXACT)
case("resize_not_larger", "Resize", [(1, 2, 4, 4), None, None, i64(7, 6)], opset=18, mode="linear", axes=[2, 3],
     keep_aspect_ratio_policy="not_larger", **EXACT)
case("resize_smaller", "Resize", [(1, 2, 6, 6), None, f32(1, 1, 0.5, 0.5)], mode="nearest")
case("resize_linear_smaller", "Resize", [(1, 2, 6, 6), None, f32(1, 1, 0.6, 0.5)], mode="linear", **EXACT)
case("resize_1d", "Resize", [(1, 2, 5), None, f32(1, 1, 2)], mode="linear", **EXACT)
case("resize_opset_10", "Resize", [(1, 2, 3, 3), f32(1, 1, 2, 2)], opset=10, mode="nearest",
     torch=references.resize_nearest)
case("upsample_opset_9", "Upsample", [(1, 2, 3, 3), f32(1, 1, 2, 2)], opset=9, mode="nearest")

# A smaller image reads through wider filters.
SHRUNK = dict(opset=18, antialias=1, **EXACT)
for mode in ["linear", "cubic"]:
    for name, scales, more in [
        ("", f32(1, 1, 0.6, 0.5), {}), ("_third", f32(1, 1, 0.4, 0.34), {}), ("_one_axis", f32(1, 1, 0.5, 1), {}),
        ("_mixed", f32(1, 1, 0.5, 1.5), {}), ("_inside", f32(1, 1, 0.6, 0.5), dict(exclude_outside=1)),
        ("_asymmetric", f32(1, 1, 0.6, 0.5), dict(coordinate_transformation_mode="asymmetric")),
        ("_align_corners", f32(1, 1, 0.5, 0.5), dict(coordinate_transformation_mode="align_corners")),
    ]:
        case(f"resize_antialias_{mode}{name}", "Resize", [(1, 2, 8, 10), None, scales], mode=mode, **SHRUNK, **more)
    case(f"resize_antialias_{mode}_to_sizes", "Resize", [(1, 2, 7, 9), None, None, i64(1, 2, 3, 4)], mode=mode,
         **SHRUNK)

# Regions: from a tenth before to beyond the end, whose outside is a fixed value.
REGION, INSIDE = f32(0, 0, -0.13, 0.21, 1, 1, 0.83, 1.17), f32(0, 0, 0.12, 0.21, 1, 1, 0.83, 0.91)
for mode in ["nearest", "linear", "cubic"]:
    about = dict(mode=mode, coordinate_transformation_mode="tf_crop_and_resize", **EXACT)
    case(f"resize_region_{mode}", "Resize", [(1, 2, 4, 5), REGION, None, i64(1, 2, 5, 6)],
         extrapolation_value=0.7, **about)
    case(f"resize_region_{mode}_inside", "Resize", [(1, 2, 6, 7), INSIDE, None, i64(1, 2, 3, 5)], **about)
    case(f"resize_region_{mode}_scales", "Resize", [(1, 2, 4, 5), REGION, f32(1, 1, 1.5, 2)], extrapolation_value=-0.4,
         **about)
    case(f"resize_region_{mode}_axes", "Resize", [(1, 2, 4, 5), f32(-0.13, 0.21, 0.83, 1.17), None, i64(5, 6)],
         opset=18, axes=[2, 3], extrapolation_value=0.7, **about)


def pixels_from_size(_):
    """A Resize to twice the size, computed inside of the graph with floats in between."""
    return [
        node("Shape", ["x0"], ["shape"]),
        constant("from", i64(2)), constant("to", i64(4)),
        node("Slice", ["shape", "from", "to"], ["spatial"]),
        node("Cast", ["spatial"], ["spatial_float"], to=TensorProto.FLOAT),
        constant("two", f32(2.0)),
        node("Mul", ["spatial_float", "two"], ["doubled"]),
        node("Floor", ["doubled"], ["floored"]),
        node("Cast", ["floored"], ["spatial_new"], to=TensorProto.INT64),
        constant("zero", i64(0)),
        node("Slice", ["shape", "zero", "from"], ["leading"]),
        node("Concat", ["leading", "spatial_new"], ["sizes"], axis=0),
        node("Resize", ["x0", "", "", "sizes"], ["y0"], mode="nearest", coordinate_transformation_mode="asymmetric",
             nearest_mode="floor"),
    ]


case("shape_arithmetic_around_resize", "Resize", [(1, 2, 3, 4)], nodes=pixels_from_size)
