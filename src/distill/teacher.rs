//! What teachers say about a batch: run on it, or read from what was computed before.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use burn::backend::Dispatch;
use burn::backend::ops::{ActivationOps, FloatTensorOps};
use burn::tensor::Slice;

use crate::data::{Batch, Prepared, Role, View};
use crate::exec::value::{Value, dims, from_host, indices, to_host};
use crate::exec::{Device, ExecError, Mode, Parameters, upload};
use crate::graph::Graph;
use crate::spec::distill::{Average, TeacherViews};
use crate::train::{Programs, batch_of, feed};

/// Examples that a teacher answers at once when its answers are kept.
const CACHED_AT_ONCE: usize = 256;

/// A model that teaches, and how the data feeds it.
pub struct Teacher {
    pub graph: Graph,
    pub data: Prepared,
}

struct Member<'a> {
    teacher: &'a Teacher,
    parameters: Parameters,
    programs: RefCell<Programs<'a>>,
}

/// Outputs of one batch, `[examples, …]`, and the tensors that were asked for.
pub struct Answer {
    pub output: Value,
    pub tensors: Vec<Value>,
}

enum Source<'a> {
    Live(Vec<Member<'a>>),
    /// Outputs by the place in the stored train split, behind them those of the test split.
    Kept {
        file: File,
        shape: Vec<usize>,
        /// How many examples the stored train split has.
        stored: usize,
    },
}

/// One teacher or several as one.
pub struct Teachers<'a> {
    device: &'a Device,
    source: Source<'a>,
    average: Average,
    /// What they see beside an example as it is, and the seed that it is drawn with.
    views: Option<(&'a TeacherViews, u64)>,
    /// By class of the student: the teacher's; the same where `None`.
    class_map: Option<&'a [u32]>,
}

