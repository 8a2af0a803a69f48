"""Normalisation and softmax."""

import references
from declare import case

BATCH = dict(positive=True, weights=(1, 2, 3, 4), frozen=(3, 4))  # Running statistics are not trained.
case("batch_normalization", "BatchNormalization", [(2, 3, 4, 5), *[(3,)] * 4], epsilon=1e-3, **BATCH)
case("batch_normalization_rows", "BatchNormalization", [(5, 3), *[(3,)] * 4], **BATCH)
case("batch_normalization_1d", "BatchNormalization", [(2, 3, 5), *[(3,)] * 4], **BATCH)
case("batch_normalization_3d", "BatchNormalization", [(1, 3, 2, 3, 2), *[(3,)] * 4], **BATCH)

for operator, reference in [("Softmax", references.softmax_flat), ("LogSoftmax", references.log_softmax_flat)]:
    name = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}[operator]
    case(name, operator, [(2, 3, 4)], axis=1)
    case(f"{name}_last", operator, [(2, 5)])
    case(f"{name}_first", operator, [(2, 3, 4)], axis=-3)
    case(f"{name}_opset_11", operator, [(2, 3, 4)], opset=11, axis=1, torch=reference)
    case(f"{name}_opset_11_last", operator, [(3, 6)], opset=11, torch=reference)

LAYER = dict(torch=references.layer_normalization)
case("layer_normalization", "LayerNormalization", [(2, 3, 4), (4,), (4,)], weights=(1, 2), **LAYER)
case("layer_normalization_fed", "LayerNormalization", [(2, 3, 4), (4,), (4,)], **LAYER)
case("layer_normalization_unshifted", "LayerNormalization", [(2, 3, 4), (4,)], weights=(1,), epsilon=1e-2, **LAYER)
case("layer_normalization_two_axes", "LayerNormalization", [(2, 3, 4), (3, 4), (3, 4)], weights=(1, 2), axis=1, **LAYER)
case("layer_normalization_broadcast", "LayerNormalization", [(2, 3, 4), (4,), (3, 1)], weights=(1, 2), axis=-2, **LAYER)
case("layer_normalization_all", "LayerNormalization", [(2, 3, 4), (2, 3, 4), (2, 3, 4)], weights=(1, 2), axis=0,
     **LAYER)

for name, inputs, axis in [("", [(2, 3, 4), (4,), (4,)], -1), ("_two_axes", [(2, 3, 4), (3, 4), (3, 4)], 1),
                           ("_unshifted", [(2, 3, 4), (4,)], -1), ("_all", [(3, 4), (3, 4)], 0)]:
    case(f"layer_normalization_statistics{name}", "LayerNormalization", inputs, outputs=3, axis=axis, **LAYER)
case("layer_normalization_mean", "LayerNormalization", [(2, 3, 4), (4,), (4,)], outputs=2, **LAYER)

RMS = dict(weights=(1,), torch=references.rms_normalization)
case("rms_normalization", "RMSNormalization", [(2, 3, 4), (4,)], opset=23, **RMS)
case("rms_normalization_two_axes", "RMSNormalization", [(2, 3, 4), (3, 4)], opset=23, axis=1, epsilon=1e-2, **RMS)
case("rms_normalization_broadcast", "RMSNormalization", [(2, 3, 4), (4,)], opset=23, axis=-2, **RMS)
case("simplified_layer_normalization", "SimplifiedLayerNormalization", [(2, 3, 4), (4,)], epsilon=1e-6, axis=-1, **RMS)

GROUP = dict(weights=(1, 2), num_groups=2, torch=references.group_normalization)
case("group_normalization", "GroupNormalization", [(2, 4, 3, 3), (4,), (4,)], opset=21, **GROUP)
case("group_normalization_1d", "GroupNormalization", [(2, 6, 5), (6,), (6,)], opset=21, epsilon=1e-2, **GROUP)
case("group_normalization_opset_18", "GroupNormalization", [(2, 4, 3, 3), (2,), (2,)], opset=18, **GROUP)
for axes, shape in enumerate([(2, 3, 5), (2, 3, 4, 5), (1, 2, 3, 2, 4)], 1):
    channels = (shape[1],)
    case(f"instance_normalization_{axes}d", "InstanceNormalization", [shape, channels, channels], weights=(1, 2),
         torch=references.instance_normalization)

case("mean_variance_normalization", "MeanVarianceNormalization", [(2, 3, 4, 5)],
     torch=references.mean_variance_normalization)
case("mean_variance_normalization_across_channels", "MeanVarianceNormalization", [(2, 3, 4, 5)], axes=[1, 2, 3],
     torch=references.mean_variance_normalization)
for p in (1, 2):
    case(f"lp_normalization_{p}", "LpNormalization", [(2, 3, 4)], p=p, torch=references.lp_normalization)
    case(f"lp_normalization_{p}_axis_1", "LpNormalization", [(2, 3, 4)], p=p, axis=1,
         torch=references.lp_normalization)
case("lrn", "LRN", [(2, 5, 3, 4)], size=3, alpha=0.5, beta=0.6, bias=1.5, torch=references.lrn)
case("lrn_even", "LRN", [(2, 5, 3, 4)], size=4, alpha=0.5, torch=references.lrn, runtime=False)
case("lrn_single", "LRN", [(1, 3, 3, 4)], size=1, alpha=0.5, torch=references.lrn)
case("lrn_wide", "LRN", [(1, 3, 3, 4)], size=7, alpha=0.5, torch=references.lrn)
for rank, shape in [(1, (2, 5, 4)), (3, (1, 5, 2, 3, 2))]:
    # ONNX Runtime has four axes only.
    case(f"lrn_{rank}d", "LRN", [shape], size=3, alpha=0.5, beta=0.6, bias=1.5, torch=references.lrn, runtime=False)
    case(f"lrn_{rank}d_wide", "LRN", [shape], size=9, alpha=0.5, torch=references.lrn, runtime=False)
