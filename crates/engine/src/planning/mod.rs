//! Decides before a job's first frame: model, provider, precision, tiles, threads.

pub mod autotune;
pub mod benchmark;
pub mod choice;
pub mod precision;
pub mod probe;
pub(crate) mod probe_picture;
pub mod test_picture;
pub mod tiling;
