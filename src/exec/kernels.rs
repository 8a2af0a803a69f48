//! The processor's own fast paths, with their own gradients.
//!
//! A [`Kernel`] computes on the elements of Burn's `flex` tensors, on all threads and with the widest
//! vectors that the processor has (found when it runs), and is attached to Burn's recording by
//! [`run`]. Every other device keeps Burn's kernels: [`run`] takes values of any device and answers
//! `None` for those.

mod adam;
mod arch;
mod arrange;
mod conv;
mod correlate;
mod dots;
mod elementwise;
mod fixed;
mod functions;
mod gather;
mod lstm;
mod math;
mod norm;
mod planes;
mod pool;
mod product;
mod slide;
mod tiles;
mod turn;

pub(crate) use adam::{Adam, adam};
pub(super) use arrange::reshape;
pub(super) use conv::convolve;
pub(super) use elementwise::elementwise;
pub(super) use fixed::Fixed;
pub(super) use gather::gather;
pub(super) use lstm::lstm;
pub(super) use norm::{batch_norm_train, layer_norm, softmax};
pub(super) use pool::{global_average, pool};
pub(super) use product::product;

use std::cell::RefCell;
use std::fmt::Debug;
use std::marker::PhantomData;

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, AutodiffBackend, BackendTensor, Dispatch, DispatchTensor, DispatchTensorKind, Flex,
};
use burn::tensor::TensorData;
use rayon::prelude::*;

use self::arch::Arch;
use self::arrange::arranged;
use super::value::Value;

/// A computation of `N` inputs with a gradient of its own.
pub(super) trait Kernel<const N: usize>: Clone + Debug + Send + 'static {
    /// What the forward pass leaves to the backward pass.
    type Kept: Clone + Debug + Send + 'static;

    /// Whether an input can be read as it lies; others are made contiguous first.
    fn accepts(&self, input: &FlexTensor) -> bool {
        input.is_contiguous()
    }

    /// The inputs are contiguous, or as [`Kernel::accepts`] says.
    fn forward(&self, inputs: [FlexTensor; N]) -> (FlexTensor, Self::Kept);

    /// Gradients by the inputs that are `wanted`. `gradient`, by the result, is contiguous.
    fn backward(
        &self,
        kept: Self::Kept,
        gradient: FlexTensor,
        wanted: [bool; N],
    ) -> [Option<FlexTensor>; N];
}

/// The result of `kernel`, and what it leaves; `None` where an input is on another device.
pub(super) fn run<const N: usize, K: Kernel<N>>(
    kernel: &K,
    inputs: [&Value; N],
) -> Option<(Value, K::Kept)> {
    let fitting = |input: &FlexTensor| match kernel.accepts(input) {
        true => input.clone(),
        false => arranged(input),
    };
    if inputs.iter().all(|input| plain(input).is_some()) {
        let inputs = inputs.map(|input| plain(input).expect("looked at just before"));
        let (out, kept) = kernel.forward(inputs.map(fitting));
        return Some((value(out), kept));
    }
    // Plain values become constants of the recording.
    let lifted = inputs.map(|input| match input.kind {
        DispatchTensorKind::Autodiff(_) => input.clone(),
        _ => Dispatch::from_inner(input.clone()),
    });
    let autodiff = lifted[1..]
        .iter()
        .fold(lifted[0].autodiff, |all, next| all.merge(next.autodiff));
    let mut all_recorded = Vec::with_capacity(N);
    for input in &lifted {
        all_recorded.push(recorded(input)?.clone());
    }
    let recorded = all_recorded;
    let nodes = std::array::from_fn(|index| recorded[index].node());
    let given = std::array::from_fn(|index| fitting(recorded[index].primitive()));
    let (out, kept) = kernel.forward(given);
    let out = match Step::<K>(PhantomData)
        .prepare::<NoCheckpointing>(nodes)
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(preparation) => preparation.finish((kernel.clone(), kept.clone()), out),
        OpsKind::UnTracked(preparation) => preparation.finish(out),
    };
    let kind = DispatchTensorKind::Flex(BackendTensor::Autodiff(out));
    let out = DispatchTensor {
        kind: DispatchTensorKind::Autodiff(Box::new(kind)),
        autodiff,
    };
    Some((out, kept))
}

