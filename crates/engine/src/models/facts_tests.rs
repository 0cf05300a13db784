//! Tests of facts: graphs of the usual exporters, and models that people have.

use super::*;
use crate::models::model_file::ModelFile;
use crate::models::onnx::{AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};
use prost::Message;

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { name: Some(name.into()), ints: ints.to_vec(), kind: Some(7), ..Default::default() }
}

fn node(kind: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let input = inputs.iter().map(|i| (*i).to_owned()).collect();
    NodeProto { op_type: Some(kind.into()), input, output: vec![output.into()], attribute, ..Default::default() }
}

/// A graph from `in`, of 1 plane, to `out`, with weights of ones.
fn model(nodes: Vec<NodeProto>, weights: &[(&str, &[i64])], lists: &[(&str, &[i64])]) -> Vec<u8> {
    let ones = |(name, dims): &(&str, &[i64])| {
        TensorProto::of_floats(name, dims, vec![1.0; dims.iter().product::<i64>() as usize])
    };
    let mut initializer: Vec<TensorProto> = weights.iter().map(ones).collect();
    initializer.extend(lists.iter().map(|(name, values)| TensorProto::of_integers(name, values)));
    let mut input = ValueInfoProto::float_tensor("in", [1, 1, 1, 1]);
    for at in [0, 2, 3] {
        input.kind.as_mut().unwrap().tensor.as_mut().unwrap().shape.as_mut().unwrap().dim[at] = Default::default();
    }
    let output = vec![ValueInfoProto::free_floats("out")];
    let graph = GraphProto { node: nodes, initializer, input: vec![input], output, ..Default::default() };
    let opset_import = vec![vec![0x10, 17]];
    ModelProto { graph: Some(graph), opset_import, ir_version: Some(8), ..Default::default() }.encode_to_vec()
}

fn facts(bytes: &[u8]) -> ModelFacts {
    ModelFile::parse("m", bytes).unwrap().facts
}

#[test]
fn a_network_of_valid_convolutions_is_padded_inside() {
    // Two 3x3 without padding, then 4x4 with a stride of 2 that gives 2n + 2 less 6.
    let nodes = vec![
        node("Conv", &["in", "a"], "x", vec![]),
        node("Conv", &["x", "a"], "y", vec![]),
        node("ConvTranspose", &["y", "b"], "out", vec![ints("strides", &[2, 2]), ints("pads", &[3, 3, 3, 3])]),
    ];
    let facts = facts(&model(nodes, &[("a", &[1, 1, 3, 3]), ("b", &[1, 1, 4, 4])], &[]));
    // 2 (w - 4) - 4 = 2 w - 12: three on each side.
    assert_eq!((facts.scale, facts.multiple, facts.halo), (2, 1, 3));
    assert!(facts.remarks.iter().any(|r| r.contains("repeated 3 times")), "{:?}", facts.remarks);
}

