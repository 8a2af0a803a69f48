//! Random views of examples.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Beta, Distribution, StandardNormal};

use super::{Array, Batch};
use crate::spec::augment::{Augment, Flip, Geometry, Mix, Stretches};
use crate::spec::fit::InferredInput;
use crate::spec::tokens::TokenPart;

/// What happens to the examples of one batch; the same for every model that sees them.
#[derive(Debug, Clone, PartialEq)]
pub struct View {
    pub augment: Augment,
    pub seed: u64,
}

/// Each example's share of another one.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixed {
    /// Position in the batch.
    pub partners: Vec<usize>,
    /// Of the partner, 0 to 1; one for all examples.
    pub share: f32,
}

/// An input's examples: how their elements lie, and what the stored zero became.
#[derive(Debug, Clone, PartialEq)]
struct Canvas {
    geometry: Geometry,
    /// By channel, or one for all.
    zero: Vec<f32>,
    /// Of tokens: the one that is padding. None where the numbers are about tokens, as a mask is.
    padding: Option<f32>,
}

impl Canvas {
    fn of(input: &InferredInput, array: &Array) -> Option<Self> {
        let of = |values: &[f64], channel: usize| values[channel.min(values.len() - 1)];
        let zero = |channel| (-of(&input.mean, channel) / of(&input.std, channel)) as f32;
        let varied = input.mean.len().max(input.std.len());
        Some(Self {
            geometry: Geometry::of(
                input.transposed,
                &array.dtype,
                &input.stored_shape(&array.shape),
            )?,
            zero: (0..varied).map(zero).collect(),
            padding: match &input.tokens {
                None => Some(0.0),
                Some(tokens) => (tokens.part == TokenPart::Ids).then_some(tokens.pad_token as f32),
            },
        })
    }

    fn zero(&self, channel: usize) -> f32 {
        self.zero[channel.min(self.zero.len() - 1)]
    }

    /// Fills a box, as far as it lies inside, by `fill` of an element's channel and index.
    fn fill(
        &self,
        rows: std::ops::Range<isize>,
        columns: std::ops::Range<isize>,
        mut fill: impl FnMut(usize, usize),
    ) {
        let inside = |range: &std::ops::Range<isize>, size: usize| {
            let clamp = |place: isize| place.clamp(0, size as isize) as usize;
            clamp(range.start)..clamp(range.end)
        };
        for channel in 0..self.geometry.channels {
            for row in inside(&rows, self.geometry.height) {
                for column in inside(&columns, self.geometry.width) {
                    fill(channel, self.geometry.index(channel, row, column));
                }
            }
        }
    }

    /// The example moved, what comes in being zero, and mirrored.
    fn moved(&self, example: &mut [f32], draw: &Draw) {
        if (draw.down, draw.right, draw.upside_down, draw.mirrored) == (0, 0, false, false) {
            return;
        }
        let before = example.to_vec();
        let inside = |place: isize, size: usize| (0..size as isize).contains(&place);
        self.fill(
            0..self.geometry.height as isize,
            0..self.geometry.width as isize,
            |channel, place| {
                example[place] = self.zero(channel);
            },
        );
        for row in 0..self.geometry.height {
            let source = match draw.upside_down {
                true => self.geometry.height - 1 - row,
                false => row,
            } as isize
                - draw.down;
            if !inside(source, self.geometry.height) {
                continue;
            }
            for column in 0..self.geometry.width {
                let from = match draw.mirrored {
                    true => self.geometry.width - 1 - column,
                    false => column,
                } as isize
                    - draw.right;
                if !inside(from, self.geometry.width) {
                    continue;
                }
                for channel in 0..self.geometry.channels {
                    example[self.geometry.index(channel, row, column)] =
                        before[self.geometry.index(channel, source as usize, from as usize)];
                }
            }
        }
    }
}

