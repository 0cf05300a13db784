//! For tests: the small networks of tests/make_fixtures.py, and imported ones made runnable.

use std::path::{Path, PathBuf};

use prost::Message;

use crate::network::model_file::Network;
use crate::network::onnx::{ModelProto, ValueInfoProto};
use crate::tile::stitch::Layout;

/// A file of weights, a picture, and what PyTorch makes of it.
pub struct Case {
    pub path: PathBuf,
    pub input_dims: [usize; 4],
    pub input: Vec<f32>,
    pub output_dims: [usize; 4],
    pub output: Vec<f32>,
}

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/networks")
}

/// All fixtures, by name.
pub fn cases() -> Vec<Case> {
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
pub fn model(path: &Path) -> ModelProto {
    ModelProto::decode(&std::fs::read(path).unwrap()[..]).unwrap()
}

/// The whole graph of a model at one size, as a session takes it.
pub fn runnable(model: &ModelProto, input_dims: [usize; 4], output_dims: [usize; 4]) -> Network {
    let mut model = model.clone();
    let graph = model.graph.as_mut().unwrap();
    let constants: Vec<_> = graph.initializer.iter().map(|t| t.name.clone()).collect();
    graph.input.retain(|i| !constants.contains(&i.name));
    let (input, output) = (graph.input[0].name.clone().unwrap(), graph.output[0].name.clone().unwrap());
    graph.input = vec![ValueInfoProto::float_tensor(&input, input_dims)];
    graph.output = vec![ValueInfoProto::float_tensor(&output, output_dims)];
    graph.value_info.clear();
    let bytes = model.encode_to_vec();
    Network { bytes, input, output, input_dims, output_dims, layout: Layout::Plane, residual: false, half: false }
}

/// Largest difference over largest magnitude.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    a.iter().zip(b).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / largest
}
