"""Operators in PyTorch, for derivatives in float64: composites, and what the ONNX project's reference
implementation lacks or computes wrongly. Functions take the operator's inputs in its order, None where
one is left out, and its attributes by their names; a tuple holds several outputs."""

import math
from itertools import product

import torch
from torch.nn import functional
from torchvision.ops import deform_conv2d, roi_align


def layer_normalization(x, scale, shift=0, *, axis=-1, epsilon=1e-5):
    axes = tuple(range(axis % x.dim(), x.dim()))
    mean = x.mean(axes, keepdim=True)
    inverse = (x.var(axes, unbiased=False, keepdim=True) + epsilon).rsqrt()
    return (x - mean) * inverse * scale + shift, mean, inverse


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


def max_unpool(x, places, shape, *, kernel_shape, strides):
    sizes = [(size - 1) * stride + kernel for size, stride, kernel in zip(x.shape[2:], strides, kernel_shape)]
    out = x.new_zeros(x[:, :, 0, 0].numel() * math.prod(sizes)).index_put((places.flatten(),), x.flatten())
    out = out.view(*x.shape[:2], *sizes)
    return functional.pad(out, [edge for axis in (3, 2) for edge in (0, int(shape[axis]) - out.shape[axis])])


def global_max_pool(x):
    return x.amax(tuple(range(2, x.dim())), keepdim=True)


def windows(x, kernel_shape, strides=None, pads=None, dilations=None, ceil_mode=0, fill=0.0):
    """The elements that each window of a pooling sees, along a new last axis."""
    axes = len(kernel_shape)
    strides, dilations, pads = strides or [1] * axes, dilations or [1] * axes, pads or [0] * 2 * axes
    for axis, (kernel, stride, dilation) in enumerate(zip(kernel_shape, strides, dilations), 2):
        before, after = pads[axis - 2], pads[axis - 2 + axes]
        room = x.shape[axis] + before + after - dilation * (kernel - 1) - 1
        count = (room + (stride - 1) * ceil_mode) // stride + 1
        # The last window begins in the padded part in front or among the elements.
        count -= ceil_mode and (count - 1) * stride >= x.shape[axis] + before
        edges = [0, 0] * (x.dim() - 1 - axis) + [before, after + stride]
        places = torch.arange(count)[:, None] * stride + torch.arange(kernel) * dilation
        x = functional.pad(x, edges, value=fill).index_select(axis, places.flatten()).unflatten(axis, places.shape)
        x = x.movedim(axis + 1, -1)
    return x.flatten(2 + axes)


def lp_pool(x, *, p=2, **about):
    return torch.linalg.vector_norm(windows(x, **about), p, dim=-1)


def col2im(x, image, block, **about):
    image, block = image.tolist(), block.tolist()
    size = math.prod(image)
    places = windows(torch.arange(size).view(1, 1, *image), block, fill=size, **about).flatten(0, -2).T.flatten()
    values = x.view(len(x), -1, len(places))
    out = x.new_zeros(*values.shape[:2], size + 1).index_add(2, places, values)
    return out[:, :, :size].unflatten(2, image)


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


def pad(x, pads, value=0.0, *, mode="constant"):
    rank, pads = x.dim(), pads.tolist()
    edges = [pads[axis + side] for axis in reversed(range(rank)) for side in (0, rank)]
    if mode == "constant":
        return functional.pad(x, edges, value=float(value))
    return functional.pad(x, edges[:2 * rank - 4], mode={"edge": "replicate"}.get(mode, mode))


def space_to_depth_crd(x, *, blocksize, mode):
    return functional.pixel_unshuffle(x, blocksize)


def resize_nearest(x, scales, *, mode):
    return functional.interpolate(x, scale_factor=scales.tolist()[2:], mode=mode)


def scatter(x, indices, updates, *, axis=0):
    return x.scatter(axis, indices, updates)


