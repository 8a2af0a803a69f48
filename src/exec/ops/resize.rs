//! Resize and Upsample, one axis after the other.
//!
//! Nearest picks indices; linear and cubic are products with a small matrix of weights an axis.
//! Both are exact for every coordinate mode and differentiable on every device.

use burn::backend::Dispatch;
use burn::backend::DispatchDevice;
use burn::backend::ops::FloatTensorOps;

use super::shape::select;
use crate::exec::value::{Value, dims, from_host, reshape};
use crate::onnx::proto::NodeProto;

/// How one axis is resampled.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::exec) enum AxisResize {
    Keep,
    /// Source index of each target index.
    Nearest(Vec<usize>),
    /// Weights `[input, output]`, row-major.
    Weights {
        input: usize,
        output: usize,
        weights: Vec<f32>,
    },
}

/// A Resize, axis by axis.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::exec) struct Resize {
    pub axes: Vec<AxisResize>,
}

impl Resize {
    /// Reads mode, coordinate transformation and rounding; errors name what is not supported.
    pub fn of(
        node: &NodeProto,
        opset: i64,
        from: &[usize],
        to: &[usize],
        scales: &[f64],
    ) -> Result<Self, String> {
        let old = node.operator() == "Upsample" || opset < 11;
        let mode = node.text("mode").unwrap_or("nearest");
        let coordinates = match node.text("coordinate_transformation_mode") {
            _ if old => "asymmetric",
            Some(given) => given,
            None => "half_pixel",
        };
        let rounding = match node.text("nearest_mode") {
            _ if old => "floor",
            Some(given) => given,
            None => "round_prefer_floor",
        };
        let antialias = node.int("antialias").unwrap_or(0) == 1;
        let exclude = node.int("exclude_outside").unwrap_or(0) == 1;
        let cubic = f64::from(node.float("cubic_coeff_a").unwrap_or(-0.75));
        let axes = (0..from.len())
            .map(|axis| {
                let (input, output, scale) = (from[axis], to[axis], scales[axis]);
                if input == output && scale == 1.0 {
                    return Ok(AxisResize::Keep);
                }
                if antialias && scale < 1.0 {
                    return Err("uses antialiasing, which is not supported".to_owned());
                }
                let place = |target: usize| {
                    let x = target as f64;
                    let last = |size: usize| (size.max(2) - 1) as f64;
                    Ok(match coordinates {
                        "half_pixel" => (x + 0.5) / scale - 0.5,
                        "half_pixel_symmetric" => {
                            let adjustment = output as f64 / (scale * input as f64);
                            let center = input as f64 / 2.0;
                            center * (1.0 - adjustment) + (x + 0.5) / scale - 0.5
                        }
                        "pytorch_half_pixel" if output == 1 => 0.0,
                        "pytorch_half_pixel" => (x + 0.5) / scale - 0.5,
                        "align_corners" if output == 1 => 0.0,
                        // By whole sizes, as ONNX Runtime and PyTorch; the ONNX node tests take the
                        // length that the scale gives, which may be no whole number.
                        "align_corners" => x * last(input) / last(output),
                        "asymmetric" => x / scale,
                        other => {
                            return Err(format!(
                                "uses the coordinate mode `{other}`, which is not supported"
                            ));
                        }
                    })
                };
                let places: Vec<f64> = (0..output).map(place).collect::<Result<_, _>>()?;
                let clamp = |index: f64| index.clamp(0.0, (input - 1) as f64) as usize;
                match mode {
                    "nearest" => Ok(AxisResize::Nearest(
                        places
                            .iter()
                            .map(|&x| match rounding {
                                "floor" => clamp(x.floor()),
                                "ceil" => clamp(x.ceil()),
                                "round_prefer_ceil" => clamp((x + 0.5).floor()),
                                _ => clamp((x - 0.5).ceil()),
                            })
                            .collect(),
                    )),
                    "linear" | "cubic" => {
                        let mut weights = vec![0f32; input * output];
                        for (target, &x) in places.iter().enumerate() {
                            let taps = match mode {
                                "linear" => linear_taps(x),
                                _ => cubic_taps(x, cubic),
                            };
                            let outside = |index: f64| index < 0.0 || index >= input as f64;
                            let kept: f64 = taps
                                .iter()
                                .filter(|(index, _)| !(exclude && outside(*index)))
                                .map(|(_, weight)| weight)
                                .sum();
                            for (index, weight) in taps {
                                if exclude && outside(index) {
                                    continue;
                                }
                                let weight = if exclude { weight / kept } else { weight };
                                weights[clamp(index) * output + target] += weight as f32;
                            }
                        }
                        Ok(AxisResize::Weights {
                            input,
                            output,
                            weights,
                        })
                    }
                    other => Err(format!("uses the mode `{other}`, which is not supported")),
                }
            })
            .collect::<Result<_, String>>()?;
        Ok(Self { axes })
    }

    pub fn run(&self, x: Value, device: &DispatchDevice) -> Value {
        let mut out = x;
        for (axis, resize) in self.axes.iter().enumerate() {
            out = match resize {
                AxisResize::Keep => out,
                AxisResize::Nearest(sources) => select(out, axis, sources, device),
                AxisResize::Weights {
                    input,
                    output,
                    weights,
                } => {
                    let matrix = from_host(&[*input, *output], weights.clone(), device);
                    along_axis(out, axis, matrix, *output)
                }
            };
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
    let turned = Dispatch::float_permute(x, &order);
    shape.swap(axis, last);
    let rows: usize = shape[..last].iter().product();
    let product = Dispatch::float_matmul(reshape(turned, &[rows, shape[last]]), matrix);
    shape[last] = output;
    Dispatch::float_permute(reshape(product, &shape), &order)
}

fn linear_taps(x: f64) -> Vec<(f64, f64)> {
    let low = x.floor();
    let share = x - low;
    vec![(low, 1.0 - share), (low + 1.0, share)]
}

/// Keys' cubic convolution kernel with the parameter `a` (Keys, 1981, eq. 15).
fn cubic_taps(x: f64, a: f64) -> Vec<(f64, f64)> {
    let low = x.floor();
    let t = x - low;
    let near = |d: f64| ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0;
    let far = |d: f64| ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a;
    vec![
        (low - 1.0, far(1.0 + t)),
        (low, near(t)),
        (low + 1.0, near(1.0 - t)),
        (low + 2.0, far(2.0 - t)),
    ]
}