#[test]
fn shuffles_of_exporters_are_seen_through() {
    // Unshuffle by two with sizes computed in the graph, a convolution, shuffle by four.
    let perm = |p: &[i64]| vec![ints("perm", p)];
    let nodes = vec![
        node("Shape", &["in"], "s", vec![]),
        node("Gather", &["s", "two"], "h", vec![]),
        node("Gather", &["s", "three"], "w", vec![]),
        node("Div", &["h", "two"], "h2", vec![]),
        node("Div", &["w", "two"], "w2", vec![]),
        NodeProto { attribute: vec![axis0()], ..node("Concat", &["n1", "h2", "two", "w2", "two"], "to", vec![]) },
        node("Unsqueeze", &["in", "zero"], "five", vec![]),
        node("Reshape", &["five", "to"], "r", vec![]),
        node("Transpose", &["r"], "t", perm(&[0, 1, 3, 5, 2, 4])),
        NodeProto { attribute: vec![axis0()], ..node("Concat", &["n4", "h2", "w2"], "to2", vec![]) },
        node("Reshape", &["t", "to2"], "low", vec![]),
        node("Conv", &["low", "a"], "wide", vec![ints("pads", &[1, 1, 1, 1])]),
        NodeProto { attribute: vec![axis0()], ..node("Concat", &["n144", "h2", "w2"], "to3", vec![]) },
        node("Reshape", &["wide", "to3"], "r2", vec![]),
        node("Transpose", &["r2"], "t2", perm(&[0, 1, 4, 2, 5, 3])),
        node("Reshape", &["t2", "to4"], "out", vec![]),
    ];
    fn axis0() -> AttributeProto {
        AttributeProto { name: Some("axis".into()), i: Some(0), kind: Some(2), ..Default::default() }
    }
    let lists: &[(&str, &[i64])] = &[
        ("zero", &[0]),
        ("two", &[2]),
        ("three", &[3]),
        ("n1", &[1, 1]),
        ("n4", &[1, 4]),
        ("n144", &[1, 1, 4, 4]),
        ("to4", &[1, 1, 148, -1]),
    ];
    let mut nodes = nodes;
    nodes.insert(15, node("Mul", &["h2", "four"], "h8", vec![]));
    nodes.insert(16, node("Mul", &["w2", "four"], "w8", vec![]));
    nodes.insert(17, NodeProto { attribute: vec![axis0()], ..node("Concat", &["one1", "h8", "w8"], "to5", vec![]) });
    nodes[18].input[1] = "to5".into();
    let lists: Vec<(&str, &[i64])> =
        lists.iter().copied().chain([("four", [4].as_slice()), ("one1", [1, 1].as_slice())]).collect();
    let facts = facts(&model(nodes, &[("a", &[16, 4, 3, 3])], &lists));
    assert_eq!((facts.scale, facts.multiple, facts.reach), (2, 2, Some(2)), "{:?}", facts.remarks);
    assert_eq!((facts.halo, facts.open.halo), (2, false));
}

#[test]
fn what_depends_on_everything_says_so() {
    let pool = vec![
        node("Conv", &["in", "a"], "x", vec![ints("pads", &[1, 1, 1, 1])]),
        node("GlobalAveragePool", &["x"], "mean", vec![]),
        node("Mul", &["x", "mean"], "out", vec![]),
    ];
    let facts = facts(&model(pool, &[("a", &[1, 1, 3, 3])], &[]));
    assert!(facts.global && facts.open.halo && facts.reach == Some(1) && facts.scale == 1);
    assert!(facts.remarks.iter().any(|r| r.contains("GlobalAveragePool")));
}

#[test]
fn unknown_operations_leave_the_halo_to_probing() {
    let odd = vec![
        node("Conv", &["in", "a"], "x", vec![ints("pads", &[1, 1, 1, 1])]),
        node("OddOperation", &["x"], "y", vec![]),
        node("Add", &["x", "y"], "out", vec![]),
    ];
    let facts = facts(&model(odd, &[("a", &[1, 1, 3, 3])], &[]));
    assert!(facts.open.halo && facts.open.scale && facts.reach.is_none() && facts.tail.is_none());
}

#[test]
fn strides_make_multiples_and_writing_beside_goes_first() {
    let u_net = vec![
        node("Conv", &["in", "a"], "x", vec![ints("pads", &[1, 1, 1, 1]), ints("strides", &[2, 2])]),
        node("ConvTranspose", &["x", "b"], "y", vec![ints("strides", &[2, 2])]),
        node("Add", &["in", "y"], "out", vec![]),
    ];
    let bytes = model(u_net, &[("a", &[1, 1, 3, 3]), ("b", &[1, 1, 2, 2])], &[]);
    let found = facts(&bytes);
    assert_eq!((found.scale, found.multiple, found.reach, found.halo), (1, 2, Some(1), 2));
    let given = Given { halo: Some(5), white: Some(255), ..Default::default() };
    let written = ModelFile::parse_with("m", &bytes, given).unwrap().facts;
    assert_eq!((written.halo, written.white, written.open.white), (6, 255, false));
    let wrong = Given { scale: Some(3), ..Default::default() };
    assert_eq!(Fault::of(&ModelFile::parse_with("m", &bytes, wrong).unwrap_err()), Fault::Unsupported);
    let wrong = Given { channels: Some(3), ..Default::default() };
    assert!(ModelFile::parse_with("m", &bytes, wrong).unwrap_err().to_string().contains("channels = 3"));
}

