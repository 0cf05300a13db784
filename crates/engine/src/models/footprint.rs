//! How much memory a network needs at one shape: the tensors alive at the same time.

use std::collections::HashMap;

use prost::Message;

use crate::models::index::GraphIndex;
use crate::models::model_file::ShapedNetwork;
use crate::models::onnx::{GraphProto, ModelProto, NodeProto};

/// A runtime needs more than the tensors: packed layouts, work space, unused gaps.
const SLACK: f64 = 1.5;
/// Bytes of a number.
const FLOAT: f64 = 4.0;

/// Bytes that one session of this network will need for its tensors and weights, estimated.
/// Shapes that cannot be told are taken to be those of the input of their node.
pub fn bytes(network: &ShapedNetwork) -> u64 {
    let Some(graph) = ModelProto::decode(&network.bytes[..]).ok().and_then(|model| model.graph) else {
        return 0;
    };
    let weights: usize = graph.initializer.iter().map(|t| t.raw_data.as_ref().map_or(0, Vec::len)).sum();
    // Input and output are kept by the caller too.
    let kept = network.input_dims.iter().product::<usize>() + network.output_dims.iter().product::<usize>();
    (2.0 * weights as f64 + (peak(&graph, network) * SLACK + kept as f64) * FLOAT) as u64
}

/// Channels and samples of a plane.
#[derive(Clone, Copy)]
struct Size {
    channels: f64,
    area: f64,
}

/// Most numbers alive at once, in the order in which the nodes stand.
fn peak(graph: &GraphProto, network: &ShapedNetwork) -> f64 {
    let [n, c, h, w] = network.input_dims.map(|d| d as f64);
    let mut sizes = HashMap::from([(network.input.as_str(), Size { channels: n * c, area: h * w })]);
    let index = GraphIndex::new(graph);
    let mut last_use: HashMap<&str, usize> = HashMap::new();
    for (at, node) in graph.node.iter().enumerate() {
        last_use.extend(node.input.iter().map(|name| (name.as_str(), at)));
    }
    let numbers = |size: &Size| size.channels * size.area;
    let (mut alive, mut most) = (n * c * h * w, 0f64);
    for (at, node) in graph.node.iter().enumerate() {
        let inputs: Vec<Size> = node.input.iter().filter_map(|name| sizes.get(name.as_str()).copied()).collect();
        let Some(out) = output(node, &inputs, &index, n, network) else { continue };
        let dying: Vec<&str> =
            node.input.iter().map(String::as_str).filter(|name| last_use.get(name) == Some(&at)).collect();
        let freed: f64 = dying.iter().filter_map(|name| sizes.get(name)).map(numbers).sum();
        // What only bends each number is done in place, or together with the node before it.
        let in_place = inputs.len() == 1 && freed == numbers(&out) && is_pointwise(node);
        if !in_place {
            let made = numbers(&out) * node.output.len().min(1) as f64;
            most = most.max(alive + made);
            alive += made - freed;
        }
        for name in dying {
            sizes.remove(name);
        }
        sizes.extend(node.output.first().map(|name| (name.as_str(), out)));
    }
    most.max(alive)
}

fn is_pointwise(node: &NodeProto) -> bool {
    matches!(
        node.operation(),
        "Relu" | "PRelu" | "LeakyRelu" | "Sigmoid" | "Tanh" | "Clip" | "Identity" | "Mul" | "Add"
    )
}

/// The size of a node's output; `None` for nodes that work on constants only.
fn output(node: &NodeProto, inputs: &[Size], index: &GraphIndex, n: f64, network: &ShapedNetwork) -> Option<Size> {
    let first = *inputs.first()?;
    let largest =
        inputs.iter().copied().fold(first, |a, b| if b.channels * b.area > a.channels * a.area { b } else { a });
    let weights = |axis: usize| {
        let tensor = index.constant(node.input.get(1)?)?;
        tensor.dims.get(axis).map(|&d| d as f64)
    };
    let stride = node.ints("strides").iter().product::<i64>().max(1) as f64;
    let block = (node.int("blocksize", 1).max(1) as f64).powi(2);
    Some(match node.operation() {
        "Conv" => Size { channels: n * weights(0).unwrap_or(first.channels / n), area: first.area / stride },
        "ConvTranspose" => Size { channels: n * weights(1).unwrap_or(first.channels / n), area: first.area * stride },
        "DepthToSpace" => Size { channels: first.channels / block, area: first.area * block },
        "SpaceToDepth" => Size { channels: first.channels * block, area: first.area / block },
        "Concat" => Size { channels: inputs.iter().map(|s| s.channels).sum(), ..first },
        // By how much is told by constants: twice, mostly, and never beyond the output.
        "Resize" | "Upsample" => {
            let out: usize = network.output_dims.iter().product();
            let whole = out as f64 / (network.input_dims[0] * network.input_dims[1]) as f64;
            Size { area: (first.area * 4.0).min(whole.max(first.area)), ..first }
        }
        _ => largest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::model_file::ModelFile;
    use crate::models::testing::TestModel;

    #[test]
    fn the_largest_tensors_count() {
        let file = ModelFile::parse("m", &TestModel::default().bytes()).unwrap();
        let at = |batch, side| bytes(&file.network(batch, side, side).unwrap()) as f64;
        // Two layers of six channels, and input and output twice.
        let pixels = 100.0 * 100.0;
        assert!(at(1, 100) > 13.0 * FLOAT * pixels && at(1, 100) < 40.0 * FLOAT * pixels, "{}", at(1, 100));
        assert!(at(4, 100) > 3.5 * at(1, 100) && at(1, 200) > 3.5 * at(1, 100));
        let fast = ModelFile::open("fast").unwrap();
        let need = bytes(&fast.network(1, 492, 866).unwrap());
        assert!(need > 2 * 16 * 4 * 492 * 866 && need < 100 << 20, "{need}");
    }
}
