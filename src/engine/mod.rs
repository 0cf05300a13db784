//! The engine: networks run on tiles. The only home of `ort` (ONNX Runtime).

pub mod autotune;
pub mod cache;
pub mod cascade;
pub mod cut;
pub mod diffusion;
pub mod enlarge;
#[cfg(test)]
mod imported_tests;
pub mod ladder;
pub mod machine;
pub mod pieces;
pub mod pool;
pub mod precision;
pub mod probe;
mod probe_picture;
pub mod provider;
pub mod race;
pub mod runtime;
pub mod sample;
pub mod session;
#[cfg(test)]
pub mod testing;
mod time_limit;
pub mod tune;
pub mod worker;
