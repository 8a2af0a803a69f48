"""Operators in PyTorch, for derivatives in float64: composites, and what the ONNX project's reference
implementation lacks or computes wrongly. Functions take the operator's inputs in its order, None where
one is left out, and its attributes by their names; a tuple holds several outputs."""

from functools import partial

import torch
from torch.nn import functional


def layer_normalization(x, scale, shift=None, *, axis=-1, epsilon=1e-5):
    out = functional.layer_norm(x, x.shape[axis:], eps=epsilon) * scale
    return out if shift is None else out + shift


def rms_normalization(x, scale, *, axis=-1, epsilon=1e-5):
    return functional.rms_norm(x, x.shape[axis:], eps=epsilon) * scale


def group_normalization(x, scale, shift, *, num_groups, epsilon=1e-5):
    # Before opset 21 there was one scale a group.
    times = x.shape[1] // len(scale)
    return functional.group_norm(x, num_groups, scale.repeat_interleave(times), shift.repeat_interleave(times), epsilon)


def instance_normalization(x, scale, shift, *, epsilon=1e-5):
    return functional.instance_norm(x, weight=scale, bias=shift, eps=epsilon)


def mean_variance_normalization(x, *, axes=(0, 2, 3)):
    centred = x - x.mean(tuple(axes), keepdim=True)
    return centred / (centred.square().mean(tuple(axes), keepdim=True).sqrt() + 1e-9)


def lp_normalization(x, *, axis=-1, p=2):
    return functional.normalize(x, p=p, dim=axis)


def lrn(x, *, size, alpha=1e-4, beta=0.75, bias=1.0):
    # The larger half of an even window lies before a channel in PyTorch, behind it in ONNX.
    return functional.local_response_norm(x.flip(1), size, alpha, beta, bias).flip(1)


def softmax_flat(x, *, axis=1):
    """Before opset 13: over all axes from `axis` on together."""
    return x.flatten(axis).softmax(-1).view(x.shape)


def log_softmax_flat(x, *, axis=1):
    return x.flatten(axis).log_softmax(-1).view(x.shape)


def erf(x):
    return torch.erf(x)


def gelu(x, *, approximate="none"):
    return functional.gelu(x, approximate=approximate)


def swish(x, *, alpha=1.0):
    return x * torch.sigmoid(alpha * x)


def swiglu(gate, value, *, alpha=1.0):
    return swish(gate, alpha=alpha) * value


def max_pool_same_lower(x, *, kernel_shape, strides, auto_pad):
    assert all(length % stride == 1 and kernel == stride == 2
               for length, stride, kernel in zip(x.shape[2:], strides, kernel_shape))
    return functional.max_pool2d(functional.pad(x, (1, 0, 1, 0), value=-torch.inf), kernel_shape, strides)


def global_max_pool(x):
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


def lp_pool(x, *, kernel_shape, strides, pads=(0, 0, 0, 0), p=2):
    top, left, bottom, right = pads
    padded = functional.pad(x.abs(), (left, right, top, bottom))
    return functional.lp_pool2d(padded, float(p), tuple(kernel_shape), tuple(strides))


def global_lp_pool(x, *, p=2):
    return torch.linalg.vector_norm(x, p, dim=tuple(range(2, x.dim())), keepdim=True)