impl<'a> Teachers<'a> {
    /// Teachers that answer when they are asked. `closing` operators of their graphs are left out; of
    /// the first one `tensors` are given too.
    pub fn live(
        teachers: &'a [Teacher],
        device: &'a Device,
        closing: &'static [&'static str],
        tensors: &[String],
        average: Average,
        class_map: Option<&'a [u32]>,
    ) -> Self {
        let members = teachers.iter().enumerate().map(|(index, teacher)| Member {
            teacher,
            parameters: upload(&teacher.graph, device.plain()),
            programs: RefCell::new(Programs::with_tensors(
                &teacher.graph,
                closing,
                if index == 0 { tensors } else { &[] },
            )),
        });
        Self {
            device,
            source: Source::Live(members.collect()),
            average,
            views: None,
            class_map,
        }
    }

    /// The same teachers, which see `views` of each example, drawn with `seed`.
    pub fn seeing(self, views: Option<&'a TeacherViews>, seed: u64) -> Self {
        let views = views.map(|views| (views, seed));
        Self { views, ..self }
    }

    /// Has every example of all splits of `data` answered once, and keeps the outputs in a file without
    /// a name in `folder`. What comes out needs the models no more. `between` is called after each batch and can end it.
    pub fn kept<'b, E: From<ExecError>>(
        self,
        data: &Prepared,
        folder: &Path,
        device: &'b Device,
        mut between: impl FnMut() -> Result<(), E>,
    ) -> Result<Teachers<'b>, E> {
        let file = tempfile::tempfile_in(folder).map_err(ExecError::from)?;
        let mut shape = Vec::new();
        let stored = data.stored();
        for role in [Role::Train, Role::Validation, Role::Test] {
            for batch in data.batches(role, CACHED_AT_ONCE) {
                let output = self.answer(&batch)?.output;
                shape = dims(&output)[1..].to_vec();
                let width: usize = shape.iter().product();
                let elements = to_host(output);
                let places = places(&batch, stored);
                for (place, row) in places.zip(elements.chunks(width.max(1))) {
                    let bytes: Vec<u8> = row.iter().flat_map(|value| value.to_le_bytes()).collect();
                    let written = file.write_all_at(&bytes, place * (width * 4) as u64);
                    written.map_err(ExecError::from)?;
                }
                between()?;
            }
        }
        Ok(Teachers {
            device,
            source: Source::Kept {
                file,
                shape,
                stored,
            },
            average: self.average,
            views: None,
            class_map: None,
        })
    }

    /// What the teachers say about a batch. Kept answers are about the examples as they are stored.
    pub fn answer(&self, batch: &Batch) -> Result<Answer, ExecError> {
        match &self.source {
            Source::Kept {
                file,
                shape,
                stored,
            } => {
                let width: usize = shape.iter().product();
                let mut bytes = vec![0; width * 4];
                let mut elements = Vec::with_capacity(batch.count * width);
                for place in places(batch, *stored) {
                    file.read_exact_at(&mut bytes, place * (width * 4) as u64)?;
                    let chunks = bytes.as_chunks::<4>().0.iter();
                    elements.extend(chunks.map(|&chunk| f32::from_le_bytes(chunk)));
                }
                let shape: Vec<usize> = [batch.count].into_iter().chain(shape.clone()).collect();
                Ok(Answer {
                    output: from_host(&shape, elements, self.device.plain()),
                    tensors: Vec::new(),
                })
            }
            Source::Live(members) => self.ask(members, batch),
        }
    }

    fn ask(&self, members: &[Member], batch: &Batch) -> Result<Answer, ExecError> {
        let mut tensors = Vec::new();
        let mut sum: Option<Value> = None;
        let views = self.views.map_or(1, |(views, _)| u64::from(views.count));
        let answers = members.len() as u64 * views;
        let owned: Vec<Cow<Batch>> = members
            .iter()
            .map(|member| member.teacher.data.same_view(batch))
            .collect();
        let each = members.iter().zip(&owned);
        for ((member, own), view) in each.flat_map(|each| (0..views).map(move |view| (each, view)))
        {
            let mut values = self.run(member, &self.seen(member, own, view))?;
            let mut output = values.pop().expect("a program gives what it was asked for");
            tensors.extend(values);
            let last = dims(&output).len() - 1;
            if let Some(map) = self.class_map {
                let map: Vec<usize> = map.iter().map(|&class| class as usize).collect();
                let map = indices(&map, self.device.plain());
                output = Dispatch::float_select(output, last, map);
            }
            if answers > 1 && self.average == Average::Probabilities {
                output = Dispatch::float_exp(Dispatch::log_softmax(output, last));
            }
            sum = Some(match sum {
                Some(sum) => Dispatch::float_add(sum, output),
                None => output,
            });
        }
        let mut output = sum.expect("there is a teacher");
        if answers > 1 {
            output = Dispatch::float_mul_scalar(output, (1.0 / answers as f32).into());
            if self.average == Average::Probabilities {
                // Tiny, so that an impossible class stays finite.
                let least = Dispatch::float_add_scalar(output, 1e-30f32.into());
                output = Dispatch::float_log(least);
            }
        }
        Ok(Answer { output, tensors })
    }

    /// View `index` of a batch that one model gets: the first is the batch as it is.
    fn seen<'b>(&self, member: &Member, batch: &'b Batch, index: u64) -> Cow<'b, Batch> {
        let Some((views, seed)) = self.views.filter(|_| index > 0) else {
            return Cow::Borrowed(batch);
        };
        // Batches are told apart by their first examples.
        let first = u64::from(batch.indices.first().copied().unwrap_or_default());
        let place = index << 33 | u64::from(batch.in_test) << 32 | first;
        let view = View {
            augment: views.augment.clone(),
            seed: seed ^ place.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        Cow::Owned(member.teacher.data.viewed(batch, view))
    }

    /// The values of one model for a batch that it sees, in parts where the file fixes the batch size.
    fn run(&self, member: &Member, own: &Batch) -> Result<Vec<Value>, ExecError> {
        let graph = &member.teacher.graph;
        let size = batch_of(graph, own.count);
        let mut parts: Vec<Vec<Value>> = Vec::new();
        for start in (0..own.count).step_by(size.max(1)) {
            let part = own.part(start, size);
            let (inputs, fed) = feed(graph, self.device, &part)?;
            let mut programs = member.programs.borrow_mut();
            let outcome =
                programs
                    .of(fed)?
                    .run(self.device, &member.parameters, &inputs, Mode::Evaluate)?;
            let values = outcome.outputs.into_iter().map(|output| {
                let value = output.on_device(self.device);
                match fed == part.count {
                    true => value,
                    false => first_rows(value, part.count),
                }
            });
            for (index, value) in values.enumerate() {
                match parts.get_mut(index) {
                    Some(all) => all.push(value),
                    None => parts.push(vec![value]),
                }
            }
        }
        let joined = |mut all: Vec<Value>| match all.len() {
            1 => all.remove(0),
            _ => Dispatch::float_cat(all, 0),
        };
        Ok(parts.into_iter().map(joined).collect())
    }
}

/// Where the answers about a batch's examples stand in the file.
fn places(batch: &Batch, stored: usize) -> impl Iterator<Item = u64> {
    let before = if batch.in_test { stored as u64 } else { 0 };
    let indices = batch.indices.clone().into_iter();
    indices.map(move |place| before + u64::from(place))
}

fn first_rows(value: Value, count: usize) -> Value {
    let mut slices = vec![Slice::new(0, Some(count as isize), 1)];
    slices.extend(
        dims(&value)[1..]
            .iter()
            .map(|&size| Slice::new(0, Some(size as isize), 1)),
    );
    Dispatch::float_slice(value, &slices)
}
