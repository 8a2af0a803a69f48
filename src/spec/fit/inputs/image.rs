//! Image files as inputs.

use super::{Fit, example_shape, refuse_others};
use crate::spec::dataset::{ArrayInfo, Media};
use crate::spec::job::{Layout, Preprocess};
use crate::spec::model::TensorInfo;
use crate::spec::picture::{Extent, ImagePreparation, MOST_PIXELS};

/// Image files have the size and the colours that the model takes, or are given them.
pub(super) fn fit_image(
    input: &TensorInfo,
    array: &ArrayInfo,
    preprocess: &Preprocess,
) -> Result<Fit, String> {
    refuse_others(preprocess, array, Media::Image)?;
    let wanted = example_shape(input);
    let fixed = |place: usize| match wanted[place].fixed() {
        None => Ok(None),
        Some(size) => match u32::try_from(size) {
            Ok(size @ 1..) => Ok(Some(size)),
            _ => Err(format!(
                "the model's input `{}` has an axis of size {size}",
                input.name
            )),
        },
    };
    let stored = |place: usize| {
        let size = array.shape.get(place).copied().filter(|size| *size > 0);
        size.and_then(|size| u32::try_from(size).ok())
    };
    let of_colours = |place: usize| matches!(wanted[place].fixed(), None | Some(1 | 3 | 4));
    let last = preprocess.layout == Some(Layout::Nhwc);
    // Where height, width and channels are among the model's axes.
    let places = match wanted.len() {
        3 if last || (!of_colours(0) && of_colours(2)) => [Some(0), Some(1), Some(2)],
        3 => [Some(1), Some(2), Some(0)],
        2 => [Some(0), Some(1), None],
        1 => [None; 3],
        rank => {
            return Err(format!(
                "the model's input `{}` has examples of {rank} axes; images are put into 3 (channels, height, width in \
                 the order of preprocess.layout), 2 (grey) or 1 (a flat row of grey)",
                input.name
            ));
        }
    };
    let channels = match places[2] {
        None => 1,
        Some(place) => fixed(place)?.or(stored(2)).unwrap_or(3),
    };
    if !matches!(channels, 1 | 3 | 4) {
        return Err(format!(
            "the model's input `{}` has {channels} channels; images have 1, 3 or 4 (say preprocess.layout if its \
             channels are elsewhere)",
            input.name
        ));
    }
    let asked = match (preprocess.crop, preprocess.resize) {
        (Some(crop), _) => Some(crop.sides()),
        (None, Some(Extent::Sides(sides))) => Some(sides),
        (None, _) => None,
    };
    let shorter = match preprocess.resize {
        Some(Extent::Side(side)) => Some(side),
        _ => None,
    };
    let mut crop = [0; 2];
    for axis in 0..2 {
        let taken = places[axis].map_or(Ok(None), fixed)?;
        let given = asked.map(|asked| asked[axis]);
        if let (Some(taken), Some(given)) = (taken, given)
            && taken != given
        {
            let name = ["height", "width"][axis];
            return Err(format!(
                "preprocess gives images the {name} {given}, the model's input `{}` takes {taken}",
                input.name
            ));
        }
        let open = given.or(taken).or(shorter).or(stored(axis));
        crop[axis] = open.ok_or_else(|| {
            format!(
                "images differ in size, and the model's input `{}` takes any: say with preprocess.resize or \
                 preprocess.crop which they are to have",
                input.name
            )
        })?;
    }
    if u64::from(crop[0]) * u64::from(crop[1]) > MOST_PIXELS {
        return Err(format!(
            "the model's input `{}` takes images of {} × {}; at most {MOST_PIXELS} pixels are prepared",
            input.name, crop[0], crop[1]
        ));
    }
    if let [only] = wanted
        && let Some(size) = only.fixed()
        && i64::from(crop[0]) * i64::from(crop[1]) != size
    {
        return Err(format!(
            "grey images of {} × {} are no row of {size} for the model's input `{}`; say with preprocess.resize which \
             size they are to have",
            crop[0], crop[1], input.name
        ));
    }
    let is_stored = (0..2).all(|axis| stored(axis) == Some(crop[axis]));
    let resize = match preprocess.resize {
        None if is_stored || preprocess.crop.is_some() => None,
        None => Some(Extent::Sides(crop)),
        given => given,
    };
    let [height, width] = crop.map(u64::from);
    let (shape, transposed) = match places {
        [Some(0), Some(1), Some(_)] => (vec![height, width, channels.into()], false),
        [Some(1), Some(2), _] => (vec![channels.into(), height, width], true),
        [Some(_), ..] => (vec![height, width], false),
        _ => (vec![height * width], false),
    };
    Ok(Fit {
        image: Some(ImagePreparation {
            channels,
            resize,
            crop,
        }),
        ..Fit::of(shape, transposed)
    })
}
