"""Operators that read between the elements: grids, regions of interest, deformable convolutions."""

import numpy as np

import references
from declare import Fed, Given, case, f32, i64

AFFINE = dict(opset=20, torch=references.affine_grid)
for align in (0, 1):
    case(f"affine_grid_2d_{align}", "AffineGrid", [(2, 2, 3), i64(2, 3, 4, 5)], align_corners=align, **AFFINE)
    case(f"affine_grid_3d_{align}", "AffineGrid", [(2, 3, 4), i64(2, 1, 3, 2, 4)], align_corners=align, **AFFINE)
case("affine_grid_fed", "AffineGrid", [(1, 2, 3), Fed(i64(1, 2, 3, 4))], **AFFINE)


def grid(sizes, shape, align):
    """Points for images of `sizes`, some beyond them, none near an element or between two."""
    random = np.random.default_rng(sum(sizes) + align)
    axes = []
    for size in reversed(sizes):
        at = random.integers(-2, size + 1, shape) + random.choice([0.15, 0.3, 0.4, 0.6, 0.7, 0.85], shape)
        axes.append(at * 2 / (size - 1) - 1 if align else (at * 2 + 1) / size - 1)
    return Given(np.stack(axes, -1).astype(np.float32))


for padding in ["zeros", "border", "reflection"]:
    for align in (0, 1):
        about = dict(padding_mode=padding, align_corners=align, torch=references.grid_sample)
        for mode, old in [("nearest", "nearest"), ("linear", "bilinear"), ("cubic", "bicubic")]:
            # To the nearest element the grid has no derivative.
            about["frozen"] = (1,) if mode == "nearest" else ()
            name, inputs = f"grid_sample_{mode}_{padding}_{align}", [(2, 3, 4, 5), grid((4, 5), (2, 3, 4), align)]
            case(name, "GridSample", inputs, opset=20, mode=mode, **about)
            case(f"{name}_opset_16", "GridSample", inputs, opset=16, mode=old, **about)
            if mode != "cubic":
                case(f"{name}_3d", "GridSample", [(2, 2, 3, 4, 5), grid((3, 4, 5), (2, 2, 3, 2), align)], opset=20,
                     mode=mode, **about)
case("grid_sample", "GridSample", [(1, 2, 4, 5), grid((4, 5), (1, 3, 4), 0)], opset=22, torch=references.grid_sample)
case("grid_sample_fixed_grid", "GridSample", [(1, 2, 4, 5), grid((4, 5), (1, 3, 4), 0).array], opset=20,
     torch=references.grid_sample)

REGIONS = [f32([1.3, 0.7, 8.9, 7.1], [-1.4, 2.2, 5.3, 11.6], [4.1, 3.3, 4.6, 3.7]), i64(1, 0, 1)]
for mode in ["avg", "max"]:
    for ratio in (0, 2):
        for coordinates in ["half_pixel", "output_half_pixel"]:
            case(f"roi_align_{mode}_{ratio}_{coordinates}", "RoiAlign", [(2, 3, 6, 7), *REGIONS], opset=16, mode=mode,
                 sampling_ratio=ratio, coordinate_transformation_mode=coordinates, output_height=2, output_width=3,
                 spatial_scale=0.5)
case("roi_align", "RoiAlign", [(2, 2, 5, 6), *REGIONS], opset=16)
case("roi_align_fed", "RoiAlign", [(2, 2, 5, 6), REGIONS[0], Fed(REGIONS[1])], opset=16, output_height=2,
     output_width=2)
case("roi_align_opset_10", "RoiAlign", [(2, 2, 5, 6), *REGIONS], opset=10, output_height=2, output_width=2,
     torch=references.roi_align_opset_10)


def deform(name, x, w, out, bias=True, mask=True, opset=19, **about):
    """A case of DeformConv; `out` is the shape of its output behind the batch and channels."""
    points = about.get("offset_group", 1) * w[2] * w[3]
    case(f"deform_conv{name}", "DeformConv",
         [x, w, (x[0], 2 * points, *out), (w[0],) if bias else None, (x[0], points, *out) if mask else None],
         opset=opset, low=0.15, high=0.85, torch=references.deform_conv, **about)


deform("", (2, 3, 4, 5), (2, 3, 2, 2), (3, 4))
deform("_weights", (2, 3, 4, 5), (2, 3, 2, 2), (3, 4), weights=(1, 3))
deform("_plain", (1, 2, 4, 4), (3, 2, 3, 3), (2, 2), bias=False, mask=False)
deform("_bias", (1, 2, 4, 4), (3, 2, 2, 3), (3, 2), mask=False)
deform("_mask", (1, 2, 4, 4), (3, 2, 3, 2), (2, 3), bias=False)
deform("_pads", (1, 2, 4, 5), (2, 2, 3, 3), (4, 5), pads=[1, 1, 1, 1])
deform("_asymmetric_pads", (1, 2, 4, 5), (2, 2, 3, 3), (5, 4), pads=[1, 0, 2, 1])
deform("_strides", (1, 2, 7, 8), (2, 2, 3, 2), (3, 3), strides=[2, 3], kernel_shape=[3, 2])
deform("_dilations", (1, 2, 7, 6), (2, 2, 3, 2), (3, 3), dilations=[2, 3])
deform("_groups", (2, 4, 4, 4), (6, 2, 2, 2), (3, 3), group=2)
deform("_offset_groups", (1, 4, 4, 4), (3, 4, 2, 2), (3, 3), offset_group=2)
deform("_groups_of_both", (1, 4, 5, 6), (4, 2, 3, 3), (3, 3), group=2, offset_group=4, strides=[2, 2],
       pads=[1, 1, 1, 1])
deform("_opset_22", (1, 2, 4, 4), (2, 2, 2, 2), (3, 3), opset=22)

# The corners of boxes are elements; no two elements of a cell are alike.
case("max_roi_pool", "MaxRoiPool", [(2, 3, 6, 7), f32([1, 0, 0, 5, 4], [0, 2, 1, 6, 5], [1, 3, 3, 3, 3])], opset=17,
     pooled_shape=[2, 3], torch=references.max_roi_pool)
case("max_roi_pool_scaled", "MaxRoiPool", [(1, 2, 5, 5), f32([0, 1.9, 2.2, 9.1, 7.3], [0, 8, 8, 30, 30])], opset=22,
     pooled_shape=[3, 2], spatial_scale=0.5, runtime=False, torch=references.max_roi_pool)
