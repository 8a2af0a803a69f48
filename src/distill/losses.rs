//! Losses between a student and its teacher, as values on a device.
//!
//! Outputs are `[rows, classes]`, feature maps `[rows, channels, positions]`. Gradients flow into the
//! student, and into what else is tracked. Each gives a value of one element, the mean over the rows.

use burn::backend::ops::{ActivationOps, FloatTensorOps};
use burn::backend::{Dispatch, DispatchDevice, TensorMetadata};

use crate::exec::operand::plain;
use crate::exec::value::{Value, bool_type, dims, from_host, reshape};

type B = Dispatch;

/// What softmaxes are softened by, a value of shape `[1, 1]`.
#[derive(Debug, Clone)]
pub struct Heat(Value);

impl Heat {
    pub fn fixed(temperature: f32, device: &DispatchDevice) -> Self {
        Self(from_host(&[1, 1], vec![temperature], device))
    }

    /// The temperature of a weight `θ` of shape `[1, 1]`: `1 + 20 ÷ (1 + e^−θ)` (Li et al.,
    /// "Curriculum Temperature for Knowledge Distillation", AAAI 2023, with the range of its
    /// section 4).
    pub fn learned(weight: Value) -> Self {
        Self(shift(scale(B::sigmoid(weight), 20.0), 1.0))
    }

    fn soften(&self, logits: Value) -> Value {
        B::float_div(logits, self.0.clone())
    }

    /// `loss · T²`, which keeps the size of the gradients whatever the temperature.
    fn restore(&self, loss: Value) -> Value {
        B::float_mul(loss, reshape(square(self.0.clone()), &[1]))
    }
}

fn rows(value: &Value) -> f32 {
    dims(value)[0] as f32
}

fn square(value: Value) -> Value {
    B::float_mul(value.clone(), value)
}

fn scale(value: Value, factor: f32) -> Value {
    B::float_mul_scalar(value, factor.into())
}

fn shift(value: Value, offset: f32) -> Value {
    B::float_add_scalar(value, offset.into())
}

/// The mean over all elements, `[1]`.
fn mean(value: Value) -> Value {
    let elements = dims(&value).iter().product::<usize>() as f32;
    scale(B::float_sum(value), 1.0 / elements)
}

/// Rows of length 1 along `axis`; those shorter than `least` are divided by that.
fn normalized(value: Value, axis: usize, least: f32) -> Value {
    let length = B::float_sum_dim(square(value.clone()), axis);
    let length = B::float_sqrt(B::float_clamp_min(length, (least * least).into()));
    B::float_div(value, length)
}

/// `Σ p_t (ln p_t − ln p_s)`, averaged over rows; of logarithms `[rows, classes]`.
fn divergence(student: Value, teacher: Value) -> Value {
    let count = rows(&student);
    let each = B::float_mul(
        B::float_exp(teacher.clone()),
        B::float_sub(teacher, student),
    );
    scale(B::float_sum(each), 1.0 / count)
}

/// Soft targets: `T² · KL(softmax(t ÷ T) ‖ softmax(s ÷ T))` (Hinton, Vinyals and Dean, "Distilling the
/// Knowledge in a Neural Network", 2015, section 2, with the factor T² from there; the entropy of the
/// teacher is subtracted, which changes no gradient).
pub fn soft_targets(student: Value, teacher: Value, heat: &Heat) -> Value {
    let student = B::log_softmax(heat.soften(student), 1);
    let teacher = B::log_softmax(heat.soften(teacher), 1);
    heat.restore(divergence(student, teacher))
}

/// Soft targets of logits that have the mean 0 and the deviation 1 in each row (Sun et al., "Logit
/// Standardization in Knowledge Distillation", CVPR 2024, algorithm 1; the deviation with `classes −
/// 1`).
pub fn standardized(student: Value, teacher: Value, heat: &Heat) -> Value {
    let standardize = |logits: Value| {
        let classes = dims(&logits)[1] as f32;
        let mean = scale(B::float_sum_dim(logits.clone(), 1), 1.0 / classes);
        let centred = B::float_sub(logits, mean);
        let variance = B::float_sum_dim(square(centred.clone()), 1);
        let variance = scale(variance, 1.0 / (classes - 1.0).max(1.0));
        let deviation = shift(B::float_sqrt(shift(variance, 1e-12)), 1e-7);
        B::float_div(centred, deviation)
    };
    soft_targets(standardize(student), standardize(teacher), heat)
}

