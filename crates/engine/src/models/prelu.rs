//! PReLU with one slope a channel, written in operations that runtimes handle faster.
//!
//! All forms give `x` for `x >= 0` and the one rounded product `slope * x` below, as PReLU does:
//! the same bits. Which one is fast depends on the runtime; docs/performance.md has the figures.

use std::borrow::Cow;
use std::collections::HashSet;

use prost::Message;

use upscaled_core::types::engine::Provider;

use crate::models::onnx::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto};

/// How PReLU is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreluForm {
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

impl PreluForm {
    /// The fastest form measured on a provider; PRelu itself where none was measured.
    pub fn of(provider: Provider) -> PreluForm {
        match provider {
            Provider::Cpu => PreluForm::Convolutions,
            Provider::Openvino => PreluForm::Max,
            Provider::Cuda | Provider::Tensorrt => PreluForm::Kept,
        }
    }
}

/// A network's file with its PReLUs in a form; as it is where nothing changes.
pub fn written(file: &[u8], form: PreluForm) -> Cow<'_, [u8]> {
    let mut model = match ModelProto::decode(file) {
        Ok(model) if form != PreluForm::Kept => model,
        _ => return Cow::Borrowed(file),
    };
    match model.graph.as_mut().map_or(0, |graph| rewrite(graph, form)) {
        0 => Cow::Borrowed(file),
        _ => Cow::Owned(model.encode_to_vec()),
    }
}

/// Rewrites every PReLU of known slopes, and those of one slope for all channels as LeakyRelu,
/// whatever the form. Returns how many were changed.
pub fn rewrite(graph: &mut GraphProto, form: PreluForm) -> usize {
    let mut changed = 0;
    let mut nodes = Vec::with_capacity(graph.node.len());
    for node in std::mem::take(&mut graph.node) {
        let new = slopes(graph, &node).and_then(|slopes| replacement(graph, &node, &slopes, form));
        changed += usize::from(new.is_some());
        nodes.extend(new.unwrap_or_else(|| vec![node]));
    }
    graph.node = nodes;
    if changed > 0 {
        let used: HashSet<&String> = graph.node.iter().flat_map(|node| &node.input).collect();
        graph.initializer.retain(|t| t.name.as_ref().is_some_and(|name| used.contains(name)));
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
fn replacement(graph: &mut GraphProto, node: &NodeProto, slopes: &[f32], form: PreluForm) -> Option<Vec<NodeProto>> {
    let (x, out) = (node.input.first()?.clone(), node.output.first()?.clone());
    if slopes.iter().all(|slope| *slope == slopes[0]) {
        let alpha =
            AttributeProto { name: Some("alpha".into()), kind: Some(1), f: Some(slopes[0]), ..Default::default() };
        return Some(vec![operation("LeakyRelu", &[&x], &out, vec![alpha])]);
    }
    let name = |part: &str| format!("{out}/prelu/{part}");
    let channels = slopes.len();
    match form {
        PreluForm::Kept => None,
        PreluForm::Max if slopes.iter().any(|slope| *slope > 1.0) => replacement(graph, node, slopes, PreluForm::Split),
        PreluForm::Max => {
            let below = name("below");
            Some(vec![
                operation("Mul", &[&x, &node.input[1]], &below, vec![]),
                operation("Max", &[&x, &below], &out, vec![]),
            ])
        }
        PreluForm::Split => {
            let (zero, above, below, scaled) = (name("zero"), name("above"), name("min"), name("below"));
            graph.initializer.push(constant(&zero, &[], &[0.0]));
            Some(vec![
                operation("Relu", &[&x], &above, vec![]),
                operation("Min", &[&x, &zero], &below, vec![]),
                operation("Mul", &[&below, &node.input[1]], &scaled, vec![]),
                operation("Add", &[&above, &scaled], &out, vec![]),
            ])
        }
        PreluForm::Convolutions => {
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
    crate::models::import::constant(name, dims, data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::import::testing::compact;

    fn operations(form: PreluForm, change: impl Fn(&mut TensorProto)) -> Vec<String> {
        let mut graph = compact(1, 4, 0, 2).graph.unwrap();
        graph.initializer.iter_mut().filter(|t| t.dims.len() == 3).for_each(change);
        rewrite(&mut graph, form);
        for node in &graph.node {
            for input in node.input.iter().filter(|i| !i.is_empty()) {
                let made = graph.node.iter().any(|n| n.output.contains(input)) || input == "input";
                assert!(made || graph.initializer.iter().any(|t| t.name.as_ref() == Some(input)), "{input}");
            }
        }
        let unused =
            graph.initializer.iter().find(|t| !graph.node.iter().any(|n| n.input.contains(t.name.as_ref().unwrap())));
        assert_eq!(unused, None);
        graph
            .node
            .iter()
            .skip(1)
            .take_while(|n| n.operation() != "DepthToSpace")
            .map(|n| n.operation().into())
            .collect()
    }

    #[test]
    fn each_form_has_its_operations() {
        let slopes = |values: [f32; 4]| {
            move |tensor: &mut TensorProto| {
                tensor.raw_data = Some(values.iter().flat_map(|v| v.to_le_bytes()).collect())
            }
        };
        let mixed = slopes([0.1, -0.5, 1.0, 0.0]);
        assert_eq!(operations(PreluForm::Kept, mixed), ["PRelu", "Conv"]);
        assert_eq!(operations(PreluForm::Max, mixed), ["Mul", "Max", "Conv"]);
        assert_eq!(operations(PreluForm::Split, mixed), ["Relu", "Min", "Mul", "Add", "Conv"]);
        assert_eq!(operations(PreluForm::Convolutions, mixed), ["Relu", "Conv", "Relu", "Conv", "Add", "Conv"]);
        // Max is wrong above 1; one slope for all is LeakyRelu everywhere.
        assert_eq!(operations(PreluForm::Max, slopes([0.1, 0.2, 1.1, 0.0]))[0], "Relu");
        assert_eq!(operations(PreluForm::Kept, slopes([0.3; 4])), ["LeakyRelu", "Conv"]);
    }
}
