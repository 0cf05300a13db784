//! What a network costs: its numbers, and its multiplications a source pixel.

use std::collections::HashSet;

use crate::models::index::GraphIndex;
use crate::models::model_file::ModelFile;
use crate::models::onnx::FLOAT;
use crate::models::shapes::Shapes;

/// Parameters, and multiply-adds of convolutions and matrices a source pixel (0 where sizes do
/// not follow from the graph).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct NetworkCost {
    pub parameters: u64,
    pub multiply_adds: f64,
}

/// The cost of a model.
pub fn of(model: &ModelFile) -> NetworkCost {
    let (graph, facts) = (model.graph(), &model.facts);
    let index = GraphIndex::new(graph);
    let side = 32 * i64::from(facts.multiple.max(1));
    let size = |fixed: Option<usize>| fixed.map_or(side, |size| size as i64);
    let (h, w) = (size(facts.fixed[0]), size(facts.fixed[1]));
    let batch = facts.batch.unwrap_or(1) as i64;
    let shapes = Shapes::find(&index, &facts.input, [batch, i64::from(facts.channels), h, w]);
    let count = |dims: &[i64]| dims.iter().map(|&d| d as f64).product::<f64>();
    let mut cost = NetworkCost::default();
    // Factors and bounds are no parameters.
    let settings = ["Resize", "Upsample", "Clip"];
    let set: HashSet<&String> =
        graph.node.iter().filter(|n| settings.contains(&n.operation())).flat_map(|n| n.input.iter().skip(1)).collect();
    for tensor in graph.initializer.iter().filter(|t| t.data_type == Some(FLOAT)) {
        if tensor.name.as_ref().is_none_or(|name| !set.contains(name)) {
            cost.parameters += tensor.count().unwrap_or(0) as u64;
        }
    }
    for node in &graph.node {
        let dims = |name: Option<&String>| name.and_then(|name| shapes.dims(name));
        let (Some(from), Some(with), Some(to)) =
            (dims(node.input.first()), dims(node.input.get(1)), dims(node.output.first()))
        else {
            continue;
        };
        cost.multiply_adds += match node.operation() {
            // Every output takes all taps of its group's planes.
            "Conv" => count(to) * count(with.get(1..).unwrap_or_default()),
            // Every input gives to all taps of its group's planes.
            "ConvTranspose" => count(from) * count(with.get(1..).unwrap_or_default()),
            "MatMul" | "Gemm" => count(to) * from.last().map_or(0.0, |&k| k as f64),
            _ => 0.0,
        };
    }
    cost.multiply_adds /= (batch * h * w) as f64;
    cost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_costs_what_its_card_says() {
        let cost = of(&ModelFile::open("fast").unwrap());
        // Weights and biases: 1-16, four 16-16, 16-4, all 3x3.
        let weights = 9 * (16 + 4 * 256 + 64);
        assert_eq!((cost.parameters, cost.multiply_adds), (weights + 5 * 16 + 4, weights as f64));
    }
}
