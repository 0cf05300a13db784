//! The only home of unsafe code: FFmpeg calls that its safe bindings lack.

pub(super) mod capture;
pub(super) mod input;
pub(super) mod log;
pub(super) mod muxer;
pub(super) mod output;
pub(super) mod picture;
