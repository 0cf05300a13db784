//! Writes ONNX graphs: one input and one output picture of any size, f32, operation set 17.

use crate::models::onnx::{
    AttributeProto, Dimension, FLOAT, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto,
};

use super::weights::Tensor;

/// ONNX's `IR_VERSION` and operation set.
const IR: i64 = 8;
const OPERATIONS: u8 = 17;
/// Numbers of `AttributeProto.AttributeType`.
const A_FLOAT: i32 = 1;
const A_INT: i32 = 2;
const A_STRING: i32 = 3;
const A_INTS: i32 = 7;

/// Names of the graph's input and output.
pub(super) const INPUT: &str = "input";
pub(super) const OUTPUT: &str = "output";

/// A convolution's numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conv<'w> {
    /// Its name in the file.
    pub name: &'w str,
    /// `[out, in, kernel, kernel]`.
    pub weight: &'w Tensor,
    pub bias: Option<&'w Tensor>,
}

/// A graph being written, first operation first. Every method returns its result's name.
pub(super) struct Build {
    graph: GraphProto,
    named: usize,
}

impl Build {
    /// A graph that takes [`INPUT`], `[n, channels, h, w]`.
    pub(super) fn new(name: &str, channels: usize) -> Build {
        let graph =
            GraphProto { name: Some(name.to_owned()), input: vec![picture(INPUT, channels, "")], ..Default::default() };
        Build { graph, named: 0 }
    }

    /// A convolution with zero padding that keeps the size.
    pub(super) fn conv(&mut self, x: &str, conv: &Conv) -> String {
        let pad = conv.weight.dims.last().map_or(0, |k| k / 2) as i64;
        self.conv_with(x, conv, pad, 1)
    }

    /// A convolution with `pad` zeros around and a stride.
    pub(super) fn conv_with(&mut self, x: &str, conv: &Conv, pad: i64, stride: i64) -> String {
        let kernel: Vec<i64> = conv.weight.dims[2..].iter().map(|&k| k as i64).collect();
        let mut inputs = vec![x.to_owned(), self.constant(&format!("{}.weight", conv.name), conv.weight)];
        if let Some(bias) = conv.bias {
            inputs.push(self.constant(&format!("{}.bias", conv.name), bias));
        }
        let attributes = vec![ints("kernel_shape", &kernel), ints("pads", &[pad; 4]), ints("strides", &[stride; 2])];
        self.node("Conv", inputs, attributes)
    }

    /// A transposed convolution whose output is exactly `stride` times larger: `pad` is cut from
    /// it above and left, and the rest of `kernel - stride` below and right. Where that is less
    /// than nothing, as much is added there (`output_padding`).
    pub(super) fn conv_transpose(&mut self, x: &str, conv: &Conv, stride: i64, pad: i64) -> String {
        let kernel: Vec<i64> = conv.weight.dims[2..].iter().map(|&k| k as i64).collect();
        let after = kernel.first().map_or(0, |k| k - stride - pad);
        let more = (-after).max(0);
        let mut inputs = vec![x.to_owned(), self.constant(&format!("{}.weight", conv.name), conv.weight)];
        if let Some(bias) = conv.bias {
            inputs.push(self.constant(&format!("{}.bias", conv.name), bias));
        }
        let after = after.max(0);
        let pads = ints("pads", &[pad, pad, after, after]);
        let mut attributes = vec![ints("kernel_shape", &kernel), pads, ints("strides", &[stride; 2])];
        if more > 0 {
            attributes.push(ints("output_padding", &[more; 2]));
        }
        self.node("ConvTranspose", inputs, attributes)
    }

    /// An operation without attributes.
    pub(super) fn plain(&mut self, operation: &str, inputs: &[&str]) -> String {
        self.node(operation, inputs.iter().map(|i| (*i).to_owned()).collect(), Vec::new())
    }

    pub(super) fn leaky_relu(&mut self, x: &str, slope: f32) -> String {
        let alpha = AttributeProto { f: Some(slope), ..attribute("alpha", A_FLOAT) };
        self.node("LeakyRelu", vec![x.to_owned()], vec![alpha])
    }

    /// PReLU of one slope a channel, or of one slope for all.
    pub(super) fn prelu(&mut self, x: &str, name: &str, slopes: &Tensor) -> String {
        if let [slope] = slopes.data.as_slice() {
            return self.leaky_relu(x, *slope);
        }
        let slopes = Tensor { dims: vec![slopes.data.len(), 1, 1], data: slopes.data.clone() };
        let slopes = self.constant(name, &slopes);
        self.node("PRelu", vec![x.to_owned(), slopes], Vec::new())
    }

