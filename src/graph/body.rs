//! Graphs inside nodes: the branches of If, the bodies of Loop and Scan.

use std::collections::BTreeSet;

use prost::Message;

use super::params::RuleError;
use crate::onnx::proto::{GraphProto, NodeProto};

/// How deep graphs may stand in graphs.
const DEEPEST: usize = 32;

impl NodeProto {
    /// The graphs among the node's attributes, by attribute name.
    pub(crate) fn bodies(&self) -> Result<Vec<(&str, GraphProto)>, RuleError> {
        let mut bodies = Vec::new();
        for attribute in &self.attribute {
            for bytes in attribute.g.iter().chain(&attribute.graphs) {
                let body = GraphProto::decode(&**bytes)
                    .map_err(|error| RuleError::new(format!("holds a graph: {error}")))?;
                bodies.push((attribute.name.as_deref().unwrap_or_default(), body));
            }
        }
        Ok(bodies)
    }

    /// Whether the node has graphs of its own.
    pub(crate) fn has_bodies(&self) -> bool {
        let held = |a: &crate::onnx::proto::AttributeProto| a.g.is_some() || !a.graphs.is_empty();
        self.attribute.iter().any(held)
    }

    /// Names that the node's graphs read from around them.
    pub(crate) fn captured(&self) -> Result<BTreeSet<String>, RuleError> {
        captured(self, DEEPEST)
    }
}

fn captured(node: &NodeProto, depth: usize) -> Result<BTreeSet<String>, RuleError> {
    let mut found = BTreeSet::new();
    if !node.has_bodies() {
        return Ok(found);
    }
    if depth == 0 {
        return Err(RuleError::new("holds graphs in graphs, too deep"));
    }
    for (_, body) in node.bodies()? {
        let mut own: BTreeSet<&str> = body.input.iter().map(|input| input.label()).collect();
        own.extend(
            body.initializer
                .iter()
                .filter_map(|tensor| tensor.name.as_deref()),
        );
        for inner in &body.node {
            let deeper = captured(inner, depth - 1)?;
            let read = inner.input.iter().chain(&deeper);
            found.extend(
                read.filter(|name| !name.is_empty() && !own.contains(name.as_str()))
                    .cloned(),
            );
            own.extend(inner.output.iter().map(String::as_str));
        }
        let outputs = body.output.iter().map(|output| output.label());
        found.extend(
            outputs
                .filter(|name| !own.contains(name))
                .map(str::to_owned),
        );
    }
    Ok(found)
}

/// Gives every name that `rename` knows its new one, in the node and in its graphs.
pub(super) fn rename(
    node: &mut NodeProto,
    rename_value: &dyn Fn(&str) -> Option<String>,
) -> Result<(), RuleError> {
    rename_deep(node, rename_value, DEEPEST)
}

fn rename_deep(
    node: &mut NodeProto,
    new_name: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<(), RuleError> {
    for name in node.input.iter_mut().chain(&mut node.output) {
        if let Some(new) = new_name(name) {
            *name = new;
        }
    }
    if !node.has_bodies() {
        return Ok(());
    }
    if depth == 0 {
        return Err(RuleError::new("holds graphs in graphs, too deep"));
    }
    for attribute in &mut node.attribute {
        for bytes in attribute.g.iter_mut().chain(&mut attribute.graphs) {
            let mut body = GraphProto::decode(&**bytes)
                .map_err(|error| RuleError::new(format!("holds a graph: {error}")))?;
            let named = body.input.iter_mut().chain(&mut body.output);
            for value in named.chain(&mut body.value_info) {
                if let Some(new) = new_name(value.label()) {
                    value.name = Some(new);
                }
            }
            for tensor in &mut body.initializer {
                if let Some(new) = new_name(tensor.name.as_deref().unwrap_or_default()) {
                    tensor.name = Some(new);
                }
            }
            for inner in &mut body.node {
                rename_deep(inner, new_name, depth - 1)?;
            }
            *bytes = body.encode_to_vec();
        }
    }
    Ok(())
}
