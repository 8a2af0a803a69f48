"""Fourier transforms: DFT and STFT."""

import references
from declare import Fed, case, f32, scalar

REAL, COMPLEX = (2, 5, 4, 1), (2, 5, 4, 2)


def transform(name, shape, length=None, axis=None, opset=20, **about):
    """A DFT; its axis is an input since opset 20, and was an attribute before."""
    inputs = [shape, scalar(length) if isinstance(length, int) else length]
    if axis is not None and opset == 20:
        inputs.append(scalar(axis))
    elif axis is not None:
        about["axis"] = axis
    reference = references.dft_20 if opset == 20 else references.dft_17
    case(f"dft_{name}_opset_{opset}", "DFT", inputs, opset=opset, torch=reference, **about)


for opset in (17, 20):
    for kind, shape in [("real", REAL), ("complex", COMPLEX)]:
        transform(kind, shape, opset=opset)
        transform(f"{kind}_inverse", shape, opset=opset, inverse=1)
        for axis in (0, 1, 2, -2, -3):
            transform(f"{kind}_axis_{axis}", shape, axis=axis, opset=opset)
        for name, length in [("shorter", 3), ("longer", 8)]:
            transform(f"{kind}_{name}", shape, length, 1, opset)
            transform(f"{kind}_{name}_inverse", shape, length, 2, opset, inverse=1)
        transform(f"{kind}_fed", shape, Fed(scalar(6)), opset=opset)
    for axis, length in [(1, None), (2, None), (2, 3), (1, 8), (-2, 7)]:
        transform(f"onesided_{axis}_{length or 'all'}", REAL, length, axis, opset, onesided=1)
    transform("vector", (1, 6, 1), opset=opset)
    transform("vector_complex", (1, 7, 2), opset=opset, inverse=1)
for axis, length in [(1, None), (2, 6), (2, 7), (1, 9)]:
    transform(f"onesided_inverse_{axis}_{length or 'all'}", COMPLEX, length, axis, inverse=1, onesided=1)

STEP, LENGTH = scalar(3), scalar(6)
for onesided in (0, 1):
    about = dict(torch=references.stft, onesided=onesided)
    case(f"stft_{onesided}", "STFT", [(2, 17, 1), STEP, (6,), LENGTH], **about)
    case(f"stft_without_window_{onesided}", "STFT", [(2, 17, 1), STEP, None, LENGTH], **about)
    case(f"stft_odd_{onesided}", "STFT", [(1, 16, 1), scalar(2), (5,), scalar(5)], **about)
    case(f"stft_window_array_{onesided}", "STFT", [(1, 11, 1), scalar(4), f32(0.1, 0.5, 0.9, 1.0, 0.5)], **about)
    case(f"stft_fed_{onesided}", "STFT", [(1, 12, 1), Fed(STEP), (6,), Fed(LENGTH)], **about)
case("stft_default", "STFT", [(2, 17, 1), STEP, (6,)], torch=references.stft)
case("stft_complex", "STFT", [(2, 13, 2), STEP, (5,)], onesided=0, torch=references.stft)
