//! The engine: networks run on tiles. The only home of `ort` (ONNX Runtime).

pub mod enlarge;
pub mod pool;
pub mod probe;
mod probe_picture;
pub mod provider;
pub mod runtime;
pub mod session;
#[cfg(test)]
pub mod testing;
pub mod tune;
pub mod worker;
