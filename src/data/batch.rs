//! Splits of a job and its batches, ready to be fed.

mod tokens;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use rand::SeedableRng;
use rand::seq::SliceRandom;

use super::augment::{self, Mixed, View};
use super::{Array, DataError, Dataset, Elements, Split, Tokenizer};
use crate::spec::dataset::Splits;
use crate::spec::fit::{InferredData, InferredInput, split_sizes};
use crate::spec::job::{DataOptions, Task};
use crate::spec::tokens::TokensInfo;
use crate::spec::train::{Balanced, ClassWeights};

/// The label of a token that has none: padding, what is added to a text, a part of a word but its first.
pub const IGNORED: usize = usize::MAX;

/// The split between what trains, what selects and what judges follows from this alone, so that
/// all jobs on a data set are judged on the same examples.
const SPLIT_SEED: u64 = 0x5131;

/// Which examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Train,
    Validation,
    Test,
}

/// A data set prepared for one model of a job.
#[derive(Clone)]
pub struct Prepared {
    pub about: InferredData,
    dataset: Arc<Dataset>,
    /// By stored label: what the model calls it; the same where empty.
    label_map: Vec<usize>,
    train: Vec<u32>,
    validation: Vec<u32>,
    /// Indices into the test split, or into the train split where the data set has no other.
    test: Vec<u32>,
}

/// Some examples as the model takes them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    pub count: usize,
    /// In the order of the model's inputs: elements of shape `[count, …]`.
    pub inputs: Vec<Vec<f32>>,
    /// Labels, for classification; of tokens `[count, tokens]`, some of them [`IGNORED`].
    pub labels: Vec<usize>,
    /// Values `[count, outputs]`, for the other tasks.
    pub values: Vec<f32>,
    /// Where the examples stand in the stored split that they are from.
    pub indices: Vec<u32>,
    /// Whether that is the data set's own test split.
    pub in_test: bool,
    /// How the inputs were made of the stored arrays.
    pub made_by: Vec<InferredInput>,
    /// What was done to the examples of a training batch.
    pub view: Option<View>,
    pub mixed: Option<Mixed>,
    /// By label: what the cross-entropy of an example counts, where not all count the same.
    pub class_weights: Option<Arc<[f32]>>,
}

impl Batch {
    /// The example that `row` was mixed with, and that one's share.
    pub fn partner(&self, row: usize) -> (usize, f32) {
        match &self.mixed {
            Some(mixed) => (mixed.partners[row], mixed.share),
            None => (row, 0.0),
        }
    }

    /// How many labels an example has: 0 without, 1, or one for each token.
    pub fn tokens(&self) -> usize {
        self.labels.len() / self.count.max(1)
    }

    /// Whether each token has a label of its own, or none.
    pub fn is_of_tokens(&self) -> bool {
        self.tokens() > 1 || self.labels.contains(&IGNORED)
    }

    /// At most `count` examples from `start` on.
    pub fn part(&self, start: usize, count: usize) -> Cow<'_, Self> {
        if start == 0 && count >= self.count {
            return Cow::Borrowed(self);
        }
        let end = (start + count).min(self.count);
        let of = |all: &Vec<f32>| {
            let size = all.len() / self.count.max(1);
            all[start * size..end * size].to_vec()
        };
        Cow::Owned(Self {
            count: end - start,
            inputs: self.inputs.iter().map(of).collect(),
            labels: self.labels[start * self.tokens()..end * self.tokens()].to_vec(),
            values: of(&self.values),
            indices: self.indices.get(start..end).unwrap_or_default().to_vec(),
            in_test: self.in_test,
            made_by: self.made_by.clone(),
            view: self.view.clone(),
            mixed: None,
            class_weights: self.class_weights.clone(),
        })
    }

    /// Leaves the first `count` examples.
    pub fn truncate(&mut self, count: usize) {
        for all in self.inputs.iter_mut().chain([&mut self.values]) {
            all.truncate(all.len() / self.count.max(1) * count);
        }
        self.labels.truncate(count * self.tokens());
        self.indices.truncate(count);
        self.count = count;
    }
}

