//! PReLU with one slope a channel, written in operations that runtimes handle faster.
//!
//! All forms give `x` for `x >= 0` and the one rounded product `slope * x` below, as PReLU does:
//! the same bits. Which one is fast depends on the runtime; docs/performance.md has the figures.

use crate::network::onnx::{AttributeProto, GraphProto, NodeProto, TensorProto};

/// How PReLU is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As the operation PRelu.
    Kept,
    /// `Max(x, slope * x)`, where no slope is above 1.
    Max,
    /// `Relu(x) + slope * Min(x, 0)`.
    Split,
    /// `Relu(x) + conv(Relu(conv(x)))` with 1x1 convolutions of one channel each, by -1 and by
    /// `-slope`: all operations that ONNX Runtime's CPU provider does in its own blocked layout.
    Convolutions,
}

/// Rewrites every PReLU of known slopes, and those of one slope for all channels as LeakyRelu,
/// whatever the form. Returns how many were changed.
pub fn rewrite(graph: &mut GraphProto, form: Form) -> usize {
    let mut changed = 0;
    let mut nodes = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node) {
        let new = slopes(graph, &node).and_then(|slopes| replacement(graph, &node, &slopes, form));
        changed += usize::from(new.is_some());
        nodes.extend(new.unwrap_or_else(|| vec![node]));
    }
    graph.node = nodes;
    let used = |name: &String| graph.node.iter().any(|node| node.input.contains(name));
    if changed > 0 {
        let kept: Vec<bool> = graph.initializer.iter().map(|t| t.name.as_ref().is_some_and(used)).collect();
        let mut kept = kept.into_iter();
        graph.initializer.retain(|_| kept.next().unwrap_or(true));
    }
    changed
}

/// Slopes of a PReLU node, one a channel (or one): its tensor is `[c, 1, 1]`, `[1, c, 1, 1]` or
/// a single number.
fn slopes(graph: &GraphProto, node: &NodeProto) -> Option<Vec<f32>> {
    if node.operation() != "PRelu" {
        return None;
    }
    let name = node.input.get(1)?;
    let tensor = graph.initializer.iter().find(|t| t.name.as_ref() == Some(name))?;
    let slopes = tensor.floats()?;
    let count = slopes.len() as i64;
    let channels = matches!(tensor.dims.as_slice(), &[c, 1, 1] | &[1, c, 1, 1] if c == count) || count == 1;
    (channels && count > 0 && slopes.iter().all(|s| s.is_finite())).then_some(slopes)
}

/// The nodes in place of one, or `None` to keep it.
fn replacement(graph: &mut GraphProto, node: &NodeProto, slopes: &[f32], form: Form) -> Option<Vec<NodeProto>> {
    let (x, out) = (node.input.first()?.clone(), node.output.first()?.clone());
    if slopes.iter().all(|slope| *slope == slopes[0]) {
        let alpha =
            AttributeProto { name: Some("alpha".into()), kind: Some(1), f: Some(slopes[0]), ..Default::default() };
        return Some(vec![operation("LeakyRelu", &[&x], &out, vec![alpha])]);
    }
    let name = |part: &str| format!("{out}/prelu/{part}");
    let channels = slopes.len();
    match form {
        Form::Kept => None,
        Form::Max if slopes.iter().any(|slope| *slope > 1.0) => replacement(graph, node, slopes, Form::Split),
        Form::Max => {
            let below = name("below");
            Some(vec![
                operation("Mul", &[&x, &node.input[1]], &below, vec![]),
                operation("Max", &[&x, &below], &out, vec![]),
            ])
        }
        Form::Split => {
            let (zero, above, below, scaled) = (name("zero"), name("above"), name("min"), name("below"));
            graph.initializer.push(constant(&zero, &[], &[0.0]));
            Some(vec![
                operation("Relu", &[&x], &above, vec![]),
                operation("Min", &[&x, &zero], &below, vec![]),
                operation("Mul", &[&below, &node.input[1]], &scaled, vec![]),
                operation("Add", &[&above, &scaled], &out, vec![]),
            ])
        }
        Form::Convolutions => {
            let (minus, weights) = (name("minus"), name("slopes"));
            graph.initializer.push(constant(&minus, &[channels, 1, 1, 1], &vec![-1.0; channels]));
            let negated: Vec<f32> = slopes.iter().map(|slope| -slope).collect();
            graph.initializer.push(constant(&weights, &[channels, 1, 1, 1], &negated));
            let (above, turned, below, scaled) = (name("above"), name("turned"), name("under"), name("below"));
            let group = AttributeProto {
                name: Some("group".into()),
                kind: Some(2),
                i: Some(channels as i64),
                ..Default::default()
            };
            Some(vec![
                operation("Relu", &[&x], &above, vec![]),
                operation("Conv", &[&x, &minus], &turned, vec![group.clone()]),
                operation("Relu", &[&turned], &below, vec![]),
                operation("Conv", &[&below, &weights], &scaled, vec![group]),
                operation("Add", &[&above, &scaled], &out, vec![]),
            ])
        }
    }
}

fn operation(kind: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let input = inputs.iter().map(|i| (*i).to_owned()).collect();
    NodeProto { op_type: Some(kind.into()), input, output: vec![output.into()], attribute, ..Default::default() }
}

fn constant(name: &str, dims: &[usize], data: &[f32]) -> TensorProto {
    crate::network::import::constant(name, dims, data)
}
