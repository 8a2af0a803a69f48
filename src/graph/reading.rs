//! How kernels lie against the data that they read.

use super::params::{self, RuleError, Window};
use super::{Family, Graph, family};
use crate::onnx::proto::NodeProto;

/// The kernel of a convolution, matrix product or recurrent layer, and the value that it is multiplied with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Index of the node.
    pub node: usize,
    pub kernel: String,
    pub data: String,
    pub form: Form,
}

/// What the axes of a kernel are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `[outputs, channels of a group, taps …]`
    Convolution { groups: usize },
    /// `[channels, outputs of a group, taps …]`
    Transposed,
    /// `[channels, outputs]`, or the other way round where `turned`; the data have the channels on their
    /// last axis, or the one before that.
    Product { turned: bool, last: bool },
    /// `[directions, gates · hidden units, channels]` of a recurrent layer; the data have the channels on
    /// their last axis and the examples on axis `example`.
    Gates { example: usize },
}

impl Reading {
    /// The kernels of a graph that are weights, in the order of the nodes; one that several nodes use
    /// is there for each.
    pub fn all(graph: &Graph) -> Vec<Self> {
        let nodes = graph.nodes.iter().enumerate();
        nodes
            .flat_map(|(index, node)| match family(node) {
                Some(Family::Recurrent) => Self::of_gates(graph, index, node),
                _ => Vec::from_iter(Self::of(graph, index, node)),
            })
            .collect()
    }

    /// The two kernels of a recurrent layer: the second reads what the layer itself said a step before.
    fn of_gates(graph: &Graph, index: usize, node: &NodeProto) -> Vec<Self> {
        let batch_first = node.int("layout").unwrap_or(0) == 1;
        let made = node.output.first().map(String::as_str);
        let made = made.filter(|name| !name.is_empty());
        let ways = [
            (node.input_at(0), usize::from(!batch_first)),
            (made, if batch_first { 0 } else { 2 }),
        ];
        let ways = ways.into_iter().enumerate();
        ways.filter_map(|(way, (data, example))| {
            let (kernel, data) = (node.input_at(way + 1)?, data?);
            let weight = graph.initializers.get(kernel)?.floats().is_some();
            (weight && !graph.initializers.contains_key(data)).then(|| Self {
                node: index,
                kernel: kernel.to_owned(),
                data: data.to_owned(),
                form: Form::Gates { example },
            })
        })
        .collect()
    }

    fn of(graph: &Graph, index: usize, node: &NodeProto) -> Option<Self> {
        let is_weight = |input: usize| {
            let tensor = graph.initializers.get(node.input_at(input)?)?;
            Some(tensor.floats().is_some() && tensor.dims.len() >= 2)
        };
        let turned = |name: &str| node.int(name).unwrap_or(0) == 1;
        let (place, form) = match family(node)? {
            Family::Conv => {
                let groups = node.int("group").unwrap_or(1).max(1) as usize;
                (1, Form::Convolution { groups })
            }
            Family::ConvTranspose => (1, Form::Transposed),
            Family::Gemm
                if is_weight(1) == Some(true) && node.float("alpha").unwrap_or(1.0) == 1.0 =>
            {
                let (turned, last) = (turned("transB"), !turned("transA"));
                (1, Form::Product { turned, last })
            }
            Family::MatMul => {
                let second = is_weight(1) == Some(true);
                let (turned, last) = (!second, second);
                (usize::from(second), Form::Product { turned, last })
            }
            _ => return None,
        };
        let (kernel, data) = (node.input_at(place)?, node.input_at(1 - place)?);
        let rank = graph.initializers.get(kernel)?.dims.len();
        let fits = is_weight(place) == Some(true)
            && !graph.initializers.contains_key(data)
            && (rank == 2 || !matches!(form, Form::Product { .. }));
        fits.then(|| Self {
            node: index,
            kernel: kernel.to_owned(),
            data: data.to_owned(),
            form,
        })
    }

    /// The axis of the data, of rank `rank`, that has the channels.
    pub fn channel_axis(&self, rank: usize) -> usize {
        match self.form {
            Form::Product { last, .. } => rank - if last { 1 } else { 2 },
            Form::Gates { .. } => rank - 1,
            _ => 1,
        }
    }

    /// The axis of the data that has the examples.
    pub fn example_axis(&self) -> usize {
        match self.form {
            Form::Gates { example } => example,
            _ => 0,
        }
    }

    /// The axis of the kernel that has the channels of the data, of one group.
    pub fn input_axis(&self) -> usize {
        match self.form {
            Form::Convolution { .. } => 1,
            Form::Transposed => 0,
            Form::Product { turned, .. } => usize::from(turned),
            Form::Gates { .. } => 2,
        }
    }

    /// The channels of the data that the elements of a kernel of shape `dims` at `indices` of `axis` are
    /// multiplied with; none where that is not told by this axis.
    pub fn channels_at(&self, dims: &[usize], axis: usize, indices: &[usize]) -> Vec<usize> {
        let groups = match self.form {
            Form::Convolution { groups } => groups,
            _ => 1,
        };
        let per_group = dims[self.input_axis()];
        if axis == self.input_axis() {
            let of_group = |group| indices.iter().map(move |index| group * per_group + index);
            return (0..groups).flat_map(of_group).collect();
        }
        if axis == 0 && groups > 1 && per_group == 1 {
            // Depthwise: an output is made of one channel.
            let mut channels: Vec<usize> = indices.iter().map(|o| o * groups / dims[0]).collect();
            channels.dedup();
            return channels;
        }
        Vec::new()
    }

