//! Attention and RotaryEmbedding of opset 23.

use burn::backend::Dispatch;
use burn::backend::DispatchDevice;
use burn::backend::ops::{ActivationOps, FloatTensorOps};

use super::linear::multiplied;
use super::shape::{select, slice};
use crate::exec::value::{Value, bool_type, dims, expand, from_host, full, reshape, with_rank};
use crate::graph::params::{RuleError, check_broadcasts, check_shape};
use crate::graph::{Known, Slicing};
use crate::host::is_float;
use crate::onnx::proto::{NodeProto, data_type};

type B = Dispatch;

/// What a score gets where a mask forbids it.
const FORBIDDEN: f32 = -1e30;

/// Attention without a cache: `softmax(scale · Q · Kᵀ + mask) · V` (Vaswani et al., 2017, eq. 1).
#[derive(Debug, Clone)]
pub(in crate::exec) struct Attention {
    /// Numbers of heads of queries and of keys and values, where the inputs have rank 3.
    heads: Option<(usize, usize)>,
    scale: Option<f32>,
    softcap: f32,
    causal: bool,
    /// Whether the mask's elements say who may be seen (bool), not what is added.
    says_who: bool,
}

impl Attention {
    pub fn of(node: &NodeProto, inputs: &[Option<&Known>]) -> Result<Self, RuleError> {
        let there = |index: usize| inputs.get(index).copied().flatten();
        if (4..7).any(|index| there(index).is_some()) {
            return Err(RuleError::new(
                "has past keys or lengths, which devices don't follow",
            ));
        }
        let rank = |index: usize| there(index).map_or(0, |known| known.dims.len());
        let windowed = |name: &str| node.int(name).is_some_and(|size| size >= 0);
        if windowed("left_window_size") || windowed("right_window_size") {
            return Err(RuleError::new(
                "sees a window only, which devices don't follow",
            ));
        }
        if rank(3) == 1 {
            return Err(RuleError::new("has a mask of one axis"));
        }
        let integer = |mask: &Known| !is_float(mask.data_type) && mask.data_type != data_type::BOOL;
        if there(3).is_some_and(integer) {
            return Err(RuleError::new(
                "has a mask of integers, which devices don't add",
            ));
        }
        let count = |name: &str| {
            node.int(name)
                .and_then(|count| usize::try_from(count).ok())
                .filter(|&count| count > 0)
                .ok_or_else(|| RuleError::new(format!("has no `{name}`")))
        };
        let heads = match rank(0) {
            3 => Some((count("q_num_heads")?, count("kv_num_heads")?)),
            4 => None,
            other => return Err(RuleError::new(format!("has queries of rank {other}"))),
        };
        let shape = |index: usize, count: Option<usize>| -> Result<[usize; 4], RuleError> {
            let dims = there(index).map_or(&[][..], |known| &known.dims);
            match (dims, count) {
                (&[b, h, rows, width], None) => Ok([b, h, rows, width]),
                (&[b, rows, width], Some(h)) if width % h == 0 => Ok([b, h, rows, width / h]),
                _ => Err(RuleError::new(format!(
                    "has an input {index} of shape {dims:?}"
                ))),
            }
        };
        let q = shape(0, heads.map(|(own, _)| own))?;
        let k = shape(1, heads.map(|(_, shared)| shared))?;
        let v = shape(2, heads.map(|(_, shared)| shared))?;
        if k[0] != q[0]
            || v[..3] != k[..3]
            || k[3] != q[3]
            || k[1] == 0
            || q[1] % k[1] != 0
            || [q, k, v].iter().flatten().any(|&size| size == 0)
        {
            return Err(RuleError::new(format!(
                "has queries {q:?}, keys {k:?} and values {v:?} that don't fit together"
            )));
        }
        if let Some(mask) = there(3) {
            check_broadcasts("mask", &mask.dims, &[q[0], q[1], q[2], k[2]])?;
        }
        Ok(Self {
            heads,
            scale: node.float("scale"),
            softcap: node.float("softcap").unwrap_or(0.0),
            causal: node.int("is_causal").unwrap_or(0) == 1,
            says_who: there(3).is_some_and(|mask| mask.data_type == data_type::BOOL),
        })
    }

