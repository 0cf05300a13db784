//! Small random models, and pins of models, for tests, written by our own ONNX writer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests: what goes wrong in them fails the test"
)]

use prost::Message;

use upscaled_core::types::engine::{EngineSpec, Precision, Provider};

use crate::models::model_file::ModelFile;
use crate::models::onnx::*;

/// A network of three 3x3 convolutions (halo 3) with random weights.
#[derive(Clone, Copy, Debug)]
pub struct TestModel {
    pub seed: u64,
    pub scale: usize,
    pub channels: usize,
    /// The input is added: to the phases (luma), or, repeated, after the pixel shuffle (RGB).
    pub residual: bool,
    /// The pixel shuffle takes its planes in DCR order.
    pub dcr: bool,
    /// One of the convolutions has no padding.
    pub valid: bool,
    /// An operation in the middle that cannot be tiled.
    pub odd_operation: Option<&'static str>,
    /// Factor on the last layer: large ones overflow; with 0 a residual model repeats its input.
    pub gain: f32,
    /// Added to the last layer's biases.
    pub lift: f32,
    /// Instead of random weights: repeats its input (luma), by way of numbers around
    /// [`BEYOND_SHORT`], beside which bf16 and f16 have no room for it.
    pub detour: bool,
    /// No picture of the batch comes out.
    pub empty: bool,
}

/// Numbers of 0..1 are lost beside it in bf16 (steps of 32) and f16 (4), not in f32 (1/2048).
const BEYOND_SHORT: f32 = 4096.0;

impl Default for TestModel {
    fn default() -> Self {
        let (residual, dcr, valid) = (true, false, false);
        TestModel {
            seed: 1,
            scale: 2,
            channels: 1,
            residual,
            dcr,
            valid,
            odd_operation: None,
            gain: 1.0,
            lift: 0.0,
            detour: false,
            empty: false,
        }
    }
}

impl TestModel {
    /// The model as a file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut state = self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut random = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        let mut graph = GraphProto { name: Some("test".into()), ..Default::default() };
        let phases = self.scale * self.scale * self.channels;
        let mut last = "in".to_owned();
        for (n, (from, to)) in [(self.channels, 6), (6, 6), (6, phases)].into_iter().enumerate() {
            let gain = if n == 2 { self.gain } else { 1.0 };
            graph.initializer.push(tensor(&format!("w{n}"), &[to, from, 3, 3], || random() * gain));
            let lift = if n == 2 { self.lift } else { 0.0 };
            graph.initializer.push(tensor(&format!("b{n}"), &[to], || random() * 0.1 * gain + lift));
            let pad = i64::from(!(self.valid && n == 1));
            let pads = AttributeProto { ints: vec![pad; 4], ..attribute("pads", 7) };
            let inputs = [last.clone(), format!("w{n}"), format!("b{n}")];
            graph.node.push(node("Conv", &inputs, &format!("c{n}"), vec![pads]));
            last = format!("c{n}");
            if n < 2 {
                let kind = self.odd_operation.filter(|_| n == 0).unwrap_or("Relu");
                graph.node.push(node(kind, &[last], &format!("r{n}"), Vec::new()));
                last = format!("r{n}");
            }
        }
        if self.detour {
            // Of each kernel only the middle of the first plane.
            for (n, to) in [6, 6, phases].into_iter().enumerate() {
                let from = if n == 0 { self.channels } else { 6 };
                let mut at = 0;
                let middle = || {
                    at += 1;
                    f32::from(u8::from((at - 1) % (from * 9) == 4))
                };
                graph.initializer[2 * n] = tensor(&format!("w{n}"), &[to, from, 3, 3], middle);
                let bias = [BEYOND_SHORT, 0.0, -BEYOND_SHORT][n];
                graph.initializer[2 * n + 1] = tensor(&format!("b{n}"), &[to], || bias);
            }
        }
        if self.residual && self.channels == 1 {
            graph.node.push(node("Add", &[last, "in".into()], "sum", Vec::new()));
            last = "sum".into();
        }
        let block = AttributeProto { i: Some(self.scale as i64), ..attribute("blocksize", 2) };
        let order: &[u8] = if self.dcr { b"DCR" } else { b"CRD" };
        let mode = AttributeProto { s: Some(order.to_vec()), ..attribute("mode", 3) };
        let repeated = self.residual && self.channels > 1;
        let shuffled = if repeated { "shuffled" } else { "out" };
        graph.node.push(node("DepthToSpace", &[last], shuffled, vec![block, mode]));
        if repeated {
            let factor = self.scale as f32;
            graph.initializer.push(TensorProto::of_floats("factors", &[4], [1.0, 1.0, factor, factor]));
            let text = |name, value: &[u8]| AttributeProto { s: Some(value.to_vec()), ..attribute(name, 3) };
            let how = vec![text("coordinate_transformation_mode", b"asymmetric"), text("nearest_mode", b"floor")];
            graph.node.push(node("Resize", &["in".into(), String::new(), "factors".into()], "base", how));
            graph.node.push(node("Add", &[shuffled.into(), "base".into()], "out", Vec::new()));
        }
        if self.empty {
            if let Some(name) = graph.node.last_mut().and_then(|node| node.output.first_mut()) {
                *name = "all".into();
            }
            graph.initializer.push(TensorProto::of_integers("none", &[0]));
            graph.node.push(node("Slice", &["all", "none", "none", "none"].map(String::from), "out", Vec::new()));
        }
        graph.input.push(free("in", self.channels));
        graph.output.push(free("out", self.channels));
        let opset = vec![0x10, 17]; // version = 17
        let model =
            ModelProto { ir_version: Some(8), graph: Some(graph), opset_import: vec![opset], ..Default::default() };
        model.encode_to_vec()
    }
}

