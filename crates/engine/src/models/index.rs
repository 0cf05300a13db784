//! A graph with its names looked up: who makes a tensor, who uses it, what is constant.

use std::collections::HashMap;

use crate::models::onnx::{GraphProto, NodeProto, TensorProto};

/// Names of a graph, resolved. Later makers of a name win; files that hold two are refused
/// by the runtime.
pub struct GraphIndex<'a> {
    pub graph: &'a GraphProto,
    makers: HashMap<&'a str, usize>,
    users: HashMap<&'a str, Vec<usize>>,
    constants: HashMap<&'a str, &'a TensorProto>,
}

impl<'a> GraphIndex<'a> {
    pub fn new(graph: &'a GraphProto) -> GraphIndex<'a> {
        let mut index = GraphIndex { graph, makers: HashMap::new(), users: HashMap::new(), constants: HashMap::new() };
        for tensor in &graph.initializer {
            index.constants.insert(tensor.name.as_deref().unwrap_or_default(), tensor);
        }
        for (at, node) in graph.node.iter().enumerate() {
            for output in node.output.iter().filter(|o| !o.is_empty()) {
                index.makers.insert(output, at);
                if node.operation() == "Constant"
                    && let Some(tensor) = node.attribute("value").and_then(|a| a.t.as_ref())
                {
                    index.constants.insert(output, tensor);
                }
            }
            for input in node.input.iter().filter(|i| !i.is_empty()) {
                index.users.entry(input).or_default().push(at);
            }
        }
        index
    }

    /// The node that makes a tensor.
    pub fn maker(&self, name: &str) -> Option<&'a NodeProto> {
        self.makers.get(name).map(|&at| &self.graph.node[at])
    }

    /// How often a tensor is used: by nodes, and as an output of the graph.
    pub fn uses(&self, name: &str) -> usize {
        let outputs = self.graph.output.iter().filter(|o| o.name.as_deref() == Some(name)).count();
        self.users.get(name).map_or(0, Vec::len) + outputs
    }

    /// The node that uses a tensor, where it is the only use.
    pub fn user(&self, name: &str) -> Option<&'a NodeProto> {
        match self.users.get(name)?.as_slice() {
            &[at] if self.uses(name) == 1 => Some(&self.graph.node[at]),
            _ => None,
        }
    }

    /// A stored tensor, be it an initialiser or a `Constant`.
    pub fn constant(&self, name: &str) -> Option<&'a TensorProto> {
        self.constants.get(name).copied()
    }

    /// The values of a node's input where they are stored floats; `None` also when it is absent.
    pub fn floats(&self, node: &NodeProto, at: usize) -> Option<Vec<f32>> {
        self.constant(node.input.get(at)?)?.floats()
    }

    /// The values of a node's input where they are stored whole numbers.
    pub fn integers(&self, node: &NodeProto, at: usize) -> Option<Vec<i64>> {
        self.constant(node.input.get(at)?)?.integers()
    }

    /// A stored single float.
    pub fn one_float(&self, node: &NodeProto, at: usize) -> Option<f32> {
        match self.floats(node, at)?.as_slice() {
            &[one] => Some(one),
            _ => None,
        }
    }
}