    /// `x` combined with the same number for all, by `Mul`, `Sub` and the like.
    pub(super) fn with_number(&mut self, operation: &str, x: &str, number: f32) -> String {
        let name = format!("number_{number}");
        let name = self.constant(&name, &Tensor { dims: vec![], data: vec![number] });
        self.plain(operation, &[x, &name])
    }

    /// `x` combined with one number a channel.
    pub(super) fn with_channels(&mut self, operation: &str, x: &str, name: &str, numbers: &[f32]) -> String {
        let tensor = Tensor { dims: vec![1, numbers.len(), 1, 1], data: numbers.to_vec() };
        let name = self.constant(name, &tensor);
        self.plain(operation, &[x, &name])
    }

    /// Channels of all, one after the other.
    pub(super) fn concat(&mut self, inputs: &[&str]) -> String {
        let axis = AttributeProto { i: Some(1), ..attribute("axis", A_INT) };
        self.node("Concat", inputs.iter().map(|i| (*i).to_owned()).collect(), vec![axis])
    }

    /// PyTorch's pixel shuffle: channel `c*s*s + dy*s + dx` goes to `(y*s + dy, x*s + dx)`.
    pub(super) fn pixel_shuffle(&mut self, x: &str, scale: usize) -> String {
        let block = AttributeProto { i: Some(scale as i64), ..attribute("blocksize", A_INT) };
        self.node("DepthToSpace", vec![x.to_owned()], vec![block, text("mode", "CRD")])
    }

    /// Each pixel `scale` times in both directions.
    pub(super) fn nearest(&mut self, x: &str, scale: usize) -> String {
        let scales = Tensor { dims: vec![4], data: vec![1.0, 1.0, scale as f32, scale as f32] };
        let scales = self.constant(&format!("scales_{scale}"), &scales);
        let attributes = vec![
            text("coordinate_transformation_mode", "asymmetric"),
            text("mode", "nearest"),
            text("nearest_mode", "floor"),
        ];
        self.node("Resize", vec![x.to_owned(), String::new(), scales], attributes)
    }

    /// The whole model; `last` becomes [`OUTPUT`].
    pub(super) fn finish(mut self, last: &str, channels: usize) -> ModelProto {
        for node in &mut self.graph.node {
            for name in node.output.iter_mut().chain(&mut node.input).filter(|name| *name == last) {
                *name = OUTPUT.to_owned();
            }
        }
        self.graph.output.push(picture(OUTPUT, channels, "out_"));
        ModelProto {
            ir_version: Some(IR),
            producer_name: Some("upscaled".into()),
            opset_import: vec![vec![0x10, OPERATIONS]], // field 2, version
            graph: Some(self.graph),
            ..Default::default()
        }
    }

    fn node(&mut self, operation: &str, input: Vec<String>, attribute: Vec<AttributeProto>) -> String {
        self.named += 1;
        let name = format!("{}_{}", operation.to_lowercase(), self.named);
        self.graph.node.push(NodeProto {
            name: Some(name.clone()),
            op_type: Some(operation.to_owned()),
            input,
            output: vec![name.clone()],
            attribute,
            ..Default::default()
        });
        name
    }

    /// Adds a constant unless one of the name is there.
    fn constant(&mut self, name: &str, tensor: &Tensor) -> String {
        if !self.graph.initializer.iter().any(|t| t.name.as_deref() == Some(name)) {
            self.graph.initializer.push(constant(name, &tensor.dims, &tensor.data));
        }
        name.to_owned()
    }
}

/// An f32 tensor stored in the file.
pub fn constant(name: &str, dims: &[usize], data: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.iter().map(|&d| d as i64).collect(),
        data_type: Some(FLOAT),
        raw_data: Some(data.iter().flat_map(|v| v.to_le_bytes()).collect()),
        ..Default::default()
    }
}

fn attribute(name: &str, kind: i32) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), kind: Some(kind), ..Default::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { ints: values.to_vec(), ..attribute(name, A_INTS) }
}

fn text(name: &str, value: &str) -> AttributeProto {
    AttributeProto { s: Some(value.as_bytes().to_vec()), ..attribute(name, A_STRING) }
}

/// A picture of free count, height and width.
fn picture(name: &str, channels: usize, prefix: &str) -> ValueInfoProto {
    let mut info = ValueInfoProto::float_tensor(name, [1, channels, 1, 1]);
    if let Some(shape) = info.kind.as_mut().and_then(|k| k.tensor.as_mut()).and_then(|t| t.shape.as_mut()) {
        for (at, param) in [(0, "n".to_owned()), (2, format!("{prefix}h")), (3, format!("{prefix}w"))] {
            shape.dim[at] = Dimension { param: Some(param), ..Default::default() };
        }
    }
    info
}
