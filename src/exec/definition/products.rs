//! Products, choices and attention.

use super::sketch::Sketch;
use crate::graph::normalize_axis;
use crate::graph::params::{RuleError, check_shape, checked_elements};
use crate::host::Array;
use crate::onnx::proto::data_type;

/// What a score gets where a mask forbids it.
const FORBIDDEN: f64 = -1e30;

/// The longest sequence of LinearAttention that is written down token by token.
const MOST_TOKENS: usize = 2048;

/// The largest matrix whose determinant is expanded; the sums double with each row.
const MOST_ROWS: usize = 12;

/// CastLike: Cast to the type of the second input.
pub(super) fn cast_like(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1])?;
    let mut attributes = vec![("to", i64::from(s.known(1)?.data_type).into())];
    if let Some(saturate) = s.node.int("saturate") {
        attributes.push(("saturate", saturate.into()));
    }
    if let Some(mode) = s.node.text("round_mode") {
        attributes.push(("round_mode", mode.into()));
    }
    s.give(0, &s.with("Cast", &[&s.input(0)], attributes));
    Ok(())
}

/// CumProd: products over stretches of 1, 2, 4, … elements (Hillis and Steele, 1986).
pub(super) fn cumulative_product(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0])?;
    let x = s.x()?;
    let axis = normalize_axis(s.elements(1)?.scalar()? as i64, x.len())?;
    let size = x[axis];
    if x.contains(&0) {
        return Err(RuleError::new("multiplies nothing"));
    }
    let turned = |value: &str| match s.flag("reverse") {
        true => {
            let places = (0..size).rev().collect::<Vec<_>>();
            s.gather(value, &s.list(&places), axis)
        }
        false => value.to_owned(),
    };
    let mut value = turned(&s.input(0));
    if s.flag("exclusive") {
        let mut first = x.to_vec();
        first[axis] = 1;
        let ones = s.numbers(&first, vec![1.0; first.iter().product()]);
        value = match size {
            1 => s.plus(&s.linear(&value, 0.0, 0.0), &ones),
            _ => s.concat(&[&ones, &s.part(&value, axis, 0, size - 1)], axis),
        };
    }
    let mut step = 1;
    while step < size {
        let first = s.part(&value, axis, 0, step);
        let before = s.part(&value, axis, 0, size - step);
        let rest = s.times(&s.part(&value, axis, step, size - step), &before);
        value = s.concat(&[&first, &rest], axis);
        step *= 2;
    }
    s.give(0, &turned(&value));
    Ok(())
}

/// Det by Laplace's expansion along the rows, each set of columns once.
pub(super) fn determinant(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0])?;
    let (x, output) = (s.x()?, s.output(0)?);
    let [.., rows, size] = *x else {
        return Err(RuleError::new("has no matrices"));
    };
    if size > MOST_ROWS || rows != size || x.contains(&0) {
        return Err(RuleError::new(format!(
            "has matrices without rows, or of more than {MOST_ROWS}"
        )));
    }
    let batch = x.iter().product::<usize>() / (size * size);
    let matrices = s.reshape(&s.input(0), &[batch, size, size]);
    let of_size =
        |wanted: usize| (0u32..1 << size).filter(move |set| set.count_ones() as usize == wanted);
    // The determinants of the first rows and each set of as many columns: `[batch, sets]`.
    let mut minors = s.numbers(&[batch, 1], vec![1.0; batch]);
    for row in 0..size {
        let before: Vec<u32> = of_size(row).collect();
        let (mut smaller, mut columns, mut signs) = (Vec::new(), Vec::new(), Vec::new());
        for set in of_size(row + 1) {
            let own = (0..size).filter(|column| set >> column & 1 == 1);
            for (place, column) in own.enumerate() {
                let rest = set & !(1 << column);
                smaller.push(before.partition_point(|&other| other < rest));
                columns.push(column);
                signs.push(if (row + place).is_multiple_of(2) {
                    1.0
                } else {
                    -1.0
                });
            }
        }
        let sets = signs.len() / (row + 1);
        let taken = |value: &str, places: &[usize]| {
            let found = s.gather(value, &s.list(places), 1);
            s.reshape(&found, &[batch, sets, row + 1])
        };
        let elements = taken(&s.at(&matrices, row, 1), &columns);
        let signed = s.times(&elements, &s.numbers(&[1, sets, row + 1], signs));
        minors = s.sum(&s.times(&taken(&minors, &smaller), &signed), &[2], false);
    }
    s.give(0, &s.reshape(&minors, output));
    Ok(())
}

