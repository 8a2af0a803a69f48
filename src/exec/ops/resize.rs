//! Resize and Upsample, one axis after the other: nearest picks places, the other modes are products
//! with a matrix of weights. The host's operator tells both.

use std::sync::Arc;

use burn::backend::Dispatch;
use burn::backend::DispatchDevice;
use burn::backend::ops::FloatTensorOps;

use super::shape::select;
use crate::exec::ops::linear::multiplied;
use crate::exec::value::{Value, dims, from_host, reshape};
use crate::graph::Known;
use crate::graph::params::{RuleError, checked_elements, most_elements};
use crate::host::{Array, Call, Resampling, resampling};
use crate::onnx::proto::NodeProto;

type B = Dispatch;

/// The largest table of weights for an axis.
const MOST_WEIGHTS: usize = 1 << 26;

/// A Resize, axis by axis.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::exec) struct Resize {
    axes: Vec<Resampling>,
    /// What stands outside of the region that is resized.
    extrapolation: f32,
}

impl Resize {
    /// The work of `node`, whose result has the shape `output`.
    pub fn of(
        node: &NodeProto,
        opset: i64,
        inputs: &[Option<&Known>],
        output: &[usize],
    ) -> Result<Self, RuleError> {
        let Some(x) = inputs.first().copied().flatten() else {
            return Err(RuleError::new("has no input 0"));
        };
        if x.dims.contains(&0) {
            return Err(RuleError::new("resizes nothing, which devices don't"));
        }
        let regions = node.text("coordinate_transformation_mode") == Some("tf_crop_and_resize");
        let old = node.operator() == "Upsample" || opset < 11;
        let mut others: Vec<Option<Arc<Array>>> = vec![None];
        for (index, known) in inputs.iter().enumerate().skip(1) {
            others.push(match known {
                // Where nothing is cut out, nobody reads the region.
                Some(_) if index == 1 && !old && !regions => None,
                Some(known) if known.dims != [0] => {
                    let value = known.value.clone();
                    Some(value.ok_or_else(|| RuleError::open("resizes to a size"))?)
                }
                _ => None,
            });
        }
        let call = Call {
            node,
            opset,
            inputs: &others,
            most: most_elements(),
        };
        checked_elements(output)?;
        // A table of weights is dense.
        let longest = x.dims.iter().zip(output).map(|(a, b)| a.saturating_mul(*b));
        if longest.max().is_some_and(|weights| weights > MOST_WEIGHTS) {
            return Err(RuleError::new(
                "resizes an axis that is too long for devices",
            ));
        }
        let (axes, extrapolation) = resampling(&call, &x.dims, output)?;
        Ok(Self {
            axes,
            extrapolation: extrapolation as f32,
        })
    }

    pub fn run(&self, x: Value, device: &DispatchDevice) -> Value {
        let mut out = x;
        for (axis, resampling) in self.axes.iter().enumerate() {
            let input = dims(&out)[axis];
            let outside: Vec<bool> = match resampling {
                Resampling::Keep => continue,
                Resampling::Nearest(places) => {
                    let known: Vec<usize> = places.iter().map(|at| at.unwrap_or(0)).collect();
                    out = select(out, axis, &known, device);
                    places.iter().map(Option::is_none).collect()
                }
                Resampling::Weighted(table) => {
                    let mut weights = vec![0f32; input * table.len()];
                    for (target, taps) in table.iter().enumerate() {
                        for &(place, weight) in taps.iter().flatten() {
                            weights[place * table.len() + target] += weight as f32;
                        }
                    }
                    let matrix = from_host(&[input, table.len()], weights, device);
                    out = along_axis(out, axis, matrix, table.len());
                    table.iter().map(Option::is_none).collect()
                }
            };
            if outside.contains(&true) {
                let mut along = vec![1; dims(&out).len()];
                along[axis] = outside.len();
                let each = |inside: f32, beyond: f32| {
                    let values = outside.iter().map(|&out| if out { beyond } else { inside });
                    from_host(&along, values.collect(), device)
                };
                out = B::float_mul(out, each(1.0, 0.0));
                out = B::float_add(out, each(0.0, self.extrapolation));
            }
        }
        out
    }
}

/// Multiplies `axis` with `matrix` of shape `[axis, output]`.
fn along_axis(x: Value, axis: usize, matrix: Value, output: usize) -> Value {
    let mut shape = dims(&x);
    let last = shape.len() - 1;
    let mut order: Vec<usize> = (0..=last).collect();
    order.swap(axis, last);
    let turned = B::float_permute(x, &order);
    shape.swap(axis, last);
    let rows: usize = shape[..last].iter().product();
    let product = multiplied(reshape(turned, &[rows, shape[last]]), matrix);
    shape[last] = output;
    B::float_permute(reshape(product, &shape), &order)
}
