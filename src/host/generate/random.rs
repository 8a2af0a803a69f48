//! Random numbers. The same node gives the same numbers: they follow from its `seed`, or from its
//! name where it has none.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::graph::params::RuleError;
use crate::host::array::{Array, is_float};
use crate::host::call::{Call, Outcome};
use crate::host::movement::{of_kind, room};
use crate::onnx::dtype_name;
use crate::onnx::proto::{NodeProto, data_type};

/// The generator of a node.
fn generator(node: &NodeProto) -> ChaCha8Rng {
    let seed = match node.float("seed") {
        Some(seed) => u64::from(seed.to_bits()),
        None => hash(node.label().as_bytes()),
    };
    ChaCha8Rng::seed_from_u64(seed)
}

/// FNV-1a (Fowler, Noll, Vo), which stays the same over compilers and machines.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The type that the attribute `dtype` names.
fn asked_kind(call: &Call) -> Option<i32> {
    call.node.int("dtype").map(|kind| kind as i32)
}

/// As many numbers as the attribute `shape` or the input asks for.
fn filled(call: &Call, mut draw: impl FnMut(&mut ChaCha8Rng) -> f64) -> Outcome {
    let (kind, dims) = if call.operator().ends_with("Like") {
        let input = call.input(0)?;
        let kind = asked_kind(call).unwrap_or(input.data_type);
        (kind, input.dims.clone())
    } else {
        let shape = call.node.ints("shape");
        let dims = shape
            .ok_or_else(|| RuleError::new("has no `shape`"))?
            .iter()
            .map(|&size| {
                usize::try_from(size)
                    .map_err(|_| RuleError::new(format!("has {size} in its `shape`")))
            })
            .collect::<Result<Vec<_>, _>>()?;
        (asked_kind(call).unwrap_or(data_type::FLOAT), dims)
    };
    if !is_float(kind) {
        let kind = dtype_name(kind);
        return Err(call.unsupported(format!("draws elements of type {kind}")));
    }
    let count = room(call, &dims)?;
    let mut random = generator(call.node);
    let values = (0..count).map(|_| draw(&mut random)).collect();
    Ok(vec![Array::float(kind, dims, values)])
}

fn number(call: &Call, name: &str, default: f32) -> f64 {
    f64::from(call.node.float(name).unwrap_or(default))
}

/// RandomNormal and RandomNormalLike.
pub(super) fn normal(call: &Call) -> Outcome {
    let (mean, scale) = (number(call, "mean", 0.0), number(call, "scale", 1.0));
    filled(call, |random| mean + scale * gaussian(random))
}

/// A standard normal number (Box and Muller, A Note on the Generation of Random Normal Deviates,
/// 1958).
fn gaussian(random: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * random.random::<f64>()).cos()
}

/// RandomUniform and RandomUniformLike.
pub(super) fn uniform(call: &Call) -> Outcome {
    let (low, high) = (number(call, "low", 0.0), number(call, "high", 1.0));
    filled(call, |random| low + (high - low) * random.random::<f64>())
}

/// Bernoulli.
pub(super) fn bernoulli(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let kind = asked_kind(call).unwrap_or(input.data_type);
    let mut random = generator(call.node);
    let drawn = input.floats()?.iter();
    let drawn = drawn.map(|&p| i64::from(random.random::<f64>() < p));
    let drawn = drawn.collect();
    Ok(vec![of_kind(kind, input.dims.clone(), drawn)?])
}

/// Multinomial.
pub(super) fn multinomial(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let &[batch, classes] = input.dims.as_slice() else {
        return Err(RuleError::new("needs an input of rank 2"));
    };
    let kind = asked_kind(call).unwrap_or(data_type::INT32);
    if !matches!(kind, data_type::INT32 | data_type::INT64) {
        let kind = dtype_name(kind);
        return Err(call.unsupported(format!("draws elements of type {kind}")));
    }
    let samples = call.node.int("sample_size").unwrap_or(1);
    let samples = usize::try_from(samples)
        .map_err(|_| RuleError::new(format!("has a `sample_size` of {samples}")))?;
    let dims = vec![batch, samples];
    let mut out = Vec::with_capacity(room(call, &dims)?);
    if classes == 0 && batch > 0 {
        return Err(RuleError::new("draws from no classes"));
    }
    let mut random = generator(call.node);
    for logits in input.floats()?.chunks(classes.max(1)) {
        let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut total = 0.0;
        let reached: Vec<f64> = logits
            .iter()
            .map(|logit| {
                total += (logit - most).exp();
                total
            })
            .collect();
        if !(total.is_finite() && total > 0.0) {
            return Err(RuleError::new("draws with probabilities that have no sum"));
        }
        for _ in 0..samples {
            let target = random.random::<f64>() * total;
            let class = reached.partition_point(|&reached| reached <= target);
            out.push(class.min(classes - 1) as i64);
        }
    }
    Ok(vec![Array::int(kind, dims, out)])
}