impl Prepared {
    /// Sets the splits aside. They are laid out in full and then cut to `options.limit`, so that no
    /// job trains on what another one is judged on.
    pub fn new(dataset: Dataset, about: InferredData, options: &DataOptions) -> Self {
        let stored = Splits {
            train: (dataset.train.count() - dataset.validation) as u64,
            validation: dataset.validation as u64,
            test: dataset.test.as_ref().map_or(0, Split::count) as u64,
        };
        let unlimited = DataOptions {
            limit: None,
            ..options.clone()
        };
        let whole = split_sizes(stored, &unlimited);
        let mut order: Vec<u32> = (0..stored.train as u32).collect();
        order.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(SPLIT_SEED));
        let mut rest = order.as_slice();
        let mut take = |count: u64, limited: u64| {
            let (taken, left) = rest.split_at((count as usize).min(rest.len()));
            rest = left;
            taken[..(limited as usize).min(taken.len())].to_vec()
        };
        let test = match &dataset.test {
            // The first ones, so that anybody can measure on the same examples.
            Some(test) => (0..(about.splits.test as u32).min(test.count() as u32)).collect(),
            None => take(whole.test, about.splits.test),
        };
        let validation = match dataset.validation {
            0 => take(whole.validation, about.splits.validation),
            _ => (stored.train as u32..)
                .take(about.splits.validation as usize)
                .collect(),
        };
        let train = take(whole.train, about.splits.train);
        Self {
            label_map: named_alike(&about),
            about,
            dataset: Arc::new(dataset),
            train,
            validation,
            test,
        }
    }

    /// The same splits as another model gets them. `class_map` has, by stored label, what that model
    /// calls it; where empty the names of the classes tell.
    pub fn for_model(&self, about: InferredData, class_map: Vec<usize>) -> Self {
        let label_map = match class_map.is_empty() {
            true => named_alike(&about),
            false => class_map,
        };
        Self {
            about,
            label_map,
            ..self.clone()
        }
    }

    /// The same splits, fed in another way.
    pub fn fed_as(&self, inputs: Vec<InferredInput>) -> Self {
        let mut fed = self.clone();
        fed.about.inputs = inputs;
        fed
    }

    /// The same splits with at most so many examples of one, from all over it.
    pub fn few_of(&self, role: Role, count: usize) -> Self {
        let mut few = self.clone();
        let own = match role {
            Role::Train => &mut few.train,
            Role::Validation => &mut few.validation,
            Role::Test => &mut few.test,
        };
        let apart = own.len().div_ceil(count.max(1)).max(1);
        *own = own.iter().copied().step_by(apart).collect();
        few
    }

    /// The same examples in batches of another size.
    pub fn with_batch_size(mut self, size: u32) -> Self {
        self.about.batch_size = size;
        self
    }

    /// The train and the validation split together to train on, and nothing to select on.
    pub fn joined(&self) -> Self {
        let all = [self.train.as_slice(), &self.validation].concat();
        self.split(all, Vec::new())
    }

    /// The train and the validation split together in `count` parts, each the validation split of one of the
    /// results and in the train splits of the others. Examples of a label are spread as evenly as can be
    /// (stratified k-fold cross-validation; Kohavi, IJCAI 1995).
    pub fn folds(&self, count: usize) -> Result<Vec<Self>, DataError> {
        let mut by_label: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
        let target = self.dataset.train.target.as_ref();
        let labels =
            target.filter(|target| self.about.task == Task::Classification && target.stride() == 1);
        for &index in self.train.iter().chain(&self.validation) {
            let label = labels.map_or(0, |labels| labels.elements.get_i64(index as usize));
            by_label.entry(label).or_default().push(index);
        }
        let rare = by_label.iter().find(|(_, indices)| indices.len() < count);
        if let Some((&label, indices)) = rare {
            return Err(DataError::RareLabel {
                label,
                examples: indices.len(),
                folds: count,
            });
        }
        let mut parts = vec![Vec::new(); count];
        for (place, index) in by_label.into_values().flatten().enumerate() {
            parts[place % count].push(index);
        }
        let fold = |judged: usize| {
            let others = (0..count).filter(|&part| part != judged);
            let train = others
                .flat_map(|part| parts[part].iter().copied())
                .collect();
            self.split(train, parts[judged].clone())
        };
        Ok((0..count).map(fold).collect())
    }

    fn split(&self, train: Vec<u32>, validation: Vec<u32>) -> Self {
        let mut about = self.about.clone();
        about.splits.train = train.len() as u64;
        about.splits.validation = validation.len() as u64;
        Self {
            about,
            train,
            validation,
            ..self.clone()
        }
    }

    /// The validation split's places in the stored train split.
    pub fn validation_examples(&self) -> &[u32] {
        &self.validation
    }

    /// The test split's places in the stored test split, or in the stored train split where there is none.
    pub fn test_examples(&self) -> &[u32] {
        &self.test
    }

    /// Whether the examples have labels, or values to fit.
    pub fn has_targets(&self) -> bool {
        match self.about.task {
            Task::Embedding => false,
            // The texts themselves are what is to be said.
            Task::LanguageModeling => true,
            _ => self.dataset.train.target.is_some(),
        }
    }

    fn splits(&self) -> impl Iterator<Item = &Split> {
        [Some(&self.dataset.train), self.dataset.test.as_ref()]
            .into_iter()
            .flatten()
    }

    /// How many numbers the model puts out for an example.
    pub fn outputs(&self) -> usize {
        let tokens = self.ids_place().filter(|_| self.about.task.is_of_tokens());
        let tokens = tokens.map_or(1, |place| self.about.inputs[place].shape.iter().product());
        (self.about.outputs.unwrap_or(1).saturating_mul(tokens)) as usize
    }

    /// How many examples all splits have.
    pub fn examples(&self) -> usize {
        [Role::Train, Role::Validation, Role::Test]
            .map(|role| self.count(role))
            .iter()
            .sum()
    }

    /// As [`Dataset::tokens_by`].
    pub fn tokens_by(&self, tokenizer: &Tokenizer) -> Result<Option<TokensInfo>, String> {
        self.dataset.tokens_by(tokenizer)
    }

    /// How many examples the stored train split has; [`Batch::indices`] are below.
    pub fn stored(&self) -> usize {
        self.dataset.train.count()
    }

    fn role(&self, role: Role) -> (&[u32], &Split) {
        match role {
            Role::Train => (&self.train, &self.dataset.train),
            Role::Validation => (&self.validation, &self.dataset.train),
            Role::Test => (
                &self.test,
                self.dataset.test.as_ref().unwrap_or(&self.dataset.train),
            ),
        }
    }

    pub fn count(&self, role: Role) -> usize {
        self.role(role).0.len()
    }

    /// What examples of each label count in a loss: as given, or `n ÷ (k · nᵢ)` of the train split's n examples, nᵢ of
    /// which have one of k labels, so that all labels count the same (King and Zeng, "Logistic Regression in Rare
    /// Events Data", 2001).
    pub fn class_weights(&self, asked: Option<&ClassWeights>) -> Option<Arc<[f32]>> {
        match asked? {
            ClassWeights::Each(weights) => {
                Some(weights.iter().map(|&weight| weight as f32).collect())
            }
            ClassWeights::Named(Balanced::Balanced) => {
                let target = self.dataset.train.target.as_ref()?;
                let mut counts: Vec<u32> = Vec::new();
                for &index in &self.train {
                    let label = self.label(&target.elements, index);
                    counts.resize(counts.len().max(label + 1), 0);
                    counts[label] += 1;
                }
                let labels = counts.iter().filter(|&&count| count > 0).count();
                let even = self.train.len() as f32 / labels as f32;
                let weight = |&count: &u32| match count {
                    0 => 1.0,
                    count => even / count as f32,
                };
                Some(counts.iter().map(weight).collect())
            }
        }
    }

    /// What the model calls the label of an example.
    fn label(&self, labels: &Elements, index: u32) -> usize {
        let stored = labels.get_i64(index as usize).max(0) as usize;
        self.label_map.get(stored).copied().unwrap_or(stored)
    }

    /// Batches of an epoch. A batch with a single example has no variance to normalise by, and a
    /// fixed batch size bears no other, so a last batch that is short is left out of training;
    /// each epoch leaves out others.
    pub fn train_batches(&self) -> usize {
        let size = self.about.batch_size as usize;
        (self.train.len() / size).max(1)
    }

    /// The examples of one training batch. The order of an epoch follows from `seed` and `epoch`.
    pub fn train_order(&self, seed: u64, epoch: u32) -> Vec<u32> {
        let mut order = self.train.clone();
        let mixed = seed ^ (u64::from(epoch) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        order.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(mixed));
        order
    }

    /// Batch `index` of an epoch in the order `order`, seen as `view` says.
    pub fn train_batch(&self, order: &[u32], index: usize, view: Option<View>) -> Batch {
        let size = self.about.batch_size as usize;
        let start = index * size;
        let end = (start + size).min(order.len());
        self.seen(&self.dataset.train, &order[start..end], view)
    }

    fn seen(&self, split: &Split, indices: &[u32], view: Option<View>) -> Batch {
        let mut batch = self.gather(split, indices);
        if let Some(view) = view {
            augment::apply(&view, &self.arrays(), &mut batch);
            batch.view = Some(view);
        }
        batch
    }

    /// The examples of a batch, in the same view, as this model gets them; labels may be those of another one.
    pub fn same_view<'a>(&self, batch: &'a Batch) -> Cow<'a, Batch> {
        let mut pairs = self.about.inputs.iter().zip(&batch.made_by);
        if self.about.inputs.len() == batch.made_by.len()
            && pairs.all(|(own, other)| own.is_made_like(other))
        {
            return Cow::Borrowed(batch);
        }
        let test = self.dataset.test.as_ref().filter(|_| batch.in_test);
        let split = test.unwrap_or(&self.dataset.train);
        Cow::Owned(self.seen(split, &batch.indices, batch.view.clone()))
    }

    /// Another view of a batch that this model gets as it is.
    pub fn viewed(&self, batch: &Batch, view: View) -> Batch {
        let mut batch = batch.clone();
        augment::apply(&view, &self.arrays(), &mut batch);
        batch.view = Some(view);
        batch
    }

    /// What the model takes, with the stored arrays; a recurrent state has none.
    fn arrays(&self) -> Vec<(&InferredInput, Option<&Array>)> {
        let all = &self.dataset.train.inputs;
        let array = |input: &InferredInput| all.iter().find(|array| array.name == input.array);
        let inputs = self.about.inputs.iter();
        inputs.map(|input| (input, array(input))).collect()
    }

    /// All examples of a split in batches of `size`, in a fixed order, the last one shorter.
    pub fn batches(&self, role: Role, size: usize) -> impl Iterator<Item = Batch> + '_ {
        let (indices, split) = self.role(role);
        indices
            .chunks(size.max(1))
            .map(move |chunk| self.gather(split, chunk))
    }

    /// The first `count` examples of a split as one batch, repeated where it has fewer.
    pub fn sample(&self, role: Role, count: usize) -> Batch {
        let (indices, split) = self.role(role);
        let chosen: Vec<u32> = indices.iter().copied().cycle().take(count).collect();
        self.gather(split, &chosen)
    }

    /// Examples by their places in the data set as it is stored: in its test split, or in the other one. An error tells how
    /// many that has.
    pub fn stored_at(&self, in_test: bool, places: &[u32]) -> Result<Batch, usize> {
        let split = match in_test {
            true => self.dataset.test.as_ref().ok_or(0usize)?,
            false => &self.dataset.train,
        };
        match places.iter().all(|&place| (place as usize) < split.count()) {
            true => Ok(self.gather(split, places)),
            false => Err(split.count()),
        }
    }

    /// What a stored example is, for people: the name of its file, or its text.
    pub fn source_of(&self, in_test: bool, place: u32) -> Option<String> {
        let split = match in_test {
            true => self.dataset.test.as_ref()?,
            false => &self.dataset.train,
        };
        let mut inputs = split.inputs.iter();
        inputs.find_map(|array| match &array.elements {
            Elements::Files(files) => files.name_of(place).map(str::to_owned),
            Elements::Texts(texts) => texts.shown(place),
            _ => None,
        })
    }

    fn gather(&self, split: &Split, indices: &[u32]) -> Batch {
        let inputs = self
            .about
            .inputs
            .iter()
            .filter_map(|input| gather_of(input, &split.inputs, indices))
            .collect();
        let mut batch = Batch {
            count: indices.len(),
            inputs,
            indices: indices.to_vec(),
            made_by: self.about.inputs.clone(),
            in_test: (self.dataset.test.as_ref()).is_some_and(|test| std::ptr::eq(test, split)),
            ..Batch::default()
        };
        if self.about.task.is_of_tokens() {
            if self.has_targets() {
                batch.labels = self.token_labels(split, indices, &batch.inputs);
            }
            return batch;
        }
        let Some(target) = split.target.as_ref().filter(|_| self.has_targets()) else {
            return batch;
        };
        let (elements, indices) = target.of(indices);
        if self.about.task == Task::Classification {
            let label = |index: &u32| self.label(&elements, *index);
            batch.labels = indices.iter().map(label).collect();
        } else {
            let stride = target.stride();
            let places = indices.iter().flat_map(|&index| {
                let start = index as usize * stride;
                start..start + stride
            });
            batch.values = places.map(|place| elements.get_f32(place)).collect();
        }
        batch
    }
}