    /// The channel of the data that the element `index` of a kernel of shape `dims` is multiplied with.
    pub fn channel_of(&self, dims: &[usize], index: usize) -> usize {
        let taps: usize = dims[2..].iter().product();
        let (first, second) = (index / taps / dims[1], index / taps % dims[1]);
        match self.form {
            Form::Convolution { groups } => first / (dims[0] / groups) * dims[1] + second,
            Form::Transposed => first,
            Form::Product { turned, .. } => match turned {
                true => second,
                false => first,
            },
            Form::Gates { .. } => index % dims[2],
        }
    }

    /// The kernel as matrices `[outputs of a group, features]`, one for each group; `None` for
    /// transposed convolutions and recurrent layers.
    pub fn matrix(&self, dims: &[usize]) -> Option<KernelMatrix> {
        match self.form {
            Form::Transposed | Form::Gates { .. } => None,
            Form::Convolution { groups } => Some(KernelMatrix {
                groups,
                outputs: dims[0] / groups,
                features: dims[1..].iter().product(),
                turned: true,
            }),
            Form::Product { turned, .. } => Some(KernelMatrix {
                groups: 1,
                outputs: dims[usize::from(!turned)],
                features: dims[usize::from(turned)],
                turned,
            }),
        }
    }

    /// The features that each position's outputs are made of; `None` where there is no [`Self::matrix`].
    /// `data` is the shape of what is read and `kernel` that of the kernel.
    pub fn features(
        &self,
        graph: &Graph,
        data: &[usize],
        kernel: &[usize],
    ) -> Result<Option<Features>, RuleError> {
        Ok(match self.form {
            Form::Transposed | Form::Gates { .. } => None,
            Form::Convolution { groups } => Some(Features::Windows {
                window: params::window(&graph.nodes[self.node], &data[2..], Some(&kernel[2..]))?,
                input: data[2..].to_vec(),
                channels: data[1] / groups,
                groups,
            }),
            Form::Product { .. } => {
                let axis = self.channel_axis(data.len());
                Some(Features::Axis {
                    channels: data[axis],
                    stride: data[axis + 1..].iter().product(),
                })
            }
        })
    }
}

/// Where the rows and columns of a kernel's matrices are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelMatrix {
    pub groups: usize,
    pub outputs: usize,
    pub features: usize,
    /// Whether the features of an output are neighbours.
    turned: bool,
}

impl KernelMatrix {
    /// The element of the kernel at `output` and `feature` of a group.
    pub fn index(&self, group: usize, output: usize, feature: usize) -> usize {
        match self.turned {
            true => (group * self.outputs + output) * self.features + feature,
            false => feature * self.outputs + output,
        }
    }
}

/// How the features of a position are found in the data, and its outputs in the result.
#[derive(Debug, Clone)]
pub enum Features {
    Windows {
        window: Window,
        input: Vec<usize>,
        /// Of a group.
        channels: usize,
        groups: usize,
    },
    Axis {
        channels: usize,
        /// Distance of neighbouring channels.
        stride: usize,
    },
}

impl Features {
    /// Positions in data of `elements` elements.
    pub fn positions(&self, elements: usize) -> usize {
        match self {
            Self::Windows {
                window,
                input,
                channels,
                groups,
            } => {
                let image = groups * channels * input.iter().product::<usize>();
                elements / image * window.output.iter().product::<usize>()
            }
            Self::Axis { channels, .. } => elements / channels,
        }
    }

    /// The features of a position, of one group, in the order of [`KernelMatrix`].
    pub fn read(&self, data: &[f32], position: usize, group: usize, mut each: impl FnMut(f32)) {
        match self {
            Self::Axis { channels, stride } => {
                let start = position / stride * stride * channels + position % stride;
                (0..*channels).for_each(|channel| each(data[start + channel * stride]));
            }
            Self::Windows {
                window,
                input,
                channels,
                groups,
            } => {
                let plane: usize = input.iter().product();
                let places: usize = window.output.iter().product();
                let (image, mut place) = (position / places, position % places);
                let mut corner = vec![0isize; input.len()];
                for axis in (0..input.len()).rev() {
                    let at = place % window.output[axis] * window.stride[axis];
                    corner[axis] = at as isize - window.pad_begin[axis] as isize;
                    place /= window.output[axis];
                }
                let taps: usize = window.kernel.iter().product();
                let offsets: Vec<Option<usize>> = (0..taps)
                    .map(|mut tap| {
                        let (mut offset, mut pitch) = (0, 1);
                        for axis in (0..input.len()).rev() {
                            let step = tap % window.kernel[axis] * window.dilation[axis];
                            let at = usize::try_from(corner[axis] + step as isize).ok()?;
                            if at >= input[axis] {
                                return None;
                            }
                            offset += at * pitch;
                            pitch *= input[axis];
                            tap /= window.kernel[axis];
                        }
                        Some(offset)
                    })
                    .collect();
                for channel in 0..*channels {
                    let start = ((image * groups + group) * channels + channel) * plane;
                    for offset in &offsets {
                        each(offset.map_or(0.0, |offset| data[start + offset]));
                    }
                }
            }
        }
    }

    /// Where the output `output` of `outputs` in all lies at a position.
    pub fn result(&self, position: usize, output: usize, outputs: usize) -> usize {
        let stride = match self {
            Self::Windows { window, .. } => window.output.iter().product(),
            Self::Axis { stride, .. } => *stride,
        };
        position / stride * stride * outputs + output * stride + position % stride
    }
}
