//! Operators of `com.microsoft`, which ONNX Runtime's optimiser leaves in files, by standard ones.

use super::products::linear_attention;
use super::sampling::grid_sample;
use super::sketch::{Attribute, Sketch};
use super::{Define, normalization};
use crate::graph::params::{RuleError, check_shape};
use crate::host::Array;

/// How an operator of this domain is defined, if it is.
pub(super) fn definition_of(operator: &str) -> Option<Define> {
    Some(match operator {
        "Gelu" | "BiasGelu" | "FastGelu" => gelu,
        "QuickGelu" => quick_gelu,
        "BiasSplitGelu" => bias_split_gelu,
        "BiasSoftmax" => bias_softmax,
        "BiasAdd" => bias_add,
        "FusedMatMul" | "TransposeMatMul" | "FusedMatMulActivation" => fused_matmul,
        "FusedGemm" => fused_gemm,
        "GemmFastGelu" => gemm_fast_gelu,
        "FusedConv" => fused_conv,
        "LayerNormalization" => normalization::with_statistics,
        "SimplifiedLayerNormalization" => simplified,
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => skip_normalization,
        "EmbedLayerNormalization" => embed,
        "Attention" => attention,
        "MultiHeadAttention" => multi_head,
        "LinearAttention" => linear_attention,
        "GridSample" => grid_sample,
        "Trilu" | "GatherND" | "Pad" => renamed,
        "ExpandDims" => expand_dims,
        "Inverse" => inverse,
        "CDist" => distances,
        _ => return None,
    })
}

/// The operator of the same name, which is a standard one by now.
fn renamed(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0])?;
    let inputs = s.all();
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    s.give(0, &s.like(s.node.operator(), &inputs, &[]));
    Ok(())
}

/// Input 0 plus input 1, where there is one.
fn biased(s: &Sketch) -> Result<String, RuleError> {
    s.floats(&[0, 1])?;
    Ok(match s.optional(1) {
        Some(_) => s.plus(&s.input(0), &s.input(1)),
        None => s.input(0),
    })
}

fn gelu_of(s: &Sketch, x: &str, approximate: &str) -> String {
    s.with("Gelu", &[x], vec![("approximate", approximate.into())])
}

/// Gelu, BiasGelu and, with the approximation `tanh`, FastGelu.
fn gelu(s: &Sketch) -> Result<(), RuleError> {
    let approximate = match s.node.operator() {
        "FastGelu" => "tanh",
        _ => "none",
    };
    s.give(0, &gelu_of(s, &biased(s)?, approximate));
    Ok(())
}

/// QuickGelu: `x · sigmoid(alpha · x)`.
fn quick_gelu(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0])?;
    let alpha = s.node.float("alpha").unwrap_or(1.702);
    s.give(
        0,
        &s.with("Swish", &[&s.input(0)], vec![("alpha", alpha.into())]),
    );
    Ok(())
}

/// BiasSplitGelu: with `x + bias` cut in two halves along the last axis, `left · gelu(right)`.
fn bias_split_gelu(s: &Sketch) -> Result<(), RuleError> {
    let sum = biased(s)?;
    let (last, half) = match s.x()? {
        dims @ [.., width] if *width > 0 && width.is_multiple_of(2) => (dims.len() - 1, width / 2),
        dims => {
            return Err(RuleError::new(format!(
                "can't halve a value of shape {dims:?}"
            )));
        }
    };
    let [left, right] = [0, half].map(|start| s.part(&sum, last, start, half));
    s.give(0, &s.times(&left, &gelu_of(s, &right, "none")));
    Ok(())
}

/// BiasSoftmax: softmax of `data + bias` over all axes from `axis` on.
fn bias_softmax(s: &Sketch) -> Result<(), RuleError> {
    let x = s.x()?;
    let axis = crate::graph::normalize_axis(s.node.int("axis").unwrap_or(1), x.len())?;
    let sizes = [x[..axis].iter().product(), x[axis..].iter().product()];
    let rows = s.reshape(&biased(s)?, &sizes);
    let shares = s.with("Softmax", &[&rows], vec![("axis", 1i64.into())]);
    s.give(0, &s.reshape(&shares, x));
    Ok(())
}

/// BiasAdd: `x + bias + skip`.
fn bias_add(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[2])?;
    s.give(0, &s.plus(&biased(s)?, &s.input(2)));
    Ok(())
}