    pub fn run(
        &self,
        q: Value,
        k: Value,
        v: Value,
        mask: Option<Value>,
        device: &DispatchDevice,
    ) -> Value {
        let (q, k, v) = match self.heads {
            None => (q, k, v),
            Some((own, shared)) => (in_heads(q, own), in_heads(k, shared), in_heads(v, shared)),
        };
        let (shape, keys, width) = (dims(&q), dims(&k)[2], dims(&v)[3]);
        let (batch, heads, rows, depth) = (shape[0], shape[1], shape[2], shape[3]);
        let (k, v) = (repeated(k, heads), repeated(v, heads));
        let scale = self.scale.unwrap_or(1.0 / (depth.max(1) as f32).sqrt());
        let q = B::float_mul_scalar(q, scale.into());
        let mut scores = multiplied(q, B::float_swap_dims(k, 2, 3));
        if self.softcap > 0.0 {
            let bent = B::float_tanh(B::float_div_scalar(scores, self.softcap.into()));
            scores = B::float_mul_scalar(bent, self.softcap.into());
        }
        if self.causal {
            let seen = (0..rows * keys).map(|at| match at % keys.max(1) > at / keys.max(1) {
                true => FORBIDDEN,
                false => 0.0,
            });
            let seen = from_host(&[1, 1, rows, keys], seen.collect(), device);
            scores = B::float_add(scores, seen);
        }
        // What a mask hides gets no weight at all, also in a row in which it hides everything.
        let mut visible = None;
        if let Some(mask) = mask {
            let mask = with_rank(mask, 4);
            visible = Some(match self.says_who {
                true => mask,
                false => {
                    scores =
                        B::float_add(scores, B::float_clamp_min(mask.clone(), FORBIDDEN.into()));
                    let kind = bool_type(&mask);
                    let hidden = B::float_lower_equal_elem(mask.clone(), FORBIDDEN.into(), kind);
                    B::float_mask_fill(full(&dims(&mask), 1.0, device), hidden, 0f32.into())
                }
            });
        }
        if let Some(visible) = &visible {
            let hidden = B::float_sub_scalar(visible.clone(), 1f32.into());
            scores = B::float_add(scores, B::float_mul_scalar(hidden, (-FORBIDDEN).into()));
        }
        let mut weights = B::softmax(scores, 3);
        if let Some(visible) = visible {
            weights = B::float_mul(weights, visible);
        }
        let seen = multiplied(weights, v);
        match self.heads {
            None => seen,
            Some(_) => reshape(
                B::float_swap_dims(seen, 1, 2),
                &[batch, rows, heads * width],
            ),
        }
    }
}

/// `[batch, rows, heads · width]` to `[batch, heads, rows, width]`.
fn in_heads(value: Value, heads: usize) -> Value {
    let shape = dims(&value);
    let split = reshape(value, &[shape[0], shape[1], heads, shape[2] / heads]);
    B::float_swap_dims(split, 1, 2)
}

/// Keys or values that several query heads share, once for each of them.
fn repeated(value: Value, heads: usize) -> Value {
    let shape = dims(&value);
    let times = heads / shape[1].max(1);
    if times <= 1 {
        return value;
    }
    let apart = reshape(value, &[shape[0], shape[1], 1, shape[2], shape[3]]);
    let wide = expand(apart, &[shape[0], shape[1], times, shape[2], shape[3]]);
    reshape(wide, &[shape[0], heads, shape[2], shape[3]])
}

/// RotaryEmbedding (Su et al., 2021): pairs of elements turned by an angle for each position.
#[derive(Debug, Clone)]
pub(in crate::exec) struct Rotary {
    /// Number of heads, where the input has rank 3.
    heads: Option<usize>,
    interleaved: bool,
    /// Elements of a head that turn; the others pass.
    turned: usize,
    /// Rows of the caches, one a batch and position; `None` where they come in that order.
    positions: Option<Vec<usize>>,
}

