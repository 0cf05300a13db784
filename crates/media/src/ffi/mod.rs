//! The only home of unsafe code: FFmpeg calls that its safe bindings lack, and a file lease.

pub(super) mod input;
pub mod lease;
pub(super) mod log;
pub(super) mod muxer;
mod muxer_header;
pub(super) mod output;
pub(super) mod picture;
pub(super) mod scratch;
pub(super) mod tags;
