//! Small arithmetic on the host: shapes, axes, sizes and scalar constants, which exporters
//! compute inside the graph around Reshape, Resize and Slice.
//!
//! Values are float64, which holds every size exactly (up to 2^53).

use super::infer::Known;
use super::params::{self, RuleError, normalize_axis};
use crate::onnx::proto::{NodeProto, data_type};

/// Longest value that is computed on the host.
pub(super) const LONGEST: usize = 4096;

fn is_float(kind: i32) -> bool {
    matches!(
        kind,
        data_type::FLOAT | data_type::DOUBLE | data_type::FLOAT16 | data_type::BFLOAT16
    )
}

/// Evaluates a node whose inputs are all known by value; `None` when it is none of the operators
/// that shape arithmetic consists of.
pub(super) fn evaluate(
    node: &NodeProto,
    opset: i64,
    inputs: &[Option<&Known>],
) -> Result<Option<Vec<Known>>, RuleError> {
    let operator = node.operator();
    let first = inputs.first().copied().flatten();
    if let ("Shape" | "Size", Some(input)) = (operator, first) {
        return Ok(Some(vec![shape_of(node, operator, input)]));
    }
    let Some(values) = inputs
        .iter()
        .map(|input| match input {
            Some(known) => known.value.as_deref().map(Some),
            None => Some(None),
        })
        .collect::<Option<Vec<Option<&[f64]>>>>()
    else {
        return Ok(None);
    };
    let Some(first) = first else {
        return Ok(None);
    };
    let x = values[0].unwrap_or_default();
    let like = |dims: Vec<usize>, value: Vec<f64>| Known {
        data_type: first.data_type,
        dims,
        value: Some(value),
    };
    let map = |f: &dyn Fn(f64) -> f64| like(first.dims.clone(), x.iter().map(|&v| f(v)).collect());
    let result = match operator {
        "Identity" => like(first.dims.clone(), x.to_vec()),
        "Neg" => map(&|v| -v),
        "Abs" => map(&f64::abs),
        "Floor" => map(&f64::floor),
        "Ceil" => map(&f64::ceil),
        "Round" => map(&f64::round_ties_even),
        "Sqrt" => map(&f64::sqrt),
        "Not" => map(&|v| f64::from(v == 0.0)),
        "Cast" => {
            let to = node.int("to").unwrap_or_default() as i32;
            let mut cast = map(&|v| if is_float(to) { v } else { v.trunc() });
            if to == data_type::BOOL {
                cast = map(&|v| f64::from(v != 0.0));
            }
            cast.data_type = to;
            cast
        }
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Mod" | "Equal" | "Greater" | "Less" | "And"
        | "Or" | "Max" | "Min"
            if inputs.len() == 2 =>
        {
            let (Some(second), Some(y)) = (inputs[1], values[1]) else {
                return Ok(None);
            };
            let whole = !is_float(first.data_type);
            let dims = params::broadcast(&first.dims, &second.dims)?;
            let f = |a: f64, b: f64| match operator {
                "Add" => a + b,
                "Sub" => a - b,
                "Mul" => a * b,
                "Div" if whole => (a / b).trunc(),
                "Div" => a / b,
                "Pow" => a.powf(b),
                "Mod" => a - b * (a / b).floor(),
                "Equal" => f64::from(a == b),
                "Greater" => f64::from(a > b),
                "Less" => f64::from(a < b),
                "And" => f64::from(a != 0.0 && b != 0.0),
                "Or" => f64::from(a != 0.0 || b != 0.0),
                "Max" => a.max(b),
                _ => a.min(b),
            };
            if operator == "Div" && whole && y.contains(&0.0) {
                return Err(RuleError::new("divides a size by zero"));
            }
            let count = dims.iter().product::<usize>();
            if count > LONGEST {
                return Ok(None);
            }
            let value = (0..count)
                .map(|flat| {
                    let a = x[broadcast_index(flat, &dims, &first.dims)];
                    f(a, y[broadcast_index(flat, &dims, &second.dims)])
                })
                .collect();
            let mut out = like(dims, value);
            if matches!(operator, "Equal" | "Greater" | "Less" | "And" | "Or") {
                out.data_type = data_type::BOOL;
            }
            out
        }
        "Where" => {
            let (Some(a), Some(b)) = (inputs[1], inputs.get(2).copied().flatten()) else {
                return Ok(None);
            };
            let dims = params::broadcast(&params::broadcast(&first.dims, &a.dims)?, &b.dims)?;
            let count = dims.iter().product::<usize>();
            if count > LONGEST {
                return Ok(None);
            }
            let value = (0..count)
                .map(|flat| {
                    let (chosen, known) = if x[broadcast_index(flat, &dims, &first.dims)] != 0.0 {
                        (values[1], a)
                    } else {
                        (values[2], b)
                    };
                    chosen.unwrap_or_default()[broadcast_index(flat, &dims, &known.dims)]
                })
                .collect();
            Known {
                data_type: a.data_type,
                dims,
                value: Some(value),
            }
        }
        "Concat" if first.dims.len() == 1 => {
            let all: Vec<f64> = values
                .iter()
                .flatten()
                .flat_map(|v| v.iter().copied())
                .collect();
            like(vec![all.len()], all)
        }
        "Gather" => {
            let (Some(indices), Some(y)) = (inputs[1], values[1]) else {
                return Ok(None);
            };
            if first.dims.len() != 1 {
                return Ok(None);
            }
            let mut value = Vec::with_capacity(y.len());
            for &index in y {
                let wrapped = if index < 0.0 {
                    index + x.len() as f64
                } else {
                    index
                };
                let picked = x.get(wrapped as usize).filter(|_| wrapped >= 0.0);
                value.push(*picked.ok_or_else(|| {
                    RuleError::new(format!("gathers index {index} of {} values", x.len()))
                })?);
            }
            like(indices.dims.clone(), value)
        }
        "Slice" if first.dims.len() == 1 => {
            let slicing = params::slicing(node, opset, inputs)?;
            let Some(&(start, step, count)) = slicing.ranges.first() else {
                return Ok(None);
            };
            let value = (0..count)
                .map(|k| x[(start as i64 + k as i64 * step) as usize])
                .collect();
            like(vec![count], value)
        }
        "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" if x.len() <= LONGEST => {
            let dims = params::reshaped(node, opset, inputs)?;
            like(dims, x.to_vec())
        }
        "ReduceProd" if first.dims.len() <= 1 => like(
            if node.int("keepdims").unwrap_or(1) == 1 {
                vec![1]
            } else {
                vec![]
            },
            vec![x.iter().product()],
        ),
        "ReduceSum" if first.dims.len() <= 1 => like(
            if node.int("keepdims").unwrap_or(1) == 1 {
                vec![1]
            } else {
                vec![]
            },
            vec![x.iter().sum()],
        ),
        "Expand" => {
            let shape = values[1].unwrap_or_default();
            let wanted: Vec<usize> = shape.iter().map(|&v| v.max(0.0) as usize).collect();
            let dims = params::broadcast(&first.dims, &wanted)?;
            let count = params::checked_elements(&dims)?;
            if count > LONGEST {
                return Ok(None);
            }
            let value = (0..count).map(|flat| x[broadcast_index(flat, &dims, &first.dims)]);
            like(dims.clone(), value.collect())
        }
        "ConstantOfShape" => {
            let dims: Vec<usize> = x.iter().map(|&v| v.max(0.0) as usize).collect();
            let count = params::checked_elements(&dims)?;
            if count > LONGEST {
                return Ok(None);
            }
            let fill = node.attribute("value").and_then(|a| a.t.clone());
            let (kind, fill) = match fill.map(crate::onnx::Tensor::decode) {
                Some(Ok(tensor)) => (
                    tensor.data_type,
                    match (tensor.floats(), tensor.ints()) {
                        (Some([v, ..]), _) => f64::from(*v),
                        (_, Some([v, ..])) => *v as f64,
                        _ => 0.0,
                    },
                ),
                _ => (data_type::FLOAT, 0.0),
            };
            Known {
                data_type: kind,
                dims,
                value: Some(vec![fill; count]),
            }
        }
        "Range" => {
            let (Some([limit]), Some([delta])) = (values[1], values.get(2).copied().flatten())
            else {
                return Ok(None);
            };
            let start = x.first().copied().unwrap_or_default();
            let count = ((limit - start) / delta).ceil().max(0.0);
            if !count.is_finite() || count > LONGEST as f64 {
                return Err(RuleError::new("makes a range too long to be a shape"));
            }
            let value: Vec<f64> = (0..count as usize)
                .map(|k| start + k as f64 * delta)
                .collect();
            like(vec![value.len()], value)
        }
        _ => return Ok(None),
    };
    Ok(Some(vec![result]))
}