/// Decoupled distillation: `T² · (α · KL(b_t ‖ b_s) + β · KL(p̂_t ‖ p̂_s))`, `b` the softmax's
/// probability of the label beside that of all others, `p̂` the softmax over the others (Zhao et al.,
/// "Decoupled Knowledge Distillation", CVPR 2022, eq. 7). `labels` is 1 at the label and 0 elsewhere.
pub fn decoupled(
    student: Value,
    teacher: Value,
    labels: Value,
    heat: &Heat,
    (alpha, beta): (f32, f32),
) -> Value {
    let others = shift(B::float_neg(labels.clone()), 1.0);
    // Far below any other logit, and finite.
    let hidden = scale(labels.clone(), -1e4);
    let parts = |logits: Value| {
        let logits = heat.soften(logits);
        let all = B::log_softmax(logits.clone(), 1);
        let label = B::float_sum_dim(B::float_mul(all.clone(), labels.clone()), 1);
        let rest = B::float_sum_dim(B::float_mul(B::float_exp(all), others.clone()), 1);
        let rest = B::float_log(shift(rest, 1e-30));
        let apart = B::log_softmax(B::float_add(logits, hidden.clone()), 1);
        (B::float_cat(vec![label, rest], 1), apart)
    };
    let (student_pair, student_others) = parts(student);
    let (teacher_pair, teacher_others) = parts(teacher);
    let target = scale(divergence(student_pair, teacher_pair), alpha);
    let other = scale(divergence(student_others, teacher_others), beta);
    heat.restore(B::float_add(target, other))
}

/// `(s − t)²`, averaged over all elements (Ba and Caruana, "Do Deep Nets Really Need to be Deep?",
/// NeurIPS 2014, eq. 1).
pub fn mean_squared_error(student: Value, teacher: Value) -> Value {
    mean(square(B::float_sub(student, teacher)))
}

/// `1 − cos(s, t)` of whole rows.
pub fn cosine(student: Value, teacher: Value) -> Value {
    let count = rows(&student);
    let product = B::float_mul(normalized(student, 1, 1e-8), normalized(teacher, 1, 1e-8));
    shift(scale(B::float_sum(product), -1.0 / count), 1.0)
}

/// Teacher-bounded regression: the student's squared distance to the target where it is above the
/// teacher's less `margin`, else 0 (Chen et al., "Learning Efficient Object Detection Models with
/// Knowledge Distillation", NeurIPS 2017, section 3.3).
pub fn bounded_regression(student: Value, teacher: Value, target: Value, margin: f32) -> Value {
    let distance = |from: Value| B::float_sum_dim(square(B::float_sub(from, target.clone())), 1);
    let (student, teacher) = (distance(student), distance(teacher));
    let count = rows(&student);
    let kind = bool_type(&plain(student.clone()));
    let met = B::float_lower_equal(shift(plain(student.clone()), margin), teacher, kind);
    let kept = B::float_mask_fill(student, met, 0.0f32.into());
    scale(B::float_sum(kept), 1.0 / count)
}

/// FitNets: `(s − t)²`, averaged over all elements of feature maps of one shape (Romero et al.,
/// "FitNets: Hints for Thin Deep Nets", ICLR 2015, eq. 3).
pub fn feature(student: Value, teacher: Value) -> Value {
    mean_squared_error(student, teacher)
}

/// `(a(s) − a(t))²`, averaged over rows and positions, where `a` is the mean of the squares over the
/// channels, scaled to the length 1 (Zagoruyko and Komodakis, "Paying More Attention to Attention",
/// ICLR 2017, eq. 2, with the square that the authors' code has).
pub fn attention_transfer(student: Value, teacher: Value) -> Value {
    let attention = |features: Value| {
        let shape = dims(&features);
        let sum = B::float_sum_dim(square(features), 1);
        let flat = reshape(scale(sum, 1.0 / shape[1] as f32), &[shape[0], shape[2]]);
        normalized(flat, 1, 1e-12)
    };
    mean(square(B::float_sub(attention(student), attention(teacher))))
}

/// `‖G_s − G_t‖² ÷ rows²`, `G` the products of all pairs of rows, each row of `G` scaled to the length
/// 1 (Tung and Mori, "Similarity-Preserving Knowledge Distillation", ICCV 2019, section 3). `[rows,
/// features]`, whose number may differ.
pub fn similarity(student: Value, teacher: Value) -> Value {
    let gram = |rows: Value| {
        let product = B::float_matmul(rows.clone(), B::float_transpose(rows));
        normalized(product, 1, 1e-12)
    };
    mean(square(B::float_sub(gram(student), gram(teacher))))
}

/// `½x²` within 1 of zero, `|x| − ½` elsewhere.
fn huber(difference: Value) -> Value {
    let size = B::float_abs(difference);
    let inner = B::float_clamp_max(size.clone(), 1.0f32.into());
    let outer = B::float_sub(size, inner.clone());
    B::float_add(scale(square(inner), 0.5), outer)
}

