"""Operators that work element by element."""

import numpy as np

import references
from declare import Fed, case, f32, flags, i64, node, scalar

# Of one value.
for unary in ["Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "Tanh", "Softplus", "Softsign",
              "Exp", "Abs", "Neg", "Reciprocal", "Sin", "Cos", "Tan", "Atan", "Sinh", "Cosh", "Asinh", "Identity",
              "HardSwish", "Shrink"]:
    case(unary.lower(), unary, [(3, 7)])
for unary in ["Log", "Sqrt"]:
    case(unary.lower(), unary, [(3, 7)], positive=True)
for unary in ["Asin", "Acos", "Atanh"]:
    case(unary.lower(), unary, [(3, 7)], low=0.1, high=0.9)
case("acosh", "Acosh", [(3, 7)], low=1.1, high=3.0, positive=True)
case("mish", "Mish", [(3, 7)], opset=18)
case("thresholdedrelu", "ThresholdedRelu", [(3, 7)], low=0.3)
case("thresholdedrelu_alpha", "ThresholdedRelu", [(3, 7)], alpha=0.5)
case("erf", "Erf", [(3, 7)], torch=references.erf)
case("gelu", "Gelu", [(3, 7)], opset=20, torch=references.gelu)
case("gelu_tanh", "Gelu", [(3, 7)], opset=20, approximate="tanh", torch=references.gelu)
case("swish", "Swish", [(3, 7)], opset=24, torch=references.swish)
case("swish_alpha", "Swish", [(3, 7)], opset=24, alpha=0.7, torch=references.swish)
case("leaky_relu_slope", "LeakyRelu", [(3, 7)], alpha=0.3)
case("elu_alpha", "Elu", [(3, 7)], alpha=2.0)
case("elu_large", "Elu", [(3, 7)], low=60.0, high=100.0)
case("celu_alpha", "Celu", [(3, 7)], alpha=2.0)
case("selu_alpha", "Selu", [(3, 7)], alpha=1.5, gamma=1.2)
case("hard_sigmoid_slope", "HardSigmoid", [(3, 7)], alpha=0.3, beta=0.4)
case("shrink_bias", "Shrink", [(3, 7)], lambd=0.8, bias=0.3)
case("softplus_large", "Softplus", [(3, 7)], low=20.0, high=60.0)
case("clip", "Clip", [(3, 7), scalar(-0.5), scalar(0.9)])
case("clip_below", "Clip", [(3, 7), scalar(0.0)])
case("clip_above", "Clip", [(3, 7), None, scalar(0.5)])
case("clip_opset_9", "Clip", [(3, 7)], opset=9, min=0.0, max=1.0)
case("dropout", "Dropout", [(3, 7), scalar(0.4)])
case("dropout_opset_9", "Dropout", [(3, 7)], opset=9, ratio=0.4)
case("cast", "Cast", [(3, 4)], nodes=lambda kind: [node("Cast", ["x0"], ["y0"], to=kind)])
case("dropout_mask", "Dropout", [(3, 7), scalar(0.4)], outputs=2)
case("dropout_mask_training_off", "Dropout", [(3, 7), scalar(0.4), flags(0).reshape(())], outputs=2)
case("cast_like", "CastLike", [(3, 4), (2,)], opset=19, torch=references.cast_like, frozen=(1,))
case("cast_like_integers", "CastLike", [(3, 4), i64(1)], opset=19, gradient=False)
case("clip_fed_bound", "Clip", [(3, 7), ()], frozen=(1,))


def with_a_step(step):
    """The value times a step function of it, whose own derivative is zero."""
    return lambda kind: [node(step, ["x0"], ["step"]), node("Mul", ["x0", "step"], ["y0"])]


for step in ["Floor", "Ceil", "Round", "Sign"]:
    case(step.lower(), step, [(3, 7)], gradient=False)
    case(f"{step.lower()}_beside_its_value", step, [(3, 7)], nodes=with_a_step(step))

# Of two values and more.
for binary in ["Add", "Sub", "Mul", "Div", "Max", "Min", "Pow"]:
    name, positive = binary.lower(), binary == "Pow"
    case(name, binary, [(2, 3, 4), (2, 3, 4)], positive=positive)
    case(f"{name}_broadcast", binary, [(2, 3, 4), (3, 1)], positive=positive)
    case(f"{name}_broadcast_left", binary, [(4,), (2, 3, 1)], positive=positive)
    case(f"{name}_broadcast_both", binary, [(2, 1, 4), (3, 1)], positive=positive)
    case(f"{name}_of_single", binary, [(3, 4), ()], positive=positive)
    case(f"{name}_of_singles", binary, [(), ()], positive=positive)
    case(f"{name}_with_itself", binary, [(3, 4)], reads=(0, 0), positive=positive)
