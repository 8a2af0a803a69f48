//! Activations of recurrent layers, by name.

use super::single;
use crate::graph::params::RuleError;
use crate::host::call::Call;
use crate::onnx::proto::NodeProto;

/// The floating-point type in which a layer computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// float64.
    Double,
    /// float32, operation by operation as ONNX Runtime does.
    Single,
}

impl Precision {
    pub fn round(self, value: f64) -> f64 {
        match self {
            Self::Double => value,
            Self::Single => f64::from(value as f32),
        }
    }
}

/// Of the value, alpha and beta.
type Function = fn(f64, f64, f64) -> f64;

/// An activation with its parameters.
#[derive(Debug, Clone, Copy)]
pub struct Activation {
    function: Function,
    alpha: f64,
    beta: f64,
}

impl Activation {
    pub fn apply(&self, x: f64) -> f64 {
        (self.function)(x, self.alpha, self.beta)
    }

    fn of(named: &Named, precision: Precision) -> Self {
        let single = precision == Precision::Single;
        let function: Function = match named.name {
            "relu" => |x, _, _| x.max(0.0),
            "tanh" if single => |x, _, _| single::tanh(x),
            "sigmoid" if single => |x, _, _| single::sigmoid(x),
            "tanh" => |x, _, _| x.tanh(),
            "softsign" => |x, _, _| x / (1.0 + x.abs()),
            "softplus" => |x, _, _| softplus(x),
            "leakyrelu" => |x, a, _| if x < 0.0 { a * x } else { x },
            "thresholdedrelu" => |x, a, _| if x >= a { x } else { 0.0 },
            "elu" => |x, a, _| if x < 0.0 { a * x.exp_m1() } else { x },
            "affine" => |x, a, b| a * x + b,
            "scaledtanh" => |x, a, b| a * (b * x).tanh(),
            "hardsigmoid" => |x, a, b| (a * x + b).clamp(0.0, 1.0),
            _ => |x, _, _| 1.0 / (1.0 + (-x).exp()),
        };
        Self {
            function,
            alpha: named.alpha,
            beta: named.beta,
        }
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// An activation by its name in lower case, with its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Named {
    pub name: &'static str,
    pub alpha: f64,
    pub beta: f64,
}

/// Every activation with its defaults of alpha and beta, and how many of them it takes.
const ACTIVATIONS: [(Named, usize); 11] = {
    const fn with(name: &'static str, alpha: f64, beta: f64) -> Named {
        Named { name, alpha, beta }
    }
    [
        (with("relu", 0.0, 0.0), 0),
        (with("tanh", 0.0, 0.0), 0),
        (with("sigmoid", 0.0, 0.0), 0),
        (with("softsign", 0.0, 0.0), 0),
        (with("softplus", 0.0, 0.0), 0),
        (with("leakyrelu", 0.01, 0.0), 1),
        (with("thresholdedrelu", 1.0, 0.0), 1),
        (with("elu", 1.0, 0.0), 1),
        (with("affine", 1.0, 0.0), 2),
        (with("scaledtanh", 1.0, 1.0), 2),
        (with("hardsigmoid", 0.2, 0.5), 2),
    ]
};

/// The activations of every direction, named in any case. `activation_alpha` and `activation_beta`
/// are dealt out in order to those activations that have such a parameter.
pub(crate) fn named_activations(
    node: &NodeProto,
    defaults: &[&str],
    directions: usize,
) -> Result<Vec<Vec<Named>>, RuleError> {
    let given: Option<Vec<String>> = node.attribute("activations").map(|attribute| {
        let names = attribute.strings.iter();
        names
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect()
    });
    let names = match given {
        Some(names) if names.len() == defaults.len() * directions => names,
        Some(names) if !names.is_empty() => {
            return Err(RuleError::new(format!(
                "has {} activations, needs {}",
                names.len(),
                defaults.len() * directions
            )));
        }
        _ => defaults
            .repeat(directions)
            .into_iter()
            .map(str::to_owned)
            .collect(),
    };
    let list = |name: &str| {
        let attribute = node.attribute(name);
        attribute.map_or(&[][..], |attribute| &attribute.floats)
    };
    let mut alphas = list("activation_alpha").iter();
    let mut betas = list("activation_beta").iter();
    let mut all = Vec::with_capacity(names.len());
    for name in &names {
        let known = ACTIVATIONS
            .iter()
            .find(|(known, _)| known.name.eq_ignore_ascii_case(name));
        let &(mut activation, takes) = known.ok_or_else(|| {
            RuleError::new(format!(
                "has the activation `{name}`, which is not supported"
            ))
        })?;
        if takes >= 1
            && let Some(&alpha) = alphas.next()
        {
            activation.alpha = f64::from(alpha);
        }
        if takes >= 2
            && let Some(&beta) = betas.next()
        {
            activation.beta = f64::from(beta);
        }
        all.push(activation);
    }
    Ok(all.chunks(defaults.len()).map(<[_]>::to_vec).collect())
}

/// The activations of every direction as functions.
pub fn activations(
    call: &Call,
    defaults: &[&str],
    directions: usize,
    precision: Precision,
) -> Result<Vec<Vec<Activation>>, RuleError> {
    let named = named_activations(call.node, defaults, directions)?;
    let functions = |own: Vec<Named>| {
        let own = own.iter();
        own.map(|named| Activation::of(named, precision)).collect()
    };
    Ok(named.into_iter().map(functions).collect())
}
