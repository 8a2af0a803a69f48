//! DynamicQuantizeLSTM: an LSTM whose weights are 8-bit levels, and whose inputs and hidden states
//! become levels on the way into the products.

use std::ops::Range;

use super::standard::{Standard, transposed};
use crate::graph::params::RuleError;
use crate::host::array::Array;
use crate::host::call::{Call, Outcome};
use crate::host::recurrent::{self, Cell, Precision, Product, Shape, Weights, each_pair};
use crate::onnx::dtype_name;
use crate::onnx::proto::data_type::{FLOAT, INT8, UINT8};

/// DynamicQuantizeLSTM. The inputs of all steps and examples share one code, over the range of them all;
/// the hidden states get a new one at each step, over the range of those of all examples, as in ONNX
/// Runtime on one thread. (On more threads, it gives each thread's share of the batch its own.)
pub fn dynamic_quantize_lstm(call: &Call) -> Outcome {
    let x = call.input(0)?;
    if x.data_type != FLOAT {
        return Err(call.unsupported(format!("has an input of type {}", dtype_name(x.data_type))));
    }
    let cell = Cell::lstm(call);
    let shape = Shape::of(call, cell, 1)?;
    let code = Code::of(call, &used(call, &shape)?)?;
    let input = matrices(call, &shape, 1, shape.input, Some(&code))?;
    let recurrent = matrices(call, &shape, 2, shape.hidden, None)?;
    let weights: Vec<Weights> = input
        .into_iter()
        .zip(recurrent)
        .map(|(input, recurrent)| Weights {
            input: Box::new(input),
            recurrent: Box::new(recurrent),
        })
        .collect();
    recurrent::run(call, cell, Precision::Single, &shape, &weights)
}

/// The inputs up to the last step of the longest sequence.
fn used(call: &Call, shape: &Shape) -> Result<Vec<f64>, RuleError> {
    let values = call.input(0)?.floats()?;
    let longest = match call.optional(4) {
        Some(lengths) => lengths.ints()?.iter().copied().max().unwrap_or(0),
        None => return Ok(values.to_vec()),
    };
    let steps = usize::try_from(longest).unwrap_or(0).min(shape.steps);
    Ok(values[..steps * shape.batch * shape.input].to_vec())
}

/// A scale and a zero point for float32 numbers, as tensors.
struct Code {
    scale: Array,
    zero: Array,
}

impl Code {
    /// The code of the range of `values` and zero.
    fn of(call: &Call, values: &[f64]) -> Result<Self, RuleError> {
        Ok(Self::quantize(call, values)?.1)
    }

    /// The levels of `values` in the code of their range.
    fn quantize(call: &Call, values: &[f64]) -> Result<(Array, Self), RuleError> {
        let results = Standard::new("DynamicQuantizeLinear")
            .input(Array::float(FLOAT, vec![values.len()], values.to_vec()))
            .outputs(3)
            .all(call)?;
        let [levels, scale, zero] = <[Array; 3]>::try_from(results)
            .map_err(|_| RuleError::new("has a part without a result"))?;
        Ok((levels, Self { scale, zero }))
    }

    /// The levels of `values`.
    fn levels(&self, call: &Call, values: &[f64]) -> Result<Array, RuleError> {
        Standard::new("QuantizeLinear")
            .input(Array::float(FLOAT, vec![values.len()], values.to_vec()))
            .input(self.scale.clone())
            .input(self.zero.clone())
            .run(call)
    }
}

/// The weights of one product of one direction.
struct Matrix<'a> {
    call: &'a Call<'a>,
    /// `[4 · hidden, width]`, zero points taken off.
    levels: Vec<i16>,
    width: usize,
    /// One for each row.
    scales: Vec<f32>,
    /// How the vectors are quantized; `None` for the code of their own range.
    code: Option<&'a Code>,
}

impl Product for Matrix<'_> {
    fn multiply(
        &self,
        vectors: &[f64],
        rows: Range<usize>,
        out: &mut [f64],
    ) -> Result<(), RuleError> {
        let own;
        let (levels, code) = match self.code {
            Some(code) => (code.levels(self.call, vectors)?, code),
            None => {
                let (levels, code) = Code::quantize(self.call, vectors)?;
                own = code;
                (levels, &own)
            }
        };
        let scale = code.scale.scalar()? as f32;
        let zero = code.zero.scalar()? as i16;
        let levels: Vec<i16> = levels.ints()?.iter().map(|&v| v as i16 - zero).collect();
        each_pair(self.width, &levels, &self.levels, rows, out, |row, a, b| {
            f64::from(dot(a, b) as f32 * (scale * self.scales[row]))
        });
        Ok(())
    }
}

fn dot(a: &[i16], b: &[i16]) -> i32 {
    a.iter().zip(b).fold(0i32, |sum, (&a, &b)| {
        sum.wrapping_add(i32::from(a) * i32::from(b))
    })
}

/// The matrices of every direction at input `index`, `[directions, width, 4 · hidden]` there, with their
/// scales and zero points.
fn matrices<'a>(
    call: &'a Call<'a>,
    shape: &Shape,
    index: usize,
    width: usize,
    code: Option<&'a Code>,
) -> Result<Vec<Matrix<'a>>, RuleError> {
    recurrent::expect(call, index, &[shape.directions, width, shape.rows])?;
    let given = call.input(index)?;
    if !matches!(given.data_type, INT8 | UINT8) {
        return Err(RuleError::new(format!(
            "has weights of type {}, not 8-bit integers",
            dtype_name(given.data_type)
        )));
    }
    // Scales and zero points come in the order of the weights, after all other inputs.
    let (scale, zero) = (6 + 2 * index, 7 + 2 * index);
    let scales = by_row(shape, call.input(scale)?.floats()?, call.input(scale)?)?;
    let zeros = match call.optional(zero) {
        Some(zeros) if zeros.data_type != given.data_type => {
            return Err(RuleError::new(format!(
                "has a zero point of type {} for weights of type {}",
                dtype_name(zeros.data_type),
                dtype_name(given.data_type)
            )));
        }
        Some(zeros) => by_row(shape, zeros.ints()?, zeros)?,
        None => vec![0; shape.directions * shape.rows],
    };
    let turned = transposed(call, given.clone(), &[0, 2, 1])?;
    let turned = turned.ints()?;
    Ok((0..shape.directions)
        .map(|direction| {
            let rows = direction * shape.rows..(direction + 1) * shape.rows;
            let zeros = zeros[rows.clone()].iter();
            let levels = zeros.enumerate().flat_map(|(row, &zero)| {
                let row = &turned[(rows.start + row) * width..][..width];
                row.iter().map(move |&level| (level - zero) as i16)
            });
            Matrix {
                call,
                levels: levels.collect(),
                width,
                scales: scales[rows.clone()].iter().map(|&v| v as f32).collect(),
                code,
            }
        })
        .collect())
}

/// One value for each row of each direction, of `array`, which has one for each direction or for each
/// row.
fn by_row<T: Copy>(shape: &Shape, values: &[T], array: &Array) -> Result<Vec<T>, RuleError> {
    let repeats = match array.dims[..] {
        [directions] if directions == shape.directions => shape.rows,
        [directions, rows] if directions == shape.directions && rows == shape.rows => 1,
        _ => {
            return Err(RuleError::new(format!(
                "has scales or zero points of shape {:?}, needs {:?} or {:?}",
                array.dims,
                [shape.directions],
                [shape.directions, shape.rows]
            )));
        }
    };
    let repeated = values.iter().flat_map(|&v| std::iter::repeat_n(v, repeats));
    Ok(repeated.collect())
}
