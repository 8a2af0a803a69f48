//! From the messages of a file to a checked graph.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::params::RuleError;
use super::standard_operators::STANDARD_OPERATORS;
use super::{Graph, family, function};
use crate::onnx::proto::{AttributeProto, ModelProto, NodeProto, ValueInfoProto};
use crate::onnx::{Tensor, TensorError};

/// Why a model is refused.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("the model holds no graph")]
    NoGraph,
    #[error("the model imports no version of the operator set ai.onnx")]
    NoOpset,
    #[error(
        "opset {0} is not supported; opsets 7 to 28 are. Convert the model with \
         onnx.version_converter"
    )]
    Opset(i64),
    #[error("node `{node}` uses `{operator}`, which no operator set of ai.onnx defines")]
    UnknownOperator { node: String, operator: String },
    #[error("node `{node}` uses the domain `{domain}`, which the model does not import")]
    UnknownDomain { node: String, domain: String },
    #[error("the graph has a cycle through node `{0}`")]
    Cycle(String),
    #[error("node `{node}` reads `{value}`, which nothing makes")]
    Dangling { node: String, value: String },
    #[error("the value `{0}` is made twice")]
    Duplicate(String),
    #[error("the graph's output `{0}` is made by nothing")]
    OutputMissing(String),
    #[error("node `{0}` is a Constant without a value")]
    EmptyConstant(String),
    #[error("the graph has two inputs or outputs without a name")]
    Unnamed,
    #[error("node `{node}` {source}")]
    Node { node: String, source: RuleError },
    #[error("the model {0}")]
    Function(RuleError),
}

pub(super) fn load(mut model: ModelProto) -> Result<Graph, LoadError> {
    let mut graph = model.graph.take().ok_or(LoadError::NoGraph)?;
    function::inline(&mut model, &mut graph).map_err(LoadError::Function)?;
    let opset = model
        .opset_import
        .iter()
        .filter(|set| matches!(set.domain.as_deref(), None | Some("" | "ai.onnx")))
        .filter_map(|set| set.version)
        .max()
        .ok_or(LoadError::NoOpset)?;
    if !(7..=28).contains(&opset) {
        return Err(LoadError::Opset(opset));
    }
    let mut unsupported = BTreeSet::new();
    let mut initializers = BTreeMap::new();
    for proto in std::mem::take(&mut graph.initializer) {
        let name = proto.name.clone().unwrap_or_default();
        if initializers
            .insert(name.clone(), Tensor::decode(proto)?)
            .is_some()
        {
            return Err(LoadError::Duplicate(name));
        }
    }
    let sparse_storage = !graph.sparse_initializer.is_empty();
    for proto in std::mem::take(&mut graph.sparse_initializer) {
        let (name, tensor) = Tensor::decode_sparse(proto)?;
        if initializers.insert(name.clone(), tensor).is_some() {
            return Err(LoadError::Duplicate(name));
        }
    }
    let mut nodes = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node) {
        check_operator(&node, &model, &mut unsupported)?;
        if node.operator() == "Constant"
            && let Some(constant) = constant_value(&node)?
        {
            let name = node.output.first().cloned().unwrap_or_default();
            if initializers.insert(name.clone(), constant).is_some() {
                return Err(LoadError::Duplicate(name));
            }
            continue;
        }
        nodes.push(node);
    }
    let (listed_initializers, inputs): (Vec<_>, Vec<_>) = std::mem::take(&mut graph.input)
        .into_iter()
        .partition(|input| initializers.contains_key(input.label()));
    let outputs = std::mem::take(&mut graph.output);
    if inputs.iter().chain(&outputs).any(|v| v.label().is_empty()) {
        return Err(LoadError::Unnamed);
    }
    let captures = captures(&nodes)?;
    resolve_aliases(&mut nodes, &initializers, &outputs, &captures);
    let known: HashSet<&str> = initializers
        .keys()
        .map(String::as_str)
        .chain(inputs.iter().map(|input| input.label()))
        .collect();
    let nodes = sort(nodes, &known)?;
    let made: HashSet<&str> = nodes
        .iter()
        .flat_map(|node| node.output.iter().map(String::as_str))
        .collect();
    for output in &outputs {
        if !made.contains(output.label()) && !known.contains(output.label()) {
            return Err(LoadError::OutputMissing(output.label().to_owned()));
        }
    }
    model.graph = Some(graph);
    Ok(Graph {
        nodes,
        initializers,
        inputs,
        outputs,
        opset,
        opsets: model
            .opset_import
            .iter()
            .map(|set| {
                (
                    set.domain.clone().unwrap_or_default(),
                    set.version.unwrap_or(1),
                )
            })
            .collect(),
        unsupported,
        sparse_storage,
        example_shapes: BTreeMap::new(),
        frame: model,
        listed_initializers,
    })
}

