//! Activations of recurrent layers, by name.

use super::single;
use crate::graph::params::RuleError;
use crate::host::call::Call;

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

    /// The activation of that name in any case, with the defaults of the ONNX operator, and how
    /// many of alpha and beta it takes.
    fn named(name: &str, precision: Precision) -> Option<(Self, usize)> {
        let single = precision == Precision::Single;
        let (function, alpha, beta, takes): (Function, f64, f64, usize) =
            match name.to_ascii_lowercase().as_str() {
                "relu" => (|x, _, _| x.max(0.0), 0.0, 0.0, 0),
                "tanh" if single => (|x, _, _| single::tanh(x), 0.0, 0.0, 0),
                "sigmoid" if single => (|x, _, _| single::sigmoid(x), 0.0, 0.0, 0),
                "tanh" => (|x, _, _| x.tanh(), 0.0, 0.0, 0),
                "sigmoid" => (|x, _, _| 1.0 / (1.0 + (-x).exp()), 0.0, 0.0, 0),
                "softsign" => (|x, _, _| x / (1.0 + x.abs()), 0.0, 0.0, 0),
                "softplus" => (|x, _, _| softplus(x), 0.0, 0.0, 0),
                "leakyrelu" => (|x, a, _| if x < 0.0 { a * x } else { x }, 0.01, 0.0, 1),
                "thresholdedrelu" => (|x, a, _| if x >= a { x } else { 0.0 }, 1.0, 0.0, 1),
                "elu" => (
                    |x, a, _| if x < 0.0 { a * x.exp_m1() } else { x },
                    1.0,
                    0.0,
                    1,
                ),
                "affine" => (|x, a, b| a * x + b, 1.0, 0.0, 2),
                "scaledtanh" => (|x, a, b| a * (b * x).tanh(), 1.0, 1.0, 2),
                "hardsigmoid" => (|x, a, b| (a * x + b).clamp(0.0, 1.0), 0.2, 0.5, 2),
                _ => return None,
            };
        let activation = Self {
            function,
            alpha,
            beta,
        };
        Some((activation, takes))
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The activations of every direction. `activation_alpha` and `activation_beta` are dealt out in
/// order to those activations that have such a parameter.
pub fn activations(
    call: &Call,
    defaults: &[&str],
    directions: usize,
    precision: Precision,
) -> Result<Vec<Vec<Activation>>, RuleError> {
    let given: Option<Vec<String>> = call.node.attribute("activations").map(|attribute| {
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
        let attribute = call.node.attribute(name);
        attribute.map_or(&[][..], |attribute| &attribute.floats)
    };
    let mut alphas = list("activation_alpha").iter();
    let mut betas = list("activation_beta").iter();
    let mut all = Vec::with_capacity(names.len());
    for name in &names {
        let (mut activation, takes) = Activation::named(name, precision)
            .ok_or_else(|| call.unsupported(format_args!("has the activation `{name}`")))?;
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
