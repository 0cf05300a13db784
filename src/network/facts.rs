//! Model facts: what a network takes and gives, and how far it sees, read from its graph.

use std::collections::HashMap;

use anyhow::Result;

use crate::base::fault::Fault;
use crate::network::index::Index;
use crate::network::onnx::{self, GraphProto, NodeProto};
use crate::network::tail::{self, Tail};
use crate::pixel::shuffle::MAX_SCALE;

/// Farthest a network may see, in source pixels: beyond it tiles would be mostly halo.
const MAX_HALO: u32 = 96;

/// What the engine must know of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    pub input: String,
    pub output: String,
    /// 1, luma, or 3, RGB.
    pub channels: u32,
    /// The network's number for white, in and out: 1, or 255.
    pub white: u32,
    /// How many times wider and higher the output is.
    pub scale: u32,
    /// What the input's height and width must be a multiple of.
    pub multiple: u32,
    /// Source pixels beyond a pixel's own place that its output can depend on.
    pub halo: u32,
    /// Fixed height and width of the input, where the file does not leave them free.
    pub fixed: [Option<usize>; 2],
    /// Where the graph can be cut before its pixel shuffle.
    pub tail: Option<Tail>,
}

/// Reads the facts of a network for luma or RGB; [`Fault::Unsupported`] says what is in the way.
/// `name` is the model's, for messages.
pub fn read(graph: &GraphProto, name: &str) -> Result<ModelFacts> {
    let no = |what: String| Fault::Unsupported.because(format!("model {name}: {what}"));
    let constants: Vec<&str> = graph.initializer.iter().filter_map(|t| t.name.as_deref()).collect();
    if graph.initializer.iter().any(|t| t.data_location.unwrap_or(0) != 0) {
        return Err(no("its weights lie in another file; save it as one file".into()));
    }
    let inputs: Vec<_> = graph.input.iter().filter(|i| !constants.contains(&i.name.as_deref().unwrap_or(""))).collect();
    let ([input], [output]) = (inputs.as_slice(), graph.output.as_slice()) else {
        return Err(no("it must have one input and one output".into()));
    };
    let dims = input.dims();
    if dims.len() != 4 {
        return Err(no("its input must be [n, channels, height, width]".into()));
    }
    let channels = match dims[1] {
        Some(planes @ (1 | 3)) => planes as u32,
        _ => return Err(no("its input must have one channel (luma) or three (RGB)".into())),
    };
    if input.element() != Some(onnx::FLOAT) || output.element() != Some(onnx::FLOAT) {
        return Err(no("its input and output must be 32-bit floats".into()));
    }
    let (input, output) = (input.name.clone().unwrap_or_default(), output.name.clone().unwrap_or_default());

    let index = Index::new(graph);
    let mut views: HashMap<&str, View> = HashMap::from([(input.as_str(), View { scale: 1, reach: 0.0 })]);
    for node in &graph.node {
        let sources: Vec<View> = node.input.iter().filter_map(|i| views.get(i.as_str()).copied()).collect();
        if sources.is_empty() {
            continue; // made of constants only
        }
        let view = through(node, &sources, &index).map_err(no)?;
        for out in node.output.iter().filter(|o| !o.is_empty()) {
            views.insert(out, view);
        }
    }
    let view = views.get(output.as_str()).ok_or_else(|| no("its output does not depend on its input".into()))?;
    let halo = view.reach.ceil() as u32;
    if view.scale as usize > MAX_SCALE {
        return Err(no(format!("it enlarges {} times; at most {MAX_SCALE} times is possible", view.scale)));
    }
    if halo > MAX_HALO {
        return Err(no(format!("each pixel depends on {halo} pixels around it; at most {MAX_HALO} are possible")));
    }
    let tail = tail::find(graph, &input, &output, view.scale, channels, 1);
    Ok(ModelFacts {
        channels,
        white: 1,
        multiple: 1,
        scale: view.scale,
        halo,
        fixed: [dims[2], dims[3]],
        tail,
        input,
        output,
    })
}

/// A tensor seen from the source: how many times larger, and how many source pixels it sees.
#[derive(Clone, Copy)]
struct View {
    scale: u32,
    reach: f64,
}

