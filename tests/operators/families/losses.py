"""Losses over classes. ONNX Runtime takes their means over the weights of the labels that are not ignored."""

import numpy as np

import references
from declare import Fed, case, i64

LABELS = {(4, 5): i64(2, 0, 4, 2), (2, 3, 4): i64([0, 2, 1, 2], [1, 1, 0, 2]),
          (2, 3, 2, 3): np.array([2, 0, 1, 1, 2, 0, 0, 1, 2, 2, 1, 0]).reshape(2, 2, 3)}
for operator, name, reference in [
    ("SoftmaxCrossEntropyLoss", "cross_entropy", references.cross_entropy),
    ("NegativeLogLikelihoodLoss", "negative_log_likelihood", references.negative_log_likelihood),
]:
    for shape, labels in LABELS.items():
        for reduction in ["none", "mean", "sum"]:
            for weighted in (False, True):
                for ignored in (None, 2):
                    marks = "_weighted" * weighted + "_ignoring" * (ignored is not None)
                    case(f"{name}_{reduction}_{len(shape)}d{marks}", operator,
                         [shape, Fed(labels), *[(shape[1],)] * weighted], opset=13, reduction=reduction,
                         positive=weighted, torch=reference, **({} if ignored is None else {"ignore_index": ignored}))
    case(f"{name}_ignoring_no_class", operator, [(4, 5), Fed(i64(2, -100, 4, -100)), (5,)], opset=13,
         ignore_index=-100, positive=True, torch=reference)
    case(f"{name}_int32", operator, [(4, 5), Fed(LABELS[4, 5].astype(np.int32))], opset=13, torch=reference)

for name, inputs, about in [
    ("", [(4, 5), Fed(LABELS[4, 5])], {}),
    ("_none", [(2, 3, 4), Fed(LABELS[2, 3, 4])], dict(reduction="none")),
    ("_weighted", [(2, 3, 4), Fed(LABELS[2, 3, 4]), (3,)], dict(ignore_index=2)),
    ("_sum", [(2, 3, 2, 3), Fed(LABELS[2, 3, 2, 3]), (3,)], dict(reduction="sum", ignore_index=1)),
]:
    case(f"cross_entropy_with_logarithms{name}", "SoftmaxCrossEntropyLoss", inputs, opset=13, outputs=2,
         positive=True, torch=references.cross_entropy, **about)
