//! The end of a graph that is done by us, in f32: last sum, pixel shuffle, clipping.

use crate::models::index::GraphIndex;
use crate::models::onnx::{GraphProto, NodeProto, TensorProto};

/// Where a graph can be cut before its pixel shuffle, and what has been left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The tensor to end at: `[n, channels * scale * scale, h, w]`.
    pub phases: String,
    /// The input was added to each phase: what remains is only the difference.
    pub residual: bool,
    /// A pixel shuffle before `phases`, to be left out: the name it makes and the one it takes.
    pub shuffle: Option<(String, String)>,
    /// The convolution whose outputs are to be put in CRD order, by the name it makes.
    pub reorder: Option<String>,
}

/// What does the same to every sample, wherever it lies: before a pixel shuffle or after it.
const PER_SAMPLE: &[&str] =
    &["Relu", "LeakyRelu", "Tanh", "Sigmoid", "HardSigmoid", "Clip", "Identity", "Add", "Sub", "Mul", "Div"];

/// Finds `[Add of the input] -> DepthToSpace -> [pointwise] -> [Add of the enlarged input] ->
/// [Clip to 0..white]` at the end of the graph. The clip goes too: code values are clamped
/// anyway.
pub fn find(graph: &GraphProto, input: &str, output: &str, scale: u32, channels: u32, white: u32) -> Option<Tail> {
    let index = GraphIndex::new(graph);
    let mut name = unclipped(&index, output, white);
    let mut residual = false;
    if let Some(add) = index.maker(name).filter(|n| n.operation() == "Add")
        && let [a, b] = add.input.as_slice()
    {
        let (first, second) = (repeats(&index, a, input, scale), repeats(&index, b, input, scale));
        if first != second {
            residual = true;
            name = if first { b } else { a };
            if index.uses(name) != 1 {
                return None;
            }
        }
    }
    // Back over what may as well be done on the phases.
    let end = name;
    let mut end_of_shuffle = name;
    let mut node = index.maker(name)?;
    while node.operation() != "DepthToSpace" {
        if !is_pointwise(&index, node) {
            return None;
        }
        end_of_shuffle = node.input.iter().find(|i| index.constant(i).is_none())?;
        if index.uses(end_of_shuffle) != 1 {
            return None;
        }
        node = index.maker(end_of_shuffle)?;
    }
    let phases = node.input.first()?.as_str();
    if node.int("blocksize", 1) != i64::from(scale) || index.uses(phases) != 1 {
        return None;
    }
    let reorder = match (node.text("mode"), channels) {
        ("CRD", _) | (_, 1) => None,
        _ => Some(phases.to_owned()),
    };
    if reorder.is_some() && !makes_planes(&index, phases, (channels * scale * scale) as i64) {
        return None;
    }
    if end != end_of_shuffle {
        let shuffle = Some((end_of_shuffle.to_owned(), phases.to_owned()));
        return Some(Tail { phases: end.to_owned(), residual, shuffle, reorder });
    }
    let plain = Tail { phases: phases.to_owned(), residual, shuffle: None, reorder };
    // The input added before the shuffle: with one channel it is added to every phase.
    if let Some(add) = index.maker(phases).filter(|n| n.operation() == "Add" && channels == 1 && !residual) {
        let other = match add.input.as_slice() {
            [a, b] if b == input => a,
            [a, b] if a == input => b,
            _ => return Some(plain),
        };
        if makes_planes(&index, other, i64::from(scale * scale)) {
            return Some(Tail { phases: other.clone(), residual: true, ..plain });
        }
    }
    Some(plain)
}

/// The name before a clip to the range of code values, or the name itself.
fn unclipped<'a>(index: &GraphIndex<'a>, name: &'a str, white: u32) -> &'a str {
    let Some(clip) = index.maker(name).filter(|n| n.operation() == "Clip") else { return name };
    let bound =
        |at: usize, attribute: &str| index.one_float(clip, at).or_else(|| clip.attribute(attribute).and_then(|a| a.f));
    let inside = bound(1, "min") == Some(0.0) && bound(2, "max") == Some(white as f32);
    match clip.input.first() {
        Some(before) if inside && index.uses(before) == 1 => before,
        _ => name,
    }
}

