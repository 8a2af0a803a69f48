//! Elements added at the border of a tensor, cut off there, or set to zero on one side of a diagonal.

use super::arrange::optional_int;
use super::pick::{OUTSIDE, room, sizes, take_or, walk};
use crate::graph::params::{self, RuleError, normalize_axis};
use crate::host::array::{Array, Data};
use crate::host::call::{Call, Outcome, strides};
use crate::onnx::dtype_name;

/// What a Pad puts beside the elements.
#[derive(Clone, Copy, PartialEq)]
enum Border {
    Constant,
    Reflect,
    Edge,
    Wrap,
}

impl Border {
    /// The element of an axis of `size` elements, not none, that stands at `place`, counted from
    /// its first; like numpy's `pad`, reflecting or wrapping as often as it takes.
    fn source(self, place: i128, size: i128) -> Option<i128> {
        let inside = (0..size).contains(&place);
        match self {
            Self::Constant => inside.then_some(place),
            Self::Edge => Some(place.clamp(0, size - 1)),
            Self::Wrap => Some(place.rem_euclid(size)),
            Self::Reflect => {
                let period = (2 * (size - 1)).max(1);
                let within = place.rem_euclid(period);
                Some(within.min(period - within).min(size - 1))
            }
        }
    }

    /// Where the elements of an axis come from, `before` and `after` added to its `size`.
    fn places(
        self,
        call: &Call,
        size: usize,
        (before, after): (i64, i64),
    ) -> Result<Vec<Option<usize>>, RuleError> {
        let (before, after) = (i128::from(before), i128::from(after));
        let whole = size as i128;
        let count = usize::try_from(whole + before + after).map_err(|_| {
            RuleError::new(format!(
                "pads an axis of size {size} by {before} and {after}"
            ))
        })?;
        room(call, &[count])?;
        // Negative pads cut before the others repeat what is left.
        let (start, kept) = if self == Self::Constant {
            (0, whole)
        } else {
            ((-before).max(0), whole + before.min(0) + after.min(0))
        };
        if kept <= 0 && count > 0 && self != Self::Constant {
            return Err(RuleError::new("pads with elements of an empty axis"));
        }
        Ok((0..count as i128)
            .map(|place| self.source(place - before - start, kept))
            .map(|place| place.and_then(|place| usize::try_from(place + start).ok()))
            .collect())
    }
}

/// The elements of `input` that stand at the `places` of each axis, `fill` where one has none.
fn placed(
    call: &Call,
    input: &Array,
    fill: Option<&Array>,
    places: &[Vec<Option<usize>>],
) -> Outcome {
    let dims: Vec<_> = places.iter().map(Vec::len).collect();
    room(call, &dims)?;
    let offsets: Vec<Vec<usize>> = places
        .iter()
        .zip(strides(&input.dims))
        .map(|(places, stride)| {
            let offset = |place: &Option<usize>| place.map_or(OUTSIDE, |place| place * stride);
            places.iter().map(offset).collect()
        })
        .collect();
    Ok(vec![take_or(call, input, fill, dims, &walk(&offsets))?])
}

/// Pad.
pub(super) fn pad(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let border = match call.node.text("mode") {
        None | Some("constant") => Border::Constant,
        Some("reflect") => Border::Reflect,
        Some("edge") => Border::Edge,
        Some("wrap") => Border::Wrap,
        Some(mode) => return Err(call.unsupported(format!("has the mode {mode}"))),
    };
    let fill = if border == Border::Constant {
        fill_of(call, input)?
    } else {
        None
    };
    let pads = call.params(|inputs| params::pads(call.node, inputs))?;
    let places = input
        .dims
        .iter()
        .zip(pads)
        .map(|(&size, pads)| border.places(call, size, pads))
        .collect::<Result<Vec<_>, _>>()?;
    placed(call, input, fill.as_ref(), &places)
}

/// The value that a constant Pad adds, where it is given.
fn fill_of(call: &Call, input: &Array) -> Result<Option<Array>, RuleError> {
    if call.opset < 11 {
        let value = f64::from(call.node.float("value").unwrap_or_default());
        return Ok(match &input.data {
            Data::Float(_) => Some(input.with(vec![], Data::Float(vec![value]))),
            Data::Int(_) => Some(input.with(vec![], Data::Int(vec![value as i64]))),
            Data::Text(_) => None,
        });
    }
    let Some(value) = call.optional(2).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    if value.data_type != input.data_type || value.len() != 1 {
        return Err(RuleError::new(format!(
            "pads {} with {} values of type {}",
            dtype_name(input.data_type),
            value.len(),
            dtype_name(value.data_type)
        )));
    }
    Ok(Some(value.clone()))
}

/// CenterCropPad.
pub(super) fn center_crop_pad(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let rank = input.dims.len();
    let wanted = sizes(call.input(1)?)?;
    let axes: Vec<usize> = match call.node.ints("axes") {
        Some(axes) => axes
            .iter()
            .map(|&axis| normalize_axis(axis, rank))
            .collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    if wanted.len() != axes.len() {
        return Err(RuleError::new(format!(
            "has {} sizes for {} axes",
            wanted.len(),
            axes.len()
        )));
    }
    let mut dims = input.dims.clone();
    for (&axis, &size) in axes.iter().zip(&wanted) {
        dims[axis] = size;
    }
    room(call, &dims)?;
    let places: Vec<Vec<Option<usize>>> = input
        .dims
        .iter()
        .zip(&dims)
        .map(|(&size, &count)| {
            let (cut, added) = (
                size.saturating_sub(count) / 2,
                count.saturating_sub(size) / 2,
            );
            (0..count)
                .map(|place| place.checked_sub(added).map(|place| place + cut))
                .map(|place| place.filter(|&place| place < size))
                .collect()
        })
        .collect();
    placed(call, input, None, &places)
}

/// Trilu.
pub(super) fn trilu(call: &Call) -> Outcome {
    let input = call.input(0)?;
    let &[.., rows, columns] = input.dims.as_slice() else {
        return Err(RuleError::new("needs an input of rank 2 or more"));
    };
    room(call, &input.dims)?;
    let diagonal = optional_int(call, 1, "k")?;
    let upper = call.node.int("upper").unwrap_or(1) != 0;
    let kept = |row: usize, column: usize| {
        let right = column as i64 - row as i64;
        if upper {
            right >= diagonal
        } else {
            right <= diagonal
        }
    };
    let mut indices: Vec<usize> = (0..input.len()).collect();
    for matrix in indices.chunks_mut((rows * columns).max(1)) {
        for (row, line) in matrix.chunks_mut(columns.max(1)).enumerate() {
            for (column, index) in line.iter_mut().enumerate() {
                if !kept(row, column) {
                    *index = OUTSIDE;
                }
            }
        }
    }
    Ok(vec![take_or(
        call,
        input,
        None,
        input.dims.clone(),
        &indices,
    )?])
}