impl Rotary {
    pub fn of(node: &NodeProto, inputs: &[Option<&Known>]) -> Result<Self, RuleError> {
        let there = |index: usize| inputs.get(index).copied().flatten();
        let known = |index: usize| {
            there(index).ok_or_else(|| RuleError::new(format!("has no input {index}")))
        };
        let (x, cosines) = (&known(0)?.dims, &known(1)?.dims);
        let heads = node
            .int("num_heads")
            .and_then(|count| usize::try_from(count).ok());
        let (heads, width) = match (x.len(), heads) {
            (4, _) => (None, x[3]),
            (3, Some(heads)) if heads > 0 => (Some(heads), x[2] / heads),
            _ => return Err(RuleError::new("has no number of heads that fits its input")),
        };
        let [batch, rows] = match heads {
            Some(heads) if x[2] % heads != 0 => {
                return Err(RuleError::new(format!(
                    "has {heads} heads in a width of {}",
                    x[2]
                )));
            }
            Some(_) => [x[0], x[1]],
            None => [x[0], x[2]],
        };
        check_shape("sines", &known(2)?.dims, cosines)?;
        let turned = match node.int("rotary_embedding_dim").unwrap_or(0) {
            0 => width,
            some => usize::try_from(some).unwrap_or(usize::MAX),
        };
        if turned > width || turned % 2 != 0 || cosines.last() != Some(&(turned / 2)) {
            return Err(RuleError::new(format!(
                "turns {turned} of {width} elements by {cosines:?}"
            )));
        }
        let positions = match there(3) {
            None => {
                check_shape("cosines", cosines, &[batch, rows, turned / 2])?;
                None
            }
            Some(known) => {
                check_shape("positions", &known.dims, &[batch, rows])?;
                if cosines.len() != 2 {
                    return Err(RuleError::new(format!("has cosines of shape {cosines:?}")));
                }
                let ids = known
                    .ints()
                    .ok_or_else(|| RuleError::open("turns by positions"))?;
                let rows = cosines.first().copied().unwrap_or(0);
                let ids = ids
                    .into_iter()
                    .map(|id| usize::try_from(id).ok().filter(|&id| id < rows));
                let ids: Option<Vec<usize>> = ids.collect();
                Some(ids.ok_or_else(|| RuleError::new("has a position out of range"))?)
            }
        };
        Ok(Self {
            heads,
            interleaved: node.int("interleaved").unwrap_or(0) == 1,
            turned,
            positions,
        })
    }

    pub fn run(&self, x: Value, cosines: Value, sines: Value, device: &DispatchDevice) -> Value {
        let own = dims(&x);
        // `[batch, heads, rows, width]`
        let x = match self.heads {
            Some(heads) => in_heads(x, heads),
            None => x,
        };
        let shape = dims(&x);
        let half = self.turned / 2;
        let angles = |cache: Value| {
            let rows = match &self.positions {
                Some(ids) => select(cache, 0, ids, device),
                None => cache,
            };
            reshape(rows, &[shape[0], 1, shape[2], half])
        };
        let (cosines, sines) = (angles(cosines), angles(sines));
        let stretch = |value: Value, start: usize, step: i64, count: usize| {
            let mut ranges: Vec<_> = dims(&value).iter().map(|&size| (0, 1, size)).collect();
            ranges[3] = (start, step, count);
            slice(value, &Slicing { ranges }, device)
        };
        let (first, second) = match self.interleaved {
            true => (
                stretch(x.clone(), 0, 2, half),
                stretch(x.clone(), 1, 2, half),
            ),
            false => (
                stretch(x.clone(), 0, 1, half),
                stretch(x.clone(), half, 1, half),
            ),
        };
        let real = B::float_sub(
            B::float_mul(first.clone(), cosines.clone()),
            B::float_mul(second.clone(), sines.clone()),
        );
        let imaginary = B::float_add(B::float_mul(first, sines), B::float_mul(second, cosines));
        let turned = match self.interleaved {
            false => B::float_cat(vec![real, imaginary], 3),
            true => {
                let flat = [&shape[..3], &[half, 1]].concat();
                let pairs = vec![reshape(real, &flat), reshape(imaginary, &flat)];
                let whole = [&shape[..3], &[self.turned]].concat();
                reshape(B::float_cat(pairs, 4), &whole)
            }
        };
        let whole = match self.turned < shape[3] {
            true => {
                let rest = stretch(x, self.turned, 1, shape[3] - self.turned);
                B::float_cat(vec![turned, rest], 3)
            }
            false => turned,
        };
        match self.heads {
            Some(_) => reshape(B::float_swap_dims(whole, 1, 2), &own),
            None => whole,
        }
    }
}
