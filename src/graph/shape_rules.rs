//! Shapes of a node's results, one rule an operator family.

use super::Family;
use super::equation::Equation;
use super::infer::softmax_axis;
use super::known::Known;
use super::params::{self, RuleError, broadcast, normalize_axis};
use crate::onnx::proto::{NodeProto, data_type};

/// Shapes of the results of `node`.
pub(super) fn output_shapes(
    node: &NodeProto,
    family: Family,
    opset: i64,
    inputs: &[Option<&Known>],
) -> Result<Vec<Vec<usize>>, RuleError> {
    let dims = |index: usize| -> Result<&Vec<usize>, RuleError> {
        inputs
            .get(index)
            .copied()
            .flatten()
            .map(|known| &known.dims)
            .ok_or_else(|| RuleError::new(format!("has no input {index}")))
    };
    let x = dims(0)?;
    let spatial = |least: usize| {
        x.get(2..)
            .filter(|spatial| spatial.len() >= least)
            .ok_or_else(|| RuleError::new(format!("has an input of rank {}", x.len())))
    };
    let out = match family {
        Family::Conv => {
            let (w, spatial) = (dims(1)?, spatial(1)?);
            let group = group(node)?;
            if w.len() != x.len() || x[1] != w[1] * group || w[0] % group != 0 {
                return Err(RuleError::new(format!(
                    "has a kernel {w:?} in {group} groups that doesn't fit its input {x:?}"
                )));
            }
            let window = params::window(node, spatial, Some(&w[2..]))?;
            [&[x[0], w[0]], &*window.output].concat()
        }
        Family::ConvTranspose => {
            let (w, spatial) = (dims(1)?, spatial(1)?);
            let group = group(node)?;
            if w.len() != x.len() || x[1] != w[0] || w[0] % group != 0 {
                return Err(RuleError::new(format!(
                    "has a kernel {w:?} in {group} groups that doesn't fit its input {x:?}"
                )));
            }
            let (window, _) = params::transposed_window(node, spatial, &w[2..])?;
            [&[x[0], w[1] * group], &*window.output].concat()
        }
        Family::Gemm => {
            let (a, b) = (x, dims(1)?);
            if a.len() != 2 || b.len() != 2 {
                return Err(RuleError::new("needs two matrices"));
            }
            let turn = |name: &str| node.int(name).unwrap_or(0) == 1;
            let (m, k) = if turn("transA") {
                (a[1], a[0])
            } else {
                (a[0], a[1])
            };
            let (l, n) = if turn("transB") {
                (b[1], b[0])
            } else {
                (b[0], b[1])
            };
            if k != l {
                return Err(RuleError::new(format!("can't multiply {a:?} with {b:?}")));
            }
            vec![m, n]
        }
        Family::MatMul => {
            let (a, b) = (x, dims(1)?);
            if a.is_empty() || b.is_empty() {
                return Err(RuleError::new("can't multiply scalars"));
            }
            let left = if a.len() == 1 {
                [&[1], &**a].concat()
            } else {
                a.clone()
            };
            let right = if b.len() == 1 {
                [&**b, &[1]].concat()
            } else {
                b.clone()
            };
            let (m, k) = (left[left.len() - 2], left[left.len() - 1]);
            let (l, n) = (right[right.len() - 2], right[right.len() - 1]);
            if k != l {
                return Err(RuleError::new(format!("can't multiply {a:?} with {b:?}")));
            }
            let mut out = broadcast(&left[..left.len() - 2], &right[..right.len() - 2])?;
            out.extend((a.len() > 1).then_some(m));
            out.extend((b.len() > 1).then_some(n));
            out
        }
        Family::BatchNormalization => {
            for index in 1..5 {
                if x.len() < 2 || dims(index)? != &[x[1]] {
                    return Err(RuleError::new(format!(
                        "has an input {index} that doesn't fit"
                    )));
                }
            }
            let mut outputs = vec![x.clone()];
            outputs.resize(node.output.len().max(1), vec![x[1]]);
            return Ok(outputs);
        }
        Family::Pool | Family::LpPool => {
            let window = params::window(node, spatial(1)?, None)?;
            let out = [&x[..2], &*window.output].concat();
            return Ok(vec![out; node.output.len().max(1)]);
        }
        Family::GlobalPool | Family::GlobalLpPool => {
            let ones = vec![1; spatial(1)?.len()];
            [&x[..2], &*ones].concat()
        }
        Family::Unary
        | Family::Clip
        | Family::Cast
        | Family::LpNormalization
        | Family::Lrn
        | Family::Cumulative
        | Family::Scatter => x.clone(),
        Family::LayerNormalization => {
            let axis = normalize_axis(node.int("axis").unwrap_or(-1), x.len())?;
            let mut kept = x.clone();
            kept[axis..].fill(1);
            let mut outputs = vec![x.clone()];
            outputs.resize(node.output.len().max(1), kept);
            return Ok(outputs);
        }
        Family::GroupNormalization => {
            spatial(1)?;
            x.clone()
        }
        Family::Softmax => {
            normalize_axis(softmax_axis(node, opset), x.len())?;
            x.clone()
        }
        Family::Dropout => return Ok(vec![x.clone(); node.output.len().max(1)]),
        Family::Binary | Family::PRelu | Family::Gated => broadcast(x, dims(1)?)?,
        Family::Variadic => {
            let mut out = x.clone();
            for index in 1..inputs.len() {
                out = broadcast(&out, dims(index)?)?;
            }
            out
        }
        Family::Reduce => {
            let reduction = params::reduction(node, inputs)?;
            (0..x.len())
                .filter_map(|axis| match reduction.axes.contains(&axis) {
                    false => Some(x[axis]),
                    true if reduction.keep_dims => Some(1),
                    true => None,
                })
                .collect()
        }
        Family::Concat => {
            let axis = normalize_axis(node.int("axis").unwrap_or(1), x.len())?;
            let mut out = x.clone();
            for index in 1..inputs.len() {
                let other = dims(index)?;
                let fits = other.len() == out.len()
                    && (0..out.len()).all(|a| a == axis || other[a] == out[a]);
                if !fits {
                    return Err(RuleError::new(format!("can't join {out:?} and {other:?}")));
                }
                out[axis] += other[axis];
            }
            out
        }
        Family::Split => {
            let (axis, parts) = params::splits(node, inputs)?;
            return Ok(parts
                .into_iter()
                .map(|size| {
                    let mut part = x.clone();
                    part[axis] = size;
                    part
                })
                .collect());
        }
        Family::Slice => {
            let slicing = params::slicing(node, opset, inputs)?;
            slicing.ranges.iter().map(|&(_, _, count)| count).collect()
        }
        Family::Reshape | Family::Flatten | Family::Squeeze | Family::Unsqueeze => {
            params::reshaped(node, opset, inputs)?
        }
        Family::Transpose => {
            let order = params::permutation(node, x.len())?;
            order.iter().map(|&axis| x[axis]).collect()
        }
        Family::Expand => {
            let wanted = inputs
                .get(1)
                .copied()
                .flatten()
                .and_then(Known::ints)
                .ok_or_else(|| RuleError::open("expands to a shape"))?;
            let wanted: Vec<usize> = wanted.iter().map(|&size| size.max(0) as usize).collect();
            broadcast(x, &wanted)?
        }
        Family::Pad => {
            let pads = params::pads(node, inputs)?;
            x.iter()
                .zip(pads)
                .map(|(&size, (before, after))| {
                    (size as i64)
                        .checked_add(before)
                        .and_then(|size| size.checked_add(after))
                        .and_then(|size| usize::try_from(size).ok())
                        .ok_or_else(|| RuleError::new("pads an axis below zero"))
                })
                .collect::<Result<_, _>>()?
        }
        Family::Resize => {
            let (out, _) = params::resized(node, opset, inputs)?;
            if x.contains(&0) || out.contains(&0) {
                return Err(RuleError::new(format!("resizes {x:?} to {out:?}")));
            }
            out
        }
        Family::Where => broadcast(&broadcast(x, dims(1)?)?, dims(2)?)?,
        Family::Pick => match node.operator() {
            "GatherElements" => dims(1)?.clone(),
            "GatherND" => {
                let (indices, batch) = (dims(1)?, node.int("batch_dims").unwrap_or(0));
                let batch = usize::try_from(batch).unwrap_or(usize::MAX);
                let depth = indices.last().copied().unwrap_or(0);
                match batch.checked_add(depth) {
                    Some(read) if read <= x.len() && batch < indices.len() => {
                        [&indices[..indices.len() - 1], &x[read..]].concat()
                    }
                    _ => return Err(RuleError::new(format!("gathers {indices:?} of {x:?}"))),
                }
            }
            "Tile" => {
                let repeats = inputs
                    .get(1)
                    .copied()
                    .flatten()
                    .and_then(Known::ints)
                    .ok_or_else(|| RuleError::open("repeats by numbers"))?;
                if repeats.len() != x.len() {
                    return Err(RuleError::new(format!(
                        "has {} repeats for {} axes",
                        repeats.len(),
                        x.len()
                    )));
                }
                x.iter()
                    .zip(repeats)
                    .map(|(&size, times)| size.saturating_mul(times.max(0) as usize))
                    .collect()
            }
            "Trilu" | "ReverseSequence" => x.clone(),
            _ => return Err(RuleError::open("makes a shape")),
        },
        Family::TopK => {
            let axis = normalize_axis(node.int("axis").unwrap_or(-1), x.len())?;
            let count = match node.int("k") {
                Some(count) => count,
                None => inputs
                    .get(1)
                    .copied()
                    .flatten()
                    .and_then(Known::ints)
                    .and_then(|counts| counts.first().copied())
                    .ok_or_else(|| RuleError::open("takes a number of elements"))?,
            };
            let mut out = x.clone();
            out[axis] = usize::try_from(count)
                .ok()
                .filter(|&count| count <= x[axis])
                .ok_or_else(|| RuleError::new(format!("takes {count} of {} elements", x[axis])))?;
            return Ok(vec![out.clone(), out]);
        }
        Family::Einsum => {
            let shapes = (0..inputs.len()).map(dims).collect::<Result<Vec<_>, _>>()?;
            Equation::of(node, &shapes)?.output_dims()
        }
        Family::Recurrent => return recurrent_shapes(node, x, dims(2)?),
        Family::Attention => return attention_shapes(node, inputs),
        Family::RotaryEmbedding => x.clone(),
        Family::Gather => {
            let axis = normalize_axis(node.int("axis").unwrap_or(0), x.len())?;
            [&x[..axis], &**dims(1)?, &x[axis + 1..]].concat()
        }
        Family::SpaceDepth => {
            let block = usize::try_from(node.int("blocksize").unwrap_or(0))
                .ok()
                .filter(|&block| block < 1 << 20)
                .ok_or_else(|| RuleError::new("has a block size out of reason"))?;
            let [n, c, h, w] = x[..] else {
                return Err(RuleError::new("needs an input of rank 4"));
            };
            let square = block * block;
            if node.operator() == "DepthToSpace" {
                if square == 0 || c % square != 0 {
                    return Err(RuleError::new("has a block size that doesn't divide"));
                }
                vec![n, c / square, h * block, w * block]
            } else {
                if block == 0 || h % block != 0 || w % block != 0 {
                    return Err(RuleError::new("has a block size that doesn't divide"));
                }
                vec![n, c * square, h / block, w / block]
            }
        }
        Family::Host => return host_shapes(node, inputs),
        Family::Control => return Err(RuleError::open("chooses what runs")),
    };
    Ok(vec![out])
}