/// Relations between rows `[rows, features]`: `α` times the Huber loss of all distances, each set
/// divided by its mean, plus `β` times that of the cosines of all angles (Park et al., "Relational
/// Knowledge Distillation", CVPR 2019, section 3.2).
pub fn relational(student: Value, teacher: Value, (alpha, beta): (f32, f32)) -> Value {
    let count = dims(&student)[0];
    let device = plain(teacher.clone());
    let apart: Vec<f32> = (0..count * count)
        .map(|place| f32::from(u8::from(place / count != place % count)))
        .collect();
    let apart = from_host(&[count, count], apart, &device.device());
    let products = |rows: Value| B::float_matmul(rows.clone(), B::float_transpose(rows));
    let relations = |rows: Value| {
        let products = products(rows.clone());
        let squares = B::float_sum_dim(square(rows), 1);
        let across = B::float_transpose(squares.clone());
        let distance = B::float_add(
            B::float_sub(squares.clone(), scale(products.clone(), 2.0)),
            across,
        );
        let distance = B::float_sqrt(B::float_clamp_min(distance, 1e-12f32.into()));
        let distance = B::float_mul(distance, apart.clone());
        (products, squares, distance)
    };
    let pairs = (count * count - count).max(1) as f32;
    let relative = |distance: Value| {
        let mean = scale(B::float_sum(distance.clone()), 1.0 / pairs);
        B::float_div(distance, reshape(shift(mean, 1e-12), &[1, 1]))
    };
    // cos ∠(j, i, k) = ⟨xⱼ − xᵢ, xₖ − xᵢ⟩ ÷ (‖xⱼ − xᵢ‖ ‖xₖ − xᵢ‖), out of the products alone.
    let cosines = |(products, squares, distance): (Value, Value, Value)| {
        let inner = B::float_sub(
            reshape(products.clone(), &[1, count, count]),
            reshape(products.clone(), &[count, count, 1]),
        );
        let inner = B::float_sub(inner, reshape(products, &[count, 1, count]));
        let inner = B::float_add(inner, reshape(squares, &[count, 1, 1]));
        let near = shift(distance, 1e-12);
        let inverse = B::float_mul(B::float_recip(near), apart.clone());
        let inner = B::float_mul(inner, reshape(inverse.clone(), &[count, count, 1]));
        B::float_mul(inner, reshape(inverse, &[count, 1, count]))
    };
    let (student, teacher) = (relations(student), relations(teacher));
    let mut total = None;
    if alpha > 0.0 {
        let difference = B::float_sub(relative(student.2.clone()), relative(teacher.2.clone()));
        total = Some(scale(mean(huber(difference)), alpha));
    }
    if beta > 0.0 {
        let difference = B::float_sub(cosines(student), cosines(teacher));
        let angles = scale(mean(huber(difference)), beta);
        total = Some(match total {
            Some(distances) => B::float_add(distances, angles),
            None => angles,
        });
    }
    total.unwrap_or_else(|| scale(mean(apart), 0.0))
}

/// `ln(1 + eˣ)` without overflow.
fn softplus(value: Value) -> Value {
    let tail = B::float_exp(B::float_neg(B::float_abs(value.clone())));
    B::float_add(B::relu(value), B::float_log1p(tail))
}

/// Contrastive representation distillation: `−ln h(sᵢ, tᵢ) − Σ_{j≠i} ln(1 − h(sᵢ, tⱼ))` with `h = e^z ÷
/// (e^z + N ÷ M)`, `z` the cosine of the two embeddings over the temperature, `N` the other rows of the
/// batch, `M` the `examples` of the data set (Tian, Krishnan and Isola, "Contrastive Representation
/// Distillation", ICLR 2020, section 3.1, with the negatives out of the batch). Embeddings
/// `[rows, width]` of one width.
pub fn contrastive(student: Value, teacher: Value, temperature: f32, examples: usize) -> Value {
    let count = dims(&student)[0];
    let student = normalized(student, 1, 1e-12);
    let teacher = normalized(teacher, 1, 1e-12);
    let scores = B::float_matmul(student, B::float_transpose(teacher));
    let noise = (count as f32 - 1.0).max(1.0) / examples.max(1) as f32;
    // h = sigmoid(z − ln(N ÷ M)).
    let logits = shift(scale(scores, 1.0 / temperature), -noise.ln());
    let signs: Vec<f32> = (0..count * count)
        .map(|place| {
            if place / count == place % count {
                -1.0
            } else {
                1.0
            }
        })
        .collect();
    let device = plain(logits.clone()).device();
    let signs = from_host(&[count, count], signs, &device);
    let each = softplus(B::float_mul(logits, signs));
    scale(B::float_sum(each), 1.0 / count as f32)
}
