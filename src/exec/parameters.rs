//! A model's weights on a device.

use std::collections::{BTreeMap, btree_map};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, OnceLock};

use burn::backend::DispatchDevice;

use super::kernels::Fixed;
use super::value::{self, Value};
use crate::graph::Graph;

/// Float initializers on a device, by name; and, while they stay as they are, how products read them.
#[derive(Debug, Default)]
pub struct Parameters {
    values: BTreeMap<String, Value>,
    fixed: OnceLock<Arc<Fixed>>,
}

/// Uploads every float initializer that a program may read.
pub fn upload(graph: &Graph, device: &DispatchDevice) -> Parameters {
    let floats = graph.initializers.iter().filter_map(|(name, tensor)| {
        let elements = tensor.floats()?.to_vec();
        let value = value::from_host(&tensor.dims, elements, device);
        Some((name.clone(), value))
    });
    floats.collect()
}

impl Parameters {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `work`, whose products may keep what they make of these weights for the next time.
    pub(super) fn unchanged<R>(&self, work: impl FnOnce() -> R) -> R {
        let fixed = self
            .fixed
            .get_or_init(|| Arc::new(Fixed::of(self.values.values())));
        fixed.during(work)
    }
}

impl Deref for Parameters {
    type Target = BTreeMap<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.values
    }
}

impl DerefMut for Parameters {
    /// What was made of the weights is gone.
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.fixed.take();
        &mut self.values
    }
}

impl Clone for Parameters {
    fn clone(&self) -> Self {
        Self {
            values: self.values.clone(),
            fixed: OnceLock::new(),
        }
    }
}

impl FromIterator<(String, Value)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(values: I) -> Self {
        Self {
            values: values.into_iter().collect(),
            fixed: OnceLock::new(),
        }
    }
}

impl<'a> IntoIterator for &'a Parameters {
    type Item = (&'a String, &'a Value);
    type IntoIter = btree_map::Iter<'a, String, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.values.iter()
    }
}

impl IntoIterator for Parameters {
    type Item = (String, Value);
    type IntoIter = btree_map::IntoIter<String, Value>;

    fn into_iter(self) -> Self::IntoIter {
        self.values.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernels::product;
    use super::super::value::{from_host, to_host};
    use super::*;

    #[test]
    fn products_see_weights_that_changed_and_any_number_of_rows() {
        let device = DispatchDevice::from(burn::backend::flex::FlexDevice);
        let weights = |factor: f32| -> Vec<f32> {
            (0..70 * 90).map(|at| factor * (at % 17) as f32).collect()
        };
        let value = |shape: &[usize], elements: Vec<f32>| from_host(shape, elements, &device);
        let mut parameters: Parameters = [("w".to_owned(), value(&[90, 70], weights(1.0)))]
            .into_iter()
            .collect();
        for factor in [1.0, 3.0] {
            parameters.insert("w".to_owned(), value(&[90, 70], weights(factor)));
            for rows in [1, 5, 64, 300, 64, 1] {
                let x: Vec<f32> = (0..rows * 70).map(|at| (at % 13) as f32).collect();
                let found = parameters.unchanged(|| {
                    let x = value(&[rows, 70], x.clone());
                    product(&x, &parameters["w"], [false, true], None, None)
                });
                let found = to_host(found.expect("a product of the processor"));
                let w = weights(factor);
                for (row, x) in x.chunks_exact(70).enumerate() {
                    for (column, w) in w.chunks_exact(70).enumerate() {
                        let sum: f32 = x.iter().zip(w).map(|(x, w)| x * w).sum();
                        assert_eq!(found[row * 90 + column], sum, "{rows} rows, times {factor}");
                    }
                }
            }
        }
    }
}
