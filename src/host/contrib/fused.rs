//! Products and convolutions with their surroundings fused in.

use super::bias::add;
use super::standard::{Standard, narrow, transposed, wide};
use crate::graph::params::RuleError;
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome};

/// The attributes that a convolution has.
const CONVOLUTION: &[&str] = &[
    "auto_pad",
    "dilations",
    "group",
    "kernel_shape",
    "pads",
    "strides",
    "output_padding",
];

fn scaled(mut array: Array, factor: f32) -> Array {
    if let Data::Float(values) = &mut array.data
        && factor != 1.0
    {
        values.iter_mut().for_each(|v| *v *= f64::from(factor));
    }
    array
}

/// Applies the activation `name` with the parameters it takes, under the names of its attributes.
fn activated(
    call: &Call,
    x: Array,
    name: &str,
    parameters: &[(&str, f32)],
) -> Result<Array, RuleError> {
    let parameter = |wanted: &str| {
        let found = parameters.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| f64::from(*value))
    };
    match name {
        "" => Ok(x),
        "Clip" => {
            let least = parameter("alpha").unwrap_or(f64::NEG_INFINITY);
            let most = parameter("beta").unwrap_or(f64::INFINITY);
            let values = x.floats()?.iter().map(|v| v.max(least).min(most));
            Ok(x.with(x.dims.clone(), Data::Float(values.collect())))
        }
        "Relu" | "Tanh" | "Sigmoid" | "Softplus" | "Softsign" | "HardSwish" | "LeakyRelu"
        | "ThresholdedRelu" | "Elu" | "Celu" | "Selu" | "HardSigmoid" => {
            let node = Standard::new(name).input(x);
            parameters
                .iter()
                .fold(node, |node, (name, value)| node.float(name, *value))
                .run(call)
        }
        _ => Err(call.unsupported(format_args!("has the activation `{name}`"))),
    }
}

/// The activation by the attributes of FusedGemm and FusedMatMulActivation.
fn activated_by_attributes(call: &Call, x: Array) -> Result<Array, RuleError> {
    let names = [
        ("alpha", "activation_alpha"),
        ("beta", "activation_beta"),
        ("gamma", "activation_gamma"),
    ];
    let parameters: Vec<(&str, f32)> = names
        .iter()
        .filter_map(|&(name, attribute)| Some((name, call.node.float(attribute)?)))
        .collect();
    let name = call.node.text("activation").unwrap_or_default();
    activated(call, x, name, &parameters)
}

/// A factor of FusedMatMul with its axes in order: `trans_batch` moves the first axis behind the
/// batch, `trans` swaps the last two.
fn factor(call: &Call, index: usize, trans: &str, trans_batch: &str) -> Result<Array, RuleError> {
    let array = wide(call.input(index)?);
    let rank = array.dims.len();
    let mut order: Vec<usize> = (0..rank).collect();
    let set = |name: &str| call.node.int(name).unwrap_or(0) != 0;
    if set(trans_batch) && rank > 1 {
        order[..rank - 1].rotate_left(1);
    }
    if set(trans) && rank > 1 {
        order.swap(rank - 2, rank - 1);
    }
    transposed(call, array, &order)
}

/// FusedMatMul, TransposeMatMul and FusedMatMulActivation: `activation(alpha · A B)`.
pub fn fused_matmul(call: &Call) -> Outcome {
    let product = Standard::new("MatMul")
        .input(factor(call, 0, "transA", "transBatchA")?)
        .input(factor(call, 1, "transB", "transBatchB")?)
        .run(call)?;
    let product = scaled(product, call.node.float("alpha").unwrap_or(1.0));
    let result = activated_by_attributes(call, product)?;
    Ok(vec![narrow(result, call.input(0)?)])
}

/// FusedGemm: Gemm and an activation.
pub fn fused_gemm(call: &Call) -> Outcome {
    let product = Standard::new("Gemm")
        .input(wide(call.input(0)?))
        .input(wide(call.input(1)?))
        .optional(call.optional(2).map(wide))
        .like(call, &["alpha", "beta", "transA", "transB"])
        .run(call)?;
    let result = activated_by_attributes(call, product)?;
    Ok(vec![narrow(result, call.input(0)?)])
}

/// GemmFastGelu: `FastGelu(X W + bias)`.
pub fn gemm_fast_gelu(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let mut product = Standard::new("MatMul")
        .input(wide(x))
        .input(wide(call.input(1)?))
        .run(call)?;
    if let Some(bias) = call.optional(2) {
        product = add(&product, bias)?;
    }
    let result = Standard::new("Gelu")
        .input(product)
        .text("approximate", "tanh")
        .run(call)?;
    Ok(vec![narrow(result, x)])
}

/// FusedConv: `activation(Conv(X, W, B) + Z)`; NhwcConv and NhwcFusedConv the same with the
/// channels of X, Z and the result last.
pub fn fused_conv(call: &Call, channels_last: bool) -> Outcome {
    let x = call.input(0)?;
    let rank = x.dims.len();
    if rank < 3 {
        return Err(RuleError::new(format!(
            "has an input of shape {:?}, needs a spatial axis",
            x.dims
        )));
    }
    let mut order: Vec<usize> = (0..rank).collect();
    if channels_last {
        order[1..].rotate_right(1);
    }
    let convolved = Standard::new("Conv")
        .input(transposed(call, wide(x), &order)?)
        .input(wide(call.input(1)?))
        .optional(call.optional(2).map(wide))
        .like(call, CONVOLUTION)
        .run(call)?;
    if channels_last {
        order.sort_unstable();
        order[1..].rotate_left(1);
    }
    let mut result = transposed(call, convolved, &order)?;
    if let Some(other) = call.optional(3) {
        result = add(&result, other)?;
    }
    let given = call.node.attribute("activation_params");
    let parameters: Vec<(&str, f32)> = ["alpha", "beta"]
        .into_iter()
        .zip(given.map_or(&[][..], |given| &given.floats).iter().copied())
        .collect();
    let name = call.node.text("activation").unwrap_or_default();
    let result = activated(call, result, name, &parameters)?;
    Ok(vec![narrow(result, x)])
}

/// ConvTransposeWithDynamicPads: ConvTranspose whose pads are an input.
pub fn conv_transpose(call: &Call) -> Outcome {
    let x = call.input(0)?;
    let mut node = Standard::new("ConvTranspose")
        .input(wide(x))
        .input(wide(call.input(1)?))
        .optional(call.optional(3).map(wide))
        .like(call, CONVOLUTION);
    if let Some(pads) = call.optional(2) {
        node = node.ints("pads", pads.ints()?.to_vec());
    }
    Ok(vec![narrow(node.run(call)?, x)])
}