/// The backward step of a kernel.
struct Step<K>(PhantomData<fn() -> K>);

impl<K> Debug for Step<K> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Step")
    }
}

impl<const N: usize, K: Kernel<N>> Backward<Flex, N> for Step<K> {
    type State = (K, K::Kept);

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = arranged(&gradients.consume::<Flex>(&ops.node));
        let (kernel, kept) = ops.state;
        let wanted = std::array::from_fn(|index| ops.parents[index].is_some());
        let found = kernel.backward(kept, gradient, wanted);
        for (node, found) in ops.parents.into_iter().zip(found) {
            if let (Some(node), Some(found)) = (node, found) {
                gradients.register::<Flex>(node.id, found);
            }
        }
    }
}

/// The tensor of a value that is on the processor and not recorded.
fn plain(value: &Value) -> Option<&FlexTensor> {
    match &value.kind {
        DispatchTensorKind::Flex(BackendTensor::Float(tensor)) => Some(tensor),
        _ => None,
    }
}

/// The tensor of a value that is on the processor and recorded.
fn recorded(value: &Value) -> Option<&FloatTensor<Autodiff<Flex>>> {
    let DispatchTensorKind::Autodiff(inner) = &value.kind else {
        return None;
    };
    match &**inner {
        DispatchTensorKind::Flex(tensor) => Some(tensor.as_autodiff()),
        _ => None,
    }
}

fn value(tensor: FlexTensor) -> Value {
    DispatchTensor {
        kind: DispatchTensorKind::Flex(BackendTensor::Float(tensor)),
        autodiff: Default::default(),
    }
}

fn tensor(elements: Vec<f32>, dims: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(elements, dims.to_vec()))
}

/// The elements of a contiguous tensor.
fn elements(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice::<f32>()
        .expect("kernels get contiguous tensors of float32")
}

/// The first `N` of `given`, the default behind them: what there is for each input, of a kernel whose last
/// ones may be missing.
fn first<T: Default, const M: usize, const N: usize>(given: [T; M]) -> [T; N] {
    let mut given = given.into_iter();
    std::array::from_fn(|_| given.next().unwrap_or_default())
}

/// `target[i] += source[i]`
#[inline(always)]
fn add(target: &mut [f32], source: &[f32]) {
    target.iter_mut().zip(source).for_each(|(t, s)| *t += *s);
}

/// Copies `source` to `target`, of the same length. Where these are short, a call of `memmove` takes
/// longer than the copying, which is in pieces that overlap at the end.
#[inline(always)]
fn copy(target: &mut [f32], source: &[f32]) {
    #[inline(always)]
    fn pieces<const N: usize>(target: &mut [f32], source: &[f32]) {
        let last = target.len() - N;
        let mut at = 0;
        loop {
            target[at..at + N].copy_from_slice(&source[at..at + N]);
            if at == last {
                return;
            }
            at = (at + N).min(last);
        }
    }
    let source = &source[..target.len()];
    match target.len() {
        0 => {}
        1..4 => pieces::<1>(target, source),
        4..8 => pieces::<4>(target, source),
        8..64 => pieces::<8>(target, source),
        _ => target.copy_from_slice(source),
    }
}

/// Copies `N` elements from each of `places`, one after the other.
#[inline(always)]
fn copy_from_each<const N: usize>(
    source: &[f32],
    places: impl Iterator<Item = usize>,
    out: &mut [f32],
) {
    let (out, _) = out.as_chunks_mut::<N>();
    for (out, place) in out.iter_mut().zip(places) {
        out.copy_from_slice(&source[place..place + N]);
    }
}

fn dims(tensor: &FlexTensor) -> Vec<usize> {
    tensor.layout().shape().to_vec()
}

