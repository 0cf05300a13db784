//! The engine: networks run on tiles. The only home of `ort` (ONNX Runtime).

#[cfg(test)]
mod imported_tests;
pub mod luma;
pub mod pool;
pub mod provider;
pub mod runtime;
pub mod session;
#[cfg(test)]
pub mod testing;
pub mod tune;