def attention(q, k, v, mask=None, past_key=None, past_value=None, lengths=None, *, q_num_heads=None, kv_num_heads=None,
              is_causal=0, scale=None, softcap=0.0, qk_matmul_output_mode=0, left_window_size=-1, right_window_size=-1):
    flat = q.dim() == 3
    if flat:
        q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2)
                   for x, heads in ((q, q_num_heads), (k, kv_num_heads), (v, kv_num_heads)))
    if past_key is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    # Places are counted among the keys: behind those of the past, or the last that there are.
    first, count = (0 if past_key is None else past_key.shape[2]), k.shape[2]
    if lengths is not None:
        count = lengths.view(-1, 1, 1, 1)
        first = count - q.shape[2]
    query, key = torch.arange(q.shape[2])[:, None] + first, torch.arange(k.shape[2])
    seen = key < count
    seen = seen & (key <= query) if is_causal else seen
    seen = seen & (query - key <= left_window_size) if left_window_size >= 0 else seen
    seen = seen & (key - query <= right_window_size) if right_window_size >= 0 else seen
    keys, values = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    scores = q @ keys.mT * (q.shape[3] ** -0.5 if scale is None else scale)
    capped = softcap * torch.tanh(scores / softcap) if softcap else scores
    biased = capped
    if mask is not None:
        unseen = False if mask.dtype == torch.bool else -torch.inf
        mask = functional.pad(mask, (0, k.shape[2] - mask.shape[-1]), value=unseen) if mask.shape[-1] > 1 else mask
        biased = capped.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else capped + mask
    biased = biased.masked_fill(~seen, -torch.inf)
    weights = masked_softmax(biased)
    out = weights @ values
    out = out.transpose(1, 2).flatten(2) if flat else out
    return out, k, v, (scores, capped, biased, weights)[qk_matmul_output_mode]


def masked_softmax(scores):
    """Along the last axis; a row without any score is zero."""
    powers = (scores - scores.detach().amax(-1, keepdim=True).clamp(min=-1e30)).exp()
    sums = powers.sum(-1, keepdim=True)
    return powers / torch.where(sums == 0, 1.0, sums)


def rnn(x, w, r, b=None, lengths=None, h=None, *, activations=("Tanh",), **about):
    def step(given, state, w, r, shift_x, shift_r, _, f):
        return [f(given @ w.T + shift_x + state @ r.T + shift_r)]

    return recurrent(step, 1, x, w, r, b, lengths, [h], activations=activations, **about)


def gru(x, w, r, b=None, lengths=None, h=None, *, activations=("Sigmoid", "Tanh"), linear_before_reset=0, **about):
    def step(given, state, w, r, shift_x, shift_r, _, f, g):
        given, gates = given @ w.T + shift_x, 2 * r.shape[1]
        update, reset = f(given[:, :gates] + state @ r[:gates].T + shift_r[:gates]).chunk(2, 1)
        if linear_before_reset:
            held = reset * (state @ r[gates:].T + shift_r[gates:])
        else:
            held = (reset * state) @ r[gates:].T + shift_r[gates:]
        return [(1 - update) * g(given[:, gates:] + held) + update * state]

    return recurrent(step, 2, x, w, r, b, lengths, [h], activations=activations, **about)


def lstm(x, w, r, b=None, lengths=None, h=None, c=None, p=None, *, activations=("Sigmoid", "Tanh", "Tanh"),
         input_forget=0, **about):
    def step(given, state, cell, w, r, shift_x, shift_r, peepholes, f, g, bend):
        i, o, forget, fresh = (given @ w.T + shift_x + state @ r.T + shift_r).chunk(4, 1)
        p_i, p_o, p_f = (0, 0, 0) if peepholes is None else peepholes.chunk(3)
        i = f(i + p_i * cell)
        forget = 1 - i if input_forget else f(forget + p_f * cell)
        cell = forget * cell + i * g(fresh)
        return [f(o + p_o * cell) * bend(cell), cell]

    return recurrent(step, 3, x, w, r, b, lengths, [h, c], p, activations=activations, **about)