/// Whether a node does the same to every sample: one input, all others single numbers.
fn is_pointwise(index: &GraphIndex, node: &NodeProto) -> bool {
    let pictures = node.input.iter().filter(|i| !i.is_empty() && index.constant(i).is_none()).count();
    let single = |name: &String| index.constant(name).is_none_or(|t| t.count() == Some(1) && t.dims.len() <= 4);
    PER_SAMPLE.contains(&node.operation()) && pictures == 1 && node.input.iter().all(single)
}

/// Whether a tensor is straight from a convolution with this many planes whose weights are
/// stored and used once.
fn makes_planes(index: &GraphIndex, name: &str, planes: i64) -> bool {
    let Some(node) = index.maker(name).filter(|n| n.operation() == "Conv" && n.int("group", 1) == 1) else {
        return false;
    };
    let stored = |name: &String| {
        index.uses(name) == 1
            && index.constant(name).is_some_and(|t| t.dims.first() == Some(&planes) && t.floats().is_some())
    };
    node.input.len() >= 2 && node.input[1..].iter().all(stored)
}

/// Whether a tensor is the input with each pixel repeated `scale` times in both directions.
fn repeats(index: &GraphIndex, name: &str, input: &str, scale: u32) -> bool {
    let Some(node) = index.maker(name) else { return false };
    if !matches!(node.operation(), "Resize" | "Upsample") || node.input.first().map(String::as_str) != Some(input) {
        return false;
    }
    let scales = index.floats(node, node.input.len().min(3) - 1);
    let scales = scales.or_else(|| node.attribute("scales").map(|a| a.floats.clone()));
    scales == Some(vec![1.0, 1.0, scale as f32, scale as f32]) && nearest_repeats(node)
}

/// Whether a nearest `Resize` by a whole number takes sample `floor(j / scale)` for each `j`.
pub fn nearest_repeats(node: &NodeProto) -> bool {
    let or = |name: &str, default: &'static str| match node.text(name) {
        "" => default.to_owned(),
        given => given.to_owned(),
    };
    if or("mode", "nearest") != "nearest" {
        return false;
    }
    if node.operation() == "Upsample" {
        return true;
    }
    // Half-pixel centres lie within half a sample of the one that is repeated.
    matches!(
        (
            or("coordinate_transformation_mode", "half_pixel").as_str(),
            or("nearest_mode", "round_prefer_floor").as_str()
        ),
        ("asymmetric", "floor")
            | (
                "half_pixel" | "pytorch_half_pixel" | "half_pixel_symmetric",
                "round_prefer_floor" | "round_prefer_ceil"
            )
    )
}

/// Puts the planes of a convolution from DCR order (`plane = (dy * s + dx) * channels + c`) in
/// CRD order (`plane = c * s * s + dy * s + dx`).
pub fn reorder(graph: &mut GraphProto, made: &str, scale: usize, channels: usize) -> Option<()> {
    let node = graph.node.iter().find(|n| n.output.iter().any(|o| o == made))?;
    let names: Vec<String> = node.input.iter().skip(1).filter(|i| !i.is_empty()).cloned().collect();
    for name in names {
        let moved = {
            let tensor = GraphIndex::new(graph).constant(&name)?;
            let values = tensor.floats()?;
            let plane = values.len() / (scale * scale * channels);
            let from = |to: usize| (to % (scale * scale)) * channels + to / (scale * scale);
            let planes = (0..scale * scale * channels).flat_map(|to| values[from(to) * plane..][..plane].to_vec());
            TensorProto::of_floats(&name, &tensor.dims, planes.collect::<Vec<f32>>())
        };
        // A `Constant` of that name becomes an initialiser.
        graph.node.retain(|n| !n.output.contains(&name));
        graph.initializer.retain(|t| t.name.as_deref() != Some(&name));
        graph.initializer.push(moved);
    }
    Some(())
}

/// Leaves a pixel shuffle out: what used `made` uses `taken`.
pub fn bypass(graph: &mut GraphProto, made: &str, taken: &str) {
    graph.node.retain(|n| !n.output.iter().any(|o| o == made));
    for input in graph.node.iter_mut().flat_map(|n| &mut n.input).filter(|i| *i == made) {
        taken.clone_into(input);
    }
}
