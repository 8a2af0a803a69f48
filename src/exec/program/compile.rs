//! From nodes to steps.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::control::Control;
use super::op::Op;
use super::plan::{Planned, on_host, plan};
use super::{ExecError, Late, Program, Source, Step, Work};
use crate::exec::definition::{Definition, Part};
use crate::graph::{Family, Graph, Known, Shapes, Told, family, fold, infer, known_inputs, tell};
use crate::host::Array;
use crate::onnx::proto::NodeProto;

pub(super) fn compile(
    graph: &Graph,
    feeds: &HashMap<String, Vec<usize>>,
    wanted: &[&str],
) -> Result<Program, ExecError> {
    let shapes = infer(graph, feeds)?;
    let changing = graph
        .trainable()
        .into_iter()
        .chain(graph.running_statistics())
        .collect();
    let needed = needed_nodes(graph, &shapes, wanted)?;
    let mut compiler = Compiler {
        graph,
        shapes,
        changing,
        folded: HashMap::new(),
        builder: Builder::default(),
    };
    let used = used_values(graph, wanted)?;
    for (index, node) in graph.nodes.iter().enumerate() {
        if needed.contains(&index) {
            // A result that nothing reads asks nothing of the node.
            let mut node = node.clone();
            for name in node.output.iter_mut().filter(|name| !used.contains(*name)) {
                name.clear();
            }
            let opset = graph.opset_of(&node);
            compiler.add(index, &node, opset)?;
        }
    }
    let outputs: Vec<usize> = wanted
        .iter()
        .map(|name| compiler.slot(name))
        .collect::<Result<_, _>>()?;
    Ok(compiler.builder.finish(outputs))
}

/// Names of all values that a node, a graph inside a node, or the caller reads.
fn used_values(graph: &Graph, wanted: &[&str]) -> Result<HashSet<String>, ExecError> {
    let mut used: HashSet<String> = wanted.iter().map(|&name| name.to_owned()).collect();
    for node in &graph.nodes {
        used.extend(node.input.iter().cloned());
        used.extend(node.captured().map_err(|e| ExecError::of(node, e))?);
    }
    Ok(used)
}

/// Nodes on the way to the wanted values, without those whose results are known already.
fn needed_nodes(
    graph: &Graph,
    shapes: &Shapes,
    wanted: &[&str],
) -> Result<HashSet<usize>, ExecError> {
    let producers = graph.producers();
    let mut needed = HashSet::new();
    let mut open: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
    while let Some(name) = open.pop() {
        let known = shapes.get(&name).is_some_and(|known| known.value.is_some());
        if let (Some(&index), false) = (producers.get(name.as_str()), known)
            && needed.insert(index)
        {
            let node = &graph.nodes[index];
            open.extend(node.input.iter().cloned());
            let captured = node.captured().map_err(|e| ExecError::of(node, e))?;
            open.extend(captured);
        }
    }
    Ok(needed)
}

/// Slots, sources and steps of a program in the making.
#[derive(Default)]
pub(super) struct Builder {
    pub slots: HashMap<String, usize>,
    pub sources: Vec<(usize, Source)>,
    pub known: Vec<Option<Known>>,
    pub steps: Vec<Step>,
}

impl Builder {
    pub fn fresh(&mut self, name: &str, known: Option<Known>) -> usize {
        let slot = self.known.len();
        self.known.push(known);
        self.slots.insert(name.to_owned(), slot);
        slot
    }

    pub fn source(&mut self, name: &str, known: Option<Known>, source: Source) -> usize {
        let slot = self.fresh(name, known);
        self.sources.push((slot, source));
        slot
    }

    /// Adds a step whose results have these names.
    pub fn step(
        &mut self,
        node: &NodeProto,
        place: usize,
        work: Work,
        inputs: Vec<Option<usize>>,
        known: &[Known],
    ) {
        let outputs = node
            .output
            .iter()
            .enumerate()
            .map(|(index, name)| {
                (!name.is_empty()).then(|| self.fresh(name, known.get(index).cloned()))
            })
            .collect();
        self.steps.push(Step {
            work,
            last_use: vec![false; inputs.len()],
            inputs,
            outputs,
            node: place,
            label: node.label().to_owned(),
            operator: node.operator().to_owned(),
            detached: false,
        });
    }