/// `value` through the activation `name` with its parameters, by the names of its attributes.
fn activated(
    s: &Sketch,
    value: &str,
    name: &str,
    parameters: Vec<(&str, f32)>,
) -> Result<String, RuleError> {
    match name {
        "" => Ok(value.to_owned()),
        "Clip" => {
            let bound = |wanted: &str| match parameters.iter().find(|(name, _)| *name == wanted) {
                Some(&(_, bound)) => s.number(bound.into()),
                None => String::new(),
            };
            Ok(s.op("Clip", &[value, &bound("alpha"), &bound("beta")]))
        }
        "Relu" | "Tanh" | "Sigmoid" | "Softplus" | "Softsign" | "HardSwish" | "LeakyRelu"
        | "ThresholdedRelu" | "Elu" | "Celu" | "Selu" | "HardSigmoid" => {
            let attributes = parameters
                .into_iter()
                .map(|(name, value)| (name, Attribute::Float(value)));
            Ok(s.with(name, &[value], attributes.collect()))
        }
        other => Err(RuleError::new(format!("has the activation `{other}`"))),
    }
}

/// The activation by the attributes of FusedGemm and FusedMatMulActivation.
fn activated_by_attributes(s: &Sketch, value: &str) -> Result<String, RuleError> {
    let names = [
        ("alpha", "activation_alpha"),
        ("beta", "activation_beta"),
        ("gamma", "activation_gamma"),
    ];
    let parameters = names
        .into_iter()
        .filter_map(|(name, attribute)| Some((name, s.node.float(attribute)?)))
        .collect();
    activated(
        s,
        value,
        s.node.text("activation").unwrap_or_default(),
        parameters,
    )
}

/// FusedMatMul, TransposeMatMul and FusedMatMulActivation: `activation(alpha · A B)`.
fn fused_matmul(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1])?;
    // `trans_batch` moves the first axis behind the batch, `trans` swaps the last two.
    let factor = |index: usize, trans: &str, trans_batch: &str| -> Result<String, RuleError> {
        let rank = s.dims(index)?.len();
        let mut order: Vec<usize> = (0..rank).collect();
        if s.flag(trans_batch) && rank > 1 {
            order[..rank - 1].rotate_left(1);
        }
        if s.flag(trans) && rank > 1 {
            order.swap(rank - 2, rank - 1);
        }
        Ok(match order.is_sorted() {
            true => s.input(index),
            false => s.transpose(&s.input(index), &order),
        })
    };
    let (a, b) = (
        factor(0, "transA", "transBatchA")?,
        factor(1, "transB", "transBatchB")?,
    );
    let product = s.matmul(&a, &b);
    let scaled = match s.node.float("alpha") {
        Some(alpha) => s.times(&product, &s.number(alpha.into())),
        None => product,
    };
    s.give(0, &activated_by_attributes(s, &scaled)?);
    Ok(())
}

/// FusedGemm: Gemm and an activation.
fn fused_gemm(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1, 2])?;
    let inputs = [s.input(0), s.input(1), s.input(2)];
    let inputs = inputs.each_ref().map(String::as_str);
    let product = s.like("Gemm", &inputs, &["activation"]);
    s.give(0, &activated_by_attributes(s, &product)?);
    Ok(())
}

/// GemmFastGelu: `FastGelu(X W + bias)`.
fn gemm_fast_gelu(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1, 2])?;
    let mut product = s.matmul(&s.input(0), &s.input(1));
    if s.optional(2).is_some() {
        product = s.plus(&product, &s.input(2));
    }
    s.give(0, &gelu_of(s, &product, "tanh"));
    Ok(())
}

/// FusedConv: `activation(Conv(X, W, B) + Z)`.
fn fused_conv(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1, 2, 3])?;
    let inputs = [s.input(0), s.input(1), s.input(2)];
    let inputs = inputs.each_ref().map(String::as_str);
    let mut result = s.like("Conv", &inputs, &["activation", "activation_params"]);
    if s.optional(3).is_some() {
        result = s.plus(&result, &s.input(3));
    }
    let given = s.node.attribute("activation_params");
    let given = given.map_or(&[][..], |given| &given.floats);
    let parameters = ["alpha", "beta"].into_iter().zip(given.iter().copied());
    let name = s.node.text("activation").unwrap_or_default();
    s.give(0, &activated(s, &result, name, parameters.collect())?);
    Ok(())
}

