//! Jobs that survive any crash: state on disk, the RAM disk, the pipeline, one job from its plan to its published file.

pub mod job;
pub mod pipeline;
pub mod scratch;
pub mod state;