def recurrent(step, each, x, w, r, b, lengths, states, p=None, *, hidden_size, activations, direction="forward",
              layout=0, activation_alpha=(), activation_beta=(), clip=torch.inf):
    """Y and the last states; `step` computes the next states of one direction with `each` activations."""
    if layout:
        x, states = x.transpose(0, 1), [None if state is None else state.transpose(0, 1) for state in states]
    ways = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    parameters = iter(activation_alpha), iter(activation_beta)
    names = activations if len(activations) == each * len(ways) else [*activations] * len(ways)
    # Gates are clipped, the cell is not.
    clips = [clip, clip, torch.inf][:each] * len(ways)
    functions = [lambda x, f=activation_of(name, *parameters), clip=clip: f(x.clamp(-clip, clip))
                 for name, clip in zip(names, clips)]
    examples, times = torch.arange(x.shape[1]), torch.arange(len(x))[:, None]
    live = times < (torch.full(examples.shape, len(x)) if lengths is None else lengths)
    results = []
    for k, backwards in enumerate(ways):
        order = torch.where(live & backwards, live.sum(0) - 1 - times, times)
        last = [x.new_zeros(x.shape[1], hidden_size) if state is None else state[k] for state in states]
        halves = (x.new_zeros(2 * len(w[k])) if b is None else b[k]).chunk(2)
        steps = []
        for given, kept in zip(x[order, examples], live[..., None]):
            fresh = step(given, *last, w[k], r[k], *halves, None if p is None else p[k],
                         *functions[k * each:(k + 1) * each])
            last = [torch.where(kept, new, old) for new, old in zip(fresh, last)]
            steps.append(last[0] * kept)
        results.append((torch.stack(steps)[order, examples], *last))
    y, *last = (torch.stack(parts, int(not k)) for k, parts in enumerate(zip(*results)))
    if layout:
        y, last = y.permute(2, 0, 1, 3), [state.transpose(0, 1) for state in last]
    return y, *last


def activation_of(name, alphas, betas):
    """An activation by its name; each that has parameters takes the next of them."""
    two = ("Affine", "ScaledTanh", "HardSigmoid")
    alpha = next(alphas) if name in (*two, "LeakyRelu", "ThresholdedRelu", "Elu") else 0
    beta = next(betas) if name in two else 0
    return {
        "Relu": torch.relu, "Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "Softsign": functional.softsign,
        "Softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)), "Affine": lambda x: alpha * x + beta,
        "LeakyRelu": lambda x: torch.where(x < 0, alpha * x, x), "ThresholdedRelu": lambda x: x * (x > alpha),
        "ScaledTanh": lambda x: alpha * torch.tanh(beta * x), "HardSigmoid": lambda x: (alpha * x + beta).clamp(0, 1),
        "Elu": lambda x: torch.where(x < 0, alpha * (x.exp() - 1), x),
    }[name]


def affine_grid(theta, size, *, align_corners=0):
    return functional.affine_grid(theta, size.tolist(), bool(align_corners))


def grid_sample(x, grid, *, mode="linear", padding_mode="zeros", align_corners=0):
    """In any number of axes; the elements around a point are read where the padding has them."""
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    sizes, rows, parts = x.shape[2:], [], []
    for axis, size in enumerate(sizes):
        low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
        at = (grid[..., -1 - axis] + 1) / 2 * (high - low) + low
        at = at.round() if mode == "nearest" else at
        first = at.detach().floor()
        taps, weights = taps_between(at - first, mode)
        index, weights = torch.stack([first + tap for tap in taps]), torch.stack(weights)
        if padding_mode == "zeros":
            weights = weights * ((index >= 0) & (index < size))
        elif padding_mode == "reflection":
            folded = (index - low).remainder(2 * (high - low))
            index = low + torch.minimum(folded, 2 * (high - low) - folded)
        rows.append(index.clamp(0, size - 1).long())
        parts.append(weights)
    batch = torch.arange(len(x)).view(-1, *[1] * len(sizes))
    out = 0
    for taps in product(*(range(len(part)) for part in parts)):
        read = x.movedim(1, -1)[(batch, *(row[tap] for row, tap in zip(rows, taps)))]
        out = out + read * math.prod(part[tap] for part, tap in zip(parts, taps))[..., None]
    return out.movedim(-1, 1)