    /// No gradient goes through the step that was added last.
    pub fn detach_last(&mut self) {
        if let Some(step) = self.steps.last_mut() {
            step.detached = true;
        }
    }

    /// Joins steps with those that alone read their results, where there is work that does both.
    fn join_steps(&mut self, outputs: &[usize]) {
        let mut readers = vec![0; self.known.len()];
        for slot in self
            .steps
            .iter()
            .flat_map(|step| step.inputs.iter().flatten())
        {
            readers[*slot] += 1;
        }
        // What more than a step reads, the caller or a graph inside of a node, stays.
        outputs.iter().for_each(|&slot| readers[slot] += 2);
        let mut makers: HashMap<usize, usize> = HashMap::new();
        let mut gone = vec![false; self.steps.len()];
        for index in 0..self.steps.len() {
            let mut place = 0;
            while let Some(&slot) = self.steps[index].inputs.get(place) {
                place += 1;
                let Some(&maker) = slot.as_ref().and_then(|slot| makers.get(slot)) else {
                    continue;
                };
                let (made, own) = (&self.steps[maker], &self.steps[index]);
                let places: Vec<usize> = (0..own.inputs.len())
                    .filter(|&place| own.inputs[place] == slot)
                    .collect();
                if slot.is_none_or(|slot| readers[slot] != places.len()) {
                    continue;
                }
                let rest = own.inputs.iter().filter(|&&input| input != slot);
                let (joined, inputs): (Op, Vec<_>) =
                    if let (Some(before), Some(chain)) = (made.chain(), own.chain()) {
                        let Some(joined) = chain.after(before, &places) else {
                            continue;
                        };
                        let inputs = rest.chain(&made.inputs).copied().collect();
                        (Op::Chain(joined), inputs)
                    } else if let (Some(before), Some(next), [0]) =
                        (made.ready(), own.ready(), &places[..])
                    {
                        let Some(joined) = before.joined(next) else {
                            continue;
                        };
                        // A bias that is left out keeps its place.
                        let mut inputs = made.inputs.clone();
                        inputs.resize(inputs.len().max(3), None);
                        (joined, inputs.into_iter().chain(rest.copied()).collect())
                    } else {
                        continue;
                    };
                let step = &mut self.steps[index];
                step.last_use = vec![false; inputs.len()];
                step.inputs = inputs;
                step.work = Work::Ready(Box::new(joined));
                gone[maker] = true;
                place = 0;
            }
            if let [Some(slot), rest @ ..] = &self.steps[index].outputs[..]
                && rest.iter().all(Option::is_none)
            {
                makers.insert(*slot, index);
            }
        }
        let mut gone = gone.into_iter();
        self.steps.retain(|_| !gone.next().unwrap_or_default());
    }

    pub fn finish(mut self, outputs: Vec<usize>) -> Program {
        self.join_steps(&outputs);
        let mut seen: HashSet<usize> = outputs.iter().copied().collect();
        for step in self.steps.iter_mut().rev() {
            for (slot, last) in step.inputs.iter().zip(&mut step.last_use).rev() {
                *last = slot.is_some_and(|slot| seen.insert(slot));
            }
        }
        Program {
            steps: self.steps,
            sources: self.sources,
            outputs,
            known: self.known,
        }
    }
}

struct Compiler<'a> {
    graph: &'a Graph,
    shapes: Shapes,
    /// What training changes, which must not be computed beforehand.
    changing: HashSet<&'a str>,
    /// Values that follow from constants.
    folded: HashMap<String, Arc<Array>>,
    builder: Builder,
}