/// Mod with `fmod`: `a - b · q` for the whole number `q` that the exact remainder tells.
pub(super) fn remainder(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1])?;
    let (a, b) = (s.input(0), s.input(1));
    let exact = s.float(&s.itself(s.node.clone(), 0));
    let times = s.detached(
        "Div",
        &[&s.detached("Sub", &[&a, &exact], vec![]), &b],
        vec![],
    );
    let times = s.detached("Round", &[&times], vec![]);
    let [by_a, by_b] = [&a, &b].map(|value| s.minus(value, &s.frozen(value)));
    let sum = s.minus(&s.plus(&exact, &by_a), &s.times(&times, &by_b));
    // Infinite operands have a remainder, but no differences.
    let lost = s.op("IsNaN", &[&sum]);
    s.give(0, &s.op("Where", &[&lost, &exact, &sum]));
    Ok(())
}

/// OneHot: the second of two values where the host puts ones, else the first.
pub(super) fn one_hot(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[2])?;
    check_shape("values", s.dims(2)?, &[2])?;
    let bits = s.constant(Array::bools(vec![2], [false, true]));
    let axis = s.node.int("axis").unwrap_or(-1);
    let attributes = vec![("axis", axis.into())];
    let hot = s.detached("OneHot", &[&s.input(0), &s.input(1), &bits], attributes);
    let [off, on] = [0, 1].map(|place| s.part(&s.input(2), 0, place, 1));
    s.give_as(0, &s.op("Where", &[&hot, &on, &off]), s.known(2)?.data_type);
    Ok(())
}

/// TensorScatter: every element of the result is one of the cache or of the update.
pub(super) fn tensor_scatter(s: &Sketch) -> Result<(), RuleError> {
    s.moved(&[0, 1])
}

/// DequantizeLinear: the differences to the zero point are no one's gradient, the scale has one.
pub(super) fn dequantize(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[1])?;
    let (x, scale) = (s.x()?, s.dims(1)?);
    let ones = s.numbers(scale, vec![1.0; scale.iter().product()]);
    let mut node = s.node.clone();
    node.input[1].clone_from(&ones);
    if node.int("output_dtype").unwrap_or(0) != 0 {
        node.set_int("output_dtype", data_type::FLOAT.into());
    }
    let steps = s.itself(node, 0);
    let along = match scale {
        [] => s.input(1),
        _ if scale.iter().product::<usize>() == 1 => s.reshape(&s.input(1), &[]),
        &[count] if s.node.int("block_size").unwrap_or(0) == 0 => {
            let axis = normalize_axis(s.node.int("axis").unwrap_or(1), x.len())?;
            let mut dims = vec![1; x.len()];
            dims[axis] = count;
            s.reshape(&s.input(1), &dims)
        }
        _ => {
            let axis = normalize_axis(s.node.int("axis").unwrap_or(1), x.len())?;
            let block = s.node.int("block_size").unwrap_or(0).max(1) as usize;
            let places = (0..x[axis]).map(|at| at / block).collect::<Vec<_>>();
            s.gather(&s.input(1), &s.list(&places), axis)
        }
    };
    s.give(0, &s.times(&steps, &along));
    Ok(())
}

