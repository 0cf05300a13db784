//! The engine: networks run on tiles. The only home of `ort` (ONNX Runtime).

pub mod models;
pub mod pixels;
pub mod planning;
pub mod runtime;

pub mod diffusion;
#[cfg(test)]
mod imported_tests;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;