fn group(node: &NodeProto) -> Result<usize, RuleError> {
    usize::try_from(node.int("group").unwrap_or(1))
        .ok()
        .filter(|&group| group > 0)
        .ok_or_else(|| RuleError::new("has no groups"))
}

/// Shapes of Y, Y_h and Y_c of RNN, GRU and LSTM; `recurrence` is the shape of their third input.
fn recurrent_shapes(
    node: &NodeProto,
    x: &[usize],
    recurrence: &[usize],
) -> Result<Vec<Vec<usize>>, RuleError> {
    let ([a, b, _], [directions, _, hidden]) = (x, recurrence) else {
        return Err(RuleError::new("needs inputs of rank 3"));
    };
    let batch_first = node.int("layout").unwrap_or(0) == 1;
    let (all, last) = match batch_first {
        true => (
            vec![*a, *b, *directions, *hidden],
            vec![*a, *directions, *hidden],
        ),
        false => (
            vec![*a, *directions, *b, *hidden],
            vec![*directions, *b, *hidden],
        ),
    };
    Ok(vec![all, last.clone(), last])
}

/// Shapes of the results of Attention where nothing past is fed; with it they are left to the run.
fn attention_shapes(
    node: &NodeProto,
    inputs: &[Option<&Known>],
) -> Result<Vec<Vec<usize>>, RuleError> {
    let dims = |index: usize| {
        inputs
            .get(index)
            .copied()
            .flatten()
            .map(|known| &*known.dims)
    };
    let (Some(q), Some(v)) = (dims(0), dims(2)) else {
        return Err(RuleError::new("needs three inputs"));
    };
    if node.output.len() > 1 || dims(4).is_some() {
        return Err(RuleError::open("keeps what is past"));
    }
    match (q, v) {
        ([b, heads, rows, _], [_, _, _, width]) => Ok(vec![vec![*b, *heads, *rows, *width]]),
        ([b, rows, _], [_, _, width]) => {
            let heads = |name: &str| node.int(name).and_then(|n| usize::try_from(n).ok());
            match (heads("q_num_heads"), heads("kv_num_heads")) {
                (Some(q), Some(kv)) if q > 0 && kv > 0 && width % kv == 0 => {
                    let width = (width / kv).checked_mul(q);
                    let width = width.ok_or_else(|| RuleError::new("has too many heads"))?;
                    Ok(vec![vec![*b, *rows, width]])
                }
                _ => Err(RuleError::new("has no numbers of heads that fit")),
            }
        }
        _ => Err(RuleError::new("needs queries and values of rank 3 or 4")),
    }
}