/// What is drawn for one example, by whatever size it has.
struct Draw {
    down: isize,
    right: isize,
    upside_down: bool,
    mirrored: bool,
    /// Centre of the square, as shares of height and width.
    cutout: (f64, f64),
    /// Of each stretch: its size as a share of the largest, its place as a share of what is left.
    time: Vec<(f64, f64)>,
    frequency: Vec<(f64, f64)>,
    tokens: u64,
    noise: u64,
}

impl Draw {
    fn new(augment: &Augment, random: &mut ChaCha8Rng) -> Self {
        let padding = augment.crop.map_or(0, |crop| i64::from(crop.padding));
        let stretches = |stretches: Option<Stretches>, random: &mut ChaCha8Rng| {
            let count = stretches.map_or(0, |stretches| stretches.count);
            (0..count)
                .map(|_| (random.random(), random.random()))
                .collect()
        };
        Self {
            down: random.random_range(-padding..=padding) as isize,
            right: random.random_range(-padding..=padding) as isize,
            upside_down: matches!(augment.flip, Some(Flip::Vertical | Flip::Both))
                & random.random_bool(0.5),
            mirrored: matches!(augment.flip, Some(Flip::Horizontal | Flip::Both))
                & random.random_bool(0.5),
            cutout: (random.random(), random.random()),
            time: stretches(augment.time_mask, random),
            frequency: stretches(augment.frequency_mask, random),
            tokens: random.random(),
            noise: random.random(),
        }
    }

    fn apply(&self, augment: &Augment, canvas: &Canvas, example: &mut [f32]) {
        let geometry = &canvas.geometry;
        let (height, width) = (geometry.height as isize, geometry.width as isize);
        if geometry.is_plane() {
            // A row of values has no up and down.
            let level = Self {
                down: if height == 1 { 0 } else { self.down },
                time: Vec::new(),
                frequency: Vec::new(),
                ..*self
            };
            canvas.moved(example, &level);
            let mut clear = |channel: usize, place: usize| example[place] = canvas.zero(channel);
            if let Some(cutout) = augment.cutout {
                let size = cutout.size as isize;
                let start = |share: f64, all: isize| (share * all as f64) as isize - size / 2;
                let (top, left) = (start(self.cutout.0, height), start(self.cutout.1, width));
                canvas.fill(top..top + size, left..left + size, &mut clear);
            }
            let stretch = |(length, place): (f64, f64), size: u32, all: isize| {
                let most = (size as isize).min(all);
                let length = (length * (most + 1) as f64) as isize;
                let start = (place * (all - length + 1) as f64) as isize;
                start..start + length
            };
            if let Some(mask) = augment.time_mask {
                for &drawn in &self.time {
                    canvas.fill(0..height, stretch(drawn, mask.size, width), &mut clear);
                }
            }
            if let Some(mask) = augment.frequency_mask {
                for &drawn in &self.frequency {
                    canvas.fill(stretch(drawn, mask.size, height), 0..width, &mut clear);
                }
            }
        }
        if let (Some(dropout), true, Some(padding)) =
            (augment.token_dropout, geometry.tokens, canvas.padding)
        {
            let mut random = ChaCha8Rng::seed_from_u64(self.tokens);
            for token in example.iter_mut() {
                if random.random_bool(dropout.probability) && *token != padding {
                    *token = dropout.token as f32;
                }
            }
        }
    }

    fn add_noise(&self, std: f64, example: &mut [f32]) {
        let mut random = ChaCha8Rng::seed_from_u64(self.noise);
        for element in example {
            let noise: f32 = StandardNormal.sample(&mut random);
            *element += std as f32 * noise;
        }
    }
}