def conv_transpose(x, w, b=None, *, strides=1, dilations=1, group=1, output_shape=None):
    whole = functional.conv_transpose2d(x, w, b, strides, dilation=dilations, groups=group)
    if output_shape is None:
        return whole
    # Of what is cut off, the larger half is in front.
    top, left = ((own - wanted + 1) // 2 for own, wanted in zip(whole.shape[2:], output_shape))
    return whole[:, :, top:top + output_shape[0], left:left + output_shape[1]]


def einsum(*values, equation):
    return torch.einsum(equation, *values)


def pad(x, pads):
    rank, pads = x.dim(), pads.tolist()
    return functional.pad(x, [pads[axis + side] for axis in reversed(range(rank)) for side in (0, rank)])


def space_to_depth_crd(x, *, blocksize, mode):
    return functional.pixel_unshuffle(x, blocksize)


def resize_nearest(x, scales, *, mode):
    return functional.interpolate(x, scale_factor=scales.tolist()[2:], mode=mode)


def scatter(x, indices, updates, *, axis=0):
    return x.scatter(axis, indices, updates)


def attention(q, k, v, mask=None, *, q_num_heads=None, kv_num_heads=None, is_causal=0, scale=None, softcap=0.0):
    flat = q.dim() == 3
    if flat:
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2)
                   for x, heads in ((q, q_num_heads), (k, kv_num_heads), (v, kv_num_heads)))
    if is_causal:
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
        if mask is None:
            mask = seen
        else:
            mask = mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, -torch.inf)
    compute = partial(softcapped_attention, softcap=softcap) if softcap else functional.scaled_dot_product_attention
    out = compute(q, k, v, mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2).flatten(2) if flat else out


def softcapped_attention(q, k, v, mask, *, scale, enable_gqa, softcap):
    """Called as PyTorch's attention, which bends no scores."""
    assert scale is None and not enable_gqa
    scores = softcap * torch.tanh(q @ k.transpose(2, 3) / q.shape[3] ** 0.5 / softcap)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1) @ v


def rnn(x, w, r, b=None, _=None, h=None, *, hidden_size, direction="forward", layout=0):
    return recurrent(torch.rnn_tanh, [0], x, w, r, b, [h], direction, layout)


def lstm(x, w, r, b=None, _=None, h=None, c=None, *, hidden_size, direction="forward", layout=0):
    # ONNX has the gates input, output, forget, cell; PyTorch input, forget, cell, output.
    return recurrent(torch.lstm, [0, 2, 3, 1], x, w, r, b, [h, c], direction, layout)


def gru(x, w, r, b=None, _=None, h=None, *, hidden_size, direction="forward", layout=0, linear_before_reset=0):
    # ONNX has the gates update, reset, hidden; PyTorch reset, update, hidden.
    compute = torch.gru if linear_before_reset else gru_reset_before
    return recurrent(compute, [1, 0, 2], x, w, r, b, [h], direction, layout)


def recurrent(compute, order, x, w, r, b, states, direction, layout):
    """Y and the last states, each direction by a function of PyTorch whose gates stand in `order`."""
    if layout:
        x, states = x.transpose(0, 1), [None if state is None else state.transpose(0, 1) for state in states]
    hidden, ways = r.shape[2], {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    results = []
    for k, backwards in enumerate(ways):
        first = [x.new_zeros(1, x.shape[1], hidden) if state is None else state[k:k + 1] for state in states]
        halves = () if b is None else b[k].chunk(2)
        weights = [torch.cat([rows.split(hidden)[gate] for gate in order]) for rows in (w[k], r[k], *halves)]
        y, *last = compute(x.flip(0) if backwards else x, first if len(first) > 1 else first[0], weights,
                           b is not None, 1, 0.0, False, False, False)
        results.append((y.flip(0) if backwards else y, *last))
    y, *last = zip(*results)
    y, last = torch.stack(y, dim=1), [torch.cat(state) for state in last]
    if layout:
        y, last = y.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in last]
    return y, *last


def gru_reset_before(x, h, weights, *_):
    """A GRU that resets the state before the product, called as torch.gru, which resets behind it."""
    w, r, *shifts = weights
    shift_x, shift_h = shifts or r.new_zeros(2, len(r))
    gates = 2 * r.shape[1]
    state, steps = h[0], []
    for step in x:
        given = step @ w.T + shift_x
        reset, update = torch.sigmoid(given[:, :gates] + state @ r[:gates].T + shift_h[:gates]).chunk(2, dim=1)
        fresh = torch.tanh(given[:, gates:] + (reset * state) @ r[gates:].T + shift_h[gates:])
        state = (1 - update) * fresh + update * state
        steps.append(state)
    return torch.stack(steps), state[None]