/// Numbers that no file should have end in an answer, whatever it is.
#[test]
fn absurd_numbers_are_survived() {
    let int = |name: &str, i: i64| AttributeProto {
        name: Some(name.into()),
        i: Some(i),
        kind: Some(2),
        ..Default::default()
    };
    for big in [i64::MAX, i64::MIN, i64::MAX / 2, 1 << 40, 1 << 12, -1, 0] {
        let lists: Vec<(&str, Vec<i64>)> = vec![
            ("four", vec![1, 1, big, big]),
            ("pads", vec![0, 0, big, big, 0, 0, big, big]),
            ("axes", vec![2, 3]),
            ("two", vec![big, big]),
        ];
        let lists: Vec<(&str, &[i64])> = lists.iter().map(|(name, list)| (*name, list.as_slice())).collect();
        let odd = |name: &str| vec![ints(name, &[big, big]), ints("kernel_shape", &[3, 3])];
        let nodes = [
            node("Conv", &["x", "a"], "y", odd("strides")),
            node("Conv", &["x", "a"], "y", odd("dilations")),
            node("Conv", &["x", "a"], "y", vec![ints("kernel_shape", &[big, big])]),
            node("Conv", &["x", "a"], "y", vec![ints("pads", &[big; 4])]),
            node("Conv", &["x", "a"], "y", vec![int("group", big)]),
            node("ConvTranspose", &["x", "a"], "y", odd("strides")),
            node("ConvTranspose", &["x", "a"], "y", odd("output_padding")),
            node("ConvTranspose", &["x", "a"], "y", vec![int("group", big)]),
            node("MaxPool", &["x"], "y", odd("strides")),
            node("DepthToSpace", &["x"], "y", vec![int("blocksize", big)]),
            node("SpaceToDepth", &["x"], "y", vec![int("blocksize", big)]),
            node("Pad", &["x", "pads"], "y", vec![]),
            node("Tile", &["x", "four"], "y", vec![]),
            node("Reshape", &["x", "four"], "y", vec![]),
            node("Expand", &["x", "four"], "y", vec![]),
            node("Resize", &["x", "", "", "four"], "y", vec![]),
            node("Slice", &["x", "two", "two", "axes", "two"], "y", vec![]),
            node("Gather", &["x", "two"], "y", vec![int("axis", big)]),
            node("Concat", &["x", "x"], "y", vec![int("axis", big)]),
            node("Softmax", &["x"], "y", vec![int("axis", big)]),
            node("Split", &["x", "two"], "y", vec![int("axis", big)]),
            node("Transpose", &["x"], "y", vec![ints("perm", &[big; 4])]),
            node("Unsqueeze", &["x", "two"], "y", vec![]),
            node("ConstantOfShape", &["four"], "y", vec![]),
        ];
        for odd in nodes {
            let chain = vec![node("Relu", &["in"], "x", vec![]), odd, node("Add", &["y", "x"], "out", vec![])];
            let _ = ModelFile::parse("m", &model(chain, &[("a", &[1, 1, 3, 3])], &lists));
        }
    }
}