impl Compiler<'_> {
    fn add(&mut self, index: usize, node: &NodeProto, opset: i64) -> Result<(), ExecError> {
        let graph = self.graph;
        if self.folds(node, opset)? {
            return Ok(());
        }
        if family(node) == Some(Family::Control) {
            let control = Control::of(node, &graph.opsets)?;
            let names = control.reads(node);
            let inputs = self.slots_of(names.iter().map(String::as_str))?;
            self.builder
                .step(node, index, Work::Control(Rc::new(control)), inputs, &[]);
            return Ok(());
        }
        let open = |name: &String| !name.is_empty() && !self.shapes.contains_key(name);
        if !node.input.iter().any(open) {
            let known: Vec<Option<&Known>> = node
                .input
                .iter()
                .map(|name| self.shapes.get(name))
                .collect();
            match plan(node, opset, &known)? {
                Ok(Planned::Step { op, reads, outputs }) => {
                    return self.step(index, node, op, &reads, &outputs);
                }
                Ok(Planned::Parts(definition)) => return self.parts(index, definition),
                Err(_) => {}
            }
        }
        let inputs = self.slots_of(node.input.iter().map(String::as_str))?;
        let late = Late {
            node: node.clone(),
            opset,
        };
        let work = Work::Late(Arc::new(late));
        self.builder.step(node, index, work, inputs, &[]);
        Ok(())
    }

    fn step(
        &mut self,
        index: usize,
        node: &NodeProto,
        op: Box<Op>,
        reads: &[Option<usize>],
        outputs: &[Known],
    ) -> Result<(), ExecError> {
        let names = reads
            .iter()
            .map(|read| read.map_or("", |index| &node.input[index]));
        let inputs = self.slots_of(names)?;
        let work = Work::Ready(op);
        self.builder.step(node, index, work, inputs, outputs);
        for (name, known) in node
            .output
            .iter()
            .zip(outputs)
            .filter(|(name, _)| !name.is_empty())
        {
            let known = || Known::shaped(known.data_type, known.dims.clone());
            self.shapes.entry(name.clone()).or_insert_with(known);
        }
        Ok(())
    }

    /// Adds the nodes that stand for one.
    fn parts(&mut self, index: usize, definition: Definition) -> Result<(), ExecError> {
        for (name, array) in definition.constants {
            self.shapes.insert(name.clone(), Known::of(array.clone()));
            self.folded.insert(name, array);
        }
        for Part {
            node,
            opset,
            detached,
        } in definition.parts
        {
            let known = known_inputs(&node, &self.shapes);
            let named = node.input.iter().zip(&known);
            let mut outputs = Vec::new();
            if named
                .into_iter()
                .all(|(name, known)| name.is_empty() || known.is_some())
                && let Told::Outputs(told) = tell(&node, opset, &known)?
            {
                outputs = told;
            }
            let host = detached.then(|| on_host(&node, opset, &known)).flatten();
            let named = node.output.iter().zip(&outputs);
            for (name, known) in named.filter(|(name, _)| !name.is_empty()) {
                self.shapes.insert(name.clone(), known.clone());
            }
            match host {
                Some((op, reads)) => {
                    self.step(index, &node, Box::new(op), &reads, &outputs)?;
                    self.builder.detach_last();
                }
                None => self.add(index, &node, opset)?,
            }
        }
        Ok(())
    }

    /// Whether the results of `node` follow from constants and are kept as such: dequantised weights
    /// for instance, once and not at every run.
    fn folds(&mut self, node: &NodeProto, opset: i64) -> Result<bool, ExecError> {
        let mut inputs = Vec::with_capacity(node.input.len());
        let mut elements = 0;
        for name in &node.input {
            let known = match self.constant(name) {
                _ if name.is_empty() => None,
                Some(array) => {
                    elements += array.len();
                    Some(Known::of(array))
                }
                None => return Ok(false),
            };
            inputs.push(known);
        }
        if inputs.is_empty() {
            return Ok(false);
        }
        let inputs: Vec<Option<&Known>> = inputs.iter().map(Option::as_ref).collect();
        let most = (4 * elements).max(1 << 12);
        let results = fold(node, opset, &inputs, most).map_err(|e| ExecError::of(node, e))?;
        let Some(results) = results else {
            return Ok(false);
        };
        for (name, result) in node.output.iter().zip(results) {
            self.folded.insert(name.clone(), result);
        }
        Ok(true)
    }

    /// The elements of a value that no run changes.
    fn constant(&self, name: &str) -> Option<Arc<Array>> {
        if let Some(array) = self.folded.get(name) {
            return Some(array.clone());
        }
        if self.changing.contains(name) {
            return None;
        }
        if let Some(tensor) = self.graph.initializers.get(name) {
            return Array::of_tensor(tensor).ok().map(Arc::new);
        }
        self.shapes.get(name)?.value.clone()
    }

    fn slots_of<'n>(
        &mut self,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<Vec<Option<usize>>, ExecError> {
        names
            .map(|name| match name {
                "" => Ok(None),
                name => self.slot(name).map(Some),
            })
            .collect()
    }

    fn slot(&mut self, name: &str) -> Result<usize, ExecError> {
        if let Some(&slot) = self.builder.slots.get(name) {
            return Ok(slot);
        }
        let missing = || ExecError::Missing(name.to_owned());
        let tensor = self.graph.initializers.get(name);
        let float = tensor.is_some_and(|tensor| tensor.floats().is_some());
        let input = self.graph.inputs.iter().position(|i| i.label() == name);
        let source = match (self.folded.get(name), float, input) {
            (Some(array), _, _) => Source::constant(array.clone()),
            (_, true, _) => Source::Parameter(name.to_owned()),
            (_, _, Some(index)) => Source::Input(index),
            _ => Source::constant(self.constant(name).ok_or_else(missing)?),
        };
        let known = match &source {
            Source::Constant { array, .. } => {
                Some(Known::shaped(array.data_type, array.dims.clone()))
            }
            _ => self.shapes.get(name).cloned(),
        };
        Ok(self.builder.source(name, known, source))
    }
}

