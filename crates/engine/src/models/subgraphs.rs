//! Graphs inside graphs (`If`, `Loop`, `Scan`) and functions: how much a file may hold and make work of, checked before
//! anything else reads it. ONNX Runtime follows them by recursion, and runs what they say for as long as they say.

use std::collections::HashMap;

use prost::Message;

use crate::models::index::GraphIndex;
use crate::models::onnx::{GraphProto, ModelProto, NodeProto};

/// Graphs inside each other, the outermost not counted. Exporters nest two or three.
const DEPTH_MAX: usize = 16;
/// Nodes of all graphs together, those of a function once for each call. The largest upscalers have some 10,000.
const NODES_MAX: u64 = 200_000;
/// Passes of a `Loop`.
const PASSES_MAX: i64 = 4096;
/// Nodes that a run may come to: those inside of loops once for each pass.
const STEPS_MAX: u64 = 10_000_000;

/// Returns what is wrong with a model's graphs inside graphs, as the end of a sentence.
pub fn check(model: &ModelProto) -> Result<(), String> {
    let Some(graph) = &model.graph else { return Ok(()) };
    let mut walk = GraphWalk { nodes: 0, steps: 0, functions: functions(model)? };
    walk.graph(graph, &mut Vec::new(), 0, 1)
}

struct GraphWalk {
    nodes: u64,
    steps: u64,
    /// Nodes of each function with all that it calls, by its name.
    functions: HashMap<String, u64>,
}

impl GraphWalk {
    /// `outer`: loop counts that are constants of the graphs around this one. `passes`: how often it is run.
    fn graph(
        &mut self,
        graph: &GraphProto,
        outer: &mut Vec<HashMap<String, i64>>,
        depth: usize,
        passes: u64,
    ) -> Result<(), String> {
        if depth > DEPTH_MAX {
            return Err(format!("its graphs are nested more than {DEPTH_MAX} deep, which is refused"));
        }
        outer.push(constants(graph));
        for node in &graph.node {
            let called = self.functions.get(node.operation()).copied().unwrap_or(1).max(1);
            self.nodes = self.nodes.saturating_add(called);
            self.steps = self.steps.saturating_add(called.saturating_mul(passes));
            if self.nodes > NODES_MAX {
                return Err(format!("it has more than {NODES_MAX} nodes, which is refused"));
            }
            if self.steps > STEPS_MAX {
                return Err(format!("its loops make more than {STEPS_MAX} steps, which is refused"));
            }
            let inner = match node.operation() {
                "Loop" => passes.saturating_mul(count(node, outer)?),
                _ => passes,
            };
            for bytes in subgraphs(node) {
                let graph = GraphProto::decode(bytes).map_err(|_| "a graph inside it cannot be read".to_owned())?;
                self.graph(&graph, outer, depth + 1, inner)?;
            }
        }
        outer.pop();
        Ok(())
    }
}

fn subgraphs(node: &NodeProto) -> impl Iterator<Item = &[u8]> {
    node.attribute.iter().flat_map(|attribute| attribute.g.iter().chain(&attribute.graphs)).map(Vec::as_slice)
}

/// The constants of a graph that can be a number of passes.
fn constants(graph: &GraphProto) -> HashMap<String, i64> {
    let index = GraphIndex::new(graph);
    let names = graph.node.iter().filter(|node| node.operation() == "Constant").filter_map(|node| node.output.first());
    let names = names.chain(graph.initializer.iter().filter_map(|tensor| tensor.name.as_ref()));
    let single = |name: &String| match index.constant(name)?.integers()?.as_slice() {
        [value] => Some((name.clone(), *value)),
        _ => None,
    };
    names.filter_map(single).collect()
}

/// Returns how often a `Loop` runs at most.
fn count(node: &NodeProto, outer: &[HashMap<String, i64>]) -> Result<u64, String> {
    let name = node.input.first().map(String::as_str).unwrap_or_default();
    let known = outer.iter().rev().find_map(|constants| constants.get(name)).copied();
    match known {
        Some(passes) if passes <= PASSES_MAX => Ok(passes.max(0) as u64),
        Some(passes) => Err(format!("a Loop in it makes {passes} passes; more than {PASSES_MAX} are refused")),
        None => {
            Err("a Loop in it has no fixed number of passes and might never end; export the model without it".into())
        }
    }
}

/// FunctionProto of onnx.proto, as far as it is read.
#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(message, repeated, tag = "7")]
    node: Vec<NodeProto>,
}