/// The view behind a node, or what stands in the way.
fn through(node: &NodeProto, sources: &[View], index: &Index) -> Result<View, String> {
    let scale = sources[0].scale;
    if sources.iter().any(|s| s.scale != scale) {
        return Err(format!("`{}` joins pictures of different size", node.operation()));
    }
    let reach = sources.iter().map(|s| s.reach).fold(0.0, f64::max);
    let step = 1.0 / f64::from(scale);
    match node.operation() {
        "Relu" | "PRelu" | "LeakyRelu" | "Elu" | "Selu" | "Celu" | "Gelu" | "Sigmoid" | "HardSigmoid" | "HardSwish"
        | "Mish" | "Tanh" | "Softplus" | "Softsign" | "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Sqrt" | "Exp"
        | "Log" | "Abs" | "Neg" | "Erf" | "Min" | "Max" | "Sum" | "Mean" | "Clip" | "Identity" | "Dropout"
        | "Round" | "BatchNormalization" => Ok(View { scale, reach }),
        "Concat" | "Split" | "Softmax" if node.int("axis", 1) == 1 => Ok(View { scale, reach }),
        "Conv" => {
            let (kernel, dilations) = (kernel(node, index)?, node.ints("dilations"));
            if node.ints("strides").iter().any(|&s| s != 1) {
                return Err("it reduces the picture inside (a convolution with a stride)".into());
            }
            let mut reach_here = 0i64;
            for (axis, &k) in kernel.iter().enumerate() {
                let span = (k - 1) * dilations.get(axis).copied().unwrap_or(1);
                let (before, after) = match (node.text("auto_pad"), node.ints("pads")) {
                    ("SAME_UPPER", _) => (span / 2, span - span / 2),
                    ("SAME_LOWER", _) => (span - span / 2, span / 2),
                    ("" | "NOTSET", &[]) => (0, 0),
                    ("" | "NOTSET", pads) if pads.len() == 2 * kernel.len() => (pads[axis], pads[axis + kernel.len()]),
                    _ => (0, 0),
                };
                if before + after != span || before < 0 || after < 0 {
                    return Err("it cuts the borders of the picture (a convolution without padding)".into());
                }
                reach_here = reach_here.max(before.max(after));
            }
            Ok(View { scale, reach: reach + reach_here as f64 * step })
        }
        "ConvTranspose" => {
            let (kernel, strides) = (kernel(node, index)?, node.ints("strides"));
            let &[a, b] = strides else { return Err("a transposed convolution without strides".into()) };
            if a != b || a < 1 {
                return Err("a transposed convolution with unequal strides".into());
            }
            // Every output pixel takes part in at most this many inputs to either side.
            let reach_here = kernel.iter().map(|&k| (k + a - 1) / a).max().unwrap_or(0);
            Ok(View { scale: scale * a as u32, reach: reach + reach_here as f64 * step })
        }
        "DepthToSpace" => Ok(View { scale: scale * node.int("blocksize", 1).max(1) as u32, reach }),
        "Resize" | "Upsample" => {
            let scales = index.floats(node, node.input.len().min(3) - 1);
            let scales = scales.or_else(|| node.attribute("scales").map(|a| a.floats.clone()));
            let Some(&[1.0, 1.0, a, b]) = scales.as_deref() else { return Err("a resize of unknown factor".into()) };
            if a != b || a.fract() != 0.0 || a < 1.0 {
                return Err("a resize by no whole number".into());
            }
            let taps = if tail::nearest_repeats(node) { 0.0 } else { 2.0 };
            Ok(View { scale: scale * a as u32, reach: reach + taps * step })
        }
        operation => Err(format!("it uses the operation `{operation}`, which cannot be run in tiles by this version")),
    }
}

/// Kernel size of a convolution, from the attribute or the weights.
fn kernel(node: &NodeProto, index: &Index) -> Result<Vec<i64>, String> {
    let given = node.ints("kernel_shape");
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let weights = node.input.get(1).and_then(|w| index.constant(w));
    weights.and_then(|w| w.dims.get(2..)).map(<[i64]>::to_vec).ok_or_else(|| "a convolution of unknown size".into())
}
