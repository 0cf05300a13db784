//! Plain values shared by every layer: no I/O, no outside library but serde.

pub mod encoder;
pub mod engine;
pub mod frame;
pub mod plan;
pub mod progress;
pub mod source;
pub mod status;
pub mod user_data;
