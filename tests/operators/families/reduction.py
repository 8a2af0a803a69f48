"""Reductions and cumulative sums."""

import references
from declare import Fed, case, i64, scalar

for reduce in ["Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp"]:
    operator, name, positive = f"Reduce{reduce}", f"reduce_{reduce.lower()}", reduce == "LogSum"
    # ReduceSum takes its axes as an input since opset 13, the others since opset 18.
    if reduce != "Sum":
        case(name, operator, [(2, 3, 4)], axes=[1], positive=positive)
        case(f"{name}_two_axes", operator, [(2, 3, 4)], axes=[0, -1], keepdims=0, positive=positive)
    case(f"{name}_opset_18", operator, [(2, 3, 4), i64(-1, 1)], opset=18, positive=positive)
    case(f"{name}_all", operator, [(2, 3, 4)], opset=18, keepdims=0, positive=positive)
    case(f"{name}_of_none", operator, [(2, 3), i64()], opset=18, noop_with_empty_axes=1, positive=positive)
case("reduce_mean_spatial", "ReduceMean", [(2, 3, 4, 5)], axes=[2, 3], keepdims=0)
case("reduce_sum", "ReduceSum", [(2, 3, 4), i64(1)], keepdims=1)
case("reduce_sum_negative_axis", "ReduceSum", [(2, 3, 4), i64(-1)], keepdims=0)
case("reduce_sum_opset_11", "ReduceSum", [(2, 3, 4)], opset=11, axes=[1], keepdims=0)
case("reduce_sum_fed", "ReduceSum", [(2, 3, 4), Fed(i64(1))], keepdims=0)
case("reduce_log_sum_exp_large", "ReduceLogSumExp", [(2, 5)], axes=[1], low=50.0, high=52.0)

for name, which in [("", {}), ("_exclusive", dict(exclusive=1)), ("_reverse", dict(reverse=1)),
                    ("_exclusive_reverse", dict(exclusive=1, reverse=1))]:
    case(f"cumsum{name}", "CumSum", [(2, 5), scalar(1)], **which)
    case(f"cumsum{name}_middle", "CumSum", [(2, 4, 3), scalar(-2)], **which)
case("cumsum_fed", "CumSum", [(2, 5), Fed(scalar(1))])

for name, which in [("", {}), ("_exclusive", dict(exclusive=1)), ("_reverse", dict(reverse=1)),
                    ("_exclusive_reverse", dict(exclusive=1, reverse=1))]:
    for place, shape, axis in [("", (2, 5), 1), ("_middle", (2, 4, 3), -2), ("_first", (4, 2), 0)]:
        case(f"cumprod{name}{place}", "CumProd", [shape, scalar(axis)], opset=26, torch=references.cumprod, **which)
case("cumprod_fed", "CumProd", [(2, 5), Fed(scalar(1))], opset=26, torch=references.cumprod)
for size in (2, 3, 5):
    case(f"det_{size}", "Det", [(size, size)])
case("det_batch", "Det", [(2, 3, 3)])
case("det_batches", "Det", [(2, 3, 2, 2)], opset=22)