/// Whether the last two axes of a tensor can be walked: neighbours are other elements, which come behind. In
/// a broadcast axis they are the same.
fn is_walkable(tensor: &FlexTensor) -> bool {
    let layout = tensor.layout();
    let axes = layout.strides().iter().zip(layout.shape().iter()).rev();
    layout.has_positive_strides() && axes.take(2).all(|(&step, &size)| step != 0 || size <= 1)
}

/// The gradient where the result is between the ends of a clip, zero elsewhere.
fn inside(gradient: &FlexTensor, out: &FlexTensor, [low, high]: [f32; 2]) -> FlexTensor {
    const TASK: usize = 16384;
    let (from, results) = (elements(gradient), elements(out));
    let arch = Arch::new();
    let masked = written(from.len(), |masked| {
        masked
            .par_chunks_mut(TASK)
            .zip(from.par_chunks(TASK).zip(results.par_chunks(TASK)))
            .for_each(|(masked, (from, results))| {
                arch.run(
                    #[inline(always)]
                    || {
                        let both = from.iter().zip(results);
                        for (masked, (gradient, result)) in masked.iter_mut().zip(both) {
                            let inside = *result > low && *result < high;
                            *masked = if inside { *gradient } else { 0.0 };
                        }
                    },
                );
            });
    });
    tensor(masked, &dims(gradient))
}

/// Makes the thread that asks for work one of those that do it; without that, each piece of work wakes
/// the others and sleeps meanwhile. To be called once, before any work.
pub fn work_on_this_thread() {
    // Where threads work already they stay as they are.
    let _ = rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global();
}

/// Elements of a line of the cache.
const LINE: usize = 16;

/// Works with memory of this thread, which holds what was left in it. It is kept for the next call,
/// because fresh memory takes longer to clear than many results take to compute; work within work has
/// its own.
fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local! {
        static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
    }
    let mut own = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if own.len() < len + LINE {
        own.resize(len + LINE, 0.0);
    }
    // Vectors that cross lines of the cache take twice as long to read.
    let start = own
        .as_ptr()
        .align_offset(size_of::<[f32; LINE]>())
        .min(LINE);
    let result = work(&mut own[start..start + len]);
    FREE.with_borrow_mut(|free| free.push(own));
    result
}

/// Works with zeros of this thread.
fn with_zeros<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    with_scratch(len, |buffer| {
        buffer.fill(0.0);
        work(buffer)
    })
}

/// A vector of `len` elements that `write` makes.
fn written(len: usize, write: impl FnOnce(&mut [f32])) -> Vec<f32> {
    let mut all = all_written(&[len], |mut all| write(all.remove(0)));
    all.remove(0)
}

/// Vectors of these lengths that `write` makes. What it is given is not zero: clearing large results
/// takes as long as computing many of them.
///
/// In debug builds the elements are NaN beforehand, so that every test of a kernel shows one that was
/// left out.
#[expect(
    unsafe_code,
    reason = "`write` reads only what it has written before the length is set"
)]
fn all_written(lens: &[usize], write: impl FnOnce(Vec<&mut [f32]>)) -> Vec<Vec<f32>> {
    let mut all: Vec<Vec<f32>> = lens.iter().map(|&len| Vec::with_capacity(len)).collect();
    if cfg!(debug_assertions) {
        for (out, &len) in all.iter_mut().zip(lens) {
            out.resize(len, f32::NAN);
        }
        write(all.iter_mut().map(Vec::as_mut_slice).collect());
        return all;
    }
    let slices = all.iter_mut().zip(lens).map(|(out, &len)| {
        // SAFETY: the memory is allocated and aligned for `len` elements, and every bit pattern is
        // an f32. All callers are in this module and overwrite each element before they read it.
        unsafe { std::slice::from_raw_parts_mut(out.as_mut_ptr(), len) }
    });
    write(slices.collect());
    for (out, &len) in all.iter_mut().zip(lens) {
        // SAFETY: the capacity is at least `len`, and the elements have been written.
        unsafe { out.set_len(len) };
    }
    all
}