/// Shapes of operators that run on the host. Those that depend on more than the shapes of the inputs
/// are left to the run.
fn host_shapes(node: &NodeProto, inputs: &[Option<&Known>]) -> Result<Vec<Vec<usize>>, RuleError> {
    let all: Vec<&[usize]> = inputs.iter().flatten().map(|known| &*known.dims).collect();
    let Some(&first) = all.first() else {
        return Err(RuleError::open("makes a shape"));
    };
    let known = |index: usize| {
        let known = inputs.get(index).copied().flatten();
        known.ok_or_else(|| RuleError::new(format!("has no input {index}")))
    };
    let dims = |index: usize| known(index).map(|known| known.dims.as_slice());
    let ints = |index: usize| -> Result<Vec<usize>, RuleError> {
        let values = known(index)?.ints();
        let values = values.ok_or_else(|| RuleError::open("makes a shape"))?;
        Ok(values
            .into_iter()
            .map(|size| size.max(0) as usize)
            .collect())
    };
    Ok(vec![match node.operator() {
        "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" | "Xor"
        | "BitwiseAnd" | "BitwiseOr" | "BitwiseXor" | "BitShift" | "Mod" => {
            let mut out = Vec::new();
            for dims in all.iter().take(2) {
                out = broadcast(&out, dims)?;
            }
            out
        }
        "Not" | "BitwiseNot" | "IsNaN" | "IsInf" | "CumProd" | "Hardmax" | "QuantizeLinear"
        | "DequantizeLinear" | "CastLike" | "EyeLike" | "BitCast" => first.to_vec(),
        "ArgMax" | "ArgMin" => {
            let axis = normalize_axis(node.int("axis").unwrap_or(0), first.len())?;
            let mut out = first.to_vec();
            match node.int("keepdims").unwrap_or(1) {
                0 => drop(out.remove(axis)),
                _ => out[axis] = 1,
            }
            out
        }
        "ConstantOfShape" => {
            let wanted = inputs[0].and_then(Known::ints);
            let wanted = wanted.ok_or_else(|| RuleError::open("makes a shape"))?;
            wanted
                .into_iter()
                .map(|size| size.max(0) as usize)
                .collect()
        }
        "DynamicQuantizeLinear" => return Ok(vec![first.to_vec(), vec![], vec![]]),
        "TensorScatter" => first.to_vec(),
        "Det" => first[..first.len().saturating_sub(2)].to_vec(),
        "NegativeLogLikelihoodLoss" | "SoftmaxCrossEntropyLoss" => {
            let loss = match node.text("reduction") {
                Some("none") => dims(1)?.to_vec(),
                _ => vec![],
            };
            return Ok(vec![loss, first.to_vec()]);
        }
        "AffineGrid" => {
            let sizes = ints(1)?;
            let (Some((&batch, rest)), Some(axes)) =
                (sizes.split_first(), sizes.len().checked_sub(2))
            else {
                return Err(RuleError::new("has no sizes"));
            };
            [&[batch], &rest[1.min(rest.len())..], &[axes]].concat()
        }
        "GridSample" => match (first, dims(1)?) {
            ([batch, channels, ..], [_, points @ .., _]) => [&[*batch, *channels], points].concat(),
            (x, grid) => {
                let text = format!("samples {x:?} at points of shape {grid:?}");
                return Err(RuleError::new(text));
            }
        },
        "RoiAlign" => {
            let size = |name: &str| node.int(name).unwrap_or(1).max(0) as usize;
            let number = dims(1)?.first().copied().unwrap_or(0);
            let channels = first.get(1).copied().unwrap_or(0);
            vec![
                number,
                channels,
                size("output_height"),
                size("output_width"),
            ]
        }
        "MaxRoiPool" => {
            let number = dims(1)?.first().copied().unwrap_or(0);
            let channels = first.get(1).copied().unwrap_or(0);
            let pooled = node.ints("pooled_shape").unwrap_or_default().iter();
            let pooled = pooled.map(|&size| size.max(0) as usize);
            [number, channels].into_iter().chain(pooled).collect()
        }
        "DeformConv" => {
            let kernel = dims(1)?;
            if first.len() < 3 || kernel.len() != first.len() {
                let text = format!("has a kernel {kernel:?} for an input {first:?}");
                return Err(RuleError::new(text));
            }
            let window = params::window(node, &first[2..], Some(&kernel[2..]))?;
            [&[first[0], kernel[0]], &*window.output].concat()
        }
        "Col2Im" => {
            let (image, block) = (ints(1)?, ints(2)?);
            let taps = block
                .iter()
                .try_fold(1usize, |taps, &size| taps.checked_mul(size));
            match (first, taps) {
                (&[batch, rows, _], Some(taps @ 1..)) if rows % taps == 0 => {
                    [&[batch, rows / taps], &*image].concat()
                }
                _ => return Err(RuleError::open("makes a shape")),
            }
        }
        "CausalConvWithState" => match dims(1)? {
            &[_, _, taps] if first.len() == 3 => {
                let state = vec![first[0], first[1], taps.saturating_sub(1)];
                return Ok(vec![first.to_vec(), state]);
            }
            kernel => {
                let text = format!("has a kernel {kernel:?} for an input {first:?}");
                return Err(RuleError::new(text));
            }
        },
        _ => return Err(RuleError::open("makes a shape")),
    }])
}

