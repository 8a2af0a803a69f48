"""If, Loop and Scan: gradients through the graphs inside."""

import torch
from onnx import TensorProto, helper

from declare import Fed, case, flags, node, scalar


def body(nodes, inputs, outputs):
    """A graph; its inputs and outputs are given as names with tensor types and shapes."""
    infos = [[helper.make_tensor_value_info(name, *about) for name, about in values.items()]
             for values in (inputs, outputs)]
    return helper.make_graph(nodes, "body", *infos)


def branches(kind):
    result = {"result": (kind, (3, 4))}
    squared = [node("Sub", ["x0", "x1"], ["difference"]), node("Mul", ["difference", "difference"], ["result"])]
    return dict(then_branch=body([node("Mul", ["x0", "x1"], ["result"])], {}, result),
                else_branch=body(squared, {}, result))


def chosen_by_size(kind):
    return [node("ReduceL1", ["x0"], ["size"], keepdims=0), node("Greater", ["size", "x2"], ["large"]),
            node("If", ["large"], ["y0"], **branches(kind))]


def chosen(kind):
    return [node("If", ["x2"], ["y0"], **branches(kind))]


case("if_then", "If", [(3, 4), (3, 4), scalar(0.0)], nodes=chosen_by_size)
case("if_else", "If", [(3, 4), (3, 4), scalar(1000.0)], nodes=chosen_by_size)
case("if_weight", "If", [(3, 4), (4,), scalar(0.0)], weights=(1,), nodes=chosen_by_size)
for branch, condition in [("then", flags(True)), ("else", flags(False))]:
    case(f"if_fed_{branch}", "If", [(3, 4), (4,), Fed(condition)], nodes=chosen)
    case(f"if_constant_{branch}", "If", [(3, 4), (4,), condition], nodes=chosen)

FLAG, NUMBER = (TensorProto.BOOL, ()), (TensorProto.INT64, ())


def multiplying(kind, stacked=False):
    """A Loop whose state is multiplied by x1 in each turn; the sum of each turn's two states can be a result."""
    state = (kind, (3, 4))
    nodes = [node("Identity", ["going"], ["go_on"]), node("Mul", ["state", "x1"], ["next"])]
    outputs = {"go_on": FLAG, "next": state}
    if stacked:
        nodes.append(node("Add", ["state", "next"], ["sum"]))
        outputs["sum"] = state
    turn = body(nodes, {"turn": NUMBER, "going": FLAG, "state": state}, outputs)
    return [node("Loop", ["x2", "", "x0"], ["y0", "y1"] if stacked else ["y0"], body=turn)]


def multiplying_stacked(kind):
    return multiplying(kind, stacked=True)


def multiplied(x, factor, turns):
    return x * factor ** turns


def multiplied_stacked(x, factor, turns):
    states = torch.stack([x * factor ** turn for turn in range(turns + 1)])
    return states[-1], states[1:] + states[:-1]


TURNS = Fed(scalar(3))
# The reference implementation makes no turn where there is no condition, and joins results without a new axis.
case("loop", "Loop", [(3, 4), (4,), TURNS], nodes=multiplying, torch=multiplied)
case("loop_weight", "Loop", [(3, 4), (4,), TURNS], weights=(1,), nodes=multiplying, torch=multiplied)
case("loop_constant_turns", "Loop", [(3, 4), (4,), scalar(3)], nodes=multiplying, torch=multiplied)
case("loop_weight_stacked", "Loop", [(3, 4), (4,), TURNS], outputs=2, weights=(1,), nodes=multiplying_stacked,
     torch=multiplied_stacked)


def until_large(kind):
    """A Loop that doubles its state until the sum of its squares is above x1."""
    state = (kind, (3, 4))
    nodes = [node("Add", ["state", "state"], ["next"]), node("ReduceSumSquare", ["next"], ["size"], keepdims=0),
             node("Less", ["size", "x1"], ["go_on"])]
    turn = body(nodes, {"turn": NUMBER, "going": FLAG, "state": state}, {"go_on": FLAG, "next": state})
    return [node("Loop", ["x2", "x3", "x0"], ["y0"], body=turn)]


case("loop_until", "Loop", [(3, 4), scalar(500.0), scalar(50), flags(True).reshape(())], nodes=until_large)


def summing(kind, **attributes):
    """A Scan as in ONNX's examples: the sums of the rows so far, behind a start."""
    row = (kind, (2,))
    nodes = [node("Add", ["sum", "next"], ["sum_out"]), node("Identity", ["sum_out"], ["scan_out"])]
    turn = body(nodes, {"sum": row, "next": row}, {"sum_out": row, "scan_out": row})
    return [node("Scan", ["x0", "x1"], ["y0", "y1"], num_scan_inputs=1, body=turn, **attributes)]


def summing_backwards(kind):
    return summing(kind, scan_input_directions=[1], scan_output_directions=[1])


def summing_columns(kind):
    return summing(kind, scan_input_axes=[1], scan_output_axes=[1])


def sums_backwards(start, rows):
    sums = start + rows.flip(0).cumsum(0)
    return sums[-1], sums.flip(0)


def sums_of_columns(start, columns):
    sums = start[:, None] + columns.cumsum(1)
    return sums[:, -1], sums


def recurring(kind):
    """A Scan over two inputs that captures a matrix: a gated recurrent network by hand."""
    rows = (kind, (2, 4))
    nodes = [node("MatMul", ["state", "x3"], ["turned"]), node("Add", ["turned", "a"], ["sum"]),
             node("Mul", ["sum", "b"], ["gated"]), node("Tanh", ["gated"], ["next"]), node("Neg", ["next"], ["out"])]
    turn = body(nodes, {"state": rows, "a": rows, "b": rows}, {"next": rows, "out": rows})
    return [node("Scan", ["x0", "x1", "x2"], ["y0", "y1"], num_scan_inputs=2, body=turn)]


case("scan", "Scan", [(2,), (3, 2)], outputs=2, nodes=summing)
# The reference implementation scans along the first axis only, and forwards.
case("scan_backwards", "Scan", [(2,), (3, 2)], outputs=2, nodes=summing_backwards, torch=sums_backwards)
case("scan_columns", "Scan", [(2,), (2, 3)], outputs=2, nodes=summing_columns, torch=sums_of_columns)
case("scan_captured", "Scan", [(2, 4), (3, 2, 4), (3, 2, 4), (4, 4)], outputs=2, weights=(3,), nodes=recurring)