/// The nodes of each function with all that it calls: functions that call each other twice, over and over, make
/// billions of a small file.
fn functions(model: &ModelProto) -> Result<HashMap<String, u64>, String> {
    let unreadable = || "a function in it cannot be read".to_owned();
    let read: Result<Vec<_>, _> = model.functions.iter().map(|bytes| Function::decode(bytes.as_slice())).collect();
    let read = read.map_err(|_| unreadable())?;
    let mut sizes: HashMap<String, u64> = HashMap::new();
    // Each round settles those one call deeper.
    for _ in 0..=DEPTH_MAX {
        let before = sizes.clone();
        for function in &read {
            let size = |node: &NodeProto| before.get(node.operation()).copied().unwrap_or(1).max(1);
            let nested = function.node.iter().any(|node| subgraphs(node).next().is_some());
            if nested {
                return Err("a function in it holds an If or a Loop, which is refused; export the model without".into());
            }
            let size = function.node.iter().fold(0u64, |sum, node| sum.saturating_add(size(node)));
            sizes.insert(function.name.clone().unwrap_or_default(), size);
        }
        if sizes == before {
            return Ok(sizes);
        }
    }
    Err(format!("its functions call each other more than {DEPTH_MAX} deep, which is refused"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::onnx::{AttributeProto, TensorProto};

    fn node(operation: &str, input: &str, graphs: Vec<GraphProto>) -> NodeProto {
        let attribute = |graph: GraphProto| AttributeProto { g: Some(graph.encode_to_vec()), ..Default::default() };
        NodeProto {
            op_type: Some(operation.into()),
            input: vec![input.into()],
            attribute: graphs.into_iter().map(attribute).collect(),
            ..Default::default()
        }
    }

    fn graph(nodes: Vec<NodeProto>) -> GraphProto {
        GraphProto { node: nodes, ..Default::default() }
    }

    fn asked(graph: GraphProto) -> Result<(), String> {
        check(&ModelProto { graph: Some(graph), ..Default::default() })
    }

    fn nested(depth: usize) -> GraphProto {
        (0..depth).fold(graph(vec![node("Relu", "x", vec![])]), |inner, _| graph(vec![node("If", "c", vec![inner])]))
    }

    fn looped(passes: Option<i64>, body: GraphProto) -> GraphProto {
        let mut made = graph(vec![node("Loop", "count", vec![body])]);
        made.initializer.extend(passes.map(|passes| TensorProto::of_integers("count", &[passes])));
        made
    }

    #[test]
    fn depth_has_an_end() {
        assert_eq!(asked(nested(3)), Ok(()));
        assert_eq!(asked(nested(DEPTH_MAX)), Ok(()));
        for depth in [DEPTH_MAX + 1, 500] {
            assert!(asked(nested(depth)).unwrap_err().contains("nested"), "{depth}");
        }
    }

    #[test]
    fn loops_have_an_end() {
        let body = || graph(vec![node("Relu", "x", vec![])]);
        assert_eq!(asked(looped(Some(8), body())), Ok(()));
        assert_eq!(asked(looped(Some(-1), body())), Ok(()));
        assert!(asked(looped(None, body())).unwrap_err().contains("might never end"));
        assert!(asked(looped(Some(i64::MAX), body())).unwrap_err().contains("passes"));
        // The count of an inner one may be a constant outside.
        let inner = graph(vec![node("Loop", "count", vec![body()])]);
        assert_eq!(asked(looped(Some(16), inner.clone())), Ok(()));
        assert!(asked(looped(Some(4096), inner)).unwrap_err().contains("steps"));
    }

    #[test]
    fn functions_have_an_end() {
        let calling = |levels: usize, first: &str| {
            let function = |n: usize| {
                let inner = if n == 0 { first.to_owned() } else { format!("f{}", n - 1) };
                let node = vec![node(&inner, "x", vec![]); 10];
                Function { name: Some(format!("f{n}")), node }.encode_to_vec()
            };
            let graph = Some(graph(vec![node(&format!("f{}", levels - 1), "x", vec![])]));
            check(&ModelProto { graph, functions: (0..levels).map(function).collect(), ..Default::default() })
        };
        assert_eq!(calling(3, "Relu"), Ok(()));
        assert!(calling(9, "Relu").unwrap_err().contains("nodes"));
        assert!(calling(2, "f1").unwrap_err().contains("functions"), "a function that calls itself");
    }
}
