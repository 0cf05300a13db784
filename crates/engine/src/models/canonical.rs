//! The one form that networks have inside the program: 32-bit floats, `[n, channels, h, w]` in
//! and out, one input, one output.

use std::collections::HashSet;

use anyhow::Result;
use prost::Message;

use upscaled_core::fault::Fault;

use crate::models::index::GraphIndex;
use crate::models::onnx::{AttributeProto, FLOAT, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use crate::models::values::{BFLOAT16, DOUBLE, FLOAT16, UINT8};

/// Largest fixed size of an input on any side.
const SIZE_MAX: usize = 1 << 14;
/// Most operations, and most stored tensors, of a file: far more than any network for pictures.
const NODES_MAX: usize = 1 << 16;
const TENSORS_MAX: usize = 1 << 16;

/// What was changed, for facts and for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The number of white, where the file's types tell it.
    pub white: Option<u32>,
    pub remarks: Vec<String>,
}

/// Rewrites a model as it was read from its file. `name` is the model's, for messages.
///
/// # Errors
/// [`Fault::Unsupported`] for what is no network from one picture to one picture, and for
/// files that keep their weights elsewhere or their planes last.
pub fn rewrite(model: &mut ModelProto, name: &str) -> Result<Changes> {
    let no = |what: &str| Fault::Unsupported.because(format!("model {name}: {what}"));
    let opset = opset(model);
    let graph = model.graph.get_or_insert_default();
    let mut changes = Changes::default();
    for (count, most, what) in
        [(graph.node.len(), NODES_MAX, "operations"), (graph.initializer.len(), TENSORS_MAX, "stored tensors")]
    {
        if count > most {
            return Err(no(&format!("it has {count} {what}; at most {most} are possible")));
        }
    }
    if graph.initializer.iter().any(|t| t.data_location.unwrap_or(0) != 0) {
        return Err(no("its weights lie in another file; save it as one file"));
    }
    // Old files list their weights among the inputs.
    let stored: HashSet<&str> = graph.initializer.iter().filter_map(|t| t.name.as_deref()).collect();
    graph.input.retain(|i| i.name.as_deref().is_none_or(|n| !stored.contains(n)));
    one_input(graph, name)?;
    one_output(graph, name)?;
    let halves = to_f32(graph);
    if halves > 0 {
        changes.remarks.push(format!("{halves} tensors of the file were widened to 32 bits"));
    }
    let input = graph.input[0].clone();
    let output = graph.output[0].clone();
    if input.element() == Some(UINT8) || output.element() == Some(UINT8) {
        if opset < 11 {
            return Err(no("8-bit pictures need operator set 11 or newer; export it again"));
        }
        changes.white = Some(255);
        changes.remarks.push("takes or gives 8-bit pictures: its numbers are rounded as the file says".into());
    }
    if input.element() == Some(UINT8) {
        let (from, to) = (fresh(graph, "picture"), input.name.clone().unwrap_or_default());
        let bounds = [("code_min", 0.0), ("code_max", 255.0)].map(|(n, v)| (fresh(graph, n), v));
        graph.initializer.extend(bounds.iter().map(|(n, v)| TensorProto::of_floats(n, &[], [*v])));
        let (rounded, clipped) = (fresh(graph, "rounded"), fresh(graph, "clipped"));
        let nodes = [
            node("Round", &[&from], &rounded),
            node("Clip", &[&rounded, &bounds[0].0, &bounds[1].0], &clipped),
            NodeProto { attribute: vec![whole("to", i64::from(UINT8))], ..node("Cast", &[&clipped], &to) },
        ];
        graph.node.splice(0..0, nodes);
        graph.input[0].name = Some(from);
    }
    if output.element() == Some(UINT8) {
        let (from, to) = (output.name.clone().unwrap_or_default(), fresh(graph, "enlarged"));
        let cast = NodeProto { attribute: vec![whole("to", i64::from(FLOAT))], ..node("Cast", &[&from], &to) };
        graph.node.push(cast);
        graph.output[0].name = Some(to);
    }
    for info in [&mut graph.input[0], &mut graph.output[0]] {
        match info.element() {
            Some(FLOAT | UINT8 | FLOAT16 | BFLOAT16 | DOUBLE) => info.set_element(FLOAT),
            _ => return Err(no("its input and output must be floats or 8-bit numbers")),
        }
    }
    if input.dims().len() == 3 {
        add_batch(graph, opset);
        changes.remarks.push("takes single pictures without a batch".into());
    }
    // Sizes noted inside were for another form; the runtime finds them again.
    graph.value_info.clear();
    Ok(changes)
}