/// Attention with past keys, windows, lengths or the scores as a result.
pub(super) fn attention(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1, 2, 4, 5])?;
    let flat = s.x()?.len() == 3;
    let heads = |index: usize, name: &str| -> Result<(String, [usize; 4]), RuleError> {
        match (s.dims(index)?, s.node.int(name)) {
            (&[batch, length, width], Some(count @ 1..)) if width % count as usize == 0 => {
                let dims = [batch, length, count as usize, width / count as usize];
                let split = s.reshape(&s.input(index), &dims);
                let order = [batch, dims[2], length, dims[3]];
                Ok((s.transpose(&split, &[0, 2, 1, 3]), order))
            }
            (&[batch, heads, length, width], _) => {
                Ok((s.input(index), [batch, heads, length, width]))
            }
            (dims, _) => Err(RuleError::new(format!(
                "has an input {index} of shape {dims:?}"
            ))),
        }
    };
    let (q, [batch, count, rows, depth]) = heads(0, "q_num_heads")?;
    let (mut keys, [_, shared, new, _]) = heads(1, "kv_num_heads")?;
    let (mut values, [.., width]) = heads(2, "kv_num_heads")?;
    let mut past = 0;
    if s.optional(4).is_some() {
        past = s.dims(4)?.get(2).copied().unwrap_or(0);
        let known = [batch, shared, past];
        check_shape("past keys", s.dims(4)?, &[&known[..], &[depth]].concat())?;
        check_shape("past values", s.dims(5)?, &[&known[..], &[width]].concat())?;
        if past > 0 {
            keys = s.concat(&[&s.input(4), &keys], 2);
            values = s.concat(&[&s.input(5), &values], 2);
        }
    }
    let total = past + new;
    checked_elements(&[batch, count, rows, total])?;
    if shared == 0 || count % shared != 0 || batch * count * rows * total * depth * width == 0 {
        return Err(RuleError::new(
            "has heads that don't fit, or attends to nothing",
        ));
    }
    s.give(1, &keys);
    s.give(2, &values);
    let repeated = |value: &str, width: usize| {
        let apart = s.reshape(value, &[batch, shared, 1, total, width]);
        let wide = s.list(&[batch, shared, count / shared, total, width]);
        s.reshape(
            &s.op("Expand", &[&apart, &wide]),
            &[batch, count, total, width],
        )
    };
    if shared != count {
        (keys, values) = (repeated(&keys, depth), repeated(&values, width));
    }
    let scale = s
        .node
        .float("scale")
        .map_or(1.0 / (depth as f64).sqrt(), f64::from);
    let q = s.times(&q, &s.number(scale));
    let raw = s.matmul(&q, &s.transpose(&keys, &[0, 1, 3, 2]));
    let mut scores = raw.clone();
    let cap = f64::from(s.node.float("softcap").unwrap_or(0.0));
    if cap > 0.0 {
        let bent = s.op("Tanh", &[&s.times(&scores, &s.number(1.0 / cap))]);
        scores = s.times(&bent, &s.number(cap));
    }
    let capped = scores.clone();
    // The scores with the mask, as they are given where a position forbids nothing.
    let mut biased = Some(scores.clone());
    // 1 where a query sees a key, else 0.
    let mut visible = positions(s, [batch, rows, total], past)?;
    if visible.is_some() {
        biased = None;
    }
    if let Some(mask) = s.optional(3) {
        let Some(&own) = mask.dims.last() else {
            return Err(RuleError::new("has a mask without axes"));
        };
        let fitted = |value: &str, fill: f64| match total - own.min(total) {
            0 => value.to_owned(),
            rest => {
                let mut pads = vec![0i64; 2 * mask.dims.len()];
                *pads.last_mut().expect("two for every axis") = rest as i64;
                let pads = s.ints(&[pads.len()], pads);
                s.op("Pad", &[value, &pads, &s.number(fill)])
            }
        };
        let given = s.input(3);
        let seen = if crate::host::is_float(mask.data_type) {
            let limit = s.number(FORBIDDEN);
            let given = s.float(&given);
            let clipped = s.op("Max", &[&given, &limit]);
            biased = biased.map(|scores| s.plus(&scores, &fitted(&given, f64::NEG_INFINITY)));
            scores = s.plus(&scores, &fitted(&clipped, FORBIDDEN));
            s.float(&s.op("Greater", &[&given, &limit]))
        } else if mask.data_type == data_type::BOOL {
            biased = None;
            s.float(&given)
        } else {
            return Err(RuleError::new("has a mask of integers, which are added"));
        };
        let seen = fitted(&seen, 0.0);
        visible = Some(match visible {
            Some(visible) => s.times(&visible, &seen),
            None => seen,
        });
    }
    if let Some(visible) = &visible {
        scores = s.plus(&scores, &s.linear(visible, -FORBIDDEN, FORBIDDEN));
    }
    let mut weights = s.with("Softmax", &[&scores], vec![("axis", 3i64.into())]);
    if let Some(visible) = &visible {
        weights = s.times(&weights, visible);
    }
    if s.wants(3) {
        match (s.node.int("qk_matmul_output_mode").unwrap_or(0), &biased) {
            (0, _) => s.give(3, &raw),
            (1, _) => s.give(3, &capped),
            (2, Some(biased)) => s.give(3, biased),
            (3, _) => s.give(3, &weights),
            _ => return Err(RuleError::new("gives scores with what a mask forbids")),
        }
    }
    let seen = s.matmul(&weights, &values);
    s.give(
        0,
        &match flat {
            true => {
                let merged = s.transpose(&seen, &[0, 2, 1, 3]);
                s.reshape(&merged, &[batch, rows, count * width])
            }
            false => seen,
        },
    );
    Ok(())
}