/// SimplifiedLayerNormalization: RMSNormalization without the deviation as a result.
fn simplified(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1])?;
    if s.wants(1) {
        return Err(RuleError::new("gives its deviation"));
    }
    let inputs = [s.input(0), s.input(1)];
    let inputs = inputs.each_ref().map(String::as_str);
    s.give(0, &s.like("RMSNormalization", &inputs, &[]));
    Ok(())
}

/// `value`, normalised over the last axis; ONNX Runtime's own `epsilon` where the node has none.
fn normalized(
    s: &Sketch,
    value: &str,
    scale: &str,
    shift: Option<&str>,
    simplified: bool,
) -> String {
    let epsilon = s.node.float("epsilon").unwrap_or(1e-12);
    let attributes = vec![("epsilon", epsilon.into())];
    match (simplified, shift) {
        (true, _) => s.with("RMSNormalization", &[value, scale], attributes),
        (false, None) => s.with("LayerNormalization", &[value, scale], attributes),
        (false, Some(shift)) => s.with("LayerNormalization", &[value, scale, shift], attributes),
    }
}

/// SkipLayerNormalization and SkipSimplifiedLayerNormalization: `input + skip + bias`, normalised;
/// the sum is output 3.
fn skip_normalization(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1, 2, 3, 4])?;
    if s.wants(1) || s.wants(2) {
        return Err(RuleError::new("gives its mean or deviation"));
    }
    let simplified = s.node.operator() == "SkipSimplifiedLayerNormalization";
    let (shift, bias) = if simplified { (None, 3) } else { (Some(3), 4) };
    let mut sum = s.plus(&s.input(0), &s.input(1));
    if s.optional(bias).is_some() {
        sum = s.plus(&sum, &s.input(bias));
    }
    let shift = shift.filter(|&index| s.optional(index).is_some());
    let shift = shift.map(|index| s.input(index));
    s.give(
        0,
        &normalized(s, &sum, &s.input(2), shift.as_deref(), simplified),
    );
    s.give(3, &sum);
    Ok(())
}

/// EmbedLayerNormalization: the sum of word, position and segment embeddings, normalised.
fn embed(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[2, 3, 4, 5, 6])?;
    let &[_, length] = s.x()? else {
        return Err(RuleError::new("has ids of another rank than 2"));
    };
    let mut sum = s.gather(&s.input(2), &s.input(0), 0);
    let positions = match s.optional(8) {
        Some(_) => s.input(8),
        None => s.list(&(0..length).collect::<Vec<_>>()),
    };
    sum = s.plus(&sum, &s.gather(&s.input(3), &positions, 0));
    if s.optional(1).is_some() && s.optional(4).is_some() {
        sum = s.plus(&sum, &s.gather(&s.input(4), &s.input(1), 0));
    }
    let shift = s.input(6);
    s.give(0, &normalized(s, &sum, &s.input(5), Some(&shift), false));
    s.give(2, &sum);
    if s.wants(1) {
        s.hand(1, &s.itself(s.node.clone(), 1));
    }
    Ok(())
}

/// What is added to the scores `[batch, heads, rows, keys]`: `mask_filter_value` at the keys where a
/// mask `[batch, keys]` has a zero, and a bias.
fn added(
    s: &Sketch,
    mask: usize,
    bias: usize,
    [batch, heads, rows, keys]: [usize; 4],
) -> Result<Option<String>, RuleError> {
    let mut sum = None;
    if let Some(known) = s.optional(mask) {
        check_shape("a mask", &known.dims, &[batch, keys])?;
        let zero = s.constant(Array::int(known.data_type, vec![], vec![0]));
        let kept = s.float(&s.op("Greater", &[&s.input(mask), &zero]));
        let filter = f64::from(s.node.float("mask_filter_value").unwrap_or(-10000.0));
        let filter = s.linear(&kept, -filter, filter);
        sum = Some(s.reshape(&filter, &[batch, 1, 1, keys]));
    }
    if let Some(known) = s.optional(bias) {
        s.floats(&[bias])?;
        let &[examples, of_heads, ..] = known.dims.as_slice() else {
            return Err(RuleError::new("has a bias of another rank than 4"));
        };
        let shared = |own: usize, size: usize| if own == 1 { 1 } else { size };
        let wanted = [shared(examples, batch), shared(of_heads, heads), rows, keys];
        check_shape("a bias", &known.dims, &wanted)?;
        sum = Some(match sum {
            Some(sum) => s.plus(&sum, &s.input(bias)),
            None => s.input(bias),
        });
    }
    Ok(sum)
}

