//! Networks that learn together, since they take their weights out of one.

use std::cell::{OnceCell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use super::evaluate::compile;
use crate::exec::value::{dims, from_host};
use crate::exec::{Device, ExecError, Mode, Operand, Outcome, Parameters, Program, pick};
use crate::graph::Graph;

/// Where the elements of a tensor are taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// A weight of the whole network.
    pub from: String,
    /// By element: 0 for one that is always zero, `n` for the `n`-th of `from`.
    pub places: Vec<i64>,
}

/// A network that takes its weights out of those of another one.
pub struct Subnetwork {
    graph: Graph,
    /// By weight of `graph`; others are its own and do not learn.
    taken: BTreeMap<String, Taken>,
    own: OnceCell<Parameters>,
    by_batch: RefCell<HashMap<usize, Program>>,
}

impl Subnetwork {
    pub fn new(graph: Graph, taken: BTreeMap<String, Taken>) -> Self {
        Self {
            graph,
            taken,
            own: OnceCell::new(),
            by_batch: RefCell::default(),
        }
    }

    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The whole network's parameters as this network has them; gradients go through to the whole.
    pub fn parameters(&self, whole: &Parameters, device: &Device) -> Parameters {
        let own = self.own.get_or_init(|| {
            let tensors = self.graph.initializers.iter();
            let own = tensors.filter(|(name, _)| !self.taken.contains_key(*name));
            own.filter_map(|(name, tensor)| {
                let elements = tensor.floats()?.to_vec();
                Some((
                    name.clone(),
                    from_host(&tensor.dims, elements, device.plain()),
                ))
            })
            .collect()
        });
        let mut all = own.clone();
        for (name, taken) in &self.taken {
            let (shape, whole) = (&self.graph.initializers[name].dims, &whole[&taken.from]);
            let same = dims(whole) == *shape && (1..).zip(&taken.places).all(|(n, &at)| n == at);
            let part = match same {
                true => whole.clone(),
                false => pick(whole.clone(), &taken.places, shape, device.plain()),
            };
            all.insert(name.clone(), part);
        }
        all
    }

    /// Runs a batch with the whole network's parameters, up to the `closing` operators.
    pub(super) fn run(
        &self,
        device: &Device,
        whole: &Parameters,
        (inputs, size): (&[Operand], usize),
        closing: &[&str],
        mode: Mode,
    ) -> Result<Outcome, ExecError> {
        let parameters = self.parameters(whole, device);
        let mut programs = self.by_batch.borrow_mut();
        let program = match programs.entry(size) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(compile(&self.graph, size, closing, &[])?),
        };
        program.run(device, &parameters, inputs, mode)
    }
}

/// Which networks learn beside the whole one.
pub trait Subnetworks {
    /// Those of a step, counted from 0.
    fn of_step(&self, step: u64) -> Vec<Rc<Subnetwork>>;
}