fn node(kind: &str, inputs: &[String], output: &str, attribute: Vec<AttributeProto>) -> NodeProto {
    let (input, output) = (inputs.to_vec(), vec![output.to_owned()]);
    NodeProto { op_type: Some(kind.into()), input, output, attribute, ..Default::default() }
}

fn attribute(name: &str, kind: i32) -> AttributeProto {
    AttributeProto { name: Some(name.into()), kind: Some(kind), ..Default::default() }
}

fn tensor(name: &str, dims: &[usize], mut value: impl FnMut() -> f32) -> TensorProto {
    let count: usize = dims.iter().product();
    TensorProto {
        name: Some(name.into()),
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: Some(FLOAT),
        raw_data: Some((0..count).flat_map(|_| value().to_le_bytes()).collect()),
        ..Default::default()
    }
}

fn free(name: &str, channels: usize) -> ValueInfoProto {
    let mut info = ValueInfoProto::float_tensor(name, [1, channels, 1, 1]);
    let dims = info.kind.as_mut().and_then(|k| k.tensor.as_mut()).and_then(|t| t.shape.as_mut()).unwrap();
    for (at, param) in [(0, "n"), (2, "h"), (3, "w")] {
        dims.dim[at] = Dimension { param: Some(format!("{name}_{param}")), ..Default::default() };
    }
    info
}

/// A pin of a model on the CPU provider with tiles of the given core.
pub fn pin(model: &ModelFile, (tile_width, tile_height): (u32, u32)) -> EngineSpec {
    EngineSpec {
        model: model.name.clone(),
        model_hash: model.hash.clone(),
        model_scale: model.facts.scale,
        passes: 1,
        channels: model.facts.channels,
        white: model.facts.white,
        picture: None,
        provider: Provider::Cpu,
        device: 0,
        precision: Precision::F32,
        tile_width,
        tile_height,
        halo: model.facts.halo,
        batch: 1,
        sessions: 1,
        threads: 1,
        reuse: true,
        diffusion: None,
    }
}
