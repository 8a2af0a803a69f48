//! Model-local functions (`ModelProto.functions`), replaced by their bodies when a model is loaded.

use std::collections::{BTreeSet, HashMap};

use prost::Message;

use super::body;
use super::params::RuleError;
use crate::onnx::proto::{AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto};

/// How deep functions may call functions.
const DEEPEST: usize = 16;

/// Most nodes that all calls may become.
const MOST_NODES: usize = 1 << 20;

type Key = (String, String, String);

fn key_of(domain: Option<&str>, name: Option<&str>, overload: Option<&str>) -> Key {
    let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
    let domain = domain.filter(|domain| *domain != "ai.onnx");
    (text(domain), text(name), text(overload))
}

/// Replaces every call of a function of `model` in `graph`, and lists the operator sets that the
/// functions import beside the model's own.
pub(super) fn inline(model: &mut ModelProto, graph: &mut GraphProto) -> Result<(), RuleError> {
    if model.functions.is_empty() {
        return Ok(());
    }
    let mut functions = HashMap::new();
    for bytes in &model.functions {
        let function = FunctionProto::decode(&**bytes)
            .map_err(|error| RuleError::new(format!("holds a function: {error}")))?;
        for set in &function.opset_import {
            if !model
                .opset_import
                .iter()
                .any(|own| own.domain == set.domain)
            {
                model.opset_import.push(set.clone());
            }
        }
        let key = key_of(
            function.domain.as_deref(),
            function.name.as_deref(),
            function.overload.as_deref(),
        );
        functions.insert(key, function);
    }
    let mut inliner = Inliner {
        functions,
        taken: names_of(graph),
        made: 0,
    };
    let nodes = std::mem::take(&mut graph.node);
    graph.node = inliner.expand(nodes, DEEPEST)?;
    Ok(())
}

fn names_of(graph: &GraphProto) -> BTreeSet<String> {
    graph
        .node
        .iter()
        .flat_map(|node| node.output.iter().cloned())
        .chain(graph.input.iter().map(|input| input.label().to_owned()))
        .chain(
            graph
                .initializer
                .iter()
                .filter_map(|tensor| tensor.name.clone()),
        )
        .collect()
}

struct Inliner {
    functions: HashMap<Key, FunctionProto>,
    taken: BTreeSet<String>,
    made: usize,
}

impl Inliner {
    fn expand(&mut self, nodes: Vec<NodeProto>, depth: usize) -> Result<Vec<NodeProto>, RuleError> {
        let mut out = Vec::with_capacity(nodes.len());
        for mut node in nodes {
            for attribute in &mut node.attribute {
                for bytes in attribute.g.iter_mut().chain(&mut attribute.graphs) {
                    let mut inner = GraphProto::decode(&**bytes)
                        .map_err(|error| RuleError::new(format!("holds a graph: {error}")))?;
                    if depth == 0 {
                        return Err(RuleError::new("holds graphs in functions, too deep"));
                    }
                    let nodes = std::mem::take(&mut inner.node);
                    inner.node = self.expand(nodes, depth - 1)?;
                    *bytes = inner.encode_to_vec();
                }
            }
            let key = key_of(
                node.domain.as_deref(),
                node.op_type.as_deref(),
                node.overload.as_deref(),
            );
            let Some(function) = self.functions.get(&key).cloned() else {
                out.push(node);
                continue;
            };
            if depth == 0 {
                return Err(RuleError::new(format!(
                    "calls the function `{}` in itself, or too deep",
                    node.operator()
                )));
            }
            self.made += function.node.len();
            if self.made > MOST_NODES {
                return Err(RuleError::new("holds functions of too many nodes"));
            }
            let body = self.body_of(&node, &function)?;
            out.extend(self.expand(body, depth - 1)?);
        }
        Ok(out)
    }

    /// The nodes that one call stands for, with names of their own.
    fn body_of(
        &mut self,
        call: &NodeProto,
        function: &FunctionProto,
    ) -> Result<Vec<NodeProto>, RuleError> {
        let mut names: HashMap<String, String> = HashMap::new();
        for (index, name) in function.input.iter().enumerate() {
            let given = call.input.get(index).cloned().unwrap_or_default();
            names.insert(name.clone(), given);
        }
        let mut closing = Vec::new();
        for (name, given) in function.output.iter().zip(&call.output) {
            match names.get(name) {
                // An output that is an input of the function, passed on.
                Some(source) => closing.push(identity(source, given)),
                None => {
                    names.insert(name.clone(), given.clone());
                }
            }
        }
        let prefix = self.prefix(call.label());
        let mut nodes = function.node.clone();
        for node in &mut nodes {
            let own = format!("{prefix}/{}", node.label());
            let fresh = |name: &str| match names.get(name) {
                _ if name.is_empty() => None,
                Some(known) => Some(known.clone()),
                None => Some(format!("{prefix}/{name}")),
            };
            body::rename(node, &fresh)?;
            node.name = Some(own);
            resolve_attributes(&mut node.attribute, call, function)?;
        }
        nodes.extend(closing);
        Ok(nodes)
    }

    /// A name that no value of the model begins with.
    fn prefix(&mut self, wanted: &str) -> String {
        let mut prefix = wanted.to_owned();
        let mut number = 0;
        while !self.taken.insert(format!("{prefix}/")) {
            number += 1;
            prefix = format!("{wanted}_{number}");
        }
        prefix
    }
}

fn identity(source: &str, output: &str) -> NodeProto {
    NodeProto {
        op_type: Some("Identity".to_owned()),
        input: vec![source.to_owned()],
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

/// Gives attributes that refer to those of the call (`ref_attr_name`) their values.
fn resolve_attributes(
    attributes: &mut Vec<AttributeProto>,
    call: &NodeProto,
    function: &FunctionProto,
) -> Result<(), RuleError> {
    let own = std::mem::take(attributes);
    for mut attribute in own {
        if let Some(reference) = attribute
            .ref_attr_name
            .take()
            .filter(|name| !name.is_empty())
        {
            let default = |name: &str| {
                let named = |a: &&AttributeProto| a.name.as_deref() == Some(name);
                function.attribute_proto.iter().find(named)
            };
            // A reference to what the call leaves out leaves the attribute out.
            let Some(given) = call.attribute(&reference).or_else(|| default(&reference)) else {
                continue;
            };
            attribute = AttributeProto {
                name: attribute.name,
                ..given.clone()
            };
        }
        for bytes in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            let mut inner = GraphProto::decode(&**bytes)
                .map_err(|error| RuleError::new(format!("holds a graph: {error}")))?;
            for node in &mut inner.node {
                resolve_attributes(&mut node.attribute, call, function)?;
            }
            *bytes = inner.encode_to_vec();
        }
        attributes.push(attribute);
    }
    Ok(())
}