/// Compiles the body of a control node: everything in it is planned when it runs.
pub(super) fn compile_body(
    body: &crate::onnx::proto::GraphProto,
    captured: &[String],
    opsets: &BTreeMap<String, i64>,
) -> Result<Program, ExecError> {
    let mut builder = Builder::default();
    let inputs = body.input.iter().map(|input| input.label());
    for (index, name) in inputs
        .chain(captured.iter().map(String::as_str))
        .enumerate()
    {
        builder.source(name, None, Source::Input(index));
    }
    for proto in &body.initializer {
        let name = proto.name.as_deref().unwrap_or_default();
        let array = Array::decode(proto).map_err(|error| ExecError::Node {
            node: name.to_owned(),
            operator: "initializer".to_owned(),
            reason: error.to_string(),
        })?;
        let known = Known::shaped(array.data_type, array.dims.clone());
        builder.source(name, Some(known), Source::constant(Arc::new(array)));
    }
    for (index, node) in body.node.iter().enumerate() {
        let opset = opset_of(node, opsets);
        let control = match family(node) {
            Some(Family::Control) => Some(Control::of(node, opsets)?),
            Some(_) => None,
            None => return Err(ExecError::of(node, "is not supported yet")),
        };
        let names = match &control {
            Some(control) => control.reads(node),
            None => node.input.clone(),
        };
        let slots = names
            .iter()
            .map(|name| match name.as_str() {
                "" => Ok(None),
                name => match builder.slots.get(name) {
                    Some(&slot) => Ok(Some(slot)),
                    None => Err(ExecError::Missing(name.to_owned())),
                },
            })
            .collect::<Result<_, _>>()?;
        let work = match control {
            Some(control) => Work::Control(Rc::new(control)),
            None => Work::Late(Arc::new(Late {
                node: node.clone(),
                opset,
            })),
        };
        builder.step(node, index, work, slots, &[]);
    }
    let outputs = body
        .output
        .iter()
        .map(|output| {
            let slot = builder.slots.get(output.label()).copied();
            slot.ok_or_else(|| ExecError::Missing(output.label().to_owned()))
        })
        .collect::<Result<_, _>>()?;
    Ok(builder.finish(outputs))
}

fn opset_of(node: &NodeProto, opsets: &BTreeMap<String, i64>) -> i64 {
    let domain = match node.domain.as_deref() {
        None | Some("" | "ai.onnx") => "",
        Some(domain) => domain,
    };
    let alias = if domain.is_empty() { "ai.onnx" } else { domain };
    opsets
        .get(domain)
        .or_else(|| opsets.get(alias))
        .copied()
        .unwrap_or(1)
}