/// FlexAttention without functions of its own for scores or probabilities.
pub(super) fn flex_attention(s: &Sketch) -> Result<(), RuleError> {
    for name in ["score_mod", "prob_mod"] {
        if s.node.attribute(name).is_some() {
            return Err(RuleError::new(format!("has the subgraph `{name}`")));
        }
    }
    attention(s)
}

/// What a query sees by its position: `[1 or batch, 1, rows, keys]` of ones and zeros; `None` where it
/// sees everything.
fn positions(
    s: &Sketch,
    [batch, rows, total]: [usize; 3],
    past: usize,
) -> Result<Option<String>, RuleError> {
    let bound = |name: &str| s.node.int(name).filter(|&size| size >= 0);
    let (left, right) = (bound("left_window_size"), bound("right_window_size"));
    let causal = s.flag("is_causal");
    let lengths = match s.optional(6) {
        Some(_) => Some(s.elements(6)?.ints()?.to_vec()),
        None => None,
    };
    if lengths.is_none() && !causal && left.is_none() && right.is_none() {
        return Ok(None);
    }
    if lengths
        .as_ref()
        .is_some_and(|lengths| lengths.len() != batch)
    {
        return Err(RuleError::new("has lengths of another batch"));
    }
    let examples = if lengths.is_some() { batch } else { 1 };
    let mut seen = Vec::with_capacity(examples * rows * total);
    for example in 0..examples {
        let length = lengths.as_ref().map(|lengths| lengths[example]);
        let before = length.map_or(past as i64, |length| length.saturating_sub(rows as i64));
        for row in 0..rows as i64 {
            let position = before.saturating_add(row);
            for key in 0..total as i64 {
                let hidden = causal && key > position
                    || left.is_some_and(|left| key < position.saturating_sub(left))
                    || right.is_some_and(|right| key > position.saturating_add(right))
                    || length.is_some_and(|length| key >= length);
                seen.push(f64::from(u8::from(!hidden)));
            }
        }
    }
    Ok(Some(s.numbers(&[examples, 1, rows, total], seen)))
}