/// Data types of a node's results, given those of its inputs.
pub(super) fn output_kinds(node: &NodeProto, inputs: &[Option<&Known>]) -> Vec<i32> {
    let kind = |index: usize| {
        inputs
            .get(index)
            .copied()
            .flatten()
            .map_or(data_type::FLOAT, |known| known.data_type)
    };
    let first = match node.operator() {
        "Cast" => node.int("to").map_or(data_type::FLOAT, |to| to as i32),
        "CastLike" | "Where" => kind(1),
        "Equal" | "Greater" | "Less" | "GreaterOrEqual" | "LessOrEqual" | "And" | "Or" | "Xor"
        | "Not" | "IsNaN" | "IsInf" => data_type::BOOL,
        "Shape" | "Size" | "ArgMax" | "ArgMin" | "NonZero" => data_type::INT64,
        "ConstantOfShape" => node
            .attribute("value")
            .and_then(|value| value.t.as_ref()?.data_type)
            .unwrap_or(data_type::FLOAT),
        "EyeLike" => node.int("dtype").map_or(kind(0), |to| to as i32),
        "BitCast" => node.int("to").map_or(data_type::FLOAT, |to| to as i32),
        "DequantizeLinear" => node
            .int("output_dtype")
            .filter(|&to| to != 0)
            .map_or(kind(1), |to| to as i32),
        "QuantizeLinear" => match (inputs.get(2).copied().flatten(), node.int("output_dtype")) {
            (Some(zero), _) => zero.data_type,
            (None, Some(to)) if to != 0 => to as i32,
            _ => data_type::UINT8,
        },
        "DynamicQuantizeLinear" => {
            return vec![data_type::UINT8, data_type::FLOAT, data_type::UINT8];
        }
        _ => kind(0),
    };
    let mut kinds = vec![first; node.output.len().max(1)];
    let second = match node.operator() {
        "MaxPool" | "TopK" => Some(data_type::INT64),
        "Dropout" => Some(data_type::BOOL),
        _ => None,
    };
    if let (Some(kind), Some(place)) = (second, kinds.get_mut(1)) {
        *place = kind;
    }
    kinds
}
