//! Running networks: ONNX Runtime, sessions, threads, tiles, and what happens when memory runs out.

pub mod batcher;
pub mod cache;
pub mod cascade;
pub mod library;
pub mod machine;
pub mod oom_fallback;
pub mod pool;
pub mod provider;
pub mod session;
pub mod tiled;
pub(crate) mod time_limit;
pub mod worker;
