//! The engine: networks run on tiles. The only home of `ort` (ONNX Runtime) and `prost`.

pub mod facts;
pub mod luma;
pub mod model_file;
pub mod onnx;
pub mod pool;
pub mod provider;
pub mod runtime;
pub mod session;
#[cfg(test)]
pub mod testing;
pub mod tune;
