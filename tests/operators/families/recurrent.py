"""RNN, GRU and LSTM, their derivatives by PyTorch."""

import references
from declare import case, node

TIME, BATCH, INPUT, HIDDEN = 3, 2, 4, 3
CELLS = {"RNN": (1, references.rnn), "GRU": (3, references.gru), "LSTM": (4, references.lstm)}


def shapes(operator, directions=1, bias=True, states=True, layout=0):
    """X, W, R, B, no sequence lengths, and the initial states."""
    gates = CELLS[operator][0]
    x, state = (TIME, BATCH, INPUT), (directions, BATCH, HIDDEN)
    if layout:
        x, state = (BATCH, TIME, INPUT), (BATCH, directions, HIDDEN)
    first = [state] * (2 if operator == "LSTM" else 1) if states else []
    return [x, (directions, gates * HIDDEN, INPUT), (directions, gates * HIDDEN, HIDDEN),
            (directions, 2 * gates * HIDDEN) if bias else None, None, *first]


def cell(name, operator, directions=1, bias=True, states=True, **about):
    inputs = shapes(operator, directions, bias, states, about.get("layout", 0))
    weights = (1, 2, 3) if bias else (1, 2)
    # ONNX Runtime has no layout 1.
    about = {"weights": weights, "runtime": "layout" not in about, "torch": CELLS[operator][1], **about}
    case(name, operator, inputs, outputs=3 if operator == "LSTM" else 2, hidden_size=HIDDEN, **about)


for name, operator, more in [("rnn", "RNN", {}), ("lstm", "LSTM", {}), ("gru", "GRU", dict(linear_before_reset=1)),
                             ("gru_reset_before", "GRU", {})]:
    cell(name, operator, **more)
    cell(f"{name}_fed", operator, weights=(), **more)
    cell(f"{name}_plain", operator, bias=False, states=False, **more)
    cell(f"{name}_without_states", operator, states=False, **more)
    cell(f"{name}_without_bias", operator, bias=False, **more)
    cell(f"{name}_reverse", operator, direction="reverse", **more)
    cell(f"{name}_bidirectional", operator, directions=2, direction="bidirectional", **more)
    cell(f"{name}_batch_first", operator, layout=1, **more)
    cell(f"{name}_batch_first_bidirectional", operator, directions=2, layout=1, direction="bidirectional", **more)


def last_state(*values, **attributes):
    return references.lstm(*values, hidden_size=HIDDEN)[1]


def named(*values, activations, **attributes):
    return references.lstm(*values, **attributes)


# The activations that a cell has anyway, but named.
cell("lstm_named_activations", "LSTM", activations=["Sigmoid", "Tanh", "Tanh"], torch=named)
case("lstm_last_state", "LSTM", shapes("LSTM", states=False), weights=(1, 2, 3), torch=last_state,
     nodes=lambda kind: [node("LSTM", ["x0", "x1", "x2", "x3"], ["", "y0"], hidden_size=HIDDEN)])
