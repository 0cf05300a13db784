//! Networks as files: read, described, rewritten, never run. The only home of `prost`.

pub mod facts;
pub mod footprint;
pub mod model_file;
pub mod onnx;
#[cfg(test)]
pub mod testing;
