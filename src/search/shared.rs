//! Candidates that share the weights of the model they are cut from, and learn together (weight sharing in a one-shot
//! supernet).

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::architecture::Architecture;
use super::space::{Point, Space};
use crate::graph::Graph;
use crate::onnx::Tensor;
use crate::prune::PruneError;
use crate::train::{Subnetwork, Subnetworks, Taken};

/// Draws for one candidate that is feasible, at most.
const DRAWS: usize = 32;

/// Networks that are kept ready, beside the smallest.
const READY: usize = 8;

/// By the last mark of each weight: the mark before its first one, and its name.
type Marks = BTreeMap<u32, (u32, String)>;

/// The smallest candidate and some at random learn in every step beside the largest, the model itself (the sandwich
/// rule of Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019, section 3.2).
///
/// What a candidate takes is found by building it of a model in which every weight bears a mark of its own: cuts only
/// select, so the marks tell where each element was.
pub struct SharedWeights<'a> {
    architecture: &'a Architecture,
    space: Space,
    feasible: &'a dyn Fn(&Point) -> bool,
    /// Candidates at random in a step.
    random: usize,
    seed: u64,
    marked: Graph,
    marks: Marks,
    ready: RefCell<HashMap<Vec<u64>, Option<Rc<Subnetwork>>>>,
    smallest: OnceCell<Option<Rc<Subnetwork>>>,
}

impl<'a> SharedWeights<'a> {
    /// Marks are the positive floats; a model of more weights than there are of those is refused.
    pub fn new(
        architecture: &'a Architecture,
        feasible: &'a dyn Fn(&Point) -> bool,
        random: usize,
        seed: u64,
    ) -> Result<Self, PruneError> {
        let (marked, marks) = mark(architecture.graph())?;
        Ok(Self {
            space: Space {
                dimensions: architecture.dimensions().to_vec(),
            },
            architecture,
            feasible,
            random,
            seed,
            marked,
            marks,
            ready: RefCell::default(),
            smallest: OnceCell::new(),
        })
    }

    fn built(&self, point: &Point) -> Result<Subnetwork, PruneError> {
        let marked = self.architecture.build_of(&self.marked, &point.0)?;
        let graph = self.architecture.build(&point.0)?;
        let mut taken = BTreeMap::new();
        for (name, tensor) in &marked.initializers {
            // What is the same without marks is no weight.
            let own = graph.initializers.get(name).and_then(Tensor::floats);
            let marks = tensor.floats().filter(|marks| own != Some(marks));
            if let Some(found) = marks.and_then(|marks| self.source(marks)) {
                taken.insert(name.clone(), found);
            }
        }
        Ok(Subnetwork::new(graph, taken))
    }

    /// Where marked elements come from, if they are of one weight.
    fn source(&self, elements: &[f32]) -> Option<Taken> {
        let first = elements.iter().find(|element| **element != 0.0)?.to_bits();
        let (&last, (before, from)) = self.marks.range(first..).next()?;
        let place = |element: &f32| match element.to_bits() {
            0 => Some(0),
            mark => (*before < mark && mark <= last).then(|| i64::from(mark - before)),
        };
        let places: Option<Vec<i64>> = elements.iter().map(place).collect();
        let from = from.clone();
        Some(Taken {
            from,
            places: places?,
        })
    }

    /// The smallest candidate, without groups where its channels can't be shared out to as many.
    fn smallest(&self) -> Option<Rc<Subnetwork>> {
        let found = self.smallest.get_or_init(|| {
            [true, false].into_iter().find_map(|grouped| {
                // Everything is given, so nothing is drawn.
                let mut random = ChaCha8Rng::seed_from_u64(0);
                let least = self.architecture.smallest(grouped);
                let point = self.space.settled(&least, &mut random);
                self.built(&point).ok().map(Rc::new)
            })
        });
        found.clone()
    }

    fn network(&self, point: &Point) -> Option<Rc<Subnetwork>> {
        let mut ready = self.ready.borrow_mut();
        if ready.len() >= READY && !ready.contains_key(&point.key()) {
            ready.clear();
        }
        let network = ready.entry(point.key());
        network
            .or_insert_with(|| self.built(point).ok().map(Rc::new))
            .clone()
    }
}

impl Subnetworks for SharedWeights<'_> {
    fn of_step(&self, step: u64) -> Vec<Rc<Subnetwork>> {
        let seed = self.seed ^ (step + 1).wrapping_mul(0xa076_1d64_78bd_642f);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut networks: Vec<Rc<Subnetwork>> = self.smallest().into_iter().collect();
        for _ in 0..self.random {
            let mut points = (0..DRAWS).map(|_| self.space.sample(&mut random));
            let found = points.find_map(|point| {
                let fits = (self.feasible)(&point);
                fits.then(|| self.network(&point)).flatten()
            });
            networks.extend(found);
        }
        networks
    }
}

/// The graph with a float of its own for every element of its weights and running statistics.
fn mark(graph: &Graph) -> Result<(Graph, Marks), PruneError> {
    let mut marked = graph.clone();
    let mut marks = Marks::new();
    let mut last = 0u32;
    let weights: Vec<String> = graph
        .trainable()
        .into_iter()
        .chain(graph.running_statistics())
        .map(str::to_owned)
        .collect();
    for name in weights {
        let Some(tensor) = marked.initializers.get_mut(&name) else {
            continue;
        };
        let count = tensor.elements();
        let end = u32::try_from(count)
            .ok()
            .and_then(|count| last.checked_add(count));
        let end = end.filter(|end| *end <= f32::MAX.to_bits());
        let end = end.ok_or(PruneError::TooManyWeights)?;
        if last == end {
            continue;
        }
        // A stored type of fewer bits would round the marks.
        let elements = (last + 1..=end).map(f32::from_bits).collect();
        *tensor = Tensor::float(tensor.dims.clone(), elements);
        marks.insert(end, (last, name));
        last = end;
    }
    Ok((marked, marks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::value::to_host;
    use crate::exec::{Device, upload};
    use crate::spec::search::SearchSpace;

    #[test]
    fn candidates_take_the_weights_that_cuts_leave() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let file = root.join("examples/models/fashion_resnet.onnx");
        let model = crate::onnx::read_model(&file).expect("a model");
        let graph = Graph::load(model).expect("a graph");
        let space = SearchSpace {
            width: vec![0.25, 0.5, 0.75, 1.0],
            groups: vec![2],
            kernel: vec![1, 3, 5],
            activation: vec!["Elu".to_owned()],
            depth: true,
            ..SearchSpace::default()
        };
        let architecture = Architecture::new(&graph, &space, false, 0).expect("a space");
        let shared = SharedWeights::new(&architecture, &|_| true, 2, 0).expect("marks");
        let device = Device::cpu();
        let whole = upload(architecture.graph(), device.plain());
        let mut seen = std::collections::BTreeSet::new();
        for step in 0..20 {
            let networks = shared.of_step(step);
            assert_eq!(networks.len(), 3);
            for network in networks {
                let taken = network.parameters(&whole, &device);
                assert_eq!(taken.len(), upload(network.graph(), device.plain()).len());
                for (name, value) in taken {
                    let expected = network.graph().initializers[&name].floats();
                    assert_eq!(Some(to_host(value).as_slice()), expected, "{name}");
                }
                seen.insert(network.graph().to_bytes().len());
            }
        }
        assert!(seen.len() > 10, "candidates differ");
    }
}