/// Pads the picture inside the graph, by repeating its edge, for networks that give less than
/// they take. `pad`: source pixels on each side.
pub fn pad_input(model: &mut ModelProto, pad: i64) {
    let opset = opset(model);
    let graph = model.graph.get_or_insert_default();
    let Some(inside) = graph.input.first().and_then(|i| i.name.clone()) else { return };
    let outside = fresh(graph, "source");
    let pads = [0, 0, pad, pad, 0, 0, pad, pad];
    let mode =
        AttributeProto { name: Some("mode".into()), s: Some(b"edge".to_vec()), kind: Some(3), ..Default::default() };
    let mut padding = NodeProto { attribute: vec![mode], ..node("Pad", &[&outside], &inside) };
    if opset < 11 {
        let ints = pads.to_vec();
        padding.attribute.push(AttributeProto { name: Some("pads".into()), ints, kind: Some(7), ..Default::default() });
    } else {
        let name = fresh(graph, "pads");
        graph.initializer.push(TensorProto::of_integers(&name, &pads));
        padding.input.push(name);
    }
    graph.node.insert(0, padding);
    graph.input[0].name = Some(outside);
}

/// The network in 16-bit floats inside, 32-bit at its input and output: for providers that are
/// faster so. Values beyond the range of f16 become infinite, which the engine sees.
pub fn half(model: &mut ModelProto) {
    let graph = model.graph.get_or_insert_default();
    // Factors of resizes stay as they are, by the operator's own rule.
    let resizes = graph.node.iter().filter(|n| ["Resize", "Upsample"].contains(&n.operation()));
    let kept: HashSet<String> = resizes.flat_map(|n| n.input.iter().skip(1).cloned()).collect();
    let stays = |name: Option<&str>| name.is_some_and(|name| kept.contains(name));
    for tensor in graph.initializer.iter_mut().filter(|t| !stays(t.name.as_deref())) {
        tensor.narrow();
    }
    for node in &mut graph.node {
        if stays(node.output.first().map(String::as_str)) {
            continue;
        }
        let cast = node.operation() == "Cast";
        for attribute in &mut node.attribute {
            if let Some(tensor) = &mut attribute.t {
                tensor.narrow();
            }
            if cast && attribute.name.as_deref() == Some("to") && attribute.i == Some(i64::from(FLOAT)) {
                attribute.i = Some(i64::from(FLOAT16));
            }
        }
    }
    graph.value_info.clear();
    let ends = (graph.input.first().and_then(|i| i.name.clone()), graph.output.first().and_then(|o| o.name.clone()));
    let (Some(input), Some(output)) = ends else { return };
    let (inside, given) = (fresh(graph, "half_in"), fresh(graph, "half_out"));
    for node in &mut graph.node {
        node.input.iter_mut().filter(|n| **n == input).for_each(|n| inside.clone_into(n));
        for name in node.input.iter_mut().chain(&mut node.output).filter(|n| **n == output) {
            given.clone_into(name);
        }
    }
    let cast = |from: &str, to: &str, kind: i32| NodeProto {
        attribute: vec![whole("to", i64::from(kind))],
        ..node("Cast", &[from], to)
    };
    graph.node.insert(0, cast(&input, &inside, FLOAT16));
    graph.node.push(cast(&given, &output, FLOAT));
}

/// Version of the standard operators that the file was written for.
fn opset(model: &ModelProto) -> i64 {
    #[derive(Clone, PartialEq, Message)]
    struct Operators {
        #[prost(string, optional, tag = "1")]
        domain: Option<String>,
        #[prost(int64, optional, tag = "2")]
        version: Option<i64>,
    }
    let sets = model.opset_import.iter().filter_map(|bytes| Operators::decode(&bytes[..]).ok());
    let standard = sets.filter(|o| matches!(o.domain.as_deref(), None | Some("" | "ai.onnx")));
    standard.filter_map(|o| o.version).max().unwrap_or(1)
}