/// Changes the examples of a batch; `inputs` are in the order of the batch's.
pub fn apply(view: &View, inputs: &[(&InferredInput, Option<&Array>)], batch: &mut Batch) {
    let augment = &view.augment;
    let mut random = ChaCha8Rng::seed_from_u64(view.seed);
    let draws: Vec<Draw> = (0..batch.count)
        .map(|_| Draw::new(augment, &mut random))
        .collect();
    let canvases: Vec<Option<Canvas>> = inputs
        .iter()
        .map(|(input, array)| Canvas::of(input, (*array)?))
        .collect();
    for (canvas, elements) in canvases.iter().zip(&mut batch.inputs) {
        let Some(canvas) = canvas else { continue };
        let size = canvas.geometry.elements().max(1);
        for (draw, example) in draws.iter().zip(elements.chunks_mut(size)) {
            draw.apply(augment, canvas, example);
        }
    }
    mix(augment, &canvases, &mut random, batch);
    if let Some(noise) = augment.noise {
        let fed = canvases.iter().zip(inputs).zip(&mut batch.inputs);
        for ((canvas, (_, array)), elements) in fed {
            let of_tokens = canvas.as_ref().is_some_and(|canvas| canvas.geometry.tokens);
            if of_tokens || array.is_none() {
                continue;
            }
            let size = (elements.len() / batch.count.max(1)).max(1);
            for (draw, example) in draws.iter().zip(elements.chunks_mut(size)) {
                draw.add_noise(noise.std, example);
            }
        }
    }
}