/// By stored label: the model's class of the same name.
fn named_alike(about: &InferredData) -> Vec<usize> {
    let classes = about.label_map.iter();
    classes.map(|&class| class as usize).collect()
}

/// All of some examples as a model takes them.
pub fn as_batch(inputs: &[InferredInput], arrays: &[Array], count: usize) -> Batch {
    let indices: Vec<u32> = (0..).take(count).collect();
    let found = inputs
        .iter()
        .filter_map(|input| gather_of(input, arrays, &indices));
    Batch {
        count,
        inputs: found.collect(),
        made_by: inputs.to_vec(),
        indices,
        ..Batch::default()
    }
}

/// What an input gets of its array; of a recurrent state one zero an example, for all of them.
fn gather_of(input: &InferredInput, arrays: &[Array], indices: &[u32]) -> Option<Vec<f32>> {
    if input.zeros {
        return Some(vec![0.0; indices.len()]);
    }
    let array = arrays.iter().find(|array| array.name == input.array)?;
    Some(gather_input(input, array, indices))
}

/// `(stored · scale − mean) ÷ std`, channels turned to the front where the model wants them there.
fn gather_input(input: &InferredInput, array: &Array, indices: &[u32]) -> Vec<f32> {
    if let (Elements::Texts(texts), Some(how)) = (&array.elements, &input.tokens) {
        return texts.examples(how, indices);
    }
    let (decoded, numbers, held);
    let (elements, indices, stride) = match (&array.elements, &input.image) {
        (Elements::Files(files), Some(how)) => {
            decoded = Elements::U8(files.pictures(how, indices));
            numbers = (0..).take(indices.len()).collect::<Vec<u32>>();
            (&decoded, numbers.as_slice(), how.bytes())
        }
        (Elements::Files(files), None) => {
            let how = input.audio.as_ref();
            let how = how.expect("files are images, or audio that is prepared in some way");
            decoded = Elements::F32(files.recordings(how, indices));
            numbers = (0..).take(indices.len()).collect::<Vec<u32>>();
            (&decoded, numbers.as_slice(), how.numbers())
        }
        _ => {
            held = array.of(indices);
            (&*held.0, &*held.1, array.stride())
        }
    };
    let lines = input.affine();
    // What is the same for all of them needs no look at each.
    let channels = match lines.len() == 1 && !input.transposed {
        true => 1,
        false => input.channels(),
    };
    let area = stride / channels.max(1);
    let affine: Vec<(f32, f32)> = (0..channels)
        .map(|channel| lines[channel.min(lines.len() - 1)])
        .map(|(factor, offset)| (factor as f32, offset as f32))
        .collect();
    let mut out = Vec::with_capacity(indices.len() * stride);
    for &index in indices {
        let start = index as usize * stride;
        if input.keeps_channels_last() {
            let affine = affine.iter().cycle();
            let places = (start..start + stride).zip(affine);
            out.extend(
                places.map(|(place, (factor, offset))| elements.get_f32(place) * factor + offset),
            );
            continue;
        }
        for (channel, &(factor, offset)) in affine.iter().enumerate() {
            let place = |position: usize| match input.transposed {
                true => start + position * channels + channel,
                false => start + channel * area + position,
            };
            match elements {
                Elements::U8(values) => out.extend(
                    (0..area).map(|position| f32::from(values[place(position)]) * factor + offset),
                ),
                elements => out.extend(
                    (0..area).map(|position| elements.get_f32(place(position)) * factor + offset),
                ),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rand::RngExt;

    use super::*;

    #[test]
    fn channels_last_examples_are_turned_and_normalised_by_channel() {
        let input = InferredInput {
            input: "input".to_owned(),
            array: "x".to_owned(),
            transposed: true,
            shape: vec![2, 1, 2],
            scale: 0.5,
            mean: vec![0.0, 1.0],
            std: vec![1.0, 2.0],
            image: None,
            tokens: None,
            audio: None,
            zeros: false,
            dtype: String::new(),
            inherited: false,
            inside: None,
        };
        let array = Array {
            name: "x".to_owned(),
            dtype: "uint8".to_owned(),
            shape: vec![1, 2, 2],
            elements: Elements::U8(vec![2, 4, 6, 8]),
        };
        // Channel 0 holds 2 and 6, channel 1 holds 4 and 8.
        assert_eq!(gather_input(&input, &array, &[0]), [1.0, 3.0, 0.5, 1.5]);
    }

    /// So many examples with labels as unevenly spread as chance has it, a fifth of them to select on.
    fn labelled(count: usize, classes: i64, random: &mut impl rand::Rng) -> Prepared {
        let labels: Vec<i64> = (0..count)
            .map(|_| {
                let drawn: f64 = random.random();
                (drawn * drawn * classes as f64) as i64
            })
            .collect();
        let array = |name: &str, elements| Array {
            name: name.to_owned(),
            shape: Vec::new(),
            dtype: "int64".to_owned(),
            elements,
        };
        let about = InferredData {
            prepared: Vec::new(),
            task: Task::Classification,
            inputs: Vec::new(),
            output: "y".to_owned(),
            outputs: None,
            splits: crate::spec::fit::SplitSizes {
                train: count as u64 * 4 / 5,
                validation: count as u64 - count as u64 * 4 / 5,
                test: 0,
            },
            skipped: 0,
            cut: 0,
            class_names: None,
            label_map: Vec::new(),
            embedded: false,
            batch_size: 8,
        };
        let split = Split {
            inputs: vec![array("x", Elements::I64(vec![0; count]))],
            target: Some(array("y", Elements::I64(labels))),
        };
        let format = crate::spec::dataset::DatasetFormat::Npz;
        let dataset = Dataset::new(format, split.clone(), Some(split));
        let options = DataOptions {
            validation_fraction: 0.2,
            ..DataOptions::default()
        };
        Prepared::new(dataset, about, &options)
    }

    #[test]
    fn folds_are_stratified_disjoint_and_cover_everything() {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(3);
        let (mut split, mut refused) = (0, 0);
        for _ in 0..500 {
            let (classes, count) = (random.random_range(1..9), random.random_range(20..300));
            let folds = random.random_range(2..12);
            let data = labelled(count, classes, &mut random);
            let target = data.dataset.train.target.as_ref().expect("labels");
            let label = |index: &u32| target.elements.get_i64(*index as usize);
            let of = |indices: &[u32]| {
                let mut counts = BTreeMap::new();
                for index in indices {
                    *counts.entry(label(index)).or_insert(0usize) += 1;
                }
                counts
            };
            let all: Vec<u32> = [data.train.as_slice(), &data.validation].concat();
            let mut everything = all.clone();
            everything.sort_unstable();
            let rarest = of(&all).into_values().min().unwrap_or(0);
            let Ok(found) = data.folds(folds) else {
                assert!(rarest < folds);
                refused += 1;
                continue;
            };
            assert!(rarest >= folds);
            split += 1;
            let mut judged: Vec<u32> = Vec::new();
            for fold in &found {
                judged.extend(&fold.validation);
                let mut both = [fold.train.as_slice(), &fold.validation].concat();
                both.sort_unstable();
                assert_eq!(both, everything);
                assert_eq!(fold.about.splits.train, fold.train.len() as u64);
                for (label, total) in of(&all) {
                    let own = of(&fold.validation).get(&label).copied().unwrap_or(0);
                    let even = total as f64 / folds as f64;
                    assert!(
                        (own as f64 - even).abs() < 1.0,
                        "{own} of {total} in {folds}"
                    );
                }
            }
            judged.sort_unstable();
            assert_eq!(judged, everything);
        }
        assert!(split > 100 && refused > 50, "{split} {refused}");
    }
}