/// LinearAttention, token by token: the state decays, takes up the token and answers the query.
pub(super) fn linear_attention(s: &Sketch) -> Result<(), RuleError> {
    s.floats(&[0, 1, 2, 3, 4, 5])?;
    let (gated, delta) = match s.node.text("update_rule").unwrap_or("gated_delta") {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        other => return Err(RuleError::new(format!("has the update rule `{other}`"))),
    };
    let count = |name: &str| s.node.int(name).unwrap_or(0).max(0) as usize;
    let (asking, shared) = (count("q_num_heads"), count("kv_num_heads"));
    let (&[batch, length, width], &[.., values]) = (s.x()?, s.dims(2)?) else {
        return Err(RuleError::new("has queries of another rank than 3"));
    };
    let heads = asking.max(shared);
    let fits = |count: usize| count > 0 && heads.is_multiple_of(count);
    if !fits(asking) || !fits(shared) || s.node.int("state_window").unwrap_or(0) != 0 {
        return Err(RuleError::new("has heads that don't fit, or a window"));
    }
    let (depth, width_of_values) = (width / asking, values / shared);
    if length > MOST_TOKENS {
        return Err(RuleError::new(format!(
            "has more than {MOST_TOKENS} tokens"
        )));
    }
    if batch * length * depth * width_of_values == 0
        || gated != s.optional(4).is_some()
        || delta != s.optional(5).is_some()
    {
        return Err(RuleError::new(
            "has nothing to attend to, or not what its rule needs",
        ));
    }
    let scale = match s.node.float("scale").unwrap_or(0.0) {
        0.0 => 1.0 / (depth as f64).sqrt(),
        scale => f64::from(scale),
    };
    let state_dims = [batch, shared, depth, width_of_values];
    let mut state = match s.optional(3) {
        Some(past) => {
            check_shape("a past state", &past.dims, &state_dims)?;
            s.input(3)
        }
        None => s.numbers(&state_dims, vec![0.0; state_dims.iter().product()]),
    };
    let token =
        |index: usize, at: usize, dims: &[usize]| s.reshape(&s.at(&s.input(index), at, 1), dims);
    // Queries or states of `own` heads, each once for every head that shares it.
    let shared_out = |value: &str, own: usize, [rows, columns]: [usize; 2]| {
        if own == heads {
            return value.to_owned();
        }
        let apart = s.reshape(value, &[batch, own, 1, rows, columns]);
        let wide = s.list(&[batch, own, heads / own, rows, columns]);
        s.reshape(
            &s.op("Expand", &[&apart, &wide]),
            &[batch, heads, rows, columns],
        )
    };
    let last = |index: usize| {
        s.optional(index)
            .and_then(|known| known.dims.get(2).copied())
    };
    let (gates, rates) = (last(4).unwrap_or(0), last(5).unwrap_or(0));
    let mut answers = Vec::with_capacity(length);
    for at in 0..length {
        let key = token(1, at, &[batch, shared, depth, 1]);
        let mut value = token(2, at, &[batch, shared, 1, width_of_values]);
        if gated {
            let own = gates / shared;
            let decay = s.op("Exp", &[&token(4, at, &[batch, shared, own, 1])]);
            state = s.times(&state, &decay);
        }
        if delta {
            let line = token(1, at, &[batch, shared, 1, depth]);
            let known = s.matmul(&line, &state);
            let rate = token(5, at, &[batch, rates, 1, 1]);
            value = s.times(&s.minus(&value, &known), &rate);
        }
        state = s.plus(&state, &s.matmul(&key, &value));
        let query = token(0, at, &[batch, asking, 1, depth]);
        let query = shared_out(&query, asking, [1, depth]);
        answers.push(s.matmul(
            &query,
            &shared_out(&state, shared, [depth, width_of_values]),
        ));
    }
    let answers: Vec<&str> = answers.iter().map(String::as_str).collect();
    let all = s.transpose(&s.concat(&answers, 2), &[0, 2, 1, 3]);
    let all = s.reshape(&all, &[batch, length, heads * width_of_values]);
    s.give(0, &s.times(&all, &s.number(scale)));
    let kind = s.optional(3).unwrap_or(s.known(0)?).data_type;
    s.give_as(1, &state, kind);
    Ok(())
}