fn shape_of(node: &NodeProto, operator: &str, input: &Known) -> Known {
    if operator == "Size" {
        return Known {
            data_type: data_type::INT64,
            dims: vec![],
            value: Some(vec![input.dims.iter().product::<usize>() as f64]),
        };
    }
    let rank = input.dims.len() as i64;
    let clamp = |axis: i64| if axis < 0 { axis + rank } else { axis }.clamp(0, rank) as usize;
    let start = clamp(node.int("start").unwrap_or(0));
    let end = clamp(node.int("end").unwrap_or(rank));
    let value: Vec<f64> = input.dims[start..end.max(start)]
        .iter()
        .map(|&size| size as f64)
        .collect();
    Known {
        data_type: data_type::INT64,
        dims: vec![value.len()],
        value: Some(value),
    }
}

/// Index into a tensor of shape `from` for flat index `flat` of the broadcast shape `to`.
fn broadcast_index(flat: usize, to: &[usize], from: &[usize]) -> usize {
    let (mut rest, mut index, mut stride) = (flat, 0, 1);
    for back in 0..to.len() {
        let coordinate = rest % to[to.len() - 1 - back];
        rest /= to[to.len() - 1 - back];
        if back < from.len() {
            let size = from[from.len() - 1 - back];
            if size > 1 {
                index += coordinate * stride;
            }
            stride *= size;
        }
    }
    index
}

/// Axes given as an attribute or, in newer operator sets, as an input.
pub(super) fn axes(
    node: &NodeProto,
    inputs: &[Option<&Known>],
    input_index: usize,
    rank: usize,
) -> Result<Option<Vec<usize>>, RuleError> {
    let given = match node.ints("axes") {
        Some(axes) => Some(axes.to_vec()),
        None => match inputs.get(input_index).copied().flatten() {
            Some(known) => Some(known.ints().ok_or_else(|| {
                RuleError::new("takes axes that depend on the data, which is not supported")
            })?),
            None => None,
        },
    };
    given
        .map(|axes| {
            axes.into_iter()
                .map(|axis| normalize_axis(axis, rank))
                .collect()
        })
        .transpose()
}
