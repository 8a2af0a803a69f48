"""RNN, GRU and LSTM, their derivatives by PyTorch."""

import numpy as np

import references
from declare import Fed, case

TIME, BATCH, INPUT, HIDDEN = 3, 2, 4, 3
CELLS = {"RNN": (1, references.rnn), "GRU": (3, references.gru), "LSTM": (4, references.lstm)}
KINDS = [("rnn", "RNN", {}), ("lstm", "LSTM", {}), ("gru", "GRU", dict(linear_before_reset=1)),
         ("gru_reset_before", "GRU", {})]
WAYS = dict(directions=2, direction="bidirectional")


def shapes(operator, directions=1, bias=True, states=True, layout=0, lengths=None, peepholes=False):
    """X, W, R, B, the sequence lengths, the initial states and the peepholes."""
    gates = CELLS[operator][0]
    x, state = (TIME, BATCH, INPUT), (directions, BATCH, HIDDEN)
    if layout:
        x, state = (BATCH, TIME, INPUT), (BATCH, directions, HIDDEN)
    first = [state if states else None] * (2 if operator == "LSTM" else 1)
    last = [(directions, 3 * HIDDEN)] if peepholes else []
    return [x, (directions, gates * HIDDEN, INPUT), (directions, gates * HIDDEN, HIDDEN),
            (directions, 2 * gates * HIDDEN) if bias else None, lengths, *first, *last]


def cell(name, operator, directions=1, bias=True, states=True, lengths=None, peepholes=False, **about):
    inputs = shapes(operator, directions, bias, states, about.get("layout", 0), lengths, peepholes)
    weights = (1, 2, *[3] * bias, *[7] * peepholes)
    # ONNX Runtime has no layout 1.
    about = {"weights": weights, "runtime": "layout" not in about, "outputs": 3 if operator == "LSTM" else 2, **about}
    case(name, operator, inputs, torch=CELLS[operator][1], hidden_size=HIDDEN, **about)


for name, operator, more in KINDS:
    cell(name, operator, **more)
    cell(f"{name}_fed", operator, weights=(), **more)
    cell(f"{name}_plain", operator, bias=False, states=False, **more)
    cell(f"{name}_without_states", operator, states=False, **more)
    cell(f"{name}_without_bias", operator, bias=False, **more)
    cell(f"{name}_reverse", operator, direction="reverse", **more)
    cell(f"{name}_bidirectional", operator, **WAYS, **more)
    cell(f"{name}_batch_first", operator, layout=1, **more)
    cell(f"{name}_batch_first_bidirectional", operator, layout=1, **WAYS, **more)

# The activations that a cell has anyway, but named.
cell("lstm_named_activations", "LSTM", activations=["Sigmoid", "Tanh", "Tanh"])
cell("lstm_last_state", "LSTM", states=False, outputs=(1,))
cell("lstm_last_cell", "LSTM", outputs=(2,))

LENGTHS = Fed(np.array([3, 2], dtype=np.int32))
for name, operator, more in KINDS:
    for direction, directions in [("forward", 1), ("reverse", 1), ("bidirectional", 2)]:
        about = dict(directions=directions, direction=direction, **more)
        cell(f"{name}_lengths_{direction}", operator, lengths=LENGTHS, weights=(), **about)
        cell(f"{name}_clipped_{direction}", operator, clip=1.5, **about)
    cell(f"{name}_lengths", operator, lengths=LENGTHS.array, states=False, **more)
    cell(f"{name}_lengths_batch_first", operator, lengths=LENGTHS, layout=1, **more)

PEEPHOLES = dict(peepholes=True)
cell("lstm_peepholes", "LSTM", **PEEPHOLES)
cell("lstm_peepholes_fed", "LSTM", weights=(), **PEEPHOLES)
cell("lstm_peepholes_reverse", "LSTM", direction="reverse", lengths=LENGTHS, **PEEPHOLES)
cell("lstm_peepholes_bidirectional", "LSTM", **WAYS, **PEEPHOLES)
cell("lstm_peepholes_plain", "LSTM", bias=False, states=False, **PEEPHOLES)
cell("lstm_peepholes_clipped", "LSTM", clip=1.2, **PEEPHOLES)
for name, more in [("", {}), ("_peepholes", PEEPHOLES), ("_clipped", dict(clip=1.2)),
                   ("_lengths", dict(lengths=LENGTHS)), ("_bidirectional", WAYS)]:
    cell(f"lstm_input_forget{name}", "LSTM", input_forget=1, **more)

# Parameters go to the activations that have any, in their order.
for name, about in [
    ("relu", dict(activations=["Relu"])),
    ("sigmoid", dict(activations=["Sigmoid"])),
    ("softsign", dict(activations=["Softsign"])),
    ("softplus", dict(activations=["Softplus"])),
    ("leaky_relu", dict(activations=["LeakyRelu"], activation_alpha=[0.1])),
    ("thresholded_relu", dict(activations=["ThresholdedRelu"], activation_alpha=[0.3])),
    ("elu", dict(activations=["Elu"], activation_alpha=[0.7])),
    ("hard_sigmoid", dict(activations=["HardSigmoid"], activation_alpha=[0.3], activation_beta=[0.4])),
    ("affine", dict(activations=["Affine"], activation_alpha=[0.3], activation_beta=[0.2])),
    ("scaled_tanh", dict(activations=["ScaledTanh"], activation_alpha=[0.8], activation_beta=[0.6])),
]:
    cell(f"rnn_{name}", "RNN", **about)
    more = {key: 2 * value for key, value in about.items()}
    cell(f"gru_{name}", "GRU", **{**about, "activations": ["Sigmoid", *about["activations"]]})
    cell(f"gru_{name}_everywhere", "GRU", linear_before_reset=1, high=0.8, **more)
    cell(f"lstm_{name}", "LSTM", **{**more, "activations": ["Sigmoid", *more["activations"]]})
    cell(f"lstm_{name}_gates", "LSTM", **{**about, "activations": [*about["activations"], "Tanh", "Tanh"]})
cell("rnn_two_activations", "RNN", activations=["Softsign", "LeakyRelu"], activation_alpha=[0.2], **WAYS)
cell("gru_four_activations", "GRU", activations=["HardSigmoid", "Softsign", "Sigmoid", "Elu"],
     activation_alpha=[0.3, 0.8], activation_beta=[0.4], **WAYS)
cell("lstm_six_activations", "LSTM",
     activations=["HardSigmoid", "Tanh", "ScaledTanh", "Sigmoid", "LeakyRelu", "Softsign"],
     activation_alpha=[0.3, 0.8, 0.2], activation_beta=[0.4, 0.7], **WAYS)