fn one_input(graph: &GraphProto, name: &str) -> Result<()> {
    let no = |what: String| Err(Fault::Unsupported.because(format!("model {name}: {what}")));
    let [input] = graph.input.as_slice() else {
        let names: Vec<&str> = graph.input.iter().filter_map(|i| i.name.as_deref()).take(8).collect();
        return no(format!("it takes {} inputs ({}); one picture is what it must take", names.len(), names.join(", ")));
    };
    let dims = input.dims();
    if dims.iter().flatten().any(|&size| size > SIZE_MAX) {
        return no("its input is too large on some side".into());
    }
    let planes = |at: usize| matches!(dims[at], Some(1 | 3));
    match dims.len() {
        3 if planes(0) => Ok(()),
        4 if planes(1) => Ok(()),
        4 if planes(3) && !planes(1) => {
            no("its input is [n, height, width, channels]; export it with channels first".into())
        }
        4 if dims[1].is_none() => Ok(()),
        _ => no("its input must be [n, channels, height, width] with one channel (luma) or three (RGB)".into()),
    }
}

/// Keeps the output that is a picture like the input.
fn one_output(graph: &mut GraphProto, name: &str) -> Result<()> {
    let no = |what: &str| Fault::Unsupported.because(format!("model {name}: {what}"));
    let given = graph.input[0].dims();
    let like = |info: &ValueInfoProto| {
        let dims = info.dims();
        let planes = given.len() - 3;
        dims.is_empty()
            || dims.len() == given.len()
                && (dims[planes].is_none() || dims[planes] == given[planes] || given[planes].is_none())
    };
    if graph.output.len() > 1 {
        graph.output.retain(like);
    }
    match graph.output.as_slice() {
        [one] if like(one) => Ok(()),
        [_] | [] => {
            Err(no("its output is no picture of as many channels as its input; it is not for enlarging pictures"))
        }
        _ => Err(no("it gives several pictures; export it with one output")),
    }
}

/// Widens all stored floats; returns how many tensors were changed.
fn to_f32(graph: &mut GraphProto) -> usize {
    let mut changed = 0;
    for tensor in &mut graph.initializer {
        changed += usize::from(tensor.widen());
    }
    for node in &mut graph.node {
        let cast = node.operation() == "Cast";
        for attribute in &mut node.attribute {
            if let Some(tensor) = &mut attribute.t {
                changed += usize::from(tensor.widen());
            }
            let narrow = [FLOAT16, BFLOAT16, DOUBLE].map(|kind| Some(i64::from(kind)));
            if cast && attribute.name.as_deref() == Some("to") && narrow.contains(&attribute.i) {
                attribute.i = Some(i64::from(FLOAT));
            }
        }
    }
    changed
}

/// Gives a network for `[channels, h, w]` a batch of one.
fn add_batch(graph: &mut GraphProto, opset: i64) {
    let axes = fresh(graph, "batch_axis");
    let change = |kind: &str, from: &str, to: &str| {
        let mut change = node(kind, &[from], to);
        if opset < 13 {
            let ints = vec![0];
            change.attribute.push(AttributeProto {
                name: Some("axes".into()),
                ints,
                kind: Some(7),
                ..Default::default()
            });
        } else {
            change.input.push(axes.clone());
        }
        change
    };
    let (inside, given) =
        (graph.input[0].name.clone().unwrap_or_default(), graph.output[0].name.clone().unwrap_or_default());
    let (input, output) = (fresh(graph, "pictures"), fresh(graph, "enlarged_pictures"));
    let (first, last) = (change("Squeeze", &input, &inside), change("Unsqueeze", &given, &output));
    graph.node.insert(0, first);
    graph.node.push(last);
    if opset >= 13 {
        graph.initializer.push(TensorProto::of_integers(&axes, &[0]));
    }
    for (info, name) in [(&mut graph.input[0], input), (&mut graph.output[0], output)] {
        info.name = Some(name);
        info.insert_batch();
    }
}

fn node(kind: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(kind.into()),
        input: inputs.iter().map(|i| (*i).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..Default::default()
    }
}

fn whole(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: Some(name.into()), i: Some(value), kind: Some(2), ..Default::default() }
}

/// A name that the graph does not have yet.
fn fresh(graph: &GraphProto, wish: &str) -> String {
    let index = GraphIndex::new(graph);
    let taken = |name: &str| {
        let ends = graph.input.iter().chain(&graph.output).any(|i| i.name.as_deref() == Some(name));
        ends || index.maker(name).is_some() || index.constant(name).is_some() || index.uses(name) > 0
    };
    let mut name = format!("upscaled_{wish}");
    while taken(&name) {
        name.push('_');
    }
    name
}

#[cfg(test)]
#[path = "canonical_tests.rs"]
mod tests;