fn check_operator(
    node: &NodeProto,
    model: &ModelProto,
    unsupported: &mut BTreeSet<String>,
) -> Result<(), LoadError> {
    let operator = node.operator();
    let domain = match node.domain.as_deref() {
        None | Some("" | "ai.onnx") => {
            if STANDARD_OPERATORS.binary_search(&operator).is_err() && family(node).is_none() {
                return Err(LoadError::UnknownOperator {
                    node: node.label().to_owned(),
                    operator: operator.to_owned(),
                });
            }
            if family(node).is_none() && operator != "Constant" {
                unsupported.insert(operator.to_owned());
            }
            return Ok(());
        }
        Some(domain) => domain,
    };
    let imported = model
        .opset_import
        .iter()
        .any(|set| set.domain.as_deref() == Some(domain));
    if !imported {
        return Err(LoadError::UnknownDomain {
            node: node.label().to_owned(),
            domain: domain.to_owned(),
        });
    }
    if family(node).is_none() {
        unsupported.insert(format!("{domain}:{operator}"));
    }
    Ok(())
}

/// Every name that graphs inside nodes read from around them.
fn captures(nodes: &[NodeProto]) -> Result<BTreeSet<String>, LoadError> {
    let mut all = BTreeSet::new();
    for node in nodes {
        all.extend(captured(node)?);
    }
    Ok(all)
}

fn captured(node: &NodeProto) -> Result<BTreeSet<String>, LoadError> {
    node.captured().map_err(|source| LoadError::Node {
        node: node.label().to_owned(),
        source,
    })
}

/// PyTorch's exporter stores equal tensors once and passes them on by Identity nodes. Their readers
/// read the initializer itself, so that training, pruning and normalisation see one weight.
fn resolve_aliases(
    nodes: &mut Vec<NodeProto>,
    initializers: &BTreeMap<String, Tensor>,
    outputs: &[ValueInfoProto],
    captures: &BTreeSet<String>,
) {
    loop {
        let found = nodes.iter().position(|node| {
            let output = node.output.first().map_or("", String::as_str);
            node.operator() == "Identity"
                && family(node).is_some()
                && node
                    .input_at(0)
                    .is_some_and(|name| initializers.contains_key(name))
                && !outputs.iter().any(|value| value.label() == output)
                && !captures.contains(output)
        });
        let Some(index) = found else { break };
        let node = nodes.remove(index);
        let (source, copy) = (node.input[0].clone(), node.output[0].clone());
        for input in nodes.iter_mut().flat_map(|node| &mut node.input) {
            if *input == copy {
                input.clone_from(&source);
            }
        }
    }
}

/// The tensor of a Constant node; `None` for strings and sparse tensors, which stay nodes.
fn constant_value(node: &NodeProto) -> Result<Option<Tensor>, LoadError> {
    let Some(attribute) = node.attribute.first() else {
        return Err(LoadError::EmptyConstant(node.label().to_owned()));
    };
    let AttributeProto {
        t,
        f,
        i,
        floats,
        ints,
        ..
    } = attribute;
    Ok(match attribute.name.as_deref().unwrap_or_default() {
        "value" => match t {
            Some(tensor) => Some(Tensor::decode(tensor.clone())?),
            None => return Err(LoadError::EmptyConstant(node.label().to_owned())),
        },
        "value_float" => f.map(|value| Tensor::float(vec![], vec![value])),
        "value_int" => i.map(|value| Tensor::int(vec![], vec![value])),
        "value_floats" => Some(Tensor::float(vec![floats.len()], floats.clone())),
        "value_ints" => Some(Tensor::int(vec![ints.len()], ints.clone())),
        _ => None,
    })
}

/// Stable topological order: among the nodes that are ready, the first of the file comes first.
fn sort(nodes: Vec<NodeProto>, known: &HashSet<&str>) -> Result<Vec<NodeProto>, LoadError> {
    let mut producer: HashMap<&str, usize> = HashMap::new();
    for (index, node) in nodes.iter().enumerate() {
        for output in node.output.iter().filter(|name| !name.is_empty()) {
            if known.contains(output.as_str()) || producer.insert(output, index).is_some() {
                return Err(LoadError::Duplicate(output.clone()));
            }
        }
    }
    let mut waiting = vec![0usize; nodes.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        let captured = captured(node)?;
        let named = node.input.iter().filter(|name| !name.is_empty());
        for input in named.chain(&captured) {
            match producer.get(input.as_str()) {
                Some(&maker) => {
                    waiting[index] += 1;
                    readers[maker].push(index);
                }
                None if known.contains(input.as_str()) => {}
                None => {
                    return Err(LoadError::Dangling {
                        node: node.label().to_owned(),
                        value: input.clone(),
                    });
                }
            }
        }
    }
    let mut ready: BTreeSet<usize> = (0..nodes.len()).filter(|&i| waiting[i] == 0).collect();
    let mut order = Vec::with_capacity(nodes.len());
    while let Some(index) = ready.pop_first() {
        order.push(index);
        for &reader in &readers[index] {
            waiting[reader] -= 1;
            if waiting[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    if let Some(stuck) = (0..nodes.len()).find(|&index| waiting[index] > 0) {
        return Err(LoadError::Cycle(nodes[stuck].label().to_owned()));
    }
    let mut slots: Vec<Option<NodeProto>> = nodes.into_iter().map(Some).collect();
    Ok(order
        .into_iter()
        .map(|index| slots[index].take().expect("each index is ready once"))
        .collect())
}