/// Mixup or CutMix with the examples in another order.
fn mix(augment: &Augment, canvases: &[Option<Canvas>], random: &mut ChaCha8Rng, batch: &mut Batch) {
    let boxes = match (augment.mixup, augment.cutmix) {
        (Some(_), Some(_)) => random.random_bool(0.5),
        (_, cutmix) => cutmix.is_some(),
    };
    let Some(Mix { alpha }) = (if boxes { augment.cutmix } else { augment.mixup }) else {
        return;
    };
    let drawn = match Beta::new(alpha, alpha) {
        Ok(beta) => beta.sample(random).clamp(0.0, 1.0),
        Err(_) => 0.5,
    };
    let mut partners: Vec<usize> = (0..batch.count).collect();
    partners.shuffle(random);
    let centre: (f64, f64) = (random.random(), random.random());
    let mut share = drawn as f32;
    for (canvas, elements) in canvases.iter().zip(&mut batch.inputs) {
        let before = elements.clone();
        let size = elements.len() / batch.count.max(1);
        let plane = canvas
            .as_ref()
            .filter(|canvas| boxes && canvas.geometry.is_plane());
        let bounds = plane.map(|canvas| {
            let Geometry { height, width, .. } = canvas.geometry;
            // A row has one side to share.
            let side = if height == 1 { drawn } else { drawn.sqrt() };
            let range = |centre: f64, all: usize| {
                let (half, middle) = (side * all as f64 / 2.0, centre * all as f64);
                let clamp = |place: f64| (place.round() as isize).clamp(0, all as isize);
                clamp(middle - half)..clamp(middle + half)
            };
            let rows = if height == 1 {
                0..1
            } else {
                range(centre.0, height)
            };
            (canvas, rows, range(centre.1, width))
        });
        for (row, example) in elements.chunks_mut(size.max(1)).enumerate() {
            let partner = &before[partners[row] * size..][..size];
            match &bounds {
                Some((canvas, rows, columns)) => {
                    canvas.fill(rows.clone(), columns.clone(), |_, place| {
                        example[place] = partner[place];
                    });
                }
                None if boxes => {}
                None => {
                    for (own, other) in example.iter_mut().zip(partner) {
                        *own = *own * (1.0 - share) + other * share;
                    }
                }
            }
        }
        if let Some((canvas, rows, columns)) = bounds {
            // The share of the label is that of the area, at the border too.
            let all = canvas.geometry.height * canvas.geometry.width;
            share = (rows.len() * columns.len()) as f32 / all as f32;
        }
    }
    let width = batch.values.len() / batch.count.max(1);
    let before = batch.values.clone();
    for (place, value) in batch.values.iter_mut().enumerate() {
        let other = before[partners[place / width] * width + place % width];
        *value = *value * (1.0 - share) + other * share;
    }
    batch.mixed = Some(Mixed { partners, share });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Elements;

    fn input(mean: f64) -> InferredInput {
        InferredInput {
            input: "x".to_owned(),
            array: "x".to_owned(),
            transposed: false,
            shape: vec![1, 3, 4],
            scale: 1.0,
            mean: vec![mean],
            std: vec![1.0],
            image: None,
            tokens: None,
            audio: None,
            zeros: false,
            dtype: String::new(),
            inherited: false,
            inside: None,
        }
    }

    fn array(shape: &[usize], dtype: &str) -> Array {
        Array {
            name: "x".to_owned(),
            dtype: dtype.to_owned(),
            shape: shape.to_vec(),
            elements: Elements::F32(Vec::new()),
        }
    }

    fn ramp(count: usize, size: usize) -> Batch {
        Batch {
            count,
            inputs: vec![(0..count * size).map(|place| place as f32 + 1.0).collect()],
            labels: (0..count).collect(),
            ..Batch::default()
        }
    }

    fn view(augment: Augment, seed: u64) -> View {
        View { augment, seed }
    }

    #[test]
    fn a_crop_moves_an_example_and_fills_with_the_stored_zero() {
        let (input, array) = (input(0.5), array(&[3, 4], "float32"));
        let augment = Augment {
            crop: Some(crate::spec::augment::Crop { padding: 1 }),
            ..Augment::default()
        };
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut batch = ramp(1, 12);
            apply(
                &view(augment.clone(), seed),
                &[(&input, Some(&array))],
                &mut batch,
            );
            let all = &batch.inputs[0];
            // The middle 1×2 never leaves, and shows how far the example was moved.
            let place = all.iter().position(|&value| value == 6.0).expect("inside");
            let (down, right) = (place as isize / 4 - 1, place as isize % 4 - 1);
            assert!(down.abs() <= 1 && right.abs() <= 1, "{down} {right}");
            for row in 0..3isize {
                for column in 0..4isize {
                    let (from, at) = (row - down, column - right);
                    let inside = (0..3).contains(&from) && (0..4).contains(&at);
                    let wanted = if inside {
                        (from * 4 + at + 1) as f32
                    } else {
                        -0.5
                    };
                    assert_eq!(all[(row * 4 + column) as usize], wanted);
                }
            }
            seen.insert((down, right));
        }
        assert_eq!(seen.len(), 9, "{seen:?}");
    }

    #[test]
    fn flips_mirror_rows_of_all_channels_whatever_the_layout() {
        let augment = Augment {
            flip: Some(Flip::Horizontal),
            ..Augment::default()
        };
        let plain = input(0.0);
        for (shape, row) in [
            ([2, 3, 4], [4.0, 3.0, 2.0, 1.0]),
            ([5, 2, 2], [3.0, 4.0, 1.0, 2.0]),
        ] {
            let array = array(&shape, "float32");
            let size = shape.iter().product();
            let mirrored = (0..20).any(|seed| {
                let mut batch = ramp(1, size);
                apply(
                    &view(augment.clone(), seed),
                    &[(&plain, Some(&array))],
                    &mut batch,
                );
                batch.inputs[0][..4] == row
            });
            assert!(mirrored, "{shape:?}");
        }
    }

    #[test]
    fn the_same_view_is_the_same_for_models_of_other_layouts() {
        let augment = Augment {
            crop: Some(crate::spec::augment::Crop { padding: 1 }),
            flip: Some(Flip::Both),
            cutout: Some(crate::spec::augment::Cutout { size: 2 }),
            mixup: Some(Mix { alpha: 1.0 }),
            cutmix: Some(Mix { alpha: 1.0 }),
            ..Augment::default()
        };
        // 6×5 pixels of 3 channels, once as stored and once turned.
        let array = array(&[6, 5, 3], "float32");
        let turned = InferredInput {
            transposed: true,
            ..input(0.25)
        };
        for seed in 0..50 {
            let mut last = ramp(4, 90);
            let mut first = ramp(4, 90);
            for (place, value) in last.inputs[0].iter().enumerate() {
                let (example, rest) = (place / 90, place % 90);
                first.inputs[0][example * 90 + rest % 3 * 30 + rest / 3] = *value;
            }
            let view = view(augment.clone(), seed);
            apply(&view, &[(&input(0.25), Some(&array))], &mut last);
            apply(&view, &[(&turned, Some(&array))], &mut first);
            assert_eq!(last.mixed, first.mixed);
            for (place, value) in last.inputs[0].iter().enumerate() {
                let (example, rest) = (place / 90, place % 90);
                assert_eq!(
                    *value,
                    first.inputs[0][example * 90 + rest % 3 * 30 + rest / 3]
                );
            }
        }
    }

    #[test]
    fn masks_clear_whole_stretches_of_their_axis() {
        let augment = Augment {
            time_mask: Some(Stretches { count: 1, size: 3 }),
            frequency_mask: Some(Stretches { count: 1, size: 2 }),
            ..Augment::default()
        };
        let (input, array) = (input(0.0), array(&[6, 8], "float32"));
        let mut lengths = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut batch = ramp(1, 48);
            apply(
                &view(augment.clone(), seed),
                &[(&input, Some(&array))],
                &mut batch,
            );
            let all = &batch.inputs[0];
            let rows = (0..6)
                .filter(|row| (0..8).all(|c| all[row * 8 + c] == 0.0))
                .count();
            let columns = (0..8)
                .filter(|c| (0..6).all(|row| all[row * 8 + c] == 0.0))
                .count();
            let zeros = all.iter().filter(|&&value| value == 0.0).count();
            assert_eq!(zeros, rows * 8 + columns * 6 - rows * columns);
            lengths.insert((rows, columns));
        }
        assert_eq!(lengths.len(), 12, "{lengths:?}");
    }

    #[test]
    fn token_dropout_replaces_its_share_and_leaves_padding() {
        let augment = Augment {
            token_dropout: Some(crate::spec::augment::TokenDropout {
                probability: 0.3,
                token: 99,
            }),
            ..Augment::default()
        };
        let (input, array) = (input(0.0), array(&[10], "int64"));
        let mut batch = ramp(1000, 10);
        for tokens in batch.inputs[0].chunks_mut(10) {
            tokens.copy_from_slice(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 0.0, 0.0]);
        }
        apply(&view(augment, 3), &[(&input, Some(&array))], &mut batch);
        let dropped = batch.inputs[0]
            .iter()
            .filter(|&&token| token == 99.0)
            .count();
        let padding = batch.inputs[0]
            .iter()
            .filter(|&&token| token == 0.0)
            .count();
        assert!((2200..2600).contains(&dropped), "{dropped} of 8000");
        assert_eq!(padding, 2000);
    }

    #[test]
    fn mixed_labels_have_the_share_of_the_area() {
        let augment = Augment {
            cutmix: Some(Mix { alpha: 1.0 }),
            ..Augment::default()
        };
        let (input, array) = (input(0.0), array(&[8, 8], "float32"));
        for seed in 0..50 {
            let mut batch = ramp(6, 64);
            apply(
                &view(augment.clone(), seed),
                &[(&input, Some(&array))],
                &mut batch,
            );
            let mixed = batch.mixed.as_ref().expect("mixed");
            for (row, &partner) in mixed.partners.iter().enumerate().filter(|(r, p)| r != *p) {
                let own = batch.inputs[0][row * 64..][..64].iter();
                let foreign = own
                    .filter(|&&value| (value as usize - 1) / 64 == partner)
                    .count();
                assert_eq!(foreign as f32 / 64.0, mixed.share);
            }
        }
    }
}