def roi_align_opset_10(x, rois, batches, *, output_height, output_width):
    return roi_align(x, torch.cat([batches[:, None], rois], 1), (output_height, output_width))


def taps_between(t, mode):
    """The places around a point, from the element below it on, and the weights of their elements."""
    if mode == "nearest":
        return [0], [torch.ones_like(t)]
    if mode == "linear":
        return [0, 1], [1 - t, t]

    def near(t):
        return (1.25 * t - 2.25) * t * t + 1

    def far(t):
        return ((-0.75 * t + 3.75) * t - 6) * t + 3

    return [-1, 0, 1, 2], [far(t + 1), near(t), near(1 - t), far(2 - t)]


def deform_conv(x, w, offset, b=None, mask=None, *, group=1, offset_group=1, strides=1, dilations=1, pads=(0, 0, 0, 0),
                kernel_shape=None):
    # The groups follow from the shapes.
    top, left, bottom, right = pads
    return deform_conv2d(functional.pad(x, (left, right, top, bottom)), offset, w, b, strides, 0, dilations, mask)


def dft_17(x, length=None, *, axis=1, **about):
    return dft_20(x, length, axis, **about)


def dft_20(x, length=None, axis=-2, *, inverse=0, onesided=0):
    axis = int(axis) % x.dim()
    length = None if length is None else int(length)
    values = torch.complex(x[..., 0], x[..., 1] if x.shape[-1] == 2 else torch.zeros_like(x[..., 0]))
    if inverse and onesided:
        return torch.fft.irfft(values, length, axis)[..., None]
    out = torch.view_as_real((torch.fft.ifft if inverse else torch.fft.fft)(values, length, axis))
    return out.narrow(axis, 0, out.shape[axis] // 2 + 1) if onesided else out


def stft(x, step, window=None, length=None, *, onesided=1):
    length = len(window) if length is None else int(length)
    frames = x.unfold(1, length, int(step)).transpose(2, 3)
    return dft_20(frames if window is None else frames * window[:, None], onesided=onesided)


def cross_entropy(scores, labels, weights=None, **about):
    logarithms = scores.log_softmax(1)
    return negative_log_likelihood(logarithms, labels, weights, **about), logarithms


def negative_log_likelihood(logarithms, labels, weights=None, *, reduction="mean", ignore_index=None):
    kept = torch.ones_like(labels, dtype=torch.bool) if ignore_index is None else labels != ignore_index
    labels = torch.where(kept, labels, 0).long()
    factors = kept * (torch.ones(logarithms.shape[1], dtype=torch.float64) if weights is None else weights)[labels]
    losses = -factors * logarithms.gather(1, labels[:, None])[:, 0]
    return {"none": losses, "sum": losses.sum(), "mean": losses.sum() / factors.sum()}[reduction]


def cast_like(x, _):
    return x


def mod(x, y, *, fmod):
    assert fmod
    return torch.fmod(x, y)


def one_hot(indices, depth, values, *, axis=-1):
    depth = int(depth)
    hot = (indices % depth)[..., None] == torch.arange(depth)
    hot = hot & ((indices >= -depth) & (indices < depth))[..., None]
    return torch.where(hot, values[1], values[0]).movedim(-1, axis)


def cumprod(x, axis, *, exclusive=0, reverse=0):
    axis = int(axis)
    x = x.flip(axis) if reverse else x
    if exclusive:
        x = torch.cat([torch.ones_like(x.narrow(axis, 0, 1)), x.narrow(axis, 0, x.shape[axis] - 1)], axis)
    out = x.cumprod(axis)
    return out.flip(axis) if reverse else out


def dequantize_linear(x, scale, zero=None, *, axis=1, block_size=0):
    """A scale for all, for each place along an axis, or for each block along it."""
    def spread(value):
        if block_size:
            return value.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
        return value.view([-1 if k == axis % x.dim() else 1 for k in range(x.dim())]) if value.dim() else value

    return (x.double() - (0 if zero is None else spread(zero))) * spread(scale)


def causal_conv(x, w, b=None, past=None, *, activation="none"):
    width = w.shape[2] - 1
    padded = functional.pad(x, (width, 0)) if past is None else torch.cat([past, x], 2)
    out = functional.conv1d(padded, w, b, groups=len(w))
    return out if activation == "none" else functional.silu(out), padded[:, :, padded.shape[2] - width:]


def linear_attention(q, k, v, state=None, decay=None, beta=None, *, q_num_heads, kv_num_heads, update_rule, scale=0.0):
    # The rule says which of decay and beta there are.
    q, k, v = (x.unflatten(2, (heads, -1)).movedim(1, 0)
               for x, heads in ((q, q_num_heads), (k, kv_num_heads), (v, kv_num_heads)))
    times, batch, heads, width = k.shape
    state = q.new_zeros(batch, heads, width, v.shape[3]) if state is None else state
    out = []
    for at in range(times):
        key, value = k[at], v[at]
        if decay is not None:
            state = state * decay[:, at].unflatten(1, (heads, -1)).exp()[..., None]
        if beta is not None:
            value = beta[:, at, :, None] * (value - (key[..., None, :] @ state)[..., 0, :])
        state = state + key[..., None] * value[..., None, :]
        read = state.repeat_interleave(q_num_heads // heads, 1)
        out.append((q[at][..., None, :] @ read).flatten(1) * (scale or width ** -0.5))
    return torch.stack(out, 1), state


def bias_gelu(x, b):
    return functional.gelu(x + b)


def fast_gelu(x, b=0):
    return functional.gelu(x + b, approximate="tanh")


def quick_gelu(x, *, alpha=1.702):
    return swish(x, alpha=alpha)


def bias_softmax(x, b, *, axis, is_inner_broadcast):
    return softmax_flat(x + b, axis=axis)


def fused_matmul(a, b, *, alpha=1.0, transA=0, transB=0, transBatchA=0, transBatchB=0):
    a, b = a.movedim(0, -2) if transBatchA else a, b.movedim(0, -2) if transBatchB else b
    return alpha * (a.mT if transA else a) @ (b.mT if transB else b)


def fused_gemm(a, b, c=0, *, activation, alpha=1.0, beta=1.0, activation_alpha=0.0, activation_beta=0.0, **turned):
    out = alpha * fused_matmul(a, b, **turned) + beta * c
    return activation_of(activation, iter([activation_alpha]), iter([activation_beta]))(out)


def fused_conv(x, w, b=None, z=0, *, activation=None, activation_params=(), group=1, strides=1, pads=(0, 0, 0, 0)):
    top, left, bottom, right = pads
    out = functional.conv2d(functional.pad(x, (left, right, top, bottom)), w, b, strides, groups=group) + z
    if activation == "Clip":
        return out.clamp(*activation_params)
    if activation is None:
        return out
    return activation_of(activation, iter(activation_params[:1]), iter(activation_params[1:]))(out)


def skip_layer_normalization(x, skip, scale, shift=None, b=None, *, epsilon=1e-12):
    total = x + skip + (0 if b is None else b)
    return *layer_normalization(total, scale, 0 if shift is None else shift, epsilon=epsilon), total


def skip_rms_normalization(x, skip, scale, b=0, *, epsilon=1e-12):
    total = x + skip + b
    return rms_normalization(total, scale, epsilon=epsilon), None, None, total


def embed_layer_normalization(ids, segments, words, places, parts, scale, shift, mask=None, positions=None, *,
                              epsilon=1e-12):
    total = words[ids.long()] + places[torch.arange(ids.shape[1]) if positions is None else positions.long()]
    total = total if segments is None else total + parts[segments.long()]
    lengths = torch.zeros(len(ids)) if mask is None else mask.sum(1)
    return layer_normalization(total, scale, shift, epsilon=epsilon)[0], lengths, total


def packed_attention(x, w, b=0, keys=None, past=None, bias=None, *, qkv_hidden_sizes=None, **about):
    sizes = qkv_hidden_sizes or [w.shape[1] // 3] * 3
    past, shift = (None, None) if past is None else past, 0 if b is None else b
    out, k, v, _ = multi_head_attention(*(x @ w + shift).split(sizes, 2), None, keys, bias, *past, **about)
    return out, torch.stack([k, v]) if k.shape == v.shape else None


def multi_head_attention(q, k, v, b=None, keys=None, bias=None, past_key=None, past_value=None, *, num_heads,
                         unidirectional=0, scale=None, mask_filter_value=-10000.0):
    if k.dim() == 4:
        k, v = (x.transpose(1, 2).flatten(2) for x in (k, v))
    if b is not None:
        q, k, v = (x + part for x, part in zip((q, k, v), b.split([q.shape[2], k.shape[2], v.shape[2]])))
    hidden = None if keys is None else mask_filter_value * (keys == 0).double()[:, None, None]
    mask = hidden if bias is None else bias if hidden is None else bias + hidden
    return attention(q, k, v, mask, past_key, past_value, q_num_heads=num_heads, kv_num_heads=num_heads,
                     is_causal=unidirectional, scale=scale)


def trilu(x, k=0, *, upper=1):
    return (torch.triu if upper else torch.tril)(x, int(k))


def expand_dims(x, axis):
    return x.unsqueeze(int(axis))


def inverse(x):
    return torch.linalg.inv(x)


def cdist(a, b, *, metric):
    squares = (a[:, None] - b).square().sum(-1)
    return squares.sqrt() if metric == "euclidean" else squares


def max_roi_pool(x, boxes, *, pooled_shape, spatial_scale=1.0):
    """Girshick 2015, section 2.1: the corners are rounded, both belong to the box."""
    def edges(first, last, cells, size):
        first, last = (int(torch.floor(corner * spatial_scale + 0.5)) for corner in (first, last))
        step = max(last - first + 1, 1) / cells
        for cell in range(cells):
            yield [min(max(edge + first, 0), size)
                   for edge in (math.floor(cell * step), math.ceil((cell + 1) * step))]

    out = []
    for image, left, top, right, bottom in boxes:
        down = list(edges(top, bottom, pooled_shape[0], x.shape[2]))
        across = list(edges(left, right, pooled_shape[1], x.shape[3]))
        cells = [x[int(image), :, a:b, c:d].flatten(1) for a, b in down for c, d in across]
        cells = [cell.amax(1) if cell.shape[1] else cell.new_zeros(len(cell)) for cell in cells]
        out.append(torch.stack(cells, 1).unflatten(1, tuple(pooled_shape)))
    return torch.stack(out)


def bias_add(x, bias, skip):
    return x + bias + skip


def bias_split_gelu(x, bias):
    left, right = (x + bias).chunk(2, -1)
    return left * gelu(right)


def gemm_fast_gelu(x, w, bias=None):
    product = x @ w
    return gelu(product if bias is None else product + bias, approximate="tanh")


def fused_matmul_relu(a, b, *, alpha, activation):
    assert activation == "Relu"
    return torch.relu(alpha * (a @ b))


def gather_pairs(x, indices):
    """GatherND by indices of two axes."""
    return x[indices[:, 0], indices[:, 1]]