# The remainder that has the dividend's sign.
case("mod_fmod", "Mod", [(3, 4), (3, 4)], fmod=1, torch=references.mod)
case("mod_fmod_broadcast", "Mod", [(2, 3, 4), (3, 1)], fmod=1, torch=references.mod)
case("mod_fmod_broadcast_left", "Mod", [(4,), (2, 3, 1)], fmod=1, torch=references.mod)
case("mod_fmod_by_constant", "Mod", [(3, 4), scalar(0.4)], fmod=1, torch=references.mod)
case("add_weight", "Add", [(2, 3), (3,)], weights=(1,))
case("sub_weight_left", "Sub", [(3,), (2, 3)], weights=(0,))
case("mul_weight", "Mul", [(2, 3), (3,)], weights=(1,))
for name, exponent in [("square", 2.0), ("cube", 3.0), ("fourth", 4.0), ("one", 1.0), ("inverse", -1.0),
                       ("inverse_square", -2.0)]:
    case(f"pow_{name}", "Pow", [(3, 4), f32(exponent)])
for name, exponent in [("half", 0.5), ("three_halves", 1.5), ("inverse_root", -0.5)]:
    case(f"pow_{name}", "Pow", [(3, 4), scalar(exponent)], positive=True)
case("pow_constant_exponents", "Pow", [(3, 4), f32(1.0, 2.0, 0.5, 3.0)], positive=True)
case("pow_constant_base", "Pow", [f32(2.0, 0.5, 1.5, 3.0), (3, 4)])
for variadic in ["Sum", "Mean", "Max", "Min"]:
    name = variadic.lower()
    case(f"{name}_of_three", variadic, [(3, 4), (4,), (3, 1)])
    case(f"{name}_of_one", variadic, [(3, 4)])
    case(f"{name}_with_a_repeated_value", variadic, [(3, 4), (4,)], reads=(0, 1, 0))
# ONNX Runtime has no SwiGLU.
case("swiglu", "SwiGLU", [(3, 7), (3, 7)], opset=28, torch=references.swiglu, runtime=False)
case("swiglu_alpha", "SwiGLU", [(3, 7), (3, 7)], opset=28, alpha=0.7, torch=references.swiglu, runtime=False)
case("swiglu_of_itself", "SwiGLU", [(3, 7)], reads=(0, 0), opset=28, torch=references.swiglu, runtime=False)
case("prelu", "PRelu", [(2, 3, 4, 4), (3, 1, 1)], weights=(1,))
case("prelu_single", "PRelu", [(2, 3), (1,)], weights=(1,))
case("prelu_fed", "PRelu", [(2, 3, 4), (4,)])
case("prelu_of_itself", "PRelu", [(3, 4)], reads=(0, 0))

# Where.
CHOICE = flags([1, 0, 1, 1], [0, 0, 1, 0], [1, 1, 0, 0])
case("where", "Where", [CHOICE, (3, 4), (3, 4)])
case("where_broadcast_condition", "Where", [flags([1], [0], [1]), (2, 3, 4), (3, 4)])
case("where_broadcast_values", "Where", [CHOICE, (2, 1, 1), (4,)])
case("where_of_singles", "Where", [CHOICE, (), ()])
case("where_constant", "Where", [CHOICE, (3, 4), f32(-3.0)])
case("where_with_itself", "Where", [CHOICE, (3, 4)], reads=(0, 1, 1))
case("where_fed", "Where", [Fed(CHOICE), (2, 3, 4), (3, 1)])
case("where_computed", "Where", [(3, 4), (4,)], nodes=lambda kind: [
    node("Greater", ["x0", "x1"], ["larger"]), node("Where", ["larger", "x0", "x1"], ["y0"])])

# Integers by their scale, which has a derivative.
BYTES = {kind: np.random.default_rng(0).integers(*limits, (3, 4, 2)).astype(kind)
         for kind, limits in [("uint8", (0, 256)), ("int8", (-128, 128))]}
for kind, levels in BYTES.items():
    scaled = dict(torch=references.dequantize_linear, positive=True, low=0.01, high=0.1)
    blocks = [Fed(levels), (3, 2, 2)]
    zeros = np.array([3, 100, 7, 20], dtype=kind)
    case(f"dequantize_{kind}", "DequantizeLinear", [Fed(levels), (), zeros[0]], **scaled)
    case(f"dequantize_{kind}_without_zero", "DequantizeLinear", [Fed(levels), ()], **scaled)
    case(f"dequantize_{kind}_axis", "DequantizeLinear", [Fed(levels), (4,), zeros], **scaled)
    case(f"dequantize_{kind}_first_axis", "DequantizeLinear", [Fed(levels), (3,), zeros[:3]], axis=0, **scaled)
    case(f"dequantize_{kind}_last_axis", "DequantizeLinear", [Fed(levels), (2,)], axis=-1, **scaled)
    case(f"dequantize_{kind}_blocks", "DequantizeLinear", [*blocks, levels[:, :2] // 4], opset=21, block_size=2,
         **scaled)
    case(f"dequantize_{kind}_uneven_blocks", "DequantizeLinear", blocks, opset=21, block_size=3, **scaled)