/// `[batch, length, heads · size]` to `[batch, heads, length, size]`.
fn in_heads(s: &Sketch, value: &str, [batch, length, width]: [usize; 3], heads: usize) -> String {
    let split = s.reshape(value, &[batch, length, heads, width / heads]);
    s.transpose(&split, &[0, 2, 1, 3])
}

fn heads_of(s: &Sketch, widths: &[usize]) -> Result<usize, RuleError> {
    usize::try_from(s.node.int("num_heads").unwrap_or(0))
        .ok()
        .filter(|&heads| heads > 0 && widths.iter().all(|width| width.is_multiple_of(heads)))
        .ok_or_else(|| RuleError::new("has no `num_heads` that fits"))
}

/// What queries, keys and values in heads attend to, as `[batch, length, width]`; the keys and values
/// with those of the past; and the scores with what is added to them.
fn attended(
    s: &Sketch,
    [q, k, v]: [&str; 3],
    added: Option<&str>,
    past: Option<(&str, &str)>,
    [batch, length, width]: [usize; 3],
) -> Vec<String> {
    let mut attributes = vec![("qk_matmul_output_mode", 2i64.into())];
    if let Some(scale) = s.node.float("scale").filter(|&scale| scale != 0.0) {
        attributes.push(("scale", scale.into()));
    }
    if s.flag("unidirectional") {
        attributes.push(("is_causal", 1i64.into()));
    }
    let (past_k, past_v) = past.unwrap_or(("", ""));
    let inputs = [q, k, v, added.unwrap_or_default(), past_k, past_v];
    // What nobody wants is not asked for: alone, the first result is a single step.
    let count = match (1..4).rev().find(|&index| s.wants(index)) {
        Some(3) => 4,
        Some(_) => 3,
        None if past.is_some() => 3,
        None => 1,
    };
    let mut made = s.several("Attention", &inputs, attributes, count);
    made[0] = s.reshape(
        &s.transpose(&made[0], &[0, 2, 1, 3]),
        &[batch, length, width],
    );
    made
}

/// Attention: the projections of one input, and what they attend to.
fn attention(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1, 2, 4])?;
    if s.optional(6).is_some() || s.flag("do_rotary") || s.flag("past_present_share_buffer") {
        return Err(RuleError::new(
            "keeps past keys in a buffer, or turns its inputs",
        ));
    }
    let (&[batch, length, _], &[_, width]) = (s.x()?, s.dims(1)?) else {
        return Err(RuleError::new("has inputs of other ranks than 3 and 2"));
    };
    let mut product = s.matmul(&s.input(0), &s.input(1));
    if s.optional(2).is_some() {
        product = s.plus(&product, &s.input(2));
    }
    let sizes: Vec<usize> = match s
        .node
        .ints("qkv_hidden_sizes")
        .filter(|sizes| !sizes.is_empty())
    {
        Some(sizes) => sizes.iter().map(|&size| size.max(0) as usize).collect(),
        None => vec![width / 3; 3],
    };
    let heads = heads_of(s, &sizes)?;
    let &[q, k, v] = sizes.as_slice() else {
        return Err(RuleError::new("has no three `qkv_hidden_sizes`"));
    };
    if q.saturating_add(k).saturating_add(v) != width {
        return Err(RuleError::new("has `qkv_hidden_sizes` of another sum"));
    }
    let parts = [(0, q), (q, k), (q + k, v)].map(|(start, count)| {
        let part = s.part(&product, 2, start, count);
        in_heads(s, &part, [batch, length, count], heads)
    });
    let parts = parts.each_ref().map(String::as_str);
    let (mut total, mut past) = (length, None);
    if s.optional(4).is_some() {
        total += s.dims(4)?.get(3).copied().unwrap_or(0);
        past = Some([0, 1].map(|side| s.at(&s.input(4), side, 0)));
    }
    let past = past.as_ref().map(|[k, v]| (k.as_str(), v.as_str()));
    let added = added(s, 3, 5, [batch, heads, length, total])?;
    let made = attended(s, parts, added.as_deref(), past, [batch, length, v]);
    s.give(0, &made[0]);
    if s.wants(1) {
        let present = [&made[1], &made[2]].map(|value| {
            let dims = [1, batch, heads, total, v / heads];
            s.reshape(value, &dims)
        });
        s.give(1, &s.concat(&[&present[0], &present[1]], 0));
    }
    Ok(())
}

