//! Tests of the canonical form.

use super::*;
use crate::models::model_file::ModelFile;
use crate::models::testing::TestModel;

fn changed(change: impl FnOnce(&mut ModelProto)) -> ModelProto {
    let mut model = ModelProto::decode(&TestModel::default().bytes()[..]).unwrap();
    change(&mut model);
    model
}

fn refusal(model: &ModelProto) -> String {
    let error = ModelFile::parse("m", &model.encode_to_vec()).unwrap_err();
    assert_eq!(Fault::of(&error), Fault::Unsupported, "{error}");
    error.to_string()
}

fn dims(info: &mut ValueInfoProto) -> &mut Vec<crate::models::onnx::Dimension> {
    &mut info.kind.as_mut().unwrap().tensor.as_mut().unwrap().shape.as_mut().unwrap().dim
}

#[test]
fn half_files_are_widened_and_halves_keep_f32_ends() {
    let plain = ModelFile::parse("m", &TestModel::default().bytes()).unwrap();
    let halves = changed(|model| {
        let graph = model.graph.as_mut().unwrap();
        graph.initializer.iter_mut().for_each(TensorProto::narrow);
        graph.input[0].set_element(FLOAT16);
        graph.output[0].set_element(FLOAT16);
    });
    let file = ModelFile::parse("m", &halves.encode_to_vec()).unwrap();
    assert_eq!((&file.facts.tail, file.facts.halo), (&plain.facts.tail, 3));
    assert!(file.facts.remarks[0].contains("widened"), "{:?}", file.facts.remarks);
    let network = file.network(1, 8, 8).unwrap();
    let half = network.half().unwrap();
    assert!(half.bytes.len() < network.bytes.len());
    let graph = ModelProto::decode(&half.bytes[..]).unwrap().graph.unwrap();
    assert!(graph.initializer.iter().all(|t| t.data_type == Some(FLOAT16)));
    assert_eq!((graph.input[0].element(), graph.output[0].element()), (Some(FLOAT), Some(FLOAT)));
    assert_eq!((graph.node[0].operation(), graph.node.last().unwrap().operation()), ("Cast", "Cast"));
}

#[test]
fn eight_bit_pictures_are_rounded_as_the_file_would() {
    let bytes = changed(|model| {
        let graph = model.graph.as_mut().unwrap();
        graph.input[0].set_element(UINT8);
        graph.output[0].set_element(UINT8);
        let cast = |kind: i32| vec![whole("to", i64::from(kind))];
        graph.node.iter_mut().flat_map(|n| &mut n.input).filter(|i| *i == "in").for_each(|i| *i = "float".into());
        graph.node.insert(0, NodeProto { attribute: cast(FLOAT), ..node("Cast", &["in"], "float") });
        graph.node.last_mut().unwrap().output[0] = "codes".into();
        graph.node.push(NodeProto { attribute: cast(UINT8), ..node("Cast", &["codes"], "out") });
    });
    let file = ModelFile::parse("m", &bytes.encode_to_vec()).unwrap();
    let facts = &file.facts;
    assert_eq!((facts.white, facts.open.white, facts.scale, facts.halo), (255, false, 2, 3));
    let kinds: Vec<&str> = file.graph().node.iter().map(|n| n.operation()).take(4).collect();
    assert_eq!(kinds, ["Round", "Clip", "Cast", "Cast"]);
    assert_eq!(file.graph().input[0].element(), Some(FLOAT));
}

#[test]
fn single_pictures_get_a_batch_of_one() {
    let model = changed(|model| {
        let graph = model.graph.as_mut().unwrap();
        dims(&mut graph.input[0]).remove(0);
        dims(&mut graph.output[0]).remove(0);
        // What follows works on batches, so the file itself adds and removes one.
        let axes = TensorProto::of_integers("zero", &[0]);
        graph.initializer.push(axes);
        graph.node.iter_mut().flat_map(|n| &mut n.input).filter(|i| *i == "in").for_each(|i| *i = "one".into());
        graph.node.insert(0, node("Unsqueeze", &["in", "zero"], "one"));
        graph.node.last_mut().unwrap().output[0] = "many".into();
        graph.node.push(node("Squeeze", &["many", "zero"], "out"));
    });
    let file = ModelFile::parse("m", &model.encode_to_vec()).unwrap();
    assert_eq!((file.facts.batch, file.facts.scale, file.facts.channels), (Some(1), 2, 1));
    assert!(file.network(1, 8, 8).is_ok() && file.network(2, 8, 8).is_err());
}

#[test]
fn what_is_no_enlarging_network_is_refused_in_words() {
    let last = changed(|model| {
        let dims = dims(&mut model.graph.as_mut().unwrap().input[0]);
        let planes = dims.remove(1);
        dims.push(planes);
    });
    assert!(refusal(&last).contains("channels first"));
    let two = changed(|model| {
        let graph = model.graph.as_mut().unwrap();
        graph.input.push(ValueInfoProto::float_tensor("noise", [1, 1, 1, 1]));
    });
    assert!(refusal(&two).contains("2 inputs (in, noise)"));
    let classifier = changed(|model| {
        let graph = model.graph.as_mut().unwrap();
        dims(&mut graph.output[0]).truncate(2);
    });
    assert!(refusal(&classifier).contains("no picture"));
    let outside = changed(|model| model.graph.as_mut().unwrap().initializer[0].data_location = Some(1));
    assert!(refusal(&outside).contains("another file"));
    let text = changed(|model| model.graph.as_mut().unwrap().input[0].set_element(8));
    assert!(refusal(&text).contains("floats"));
}

#[test]
fn more_operations_than_any_network_has_are_refused() {
    let many = changed(|model| model.graph.as_mut().unwrap().node.resize(NODES_MAX + 1, node("Relu", &["in"], "r")));
    assert!(refusal(&many).contains("65537 operations; at most 65536"));
    let stored = changed(|model| {
        model.graph.as_mut().unwrap().initializer.resize(TENSORS_MAX + 1, TensorProto::of_integers("n", &[0]));
    });
    assert!(refusal(&stored).contains("stored tensors"));
}

#[test]
fn of_several_outputs_the_picture_is_taken() {
    let several = changed(|model| {
        let graph = model.graph.as_mut().unwrap();
        graph.output.insert(0, ValueInfoProto::float_tensor("c1", [1, 6, 8, 8]));
    });
    let file = ModelFile::parse("m", &several.encode_to_vec()).unwrap();
    assert_eq!(file.facts.output, "out");
}
