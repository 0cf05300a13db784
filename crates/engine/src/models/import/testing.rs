//! For tests: the small networks of tests/make_fixtures.py, and imported ones made runnable.

use std::path::{Path, PathBuf};

use prost::Message;

use super::recognise::recognise;
use super::weights::{Tensor, Weights};
use crate::models::model_file::ShapedNetwork;
use crate::models::onnx::{ModelProto, ValueInfoProto};
use crate::pixels::stitch::OutputLayout;

/// A file of weights, a picture, and what PyTorch makes of it.
pub(crate) struct Case {
    pub path: PathBuf,
    pub input_dims: [usize; 4],
    pub input: Vec<f32>,
    pub output_dims: [usize; 4],
    pub output: Vec<f32>,
}

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/networks")
}

/// All fixtures, by name.
pub(crate) fn cases() -> Vec<Case> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "io")).map(|io| case(&io)).collect()
}

fn case(io: &Path) -> Case {
    let bytes = std::fs::read(io).unwrap();
    let (head, numbers) = bytes.split_at(32);
    let dims: Vec<usize> = head.as_chunks::<4>().0.iter().map(|d| u32::from_le_bytes(*d) as usize).collect();
    let (input_dims, output_dims) = (dims[..4].try_into().unwrap(), dims[4..].try_into().unwrap());
    let numbers: Vec<f32> = numbers.as_chunks::<4>().0.iter().map(|n| f32::from_le_bytes(*n)).collect();
    let (input, output) = numbers.split_at(dims[..4].iter().product());
    Case { path: io.with_extension(""), input_dims, input: input.into(), output_dims, output: output.into() }
}

/// An ONNX file.
pub(crate) fn model(path: &Path) -> ModelProto {
    ModelProto::decode(&std::fs::read(path).unwrap()[..]).unwrap()
}

/// An SRVGGNetCompact of random weights.
pub(crate) fn compact(channels: usize, width: usize, depth: usize, scale: usize) -> ModelProto {
    let mut weights = Weights::default();
    let mut state = 5u32;
    let mut random = |dims: &[usize], gain: f32| {
        let next = |_| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            ((state >> 8) as f32 / (1 << 24) as f32 - 0.5) * gain
        };
        Tensor { dims: dims.to_vec(), data: (0..dims.iter().product()).map(next).collect() }
    };
    for n in 0..depth + 2 {
        let from = if n == 0 { channels } else { width };
        let to = if n == depth + 1 { channels * scale * scale } else { width };
        let gain = 2.0 / (from as f32).sqrt();
        weights.add(&format!("body.{}.weight", 2 * n), random(&[to, from, 3, 3], gain)).unwrap();
        weights.add(&format!("body.{}.bias", 2 * n), random(&[to], 0.1)).unwrap();
        if n <= depth {
            weights.add(&format!("body.{}.weight", 2 * n + 1), random(&[to], 0.8)).unwrap();
        }
    }
    recognise(&weights, "").unwrap().model
}

/// The whole graph of a model at one size, as a session takes it.
pub(crate) fn runnable(model: &ModelProto, input_dims: [usize; 4], output_dims: [usize; 4]) -> ShapedNetwork {
    let mut model = model.clone();
    let graph = model.graph.as_mut().unwrap();
    let constants: Vec<_> = graph.initializer.iter().map(|t| t.name.clone()).collect();
    graph.input.retain(|i| !constants.contains(&i.name));
    let (input, output) = (graph.input[0].name.clone().unwrap(), graph.output[0].name.clone().unwrap());
    graph.input = vec![ValueInfoProto::float_tensor(&input, input_dims)];
    graph.output = vec![ValueInfoProto::float_tensor(&output, output_dims)];
    graph.value_info.clear();
    let bytes = model.encode_to_vec();
    ShapedNetwork { bytes, input, output, input_dims, output_dims, layout: OutputLayout::Plane, residual: false }
}

/// Largest difference over largest magnitude.
pub(crate) fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}

/// A safetensors file of named tensors.
pub(crate) fn safetensors(tensors: &[(String, Vec<usize>, Vec<f32>)]) -> Vec<u8> {
    let raw = |data: &[f32]| data.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, _, data)| raw(data)).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, dims, _), bytes)| {
        (name, ::safetensors::tensor::TensorView::new(::safetensors::Dtype::F32, dims.clone(), bytes).unwrap())
    });
    ::safetensors::serialize(views, None).unwrap()
}
