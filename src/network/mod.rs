//! Networks as files: read, described, rewritten, never run. The only home of `prost`.

pub mod facts;
pub mod import;
pub mod model_file;
pub mod onnx;
pub mod prelu;
#[cfg(test)]
pub mod testing;
