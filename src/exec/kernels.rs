//! The processor's own fast paths, with their own gradients.
//!
//! Burn's `flex` computes the gradients of a convolution by convolutions with kernels as large as
//! the image. Here they are matrix products ([`conv`]) or, for depthwise convolutions, passes over
//! planes ([`depthwise`]); batch normalisation reads its input without turning its axes
//! ([`batch_norm`]). Every other device keeps Burn's kernels: the functions here take values of any
//! device and answer `None` for those.

mod batch_norm;
mod conv;
mod depthwise;

pub(super) use batch_norm::batch_norm_train;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{
    AutodiffBackend, BackendTensor, Dispatch, DispatchTensor, DispatchTensorKind, Flex,
};
use burn::tensor::TensorData;

use super::value::{Value, dims, reshape};
use crate::graph::Window;

/// A convolution over two spatial axes with everything but the numbers settled.
#[derive(Debug, Clone)]
struct Shape {
    batch: usize,
    /// Of the input and of the output.
    channels: [usize; 2],
    /// Height and width.
    input: [usize; 2],
    output: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pad: [usize; 2],
    depthwise: bool,
}

impl Shape {
    /// `None` where there is no fast path.
    fn of(x: &[usize], w: &[usize], window: &Window, groups: usize) -> Option<Self> {
        let (&[batch, channels, height, width], &[outputs, per_group, ..]) = (x, w) else {
            return None;
        };
        let depthwise = groups > 1 && groups == channels && outputs == channels && per_group == 1;
        if groups != 1 && !depthwise {
            return None;
        }
        let pair = |values: &[usize]| [values[0], values[1]];
        Some(Self {
            batch,
            channels: [channels, outputs],
            input: [height, width],
            output: pair(&window.output),
            kernel: pair(&window.kernel),
            stride: pair(&window.stride),
            dilation: pair(&window.dilation),
            pad: pair(&window.pad_begin),
            depthwise,
        })
    }

    fn forward(&self, x: &FlexTensor, w: &FlexTensor) -> FlexTensor {
        match self.depthwise {
            true => depthwise::forward(self, x, w),
            false => conv::forward(self, x, w),
        }
    }

    fn input_gradient(&self, w: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
        match self.depthwise {
            true => depthwise::input_gradient(self, w, gradient),
            false => conv::input_gradient(self, w, gradient),
        }
    }

    fn weight_gradient(&self, x: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
        match self.depthwise {
            true => depthwise::weight_gradient(self, x, gradient),
            false => conv::weight_gradient(self, x, gradient),
        }
    }
}

/// Conv over two spatial axes: `x` is `[batch, channels, height, width]`, `w`
/// `[outputs, channels ÷ groups, height, width]`. `None` where the device or the form of the
/// convolution has no path of its own.
pub(super) fn conv2d(
    x: &Value,
    w: &Value,
    bias: Option<&Value>,
    window: &Window,
    groups: usize,
) -> Option<Value> {
    let shape = Shape::of(&dims(x), &dims(w), window, groups)?;
    let result = match (&x.kind, &w.kind) {
        (DispatchTensorKind::Flex(x), DispatchTensorKind::Flex(w)) => {
            let out = shape.forward(x.as_float(), w.as_float());
            DispatchTensor {
                kind: DispatchTensorKind::Flex(BackendTensor::Float(out)),
                autodiff: Default::default(),
            }
        }
        (DispatchTensorKind::Autodiff(_), _) | (_, DispatchTensorKind::Autodiff(_)) => {
            recorded(shape, lifted(x), lifted(w))?
        }
        _ => return None,
    };
    Some(match bias {
        None => result,
        Some(bias) => {
            let along = [1, dims(bias)[0], 1, 1];
            Dispatch::float_add(result, reshape(bias.clone(), &along))
        }
    })
}

/// The value as one that records; a plain one becomes a constant of the recording.
fn lifted(value: &Value) -> Value {
    match value.kind {
        DispatchTensorKind::Autodiff(_) => value.clone(),
        _ => Dispatch::from_inner(value.clone()),
    }
}

fn recorded(shape: Shape, x: Value, w: Value) -> Option<Value> {
    let autodiff = x.autodiff.merge(w.autodiff);
    let (DispatchTensorKind::Autodiff(x), DispatchTensorKind::Autodiff(w)) = (x.kind, w.kind)
    else {
        return None;
    };
    let (DispatchTensorKind::Flex(x), DispatchTensorKind::Flex(w)) = (*x, *w) else {
        return None;
    };
    let (x, w) = (x.autodiff(), w.autodiff());
    let out = match ConvGradient
        .prepare::<NoCheckpointing>([x.node(), w.node()])
        .compute_bound()
        .stateful()
    {
        OpsKind::Tracked(mut preparation) => {
            let kept = (preparation.checkpoint(&x), preparation.checkpoint(&w));
            let out = shape.forward(x.primitive(), w.primitive());
            preparation.finish((kept.0, kept.1, shape), out)
        }
        OpsKind::UnTracked(preparation) => {
            preparation.finish(shape.forward(x.primitive(), w.primitive()))
        }
    };
    let kind = DispatchTensorKind::Flex(BackendTensor::Autodiff(out));
    Some(DispatchTensor {
        kind: DispatchTensorKind::Autodiff(Box::new(kind)),
        autodiff,
    })
}

/// The backward step of [`conv2d`].
#[derive(Debug)]
struct ConvGradient;

impl Backward<Flex, 2> for ConvGradient {
    type State = (NodeId, NodeId, Shape);

    fn backward(
        self,
        ops: Ops<Self::State, 2>,
        gradients: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let [x_node, w_node] = ops.parents;
        let gradient = gradients.consume::<Flex>(&ops.node).to_contiguous();
        let (x, w, shape) = ops.state;
        // Both are taken out of the checkpointer, used or not, as it expects.
        let x = checkpointer.retrieve_node_output::<FlexTensor>(x);
        let w = checkpointer.retrieve_node_output::<FlexTensor>(w);
        if let Some(node) = x_node {
            gradients.register::<Flex>(node.id, shape.input_gradient(&w, &gradient));
        }
        if let Some(node) = w_node {
            gradients.register::<Flex>(node.id, shape.weight_gradient(&x, &gradient));
        }
    }
}

fn tensor(elements: Vec<f32>, dims: &[usize]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(elements, dims.to_vec()))
}

/// The elements of a contiguous tensor.
fn elements(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice::<f32>()
        .expect("made contiguous just before")
}