/// MultiHeadAttention of separate queries, keys and values.
fn multi_head(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1, 2, 3, 6, 7])?;
    if s.optional(8).is_some() || s.optional(9).is_some() {
        return Err(RuleError::new("keeps past keys in a buffer"));
    }
    let &[batch, length, width] = s.x()? else {
        return Err(RuleError::new("has packed queries, keys and values"));
    };
    let heads = heads_of(s, &[width])?;
    let mut start = 0;
    let (mut parts, mut keys, mut width_of_values) = (Vec::with_capacity(3), 0, 0);
    for index in 0..3 {
        let (own, count) = match *s.dims(index)? {
            [_, own, count] if count % heads == 0 => (own, count),
            [_, given, own, size] if index > 0 && given == heads => (own, given * size),
            _ => {
                return Err(RuleError::new(
                    "has keys or values that are packed or don't fit",
                ));
            }
        };
        let mut value = s.input(index);
        if s.dims(index)?.len() == 3 {
            if s.optional(3).is_some() {
                value = s.plus(&value, &s.part(&s.input(3), 0, start, count));
            }
            value = in_heads(s, &value, [batch, own, count], heads);
        }
        parts.push(value);
        start += count;
        (keys, width_of_values) = (own, count);
    }
    let (new, mut past) = (keys, None);
    if s.optional(6).is_some() {
        keys += s.dims(6)?.get(2).copied().unwrap_or(0);
        past = Some((s.input(6), s.input(7)));
    }
    let past = past.as_ref().map(|(k, v)| (k.as_str(), v.as_str()));
    if s.flag("unidirectional") && new != length {
        return Err(RuleError::new(
            "lets as many queries as keys see one another in turn only",
        ));
    }
    let added = added(s, 4, 5, [batch, heads, length, keys])?;
    let parts = [&*parts[0], &*parts[1], &*parts[2]];
    let made = attended(
        s,
        parts,
        added.as_deref(),
        past,
        [batch, length, width_of_values],
    );
    for (index, value) in made.iter().enumerate() {
        s.give(index, value);
    }
    Ok(())
}

/// ExpandDims: Unsqueeze.
fn expand_dims(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0])?;
    let mut dims = s.x()?.to_vec();
    let axis = s.elements(1)?.scalar()? as i64;
    dims.insert(crate::graph::normalize_axis(axis, dims.len() + 1)?, 1);
    s.give(0, &s.reshape(&s.input(0), &dims));
    Ok(())
}

/// Inverse: the host's inverse `Y`, less `Y (A - A) Y`, which is nothing but has the gradient
/// `-Y dA Y`.
fn inverse(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0])?;
    match *s.x()? {
        [.., rows, columns] if rows == columns => {}
        _ => return Err(RuleError::new("needs square matrices")),
    }
    let found = s.float(&s.itself(s.node.clone(), 0));
    let matrix = s.input(0);
    let change = s.minus(&matrix, &s.frozen(&matrix));
    let product = s.matmul(&s.matmul(&found, &change), &found);
    s.give(0, &s.minus(&found, &product));
    Ok(())
}

/// CDist: distances between all pairs of rows.
fn distances(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1])?;
    let (&[rows, width], &[columns, _]) = (s.x()?, s.dims(1)?) else {
        return Err(RuleError::new("needs two matrices"));
    };
    let left = s.reshape(&s.input(0), &[rows, 1, width]);
    let right = s.reshape(&s.input(1), &[1, columns, width]);
    let apart = s.minus(&left, &right);
    let squares = s.sum(&s.times(&apart, &apart), &[2], false);
    s.give(
        0,
        &match s.node.text("metric").unwrap_or("sqeuclidean") {
            "euclidean" => {
                // The root of nothing has no gradient.
                let (zero, one) = (s.number(0.0), s.number(1.0));
                let none = s.op("Equal", &[&squares, &zero]);
                let roots = s.op("Sqrt", &[&s.op("Where", &[&none, &one, &squares])]);
                s.op("Where", &[&none, &zero, &roots])
            }
            "sqeuclidean" => squares,
            other => return Err(RuleError::new(format!("has the metric `{other}`"))),
        },
    );
    Ok(())
}
