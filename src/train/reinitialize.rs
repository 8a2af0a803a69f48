//! Fresh weights for training from nothing.

use std::collections::BTreeMap;

use rand::{RngExt, SeedableRng};
use rand_distr::StandardNormal;

use crate::graph::{Family, Graph, defined_weights, family};

/// Replaces all trained numbers: kernels by He initialisation (He et al., "Delving Deep into
/// Rectifiers", 2015, eq. 10: normal with the deviation `√(2 ÷ fan_in)`), embeddings normal with the
/// deviation 0.02 (Devlin et al., "BERT", 2019), recurrent layers uniform within `1 ÷ √hidden` as
/// PyTorch has them, normalisation scales by 1, biases and shifts by 0, running means by 0 and
/// variances by 1. Slopes of PRelu become 0.25.
pub fn reinitialize(graph: &mut Graph, seed: u64) {
    enum Fresh {
        Kernel { fan_in: usize },
        Normal { deviation: f32 },
        Uniform { most: f32 },
        Constant(f32),
    }
    let mut fresh: BTreeMap<String, Fresh> = BTreeMap::new();
    for node in &graph.nodes {
        let role = family(node);
        for (index, name) in node.input.iter().enumerate() {
            let Some(tensor) = graph
                .initializers
                .get(name)
                .filter(|t| t.floats().is_some())
            else {
                continue;
            };
            let dims = &tensor.dims;
            let kernel = dims.len() >= 2;
            let value = match (role, index) {
                (Some(Family::Conv), 1) if kernel => Fresh::Kernel {
                    fan_in: dims[1..].iter().product(),
                },
                (Some(Family::ConvTranspose), 1) if kernel => Fresh::Kernel {
                    fan_in: dims[0] * dims[2..].iter().product::<usize>(),
                },
                (Some(Family::Gemm), 0 | 1) if kernel => {
                    let turned = node.int(if index == 1 { "transB" } else { "transA" });
                    let inner = usize::from((turned.unwrap_or(0) == 1) == (index == 1));
                    Fresh::Kernel {
                        fan_in: dims[inner],
                    }
                }
                (Some(Family::MatMul), 1) if kernel => Fresh::Kernel {
                    fan_in: dims[dims.len() - 2],
                },
                (Some(Family::MatMul), 0) if kernel => Fresh::Kernel {
                    fan_in: dims[dims.len() - 1],
                },
                (Some(Family::Conv | Family::ConvTranspose | Family::Gemm), 2) => {
                    Fresh::Constant(0.0)
                }
                (Some(Family::BatchNormalization), 1 | 4) => Fresh::Constant(1.0),
                (Some(Family::BatchNormalization), 2 | 3) => Fresh::Constant(0.0),
                (Some(Family::LayerNormalization | Family::GroupNormalization), 1) => {
                    Fresh::Constant(1.0)
                }
                (Some(Family::LayerNormalization | Family::GroupNormalization), 2) => {
                    Fresh::Constant(0.0)
                }
                (Some(Family::Gather), 0) if kernel => Fresh::Normal { deviation: 0.02 },
                (Some(Family::Recurrent), 1..=3 | 7) => {
                    let recurrence = node.input_at(2).and_then(|own| graph.initializers.get(own));
                    let hidden = recurrence.and_then(|own| own.dims.last().copied());
                    Fresh::Uniform {
                        most: 1.0 / (hidden.unwrap_or(1).max(1) as f32).sqrt(),
                    }
                }
                (Some(Family::PRelu), 1) => Fresh::Constant(0.25),
                (Some(Family::Host), _) if defined_weights(node).contains(&index) => {
                    match (node.operator(), index) {
                        ("EmbedLayerNormalization", 2..=4) => Fresh::Normal { deviation: 0.02 },
                        ("EmbedLayerNormalization", 5)
                        | ("SkipLayerNormalization" | "SkipSimplifiedLayerNormalization", 2)
                        | ("LayerNormalization" | "SimplifiedLayerNormalization", 1) => {
                            Fresh::Constant(1.0)
                        }
                        ("DeformConv" | "CausalConvWithState" | "FusedConv", 1) if kernel => {
                            Fresh::Kernel {
                                fan_in: dims[1..].iter().product(),
                            }
                        }
                        _ if kernel => {
                            let turned = node.int(if index == 1 { "transB" } else { "transA" });
                            let inner = usize::from((turned.unwrap_or(0) == 1) == (index == 1));
                            Fresh::Kernel {
                                fan_in: dims[dims.len() - 2 + inner],
                            }
                        }
                        _ => Fresh::Constant(0.0),
                    }
                }
                // The bias behind a MatMul is a sum of its own.
                (Some(Family::Binary), _) if node.operator() == "Add" && tensor.elements() > 1 => {
                    Fresh::Constant(0.0)
                }
                _ => continue,
            };
            fresh.entry(name.clone()).or_insert(value);
        }
    }
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed ^ 0x1717);
    for (name, value) in fresh {
        let Some(tensor) = graph.initializers.get_mut(&name) else {
            continue;
        };
        let count = tensor.elements();
        let mut normal = |deviation: f32| {
            let one = |_| deviation * random.sample::<f32, _>(StandardNormal);
            (0..count).map(one).collect()
        };
        let values = match value {
            Fresh::Constant(constant) => vec![constant; count],
            Fresh::Normal { deviation } => normal(deviation),
            Fresh::Kernel { fan_in } => normal((2.0 / fan_in.max(1) as f32).sqrt()),
            Fresh::Uniform { most } => (0..count)
                .map(|_| random.random_range(-most..=most))
                .collect(),
        };
        tensor.set_floats(values);
    }
}