#[test]
fn what_mixes_samples_is_not_moved_before_the_shuffle() {
    let int = |name: &str, i: i64| AttributeProto { i: Some(i), kind: Some(2), ..ints(name, &[]) };
    let weights: &[(&str, &[i64])] = &[("a", &[4, 1, 3, 3]), ("one", &[1])];
    let last = |node: NodeProto| {
        let start = vec![
            self::node("Conv", &["in", "a"], "x", vec![ints("pads", &[1; 4])]),
            self::node("DepthToSpace", &["x"], "y", vec![int("blocksize", 2)]),
        ];
        let facts = facts(&model(start.into_iter().chain([node]).collect(), weights, &[]));
        assert_eq!((facts.scale, facts.halo), (2, 1));
        facts.tail
    };
    assert!(last(node("Relu", &["y"], "out", vec![])).is_some());
    assert!(last(node("Softmax", &["y"], "out", vec![int("axis", 1)])).is_none());
    assert!(last(node("LRN", &["y"], "out", vec![int("size", 3)])).is_none());
    assert!(last(node("BatchNormalization", &["y", "one", "one", "one", "one"], "out", vec![])).is_none());
}

/// Axes and lists that double at every step would fill any memory.
#[test]
fn what_doubles_at_every_step_is_left_unknown() {
    let int = |i: i64| AttributeProto { i: Some(i), kind: Some(2), ..ints("axis", &[]) };
    let doubling = |kind: &str, first: &str| {
        let step = |n: usize| {
            let from = if n == 0 { first.to_owned() } else { format!("t{}", n - 1) };
            node(kind, &[&from, &from], &format!("t{n}"), vec![int(0)])
        };
        let nodes: Vec<NodeProto> = (0..60).map(step).chain([node("Relu", &["in"], "out", vec![])]).collect();
        let bytes = model(nodes, &[], &[("list", &[2, 3])]);
        let file = ModelFile::parse("m", &bytes).unwrap();
        let index = GraphIndex::new(file.graph());
        let shapes = Shapes::find(&index, "in", [1, 1, 8, 8]);
        let known = (0..60).filter(|n| shapes.dims(&format!("t{n}")).is_some()).count();
        let probe = |name: String| node("Relu", &[&name], "r", vec![]);
        let longest = (0..60).filter_map(|n| Some(shapes.values(&probe(format!("t{n}")), 0)?.len())).max();
        (known, longest.unwrap_or(0))
    };
    let (known, _) = doubling("Gather", "in");
    assert!(known <= 3, "{known}");
    let (_, longest) = doubling("Concat", "list");
    assert_eq!(longest, 64);
}

/// Scale, channels, halo and tail of models that people have.
#[test]
fn models_that_people_have() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models");
    if !folder.is_dir() {
        eprintln!("not tested: no models in {}", folder.display());
        return;
    }
    // Scale, channels, halo, residual of the cut (none: not cut).
    let known: &[(&str, u32, u32, u32, Option<bool>)] = &[
        ("artcnn-c4f16-x2-luma", 2, 1, 7, Some(false)),
        ("espcn-x3-luma", 3, 1, 4, Some(false)),
        ("fsrcnn-x3-luma", 3, 1, 6, Some(false)),
        ("pytorch_super_resolution", 3, 1, 5, Some(false)),
        ("realesr-animevideov3-x4", 4, 3, 18, Some(true)),
        // A reduction takes two samples more at four times the size: one source pixel at most.
        ("realesr-animevideov3-x2", 2, 3, 19, None),
        ("realesr-animevideov3-x3", 3, 3, 19, None),
        ("realesr-general-x4v3", 4, 3, 34, Some(true)),
        ("realesr-general-x4v3-fp16", 4, 3, 34, Some(true)),
        ("waifu2x-upconv7-photo-noise1-x2", 2, 3, 7, None),
        ("helper-nearest-x2-rgb", 2, 3, 0, None),
        ("helper-bicubic-x4-rgb", 4, 3, 2, None),
    ];
    for &(name, scale, channels, halo, residual) in known {
        let file = ModelFile::open(folder.join(format!("{name}.onnx")).to_str().unwrap()).unwrap();
        let facts = &file.facts;
        let tail = facts.tail.as_ref().map(|t| t.residual);
        assert_eq!((facts.scale, facts.channels, facts.halo, tail), (scale, channels, halo, residual), "{name}");
        assert!(facts.reach == Some(halo) && facts.multiple == 1 && !facts.open.halo, "{name} {facts:?}");
    }
}
